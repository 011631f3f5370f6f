"""What the methods of operators take: checked in one place, for the operators of other packages too.

Operators are `Any` here, since `base` imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..errors import OperatorError, check_int
from ..tensors import described, is_dense

_REAL = (torch.float32, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)
_KIND = "_coefficients"  # of an operator: (shape, whether complex) of its coefficients, once they are known


def check_images(operator: Any, name: str, value: object, shape: tuple[int, int, int]) -> Tensor:
    """`value`, if it is a batch (B, *shape) of float32 or float64 that fits the operator's batch.

    Raises:
        OperatorError: it isn't.
    """
    if not is_dense(value):
        raise OperatorError(
            f"{name} must be a torch tensor (B, C, H, W) with (C, H, W) = {shape}, got {described(value)}"
        )
    if tuple(value.shape[1:]) != shape or value.ndim != 4:
        raise OperatorError(f"{name} must be (B, C, H, W) with (C, H, W) = {shape}, got {tuple(value.shape)}")
    _check_batch(operator, name, value)
    if not len(value):
        raise OperatorError(f"{name} must hold at least one image, got {tuple(value.shape)}")
    if value.dtype not in _REAL:
        raise OperatorError(f"{name} must be float32 or float64, got {value.dtype}")
    return value


def check_together(x: Tensor, y: Tensor) -> None:
    """Raise OperatorError unless images and measurements are of one batch, dtype and device."""
    if (len(x), x.dtype, x.device) != (len(y), y.dtype, y.device):
        raise OperatorError(
            f"x and y must have the same batch, dtype and device, got {described(x)} on {x.device} and {described(y)} "
            f"on {y.device}"
        )


def check_methods(cls: type) -> None:
    """Let the methods that a class defines check what they are given."""
    for name, check in _CHECKS.items():
        if name in vars(cls):
            setattr(cls, name, _checked(vars(cls)[name], check, learns=name in ("vt", "ut")))


def _checked(method: Callable[..., Any], check: Callable[[Any, Any], object], *, learns: bool) -> Callable[..., Any]:

    @wraps(method)
    def checked(operator: Any, *args: Any, **options: Any) -> Any:
        for value in (*args, *options.values())[:1]:  # without one, Python says what is missing
            check(operator, value)
        result = method(operator, *args, **options)
        if learns and _KIND not in vars(operator) and isinstance(result, Tensor):
            object.__setattr__(operator, _KIND, (tuple(result.shape[1:]), result.is_complex()))
        return result

    return checked


def _check_coefficients(operator: Any, c: object) -> None:
    """Coefficients (B, ...) of the shape that `vt` gives; of another one, some transforms would take a part."""
    if not is_dense(c) or c.dtype not in (*_REAL, *_COMPLEX) or not c.ndim or not len(c):
        raise OperatorError(f"coefficients must be float32 or float64 as vt gives them, got {described(c)}")
    _check_batch(operator, "c", c)
    if _KIND not in vars(operator):
        with torch.no_grad():
            operator.vt(torch.zeros(operator.batch_size or 1, *operator.input_shape, device=c.device))
    shape, is_complex = vars(operator).get(_KIND, (tuple(c.shape[1:]), True))
    if tuple(c.shape[1:]) != shape or (c.is_complex() and not is_complex):
        kind = "complex" if is_complex else "real"
        raise OperatorError(f"coefficients must be (B, *{shape}), {kind}, as vt gives them, got {described(c)}")


def _check_batch(operator: Any, name: str, value: Tensor) -> None:
    if operator.batch_size not in (None, 1, value.shape[0]):
        raise OperatorError(
            f"{name} has a batch of {value.shape[0]}, the operator holds data for {operator.batch_size} images"
        )


_CHECKS: dict[str, Callable[[Any, Any], object]] = {
    "forward": lambda operator, x: operator.check_input(x),
    "adjoint": lambda operator, y: operator.check_output(y),
    "pinv": lambda operator, y: operator.check_output(y),
    "measured": lambda operator, y: operator.check_output(y),
    "y_bar": lambda operator, y: operator.check_output(y),
    "vt": lambda operator, x: operator.check_input(x),
    "ut": lambda operator, y: operator.check_output(y),
    "v": _check_coefficients,
    "u": _check_coefficients,
    "repeat_interleave": lambda _, count: check_int("count", count, 1),
    "select": lambda operator, index: check_int("index", index, 0, (operator.batch_size or float("inf")) - 1),
}
