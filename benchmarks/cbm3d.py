#!/usr/bin/env python3
"""Measure CBM3D, which is given the noise, on the noisy pictures of quality.py's task denoise.

    pip install bm3d
    python benchmarks/cbm3d.py

`bm3d` is its authors' package, free for non-commercial use, and no dependency of ours. Results go to
benchmarks/results/cbm3d.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from quality import SETS, TASKS, Picture, figures, load_pictures, measured
from tqdm import tqdm

from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report

RESULTS = Path(__file__).parent / "results"


def cbm3d(picture: Picture, seed: int) -> dict[str, float]:
    import bm3d

    sigma_y = TASKS["denoise"]
    y = measured("denoise", picture, seed).y
    unit = ((y[0] + 1) / 2).permute(1, 2, 0).double().numpy()
    x = bm3d.bm3d_rgb(unit, sigma_psd=sigma_y / 2)
    return figures((torch.from_numpy(x).permute(2, 0, 1) * 2 - 1).float(), picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/testsets"), help="folder with the zips")
    parser.add_argument("--crop", type=int, default=128, help="side of the centre crop")
    parser.add_argument("--limit", type=int, help="only the first N pictures of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "cbm3d", help="result files, without their suffix")
    args = parser.parse_args()
    found = [(one.group, cbm3d(one, args.seed)) for one in tqdm(load_pictures(args.data, args.crop, args.limit))]
    rows: list[dict[str, Any]] = []
    for group in (*(name for name, *_ in SETS), "All"):
        own = [figure for name, figure in found if group in (name, "All")]
        rows.append({"pictures": group, **{name: mean(one[name] for one in own) for name in own[0]}})
    run = how_it_was_run("benchmarks/cbm3d.py", sys.argv[1:])
    markdown = [
        "# CBM3D",
        "Denoising, sigma_y 0.2, which it is given: the same noisy pictures as in quality.md.",
        markdown_table(
            rows,
            {"pictures": "", **{name: f".{2 if name == 'psnr' else 3}f" for name in rows[0] if name != "pictures"}},
        ),
        "## How it was run",
        "\n".join(f"- {name}: {value}" for name, value in run.items()),
    ]
    for path in write_report(args.output, {"rows": rows, "run": run}, "\n\n".join(p.rstrip() for p in markdown) + "\n"):
        print(path)


if __name__ == "__main__":
    main()
