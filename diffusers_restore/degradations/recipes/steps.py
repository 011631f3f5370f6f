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
from .canny import canny
from .kernels import kernel, stack
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
        seed = check_int("seed", turn.step["seed"], 0, _SEEDS - 1)
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

    kernels = stack([kernel(turn.step, turn.share, stride(turn)) for turn in turns])
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


def _scratch_mask(x: Tensor, turn: Turn) -> Tensor:
    return capsules(turn.rows("segments", 5), x.shape[2], x.shape[3]).to(x.device, x.dtype)


def _scratches(x: Tensor, turns: Turns) -> Tensor:
    """White over the picture, x (1 - s m) + s m."""
    opacity = torch.cat([_scratch_mask(x, turn) * turn.share for turn in turns])
    return torch.lerp(x, torch.ones_like(x), opacity.expand_as(x))


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


OPERATIONS: Mapping[str, Operation] = {
    "blur": Operation(_blur),
    "correlated": Operation(_correlated),
    "edges": Operation(_edges),
    "gaussian": Operation(_gaussian),
    "grey": Operation(_grey),
    "jpeg": Operation(_jpeg, ("subsampled",)),
    "poisson": Operation(_poisson),
    "resize": Operation(_resize, ("mode", "antialias")),
    "round": Operation(_round),
    "salt_and_pepper": Operation(_salt_and_pepper),
    "scratches": Operation(_scratches),
    "speckle": Operation(_speckle),
}
KEEP = "keep"  # a step that does nothing, to align the steps of several plans


def check_step(step: Step) -> None:
    """Raise InvalidInputError if no operation has the step's name."""
    if not isinstance(step, Mapping) or not isinstance(step.get("op"), str):
        raise InvalidInputError(f"a step of a plan is a mapping with 'op', got {step!r:.200}")
    if step["op"] not in OPERATIONS and step["op"] != KEEP:
        raise unknown_name("operation of recipes", step["op"], [*OPERATIONS, KEEP])


def run(x: Tensor, plans: Sequence[Sequence[Step]], shares: Sequence[float]) -> Tensor:
    """Pictures in [0, 1] after the steps of their plans, each with its share in (0, 1], clamped after each step.

    At each position of the plans, pictures of one size with the same operation form one batch.

    Raises:
        InvalidInputError: a step's parameter is missing or out of range, or a plan ends in another size.
    """
    original = (x.shape[2], x.shape[3])
    pictures, full = list(x.split(1)), [original] * len(x)
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
            result = _needed(partial(OPERATIONS[chosen[0].step["op"]].run, batch, chosen), chosen[0]).clamp(0, 1)
            for i, picture in zip(members, result.split(1), strict=True):
                pictures[i] = picture
                if turns[i].step["op"] == "resize":
                    full[i] = turns[i].size(1.0)
    for picture in pictures:
        if picture.shape[2:] != original:
            raise InvalidInputError(
                f"a plan must end in the size of the input, {original}, not {tuple(picture.shape[2:])}"
            )
    return torch.cat(pictures)


def target(x: Tensor, plan: Sequence[Step], share: float) -> tuple[Tensor | None, Tensor | None]:
    """The target of a picture (1, C, H, W), if it isn't `x` itself, and the mask of its structured damage.

    Where a plan makes a picture grey, so is the target, to the same share.
    """
    wanted, mask, size = None, None, (x.shape[2], x.shape[3])
    for step in plan:
        turn = Turn(step, share, size, size)
        if step["op"] == "grey":
            wanted = _grey(x, [turn])
        if step["op"] == "scratches":
            mask = _scratch_mask(x, turn)
    return wanted, mask


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


def resized(factor_y: float, factor_x: float, mode: str, *, antialias: bool = False) -> Step:
    """The step "resize", by factors of the input's size."""
    return {"op": "resize", "factor_y": factor_y, "factor_x": factor_x, "mode": mode, "antialias": antialias}


def enlarged() -> list[Step]:
    """The steps that bring a picture back to the size of the input."""
    return [resized(1.0, 1.0, "bicubic")]
