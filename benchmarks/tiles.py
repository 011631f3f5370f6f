#!/usr/bin/env python3
"""Measure what tiles change: nothing for a network with a reach, and seams for others.

    python benchmarks/tiles.py                 # the bundled prior
    python benchmarks/tiles.py --model FOLDER  # another prior beside it

A photograph is denoised by DDRM (sigma 0.2) seen whole and in tiles, with the same noise, in float32. `apart` is the
largest difference in grey levels of 255, `PSNR` that of the tiled picture to the whole one. `seam` is how much more the
two differ from one pixel to the next at the tiles' borders than elsewhere: 1 is no seam. Results:
benchmarks/results/tiles.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffusers_restore
from diffusers_restore import DDRMPipeline, images, operators
from diffusers_restore.evaluation.metrics import psnr
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.pipelines.tiles import TiledNetwork, reach

RESULTS = Path(__file__).parent / "results"
PHOTO = Path(diffusers_restore.__file__).parent / "assets" / "photos" / "chelsea.png"
SIGMA = 0.2
COLUMNS = {
    "network": "",
    "side": "d",
    "tiles": "d",
    "reach": "",
    "apart, grey levels": ".4f",
    "PSNR to whole": ".1f",
    "seam": ".2f",
    "PSNR whole": ".2f",
    "PSNR tiled": ".2f",
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="a prior: a folder, or a repository of the Hub")
    parser.add_argument("--sides", nargs="+", type=int, default=[64, 128], help="of tiles, without their margins")
    parser.add_argument("--pixels", type=int, nargs=2, default=[288, 448], help="height and width of the photograph")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "tiles", help="result files, without their suffix")
    return parser.parse_args(argv)


def seam(difference: Tensor, rows: Sequence[int], columns: Sequence[int]) -> float:
    """Mean jump of a difference (1, C, H, W) across the borders of tiles, over that between all other neighbours."""
    at, elsewhere = [], []
    for dim, cuts in ((2, rows), (3, columns)):
        jumps = difference.diff(dim=dim).abs().mean(dim=[one for one in range(4) if one != dim])
        border = torch.zeros(len(jumps), dtype=torch.bool)
        border[[cut - 1 for cut in cuts]] = True
        at.append(jumps[border])
        elsewhere.append(jumps[~border])
    far = float(torch.cat(elsewhere).mean())
    return float(torch.cat(at).mean()) / far if far > 0 else 1.0


def measure(pipe: DDRMPipeline, name: str, clean: Tensor, side: int, steps: int) -> dict[str, Any]:
    operator = operators.create("denoise", image_shape=tuple(clean.shape[1:]))
    y = operators.measure(operator, clean, SIGMA, torch.Generator().manual_seed(0)).y

    def restore() -> Tensor:
        made: Tensor = pipe(
            y,
            operator=operator,
            sigma_y=SIGMA,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(1),
            output_type="latent",
        ).images
        return made

    pipe.disable_tiling()
    whole = restore()
    tiles = TiledNetwork(pipe.unet, side, {}).tiles(*clean.shape[2:])
    pipe.enable_tiling(side)
    tiled = restore()
    rows, columns = (sorted({part.start for part in parts} - {0}) for parts in zip(*tiles, strict=True))
    difference, far = tiled - whole, reach(pipe.unet)
    return {
        "network": name,
        "side": side,
        "tiles": len(tiles),
        "reach": "the picture" if far is None else f"{far} px",
        "apart, grey levels": 127.5 * float(difference.abs().max()),
        "PSNR to whole": psnr(tiled[0], whole[0]),
        "seam": seam(difference, rows, columns),
        "PSNR whole": psnr(whole[0], clean[0]),
        "PSNR tiled": psnr(tiled[0], clean[0]),
    }


def to_markdown(rows: Sequence[dict[str, Any]], run: dict[str, Any]) -> str:
    return "\n".join(
        [
            "# Tiles\n",
            f"A photograph of {run['width']} x {run['height']} pixels, denoised by DDRM in {run['steps']} steps, seen "
            "whole and in tiles, in float32 with the same noise. `apart` is the largest difference of the two, `seam` "
            "how much more they differ from one pixel to the next at the borders of tiles than elsewhere: 1 is no "
            "seam. Networks with a reach see all of it around each tile, so that nothing but rounding changes; of "
            "others, tiles are blended over their margins. PSNR in dB, to the picture that was seen whole, and of both "
            "to the clean one.\n",
            markdown_table(rows, COLUMNS),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    torch.set_num_threads(1)
    height, width = args.pixels
    clean = images.load(PHOTO).tensor[:, :, :height, :width]
    rows = []
    for model in [diffusers_restore.DEFAULT_PRIOR, *args.model]:
        pipe = DDRMPipeline.from_pretrained(model)
        pipe.set_progress_bar_config(disable=True)
        name = "bundled prior" if model == diffusers_restore.DEFAULT_PRIOR else type(pipe.unet).__name__
        for side in args.sides:
            rows.append(measure(pipe, name, clean, side, args.steps))
            print(rows[-1], flush=True)
    run = how_it_was_run("benchmarks/tiles.py", argv)
    run |= {"height": height, "width": width, "steps": args.steps}
    for path in write_report(args.output, {"run": run, "rows": rows}, to_markdown(rows, run)):
        print(path)


if __name__ == "__main__":
    main()
