"""Stopping a run by a signal: Ctrl-C, or the SIGTERM of a machine that is needed otherwise."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self, final

import torch
from accelerate import Accelerator

AT_ONCE = 1.0
"""Seconds after which a second signal is another one: launchers repeat what the terminal has sent already."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingStopped(SystemExit):
    """A run was stopped by a signal after a step, whose checkpoint it goes on from.

    As a `SystemExit`, it ends a script with the exit status of that signal: 130 of SIGINT, 143 of SIGTERM.

    Attributes:
        step: the number of steps that are done.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.step = step


@final
class StopRequest:
    """Notes SIGINT and SIGTERM from the main thread's handlers while it is open; another signal acts as before.

    In another thread, which can't have handlers, and for a signal that is ignored (by `nohup`), nothing changes.

    Args:
        accelerator: of the run, whose processes agree on when to stop.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int] = {}
        self._number, self._since = 0, 0.0
        self._group, self._told, self._work = None, torch.zeros((), dtype=torch.int64), None
        if accelerator.num_processes > 1:  # from processor to processor: nobody waits for a GPU
            self._group = torch.distributed.new_group(backend="gloo")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):  # None: of another language, which can't be put back
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()
        if self._work is not None and (error is None or isinstance(error, TrainingStopped)):
            self._work.wait()  # all processes are here

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number and time.monotonic() - self._since > AT_ONCE:
            before = self._before[number]
            signal.signal(number, before)
            os.kill(os.getpid(), number)
            return
        if not self._number:
            self._number, self._since = number, time.monotonic()
            if self._accelerator.is_main_process:  # not by print, which may have been interrupted itself
                os.write(2, b"\nstopping after this step, with a checkpoint; the same again stops at once\n")

    def agreed(self) -> int:
        """The signal for which all processes stop after this step; 0 if they go on. All call it at every step.

        Several processes agree a step after a signal of one of them, so that none waits for the others.
        """
        if self._accelerator.num_processes == 1:
            return self._number
        if self._work is not None:
            self._work.wait()
        agreed = int(self._told)
        self._told = torch.tensor(self._number)
        largest = torch.distributed.ReduceOp.MAX
        self._work = torch.distributed.all_reduce(self._told, largest, self._group, async_op=True)
        return agreed
