"""The networks of "Bringing Old Photos Back to Life" (arXiv:2004.09484), by the names of their released weights.

The names are the places of layers in sequences, in which layers without weights count, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from huggingface_hub import ModelCard
from torch import Tensor

from ..errors import InvalidInputError, one_line, unknown_name
from ..models.face_enhancer import FaceEnhancer
from ..models.old_photo_mapping import OldPhotoMapping
from ..models.old_photo_vae import OldPhotoVAE
from ..models.scratch_detector import ScratchDetector
from ..pipelines.pipeline_old_photo import OldPhotoPipeline
from .cards import card_of_conversion, parameters
from .checkpoint_files import load_weights
from .faces import convert_face_enhancer
from .weights import check_floating, check_names, in_one_precision, weight_of

Network = OldPhotoVAE | OldPhotoMapping | ScratchDetector
Kind = TypeVar("Kind", OldPhotoVAE, OldPhotoMapping, ScratchDetector, FaceEnhancer)

Route = Literal["quality", "scratch", "scratch-hr"]
ROUTES: tuple[Route, ...] = get_args(Route)
"""Without scratches, with them, and with them in large pictures."""

# The folder and the attention of a mapping, and the folder of the autoencoder of clean photographs.
_OF_ROUTES: dict[Route, tuple[str, str, str]] = {
    "quality": ("mapping_quality", "none", "VAE_B_quality"),
    "scratch": ("mapping_scratch", "partial", "VAE_B_scratch"),
    "scratch-hr": ("mapping_Patch_Attention", "patch", "VAE_B_scratch"),
}
_DETECTOR = Path("detection", "FT_Epoch_latest.pt")
_GLOBAL = Path("Global", "checkpoints")  # of the published repository
# Its folders of face networks, and the sides of the faces that they were trained on.
_FACES: dict[Route, tuple[str, int]] = {
    "quality": ("Setting_9_epoch_100", 256),
    "scratch": ("Setting_9_epoch_100", 256),
    "scratch-hr": ("FaceSR_512", 512),
}

_BLOCK = {"conv1": "conv_block.1", "conv2": "conv_block.5"}  # of a residual block
_STEP = 3  # convolution, norm, activation
_COUNTER = "num_batches_tracked"
_BLUR = "4.filt"  # of each halving of the detector, the same in all


def load_old_photos(folder: str | Path, route: Route = "quality") -> OldPhotoPipeline:
    """The published networks as a pipeline, with the same outputs up to rounding.

    Args:
        folder: `checkpoints`, with `restoration/VAE_A_quality/latest_net_G.pth` and so on; or the folder of the
            published code, with `Global/checkpoints` and, for the network of faces, if it is there,
            `Face_Enhancement/checkpoints/*/latest_net_G.pth`. Only weights are read, no code is run.
        route: "quality" for photographs without scratches, "scratch" for those with, "scratch-hr" for large ones. The
            latter two are given the detector `detection/FT_Epoch_latest.pt`, if it is there.

    Raises:
        InvalidInputError: a file is absent, or can't be read or converted; the message gives the reason.
        UnknownNameError: another route.
    """
    files, folder = files_of_route(folder, route), Path(folder)
    attention = _OF_ROUTES[route][1]
    mapping = _load(files["mapping"], folder, OldPhotoMapping)
    if mapping.config.attention != attention:
        raise InvalidInputError(
            f"{files['mapping'].relative_to(folder)} is a mapping with attention {mapping.config.attention!r}; the "
            f"route {route!r} has {attention!r}"
        )
    detector = _load(files["detector"], folder, ScratchDetector) if "detector" in files else None
    vaes = [_load(files[name], folder, OldPhotoVAE) for name in ("vae_degraded", "vae_clean")]
    faces = None
    if "face_enhancer" in files:
        size = _FACES[route][1]
        faces = _load(files["face_enhancer"], folder, FaceEnhancer, lambda state: convert_face_enhancer(state, size))
    return OldPhotoPipeline(vaes[0], mapping, vaes[1], detector, faces)


def files_of_route(folder: str | Path, route: Route) -> dict[str, Path]:
    """The files of the networks that a route needs, by the names of the components.

    Those of the detector and of the network of faces are left out if they aren't there.

    Raises:
        InvalidInputError: a file is absent.
        UnknownNameError: another route.
    """
    folder = Path(folder)
    if route not in ROUTES:
        raise unknown_name("route", route, ROUTES)
    if not folder.is_dir():
        raise InvalidInputError(f"there is no folder {str(folder)!r}")
    mapping, attention, clean = _OF_ROUTES[route]
    whole = folder / _GLOBAL if (folder / _GLOBAL).is_dir() else folder
    files = {
        "vae_degraded": whole / "restoration" / "VAE_A_quality" / "latest_net_G.pth",
        "mapping": whole / "restoration" / mapping / "latest_net_mapping_net.pth",
        "vae_clean": whole / "restoration" / clean / "latest_net_G.pth",
    }
    missing = [file.relative_to(folder).as_posix() for file in files.values() if not file.is_file()]
    if missing:
        raise InvalidInputError(
            f"there is no {', no '.join(missing)} in {str(folder)!r}, which the route {route!r} needs; the folder is "
            "`checkpoints`, as the published archives unpack it"
        )
    if attention != "none" and (whole / _DETECTOR).is_file():
        files["detector"] = whole / _DETECTOR
    faces = folder / "Face_Enhancement" / "checkpoints" / _FACES[route][0] / "latest_net_G.pth"
    if faces.is_file():
        files["face_enhancer"] = faces
    return files


def _load(
    file: Path, folder: Path, kind: type[Kind], convert: Callable[[Mapping[str, Tensor]], Any] | None = None
) -> Kind:
    """The network in a file.

    Raises:
        InvalidInputError: it is another, or can't be read or converted.
    """
    name = file.relative_to(folder).as_posix()
    try:
        network = (convert or convert_old_photo)(load_weights(file, "old-photos"))
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {one_line(error)}") from error
    if not isinstance(network, kind):
        raise InvalidInputError(f"{name} holds an {type(network).__name__}; an {kind.__name__} was expected")
    return network


def describe_old_photos(pipe: OldPhotoPipeline) -> dict[str, str]:
    """What was read from the checkpoints, a line for each heading."""
    mapping, vae, detector = pipe.mapping, pipe.vae_degraded, pipe.scratch_detector
    there = (pipe.vae_degraded, mapping, pipe.vae_clean, detector, pipe.face_enhancer)
    count = sum(value.numel() for network in there if network is not None for value in network.parameters())
    multiple = vae.size_multiple * mapping.size_multiple
    found = {
        "parameters": parameters(count, vae.dtype),
        "pictures": f"{vae.config.in_channels} channels, sides in multiples of {multiple}",
        "latents": f"{mapping.config.latent_channels} channels, a {vae.size_multiple}th of the sides",
        "mapping": f"{', '.join(map(str, mapping.config.block_out_channels))} channels, "
        f"{len(mapping.blocks)} residual blocks",
        "attention": {"none": "none: it takes no mask", "partial": "to all pixels that no mask hides"}.get(
            mapping.config.attention, "to patches that no mask hides"
        ),
    }
    if mapping.takes_mask:
        levels = 0 if detector is None else len(detector.config.block_out_channels)
        found["detector"] = f"U-Net of {levels} levels" if levels else "none: a mask is needed"
    faces = pipe.face_enhancer
    found["faces"] = "no network" if faces is None else f"of {faces.config.sample_size} pixels"
    return found


def card_of_old_photos(pipe: OldPhotoPipeline, folder: Path, command: str) -> ModelCard:
    """The card of converted checkpoints: from which files, by which command, and how to use them.

    Raises:
        OSError: a file can't be read.
    """
    detects, attention = pipe.scratch_detector is not None, pipe.mapping.config.attention
    route = next(name for name, (_, of_route, _) in _OF_ROUTES.items() if of_route == attention)
    mask = ", mask=mask" if pipe.mapping.takes_mask and not detects else ""
    return card_of_conversion(
        folder,
        command,
        tags=("image-to-image", "image-restoration", "old-photos"),
        source="Bringing Old Photos Back to Life\n([arXiv:2004.09484](https://arxiv.org/abs/2004.09484))",
        notes="The networks compute what the originals compute, but for rounding. The original stretches the values\n"
        "of each result to the whole range: `stretch=True` does. Faces are enhanced by themselves where `faces` says\n"
        "where they are, if the network of faces was converted, too.",
        found=describe_old_photos(pipe),
        example=f"""from diffusers_restore import OldPhotoPipeline

pipe = OldPhotoPipeline.from_pretrained("this folder")
restored = pipe(picture{mask}).images[0]""",
        parts=list(files_of_route(folder, route).values()),
        terms="The weights of the paper were released under the MIT License. Whether these are they, the SHA-256\n"
        "tell; of others, the terms hold that they came with.",
    )


def convert_old_photo(state: Mapping[str, Tensor]) -> Network:
    """The network that computes what the released one does, on its own weights.

    Which one it is, its channels and its blocks are read from names and shapes. Running means are those of the
    detector's batch norms, which it uses; its blur has no weights here.

    Args:
        state: weights by their released names.

    Raises:
        InvalidInputError: they are no such network's, or weights are missing, surplus or of another shape.
    """
    if _has(state, "encoder.1"):
        return _made(state, OldPhotoVAE, *_vae(state))
    if _has(state, "model.0") and _count(state, r"model\.(\d+)\.conv_block\..*"):
        return _made(state, OldPhotoMapping, *_mapping(state, "none"))
    if _has(state, "NL.theta"):
        return _made(state, OldPhotoMapping, *_mapping(state, "partial"))
    if _has(state, "NL_scale_1.F_Combine"):
        return _made(state, OldPhotoMapping, *_mapping(state, "patch"))
    if _has(state, "first.1"):
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
    halvings = sum(_has(state, f"encoder.{place}") for place in range(4, 1 + _STEP * 8, _STEP))
    first = 4 + _STEP * halvings
    blocks = _count(state, r"encoder\.(\d+)\.conv_block\..*")
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
    while _has(state, f"{before}.{_STEP * widths}"):
        widths += 1
    layers = {f"in_convs.{i}": f"{before}.{_STEP * i}" for i in range(widths)}
    names: list[str] = []
    if attention == "none":
        count = _count(state, r"model\.(\d+)\.conv_block\..*")
        names = [f"model.{_STEP * widths + i}" for i in range(count)]
        # Convolutions before the blocks were counted alone: those after them begin behind the blocks.
        last = _STEP * widths + count
    elif attention == "partial":
        count = last = _count(state, r"after_NL\.(\d+)\.conv_block\..*")
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
    levels = _count(state, r"down_path\.(\d+)\..*")
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


def _has(state: Mapping[str, Tensor], layer: str) -> bool:
    """Whether there is a layer, or what is left of it."""
    return f"{layer}.weight" in state or f"{layer}.bias" in state


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """The number of different places, which the pattern's group matches."""
    return len({found[1] for name in state if (found := re.fullmatch(pattern, name))})


def _block(name: str, released: str) -> dict[str, str]:
    return {f"{name}.{ours}": f"{released}.{theirs}" for ours, theirs in _BLOCK.items()}
