"""DPS, Diffusion Posterior Sampling (arXiv:2209.14687)."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_real
from ..operators import Measurement
from .estimate import Estimate
from .renoising import ancestral
from .zero_shot import ZeroShotScheduler


def dps_gradient(x0_hat: Tensor, measurement: Measurement, pullback: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of |y - A x0_hat(x)| in x, (B, C, H, W), with the norm of each image for itself; 0 where it is 0.

    Args:
        x0_hat: (B, C, H, W).
        measurement: of B images, by a linear operator.
        pullback: v -> J^T v, J = d x0_hat / d x.
    """
    operator = measurement.linear
    residual = measurement.measured_y - operator.forward(x0_hat)
    norm = torch.linalg.vector_norm(residual, dim=(1, 2, 3), keepdim=True)
    return pullback(operator.adjoint(residual / -norm.clamp_min(torch.finfo(norm.dtype).tiny)))


class DPSScheduler(ZeroShotScheduler):
    """DPS (arXiv:2209.14687): DDPM steps, each followed by one against the data's misfit; fewer need a larger zeta.

    In the scale of a DDPM, x_t' <- x_t' - zeta grad_x_t |y - A x0_hat(x_t)|, with the norm of each image for itself.
    sigma_y isn't used; zeta has to suit it, the task and the number of steps.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        zeta: step size, (0, 1e6]; the paper has 0.3, and 0.5 for inpainting, at 1000 steps.

    Raises:
        InvalidInputError: an option out of range.
    """

    default_steps = 1000
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
        zeta: float = 0.3,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("zeta", zeta, above=0, maximum=1e6)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """An ancestral step and one along `dps_gradient`."""
        x = ancestral(estimate.x0_hat, estimate.sample, estimate.noise, estimate.sigma, estimate.sigma_next)
        # x is the state over sqrt(alpha_bar): once for the gradient's own scale, once for that of the next state.
        scale = sqrt((1 + estimate.sigma**2) * (1 + estimate.sigma_next**2))
        gradient = dps_gradient(estimate.x0_hat, measurement, estimate.pullback)
        return x.sub_(gradient, alpha=self.config.zeta * scale)
