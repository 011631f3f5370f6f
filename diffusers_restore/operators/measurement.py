"""Measurements y = A(x) + sigma_y z, z ~ N(0, 1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InvalidInputError, OperatorError, check_int, check_real
from .base import LinearOperator, Operator, SVDOperator


@dataclass(frozen=True, eq=False)
class Measurement:
    """A measurement y (B, *operator.output_shape) of images in [-1, 1] by `operator`, with noise of sd `sigma_y`.

    `sigma_y` is in the unit of y and is never rescaled: a noise of 25/255 grey levels is sigma_y = 50/255. `stated` is
    the operator as it was stated, where `operator` is its product with the crop of a larger canvas or with grey; None
    is `operator` itself.

    Raises:
        OperatorError: shape or batch of y do not fit the operator.
        InvalidInputError: y or sigma_y is not finite, or sigma_y is negative.
    """

    y: Tensor
    operator: Operator
    sigma_y: float = 0.0
    stated: Operator | None = None

    def __post_init__(self) -> None:
        _check_operator(self.operator)
        self.operator.check_output(self.y)
        check_real("sigma_y", self.sigma_y, 0)
        if not bool(torch.isfinite(self.y).all()):
            raise InvalidInputError("the measurement y holds NaN or infinite values; every value must be finite")

    @property
    def linear(self) -> LinearOperator:
        """The operator, if it is linear; otherwise an error."""
        if not isinstance(self.operator, LinearOperator):
            raise OperatorError(f"{self.operator!r} is not linear, so that it has no SVD and no adjoint")
        return self.operator

    @property
    def svd(self) -> SVDOperator:
        """The operator, if it has an SVD; otherwise an error."""
        if not isinstance(self.linear, SVDOperator):
            raise OperatorError(
                f"{self.operator!r} has no fast SVD, which DDRM needs; its pinv and prox work by conjugate gradients. "
                "A mask can't follow a blur: measure the blurred picture whole, or only mask it"
            )
        return self.linear

    def split(self, size: int) -> list[Measurement]:
        """The measurements of `size` images each; size is 1, or that of the batch."""
        if check_int("size", size, 1, len(self.y)) not in (1, len(self.y)):
            raise InvalidInputError(f"size must be 1 or {len(self.y)}, that of the batch, got {size}")
        if size == len(self.y):
            return [self]
        stated = [None if self.stated is None else self.stated.select(i) for i in range(len(self.y))]
        parts = [(self.y[i : i + 1], self.operator.select(i), self.sigma_y, stated[i]) for i in range(len(self.y))]
        return [Measurement(*part) for part in parts]

    @cached_property
    def measured_y(self) -> Tensor:
        """y with zeros where nothing was measured, made once: what lies there, such as a scratch, is no data."""
        return self.operator.measured(self.y)

    @cached_property
    def y_bar(self) -> Tensor:
        """S^+ U^T y, made once and used at every step."""
        return self.svd.y_bar(self.y)


def measure(
    operator: Operator, x: Tensor, sigma_y: float = 0.0, generator: torch.Generator | None = None
) -> Measurement:
    """Measure clean images x (B, *operator.input_shape) in [-1, 1]: y = A(x) + sigma_y z with Gaussian noise z.

    Noise is drawn in float32 on the generator's device, so that a CPU generator gives the same measurement on every
    device. A mask measures nothing where it is zero, noise included.

    Raises:
        OperatorError: shape or batch of x do not fit the operator.
        InvalidInputError: no operator, no generator, or a sigma_y that is no number >= 0.
    """
    _check_operator(operator)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InvalidInputError(f"generator must be a torch.Generator or None, got {generator!r}")
    sigma_y = check_real("sigma_y", sigma_y, 0)
    y = operator.forward(x)
    if sigma_y > 0:
        device = generator.device if generator is not None else "cpu"
        noise = torch.randn(y.shape, generator=generator, device=device).to(y)
        y = y + sigma_y * operator.measured(noise)
    return Measurement(y, operator, sigma_y)


def _check_operator(operator: object) -> None:
    if not isinstance(operator, Operator):
        raise OperatorError(f"operator must be an Operator, got {operator!r:.99}")
