"""Progress of one picture: a bar on a terminal, a line now and then where the output goes to a file or a program."""

from __future__ import annotations

import sys
from typing import Any

_SECONDS = 15.0
"""Between two lines, and before the first one."""


class _Lines:
    """A stream for tqdm that turns each state of the bar into a line."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar_options(description: str, quiet: bool) -> dict[str, Any]:
    """Options of tqdm for a bar with this description."""
    options: dict[str, Any] = {"desc": description, "leave": False, "disable": quiet}
    if not sys.stderr.isatty():
        options |= {"file": _Lines(), "mininterval": _SECONDS, "maxinterval": _SECONDS, "delay": _SECONDS, "ncols": 100}
    return options
