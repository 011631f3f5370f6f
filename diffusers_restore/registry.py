"""Names -> objects through entry points, so that a plug-in adds a name the way the built-ins do.

A package declares what it adds in its pyproject.toml:

    [project.entry-points."diffusers_restore.operators"]
    my_operator = "my_package.module:MyOperator"
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import InvalidInputError, unknown_name


class Registry:
    """The objects of one entry-point group, by name. Nothing is imported before it is asked for.

    Raises:
        InvalidInputError: two different objects are registered under one name.
        UnknownNameError: nothing is registered under the name; the message lists the names.
    """

    def __init__(self, group: str, what: str) -> None:
        self.group = group
        self.what = what

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(_entry_points(self.group)))

    def __contains__(self, name: object) -> bool:
        return name in _entry_points(self.group)

    def __getitem__(self, name: str) -> Any:
        known = _entry_points(self.group)
        if name not in known:
            raise unknown_name(self.what, name, known)
        return known[name].load()


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise InvalidInputError(f"{group}: {point.name!r} is registered twice: {other.value} and {point.value}")
    return found
