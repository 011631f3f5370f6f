"""Objects by name through entry points: plug-ins add names in the same way as the built-ins.

A package declares what it adds in its pyproject.toml:

    [project.entry-points."diffusers_restore.operators"]
    my_operator = "my_package.module:MyOperator"
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import InvalidInputError, one_line, unknown_name


class PlugInError(InvalidInputError):
    """A registered name whose object can't be loaded or is no such thing; other names are not affected."""


class Registry:
    """The objects of one entry-point group, by name. Nothing is imported before it is used.

    Args:
        group: of entry points.
        what: an object is, for messages.
        kind: the address of the class, "package.module:Class", that objects are instances of, or subclasses.
        instances: whether they are instances.

    Raises:
        PlugInError: two packages register the name, the one that does can't be imported, or its object is of another
            kind.
        UnknownNameError: nothing is registered under the name; the message lists the names.
    """

    def __init__(self, group: str, what: str, kind: str, *, instances: bool = False) -> None:
        self.group = group
        self.what = what
        self._kind, self._instances = kind, instances

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
            found = points[0].load()
        except (Exception, SystemExit) as error:  # a plug-in can fail in any way
            raise PlugInError(
                f"{self.what} {name!r} is registered by {_package(points[0])}, which can't be imported "
                f"({points[0].value}: {type(error).__name__}: {one_line(error)}); update or uninstall that package"
            ) from error
        self._check(name, found, points[0])
        return found

    def _check(self, name: str, found: Any, point: EntryPoint) -> None:
        module, _, attribute = self._kind.partition(":")
        kind: type = getattr(import_module(module), attribute)
        if self._instances:
            fits, wanted, got = isinstance(found, kind), f"a {attribute}", f"of type {type(found).__name__}"
        else:
            fits, wanted = isinstance(found, type) and issubclass(found, kind), f"a class derived from {attribute}"
            got = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
        if not fits:
            raise PlugInError(
                f"{self.what} {name!r} is registered by {_package(point)} and must be {wanted}, but {point.value} is "
                f"{got}; update or uninstall that package"
            )

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
