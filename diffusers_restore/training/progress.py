"""How far a run is, and what is called with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Progress:
    """How far a run is: what a model card reports.

    Attributes:
        step: optimiser steps that were taken.
        figures: of the held-out pictures, by name; empty without held-out pictures.
        pictures: to look at, (n, C, H, W) in [-1, 1]; None if there are none.
        processes: that trained.
    """

    step: int
    figures: dict[str, float]
    pictures: Tensor | None
    processes: int


Export = Callable[[Mapping[str, nn.Module], Progress], None]
"""Writes what was trained so far: called with the measured networks, by name."""
