#!/usr/bin/env python3
"""Measure what a training step on a CPU is made of, and what the loop and the data cost beside it.

    python benchmarks/training.py

(a) Pictures per second of a forward, backward and optimiser step, one thread, batches that lie ready, and the shares
of convolutions, normalisation, casts and copies, and the optimiser (by torch's profiler): `autocast` is a UNet2DModel
under autocast in channels_last with AdamW, as the loop once did it; `copy` is the same network by a bfloat16 copy
beside float32 weights; `residual` is a ResidualUNet2DModel of as many parameters; `residual, Muon` has the other
optimiser. By turns, in one process; medians.
(b) The time of a step of `diffusers-restore train prior` (reading and cropping pictures, noise, forward, backward,
clipping, optimiser, running average, logging) over such a bare step of the same network. Wanted: at most 1.05.
(c) Pictures per second of the loader alone, in its first epoch (files are read) and later (they are in memory), over
what the step takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.profiler import ProfilerActivity, profile, record_function
from tqdm import tqdm

from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.training.bfloat16_copy import BFloat16Copy
from diffusers_restore.training.config import PriorConfig, build
from diffusers_restore.training.data import TrainingData, open_data
from diffusers_restore.training.loop import train
from diffusers_restore.training.prior import DDPMObjective, make_prior
from diffusers_restore.training.step import make_optimizers

RESULTS = Path(__file__).parent / "results"
PHOTOS = 128  # of 480 x 320 pixels, JPEG
# 5.2 million parameters each.
UNET: dict[str, Any] = {"network": "unet", "block_out_channels": (32, 64, 128, 160), "layers_per_block": (1,)}
RESIDUAL: dict[str, Any] = {
    "network": "residual",
    "block_out_channels": (64, 128, 160, 192),
    "layers_per_block": (3, 2, 2, 1),
}
KINDS = {
    "autocast": (UNET, "adamw"),
    "copy": (UNET, "adamw"),
    "residual": (RESIDUAL, "adamw"),
    "residual, Muon": (RESIDUAL, "muon"),
}
SHARES = {  # the first that is a part of the name of an operation, or of one that it belongs to
    "optimiser": ("Optimizer.step",),
    "casts and copies": ("casts", "aten::to", "aten::_to_copy", "aten::copy_", "aten::contiguous", "aten::clone"),
    "normalisation": ("GroupNorm", "group_norm"),
    "convolutions": ("convolution", "Convolution"),
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--train_batch_size", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=6, help="of each kind")
    parser.add_argument("--steps", type=int, default=8, help="in a block")
    parser.add_argument("--quick", action="store_true", help="small networks, few steps: does it run?")
    parser.add_argument("--output", type=Path, default=RESULTS / "training", help="result files, without their suffix")
    return parser.parse_args(argv)


def write_photos(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse, fine = (rng.integers(0, 256, (n, n + n // 2, 3), dtype=np.uint8) for n in (8, 80))
        pictures = [Image.fromarray(array).resize((480, 320), Image.Resampling.BICUBIC) for array in (coarse, fine)]
        Image.blend(pictures[0], pictures[1], 0.3).save(folder / f"{i:03}.jpg", quality=92)


@dataclass
class Bare:
    """A forward, backward and optimiser step on a batch that lies ready."""

    config: PriorConfig
    copied: bool

    def __post_init__(self) -> None:
        network, scheduler = make_prior(self.config)
        self.parameters = sum(one.numel() for one in network.parameters())
        self.copy = BFloat16Copy(network) if self.copied else None
        self.network: nn.Module = network.train().to(memory_format=torch.channels_last)
        if self.copy is not None:
            self.network = self.copy.network
        optimizers = make_optimizers(DDPMObjective(scheduler), {"unet": network}, {"unet": self.config.optimizer})
        self.optimizer = optimizers["unet"]
        shape = (self.config.training.train_batch_size, 3, self.config.data.resolution, self.config.data.resolution)
        torch.manual_seed(0)
        self.noisy, self.target = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2))
        self.timesteps = torch.randint(1000, shape[:1])

    def step(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            prediction: Tensor = self.network(self.noisy, self.timesteps).sample
        mse_loss(prediction.float(), self.target).backward()
        if self.copy is not None:
            with record_function("casts"):
                self.copy.pull_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.copy is not None:
            with record_function("casts"):
                self.copy.push_weights()

    def seconds(self, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            started = perf_counter()
            self.step()
            found.append(perf_counter() - started)
        return found

    def shares(self, steps: int) -> dict[str, float]:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(steps):
                self.step()
        sums = dict.fromkeys((*SHARES, "the rest"), 0.0)
        for event in profiled.events():
            sums[_share_of(event)] += event.self_cpu_time_total
        return {name: value / sum(sums.values()) for name, value in sums.items()}


def _share_of(event: Any) -> str:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    for share, words in SHARES.items():
        if any(word in name for name in names for word in words):
            return share
    return "the rest"


def loader(data: TrainingData, config: PriorConfig) -> Iterator[tuple[Tensor, ...]]:
    size = config.training.train_batch_size
    return data.batches(batch_size=size, accumulation=1, rank=0, world_size=1, first_step=0)


def loop_seconds(config: PriorConfig, steps: int, folder: Path) -> list[float]:
    """Seconds of a step of the whole loop, once in steady state."""
    network, scheduler = make_prior(config)
    training = replace(
        config.training,
        output_dir=str(folder),
        max_train_steps=2 * steps,
        logging_steps=steps,
        checkpointing_steps=2**30,
    )
    data = open_data(config.data, 0)
    for _ in itertools.islice(loader(data, config), 2 * steps):
        pass  # as in a long run, the pictures are in memory
    train(
        DDPMObjective(scheduler),
        {"unet": network},
        replace(data, validation=()),
        {"unet": config.optimizer},
        training,
        export=lambda networks, progress: None,
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds_per_step"] for line in lines if "loss" in line][1:]  # the first window warms up


def loader_rates(config: PriorConfig, batches: int) -> tuple[float, float]:
    """Pictures per second of the loader alone: in its first epoch, and later."""
    size = config.training.train_batch_size
    pictures = loader(open_data(config.data, 0), config)
    rates = []
    for _ in range(2):
        started = perf_counter()
        for _ in range(batches):
            next(pictures)
        rates.append(size * batches / (perf_counter() - started))
    return rates[0], rates[1]


def to_markdown(run: dict[str, Any], steps: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    shares = dict.fromkeys((*SHARES, "the rest"), ".0%")
    columns = {"step": "", "parameters": "", "seconds": ".3f", "pictures/s": ".1f", "ratio": ".2f", **shares}
    return "\n".join(
        [
            "# What a training step on a CPU is made of\n",
            "Forward, backward and optimiser step, one thread, in bfloat16. `autocast` is a UNet2DModel under autocast "
            "with AdamW, as the loop once did it; `copy` is the same by a bfloat16 copy beside float32 weights; "
            "`residual` is a ResidualUNet2DModel. The ratio is that of pictures per second to `autocast`.\n",
            markdown_table(steps, columns),
            "# What the training loop costs beside the network\n",
            "The loop's `step` against a `bare step` of the same network (`residual, Muon`), and the loader alone. "
            "Wanted: a ratio of at most 1.05, and a loader that is faster than the step.\n",
            markdown_table(rows, {"what": "", "value": ".3f"}),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    blocks, steps, photos = (2, 2, 8) if args.quick else (args.blocks, args.steps, PHOTOS)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        folder.mkdir()
        write_photos(folder, photos)
        values: dict[str, Any] = {
            "train_data_dir": str(folder),
            "resolution": args.resolution,
            "min_scale": 0.6,
            "max_scale": 1.2,
            "random_flip": True,
            "random_rotate": True,
            "validation_images": 0,
            "train_batch_size": args.train_batch_size,
            "mixed_precision": "bf16",
            "logger": "none",
        }
        small = {"block_out_channels": (16, 32), "layers_per_block": (1,), "resolution": 16} if args.quick else {}

        def config(network: dict[str, Any], optimizer: str) -> PriorConfig:
            built: PriorConfig = build(PriorConfig, {**values, **network, "optimizer": optimizer, **small})
            return built

        bare = {name: Bare(config(*kind), copied=name != "autocast") for name, kind in KINDS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in KINDS}
        loop: list[float] = []
        timed: Callable[[Bare], list[float]] = lambda one: one.seconds(steps + 1)[1:]  # noqa: E731  # the first warms up
        for block in tqdm(range(blocks), desc="blocks", leave=False):
            for name, one in bare.items():
                seconds[name] += timed(one)
            loop += loop_seconds(config(*KINDS["residual, Muon"]), steps, Path(scratch) / str(block))
        first, later = loader_rates(config(*KINDS["residual, Muon"]), photos // args.train_batch_size or 1)
        size = args.train_batch_size
        table = [
            {
                "step": name,
                "parameters": f"{one.parameters / 1e6:.2f} M",
                "seconds": median(seconds[name]),
                "pictures/s": size / median(seconds[name]),
                "ratio": median(seconds["autocast"]) / median(seconds[name]),
                **one.shares(steps),
            }
            for name, one in bare.items()
        ]
    taken = size / median(loop)
    rows = [
        {"what": "bare step, seconds", "value": median(seconds["residual, Muon"])},
        {"what": "step of the loop, seconds", "value": median(loop)},
        {"what": "loop / bare", "value": median(loop) / median(seconds["residual, Muon"])},
        {"what": "pictures per second that the step takes", "value": taken},
        {"what": "pictures per second of the loader alone, first epoch", "value": first},
        {"what": "pictures per second of the loader alone, later", "value": later},
        {"what": "loader, first epoch / step", "value": first / taken},
        {"what": "loader, later / step", "value": later / taken},
    ]
    run = {
        **how_it_was_run("benchmarks/training.py", argv),
        "batch": f"{args.train_batch_size} x {args.resolution} px",
        "blocks": f"{blocks} of {steps} steps of each kind, by turns",
    }
    text = to_markdown(run, table, rows)
    written = write_report(args.output, {"run": run, "steps": table, "rows": rows}, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main()
