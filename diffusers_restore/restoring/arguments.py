"""Errors that name arguments by the caller's names for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike, fspath
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

from ..errors import InvalidInputError, check_bool, check_int

T = TypeVar("T")


class ArgumentError(InvalidInputError):
    """An argument that can't be used: a message in which {name} stands for the argument of that name.

    A command line says `error.message_for(option_of)`, where `option_of("sigma_y")` is "--sigma-y".

    Args:
        message: names of arguments in braces, {0}, {1!r} ... for `values`.
        values: values from the caller, which may contain anything, braces included.
    """

    def __init__(self, message: str, *values: Any) -> None:
        self.message = message
        self.values = values
        super().__init__(self.message_for(str))

    def message_for(self, name_of: Callable[[str], str]) -> str:
        """The message, with the names that `name_of` gives the arguments."""
        return Formatter().vformat(self.message, self.values, _Names(name_of))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, *self.values)  # the finished text is no message


class ModelError(ArgumentError):
    """A model that can't be loaded, or that lacks a required ability."""


def check(name: str, checker: Callable[..., T], value: Any, *limits: Any) -> T:
    """The value of an argument by a checker of `errors`, whose message begins with the name.

    Raises:
        ArgumentError: with that message.
    """
    try:
        return checker(name, value, *limits)
    except InvalidInputError as error:
        raise ArgumentError(f"{{{name}}}{{0}}", str(error).removeprefix(name)) from error


def check_path(name: str, path: Any, form: str = "a path") -> Path:
    """A path that can exist.

    Args:
        name: of the argument.
        path: its value.
        form: what is accepted, for the error.

    Raises:
        ArgumentError: no path, an empty one, or one that the system doesn't take: too long, or with a zero byte.
    """
    if not isinstance(path, (str, PathLike)) or not isinstance(fspath(path), str) or not fspath(path):
        raise ArgumentError(f"{{{name}}} must be {form}, got {{0!r:.99}}", path)
    try:
        Path(path).is_file()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ArgumentError(f"{{{name}}} must be {form}, got {{0!r:.99}}: {{1}}", fspath(path), why) from error
    if "\0" in fspath(path):
        raise ArgumentError(f"{{{name}}} must be {form}, got {{0!r:.99}}: it holds a zero byte", fspath(path))
    return Path(path)


def check_file(name: str, file: str | PathLike[str] | None) -> Path | None:
    """The path of a file that an argument names, None for none.

    Raises:
        ArgumentError: it is no path, or there is no such file.
    """
    if file is None:
        return None
    path = check_path(name, file, "a file")
    if not path.is_file():
        raise ArgumentError(f"{{{name}}}: there is no file {{0!r}}", str(file))
    return path


def check_flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        ArgumentError: neither.
    """
    return check(name, check_bool, value)


def check_samples(samples: Any, average: Any) -> tuple[int, bool]:
    """How many restorations of each picture, and whether their mean is the result.

    Raises:
        ArgumentError: no such number, or the mean of one.
    """
    samples, average = check("samples", check_int, samples, 1), check_flag("average", average)
    if average and samples == 1:
        raise ArgumentError("{average} needs {samples} N with N >= 2")
    return samples, average


def check_mapping(name: str, value: Any) -> dict[str, Any]:
    """Options by name, {} for None.

    Raises:
        ArgumentError: no mapping of names.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ArgumentError(f"{{{name}}} must be a mapping of names to values, got {{0!r:.99}}", value)
    return dict(value)


class _Names(dict[str, str]):
    def __init__(self, name_of: Callable[[str], str]) -> None:
        super().__init__()
        self.name_of = name_of

    def __missing__(self, name: str) -> str:
        return self.name_of(name)
