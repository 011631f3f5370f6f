"""Blur of pictures by any 2-D kernel, through fast transforms."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OperatorError
from .base import Constant, LinearOperator, Shape, check_shape, scale
from .families import PerChannel
from .resize import check_factor
from .separable import RELATIVE_THRESHOLD, check_kernel
from .transforms import dct2, idct2


def _spectrum(kernel: Tensor, height: int, width: int) -> Tensor:
    """The transfer function (height, width) of a circular convolution whose kernel is centred on pixel 0."""
    rows, columns = kernel.shape
    if rows > height or columns > width:
        raise OperatorError(f"kernel {rows} x {columns} is larger than the picture {height} x {width}")
    padded = torch.zeros(height, width, dtype=torch.float64)
    padded[:rows, :columns] = kernel
    return torch.fft.fft2(padded.roll((-(rows // 2), -(columns // 2)), (0, 1)))


def _polar(spectrum: Tensor) -> tuple[Constant, Constant]:
    """|lambda|, with tiny values set to zero, and the phase lambda / |lambda| (1 where the value is zero)."""
    s = spectrum.abs()
    s = torch.where(s > RELATIVE_THRESHOLD * s.max(), s, 0.0)
    phase = torch.where(s > 0, spectrum / torch.where(s > 0, s, 1.0), 1.0)
    return Constant(s[None]), Constant(phase[None])


class CircularBlur(PerChannel):
    """Convolution with any 2-D kernel and circular borders.

    A = F^H diag(lambda) F: V = F^H, s = |lambda|, and the phase of lambda goes into U. Coefficients are the half
    spectrum of a real transform. Values of |lambda| below 1e-4 of the largest are set to zero, in `forward` too.

    Args:
        input_shape: (C, H, W).
        kernel: (odd, odd) numbers that sum to 1, no larger than the image; convolved, not correlated.
    """

    kind: ClassVar[str] = "circular_blur"
    complete = True

    def __init__(self, input_shape: Shape, kernel: Any) -> None:
        self.input_shape = self.output_shape = check_shape("input_shape", input_shape)
        self.kernel = check_kernel(kernel, 2)
        self.gain = float(self.kernel.abs().sum())
        _, height, width = self.input_shape
        self._size = (height, width)
        spectrum = _spectrum(self.kernel, height, width)[:, : width // 2 + 1]
        self._values, self._phase = _polar(spectrum)

    @property
    def singular_values(self) -> Constant:
        return self._values

    def vt(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x, norm="ortho")

    def v(self, c: Tensor) -> Tensor:
        return torch.fft.irfft2(c, s=self._size, norm="ortho")

    def ut(self, y: Tensor) -> Tensor:
        return self._phase.like(y).conj() * self.vt(y)

    def u(self, c: Tensor) -> Tensor:
        return self.v(self._phase.like(c) * c)

    def with_channels(self, channels: int) -> CircularBlur:
        return CircularBlur((channels, *self._size), self.kernel)

    def after(self, inner: LinearOperator) -> LinearOperator | None:
        """Two circular blurs are one with the convolution of their kernels, where that is no larger than the image."""
        if not isinstance(inner, CircularBlur):
            return None
        size = [a + b - 1 for a, b in zip(self.kernel.shape, inner.kernel.shape, strict=True)]
        if any(taps > side for taps, side in zip(size, self._size, strict=True)):
            return None
        product = torch.fft.rfft2(self.kernel, s=size) * torch.fft.rfft2(inner.kernel, s=size)
        return CircularBlur(self.input_shape, torch.fft.irfft2(product, s=size))

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape), "kernel": self.kernel.tolist()}


class SymmetricBlur(PerChannel):
    """Convolution with a kernel that is its own mirror image in both axes, on a picture reflected at its borders.

    With the border pixel repeated, the DCT-II diagonalises it: V = DCT^T, s = |lambda|, the sign goes into U.

    Args:
        input_shape: (C, H, W).
        kernel: (odd, odd) numbers that sum to 1, symmetric in both axes, no larger than the image.

    Raises:
        OperatorError: a kernel that is not symmetric (use CircularBlur), or larger than the image.
    """

    kind: ClassVar[str] = "symmetric_blur"
    complete = True

    def __init__(self, input_shape: Shape, kernel: Any) -> None:
        self.input_shape = self.output_shape = check_shape("input_shape", input_shape)
        self.kernel = check_kernel(kernel, 2)
        self.gain = float(self.kernel.abs().sum())
        _, height, width = self.input_shape
        rows, columns = self.kernel.shape
        if rows > height or columns > width:
            raise OperatorError(f"kernel {rows} x {columns} is larger than the picture {height} x {width}")
        if any(not torch.allclose(self.kernel, self.kernel.flip(axis), rtol=0, atol=1e-9) for axis in (0, 1)):
            raise OperatorError(
                "kernel must be symmetric in both axes for a reflected border; use CircularBlur for any other"
            )
        cosines = [
            torch.cos(torch.pi / size * torch.outer(torch.arange(size), torch.arange(taps) - taps // 2).double())
            for size, taps in ((height, rows), (width, columns))
        ]
        values, sign = _polar(cosines[0] @ self.kernel @ cosines[1].mT)
        self._values, self._sign = values, Constant(sign.values.real)

    @property
    def singular_values(self) -> Constant:
        return self._values

    def vt(self, x: Tensor) -> Tensor:
        return dct2(x)

    def v(self, c: Tensor) -> Tensor:
        return idct2(c)

    def ut(self, y: Tensor) -> Tensor:
        return self._sign.like(y) * self.vt(y)

    def u(self, c: Tensor) -> Tensor:
        return self.v(self._sign.like(c) * c)

    def with_channels(self, channels: int) -> SymmetricBlur:
        return SymmetricBlur((channels, *self.input_shape[1:]), self.kernel)

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape), "kernel": self.kernel.tolist()}


class BlurDecimate(PerChannel):
    """Circular convolution, then every `factor`-th pixel from the first: y = D B x.

    The spectrum of y is the mean over the factor^2 frequencies that alias, (1 / factor) sum lambda X in orthonormal
    transforms, so each group has one singular value |lambda_group| / factor with v = conj(lambda) / |lambda_group|.

    Args:
        input_shape: (C, H, W), divisible by `factor`.
        kernel: (odd, odd) numbers that sum to 1, no larger than the image.
        factor: at least 2.
    """

    kind: ClassVar[str] = "blur_decimate"

    def __init__(self, input_shape: Shape, kernel: Any, factor: int) -> None:
        self.input_shape = check_shape("input_shape", input_shape)
        channels, height, width = self.input_shape
        self.factor = check_factor(factor, height=height, width=width)
        self.output_shape = (channels, height // self.factor, width // self.factor)
        self.kernel = check_kernel(kernel, 2)
        self.gain = float(self.kernel.abs().sum())
        spectrum = _spectrum(self.kernel, height, width)
        _, rows, columns = self.output_shape
        aliases = spectrum.abs().square().unflatten(1, (self.factor, columns)).unflatten(0, (self.factor, rows))
        values = aliases.sum(dim=(0, 2)).sqrt()[:, : columns // 2 + 1] / self.factor
        values = torch.where(values > RELATIVE_THRESHOLD * values.max(), values, 0.0)
        self._values = Constant(values[None])
        self._spectrum = Constant(spectrum[:, : width // 2 + 1])

    @property
    def singular_values(self) -> Constant:
        return self._values

    def vt(self, x: Tensor) -> Tensor:
        # U^T A / s. Rows are left out in the spectrum, where their aliases add up, columns in the picture.
        _, height, _ = self.output_shape
        spectrum = torch.fft.rfft2(x) * self._spectrum.like(x)
        folded = spectrum.unflatten(2, (self.factor, height)).sum(dim=2) / self.factor
        y = torch.fft.irfft2(folded, s=(height, x.shape[3]))[..., :: self.factor]
        return scale(self.ut(y), self._inverse_values.like(x))

    def v(self, c: Tensor) -> Tensor:
        y = self.u(scale(c, self._inverse_values.like(c)))
        _, height, width = self.input_shape
        spread = y.new_zeros(*y.shape[:3], width)
        spread[..., :: self.factor] = y
        spectrum = torch.fft.rfft2(spread).repeat(1, 1, self.factor, 1) * self._spectrum.like(y).conj()
        return torch.fft.irfft2(spectrum, s=(height, width))

    def ut(self, y: Tensor) -> Tensor:
        return torch.fft.rfft2(y, norm="ortho")

    def u(self, c: Tensor) -> Tensor:
        return torch.fft.irfft2(c, s=self.output_shape[1:], norm="ortho")

    def with_channels(self, channels: int) -> BlurDecimate:
        return BlurDecimate((channels, *self.input_shape[1:]), self.kernel, self.factor)

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape), "kernel": self.kernel.tolist(), "factor": self.factor}
