"""DDNM and DDNM+, Denoising Diffusion Null-Space Models (arXiv:2212.00490)."""

from __future__ import annotations

from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import check_int, check_real
from ..operators import Measurement, Operator
from .data_terms import posterior_mean
from .estimate import Estimate
from .renoising import ddim
from .scheduling_ddrm import ddrm_update
from .travel import TimeTravelScheduler
from .zero_shot import why_no_svd, why_not_linear


def ddnm_update(
    x0_hat: Tensor,
    epsilon_hat: Tensor,
    noise: Tensor,
    measurement: Measurement,
    sigma_next: float,
    eta: float = 0.85,
) -> Tensor:
    """One step to the noise level sigma' = `sigma_next`, in VE form.

    Where y is exact, the estimate's part in the row space of A is exchanged for that of y, and all is re-noised:

        x' = x0_hat + A^+ (y - A x0_hat) + sigma' (sqrt(1 - eta^2) epsilon_hat + eta z)

    DDNM+, for a noisy y, scales this correction and its noise by coefficients of the SVD; that is `ddrm_update` with
    eta_b = 1.

    Args:
        x0_hat, epsilon_hat, noise: (B, C, H, W), the network's estimates and standard normal noise.
        measurement: of B images, by a linear operator; one with an SVD where sigma_y > 0.
        sigma_next: the next noise level; 0 at the last step.
        eta: share of the noise that is new, [0, 1].
    """
    if measurement.sigma_y > 0:
        return ddrm_update(x0_hat, epsilon_hat, noise, measurement, sigma_next, eta, eta_b=1.0)
    return ddim(posterior_mean(x0_hat, measurement, 1.0), epsilon_hat, noise, sigma_next, eta)


class DDNMScheduler(TimeTravelScheduler):
    """DDNM, and DDNM+ for noisy measurements, with time travel (arXiv:2212.00490).

    A step is `ddnm_update`. Time travel runs each stretch of `travel_length` timesteps `travel_repeats` times: its end
    is re-noised to its start. It costs as many evaluations and helps where little was measured.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        eta: share of the noise that is new, [0, 1].
        travel_length: timesteps in a stretch.
        travel_repeats: how often each is run, 1..1000; 1 is no travel.

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
        eta: float = 0.85,
        travel_length: int = 1,
        travel_repeats: int = 1,
    ) -> None:
        check_real("eta", eta, 0, 1)
        check_int("travel_length", travel_length, 1)
        check_int("travel_repeats", travel_repeats, 1, 1000)
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)

    @classmethod
    def why_not(cls, operator: Operator, sigma_y: float) -> str | None:
        """With noise it needs a fast SVD."""
        return why_no_svd(operator) if sigma_y > 0 else why_not_linear(operator)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """`ddnm_update`; where the chain travels, all noise of the higher level is new."""
        known = (estimate.x0_hat, estimate.epsilon_hat, estimate.noise)
        travels = estimate.sigma_up > estimate.sigma_next
        return ddnm_update(*known, measurement, estimate.sigma_up, 1.0 if travels else self.config.eta)
