"""RePaint, inpainting with resampling (arXiv:2201.09865), for any linear operator."""

from __future__ import annotations

from math import sqrt

from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor, lerp

from ..errors import check_int
from ..operators import Measurement
from .data_terms import put_measured
from .estimate import Estimate
from .renoising import ancestral_share
from .travel import TimeTravelScheduler


def repaint_update(
    x0_hat: Tensor,
    sample: Tensor,
    noise: Tensor,
    measurement: Measurement,
    sigma: float,
    sigma_next: float,
    sigma_up: float,
) -> Tensor:
    """One step from the noise level sigma to sigma' = `sigma_next`, and from there up to `sigma_up`, in VE form.

    What isn't measured takes an ancestral step, what is measured comes from y at the noise level sigma':

        missing:  x0_hat + q (x - x0_hat) + sigma' sqrt(1 - q) z,  q = (sigma' / sigma)^2
        measured: y_bar + sqrt(sigma'^2 - r^2) z,  r = sigma_y / s

    The way up adds noise of variance sigma_up^2 - sigma'^2 to both, here in one draw with theirs.

    Args:
        x0_hat, sample, noise: (B, C, H, W), the network's estimate, x, and standard normal noise.
        measurement: of B images, by a linear operator.
        sigma, sigma_next: noise levels; sigma_next is 0 at the last step.
        sigma_up: where the chain goes on, sigma_next or above it.
    """
    q = ancestral_share(sigma, sigma_next)
    x = lerp(x0_hat, sample, q).add_(noise, alpha=sqrt(sigma_next**2 * (1 - q) + sigma_up**2 - sigma_next**2))
    return put_measured(x, noise, measurement, sigma_up)


class ZeroShotRePaintScheduler(TimeTravelScheduler):
    """RePaint (arXiv:2201.09865) for any linear operator: stretches of the chain are run again and again.

    A step is `repaint_update`; diffusers' own `RePaintScheduler` is for masks. Each stretch of `travel_length`
    timesteps is run `travel_repeats` times, with the state re-noised from its end to its start in between, so that what
    is painted comes to fit what is known.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        travel_length: timesteps in a stretch.
        travel_repeats: how often each is run, 1..1000; 1 is no travel.

    Raises:
        InvalidInputError: an option out of range.
    """

    default_steps = 250

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        travel_length: int = 10,
        travel_repeats: int = 10,
    ) -> None:
        check_int("travel_length", travel_length, 1)
        check_int("travel_repeats", travel_repeats, 1, 1000)
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`repaint_update`."""
        known = (estimate.x0_hat, estimate.sample, estimate.noise)
        levels = (estimate.sigma, estimate.sigma_next, estimate.sigma_up)
        return repaint_update(*known, measurement, *levels)
