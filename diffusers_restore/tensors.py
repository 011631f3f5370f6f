"""Checks of what callers give as tensors: type, dtype, shape and device. They read no values: no host sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InvalidInputError

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue: ITU-R BT.601, as in JPEG and in Pillow's mode "L"."""

_BACKENDS: Mapping[str, Any] = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}


def described(value: object) -> str:
    """What came, for an error: `torch.int64 (2, 3)`, `a numpy array of float32 (2, 3)`, `str 'x'`."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}" + (f", {value.layout}" if value.layout != torch.strided else "")
    if isinstance(value, np.ndarray):
        return f"a numpy array of {value.dtype} {value.shape}"
    return f"{type(value).__name__} {value!r:.60}"


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with all digits of their dtype, whatever autocast and torch's setting for products of float32 allow.

    A product with an SVD's basis is divided by small singular values afterwards, which would amplify what is rounded.
    """
    kind = a.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return exact_product(a, b)
    if a.dtype == torch.float32 and kind in _BACKENDS and _rounds(kind):
        return torch.matmul(a.double(), b.double()).float()
    return torch.matmul(a, b)


def _rounds(kind: str) -> bool:
    """Whether torch may multiply float32 with fewer digits."""
    matmul = getattr(_BACKENDS[kind], "matmul", None)
    precision = getattr(matmul, "fp32_precision", None)
    if precision is None:  # torch before 2.9
        return torch.get_float32_matmul_precision() != "highest"
    return precision in ("tf32", "bf16")


def working_device(network: nn.Module) -> torch.device:
    """Where a network computes: where its weights are, or where accelerate brings them for a call."""
    for part in network.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    found = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if found is None else found.device


def is_dense(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor with a place for each number: few functions of torch take sparse ones."""
    return isinstance(value, Tensor) and value.layout == torch.strided


def check_values(name: str, value: Tensor) -> Tensor:
    """`value`, if its numbers are there, each in its place: it is not sparse, not quantized and not on "meta".

    Raises:
        InvalidInputError: it is.
    """
    if not is_dense(value) or value.is_quantized or value.is_meta:
        kind = "a quantized tensor" if value.is_quantized else f"one of layout {value.layout} on {value.device}"
        raise InvalidInputError(f"{name} must be a dense tensor with values, got {kind}: {described(value)}")
    return value


def check_floats(name: str, value: object, form: str = "(B, C, H, W)") -> Tensor:
    """`value`, if it is a tensor of real floats with as many axes as `form` has, such as pictures, none of them empty.

    Raises:
        InvalidInputError: anything else.
    """
    if not is_dense(value) or not value.is_floating_point() or value.ndim != form.count(",") + 1 or not value.numel():
        raise InvalidInputError(f"{name} must be a float tensor {form}, got {described(value)}")
    return value


def check_alike(of: str, like: Tensor, **tensors: Any) -> None:
    """Check tensors that belong to `like`: floats of its shape on its device; another shape would be broadcast.

    Args:
        of: the name of `like` in errors.
        like: a float tensor.
        tensors: by their names; None is not given.

    Raises:
        InvalidInputError: one that isn't.
    """
    for name, value in tensors.items():
        if value is not None:
            check_shape(name, value, of, like.shape, like.device)


def check_shape(name: str, value: object, of: str, shape: Sequence[int], device: torch.device) -> Tensor:
    """`value`, if it is a float tensor of this shape, that of `of`, on this device.

    Raises:
        InvalidInputError: it isn't.
    """
    if not is_dense(value) or value.shape != torch.Size(shape):
        got = tuple(value.shape) if is_dense(value) else described(value)
        raise InvalidInputError(f"{name} must have the shape of {of}, {tuple(shape)}, got {got}")
    if not value.is_floating_point():
        raise InvalidInputError(f"{name} must be floats, as {of} are, got {value.dtype}")
    if value.device != device:
        raise InvalidInputError(f"{name} is on {value.device}, {of} is on {device}; move one of them")
    return value


def check_whole(name: str, value: object, count: int | None = None) -> Tensor:
    """`value`, if it is a tensor of whole numbers, (B,) or (1,), for `count` pictures; None is any number.

    Raises:
        InvalidInputError: anything else.
    """
    if not is_dense(value):
        raise InvalidInputError(f"{name} must be a tensor of whole numbers, got {value!r:.99}")
    fractions = value.dtype == torch.bool or value.is_floating_point() or value.is_complex()
    if fractions or value.ndim != 1 or (len(value) not in (1, count) if count is not None else not len(value)):
        raise InvalidInputError(
            f"{name} must be whole numbers, one for each picture, got {value.dtype} {tuple(value.shape)}"
        )
    return value
