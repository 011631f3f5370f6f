"""MMPS, Moment Matching Posterior Sampling (arXiv:2405.13712)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_bool, check_int
from ..operators import Measurement, SVDOperator
from .data_terms import posterior_noise
from .estimate import Estimate
from .renoising import ancestral, ancestral_share
from .uncertainty import UncertaintyScheduler


def mmps_estimate(
    x0_hat: Tensor,
    measurement: Measurement,
    pullback: Callable[[Tensor], Tensor],
    sigma: float,
    iterations: int,
) -> Tensor:
    """The estimate of x0 given x and y, where x0 given x is taken as N(x0_hat, sigma^2 J), J = d x0_hat / d x.

        x0_hat + sigma^2 J^T A^T u,  (sigma_y^2 I + sigma^2 A J^T A^T) u = y - A x0_hat

    sigma^2 J is the covariance of x0 given x, so J is symmetric where the network is exact; J^T stands for both here.
    The system is solved by conjugate gradients from zero, one product with J^T for each iteration; an image stops where
    the curvature isn't positive.

    Args:
        x0_hat: (B, C, H, W).
        measurement: of B images, by a linear operator.
        pullback: v -> J^T v.
        sigma: the noise level of x.
        iterations: of conjugate gradients.
    """
    operator = measurement.linear
    residual = measurement.measured_y - operator.forward(x0_hat)
    direction, change = residual, torch.zeros_like(x0_hat)
    norm = _dot(residual, residual)
    going = norm > 0
    for _ in range(iterations):
        pulled = pullback(operator.adjoint(direction))
        image = torch.add(measurement.sigma_y**2 * direction, operator.forward(pulled), alpha=sigma**2)
        curvature = _dot(direction, image)
        going = going & (curvature > 0)
        step = torch.where(going, norm / torch.where(going, curvature, 1.0), 0.0)
        change = change + step * pulled
        residual = residual - step * image
        following = _dot(residual, residual)
        direction = residual + torch.where(going, following / torch.where(going, norm, 1.0), 0.0) * direction
        norm = following
        going = going & (norm > 0)
    return torch.add(x0_hat, change, alpha=sigma**2)


def mmps_update(
    x0: Tensor,
    sample: Tensor,
    noise: Tensor,
    measurement: Measurement,
    sigma: float,
    sigma_next: float,
    variance: float,
) -> Tensor:
    """An ancestral step, with the noise that makes its variance that of the posterior.

        x' = x0 + q (x - x0) + sigma' sqrt(1 - q) z + (1 - q) Cov[x0 | x, y]^1/2 z',  q = (sigma' / sigma)^2

    The covariance is that of N(x0_hat, variance I) given y; the two draws are one.

    Args:
        x0: (B, C, H, W), the estimate given x and y.
        sample, noise: (B, C, H, W), x and standard normal noise.
        measurement: of B images, by an operator with an SVD.
        sigma, sigma_next: noise levels.
        variance: of x0 given x.
    """
    q = ancestral_share(sigma, sigma_next)
    spread = posterior_noise(noise, measurement, variance, share=1 - q, added=sigma_next**2 * (1 - q))
    return torch.lerp(x0, sample, q).add_(spread)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)


class MMPSScheduler(UncertaintyScheduler):
    """MMPS (arXiv:2405.13712): DDPM steps from the estimate given x and y, by the network's own Jacobian.

    With `covariance`, a posterior sample of a Gaussian prior in any number of steps; a network's pictures become noisy
    by it, since its errors are no white noise.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        iterations: of conjugate gradients in each step, each a pass back through the network.
        covariance: whether steps add the noise of `mmps_update`, for operators with an SVD; the paper's don't.
        denoise_last: whether the last step returns the estimate instead of a draw, whose noise is visible.
        prior_sd: g of the variance sigma^2 g^2 / (sigma^2 + g^2) of that noise; None is the network's measured error.
        denoising_errors: that error, [[sigma, root mean square error], ...]; None is that of the bundled prior.

    Raises:
        InvalidInputError: an option out of range.
    """

    default_steps = 100
    needs_gradient = True

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        iterations: int = 2,
        covariance: bool = False,
        denoise_last: bool = True,
        prior_sd: float | None = None,
        denoising_errors: list[list[float]] | None = None,
    ) -> None:
        schedule = (num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        super().__init__(*schedule, prior_sd, denoising_errors)
        check_int("iterations", iterations, 1)
        check_bool("covariance", covariance)
        check_bool("denoise_last", denoise_last)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`mmps_update` from `mmps_estimate`."""
        sigma, sigma_next = estimate.sigma, estimate.sigma_next
        x0 = mmps_estimate(estimate.x0_hat, measurement, estimate.pullback, sigma, self.config.iterations)
        if sigma_next == 0 and self.config.denoise_last:
            return x0
        if self.config.covariance and isinstance(measurement.operator, SVDOperator):
            known = (x0, estimate.sample, estimate.noise)
            return mmps_update(*known, measurement, sigma, sigma_next, self.variance(sigma))
        return ancestral(x0, estimate.sample, estimate.noise, sigma, sigma_next)
