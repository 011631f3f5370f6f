"""RDDM, Residual Denoising Diffusion Models (arXiv:2308.13712), and the relatives that share its step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from math import sqrt
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ..errors import InvalidInputError, check_int, check_real, unknown_name
from . import coefficients
from .coefficients import PROCESSES, Coefficients, Grid, Schedule
from .noise import standard_normal
from .prediction import check_variance_preserving, stated_schedule

PredictionType = Literal[
    "residual",
    "epsilon",
    "sample",
    "v_prediction",
    "residual_epsilon",
    "residual_sum",
    "sample_epsilon",
    "sample_sum",
]
UpdateForm = Literal["incremental", "posterior", "recompose"]
VarianceType = Literal["residual", "mean_reverting", "bridge"]
RemovalOrder = Literal["both", "residual_first", "noise_first"]
TimeEmbedding = Literal["timestep", "cumulative"]

HEADS: Mapping[str, tuple[str, ...]] = {
    "residual": ("residual",),
    "epsilon": ("epsilon",),
    "sample": ("sample",),
    "v_prediction": ("v_prediction",),
    "residual_epsilon": ("residual", "epsilon"),
    "residual_sum": ("residual", "sum"),
    "sample_epsilon": ("sample", "epsilon"),
    "sample_sum": ("sample", "sum"),
}
"""What the outputs of a network are, by prediction type, in the order of their channels."""

_FORMS = ("incremental", "posterior", "recompose")
_VARIANCES = ("residual", "mean_reverting", "bridge")
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")
_DDPM = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")


# --- formulas -------------------------------------------------------------------------------------------------------


def rddm_add_noise(x0: Tensor, residual: Tensor, noise: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """I_t = I_0 + a_t I_res + b_t epsilon."""
    return x0 + a * residual + b * noise


def rddm_predict(
    outputs: tuple[Tensor, ...],
    sample: Tensor,
    degraded: Tensor | float,
    a: float,
    b: float,
    prediction_type: str,
    clip: float | None = None,
    clip_residual: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(x0_hat, residual_hat, epsilon_hat) from what a network says of I_t = I_0 + a (I_in - I_0) + b epsilon.

    One output decides the other estimates through I_t; of two outputs, "sum" is the first one plus epsilon. Where one
    can't decide (the noise at b = 0, or by the noise I_0 at a = 1), the noise is estimated as 0, and I_0 as I_in.

    Args:
        outputs: one or two, (B, C, H, W), as `HEADS` says of the prediction type.
        sample: I_t, (B, C, H, W).
        degraded: I_in; 0.0 where pictures are generated.
        a, b: a_t in [0, 1] and b_t >= 0.
        prediction_type: a key of `HEADS`.
        clip: I_0 is clipped to [-clip, clip]; None doesn't.
        clip_residual: the residual likewise. The noise is never clipped.
    """

    def clip_x0(x: Tensor) -> Tensor:
        return x if clip is None else x.clamp(-clip, clip)

    def clip_res(x: Tensor) -> Tensor:
        return x if clip_residual is None else x.clamp(-clip_residual, clip_residual)

    first = outputs[0]
    match prediction_type:
        case "residual_epsilon" | "residual_sum":
            epsilon = outputs[1] if prediction_type == "residual_epsilon" else outputs[1] - first
            residual = clip_res(first)
            return clip_x0(sample - a * residual - b * epsilon), residual, epsilon
        case "sample_epsilon" | "sample_sum":
            epsilon = outputs[1] if prediction_type == "sample_epsilon" else outputs[1] - first
            return clip_x0(first), clip_res(degraded - first), epsilon
        case "residual" | "sample":
            residual = clip_res(first if prediction_type == "residual" else degraded - first)
            epsilon = (sample - degraded + (1 - a) * residual) * (1 / b if b > 0 else 0.0)
            return clip_x0(degraded - residual), residual, epsilon
        case "epsilon" | "v_prediction":
            shifted = sample - a * degraded  # (1 - a) I_0 + b epsilon
            if prediction_type == "v_prediction":
                x0, epsilon = clip_x0((1 - a) * shifted - b * first), b * shifted + (1 - a) * first
            elif a < 1:
                x0, epsilon = clip_x0((shifted - b * first) / (1 - a)), first
            else:
                x0, epsilon = clip_x0(torch.zeros_like(sample) + degraded), first
            return x0, clip_res(degraded - x0), epsilon
    raise unknown_name("prediction_type", prediction_type, HEADS)


def rddm_variance(
    a: float, b: float, a_next: float, b_next: float, eta: float = 0.0, variance_type: str = "residual"
) -> float:
    """sigma^2 of the noise that is new in a step from (a_t, b_t) to (a_u, b_u).

        residual:       eta   (b_t^2 -     b_u^2) b_u^2 / b_t^2                           RDDM: eta scales the variance
        mean_reverting: eta^2 (b_t^2 - k^2 b_u^2) b_u^2 / b_t^2,  k = (1-a_t) / (1-a_u)   DDIM, IR-SDE
        bridge:         eta^2 (b_u^2 - (a_u / a_t)^2 b_t^2)                               ResShift, I2SB, InDI

    With eta = 1 each is the variance of I_u given I_t and I_0, for a Markov chain I_0, I_1, ... that is: given its
    residual, a random walk; reverting to I_in; going to I_in by way of I_u.
    """
    variance, variance_next = b**2, b_next**2
    match variance_type:
        case "residual":
            new = eta * (variance - variance_next) * variance_next / variance if variance > 0 else 0.0
        case "mean_reverting":
            k = (1 - a) / (1 - a_next) if a_next < 1 else 1.0
            new = eta**2 * (variance - k**2 * variance_next) * variance_next / variance if variance > 0 else 0.0
        case "bridge":
            new = eta**2 * (variance_next - (a_next / a) ** 2 * variance) if a > 0 else 0.0
        case _:
            raise unknown_name("variance_type", variance_type, _VARIANCES)
    return new if new > 1e-14 * variance_next else 0.0  # what InDI leaves is rounding


def rddm_update(
    sample: Tensor,
    x0: Tensor,
    residual: Tensor,
    epsilon: Tensor,
    noise: Tensor | None,
    a: float,
    b: float,
    a_next: float,
    b_next: float,
    sigma: float = 0.0,
    form: str = "incremental",
) -> Tensor:
    """One step from I_t to I_u, (B, C, H, W), with m = sqrt(b_u^2 - sigma^2), q = m / b_t and z the new noise.

        incremental: I_t - (a_t - a_u) I_res - (b_t - m) epsilon + sigma z     the paper's
        posterior:   q I_t + (1 - q) I_0 + (a_u - a_t q) I_res + sigma z       the mean of I_u given I_t and I_0
        recompose:   I_0 + a_u I_res + m epsilon + sigma z                     as DDIM takes a clipped I_0

    They are the same where the estimates add up to I_t, as they do unless something was clipped or a network says both
    I_0 and the noise.
    """
    m = sqrt(max(0.0, b_next**2 - sigma**2))
    match form:
        case "incremental":
            previous = torch.add(sample, residual, alpha=a_next - a).add_(epsilon, alpha=m - b)
        case "posterior":
            q = m / b if b > 0 else 1.0
            previous = torch.mul(sample, q).add_(x0, alpha=1 - q).add_(residual, alpha=a_next - a * q)
        case "recompose":
            previous = torch.add(x0, residual, alpha=a_next).add_(epsilon, alpha=m)
        case _:
            raise unknown_name("update_form", form, _FORMS)
    return previous if noise is None or sigma == 0 else previous.add_(noise, alpha=sigma)


# --- scheduler ------------------------------------------------------------------------------------------------------


@dataclass
class RDDMSchedulerOutput(BaseOutput):
    """What a step gives, all (B, C, H, W).

    Attributes:
        prev_sample: the next state I_u of the chain; after the last step, the restored pictures.
        pred_original_sample: the estimate of the clean pictures I_0.
        pred_residual: the estimate of I_res = I_in - I_0.
        pred_epsilon: the estimate of the noise.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor
    pred_residual: Tensor
    pred_epsilon: Tensor


class RDDMScheduler(SchedulerMixin, ConfigMixin):
    """RDDM (arXiv:2308.13712): I_t = I_0 + a_t I_res + b_t epsilon leads from clean pictures to degraded ones.

    I_res = I_in - I_0 is the residual of the degraded pictures I_in; I_in = 0 where pictures are generated. At the end
    a_T = 1, so that a chain starts from I_in with noise and removes both. Timesteps are t = 0..T-1; before t = 0, where
    a = b = 0, the picture is clean. `RDDMScheduler.from_config` of a DDPM or DDIM gives the same process in this form.

    Args:
        num_train_timesteps: T.
        residual_schedule, residual_power: how alpha_i, the increments of a_t, run: "increased", "decreased" with a
            power, "average", "normal".
        noise_schedule, noise_power: the same for beta_i^2, the increments of b_t^2.
        noise_scale: b_T^2, the variance of the noise of a start; 0 makes a chain of residuals alone.
        grid: "v1" or "v2", where the first increment of "increased" is 0.
        process: "rddm", or another whose coefficients are taken with `process_args` instead of the five options
            above: "resshift", "indi", "i2sb", "ir_sde".
        process_args: of that function of `schedulers.coefficients`, by name.
        beta_schedule, beta_start, beta_end, trained_betas: of diffusers' DDPMScheduler; where the first or the last is
            given, the coefficients are those of that DDPM.
        prediction_type: what the network says: a key of `HEADS`. "epsilon", "sample" and "v_prediction" are diffusers'.
        variance_type: see `rddm_variance`; None is that of the process. With the betas of a DDPM, what it samples with
            ("fixed_small", ...) is kept for who makes a `DDPMScheduler` of this again, and means None here.
        update_form: see `rddm_update`; None is "recompose" for the coefficients of a DDPM, as DDIM does, else
            "incremental".
        removal_order: "both", or "residual_first" or "noise_first", which need time_embedding="cumulative".
        clip_sample, clip_sample_range: clip the estimate of I_0.
        clip_residual_range: where clip_sample, clip the estimate of the residual to this. 2 is what pictures in [-1, 1]
            can differ by; the authors' code has 1.
        time_embedding: what networks are told: the "timestep", or "cumulative", T a_t for the residual and T b_t for
            the noise, with which the coefficients can be changed after training (path-independent).
        timestep_spacing: "rddm", T k / n - 1 rounded down, or "trailing", "leading", "linspace" as diffusers has them;
            None is "leading" for the coefficients of a DDPM, as there, else "rddm".
        steps_offset: of "leading".

    Raises:
        InvalidInputError: a value out of range, or values that contradict each other.
        UnknownNameError: a name that doesn't exist.
    """

    order = 1
    _compatibles = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"]

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        residual_schedule: Schedule = "decreased",
        residual_power: float = 1.0,
        noise_schedule: Schedule = "increased",
        noise_power: float = 1.0,
        noise_scale: float = 1.0,
        grid: Grid = "v1",
        process: str = "rddm",
        process_args: Mapping[str, Any] | None = None,
        beta_schedule: str | None = None,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        trained_betas: list[float] | None = None,
        prediction_type: PredictionType = "residual",
        variance_type: str | None = None,
        update_form: UpdateForm | None = None,
        removal_order: RemovalOrder = "both",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        clip_residual_range: float = 2.0,
        time_embedding: TimeEmbedding = "timestep",
        timestep_spacing: str | None = None,
        steps_offset: int = 0,
    ) -> None:
        steps = check_int("num_train_timesteps", num_train_timesteps, 1)
        of_its_own = variance_type in _DDPM and (beta_schedule is not None or trained_betas is not None)
        if timestep_spacing is None:
            timestep_spacing = "rddm" if beta_schedule is None and trained_betas is None else "leading"
        if prediction_type not in HEADS:
            raise unknown_name("prediction_type", prediction_type, HEADS)
        for name, value, known in (
            ("process", process, tuple(PROCESSES)),
            ("time_embedding", time_embedding, ("timestep", "cumulative")),
            ("timestep_spacing", timestep_spacing, ("rddm", "trailing", "leading", "linspace")),
            ("update_form", "incremental" if update_form is None else update_form, _FORMS),
            ("variance_type", "residual" if variance_type is None or of_its_own else variance_type, _VARIANCES),
            ("removal_order", removal_order, ("both", "residual_first", "noise_first")),
        ):
            if value not in known:
                raise unknown_name(name, value, known)
        if not isinstance(clip_sample, bool):
            raise InvalidInputError(f"clip_sample must be True or False, got {clip_sample!r}")
        check_real("clip_sample_range", clip_sample_range, above=0)
        check_real("clip_residual_range", clip_residual_range, above=0)
        check_int("steps_offset", steps_offset, 0, steps - 1)
        if removal_order != "both" and time_embedding != "cumulative":
            raise InvalidInputError(
                f"removal_order={removal_order!r} needs networks with time_embedding='cumulative': others learned one "
                "path, on which both are removed together"
            )
        own = {
            "residual_schedule": residual_schedule,
            "residual_power": residual_power,
            "noise_schedule": noise_schedule,
            "noise_power": noise_power,
            "noise_scale": noise_scale,
            "grid": grid,
        }
        of_ddpm = beta_schedule is not None or trained_betas is not None
        if process_args is not None and not isinstance(process_args, Mapping):
            raise InvalidInputError(f"process_args must be arguments by name, or None, got {process_args!r}")
        arguments = dict(process_args or {})
        if of_ddpm and process != "rddm":
            raise InvalidInputError(
                f"process {process!r} and the betas of a DDPM (beta_schedule={beta_schedule!r}) exclude each other"
            )
        if arguments and process == "rddm":
            raise InvalidInputError(f"process_args are for another process than rddm, got {arguments}")
        if of_ddpm or process != "rddm":
            _check_unused(own, process if not of_ddpm else "of a DDPM")
        if not of_ddpm and (beta_start, beta_end) != (0.0001, 0.02):
            raise InvalidInputError(
                f"beta_start={beta_start!r} and beta_end={beta_end!r} are for the coefficients of a DDPM: give "
                "beta_schedule too"
            )
        if of_ddpm:
            scales = _of_ddpm(
                steps, "linear" if beta_schedule is None else beta_schedule, beta_start, beta_end, trained_betas
            )
        elif process == "rddm":
            scales = coefficients.rddm(steps, **own)  # type: ignore[arg-type]
        else:
            names = list(signature(PROCESSES[process]).parameters)[1:]
            for name in arguments:
                if name not in names:
                    raise unknown_name(f"process_args of {process}", name, names)
            scales = PROCESSES[process](steps, **arguments)
        scales = coefficients.in_stages(scales, removal_order)
        if prediction_type == "v_prediction":
            norm = (1 - scales.residual_scales) ** 2 + scales.noise_scales**2
            if not torch.allclose(norm, torch.ones_like(norm), atol=1e-6):
                raise InvalidInputError(
                    "prediction_type 'v_prediction' is for the coefficients of a DDPM: give beta_schedule or "
                    "trained_betas"
                )
        default = {"resshift": "bridge", "indi": "bridge", "i2sb": "bridge", "ir_sde": "mean_reverting"}
        chosen = None if of_its_own else variance_type
        self._variance_type = chosen or ("mean_reverting" if of_ddpm else default.get(process, "residual"))
        self._update_form = update_form or ("recompose" if of_ddpm else "incremental")
        # Without the list, from_config would drop what came by position.
        self.register_to_config(timestep_spacing=timestep_spacing, _use_default_values=[])
        self.residual_scales, self.noise_scales = scales
        # A DDPM is started from noise of deviation 1, which its last b_t is a little below.
        self.init_noise_sigma = 1.0 if of_ddpm else float(self.noise_scales[-1])
        # Index -1 is the clean picture.
        self._a: list[float] = [*self.residual_scales.tolist(), 0.0]
        self._b: list[float] = [*self.noise_scales.tolist(), 0.0]
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(steps).flip(0)
        self._following: dict[int, int] = {t: t - 1 for t in range(steps)}

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As `ConfigMixin.from_config`; a DDPM or DDIM becomes the same process in RDDM's form.

        Raises:
            InvalidInputError: no mapping, or the configuration of a scheduler that is neither (VE, flow matching,
                consistency models), or one that thresholds.
        """
        if not isinstance(config, Mapping):
            raise InvalidInputError(f"config must be the configuration of a scheduler, a mapping, got {config!r}")
        name = config.get("_class_name")
        # A scheduler in memory has lost its class; a plain mapping without one may hold options of ours alone.
        foreign = isinstance(config, FrozenDict) if name is None else name != cls.__name__
        if (foreign or "beta_schedule" in config) and "residual_schedule" not in config:
            check_variance_preserving(config)
            if config.get("thresholding"):
                raise InvalidInputError("a scheduler with thresholding=True is not supported; set it to False")
            # What old files leave out, and PNDM, Euler and their like don't have: they don't clip.
            defaults = {
                "beta_schedule": "linear",
                "prediction_type": "epsilon",
                "timestep_spacing": "leading",
                "clip_sample": name is not None and ("DDPM" in name or "DDIM" in name),
                "clip_residual_range": 2 * config.get("clip_sample_range", 1.0),
            }
            config = {**defaults, **stated_schedule(config)}
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @property
    def heads(self) -> tuple[str, ...]:
        """What the outputs of the network are, one or two of "residual", "epsilon", "sample", "v_prediction", "sum"."""
        return HEADS[self.config.prediction_type]

    def scales(self, timestep: int) -> tuple[float, float]:
        """(a_t, b_t) of a timestep of 0..T-1, or (0, 0) for -1, where the picture is clean."""
        t = check_int("timestep", timestep, -1, len(self) - 1)
        return self._a[t], self._b[t]

    def time_codes(self, timestep: int | Tensor) -> tuple[float | Tensor, float | Tensor]:
        """What a network is told of the time: (for the residual or I_0, for the noise).

        Args:
            timestep: t, a number or (B,).
        """
        if self.config.time_embedding == "timestep":
            return timestep, timestep
        last = len(self)
        if isinstance(timestep, Tensor) and timestep.ndim:
            codes = self.gathered_scales(timestep, torch.float32)
            return last * codes[0], last * codes[1]
        a, b = self.scales(int(timestep))
        return last * a, last * b

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps: n of `timestep_spacing`, or a list of one's own.

        Args:
            num_inference_steps: n in 1..T.
            device: where `timesteps` goes.
            timesteps: decreasing whole numbers in 0..T-1.

        Raises:
            InvalidInputError: not exactly one of the two, or one outside its range.
        """
        last = len(self)
        if (num_inference_steps is None) == (timesteps is None):
            raise InvalidInputError("give either num_inference_steps or timesteps")
        if timesteps is not None:
            if not isinstance(timesteps, Iterable):
                raise InvalidInputError(f"timesteps must be a decreasing list of whole numbers, got {timesteps!r}")
            chosen = [_timestep("timesteps", t, last - 1) for t in timesteps]
        else:
            count = check_int("num_inference_steps", num_inference_steps, 1, last)
            if self.config.timestep_spacing == "rddm":
                chosen = [last * k // count - 1 for k in range(count, 0, -1)]
            else:
                grid = DDIMScheduler(
                    last, timestep_spacing=self.config.timestep_spacing, steps_offset=self.config.steps_offset
                )
                grid.set_timesteps(count)
                chosen = grid.timesteps.tolist()
        if not chosen or any(a <= b for a, b in pairwise(chosen)) or not 0 <= chosen[-1] <= chosen[0] < last:
            raise InvalidInputError(f"timesteps must be a decreasing list of whole numbers below {last}, got {chosen}")
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.tensor(chosen, device=device)
        self._following = dict(zip(chosen, [*chosen[1:], -1], strict=True))

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The sample as it is."""
        return sample

    def start(self, degraded: Tensor, noise: Tensor) -> Tensor:
        """The first state of a chain, I_in + b_t noise, (B, C, H, W), at the first timestep that was set.

        b_T^2 is `noise_scale`; for the coefficients of a DDPM, the noise has deviation 1, as diffusers starts.
        """
        of_ddpm = self.config.beta_schedule is not None or self.config.trained_betas is not None
        first = max(self._following)
        return degraded + (self.init_noise_sigma if of_ddpm else self._b[first]) * noise

    def add_noise(
        self,
        original_samples: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        *,
        degraded: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """I_t = I_0 + a_t I_res + b_t noise, (B, C, H, W). Never waits for the device.

        Args:
            original_samples: I_0, (B, C, H, W) in [-1, 1].
            noise: standard normal.
            timesteps: (B,) in 0..T-1, or (1,) for all.
            degraded: I_in.
            residual: I_in - I_0, instead of it. With neither, I_in = 0.

        Raises:
            InvalidInputError: both of these, or shapes that don't fit.
        """
        if degraded is not None and residual is not None:
            raise InvalidInputError("give degraded or residual, not both: residual = degraded - original_samples")
        _check_shapes("original_samples", original_samples, noise=noise, degraded=degraded, residual=residual)
        if residual is None:
            residual = -original_samples if degraded is None else degraded - original_samples
        wide = torch.promote_types(original_samples.dtype, torch.float32)  # half precision would round every term
        a, b = self.gathered_scales(timesteps, wide, len(original_samples))
        a, b = (one.to(original_samples.device).reshape(-1, 1, 1, 1) for one in (a, b))
        return rddm_add_noise(original_samples, residual, noise, a, b).to(original_samples.dtype)

    def get_target(
        self, original_samples: Tensor, noise: Tensor, timesteps: Tensor, *, degraded: Tensor | None = None
    ) -> Tensor:
        """What the network should say, its outputs one after the other, (B, C or 2C, H, W); arguments as `add_noise`.

        Raises:
            InvalidInputError: shapes that don't fit.
        """
        _check_shapes("original_samples", original_samples, noise=noise, degraded=degraded)
        residual = -original_samples if degraded is None else degraded - original_samples
        targets = {"residual": residual, "epsilon": noise, "sample": original_samples}
        first = self.heads[0]
        if first == "v_prediction":
            a, b = self.gathered_scales(timesteps, original_samples.dtype, len(original_samples))
            return (1 - a).reshape(-1, 1, 1, 1) * noise - b.reshape(-1, 1, 1, 1) * original_samples
        if len(self.heads) == 1:
            return targets[first]
        second = targets[first] + noise if self.heads[1] == "sum" else noise
        return torch.cat([targets[first], second], dim=1)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        degraded: Tensor | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> RDDMSchedulerOutput | tuple[Tensor, Tensor, Tensor, Tensor]:
        """From I_t to the next state: `rddm_predict`, then `rddm_update`.

        Args:
            model_output: (B, C or 2C, H, W), the outputs of `heads` one after the other.
            timestep: one of `timesteps`.
            sample: I_t, (B, C, H, W).
            degraded: I_in; None is 0.
            eta: share of the noise that is new, [0, 1]; see `rddm_variance`. Restoration takes 0.
            generator: for that noise, one or one per image.
            variance_noise: the noise itself, instead.
            return_dict: False returns (prev_sample, pred_original_sample, pred_residual, pred_epsilon).

        Raises:
            InvalidInputError: eta out of range, a timestep that was not set, or shapes that don't fit.
        """
        eta = check_real("eta", eta, 0, 1)
        t = _timestep("timestep", timestep, len(self) - 1)
        if t not in self._following:
            raise InvalidInputError(f"timestep must be one of those set by set_timesteps, got {t}")
        wanted = (len(sample), len(self.heads) * sample.shape[1], *sample.shape[2:])
        if not isinstance(model_output, Tensor) or model_output.shape != wanted:
            got = tuple(model_output.shape) if isinstance(model_output, Tensor) else type(model_output).__name__
            raise InvalidInputError(
                f"model_output must be {wanted}, {' and '.join(self.heads)} for this sample, got {got}"
            )
        _check_shapes("sample", sample, degraded=degraded, variance_noise=variance_noise)
        if isinstance(generator, list) and len(generator) != len(sample):
            raise InvalidInputError(
                f"generator must be one, or a list of {len(sample)} for this batch, got {len(generator)}"
            )
        a, b = self.scales(t)
        following = self._following[t]
        x0, residual, epsilon = rddm_predict(
            model_output.to(sample.dtype).chunk(len(self.heads), dim=1),
            sample,
            0.0 if degraded is None else degraded,
            a,
            b,
            self.config.prediction_type,
            self.config.clip_sample_range if self.config.clip_sample else None,
            self.config.clip_residual_range if self.config.clip_sample else None,
        )
        if following < 0:
            previous = x0.clone()  # what is done to one of them is not done to the other
        else:
            a_next, b_next = self.scales(following)
            sigma = sqrt(rddm_variance(a, b, a_next, b_next, eta, self._variance_type))
            noise = variance_noise
            if noise is None and sigma > 0:
                noise = standard_normal(sample, generator)
            form = self._update_form
            previous = rddm_update(sample, x0, residual, epsilon, noise, a, b, a_next, b_next, sigma, form)
        if not return_dict:
            return previous, x0, residual, epsilon
        return RDDMSchedulerOutput(
            prev_sample=previous, pred_original_sample=x0, pred_residual=residual, pred_epsilon=epsilon
        )

    def gathered_scales(self, timesteps: Tensor, dtype: torch.dtype, count: int | None = None) -> tuple[Tensor, Tensor]:
        """(a_t, b_t) of timesteps (B,), or (1,) for all of `count` pictures, on their device."""
        if not isinstance(timesteps, Tensor):
            raise InvalidInputError(f"timesteps must be a tensor of whole numbers, got {timesteps!r}")
        fractions = timesteps.dtype == torch.bool or timesteps.is_floating_point() or timesteps.is_complex()
        if fractions or timesteps.ndim != 1 or (count is not None and len(timesteps) not in (1, count)):
            raise InvalidInputError(
                f"timesteps must be whole numbers, one for each picture, got {timesteps.dtype} {tuple(timesteps.shape)}"
            )
        if timesteps.device.type == "cpu" and len(timesteps):  # looking at those of a GPU would wait for it
            smallest, largest = torch.aminmax(timesteps)
            if smallest < 0 or largest >= len(self):
                raise InvalidInputError(f"timesteps must be in 0..{len(self) - 1}, got {timesteps.tolist()}")
        key = timesteps.device, dtype
        if key not in self._tables:  # in their dtype first: not every device has float64
            self._tables[key] = torch.stack([self.residual_scales, self.noise_scales]).to(dtype).to(timesteps.device)
        a, b = self._tables[key][:, timesteps.long()]
        return a, b

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)


def _check_shapes(of: str, like: Tensor, **tensors: Tensor | None) -> None:
    """Raise InvalidInputError for a tensor of another shape than `like`, which would be broadcast."""
    for name, value in tensors.items():
        if value is not None and (not isinstance(value, Tensor) or value.shape != like.shape):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInputError(f"{name} must have the shape of {of}, {tuple(like.shape)}, got {got}")


def _check_unused(options: Mapping[str, Any], process: str) -> None:
    """Raise InvalidInputError for an option of the process "rddm" that was given for another."""
    defaults = signature(coefficients.rddm).parameters
    for name, value in options.items():
        if value != defaults[name].default:
            raise InvalidInputError(f"{name}={value!r} is for process 'rddm'; the process is {process}")


def _of_ddpm(
    steps: int, beta_schedule: str, beta_start: float, beta_end: float, trained_betas: list[float] | None
) -> Coefficients:
    if trained_betas is None and beta_schedule in ("linear", "scaled_linear"):
        check_real("beta_start", beta_start, above=0)
        check_real("beta_end", beta_end, beta_start, 1)
    if beta_schedule not in _BETAS:
        raise unknown_name("beta_schedule", beta_schedule, _BETAS)
    try:
        ddpm = DDPMScheduler(
            num_train_timesteps=steps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
        )
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"trained_betas must be a list of numbers in (0, 1), got {trained_betas!r}") from error
    betas = ddpm.betas.double()
    if betas.shape != (steps,):
        raise InvalidInputError(
            f"trained_betas must hold num_train_timesteps={steps} numbers, got shape {tuple(betas.shape)}"
        )
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise InvalidInputError(f"betas must lie in (0, 1), got {float(betas.min()):g} to {float(betas.max()):g}")
    return coefficients.ddim(torch.cumprod(1 - betas, dim=0))


def _timestep(name: str, timestep: int | Tensor, maximum: int) -> int:
    """A timestep, which may come as a tensor of one whole number."""
    if isinstance(timestep, Tensor) and timestep.numel() == 1:
        return check_int(name, timestep.item(), 0, maximum)
    return check_int(name, timestep, 0, maximum)
