#!/usr/bin/env python3
"""Damage a bundled photograph in six ways, restore it with one network, and put the results side by side.

    python examples/demo.py --output_dir demo

Of each there is the best estimate, which is smooth where the damage leaves a choice, and a sample, which is one of the
pictures that it may have been. Writes one before/after sheet for each task and photograph, overview.png, and a table of
PSNR and SSIM, compared with the pseudo-inverse of the measurement and with a classical method, whose weight is the best
for each picture.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import diffusers_restore
from diffusers_restore import DDRMPipeline, images, operators
from diffusers_restore.evaluation import classical
from diffusers_restore.evaluation.metrics import psnr, ssim
from diffusers_restore.evaluation.report import (
    Cell,
    contact_sheet,
    how_it_was_run,
    markdown_table,
    save_sheet,
    write_report,
)
from diffusers_restore.pipelines.precision import fast_dtype, lay_out
from diffusers_restore.registries import METHODS
from diffusers_restore.restoring.zero_shot import automatic_method

PHOTOS = Path(diffusers_restore.__file__).parent / "assets" / "photos"


@dataclass(frozen=True)
class Damage:
    label: str
    task: str
    sigma_y: float = 0.0

    @property
    def eta(self) -> float:
        """The best eta of DDRM for a measurement: all noise new where it is exact, less where it is noisy."""
        return 1.0 if self.sigma_y == 0 else 0.85


DAMAGES = (
    Damage("Inpainting,\nscratches", "inpaint-scratches"),
    Damage("Inpainting,\n50 % of the\npixels missing", "inpaint-random"),
    Damage("Super-resolution\nx4", "sr4"),
    Damage("Deblurring,\nnoise 0.02", "deblur-gauss", 0.02),
    Damage("Denoising,\nnoise 0.2", "denoise", 0.2),
    Damage("Colourisation", "colorize"),
)
MEAN_OF = 8
"""Samples, whose mean is the estimate of a task that leaves much open."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("demo"), help="where pictures and tables go")
    parser.add_argument("--model", default=diffusers_restore.DEFAULT_PRIOR, help="prior: a folder or a Hub repository")
    parser.add_argument(
        "--photos", nargs="+", default=["chelsea"], choices=sorted(p.stem for p in PHOTOS.glob("*.png"))
    )
    parser.add_argument("--tasks", nargs="+", default=[damage.task for damage in DAMAGES], help="which damages")
    parser.add_argument("--size", type=int, help="side of a centre crop (default: the whole photograph)")
    parser.add_argument("--steps", type=int, default=20, help="timesteps of each restoration")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for task in args.tasks:
        if task not in {damage.task for damage in DAMAGES}:
            parser.error(f"no task {task!r} here; there are: {', '.join(damage.task for damage in DAMAGES)}")
    return args


def load(photo: str, size: int | None) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    x = images.load(PHOTOS / f"{photo}.png").tensor
    if size is None:
        return x
    top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
    return x[:, :, top : top + size, left : left + size]


def restore(pipe: DDRMPipeline, damage: Damage, original: Tensor, args: argparse.Namespace) -> dict[str, Tensor]:
    """The results of every method for one damaged photograph, by name, each (1, C, H, W)."""
    operator = operators.create(damage.task, image_shape=tuple(original.shape[1:]))
    generator = torch.Generator().manual_seed(args.seed)
    measurement = operators.measure(operator, original, damage.sigma_y, generator)
    results = {"measured": measurement.y, "pseudo-inverse": operator.pinv(measurement.y)}
    tried = {o.name: classical.best(o, measurement, original[0])[0] for o in classical.opponents(operator)}
    if tried:
        name = max(tried, key=lambda name: psnr(tried[name][0], original[0]))
        results[name] = tried[name]
    pipe.set_progress_bar_config(desc=f"{damage.task:>17}")

    def run(method: str, samples: int, eta: float | None) -> Tensor:
        pipe.scheduler = METHODS[method].from_config(pipe.scheduler.config)
        restored: Tensor = pipe(
            measurement.y,
            operator=operator,
            sigma_y=damage.sigma_y,
            eta=eta,
            num_inference_steps=args.steps,
            generator=torch.Generator().manual_seed(args.seed),
            num_images_per_input=samples,
            output_type="latent",
        ).images
        return restored

    method = automatic_method(damage.task)
    samples = run("ddrm", MEAN_OF if method == "ddrm" else 1, damage.eta)
    if method == "ddrm":
        results[f"estimate, mean of {MEAN_OF}"] = samples.mean(dim=0, keepdim=True)
    else:
        results[f"estimate, {method}"] = run(method, 1, None)
    results["sample, ddrm"] = samples[:1]
    return results


def cells(original: Tensor, results: dict[str, Tensor]) -> dict[str, Cell]:
    """The original and every result with its PSNR as the caption."""
    shown = {"original": Cell("original", original[0])}
    for name, picture in results.items():
        caption = name
        if picture.shape == original.shape and name != "measured":
            caption = f"{name}, {psnr(picture[0], original[0]):.2f} dB"
        shown[name] = Cell(caption, picture[0])
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    started = time.perf_counter()
    dtype = fast_dtype(torch.device("cpu"))
    pipe = DDRMPipeline.from_pretrained(args.model, dtype=dtype)
    lay_out(pipe)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    overview, rows = [], []
    for photo in args.photos:
        original = load(photo, args.size)
        for damage in DAMAGES:
            if damage.task not in args.tasks:
                continue
            results = restore(pipe, damage, original, args)
            shown, ours = cells(original, results), list(results)[-2:]
            save_sheet(contact_sheet([("", list(shown.values()))]), args.output_dir / f"{photo}-{damage.task}.png")
            for name in results:
                if name != "measured":
                    x = results[name][0]
                    figures = {"PSNR": psnr(x, original[0]), "SSIM": ssim(x, original[0])}
                    settings = {"photo": photo, "task": damage.task, "sigma_y": damage.sigma_y, "method": name}
                    rows.append({**settings, **figures})
            # A row of the overview: the input, the best of the other methods (or none), and both of ours.
            classic = [name for name in shown if name not in ("original", "measured", "pseudo-inverse", *ours)]
            other = shown[classic[0]] if classic else Cell("no classical method")
            if photo == args.photos[0]:
                overview.append(
                    (damage.label, [shown["original"], shown["measured"], other, *(shown[name] for name in ours)])
                )
    save_sheet(contact_sheet(overview), args.output_dir / "overview.png")
    table = markdown_table(rows, {"photo": "", "task": "", "sigma_y": "g", "method": "", "PSNR": ".2f", "SSIM": ".3f"})
    run = {**how_it_was_run("examples/demo.py", argv), "dtype": str(dtype)}
    written = write_report(args.output_dir / "table", {"run": run, "rows": rows}, table)
    print(table)
    print(
        f"{time.perf_counter() - started:.0f} s. Before and after: {args.output_dir / 'overview.png'}; each task's own"
    )
    print(f"sheets are beside it. Figures: {', '.join(str(path) for path in written)}")


if __name__ == "__main__":
    main()
