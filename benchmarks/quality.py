#!/usr/bin/env python3
"""Measure a prior against classical methods on Set5 and the first 20 pictures of CBSD68: the default method, and DDRM.

    python benchmarks/quality.py

Centre crops of 128 px. For each picture and task: PSNR and SSIM of the one estimate of the method that the command line
takes by default, and for each eta of DDRM those of a single sample (the mean over the samples of their own figures) and
of the mean picture of all samples. Classical methods get the weight that is best for the very
picture. Results go to benchmarks/results/quality.{json,md}. What is measured is kept in benchmarks/results/.cache,
under a hash of the network, of the library's code and of the settings, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import DDRMPipeline, Measurement, images, operators
from diffusers_restore.evaluation import classical
from diffusers_restore.evaluation.metrics import psnr, ssim
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.registries import METHODS
from diffusers_restore.restoring.zero_shot import automatic_method
from diffusers_restore.schedulers.prediction import predict_x0_and_epsilon

TASKS = {"sr2": 0.0, "sr4": 0.0, "inpaint-random": 0.0, "deblur-gauss": 0.02, "denoise": 0.2}
ETAS = (0.85, 1.0)
GREY_LEVELS = (15, 25, 50)  # of 255, for one-step denoising
SETS = (("Set5", "set5.zip", 5), ("CBSD68-20", "cbsd68_jpg.zip", 20))
SUFFIXES = (".bmp", ".png", ".jpg")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Picture:
    group: str
    name: str
    index: int
    x: Tensor  # (1, 3, H, W) in [-1, 1]


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=diffusers_restore.DEFAULT_PRIOR, help="prior: a folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/testsets"), help="folder with the zips")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--limit", type=int, help="only the first N pictures of each set")
    parser.add_argument("--crop", type=int, default=128, help="side of the centre crop")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "quality", help="result files, without their suffix")
    parser.add_argument("--cache", type=Path, default=RESULTS / ".cache", help="folder of what was already measured")
    return parser.parse_args(argv)


def load_pictures(folder: Path, crop: int, limit: int | None) -> list[Picture]:
    pictures: list[Picture] = []
    for group, file, count in SETS:
        if not (folder / file).is_file():
            sys.exit(
                f"there is no {file} in {folder}: name the folder with {' and '.join(s[1] for s in SETS)} by --data"
            )
        with zipfile.ZipFile(folder / file) as archive:
            names = sorted((n for n in archive.namelist() if n.lower().endswith(SUFFIXES)), key=lambda n: Path(n).name)
            for name in names[: min(count, limit or count)]:
                x = images.to_tensor(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                top, left = (x.shape[2] - crop) // 2, (x.shape[3] - crop) // 2
                x = x[:, :, top : top + crop, left : left + crop]
                pictures.append(Picture(group, Path(name).stem, len(pictures), x))
    return pictures


def seeded(*numbers: int) -> torch.Generator:
    """A generator for what these numbers name, so that results don't depend on the order of work."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(state[0]))


class Cache:
    """Results by key, one JSON line each, appended as they come."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rows = path, {}
        text = path.read_text() if path.exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the line that an interruption cut
                continue
            self.rows[row["key"]] = row
        if text and not text.endswith("\n"):
            self._append("\n")

    def get(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.rows:
            started = time.perf_counter()
            row = {"key": key, **compute()}
            row["seconds"] = round(time.perf_counter() - started, 3)
            self.rows[key] = row
            self._append(json.dumps(row) + "\n")
        return self.rows[key]

    def _append(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)


def figures(x: Tensor, picture: Picture) -> dict[str, float]:
    return {"psnr": psnr(x, picture.x[0]), "ssim": ssim(x, picture.x[0])}


def measured(task: str, picture: Picture, seed: int) -> Measurement:
    operator = operators.create(task, image_shape=tuple(picture.x.shape[1:]))
    return operators.measure(operator, picture.x, TASKS[task], seeded(seed, picture.index))


def opponents(task: str, picture: Picture, seed: int) -> dict[str, Any]:
    measurement = measured(task, picture, seed)
    row: dict[str, Any] = {"pseudo-inverse": figures(measurement.operator.pinv(measurement.y)[0], picture)}
    for opponent in classical.opponents(measurement.operator):
        x, weight = classical.best(opponent, measurement, picture.x[0])
        row[opponent.name] = {**figures(x[0], picture), "weight": weight}
    return row


def ddrm(pipe: DDRMPipeline, task: str, eta: float, picture: Picture, args: argparse.Namespace) -> dict[str, Any]:
    measurement = measured(task, picture, args.seed)
    pipe.scheduler = METHODS["ddrm"].from_config(pipe.scheduler.config)
    restored = pipe(
        measurement.y,
        operator=measurement.operator,
        sigma_y=measurement.sigma_y,
        num_inference_steps=args.steps,
        eta=eta,
        generator=[seeded(args.seed, picture.index, 1 + sample) for sample in range(args.samples)],
        num_images_per_input=args.samples,
        output_type="latent",
    ).images
    each = [figures(x, picture) for x in restored]
    single = {name: mean(one[name] for one in each) for name in ("psnr", "ssim")}
    return {"single": single, "mean": figures(restored.mean(dim=0), picture)}


def default(pipe: DDRMPipeline, task: str, picture: Picture, args: argparse.Namespace) -> dict[str, Any]:
    measurement = measured(task, picture, args.seed)
    pipe.scheduler = METHODS[automatic_method(task)].from_config(pipe.scheduler.config)
    restored = pipe(
        measurement.y,
        operator=measurement.operator,
        sigma_y=measurement.sigma_y,
        generator=seeded(args.seed, picture.index, 1),
        output_type="latent",
    ).images
    return {"default": figures(restored[0], picture), "evaluations": pipe.num_evaluations}


@torch.no_grad()
def one_step(pipe: DDRMPipeline, picture: Picture, seed: int) -> dict[str, float]:
    """PSNR of the network's x0_hat at the timestep whose noise level is nearest, for some noise levels."""
    scheduler, row = pipe.scheduler, {}
    for level in GREY_LEVELS:
        sigma = 2 * level / 255
        t = min(range(len(scheduler)), key=lambda t: abs(scheduler.sigma(t) - sigma))
        alpha_bar = scheduler.alpha_bar(t)
        noise = torch.randn(picture.x.shape, generator=seeded(seed, picture.index, 0, level))
        sample = alpha_bar**0.5 * (picture.x + sigma * noise)
        output = pipe.unet(sample.to(pipe.unet.dtype), t, return_dict=False)[0][:, :3].float()
        x0_hat, _ = predict_x0_and_epsilon(output, sample, alpha_bar, scheduler.config.prediction_type)
        row[str(level)] = psnr(x0_hat[0], picture.x[0])
    return row


def network_hash(model: str) -> str:
    files = sorted(Path(model).glob("unet/*.safetensors")) or sorted(Path(model).glob("*.safetensors"))
    if not files:
        sys.exit(f"there are no *.safetensors in the model folder {model}, nor in its folder unet; name it by --model")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def code_hash() -> str:
    """Of the code that a result depends on."""
    package = Path(diffusers_restore.__file__).parent
    folders = ("evaluation", "operators", "pipelines", "schedulers")
    files = [Path(__file__), *sorted(file for folder in folders for file in (package / folder).glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def summarise(task: str, group: str, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over the pictures of a group. `rows` are those of "classical" and of each eta, in the pictures' order."""

    def average(of: list[dict[str, Any]], name: str) -> dict[str, float]:
        return {metric: mean(row[name][metric] for row in of) for metric in ("psnr", "ssim")}

    classics = [n for n, v in rows["classical"][0].items() if isinstance(v, dict) and n != "pseudo-inverse"]
    opponent = max(classics, key=lambda name: average(rows["classical"], name)["psnr"])
    result: dict[str, Any] = {"task": task, "group": group, "pictures": len(rows["classical"]), "opponent": opponent}
    for name in ("pseudo-inverse", *classics):
        result[name] = average(rows["classical"], name)
    ours = [("default", "default", "default")]
    ours += [(f"{name} eta {eta}", str(eta), name) for eta in ETAS for name in ("single", "mean")]
    for title, of, name in ours:
        pairs = zip(rows[of], rows["classical"], strict=True)
        won = sum(one[name]["psnr"] > theirs[opponent]["psnr"] for one, theirs in pairs)
        result[title] = {**average(rows[of], name), "won": won}
    result["evaluations"] = rows["default"][0]["evaluations"]
    return result


def of_endless_samples(result: dict[str, Any], count: int) -> float:
    """PSNR of the mean of endlessly many samples of DDRM, the best of all eta.

    The mean squared error of a mean of n samples is a + b / n; the figures of one and of `count` say what a is.
    """

    def limit(eta: float) -> float:
        one, several = (10 ** (-result[f"{name} eta {eta}"]["psnr"] / 10) for name in ("single", "mean"))
        return -10 * log10((count * several - one) / (count - 1))

    return max(limit(eta) for eta in ETAS)


def below_1_db(summary: list[dict[str, Any]], count: int) -> str:
    """Where the default method isn't 1 dB above the classical one, and what the network could give at all."""
    lines = []
    for result in summary:
        ours, theirs = result["default"]["psnr"], result[result["opponent"]]["psnr"]
        if ours - theirs < 1:
            lines.append(
                f"- {result['task']} on {result['group']}: {ours - theirs:.2f} dB. DDRM's mean of endlessly many "
                f"samples would have {of_endless_samples(result, count) - theirs:.2f} dB (the error of a mean of n is "
                f"a + b / n; one and {count} were measured), more than which the network doesn't know.\n"
            )
    return "## Less than 1 dB above the classical method\n\n" + "".join(lines or ["Nowhere.\n"])


def to_markdown(run: dict[str, Any], summary: list[dict[str, Any]], denoising: list[dict[str, Any]]) -> str:
    count = run["samples"]
    names = {"default": "default method"} | {
        f"{name} eta {eta}": f"{'one sample' if name == 'single' else f'mean of {count}'}, η {eta:g}"
        for eta in ETAS
        for name in ("single", "mean")
    }
    rows = []
    for result in summary:
        opponent = result[result["opponent"]]
        row = {
            "task": result["task"],
            "evaluations": result["evaluations"],
            "classical": f"{result['opponent']} {opponent['psnr']:.2f} / {opponent['ssim']:.3f}",
        }
        for name, title in names.items():
            ours = result[name]
            cell = f"{ours['psnr']:.2f} / {ours['ssim']:.3f}"
            bold = f"**{cell}**" if ours["psnr"] > opponent["psnr"] else cell
            row[title] = f"{bold} ({ours['won']}/{result['pictures']})"
        rows.append((result["group"], row))
    text = [
        "# Quality of the bundled prior against classical methods\n",
        "PSNR in dB / SSIM, means over pictures; in brackets on how many pictures it has the higher PSNR; bold where "
        "its mean PSNR is. `default method` is the one estimate that the command line makes (`dpir`, in so many "
        "evaluations of the network); the others are DDRM: `one sample` what one run gives (mean over samples), "
        f"`mean of {count}` the figure of their mean picture. The classical method is the one with the best PSNR, with "
        f"weights that are best for the very picture. Centre crops of {run['crop']} px, {run['steps']} steps of DDRM, "
        f"sigma_y {', '.join(f'{sigma:g} ({task})' for task, sigma in TASKS.items() if sigma)}, otherwise 0.\n",
    ]
    for group in dict.fromkeys(group for group, _ in rows):
        table = markdown_table(
            [row for g, row in rows if g == group],
            dict.fromkeys(["task", "classical", "evaluations", *names.values()], ""),
        )
        text.append(f"## {group}\n\n{table}")
    text.append(below_1_db(summary, count))
    text.append("## One-step denoising by the network\n\nPSNR of x0_hat in dB; noise in grey levels of 255.\n")
    text.append(markdown_table(denoising, {"group": "", **{str(level): ".2f" for level in GREY_LEVELS}}))
    text.append("## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n")
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    pictures = load_pictures(args.data, args.crop, args.limit)
    network = network_hash(args.model)
    pipe = DDRMPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)

    settings = {name: getattr(args, name) for name in ("crop", "samples", "steps", "dtype", "seed")}
    key = hashlib.sha256(json.dumps([network, code_hash(), settings]).encode()).hexdigest()[:16]
    cache = Cache(args.cache / f"quality-{key}.jsonl")
    used: list[dict[str, Any]] = []
    by_task: dict[str, dict[str, list[dict[str, Any]]]] = {t: {} for t in args.tasks}
    denoising: list[dict[str, Any]] = []
    with tqdm(total=len(pictures) * (1 + len(args.tasks) * (2 + len(ETAS)))) as bar:

        def get(what: str, picture: Picture, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            bar.set_description(f"{picture.name} {what}")
            row = cache.get(f"{picture.group}/{picture.name} {picture.index} {what}", compute)
            used.append(row)
            bar.update()
            return row

        for picture in pictures:
            denoising.append(get("one-step", picture, lambda p=picture: one_step(pipe, p, args.seed)))
            for task, rows in by_task.items():
                compute = lambda p=picture, t=task: opponents(t, p, args.seed)  # noqa: E731
                rows.setdefault("classical", []).append(get(f"{task} classical", picture, compute))
                compute = lambda p=picture, t=task: default(pipe, t, p, args)  # noqa: E731
                rows.setdefault("default", []).append(get(f"{task} default", picture, compute))
                for eta in ETAS:
                    compute = lambda p=picture, t=task, e=eta: ddrm(pipe, t, e, p, args)  # noqa: E731
                    rows.setdefault(str(eta), []).append(get(f"{task} eta {eta}", picture, compute))

    groups = {group: [p.index for p in pictures if p.group == group] for group, _, _ in SETS}
    groups[f"All {len(pictures)} pictures"] = [p.index for p in pictures]
    summary = [
        summarise(task, group, {name: [rows[name][i] for i in members] for name in rows})
        for group, members in groups.items()
        for task, rows in by_task.items()
    ]
    one_steps = [
        {"group": group, **{str(level): mean(denoising[i][str(level)] for i in members) for level in GREY_LEVELS}}
        for group, members in groups.items()
    ]
    run = {
        **how_it_was_run("benchmarks/quality.py", argv),
        "network (SHA-256)": network,
        **settings,
        "seconds": round(sum(row["seconds"] for row in used)),
    }
    text = to_markdown(run, summary, one_steps)
    data = {"run": run, "summary": summary, "one_step_denoising": one_steps, "pictures": used}
    written = write_report(args.output, data, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main()
