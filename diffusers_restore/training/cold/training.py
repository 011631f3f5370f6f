"""Training the network of Cold Diffusion (arXiv:2208.09392): R(D(x, t), t - 1) = x."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from ...degradations import DEGRADATIONS, Decolor, Degradation, Mix, from_config
from ...errors import InvalidInputError, unknown_name
from ...hub.cards import CardText
from ...models.gaussian_mixture import GaussianMixturePrior
from ...pipelines.common import Network, check_network
from ...pipelines.pipeline_cold_diffusion import ColdDiffusionPipeline
from ...schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler
from ..config import CropConfig, UNetConfig, flatten
from ..data import open_data
from ..networks import check_trainable, load_network, load_scheduler, new_unet
from ..running import RESTORE, SAMPLE, Run, choose, defining, start, used_options
from .config import ColdConfig, DegradationConfig
from .generating import check_prior, fit_prior
from .objective import ColdObjective

FIGURES = """\
PSNRs in dB: psnr_direct_t of one look at pictures of severity t, psnr their mean, psnr_restored of Algorithm 2 from the
largest severity in at most 10 steps, psnr_degraded of what it begins with."""

DEFINING = defining(
    UNetConfig, DegradationConfig, CropConfig, more=["pretrained_model_name_or_path", "endpoint_data_dir"]
)


def train_cold(config: ColdConfig, *, dry_run: bool = False) -> None:
    """Train a restorer as `config` says; `config.training.output_dir` is then a repository of its pipeline.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written.

    Raises:
        InvalidInputError: what the configuration names can't be used.
    """
    scheduler = make_scheduler(config.objective)
    _check_endpoints(scheduler.degradation, config.endpoint_data_dir)
    for size in {config.data.resolution, config.data.validation_resolution or config.data.resolution}:
        scheduler.degradation.check_size(size, size)
    if isinstance(scheduler.degradation, Decolor) and config.data.channels == 1:
        raise InvalidInputError("channels must be 3 for degradation decolor, which does nothing to grey pictures")
    data = open_data(config.data, config.training.seed, config.endpoint_data_dir, "endpoint_data_dir")
    check_prior(scheduler.degradation, data, config)
    unet = make_unet(config)
    options = _options(config)

    @cache
    def prior() -> GaussianMixturePrior | None:
        return fit_prior(scheduler, data, config) if config.prior_components else None

    def make_pipeline(networks: dict[str, Any]) -> tuple[DiffusionPipeline, CardText]:
        pipeline = ColdDiffusionPipeline(unet=networks["unet"], scheduler=scheduler, prior=prior())
        return pipeline, pipeline.card_text

    # The content of scheduler_name_or_path may have changed since.
    of_scheduler = {**scheduler.degradation.to_config(), "eight_bit": scheduler.config.eight_bit}
    run = Run(
        ColdObjective(scheduler),
        {"unet": unet},
        data,
        {"unet": config.optimizer},
        options,
        {**choose(options, DEFINING), "scheduler": of_scheduler},
        make_pipeline,
        title=f"Cold Diffusion with {scheduler.degradation}",
        shown="Held-out pictures: degraded, the first estimate, restored, as they were",
        figures=FIGURES,
        base=config.pretrained_model_name_or_path,
        # What acts through a state that a picture doesn't tell is undone by the first estimate alone.
        tries=(RESTORE + " --direct" * bool(scheduler.degradation.state_shapes(1, 1, 1)),)
        + ((SAMPLE,) if config.prior_components else ()),
    )
    start(run, config, dry_run=dry_run)


def _options(config: ColdConfig) -> dict[str, object]:
    """All options that mean something in this run, by name."""
    unused = [] if config.pretrained_model_name_or_path is None else list(flatten(UNetConfig()))
    if config.objective.scheduler_name_or_path is not None:
        names = [option.name for option in dataclasses.fields(DegradationConfig)]
        unused += [name for name in names if name != "scheduler_name_or_path"]
    return used_options(config, unused)


def _check_endpoints(degradation: Degradation, folder: str | None) -> None:
    """Raise InvalidInputError if the degradation needs a folder and there is none, or needs none and there is one."""
    needed = _needs_pictures(degradation)
    if needed and folder is None:
        raise InvalidInputError("endpoint_data_dir must name the pictures that degradation mix mixes with, got None")
    if folder is not None and not needed:
        raise InvalidInputError(
            f"endpoint_data_dir is for degradation mix with endpoint: picture, got {folder!r} for {degradation}"
        )
    if folder is not None and not Path(folder).exists():
        raise InvalidInputError(f"endpoint_data_dir must be a folder or an idx file, got {folder!r}")


def _needs_pictures(degradation: Degradation) -> bool:
    """Whether it mixes with pictures of another set."""
    return isinstance(degradation, Mix) and degradation.endpoint == "picture"


def make_scheduler(config: DegradationConfig) -> ColdDiffusionScheduler:
    """The scheduler with the degradation that `config` names.

    Raises:
        InvalidInputError: no degradation has that name, or it doesn't take these arguments.
    """
    if config.scheduler_name_or_path is not None:
        return load_scheduler(ColdDiffusionScheduler, config.scheduler_name_or_path)
    kind, arguments = str(config.degradation), dict(config.degradation_args or {})
    known = [one.name for one in dataclasses.fields(DEGRADATIONS[kind]) if one.name != "num_timesteps"]
    for name in arguments:
        if name == "num_timesteps":
            raise InvalidInputError("degradation_args: num_timesteps is set by num_train_timesteps")
        if name not in known:
            raise unknown_name(f"degradation_args of {kind}", name, known)
    degradation = from_config({"kind": kind, "num_timesteps": config.num_train_timesteps, **arguments})
    return ColdDiffusionScheduler(degradation=degradation, eight_bit=config.eight_bit)


def make_unet(config: ColdConfig) -> Network:
    """The network to train, new or that of `pretrained_model_name_or_path`.

    Raises:
        InvalidInputError: that repository has no network for such pictures.
    """
    name = config.pretrained_model_name_or_path
    if name is None:
        return new_unet(config.network, config.data, config.training.seed)
    unet = getattr(load_network("pretrained_model_name_or_path", DiffusionPipeline, name), "unet", None)
    check_network(f"pretrained_model_name_or_path: the network of {name!r}", unet)
    return check_trainable(unet, name, config.data)
