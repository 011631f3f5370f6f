"""Measurement operators A of y = A(x) + noise: any, linear ones, those with an SVD, and products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, overload

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInputError, OperatorError, check_int, check_real, one_line, unknown_name
from ..registries import OPERATORS
from ..tensors import described
from .arguments import check_images, check_methods, check_together
from .solving import conjugate_gradients, least_squares

Shape = tuple[int, int, int]

ROUGH_STEPS = 100
"""Of conjugate gradients for what a network will improve: the others change a deblurred photograph little, and as often
for the worse as for the better; most at the borders of a wide Gaussian blur."""


def check_unmasked(name: str, value: object) -> None:
    """Refuse a numpy array of which values are masked: torch would take what lies beneath.

    Raises:
        OperatorError: it is one.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise OperatorError(f"{name} must have no masked values; pass {name}.filled(value)")


def check_shape(name: str, shape: Any) -> Shape:
    """`shape` as (C, H, W), three whole numbers of at least 1."""
    if not isinstance(shape, (tuple, list, torch.Size)) or len(shape) != 3:
        raise OperatorError(f"{name} must be (C, H, W), got {shape!r}")
    channels, height, width = (check_int(f"{name}[{i}]", size, 1) for i, size in enumerate(shape))
    return channels, height, width


@dataclass(frozen=True, eq=False)
class Constant:
    """A table of an operator, held once in float64 and handed out on the device and in the dtype of the input."""

    values: Tensor
    _cast: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    def like(self, x: Tensor) -> Tensor:
        dtype = x.dtype.to_complex() if self.values.is_complex() else x.dtype.to_real()
        key = (x.device, dtype)
        if key not in self._cast:
            with torch.inference_mode(False):  # a later call may need gradients
                self._cast[key] = self.values.to(device=x.device, dtype=dtype)
        return self._cast[key]


class Operator(ABC):
    """What is done to images (B, *input_shape) to give measurements (B, *output_shape): y = A(x), without noise.

    An operator is an immutable value built for one image shape. It has no device and no dtype: results are on the
    device and in the dtype of the input, float32 or float64. What the methods are given is checked for those of
    subclasses, too: type, shape, batch, dtype. Derive from `LinearOperator` or `SVDOperator` what is linear.

    Attributes:
        kind: the name in the registry and in `to_config()`.
        input_shape, output_shape: (C, H, W).
        batch_size: how many images the operator holds data for (per-image masks), or None for any batch.
        measures_picture: whether measurements look like pictures, so that a picture file can hold them.
        gain: an upper bound (to one percent) of |A(x)| for |x| <= 1, elementwise.
    """

    kind: ClassVar[str]
    input_shape: Shape
    output_shape: Shape
    batch_size: int | None = None
    gain: float = 1.0
    measures_picture: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_methods(cls)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A(x): (B, *input_shape) -> (B, *output_shape)."""

    @abstractmethod
    def pinv(self, y: Tensor) -> Tensor:
        """A picture that is measured as y, or as nearly as one is: (B, *output_shape) -> (B, *input_shape)."""

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """The arguments of the class, as JSON values."""

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> Operator:
        """The operator with the arguments that `params()` gave."""
        return cls(**params)

    def measured(self, y: Tensor) -> Tensor:
        """y with zeros where nothing is measured: in a mask's holes, in blocks that a mask has taken whole."""
        return self.check_output(y)

    def repeat_interleave(self, count: int) -> Operator:
        """The operator for a batch in which every image stands `count` times in a row."""
        check_int("count", count, 1)
        return self

    def select(self, index: int) -> Operator:
        """The operator of one image of the batch."""
        check_int("index", index, 0)
        return self

    def __matmul__(self, inner: Operator) -> Operator:
        """The product: first `inner`, then this one; a `NonlinearProduct`, unless both are linear.

        Raises:
            OperatorError: `inner` gives another shape than this one takes.
        """
        if not isinstance(inner, Operator):
            return NotImplemented
        return NonlinearProduct(self, inner)

    def to_config(self) -> dict[str, Any]:
        """The operator as JSON values; `operators.from_config` builds it again."""
        return {"kind": self.kind, **self.params()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.input_shape} -> {self.output_shape}>"

    def check_input(self, x: Tensor) -> Tensor:
        return check_images(self, "x", x, self.input_shape)

    def check_output(self, y: Tensor) -> Tensor:
        return check_images(self, "y", y, self.output_shape)


class LinearOperator(Operator):
    """A linear map A from images (B, *input_shape) to measurements (B, *output_shape).

    Where no SVD is known, `pinv` and `prox` are solved by conjugate gradients (`solving.least_squares`): 500 steps at
    most, each with one `forward` and one `adjoint`. Attributes: those of `Operator`.
    """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: (B, *output_shape) -> (B, *input_shape)."""

    def pinv(self, y: Tensor) -> Tensor:
        """The least-norm least-squares solution A^+ y, (B, *output_shape) -> (B, *input_shape).

        Without an SVD, up to a residual |A^T (y - A x)| of 1e-5 |A^T y| in float32 and 1e-10 |A^T y| in float64. Where
        500 steps don't lead there, as with a strong blur under a mask, what they gave is returned, which is less sharp
        than A^+ y and often better for noisy y.

        Warns:
            ConvergenceWarning: the residual is larger.
        """
        return least_squares(self.forward, self.adjoint, self.measured(self.check_output(y)))

    def prox(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        """argmin_z |A z - y|^2 + weight |z - x|^2, for weight > 0; shapes of x and of the result (B, *input_shape).

        Without an SVD, up to a residual |A^T (y - A z) - weight (z - x)| of 2e-7 |A^T (y - A x)| in float32 and 1e-13
        in float64, or as far as rounding or 500 steps allow.

        Warns:
            ConvergenceWarning: the residual is above 1e-5 of that in float32, 1e-10 in float64.
        """
        weight = self._check_prox(x, y, weight)
        return x + least_squares(self.forward, self.adjoint, self.measured(y) - self.forward(x), weight)

    @property
    def iterates(self) -> bool:
        """Whether `prox` is solved step by step, having no closed form."""
        return type(self).prox is LinearOperator.prox

    def rough_prox(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        """`prox`, within `ROUGH_STEPS` steps of conjugate gradients where it takes any."""
        if not self.iterates:
            return self.prox(x, y, weight)
        weight = self._check_prox(x, y, weight)
        left = self.measured(y) - self.forward(x)
        return x + conjugate_gradients(self.forward, self.adjoint, left, weight, ROUGH_STEPS)[0]

    def repeat_interleave(self, count: int) -> LinearOperator:
        return self

    def select(self, index: int) -> LinearOperator:
        return self

    def after(self, inner: LinearOperator) -> LinearOperator | None:
        """The exact product: first `inner`, then this one; None where this class has no rule for `inner`.

        Override it for the products that have an SVD or a shorter form. Shapes fit: `inner` gives what this one takes.
        """
        return None

    def before(self, outer: LinearOperator) -> LinearOperator | None:
        """The exact product: first this one, then `outer`; None where this class has no rule for `outer`.

        It is tried where `outer.after(self)` has no rule, so a new class can follow and precede classes that don't
        know it.
        """
        return None

    @overload
    def __matmul__(self, inner: LinearOperator) -> LinearOperator: ...

    @overload
    def __matmul__(self, inner: Operator) -> Operator: ...

    def __matmul__(self, inner: Operator) -> Operator:
        """The product: first `inner`, then this one. It keeps an SVD where one of the two has an exact rule.

        `self.after(inner)` is tried first, then `inner.before(self)`, as Python tries `__matmul__`, then `__rmatmul__`;
        where neither has a rule, the product is a `Composition`. With an `inner` that isn't linear, it is a
        `NonlinearProduct`.

        Raises:
            OperatorError: `inner` gives another shape than this one takes, or a rule gives what is no product.
        """
        if not isinstance(inner, LinearOperator):
            return super().__matmul__(inner)
        _check_chain(self, inner)
        product: object = self.after(inner)
        if product is None:
            product = inner.before(self)
        if product is None:
            return Composition(self, inner)
        shapes = (inner.input_shape, self.output_shape)
        if not isinstance(product, LinearOperator) or (product.input_shape, product.output_shape) != shapes:
            raise OperatorError(
                f"the rule of {self!r} and {inner!r} must give an operator {shapes[0]} -> {shapes[1]} "
                f"or None, got {product!r}"
            )
        return product

    def _check_prox(self, x: Tensor, y: Tensor, weight: float) -> float:
        check_together(self.check_input(x), self.check_output(y))
        return check_real("weight", weight, above=0)


class SVDOperator(LinearOperator):
    """A linear operator with its thin SVD A = U S V^T; `forward`, `adjoint`, `pinv` and `prox` follow from it.

    Coefficients are those of the row space only, in any shape (B, ...), and may be complex where V is a Fourier
    basis. Singular values are real, broadcast over the coefficients and may be zero; a coefficient whose singular
    value is zero is not measured. Only real functions of the singular values may be applied to coefficients:
    `v(f(s) * vt(x))`, with noise drawn in image space and transformed by `vt`.

    Attributes:
        complete: whether V is a basis of the whole image space, `v(vt(x))` = x; set it only where that holds.
    """

    complete: bool = False

    @property
    @abstractmethod
    def singular_values(self) -> Constant:
        """s >= 0, shape broadcastable to the coefficients (a leading batch axis included)."""

    @abstractmethod
    def vt(self, x: Tensor) -> Tensor:
        """V^T x: (B, *input_shape) -> coefficients."""

    @abstractmethod
    def v(self, c: Tensor) -> Tensor:
        """V c: coefficients -> (B, *input_shape)."""

    @abstractmethod
    def ut(self, y: Tensor) -> Tensor:
        """U^T y: (B, *output_shape) -> coefficients."""

    @abstractmethod
    def u(self, c: Tensor) -> Tensor:
        """U c: coefficients -> (B, *output_shape)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.u(scale(self.vt(x), self.singular_values.like(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.v(scale(self.ut(y), self.singular_values.like(y)))

    def y_bar(self, y: Tensor) -> Tensor:
        """S^+ U^T y, the measurement in coefficients of the image; zero where the singular value is zero."""
        return scale(self.ut(y), self._inverse_values.like(y))

    def pinv(self, y: Tensor) -> Tensor:
        return self.v(self.y_bar(y))

    def prox(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        weight = self._check_prox(x, y, weight)
        s = self.singular_values.like(x)
        return x + self.v(s / (s * s + weight) * (self.ut(y) - s * self.vt(x)))

    @cached_property
    def _inverse_values(self) -> Constant:
        s = self.singular_values.values
        return Constant(torch.where(s > 0, 1 / s, 0.0))

    @cached_property
    def measured_coefficients(self) -> Constant | None:
        """1 where a coefficient is measured and 0 where not (s = 0), or None where all are."""
        s = self.singular_values.values
        return None if bool((s > 0).all()) else Constant((s > 0).double())

    @cached_property
    def single_value(self) -> float | None:
        """The only nonzero singular value, if there is just one; it makes methods simpler."""
        s = self.singular_values.values
        s = s[s > 0]
        return float(s[0]) if bool((s == s[0]).all()) else None


def scale(c: Tensor, factor: Tensor) -> Tensor:
    """c times a real factor, for real and complex coefficients, without making the factor complex."""
    if not c.is_complex():
        return c * factor
    return torch.view_as_complex(torch.view_as_real(c) * factor[..., None])


class Product(LinearOperator):
    """Base of all linear products: shapes, batch, bound, configuration. `inner` is applied first, then `outer`.

    Raises:
        OperatorError: `inner` gives another shape than `outer` takes.
    """

    kind: ClassVar[str] = "product"

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        _check_chain(outer, inner)
        self.outer, self.inner = outer, inner
        self.input_shape, self.output_shape = inner.input_shape, outer.output_shape
        self.batch_size = outer.batch_size or inner.batch_size
        self.gain = outer.gain * inner.gain
        self.measures_picture = outer.measures_picture

    def measured(self, y: Tensor) -> Tensor:
        return self.outer.measured(y)

    def repeat_interleave(self, count: int) -> LinearOperator:
        return self.outer.repeat_interleave(count) @ self.inner.repeat_interleave(count)

    def select(self, index: int) -> LinearOperator:
        return self.outer.select(index) @ self.inner.select(index)

    def params(self) -> dict[str, Any]:
        return {"outer": self.outer.to_config(), "inner": self.inner.to_config()}

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> Operator:
        """The product of the two factors, in the class that suits them."""
        return from_config(params["outer"]) @ from_config(params["inner"])


class Composition(Product):
    """A product without a fast SVD (a mask after a blur); `pinv` and `prox` by conjugate gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


class NonlinearProduct(Operator):
    """A product of which a factor isn't linear (JPEG of a crop): `pinv` is that of `outer`, then that of `inner`.

    `gain` is that of the factors, multiplied; of an `outer` that isn't linear, what it does beyond [-1, 1] is unknown:
    with an `inner` that leads there, the bound is a guess.

    Raises:
        OperatorError: `inner` gives another shape than `outer` takes.
    """

    kind: ClassVar[str] = "product"

    def __init__(self, outer: Operator, inner: Operator) -> None:
        _check_chain(outer, inner)
        self.outer, self.inner = outer, inner
        self.input_shape, self.output_shape = inner.input_shape, outer.output_shape
        self.batch_size = outer.batch_size or inner.batch_size
        self.gain = outer.gain * (inner.gain if isinstance(outer, LinearOperator) else max(inner.gain, 1.0))
        self.measures_picture = outer.measures_picture

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def pinv(self, y: Tensor) -> Tensor:
        return self.inner.pinv(self.outer.pinv(y))

    def measured(self, y: Tensor) -> Tensor:
        return self.outer.measured(y)

    def repeat_interleave(self, count: int) -> Operator:
        return self.outer.repeat_interleave(count) @ self.inner.repeat_interleave(count)

    def select(self, index: int) -> Operator:
        return self.outer.select(index) @ self.inner.select(index)

    def params(self) -> dict[str, Any]:
        return {"outer": self.outer.to_config(), "inner": self.inner.to_config()}

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> Operator:
        """As `Product.from_params`."""
        return from_config(params["outer"]) @ from_config(params["inner"])


def _check_chain(outer: Operator, inner: Operator) -> None:
    if outer.input_shape != inner.output_shape:
        raise OperatorError(
            f"a product needs matching shapes, got {outer!r} after {inner!r}: "
            f"{inner.output_shape} is not {outer.input_shape}"
        )


def from_config(config: Mapping[str, Any]) -> Operator:
    """The operator that `operator.to_config()` describes, through JSON too.

    Raises:
        UnknownNameError: no operator is registered under `config["kind"]`.
        InvalidInputError: no such mapping, or an argument that is missing, unknown or of no use.
    """
    if not isinstance(config, Mapping):
        raise InvalidInputError(f"an operator is configured by a mapping with 'kind', got {described(config)}")
    params = dict(config)
    kind = params.pop("kind", None)
    if not isinstance(kind, str):
        raise unknown_name("operator", kind, OPERATORS)
    cls = OPERATORS[kind]
    try:
        operator: Operator = cls.from_params(params)
    except InvalidInputError:
        raise
    except RecursionError as error:
        raise InvalidInputError(f"the configuration of operator {kind!r} is nested too deeply") from error
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise InvalidInputError(f"the configuration of operator {kind!r} does not fit: {one_line(error)}") from error
    return operator
