"""DPIR, plug-and-play restoration by half-quadratic splitting (arXiv:2008.13751), with the denoiser of a DDPM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_int, check_real
from ..operators import Measurement, SVDOperator
from ..operators.base import scale
from .data_terms import posterior_mean
from .estimate import Estimate
from .levels import log_levels
from .zero_shot import ZeroShotScheduler

START = 0.6
"""The noise level at which a picture of which something is missing begins, in units of [-1, 1]."""
LOWEST = 0.01
"""The noise level at which the chain ends, unless y has more noise."""


def dpir_update(x0_hat: Tensor, measurement: Measurement, sigma: float, prior_weight: float = 0.23) -> Tensor:
    """The picture that agrees with y near the denoised one: half-quadratic splitting.

        argmin_z |A z - y|^2 + lambda (sigma_y / sigma)^2 |z - x0_hat|^2

    Args:
        x0_hat: (B, C, H, W), the denoised picture; it is clipped to [-1, 1].
        measurement: of B images, by a linear operator.
        sigma: the noise level of the denoiser.
        prior_weight: lambda > 0.
    """
    return posterior_mean(x0_hat.clamp(-1, 1), measurement, sigma**2 / prior_weight)


def dpir_start(measurement: Measurement) -> float:
    """The noise level of the first estimate: that of its worst coefficient, but no more than `START`, if that can be.

    r = sigma_y / s is the noise of a coefficient. Where all are measured to less than `START`, as by noise alone, the
    largest r is the level of them all (at least `LOWEST`); coefficients with more are left out of the first estimate,
    as missing ones are.
    """
    operator = measurement.operator
    if not isinstance(operator, SVDOperator):
        return max(START, measurement.sigma_y)
    s = operator.singular_values.values
    least = measurement.sigma_y / float(s.max()) if bool((s > 0).any()) else 0.0
    start = max(START, least)
    if not operator.complete or not bool((s > 0).all()):
        return start
    return min(max(LOWEST, measurement.sigma_y / float(s.min())), start)


def dpir_first(measurement: Measurement, sigma: float, like: Tensor) -> Tensor:
    """The first estimate: A^+ y without the coefficients whose noise sigma_y / s is above `sigma`.

    Args:
        measurement: of B images, by a linear operator.
        sigma: the noise level of the start.
        like: (B, C, H, W).
    """
    operator = measurement.operator
    if not isinstance(operator, SVDOperator):
        return posterior_mean(torch.zeros_like(like), measurement, sigma**2)
    s = operator.singular_values.like(like)
    known = (s > 0) & (s * sigma * (1 + 1e-4) >= measurement.sigma_y)
    return operator.v(scale(measurement.y_bar, known.to(like.dtype)))


class DPIRScheduler(ZeroShotScheduler):
    """DPIR (arXiv:2008.13751): denoise, and agree with y by `dpir_update`, at falling noise levels. No noise is drawn.

    One estimate with a high PSNR, near the mean of the posterior and as smooth, not a sample. The levels fall from
    `dpir_start` to sigma_y, or to 0.01, by equal ratios; where both are the same, as for noise alone, one step is all.
    The last step returns what agrees with y, or the denoised picture where y is noisy.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        prior_weight: lambda > 0, how much the network counts against the data.

    Raises:
        InvalidInputError: an option out of range.
    """

    default_steps = 20
    result = "estimate"

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        prior_weight: float = 0.23,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("prior_weight", prior_weight, above=0)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """As `ZeroShotScheduler.set_timesteps`; `prepare` chooses n levels that suit the measurement."""
        self._count: int | None = None
        if num_inference_steps is None or timesteps is not None:
            super().set_timesteps(num_inference_steps, device, timesteps)
            return
        self._count = check_int("num_inference_steps", num_inference_steps, 1, len(self))
        self._use_timesteps(self.nearest_timesteps(log_levels(START, LOWEST, self._count)), device)

    def prepare(self, measurement: Measurement) -> None:
        """As `ZeroShotScheduler.prepare`; chooses the noise levels, unless timesteps were given."""
        super().prepare(measurement)
        if self._count is None:
            return
        start = dpir_start(measurement)
        end = min(start, max(LOWEST, measurement.sigma_y))
        count = self._count if start > 1.001 * end else 1
        self._use_timesteps(self.nearest_timesteps(log_levels(start, end, count)), self.timesteps.device)

    def first_state(self, measurement: Measurement, noise: Tensor, sigma: float) -> Tensor:
        """`dpir_first`; the noise isn't used."""
        return dpir_first(measurement, sigma, noise)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`dpir_update`, and at the end of a noisy chain the denoised picture."""
        if estimate.sigma_next == 0 and measurement.sigma_y >= LOWEST:
            return estimate.x0_hat.clone()
        return dpir_update(estimate.x0_hat, measurement, estimate.sigma, self.config.prior_weight)
