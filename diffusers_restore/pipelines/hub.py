"""Rules of loading that every pipeline keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar
from zipfile import is_zipfile

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from ..errors import InvalidInputError

_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


Loaded = TypeVar("Loaded")


def load_checked(
    cls: Any,
    load: Callable[..., Loaded],
    repository: str | PathLike[str],
    options: dict[str, Any],
    networks: Sequence[str],
) -> Loaded:
    """What `load`, diffusers' own `from_pretrained`, makes of a repository; what would be silently wrong is refused.

    Args:
        cls: the pipeline.
        load: `super().from_pretrained`.
        repository: a folder, or a repository of the Hub.
        options: as they were given to `from_pretrained`.
        networks: the names of components that have weights.

    Raises:
        InvalidInputError: the repository lacks some of the weights, or holds components that have no place here.
    """
    check_components(cls, repository, options)
    pipe = load(downloaded(cls, repository, options), **options)
    for name in networks:
        if name not in options and getattr(pipe, name) is not None:
            check_weights(name, getattr(pipe, name), options)
    return pipe


def check_components(cls: Any, repository: str | PathLike[str], options: dict[str, Any]) -> None:
    """Refuse a repository with components that the pipeline has no place for, which diffusers would leave out.

    A latent model's network (with a `vqvae` or `vae`) would otherwise be run on pixels.

    Raises:
        InvalidInputError: there are such components; the message names them.
    """
    index = cls.load_config(repository, **{name: options[name] for name in _DOWNLOAD_OPTIONS if name in options})
    parts = {name for name, value in index.items() if isinstance(value, (list, tuple)) and not name.startswith("_")}
    extra = sorted(name for name in parts - set(cls._get_signature_keys(cls)[0]) if index[name][0] is not None)
    if extra:
        raise InvalidInputError(
            f"{repository} is a {index.get('_class_name')} with {', '.join(extra)}, which {cls.__name__} has no place "
            "for; a network that works on pixels is needed, not one on the latents of another model"
        )


def downloaded(cls: Any, repository: str | PathLike[str], options: dict[str, Any]) -> str | PathLike[str]:
    """The folder of a repository that we saved, which diffusers refuses to download: it looks for our modules in it."""
    if Path(repository).is_dir():
        return repository
    given = {name: options[name] for name in _DOWNLOAD_OPTIONS if name in options}
    index = cls.load_config(repository, **given)
    parts = {name: value[0] for name, value in index.items() if isinstance(value, (list, tuple)) and value[0]}
    if not any(module.startswith("diffusers_restore.") for module in parts.values()):
        return repository
    given.pop("proxies", None)  # which the Hub's client reads from the environment
    return snapshot_download(
        str(repository), allow_patterns=["model_index.json", *(f"{name}/*" for name in parts)], **given
    )


def check_weights(name: str, model: Any, options: dict[str, Any]) -> None:
    """Refuse a model of whose weights the repository held only a part: diffusers leaves the rest as memory was.

    Args:
        name: of the component, for the message.
        model: a `ModelMixin` that `from_pretrained` has just loaded from a folder.
        options: as they were given to `from_pretrained`.

    Raises:
        InvalidInputError: weights are missing; the message names some.
    """
    folder = Path(model.config._name_or_path)
    found: dict[str, None] = {}
    for file in _weight_files(folder, options.get("variant"), options.get("use_safetensors")):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                found |= dict.fromkeys(tensors.keys())
        else:
            found |= dict.fromkeys(torch.load(file, map_location="meta", weights_only=True, mmap=is_zipfile(file)))
    model._fix_state_dict_keys_on_load(found)  # old repositories name their attention weights otherwise
    missing = sorted(set(model.state_dict()) - set(found))
    if found and missing:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InvalidInputError(
            f"{name} in {folder} lacks {len(missing)} of its {len(model.state_dict())} weights ({listed}): "
            "its config.json does not fit the weights, or the file is not whole"
        )


def _weight_files(folder: Path, variant: str | None, use_safetensors: bool | None) -> list[Path]:
    """The files that diffusers reads: those of the variant if there are any, safetensors before pickles."""
    suffixes = (".bin",) if use_safetensors is False else (".safetensors", ".bin")
    for middle in (f".{variant}", "") if variant else ("",):
        for suffix in suffixes:
            whole = re.compile(rf"diffusion_pytorch_model{re.escape(middle)}(-\d+-of-\d+)?{re.escape(suffix)}")
            files = [file for file in sorted(folder.glob("diffusion_pytorch_model*")) if whole.fullmatch(file.name)]
            if files:
                return files
    return []
