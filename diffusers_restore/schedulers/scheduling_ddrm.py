"""DDRM, Denoising Diffusion Restoration Models (arXiv:2201.11793)."""

from __future__ import annotations

from math import inf, sqrt

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  # diffusers looks for it here
from torch import Tensor

from ..errors import InvalidInputError, check_real
from ..operators import Measurement, Operator
from ..operators.base import scale
from ..tensors import check_floats
from .estimate import Estimate, Model
from .timesteps import check_timestep
from .zero_shot import ZeroShotScheduler, ZeroShotSchedulerOutput, check_batch, why_no_svd


def ddrm_start(noise: Tensor, measurement: Measurement, sigma_start: float) -> Tensor:
    """The first state of a chain in VE form, x = x0 + sigma_start * noise as far as y determines it.

    A measured coefficient starts from N(y_bar, sigma_start^2 - r^2), r = sigma_y / s, where r < sigma_start; any other
    coefficient from N(0, sigma_start^2).

    Args:
        noise: (B, C, H, W) standard normal, in image space.
        measurement: of B images.
        sigma_start: the noise level of the first timestep, sqrt((1 - alpha_bar) / alpha_bar).
    """
    operator = measurement.svd
    s = operator.singular_values.like(noise)
    known = (s * sigma_start > measurement.sigma_y) & (s > 0)
    r = torch.where(known, measurement.sigma_y / torch.where(known, s, 1.0), 0.0)
    shrink = (sigma_start**2 - r.square()).clamp_min(0).sqrt() - sigma_start
    difference = scale(operator.vt(noise), torch.where(known, shrink, 0.0))
    difference += scale(measurement.y_bar, known.to(noise.dtype))
    return sigma_start * noise + operator.v(difference)


def ddrm_update(
    x0_hat: Tensor,
    epsilon_hat: Tensor,
    noise: Tensor,
    measurement: Measurement | None,
    sigma_next: float,
    eta: float = 0.85,
    eta_b: float = 1.0,
) -> Tensor:
    """One step of DDRM to the noise level sigma' = `sigma_next`, in VE form, by coefficients of the operator's SVD.

    With c = sqrt(1 - eta^2), r = sigma_y / s and z standard normal, a coefficient becomes

        not measured (s = 0):                   x0_hat + c sigma' epsilon_hat + eta sigma' z
        less noisy than y (s sigma' < sigma_y): x0_hat + c sigma' (y_bar - x0_hat) / r + eta sigma' z
        noisier (s sigma' >= sigma_y):          (1 - eta_b) x0_hat + eta_b y_bar + sqrt(sigma'^2 - eta_b^2 r^2) z

    (arXiv:2201.11793, equations 7 and 8). The first rule is applied to the whole image and the measured coefficients
    are then exchanged, x + V (u - V^T x), so that a thin SVD is enough and noise is drawn in image space.

    Args:
        x0_hat, epsilon_hat, noise: (B, C, H, W), the network's estimates and standard normal noise.
        measurement: of B images, with an operator that has an SVD; None if nothing is measured.
        sigma_next: the next noise level; 0 at the last step.
        eta, eta_b: in [0, 1].
    """
    c, eta_noise = sqrt(1 - eta**2) * sigma_next, eta * sigma_next
    if measurement is None:
        return torch.add(x0_hat, epsilon_hat, alpha=c).add_(noise, alpha=eta_noise)
    operator, sigma_y, y_bar = measurement.svd, measurement.sigma_y, measurement.y_bar
    measured = operator.measured_coefficients
    value = operator.single_value if sigma_y > 0 else inf
    # u - V^T x = pull (y_bar - V^T x0_hat) + renoise V^T z - c V^T epsilon_hat; pull and renoise depend on s only.
    if value is not None:  # one rule for every measured coefficient: one transform of the three images combined
        pull, renoise = _single_rule(sigma_y / value, sigma_next, c, eta_noise, eta_b)
        if measured is None and operator.complete:  # no coefficient is left for the first rule, and V V^T = I
            x = torch.add((1 - pull) * x0_hat, noise, alpha=renoise + eta_noise)
            return x.add_(operator.v(y_bar), alpha=pull)
        change = torch.mul(noise, renoise).sub_(x0_hat, alpha=pull).sub_(epsilon_hat, alpha=c)
        coefficients = operator.vt(change)
        x = torch.add(x0_hat, epsilon_hat, alpha=c).add_(noise, alpha=eta_noise)
        if coefficients is change and measured is not None:  # V = I, as of a mask
            return x.addcmul_(measured.like(noise), change.add_(y_bar, alpha=pull))
        if measured is not None:
            coefficients = scale(coefficients, measured.like(noise))
        return x.add_(operator.v(torch.add(coefficients, y_bar, alpha=pull)))
    s = operator.singular_values.like(x0_hat)
    noisier = s * sigma_next >= sigma_y
    pull_map = torch.where(noisier, eta_b, s * (c / sigma_y))  # s / sigma_y = 1 / r
    r = sigma_y / torch.where(s > 0, s, inf)
    spread = torch.where(noisier, (sigma_next**2 - (eta_b * r).square()).clamp_min(0).sqrt(), eta_noise)
    x0_coefficients = operator.vt(x0_hat)
    coefficients = scale(y_bar - x0_coefficients, pull_map)
    if measured is None and operator.complete:  # no coefficient is left for the first rule
        coefficients += x0_coefficients
        coefficients += scale(operator.vt(noise), spread)
        return operator.v(coefficients)
    coefficients += scale(operator.vt(noise), spread - eta_noise)  # zero where s = 0, as pull_map is
    if c > 0:
        old = operator.vt(epsilon_hat)
        coefficients.sub_(old if measured is None else scale(old, measured.like(noise)), alpha=c)
    x = torch.add(x0_hat, epsilon_hat, alpha=c).add_(noise, alpha=eta_noise)
    return x.add_(operator.v(coefficients))


def ddrm_update_plain(
    x0_hat: Tensor,
    epsilon_hat: Tensor,
    noise: Tensor,
    y_bar: Tensor,
    s: Tensor,
    sigma_y: float,
    sigma_next: float,
    eta: float = 0.85,
    eta_b: float = 1.0,
) -> Tensor:
    """`ddrm_update` as in the paper, with its three rules for each coefficient (arXiv:2201.11793, equations 7 and 8).

    Slow and easy to read: it needs all coefficients of a complete basis V. Tests compare `ddrm_update` with it.

    Args:
        x0_hat, epsilon_hat, noise, y_bar: (..., n), coefficients in V of the images of that name, real.
        s: (n,), the singular values, 0 where nothing is measured.
        sigma_y: noise of the measurement.
        sigma_next, eta, eta_b: as in `ddrm_update`.
    """
    c, r = sqrt(1 - eta**2) * sigma_next, sigma_y / s
    missing = x0_hat + c * epsilon_hat + eta * sigma_next * noise
    less_noisy = x0_hat + c * (y_bar - x0_hat) / r + eta * sigma_next * noise
    spread = (sigma_next**2 - (eta_b * r) ** 2).clamp_min(0).sqrt()
    noisier = (1 - eta_b) * x0_hat + eta_b * y_bar + spread * noise
    result = torch.where(s == 0, missing, 0.0)
    result = torch.where((s > 0) & (s * sigma_next < sigma_y), less_noisy, result)
    return torch.where((s > 0) & (s * sigma_next >= sigma_y), noisier, result)


def _single_rule(r: float, sigma_next: float, c: float, eta_noise: float, eta_b: float) -> tuple[float, float]:
    """(pull, renoise) of `ddrm_update` where every measured coefficient has the same r = sigma_y / s."""
    if sigma_next >= r:
        return eta_b, sqrt(max(0.0, sigma_next**2 - (eta_b * r) ** 2)) - eta_noise
    return c / r, 0.0


class DDRMScheduler(ZeroShotScheduler):
    """DDRM (arXiv:2201.11793): three rules for the coefficients of the operator's SVD.

    They are `ddrm_start` and `ddrm_update`, here in diffusers' scale and on the noise schedule of a DDPM. Build it from
    the configuration of a repository's scheduler, `DDRMScheduler.from_config(scheduler.config)`. Nothing is clipped
    within the chain. The arguments are those of `ZeroShotScheduler`.
    """

    step_options = ("eta", "eta_b")

    @classmethod
    def why_not(cls, operator: Operator, sigma_y: float) -> str | None:
        """It needs a fast SVD."""
        return why_no_svd(operator)

    def start(self, measurement: Measurement, noise: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The first state of the chain, (B, C, H, W), at `timestep` (default: the first that was set).

        Args:
            measurement: of B images.
            noise: (B, C, H, W) standard normal.
            timestep: where the chain starts.

        Raises:
            InvalidInputError: sigma_y is larger than the noise level of the start.
        """
        first = self.timesteps[0] if timestep is None else timestep
        timestep = check_timestep("timestep", first, 0, len(self) - 1)
        check_batch(noise, measurement)
        sigma = self.sigma(timestep)
        if measurement.sigma_y > sigma:
            raise InvalidInputError(
                f"sigma_y must be at most {sigma:g}, the noise level of the first timestep {timestep}, "
                f"got {measurement.sigma_y:g}; more steps start at more noise"
            )
        return sqrt(self.alpha_bar(timestep)) * ddrm_start(noise, measurement, sigma)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        measurement: Measurement | None = None,
        *,
        eta: float = 0.85,
        eta_b: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        model: Model | None = None,
        return_dict: bool = True,
    ) -> ZeroShotSchedulerOutput | tuple[Tensor, Tensor]:
        """From x_t to the next state, `ddrm_update` between noise levels.

        Args:
            model_output: (B, C or 2C, H, W); a learned variance in the second half is ignored.
            timestep: one of `timesteps`.
            sample: x_t, (B, C, H, W).
            measurement: of B images; None to generate pictures, where nothing was measured.
            eta: share of the noise that is new, [0, 1].
            eta_b: how closely a measured coefficient follows y, [0, 1]; 1 agrees with a noiseless y exactly.
            generator: for the noise, one or one per image.
            variance_noise: the noise itself, instead of a generator.
            model: not used.
            return_dict: False returns (prev_sample, pred_original_sample).

        Raises:
            InvalidInputError: eta or eta_b out of range, or a timestep that was not set.
        """
        eta, eta_b = check_real("eta", eta, 0, 1), check_real("eta_b", eta_b, 0, 1)
        check_floats("sample", sample)
        if measurement is not None:
            check_batch(sample, measurement)
        return self._advance(
            *(model_output, timestep, sample, measurement, generator, variance_noise, model, return_dict),
            eta=eta,
            eta_b=eta_b,
        )

    def update(self, estimate: Estimate, measurement: Measurement | None, **options: float) -> Tensor:
        """`ddrm_update`."""
        x0_hat, epsilon_hat, noise = estimate.x0_hat, estimate.epsilon_hat, estimate.noise
        return ddrm_update(x0_hat, epsilon_hat, noise, measurement, estimate.sigma_next, **options)
