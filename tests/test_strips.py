"""Strips over the severities against loops written out, and the example that draws them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_unet
from PIL import Image
from torch import Tensor

from diffusers_restore import ColdDiffusionPipeline, ColdDiffusionScheduler
from diffusers_restore.degradations import Blur, Degradation, Fade, Mix, Pixelate, Snow, State
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.evaluation.report import Cell, contact_sheet
from diffusers_restore.evaluation.strips import severity_strips

LABELS = ["degraded", "direct", "Algorithm 1", "Algorithm 2"]


def make(degradation: Degradation, *, channels: int = 3, **config: Any) -> ColdDiffusionPipeline:
    pipe = ColdDiffusionPipeline(make_unet(channels=channels), ColdDiffusionScheduler(degradation, **config))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(channels: int = 3) -> Tensor:
    return 2 * torch.rand((1, channels, 16, 24), generator=torch.Generator().manual_seed(7)) - 1


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def error(x: Tensor, wanted: Tensor) -> float:
    assert x.shape == wanted.shape
    return float((x - wanted).abs().max() / wanted.abs().max())


@torch.no_grad()
def by_hand(pipe: ColdDiffusionPipeline, x: Tensor, state: State) -> dict[str, list[Tensor]]:
    """All four rows at the severities T, T - 1, ..., 0."""
    scheduler, last = pipe.scheduler, len(pipe.scheduler)

    def look(x_t: Tensor, t: int) -> Tensor:
        return pipe.unet(x_t, torch.tensor([t - 1])).sample

    degraded = [scheduler.degrade(x, t, state) for t in range(last, -1, -1)]
    direct = [look(x_t, t) for x_t, t in zip(degraded, range(last, 0, -1), strict=False)] + [degraded[-1]]
    first, second = [degraded[0]], [degraded[0]]
    for t in range(last, 0, -1):
        first.append(scheduler.degradation(look(first[-1], t), t - 1, state))
        x0_hat = look(second[-1], t)
        second.append(
            second[-1] - scheduler.degradation(x0_hat, t, state) + scheduler.degradation(x0_hat, t - 1, state)
        )
    return dict(zip(LABELS, (degraded, direct, first, second), strict=True))


@pytest.mark.parametrize(
    ("degradation", "config"),
    [
        (Blur(4), {}),
        (Blur(4), {"eight_bit": True, "algorithm": "naive"}),
        (Fade(4, std=0.3), {}),
        (Snow(4), {}),
        (Mix(4), {}),
    ],
    ids=lambda one: getattr(one, "kind", None),
)
def test_every_severity_is_that_of_a_loop(degradation: Degradation, config: dict[str, Any]) -> None:
    pipe, x = make(degradation, **config), picture()
    rows = severity_strips(pipe, x, columns=5, generator=seeded())
    assert [label for label, _ in rows] == LABELS
    assert [cell.caption for cell in rows[0][1]] == ["t = 4", "t = 3", "t = 2", "t = 1", "t = 0"]
    state = pipe.scheduler.sample_state(x, seeded())
    for label, expected in by_hand(pipe, x, state).items():
        cells = dict(rows)[label]
        assert len(cells) == 5
        assert label == "degraded" or {cell.caption for cell in cells} == {""}
        for cell, one in zip(cells, expected, strict=True):
            assert error(cell.picture, one[0]) < 1e-5
    shown = {label: cells[1].picture for label, cells in rows}
    assert min(float((shown[a] - shown[b]).abs().max()) for a in LABELS for b in LABELS if a < b) > 1e-3


def test_a_strip_begins_at_the_largest_severity_and_ends_at_none() -> None:
    pipe, x = make(Blur(20, std=1.0)), picture()
    for columns, expected in ((2, [20, 0]), (5, [20, 15, 10, 5, 0]), (8, [20, 17, 14, 11, 9, 6, 3, 0])):
        rows = severity_strips(pipe, x, columns=columns)
        assert [cell.caption for cell in rows[0][1]] == [f"t = {t}" for t in expected]
        for cell, t in zip(rows[0][1], expected, strict=True):
            assert torch.equal(cell.picture, pipe.scheduler.degrade(x, t)[0])
    assert torch.equal(rows[0][1][-1].picture, x[0])
    assert torch.equal(rows[1][1][-1].picture, x[0])
    whole = by_hand(pipe, x, {})
    for label, cells in rows[2:]:
        for cell, t in zip(cells, expected, strict=True):
            assert error(cell.picture, whole[label][20 - t][0]) < 2e-5


def test_there_are_no_more_columns_than_severities() -> None:
    rows = severity_strips(make(Pixelate(2)), picture(), columns=8)
    assert [cell.caption for cell in rows[0][1]] == ["t = 2", "t = 1", "t = 0"]
    assert {len(cells) for _, cells in rows} == {3}


@pytest.mark.parametrize("algorithm", ["naive", "improved"])
def test_the_pipeline_is_left_as_it_is(algorithm: str) -> None:
    pipe, x = make(Fade(6), algorithm=algorithm), picture()
    pipe.scheduler.set_timesteps(2)
    scheduler, config, before = pipe.scheduler, dict(pipe.scheduler.config), x.clone()
    timesteps, random_state = scheduler.timesteps.tolist(), torch.random.get_rng_state()
    severity_strips(pipe, x, columns=3, generator=seeded())
    assert pipe.scheduler is scheduler
    assert dict(scheduler.config) == config
    assert scheduler.timesteps.tolist() == timesteps
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_too_few_columns() -> None:
    with pytest.raises(InvalidInputError, match="columns must be a whole number >= 2, got 1"):
        severity_strips(make(Blur(3)), picture(), columns=1)


# --- the example ----------------------------------------------------------------------------------------------------


def example() -> Any:
    path = Path(__file__).parents[1] / "examples" / "cold_strips.py"
    spec = importlib.util.spec_from_file_location("cold_strips", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_draws_the_strips_of_some_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = make(Fade(3), channels=1)
    pipe.save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    (tmp_path / "mnist").mkdir()
    file = tmp_path / "mnist" / "train-images-idx3-ubyte"
    file.write_bytes(np.array([0x803, *pixels.shape], ">u4").tobytes() + pixels.tobytes())
    words = [str(tmp_path / "model"), str(tmp_path / "mnist"), "-o", str(tmp_path / "strips.png")]
    example().main([*words, "--columns", "3", "--seed", "3"])
    generator, rows = seeded(), []
    for i in range(2):  # one generator for all of them
        x = torch.from_numpy(pixels[i, None, None] / 127.5 - 1).float()
        for label, cells in severity_strips(pipe, x, columns=3, generator=generator):
            larger = [cell.picture.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2) for cell in cells]  # 64 px
            rows.append((label, [Cell(cell.caption, one) for cell, one in zip(cells, larger, strict=True)]))
    with Image.open(tmp_path / "strips.png") as sheet:
        np.testing.assert_array_equal(np.asarray(sheet), np.asarray(contact_sheet(rows)))
    assert f"{tmp_path / 'strips.png'}: 2 pictures" in capsys.readouterr().out


def test_the_example_takes_a_folder_of_any_pictures(tmp_path: Path) -> None:
    make(Pixelate(2)).save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for name, size in (("a", (40, 30)), ("b", (20, 50))):
        Image.new("RGB", size, "orange").save(tmp_path / "photos" / f"{name}.png")
    words = [str(tmp_path / "model"), str(tmp_path / "photos"), "-o", str(tmp_path / "strips.png"), "-n", "5"]
    example().main(words)
    rows = [("label", [Cell("t = 0", torch.zeros(3, 64, 64))] * 3), *[("", [Cell("")] * 3)] * 3]
    empty = contact_sheet(rows * 2)
    with Image.open(tmp_path / "strips.png") as sheet:
        assert sheet.size == empty.size  # eight rows of three pictures
        assert sheet.mode == "RGB"
