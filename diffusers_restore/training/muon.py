"""Muon for the hidden convolutions of a network, AdamW for the rest (arXiv:2502.16982)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any, final, overload

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # takes singular values from (0, 1] to about 0.7 .. 1.2 in five steps
STEPS = 5
ADAM_SIZE = 0.2  # root mean square of an update of AdamW, which Muon's are scaled to
ENDS = ("conv_in", "conv_out")


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearly U V^T of matrices U S V^T, by X <- a X + (b X X^T + c (X X^T)^2) X, in bfloat16 (arXiv:2502.16982).

    Args:
        matrices: (k, rows, columns).
    """
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:  # the products are those of the shorter side
        x = x.mT
    x = x / (torch.linalg.matrix_norm(x.float(), keepdim=True) + 1e-7).bfloat16()
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def hidden_convolutions(network: nn.Module) -> list[Tensor]:
    """The weights of the convolutions between the first and the last, which diffusers calls conv_in and conv_out."""
    return [
        module.weight
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and name.rpartition(".")[2] not in ENDS
    ]


@final
class Muon(Optimizer):
    """Matrices step by W <- W - lr (0.2 sqrt(max(rows, columns)) O + wd W), O = orthogonalize(g + 0.95 m).

    m <- 0.95 m + g. A convolution's weight (out, in, h, w) is the matrix (out, in h w), that of a transposed one, (in,
    out, h, w), the matrix (in, out h w). Other parameters are stepped by AdamW.

    Args:
        matrices: parameters of 2 or more dimensions.
        others: for AdamW.
        lr: of AdamW.
        matrix_lr: of the matrices.
        betas, eps: of AdamW.
        weight_decay: wd, of both.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        lr: float,
        matrix_lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        common = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        groups = [
            # "fused" says that a resumed run's steps belong on the parameters' device
            {"params": list(others), "lr": lr, "matrices": False, "fused": True},
            {"params": list(matrices), "lr": matrix_lr, "matrices": True},
        ]
        super().__init__([group for group in groups if group["params"]], common)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[Tensor] = [one for one in group["params"] if one.grad is not None]
            gradients: list[Tensor] = [one.grad for one in parameters if one.grad is not None]
            if parameters:
                step = self._step_matrices if group["matrices"] else self._step_others
                step(group, parameters, gradients)
        return loss

    def _step_matrices(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[one]["momentum_buffer"] for one in parameters]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        updates = list(torch._foreach_add(gradients, momenta, alpha=MOMENTUM))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        alike: dict[tuple[int, int], list[int]] = {}
        for i, parameter in enumerate(parameters):
            alike.setdefault((len(parameter), parameter[0].numel()), []).append(i)
        for (rows, columns), places in alike.items():
            stacked = torch.stack([updates[i].reshape(rows, columns) for i in places])
            scale = group["lr"] * ADAM_SIZE * sqrt(max(rows, columns))
            for i, matrix in zip(places, orthogonalize(stacked), strict=True):
                parameters[i].add_(matrix.view(parameters[i].shape), alpha=-scale)

    def _step_others(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[one] for one in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            gradients,
            [one["exp_avg"] for one in states],
            [one["exp_avg_sq"] for one in states],
            [],
            [one["step"] for one in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
