"""A model with its options, applied to files."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import images
from ..errors import check_int
from ..images import Picture
from .arguments import check
from .jobs import Done, Job, Outcome, PathInput, describe_pages, make_folders, pair, run
from .memory import enough_memory

_GREY = 2.5 * 2 / 255
"""How far the channels of a grey picture may be apart: two levels of 8 bits, by which saving as JPEG moves them."""

Draw = Callable[[int], Tensor]
"""The number of a sample, 0 the first -> a restored picture (1, C, H, W) in [-1, 1]."""


class Restorer(ABC):
    """Options, which are checked immediately, and a pipeline, once loaded.

    Args:
        max_pixels: larger pictures are refused, before they are decoded; None is 64 million.

    Attributes:
        samples: restorations of each picture.
        average: whether their mean is the result.
        pipe: the pipeline.
    """

    samples = 1
    average = False
    pipe: Any

    def __init__(self, max_pixels: int | None = None) -> None:
        self.max_pixels = (
            images.DEFAULT_MAX_PIXELS if max_pixels is None else check("max_pixels", check_int, max_pixels, 1)
        )

    @abstractmethod
    def load(self, model: str, device: str, dtype: str) -> None:
        """Load the pipeline, and check that it supports the options.

        Raises:
            ArgumentError: it can't.
            ModelError: it can't be loaded.
        """

    @abstractmethod
    def prepare(self, picture: Picture, of_picture: bool) -> Draw:
        """A function that restores the picture, after checking that it can be restored.

        Args:
            picture: the degraded one.
            of_picture: False for an .npy file, which may hold another kind of measurement.

        Raises:
            InvalidInputError: it can't.
        """

    def restore(self, job: Job, position: str = "", *, keep: bool = False) -> Done:
        """Read a picture, restore it, write the result.

        Args:
            job: its files.
            position: text before its name in the progress bar.
            keep: keep samples that exist.

        Raises:
            InvalidInputError: the picture can't be read or restored.
            OSError: the result can't be written.
        """
        if keep and job.done:  # another run may have been faster
            _, _, height, width = images.load(job.targets[0]).tensor.shape
            return Done(job, (width, height))
        picture = images.load(job.source, max_pixels=self.max_pixels)
        alpha, bits = job.alpha(picture), job.bits(picture)
        picture, stored_as_rgb = _as_grey(picture)
        draw = self.prepare(picture, job.source.suffix.lower() != ".npy")
        size, total = (picture.tensor.shape[-1], picture.tensor.shape[-2]), torch.zeros(())
        for i in range(self.samples):
            if keep and not self.average and job.targets[i].exists():
                continue
            count = f" {i + 1}/{self.samples}" if self.samples > 1 else ""
            self.pipe.set_progress_bar_config(
                desc=f"{position}{job.name}{count}", leave=False, disable=not sys.stderr.isatty()
            )
            with enough_memory(
                "not enough memory for {0}x{1} pixels; take a smaller picture, or another {device}", *size
            ):
                x = draw(i)
            if stored_as_rgb and x.shape[1] == 1:
                x = x.expand(-1, 3, -1, -1)
            total = total + x if self.average else x
            if not self.average:
                images.save(x, job.targets[i], alpha=alpha, bits=bits, metadata=picture.metadata)
        if self.average:
            images.save(total / self.samples, job.targets[0], alpha=alpha, bits=bits, metadata=picture.metadata)
        return Done(job, (total.shape[-1], total.shape[-2]), describe_pages(picture))

    def plan(
        self, inputs: PathInput | Sequence[PathInput], output: PathInput, *, skip_existing: bool = False
    ) -> tuple[list[Job], list[Job]]:
        """The jobs to do, and those that are done; the folders for the results are not made.

        Args:
            inputs, output: as in `jobs.pair`.
            skip_existing: keep what is there.

        Raises:
            ArgumentError: nothing to read, two results of one name, or a result in the place of an input.
        """
        todo: list[Job] = []
        done: list[Job] = []
        for job in pair(inputs, output, samples=1 if self.average else self.samples):
            (done if skip_existing and job.done else todo).append(job)
        return todo, done

    def restore_files(
        self,
        inputs: PathInput | Sequence[PathInput],
        output: PathInput,
        *,
        skip_existing: bool = False,
        report: Callable[[Outcome], object] = lambda outcome: None,
    ) -> list[Outcome]:
        """Restore files, folders and patterns to a file or a folder, as the command line does.

        Args:
            inputs, output: as in `jobs.pair`.
            skip_existing: keep results that exist.
            report: is called with each outcome as soon as it is known.

        Raises:
            ArgumentError: nothing to read, two results of one name, or a result that would replace an input.
            OSError: the folder of the results can't be made.
        """
        todo, _ = self.plan(inputs, output, skip_existing=skip_existing)
        make_folders(todo)
        return run(todo, partial(self.restore, keep=skip_existing), report)


def _as_grey(picture: Picture) -> tuple[Picture, bool]:
    """A grey picture that is stored as RGB, as scanners and phones do, in one channel; and whether it is one."""
    x = picture.tensor
    if picture.bits == 32 or x.shape[1] != 3 or float((x.amax(1) - x.amin(1)).max()) > _GREY:
        return picture, False
    return replace(picture, tensor=x.mean(dim=1, keepdim=True)), True
