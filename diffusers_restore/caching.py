"""Tables that are made once for a size, a device and a dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
T = TypeVar("T")


def keep_tables(count: int = 8) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep the last `count` results of a function, since a folder may hold pictures of many sizes.

    They are made outside inference mode: a later call may need gradients.
    """

    def decorate(make: Callable[P, T]) -> Callable[P, T]:
        return cast(Callable[P, T], lru_cache(maxsize=count)(torch.inference_mode(False)(make)))

    return decorate
