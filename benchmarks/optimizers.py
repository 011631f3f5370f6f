#!/usr/bin/env python3
"""Compare AdamW and Muon at equal time, method by method.

    python benchmarks/prior.py --prepare photos
    python benchmarks/optimizers.py --photos photos --mnist ../shared/data/mnist

Each recipe of examples/recipes is trained from nothing for so many seconds of one thread (steps are counted in
advance by the median of what a few take; leave the core to it), once with each optimiser, at its own learning rate. The
figure is the one by which the best weights are chosen, of held-out pictures. Results go to
benchmarks/results/optimizers.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.training.cold import train_cold
from diffusers_restore.training.config import ColdConfig, PriorConfig, RDDMConfig, build
from diffusers_restore.training.prior import train_prior
from diffusers_restore.training.rddm import train_rddm

RESULTS = Path(__file__).parent / "results"
RECIPES = Path(__file__).parent.parent / "examples" / "recipes"
# recipe: (configuration, training, kind of pictures, figure, options that differ from the recipe)
CASES: dict[str, tuple[type, Callable[[Any], None], str, str, dict[str, Any]]] = {
    "mnist_prior": (PriorConfig, train_prior, "mnist", "psnr_25", {"mixed_precision": "bf16"}),
    "cold_mnist_inpaint": (ColdConfig, train_cold, "mnist", "psnr", {}),
    "blind": (RDDMConfig, train_rddm, "photos", "psnr_1_step", {}),
}
WARM, TIMED = 2, 15


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder that benchmarks/prior.py --prepare made")
    parser.add_argument("--mnist", type=Path, required=True, help="folder of train-images-idx3-ubyte.gz")
    parser.add_argument("--seconds", type=float, default=150, help="of each run")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path, default=RESULTS / "optimizers", help="result files, without suffix")
    return parser.parse_args(argv)


def run(case: str, optimizer: str, steps: int, args: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """The median seconds of a step, and the last figures, of a training of so many steps."""
    config, training, data, _, options = CASES[case]
    values = yaml.safe_load((RECIPES / f"{case}.yaml").read_text(encoding="utf-8")) | options
    with tempfile.TemporaryDirectory() as scratch:
        values |= {
            "train_data_dir": str(args.photos / "train" if data == "photos" else args.mnist),
            "output_dir": scratch,
            "optimizer": optimizer,
            "max_train_steps": steps,
            "lr_warmup_steps": min(50, steps),
            "lr_decay_steps": steps // 2,
            "checkpointing_steps": 2**30,
            "logging_steps": 1,
            "logger": "none",
        }
        training(build(config, values))
        lines = [json.loads(line) for line in (Path(scratch) / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds_per_step"] for line in lines if "seconds_per_step" in line]
    return median(seconds[WARM:]), next(
        line for line in reversed(lines) if any(name.startswith("psnr") for name in line)
    )


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for case in args.cases:
        for optimizer in ("adamw", "muon"):
            per_step, _ = run(case, optimizer, WARM + TIMED, args)
            steps = max(WARM + 1, round(args.seconds / per_step))
            _, figures = run(case, optimizer, steps, args)
            name = CASES[case][3]
            rows.append({"recipe": case, "optimizer": optimizer, "steps": steps, "figure": name, "dB": figures[name]})
    figures = {(row["recipe"], row["optimizer"]): row["dB"] for row in rows}
    gains = {case: figures[case, "muon"] - figures[case, "adamw"] for case in args.cases}
    settings = how_it_was_run("benchmarks/optimizers.py", argv)
    text = "\n".join(
        [
            "# AdamW and Muon at equal time\n",
            f"Each recipe from nothing for {args.seconds:g} seconds of one thread with each optimiser, PSNR in dB "
            "of held-out pictures. Muon's gain: "
            + ", ".join(f"{case} {gain:+.2f}" for case, gain in gains.items())
            + ".\n",
            markdown_table(rows, {"recipe": "", "optimizer": "", "steps": "", "figure": "", "dB": ".2f"}),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in settings.items()) + "\n",
        ]
    )
    written = write_report(args.output, {"run": settings, "rows": rows}, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main()
