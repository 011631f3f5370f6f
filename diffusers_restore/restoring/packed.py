"""Pictures within a file: members of a tar, rows of a data set. Nothing is unpacked but the one that is being read."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from ..errors import ImageError, InvalidInputError, one_line
from .arguments import ArgumentError

if TYPE_CHECKING:
    from ..images import Picture

TAR = ".tar"
_COMPRESSED = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_DIGITS = 6
"""Of a row's number in the name of its result."""

_LARGEST = 2**31
"""Bytes of a picture's file within an archive."""

_LONGEST = 1024
"""Bytes of the name of a member."""

_NAMES = {
    "dataset_name": "the data set",
    "dataset_config_name": "{dataset_config_name}",
    "split ": "{dataset_split} ",
    "image_column": "{image_column}",
}
"""Arguments of trainings, and the words for them here."""


@dataclass(frozen=True)
class Packed:
    """A picture within a file.

    Attributes:
        container: the name of the file or data set.
        relative: its place within that.
        read_bytes: gives the picture's own file; raises OSError or ImageError.
        file: the container, if it is a file.
    """

    container: str
    relative: Path
    read_bytes: Callable[[], bytes] = field(compare=False, repr=False)
    file: Path | None = None

    def __str__(self) -> str:
        return f"{self.container}/{self.relative}"

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.relative.name

    @property
    def suffix(self) -> str:
        """Of its name."""
        return self.relative.suffix

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """A file of its own, while it is needed.

        Raises:
            OSError: it can't be read or written.
            ImageError: it isn't there.
        """
        with tempfile.TemporaryDirectory(prefix="diffusers_restore-") as folder:
            file = Path(folder, f"picture{self.suffix}")
            file.write_bytes(self.read_bytes())
            yield file


def load(source: Path | Packed, **limits: int) -> Picture:
    """`images.load`, of what lies within a file, too.

    Raises:
        ImageError: as for `images.load`; it names the source.
    """
    from .. import images  # with torch, which `--help` does without

    if isinstance(source, Path):
        return images.load(source, **limits)
    try:
        with source.unpacked() as file:
            try:
                return images.load(file, **limits)
            except ImageError as error:
                raise ImageError(str(error).replace(repr(str(file)), repr(str(source)))) from error
    except OSError as error:
        raise ImageError(f"cannot read {str(source)!r}: {error.strerror or error}") from error


def size_of(source: Path | Packed) -> tuple[int, int]:
    """(width, height) of a picture as it is stored, by its header; (0, 0) where that can't be read."""
    from PIL import Image

    from ..decoding import readable_formats

    try:
        file = source if isinstance(source, Path) else io.BytesIO(source.read_bytes())
        with Image.open(file, formats=readable_formats()) as image:
            return image.size
    except Exception:  # Pillow raises whatever it trips on
        return 0, 0


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, by its suffix.

    Raises:
        ArgumentError: a compressed one, in which nothing can be found without reading all that is before it.
    """
    if path.name.lower().endswith(_COMPRESSED):
        raise ArgumentError("{0!r} is compressed: unpack it to a folder, or to a .tar", str(path))
    return path.suffix.lower() == TAR


def members(archive: Path) -> list[Packed]:
    """The files of a tar, in the order of their places; of several of one name the last, as for `tar`.

    A link is what it leads to within the archive. What can't be read fails when it is: links that lead nowhere, and
    files with holes, which are stored in pieces.

    Raises:
        ArgumentError: it is damaged, or a member's place isn't within it.
    """
    found: dict[PurePosixPath, Callable[[], bytes]] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            size = archive.stat().st_size
            for member in tar:
                place = PurePosixPath(member.name)
                if not place.parts or not (member.isreg() or member.islnk() or member.issym()):
                    continue
                _check_place(member.name)
                if not any(part.startswith(".") for part in place.parts):
                    found[place] = _reader(archive, size, member, found)
            # tarfile takes a damaged header for the end
            end = _Slice(archive, tar.offset, min(tarfile.BLOCKSIZE, max(0, size - tar.offset)))()
            if end.strip(b"\0"):
                raise tarfile.ReadError(f"it is damaged at byte {tar.offset}")
    except ArgumentError:  # a ValueError, too
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ArgumentError("cannot read the archive {0!r}: {1}", str(archive), one_line(error)) from error
    return [Packed(str(archive), Path(*place.parts), found[place], archive) for place in sorted(found)]


def _reader(
    archive: Path, size: int, member: tarfile.TarInfo, found: dict[PurePosixPath, Callable[[], bytes]]
) -> Callable[[], bytes]:
    """What reads a member; of a link, that of the one before it to which it leads."""
    if member.isreg():
        if member.issparse():
            return _Unreadable("is stored with holes; unpack the archive")
        if member.size < 0 or member.offset_data + member.size > size:
            raise tarfile.ReadError(f"the file ends within {member.name!r}")
        return _Slice(archive, member.offset_data, member.size)
    target = PurePosixPath(member.linkname)
    if member.issym():
        target = PurePosixPath(os.path.normpath(PurePosixPath(member.name).parent / target))
    return found.get(target, _Unreadable(f"is a link to {member.linkname!r}, which the archive doesn't have before it"))


def _check_place(name: str) -> None:
    """Refuse a member whose result wouldn't lie within the folder of the results.

    Raises:
        ArgumentError: its name leads out of it, or is too long.
    """
    place: PurePath = PureWindowsPath(name) if os.name == "nt" else PurePosixPath(name)
    if place.anchor or ".." in place.parts:
        raise ArgumentError("{0!r:.99}: the name of a member of an archive must be a place within it", name)
    if len(name.encode(errors="surrogateescape")) > _LONGEST:
        raise ArgumentError("{0!r:.99}...: the name of a member of an archive is too long", name)


@dataclass(frozen=True)
class _Slice:
    """Reads a part of a file."""

    file: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        if self.size > _LARGEST:
            raise OSError(f"{self.size} bytes are no picture")
        with self.file.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError("the archive has become shorter")
        return data


@dataclass(frozen=True)
class _Unreadable:
    """Says why a member can't be read."""

    reason: str

    def __call__(self) -> bytes:
        raise OSError(self.reason)


def rows(name: str, config_name: str | None = None, split: str = "train", column: str | None = None) -> list[Packed]:
    """The pictures of a data set, named by their numbers.

    Args:
        name, config_name, split, column: as of `image_columns.load_images`.

    Raises:
        ArgumentError: it can't be loaded, or has no such column.
    """
    from ..decoding import failing_as
    from ..image_columns import item_bytes, load_images

    try:
        dataset, column = load_images(name, config_name, split, column)
    except InvalidInputError as error:
        text = one_line(error).replace("{", "{{").replace("}", "}}")
        for theirs, ours in _NAMES.items():
            text = text.replace(theirs, ours)
        nowhere = "" if Path(name).exists() else f"there is no file or folder {name!r}, and "
        raise ArgumentError(nowhere.replace("{", "{{").replace("}", "}}") + text) from error

    def reader(i: int) -> Callable[[], bytes]:
        def read() -> bytes:
            with failing_as(f"cannot read row {i} of {name!r}"):  # a path in it may lead anywhere
                return item_bytes(dataset[i][column])

        return read

    return [Packed(f"{name}/{split}", Path(f"{i:0{_DIGITS}}"), reader(i)) for i in range(len(dataset))]
