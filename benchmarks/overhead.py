#!/usr/bin/env python3
"""Measure what DDRM and RDDM cost beside the network.

    python benchmarks/overhead.py

(a) The time of a whole pipeline call over the time within its network, for each task of DDRM and for RDDM, in float32
and in bfloat16. Wanted: at most 1.02 at 256 px and 1.05 at 64 px. (b) One update of DDRM without a network, its noise
included, over its floor: drawing that noise, one pass over the picture and, for operators that live in another basis,
one transform of the picture and back: the plain real FFT for those of a Fourier basis, the operator's own for the
others. Wanted: at most 1.3, and 2 where the floor is the operator's own transforms. (c) The same updates by
torch.compile, which needs a C++ compiler. All by turns, least, median and largest of three runs. (d) What updates with
noise are made of, by torch's profiler; --profile measures that alone anew, and keeps the rest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import DDRMPipeline, RDDMPipeline, RDDMScheduler, operators
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.models.growing import grow_unet
from diffusers_restore.operators import BlurDecimate, CircularBlur, CompressedSensing, Separable, SymmetricBlur
from diffusers_restore.pipelines import precision
from diffusers_restore.schedulers.scheduling_ddrm import ddrm_update

# One task for each family of operators; the others differ in their numbers only.
TASKS = (
    "denoise",
    "inpaint-random",
    "colorize",
    "sr4",
    "sr-bicubic4",
    "sr-blur4",
    "cs4",
    "deblur-gauss",
    "deblur-motion",
)
FOURIER = (BlurDecimate, CircularBlur, SymmetricBlur)
OWN = (Separable, CompressedSensing)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WANTED_CALL = {64: 1.05, 256: 1.02}
WANTED_UPDATE = {"own": 2.0}
RUNS = 3
RESULTS = Path(__file__).parent / "results"


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=diffusers_restore.DEFAULT_PRIOR, help="prior: a folder or a Hub repository")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=sorted(operators.TASKS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="measure (d) alone, keep the rest")
    parser.add_argument("--quick", action="store_true", help="small pictures, few repetitions: does it run?")
    parser.add_argument("--output", type=Path, default=RESULTS / "overhead", help="result files, without their suffix")
    return parser.parse_args(argv)


def seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


class Stopwatch:
    """Adds up the time within a network."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.forward, self.seconds = unet.forward, 0.0
        unet.forward = self

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        began = perf_counter()
        result = self.forward(*inputs, **options)
        self.seconds += perf_counter() - began
        return result


def spread(ratios: Sequence[float]) -> dict[str, float]:
    return {"ratio": median(ratios), "min": min(ratios), "max": max(ratios)}


def call_row(call: Callable[[torch.Generator], object], watch: Stopwatch, steps: int) -> dict[str, float]:
    """Whole call over network, and milliseconds of each step; a first call warms up."""
    ratios, rest, network = [], [], []
    for run in range(RUNS + 1):
        watch.seconds = 0.0
        total = seconds(lambda run=run: call(torch.Generator().manual_seed(run)))  # type: ignore[misc]
        if run > 0:
            ratios.append(total / watch.seconds)
            rest.append(1000 * (total - watch.seconds) / steps)
            network.append(1000 * watch.seconds / steps)
    return {**spread(ratios), "network ms": median(network), "rest ms": median(rest)}


def ddrm_row(pipe: DDRMPipeline, watch: Stopwatch, task: str, size: int, steps: int) -> dict[str, Any]:
    operator = operators.create(task, image_shape=(3, size, size))
    y = operators.measure(operator, torch.rand(1, 3, size, size) * 2 - 1, 0.05).y

    def call(generator: torch.Generator) -> None:
        pipe(y, operator=operator, sigma_y=0.05, num_inference_steps=steps, generator=generator, output_type="latent")

    return call_row(call, watch, steps)


def rddm_row(unet: UNet2DModel, size: int, steps: int) -> dict[str, Any]:
    """The same network, shown the degraded picture too."""
    pipe = RDDMPipeline(grow_unet(unet, 6, 3), RDDMScheduler())
    precision.lay_out(pipe)
    pipe.set_progress_bar_config(disable=True)
    degraded = torch.rand(1, 3, size, size) * 2 - 1

    def call(generator: torch.Generator) -> None:
        pipe(degraded, num_inference_steps=steps, generator=generator, output_type="latent")

    return call_row(call, Stopwatch(pipe.unet), steps)


def load(model: str, dtype: str) -> DDRMPipeline:
    pipe = DDRMPipeline.from_pretrained(model, dtype=DTYPES[dtype])
    precision.lay_out(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def update_row(task: str, size: int, sigma_y: float, repeats: int, update_of: Any = ddrm_update) -> dict[str, Any]:
    operator = operators.create(task, image_shape=(3, size, size))
    shape = (1, 3, size, size)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator) * 2 - 1
    measurement = operators.measure(operator, x, sigma_y, generator)
    x0_hat, epsilon_hat = x + 0.1 * torch.randn(shape), torch.randn(shape)
    what = "FFT" if isinstance(operator, FOURIER) else "own" if isinstance(operator, OWN) else ""

    def update() -> None:
        update_of(x0_hat, epsilon_hat, randn_tensor(shape, generator=generator), measurement, sigma_next=0.5)

    def floor() -> None:
        randn_tensor(shape, generator=generator).add_(x0_hat)
        if what == "FFT":
            torch.fft.irfft2(torch.fft.rfft2(x0_hat), s=shape[2:])
        elif what == "own":
            operator.v(operator.vt(x0_hat))

    update(), floor()
    ratios, ours, least = [], [], []
    for _ in range(RUNS):
        pairs = [(seconds(update), seconds(floor)) for _ in range(repeats)]
        one, other = (1000 * median(times) for times in zip(*pairs, strict=True))
        ratios.append(one / other)
        ours.append(one)
        least.append(other)
    return {
        "operator": operator.kind,
        "pixels": size,
        "sigma_y": sigma_y,
        **spread(ratios),
        "wanted": WANTED_UPDATE.get(what, 1.3),
        "update ms": median(ours),
        "floor ms": median(least),
        "floor": "noise, one pass" + (f", {what} pair" if what else ""),
    }


PARTS = {
    "noise": ("aten::normal_",),
    "transforms": ("aten::_fft", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
    "copies and flips": ("aten::copy_", "aten::flip", "aten::cat", "aten::fill_", "aten::repeat", "aten::index"),
    "arithmetic": ("aten::mul", "aten::add", "aten::sub", "aten::div", "aten::where", "aten::sqrt", "aten::sum"),
}


def profile_row(task: str, size: int, sigma_y: float = 0.05, repeats: int = 20) -> dict[str, Any]:
    """Shares of the time of an update with noise; transforms by their number, too."""
    operator, shape = operators.create(task, image_shape=(3, size, size)), (1, 3, size, size)
    x = torch.rand(shape) * 2 - 1
    measurement = operators.measure(operator, x, sigma_y)

    def update() -> None:
        ddrm_update(x, x, randn_tensor(shape), measurement, sigma_next=0.5)

    update()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(repeats):
            update()
    spent = dict.fromkeys([*PARTS, "the rest"], 0.0)
    for event in watched.key_averages():
        part = next((part for part, names in PARTS.items() if event.key.startswith(names)), "the rest")
        spent[part] += event.self_cpu_time_total / 1000 / repeats
    whole = sum(spent.values())
    ffts = sum(event.count for event in watched.key_averages() if event.key.startswith("aten::_fft")) / repeats
    return {
        "operator": operator.kind,
        "pixels": size,
        "ms": whole,
        **{part: time / whole for part, time in spent.items()},
        "FFTs": round(ffts),
    }


def met(rows: Sequence[dict[str, Any]]) -> str:
    good = sum(row["ratio"] <= row["wanted"] for row in rows)
    missed = [" ".join(str(value) for value in row.values() if not isinstance(value, float)) for row in rows]
    missed = [name for name, row in zip(missed, rows, strict=True) if row["ratio"] > row["wanted"]]
    return f"**{good} of {len(rows)} within what is wanted.**" + (f" Above it: {'; '.join(missed)}." if missed else "")


def to_markdown(
    run: dict[str, Any],
    calls: list[dict[str, Any]],
    updates: list[dict[str, Any]],
    compiled: list[dict[str, Any]],
    profiles: list[dict[str, Any]],
) -> str:
    def formats(row: dict[str, Any]) -> dict[str, str]:
        digits = {"ratio": ".3f", "min": ".3f", "max": ".3f"}
        return {name: digits.get(name, ".2f") if isinstance(value, float) else "" for name, value in row.items()}

    parts = [
        "# What DDRM and RDDM cost beside the network\n",
        "## A whole call over its network\n\nMilliseconds are those of one step. `ratio` is the median of "
        f"{RUNS} runs, with the least and the largest.\n\n{met(calls)}\n",
        markdown_table(calls, formats(calls[0])),
        "## One update over its floor\n\nNo network; the update's noise is drawn within. The floor is drawing that "
        "noise and one pass over the picture, with a transform of it and back: a plain real FFT for operators of a "
        "Fourier basis, the operator's own for the others. With noise and many singular values, DDRM's three rules "
        "differ from coefficient to coefficient, so that the estimate, the noise and, where a part isn't measured, the "
        "network's noise each need a transform of their own: three or four in place of the floor's two. A cosine "
        "transform by way of a real FFT reorders the picture, too.\n\n" + met(updates) + "\n",
        markdown_table(updates, formats(updates[0])),
    ]
    if compiled:
        parts += [
            "## By torch.compile\n\nThe same updates, each compiled for its size.\n",
            markdown_table(compiled, formats(compiled[0])),
        ]
    shares = dict.fromkeys([*PARTS, "the rest"], ".0%")
    parts += [
        "## What an update with noise is made of\n\nShares of its time, by torch's profiler, which slows small ones "
        "down; a real FFT and its inverse count as one each.\n",
        markdown_table(profiles, formats(profiles[0]) | {"ms": ".2f", "FFTs": "d"} | shares),
    ]
    parts += ["## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n"]
    return "\n".join(parts)


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    torch.set_num_threads(1)
    if args.profile:
        kept = json.loads(args.output.with_suffix(".json").read_text())
        write(args.output, **{**kept, "profiles": profiles_of(args.tasks, args.quick)})
        return
    sizes, steps = ((32,), 2) if args.quick else ((64, 256), args.steps)
    calls: list[dict[str, Any]] = []
    for dtype in DTYPES:
        pipe, plain = load(args.model, dtype), load(args.model, dtype).unet
        watch = Stopwatch(pipe.unet)
        for size in sizes:
            for task in tqdm([*args.tasks, "RDDM"], desc=f"{dtype}, {size} px", leave=False):
                row = (
                    rddm_row(plain, size, min(5, steps)) if task == "RDDM" else ddrm_row(pipe, watch, task, size, steps)
                )
                calls.append(
                    {"task": task, "dtype": dtype, "pixels": size, **row, "wanted": WANTED_CALL.get(size, 1.0)}
                )
    sizes_of_updates = ((32, 2),) if args.quick else ((256, 21), (512, 11), (1024, 7))
    kinds = [(task, size, s, n) for size, n in sizes_of_updates for task in args.tasks for s in (0.0, 0.05)]
    updates = [update_row(*case) for case in tqdm(kinds, desc="update", leave=False)]
    compiled = []
    if not args.quick and (shutil.which("c++") or shutil.which("g++")):
        for task, size, s, n in tqdm([one for one in kinds if one[2] > 0], desc="compiled", leave=False):
            torch.compiler.reset()
            eager = update_row(task, size, s, n)
            faster = update_row(task, size, s, n, torch.compile(ddrm_update, dynamic=False))
            compiled.append(
                {
                    "operator": eager["operator"],
                    "pixels": size,
                    "compiled / eager": faster["update ms"] / eager["update ms"],
                    "eager ms": eager["update ms"],
                    "compiled ms": faster["update ms"],
                }
            )
    run = {**how_it_was_run("benchmarks/overhead.py", argv), "steps": f"{steps}, of RDDM {min(5, steps)}"}
    profiles = profiles_of(args.tasks, args.quick)
    write(args.output, run=run, calls=calls, updates=updates, compiled=compiled, profiles=profiles)


def profiles_of(tasks: Sequence[str], quick: bool) -> list[dict[str, Any]]:
    return [profile_row(task, size) for size in ((32,) if quick else (256, 1024)) for task in tasks]


def write(output: Path, **report: Any) -> None:
    text = to_markdown(**report)
    print(text)
    print("written: " + ", ".join(str(path) for path in write_report(output, report, text)))


if __name__ == "__main__":
    main()
