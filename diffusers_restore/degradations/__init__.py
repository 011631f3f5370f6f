"""Degradations D(x, t) by severity, for Cold Diffusion: exact, batched, each picture at its own severity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidInputError
from ..registries import DEGRADATIONS
from .base import Degradation, State
from .blur import Blur
from .checks import check_degradation
from .color import Decolor
from .fade import ColorFade, Fade
from .mix import Mix
from .pixelate import Pixelate
from .snow import Snow
from .synthetic import Synthetic

__all__ = [
    "DEGRADATIONS",
    "Blur",
    "ColorFade",
    "Decolor",
    "Degradation",
    "Fade",
    "Mix",
    "Pixelate",
    "Snow",
    "State",
    "Synthetic",
    "check_degradation",
    "from_config",
]


def from_config(config: Mapping[str, Any]) -> Degradation:
    """The degradation that `degradation.to_config()` describes, through JSON too.

    Raises:
        UnknownNameError: no degradation is registered under `config["kind"]`.
        InvalidInputError: an argument is missing, unknown or out of range.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("kind"), str):
        raise InvalidInputError(f"a degradation is configured by a mapping with 'kind', got {config!r:.200}")
    params = dict(config)
    kind = params.pop("kind")
    cls = DEGRADATIONS[kind]
    try:
        degradation: Degradation = cls(**params)
    except TypeError as error:
        raise InvalidInputError(f"the configuration of degradation {kind!r} does not fit: {error}") from error
    return degradation
