"""What a network predicts, as x0 and as noise. All tensors (B, C, H, W), alpha_bar in (0, 1)."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any, Literal

from diffusers.configuration_utils import FrozenDict
from torch import Tensor

from ..errors import InvalidInputError, unknown_name

PredictionType = Literal["epsilon", "sample", "v_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "sample", "v_prediction")

# Schedulers of diffusers whose betas are those of the DDPM that the network was trained with.
VARIANCE_PRESERVING = (
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DDRMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "RePaintScheduler",
    "UniPCMultistepScheduler",
)


def check_variance_preserving(config: Mapping[str, Any]) -> None:
    """Refuse the configuration of a scheduler whose network is no DDPM: its numbers would be read as another's.

    Raises:
        InvalidInputError: a VE, flow-matching, consistency or zero-terminal-SNR schedule, or one not known here.
    """
    name = config.get("_class_name")
    if name is None and isinstance(config, FrozenDict) and "beta_schedule" not in config:
        name = "without a beta_schedule"  # the configuration of a scheduler in memory has lost its class
    if name is not None and name not in VARIANCE_PRESERVING:
        raise InvalidInputError(
            f"scheduler {name} is not one of a variance-preserving process (DDPM), which this method needs; "
            f"accepted are: {', '.join(VARIANCE_PRESERVING)}"
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
