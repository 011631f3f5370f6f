"""DiffPIR, half-quadratic splitting within a diffusion chain (arXiv:2305.08995)."""

from __future__ import annotations

from math import sqrt

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_bool, check_real
from ..operators import Measurement
from .data_terms import posterior_mean
from .estimate import Estimate
from .levels import distinct
from .zero_shot import ZeroShotScheduler


def diffpir_update(
    x0_hat: Tensor,
    sample: Tensor,
    noise: Tensor,
    measurement: Measurement,
    sigma: float,
    sigma_next: float,
    prior_weight: float = 1.75,
    zeta: float = 0.3,
    clip: bool = False,
) -> Tensor:
    """One step from the noise level sigma to sigma' = `sigma_next`, in VE form.

    The data term is minimised near the network's estimate (half-quadratic splitting), and the noise of the state is
    that which the corrected estimate leaves:

        x0c = argmin_z |A z - y|^2 + lambda (sigma_y / sigma)^2 |z - x0_hat|^2
        x'  = x0c + sigma' (sqrt(1 - zeta) (x - x0c) / sigma + sqrt(zeta) z)

    Args:
        x0_hat, sample, noise: (B, C, H, W), the network's estimate, x, and standard normal noise.
        measurement: of B images, by a linear operator.
        sigma, sigma_next: noise levels; sigma_next is 0 at the last step.
        prior_weight: lambda > 0.
        zeta: share of the noise's variance that is new, [0, 1].
        clip: x0c is clipped to [-1, 1], but in the last step, whose result agrees with y.
    """
    corrected = posterior_mean(x0_hat, measurement, sigma**2 / prior_weight)
    if clip and sigma_next > 0:
        corrected = corrected.clamp(-1, 1)
    kept = sqrt(1 - zeta) * sigma_next / sigma
    return torch.lerp(corrected, sample, kept).add_(noise, alpha=sqrt(zeta) * sigma_next)


class DiffPIRScheduler(ZeroShotScheduler):
    """DiffPIR (arXiv:2305.08995): DPIR within a diffusion chain, re-noised after each agreement with y.

    A step is `diffpir_update`. The paper's lambda is 4 times `prior_weight`: its sigma_y is in units of [0, 1], and its
    sigma in those of [-1, 1].

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        prior_weight: lambda > 0, in units of [-1, 1]; 1.75 is the paper's for deblurring, 0.25 for inpainting.
        zeta: share of the noise's variance that is new, [0, 1]; the paper has 0.3 for deblurring, 1 for inpainting.
        clip: what agrees with y is clipped to [-1, 1], where pictures lie, but in the last step. At strong noise the
            data alone decide it, and what they hardly determine, as the fine detail of a blurred picture, becomes huge.
            The authors' code clips the network's estimate instead, which doesn't prevent that.

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
        prior_weight: float = 1.75,
        zeta: float = 0.3,
        clip: bool = True,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("prior_weight", prior_weight, above=0)
        check_real("zeta", zeta, 0, 1)
        check_bool("clip", clip)

    def space(self, count: int) -> list[int]:
        """T - 1 - T sqrt(i / (n - 1)), denser where the noise is weak."""
        last = len(self) - 1
        wanted = [last - min(last, int(len(self) * sqrt(i / max(1, count - 1)))) for i in range(count)]
        return distinct(wanted, len(self))

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`diffpir_update`."""
        known = (estimate.x0_hat, estimate.sample, estimate.noise)
        levels = (estimate.sigma, estimate.sigma_next)
        chosen = (self.config.prior_weight, self.config.zeta, self.config.clip)
        return diffpir_update(*known, measurement, *levels, *chosen)
