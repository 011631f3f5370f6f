"""The networks of "Bringing Old Photos Back to Life" (arXiv:2004.09484), by the names of their released weights.

The names are the places of layers in sequences, in which layers without weights count, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..models.old_photo_mapping import OldPhotoMapping
from ..models.old_photo_vae import OldPhotoVAE
from ..models.scratch_detector import ScratchDetector
from .weights import check_floating, check_names, in_one_precision, weight_of

Network = OldPhotoVAE | OldPhotoMapping | ScratchDetector

_BLOCK = {"conv1": "conv_block.1", "conv2": "conv_block.5"}  # of a residual block
_STEP = 3  # convolution, norm, activation
_COUNTER = "num_batches_tracked"
_BLUR = "4.filt"  # of each halving of the detector, the same in all


def convert_old_photo(state: Mapping[str, Tensor]) -> Network:
    """The network that computes what the released one does, on its own weights.

    Which one it is, its channels and its blocks are read from names and shapes. Running means are those of the
    detector's batch norms, which it uses; its blur has no weights here.

    Args:
        state: weights by their released names.

    Raises:
        InvalidInputError: they are no such network's, or weights are missing, surplus or of another shape.
    """
    if "encoder.1.weight" in state:
        return _made(state, OldPhotoVAE, *_vae(state))
    if "model.0.weight" in state and "model.12.conv_block.1.weight" in state:
        return _made(state, OldPhotoMapping, *_mapping(state, "none"))
    if "NL.theta.weight" in state:
        return _made(state, OldPhotoMapping, *_mapping(state, "partial"))
    if "NL_scale_1.F_Combine.weight" in state:
        return _made(state, OldPhotoMapping, *_mapping(state, "patch"))
    if "first.1.weight" in state:
        return _made(_without_blur(state), ScratchDetector, *_detector(state))
    raise InvalidInputError(
        "the weights are of no network of Bringing Old Photos Back to Life: an autoencoder has encoder.1.weight, a "
        "mapping model.0.weight, NL.theta.weight or NL_scale_1.F_Combine.weight, the detector first.1.weight; there "
        f"are: {', '.join(list(state)[:4])}"
    )


def _made(
    state: Mapping[str, Tensor], kind: Callable[..., Any], config: dict[str, Any], layers: Mapping[str, str]
) -> Network:
    """The network of this configuration, whose `layers` have these released names."""
    with torch.device("meta"):
        network: Any = kind(**config)
    sources = {}
    for name in network.state_dict():
        layer, _, weight = name.rpartition(".")
        sources[name] = f"{layers[layer]}.{weight}"
    check_names(state, sources.values(), type(network).__name__)
    check_floating({name: value for name, value in state.items() if not name.endswith(_COUNTER)})
    for name, expected in network.state_dict().items():
        given = state[sources[name]]
        if given.shape != expected.shape:
            raise InvalidInputError(
                f"{sources[name]} has the shape {tuple(given.shape)}, where {type(network).__name__} needs "
                f"{tuple(expected.shape)} for {name}"
            )
    counters = {name: state[source] for name, source in sources.items() if name.endswith(_COUNTER)}
    weights = in_one_precision({name: state[source] for name, source in sources.items() if name not in counters})
    network.load_state_dict({**weights, **counters}, assign=True)
    made: Network = network.eval()
    return made


def _vae(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, str]]:
    halvings = sum(f"encoder.{place}.weight" in state for place in range(4, 1 + _STEP * 8, _STEP))
    first = 4 + _STEP * halvings
    blocks = _count(state, r"encoder\.(\d+)\.conv_block\.1\.weight")
    layers = {"conv_in": "encoder.1"}
    for level in range(halvings):
        layers[f"down_convs.{level}"] = f"encoder.{4 + _STEP * level}"
        layers[f"up_convs.{level}"] = f"decoder.{blocks + _STEP * (halvings - 1 - level)}"
    for i in range(blocks):
        layers |= _block(f"encoder_blocks.{i}", f"encoder.{first + i}")
        layers |= _block(f"decoder_blocks.{i}", f"decoder.{i}")
    layers["conv_out"] = f"decoder.{blocks + _STEP * halvings + 1}"
    convs = ["encoder.1", *(f"encoder.{4 + _STEP * level}" for level in range(halvings))]
    config = {
        "in_channels": weight_of(state, "encoder.1.weight").shape[1],
        "block_out_channels": tuple(len(weight_of(state, f"{conv}.weight")) for conv in convs),
        "num_blocks": blocks,
    }
    return config, layers


def _mapping(state: Mapping[str, Tensor], attention: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration and the layers of a mapping: before, in and after its attention, if it has one."""
    before, after = ("model", "model") if attention == "none" else ("before_NL", "after_NL")
    widths = 0
    while f"{before}.{_STEP * widths}.weight" in state:
        widths += 1
    layers = {f"in_convs.{i}": f"{before}.{_STEP * i}" for i in range(widths)}
    names: list[str] = []
    if attention == "none":
        count = _count(state, r"model\.(\d+)\.conv_block\.1\.weight")
        names = [f"model.{_STEP * widths + i}" for i in range(count)]
        # Convolutions before the blocks were counted alone: those after them begin behind the blocks.
        last = _STEP * widths + count
    elif attention == "partial":
        count = last = _count(state, r"after_NL\.(\d+)\.conv_block\.1\.weight")
        names = [f"after_NL.{i}" for i in range(count)]
        ours = {"to_q": "theta", "to_k": "phi", "to_v": "g", "to_out": "W"}
        layers |= {f"partial_block.{name}": f"NL.{theirs}" for name, theirs in ours.items()}
        for i in range(3):
            layers |= _block(f"partial_block.blocks.{i}", f"NL.res_block.{i}")
    else:
        names = [f"before_NL.{_STEP * widths + i}" for i in range(2)]
        names += [f"res_block_{stage}.{i}" for stage in (1, 2) for i in range(2)] + ["after_NL.0", "after_NL.1"]
        last, count = 2, 6
        for i in range(3):
            layers[f"patch_attentions.{i}.conv"] = f"NL_scale_{i + 1}.F_Combine"
            layers |= _block(f"patch_attentions.{i}.block", f"NL_scale_{i + 1}.res_block.0")
    for i, name in enumerate(names):
        layers |= _block(f"blocks.{i}", name)
    layers |= {f"out_convs.{i}": f"{after}.{last + _STEP * i}" for i in range(widths)}
    config = {
        "latent_channels": weight_of(state, f"{before}.0.weight").shape[1],
        "block_out_channels": tuple(len(weight_of(state, f"{before}.{_STEP * i}.weight")) for i in range(widths)),
        "num_blocks": count,
        "attention": attention,
    }
    return config, layers


def _detector(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, str]]:
    levels = _count(state, r"down_path\.(\d+)\.block\.1\.weight")
    layers = {"conv_in": "first.1", "conv_out": "last.1"}
    for level in range(levels):
        up = levels - 1 - level
        layers |= {f"downsamplers.{level}.conv": f"down_sample.{level}.1"}
        layers |= {f"downsamplers.{level}.norm": f"down_sample.{level}.2"}
        layers |= {f"upsamplers.{level}": f"up_path.{up}.up.2"}
        for i, place in enumerate((1, 5)):
            for ours, theirs in (("conv", place), ("norm", place + 1)):
                layers[f"down_blocks.{level}.{i}.{ours}"] = f"down_path.{level}.block.{theirs}"
                layers[f"up_blocks.{level}.{i}.{ours}"] = f"up_path.{up}.conv_block.block.{theirs}"
    names = ["first.1", *(f"down_path.{level}.block.1" for level in range(levels))]
    return {"block_out_channels": tuple(len(weight_of(state, f"{name}.weight")) for name in names)}, layers


def _without_blur(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the blurs of the detector's halvings, if they are the one that it has here."""
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    for name, value in state.items():
        if name.endswith(_BLUR) and not (
            value.shape[1:] == (1, 3, 3) and torch.allclose(value.float(), (taps[:, None] * taps).expand(value.shape))
        ):
            raise InvalidInputError(f"{name} is another blur than [1, 2, 1] / 4 in both directions")
    return {name: value for name, value in state.items() if not name.endswith(_BLUR)}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def _block(name: str, released: str) -> dict[str, str]:
    return {f"{name}.{ours}": f"{released}.{theirs}" for ours, theirs in _BLOCK.items()}
