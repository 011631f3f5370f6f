"""Linear measurement operators A: what a picture goes through before it is measured, y = A x + noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OperatorError, check_int, check_real

Shape = tuple[int, int, int]


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
            with torch.inference_mode(False):  # what is kept must be of use outside, too
                self._cast[key] = self.values.to(device=x.device, dtype=dtype)
        return self._cast[key]


class LinearOperator(ABC):
    """A linear map from images (B, *input_shape) to measurements (B, *output_shape).

    An operator is an immutable value built for one image shape. It has no device and no dtype of its own: results are
    on the device and in the dtype of the input, float32 or float64. Where no SVD is known, `pinv` and `prox` are
    solved by conjugate gradients.

    Attributes:
        kind: the name in the registry and in `to_config()`.
        input_shape, output_shape: (C, H, W).
        batch_size: how many images the operator holds data for (per-image masks), or None where it suits any batch.
        measures_picture: whether measurements look like pictures, so that a picture file can hold them.
        gain: an upper bound (to one percent) of |A x| for |x| <= 1, elementwise.
    """

    kind: ClassVar[str]
    input_shape: Shape
    output_shape: Shape
    batch_size: int | None = None
    gain: float = 1.0
    measures_picture: bool = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: (B, *input_shape) -> (B, *output_shape)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: (B, *output_shape) -> (B, *input_shape)."""

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """The arguments of the class, as JSON values."""

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> LinearOperator:
        """The operator with the arguments that `params()` gave."""
        return cls(**params)

    def pinv(self, y: Tensor) -> Tensor:
        """The least-norm least-squares solution A^+ y, (B, *output_shape) -> (B, *input_shape)."""
        return conjugate_gradients(lambda x: self.adjoint(self.forward(x)), self.adjoint(y))

    def prox(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        """argmin_z |A z - y|^2 + weight |z - x|^2, for weight > 0; shapes of x and of the result (B, *input_shape)."""
        weight = check_real("weight", weight, above=0)
        residual = self.adjoint(y - self.forward(x))
        return x + conjugate_gradients(lambda d: self.adjoint(self.forward(d)) + weight * d, residual)

    def measured(self, y: Tensor) -> Tensor:
        """y with zeros where nothing is measured: a mask's holes; every other operator returns y as it is."""
        return y

    def repeat_interleave(self, count: int) -> LinearOperator:
        """The operator for a batch in which every image stands `count` times in a row."""
        return self

    def select(self, index: int) -> LinearOperator:
        """The operator of one image of the batch."""
        return self

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        """The product: first `inner`, then this one. It keeps an SVD where that is exact."""
        if not isinstance(inner, LinearOperator):
            return NotImplemented
        from .products import compose  # products know the concrete operators, which are built on this module

        return compose(self, inner)

    def to_config(self) -> dict[str, Any]:
        """The operator as JSON values; `operators.from_config` builds it again."""
        return {"kind": self.kind, **self.params()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.input_shape} -> {self.output_shape}>"

    def check_input(self, x: Tensor) -> Tensor:
        return self._checked("x", x, self.input_shape)

    def check_output(self, y: Tensor) -> Tensor:
        return self._checked("y", y, self.output_shape)

    def _checked(self, name: str, tensor: Tensor, shape: Shape) -> Tensor:
        if tuple(tensor.shape[1:]) != shape or tensor.ndim != 4:
            raise OperatorError(f"{name} must be (B, C, H, W) with (C, H, W) = {shape}, got {tuple(tensor.shape)}")
        if self.batch_size not in (None, 1, tensor.shape[0]):
            raise OperatorError(
                f"{name} has a batch of {tensor.shape[0]}, the operator holds data for {self.batch_size} images"
            )
        if tensor.dtype not in (torch.float32, torch.float64):
            raise OperatorError(f"{name} must be float32 or float64, got {tensor.dtype}")
        return tensor


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
        return self.u(scale(self.vt(self.check_input(x)), self.singular_values.like(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.v(scale(self.ut(self.check_output(y)), self.singular_values.like(y)))

    def y_bar(self, y: Tensor) -> Tensor:
        """S^+ U^T y, the measurement in coefficients of the image; zero where the singular value is zero."""
        return scale(self.ut(self.check_output(y)), self._inverse_values.like(y))

    def pinv(self, y: Tensor) -> Tensor:
        return self.v(self.y_bar(y))

    def prox(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        weight = check_real("weight", weight, above=0)
        s = self.singular_values.like(x)
        return x + self.v(s / (s * s + weight) * (self.ut(self.check_output(y)) - s * self.vt(self.check_input(x))))

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
        """The one singular value that is not zero, if there is only one; it makes methods simpler."""
        s = self.singular_values.values
        s = s[s > 0]
        return float(s[0]) if bool((s == s[0]).all()) else None


def scale(c: Tensor, factor: Tensor) -> Tensor:
    """c times a real factor, for real and complex coefficients, without making the factor complex."""
    if not c.is_complex():
        return c * factor
    return torch.view_as_complex(torch.view_as_real(c) * factor[..., None])


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], right: Tensor, *, max_iterations: int = 500, tolerance: float | None = None
) -> Tensor:
    """Solve M x = b for a symmetric positive (semi)definite M, each image of the batch on its own.

    Starting from zero, the solution stays in the range of M, so for M = A^T A and b = A^T y it is the pseudo-inverse.
    Each image stops moving once its residual is below `tolerance` |b| (default: ten units of rounding).
    """
    tolerance = 10 * torch.finfo(right.dtype).eps if tolerance is None else tolerance

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(1, 2, 3), keepdim=True)

    x, residual = torch.zeros_like(right), right
    direction, norm = residual, dot(residual, residual)
    stop = norm * tolerance**2
    for _ in range(min(max_iterations, 2 * prod(right.shape[1:]))):
        active = norm > stop
        if not bool(active.any()):
            break
        image = matrix(direction)
        curvature = dot(direction, image)
        step = torch.where(active & (curvature > 0), norm / curvature, 0.0)
        x = x + step * direction
        residual = residual - step * image
        new_norm = dot(residual, residual)
        direction = residual + torch.where(active, new_norm / norm, 0.0) * direction
        norm = torch.where(active, new_norm, norm)
    return x
