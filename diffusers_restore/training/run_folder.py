"""The folder of a run: its lock, its checkpoints, its logs and its samples."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from .. import images
from ..errors import InvalidInputError
from ..files import write_text
from ..foreign import parse_json
from .checkpoints import checkpoints, find_damage, save_checkpoint, tidy
from .config import LoopConfig
from .export import holds_model
from .progress import Progress

LOG = "metrics.jsonl"
_WRITTEN = ("model_index.json", "README.md", "pipeline.py", "samples", LOG)
"""What a run writes beside its checkpoints, as far as it may be another's."""


@final
class RunFolder:
    """`output_dir` of a run. All processes call its methods; files are written by the main one.

    Args:
        accelerator: of the run.
        config: of the run.

    Attributes:
        path: of the folder.
    """

    def __init__(self, accelerator: Accelerator, config: LoopConfig) -> None:
        self._accelerator, self._config = accelerator, config
        self.path = Path(config.output_dir)
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def choose_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, which the main process chooses for all; None for a new run.

        Raises:
            InvalidInputError: there is no such checkpoint or none that is complete, or the folder is another run's.
        """
        asked = self._config.resume_from_checkpoint
        chosen: list[str | None] = [None]
        if self._accelerator.is_main_process and asked is not None:
            chosen = [_find_latest(self.path) if asked == "latest" else str(_find_named(self.path, asked))]
        if self._accelerator.num_processes > 1:
            broadcast_object_list(chosen)
        checkpoint = None if chosen[0] is None else Path(chosen[0])
        ours = checkpoint is not None and checkpoint.resolve().parent == self.path.resolve()
        if asked != "latest" and not ours and checkpoints(self.path):
            raise InvalidInputError(
                f"output_dir {self._config.output_dir!r} holds checkpoints of an earlier run; go on with it by "
                "--resume_from_checkpoint latest, or take another folder"
            )
        return checkpoint

    def holds_model(self) -> bool:
        """Whether an export is there, which the main process looks for."""
        found = [self._accelerator.is_main_process and holds_model(self.path)]
        if self._accelerator.num_processes > 1:
            broadcast_object_list(found)
        return found[0]

    def open(self, start: int) -> None:
        """Make the folder, lock it while this process lives, and remove what a killed run wrote after `start`.

        Raises:
            InvalidInputError: it can't be written, or it holds another run or a model that isn't of this run.
        """
        if not self._accelerator.is_main_process:
            return
        self._make_and_lock()
        # A run that was stopped before its first checkpoint goes on from the beginning; one that got further, and
        # exported a model, has had checkpoints, which somebody removed.
        further = _last_step(self.path / LOG) > self._config.checkpointing_steps
        begun = (self.path / LOG).exists() and not (further and (self.path / "model_index.json").exists())
        for name in () if start or (begun and self._config.resume_from_checkpoint == "latest") else _WRITTEN:
            if (self.path / name).exists():
                how = ", or go on with the run that was begun here by --resume_from_checkpoint latest" * begun
                raise InvalidInputError(
                    f"output_dir {str(self.path)!r} holds a {name} that isn't of this run, which would be written "
                    f"over; take another folder{how}"
                )
        tidy(self.path, start, limit=self._config.checkpoints_total_limit)
        _rewind(self.path / LOG, start)

    def _make_and_lock(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise InvalidInputError(f"output_dir {str(self.path)!r} is in use by another run") from error
        except OSError as error:
            raise InvalidInputError(f"output_dir {str(self.path)!r} can't be written: {error}") from error

    def start_trackers(self, start: int) -> None:
        """Open the logs of the chosen logger."""
        # What a killed run logged after its last checkpoint is logged again; TensorBoard then forgets the first time.
        self._accelerator.init_trackers("train", init_kwargs={"tensorboard": {"purge_step": start + 1}})

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers to the trackers and add them to metrics.jsonl."""
        self._accelerator.log(dict(values), step=step)
        if self._accelerator.is_main_process:
            with (self.path / LOG).open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

    def report(self, progress: Progress) -> None:
        """Log and print the figures; write the pictures as samples/00000500.png, and to trackers that take pictures.

        Only the main process calls this.
        """
        if progress.figures:
            self.log(progress.figures, progress.step)
            figures = ", ".join(f"{name} {value:.3f}" for name, value in progress.figures.items())
            tqdm.write(f"step {progress.step}: {figures}")
        if progress.pictures is None:
            return
        sheet = images.grid(progress.pictures)
        folder = self.path / "samples"
        folder.mkdir(exist_ok=True)
        images.save(sheet, folder / f"{progress.step:08}.png")
        pixels = images.to_numpy(sheet)
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": pixels}, step=progress.step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"samples": pixels}, step=progress.step)

    def save(self, tensors: Mapping[str, Mapping[str, Tensor]], numbers: dict[str, Any]) -> None:
        """Write checkpoint-N for `numbers["step"]` = N. Only the main process calls this."""
        if self._accelerator.scaler is not None:
            numbers["scaler"] = self._accelerator.scaler.state_dict()
        checkpoint = self.path / f"checkpoint-{numbers['step']}"
        save_checkpoint(checkpoint, tensors, numbers, limit=self._config.checkpoints_total_limit)

    def close(self) -> None:
        """Unlock the folder for other runs."""
        self._lock.release()


def check_resumable(numbers: Mapping[str, Any], settings: Mapping[str, Any], config: LoopConfig) -> None:
    """Raise InvalidInputError for the numbers of a checkpoint that this run can't resume from."""
    step = numbers.get("step", 0)
    complete = config.resume_from_checkpoint == "latest" and step == config.max_train_steps  # there may be more to push
    if step >= config.max_train_steps and not complete:
        raise InvalidInputError(
            f"max_train_steps must be above {step}, the step of the checkpoint, got {config.max_train_steps}"
        )
    trained_with = numbers.get("settings", {})
    for name, value in json.loads(json.dumps(settings)).items():
        before = trained_with.get(name, value)
        if value not in (before, [before]) and not _are_one_place(value, before):  # layers_per_block was a number once
            raise InvalidInputError(
                f"the checkpoint was trained with {name}: {before!r}, got {value!r}; a run goes on with "
                "the options that it began with, or begins anew in another output_dir"
            )


def _are_one_place(value: Any, before: Any) -> bool:
    """Whether two settings are names of one file or folder."""
    if not isinstance(value, str) or not isinstance(before, str):
        return False
    return Path(value).exists() and Path(value).resolve() == Path(before).resolve()


def _find_latest(output_dir: Path) -> str | None:
    """The latest complete checkpoint; None if there are none."""
    found = checkpoints(output_dir)
    for checkpoint in reversed(found):
        problem = find_damage(checkpoint)
        if problem is None:
            return str(checkpoint)
        tqdm.write(f"skipped {checkpoint}: {problem}", file=sys.stderr)
    if found:
        raise InvalidInputError(
            f"resume_from_checkpoint: none of the {len(found)} checkpoints in {str(output_dir)!r} is whole; to begin "
            "anew, take another output_dir"
        )
    return None


def _find_named(output_dir: Path, name: str) -> Path:
    for folder in (Path(name), output_dir / name):
        if folder.is_dir():
            return folder
    existing = ", ".join(path.name for path in checkpoints(output_dir)) or "none"
    raise InvalidInputError(
        f"resume_from_checkpoint: there is no checkpoint {name!r}; in {output_dir} there are: {existing}"
    )


def _logged(log: Path) -> Iterator[tuple[int, str]]:
    """(step, line) of what was logged, without any incomplete line of a killed run."""
    for line in log.read_text().splitlines() if log.exists() else ():
        with contextlib.suppress(InvalidInputError, LookupError, TypeError, ValueError):
            yield int(parse_json(line, LOG)["step"]), line + "\n"


def _last_step(log: Path) -> int:
    return max((step for step, _ in _logged(log)), default=0)


def _rewind(log: Path, step: int) -> None:
    """Drop what was logged after `step`."""
    if log.exists():
        write_text(log, "".join([line for logged, line in _logged(log) if logged <= step]))
