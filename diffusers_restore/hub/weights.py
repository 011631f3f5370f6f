"""Checks of foreign repositories: components that have no place, and missing weights."""

from __future__ import annotations

import re
import warnings
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import safe_open

from ..errors import InvalidInputError


def load_index(cls: Any, repository: str | PathLike[str], **options: Any) -> dict[str, Any]:
    """`cls.load_config`, without the warning that diffusers 0.42 gives for every repository of the Hub."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument")
        index: dict[str, Any] = cls.load_config(repository, **options)
    return index


def check_components(cls: Any, index: dict[str, Any]) -> None:
    """Refuse a repository with components that the pipeline doesn't take; diffusers would ignore them.

    A latent model's network (with a `vqvae` or `vae`) would otherwise be run on pixels.

    Args:
        cls: the pipeline.
        index: the repository's model_index.json.

    Raises:
        InvalidInputError: there are such components; the message names them.
    """
    parts = {name for name, value in index.items() if isinstance(value, (list, tuple)) and not name.startswith("_")}
    extra = sorted(name for name in parts - set(cls._get_signature_keys(cls)[0]) if index[name][0] is not None)
    if extra:
        found = index.get("_class_name")
        raise InvalidInputError(
            f"the repository is a {found[-1] if isinstance(found, list) else found} with {', '.join(extra)}, which "
            f"{cls.__name__} has no place for; a network that works on pixels is needed, not one on the latents of "
            "another model"
        )


def check_weights(name: str, model: Any, folder: Path) -> None:
    """Refuse a model with missing weights; diffusers would leave them uninitialised.

    Args:
        name: of the component, for the message.
        model: a `ModelMixin` that was loaded from the folder.
        folder: may hold several variants of the weights; each must be complete.

    Raises:
        InvalidInputError: weights are missing; the message names some.
    """
    for files in _weight_files(folder):
        found: dict[str, None] = {}
        try:
            for file in files:
                found |= dict.fromkeys(_weight_names(file))
        except Exception:  # libraries raise all kinds of errors; diffusers can't have loaded an unreadable file
            continue
        model._fix_state_dict_keys_on_load(found)  # old repositories name their attention weights differently
        missing = sorted(set(model.state_dict()) - set(found))
        if missing:  # layers added after loading are not in the file
            with torch.device("meta"):
                own = set(type(model).from_config(model.config).state_dict())
            missing = [weight for weight in missing if weight in own]
        if missing:
            listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise InvalidInputError(
                f"{name} in {folder} lacks {len(missing)} of its {len(model.state_dict())} weights ({listed}) in "
                f"{files[0].name}: its config.json does not fit the weights, or the file is not whole"
            )


def _weight_names(file: Path) -> list[str]:
    """The names of the weights in a file."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    return list(torch.load(file, map_location="meta", weights_only=True, mmap=is_zipfile(file)))


def _weight_files(folder: Path) -> list[list[Path]]:
    """The files of each variant and format of the weights; there are several where they are sharded."""
    variants: dict[tuple[str, str], list[Path]] = {}
    for file in sorted(folder.glob("diffusion_pytorch_model*")):
        match = re.fullmatch(r"diffusion_pytorch_model(\.[^.]+?)?(-\d+-of-\d+)?(\.safetensors|\.bin)", file.name)
        if match is not None:
            variants.setdefault((match[1] or "", match[3]), []).append(file)
    return list(variants.values())
