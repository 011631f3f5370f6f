"""The configuration of a DDPM prior's training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...errors import check_int, check_real
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
class DDPMConfig:
    """Objective: what the network predicts, and how the noise levels are drawn and weighted.

    Raises:
        InvalidInputError: a value is out of range.
    """

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = option(
        "v_prediction",
        "The noise, the picture, or v (arXiv:2202.00512), whose errors the samplers never multiply by more than one.",
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = option(
        "squaredcos_cap_v2", "Noise schedule of DDPMScheduler; squaredcos_cap_v2 is the cosine (arXiv:2102.09672)."
    )
    num_train_timesteps: int = option(1000, "Noise levels.")
    timestep_sampling: Literal["uniform", "lognormal", "mixed"] = option(
        "uniform",
        "How noise levels are drawn: uniform; lognormal, ln(sigma) normal around -1.2 with deviation 1.2 (EDM, "
        "arXiv:2206.00364), which trains mostly at medium noise; or mixed, half of each, for a prior that restores: it "
        "needs fine textures as well as colours, which are decided where nearly all is noise.",
    )
    snr_gamma: float | None = option(None, "Min-SNR weighting of the loss (arXiv:2303.09556); 5 is usual.")
    noise_offset: float = option(0.0, "Share of noise that is constant over a channel of a picture; 0.1 is usual.")

    def __post_init__(self) -> None:
        check_words(self)
        check_int("num_train_timesteps", self.num_train_timesteps, 2)
        if self.snr_gamma is not None:
            check_real("snr_gamma", self.snr_gamma, above=0)
        check_real("noise_offset", self.noise_offset, 0)


@dataclass(frozen=True)
class PriorConfig:
    """A DDPM prior, trained from scratch or from the weights of another.

    Raises:
        InvalidInputError: the network can't take pictures of this size.
    """

    data: DataConfig
    network: UNetConfig = field(default_factory=UNetConfig)
    objective: DDPMConfig = field(default_factory=DDPMConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: LoopConfig = field(default_factory=LoopConfig)
    pretrained_model_name_or_path: str | None = option(
        None, "Start from the network and the noise schedule of this repository or folder; their options are ignored."
    )

    def __post_init__(self) -> None:
        check_words(self)
        check_folders(self.data, self.training)
        if self.pretrained_model_name_or_path is None:
            check_sizes(self.data, self.network.size_multiple)
