"""A custom zero-shot method."""

from __future__ import annotations

from math import sqrt

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from diffusers_restore.errors import check_real
from diffusers_restore.operators import Measurement
from diffusers_restore.schedulers.prediction import predict_x0_and_epsilon
from diffusers_restore.schedulers.zero_shot import ZeroShotScheduler, ZeroShotSchedulerOutput


def soft_projection(x0_hat: Tensor, measurement: Measurement, strength: float) -> Tensor:
    """x0_hat + strength A^+ (y - A x0_hat): at 1, a picture that agrees with y; at 0, the network's own.

    Args:
        x0_hat: (B, C, H, W).
        measurement: of B images, with any linear operator.
        strength: in [0, 1].
    """
    operator = measurement.operator
    return x0_hat + strength * operator.pinv(measurement.y - operator.forward(x0_hat))


class SoftProjectionScheduler(ZeroShotScheduler):
    """Steps of DDIM (arXiv:2010.02502, eta 0) whose estimate of the picture is moved by `soft_projection`.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        strength: how far the estimate follows the measurement, [0, 1].

    Raises:
        InvalidInputError: a strength out of range.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        strength: float = 1.0,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("strength", strength, 0, 1)

    def start(self, measurement: Measurement, noise: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """Noise alone."""
        return noise

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        measurement: Measurement,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> ZeroShotSchedulerOutput | tuple[Tensor, Tensor]:
        """From x_t to the next state; no noise is drawn."""
        t, following = self.following(timestep)
        output = model_output[:, : sample.shape[1]]
        x0_hat, epsilon_hat = predict_x0_and_epsilon(output, sample, self.alpha_bar(t), self.config.prediction_type)
        alpha_bar = self.alpha_bar(following)
        corrected = soft_projection(x0_hat, measurement, self.config.strength)
        prev_sample = sqrt(alpha_bar) * corrected + sqrt(1 - alpha_bar) * epsilon_hat
        if not return_dict:
            return prev_sample, x0_hat
        return ZeroShotSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0_hat)
