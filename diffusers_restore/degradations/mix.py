"""Mixing with an endpoint: Gaussian noise ("hot"), or another picture (animorph)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..caching import keep_tables
from ..errors import InvalidInputError
from ..generators import Generators
from .base import Degradation, State, check_choice, check_floats, draw_each, per_picture


@dataclass(frozen=True)
class Mix(Degradation):
    """D(x, t) = a_t x + b_t z, with the endpoint z as state.

        cosine: a_t = sqrt(abar_t), b_t = sqrt(1 - abar_t), the schedule of arXiv:2102.09672;
        linear: a_t = 1 - t / T, b_t = t / T, for z a degraded picture of a pair (InDI, arXiv:2303.11435).

    Args:
        num_timesteps: T.
        endpoint: z is standard normal "noise", or a "picture" that must be given (an animal of another set, the
            degraded picture of a pair).
        schedule: "cosine" or "linear".
    """

    endpoint: Literal["noise", "picture"] = "noise"
    schedule: Literal["cosine", "linear"] = "cosine"

    kind: ClassVar[str] = "mix"
    forgets: ClassVar[bool] = True
    keeps_grey: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("endpoint", self.endpoint, ("noise", "picture"))
        check_choice("schedule", self.schedule, ("cosine", "linear"))

    def state_shapes(self, channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """`endpoint`: z."""
        return {"endpoint": (channels, height, width)}

    def sample_state(self, x0: Tensor, generator: Generators = None) -> State:
        """Draw the noise z.

        Raises:
            InvalidInputError: the endpoint is a picture, which can't be drawn.
        """
        if self.endpoint == "picture":
            raise InvalidInputError(
                "degradation 'mix' with endpoint='picture' mixes with a picture that can't be drawn: give it as "
                "state={'endpoint': pictures (B, C, H, W) in [-1, 1]}"
            )

        def draw(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
            return torch.randn((count, *x0.shape[1:]), generator=generator, device=device)

        return {"endpoint": draw_each(draw, len(x0), x0.device, generator).to(x0.dtype)}

    def check_values(self, x0: Tensor, state: State) -> None:
        check_floats("endpoint", state["endpoint"], 10)

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        a, b = self._weights(x0, t)
        return a * x0 + b * state["endpoint"].to(x0.dtype)

    def estimate_endpoint(self, x_t: Tensor, x0_hat: Tensor, t: Tensor) -> State:
        """The state with which D(x0_hat, t) = x_t: z = (x_t - a_t x0_hat) / b_t, for t >= 1."""
        a, b = self._weights(x_t, t)
        return {"endpoint": (x_t - a * x0_hat) / b}

    def _weights(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        table = _mixing_weights(self.num_timesteps, self.schedule, x.device, x.dtype)
        return per_picture(table[0, t]), per_picture(table[1, t])


@keep_tables()
def _mixing_weights(steps: int, schedule: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(a_t, b_t) for t = 0..T, (2, T + 1)."""
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    if schedule == "linear":
        table = torch.stack([1 - share, share])
    else:
        f = torch.cos((share + 0.008) / 1.008 * (math.pi / 2)).square()
        # A step keeps a thousandth of the picture at least, or the last one would leave nothing.
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (f[1:] / f[:-1]).clamp_min(0.001).cumprod(dim=0)])
        table = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()])
    return table.to(device, dtype)
