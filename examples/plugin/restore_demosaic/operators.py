"""The colour filter of a camera's sensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusers_restore.errors import OperatorError
from diffusers_restore.operators import Constant, LinearOperator, SVDOperator, Task, check_shape

Shape = tuple[int, int, int]


class Mosaic(SVDOperator):
    """Each pixel sees one colour of three, in the Bayer pattern RG/GB: y_ij = x_c(i,j),ij, (3, H, W) -> (1, H, W).

    The rows of A are orthonormal: s = 1, U = I, V^T = A.

    Raises:
        OperatorError: not three channels.
    """

    kind = "mosaic"

    def __init__(self, input_shape: Shape) -> None:
        channels, height, width = self.input_shape = check_shape("input_shape", input_shape)
        if channels != 3:
            raise OperatorError(f"input_shape must have 3 channels, got {input_shape}")
        self.output_shape = (1, height, width)
        seen = (torch.arange(height) % 2)[:, None] + torch.arange(width) % 2  # 0, 1, 2: red, green, blue
        self._seen = Constant((torch.arange(3)[:, None, None] == seen).double())

    @property
    def singular_values(self) -> Constant:
        return Constant(torch.ones(1, 1, 1, dtype=torch.float64))

    def vt(self, x: Tensor) -> Tensor:
        return (self._seen.like(x) * x).sum(dim=1, keepdim=True)

    def v(self, c: Tensor) -> Tensor:
        return self._seen.like(c) * c

    def ut(self, y: Tensor) -> Tensor:
        return y

    def u(self, c: Tensor) -> Tensor:
        return c

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape)}


def _build(image_shape: Shape) -> LinearOperator:
    return Mosaic(image_shape)


def _image_shape(measurement_shape: Shape) -> Shape:
    return (3, *measurement_shape[1:])


demosaic = Task("of each pixel, one colour was measured", _build, _image_shape)
