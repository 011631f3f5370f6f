"""Large pictures: when a network sees them in tiles, what is refused, and what is said before the work begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import make_unet
from PIL import Image

import diffusers_restore
from diffusers_restore import DEFAULT_PRIOR, DDRMPipeline, DDRMScheduler, images, operators, restoring
from diffusers_restore.cli import main
from diffusers_restore.pipelines.tiles import TiledNetwork, reach
from diffusers_restore.restoring import ArgumentError, ModelError, memory, restorer, room
from diffusers_restore.restoring.room import Room, check_tile, make_room, seconds
from diffusers_restore.restoring.zero_shot import seconds_beside

PHOTO = Path(diffusers_restore.__file__).parent / "assets" / "photos" / "chelsea.png"
SHAPE = (1, 3, 1000, 1300)
MORE = 50


@pytest.fixture(scope="module")
def bundled() -> Any:
    pipe = DDRMPipeline.from_pretrained(DEFAULT_PRIOR)
    assert reach(pipe.unet) == 186
    return pipe


@pytest.fixture(scope="module")
def attentive() -> Any:
    return DDRMPipeline(make_unet(), DDRMScheduler())


def has(monkeypatch: pytest.MonkeyPatch, *, free: float, thrifty: float = 1e12) -> None:
    monkeypatch.setattr(room, "free_memory", lambda device: int(free))
    monkeypatch.setattr(memory, "free_memory", lambda device: int(free))
    monkeypatch.setattr(room, "THRIFTY", int(thrifty))
    monkeypatch.setattr(room, "_LEAST", 0)


def whole(pipe: Any) -> int:
    """Bytes for all of SHAPE at once, padded to multiples of 16 or 2."""
    height, width = (n + -n % TiledNetwork(pipe.unet, 1, {}).multiple for n in SHAPE[2:])
    return memory.network_memory(pipe.unet, height, width) + height * width * MORE


@pytest.mark.parametrize("tile", ["auto", "off"])
def test_what_fits_is_seen_whole(tile: str, bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled.enable_tiling(64)
    has(monkeypatch, free=1.001 * whole(bundled))
    assert make_room(bundled, bundled.unet, SHAPE, MORE, tile) == (1, False, 1008 * 1312, whole(bundled))
    assert bundled._tile_side is None


def test_tiles_that_change_nothing_save_memory(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 0.7 * whole(bundled)
    has(monkeypatch, free=1e12, thrifty=limit)
    made = make_room(bundled, bundled.unet, SHAPE, MORE, "auto")
    assert made.tiles > 1
    assert not made.blended
    assert 0.4 * limit < made.needed <= limit
    tiles = TiledNetwork(bundled.unet, bundled._tile_side, {}).tiles(1008, 1312)
    areas = [(down.last - down.first) * (right.last - right.first) for down, right in tiles]
    assert (made.tiles, made.seen) == (len(tiles), sum(areas))
    network = memory.network_memory(bundled.unet, 16, max(areas) // 16)
    assert made.needed == pytest.approx(network + 1008 * 1312 * MORE, rel=0.02)


def test_tiles_that_are_blended_wait_until_memory_is_short(attentive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, free=1.001 * whole(attentive), thrifty=1)
    assert make_room(attentive, attentive.unet, SHAPE, MORE, "auto").tiles == 1
    has(monkeypatch, free=0.7 * whole(attentive), thrifty=1)
    made = make_room(attentive, attentive.unet, SHAPE, MORE, "auto")
    assert made.tiles > 1
    assert made.blended
    assert made.needed < 0.7 * whole(attentive)


def test_what_does_not_fit_is_refused_with_both_figures(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, free=0.7 * whole(bundled))
    figures = r"for 13\d\dx100\d pixels: about 0\.[2-9] GB are needed, 0\.[1-9] GB are free"
    with pytest.raises(ModelError, match=figures):
        make_room(bundled, bundled.unet, SHAPE, MORE, "off")
    with pytest.raises(ModelError, match="a method without a gradient"):
        make_room(bundled, bundled.unet, SHAPE, MORE, "auto", gradient=True)
    has(monkeypatch, free=1300 * 1000 * MORE)
    for tile in ("auto", 256):
        with pytest.raises(ModelError, match="not enough memory"):
            make_room(bundled, bundled.unet, SHAPE, MORE, tile)


def test_what_a_network_takes_in_any_case(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the picture itself takes more than what is thrifty, tiles aren't made as small as can be."""
    has(monkeypatch, free=1e12, thrifty=1)
    least = int(0.7 * whole(bundled))
    monkeypatch.setattr(room, "_LEAST", least)
    made = make_room(bundled, bundled.unet, SHAPE, MORE, "auto")
    assert 0.3 * least < made.needed - 1008 * 1312 * MORE <= least


def test_tiles_and_gradients(bundled: Any) -> None:
    with pytest.raises(ArgumentError, match="tile is of no use for this method, which needs the gradient"):
        make_room(bundled, bundled.unet, SHAPE, MORE, 256, gradient=True)


@pytest.mark.parametrize("tile", [0, -3, "none", "1.5", 2.5, None])
def test_tiles_that_are_refused(tile: Any) -> None:
    with pytest.raises(ArgumentError, match="^tile must be"):
        check_tile(tile)
    assert (check_tile("512"), check_tile(7), check_tile("off")) == (512, 7, "off")


def test_seconds_are_those_of_the_pixels() -> None:
    network = make_unet()
    few, many = (seconds(network, Room(1, False, count * 256**2, 0)) for count in (1, 1000))
    assert few > 0
    assert 100 < many / few < 10_000  # the machine may be busy


def test_seconds_beside_the_network_are_those_of_all_steps() -> None:
    pixels, cpu = (3, 256, 256), torch.device("cpu")
    blur = {name: operators.create("deblur-motion", image_shape=pixels, border=name) for name in ("circular", "inside")}
    closed, iterated = (seconds_beside(one, cpu) for one in blur.values())
    assert 0 < 10 * closed < iterated
    assert seconds_beside(operators.create("jpeg", image_shape=pixels, quality=20), cpu) == 0


def test_seconds_are_looked_for_on_no_more_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def at_zero(network: Any, x: torch.Tensor) -> None:
        seen.append(x.shape[-1])
        if len(seen) > 4:
            raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("diffusers_restore.restoring.room.at_zero", at_zero)
    network = make_unet()
    assert seconds(network, Room(4, False, 4 * 100**2, 0)) > 0
    assert max(seen) <= 100
    assert seconds(network, Room(1, False, 2000**2, 0)) is None
    assert seen[3:] == [256, 256]


# Wider than what a tile sees with its margins; the photograph's whole would take long.
@pytest.mark.parametrize(
    ("words", "tiles"),
    [
        (["--task", "denoise", "--sigma-y", "0.1", "--steps", "2"], "14 tiles"),
        (["--strength", "1"], "14 tiles"),
        (["--model", "attentive", "--task", "denoise", "--sigma-y", "0.1", "--steps", "2"], "28 blended tiles"),
    ],
)
def test_restoring_in_tiles(words: list[str], tiles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restorer, "LARGE", 1)
    DDRMPipeline(make_unet(), DDRMScheduler()).save_pretrained("attentive")
    with Image.open(PHOTO) as photo:
        photo.resize((430, 430)).crop((0, 0, 430, 40)).save("photo.png")
    printed = {}
    for tile in ("32", "off", "auto"):
        call = ["restore", "photo.png", "-o", f"{tile}.png", "--tile", tile, "--dtype", "float32", *words]
        result = CliRunner().invoke(main, call, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        printed[tile] = result.output
    assert re.search(rf"^photo.png: 430x40, {tiles}, about \d+ s, 0.\d GB of memory$", printed["32"], re.MULTILINE)
    assert f"seen in {tiles}" in printed["32"]
    assert re.search(r"^photo.png: 430x40, about \d+ s, 0.0 GB of memory$", printed["off"], re.MULTILINE)
    assert "tiles" not in printed["auto"]
    tiled, whole, auto = (images.load(f"{name}.png").tensor for name in ("32", "off", "auto"))
    assert torch.equal(whole, auto)
    difference = (tiled - whole).abs().max() * 127.5
    assert difference > 0 if "blended" in tiles else difference < 1.01


def test_models_that_see_the_whole_take_no_tiles(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="tile is for an unconditional DDPM, a ColdDiffusionPipeline"):
        restoring.choose(_pix2pix(tmp_path), ["tile"])


def _pix2pix(folder: Path) -> str:
    (folder / "model_index.json").write_text('{"_class_name": "Pix2PixPipeline"}')
    return str(folder)
