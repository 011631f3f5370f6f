"""The command and the Python that do what the page did."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from .asking import Asked


def command(asked: Asked, inputs: Sequence[str], output: str) -> str:
    """The command line, to be run where the files are.

    Args:
        asked: what was chosen.
        inputs: names of the pictures.
        output: name of the result, or of their folder.
    """
    words = ["diffusers-restore", "restore", *(_as_file(name) for name in inputs), "-o", _as_file(output)]
    if asked.model is not None:
        words += ["--model", asked.model]
    for name, value in asked.options.items():
        words += _words(name, value)
    return shlex.join(words)


def python(asked: Asked, inputs: Sequence[str], output: str) -> str:
    """The same in Python.

    Args:
        asked: what was chosen.
        inputs: names of the pictures.
        output: name of the result, or of their folder.
    """
    given = [] if asked.model is None else [repr(asked.model)]
    given += [f"{name}={value!r}" for name, value in asked.options.items()]
    return (
        "from diffusers_restore import restoring\n\n"
        f"restorer = restoring.load({', '.join(given)})\n"
        f"for outcome in restorer.restore_files({list(inputs)!r}, {output!r}):\n"
        '    print(outcome.job.name, outcome.error or "")\n'
    )


def _words(name: str, value: Any) -> Iterator[str]:
    if name in ("operator_args", "method_args"):
        for key, one in value.items():
            yield from (f"--{name[:-1].replace('_', '-')}", f"{key}={one if isinstance(one, str) else json.dumps(one)}")
    else:
        yield f"--{name.replace('_', '-')}"
        if value is not True:
            yield str(value)


def _as_file(name: str) -> str:
    """A name that no option parser takes for an option."""
    return f"./{name}" if name.startswith("-") else name
