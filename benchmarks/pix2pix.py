#!/usr/bin/env python3
"""Measure Pix2pix (arXiv:1611.07004) beside L1 alone and RDDM: photographs of facades from maps of their parts.

    python benchmarks/pix2pix.py --prepare pairs                      # lays the pictures out for training
    python benchmarks/pix2pix.py --facades_l1 facades_l1 --facades_gan facades --facades_rddm facades_rddm
    python benchmarks/pix2pix.py --edges photo_of_edges

Models are folders that training wrote by examples/recipes/{facades,facades_rddm,edges}.yaml; the first of them says how
L1 alone is trained. Their times of training are those of their metrics.jsonl.

Data are zip files in --data: facades/facades_128.zip, {train,val,test}/*.jpg with the photograph on the left and the
map on the right, and freephotos/freephotos_{train_a,train_b,heldout}.zip. Measured on the test pairs of facades, and
on drawings of the held-out photographs by the recipe `edges`:

- L1, the mean absolute distance to the truth in [-1, 1], PSNR in dB and SSIM;
- Frechet, the Frechet distance of features of a network trained here; not FID, comparable only within this table. It is
  a small network, which learns from the photographs of the training parts how much they were blurred, made noisy,
  shuffled, turned and recoloured; its weights are kept in --cache, under a hash of all that they depend on;
- variety, the mean absolute distance of two pictures that are made of the same input with different seeds;
- seconds for a picture, one at a time: the median.

Results go to benchmarks/results/pix2pix.{json,md} and sheets of pictures beside them; of facades and edges, what isn't
named keeps its figures.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import re
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from diffusers_restore import Pix2PixPipeline, RDDMPipeline, images
from diffusers_restore.degradations.recipes import create
from diffusers_restore.evaluation.frechet import frechet_distance, gaussian_fit
from diffusers_restore.evaluation.metrics import psnr, ssim
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
FACADES = "facades/facades_128.zip"
PHOTOS = ("freephotos/freephotos_train_a.zip", "freephotos/freephotos_train_b.zip")
HELD_OUT = "freephotos/freephotos_heldout.zip"
SIDE = 128  # of photographs
RDDM_STEPS = 10
SHOWN = 8
# How the table calls the models, by their options.
METHODS = {"l1": "L1 alone", "gan": "GAN + L1", "rddm": f"RDDM, {RDDM_STEPS} steps"}
FRECHET = "Frechet distance of features of a network trained here; not FID, comparable only within this table"


@dataclass(frozen=True)
class Sample:
    """What goes in, and what should come out, (3, H, W) in [-1, 1]."""

    given: Tensor
    truth: Tensor


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, method in METHODS.items():
        parser.add_argument(f"--facades_{name}", type=Path, metavar="MODEL", help=f"folder of the model: {method}")
    parser.add_argument("--edges", type=Path, metavar="MODEL", help="of the one that makes photographs of drawings")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the zip files")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the training pictures there, and stop")
    parser.add_argument("--pictures", type=int, help="only the first N of each kind")
    parser.add_argument("--feature_steps", type=int, default=2000, help="training of the network of the features")
    parser.add_argument("--output", type=Path, default=RESULTS / "pix2pix", help="result files, without their suffix")
    parser.add_argument("--cache", type=Path, default=RESULTS / ".cache", help="folder of that network's weights")
    return parser.parse_args(argv)


# --- data -----------------------------------------------------------------------------------------------------------


def prepare(data: Path, folder: Path) -> None:
    """Lay the training pictures out: facades/{train,val}, photos."""
    for path in (FACADES, *PHOTOS):
        with zipfile.ZipFile(data / path) as archive:
            for name in _names(archive):
                parts = PurePosixPath(name).parts
                if parts[0] == "test":
                    continue
                place = folder / "facades" / Path(*parts) if path == FACADES else folder / "photos" / parts[-1]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))
    print(f"training pictures are in {folder}: facades/train and facades/val, photos")


def facades(data: Path, part: str, count: int | None = None) -> list[Sample]:
    """The pairs of train, val or test, in the order of their numbers."""
    with zipfile.ZipFile(data / FACADES) as archive:
        names = [name for name in _names(archive) if PurePosixPath(name).parts[0] == part]
        both = [images.to_tensor(read_picture(archive.read(name)).convert("RGB"))[0] for name in names[:count]]
    return [Sample(map_, photo) for photo, map_ in (one.chunk(2, dim=2) for one in both)]


def photographs(data: Path, path: str, side: int, count: int | None = None) -> list[Tensor]:
    """The centres of photographs, (3, side, side), after their shorter side became `side`."""
    with zipfile.ZipFile(data / path) as archive:
        return [_square(read_picture(archive.read(name)), side) for name in _names(archive)[:count]]


def drawings(data: Path, count: int | None) -> list[Sample]:
    """The held-out photographs and their edges, all drawn equally fine."""
    truth = photographs(data, HELD_OUT, SIDE, count)
    given = create("edges", sigma_min=1.0, sigma_max=1.0)(torch.stack(truth), range(len(truth))).degraded
    return [Sample(one, other) for one, other in zip(given, truth, strict=True)]


def _names(archive: zipfile.ZipFile) -> list[str]:
    names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".png"))]
    return sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)] or [0])


def _square(picture: Image.Image, side: int) -> Tensor:
    picture = picture.convert("RGB")
    scale = side / min(picture.size)
    width, height = (max(side, round(n * scale)) for n in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    return images.to_tensor(small.crop((left, top, left + side, top + side)))[0]


# --- the network of the features ------------------------------------------------------------------------------------

DAMAGES = ("blurred", "noisy", "shuffled", "recoloured", "turned 90", "turned 180", "turned 270")


class FeatureNetwork(nn.Module):
    """32 features of pictures (B, 3, H, W) in [-1, 1], and from them how much there is of DAMAGES, (B, 7)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 96)
        self.body = nn.Sequential()
        for here, there in pairwise(widths):
            conv = nn.Conv2d(here, there, 3, stride=2, padding=1, bias=False)
            self.body.extend([conv, nn.BatchNorm2d(there), nn.ReLU()])
        self.features = nn.Linear(widths[-1], 32)
        self.head = nn.Linear(32, len(DAMAGES))

    def describe(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(self.body(x).mean(dim=(2, 3)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        levels: Tensor = self.head(functional.relu(self.describe(x)))
        return levels


def damaged(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A picture (3, H, W) with DAMAGES, each by chance, and how much there is of them in [0, 1], (7,)."""
    levels = torch.rand(len(DAMAGES), generator=generator)
    levels[2] = 1
    levels[4:] = torch.eye(3)[int(torch.randint(3, (), generator=generator))]
    there = torch.rand(5, generator=generator) < 0.3
    levels *= there[[0, 1, 2, 3, 4, 4, 4]]
    blur, noise, shuffled, recoloured = levels[:4].tolist()
    if levels[4:].any():
        x = torch.rot90(x, int(levels[4:].argmax()) + 1, (1, 2))
    if shuffled:
        height, width = x.shape[1] // 4, x.shape[2] // 4
        patches = x.reshape(3, 4, height, 4, width).transpose(2, 3).reshape(3, 16, height, width)
        patches = patches[:, torch.randperm(16, generator=generator)]
        x = patches.reshape(3, 4, 4, height, width).transpose(2, 3).reshape(x.shape)
    if recoloured:
        orders = ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
        x = torch.lerp(x, x[orders[int(torch.randint(5, (), generator=generator))]], recoloured)
    if blur:
        taps = torch.exp(-((torch.arange(-9, 10) / (3 * blur)) ** 2) / 2)
        taps = (taps / taps.sum()).expand(3, 1, 1, 19)
        padded = functional.pad(x[None], (9, 9, 9, 9), mode="replicate")
        x = functional.conv2d(functional.conv2d(padded, taps, groups=3), taps.mT, groups=3)[0]
    if noise:
        x = (x + 0.25 * noise * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
    return x, levels


def train_features(pool: Sequence[Tensor], side: int, steps: int) -> FeatureNetwork:
    """The network after so many steps of 32 pictures: damaged crops of `side` of those in the pool, (3, H, W) uint8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FeatureNetwork().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in tqdm(range(steps), desc="features"):
        batch = []
        for index in torch.randint(len(pool), (32,), generator=generator).tolist():
            picture = pool[index]
            top, left = (int(torch.randint(n - side + 1, (), generator=generator)) for n in picture.shape[1:])
            crop = picture[:, top : top + side, left : left + side].float() / 127.5 - 1
            mirrored = crop.flip(2) if torch.rand((), generator=generator) < 0.5 else crop
            batch.append(damaged(mirrored, generator))
        pictures, levels = (torch.stack(one) for one in zip(*batch, strict=True))
        loss = functional.mse_loss(network(pictures), levels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def feature_network(args: argparse.Namespace, side: int) -> FeatureNetwork:
    """The trained network, from the cache if nothing that it depends on has changed."""
    pool = [one.truth for one in facades(args.data, "train")]
    for path in PHOTOS:
        pool += photographs(args.data, path, round(side * 1.25))
    pool = [((one + 1) * 127.5).round().byte() for one in pool]
    digest = hashlib.sha256(f"{torch.__version__} {side} {args.feature_steps}".encode())
    for code in (FeatureNetwork, damaged, train_features):
        digest.update(inspect.getsource(code).encode())
    for picture in pool:
        digest.update(picture.contiguous().numpy().tobytes())
    place = args.cache / "pix2pix" / f"features_{digest.hexdigest()[:24]}.safetensors"
    if place.is_file():
        network = FeatureNetwork().eval()
        network.load_state_dict(load_file(place))
        return network
    network = train_features(pool, side, args.feature_steps)
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_suffix(".part")
    save_file(network.state_dict(), aside)
    aside.replace(place)
    return network


@torch.no_grad()
def error(network: FeatureNetwork, photos: Sequence[Tensor]) -> tuple[float, float]:
    """The mean square by which the network misses the damage of photographs, and that of always saying its mean."""
    generator = torch.Generator().manual_seed(1)
    drawn = [damaged(one, generator) for one in photos for _ in range(8)]
    pictures, levels = (torch.stack(one) for one in zip(*drawn, strict=True))
    said = torch.cat([network(one) for one in pictures.split(100)])
    return float((said - levels).square().mean()), float(levels.var(dim=0, correction=0).mean())


@torch.no_grad()
def distance(network: FeatureNetwork, made: Sequence[Tensor], real: Sequence[Tensor]) -> float:
    """FRECHET, in units of the sum of the variances of the real pictures' features."""
    mean, covariance = gaussian_fit(network.describe(torch.stack(list(real))))
    other = gaussian_fit(network.describe(torch.stack(list(made))))
    return frechet_distance(mean, covariance, *other) / float(covariance.trace())


# --- measuring ------------------------------------------------------------------------------------------------------


def load(model: Path) -> Pix2PixPipeline | RDDMPipeline:
    """The pipeline of a folder.

    Raises:
        SystemExit: there is none.
    """
    index = model / "model_index.json"
    if not index.is_file():
        sys.exit(f"there is no trained model in {model}; train one by a recipe of examples/recipes first")
    kind = json.loads(index.read_text())["_class_name"]
    cls = RDDMPipeline if "RDDMPipeline" in kind else Pix2PixPipeline
    pipe = cls.from_pretrained(model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(pipe: Pix2PixPipeline | RDDMPipeline, given: Tensor, seed: int) -> Tensor:
    """The picture (3, H, W) that a model makes, in the 8 bits of a file."""
    options: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed), "output_type": "latent"}
    if isinstance(pipe, RDDMPipeline):
        options["num_inference_steps"] = RDDM_STEPS
    made: Tensor = pipe(given[None], **options).images[0]
    return ((made.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def run(method: str, model: Path, there: Sequence[Sample]) -> tuple[list[Tensor], dict[str, Any]]:
    """A picture of each sample, and the figures of a row that need no truth."""
    pipe = load(model)
    made, seconds, differences = [], [], []
    for i, sample in enumerate(tqdm(there, desc=method)):
        start = time.perf_counter()
        made.append(make(pipe, sample.given, i))
        seconds.append(time.perf_counter() - start)
        other = make(pipe, sample.given, len(there) + i)
        differences.append(float((other - made[-1]).abs().mean()))
    figures = {"variety": float(np.mean(differences)), "s/picture": float(np.median(seconds))}
    networks = [one for one in pipe.components.values() if isinstance(one, nn.Module)]
    parameters = sum(p.numel() for one in networks for p in one.parameters())
    return made, figures | {"parameters, millions": parameters / 1e6} | training(model)


def training(model: Path) -> dict[str, Any]:
    """Steps of a training and its minutes, without those of measuring and saving, from its metrics.jsonl."""
    log = model / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    # A resumed run may have logged a step twice.
    pace = {line["step"]: line["seconds_per_step"] for line in lines if "seconds_per_step" in line}
    before, seconds = 0, 0.0
    for step in sorted(pace):
        seconds += (step - before) * pace[step]
        before = step
    return {"steps": before, "training, min": seconds / 60} if pace else {}


def quality(made: Sequence[Tensor], there: Sequence[Sample]) -> dict[str, float]:
    """Means over the pictures."""
    pairs = [(one, sample.truth) for one, sample in zip(made, there, strict=True)]
    return {
        "L1": float(np.mean([float((one - truth).abs().mean()) for one, truth in pairs])),
        "PSNR": float(np.mean([psnr(one, truth) for one, truth in pairs])),
        "SSIM": float(np.mean([ssim(one, truth) for one, truth in pairs])),
    }


def measure_facades(models: dict[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    there, others = facades(args.data, "test", args.pictures), facades(args.data, "val")
    real = [one.truth for one in there]
    network = feature_network(args, real[0].shape[1])
    made = {"the input itself": [one.given for one in there]}
    figures: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        made[METHODS[name]], figures[METHODS[name]] = run(METHODS[name], model, there)
    sheet = {"input" if name == "the input itself" else name: pictures for name, pictures in made.items()}
    show(sheet | {"truth": real}, args.output, "facades")
    made["another real photo"] = [others[i % len(others)].truth for i in range(len(there))]
    rows = [
        {"method": name}
        | quality(pictures, there)
        | {"Frechet": distance(network, pictures, real)}
        | figures.get(name, {})
        for name, pictures in made.items()
    ]
    missed, spread = error(network, [one.truth for one in others])
    return {"pictures": len(there), "rows": rows, "variance of damage told by the network": 1 - missed / spread}


def measure_edges(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    there = drawings(args.data, args.pictures)
    made, figures = run("edges", model, there)
    given, real = [one.given for one in there], [one.truth for one in there]
    show({"input": given, "output": made, "truth": real}, args.output, "edges")
    rows = [
        {"method": "the input itself"} | quality(given, there),
        {"method": METHODS["gan"]} | quality(made, there) | figures,
    ]
    return {"pictures": len(there), "rows": rows}


def show(kinds: dict[str, Sequence[Tensor]], output: Path, name: str) -> None:
    """A sheet with a row for each kind, of a few pictures from all over the list."""
    count = min(len(one) for one in kinds.values())
    chosen = sorted({i * count // SHOWN for i in range(SHOWN)})
    rows = [(label, [Cell("", pictures[i]) for i in chosen]) for label, pictures in kinds.items()]
    output.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(contact_sheet(rows), output.with_name(f"{output.name}_{name}.png"))


# --- the report -----------------------------------------------------------------------------------------------------

FORMATS = {"method": "", "L1": ".3f", "PSNR": ".2f", "SSIM": ".3f", "Frechet": ".3f", "variety": ".3f"}
FORMATS |= {"s/picture": ".3f", "parameters, millions": ".1f", "steps": ",d", "training, min": ".0f"}


def to_markdown(report: dict[str, Any]) -> str:
    text = [
        "# Pix2pix beside L1 alone and RDDM\n",
        "L1: mean absolute distance to the truth in [-1, 1]. PSNR in dB. Variety: mean absolute distance of two "
        "pictures made of one input with different seeds; Pix2pix's noise is dropout alone. s/picture: the median, one "
        "picture at a time. training: the sum of the seconds of all steps, on the CPU core that they ran on, beside "
        "other work.\n",
    ]
    if (found := report["tasks"].get("facades")) is not None:
        text.append(
            f"## Facades from maps, {found['pictures']} test pairs of {SIDE} px\n\n"
            f"Frechet: **{FRECHET}**. The network tells how much photographs were blurred, made noisy, shuffled, "
            f"turned and recoloured ({found['variance of damage told by the network']:.0%} of the variance, of val "
            "photographs, of which it saw none); Gaussians are fitted to its 32 features of generated and of real "
            "pictures; in units of the sum of the variances of the real ones' features. It isn't 0 even for other "
            "real photographs, since these are few: their row has the photographs of val pairs in place of generated "
            "pictures.\n"
        )
        text.append(markdown_table(found["rows"], FORMATS) + "\n![facades](pix2pix_facades.png)\n")
    if (found := report["tasks"].get("edges")) is not None:
        columns = {name: form for name, form in FORMATS.items() if name != "Frechet"}
        text.append(
            f"## Photographs from drawings, {found['pictures']} held-out photographs at {SIDE} px\n\n"
            "Drawn by the recipe `edges` with sigma 1. A drawing says nothing about colours, which the network makes "
            "up.\n"
        )
        text.append(markdown_table(found["rows"], columns) + "\n![drawings](pix2pix_edges.png)\n")
    lines = [f"- {task}: {found['command']}" for task, found in report["tasks"].items()]
    lines += [f"- {name}: {value}" for name, value in report["run"].items() if name != "command"]
    text.append("## How it was run\n\n" + "\n".join(lines) + "\n")
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if not (args.data / FACADES).is_file():
        sys.exit(f"--data {args.data} has no {FACADES}; name a folder with the zip files of --help")
    if args.prepare is not None:
        prepare(args.data, args.prepare)
        return
    models = {name: getattr(args, f"facades_{name}") for name in METHODS}
    models = {name: model for name, model in models.items() if model is not None}
    if not models and args.edges is None:
        names = [f"--facades_{name}" for name in METHODS]
        sys.exit(f"name a trained model by one or more of {', '.join(names)}, --edges")
    for model in (*models.values(), args.edges):
        if model is not None:
            load(model)  # before anything that takes long
    measured = {}
    if models:
        measured["facades"] = measure_facades(models, args)
    if args.edges is not None:
        measured["edges"] = measure_edges(args.edges, args)
    how = how_it_was_run("benchmarks/pix2pix.py", argv)
    # Read now and not before: the other one may have been measured meanwhile.
    path = args.output.with_suffix(".json")
    earlier = json.loads(path.read_text())["tasks"] if path.is_file() else {}
    tasks = {**earlier, **{task: {**found, "command": how["command"]} for task, found in measured.items()}}
    report = {"run": how, "Frechet": FRECHET, "tasks": tasks}
    _, markdown = write_report(args.output, report, to_markdown(report))
    print(markdown.read_text())


if __name__ == "__main__":
    main()
