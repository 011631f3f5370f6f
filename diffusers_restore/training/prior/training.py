"""Training a DDPM prior: a plain diffusers repository that `DDPMPipeline` and `DDRMPipeline` load."""

from __future__ import annotations

from typing import Any, cast

from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline

from ...hub.cards import CardText
from ...models.unet_2d_residual import ResidualUNet2DModel
from ...pipelines.common import Network, check_network
from ...schedulers.prediction import check_variance_preserving
from ..config import CropConfig, UNetConfig, flatten
from ..data import open_data, to_unit
from ..networks import check_trainable, load_network, new_unet
from ..objectives import x0_errors
from ..running import RESTORE, SAMPLE, Run, choose, defining, start, used_options
from .config import DDPMConfig, PriorConfig
from .objective import DDPMObjective

CARD = CardText(
    "An unconditional DDPM. `DDPMPipeline` draws pictures from it, and `DDRMPipeline` restores with it what was made "
    "smaller, blurred, drained of colour, covered by a mask or drowned in noise (arXiv:2201.11793).",
    """\
from diffusers import DDPMPipeline
from diffusers_restore import DDRMPipeline
from PIL import Image

new = DDPMPipeline.from_pretrained("{repo_id}")(batch_size=4).images
pipe = DDRMPipeline.from_pretrained("{repo_id}")
restored = pipe(Image.open("photo.png"), operator="denoise", sigma_y=0.1).images[0]""",
    ("unconditional-image-generation", "image-restoration", "ddpm"),
)
FIGURES = """\
psnr_15, psnr_25 and psnr_50 are PSNRs in dB of a one-step denoising at noise of 15, 25 and 50 grey levels (of 255)."""

DEFINING = defining(UNetConfig, DDPMConfig, CropConfig, more=["pretrained_model_name_or_path"])
# Options that are ignored where a run starts from a repository, which sets them.
LOADED = (*flatten(UNetConfig()), "prediction_type", "beta_schedule", "num_train_timesteps")


def train_prior(config: PriorConfig, *, dry_run: bool = False) -> None:
    """Train a prior as `config` says; `config.training.output_dir` is then a diffusers repository.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written.

    Raises:
        InvalidInputError: what the configuration names can't be used.
    """
    unet, scheduler = make_prior(config)
    data = open_data(config.data, config.training.seed)
    objective = DDPMObjective(
        scheduler,
        timestep_sampling=config.objective.timestep_sampling,
        snr_gamma=config.objective.snr_gamma,
        noise_offset=config.objective.noise_offset,
    )
    base = config.pretrained_model_name_or_path
    options = used_options(config, () if base is None else LOADED)

    def make_pipeline(networks: dict[str, Any]) -> tuple[DiffusionPipeline, CardText]:
        exported = networks["unet"]
        if isinstance(exported, ResidualUNet2DModel) and data.validation:
            device = next(exported.parameters()).device
            pictures = [to_unit(clean[None].to(device)) for (clean,) in data.validation]
            exported.register_to_config(x0_errors=x0_errors(exported, scheduler, pictures))
        return DDPMPipeline(unet=exported, scheduler=scheduler), CARD

    run = Run(
        objective,
        {"unet": unet},
        data,
        {"unet": config.optimizer},
        options,
        choose(options, DEFINING),
        make_pipeline,
        title="a DDPM prior",
        shown="Pictures that the network drew",
        figures=FIGURES,
        base=base,
        tries=(f"{RESTORE} --task denoise --sigma-y 0.1", SAMPLE),
    )
    start(run, config, dry_run=dry_run)


def make_prior(config: PriorConfig) -> tuple[Network, DDPMScheduler]:
    """The network and the noise schedule to train, new or those of `pretrained_model_name_or_path`.

    Raises:
        InvalidInputError: that repository is no unconditional DDPM, or has another number of channels.
    """
    if config.pretrained_model_name_or_path is not None:
        name = config.pretrained_model_name_or_path
        pipeline: Any = load_network("pretrained_model_name_or_path", DDPMPipeline, name)
        check_variance_preserving(pipeline.scheduler.config)
        check_network(f"the network of {name!r}", pipeline.unet)
        unet = check_trainable(pipeline.unet, name, config.data)
        return unet, cast(DDPMScheduler, DDPMScheduler.from_config(pipeline.scheduler.config))
    unet = new_unet(config.network, config.data, config.training.seed)
    scheduler = DDPMScheduler(
        num_train_timesteps=config.objective.num_train_timesteps,
        beta_schedule=config.objective.beta_schedule,
        prediction_type=config.objective.prediction_type,
    )
    return unet, scheduler
