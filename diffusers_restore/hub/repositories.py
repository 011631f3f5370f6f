"""Loads the repositories of others: what is odd in their JSON is refused before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import snapshot_download

from ..errors import InvalidInputError, one_line
from ..foreign import read_config, read_object
from .weights import check_weights

INDEX = "model_index.json"
CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json")

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
    found = index.get("_class_name", "")
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
                read_config(folder / part / name)


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
