"""Training the network of Cold Diffusion (arXiv:2208.09392): R(D(x, t), t - 1) = x."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..degradations import DEGRADATIONS, Decolor, Degradation, Mix, State, from_config
from ..errors import InvalidInputError, unknown_name
from ..models.gaussian_mixture import GaussianMixturePrior, thumbnails
from ..pipelines.common import Network, check_network
from ..pipelines.pipeline_cold_diffusion import ColdDiffusionPipeline
from ..schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler
from .config import ColdConfig, Crop, DegradationConfig, UNetConfig, flatten, to_yaml
from .cost import step_cost
from .data import TrainingData, open_data, to_unit
from .export import export_pipeline, model_card
from .loop import Progress, train
from .networks import check_unet, load_pipeline, load_scheduler, new_unet
from .objectives import Objective, psnr

PRIOR_PICTURES = 10_000
STEPS = 10  # of the restorations that are measured and shown


class Degraded(NamedTuple):
    """Degraded pictures, their timesteps (B,), and the clean pictures."""

    degraded: Tensor
    timesteps: Tensor
    clean: Tensor


@final
class ColdObjective(Objective):
    """Restoring by one look: E |R(D(x, t), t - 1) - x|_1, t uniform in 1..T (arXiv:2208.09392).

    A batch is `(clean,)`, or `(endpoint, clean)` for a degradation that mixes with a picture of another set, where the
    endpoints are dealt anew among the clean pictures.
    """

    def __init__(self, scheduler: ColdDiffusionScheduler) -> None:
        self.scheduler = scheduler

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        return {"unet": ("unet",)}

    @property
    def criterion(self) -> str:
        return "psnr"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Degraded:
        clean, state = self._pair(batch, generator)
        last = len(self.scheduler)
        timesteps = torch.randint(last, (len(clean),), generator=generator, device=clean.device)
        return Degraded(self.scheduler.apply(clean, timesteps + 1, state), timesteps, clean)

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Degraded) -> dict[str, Tensor]:
        x0_hat = networks["unet"](corrupted.degraded, corrupted.timesteps).sample
        return {"loss": (x0_hat.float() - corrupted.clean).abs().mean()}

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """PSNR in dB: of one look at a quarter, half and all of T, their mean, and of Algorithm 2 from T."""
        clean, state = self._pair(picture, torch.Generator().manual_seed(index))
        last = len(self.scheduler)
        figures = {}
        for t in sorted({-(-last // 4), -(-last // 2), last}):
            x0_hat = networks["unet"](self.scheduler.degrade(clean, t, state), t - 1).sample
            figures[f"psnr_direct_{t}"] = psnr(x0_hat, clean)
        mean = torch.stack(list(figures.values())).mean()
        restored = self._restored(networks["unet"], self.scheduler.degrade(clean, last, state), state)
        return {"psnr": mean, **figures, "psnr_restored": psnr(restored, clean)}

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Side by side: degraded, the direct reconstruction, Algorithm 2, clean."""
        strips = []
        for i in indices:
            clean, state = self._pair(pictures[i], torch.Generator().manual_seed(i))
            last = len(self.scheduler)
            degraded = self.scheduler.degrade(clean, last, state)
            direct = networks["unet"](degraded, last - 1).sample
            strips.append(torch.cat([degraded, direct, self._restored(networks["unet"], degraded, state), clean], 3))
        return torch.cat(strips).clamp(-1, 1)

    def _pair(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, State]:
        if len(batch) == 2:
            endpoint, clean = batch
            dealt = torch.randperm(len(clean), generator=generator, device=generator.device)
            return clean, {"endpoint": endpoint[dealt.to(clean.device)]}
        (clean,) = batch
        return clean, self.scheduler.sample_state(clean, generator)

    def _restored(self, unet: nn.Module, degraded: Tensor, state: State) -> Tensor:
        config = {**self.scheduler.config, "algorithm": "improved"}
        scheduler = cast(ColdDiffusionScheduler, ColdDiffusionScheduler.from_config(config))
        scheduler.set_timesteps(min(STEPS, len(scheduler)))
        x = degraded
        for k in scheduler.timesteps.tolist():
            x = scheduler.step(unet(x, k).sample, k, x, state=state, return_dict=False)[0]
        return x


FIGURES = """\
PSNRs in dB: psnr_direct_t of one look at pictures of severity t, psnr their mean, psnr_restored of Algorithm 2 from the
largest severity in at most 10 steps."""


# Options that a run can't go on with otherwise, beside those that the loop knows of.
DEFINING = (
    *(one.name for part in (UNetConfig, DegradationConfig, Crop) for one in dataclasses.fields(part)),
    "validation_resolution",
    "optimizer",
    "pretrained_model_name_or_path",
    "endpoint_data_dir",
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
    data = open_data(config.data, config.training.seed, config.endpoint_data_dir)
    _check_prior(scheduler.degradation, data, config)
    unet = make_unet(config)
    objective = ColdObjective(scheduler)
    networks, optimizers = {"unet": unet}, {"unet": config.optimizer}
    unused = [] if config.pretrained_model_name_or_path is None else list(flatten(UNetConfig()))
    if config.objective.scheduler_name_or_path is not None:
        unused += [one.name for one in dataclasses.fields(DegradationConfig) if one.name != "scheduler_name_or_path"]
    options = {name: value for name, value in flatten(config).items() if name not in unused}
    if dry_run:
        print(to_yaml(options))
        print(step_cost(objective, networks, data, optimizers, config.training))
        return

    output_dir = Path(config.training.output_dir)

    @cache
    def prior() -> GaussianMixturePrior | None:
        return fit_prior(scheduler, data, config) if config.prior_components else None

    def export(averaged: Mapping[str, nn.Module], progress: Progress) -> None:
        exported = copy.deepcopy(averaged["unet"])
        nn.Module.to(exported, getattr(torch, config.training.export_dtype))  # diffusers' own warns about nothing
        pipeline = ColdDiffusionPipeline(unet=exported, scheduler=scheduler, prior=prior())
        card = model_card(
            f"{output_dir.resolve().name}: Cold Diffusion with {scheduler.degradation}",
            pipeline.card_text,
            "Held-out pictures: degraded, the first estimate, restored, as they were",
            FIGURES,
            data,
            to_yaml(options),
            progress,
            training=config.training,
            dataset=config.data.dataset_name,
            base=config.pretrained_model_name_or_path,
        )
        export_pipeline(pipeline, card, progress, output_dir)

    settings = {name: options[name] for name in DEFINING if name in options}
    # What scheduler_name_or_path names may have been changed since.
    settings["scheduler"] = {**scheduler.degradation.to_config(), "eight_bit": scheduler.config.eight_bit}
    train(objective, networks, data, optimizers, config.training, export=export, settings=settings)


def _check_endpoints(degradation: Degradation, folder: str | None) -> None:
    """Raise InvalidInputError if pictures to mix with are needed and not there, or there and not needed."""
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


def _check_prior(degradation: Degradation, data: TrainingData, config: ColdConfig) -> None:
    """Raise InvalidInputError, before the training, for what `fit_prior` would refuse after it."""
    if not config.prior_components:
        return
    if degradation.state_shapes(config.data.channels, 1, 1):
        raise InvalidInputError(
            f"prior_components must be 0: degradation {degradation.kind!r} acts through a state, which a prior doesn't "
            "draw"
        )
    numbers = config.data.channels * config.prior_size**2
    if data.count is not None and min(PRIOR_PICTURES, data.count) <= max(config.prior_components, numbers):
        raise InvalidInputError(
            f"prior_components={config.prior_components} of prior_size={config.prior_size}, which is {numbers} "
            f"numbers, need more than {max(config.prior_components, numbers)} training pictures, got "
            f"{min(PRIOR_PICTURES, data.count)}"
        )
    if find_spec("sklearn") is None:
        raise InvalidInputError("prior_components needs scikit-learn: pip install 'diffusers-restore[train]'")


def fit_prior(scheduler: ColdDiffusionScheduler, data: TrainingData, config: ColdConfig) -> GaussianMixturePrior:
    """The prior of what is left of 10,000 training pictures at T (or of all, if they are fewer).

    Thumbnails are spread the way by which D(x, T) is met best.

    Raises:
        InvalidInputError: more components than the pictures allow.
        ImportError: scikit-learn isn't installed.
    """
    batches = data.batches(batch_size=1, accumulation=1, rank=0, world_size=1, first_step=0)
    count = min(PRIOR_PICTURES, data.count or PRIOR_PICTURES)
    small: list[Tensor] = []
    errors = {"nearest": 0.0, "bilinear": 0.0}
    for _ in range(count):
        (clean,) = next(batches)
        degraded = scheduler.degrade(to_unit(clean), len(scheduler))
        small.append(thumbnails(degraded, (config.prior_size, config.prior_size)))
        for mode in errors:
            spread = functional.interpolate(small[-1], size=degraded.shape[2:], mode=mode)
            errors[mode] += float((spread - degraded).abs().mean())
    upsample = min(errors, key=lambda mode: errors[mode])
    return GaussianMixturePrior.fit(
        torch.cat(small), config.prior_components, seed=config.training.seed, upsample=upsample
    )


def make_scheduler(config: DegradationConfig) -> ColdDiffusionScheduler:
    """The scheduler with the degradation that `config` names.

    Raises:
        InvalidInputError: there is none such, or it doesn't take these arguments.
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
    unet = getattr(load_pipeline("pretrained_model_name_or_path", name), "unet", None)
    check_network(f"pretrained_model_name_or_path: the network of {name!r}", unet)
    return check_unet(unet, name, config.data)
