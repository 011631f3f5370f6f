"""What a picture file holds beside pixels: colour profile, EXIF and resolution, read and put back."""

from __future__ import annotations

import zlib
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin

_ORIENTATION = ExifTags.Base.Orientation
_SIZE = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
_BLOCKS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_OF_PHOTOGRAPH = (
    ExifTags.Base.DocumentName,
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
    *_BLOCKS,
)
"""Tags of a TIFF that say nothing of its own pixels."""
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
        # What no file can hold is no reason not to write the pixels. A TIFF that states no resolution has 1 for Pillow.
        if self.icc_profile is not None and not 20 < len(self.icc_profile) <= _MAX_PROFILE:
            object.__setattr__(self, "icc_profile", None)
        if self.dpi is not None and not all(1 < value <= _MAX_DPI for value in self.dpi):
            object.__setattr__(self, "dpi", None)


NO_METADATA = Metadata()


def read_metadata(image: Image.Image) -> Metadata:
    """That of an open picture, decoded but not turned; what can't be read counts as absent."""
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
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # where the pixels lie is among the tags, too
            exif = _of_photograph(exif)
        exif.pop(_ORIENTATION, None)
        for part in _parts(exif):
            for name in _SIZE:
                part.pop(name, None)
            _keep_letters(part)
        return exif.tobytes() if exif else None
    except Exception:  # a block that isn't what it says; Pillow raises whatever it trips on
        return None


def _parts(exif: Image.Exif) -> list[MutableMapping[int, Any]]:
    return [exif, *(exif.get_ifd(block) for block in _BLOCKS if block in exif)]


def _keep_letters(tags: MutableMapping[int, Any]) -> None:
    """Put texts back as the bytes that Pillow has read as Latin-1, else it writes question marks for all but ASCII."""
    for tag, value in tags.items():
        if isinstance(value, str) and not value.isascii():
            tags[tag] = value.encode("latin-1")


def _of_photograph(tags: Image.Exif) -> Image.Exif:
    for part in _parts(tags):
        _keep_letters(part)
    kept = Image.Exif()
    for tag in _OF_PHOTOGRAPH:
        if tag in tags:
            kept[tag] = dict(tags.get_ifd(tag)) if tag in _BLOCKS else tags[tag]
    return _loaded(kept.tobytes())


def _loaded(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


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
    if file_format == "TIFF" and metadata.exif is not None:
        wanted["exif"] = _loaded(metadata.exif)  # Pillow writes its values anew
        for part in _parts(wanted["exif"]):
            _keep_letters(part)
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
