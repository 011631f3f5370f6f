"""Products of operators, with their SVD where that is exact."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OperatorError
from .base import Constant, LinearOperator, Shape, SVDOperator, check_shape
from .masks import Identity, Mask


class TightRows(SVDOperator):
    """An operator whose rows are orthogonal and of one norm c: A A^T = c^2 I, so s = c, U = I and V^T = A / c.

    A subclass gives `rows` (V^T), `rows_transposed` (V) and `row_norm` (c).
    """

    row_norm: float

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """A x / c, (B, *input_shape) -> (B, *output_shape)."""

    @abstractmethod
    def rows_transposed(self, y: Tensor) -> Tensor:
        """A^T y / c, (B, *output_shape) -> (B, *input_shape)."""

    @cached_property
    def singular_values(self) -> Constant:
        return Constant(torch.full((1, 1, 1), self.row_norm, dtype=torch.float64))

    def vt(self, x: Tensor) -> Tensor:
        return self.rows(x)

    def v(self, c: Tensor) -> Tensor:
        return self.rows_transposed(c)

    def ut(self, y: Tensor) -> Tensor:
        return y

    def u(self, c: Tensor) -> Tensor:
        return c


class DisjointRows(TightRows):
    """Tight rows with disjoint supports: every pixel of x is used by one number of y, as in pooling.

    Then rows stay orthogonal when a mask takes pixels away, and their squared norms are `forward_squared(mask)`.
    """

    @abstractmethod
    def forward_squared(self, x: Tensor) -> Tensor:
        """A o A (each entry squared) applied to x, (B, *input_shape) -> (B, *output_shape)."""


class Crop(TightRows):
    """The top left (H, W) of a larger canvas: what lies outside is not measured. s = 1.

    Args:
        input_shape: (C, H', W') of the canvas.
        size: (H, W), no larger than the canvas.
    """

    kind: ClassVar[str] = "crop"

    def __init__(self, input_shape: Shape, size: tuple[int, int]) -> None:
        self.input_shape = check_shape("input_shape", input_shape)
        channels, height, width = self.input_shape
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


class _Pair(LinearOperator):
    """What every product shares: shapes, batch, configuration."""

    def _pair(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if outer.input_shape != inner.output_shape:
            raise OperatorError(
                f"a product needs matching shapes, got {outer!r} after {inner!r}: "
                f"{inner.output_shape} is not {outer.input_shape}"
            )
        self.outer, self.inner = outer, inner
        self.input_shape, self.output_shape = inner.input_shape, outer.output_shape
        self.batch_size = outer.batch_size or inner.batch_size
        self.gain = outer.gain * inner.gain
        self.measures_picture = outer.measures_picture

    def measured(self, y: Tensor) -> Tensor:
        return self.outer.measured(y)

    def repeat_interleave(self, count: int) -> LinearOperator:
        return compose(self.outer.repeat_interleave(count), self.inner.repeat_interleave(count))

    def select(self, index: int) -> LinearOperator:
        return compose(self.outer.select(index), self.inner.select(index))

    def params(self) -> dict[str, Any]:
        return {"outer": self.outer.to_config(), "inner": self.inner.to_config()}

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> LinearOperator:
        """The product of the two factors, in the class that suits them."""
        from . import from_config  # the package's registry loads this module

        return compose(from_config(params["outer"]), from_config(params["inner"]))


class RowProduct(_Pair, SVDOperator):
    """S G for an operator S = U Sigma V^T after one with tight rows, G G^T = c^2 I.

    S G = U (c Sigma) (V^T G / c), and the rows of V^T G / c are orthonormal, since V^T G G^T V = c^2 I.
    """

    kind: ClassVar[str] = "product"

    def __init__(self, outer: SVDOperator, inner: TightRows) -> None:
        self._pair(outer, inner)
        self._outer, self._inner = outer, inner
        self._values = Constant(outer.singular_values.values * inner.row_norm)

    @property
    def singular_values(self) -> Constant:
        return self._values

    def vt(self, x: Tensor) -> Tensor:
        return self._outer.vt(self._inner.rows(x))

    def v(self, c: Tensor) -> Tensor:
        return self._inner.rows_transposed(self._outer.v(c))

    def ut(self, y: Tensor) -> Tensor:
        return self._outer.ut(y)

    def u(self, c: Tensor) -> Tensor:
        return self._outer.u(c)


class DisjointProduct(_Pair, DisjointRows):
    """A product of two operators with disjoint rows (grey after pooling), which has disjoint rows again."""

    kind: ClassVar[str] = "product"

    def __init__(self, outer: DisjointRows, inner: DisjointRows) -> None:
        self._pair(outer, inner)
        self._outer, self._inner = outer, inner
        self.row_norm = outer.row_norm * inner.row_norm

    def rows(self, x: Tensor) -> Tensor:
        return self._outer.rows(self._inner.rows(x))

    def rows_transposed(self, y: Tensor) -> Tensor:
        return self._inner.rows_transposed(self._outer.rows_transposed(y))

    def forward_squared(self, x: Tensor) -> Tensor:
        return self._outer.forward_squared(self._inner.forward_squared(x))


class MaskedRows(_Pair, SVDOperator):
    """G after a mask, for an operator G with disjoint rows (pool what is left of a picture with holes).

    A A^T is diagonal: s^2 = (G o G) m, U = I, V^T = S^+ G m; a row that has lost all its pixels has s = 0.
    """

    kind: ClassVar[str] = "product"

    def __init__(self, outer: DisjointRows, inner: Mask) -> None:
        self._pair(outer, inner)
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

    def ut(self, y: Tensor) -> Tensor:
        return y

    def u(self, c: Tensor) -> Tensor:
        return c


class Composition(_Pair):
    """A product without a fast SVD (a mask after a blur); `pinv` and `prox` by conjugate gradients."""

    kind: ClassVar[str] = "product"

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        self._pair(outer, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


def compose(outer: LinearOperator, inner: LinearOperator) -> LinearOperator:
    """The product outer inner (first `inner`), with its SVD where one of the exact rules applies.

    In order: a factor that is the identity; grey after a filter of each channel, which commute; two filters of one
    family; any SVD after tight rows; disjoint rows after a mask; matrices on separate axes. Otherwise the product has
    no SVD.
    """
    from .blur import CircularBlur, PerChannel
    from .color import Grayscale
    from .separable import Separable, as_separable

    if outer.input_shape != inner.output_shape:
        return Composition(outer, inner)  # raises, with both shapes
    if isinstance(inner, Identity):
        return outer
    if isinstance(outer, Identity):
        return inner
    if isinstance(outer, Grayscale) and isinstance(inner, PerChannel):
        return compose(inner.with_channels(1), Grayscale(inner.input_shape, outer.weights))
    if isinstance(outer, CircularBlur) and isinstance(inner, CircularBlur) and outer.can_follow(inner):
        return outer.after(inner)
    if isinstance(outer, DisjointRows) and isinstance(inner, DisjointRows):
        return DisjointProduct(outer, inner)
    if isinstance(outer, SVDOperator) and isinstance(inner, TightRows):
        return RowProduct(outer, inner)
    if isinstance(outer, DisjointRows) and isinstance(inner, Mask):
        return MaskedRows(outer, inner)
    first, second = as_separable(inner), as_separable(outer)
    if isinstance(first, Separable) and isinstance(second, Separable):
        return second.after(first)
    return Composition(outer, inner)
