"""The names and parameters of the steps of plans, and how the plans of a batch are carried out together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidInputError, check_bool, check_int, check_real, unknown_name
from ...jpeg import jpeg
from ..base import per_picture
from .ageing import (
    MASKED,
    blob,
    clouds,
    crease,
    fade,
    grain,
    halftone,
    in_colours,
    sepia,
    strokes,
    vignette,
)
from .canny import canny
from .kernels import kernel, scaled, stack
from .operations import Size, blur, capsules, luma, poisson, resize, salt_and_pepper

Step = Mapping[str, Any]
_SEEDS = 2**32  # torch's CPU generator keeps no more of a seed
MAX_EDGE_SIGMA = 32.0  # pixels; wider ones find nothing in a photograph


class Turn(NamedTuple):
    """One step of a plan, for one picture.

    Attributes:
        step: its name `op` and numbers.
        share: the severity in (0, 1].
        original: the size of the input, to which factors refer.
        full: the size that the picture has here at severity 1. Noise is drawn in this size.
    """

    step: Step
    share: float
    original: Size
    full: Size

    def number(self, name: str, minimum: float = 0.0, maximum: float = float("inf")) -> float:
        return check_real(name, self.step[name], minimum, maximum)

    def flag(self, name: str) -> bool:
        return check_bool(name, self.step[name])

    def rows(self, name: str, width: int) -> Tensor:
        """Lists of `width` numbers as (n, width), float64."""
        try:
            values = torch.tensor(self.step[name], dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"{name} must be lists of {width} numbers: {error}") from error
        if values.ndim != 2 or values.shape[1] != width or not bool(values.isfinite().all()):
            raise InvalidInputError(f"{name} must be lists of {width} numbers, got {self.step[name]!r:.200}")
        return values

    def row(self, name: str, width: int) -> Tensor:
        """A list of one list of `width` numbers as (width,), float64."""
        values = self.rows(name, width)
        if len(values) != 1:
            raise InvalidInputError(f"{name} must be one list of {width} numbers, got {self.step[name]!r:.200}")
        return values[0]

    def seed(self) -> int:
        return check_int("seed", self.step["seed"], 0, _SEEDS - 1)

    def size(self, share: float | None = None) -> Size:
        """The size after a step "resize": the original's, by factors from 1 (share 0) to the step's own (share 1)."""
        share = self.share if share is None else share
        factors = self.step["factor_y"], self.step["factor_x"]
        height, width = (
            max(1, round(n * (1 + (check_real("factor", f, above=0) - 1) * share)))
            for n, f in zip(self.original, factors, strict=True)
        )
        return height, width


Turns = Sequence[Turn]


def _column(x: Tensor, values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device)


def _normal(channels: int, size: Size, generator: torch.Generator) -> Tensor:
    return torch.randn(channels, *size, generator=generator)


def _uniform(channels: int, size: Size, generator: torch.Generator) -> Tensor:
    return torch.rand(channels, *size, generator=generator, dtype=torch.float64)


def _fields(
    x: Tensor, turns: Turns, draw: Callable[[int, Size, torch.Generator], Tensor] = _normal, count: int = 1
) -> Tensor:
    """`count` times as many channels of noise as `x` has, from each picture's own seed; one channel where `grey`.

    Drawn on the CPU, so that they are the same on every device, in the size of the picture at severity 1; a picture of
    another size takes the nearest pixels.
    """
    size = (x.shape[2], x.shape[3])
    fields = []
    for turn in turns:
        seed = turn.seed()
        grey = "grey" in turn.step and turn.flag("grey")
        channels = count if grey else count * x.shape[1]
        field = draw(channels, turn.full, torch.Generator().manual_seed(seed))
        if turn.full != size:
            rows, columns = (torch.arange(now) * then // now for now, then in zip(size, turn.full, strict=True))
            field = field[:, rows][:, :, columns]
        fields.append(field.expand(count * x.shape[1], *size) if grey else field)
    return torch.stack(fields).to(x.device, x.dtype)


def _blur(x: Tensor, turns: Turns) -> Tensor:
    def stride(turn: Turn) -> float:
        return 1 / (1 + (1 / turn.number("stride", 1) - 1) * turn.share) if "stride" in turn.step else 1.0

    def numbers(turn: Turn) -> Step:
        """Its widths are pixels, or pixels of a picture whose shorter side is `reference`."""
        if "reference" not in turn.step:
            return turn.step
        return scaled(turn.step, min(turn.original) / turn.number("reference", 1))

    kernels = stack([kernel(numbers(turn), turn.share, stride(turn)) for turn in turns])
    return blur(x, kernels.to(x.device, x.dtype))


def _gaussian(x: Tensor, turns: Turns) -> Tensor:
    sigma = _column(x, [turn.number("sigma") * turn.share for turn in turns])
    return torch.addcmul(x, _fields(x, turns), per_picture(sigma))


def _speckle(x: Tensor, turns: Turns) -> Tensor:
    sigma = _column(x, [turn.number("sigma") * turn.share for turn in turns])
    return torch.addcmul(x, _fields(x, turns) * x, per_picture(sigma))


def _correlated(x: Tensor, turns: Turns) -> Tensor:
    """n = M z with M, (3, 3), the step's `mixing`; a grey picture gets noise of the mean variance of the channels."""
    matrices = [turn.rows("mixing", 3) for turn in turns]
    if any(len(one) != 3 for one in matrices):
        raise InvalidInputError("mixing must be 3 lists of 3 numbers")
    mixing = torch.stack(matrices).to(x.device, x.dtype)
    share = per_picture(_column(x, [turn.share for turn in turns]))
    if x.shape[1] == 1:
        sigma = mixing.square().sum(dim=2).mean(dim=1).sqrt()
        return x + share * per_picture(sigma) * _fields(x, turns)
    return x + share * (mixing @ _fields(x, turns).flatten(2)).reshape(x.shape)


def _poisson(x: Tensor, turns: Turns) -> Tensor:
    grey = torch.tensor([turn.flag("grey") for turn in turns], device=x.device)
    noise = poisson(x, _fields(x, turns), _column(x, [turn.number("rate", 1e-3) for turn in turns]), grey=grey)
    return x + per_picture(_column(x, [turn.number("scale") * turn.share for turn in turns])) * noise


def _salt_and_pepper(x: Tensor, turns: Turns) -> Tensor:
    where, which = _fields(x, turns, _uniform, 2).chunk(2, dim=1)
    amount = _column(x, [turn.number("amount", 0, 1) * turn.share for turn in turns])
    return salt_and_pepper(x, where, which, amount, _column(x, [turn.number("salt", 0, 1) for turn in turns]))


def _resize(x: Tensor, turns: Turns) -> Tensor:
    mode = turns[0].step["mode"]
    modes = ("area", "nearest", "nearest-exact", "bilinear", "bicubic")
    if mode not in modes:
        raise InvalidInputError(f"mode must be one of {', '.join(modes)}, got {mode!r}")
    return resize(x, turns[0].size(), mode, turns[0].flag("antialias"))


def _jpeg(x: Tensor, turns: Turns) -> Tensor:
    quality = [100 - (100 - turn.number("quality", 1, 100)) * turn.share for turn in turns]
    return jpeg(x, _column(x, quality), subsampled=turns[0].flag("subsampled"))


def _grey(x: Tensor, turns: Turns) -> Tensor:
    return torch.lerp(x, luma(x).expand_as(x), per_picture(_column(x, [turn.share for turn in turns])))


def _white_over(x: Tensor, turns: Turns, drawn: Tensor) -> Tensor:
    """x (1 - s m) + s m."""
    opacity = drawn * per_picture(_column(x, [turn.share for turn in turns]))
    return torch.lerp(x, torch.ones_like(x), opacity.expand_as(x))


def _fade(x: Tensor, turns: Turns) -> Tensor:
    black, white = (
        _column(x, [turn.number(name, 0, 0.5) * turn.share for turn in turns]) for name in ("black", "white")
    )
    gamma, saturation = (
        _column(x, [1 + (turn.number(name) - 1) * turn.share for turn in turns]) for name in ("gamma", "saturation")
    )
    return fade(x, black, white, gamma, saturation)


def _sepia(x: Tensor, turns: Turns) -> Tensor:
    strength = _column(x, [turn.number("strength", 0, 1) * turn.share for turn in turns])
    tint = torch.stack([turn.row("tint", 3) for turn in turns])
    if not bool((tint > 0).all()):
        raise InvalidInputError("tint must be positive")
    return sepia(x, strength, tint.to(x.device, x.dtype))


def _cast(x: Tensor, turns: Turns) -> Tensor:
    gain = torch.stack([1 + (turn.row("gain", 3) - 1) * turn.share for turn in turns]).to(x.device, x.dtype)
    return in_colours(x, lambda x: x * gain[:, :, None, None])


def _vignette(x: Tensor, turns: Turns) -> Tensor:
    return vignette(x, _column(x, [turn.number("strength", 0, 1) * turn.share for turn in turns]))


def _clouds(x: Tensor, turns: Turns) -> Tensor:
    """Clouds (B, 1, H, W) times the steps' `amplitude`."""
    fields = []
    for turn in turns:
        coarsest, octaves = (check_int(name, turn.step[name], 1, 512) for name in ("coarsest", "octaves"))
        one = clouds(turn.seed(), coarsest, octaves, (x.shape[2], x.shape[3]))
        fields.append(turn.number("amplitude") * turn.share * one)
    return torch.cat(fields).to(x.device, x.dtype)


def _light(x: Tensor, turns: Turns) -> Tensor:
    """Uneven light, x (1 + a f)."""
    return x * (1 + _clouds(x, turns))


def _paper(x: Tensor, turns: Turns) -> Tensor:
    """The paper's texture, x + a f."""
    return x + _clouds(x, turns)


def _grain(x: Tensor, turns: Turns) -> Tensor:
    cells = [turn.number("cell", 0, 0.05) * min(turn.original) for turn in turns]
    amplitude = _column(x, [turn.number("amplitude") * turn.share for turn in turns])
    return grain(x, _fields(x, turns), amplitude, cells)


def _halftone(x: Tensor, turns: Turns) -> Tensor:
    # Dots closer than 2.5 pixels are too close to be seen as such.
    period = _column(x, [max(2.5, turn.number("period") * min(turn.original)) for turn in turns])
    angle = _column(x, [turn.number("angle") for turn in turns])
    return torch.lerp(x, halftone(x, period, angle), per_picture(_column(x, [turn.share for turn in turns])))


_BLENDS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, a: (x + a).clamp(max=1),
    "screen": lambda x, a: torch.lerp(x, torch.ones_like(a), a),  # 1 - (1 - x) (1 - a)
    "lighten": torch.maximum,
    "subtract": lambda x, a: x - a,
    "multiply": lambda x, a: x * (1 - a),
}


def _strokes(x: Tensor, turns: Turns, drawn: Tensor) -> Tensor:
    """Bright strokes, then dark ones, blended as the step's `bright` and `dark` say, with opacities times share."""
    opacity = drawn * per_picture(_column(x, [turn.share for turn in turns]))
    for name, one in zip((turns[0].step["bright"], turns[0].step["dark"]), opacity.split(1, dim=1), strict=True):
        if name not in _BLENDS:
            raise InvalidInputError(f"bright and dark must be one of {', '.join(_BLENDS)}, got {name!r}")
        x = _BLENDS[name](x, one)
    return x


def _draw_fold(turn: Turn, size: Size) -> Tensor:
    points = turn.rows("points", 3)
    if len(points) < 2:
        raise InvalidInputError(f"points must be two at least, got {len(points)}")
    return crease(turn.row("line", 4), points, turn.number("reach", 1e-4), *size)


def _fold(x: Tensor, turns: Turns, drawn: Tensor) -> Tensor:
    """One side light and one dark, x + shading * relief, and the worn line white over it."""
    shading = _column(x, [turn.number("shading", 0, 1) * turn.share for turn in turns])
    shaded = torch.addcmul(x, drawn[:, 1:], per_picture(shading)).clamp(0, 1)
    return _white_over(shaded, turns, drawn[:, :1])


def _draw_tears(turn: Turn, size: Size) -> Tensor:
    """The union of the step's blobs, with borders as wide as their `feather`, a share of the shorter side; the depth.

    The depth is 0 at the border and 1 from 5 feathers inwards.
    """
    field = clouds(turn.seed(), 8, 5, size)
    inside = torch.full_like(field, -1.0)
    for numbers in turn.rows("blobs", 6):
        radius = float(numbers[2:4].min()) * (size[0] * size[1]) ** 0.5
        feather = max(1.0, float(numbers[5]) * min(size))
        inside = torch.maximum(inside, blob(numbers[:5], 0.45, field).mul_(radius / feather))
    return torch.cat([(inside + 0.5).clamp(0, 1), (inside / 5).clamp(0, 1)], dim=1)


def _tears(x: Tensor, turns: Turns, drawn: Tensor) -> Tensor:
    """Paper over the picture: white fibres at the border, then the step's colour, with clouds of its `texture`."""
    fields = [turn.number("texture") * clouds(turn.seed() ^ 1, 16, 5, (x.shape[2], x.shape[3])) for turn in turns]
    colour = torch.stack([turn.row("colour", 3) for turn in turns]).to(x.device, x.dtype)[:, :, None, None]
    paper = (1 + drawn[:, 1:] * (colour - 1 + torch.cat(fields).to(x.device, x.dtype))).clamp(0, 1)
    opacity = drawn[:, :1] * per_picture(_column(x, [turn.share for turn in turns]))
    return torch.lerp(x, paper if x.shape[1] == 3 else luma(paper), opacity.expand_as(x))


def _stain(turn: Turn, size: Size) -> Tensor:
    """How deep the step's stains are, (1, 1, H, W), before its share."""
    field = clouds(turn.seed(), 4, 5, size)
    depth = torch.zeros_like(field)
    for numbers in turn.rows("blobs", 7):
        opacity, ring = numbers[5:].tolist()
        inside = blob(numbers[:5], 0.2, field)
        body = (inside / 0.25 + 0.3).clamp(0, 1) * (1 + 0.15 * field)
        rim = ring * torch.exp(-((inside - 0.06) / 0.06).square())
        depth = depth + opacity * ((1 - 0.5 * ring) * body + rim).clamp(0, 1)
    return depth.clamp(0, 1)


def _stains(x: Tensor, turns: Turns) -> Tensor:
    """x (1 - depth (1 - colour))."""
    size = x.shape[2], x.shape[3]
    depth = torch.cat([_stain(turn, size) * turn.share for turn in turns]).to(x.device, x.dtype)
    colour = torch.stack([turn.row("colour", 3) for turn in turns]).to(x.device, x.dtype)[:, :, None, None]
    return in_colours(x, lambda x: x * (1 - depth * (1 - colour)))


def _edges(x: Tensor, turns: Turns) -> Tensor:
    """Black lines on white over the picture, as a step "grey" is; thresholds low <= |g| per pixel (see `canny`)."""
    sigmas = [turn.number("sigma", 0, MAX_EDGE_SIGMA) for turn in turns]
    low, high = (_column(x, [turn.number(name) for turn in turns]) for name in ("low", "high"))
    drawing = (~canny(x, sigmas, per_picture(low), per_picture(high))).to(x.dtype).expand_as(x)
    return torch.lerp(x, drawing, per_picture(_column(x, [turn.share for turn in turns])))


def _round(x: Tensor, turns: Turns) -> Tensor:
    return (x * 255).round() / 255


class Operation(NamedTuple):
    """The operation that a step's name stands for.

    Attributes:
        run: a batch and a turn for each picture -> a batch.
        alike: which of its numbers must be the same for all pictures of a batch.
    """

    run: Callable[[Tensor, Turns], Tensor]
    alike: tuple[str, ...] = ()


class Drawing(NamedTuple):
    """Structured damage: an operation that first draws the layers (1, C, H, W) of each picture, at severity 1.

    Attributes:
        run: a batch, a turn for each picture and their layers (B, C, H, W) -> a batch.
        draw: a turn and a size -> the layers.
        opacities: how many of the layers, from the first, are opacities of what hides the picture: of the mask.
        alike: as above.
    """

    run: Callable[[Tensor, Turns, Tensor], Tensor]
    draw: Callable[[Turn, Size], Tensor]
    opacities: int = 1
    alike: tuple[str, ...] = ()


OPERATIONS: Mapping[str, Operation | Drawing] = {
    "blur": Operation(_blur),
    "cast": Operation(_cast),
    "correlated": Operation(_correlated),
    "edges": Operation(_edges),
    "fade": Operation(_fade),
    "fold": Drawing(_fold, _draw_fold),
    "gaussian": Operation(_gaussian),
    "grain": Operation(_grain),
    "grey": Operation(_grey),
    "halftone": Operation(_halftone),
    "jpeg": Operation(_jpeg, ("subsampled",)),
    "light": Operation(_light),
    "paper": Operation(_paper),
    "poisson": Operation(_poisson),
    "resize": Operation(_resize, ("mode", "antialias")),
    "round": Operation(_round),
    "salt_and_pepper": Operation(_salt_and_pepper),
    "scratches": Drawing(_white_over, lambda turn, size: capsules(turn.rows("segments", 5), *size)),
    "sepia": Operation(_sepia),
    "speckle": Operation(_speckle),
    "stains": Operation(_stains),
    "strokes": Drawing(_strokes, lambda turn, size: strokes(turn.rows("segments", 7), *size), 2, ("bright", "dark")),
    "tears": Drawing(_tears, _draw_tears),
    "vignette": Operation(_vignette),
}
KEEP = "keep"  # a step that does nothing, to align the steps of several plans


def check_step(step: Step) -> None:
    """Raise InvalidInputError if no operation has the step's name."""
    if not isinstance(step, Mapping) or not isinstance(step.get("op"), str):
        raise InvalidInputError(f"a step of a plan is a mapping with 'op', got {step!r:.200}")
    if step["op"] not in OPERATIONS and step["op"] != KEEP:
        raise unknown_name("operation of recipes", step["op"], [*OPERATIONS, KEEP])


def run(x: Tensor, plans: Sequence[Sequence[Step]], shares: Sequence[float]) -> tuple[Tensor, list[Tensor | None]]:
    """Pictures in [0, 1] after the steps of their plans, each with its share in (0, 1], clamped after each step.

    At each position of the plans, pictures of one size with the same operation form one batch.

    Returns:
        The pictures, and for each the mask of its structured damage, (1, 1, H, W), or None for none: 1 where the
        opacity of the whole damage is above 0.1, whatever the share. Steps with `masked` false are left out.

    Raises:
        InvalidInputError: a step's parameter is missing or out of range, or a plan ends in another size.
    """
    original = (x.shape[2], x.shape[3])
    pictures, full = list(x.split(1)), [original] * len(x)
    masks: list[Tensor | None] = [None] * len(x)
    for position in range(max((len(plan) for plan in plans), default=0)):
        groups: dict[tuple[object, ...], list[int]] = {}
        turns: dict[int, Turn] = {}
        for i, plan in enumerate(plans):
            if position >= len(plan) or plan[position]["op"] == KEEP:
                continue
            turns[i] = turn = Turn(plan[position], shares[i], original, full[i])
            alike = [turn.step.get(name) for name in OPERATIONS[turn.step["op"]].alike]
            size = _needed(turn.size, turn) if turn.step["op"] == "resize" else None
            key = (turn.step["op"], pictures[i].shape[2:], size, *alike)
            groups.setdefault(key, []).append(i)
        for members in groups.values():
            batch = torch.cat([pictures[i] for i in members])
            chosen = [turns[i] for i in members]
            operation = OPERATIONS[chosen[0].step["op"]]
            if isinstance(operation, Drawing):
                layers = [
                    _needed(partial(operation.draw, turn, (batch.shape[2], batch.shape[3])), turn) for turn in chosen
                ]
                drawn = torch.cat(layers).to(batch.device, batch.dtype)
                result = _needed(partial(operation.run, batch, chosen, drawn), chosen[0]).clamp(0, 1)
                covered = (drawn[:, : operation.opacities].amax(dim=1, keepdim=True) > MASKED).to(batch.dtype)
                for i, one in zip(members, covered.split(1), strict=True):
                    if "masked" not in turns[i].step or turns[i].flag("masked"):
                        before = masks[i]
                        masks[i] = one if before is None else torch.maximum(before, one)
            else:
                result = _needed(partial(operation.run, batch, chosen), chosen[0]).clamp(0, 1)
            for i, picture in zip(members, result.split(1), strict=True):
                pictures[i] = picture
                if turns[i].step["op"] == "resize":
                    full[i] = turns[i].size(1.0)
    for picture in pictures:
        if picture.shape[2:] != original:
            raise InvalidInputError(
                f"a plan must end in the size of the input, {original}, not {tuple(picture.shape[2:])}"
            )
    return torch.cat(pictures), masks


def target(x: Tensor, plan: Sequence[Step], share: float) -> Tensor | None:
    """The target of a picture (1, C, H, W), grey to the same share as its plan makes it; None if it is `x` itself."""
    size = (x.shape[2], x.shape[3])
    greyed = [Turn(step, share, size, size) for step in plan if step["op"] == "grey"]
    return _grey(x, greyed[:1]) if greyed else None


def _needed(call: Callable[[], Any], turn: Turn) -> Any:
    try:
        return call()
    except KeyError as error:
        raise InvalidInputError(
            f"the step {turn.step['op']!r} of a plan lacks {error}: {dict(turn.step)!r:.200}"
        ) from None


def draw_seed(draw: np.random.Generator) -> int:
    """A seed for the noise of a step."""
    return int(draw.integers(_SEEDS))


def log_uniform(draw: np.random.Generator, low: float, high: float) -> float:
    """Between low and high, with each doubling equally likely."""
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def resized(factor_y: float, factor_x: float, mode: str, *, antialias: bool = False) -> Step:
    """The step "resize", by factors of the input's size."""
    return {"op": "resize", "factor_y": factor_y, "factor_x": factor_x, "mode": mode, "antialias": antialias}


def enlarged() -> list[Step]:
    """The steps that bring a picture back to the size of the input."""
    return [resized(1.0, 1.0, "bicubic")]
