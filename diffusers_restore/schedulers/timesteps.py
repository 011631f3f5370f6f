"""The timesteps of a chain: their choice and their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from ..errors import InvalidInputError, check_int
from ..tensors import check_whole

_MAX_TOTAL = 1_000_000  # tables have a number for each timestep: an absurd configuration would take all memory


def check_total(num_train_timesteps: int) -> int:
    """T, a whole number in 1..1,000,000."""
    total = check_int("num_train_timesteps", num_train_timesteps, 1)
    return check_int("num_train_timesteps", total, 1, _MAX_TOTAL)


def check_timestep(name: str, timestep: int | Tensor, minimum: int, maximum: int) -> int:
    """A timestep, which may come as a tensor of one whole number.

    Raises:
        InvalidInputError: not a whole number in [minimum, maximum].
    """
    if isinstance(timestep, Tensor) and timestep.numel() == 1:
        return check_int(name, timestep.item(), minimum, maximum)
    return check_int(name, timestep, minimum, maximum)


def check_device(device: object) -> None:
    """Raise InvalidInputError for what names no device."""
    try:
        if device is not None:
            torch.device(device)  # type: ignore[call-overload]  # it says what it takes
    except (RuntimeError, TypeError) as error:
        raise InvalidInputError(f"device must be a torch.device or its name, got {device!r}") from error


def check_timesteps(timesteps: object, count: int | None, total: int) -> Tensor:
    """Timesteps (B,), or (1,) for all of `count` pictures, as they came; one without dimensions becomes (1,).

    Raises:
        InvalidInputError: no such tensor; on a CPU also a timestep beyond 0..T-1 (elsewhere it would be a host sync).
    """
    if isinstance(timesteps, Tensor) and timesteps.ndim == 0:  # as in a loop over `scheduler.timesteps`
        timesteps = timesteps[None]
    whole = check_whole("timesteps", timesteps, count)
    if whole.device.type == "cpu":
        smallest, largest = torch.aminmax(whole)
        if smallest < 0 or largest >= total:
            raise InvalidInputError(f"timesteps must be in 0..{total - 1}, got {whole.tolist()}")
    return whole


def space_timesteps(count: int, total: int, spacing: str, offset: int = 0) -> list[int]:
    """`count` of the timesteps 0..total-1, decreasing.

    Args:
        count: n in 1..total.
        total: T.
        spacing: "rddm", T k / n - 1 rounded down, or "trailing", "leading", "linspace" as in diffusers.
        offset: of "leading".
    """
    if spacing == "rddm":
        return [total * k // count - 1 for k in range(count, 0, -1)]
    ddim = DDIMScheduler(total, timestep_spacing=spacing, steps_offset=offset)
    ddim.set_timesteps(count)
    return [int(t) for t in ddim.timesteps.tolist()[:count]]  # rounding gives some "trailing" ones a -1 at the end


def choose_timesteps(
    num_inference_steps: int | None, timesteps: Sequence[int] | None, total: int, spacing: str, offset: int = 0
) -> list[int]:
    """The timesteps of a chain: `space_timesteps`, or an explicit list.

    Raises:
        InvalidInputError: not exactly one of the two, or one that isn't decreasing in 0..total-1.
    """
    if (num_inference_steps is None) == (timesteps is None):
        raise InvalidInputError("give either num_inference_steps or timesteps")
    if timesteps is None:
        count = check_int("num_inference_steps", num_inference_steps, 1, total)
        chosen = space_timesteps(count, total, spacing, offset)
    elif isinstance(timesteps, Iterable) and not isinstance(timesteps, (str, bytes, Mapping, Set)):
        chosen = [check_timestep("timesteps", t, 0, total - 1) for t in timesteps]
    else:
        raise InvalidInputError(f"timesteps must be a decreasing list of whole numbers, got {timesteps!r}")
    if not chosen or any(a <= b for a, b in pairwise(chosen)) or not 0 <= chosen[-1] <= chosen[0] < total:
        raise InvalidInputError(f"timesteps must be a decreasing list of whole numbers below {total}, got {chosen}")
    return chosen


class TimestepsMixin:
    """A scheduler's timesteps in the order of the chain, and the one that follows each; -1 is the end.

    Attributes:
        timesteps: those that are set, (n,).
        num_inference_steps: n; None before they are set.
    """

    config: Any
    num_inference_steps: int | None
    timesteps: Tensor
    _following: dict[int, int]

    def _use_timesteps(self, chosen: Sequence[int], device: str | torch.device | None = None) -> None:
        check_device(device)
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.tensor(chosen, device=device)
        self._following = dict(zip(chosen, [*chosen[1:], -1], strict=True))

    def _use_all_timesteps(self) -> None:
        """T-1..0, before any are chosen."""
        self._use_timesteps(range(len(self) - 1, -1, -1))
        self.num_inference_steps = None

    def take_timesteps(self, other: TimestepsMixin) -> None:
        """Take over those of another scheduler of this kind, such as a call's own copy, which may have chosen them."""
        self.num_inference_steps, self.timesteps = other.num_inference_steps, other.timesteps
        self._following = other._following

    def following(self, timestep: int | Tensor) -> tuple[int, int]:
        """The timestep as a number, and the one after it, which is -1 at the end of the chain.

        Raises:
            InvalidInputError: a timestep that was not set.
        """
        t = check_timestep("timestep", timestep, 0, len(self) - 1)
        if t not in self._following:
            raise InvalidInputError(f"timestep must be one of those set by set_timesteps, got {t}")
        return t, self._following[t]

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The sample unchanged; diffusers' pipelines call this."""
        return sample

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)
