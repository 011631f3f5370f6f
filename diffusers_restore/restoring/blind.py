"""When the bundled restorer leaves a picture as it is, and when a picture is beyond its training."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..errors import InvalidInputError
from ..evaluation.noise import estimate_noise
from .jobs import Remarks

LITTLE, SOMEWHERE = 0.9, 2.5
"""Grey levels of 255: restoring changes less of a clean picture, as a whole and in each part, and only does harm
(benchmarks/results/noise.md)."""

_PART = 64  # pixels of a side

_TRAINED_NOISE = 30.0  # grey levels of 255: the most that the recipe `blind` adds
_BEYOND = 1.15 * _TRAINED_NOISE


def settled(restored: Tensor, given: Tensor) -> tuple[Tensor, Remarks]:
    """The restored picture, or the given one where that was clean, and what a user should know.

    What is clean is not for the picture's noise or blocks to say: JPEG hides noise, and noise hides JPEG. The root mean
    square of what the network changes tells both, in the whole picture and where it changes most.

    Args:
        restored, given: (1, C, H, W) in [-1, 1].
    """
    if restored.shape != given.shape:
        return restored, Remarks()
    squares = (restored - given.to(restored)).float().square().mean(dim=1, keepdim=True)
    height, width = (min(_PART, side) for side in squares.shape[2:])
    parts = functional.avg_pool2d(squares, (height, width), (max(1, height // 2), max(1, width // 2)))
    change, largest = (127.5 * float(one.sqrt()) for one in (squares.mean(), parts.max()))
    if not (change < LITTLE and largest < SOMEWHERE):
        return restored, Remarks()
    note = f"left as it is: restoring would change it by only {change:.1f} of 255 grey levels"
    return given, Remarks((note,))


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
            f"{_TRAINED_NOISE:.0f} at most; the task denoise with sigma_y {noise / 127.5:.2f} does better",
        )
    )
