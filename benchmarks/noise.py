#!/usr/bin/env python3
"""Measure the estimate of noise, and what the bundled restorer makes of clean and of damaged pictures.

    python benchmarks/noise.py

On Set5 and the first 20 pictures of CBSD68: white noise of known sd is added, as numbers and as an 8-bit file or a JPEG
would hold it, and estimated; so is what JPEG takes, and what that estimate is worth to `--sigma-y auto`, on centre
crops of 128 px. Then, on centre crops of 192 px, the bundled restorer restores clean, noisy, compressed and blurred
pictures, and those of its recipe; where that changes little, they are left alone. Results go to
benchmarks/results/noise.{json,md}.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from quality import load_pictures
from torch import Tensor
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import RDDMPipeline, images, operators, restoring
from diffusers_restore.degradations import recipes
from diffusers_restore.evaluation.metrics import psnr
from diffusers_restore.evaluation.noise import estimate_noise, jpeg_loss
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.operators import measure
from diffusers_restore.pipelines.canvas import with_channels
from diffusers_restore.restoring.blind import LITTLE, SOMEWHERE, settled
from diffusers_restore.restoring.zero_shot import rounding_noise

QUALITIES = (95, 90, 75, 50, 30)
LEVELS = (2, 5, 10, 15, 25, 35, 50)  # of 255
RESULTS = Path(__file__).parent / "results"
CROP = 192
OF_JPEGS = ("sr2", "sr4", "deblur-gauss")
SMALL = 128
EXTREMES = {"least": ".2f", "most": ".2f"}


STORED: dict[str, Callable[[Tensor], Tensor]] = {
    "numbers": lambda y: y,
    "8 bits": lambda y: images.to_tensor(images.to_pil(y)[0]),
    "JPEG 95": lambda y: jpeg(y, 95),
    "JPEG 75": lambda y: jpeg(y, 75),
    "grey, 8 bits": lambda y: images.to_tensor(images.to_pil(y[:, :1])[0]),
    "grey, JPEG 95": lambda y: jpeg(y[:, :1], 95),
}
"""By what they are called. Colours in JPEGs have half the pixels (4:2:0)."""


def added(x: Tensor, level: float, seed: int, clipped: bool) -> Tensor:
    y = x + level / 127.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return (((y.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1) if clipped else y


def jpeg(x: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    images.to_pil(x)[0].save(buffer, "JPEG", quality=quality)
    return images.to_tensor(Image.open(buffer))


def cornered(x: Tensor, level: float) -> Tensor:
    y, side = x.clone(), CROP // 4
    y[..., :side, :side] = added(x, level, 0, True)[..., :side, :side]
    return y


def recipe(x: Tensor, seed: int) -> Tensor:
    return images.to_tensor(images.to_pil(recipes.create("blind")(x, [seed]).degraded)[0])


def blurred(x: Tensor, radius: float) -> Tensor:
    return images.to_tensor(images.to_pil(x)[0].filter(ImageFilter.GaussianBlur(radius)))


DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    **{f"noise {n}": (lambda x, n=n: added(x, n, 0, True)) for n in (1, 2, 3, 5, 10, 25)},  # type: ignore[misc]
    **{f"JPEG {q}": (lambda x, q=q: jpeg(x, q)) for q in (95, 90, 75, 50, 30)},  # type: ignore[misc]
    **{f"blur {r}": (lambda x, r=r: blurred(x, r)) for r in (0.5, 1, 2)},  # type: ignore[misc]
    **{
        f"noise {n}, JPEG {q}": (lambda x, n=n, q=q: jpeg(added(x, n, 0, True), q))  # type: ignore[misc]
        for n, q in ((5, 90), (10, 90), (25, 95), (25, 90), (10, 75))
    },
    "noise 10 in a corner": lambda x: cornered(x, 10),
    **{f"recipe, seed {seed}": (lambda x, seed=seed: recipe(x, seed)) for seed in range(1, 6)},  # type: ignore[misc]
}


def estimates(pictures: list[Any]) -> list[dict[str, Any]]:
    rows = []
    for how, stored in STORED.items():
        for level in tqdm(LEVELS, desc=f"noise, {how}"):
            clean = [with_channels(one.x, 1 if how.startswith("grey") else 3) for one in pictures]
            seen = [estimate_noise(stored(added(x, level, i, False))) for i, x in enumerate(clean)]
            errors = 127.5 * np.array(seen) / level - 1
            rows.append(
                {
                    "noise": level,
                    "stored as": how,
                    "mean error": float(errors.mean()),
                    "median": float(np.median(np.abs(errors))),
                    "largest": float(np.abs(errors).max()),
                }
            )
    return rows


def of_jpegs(pictures: list[Any]) -> list[dict[str, Any]]:
    """PSNR of what is restored from JPEGs of measurements, taken as exact but for rounding, and by `--sigma-y auto`."""
    rows = []
    for task in OF_JPEGS:
        exact = restoring.load(task=task, sigma_y=rounding_noise(8), device="cpu", dtype="float32")
        auto = restoring.load(task=task, device="cpu", dtype="float32")
        for quality in QUALITIES[::2]:
            figures: dict[str, list[float]] = {"exact": [], "auto": []}
            for one in tqdm(pictures, desc=f"{task}, JPEG {quality}"):
                height, width = (side // 8 * 8 for side in one.x.shape[2:])
                x = one.x[..., :height, :width]
                y = measure(operators.create(task, image_shape=x.shape[1:]), x, sigma_y=0).y
                with tempfile.TemporaryDirectory() as folder:
                    images.to_pil(y)[0].save(file := Path(folder, "y.jpg"), quality=quality)
                    for name, restorer in (("exact", exact), ("auto", auto)):
                        restorer.quiet = True
                        (outcome,) = restorer.restore_files(file, target := Path(folder, f"{name}.png"))
                        if outcome.error is not None:
                            raise outcome.error
                        figures[name].append(psnr(images.load(target).tensor[0], x[0]))
            rows.append({"task": task, "quality": quality, **{name: mean(found) for name, found in figures.items()}})
    return rows


def jpeg_losses(pictures: list[Any]) -> list[dict[str, Any]]:
    """What JPEG takes from a picture, and what is estimated of it from its file."""
    rows = []
    for quality in QUALITIES:
        for halved in (True, False):
            truth, ratios = [], []
            for one in pictures:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, "y.jpg")
                    images.to_pil(one.x)[0].save(file, quality=quality, subsampling=2 if halved else 0)
                    picture = images.load(file)
                assert picture.jpeg is not None
                truth.append(float((picture.tensor - one.x).square().mean().sqrt()))
                ratios.append(jpeg_loss(picture.tensor, picture.jpeg) / truth[-1])
            rows.append(
                {
                    "quality": quality,
                    "colours": "4:2:0" if halved else "4:4:4",
                    "lost": mean(truth) * 127.5,
                    "estimate / lost": float(np.median(ratios)),
                    "least": min(ratios),
                    "most": max(ratios),
                }
            )
    return rows


def decisions(pictures: list[Any]) -> list[dict[str, Any]]:
    pipe = RDDMPipeline.from_pretrained(diffusers_restore.DEFAULT_RESTORER)
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for name, damage in tqdm(DAMAGES.items(), desc="damage"):
        before, always, decided, left = [], [], [], 0
        for one in pictures:
            y = damage(one.x)
            x = pipe(y, generator=torch.Generator().manual_seed(0), output_type="latent").images
            made, _ = settled(x, y)
            left += made is y
            before.append(psnr(y[0], one.x[0]))
            always.append(psnr(x[0], one.x[0]))
            decided.append(psnr(made[0], one.x[0]))
        row = {"damage": name, "left alone": left / len(pictures), "restored": mean(always)}
        finite = all(map(math.isfinite, before))
        rows.append(row | ({"input": mean(before), "decided": mean(decided)} if finite else {}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/testsets"), help="folder with the zips")
    parser.add_argument("--limit", type=int, help="only the first N pictures of each set")
    parser.add_argument("--output", type=Path, default=RESULTS / "noise", help="result files, without their suffix")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seen = estimates(load_pictures(args.data, 10_000, args.limit))
    lost = jpeg_losses(load_pictures(args.data, 256, args.limit))
    worth = of_jpegs(load_pictures(args.data, SMALL, args.limit))
    made = decisions(load_pictures(args.data, CROP, args.limit))
    run = how_it_was_run("benchmarks/noise.py", sys.argv[1:])
    data = {"estimates": seen, "jpeg": lost, "of jpegs": worth, "decisions": made, "run": run}
    columns = {"noise": "", "stored as": "", **dict.fromkeys(("mean error", "median", "largest"), ".1%")}
    markdown = [
        "# Noise: the estimate, and when the bundled restorer leaves a picture alone",
        "Relative errors of the estimate (their mean; the median and the largest of their sizes) of white noise that "
        "was added to 25 pictures (Set5, the first 20 of CBSD68), in grey levels of 255. The largest ones up to 10 are "
        "those of Set5's head, whose own grain of 4.4 levels counts. Grey pictures are the luma. JPEG takes "
        "noise away, the more the lower its quality; the colours of these have half the pixels (4:2:0), as most have.",
        markdown_table(seen, columns),
        "What JPEG takes, in grey levels (root mean square over the centre, 256 px, of the same pictures; means), and "
        "the ratio of its estimate, from coding once more, to that: the median, the least and the most.",
        markdown_table(lost, {"quality": "", "colours": "", "lost": ".2f", "estimate / lost": ".2f"} | EXTREMES),
        f"PSNR in dB of what the default method restores from measurements ({SMALL} px) that were saved as JPEG: taken "
        "as exact but for the rounding to 8 bits, and with that estimate as noise, as `--sigma-y auto` has it.",
        markdown_table(worth, {"task": "", "quality": "", "exact": ".2f", "auto": ".2f"}),
        "PSNR in dB on centre crops of 192 px: of the input, of all inputs restored, and with those left alone that "
        f"restoring changes by less than {LITTLE} grey levels (root mean square), and nowhere by more than {SOMEWHERE} "
        "in 64 x 64 pixels. The recipe is the one of the training, `blind`; noise in a corner is in a sixteenth of the "
        "picture.",
        markdown_table(made, {"damage": "", "left alone": ".0%", "input": ".2f", "restored": ".2f", "decided": ".2f"}),
        "## How it was run",
        "\n".join(f"- {name}: {value}" for name, value in run.items()),
    ]
    for path in write_report(args.output, data, "\n\n".join(part.rstrip() for part in markdown) + "\n"):
        print(path)


if __name__ == "__main__":
    main()
