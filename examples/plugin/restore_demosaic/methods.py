"""A custom zero-shot method that uses the gradient of the network."""

from collections.abc import Callable

from diffusers.configuration_utils import register_to_config
from torch import Tensor

from diffusers_restore.errors import check_real
from diffusers_restore.operators import Measurement
from diffusers_restore.schedulers.estimate import Estimate
from diffusers_restore.schedulers.renoising import ddim
from diffusers_restore.schedulers.zero_shot import ZeroShotScheduler


def soft_projection(
    x0_hat: Tensor, measurement: Measurement, pullback: Callable[[Tensor], Tensor], strength: float
) -> Tensor:
    """x0_hat + strength J^T A^+ (y - A x0_hat): towards a picture that agrees with y, as far as the network goes along.

    Args:
        x0_hat: (B, C, H, W).
        measurement: of B images, with any linear operator.
        pullback: v -> J^T v, J = d x0_hat / d x.
        strength: in [0, 1].
    """
    operator = measurement.operator
    return x0_hat + strength * pullback(operator.pinv(measurement.y - operator.forward(x0_hat)))


class SoftProjectionScheduler(ZeroShotScheduler):
    """Steps of DDIM (arXiv:2010.02502, eta 0) whose estimate of the picture is moved by `soft_projection`.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: of the network.
        strength: how far the estimate follows the measurement, [0, 1].

    Raises:
        InvalidInputError: a strength out of range.
    """

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
        strength: float = 1.0,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        check_real("strength", strength, 0, 1)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """The next state, x / sqrt(alpha_bar), at the noise level `estimate.sigma_up`."""
        x0 = soft_projection(estimate.x0_hat, measurement, estimate.pullback, self.config.strength)
        return ddim(x0, estimate.epsilon_hat, estimate.noise, estimate.sigma_next, eta=0.0)
