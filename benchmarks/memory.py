#!/usr/bin/env python3
"""Measure the memory that restoring a picture takes, beside what the engine reckons with.

    python benchmarks/memory.py

Random pictures, one thread, one process each; the peak is that of the whole process, less what it holds when the model
is loaded. Results go to benchmarks/results/memory.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from diffusers_restore import images, restoring
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.restoring import memory, trained, zero_shot

TASKS: dict[str, dict[str, Any]] = {
    "bundled restorer": {},
    "denoise": {"task": "denoise", "sigma_y": 0.2},
    "sr4": {"task": "sr4"},
    "deblur-gauss": {"task": "deblur-gauss", "sigma_y": 0.02},
}
SIDES = (512, 1024, 1536)
DTYPES = ("bfloat16", "float32")
RESULTS = Path(__file__).parent / "results"


def peak() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(task: str, dtype: str, side: int) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(1)
    options = TASKS[task]
    given = side // 4 if task == "sr4" else side
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "a.png")
        images.save(torch.rand(3, given, given, generator=torch.Generator().manual_seed(0)) * 2 - 1, source)
        restorer = restoring.load(steps=2 if options else None, dtype=dtype, device="cpu", **options)
        loaded = peak()
        (outcome,) = restorer.restore_files(source, Path(folder, "b.png"))
    if outcome.error is not None:
        raise outcome.error
    more = zero_shot._MEMORY if options else trained._MEMORY
    reckoned = memory.network_memory(restorer.pipe.unet, side, side) + more * side**2
    return {
        "model": task,
        "dtype": dtype,
        "pixels": f"{side} x {side}",
        "MB": peak() - loaded,
        "reckoned MB": reckoned / 1e6,
        "MB per million pixels": (peak() - loaded) / side**2 * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--one", nargs=3, metavar=("TASK", "DTYPE", "SIDE"), help="print the row of one process")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory", help="result files, without their suffix")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], args.one[1], int(args.one[2]))))
        return
    rows = []
    for task in TASKS:
        for dtype in DTYPES:
            for side in args.sides:
                command = [sys.executable, __file__, "--one", task, dtype, str(side)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(rows[-1], flush=True)
    run = how_it_was_run("benchmarks/memory.py", sys.argv[1:])
    table = markdown_table(
        rows,
        {"model": "", "dtype": "", "pixels": "", "MB": ".0f", "reckoned MB": ".0f", "MB per million pixels": ".0f"},
    )
    markdown = [
        "# Memory of a restoration",
        "Beside about 450 MB of Python, torch and the model. `reckoned` is what the engine compares with the free "
        "memory before it begins: the tensors that are alive at the network's worst moment, counted on the meta "
        "device, and a number of bytes for each pixel.",
        table,
        "## How it was run",
        "\n".join(f"- {name}: {value}" for name, value in run.items()),
    ]
    for path in write_report(args.output, {"rows": rows, "run": run}, "\n\n".join(p.rstrip() for p in markdown) + "\n"):
        print(path)


if __name__ == "__main__":
    main()
