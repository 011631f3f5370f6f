"""Restoring from coarse to fine, so that tones are those of the whole picture."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

_COARSEST = 128
"""The least shorter side, in pixels: a network of 192 px crops sees all of it."""

_CELL = 4
"""Pixels of a side, in the coarser picture, over which tones are compared."""


def coarse_to_fine(restore: Callable[[Tensor], Tensor], picture: Tensor) -> Tensor:
    """Restore a picture with the tones that a network sees at half its size, a quarter, and so on.

    A network sees a part of a large picture at a time, and may take one face for sepia and another for skin. With D_n
    a reduction by n (antialiased), U the enlargement to the size of y, and r(y) what the network makes of y:

        x(y) = r(y) + U D_4 (x(D_2 y) - D_2 r(y)),    x(y) = r(y) where the shorter side is below 256 px

    The details are those of the whole picture, and each coarser scale costs a quarter of the next finer one. Figures:
    benchmarks/results/old_photos.md.

    Args:
        restore: of pictures (1, C, H, W) of any size in [-1, 1]; keeps their size.
        picture: y, (1, C, H, W) in [-1, 1].

    Returns:
        x, in [-1, 1], where y is and of its type.
    """
    restored = restore(picture).to(picture)
    height, width = picture.shape[2:]
    if min(height, width) < 2 * _COARSEST:
        return restored
    half = (height // 2, width // 2)
    coarse = coarse_to_fine(restore, _reduced(picture, half))
    tones = _reduced(coarse - _reduced(restored, half), (half[0] // _CELL, half[1] // _CELL))
    change = functional.interpolate(tones, (height, width), mode="bicubic")
    return (restored + change).clamp(-1, 1)


def _reduced(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size, mode="bilinear", antialias=True)
