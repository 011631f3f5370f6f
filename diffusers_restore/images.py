"""Pictures in and out: files, PIL pictures and arrays to and from (B, C, H, W) float32 tensors in [-1, 1].

This is the only module with 0..255, 0..65535 and [0, 1]; everything else works in [-1, 1].
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from .decoding import (
    JPEGCoding,
    check_tiff,
    failing_as,
    not_a_picture,
    pillow_limit,
    pixels_of,
    read_array,
    read_pixels,
    readable_formats,
    reading,
    to_unit,
    upright,
)
from .encoding import encode, pil_from_bytes, quantize
from .errors import ImageError, InvalidInputError, check_int, check_real
from .files import write_bytes
from .metadata import NO_METADATA, Metadata
from .tensors import check_values

DEFAULT_MAX_PIXELS = 64_000_000
DEFAULT_LIMIT = 8.0

_SHOWS_A_RANGE = 32**2
"""Pixels of which a photograph has dark ones."""

SingleInput: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor
ImageInput: TypeAlias = SingleInput | Sequence[SingleInput]
PathInput: TypeAlias = str | os.PathLike[str]

_PICTURE = "PNG, JPEG, WebP, TIFF, AVIF, JPEG 2000, BMP, GIF or another format that Pillow decodes"
_READABLE = f"{_PICTURE}, or .npy"
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
QUALITY_SUFFIXES = (".jpg", ".jpeg", ".webp")
"""Of files that have a quality."""


@dataclass(frozen=True)
class Picture:
    """One picture from a file, ready for a pipeline, with what saving has to restore.

    `tensor` is (1, C, H, W) float32 in [-1, 1] with C = 1 (grey) or 3 (RGB); a `.npy` measurement may have any C and
    exceed the range. `alpha` is (1, 1, H, W) float32 in [0, 1], None if the file has none. `bits` per channel of the
    source are 8, 16 or 32 (floats). `metadata` is the colour profile, EXIF and resolution. `pages` counts the pictures
    of the file, of which this is the first. `jpeg` is how a JPEG was coded, None for another format.
    """

    tensor: torch.Tensor
    alpha: torch.Tensor | None
    bits: int
    metadata: Metadata = NO_METADATA
    pages: int = 1
    jpeg: JPEGCoding | None = None


class MaskFile(NamedTuple):
    """A mask (H, W) float32 of 0 and 1, and how many pixels of its file were neither black nor white."""

    mask: torch.Tensor
    soft: int


def load(path: PathInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a picture in any format that Pillow decodes, or a `.npy` float array (C, H, W) in [-1, 1] units.

    Of several pages or frames, the first is read. The EXIF orientation is applied. Palettes, CMYK and L*a*b* become
    RGB. Grey, RGB and RGBA of 16 bits keep them in PNG and TIFF (CMYK and premultiplied alpha keep 8); transparency is
    kept aside in `alpha`. Float TIFFs are in [0, 1]. Colour profiles are kept and not applied. The size is read from
    the header and compared with `max_pixels` before anything is decoded.

    Raises:
        ImageError: absent, empty, truncated, not a picture, larger than `max_pixels`, or with NaN or Inf in it.
        InvalidInputError: `max_pixels` is not a whole number >= 1.
    """
    source = _as_path(path)
    max_pixels = check_int("max_pixels", max_pixels, 1)
    name = f"picture {str(source)!r}"
    if source.suffix.lower() == ".npy":
        with reading(source, _READABLE), np.errstate(over="ignore"):  # what overflows becomes Inf, which is refused
            array = read_array(source, max_pixels)
            if array.ndim != 3 or array.size == 0 or array.dtype.kind != "f":
                raise ImageError(f"{str(source)!r} must hold a float array (C, H, W), got {array.dtype} {array.shape}")
            array = np.array(array, dtype=np.float32, order="C")  # a copy in memory
        return Picture(_checked(torch.from_numpy(array)[None], name, None), None, 32)
    with reading(source, _READABLE):
        pixels = read_pixels(source, max_pixels)
    if pixels.bits == 32:
        _check_unit(pixels.color[None], f"{name} must hold floats in [0, 1]")
    alpha = None if pixels.alpha is None else torch.from_numpy(pixels.alpha)[None, None]
    expected = "floats in [0, 1]" if pixels.bits == 32 else "values in [-1, 1]"
    tensor = _checked(_from_unit(pixels.color[None]), name, DEFAULT_LIMIT, expected)
    return Picture(tensor, alpha, pixels.bits, pixels.metadata, pixels.pages, pixels.jpeg)


def read_picture(file: PathInput | bytes) -> Image.Image:
    """Read a picture file, by its path or its bytes, as an 8-bit PIL picture: "L" if it is grey, else "RGB".

    The EXIF orientation is applied and transparency dropped. 16 bits are scaled to 8; float TIFFs are in [0, 1].

    Raises:
        ImageError: absent, damaged, not a picture, or larger than `DEFAULT_MAX_PIXELS`.
    """
    content = io.BytesIO(file) if isinstance(file, bytes) else file
    name = f"<{len(file)} bytes>" if isinstance(file, bytes) else str(_as_path(file))
    with failing_as(f"cannot read {name!r}"), pillow_limit(DEFAULT_MAX_PIXELS):
        try:
            with Image.open(content, formats=readable_formats()) as image:
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    check_tiff(Path(name), image)
                return _to_8_bits(upright(image))
        except UnidentifiedImageError as error:
            raise not_a_picture(name, _PICTURE) from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):  # Pillow's own conversion clips these at 255
        return to_pil(to_tensor(image))[0]
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:  # by way of alpha: Pillow warns about palettes with transparent entries
        image = image.convert(mode + "A")
    return image.convert(mode)


def is_of_its_suffix(path: PathInput) -> bool:
    """Whether a picture file is of the format that its suffix names, one that is written; not for `.npy`."""
    target = _as_path(path)
    try:
        with Image.open(target, formats=readable_formats()) as image:
            return _WRITABLE.get(target.suffix.lower()) == ("JPEG" if image.format == "MPO" else image.format)
    except (OSError, ValueError):
        return False


def load_mask(path: PathInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> torch.Tensor:
    """Read a black and white picture as a mask (H, W) float32: 1 = known (white), 0 = missing (black).

    Raises:
        ImageError: as for `load`, or a value that is neither black nor white, or transparency in the file.
        InvalidInputError: `max_pixels` is not a whole number >= 1.
    """
    color = _read_mask(path, max_pixels)
    soft = _soft(color)
    if soft.any():
        row, column = (int(i) for i in np.argwhere(soft)[0])
        values = ", ".join(f"{255 * v:.4g}" for v in color[row, column])
        raise ImageError(
            f"mask {os.fspath(path)!r} must hold only 0 (black) and 255 (white), got ({values}) at row {row}, column "
            f"{column}, and {int(soft.sum())} such pixels in all; threshold it and save it without loss, as PNG, or "
            "read it by images.read_mask"
        )
    return torch.from_numpy(color[..., 0].copy())


def read_mask(path: PathInput, *, threshold: float = 0.5, max_pixels: int = DEFAULT_MAX_PIXELS) -> MaskFile:
    """Read a mask with soft edges, or one that was saved as JPEG: white where its brightness is above `threshold`.

    Args:
        path: of a picture file.
        threshold: from 0 (black) to below 1 (white); the brightness is the mean of the colours.
        max_pixels: of the picture.

    Raises:
        ImageError: as for `load`, or transparency in the file.
        InvalidInputError: a threshold out of range, or `max_pixels` is not a whole number >= 1.
    """
    threshold = check_real("threshold", threshold, 0)
    if threshold >= 1:
        raise InvalidInputError(f"threshold must be a number >= 0 and < 1, got {threshold!r}")
    color = _read_mask(path, max_pixels)
    return MaskFile(torch.from_numpy((color.mean(-1) > threshold).astype(np.float32)), int(_soft(color).sum()))


def _read_mask(path: PathInput, max_pixels: int) -> NDArray[np.float32]:
    source = _as_path(path)
    max_pixels = check_int("max_pixels", max_pixels, 1)
    with reading(source, _PICTURE):
        color, alpha, *_ = read_pixels(source, max_pixels)
    if alpha is not None and (alpha != 1).any():
        raise ImageError(f"mask {str(source)!r} has transparent pixels; save it as opaque black and white")
    return color


def _soft(color: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a mask (H, W, C) is neither black nor white."""
    grey = color[..., :1]
    soft: NDArray[np.bool_] = (((grey != 0) & (grey != 1)) | (color != grey)).any(-1)
    return soft


def save(
    tensor: torch.Tensor,
    path: PathInput,
    *,
    alpha: torch.Tensor | None = None,
    bits: int = 8,
    metadata: Metadata | None = None,
    quality: int | None = None,
) -> None:
    """Write one picture, (C, H, W) or (1, C, H, W) in [-1, 1], in the format that the suffix of `path` names.

    C = 1 gives a grey file (WebP has no grey: RGB), C = 3 an RGB one; values are clipped and rounded. JPEG is written
    at quality 95 without chroma subsampling, WebP without loss; `quality` 1..100 replaces that in both. `bits` above 8
    gives 16 bits in PNG and TIFF and 8 elsewhere. `alpha` (1, 1, h, w) in [0, 1] is resized bicubically to (H, W),
    clipped, and stored in PNG, WebP and TIFF (grey with alpha in a 16-bit TIFF becomes RGBA). `metadata` is put back as
    far as the format can hold it (a 16-bit TIFF no EXIF, a BMP the resolution alone, .npy nothing); a colour profile
    stays where grey stays grey and colours stay colours. `.npy` stores float32 (C, H, W), any C, unclipped. The file is
    written aside in the same folder and renamed, so that `path` is either complete or unchanged.

    Raises:
        ImageError: a shape, value, suffix, `bits`, `alpha` or `quality` that the file can't hold, an absent folder, or
            a write that fails.
    """
    target = _as_path(path)
    file_format = _WRITABLE.get(target.suffix.lower())
    if file_format is None:
        raise ImageError(f"cannot write {str(target)!r}: the suffix must be one of {', '.join(_WRITABLE)}")
    if not isinstance(bits, Integral) or bits not in (8, 16, 32):
        raise ImageError(f"bits must be 8, 16 or 32, got {bits!r}")
    if alpha is not None and file_format not in _CARRY_ALPHA:
        raise ImageError(f"cannot write alpha to {str(target)!r}: use .png, .webp or .tif, or pass alpha=None")
    if quality is not None:
        quality = check_int("quality", quality, 1, 100)
        if target.suffix.lower() not in QUALITY_SUFFIXES:
            raise ImageError(f"cannot write {str(target)!r} with a quality: only .jpg and .webp have one")
    if metadata is not None and not isinstance(metadata, Metadata):
        raise ImageError(
            f"metadata must be that of a Picture, images.load(path).metadata, or None, got {metadata!r:.99}"
        )
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
            data = encode(unit, file_format, depth, metadata or NO_METADATA, quality)
    _write(target, data)


def to_tensor(image: ImageInput, *, name: str = "image", limit: float | None = DEFAULT_LIMIT) -> torch.Tensor:
    """Convert a picture, or a sequence of pictures of one size, to a new (B, C, H, W) float32 tensor in [-1, 1].

    - PIL picture of any mode: EXIF orientation is applied, C is 1 or 3; float pictures are in [0, 1].
    - numpy (H, W), (H, W, C) or (B, H, W, C), C in {1, 3, 4}: uint8 and uint16 at full scale, floats in [0, 1].
    - torch (C, H, W) or (B, C, H, W) with any C: floats in [-1, 1], uint8 at full scale. Keeps its device.

    Transparency is dropped: only `load` and `save` keep it. Floats may exceed their range, as noisy measurements do, as
    long as no value is beyond +-`limit` in [-1, 1] units; None lifts that check, which is there to catch 0..255 floats.
    Arrays and PIL floats in [-1, 1] are refused, whichever pipeline gets them: more of them is below 0, in value or in
    the mean of small blocks, than noise of a standard deviation of 0.5 on pictures in [0, 1] can explain. Of a tensor
    in [0, 1] there is a warning, since it could be a bright picture. `name` is the argument's name in errors.

    Raises:
        ImageError: another type, dtype or layout, an empty picture, NaN or Inf, values beyond `limit`, several sizes.
        InvalidInputError: `limit` is not a number above 0.

    Warns:
        UserWarning: a tensor whose values look like [0, 1].
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
        checked = _checked(batch, name, limit, "torch floats in [-1, 1]")
        if image.is_floating_point():
            _doubt_range(checked, name)
        return checked
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


def _doubt_range(batch: torch.Tensor, name: str) -> None:
    """Warn of pictures that are likely in [0, 1], as `output_type="pt"` has them: none of their pixels is dark."""
    low, high = (float(one) for one in torch.aminmax(batch.detach()))
    if 0 <= low < 0.1 and 0.5 < high <= 1 and batch[0, 0].numel() >= _SHOWS_A_RANGE:
        warnings.warn(
            f"{name} holds values from {low:.3g} to {high:.3g}: tensors are in [-1, 1], where that is the brighter "
            "half of the greys. If 0 is black here, pass 2 * tensor - 1; output_type='latent' gives tensors in [-1, 1]",
            stacklevel=3,
        )


def to_pil(tensor: torch.Tensor) -> list[Image.Image]:
    """Convert (B, C, H, W) or (C, H, W) in [-1, 1], C = 1 or 3, to 8-bit PIL pictures, clipped and rounded.

    Raises:
        ImageError: not such a tensor, or NaN or Inf in it.
    """
    return [pil_from_bytes(quantize(unit, 8)) for unit in to_numpy(tensor)]


def to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    """Convert (B, C, H, W) or (C, H, W) in [-1, 1], C = 1 or 3, to (B, H, W, C) float32 in [0, 1], clipped.

    Raises:
        ImageError: not such a tensor, or NaN or Inf in it.
    """
    return _to_unit(_batch(tensor, "tensor"))


def grid(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (B, C, H, W) in [-1, 1] side by side, row by row, as one (C, H', W'), as nearly square as possible.

    Two white pixels separate them, and more where each is a row of pictures; unused places at the end are white.

    Raises:
        ImageError: not such a tensor, or NaN or Inf in it.
    """
    batch = _batch(pictures, "pictures")
    count, channels, height, width = batch.shape
    columns = min(range(count, 0, -1), key=lambda n: abs(n * width - -(-count // n) * height))
    gap = 2 if width < 2 * height else max(2, height // 8)
    sheet = torch.ones(channels, -(-count // columns) * (height + 2) - 2, columns * (width + gap) - gap)
    for i, picture in enumerate(batch):
        top, left = i // columns * (height + 2), i % columns * (width + gap)
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


def _batch(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """A torch picture as (B, C, H, W) float32 on the CPU, finite, without gradient."""
    if not isinstance(tensor, torch.Tensor):
        raise ImageError(f"{name} must be a torch tensor (C, H, W) or (B, C, H, W), got {type(tensor).__name__}")
    return _checked(_from_torch(tensor.detach(), name), name, None).cpu()


def _from_pil(image: Image.Image, name: str) -> torch.Tensor:
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} is empty: {image.width} x {image.height} pixels")
    with failing_as(f"cannot read {name}"):
        pixels = pixels_of(upright(image))
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
        unit = to_unit(batch[..., :3], full_scale)
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
    try:
        check_values(name, tensor)
    except InvalidInputError as error:
        raise ImageError(str(error)) from error
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


# --- files ------------------------------------------------------------------------------------------------------------


def _as_path(path: PathInput) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise ImageError(f"path must be a str or a path, got {path!r:.99}")
    return Path(path)


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


def _write(target: Path, data: bytes) -> None:
    if not target.parent.is_dir():
        raise ImageError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}; make it first")
    with failing_as(f"cannot write {str(target)!r}"):
        write_bytes(target, data)
