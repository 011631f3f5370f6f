"""Line drawings of photographs, to train what makes a photograph of a drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import InvalidInputError, check_real
from .base import Recipe, Streams
from .steps import MAX_EDGE_SIGMA, Step


@dataclass(frozen=True)
class Edges(Recipe):
    """The edges of a picture by Canny's method, in black on white; in between, the picture fades into the drawing.

    How fine the drawing is varies from picture to picture, so that a network learns to fill in coarse ones, too. See
    `canny` for the formula and the units; the thresholds are absolute, so that a wall without a crack stays white.

    Args:
        sigma_min, sigma_max: the Gaussian's sigma in pixels is drawn uniformly from this range; equal ones fix it.
        low, high: thresholds of the gradient, in luma (0..1) per pixel.

    Raises:
        InvalidInputError: a number is out of range, or a lower bound is above the upper one.
    """

    sigma_min: float = 0.8
    sigma_max: float = 1.6
    low: float = 0.02
    high: float = 0.05

    kind: ClassVar[str] = "edges"
    keeps_grey: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("sigma_min", "sigma_max"):
            check_real(name, getattr(self, name), 0, MAX_EDGE_SIGMA)
        for name in ("low", "high"):
            check_real(name, getattr(self, name), above=0)
        for lower, upper in (("sigma_min", "sigma_max"), ("low", "high")):
            if getattr(self, lower) > getattr(self, upper):
                raise InvalidInputError(
                    f"{lower} must not be above {upper}, got {getattr(self, lower)!r} and {getattr(self, upper)!r}"
                )

    def steps(self, streams: Streams, height: int, width: int) -> list[Step]:
        sigma = streams(0).uniform(self.sigma_min, self.sigma_max)
        return [{"op": "edges", "sigma": sigma, "low": self.low, "high": self.high}]
