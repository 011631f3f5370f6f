"""Shared by the schedulers of zero-shot methods: the noise schedule of a DDPM, on which pictures are restored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError, check_int
from ..operators import Measurement
from ..tensors import check_floats, check_shape, described
from .ddpm import check_config, check_variance_preserving, make_betas, stated_schedule, variance_exploding
from .prediction import check_prediction_type
from .timesteps import TimestepsMixin, check_timesteps, check_total, choose_timesteps
from .timesteps import check_timestep as check_timestep  # it can be imported from here, as before


@dataclass
class ZeroShotSchedulerOutput(BaseOutput):
    """The output of a step, both (B, C, H, W).

    Attributes:
        prev_sample: the next state x_t' of the chain, in the scale of the network's input.
        pred_original_sample: the network's x0_hat, before the data corrected it.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class ZeroShotScheduler(TimestepsMixin, SchedulerMixin, PlainConfigMixin, ABC):
    """A method that restores y = A x + sigma_y z with the network of a DDPM, which was trained without A.

    A method consists of `start` and `step`; `DDRMPipeline` runs it, with `pipe.scheduler = TheMethod.from_config(
    pipe.scheduler.config)`. Its own options go into its `__init__`, after those of the noise schedule, or are named in
    `step_options`. The configuration is the part of `DDPMScheduler`'s that describes the network.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: as in `DDPMScheduler`.
        prediction_type: "epsilon", "sample" or "v_prediction".

    Raises:
        InvalidInputError: betas outside (0, 1).
        UnknownNameError: another prediction type.
    """

    order = 1
    _compatibles = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"]

    step_options: tuple[str, ...] = ()
    """The options of `step` that a call of the pipeline may give: some of "eta" and "eta_b"."""

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
    ) -> None:
        check_prediction_type(prediction_type)
        steps = check_total(num_train_timesteps)
        betas = make_betas(steps, beta_start, beta_end, beta_schedule, trained_betas)
        self.betas = betas
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.init_noise_sigma = 1.0
        self._alpha_bars: list[float] = [*self.alphas_cumprod.tolist(), 1.0]  # the last is that of t = -1, no noise
        self._use_all_timesteps()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As `ConfigMixin.from_config`, from the configuration of any scheduler of a DDPM, or of `ScoreSdeVeScheduler`.

        Raises:
            InvalidInputError: no mapping, or of another process (flow matching, consistency models, EDM).
        """
        config = check_config(config)
        if config.get("_class_name") == "ScoreSdeVeScheduler":
            config = {**variance_exploding(config), "_class_name": cls.__name__}
        check_variance_preserving(config)
        return super().from_config(stated_schedule(config), return_unused_kwargs, **kwargs)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps: n of "leading" spacing, 0, T // n, 2 (T // n), ..., or an explicit list.

        Args:
            num_inference_steps: 1..T.
            device: of `timesteps`.
            timesteps: decreasing whole numbers in 0..T-1; the first may be far below T - 1.

        Raises:
            InvalidInputError: not exactly one of the two, or one outside its range.
        """
        self._use_timesteps(choose_timesteps(num_inference_steps, timesteps, len(self), "leading"), device)

    def alpha_bar(self, timestep: int) -> float:
        """alpha_bar of a timestep of 0..T-1, or 1.0 for -1, where no noise is left."""
        return self._alpha_bars[check_int("timestep", timestep, -1, len(self) - 1)]

    def sigma(self, timestep: int) -> float:
        """The noise level sqrt((1 - alpha_bar) / alpha_bar) of a timestep, in units of the clean image."""
        alpha_bar = self.alpha_bar(timestep)
        return sqrt((1 - alpha_bar) / alpha_bar)

    @abstractmethod
    def start(self, measurement: Measurement, noise: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The first state of the chain, (B, C, H, W), at `timestep` (default: the first that was set).

        Args:
            measurement: of B images.
            noise: (B, C, H, W) standard normal.
            timestep: where the chain starts.
        """

    @abstractmethod
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
        """From x_t to the next state.

        Args:
            model_output: (B, C or 2C, H, W); a learned variance in the second half is ignored.
            timestep: one of `timesteps`.
            sample: x_t, (B, C, H, W).
            measurement: of B images.
            generator: for the noise, one or one per image.
            variance_noise: the noise itself, (B, C, H, W), instead of a generator.
            return_dict: False returns (prev_sample, pred_original_sample).
        """

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, one timestep per image, or one for all.

        Raises:
            InvalidInputError: samples and noise that are no float tensors of one shape, or no such timesteps.
        """
        check_floats("original_samples", original_samples)
        check_shape("noise", noise, "original_samples", original_samples.shape, original_samples.device)
        timesteps = timesteps.reshape(1) if isinstance(timesteps, Tensor) and timesteps.ndim == 0 else timesteps
        check_timesteps(timesteps, len(original_samples), len(self))
        wide = torch.promote_types(original_samples.dtype, torch.float32)  # half precision would round every term
        alpha_bars = self.alphas_cumprod.to(original_samples.device, wide)[timesteps.to(original_samples.device).long()]
        alpha_bars = alpha_bars.reshape(-1, *[1] * (original_samples.ndim - 1))
        noised = alpha_bars.sqrt() * original_samples + (1 - alpha_bars).sqrt() * noise
        return noised.to(original_samples.dtype)


def check_batch(sample: Tensor, measurement: Measurement) -> None:
    """Raise an error unless `sample` has the shape of the measured images, and their dtype and device."""
    if not isinstance(measurement, Measurement):
        raise InvalidInputError(f"measurement must be a Measurement, got {described(measurement)}")
    measurement.operator.check_input(sample)
    if len(sample) != len(measurement.y):
        raise InvalidInputError(f"a batch of {len(sample)} does not fit a measurement of {len(measurement.y)} images")
    if sample.device != measurement.y.device:
        raise InvalidInputError(f"the sample is on {sample.device}, the measurement on {measurement.y.device}")
