"""The cost of a training step, measured before a long run."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing

import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .config import LoopConfig, OptimizerConfig
from .data import TrainingData
from .objectives import Objective
from .processes import make_accelerator
from .state import make_state
from .step import corrupted_batches, optimizer_step

MEASURED_STEPS = 3
PATIENCE = 4.0  # seconds after which nothing more is measured


def step_cost(
    objective: Objective,
    networks: Mapping[str, nn.Module],
    data: TrainingData,
    optimizer_configs: Mapping[str, OptimizerConfig],
    config: LoopConfig,
) -> str:
    """A report: parameters, arithmetic, time and memory of a step of one process, and the time of the whole run.

    The steps are taken on copies of the networks. Arithmetic is counted on single pictures, one and two of them, and
    time is that of one micro-batch: all of a large step would take minutes.
    """
    accelerator = make_accelerator(config)
    copies = {name: copy.deepcopy(network) for name, network in networks.items()}
    without_average = dataclasses.replace(config, use_ema=False)
    state = make_state(accelerator, objective, copies, optimizer_configs, without_average)
    places = {"accumulation": config.gradient_accumulation_steps, "rank": 0, "world_size": 1, "first_step": 0}

    def step(batches: Iterator[tuple[Tensor, ...]], micro_batches: int = 1) -> None:
        short = dataclasses.replace(config, gradient_accumulation_steps=micro_batches)
        corrupted = corrupted_batches(objective, batches, accelerator, short, 0)
        losses, _ = optimizer_step(
            accelerator, objective, state.wrapped, state.stepped, corrupted, short, 0, state.copies
        )
        for value in losses.values():
            value.item()  # waits for the device

    def count(micro_batches: int) -> int:
        with FlopCounterMode(display=False) as flops, closing(data.batches(batch_size=1, **places)) as batches:
            step(batches, micro_batches)
        return int(flops.get_total_flops())

    pictures = config.train_batch_size * config.gradient_accumulation_steps
    one, two = count(1), count(2)
    operations = one + (pictures - 1) * (two - one)  # the optimiser's own are those of one step
    begin, seconds = time.perf_counter(), []
    with closing(data.batches(batch_size=config.train_batch_size, **places)) as batches:
        for _ in range(MEASURED_STEPS):
            start = time.perf_counter()
            step(batches)
            seconds.append(time.perf_counter() - start)
            if time.perf_counter() - begin > PATIENCE:
                break
    once = config.gradient_accumulation_steps * statistics.median(seconds)
    lines = [f"data: {data.description}"]
    for name, network in networks.items():
        lines.append(f"{name}: {sum(p.numel() for p in network.parameters()) / 1e6:.2f} million parameters")
    lines += [
        f"a step of one process: {pictures} pictures, {1e-12 * operations:.3f} TFLOP, {once:.3g} s "
        f"({pictures / once:.3g} pictures/s), {_memory(accelerator.device)}",
        f"{config.max_train_steps} steps: {_duration(once * config.max_train_steps)} on {accelerator.device}, without "
        "measuring and checkpoints",
    ]
    return "\n".join(lines)


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB of {device} at the peak"
    return f"{psutil.Process().memory_info().rss / 2**30:.2f} GiB in use"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{rest // 60} min {rest % 60:02} s"
