"""Recipes, which damage clean photographs at random, and their plans."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidInputError, check_int
from ...tensors import described, is_dense
from .steps import KEEP, Step, check_step, run, target

_MAX_SEED = 2**63 - 1


class Damage(NamedTuple):
    """The result of a recipe, all on the device and in the dtype of the pictures.

    Attributes:
        degraded: (B, C, H, W) in [-1, 1].
        clean: the target, as `degraded`: the pictures themselves, grey where the recipe makes both grey.
        mask: (B, 1, H, W), 1 where the damage is structured (a scratch), 0 elsewhere.
    """

    degraded: Tensor
    clean: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Plan:
    """How one picture is damaged, as JSON values: numbers, and seeds of noise.

    Args:
        recipe: the kind of the recipe.
        steps: mappings with the operation's name, `op`, and its numbers, in the order in which they happen.

    Raises:
        InvalidInputError: a step without a known name.
    """

    recipe: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.recipe, str) or not isinstance(self.steps, (list, tuple)):
            raise InvalidInputError(f"a plan has the name of a recipe and a list of steps, got {self!r:.200}")
        for step in self.steps:
            check_step(step)
        object.__setattr__(self, "steps", tuple(self.steps))

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, for `from_json`."""
        return {"recipe": self.recipe, "steps": [dict(step) for step in self.steps]}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Plan:
        """The plan that `to_json()` wrote.

        Raises:
            InvalidInputError: not such a mapping.
        """
        if not isinstance(values, Mapping) or set(values) != {"recipe", "steps"}:
            raise InvalidInputError(f"a plan is read from a mapping with 'recipe' and 'steps', got {values!r:.200}")
        return Plan(values["recipe"], values["steps"])


class Streams:
    """Random numbers of one picture: `streams(slot)` is a separate generator for each slot number.

    They are those of numpy's SeedSequence(seed, spawn_key=(slot,)): draws from one don't affect the others.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, slot: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(slot,))))


@dataclass(frozen=True)
class Recipe(ABC):
    """A random damage of clean photographs (B, C, H, W) in [-1, 1], C = 1 or 3; the result has their size.

    A plan depends on its seed alone, the damage on picture, plan and severity: a batch equals its pictures one by one.
    Plans are made for a size, but fit any other: sizes in them are factors.

    severity 0 returns the picture bit for bit, 1 the whole damage, and values between less of the same, with the same
    noise: widths of blur, amplitudes of noise and opacities are multiplied by it, factors f of resizing become
    1 + (f - 1) severity, and JPEG's quality q becomes 100 - (100 - q) severity. A grey picture gets noise of one
    channel and JPEG of luma.

    A new one is a frozen dataclass with `steps`. Registered under the entry point "diffusers_restore.recipes", it is
    found by its `kind`.

    Attributes:
        kind: the name in the registry and in `to_config()`.
        keeps_grey: a grey result means a grey original, so a grey picture is restored without colours.
    """

    kind: ClassVar[str]
    keeps_grey: ClassVar[bool] = True

    @abstractmethod
    def steps(self, streams: Streams, height: int, width: int) -> list[Step]:
        """Draw the steps of one plan; the last one leads back to the size of the picture.

        Args:
            streams: the source of all random numbers.
            height, width: of the picture.
        """

    @final
    def sample(self, seeds: Sequence[int], height: int, width: int) -> list[Plan]:
        """A plan for each seed.

        Args:
            seeds: whole numbers in 0..2^63 - 1.
            height, width: of the pictures.

        Raises:
            InvalidInputError: a seed or a size out of range.
        """
        height, width = check_int("height", height, 1), check_int("width", width, 1)
        if isinstance(seeds, (str, bytes)) or not isinstance(seeds, Sequence):
            raise InvalidInputError(f"seeds must be a list of whole numbers, got {seeds!r:.200}")
        checked = [check_int("seeds", seed, 0, _MAX_SEED) for seed in seeds]
        return [Plan(self.kind, tuple(self.steps(Streams(seed), height, width))) for seed in checked]

    @final
    def __call__(self, clean: Tensor, seeds: Sequence[int]) -> Damage:
        """The whole damage of a plan for each seed: `apply(clean, sample(seeds, H, W))`."""
        check_pictures(clean)
        return self.apply(clean, self.sample(seeds, *clean.shape[2:]))

    @final
    def apply(self, clean: Tensor, plans: Sequence[Plan], severity: float | Tensor = 1.0) -> Damage:
        """Carry out plans.

        Args:
            clean: pictures (B, C, H, W) in [-1, 1], float, C = 1 or 3.
            plans: of this recipe, one for each picture.
            severity: in [0, 1], one number or one for each picture, (B,).

        Raises:
            InvalidInputError: pictures, plans or severities that can't be used.
        """
        check_pictures(clean)
        low, high = torch.aminmax(clean.detach())
        if not (low >= -1.001 and high <= 1.001):  # NaN isn't, either
            raise InvalidInputError(
                f"clean must be pictures in [-1, 1], got values from {low.item():g} to {high.item():g}"
            )
        if not isinstance(plans, Sequence) or not all(isinstance(plan, Plan) for plan in plans):
            raise InvalidInputError(f"plans must be a list of Plan, from sample(), got {plans!r:.200}")
        if len(plans) != len(clean):
            raise InvalidInputError(f"plans must be one for each of {len(clean)} pictures, got {len(plans)}")
        for plan in plans:
            if plan.recipe != self.kind:
                raise InvalidInputError(f"plans must be of recipe {self.kind!r}, got one of {plan.recipe!r}")
        return carry_out(clean, plans, _shares(severity, len(clean)))

    @final
    def to_config(self) -> dict[str, Any]:
        """The configuration for `recipes.from_config`, as JSON values."""
        return {"kind": self.kind, **{one.name: getattr(self, one.name) for one in dataclasses.fields(self)}}


def seeds_from(generator: torch.Generator, count: int) -> list[int]:
    """Seeds for `count` pictures, drawn from a generator of torch."""
    if not isinstance(generator, torch.Generator):
        raise InvalidInputError(f"generator must be a torch.Generator, got {generator!r}")
    count = check_int("count", count, 0)
    seeds: list[int] = torch.randint(2**62, (count,), generator=generator, device=generator.device).tolist()
    return seeds


def carry_out(clean: Tensor, plans: Sequence[Plan], shares: Sequence[float]) -> Damage:
    """`Recipe.apply` for valid arguments, with severities as numbers: no host sync."""
    damaged = [i for i, plan in enumerate(plans) if shares[i] > 0 and any(step["op"] != KEEP for step in plan.steps)]
    mask = torch.zeros_like(clean[:, :1])
    if not damaged:
        return Damage(clean.clone(), clean.clone(), mask)
    # In float32, rounding to 8 bits and to JPEG's steps could differ between a batch and single pictures. float64
    # prevents this at little cost. Apple's devices have none.
    exact = torch.float32 if clean.device.type == "mps" else torch.float64
    steps, severities = [plans[i].steps for i in damaged], [shares[i] for i in damaged]
    x = ((torch.cat([clean[i : i + 1] for i in damaged]).to(exact) + 1) / 2).clamp(0, 1)
    degraded, targets = list(clean.split(1)), list(clean.split(1))
    masks = list(mask.split(1))
    results, structured = run(x, steps, severities)
    for i, one, covered in zip(damaged, results.split(1), structured, strict=True):
        degraded[i] = (one * 2 - 1).to(clean.dtype)
        if covered is not None:
            masks[i] = covered.to(clean.dtype)
    for i, one, plan, share in zip(damaged, x.split(1), steps, severities, strict=True):
        wanted = target(one, plan, share)
        if wanted is not None:
            targets[i] = (wanted * 2 - 1).to(clean.dtype)
    return Damage(torch.cat(degraded), torch.cat(targets), torch.cat(masks))


def check_pictures(clean: object) -> None:
    """Raise InvalidInputError unless these are pictures that recipes can damage; reads no values."""
    right = is_dense(clean) and clean.ndim == 4 and clean.is_floating_point() and all(clean.shape)
    if not right or not is_dense(clean) or clean.shape[1] not in (1, 3):
        raise InvalidInputError(
            f"clean must be a float tensor (B, C, H, W) in [-1, 1] with C = 1 or 3, got {described(clean)}"
        )


def _shares(severity: float | Tensor, count: int) -> list[float]:
    """Severities as numbers, one for each picture."""
    values = severity.tolist() if isinstance(severity, Tensor) else severity
    listed: list[Any] = values if isinstance(severity, Tensor) and isinstance(values, list) else [values] * count
    for one in listed:
        right = isinstance(one, (int, float)) and not isinstance(one, bool) and 0 <= one <= 1
        if not right or len(listed) != count:
            raise InvalidInputError(
                f"severity must be a number in [0, 1], or a tensor (B,) of one for each of {count} pictures, got "
                f"{severity!r:.200}"
            )
    return [float(one) for one in listed]


def check_scale(scale: object) -> None:
    """Raise InvalidInputError unless it is 1, 2 or 4."""
    if check_int("scale", scale, 1, 4) == 3:
        raise InvalidInputError("scale must be 1, 2 or 4, got 3")
