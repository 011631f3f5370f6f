"""The training loop of every method: accelerate, running averages, checkpoints, measuring, logs.

A step draws its batch, its noise and its dropout from (seed, step, place in the global batch), so that a run that was
killed and resumed ends bit for bit where an unbroken one does, and two processes do what one does with gradient
accumulation.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration, broadcast_object_list, gather_object
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from .. import images
from ..errors import InvalidInputError
from .checkpoints import (
    ASIDE,
    checkpoints,
    damage,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from .config import LoopConfig, OptimizerConfig
from .data import TrainingData, to_unit
from .export import prepare_push, push
from .objectives import Objective

SHOWN = 16  # pictures to look at
_NOISE, _DROPOUT = 1, 2  # what a random stream is for; data.py has its own


@dataclass(frozen=True)
class Progress:
    """How far a run is: what a model card reports.

    Attributes:
        step: optimiser steps that were taken.
        figures: of the held-out pictures, by name; empty without held-out pictures.
        pictures: to look at, (n, C, H, W) in [-1, 1].
        processes: that trained.
    """

    step: int
    figures: dict[str, float]
    pictures: Tensor
    processes: int


Export = Callable[[Mapping[str, nn.Module], Progress], None]


def train(
    objective: Objective,
    networks: Mapping[str, nn.Module],
    data: TrainingData,
    optimizer_config: OptimizerConfig,
    config: LoopConfig,
    *,
    export: Export,
) -> None:
    """Train `networks` in place by `objective`.

    At every `checkpointing_steps` and at the end the averaged networks are measured on the held-out pictures, all
    processes sharing the work. If `objective.criterion` is the best so far (or nothing is held out), `export` is
    called in the main process with the averaged networks; then a checkpoint is written.

    Raises:
        InvalidInputError: fewer processes than were asked for, a checkpoint that doesn't fit, an unknown logger, a
            precision that the device doesn't have.
    """
    output_dir = Path(config.output_dir)
    accelerator = make_accelerator(config)
    check_processes(accelerator.num_processes)
    start, tensors, state = _resume(accelerator, output_dir, config)
    for network in networks.values():
        network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averages: dict[str, nn.Module] = {}
    if config.use_ema:
        averages = {name: copy.deepcopy(network).eval().requires_grad_(False) for name, network in networks.items()}
    optimizers = make_optimizers(objective, networks, optimizer_config)
    if start:
        _restore(tensors, networks, averages, optimizers)
    emas = {name: _running_average(average, start, config) for name, average in averages.items()}
    wrapped = {name: accelerator.prepare(network.train()) for name, network in networks.items()}
    stepped = {phase: accelerator.prepare(optimizer) for phase, optimizer in optimizers.items()}
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    best = state.get("best", -math.inf)

    repo_id = ""
    if accelerator.is_main_process:
        if config.push_to_hub:
            repo_id = prepare_push(config)
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInputError(f"output_dir {config.output_dir!r} can't be made: {error}") from error
        for leftover in output_dir.glob(f"checkpoint-*{ASIDE}"):
            shutil.rmtree(leftover)
        _rewind(output_dir / "metrics.jsonl", start)
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
            _set_learning_rates(optimizers.values(), step, optimizer_config, config.max_train_steps)
            corrupted = list(corrupted_batches(objective, batches, accelerator, config, step))
            torch.manual_seed(_seed(config.seed, _DROPOUT, step, accelerator.process_index))
            for name, value in optimizer_step(accelerator, objective, wrapped, stepped, corrupted, config).items():
                sums[name] = sums[name] + value if name in sums else value
            for name, ema in emas.items():
                ema.step(networks[name].parameters())
            summed, done = summed + 1, step + 1

            last = done == config.max_train_steps
            if done % config.logging_steps == 0 or done % config.checkpointing_steps == 0 or last:
                means = accelerator.reduce(torch.stack(list(sums.values())) / summed, "mean").tolist()
                values = dict(zip(sums, means, strict=True))
                if not all(math.isfinite(value) for name, value in values.items() if name.startswith("loss")):
                    raise FloatingPointError(f"the loss is {values} at step {done}; a lower learning_rate may help")
                values["learning_rate"] = optimizer_config.learning_rate * learning_rate_factor(
                    step, optimizer_config, config.max_train_steps
                )
                values["seconds_per_step"] = (time.perf_counter() - since) / summed
                _log(accelerator, output_dir, values, done)
                bar.set_postfix({name: f"{value:.4g}" for name, value in values.items() if name.startswith("loss")})
                sums.clear()
                summed, since = 0, time.perf_counter()
            if done % config.checkpointing_steps and not last:
                continue

            for name, average in averages.items():
                for source, target in zip(networks[name].buffers(), average.buffers(), strict=True):
                    target.copy_(source)
            exported = averages or networks
            progress = _measure(accelerator, objective, exported, data, done)
            if accelerator.is_main_process:
                _show(accelerator, output_dir, progress.pictures, done)
                if progress.figures:
                    _log(accelerator, output_dir, progress.figures, done)
                    bar.write(f"step {done}: " + ", ".join(f"{k} {v:.3f}" for k, v in progress.figures.items()))
                score = progress.figures.get(objective.criterion, math.inf)
                if score >= best:  # equal where a run was killed between its export and its checkpoint
                    best = score
                    export(exported, progress)
                _save(output_dir, networks, averages, optimizers, accelerator, best, done, config)
            accelerator.wait_for_everyone()
            since = time.perf_counter()
    if repo_id:
        tqdm.write(f"pushed to {push(output_dir, repo_id)}")
    accelerator.end_training()


def optimizer_step(
    accelerator: Accelerator,
    objective: Objective,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    corrupted: Sequence[Any],
    config: LoopConfig,
) -> dict[str, Tensor]:
    """One step of every phase over the micro-batches; the losses and gradient norms, (), without a host sync.

    Gradients are exchanged between processes with the last micro-batch only, and clipped for each network by itself.
    """
    logged: dict[str, Tensor] = {}
    for phase, names in objective.phases.items():
        view = {
            name: network if name in names else accelerator.unwrap_model(network, keep_fp32_wrapper=True)
            for name, network in networks.items()
        }
        if len(view) > len(names):
            for name, network in view.items():
                network.requires_grad_(name in names)
        for i, micro_batch in enumerate(corrupted):
            with contextlib.ExitStack() as stack:
                if i < len(corrupted) - 1:
                    for name in names:
                        stack.enter_context(accelerator.no_sync(networks[name]))
                losses = objective.losses(phase, view, micro_batch)
                accelerator.backward(torch.stack(list(losses.values())).sum() / len(corrupted))
            for name, loss in losses.items():
                value = loss.detach() / len(corrupted)
                logged[name] = logged[name] + value if name in logged else value
        accelerator.unscale_gradients(optimizers[phase])
        for name in names:
            limit = config.max_grad_norm or math.inf
            logged[f"grad_norm/{name}"] = nn.utils.clip_grad_norm_(networks[name].parameters(), limit).detach()
        optimizers[phase].step()
        optimizers[phase].zero_grad()
    return logged


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
    if config.mixed_precision == "fp16" and accelerator.scaler is None:  # small gradients would vanish
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


def make_optimizers(
    objective: Objective, networks: Mapping[str, nn.Module], config: OptimizerConfig
) -> dict[str, Optimizer]:
    """AdamW for each phase of the objective."""
    return {
        phase: torch.optim.AdamW(
            [parameter for name in names for parameter in networks[name].parameters()],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            eps=config.adam_epsilon,
            fused=True,
        )
        for phase, names in objective.phases.items()
    }


def _set_learning_rates(
    optimizers: Iterable[Optimizer], step: int, config: OptimizerConfig, max_train_steps: int
) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config, max_train_steps)


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
    indices = range(SHOWN)[mine]
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
    pictures = torch.stack([picture for _, picture in sorted(pairs, key=lambda pair: pair[0])])
    return Progress(step, means, pictures, accelerator.num_processes)


# --- files ----------------------------------------------------------------------------------------------------------


def _resume(
    accelerator: Accelerator, output_dir: Path, config: LoopConfig
) -> tuple[int, dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The step to go on at with the tensors and the state of its checkpoint; the main process chooses for all."""
    if config.resume_from_checkpoint is None:
        if checkpoints(output_dir):
            raise InvalidInputError(
                f"output_dir {config.output_dir!r} holds checkpoints of another run; go on with "
                "resume_from_checkpoint=latest, or take another folder"
            )
        return 0, {}, {}
    chosen: list[str | None] = [None]
    if accelerator.is_main_process:
        chosen = [_choose(output_dir, config.resume_from_checkpoint)]
    if accelerator.num_processes > 1:
        broadcast_object_list(chosen)
    if chosen[0] is None:
        return 0, {}, {}
    tensors, state = load_checkpoint(Path(chosen[0]))
    return int(state["step"]), tensors, state


def _choose(output_dir: Path, asked: str) -> str | None:
    if asked != "latest":
        return asked
    for checkpoint in reversed(checkpoints(output_dir)):
        problem = damage(checkpoint)
        if problem is None:
            return str(checkpoint)
        tqdm.write(f"skipped {checkpoint}: {problem}", file=sys.stderr)
    return None


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
            f"the checkpoint is one of other networks than those that are to be trained: {error}"
        ) from error


def _save(
    output_dir: Path,
    networks: Mapping[str, nn.Module],
    averages: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    accelerator: Accelerator,
    best: float,
    step: int,
    config: LoopConfig,
) -> None:
    tensors: dict[str, Mapping[str, Tensor]] = {}
    for name, network in networks.items():
        tensors[name] = network.state_dict()
    for name, average in averages.items():
        tensors[f"{name}.average"] = average.state_dict()
    for phase, optimizer in optimizers.items():
        tensors[f"optimizer.{phase}"] = optimizer_tensors(optimizer)
    state: dict[str, Any] = {"step": step, "best": best}
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    save_checkpoint(output_dir / f"checkpoint-{step}", tensors, state, limit=config.checkpoints_total_limit)


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
    aside = log.with_name(log.name + ASIDE)
    aside.write_text("".join(kept))
    aside.replace(log)


def _show(accelerator: Accelerator, output_dir: Path, pictures: Tensor, step: int) -> None:
    """Write the pictures as samples/00000500.png, and to the trackers that take pictures."""
    sheet = images.grid(pictures)
    folder = output_dir / "samples"
    folder.mkdir(exist_ok=True)
    images.save(sheet, folder / f"{step:08}.png")
    pixels = images.to_numpy(sheet)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({"samples": pixels}, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({"samples": pixels}, step=step)
