"""DPIR, plug-and-play restoration by half-quadratic splitting (arXiv:2008.13751), with the denoiser of a DDPM."""

from __future__ import annotations

from math import prod, sqrt

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor
from torch.nn import functional

from ..errors import check_real
from ..operators import LinearOperator, Measurement, Operator, SVDOperator
from ..operators.base import scale
from .data_terms import posterior_mean
from .estimate import Estimate
from .levels import log_levels
from .zero_shot import ZeroShotScheduler

LOWEST = 0.01
"""The noise level at which the chain ends, unless y has more noise, in units of [-1, 1]."""
HIGHEST = 20.0
"""The highest level of a start, where hardly anything of a picture is seen."""


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


def dpir_levels(measurement: Measurement) -> tuple[float, float]:
    """The highest and the lowest noise level of the chain.

    r = sigma_y / s is the noise of a coefficient. Where all are measured, the largest r is the level of the first
    estimate, as sigma_y is for noise alone. Where some are not, or have more noise than that, it has to be high enough
    for the network to see no shape in what is missing: 1, or the radius of the widest hole in pixels, or 1 / (16 q),
    where q is the share of the coefficients that is measured; at most 20. The lowest level is sigma_y sqrt(q), at least
    0.01.
    """
    operator = measurement.stated or measurement.operator
    share, radius = measured_share(operator), hole_radius(operator, measurement.y)
    start = min(HIGHEST, max(1.0, radius, 1 / (16 * share)))
    end = max(LOWEST, measurement.sigma_y * sqrt(share))
    if isinstance(measurement.operator, SVDOperator):
        s = measurement.operator.singular_values.values
        s = s[s > 0]  # of the product that the network meets: a grey picture has less of it than its own operator
        lowest, highest = (measurement.sigma_y / float(one) for one in (s.max(), s.min()))
        start = max(start, lowest)
        if measures_all(operator):
            start = min(max(LOWEST, highest), start)
            if start <= 1.001 * max(LOWEST, lowest):  # noise alone
                return start, start
    return start, min(start, end)


def one_level(start: float, end: float) -> bool:
    """Whether one evaluation of the network is all, as for noise alone."""
    return start <= 1.001 * end


def measures_all(operator: Operator) -> bool:
    """Whether every coefficient of a picture is measured, with noise or without."""
    return isinstance(operator, SVDOperator) and operator.complete and operator.measured_coefficients is None


def measured_share(operator: Operator) -> float:
    """q: the share of the coefficients of a picture that is measured; without an SVD, the size of y over that of x."""
    share = prod(operator.output_shape) / prod(operator.input_shape)
    if isinstance(operator, SVDOperator) and operator.measured_coefficients is not None:
        share *= float(operator.measured_coefficients.values.mean())
    return min(1.0, max(share, 1 / prod(operator.input_shape)))


def hole_radius(operator: Operator, like: Tensor) -> int:
    """How far the most distant pixel without any measurement is from one with, in steps to one of eight neighbours.

    A^T A of some noise shows where there is one. At most 20; 0 where nothing is measured at all, or A isn't linear.

    Args:
        operator: of B images, or of any number.
        like: a tensor (B, ...) of the dtype and on the device to work with.
    """
    if not isinstance(operator, LinearOperator):
        return 0
    weight, generator = torch.zeros(1, dtype=like.dtype, device=like.device), torch.Generator().manual_seed(0)
    for _ in range(4):
        noise = torch.randn(1, *operator.input_shape, generator=generator).to(like)
        weight = weight + operator.adjoint(operator.forward(noise.expand(len(like), -1, -1, -1))).square()
    weight = weight.amax(dim=1, keepdim=True)
    seen = (weight > 1e-6 * weight.max()).to(like.dtype)
    radius = 0
    while radius < HIGHEST and bool(seen.any()) and not bool(seen.all()):
        seen = functional.max_pool2d(seen, 3, stride=1, padding=1)
        radius += 1
    return radius


def dpir_first(measurement: Measurement, sigma: float, noise: Tensor) -> Tensor:
    """The first estimate: A^+ y without the coefficients whose noise sigma_y / s is above `sigma`, unless all are.

    Of a picture with noise alone, what isn't measured beside it gets noise of the same level, as the network expects:
    the colours of a grey picture, and the border of a canvas.

    Args:
        measurement: of B images, by a linear operator.
        sigma: the noise level of the start.
        noise: (B, C, H, W) standard normal.
    """
    operator = measurement.operator
    if not isinstance(operator, SVDOperator):
        return posterior_mean(torch.zeros_like(noise), measurement, sigma**2)
    s = operator.singular_values.like(noise)
    level = max(sigma, measurement.sigma_y / float(s.max()))  # the best coefficients are always there
    known = (s > 0) & (s * level * (1 + 1e-4) >= measurement.sigma_y)
    first = operator.v(scale(measurement.y_bar, known.to(noise.dtype)))
    stated = measurement.stated or operator
    if not measures_all(stated) or measures_all(operator) or not bool((known == (s > 0)).all()):
        return first
    return first + sigma * (noise - operator.v(scale(operator.vt(noise), (s > 0).to(noise.dtype))))


class DPIRScheduler(ZeroShotScheduler):
    """DPIR (arXiv:2008.13751): denoise, and agree with y, at falling noise levels; no noise is drawn.

    A step is `dpir_update`. One estimate with a high PSNR, near the mean of the posterior and as smooth, not a sample.
    The levels fall between those of `dpir_levels` by equal ratios; where both are the same, as for noise alone, one
    step is all. The last step returns what agrees with y, or the denoised picture where y has more noise than 0.01.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        prior_weight: lambda > 0, how much the network counts against the data. Less than 0.2 lets blurs diverge.

    Raises:
        InvalidInputError: an option out of range.
    """

    default_steps = 24
    result = "estimate"
    levels_of_operator = True
    _level: float = 0.0

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

    def space(self, count: int) -> list[int]:
        """The timesteps nearest to n noise levels; `prepare` chooses others, which suit the measurement."""
        return self.nearest_timesteps(log_levels(1.0, LOWEST, count))

    def prepare(self, measurement: Measurement) -> None:
        """As `ZeroShotScheduler.prepare`; chooses the noise levels, unless timesteps were given."""
        super().prepare(measurement)
        self._level = 0.0
        if self._asked is None:
            return
        start, end = dpir_levels(measurement)
        self._level = start
        count = 1 if one_level(start, end) else self._asked
        self._use_timesteps(self.nearest_timesteps(log_levels(start, end, count)), self.timesteps.device)

    def first_state(self, measurement: Measurement, noise: Tensor, sigma: float) -> Tensor:
        """`dpir_first`."""
        level = max(sigma, self._level)  # the nearest timestep may be a little below what was wanted
        return dpir_first(measurement, level, noise)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`dpir_update`, and at the end of a noisy chain the denoised picture."""
        if estimate.sigma_next == 0 and measurement.sigma_y >= LOWEST:
            return estimate.x0_hat.clamp(-1, 1)
        return dpir_update(estimate.x0_hat, measurement, estimate.sigma, self.config.prior_weight)
