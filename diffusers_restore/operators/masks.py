"""Pixels measured directly: denoising (all of them), inpainting (a mask), a cropped canvas."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import OperatorError, check_int
from ..tensors import described
from .base import Constant, LinearOperator, Product, Shape, SVDOperator, check_shape, check_unmasked
from .families import DisjointRows, TightRows

ONE = Constant(torch.ones(1, 1, 1, dtype=torch.float64))


class Identity(SVDOperator):
    """y = x: every pixel was measured, as in denoising. U = S = V = I."""

    kind: ClassVar[str] = "identity"
    complete = True

    def __init__(self, input_shape: Shape) -> None:
        self.input_shape = self.output_shape = check_shape("input_shape", input_shape)

    @property
    def singular_values(self) -> Constant:
        return ONE

    def vt(self, x: Tensor) -> Tensor:
        return x

    def v(self, c: Tensor) -> Tensor:
        return c

    def ut(self, y: Tensor) -> Tensor:
        return y

    def u(self, c: Tensor) -> Tensor:
        return c

    def after(self, inner: LinearOperator) -> LinearOperator:
        return inner

    def before(self, outer: LinearOperator) -> LinearOperator:
        return outer

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape)}


class Mask(SVDOperator):
    """y = m x with m = 1 on measured pixels and 0 on missing ones (inpainting). U = V = I, S = m.

    Measurements have the shape of the image; their values on missing pixels are ignored.

    Args:
        input_shape: (C, H, W).
        mask: a tensor or array of 0 and 1 only; (H, W), (1 or C, H, W), or (B, 1 or C, H, W) with one for each image.

    Raises:
        OperatorError: a size other than the image's, a value other than 0 and 1, or a mask that keeps no pixel.
    """

    kind: ClassVar[str] = "mask"
    complete = True

    def __init__(self, input_shape: Shape, mask: Any) -> None:
        self.input_shape = self.output_shape = check_shape("input_shape", input_shape)
        check_unmasked("mask", mask)
        try:
            mask = torch.as_tensor(mask)
        except (TypeError, ValueError, RuntimeError) as error:
            raise OperatorError(
                f"mask must be a tensor or an array of 0 and 1, got {type(mask).__name__}; images.load_mask "
                "makes one of a file"
            ) from error
        if mask.is_complex() or mask.layout != torch.strided or mask.device.type == "meta":
            raise OperatorError(f"mask must hold real numbers, got {described(mask)} ({mask.layout}, {mask.device})")
        channels, height, width = self.input_shape
        given = tuple(mask.shape)
        if 2 <= mask.ndim <= 4:
            mask = mask.reshape((1,) * (4 - mask.ndim) + given)
        if mask.ndim != 4 or tuple(mask.shape[2:]) != (height, width) or mask.shape[1] not in (1, channels):
            accepted = f"({height}, {width}), (1 or {channels}, {height}, {width}) or a batch of the latter"
            raise OperatorError(f"mask must have the shape {accepted}, got {given}")
        if not len(mask):
            raise OperatorError(f"mask must hold at least one image, got {given}")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise OperatorError(
                f"mask must hold 0 (missing) and 1 (measured) only, got values from {float(mask.min()):g} "
                f"to {float(mask.max()):g}; divide a 0..255 mask by 255 and threshold a soft one"
            )
        empty = [i for i, kept in enumerate(mask) if not bool(kept.any())]
        if empty:
            which = f" (image {empty[0]} of the batch)" if len(mask) > 1 else ""
            raise OperatorError(f"mask keeps no pixel{which}: nothing would be measured; 1, white in a file, is known")
        self.batch_size = mask.shape[0] if mask.shape[0] > 1 else None
        self.mask = Constant(mask.to("cpu", torch.float64, copy=True))

    @property
    def singular_values(self) -> Constant:
        return self.mask

    def vt(self, x: Tensor) -> Tensor:
        return x

    def v(self, c: Tensor) -> Tensor:
        return c

    def ut(self, y: Tensor) -> Tensor:
        return self.measured(y)

    def u(self, c: Tensor) -> Tensor:
        return self.measured(c)

    def measured(self, y: Tensor) -> Tensor:
        return self.mask.like(y) * y

    def before(self, outer: LinearOperator) -> LinearOperator | None:
        """Disjoint rows stay orthogonal on the pixels that a mask keeps: `MaskedRows`."""
        return MaskedRows(outer, self) if isinstance(outer, DisjointRows) else None

    def repeat_interleave(self, count: int) -> Mask:
        return self if self.batch_size is None else self._with(self.mask.values.repeat_interleave(count, dim=0))

    def select(self, index: int) -> Mask:
        if self.batch_size is None:
            return self
        return self._with(self.mask.values[check_int("index", index, 0, self.batch_size - 1)][None])

    def _with(self, mask: Tensor) -> Mask:
        return Mask(self.input_shape, mask)

    def params(self) -> dict[str, Any]:
        bits = np.packbits(self.mask.values.numpy().astype(bool))
        packed = {"shape": list(self.mask.values.shape), "bits": base64.b64encode(bits.tobytes()).decode("ascii")}
        return {"input_shape": list(self.input_shape), "mask": packed}

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> Mask:
        packed = params["mask"]
        count = int(np.prod(packed["shape"]))
        try:
            bits = np.frombuffer(base64.b64decode(packed["bits"], validate=True), dtype=np.uint8)
        except ValueError as error:
            raise OperatorError(f"mask: bits must be base64, {error}") from error
        if len(bits) != -(-count // 8):
            raise OperatorError(f"mask: bits must hold {count} pixels for the shape {packed['shape']}")
        mask = np.unpackbits(bits, count=count).reshape(packed["shape"])
        return cls(params["input_shape"], torch.from_numpy(mask.astype(np.float64)))


class Crop(TightRows):
    """The top left (H, W) of a larger canvas: the rest is not measured. s = 1.

    Args:
        input_shape: (C, H', W') of the canvas.
        size: (H, W), no larger than the canvas.
    """

    kind: ClassVar[str] = "crop"

    def __init__(self, input_shape: Shape, size: tuple[int, int]) -> None:
        self.input_shape = check_shape("input_shape", input_shape)
        channels, height, width = self.input_shape
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise OperatorError(f"size must be (H, W), got {size!r}")
        self.output_shape = check_shape("size", (channels, *size))
        if self.output_shape[1] > height or self.output_shape[2] > width:
            raise OperatorError(f"size must be at most {(height, width)}, got {tuple(size)}")
        self.row_norm = 1.0

    def rows(self, x: Tensor) -> Tensor:
        return x[:, :, : self.output_shape[1], : self.output_shape[2]]

    def rows_transposed(self, y: Tensor) -> Tensor:
        x = y.new_zeros(y.shape[0], *self.input_shape)
        x[:, :, : self.output_shape[1], : self.output_shape[2]] = y
        return x

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape), "size": list(self.output_shape[1:])}


class MaskedRows(Product, SVDOperator):
    """G after a mask, for an operator G with disjoint rows (pooling a picture with holes).

    A A^T is diagonal: s^2 = (G o G) m, U = I, V^T = S^+ G m; a row that has lost all its pixels has s = 0.
    """

    def __init__(self, outer: DisjointRows, inner: Mask) -> None:
        super().__init__(outer, inner)
        self._rows, self._mask = outer, inner
        mask = inner.mask.values.expand(-1, self.input_shape[0], -1, -1)
        self._values = Constant(outer.forward_squared(mask).sqrt())

    @property
    def singular_values(self) -> Constant:
        return self._values

    def vt(self, x: Tensor) -> Tensor:
        return self._inverse_values.like(x) * self._rows.forward(self._mask.measured(x))

    def v(self, c: Tensor) -> Tensor:
        return self._mask.measured(self._rows.adjoint(self._inverse_values.like(c) * c))

    def measured(self, y: Tensor) -> Tensor:
        kept = self.measured_coefficients
        return super().measured(y) if kept is None else kept.like(y) * y

    def ut(self, y: Tensor) -> Tensor:
        return y

    def u(self, c: Tensor) -> Tensor:
        return c
