"""Checks of foreign repositories: components that have no place, and weights that are missing or no numbers."""

from __future__ import annotations

import re
import warnings
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import InvalidInputError


def load_index(cls: Any, repository: str | PathLike[str], **options: Any) -> dict[str, Any]:
    """`cls.load_config`, without the warning that diffusers 0.42 gives for every repository of the Hub.

    Raises:
        InvalidInputError: it is nested too deep.
        OSError: there is none.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument")
        try:
            index: dict[str, Any] = cls.load_config(repository, **options)
        except RecursionError as error:
            raise InvalidInputError(f"model_index.json of {str(repository)!r} is nested too deep") from error
    return index


def check_components(cls: Any, index: dict[str, Any]) -> None:
    """Refuse a repository with components that the pipeline doesn't take; diffusers would ignore them.

    A latent model's network (with a `vqvae` or `vae`) would otherwise be run on pixels.

    Args:
        cls: the pipeline.
        index: the repository's model_index.json.

    Raises:
        InvalidInputError: there are such components, or one that is no pair of names; the message names them.
    """
    own = set(cls._get_signature_keys(cls)[0])
    for name in sorted(own & set(index)):
        if not isinstance(index[name], (list, tuple)):
            raise InvalidInputError(f"model_index.json: {name} must be [library, class], got {index[name]!r:.99}")
    parts = {name for name, value in index.items() if isinstance(value, (list, tuple)) and not name.startswith("_")}
    extra = sorted(name for name in parts - own if index[name][0] is not None)
    if extra:
        found = index.get("_class_name")
        raise InvalidInputError(
            f"the repository is a {found[-1] if isinstance(found, list) else found} with {', '.join(extra)}, which "
            f"{cls.__name__} has no place for; a network that works on pixels is needed, not one on the latents of "
            "another model"
        )


def check_weights(name: str, model: Any, folder: Path) -> None:
    """Refuse a model with weights that are missing, NaN, infinite or whole numbers.

    diffusers would leave the missing ones uninitialised, and turn whole numbers into fractions.

    Args:
        name: of the component, for the message.
        model: a `ModelMixin` that was loaded from the folder.
        folder: may hold several variants of the weights; each must be complete.

    Raises:
        InvalidInputError: there are such weights; the message names some.
    """
    own = model.state_dict()
    quantized = getattr(model, "hf_quantizer", None) is not None
    for files in _weight_files(folder):
        found: dict[str, torch.dtype] = {}
        try:
            for file in files:
                found |= _read_dtypes(file)
        except Exception:  # libraries raise all kinds of errors; diffusers can't have loaded an unreadable file
            continue
        model._fix_state_dict_keys_on_load(found)  # old repositories name their attention weights differently
        missing = _of_its_class(model, [weight for weight in own if weight not in found])
        if missing:
            raise InvalidInputError(
                f"{name} in {folder} lacks {len(missing)} of its {len(own)} weights ({_listed(missing)}) in "
                f"{files[0].name}: its config.json does not fit the weights, or the file is not whole"
            )
        fractions = [weight for weight, value in own.items() if weight in found and _holds_fractions(value.dtype)]
        whole = [
            w for w in fractions if not _holds_fractions(found[w]) or (found[w].is_complex and not own[w].is_complex())
        ]
        if whole and not quantized:
            raise InvalidInputError(
                f"{name} in {folder} has weights that must be real fractions and are {found[whole[0]]} in "
                f"{files[0].name}: {_listed(whole)}"
            )
    odd = _of_its_class(model, [weight for weight, value in own.items() if not _is_finite(value)])
    if odd:
        raise InvalidInputError(f"{name} in {folder} has weights that are NaN or infinite: {_listed(odd)}")


def _of_its_class(model: Any, weights: list[str]) -> list[str]:
    """Those of the weights that aren't of layers which were added after the model was loaded."""
    if not weights:
        return []
    with torch.device("meta"):
        known = set(type(model).from_config(model.config).state_dict())
    return [weight for weight in weights if weight in known]


def _listed(weights: list[str]) -> str:
    names = sorted(weights)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _holds_fractions(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _is_finite(value: Tensor) -> bool:
    if value.is_meta or not _holds_fractions(value.dtype) or value.element_size() < 2:  # not here yet, or packed
        return True
    return bool(value.isfinite().all())


def _read_dtypes(file: Path) -> dict[str, torch.dtype]:
    """The weights in a file: names and dtypes."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return {name: _DTYPES.get(tensors.get_slice(name).get_dtype(), torch.float32) for name in tensors.keys()}  # noqa: SIM118
    loaded = torch.load(file, map_location="meta", weights_only=True, mmap=is_zipfile(file))
    return {name: value.dtype for name, value in loaded.items()}


# What safetensors calls whole and complex numbers; all else is a kind of fraction.
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "C64": torch.complex64,
}


def _weight_files(folder: Path) -> list[list[Path]]:
    """The files of each variant and format of the weights; there are several where they are sharded."""
    variants: dict[tuple[str, str], list[Path]] = {}
    for file in sorted(folder.glob("diffusion_pytorch_model*")):
        match = re.fullmatch(r"diffusion_pytorch_model(\.[^.]+?)?(-\d+-of-\d+)?(\.safetensors|\.bin)", file.name)
        if match is not None:
            variants.setdefault((match[1] or "", match[3]), []).append(file)
    return list(variants.values())
