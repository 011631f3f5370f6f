"""The configuration of a Cold Diffusion restorer's training. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidInputError, check_int
from ..config import (
    DataConfig,
    LoopConfig,
    OptimizerConfig,
    UNetConfig,
    check_folders,
    check_sizes,
    check_words,
    option,
)


@dataclass(frozen=True)
class DegradationConfig:
    """Degradation: what the network learns to undo.

    Raises:
        InvalidInputError: a value is out of range, or values contradict each other.
    """

    degradation: str | None = option(
        None, "blur, fade, color_fade, pixelate, snow, decolor, mix, synthetic, or the name of a plug-in's."
    )
    degradation_args: Mapping[str, Any] | None = option(
        None, 'Its arguments except num_timesteps: "{taps: 11, std: 7, border: circular}".'
    )
    num_train_timesteps: int = option(20, "Its severities, T.")
    eight_bit: bool = option(False, "Floor degraded pictures to 8 bits.")
    scheduler_name_or_path: str | None = option(
        None,
        "A repository or folder with the scheduler_config.json of a ColdDiffusionScheduler, such as "
        "schedulers/cold-mnist-deblur, instead of the options on the degradation.",
    )

    def __post_init__(self) -> None:
        check_words(self)
        if (self.degradation is None) == (self.scheduler_name_or_path is None):
            raise InvalidInputError(
                "exactly one of degradation and scheduler_name_or_path must say what the network is to undo, got "
                f"degradation={self.degradation!r} and scheduler_name_or_path={self.scheduler_name_or_path!r}"
            )
        if self.degradation_args is not None and not isinstance(self.degradation_args, Mapping):
            raise InvalidInputError(f"degradation_args must be arguments by name, got {self.degradation_args!r}")
        check_int("num_train_timesteps", self.num_train_timesteps, 1)
        if self.scheduler_name_or_path is not None and (self.degradation_args is not None or self.eight_bit):
            raise InvalidInputError(
                "degradation_args and eight_bit are those of scheduler_name_or_path where that is given; leave them out"
            )


@dataclass(frozen=True)
class ColdConfig:
    """A Cold Diffusion restorer, trained from scratch or from the weights of another network.

    Raises:
        InvalidInputError: the network can't take pictures of this size.
    """

    data: DataConfig
    objective: DegradationConfig
    network: UNetConfig = field(default_factory=UNetConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: LoopConfig = field(default_factory=LoopConfig)
    pretrained_model_name_or_path: str | None = option(
        None, "Start from the network of this repository or folder; the network options are ignored."
    )
    endpoint_data_dir: str | None = option(
        None,
        "Folder of the other pictures, for degradation mix with endpoint: picture; pairs change with every step.",
    )
    prior_components: int = option(
        0, "Fit this many Gaussians to the training pictures degraded at T, so that the pipeline can generate."
    )
    prior_size: int = option(1, "Side of the thumbnails that they are fitted to; 1 is the mean of each channel.")

    def __post_init__(self) -> None:
        check_words(self)
        check_folders(self.data, self.training, endpoint_data_dir=self.endpoint_data_dir)
        if self.endpoint_data_dir is not None and self.data.validation_data_dir is not None:
            raise InvalidInputError("validation_data_dir has no other pictures for endpoint_data_dir; leave it out")
        check_int("prior_components", self.prior_components, 0)
        check_int("prior_size", self.prior_size, 1, self.data.resolution)
        if self.pretrained_model_name_or_path is None:
            check_sizes(self.data, self.network.size_multiple)
