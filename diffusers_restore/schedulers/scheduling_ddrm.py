"""DDRM, Denoising Diffusion Restoration Models (arXiv:2201.11793)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, sqrt
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..errors import InvalidInputError, check_int, check_real
from ..operators import Measurement
from ..operators.base import scale
from .prediction import check_prediction_type, check_variance_preserving, predict_x0_and_epsilon


def ddrm_start(noise: Tensor, measurement: Measurement, sigma_start: float) -> Tensor:
    """The first state of a chain in VE form, x = x0 + sigma_start * noise as far as y knows it.

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
    measurement: Measurement,
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
        measurement: of B images, with an operator that has an SVD.
        sigma_next: the next noise level; 0 at the last step.
        eta, eta_b: in [0, 1].
    """
    operator, sigma_y, y_bar = measurement.svd, measurement.sigma_y, measurement.y_bar
    c, eta_noise = sqrt(1 - eta**2) * sigma_next, eta * sigma_next
    measured = operator.measured_coefficients
    value = operator.single_value if sigma_y > 0 else inf
    # u - V^T x = pull (y_bar - V^T x0_hat) + renoise V^T z - c V^T epsilon_hat; pull and renoise depend on s only.
    if value is not None:  # one rule for every measured coefficient: one transform carries the three images
        x = torch.add(x0_hat, epsilon_hat, alpha=c).add_(noise, alpha=eta_noise)
        pull, renoise = _single_rule(sigma_y / value, sigma_next, c, eta_noise, eta_b)
        change = torch.mul(noise, renoise).sub_(x0_hat, alpha=pull).sub_(epsilon_hat, alpha=c)
        coefficients = operator.vt(change)
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
    if measured is None and operator.complete:  # nothing is left over for the first rule
        coefficients += x0_coefficients
        coefficients += scale(operator.vt(noise), spread)
        return operator.v(coefficients)
    coefficients += scale(operator.vt(noise), spread - eta_noise)  # zero where s = 0, as pull_map is
    if c > 0:
        old = operator.vt(epsilon_hat)
        coefficients.sub_(old if measured is None else scale(old, measured.like(noise)), alpha=c)
    x = torch.add(x0_hat, epsilon_hat, alpha=c).add_(noise, alpha=eta_noise)
    return x.add_(operator.v(coefficients))


def _single_rule(r: float, sigma_next: float, c: float, eta_noise: float, eta_b: float) -> tuple[float, float]:
    """(pull, renoise) of `ddrm_update` where every measured coefficient has the same r = sigma_y / s."""
    if sigma_next >= r:
        return eta_b, sqrt(max(0.0, sigma_next**2 - (eta_b * r) ** 2)) - eta_noise
    return c / r, 0.0


def _check_timestep(name: str, timestep: int | Tensor, minimum: int, maximum: int) -> int:
    """A timestep, which may come as a tensor of one whole number."""
    if isinstance(timestep, Tensor) and timestep.numel() == 1:
        return check_int(name, timestep.item(), minimum, maximum)
    return check_int(name, timestep, minimum, maximum)


def _check_batch(sample: Tensor, measurement: Measurement) -> None:
    """`sample` has the shape of the measured images."""
    measurement.operator.check_input(sample)
    if len(sample) != len(measurement.y):
        raise InvalidInputError(f"a batch of {len(sample)} does not fit a measurement of {len(measurement.y)} images")


@dataclass
class DDRMSchedulerOutput(BaseOutput):
    """What a step gives, both (B, C, H, W).

    Attributes:
        prev_sample: the next state x_t' of the chain, in the scale that the network is fed with.
        pred_original_sample: the network's x0_hat, before the data corrected it.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class DDRMScheduler(SchedulerMixin, ConfigMixin):
    """DDRM (arXiv:2201.11793) on the noise schedule of a DDPM: `ddrm_start` and `ddrm_update` in diffusers' scale.

    The configuration is the part of `DDPMScheduler`'s that describes the network; build it from that of a repository
    with `DDRMScheduler.from_config(scheduler.config)`. Nothing is clipped inside the chain.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: as in `DDPMScheduler`.
        prediction_type: "epsilon", "sample" or "v_prediction".

    Raises:
        InvalidInputError: betas outside (0, 1).
        UnknownNameError: another prediction type.
    """

    order = 1
    _compatibles = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"]  # noqa: RUF012  # diffusers' protocol

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
    ) -> None:
        check_prediction_type(prediction_type)
        steps = check_int("num_train_timesteps", num_train_timesteps, 1)
        if trained_betas is None and beta_schedule in ("linear", "scaled_linear"):
            check_real("beta_start", beta_start, above=0)
            check_real("beta_end", beta_end, beta_start, 1)
        ddpm = DDPMScheduler(
            num_train_timesteps=steps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
        )
        betas = ddpm.betas.double()
        if len(betas) != steps:
            raise InvalidInputError(f"trained_betas must hold num_train_timesteps={steps} numbers, got {len(betas)}")
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise InvalidInputError(f"betas must lie in (0, 1), got {float(betas.min()):g} to {float(betas.max()):g}")
        self.register_to_config(_use_default_values=[])  # or from_config would drop what came by position
        self.betas = betas
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(steps).flip(0)
        self._alpha_bars: list[float] = [*self.alphas_cumprod.tolist(), 1.0]  # the last is that of t = -1, no noise
        self._following: dict[int, int] = {t: t - 1 for t in range(steps)}

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As `ConfigMixin.from_config`; the configuration of a scheduler of another kind of process is refused.

        Raises:
            InvalidInputError: not a variance-preserving process (VE, flow matching, consistency models).
        """
        check_variance_preserving(config or {})
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps: n of "leading" spacing, 0, T // n, 2 (T // n), ..., or a list of one's own.

        Args:
            num_inference_steps: 1..T.
            device: where `timesteps` goes.
            timesteps: decreasing whole numbers in 0..T-1; the first may be far below T - 1.

        Raises:
            InvalidInputError: not exactly one of the two, or one outside its range.
        """
        last = self.config.num_train_timesteps
        if (num_inference_steps is None) == (timesteps is None):
            raise InvalidInputError("give either num_inference_steps or timesteps")
        if timesteps is None:
            count = check_int("num_inference_steps", num_inference_steps, 1, last)
            chosen = [i * (last // count) for i in reversed(range(count))]
        elif not isinstance(timesteps, Iterable):
            raise InvalidInputError(f"timesteps must be a decreasing list of whole numbers, got {timesteps!r}")
        else:
            chosen = [_check_timestep("timesteps", t, 0, last - 1) for t in timesteps]
            if not chosen or any(a <= b for a, b in pairwise(chosen)):
                raise InvalidInputError(f"timesteps must be a decreasing list of whole numbers, got {chosen}")
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.tensor(chosen, device=device)
        self._following = dict(zip(chosen, [*chosen[1:], -1], strict=True))

    def alpha_bar(self, timestep: int) -> float:
        """alpha_bar of a timestep of 0..T-1, or 1.0 for -1, where no noise is left."""
        return self._alpha_bars[check_int("timestep", timestep, -1, len(self) - 1)]

    def sigma(self, timestep: int) -> float:
        """The noise level sqrt((1 - alpha_bar) / alpha_bar) of a timestep, in units of the clean image."""
        alpha_bar = self.alpha_bar(timestep)
        return sqrt((1 - alpha_bar) / alpha_bar)

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The sample as it is, as for DDPM."""
        return sample

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
        timestep = _check_timestep("timestep", first, 0, len(self) - 1)
        _check_batch(noise, measurement)
        sigma = self.sigma(timestep)
        if measurement.sigma_y > sigma:
            raise InvalidInputError(
                f"sigma_y must be at most {sigma:g}, the noise level of the first timestep {timestep}, "
                f"got {measurement.sigma_y:g}"
            )
        return sqrt(self.alpha_bar(timestep)) * ddrm_start(noise, measurement, sigma)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        measurement: Measurement,
        *,
        eta: float = 0.85,
        eta_b: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDRMSchedulerOutput | tuple[Tensor, Tensor]:
        """From x_t to the next state, `ddrm_update` between noise levels.

        Args:
            model_output: (B, C or 2C, H, W); a learned variance in the second half is ignored.
            timestep: one of `timesteps`.
            sample: x_t, (B, C, H, W).
            measurement: of B images.
            eta: share of the noise that is new, [0, 1].
            eta_b: how far a measured coefficient follows y, [0, 1]; 1 agrees with a noiseless y exactly.
            generator: for the noise, one or one per image.
            variance_noise: the noise itself, instead.
            return_dict: False returns (prev_sample, pred_original_sample).

        Raises:
            InvalidInputError: eta or eta_b out of range, or a timestep that was not set.
        """
        eta, eta_b = check_real("eta", eta, 0, 1), check_real("eta_b", eta_b, 0, 1)
        _check_batch(sample, measurement)
        t = _check_timestep("timestep", timestep, 0, len(self) - 1)
        if t not in self._following:
            raise InvalidInputError(f"timestep must be one of those set by set_timesteps, got {t}")
        following = self._following[t]
        alpha_bar = self.alpha_bar(t)
        output = model_output[:, : sample.shape[1]]
        x0_hat, epsilon_hat = predict_x0_and_epsilon(output, sample, alpha_bar, self.config.prediction_type)
        noise = variance_noise
        if noise is None:
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        prev_sample = ddrm_update(x0_hat, epsilon_hat, noise, measurement, self.sigma(following), eta, eta_b)
        prev_sample = prev_sample.mul_(sqrt(self.alpha_bar(following)))
        if not return_dict:
            return prev_sample, x0_hat
        return DDRMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0_hat)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, one timestep per image."""
        alpha_bars = self.alphas_cumprod.to(original_samples.device)[timesteps].to(original_samples.dtype)
        alpha_bars = alpha_bars.reshape(-1, *[1] * (original_samples.ndim - 1))
        return alpha_bars.sqrt() * original_samples + (1 - alpha_bars).sqrt() * noise

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)
