"""What the bundled restorer looks for before it touches a picture: whether it is clean, or beyond its training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import InvalidInputError
from ..evaluation.noise import estimate_noise
from .jobs import Remarks

# Where restoring begins to help (benchmarks/results/noise.md).
_CLEAN_NOISE = 2.5  # grey levels of 255
_CLEAN_BLOCKS = 1.065
_SHARP = 0.305
_TRAINED_NOISE = 30.0  # grey levels of 255: the most that the recipe `blind` adds
_BEYOND = 1.15 * _TRAINED_NOISE


@dataclass(frozen=True)
class Findings:
    """What a picture looks like.

    Attributes:
        noise: its sd in grey levels of 255, None if the picture is too small to tell.
        blocks: differences across the borders of JPEG's blocks over those inside; 1 without blocks.
        fineness: energy of the differences of neighbours over that of pixels two apart: 0.25 of a smooth picture, 1 of
            white noise.
    """

    noise: float | None
    blocks: float
    fineness: float

    @property
    def clean(self) -> bool:
        """Whether restoring would do more harm than good."""
        few = self.noise is not None and self.noise < _CLEAN_NOISE
        return few and self.blocks < _CLEAN_BLOCKS and self.fineness > _SHARP

    @property
    def remarks(self) -> Remarks:
        """What a user should know."""
        if self.clean:
            return Remarks((f"left as it is: sharp, without JPEG blocks, noise {self.noise:.1f} of 255 grey levels",))
        if self.noise is None or self.noise <= _BEYOND:
            return Remarks()
        return Remarks(
            warnings=(
                f"has noise of about {self.noise:.0f} of 255 grey levels, and this restorer was trained for "
                f"{_TRAINED_NOISE:.0f} at most; the task denoise with a noise of {self.noise / 127.5:.2f} does better",
            )
        )


def examine(picture: Tensor) -> Findings:
    """Look at a picture (1, C, H, W) in [-1, 1]."""
    try:
        noise = 127.5 * estimate_noise(picture)
    except InvalidInputError:  # too small
        return Findings(None, 1.0, 0.0)
    grey = picture.mean(dim=1)[0]
    across, down = grey.diff(dim=1), grey.diff(dim=0)
    blocks = (_border_ratio(across.abs().mean(dim=0)) + _border_ratio(down.abs().mean(dim=1))) / 2
    near = float(across.square().mean() + down.square().mean())
    far = float((grey[:, 2:] - grey[:, :-2]).square().mean() + (grey[2:] - grey[:-2]).square().mean())
    return Findings(noise, blocks, near / far if far > 0 else 0.0)


def _border_ratio(differences: Tensor) -> float:
    """The mean of every eighth difference, where JPEG's blocks meet, over the mean of the others."""
    border = differences[7::8].mean()
    others = (differences.sum() - differences[7::8].sum()) / (len(differences) - len(differences[7::8]))
    return float(border / others) if float(others) > 0 else 1.0
