"""Recipes that damage clean photographs at random, to make training pairs: seeded, batched, independent per picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import InvalidInputError, unknown_name
from ...registries import RECIPES
from .base import Damage, Plan, Recipe, Streams, seeds_from
from .blind import Blind
from .bsrgan import BSRGAN, BSRGANPlus
from .edges import Edges
from .old_photo_full import OldPhotoFull
from .old_photos import OldPhotos
from .real_esrgan import RealESRGAN
from .steps import Step

__all__ = [
    "BSRGAN",
    "RECIPES",
    "BSRGANPlus",
    "Blind",
    "Damage",
    "Edges",
    "OldPhotoFull",
    "OldPhotos",
    "Plan",
    "RealESRGAN",
    "Recipe",
    "Step",
    "Streams",
    "create",
    "from_config",
    "seeds_from",
]


def create(name: str, **arguments: Any) -> Recipe:
    """The recipe that is registered under a name: `create("bsrgan", scale=2)`.

    Raises:
        UnknownNameError: no recipe has the name.
        InvalidInputError: an argument that the recipe doesn't have, or out of range.
    """
    if not isinstance(name, str):
        raise unknown_name("recipe", name, RECIPES)
    cls = RECIPES[name]
    try:
        recipe: Recipe = cls(**arguments)
    except TypeError as error:
        raise InvalidInputError(f"the arguments of recipe {name!r} do not fit: {error}") from error
    return recipe


def from_config(config: Mapping[str, Any]) -> Recipe:
    """The recipe that `recipe.to_config()` describes, through JSON too.

    Raises:
        UnknownNameError: no recipe is registered under `config["kind"]`.
        InvalidInputError: an argument is unknown or out of range.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("kind"), str):
        raise InvalidInputError(f"a recipe is configured by a mapping with 'kind', got {config!r:.200}")
    return create(config["kind"], **{str(name): value for name, value in config.items() if name != "kind"})
