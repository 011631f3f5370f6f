"""Pairs of degraded and clean pictures: from folders, or made from clean pictures while training."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import operators
from ..degradations import DEGRADATIONS, from_config
from ..degradations.recipes import RECIPES, create, seeds_from
from ..errors import InvalidInputError, unknown_name
from ..hub.cards import public
from .config import DataConfig
from .data import TrainingData, from_source, open_data
from .pair_config import PairSourceConfig
from .sources import ConcatenatedPairs, PairedFolders, Source


class Pair(NamedTuple):
    """Pictures (B, C, H, W) in [-1, 1] and, where there is one, a mask (B, 1, H, W), 1 where they are damaged."""

    degraded: Tensor
    clean: Tensor
    mask: Tensor | None


PairMaker = Callable[[Tensor, torch.Generator], Pair]
"""Makes pairs from clean pictures; all randomness comes from the generator."""


def open_pairs(
    data: DataConfig,
    pairs: PairSourceConfig,
    seed: int,
    *,
    mask_data_dir: str | None = None,
    unpaired_data_dir: str | None = None,
) -> TrainingData:
    """The pictures of a run, in pairs where they are stored in pairs.

    Args:
        data: the clean ones.
        pairs: where the others come from.
        seed: of the run.
        mask_data_dir: folder of masks beside `degraded_data_dir`.
        unpaired_data_dir: folder of pictures of another kind.

    Raises:
        InvalidInputError: they can't be found, or don't fit together.
    """
    name = "" if data.train_data_dir is None else Path(data.train_data_dir).resolve().name
    if pairs.degraded_data_dir is not None or pairs.clean_side is not None:
        folders = {"train_data_dir": data.train_data_dir}
        folders |= {"degraded_data_dir": pairs.degraded_data_dir, "mask_data_dir": mask_data_dir}
        for option, folder in folders.items():
            if folder is not None and not Path(folder).is_dir():
                raise InvalidInputError(f"{option} must be a folder, got {folder!r}")
    if unpaired_data_dir is not None and not Path(unpaired_data_dir).exists():
        raise InvalidInputError(f"unpaired_data_dir must be a folder or an idx file, got {unpaired_data_dir!r}")
    source: Source
    if pairs.degraded_data_dir is not None:
        source = PairedFolders(pairs.degraded_data_dir, str(data.train_data_dir), mask_data_dir)
        masks = "with masks " if mask_data_dir else ""
        name += f" {masks}and {Path(pairs.degraded_data_dir).resolve().name}"
    elif pairs.clean_side is not None:
        source = ConcatenatedPairs(str(data.train_data_dir), pairs.clean_side)
        if doubt := source.doubt():
            tqdm.write(f"warning: {doubt}", file=sys.stderr)
    else:
        return open_data(data, seed, unpaired_data_dir)
    if not len(source):
        raise InvalidInputError(f"train_data_dir {data.train_data_dir!r} holds no pictures (.jpg, .png, .webp ...)")
    measured = None
    if data.validation_data_dir is not None and pairs.clean_side is not None:
        if not Path(data.validation_data_dir).is_dir():
            raise InvalidInputError(f"validation_data_dir must be a folder, got {data.validation_data_dir!r}")
        measured = ConcatenatedPairs(data.validation_data_dir, pairs.clean_side)
    return from_source(source, data, seed, name, measured)


def what_goes_in(pairs: PairSourceConfig) -> str:
    """The pictures that a network is shown, for a reader."""
    if pairs.clean_side is not None:
        return f"the {'right' if pairs.clean_side == 'left' else 'left'} halves of pairs side by side"
    if pairs.degraded_data_dir is not None:
        return f"pictures such as those of `{public(pairs.degraded_data_dir)}`"
    name = next(name for name in ("recipe", "task", "degradation") if getattr(pairs, name) is not None)
    return f"pictures by the {name} `{getattr(pairs, name)}`"


def check_damage(damage: PairMaker, data: DataConfig) -> None:
    """Raise InvalidInputError, before the pictures are read, if pictures of these sizes can't be damaged."""
    for size in {data.resolution, data.validation_resolution or data.resolution}:
        damage(torch.zeros(1, data.channels, size, size), torch.Generator().manual_seed(0))


def keeps_grey(pairs: PairSourceConfig) -> bool:
    """Whether grey in a degraded picture means grey in the clean one, so that the network must not colour it."""
    recipe = pairs.recipe
    if pairs.degradation == "synthetic":
        recipe = from_config({"kind": "synthetic", **(pairs.degradation_args or {})}).to_config()["recipe"]
    elif pairs.degradation is not None:
        return bool(DEGRADATIONS[pairs.degradation].keeps_grey)
    if recipe is not None:
        return bool(RECIPES[recipe].keeps_grey)
    return pairs.task != "colorize"


def makes_smaller(pairs: PairSourceConfig, data: DataConfig) -> bool:
    """Whether a network is shown measurements that a task has made smaller, and that are enlarged for it."""
    if pairs.task is None:
        return False
    shape = (data.channels, data.resolution, data.resolution)
    return operators.create(pairs.task, image_shape=shape, **(pairs.task_args or {})).output_shape[1:] != shape[1:]


def make_damage(pairs: PairSourceConfig, *, masked: bool = False) -> PairMaker | None:
    """A function that makes pairs from clean pictures; None where pictures come in pairs, or there is no damage.

    With `masked`, pairs have the mask of a recipe's scratches.

    Raises:
        InvalidInputError: an unknown name, or arguments that don't fit.
    """
    if pairs.recipe is not None:
        return damage_by_recipe(pairs.recipe, pairs.recipe_args or {}, masked=masked)
    if pairs.task is not None:
        return _by_task(pairs.task, dict(pairs.task_args or {}), pairs.sigma_y)
    if pairs.degradation is not None:
        return _by_degradation(pairs.degradation, dict(pairs.degradation_args or {}))
    return None


def damage_by_recipe(name: str, arguments: Mapping[str, Any], *, masked: bool) -> PairMaker:
    """A function that makes pairs by a recipe.

    Args:
        name: of the recipe.
        arguments: of it.
        masked: whether pairs have the mask of its scratches.

    Raises:
        InvalidInputError: an unknown name, arguments that don't fit, or a mask that would always be empty.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    known = [one.name for one in dataclasses.fields(RECIPES[name])]
    for argument in arguments:
        if argument not in known:
            raise unknown_name(f"recipe_args of {name}", argument, known)
    recipe = create(name, **arguments)

    if masked and not recipe(torch.zeros(32, 1, 32, 32), range(32)).mask.any():
        raise InvalidInputError(
            f"recipe {name!r} with recipe_args {arguments} damages nothing in places that a mask could show; "
            'old_photo_full does, and old_photos with recipe_args "{scratches: true}"'
        )

    def damage(clean: Tensor, generator: torch.Generator) -> Pair:
        damaged = recipe(clean, seeds_from(generator, len(clean)))
        return Pair(damaged.degraded, damaged.clean, damaged.mask if masked else None)

    return damage


def _by_task(name: str, arguments: dict[str, Any], sigma_y: float) -> PairMaker:
    if name not in operators.TASKS:
        raise unknown_name("task", name, operators.TASKS)
    known = operators.TASKS[name].arguments
    for argument in arguments:
        if argument not in known:
            raise unknown_name(f"task_args of {name}", argument, known)

    @lru_cache(maxsize=8)
    def operator(shape: tuple[int, int, int]) -> operators.Operator:
        return operators.create(name, image_shape=shape, **arguments)

    def damage(clean: Tensor, generator: torch.Generator) -> Pair:
        a = operator((clean.shape[1], clean.shape[2], clean.shape[3]))
        y = operators.measure(a, clean, sigma_y, generator).y
        # Networks take pictures of the clean size: small ones enlarged, grey ones in three channels.
        return Pair(y if y.shape == clean.shape else a.pinv(y), clean, None)

    return damage


def _by_degradation(name: str, arguments: dict[str, Any]) -> PairMaker:
    if name not in DEGRADATIONS:
        raise unknown_name("degradation", name, DEGRADATIONS)
    known = [one.name for one in dataclasses.fields(DEGRADATIONS[name])]
    for argument in arguments:
        if argument not in known:
            raise unknown_name(f"degradation_args of {name}", argument, known)
    if "num_timesteps" not in arguments:
        raise InvalidInputError(f"degradation_args of {name} must say num_timesteps, how many severities there are")
    degradation = from_config({"kind": name, **arguments})

    def damage(clean: Tensor, generator: torch.Generator) -> Pair:
        degradation.check_size(clean.shape[2], clean.shape[3])
        state = degradation.sample_state(clean, generator)
        last = degradation.num_timesteps
        # On the generator's device: validation uses a CPU generator.
        severities = torch.randint(1, last + 1, (len(clean),), generator=generator, device=generator.device)
        return Pair(degradation.apply(clean, severities.to(clean.device), state), clean, None)

    return damage
