"""CCDF, Come-Closer-Diffuse-Faster (arXiv:2112.05146)."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_real
from ..operators import Measurement
from .data_terms import posterior_mean
from .estimate import Estimate
from .levels import leading_below, share_of
from .scheduling_ilvr import ilvr_update
from .zero_shot import ZeroShotScheduler


class CCDFScheduler(ZeroShotScheduler):
    """CCDF (arXiv:2112.05146): the steps of ILVR from a noised first guess instead of from pure noise.

    The steps are `ilvr_update`. The guess is A^+ y, or `posterior_mean` of a grey picture where y is noisy.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        start_share: t0 / T, where the chain starts, (0, 1]. A good guess needs little, such as 0.1; holes need noise.

    Raises:
        InvalidInputError: an option out of range.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        start_share: float = 0.5,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("start_share", start_share, above=0, maximum=1)

    @property
    def default_count(self) -> int:
        """`default_steps`, or as many timesteps as there are below the start."""
        return min(self.default_steps, share_of(self.config.start_share, len(self)))

    def space(self, count: int) -> list[int]:
        """`count` timesteps of "leading" spacing below t0."""
        return leading_below(self.config.start_share, count, len(self))

    def first_state(self, measurement: Measurement, noise: Tensor, sigma: float) -> Tensor:
        """The noised guess."""
        return posterior_mean(torch.zeros_like(noise), measurement, 1.0) + sigma * noise

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`ilvr_update`."""
        known = (estimate.x0_hat, estimate.sample, estimate.noise)
        return ilvr_update(*known, measurement, estimate.sigma, estimate.sigma_next)
