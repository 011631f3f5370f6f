"""A model with its options, applied to files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import images
from ..errors import InvalidInputError, check_int, check_real, one_line
from ..files import write_bytes
from ..images import Picture
from .arguments import ArgumentError, check, check_flag
from .comparing import Comparison
from .draws import Draw, draw_together
from .jobs import (
    Done,
    Job,
    Outcome,
    PathInput,
    Remarks,
    Result,
    attempt,
    describe_pages,
    duration,
    make_folders,
    run_batches,
)
from .manifest import Manifest
from .masks import Masks
from .memory import enough_memory
from .opened import Opened, as_grey, could_be, grouped
from .packed import load, size_of
from .pairing import (
    DEFAULT_DATASET,
    DatasetOptions,
    check_not_overwritten,
    check_outside,
    check_quality,
    files_of,
    names_folder,
    pair,
    restored_suffix,
)
from .processes import Processes
from .progress import bar_options
from .room import AUTO, LARGE, check_tile, make_room, seconds
from .watching import Step, stoppable


class Restorer(ABC):
    """Options, which are checked immediately, and a pipeline, once loaded.

    Args:
        max_pixels: larger pictures are refused, before they are decoded; None is 64 million.
        strength: how much of the change is made: 0 gives the input, None and 1 the restoration.
        quality: of JPEG and WebP files, 1..100; None is 95, and WebP without loss.
        tile: how much of a picture the network sees at once: "off" all of it, a number of pixels tiles with such sides,
            "auto" tiles where all of it takes more than 3.5 GB, or more memory than is free.

    Attributes:
        samples: restorations of each picture.
        average: whether their mean is the result.
        masks: of the pictures.
        settings: what the results depend on beside the pictures, for a list of what is done.
        quiet: whether no progress is shown.
        tell: is called with a sentence about what a large picture will take, before the work begins.
        watch: is called with each `Step` of what has several; None if nobody looks.
        stop: is asked before each evaluation of a network; where it is true, `Stopped` ends the work.
        makes_masks: whether results are masks: black and white, opaque, of 8 bits.
        pipe: the pipeline.
    """

    samples = 1
    average = False
    quiet = makes_masks = False
    tell: Callable[[str], object] = staticmethod(lambda sentence: None)
    watch: Callable[[Step], object] | None = None
    stop: Callable[[], bool] | None = None
    pipe: Any

    def __init__(
        self,
        max_pixels: int | None = None,
        strength: float | None = None,
        quality: int | None = None,
        tile: int | str = AUTO,
    ) -> None:
        self.max_pixels = (
            images.DEFAULT_MAX_PIXELS if max_pixels is None else check("max_pixels", check_int, max_pixels, 1)
        )
        self.strength = 1.0 if strength is None else check("strength", check_real, strength, 0, 1)
        self.quality = None if quality is None else check("quality", check_int, quality, 1, 100)
        self.tile = check_tile(tile)
        self.masks = Masks(None)
        self.settings: dict[str, Any] = {}

    @abstractmethod
    def load(self, model: str, device: str, dtype: str) -> None:
        """Load the pipeline, and check that it supports the options.

        Raises:
            ArgumentError: it can't.
            ModelError: it can't be loaded.
        """

    @abstractmethod
    def prepare(self, picture: Picture, job: Job) -> tuple[Draw, Remarks]:
        """A function that restores the picture, after checking that it can be restored, and what to say of that.

        Args:
            picture: the degraded one.
            job: its files.

        Raises:
            InvalidInputError: it can't.
        """

    @property
    def files_read(self) -> dict[str, Iterable[Path]]:
        """The files that each argument has read, beside the pictures."""
        return {} if self.masks.partners is None else {"mask": self.masks.partners.files()}

    @property
    def network(self) -> Any:
        """The network of the pipeline, the first of several."""
        return self.pipe.unet

    @property
    def pipes(self) -> Sequence[Any]:
        """The pipelines, of which there may be several."""
        return [self.pipe]

    @property
    def description(self) -> str:
        """The model and its method, for a reader."""
        parameters = sum(one.numel() for one in self.network.parameters()) / 1e6
        where = f"{self.network.dtype} on {self.pipe.device}".removeprefix("torch.")
        return f"{type(self.pipe).__name__} with {parameters:.1f} million parameters, {where}"

    def restore(self, job: Job, position: str = "", *, keep: bool = False) -> Done:
        """Read a picture, restore it, write the result.

        Args:
            job: its files.
            position: text before its name in the progress bar.
            keep: keep samples that exist.

        Raises:
            InvalidInputError: the picture can't be read or restored.
            OSError: the result can't be written.
            Stopped: `stop` was true.
        """
        (result,) = self.restore_together([job], position, keep=keep)
        if isinstance(result, Exception):
            raise result
        return result

    def restore_together(self, jobs: Sequence[Job], position: str = "", *, keep: bool = False) -> list[Result]:
        """What becomes of each picture, where those of one size that need the same are restored at once."""
        with stoppable(self.pipes, self.stop):
            return self._restore_together(jobs, position, keep)

    def _restore_together(self, jobs: Sequence[Job], position: str, keep: bool) -> list[Result]:
        opened = [attempt(self._open, job, keep) for job in jobs]
        # By shape first: how a pipeline sees large pictures is set for one shape at a time.
        for same in grouped((one for one in opened if isinstance(one, Opened)), lambda one: one.picture.tensor.shape):
            for one in same:
                one.failure = attempt(self._prepare, one)
            for together in grouped(same, lambda one: one.draw.key or one.job):
                self._restore(together, position, keep)
        return [one.result if isinstance(one, Opened) else one for one in opened]

    def _open(self, job: Job, keep: bool) -> Opened | Done:
        if keep and job.done:  # another run may have been faster
            _, _, height, width = images.load(job.targets[0], max_pixels=self.max_pixels).tensor.shape
            return Done(job, (width, height))
        picture = load(job.source, max_pixels=self.max_pixels)
        alpha, bits = (None, 8) if self.makes_masks else (job.alpha(picture), job.bits(picture))
        picture, stored_as_rgb = as_grey(picture)
        return Opened(job, picture, stored_as_rgb, alpha, bits)

    def _prepare(self, one: Opened) -> None:
        one.draw, remarks = self.prepare(one.picture, one.job)
        one.remarks = describe_pages(one.picture) + remarks

    def _restore(self, together: Sequence[Opened], position: str, keep: bool) -> None:
        for i in range(self.samples):
            wanted = [one for one in together if one.failure is None and not (keep and self._has(one.job, i))]
            if not wanted:
                continue
            names = wanted[0].job.name + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
            count = f" {i + 1}/{self.samples}" if self.samples > 1 else ""
            self.pipe.set_progress_bar_config(**bar_options(f"{position}{names}{count}", self.quiet))
            self._restore_sample(wanted, i)

    def _restore_sample(self, together: Sequence[Opened], number: int) -> None:
        drawn = attempt(self._draw, together, number)
        if isinstance(drawn, Exception) and len(together) > 1:  # one of them, or all at once, is too much
            for one in together:
                self._restore_sample([one], number)
            return
        for n, one in enumerate(together):
            one.failure = drawn if isinstance(drawn, Exception) else attempt(self._add, one, drawn[n], number)

    def _has(self, job: Job, number: int) -> bool:
        """Whether the file of a sample is there."""
        return not self.average and job.targets[number].exists()

    def _draw(self, pictures: Sequence[Opened], number: int) -> Sequence[Tensor]:
        height, width = pictures[0].picture.tensor.shape[-2:]
        with enough_memory(
            "not enough memory for {0}x{1} pixels; take a smaller picture, or another {device}", width, height
        ):
            try:
                return draw_together([one.draw for one in pictures], number)
            except InvalidInputError:
                raise
            except ValueError as error:  # of a network, such as a norm of a single pixel: other pictures may do
                raise InvalidInputError(f"the model fails for {width}x{height} pixels: {one_line(error)}") from error

    def _add(self, one: Opened, x: Tensor, number: int) -> None:
        """Write a sample, or the mean after the last one."""
        x, remarks = self.settle(x, one.picture.tensor)
        one.remarks += remarks if number == 0 else Remarks()
        unchanged = x is one.picture.tensor
        if one.stored_as_rgb and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        one.size = (x.shape[-1], x.shape[-2])
        target = one.job.targets[0 if self.average else number]
        if self.average:
            one.total = x if one.total is None else one.total + x
            if number < self.samples - 1:
                return
            x = one.total / self.samples
        copied = unchanged and not self.average and self.quality is None and one.picture.pages == 1
        if copied and could_be(one.job.source, target):
            write_bytes(target, one.job.source.read_bytes())  # JPEG would lose by being encoded again
            return
        quality = self.quality if target.suffix.lower() in images.QUALITY_SUFFIXES else None
        images.save(x, target, alpha=one.alpha, bits=one.bits, metadata=one.picture.metadata, quality=quality)

    _find_room = staticmethod(make_room)

    def _make_room(
        self,
        pipe: Any,
        job: Job,
        shape: Sequence[int],
        more_per_pixel: int,
        evaluations: int,
        gradient: bool = False,
        beside: Callable[[], float] = float,
    ) -> Remarks:
        """See that the memory suffices, by tiles where that helps; say what a large picture will take.

        Args:
            pipe: that is about to work.
            job: its files.
            shape: (..., H, W) of the restored picture.
            more_per_pixel: bytes that the restoration needs beside the network.
            evaluations: of the network.
            gradient: whether the method goes back through the network.
            beside: finds out how many seconds an evaluation takes beside the network.

        Raises:
            InvalidInputError: the file can't hold as large a picture.
            ArgumentError: a tile for a method that needs a gradient.
            ModelError: the memory is too small.
        """
        height, width = shape[-2:]
        job.check_size(height, width)
        room = self._find_room(pipe, pipe.unet, shape, more_per_pixel, self.tile, gradient=gradient)
        seen = f"{room.tiles} {'blended ' if room.blended else ''}tiles" if room.tiles > 1 else ""
        if height * width >= LARGE:
            long = seconds(pipe.unet, room)
            about = "" if long is None else f"about {duration((long + beside()) * evaluations * self.samples)}"
            words = [f"{job.name}: {width}x{height}", seen, about, f"{room.needed / 1e9:.1f} GB of memory"]
            self.tell(", ".join(filter(None, words)))
        return Remarks((f"seen in {seen}",)) if seen else Remarks()

    def settle(self, restored: Tensor, given: Tensor) -> tuple[Tensor, Remarks]:
        """What becomes of a restored picture, by `strength` between the one that was given and itself.

        Args:
            restored, given: (1, C, H, W) in [-1, 1]; their shapes may differ.

        Raises:
            InvalidInputError: they do, and the strength isn't 1.
        """
        if self.strength == 1:
            return restored, Remarks()
        if restored.shape != given.shape:
            raise InvalidInputError(
                f"strength must be 1 where the result has another size or other colours than the picture: "
                f"{tuple(restored.shape[1:])} and {tuple(given.shape[1:])}, got {self.strength:g}"
            )
        return torch.lerp(given.to(restored), restored, self.strength), Remarks()

    def plan(
        self,
        inputs: PathInput | Sequence[PathInput],
        output: PathInput,
        *,
        skip_existing: bool = False,
        tell: Callable[[str], object] = lambda left_out: None,
        dataset: DatasetOptions = DEFAULT_DATASET,
    ) -> tuple[list[Job], list[Job]]:
        """The jobs to do, and those that are done; the folders for the results are not made.

        Args:
            inputs, output, dataset: as in `pairing.pair`.
            skip_existing: keep what is there.
            tell: is called with a sentence about what lies in a folder and is no picture.

        Raises:
            ArgumentError: nothing to read, two results of one name, or a result in the place of a file that is read.
        """
        suffix: Any = (lambda source: ".png") if self.makes_masks else restored_suffix
        samples = 1 if self.average else self.samples
        jobs = self.masks.assign(pair(inputs, output, suffix, samples, tell, dataset))
        check_not_overwritten(jobs, self.files_read)
        check_quality(jobs, self.quality)
        check_outside(jobs, str(self.settings.get("model", "")))
        todo: list[Job] = []
        done: list[Job] = []
        for job in jobs:
            (done if skip_existing and job.done else todo).append(job)
        return todo, done

    def restore_files(
        self,
        inputs: PathInput | Sequence[PathInput],
        output: PathInput,
        *,
        skip_existing: bool = False,
        resume: bool = False,
        reference: str | PathLike[str] | None = None,
        sheet: str | PathLike[str] | None = None,
        batch_size: int = 1,
        dataset: DatasetOptions = DEFAULT_DATASET,
        report: Callable[[Outcome], object] = lambda outcome: None,
    ) -> list[Outcome]:
        """Restore files, folders and patterns to a file or a folder, as the command line does.

        Args:
            inputs, output, dataset: as in `pairing.pair`.
            skip_existing: keep results that exist.
            resume: keep results that a run with the same options has made of the same pictures.
            reference: the undamaged picture, or a folder with one for each: gives psnr and ssim.
            sheet: a picture file to write, with the pictures before and after.
            batch_size: how many pictures of one size are restored at once, which changes no result; a CPU's networks
                see one at a time all the same.
            report: is called with each outcome as soon as it is known.

        Raises:
            ArgumentError: nothing to read, two results of one name, or a result that would replace a file that is read.
            OSError: the folder of the results can't be made.
        """
        if not callable(report):
            raise ArgumentError("{report} must be a function of an Outcome, got {0!r:.99}", report)
        batch = Batch(
            self,
            inputs,
            output,
            skip_existing=skip_existing,
            resume=resume,
            reference=reference,
            sheet=sheet,
            batch_size=batch_size,
            dataset=dataset,
        )
        return batch.run(report)


class Batch:
    """The files of a run, checked before a model is loaded.

    Args:
        restorer: with its options; its pipeline is needed only by `run`.
        inputs, output, skip_existing, resume, reference, sheet, batch_size, dataset: as in `Restorer.restore_files`.
        tell: is called with a sentence about what lies in a folder and is no picture.
        processes: that share the files, each of which has a batch like this one.

    Attributes:
        todo: the jobs to do, of this process.
        done: those that are done, of this process's share.

    Raises:
        ArgumentError: nothing to read, two results of one name, or a result that would replace a file that is read.
    """

    def __init__(
        self,
        restorer: Restorer,
        inputs: PathInput | Sequence[PathInput],
        output: PathInput,
        *,
        skip_existing: bool = False,
        resume: bool = False,
        reference: str | PathLike[str] | None = None,
        sheet: str | PathLike[str] | None = None,
        batch_size: int = 1,
        dataset: DatasetOptions = DEFAULT_DATASET,
        tell: Callable[[str], object] = lambda left_out: None,
        processes: Processes | None = None,
    ) -> None:
        self.restorer, self._processes = restorer, processes or Processes()
        if sheet is not None and self._processes.count > 1:
            raise ArgumentError(
                "{sheet} is for one process, which sees all results; there are {0}", self._processes.count
            )
        self._skip, self._resume = check_flag("skip_existing", skip_existing), check_flag("resume", resume)
        if reference is not None and restorer.makes_masks:
            raise ArgumentError("{reference} has no meaning where masks are made")
        self._size = check("batch_size", check_int, batch_size, 1)
        todo, done = restorer.plan(inputs, output, skip_existing=skip_existing, tell=tell, dataset=dataset)
        self._manifest: Manifest | None = None
        if names_folder(str(output)):
            shared = [] if restorer.masks.shared is None else list(restorer.files_read.get("mask", []))
            files = [*shared, *restorer.files_read.get("kernel", [])]
            self._manifest = Manifest(Path(output), restorer.settings, files, resume)
            done += [job for job in todo if self._manifest.has(job)]
        elif resume:
            raise ArgumentError("{resume} is for a folder of results; {output} {0!r} is a file", str(output))
        finished = set(done)
        jobs = [*done, *(job for job in todo if job not in finished)]
        self._any = len(jobs) > len(done)
        jobs[len(done) :] = by_size(jobs[len(done) :]) if self._size > 1 else jobs[len(done) :]
        self.done, self.todo = self._processes.share(done), self._processes.share(jobs[len(done) :])
        self.comparison = Comparison(jobs, reference, sheet, restorer.max_pixels)
        check_not_overwritten(jobs, {"reference": self.comparison.files})
        if sheet is not None:
            drawn = [Job(Path(sheet), (Path(sheet),), fixed=True)]
            read = {"inputs": files_of(jobs), "reference": self.comparison.files}
            check_not_overwritten(drawn, read | restorer.files_read, written_by="sheet")
            check_outside(drawn, str(restorer.settings.get("model", "")), written_by="sheet")

    def make_folders(self) -> None:
        """Make the folders of the results.

        Raises:
            OSError: one can't be made.
        """
        make_folders(self.todo)

    @property
    def resumable(self) -> bool:
        """Whether another run can go on where this one is stopped."""
        return self._manifest is not None

    @cached_property
    def remarks_of_done(self) -> list[Remarks]:
        """The figures of the jobs that are done already, one for each."""
        return [self._compare(job) for job in self.done]

    def run(self, report: Callable[[Outcome], object] = lambda outcome: None) -> list[Outcome]:
        """Restore what is to do, and compare all; the pipeline is loaded, if anything is to do.

        Args:
            report: is called with each outcome as soon as it is known.

        Raises:
            OSError: a folder can't be made, or the list of what is done can't be written.
            ImageError: the sheet can't be written.
        """
        self.make_folders()
        forgets = self._manifest is not None and not self._resume and self._processes.rank == 0
        if forgets and self._manifest is not None and self._any:
            self._manifest.remove()
        self._processes.wait()  # all have seen what is done; from here on, more is
        _ = self.remarks_of_done  # for the sheet
        batches = [self.todo[i : i + self._size] for i in range(0, len(self.todo), self._size)]
        outcomes = run_batches(batches, self._work, report)
        self._processes.wait()
        if forgets and self._manifest is not None:
            self._manifest.remove()  # the run has come to its end
        self.comparison.finish()
        return outcomes

    def _work(self, jobs: Sequence[Job], position: str) -> list[Result]:
        # a picture may change meanwhile
        before = [None if self._manifest is None else self._manifest.state(job) for job in jobs]
        results = self.restorer.restore_together(jobs, position, keep=self._skip)
        return [attempt(self._note, result, state) for result, state in zip(results, before, strict=True)]

    def _note(self, result: Result, state: str | None) -> Done:
        if isinstance(result, Exception):
            raise result
        if self._manifest is not None:
            self._manifest.add(result.job, state)
        return result._replace(remarks=result.remarks + self._compare(result.job))

    def _compare(self, job: Job) -> Remarks:
        if not self.comparison:
            return Remarks()
        try:
            return self.comparison.look(job)
        except InvalidInputError as error:
            return Remarks(warnings=(f"isn't compared: {error}",))


def by_size(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, those with pictures of one size together."""
    return sorted(jobs, key=lambda job: size_of(job.source))
