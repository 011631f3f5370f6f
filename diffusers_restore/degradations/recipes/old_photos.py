"""Old photographs, as "Bringing Old Photos Back to Life" makes them (arXiv:2004.09484)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import check_bool
from .base import Recipe, Streams
from .steps import Step, draw_seed, resized


@dataclass(frozen=True)
class OldPhotos(Recipe):
    """Blur, noise, loss of resolution and JPEG in any order, each with p = 0.7, 8 bits after each (arXiv:2004.09484).

    - blur: Gaussian of 3, 5 or 7 taps, sigma 1..5;
    - noise: Gaussian or speckle of sigma 5..50 (of 255), or salt and pepper on 0..1 % of the values of each channel;
    - smaller by a factor 0.5..1 for each side, bicubic, and back, by nearest pixels or bilinear;
    - JPEG of quality 40..100, with chroma at half the size.

    With p = 0.1 both the result and the target then become grey. Cropping and mirroring are left to the data loader.

    Args:
        scratches: with p = 0.5, add white strokes and spots, which the mask shows. Their shapes are ours; the authors
            use a set of irregular masks.
    """

    scratches: bool = False

    kind: ClassVar[str] = "old_photos"

    def __post_init__(self) -> None:
        check_bool("scratches", self.scratches)

    def steps(self, streams: Streams, height: int, width: int) -> list[Step]:
        makers: list[Callable[[np.random.Generator], list[Step]]] = [
            gaussian_blur,
            _noise,
            lambda draw: _smaller(draw, height, width),
            rough_jpeg,
        ]
        result: list[Step] = []
        for slot in streams(0).permutation(4).tolist():
            draw = streams(1 + slot)
            if draw.random() < 0.7:
                result += [*makers[slot](draw), {"op": "round"}]
        if streams(5).random() < 0.1:
            result += [{"op": "grey"}, {"op": "round"}]
        draw = streams(6)
        if self.scratches and draw.random() < 0.5:
            result.append({"op": "scratches", "segments": _segments(draw)})
        return result


def gaussian_blur(draw: np.random.Generator) -> list[Step]:
    """A Gaussian of 3, 5 or 7 taps, sigma 1..5."""
    size = 3 + 2 * int(draw.integers(3))
    return [{"op": "blur", "kernel": "iso", "size": size, "sigma": draw.uniform(1.0, 5.0)}]


def _noise(draw: np.random.Generator) -> list[Step]:
    kind, seed = ("gaussian", "speckle", "salt_and_pepper")[draw.integers(3)], draw_seed(draw)
    if kind == "salt_and_pepper":
        return [{"op": kind, "amount": draw.uniform(0, 0.01), "salt": draw.uniform(0.3, 0.8), "seed": seed}]
    return [{"op": kind, "sigma": draw.uniform(5, 50) / 255, "grey": False, "seed": seed}]


def _smaller(draw: np.random.Generator, height: int, width: int) -> list[Step]:
    rows, columns = (max(1, int(draw.integers(n // 2, n + 1))) for n in (height, width))
    back = ("nearest-exact", "bilinear")[draw.integers(2)]
    return [resized(rows / height, columns / width, "bicubic", antialias=True), resized(1.0, 1.0, back)]


def rough_jpeg(draw: np.random.Generator) -> list[Step]:
    """JPEG of quality 40..100."""
    return [{"op": "jpeg", "quality": int(draw.integers(40, 101)), "subsampled": True}]


def _segments(draw: np.random.Generator) -> list[list[float]]:
    """One to six crooked strokes, and up to four spots, which are short and thick strokes: see `capsules`."""
    result: list[list[float]] = []
    strokes, spots = int(draw.integers(1, 7)), int(draw.integers(0, 5))
    for i in range(strokes + spots):
        stroke = i < strokes
        count = int(draw.integers(4, 17)) if stroke else int(draw.integers(3, 10))
        length = draw.uniform(0.01, 0.08) if stroke else draw.uniform(0.005, 0.03)
        thickness = draw.uniform(0.001, 0.007) if stroke else draw.uniform(0.003, 0.02)
        turning = 0.3 if stroke else 2.0
        x, y = draw.uniform(0, 1, 2)
        heading = draw.uniform(0, 2 * math.pi)
        for _ in range(count):
            heading += turning * draw.standard_normal()
            end = x + length * math.cos(heading), y + length * math.sin(heading)
            result.append([float(n) for n in (x, y, *end, thickness * draw.uniform(0.3, 1.7))])
            x, y = end
    return result
