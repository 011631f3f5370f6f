"""Steps from a noise level to the next one, in VE form."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor


def ddim(x0: Tensor, epsilon: Tensor, noise: Tensor, sigma_next: float, eta: float) -> Tensor:
    """x0 + sigma' (sqrt(1 - eta^2) epsilon + eta z): a share eta of the noise is new (arXiv:2010.02502)."""
    x = torch.add(x0, epsilon, alpha=sqrt(1 - eta**2) * sigma_next)
    return x.add_(noise, alpha=eta * sigma_next)


def ancestral(x0: Tensor, x: Tensor, noise: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The ancestral step of a DDPM (arXiv:2006.11239), x' ~ q(x' | x, x0): x0 + q (x - x0) + sigma' sqrt(1 - q) z.

    q = (sigma' / sigma)^2 is what is left of the state.
    """
    q = ancestral_share(sigma, sigma_next)
    return torch.lerp(x0, x, q).add_(noise, alpha=sigma_next * sqrt(1 - q))


def ancestral_share(sigma: float, sigma_next: float) -> float:
    """q of `ancestral`."""
    return (sigma_next / sigma) ** 2
