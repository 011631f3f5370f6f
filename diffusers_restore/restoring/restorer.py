"""A model with its options, applied to files."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import images
from ..images import Picture
from .jobs import Job, Outcome, make_folders, pair, run

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
        self.max_pixels = images.DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels

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

    def restore(self, job: Job, position: str = "", *, keep: bool = False) -> tuple[Job, tuple[int, int]]:
        """Read a picture, restore it, write the result; returns the job, and (width, height) of the result.

        Args:
            job: its files.
            position: text before its name in the progress bar.
            keep: keep samples that exist.

        Raises:
            InvalidInputError: the picture can't be read or restored.
            OSError: the result can't be written.
        """
        picture = images.load(job.source, max_pixels=self.max_pixels)
        alpha, bits = job.alpha(picture), job.bits(picture)
        draw = self.prepare(picture, job.source.suffix.lower() != ".npy")
        total = torch.zeros(())
        for i in range(self.samples):
            if keep and not self.average and job.targets[i].exists():
                continue
            count = f" {i + 1}/{self.samples}" if self.samples > 1 else ""
            self.pipe.set_progress_bar_config(
                desc=f"{position}{job.name}{count}", leave=False, disable=not sys.stderr.isatty()
            )
            x = draw(i)
            total = total + x if self.average else x
            if not self.average:
                images.save(x, job.targets[i], alpha=alpha, bits=bits)
        if self.average:
            images.save(total / self.samples, job.targets[0], alpha=alpha, bits=bits)
        return job, (total.shape[-1], total.shape[-2])

    def restore_files(
        self,
        inputs: Sequence[str],
        output: str,
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
        jobs = pair(inputs, output, samples=1 if self.average else self.samples)
        todo = [job for job in jobs if not (skip_existing and job.done)]
        make_folders(todo)
        return run(todo, partial(self.restore, keep=skip_existing), report)
