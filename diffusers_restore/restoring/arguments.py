"""Errors that name arguments by the caller's names for them."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter
from typing import Any

from ..errors import InvalidInputError


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


class ModelError(ArgumentError):
    """A model that can't be loaded, or that lacks a required ability."""


class _Names(dict[str, str]):
    def __init__(self, name_of: Callable[[str], str]) -> None:
        super().__init__()
        self.name_of = name_of

    def __missing__(self, name: str) -> str:
        return self.name_of(name)
