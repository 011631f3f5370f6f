"""ILVR, Iterative Latent Variable Refinement (arXiv:2108.02938)."""

from __future__ import annotations

from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_real
from ..operators import Measurement
from .data_terms import put_measured
from .estimate import Estimate
from .renoising import ancestral
from .zero_shot import ZeroShotScheduler


def ilvr_update(
    x0_hat: Tensor,
    sample: Tensor,
    noise: Tensor,
    measurement: Measurement | None,
    sigma: float,
    sigma_next: float,
) -> Tensor:
    """One step from the noise level sigma to sigma' = `sigma_next`, in VE form.

    An ancestral step, after which what was measured is exchanged for y at the noise level sigma':

        x'' = x0_hat + q (x - x0_hat) + sigma' sqrt(1 - q) z,  q = (sigma' / sigma)^2
        x'  = x'' + A^+ (y + sigma' A z - A x'')

    The paper's phi, down and up by N, is A^+ A for block means; y that is noisy itself gets that much less noise.

    Args:
        x0_hat, sample, noise: (B, C, H, W), the network's estimate, x, and standard normal noise.
        measurement: of B images, by a linear operator; None leaves the state as it is.
        sigma, sigma_next: noise levels; sigma_next is 0 at the last step.
    """
    x = ancestral(x0_hat, sample, noise, sigma, sigma_next)
    return x if measurement is None else put_measured(x, noise, measurement, sigma_next)


class ILVRScheduler(ZeroShotScheduler):
    """ILVR (arXiv:2108.02938): DDPM steps, after each of which y, noised, replaces what was measured.

    A step is `ilvr_update`.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        stop: share of the T timesteps, the last ones, in which y is no longer used, [0, 1]; 0 keeps the data, more lets
            the network depart from it.

    Raises:
        InvalidInputError: an option out of range.
    """

    default_steps = 100

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        stop: float = 0.0,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("stop", stop, 0, 1)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`ilvr_update`."""
        used = measurement if estimate.timestep >= self.config.stop * len(self) else None
        known = (estimate.x0_hat, estimate.sample, estimate.noise)
        return ilvr_update(*known, used, estimate.sigma, estimate.sigma_next)
