"""Atomic writing of files: written aside in the same folder, then renamed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

ASIDE = ".part"
"""Suffix of a folder's name while it is being written."""


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

    Raises:
        OSError: the folder is absent or can't be written, the disk is full, or the like.
    """
    aside = path.with_name(f".diffusers_restore-{uuid.uuid4().hex}")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


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
    except SafetensorError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(f"{aside} can't be written: {error}") from error
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
