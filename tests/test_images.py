"""Pictures in and out: exact round trips, every kind of file, and a clear error for every bad input."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from diffusers_restore import decoding, images
from diffusers_restore.errors import ImageError, InvalidInputError
from diffusers_restore.metadata import Metadata

H, W = 7, 11
SEED = 20


def noise(*shape: int, bits: int = 8) -> NDArray[np.generic]:
    rng = np.random.default_rng(SEED)
    values = rng.integers(0, 2**bits, shape, dtype=np.uint8 if bits == 8 else np.uint16)
    values.flat[:2] = 0, 2**bits - 1
    return values


def units(levels: NDArray[np.generic], bits: int = 8) -> torch.Tensor:
    """(H, W, C) levels as (1, C, H, W) in [-1, 1], the plain way."""
    return torch.from_numpy(levels.astype(np.float64) / (2**bits - 1) * 2 - 1).permute(2, 0, 1)[None].float()


def levels(tensor: torch.Tensor, bits: int = 8) -> NDArray[np.int64]:
    """The whole numbers that (1, C, H, W) in [-1, 1] stands for; fails if they are off by more than a hundredth."""
    exact = (tensor[0].permute(1, 2, 0).double().numpy() + 1) / 2 * (2**bits - 1)
    assert np.abs(exact - np.rint(exact)).max() < 1e-2
    return np.rint(exact).astype(np.int64)


def alpha_levels(picture: images.Picture, bits: int = 8) -> NDArray[np.int64]:
    assert picture.alpha is not None
    assert picture.alpha.shape == (1, 1, *picture.tensor.shape[2:])
    assert picture.alpha.dtype == torch.float32
    return np.rint(picture.alpha[0, 0].double().numpy() * (2**bits - 1)).astype(np.int64)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- a PNG writer that shares no code with the library ---------------------------------------------------------------


def paeth(a: int, b: int, c: int) -> int:
    p = a + b - c
    return min((a, b, c), key=lambda v: abs(p - v))


def png_lines(samples: NDArray[np.generic], filter_type: int) -> bytes:
    raw = samples.astype(">u2").reshape(len(samples), -1).view(np.uint8).astype(int)
    step = 2 * samples.shape[2]
    lines = b""
    for y, row in enumerate(raw):
        above = raw[y - 1] if y else np.zeros_like(row)
        line = []
        for i, value in enumerate(row):
            a, c = (row[i - step], above[i - step]) if i >= step else (0, 0)
            b = above[i]
            line.append((value - (0, a, b, (a + b) // 2, paeth(a, b, c))[filter_type]) % 256)
        lines += bytes([filter_type, *line])
    return lines


def png_file(samples: NDArray[np.generic], filter_type: int = 0, interlaced: bool = False, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = samples.shape
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [samples]
    data = b"".join(png_lines(part, filter_type) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    holes = chunk(b"tRNS", extra) if extra else b""
    body = chunk(b"IHDR", header) + holes + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bomb(width: int, height: int) -> bytes:
    """A few hundred bytes that claim to be a large 8-bit grey PNG."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


# --- files: round trips ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".webp", ".PNG"])
def test_8_bits_come_back_exactly(tmp_path: Path, suffix: str, channels: int) -> None:
    source = noise(H, W, channels)
    path = tmp_path / f"a{suffix}"
    images.save(units(source), path)
    picture = images.load(path)
    expected = np.repeat(source, 3, axis=2) if suffix == ".webp" and channels == 1 else source
    np.testing.assert_array_equal(levels(picture.tensor), expected)
    assert (picture.bits, picture.alpha, picture.tensor.dtype) == (8, None, torch.float32)
    assert picture.tensor.is_contiguous()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_8_bit_alpha_comes_back_exactly(tmp_path: Path, suffix: str, channels: int) -> None:
    source, alpha = noise(H, W, channels), noise(H, W)[::-1]
    path = tmp_path / f"a{suffix}"
    images.save(units(source), path, alpha=torch.from_numpy(alpha / np.float32(255))[None, None])
    picture = images.load(path)
    np.testing.assert_array_equal(levels(picture.tensor) - source, 0)
    np.testing.assert_array_equal(alpha_levels(picture), alpha)


@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_come_back_exactly(tmp_path: Path, suffix: str, channels: int, with_alpha: bool) -> None:
    source, alpha = noise(H, W, channels, bits=16), noise(H, W, bits=16)[::-1]
    path, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    unit_alpha = torch.from_numpy(alpha / np.float32(65535))[None, None] if with_alpha else None
    images.save(units(source, 16), path, alpha=unit_alpha, bits=16)
    picture = images.load(path)
    assert picture.bits == 16
    np.testing.assert_array_equal(levels(picture.tensor, 16) - source, 0)
    if with_alpha:
        np.testing.assert_array_equal(alpha_levels(picture, 16), alpha)
    else:
        assert picture.alpha is None
    images.save(picture.tensor, again, alpha=picture.alpha, bits=picture.bits)
    assert torch.equal(images.load(again).tensor, picture.tensor)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_other_readers_see_our_16_bit_files(tmp_path: Path, suffix: str, channels: int) -> None:
    source = noise(H, W, channels, bits=16)
    alpha = torch.from_numpy(source[..., 3] / np.float32(65535))[None, None] if channels == 4 else None
    path = tmp_path / f"a{suffix}"
    images.save(units(source[..., :3], 16), path, alpha=alpha, bits=16)
    with Image.open(path) as image:  # Pillow gives all 16 bits of grey, the upper 8 of the rest
        seen = np.asarray(image)
    np.testing.assert_array_equal(seen, source[..., 0] if channels == 1 else source >> 8)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("filter_type", range(5))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_16_bit_png_is_read_exactly(tmp_path: Path, channels: int, filter_type: int, interlaced: bool) -> None:
    source = noise(H, W, channels, bits=16)
    path = tmp_path / "a.png"
    path.write_bytes(png_file(source, filter_type, interlaced))
    picture = images.load(path)
    color = source[..., :-1] if channels in (2, 4) else source
    assert picture.bits == 16
    np.testing.assert_array_equal(levels(picture.tensor, 16), color)
    if channels in (2, 4):
        np.testing.assert_array_equal(alpha_levels(picture, 16), source[..., -1])


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_with_a_transparent_colour(tmp_path: Path, channels: int) -> None:
    source = noise(H, W, channels, bits=16)
    source[2, 3:6] = 513
    source[2, 4] = 514  # the same upper byte
    source[2, 5, 0] = 514  # the others are those of the hole
    path = tmp_path / "a.png"
    path.write_bytes(png_file(source, extra=struct.pack(">H", 513) * channels))
    expected = np.ones((H, W), int)
    expected[2, 3] = 0
    np.testing.assert_array_equal(alpha_levels(images.load(path), 16) // 65535, expected)


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate", "tiff_lzw"])
def test_16_bit_grey_tiff_of_any_compression(tmp_path: Path, compression: str) -> None:
    source = noise(H, W, bits=16)
    path = tmp_path / "a.tif"
    Image.fromarray(source).save(path, compression=compression)
    picture = images.load(path)
    np.testing.assert_array_equal(levels(picture.tensor, 16)[..., 0], source)


def test_npy_keeps_any_channels_and_range(tmp_path: Path) -> None:
    values = torch.randn(5, H, W, generator=torch.Generator().manual_seed(SEED)) * 20
    images.save(values, tmp_path / "a.npy")
    picture = images.load(tmp_path / "a.npy")
    assert torch.equal(picture.tensor, values[None])
    assert (picture.bits, picture.alpha) == (32, None)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_npy_of_any_float(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(np.full((2, 3, 4), -0.5, dtype)))
    tensor = images.load(tmp_path / "a.npy").tensor
    assert torch.equal(tensor, torch.full((1, 2, 3, 4), -0.5))


def test_jpeg_is_close_and_not_subsampled(tmp_path: Path) -> None:
    ramp = np.stack(np.broadcast_arrays(np.arange(64)[:, None] * 4, np.arange(64) * 4, 128), axis=2).astype(np.uint8)
    images.save(units(ramp), tmp_path / "a.jpg")
    picture = images.load(tmp_path / "a.jpg")
    assert float((picture.tensor - units(ramp)).abs().max()) < 0.1
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_save_clips_rounds_and_leaves_its_inputs_alone(tmp_path: Path) -> None:
    tensor = torch.tensor([[[-3.0, -1.0, 0.999, 7.0]]], requires_grad=True)
    alpha = torch.tensor([[[[-1.0, 0.0, 1.0, 2.0]]]])
    before = tensor.detach().clone(), alpha.clone()
    images.save(tensor, tmp_path / "a.png", alpha=alpha)
    picture = images.load(tmp_path / "a.png")
    assert levels(picture.tensor)[..., 0].tolist() == [[0, 0, 255, 255]]
    assert alpha_levels(picture).tolist() == [[0, 0, 255, 255]]
    assert torch.equal(tensor, before[0])
    assert torch.equal(alpha, before[1])


def test_alpha_follows_a_larger_picture(tmp_path: Path) -> None:
    alpha = torch.zeros(1, 1, 4, 6)
    alpha[..., 3:] = 1
    images.save(torch.zeros(3, 16, 24), tmp_path / "a.png", alpha=alpha)
    got = alpha_levels(images.load(tmp_path / "a.png"))
    assert got.shape == (16, 24)
    assert (got[:, :9] <= 20).all()
    assert (got[:, 15:] >= 235).all()
    assert (got[:, 11] < 128).all()
    assert (got[:, 12] > 127).all()
    assert len(np.unique(got[:, 9:15])) >= 4  # a slope, not a step


def test_alpha_follows_a_smaller_picture(tmp_path: Path) -> None:
    alpha = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2)[None, None].float()
    images.save(torch.zeros(3, 8, 8), tmp_path / "a.png", alpha=alpha)
    assert np.ptp(alpha_levels(images.load(tmp_path / "a.png"))[2:-2, 2:-2] - 128) <= 4


def test_floats_are_saved_with_16_bits(tmp_path: Path) -> None:
    images.save(torch.full((1, H, W), 1 / 3), tmp_path / "a.png", bits=32)
    picture = images.load(tmp_path / "a.png")
    assert picture.bits == 16
    assert float((picture.tensor - 1 / 3).abs().max()) < 2e-5


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_16_bits_become_8_where_the_format_has_no_more(tmp_path: Path, suffix: str) -> None:
    images.save(torch.full((3, H, W), 0.25), tmp_path / f"a{suffix}", bits=16)
    picture = images.load(tmp_path / f"a{suffix}")
    assert picture.bits == 8
    assert float((picture.tensor - 0.25).abs().max()) < 0.02


@pytest.mark.parametrize("name", ["a b.png", "naïve 図 🖼.png", "." + "x" * 200 + ".png", "図" * 80 + ".png"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    images.save(torch.zeros(1, 2, 2), tmp_path / name)
    assert images.load(str(tmp_path / name)).tensor.shape == (1, 1, 2, 2)
    assert names(tmp_path) == [name]


# --- files: kinds (rows 4 and 5) -------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_rotation_equals_a_real_one(tmp_path: Path, file_format: str, orientation: int) -> None:
    image = Image.fromarray(noise(H, W, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    path = tmp_path / "a"
    path.write_bytes(encoded(image, file_format, exif=exif, **options))
    plain = tmp_path / "plain"
    plain.write_bytes(encoded(image, file_format, **options))
    methods = [None, 0, 3, 1, 5, 4, 6, 2]  # FLIP_LEFT_RIGHT, ROTATE_180, FLIP_TOP_BOTTOM, TRANSPOSE, ...
    with Image.open(plain) as upright:
        method = methods[orientation - 1]
        turned = upright.copy() if method is None else upright.transpose(Image.Transpose(method))
    tensor = images.load(path).tensor
    np.testing.assert_array_equal(levels(tensor), np.asarray(turned))
    with Image.open(path) as lazy:
        assert torch.equal(images.to_tensor(lazy), tensor)


def test_exif_rotation_of_16_bit_colour(tmp_path: Path) -> None:
    source = noise(H, W, 3, bits=16)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    data = png_file(source)
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    np.testing.assert_array_equal(levels(images.load(tmp_path / "a.png").tensor, 16), np.rot90(source, -1))


def palette_picture(transparency: int | bytes | None = None) -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


RGB3 = [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]


@pytest.mark.parametrize(
    ("image", "color", "alpha"),
    [
        (palette_picture(), RGB3, None),
        (palette_picture(1), RGB3, [[255, 0, 255]]),
        (palette_picture(bytes([10, 20, 30])), RGB3, [[10, 20, 30]]),
        (Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), [[[0], [255]]], None),
        (Image.merge("LA", [Image.new("L", (1, 1), 7), Image.new("L", (1, 1), 9)]), [[[7]]], [[9]]),
        (Image.new("RGBA", (1, 1), (1, 2, 3, 4)), [[[1, 2, 3]]], [[4]]),
        (Image.new("L", (1, 1), 200), [[[200]]], None),
    ],
    ids=["palette", "palette hole", "palette alpha", "1 bit", "LA", "RGBA", "L"],
)
def test_modes_of_png(tmp_path: Path, image: Image.Image, color: list[object], alpha: list[object] | None) -> None:
    image.save(tmp_path / "a.png")
    picture = images.load(tmp_path / "a.png")
    assert levels(picture.tensor).tolist() == color
    if alpha is None:
        assert picture.alpha is None
    else:
        assert alpha_levels(picture).tolist() == alpha
    assert torch.equal(images.to_tensor(image), picture.tensor)


@pytest.mark.parametrize(("mode", "key"), [("L", 5), ("RGB", (5, 5, 5))])
def test_8_bit_png_with_a_transparent_colour(tmp_path: Path, mode: str, key: int | tuple[int, ...]) -> None:
    image = Image.fromarray(np.array([[5, 6]], np.uint8)).convert(mode)
    image.save(tmp_path / "a.png", transparency=key)
    assert alpha_levels(images.load(tmp_path / "a.png")).tolist() == [[0, 255]]


def test_cmyk_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    color = images.load(tmp_path / "a.jpg").tensor.mean((0, 2, 3))
    torch.testing.assert_close(color, torch.tensor([1.0, -1.0, -1.0]), atol=0.05, rtol=0)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert levels(images.load(tmp_path / name).tensor)[0, 0].tolist() == [255, 0, 0], name


def test_float_tiff_is_in_0_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.25, 1.0]], np.float32)).save(tmp_path / "a.tif")
    picture = images.load(tmp_path / "a.tif")
    assert picture.tensor.flatten().tolist() == [-1.0, -0.5, 1.0]
    assert picture.bits == 32


def test_integers_are_16_bit_or_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535]], np.int32)).save(tmp_path / "a.tif")
    assert images.load(tmp_path / "a.tif").tensor.flatten().tolist() == [-1.0, 1.0]
    for wrong in (-1, 65536):
        Image.fromarray(np.array([[0, wrong]], np.int32)).save(tmp_path / "a.tif")
        with pytest.raises(ImageError, match=f"0..65535.*{wrong}"):
            images.load(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("channels", "old", "new", "layout"),
    [
        (3, struct.pack("<HHIHH", 278, 4, 1, H, 0), struct.pack("<HHIHH", 284, 3, 1, 2, 0), "separate planes"),
        (1, struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0), "white is zero"),
        (1, struct.pack("<HHIHH", 258, 3, 1, 16, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0), "12 bits"),
    ],
    ids=["planes", "inverted", "12 bits"],
)
def test_tiffs_that_would_be_read_wrongly_are_refused(
    tmp_path: Path, channels: int, old: bytes, new: bytes, layout: str
) -> None:
    path = tmp_path / "a.tif"
    images.save(torch.zeros(channels, H, W), path, bits=16)
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(ImageError, match=f"a.tif.*{layout}"):
        images.load(path)


# --- files: broken, absent, too large (rows 7, 8, 10) ----------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PNG16", "TIFF16", "NPY"])
def test_truncated_files_are_refused(tmp_path: Path, file_format: str, kept: float) -> None:
    path = tmp_path / {"NPY": "a.npy", "PNG16": "a.png", "TIFF16": "a.tif"}.get(file_format, "a b")
    if file_format in ("NPY", "PNG16", "TIFF16"):
        images.save(units(noise(40, 30, 3)), path, bits=16)
        data = path.read_bytes()
    else:
        data = encoded(Image.fromarray(noise(40, 30, 3)), file_format)
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ImageError, match=path.name):
        images.load(path)


def absent(folder: Path) -> Path:
    return folder / "no such.png"


def directory(folder: Path) -> Path:
    return folder


def written(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def npy(array: NDArray[np.generic]) -> Callable[[Path], Path]:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return written("a.npy", buffer.getvalue())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (absent, "no such file"),
        (directory, "not a file"),
        (written("a.png", b""), "empty"),
        (written("a.png", b"hello, I am text\n" * 20), "not a picture"),
        (written("a.npy", b"hello, I am text\n" * 20), "cannot read"),
        (written("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a picture"),
        (npy(np.zeros((2, 2), np.float32)), r"\(C, H, W\), got float32 \(2, 2\)"),
        (npy(np.zeros((3, 2, 2), np.uint8)), "uint8"),
        (npy(np.zeros((3, 0, 2), np.float32)), r"\(3, 0, 2\)"),
        (npy(np.full((3, 2, 2), np.nan, np.float32)), "NaN"),
        (npy(np.full((3, 2, 2), 1e300)), "Inf"),
        (npy(np.array([[["code"]]], dtype=object)), "cannot read"),
        (written("a.tif", encoded(Image.fromarray(np.array([[np.nan]], np.float32)), "TIFF")), "NaN"),
        (written("a.tif", encoded(Image.fromarray(np.array([[255]], np.float32)), "TIFF")), "reaches 509"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    path = make(tmp_path)
    with pytest.raises(ImageError, match=reason) as caught:
        images.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("reader", [images.load, images.load_mask])
@pytest.mark.parametrize("path", [None, 0, b"a.png", "a\0.png", ""])
def test_paths_that_are_none(reader: Callable[..., object], path: object) -> None:
    with pytest.raises(ImageError):
        reader(path)


@pytest.mark.parametrize("reader", [images.load, images.load_mask])
@pytest.mark.parametrize("size", [(8001, 8000), (12000, 12000), (60000, 60000)])
def test_bombs_are_refused_from_their_header(
    tmp_path: Path, size: tuple[int, int], reader: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(*size))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    pixels = size[0] * size[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=rf"bomb\.png.*{pixels} pixels.*max_pixels=64000000"):
            reader(tmp_path / "bomb.png")


def test_npy_bomb(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 4, 5), np.float32))
    assert images.load(tmp_path / "a.npy", max_pixels=20).tensor.shape == (1, 1, 4, 5)
    with pytest.raises(ImageError, match="5 x 4 pixels .* max_pixels=19"):
        images.load(tmp_path / "a.npy", max_pixels=19)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "GIF", "WEBP", "JPEG", "BMP"])
def test_max_pixels_replaces_pillows_own_limit(
    tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.new("L", (W, H)), file_format))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.load(path, max_pixels=H * W).tensor.shape[2:] == (H, W)
        for max_pixels in (H * W - 1, H * W // 3):
            with pytest.raises(ImageError, match=f"max_pixels={max_pixels}"):
                images.load(path, max_pixels=max_pixels)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("max_pixels", [0, -1, 1.5, "10", True, None])
def test_max_pixels_is_a_whole_number(tmp_path: Path, max_pixels: object) -> None:
    images.save(torch.zeros(1, 1, 1), tmp_path / "a.png")
    with pytest.raises(InvalidInputError, match="max_pixels"):
        images.load(tmp_path / "a.png", max_pixels=max_pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16", "LA", "F"])
def test_masks(tmp_path: Path, mode: str) -> None:
    known = np.random.default_rng(SEED).random((H, W)) < 0.5
    if mode == "I;16":
        image = Image.fromarray(known.astype(np.uint16) * 65535)
    elif mode == "F":
        image = Image.fromarray(known.astype(np.float32))
    else:
        image = Image.fromarray(known.astype(np.uint8) * 255).convert(mode)
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    image.save(path)
    mask = images.load_mask(path)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, torch.from_numpy(known).float())


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(np.array([[0, 255], [255, 254]], np.uint8)), r"\(254\) at row 1, column 1, and 1 such"),
        (Image.fromarray(np.array([[0, 1]], np.uint8)), r"0 .*255 .*got \(1\).*threshold"),
        (Image.new("RGB", (2, 2), "red"), r"\(255, 0, 0\)"),
        (Image.new("RGBA", (2, 2), (255, 255, 255, 0)), "transparent"),
    ],
)
def test_pictures_that_are_no_masks(tmp_path: Path, image: Image.Image, reason: str) -> None:
    image.save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=reason) as caught:
        images.load_mask(tmp_path / "mask.png")
    assert "mask.png" in str(caught.value)


def test_a_mask_after_jpeg_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(H, W) // 128 * 255).save(tmp_path / "mask.jpg", quality=80)
    with pytest.raises(ImageError, match="threshold"):
        images.load_mask(tmp_path / "mask.jpg")


# --- writing: what can't be written, and failures half-way (row 27) --------------------------------------------------

ZERO = torch.zeros(3, 4, 4)
ALPHA = torch.ones(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("a.gif", {}, r"a.gif.*\.png, \.jpg"),
        ("a", {}, r"\.png, \.jpg"),
        ("absent/a.png", {}, "no folder .*absent"),
        ("a.jpg", {"alpha": ALPHA}, r"alpha .*\.png"),
        ("a.bmp", {"alpha": ALPHA}, r"alpha .*\.png"),
        ("a.npy", {"alpha": ALPHA}, r"alpha .*\.png"),
        ("a.png", {"alpha": ALPHA[0]}, r"alpha .*\(1, 1, H, W\).*\(1, 4, 4\)"),
        ("a.png", {"alpha": ALPHA.expand(1, 3, 4, 4)}, r"alpha .*\(1, 3, 4, 4\)"),
        ("a.png", {"alpha": ALPHA.byte()}, "alpha .*uint8"),
        ("a.png", {"alpha": np.ones((1, 1, 4, 4))}, "alpha .*ndarray"),
        ("a.png", {"alpha": ALPHA * np.nan}, "alpha .*NaN"),
        ("a.png", {"bits": 12}, "bits .*12"),
        ("a.png", {"tensor": torch.zeros(5, 4, 4)}, r"\(5, 4, 4\).*\.npy"),
        ("a.png", {"tensor": torch.zeros(2, 3, 4, 4)}, "batch of 2"),
        ("a.png", {"tensor": ZERO * np.nan}, "tensor .*NaN"),
        ("a.npy", {"tensor": ZERO * np.nan}, "tensor .*NaN"),
        ("a.png", {"tensor": torch.zeros(4, 4)}, r"\(4, 4\)"),
        ("a.png", {"tensor": torch.zeros(3, 0, 4)}, "empty"),
        ("a.png", {"tensor": np.zeros((3, 4, 4))}, "ndarray"),
        ("a.webp", {"tensor": torch.zeros(1, 1, 16384)}, "cannot write .*a.webp"),
    ],
)
def test_what_cannot_be_saved(tmp_path: Path, name: str, arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        images.save(path=tmp_path / name, **{"tensor": ZERO, **arguments})  # type: ignore[arg-type]
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process exist on POSIX only")
def test_disk_full_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "a.png"
    images.save(ZERO, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a longer file makes write() fail
    try:
        with pytest.raises(ImageError, match="cannot write .*a.png"):
            images.save(units(noise(100, 100, 3)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["a.png"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["open", "replace"])
def test_failed_writes_leave_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "a.png"
    images.save(ZERO, path)
    before = path.read_bytes()
    aside: list[Path] = []

    def fail(self: Path, *_: object) -> None:
        aside.append(self)
        raise error

    monkeypatch.setattr(Path, step, fail)
    expected = ImageError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        images.save(ZERO + 0.5, path)
    monkeypatch.undo()
    if expected is ImageError:
        assert str(path) in str(caught.value)
        assert "Permission denied" in str(caught.value)
    assert aside[0].parent == tmp_path
    assert aside[0].name.startswith(".")
    assert names(tmp_path) == ["a.png"]
    assert path.read_bytes() == before


def test_an_existing_file_is_replaced_and_a_folder_is_not(tmp_path: Path) -> None:
    images.save(ZERO, tmp_path / "a.png")
    images.save(ZERO + 1, tmp_path / "a.png")
    assert float(images.load(tmp_path / "a.png").tensor.min()) == 1
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ImageError, match=r"b\.png"):
        images.save(ZERO, tmp_path / "b.png")
    assert names(tmp_path) == ["a.png", "b.png"]


# --- arrays and PIL pictures (rows 1-6, 11-13) -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(H, W), (H, W, 1), (H, W, 3), (2, H, W, 1), (2, H, W, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float16", "float32", "float64"])
def test_numpy_layouts_and_types(dtype: str, shape: tuple[int, ...]) -> None:
    top = {"uint8": 255, "uint16": 65535, ">u2": 65535}.get(dtype, 1)
    unit = np.random.default_rng(SEED).random(shape)
    array = (unit * top).astype(dtype)
    before = array.copy()
    tensor = images.to_tensor(array)
    batch = array.astype(np.float64).reshape(-1, H, W, 1 if len(shape) == 2 else shape[-1])
    expected = torch.from_numpy(batch / top * 2 - 1).permute(0, 3, 1, 2).float()
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, expected, atol=3e-7, rtol=0)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, H, W), (2, 1, H, W), (2, 48, H, W), (500, 1, 1), (2, 500, 1, 1), (3, H, 3)])
def test_torch_floats_pass_through_as_a_copy(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(dtype)
    before = values.clone()
    tensor = images.to_tensor(values)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, before.float().reshape(-1, *shape[-3:]))
    tensor.zero_()
    assert torch.equal(values, before)


def test_torch_bytes_are_full_scale() -> None:
    tensor = images.to_tensor(torch.tensor([[[0, 255, 51]]], dtype=torch.uint8))
    torch.testing.assert_close(tensor, torch.tensor([[[[-1.0, 1.0, -0.6]]]]))


def test_the_same_picture_in_every_form() -> None:
    source = noise(H, W, 3)
    expected = units(source)
    forms: list[images.ImageInput] = [
        Image.fromarray(source),
        source,
        source.astype(np.uint16) * 257,
        source / 255,
        torch.from_numpy(source).permute(2, 0, 1),
        expected,
        [source],
        (Image.fromarray(source),),
    ]
    for form in forms:
        torch.testing.assert_close(images.to_tensor(form), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("given", [noise(H, W, 4), Image.fromarray(noise(H, W, 4))], ids=["numpy", "PIL"])
def test_alpha_is_dropped_not_blended(given: images.ImageInput) -> None:
    np.testing.assert_array_equal(levels(images.to_tensor(given)), noise(H, W, 4)[..., :3])


def test_lists_are_batched_in_order() -> None:
    first, second = noise(H, W, 3), noise(H, W, 3)[::-1]
    batch = images.to_tensor([Image.fromarray(first), second, units(first)])
    for tensor, source in zip(batch.split(1), [first, second, first], strict=True):
        np.testing.assert_array_equal(levels(tensor), source)


def test_gradients_pass() -> None:
    values = torch.zeros(3, 2, 2, requires_grad=True)
    images.to_tensor(values).sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.ones(3, 2, 2))


def with_value(value: float) -> torch.Tensor:
    values = torch.zeros(3, H, W)
    values[1, 2, 3] = value
    return values


@pytest.mark.parametrize(
    ("row", "given", "reason"),
    [
        (1, with_value(float("nan")), "NaN"),
        (1, with_value(float("-inf")), "Inf"),
        (1, np.full((2, 2), np.nan), "NaN"),
        (1, np.full((2, 2), np.inf), "Inf"),
        (1, torch.full((1, 2, 2), 1e300, dtype=torch.float64), "Inf"),
        (1, Image.fromarray(np.full((2, 2), np.nan, np.float32)), "NaN"),
        (2, with_value(255), r"255 .*limit of 8.*\[-1, 1\].*uint8"),
        (2, with_value(-8.1), "8.1"),
        (2, np.full((2, 2), 255.0), r"509 .*numpy floats in \[0, 1\]"),
        (2, Image.fromarray(np.full((2, 2), 200, np.float32)), r"399 .*PIL floats in \[0, 1\]"),
        (11, torch.zeros(H, W, 3), r"\(C, H, W\).*\(7, 11, 3\).*channels last"),
        (11, torch.zeros(H, W, 1), "channels last"),
        (11, torch.zeros(H, W, 4), "channels last"),
        (11, torch.zeros(2, H, W, 3), "channels last"),
        (11, torch.zeros(H, W), r"\(7, 11\)"),
        (11, torch.zeros(1, 1, 3, H, W), r"\(1, 1, 3, 7, 11\)"),
        (11, np.zeros((3, H, W)), r"\(H, W, C\).*\(3, 7, 11\)"),
        (11, np.zeros((H, W, 2)), r"\(7, 11, 2\)"),
        (11, np.zeros(5), r"\(5,\)"),
        (12, [np.zeros((H, W)), np.zeros((W, H))], r"\(1, 7, 11\), \(1, 11, 7\)"),
        (12, [Image.new("L", (2, 2)), Image.new("RGB", (2, 2))], r"\(1, 2, 2\), \(3, 2, 2\)"),
        (12, [np.zeros((2, 2)), with_value(float("nan"))], r"picture\[1\] .*NaN"),
        (12, [], "empty list"),
        (12, (), "empty tuple"),
        (12, [[0.0, 1.0]], r"picture\[0\] .*list"),
        (12, [np.zeros((2, 2)), "a.png"], r"picture\[1\] .*str"),
        (13, np.zeros((2, 2), np.int64), "int64"),
        (13, np.zeros((2, 2), bool), "bool"),
        (13, np.zeros((2, 2), complex), "complex"),
        (13, np.zeros((2, 2), object), "object"),
        (13, torch.zeros(1, 2, 2, dtype=torch.int64), "int64"),
        (13, torch.zeros(1, 2, 2, dtype=torch.bool), "bool"),
        (13, torch.zeros(1, 2, 2, dtype=torch.complex64), "complex"),
        (9, torch.zeros(3, 0, 4), "empty.*(3, 0, 4)"),
        (9, torch.zeros(0, 3, 4, 4), "empty"),
        (9, np.zeros((0, 4, 3)), "empty"),
        (9, Image.new("RGB", (0, 4)), "empty: 0 x 4"),
        (7, "a.png", "PIL picture.*str"),
        (7, b"a.png", "bytes"),
        (7, None, "NoneType"),
        (7, 3.0, "float"),
        (7, {"image": 1}, "dict"),
    ],
)
def test_what_is_no_picture(row: int, given: images.ImageInput, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        images.to_tensor(given, name="picture")
    assert str(caught.value).startswith(("picture", "cannot read picture")), row


def smooth(height: int, width: int, channels: int = 3) -> NDArray[np.float32]:
    """A picture in [0, 1], (H, W, C)."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 7 + k) * np.cos(columns / 5 - k) for k in range(channels)]
    return ((np.stack(waves, axis=2) + 1) / 2).astype(np.float32)


@pytest.mark.parametrize("size", [(12, 20), (16, 24), (33, 70)])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_in_minus_one_to_one_are_refused(size: tuple[int, int], channels: int) -> None:
    picture = smooth(*size, channels)
    message = (
        r"image must be a numpy array of floats in \[0, 1\], got .* as a torch tensor .*, or as \(array \+ 1\) / 2"
    )
    for array in (picture * 2 - 1, (picture * 2 - 1).astype(np.float64), picture**2 * 2 - 1):
        for limit in (images.DEFAULT_LIMIT, None):
            with pytest.raises(ImageError, match=message):
                images.to_tensor(array, limit=limit)
        with pytest.raises(ImageError, match="image must be a numpy array of floats"):
            images.to_tensor(np.stack([picture, array.astype(np.float32)]))  # one of a batch
    with pytest.raises(ImageError, match=r"image must be a PIL picture of floats in \[0, 1\]"):
        images.to_tensor(Image.fromarray(picture[..., 0] * 2 - 1))
    assert images.to_tensor(picture).min() >= -1


@pytest.mark.parametrize("size", [(6, 7), (16, 24), (128, 128)])
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.25])
@pytest.mark.parametrize("brightness", [0, 0.1, 1])
def test_noisy_arrays_are_pictures(size: tuple[int, int], sigma: float, brightness: float) -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        noisy = brightness * smooth(*size, channels) + sigma * rng.standard_normal((*size, channels))
        assert torch.equal(
            images.to_tensor(noisy), torch.from_numpy(noisy.astype(np.float32) * 2 - 1).movedim(2, 0)[None]
        )


def test_the_limit_is_the_callers() -> None:
    assert float(images.to_tensor(with_value(8)).max()) == 8
    assert float(images.to_tensor(with_value(20), limit=20).max()) == 20
    assert float(images.to_tensor([with_value(1e6)], limit=None).max()) == 1e6
    with pytest.raises(ImageError, match=r"1\.5 .*limit of 1"):
        images.to_tensor(with_value(1.5), limit=1)
    with pytest.raises(InvalidInputError, match="limit"):
        images.to_tensor(with_value(0), limit=0)
    with pytest.raises(ImageError, match="NaN"):
        images.to_tensor(with_value(float("nan")), limit=None)


def test_a_truncated_lazy_picture_is_refused(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(40, 30, 3)), "PNG")
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.png") as lazy, pytest.raises(ImageError, match="truncated"):
        images.to_tensor(lazy)


@pytest.mark.parametrize("channels", [1, 3])
def test_to_pil_and_to_numpy_are_exact(channels: int) -> None:
    source = np.stack([noise(H, W, channels), noise(H, W, channels)[::-1]])
    tensor = torch.cat([units(item.copy()) for item in source])
    pictures = images.to_pil(tensor)
    assert [picture.mode for picture in pictures] == ["L" if channels == 1 else "RGB"] * 2
    for picture, item in zip(pictures, source, strict=True):
        np.testing.assert_array_equal(np.asarray(picture).reshape(item.shape), item)
    array = images.to_numpy(tensor)
    assert (array.shape, array.dtype) == ((2, H, W, channels), np.float32)
    np.testing.assert_allclose(array, source / 255, atol=1e-6)
    assert torch.allclose(images.to_tensor(array), tensor, atol=1e-6)


def test_outputs_are_clipped_and_rounded() -> None:
    tensor = torch.tensor([[[-9.0, -1.0, 0.1 / 255 - 1, 1.9 / 255 - 1, 9.0]]], requires_grad=True)
    assert np.asarray(images.to_pil(tensor)[0]).tolist() == [[0, 0, 0, 1, 255]]
    assert images.to_numpy(tensor)[0, 0, [0, -1], 0].tolist() == [0, 1]
    assert float(tensor.detach().max()) == 9


def test_palette_and_grey_agree_with_pil() -> None:
    image = Image.fromarray(noise(H, W, 3)).quantize(8)
    np.testing.assert_array_equal(levels(images.to_tensor(image)), image.convert("RGB"))
    grey = ImageOps.grayscale(image)
    np.testing.assert_array_equal(levels(images.to_tensor(grey))[..., 0], grey)


@pytest.mark.parametrize("convert", [images.to_pil, images.to_numpy])
@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (with_value(float("nan")), "NaN"),
        (torch.zeros(2, 5, 4, 4), r"\(5, 4, 4\)"),
        (torch.zeros(4, 4), r"\(4, 4\)"),
        (np.zeros((4, 4, 3)), "ndarray"),
        (None, "NoneType"),
    ],
)
def test_tensors_that_are_no_pictures(convert: Callable[..., object], tensor: object, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        convert(tensor)


# --- what isn't pixels -----------------------------------------------------------------------------------------------

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = RGB_PROFILE[:16] + b"GRAY" + RGB_PROFILE[20:]


def described(path: Path, mode: str = "RGB") -> Path:
    """A picture with a profile, 300 dpi, a camera, a place and a description of the size of its pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "A camera"
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2020:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 12
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    options = {"exif": exif, "dpi": (300, 150), "icc_profile": RGB_PROFILE if mode == "RGB" else GREY_PROFILE}
    Image.new(mode, (12, 8), "green" if mode == "RGB" else 99).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("suffix", "bits"), [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".tif", 8), (".tif", 16)]
)
def test_profile_exif_and_resolution_are_put_back(mode: str, suffix: str, bits: int, tmp_path: Path) -> None:
    picture = images.load(described(tmp_path / "a.jpg", mode))
    assert picture.tensor.shape[2:] == (12, 8)  # as the orientation says
    images.save(picture.tensor, tmp_path / f"b{suffix}", bits=bits, metadata=picture.metadata)
    with Image.open(tmp_path / f"b{suffix}") as again:
        again.load()
        if (suffix, mode) != (".webp", "L"):  # WebP has no grey
            assert again.info["icc_profile"] == (RGB_PROFILE if mode == "RGB" else GREY_PROFILE)
        if suffix != ".webp":
            assert again.info["dpi"] == pytest.approx((300, 150), rel=1e-3)
        if (suffix, bits) != (".tif", 16):
            exif = again.getexif()
            assert exif[ExifTags.Base.Model] == "A camera"
            assert exif.get(ExifTags.Base.Orientation, 1) == 1
            details = exif.get_ifd(ExifTags.IFD.Exif)
            assert details[ExifTags.Base.DateTimeOriginal] == "2020:01:02 03:04:05"
            assert ExifTags.Base.ExifImageWidth not in details
            assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert images.load(tmp_path / f"b{suffix}").tensor.shape == (1, 3 if suffix == ".webp" else len(mode), 12, 8)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_words_of_any_language_are_put_back(source: str, suffix: str, orientation: int, tmp_path: Path) -> None:
    words, lens = "Grand-mère, © 1950", "Ö"
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription], exif[ExifTags.Base.Make] = words.encode(), "Maker"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.LensModel: lens.encode(), ExifTags.Base.DateTimeOriginal: "1950:01:02"}
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
    if source == ".tif":  # which Pillow would write with question marks
        images.save(torch.zeros(3, 8, 8), tmp_path / "a.tif", metadata=Metadata(exif=exif.tobytes()))
    else:
        Image.new("RGB", (8, 8)).save(tmp_path / f"a{source}", exif=exif.tobytes())
    picture = images.load(tmp_path / f"a{source}")
    images.save(picture.tensor, tmp_path / f"b{suffix}", metadata=picture.metadata)
    with Image.open(tmp_path / f"b{suffix}") as again:
        again.load()
        found = again.getexif()
        details = found.get_ifd(ExifTags.IFD.Exif)
        assert found[ExifTags.Base.ImageDescription].encode("latin-1").decode() == words
        assert (found[ExifTags.Base.Make], found.get(ExifTags.Base.Orientation, 1)) == ("Maker", 1)
        assert (details[ExifTags.Base.LensModel], details[ExifTags.Base.DateTimeOriginal]) == (
            lens.encode(),
            "1950:01:02",
        )
        assert found.get_ifd(ExifTags.IFD.GPSInfo) == {ExifTags.GPS.GPSLatitudeRef: "N"}


def test_a_tiff_that_says_nothing_has_no_metadata(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif")
    assert images.load(tmp_path / "a.tif").metadata == Metadata()


def test_a_profile_of_other_colours_is_not_put_back(tmp_path: Path) -> None:
    grey = images.load(described(tmp_path / "a.png", "L"))
    for suffix, bits in ((".png", 8), (".png", 16), (".tif", 16), (".jpg", 8)):
        images.save(grey.tensor.expand(-1, 3, -1, -1), tmp_path / f"b{suffix}", bits=bits, metadata=grey.metadata)
        with Image.open(tmp_path / f"b{suffix}") as again:
            assert "icc_profile" not in again.info
            assert "dpi" in again.info


def test_metadata_that_nobody_needs_hurts_nobody(tmp_path: Path) -> None:
    green = Image.new("RGB", (16, 16), "green")
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "a" * 2_000_000, zip=True)
    green.save(tmp_path / "exif.png", exif=b"this is not a TIFF header")
    green.save(tmp_path / "text.png", pnginfo=text)
    green.save(tmp_path / "profile.png", icc_profile=bytes(2_000_000))
    for name in ("exif", "text", "profile"):
        file = tmp_path / f"{name}.png"
        assert images.load(file).tensor.shape == (1, 3, 16, 16)
        assert images.read_picture(file).size == (16, 16)
        images.save(images.load(file).tensor, tmp_path / "again.png", metadata=images.load(file).metadata)
    with Image.open(tmp_path / "exif.png") as opened:
        assert images.to_tensor(opened).shape == (1, 3, 16, 16)
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png", exif=b"this is not a TIFF header")
    assert images.load_mask(tmp_path / "mask.png").shape == (8, 8)
    text.add_text("bomb", "a" * (2**24 + 1), zip=True)
    green.save(tmp_path / "bomb.png", pnginfo=text)
    with pytest.raises(ImageError, match="too large"):
        images.load(tmp_path / "bomb.png")
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20


def test_metadata_that_a_format_cannot_hold_is_left_out(tmp_path: Path) -> None:
    x = torch.zeros(3, 8, 8)
    long = b"Exif\0\0II*\0\x08\0\0\0" + bytes(70_000)
    profile = bytes(16) + b"RGB " + bytes(2**24)
    for metadata in (Metadata(dpi=(1e300, 1e-300)), Metadata(exif=long), Metadata(icc_profile=profile)):
        for suffix, bits in (
            (".jpg", 8),
            (".png", 8),
            (".png", 16),
            (".tif", 8),
            (".tif", 16),
            (".webp", 8),
            (".bmp", 8),
        ):
            images.save(x, tmp_path / f"a{suffix}", bits=bits, metadata=metadata)
            assert images.load(tmp_path / f"a{suffix}").tensor.shape == (1, 3, 8, 8)


def test_a_damaged_second_page_leaves_the_first(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    data = bytearray((tmp_path / "a.tif").read_bytes())
    directory = int.from_bytes(data[4:8], "little")
    pointer = directory + 2 + 12 * int.from_bytes(data[directory : directory + 2], "little")
    data[pointer : pointer + 4] = (len(data) + 1000).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's
        picture = images.load(tmp_path / "a.tif")
    assert (picture.pages, picture.tensor[0, :, 0, 0].tolist()) == (1, [1, -1, -1])


def test_pages_are_counted(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for suffix in (".tif", ".webp", ".png", ".gif"):
        first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
        assert images.load(tmp_path / f"a{suffix}").pages == 2
    first.save(tmp_path / "one.tif")
    assert images.load(tmp_path / "one.tif").pages == 1
    first.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[second])
    assert images.load(tmp_path / "phone.jpg").pages == 1  # the second is a preview


def test_masked_arrays_are_refused_and_others_are_read() -> None:
    array = np.full((8, 8, 3), 200, np.uint8)
    array[2:5, 2:5] = 3
    with pytest.raises(ImageError, match=r"image is a masked array with 27 masked values.*filled"):
        images.to_tensor(np.ma.masked_array(array, mask=array == 3))
    unmasked = images.to_tensor(np.ma.masked_array(array))
    assert unmasked.dtype == torch.float32
    assert torch.equal(unmasked, images.to_tensor(array))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        assert torch.equal(images.to_tensor(np.matrix(array[..., 0])), images.to_tensor(array[..., 0]))


# --- every format of the installed Pillow; masks that aren't black and white; sizes before memory ---------------------


@pytest.mark.parametrize(
    "suffix", [".avif", ".jp2", ".tga", ".ppm", ".pcx", ".qoi", ".sgi", ".dds", ".ico", ".bmp", ".gif", ".jfif"]
)
def test_what_pillow_decodes_is_read(tmp_path: Path, suffix: str) -> None:
    name = Image.registered_extensions()[suffix]
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {name}")
    rows, columns = np.mgrid[:24, :32]
    levels = np.stack([8 * columns, 10 * rows, 4 * (rows + columns)], axis=-1).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / f"a{suffix}", **({"sizes": [(32, 24)]} if suffix == ".ico" else {}))
    picture = images.load(tmp_path / f"a{suffix}")
    assert picture.tensor.shape[1] == 3
    assert picture.bits == 8
    if suffix != ".ico":  # which is square
        assert np.abs(images.to_numpy(picture.tensor)[0] * 255 - levels).mean() < 4
    assert suffix in decoding.readable_suffixes()


def test_formats_that_run_other_programs_are_no_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    with pytest.raises(ImageError, match=r"not a picture.*expected PNG"):
        images.load(tmp_path / "a.eps")
    assert ".eps" not in decoding.readable_suffixes()


def test_heic_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(ImageError, match="convert it to AVIF, JPEG or PNG"):
        images.load(tmp_path / "a.heic")


def test_lab_colours(tmp_path: Path) -> None:
    rgb = Image.new("RGB", (8, 8), (200, 120, 40))
    profiles = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
    ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB").save(tmp_path / "a.tif")
    levels = images.to_numpy(images.load(tmp_path / "a.tif").tensor) * 255
    assert np.abs(levels - (200, 120, 40)).max() < 3


def test_channels_of_an_array_count(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((500, 2, 2), np.float32))
    with pytest.raises(ImageError, match=r"\(500, 2, 2\), as large as 500 pixels .* is more than max_pixels=4"):
        images.load(tmp_path / "a.npy", max_pixels=4)
    assert images.load(tmp_path / "a.npy", max_pixels=500).tensor.shape == (1, 500, 2, 2)


def test_an_archive_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros((1, 2, 2), np.float32))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ImageError, match="archive"):
        images.load(tmp_path / "a.npy")


def test_a_soft_mask_is_cut_at_a_threshold(tmp_path: Path) -> None:
    levels = np.array([[0, 100, 127, 128, 200, 255]], np.uint8)
    Image.fromarray(levels).save(tmp_path / "mask.png")
    read = images.read_mask(tmp_path / "mask.png")
    assert read.soft == 4
    assert read.mask.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert images.read_mask(tmp_path / "mask.png", threshold=0.3).mask.tolist() == [[0, 1, 1, 1, 1, 1]]
    for threshold in (1, -0.1, float("nan"), "half"):
        with pytest.raises(InvalidInputError, match="threshold must be"):
            images.read_mask(tmp_path / "mask.png", threshold=threshold)  # type: ignore[arg-type]


def test_quality(tmp_path: Path) -> None:
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for suffix in (".jpg", ".webp"):
        sizes = []
        for quality in (20, 90, None):
            images.save(picture, tmp_path / f"a{suffix}", quality=quality)
            sizes.append((tmp_path / f"a{suffix}").stat().st_size)
        assert sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(ImageError, match=r"only .jpg and .webp"):
        images.save(picture, tmp_path / "a.png", quality=90)
    with pytest.raises(InvalidInputError, match="quality must be"):
        images.save(picture, tmp_path / "a.jpg", quality=0)


def test_float_files_in_minus_one_to_one_are_refused(tmp_path: Path) -> None:
    ramp = np.linspace(-1, 1, 64, dtype=np.float32)[None].repeat(32, axis=0)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"must hold floats in \[0, 1\], got values from -1 to 1"):
        images.load(tmp_path / "a.tif")
    Image.fromarray((ramp + 1) / 2).save(tmp_path / "b.tif")
    np.testing.assert_allclose(images.load(tmp_path / "b.tif").tensor[0, 0], ramp, atol=1e-6)


@pytest.mark.parametrize("value", [3, "x", [], np.zeros(3), torch.zeros(3)], ids=type)
def test_what_files_are_not_given(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^metadata must be that of a Picture"):
        images.save(torch.zeros(3, 4, 4), tmp_path / "x.png", metadata=value)
    with pytest.raises(ImageError, match="^bits must be 8, 16 or 32, got"):
        images.save(torch.zeros(3, 4, 4), tmp_path / "x.png", bits=value)
    with pytest.raises(ImageError, match="path must be|there is no|cannot read"):
        images.read_picture(value)


@pytest.mark.parametrize(
    "value", [torch.ones(3, 4, 4).to_sparse(), torch.ones(3, 4, 4, device="meta")], ids=["sparse", "meta"]
)
def test_tensors_without_numbers_in_their_places(value: torch.Tensor) -> None:
    with pytest.raises(ImageError, match="image must be a dense tensor with values, got"):
        images.to_tensor(value)


def test_a_tensor_that_looks_like_0_to_1_is_doubted() -> None:
    """What `output_type="pt"` gives, of one pipeline for the next."""
    unit = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="image holds values from .* where that is the brighter half"):
        images.to_tensor(unit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (2 * unit - 1, 0.1 + 0.9 * unit, (255 * unit).byte(), unit[..., :8, :8], unit.numpy()[0, 0]):
            images.to_tensor(fine)
