"""Training on CPUs in bfloat16: a copy of the network computes the gradients of the float32 weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from .group_norm import replace_group_norms

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@final
class BFloat16Copy:
    """A copy of a network with convolutions and linear layers in bfloat16, channels_last, which computes gradients.

    Autocast casts their weights in every pass; the copy's are cast once for each step. Everything else is in float32,
    as with autocast: norms, spectral norms and custom parameters don't support bfloat16 everywhere. The float32 weights
    of `master`, contiguous for the optimisers, are trained, averaged and saved.

    Args:
        master: the network, on a CPU; its weights are made contiguous.

    Attributes:
        master: as it was given.
        network: the copy, in training mode.
    """

    def __init__(self, master: nn.Module) -> None:
        nn.Module.to(master, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.master = master
        self.network = copy.deepcopy(master).train()
        replace_group_norms(self.network)
        for module in self.network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                cast = isinstance(module, (nn.Linear, *_CONVOLUTIONS)) and name in ("weight", "bias")
                dtype = torch.bfloat16 if cast and parameter.dtype == torch.float32 else parameter.dtype
                layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
                parameter.data = parameter.data.to(dtype, memory_format=layout)

    def pull_gradients(self) -> None:
        """Move the gradients of the copy to the master."""
        pairs = list(zip(self.master.parameters(), self.network.parameters(), strict=True))
        with_gradient = [(own, copied) for own, copied in pairs if copied.grad is not None]
        gradients = [torch.empty_like(own) for own, _ in with_gradient]
        _copy(gradients, [copied.grad for _, copied in with_gradient if copied.grad is not None])
        for (own, copied), gradient in zip(with_gradient, gradients, strict=True):
            own.grad, copied.grad = gradient, None

    def pull_buffers(self) -> None:
        """Give the master the buffers of the copy, such as running means."""
        _copy(list(self.master.buffers()), list(self.network.buffers()))

    def push_buffers(self) -> None:
        """Give the copy the buffers of the master."""
        _copy(list(self.network.buffers()), list(self.master.buffers()))

    @torch.no_grad()
    def push_weights(self) -> None:
        """Give the copy the weights of the master."""
        _copy(list(self.network.parameters()), list(self.master.parameters()))


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(list(targets), list(sources))
