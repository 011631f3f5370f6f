"""`diffusers-restore train`."""

from __future__ import annotations

import click

from ..training.cold.config import ColdConfig
from ..training.old_photo.config import AutoencoderConfig, DetectorConfig, MappingConfig
from ..training.pix2pix.config import Pix2PixConfig
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


train_pix2pix = config_command(
    "pix2pix",
    Pix2PixConfig,
    "diffusers_restore.training.pix2pix:train_pix2pix",
    """Train a Pix2pix generator: a network that makes pictures of one kind from pictures of another, in one step.

    \b
    diffusers-restore train pix2pix --train_data_dir facades/train --clean_side left --output_dir facade_photos
    diffusers-restore train pix2pix --degraded_data_dir maps --train_data_dir aerial --output_dir aerial_of_maps
    diffusers-restore train pix2pix --task colorize --train_data_dir photos --output_dir colours --dry_run
    torchrun --nproc_per_node 8 -m diffusers_restore train pix2pix --train_data_dir facades/train --clean_side left

    The clean pictures are those that it learns to make, the degraded ones those that it is given. OUTPUT_DIR becomes a
    repository that Pix2PixPipeline loads, with a model card; checkpoints, samples/ and logs/ lie beside it. A run that
    was stopped goes on with --resume_from_checkpoint latest and ends as if it had never been.
    """,
)


train_old_photo_detector = config_command(
    "old-photo-detector",
    DetectorConfig,
    "diffusers_restore.training.old_photo:train_old_photo_detector",
    """Train a detector of scratches in photographs, on photographs that are damaged while training.

    \b
    diffusers-restore train old-photo-detector --train_data_dir photos --resolution 128 --output_dir detector
    diffusers-restore train old-photo-detector --recipe old_photos --recipe_args "{scratches: true}" \\
        --train_data_dir photos --block_out_channels 16,32,64 --dry_run

    OUTPUT_DIR becomes a repository that ScratchDetectionPipeline loads, with a model card; checkpoints, samples/ and
    logs/ lie beside it. A run that was stopped goes on with --resume_from_checkpoint latest and ends as if it had never
    been.
    """,
)


train_old_photo_vae = config_command(
    "old-photo-vae",
    AutoencoderConfig,
    "diffusers_restore.training.old_photo:train_old_photo_vae",
    """Train an autoencoder of photographs, clean or damaged: the first step to a restorer of old photographs.

    \b
    diffusers-restore train old-photo-vae --train_data_dir photos --resolution 128 --output_dir vae_clean
    diffusers-restore train old-photo-vae --train_data_dir photos --recipe old_photo_full --real_data_dir scans \\
        --resolution 128 --output_dir vae_degraded

    OUTPUT_DIR then holds the network, which OldPhotoVAE loads, with a model card; checkpoints, samples/ and logs/ lie
    beside it. A run that was stopped goes on with --resume_from_checkpoint latest and ends as if it had never been.
    """,
)

train_old_photo_mapping = config_command(
    "old-photo-mapping",
    MappingConfig,
    "diffusers_restore.training.old_photo:train_old_photo_mapping",
    """Train a restorer of old photographs: the mapping between two autoencoders, which stay as they are.

    \b
    diffusers-restore train old-photo-mapping --train_data_dir photos --vae_degraded vae_degraded \\
        --vae_clean vae_clean --output_dir quality
    diffusers-restore train old-photo-mapping --train_data_dir photos --vae_degraded vae_degraded \\
        --vae_clean vae_clean --attention partial --scratch_detector detector --output_dir scratches

    OUTPUT_DIR becomes a repository that OldPhotoPipeline loads, with a model card; checkpoints, samples/ and logs/ lie
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
train.add_command(train_pix2pix)
train.add_command(train_old_photo_detector)
train.add_command(train_old_photo_vae)
train.add_command(train_old_photo_mapping)
