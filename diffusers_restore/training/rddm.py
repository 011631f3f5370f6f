"""Training the networks of RDDM (arXiv:2308.13712) and of the processes that share its step."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..errors import InvalidInputError, one_line, unknown_name
from ..hub.cards import CardText
from ..models.growing import grow_unet
from ..pipelines.common import Network, check_network
from ..pipelines.pipeline_rddm import Inputs, RDDMPipeline
from ..schedulers.scheduling_rddm import RDDMScheduler
from .aosa import select
from .config import Crop, PairConfig, RDDMConfig, ResidualConfig, UNetConfig, flatten, to_yaml
from .cost import step_cost
from .export import export_pipeline, model_card
from .loop import Progress, train
from .networks import check_unconditional, load_pipeline, load_scheduler, new_unet
from .pairs import keeps_grey, make_damage, open_pairs
from .rddm_objective import RDDMObjective

FIGURES = """\
PSNRs in dB: psnr_degraded of the degraded pictures, psnr_1_step of their restorations in one step, psnr
in {steps}."""
HALF_WAY = """\
psnr, in dB, is that of one look at held-out pictures half-way to the end of the process."""


# Options that a run can't go on with otherwise, beside those that the loop knows of.
DEFINING = (
    *(one.name for part in (UNetConfig, PairConfig, Crop) for one in dataclasses.fields(part)),
    "validation_resolution",
    "optimizer",
    "init_from",
    "conditioned",
    "two_networks",
    "loss",
)


def train_rddm(config: RDDMConfig, *, dry_run: bool = False) -> None:
    """Train a restorer as `config` says; `config.training.output_dir` is then a repository of its pipeline.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written.

    Raises:
        InvalidInputError: what the configuration names can't be used.
    """
    damage = make_damage(config.pairs)
    if damage is not None:  # what it can't do with pictures of these sizes is said now
        for size in {config.data.resolution, config.data.validation_resolution or config.data.resolution}:
            damage(torch.zeros(1, config.data.channels, size, size), torch.Generator().manual_seed(0))
    data = open_pairs(config.data, config.pairs, config.training.seed)
    inputs = Inputs(
        config.data.channels,
        conditioned=config.objective.conditioned and config.pairs.paired,
        masked=config.objective.conditioned and config.pairs.masked,
    )

    def make_objective(scheduler: RDDMScheduler) -> RDDMObjective:
        return RDDMObjective(
            scheduler,
            inputs,
            two_networks=config.objective.two_networks,
            damage=damage,
            loss=config.objective.loss,
            validation_steps=config.objective.validation_steps,
            unpaired=config.pairs.unpaired_data_dir is not None,
        )

    options = _options(config)

    def settings(scheduler: RDDMScheduler) -> dict[str, object]:
        # What scheduler_name_or_path names may have been changed since.
        of_scheduler = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
        return {**{name: options[name] for name in DEFINING if name in options}, "scheduler": of_scheduler}

    if config.objective.prediction_type == "auto":
        both = make_objective(_with(config, "residual_epsilon")[1])
        chosen = select(
            both,
            make_networks(*_with(config, "residual"), inputs)["unet"],
            data,
            config.optimizer,
            config.training,
            config.objective.aosa_max_steps,
            settings=settings(both.scheduler),
            dry_run=dry_run,
        )
        config, scheduler = _with(config, chosen)
    else:
        scheduler = make_scheduler(config.objective)
    objective, networks = make_objective(scheduler), make_networks(config, scheduler, inputs)
    trained_for: dict[str, Any] = {"keeps_grey": keeps_grey(config.pairs), "generates": not config.pairs.paired}
    RDDMPipeline(scheduler=scheduler, **networks, **trained_for)  # what it refuses, it refuses now
    optimizers = dict.fromkeys(networks, config.optimizer)
    if config.objective.noise_learning_rate is not None:
        rate = config.objective.noise_learning_rate
        optimizers["unet_noise"] = dataclasses.replace(config.optimizer, learning_rate=rate)
    if dry_run:
        print(to_yaml(options))
        print(step_cost(objective, networks, data, optimizers, config.training))
        return

    output_dir = Path(config.training.output_dir)

    def export(averaged: Mapping[str, nn.Module], progress: Progress) -> None:
        exported: dict[str, Any] = {name: copy.deepcopy(network) for name, network in averaged.items()}
        for network in exported.values():  # diffusers' own `to` warns about nothing
            nn.Module.to(network, getattr(torch, config.training.export_dtype))
        pipeline = RDDMPipeline(scheduler=scheduler, **exported, **trained_for)
        steps = min(config.objective.validation_steps, len(scheduler))
        card = model_card(
            f"{output_dir.resolve().name}: {scheduler.config.prediction_type} by RDDM",
            _measured_in(pipeline.card_text, steps) if config.pairs.paired else pipeline.card_text,
            *_shown(config, steps),
            data,
            to_yaml(options),
            progress,
            training=config.training,
            dataset=config.data.dataset_name,
            base=config.init_from,
        )
        export_pipeline(pipeline, card, progress, output_dir)

    train(objective, networks, data, optimizers, config.training, export=export, settings=settings(scheduler))


def _with(config: RDDMConfig, prediction_type: str) -> tuple[RDDMConfig, RDDMScheduler]:
    """The configuration with another prediction type, and its scheduler."""
    objective = dataclasses.replace(config.objective, prediction_type=prediction_type)  # type: ignore[arg-type]
    return dataclasses.replace(config, objective=objective), make_scheduler(objective)


def _options(config: RDDMConfig) -> dict[str, object]:
    """All options that mean something in this run, by name."""
    unused = [] if config.init_from is None else list(flatten(UNetConfig()))
    if config.objective.scheduler_name_or_path is not None:
        unused += ["prediction_type", "num_train_timesteps", "noise_scale"]
    if not config.pairs.paired:
        unused += ["conditioned"]
    if config.objective.prediction_type != "auto":
        unused += ["aosa_max_steps"]
    return {name: value for name, value in flatten(config).items() if name not in unused}


def _measured_in(text: CardText, steps: int) -> CardText:
    """With the number of steps that the card's figures are of."""
    example = re.sub(r"num_inference_steps=\d+", f"num_inference_steps={steps}", text.example)
    return dataclasses.replace(text, example=example)


def _shown(config: RDDMConfig, steps: int) -> tuple[str, str]:
    """What the pictures and the figures of the card are."""
    if not config.pairs.paired:
        return "Pictures that the network drew", HALF_WAY
    if config.pairs.unpaired_data_dir is not None:
        return "Held-out pictures: as they came, translated, and one of the other kind", HALF_WAY
    return f"Held-out pictures: degraded, restored in {steps} steps, as they were", FIGURES.format(steps=steps)


def make_scheduler(config: ResidualConfig) -> RDDMScheduler:
    """The scheduler that `config` describes.

    Raises:
        InvalidInputError: it can't be loaded, or takes no such arguments.
    """
    if config.scheduler_name_or_path is not None:
        return load_scheduler(RDDMScheduler, config.scheduler_name_or_path)
    own = {
        "prediction_type": config.prediction_type,
        "num_train_timesteps": config.num_train_timesteps,
        "noise_scale": config.noise_scale,
    }
    more = dict(config.scheduler_args or {})
    known = [name for name in list(signature(RDDMScheduler.__init__).parameters)[1:] if name not in own]
    for name in more:
        if name in own:
            raise InvalidInputError(f"scheduler_args: {name} has an option of its own, --{name}")
        if name not in known:
            raise unknown_name("scheduler_args", name, known)
    try:
        return RDDMScheduler(**own, **more)
    except TypeError as error:
        raise InvalidInputError(f"scheduler_args: {one_line(error)}") from error


def make_networks(config: RDDMConfig, scheduler: RDDMScheduler, inputs: Inputs) -> dict[str, Network]:
    """The networks to train, new or grown from those of `init_from`.

    Raises:
        InvalidInputError: that repository has no network that can be grown to them.
    """
    channels, heads = config.data.channels, scheduler.heads
    in_channels = channels * (1 + inputs.conditioned) + inputs.masked
    said = {"unet": heads[:1], "unet_noise": heads[1:]} if config.objective.two_networks else {"unet": heads}
    if config.init_from is None:
        return {
            name: new_unet(config.network, config.data, config.training.seed + i, in_channels, channels * len(mine))
            for i, (name, mine) in enumerate(said.items())
        }
    name = config.init_from
    pipeline = load_pipeline("init_from", name)
    theirs = _said(pipeline, name, config.data.channels)
    networks = {}
    for part, mine in said.items():
        # Its outputs are taken over where they are the same ones; others begin at zero.
        there, says = next((one for one in theirs if _place(one[1], mine) is not None), theirs[0])
        first = _place(says, mine)
        there = check_unconditional(there, name, config.data)
        if there.config.in_channels > in_channels:
            raise InvalidInputError(
                f"init_from: the network of {name!r} is shown {there.config.in_channels} channels (the picture, the "
                f"degraded one, a mask), more than the {in_channels} that there are here"
            )
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
            if first is not None and there.config.out_channels != channels * len(says):
                there = _without_variance(there, channels * len(says))
            place = None if first is None else first * channels
            networks[part] = grow_unet(there, in_channels, channels * len(mine), first_output=place)
    return networks


def _said(pipeline: DiffusionPipeline, name: str, channels: int) -> list[tuple[Network, tuple[str, ...]]]:
    """The networks of a pipeline and what each says; names that aren't those of heads are as good as none."""
    unet: Any = getattr(pipeline, "unet", None)
    second: Any = getattr(pipeline, "unet_noise", None)
    check_network(f"init_from: the network of {name!r}", unet)
    if isinstance(pipeline, RDDMPipeline):
        heads, its = pipeline.scheduler.heads, pipeline.inputs.channels
    else:
        heads, its = (pipeline.scheduler.config.get("prediction_type"),), unet.config.in_channels
    if its != channels:
        raise InvalidInputError(f"init_from: the network of {name!r} is for pictures of {its} channels, not {channels}")
    return [(unet, heads)] if second is None else [(unet, heads[:1]), (second, heads[1:])]


def _without_variance(unet: Network, out_channels: int) -> Network:
    """The network with its first outputs alone."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    cut = type(unet).from_config({**config, "out_channels": out_channels})
    weights = dict(unet.state_dict())
    for one in ("conv_out.weight", "conv_out.bias"):
        weights[one] = weights[one][: len(cut.state_dict()[one])]
    cut.load_state_dict(weights)
    return cut


def _place(says: tuple[str, ...], wanted: tuple[str, ...]) -> int | None:
    """Where `says` stands as a part of `wanted`."""
    for i in range(len(wanted) - len(says) + 1):
        if wanted[i : i + len(says)] == tuple(says):
            return i
    return None
