"""The U-Net of guided-diffusion (arXiv:2105.05233) and improved-diffusion (arXiv:2102.09672) as a `UNet2DModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor
from torch.nn import functional

from ..errors import InvalidInputError, check_int, unknown_name
from .weights import check_floating, check_names, in_one_precision, weight_of

AttentionOrder = Literal["old", "new"]
ATTENTION_ORDERS: tuple[AttentionOrder, ...] = ("old", "new")

# The image sizes of both codebases, by their default channel multipliers.
IMAGE_SIZES = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}

_LAYER = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(\w+)")
_KINDS = {
    **dict.fromkeys(("in_layers", "emb_layers", "out_layers", "skip_connection"), "res"),
    **dict.fromkeys(("norm", "qkv", "proj_out"), "attention"),
    **dict.fromkeys(("weight", "bias"), "conv"),
    "op": "down",
    "conv": "up",
}
_RES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out"}
_QKV = ("to_q", "to_k", "to_v")
_GROUPS = 32  # of every group norm in both codebases
_LEARNED_ERROR = 1e-6  # of a table of time embeddings, relative


@dataclass(frozen=True)
class _Structure:
    """What the names of the weights show; levels are in the order of the down path."""

    layers: int
    down_attention: tuple[bool, ...]
    up_attention: tuple[bool, ...]
    mid_attention: bool
    down_resnet: bool
    up_resnet: bool

    @property
    def levels(self) -> int:
        return len(self.down_attention)


def convert_guided_diffusion(
    state: Mapping[str, Tensor],
    *,
    num_head_channels: int | None = None,
    num_heads: int | None = None,
    attention_order: AttentionOrder = "old",
    image_size: int | None = None,
    timesteps: int = 1000,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and weights of the `UNet2DModel` that computes the same.

    Whatever names and shapes show is read from them. The qkv weights (3C, C) of an attention layer are ordered
    (heads, 3, C / heads, C) in the old order and (3, heads, C / heads, C) in the new one. Where the first level is
    narrower than the time embedding, as in the 512 px model, the sines of the `timesteps` whole steps become a table
    (`learned_time_embedding`). The weights keep their precision; where there are several, all get the widest.

    Args:
        state: weights by their published names, such as "input_blocks.0.0.weight".
        num_head_channels, num_heads: one of them, as the training had it, if there is attention.
        attention_order: "new" where the training had use_new_attention_order.
        image_size: of the training; None infers it from the channel multipliers that both codebases use.
        timesteps: how many the network is used at; this matters only for a table of them.

    Raises:
        InvalidInputError: weights are missing, surplus or of another shape, `UNet2DModel` can't express the network,
            or an argument doesn't fit it.
    """
    if attention_order not in ATTENTION_ORDERS:
        raise unknown_name("attention_order", attention_order, ATTENTION_ORDERS)
    check_int("timesteps", timesteps, 1)
    check_floating(state)
    structure = _structure(state)
    per_level = [1 + level * (structure.layers + 1) for level in range(structure.levels)]
    channels = [len(weight_of(state, f"input_blocks.{block}.0.out_layers.3.weight")) for block in per_level]
    for width in channels:
        if width % _GROUPS:
            raise InvalidInputError(
                f"a level has {width} channels; group norms of {_GROUPS} groups need a multiple of {_GROUPS}"
            )
    outputs, inputs = len(weight_of(state, "out.2.weight")), weight_of(state, "input_blocks.0.0.weight").shape[1]
    time_dim, sines = weight_of(state, "time_embed.0.weight").shape[:2]
    classes = len(weight_of(state, "label_emb.weight")) if "label_emb.weight" in state else None
    scaled = len(weight_of(state, "input_blocks.1.0.emb_layers.1.weight")) == 2 * channels[0]
    learned = sines != channels[0]
    config: dict[str, Any] = {
        "sample_size": _image_size(image_size, [width / sines for width in channels]),
        "in_channels": inputs,
        "out_channels": outputs,
        "time_embedding_type": "learned" if learned else "positional",
        "time_embedding_dim": time_dim,
        "num_train_timesteps": timesteps if learned else None,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "block_out_channels": channels,
        "layers_per_block": structure.layers,
        "down_block_types": [
            "AttnDownBlock2D" if attention else "ResnetDownsampleBlock2D" if structure.down_resnet else "DownBlock2D"
            for attention in structure.down_attention
        ],
        "up_block_types": [
            "AttnUpBlock2D" if attention else "ResnetUpsampleBlock2D" if structure.up_resnet else "UpBlock2D"
            for attention in reversed(structure.up_attention)
        ],
        "downsample_type": "resnet" if structure.down_resnet else "conv",
        "upsample_type": "resnet" if structure.up_resnet else "conv",
        "attention_head_dim": _head_dim(_attention_widths(structure, channels), num_head_channels, num_heads),
        "add_attention": structure.mid_attention,
        "norm_num_groups": _GROUPS,
        "attn_norm_num_groups": _GROUPS,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if scaled else "default",
        "num_class_embeds": classes,
    }
    if learned:
        table, weight = learned_time_embedding(weight_of(state, "time_embed.0.weight"), channels[0], timesteps)
        made = {"time_proj.weight": table, "time_embedding.linear_1.weight": weight}
    else:
        made = {}
    weights = {**_rename(state, config, _names(structure), set(made), attention_order), **made}
    return config, in_one_precision(weights)


def learned_time_embedding(weight: Tensor, channels: int, timesteps: int) -> tuple[Tensor, Tensor]:
    """A table E (timesteps, channels) and weights V (D, channels) with E V^T = S W^T, to rounding.

    S (timesteps, M) are the cosines and sines of the first `timesteps` whole numbers, W (D, M) the weights that follow
    them. A `UNet2DModel` has as many sines as channels in its first level, but can hold a table instead. Most of the
    sines are so slow that 1000 steps of them span few dimensions: S = S Q Q^T with Q (M, channels), hence
    E = S Q and V = W Q.

    Args:
        weight: W.
        channels: of the first level.
        timesteps: the table covers 0, 1, ... timesteps - 1 only.

    Raises:
        InvalidInputError: too many steps for the number of channels.
    """
    sines = weight.shape[1]
    features = get_timestep_embedding(torch.arange(timesteps), sines, flip_sin_to_cos=True, downscale_freq_shift=0)
    features = features.double()
    basis = torch.linalg.svd(features, full_matrices=False).Vh[:channels].T
    error = float((features - features @ basis @ basis.T).norm(dim=1).max() / features.norm(dim=1).max())
    if error > _LEARNED_ERROR:
        raise InvalidInputError(
            f"time_embed.0.weight expects {sines} sines of the time, where UNet2DModel has as many as channels in its "
            f"first level, {channels}; a table of {timesteps} steps in {channels} channels would be off by {error:.1g}"
        )
    padding = (0, channels - basis.shape[1])
    dtype = torch.promote_types(weight.dtype, torch.float32)  # half precision would add to the error
    table = functional.pad(features @ basis, padding)
    return table.to(dtype), functional.pad(weight.double() @ basis, padding).to(dtype)


def _structure(state: Mapping[str, Tensor]) -> _Structure:
    """Where the residual blocks, the attention layers and the changes of size are.

    Both paths have `layers` + 1 blocks for each level. On the down path the last of them halves the size, in all levels
    but one. On the up path the last of a level doubles it, with one more layer than the others.

    Raises:
        InvalidInputError: an order that `UNet2DModel` doesn't have.
    """
    inputs, outputs = _blocks(state, "input_blocks"), _blocks(state, "output_blocks")
    doubling = [i for i, kinds in enumerate(outputs) if len(kinds) > 1 and kinds[-1] in ("res", "up")]
    size = doubling[0] + 1 if doubling else len(outputs)
    levels = len(outputs) // size
    ends = [(level + 1) * size for level in range(levels)]
    regular = doubling == [end - 1 for end in ends[:-1]] and ends[-1] == len(outputs) == len(inputs)
    if size < 2 or not regular:
        raise InvalidInputError(
            f"there are {len(inputs)} input blocks and {len(outputs)} output blocks, and output blocks "
            f"{', '.join(map(str, doubling)) or 'none'} double the size; UNet2DModel has the same number of residual "
            "blocks in each level, one more on the way up, and changes the size between levels by layers with weights"
        )
    down = [inputs[end] for end in ends[:-1]]
    up = [outputs[end - 1][-1] for end in ends[:-1]]
    for part, kinds in (("input", down), ("output", [(kind,) for kind in up])):
        if len(set(kinds)) > 1 or not set(kinds) <= {("res",), ("down",), ("up",)}:
            raise InvalidInputError(
                f"the {part} blocks that change the size are {', '.join('+'.join(kind) for kind in kinds)}; UNet2DModel"
                " has residual blocks for all of them, or plain convolutions"
            )
    bodies = [kinds[:-1] if i in doubling else kinds for i, kinds in enumerate(outputs)]
    return _Structure(
        layers=size - 1,
        down_attention=tuple(
            _has_attention("input_blocks", end - size + 1, inputs[end - size + 1 : end]) for end in ends
        ),
        up_attention=tuple(_has_attention("output_blocks", end - size, bodies[end - size : end]) for end in ends)[::-1],
        mid_attention=any(key.startswith("middle_block.1.qkv.") for key in state),
        down_resnet=down[:1] == [("res",)],
        up_resnet=up[:1] == ["res"],
    )


def _blocks(state: Mapping[str, Tensor], part: str) -> list[tuple[str, ...]]:
    """The kinds of the layers in each block of a part, such as ("res", "attention")."""
    found: dict[int, dict[int, str]] = {}
    for key in state:
        match = _LAYER.match(key)
        if match and match[1] == part:
            if match[4] not in _KINDS:
                raise InvalidInputError(f"{key} is no weight of a guided-diffusion U-Net")
            found.setdefault(int(match[2]), {})[int(match[3])] = _KINDS[match[4]]
    if not found:
        raise InvalidInputError(f"the checkpoint has no {part}")
    for block in range(max(found) + 1):
        if block not in found:
            raise InvalidInputError(
                f"{part}.{block} has no weights; UNet2DModel changes the size by convolutions or residual blocks only"
            )
        for layer in range(max(found[block]) + 1):
            if layer not in found[block]:
                raise InvalidInputError(f"{part}.{block}.{layer} is missing, while {part}.{block} has later layers")
    return [tuple(found[block][layer] for layer in sorted(found[block])) for block in sorted(found)]


def _has_attention(part: str, first: int, blocks: Sequence[tuple[str, ...]]) -> bool:
    """Whether attention follows the residual blocks of a level, all or none of them."""
    for number, kinds in enumerate(blocks, first):
        if kinds not in (("res",), ("res", "attention")):
            raise InvalidInputError(
                f"{part}.{number} is made of {' + '.join(kinds)}; UNet2DModel has a residual block there, followed by "
                "one attention layer or none"
            )
        if kinds != blocks[0]:
            raise InvalidInputError(
                f"{part}.{first} and {part}.{number} are of one level, and only one of them has attention; UNet2DModel "
                "has it after all residual blocks of a level or after none"
            )
    return len(blocks[0]) > 1


def _image_size(image_size: int | None, multipliers: Sequence[float]) -> int:
    if image_size is None:
        if tuple(multipliers) not in IMAGE_SIZES:
            known = "; ".join(f"{', '.join(f'{m:g}' for m in key)} for {size}" for key, size in IMAGE_SIZES.items())
            raise InvalidInputError(
                f"image_size is needed: the channel multipliers are {', '.join(f'{m:g}' for m in multipliers)}, which "
                f"tell none (known: {known})"
            )
        return IMAGE_SIZES[tuple(multipliers)]
    check_int("image_size", image_size, 1)
    multiple = 2 ** (len(multipliers) - 1)
    if image_size % multiple:
        raise InvalidInputError(f"image_size must be a multiple of {multiple} for this network, got {image_size}")
    return image_size


def _attention_widths(structure: _Structure, channels: Sequence[int]) -> list[int]:
    """The different channel counts of the attention layers."""
    levels = zip(channels, structure.down_attention, structure.up_attention, strict=True)
    widths = {width for width, down, up in levels if down or up}
    return sorted(widths | {channels[-1]} if structure.mid_attention else widths)


def _head_dim(widths: Sequence[int], num_head_channels: int | None, num_heads: int | None) -> int | None:
    """`attention_head_dim`: the channels of each head, one number for all levels; None is one head in each."""
    if num_head_channels is not None and num_heads is not None:
        raise InvalidInputError(
            "num_head_channels and num_heads were both given; where a training had both, num_head_channels counts"
        )
    if not widths:
        return None
    if num_head_channels is None and num_heads is None:
        raise InvalidInputError(
            "num_head_channels or num_heads is needed, which the weights don't tell: num_head_channels is 64 in the "
            "FFHQ model of DPS and in those of arXiv:2105.05233 but the 128 px one; num_heads is 4 where a training "
            "named neither"
        )
    name = "num_heads" if num_head_channels is None else "num_head_channels"
    count = check_int(name, num_heads if num_head_channels is None else num_head_channels, 1)
    for width in widths:
        if width % count:
            raise InvalidInputError(f"{name}={count} doesn't divide the {width} channels of an attention layer")
    if num_head_channels is not None:
        return count
    if count == 1:
        return None
    dims = [width // count for width in widths]
    if len(dims) > 1:
        listed = ", ".join(f"{dim} channels for {width}" for dim, width in zip(dims, widths, strict=True))
        raise InvalidInputError(
            f"num_heads={count} means heads of different width ({listed}); attention_head_dim of UNet2DModel is one "
            "number for all levels, so it can't express this network"
        )
    return dims[0]


def _names(structure: _Structure) -> dict[str, str]:
    """The layers of the `UNet2DModel` and their names in the checkpoint."""
    names = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding": "label_emb",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }

    def res(new: str, old: str) -> None:
        names.update({f"{new}.{ours}": f"{old}.{theirs}" for ours, theirs in _RES.items()})

    def attention(new: str, old: str) -> None:
        names.update({f"{new}.{ours}": f"{old}.{theirs}" for ours, theirs in _ATTENTION.items()})

    size = structure.layers + 1
    for level in range(structure.levels):
        new = f"down_blocks.{level}"
        for layer in range(structure.layers):
            old = f"input_blocks.{level * size + 1 + layer}"
            res(f"{new}.resnets.{layer}", f"{old}.0")
            attention(f"{new}.attentions.{layer}", f"{old}.1")
        old = f"input_blocks.{(level + 1) * size}.0"
        res(f"{new}.downsamplers.0", old)
        names[f"{new}.downsamplers.0.conv"] = f"{old}.op"
    for level, has_attention in enumerate(reversed(structure.up_attention)):
        new = f"up_blocks.{level}"
        for layer in range(size):
            old = f"output_blocks.{level * size + layer}"
            res(f"{new}.resnets.{layer}", f"{old}.0")
            attention(f"{new}.attentions.{layer}", f"{old}.1")
        last = f"output_blocks.{level * size + structure.layers}.{2 if has_attention else 1}"
        res(f"{new}.upsamplers.0", last)
        names[f"{new}.upsamplers.0.conv"] = f"{last}.conv"
    res("mid_block.resnets.0", "middle_block.0")
    attention("mid_block.attentions.0", "middle_block.1")
    res("mid_block.resnets.1", f"middle_block.{2 if structure.mid_attention else 1}")
    return names


def _rename(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    names: Mapping[str, str],
    made: set[str],
    order: AttentionOrder,
) -> dict[str, Tensor]:
    """Every weight of the `UNet2DModel` but those in `made`, after checking that none is missing or surplus."""
    with torch.device("meta"):
        expected = UNet2DModel.from_config(config).state_dict()
    sources = {new: ".".join((names[new.rpartition(".")[0]], new.rpartition(".")[2])) for new in expected.keys() - made}
    check_names(state, {*sources.values(), *(["time_embed.0.weight"] if made else [])}, "UNet2DModel")
    weights: dict[str, Tensor] = {}
    for new, old in sources.items():
        value, shape = state[old], expected[new].shape
        layer = new.rpartition(".")[0].rpartition(".")[2]
        parts = 3 if layer in _QKV else 1
        whole = torch.Size([parts * shape[0], *shape[1:]])
        # The checkpoint has 1 x 1 convolutions for the linear layers of attention.
        if value.shape[: len(whole)] != whole or value.shape[len(whole) :].numel() != 1:
            raise InvalidInputError(
                f"{old} has the shape {tuple(value.shape)}, where UNet2DModel needs {tuple(whole)} for {new}"
            )
        value = value.reshape(whole)
        if parts == 3:
            width = config["attention_head_dim"] or shape[0]
            heads = shape[0] // width
            part = _QKV.index(layer)
            if order == "old":
                value = value.reshape(heads, 3, width, -1)[:, part]
            else:
                value = value.reshape(3, heads, width, -1)[part]
            value = value.reshape(shape).clone()  # not a view: each is stored separately in a file
        weights[new] = value
    return weights
