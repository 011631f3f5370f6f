"""Shared by the checks of operators and of degradations."""

from __future__ import annotations

from torch import Tensor


class Checks:
    """Collects failed checks, so that one error lists them all; errors are relative to the largest value."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.failed: list[str] = []

    def close(self, what: str, got: Tensor, wanted: Tensor, tolerance: float | None = None) -> None:
        if got.shape != wanted.shape:
            self.failed.append(f"{what}: shape {tuple(got.shape)} instead of {tuple(wanted.shape)}")
            return
        scale = float(wanted.abs().max()) or 1.0
        error = float((got - wanted).abs().max()) / scale
        if not error <= (self.tolerance if tolerance is None else tolerance):
            self.failed.append(f"{what} is off by {error:.1e}")

    def true(self, what: str, holds: bool) -> None:
        if not holds:
            self.failed.append(what)
