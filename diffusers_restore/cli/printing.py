"""What the commands print: a line for each picture for people, or one of JSON for programs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ..errors import one_line
from ..restoring import ArgumentError, Job, Outcome, Remarks
from ..restoring.jobs import duration
from ..restoring.processes import Processes
from .options import name_options

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

_SCORES = {"psnr": ("PSNR", 2, " dB"), "ssim": ("SSIM", 3, "")}


class Printer:
    """Prints outcomes as they come; results go to stdout, warnings and errors to stderr.

    Args:
        ctx: of the command, for the names of its options.
        quiet: nothing but warnings and errors.
        verbose: more than the results.
        as_json: a line of JSON for each picture.
        timed: whether seconds are printed.

    Attributes:
        settings: part of each line of JSON.

    Raises:
        UsageError: quiet and verbose.
    """

    def __init__(self, ctx: click.Context, quiet: bool, verbose: bool, as_json: bool, timed: bool = True) -> None:
        if quiet and verbose:
            raise click.UsageError("--quiet and --verbose exclude each other", ctx)
        self._ctx, self.quiet, self.verbose, self._as_json, self._timed = ctx, quiet, verbose, as_json, timed
        self.settings: Mapping[str, Any] = {}
        self.outcomes: list[Outcome] = []
        self._began = time.perf_counter()
        self._scores: list[Mapping[str, float]] = []

    def tell(self, sentence: str) -> None:
        """Print a sentence for people."""
        if not self.quiet:
            click.echo(sentence, err=self._as_json)

    def tell_more(self, sentence: str) -> None:
        """Print a sentence for those who want to know more."""
        if self.verbose:
            click.echo(sentence, err=True)

    def report(self, outcome: Outcome) -> None:
        """Print what became of a picture."""
        self.outcomes.append(outcome)
        self._scores.append(outcome.remarks.scores)
        message = None
        if outcome.error is not None:
            error = outcome.error
            message = name_options(self._ctx, error) if isinstance(error, ArgumentError) else one_line(error)
        if self._as_json:
            click.echo(json.dumps(self._record(outcome, message)))
        if message is not None:
            click.echo(f"{outcome.job.name}: {message}", err=True)
            return
        for warning in outcome.remarks.warnings:
            click.echo(f"note: {outcome.job.name} {warning}", err=True)
        if not self._as_json:
            self.tell(self._line(outcome))

    def skip(self, job: Job, remarks: Remarks) -> None:
        """Print that the results of a picture are there already, with their figures."""
        self._scores.append(remarks.scores)
        for warning in remarks.warnings:
            click.echo(f"note: {job.name} {warning}", err=True)
        if self._as_json:
            click.echo(json.dumps(self._record(Outcome(job, None, 0.0, remarks=remarks), None) | {"skipped": True}))
            return
        self.tell("  ".join([f"{job.name}: skipped, {job.target_names} exists", *_scores(remarks.scores)]))

    def _line(self, outcome: Outcome) -> str:
        assert outcome.size is not None
        width, height = outcome.size
        parts = [f"{outcome.job.name} -> {outcome.job.target_names}", f"{width}x{height}"]
        parts += [f"{outcome.seconds:.1f} s"] if self._timed else []
        parts += [*outcome.remarks.notes, *_scores(outcome.remarks.scores)]
        if self._timed and outcome.count > 1:
            left = f", {duration(outcome.seconds_left)} left" if outcome.number < outcome.count else ""
            parts.append(f"[{outcome.number}/{outcome.count}{left}]")
        return "  ".join(parts)

    def _record(self, outcome: Outcome, message: str | None) -> dict[str, Any]:
        remarks = outcome.remarks
        scores = {name: value if math.isfinite(value) else None for name, value in remarks.scores.items()}
        return {
            "file": outcome.job.name,
            "results": [] if message is not None else [str(target) for target in outcome.job.targets],
            "size": outcome.size,
            "seconds": round(outcome.seconds, 3),
            "error": message,
            "notes": [*remarks.notes, *remarks.warnings],
            **scores,
            "skipped": False,
            "options": json.loads(json.dumps(self.settings, default=str)),
        }

    def end(self, processes: Processes | None = None, how: str = "") -> None:
        """Print mean figures and failures; the exit status is 1 if there are any.

        Args:
            processes: that have shared the work, the first of which prints for all.
            how: what can be done about failures.
        """
        failed = [outcome.job.name for outcome in self.outcomes if outcome.error is not None]
        compared = [dict(scores) for scores in self._scores if scores]
        seen, count, seconds = len(self._scores), len(self.outcomes), time.perf_counter() - self._began
        if processes is not None and processes.count > 1:
            of_each = processes.gather((failed, compared, seen, count, seconds))
            failed, compared = (
                [one for part in parts for one in part] for parts in list(zip(*of_each, strict=True))[:2]
            )
            seen, count = sum(one[2] for one in of_each), sum(one[3] for one in of_each)
            seconds = max(one[4] for one in of_each)
            if processes.rank > 0:
                raise click.exceptions.Exit(1 if failed else 0)
            rate = f", {count / seconds:.2g} a second" if count else ""
            self.tell(f"{count} pictures by {processes.count} processes in {duration(seconds)}{rate}")
        if len(compared) > 1 and not self._as_json:
            from ..restoring.comparing import mean_scores

            self.tell("  ".join([f"mean of {len(compared)}", *_scores(mean_scores(compared))]))
        if seen > 1 and failed:  # those that were skipped count, too
            click.echo(f"{len(failed)} of {seen} failed: {', '.join(failed)}{how}", err=True)
        if failed:
            raise click.exceptions.Exit(1)

    def interrupted(self, count: int, how: str) -> click.exceptions.Exit:
        """What to raise after Ctrl-C, having said how far it went."""
        done = sum(outcome.error is None for outcome in self.outcomes)
        click.echo(f"stopped: {done} of {count} done{how}", err=True)
        return click.exceptions.Exit(INTERRUPTED)


def _scores(scores: Mapping[str, float]) -> Sequence[str]:
    """As `PSNR 31.20 dB (input 24.81)`."""
    texts = []
    for name, (title, digits, unit) in _SCORES.items():
        if name in scores:
            before = scores.get(f"{name}_input")
            more = "" if before is None else f" (input {before:.{digits}f})"
            texts.append(f"{title} {scores[name]:.{digits}f}{unit}{more}")
    return texts
