"""Reads checkpoint files of other codebases, weights only and never code, and recognises their codebase."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import InvalidInputError, one_line
from .weights import check_stored

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")

_MOST_COMPRESSED = 3
_PIECE = 1 << 20  # bytes that are read at once

Family = Literal["guided-diffusion", "old-photos", "pix2pix"]

FAMILIES: dict[Family, str] = {
    "guided-diffusion": "guided-diffusion (arXiv:2105.05233) and improved-diffusion (arXiv:2102.09672)",
    "old-photos": "Bringing Old Photos Back to Life (arXiv:2004.09484)",
    "pix2pix": "Pix2pix (arXiv:1611.07004) and CycleGAN (arXiv:1703.10593)",
}
"""The codebases whose networks are converted."""

# What some names of their weights are like, and no names of others.
_NAMES: dict[Family, str] = {
    "guided-diffusion": r"^input_blocks\.",
    "old-photos": (
        r"^(encoder|decoder)\.\d+\.conv_block\.|^(before_NL|after_NL)\.\d+\.|^down_path\.\d+\.block\.|^G_middle_0\."
    ),
    "pix2pix": r"^model\.model\.\d+\.model\.|^(model|net)\.\d+\.(conv_block\.|weight$|bias$)",
}

# A mapping of old photographs has names of Pix2pix, whose generators begin with a layer without weights.
_BOTH = ("model.0.weight", r"^model\.\d+\.conv_block\.")

_WRAPPERS = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile and Lightning
_MOST_WRAPPERS = 4

# Other kinds of checkpoint, by their weights' names, and why they aren't converted.
_OTHERS = {
    r"(^|\.)init_conv\.weight$|(^|\.)downs\.\d+\.\d+\.block1\.": (
        "is a U-Net of denoising-diffusion-pytorch, which UNet2DModel can't express: it has linear attention in its "
        "levels, normalisation after each convolution instead of before it, GELU in the time embedding, a skip "
        "connection around the whole network, and, version by version, weight-standardised convolutions, RMSNorm or "
        "learned keys and values"
    ),
    r"^down_blocks\.\d+\.resnets\.\d+\.norm1\.": (
        "is a diffusers state dict already: name it diffusion_pytorch_model.bin (or .safetensors) and put it beside "
        "its config.json"
    ),
    r"^model\.diffusion_model\.|^first_stage_model\.|transformer_blocks\.": (
        "is a latent diffusion model, whose network works on the latents of an autoencoder and not on pixels"
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file by their published names, on the CPU, and the codebase that they are of."""

    family: Family
    weights: dict[str, Tensor]


def load_weights(file: Path, family: Family = "guided-diffusion") -> dict[str, Tensor]:
    """The weights of `read_checkpoint`.

    Raises:
        InvalidInputError: as there, or they are of another codebase than `family`.
    """
    found = read_checkpoint(file)
    if found.family != family:
        raise InvalidInputError(
            f"{file.name} holds weights of {FAMILIES[found.family]}; those of {FAMILIES[family]} were expected"
        )
    return found.weights


def read_checkpoint(file: Path) -> Checkpoint:
    """The weights in a checkpoint file without a wrapper around them, and whose they are.

    Pickles are read by torch's own reader of weights, which runs no code. Wrappers such as {"state_dict": ...} and the
    prefix "module." are removed where there is only one set of weights.

    Args:
        file: .pt, .pth, .bin, .ckpt or .safetensors.

    Raises:
        InvalidInputError: the file is absent, truncated or no checkpoint, or holds more than tensors, several sets of
            weights or those of an unknown codebase; the message names the file and the reason.
    """
    found = _read(file)
    sets = _sets_of_weights(found, file)
    if len(sets) > 1:
        known = {name: weights for name, weights in sets.items() if _any_name(weights, *_NAMES.values())}
        sets = known if len(known) == 1 else sets  # a training keeps other tensors, too, such as random states
    families = [_family(weights, file) for weights in sets.values()]
    if len(sets) > 1:
        first = next(iter(sets))
        raise InvalidInputError(
            f"{file.name} holds several sets of weights: {', '.join(sets)}; write the one that you want to a file of "
            f"its own: torch.save(torch.load({file.name!r}, weights_only=True)[{first!r}], 'weights.pt')"
        )
    (weights,), (family,) = sets.values(), families
    if family == "guided-diffusion" and not any(key.startswith("output_blocks.") for key in weights):
        raise InvalidInputError(
            f"{file.name} has input_blocks and no output_blocks: it is a classifier, not a network that draws pictures"
        )
    try:
        check_stored(weights)
    except InvalidInputError as error:
        raise InvalidInputError(f"{file.name}: {error}") from error
    return Checkpoint(family, weights)


def _read(file: Path) -> Any:
    """The raw content of the file."""
    name = file.name
    if file.is_dir():
        raise InvalidInputError(
            f"{str(file)!r} is a folder; a checkpoint file ({', '.join(CHECKPOINT_SUFFIXES)}) is expected, or a "
            "route for the folder of Bringing Old Photos Back to Life"
        )
    if not file.is_file():
        raise InvalidInputError(f"there is no file {str(file)!r}")
    if file.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise InvalidInputError(f"{name}: the suffix of a checkpoint is one of {', '.join(CHECKPOINT_SUFFIXES)}")
    if not file.stat().st_size:
        raise InvalidInputError(f"{name} is empty")
    check_archive(file)
    try:
        if file.suffix.lower() == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings(action="ignore"):  # about unreadable content, which is an error below
            # Files of torch before 1.6 are no zip archives, and can't be mapped into memory.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except SafetensorError as error:
        raise InvalidInputError(f"{name} is no safetensors file, or not whole: {one_line(error)}") from error
    except Exception as error:  # torch raises all kinds of errors for unreadable files
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise InvalidInputError(
                f"{name} holds {refused[1]} beside its weights. Reading it could run code, so it was not read; if you "
                "trust the file, load it where it was made and save its weights alone"
            ) from error
        raise InvalidInputError(
            f"{name} is not whole, or no checkpoint of weights and plain values, which is all that is read"
        ) from error


def check_archive(file: Path) -> None:
    """Refuse a zip archive whose content is much larger than the file, as torch stores weights as they are, or damaged.

    Raises:
        InvalidInputError: it unpacks to more than `_MOST_COMPRESSED` times its size, or a checksum is wrong.
    """
    if not is_zipfile(file):
        return
    try:
        with ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (BadZipFile, OSError):  # reading it as a checkpoint will say what is wrong
        return
    if unpacked > _MOST_COMPRESSED * file.stat().st_size:
        raise InvalidInputError(
            f"{file.name} has {file.stat().st_size} bytes and unpacks to {unpacked}; torch doesn't compress weights, "
            f"and not more than {_MOST_COMPRESSED} times the size of a file is read"
        )
    try:
        with ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.CRC:  # torch can leave checksums out, as zeros
                    with archive.open(entry) as content:
                        while content.read(_PIECE):
                            pass
    except (BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InvalidInputError(f"{file.name} is not whole: {one_line(error)}") from error


def _sets_of_weights(found: Any, file: Path) -> dict[str, dict[str, Tensor]]:
    """Every set of weights in the content, by its name there."""
    if not isinstance(found, Mapping):
        raise InvalidInputError(f"{file.name} holds a {type(found).__name__}; weights by their names are expected")
    if _are_weights(found):
        return {"weights": _unwrapped(found)}
    sets = {str(name): _unwrapped(value) for name, value in found.items() if _are_weights(value)}
    if not sets:
        there = ", ".join(f"{name} ({type(value).__name__})" for name, value in list(found.items())[:8])
        raise InvalidInputError(f"{file.name} holds no set of weights; there are: {there or 'nothing'}")
    return sets


def _are_weights(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(one, Tensor) for name, one in value.items())


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that wrappers of networks put before all names.

    Published names may begin with such a word, too: prefixes are removed until the names are known.
    """
    unwrapped = dict(weights)
    for _ in range(_MOST_WRAPPERS):
        prefix = next((one for one in _WRAPPERS if all(name.startswith(one) for name in unwrapped)), None)
        if prefix is None or _any_name(unwrapped, *_NAMES.values(), *_OTHERS):
            break
        unwrapped = {name.removeprefix(prefix): value for name, value in unwrapped.items()}
    return unwrapped


def _any_name(names: Iterable[str], *patterns: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns for name in names)


def _family(weights: Mapping[str, Tensor], file: Path) -> Family:
    """Whose the weights are; those of other codebases are refused, with what they are."""
    for pattern, reason in _OTHERS.items():
        if _any_name(weights, pattern):
            raise InvalidInputError(f"{file.name} {reason}")
    first, others = _BOTH
    if first in weights and _any_name(weights, others):
        return "old-photos"
    for family, pattern in _NAMES.items():
        if _any_name(weights, pattern):
            return family
    names = list(weights)
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    known = ", ".join(FAMILIES.values())
    raise InvalidInputError(f"{file.name} holds weights of an unknown kind ({listed}); {known} are known")
