"""RDDM, Residual Denoising Diffusion Models (arXiv:2308.13712), and related processes that share its step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import diffusers
import torch
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError, check_bool, check_int, check_real, unknown_name
from ..generators import check_generators
from ..tensors import check_alike, check_floats, check_shape, described, is_dense
from .coefficients import PROCESSES, Coefficients, Grid, Schedule, choose_process
from .ddpm import check_config, check_variance_preserving, is_of_ddpm, stated_schedule
from .noise import standard_normal
from .prediction import PREDICTION_TYPES as STOCK_TYPES
from .rddm_formulas import (
    FORMS,
    HEADS,
    VARIANCES,
    PredictionType,
    rddm_add_noise,
    rddm_predict,
    rddm_update,
    rddm_update_plain,
    rddm_variance,
)
from .timesteps import TimestepsMixin, check_timestep, check_timesteps, check_total, choose_timesteps

__all__ = [
    "HEADS",
    "PredictionType",
    "RDDMScheduler",
    "RDDMSchedulerOutput",
    "rddm_add_noise",
    "rddm_predict",
    "rddm_update",
    "rddm_update_plain",
    "rddm_variance",
]

UpdateForm = Literal["incremental", "posterior", "recompose"]
VarianceType = Literal["residual", "mean_reverting", "bridge"]
RemovalOrder = Literal["both", "residual_first", "noise_first"]
TimeEmbedding = Literal["timestep", "cumulative"]

_DDPM = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")


@dataclass
class RDDMSchedulerOutput(BaseOutput):
    """The output of a step, all (B, C, H, W).

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


class RDDMScheduler(TimestepsMixin, SchedulerMixin, PlainConfigMixin):
    """RDDM (arXiv:2308.13712): I_t = I_0 + a_t I_res + b_t epsilon leads from clean pictures to degraded ones.

    I_res = I_in - I_0 is the residual of the degraded pictures I_in; I_in = 0 where pictures are generated. At the end
    a_T = 1, so that a chain starts from I_in with noise and removes both. Timesteps are t = 0..T-1; before t = 0, where
    a = b = 0, the picture is clean. `RDDMScheduler.from_config` of a DDPM or DDIM gives the same process in this form.

    Args:
        num_train_timesteps: T.
        residual_schedule, residual_power: the course of alpha_i, the increments of a_t: "increased" or "decreased" with
            a power, "average", "normal".
        noise_schedule, noise_power: the same for beta_i^2, the increments of b_t^2.
        noise_scale: b_T^2, the variance of the noise of a start; 0 makes a chain of residuals alone.
        grid: "v1" or "v2", where the first increment of "increased" is 0.
        process: "rddm", or another whose coefficients are taken with `process_args` instead of the five options
            above: "resshift", "indi", "i2sb", "ir_sde".
        process_args: of that function of `schedulers.coefficients`, by name.
        beta_schedule, beta_start, beta_end, trained_betas: of diffusers' DDPMScheduler; where the first or the last is
            given, the coefficients are those of that DDPM.
        prediction_type: what the network predicts: a key of `HEADS`. "epsilon", "sample" and "v_prediction" are
            diffusers'.
        variance_type: see `rddm_variance`; None is that of the process. With the betas of a DDPM, what it samples with
            ("fixed_small", ...) is kept so that the config converts back to `DDPMScheduler`; it is ignored here.
        update_form: see `rddm_update`; None is "recompose" for the coefficients of a DDPM, as DDIM does, else
            "incremental".
        removal_order: "both", or "residual_first" or "noise_first", which need time_embedding="cumulative".
        clip_sample, clip_sample_range: clip the estimate of I_0.
        clip_residual_range: with clip_sample, clip the estimate of the residual to this. 2 is the largest difference of
            pictures in [-1, 1]; the authors' code has 1.
        time_embedding: the networks' time input: the "timestep", or "cumulative", T a_t for the residual and T b_t for
            the noise, with which the coefficients can be changed after training (path-independent).
        timestep_spacing: "rddm", T k / n - 1 rounded down, or "trailing", "leading", "linspace" as in diffusers; None
            is "leading" for the coefficients of a DDPM, as there, else "rddm".
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
        check_total(num_train_timesteps)
        if timestep_spacing is None:
            timestep_spacing = "leading" if is_of_ddpm(self.config) else "rddm"
        self.register_to_config(timestep_spacing=timestep_spacing)
        _check_options(self.config)
        chosen = choose_process(self.config)
        self.residual_scales, self.noise_scales = chosen.coefficients
        if prediction_type == "v_prediction":
            _check_variance_preserving_scales(chosen.coefficients)
        self._variance_type: str = chosen.variance_type
        if variance_type is not None and variance_type not in _DDPM:
            self._variance_type = variance_type
        self._update_form = update_form or ("recompose" if chosen.of_ddpm else "incremental")
        # A DDPM starts from noise of deviation 1; its last b_t is slightly less.
        self.init_noise_sigma = 1.0 if chosen.of_ddpm else float(self.noise_scales[-1])
        # Index -1 is the clean picture.
        self._a: list[float] = [*self.residual_scales.tolist(), 0.0]
        self._b: list[float] = [*self.noise_scales.tolist(), 0.0]
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._use_all_timesteps()
        of_stock = chosen.of_ddpm and prediction_type in STOCK_TYPES and timestep_spacing != "rddm"
        if not of_stock or (variance_type is not None and variance_type not in _DDPM):
            self._compatibles = []

    @property
    def compatibles(self) -> list[Any]:
        """The classes whose `from_config` takes this configuration; diffusers' own know the betas of a DDPM alone."""
        return [type(self), *(getattr(diffusers, name) for name in self._compatibles)]

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As `ConfigMixin.from_config`; a DDPM or DDIM becomes the same process in RDDM's form.

        Raises:
            InvalidInputError: no mapping, or the configuration of a scheduler that is neither (VE, flow matching,
                consistency models), or one that thresholds.
        """
        config = check_config(config)
        name = config.get("_class_name")
        # The configuration of a scheduler in memory names no class; a plain mapping may hold only our options.
        foreign = isinstance(config, FrozenDict) if name is None else name != cls.__name__
        if (foreign or "beta_schedule" in config) and "residual_schedule" not in config:
            check_variance_preserving(config)
            if config.get("thresholding"):
                raise InvalidInputError("a scheduler with thresholding=True is not supported; set it to False")
            # Missing in old files and for PNDM, Euler and similar schedulers, which don't clip.
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
        """The outputs of the network, one or two of "residual", "epsilon", "sample", "v_prediction", "sum"."""
        return HEADS[self.config.prediction_type]

    def scales(self, timestep: int) -> tuple[float, float]:
        """(a_t, b_t) of a timestep of 0..T-1, or (0, 0) for -1, where the picture is clean."""
        t = check_int("timestep", timestep, -1, len(self) - 1)
        return self._a[t], self._b[t]

    def time_codes(self, timestep: int | Tensor) -> tuple[float | Tensor, float | Tensor]:
        """The networks' time inputs: (for the residual or I_0, for the noise).

        Args:
            timestep: t, a number or (B,).
        """
        last, several = len(self), isinstance(timestep, Tensor) and timestep.ndim > 0
        if self.config.time_embedding == "timestep":
            if isinstance(timestep, Tensor) and several:
                check_timesteps(timestep, None, last)
            elif not isinstance(timestep, Tensor):
                check_int("timestep", timestep, 0, last - 1)
            return timestep, timestep
        if isinstance(timestep, Tensor) and several:
            codes = self.gathered_scales(timestep, torch.float32)
            return last * codes[0], last * codes[1]
        a, b = self.scales(check_timestep("timestep", timestep, 0, last - 1))
        return last * a, last * b

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps: n of `timestep_spacing`, or an explicit list.

        Args:
            num_inference_steps: n in 1..T.
            device: of `timesteps`.
            timesteps: decreasing whole numbers in 0..T-1.

        Raises:
            InvalidInputError: not exactly one of the two, or one outside its range.
        """
        spacing, offset = self.config.timestep_spacing, self.config.steps_offset
        self._use_timesteps(choose_timesteps(num_inference_steps, timesteps, len(self), spacing, offset), device)

    def start(self, degraded: Tensor, noise: Tensor) -> Tensor:
        """The first state of a chain, I_in + b_t noise, (B, C, H, W), at the first timestep that was set.

        b_T^2 is `noise_scale`; for the coefficients of a DDPM, the noise has deviation 1, as in diffusers.

        Raises:
            InvalidInputError: no float tensors (B, C, H, W) of one shape.
        """
        check_floats("degraded", degraded)
        check_shape("noise", noise, "degraded", degraded.shape, degraded.device)
        first = max(self._following)
        return degraded + (self.init_noise_sigma if is_of_ddpm(self.config) else self._b[first]) * noise

    def add_noise(
        self,
        original_samples: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        *,
        degraded: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """I_t = I_0 + a_t I_res + b_t noise, (B, C, H, W). No host sync.

        Args:
            original_samples: I_0, (B, C, H, W) in [-1, 1].
            noise: standard normal.
            timesteps: (B,) in 0..T-1, or (1,) for all.
            degraded: I_in.
            residual: I_in - I_0, instead of `degraded`. With neither, I_in = 0.

        Raises:
            InvalidInputError: both of these, or shapes that don't fit.
        """
        if degraded is not None and residual is not None:
            raise InvalidInputError("give degraded or residual, not both: residual = degraded - original_samples")
        self._check_pair(original_samples, noise, degraded=degraded, residual=residual)
        if residual is None:
            residual = -original_samples if degraded is None else degraded - original_samples
        wide = torch.promote_types(original_samples.dtype, torch.float32)  # half precision would round every term
        a, b = self.gathered_scales(timesteps, wide, len(original_samples))
        a, b = (scale.to(original_samples.device).reshape(-1, 1, 1, 1) for scale in (a, b))
        return rddm_add_noise(original_samples, residual, noise, a, b).to(original_samples.dtype)

    @staticmethod
    def _check_pair(original_samples: Tensor, noise: Tensor, **others: Tensor | None) -> None:
        x0 = check_floats("original_samples", original_samples)
        check_shape("noise", noise, "original_samples", x0.shape, x0.device)
        check_alike("original_samples", x0, **others)

    def get_target(
        self, original_samples: Tensor, noise: Tensor, timesteps: Tensor, *, degraded: Tensor | None = None
    ) -> Tensor:
        """The network's target, its outputs one after the other, (B, C or 2C, H, W); arguments as for `add_noise`.

        Raises:
            InvalidInputError: shapes that don't fit.
        """
        self._check_pair(original_samples, noise, degraded=degraded)
        residual = -original_samples if degraded is None else degraded - original_samples
        targets = {"residual": residual, "epsilon": noise, "sample": original_samples}
        first = self.heads[0]
        if first == "v_prediction":
            a, b = self.gathered_scales(timesteps, original_samples.dtype, len(original_samples))
            a, b = (scale.to(original_samples.device).reshape(-1, 1, 1, 1) for scale in (a, b))
            return (1 - a) * noise - b * original_samples
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
            eta: share of the noise that is new, [0, 1]; see `rddm_variance`. 0 for restoration.
            generator: for that noise, one or one per image.
            variance_noise: the noise itself, instead of a generator.
            return_dict: False returns (prev_sample, pred_original_sample, pred_residual, pred_epsilon).

        Raises:
            InvalidInputError: eta out of range, a timestep that was not set, or shapes that don't fit.
        """
        eta = check_real("eta", eta, 0, 1)
        t, following = self.following(timestep)
        check_floats("sample", sample)
        wanted = (len(sample), len(self.heads) * sample.shape[1], *sample.shape[2:])
        if not is_dense(model_output) or model_output.shape != wanted:
            got = tuple(model_output.shape) if is_dense(model_output) else described(model_output)
            raise InvalidInputError(
                f"model_output must be {wanted}, {' and '.join(self.heads)} for this sample, got {got}"
            )
        if not model_output.is_floating_point():
            raise InvalidInputError(f"model_output must be floats, got {model_output.dtype}")
        check_alike("sample", sample, degraded=degraded, variance_noise=variance_noise)
        check_generators(generator, len(sample))
        a, b = self.scales(t)
        x0, residual, epsilon = rddm_predict(
            model_output.to(sample.dtype).chunk(len(self.heads), dim=1),
            sample,
            0.0 if degraded is None else degraded,
            a,
            b,
            self.config.prediction_type,
            self.config.clip_sample_range if self.config.clip_sample else None,
            self.config.clip_residual_range if self.config.clip_sample else None,
            as_ddim=is_of_ddpm(self.config),
        )
        if following < 0:
            previous = x0.clone()  # so that changing one doesn't change the other
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
        timesteps = check_timesteps(timesteps, count, len(self))
        key = timesteps.device, dtype
        if key not in self._tables:  # in their dtype first: not every device has float64
            self._tables[key] = torch.stack([self.residual_scales, self.noise_scales]).to(dtype).to(timesteps.device)
        a, b = self._tables[key][:, timesteps.long()]
        return a, b


def _check_options(config: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for an option out of range, or that contradicts another; UnknownNameError for a name."""
    variance_type, of_ddpm = config["variance_type"], is_of_ddpm(config)
    if variance_type is None or (variance_type in _DDPM and of_ddpm):
        variance_type = "residual"
    for name, value, known in (
        ("prediction_type", config["prediction_type"], tuple(HEADS)),
        ("process", config["process"], tuple(PROCESSES)),
        ("time_embedding", config["time_embedding"], ("timestep", "cumulative")),
        ("timestep_spacing", config["timestep_spacing"], ("rddm", "trailing", "leading", "linspace")),
        ("update_form", "incremental" if config["update_form"] is None else config["update_form"], FORMS),
        ("variance_type", variance_type, VARIANCES),
        ("removal_order", config["removal_order"], ("both", "residual_first", "noise_first")),
    ):
        if value not in known:
            raise unknown_name(name, value, known)
    check_bool("clip_sample", config["clip_sample"])
    check_real("clip_sample_range", config["clip_sample_range"], above=0)
    check_real("clip_residual_range", config["clip_residual_range"], above=0)
    for name in ("beta_start", "beta_end"):
        check_real(name, config[name])
    check_int("steps_offset", config["steps_offset"], 0, config["num_train_timesteps"] - 1)
    if config["removal_order"] != "both" and config["time_embedding"] != "cumulative":
        raise InvalidInputError(
            f"removal_order={config['removal_order']!r} needs networks with time_embedding='cumulative': others "
            "learned one path, on which both are removed together"
        )


def _check_variance_preserving_scales(scales: Coefficients) -> None:
    """Raise InvalidInputError unless (1 - a_t)^2 + b_t^2 = 1, by which v is defined."""
    norm = (1 - scales.residual_scales) ** 2 + scales.noise_scales**2
    if not torch.allclose(norm, torch.ones_like(norm), atol=1e-6):
        raise InvalidInputError(
            "prediction_type 'v_prediction' is for the coefficients of a DDPM: give beta_schedule or trained_betas"
        )
