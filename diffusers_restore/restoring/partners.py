"""Files that belong to pictures by their names: a mask or a reference for each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from ..files import visible_files
from .arguments import ArgumentError, check_path
from .jobs import Job, printable
from .packed import TAR
from .pairing import is_readable


class Partners:
    """A file for all pictures, or a folder with a file for each: of its name, whatever the suffix.

    In a folder, the place of a picture below its own folder counts, then its name alone. Where files differ in their
    suffix alone, it is the one with the picture's own, or with a further one, as results are named.

    Args:
        name: of the argument.
        given: the file or folder.

    Raises:
        ArgumentError: there is none.
    """

    def __init__(self, name: str, given: str | PathLike[str]) -> None:
        self.name, self.path = name, check_path(name, given, "a file or a folder of files")
        self.is_folder = self.path.is_dir()
        self._files: dict[str, list[Path]] = {}
        if self.is_folder:
            for file in filter(is_readable, visible_files(self.path)):
                self._files.setdefault(_key(file.relative_to(self.path)), []).append(file)
        elif self.path.suffix.lower() == TAR:
            raise ArgumentError(f"{{{name}}} {{0!r}} must be a file or a folder: unpack it", printable(self.path))
        elif not self.path.is_file():
            raise ArgumentError(
                f"{{{name}}}: there is no file {{0!r}}, and no folder of this name", printable(self.path)
            )

    def files(self) -> Iterator[Path]:
        """All its files."""
        if not self.is_folder:
            yield self.path
        for files in self._files.values():
            yield from files

    def match(self, jobs: Sequence[Job]) -> list[Path]:
        """The file for each job.

        Raises:
            ArgumentError: a folder that has none for a job, or several.
        """
        return [self._of(job) if self.is_folder else self.path for job in jobs]

    def _of(self, job: Job) -> Path:
        places = (job.relative, Path(job.relative.name))
        files = next(filter(None, (self._files.get(_key(place)) for place in places)), [])
        further = next(filter(None, (self._files.get(os.path.normcase(place)) for place in places)), [])
        same = [file for file in files if file.name == job.relative.name]
        for some in (same, further, files):
            if len(some) == 1:
                return some[0]
        there = ", ".join(printable(file) for file in files) if files else "there is none of this name"
        raise ArgumentError(
            f"{{{self.name}}} {{0!r}} must hold one file named as the picture {{1!r}}, whatever its suffix; {{2}}",
            *(printable(self.path), job.name, there),
        )


def _key(relative: Path) -> str:
    return os.path.normcase(relative.with_suffix(""))
