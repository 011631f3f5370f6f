"""Files to read and write (pictures, folders and patterns to a file or a folder), and the outcomes."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..errors import InvalidInputError
from .arguments import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

    from ..images import Picture

READABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".npy")
WRITABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".npy")
ALPHA_SUFFIXES = (".png", ".webp", ".tif", ".tiff")

PathInput: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Job:
    """One input, and the files to write for it.

    Attributes:
        source: the file to read.
        targets: one file, or one for each sample.
        fixed: the caller chose the name of the target, suffix included.
    """

    source: Path
    targets: tuple[Path, ...]
    fixed: bool

    @property
    def name(self) -> str:
        """The source in printable form."""
        return _printable(self.source)

    @property
    def target_names(self) -> str:
        """The first and the last target."""
        first, last = _printable(self.targets[0]), _printable(Path(self.targets[-1].name))
        return first if len(self.targets) == 1 else f"{first} ... {last}"

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

    def bits(self, picture: Picture) -> int:
        """Bits of the result: those of the source; 8 for exact numbers, which have none."""
        return 8 if self.source.suffix.lower() == ".npy" else picture.bits


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        job: the job; its targets may have changed.
        size: (width, height) of the result; None where it failed.
        seconds: its duration.
        error: why it failed, None if it didn't.
        notes: what the caller may not expect.
    """

    job: Job
    size: tuple[int, int] | None
    seconds: float
    error: Exception | None = None
    notes: tuple[str, ...] = ()


class Done(NamedTuple):
    """What a job gave: itself, as it was done; (width, height) of the result; what the caller may not expect."""

    job: Job
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


Work = Callable[[Job, str], Done]
"""(a job, "[2/7] " or "") -> what it gave."""


def run(jobs: Sequence[Job], work: Work, report: Callable[[Outcome], object]) -> list[Outcome]:
    """Do all jobs; one that fails doesn't stop the others.

    Args:
        jobs: what to do.
        work: does one; InvalidInputError and OSError are failures of this job.
        report: is called with each outcome as soon as it is known.
    """
    outcomes = []
    for number, job in enumerate(jobs, 1):
        begin = time.perf_counter()
        try:
            done = work(job, f"[{number}/{len(jobs)}] " if len(jobs) > 1 else "")
        except (InvalidInputError, OSError) as error:
            outcomes.append(Outcome(job, None, time.perf_counter() - begin, error))
        else:
            outcomes.append(Outcome(done.job, done.size, time.perf_counter() - begin, notes=done.notes))
        report(outcomes[-1])
    return outcomes


def describe_pages(picture: Picture) -> tuple[str, ...]:
    """A note where a file holds more pictures than the one that is read."""
    return (f"holds {picture.pages} pages, of which the first is taken",) if picture.pages > 1 else ()


def restored_suffix(source: Path) -> str:
    """Suffix of the result for a picture in a folder: that of the picture, or .png if that can't be written."""
    return source.suffix if source.suffix.lower() in (*ALPHA_SUFFIXES, ".jpg", ".jpeg") else ".png"


def pair(
    inputs: PathInput | Sequence[PathInput],
    output: PathInput,
    suffix: Callable[[Path], str] = restored_suffix,
    samples: int = 1,
) -> list[Job]:
    """Pair the files to read with the files to write.

    Args:
        inputs: one or several: files, folders (with all folders in them, whose layout is kept) and patterns.
        output: a file for one picture, else a folder: one that exists, or a name with a slash at its end or no suffix.
        suffix: of the result for a source, in a folder.
        samples: results for each input, which get a number each; 1 gets none.

    Raises:
        ArgumentError: nothing to read, two results of one name, or a result that would replace an input.
    """
    sources = [_as_text("inputs", one) for one in _as_several(inputs)]
    output = _as_text("output", output)
    out = Path(output)
    folder = names_folder(output)
    single = len(sources) == 1 and Path(sources[0]).is_file()
    found = list(_expand(sources, out))
    if not folder and not single:
        raise ArgumentError(
            "{output} {0!r} is the name of one file; folders, patterns and several files need a folder", output
        )

    jobs: dict[tuple[Path, Path], Job] = {}
    for source, relative in found:
        target = out / relative.with_suffix(suffix(source)) if folder else out
        numbered = [target.with_stem(f"{target.stem}-{i + 1}") for i in range(samples)] if samples > 1 else [target]
        jobs[source, target] = Job(source, tuple(numbered), fixed=not folder)

    read = {job.source.resolve() for job in jobs.values()}
    taken: dict[str, Job] = {}
    for job in jobs.values():
        for target in job.targets:
            other = taken.setdefault(os.path.normcase(target), job)
            if other is not job:
                raise ArgumentError(
                    "{0!r} and {1!r} would both be written to {2!r}; restore them to different folders",
                    *(other.name, job.name, _printable(target)),
                )
            if target.resolve() in read:
                raise ArgumentError("{output} {0!r} would overwrite the input {1!r}", output, _printable(target))
    return list(jobs.values())


def _as_several(inputs: Any) -> list[Any]:
    if isinstance(inputs, (str, os.PathLike)):
        return [inputs]
    if not isinstance(inputs, Sequence) or not inputs:
        raise ArgumentError("{inputs} must be a file, folder or pattern, or a list of these, got {0!r:.99}", inputs)
    return list(inputs)


def _as_text(name: str, path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ArgumentError(f"{{{name}}} must be a path, got {{0!r:.99}}", path)
    return str(os.fspath(path))


def names_folder(output: str) -> bool:
    """Whether the output is a folder: one that exists, or a name that ends with a slash or has no suffix.

    Raises:
        ArgumentError: the suffix of a file names no format.
    """
    out = Path(output)
    if out.is_dir() or not out.suffix or output.endswith(("/", os.sep)):
        return True
    if out.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ArgumentError(
            "{output} {0!r}: the suffix of a file must be one of {1}; for a folder, end with a slash",
            *(output, ", ".join(WRITABLE_SUFFIXES)),
        )
    return False


def make_folders(jobs: Iterable[Job]) -> None:
    """Make the output folders, before any work is done.

    Raises:
        OSError: one can't be made or written to; the message names it.
    """
    for folder in sorted({target.parent for job in jobs for target in job.targets}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the folder {_printable(folder)!r}: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise OSError(f"cannot write in the folder {_printable(folder)!r}: no permission")


def _expand(inputs: Sequence[str], out: Path) -> Iterator[tuple[Path, Path]]:
    """Every input file, and its place in an output folder."""
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            try:
                found = [(file, file.relative_to(path)) for file in _walk(path, out)]
            except OSError as error:
                raise ArgumentError("cannot read the folder {0!r}: {1}", text, error.strerror) from error
        elif path.exists():
            yield path, Path(path.name)
            continue
        elif glob.has_magic(text):
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
            found = [(match, Path(match.name)) for match in matches if _is_readable(match)]
        else:
            raise ArgumentError("there is no file or folder {0!r}", text)
        if not found:
            where = "in the folder" if path.is_dir() else "of the pattern"
            raise ArgumentError("no pictures {0} {1!r}; they end in {2}", where, text, ", ".join(READABLE_SUFFIXES))
        yield from found


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    """The pictures in a folder and those below it, in order, without hidden ones, linked folders and the output."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink() and entry.resolve() != out.resolve():
                yield from _walk(entry, out)
        elif _is_readable(entry):
            yield entry


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in READABLE_SUFFIXES and path.is_file()


def _printable(path: Path) -> str:
    """A path as text, even if its bytes aren't valid text."""
    return os.fspath(path).encode(errors="surrogateescape").decode(errors="replace")
