"""Training the networks of RDDM (arXiv:2308.13712) and of the processes that share its step."""

from __future__ import annotations

import dataclasses
import re
import sys
from inspect import signature
from typing import Any

from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from ...errors import InvalidInputError, one_line, unknown_name
from ...hub.cards import CardText
from ...pipelines.pipeline_rddm import Inputs, RDDMPipeline
from ...schedulers.scheduling_rddm import RDDMScheduler
from ..config import CropConfig, UNetConfig, flatten
from ..data import TrainingData
from ..networks import load_scheduler
from ..pairs import PairMaker, check_damage, keeps_grey, make_damage, makes_smaller, open_pairs
from ..processes import is_main_process
from ..running import RESTORE, SAMPLE, Run, choose, defining, start, used_options
from .aosa import select
from .config import PairConfig, RDDMConfig, ResidualConfig
from .networks import make_networks
from .objective import RDDMObjective

FIGURES = """\
PSNRs in dB: psnr_degraded of the degraded pictures, psnr_1_step of their restorations in one step, psnr
in {steps}."""
HALF_WAY = """\
psnr, in dB, is that of one look at held-out pictures half-way to the end of the process."""

DEFINING = defining(UNetConfig, PairConfig, CropConfig, more=["init_from", "conditioned", "two_networks", "loss"])


def train_rddm(config: RDDMConfig, *, dry_run: bool = False) -> None:
    """Train a restorer as `config` says; `config.training.output_dir` is then a repository of its pipeline.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written.

    Raises:
        InvalidInputError: what the configuration names can't be used.
    """
    pairs = config.pairs
    damage = make_damage(pairs, masked=pairs.recipe_mask)
    if damage is not None:
        check_damage(damage, config.data)
    data = open_pairs(
        config.data,
        pairs,
        config.training.seed,
        mask_data_dir=pairs.mask_data_dir,
        unpaired_data_dir=pairs.unpaired_data_dir,
    )
    options = _options(config)
    if config.objective.prediction_type == "auto":
        config = _select_prediction(config, data, damage, options, dry_run=dry_run)
    inputs, scheduler = _inputs(config), make_scheduler(config.objective)
    objective, networks = _make_objective(config, scheduler, damage), make_networks(config, scheduler, inputs)
    if not pairs.paired and is_main_process():
        nothing = "no damage and no degraded pictures are named: the network learns to make pictures of noise"
        tqdm.write(nothing, file=sys.stderr)
    trained_for: dict[str, Any] = {"keeps_grey": keeps_grey(pairs), "generates": not pairs.paired}
    RDDMPipeline(scheduler=scheduler, **networks, **trained_for)  # raises its errors now
    optimizers = dict.fromkeys(networks, config.optimizer)
    if config.objective.noise_learning_rate is not None:
        rate = config.objective.noise_learning_rate
        optimizers["unet_noise"] = dataclasses.replace(config.optimizer, learning_rate=rate)
    steps = min(config.objective.validation_steps, len(scheduler))

    def make_pipeline(networks: dict[str, Any]) -> tuple[DiffusionPipeline, CardText]:
        pipeline = RDDMPipeline(scheduler=scheduler, **networks, **trained_for)
        text = pipeline.card_text
        return pipeline, _with_steps(text, steps) if config.pairs.paired else text

    shown, figures = _describe_pictures(config, steps)
    run = Run(
        objective,
        networks,
        data,
        optimizers,
        options,
        _settings(options, scheduler),
        make_pipeline,
        title=f"{scheduler.config.prediction_type} by RDDM",
        shown=shown,
        figures=figures,
        base=config.init_from,
        tries=_tries(config),
    )
    start(run, config, dry_run=dry_run)


def _inputs(config: RDDMConfig) -> Inputs:
    """The inputs of the networks."""
    return Inputs(
        config.data.channels,
        conditioned=config.objective.conditioned and config.pairs.paired,
        masked=config.objective.conditioned and config.pairs.masked,
    )


def _make_objective(config: RDDMConfig, scheduler: RDDMScheduler, damage: PairMaker | None) -> RDDMObjective:
    return RDDMObjective(
        scheduler,
        _inputs(config),
        two_networks=config.objective.two_networks,
        damage=damage,
        loss=config.objective.loss,
        validation_steps=config.objective.validation_steps,
        unpaired=config.pairs.unpaired_data_dir is not None,
    )


def _select_prediction(
    config: RDDMConfig,
    data: TrainingData,
    damage: PairMaker | None,
    options: dict[str, object],
    *,
    dry_run: bool,
) -> RDDMConfig:
    """The configuration with the prediction type chosen by AOSA."""
    both = _with_prediction(config, "residual_epsilon")
    objective = _make_objective(both, make_scheduler(both.objective), damage)
    one = _with_prediction(config, "residual")
    chosen = select(
        objective,
        make_networks(one, make_scheduler(one.objective), _inputs(one))["unet"],
        data,
        config.optimizer,
        config.training,
        config.objective.aosa_max_steps,
        settings=_settings(options, objective.scheduler),
        dry_run=dry_run,
    )
    return _with_prediction(config, chosen)


def _with_prediction(config: RDDMConfig, prediction_type: str) -> RDDMConfig:
    objective = dataclasses.replace(config.objective, prediction_type=prediction_type)  # type: ignore[arg-type]
    return dataclasses.replace(config, objective=objective)


def _settings(options: dict[str, object], scheduler: RDDMScheduler) -> dict[str, object]:
    """The settings that a resumed run must share."""
    # The content of scheduler_name_or_path may have changed since.
    of_scheduler = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return {**choose(options, DEFINING), "scheduler": of_scheduler}


def _options(config: RDDMConfig) -> dict[str, object]:
    """All options that mean something in this run, by name."""
    unused = [] if config.init_from is None else list(flatten(UNetConfig()))
    if config.objective.scheduler_name_or_path is not None:
        unused += ["prediction_type", "num_train_timesteps", "noise_scale"]
    if not config.pairs.paired:
        unused += ["conditioned"]
    if config.objective.prediction_type != "auto":
        unused += ["aosa_max_steps"]
    return used_options(config, unused)


def _with_steps(text: CardText, steps: int) -> CardText:
    """The card's text with the number of steps that its figures refer to."""
    example = re.sub(r"num_inference_steps=\d+", f"num_inference_steps={steps}", text.example)
    return dataclasses.replace(text, example=example)


def _tries(config: RDDMConfig) -> tuple[str, ...]:
    """Commands to try the pipeline by."""
    if not config.pairs.paired:
        return (SAMPLE,)
    enlarged = f"  # photo.png enlarged first, as {config.pairs.task} has it: docs/rddm.md"
    given = " --mask mask.png" if _inputs(config).masked else ""
    return (RESTORE + given + enlarged * makes_smaller(config.pairs, config.data),)


def _describe_pictures(config: RDDMConfig, steps: int) -> tuple[str, str]:
    """Descriptions of the pictures and the figures of the card."""
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
