"""A list of what a run has done, from which a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ImageError
from ..files import visible_files
from .jobs import Job, printable
from .packed import Packed

NAME = ".restored.jsonl"
_OF_MODEL = (".json", ".safetensors", ".bin", ".pth", ".pt", ".py")


class Manifest:
    """A file in the folder of the results, with a line of JSON for each picture that is done.

    A picture counts as done while its result is there, and while neither the picture, nor a file that the restoration
    reads, nor an option, nor a model in a folder, nor the version of this package, which brings models along, has
    changed.

    Args:
        folder: of the results.
        settings: the options, with the "model".
        files: that the restoration reads beside the pictures, for all of them.
        resume: whether what the file says is believed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], files: list[Path], resume: bool) -> None:
        self._folder, self._file = folder, folder / NAME
        model = {"version": __version__, "files": _files_of(Path(str(settings.get("model", ""))))}
        settings_text = json.dumps({**settings, "of model": model}, sort_keys=True, default=str)
        self._settings = _digest([hashlib.sha256(settings_text.encode()).digest(), *map(_digest_of, files)])
        self._done: dict[str, str] = {}
        if resume:
            text = self._text()
            self._done = dict(_records(text))
            if text and not text.endswith("\n"):  # a line that a kill has cut
                with self._writing(), self._file.open("a", encoding="utf-8") as file:
                    file.write("\n")

    def has(self, job: Job) -> bool:
        """Whether the results of a job are there, and would be the same if they were made again."""
        name = self._name(job)
        return job.done and name in self._done and self._done[name] == self.state(job)

    def add(self, job: Job, state: str | None) -> None:
        """Note that a job is done: one line, which a kill leaves complete or without effect.

        Args:
            job: with its results.
            state: what `state` gave before the work began.

        Raises:
            OSError: the list can't be written.
        """
        if state is None:
            return
        line = json.dumps({"result": self._name(job), "source": str(job.source), "state": state}) + "\n"
        with self._writing(), self._file.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget everything.

        Raises:
            OSError: the list can't be removed.
        """
        with self._writing():
            self._file.unlink(missing_ok=True)

    def state(self, job: Job) -> str | None:
        """What the result of a job depends on; None if a file of it can't be read."""
        try:
            parts = [_digest_of(file) for file in (job.source, job.mask) if file]
            return _digest([hashlib.sha256(self._settings.encode()).digest(), *parts])
        except (OSError, ImageError):
            return None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = printable(self._file)
            raise OSError(f"cannot write {name!r}, the list of what is done: {error.strerror or error}") from error

    def _text(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def _name(self, job: Job) -> str:
        return os.path.relpath(job.targets[0], self._folder)


def _records(text: str) -> Iterator[tuple[str, str]]:
    """(result, state) of each line that is whole."""
    for line in text.splitlines():
        try:
            record = json.loads(line)
            yield str(record["result"]), str(record["state"])
        except (ValueError, TypeError, KeyError, RecursionError):  # cut off, or foreign
            continue


def _files_of(model: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of a model in a folder, whose content may be gigabytes."""
    files = visible_files(model) if model.is_dir() else []
    states = [(str(file.relative_to(model)), file.stat()) for file in files if file.suffix in _OF_MODEL]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def _digest_of(source: Path | Packed) -> bytes:
    """SHA-256 of a file."""
    if not isinstance(source, Path):
        return hashlib.sha256(source.read_bytes()).digest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _digest(parts: list[bytes]) -> str:
    """SHA-256 of digests, one after the other."""
    return hashlib.sha256(b"".join(parts)).hexdigest()
