"""Training on CPUs in bfloat16: a copy of the network does the work beside the float32 weights that are trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from .group_norm import replace_group_norms


@final
class BFloat16Copy:
    """A copy of a network in bfloat16 and channels_last, which takes its gradients.

    Autocast casts every weight in every pass; the copy is cast once for each step. What is trained, averaged and saved
    are the float32 weights of `master`, which lie contiguously, as optimisers want them.

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
        for parameter in self.network.parameters():  # buffers, such as running means, stay in float32
            layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
            parameter.data = parameter.data.to(torch.bfloat16, memory_format=layout)

    def pull_gradients(self) -> None:
        """Move the gradients of the copy to the master, and its buffers as they were left."""
        pairs = list(zip(self.master.parameters(), self.network.parameters(), strict=True))
        with_gradient = [(own, copied) for own, copied in pairs if copied.grad is not None]
        gradients = [torch.empty_like(own) for own, _ in with_gradient]
        _copy(gradients, [copied.grad for _, copied in with_gradient if copied.grad is not None])
        for (own, copied), gradient in zip(with_gradient, gradients, strict=True):
            own.grad, copied.grad = gradient, None
        _copy(list(self.master.buffers()), list(self.network.buffers()))

    @torch.no_grad()
    def push_weights(self) -> None:
        """Give the copy the weights of the master."""
        _copy(list(self.network.parameters()), list(self.master.parameters()))


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(list(targets), list(sources))
