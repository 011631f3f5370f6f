"""Objects by name through entry points: plug-ins add names in the same way as the built-ins.

A package declares what it adds in its pyproject.toml:

    [project.entry-points."diffusers_restore.operators"]
    my_operator = "my_package.module:MyOperator"
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import InvalidInputError, one_line, unknown_name


class PlugInError(InvalidInputError):
    """A registered name whose object can't be loaded; other names are not affected."""


class Registry:
    """The objects of one entry-point group, by name. Nothing is imported before it is used.

    Raises:
        PlugInError: two packages register the name, or the one that does can't be imported.
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
        points = known[name]
        if len(points) > 1:
            packages = " and ".join(f"{_package(point)} ({point.value})" for point in points)
            raise PlugInError(f"{self.what} {name!r} is registered by {packages}; uninstall one of them")
        try:
            return points[0].load()
        except Exception as error:  # a plug-in can fail in any way
            raise PlugInError(
                f"{self.what} {name!r} is registered by {_package(points[0])}, which can't be imported "
                f"({points[0].value}: {type(error).__name__}: {one_line(error)}); update or uninstall that package"
            ) from error

    def addresses(self) -> Iterator[tuple[str, str]]:
        """For each name, the address of its object: "package.module:Name". Nothing is imported."""
        for name, points in _entry_points(self.group).items():
            yield name, points[0].value


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module.partition(".")[0]


@cache
def _entry_points(group: str) -> dict[str, list[EntryPoint]]:
    """For each name, the different objects that are registered; more than one is a conflict."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        others = found.setdefault(point.name, [])
        if point.value not in [other.value for other in others]:
            others.append(point)
    return found
