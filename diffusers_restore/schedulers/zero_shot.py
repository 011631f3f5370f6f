"""Shared by the schedulers of zero-shot methods: the noise schedule of a DDPM, on which pictures are restored."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from math import sqrt
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError, OperatorError, check_int
from ..operators import LinearOperator, Measurement, Operator, SVDOperator
from ..registries import METHODS
from ..registry import PlugInError
from ..tensors import check_alike, check_floats, check_shape, described
from .data_terms import posterior_mean
from .ddpm import (
    METHODS_HERE,
    SCHEDULE,
    check_config,
    check_variance_preserving,
    is_variance_exploding,
    make_betas,
    stated_schedule,
    variance_exploding,
)
from .estimate import Estimate, Model, make_pullback
from .levels import nearest_timesteps
from .noise import standard_normal
from .prediction import check_prediction_type, first_channels, predict_x0_and_epsilon
from .timesteps import TimestepsMixin, check_timesteps, check_total, choose_timesteps, space_timesteps
from .timesteps import check_timestep as check_timestep  # it can be imported from here, as before

_OF_NETWORK = {"denoising_errors"}
"""Options of methods that describe the network, as the noise schedule does."""
_OWNER = "_options_of"
"""The key of a configuration under which the class of a method's options is named."""


@dataclass
class ZeroShotSchedulerOutput(BaseOutput):
    """The output of a step, both (B, C, H, W).

    Attributes:
        prev_sample: the next state x_t' of the chain, in the scale of the network's input.
        pred_original_sample: the network's x0_hat, before the data corrected it.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class ZeroShotScheduler(TimestepsMixin, SchedulerMixin, PlainConfigMixin, ABC):
    """A method that restores y = A x + sigma_y z with the network of a DDPM, which was trained without A.

    A method consists of `update`, which gets the network's `Estimate` and returns the next state; where that isn't
    enough, of `first_state`, of `start`, or of `step` instead. `DDRMPipeline` runs it, with `pipe.scheduler =
    TheMethod.from_config(pipe.scheduler.config)`. Its own options go into its `__init__`, after those of the noise
    schedule, or are named in `step_options`. The configuration is the part of `DDPMScheduler`'s that describes the
    network. What a method sets on itself during a chain is that of this chain: each has a copy of the scheduler.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: as in `DDPMScheduler`.
        prediction_type: "epsilon", "sample" or "v_prediction".

    Raises:
        InvalidInputError: betas outside (0, 1).
        UnknownNameError: another prediction type.
    """

    order = 1
    _compatibles = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"]

    step_options: tuple[str, ...] = ()
    """The options of `step` that a call of the pipeline may give: some of "eta" and "eta_b"."""

    default_steps: int = 20
    """Timesteps of a chain unless a number is given."""

    result: str = "neither"
    """What the method makes for a Gaussian prior: "posterior sample", "estimate" of the mean, or "neither"."""

    levels_of_operator: bool = False
    """Whether noise levels depend on the operator, so that pictures with operators of their own have chains of their
    own."""

    needs_gradient: bool = False
    """Whether `step` needs the graph from `sample` to `model_output`."""

    needs_model: bool = False
    """Whether `step` evaluates the network again, by `model`."""

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
        steps = check_total(num_train_timesteps)
        betas = make_betas(steps, beta_start, beta_end, beta_schedule, trained_betas)
        self.betas = betas
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.init_noise_sigma = 1.0
        self._alpha_bars: list[float] = [*self.alphas_cumprod.tolist(), 1.0]  # the last is that of t = -1, no noise
        self._use_all_timesteps()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As `ConfigMixin.from_config`, from the configuration of any scheduler of a DDPM, or of `ScoreSdeVeScheduler`.

        Of another method's configuration the options that are its own are left behind.

        Raises:
            InvalidInputError: no mapping, or of another process (flow matching, consistency models, EDM).
        """
        config = check_config(config)
        if is_variance_exploding(config):
            config = {**variance_exploding(config), "_class_name": cls.__name__}
        check_variance_preserving(config)
        config = _without_options_of_others(config, cls)
        taken = signature(cls.__init__).parameters
        kept = {name: config[name] for name in _OF_NETWORK & config.keys() - taken.keys() if config[name] is not None}
        config = {name: value for name, value in config.items() if name in taken or name not in (*_OF_NETWORK, _OWNER)}
        made = super().from_config(stated_schedule(config), return_unused_kwargs, **kwargs)
        if kept:  # for the methods that may come after this one
            (made[0] if return_unused_kwargs else made).register_to_config(**kept)
        return made

    def register_to_config(self, **kwargs: Any) -> None:
        """As `ConfigMixin.register_to_config`; says whose options they are, for other classes that pass them on."""
        name = type(self).__name__
        owner = {_OWNER: name} if method_options(type(self)).keys() - _OF_NETWORK else {}
        super().register_to_config(**{**kwargs, "_class_name": name, **owner})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        METHODS_HERE.add(cls.__name__)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps: n by `space`, or an explicit list.

        Args:
            num_inference_steps: n in 1..T.
            device: of `timesteps`.
            timesteps: decreasing whole numbers in 0..T-1; the first may be far below T - 1.

        Raises:
            InvalidInputError: not exactly one of the two, or one outside its range.
        """
        if timesteps is None and num_inference_steps is not None:
            self._asked: int | None = check_int("num_inference_steps", num_inference_steps, 1, len(self))
            chosen = self.space(self._asked)
        else:
            self._asked = None
            chosen = choose_timesteps(num_inference_steps, timesteps, len(self), "leading")
        self._use_timesteps(chosen, device)

    def space(self, count: int) -> list[int]:
        """`count` decreasing timesteps of the method's own spacing; here "leading", 0, T // n, 2 (T // n), ..."""
        return space_timesteps(count, len(self), "leading")

    @property
    def default_count(self) -> int:
        """`default_steps`, or as many timesteps as there are."""
        return min(self.default_steps, len(self))

    def alpha_bar(self, timestep: int) -> float:
        """alpha_bar of a timestep of 0..T-1, or 1.0 for -1, where no noise is left."""
        return self._alpha_bars[check_int("timestep", timestep, -1, len(self) - 1)]

    def sigma(self, timestep: int) -> float:
        """The noise level sqrt((1 - alpha_bar) / alpha_bar) of a timestep, in units of the clean image."""
        alpha_bar = self.alpha_bar(timestep)
        return sqrt((1 - alpha_bar) / alpha_bar)

    def nearest_timesteps(self, sigmas: Sequence[float]) -> list[int]:
        """Different timesteps whose noise levels are nearest to decreasing `sigmas`, for a method's own levels."""
        return nearest_timesteps(sigmas, [sqrt((1 - one) / one) for one in self._alpha_bars[:-1]])

    @classmethod
    def why_not(cls, operator: Operator, sigma_y: float) -> str | None:
        """Why the method can't restore from measurements of this operator with this noise; None if it can."""
        return why_not_linear(operator)

    def prepare(self, measurement: Measurement) -> None:
        """Called before a chain starts, after `set_timesteps`, with what it restores: a picture on a CPU, else a batch.

        A method whose noise levels depend on what was measured chooses them here.

        Raises:
            OperatorError: the method can't restore from it; the message lists those that can.
        """
        reason = self.why_not(measurement.operator, measurement.sigma_y)
        if reason is not None:
            raise OperatorError(
                f"{type(self).__name__} can't restore from {measurement.stated or measurement.operator!r}: {reason}. "
                "Methods that can: "
                f"{', '.join(methods_for(measurement.operator, measurement.sigma_y)) or 'none'}"
            )

    def start(self, measurement: Measurement, noise: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The first state of the chain, (B, C, H, W), at `timestep` (default: the first that was set).

        Args:
            measurement: of B images.
            noise: (B, C, H, W) standard normal.
            timestep: where the chain starts.
        """
        first = self.timesteps[0] if timestep is None else timestep
        t = check_timestep("timestep", first, 0, len(self) - 1)
        check_batch(noise, measurement)
        return sqrt(self.alpha_bar(t)) * self.first_state(measurement, noise, self.sigma(t))

    def first_state(self, measurement: Measurement, noise: Tensor, sigma: float) -> Tensor:
        """The first state in VE form: noise around what y alone says, `posterior_mean` of 0 with variance sigma^2."""
        return posterior_mean(torch.zeros_like(noise), measurement, sigma**2) + sigma * noise

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        measurement: Measurement,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        model: Model | None = None,
        return_dict: bool = True,
    ) -> ZeroShotSchedulerOutput | tuple[Tensor, Tensor]:
        """From x_t to the next state.

        Args:
            model_output: (B, C or 2C, H, W); a learned variance in the second half is ignored. For a method with
                `needs_gradient` it must have been computed from `sample` with gradients.
            timestep: one of `timesteps`.
            sample: x_t, (B, C, H, W).
            measurement: of B images.
            generator: for the noise, one or one per image.
            variance_noise: the noise itself, (B, C, H, W), instead of a generator.
            model: (x_t, timestep) -> model_output, for a method with `needs_model`.
            return_dict: False returns (prev_sample, pred_original_sample).

        Raises:
            InvalidInputError: tensors that don't fit each other, a timestep that was not set, or no gradient or model
                where the method needs it.
        """
        check_floats("sample", sample)
        check_batch(sample, measurement)
        return self._advance(model_output, timestep, sample, measurement, generator, variance_noise, model, return_dict)

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        """The method itself: the next state in VE form, (B, C, H, W), at the noise level `estimate.sigma_up`."""
        raise NotImplementedError(f"{type(self).__name__} must have a method update, or step")

    def _advance(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        measurement: Any,
        generator: torch.Generator | list[torch.Generator] | None,
        variance_noise: Tensor | None,
        model: Model | None,
        return_dict: bool,
        **options: float,
    ) -> ZeroShotSchedulerOutput | tuple[Tensor, Tensor]:
        """`step` after its checks of the sample: from the network's scale to VE form, `update`, and back."""
        t, following = self.following(timestep)
        output = first_channels("model_output", model_output, sample)
        check_alike("sample", sample, variance_noise=variance_noise)
        noise = standard_normal(sample, generator) if variance_noise is None else variance_noise
        alpha_bar = self.alpha_bar(t)
        with torch.set_grad_enabled(self.needs_gradient or torch.is_grad_enabled()):
            x0_hat, epsilon_hat = predict_x0_and_epsilon(output, sample, alpha_bar, self.config.prediction_type)
        pullback = make_pullback(type(self).__name__, x0_hat, sample, alpha_bar)
        if self.needs_gradient:
            x0_hat, epsilon_hat = x0_hat.detach(), epsilon_hat.detach()

        def evaluate(x: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
            return self._evaluate(model, x, timestep)

        resumed = self._resumed(t, following)
        levels = (self.sigma(t), self.sigma(following), self.sigma(resumed))
        known = Estimate(x0_hat, epsilon_hat, noise, *levels, t, evaluate, pullback)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.needs_gradient):
            prev_sample = self.update(known, measurement, **options)
        prev_sample = prev_sample * sqrt(self.alpha_bar(resumed))  # not in place: a method may return an estimate
        if not return_dict:
            return prev_sample, x0_hat
        return ZeroShotSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0_hat)

    def _resumed(self, timestep: int, following: int) -> int:
        """The timestep of the next step: the following one, or a higher one where the chain travels in time."""
        return following

    def _evaluate(self, model: Model | None, x: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        if not callable(model):
            raise InvalidInputError(
                f"{type(self).__name__} evaluates the network within its steps: model must be a function (x_t, "
                f"timestep) -> model_output, got {model!r:.99}"
            )
        alpha_bar = self.alpha_bar(timestep)
        sample = sqrt(alpha_bar) * x
        output = first_channels("the output of model", model(sample, timestep), sample)
        return predict_x0_and_epsilon(output, sample, alpha_bar, self.config.prediction_type)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, one timestep per image, or one for all.

        Raises:
            InvalidInputError: samples and noise that are no float tensors of one shape, or no such timesteps.
        """
        check_floats("original_samples", original_samples)
        check_shape("noise", noise, "original_samples", original_samples.shape, original_samples.device)
        timesteps = check_timesteps(timesteps, len(original_samples), len(self))
        wide = torch.promote_types(original_samples.dtype, torch.float32)  # half precision would round every term
        alpha_bars = self.alphas_cumprod.to(original_samples.device, wide)[timesteps.to(original_samples.device).long()]
        alpha_bars = alpha_bars.reshape(-1, *[1] * (original_samples.ndim - 1))
        noised = alpha_bars.sqrt() * original_samples + (1 - alpha_bars).sqrt() * noise
        return noised.to(original_samples.dtype)


def method_options(method: type[ZeroShotScheduler]) -> dict[str, Any]:
    """A method's own options with their defaults: all but the noise schedule, which no method changes."""
    parameters = signature(method.__init__).parameters
    return {name: one.default for name, one in parameters.items() if name not in ("self", *SCHEDULE)}


def _without_options_of_others(config: Mapping[str, Any], own: type[ZeroShotScheduler]) -> Mapping[str, Any]:
    """A configuration without the options of another method or scheduler: the same name means something else there."""
    name = config.get("_class_name")
    owner = config.get(_OWNER, name)
    if own.__name__ in (name, owner):
        return config
    left = set(signature(getattr(diffusers, str(name), dict).__init__).parameters) - {*SCHEDULE}
    left = (left | set(config.get("_use_default_values") or ())) & method_options(own).keys()  # RePaint's eta, say
    others = [key for key, address in METHODS.addresses() if address.rpartition(":")[2] == owner]
    with suppress(PlugInError):
        for key in others:
            left |= method_options(METHODS[key]).keys()
    return {key: value for key, value in config.items() if key not in left - _OF_NETWORK}


def why_not_linear(operator: Operator) -> str | None:
    """Why a method for linear operators can't use this one; None if it can."""
    return None if isinstance(operator, LinearOperator) else "it isn't linear"


def why_no_svd(operator: Operator) -> str | None:
    """Why a method that works on coefficients can't use this operator; None if it can."""
    return why_not_linear(operator) or (None if isinstance(operator, SVDOperator) else "it has no fast SVD")


def methods_for(operator: Operator, sigma_y: float) -> list[str]:
    """The names of the methods that can restore from measurements of this operator with this noise."""
    able = []
    for name in METHODS:
        with suppress(PlugInError):
            method: type[ZeroShotScheduler] = METHODS[name]
            if method.why_not(operator, sigma_y) is None:
                able.append(name)
    return able


def check_batch(sample: Tensor, measurement: Measurement) -> None:
    """Raise an error unless `sample` has the shape of the measured images, and their dtype and device."""
    if not isinstance(measurement, Measurement):
        raise InvalidInputError(f"measurement must be a Measurement, got {described(measurement)}")
    measurement.operator.check_input(sample)
    if len(sample) != len(measurement.y):
        raise InvalidInputError(f"a batch of {len(sample)} does not fit a measurement of {len(measurement.y)} images")
    if sample.device != measurement.y.device:
        raise InvalidInputError(f"the sample is on {sample.device}, the measurement on {measurement.y.device}")
