"""Checkpoints of a training run: written aside and renamed, read back only if complete.

checkpoint-500/
unet.safetensors             weights of each network
unet.average.safetensors     their running average
optimizer.loss.safetensors   the optimiser of each phase
state.json                   numbers, among them the step
manifest.json                length and SHA-256 of each file, written last
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from ..errors import InvalidInputError, check_int
from ..files import ASIDE, written_aside
from ..foreign import read_object

MANIFEST = "manifest.json"
STATE = "state.json"
_KINDS: dict[str, tuple[type, ...]] = {"best": (float, int), "settings": (dict,), "figures": (dict,), "summed": (int,)}
EXPORT = f"export{ASIDE}"
"""The folder in which an export is written, before its files are moved."""


def step_of(checkpoint: Path) -> int:
    """The number N of checkpoint-N; -1 for another name."""
    prefix, _, number = checkpoint.name.rpartition("-")
    return int(number) if prefix == "checkpoint" and number.isdecimal() else -1


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints in a folder, complete or not, the latest last."""
    found = [path for path in output_dir.glob("checkpoint-*") if step_of(path) >= 0 and path.is_dir()]
    return sorted(found, key=step_of)


def save_checkpoint(
    checkpoint: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, limit: int
) -> None:
    """Write a checkpoint under another name, rename it, and remove all but the latest `limit` of its folder."""
    with written_aside(checkpoint.with_name(checkpoint.name + ASIDE)) as aside:
        for name, values in tensors.items():
            save_file({key: value.contiguous() for key, value in values.items()}, aside / f"{name}.safetensors")
        (aside / STATE).write_text(json.dumps(state, indent=2))
        manifest = {path.name: _fingerprint(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2))
    shutil.rmtree(checkpoint, ignore_errors=True)
    aside.rename(checkpoint)
    _keep_latest(checkpoint.parent, limit)


def tidy(output_dir: Path, step: int, *, limit: int) -> None:
    """Remove the checkpoints later than `step`, the latest first, and what a killed run left of writing or removing."""
    for checkpoint in reversed(checkpoints(output_dir)):
        if step_of(checkpoint) > step:
            _remove(checkpoint)
    _keep_latest(output_dir, limit)
    for aside in (*output_dir.glob(f"checkpoint-*{ASIDE}"), output_dir / EXPORT):
        shutil.rmtree(aside, ignore_errors=True)


def _keep_latest(output_dir: Path, limit: int) -> None:
    for old in checkpoints(output_dir)[:-limit]:
        _remove(old)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, but not another program's folder of that name."""
    if (checkpoint / MANIFEST).exists():
        aside = checkpoint.with_name(checkpoint.name + ASIDE)  # a kill leaves a name that marks it as incomplete
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        shutil.rmtree(aside)


def load_checkpoint(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors and the state that `save_checkpoint` wrote.

    Raises:
        InvalidInputError: a file is absent, cut short or changed, as after a crash of the machine.
    """
    problem = find_damage(checkpoint)
    if problem:
        raise InvalidInputError(f"checkpoint {str(checkpoint)!r} is damaged: {problem}")
    try:
        tensors = {path.name.removesuffix(".safetensors"): load_file(path) for path in checkpoint.glob("*.safetensors")}
    except SafetensorError as error:
        raise InvalidInputError(
            f"checkpoint {str(checkpoint)!r} holds other files than were written: {error}"
        ) from error
    return tensors, read_object(checkpoint / STATE)


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None if they are as written."""
    try:
        manifest = read_object(checkpoint / MANIFEST)
    except (OSError, InvalidInputError) as error:
        return f"{MANIFEST}: {error}"
    if STATE not in manifest:
        return f"{MANIFEST} doesn't list {STATE}"
    for name, expected in manifest.items():
        if Path(name).name != name or not isinstance(expected, dict) or expected.keys() != {"bytes", "sha256"}:
            return f"{MANIFEST} holds {name!r}: {expected!r}, where the length and the SHA-256 of a file were written"
        try:
            found = _fingerprint(checkpoint / name)
        except OSError as error:
            return f"{name}: {error.strerror}"
        if found["bytes"] != expected["bytes"]:
            return f"{name} has {found['bytes']} bytes instead of {expected['bytes']}"
        if found != expected:
            return f"{name} has another SHA-256 than when it was written"
    return _find_odd_state(checkpoint / STATE)


def _find_odd_state(file: Path) -> str | None:
    """What is wrong with the numbers of a checkpoint whose files are whole."""
    try:
        state = read_object(file)
        check_int("step", state.get("step", 1), 1)
    except (OSError, InvalidInputError) as error:
        return f"{STATE}: {error}"
    for name, kinds in _KINDS.items():
        if not isinstance(state.get(name, kinds[0]()), kinds):
            return f"{STATE}: {name} is {state[name]!r}"
    return None


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors: "3.exp_avg" is of its fourth parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors`; rates and other numbers stay those of `optimizer`.

    Raises:
        ValueError: they belong to other parameters, or to an optimiser with another order of parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if int(index) >= len(parameters):
            raise ValueError(f"{key} is of another parameter than the {len(parameters)} that there are")
        parameter = parameters[int(index)]
        if name != "step" and value.shape != parameter.shape:  # fused optimisers would write beyond its end
            raise ValueError(f"{key} is {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")
        # In the memory layout of the parameter: fused optimisers process both in memory order.
        like = torch.empty_like(value if name == "step" else parameter)
        state.setdefault(int(index), {})[name] = like.copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
