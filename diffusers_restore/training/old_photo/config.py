"""The configurations of the trainings for old photographs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidInputError, check_int, check_real
from ..config import DataConfig, LoopConfig, OptimizerConfig, check_folders, check_sizes, check_words, option


@dataclass(frozen=True)
class DamageConfig:
    """Damage: what the photographs of a training are given.

    Raises:
        InvalidInputError: a value is out of range.
    """

    recipe: str = option("old_photo_full", "A recipe whose mask shows scratches and the like, or that of a plug-in.")
    recipe_args: Mapping[str, Any] | None = option(None, 'Its arguments: "{scratches: true}".')

    def __post_init__(self) -> None:
        check_words(self)
        if self.recipe_args is not None and not isinstance(self.recipe_args, Mapping):
            raise InvalidInputError(f"recipe_args must be arguments by name, got {self.recipe_args!r}")


@dataclass(frozen=True)
class DetectorNetworkConfig:
    """Network and loss.

    Raises:
        InvalidInputError: a value is out of range.
    """

    block_out_channels: tuple[int, ...] = option(
        (64, 128, 256, 512, 1024), "Channels of each level, finest first; those of the paper's network by default."
    )
    scratch_weight: float = option(
        3.0, "Weight of scratched pixels in the cross entropy, of which photographs have few."
    )
    detection_size: int | None = option(
        None, "Shorter side of the pictures that the detector is to look at.  [default: twice --resolution]"
    )

    def __post_init__(self) -> None:
        check_words(self)
        for width in self.block_out_channels:
            check_int("block_out_channels", width, 1)
        if len(self.block_out_channels) < 2:
            raise InvalidInputError(f"block_out_channels must name two or more levels, got {self.block_out_channels!r}")
        check_real("scratch_weight", self.scratch_weight, above=0)
        if self.detection_size is not None:
            check_int("detection_size", self.detection_size, 1)

    @property
    def size_multiple(self) -> int:
        """The number that the sides of pictures must be multiples of."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class DetectorConfig:
    """A detector of scratches.

    Raises:
        InvalidInputError: the network can't take pictures of this size, or values contradict each other.
    """

    data: DataConfig
    damage: DamageConfig = field(default_factory=DamageConfig)
    network: DetectorNetworkConfig = field(default_factory=DetectorNetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_folders(self.data, self.training)
        check_sizes(self.data, self.network.size_multiple)
        least = 2 * self.network.size_multiple  # borders are mirrored, those of the coarsest level, too
        for name in ("resolution", "validation_resolution"):
            size = getattr(self.data, name)
            if size is not None and size < least:
                raise InvalidInputError(
                    f"{name} must be {least} or more, which the network's levels need, got {size}; fewer "
                    "block_out_channels need less"
                )
