"""The second-order degradations of Real-ESRGAN (arXiv:2107.10833)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from .base import Recipe, Streams, check_scale
from .steps import Step, draw_seed, enlarged, resized

_MODES = ("area", "bilinear", "bicubic")
_KERNELS = ("iso", "aniso", "gen_iso", "gen_aniso", "plateau_iso", "plateau_aniso")
_KERNEL_SHARES = np.cumsum([0.45, 0.25, 0.12, 0.03, 0.12, 0.03])


class _Stage(NamedTuple):
    blur: float
    sigma: tuple[float, float]
    up: float
    down: float
    factors: tuple[float, float]
    noise: float
    scale: float


_STAGES = (
    _Stage(1.0, (0.2, 3.0), 0.2, 0.7, (0.15, 1.5), 30, 3.0),
    _Stage(0.8, (0.2, 1.5), 0.3, 0.4, (0.3, 1.2), 25, 2.5),
)


@dataclass(frozen=True)
class RealESRGAN(Recipe):
    """Blur, resizing, noise and JPEG, twice, with ringing and 8 bits at the end (arXiv:2107.10833, x4plus).

    The result of 1 / scale of the size is enlarged bicubically to its original size, which networks here take. The
    authors draw the mode and factor of resizing, Gaussian or Poisson noise, and the final order once for a batch; here
    each picture has its own draws. Poisson noise has a rate of 255; theirs is the number of different values in a
    picture, rounded up to a power of two. Left out are the sharpened target, cropping and mirroring.

    Args:
        scale: 1, 2 or 4.
    """

    scale: int = 4

    kind: ClassVar[str] = "real_esrgan"

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def steps(self, streams: Streams, height: int, width: int) -> list[Step]:
        result: list[Step] = []
        first, second = _STAGES
        result += [*_damaged(streams, 0, first, 1.0), _jpeg(streams(3))]
        result += _damaged(streams, 4, second, 1 / self.scale)
        draw = streams(8)
        jpeg_last = draw.random() < 0.5
        end = [resized(1 / self.scale, 1 / self.scale, _MODES[draw.integers(3)])]
        if draw.random() < 0.8:
            size = _size(draw)
            end.append({"op": "blur", "kernel": "sinc", "size": size, "cutoff": draw.uniform(math.pi / 3, math.pi)})
        jpeg = _jpeg(streams(7))
        result += [*end, jpeg] if jpeg_last else [jpeg, *end]
        return [*result, {"op": "round"}, *enlarged()]


def _damaged(streams: Streams, slot: int, stage: _Stage, size: float) -> list[Step]:
    """Blur, resizing relative to `size`, and noise."""
    result: list[Step] = []
    draw = streams(slot)
    if draw.random() < stage.blur:
        result.append(_blur(draw, stage))
    draw = streams(slot + 1)
    sort = draw.random()
    factor = size
    if sort < stage.up:
        factor *= draw.uniform(1, stage.factors[1])
    elif sort < stage.up + stage.down:
        factor *= draw.uniform(stage.factors[0], 1)
    result.append(resized(factor, factor, _MODES[draw.integers(3)]))
    draw = streams(slot + 2)
    grey, seed = bool(draw.random() < 0.4), draw_seed(draw)
    if draw.random() < 0.5:
        result.append({"op": "gaussian", "sigma": draw.uniform(1, stage.noise) / 255, "grey": grey, "seed": seed})
    else:
        scale = draw.uniform(0.05, stage.scale)
        result.append({"op": "poisson", "rate": 255.0, "scale": scale, "grey": grey, "seed": seed})
    return result


def first_blur(draw: np.random.Generator) -> Step:
    """A kernel of the first of both stages."""
    return _blur(draw, _STAGES[0])


def _blur(draw: np.random.Generator, stage: _Stage) -> Step:
    size = _size(draw)
    if draw.random() < 0.1:
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return {"op": "blur", "kernel": "sinc", "size": size, "cutoff": draw.uniform(lowest, math.pi)}
    chosen = _KERNELS[int(np.searchsorted(_KERNEL_SHARES, draw.random() * _KERNEL_SHARES[-1], side="right"))]
    numbers: dict[str, object] = {"op": "blur", "kernel": chosen, "size": size, "sigma": draw.uniform(*stage.sigma)}
    if chosen.endswith("aniso"):
        numbers["sigma_x"] = numbers.pop("sigma")
        numbers |= {"sigma_y": draw.uniform(*stage.sigma), "theta": draw.uniform(-math.pi, math.pi)}
    family, _, _ = chosen.rpartition("_")
    if family:
        lowest, highest = (0.5, 4.0) if family == "gen" else (1.0, 2.0)
        numbers["beta"] = draw.uniform(lowest, 1) if draw.random() < 0.5 else draw.uniform(1, highest)
        numbers["kernel"] = "generalised" if family == "gen" else "plateau"
    return numbers


def _size(draw: np.random.Generator) -> int:
    return 7 + 2 * int(draw.integers(8))


def _jpeg(draw: np.random.Generator) -> Step:
    return {"op": "jpeg", "quality": draw.uniform(30, 95), "subsampled": True}
