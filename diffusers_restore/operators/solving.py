"""Least squares of operators without an SVD, by iteration."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

_PINV = {torch.float32: 1e-5, torch.float64: 1e-10}
_PROX = {torch.float32: 2e-7, torch.float64: 1e-13}
_FLOOR = 4
"""|g| doesn't fall below 0.1 to 2 times the rounding of its terms, by masks of blurs of 128 px."""
_DIVERGED = 1e3
"""Above the smallest |g|; where conjugate gradients converge, it was seen to rise tenfold in between."""


class ConvergenceWarning(UserWarning):
    """An iterative solution is less exact than its documentation says."""


def least_squares(
    forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], y: Tensor, weight: float = 0.0
) -> Tensor:
    """argmin_d |A d - y|^2 + weight |d|^2, (B, C, H, W) -> (B, C', H', W'), by 500 `conjugate_gradients` at most.

    Warns:
        ConvergenceWarning: |A^T (y - A d) - weight d| is above 1e-5 |A^T y| (float64: 1e-10 |A^T y|).
    """
    x, largest = conjugate_gradients(forward, adjoint, y, weight, 500)
    left = float(largest)
    accepted = _PINV[y.dtype]
    if left > accepted:
        hint = "a larger weight helps" if weight > 0 else "prox, with a weight, may be what is wanted"
        warnings.warn(
            f"conjugate gradients left a residual of {left:.0e} instead of {accepted:.0e}: what was measured is "
            f"ill-conditioned, and the result approximate; {hint}",
            ConvergenceWarning,
            stacklevel=3,
        )
    return x


def conjugate_gradients(
    forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], y: Tensor, weight: float, steps: int
) -> tuple[Tensor, Tensor]:
    """d nearing argmin_d |A d - y|^2 + weight |d|^2, each image of the batch on its own, and the largest residual left.

    Conjugate gradients on the normal equations in the form that keeps r = y - A d (CGLS: Hestenes and Stiefel 1952;
    Björck 1996, section 7.4). In float32 it stays stable where iterating with A^T A itself diverges, on a singular A,
    and its errors are ten times smaller. From zero, d stays in the range of A^T: with weight 0 it goes to A^+ y.

    An image is solved when g = A^T r - weight d, the residual of the normal equations, has |g| below a tolerance times
    |A^T y|, or below what rounding leaves of it. The tolerance is 1e-5 in float32 and 1e-10 in float64 for weight 0;
    with a weight, 2e-7 and 1e-13, since well-conditioned systems get there in a few steps. Beyond what rounding leaves,
    iterates diverge: of all, the one with the smallest |g| is returned.

    Args:
        forward: A, (B, C', H', W') -> (B, C, H, W).
        adjoint: A^T.
        y: (B, C, H, W).
        weight: >= 0.
        steps: at most.

    Returns:
        d, (B, C', H', W'), and |g| / |A^T y| of the image of which most is left, (), 0 where all are solved.
    """
    tolerance = (_PROX if weight > 0 else _PINV)[y.dtype]
    interval, rounding = _steps_between_checks(y.device), torch.finfo(y.dtype).eps
    residual, gradient = y, adjoint(y)
    direction, x = gradient, 0 * gradient  # NaN where y holds some: it isn't hidden
    start = slope = smallest = _length(gradient)
    best = x
    busy = start > 0  # for each image
    solved = ~busy
    scale = _ratio(start, _length(y), busy)  # of |A|: the largest that was seen
    for step in range(min(steps, 2 * prod(gradient.shape[1:]))):
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
        limit = _FLOOR * rounding * (scale * _length(residual) + _length(pull))
        best = torch.where(slope > smallest, best, x)  # x where the slope is NaN, which isn't hidden
        smallest = torch.minimum(smallest, slope)
        solved = solved | (slope <= tolerance * start) | (slope <= limit)
        busy = busy & ~solved & (slope < _DIVERGED * smallest)
    return best, _ratio(smallest, start, ~solved).detach().max()


def _length(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a, dim=(1, 2, 3), keepdim=True)


def _ratio(a: Tensor, b: Tensor, busy: Tensor) -> Tensor:
    """a / b, and 0 for images that are solved, without a division by zero, which gradients would suffer from."""
    return torch.where(busy, a, 0.0) / torch.where(busy, b, 1.0)


def _steps_between_checks(device: torch.device) -> int:
    """An accelerator has to be waited for, to know whether all images are solved; solved ones don't move any more."""
    return 1 if device.type == "cpu" else 10
