#!/usr/bin/env python3
"""Measure CBM3D, which is given the noise, on the noisy pictures of quality.py and of rddm.py.

    pip install bm3d
    python benchmarks/cbm3d.py

`bm3d` is its authors' package, free for non-commercial use, and no dependency of ours. On the pictures of rddm.py the
bundled blind restorer, which isn't told the noise, is measured beside it. Results go to
benchmarks/results/cbm3d.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import quality
import rddm
import torch
from torch import Tensor
from tqdm import tqdm

import diffusers_restore
from diffusers_restore.evaluation.metrics import psnr, ssim
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report

RESULTS = Path(__file__).parent / "results"
KINDS = ("noise 15", "noise 25", "noise 50")


def cbm3d(y: Tensor, sigma: float) -> Tensor:
    """CBM3D of a picture (3, H, W) in [-1, 1] with noise of deviation `sigma`."""
    import bm3d

    unit = ((y + 1) / 2).permute(1, 2, 0).double().numpy()
    x = torch.from_numpy(bm3d.bm3d_rgb(unit, sigma_psd=sigma / 2))
    return (x.permute(2, 0, 1) * 2 - 1).float()


def given_the_noise(args: argparse.Namespace) -> list[dict[str, Any]]:
    """CBM3D on the pictures of quality.py."""
    found = []
    for picture in tqdm(quality.load_pictures(args.data / "testsets", args.crop, args.limit)):
        y = quality.measured("denoise", picture, args.seed).y[0]
        found.append((picture.group, quality.figures(cbm3d(y, quality.TASKS["denoise"]), picture)))
    rows: list[dict[str, Any]] = []
    for group in (*(name for name, *_ in quality.SETS), "All"):
        own = [figure for name, figure in found if group in (name, "All")]
        rows.append({"pictures": group, **{name: mean(one[name] for one in own) for name in own[0]}})
    return rows


def beside_the_restorer(args: argparse.Namespace) -> list[dict[str, Any]]:
    """CBM3D and the bundled restorer on the noisy pictures of rddm.py."""
    pipe = rddm.load(Path(diffusers_restore.DEFAULT_RESTORER))
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    noisy = [one for one in rddm.samples("bundled", args.data, args.limit or 30) if one.kind in KINDS]
    for one in tqdm(noisy):
        sigma = 2 * float(one.kind.split()[1]) / 255
        pictures = {"CBM3D": cbm3d(one.degraded, sigma), "restorer": rddm.restore(pipe, one.degraded, 1, 0)}
        measures = {"psnr": psnr, "ssim": ssim}
        found[one.kind].append(
            {f"{who} {name}": of(x, one.clean) for who, x in pictures.items() for name, of in measures.items()}
        )
    return [
        {"noise": kind, "pictures": len(own), **{name: mean(one[name] for one in own) for name in own[0]}}
        for kind, own in found.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    decimals = {"psnr": ".2f", "ssim": ".3f"}
    return markdown_table(rows, {name: decimals.get(name.split()[-1], "") for name in rows[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder that has testsets")
    parser.add_argument("--crop", type=int, default=128, help="side of the centre crop of quality.py")
    parser.add_argument("--limit", type=int, help="only the first N pictures of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "cbm3d", help="result files, without their suffix")
    args = parser.parse_args()
    rows, beside = given_the_noise(args), beside_the_restorer(args)
    run = how_it_was_run("benchmarks/cbm3d.py", sys.argv[1:])
    markdown = [
        "# CBM3D",
        "Denoising, sigma_y 0.2, which it is given: the same noisy pictures as in quality.md.",
        table(rows),
        "## Beside the bundled restorer",
        "Noise of 15, 25 and 50 grey levels on Set5 and the first pictures of CBSD68, the centre of at most 192 px, "
        "rounded and clipped to 8 bits, as in rddm.md. CBM3D is given the noise; the bundled restorer is given nothing "
        "but the picture.",
        table(beside),
        "## How it was run",
        "\n".join(f"- {name}: {value}" for name, value in run.items()),
    ]
    data = {"rows": rows, "beside": beside, "run": run}
    for path in write_report(args.output, data, "\n\n".join(part.rstrip() for part in markdown) + "\n"):
        print(path)


if __name__ == "__main__":
    main()
