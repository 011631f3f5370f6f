"""DAPS, Decoupled Annealing Posterior Sampling (arXiv:2407.01521), with the inner draw in closed form."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_bool, check_int
from ..operators import Measurement, Operator
from .data_terms import posterior_mean, posterior_noise
from .estimate import Estimate
from .levels import karras_levels
from .uncertainty import UncertaintyScheduler
from .zero_shot import why_no_svd

LEVELS = (20.0, 0.02)
"""The noise levels between which the chain runs, in units of [-1, 1]."""


def daps_update(
    x0_hat: Tensor, noise: Tensor, measurement: Measurement, variance: float, sigma_next: float, *, draw: bool = True
) -> Tensor:
    """x0 drawn given x and y, where x0 given x is taken as N(x0_hat, r^2 I), and noised to sigma' anew, in VE form.

        x' = x0_hat + V [w (y_bar - V^T x0_hat)] + sqrt(r^2 (1 - w) + sigma'^2) z,  w = r^2 s^2 / (r^2 s^2 + sigma_y^2)

    by coefficients; the two draws are one. What the paper samples by 100 steps of Langevin dynamics is exact here.

    Args:
        x0_hat, noise: (B, C, H, W), the network's estimate and standard normal noise.
        measurement: of B images, by an operator with an SVD.
        variance: r^2 > 0, of x0 given x.
        sigma_next: the next noise level.
        draw: False returns the mean of the draw, where sigma_next is 0.
    """
    mean = posterior_mean(x0_hat, measurement, variance)
    if sigma_next == 0 and not draw:
        return mean
    return mean + posterior_noise(noise, measurement, variance, added=sigma_next**2)


class DAPSScheduler(UncertaintyScheduler):
    """DAPS (arXiv:2407.01521) with its inner draw in closed form: posterior samples without a gradient.

    A step is `daps_update`, exact for a Gaussian prior with its own r^2. The levels are those of Karras et al.
    (arXiv:2206.00364, rho 7) from 20 to 0.02, at the nearest timesteps.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        ode_steps: evaluations for each x0_hat: 1 is the network's estimate, more are Euler steps of the flow's ODE.
        denoise_last: whether the last step returns the mean instead of a draw, whose noise is visible.
        prior_sd: g of r^2 = sigma^2 g^2 / (sigma^2 + g^2); None is the network's measured error.
        denoising_errors: that error, [[sigma, root mean square error], ...]; None is that of the bundled prior.

    Raises:
        InvalidInputError: an option out of range.
    """

    default_steps = 50
    needs_model = True
    result = "posterior sample"

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        ode_steps: int = 1,
        denoise_last: bool = True,
        prior_sd: float | None = None,
        denoising_errors: list[list[float]] | None = None,
    ) -> None:
        schedule = (num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        super().__init__(*schedule, prior_sd, denoising_errors)
        check_int("ode_steps", ode_steps, 1)
        check_bool("denoise_last", denoise_last)

    @classmethod
    def why_not(cls, operator: Operator, sigma_y: float) -> str | None:
        """It needs a fast SVD."""
        return why_no_svd(operator)

    def space(self, count: int) -> list[int]:
        """The timesteps nearest to n noise levels of Karras et al."""
        return self.nearest_timesteps(karras_levels(*LEVELS, count))

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`daps_update`."""
        x0_hat = self._by_ode(estimate)
        draw = not self.config.denoise_last
        return daps_update(
            *(x0_hat, estimate.noise, measurement, self.variance(estimate.sigma), estimate.sigma_next), draw=draw
        )

    def _by_ode(self, estimate: Estimate) -> Tensor:
        """x0_hat after Euler steps of dx / d sigma = epsilon_hat, down to the lowest level."""
        x, x0_hat, epsilon_hat, sigma = estimate.sample, estimate.x0_hat, estimate.epsilon_hat, estimate.sigma
        if self.config.ode_steps == 1 or estimate.timestep == 0:
            return x0_hat
        lowest = min(LEVELS[1], sigma)
        inner = self.nearest_timesteps(karras_levels(sigma, lowest, min(self.config.ode_steps, estimate.timestep + 1)))
        for t in [t for t in inner if t < estimate.timestep]:
            x = torch.add(x, epsilon_hat, alpha=self.sigma(t) - sigma)
            sigma = self.sigma(t)
            x0_hat, epsilon_hat = estimate.evaluate(x, t)
        return x0_hat
