"""Increasingly heavy snow, after ImageNet-C (arXiv:1903.12261), with the severities of Cold Diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..caching import keep_tables
from ..errors import InvalidInputError, check_bool, check_int
from ..generators import Generators
from .base import Degradation, State, check_floats, draw_each, per_picture


class _Level(NamedTuple):
    """Flakes ~ N(mean, std), enlarged `zoom` times; (first, last) of what changes with the severity."""

    mean: float
    std: float
    zoom: float
    taps: int
    threshold: tuple[float, float]
    motion_std: tuple[float, float]
    brightness: tuple[float, float]


_LEVELS = {
    1: _Level(0.1, 0.3, 3.0, 5, (0.7, 0.3), (0.5, 5.0), (0.95, 0.7)),
    2: _Level(0.55, 0.3, 2.5, 11, (1.15, 0.7), (0.05, 12.0), (0.95, 0.55)),
    3: _Level(0.55, 0.3, 2.5, 11, (1.15, 0.7), (0.05, 16.0), (0.95, 0.4)),
    4: _Level(0.55, 0.3, 2.5, 11, (1.15, 0.55), (0.05, 20.0), (0.95, 0.3)),
}


@dataclass(frozen=True)
class Snow(Degradation):
    """D(x, t): a paler picture under a layer L of blurred flakes and its half turn (arXiv:2208.09392).

    With pictures in [0, 1], x <- b x + (1 - b) max(x, 1.5 grey + 0.5) and D = clip(x + L + rot180 L). L is the state
    `flakes`, zero below the threshold, clipped to [0, 1] and blurred along rows, or columns where the state `vertical`
    is True, by a Gaussian of 11 taps with zeros beyond the border, as published. Brightness b, threshold and width of
    the blur change linearly from t = 1 to T:

        level  threshold    width       b
        1      0.7..0.3     0.5..5      0.95..0.7   (larger flakes, 5 taps)
        2      1.15..0.7    0.05..12    0.95..0.55
        3      1.15..0.7    0.05..16    0.95..0.4   (CIFAR-10, T = 200)
        4      1.15..0.55   0.05..20    0.95..0.3   (CelebA, T = 200)

    Args:
        num_timesteps: T.
        level: see above.
        fix_brightness: leave b = 1.
    """

    level: int = 3
    fix_brightness: bool = False

    kind: ClassVar[str] = "snow"
    mixes_channels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("level", self.level, 1, len(_LEVELS))
        check_bool("fix_brightness", self.fix_brightness)

    def state_shapes(self, channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """`flakes`: before the threshold. `vertical`: True where they are blurred along the columns."""
        return {"flakes": (1, height, width), "vertical": ()}

    def sample_state(self, x0: Tensor, generator: Generators = None) -> State:
        level = _LEVELS[self.level]
        size = x0.shape[2:]
        small = [math.ceil(n / level.zoom) for n in size]

        def flakes(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
            base = level.mean + level.std * torch.randn((count, 1, *small), generator=generator, device=device)
            large = [max(n, round(m * level.zoom)) for n, m in zip(size, small, strict=True)]
            zoomed = functional.interpolate(base, size=large, mode="bilinear", align_corners=True)
            top, left = ((m - n) // 2 for n, m in zip(size, large, strict=True))
            return zoomed[:, :, top : top + size[0], left : left + size[1]]

        def vertical(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
            return torch.randint(2, (count,), generator=generator, device=device).bool()

        return {
            "flakes": draw_each(flakes, len(x0), x0.device, generator).to(x0.dtype),
            "vertical": draw_each(vertical, len(x0), x0.device, generator),
        }

    def check_values(self, x0: Tensor, state: State) -> None:
        check_floats("flakes", state["flakes"], 10)
        if state["vertical"].dtype != torch.bool:
            raise InvalidInputError(f"state['vertical'] must be True or False, got {state['vertical'].dtype}")

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        threshold, brightness, kernels = _severities(self, x0.device, x0.dtype)
        flakes = state["flakes"].to(x0.dtype)
        layer = torch.where(flakes < per_picture(threshold[t]), 0, flakes).clamp(0, 1)
        along_rows = _blurred(layer, kernels[t])
        along_columns = _blurred(layer.mT, kernels[t]).mT
        layer = torch.where(per_picture(state["vertical"]), along_columns, along_rows)
        x = (x0 + 1) / 2
        if not self.fix_brightness:
            grey = x.mean(dim=1, keepdim=True) if x.shape[1] != 3 else _luma(x)
            x = torch.lerp(torch.maximum(x, 1.5 * grey + 0.5), x, per_picture(brightness[t]))
        return (x + layer + layer.flip(2, 3)).clamp(0, 1) * 2 - 1


def _luma(x: Tensor) -> Tensor:
    red, green, blue = x.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _blurred(layer: Tensor, kernels: Tensor) -> Tensor:
    """Each picture (B, 1, H, W) convolved along its rows with its own kernel (B, taps); beyond it there is no snow."""
    batch, taps = kernels.shape
    rows = functional.pad(layer[:, 0].transpose(0, 1), (taps // 2, taps // 2))  # (H, B, W + taps - 1)
    return functional.conv1d(rows, kernels[:, None], groups=batch).transpose(0, 1)[:, None]


@keep_tables()
def _severities(snow: Snow, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Thresholds (T + 1,), brightness (T + 1,) and kernels (T + 1, taps) at t = 0..T; those at 0 are not used."""
    level = _LEVELS[snow.level]
    share = torch.linspace(0, 1, max(2, snow.num_timesteps), dtype=torch.float64)[-snow.num_timesteps :]
    share = torch.cat([share[:1], share])

    def between(ends: tuple[float, float]) -> Tensor:
        return ends[0] + (ends[1] - ends[0]) * share

    offset = torch.arange(level.taps, dtype=torch.float64) - level.taps // 2
    kernels = torch.exp(-((offset / between(level.motion_std)[:, None]) ** 2) / 2)
    kernels /= kernels.sum(dim=1, keepdim=True)
    threshold, brightness = (between(ends).to(device, dtype) for ends in (level.threshold, level.brightness))
    return threshold, brightness, kernels.to(device, dtype)
