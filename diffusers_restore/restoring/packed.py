"""Pictures within a file: members of a tar, rows of a data set. Nothing is unpacked but the one that is being read."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, InvalidInputError, one_line
from .arguments import ArgumentError

if TYPE_CHECKING:
    from ..images import Picture

TAR = ".tar"
_COMPRESSED = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_DIGITS = 6
"""Of a row's number in the name of its result."""


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
                raise ImageError(str(error).replace(str(file), str(source))) from error
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

    Raises:
        ArgumentError: it can't be read, or a member's place isn't within it.
    """
    found: dict[PurePosixPath, Packed] = {}
    size = archive.stat().st_size
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                place = PurePosixPath(member.name)
                if not member.isreg() or member.issparse() or any(part.startswith(".") for part in _inside(member)):
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"the file ends within {member.name!r}")
                read = _Slice(archive, member.offset_data, member.size)
                found[place] = Packed(str(archive), Path(*place.parts), read, archive)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ArgumentError("cannot read the archive {0!r}: {1}", str(archive), one_line(error)) from error
    return [found[place] for place in sorted(found)]


def _inside(member: tarfile.TarInfo) -> tuple[str, ...]:
    """The parts of a member's place, all of which stay within the folder of the results.

    Raises:
        ArgumentError: they don't.
    """
    place, on_windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if place.is_absolute() or on_windows.anchor or ".." in on_windows.parts or not place.parts:
        raise ArgumentError("{0!r}: the name of a member of an archive must be a place within it", member.name)
    return place.parts


@dataclass(frozen=True)
class _Slice:
    """Reads a part of a file."""

    file: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError("the archive has become shorter")
        return data


def rows(name: str, config_name: str | None = None, split: str = "train", column: str | None = None) -> list[Packed]:
    """The pictures of a data set, named by their numbers.

    Args:
        name, config_name, split, column: as of `image_columns.load_images`.

    Raises:
        ArgumentError: it can't be loaded, or has no such column.
    """
    from ..image_columns import item_bytes, load_images

    try:
        dataset, column = load_images(name, config_name, split, column)
    except InvalidInputError as error:
        raise ArgumentError("{0!r}: {1}", name, one_line(error)) from error

    def reader(i: int) -> Callable[[], bytes]:
        return lambda: item_bytes(_row(dataset, i)[column])

    return [Packed(f"{name}/{split}", Path(f"{i:0{_DIGITS}}"), reader(i)) for i in range(len(dataset))]


def _row(dataset: Any, i: int) -> Any:
    return dataset[i]
