"""The whole damage of a really old photograph: its tones, what happened to the paper, and the scan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .ageing import REFERENCE
from .base import Recipe, Streams
from .old_photos import gaussian_blur, rough_jpeg
from .real_esrgan import first_blur
from .steps import KEEP, Step, draw_seed, log_uniform, resized

_Rows = list[list[float]]
_NOTHING: Step = {"op": KEEP}
_AT_REFERENCE = 1 / REFERENCE
_FOLDS = 3


@dataclass(frozen=True)
class OldPhotoFull(Recipe):
    """Tone, then damage of the paper, then blur, noise and JPEG: ours, around those of arXiv:2004.09484.

    Widths grow with the picture: blur's are as cited where the shorter side has 256 pixels, a speck has a radius of
    0.5..4 pixels where it has 512. In this order:

    - tone: grey with p 0.35, or grey and toned sepia with p 0.25; p 0.6: faded, which lifts black by 0.02..0.18, lowers
      white by up to 0.15, and changes contrast and saturation; p 0.4: a cast; p 0.3 each: vignette, uneven light;
    - paper: p 0.35 its texture, p 0.25 one to three stains, p 0.6 up to 12 scratches, p 0.35 one to three folds with
      cracks, p 0.2 one to three tears or holes, p 0.25 up to four hairs, p 0.6 five to 150 specks of dust;
    - p 0.05: a printing screen. Then in any order, each with p 0.7: blur as in `OldPhotos` or `RealESRGAN`; Gaussian,
      speckle or Poisson noise or the film's grain; smaller by 0.5..1 and back; JPEG of quality 40..100;
    - scan: p 0.3 JPEG of quality 75..98.

    Of a picture that becomes grey or sepia, the target is grey: nothing is left of its colours. The mask shows what
    hides the picture, with an opacity above 0.1: scratches, hairs, specks of a radius of a pixel or more (at 512), the
    worn lines of folds, cracks, tears; neither stains nor the paper's texture nor the shading beside a fold. A
    scanner's slight turn is left out, as the target would no longer lie under the picture.
    """

    kind: ClassVar[str] = "old_photo_full"

    def steps(self, streams: Streams, height: int, width: int) -> list[Step]:
        return [*_tone(streams), *_structured(streams), *_unstructured(streams)]


def _by_chance(draw: np.random.Generator, p: float, make: Callable[[np.random.Generator], Step]) -> Step:
    return make(draw) if draw.random() < p else _NOTHING


def _tone(streams: Streams) -> list[Step]:
    grey = sepia = _NOTHING
    draw = streams(0)
    sort = draw.random()
    if sort < 0.35 + 0.25:
        grey = {"op": "grey"}
    if 0.35 <= sort < 0.35 + 0.25:
        # From reddish brown to olive: the colours of the paper of a fully toned print.
        tint = [[1.0, draw.uniform(0.8, 0.96), draw.uniform(0.5, 0.75)]]
        sepia = {"op": "sepia", "strength": draw.uniform(0.3, 1.0), "tint": tint}
    return [
        grey,
        sepia,
        _by_chance(streams(1), 0.6, _fade),
        _by_chance(streams(2), 0.4, lambda draw: {"op": "cast", "gain": [draw.uniform(0.88, 1.12, 3).tolist()]}),
        _by_chance(streams(3), 0.3, lambda draw: {"op": "vignette", "strength": draw.uniform(0.1, 0.5)}),
        _by_chance(streams(4), 0.3, lambda draw: _cloudy(draw, "light", 4, 1, (0.03, 0.15))),
    ]


def _fade(draw: np.random.Generator) -> Step:
    return {
        "op": "fade",
        "black": draw.uniform(0.02, 0.18),
        "white": draw.uniform(0.0, 0.15),
        "gamma": draw.uniform(0.8, 1.25),
        "saturation": draw.uniform(0.3, 1.0),
    }


def _cloudy(draw: np.random.Generator, op: str, coarsest: int, octaves: int, amplitude: tuple[float, float]) -> Step:
    size = draw.uniform(*amplitude)
    return {"op": op, "coarsest": coarsest, "octaves": octaves, "amplitude": size, "seed": draw_seed(draw)}


def _structured(streams: Streams) -> list[Step]:
    draw = streams(10)
    paper = _by_chance(draw, 0.35, lambda draw: _cloudy(draw, "paper", 32, int(draw.integers(3, 6)), (0.01, 0.06)))
    scratches = _by_chance(streams(12), 0.6, _scratches)
    folds, cracks = _folds(streams(13))
    return [
        paper,
        _by_chance(streams(11), 0.25, _stains),
        scratches,
        *folds,
        cracks,
        _by_chance(streams(14), 0.2, _tears),
        _by_chance(streams(15), 0.25, _hairs),
        *_dust(streams(16)),
    ]


def _strokes(rows: _Rows, bright: str = "screen", dark: str = "multiply", *, masked: bool = True) -> Step:
    if not rows:
        return _NOTHING
    return {"op": "strokes", "segments": rows, "bright": bright, "dark": dark, "masked": masked}


def _joined(x: np.ndarray, y: np.ndarray, radius: np.ndarray, opacity: np.ndarray) -> _Rows:
    """Segments between vertices, for `strokes`; opacities are those of segments. Rounded, to keep plans short."""
    ends = np.stack([x[:-1], y[:-1], x[1:], y[1:], radius[:-1], radius[1:], opacity], axis=1)
    rows: _Rows = ends[np.abs(opacity) > 0.02].round(5).tolist()
    return rows


def _wandering(draw: np.random.Generator, count: int, smooth: int) -> np.ndarray:
    """Normal numbers, each correlated with about as many neighbours as `smooth`, of variance one."""
    window = np.hanning(2 * smooth + 1)[1:-1]
    values = np.convolve(draw.standard_normal(count + len(window) - 1), window, mode="valid")
    result: np.ndarray = values / np.sqrt((window**2).sum())
    return result


def _scratches(draw: np.random.Generator) -> Step:
    rows: _Rows = []
    for _ in range(draw.integers(1, 13)):
        along_axis = draw.random() < 0.7
        turned = draw.uniform(-8, 8) * math.pi / 180 + draw.integers(2) * math.pi / 2
        theta = turned if along_axis else draw.uniform(0, math.pi)
        length, (x, y) = draw.uniform(0.1, 1.0), draw.uniform(0, 1, 2)
        count = 6 + round(18 * length)
        t = np.linspace(-0.5, 0.5, count + 1) * length
        beside = draw.uniform(0, 0.01) * length * _wandering(draw, count + 1, count // 2)
        radius = log_uniform(draw, 0.3, 1.5) * _AT_REFERENCE * np.exp(0.25 * _wandering(draw, count + 1, 2))
        opacity = draw.uniform(0.5, 1.0) * (1 if draw.random() < 0.7 else -1)
        # Broken where the noise is low, the more often the rougher the scratch; fading out at both ends.
        pressed = (1.1 + draw.uniform(0.2, 1.2) * _wandering(draw, count, 2)).clip(0, 1)
        pressed *= (6 * (0.5 - np.abs(np.linspace(-0.5, 0.5, count + 2)[1:-1]))).clip(0, 1)
        across, down = math.cos(theta), math.sin(theta)
        rows += _joined(x + t * across - beside * down, y + t * down + beside * across, radius, opacity * pressed)
    bright = ("add", "screen", "lighten")[draw.integers(3)]
    return _strokes(rows, bright, ("subtract", "multiply")[draw.integers(2)])


def _hairs(draw: np.random.Generator) -> Step:
    rows: _Rows = []
    for _ in range(draw.integers(1, 5)):
        # A cubic Bezier curve; the inner points are off the line between the ends, so that it curls.
        start, size = draw.uniform(0, 1, 2), draw.uniform(0.08, 0.3)
        corners = start + size * np.concatenate([np.zeros((1, 2)), draw.standard_normal((3, 2))])
        t = np.linspace(0, 1, 17)[:, None]
        weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
        x, y = (weights @ corners).T
        radius = np.full(17, draw.uniform(0.35, 0.9) * _AT_REFERENCE)
        opacity = draw.uniform(0.4, 0.9) * (1 if draw.random() < 0.5 else -1)
        rows += _joined(x, y, radius, np.full(16, opacity))
    return _strokes(rows)


def _dust(draw: np.random.Generator) -> list[Step]:
    """Specks, each a short thick stroke; those of a radius below a pixel aren't in the mask."""
    if draw.random() >= 0.6:
        return [_NOTHING, _NOTHING]
    count = int(log_uniform(draw, 5, 151))
    radius = np.exp(draw.uniform(math.log(0.5), math.log(4.0), count))
    x, y, theta = draw.uniform(0, 1, (3, count)) * [[1], [1], [2 * math.pi]]
    length = draw.exponential(0.8, count) * radius * _AT_REFERENCE
    opacity = draw.uniform(0.4, 1.0, count) * np.where(draw.random(count) < 0.7, 1, -1)
    thin = radius * draw.uniform(0.4, 1.0, count)
    ends = x + length * np.cos(theta), y + length * np.sin(theta)
    rows = np.stack([x, y, *ends, radius * _AT_REFERENCE, thin * _AT_REFERENCE, opacity], axis=1).round(5)
    seen, fine = rows[radius >= 1].tolist(), rows[radius < 1].tolist()
    return [_strokes(seen), _strokes(fine, masked=False)]


def _folds(draw: np.random.Generator) -> tuple[list[Step], Step]:
    """Folds across the picture, and the cracks that start from them."""
    folds = [_NOTHING] * _FOLDS
    if draw.random() >= 0.35:
        return folds, _NOTHING
    cracks: _Rows = []
    for i in range(draw.integers(1, _FOLDS + 1)):
        # Between two borders, or from a border to somewhere inside.
        theta = (
            draw.uniform(0, math.pi) if draw.random() < 0.4 else draw.integers(2) * math.pi / 2 + draw.normal(0, 0.1)
        )
        across, down = math.cos(theta), math.sin(theta)
        x, y = draw.uniform(0.15, 0.85, 2)
        before, after = (0.9 if draw.random() < 0.7 else draw.uniform(0, 0.4) for _ in range(2))
        line = [x - before * across, y - before * down, x + after * across, y + after * down]
        length = before + after
        count = max(2, round(length / (draw.uniform(4, 12) * _AT_REFERENCE)))
        jagged = draw.uniform(0.1, 0.5)
        steps = jagged * length / count * draw.standard_normal(count)
        beside = np.concatenate([[0.0], steps]).cumsum()
        beside -= np.linspace(beside[0], beside[-1], count + 1)  # ends where it was aimed at
        radius = draw.uniform(0.75, 3.5) * _AT_REFERENCE * np.exp(0.5 * _wandering(draw, count + 1, 2) - 0.5)
        worn = (draw.uniform(0.1, 0.9) + 0.5 * _wandering(draw, count + 1, 3)).clip(0, 0.95)
        folds[i] = {
            "op": "fold",
            "line": [[float(n) for n in line]],
            "points": np.stack([beside, radius, worn], axis=1).round(5).tolist(),
            "shading": draw.uniform(0.05, 0.25),
            "reach": draw.uniform(3, 12) * _AT_REFERENCE,
        }
        for _ in range(draw.integers(0, 6)):
            k = int(draw.integers(count + 1))
            t = k / count * length - before
            start = x + t * across - beside[k] * down, y + t * down + beside[k] * across
            cracks += _crack(draw, *start, theta + draw.choice([-1, 1]) * draw.uniform(0.5, 2.2))
    return folds, _strokes(cracks)


def _crack(draw: np.random.Generator, x: float, y: float, heading: float) -> _Rows:
    """A jagged line that gets thinner."""
    count = int(draw.integers(5, 25))
    headings = heading + 0.5 * draw.standard_normal(count) + np.linspace(0, draw.normal(0, 0.6), count)
    steps = draw.uniform(4, 12, count) * _AT_REFERENCE
    xs = x + np.concatenate([[0.0], steps * np.cos(headings)]).cumsum()
    ys = y + np.concatenate([[0.0], steps * np.sin(headings)]).cumsum()
    radius = draw.uniform(0.5, 1.5) * _AT_REFERENCE * np.linspace(1, 0.3, count + 1)
    return _joined(xs, ys, radius, draw.uniform(0.5, 0.95) * (1 + 0.3 * draw.standard_normal(count)).clip(0, 1))


def _tears(draw: np.random.Generator) -> Step:
    blobs: _Rows = []
    for _ in range(draw.integers(1, 4)):
        size = math.sqrt(log_uniform(draw, 0.003, 0.06) / math.pi)  # a circle's radius
        longer = math.sqrt(log_uniform(draw, 1, 6))
        x, y = draw.uniform(0, 1, 2)
        if draw.random() < 0.6:  # torn off a border, so that half of it is outside
            x, y = (x, round(y)) if draw.random() < 0.5 else (round(x), y)
            size *= math.sqrt(2)
        feather = draw.uniform(1, 6) * _AT_REFERENCE
        blobs.append([float(n) for n in (x, y, size * longer, size / longer, draw.uniform(0, math.pi), feather)])
    white = draw.random() < 0.5
    light = draw.uniform(0.78, 0.95)
    colour = [1.0, 1.0, 1.0] if white else [light, light * draw.uniform(0.92, 1.0), light * draw.uniform(0.75, 0.98)]
    texture = 0.0 if white else draw.uniform(0.01, 0.05)
    return {"op": "tears", "blobs": blobs, "colour": [colour], "texture": texture, "seed": draw_seed(draw)}


def _stains(draw: np.random.Generator) -> Step:
    blobs: _Rows = []
    for _ in range(draw.integers(1, 4)):
        size = math.sqrt(log_uniform(draw, 0.01, 0.15) / math.pi)
        longer = math.sqrt(draw.uniform(1, 2.5))
        x, y = draw.uniform(0, 1, 2)
        ring = float(draw.random() < 0.5)
        numbers = x, y, size * longer, size / longer, draw.uniform(0, math.pi), draw.uniform(0.1, 0.45), ring
        blobs.append([float(n) for n in numbers])
    red = draw.uniform(0.35, 0.6)
    colour = [red, red * draw.uniform(0.65, 0.85), red * draw.uniform(0.2, 0.5)]
    return {"op": "stains", "blobs": blobs, "colour": [colour], "seed": draw_seed(draw)}


def _unstructured(streams: Streams) -> list[Step]:
    screen = _by_chance(streams(20), 0.05, _halftone)
    result: list[Step] = []
    for slot in streams(21).permutation(4).tolist():
        draw = streams(22 + slot)
        if draw.random() < 0.7:
            result += (_blur, _noise, _smaller, rough_jpeg)[slot](draw)
    draw = streams(26)
    if draw.random() < 0.3:
        result.append({"op": "jpeg", "quality": int(draw.integers(75, 99)), "subsampled": True})
    return [screen, *result]


def _halftone(draw: np.random.Generator) -> Step:
    return {"op": "halftone", "period": draw.uniform(4, 10) * _AT_REFERENCE, "angle": draw.uniform(0, math.pi)}


def _blur(draw: np.random.Generator) -> list[Step]:
    step = gaussian_blur(draw)[0] if draw.random() < 0.5 else first_blur(draw)
    return [{**step, "reference": 256}]  # the size of the pictures that both were made for


def _noise(draw: np.random.Generator) -> list[Step]:
    kind, seed = ("gaussian", "speckle", "poisson", "grain")[draw.integers(4)], draw_seed(draw)
    if kind == "grain":
        size, cell = draw.uniform(0.02, 0.12), draw.uniform(0.8, 2.5) * _AT_REFERENCE
        grey = bool(draw.random() < 0.9)
        return [{"op": kind, "amplitude": size, "cell": cell, "grey": grey, "seed": seed}]
    if kind == "poisson":
        return [{"op": kind, "rate": 255.0, "scale": draw.uniform(0.05, 3), "grey": False, "seed": seed}]
    return [{"op": kind, "sigma": draw.uniform(5, 50) / 255, "grey": False, "seed": seed}]


def _smaller(draw: np.random.Generator) -> list[Step]:
    factor, back = draw.uniform(0.5, 1.0), ("nearest-exact", "bilinear")[draw.integers(2)]
    return [resized(factor, factor, "bicubic", antialias=True), resized(1.0, 1.0, back)]
