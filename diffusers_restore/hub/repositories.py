"""Loads the repositories of others: what is odd in their JSON is refused before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import UNet2DModel
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import snapshot_download

from ..errors import InvalidInputError, one_line
from ..foreign import read_config, read_object
from .weights import check_weights

INDEX = "model_index.json"
CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json")

# Of a network. Some old repositories have null for others, which then mean something.
_NEEDED = (
    "act_fn",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "up_block_types",
)

Loaded = TypeVar("Loaded")


def read_index(file: Path) -> dict[str, Any]:
    """model_index.json, which names the library and the class of each component.

    Raises:
        InvalidInputError: it is no JSON object, or names something else.
        OSError: it can't be read.
    """
    index = read_object(file)
    for name, value in index.items():
        plain = name.startswith("_") and name != "_class_name"
        if not plain and isinstance(value, list) and not _is_pair(value):
            raise InvalidInputError(
                f"{str(file)!r}: {name} must be [library, class], two texts or two nulls, got {value!r}"
            )
    found = index.get("_class_name")
    if not isinstance(found, (str, list)) or (isinstance(found, list) and None in found):
        raise InvalidInputError(f"{str(file)!r}: _class_name must be the name of a pipeline, got {found!r}")
    return index


def _is_pair(value: list[Any]) -> bool:
    return len(value) == 2 and (value == [None, None] or all(isinstance(one, str) and one for one in value))


def check_configs(folder: Path, parts: Iterable[str]) -> None:
    """Refuse configurations of components that are no objects or hold absurd numbers; those that are there.

    Args:
        folder: of the repository; old ones have all files in it.
        parts: the names of its components.

    Raises:
        InvalidInputError: there is such a configuration; the message names it.
    """
    for part in ("", *parts):
        for name in CONFIGS:
            if (folder / part / name).is_file():
                file = folder / part / name
                config = read_config(file)
                if config.get("_class_name") == UNet2DModel.__name__:
                    check_types(file, config, UNet2DModel)


def check_types(file: Path, config: dict[str, Any], cls: type) -> None:
    """Refuse values that aren't of the kind of a network's own defaults: whole numbers >= 0, fractions, texts, lists.

    Args:
        file: for the error.
        config: what it holds.
        cls: the network; what it doesn't know or has no default for isn't looked at.

    Raises:
        InvalidInputError: there is such a value; the message names it.
    """
    for name, one in signature(cls).parameters.items():
        value = config.get(name, one.default)
        counted = one.annotation is int or str(one.annotation) == "int | None"
        if (one.default is None and not counted) or (value is None and name not in _NEEDED):
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(one.default, bool):
            fits, wanted = isinstance(value, bool), "true or false"
        elif isinstance(one.default, float) or one.annotation is float:
            fits, wanted = number, f"a number, such as {one.default}"
        elif counted:
            fits, wanted = number and float(value).is_integer() and value >= 0, "a whole number >= 0"
        elif isinstance(one.default, str):
            fits, wanted = isinstance(value, str), f"a text, such as {one.default!r}"
        else:
            kinds = {type(inner) for inner in one.default}
            fits = isinstance(value, (list, tuple)) and bool(value) and {type(inner) for inner in value} <= kinds
            wanted = f"a list, such as {list(one.default)}"
        if not fits:
            raise InvalidInputError(f"{str(file)!r}: {name} must be {wanted}, got {value!r:.99}")


def load_pipeline(cls: type[Loaded], name: str) -> Loaded:
    """A pipeline from a folder or the Hub, by a class of diffusers, with all its weights.

    Args:
        cls: a `DiffusionPipeline`; those of this package check by themselves, whoever loads them.
        name: of the folder or the repository.

    Raises:
        InvalidInputError: it can't be loaded, lacks weights, or holds what no pipeline can be made of.
    """
    with refusing(f"no pipeline can be loaded from {name!r}, a folder or on the Hub"):
        folder = Path(name) if Path(name).is_dir() else Path(snapshot_download(name, allow_patterns=["*.json"]))
        if (folder / INDEX).is_file():
            index = read_index(folder / INDEX)
            check_configs(folder, [part for part, value in index.items() if isinstance(value, list)])
        pipeline: Any = cls.from_pretrained(name)  # type: ignore[attr-defined]
        for part, model in pipeline.components.items():
            if isinstance(model, ModelMixin):
                check_weights(part, model, Path(str(model.config.get("_name_or_path"))))
    return cast(Loaded, pipeline)


@contextmanager
def refusing(what: str, errors: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Turn any error of loading into one InvalidInputError that begins with `what`, but for our own and for memory.

    Args:
        what: can't be done.
        errors: only these; libraries raise all kinds of errors for odd files.
    """
    try:
        yield
    except (InvalidInputError, MemoryError, torch.OutOfMemoryError):
        raise
    except errors as error:
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        raise InvalidInputError(f"{what}: {kind}{one_line(error)}") from error
