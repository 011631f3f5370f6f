#!/usr/bin/env python3
"""Measure what the training loop costs beside the network, and whether data keep up.

    python benchmarks/training.py

(a) The time of a step of `diffusers-restore train prior` (reading and cropping pictures, noise, forward, backward,
clipping, optimiser, running average, logging) over a bare forward, backward and optimiser step of the same network on a
batch that lies ready. Blocks of both by turns, in one process; medians. Wanted: at most 1.05.
(b) Pictures per second of the loader alone, in its first epoch (files are read) and later (they are in memory), over
what the step takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import mse_loss
from tqdm import tqdm

from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.training.config import PriorConfig, build
from diffusers_restore.training.data import TrainingData, open_data
from diffusers_restore.training.loop import make_accelerator, make_optimizers, train
from diffusers_restore.training.objectives import DDPMObjective
from diffusers_restore.training.prior import make_prior

RESULTS = Path(__file__).parent / "results"
PHOTOS = 128  # of 480 x 320 pixels, JPEG


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--train_batch_size", type=int, default=16)
    parser.add_argument("--mixed_precision", choices=["no", "bf16"], default="bf16")
    parser.add_argument("--blocks", type=int, default=6, help="of each kind")
    parser.add_argument("--steps", type=int, default=8, help="in a block")
    parser.add_argument("--quick", action="store_true", help="a small network, few steps: does it run?")
    parser.add_argument("--output", type=Path, default=RESULTS / "training", help="result files, without their suffix")
    return parser.parse_args(argv)


def write_photos(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse, fine = (rng.integers(0, 256, (n, n + n // 2, 3), dtype=np.uint8) for n in (8, 80))
        pictures = [Image.fromarray(array).resize((480, 320), Image.Resampling.BICUBIC) for array in (coarse, fine)]
        Image.blend(pictures[0], pictures[1], 0.3).save(folder / f"{i:03}.jpg", quality=92)


def bare_seconds(config: PriorConfig, steps: int) -> list[float]:
    """Seconds of each forward, backward and optimiser step on one batch that lies ready."""
    device = make_accelerator(config.training).device
    unet, scheduler = make_prior(config)
    unet = unet.train().to(device, memory_format=torch.channels_last)
    (optimizer,) = make_optimizers(DDPMObjective(scheduler), {"unet": unet}, {"unet": config.optimizer}).values()
    shape = (config.training.train_batch_size, 3, config.data.resolution, config.data.resolution)
    noisy, target = (torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last) for _ in range(2))
    timesteps = torch.randint(1000, shape[:1], device=device)
    seconds = []
    for _ in range(steps + 1):
        started = perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.training.mixed_precision == "bf16"):
            prediction = unet(noisy, timesteps).sample
        loss = mse_loss(prediction.float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        seconds.append(perf_counter() - started)
    return seconds[1:]  # the first warms up


def loader(data: TrainingData, config: PriorConfig) -> Iterator[tuple[torch.Tensor, ...]]:
    size = config.training.train_batch_size
    return data.batches(batch_size=size, accumulation=1, rank=0, world_size=1, first_step=0)


def loop_seconds(config: PriorConfig, steps: int, folder: Path) -> list[float]:
    """Seconds of a step of the whole loop, once in steady state."""
    unet, scheduler = make_prior(config)
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
        {"unet": unet},
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


def to_markdown(run: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        [
            "# What the training loop costs beside the network\n",
            "The loop's `step` against a `bare step` of the same network, and the loader alone. Wanted: a ratio of at "
            "most 1.05, and a loader that is faster than the step.\n",
            markdown_table(rows, {"what": "", "value": ".3f"}),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    blocks, steps, photos = (2, 2, 8) if args.quick else (args.blocks, args.steps, PHOTOS)
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
            "mixed_precision": args.mixed_precision,
            "logger": "none",
        }
        if args.quick:
            values |= {"block_out_channels": (16, 32), "resolution": 16}
        config: PriorConfig = build(PriorConfig, values)
        bare, loop = [], []
        for block in tqdm(range(blocks), desc="blocks", leave=False):
            bare += bare_seconds(config, steps)
            loop += loop_seconds(config, steps, Path(scratch) / str(block))
        first, later = loader_rates(config, photos // args.train_batch_size or 1)
    taken = args.train_batch_size / median(loop)
    rows = [
        {"what": "bare step, seconds", "value": median(bare)},
        {"what": "step of the loop, seconds", "value": median(loop)},
        {"what": "loop / bare", "value": median(loop) / median(bare)},
        {"what": "pictures per second that the step takes", "value": taken},
        {"what": "pictures per second of the loader alone, first epoch", "value": first},
        {"what": "pictures per second of the loader alone, later", "value": later},
        {"what": "loader, first epoch / step", "value": first / taken},
        {"what": "loader, later / step", "value": later / taken},
    ]
    run = {
        **how_it_was_run("benchmarks/training.py", argv),
        "network": "5.2 million parameters, the default of train prior" if not args.quick else "tiny",
        "precision": args.mixed_precision,
        "batch": f"{args.train_batch_size} x {config.data.resolution} px",
        "blocks": f"{blocks} of {steps} steps of each kind, by turns",
    }
    text = to_markdown(run, rows)
    written = write_report(args.output, {"run": run, "rows": rows}, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main()
