"""Generators of Pix2pix (arXiv:1611.07004) and CycleGAN (arXiv:1703.10593), by the names of their public PyTorch code.

The names of public weights are the places of their layers in sequences, in which layers without weights count, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import Tensor

from ..errors import InvalidInputError
from ..models.generator_resnet import ResnetGenerator
from ..models.generator_unet import UNetGenerator
from ..pipelines.pipeline_pix2pix import Pix2PixPipeline
from .cards import card_of_conversion, parameters
from .checkpoint_files import load_weights
from .weights import check_floating, check_names, in_one_precision, weight_of

Generator = UNetGenerator | ResnetGenerator

_UNET = re.compile(r"model\.model\.1((?:\.model\.3){0,14})\.model\.\d\.\w+")  # a block in the blocks around it
_BLOCK = re.compile(r"model\.(\d{1,4})\.conv_block\.(\d)\.")
_LAYER = re.compile(r"(?:model|net)\.(\d{1,4})\.weight")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_DROPOUT = 0.5  # in both codebases, where there is any
_FIRST_DOWN, _STEP = 4, 3  # of residual generators: the first halving convolution, and from one to the next


def load_pix2pix(file: str | Path, dropout: float | None = None) -> Pix2PixPipeline:
    """A generator of Pix2pix or CycleGAN as a pipeline, with the same outputs up to rounding.

    Args:
        file: .pt, .pth, .bin, .ckpt or .safetensors; only weights are read, no code is run.
        dropout: as of `convert_pix2pix`.

    Raises:
        InvalidInputError: the file can't be read or converted; the message gives the reason.
    """
    return pipeline_of_pix2pix(load_weights(Path(file), "pix2pix"), dropout=dropout)


def pipeline_of_pix2pix(state: Mapping[str, Tensor], *, dropout: float | None = None) -> Pix2PixPipeline:
    """`load_pix2pix` of weights by their public names.

    Raises:
        InvalidInputError: they can't be converted; the message gives the reason.
    """
    network, config, weights = convert_pix2pix(state, dropout=dropout)
    with torch.device("meta"):
        generator = network(**config)
    generator.load_state_dict(weights, assign=True)
    return Pix2PixPipeline(generator.eval())


def convert_pix2pix(
    state: Mapping[str, Tensor], *, dropout: float | None = None
) -> tuple[type[Generator], dict[str, Any], dict[str, Tensor]]:
    """The class, the configuration and the weights of the generator that computes the same.

    Channels, levels, blocks and norms are read from names and shapes. Batch norm of a single picture, as the original
    runs it, is a norm over that picture with the same weights. Running statistics, which old files have of instance
    norms, too, are left out: the original doesn't use them. The weights keep their precision; where there are several,
    all get the widest.

    Args:
        state: weights by their public names, such as "model.model.0.weight" of a U-Net or "model.1.weight" of a
            generator of residual blocks.
        dropout: share of the activations that are dropped. None is 0.5, and 0 for residual blocks whose names show that
            nothing is. Those of a U-Net don't show it: that of Pix2pix was trained with 0.5, that of CycleGAN with 0.

    Raises:
        InvalidInputError: weights are missing, surplus or of another shape, they are no generator's, or `dropout` is
            out of range or more than 0 where the names show none.
    """
    if any(_UNET.fullmatch(name) for name in state):
        return _converted(state, *_unet(state, dropout))
    if any(_BLOCK.match(name) for name in state):
        return _converted(state, *_resnet(state, dropout))
    if _is_discriminator(state):
        raise InvalidInputError(
            "the weights are those of a discriminator, which judges pictures and makes none; the generator is in "
            "another file, such as latest_net_G.pth"
        )
    raise InvalidInputError(
        "the weights are of no known generator: a U-Net has names such as model.model.1.model.1.weight, one of "
        f"residual blocks such as model.10.conv_block.1.weight; there are: {', '.join(list(state)[:4])}"
    )


def _converted(
    state: Mapping[str, Tensor], network: type[Generator], config: dict[str, Any], layers: Mapping[str, str]
) -> tuple[type[Generator], dict[str, Any], dict[str, Tensor]]:
    """The result of a conversion, where `layers` are the layers of the network and their public names."""
    stale = {f"{public}.{one}" for public in _norms(layers) for one in _STATISTICS}
    given = {name: value for name, value in state.items() if name not in stale}
    check_floating(given)
    with torch.device("meta"):
        expected = network(**config).state_dict()
    sources = {}
    for name in expected:
        layer, _, kind = name.rpartition(".")
        sources[name] = f"{layers[layer]}.{kind}"
    check_names(
        given, sources.values(), f"{network.__name__} with {'batch' if config['norm_affine'] else 'instance'} norms"
    )
    for name, public in sources.items():
        if given[public].shape != expected[name].shape:
            raise InvalidInputError(
                f"{public} has the shape {tuple(given[public].shape)}, where {network.__name__} needs "
                f"{tuple(expected[name].shape)} for {name}"
            )
    return network, config, in_one_precision({name: given[public] for name, public in sources.items()})


def _unet(
    state: Mapping[str, Tensor], dropout: float | None
) -> tuple[type[UNetGenerator], dict[str, Any], dict[str, str]]:
    """The class, the configuration and the layers of a U-Net.

    Each block of the public network holds the next coarser one: as its layer 1 the outermost, as its layer 3 the
    others. Layers without weights count, too: a block is leaky ReLU, convolution, norm, block, ReLU, transposed
    convolution, norm; the outermost has no activation before and no norms, the innermost no block and one norm.
    """
    levels = 2 + max(found[1].count(".model") for name in state if (found := _UNET.fullmatch(name)))
    layers = {"down_convs.0": "model.model.0", "conv_out": "model.model.3"}
    for level in range(1, levels):
        block, innermost = f"model.model.1{'.model.3' * (level - 1)}.model", level == levels - 1
        up = 3 if innermost else 5
        layers[f"down_convs.{level}"] = f"{block}.1"
        if not innermost:
            layers[f"down_norms.{level - 1}"] = f"{block}.2"
        layers |= {f"up_convs.{level - 1}": f"{block}.{up}", f"up_norms.{level - 1}": f"{block}.{up + 1}"}
    widths = [len(weight_of(state, f"{layers[f'down_convs.{level}']}.weight")) for level in range(levels)]
    config = {
        "sample_size": 2**levels,
        "in_channels": weight_of(state, "model.model.0.weight").shape[1],
        "out_channels": weight_of(state, "model.model.3.weight").shape[1],
        "block_out_channels": tuple(widths),
        "dropout": _DROPOUT if dropout is None else dropout,
        "norm_affine": _has_affine_norms(state, layers),
    }
    return UNetGenerator, config, layers


def _resnet(
    state: Mapping[str, Tensor], dropout: float | None
) -> tuple[type[ResnetGenerator], dict[str, Any], dict[str, str]]:
    """The class, the configuration and the layers of a generator of residual blocks.

    The public network is a mirrored border, a convolution, norm and ReLU; three layers for each halving; the blocks;
    three layers for each doubling; and a border and a convolution. A block has a border, a convolution, norm and ReLU,
    dropout if there is any, and the same without ReLU: its second convolution is layer 5 or 6.
    """
    found = [match for name in state if (match := _BLOCK.match(name))]
    places = {int(match[1]) for match in found}
    halvings, rest = divmod(min(places) - _FIRST_DOWN, _STEP)
    if halvings < 0 or rest:
        raise InvalidInputError(
            f"the first residual block is model.{min(places)}; after a convolution and those that halve the picture, "
            f"model.{_FIRST_DOWN}, model.{_FIRST_DOWN + _STEP}, model.{_FIRST_DOWN + 2 * _STEP} or so was expected"
        )
    gaps = sorted(set(range(min(places), min(places) + len(places))) - places)
    if gaps:
        raise InvalidInputError(f"the checkpoint lacks model.{gaps[0]}.conv_block, while later blocks are there")
    drops = not any(match[2] == "5" for match in found)
    if dropout and not drops:
        raise InvalidInputError(
            f"dropout must be 0 for this generator, got {dropout!r}: it was trained without, as conv_block.5 is a "
            "convolution"
        )
    layers = {"conv_in": "model.1", "norm_in": "model.2"}
    ups = _FIRST_DOWN + _STEP * halvings + len(places)
    for level in range(halvings):
        down, up = _FIRST_DOWN + _STEP * level, ups + _STEP * (halvings - 1 - level)
        layers |= {f"down_convs.{level}": f"model.{down}", f"down_norms.{level}": f"model.{down + 1}"}
        layers |= {f"up_convs.{level}": f"model.{up}", f"up_norms.{level}": f"model.{up + 1}"}
    for i in range(len(places)):
        block, second = f"model.{_FIRST_DOWN + _STEP * halvings + i}.conv_block", 6 if drops else 5
        layers |= {f"blocks.{i}.conv1": f"{block}.1", f"blocks.{i}.norm1": f"{block}.2"}
        layers |= {f"blocks.{i}.conv2": f"{block}.{second}", f"blocks.{i}.norm2": f"{block}.{second + 1}"}
    layers["conv_out"] = f"model.{ups + _STEP * halvings + 1}"
    firsts = ["conv_in", *[f"down_convs.{level}" for level in range(halvings)]]
    config = {
        "sample_size": None,  # nothing shows it
        "in_channels": weight_of(state, "model.1.weight").shape[1],
        "out_channels": len(weight_of(state, f"{layers['conv_out']}.weight")),
        "block_out_channels": tuple(len(weight_of(state, f"{layers[first]}.weight")) for first in firsts),
        "num_blocks": len(places),
        "dropout": (_DROPOUT if drops else 0.0) if dropout is None else dropout,
        "norm_affine": _has_affine_norms(state, layers),
    }
    return ResnetGenerator, config, layers


def _norms(layers: Mapping[str, str]) -> list[str]:
    """The public names of the norms."""
    return [public for layer, public in layers.items() if "norm" in layer]


def _has_affine_norms(state: Mapping[str, Tensor], layers: Mapping[str, str]) -> bool:
    """Whether norms have weights: half of them or more do, so that one that is missing or surplus is named as such."""
    norms = _norms(layers)
    return 2 * sum(f"{public}.weight" in state for public in norms) >= len(norms)


def _is_discriminator(state: Mapping[str, Tensor]) -> bool:
    """Whether these are convolutions one after the other, of 4 x 4 or of single pixels, that end in one channel."""
    convs = {int(found[1]): value for name, value in state.items() if (found := _LAYER.fullmatch(name))}
    every = [convs[place] for place in sorted(convs) if convs[place].ndim == 4]
    sizes = {tuple(conv.shape[2:]) for conv in every}
    return sizes in ({(4, 4)}, {(1, 1)}) and len(every[-1]) == 1


def describe_generator(pipe: Pix2PixPipeline) -> dict[str, str]:
    """What was read from a checkpoint and from the options, a line for each heading."""
    network, config = pipe.generator, pipe.generator.config
    levels, multiple = len(config.block_out_channels), network.size_multiple
    drops = len(network.noise_shapes(multiple, multiple))
    kind = (
        f"{config.num_blocks} residual blocks" if isinstance(network, ResnetGenerator) else f"U-Net of {levels} levels"
    )
    norms = "batch norms, over each picture by itself" if config.norm_affine else "instance norms without weights"
    return {
        "parameters": parameters(sum(value.numel() for value in network.parameters()), network.dtype),
        "generator": kind,
        "pictures": f"{config.in_channels} channels to {config.out_channels}, sides in multiples of {multiple}",
        "channels": ", ".join(map(str, config.block_out_channels)),
        "norms": norms,
        "dropout": f"{config.dropout:g}, in {drops} layer{'s' * (drops > 1)}" if drops else "none",
    }


def card_of_generator(pipe: Pix2PixPipeline, file: Path, command: str) -> ModelCard:
    """The card of a converted checkpoint: from which file, by which command, and how to use it.

    Raises:
        OSError: the file can't be read.
    """
    return card_of_conversion(
        file,
        command,
        tags=("image-to-image", "pix2pix"),
        source="Pix2pix\n([arXiv:1611.07004](https://arxiv.org/abs/1611.07004)) or CycleGAN "
        "([arXiv:1703.10593](https://arxiv.org/abs/1703.10593))",
        notes="The generator makes of each picture what the original makes of it in a batch of one, but for rounding.\n"
        "Whether a U-Net drops activations can't be seen in a checkpoint: it is as the command says, or 0.5.",
        found=describe_generator(pipe),
        example="""from diffusers_restore import Pix2PixPipeline

pipe = Pix2PixPipeline.from_pretrained("this folder")
translated = pipe(picture).images[0]""",
    )
