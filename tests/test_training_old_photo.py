"""Training of the scratch detector: loss and figures by hand, sheets, runs, resuming, refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from conftest import make_old_photo_network
from PIL import Image
from test_training_pix2pix import fails, final, fresh_accelerate, words_of
from torch import Tensor, nn
from warm import Python

from diffusers_restore import ScratchDetectionPipeline, ScratchDetector, cli
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.training.config import build
from diffusers_restore.training.old_photo import (
    AutoencoderConfig,
    DetectorConfig,
    DetectorObjective,
    MappingConfig,
)
from diffusers_restore.training.pairs import Pair
from diffusers_restore.training.running import fits

ROOT = Path(__file__).parents[1]


def pictures(*shape: int, seed: int = 5) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


def scratched(clean: Tensor, generator: torch.Generator) -> Pair:
    """A white cross in each picture, and greys in its mask that are cut at the middle."""
    mask = torch.zeros_like(clean[:, :1])
    mask[..., 3, :] = 1
    mask[..., :, 5] = 0.7
    mask[..., 0, 0] = 0.5
    return Pair(torch.where(mask > 0.6, torch.ones(()), clean), clean, mask)


def cross(*shape: int) -> Tensor:
    mask = torch.zeros(shape)
    mask[..., 3, :] = mask[..., :, 5] = 1
    return mask


class Says(nn.Module):
    """A detector that answers with these logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, sample: Tensor) -> Tensor:
        return self.logits


# --- the objective ---------------------------------------------------------------------------------------------------


def test_the_loss_weighs_what_is_scratched() -> None:
    x, logits = pictures(2, 3, 8, 12), 3 * pictures(2, 1, 8, 12, seed=6)
    objective = DetectorObjective(scratched, 3.0)
    corrupted = objective.corrupt((x,), torch.Generator())
    mask = cross(2, 1, 8, 12)
    assert torch.equal(corrupted.mask, mask)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    grey = (luma * torch.where(mask.bool(), torch.ones(()), x)).sum(dim=1, keepdim=True)
    assert torch.allclose(corrupted.grey, grey, atol=1e-6)
    losses = objective.losses("detector", {"detector": Says(logits)}, corrupted)
    total = 0.0
    for logit, there in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        total += 3 * math.log1p(math.exp(-logit)) if there else math.log1p(math.exp(logit))
    assert losses.keys() == {"loss"}
    assert float(losses["loss"]) == pytest.approx(total / mask.numel(), rel=1e-5)
    assert list(objective.phases) == ["detector"]
    assert objective.criterion == "f1"


def figures(logits: Tensor, damage: Any = scratched) -> dict[str, float]:
    objective = DetectorObjective(damage, 3.0)
    found = objective.evaluate({"detector": Says(logits)}, (pictures(1, 3, 8, 12),), 0)
    return {name: float(value) for name, value in found.items()}


def test_figures_by_hand() -> None:
    at_threshold = math.log(0.4 / 0.6)
    mask, logits = cross(1, 1, 8, 12), torch.full((1, 1, 8, 12), -9.0)
    assert int(mask.sum()) == 19
    logits[..., 3, :] = at_threshold + 1e-3  # twelve of the nineteen
    logits[..., 0, :5] = 4.0  # and five that are whole
    logits[..., 7, 0] = at_threshold - 1e-3
    found = figures(logits)
    assert found == pytest.approx({"precision": 12 / 17, "recall": 12 / 19, "f1": 24 / 36})
    assert figures(40 * mask - 20) == {"precision": 1, "recall": 1, "f1": 1}
    assert figures(20 - 40 * mask) == {"precision": 0, "recall": 0, "f1": 0}


def test_figures_where_nothing_is_there_or_found() -> None:
    def whole(clean: Tensor, generator: torch.Generator) -> Pair:
        return Pair(clean, clean, None)

    nothing, something = torch.full((1, 1, 8, 12), -9.0), torch.full((1, 1, 8, 12), -9.0)
    something[..., 2, 2] = 9
    assert figures(nothing, whole) == {"precision": 1, "recall": 1, "f1": 1}
    assert figures(something, whole) == {"precision": 0, "recall": 0, "f1": 0}
    assert figures(nothing) == {"precision": 0, "recall": 0, "f1": 0}


@torch.no_grad()
def test_a_sheet_shows_what_is_likely_and_what_is_there() -> None:
    network, x = make_old_photo_network(ScratchDetector), pictures(2, 3, 16, 24)
    sheet = DetectorObjective(scratched, 3.0).show({"detector": network}, [(one[None],) for one in x], [1])
    damaged, mask = torch.where(cross(1, 1, 16, 24).bool(), torch.ones(()), x[1:]), cross(1, 1, 16, 24)
    pipe = ScratchDetectionPipeline(network, detection_size=None)
    likely = pipe(damaged, threshold=0, output_type="latent").images
    expected = torch.cat([damaged, likely.expand(-1, 3, -1, -1), 2 * mask.expand(-1, 3, -1, -1) - 1], dim=3)
    assert (sheet - expected).abs().max() < 1e-4


# --- runs ------------------------------------------------------------------------------------------------------------

RUNNING = "downsamplers.0.norm.running_mean"
TOY = {
    "resolution": 32,
    "block_out_channels": "4,6",
    "train_batch_size": 2,
    "validation_images": 2,
    "logging_steps": 1,
    "logger": "none",
    "max_train_steps": 4,
    "checkpointing_steps": 2,
    "mixed_precision": "no",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def run(**values: Any) -> Result:
    with fresh_accelerate():
        return CliRunner().invoke(cli.main, ["train", "old-photo-detector", *words_of(values)])


def trains(output: Path, photos: Path, **values: Any) -> Result:
    result = run(**TOY | {"output_dir": output, "train_data_dir": photos} | values)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.mark.parametrize("changed", [{}, {"use_ema": True, "gradient_accumulation_steps": 2}], ids=str)
def test_a_resumed_run_ends_as_an_unbroken_one(
    changed: Mapping[str, Any], photos: Path, tmp_path: Path, python: Python
) -> None:
    """Bit for bit: the network, what its norms have learned, its optimiser, the numbers and what was exported."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    trains(unbroken, photos, **changed)
    shutil.copytree(unbroken, broken)
    shutil.rmtree(broken / "checkpoint-4")
    result = trains(broken, photos, **changed, resume_from_checkpoint="latest")
    assert ", from step 2" in result.output
    (tensors, numbers), (others, other_numbers) = final(unbroken), final(broken)
    assert tensors.keys() == others.keys()
    assert tensors.keys() >= {"detector", "optimizer.detector"}
    assert any("running_var" in key for key in tensors["detector"])
    for file, values in tensors.items():
        assert all(torch.equal(value, others[file][key]) for key, value in values.items()), file
    assert numbers == other_numbers
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (unbroken, broken)]
    seconds = {"seconds_per_step": None}
    assert [json.loads(one) | seconds for one in lines[0]] == [json.loads(one) | seconds for one in lines[1]]
    weights = [
        (folder / "detector" / "diffusion_pytorch_model.safetensors").read_bytes() for folder in (unbroken, broken)
    ]
    assert weights[0] == weights[1]
    if changed:
        return
    pipe = ScratchDetectionPipeline.from_pretrained(unbroken)
    assert (pipe.config.detection_size, pipe.config.threshold) == (64, 0.4)
    assert list(pipe.detector.config.block_out_channels) == [4, 6]
    started = ScratchDetector((4, 6)).state_dict()
    assert not torch.equal(pipe.detector.state_dict()[RUNNING], started[RUNNING])
    card = (unbroken / "README.md").read_text()
    assert "# unbroken: a detector of scratches" in card
    assert "| f1 |" in card
    assert "Of the pixels of held-out photographs that were damaged: f1, the harmonic mean" in card
    assert "recipe: old_photo_full" in card
    assert (unbroken / "samples.png").exists()
    snippet = card.partition("```python\n")[2].partition("```")[0]
    shutil.copy(photos / "0.png", tmp_path / "photo.png")
    python.run("-c", f"{snippet}\nassert (mask.size, mask.mode) == ((64, 48), 'L')", cwd=tmp_path, check=True)


def test_a_run_goes_on_with_the_options_that_it_began_with(photos: Path, tmp_path: Path) -> None:
    trains(tmp_path / "out", photos, max_train_steps=1, checkpointing_steps=1)
    for change, message in (
        ({"scratch_weight": 2}, "scratch_weight: 3.0, got 2.0"),
        ({"block_out_channels": "4,8"}, "block_out_channels: "),
        ({"detection_size": 100}, "detection_size: "),
        ({"recipe": "old_photos", "recipe_args": "{scratches: true}"}, "recipe: 'old_photo_full', got 'old_photos'"),
    ):
        values = TOY | {"output_dir": tmp_path / "out", "train_data_dir": photos, "max_train_steps": 2}
        fails(run(**values | change | {"resume_from_checkpoint": "latest"}), message)


def test_a_dry_run_prints_the_options_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    result = trains(tmp_path / "out", photos, dry_run=True)
    options = yaml.safe_load(result.output.partition("\ndata: ")[0])
    assert (options["recipe"], options["scratch_weight"], options["detection_size"]) == ("old_photo_full", 3.0, None)
    for line in ("detector: 0.0", "a step of one process: 2 pictures"):
        assert line in result.output
    assert not (tmp_path / "out").exists()
    built = build(DetectorConfig, {"train_data_dir": "a"})
    assert built.network.block_out_channels == (64, 128, 256, 512, 1024)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "old_photo"}, "no recipe named 'old_photo'"),
        ({"recipe": "blind"}, "recipe 'blind' with recipe_args {} damages nothing in places that a mask could show"),
        (
            {"recipe": "old_photos"},
            "recipe 'old_photos' with recipe_args {} damages nothing in places that a mask",
        ),
        ({"recipe_args": "{scratch: true}"}, "no recipe_args of old_photo_full named 'scratch'"),
        ({"block_out_channels": "8"}, "block_out_channels must name two or more levels, got (8,)"),
        ({"block_out_channels": "8,0"}, "block_out_channels must be a whole number >= 1, got 0"),
        ({"scratch_weight": 0}, "scratch_weight must be a number > 0, got 0"),
        ({"detection_size": 0}, "detection_size must be a whole number >= 1, got 0"),
        ({"resolution": 33}, "resolution must be a multiple of 2"),
        (
            {"block_out_channels": "4,4,4,4,4,4"},
            "resolution must be 64 or more, which the network's levels need, got",
        ),
        ({"validation_resolution": 2}, "validation_resolution must be 4 or more"),
        ({"train_data_dir": "nowhere"}, "train_data_dir"),
    ],
)
def test_bad_input(values: dict[str, Any], message: str, photos: Path, tmp_path: Path) -> None:
    fails(run(**TOY | {"output_dir": tmp_path / "out", "train_data_dir": photos} | values), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("scratch_detector", DetectorConfig), ("old_photo_vae", AutoencoderConfig), ("old_photo_mapping", MappingConfig)],
)
def test_a_recipe_of_the_examples_is_a_configuration(name: str, kind: type[Any], tmp_path: Path) -> None:
    path = ROOT / "examples" / "recipes" / f"{name}.yaml"
    values = {"train_data_dir": "photos", **yaml.safe_load(path.read_text())}
    values |= {"vae_degraded": "a", "vae_clean": "b"} if kind is MappingConfig else {}
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    config = build(kind, options)
    for option, value in options.items():
        assert any(getattr(part, option, None) == value for part in (config, *vars(config).values())), option
    assert f"examples/recipes/{path.name}" in path.read_text()  # the command by which it is run


def test_numbers_that_a_dtype_cannot_hold() -> None:
    network = nn.BatchNorm2d(2)
    assert fits(network, torch.float16)
    network.running_var[1] = 70000
    assert not fits(network, torch.float16)
    assert fits(network, torch.bfloat16)


def test_variances_beyond_the_range_of_float16_are_refused() -> None:
    """Their norms would give a finite, wrong mask."""
    pipe = ScratchDetectionPipeline(make_old_photo_network(ScratchDetector), 32)
    norm = next(one for one in pipe.detector.modules() if isinstance(one, nn.BatchNorm2d))
    assert norm.running_var is not None
    norm.running_var[0] = 100_000
    pipe(pictures(1, 3, 32, 32))
    nn.Module.to(pipe.detector, torch.bfloat16)
    pipe(pictures(1, 3, 32, 32))
    nn.Module.to(pipe.detector, torch.float16)
    with pytest.raises(InvalidInputError, match=r"detector has variances beyond the range of torch.float16"):
        pipe(pictures(1, 3, 32, 32))
