"""The networks of a Pix2pix training: new, or with the generator of another repository."""

from __future__ import annotations

from typing import cast

import torch

from ...errors import InvalidInputError
from ...models.generator_resnet import ResnetGenerator
from ...models.generator_unet import UNetGenerator
from ...models.image_translator import ImageTranslator
from ...models.patch_discriminator import PatchDiscriminator
from ...pipelines.pipeline_pix2pix import Pix2PixPipeline
from ..config import DataConfig, check_sizes
from ..networks import load_network
from .config import GeneratorConfig, Pix2PixConfig, TranslationConfig

UNETS = {"unet_256": (1, 2, 4, 8, 8, 8, 8, 8), "unet_128": (1, 2, 4, 8, 8, 8, 8)}
RESNETS = {"resnet_9": 9, "resnet_6": 6}
DISCRIMINATORS = {"pixel": (1, 2), "16": (1, 2), "70": (1, 2, 4, 8), "286": (1, 2, 4, 8, 8, 8)}
"""Channels after each convolution, over those of the first one."""


def make_generator(config: GeneratorConfig, data: DataConfig, seed: int) -> ImageTranslator:
    """A new generator, whose weights are a function of the seed."""
    common = {
        "sample_size": data.resolution,
        "in_channels": data.channels,
        "out_channels": data.channels,
        "dropout": config.dropout,
    }
    width = config.generator_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.generator in UNETS:
            return UNetGenerator(**common, block_out_channels=tuple(width * one for one in UNETS[config.generator]))
        blocks = RESNETS[config.generator]
        return ResnetGenerator(**common, block_out_channels=(width, 2 * width, 4 * width), num_blocks=blocks)


def make_discriminator(config: TranslationConfig, channels: int, seed: int) -> PatchDiscriminator:
    """A new discriminator of pairs of pictures with so many channels together."""
    widths = tuple(config.discriminator_channels * one for one in DISCRIMINATORS[config.discriminator])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PatchDiscriminator(channels, widths, kernel_size=1 if config.discriminator == "pixel" else 4)


def make_networks(config: Pix2PixConfig) -> dict[str, torch.nn.Module]:
    """The generator and, unless there is no GAN, the discriminator.

    Raises:
        InvalidInputError: `init_from` can't be loaded, or its generator is for other pictures.
    """
    seed = config.training.seed
    if config.init_from is None:
        generator = make_generator(config.network, config.data, seed)
    else:
        pipeline = load_network("init_from", Pix2PixPipeline, config.init_from)
        generator = cast(ImageTranslator, pipeline.generator.float())
        channels = (generator.config.in_channels, generator.config.out_channels)
        if channels != (config.data.channels,) * 2:
            raise InvalidInputError(
                f"init_from: the generator of {config.init_from!r} has {channels[0]} input and {channels[1]} output "
                f"channels; channels={config.data.channels} pictures need {config.data.channels} of each"
            )
        check_sizes(config.data, generator.size_multiple)
    networks: dict[str, torch.nn.Module] = {"generator": generator}
    _check_least("resolution", config.data.resolution, generator.min_size, "the generator")
    if config.data.validation_resolution is not None:
        _check_least("validation_resolution", config.data.validation_resolution, generator.min_size, "the generator")
    if config.objective.gan_loss != "none":
        discriminator = make_discriminator(config.objective, 2 * config.data.channels, seed + 1)
        what = f"discriminator {config.objective.discriminator}"
        _check_least("resolution", config.data.resolution, discriminator.min_size, what)
        networks["discriminator"] = discriminator
    return networks


def _check_least(option: str, size: int, least: int, what: str) -> None:
    if size < least:
        raise InvalidInputError(f"{option} must be {least} or more for {what}, got {size}")
