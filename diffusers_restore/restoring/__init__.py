"""The engine of the command line: restores files to files, with any model.

    restorer = restoring.load(task="denoise", sigma_y=0.1)
    for outcome in restorer.restore_files(["photos/"], "restored/"):
        print(outcome.job.name, outcome.seconds, outcome.error)

Nothing here depends on the command line: errors name arguments, and `ArgumentError.message_for` puts other names in.
"""

from __future__ import annotations

from .arguments import ArgumentError, ModelError
from .jobs import Job, Outcome, Remarks, run
from .kinds import KINDS, Kind, choose, find_kind, load
from .pairing import pair

__all__ = [
    "KINDS",
    "ArgumentError",
    "Job",
    "Kind",
    "ModelError",
    "Outcome",
    "Remarks",
    "choose",
    "find_kind",
    "load",
    "pair",
    "run",
]
