"""The Image columns of data sets: pictures as they are stored, undecoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from datasets.utils.file_utils import xopen

from .errors import ImageError, InvalidInputError, one_line, unknown_name

DEFAULT_SPLIT = "train"

_SAVED = ("state.json", "dataset_dict.json")
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
    saved = datasets.load_from_disk(name)
    if config_name is not None:
        raise InvalidInputError("what save_to_disk has written has no configurations")
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise InvalidInputError(f"there is no such split; there are: {', '.join(saved)}")
        one = saved[split]
    elif split in (DEFAULT_SPLIT, str(saved.split)):
        one = saved
    else:
        raise InvalidInputError(f"it is the split {str(saved.split)!r} alone")
    return one.to_iterable_dataset() if streaming else one


def _only_column(features: Any) -> str:
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1:
        held = ", ".join(columns) if columns else f"none of {', '.join(features) or 'no columns'}"
        raise InvalidInputError(f"image_column must name a column of pictures; there are: {held}")
    return columns[0]
