"""Pixels to the bytes of picture files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, TiffTags

from .metadata import Metadata, encoder_options, fitting_profile, png_chunks

_PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> grey, grey + alpha, RGB, RGBA


def quantize(unit: NDArray[np.float32], bits: int) -> NDArray[Any]:
    """Values in [0, 1] to the nearest of 2^bits levels: uint8 or uint16."""
    levels: NDArray[Any] = np.rint(unit * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    return levels


def encode(
    unit: NDArray[np.float32], file_format: str, bits: int, metadata: Metadata, quality: int | None = None
) -> bytes:
    """A file of (H, W, 1 to 4) values in [0, 1].

    Args:
        unit: the values.
        file_format: by Pillow's name; 16 bits are for PNG and TIFF.
        bits: 8 or 16 for each channel.
        metadata: to store, as far as the format can.
        quality: of JPEG and WebP, 1..100; None is 95, and WebP without loss.
    """
    levels = quantize(unit, bits)
    if bits == 16:
        return _encode_png16(levels, metadata) if file_format == "PNG" else _encode_tiff16(levels, metadata)
    buffer = io.BytesIO()
    options = encoder_options(metadata, file_format, unit.shape[2])
    if file_format == "JPEG":
        options |= {"quality": 95 if quality is None else quality, "subsampling": 0}
    elif file_format == "WEBP":
        options |= {"lossless": True, "exact": True} if quality is None else {"quality": quality}
    pil_from_bytes(levels).save(buffer, file_format, **options)
    return buffer.getvalue()


def pil_from_bytes(levels: NDArray[np.uint8]) -> Image.Image:
    """(H, W, 1 to 4) of 0..255 as a PIL picture."""
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
