#!/usr/bin/env python3
"""Measure every zero-shot method on every kind of damage, with one prior.

    python benchmarks/methods.py             # benchmarks/results/methods.{json,md,png}
    python benchmarks/methods.py --gaussian  # only what the methods do to a Gaussian prior, in closed form
    python benchmarks/methods.py --errors photos  # denoising_errors of a prior on a folder of photographs, as JSON

Centre crops of 128 px of the first pictures of Set5 and CBSD68. For each picture, task and method: PSNR, SSIM, how far
the result is from the data, network evaluations and seconds on one thread; of each method the memory of a picture of
256 px, in a process of its own. Steps are those of the papers where a CPU can afford them; the table says how many.
What is measured is kept in benchmarks/results/.cache, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image
from quality import RESULTS, Cache, Picture, code_hash, figures, load_pictures, network_hash, seeded
from torch import Tensor
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import DDRMPipeline, images, operators
from diffusers_restore.evaluation.denoising import denoising_errors
from diffusers_restore.evaluation.report import (
    Cell,
    contact_sheet,
    how_it_was_run,
    markdown_table,
    save_sheet,
    write_report,
)
from diffusers_restore.operators import Constant, Identity, Measurement
from diffusers_restore.registries import METHODS
from diffusers_restore.schedulers.levels import karras_levels
from diffusers_restore.schedulers.zero_shot import methods_for

TASKS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "inpainting, 50 % of the pixels": ("inpaint-random", 0.0, {}),
    "inpainting, a box": ("inpaint-box", 0.0, {"side": 0.25}),
    "super-resolution x4": ("sr4", 0.0, {}),
    "super-resolution x4, noise 0.05": ("sr4", 0.05, {}),
    "deblurring, noise 0.02": ("deblur-gauss", 0.02, {}),
    "denoising 0.2": ("denoise", 0.2, {}),
    "colourisation": ("colorize", 0.0, {}),
    "JPEG 10": ("jpeg", 0.0, {"quality": 10}),
}
# What is run: method, options, timesteps. Papers' numbers of steps, except where they would take an hour.
RUNS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "ddrm": ("ddrm", {}, None),
    "ddrm, eta 1": ("ddrm", {"eta": 1.0}, None),
    "dpir": ("dpir", {}, None),
    "ddnm": ("ddnm", {}, None),
    "diffpir": ("diffpir", {}, None),
    "diffpir, inpainting": ("diffpir", {"prior_weight": 0.25, "zeta": 1.0}, 20),
    "ilvr": ("ilvr", {}, None),
    "ccdf": ("ccdf", {}, None),
    "repaint": ("repaint", {"travel_length": 5, "travel_repeats": 3}, 40),
    "dps": ("dps", {"zeta": 10.0}, 60),
    "pigdm": ("pigdm", {}, 30),
    "mmps": ("mmps", {}, 20),
    "mmps, covariance": ("mmps", {"covariance": True}, 20),
    "daps": ("daps", {}, None),
    "ddrm-jpeg": ("ddrm-jpeg", {}, None),
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=diffusers_restore.DEFAULT_PRIOR, help="prior: a folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/testsets"), help="folder with the zips")
    parser.add_argument("--limit", type=int, default=4, help="the first N pictures of each set")
    parser.add_argument("--crop", type=int, default=128, help="side of the centre crop")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--gaussian", action="store_true", help="only print the exact test")
    parser.add_argument("--memory", choices=list(RUNS), help="only print the memory of this one, in MB")
    parser.add_argument("--errors", type=Path, metavar="FOLDER", help="only print denoising_errors on these pictures")
    parser.add_argument("--output", type=Path, default=RESULTS / "methods", help="result files, without their suffix")
    parser.add_argument("--cache", type=Path, default=RESULTS / ".cache", help="folder of what was already measured")
    return parser.parse_args(argv)


def memory(pipe: DDRMPipeline, run: str, side: int = 256) -> float:
    """MB that this process needs more for a picture of `side` pixels than for one of 16."""
    method, options, _ = RUNS[run]
    name, arguments = ("jpeg", {"quality": 10}) if method == "ddrm-jpeg" else ("sr4", {})
    pipe.scheduler = METHODS[method].from_config(pipe.scheduler.config, **({} if method == "ddrm" else options))
    peaks = []
    for size in (16, side):
        operator = operators.create(name, image_shape=(3, size, size), **arguments)
        pipe(operator.forward(torch.zeros(1, 3, size, size)), operator=operator, num_inference_steps=3)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    return peaks[1] - peaks[0]


def run_one(pipe: DDRMPipeline, task: str, run: str, picture: Picture) -> tuple[dict[str, Any], Tensor]:
    name, sigma_y, arguments = TASKS[task]
    method, options, steps = RUNS[run]
    operator = operators.create(name, image_shape=tuple(picture.x.shape[1:]), **arguments)
    measurement = operators.measure(operator, picture.x, sigma_y, seeded(0, picture.index))
    of_call = {"eta": options["eta"]} if method == "ddrm" and options else {}
    own = {} if of_call else options
    pipe.scheduler = METHODS[method].from_config(pipe.scheduler.config, **own)
    started = time.perf_counter()
    x = pipe(
        measurement.y,
        operator=operator,
        sigma_y=sigma_y,
        num_inference_steps=steps,
        generator=seeded(0, picture.index, 1),
        output_type="latent",
        **of_call,
    ).images
    seconds = time.perf_counter() - started
    row = {
        **figures(x[0].clamp(-1, 1), picture),  # a chain of DPS may have diverged
        "misfit": float((operator.forward(x) - measurement.y).square().mean().sqrt()),
        "evaluations": pipe.num_evaluations,
        "seconds": round(seconds, 2),
    }
    return row, x


class Scalar(Identity):
    """y_i = s_i x_i."""

    def __init__(self, s: Sequence[float]) -> None:
        super().__init__((1, 1, len(s)))
        self._values = Constant(torch.as_tensor(s, dtype=torch.float64).reshape(1, 1, 1, -1))

    @property
    def singular_values(self) -> Constant:
        return self._values


def gaussian(steps: int = 20, g: float = 0.5, sigma_y: float = 0.1) -> list[dict[str, Any]]:
    """Each method's chain for a coefficient of N(0, g^2), with the exact network: by its responses to every noise.

    y_bar is one posterior sd from the prior's mean: mean error in posterior sd, and variance / exact variance.
    """
    cases = {"not measured": 0.0, "measured, r = g / 5": 1.0, "measured, r = 2 g": 0.1}
    s = list(cases.values())
    runs = {
        name: (method, options)
        for name, (method, options, _) in RUNS.items()
        if method not in ("ddrm-jpeg", "dps")  # not affine, or for another kind of damage
    }
    for run in ("diffpir", "diffpir, inpainting"):
        runs[run] = ("diffpir", {**runs[run][1], "clip": False})
    runs["daps"] = ("daps", {"prior_sd": g, "denoise_last": False})
    runs["mmps"] = ("mmps", {"iterations": 8})
    runs["mmps, covariance"] = ("mmps", {"prior_sd": g, "iterations": 8, "covariance": True, "denoise_last": False})
    runs["pigdm"] = ("pigdm", {"prior_sd": g})
    rows = []
    for run, (method, options) in runs.items():
        call = {"eta": options["eta"]} if method == "ddrm" and options else {}
        scheduler = METHODS[method](**({} if call else options))
        levels = scheduler.nearest_timesteps(karras_levels(20.0, 0.02, steps))
        scheduler.set_timesteps(timesteps=levels)
        order = scheduler.timesteps.tolist()
        groups = 2 + len(order)
        y = torch.tensor(s, dtype=torch.float64).reshape(1, 1, 1, -1).expand(groups, -1, -1, -1)
        measurement = Measurement(y, Scalar(s), sigma_y)  # y_bar = 1

        def noise(draw: int, groups: int = groups) -> Tensor:
            z = torch.zeros(groups, 1, 1, len(s), dtype=torch.float64)
            z[1 + draw] = 1
            return z

        def model(x: Tensor, t: int, scheduler: Any = scheduler) -> Tensor:
            sigma = scheduler.sigma(t)
            return x / scheduler.alpha_bar(t) ** 0.5 * sigma / (g**2 + sigma**2)

        x = scheduler.start(measurement, noise(0))
        for i, t in enumerate(order):
            x = x.detach().requires_grad_()
            x = scheduler.step(
                model(x, t), t, x, measurement, variance_noise=noise(i + 1), return_dict=False, model=model, **call
            )[0]
        x = x.detach().reshape(groups, -1)
        variance = (x[1:] - x[0]).square().sum(dim=0)
        precision = 1 / g**2 + torch.tensor(s, dtype=torch.float64).square() / sigma_y**2
        exact = 1 - 1 / g**2 / precision
        exact[0] = 0
        off = (x[0] - exact) * precision.sqrt()
        row: dict[str, Any] = {
            "method": run,
            "result": "posterior sample" if options.get("covariance") else scheduler.result,
        }
        for case, mean_error, ratio in zip(cases, off.tolist(), (variance * precision).tolist(), strict=True):
            row[case] = f"{mean_error:+.2f} / {ratio:.3f}"
        rows.append(row)
    return rows


def to_markdown(run: dict[str, Any], table: list[dict[str, Any]], exact: list[dict[str, Any]]) -> str:
    by_task = []
    for task in TASKS:
        rows = [row for row in table if row["task"] == task]
        best = max(row["psnr"] for row in rows)
        shown = [
            {**row, "PSNR": f"**{row['psnr']:.2f}**" if row["psnr"] == best else f"{row['psnr']:.2f}"} for row in rows
        ]
        formats = {
            **{"method": "", "timesteps": "", "evaluations": "", "PSNR": "", "ssim": ".3f"},
            **{"misfit": ".4f", "seconds": ".1f", "MB": ".0f"},
        }
        by_task.append(f"## {task[0].upper()}{task[1:]}\n\n{markdown_table(shown, formats)}")
    return "\n".join(
        [
            "# The zero-shot methods, side by side\n",
            f"Means over {run['pictures']} pictures, centre crops of {run['crop']} px, one restoration each. `misfit` "
            "is the root mean square of A x - y, in units of [-1, 1]: the noise where the data are kept, more where "
            "they are not, above 1 where a chain diverged. Seconds are of one thread; MB what a picture of 256 px "
            "takes beside the loaded network.\n",
            *by_task,
            "## A Gaussian prior: which methods sample the posterior?\n",
            "Error of the mean in standard deviations of the posterior / variance over that of the posterior, exact, "
            f"after {run['gaussian steps']} steps with the exact network, for a coefficient of sd g. 0 / 1 is a "
            "posterior sample; a variance of 0 an estimate.\n",
            markdown_table(exact, dict.fromkeys(exact[0], "")),
            "![pictures](methods.png)\n",
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.gaussian:
        exact = gaussian()
        print(markdown_table(exact, dict.fromkeys(exact[0], "")))
        return
    torch.set_num_threads(1)
    pipe = DDRMPipeline.from_pretrained(args.model, dtype=torch.bfloat16)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    if args.memory:
        print(memory(pipe, args.memory))
        return
    if args.errors:
        files = sorted(path for path in args.errors.iterdir() if path.suffix.lower() in (".png", ".jpg"))
        print(json.dumps(denoising_errors(pipe, [centre(images.load(path).tensor, args.crop) for path in files])))
        return
    pictures = load_pictures(args.data, args.crop, args.limit)
    settings = {"crop": args.crop}
    key = hashlib.sha256(json.dumps([network_hash(args.model), code_hash(), settings]).encode()).hexdigest()[:16]
    cache, sheet = Cache(args.cache / f"methods-{key}.jsonl"), args.cache / f"methods-{key}"
    sheet.mkdir(parents=True, exist_ok=True)
    table, needed = [], {}
    for run in args.runs:
        command = [sys.executable, __file__, "--memory", run, "--model", args.model]
        needed[run] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    able = {task: methods_for(_operator(task, pictures[0]), TASKS[task][1]) for task in TASKS}
    for task, (_, sigma_y, _) in TASKS.items():
        rows = []
        for picture in pictures:
            operator = _operator(task, picture)
            measurement = operators.measure(operator, picture.x, sigma_y, seeded(0, picture.index))
            rows.append(figures(operator.pinv(measurement.y)[0], picture))
        table.append(
            {"task": task, "method": "pseudo-inverse", **{name: mean(row[name] for row in rows) for name in rows[0]}}
        )
    pairs = [(task, run) for task in TASKS for run in args.runs if suits(task, run, able[task])]
    for task, run in tqdm(pairs):
        rows = []
        for picture in pictures:
            file = sheet / f"{list(TASKS).index(task)}-{list(RUNS).index(run)}-{picture.index}.png"

            def compute(
                task: str = task, run: str = run, picture: Picture = picture, file: Path = file
            ) -> dict[str, Any]:
                row, x = run_one(pipe, task, run, picture)
                images.to_pil(x)[0].save(file)
                return row

            rows.append(cache.get(f"{task} {run} {RUNS[run]} {picture.index}", compute))
        means = {name: mean(row[name] for row in rows) for name in ("psnr", "ssim", "misfit", "seconds")}
        steps = RUNS[run][2] or METHODS[RUNS[run][0]].default_steps
        table.append(
            {"task": task, "method": run, "timesteps": steps, "evaluations": round(rows[0]["evaluations"]), **means}
            | {"MB": needed[run]}
        )
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in table[-1].items()}, flush=True)
    save_sheet(draw(pictures[-1], pairs, sheet), args.output.with_suffix(".png"))
    run_of = {
        **how_it_was_run("benchmarks/methods.py", argv),
        "network (SHA-256)": network_hash(args.model),
        "pictures": len(pictures),
        "dtype": "bfloat16",
        "gaussian steps": 20,
        **settings,
    }
    exact = gaussian()
    text = to_markdown(run_of, table, exact)
    for path in write_report(args.output, {"run": run_of, "rows": table, "gaussian": exact}, text):
        print(path)


def _operator(task: str, picture: Picture) -> operators.Operator:
    name, _, arguments = TASKS[task]
    return operators.create(name, image_shape=tuple(picture.x.shape[1:]), **arguments)


def suits(task: str, run: str, able: Sequence[str]) -> bool:
    """DDRM-JPEG is for JPEG, the inpainting preset for inpainting."""
    if run == "ddrm-jpeg":
        return "JPEG" in task
    if run == "diffpir, inpainting":
        return "inpainting" in task
    return RUNS[run][0] in able


def draw(picture: Picture, pairs: Sequence[tuple[str, str]], folder: Path) -> Image.Image:
    """A row for each task: the original, what was measured, and every method."""
    rows = []
    for task in TASKS:
        sigma_y = TASKS[task][1]
        operator = _operator(task, picture)
        y = operators.measure(operator, picture.x, sigma_y, seeded(0, picture.index)).y
        cells = [Cell("original", picture.x[0]), Cell("measured", y[0])]
        for of_task, run in pairs:
            if of_task == task:
                file = folder / f"{list(TASKS).index(task)}-{list(RUNS).index(run)}-{picture.index}.png"
                cells.append(Cell(run, images.load(file).tensor[0]))
        rows.append((task.replace(", ", ",\n"), cells))
    return contact_sheet(rows)


def centre(x: Tensor, side: int) -> Tensor:
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    return x[:, :, top : top + side, left : left + side]


if __name__ == "__main__":
    main()
