"""The configurations of the trainings for old photographs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import InvalidInputError, check_int, check_real
from ..config import DataConfig, LoopConfig, OptimizerConfig, check_folders, check_sizes, check_words, option
from ..pix2pix.config import TranslationOptimizerConfig


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


@dataclass(frozen=True)
class AutoencoderNetworkConfig:
    """Network and weights of its losses.

    Raises:
        InvalidInputError: a value is out of range.
    """

    block_out_channels: tuple[int, ...] = option(
        (64, 64, 64), "Channels of each level, finest first; those of the paper's network by default."
    )
    num_blocks: int = option(4, "Residual blocks of the encoder, and of the decoder.")
    discriminator_channels: int = option(64, "Channels of the discriminators' finest level.")
    l1_weight: float = option(10.0, "Of the mean absolute distance, in [-1, 1], to what is encoded.")
    feature_weight: float = option(10.0, "Of the distance of the discriminator's activations.")
    kl_weight: float = option(1.0, "Of the mean square of the latents.")

    def __post_init__(self) -> None:
        check_words(self)
        for width in self.block_out_channels:
            check_int("block_out_channels", width, 1)
        if len(self.block_out_channels) < 2:
            raise InvalidInputError(f"block_out_channels must name two or more levels, got {self.block_out_channels!r}")
        check_int("num_blocks", self.num_blocks, 1, 100)
        check_int("discriminator_channels", self.discriminator_channels, 1, 1024)
        for name in ("l1_weight", "feature_weight", "kl_weight"):
            check_real(name, getattr(self, name), 0)

    @property
    def size_multiple(self) -> int:
        """The number that the sides of pictures must be multiples of."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class DomainConfig:
    """Domain: which photographs are encoded; without any of these, clean ones.

    Raises:
        InvalidInputError: a value is out of range.
    """

    recipe: str | None = option(None, "Damage the photographs by a recipe, such as old_photo_full.")
    recipe_args: Mapping[str, Any] | None = option(None, "Its arguments.")
    real_data_dir: str | None = option(
        None, "Folder of really old photographs, whose latents are to look like those of the damaged ones."
    )

    def __post_init__(self) -> None:
        check_words(self)
        if self.recipe_args is not None and (self.recipe is None or not isinstance(self.recipe_args, Mapping)):
            raise InvalidInputError(f"recipe_args are arguments of recipe by name, got {self.recipe_args!r}")
        if self.real_data_dir is not None and self.recipe is None:
            raise InvalidInputError("real_data_dir is for damaged photographs; name a recipe, too")


@dataclass(frozen=True)
class AutoencoderConfig:
    """An autoencoder of clean or of damaged photographs.

    Raises:
        InvalidInputError: the network can't take pictures of this size, or values contradict each other.
    """

    data: DataConfig
    domain: DomainConfig = field(default_factory=DomainConfig)
    network: AutoencoderNetworkConfig = field(default_factory=AutoencoderNetworkConfig)
    optimizer: TranslationOptimizerConfig = field(default_factory=TranslationOptimizerConfig)
    training: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_folders(self.data, self.training, real_data_dir=self.domain.real_data_dir)
        check_sizes(self.data, self.network.size_multiple)
        if self.domain.real_data_dir is not None and self.data.streaming:
            raise InvalidInputError("a stream can't be mixed with the pictures of real_data_dir; leave out streaming")


@dataclass(frozen=True)
class MappingNetworkConfig:
    """Network and weights of its losses.

    Raises:
        InvalidInputError: a value is out of range.
    """

    mapping_channels: tuple[int, ...] = option(
        (128, 256, 512, 512), "Channels of the mapping; those of the paper's network by default."
    )
    num_blocks: int = option(6, "Its residual blocks.")
    attention: Literal["none", "partial", "patch"] = option(
        "none", "none for quality alone; partial to fill in what a mask hides; patch the same for large pictures."
    )
    discriminator_channels: int = option(64, "Channels of the discriminator's finest level.")
    latent_weight: float = option(60.0, "Of the mean absolute distance of latents.")
    feature_weight: float = option(10.0, "Of the distance of the discriminator's activations.")

    def __post_init__(self) -> None:
        check_words(self)
        for width in self.mapping_channels:
            check_int("mapping_channels", width, 1)
        if not self.mapping_channels:
            raise InvalidInputError("mapping_channels must name one or more numbers")
        check_int("num_blocks", self.num_blocks, 2, 100)
        check_int("discriminator_channels", self.discriminator_channels, 1, 1024)
        for name in ("latent_weight", "feature_weight"):
            check_real(name, getattr(self, name), 0)


@dataclass(frozen=True)
class MappingConfig:
    """A mapping between the latents of two autoencoders, and the pipeline of the three.

    Raises:
        InvalidInputError: the networks can't take pictures of this size, or values contradict each other.
    """

    data: DataConfig
    damage: DamageConfig = field(default_factory=DamageConfig)
    network: MappingNetworkConfig = field(default_factory=MappingNetworkConfig)
    optimizer: TranslationOptimizerConfig = field(default_factory=TranslationOptimizerConfig)
    training: LoopConfig = field(default_factory=LoopConfig)
    vae_degraded: str | None = option(None, "Folder of the autoencoder of damaged photographs.")
    vae_clean: str | None = option(None, "Folder of the autoencoder of clean ones.")
    scratch_detector: str | None = option(
        None, "Folder of a ScratchDetectionPipeline, whose detector the pipeline gets."
    )

    def __post_init__(self) -> None:
        check_words(self)
        check_folders(self.data, self.training)
        for name in ("vae_degraded", "vae_clean"):
            if getattr(self, name) is None:
                raise InvalidInputError(f"{name} is needed; `train old-photo-vae` makes one")
        if self.scratch_detector is not None and self.network.attention == "none":
            raise InvalidInputError("scratch_detector is for a mapping with attention, which takes masks")
