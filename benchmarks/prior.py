#!/usr/bin/env python3
"""Measure how well priors denoise in one step, and keep the table of what was tried for the bundled one.

    python benchmarks/prior.py                                             # the bundled prior
    python benchmarks/prior.py --name "128 px crops" --change "..." prior  # another one, as a row of the table
    python benchmarks/prior.py --before old/quality.json                   # what a new bundled prior restores better
    python benchmarks/prior.py --prepare photos                            # photos/train and photos/held_out
    python benchmarks/prior.py --train residual --photos photos            # one of the networks, for equal time

PSNR in dB of the network's x0 estimate of a noisy picture at noise levels 15, 25 and 50 (of 255), with the network in
bfloat16: the mean over the whole pictures of CBSD68, as published figures are, and over centre crops of 224 px of them
and of Set5. Results go to benchmarks/results/prior.{json,md}; a row of the same name is replaced, the others stay.
`--before` measures nothing: it tables the results of benchmarks/quality.py with an earlier prior beside the present
ones. `--prepare` takes the photographs that may be used for anything out of their archives. `--train` trains a
candidate network from nothing for so many seconds of one core, steps being counted in advance by the time that a few
take, and tables what it is worth.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from diffusers import DDPMPipeline, UNet2DModel
from PIL import Image
from torch import nn
from torch.nn import functional
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import ResidualUNet2DModel, images
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.training import DDPMObjective
from diffusers_restore.training.config import PriorConfig, build
from diffusers_restore.training.data import open_data
from diffusers_restore.training.loop import train
from diffusers_restore.training.prior import make_prior

SETS = {"CBSD68": "cbsd68_jpg.zip", "Set5": "set5.zip"}
SUFFIXES = (".bmp", ".png", ".jpg")
LEVELS = (15, 25, 50)
BUNDLED = "bundled"
WHOLE = "CBSD68, whole"
GROUPS = (WHOLE, *SETS)
MULTIPLE = 8  # of which the sides of whole pictures are, for networks that halve them
GOAL = (34.1, 31.5, 28.2)  # dB on whole pictures of CBSD68, above CDnCNN
PUBLISHED: list[dict[str, Any]] = [
    {"name": "CBM3D, as published", WHOLE: [33.52, 30.71, 27.38], "change": "arXiv:2008.13751"},
    {"name": "CDnCNN, as published", WHOLE: [33.90, 31.24, 27.95], "change": "arXiv:2008.13751"},
    {"name": "FFDNet, as published", WHOLE: [33.87, 31.21, 27.96], "change": "arXiv:2008.13751"},
]
RESULTS = Path(__file__).parent / "results"
TIERS = "AB"  # CC0, public domain and CC-BY
WARM, TIMED = 3, 12  # steps
RECIPE: dict[str, Any] = {
    **yaml.safe_load((Path(__file__).parents[1] / "examples/recipes/default_prior.yaml").read_text(encoding="utf-8")),
    "logger": "none",
}


class OnPatches(nn.Module):
    """A `UNet2DModel` on 2 x 2 patches."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=64, in_channels=3)
        self.inner = unet(32, 12, **config)

    def forward(self, sample: torch.Tensor, timestep: Any) -> Any:
        out = self.inner(functional.pixel_unshuffle(sample, 2), timestep).sample
        return SimpleNamespace(sample=functional.pixel_shuffle(out, 2))


def unet(size: int, channels: int, widths: Sequence[int]) -> UNet2DModel:
    blocks = {f"{way}_block_types": (f"{way.title()}Block2D",) * len(widths) for way in ("down", "up")}
    options = {"layers_per_block": 1, "norm_num_groups": 16, "add_attention": False, **blocks}
    return UNet2DModel(size, channels, channels, block_out_channels=tuple(widths), **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: unet(64, 3, (32, 64, 128, 160)),
    "patches": lambda: OnPatches(widths=(64, 128, 192)),
    "residual": lambda: ResidualUNet2DModel(64),
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=diffusers_restore.DEFAULT_PRIOR, help="a folder or Hub repository")
    parser.add_argument("--name", default=BUNDLED, help="of the row")
    parser.add_argument("--change", default="", help="what was tried, in words")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/testsets"), help="folder with the zips")
    parser.add_argument("--limit", type=int, help="only the first N pictures of each set")
    parser.add_argument("--before", type=Path, help="quality.json of an earlier prior")
    parser.add_argument("--after", type=Path, default=RESULTS / "quality.json", help="quality.json of the bundled one")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the photographs to train on here")
    parser.add_argument("--archives", type=Path, default=Path("../shared/data/freephotos"), help="of the photographs")
    parser.add_argument("--train", choices=NETWORKS, metavar="NETWORK", help=f"one of {', '.join(NETWORKS)}")
    parser.add_argument("--photos", type=Path, help="folder that --prepare made")
    parser.add_argument("--seconds", type=float, default=1500, help="of one core")
    parser.add_argument("--crop", type=int, default=224, help="side of the centre crops")
    parser.add_argument("--output", type=Path, default=RESULTS / "prior", help="result files, without their suffix")
    return parser.parse_args(argv)


def load_pictures(file: Path, crop: int | None, limit: int | None) -> list[torch.Tensor]:
    """The centres of the pictures, (1, 3, crop, crop) each; None is all but the last few rows and columns."""
    with zipfile.ZipFile(file) as archive:
        names = sorted((n for n in archive.namelist() if n.lower().endswith(SUFFIXES)), key=lambda n: Path(n).name)
        pictures = [images.to_tensor(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names[:limit]]
    if crop is None:
        return [x[:, :, : x.shape[2] // MULTIPLE * MULTIPLE, : x.shape[3] // MULTIPLE * MULTIPLE] for x in pictures]
    corners = [((x.shape[2] - crop) // 2, (x.shape[3] - crop) // 2) for x in pictures]
    return [x[:, :, top : top + crop, left : left + crop] for x, (top, left) in zip(pictures, corners, strict=True)]


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.prepare is not None:
        prepare(args.archives, args.prepare)
        return
    kept = args.output.with_name(args.output.name + ".json")
    data: dict[str, Any] = {"rows": [], "restoration": [], "networks": []}
    if args.train is not None:
        row = trained(args, argv)
    elif args.before is None:
        row = measure(args, argv)
    data |= json.loads(kept.read_text()) if kept.exists() else {}  # late, since another run may have written to it
    if args.before is not None:
        data["restoration"] = restoration(args.before, args.after)
    else:
        rows = data["networks" if args.train else "rows"]
        places = [i for i, one in enumerate(rows) if one["name"] == row["name"]]
        if places:
            row["change"] = row.get("change") or rows[places[0]].get("change", "")
            rows[places[0]] = row
        else:
            rows.append(row)
    text = to_markdown(data)
    written = write_report(args.output, data, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


def prepare(archives: Path, folder: Path) -> None:
    """The photographs of the tiers that may be used for anything, their attribution, and the held-out ones."""
    with (archives / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "attribution.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if row["split"] == "train" and row["tier"] in TIERS)
    wanted = {"train": {row["file"] for row in rows if row["split"] == "train" and row["tier"] in TIERS}}
    wanted["held_out"] = {row["file"] for row in rows if row["split"] == "heldout"}
    for archive in sorted(archives.glob("*.zip")):
        with zipfile.ZipFile(archive) as pictures:
            for name in pictures.namelist():
                for part, names in wanted.items():
                    if Path(name).name in names:
                        (folder / part).mkdir(parents=True, exist_ok=True)
                        (folder / part / Path(name).name).write_bytes(pictures.read(name))
    for part, names in wanted.items():
        print(f"{folder / part}: {len(list((folder / part).iterdir()))} of {len(names)} photographs")


def trained(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """The row of a network that was trained from nothing for `args.seconds` of one core."""
    if args.photos is None:
        sys.exit("--train needs --photos, the folder that --prepare made")
    torch.set_num_threads(1)
    scheduler = make_prior(build(PriorConfig, {**RECIPE, "train_data_dir": str(args.photos)}))[1]

    def run(steps: int) -> tuple[nn.Module, dict[str, float], float]:
        """The averaged network, its figures of the held-out photographs, and the CPU seconds of the run."""
        torch.manual_seed(0)
        network = NETWORKS[args.train]()
        with tempfile.TemporaryDirectory() as scratch:
            values = {
                **RECIPE,
                "train_data_dir": str(args.photos / "train"),
                "validation_data_dir": str(args.photos / "held_out"),
                "output_dir": scratch,
                "max_train_steps": steps,
                "lr_decay_steps": steps // 2,
                "checkpointing_steps": 2**30,
            }
            config: PriorConfig = build(PriorConfig, values)
            data = open_data(config.data, 0)
            objective = DDPMObjective(scheduler, timestep_sampling=config.objective.timestep_sampling)
            found: list[tuple[nn.Module, dict[str, float], float]] = []
            begin = time.process_time()

            def export(networks: Mapping[str, nn.Module], progress: Any) -> None:
                found.append((networks["unet"], progress.figures, time.process_time() - begin))

            optimizers = {"unet": config.optimizer}
            train(objective, {"unet": network}, data, optimizers, config.training, export=export)
        return found[0]

    # Both with the measuring at their end, which cancels.
    per_step = (run(WARM + TIMED)[2] - run(WARM)[2]) / TIMED
    steps = max(WARM, round(args.seconds / per_step))
    network, held_out, _ = run(steps)
    parameters = sum(one.numel() for one in network.parameters())
    row: dict[str, Any] = {"name": args.train, "parameters": parameters, "steps": steps, "seconds": args.seconds}
    row["pictures_per_second"] = RECIPE["train_batch_size"] / per_step
    network.eval().to(memory_format=torch.channels_last)
    row |= denoised(network, DDPMObjective(scheduler), args)
    row["held out"] = [round(held_out[f"psnr_{level}"], 3) for level in LEVELS]
    row["run"] = how_it_was_run("benchmarks/prior.py", argv)
    return row


def measure(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    pipe = DDPMPipeline.from_pretrained(args.model)
    network = pipe.unet.float().eval().to(memory_format=torch.channels_last)
    row: dict[str, Any] = {"name": args.name, "change": args.change}
    row |= denoised(network, DDPMObjective(pipe.scheduler), args)
    row["x0_errors"] = network.config.get("x0_errors")
    row["run"] = {**how_it_was_run("benchmarks/prior.py", argv), "pictures": args.limit or "all"}
    return row


@torch.no_grad()
def denoised(network: nn.Module, objective: DDPMObjective, args: argparse.Namespace) -> dict[str, list[float]]:
    """Mean PSNR of each set at each level."""
    for file in SETS.values():
        if not (args.data / file).is_file():
            sys.exit(f"there is no {file} in {args.data}: name the folder with {' and '.join(SETS.values())} by --data")
    found = {}
    for group in GROUPS:
        file, crop = (SETS["CBSD68"], None) if group == WHOLE else (SETS[group], args.crop)
        pictures = load_pictures(args.data / file, crop, args.limit)
        with torch.autocast("cpu", torch.bfloat16):
            figures = [
                objective.evaluate({"unet": network}, (x,), i)
                for i, x in enumerate(tqdm(pictures, desc=group, leave=False))
            ]
        found[group] = [round(mean(float(one[f"psnr_{level}"]) for one in figures), 3) for level in LEVELS]
    return found


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


def curve(rows: list[dict[str, Any]]) -> list[str]:
    """How far from the goal the bundled prior is, and what more of its training gave."""
    first = [row for row in rows if row["name"] == BUNDLED]
    if not first:
        return []

    def stated(values: Sequence[float], low: Sequence[float]) -> str:
        return " / ".join(f"{value - other:.2f}" for value, other in zip(values, low, strict=True))

    bundled = first[0]
    goal = " / ".join(map(str, GOAL))
    text = (
        f"The goal on whole pictures of CBSD68 was {goal} dB; the bundled prior is {stated(GOAL, bundled[WHOLE])} dB "
        "short."
    )
    more = [row for row in rows if "gone on with" in row["name"]]
    if more:
        best = max(more, key=lambda row: sum(row["CBSD68"]))["CBSD68"]
        text += (
            f" Going on with its training, in {len(more)} ways for up to three times as long, gave "
            f"{stated(best, bundled['CBSD68'])} dB more in all, measured on the crops: the curve is flat, and a longer "
            "training of this network on these photographs isn't all that is missing."
        )
    return [text + "\n"]


def to_markdown(data: dict[str, Any]) -> str:
    def cells(row: dict[str, Any]) -> dict[str, Any]:
        figures = {
            f"{group} {n}": value for group in GROUPS for n, value in zip(LEVELS, row.get(group, ()), strict=False)
        }
        return {"prior": row["name"], **figures, "what was tried": row.get("change", "")}

    columns = {"prior": "", **{f"{group} {n}": ".2f" for group in GROUPS for n in LEVELS}, "what was tried": ""}
    rows = data["rows"]
    commands = [f"- {row['name']}: `{row['run']['command']}`, {row['run']['pictures']} pictures" for row in rows]
    errors = []
    for row in rows:
        if row["name"] == BUNDLED and row.get("x0_errors"):
            pairs = [{"sigma": sigma, "mean squared error": error} for sigma, error in row["x0_errors"]]
            errors = [
                "## Errors of x0_hat\n",
                "Mean squared error of the bundled prior's x0_hat, unclipped, in the unit of [-1, 1], on the held-out "
                "photographs with noise of deviation sigma; stored in the network's configuration as `x0_errors`.\n",
                markdown_table(pairs, {"sigma": ".4g", "mean squared error": ".4g"}),
            ]
    compared = []
    if data["networks"]:
        groups = ("CBSD68", "Set5", "held out")
        table = [
            {
                "network": row["name"],
                "parameters": f"{row['parameters'] / 1e6:.2f} M",
                "pictures/s": row["pictures_per_second"],
                "crops": row["steps"] * RECIPE["train_batch_size"],
                **{f"{group} {n}": value for group in groups for n, value in zip(LEVELS, row[group], strict=True)},
            }
            for row in data["networks"]
        ]
        formats = {f"{group} {n}": ".2f" for group in groups for n in LEVELS}
        compared = [
            "## Networks at equal time\n",
            f"Each from nothing for {data['networks'][0]['seconds']:g} s of one core: 246 photographs, batches of 32 "
            "crops of 64 px, Muon, bfloat16, noise levels half uniform and half lognormal, rate falling over the "
            "second half. `unet` is UNet2DModel (32, 64, 128, 160) as `train prior` makes it, `patches` is UNet2DModel "
            "(64, 128, 192) on 2 x 2 patches, `residual` is ResidualUNet2DModel. PSNR in dB as above; `held out` are "
            "20 photographs of other sources.\n",
            markdown_table(table, {"network": "", "parameters": "", "pictures/s": ".0f", "crops": "", **formats}),
            *(f"- {row['name']}: `{row['run']['command']}`" for row in data["networks"]),
            "",
        ]
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
            "PSNR in dB of the x0 estimate at noise levels 15, 25 and 50 (of 255), on whole pictures of CBSD68, as "
            "published figures are, and on centre crops of 224 px of CBSD68 and Set5, which show more of the subject "
            "and are harder. Early rows have no whole pictures. The last column says how the network was trained.\n",
            markdown_table([cells(row) for row in [*rows, *PUBLISHED]], columns),
            *curve(rows),
            *errors,
            *compared,
            *restored,
            "## How it was run\n",
            *commands,
            "",
        ]
    )


if __name__ == "__main__":
    main()
