"""The progress of a run, and the type of its export function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


class Savable(Protocol):
    """A pipeline, or a network by itself."""

    def save_pretrained(self, save_directory: Any) -> Any:
        """Write it to a folder."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run, for model cards.

    Attributes:
        step: optimiser steps taken.
        figures: of the held-out pictures, by name; empty without held-out pictures.
        pictures: to look at, (n, C, H, W) in [-1, 1]; None if there are none.
        processes: number of training processes.
    """

    step: int
    figures: dict[str, float]
    pictures: Tensor | None
    processes: int


Export = Callable[[Mapping[str, nn.Module], Progress], None]
"""Exports the training so far: called with the measured networks, by name."""
