"""Synthetic damage of photographs by severity: a recipe, increasingly applied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..generators import Generators
from .base import Degradation, State, draw_each
from .recipes import Plan, Recipe, create
from .recipes.base import carry_out, check_pictures


@dataclass(frozen=True)
class Synthetic(Degradation):
    """D(x, t): the damage of a recipe at severity t / T, each picture with its own plan (see `recipes`).

    The state is the `seed` of the plan. Reading it, and t, is a host sync; JPEG has no gradient.

    Args:
        num_timesteps: T.
        recipe: its name.
        recipe_args: its arguments as JSON, '{"scale": 2}', or as a mapping, which is kept as JSON; None for none.

    Raises:
        UnknownNameError: no recipe has the name.
        InvalidInputError: arguments that the recipe doesn't have.
    """

    recipe: str = "blind"
    recipe_args: str | Mapping[str, Any] | None = None

    kind: ClassVar[str] = "synthetic"
    keeps_grey: ClassVar[bool] = False
    mixes_channels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        values = self.recipe_args
        try:
            values = json.loads(values) if isinstance(values, str) else {} if values is None else values
            text = json.dumps(values, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"recipe_args must be JSON, got {self.recipe_args!r:.200}: {error}") from error
        if not isinstance(values, Mapping):
            raise InvalidInputError(f"recipe_args must be a mapping in JSON, got {self.recipe_args!r:.200}")
        if not isinstance(self.recipe, str):
            raise InvalidInputError(f"recipe must be the name of a recipe, got {self.recipe!r:.99}")
        object.__setattr__(self, "recipe_args", text if values else None)  # hashable, and equal for equal arguments
        _recipe(self.recipe, self.recipe_args)

    def state_shapes(self, channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """`seed`: of the plan, int64."""
        return {"seed": ()}

    def sample_state(self, x0: Tensor, generator: Generators = None) -> State:
        def seeds(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
            return torch.randint(2**62, (count,), generator=generator, device=device)

        return {"seed": draw_each(seeds, len(x0), x0.device, generator)}

    def check_values(self, x0: Tensor, state: State) -> None:
        check_pictures(x0)
        seed = state["seed"]
        if seed.dtype != torch.int64 or bool((seed < 0).any()):
            raise InvalidInputError(
                f"state['seed'] must be whole numbers >= 0, int64, got {seed.dtype} {seed.tolist()}"
            )

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        recipe = _recipe(self.recipe, self.recipe_args)
        plans = [_plan(recipe, seed, x0.shape[2], x0.shape[3]) for seed in state["seed"].tolist()]
        return carry_out(x0, plans, [step / self.num_timesteps for step in t.tolist()]).degraded


@lru_cache(maxsize=32)
def _recipe(name: str, arguments: str | None) -> Recipe:
    return create(name, **json.loads(arguments or "{}"))


@lru_cache(maxsize=1024)  # a chain asks for the same plans at each of its steps
def _plan(recipe: Recipe, seed: int, height: int, width: int) -> Plan:
    return recipe.sample([seed], height, width)[0]
