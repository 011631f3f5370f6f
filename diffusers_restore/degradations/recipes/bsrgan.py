"""The degradations of BSRGAN (arXiv:2103.14006): blur, reduction, noise and JPEG in random order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Recipe, Streams, check_scale
from .steps import Step, draw_seed, enlarged, resized

_MODES = ("bilinear", "bicubic", "area")


@dataclass(frozen=True)
class BSRGAN(Recipe):
    """Two blurs, a reduction in two steps, Gaussian noise and JPEG, shuffled, and JPEG again (arXiv:2103.14006).

    The second step of the reduction comes after the first and leads to 1 / scale; at the end the picture is enlarged
    bicubically to its original size, which networks here take. Left out are the camera's pipeline, the sharpened
    target, cropping and mirroring.

    Args:
        scale: 1, 2 or 4. With 4, a quarter of the pictures is halved first, and the rest happens with 2.
    """

    scale: int = 4

    kind: ClassVar[str] = "bsrgan"

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def steps(self, streams: Streams, height: int, width: int) -> list[Step]:
        result: list[Step] = []
        before, scale = 1.0, self.scale
        draw = streams(0)
        if scale == 4 and draw.random() < 0.25:
            before, scale = 0.5, 2
            result.append(_reduced(draw, 1.0, 0.5))
        order = streams(1).permutation(6).tolist()
        first, second = order.index(2), order.index(3)
        if second < first:
            order[first], order[second] = 3, 2
        size = before
        for slot in order:
            draw = streams(2 + slot)
            if slot < 2:
                result.append(_blur(draw, scale))
            elif slot == 2 and draw.random() < 0.75:
                smaller = before / draw.uniform(1, 2 * scale)
                result.append(_reduced(draw, size, smaller))
                size = smaller
            elif slot == 2:
                result += _decimated(draw, before, scale)
                size = before / scale
            elif slot == 3:
                result.append(_reduced(draw, size, before / scale))
            elif slot == 4:
                result.append(_gaussian(draw))
            elif draw.random() < 0.9:
                result.append(_jpeg(draw))
        return [*result, _jpeg(streams(8)), *enlarged()]


@dataclass(frozen=True)
class BSRGANPlus(Recipe):
    """Two rounds of blur, resizing, Gaussian, Poisson and speckle noise, with a JPEG in between and at the end.

    With p = 0.1 the whole order is shuffled, otherwise only the kinds of noise within each round. This is the authors'
    later model, "BSRGAN plus" in their repository KAIR (after arXiv:2103.14006). The result is enlarged as in `BSRGAN`.

    Args:
        scale: 1, 2 or 4.
    """

    scale: int = 4

    kind: ClassVar[str] = "bsrgan_plus"

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def steps(self, streams: Streams, height: int, width: int) -> list[Step]:
        # 0..4 and 6..10: blur, resize, Gaussian, Poisson, speckle; 5: JPEG
        draw = streams(0)
        if draw.random() < 0.1:
            order = draw.permutation(11).tolist()
        else:
            noise = draw.permutation([2, 3, 4]).tolist(), draw.permutation([8, 9, 10]).tolist()
            order = [0, 1, *noise[0], 5, 6, 7, *noise[1]]
        result: list[Step] = []
        size = 1.0
        for slot in order:
            draw = streams(1 + slot)
            what = slot if slot < 5 else slot - 6
            if slot == 5:
                result.append(_jpeg(draw))
            elif what == 0:
                result.append(_blur(draw, self.scale))
            elif what == 1:
                sort = draw.random()
                factor = 1.0
                if sort < 0.2:
                    factor = draw.uniform(1, 2)
                elif sort < 0.9:
                    factor = draw.uniform(0.5 / self.scale, 1)
                result.append(_reduced(draw, size, size * factor))
                size *= factor
            elif what == 2:
                result.append(_gaussian(draw))
            elif draw.random() < 0.1:
                result.append(_poisson(draw) if what == 3 else _speckle(draw))
        draw = streams(12)
        return [*result, _reduced(draw, size, 1 / self.scale), _jpeg(draw), *enlarged()]


def _reduced(draw: np.random.Generator, size: float, target: float) -> Step:
    mode = _MODES[draw.integers(3)]
    if mode == "area" and target > size:
        mode = "bilinear"  # OpenCV's area mode enlarges like this; torch's would repeat pixels
    return resized(target, target, mode)


def _decimated(draw: np.random.Generator, before: float, scale: int) -> list[Step]:
    """Each n-th pixel, after a Gaussian blur centred at the middle of n pixels."""
    sigma = draw.uniform(0.1, 0.6 * scale)
    blur = {"op": "blur", "kernel": "iso", "size": 25, "sigma": sigma, "stride": scale}
    return [blur, resized(before / scale, before / scale, "nearest")]


def _blur(draw: np.random.Generator, scale: int) -> Step:
    size = 7 + 2 * int(draw.integers(10))
    if draw.random() < 0.5:
        return {"op": "blur", "kernel": "iso", "size": size, "sigma": draw.uniform(0, 2 + 0.2 * scale)}
    sigma_x, sigma_y = np.sqrt(draw.uniform(0, 4 + scale, 2)).tolist()
    theta = draw.uniform(0, math.pi)
    return {"op": "blur", "kernel": "aniso", "size": size, "sigma_x": sigma_x, "sigma_y": sigma_y, "theta": theta}


def _gaussian(draw: np.random.Generator) -> Step:
    """Of sigma 2..25: 40 % by channel, 40 % the same in all, 20 % correlated by a random rotation."""
    sort, seed = draw.random(), draw_seed(draw)
    if sort < 0.8:
        return {"op": "gaussian", "sigma": int(draw.integers(2, 26)) / 255, "grey": bool(sort < 0.4), "seed": seed}
    rotation = np.linalg.qr(draw.standard_normal((3, 3)))[0]
    mixing = 25 / 255 * rotation * np.sqrt(draw.random(3))
    return {"op": "correlated", "mixing": mixing.tolist(), "seed": seed}


def _poisson(draw: np.random.Generator) -> Step:
    grey, seed = bool(draw.random() < 0.5), draw_seed(draw)
    return {"op": "poisson", "rate": 10 ** draw.uniform(2, 4), "scale": 1.0, "grey": grey, "seed": seed}


def _speckle(draw: np.random.Generator) -> Step:
    grey, seed = bool(draw.random() < 0.4), draw_seed(draw)
    return {"op": "speckle", "sigma": int(draw.integers(2, 26)) / 255, "grey": grey, "seed": seed}


def _jpeg(draw: np.random.Generator) -> Step:
    return {"op": "jpeg", "quality": int(draw.integers(30, 96)), "subsampled": True}
