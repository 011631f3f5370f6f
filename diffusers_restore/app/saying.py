"""What the page says, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..restoring import Outcome
from ..restoring.jobs import printable
from .working import Ended, message


def status(text: str, *, share: float | None = None, failed: bool = False, more: Sequence[str] = ()) -> str:
    """A line for the reader, with a bar where something is under way."""
    bar = "" if share is None else f'<progress max="1" value="{share:.3f}"></progress>'
    kind = "failed" if failed else "working" if share is not None else "idle"
    items = "".join(f"<li>{escape(line)}</li>" for line in more)
    listed = f"<ul>{items}</ul>" if items else ""
    return f'<div class="status {kind}" role="status" aria-live="polite">{escape(text)}{bar}{listed}</div>'


def why_not(news: Ended) -> str | None:
    """What to say of work that failed or was stopped; None if all is well."""
    failed = [one for one in news.outcomes if one.error is not None]
    lines = [f"{_name(one)}: {without_folder(message(one.error), one.job.name)}" for one in failed if one.error]
    done = len(news.outcomes) - len(failed)
    if news.error is not None:
        return status(news.error, failed=True)
    if news.stopped:
        return status(f"Stopped; {done} of {len(news.inputs)} are done." if done else "Stopped.", more=lines)
    if failed:
        if len(news.outcomes) == 1:
            return status(lines[0], failed=True)
        return status(f"{len(failed)} of {len(news.outcomes)} failed:", failed=True, more=lines)
    return None


def report(news: Ended) -> str:
    """What to say of work that is done."""
    first = news.outcomes[0]
    seconds = sum(one.seconds for one in news.outcomes)
    width, height = first.size or (0, 0)
    what = f"{width} x {height} pixels" if len(news.outcomes) == 1 else f"{len(news.outcomes)} pictures"
    several = len(news.outcomes) > 1
    notes = [
        f"{_name(one)}: {note}" if several else note
        for one in news.outcomes
        for note in (*one.remarks.notes, *one.remarks.warnings)
    ]
    return status(f"Done: {what} in {seconds:.1f} s", more=notes)


def _name(outcome: Outcome) -> str:
    return printable(Path(outcome.job.source.name))


def without_folder(text: str, file: str) -> str:
    """A text without the folder of a file, which is no matter of visitors."""
    return text.replace(str(Path(file).parent) + "/", "")
