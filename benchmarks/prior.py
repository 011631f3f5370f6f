#!/usr/bin/env python3
"""Measure how well priors denoise in one step, and keep the table of what was tried for the bundled one.

    python benchmarks/prior.py                                             # the bundled prior
    python benchmarks/prior.py --name "128 px crops" --change "..." prior  # another one, as a row of the table
    python benchmarks/prior.py --before old/quality.json                   # what a new bundled prior restores better

PSNR in dB of the network's x0 estimate of a noisy picture at noise levels 15, 25 and 50 (of 255): the mean over centre
crops of 224 px of the pictures of CBSD68 and of Set5, with the network in bfloat16. Results go to
benchmarks/results/prior.{json,md}; a row of the same name is replaced, the others stay. `--before` measures nothing: it
tables the results of benchmarks/quality.py with an earlier prior beside the present ones.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from diffusers import DDPMPipeline
from PIL import Image
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import images
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.training import DDPMObjective

SETS = {"CBSD68": "cbsd68_jpg.zip", "Set5": "set5.zip"}
SUFFIXES = (".bmp", ".png", ".jpg")
LEVELS = (15, 25, 50)
BUNDLED = "bundled"
# On whole pictures of CBSD68, not on their centres, and not on JPEG copies: for orientation.
PUBLISHED = [
    {"name": "CBM3D, as published", "CBSD68": [33.5, 30.7, 27.4]},
    {"name": "CDnCNN, as published", "CBSD68": [33.9, 31.2, 27.9]},
]
RESULTS = Path(__file__).parent / "results"


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=diffusers_restore.DEFAULT_PRIOR, help="a folder or Hub repository")
    parser.add_argument("--name", default=BUNDLED, help="of the row")
    parser.add_argument("--change", default="", help="what was tried, in words")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/testsets"), help="folder with the zips")
    parser.add_argument("--limit", type=int, help="only the first N pictures of each set")
    parser.add_argument("--before", type=Path, help="quality.json of an earlier prior")
    parser.add_argument("--after", type=Path, default=RESULTS / "quality.json", help="quality.json of the bundled one")
    parser.add_argument("--crop", type=int, default=224, help="side of the centre crop")
    parser.add_argument("--output", type=Path, default=RESULTS / "prior", help="result files, without their suffix")
    return parser.parse_args(argv)


def load_pictures(file: Path, crop: int, limit: int | None) -> list[torch.Tensor]:
    """The centres of the pictures, (1, 3, crop, crop) each."""
    with zipfile.ZipFile(file) as archive:
        names = sorted((n for n in archive.namelist() if n.lower().endswith(SUFFIXES)), key=lambda n: Path(n).name)
        pictures = [images.to_tensor(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names[:limit]]
    corners = [((x.shape[2] - crop) // 2, (x.shape[3] - crop) // 2) for x in pictures]
    return [x[:, :, top : top + crop, left : left + crop] for x, (top, left) in zip(pictures, corners, strict=True)]


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    kept = args.output.with_name(args.output.name + ".json")
    data: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"rows": [], "restoration": []}
    if args.before is not None:
        data["restoration"] = restoration(args.before, args.after)
    else:
        row = measure(args, argv)
        places = [i for i, one in enumerate(data["rows"]) if one["name"] == row["name"]]
        if places:
            row["change"] = row["change"] or data["rows"][places[0]]["change"]
            data["rows"][places[0]] = row
        else:
            data["rows"].append(row)
    text = to_markdown(data)
    written = write_report(args.output, data, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


def measure(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    for file in SETS.values():
        if not (args.data / file).is_file():
            sys.exit(f"there is no {file} in {args.data}: name the folder with {' and '.join(SETS.values())} by --data")
    pipe = DDPMPipeline.from_pretrained(args.model)
    unet = pipe.unet.float().eval().to(memory_format=torch.channels_last)
    objective = DDPMObjective(pipe.scheduler)
    row: dict[str, Any] = {"name": args.name, "change": args.change}
    for group, file in SETS.items():
        pictures = load_pictures(args.data / file, args.crop, args.limit)
        with torch.autocast("cpu", torch.bfloat16):
            figures = [
                objective.evaluate({"unet": unet}, (x,), i)
                for i, x in enumerate(tqdm(pictures, desc=group, leave=False))
            ]
        row[group] = [round(mean(float(one[f"psnr_{level}"]) for one in figures), 3) for level in LEVELS]
    row["run"] = {**how_it_was_run("benchmarks/prior.py", argv), "pictures": args.limit or "all"}
    return row


def restoration(before: Path, after: Path) -> list[dict[str, Any]]:
    """PSNR of one sample and of the mean of all for each task, with the better eta of each, before and after."""
    found: list[dict[str, dict[str, Any]]] = []
    for file in (before, after):
        summary = json.loads(file.read_text())["summary"]
        found.append({one["task"]: one for one in summary if one["group"].startswith("All")})
    old, new = found
    rows = []
    for task in new:
        row = {"task": task, "opponent": new[task]["opponent"], "classical": new[task][new[task]["opponent"]]["psnr"]}
        for kind in ("single", "mean"):
            for name, summary in (("before", old), ("after", new)):
                row[f"{kind}, {name}"] = max(v["psnr"] for key, v in summary[task].items() if key.startswith(kind))
        rows.append(row)
    return rows


def to_markdown(data: dict[str, Any]) -> str:
    def cells(row: dict[str, Any]) -> dict[str, Any]:
        figures = {
            f"{group} {n}": value for group in SETS for n, value in zip(LEVELS, row.get(group, ()), strict=False)
        }
        return {"prior": row["name"], **figures, "what was tried": row.get("change", "")}

    columns = {"prior": "", **{f"{group} {n}": ".2f" for group in SETS for n in LEVELS}, "what was tried": ""}
    rows = data["rows"]
    commands = [f"- {row['name']}: `{row['run']['command']}`, {row['run']['pictures']} pictures" for row in rows]
    restored = []
    if data["restoration"]:
        names = list(data["restoration"][0])
        formats = {name: "" if name in ("task", "opponent") else ".2f" for name in names}
        restored = [
            "## Restoration with the bundled prior, before and after\n",
            "PSNR in dB by benchmarks/quality.py, all pictures, of one sample and of the mean of all, each with the "
            "better eta.\n",
            markdown_table(data["restoration"], formats),
        ]
    return "\n".join(
        [
            "# The bundled prior, and what was tried for it\n",
            "## One-step denoising\n",
            "PSNR in dB of the x0 estimate at noise levels 15, 25 and 50 (of 255). The last column says how the "
            "network was trained.\n",
            markdown_table([cells(row) for row in [*rows, *PUBLISHED]], columns),
            *restored,
            "## How it was run\n",
            *commands,
            "",
        ]
    )


if __name__ == "__main__":
    main()
