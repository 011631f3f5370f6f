"""What a picture file holds beside pixels: colour profile, EXIF and resolution, read and put back."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

_ORIENTATION = ExifTags.Base.Orientation
_SIZE = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
_INCH = 0.0254  # metres
_MAX_PROFILE = 2**24 - 2**16  # bytes; `images` reads no longer ones from a PNG
_MAX_EXIF_OF_JPEG = 65533
_MAX_DPI = 65535  # of a JPEG


@dataclass(frozen=True)
class Metadata:
    """What the pixels of a file don't say.

    Attributes:
        icc_profile: how its colours are meant.
        exif: date, camera, place; without orientation, size and thumbnail, which are those of other pixels.
        dpi: dots per inch, in width and in height.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        # What no file can hold is no reason not to write the pixels.
        if self.icc_profile is not None and not 20 < len(self.icc_profile) <= _MAX_PROFILE:
            object.__setattr__(self, "icc_profile", None)
        if self.dpi is not None and not all(1 <= value <= _MAX_DPI for value in self.dpi):
            object.__setattr__(self, "dpi", None)


NO_METADATA = Metadata()


def read_metadata(image: Image.Image) -> Metadata:
    """That of an open picture; what can't be read counts as absent."""
    profile, resolution = image.info.get("icc_profile"), image.info.get("dpi")
    dpi = None
    try:
        across, down = (float(value) for value in resolution)  # type: ignore[union-attr]
        dpi = (across, down)
    except (TypeError, ValueError, ZeroDivisionError):
        pass
    return Metadata(profile if isinstance(profile, bytes) else None, _read_exif(image), dpi)


def _read_exif(image: Image.Image) -> bytes | None:
    try:
        exif = image.getexif()
        exif.pop(_ORIENTATION, None)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for name in _SIZE:
            exif.pop(name, None)
            details.pop(name, None)
        return exif.tobytes() if exif else None
    except Exception:  # a block that isn't what it says; Pillow raises whatever it trips on
        return None


def fitting_profile(metadata: Metadata, channels: int) -> bytes | None:
    """The colour profile, if it is one of grey pictures for 1 or 2 channels, or one of RGB for 3 or 4."""
    if metadata.icc_profile is None:
        return None
    space = metadata.icc_profile[16:20]
    return metadata.icc_profile if space == (b"GRAY" if channels < 3 else b"RGB ") else None


def encoder_options(metadata: Metadata, file_format: str, channels: int) -> dict[str, Any]:
    """Options of `Image.save` for a format, which may hold less."""
    wanted: dict[str, Any] = {}
    if file_format in ("PNG", "JPEG", "WEBP", "TIFF"):
        profile = None if file_format == "WEBP" and channels < 3 else fitting_profile(metadata, channels)
        too_long = file_format == "JPEG" and len(metadata.exif or b"") > _MAX_EXIF_OF_JPEG
        wanted = {"icc_profile": profile, "exif": None if too_long else metadata.exif}
    if file_format in ("PNG", "JPEG", "TIFF", "BMP"):
        wanted["dpi"] = metadata.dpi
    return {name: value for name, value in wanted.items() if value is not None}


def png_chunks(metadata: Metadata, channels: int) -> list[tuple[bytes, bytes]]:
    """The kinds and bodies of PNG chunks, which stand before the pixels; https://www.w3.org/TR/png-3."""
    chunks = []
    profile = fitting_profile(metadata, channels)
    if profile is not None:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    if metadata.dpi is not None:
        dots = b"".join(round(value / _INCH).to_bytes(4, "big") for value in metadata.dpi)
        chunks.append((b"pHYs", dots + b"\1"))
    if metadata.exif is not None:
        chunks.append((b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    return chunks
