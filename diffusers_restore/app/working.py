"""Restores for visitors: one job at a time, in a thread that a page looks at, and that can be stopped."""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from .. import restoring
from ..errors import InvalidInputError, one_line
from ..restoring import Outcome
from ..restoring.jobs import duration
from ..restoring.packed import TAR
from ..restoring.pairing import restored_suffix
from ..restoring.watching import Step, Stopped
from .asking import LABELS, Asked
from .views import as_data

_EVERY = 0.2
"""Seconds between two estimates that are shown."""

_LAST = 20.0
"""Seconds in which work that is stopped at the end of all should have seen it."""

LONGEST = 6 * 3600
"""Seconds for which files are kept of pages that were never closed."""


@dataclass(frozen=True)
class Working:
    """How far the work is.

    Attributes:
        text: for a reader.
        share: of all, 0..1.
        estimate: the address of a small picture of what is known so far, None if there is nothing new.
    """

    text: str
    share: float
    estimate: str | None = None


@dataclass(frozen=True)
class Ended:
    """The end of the work.

    Attributes:
        outcomes: of the pictures that were done.
        inputs: names of the pictures, as a command would be given them.
        output: name of the result, or of the folder of results.
        error: why it ended early, if it did.
        stopped: whether the visitor stopped it.
    """

    outcomes: Sequence[Outcome] = ()
    inputs: Sequence[str] = ()
    output: str = ""
    error: str | None = None
    stopped: bool = False


News: TypeAlias = Working | Ended


@dataclass
class Visit:
    """What a visitor has here, until the page is closed.

    Attributes:
        folder: for all that is made.
        stop: set to end the work; each run has one of its own.
        working: the `stop` of the run that is at work, None if none is.
        uploads: the files that came.
        first: the one that the page shows.
        runs: how many there were.
        seen: when it last asked for something, by the monotonic clock.
    """

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    working: threading.Event | None = None
    uploads: set[Path] = field(default_factory=set)
    first: Path | None = None
    runs: int = 0
    seen: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Get ready for a run; the one before ends, even if it hasn't yet seen that it is to stop."""
        self.stop.set()
        self.stop = threading.Event()

    def new_folder(self) -> Path:
        """An empty folder for a run."""
        self.runs += 1
        folder = self.folder / f"{self.runs:04d}"
        folder.mkdir(parents=True)
        return folder


class Workshop:
    """A device, on which one job is done at a time, and the visits to it.

    Args:
        device, dtype: as of `restoring.load`.
        max_pixels: of a picture, of its restoration and of a mask.
    """

    def __init__(self, device: str = "auto", dtype: str = "auto", max_pixels: int | None = None) -> None:
        self.device, self.dtype, self.max_pixels = device, dtype, max_pixels
        self.root = Path(tempfile.mkdtemp(prefix="diffusers_restore-app-"))
        self.uploads = self.root / "uploads"  # what comes, and the page's copies of what goes
        self._lock = threading.Lock()  # one job at a time
        self._visits: dict[str, Visit] = {}

    @property
    def options(self) -> dict[str, Any]:
        """What all work is done with, but for what is always so."""
        given = {"device": self.device, "dtype": self.dtype, "max_pixels": self.max_pixels}
        return {name: value for name, value in given.items() if value not in ("auto", None)}

    def visit(self, name: str) -> Visit:
        """That of a visitor, whose name is the browser's to choose."""
        if name not in self._visits:
            self._forget()
        visit = self._visits.setdefault(name, Visit(self.root / uuid.uuid4().hex))
        visit.seen = time.monotonic()
        return visit

    def find(self, name: str) -> Visit | None:
        """That of a visitor who is still here."""
        return self._visits.get(name)

    def _forget(self) -> None:
        """Remove what is left of pages that were never closed; one whose work goes on is open."""
        now = time.monotonic()
        for name, visit in list(self._visits.items()):
            if visit.working is None and now - visit.seen > LONGEST:
                self.leave(name)
        self._sweep(LONGEST)

    def _sweep(self, age: float) -> None:
        """Remove uploads and copies of such an age in seconds."""
        latest = time.time() - age
        for file in self.uploads.rglob("*"):
            with suppress(OSError):  # another one removes it
                if file.is_file() and file.stat().st_ctime <= latest:
                    file.unlink()

    def leave(self, name: str) -> None:
        """End a visit: its work is stopped, its files are removed."""
        visit = self._visits.pop(name, None)
        if visit is None:
            return
        visit.stop.set()
        shutil.rmtree(visit.folder, ignore_errors=True)
        others = {file for other in self._visits.values() for file in other.uploads}
        for file in visit.uploads - others:  # the same picture has one file, whoever brings it
            file.unlink(missing_ok=True)
        if not self._visits:  # no copy is of use to anybody
            self._sweep(0)

    def close(self) -> None:
        """End all visits, and remove all files."""
        for name in list(self._visits):
            self.leave(name)
        if self._lock.acquire(timeout=_LAST):  # a process that ends with a thread within PyTorch is aborted
            self._lock.release()
        shutil.rmtree(self.root, ignore_errors=True)

    def work(self, visit: Visit, asked: Asked, files: Sequence[Path], folder: Path) -> Iterator[News]:
        """Restore files, and tell how far it is; the last news is the end.

        Args:
            visit: whose `stop` ends it.
            asked: the model and its options.
            files: the pictures.
            folder: for the results.
        """
        news: queue.SimpleQueue[News] = queue.SimpleQueue()
        stop = visit.working = visit.stop
        thread = threading.Thread(target=self._run, args=(stop, asked, files, folder, news.put), daemon=True)
        thread.start()
        one: News | None = None
        try:
            while True:
                one = news.get()
                while isinstance(one, Working) and not news.empty():  # older ones are of no interest
                    one = news.get()
                yield one
                if isinstance(one, Ended):
                    return
        finally:
            if not isinstance(one, Ended):  # nobody looks any more
                stop.set()
            if visit.working is stop:
                visit.working, visit.seen = None, time.monotonic()

    def _run(self, stop: threading.Event, asked: Asked, files: Sequence[Path], folder: Path, tell: Any) -> None:
        if not self._lock.acquire(blocking=False):
            tell(Working("Waiting for another picture to be done", 0.0))
            while not self._lock.acquire(timeout=_EVERY):
                if stop.is_set():
                    return tell(Ended(stopped=True))
        try:
            tell(self._restored(stop, asked, files, folder, tell))
        except Stopped:
            tell(Ended(stopped=True))
        except (InvalidInputError, OSError) as error:
            tell(Ended(error=message(error)))
        except Exception as error:  # a visitor sees what went wrong, the terminal sees where
            tell(Ended(error=f"{type(error).__name__}: {one_line(error)}; the terminal shows more"))
            raise
        finally:
            self._lock.release()

    def _restored(self, stop: threading.Event, asked: Asked, files: Sequence[Path], folder: Path, tell: Any) -> Ended:
        tell(Working("Loading the model", 0.0))
        restorer = restoring.load(asked.model, **asked.options, **self.options)
        sources = _laid_out(files, folder)
        target = _target(sources)
        watcher = _Watcher(len(sources), restorer.samples, tell)
        restorer.quiet, restorer.tell = True, lambda sentence: tell(Working(sentence, watcher.share))
        restorer.watch, restorer.stop = watcher.look, stop.is_set
        tell(Working("Restoring", 0.0))
        try:
            outcomes = restorer.restore_files(sources, folder / target, report=watcher.note)
        except Stopped:
            outcomes, stopped = watcher.outcomes, True
        else:
            stopped = False
        return Ended(outcomes, [file.name for file in sources], target, stopped=stopped)


class _Watcher:
    """Tells of steps and outcomes."""

    def __init__(self, pictures: int, samples: int, tell: Any) -> None:
        self._pictures, self._samples, self._tell = pictures, samples, tell
        self._last = 0.0
        self.outcomes: list[Outcome] = []
        self.share = 0.0

    def look(self, step: Step) -> None:
        """Tell of a step, unless another one was told just now."""
        now = time.monotonic()
        within = (step.sample - 1 + step.number / step.count) / self._samples
        self.share = (len(self.outcomes) + within) / self._pictures
        if now - self._last < _EVERY and step.number < step.count:
            return
        self._last = now
        words = [f"picture {len(self.outcomes) + 1} of {self._pictures}"] if self._pictures > 1 else []
        words += [f"sample {step.sample} of {self._samples}"] if self._samples > 1 else []
        words += [f"step {step.number} of {step.count}"]
        self._tell(Working(", ".join(words).capitalize(), self.share, as_data(step.estimate)))

    def note(self, outcome: Outcome) -> None:
        """Tell of an outcome."""
        self.outcomes.append(outcome)
        self.share = len(self.outcomes) / self._pictures
        if self._pictures > 1:
            left = f", {duration(outcome.seconds_left)} left" if outcome.seconds_left else ""
            self._tell(Working(f"{len(self.outcomes)} of {self._pictures} pictures are done{left}", self.share))


def message(error: Exception) -> str:
    """What to say of an error, in the page's names."""
    if isinstance(error, restoring.ArgumentError):
        text = " ".join(error.message_for(lambda name: LABELS.get(name, name)).split())
    else:
        text = one_line(error)
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text  # a path stays as it is


def _laid_out(files: Sequence[Path], folder: Path) -> list[Path]:
    """The files under names of which there is one each, in a folder of their own."""
    inputs = folder / "inputs"
    inputs.mkdir()
    laid_out: list[Path] = []
    taken: set[str] = set()
    for file in files:
        name, number = file.name, 2
        while Path(name).stem in taken:
            name, number = f"{file.stem}-{number}{file.suffix}", number + 1
        taken.add(Path(name).stem)
        laid_out.append(inputs / name)
        try:
            os.link(file, laid_out[-1])
        except OSError:  # another file system
            shutil.copyfile(file, laid_out[-1])
    return laid_out


def _target(sources: Sequence[Path]) -> str:
    """A file for one picture, else a folder."""
    if len(sources) > 1 or sources[0].suffix.lower() == TAR:
        return "restored/"
    return f"{sources[0].stem}-restored{restored_suffix(sources[0])}"
