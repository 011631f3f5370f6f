"""Orthonormal transforms, and compressed sensing with their rows."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..caching import keep_tables
from ..errors import OperatorError, check_int
from ..tensors import exact_product
from .base import Shape, check_shape
from .families import TightRows


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
    # The forward phase has the length sqrt(2 / N), and sqrt(1 / N) for k = 0: divide by it, not only rotate back.
    return _interleave(torch.fft.irfft(torch.complex(c[..., :half], -imaginary).div_(phase), n=length))


def dct2(x: Tensor) -> Tensor:
    """Orthonormal DCT-II along the last two axes, by one real 2-D FFT of the same size.

    With the samples of both axes reordered (even ones, then odd ones backwards) and V their spectrum, let
    Q = V exp(-i pi (k1 / 2 N1 + k2 / 2 N2)). A coefficient is Re Q(k1, k2) - Im Q(N1 - k1, k2), the one at N2 - k2 is
    -Im Q(k1, k2) - Re Q(N1 - k1, k2), each times sqrt(1 / N1 N2), and twice Re Q, -Im Q in the first row.
    """
    height, width = x.shape[-2:]
    rows = torch.cat([x[..., ::2, :], x[..., 1::2, :].flip(-2)], dim=-2)
    reordered = torch.cat([rows[..., ::2], rows[..., 1::2].flip(-1)], dim=-1)
    spectrum = torch.fft.rfft2(reordered).mul_(_dct2_phase(height, width, x.dtype, x.device))
    real, imaginary = spectrum.real, spectrum.imag
    half, rest = width // 2 + 1, (width - 1) // 2
    c = torch.empty_like(x)
    c[..., 0, :half] = 2 * real[..., 0, :]
    c[..., 0, half:] = -2 * imaginary[..., 0, 1 : rest + 1].flip(-1)
    c[..., 1:, :half] = real[..., 1:, :] - imaginary[..., 1:, :].flip(-2)
    c[..., 1:, half:] = -(imaginary[..., 1:, 1 : rest + 1] + real[..., 1:, 1 : rest + 1].flip(-2)).flip(-1)
    return c


def idct2(c: Tensor) -> Tensor:
    """The inverse (the transpose) of `dct2`."""
    height, width = c.shape[-2:]
    half = width // 2 + 1
    # Re Q = (c(k1, k2) - c(N1 - k1, N2 - k2)) / 2 and Im Q = -(c(N1 - k1, k2) + c(k1, N2 - k2)) / 2; what lies beyond
    # the last row or column is zero. In the first row, where c is twice as large, nothing is subtracted.
    real, imaginary = c[..., :half].clone(), torch.zeros_like(c[..., :half])
    imaginary[..., 1:, :] = c[..., 1:, :half].flip(-2)
    mirrored = c[..., width - half + 1 :].flip(-1)
    real[..., 1:, 1:] -= mirrored[..., 1:, :].flip(-2)
    imaginary[..., 1:] += mirrored
    spectrum = torch.complex(real, imaginary.neg_()).div_(_dct2_phase(height, width, c.dtype, c.device)).mul_(0.5)
    rows = _interleave(torch.fft.irfft2(spectrum, s=(height, width)))
    return _interleave(rows.mT).mT


def _interleave(reordered: Tensor) -> Tensor:
    """Undo, on the last axis, the order of even samples followed by odd ones backwards."""
    half = (reordered.shape[-1] + 1) // 2
    x = torch.empty_like(reordered)
    x[..., ::2] = reordered[..., :half]
    x[..., 1::2] = reordered[..., half:].flip(-1)
    return x


@keep_tables()
def _dct_phase(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    k = torch.arange(length // 2 + 1, dtype=torch.float64)
    scale = torch.full_like(k, sqrt(2 / length))
    scale[0] = sqrt(1 / length)
    return torch.polar(scale, -pi * k / (2 * length)).to(device=device, dtype=dtype.to_complex())


@keep_tables()
def _dct2_phase(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    rows = torch.arange(height, dtype=torch.float64)[:, None] / (2 * height)
    columns = torch.arange(width // 2 + 1, dtype=torch.float64) / (2 * width)
    scale = torch.full((height, width // 2 + 1), sqrt(1 / (height * width)), dtype=torch.float64)
    scale[0] /= sqrt(2)
    scale[:, 0] /= sqrt(2)
    return torch.polar(scale, -pi * (rows + columns)).to(device=device, dtype=dtype.to_complex())


def hadamard_transform(x: Tensor) -> Tensor:
    """Orthonormal Walsh-Hadamard transform along the last axis, whose length is a power of two; its own inverse.

    H_mn = H_m (x) H_n, so a long vector is transformed by small dense products, on 16 numbers each.
    """
    shape, done = x.shape, 1
    while done < shape[-1]:
        radix = min(16, shape[-1] // done)
        x = x.reshape(*shape[:-1], -1, radix, done)
        matrix = _hadamard(radix, x.dtype, x.device)
        # `expand` keeps the products of different pictures apart.
        if done == 1:
            x = exact_product(x.squeeze(-1), matrix.expand(*shape[:-1], radix, radix))
        else:
            x = exact_product(matrix.expand(*x.shape[:-2], radix, radix), x)
        done *= radix
    return x.reshape(shape)


@keep_tables()
def _hadamard(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < length:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0) / sqrt(2)
    return matrix.to(device=device, dtype=dtype)


def random_order(count: int, seed: int) -> Tensor:
    """A permutation of 0..count-1 that is stable for a seed: NumPy guarantees only the raw bits of PCG64."""
    return torch.from_numpy(np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable"))


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
        OperatorError: W not divisible by ratio, or Hadamard for a size that is no power of two.
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
        if transform is not None and (not isinstance(transform, str) or transform not in ("hadamard", "dct")):
            raise OperatorError(f"transform must be 'hadamard' or 'dct', got {transform!r}")
        self.transform = ("hadamard" if is_power else "dct") if transform is None else transform
        if self.transform == "hadamard" and not is_power:
            raise OperatorError(
                f"transform='hadamard' needs H W to be a power of two, got {height} x {width}; use transform='dct'"
            )
        self.row_norm, self.measures_picture = 1.0, False
        self.gain = sqrt(2 * pixels) if self.transform == "dct" else sqrt(pixels)
        order = random_order(pixels, self.seed)
        self._orders = {torch.device("cpu"): (order, torch.argsort(order))}

    def rows(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        shuffled = x.reshape(batch, channels, -1)[..., self._order_on(x.device)[0]]
        c = hadamard_transform(shuffled) if self.transform == "hadamard" else dct(shuffled)
        return c[..., : height * width // self.ratio].reshape(batch, *self.output_shape)

    def rows_transposed(self, y: Tensor) -> Tensor:
        batch, (channels, height, width) = y.shape[0], self.input_shape
        c = y.new_zeros(batch, channels, height * width)
        c[..., : height * width // self.ratio] = y.reshape(batch, channels, -1)
        shuffled = hadamard_transform(c) if self.transform == "hadamard" else idct(c)
        return shuffled[..., self._order_on(y.device)[1]].reshape(batch, *self.input_shape)

    def _order_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The shuffle of the pixels and its inverse, copied to a device once."""
        if device not in self._orders:
            order, inverse = self._orders[torch.device("cpu")]
            self._orders[device] = order.to(device), inverse.to(device)
        return self._orders[device]

    def params(self) -> dict[str, Any]:
        return {
            "input_shape": list(self.input_shape),
            "ratio": self.ratio,
            "transform": self.transform,
            "seed": self.seed,
        }
