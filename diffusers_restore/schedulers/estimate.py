"""What a zero-shot method knows at a step of its chain, whatever the network predicts and was trained for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import torch
from torch import Tensor

from ..errors import InvalidInputError

Model = Callable[[Tensor, int], Tensor]
"""(x_t (B, C, H, W), timestep) -> the network's output (B, C or 2C, H, W), guided if the chain is."""


@dataclass(frozen=True)
class Estimate:
    """The network's estimate at one noise level, in VE form: x = x0 + sigma z = x0_hat + sigma epsilon_hat.

    All tensors are (B, C, H, W); pictures are in [-1, 1], and noise levels are in that unit.

    Attributes:
        x0_hat, epsilon_hat: the network's estimates of the picture and of the noise.
        noise: standard normal, drawn for this step.
        sigma: the noise level of x.
        sigma_next: that of the next timestep; 0 at the end of the chain.
        sigma_up: that of the state which is to be returned: sigma_next, or above it where the chain travels in time.
        timestep: that of sigma.
        evaluate: (x, timestep) -> (x0_hat, epsilon_hat), another evaluation of the network, at the level of that
            timestep; for methods with `needs_model`.
        pullback: v -> J^T v, J = d x0_hat / d x of the network, (B, C, H, W); for methods with `needs_gradient`. A
            classifier's guidance counts as constant. Each product is one pass back through the network.
    """

    x0_hat: Tensor
    epsilon_hat: Tensor
    noise: Tensor
    sigma: float
    sigma_next: float
    sigma_up: float
    timestep: int
    evaluate: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    pullback: Callable[[Tensor], Tensor]

    @cached_property
    def sample(self) -> Tensor:
        """The state x."""
        return torch.add(self.x0_hat, self.epsilon_hat, alpha=self.sigma)


def make_pullback(name: str, x0_hat: Tensor, sample: Tensor, alpha_bar: float) -> Callable[[Tensor], Tensor]:
    """v -> J^T v for J = d x0_hat / d x, x = sample / sqrt(alpha_bar), from the graph between the two.

    Args:
        name: of the method, for errors.
        x0_hat: computed from `sample` with gradients.
        sample: x_t in the scale of the network's input, which requires gradients.
        alpha_bar: of the timestep.
    """

    def pullback(v: Tensor) -> Tensor:
        if not sample.requires_grad or not x0_hat.requires_grad:
            raise InvalidInputError(
                f"{name} needs the gradient of the network: sample must require gradients, and model_output must be "
                "computed from it, with torch.enable_grad(): sample = sample.detach().requires_grad_(); "
                "model_output = unet(sample, t).sample"
            )
        # The graph is kept for further products; it is freed with the tensors.
        return torch.autograd.grad(x0_hat, sample, v.to(x0_hat.dtype), retain_graph=True)[0] * sqrt(alpha_bar)

    return pullback
