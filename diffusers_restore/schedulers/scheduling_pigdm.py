"""PiGDM, Pseudoinverse-guided diffusion models (OpenReview 9_gsMA8MRKQ, ICLR 2023)."""

from __future__ import annotations

from collections.abc import Callable

from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_real
from ..operators import Measurement
from .data_terms import posterior_mean
from .estimate import Estimate
from .renoising import ancestral
from .uncertainty import gaussian_variance
from .zero_shot import ZeroShotScheduler


def pigdm_estimate(
    x0_hat: Tensor, measurement: Measurement, pullback: Callable[[Tensor], Tensor], variance: float
) -> Tensor:
    """The estimate moved towards y, as far as the network goes along, where x0 given x is taken as N(x0_hat, r^2 I).

        x0_hat + r^2 J^T A^T (r^2 A A^T + sigma_y^2)^-1 (y - A x0_hat)

    The score of y given x has sigma^2 in place of the first r^2. That is nearly the same at low noise. At strong noise
    it makes chains diverge on pictures: J is near 1 for their coarse structures, far above what r^2 stands for. r^2 is
    the paper's weight.

    Args:
        x0_hat: (B, C, H, W).
        measurement: of B images, by a linear operator.
        pullback: v -> J^T v, J = d x0_hat / d x.
        variance: r^2 > 0.
    """
    return x0_hat + pullback(posterior_mean(x0_hat, measurement, variance) - x0_hat)


class PiGDMScheduler(ZeroShotScheduler):
    """PiGDM (ICLR 2023, Song et al.): DDPM steps along the network's gradient, weighted by the covariance of y.

    They are ancestral steps from `pigdm_estimate`, with one pass back through the network for each.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        prior_sd: g > 0 of r^2 = sigma^2 g^2 / (sigma^2 + g^2), the sd of pictures; the paper has 1, pixels in
            [-1, 1] about 0.5.

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
        prior_sd: float = 1.0,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("prior_sd", prior_sd, above=0)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """An ancestral step from `pigdm_estimate`."""
        variance = gaussian_variance(estimate.sigma, self.config.prior_sd)
        x0 = pigdm_estimate(estimate.x0_hat, measurement, estimate.pullback, variance)
        return ancestral(x0, estimate.sample, estimate.noise, estimate.sigma, estimate.sigma_next)
