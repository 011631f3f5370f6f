"""The training loop of every method: accelerate, running averages, checkpoints, measuring, logs.

A step draws its batch, its noise and its dropout from (seed, step, place in the global batch), so that a run that was
killed and resumed ends where an unbroken one does (bit for bit where the kernels repeat themselves, as on a CPU), and
two processes do what one does with gradient accumulation.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend, ProjectConfiguration, broadcast_object_list, gather_object
from diffusers.training_utils import EMAModel
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from .. import images
from ..errors import InvalidInputError, unknown_name
from ..files import write_text
from .bfloat16_copy import BFloat16Copy
from .checkpoints import (
    checkpoints,
    damage,
    discard_later,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from .config import LoopConfig, OptimizerConfig
from .data import TrainingData, to_unit
from .export import prepare_push, push
from .muon import Muon, hidden_convolutions
from .objectives import Objective

COMPILED_TOLERANCE = 0.1  # bfloat16 rounds the gradients of a compiled network otherwise, by about a percent
MUON_RATE = 3.0  # of the matrices, in learning rates of AdamW
_NOISE, _DROPOUT = 1, 2  # what a random stream is for; data.py has its own


@dataclass(frozen=True)
class Progress:
    """How far a run is: what a model card reports.

    Attributes:
        step: optimiser steps that were taken.
        figures: of the held-out pictures, by name; empty without held-out pictures.
        pictures: to look at, (n, C, H, W) in [-1, 1]; None if there are none.
        processes: that trained.
    """

    step: int
    figures: dict[str, float]
    pictures: Tensor | None
    processes: int


Export = Callable[[Mapping[str, nn.Module], Progress], None]


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
    """Train `networks` in place by `objective`, each of its phases with an optimiser of its own.

    At every `checkpointing_steps` and at the end the networks, averaged where `objective.averaged` says so, are
    measured on the held-out pictures, all processes sharing the work. If `objective.criterion` is the best so far (or
    nothing is held out), the main process calls `export` with them; then a checkpoint is written. `settings` are what
    else defines the run, as JSON can hold it: a checkpoint of other settings is refused. Without `last_run`, several
    processes stay connected for another one.

    Raises:
        InvalidInputError: fewer processes than were asked for, a checkpoint that doesn't fit, an unknown logger, a
            precision that the device doesn't have.
        FloatingPointError: the loss or the weights are no longer finite.
    """
    output_dir = Path(config.output_dir)
    accelerator = make_accelerator(config)
    check_processes(accelerator.num_processes)
    settings = {
        **settings,
        "seed": config.seed,
        "use_ema": config.use_ema,
        "train_batch_size": config.train_batch_size,
        "micro-batches of a step": config.gradient_accumulation_steps * accelerator.num_processes,
        "pictures": data.count,
    }
    checkpoint = _chosen(accelerator, output_dir, config)
    tensors, state = ({}, {}) if checkpoint is None else load_checkpoint(checkpoint)
    start = int(state.get("step", 0))
    _check_resumable(state, settings, config)

    trained = {name: networks[name] for names in objective.phases.values() for name in names}
    for network in networks.values():
        network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.eval()
    copies = make_copies(accelerator, trained)  # before the optimisers, whose tensors lie in memory as the weights do
    averages: dict[str, nn.Module] = {}
    if config.use_ema:
        averages = {name: copy.deepcopy(networks[name]).requires_grad_(False) for name in objective.averaged}
    optimizers = make_optimizers(objective, networks, optimizer_configs)
    if start:
        _restore(tensors, trained, averages, optimizers)
        del tensors
        for one in copies.values():
            one.push_weights()
            one.push_buffers()
    emas = {name: _running_average(average, start, config) for name, average in averages.items()}
    at_work = {**networks, **{name: one.network for name, one in copies.items()}}
    wrapped = {**networks, **{name: accelerator.prepare(at_work[name].train()) for name in trained}}
    stepped = {phase: accelerator.prepare(optimizer) for phase, optimizer in optimizers.items()}
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    # What lies in output_dir is the best of this run only if the run is gone on with where it stopped.
    best = state.get("best", -math.inf) if config.resume_from_checkpoint == "latest" else -math.inf

    repo_id, lock = "", None
    if accelerator.is_main_process:
        if config.push_to_hub:
            repo_id = prepare_push(config)
        lock = _own(output_dir, start)
        discard_later(output_dir, start)
        _rewind(output_dir / "metrics.jsonl", start)
        tqdm.write(f"training on {data.description}" + (f", from step {start}" if start else ""))
    _start_trackers(accelerator, config, start)

    batches = data.batches(
        batch_size=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        first_step=start,
    )
    bar = tqdm(
        range(start, config.max_train_steps),
        initial=start,
        total=config.max_train_steps,
        disable=not accelerator.is_main_process,
        smoothing=0.05,
    )
    sums: dict[str, Tensor] = {}
    summed, since = 0, time.perf_counter()
    with _own_random_state(accelerator.device):
        for step in bar:
            rates = {
                phase: one.learning_rate * learning_rate_factor(step, one, config.max_train_steps)
                for phase, one in optimizer_configs.items()
            }
            for phase, optimizer in optimizers.items():
                for group in optimizer.param_groups:
                    group["lr"] = rates[phase] * (MUON_RATE if group.get("matrices") else 1)
            corrupted: Iterable[Any] = corrupted_batches(objective, batches, accelerator, config, step)
            if step == start and accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
                corrupted = list(corrupted)
                check_compiled(accelerator, objective, wrapped, at_work, next(iter(corrupted)))
            losses, norms = optimizer_step(accelerator, objective, wrapped, stepped, corrupted, config, step, copies)
            for name, value in (losses | norms).items():
                sums[name] = sums[name] + value if name in sums else value
            for name, ema in emas.items():
                ema.step(networks[name].parameters())
            summed, done = summed + 1, step + 1

            last = done == config.max_train_steps
            if done % config.logging_steps == 0 or done % config.checkpointing_steps == 0 or last:
                means = accelerator.reduce(torch.stack(list(sums.values())) / summed, "mean").tolist()
                values = dict(zip(sums, means, strict=True))
                if not all(math.isfinite(values[name]) for name in losses):
                    raise FloatingPointError(f"the loss is {values} at step {done}; a lower learning_rate may help")
                bar.set_postfix({name: f"{values[name]:.4g}" for name in losses})
                values |= {f"learning_rate/{phase}": rate for phase, rate in rates.items()}
                values["seconds_per_step"] = (time.perf_counter() - since) / summed
                _log(accelerator, output_dir, values, done)
                sums.clear()
                summed, since = 0, time.perf_counter()
                last |= objective.finished(networks)
            if done % config.checkpointing_steps and not last:
                continue

            _check_finite(trained, done)
            for name, average in averages.items():
                for source, target in zip(networks[name].buffers(), average.buffers(), strict=True):
                    target.copy_(source)
            exported = {**networks, **averages}
            progress = _measure(accelerator, objective, exported, data, done)
            if accelerator.is_main_process:
                _report(accelerator, output_dir, progress)
                score = _score(objective, progress)
                if score >= best or best == -math.inf:  # equal where a run was killed after its export
                    best = score if math.isfinite(score) else best
                    export(exported, progress)
                state = {"step": done, "best": best, "settings": settings}
                _save(output_dir, trained, averages, optimizers, accelerator, state, config)
            accelerator.wait_for_everyone()
            since = time.perf_counter()
            if last:
                break
    if repo_id:
        tqdm.write(f"pushed to {push(output_dir, repo_id)}")
    if last_run:
        accelerator.end_training()
    else:
        for tracker in accelerator.trackers:
            tracker.finish()
    if lock is not None:
        lock.release()


def optimizer_step(
    accelerator: Accelerator,
    objective: Objective,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    corrupted: Iterable[Any],
    config: LoopConfig,
    step: int,
    copies: Mapping[str, BFloat16Copy] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of every phase over the micro-batches; the losses and the gradient norms, (), without a host sync.

    Gradients are exchanged between processes with the last micro-batch only, and clipped for each network by itself.
    Dropout is drawn anew for each phase and place in the global batch. Where `networks` holds copies, the optimisers
    are those of their masters.
    """
    losses: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    count = config.gradient_accumulation_steps
    if len(objective.phases) > 1:
        corrupted = list(corrupted)  # every phase sees them; a single one takes them as they come
    for number, (phase, names) in enumerate(objective.phases.items()):
        frozen = {name: network for name, network in networks.items() if name not in names}
        view = {
            name: accelerator.unwrap_model(network, keep_fp32_wrapper=True) if name in frozen else network
            for name, network in networks.items()
        }
        summed: dict[str, Tensor] = {}
        with _frozen(frozen.values()):
            for i, micro_batch in enumerate(corrupted):
                place = i * accelerator.num_processes + accelerator.process_index
                torch.manual_seed(_seed(config.seed, _DROPOUT, step, place, number))
                with contextlib.ExitStack() as stack:
                    if i < count - 1:
                        for name in names:
                            stack.enter_context(accelerator.no_sync(networks[name]))
                    terms = objective.losses(phase, view, micro_batch)
                    accelerator.backward(torch.stack(list(terms.values())).sum() / count)
                for name, term in terms.items():
                    value = term.detach() / count
                    summed[name] = summed[name] + value if name in summed else value
        if losses.keys() & summed.keys():
            raise InvalidInputError(f"objective: two phases have a loss named {min(losses.keys() & summed.keys())!r}")
        losses |= summed
        accelerator.unscale_gradients(optimizers[phase])
        for name in names:
            stepped = networks[name]
            if name in copies:
                copies[name].pull_gradients()
                stepped = copies[name].master
            limit = config.max_grad_norm or math.inf
            norms[f"grad_norm/{name}"] = nn.utils.clip_grad_norm_(stepped.parameters(), limit).detach()
        optimizers[phase].step()
        optimizers[phase].zero_grad()
        for name in copies.keys() & set(names):
            copies[name].push_weights()
    for one in copies.values():  # those of all: a network's running means move in the phases of others, too
        one.pull_buffers()
    return losses, norms


def check_compiled(
    accelerator: Accelerator,
    objective: Objective,
    compiled: Mapping[str, nn.Module],
    networks: Mapping[str, nn.Module],
    corrupted: Any,
) -> None:
    """Compare the gradients of a micro-batch by the compiled networks with those by the networks themselves.

    torch.compile can give others without any error: with torch 2.13 on a CPU, those of a `UNet2DModel` are off by half.
    Networks with dropout can't be compared, since it is drawn otherwise.

    Raises:
        FloatingPointError: they differ by more than 10 %, in the norm of all of a phase.
    """
    dropout = [one for network in networks.values() for one in network.modules() if isinstance(one, nn.Dropout)]
    if any(one.p for one in dropout):
        tqdm.write("the networks have dropout: whether torch.compile gives the right gradients can't be checked")
        return
    for phase, names in objective.phases.items():
        parameters = [one for name in names for one in networks[name].parameters() if one.requires_grad]
        gradients = []
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(accelerator.no_sync(compiled[name]))
            for view in (compiled, networks):
                terms = objective.losses(phase, view, corrupted)
                torch.stack(list(terms.values())).sum().backward()
                gradients.append(torch.cat([one.grad.flatten() for one in parameters if one.grad is not None]))
                for network in networks.values():
                    network.zero_grad()
        by_compiled, by_itself = gradients
        error = float((by_compiled - by_itself).norm() / by_itself.norm())
        if not error < COMPILED_TOLERANCE:
            raise FloatingPointError(
                f"torch.compile gives wrong gradients here, off by {error:.0%} in {phase!r}; train without it: "
                "ACCELERATE_DYNAMO_BACKEND=no, and no dynamo_backend in accelerate's configuration"
            )


@contextlib.contextmanager
def _frozen(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Without gradients for what had them, and with them again afterwards."""
    parameters = [one for network in networks for one in network.parameters() if one.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def learning_rate_factor(step: int, config: OptimizerConfig, max_train_steps: int) -> float:
    """The share of the learning rate at a step: a linear warm-up times the schedule, which ends near 0."""
    warmup = min(1.0, (step + 1) / (config.lr_warmup_steps + 1))
    begin = config.lr_warmup_steps
    if config.lr_scheduler == "warmup_stable_decay":
        begin = max(0, max_train_steps - config.lr_decay_steps)
    progress = min(1.0, max(0.0, (step - begin) / max(1, max_train_steps - begin)))
    match config.lr_scheduler:
        case "constant":
            return warmup
        case "linear":
            return warmup * (1 - progress)
        case "cosine":
            return warmup * (1 + math.cos(math.pi * progress)) / 2
    return warmup * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


# --- processes ------------------------------------------------------------------------------------------------------


def make_accelerator(config: LoopConfig) -> Accelerator:
    """The accelerator of a run. On a machine without a GPU, several processes talk through gloo.

    Raises:
        InvalidInputError: an unknown or absent logger, or a precision that the device doesn't have.
    """
    # Without cpu=True, accelerate makes N processes on a machine without a GPU into N runs of one process each.
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available())
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=config.mixed_precision,
            log_with=None if config.logger == "none" else config.logger,
            project_config=ProjectConfiguration(
                project_dir=config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")
            ),
        )
    except ValueError as error:  # "Unsupported logging capability", or a precision
        raise InvalidInputError(
            f"mixed_precision={config.mixed_precision!r}, logger={config.logger!r}: {error}"
        ) from error
    if config.logger != "none" and not accelerator.log_with:
        raise InvalidInputError(
            f"logger={config.logger!r} needs a package that isn't installed: pip install {config.logger} "
            "(tensorboard comes with diffusers-restore[train]), or take logger=none"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:  # small gradients would vanish
        raise InvalidInputError(
            f"mixed_precision=fp16 needs a GPU, and the device is {accelerator.device.type}; take bf16 or no"
        )
    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU)
    if accelerator.distributed_type not in plain:
        raise InvalidInputError(
            f"{accelerator.distributed_type} is not supported; the networks fit on one device: use data parallelism"
        )
    return accelerator


def check_processes(running: int) -> None:
    """Stop a run that was asked for more processes than there are: `accelerate launch` starts one on a CPU.

    Raises:
        InvalidInputError: `accelerate launch` or the launcher's environment asked for another number.
    """
    asked = _asked_processes()
    if asked is not None and asked != running:
        raise InvalidInputError(
            f"{asked} processes were asked for, but {running} is running. On a machine without GPUs, accelerate "
            f"launch starts one only; say `accelerate launch --multi_gpu --num_processes {asked}`, or "
            f"`torchrun --nproc_per_node {asked}`, which both work there too"
        )


def _asked_processes() -> int | None:
    """How many processes the launcher was told to start, as far as it can be known."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    import psutil  # a dependency of accelerate

    try:
        parent = psutil.Process().parent()
        words = [] if parent is None else parent.cmdline()
    except psutil.Error:
        return None
    for i, word in enumerate(words):
        name = Path(word).name
        if name == "accelerate-launch" or word == "accelerate.commands.launch" or word.endswith("commands/launch.py"):
            arguments = words[i + 1 :]
        elif name == "accelerate" and words[i + 1 : i + 2] == ["launch"]:
            arguments = words[i + 2 :]
        else:
            continue
        return _num_processes(arguments)
    return None


def _num_processes(arguments: list[str]) -> int | None:
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    parsed = launch_command_parser().parse_args(arguments)
    if parsed.num_processes is None and (parsed.config_file or Path(default_config_file).is_file()):
        return int(load_config_from_file(parsed.config_file).num_processes)
    return None if parsed.num_processes is None else int(parsed.num_processes)


# --- pieces of a run ------------------------------------------------------------------------------------------------


def make_copies(accelerator: Accelerator, trained: Mapping[str, nn.Module]) -> dict[str, BFloat16Copy]:
    """Copies of the networks that do the work where that is faster: on a CPU in bfloat16."""
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16":
        return {}
    return {name: BFloat16Copy(network) for name, network in trained.items()}


def make_optimizers(
    objective: Objective, networks: Mapping[str, nn.Module], configs: Mapping[str, OptimizerConfig]
) -> dict[str, Optimizer]:
    """AdamW or Muon for each phase of the objective, of the parameters that its author left with gradients.

    Raises:
        UnknownNameError: a phase has no configuration.
    """
    for phase in objective.phases:
        if phase not in configs:
            raise unknown_name("optimizer_configs", phase, configs)
    return {
        phase: _make_optimizer([networks[name] for name in names], configs[phase])
        for phase, names in objective.phases.items()
    }


def _make_optimizer(networks: Sequence[nn.Module], config: OptimizerConfig) -> Optimizer:
    parameters = [one for network in networks for one in network.parameters() if one.requires_grad]
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    hidden = {id(one) for network in networks for one in hidden_convolutions(network)}
    matrices = [one for one in parameters if id(one) in hidden]
    others = [one for one in parameters if id(one) not in hidden]
    return Muon(matrices, others, matrix_lr=MUON_RATE * config.learning_rate, **options)


def corrupted_batches(
    objective: Objective,
    batches: Iterator[tuple[Tensor, ...]],
    accelerator: Accelerator,
    config: LoopConfig,
    step: int,
) -> Iterator[Any]:
    """The micro-batches of this process, each with the noise of its place in the global batch."""
    device = accelerator.device
    for i in range(config.gradient_accumulation_steps):
        place = i * accelerator.num_processes + accelerator.process_index
        generator = torch.Generator(device).manual_seed(_seed(config.seed, _NOISE, step, place))
        pictures = tuple(
            to_unit(one.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
            for one in next(batches)
        )
        yield objective.corrupt(pictures, generator)


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generators; the caller gets them back as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _running_average(average: nn.Module, step: int, config: LoopConfig) -> EMAModel:
    """diffusers' EMA, whose shadow parameters are those of the network `average`."""
    ema = EMAModel(
        average.parameters(),
        decay=config.ema_max_decay,
        use_ema_warmup=True,
        inv_gamma=config.ema_inv_gamma,
        power=config.ema_power,
        foreach=True,
    )
    ema.shadow_params = list(average.parameters())
    ema.optimization_step = step
    return ema


@torch.no_grad()
def _measure(
    accelerator: Accelerator, objective: Objective, networks: Mapping[str, nn.Module], data: TrainingData, step: int
) -> Progress:
    """Figures and pictures; each process works on every num_processes-th picture."""
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    training = [network for network in networks.values() if network.training]
    for network in training:
        network.eval()
    held_out = [tuple(to_unit(one[None].to(accelerator.device)) for one in pictures) for pictures in data.validation]
    figures: list[dict[str, float]] = []
    for i in range(len(held_out))[mine]:
        measured = objective.evaluate(networks, held_out[i], i)
        figures.append({name: float(value) for name, value in measured.items()})
    indices = range(objective.shown(len(held_out)))[mine]
    shown = objective.show(networks, held_out, indices).float().cpu() if indices else torch.empty(0)
    for network in training:
        network.train()

    gathered = figures if accelerator.num_processes == 1 else gather_object(figures)
    names = gathered[0] if gathered else {}
    # fsum rounds once, so that the mean is the same whatever the number of processes.
    means = {name: math.fsum(one[name] for one in gathered) / len(gathered) for name in names}
    pairs = list(zip(indices, shown, strict=True))
    if accelerator.num_processes > 1:
        pairs = gather_object(pairs)
    pictures = [picture for _, picture in sorted(pairs, key=lambda pair: pair[0])]
    return Progress(step, means, torch.stack(pictures) if pictures else None, accelerator.num_processes)


def _score(objective: Objective, progress: Progress) -> float:
    """The figure that decides; without held-out pictures, every measurement is the best."""
    if not progress.figures:
        return math.inf
    if objective.criterion not in progress.figures:
        raise unknown_name("figure", objective.criterion, progress.figures)
    return progress.figures[objective.criterion]


def _check_finite(networks: Mapping[str, nn.Module], step: int) -> None:
    for name, network in networks.items():
        if not all(bool(one.isfinite().all()) for one in network.parameters()):
            raise FloatingPointError(
                f"weights of {name} are NaN or infinite at step {step}, which is not written; go on from the last "
                "checkpoint with a lower learning_rate"
            )


# --- files ----------------------------------------------------------------------------------------------------------


def _chosen(accelerator: Accelerator, output_dir: Path, config: LoopConfig) -> Path | None:
    """The checkpoint to go on from; the main process chooses for all."""
    asked = config.resume_from_checkpoint
    chosen: list[str | None] = [None]
    if accelerator.is_main_process and asked is not None:
        chosen = [_latest(output_dir) if asked == "latest" else str(_named(output_dir, asked))]
    if accelerator.num_processes > 1:
        broadcast_object_list(chosen)
    checkpoint = None if chosen[0] is None else Path(chosen[0])
    ours = checkpoint is not None and checkpoint.resolve().parent == output_dir.resolve()
    if asked != "latest" and not ours and checkpoints(output_dir):
        raise InvalidInputError(
            f"output_dir {config.output_dir!r} holds checkpoints of another run; go on with it by "
            "resume_from_checkpoint=latest, or take another folder"
        )
    return checkpoint


def _latest(output_dir: Path) -> str | None:
    there = checkpoints(output_dir)
    for checkpoint in reversed(there):
        problem = damage(checkpoint)
        if problem is None:
            return str(checkpoint)
        tqdm.write(f"skipped {checkpoint}: {problem}", file=sys.stderr)
    if there:
        raise InvalidInputError(
            f"resume_from_checkpoint: none of the {len(there)} checkpoints in {str(output_dir)!r} is whole; to begin "
            "anew, take another output_dir"
        )
    return None


def _named(output_dir: Path, name: str) -> Path:
    for folder in (Path(name), output_dir / name):
        if folder.is_dir():
            return folder
    there = ", ".join(path.name for path in checkpoints(output_dir)) or "none"
    raise InvalidInputError(
        f"resume_from_checkpoint: there is no checkpoint {name!r}; in {output_dir} there are: {there}"
    )


def _check_resumable(state: Mapping[str, Any], settings: Mapping[str, Any], config: LoopConfig) -> None:
    """Raise InvalidInputError for a checkpoint of a run that this one can't be the rest of."""
    step = state.get("step", 0)
    finished = config.resume_from_checkpoint == "latest" and step == config.max_train_steps  # there may be more to push
    if step >= config.max_train_steps and not finished:
        raise InvalidInputError(
            f"max_train_steps must be above {step}, the step of the checkpoint, got {config.max_train_steps}"
        )
    trained_with = state.get("settings", {})
    for name, value in json.loads(json.dumps(settings)).items():
        before = trained_with.get(name, value)
        if value not in (before, [before]):  # layers_per_block was one number once
            raise InvalidInputError(
                f"the checkpoint was trained with {name}: {before!r}, got {value!r}; a run goes on with "
                "the options that it began with, or begins anew in another output_dir"
            )


def _restore(
    tensors: Mapping[str, Mapping[str, Tensor]],
    networks: Mapping[str, nn.Module],
    averages: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> None:
    try:
        for name in networks:
            networks[name].load_state_dict(tensors[name])
        for name, average in averages.items():
            average.load_state_dict(tensors[f"{name}.average"])
        for phase, optimizer in optimizers.items():
            load_optimizer_tensors(optimizer, tensors[f"optimizer.{phase}"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InvalidInputError(
            f"the checkpoint is one of other networks or optimisers than those of this run: {error}"
        ) from error


def _save(
    output_dir: Path,
    networks: Mapping[str, nn.Module],
    averages: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    accelerator: Accelerator,
    state: dict[str, Any],
    config: LoopConfig,
) -> None:
    tensors: dict[str, Mapping[str, Tensor]] = {}
    for name, network in networks.items():
        tensors[name] = network.state_dict()
    for name, average in averages.items():
        tensors[f"{name}.average"] = average.state_dict()
    for phase, optimizer in optimizers.items():
        tensors[f"optimizer.{phase}"] = optimizer_tensors(optimizer)
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    checkpoint = output_dir / f"checkpoint-{state['step']}"
    save_checkpoint(checkpoint, tensors, state, limit=config.checkpoints_total_limit)


def _own(output_dir: Path, start: int) -> FileLock:
    """Make the folder of a run and lock it, as long as this process lives.

    Raises:
        InvalidInputError: it can't be written, another run is in it, or a model that isn't of this run.
    """
    lock = FileLock(output_dir / ".lock", timeout=0)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InvalidInputError(f"output_dir {str(output_dir)!r} is in use by another run") from error
    except OSError as error:
        raise InvalidInputError(f"output_dir {str(output_dir)!r} can't be written: {error}") from error
    for name in ("model_index.json", "README.md"):
        if not start and not (output_dir / "metrics.jsonl").exists() and (output_dir / name).exists():
            raise InvalidInputError(
                f"output_dir {str(output_dir)!r} holds a {name} that isn't of this run, which would be written over; "
                "take another folder"
            )
    return lock


def _start_trackers(accelerator: Accelerator, config: LoopConfig, start: int) -> None:
    # What a killed run logged after its last checkpoint is logged again; TensorBoard then forgets the first time.
    accelerator.init_trackers("train", init_kwargs={"tensorboard": {"purge_step": start + 1}})


def _log(accelerator: Accelerator, output_dir: Path, values: Mapping[str, float], step: int) -> None:
    accelerator.log(dict(values), step=step)
    if accelerator.is_main_process:
        with (output_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _rewind(log: Path, step: int) -> None:
    """Drop what was logged after `step`, and half a line that a killed run left."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_text(log, "".join(kept))


def _report(accelerator: Accelerator, output_dir: Path, progress: Progress) -> None:
    """Log and print the figures; write the pictures as samples/00000500.png, and to trackers that take pictures."""
    if progress.figures:
        _log(accelerator, output_dir, progress.figures, progress.step)
        figures = ", ".join(f"{name} {value:.3f}" for name, value in progress.figures.items())
        tqdm.write(f"step {progress.step}: {figures}")
    if progress.pictures is None:
        return
    sheet = images.grid(progress.pictures)
    folder = output_dir / "samples"
    folder.mkdir(exist_ok=True)
    images.save(sheet, folder / f"{progress.step:08}.png")
    pixels = images.to_numpy(sheet)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({"samples": pixels}, step=progress.step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({"samples": pixels}, step=progress.step)
