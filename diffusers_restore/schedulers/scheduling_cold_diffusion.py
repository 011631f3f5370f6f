"""Cold Diffusion, sampling with any degradation (arXiv:2208.09392)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ..configuration import PlainConfigMixin
from ..degradations import Degradation, Mix, State, from_config
from ..degradations.base import check_choice, per_picture
from ..errors import InvalidInputError, check_bool, check_int
from ..generators import Generators
from ..tensors import check_floats, check_shape
from .timesteps import TimestepsMixin

Algorithm = Literal["naive", "improved"]
Endpoint = Literal["fixed", "estimated"]


def naive_update(x0_hat: Tensor, degradation: Degradation, s: Tensor, state: State) -> Tensor:
    """Algorithm 1, x_s = D(x0_hat, s): errors of the network accumulate.

    Args:
        x0_hat: the network's estimate of the clean pictures, (B, C, H, W).
        degradation: D.
        s: the next severities, (B,).
        state: of D.
    """
    return degradation.apply(x0_hat, s, state)


def improved_update(
    x_t: Tensor, x0_hat: Tensor, degradation: Degradation, t: Tensor, s: Tensor, state: State
) -> Tensor:
    """Algorithm 2, x_s = x_t - D(x0_hat, t) + D(x0_hat, s): errors cancel where D is nearly linear in t.

    Where D(x, t) = x + t e, x_s is exact for any network.

    Args:
        x_t: pictures of severity t, (B, C, H, W).
        x0_hat: the network's estimate of the clean pictures.
        degradation: D.
        t, s: the severities of x_t and of the result, (B,).
        state: of D.
    """
    return x_t + (degradation.apply(x0_hat, s, state) - degradation.apply(x0_hat, t, state))


@dataclass
class ColdDiffusionSchedulerOutput(BaseOutput):
    """The output of a step, both (B, C, H, W).

    Attributes:
        prev_sample: the pictures of the next severity.
        pred_original_sample: x0_hat, the network's estimate, clipped if the scheduler clips.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class ColdDiffusionScheduler(TimestepsMixin, SchedulerMixin, PlainConfigMixin):
    """Cold Diffusion (arXiv:2208.09392): Algorithms 1 and 2 with a degradation D(x, t) of severities t = 0..T.

    A network R takes timesteps k = T-1..0, as with other schedulers of diffusers; pictures at timestep k have the
    severity t = k + 1, and R(x_t, k) estimates the clean picture x0.

    Args:
        degradation: D, or its `to_config()`.
        num_train_timesteps: T; None takes it from the degradation, and another number is refused.
        algorithm: "improved" (2) or "naive" (1).
        endpoint: of a degradation that mixes with an endpoint z: "fixed" takes the state's; "estimated" takes in each
            step the z with which D(x0_hat, t) = x_t. Then both algorithms are the same as DDIM.
        clip_sample: clip x0_hat to [-1, 1].
        eight_bit: `degrade` and `add_noise` floor to 8 bits, as the authors' training does; steps do not.

    Raises:
        InvalidInputError: one of these can't be used.
        UnknownNameError: no such degradation is registered.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        degradation: Degradation | Mapping[str, Any],
        num_train_timesteps: int | None = None,
        algorithm: Algorithm = "improved",
        endpoint: Endpoint = "fixed",
        clip_sample: bool = False,
        eight_bit: bool = False,
    ) -> None:
        chosen = degradation if isinstance(degradation, Degradation) else from_config(degradation)
        steps = chosen.num_timesteps
        if num_train_timesteps is not None and check_int("num_train_timesteps", num_train_timesteps, 1) != steps:
            raise InvalidInputError(
                f"num_train_timesteps must be that of the degradation, {steps}, or None, got {num_train_timesteps!r}"
            )
        check_choice("algorithm", algorithm, ("naive", "improved"))
        check_choice("endpoint", endpoint, ("fixed", "estimated"))
        if endpoint == "estimated" and not isinstance(chosen, Mix):
            raise InvalidInputError(f"endpoint='estimated' is for degradation 'mix'; {chosen.kind!r} has no endpoint")
        for name, value in (("clip_sample", clip_sample), ("eight_bit", eight_bit)):
            check_bool(name, value)
        self.register_to_config(
            degradation=chosen.to_config(),
            num_train_timesteps=chosen.num_timesteps,
        )
        self.degradation: Degradation = chosen
        self.set_timesteps(chosen.num_timesteps)

    def sample_state(self, x0: Tensor, generator: Generators = None) -> State:
        """The state of the degradation for each picture of `x0`: see `Degradation.sample_state`."""
        return self.degradation.sample_state(x0, generator)

    def degrade(self, x0: Tensor, t: int | Tensor, state: State | None = None) -> Tensor:
        """D(x0, t), (B, C, H, W), floored to 8 bits if the configuration says so.

        Args:
            x0: clean pictures in [-1, 1].
            t: their severity in 0..T, one or one for each.
            state: from `sample_state`, where the degradation has one.

        Raises:
            InvalidInputError: a severity out of range, or a size or a state that the degradation can't use.
        """
        state = self.degradation.check(x0, state)
        severities = self.degradation.check_severity(t, x0)
        self.degradation.check_values(x0, state)
        return self.apply(x0, severities, state)

    def apply(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        """`degrade` for valid arguments: t of shape (B,) on the device of `x0`. No host sync."""
        degraded = self.degradation.apply(x0, t, state)
        if not self.config.eight_bit:
            return degraded
        levels = (degraded.to(torch.promote_types(x0.dtype, torch.float32)).clamp(-1, 1) + 1) * 127.5
        rounding = min(0.25, 1e-3 + 127.5 * torch.finfo(x0.dtype).eps)  # so that 8-bit values don't change
        floored = (levels + rounding).floor() / 127.5 - 1
        return torch.where(per_picture(t == 0), x0, floored.to(x0.dtype))

    def add_noise(self, original_samples: Tensor, noise: State | None, timesteps: Tensor) -> Tensor:
        """`degrade` by the timesteps k = t - 1 of a network in 0..T-1, (B,), under the name that diffusers uses.

        Args:
            original_samples: clean pictures (B, C, H, W) in [-1, 1].
            noise: the state of the degradation, None where it has none.
            timesteps: (B,).
        """
        t = self.degradation.check_severity(timesteps, original_samples, "timesteps", len(self) - 1) + 1
        return self.degrade(original_samples, t, noise)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        *,
        start: int | None = None,
    ) -> None:
        """Choose the severities from `start` to 0 in n steps, as even as whole numbers allow.

        Args:
            num_inference_steps: n in 1..start; None takes every severity.
            device: of `timesteps`.
            start: the severity of the pictures to restore, 1..T; None is T.

        Raises:
            InvalidInputError: a number out of range.
        """
        last = len(self)
        start = last if start is None else check_int("start", start, 1, last)
        count = start if num_inference_steps is None else num_inference_steps
        count = check_int("num_inference_steps", count, 1, start)
        severities = [(start * (count - i) + count // 2) // count for i in range(count + 1)]
        self._use_timesteps([t - 1 for t in severities[:-1]], device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        state: State | None = None,
        return_dict: bool = True,
    ) -> ColdDiffusionSchedulerOutput | tuple[Tensor, Tensor]:
        """From pictures of one severity to those of the next lower one.

        Args:
            model_output: x0_hat = R(x_t, k), (B, C, H, W).
            timestep: k, one of `timesteps`.
            sample: x_t.
            state: of the degradation, where it has one and the endpoint isn't estimated.
            return_dict: False returns (prev_sample, pred_original_sample).

        Raises:
            InvalidInputError: a timestep that was not set, or a state or shapes that don't fit.
        """
        k, following = self.following(timestep)
        check_floats("sample", sample)
        check_shape("model_output", model_output, "sample", sample.shape, sample.device)
        x0_hat = model_output.to(sample.dtype)  # differences of D may need more precision than the network's
        x0_hat = x0_hat.clamp(-1, 1) if self.config.clip_sample else x0_hat
        t, s = (torch.full((len(sample),), at + 1, device=sample.device) for at in (k, following))
        if self.config.endpoint == "estimated" and isinstance(self.degradation, Mix):
            state = self.degradation.estimate_endpoint(sample, x0_hat, t)
        state = self.degradation.check(sample, state)
        if self.config.algorithm == "naive":
            prev_sample = naive_update(x0_hat, self.degradation, s, state)
        else:
            prev_sample = improved_update(sample, x0_hat, self.degradation, t, s, state)
        if not return_dict:
            return prev_sample, x0_hat
        return ColdDiffusionSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0_hat)
