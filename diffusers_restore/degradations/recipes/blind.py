"""The damage of ordinary photographs, for one small network that restores any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Recipe, Streams
from .steps import KEEP, Step, draw_seed, resized


@dataclass(frozen=True)
class Blind(Recipe):
    """Blur, loss of resolution, noise and JPEG, each by chance and mild; ours, after Real-ESRGAN (arXiv:2107.10833).

    Of 100 pictures, 5 stay as they are, so that the network learns to leave clean pictures alone. The others get, in
    this order:

    - p 0.5: Gaussian blur, sigma 0.2..2 pixels;
    - p 0.2: smaller by a factor 0.5..1 and back, bicubic or bilinear, antialiased on the way down;
    - p 0.8: noise, Gaussian of sigma 1..30 (of 255) or Poisson times 0.05..3, 40 % of it the same in R, G and B;
    - p 0.8: JPEG of quality 25..95, 70 % with chroma at half the size.
    """

    kind: ClassVar[str] = "blind"

    def steps(self, streams: Streams, height: int, width: int) -> list[Step]:
        if streams(0).random() < 0.05:
            return []
        nothing: Step = {"op": KEEP}
        blur = down = up = noise = jpeg = nothing
        draw = streams(1)
        if draw.random() < 0.5:
            blur = {"op": "blur", "kernel": "iso", "size": 13, "sigma": draw.uniform(0.2, 2.0)}
        draw = streams(2)
        if draw.random() < 0.2:
            factor, mode = draw.uniform(0.5, 1.0), ("bicubic", "bilinear")[draw.integers(2)]
            down, up = resized(factor, factor, mode, antialias=True), resized(1.0, 1.0, mode)
        draw = streams(3)
        if draw.random() < 0.8:
            grey, seed = bool(draw.random() < 0.4), draw_seed(draw)
            if draw.random() < 0.5:
                noise = {"op": "gaussian", "sigma": draw.uniform(1, 30) / 255, "grey": grey, "seed": seed}
            else:
                noise = {"op": "poisson", "rate": 255.0, "scale": draw.uniform(0.05, 3), "grey": grey, "seed": seed}
        draw = streams(4)
        if draw.random() < 0.8:
            jpeg = {"op": "jpeg", "quality": draw.uniform(25, 95), "subsampled": bool(draw.random() < 0.7)}
        return [blur, down, up, noise, jpeg]
