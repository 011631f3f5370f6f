"""The estimate of noise against known noise."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffusers_restore import DEFAULT_PRIOR, images
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.evaluation.noise import estimate_noise

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


def test_known_noise_is_found_on_25_pictures(shared: Path) -> None:
    """The head of Set5 has grain of its own, which counts. benchmarks/noise.py has more levels of noise."""
    for file, count in (("set5.zip", 5), ("cbsd68_jpg.zip", 20)):
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
