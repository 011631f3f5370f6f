"""What the networks of this package share: the file by which a stock pipeline imports them, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from diffusers.configuration_utils import ConfigMixin

from ..errors import InvalidInputError, check_bool, check_int, check_real
from ..files import write_text
from ..registration import PACKAGE, plug_in_file


class SavesPlugIn(ConfigMixin):
    """A model that is saved with the file from which a stock pipeline imports its class."""

    def save_config(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """As `ConfigMixin.save_config`, with that file."""
        folder = Path(save_directory)
        if not folder.is_file():  # diffusers reports the error
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / f"{PACKAGE}.py", plug_in_file(PACKAGE, type(self).__name__))
        super().save_config(save_directory, push_to_hub, **kwargs)


def numbers(value: object) -> tuple[Any, ...]:
    """The values of a sequence; a single one is none."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def check_network_config(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The widths `block_out_channels` of a configuration, once its channels, dropout and flags are checked.

    Raises:
        InvalidInputError: a value out of range.
    """
    widths = numbers(config["block_out_channels"])
    if not widths:
        raise InvalidInputError(
            f"block_out_channels must name the channels of one or more levels, got {config['block_out_channels']!r}"
        )
    for width in widths:
        check_int("block_out_channels", width, 1)
    for name in ("in_channels", "out_channels", "sample_size"):
        if name in config and not (name == "sample_size" and config[name] is None):
            check_int(name, config[name], 1)
    if "dropout" in config and check_real("dropout", config["dropout"], 0) >= 1:
        raise InvalidInputError(f"dropout must be below 1, got {config['dropout']!r}")
    if "norm_affine" in config:
        check_bool("norm_affine", config["norm_affine"])
    return widths
