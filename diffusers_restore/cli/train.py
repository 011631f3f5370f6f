"""`diffusers-restore train`."""

from __future__ import annotations

import click

from ..training.cold.config import ColdConfig
from ..training.prior.config import PriorConfig
from ..training.rddm.config import RDDMConfig
from .config_command import config_command

train_prior = config_command(
    "prior",
    PriorConfig,
    "diffusers_restore.training.prior:train_prior",
    """Train an unconditional diffusion prior on pictures.

    \b
    diffusers-restore train prior --train_data_dir photos --output_dir prior
    diffusers-restore train prior --config recipe.yaml --train_data_dir photos --dry_run
    torchrun --nproc_per_node 8 -m diffusers_restore train prior --train_data_dir photos

    OUTPUT_DIR becomes a diffusers repository, which DDPMPipeline and DDRMPipeline load, with a model card; checkpoints,
    samples/ and logs/ lie beside it. A run that was stopped goes on with --resume_from_checkpoint latest and ends as if
    it had never been.
    """,
)

train_cold = config_command(
    "cold",
    ColdConfig,
    "diffusers_restore.training.cold:train_cold",
    """Train a Cold Diffusion restorer: a network that undoes a degradation of any severity.

    \b
    diffusers-restore train cold --degradation blur --degradation_args "{taps: 11, std: 7}" --train_data_dir photos
    diffusers-restore train cold --scheduler_name_or_path schedulers/cold-mnist-deblur --train_data_dir mnist --dry_run
    torchrun --nproc_per_node 8 -m diffusers_restore train cold --degradation snow --train_data_dir photos

    OUTPUT_DIR becomes a repository that ColdDiffusionPipeline loads, with a model card; checkpoints, samples/ and logs/
    lie beside it. A run that was stopped goes on with --resume_from_checkpoint latest and ends as if it had never been.
    """,
)

train_rddm = config_command(
    "rddm",
    RDDMConfig,
    "diffusers_restore.training.rddm:train_rddm",
    """Train an RDDM restorer: a network that takes the residual and the noise from degraded pictures in a few steps.

    \b
    diffusers-restore train rddm --recipe blind --train_data_dir photos --output_dir blind
    diffusers-restore train rddm --degraded_data_dir rain --train_data_dir clean --noise_scale 0.01
    diffusers-restore train rddm --task sr4 --train_data_dir photos --init_from google/ddpm-ema-bedroom-256 --dry_run
    torchrun --nproc_per_node 8 -m diffusers_restore train rddm --recipe real_esrgan --train_data_dir photos

    OUTPUT_DIR becomes a repository that RDDMPipeline loads, with a model card; checkpoints, samples/ and logs/ lie
    beside it. A run that was stopped goes on with --resume_from_checkpoint latest and ends as if it had never been.
    """,
)


@click.group()
def train() -> None:
    """Train the networks of this package.

    The options are those of diffusers' training scripts. For several GPUs, use `accelerate launch`.
    """


train.add_command(train_prior)
train.add_command(train_cold)
train.add_command(train_rddm)
