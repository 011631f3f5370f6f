"""DDRM-JPEG, JPEG artefact correction (arXiv:2209.11888)."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_real
from ..operators import Measurement, Operator, SVDOperator
from .estimate import Estimate
from .levels import leading_below, share_of
from .zero_shot import ZeroShotScheduler


def ddrm_jpeg_update(
    x0_hat: Tensor,
    epsilon_hat: Tensor,
    noise: Tensor,
    measurement: Measurement,
    sigma_next: float,
    eta: float = 1.0,
    eta_b: float = 0.4,
) -> Tensor:
    """One step to the noise level sigma' = `sigma_next`, in VE form, for any operator with a pseudo-inverse.

        x0c = x0_hat + A^+ y - A^+ A(x0_hat)
        x'  = (1 - eta_b) x0_hat + eta_b x0c + sigma' ((1 - eta) epsilon_hat + eta z)

    For JPEG, A codes and decodes a picture and A^+ is the identity.

    Args:
        x0_hat, epsilon_hat, noise: (B, C, H, W), the network's estimates and standard normal noise.
        measurement: of B images.
        sigma_next: the next noise level; 0 at the last step.
        eta, eta_b: in [0, 1].
    """
    operator = measurement.operator
    change = operator.pinv(measurement.y) - operator.pinv(operator.forward(x0_hat))
    x = torch.add(x0_hat, change, alpha=eta_b)
    return x.add_(epsilon_hat, alpha=(1 - eta) * sigma_next).add_(noise, alpha=eta * sigma_next)


class DDRMJPEGScheduler(ZeroShotScheduler):
    """DDRM-JPEG (arXiv:2209.11888): takes away the artefacts of JPEG, whose quality has to be known.

    A step is `ddrm_jpeg_update`; the chain begins at the noised picture. sigma_y isn't used, but to refuse what this
    method can't restore: where A^+ makes noise louder than the picture, as for blurs, it would end in noise.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        eta: share of new noise in each step, [0, 1].
        eta_b: how far the estimate follows the data, [0, 1].
        start_share: t / T, where the chain starts, (0, 1].

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
        eta: float = 1.0,
        eta_b: float = 0.4,
        start_share: float = 0.3,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("eta", eta, 0, 1)
        check_real("eta_b", eta_b, 0, 1)
        check_real("start_share", start_share, above=0, maximum=1)

    @classmethod
    def why_not(cls, operator: Operator, sigma_y: float) -> str | None:
        """It takes all operators, but no noise that their pseudo-inverse makes louder than the picture."""
        if not isinstance(operator, SVDOperator):
            return None
        values = operator.singular_values.values
        loudness = sigma_y * float(torch.where(values > 0, 1 / values, 0.0).square().mean().sqrt())
        return f"it has a pseudo-inverse that amplifies the noise to {loudness:.3g}" if loudness > 1 else None

    @property
    def default_count(self) -> int:
        """`default_steps`, or as many timesteps as there are below the start."""
        return min(self.default_steps, share_of(self.config.start_share, len(self)))

    def space(self, count: int) -> list[int]:
        """`count` timesteps of "leading" spacing below the start."""
        return leading_below(self.config.start_share, count, len(self))

    def first_state(self, measurement: Measurement, noise: Tensor, sigma: float) -> Tensor:
        """The noised picture."""
        return measurement.operator.pinv(measurement.y) + sigma * noise

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`ddrm_jpeg_update`."""
        known = (estimate.x0_hat, estimate.epsilon_hat, estimate.noise)
        weights = (self.config.eta, self.config.eta_b)
        return ddrm_jpeg_update(*known, measurement, estimate.sigma_next, *weights)
