"""Giving a pretrained network more inputs and outputs, so that it begins a new task with what it knows."""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from torch import nn

from ..errors import InvalidInputError


@torch.no_grad()
def grow_unet(unet: UNet2DModel, in_channels: int, out_channels: int, *, first_output: int | None = 0) -> UNet2DModel:
    """A copy of a network with more channels: conv_in and conv_out are continued by zeros, all else is the same.

    On its first inputs, whatever the new ones are, it says what it said before; its new outputs are zero. So a DDPM's
    network becomes one for (I_t, I_in) -> (residual, noise) that has the noise already (arXiv:2308.13712).

    Args:
        unet: as it was trained.
        in_channels: at least as many as it has; the new ones come last.
        out_channels: of the result.
        first_output: where its outputs go among the new ones; None makes all of them zero.

    Raises:
        InvalidInputError: fewer channels than there are, or a place that its outputs don't fit into.
    """
    inputs, outputs = unet.config.in_channels, unet.config.out_channels
    if in_channels < inputs:
        raise InvalidInputError(f"in_channels must be {inputs} or more, those of the network, got {in_channels!r}")
    if first_output is not None and not 0 <= first_output <= out_channels - outputs:
        raise InvalidInputError(
            f"first_output must be in 0..{out_channels - outputs}, so that {outputs} outputs fit into {out_channels}, "
            f"got {first_output!r}"
        )
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    grown = UNet2DModel.from_config({**config, "in_channels": in_channels, "out_channels": out_channels})
    weights = dict(unet.state_dict())
    own = grown.state_dict()
    conv_in = torch.zeros_like(own["conv_in.weight"], dtype=unet.dtype)
    conv_in[:, :inputs] = weights["conv_in.weight"]
    weights["conv_in.weight"] = conv_in
    for name in ("conv_out.weight", "conv_out.bias"):
        grown_to = torch.zeros_like(own[name], dtype=unet.dtype)
        if first_output is not None:
            grown_to[first_output : first_output + outputs] = weights[name]
        weights[name] = grown_to
    grown.load_state_dict(weights)
    return nn.Module.to(grown, unet.device, unet.dtype).train(unet.training)
