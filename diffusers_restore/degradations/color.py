"""Loss of colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import InvalidInputError, check_bool, check_real
from .base import Degradation, State, check_choice, per_picture


@dataclass(frozen=True)
class Decolor(Degradation):
    """D(x, t) = a_t x + (1 - a_t) mean_c(x), the mean over the channels (arXiv:2208.09392).

        linear: a_t = 1 - t / T;  exponential: a_t = decay^t.

    Args:
        num_timesteps: T.
        schedule: "linear" or "exponential".
        decay: of the exponential schedule.
        total: D(x, T) is grey with the exponential schedule too, a_T = 0.
    """

    schedule: Literal["linear", "exponential"] = "linear"
    decay: float = 0.9
    total: bool = False

    kind: ClassVar[str] = "decolor"
    keeps_grey: ClassVar[bool] = False
    mixes_channels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("schedule", self.schedule, ("linear", "exponential"))
        if check_real("decay", self.decay, above=0) >= 1:
            raise InvalidInputError(f"decay must be below 1, got {self.decay}")
        check_bool("total", self.total)

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        severity = t.to(x0.dtype)
        a = 1 - severity / self.num_timesteps if self.schedule == "linear" else self.decay**severity
        if self.total:
            a = torch.where(t == self.num_timesteps, 0, a)
        grey = x0.mean(dim=1, keepdim=True).expand_as(x0)
        return torch.lerp(grey, x0, per_picture(a))
