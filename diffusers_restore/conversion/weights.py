"""Weights by their published names: which are missing, surplus or of another shape, and one precision for all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from ..errors import InvalidInputError


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
    """Raise InvalidInputError for weights that are no floating-point numbers."""
    for name, value in state.items():
        if not value.is_floating_point():
            raise InvalidInputError(f"{name} is {value.dtype}; weights are floating-point numbers")


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
