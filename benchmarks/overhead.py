#!/usr/bin/env python3
"""Measure what DDRM and RDDM cost beside the network.

    python benchmarks/overhead.py

(a) The time of a whole pipeline call over (steps x the time of the network), for each task of DDRM and for RDDM. Within
the call, each evaluation of the network is repeated with the same inputs, before or after by turns; the repetitions are
the network's time, and what is left is the pipeline's. Wanted: at most 1.05.
(b) One update without a network, its noise included, over its floor: drawing that noise, and for operators that live
in a Fourier basis also one FFT of the picture and back. Both by turns; medians. Wanted: at most 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import DDRMPipeline, RDDMPipeline, RDDMScheduler, operators
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.models.growing import grow_unet
from diffusers_restore.operators import BlurDecimate, CircularBlur, SymmetricBlur
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
RESULTS = Path(__file__).parent / "results"


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=diffusers_restore.DEFAULT_PRIOR, help="prior: a folder or a Hub repository")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=sorted(operators.TASKS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3, help="pipeline calls for each task and size")
    parser.add_argument("--quick", action="store_true", help="small pictures, few repetitions: does it run?")
    parser.add_argument("--output", type=Path, default=RESULTS / "overhead", help="result files, without their suffix")
    return parser.parse_args(argv)


class Probe:
    """Repeats every evaluation of a network, before or after its own by turns, and times both."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.forward, self.repeated, self.own = unet.forward, [], []
        unet.forward = self

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        order = (self.repeated, self.own) if len(self.own) % 2 else (self.own, self.repeated)
        for seconds in order:
            started = perf_counter()
            result = self.forward(*inputs, **options)
            seconds.append(perf_counter() - started)
        return result

    def clear(self) -> None:
        self.repeated.clear()
        self.own.clear()


def pipeline_row(pipe: DDRMPipeline, probe: Probe, task: str, size: int, steps: int, repeats: int) -> dict[str, Any]:
    operator = operators.create(task, image_shape=(3, size, size))
    y = operators.measure(operator, torch.rand(1, 3, size, size) * 2 - 1, 0.05).y

    def call(generator: torch.Generator) -> None:
        pipe(y, operator=task, sigma_y=0.05, num_inference_steps=steps, generator=generator, output_type="latent")

    return {"task": task, "pixels": size, **timed(call, probe, steps, repeats)}


def rddm_row(unet: UNet2DModel, size: int, steps: int, repeats: int) -> dict[str, Any]:
    """The same network, shown the degraded picture too."""
    pipe = RDDMPipeline(grow_unet(unet, 6, 3), RDDMScheduler())
    pipe.set_progress_bar_config(disable=True)
    degraded = torch.rand(1, 3, size, size) * 2 - 1

    def call(generator: torch.Generator) -> None:
        pipe(degraded, num_inference_steps=steps, generator=generator, output_type="latent")

    return {"task": "RDDM", "pixels": size, **timed(call, Probe(pipe.unet), steps, repeats)}


def timed(call: Callable[[torch.Generator], None], probe: Probe, steps: int, repeats: int) -> dict[str, float]:
    ratios, rest = [], []
    for repeat in range(repeats + 1):
        probe.clear()
        started = perf_counter()
        call(torch.Generator().manual_seed(repeat))
        total = perf_counter() - started
        if repeat > 0:  # the first call warms up
            ratios.append((total - sum(probe.repeated)) / sum(probe.repeated))
            rest.append(1000 * (total - sum(probe.repeated) - sum(probe.own)) / steps)
    network = 1000 * median(probe.repeated)
    return {
        "ratio": median(ratios),
        "network ms": network,
        "rest ms per step": median(rest),
        "1 + rest / network": 1 + median(rest) / network,
    }


def update_row(task: str, size: int, sigma_y: float, repeats: int) -> dict[str, Any]:
    operator = operators.create(task, image_shape=(3, size, size))
    shape = (1, 3, size, size)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator) * 2 - 1
    measurement = operators.measure(operator, x, sigma_y, generator)
    x0_hat, epsilon_hat = x + 0.1 * torch.randn(shape), torch.randn(shape)
    fourier = isinstance(operator, FOURIER)

    def update() -> None:
        ddrm_update(x0_hat, epsilon_hat, randn_tensor(shape, generator=generator), measurement, sigma_next=0.5)

    def floor() -> None:
        randn_tensor(shape, generator=generator)
        if fourier:
            torch.fft.irfft2(torch.fft.rfft2(x0_hat), s=shape[2:])

    def milliseconds(work: Callable[[], None]) -> float:
        started = perf_counter()
        work()
        return 1000 * (perf_counter() - started)

    update(), floor()
    pairs = [(milliseconds(update), milliseconds(floor)) for _ in range(repeats)]
    ours, least = (median(times) for times in zip(*pairs, strict=True))
    return {
        "operator": operator.kind,
        "pixels": size,
        "sigma_y": sigma_y,
        "ratio": ours / least,
        "update ms": ours,
        "floor ms": least,
        "floor": "randn + FFT pair" if fourier else "randn",
    }


def to_markdown(run: dict[str, Any], pipeline: list[dict[str, Any]], update: list[dict[str, Any]]) -> str:
    def formats(row: dict[str, Any]) -> dict[str, str]:
        digits = {"ratio": ".3f", "1 + rest / network": ".3f"}
        return {name: digits.get(name, ".2f") if isinstance(value, float) else "" for name, value in row.items()}

    return "\n".join(
        [
            "# What DDRM and RDDM cost beside the network\n",
            "## Pipeline time / (steps x network time)\n\nWanted: at most 1.05. `ratio` is timed within each call; "
            "`rest` is all that is not the network.\n",
            markdown_table(pipeline, formats(pipeline[0])),
            "## One update over its floor\n\nNo network; the update's noise is drawn within. Wanted: at most 2.\n",
            markdown_table(update, formats(update[0])),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    sizes, steps, repeats = ((32,), 2, 1) if args.quick else ((64, 256), args.steps, args.repeats)
    updates = ((32, 2),) if args.quick else ((256, 21), (512, 11), (1024, 7))
    pipe = DDRMPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    probe = Probe(pipe.unet)
    cases = [(task, size) for size in sizes for task in args.tasks]
    pipeline = [
        pipeline_row(pipe, probe, task, size, steps, repeats)
        for task, size in tqdm(cases, desc="pipeline", leave=False)
    ]
    prior = DDRMPipeline.from_pretrained(args.model).unet  # without the probe
    pipeline += [rddm_row(prior, size, min(5, steps), repeats) for size in sizes]
    kinds = [(task, size, s, n) for size, n in updates for task in args.tasks for s in (0.0, 0.05)]
    update = [update_row(*case) for case in tqdm(kinds, desc="update", leave=False)]
    run = {
        **how_it_was_run("benchmarks/overhead.py", argv),
        "dtype": "float32",
        "steps": f"{steps}, of RDDM {min(5, steps)}",
        "repeats": repeats,
    }
    text = to_markdown(run, pipeline, update)
    written = write_report(args.output, {"run": run, "pipeline": pipeline, "update": update}, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main()
