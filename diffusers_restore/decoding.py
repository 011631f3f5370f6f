"""Picture files to pixels: every format that the installed Pillow decodes by itself, and `.npy` arrays."""

from __future__ import annotations

import functools
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (
    ExifTags,
    Image,
    ImageCms,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from .errors import ImageError
from .metadata import NO_METADATA, Metadata, read_metadata

# Formats that Pillow knows and doesn't decode by itself: EPS runs Ghostscript, the others have no decoder.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# Pillow keeps the upper byte of 16-bit colour samples. Read in the other byte order, the same data give the lower byte.
_CUT_RAW_MODE = re.compile(r"(RGB|RGBA|RGBX|R|G|B|A|LA);16[BLN]")
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

_MAX_TEXT = 2**24  # bytes of a PNG's text or profile: workflows and printers' profiles are larger than Pillow's 2^20
_MAX_CHANNELS = 4  # of an array of max_pixels; with fewer pixels it may have more channels

_pillow_limit_lock = threading.Lock()


_TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes the turn of an EXIF orientation."""


class JPEGCoding(NamedTuple):
    """How a JPEG was coded.

    Attributes:
        tables: the steps of its 64 coefficients, for luma and colours, in the order of Pillow.
        subsampling: of colours, as Pillow numbers it: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
        turn: what lays the pixels, which are upright, as they were coded; None if they are so.
    """

    tables: tuple[list[int], ...]
    subsampling: int
    turn: Image.Transpose | None = None


class Pixels(NamedTuple):
    """What a file holds.

    Attributes:
        color: (H, W, C) in [0, 1], C is 1 or 3.
        alpha: (H, W) in [0, 1], or None.
        bits: per channel of the source: 8, 16 or 32 (floats).
        metadata: colour profile, EXIF and resolution.
        pages: how many pictures the file holds.
        jpeg: how it was coded; None for another format.
    """

    color: NDArray[np.float32]
    alpha: NDArray[np.float32] | None
    bits: int
    metadata: Metadata = NO_METADATA
    pages: int = 1
    jpeg: JPEGCoding | None = None


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """The formats that are read, by Pillow's names."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NOT_DECODED))


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """The suffixes of the names of files that are read, in lower case."""
    formats = readable_formats()
    return frozenset({".npy", *(suffix for suffix, name in Image.registered_extensions().items() if name in formats)})


@contextmanager
def failing_as(message: str) -> Iterator[None]:
    """Turn any failure into an ImageError: decoders raise all kinds of errors on damaged files."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{message}: {str(error) or type(error).__name__}") from error


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Failures to read a file as an ImageError, which says what was expected."""
    with failing_as(f"cannot read {str(path)!r}"):
        if not path.exists():
            raise ImageError(f"cannot read {str(path)!r}: there is no such file")
        if not path.is_file():
            raise ImageError(f"cannot read {str(path)!r}: it is not a file")
        if path.stat().st_size == 0:
            raise ImageError(f"cannot read {str(path)!r}: the file is empty")
        try:
            yield
        except UnidentifiedImageError as error:
            raise not_a_picture(str(path), expected) from error


def not_a_picture(name: str, expected: str) -> ImageError:
    """The error for a file that Pillow doesn't know."""
    if name.lower().endswith((".heic", ".heif")):
        return ImageError(f"cannot read {name!r}: Pillow reads no HEIC; convert it to AVIF, JPEG or PNG first")
    return ImageError(f"cannot read {name!r}: not a picture, or a damaged one; expected {expected}")


@contextmanager
def pillow_limit(max_pixels: int) -> Iterator[None]:
    """Replace Pillow's global limit by `max_pixels`, and make its warning an error, for one picture."""
    with _pillow_limit_lock, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = max_pixels, _MAX_TEXT
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before


def _too_large(path: Path, size: str, max_pixels: int) -> ImageError:
    return ImageError(
        f"cannot read {str(path)!r}: {size} is more than max_pixels={max_pixels}; pass a larger max_pixels if you "
        "trust the file"
    )


def read_array(path: Path, max_pixels: int) -> NDArray[Any]:
    """A `.npy` array (..., H, W), whose size is checked by its header before memory is taken; not yet read.

    Raises:
        ImageError: an archive, or too large: H W above `max_pixels`, or all together above four times that.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ImageError(f"cannot read {str(path)!r}: an archive of arrays; expected one array")
    if array.ndim >= 2 and array.shape[-1] * array.shape[-2] > max_pixels:
        raise _too_large(path, f"{array.shape[-1]} x {array.shape[-2]} pixels", max_pixels)
    if array.size > _MAX_CHANNELS * max_pixels:
        pixels = -(-array.size // _MAX_CHANNELS)
        size = f"an array {array.shape}, as large as {pixels} pixels of {_MAX_CHANNELS} channels,"
        raise _too_large(path, size, max_pixels)
    return array


def read_pixels(path: Path, max_pixels: int) -> Pixels:
    """The pixels of the first picture of a file, upright.

    Raises:
        ImageError: larger than `max_pixels`, or of a layout that Pillow reads wrongly.
    """
    with pillow_limit(max_pixels):
        try:
            with Image.open(path, formats=readable_formats()) as image:
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    check_tiff(path, image)
                tiles = image.tile
                transparent = image.info.get("transparency")
                turned = upright(image)
                if not tiles or not all(_CUT_RAW_MODE.fullmatch(_raw_mode(tile)) for tile in tiles):
                    pixels = pixels_of(turned)
                else:
                    pixels = _deep_pixels(_read_samples16(path, tiles, np.asarray(turned)), transparent)
                jpeg = jpeg_coding(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
                return pixels._replace(metadata=read_metadata(image), pages=_count_pages(path), jpeg=jpeg)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            size, *_ = str(error).split(" exceeds")  # "Image size (144000000 pixels)"
            raise _too_large(path, size, max_pixels) from error


def jpeg_coding(image: JpegImagePlugin.JpegImageFile) -> JPEGCoding:
    """How a JPEG was coded that was read, and turned by `upright`."""
    tables = tuple(list(table) for _, table in sorted(image.quantization.items()))
    sampling = JpegImagePlugin.get_sampling(image)  # -1: another one, or none
    try:
        turn = _TURNED_BACK.get(int(image.getexif().get(ExifTags.Base.Orientation, 1)))
    except Exception:  # Pillow raises whatever it trips on
        turn = None
    return JPEGCoding(tables, max(0, sampling), turn)


def check_tiff(path: Path, image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse layouts whose samples Pillow reads at a wrong scale or place."""
    depth = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    planar = len(image.getbands()) > 1 and image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    if depth == 12 or (depth > 8 and (planar or inverted)):
        layout = "separate planes" if planar else "white is zero" if inverted else "interleaved"
        raise ImageError(
            f"cannot read {str(path)!r}: a TIFF of {depth} bits per sample, {layout}; expected 8, 16 or 32 bits, and "
            "above 8 bits interleaved samples where black is zero"
        )


def _count_pages(path: Path) -> int:
    """How many pictures a file holds: 1 where that can't be told, since the first has been read."""
    try:
        with Image.open(path, formats=readable_formats()) as image:
            if image.format in ("MPO", "PSD"):  # phones add a preview; the first picture of a PSD is all its layers
                return 1
            return int(getattr(image, "n_frames", 1))
    except MemoryError:
        raise
    except Exception:  # Pillow raises whatever it trips on
        return 1


def upright(image: Image.Image) -> Image.Image:
    """A decoded picture as its EXIF orientation says, as it is where that block can't be read."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # Pillow raises whatever it trips on
        image.info.pop("exif", None)
        return image.copy()


def _raw_mode(tile: ImageFile._Tile) -> str:
    return tile.args if isinstance(tile.args, str) else str(tile.args[0]) if tile.args else ""


def _read_samples16(path: Path, tiles: list[ImageFile._Tile], upper: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Decode a file again for the bytes that the first decoding dropped: (H, W, 2, 3 or 4) 16-bit samples."""

    def lower_tile(tile: ImageFile._Tile) -> ImageFile._Tile:
        raw = _raw_mode(tile)
        # grey + alpha has no swapped form, but its four bytes per pixel can be read as they are
        raw = "RGBA" if raw == "LA;16B" else raw[:-1] + _OTHER_BYTE[raw[-1]]
        return tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)

    with Image.open(path, formats=readable_formats()) as image:
        image.tile = [lower_tile(tile) for tile in tiles]
        lower = np.asarray(upright(image))
    if _raw_mode(tiles[0]) == "LA;16B":
        samples: NDArray[np.uint16] = np.ascontiguousarray(lower).view(">u2").astype(np.uint16)
    else:
        samples = upper.astype(np.uint16) << 8 | lower
    return samples


def _deep_pixels(samples: NDArray[np.uint16], transparent: Any) -> Pixels:
    """Pixels of (H, W, 1 to 4) 16-bit samples; `transparent` is the value that means transparent, or None."""
    channels = samples.shape[2]
    unit = to_unit(samples, 65535)
    if channels in (2, 4):
        return Pixels(unit[..., :-1], unit[..., -1].copy(), 16)
    if transparent is not None:
        return Pixels(unit, (samples != np.asarray(transparent)).any(-1).astype(np.float32), 16)
    return Pixels(unit, None, 16)


def pixels_of(image: Image.Image) -> Pixels:
    """Pixels of a PIL picture of any mode."""
    if image.mode == "F":
        return Pixels(np.array(image, dtype=np.float32)[..., None], None, 32)
    if image.mode == "I" or image.mode.startswith("I;16"):
        samples = np.asarray(image)[..., None]
        if samples.min() < 0 or samples.max() > 65535:
            raise ImageError(
                f"a picture of integers must be in 0..65535, got {samples.min()} to {samples.max()} (mode {image.mode})"
            )
        return _deep_pixels(samples.astype(np.uint16), image.info.get("transparency"))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    transparent = image.has_transparency_data
    if image.mode == "LAB":
        image = _from_lab(image)
    unit = to_unit(np.atleast_3d(np.asarray(image.convert(mode + "A" if transparent else mode))), 255)
    return Pixels(unit[..., :-1], unit[..., -1].copy(), 8) if transparent else Pixels(unit, None, 8)


def _from_lab(image: Image.Image) -> Image.Image:
    """A picture of CIE L*a*b* as sRGB, to which Pillow's own conversion knows no way."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # it would be only in place
    return converted


def to_unit(samples: NDArray[Any], full_scale: int) -> NDArray[np.float32]:
    """Samples of 0..full_scale as [0, 1]."""
    scaled: NDArray[np.float32] = samples.astype(np.float32) / np.float32(full_scale)
    return scaled
