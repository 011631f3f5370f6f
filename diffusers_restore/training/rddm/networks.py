"""The networks of an RDDM training: new, or extended from those of another repository."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline

from ...errors import InvalidInputError
from ...models.growing import grow_unet
from ...pipelines.common import Network, check_network
from ...pipelines.pipeline_rddm import Inputs, RDDMPipeline
from ...schedulers.scheduling_rddm import RDDMScheduler
from ..networks import check_unconditional, load_network, new_unet
from .config import RDDMConfig


def make_networks(config: RDDMConfig, scheduler: RDDMScheduler, inputs: Inputs) -> dict[str, Network]:
    """The networks to train, new or grown from those of `init_from`.

    Raises:
        InvalidInputError: that repository has no network that can be grown to them.
    """
    channels, heads = config.data.channels, scheduler.heads
    in_channels = channels * (1 + inputs.conditioned) + inputs.masked
    wanted = {"unet": heads[:1], "unet_noise": heads[1:]} if config.objective.two_networks else {"unet": heads}
    if config.init_from is None:
        return {
            name: new_unet(config.network, config.data, config.training.seed + i, in_channels, channels * len(outputs))
            for i, (name, outputs) in enumerate(wanted.items())
        }
    name = config.init_from
    bases = _load_bases(load_network("init_from", DiffusionPipeline, name), name, channels)
    networks = {}
    for part, outputs in wanted.items():
        # The base that has these outputs, which are kept; other outputs start at zero.
        base, base_outputs = next((pair for pair in bases if _find(pair[1], outputs) is not None), bases[0])
        base = check_unconditional(base, name, config.data)
        if base.config.in_channels > in_channels:
            raise InvalidInputError(
                f"init_from: the network of {name!r} is shown {base.config.in_channels} channels (the picture, the "
                f"degraded one, a mask), more than the {in_channels} that there are here"
            )
        first = _find(base_outputs, outputs)
        with torch.random.fork_rng(devices=[]):  # for initial weights that are replaced
            if first is not None and base.config.out_channels != channels * len(base_outputs):
                base = _cut_variance(base, channels * len(base_outputs))
            first_channel = None if first is None else first * channels
            networks[part] = grow_unet(base, in_channels, channels * len(outputs), first_output=first_channel)
    return networks


def _load_bases(pipeline: DiffusionPipeline, name: str, channels: int) -> list[tuple[Network, tuple[str, ...]]]:
    """The networks of a pipeline and the outputs of each, by names that may match no head of RDDM."""
    unet: Any = getattr(pipeline, "unet", None)
    second: Any = getattr(pipeline, "unet_noise", None)
    check_network(f"init_from: the network of {name!r}", unet)
    if isinstance(pipeline, RDDMPipeline):
        heads, base_channels = pipeline.scheduler.heads, pipeline.inputs.channels
    else:
        heads, base_channels = (pipeline.scheduler.config.get("prediction_type"),), unet.config.in_channels
    if base_channels != channels:
        raise InvalidInputError(
            f"init_from: the network of {name!r} is for pictures of {base_channels} channels, not {channels}"
        )
    return [(unet, heads)] if second is None else [(unet, heads[:1]), (second, heads[1:])]


def _cut_variance(unet: Network, out_channels: int) -> Network:
    """The network with its first outputs only."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    cut = type(unet).from_config({**config, "out_channels": out_channels})
    weights = dict(unet.state_dict())
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = weights[name][: len(cut.state_dict()[name])]
    cut.load_state_dict(weights)
    return cut


def _find(part: tuple[str, ...], whole: tuple[str, ...]) -> int | None:
    """The index at which `part` begins in `whole`; None if it isn't in it."""
    for i in range(len(whole) - len(part) + 1):
        if whole[i : i + len(part)] == tuple(part):
            return i
    return None
