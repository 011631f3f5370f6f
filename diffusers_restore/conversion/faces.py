"""The face network of "Bringing Old Photos Back to Life" (arXiv:2004.09484), by the names of its released weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..models.face_enhancer import FaceEnhancer
from .weights import check_floating, check_names, in_one_precision, weight_of

_BLOCKS = {
    "head_block": "head_0",
    "middle_blocks.0": "G_middle_0",
    "middle_blocks.1": "G_middle_1",
    "up_blocks.0": "up_0",
    "up_blocks.1": "up_1",
    "up_blocks.2": "up_2",
    "up_blocks.3": "up_3",
}
_CONVS = {"conv1": "conv_0", "conv2": "conv_1", "conv_shortcut": "conv_s"}  # of a block, with spectral norms
_NORMS = {"norm1": "norm_0", "norm2": "norm_1", "norm_shortcut": "norm_s"}  # of a block
_PARTS = {"norm": "param_free_norm", "conv_in": "mlp_shared.0", "conv_scale": "mlp_gamma", "conv_shift": "mlp_beta"}

_SPECTRAL = {f"{block}.{conv}": f"{of}.{name}" for block, of in _BLOCKS.items() for conv, name in _CONVS.items()}
_PLAIN = {"conv_in": "fc", "conv_out": "conv_img"} | {
    f"{block}.{norm}.{part}": f"{of}.{of_norm}.{name}"
    for block, of in _BLOCKS.items()
    for norm, of_norm in _NORMS.items()
    for part, name in _PARTS.items()
}
_COUNTER = "num_batches_tracked"


def convert_face_enhancer(state: Mapping[str, Tensor], sample_size: int = 256) -> FaceEnhancer:
    """The network that computes what the released one does in evaluation, on its own weights.

    Spectral norms go into the weights: weight / sigma with sigma = u^T weight v (arXiv:1802.05957). Channels are read
    from the shapes. How many batches a norm has seen changes nothing, and may be left out.

    Args:
        state: weights by their released names.
        sample_size: side of the faces that it was trained on, in pixels, which the weights don't tell.

    Raises:
        InvalidInputError: weights are missing, surplus or of another shape, or a sigma isn't finite or is 0.
    """
    with torch.device("meta"):
        network = FaceEnhancer(sample_size=sample_size, **_channels(state))
    empty = network.state_dict()
    sources = {name: _released(name) for name in empty}
    shapes = {sources[name]: tuple(value.shape) for name, value in empty.items()}
    for name in [name for name in shapes if name.endswith(".weight_orig")]:
        rows, *columns = shapes[name]
        shapes |= {_vector(name, "u"): (rows,), _vector(name, "v"): (int(torch.Size(columns).numel()),)}
    counted = {name: torch.tensor(0) for name in shapes if name.endswith(_COUNTER)}
    given = counted | dict(state)
    check_names(given, shapes, FaceEnhancer.__name__)
    for name, shape in shapes.items():
        if given[name].shape != shape:
            raise InvalidInputError(
                f"{name} has the shape {tuple(given[name].shape)}, where {FaceEnhancer.__name__} needs {shape}"
            )
    floats = {name: value for name, value in given.items() if name not in counted}
    check_floating(floats)
    weights = in_one_precision(floats)
    baked = {name: _baked(weights, name) for name in weights if name.endswith(".weight_orig")}
    ready = weights | baked | {name: given[name] for name in counted}
    network.load_state_dict({name: ready[source] for name, source in sources.items()}, assign=True)
    return network.eval()


def _channels(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The channels of the network, from the shapes of its weights."""
    widest_last = ["up_3.conv_1.weight_orig", "up_2.conv_1.weight_orig", "up_1.conv_1.weight_orig"]
    widest_last += ["up_0.conv_1.weight_orig", "fc.weight"]
    return {
        "block_out_channels": tuple(len(weight_of(state, name)) for name in widest_last),
        "hidden_channels": len(weight_of(state, "head_0.norm_0.mlp_shared.0.weight")),
    }


def _released(name: str) -> str:
    """The released name of what stands for a weight."""
    layer, _, weight = name.rpartition(".")
    if layer in _SPECTRAL:
        return f"{_SPECTRAL[layer]}.{'weight_orig' if weight == 'weight' else weight}"
    return f"{_PLAIN[layer]}.{weight}"


def _vector(weight: str, which: str) -> str:
    return f"{weight.removesuffix('_orig')}_{which}"


def _baked(weights: Mapping[str, Tensor], name: str) -> Tensor:
    """The weight that a spectral norm makes of `name` in evaluation, to the bit from single precision on."""
    weight, u, v = (weights[one] for one in (name, _vector(name, "u"), _vector(name, "v")))
    exact = torch.promote_types(weight.dtype, torch.float32)
    weight, u, v = weight.to(exact), u.to(exact), v.to(exact)
    sigma = torch.dot(u, torch.mv(weight.flatten(1), v))
    if not bool(sigma.isfinite()) or not bool(sigma):
        raise InvalidInputError(
            f"{name} has the spectral norm {float(sigma):g}; a finite one other than 0 was expected"
        )
    return (weight / sigma).to(weights[name].dtype)
