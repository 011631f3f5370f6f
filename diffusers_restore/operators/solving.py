"""Linear systems of operators without an SVD, solved by iteration."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], right: Tensor, *, max_iterations: int = 500, tolerance: float | None = None
) -> Tensor:
    """Solve M x = b for a symmetric positive (semi)definite M, each image of the batch on its own.

    Starting from zero, the solution stays in the range of M, so for M = A^T A and b = A^T y it is the pseudo-inverse.
    Each image stops moving once its residual is below `tolerance` |b| (default: ten units of rounding).
    """
    tolerance = 10 * torch.finfo(right.dtype).eps if tolerance is None else tolerance

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(1, 2, 3), keepdim=True)

    x, residual = torch.zeros_like(right), right
    direction, norm = residual, dot(residual, residual)
    stop = norm * tolerance**2
    for _ in range(min(max_iterations, 2 * prod(right.shape[1:]))):
        active = norm > stop
        if not bool(active.any()):
            break
        image = matrix(direction)
        curvature = dot(direction, image)
        step = torch.where(active & (curvature > 0), norm / curvature, 0.0)
        x = x + step * direction
        residual = residual - step * image
        new_norm = dot(residual, residual)
        direction = residual + torch.where(active, new_norm / norm, 0.0) * direction
        norm = torch.where(active, new_norm, norm)
    return x
