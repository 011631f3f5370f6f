"""Families of operators with exact SVDs of their products, and these products."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from .base import Constant, LinearOperator, Product, SVDOperator


class PerChannel(SVDOperator):
    """An operator that does the same to each channel, so that it commutes with mixing channels."""

    @abstractmethod
    def with_channels(self, channels: int) -> PerChannel:
        """The same operator on images of another number of channels."""


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

    def before(self, outer: LinearOperator) -> LinearOperator | None:
        """Any SVD after tight rows is one: `RowProduct`."""
        return RowProduct(outer, self) if isinstance(outer, SVDOperator) else None


class DisjointRows(TightRows):
    """Tight rows with disjoint supports: every pixel of x is used by one number of y, as in pooling.

    Then rows stay orthogonal when a mask takes pixels away, and their squared norms are `forward_squared(mask)`.
    """

    @abstractmethod
    def forward_squared(self, x: Tensor) -> Tensor:
        """A o A (each entry squared) applied to x, (B, *input_shape) -> (B, *output_shape)."""

    def after(self, inner: LinearOperator) -> LinearOperator | None:
        """Disjoint rows after disjoint rows are disjoint: `DisjointProduct`."""
        return DisjointProduct(self, inner) if isinstance(inner, DisjointRows) else None


class RowProduct(Product, SVDOperator):
    """S G for an operator S = U Sigma V^T after one with tight rows, G G^T = c^2 I.

    S G = U (c Sigma) (V^T G / c), and the rows of V^T G / c are orthonormal, since V^T G G^T V = c^2 I.
    """

    def __init__(self, outer: SVDOperator, inner: TightRows) -> None:
        super().__init__(outer, inner)
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


class DisjointProduct(Product, DisjointRows):
    """A product of two operators with disjoint rows (grey after pooling), which has disjoint rows again."""

    def __init__(self, outer: DisjointRows, inner: DisjointRows) -> None:
        super().__init__(outer, inner)
        self._outer, self._inner = outer, inner
        self.row_norm = outer.row_norm * inner.row_norm

    def rows(self, x: Tensor) -> Tensor:
        return self._outer.rows(self._inner.rows(x))

    def rows_transposed(self, y: Tensor) -> Tensor:
        return self._inner.rows_transposed(self._outer.rows_transposed(y))

    def forward_squared(self, x: Tensor) -> Tensor:
        return self._outer.forward_squared(self._inner.forward_squared(x))
