"""Errors that state what was received, what was expected and what exists, and the checks that raise them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real


class InvalidInputError(ValueError):
    """An argument that cannot be used: the message names it, the value that came and the accepted form."""


class UnknownNameError(InvalidInputError, KeyError):
    """A name that nothing is registered under: the message lists the names that exist."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class OperatorError(InvalidInputError):
    """An operator that doesn't fit a size, or that a method can't use."""


class ImageError(InvalidInputError):
    """A picture that can't be read or written, or an array that isn't a picture."""


def unknown_name(what: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """`no operator named 'blurr'; did you mean 'blur'? There are: blur, ...`"""
    names = sorted(known)
    close = _nearest_numbers(str(name), names) or get_close_matches(str(name).lower(), names, n=1)
    hint = f" did you mean {' or '.join(map(repr, close))}?" if close else ""
    return UnknownNameError(f"no {what} named {name!r};{hint} there are: {', '.join(names)}")


def _nearest_numbers(name: str, names: list[str]) -> list[str]:
    """Of names that differ from this one in their number alone, those with the next smaller and the next larger one."""

    def split(text: str) -> tuple[str, int]:
        letters = text.rstrip("0123456789")
        return letters, int("0" + text[len(letters) :][:9])

    letters, number = split(name)
    same = [(split(other)[1], other) for other in names if split(other)[0] == letters and other != letters]
    if letters == name:
        return []
    below, above = [one for one in same if one[0] < number], [one for one in same if one[0] > number]
    return [other for _, other in ([max(below)] if below else []) + ([min(above)] if above else [])]


def one_line(error: BaseException) -> str:
    """The message of another library's error, which may be long, on one line."""
    return without_controls(" ".join(str(error).split())) or type(error).__name__


def without_controls(text: str) -> str:
    """A text with escapes in place of characters that would steer a terminal; names of files may hold them."""
    return "".join(_escaped(one) if unicodedata.category(one) in ("Cc", "Zl", "Zp") else one for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def check_real(
    name: str, value: object, minimum: float = -math.inf, maximum: float = math.inf, *, above: float = -math.inf
) -> float:
    """`value` as a float, finite, in [minimum, maximum] and > above.

    Raises:
        InvalidInputError: not a number, not finite, or out of range.
    """
    limits = [f">= {minimum:g}"] * (minimum > -math.inf)
    limits += [f"> {above:g}"] * (above > -math.inf) + [f"<= {maximum:g}"] * (maximum < math.inf)
    accepted = " and ".join(limits) or "finite"
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number that no float can hold
        number = math.nan
    if not (math.isfinite(number) and minimum <= number <= maximum and number > above):
        raise InvalidInputError(f"{name} must be a number {accepted}, got {value!r:.99}")
    return number


def check_int(name: str, value: object, minimum: int, maximum: float = math.inf) -> int:
    """`value` as an int in [minimum, maximum]; a float, a bool or a string is refused.

    Raises:
        InvalidInputError: not a whole number, or out of range.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not minimum <= int(value) <= maximum:
        upper = f" and <= {maximum:g}" if maximum < math.inf else ""
        raise InvalidInputError(f"{name} must be a whole number >= {minimum}{upper}, got {value!r:.99}")
    return int(value)


def check_bool(name: str, value: object) -> bool:
    """`value`, which must be True or False; numbers and strings are refused.

    Raises:
        InvalidInputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False, got {value!r:.99}")
    return value
