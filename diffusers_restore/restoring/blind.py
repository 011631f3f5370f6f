"""When the bundled restorer leaves a picture as it is, and when a picture is beyond its training."""

from __future__ import annotations

from torch import Tensor

from ..errors import InvalidInputError
from ..evaluation.noise import estimate_noise
from .jobs import Remarks

LITTLE = 1.5
"""Grey levels of 255: of a clean picture, restoring changes less, and only does harm (benchmarks/results/noise.md)."""

_TRAINED_NOISE = 30.0  # grey levels of 255: the most that the recipe `blind` adds
_BEYOND = 1.15 * _TRAINED_NOISE


def settled(restored: Tensor, given: Tensor) -> tuple[Tensor, Remarks]:
    """The restored picture, or the given one where that was clean, and what a user should know.

    What is clean is not for the picture's noise or blocks to say: JPEG hides noise, and noise hides JPEG. The root mean
    square of what the network changes tells both.

    Args:
        restored, given: (1, C, H, W) in [-1, 1].
    """
    if restored.shape != given.shape:
        return restored, Remarks()
    change = 127.5 * float((restored - given.to(restored)).square().mean().sqrt())
    if not change < LITTLE:
        return restored, Remarks()
    return given, Remarks((f"left as it is: clean, restoring would change it by {change:.1f} of 255 grey levels",))


def of_noise(picture: Tensor) -> Remarks:
    """What a user should know of a picture (1, C, H, W) in [-1, 1] that has more noise than the restorer was shown."""
    try:
        noise = 127.5 * estimate_noise(picture)
    except InvalidInputError:  # too small
        return Remarks()
    if noise <= _BEYOND:
        return Remarks()
    return Remarks(
        warnings=(
            f"has noise of about {noise:.0f} of 255 grey levels, and this restorer was trained for "
            f"{_TRAINED_NOISE:.0f} at most; the task denoise with a noise of {noise / 127.5:.2f} does better",
        )
    )
