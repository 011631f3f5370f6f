"""Least squares of operators without an SVD, by iteration."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

_PINV = {torch.float32: 1e-5, torch.float64: 1e-10}
_PROX = {torch.float32: 2e-7, torch.float64: 1e-13}


class ConvergenceWarning(UserWarning):
    """An iterative solution is less exact than its documentation says."""


def least_squares(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    weight: float = 0.0,
    *,
    max_iterations: int = 500,
) -> Tensor:
    """argmin_d |A d - y|^2 + weight |d|^2, (B, C, H, W) -> (B, C', H', W'), each image of the batch on its own.

    Conjugate gradients on the normal equations in the form that keeps r = y - A d (CGLS: Hestenes and Stiefel 1952;
    Björck 1996, section 7.4). In float32 it stays stable where iterating with A^T A itself diverges, on a singular A,
    and its errors are ten times smaller. From zero, d stays in the range of A^T: with weight 0 it goes to A^+ y.

    An image is solved when g = A^T r - weight d, the residual of the normal equations, has |g| below a tolerance times
    |A^T y|, or below what rounding leaves of it. The tolerance is 1e-5 in float32 and 1e-10 in float64 for weight 0;
    with a weight, 2e-7 and 1e-13, since well-conditioned systems get there in a few steps.

    Warns:
        ConvergenceWarning: after `max_iterations`, |g| is above 1e-5 |A^T y| (float64: 1e-10 |A^T y|).
    """
    tolerance, accepted = (_PROX if weight > 0 else _PINV)[y.dtype], _PINV[y.dtype]
    interval, rounding = _steps_between_checks(y.device), torch.finfo(y.dtype).eps
    residual, gradient = y, adjoint(y)
    direction, x = gradient, 0 * gradient  # NaN where y holds some: it isn't hidden
    start = slope = _length(gradient)
    busy = start > 0  # not yet solved, for each image
    scale = _ratio(start, _length(y), busy)  # of |A|: the largest that was seen
    for step in range(min(max_iterations, 2 * prod(gradient.shape[1:]))):
        if step % interval == 0 and not bool(busy.any()):
            break
        image, along = forward(direction), _length(direction)
        curvature = _length(image).square() + weight * along.square()
        busy = busy & (curvature > 0)
        scale = torch.maximum(scale, _ratio(_length(image), along, busy))
        size = _ratio(slope.square(), curvature, busy)
        x = x + size * direction
        residual = residual - size * image
        pull = weight * x
        gradient = adjoint(residual) - pull
        new_slope = _length(gradient)
        direction = gradient + _ratio(new_slope.square(), slope.square(), busy) * direction
        slope = new_slope
        limit = rounding * (scale * _length(residual) + _length(pull))
        busy = busy & (slope > tolerance * start) & (slope > limit)
    worst = float(_ratio(slope, start, busy).detach().max())
    if worst > accepted:
        hint = "a larger weight helps" if weight > 0 else "prox, with a weight, may be what is wanted"
        warnings.warn(
            f"conjugate gradients left a residual of {worst:.0e} instead of {accepted:.0e}: what was measured is "
            f"ill-conditioned, and the result approximate; {hint}",
            ConvergenceWarning,
            stacklevel=3,
        )
    return x


def _length(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a, dim=(1, 2, 3), keepdim=True)


def _ratio(a: Tensor, b: Tensor, busy: Tensor) -> Tensor:
    """a / b, and 0 for images that are solved, without a division by zero, which gradients would suffer from."""
    return torch.where(busy, a, 0.0) / torch.where(busy, b, 1.0)


def _steps_between_checks(device: torch.device) -> int:
    """An accelerator has to be waited for, to know whether all images are solved; solved ones don't move any more."""
    return 1 if device.type == "cpu" else 10
