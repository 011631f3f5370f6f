"""Files to read and write, one job for each input, and the outcomes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from ..errors import InvalidInputError, without_controls

if TYPE_CHECKING:
    from torch import Tensor

    from ..images import Picture
    from .packed import Packed

WRITABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".npy")
ALPHA_SUFFIXES = (".png", ".webp", ".tif", ".tiff")
_LONGEST = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}
"""Pixels that a side of a picture may have."""

T = TypeVar("T")

PathInput: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Job:
    """One input, and the files to write for it.

    Attributes:
        source: the file to read, or what to read of a file.
        targets: one file, or one for each sample.
        fixed: the caller chose the name of the target, suffix included.
        relative: the place of the source below the folder that was given, else its name.
        mask: the file of its own mask, None where all pictures share one or need none.
    """

    source: Path | Packed
    targets: tuple[Path, ...]
    fixed: bool
    relative: Path = Path()
    mask: Path | None = None

    @property
    def of_picture(self) -> bool:
        """False for an .npy file, which may hold another kind of measurement."""
        return self.source.suffix.lower() != ".npy"

    @property
    def name(self) -> str:
        """The source in printable form."""
        return printable(self.source)

    @property
    def target_names(self) -> str:
        """The first and the last target."""
        first, last = printable(self.targets[0]), printable(Path(self.targets[-1].name))
        return first if len(self.targets) == 1 else f"{first} ... {last}"

    @property
    def file(self) -> Path | None:
        """The file that is read, which may hold more; None for a data set."""
        return self.source if isinstance(self.source, Path) else self.source.file

    @property
    def done(self) -> bool:
        """Whether all targets exist."""
        return all(target.exists() for target in self.targets)

    def as_numbers(self, task: str) -> Job:
        """The job with a .npy target, for a measurement that is no picture."""
        if self.fixed and self.targets[0].suffix.lower() != ".npy":
            raise InvalidInputError(f"a measurement for the task {task} is no picture; write it to a .npy file")
        return replace(self, targets=tuple(target.with_suffix(".npy") for target in self.targets))

    def alpha(self, picture: Picture) -> Tensor | None:
        """The transparency to put back; an error before any work is done if the file can't hold it."""
        suffix = self.targets[0].suffix.lower()
        if picture.alpha is None or suffix in ALPHA_SUFFIXES:
            return picture.alpha
        if bool((picture.alpha < 1).any()):
            raise InvalidInputError(
                f"the picture has transparency, which {suffix} cannot hold; write one of {', '.join(ALPHA_SUFFIXES)}"
            )
        return None

    def check_size(self, height: int, width: int) -> None:
        """An error before any work is done if the file can't hold as large a picture."""
        suffix = self.targets[0].suffix.lower()
        longest = _LONGEST.get(suffix, height + width)
        if max(height, width) > longest:
            raise InvalidInputError(
                f"the result is {width}x{height}, and {suffix} has at most {longest} pixels a side; write one of "
                f"{', '.join(other for other in WRITABLE_SUFFIXES if other not in _LONGEST)}"
            )

    def bits(self, picture: Picture) -> int:
        """Bits of the result: those of the source; 8 for exact numbers, which have none."""
        return picture.bits if self.of_picture else 8


@dataclass(frozen=True)
class Remarks:
    """What the caller may want to know of a result.

    Attributes:
        notes: how it was made.
        warnings: what may be wrong with it.
        scores: figures by name, such as psnr.
    """

    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Remarks) -> Remarks:
        return Remarks(self.notes + other.notes, self.warnings + other.warnings, {**self.scores, **other.scores})


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        job: the job; its targets may have changed.
        size: (width, height) of the result; None where it failed.
        seconds: its duration.
        error: why it failed, None if it didn't.
        remarks: what the caller may want to know.
        number, count: which job of how many.
        seconds_left: how long the others will take, if they take as long as those that are done.
    """

    job: Job
    size: tuple[int, int] | None
    seconds: float
    error: Exception | None = None
    remarks: Remarks = Remarks()
    number: int = 1
    count: int = 1
    seconds_left: float = 0.0


class Done(NamedTuple):
    """What a job gave: itself, as it was done; (width, height) of the result; what the caller may want to know."""

    job: Job
    size: tuple[int, int]
    remarks: Remarks = Remarks()


Result: TypeAlias = Done | InvalidInputError | OSError
"""What became of a job."""

Work = Callable[[Job, str], Done]
"""(a job, "[2/7, 3 min left] " or "") -> what it gave."""

BatchWork = Callable[[Sequence[Job], str], Sequence[Result]]
"""(jobs that are done together, "[2-5/7, 3 min left] " or "") -> what became of each."""


def attempt(work: Callable[..., T], *arguments: Any) -> T | InvalidInputError | OSError:
    """What a function gives, or why it failed."""
    try:
        return work(*arguments)
    except (InvalidInputError, OSError) as error:
        return error


def run(jobs: Sequence[Job], work: Work, report: Callable[[Outcome], object]) -> list[Outcome]:
    """Do all jobs; one that fails doesn't stop the others.

    Args:
        jobs: what to do.
        work: does one; InvalidInputError and OSError are failures of this job.
        report: is called with each outcome as soon as it is known.
    """
    return run_batches([[job] for job in jobs], lambda batch, position: [attempt(work, batch[0], position)], report)


def run_batches(
    batches: Sequence[Sequence[Job]], work: BatchWork, report: Callable[[Outcome], object]
) -> list[Outcome]:
    """The same for jobs of which several are done together."""
    outcomes: list[Outcome] = []
    start, count = time.perf_counter(), sum(map(len, batches))
    for jobs in batches:
        begin, left, number = time.perf_counter(), outcomes[-1].seconds_left if outcomes else 0.0, len(outcomes) + 1
        about = f", {duration(left)} left" if left else ""
        numbers = f"{number}" if len(jobs) == 1 else f"{number}-{number + len(jobs) - 1}"
        results = work(jobs, f"[{numbers}/{count}{about}] " if count > 1 else "")
        end = time.perf_counter()
        for job, result in zip(jobs, results, strict=True):
            done = len(outcomes) + 1
            left, seconds = (end - start) / done * (count - done), (end - begin) / len(jobs)
            if isinstance(result, Done):
                outcomes.append(Outcome(*result[:2], seconds, None, result.remarks, done, count, left))
            else:
                outcomes.append(Outcome(job, None, seconds, result, Remarks(), done, count, left))
            report(outcomes[-1])
    return outcomes


def duration(seconds: float) -> str:
    """As 40 s, 12 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def describe_pages(picture: Picture) -> Remarks:
    """A warning where a file holds more pictures than the one that is read."""
    return Remarks(warnings=(f"holds {picture.pages} pages, of which the first is taken",) if picture.pages > 1 else ())


def make_folders(jobs: Iterable[Job]) -> None:
    """Make the output folders, before any work is done.

    Raises:
        OSError: one can't be made or written to; the message names it.
    """
    for folder in sorted({target.parent for job in jobs for target in job.targets}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the folder {printable(folder)!r}: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise OSError(f"cannot write in the folder {printable(folder)!r}: no permission")


def printable(path: Path | Packed) -> str:
    """A path as text of one line, even if its bytes aren't valid text, or would steer a terminal."""
    text = str(path).encode(errors="surrogateescape").decode(errors="replace")
    return without_controls(text)
