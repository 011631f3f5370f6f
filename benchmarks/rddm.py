#!/usr/bin/env python3
"""Measure RDDM (arXiv:2308.13712) beside a plain regression network: deraining, low light, blind restoration.

    python benchmarks/rddm.py --prepare pairs                                        # lays the data out for training
    python benchmarks/rddm.py --derain derain --derain_regression derain_regression  # and so on for the others

Models are folders that `examples/train_rddm.py` has written by examples/recipes/{derain,lowlight,blind}.yaml; the
regression networks were trained by the same recipes with

    --num_train_timesteps 1 --noise_scale 0 --no_conditioned --validation_steps 1

so that they are shown the degraded picture once and say its residual: the same size, pictures, loss and steps. Those of
`--derain_noise` and so on were trained by the same recipes with another `--noise_scale`.
`--bundled` measures the restorer that the package brings along, as blind restoration; `--history` keeps what its
training measured on held-out photographs.

Data are zip files in --data, in the layout of their names below. Rain100H is split so that no scene is on both sides.
For the degraded pictures, the regression network and RDDM at 1, 2, 5 and 10 steps: PSNR and SSIM in RGB, and of luma
(BT.601, 16..235), which most papers on rain and low light state; means over the pictures. Results go to
benchmarks/results/rddm.{json,md} and sheets of pictures beside them; networks that aren't named keep their figures.
What was measured of a picture is kept in benchmarks/results/.cache, under a hash of the network, of the library's code
and of the picture, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import RDDMPipeline, images
from diffusers_restore.degradations.recipes import Plan, create
from diffusers_restore.evaluation.metrics import luma, psnr, ssim
from diffusers_restore.evaluation.report import (
    Cell,
    contact_sheet,
    how_it_was_run,
    markdown_table,
    save_sheet,
    write_report,
)
from diffusers_restore.images import read_picture

RESULTS = Path(__file__).parent / "results"
STEPS = (1, 2, 5, 10)
HIDDEN = (" 2 steps", " 10 steps")  # not in the pictures
SIDE = 192  # of the pictures of the blind task, cut from the centre
OLD_SIDE = 320
SHOWN = 4
# Of Rain100H the scenes 3=4, 5=14, 6=25, 7=36, 8=47, 9=58, 10=69, 11=80, 12=91 are the same: they are all held out.
RAIN_TEST = {*range(1, 13), 14, 25, 36, 47, 58, 69, 80, 91, *range(92, 101)}
# Damages of the blind task besides those that its recipe draws.
DAMAGES: dict[str, tuple[dict[str, Any], ...] | None] = {
    "as trained": None,
    **{
        f"noise {level}": ({"op": "gaussian", "sigma": level / 255, "grey": False, "seed": 0},)
        for level in (15, 25, 30, 50)
    },
    "blur 1.5, noise 3": (
        {"op": "blur", "kernel": "iso", "size": 13, "sigma": 1.5},
        {"op": "gaussian", "sigma": 3 / 255, "grey": False, "seed": 0},
    ),
    "JPEG 30": ({"op": "jpeg", "quality": 30.0, "subsampled": True},),
    "nothing": (),
}
TITLES = {
    "derain": "Deraining, Rain100H",
    "lowlight": "Low light",
    "blind": "Blind restoration, Set5 and CBSD68",
    "bundled": "The bundled restorer, Set5 and CBSD68",
}
BLIND = ("blind", "bundled")


@dataclass(frozen=True)
class Sample:
    """One degraded picture and what it should be, (3, H, W) in [-1, 1]."""

    kind: str
    name: str
    degraded: Tensor
    clean: Tensor


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for task in ("derain", "lowlight", "blind"):
        parser.add_argument(f"--{task}", type=Path, metavar="MODEL", help="folder of the trained RDDM")
        parser.add_argument(f"--{task}_regression", type=Path, metavar="MODEL", help="of the regression network")
        parser.add_argument(f"--{task}_noise", type=Path, metavar="MODEL", help="of an RDDM with another noise scale")
    parser.add_argument("--bundled", action="store_true", help="the restorer of the package, by itself")
    parser.add_argument("--history", type=Path, metavar="FILE", help="metrics.jsonl of the bundled restorer's training")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the zip files")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the training pictures there, and stop")
    parser.add_argument("--pictures", type=int, help="only the first N of each kind")
    parser.add_argument("--output", type=Path, default=RESULTS / "rddm", help="result files, without their suffix")
    parser.add_argument("--cache", type=Path, default=RESULTS / ".cache", help="folder of what was already measured")
    return parser.parse_args(argv)


# --- data -----------------------------------------------------------------------------------------------------------


def prepare(data: Path, folder: Path) -> None:
    """Lay the training pictures out: rain/{clean,rain}, lowlight/{high,low}, photos."""
    for path, target in (
        ("rain100h/rain100h_half.zip", "rain"),
        ("lowlight/lowlight_150x100.zip", "lowlight"),
        ("bsds400/bsds400_320.zip", "photos"),
    ):
        with zipfile.ZipFile(data / path) as archive:
            for name in _pictures(archive):
                parts = PurePosixPath(name).parts
                if target == "rain" and _number(name) in RAIN_TEST:
                    continue
                if target == "lowlight" and parts[0] != "train":
                    continue
                place = folder / target / Path(*parts[1:] if target == "lowlight" else parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))
    print(f"training pictures are in {folder}: rain/clean and rain/rain, lowlight/high and lowlight/low, photos")


def samples(task: str, data: Path, count: int | None) -> Iterator[Sample]:
    if task == "derain":
        yield from _pairs(data / "rain100h/rain100h_half.zip", "rain", "clean", count, only=RAIN_TEST)
    elif task == "lowlight":
        yield from _pairs(data / "lowlight/lowlight_150x100.zip", "eval/low", "eval/high", count)
    else:
        yield from _damaged(data / "testsets", count)


def _pairs(path: Path, degraded: str, clean: str, count: int | None, only: set[int] | None = None) -> Iterator[Sample]:
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(name).name for name in _pictures(archive) if name.startswith(f"{clean}/")]
        names = [name for name in names if only is None or _number(name) in only]
        for name in names[:count]:
            both = [_tensor(archive.read(f"{folder}/{name}")) for folder in (degraded, clean)]
            yield Sample("", name, both[0], both[1])


def _damaged(folder: Path, count: int | None) -> Iterator[Sample]:
    """The same pictures with each of DAMAGES; seed i is that of picture i."""
    recipe = create("blind")
    clean = []
    for path in ("set5.zip", "cbsd68_jpg.zip"):
        with zipfile.ZipFile(folder / path) as archive:
            clean += [(name, _centre(_tensor(archive.read(name)))) for name in _pictures(archive)]
    for kind, steps in DAMAGES.items():
        for i, (name, x) in enumerate(clean[:count]):
            if steps is None:
                plans = (recipe.sample([seed], *x.shape[1:])[0] for seed in range(i * 1000, (i + 1) * 1000))
                plan = next(plan for plan in plans if plan.steps)  # some pictures stay as they are
            else:
                plan = Plan(recipe.kind, tuple({**step, "seed": i} if "seed" in step else step for step in steps))
            damaged = recipe.apply(x[None], [plan])
            # As a file would hold it.
            degraded = ((damaged.degraded[0] + 1) * 127.5).round() / 127.5 - 1
            yield Sample(kind, name, degraded, damaged.clean[0])


def _pictures(archive: zipfile.ZipFile) -> list[str]:
    return sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".png", ".bmp")))


def _number(name: str) -> int:
    found = re.search(r"\d+", PurePosixPath(name).stem)
    assert found is not None
    return int(found.group())


def _tensor(data: bytes) -> Tensor:
    return images.to_tensor(read_picture(data).convert("RGB"))[0]


def _centre(x: Tensor, side: int = SIDE) -> Tensor:
    height, width = (min(side, n) for n in x.shape[1:])
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(task: str, models: dict[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    """The rows of a task, and what its networks are."""
    there = list(samples(task, args.data, args.pictures))
    figures: dict[tuple[str, str], list[dict[str, float]]] = {}
    shown: dict[str, list[Tensor]] = {}
    methods: list[tuple[str, Path | None, int]] = [("degraded", None, 0)]
    if "regression" in models:
        methods.append(("regression", models["regression"], 1))
    if "rddm" in models:
        methods += [(f"RDDM, {steps} step{'s' * (steps > 1)}", models["rddm"], steps) for steps in STEPS]
    if "noise" in models:
        scale = describe(models["noise"])["noise scale"]
        methods += [(f"RDDM, noise scale {scale:g}, {n} step{'s' * (n > 1)}", models["noise"], n) for n in STEPS]
    if "bundled" in models:
        methods.append(("restored", models["bundled"], 1))
    for method, model, steps in methods:
        key = "" if model is None else f"{model_hash(model)} {code_hash()} {torch.__version__} {steps}"
        pipe = None if model is None else load(model)
        for i, sample in enumerate(tqdm(there, desc=f"{task}, {method}")):
            if steps not in (0, 1, 5) and sample.kind != there[0].kind:
                continue  # other damages than the one that was trained for: fewer columns
            found = cached(args.cache, key, sample) if pipe is not None else None
            restored = None
            if found is None or (sample.kind == there[0].kind and i < SHOWN):
                restored = sample.degraded if pipe is None else restore(pipe, sample.degraded, steps, i)
                found = quality(restored, sample.clean)
                if pipe is not None:
                    keep(args.cache, key, sample, found)
            figures.setdefault((sample.kind, method), []).append(found)
            if restored is not None and sample.kind == there[0].kind and i < SHOWN:
                shown.setdefault(method, []).append(restored)
    rows = [
        {"damage": kind, "pictures": len(found), "method": method}
        | {name: float(np.mean([min(one[name], 60.0) for one in found])) for name in found[0]}
        for (kind, method), found in figures.items()
    ]
    rows.sort(key=lambda row: list(dict.fromkeys(sample.kind for sample in there)).index(row["damage"]))
    # "RDDM, 2 steps" and so on of all networks.
    captions = [method for method in shown if not method.startswith("RDDM") or not method.endswith(HIDDEN)]
    short = {method: method.replace("RDDM, noise scale", "noise") for method in captions}  # columns can be narrow
    sheet = [
        ("", [Cell(short[method] if i == 0 else "", shown[method][i]) for method in captions] + [_clean(there[i], i)])
        for i in range(len(shown["degraded"]))
    ]
    suffix = "_noise" if "noise" in models and "rddm" not in models else ""
    save_sheet(contact_sheet(sheet), args.output.with_name(f"{args.output.name}_{task}{suffix}.png"))
    if task in BLIND and not suffix:
        old_photos(task, models, args)
    return {"rows": rows, "networks": {name: describe(model) for name, model in models.items()}}


def old_photos(task: str, models: dict[str, Path], args: argparse.Namespace) -> None:
    """A sheet of really old photographs, before and after each network; nobody knows what they should look like."""
    cells: list[list[Cell]] = []
    with zipfile.ZipFile(args.data / "oldphotos/oldphotos_14.zip") as archive:
        photos = [_centre(_fitted(archive.read(name)), OLD_SIDE) for name in _pictures(archive)[: args.pictures]]
    columns = [("as it is", photos)]
    for name, model in models.items():
        pipe, steps = load(model), 5 if name == "rddm" else 1
        label = f"RDDM, {steps} steps" if name == "rddm" else "restored" if name == "bundled" else name
        columns.append((label, [restore(pipe, x, steps, 0) for x in tqdm(photos, desc=f"old photographs, {label}")]))
    for i in range(len(photos)):
        cells.append([Cell(label if i == 0 else "", column[i]) for label, column in columns])
    sheet = contact_sheet([("", row) for row in cells])
    old = "oldphotos" if task == "blind" else f"{task}_oldphotos"
    save_sheet(sheet, args.output.with_name(f"{args.output.name}_{old}.jpg"))


def _fitted(data: bytes) -> Tensor:
    """A picture whose longer side is at most 480 px, so that its damage still has the size that networks know."""
    picture = read_picture(data).convert("RGB")
    picture.thumbnail((480, 480))
    return images.to_tensor(picture)[0]


def _clean(sample: Sample, i: int) -> Cell:
    return Cell("clean" if i == 0 else "", sample.clean)


def load(model: Path) -> RDDMPipeline:
    pipe = RDDMPipeline.from_pretrained(model, dtype=torch.float32)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def restore(pipe: RDDMPipeline, degraded: Tensor, steps: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return pipe(degraded[None], num_inference_steps=steps, generator=generator, output_type="latent").images[0]


def quality(x: Tensor, clean: Tensor) -> dict[str, float]:
    y, clean_y = luma(x), luma(clean)
    return {"PSNR": psnr(x, clean), "SSIM": ssim(x, clean), "PSNR-Y": psnr(y, clean_y), "SSIM-Y": ssim(y, clean_y)}


def code_hash() -> str:
    """Of the code that restored pictures depend on."""
    package = Path(diffusers_restore.__file__).parent
    names = ("pipelines/pipeline_rddm.py", "pipelines/common.py", "schedulers/scheduling_rddm.py")
    files = [package / name for name in (*names, "schedulers/coefficients.py", "evaluation/metrics.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def model_hash(model: Path) -> str:
    """Of its weights and configurations."""
    files = [*sorted(model.glob("unet*/*.safetensors")), *sorted(model.glob("*/*config.json"))]
    if not files:
        sys.exit(f"there is no trained model in {model}; train one by examples/train_rddm.py first")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _place(cache: Path, key: str, sample: Sample) -> Path:
    digest = hashlib.sha256(key.encode())
    for picture in (sample.degraded, sample.clean):
        digest.update(picture.contiguous().numpy().tobytes())
    return cache / "rddm" / f"{digest.hexdigest()[:24]}.json"


def cached(cache: Path, key: str, sample: Sample) -> dict[str, float] | None:
    place = _place(cache, key, sample)
    return json.loads(place.read_text()) if place.is_file() else None


def keep(cache: Path, key: str, sample: Sample, figures: dict[str, float]) -> None:
    place = _place(cache, key, sample)
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{uuid.uuid4().hex}")
    aside.write_text(json.dumps(figures))
    aside.replace(place)


def describe(model: Path) -> dict[str, Any]:
    pipe = load(model)
    log = model / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.is_file() else []
    config = pipe.scheduler.config
    return {
        "parameters": sum(p.numel() for one in (pipe.unet, pipe.unet_noise) if one for p in one.parameters()),
        "steps": max(steps, default=None),
        "predicts": config.prediction_type,
        "T": config.num_train_timesteps,
        "noise scale": config.noise_scale,
    }


# --- the report -----------------------------------------------------------------------------------------------------


def to_markdown(report: dict[str, Any]) -> str:
    text = [
        "# RDDM beside a regression network\n",
        "Both networks of a task have the same size, pictures, loss (L1), batches and optimiser steps; the regression "
        "network is shown the degraded picture once. PSNR in dB and SSIM, in RGB and of luma (Y of BT.601, 16..235); "
        "means over the pictures, where a picture that is met exactly counts 60 dB.\n",
    ]
    formats = {"damage": "", "method": "", "pictures": "d", "PSNR": ".2f", "SSIM": ".3f"}
    formats |= {"PSNR-Y": ".2f", "SSIM-Y": ".3f"}
    for task, title in TITLES.items():
        if (result := report["tasks"].get(task)) is None:
            continue
        columns = formats if task in BLIND else {name: form for name, form in formats.items() if name != "damage"}
        networks = "; ".join(
            f"{name}: {one['parameters'] / 1e6:.1f} million parameters, "
            + (f"{one['steps']} steps, " if one["steps"] else "")
            + f"predicts the {one['predicts']}, T = {one['T']}, noise scale {one['noise scale']:g}"
            for name, one in result["networks"].items()
        )
        text.append(f"## {title}\n\n{NOTES[task]} {networks}.\n")
        text.append(markdown_table(result["rows"], columns) + f"\n![pictures](rddm_{task}.png)\n")
        if "noise" in result["networks"]:
            scale = result["networks"]["noise"]["noise scale"]
            text.append(f"With noise scale {scale:g}:\n\n![pictures](rddm_{task}_noise.png)\n")
        if "held out" in result:
            text.append(
                "Its last training, measured on held-out photographs:\n\n"
                + markdown_table(result["held out"], {"steps": "d", "PSNR": ".2f", "degraded": ".2f"})
            )
        if task in BLIND:
            old = "rddm_oldphotos.jpg" if task == "blind" else "rddm_bundled_oldphotos.jpg"
            text.append(
                "Really old photographs, reduced to 480 px, of which the centre is shown; there is no truth to "
                f"compare with:\n\n![old photographs]({old})\n"
            )
    compared = {task: result["rows"] for task, result in report["tasks"].items() if task != "bundled"}
    gaps = "; ".join(f"{task} {gap(rows):+.2f} dB" for task, rows in compared.items())
    text.append(
        "## What they say\n\nThe best PSNR of RDDM's columns less that of regression, as the first damage of each "
        f"task has it: {gaps}. At these sizes and lengths of training, a network that always does the same is the "
        "better use of them: an RDDM's learns all timesteps, of which the late ones show it most of the answer. More "
        "steps make pictures sharper, with more of what the network makes up, and PSNR counts that as error. The "
        "published figures of RDDM are of 36 to 73 million parameters and 80,000 steps and more.\n"
    )
    lines = [f"- {task}: {result['command']}" for task, result in report["tasks"].items()]
    lines += [f"- {name}: {value}" for name, value in report["run"].items() if name != "command"]
    text.append("## How it was run\n\n" + "\n".join(lines) + "\n")
    return "\n".join(text)


def joined(earlier: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The results of a task with those of a network that was measured later."""
    # A row that is measured again keeps its place.
    of = {(row["damage"], row["method"]): row for row in (*earlier["rows"], *result["rows"])}
    order = list(dict.fromkeys(damage for damage, _ in of))
    rows = sorted(of.values(), key=lambda row: order.index(row["damage"]))
    commands = list(dict.fromkeys((*earlier["command"].split("; "), result["command"])))
    networks = {**earlier["networks"], **result["networks"]}
    return {"rows": rows, "networks": networks, "command": "; ".join(commands)}


def gap(rows: Sequence[dict[str, Any]]) -> float:
    """RDDM's best PSNR less that of the regression network, NaN without one."""
    first = {row["method"]: row["PSNR"] for row in rows if row["damage"] == rows[0]["damage"]}
    best = max(value for method, value in first.items() if method.startswith("RDDM"))
    return best - first.get("regression", float("nan"))


NOTES = {
    "derain": "Heavy synthetic rain on pictures of 240 x 160 (half size), of which 71 pairs were trained on: the "
    "customary TEST set, so that these figures can't be compared with published ones.",
    "lowlight": "Real pairs of 150 x 100; the input isn't equalised, as the paper's is.",
    "blind": f"The centre of each picture, {SIDE} px at most, damaged by the recipe `blind`, with seeds that training "
    "hasn't seen, and by one thing alone.",
    "bundled": "What `diffusers-restore restore old.jpg -o new.jpg` runs, on the same pictures: plain regression, "
    "trained for longer on other photographs than the networks above.",
}


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.prepare is not None:
        prepare(args.data, args.prepare)
        return
    tasks = {}
    for task in ("derain", "lowlight", "blind"):
        models = {
            "rddm": getattr(args, task),
            "regression": getattr(args, f"{task}_regression"),
            "noise": getattr(args, f"{task}_noise"),
        }
        models = {name: model for name, model in models.items() if model is not None}
        if "rddm" in models or "noise" in models:
            tasks[task] = models
    if args.history is not None and not args.bundled:
        sys.exit("--history is of the bundled restorer's training: give --bundled, too")
    if args.bundled:
        tasks["bundled"] = {"bundled": Path(diffusers_restore.DEFAULT_RESTORER)}
    if not tasks:
        sys.exit(f"name a trained model by one or more of {', '.join(f'--{task}' for task in TITLES)}")
    measured = {task: measure(task, models, args) for task, models in tasks.items()}
    for result in measured.values():
        result["command"] = how_it_was_run("benchmarks/rddm.py", argv)["command"]
    if args.history is not None:
        lines = [json.loads(line) for line in args.history.read_text().splitlines()]
        held_out = [
            {"steps": one["step"], "PSNR": one["psnr"], "degraded": one["psnr_degraded"]}
            for one in lines
            if "psnr" in one
        ]
        measured["bundled"]["held out"] = held_out
    # Read now and not before: another task may have been measured meanwhile.
    path = args.output.with_suffix(".json")
    earlier = json.loads(path.read_text())["tasks"] if path.is_file() else {}
    for task, result in measured.items():
        if task in earlier and "rddm" not in tasks[task] and "bundled" not in tasks[task]:
            measured[task] = joined(earlier[task], result)
    report = {"run": how_it_was_run("benchmarks/rddm.py", argv), "tasks": {**earlier, **measured}}
    _, markdown = write_report(args.output, report, to_markdown(report))
    print(markdown.read_text())


if __name__ == "__main__":
    main()
