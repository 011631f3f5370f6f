"""What a visitor has chosen, as a model and options of `restoring.load`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError
from ..registries import METHODS, TASKS
from ..registry import PlugInError
from ..restoring import scratched
from ..restoring.kinds import FILE_ARGUMENTS
from ..restoring.zero_shot import AUTO, ESTIMATE
from ..schedulers.zero_shot import method_options

BETTER, OLD, TASK, MODEL = "better", "old", "task", "model"
"""What a visitor may want: a better photograph, an old one mended, a damage undone, a model of their own."""

ROUNDING, ESTIMATED, GIVEN = "rounding", "estimate", "given"
"""What is known of the noise: no more than what the file's format leaves, nothing, or its standard deviation."""

LABELS = {
    "task": "What was done to it",
    "sigma_y": "Noise",
    "mask": "the mask",
    "kernel": "the blur kernel",
    "model": "Model",
    "method": "Method",
    "steps": "Steps",
    "seed": "Seed",
    "samples": "Samples",
    "average": "Mean of the samples",
    "strength": "Strength",
    "start": "Severity",
    "direct": "First estimate only",
    "scratches": "An old photograph",
    "faded": "Faded, yellowed or sepia: new tones, too",
    "operator_args": "the value",
    "method_args": "Method",
    "max_pixels": "the limit of",
}
"""The page's names for arguments of `restoring`."""

_MISSING = {
    "mask": "Paint over what is missing first, or choose a mask in a file",
    "kernel": "Choose the file of the blur kernel first",
}
_OF_GOAL = {
    BETTER: ("strength",),
    OLD: ("faded", "strength", "seed"),
    TASK: ("strength", "seed", "steps", "samples", "average"),
    MODEL: ("strength", "seed", "steps", "samples", "average", "start", "direct"),
}
_DEFAULTS = {"strength": 1, "seed": 0, "samples": 1, "steps": 0, "start": 0}
_DEFAULTS |= dict.fromkeys(("average", "direct", "faded"), False)


@dataclass(frozen=True)
class Argument:
    """An argument of a task or a method, which a visitor may change.

    Attributes:
        owner: "task:sr-blur4" or "method:dpir".
        name: as `restoring` knows it.
        default: None where it has none, or decides by itself.
        needed: whether it has none.
    """

    owner: str
    name: str
    default: Any
    needed: bool = False

    @property
    def key(self) -> str:
        """Its name among all values of the page."""
        return f"{self.owner}:{self.name}"

    @property
    def label(self) -> str:
        """Its name for a reader."""
        return self.name.replace("_", " ").capitalize()

    def value_of(self, given: Any) -> Any:
        """The value, of the type of its default; None where nothing was typed.

        Raises:
            InvalidInputError: a text that is no value.
        """
        if not isinstance(given, str) or isinstance(self.default, str):
            return given
        text = given.strip()
        if not text:
            return None
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = text if self.default is None and text.isidentifier() else None
        if isinstance(value, (int, float, str)) or _is_of_numbers(value):
            return value
        raise InvalidInputError(f"{self.name} must be a number or a list of numbers, got {text!r:.99}")


@dataclass(frozen=True)
class Asked:
    """A model, and the options that aren't as they always are.

    Attributes:
        model: a repository or a folder; None is a bundled one.
        options: of `restoring.load`.
    """

    model: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def arguments_of_tasks() -> dict[str, list[Argument]]:
    """The arguments of each task that can be loaded, those that are files left out."""
    found = {}
    for name in TASKS:
        try:
            parameters: dict[str, inspect.Parameter] = TASKS[name].arguments
        except PlugInError:
            continue
        found[name] = [
            Argument(f"task:{name}", key, None if p.default is p.empty else p.default, p.default is p.empty)
            for key, p in parameters.items()
            if key not in FILE_ARGUMENTS
        ]
    return found


def file_arguments(task: str) -> tuple[str, ...]:
    """Those of a task that are files: mask, kernel."""
    return tuple(name for name in FILE_ARGUMENTS if name in TASKS[task].arguments)


def arguments_of_methods() -> dict[str, list[Argument]]:
    """The options of each method that can be loaded, and those of its steps."""
    found = {}
    for name in METHODS:
        try:
            method = METHODS[name]
        except PlugInError:
            continue
        options = {**method_options(method), **dict.fromkeys(method.step_options)}
        found[name] = [Argument(f"method:{name}", key, default) for key, default in options.items()]
    return found


def asked(values: Mapping[str, Any], mask: Path | None = None, kernel: Path | None = None) -> Asked:
    """What is chosen on the page.

    Args:
        values: by name: goal, task, model, method, noise, grey_levels, steps ..., and by `Argument.key`.
        mask: file of a mask, if there is one.
        kernel: file of a blur kernel, if there is one.

    Raises:
        InvalidInputError: a text that is no value, or something that is needed and isn't there.
    """
    goal: str = values["goal"]
    options: dict[str, Any] = {}
    if goal == OLD:
        options["scratches"] = scratched.AUTO
    if goal == TASK:
        options |= _of_task(values)
    takes = file_arguments(values["task"]) if goal == TASK else ("mask",) if goal in (OLD, MODEL) else ()
    for name, file in (("mask", mask), ("kernel", kernel)):
        if name in takes and file is not None:
            options[name] = str(file)
        elif name in takes and goal == TASK:
            raise InvalidInputError(_MISSING[name])
    for name in _OF_GOAL[goal]:
        value = values.get(name)
        if value is not None and value != _DEFAULTS.get(name):
            options[name] = int(value) if isinstance(value, float) and value.is_integer() else value
    model = (values.get("model") or "").strip() if goal in (TASK, MODEL) else ""
    if goal == MODEL and not model:
        raise InvalidInputError("Model: name a repository of the Hub or a folder")
    return Asked(model or None, options)


def _of_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a task and a method are told."""
    task, method = values["task"], values.get("method") or AUTO
    options: dict[str, Any] = {"task": task}
    for one in arguments_of_tasks().get(task, []):
        if one.needed and one.value_of(values.get(one.key)) is None:
            raise InvalidInputError(f"{one.label}: type a number first")
    if arguments := _changed(arguments_of_tasks().get(task, []), values):
        options["operator_args"] = arguments
    if values["noise"] != ROUNDING:
        if values["noise"] == GIVEN and values["grey_levels"] is None:
            raise InvalidInputError("Noise: type its standard deviation")
        options["sigma_y"] = ESTIMATE if values["noise"] == ESTIMATED else values["grey_levels"] / 127.5
    if method != AUTO:
        options["method"] = method
        of_steps = METHODS[method].step_options
        changed = _changed(arguments_of_methods().get(method, []), values)
        if of_method := {name: value for name, value in changed.items() if name not in of_steps}:
            options["method_args"] = of_method
        options |= {name: value for name, value in changed.items() if name in of_steps}
    return options


def _changed(arguments: list[Argument], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that aren't the defaults."""
    found = {one.name: one.value_of(values.get(one.key)) for one in arguments}
    default = {one.name: one.default for one in arguments}
    return {name: value for name, value in found.items() if value is not None and not _same(value, default[name])}


def _is_of_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or of such lists."""
    if not isinstance(value, (list, tuple)):
        return False
    return all(isinstance(one, (int, float)) or _is_of_numbers(one) for one in value)


def written(numbers: Sequence[float]) -> str:
    """A list of numbers, as it is shown to be changed: with few digits."""
    return str([round(one, 4) for one in numbers])


def _same(value: Any, default: Any) -> bool:
    if not isinstance(default, (list, tuple)):
        return bool(value == default)
    return _is_of_numbers(value) and (list(value) == list(default) or written(value) == written(default))
