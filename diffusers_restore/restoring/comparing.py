"""Results beside their references and their inputs: figures, and a sheet of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional

from .. import images
from ..evaluation.metrics import SSIM_SIDE, psnr, skimage, ssim
from ..evaluation.report import Cell, contact_sheet, save_sheet
from .arguments import ArgumentError, check_path
from .jobs import Job, Remarks, printable
from .packed import Packed, load
from .pairing import check_writable
from .partners import Partners

_SHEET_SIDE = 384
_SHEET_PICTURES = 24
_SHEET_LETTERS = 22
_SHEET_SAMPLES = 4


class Comparison:
    """What is compared in a run.

    Args:
        jobs: all of them.
        reference: the undamaged picture, or a folder with one for each.
        sheet: a picture file to write.
        max_pixels: of each picture.

    Raises:
        ArgumentError: a reference that isn't there, no scikit-image for its figures, or a sheet that can't be written.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        reference: str | PathLike[str] | None,
        sheet: str | PathLike[str] | None,
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
    ) -> None:
        self._max_pixels = max_pixels
        self._references: dict[Path | Packed, Path] = {}
        self.files: list[Path] = []
        if reference is not None:
            try:
                skimage("metrics")
            except ImportError as error:
                raise ArgumentError("{reference}: {0}", error) from error
            partners = Partners("reference", reference)
            if not partners.is_folder and len(jobs) > 1:
                raise ArgumentError("{reference} must be a folder for {0} pictures, got {1!r}", len(jobs), reference)
            self.files = list(partners.files())
            self._references = {job.source: file for job, file in zip(jobs, partners.match(jobs), strict=True)}
        self._sheet = None if sheet is None else check_path("sheet", sheet, "a picture file to write")
        if self._sheet is not None:
            check_writable("sheet", self._sheet)
            if not self._sheet.parent.is_dir():
                raise ArgumentError("{sheet}: there is no folder {0!r}", printable(self._sheet.parent))
            if self._sheet.resolve() in {target.resolve() for job in jobs for target in job.targets}:
                raise ArgumentError("{sheet} {0!r} would overwrite a result of this run", printable(self._sheet))
        self._cells: list[list[Cell]] = []  # of each picture

    def __bool__(self) -> bool:
        return bool(self._references) or self._sheet is not None

    def look(self, job: Job) -> Remarks:
        """The figures of a job that is done; its row of the sheet.

        Raises:
            ImageError: a file that can't be read.
        """
        results = [images.load(target, max_pixels=self._max_pixels).tensor for target in job.targets]
        source = load(job.source, max_pixels=self._max_pixels).tensor
        file = self._references.get(job.source)
        reference = None if file is None else images.load(file, max_pixels=self._max_pixels).tensor
        remarks = Remarks()
        if reference is not None:
            remarks = _figures(source, results, reference)
        if self._sheet is not None and len(self._cells) < _SHEET_PICTURES:
            captions = ["restored" if len(results) == 1 else f"sample {i + 1}" for i in range(len(results))]
            if len(results) == 1 and "psnr" in remarks.scores:
                captions[0] += f", {remarks.scores['psnr']:.2f} dB"
            shown = [(_short(job.relative.as_posix()), source), *zip(captions, results[:_SHEET_SAMPLES], strict=False)]
            shown += [] if reference is None else [("reference", reference)]
            longest = max(max(picture.shape[2:]) for _, picture in shown)
            self._cells.append([Cell(caption, _shown(picture, longest)) for caption, picture in shown])
        return remarks

    def finish(self) -> None:
        """Write the sheet.

        Raises:
            ImageError: it can't be written.
        """
        if self._sheet is not None and self._cells:
            beside = max(1, math.isqrt(len(self._cells) // max(map(len, self._cells))))  # about as wide as high
            rows = [self._cells[i : i + beside] for i in range(0, len(self._cells), beside)]
            save_sheet(contact_sheet([("", list(chain(*row))) for row in rows]), self._sheet)


def _figures(source: Tensor, results: Sequence[Tensor], reference: Tensor) -> Remarks:
    """PSNR in dB and SSIM, of several samples their means, and those of the input where its size is the same."""

    def pair_up(x: Tensor) -> tuple[Tensor, Tensor] | None:
        if x.shape[2:] != reference.shape[2:] or {x.shape[1], reference.shape[1]} - {1, 3}:
            return None
        channels = max(x.shape[1], reference.shape[1])
        return x.expand(-1, channels, -1, -1)[0], reference.expand(-1, channels, -1, -1)[0]

    pairs = [pair for x in results if (pair := pair_up(x)) is not None]
    if len(pairs) < len(results):
        sizes = [f"{x.shape[-1]}x{x.shape[-2]}" for x in (reference, results[0])]
        return Remarks(warnings=(f"has a reference of {sizes[0]}, and a result of {sizes[1]}: they aren't compared",))
    before = pair_up(source)
    scores = {}
    for name, figure, side in (("psnr", psnr, 1), ("ssim", ssim, SSIM_SIDE)):
        if min(reference.shape[2:]) < side:
            continue
        scores[name] = fmean(figure(*pair) for pair in pairs)
        if before is not None:
            scores[f"{name}_input"] = figure(*before)
    return Remarks(scores=scores)


def mean_scores(all_scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The means over those that have a finite figure."""
    names = dict.fromkeys(name for scores in all_scores for name in scores)
    means = {}
    for name in names:
        values = [scores[name] for scores in all_scores if math.isfinite(scores.get(name, math.nan))]
        if values:
            means[name] = fmean(values)
    return means


def _shown(picture: Tensor, longest: int) -> Tensor | None:
    """A picture in the size of its row, None for numbers.

    Args:
        picture: (1, C, H, W).
        longest: side of a picture of the row; it gets at most `_SHEET_SIDE` pixels, and about half of that.
    """
    if picture.shape[1] not in (1, 3):
        return None
    side = min(longest, _SHEET_SIDE) * max(1, _SHEET_SIDE // 2 // longest)
    longer = max(picture.shape[2:])
    size = [max(1, round(one * side / longer)) for one in picture.shape[2:]]
    if longer > side:
        picture = functional.interpolate(picture, size, mode="bicubic", antialias=True)
    else:  # pixels stay visible
        picture = functional.interpolate(picture, size, mode="nearest")
    return torch.clamp(picture[0], -1, 1)


def _short(name: str) -> str:
    """A name that fits above a picture of the sheet."""
    return name if len(name) <= _SHEET_LETTERS else f"…{name[1 - _SHEET_LETTERS :]}"
