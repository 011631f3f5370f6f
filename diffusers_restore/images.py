"""Pictures in and out: files, PIL pictures and arrays to and from (B, C, H, W) float32 tensors in [-1, 1].

This is the only module with 0..255, 0..65535 and [0, 1]; everything else works in [-1, 1].
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, TiffTags, UnidentifiedImageError

from .errors import ImageError, check_int, check_real
from .files import write_bytes
from .metadata import NO_METADATA, Metadata, encoder_options, fitting_profile, png_chunks, read_metadata

DEFAULT_MAX_PIXELS = 64_000_000
DEFAULT_LIMIT = 8.0

SingleInput: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor
ImageInput: TypeAlias = SingleInput | Sequence[SingleInput]
PathInput: TypeAlias = str | os.PathLike[str]

_READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".npy": "NPY",
}
_CARRY_ALPHA = ("PNG", "WEBP", "TIFF")
_CARRY_16_BITS = ("PNG", "TIFF")
_ENCODER_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}
_PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> grey, grey + alpha, RGB, RGBA

# Pillow keeps the upper byte of 16-bit colour samples. Read in the other byte order, the same data give the lower byte.
_CUT_RAW_MODE = re.compile(r"(RGB|RGBA|RGBX|R|G|B|A|LA);16[BLN]")
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

_MAX_TEXT = 2**24  # bytes of a PNG's text or profile: workflows and printers' profiles are larger than Pillow's 2^20

_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """One picture from a file, ready for a pipeline, with what saving has to restore.

    `tensor` is (1, C, H, W) float32 in [-1, 1] with C = 1 (grey) or 3 (RGB); a `.npy` measurement may have any C and
    exceed the range. `alpha` is (1, 1, H, W) float32 in [0, 1], None if the file has none. `bits` per channel of the
    source are 8, 16 or 32 (floats). `metadata` is the colour profile, EXIF and resolution. `pages` counts the pictures
    of the file, of which this is the first.
    """

    tensor: torch.Tensor
    alpha: torch.Tensor | None
    bits: int
    metadata: Metadata = NO_METADATA
    pages: int = 1


class _Pixels(NamedTuple):
    color: NDArray[np.float32]  # (H, W, C) in [0, 1], C is 1 or 3
    alpha: NDArray[np.float32] | None  # (H, W) in [0, 1]
    bits: int
    metadata: Metadata = NO_METADATA
    pages: int = 1


def load(path: PathInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF, BMP or GIF (first frame), or a `.npy` float array (C, H, W) in [-1, 1] units.

    The EXIF orientation is applied. Palettes and CMYK become RGB; 16-bit grey, RGB and RGBA keep all 16 bits (CMYK and
    premultiplied alpha keep 8); transparency is kept aside in `alpha`. Float TIFFs are in [0, 1]. Colour profiles are
    kept and not applied. The size is read from the header and compared with `max_pixels` before anything is decoded.

    Raises:
        ImageError: absent, empty, truncated, not a picture, larger than `max_pixels`, or with NaN or Inf in it.
        InvalidInputError: `max_pixels` is not a whole number >= 1.
    """
    source = _as_path(path)
    max_pixels = check_int("max_pixels", max_pixels, 1)
    name = f"picture {str(source)!r}"
    if source.suffix.lower() == ".npy":
        with _reading(source):
            array = _read_npy(source, max_pixels)
        return Picture(_checked(torch.from_numpy(array)[None], name, None), None, 32)
    with _reading(source):
        pixels = _read_pixels(source, max_pixels)
    alpha = None if pixels.alpha is None else torch.from_numpy(pixels.alpha)[None, None]
    tensor = _checked(_from_unit(pixels.color[None]), name, DEFAULT_LIMIT)
    return Picture(tensor, alpha, pixels.bits, pixels.metadata, pixels.pages)


def read_picture(file: PathInput | bytes) -> Image.Image:
    """Read a picture file, by its path or its bytes, as an 8-bit PIL picture: "L" if it is grey, else "RGB".

    The EXIF orientation is applied and transparency dropped. 16 bits are scaled to 8; float TIFFs are in [0, 1].

    Raises:
        ImageError: absent, damaged, not a picture, or larger than `DEFAULT_MAX_PIXELS`.
    """
    content = io.BytesIO(file) if isinstance(file, bytes) else file
    name = f"<{len(file)} bytes>" if isinstance(file, bytes) else os.fspath(file)
    with failing_as(f"cannot read {name!r}"), _pillow_limit(DEFAULT_MAX_PIXELS):
        try:
            with Image.open(content, formats=_READABLE) as image:
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    _check_tiff(Path(name), image)
                return _to_8_bits(_upright(image))
        except UnidentifiedImageError as error:
            expected = ", ".join(_READABLE)
            raise ImageError(f"cannot read {name!r}: not a picture, or a damaged one; expected {expected}") from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):  # Pillow's own conversion clips these at 255
        return to_pil(to_tensor(image))[0]
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:  # by way of alpha: Pillow warns about palettes with transparent entries
        image = image.convert(mode + "A")
    return image.convert(mode)


def load_mask(path: PathInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> torch.Tensor:
    """Read a black and white picture as a mask (H, W) float32: 1 = known (white), 0 = missing (black).

    Raises:
        ImageError: as for `load`, or a value that is neither black nor white, or transparency in the file.
        InvalidInputError: `max_pixels` is not a whole number >= 1.
    """
    source = _as_path(path)
    max_pixels = check_int("max_pixels", max_pixels, 1)
    with _reading(source):
        color, alpha, *_ = _read_pixels(source, max_pixels)
    mask = color[..., 0]
    if alpha is not None and (alpha != 1).any():
        raise ImageError(f"mask {str(source)!r} has transparent pixels; save it as opaque black and white")
    wrong = ((mask != 0) & (mask != 1)) | (color != mask[..., None]).any(-1)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        values = ", ".join(f"{255 * v:.4g}" for v in color[row, column])
        raise ImageError(
            f"mask {str(source)!r} must hold only 0 (black) and 255 (white), got ({values}) at row {row}, column "
            f"{column}, and {int(wrong.sum())} such pixels in all; threshold it and save it without loss, as PNG"
        )
    return torch.from_numpy(mask.copy())


def save(
    tensor: torch.Tensor,
    path: PathInput,
    *,
    alpha: torch.Tensor | None = None,
    bits: int = 8,
    metadata: Metadata | None = None,
) -> None:
    """Write one picture, (C, H, W) or (1, C, H, W) in [-1, 1], in the format that the suffix of `path` names.

    C = 1 gives a grey file (WebP has no grey: RGB), C = 3 an RGB one; values are clipped and rounded. JPEG is written
    at quality 95 without chroma subsampling, WebP without loss. `bits` above 8 gives 16 bits in PNG and TIFF and 8
    elsewhere. `alpha` (1, 1, h, w) in [0, 1] is resized bicubically to (H, W), clipped, and stored in PNG, WebP and
    TIFF (grey with alpha in a 16-bit TIFF becomes RGBA). `metadata` is put back as far as the format can hold it (a
    16-bit TIFF no EXIF, a BMP the resolution alone, .npy nothing); a colour profile stays where grey stays grey and
    colours stay colours. `.npy` stores float32 (C, H, W), any C, unclipped. The file is
    written aside in the same folder and renamed, so that `path` is either complete or unchanged.

    Raises:
        ImageError: a shape, value, suffix, `bits` or `alpha` that the file can't hold, an absent folder, or a write
            that fails.
    """
    target = _as_path(path)
    file_format = _WRITABLE.get(target.suffix.lower())
    if file_format is None:
        raise ImageError(f"cannot write {str(target)!r}: the suffix must be one of {', '.join(_WRITABLE)}")
    if bits not in (8, 16, 32):
        raise ImageError(f"bits must be 8, 16 or 32, got {bits!r}")
    if alpha is not None and file_format not in _CARRY_ALPHA:
        raise ImageError(f"cannot write alpha to {str(target)!r}: use .png, .webp or .tif, or pass alpha=None")
    values = _batch(tensor, "tensor")
    if len(values) != 1:
        raise ImageError(f"tensor must hold one picture per file, got a batch of {len(values)}: save them one by one")
    if file_format == "NPY":
        buffer = io.BytesIO()
        np.save(buffer, values[0].numpy())
        data = buffer.getvalue()
    else:
        unit = _to_unit(values)[0]
        if alpha is not None:
            unit = np.concatenate([unit, _fit_alpha(alpha, unit.shape[0], unit.shape[1])], axis=2)
        with failing_as(f"cannot write {str(target)!r}"):
            depth = 16 if bits > 8 and file_format in _CARRY_16_BITS else 8
            data = _encode(unit, file_format, depth, metadata or NO_METADATA)
    _write(target, data)


def to_tensor(image: ImageInput, *, name: str = "image", limit: float | None = DEFAULT_LIMIT) -> torch.Tensor:
    """Convert a picture, or a sequence of pictures of one size, to a new (B, C, H, W) float32 tensor in [-1, 1].

    - PIL picture of any mode: EXIF orientation is applied, C is 1 or 3; float pictures are in [0, 1].
    - numpy (H, W), (H, W, C) or (B, H, W, C), C in {1, 3, 4}: uint8 and uint16 at full scale, floats in [0, 1].
    - torch (C, H, W) or (B, C, H, W) with any C: floats in [-1, 1], uint8 at full scale. Keeps its device.

    Transparency is dropped: only `load` and `save` keep it. Floats may exceed their range, as noisy measurements do, as
    long as no value is beyond +-`limit` in [-1, 1] units; None lifts that check, which is there to catch 0..255 floats.
    Arrays and PIL floats in [-1, 1] are refused, whichever pipeline gets them: more of them is below 0, in value or in
    the mean of small blocks, than noise of a standard deviation of 0.5 on pictures in [0, 1] can explain.
    `name` is the argument's name in errors.

    Raises:
        ImageError: another type, dtype or layout, an empty picture, NaN or Inf, values beyond `limit`, several sizes.
        InvalidInputError: `limit` is not a number above 0.
    """
    if limit is not None:
        limit = check_real("limit", limit, above=0)
    if isinstance(image, Image.Image):
        return _checked(_from_pil(image, name), name, limit, "PIL floats in [0, 1]")
    if isinstance(image, np.ndarray):
        return _checked(_from_numpy(image, name), name, limit, "numpy floats in [0, 1]")
    if isinstance(image, torch.Tensor):
        batch = _from_torch(image, name)
        channels, height, width = batch.shape[1:]
        if channels > 4 and height > 4 and width in (1, 3, 4):
            raise ImageError(
                f"{name} must be a torch tensor (C, H, W) or (B, C, H, W), got {tuple(image.shape)}, which looks like "
                "channels last: permute it, or pass a numpy array"
            )
        return _checked(batch, name, limit, "torch floats in [-1, 1]")
    given: object = image
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise _wrong_type(name, given, " or a sequence of those")
    if not given:
        raise ImageError(f"{name} must hold at least one picture, got an empty {type(given).__name__}")
    for i, item in enumerate(given):
        if not isinstance(item, (Image.Image, np.ndarray, torch.Tensor)):
            raise _wrong_type(f"{name}[{i}]", item)
    tensors = [to_tensor(item, name=f"{name}[{i}]", limit=limit) for i, item in enumerate(given)]
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    if len(set(shapes)) > 1:
        listed = ", ".join(str(shape) for shape in shapes)
        raise ImageError(f"{name} must hold pictures of one size (C, H, W), got {listed}: pass them one by one")
    return torch.cat(tensors)


def to_pil(tensor: torch.Tensor) -> list[Image.Image]:
    """Convert (B, C, H, W) or (C, H, W) in [-1, 1], C = 1 or 3, to 8-bit PIL pictures, clipped and rounded.

    Raises:
        ImageError: not such a tensor, or NaN or Inf in it.
    """
    return [_pil_from_bytes(_quantize(unit, 8)) for unit in to_numpy(tensor)]


def to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    """Convert (B, C, H, W) or (C, H, W) in [-1, 1], C = 1 or 3, to (B, H, W, C) float32 in [0, 1], clipped.

    Raises:
        ImageError: not such a tensor, or NaN or Inf in it.
    """
    return _to_unit(_batch(tensor, "tensor"))


def grid(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, C, H, W) in [-1, 1] side by side, row by row, as one (C, H', W'), as nearly square as possible.

    Two white pixels separate them; unused places at the end are white.

    Raises:
        ImageError: not such a tensor, or NaN or Inf in it.
    """
    batch = _batch(pictures, "pictures")
    count, channels, height, width = batch.shape
    columns = min(range(count, 0, -1), key=lambda n: abs(n * width - -(-count // n) * height))
    sheet = torch.ones(channels, -(-count // columns) * (height + 2) - 2, columns * (width + 2) - 2)
    for i, picture in enumerate(batch):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        sheet[:, top : top + height, left : left + width] = picture
    return sheet


# --- arrays ---------------------------------------------------------------------------------------------------------


def _from_unit(unit: NDArray[np.float32]) -> torch.Tensor:
    """(B, H, W, C) in [0, 1] to (B, C, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray((unit * 2 - 1).transpose(0, 3, 1, 2)))


def _to_unit(batch: torch.Tensor) -> NDArray[np.float32]:
    """(B, C, H, W) in [-1, 1] to (B, H, W, C) in [0, 1], clipped, C in {1, 3}."""
    if batch.shape[1] not in (1, 3):
        raise ImageError(
            f"tensor must have C = 1 or 3 in (C, H, W) to be a picture, got {tuple(batch.shape[1:])}; save other "
            "measurements as .npy"
        )
    unit: NDArray[np.float32] = ((batch.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).contiguous().numpy()
    return unit


def _unit(samples: NDArray[Any], full_scale: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = samples.astype(np.float32) / np.float32(full_scale)
    return scaled


def _quantize(unit: NDArray[np.float32], bits: int) -> NDArray[Any]:
    """Values in [0, 1] to the nearest of 2^bits levels: uint8 or uint16."""
    levels: NDArray[Any] = np.rint(unit * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    return levels


def _batch(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """A torch picture as (B, C, H, W) float32 on the CPU, finite, without gradient."""
    if not isinstance(tensor, torch.Tensor):
        raise ImageError(f"{name} must be a torch tensor (C, H, W) or (B, C, H, W), got {type(tensor).__name__}")
    return _checked(_from_torch(tensor.detach(), name), name, None).cpu()


def _from_pil(image: Image.Image, name: str) -> torch.Tensor:
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} is empty: {image.width} x {image.height} pixels")
    with failing_as(f"cannot read {name}"):
        pixels = _pixels(_upright(image))
        if image.mode == "F":
            _check_unit(pixels.color[None], f"{name} must be a PIL picture of floats in [0, 1]")
        return _from_unit(pixels.color[None])


def _from_numpy(array: NDArray[Any], name: str) -> torch.Tensor:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ImageError(
            f"{name} is a masked array with {int(np.ma.getmaskarray(array).sum())} masked values, and a picture has "
            "none; pass array.filled(value), and restore what is missing by the task inpaint"
        )
    array = np.asarray(array)  # of subclasses, which may divide otherwise
    layout = "(H, W), (H, W, C) or (B, H, W, C) with C = 1, 3 or 4"
    batch = array[None, :, :, None] if array.ndim == 2 else array[None] if array.ndim == 3 else array
    if batch.ndim != 4 or batch.shape[3] not in (1, 3, 4):
        raise ImageError(f"{name} must be a numpy array {layout}, got {array.shape}")
    if array.size == 0:
        raise ImageError(f"{name} is empty: a numpy array of shape {array.shape}")
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:  # in any byte order
        full_scale = np.iinfo(array.dtype).max
    elif array.dtype.kind == "f":
        full_scale = 1
    else:
        raise ImageError(f"{name} must be a numpy array of uint8, uint16 or floats in [0, 1], got {array.dtype}")
    with np.errstate(over="ignore"):  # what overflows becomes Inf, which is refused
        unit = _unit(batch[..., :3], full_scale)
    if full_scale == 1:
        _check_unit(unit, f"{name} must be a numpy array of floats in [0, 1]")
    return _from_unit(unit)


def _check_unit(unit: NDArray[np.float32], wanted: str) -> None:
    """Refuse floats (B, H, W, C) that can't be pictures in [0, 1] with noise, such as pictures in [-1, 1].

    Noise of a standard deviation s averages out: the mean of n values of a block lies above -(0.05 + 5.5 s / sqrt(n)),
    s = 0.5. What is below 0 has, squared, a mean of s^2 / 2 where all is black; that of s = 0.4 is allowed, give or
    take four of its deviations, sqrt(5) s^2 / 2 sqrt(n).
    """
    if unit.min() >= 0:  # as nearly always, and without copies
        return
    with np.errstate(all="ignore"):  # NaN and Inf are refused later
        below = np.square(np.minimum(unit, 0)).mean(axis=(1, 2, 3))
        signed = bool((below > 0.08 + 0.72 / np.sqrt(unit[0].size)).any())
        means = unit.mean(axis=3)
        for side in (4, 8, 16):
            rows, columns = (min(side, size) for size in means.shape[1:])
            height, width = (size - size % step for size, step in zip(means.shape[1:], (rows, columns), strict=True))
            blocks = means[:, :height, :width].reshape(len(means), height // rows, rows, width // columns, columns)
            slack = 0.05 + 5.5 * 0.5 / np.sqrt(rows * columns * unit.shape[3])
            signed = signed or bool((blocks.mean(axis=(2, 4)) < -slack).any())
    if signed:
        raise ImageError(
            f"{wanted}, got values from {unit.min():g} to {unit.max():g}, too many of them below 0 for noise; pass "
            "pictures in [-1, 1] as a torch tensor (B, C, H, W), or as (array + 1) / 2"
        )


def _from_torch(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.ndim not in (3, 4):
        raise ImageError(f"{name} must be a torch tensor (C, H, W) or (B, C, H, W), got {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        raise ImageError(f"{name} is empty: a torch tensor of shape {tuple(tensor.shape)}")
    if not tensor.is_floating_point() and tensor.dtype != torch.uint8:
        raise ImageError(f"{name} must be a torch tensor of uint8 or of floats in [-1, 1], got {tensor.dtype}")
    values = tensor.to(torch.float32, copy=True)
    if tensor.dtype == torch.uint8:
        values = values / 255 * 2 - 1
    return values if tensor.ndim == 4 else values[None]


def _checked(batch: torch.Tensor, name: str, limit: float | None, expected: str = "values in [-1, 1]") -> torch.Tensor:
    if not bool(torch.isfinite(batch).all()):
        raise ImageError(f"{name} must be finite, got NaN or Inf")
    largest = float(batch.detach().abs().max())
    if limit is not None and largest > limit:
        raise ImageError(
            f"{name} reaches {largest:g} in [-1, 1] units, beyond the limit of {limit:g}: expected {expected}; for "
            "0..255 values pass uint8, or scale them first"
        )
    return batch


def _wrong_type(name: str, value: object, more: str = "") -> ImageError:
    came = type(value).__name__
    return ImageError(f"{name} must be a PIL picture, a numpy array or a torch tensor{more}, got {came}")


# --- reading --------------------------------------------------------------------------------------------------------


def _as_path(path: PathInput) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ImageError(f"path must be a str or a path, got {path!r}")
    return Path(path)


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
def _reading(path: Path) -> Iterator[None]:
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
            raise ImageError(
                f"cannot read {str(path)!r}: not a picture, or a damaged one; expected {', '.join(_READABLE)} or .npy"
            ) from error


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
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


def _read_npy(path: Path, max_pixels: int) -> NDArray[np.float32]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 3 or array.size == 0 or array.dtype.kind != "f":
        raise ImageError(f"{str(path)!r} must hold a float array (C, H, W), got {array.dtype} {array.shape}")
    if array.shape[1] * array.shape[2] > max_pixels:
        raise _too_large(path, f"{array.shape[2]} x {array.shape[1]} pixels", max_pixels)
    with np.errstate(over="ignore"):  # what overflows becomes Inf, which is refused
        return np.array(array, dtype=np.float32, order="C")  # a copy in memory


def _read_pixels(path: Path, max_pixels: int) -> _Pixels:
    with _pillow_limit(max_pixels):
        try:
            with Image.open(path, formats=_READABLE) as image:
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    _check_tiff(path, image)
                tiles = image.tile
                transparent = image.info.get("transparency")
                upright = _upright(image)
                if not tiles or not all(_CUT_RAW_MODE.fullmatch(_raw_mode(tile)) for tile in tiles):
                    pixels = _pixels(upright)
                else:
                    pixels = _deep_pixels(_read_samples16(path, tiles, np.asarray(upright)), transparent)
                return pixels._replace(metadata=read_metadata(upright), pages=_count_pages(path))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            size, *_ = str(error).split(" exceeds")  # "Image size (144000000 pixels)"
            raise _too_large(path, size, max_pixels) from error


def _check_tiff(path: Path, image: TiffImagePlugin.TiffImageFile) -> None:
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
        with Image.open(path, formats=_READABLE) as image:
            return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))  # phones add a preview
    except MemoryError:
        raise
    except Exception:  # Pillow raises whatever it trips on
        return 1


def _upright(image: Image.Image) -> Image.Image:
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

    with Image.open(path, formats=_READABLE) as image:
        image.tile = [lower_tile(tile) for tile in tiles]
        lower = np.asarray(_upright(image))
    if _raw_mode(tiles[0]) == "LA;16B":
        samples: NDArray[np.uint16] = np.ascontiguousarray(lower).view(">u2").astype(np.uint16)
    else:
        samples = upper.astype(np.uint16) << 8 | lower
    return samples


def _deep_pixels(samples: NDArray[np.uint16], transparent: Any) -> _Pixels:
    """Pixels of (H, W, 1 to 4) 16-bit samples; `transparent` is the value that means transparent, or None."""
    channels = samples.shape[2]
    unit = _unit(samples, 65535)
    if channels in (2, 4):
        return _Pixels(unit[..., :-1], unit[..., -1].copy(), 16)
    if transparent is not None:
        return _Pixels(unit, (samples != np.asarray(transparent)).any(-1).astype(np.float32), 16)
    return _Pixels(unit, None, 16)


def _pixels(image: Image.Image) -> _Pixels:
    """Pixels of a PIL picture of any mode."""
    if image.mode == "F":
        return _Pixels(np.array(image, dtype=np.float32)[..., None], None, 32)
    if image.mode == "I" or image.mode.startswith("I;16"):
        samples = np.asarray(image)[..., None]
        if samples.min() < 0 or samples.max() > 65535:
            raise ImageError(
                f"a picture of integers must be in 0..65535, got {samples.min()} to {samples.max()} (mode {image.mode})"
            )
        return _deep_pixels(samples.astype(np.uint16), image.info.get("transparency"))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    transparent = image.has_transparency_data
    unit = _unit(np.atleast_3d(np.asarray(image.convert(mode + "A" if transparent else mode))), 255)
    return _Pixels(unit[..., :-1], unit[..., -1].copy(), 8) if transparent else _Pixels(unit, None, 8)


# --- writing --------------------------------------------------------------------------------------------------------


def _fit_alpha(alpha: torch.Tensor, height: int, width: int) -> NDArray[np.float32]:
    """Alpha (1, 1, h, w) as (H, W, 1) in [0, 1]."""
    if not isinstance(alpha, torch.Tensor) or not alpha.is_floating_point() or alpha.ndim != 4 or len(alpha) != 1:
        came = f"{alpha.dtype} {tuple(alpha.shape)}" if isinstance(alpha, torch.Tensor) else type(alpha).__name__
        raise ImageError(f"alpha must be a torch tensor of floats (1, 1, H, W) in [0, 1], got {came}")
    values = _batch(alpha, "alpha")
    if values.shape[1] != 1:
        raise ImageError(f"alpha must have one channel (1, 1, H, W), got {tuple(alpha.shape)}")
    if values.shape[2:] != (height, width):
        values = torch.nn.functional.interpolate(values, (height, width), mode="bicubic", antialias=True)
    fitted: NDArray[np.float32] = values.clamp(0, 1)[0, 0, :, :, None].numpy()
    return fitted


def _encode(unit: NDArray[np.float32], file_format: str, bits: int, metadata: Metadata) -> bytes:
    """A file of (H, W, 1 to 4) values in [0, 1]."""
    levels = _quantize(unit, bits)
    if bits == 16:
        return _encode_png16(levels, metadata) if file_format == "PNG" else _encode_tiff16(levels, metadata)
    buffer = io.BytesIO()
    options = _ENCODER_OPTIONS.get(file_format, {}) | encoder_options(metadata, file_format, unit.shape[2])
    _pil_from_bytes(levels).save(buffer, file_format, **options)
    return buffer.getvalue()


def _pil_from_bytes(levels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def _encode_png16(samples: NDArray[np.uint16], metadata: Metadata) -> bytes:
    """PNG of (H, W, 1 to 4) 16-bit samples, for which Pillow has no writer; https://www.w3.org/TR/png-3."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    differences = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))  # modulo 256: PNG's filter 2, "up"
    lines = np.insert(differences, 0, 2, axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    more = b"".join(chunk(*one) for one in png_chunks(metadata, channels))
    data = chunk(b"IDAT", zlib.compress(lines.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + data + chunk(b"IEND", b"")


def _encode_tiff16(samples: NDArray[np.uint16], metadata: Metadata) -> bytes:
    """TIFF of (H, W, 1 to 4) 16-bit samples in one uncompressed strip; grey with alpha is written as RGBA."""
    if samples.shape[2] == 2:
        samples = samples[..., [0, 0, 0, 1]]
    height, width, channels = samples.shape
    data = samples.astype("<u2").tobytes()
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    directory[TiffImagePlugin.IMAGEWIDTH] = width
    directory[TiffImagePlugin.IMAGELENGTH] = height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (16,) * channels
    directory[TiffImagePlugin.COMPRESSION] = 1
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1 if channels == 1 else 2
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    directory[TiffImagePlugin.ROWSPERSTRIP] = height
    directory[TiffImagePlugin.STRIPOFFSETS] = 0  # counted from the end of the directory
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = len(data)
    if channels == 4:
        directory[TiffImagePlugin.EXTRASAMPLES] = 2  # alpha, not premultiplied
    profile = fitting_profile(metadata, channels)
    if profile is not None:
        directory.tagtype[TiffImagePlugin.ICCPROFILE] = TiffTags.UNDEFINED
        directory[TiffImagePlugin.ICCPROFILE] = profile
    if metadata.dpi is not None:
        directory[TiffImagePlugin.RESOLUTION_UNIT] = 2  # inches
        directory[TiffImagePlugin.X_RESOLUTION], directory[TiffImagePlugin.Y_RESOLUTION] = metadata.dpi
    buffer = io.BytesIO()
    directory.save(buffer)
    return buffer.getvalue() + data


def _write(target: Path, data: bytes) -> None:
    if not target.parent.is_dir():
        raise ImageError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}; make it first")
    with failing_as(f"cannot write {str(target)!r}"):
        write_bytes(target, data)
