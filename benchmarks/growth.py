#!/usr/bin/env python3
"""Measure how time and memory grow: with pixels, steps, pictures of a batch, samples, and of each operator.

    python benchmarks/growth.py

One thread; a process for each point, whose peak is what it held at most beyond what it held when the model was loaded.
The prior in bfloat16: denoising by DDRM of a square picture (two steps), super-resolution of 128 px for the rest.
Operators without a network: seconds to make them, and milliseconds and memory of one update of DDRM, noise included.
Then, on paper, what training and restoring take on many GPUs. Results: benchmarks/results/growth.{json,md}; the curves
are drawn by benchmarks/performance.py. Points that were measured are kept: --anew forgets them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from gpu import CELEBAHQ
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import DDRMPipeline, operators
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.pipelines import precision
from diffusers_restore.schedulers.scheduling_ddrm import ddrm_update

RESULTS = Path(__file__).parent / "results"
SIDES = (256, 512, 1024, 2048, 4096)
AXES: dict[str, tuple[int, ...]] = {
    "pixels": SIDES,
    "steps": (5, 10, 20, 50, 100),
    "batch": (1, 2, 4, 8, 16),
    "samples": (1, 2, 4, 8, 16),
}
OPERATORS = (
    *("denoise", "inpaint-random", "colorize", "sr4", "sr-bicubic4", "sr-blur4", "cs4", "deblur-gauss"),
    "deblur-motion",
)
SIDE = 128
TILE = 1024
COLUMNS = {"axis": "", "value": "d", "s": ".2f", "peak, MB": ".0f"}
OPERATOR_COLUMNS = {"task": "", "side": "d", "set-up, s": ".3f", "update, ms": ".1f", "peak, MB": ".0f"}

# On paper: bytes per second of links, one direction; sustained floating-point operations per second in bfloat16.
LINKS = {"NVLink 4": 450e9, "PCIe 4.0 x16": 25e9, "Ethernet, 100 Gbit/s": 12.5e9, "Ethernet, 10 Gbit/s": 1.25e9}
SUSTAINED = 2e14
"""Operations per second of one GPU: a fifth of what an H100 promises in bfloat16, as convolutions reach."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=SIDES[-1], help="side of the largest picture")
    parser.add_argument("--anew", action="store_true", help="forget the points that were measured")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "VALUE"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "growth", help="result files, without their suffix")
    return parser.parse_args(argv)


class Peak:
    """The most that this process holds from now on beyond what it holds now, in MB (Linux)."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the largest size so far
        self._before = self._read("VmRSS")

    @staticmethod
    def _read(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6

    @property
    def megabytes(self) -> float:
        return self._read("VmHWM") - self._before


def measure_call(axis: str, value: int) -> dict[str, Any]:
    """One call of the prior, in this process."""
    pipe = DDRMPipeline.from_pretrained(diffusers_restore.DEFAULT_PRIOR, dtype=torch.bfloat16)
    precision.lay_out(pipe)
    pipe.set_progress_bar_config(disable=True)
    task, side, steps, batch, samples = "sr4", SIDE, 10, 1, 1
    if axis == "pixels":
        task, side, steps = "denoise", value, 2
        if side > TILE:
            pipe.enable_tiling(TILE)
    elif axis == "steps":
        steps = value
    elif axis == "batch":
        batch = value
    else:
        samples = value
    operator = operators.create(task, image_shape=(3, side, side))
    y = operator.forward(torch.rand(batch, 3, side, side) * 2 - 1)

    def call(steps: int) -> None:
        pipe(
            y,
            operator=operator,
            sigma_y=0.05,
            num_inference_steps=steps,
            num_images_per_input=samples,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        )

    if axis != "pixels":
        call(2)
    peak, began = Peak(), perf_counter()
    call(steps)
    return {"s": perf_counter() - began, "peak, MB": peak.megabytes}


def measure_operator(task: str, side: int) -> dict[str, Any]:
    """One operator, in this process."""
    shape, generator = (1, 3, side, side), torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator) * 2 - 1
    peak, began = Peak(), perf_counter()
    operator = operators.create(task, image_shape=shape[1:])
    measurement = operators.measure(operator, x, 0.05, generator)
    measurement.y_bar  # noqa: B018  # made once, when it is first asked for
    setup = perf_counter() - began
    ddrm_update(x, x, randn_tensor(shape, generator=generator), measurement, sigma_next=0.5)
    times = []
    for _ in range(3):
        began = perf_counter()
        ddrm_update(x, x, randn_tensor(shape, generator=generator), measurement, sigma_next=0.5)
        times.append(perf_counter() - began)
    return {"set-up, s": setup, "update, ms": 1000 * min(times), "peak, MB": peak.megabytes}


def points(largest: int) -> Iterator[tuple[str, int]]:
    """Everything that there is to measure: an axis or a task, and its value."""
    for axis, values in AXES.items():
        yield from ((axis, value) for value in values if axis != "pixels" or value <= largest)
    yield from ((task, side) for task in OPERATORS for side in SIDES if side <= largest)


def measure(what: str, value: int) -> dict[str, Any]:
    """A point, in a process of its own."""
    command = [sys.executable, __file__, "--one", what, str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def on_paper() -> list[dict[str, Any]]:
    """What two networks ask of many GPUs: computed, and not measured."""
    prior = DDRMPipeline.from_pretrained(diffusers_restore.DEFAULT_PRIOR).unet
    with torch.device("meta"):
        networks = {
            "the bundled prior": type(prior)(**{k: v for k, v in prior.config.items() if not k.startswith("_")}),
            "that of google/ddpm-celebahq-256": UNet2DModel(**CELEBAHQ),
        }
    rows = []
    for name, network in networks.items():
        parameters = sum(one.numel() for one in network.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, 256, 256, device="meta"), torch.zeros(1, device="meta"))
        forward = counter.get_total_flops()
        row: dict[str, Any] = {
            "network": name,
            "parameters, M": parameters / 1e6,
            "GFLOP of a picture of 256 px": forward / 1e9,
            "training, MB of gradients per step": 4 * parameters / 1e6,
            "s per step, 16 pictures": 3 * 16 * forward / SUSTAINED,
            "pictures per hour and GPU, 20 evaluations": 3600 * SUSTAINED / (20 * forward),
        }
        for link, speed in LINKS.items():  # a ring sends almost twice all gradients over each link
            row[f"ms per step over {link}"] = 1000 * 2 * 4 * parameters / speed
        rows.append(row)
    return rows


def to_markdown(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], paper: Sequence[Mapping[str, Any]]) -> str:
    calls = [row for row in rows if "axis" in row]
    of_operators = [row for row in rows if "task" in row]
    facts = [{"": name, **{str(row["network"]): row[name] for row in paper}} for name in paper[0] if name != "network"]
    formats: dict[str, str] = {"": ""} | {str(row["network"]): ",.3g" for row in paper}
    return "\n".join(
        [
            "# How time and memory grow\n",
            "One thread, bfloat16, the bundled prior. `pixels`: the side of a square picture that is denoised by DDRM "
            f"in two steps, above {TILE} px in tiles; the rest: super-resolution x4 of {SIDE} px in ten steps. `peak` "
            "is what the process held at most beyond what it held before the call.\n",
            markdown_table(calls, COLUMNS),
            "## Operators\n\nSeconds to make one with its measurement, milliseconds of one update of DDRM with noise, "
            "and what the process held at most, beyond the picture.\n",
            markdown_table(of_operators, OPERATOR_COLUMNS),
            "## On paper: many GPUs\n\nNothing here was measured. Operations are counted; a GPU is taken to sustain "
            f"{SUSTAINED:.0e} of them per second, and a step of training to take three times those of restoring. "
            "Gradients are averaged in float32 by a ring, which sends nearly twice their bytes over each link. Where "
            "a step takes longer than the link, more GPUs cost no time, since gradients travel while others are "
            "computed. Restoring sends nothing but pictures.\n",
            markdown_table(facts, formats),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    if args.one:
        torch.set_num_threads(1)
        what, value = args.one[0], int(args.one[1])
        of: Callable[[str, int], dict[str, Any]] = measure_call if what in AXES else measure_operator
        with torch.no_grad():
            print(json.dumps(of(what, value)))
        return
    file = args.output.with_suffix(".json")
    known = json.loads(file.read_text())["rows"] if file.exists() and not args.anew else []
    measured = {(row.get("axis") or row["task"], row.get("value") or row["side"]): row for row in known}
    paper, wanted = on_paper(), list(points(args.largest))
    run = how_it_was_run("benchmarks/growth.py", argv)
    for what, value in tqdm(wanted):
        if (what, value) not in measured:
            head = {"axis": what, "value": value} if what in AXES else {"task": what, "side": value}
            measured[what, value] = head | measure(what, value)
        rows = [measured[key] for key in points(SIDES[-1]) if key in measured]
        text = to_markdown(run, rows, paper)
        write_report(args.output, {"run": run, "rows": rows, "paper": paper}, text)
    print(text)


if __name__ == "__main__":
    main()
