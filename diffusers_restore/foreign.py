"""Reads the JSON and YAML of others: files of repositories and checkpoints, options. All of it goes through here.

What is read is small, not deep, and of plain values, so that nothing later runs out of memory, stack or digits.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import InvalidInputError, one_line

MAX_BYTES = 2**22
MAX_DEPTH = 50
MAX_VALUES = 2**17
MAX_DIGITS = 300  # a float holds 308

MAX_NUMBER = 10**6
"""The largest number in the configuration of a component: a thousand times what is usual."""

MAX_LAYERS = 1000
"""The same of `layers_per_block`, for which a layer each is made."""

_PLAIN = (str, bool, float, type(None), datetime.date)


def parse_json(text: str, name: str) -> Any:
    """The value of JSON, which `name` calls in errors.

    Raises:
        InvalidInputError: it isn't JSON, or too long, too deep, or with a number of too many digits.
    """
    return _parse(json.loads, text, name, "no JSON")


def parse_yaml(text: str, name: str) -> Any:
    """The value of YAML or JSON; as `parse_json`."""

    def load(text: str) -> Any:
        try:
            return json.loads(text)  # some JSON isn't YAML: tabs, and characters written as two escapes
        except json.JSONDecodeError:
            return yaml.safe_load(text)

    return _parse(load, text, name, "neither YAML nor JSON")


def _parse(load: Callable[[str], Any], text: str, name: str, otherwise: str) -> Any:
    if len(text) > MAX_BYTES:
        raise InvalidInputError(f"{name} must have at most {MAX_BYTES >> 20} MiB")
    try:
        value = load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError(f"{name} is {otherwise}: {one_line(error)}") from error
    except RecursionError as error:
        raise _too_deep(name) from error
    except (TypeError, ValueError) as error:  # a number of more than 4,300 digits; in YAML, a date that is none
        raise InvalidInputError(f"{name} holds a value that can't be read: {one_line(error)}") from error
    _check_plain(value, name)
    return value


def read_text(file: Path) -> str:
    """The text of a file, in UTF-8.

    Raises:
        InvalidInputError: it is longer than 4 MiB, or in another encoding.
        OSError: it can't be read.
    """
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InvalidInputError(f"{str(file)!r} must have at most {MAX_BYTES >> 20} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{str(file)!r} must be text in UTF-8: {error}") from error


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InvalidInputError: it holds something else, or as for `parse_json`.
        OSError: it can't be read.
    """
    value = parse_json(read_text(file), repr(str(file)))
    if not isinstance(value, dict):
        raise InvalidInputError(f"{str(file)!r} must hold a JSON object, {{...}}, got {type(value).__name__}")
    return value


def read_config(file: Path) -> dict[str, Any]:
    """The configuration of a component of a repository, whose numbers are not absurd.

    Raises:
        InvalidInputError: a number beyond a million (or beyond 1000 layers), by which memory would be taken; or as for
            `read_object`.
        OSError: it can't be read.
    """
    config = read_object(file)
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, one) for one in value]
        elif isinstance(value, (int, float)) and name != "seed":
            limit = MAX_LAYERS if name == "layers_per_block" else MAX_NUMBER
            if limit < abs(value) < math.inf:  # some schedulers have infinite limits
                raise InvalidInputError(f"{str(file)!r}: {name} must be a number up to {limit}, got {value:g}")
    return config


def _check_plain(value: Any, name: str) -> None:
    """Raise InvalidInputError for what is deep, for too many values, too long numbers and other than plain values."""
    waiting, count = [(value, 0)], 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise _too_deep(name)
        if count > MAX_VALUES:  # a few lines of YAML with aliases can stand for billions
            raise InvalidInputError(f"{name} holds more than {MAX_VALUES:,} values")
        if isinstance(one, Mapping):
            waiting += [(inner, depth + 1) for inner in (*one, *one.values())]
        elif isinstance(one, list):
            waiting += [(inner, depth + 1) for inner in one]
        elif isinstance(one, int) and abs(one) >= 10**MAX_DIGITS:
            raise InvalidInputError(f"{name} holds a number of more than {MAX_DIGITS} digits")
        elif not isinstance(one, (*_PLAIN, int)):
            raise InvalidInputError(f"{name} must hold text, numbers, lists and mappings, got {type(one).__name__}")


def _too_deep(name: str) -> InvalidInputError:
    return InvalidInputError(f"{name} must not be nested deeper than {MAX_DEPTH} levels")
