#!/usr/bin/env python3
"""Measure what evaluating a prior in bfloat16 on a CPU costs in quality and gives in time.

    python benchmarks/precision.py

For the pictures and the tasks of benchmarks/quality.py (centre crops of 128 px, 20 steps, the same noise): PSNR of one
sample of DDRM in float32 and in bfloat16 with channels_last, as the command line chooses it. Wanted: means within 0.03
dB. And the time of one evaluation of the network at 256 px with one thread, in each precision and memory layout.
Results go to benchmarks/results/precision.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch
from quality import ETAS, TASKS, load_pictures, measured, seeded
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import DDRMPipeline
from diffusers_restore.evaluation.metrics import psnr
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.pipelines.precision import lay_out

RESULTS = Path(__file__).parent / "results"
SIDE, REPEATS = 256, 7
LAYOUTS = {"": torch.contiguous_format, " channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=diffusers_restore.DEFAULT_PRIOR, help="prior: a folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/testsets"), help="folder with the zips")
    parser.add_argument("--limit", type=int, help="only the first N pictures of each set")
    parser.add_argument("--crop", type=int, default=128, help="side of the centre crop")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "precision", help="result files, without their suffix")
    return parser.parse_args(argv)


def quality(args: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """The rows of the tasks, and the number of pictures."""
    pictures = load_pictures(args.data, args.crop, args.limit)
    pipes = {name: DDRMPipeline.from_pretrained(args.model, dtype=dtype) for name, dtype in DTYPES.items()}
    for pipe in pipes.values():
        lay_out(pipe)
        pipe.set_progress_bar_config(disable=True)
    rows = []
    with tqdm(total=len(TASKS) * len(ETAS) * len(pictures)) as bar:
        for task in TASKS:
            for eta in ETAS:
                found: dict[str, list[float]] = {name: [] for name in DTYPES}
                for picture in pictures:
                    measurement = measured(task, picture, args.seed)
                    for name, pipe in pipes.items():
                        (restored,) = pipe(
                            measurement.y,
                            operator=measurement.operator,
                            sigma_y=measurement.sigma_y,
                            num_inference_steps=args.steps,
                            eta=eta,
                            generator=seeded(args.seed, picture.index, 1),
                            output_type="latent",
                        ).images
                        found[name].append(psnr(restored, picture.x[0]))
                    bar.update()
                means = {name: mean(values) for name, values in found.items()}
                difference = means["bfloat16"] - means["float32"]
                rows.append({"task": task, "eta": eta, **means, "difference": difference})
    return rows, len(pictures)


@torch.no_grad()
def times(model: str) -> list[dict[str, Any]]:
    """Milliseconds of one evaluation, by turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, networks = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), {}
    for name, dtype in DTYPES.items():
        for layout, memory_format in LAYOUTS.items():
            network = DDRMPipeline.from_pretrained(model, dtype=dtype).unet
            networks[name + layout] = network.to(memory_format=memory_format)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(1 + REPEATS):
        for name, network in networks.items():
            begin = perf_counter()
            network(x.to(network.dtype), 500)
            seconds[name].append(perf_counter() - begin)
    torch.set_num_threads(threads)
    return [{"network": name, "ms": 1000 * median(values[1:])} for name, values in seconds.items()]


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    evaluations = times(args.model)
    rows, count = quality(args)
    run = how_it_was_run("benchmarks/precision.py", argv)
    text = "\n".join(
        [
            "# bfloat16 on a CPU\n",
            "Mean PSNR in dB of one sample of DDRM with the bundled prior, network in float32 and in bfloat16, the "
            f"same noise; {count} centre crops of {args.crop} px. Wanted: at most 0.03 apart.\n",
            markdown_table(
                rows,
                {"task": "", "eta": "g", "float32": ".3f", "bfloat16": ".3f", "difference": "+.3f"},
            ),
            f"One evaluation of the network at {SIDE} px, one thread:\n",
            markdown_table(evaluations, {"network": "", "ms": ".0f"}),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )
    written = write_report(args.output, {"run": run, "tasks": rows, "evaluations": evaluations}, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main()
