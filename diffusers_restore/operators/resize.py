"""Downscaling: the mean over blocks, and the matrix of bicubic reduction."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..errors import OperatorError, check_int
from .base import Shape, check_shape
from .families import DisjointRows


def check_factor(factor: int, **sizes: int) -> int:
    """`factor` as an int >= 2 that divides every named size."""
    factor = check_int("factor", factor, 2)
    for name, size in sizes.items():
        if size % factor:
            raise OperatorError(f"factor must divide the image's {name} {size}, got {factor}")
    return factor


class BlockMean(DisjointRows):
    """Each pixel of y is the mean of a `factor` x `factor` block of x (super-resolution by average pooling).

    V^T = factor * pool, s = 1 / factor.

    Raises:
        OperatorError: factor is below 2 or does not divide H and W.
    """

    kind: ClassVar[str] = "block_mean"

    def __init__(self, input_shape: Shape, factor: int) -> None:
        self.input_shape = check_shape("input_shape", input_shape)
        channels, height, width = self.input_shape
        self.factor = check_factor(factor, height=height, width=width)
        self.output_shape = (channels, height // self.factor, width // self.factor)
        self.row_norm = 1 / self.factor

    def rows(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, self.factor) * self.factor

    def rows_transposed(self, y: Tensor) -> Tensor:
        batch, (channels, height, width), factor = y.shape[0], self.output_shape, self.factor
        blocks = (y / factor)[:, :, :, None, :, None].expand(batch, channels, height, factor, width, factor)
        return blocks.reshape(batch, *self.input_shape)

    def forward_squared(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, self.factor) / self.factor**2

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape), "factor": self.factor}


def mean_matrix(size: int, factor: int) -> Tensor:
    """The (size / factor, size) matrix of the mean over blocks, float64."""
    check_factor(factor, size=size)
    return torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor


def bicubic_matrix(size: int, factor: int) -> Tensor:
    """The (size / factor, size) matrix of bicubic reduction with anti-aliasing, float64.

    Output i is centred on (i + 1/2) factor - 1/2 and takes 4 factor taps of Keys' kernel (a = -1/2) stretched by the
    factor, normalised; taps outside the picture are reflected with the border pixel repeated.
    """
    check_factor(factor, size=size)
    if 2 * factor > size:
        raise OperatorError(f"bicubic reduction by {factor} reaches past a reflected picture of size {size}")
    outputs = torch.arange(size // factor, dtype=torch.float64)
    centre = (outputs + 0.5) * factor - 0.5
    first = torch.ceil(centre - 2 * factor)
    taps = first[:, None] + torch.arange(4 * factor)
    distance = ((taps - centre[:, None]) / factor).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.zeros(len(outputs), size, dtype=torch.float64).scatter_add_(1, reflect(taps.long(), size), weights)


def reflect(index: Tensor, size: int) -> Tensor:
    """Indices outside 0..size-1 reflected back, with the border pixel repeated (half-sample symmetry)."""
    index = index.remainder(2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)
