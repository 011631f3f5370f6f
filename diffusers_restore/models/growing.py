"""Gives a pretrained network more inputs and outputs, so that it starts a new task with what it has learned."""

from __future__ import annotations

from typing import TypeVar

import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d_blocks import (
    AttnSkipDownBlock2D,
    AttnSkipUpBlock2D,
    SkipDownBlock2D,
    SkipUpBlock2D,
)
from torch import nn

from ..errors import InvalidInputError, check_int
from .unet_2d_residual import ResidualUNet2DModel

Grown = TypeVar("Grown", UNet2DModel, ResidualUNet2DModel)


@torch.no_grad()
def grow_unet(unet: Grown, in_channels: int, out_channels: int, *, first_output: int | None = 0) -> Grown:
    """A copy of a network with more channels: conv_in and conv_out are extended by zeros, all else is the same.

    Its old outputs are unchanged, whatever the new inputs are; its new outputs are zero. So a DDPM's network becomes
    one for (I_t, I_in) -> (residual, noise) that already predicts the noise (arXiv:2308.13712).

    Args:
        unet: as it was trained.
        in_channels: at least as many as it has; the new ones come last.
        out_channels: of the result.
        first_output: index of its outputs among the new ones; None makes all of them zero.

    Raises:
        InvalidInputError: fewer channels than there are, an index that its outputs don't fit at, or a network that
            uses its 3 channels beyond conv_in and conv_out, as those of VE processes do.
    """
    if not isinstance(unet, (UNet2DModel, ResidualUNet2DModel)):
        raise InvalidInputError(f"unet must be a UNet2DModel or a ResidualUNet2DModel, got {type(unet).__name__}")
    inputs, outputs = unet.config.in_channels, unet.config.out_channels
    in_channels, out_channels = (
        check_int("in_channels", in_channels, inputs),
        check_int("out_channels", out_channels, 1),
    )
    if first_output is not None:
        check_int("out_channels", out_channels, outputs)
        check_int("first_output", first_output, 0, out_channels - outputs)
    pixels = unet.config.patch_size**2 if isinstance(unet, ResidualUNet2DModel) else 1  # of a patch, next to each other
    for block in (*unet.down_blocks, *unet.up_blocks):
        if isinstance(block, (AttnSkipDownBlock2D, AttnSkipUpBlock2D, SkipDownBlock2D, SkipUpBlock2D)):
            raise InvalidInputError(
                f"unet has a {type(block).__name__}, which takes pictures of 3 channels and no others"
            )
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    with torch.random.fork_rng(devices=[]):  # for weights that are replaced
        grown: Grown = type(unet).from_config({**config, "in_channels": in_channels, "out_channels": out_channels})
    nn.Module.to(grown, unet.device, unet.dtype)  # before loading: float32 would round float64 weights
    weights = dict(unet.state_dict())
    own = grown.state_dict()
    conv_in = torch.zeros_like(own["conv_in.weight"])
    conv_in[:, : inputs * pixels] = weights["conv_in.weight"]
    weights["conv_in.weight"] = conv_in
    for name in ("conv_out.weight", "conv_out.bias"):
        grown_to = torch.zeros_like(own[name])
        if first_output is not None:
            grown_to[first_output * pixels : (first_output + outputs) * pixels] = weights[name]
        weights[name] = grown_to
    grown.load_state_dict(weights)
    return grown.train(unet.training)
