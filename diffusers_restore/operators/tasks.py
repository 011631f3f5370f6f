"""Restoration tasks by name: operators for the command line and for `pipe(image, operator="sr4")`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import InvalidInputError, OperatorError, check_int, check_real, unknown_name
from ..registries import TASKS
from .base import LinearOperator, Operator, Shape, check_shape
from .blur import BlurDecimate, CircularBlur, SymmetricBlur
from .color import EQUAL_WEIGHTS, Grayscale, check_weights
from .jpeg import JPEG
from .masks import Identity, Mask
from .resize import BlockMean
from .separable import BORDERS, INSIDE, Separable, check_kernel
from .transforms import CompressedSensing, random_order

_ANY_BORDERS = ("circular", INSIDE)

MADE_UP = "made-up damage"
"""What the summaries of tasks begin with that are for trying things only."""

MAX_KERNEL = 9999  # pixels on a side; a kernel must also fit its picture


def _same_shape(measurement_shape: Shape) -> Shape:
    return measurement_shape


@dataclass(frozen=True)
class Task:
    """A named way to build an operator for an image shape.

    Attributes:
        summary: one line for listings.
        build: (image_shape, *, arguments...) -> operator; its keyword arguments are what the task accepts.
        image_shape: (measurement_shape, *, arguments...) -> image shape; it may take fewer of the arguments.
    """

    summary: str
    build: Callable[..., Operator]
    image_shape: Callable[..., Shape] = _same_shape

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """The keyword arguments that `build` accepts."""
        parameters = inspect.signature(self.build).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    def image_shape_for(self, measurement_shape: Shape, arguments: dict[str, Any]) -> Shape:
        wanted = inspect.signature(self.image_shape).parameters
        return self.image_shape(measurement_shape, **{k: v for k, v in arguments.items() if k in wanted})


def create(
    task: str, *, image_shape: Shape | None = None, measurement_shape: Shape | None = None, **arguments: Any
) -> Operator:
    """The operator of a named task, for images of `image_shape` or for measurements of `measurement_shape` (C, H, W).

    `arguments` are those of the task: `create("deblur-gauss", image_shape=(3, 64, 64), sigma=2.0, taps=9)`.

    Raises:
        UnknownNameError: there is no such task.
        InvalidInputError: an unknown or missing argument of the task, or not exactly one of the two shapes.
        OperatorError: a size that the operator doesn't fit.
    """
    if not isinstance(task, str):
        raise unknown_name("task", task, TASKS)
    chosen: Task = TASKS[task]
    accepted = chosen.arguments
    for name in arguments:
        if name not in accepted:
            listed = ", ".join(accepted) or "none"
            raise InvalidInputError(f"task {task!r} has no argument {name!r}; it has: {listed}")
    missing = [name for name, p in accepted.items() if p.default is p.empty and name not in arguments]
    if missing:
        shown = ", ".join(f"{name}={name}" for name in missing)
        raise InvalidInputError(
            f"task {task!r} needs the argument {missing[0]!r}: make the operator by "
            f'operators.create("{task}", measurement_shape=..., {shown}), and pass it instead of the name'
        )
    if (image_shape is None) == (measurement_shape is None):
        raise InvalidInputError("give either image_shape=(C, H, W) or measurement_shape=(C, H, W)")
    if measurement_shape is not None:
        image_shape = chosen.image_shape_for(check_shape("measurement_shape", measurement_shape), arguments)
    operator = chosen.build(check_shape("image_shape", image_shape), **arguments)
    if measurement_shape is not None and operator.output_shape != tuple(measurement_shape):
        raise OperatorError(
            f"task {task!r} gives measurements {operator.output_shape}, not {tuple(measurement_shape)}; "
            "pass an operator built for your image shape"
        )
    return operator


def gaussian_kernel(sigma: float, taps: int) -> Tensor:
    """`taps` samples of a Gaussian of sd `sigma` pixels, normalised; taps is odd."""
    sigma, taps = check_real("sigma", sigma, above=0), check_int("taps", taps, 1, MAX_KERNEL)
    if taps % 2 == 0:
        raise OperatorError(f"taps must be odd, so that the kernel has a centre, got {taps}")
    offsets = torch.arange(taps, dtype=torch.float64) - taps // 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return kernel / kernel.sum()


def motion_kernel(length: float, angle: float) -> Tensor:
    """The path of a straight camera shake: (size, size), with the smallest odd size that holds it at any angle.

    `length` pixels at `angle` degrees, counterclockwise from the right, with its middle on the central pixel. A pixel's
    weight is the share of the path that lies in its square, so that 5 pixels at 0 degrees are 0.2 each, as those of
    MATLAB's fspecial("motion", 5, 0); at other angles fspecial weighs by distance from the path.

    Raises:
        InvalidInputError: a length that isn't in (0, 9999], or an angle that is no number.
    """
    length, angle = check_real("length", length, above=0, maximum=MAX_KERNEL), check_real("angle", angle)
    reach, radians = max(0, ceil((length - 1) / 2)), torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    direction = torch.stack([-torch.sin(radians), torch.cos(radians)])  # rows, columns
    borders = torch.arange(-reach, reach, dtype=torch.float64) + 0.5
    crossings = (borders[:, None] / direction).flatten()  # how far along the path it meets the squares' borders
    ends = torch.tensor([-length / 2, length / 2], dtype=torch.float64)
    points = torch.cat([ends, crossings[crossings.abs() < length / 2]]).sort().values
    inside, middle = points.diff(), (points[1:] + points[:-1]) / 2
    inside = torch.where(inside > 1e-9, inside, 0.0)  # at 45 degrees the path passes corners, but for rounding
    rows, columns = (middle[:, None] * direction).round().long().clamp(-reach, reach).mT + reach
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    return kernel.index_put_((rows, columns), inside / inside.sum(), accumulate=True)


def _check_border(border: str, known: Sequence[str]) -> str:
    if border not in known:
        raise unknown_name("border", border, known)
    return border


def _blur(image_shape: Shape, vertical: Tensor, horizontal: Tensor, border: str) -> LinearOperator:
    """A separable symmetric blur, with the fastest operator that the border allows."""
    kernel = torch.outer(check_kernel(vertical, 1), check_kernel(horizontal, 1))
    if _check_border(border, BORDERS) == "reflect":
        return SymmetricBlur(image_shape, kernel)
    if border == "circular":
        return CircularBlur(image_shape, kernel)
    stages = [[{"stage": "blur", "kernel": k.tolist(), "border": border}] for k in (vertical, horizontal)]
    return Separable(image_shape, height=stages[0], width=stages[1])


def _blurred_shape(measurement_shape: Shape, taps: int, border: str) -> Shape:
    grow = check_int("taps", taps, 1, MAX_KERNEL) - 1 if border == "valid" else 0
    channels, height, width = measurement_shape
    return channels, height + grow, width + grow


def _deblur_uniform(image_shape: Shape, *, taps: int = 9, border: str = "reflect") -> LinearOperator:
    kernel = torch.full((check_int("taps", taps, 1, MAX_KERNEL),), 1 / taps, dtype=torch.float64)
    return _blur(image_shape, kernel, kernel, border)


def _deblur_gauss(image_shape: Shape, *, sigma: float = 10.0, taps: int = 5, border: str = "reflect") -> LinearOperator:
    kernel = gaussian_kernel(sigma, taps)
    return _blur(image_shape, kernel, kernel, border)


def _deblur_aniso(
    image_shape: Shape,
    *,
    sigma_vertical: float = 20.0,
    sigma_horizontal: float = 1.0,
    taps: int = 9,
    border: str = "reflect",
) -> LinearOperator:
    return _blur(image_shape, gaussian_kernel(sigma_vertical, taps), gaussian_kernel(sigma_horizontal, taps), border)


def _uniform_shape(measurement_shape: Shape, taps: int = 9, border: str = "reflect") -> Shape:
    return _blurred_shape(measurement_shape, taps, border)


def _gauss_shape(measurement_shape: Shape, taps: int = 5, border: str = "reflect") -> Shape:
    return _blurred_shape(measurement_shape, taps, border)


def _blur_by_any(image_shape: Shape, kernel: Any, border: str) -> LinearOperator:
    """A blur by any kernel, of which y counts as a whole, or "inside": where it knows nothing of what lies beyond."""
    if _check_border(border, _ANY_BORDERS) == "circular":
        return CircularBlur(image_shape, kernel)
    factors = _factors(check_kernel(kernel, 2))
    if factors is not None:
        return _blur(image_shape, *factors, border)
    blur = CircularBlur(image_shape, kernel)
    _, height, width = image_shape
    inside = torch.zeros(height, width)
    rows, columns = (
        slice(max(0, int(offsets.max())), size + min(0, int(offsets.min())))  # y_i takes x_(i - offset)
        for offsets, size in (
            (blur.kernel.any(dim=1).nonzero() - blur.kernel.shape[0] // 2, height),
            (blur.kernel.any(dim=0).nonzero() - blur.kernel.shape[1] // 2, width),
        )
    )
    inside[rows, columns] = 1
    return Mask(image_shape, inside) @ blur


def _factors(kernel: Tensor) -> tuple[Tensor, Tensor] | None:
    """The columns' and the rows' kernel of a 2-D one that is their product, as far as float32 shows; None of others."""
    u, s, vt = torch.linalg.svd(kernel)
    if min(kernel.shape) > 1 and s[1] > 1e-6 * s[0]:
        return None
    vertical, horizontal = (torch.where(one.abs() > 1e-9 * one.abs().max(), one, 0.0) for one in (u[:, 0], vt[0]))
    return vertical / vertical.sum(), horizontal * s[0] * vertical.sum()


def _of_blur(what: str, borders: Sequence[str]) -> str:
    """The summary of a task."""
    return f"{what}; border: {', '.join(borders)}; `{INSIDE}` is that of a photograph"


def _deblur_motion(
    image_shape: Shape, *, length: float = 15, angle: float = 30.0, border: str = "circular"
) -> LinearOperator:
    return _blur_by_any(image_shape, motion_kernel(length, angle), border)


def _deblur(image_shape: Shape, *, kernel: Any, border: str = "circular") -> LinearOperator:
    return _blur_by_any(image_shape, kernel, border)


def _inpaint(image_shape: Shape, *, mask: Any) -> LinearOperator:
    return Mask(image_shape, mask)


def _check_size(height: int, width: int) -> tuple[int, int]:
    return check_int("height", height, 1), check_int("width", width, 1)


def random_mask(height: int, width: int, missing: float = 0.5, seed: int = 0) -> Tensor:
    """(H, W) with the share `missing` of the pixels, drawn without replacement, set to 0."""
    height, width = _check_size(height, width)
    missing = check_real("missing", missing, 0, 1)
    order = random_order(height * width, check_int("seed", seed, 0))
    return (order >= round(missing * height * width)).double().reshape(height, width)


def _inpaint_random(image_shape: Shape, *, missing: float = 0.5, seed: int = 0) -> LinearOperator:
    return Mask(image_shape, random_mask(*image_shape[1:], missing=missing, seed=seed))


def _inpaint_box(image_shape: Shape, *, side: float = 0.5) -> LinearOperator:
    side = check_real("side", side, 0, 1)
    mask = torch.ones(image_shape[1:])
    top, left = (round(size * (1 - side) / 2) for size in image_shape[1:])
    mask[top : image_shape[1] - top, left : image_shape[2] - left] = 0
    return Mask(image_shape, mask)


def text_mask(height: int, width: int) -> Tensor:
    """(H, W) with lines of printed text set to 0, scaled with the picture."""
    height, width = _check_size(height, width)
    canvas = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(canvas)
    size = max(8, height // 12)
    font = ImageFont.load_default(size)
    line = "the quick brown fox jumps over the lazy dog and runs on " * (1 + width // (20 * size))
    for number, top in enumerate(range(size // 2, height, 2 * size)):
        draw.text((-size * (number % 3), top), line, fill=0, font=font)
    return torch.from_numpy(np.array(canvas) > 127).double()


def scratch_mask(height: int, width: int, seed: int = 0) -> Tensor:
    """(H, W) with thin crooked scratches and a few spots set to 0, as on an old print."""
    height, width = _check_size(height, width)
    bits = np.random.PCG64(check_int("seed", seed, 0)).random_raw(200)  # guaranteed stable, unlike NumPy's draws
    numbers = iter((bits >> np.uint64(11)) * 2.0**-53)
    canvas = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(canvas)
    side = max(height, width)
    for _ in range(12):
        path = [np.array([next(numbers) * width, next(numbers) * height])]
        direction = 2 * np.pi * next(numbers)
        for _ in range(8):
            direction += next(numbers) - 0.5
            path.append(path[-1] + side / 14 * np.array([np.cos(direction), np.sin(direction)]))
        draw.line([tuple(point) for point in path], fill=0, width=max(1, round(side / (64 + 64 * next(numbers)))))
    for _ in range(10):
        x, y, radius = next(numbers) * width, next(numbers) * height, side * (0.004 + 0.011 * next(numbers))
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=0)
    return torch.from_numpy(np.array(canvas) > 127).double()


def _inpaint_text(image_shape: Shape) -> LinearOperator:
    return Mask(image_shape, text_mask(*image_shape[1:]))


def _inpaint_scratches(image_shape: Shape, *, seed: int = 0) -> LinearOperator:
    return Mask(image_shape, scratch_mask(*image_shape[1:], seed=seed))


def _colorize(image_shape: Shape, *, weights: Sequence[float] = EQUAL_WEIGHTS) -> LinearOperator:
    return Grayscale(image_shape, weights)


def _coloured_shape(measurement_shape: Shape, weights: Sequence[float] = EQUAL_WEIGHTS) -> Shape:
    if measurement_shape[0] != 1:
        raise OperatorError(f"a grey measurement (1, H, W) is wanted, got {measurement_shape}")
    return len(check_weights(weights)), *measurement_shape[1:]


def _jpeg(image_shape: Shape, *, quality: int, subsampled: bool = True) -> Operator:
    return JPEG(image_shape, quality, subsampled)


def _enlarge(factor: int) -> Callable[[Shape], Shape]:
    return lambda shape: (shape[0], shape[1] * factor, shape[2] * factor)


def _super_resolution(factor: int) -> Task:
    return Task(
        f"super-resolution x{factor} of block means",
        lambda image_shape: BlockMean(image_shape, factor),
        _enlarge(factor),
    )


def _bicubic_super_resolution(factor: int) -> Task:
    stages = [{"stage": "bicubic", "factor": factor}]
    return Task(
        f"super-resolution x{factor} of a bicubic reduction",
        lambda image_shape: Separable(image_shape, height=stages, width=stages),
        _enlarge(factor),
    )


def _blurred_super_resolution(factor: int) -> Task:
    def build(image_shape: Shape, *, sigma: float = 0.4 * factor, taps: int = 2 * factor + 1) -> LinearOperator:
        kernel = gaussian_kernel(sigma, taps)
        return BlurDecimate(image_shape, torch.outer(kernel, kernel), factor)

    return Task(f"super-resolution x{factor} of a Gaussian blur, every {factor}-th pixel kept", build, _enlarge(factor))


def _compressed_sensing(ratio: int) -> Task:
    def build(image_shape: Shape, *, seed: int = 0, transform: str | None = None) -> LinearOperator:
        return CompressedSensing(image_shape, ratio, transform, seed)  # type: ignore[arg-type]  # checked there

    return Task(
        f"compressed sensing: 1/{ratio} of the numbers, rows of a Hadamard transform or DCT (.npy files)",
        build,
        lambda shape: (shape[0], shape[1], shape[2] * ratio),
    )


denoise = Task("noise only", Identity)
inpaint = Task("missing pixels, by your mask (white = measured)", _inpaint)
inpaint_random = Task(f"{MADE_UP}: pixels missing at random", _inpaint_random)
inpaint_box = Task(f"{MADE_UP}: a box in the middle, `side` of the picture's", _inpaint_box)
inpaint_text = Task(f"{MADE_UP}: printed text", _inpaint_text)
inpaint_scratches = Task(f"{MADE_UP}: scratches and spots; for your own, see inpaint", _inpaint_scratches)
sr2, sr4, sr8, sr16 = (_super_resolution(factor) for factor in (2, 4, 8, 16))
sr_bicubic4, sr_bicubic8, sr_bicubic16 = (_bicubic_super_resolution(factor) for factor in (4, 8, 16))
sr_blur4 = _blurred_super_resolution(4)
colorize = Task("colours of a grey picture", _colorize, _coloured_shape)
cs2, cs4 = _compressed_sensing(2), _compressed_sensing(4)
deblur_uniform = Task(_of_blur("blur by a box", BORDERS), _deblur_uniform, _uniform_shape)
deblur_gauss = Task(_of_blur("blur by a Gaussian", BORDERS), _deblur_gauss, _gauss_shape)
deblur_aniso = Task(_of_blur("blur by an anisotropic Gaussian", BORDERS), _deblur_aniso, _uniform_shape)
deblur_motion = Task(_of_blur("straight camera shake", _ANY_BORDERS), _deblur_motion)
deblur = Task(_of_blur("blur by any kernel (a picture or .npy file)", _ANY_BORDERS), _deblur)
jpeg = Task("artefacts of JPEG; subsampled: its colours have half the size", _jpeg)
