"""Damaged pictures to try the page with, made of a bundled photograph."""

from __future__ import annotations

from pathlib import Path

from .. import images, operators
from ..degradations import recipes
from .asking import BETTER, OLD, TASK

PHOTOS = Path(__file__).parent.parent / "assets" / "photos"

EXAMPLES = {"a noisy photograph": BETTER, "a scratched one": OLD, "a small one": TASK}
"""What there is to try, and what to do with it."""

_SEEDS = {BETTER: 1, OLD: 3}


def make(name: str, folder: Path) -> Path:
    """The file of an example, made where it isn't there yet; always the same.

    Args:
        name: of `EXAMPLES`.
        folder: that exists.
    """
    target = folder / f"{name.removeprefix('a ').replace(' ', '_')}.png"
    if target.exists():
        return target
    goal = EXAMPLES[name]
    clean = images.load(PHOTOS / ("coffee.png" if goal == TASK else "chelsea.png")).tensor
    if goal == TASK:
        _, channels, height, width = clean.shape
        damaged = operators.create("sr4", image_shape=(channels, height, width)).forward(clean)
    elif goal == OLD:
        damaged = recipes.create("old_photos", scratches=True)(clean, [_SEEDS[goal]]).degraded
    else:
        damaged = recipes.create("blind")(clean, [_SEEDS[goal]]).degraded
    images.save(damaged, target)
    return target
