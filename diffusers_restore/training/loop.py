"""The training loop of every method: accelerate, running averages, checkpoints, measuring, logs.

A step draws its batch, its noise and its dropout from (seed, step, place in the global batch), so that a run that was
killed and resumed ends as an uninterrupted one (bit for bit where the kernels are deterministic, as on a CPU), and two
processes do what one does with gradient accumulation.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, final

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend, gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import unknown_name
from .checkpoints import load_checkpoint
from .config import LoopConfig, OptimizerConfig
from .data import TrainingData, to_unit
from .export import prepare_push, push
from .objectives import Objective
from .processes import check_processes, make_accelerator
from .progress import Export, Progress
from .run_folder import RunFolder, check_resumable
from .state import RunState, make_state
from .step import check_compiled, corrupted_batches, optimizer_step, own_random_state, set_learning_rates
from .stopping import StopRequest, TrainingStopped


def train(
    objective: Objective,
    networks: Mapping[str, nn.Module],
    data: TrainingData,
    optimizer_configs: Mapping[str, OptimizerConfig],
    config: LoopConfig,
    *,
    export: Export,
    settings: Mapping[str, Any] = MappingProxyType({}),
    last_run: bool = True,
) -> None:
    """Train `networks` in place by `objective`, each of its phases with its own optimiser.

    At every `checkpointing_steps` and at the end the networks, averaged where `objective.averaged` says so, are
    measured on the held-out pictures, all processes sharing the work. If `objective.criterion` is the best so far (or
    there is none, or nothing is held out), the main process calls `export` with them; then a checkpoint is written.

    Args:
        objective: the method.
        networks: by the names that the objective gives them.
        data: the pictures.
        optimizer_configs: of each phase of the objective.
        config: of the loop.
        export: writes the trained networks.
        settings: further options, as JSON values, that define the run as some of `config` do; a checkpoint with other
            settings is refused.
        last_run: whether this process trains nothing afterwards; otherwise several processes stay connected.

    Raises:
        InvalidInputError: fewer processes than were asked for, a checkpoint that doesn't fit, an unknown logger, a
            precision that the device doesn't have.
        FloatingPointError: the loss or the weights are no longer finite.
        TrainingStopped: SIGINT or SIGTERM came; a checkpoint was written.
    """
    accelerator = make_accelerator(config)
    check_processes(accelerator.num_processes)
    settings = {
        **settings,
        "seed": config.seed,
        "use_ema": config.use_ema,
        "train_batch_size": config.train_batch_size,
        "micro-batches of a step": config.gradient_accumulation_steps * accelerator.num_processes,
        "pictures": data.count,
        "names of the held-out pictures": f"{zlib.crc32(json.dumps(data.measured).encode()):08x}",
    }
    folder = RunFolder(accelerator, config)
    checkpoint = folder.choose_checkpoint()
    tensors, numbers = ({}, {}) if checkpoint is None else load_checkpoint(checkpoint)
    check_resumable(numbers, settings, config)
    start = int(numbers.get("step", 0))
    state = make_state(accelerator, objective, networks, optimizer_configs, config, tensors=tensors, step=start)
    means = _Means.of(tensors.get("means", {}), int(numbers.get("summed", 0)), accelerator)
    del tensors
    if accelerator.scaler is not None and "scaler" in numbers:
        accelerator.scaler.load_state_dict(numbers["scaler"])

    repo_id = prepare_push(config) if config.push_to_hub and accelerator.is_main_process else ""
    folder.open(start)
    if accelerator.is_main_process:
        tqdm.write(f"training on {data.description}" + (f", from step {start}" if start else ""))
    folder.start_trackers(start)
    run = _Run(accelerator, objective, data, optimizer_configs, config, export, settings, folder, state)
    # The export in output_dir is the best of this run only if the run resumes where it stopped, and if it is there.
    keeps = config.resume_from_checkpoint == "latest" and folder.holds_model()
    exported = _Exported.of(numbers) if keeps else _Exported()
    try:
        if start == config.max_train_steps and not keeps:
            exported = run.measure(start, exported)
        exported = run.steps(start, exported, means)
    except TrainingStopped as stopped:
        if accelerator.is_main_process:
            tqdm.write(
                f"stopped after step {stopped.step} of {config.max_train_steps}, with a checkpoint in "
                f"{config.output_dir}; to go on, give the same command with --resume_from_checkpoint latest"
            )
        run.close(last_run=True)
        raise
    if accelerator.is_main_process:
        _warn_if_worse(objective, exported.figures)
    if repo_id:
        tqdm.write(f"pushed to {push(folder.path, repo_id)}")
    run.close(last_run=last_run)


@final
@dataclass(frozen=True)
class _Run:
    """The state of a run: the arguments of `train` and the objects made from them."""

    accelerator: Accelerator
    objective: Objective
    data: TrainingData
    optimizer_configs: Mapping[str, OptimizerConfig]
    config: LoopConfig
    export: Export
    settings: Mapping[str, Any]
    folder: RunFolder
    state: RunState

    def steps(self, start: int, exported: _Exported, means: _Means) -> _Exported:
        """Take the steps from number `start` on; returns what was exported last.

        Raises:
            TrainingStopped: a signal came; a checkpoint of all that the steps after it need was written.
        """
        config, state = self.config, self.state
        batches = self.data.batches(
            batch_size=config.train_batch_size,
            accumulation=config.gradient_accumulation_steps,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            first_step=start,
        )
        seldom = 0.1 if sys.stderr.isatty() else 15  # seconds between two lines of a log
        options = {"initial": start, "total": config.max_train_steps, "smoothing": 0.05, "mininterval": seldom}
        with (
            closing(batches),
            own_random_state(self.accelerator.device),
            tqdm(disable=not self.accelerator.is_main_process, **options) as bar,
            StopRequest(self.accelerator) as request,
        ):
            for step in range(start, config.max_train_steps):
                rates = set_learning_rates(state.optimizers, self.optimizer_configs, step, config.max_train_steps)
                losses, norms = self._step(batches, step, first=step == start)
                means.add(losses | norms)
                state.update_averages()

                done = step + 1
                last = done == config.max_train_steps
                if done % config.logging_steps == 0 or done % config.checkpointing_steps == 0 or last:
                    values = means.read(self.accelerator)
                    _check_losses({name: values[name] for name in losses}, values, done)
                    bar.set_postfix({name: f"{values[name]:.4g}" for name in losses}, refresh=False)
                    values |= {f"learning_rate/{phase}": rate for phase, rate in rates.items()}
                    self.folder.log(values | {"seconds_per_step": means.restart()}, done)
                    last |= self.objective.finished(state.networks)
                bar.total = done if last else bar.total
                bar.update()
                stopped_by = request.agreed()
                if done % config.checkpointing_steps == 0 or last:
                    exported = self.measure(done, exported)
                    self._save(done, exported)
                    means.restart_clock()
                elif stopped_by:
                    self._save(done, exported, means)
                if last:
                    break
                if stopped_by:
                    raise TrainingStopped(stopped_by, done)
        return exported

    def close(self, *, last_run: bool) -> None:
        """End the logs and unlock the folder; with `last_run`, disconnect the processes, too."""
        if last_run:
            self.accelerator.end_training()
        else:
            for tracker in self.accelerator.trackers:
                tracker.finish()
        self.folder.close()

    def _step(
        self, batches: Iterator[tuple[Tensor, ...]], step: int, *, first: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses and the gradient norms of a step."""
        accelerator, state = self.accelerator, self.state
        corrupted: Iterable[Any] = corrupted_batches(self.objective, batches, accelerator, self.config, step)
        if first and accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
            corrupted = list(corrupted)
            check_compiled(accelerator, self.objective, state.wrapped, state.working, corrupted[0])
        return optimizer_step(
            accelerator, self.objective, state.wrapped, state.stepped, corrupted, self.config, step, state.copies
        )

    def measure(self, done: int, exported: _Exported) -> _Exported:
        """Measure, and export if nothing was better; returns what was exported last."""
        _check_finite(self.state.trained, done)
        self.state.copy_buffers()
        measured = self.state.measured
        progress = _measure(self.accelerator, self.objective, measured, self.data, done)
        if self.accelerator.is_main_process:
            self.folder.report(progress)
            score, best = _score(self.objective, progress), exported.best
            if score >= best or best == -math.inf:  # equal where a run was killed after its export
                exported = _Exported(score if math.isfinite(score) else best, progress.figures)
                self.export(measured, progress)
        return exported

    def _save(self, done: int, exported: _Exported, means: _Means | None = None) -> None:
        """Write a checkpoint; between two logs, with the sums since the last one.

        Nothing is measured there: an unbroken run wouldn't, and might export other weights.
        """
        _check_finite(self.state.trained, done)
        self.state.copy_buffers()
        numbers: dict[str, Any] = {"step": done, **dataclasses.asdict(exported), "settings": self.settings}
        tensors = self.state.tensors()
        if means is not None and means.count:
            tensors["means"], numbers["summed"] = means.gather(self.accelerator), means.count
        if self.accelerator.is_main_process:
            self.folder.save(tensors, numbers)
        self.accelerator.wait_for_everyone()


@final
@dataclass(frozen=True)
class _Exported:
    """What was exported last: its score, and its figures by name."""

    best: float = -math.inf
    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> _Exported:
        """As the numbers of a checkpoint tell."""
        return cls(numbers.get("best", -math.inf), numbers.get("figures", {}))


@final
class _Means:
    """Means of losses over the steps since they were last read; adding doesn't wait for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.count, self._timed, self._since = 0, 0, time.perf_counter()

    @classmethod
    def of(cls, gathered: Mapping[str, Tensor], count: int, accelerator: Accelerator) -> _Means:
        """What `gather` gave; a number of processes that has changed since shares the sums equally."""
        means = cls()
        means.count = count
        by_rank: dict[int, dict[str, Tensor]] = {}
        for key, value in gathered.items():
            rank, _, name = key.partition(".")
            by_rank.setdefault(int(rank), {})[name] = value.to(accelerator.device)
        if len(by_rank) == accelerator.num_processes:
            means._sums = by_rank[accelerator.process_index]
        elif by_rank:
            means._sums = {name: torch.stack([sums[name] for sums in by_rank.values()]).mean(0) for name in by_rank[0]}
        return means

    def gather(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """The sums of all processes: "1.loss" is of the second."""
        own = [{f"{accelerator.process_index}.{name}": value.detach().cpu() for name, value in self._sums.items()}]
        every = own if accelerator.num_processes == 1 else gather_object(own)
        return {name: value for sums in every for name, value in sums.items()}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the values of a step, scalars."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.count += 1
        self._timed += 1

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over steps and processes, by name."""
        means = accelerator.reduce(torch.stack(list(self._sums.values())) / self.count, "mean").tolist()
        return dict(zip(self._sums, means, strict=True))

    def restart(self) -> float:
        """Start over; returns the seconds that a step took."""
        seconds = (time.perf_counter() - self._since) / self._timed
        self._sums.clear()
        self.count = self._timed = 0
        self.restart_clock()
        return seconds

    def restart_clock(self) -> None:
        """Leave out the time until now, which was not spent on steps."""
        self._since = time.perf_counter()


def _check_losses(losses: Mapping[str, float], values: Mapping[str, float], step: int) -> None:
    if not all(math.isfinite(loss) for loss in losses.values()):
        raise FloatingPointError(f"the loss is {dict(values)} at step {step}; a lower learning_rate may help")


def _warn_if_worse(objective: Objective, figures: Mapping[str, float]) -> None:
    """Say at the end of a run if its restorations are worse than what they were made from."""
    sentence = objective.find_worse(figures)
    if sentence is not None:
        tqdm.write(f"warning: {sentence}", file=sys.stderr)


@torch.no_grad()
def _measure(
    accelerator: Accelerator, objective: Objective, networks: Mapping[str, nn.Module], data: TrainingData, step: int
) -> Progress:
    """Figures and pictures; each process works on every num_processes-th picture."""
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    training = [network for network in networks.values() if network.training]
    for network in training:
        network.eval()
    held_out = [tuple(to_unit(one[None].to(accelerator.device)) for one in pictures) for pictures in data.validation]
    figures: list[dict[str, float]] = []
    for i in range(len(held_out))[share]:
        measured = objective.evaluate(networks, held_out[i], i)
        figures.append({name: float(value) for name, value in measured.items()})
    indices = range(objective.shown(len(held_out)))[share]
    shown = objective.show(networks, held_out, indices).float().cpu() if indices else torch.empty(0)
    for network in training:
        network.train()

    gathered = figures if accelerator.num_processes == 1 else gather_object(figures)
    names = gathered[0] if gathered else {}
    # fsum rounds once, so that the mean is the same whatever the number of processes.
    means = {name: math.fsum(measured[name] for measured in gathered) / len(gathered) for name in names}
    pairs = list(zip(indices, shown, strict=True))
    if accelerator.num_processes > 1:
        pairs = gather_object(pairs)
    pictures = [picture for _, picture in sorted(pairs, key=lambda pair: pair[0])]
    return Progress(step, means, torch.stack(pictures) if pictures else None, accelerator.num_processes)


def _score(objective: Objective, progress: Progress) -> float:
    """The figure that decides; without one, or without held-out pictures, every measurement is the best."""
    criterion = objective.criterion
    if criterion is None or not progress.figures:
        return math.inf
    if criterion not in progress.figures:
        raise unknown_name("figure", criterion, progress.figures)
    return progress.figures[criterion]


def _check_finite(networks: Mapping[str, nn.Module], step: int) -> None:
    for name, network in networks.items():
        if not all(bool(one.isfinite().all()) for one in network.parameters()):
            raise FloatingPointError(
                f"weights of {name} are NaN or infinite at step {step}, which is not written; go on from the last "
                "checkpoint with a lower learning_rate"
            )
