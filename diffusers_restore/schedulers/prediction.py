"""What a network predicts, as x0 and as noise. All tensors (B, C, H, W), alpha_bar in (0, 1)."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from math import sqrt
from typing import Any, Literal

import diffusers
from diffusers.configuration_utils import FrozenDict
from torch import Tensor

from ..errors import InvalidInputError, unknown_name
from ..registries import METHODS

PredictionType = Literal["epsilon", "sample", "v_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "sample", "v_prediction")

# Schedulers of diffusers whose betas are those of the DDPM that the network was trained with.
VARIANCE_PRESERVING = (
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "RePaintScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)


# Why others are refused that someone may well try.
_REASONS = {
    "CMStochasticIterativeScheduler": "its network is a consistency model, which estimates no noise",
    "EDMDPMSolverMultistepScheduler": "its network is fed with scaled pictures and log sigma / 4 (EDM)",
    "EDMEulerScheduler": "its network is fed with scaled pictures and log sigma / 4 (EDM)",
    "KarrasVeScheduler": "it says nothing of the noise levels that its network was trained with",
    "LCMScheduler": "its network is a consistency model, distilled for one chain",
    "ScoreSdeVeScheduler": "its network is a score of a variance-exploding process; DDRMPipeline restores with it",
    "TCDScheduler": "its network is a consistency model, distilled for one chain",
}

SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
"""What describes the noise schedule that a network was trained with, in the configuration of any scheduler."""


def stated_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a scheduler, with the defaults of its own class where it leaves the noise schedule out.

    diffusers would put those of the class that is made from it: a Heun's betas end at 0.012, a DDPM's at 0.02.
    """
    stated = {name: value for name, value in config.items() if name != "_use_default_values"}
    parameters = signature(getattr(diffusers, str(config.get("_class_name")), dict).__init__).parameters
    own = {name: parameters[name].default for name in SCHEDULE if name in parameters}
    return {**own, **stated}


def check_variance_preserving(config: Mapping[str, Any]) -> None:
    """Refuse the configuration of a scheduler whose network is no DDPM: its numbers would be read as another's.

    Raises:
        InvalidInputError: a VE, flow-matching, consistency or zero-terminal-SNR schedule, or one not known here.
    """
    name = config.get("_class_name")
    methods = {address.rpartition(":")[2] for _, address in METHODS.addresses()}
    if name is None and isinstance(config, FrozenDict) and "beta_schedule" not in config:
        name = "without a beta_schedule"  # the configuration of a scheduler in memory has lost its class
    of_ddpm = config.get("beta_schedule") is not None or config.get("trained_betas") is not None
    own = name == "RDDMScheduler" and of_ddpm  # a DDPM in another form
    if name is not None and not own and name not in methods and name not in VARIANCE_PRESERVING:
        reason = f": {_REASONS[name]}" if name in _REASONS else ""
        raise InvalidInputError(
            f"scheduler {name} is not one of a variance-preserving process (DDPM), which this method needs{reason}. "
            f"Accepted are: {', '.join(sorted({*methods, *VARIANCE_PRESERVING}))}. If the network is that of a DDPM "
            "all the same, give its noise schedule: scheduler=DDPMScheduler(beta_schedule=...)"
        )
    if config.get("timestep_type") == "continuous":
        raise InvalidInputError(
            "a scheduler with timestep_type='continuous' is not supported: its network is fed with log sigma / 4"
        )
    for option in ("rescale_betas_zero_snr", "use_flow_sigmas"):
        if config.get(option):
            raise InvalidInputError(
                f"a scheduler with {option}=True is not supported: its x0 has no finite noise level"
            )


def check_prediction_type(prediction_type: str) -> None:
    """Raise UnknownNameError for anything but "epsilon", "sample" and "v_prediction"."""
    if prediction_type not in PREDICTION_TYPES:
        raise unknown_name("prediction_type", prediction_type, PREDICTION_TYPES)


def predict_x0_and_epsilon(
    model_output: Tensor, sample: Tensor, alpha_bar: float, prediction_type: str
) -> tuple[Tensor, Tensor]:
    """(x0_hat, epsilon_hat) with sample = sqrt(alpha_bar) x0_hat + sqrt(1 - alpha_bar) epsilon_hat.

    The network predicts epsilon, x0 ("sample") or v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x0
    (arXiv:2202.00512).
    """
    a, b = sqrt(alpha_bar), sqrt(1 - alpha_bar)
    if prediction_type == "epsilon":
        return (sample - b * model_output) / a, model_output
    if prediction_type == "sample":
        return model_output, (sample - a * model_output) / b
    check_prediction_type(prediction_type)
    return a * sample - b * model_output, b * sample + a * model_output


def shift_epsilon(model_output: Tensor, shift: Tensor, alpha_bar: float, prediction_type: str) -> Tensor:
    """The network's output, of any prediction type, once its noise estimate is moved to epsilon_hat + shift."""
    a, b = sqrt(alpha_bar), sqrt(1 - alpha_bar)
    if prediction_type == "epsilon":
        return model_output + shift
    if prediction_type == "sample":
        return model_output - b / a * shift
    check_prediction_type(prediction_type)
    return model_output + shift / a
