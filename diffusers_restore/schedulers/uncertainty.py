"""How far a network's x0_hat is from x0: the variance of x0 given x, which exact methods need."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from diffusers.configuration_utils import register_to_config

from ..errors import InvalidInputError, check_real
from .zero_shot import ZeroShotScheduler

DENOISING_ERRORS = [
    [0.0198, 0.0147],
    [0.0353, 0.0227],
    [0.0627, 0.0344],
    [0.112, 0.051],
    [0.2, 0.0733],
    [0.355, 0.102],
    [0.632, 0.135],
    [1.13, 0.172],
    [2.0, 0.214],
    [3.55, 0.257],
    [6.3, 0.3],
    [11.2, 0.349],
    [20.0, 0.402],
]
"""[[sigma, root mean square error of x0_hat], ...] of the bundled prior, by `evaluation.denoising.denoising_errors`."""


def gaussian_variance(sigma: float, prior_sd: float) -> float:
    """Of x0 given x = x0 + sigma z, for a Gaussian x0 of sd g: sigma^2 g^2 / (sigma^2 + g^2)."""
    return sigma**2 * prior_sd**2 / (sigma**2 + prior_sd**2)


def measured_variance(sigma: float, errors: Sequence[Sequence[float]]) -> float:
    """The squared error at a noise level, log-log interpolated; beyond the table as at its ends, at most sigma^2.

    Args:
        sigma: > 0.
        errors: [[sigma, root mean square error], ...] by increasing sigma.
    """
    levels = [level for level, _ in errors]
    i = min(max(1, sum(level < sigma for level in levels)), len(errors) - 1)
    (low, error_low), (high, error_high) = errors[i - 1], errors[i]
    share = min(1.0, max(0.0, log(sigma / low) / log(high / low)))
    error = exp(log(error_low) + share * log(error_high / error_low))
    return min(error, sigma) ** 2


class UncertaintyScheduler(ZeroShotScheduler):
    """A method that uses the variance of x0 given x, by `prior_sd` or by measured `denoising_errors`."""

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        prior_sd: float | None = None,
        denoising_errors: list[list[float]] | None = None,
    ) -> None:
        super().__init__(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type)
        if prior_sd is not None:
            check_real("prior_sd", prior_sd, above=0)
        if denoising_errors is not None:
            _check_errors(denoising_errors)

    def variance(self, sigma: float) -> float:
        """Of x0 given x = x0 + sigma z."""
        if self.config.prior_sd is not None:
            return gaussian_variance(sigma, self.config.prior_sd)
        return measured_variance(sigma, self.config.denoising_errors or DENOISING_ERRORS)


def _check_errors(errors: object) -> None:
    """Raise InvalidInputError unless it is a table of at least two levels, increasing, with positive numbers."""
    form = "denoising_errors must be [[sigma, root mean square error], ...] with increasing sigma"
    if not isinstance(errors, (list, tuple)) or len(errors) < 2:
        raise InvalidInputError(f"{form}, at least two, got {errors!r:.99}")
    before = 0.0
    for row in errors:
        if not isinstance(row, (list, tuple)) or len(row) != 2:
            raise InvalidInputError(f"{form}, got {row!r:.99}")
        before = check_real("a sigma of denoising_errors", row[0], above=before)
        check_real("an error of denoising_errors", row[1], above=0)
