"""Atomic writing of files: written aside in the same folder, then renamed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil
from safetensors import SafetensorError

ASIDE = ".part"
"""Suffix of a folder's name while it is being written."""

_DAY = 24 * 60 * 60
# .diffusers_restore-<machine>-<process>-<32 digits>; the first versions left out machine and process.
_LEFTOVER = re.compile(r"\.diffusers_restore-(?:(?P<machine>.+)-(?P<process>\d+)-)?[0-9a-f]{32}")


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder whose path below it has no name with a dot in front; linked folders once each."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in seen  # noqa: PTH118
        )
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in an existing folder; whatever happens, `path` is either complete or unchanged.

    The first time that a process writes to a folder, it removes what killed ones have left there half-written.

    Raises:
        OSError: the folder is absent or can't be written, the disk is full, or the like.
    """
    _remove_leftovers(path.parent.absolute())
    aside = _name_aside(path)
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _name_aside(path: Path) -> Path:
    """A new name in the same folder, which tells whose file it is."""
    return path.with_name(f".diffusers_restore-{_machine()}-{os.getpid()}-{uuid.uuid4().hex}")


def _machine() -> str:
    """The name of this machine, short enough for a file name."""
    return re.sub(r"[^\w.]", "_", platform.node())[:60] or "unnamed"


@cache
def _remove_leftovers(folder: Path) -> None:
    """Remove the files of `write_bytes` whose process has ended, or which nobody has written to for a day."""
    with suppress(OSError):
        for path in folder.iterdir():
            found = _LEFTOVER.fullmatch(path.name)
            if found is not None and _is_abandoned(path, found["machine"], found["process"]):
                path.unlink(missing_ok=True)


def _is_abandoned(path: Path, machine: str | None, process: str | None) -> bool:
    if machine == _machine() and process is not None and not psutil.pid_exists(int(process)):
        return True
    with suppress(OSError):  # another process may have removed it
        return time.time() - path.stat().st_mtime > _DAY
    return False


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text in UTF-8.

    Raises:
        OSError: as `write_bytes`.
    """
    write_bytes(path, text.encode())


@contextmanager
def written_aside(aside: Path) -> Iterator[Path]:
    """An empty folder to write into and then rename, which is removed if that fails.

    Raises:
        OSError: the disk is full, or the like.
    """
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        follow_umask(path for path in aside.rglob("*") if path.is_file())
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"{aside} can't be written: {error}") from error
        raise


def follow_umask(files: Iterable[Path]) -> None:
    """Give files the rights that new ones get; safetensors makes its files readable by their owner only.

    Raises:
        OSError: they are another user's, or the like.
    """
    every = list(files)
    if not every:
        return
    new = _name_aside(every[0])  # the umask can't be read without changing it for all threads
    try:
        new.touch(exist_ok=False)
        mode = new.stat().st_mode
    finally:
        new.unlink(missing_ok=True)
    for file in every:
        file.chmod(mode)
