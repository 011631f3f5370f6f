"""Where the pairs of a training come from. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidInputError, check_real
from .config import DataConfig, check_words, option

_ARGUMENTS = {"recipe_args": "recipe", "task_args": "task", "degradation_args": "degradation"}


@dataclass(frozen=True)
class PairSourceConfig:
    """Pairs: where the degraded pictures, those that go in, come from.

    Raises:
        InvalidInputError: several sources of pairs, or options of one that isn't there.
    """

    degraded_data_dir: str | None = option(
        None, "Folder of the degraded pictures, named as the clean ones in train_data_dir."
    )
    clean_side: Literal["left", "right"] | None = option(
        None, "Each picture of train_data_dir is two side by side; the clean one is on this side."
    )
    recipe: str | None = option(
        None,
        "Damage the pictures by a recipe: blind, real_esrgan, old_photo_full, edges, ..., or that of a plug-in.",
    )
    recipe_args: Mapping[str, Any] | None = option(None, 'Its arguments: "{scale: 2}".')
    task: str | None = option(None, "Damage the pictures by a task of DDRM: sr4, inpaint-box, deblur-gauss, ...")
    task_args: Mapping[str, Any] | None = option(None, 'Its arguments: "{sigma: 3, taps: 15}".')
    sigma_y: float = option(0.0, "Deviation of the noise that is added after a task, in the unit of [-1, 1].")
    degradation: str | None = option(
        None, "Damage the pictures by a degradation of Cold Diffusion, with a severity drawn from 1..T."
    )
    degradation_args: Mapping[str, Any] | None = option(None, 'Its arguments: "{num_timesteps: 20, taps: 11, std: 7}".')

    def __post_init__(self) -> None:
        check_words(self)
        given = [name for name in self.sources if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidInputError(f"pairs come from one source, got {' and '.join(given)}")
        for name, source in _ARGUMENTS.items():
            value = getattr(self, name)
            if value is not None and getattr(self, source) is None:
                raise InvalidInputError(f"{name} is for {source}, which isn't given; got {value!r}")
            if value is not None and not isinstance(value, Mapping):
                raise InvalidInputError(f"{name} must be arguments by name, got {value!r}")
        check_real("sigma_y", self.sigma_y, 0)
        if self.sigma_y > 0 and self.task is None:
            raise InvalidInputError(f"sigma_y is for task, which isn't given; got {self.sigma_y!r}")

    @property
    def sources(self) -> tuple[str, ...]:
        """The options of which one says where pairs come from."""
        return ("degraded_data_dir", "clean_side", "recipe", "task", "degradation")

    @property
    def paired(self) -> bool:
        """Whether there are degraded pictures."""
        return any(getattr(self, name) is not None for name in self.sources)


def check_pairs(pairs: PairSourceConfig, data: DataConfig) -> None:
    """Raise InvalidInputError if pairs that are stored as such have no folder of clean ones, or are measured on others.

    Pictures side by side can be measured on others of that kind.
    """
    stored = [name for name in pairs.sources if name.endswith(("_dir", "_side")) and getattr(pairs, name) is not None]
    for name in stored:
        if data.train_data_dir is None:
            raise InvalidInputError(f"{name} needs the clean pictures as train_data_dir")
        if data.validation_data_dir is not None and name != "clean_side":
            raise InvalidInputError(
                f"validation_data_dir holds clean pictures, which {name} has no pairs for; leave it out, and some "
                "pairs are held out"
            )
    degraded, clean = pairs.degraded_data_dir, data.train_data_dir
    if degraded is not None and clean is not None and Path(degraded).resolve() == Path(clean).resolve():
        raise InvalidInputError(
            f"degraded_data_dir and train_data_dir are one folder, {degraded!r}: nothing would be learned of pairs of "
            "the same pictures"
        )
