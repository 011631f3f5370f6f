#!/usr/bin/env python3
"""Show how a Cold Diffusion restorer works: strips over the severities, as in the paper's figures.

    python examples/cold_strips.py deblur photos -o strips.png

Clean pictures are degraded by the model's scheduler; below each, the direct reconstruction and both algorithms.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import torch

from diffusers_restore import ColdDiffusionPipeline
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.evaluation.report import Cell, contact_sheet, save_sheet
from diffusers_restore.evaluation.strips import severity_strips
from diffusers_restore.training.config import CropConfig
from diffusers_restore.training.data import cut, to_unit
from diffusers_restore.training.sources import open_source


def enlarge(picture: torch.Tensor) -> torch.Tensor:
    """Enlarge small pictures by a whole number, so that their pixels can be seen."""
    factor = max(1, 64 // picture.shape[2])
    return picture.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or repository of a ColdDiffusionPipeline")
    parser.add_argument("data", type=Path, help="a folder of clean pictures, or an MNIST idx file or its folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the sheet to write")
    parser.add_argument("-n", "--number", type=int, default=2, help="of pictures (default: 2)")
    parser.add_argument("--columns", type=int, default=8, help="severities to show (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the state of the degradation (default: 0)")
    modes = get_args(get_type_hints(CropConfig)["image_interpolation_mode"])
    parser.add_argument(
        "--image_interpolation_mode", default="bicubic", choices=modes, help="as in the model's training"
    )
    args = parser.parse_args(argv)
    pipe = ColdDiffusionPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    try:
        source = open_source(args.data)
    except InvalidInputError as error:
        parser.error(str(error).replace("train_data_dir", "data"))
    unet, mode = pipe.unet.config, args.image_interpolation_mode
    crop = CropConfig(unet.sample_size, unet.in_channels, center_crop=True, image_interpolation_mode=mode)
    generator = torch.Generator().manual_seed(args.seed)
    rows = []
    for i in range(min(args.number, len(source))):
        picture = to_unit(torch.from_numpy(cut(source[i], crop, np.random.default_rng(0))))
        rows += severity_strips(pipe, picture, columns=args.columns, generator=generator)
    enlarged = [(label, [Cell(cell.caption, enlarge(cell.picture)) for cell in cells]) for label, cells in rows]
    save_sheet(contact_sheet(enlarged), args.output)
    print(f"{args.output}: {len(rows) // 4} pictures of {source.name(0)} and those after it")


if __name__ == "__main__":
    main()
