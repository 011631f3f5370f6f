#!/usr/bin/env python3
"""Measure Cold Diffusion on the 10,000 test digits of MNIST, as table 1 to 3 of its paper (arXiv:2208.09392) do.

    python benchmarks/cold_mnist.py --deblur deblur --inpaint inpaint --super_resolution super_resolution \
        --generate generate

Each option is the folder of a model that `examples/train_cold.py` has trained by examples/recipes/cold_mnist_*.yaml.
For the degraded digits, the direct reconstruction and both algorithms: RMSE (one root of the mean over all pixels and
digits) and SSIM (mean over the digits) in [0, 1], next to the published figures; the Fréchet distance between features
of a small classifier that is trained here first, and how many digits it reads right. That distance is NOT the FID of
the paper, which is taken between features of Inception.

Results go to benchmarks/results/cold_mnist.{json,md} and pictures beside them; tasks that aren't named keep their
figures. Restored digits are kept in benchmarks/results/.cache, under a hash of the network, of the library's code and
of the settings, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import uuid
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import ColdDiffusionPipeline, ColdDiffusionScheduler, images
from diffusers_restore.evaluation.frechet import frechet_distance, gaussian_fit
from diffusers_restore.evaluation.metrics import ssim
from diffusers_restore.evaluation.report import (
    Cell,
    contact_sheet,
    how_it_was_run,
    markdown_table,
    save_sheet,
    write_report,
)
from diffusers_restore.pipelines import pipeline_cold_diffusion
from diffusers_restore.training.config import CropConfig
from diffusers_restore.training.data import cut, to_unit
from diffusers_restore.training.sources import IdxImages

RESULTS = Path(__file__).parent / "results"
# (RMSE, SSIM) of the paper, for ("degraded", "direct", "Algorithm 2"). The SSIM that it prints for blurred digits,
# 0.287, is their RMSE: a slip of the pen.
PUBLISHED = {
    "deblur": {"degraded": (0.287, None), "direct": (0.142, 0.757), "Algorithm 2": (0.154, 0.718)},
    "inpaint": {"degraded": (0.262, 0.490), "direct": (0.060, 0.948), "Algorithm 2": (0.068, 0.941)},
    "super_resolution": {"degraded": (0.231, 0.178), "direct": (0.114, 0.823), "Algorithm 2": (0.115, 0.820)},
}
METHODS = {"degraded": None, "direct": None, "Algorithm 2": "improved", "Algorithm 1": "naive"}
BATCH, CHUNK = 100, 1000  # digits at once, and in a file of the cache
GENERATED = 500
SHOWN = 8


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for task in (*PUBLISHED, "generate"):
        parser.add_argument(f"--{task}", type=Path, metavar="MODEL", help="folder of the trained model")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="folder of MNIST's four files")
    parser.add_argument("--digits", type=int, default=10_000, help="only the first N test digits")
    parser.add_argument("--naive_digits", type=int, default=1000, help="Algorithm 1 is run on the first N only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "cold_mnist", help="result files, without their suffix"
    )
    parser.add_argument("--cache", type=Path, default=RESULTS / ".cache", help="folder of what was already restored")
    return parser.parse_args(argv)


# --- digits and what judges them ------------------------------------------------------------------------------------


def load_digits(path: Path, count: int | None = None) -> Tensor:
    """The first digits of an idx file, resized to 32 x 32 as training does it, (N, 1, 32, 32) in [-1, 1]."""
    source, unused = IdxImages(path), np.random.default_rng(0)
    crop = CropConfig(32, 1, image_interpolation_mode="bilinear")
    count = len(source) if count is None else min(count, len(source))
    return to_unit(torch.from_numpy(np.concatenate([cut(source[i], crop, unused) for i in range(count)])))


def load_labels(path: Path, count: int | None = None) -> Tensor:
    return torch.from_numpy(np.frombuffer(gzip.decompress(path.read_bytes())[8:], np.uint8)[:count].astype(np.int64))


class Classifier(nn.Module):
    """A small convolutional network; its features are the 64 numbers before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, 16, 32, 64)
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def train_classifier(folder: Path, seed: int, epochs: int = 2) -> dict[str, Tensor]:
    """Its weights."""
    digits = load_digits(folder / "train-images-idx3-ubyte.gz")
    labels = load_labels(folder / "train-labels-idx1-ubyte.gz")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier().train()
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
        for _ in tqdm(range(epochs), desc="training the classifier"):
            for batch in torch.randperm(len(digits)).split(128):
                optimizer.zero_grad()
                functional.cross_entropy(network(digits[batch]), labels[batch]).backward()
                optimizer.step()
    return network.state_dict()


@torch.no_grad()
def features(classifier: Classifier, x: Tensor) -> Tensor:
    return torch.cat([classifier.trunk(part.clamp(-1, 1)) for part in x.split(500)])


@torch.no_grad()
def read_right(classifier: Classifier, x: Tensor, labels: Tensor) -> float:
    said = torch.cat([classifier(part.clamp(-1, 1)).argmax(dim=1) for part in x.split(500)])
    return float((said == labels).float().mean())


# --- restoring ------------------------------------------------------------------------------------------------------


def cached(folder: Path, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `compute` gives, or gave in an earlier run."""
    path = folder / f"cold_mnist-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if not path.is_file():
        found = compute()
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{uuid.uuid4().hex}")
        save_file(found, aside)
        aside.replace(path)
    return load_file(path)


def code_hash() -> str:
    """Of the code that restored digits depend on."""
    package = Path(diffusers_restore.__file__).parent
    folders = ("degradations", "models", "pipelines", "schedulers")
    names = ("pipeline_cold_diffusion.py", "common.py", "scheduling_cold_diffusion.py", "gaussian_mixture.py")
    files = [
        file
        for folder in folders
        for file in sorted((package / folder).glob("*.py"))
        if folder == "degradations" or file.name in names
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def model_hash(model: Path) -> str:
    """Of its weights and configurations."""
    files = sorted(model.glob("[!.]*/*.safetensors")) + sorted(model.glob("*/*config.json"))
    files = [file for file in files if file.parent.name in ("prior", "scheduler", "unet")]
    if not any(file.parent.name == "unet" for file in files):
        sys.exit(f"there is no trained model in {model}; train one by examples/train_cold.py first")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def load(model: Path) -> ColdDiffusionPipeline:
    pipe = ColdDiffusionPipeline.from_pretrained(model)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def restore(pipe: ColdDiffusionPipeline, method: str, x: Tensor, seed: int, first: int, what: str) -> Tensor:
    """The digits from number `first` on by one of METHODS; their states are functions of the seed and their place."""
    if (algorithm := METHODS[method]) is not None:
        pipe.scheduler = ColdDiffusionScheduler.from_config(pipe.scheduler.config, algorithm=algorithm)
    scheduler, last, restored = pipe.scheduler, len(pipe.scheduler), []
    for i, clean in enumerate(tqdm(x.split(BATCH), desc=f"{what}, {method}, from {first}")):
        state = scheduler.sample_state(clean, torch.Generator().manual_seed(seed * 1_000_000 + first + i))
        degraded = scheduler.degrade(clean, last, state)
        if method == "degraded":
            restored.append(degraded)
        elif method == "direct":
            restored.append(pipe(degraded, direct=True, output_type="latent").images)
        else:
            restored.append(pipe(degraded, state=state, output_type="latent").images)
    return torch.cat(restored)


def measure(task: str, model: Path, x: Tensor, labels: Tensor, classifier: Classifier, args: argparse.Namespace) -> Any:
    pipe = load(model)
    key = f"{model_hash(model)} {code_hash()} {args.seed} {torch.__version__}"
    true_fit = gaussian_fit(features(classifier, x))
    rows, pictures = [], {"clean": x[:SHOWN]}
    for method in METHODS:
        count = min(len(x), args.naive_digits) if method == "Algorithm 1" else len(x)
        clean, parts = x[:count], []
        for first in range(0, count, CHUNK):
            part = clean[first : first + CHUNK]

            def compute(part: Tensor = part, method: str = method, first: int = first) -> dict[str, Tensor]:
                return {"x": restore(pipe, method, part, args.seed, first, task)}

            parts.append(cached(args.cache, f"{key} {task} {method} {first} {len(part)}", compute)["x"])
        y = torch.cat(parts).clamp(-1, 1)  # Algorithm 1 may diverge
        pictures[method] = y[:SHOWN]
        published = PUBLISHED[task].get(method, (None, None))
        rows.append(
            {
                "digits": method,
                "of": count,
                "RMSE": float(((y.clamp(-1, 1) - clean) / 2).square().mean().sqrt()),
                "RMSE published": published[0],
                "SSIM": float(np.mean([ssim(a, b) for a, b in zip(y, clean, strict=True)])),
                "SSIM published": published[1],
                # It grows where there are fewer digits, so that only those of all can be compared.
                "Fréchet distance": frechet_distance(*gaussian_fit(features(classifier, y)), *true_fit)
                if count == len(x)
                else None,
                "read right": read_right(classifier, y, labels[:count]),
            }
        )
    sheet = contact_sheet([(name, [Cell("", enlarged(one)) for one in shown]) for name, shown in pictures.items()])
    save_sheet(sheet, args.output.with_name(f"{args.output.name}_{task}.png"))
    return {"rows": rows, **describe(pipe, model, len(x))}


def generate(model: Path, x: Tensor, classifier: Classifier, args: argparse.Namespace) -> Any:
    """New digits, with the noise that breaks the symmetry and without it."""
    pipe = load(model)
    count, rows = min(GENERATED, len(x)), []
    noise_std = pipe.prior.config.noise_std
    for std in (noise_std, 0.0):
        pipe.prior.register_to_config(noise_std=std)

        def draw() -> dict[str, Tensor]:
            drawn = []
            for first in tqdm(range(0, count, BATCH), desc="generating"):
                generator = torch.Generator().manual_seed(args.seed * 1_000_000 + first)
                size = min(BATCH, count - first)
                drawn.append(pipe(batch_size=size, generator=generator, output_type="latent").images)
            return {"x": torch.cat(drawn)}

        key = f"{model_hash(model)} {code_hash()} {args.seed} {torch.__version__} generate {std} {count}"
        y = cached(args.cache, key, draw)["x"]
        distance = frechet_distance(*gaussian_fit(features(classifier, y)), *gaussian_fit(features(classifier, x)))
        rows.append({"noise": std, "Fréchet distance": distance})
        name = f"{args.output.name}_generated_{'with' if std else 'without'}_noise.png"
        images.save(enlarged(images.grid(y[:48].clamp(-1, 1))), args.output.with_name(name))
    size = pipe.prior.config.height
    prior = f"{pipe.prior.config.components} Gaussians over {size} x {size} thumbnails"
    return {"rows": rows, "prior": prior, **describe(pipe, model, count)}


def enlarged(picture: Tensor) -> Tensor:
    return picture.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)


def describe(pipe: ColdDiffusionPipeline, model: Path, count: int) -> dict[str, Any]:
    log = model / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.is_file() else []
    return {
        "degradation": repr(pipe.scheduler.degradation),
        "eight_bit": pipe.scheduler.config.eight_bit,
        "parameters": sum(p.numel() for p in pipe.unet.parameters()),
        "steps": max(steps, default=None),
        "digits": count,
    }


# --- the report -----------------------------------------------------------------------------------------------------


def to_markdown(report: dict[str, Any]) -> str:
    run = report["run"]
    text = [
        "# Cold Diffusion on MNIST\n",
        "Test digits of MNIST, resized from 28 to 32 px (bilinear, as the paper's by its degraded columns). RMSE and "
        "SSIM in [0, 1], next to those of the paper (arXiv:2208.09392, 700,000 steps of 64 pictures, 57 million "
        "parameters). The Fréchet distance is between features of a classifier trained here and can't be compared with "
        "the paper's FID, that of Inception; the classifier reads "
        f"{report['classifier']:.1%} of the clean digits right.\n",
    ]
    formats = {"digits": "", "of": "d", "RMSE": ".3f", "RMSE published": ".3f", "SSIM": ".3f", "SSIM published": ".3f"}
    for task in PUBLISHED:
        if (result := report["tasks"].get(task)) is None:
            continue
        text.append(
            f"## {task.replace('_', ' ')}\n\n`{result['degradation']}`; {result['parameters'] / 1e6:.1f} million "
            f"parameters, {result['steps']} steps.\n"
        )
        text.append(
            markdown_table(result["rows"], {**formats, "Fréchet distance": ".1f", "read right": ".1%"})
            + f"\n![digits](cold_mnist_{task}.png)\n"
        )
    text.append(
        "## How far from the paper, and why\n\nRMSE above the published one: "
        + "; ".join(
            f"{task.replace('_', ' ')} {gaps(report['tasks'][task])}" for task in PUBLISHED if task in report["tasks"]
        )
        + ". The networks had a small part of the paper's training: the steps above, of 32 digits each, against "
        "700,000 of 64, with a tenth of the parameters. Where fewer than 10,000 digits were measured, they are the "
        "first ones, which are easier: their degraded column is lower, too.\n"
    )
    if (result := report["tasks"].get("generate")) is not None:
        text.append(
            f"## generation\n\n`{result['degradation']}`; {result['parameters'] / 1e6:.1f} million parameters, "
            f"{result['steps']} steps; {result['digits']} digits that start from {result['prior']}, with the noise "
            "that breaks the symmetry and without it.\n"
        )
        text.append(markdown_table(result["rows"], {"noise": "g", "Fréchet distance": ".1f"}))
        text.append("![with](cold_mnist_generated_with_noise.png) ![without](cold_mnist_generated_without_noise.png)\n")
    lines = [f"- {task.replace('_', ' ')}: {result['command']}" for task, result in report["tasks"].items()]
    lines += [f"- {name}: {value}" for name, value in run.items() if name != "command"]
    text.append("## How it was run\n\n" + "\n".join(lines) + "\n")
    return "\n".join(text)


def gaps(result: dict[str, Any]) -> str:
    rows = [row for row in result["rows"] if row["RMSE published"] is not None and row["digits"] != "degraded"]
    return ", ".join(f"{row['RMSE'] - row['RMSE published']:+.3f} ({row['digits']})" for row in rows)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    models = {task: getattr(args, task) for task in (*PUBLISHED, "generate") if getattr(args, task) is not None}
    if not models:
        sys.exit(
            f"name a trained model by one or more of {', '.join(f'--{task}' for task in (*PUBLISHED, 'generate'))}"
        )
    for file in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"):
        if not (args.data / file).is_file():
            sys.exit(f"there is no {file} in {args.data}: name the folder of MNIST by --data")
    x = load_digits(args.data / "t10k-images-idx3-ubyte.gz", args.digits)
    labels = load_labels(args.data / "t10k-labels-idx1-ubyte.gz", args.digits)
    classifier = Classifier().eval()
    key = f"classifier {args.data.resolve()} {args.seed} {torch.__version__}"
    classifier.load_state_dict(cached(args.cache, key, lambda: train_classifier(args.data, args.seed)))
    measured = {}
    # On a CPU a pipeline restores picture by picture, so that rounding doesn't depend on the batch; that is slow.
    with patch.object(pipeline_cold_diffusion, "pictures_at_once", lambda device, batch: batch):
        for task, model in models.items():
            if task == "generate":
                measured[task] = generate(model, x, classifier, args)
            else:
                measured[task] = measure(task, model, x, labels, classifier, args)
    for result in measured.values():
        result["command"] = how_it_was_run("benchmarks/cold_mnist.py", argv)["command"]
    # Read now and not before: another task may have been measured meanwhile.
    path = args.output.with_suffix(".json")
    earlier = json.loads(path.read_text())["tasks"] if path.is_file() else {}
    report = {
        "run": how_it_was_run("benchmarks/cold_mnist.py", argv),
        "count": len(x),
        "classifier": read_right(classifier, x, labels),
        "tasks": {**earlier, **measured},
    }
    _, markdown = write_report(args.output, report, to_markdown(report))
    print(markdown.read_text())


if __name__ == "__main__":
    main()
