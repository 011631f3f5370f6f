"""How a picture is restored, alone or beside others of its kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """How a picture is restored: a function of tensors, which takes several pictures where theirs are stacked.

    Attributes:
        work: (`inputs`, the number of a sample, 0 the first) -> restored pictures (B, C, H, W) in [-1, 1]; what it
            makes of a picture doesn't depend on the others.
        inputs: (1, ...) each, by name.
        alike: where it is equal, and not None, the functions are, too.
    """

    work: Callable[[Mapping[str, Tensor], int], Tensor]
    inputs: Mapping[str, Tensor]
    alike: Hashable = None

    @property
    def key(self) -> Hashable:
        """What pictures that are restored together have in common; None for one that is restored alone."""
        shapes = tuple((name, tuple(one.shape)) for name, one in self.inputs.items())
        return None if self.alike is None else (self.alike, shapes)


def draw_together(draws: Sequence[Draw], number: int) -> Sequence[Tensor]:
    """A sample of each picture, (1, C, H, W); all have the same key."""
    if len(draws) == 1:
        return [draws[0].work(draws[0].inputs, number)]
    inputs = {name: torch.cat([draw.inputs[name] for draw in draws]) for name in draws[0].inputs}
    return draws[0].work(inputs, number).split(1)


def generators(seed: int, inputs: Mapping[str, Tensor]) -> list[torch.Generator]:
    """One for each picture, all with one seed, on the CPU: the same noise on every device, and beside any others."""
    count = len(next(iter(inputs.values())))
    return [torch.Generator().manual_seed(seed) for _ in range(count)]
