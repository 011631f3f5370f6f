"""The configuration of an RDDM training. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import InvalidInputError, check_int, check_real
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
from ..pair_config import PairSourceConfig, check_pairs


@dataclass(frozen=True)
class PairConfig(PairSourceConfig):
    """Pairs: where the degraded pictures come from; without any of these, the network learns to generate.

    Raises:
        InvalidInputError: several sources of pairs, or options of one that isn't there.
    """

    unpaired_data_dir: str | None = option(
        None, "Folder of pictures to translate into those of train_data_dir; pairs are reshuffled in every step."
    )
    mask_data_dir: str | None = option(
        None, "Folder of masks for the network, white where pictures of degraded_data_dir are damaged."
    )
    recipe_mask: bool = option(False, "Give the network the mask of a recipe's scratches.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_data_dir is not None and self.degraded_data_dir is None:
            raise InvalidInputError(
                f"mask_data_dir is for degraded_data_dir, which isn't given; got {self.mask_data_dir!r}"
            )
        if self.recipe_mask and self.recipe is None:
            raise InvalidInputError("recipe_mask is for recipe, which isn't given")

    @property
    def sources(self) -> tuple[str, ...]:
        return (*super().sources, "unpaired_data_dir")

    @property
    def masked(self) -> bool:
        """Whether there are masks."""
        return self.mask_data_dir is not None or self.recipe_mask


@dataclass(frozen=True)
class ResidualConfig:
    """Objective: the process, and what the networks predict.

    Raises:
        InvalidInputError: a value is out of range, or values contradict each other.
    """

    prediction_type: Literal[
        "residual",
        "epsilon",
        "sample",
        "v_prediction",
        "residual_epsilon",
        "residual_sum",
        "sample_epsilon",
        "sample_sum",
        "auto",
    ] = option(
        "residual",
        "What the network predicts; of two, each has its loss. auto learns whether residual or epsilon suits the data "
        "(AOSA, arXiv:2308.13712), then trains that from scratch.",
    )
    num_train_timesteps: int = option(1000, "T.")
    noise_scale: float = option(1.0, "Variance of the noise at T: 0.01 corrects what is nearly right, 1 generates.")
    scheduler_args: Mapping[str, Any] | None = option(
        None, 'More options of RDDMScheduler: "{noise_schedule: average, time_embedding: cumulative}".'
    )
    scheduler_name_or_path: str | None = option(
        None,
        "A repository or folder with the scheduler_config.json of an RDDMScheduler, such as schedulers/rddm-lol, "
        "instead of the options above.",
    )
    conditioned: bool = option(True, "Give the network the degraded picture beside I_t, instead of I_t alone.")
    two_networks: bool = option(False, "A network for each of two predictions, each with its own optimiser.")
    noise_learning_rate: float | None = option(None, "Learning rate of the second network.  [default: --learning_rate]")
    loss: Literal["l1", "l2"] = option("l1", "Mean absolute or mean squared error.")
    aosa_max_steps: int = option(2000, "With prediction_type auto: decide after this many steps at the latest.")
    validation_steps: int = option(5, "Steps of the restorations that are measured and shown.")

    def __post_init__(self) -> None:
        check_words(self)
        check_int("num_train_timesteps", self.num_train_timesteps, 1)
        check_real("noise_scale", self.noise_scale, 0)
        if self.noise_learning_rate is not None:
            check_real("noise_learning_rate", self.noise_learning_rate, above=0)
            if not self.two_networks:
                raise InvalidInputError("noise_learning_rate is for two_networks, which isn't set")
        check_int("aosa_max_steps", self.aosa_max_steps, 1)
        check_int("validation_steps", self.validation_steps, 1)
        if self.scheduler_args is not None and not isinstance(self.scheduler_args, Mapping):
            raise InvalidInputError(f"scheduler_args must be arguments by name, got {self.scheduler_args!r}")
        if self.scheduler_name_or_path is not None and self.scheduler_args is not None:
            raise InvalidInputError(
                "scheduler_args are those of scheduler_name_or_path where that is given; leave one of them out"
            )
        if self.prediction_type == "auto" and (self.two_networks or self.scheduler_name_or_path is not None):
            raise InvalidInputError(
                "prediction_type auto chooses what one network of a new scheduler predicts; leave out two_networks "
                "and scheduler_name_or_path"
            )
        if self.prediction_type == "auto" and (self.scheduler_args or {}).get("time_embedding") == "cumulative":
            raise InvalidInputError(
                "prediction_type auto needs time_embedding 'timestep': one time code can't be that of the residual and "
                "that of the noise"
            )
        for name in ("prediction_type", "num_train_timesteps", "noise_scale"):
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if self.scheduler_name_or_path is not None and value != default:
                raise InvalidInputError(
                    f"{name} is that of scheduler_name_or_path where that is given; leave it out, got {value!r}"
                )


@dataclass(frozen=True)
class RDDMConfig:
    """An RDDM restorer, translator or generator, trained from scratch or from the weights of another network.

    Raises:
        InvalidInputError: the network can't take pictures of this size, or values contradict each other.
    """

    data: DataConfig
    pairs: PairConfig = field(default_factory=PairConfig)
    objective: ResidualConfig = field(default_factory=ResidualConfig)
    network: UNetConfig = field(default_factory=UNetConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: LoopConfig = field(default_factory=LoopConfig)
    init_from: str | None = option(
        None,
        "Start from the network of this repository or folder, such as google/ddpm-ema-bedroom-256, extended by "
        "zero-weight channels where needed; the network options are ignored.",
    )

    def __post_init__(self) -> None:
        check_words(self)
        folders = ("degraded_data_dir", "unpaired_data_dir", "mask_data_dir")
        check_folders(self.data, self.training, **{name: getattr(self.pairs, name) for name in folders})
        check_pairs(self.pairs, self.data)
        if self.pairs.masked and not self.objective.conditioned:
            raise InvalidInputError(
                "mask_data_dir and recipe_mask are for networks that are shown the degraded picture too; leave out "
                "no_conditioned"
            )
        if self.init_from is None:
            check_sizes(self.data, self.network.size_multiple)
