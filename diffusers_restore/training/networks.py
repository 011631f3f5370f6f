"""The network of a run: new, or from another repository."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeVar, cast

import torch
from diffusers import UNet2DModel

from ..errors import InvalidInputError
from ..hub.repositories import check_configs, load_pipeline, refusing
from ..models.unet_2d_residual import ResidualUNet2DModel
from ..pipelines.canvas import size_multiple
from ..pipelines.common import Network
from .config import DataConfig, UNetConfig, check_sizes

Loaded = TypeVar("Loaded")


def new_unet(
    config: UNetConfig, data: DataConfig, seed: int, in_channels: int | None = None, out_channels: int | None = None
) -> Network:
    """A network without attention for the pictures of `data`, whose weights are a function of the seed.

    Args:
        config: its kind and size.
        data: its pictures.
        seed: of its weights.
        in_channels, out_channels: None are those of a picture.
    """
    widths = config.widths
    channels = {"in_channels": in_channels or data.channels, "out_channels": out_channels or data.channels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.network == "residual":
            return ResidualUNet2DModel(
                sample_size=data.resolution,
                block_out_channels=widths,
                layers_per_block=config.layers if len(config.layers) > 1 else config.layers[0],
                dropout=config.dropout,
                **channels,
            )
        return UNet2DModel(
            sample_size=data.resolution,
            block_out_channels=widths,
            layers_per_block=config.layers[0],
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            norm_num_groups=math.gcd(16, *widths),
            dropout=config.dropout,
            add_attention=False,
            **channels,
        )


def load_scheduler(cls: type[Loaded], name: str) -> Loaded:
    """The scheduler of a repository or folder, as the option `scheduler_name_or_path` names it.

    Raises:
        InvalidInputError: it is no such scheduler, or can't be loaded.
    """
    what = f"scheduler_name_or_path {name!r} can't be loaded as {cls.__name__}"
    with refusing(what):
        if Path(name).is_dir():
            check_configs(Path(name), [])
        try:
            return cast(Loaded, cls.from_pretrained(name))  # type: ignore[attr-defined]  # of diffusers' SchedulerMixin
        except InvalidInputError as error:  # of the class itself, which doesn't know the option
            raise InvalidInputError(f"{what}: {error}") from error


def load_network(option: str, cls: type[Loaded], name: str) -> Loaded:
    """The pipeline of a repository or folder: one of diffusers, or of this package.

    Raises:
        InvalidInputError: it can't be loaded; the message names the option.
    """
    try:
        return load_pipeline(cls, name)
    except InvalidInputError as error:
        raise InvalidInputError(f"{option}: {error}") from error


def check_trainable(unet: Network, name: str, data: DataConfig) -> Network:
    """The network of repository `name` in float32, if it can be trained on the pictures of `data`.

    Raises:
        InvalidInputError: it takes another number of channels, or class labels.
    """
    channels = data.channels
    if unet.config.in_channels != channels or unet.config.out_channels != channels:
        raise InvalidInputError(
            f"the network of {name!r} has {unet.config.in_channels} input and "
            f"{unet.config.out_channels} output channels; channels={channels} pictures need {channels} of each"
        )
    return check_unconditional(unet, name, data)


def check_unconditional(unet: Network, name: str, data: DataConfig) -> Network:
    """The network of repository `name` in float32, if it takes pictures of that size and no class labels.

    Raises:
        InvalidInputError: it doesn't.
    """
    if unet.config.num_class_embeds is not None or unet.config.get("class_embed_type") is not None:
        raise InvalidInputError(f"the network of {name!r} is class-conditional; an unconditional one is needed")
    check_sizes(data, size_multiple(unet))
    if isinstance(unet, ResidualUNet2DModel):
        unet.register_to_config(x0_errors=None)  # which other weights make
    if unet.config.sample_size is None:
        unet.register_to_config(sample_size=data.resolution)
    return unet.float()
