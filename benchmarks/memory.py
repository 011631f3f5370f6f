#!/usr/bin/env python3
"""Measure the memory that restoring a picture takes, beside what the engine reckons with.

    python benchmarks/memory.py
    python benchmarks/memory.py --models "bundled restorer" --dtypes bfloat16 --pixels 8000x8000

Random pictures, one thread, one process each; the peak is that of the whole process. Two timesteps of each method: more
don't take more. Results go to benchmarks/results/memory.{json,md}; rows that aren't measured anew keep their figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffusers_restore import images, restoring
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.restoring import room

MODELS: dict[str, dict[str, Any]] = {
    "bundled restorer": {"strength": 1},  # whatever the picture looks like
    "denoise": {"task": "denoise", "sigma_y": 0.2},
    "denoise by ddrm": {"task": "denoise", "sigma_y": 0.2, "method": "ddrm"},
    "sr4": {"task": "sr4"},
    "deblur-gauss": {"task": "deblur-gauss", "sigma_y": 0.02},
}
PIXELS = ("1024x1024", "2048x2048", "4032x3024")
DTYPES = ("bfloat16", "float32")
RESULTS = Path(__file__).parent / "results"
LIMIT = 4000  # MB
COLUMNS = {
    "model": "",
    "dtype": "",
    "pixels": "",
    "tiles": "d",
    "peak, MB": ".0f",
    "peak - loaded, MB": ".0f",
    "reckoned, MB": ".0f",
    "s": ".0f",
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--pixels", nargs="+", metavar="WxH", default=list(PIXELS), help="of the restored pictures")
    parser.add_argument("--tile", default=room.AUTO, help="as of `restore`")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "memory", help="result files, without their suffix")
    return parser.parse_args(argv)


def peak() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(model: str, dtype: str, pixels: str, tile: str) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(1)
    options = MODELS[model]
    width, height = map(int, pixels.split("x"))
    scale = 4 if model == "sr4" else 1
    rooms: list[room.Room] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "a.png")
        generator = torch.Generator().manual_seed(0)
        images.save(torch.rand(3, height // scale, width // scale, generator=generator) * 2 - 1, source)
        steps = 2 if "task" in options else None
        restorer = restoring.load(steps=steps, dtype=dtype, device="cpu", tile=tile, **options)
        restorer.quiet = True
        loaded, find = peak(), restorer._find_room
        restorer._find_room = lambda *given, **more: rooms.append(find(*given, **more)) or rooms[-1]
        (outcome,) = restorer.restore_files(source, Path(folder, "b.png"))
    if outcome.error is not None:
        raise outcome.error
    return {
        "model": model,
        "dtype": dtype,
        "pixels": pixels,
        "tiles": rooms[0].tiles,
        "peak, MB": peak(),
        "peak - loaded, MB": peak() - loaded,
        "reckoned, MB": rooms[0].needed / 1e6,
        "s": outcome.seconds,
    }


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row is about, in the order of the table."""
    width, height = map(int, row["pixels"].split("x"))
    return list(MODELS).index(row["model"]), DTYPES.index(row["dtype"]), width * height, width


def merged(earlier: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with this one, in order."""
    return sorted([*(one for one in earlier if key(one) != key(row)), row], key=key)


def to_markdown(rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> str:
    large = [row for row in rows if row["pixels"] == PIXELS[-1]]
    within = [row for row in large if row["peak, MB"] <= LIMIT]
    paragraphs = [
        "# Memory of a restoration",
        "Random pictures, one thread, one process each. Peak is the most that the whole process held; about 450 MB of "
        "it are Python, torch and the model. `reckoned` is what the engine compares with the free memory before it "
        "begins: the tensors that are alive at the network's worst moment, counted on the meta device, and a number of "
        "bytes for each pixel. Where that is more than 3.5 GB, the network sees the picture in `tiles`. Seconds are "
        "of two timesteps, or the one that the restorer and noise alone need. MB are 10^6 bytes.",
        f"**{PIXELS[-1]} pixels: {len(within)} of {len(large)} rows within {LIMIT} MB for the whole process.**",
        markdown_table(rows, COLUMNS),
        "## How it was run",
        "\n".join(f"- {name}: {value}" for name, value in run.items()),
    ]
    return "\n\n".join(part.rstrip() for part in paragraphs) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.models[0], args.dtypes[0], args.pixels[0], args.tile)))
        return
    file = args.output.with_suffix(".json")
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.exists() else []
    for model in args.models:
        for dtype in args.dtypes:
            for pixels in args.pixels:
                what = ["--models", model, "--dtypes", dtype, "--pixels", pixels, "--tile", args.tile]
                done = subprocess.run([sys.executable, __file__, "--one", *what], stdout=subprocess.PIPE, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                rows = merged(rows, row)
                print(row, flush=True)
                run = how_it_was_run("benchmarks/memory.py", argv)
                write_report(args.output, {"rows": rows, "run": run}, to_markdown(rows, run))
    print(file.with_suffix(".md"))


if __name__ == "__main__":
    main()
