"""Options from files and the command line, what a dry run says, learning rates, checkpoints and the printed command."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from warm import PATIENCE

import diffusers_restore
from diffusers_restore.cli import train_prior
from diffusers_restore.errors import InvalidInputError, UnknownNameError
from diffusers_restore.training.checkpoints import (
    checkpoints,
    find_damage,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
    step_of,
    tidy,
)
from diffusers_restore.training.config import OptimizerConfig, PriorConfig, UNetConfig, build, flatten, to_yaml
from diffusers_restore.training.export import command_line
from diffusers_restore.training.prior import make_prior
from diffusers_restore.training.step import learning_rate_factor

RECIPES = sorted((Path(__file__).parents[1] / "examples" / "recipes").glob("*_prior.yaml"))

OTHER: dict[str, Any] = {
    "pretrained_model_name_or_path": "me/prior",
    "train_data_dir": None,
    "dataset_name": "me/pictures",
    "dataset_config_name": "2024",
    "dataset_split": "test",
    "image_column": "photo",
    "streaming": True,
    "resolution": 48,
    "channels": 1,
    "min_scale": 0.5,
    "max_scale": 1.5,
    "center_crop": True,
    "random_flip": True,
    "random_rotate": True,
    "image_interpolation_mode": "lanczos",
    "validation_data_dir": "measured",
    "validation_images": 3,
    "validation_resolution": 96,
    "dataloader_num_workers": 1,
    "strict": True,
    "network": "residual",
    "block_out_channels": (8, 16),
    "layers_per_block": (2, 1),
    "dropout": 0.1,
    "prediction_type": "epsilon",
    "beta_schedule": "linear",
    "num_train_timesteps": 500,
    "timestep_sampling": "lognormal",
    "snr_gamma": 5.0,
    "noise_offset": 0.1,
    "learning_rate": 1.25e-5,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 7,
    "lr_decay_steps": 11,
    "optimizer": "muon",
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_weight_decay": 0.0,
    "adam_epsilon": 1e-10,
    "output_dir": "no",
    "max_train_steps": 12,
    "train_batch_size": 3,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 0.5,
    "mixed_precision": "bf16",
    "use_ema": False,
    "ema_max_decay": 0.99,
    "ema_inv_gamma": 2.0,
    "ema_power": 0.5,
    "checkpointing_steps": 4,
    "checkpoints_total_limit": 5,
    "resume_from_checkpoint": "latest",
    "logging_steps": 6,
    "logger": "none",
    "seed": 2**32 - 1,
    "export_dtype": "float16",
    "push_to_hub": True,
    "hub_model_id": "me/new",
    "hub_private_repo": True,
    "license": "cc-by-4.0",
}
"""A value of every option that is not its default."""


def config(**values: Any) -> PriorConfig:
    where = {} if "dataset_name" in values else {"train_data_dir": "photos"}
    return build(PriorConfig, where | values)


DEFAULTS = flatten(config()) | {"train_data_dir": None}


def run(*words: object) -> Result:
    return CliRunner().invoke(train_prior, [str(word) for word in words])


def fails(result: Result, *messages: str) -> None:
    """An explanation and no traceback."""
    assert isinstance(result.exception, SystemExit), (result.exception, result.output)
    assert result.exit_code in (1, 2)
    for message in messages:
        assert message in result.stderr


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PriorConfig]:
    """The configuration that the words of a command line make."""
    called: list[tuple[PriorConfig, bool]] = []
    monkeypatch.setattr(
        "diffusers_restore.training.prior.train_prior", lambda config, *, dry_run: called.append((config, dry_run))
    )

    def parse(*words: object) -> PriorConfig:
        result = run(*words)
        assert result.exit_code == 0, result.output
        ((made, dry_run),) = called
        assert dry_run == ("--dry_run" in words)
        called.clear()
        return made

    return parse


Parsed = Callable[..., PriorConfig]


def file(folder: Path, content: str) -> Path:
    path = folder / "options.yaml"
    path.write_text(content, encoding="utf-8")
    return path


# --- options --------------------------------------------------------------------------------------------------------


def test_help_shows_every_option_and_imports_nothing_heavy() -> None:
    code = """
import sys, time
from diffusers_restore.cli import main
main(["train", "prior", "--help"], standalone_mode=False)
heavy = {"torch", "diffusers", "accelerate", "datasets", "numpy", "PIL"}
print(time.process_time(), *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stderr.split()
    assert heavy == []
    assert float(seconds) < 0.5 * PATIENCE
    shown = re.findall(r"^  (?:-h, )?--(\w+)", done.stdout, re.MULTILINE)
    assert sorted(shown) == sorted([*OTHER, "config", "dry_run", "help"])  # each once


def test_every_option_has_a_help_and_a_name_of_its_own() -> None:
    names = [param.name for param in train_prior.params]
    assert len(names) == len(set(names))
    assert set(names) == {*flatten(config()), "config", "dry_run"}
    for param in train_prior.params:
        assert len(param.help) > 5, param.name
        ends = (".", "--resolution", "--output_dir", "else no", "residual", "2,1")
        assert param.help.rstrip("]").endswith(ends), param.name


def test_every_option_is_tried_here() -> None:
    assert OTHER.keys() == DEFAULTS.keys()
    assert [name for name in OTHER if OTHER[name] == DEFAULTS[name] and name != "train_data_dir"] == []


def test_the_defaults_are_those_of_the_classes(parsed: Parsed) -> None:
    assert parsed("--train_data_dir", "photos") == config()
    assert parsed("--train_data_dir", "photos", "--dry_run") == config()


def test_no_pictures_or_two_kinds_of_them() -> None:
    fails(run(), "exactly one of train_data_dir and dataset_name", "train_data_dir=None and dataset_name=None")
    fails(run("--train_data_dir", "a", "--dataset_name", "b"), "train_data_dir='a' and dataset_name='b'")


def test_every_option_of_the_command_line_arrives(parsed: Parsed) -> None:
    words: list[object] = []
    for name, value in OTHER.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif value is not None:
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else value]
    assert parsed(*words) == config(**OTHER)


@pytest.mark.parametrize("form", ["to_yaml", "yaml", "json", "json with tabs"])
def test_every_option_of_a_file_arrives(form: str, parsed: Parsed, tmp_path: Path) -> None:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in OTHER.items()}
    text = {
        "to_yaml": to_yaml(flatten(config(**OTHER))),
        "yaml": yaml.safe_dump(plain),
        "json": json.dumps(plain),
        "json with tabs": json.dumps(plain, indent="\t"),
    }
    assert parsed("--config", file(tmp_path, text[form])) == config(**OTHER)


def test_the_written_configuration_is_read_back(parsed: Parsed, tmp_path: Path) -> None:
    odd = config(train_data_dir="üñ 😀: #1", output_dir="null", dataset_split="1e3", image_column="yes", seed=0)
    assert parsed("--config", file(tmp_path, to_yaml(flatten(odd)))) == odd
    text = json.dumps({"train_data_dir": odd.data.train_data_dir})  # in which ü and 😀 are escaped
    assert parsed("--config", file(tmp_path, text)).data.train_data_dir == "üñ 😀: #1"


def test_the_command_line_has_the_last_word(parsed: Parsed, tmp_path: Path) -> None:
    path = file(tmp_path, "train_data_dir: a\nresolution: 32\nrandom_flip: true\nuse_ema: false\nseed: 7\n")
    made = parsed("--config", path, "--resolution", 64, "--no_random_flip", "--use_ema", "--train_data_dir", "b")
    assert made == config(train_data_dir="b", resolution=64, random_flip=False, use_ema=True, seed=7)
    made = parsed("--resolution", 64, "--config", path)  # wherever the file is named
    assert made == config(train_data_dir="a", resolution=64, random_flip=True, use_ema=False, seed=7)


@pytest.mark.parametrize("text", ["true", "yes", "on", "'true'", "1"])
def test_words_for_true(text: str, parsed: Parsed, tmp_path: Path) -> None:
    assert parsed("--train_data_dir", "photos", "--config", file(tmp_path, f"strict: {text}")) == config(strict=True)


@pytest.mark.parametrize("text", ["false", "no", "off", "'false'", "0"])
def test_words_for_false(text: str, parsed: Parsed, tmp_path: Path) -> None:
    path = file(tmp_path, f"use_ema: {text}")
    assert parsed("--train_data_dir", "photos", "--config", path) == config(use_ema=False)


def test_no_is_a_word_where_it_is_one(parsed: Parsed, tmp_path: Path) -> None:
    """YAML reads an unquoted no as false."""
    path = file(tmp_path, "mixed_precision: no")
    assert parsed("--train_data_dir", "photos", "--config", path).training.mixed_precision == "no"


@pytest.mark.parametrize("text", ["[8, 16]", "8,16", "'8, 16'", "\n- 8\n- 16"])
def test_lists_of_numbers(text: str, parsed: Parsed, tmp_path: Path) -> None:
    path = file(tmp_path, f"block_out_channels: {text}")
    assert parsed("--train_data_dir", "photos", "--config", path).network.block_out_channels == (8, 16)
    words = ("--config", path, "--block_out_channels", "32,64,96")
    assert parsed("--train_data_dir", "photos", *words).network.block_out_channels == (32, 64, 96)


def test_numbers_in_scientific_notation(parsed: Parsed, tmp_path: Path) -> None:
    """YAML takes 4e-4 for text."""
    path = file(tmp_path, "learning_rate: 4e-4\nadam_epsilon: 1.0e-6")
    made = parsed("--train_data_dir", "photos", "--config", path)
    assert made == config(learning_rate=4e-4, adam_epsilon=1e-6)


def test_null_in_a_file_is_the_default(parsed: Parsed, tmp_path: Path) -> None:
    path = file(tmp_path, "".join(f"{name}: null\n" for name in OTHER))
    assert parsed("--train_data_dir", "photos", "--config", path) == config()


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("resolutoin: 64", ["no option named 'resolutoin'; did you mean 'resolution'?", "options.yaml"]),
        ("learning-rate: 1", ["no option named 'learning-rate'; did you mean 'learning_rate'?"]),
        ("1: 2", ["no option named 1"]),
        ("config: other.yaml", ["no option named 'config'"]),
        ("dry_run: true", ["no option named 'dry_run'"]),
        ("resolutoin: null", ["did you mean 'resolution'?"]),
        ("data:\n  resolution: 64", ["no option named 'data'"]),
        ("- resolution", ["must hold options as `name: value` lines"]),
        ("64", ["must hold options as `name: value` lines"]),
        ("", ["must hold options as `name: value` lines"]),
        ("resolution: [64", ["is neither YAML nor JSON"]),
        ("\x00", ["is neither YAML nor JSON"]),
        ("[" * 100_000, ["must not be nested deeper than 50 levels"]),
        ("resolution: " + "[" * 5000, ["must not be nested deeper than 50 levels"]),
        ('{"seed": ' + "9" * 5000 + "}", ["holds a value that can't be read: Exceeds the limit"]),
        ("seed: " + "9" * 5000, ["holds a value that can't be read: Exceeds the limit"]),
        ("seed: 2024-99-99", ["holds a value that can't be read: month must be in 1..12"]),
    ],
)
def test_files_that_are_not_understood(content: str, messages: list[str], tmp_path: Path) -> None:
    fails(run("--train_data_dir", "photos", "--config", file(tmp_path, content)), "'--config'", *messages)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    fails(run("--config", tmp_path / "absent.yaml"), "'--config'", "absent.yaml", "does not exist")
    fails(run("--config", tmp_path), "'--config'", "is a directory")
    (tmp_path / "latin1.yaml").write_bytes("train_data_dir: Gemälde".encode("latin-1"))
    fails(run("--config", tmp_path / "latin1.yaml"), "'--config'", "latin1.yaml' must be text in UTF-8")


@pytest.mark.parametrize(
    "content",
    [
        "resolution: many",
        "resolution: [64]",
        "resolution: {side: 64}",
        "resolution: 64.7",
        "resolution: 2024-01-01",
        "train_batch_size: true",
        "max_train_steps: 1e3",
        "learning_rate: fast",
        "learning_rate: [1, 2]",
        "learning_rate: true",
        "strict: maybe",
        "strict: 2",
        "strict: [true]",
        "strict: 0.5",
        "mixed_precision: fp8",
        "mixed_precision: true",
        "mixed_precision: [bf16]",
        "beta_schedule: cosine",
        "block_out_channels: []",
        "block_out_channels: ''",
        "block_out_channels: '32,64,'",
        "block_out_channels: [8, 16.5]",
        "block_out_channels: [8, true]",
        "block_out_channels: {8: 16}",
        "output_dir: [a, b]",
        "output_dir: {a: b}",
    ],
)
def test_wrong_types_in_a_file(content: str, tmp_path: Path) -> None:
    """They are found before the pictures are."""
    result = run("--train_data_dir", tmp_path / "absent", "--config", file(tmp_path, content))
    fails(result, content.partition(":")[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resolutoin", "64"], "'--resolution'"),
        (["--learning-rate", "1"], "'--learning_rate'"),
        (["--use_emma"], "'--use_ema'"),
        (["--no-use-ema"], "'--no_use_ema'"),
        (["--lr_scheduler", "cosin"], "'cosin' is not one of"),
        (["--resolution", "64.5"], "'--resolution'"),
        (["--block_out_channels", "32 64"], "'--block_out_channels': expected whole numbers between commas"),
        (["--block_out_channels", "32,,64"], "'--block_out_channels': expected whole numbers between commas"),
        (["--learning_rate", "nan"], "learning_rate must be a number > 0, got nan"),
        (["--learning_rate", "-inf"], "learning_rate must be a number > 0, got -inf"),
        (["--resolution", "60"], "resolution must be a multiple of 8, which the network's levels need"),
        (["photos"], "unexpected extra argument (photos)"),
    ],
)
def test_misspelt_words(words: list[str], message: str) -> None:
    fails(run("--train_data_dir", "photos", *words), message)


# --- ranges ---------------------------------------------------------------------------------------------------------

NAN = math.nan
BAD: dict[str, tuple[Any, ...]] = {
    "resolution": (0, -64, 64.0, "64", True, None, 63),
    "channels": (0, 2, 4, "3"),
    "min_scale": (0.5,),
    "max_scale": (1.0,),
    "validation_images": (-1, 1.5, True),
    "validation_resolution": (0, 63, "64"),
    "dataloader_num_workers": (-1, 0.5),
    "network": ("unet2d",),
    "block_out_channels": ((), (0,), (8, -1), (8, 1.5), (8, "16"), 8),
    "layers_per_block": (0, 1.5, (), (1, 2), (0,), ("2",)),
    "dropout": (-0.1, 1.1, NAN, "0.1"),
    "num_train_timesteps": (1, 10.0),
    "snr_gamma": (0, -5, NAN, math.inf),
    "noise_offset": (-0.1, NAN),
    "learning_rate": (0, -1e-4, NAN, math.inf, "1e-4", True, None),
    "lr_warmup_steps": (-1, 1.5),
    "lr_decay_steps": (-1, 1.5),
    "adam_beta1": (-0.1, 1, 1.1, NAN),
    "adam_beta2": (-0.1, 1.0, 1.1, NAN),
    "adam_weight_decay": (-0.1, NAN),
    "adam_epsilon": (0, NAN),
    "max_train_steps": (0, 1.5),
    "train_batch_size": (0, 1.5),
    "gradient_accumulation_steps": (0, 1.5),
    "max_grad_norm": (-1, NAN, math.inf),
    "ema_max_decay": (-0.1, 1.1, NAN),
    "ema_inv_gamma": (0, NAN),
    "ema_power": (-1, NAN),
    "checkpointing_steps": (0, 1.5),
    "checkpoints_total_limit": (0, -1),
    "logging_steps": (0, 1.5),
    "seed": (-1, 2**32, 0.5),
    "prediction_type": ("v",),
    "beta_schedule": ("cosine",),
    "timestep_sampling": ("log-normal",),
    "lr_scheduler": ("cosin",),
    "optimizer": ("adam",),
    "mixed_precision": ("fp8",),
    "export_dtype": ("half",),
    "streaming": ("no",),
    "use_ema": ("no",),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name):
        config(**{name: value})


def test_every_number_and_every_choice_has_a_range() -> None:
    numbers = [name for name, value in OTHER.items() if isinstance(value, (int, float, tuple))]
    flags = [name for name, value in OTHER.items() if isinstance(value, bool)]
    assert sorted(set(numbers) - set(flags) - set(BAD)) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_scale": 0.0, "max_scale": 1.0}, "min_scale must be a number > 0, got 0"),
        ({"min_scale": NAN, "max_scale": 1.0}, "min_scale must be a number > 0, got nan"),
        ({"min_scale": 0.5, "max_scale": 0.4}, "max_scale must be a number >= 0.5, got 0.4"),
        ({"min_scale": 0.5, "max_scale": NAN}, "max_scale must be a number >= 0.5, got nan"),
        ({"min_scale": 0.5}, "min_scale and max_scale .* given together.*, got 0.5 and None"),
        ({"streaming": True}, "streaming needs dataset_name"),
        ({"streaming": True, "dataset_name": "a", "dataloader_num_workers": 2}, "dataloader_num_workers .*, got 2"),
        ({"resolution": 24}, "resolution must be a multiple of 16, which the network's levels need, got 24"),
        ({"validation_resolution": 24}, "validation_resolution must be a multiple of 16"),
        ({"network": "residual", "resolution": 48}, "resolution must be a multiple of 32, which the network's levels"),
        ({"network": "residual", "layers_per_block": (1, 2)}, "one number, or one for each of 5 levels of network"),
        ({"dataset_name": "a", "train_data_dir": "b"}, "exactly one of train_data_dir and dataset_name"),
    ],
)
def test_values_that_do_not_go_together(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        config(block_out_channels=(8, 8, 8, 8, 8), **values)


@pytest.mark.parametrize(
    "values",
    [
        {"resolution": 1, "block_out_channels": (1,)},
        {"resolution": 24, "validation_resolution": 8},
        {"min_scale": 0.5, "max_scale": 0.5},
        {"min_scale": 0.5, "max_scale": 1},
        {"validation_images": 0, "dataloader_num_workers": 0, "channels": 1},
        {"adam_beta1": 0, "adam_beta2": 0.0, "adam_weight_decay": 0, "lr_warmup_steps": 0, "lr_decay_steps": 0},
        {"max_grad_norm": 0, "ema_max_decay": 1, "ema_power": 0, "dropout": 0},
        {"ema_max_decay": 0, "seed": 2**32 - 1, "num_train_timesteps": 2, "noise_offset": 0},
        {"max_train_steps": 1, "train_batch_size": 1, "gradient_accumulation_steps": 1, "logging_steps": 1},
        {"checkpointing_steps": 1, "checkpoints_total_limit": 1, "layers_per_block": (1,)},
        {"network": "residual", "resolution": 32, "layers_per_block": (3,)},
        {"network": "residual", "resolution": 2, "block_out_channels": (1,), "layers_per_block": (1,)},
    ],
)
def test_the_ends_of_ranges(values: dict[str, Any]) -> None:
    flat = flatten(config(**values))
    assert {name: flat[name] for name in values} == values


def test_another_network_has_its_own_widths() -> None:
    unet, residual = UNetConfig(), UNetConfig(network="residual")
    assert dataclasses.replace(unet, network="residual") == residual
    assert dataclasses.replace(residual, network="unet") == unet
    assert dataclasses.replace(pickle.loads(pickle.dumps(unet)), network="residual") == residual
    three = dataclasses.replace(residual, block_out_channels=(8, 8, 8))
    assert three == UNetConfig(network="residual", block_out_channels=(8, 8, 8))
    assert three.layers == (3, 2, 1)
    given = dataclasses.replace(UNetConfig(block_out_channels=(32, 64, 128, 160)), network="residual")
    assert given.widths == (32, 64, 128, 160)
    assert json.loads(json.dumps(flatten(unet))) == flatten(unet) | {
        "block_out_channels": [32, 64, 128, 160],
        "layers_per_block": [1],
    }


def test_build_knows_its_names() -> None:
    with pytest.raises(UnknownNameError, match="no option named 'learning_rat'; did you mean 'learning_rate'"):
        config(learning_rat=1)
    with pytest.raises(UnknownNameError, match="no option named 'data'"):
        config(data=None)


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_what_they_say(recipe: Path, parsed: Parsed) -> None:
    resolved = flatten(parsed("--config", recipe, "--train_data_dir", "photos"))
    said = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert said
    for name, value in said.items():
        value = (value,) if name == "layers_per_block" and isinstance(value, int) else value
        assert resolved[name] == (tuple(value) if isinstance(value, list) else value), name
    written = re.findall(r"^(\w+):", recipe.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(written) == sorted(said)  # no option twice
    assert resolved == flatten(config(**{name: resolved[name] for name in said}))


def test_there_are_two_recipes() -> None:
    assert [path.stem for path in RECIPES] == ["default_prior", "mnist_prior"]


def test_the_recipe_of_the_bundled_prior_makes_its_network(parsed: Parsed) -> None:
    unet, scheduler = make_prior(parsed("--config", RECIPES[0], "--train_data_dir", "photos"))
    assert f"{sum(p.numel() for p in unet.parameters()) / 1e6:.1f} million" in RECIPES[0].read_text(encoding="utf-8")
    bundled = Path(diffusers_restore.DEFAULT_PRIOR)
    weights = load_file(next((bundled / "unet").glob("*.safetensors")))
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in unet.state_dict().items()
    }
    schedule = json.loads((bundled / "scheduler" / "scheduler_config.json").read_text())
    assert {name: schedule[name] for name in ("prediction_type", "beta_schedule", "num_train_timesteps")} == {
        name: scheduler.config[name] for name in ("prediction_type", "beta_schedule", "num_train_timesteps")
    }


# --- dry run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one state for a process; the next test finds none."""
    AcceleratorState._reset_state(reset_partial_state=True)
    before = dict(os.environ)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_dry_run_says_what_a_run_would_be(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    values = {
        "train_data_dir": str(photos),
        "resolution": 16,
        "block_out_channels": (32, 64),
        "train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "validation_images": 1,
        "max_train_steps": 36_000,
        "output_dir": "out/deep",
    }
    path = file(tmp_path, to_yaml(flatten(config(**values))))
    result = run("--config", path, "--dry_run")
    assert result.exit_code == 0, result.output
    options, report = result.stdout.split("\n\n", 1)
    assert yaml.safe_load(options) == {
        **flatten(config(**values)),
        "block_out_channels": [32, 64],
        "layers_per_block": [1],
    }
    assert "data: 2 pictures of photos; 1 more is held out" in report
    (millions,) = re.findall(r"^unet: ([\d.]+) million parameters$", report, re.MULTILINE)
    parameters = sum(p.numel() for p in make_prior(config(**values))[0].parameters())
    assert float(millions) == pytest.approx(parameters / 1e6, abs=0.005)
    (step,) = re.findall(
        r"^a step of one process: 6 pictures, 0\.\d+ TFLOP, ([\d.e+-]+) s \([\d.e+-]+ pictures/s\), [\d.]+ GiB",
        report,
        re.MULTILINE,
    )
    ((hours, minutes, seconds),) = re.findall(
        r"^36000 steps: (?:(\d+) h )?(\d+) min(?: (\d+) s)? on cpu", report, re.MULTILINE
    )
    whole = 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds or 0)
    # Minutes are cut, and three digits of the step are shown.
    assert abs(whole - 36_000 * float(step)) <= 60 + 0.006 * whole
    assert list(work.iterdir()) == []


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train_data_dir", "absent"], "train_data_dir must be a folder or an idx file, got 'absent'"),
        (["--train_data_dir", ""], "train_data_dir"),
        (["--pretrained_model_name_or_path", "/nowhere/at all"], "/nowhere/at all"),
        (["--logger", "wandbb"], "logger='wandbb'"),
        (["--mixed_precision", "fp16"], "fp16"),
    ],
)
def test_what_is_not_there_is_found_out_by_a_dry_run(
    words: list[str], message: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    small = ["--resolution", "16", "--block_out_channels", "8,8", "--train_batch_size", "1", "--dry_run"]
    fails(run("--train_data_dir", photos, *small, *words), message)


def test_a_run_does_not_train_on_its_own_samples(tmp_path: Path) -> None:
    for inside in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(InvalidInputError, match="lies in train_data_dir"):
            config(train_data_dir=str(tmp_path), output_dir=str(inside))
    config(train_data_dir=str(tmp_path / "photos"), output_dir=str(tmp_path / "photos2"))
    with pytest.raises(InvalidInputError, match="lies in validation_data_dir"):
        config(validation_data_dir=str(tmp_path), output_dir=str(tmp_path / "a"))


def test_a_run_is_not_measured_on_what_it_trains_on(tmp_path: Path) -> None:
    photos, idx = tmp_path / "photos", tmp_path / "mnist" / "train-images-idx3-ubyte"
    for folder in (photos / "more", tmp_path / "photos2", idx.parent):
        folder.mkdir(parents=True)
    idx.touch()
    beside = idx.with_name("t10k-images-idx3-ubyte")
    beside.touch()
    same = [(photos, photos), (photos, photos / "more"), (photos / "more", photos), (idx, idx), (idx, idx.parent)]
    for seen, measured in same:
        with pytest.raises(InvalidInputError, match="validation_data_dir must hold other pictures than train_data_dir"):
            config(train_data_dir=str(seen), validation_data_dir=str(measured))
    for seen, measured in ((photos, tmp_path / "photos2"), (idx, beside), (idx.parent, beside)):
        config(train_data_dir=str(seen), validation_data_dir=str(measured))


# --- learning rate --------------------------------------------------------------------------------------------------


def rates(steps: int, **values: Any) -> list[float]:
    options = OptimizerConfig(**values)
    return [learning_rate_factor(step, options, steps) for step in range(steps)]


@pytest.mark.parametrize("lr_scheduler", ["constant", "linear", "cosine", "warmup_stable_decay"])
def test_the_rate_rises_in_equal_steps(lr_scheduler: Any) -> None:
    found = rates(40, lr_scheduler=lr_scheduler, lr_warmup_steps=9, lr_decay_steps=20)
    assert found[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)], rel=1e-12)
    assert rates(40, lr_scheduler=lr_scheduler, lr_warmup_steps=0, lr_decay_steps=20)[0] == 1
    assert all(a >= b for a, b in itertools.pairwise(found[9:]))
    assert min(found) > 0


def test_the_rate_after_the_warm_up() -> None:
    options = {"lr_warmup_steps": 10}
    assert rates(110, lr_scheduler="constant", **options)[10:] == [1.0] * 100
    linear = rates(110, lr_scheduler="linear", **options)
    assert [linear[10], linear[60], linear[109]] == pytest.approx([1, 0.5, 0.01], rel=1e-12)
    cosine = rates(110, lr_scheduler="cosine", **options)
    expected = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.cos(math.pi / 100)) / 2]
    assert [cosine[10], cosine[35], cosine[60], cosine[109]] == pytest.approx(expected, rel=1e-9)
    stable = rates(110, lr_scheduler="warmup_stable_decay", lr_decay_steps=40, **options)
    assert stable[10:71] == [1.0] * 61
    assert [stable[90], stable[100]] == pytest.approx([0.505, 0.01 + 0.99 * (1 - math.sqrt(0.5)) / 2], rel=1e-9)
    assert stable[109] == pytest.approx(0.01, rel=0.2)


def test_a_decay_that_is_longer_than_the_run() -> None:
    found = rates(50, lr_warmup_steps=0, lr_decay_steps=1000)
    assert found == rates(50, lr_warmup_steps=0, lr_decay_steps=50)
    assert [found[0], found[25]] == pytest.approx([1, 0.505], rel=1e-12)
    assert found[49] == pytest.approx(0.01, rel=0.2)


def test_a_warm_up_that_is_longer_than_the_run() -> None:
    for lr_scheduler in ("constant", "linear", "cosine"):
        found = rates(5, lr_scheduler=lr_scheduler, lr_warmup_steps=99)
        assert found == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05], rel=1e-12)


def test_no_decay() -> None:
    assert rates(20, lr_warmup_steps=0, lr_decay_steps=0) == [1.0] * 20


def test_a_longer_run_repeats_a_shorter_one_up_to_its_decay() -> None:
    short, long = (rates(steps, lr_warmup_steps=5, lr_decay_steps=20) for steps in (50, 500))
    assert short[:31] == long[:31]
    assert short[31] < long[31]
    assert short[30:] == long[480:]


# --- checkpoints ----------------------------------------------------------------------------------------------------

TENSORS = {
    "unet": {"a.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "a.bias": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer.loss": {"0.step": torch.tensor(7.0)},
}


def write(folder: Path, step: int, limit: int = 10) -> Path:
    path = folder / f"checkpoint-{step}"
    save_checkpoint(path, TENSORS, {"step": step, "best": -math.inf}, limit=limit)
    return path


def test_a_checkpoint_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "er", 500)
    assert find_damage(path) is None
    tensors, state = load_checkpoint(path)
    assert state == {"step": 500, "best": -math.inf}
    assert tensors.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        assert tensors[name].keys() == values.keys()
        assert all(torch.equal(tensors[name][key], value) for key, value in values.items())
        assert all(tensors[name][key].dtype == value.dtype for key, value in values.items())


def test_tensors_of_any_memory_layout_are_written(tmp_path: Path) -> None:
    weight = TENSORS["unet"]["a.weight"]
    layouts = {"last": weight.to(memory_format=torch.channels_last), "transposed": weight.mT, "part": weight[:, 1:2]}
    save_checkpoint(tmp_path / "checkpoint-1", {"x": layouts}, {}, limit=1)
    tensors, _ = load_checkpoint(tmp_path / "checkpoint-1")
    assert all(torch.equal(tensors["x"][name], value) for name, value in layouts.items())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    """What some file systems leave after a loss of power."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("harm", "name", "message"),
    [
        (truncate, "unet.safetensors", r"unet.safetensors has \d+ bytes instead of \d+"),
        (change_a_byte, "unet.safetensors", "unet.safetensors has another SHA-256"),
        (change_a_byte, "optimizer.loss.safetensors", "optimizer.loss.safetensors has another SHA-256"),
        (zeros, "unet.safetensors", "unet.safetensors has another SHA-256"),
        (Path.unlink, "unet.safetensors", "unet.safetensors: No such file"),
        (truncate, "state.json", r"state.json has \d+ bytes"),
        (Path.unlink, "state.json", "state.json: No such file"),
        (truncate, "manifest.json", "manifest.json: "),
        (empty, "manifest.json", "manifest.json: "),
        (zeros, "manifest.json", "manifest.json: "),
        (Path.unlink, "manifest.json", "manifest.json: .*No such file"),
    ],
)
def test_damage_is_found(harm: Callable[[Path], Any], name: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    harm(path / name)
    assert re.search(message, str(find_damage(path)))
    with pytest.raises(InvalidInputError, match=rf"checkpoint '.*checkpoint-1' is damaged: {message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("[]", "must hold a JSON object, {...}, got list"),
        ("null", "must hold a JSON object, {...}, got NoneType"),
        ("[" * 5000, "must not be nested deeper"),
        ("{}", "manifest.json doesn't list state.json"),
        ('{"state.json": null}', "manifest.json holds 'state.json': None, where the length"),
        ('{"state.json": {"bytes": 1}}', "manifest.json holds 'state.json': {'bytes': 1}, where the length"),
        ('{"state.json": [1, 2]}', "manifest.json holds 'state.json': [1, 2], where"),
        ('{"../secret": {"bytes": 1, "sha256": "0"}, "state.json": {}}', "manifest.json holds '../secret'"),
        ('{"state.json": {"bytes": "x", "sha256": 3}}', "state.json has"),
    ],
)
def test_an_odd_manifest_is_damage(manifest: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "manifest.json").write_text(manifest)
    assert message in str(find_damage(path))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "must hold a JSON object"),
        ({"step": "three"}, "step must be a whole number >= 1, got 'three'"),
        ({"step": 0}, "step must be a whole number >= 1, got 0"),
        ({"step": 1, "best": "good"}, "best is 'good'"),
        ({"step": 1, "settings": []}, "settings is []"),
        ({"step": 1, "summed": "two"}, "summed is 'two'"),
    ],
)
def test_an_odd_state_is_damage(state: Any, message: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint-1", TENSORS, state, limit=1)
    assert message in str(find_damage(tmp_path / "checkpoint-1"))


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        load_checkpoint(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-2").touch()
    with pytest.raises(InvalidInputError, match="Not a directory"):
        load_checkpoint(tmp_path / "checkpoint-2")


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


def test_the_oldest_go_first(tmp_path: Path) -> None:
    for step in (900, 1000, 1100):
        write(tmp_path, step, limit=2)
    assert names(tmp_path) == ["checkpoint-1000", "checkpoint-1100"]  # by number: 900 isn't the last
    write(tmp_path, 1100, limit=2)  # again
    assert names(tmp_path) == ["checkpoint-1000", "checkpoint-1100"]
    write(tmp_path, 1200, limit=1)
    assert names(tmp_path) == ["checkpoint-1200"]


def test_what_a_run_that_went_back_gave_up_is_removed(tmp_path: Path) -> None:
    for step in (100, 200, 1000):
        write(tmp_path, step, limit=3)
    (tmp_path / "checkpoint-300.part").mkdir()
    tidy(tmp_path, 100, limit=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-100"]


def test_what_a_run_that_was_killed_after_a_checkpoint_left_is_removed(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        write(tmp_path, step, limit=3)
    (tmp_path / "export.part" / "unet").mkdir(parents=True)
    tidy(tmp_path, 300, limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-200", "checkpoint-300"]


def test_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, 1)
    leftover = tmp_path / "checkpoint-2.part"
    for name in ("checkpoint-2.part", "checkpoint-best", "checkpoint-", "checkpoint--3", "my-checkpoint-4"):
        (tmp_path / name).mkdir()
    (leftover / "half.safetensors").write_bytes(b"half")
    assert names(tmp_path) == ["checkpoint-1"]
    assert [step_of(tmp_path / name) for name in ("checkpoint-12", "checkpoint-2.part", "check-12")] == [12, -1, -1]
    path = write(tmp_path, 2, limit=1)  # what is left of a killed run isn't in it
    assert names(tmp_path) == ["checkpoint-2"]
    assert not leftover.exists()
    assert find_damage(path) is None
    assert not (path / "half.safetensors").exists()
    assert (tmp_path / "checkpoint-best").is_dir()
    assert checkpoints(tmp_path / "absent") == []


def test_a_crash_while_writing_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def crash(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("diffusers_restore.training.checkpoints.save_file", crash)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, 2, limit=1)
    assert names(tmp_path) == ["checkpoint-1"]
    assert find_damage(tmp_path / "checkpoint-1") is None


# --- optimisers -----------------------------------------------------------------------------------------------------


def small_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2)
        )
    return network.to(memory_format=torch.channels_last)


def adamw(network: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(network.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, fused=True)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    x = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(number))
    network(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def moments(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each parameter with both its averages."""
    return [
        (parameter, optimizer.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg_sq"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


def test_a_reloaded_optimiser_takes_the_same_next_step(tmp_path: Path) -> None:
    network = small_network()
    optimizer = adamw(network)
    for number in range(3):
        step(network, optimizer, number)
    save_checkpoint(tmp_path / "checkpoint-3", {"optimizer": optimizer_tensors(optimizer)}, {}, limit=1)
    again, fresh = copy.deepcopy(network), copy.deepcopy(network)
    reloaded = adamw(again)
    load_optimizer_tensors(reloaded, load_checkpoint(tmp_path / "checkpoint-3")[0]["optimizer"])
    for parameter, *averages in moments(reloaded):
        assert all(average.stride() == parameter.stride() for average in averages)
    assert any(not average.is_contiguous() for _, average, _ in moments(reloaded))
    step(network, optimizer, 3)
    step(again, reloaded, 3)
    step(fresh, adamw(fresh), 3)
    assert same(network, again)
    assert not same(network, fresh)
    for first, second in zip(moments(optimizer), moments(reloaded), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_rates_are_not_part_of_an_optimisers_tensors() -> None:
    network = small_network()
    optimizer = adamw(network)
    step(network, optimizer, 0)
    tensors = optimizer_tensors(optimizer)
    assert tensors.keys() == {f"{i}.{name}" for i in range(8) for name in ("step", "exp_avg", "exp_avg_sq")}
    other = torch.optim.AdamW(network.parameters(), lr=5.0, fused=True)
    load_optimizer_tensors(other, tensors)
    assert other.param_groups[0]["lr"] == 5.0
    assert other.param_groups[0]["fused"]
    assert float(other.state[network[0].weight]["step"]) == 1
    before = tensors["0.exp_avg"].clone()
    step(network, other, 1)
    assert torch.equal(tensors["0.exp_avg"], before)  # what was read isn't what is stepped


# --- the command of a model card ------------------------------------------------------------------------------------

SCRIPT = ["examples/train prior.py", "--output_dir", "my prior", "--config", "a.yaml", "--hub_model_id", "it's"]


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        (SCRIPT, {}, ["python", "train prior.py", *SCRIPT[1:]]),
        (SCRIPT, {"WORLD_SIZE": "1"}, ["python", "train prior.py", *SCRIPT[1:]]),
        (SCRIPT, {"WORLD_SIZE": "2"}, ["torchrun", "--nproc_per_node", "2", "train prior.py", *SCRIPT[1:]]),
        (["/opt/bin/diffusers-restore", "train", "prior"], {}, ["diffusers-restore", "train", "prior"]),
        (["/opt/bin/diffusers-restore", "train", "a b"], {"WORLD_SIZE": "2"}, ["diffusers-restore", "train", "a b"]),
        (
            ["/opt/lib/diffusers_restore/__main__.py", "train", "prior"],
            {},
            ["python", "-m", "diffusers_restore", "train", "prior"],
        ),
        (
            ["/opt/lib/diffusers_restore/__main__.py", "train", "prior"],
            {"WORLD_SIZE": "2"},
            ["torchrun", "--nproc_per_node", "2", "-m", "diffusers_restore", "train", "prior"],
        ),
    ],
)
def test_the_command_line_can_be_typed(
    argv: list[str], environment: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", argv)
    assert shlex.split(command_line()) == expected
