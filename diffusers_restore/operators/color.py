"""Colour to grey."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OperatorError, check_real
from .base import Constant, LinearOperator, Shape, check_shape
from .families import DisjointRows, PerChannel

EQUAL_WEIGHTS = (1 / 3, 1 / 3, 1 / 3)


def check_weights(weights: Sequence[float] | Tensor | NDArray[Any]) -> tuple[float, ...]:
    """`weights` as finite floats, in their order; refuses anything but a sequence of numbers."""
    if not isinstance(weights, (Sequence, Tensor, np.ndarray)) or isinstance(weights, (str, bytes)):
        raise OperatorError(f"weights must be one number per channel, such as [0.3, 0.6, 0.1], got {weights!r}")
    listed = weights if isinstance(weights, Sequence) else weights.tolist()
    if not isinstance(listed, Sequence):  # of a single number
        raise OperatorError(f"weights must be one number per channel, such as [0.3, 0.6, 0.1], got {weights!r}")
    return tuple(check_real("weights", weight) for weight in listed)


class Grayscale(DisjointRows):
    """Each pixel of y is the weighted sum of the colours of x (colourisation undoes it): V^T x = w^T x / |w|, s = |w|.

    Args:
        input_shape: (C, H, W).
        weights: C numbers, not all zero; the default gives the mean of three colours.

    Raises:
        OperatorError: another number of weights than channels, or all weights zero.
    """

    kind: ClassVar[str] = "grayscale"

    def __init__(self, input_shape: Shape, weights: Sequence[float] = EQUAL_WEIGHTS) -> None:
        self.input_shape = check_shape("input_shape", input_shape)
        channels, height, width = self.input_shape
        self.weights = check_weights(weights)
        if len(self.weights) != channels:
            raise OperatorError(f"weights must hold one number per channel ({channels}), got {weights!r}")
        self.row_norm = hypot(*self.weights)
        if self.row_norm == 0:
            raise OperatorError("weights must not all be zero: nothing would be measured")
        self.gain = sum(abs(weight) for weight in self.weights)
        self.output_shape = (1, height, width)
        direction = torch.tensor(self.weights, dtype=torch.float64) / self.row_norm
        self._direction = Constant(direction.reshape(-1, 1, 1))

    def rows(self, x: Tensor) -> Tensor:
        return (self._direction.like(x) * x).sum(dim=1, keepdim=True)

    def rows_transposed(self, y: Tensor) -> Tensor:
        return self._direction.like(y) * y

    def forward_squared(self, x: Tensor) -> Tensor:
        return ((self._direction.like(x) * self.row_norm).square() * x).sum(dim=1, keepdim=True)

    def after(self, inner: LinearOperator) -> LinearOperator | None:
        """A filter of each channel and the mixing of channels commute: the grey picture is filtered."""
        if isinstance(inner, PerChannel):
            return inner.with_channels(1) @ Grayscale(inner.input_shape, self.weights)
        return super().after(inner)

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape), "weights": list(self.weights)}
