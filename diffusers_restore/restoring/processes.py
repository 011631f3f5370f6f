"""The processes that share the pictures of a run, through accelerate. Imports no torch where there is but one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_PATIENCE = timedelta(days=30)
"""How long a process waits for the others, which may have larger pictures."""


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many.

    Attributes:
        rank: 0 is the first, which prints for all.
        count: of processes.
        local_rank: which one on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    def share(self, items: Sequence[T]) -> list[T]:
        """What this process does of all: every `count`-th."""
        return list(items[self.rank :: self.count])

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            _state().wait_for_everyone()

    def gather(self, one: T) -> list[T]:
        """What each process has, in all of them."""
        if self.count == 1:
            return [one]
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object([one])
        return gathered

    def end(self) -> None:
        """Leave the group; without this, a process may crash when it exits."""
        if self.count > 1:
            _state().destroy_process_group()

    def device(self, name: str) -> str:
        """A device of this process's own, if the machine has several of the kind that was asked for."""
        if self.count == 1 or name not in ("auto", "cuda"):
            return name
        import torch

        if torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return name


def running() -> Processes:
    """The processes of this run, as `accelerate launch` or `torchrun` has started them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    state = _state()
    return Processes(state.process_index, state.num_processes, state.local_process_index)


def _state() -> Any:
    import torch
    from accelerate import PartialState

    # Without cpu=True, accelerate makes N processes on a machine without a GPU into N runs of one process each.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
