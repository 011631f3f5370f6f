"""Checks of the tensors that a step takes."""

from __future__ import annotations

from torch import Tensor

from ..errors import InvalidInputError


def check_shape(name: str, value: object, of: str, like: Tensor) -> None:
    """Raise InvalidInputError for anything but a tensor of the shape of `like`; another would be broadcast."""
    if not isinstance(value, Tensor) or value.shape != like.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InvalidInputError(f"{name} must have the shape of {of}, {tuple(like.shape)}, got {got}")


def check_shapes(of: str, like: Tensor, **tensors: Tensor | None) -> None:
    """`check_shape` for each tensor that is given."""
    for name, value in tensors.items():
        if value is not None:
            check_shape(name, value, of, like)
