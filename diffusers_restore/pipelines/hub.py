"""Rules of loading that every pipeline keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import InvalidInputError


def check_weights(name: str, model: Any, variant: str | None = None) -> None:
    """Refuse a model of whose weights the repository held only a part: diffusers leaves the rest as memory was.

    Args:
        name: of the component, for the message.
        model: a `ModelMixin` that `from_pretrained` has just loaded from a folder.
        variant: as it was given to `from_pretrained`.

    Raises:
        InvalidInputError: weights are missing; the message names some.
    """
    folder = Path(model.config._name_or_path)
    found: dict[str, None] = {}
    for file in _weight_files(folder, variant):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                found |= dict.fromkeys(tensors.keys())
        else:
            found |= dict.fromkeys(torch.load(file, map_location="meta", weights_only=True, mmap=True))
    model._fix_state_dict_keys_on_load(found)  # old repositories name their attention weights otherwise
    missing = sorted(set(model.state_dict()) - set(found))
    if found and missing:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InvalidInputError(
            f"{name} in {folder} lacks {len(missing)} of its {len(model.state_dict())} weights ({listed}): "
            "its config.json does not fit the weights, or the file is not whole"
        )


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The files that diffusers reads: those of the variant if there are any, safetensors before pickles."""
    for middle in (f".{variant}", "") if variant else ("",):
        for suffix in (".safetensors", ".bin"):
            whole = re.compile(rf"diffusion_pytorch_model{re.escape(middle)}(-\d+-of-\d+)?{re.escape(suffix)}")
            files = [file for file in sorted(folder.glob("diffusion_pytorch_model*")) if whole.fullmatch(file.name)]
            if files:
                return files
    return []
