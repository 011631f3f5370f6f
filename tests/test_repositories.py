"""Repositories of others: what is odd in their JSON or weights is refused with the reason, by every way of loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WriteRepo, make_unet
from diffusers import DDPMPipeline, DiffusionPipeline
from safetensors.torch import load_file, save_file

from diffusers_restore import DDRMPipeline, restoring
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.hub.repositories import load_pipeline
from diffusers_restore.training.config import DataConfig, PriorConfig
from diffusers_restore.training.prior import make_prior
from diffusers_restore.training.sources import open_source

UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"


def from_prior(folder: Path) -> Any:
    """As `train prior --pretrained_model_name_or_path`."""
    return make_prior(PriorConfig(data=DataConfig("photos"), pretrained_model_name_or_path=str(folder)))


WAYS: dict[str, Callable[[Path], Any]] = {
    "ours": DDRMPipeline.from_pretrained,
    "theirs": lambda folder: load_pipeline(DiffusionPipeline, str(folder)),
    "training": from_prior,
}


@pytest.fixture
def repo(write_repo: WriteRepo) -> Path:
    return write_repo(make_unet())


@pytest.mark.parametrize("way", WAYS)
def test_a_sound_one_loads(way: str, repo: Path) -> None:
    assert WAYS[way](repo) is not None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "content", ["[]", "null", '"DDPMPipeline"', "[" * 100_000, "{", "", '{"a": ' + "9" * 5000 + "}"]
)
@pytest.mark.parametrize("file", [INDEX, UNET, SCHEDULER])
def test_json_that_is_no_object(way: str, content: str, file: str, repo: Path) -> None:
    (repo / file).write_text(content)
    with pytest.raises(InvalidInputError, match=f"{file}' (must|is no JSON|holds)"):
        WAYS[way](repo)


ODD: list[tuple[str, dict[str, Any], str]] = [
    (INDEX, {"unet": ["diffusers"]}, r"unet must be \[library, class\], two texts or two nulls, got \['diffusers'\]"),
    (INDEX, {"unet": [1, 2]}, "unet must be"),
    (INDEX, {"unet": [None, "UNet2DModel"]}, "unet must be"),
    (INDEX, {"_class_name": 3}, "_class_name must be the name of a pipeline, got 3"),
    (INDEX, {"_class_name": []}, "_class_name must be"),
    (INDEX, {"_class_name": [None, None]}, "_class_name must be"),
    (UNET, {"block_out_channels": "wide"}, "block_out_channels must be a list, such as .* got 'wide'"),
    (UNET, {"block_out_channels": None}, "block_out_channels must be a list"),
    (UNET, {"block_out_channels": [8, "x"]}, "block_out_channels must be a list"),
    (UNET, {"layers_per_block": 10**6}, "layers_per_block must be a number up to 1000"),
    (UNET, {"layers_per_block": {"a": 1}}, "layers_per_block must be a whole number >= 0, got"),
    (UNET, {"block_out_channels": [8, 10**9]}, "block_out_channels must be a number up to 1000000"),
    (UNET, {"down_block_types": 4}, "down_block_types must be a list"),
    (UNET, {"freq_shift": "x"}, "freq_shift must be a whole number >= 0, got 'x'"),
    (UNET, {"downsample_padding": -1}, "downsample_padding must be a whole number >= 0, got -1"),
    (UNET, {"num_class_embeds": "x"}, "num_class_embeds must be a whole number >= 0, got 'x'"),
    (UNET, {"dropout": "x"}, "dropout must be a number, such as 0.0, got 'x'"),
    (UNET, {"act_fn": None}, "act_fn must be a text"),
    (UNET, {"center_input_sample": "no"}, "center_input_sample must be true or false, got 'no'"),
    (UNET, {"time_embedding_type": "foo"}, "can't be loaded as|no pipeline can be loaded"),
    (INDEX, {"_class_name": None}, "_class_name must be the name of a pipeline, got None"),
    (SCHEDULER, {"num_train_timesteps": 10**10}, r"num_train_timesteps must be a number up to 1000000, got 1e\+10"),
    (SCHEDULER, {"num_train_timesteps": "many"}, "can't be loaded as|no pipeline can be loaded|num_train_timesteps"),
    (SCHEDULER, {"num_train_timesteps": None}, "can't be loaded as|no pipeline can be loaded|num_train_timesteps"),
    (SCHEDULER, {"trained_betas": "few"}, "can't be loaded as|no pipeline can be loaded|trained_betas"),
    (SCHEDULER, {"beta_start": [1, 2]}, "can't be loaded as|no pipeline can be loaded|beta_start"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("file", "change", "message"), ODD)
def test_values_that_nothing_can_be_made_of(
    way: str, file: str, change: dict[str, Any], message: str, repo: Path
) -> None:
    content = json.loads((repo / file).read_text())
    (repo / file).write_text(json.dumps(content | change))
    with pytest.raises(InvalidInputError, match=message):
        WAYS[way](repo)


@pytest.mark.parametrize("index", ["null", "[]", "3", "{}", "[" * 10**5, '{"_class_name": []}', '{"_class_name": 5}'])
def test_an_odd_index_is_told_whatever_the_task(index: str, repo: Path) -> None:
    (repo / INDEX).write_text(index)
    for options in ({}, {"task": "sr2"}):
        with pytest.raises(InvalidInputError, match=r"must hold a JSON object|must not be nested|_class_name must be"):
            restoring.load(repo, device="cpu", **options)


def without(weights: dict[str, torch.Tensor]) -> None:
    del weights["conv_out.bias"]


def with_nan(weights: dict[str, torch.Tensor]) -> None:
    weights["conv_out.bias"][0] = torch.nan


def with_complex_numbers(weights: dict[str, torch.Tensor]) -> None:
    weights["conv_out.bias"] = weights["conv_out.bias"].to(torch.complex64)


def with_whole_numbers(weights: dict[str, torch.Tensor]) -> None:
    weights["conv_out.bias"] = weights["conv_out.bias"].long()


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without, r"unet in .* lacks 1 of its \d+ weights \(conv_out.bias\)"),
        (with_nan, "unet in .* has weights that are NaN or infinite: conv_out.bias"),
        (
            with_whole_numbers,
            "unet in .* has weights that must be real fractions and are torch.int64 in .*: conv_out.bias",
        ),
        (with_complex_numbers, "must be real fractions and are torch.complex64 in .*: conv_out.bias"),
    ],
)
def test_weights_that_are_missing_or_no_numbers(
    way: str, harm: Callable[[dict[str, torch.Tensor]], None], message: str, repo: Path
) -> None:
    file = repo / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    harm(weights)
    save_file(weights, file)
    with pytest.raises(InvalidInputError, match=message):
        WAYS[way](repo)


def test_a_folder_that_is_none_and_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no pipeline can be loaded from .*, a folder or on the Hub"):
        load_pipeline(DDPMPipeline, str(tmp_path))
    with pytest.raises(InvalidInputError, match="no pipeline can be loaded from .*, a folder or on the Hub"):
        load_pipeline(DDPMPipeline, "a/b/c")


def test_a_data_set_with_a_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text("raise SystemError('ran')\n")
    with pytest.raises(InvalidInputError, match="cannot load dataset_name '.*data', .*script"):
        open_source(dataset_name=str(tmp_path / "data"))
