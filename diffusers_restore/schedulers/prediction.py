"""What a network predicts, as x0 and as noise. All tensors (B, C, H, W), alpha_bar in (0, 1)."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from ..errors import InvalidInputError, unknown_name
from ..tensors import described, is_dense
from .ddpm import SCHEDULE as SCHEDULE  # these four can be imported from here, as before
from .ddpm import VARIANCE_PRESERVING as VARIANCE_PRESERVING
from .ddpm import check_variance_preserving as check_variance_preserving
from .ddpm import stated_schedule as stated_schedule

PredictionType = Literal["epsilon", "sample", "v_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "sample", "v_prediction")


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
        return torch.sub(sample, model_output, alpha=b).div_(a), model_output
    if prediction_type == "sample":
        return model_output, torch.sub(sample, model_output, alpha=a).div_(b)
    check_prediction_type(prediction_type)
    return torch.sub(a * sample, model_output, alpha=b), torch.add(b * sample, model_output, alpha=a)


def first_channels(name: str, output: object, sample: Tensor) -> Tensor:
    """The C channels of a network's output (B, C or 2C, H, W) for a sample (B, C, H, W); the rest is a variance.

    Raises:
        InvalidInputError: an output of another shape, or that isn't real floats.
    """
    batch, channels, *size = sample.shape
    if (
        not is_dense(output)
        or not output.is_floating_point()
        or output.shape not in ((batch, channels, *size), (batch, 2 * channels, *size))
    ):
        raise InvalidInputError(
            f"{name} must be floats {tuple(sample.shape)}, or of twice the channels with a learned variance, got "
            f"{described(output)}"
        )
    return output[:, :channels]


def shift_epsilon(model_output: Tensor, shift: Tensor, alpha_bar: float, prediction_type: str) -> Tensor:
    """The network's output, of any prediction type, after moving its noise estimate to epsilon_hat + shift."""
    a, b = sqrt(alpha_bar), sqrt(1 - alpha_bar)
    if prediction_type == "epsilon":
        return model_output + shift
    if prediction_type == "sample":
        return model_output - b / a * shift
    check_prediction_type(prediction_type)
    return model_output + shift / a
