#!/usr/bin/env python3
"""Make the tables of README.md and of the models' cards anew of what the benchmarks have measured.

    python benchmarks/figures.py

It reads benchmarks/results/*.json, measures nothing, and writes what lies between `<!-- figures: NAME -->` and
`<!-- /figures -->` in the pages below.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers_restore.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ASSETS = ROOT / "diffusers_restore" / "assets"
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "old_photos.md",
    ASSETS / "blind_restorer" / "README.md",
    ASSETS / "old_photo_restorer" / "README.md",
)

TASKS = {
    "sr2": "super-resolution x2",
    "sr4": "super-resolution x4",
    "deblur-gauss": "deblurring, noise 0.02",
    "denoise": "denoising, noise 0.2",
    "inpaint-random": "inpainting, 50 % of the pixels at random",
}
_ALL = "All 25 pictures"
_MARKED = re.compile(r"(<!-- figures: (\S+) -->\n)(.*?)(<!-- /figures -->)", re.S)


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def quality() -> str:
    """The default method and DDRM beside the best classical one, with the eta that suits the task."""
    rows = [row for row in read("quality")["summary"] if row["group"] == _ALL]
    cbm3d = next(row["psnr"] for row in read("cbm3d")["rows"] if row["pictures"] == "All")
    lines = ["| task | classical | default | DDRM, one sample | DDRM, mean of 8 |", "|---|---|---|---|---|"]
    for task, title in TASKS.items():
        row = next(row for row in rows if row["task"] == task)
        classical = f"{row['opponent']} {row[row['opponent']]['psnr']:.2f}"
        if task == "denoise":
            classical += f", [CBM3D](benchmarks/results/cbm3d.md) {cbm3d:.2f}"
        eta = 0.85 if task in ("deblur-gauss", "denoise") else 1.0
        ours = [row[name]["psnr"] for name in ("default", f"single eta {eta}", f"mean eta {eta}")]
        default, *others = (f"{value:.2f}" for value in ours)
        lines.append(f"| {title} | {classical} | **{default}** | {' | '.join(others)} |")
    return "\n".join(lines) + "\n"


def blind() -> str:
    """What the bundled restorer does to each damage."""
    rows = read("rddm")["tasks"]["bundled"]["rows"]
    lines = ["| damage | degraded | restored |", "|---|---:|---:|"]
    for damage in dict.fromkeys(row["damage"] for row in rows):
        found = {row["method"]: row for row in rows if row["damage"] == damage}
        cells = [f"{found[name]['PSNR']:.2f} / {found[name]['SSIM']:.3f}" for name in ("degraded", "restored")]
        lines.append(f"| {damage} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def old_photos() -> str:
    """What the bundled networks make of old photographs."""
    named = {
        "damaged": "damaged",
        "blind restorer": "bundled restorer alone",
        "restore --scratches auto": "`--scratches auto`",
        "true mask + 1 px: inpainted, then blind restorer": "the same with the true masks",
        "restore --faded": "`--faded`",
        "restore --faded --scratches auto": "`--faded --scratches auto`",
    }
    rows = {row["method"]: row for row in read("old_photos")["parts"]["synthetic"]["rows"]}
    lines = ["| PSNR in dB | whole picture | where it was scratched |", "|---|---:|---:|"]
    for method, title in named.items():
        row = rows[method]
        lines.append(f"| {title} | {row['PSNR']:.2f} | {row['PSNR in mask']:.2f} |")
    return "\n".join(lines) + "\n"


MADE: dict[str, Callable[[], str]] = {"quality": quality, "blind": blind, "old_photos": old_photos}


def renewed(page: Path) -> str:
    """The text of a page with its figures made anew."""
    return _MARKED.sub(lambda found: found[1] + MADE[found[2]]() + found[4], page.read_text())


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for page in PAGES:
        write_text(page, renewed(page))
        print(page.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
