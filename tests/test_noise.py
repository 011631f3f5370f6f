"""The estimate of noise against known noise."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image

from diffusers_restore import DEFAULT_PRIOR, images, operators, restoring
from diffusers_restore.decoding import JPEGCoding
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.evaluation.metrics import psnr
from diffusers_restore.evaluation.noise import estimate_noise, jpeg_loss
from diffusers_restore.restoring.zero_shot import rounding_noise

GREY = 2 / 255


def photos() -> list[torch.Tensor]:
    folder = Path(DEFAULT_PRIOR).parent / "photos"
    return [images.load(file).tensor[..., :200, :240] for file in sorted(folder.glob("*.png"))]


def noisy(x: torch.Tensor, levels: float, *, stored: bool) -> torch.Tensor:
    """With noise of `levels` of 255, as numbers or as an 8-bit file holds it."""
    y = x + levels * GREY * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return images.to_tensor(images.to_pil(y)) if stored else y


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("levels", [5, 15, 50])
def test_known_noise_is_found(levels: float, stored: bool) -> None:
    for x in photos():
        assert estimate_noise(noisy(x, levels, stored=stored)) == pytest.approx(levels * GREY, rel=0.08)


@pytest.mark.parametrize("levels", [10, 25, 50])
def test_known_noise_is_found_in_grey_pictures(levels: float) -> None:
    """Their patches have a third of the numbers, hardly one of which is noise alone in a textured picture."""
    for x in photos():
        grey = x.mean(dim=1, keepdim=True)
        found = estimate_noise(noisy(grey, levels, stored=True))
        assert found == pytest.approx(levels * GREY, rel=0.08)
        assert estimate_noise(noisy(grey, levels, stored=True).expand(-1, 3, -1, -1)) == found


def test_noise_that_black_swallows_is_not_what_is_found() -> None:
    """A grey picture of which the smoothest part is black, where half of the noise is clipped."""
    x = photos()[0].mean(dim=1, keepdim=True)
    x[..., :, :120] = -1
    assert estimate_noise(noisy(x, 25, stored=True)) == pytest.approx(25 * GREY, rel=0.08)


def test_known_noise_is_found_on_10_pictures(shared: Path) -> None:
    """The head of Set5 has grain of its own, which counts. benchmarks/noise.py has more levels of noise."""
    for file, count in (("set5.zip", 5), ("cbsd68_jpg.zip", 5)):
        with zipfile.ZipFile(shared / "data" / "testsets" / file) as archive:
            names = sorted(name for name in archive.namelist() if name.lower().endswith((".bmp", ".jpg")))[:count]
            for i, name in enumerate(names):
                x = images.to_tensor(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                own = 4.4 if "head" in name else 0.0
                levels = (5, 50)[i % 2]
                expected = (levels**2 + own**2) ** 0.5 * GREY
                assert estimate_noise(noisy(x, levels, stored=True)) == pytest.approx(expected, rel=0.08), name


def stored_as_jpeg(x: torch.Tensor, quality: int = 95) -> torch.Tensor:
    """With colours of half the pixels, as cameras and Pillow write it."""
    content = io.BytesIO()
    images.to_pil(x)[0].save(content, "JPEG", quality=quality, subsampling="4:2:0")
    return images.to_tensor(Image.open(content))


def test_noise_is_found_though_the_colours_have_half_the_pixels() -> None:
    for x in photos():
        assert estimate_noise(stored_as_jpeg(x)) < 3 * GREY
        for levels in (15, 25, 50):
            y = stored_as_jpeg(noisy(x, levels, stored=False))
            assert estimate_noise(y) == pytest.approx(levels * GREY, rel=0.3)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [95, 75, 30])
def test_what_a_jpeg_took_is_told_by_coding_it_once_more(
    quality: int, channels: int, subsampling: str, tmp_path: Path
) -> None:
    for x in photos():
        given = images.to_tensor(images.to_pil(x[:, :channels])[0])
        images.to_pil(given)[0].save(tmp_path / "y.jpg", quality=quality, subsampling=subsampling)
        picture = images.load(tmp_path / "y.jpg")
        assert picture.jpeg is not None
        lost = float((picture.tensor - given).square().mean().sqrt())
        assert 0.55 < jpeg_loss(picture.tensor, picture.jpeg) / lost < 1.6
    images.save(x, tmp_path / "y.png")
    assert images.load(tmp_path / "y.png").jpeg is None
    assert jpeg_loss(x[..., :15, :40], picture.jpeg) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_that_is_turned_took_as_much(orientation: int, tmp_path: Path) -> None:
    """Its sides, 4 more than blocks, end blocks where others begin once it is turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    given = images.to_pil(photos()[0][..., :100, :132])[0]
    given.save(tmp_path / "y.jpg", quality=75)
    given.save(tmp_path / "turned.jpg", quality=75, exif=exif)
    plain, turned = (images.load(tmp_path / name) for name in ("y.jpg", "turned.jpg"))
    assert plain.jpeg is not None
    assert turned.jpeg is not None
    assert jpeg_loss(turned.tensor, turned.jpeg) == jpeg_loss(plain.tensor, plain.jpeg) > 0.01


def test_what_cannot_be_coded_again_is_of_no_loss() -> None:
    x = photos()[0]
    assert jpeg_loss(x, JPEGCoding((), 0)) == 0
    steps = [[400] * 64]
    assert jpeg_loss(x, JPEGCoding(tuple(steps), 0)) == jpeg_loss(x, JPEGCoding(([255] * 64,), 0)) > 0.05


def test_a_blurred_jpeg_is_deblurred(tmp_path: Path) -> None:
    """Taken as exact but for its rounding, its artefacts are amplified: that harms more than it mends."""
    x = photos()[0][..., 40:136, 60:156]
    blurred = operators.create("deblur-gauss", image_shape=x.shape[1:]).forward(x)
    images.to_pil(blurred.reshape(x.shape))[0].save(tmp_path / "y.jpg", quality=90)
    made = {}
    for sigma_y in (None, rounding_noise(8)):
        restorer = restoring.load(task="deblur-gauss", sigma_y=sigma_y, steps=8, device="cpu", dtype="float32")
        restorer.quiet = True
        (outcome,) = restorer.restore_files(tmp_path / "y.jpg", tmp_path / "x.png")
        assert outcome.error is None
        made[sigma_y] = psnr(images.load(tmp_path / "x.png").tensor[0], x[0])
    before = psnr(images.load(tmp_path / "y.jpg").tensor[0], x[0])
    assert made[None] > before + 1 > made[rounding_noise(8)]


def test_grain_that_the_channels_share_is_found() -> None:
    """At what white noise of as strong a luma would be, which is half as much again."""
    for x in photos():
        grain = torch.randn(x[:, :1].shape, generator=torch.Generator().manual_seed(0))
        assert estimate_noise(x + 25 * GREY * grain) == pytest.approx(1.5 * 25 * GREY, rel=0.15)
        grey = x.mean(dim=1, keepdim=True) + 25 * GREY * grain
        assert estimate_noise(grey.expand(-1, 3, -1, -1)) == estimate_noise(grey)


def test_grey_pictures_constants_and_missing_pixels() -> None:
    x = photos()[0]
    grey = noisy(x.mean(dim=1, keepdim=True), 20, stored=False)
    assert estimate_noise(grey) == pytest.approx(20 * GREY, rel=0.05)
    assert estimate_noise(grey[0]) == estimate_noise(grey)
    assert estimate_noise(torch.full((1, 3, 32, 32), 0.25)) == pytest.approx(0, abs=1e-6)
    assert estimate_noise(torch.full((1, 3, 32, 32), -1.0)) == pytest.approx(0, abs=1e-6)
    mask = torch.ones(x.shape[2:])
    mask[60:90, 50:200] = 0
    y = noisy(x, 20, stored=False) * mask
    assert estimate_noise(y, mask) == pytest.approx(20 * GREY, rel=0.05)
    assert torch.equal(y, noisy(x, 20, stored=False) * mask)


TEXT = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)).round() * 2 - 1


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (None, None, "got NoneType"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), None, "got torch.uint8"),
        (torch.zeros(32, 32), None, "must be a tensor of floats"),
        (torch.zeros(2, 3, 32, 32), None, "must be one picture"),
        (torch.zeros(3, 7, 64), None, "more whole patches"),
        (torch.zeros(3, 16, 16), None, "more whole patches"),
        (torch.zeros(3, 32, 32), torch.zeros(32, 32), "more whole patches"),
        (torch.zeros(3, 32, 32), torch.ones(32), "mask must be"),
        (torch.zeros(3, 32, 32), "mask", "got str"),
        (torch.zeros(3, 32, 32), torch.ones(32, 32, dtype=torch.complex64), "of 0 and 1, got torch.complex64"),
        (torch.full((3, 32, 32), float("nan")), None, "must be finite"),
        (torch.rand(3, 32, 32) * 255, None, r"must be in \[-1, 1\], got a mean of"),
        (torch.zeros(3, 32, 32).to_sparse(), None, "image must be a dense tensor"),
        (torch.zeros(3, 32, 32, device="meta"), None, "image must be a dense tensor"),
        (torch.zeros(3, 32, 32), torch.full((32, 32), 0.5), "mask must hold 0 .* and 1"),
        (torch.zeros(3, 32, 32), torch.full((32, 32), torch.nan), "mask must hold 0 .* and 1"),
        (torch.zeros(3, 32, 32), torch.ones(32, 32, device="meta"), "mask must be a dense tensor"),
        (TEXT, None, "got black and white alone"),
        (torch.cat([TEXT[:, 1:], torch.zeros(1, 1, 64)], dim=1), None, "got hardly any: black and white alone"),
    ],
)
def test_what_has_no_noise_to_estimate(image: Any, mask: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        estimate_noise(image, mask)
