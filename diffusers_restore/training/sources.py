"""Sources of training pictures."""

from __future__ import annotations

import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..decoding import failing_as, readable_suffixes
from ..errors import ImageError, InvalidInputError, check_int
from ..files import visible_files
from ..image_columns import item_bytes, load_images
from ..images import PathInput, read_picture

Pictures: TypeAlias = tuple[Image.Image, ...]
"""(clean,), (degraded, clean) or (degraded, clean, mask), of one size."""

_IDX_MAGIC = 0x00000803  # unsigned bytes, three dimensions
_TALL = 0.75  # width over height below which halves look like those of a photograph
_MOST_COMPRESSED = 200  # times its size; digits have 5, blank pictures up to 1000


# --- pictures -------------------------------------------------------------------------------------------------------


def read_item(item: Any) -> Image.Image:
    """The picture of an undecoded item of an Image column: {"bytes": ..., "path": ...}, or None."""
    path = None if item is None or item["bytes"] is not None else item["path"]
    if path is not None and "://" not in path:
        return read_picture(path)
    with failing_as(f"cannot read {path!r}") if path is not None else nullcontext():
        return read_picture(item_bytes(item))


# --- sources --------------------------------------------------------------------------------------------------------


class Source(ABC):
    """Training pictures by number; an immutable sequence."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Pictures:
        """8-bit PIL pictures of mode "L" or "RGB", of one size.

        Raises:
            ImageError: a picture can't be read.
            OSError: its file can't be.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """The name of the pictures in reports: "photos/a.png", "train[17]"."""


@final
class ImageFolder(Source):
    """The pictures below a folder, in the order of their paths.

    Raises:
        InvalidInputError: there is no such folder.
    """

    def __init__(self, folder: PathInput) -> None:
        self._files = _picture_files("folder", folder)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pictures:
        return (read_picture(self._files[index]),)

    def name(self, index: int) -> str:
        return str(self._files[index])


@final
class IdxImages(Source):
    """The grey pictures of an idx file such as MNIST's, gzipped or not.

    Args:
        path: the file, or a folder with one `train-images-idx3-ubyte` somewhere below it.

    Raises:
        InvalidInputError: no such file, several of them, or one that isn't a complete idx file of pictures.
    """

    def __init__(self, path: PathInput) -> None:
        file = _idx_file(Path(path))
        if file is None:
            raise InvalidInputError(
                f"path must be an idx file, or a folder with train-images-idx3-ubyte or train-images-idx3-ubyte.gz "
                f"below it, got {str(path)!r}"
            )
        self._file, self._images = file, _read_idx(file)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Pictures:
        return (Image.fromarray(self._images[index]),)

    def name(self, index: int) -> str:
        return f"{self._file}[{index}]"


@final
class DatasetImages(Source):
    """The pictures of a `datasets.Dataset`, from `load_images`."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset, self._column = dataset, column

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Pictures:
        return (read_item(self._dataset[index][self._column]),)

    def name(self, index: int) -> str:
        return f"{self._dataset.split or 'dataset'}[{index}]"


@final
class PairedFolders(Source):
    """Folders with the same names of pictures below them; the suffixes may differ.

    Args:
        degraded: the first of a pair.
        clean: the second.
        masks: a third, if there are masks.

    Raises:
        InvalidInputError: there is no such folder, a picture has no partner, or two differ only in their suffix.
    """

    def __init__(self, degraded: PathInput, clean: PathInput, masks: PathInput | None = None) -> None:
        folders = {"degraded": degraded, "clean": clean}
        if masks is not None:
            folders["masks"] = masks
        files = [_by_stem(name, folder) for name, folder in folders.items()]
        for (name, folder), by_stem in list(zip(folders.items(), files, strict=True))[1:]:
            alone = sorted(str(stem) for stem in files[0].keys() ^ by_stem.keys())
            if alone:
                raise InvalidInputError(
                    f"degraded {str(degraded)!r} and {name} {str(folder)!r} must hold pictures of the same names, got "
                    f"{len(alone)} without a partner: {_alone(degraded, files[0], folder, by_stem)}"
                )
        self._files = tuple(tuple(by_stem[stem] for by_stem in files) for stem in files[0])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pictures:
        pictures = tuple(read_picture(file) for file in self._files[index])
        sizes = [picture.size for picture in pictures]
        if len(set(sizes)) > 1:
            raise ImageError(f"the pictures of a pair must have one size, got {' and '.join(map(str, sizes))}")
        return pictures

    def name(self, index: int) -> str:
        return str(self._files[index][0])


def _alone(first: PathInput, ours: Mapping[Path, Path], second: PathInput, theirs: Mapping[Path, Path]) -> str:
    """The names of pictures that lie in one folder only."""
    found = []
    for folder, stems in ((first, ours.keys() - theirs.keys()), (second, theirs.keys() - ours.keys())):
        names = sorted(str(stem) for stem in stems)
        if names:
            found.append(f"{', '.join(names[:5])}{', ...' * (len(names) > 5)} only in {str(folder)!r}")
    if not ours.keys() & theirs.keys():
        found.append("no name is in both")
    return "; ".join(found)


@final
class ConcatenatedPairs(Source):
    """The pictures below a folder, each of them two side by side, as pix2pix has them.

    Args:
        folder: where they are.
        clean: the side of the clean one, "left" or "right".

    Raises:
        InvalidInputError: there is no such folder, or no such side.
    """

    def __init__(self, folder: PathInput, clean: str = "left") -> None:
        if clean not in ("left", "right"):
            raise InvalidInputError(f"clean must be 'left' or 'right', got {clean!r}")
        self._files, self._clean = _picture_files("folder", folder), clean

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pictures:
        both = read_picture(self._files[index])
        half, odd = divmod(both.width, 2)
        if odd:
            raise ImageError(f"two pictures side by side must have an even width, got {both.width}")
        left, right = both.crop((0, 0, half, both.height)), both.crop((half, 0, both.width, both.height))
        return (right, left) if self._clean == "left" else (left, right)

    def name(self, index: int) -> str:
        return str(self._files[index])

    def doubt(self) -> str:
        """Why these may be single pictures, whose halves are no pairs; empty for none."""
        found = ""
        for i in range(0, len(self), max(1, len(self) // 8)):
            try:
                width, height = self[i][0].size
            except (OSError, InvalidInputError):
                continue
            if width >= _TALL * height:
                return ""
            found = f"the halves are tall, {width}x{height} in {self.name(i)}: is each picture really two side by side?"
        return found


@final
class UnpairedSets(Source):
    """Pictures of one set, each with one of another that is cut and resized to its size.

    Args:
        others: the first of the two of a sample: repeated if they are fewer, taken at equal distances if they are more.
        clean: the second.
    """

    def __init__(self, others: Source, clean: Source) -> None:
        self._others, self._clean = others, clean

    def __len__(self) -> int:
        return len(self._clean)

    def __getitem__(self, index: int) -> Pictures:
        (other,) = self._others[self._other(index)]
        (clean,) = self._clean[index]
        return ImageOps.fit(other, clean.size, Image.Resampling.BICUBIC), clean

    def name(self, index: int) -> str:
        return f"{self._others.name(self._other(index))} with {self._clean.name(index)}"

    def _other(self, index: int) -> int:
        fewer, count = len(self._others) < len(self._clean), len(self._others)
        return index % count if fewer else index * count // len(self._clean)


@final
class Subset(Source):
    """Some pictures of another source, in the order of `indices`.

    Raises:
        InvalidInputError: an index that the source doesn't have.
    """

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        last = len(source) - 1
        self._source = source
        self._indices = tuple(check_int(f"indices[{i}]", index, 0, last) for i, index in enumerate(indices))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Pictures:
        return self._source[self._indices[index]]

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])


def open_source(
    train_data_dir: PathInput | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    split: str = "train",
    image_column: str = "image",
) -> Source:
    """The pictures of a run.

    Args:
        train_data_dir: an idx file, a folder with one below it, or a folder of pictures.
        dataset_name: what `datasets.load_dataset` accepts: a name on the Hub or a local folder.
        dataset_config_name: which configuration of the dataset.
        split: which split of the dataset.
        image_column: the column of the dataset that holds pictures.

    Raises:
        InvalidInputError: both of the first two or neither, nothing that can be loaded, or fewer than two pictures.
    """
    if (train_data_dir is None) == (dataset_name is None):
        raise InvalidInputError(
            f"exactly one of train_data_dir and dataset_name must be given, got {train_data_dir!r} and {dataset_name!r}"
        )
    source: Source
    if dataset_name is not None:
        source = DatasetImages(*load_images(dataset_name, dataset_config_name, split, image_column))
    elif train_data_dir is None or not Path(train_data_dir).exists():
        raise InvalidInputError(f"train_data_dir must be a folder or an idx file, got {str(train_data_dir)!r}")
    elif _idx_file(Path(train_data_dir)) is not None:
        source = IdxImages(train_data_dir)
    else:
        source = ImageFolder(train_data_dir)
    if len(source) < 2:
        where = dataset_name if train_data_dir is None else str(train_data_dir)
        raise InvalidInputError(
            f"{where!r} must hold at least two pictures (.jpg, .png or another format of Pillow, or an idx file), "
            f"found {len(source)}"
        )
    return source


def open_stream(
    dataset_name: str, dataset_config_name: str | None = None, split: str = "train", image_column: str = "image"
) -> Any:
    """A `datasets.IterableDataset` of undecoded pictures, without the other columns; arguments as for `open_source`.

    Raises:
        InvalidInputError: nothing that can be loaded, or no such column of pictures.
    """
    return load_images(dataset_name, dataset_config_name, split, image_column, streaming=True)[0]


def _picture_files(argument: str, folder: PathInput) -> tuple[Path, ...]:
    if not Path(folder).is_dir():
        raise InvalidInputError(f"{argument} must be a folder, got {str(folder)!r}")
    suffixes = readable_suffixes() - {".npy"}
    files = (path for path in visible_files(Path(folder)) if path.suffix.lower() in suffixes and path.is_file())
    return tuple(sorted(files))


def _by_stem(argument: str, folder: PathInput) -> dict[Path, Path]:
    """The picture files below a folder by their relative paths without suffix."""
    files: dict[Path, Path] = {}
    for path in _picture_files(argument, folder):
        stem = path.relative_to(folder).with_suffix("")
        if stem in files:
            raise InvalidInputError(
                f"{argument} must hold one picture of each name, got {str(files[stem])!r} and {str(path)!r}"
            )
        files[stem] = path
    return files


def _idx_file(path: Path) -> Path | None:
    """The file itself, or the one idx file of training pictures below a folder; None if there is none."""
    if path.is_file():
        return path
    found = sorted(path.rglob("*train-images?idx3-ubyte*"), reverse=True)  # of a file and its .gz, the file comes last
    files = {
        str(file).removesuffix(".gz"): file
        for file in found
        if file.name.endswith(("ubyte", "ubyte.gz")) and file.is_file()
    }
    if len(files) > 1:
        raise InvalidInputError(f"{str(path)!r} holds several idx files, name one of them: {', '.join(sorted(files))}")
    return next(iter(files.values()), None)


def _read_idx(file: Path) -> NDArray[np.uint8]:
    """The pictures (N, H, W) of an idx file: big-endian magic number, N, H, W, then the pixels.

    No more is decompressed than the header announces, and no more than `_MOST_COMPRESSED` times the file's size.
    """
    size = file.stat().st_size
    with file.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if compressed else raw
        try:
            header = stream.read(16)
            if len(header) < 16 or int.from_bytes(header[:4], "big") != _IDX_MAGIC:
                raise InvalidInputError(
                    f"{str(file)!r} must be an idx file of pictures, which opens with {_IDX_MAGIC:#010x} and three "
                    f"sizes, got 0x{header[:4].hex()} and {size} bytes in all"
                )
            count, height, width = (int(one) for one in np.frombuffer(header, ">u4", 3, offset=4))
            announced = count * height * width
            if announced > _MOST_COMPRESSED * size:
                raise InvalidInputError(
                    f"{str(file)!r} announces {announced} bytes in a file of {size}: not more than {_MOST_COMPRESSED} "
                    "times its size is read"
                )
            data = stream.read(announced + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise InvalidInputError(f"{str(file)!r} must be a whole gzip file: {error}") from error
    if announced == 0 or len(data) != announced:
        got = f"more than {announced}" if len(data) > announced else str(len(data))
        raise InvalidInputError(
            f"{str(file)!r} must hold {count} pictures of {height} x {width} bytes after its header, got {got} bytes"
        )
    return np.frombuffer(data, np.uint8).reshape(count, height, width)
