"""Training the generators of Pix2pix (arXiv:1611.07004)."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffusers import DiffusionPipeline

from ...errors import InvalidInputError
from ...hub.cards import CardText
from ...pipelines.pipeline_pix2pix import Pix2PixPipeline
from ..config import CropConfig, flatten
from ..pair_config import PairSourceConfig
from ..pairs import check_damage, keeps_grey, make_damage, open_pairs, what_goes_in
from ..running import RESTORE, Run, choose, defining, start, used_options
from .config import GeneratorConfig, Pix2PixConfig, TranslationConfig
from .networks import make_networks
from .objective import Pix2PixObjective

FIGURES = "l1: mean absolute distance to the truth in [-1, 1]; psnr, in dB: of the same pictures"

DEFINING = defining(GeneratorConfig, PairSourceConfig, CropConfig, TranslationConfig, more=["init_from"])


def train_pix2pix(config: Pix2PixConfig, *, dry_run: bool = False) -> None:
    """Train a generator as `config` says; `config.training.output_dir` is then a repository of its pipeline.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written.

    Raises:
        InvalidInputError: what the configuration names can't be used.
    """
    damage = make_damage(config.pairs)
    if damage is not None:
        check_damage(damage, config.data)
    data = open_pairs(config.data, config.pairs, config.training.seed)
    best = config.objective.keep == "best_psnr"
    if best and not data.validation:
        raise InvalidInputError("keep best_psnr needs held-out pictures, and there are none; see validation_images")
    networks: dict[str, Any] = make_networks(config)
    kind = config.objective.gan_loss
    objective = Pix2PixObjective(
        networks["generator"],
        gan_loss=None if kind == "none" else kind,
        l1_weight=config.objective.l1_weight,
        damage=damage,
        best=best,
    )
    unused = [] if config.init_from is None else list(flatten(GeneratorConfig()))
    if kind == "none":
        unused += ["discriminator", "discriminator_channels"]
    options = used_options(config, unused)
    stays_grey = damage is not None and keeps_grey(config.pairs)

    def make_pipeline(networks: dict[str, Any]) -> tuple[DiffusionPipeline, CardText]:
        pipeline = Pix2PixPipeline(networks["generator"], keeps_grey=stays_grey)
        text = pipeline.card_text
        what = f"{text.what} It is shown {what_goes_in(config.pairs)}, of {config.data.resolution} pixels in training."
        return pipeline, dataclasses.replace(text, what=what)

    restored = "; psnr_degraded: of what went in" if damage is not None else ""
    run = Run(
        objective,
        networks,
        data,
        dict.fromkeys(objective.phases, config.optimizer),
        options,
        choose(options, DEFINING),
        make_pipeline,
        title="a translator by Pix2pix",
        shown="Held-out pictures: what goes in, what comes out, the truth",
        figures=f"{FIGURES}{restored}.",
        base=config.init_from,
        tries=(RESTORE.replace("photo.png", "input.png"),),
    )
    start(run, config, dry_run=dry_run)
