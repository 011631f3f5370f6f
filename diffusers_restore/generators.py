"""Generators of torch: one for a batch, or one for each picture of it."""

from __future__ import annotations

from typing import TypeAlias

import torch

from .errors import InvalidInputError

Generators: TypeAlias = torch.Generator | list[torch.Generator] | None


def check_generators(generator: Generators, pictures: int) -> Generators:
    """The generator, or the list with one for each picture.

    Raises:
        InvalidInputError: anything else; of a longer list, diffusers would use the first ones without a word.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if not isinstance(generator, list) or not all(isinstance(one, torch.Generator) for one in generator):
        raise InvalidInputError(f"generator must be a torch.Generator or a list of them, got {generator!r}")
    if len(generator) != pictures:
        raise InvalidInputError(f"generator must be one, or a list of {pictures} for this batch; got {len(generator)}")
    return generator
