"""Masks in files: one for all pictures, or a folder with one for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from torch import Tensor

from .. import images
from ..errors import InvalidInputError, check_bool, check_real, one_line
from .arguments import ArgumentError, ModelError, check
from .jobs import Job, Remarks
from .partners import Partners

_NEARLY_ALL = 0.95


class Masks:
    """The masks of a run; white is known and black is missing, or the other way round.

    Args:
        given: a file or a folder; None is no mask.
        invert: white is missing.
        threshold: what counts as white, in 0..1; None is the middle.
        max_pixels: of a mask.

    Raises:
        ArgumentError: no such file or folder, or `invert` or `threshold` without a mask.
        ModelError: a single mask that can't be read.
    """

    def __init__(
        self,
        given: str | PathLike[str] | None,
        invert: bool = False,
        threshold: float | None = None,
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
    ) -> None:
        self.invert = check("invert_mask", check_bool, invert)
        if given is None and (invert or threshold is not None):
            raise ArgumentError("{mask} is needed for {invert_mask} and {mask_threshold}")
        self.threshold = 0.5 if threshold is None else check("mask_threshold", check_real, threshold, 0, 1)
        if self.threshold == 1:
            raise ArgumentError("{mask_threshold} must be a number >= 0 and < 1, got {0!r}", threshold)
        self._max_pixels = max_pixels
        self.partners = None if given is None else Partners("mask", given)
        self._shared: tuple[Tensor, Remarks] | None = None
        if self.partners is not None and not self.partners.is_folder:
            self._shared = self._read(self.partners.path)

    def __bool__(self) -> bool:
        return self.partners is not None

    @property
    def shared(self) -> Tensor | None:
        """The mask (H, W) of all pictures, 1 where they are known; None if each has its own."""
        return None if self._shared is None else self._shared[0]

    def of(self, job: Job, picture: Tensor) -> tuple[Tensor, Remarks]:
        """The mask (H, W) of a picture (..., H, W), 1 where it is known, and what to say of it.

        Raises:
            ModelError: it can't be read.
            ArgumentError: it has another size than the picture.
        """
        found = self._shared
        if found is None:
            assert job.mask is not None
            found = self._read(job.mask)
        mask, remarks = found
        if mask.shape != picture.shape[-2:]:
            sizes = (f"{size[1]}x{size[0]}" for size in (mask.shape, picture.shape[-2:]))
            raise ArgumentError("{mask} has {0} pixels, the picture has {1}; they must be the same", *sizes)
        return mask, remarks

    def assign(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs with their own masks, if a folder was given.

        Raises:
            ArgumentError: the folder lacks one.
        """
        if self.partners is None or not self.partners.is_folder:
            return list(jobs)
        return [replace(job, mask=file) for job, file in zip(jobs, self.partners.match(jobs), strict=True)]

    def _read(self, file: Path) -> tuple[Tensor, Remarks]:
        try:
            mask, soft = images.read_mask(file, threshold=self.threshold, max_pixels=self._max_pixels)
        except (InvalidInputError, OSError) as error:
            raise ModelError("{mask}: {0}", one_line(error)) from error
        known = 1 - mask if self.invert else mask
        missing = 1 - float(known.mean())
        color = "white" if self.invert else "black"
        warnings = []
        if soft:
            warnings.append(f"{soft} pixels of the mask are neither black nor white; cut at {self.threshold:g}")
        if missing > _NEARLY_ALL:
            warnings.append(f"{missing:.1%} of it is missing, says the mask; if {color} means known, invert the mask")
        return known, Remarks((f"{missing:.1%} missing ({color} in the mask)",), tuple(warnings))
