"""Orthonormal transforms, and compressed sensing with their rows."""

from __future__ import annotations

from functools import cache
from math import log2, pi, sqrt
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import OperatorError, check_int
from .base import Shape, check_shape
from .products import TightRows


def dct(x: Tensor) -> Tensor:
    """Orthonormal DCT-II along the last axis, by one real FFT of the same length."""
    length = x.shape[-1]
    reordered = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    spectrum = torch.view_as_real(torch.fft.rfft(reordered).mul_(_dct_phase(length, x.dtype, x.device)))
    return torch.cat([spectrum[..., 0], spectrum[..., 1 : (length + 1) // 2, 1].neg().flip(-1)], dim=-1)


def idct(c: Tensor) -> Tensor:
    """The inverse (the transpose) of `dct`."""
    length = c.shape[-1]
    half = length // 2 + 1
    imaginary = torch.cat([torch.zeros_like(c[..., :1]), c[..., length - half + 1 :].flip(-1)], dim=-1)
    phase = _dct_phase(length, c.dtype, c.device)
    # The forward phase has the length sqrt(2 / N), and sqrt(1 / N) for k = 0: divide by it, not only turn back.
    reordered = torch.fft.irfft(torch.complex(c[..., :half], -imaginary).div_(phase), n=length)
    x = torch.empty_like(reordered)
    x[..., ::2] = reordered[..., : (length + 1) // 2]
    x[..., 1::2] = reordered[..., (length + 1) // 2 :].flip(-1)
    return x


@cache
def _dct_phase(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    k = torch.arange(length // 2 + 1, dtype=torch.float64)
    scale = torch.full_like(k, sqrt(2 / length))
    scale[0] = sqrt(1 / length)
    return torch.polar(scale, -pi * k / (2 * length)).to(device=device, dtype=dtype.to_complex())


def hadamard_transform(x: Tensor) -> Tensor:
    """Orthonormal Walsh-Hadamard transform along the last axis, whose length is a power of two; its own inverse."""
    length = x.shape[-1]
    rows = 1 << (int(log2(length)) // 2)
    square = x.reshape(*x.shape[:-1], rows, length // rows)
    left, right = (_hadamard(n, x.dtype, x.device) for n in square.shape[-2:])
    # H_n = H_a (x) H_b, so two small dense products transform a long vector. `expand` keeps one product per image.
    square = torch.matmul(left, square)
    square = torch.matmul(square, right.expand(*square.shape[:-2], *right.shape))
    return square.reshape(x.shape)


@cache
def _hadamard(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < length:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0) / sqrt(2)
    return matrix.to(device=device, dtype=dtype)


class CompressedSensing(TightRows):
    """Every `ratio`-th number: the first H W / ratio rows of a fast transform of the shuffled pixels, per channel.

    S = I and the rows of V^T are rows of an orthonormal Walsh-Hadamard transform (where H W is a power of two) or of
    a DCT. A measurement (C, H, W / ratio) holds them in order; it is no picture.

    Args:
        input_shape: (C, H, W), W divisible by `ratio`.
        ratio: how many times fewer numbers are measured, at least 2.
        transform: "hadamard" or "dct"; None takes Hadamard where the size is a power of two.
        seed: of the shuffle, which all channels share.

    Raises:
        OperatorError: W not divisible by ratio, or Hadamard asked for a size that is no power of two.
    """

    kind: ClassVar[str] = "compressed_sensing"

    def __init__(
        self, input_shape: Shape, ratio: int, transform: Literal["hadamard", "dct"] | None = None, seed: int = 0
    ) -> None:
        self.input_shape = check_shape("input_shape", input_shape)
        channels, height, width = self.input_shape
        self.ratio, self.seed = check_int("ratio", ratio, 2), check_int("seed", seed, 0)
        if width % self.ratio:
            raise OperatorError(f"ratio must divide the image's width {width}, got {ratio}")
        self.output_shape = (channels, height, width // self.ratio)
        pixels = height * width
        is_power = pixels & (pixels - 1) == 0
        self.transform = transform or ("hadamard" if is_power else "dct")
        if self.transform not in ("hadamard", "dct"):
            raise OperatorError(f"transform must be 'hadamard' or 'dct', got {transform!r}")
        if self.transform == "hadamard" and not is_power:
            raise OperatorError(
                f"transform='hadamard' needs H W to be a power of two, got {height} x {width}; use transform='dct'"
            )
        self.row_norm, self.measures_picture = 1.0, False
        self.gain = sqrt(2 * pixels) if self.transform == "dct" else sqrt(pixels)
        order = np.random.default_rng(self.seed).permutation(pixels)
        self._order = torch.from_numpy(order)
        self._inverse_order = torch.from_numpy(np.argsort(order))

    def rows(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        shuffled = x.reshape(batch, channels, -1)[..., self._order.to(x.device)]
        c = hadamard_transform(shuffled) if self.transform == "hadamard" else dct(shuffled)
        return c[..., : height * width // self.ratio].reshape(batch, *self.output_shape)

    def rows_transposed(self, y: Tensor) -> Tensor:
        batch, (channels, height, width) = y.shape[0], self.input_shape
        c = y.new_zeros(batch, channels, height * width)
        c[..., : height * width // self.ratio] = y.reshape(batch, channels, -1)
        shuffled = hadamard_transform(c) if self.transform == "hadamard" else idct(c)
        return shuffled[..., self._inverse_order.to(y.device)].reshape(batch, *self.input_shape)

    def _params(self) -> dict[str, Any]:
        return {
            "input_shape": list(self.input_shape),
            "ratio": self.ratio,
            "transform": self.transform,
            "seed": self.seed,
        }
