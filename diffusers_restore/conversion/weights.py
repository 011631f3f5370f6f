"""Weights by their published names: which are missing, surplus or of another shape, and one precision for all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..tensors import described, is_dense

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def weight_of(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A weight with two dimensions or more.

    Raises:
        InvalidInputError: it is missing, or has fewer dimensions, or none of its numbers is there.
    """
    if name not in state:
        raise InvalidInputError(f"the checkpoint lacks {name}")
    if state[name].ndim < 2 or not state[name].numel():
        raise InvalidInputError(
            f"{name} has the shape {tuple(state[name].shape)}; at least two dimensions were expected, none of them 0"
        )
    return state[name]


def check_floating(state: Mapping[str, Tensor]) -> None:
    """Raise InvalidInputError for weights that are no floating-point numbers of 16 to 64 bits."""
    for name, value in state.items():
        if value.dtype not in _DTYPES:
            raise InvalidInputError(f"{name} is {value.dtype}; weights are floating-point numbers of 16 to 64 bits")


def check_stored(state: Mapping[str, Tensor]) -> None:
    """Raise InvalidInputError for tensors that aren't finite numbers, each stored in a place of its own.

    A file of a few bytes may state billions of numbers that are all one and the same.
    """
    for name, value in state.items():
        stored = is_dense(value) and not value.is_meta and not value.is_quantized
        if not stored or value.untyped_storage().nbytes() < value.numel() * value.itemsize:
            raise InvalidInputError(f"{name} is {described(value)} without a number for each place")
        if value.dtype in _DTYPES and not bool(value.isfinite().all()):
            raise InvalidInputError(f"{name} holds NaN or Inf")


def check_names(state: Mapping[str, Tensor], wanted: Collection[str], network: str) -> None:
    """Raise InvalidInputError if the names aren't those that a network has, and name what is missing and surplus."""
    missing, surplus = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    found = [f"the checkpoint lacks {_listed(missing)}"] * bool(missing)
    found += [f"the checkpoint holds weights that {network} has no place for: {_listed(surplus)}"] * bool(surplus)
    if found:
        raise InvalidInputError("; ".join(found))


def in_one_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights in the widest of their precisions, and each in one piece, as files need them."""
    dtype = reduce(torch.promote_types, {value.dtype for value in weights.values()})
    return {name: value.to(dtype).contiguous() for name, value in weights.items()}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
