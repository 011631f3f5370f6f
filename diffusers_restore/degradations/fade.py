"""Fading: a growing Gaussian mask replaces the picture by grey (inpainting) or by a colour (generation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..caching import keep_tables
from ..errors import InvalidInputError, check_int, check_real
from ..generators import Generators
from .base import Degradation, State, check_choice, check_floats, draw_each


@dataclass(frozen=True)
class Fade(Degradation):
    """D(x, t) = x prod_{i<t} z_i, z_i = 1 - g_i / max g_i: a hole of grey (0) that grows (arXiv:2208.09392).

    g_i is a Gaussian of standard deviation sigma_i = std (i + init) pixels, on a canvas that is cut to the picture:
    twice its size with a window placed at random for each picture ("random", state `offset`), or of its own size
    ("center"). Its peak is at the pixel (n - 1) // 2 of a canvas of n.

    Args:
        num_timesteps: T.
        std: growth of the standard deviation in pixels a step.
        init: steps by which the first mask is ahead.
        placement: "random" or "center".
    """

    std: float = 0.1
    init: int = 1
    placement: Literal["random", "center"] = "random"

    kind: ClassVar[str] = "fade"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("std", self.std, above=0)
        check_int("init", self.init, 1)
        check_choice("placement", self.placement, ("random", "center"))

    def state_shapes(self, channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """`offset`: the window's first row and column on the canvas, 0..H and 0..W."""
        return {"offset": (2,)} if self.placement == "random" else {}

    def sample_state(self, x0: Tensor, generator: Generators = None) -> State:
        if self.placement == "center":
            return {}
        sizes = x0.shape[2:]

        def draw(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
            return torch.stack(
                [torch.randint(n + 1, (count,), generator=generator, device=device) for n in sizes], dim=1
            )

        return {"offset": draw_each(draw, len(x0), x0.device, generator)}

    def check_values(self, x0: Tensor, state: State) -> None:
        if "offset" not in state:
            return
        offset, (height, width) = state["offset"], x0.shape[2:]
        whole = offset.dtype != torch.bool and not offset.is_floating_point() and not offset.is_complex()
        if not whole or offset.min() < 0 or offset[:, 0].max() > height or offset[:, 1].max() > width:
            raise InvalidInputError(
                f"state['offset'] must be whole numbers, rows in 0..{x0.shape[2]} and columns in 0..{x0.shape[3]}, got "
                f"{offset.tolist()}"
            )

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        height, width = x0.shape[2:]
        scale = 2 if self.placement == "random" else 1
        masks = _masks(self.num_timesteps, self.std, self.init, scale * height, scale * width, x0.device, x0.dtype)
        if "offset" in state:
            row, column = state["offset"].long().unbind(dim=1)  # torch takes 8-bit numbers for a mask
            mask = masks.unfold(1, height, 1).unfold(2, width, 1)[t, row, column]  # views: (T + 1, H + 1, W + 1, H, W)
        else:
            mask = masks[t]
        return x0 * mask[:, None]


@dataclass(frozen=True)
class ColorFade(Degradation):
    """D(x, t) = (1 - m_{T-t}) x + m_{T-t} c, m_j = prod_{i<j} z_i: a flat colour c grows from the rim inwards.

    Masks are those of `Fade` with placement "center" and init 1 (arXiv:2208.09392); at T only the colour is left, so
    that pictures can be generated from it. The state `color` is drawn from U(-.5, .5) for each channel.

    Args:
        num_timesteps: T; std T should exceed the size of the picture, or D(x, 1) is far from x.
        std: growth of the standard deviation in pixels a step.
    """

    std: float = 0.05

    kind: ClassVar[str] = "color_fade"
    forgets: ClassVar[bool] = True
    keeps_grey: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("std", self.std, above=0)

    def state_shapes(self, channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """`color`: c in [-1, 1]."""
        return {"color": (channels, 1, 1)}

    def sample_state(self, x0: Tensor, generator: Generators = None) -> State:
        def draw(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
            return torch.rand((count, x0.shape[1], 1, 1), generator=generator, device=device) - 0.5

        return {"color": draw_each(draw, len(x0), x0.device, generator).to(x0.dtype)}

    def check_values(self, x0: Tensor, state: State) -> None:
        check_floats("color", state["color"], 1)

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        masks = _masks(self.num_timesteps, self.std, 1, x0.shape[2], x0.shape[3], x0.device, x0.dtype)
        return torch.lerp(x0, state["color"].to(x0.dtype), masks[self.num_timesteps - t][:, None])


@keep_tables(2)  # each is as large as T + 1 pictures
def _masks(
    steps: int, std: float, init: int, height: int, width: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """prod_{i<t} (1 - g_i / max g_i) for t = 0..T, (T + 1, height, width)."""
    masks = torch.ones(steps + 1, height, width, device=device, dtype=dtype)
    product = torch.ones(height, width, dtype=torch.float64)
    for i in range(steps):
        rows, columns = (
            torch.exp(-(((torch.arange(n, dtype=torch.float64) - (n - 1) // 2) / (std * (i + init))) ** 2) / 2)
            for n in (height, width)
        )
        product *= 1 - rows[:, None] * columns
        masks[i + 1] = product
    return masks
