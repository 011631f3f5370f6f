"""Pixelation: pictures are shrunk and enlarged, to blocks that grow with the severity (super-resolution)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..caching import keep_tables
from ..errors import InvalidInputError
from ..tensors import exact_product
from .base import Degradation, State, check_choice


@dataclass(frozen=True)
class Pixelate(Degradation):
    """D(x, t) = A_t ... A_1 x; A_i resizes to n_i pixels, without antialiasing, and back to n by nearest neighbours.

    n_i = n // 2^i ("halve") or n - i ("decrement"), along each axis (arXiv:2208.09392). The products are n x n
    matrices, cached for all severities.

    Args:
        num_timesteps: T.
        mode: "bicubic", "bilinear" or "area", as of `torch.nn.functional.interpolate`.
        shrink: "halve" or "decrement".
    """

    mode: Literal["bicubic", "bilinear", "area"] = "bicubic"
    shrink: Literal["halve", "decrement"] = "halve"

    kind: ClassVar[str] = "pixelate"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, ("bicubic", "bilinear", "area"))
        check_choice("shrink", self.shrink, ("halve", "decrement"))

    def small_size(self, n: int, step: int) -> int:
        """n_i, the number of pixels along an axis of n after step i."""
        return n // 2**step if self.shrink == "halve" else n - step

    def check_size(self, height: int, width: int) -> None:
        if self.small_size(min(height, width), self.num_timesteps) < 1:
            raise InvalidInputError(
                f"pictures of {height} x {width} pixels are too small for degradation {self.kind!r} with "
                f"num_timesteps={self.num_timesteps}: nothing would be left of {min(height, width)} pixels"
            )

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        rows, columns = (_products(self, n, x0.device, x0.dtype)[t][:, None] for n in x0.shape[2:])
        return exact_product(exact_product(rows, x0), columns.mT)


@keep_tables()
def _products(pixelate: Pixelate, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A_t ... A_1 for t = 0..T, (T + 1, n, n)."""
    products = [torch.eye(n, dtype=torch.float64)]
    for i in range(1, pixelate.num_timesteps + 1):
        columns = products[-1].mT.reshape(1, n, n, 1)  # the columns of the product so far, as channels
        small = functional.interpolate(columns, size=(pixelate.small_size(n, i), 1), mode=pixelate.mode)
        products.append(functional.interpolate(small, size=(n, 1), mode="nearest").reshape(n, n).mT)
    return torch.stack(products).to(device, dtype)
