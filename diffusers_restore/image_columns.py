"""The Image columns of data sets: pictures as they are stored, undecoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from datasets.utils.file_utils import xopen

from .errors import ImageError, InvalidInputError, one_line, unknown_name
from .foreign import parse_json

DEFAULT_SPLIT = "train"

_SPLITS = "dataset_dict.json"
_SAVED = ("state.json", _SPLITS)
"""Files of a folder that `save_to_disk` has written: of one split, and of several."""


def load_images(
    name: str, config_name: str | None, split: str, column: str | None, *, streaming: bool = False
) -> tuple[Any, str]:
    """A data set with nothing but one column of undecoded pictures, and the name of the column.

    Args:
        name: what `datasets.load_dataset` or `load_from_disk` accepts: a name on the Hub or a local folder.
        config_name: which configuration.
        split: which split.
        column: which column; None is the only one with pictures.
        streaming: whether to read it while going through it.

    Raises:
        InvalidInputError: nothing that can be loaded, no such column, or one that holds something else.
    """
    try:
        found = _load(name, config_name, split, streaming)
    except Exception as error:  # a RuntimeError for a script, those of pyarrow and of the HTTP library
        raise InvalidInputError(
            f"cannot load dataset_name {name!r}, dataset_config_name {config_name!r}, split {split!r}: "
            f"{one_line(error)}"
        ) from error
    features = found.features or {}
    if column is None:
        column = _only_column(features)
    elif column not in features:
        raise unknown_name("image_column", column, features)
    if not isinstance(features[column], datasets.Image):
        raise InvalidInputError(f"image_column {column!r} must be a column of datasets.Image, got {features[column]}")
    return found.select_columns([column]).cast_column(column, datasets.Image(decode=False)), column


def item_bytes(item: Any) -> bytes:
    """The file of an undecoded item of an Image column: {"bytes": ..., "path": ...}, or None.

    Raises:
        ImageError: it holds none.
        OSError: it can't be read.
    """
    if item is None or (item["bytes"] is None and item["path"] is None):
        raise ImageError("the item holds no picture")
    if item["bytes"] is not None:
        return bytes(item["bytes"])
    with xopen(item["path"], "rb") as file:  # in a folder, in an archive, or on the Hub
        return bytes(file.read())


def _load(name: str, config_name: str | None, split: str, streaming: bool) -> Any:
    if not any(Path(name, file).is_file() for file in _SAVED):
        return datasets.load_dataset(name, config_name, split=split, streaming=streaming)
    if config_name is not None:
        raise InvalidInputError("what save_to_disk has written has no configurations")
    folder = Path(name)
    if (folder / _SPLITS).is_file():
        splits = _splits(folder)
        if split not in splits:
            raise InvalidInputError(f"there is no such split; there are: {', '.join(splits)}")
        folder /= split  # alone, since `datasets` can't read an empty one
    try:
        one = datasets.load_from_disk(folder)
    except IndexError as error:
        raise InvalidInputError("it holds no pictures") from error
    if folder == Path(name) and split not in (DEFAULT_SPLIT, str(one.split)):
        raise InvalidInputError(f"it is the split {str(one.split)!r} alone")
    return one.to_iterable_dataset() if streaming else one


def _splits(folder: Path) -> list[str]:
    """The names of the splits that `save_to_disk` has written."""
    held = parse_json((folder / _SPLITS).read_text(encoding="utf-8"), _SPLITS)
    names = held.get("splits") if isinstance(held, dict) else None
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise InvalidInputError(f"{_SPLITS} must have a list of splits")
    return names


def _only_column(features: Any) -> str:
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1:
        held = ", ".join(columns) if columns else f"none of {', '.join(features) or 'no columns'}"
        raise InvalidInputError(f"image_column must name a column of pictures; there are: {held}")
    return columns[0]
