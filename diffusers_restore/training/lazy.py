"""Names of a module that come from other modules, imported when the names are first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

PACKAGE = __name__.rpartition(".")[0]


def lazy_names(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of `module` (PEP 562).

    Args:
        module: its `__name__`.
        homes: name -> the module that defines it, relative to `diffusers_restore.training`.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(homes[name], PACKAGE), name)

    return find
