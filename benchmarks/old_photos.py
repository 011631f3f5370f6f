#!/usr/bin/env python3
"""Measure what repairs old photographs: a detector and inpainting, RDDM, and OldPhotoPipeline (arXiv:2004.09484).

    python benchmarks/old_photos.py
    python benchmarks/old_photos.py --detector detector --old_photo old_photos
    python benchmarks/old_photos.py --memory
    python benchmarks/old_photos.py --history first/metrics.jsonl second/metrics.jsonl

Models are folders: --detector of a ScratchDetectionPipeline, in place of the bundled one, --old_photo of an
OldPhotoPipeline. Each runs as `diffusers-restore restore` runs it, from file to file in 8 bits; so do the bundled
prior, which inpaints, and both bundled restorers.

Data are zip files in --data. Measured on freephotos/freephotos_heldout.zip: its photographs, resized to a shorter side
of 256 px (antialiased) and cropped to the centre, each damaged twice by old_photo_full, with seeds that are fixed by
the photograph's number. Shown on oldphotos/oldphotos_14.zip, really old ones without a truth: as they are, and on the
sheet with a height of 256 px.

With --memory, only the memory that OldPhotoPipeline takes with networks of the published sizes is measured, by sizes of
pictures, in a process each. With --history, only what the training of the network of `restore --faded` measured on
held-out photographs is kept: of each of its runs, which began with the weights of the one before.

Results go to benchmarks/results/old_photos.{json,md} and sheets of pictures beside them. Rows whose model isn't named
keep their figures; sheets show the methods of the last run. Restored pictures and their times are kept in --cache,
under a hash of the model, of the library's code and of what was restored, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import diffusers_restore
from diffusers_restore import (
    DEFAULT_DETECTOR,
    DEFAULT_OLD_PHOTO_RESTORER,
    DEFAULT_PRIOR,
    DEFAULT_RESTORER,
    OldPhotoMapping,
    OldPhotoPipeline,
    OldPhotoVAE,
    ScratchDetectionPipeline,
    ScratchDetector,
    images,
    restoring,
)
from diffusers_restore.degradations.recipes import create
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
from diffusers_restore.pipelines.pipeline_scratch_detection import find_scratches
from diffusers_restore.restoring import memory, trained
from diffusers_restore.restoring.loading import quiet_loading

RESULTS = Path(__file__).parent / "results"
HELD_OUT = "freephotos/freephotos_heldout.zip"
OLD = "oldphotos/oldphotos_14.zip"
SCRATCHED = (*(f"bringing_old/old_w_scratch/{name}.jpg" for name in "abcd"), "ddnm/oldphoto/1.jpg")
OTHERS = (*(f"bringing_old/old/{name}.jpg" for name in "adfg"), "ddnm/solvay/Curie.jpg")
SIDE = 256  # of photographs that are damaged, and the height of those on a sheet
DAMAGES = 2  # of each photograph
GROWN = (0, 1)  # pixels by which a mask is dilated
SHOWN = 8
README_ROWS = (1, 3)  # of the scratched ones
MOST = 60.0  # dB of what is met exactly
BLIND = "blind restorer"
AUTO = "restore --scratches auto"
BOTH = "restore --faded --scratches auto"
BUNDLED: dict[str, dict[str, Any]] = {
    AUTO: {"scratches": "auto"},
    "restore --faded": {"faded": True},
    BOTH: {"faded": True, "scratches": "auto"},
}
DAMAGED = "damaged"

SIDES = (256, 512, 1024)
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("none", "partial", "patch")
ROUTES = {"none": "no attention", "partial": "partial attention", "patch": "patch attention"}
HIDDEN = 0.1  # share of a picture
LIMIT = 4000  # MB


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--detector",
        type=Path,
        default=Path(DEFAULT_DETECTOR),
        metavar="MODEL",
        help="folder of a ScratchDetectionPipeline (default: the bundled one)",
    )
    parser.add_argument("--old_photo", type=Path, metavar="MODEL", help="of an OldPhotoPipeline")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the zip files")
    parser.add_argument("--pictures", type=int, help="only the first N photographs of each kind")
    parser.add_argument("--memory", action="store_true", help="measure the memory only")
    parser.add_argument(
        "--history", type=Path, nargs="+", metavar="FILE", help="metrics.jsonl of the runs of its training"
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=SIDES, help="of pictures, for --memory and the larger photographs"
    )
    parser.add_argument("--attentions", nargs="+", choices=ATTENTIONS, default=ATTENTIONS, help="for --memory")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="for --memory")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "old_photos", help="result files, without their suffix"
    )
    parser.add_argument("--cache", type=Path, default=RESULTS / ".cache", help="folder of what was already restored")
    parser.add_argument("--write", nargs=2, metavar=("ATTENTION", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=4, metavar=("ATTENTION", "FOLDER", "DTYPE", "SIDE"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A damaged photograph and its truth, (3, H, W) in [-1, 1], and the mask of its scratches, (1, H, W)."""

    name: str
    degraded: Tensor
    clean: Tensor
    mask: Tensor


def samples(data: Path, count: int | None, side: int) -> list[Sample]:
    """The held-out photographs, each with DAMAGES; photograph i has the seeds from i * DAMAGES on."""
    recipe, made = create("old_photo_full"), []
    with zipfile.ZipFile(data / HELD_OUT) as archive:
        photos = [square(read_picture(archive.read(name)), side) for name in _names(archive)[:count]]
    for i, photo in enumerate(photos):
        for seed in range(i * DAMAGES, (i + 1) * DAMAGES):
            damage = recipe(photo[None], [seed])
            made.append(Sample(f"{seed:03d}.png", damage.degraded[0], damage.clean[0], (damage.mask[0] > 0.5).float()))
    return made


def square(picture: Image.Image, side: int) -> Tensor:
    """The centre of a picture, (3, side, side), after its shorter side became `side`."""
    picture = picture.convert("RGB")
    scale = side / min(picture.size)
    width, height = (max(side, round(n * scale)) for n in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    return images.to_tensor(small.crop((left, top, left + side, top + side)))[0]


def _names(archive: zipfile.ZipFile) -> list[str]:
    names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".png"))]
    return sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)] or [0])


# --- figures --------------------------------------------------------------------------------------------------------


def tones_fitted(made: Tensor, truth: Tensor) -> Tensor:
    """a made + b with the a and b of each channel that come closest to the truth, all (C, H, W)."""
    x, y = made.flatten(1).double(), truth.flatten(1).double()
    x0, y0 = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    a = ((x - x0) * (y - y0)).sum(1, keepdim=True) / (x - x0).square().sum(1, keepdim=True).clamp_min(1e-12)
    return (a * (x - x0) + y0).reshape(made.shape).clamp(-1, 1).to(made.dtype)


def psnr_where(made: Tensor, truth: Tensor, there: Tensor) -> float | None:
    """PSNR of the pixels where a mask (1, H, W) is 1, in dB; None if there are none."""
    chosen = there[0] > 0.5
    if not bool(chosen.any()):
        return None
    error = (made.double().clamp(-1, 1) - truth.double().clamp(-1, 1))[:, chosen].square().mean()
    return min(MOST, float(10 * torch.log10(4 / error.clamp_min(1e-12))))


def quality(made: Sequence[Tensor], there: Sequence[Sample]) -> dict[str, float | None]:
    """Means over the pictures; those in the mask are means over the pictures that have one."""
    found: dict[str, list[float | None]] = {}
    for x, sample in zip(made, there, strict=True):
        fitted, outside = tones_fitted(x, sample.clean), 1 - sample.mask
        figures = {
            "PSNR": min(MOST, psnr(x, sample.clean)),
            "SSIM": ssim(x, sample.clean),
            "PSNR in mask": psnr_where(x, sample.clean, sample.mask),
            "outside": psnr_where(x, sample.clean, outside),
            "tones fitted: PSNR": min(MOST, psnr(fitted, sample.clean)),
            "fitted, in mask": psnr_where(fitted, sample.clean, sample.mask),
            "fitted, outside": psnr_where(fitted, sample.clean, outside),
        }
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    kept = {name: [one for one in values if one is not None] for name, values in found.items()}
    return {name: float(np.mean(values)) if values else None for name, values in kept.items()}


def agreement(found: Sequence[Tensor], there: Sequence[Tensor]) -> dict[str, float]:
    """How well masks, all (1, H, W), agree: over all pixels together, and the mean f1 of the pictures."""
    both = np.array([float((f * t).sum()) for f, t in zip(found, there, strict=True)])
    seen, true = (np.array([float(one.sum()) for one in masks]) for masks in (found, there))
    of_pictures = [1.0 if not s + t else 2 * b / (s + t) for b, s, t in zip(both, seen, true, strict=True)]
    pixels = sum(one.numel() for one in there)
    return {
        "f1": _ratio(2 * both.sum(), seen.sum() + true.sum()),
        "precision": _ratio(both.sum(), seen.sum()),
        "recall": _ratio(both.sum(), true.sum()),
        "mean f1": float(np.mean(of_pictures)),
        "found": float(seen.sum() / pixels),
        "scratched": float(true.sum() / pixels),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0


def grown(mask: Tensor, pixels: int) -> Tensor:
    """A mask (1, H, W), dilated by so many pixels to all sides."""
    return functional.max_pool2d(mask, 2 * pixels + 1, 1, pixels) if pixels else mask


# --- methods --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cache:
    """Files and the seconds that they took, by a key of all that they depend on."""

    folder: Path

    def take(self, key: str, target: Path) -> float | None:
        """Put the file there, and return its seconds; None if there is no such file."""
        file, seconds = (self.folder / f"{key}{suffix}" for suffix in (target.suffix, ".json"))
        if not seconds.is_file():
            return None
        shutil.copyfile(file, target)
        return float(json.loads(seconds.read_text()))

    def put(self, key: str, target: Path, seconds: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, self.folder / f"{key}{target.suffix}")
        aside = self.folder / f".{uuid.uuid4().hex}"
        aside.write_text(json.dumps(seconds))
        aside.replace(self.folder / f"{key}.json")  # last: without it the file doesn't count


@cache
def code_hash() -> str:
    """Of the library and torch's version."""
    package = Path(diffusers_restore.__file__).parent
    return _hash([torch.__version__.encode(), *(file.read_bytes() for file in sorted(package.rglob("*.py")))])


@cache
def model_hash(model: Path) -> str:
    """Of its weights and configurations."""
    files = [*model.glob("*.json"), *model.glob("*/*config.json"), *model.glob("*/*.safetensors")]
    return _hash(file.read_bytes() for file in sorted(files))


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} ".encode() + part)
    return digest.hexdigest()


@dataclass(frozen=True)
class Made:
    """Files in a folder, the seconds that each took, and how many parameters the networks have that made them."""

    folder: Path
    names: tuple[str, ...]
    seconds: tuple[float, ...] = ()
    parameters: Mapping[str, int] = field(default_factory=dict)

    def pictures(self) -> list[Tensor]:
        read = (images.load(self.folder / name).tensor[0] for name in self.names)
        return [one.expand(3, -1, -1) for one in read]

    def after(self, *before: Made) -> Made:
        """The same, with the costs of what had to be there before."""
        costs = [one.seconds for one in (self, *before) if one.seconds]
        seconds = tuple(sum(of_one) for of_one in zip(*costs, strict=True))
        known: dict[str, int] = {}
        for one in (self, *before):
            known |= one.parameters
        return Made(self.folder, self.names, seconds, known)


def write(folder: Path, pictures: Mapping[str, Tensor]) -> Made:
    folder.mkdir(parents=True)
    for name, picture in pictures.items():
        images.save(picture, folder / name)
    return Made(folder, tuple(pictures))


def restored(before: Made, folder: Path, kept: Cache, mask: Made | None = None, **options: Any) -> Made:
    """The files of a folder, as `restore` restores them; its masks are black where they are damaged."""
    of_it = DEFAULT_OLD_PHOTO_RESTORER if options.get("faded") else DEFAULT_RESTORER
    which = DEFAULT_PRIOR if "task" in options else str(options.get("model", of_it))
    all_of_it = {None: [which], "auto": [which, DEFAULT_PRIOR, DEFAULT_DETECTOR], "find": [DEFAULT_DETECTOR]}[
        options.get("scratches")
    ]
    known = {} if mask is None else {"mask": mask.folder}
    restorer = restoring.load(device="cpu", **options, **known)
    restorer.quiet = True
    folder.mkdir(parents=True)
    # The bundled restorer looks first whether there is anything to restore, unless it is named as a model.
    how = f"{options.get('task')} {'model' in options} {options.get('scratches')} {options.get('faded')}"
    keys, seconds = {}, {}
    for name in before.names:
        given = [(one.folder / name).read_bytes() for one in (before, mask) if one is not None]
        told = [code_hash().encode(), *(model_hash(Path(one)).encode() for one in all_of_it), how.encode()]
        keys[name] = _hash([*told, *given])
        if (taken := kept.take(keys[name], folder / name)) is not None:
            seconds[name] = taken

    def keep(outcome: restoring.Outcome) -> None:
        if outcome.error is not None:
            raise outcome.error
        target = outcome.job.targets[0]
        seconds[target.name] = outcome.seconds
        kept.put(keys[target.name], target, outcome.seconds)

    if missing := [name for name in before.names if name not in seconds]:
        restorer.restore_files([before.folder / name for name in missing], f"{folder}/", report=keep)
    pipes = [restorer.pipe]
    if options.get("scratches") == "auto":
        pipes += [restorer.prior, restorer.detector]
    known_by = {one: count(pipe) for one, pipe in zip(all_of_it, pipes, strict=True)}
    made = Made(folder, before.names, tuple(seconds[name] for name in before.names), known_by)
    return made.after(*([before] if mask is None else [before, mask]))


def count(pipe: Any) -> int:
    networks = [one for one in pipe.components.values() if isinstance(one, nn.Module)]
    return sum(p.numel() for one in networks for p in one.parameters())


def found_by(detector: ScratchDetectionPipeline, before: Made, folder: Path) -> dict[int, Made]:
    """Files of masks, black where the detector finds scratches, dilated by GROWN."""
    masks, seconds = {}, []
    for name in before.names:
        start = time.perf_counter()
        picture = images.load(before.folder / name).tensor
        masks[name] = (detector(picture, output_type="pt").images[0] > 0.5).float()
        seconds.append(time.perf_counter() - start)
    return {
        pixels: Made(one.folder, one.names, tuple(seconds), {"detector": count(detector)})
        for pixels, one in ((n, written_masks(masks, folder / str(n), n)) for n in GROWN)
    }


def written_masks(masks: Mapping[str, Tensor], folder: Path, pixels: int) -> Made:
    """Files of masks as `restore` takes them, black where they are damaged, after dilation."""
    return write(folder, {name: 1 - 2 * grown(mask, pixels) for name, mask in masks.items()})


@dataclass(frozen=True)
class Row:
    """A method: by what it is named, the options that it needs, and what it made."""

    method: str
    needs: tuple[str, ...]
    made: Made


def by_bundled(before: Made, work: Path, kept: Cache) -> list[Row]:
    """What the bundled networks make of old photographs."""
    return [
        Row(name, (), restored(before, work / f"bundled_{i}", kept, **options))
        for i, (name, options) in enumerate(BUNDLED.items())
    ]


def inpainted_by(source: str, pixels: int) -> str:
    return f"{source} mask + {pixels} px: inpainted, then {BLIND}"


def with_masks(
    source: str, masks: Mapping[int, Made], damaged: Made, work: Path, kept: Cache, needs: tuple[str, ...]
) -> list[Row]:
    """What a mask hides, inpainted by the bundled prior; then the bundled restorer."""
    rows = []
    for pixels, mask in masks.items():
        inpainted = restored(damaged, work / f"{source}_{pixels}_inpainted", kept, mask, task="inpaint")
        both = restored(inpainted, work / f"{source}_{pixels}_both", kept)
        rows.append(Row(inpainted_by(source, pixels), needs, both))
    return rows


def by_models(
    args: argparse.Namespace,
    damaged: Made,
    blind: Made,
    masks: Mapping[int, Made],
    pixels: int,
    work: Path,
    kept: Cache,
) -> list[Row]:
    """The methods that need one of the models, but for those of `with_masks`."""
    name = f"found mask + {pixels} px: {BLIND}, then inpainted"
    inpainted = restored(blind, work / "inpainted_last", kept, masks[pixels], task="inpaint")
    rows = [Row(name, ("detector",), inpainted)]
    if args.old_photo is not None:
        mask = masks[0] if lacks_detector(args.old_photo) else None
        made = restored(damaged, work / "old_photo", kept, mask, model=args.old_photo)
        rows.append(Row("OldPhotoPipeline", ("old_photo",), made))
    return rows


def load_detector(folder: Path) -> ScratchDetectionPipeline:
    with quiet_loading():
        return ScratchDetectionPipeline.from_pretrained(folder, dtype=torch.float32)


@cache
def lacks_detector(old_photo: Path) -> bool:
    """Whether an OldPhotoPipeline takes a mask and has nothing that finds it."""
    with quiet_loading():
        pipe = OldPhotoPipeline.from_pretrained(old_photo)
    return bool(pipe.mapping.takes_mask) and pipe.scratch_detector is None


def check_models(args: argparse.Namespace) -> None:
    """End before anything that takes long if a folder holds no such model.

    Raises:
        SystemExit: it does.
    """
    kinds = {"detector": "ScratchDetectionPipeline", "old_photo": "OldPhotoPipeline"}
    for name, kind in kinds.items():
        if (folder := getattr(args, name)) is None:
            continue
        index = folder / "model_index.json"
        if not index.is_file() or kind not in json.loads(index.read_text())["_class_name"]:
            sys.exit(f"--{name}: there is no trained {kind} in {folder}; `diffusers-restore train --help` says how")


# --- photographs that were damaged here -----------------------------------------------------------------------------


def measure_synthetic(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    there, kept = samples(args.data, args.pictures, SIDE), Cache(args.cache / "old_photos")
    damaged = write(work / "damaged", {one.name: one.degraded for one in there})
    true = {one.name: one.mask for one in there}
    rows = [Row(DAMAGED, (), damaged), Row(BLIND, (), restored(damaged, work / "blind", kept))]
    rows += by_bundled(damaged, work, kept)
    known = {pixels: written_masks(true, work / "true" / str(pixels), pixels) for pixels in GROWN[1:]}
    bounds = with_masks("true", known, damaged, work, kept, ())
    detector = load_detector(args.detector)
    masks = found_by(detector, damaged, work / "found")
    inpainted = with_masks("found", masks, damaged, work, kept, ("detector",))
    fitted = [quality(row.made.pictures(), there)["tones fitted: PSNR"] or 0.0 for row in inpainted]
    pixels = GROWN[int(np.argmax(fitted))]
    rows += inpainted
    seen = {n: [(1 - one.mean(0, keepdim=True)) / 2 for one in made.pictures()] for n, made in masks.items()}
    figures = [{"dilated by": f"{n} px"} | agreement(one, list(true.values())) for n, one in seen.items()]
    report: dict[str, Any] = {"detector": {"rows": figures, "threshold": detector.config.threshold}}
    rows += by_models(args, damaged, rows[1].made, masks, pixels, work, kept)
    rows += bounds
    report["pixels"] = pixels
    report["pictures"], report["masked"] = len(there), sum(bool(one.mask.any()) for one in there)
    report["rows"] = [row_of(row, there) for row in rows]
    columns = {DAMAGED: damaged.pictures(), "mask found": [2 * one - 1 for one in seen[0]]}
    columns |= {row.method: row.made.pictures() for row in rows[1:] if is_shown(row.method, pixels)}
    columns["truth"] = [one.clean for one in there]
    show(columns, spread(len(there)), sheet_path(args.output, "synthetic"))
    return report


def measure_scales(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Larger photographs: the network of `--faded` alone, and from coarse to fine."""
    kept, rows = Cache(args.cache / "old_photos"), []
    for side in args.sides:
        there = samples(args.data, args.pictures, side)
        damaged = write(work / str(side) / "damaged", {one.name: one.degraded for one in there})
        alone = restored(damaged, work / str(side) / "alone", kept, model=DEFAULT_OLD_PHOTO_RESTORER)
        fine = restored(damaged, work / str(side) / "fine", kept, faded=True)
        row: dict[str, Any] = {"pixels": f"{side} x {side}", "pictures": len(there)}
        for name, made in {DAMAGED: damaged, "at one scale": alone, "coarse to fine": fine}.items():
            row[name] = quality(made.pictures(), there)["PSNR"]
        rows.append(row)
    return {"sizes": rows}


def row_of(row: Row, there: Sequence[Sample]) -> dict[str, Any]:
    costs = row.made.seconds
    return {
        "method": row.method,
        "needs": row.needs,
        **quality(row.made.pictures(), there),
        "s/picture": float(np.median(costs)) if costs else None,
        "parameters, millions": sum(row.made.parameters.values()) / 1e6 if costs else None,
        "pictures": len(there),
    }


def is_shown(method: str, pixels: int) -> bool:
    """Whether it is on a sheet: of what is dilated, only that by so many pixels."""
    return " px: " not in method or f"+ {pixels} px: " in method


def spread(count: int) -> list[int]:
    """The numbers of SHOWN pictures of photographs from all over the list; the damages take turns."""
    photos = count // DAMAGES
    return sorted({i * photos // SHOWN * DAMAGES + i % DAMAGES for i in range(SHOWN)})


def show(columns: Mapping[str, Sequence[Tensor]], chosen: Iterable[int], path: Path) -> None:
    """A sheet with a row for each picture and a column for each method."""
    rows = [("", [Cell("", pictures[index]) for pictures in columns.values()]) for index in chosen]
    heads = [Cell(label.replace(": ", ":\n"), cell.picture) for label, cell in zip(columns, rows[0][1], strict=True)]
    rows[0] = ("", heads)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(contact_sheet(rows), path)


def sheet_path(output: Path, name: str) -> Path:
    return output.with_name(f"{output.name}_{name}.jpg")


# --- really old photographs -----------------------------------------------------------------------------------------


def show_old(args: argparse.Namespace, pixels: int, work: Path) -> dict[str, Any]:
    detector, report, kept = load_detector(args.detector), {}, Cache(args.cache / "old_photos")
    for kind, paths in (("scratched", SCRATCHED), ("others", OTHERS)):
        with zipfile.ZipFile(args.data / OLD) as archive:
            read = {path: read_picture(archive.read(path)).convert("RGB") for path in paths[: args.pictures]}
        folder = work / kind
        photos = {
            path.replace("/", "_").replace(".jpg", ".png"): images.to_tensor(one)[0] for path, one in read.items()
        }
        as_it_is = write(folder / "photographs", photos)
        blind = restored(as_it_is, folder / "blind", kept)
        columns = {"photograph": as_it_is.pictures()}
        rows = [Row(BLIND, (), blind), *by_bundled(as_it_is, folder, kept)]
        masks = found_by(detector, as_it_is, folder / "found")
        columns["mask found"] = [-one for one in masks[0].pictures()]
        rows += with_masks("found", {pixels: masks[pixels]}, as_it_is, folder, kept, ("detector",))
        report[kind] = {path: float((1 - one).mean() / 2) for path, one in zip(read, masks[0].pictures(), strict=True)}
        rows += by_models(args, as_it_is, blind, masks, pixels, folder, kept)
        columns |= {row.method: row.made.pictures() for row in rows}
        small = {label: [of_height(one, SIDE) for one in pictures] for label, pictures in columns.items()}
        show(small, range(len(photos)), sheet_path(args.output, kind))
        if kind == "scratched":
            seen = restored(as_it_is, folder / "seen", kept, scratches="find").pictures()
            masks_seen = [of_height(one.mean(0, keepdim=True), SIDE) for one in seen]
            few = {"photograph": small["photograph"], "--scratches find": masks_seen}
            few |= {name.removeprefix("restore "): small[name] for name in (AUTO, BOTH)}
            show(few, [one for one in README_ROWS if one < len(photos)] or [0], sheet_path(args.output, "auto"))
    return {"found": report}


def of_height(picture: Tensor, height: int) -> Tensor:
    """A picture (C, H, W) with another height, antialiased; smaller ones stay as they are."""
    if picture.shape[1] <= height:
        return picture
    width = round(picture.shape[2] * height / picture.shape[1])
    resized = functional.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)
    return resized[0].clamp(-1, 1)


# --- memory ---------------------------------------------------------------------------------------------------------


def peak() -> float:
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def write_random(attention: str, folder: Path) -> None:
    """A pipeline with networks of the published sizes, and with the detector where there is a mask."""
    torch.manual_seed(0)
    detector = None if attention == "none" else ScratchDetector().eval()
    mapping = OldPhotoMapping(attention=attention).eval()  # type: ignore[arg-type]
    OldPhotoPipeline(OldPhotoVAE().eval(), mapping, OldPhotoVAE().eval(), detector).save_pretrained(folder)


def measure_one(attention: str, folder: Path, dtype: str, side: int) -> dict[str, Any]:
    """One row, in this process: the detector, then a picture with a square hole."""
    torch.set_num_threads(1)
    imported, hole = peak(), round(side * HIDDEN**0.5)
    with tempfile.TemporaryDirectory() as place:
        source, mask = Path(place, "a.png"), Path(place, "mask.png")
        images.save(torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1, source)
        damaged = torch.ones(1, side, side)
        damaged[:, side // 3 : side // 3 + hole, side // 3 : side // 3 + hole] = -1
        images.save(damaged, mask)
        options = {} if attention == "none" else {"mask": mask}
        restorer = restoring.load(folder, dtype=dtype, device="cpu", **options)
        restorer.quiet = True
        loading, loaded, start = peak(), psutil.Process().memory_info().rss / 1e6, time.perf_counter()
        if attention != "none":
            picture = images.load(source).tensor
            pipe = restorer.pipe
            find_scratches("scratch_detector", pipe.scratch_detector, picture, pipe.config.detection_size)
        (outcome,) = restorer.restore_files([source], Path(place, "b.png"))
        seconds = time.perf_counter() - start
    if outcome.error is not None:
        raise outcome.error
    most = peak()
    reckoned = (
        memory.old_photo_memory(restorer.pipe, side, side, attention != "none") + trained.OLD_PHOTO_MEMORY * side**2
    )
    return {
        "mapping": ROUTES[attention],
        "dtype": dtype,
        "pixels": f"{side} x {side}",
        "peak, MB": most,
        "imported, MB": imported,
        "while loading, MB": loading,
        "loaded, MB": loaded,
        "peak - loaded, MB": most - loaded,
        "reckoned, MB": reckoned / 1e6,
        "s": seconds,
    }


def measure_memory(args: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """Each row in a process of its own, as is the making of the networks: a child's peak is never below that of the
    process that started it.
    """
    script = [sys.executable, __file__]
    with tempfile.TemporaryDirectory() as place:
        for attention in args.attentions:
            folder = str(Path(place, attention))
            subprocess.run([*script, "--write", attention, folder], capture_output=True, text=True, check=True)
            for side in args.sides:
                for dtype in args.dtypes:
                    command = [*script, "--one", attention, folder, dtype, str(side)]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    keep(json.loads(done.stdout.splitlines()[-1]))


# --- the report -----------------------------------------------------------------------------------------------------

FORMATS = {"method": "", "PSNR": ".2f", "SSIM": ".3f", "PSNR in mask": ".2f", "outside": ".2f"}
FORMATS |= {"tones fitted: PSNR": ".2f", "fitted, in mask": ".2f", "fitted, outside": ".2f"}
FORMATS |= {"s/picture": ".2f", "parameters, millions": ".1f"}
SCALES = {"pixels": "", DAMAGED: ".2f", "at one scale": ".2f", "coarse to fine": ".2f"}
CURVE = {"run": "", "steps": ",", "PSNR": ".2f"}
DETECTED = {"dilated by": "", "f1": ".3f", "precision": ".3f", "recall": ".3f", "mean f1": ".3f", "found": ".2%"}
MEMORY = {"mapping": "", "dtype": "", "pixels": "", "peak, MB": ".0f"}
MEMORY |= {
    "while loading, MB": ".0f",
    "loaded, MB": ".0f",
    "peak - loaded, MB": ".0f",
    "reckoned, MB": ".0f",
    "s": ".0f",
}


def merged(earlier: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The new rows, and those of earlier runs that need other models and are of as many pictures; bounds are last."""
    measured = {tuple(row["needs"]) for row in rows}
    pictures = {row["pictures"] for row in rows}
    order: list[tuple[str, ...]] = [(), ("detector",), ("old_photo",)]
    wanted = set(order) - measured
    kept = [row for row in earlier if tuple(row["needs"]) in wanted and row["pictures"] in pictures]
    everything = [dict(row) for row in (*rows, *kept)]
    return sorted(everything, key=lambda row: (row["method"].startswith("true"), order.index(tuple(row["needs"]))))


def merged_memory(earlier: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows by network, size and precision, the new one in the place of that which was there."""

    def place(one: Mapping[str, Any]) -> tuple[int, int, int]:
        side = int(one["pixels"].split()[0])
        return list(ROUTES.values()).index(one["mapping"]), side, DTYPES.index(one["dtype"])

    return sorted([*(one for one in earlier if place(one) != place(row)), row], key=place)


def to_markdown(report: dict[str, Any]) -> str:
    parts, text = report["parts"], ["# Old photographs\n"]
    if (found := parts.get("synthetic")) is not None:
        text += _synthetic(found)
    if (found := parts.get("scales")) is not None:
        text += [
            "## Larger photographs\n\nThe same photographs and damage at other sizes, PSNR in dB of the network of "
            "`--faded` on the picture as it is, and of `--faded`, which restores it at half its "
            "size, a quarter, and so on, too, and takes tones from there.\n",
            markdown_table(found["sizes"], SCALES),
        ]
    if (found := parts.get("training")) is not None:
        text += [
            "## Training of the network of `--faded`\n\nPSNR in dB of held-out photographs, as the training measured "
            f"it, beside {found['degraded']:.2f} of the damaged ones. Each run began with the weights of the one "
            "before, and its learning rate went up again.\n",
            markdown_table(found["held out"], CURVE),
        ]
    if (found := parts.get("old")) is not None:
        text += _old(found)
    if (found := parts.get("memory")) is not None:
        text += _memory(found)
    commands = {row["command"]: None for found in parts.values() for row in found.get("rows", [])}
    commands |= {found["command"]: None for found in parts.values()}
    lines = [f"- command: {command}" for command in commands]
    lines += [f"- {name}: {value}" for name, value in report["run"].items() if name != "command"]
    return "\n".join([*text, "## How it was run\n\n" + "\n".join(lines) + "\n"])


def history(files: Iterable[Path]) -> dict[str, Any]:
    """What the runs of a training measured, one after the other."""
    runs = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    told = [(i + 1, one) for i, run in enumerate(runs) for one in run if "psnr" in one]
    rows = [{"run": i, "steps": one["step"], "PSNR": one["psnr"]} for i, one in told]
    return {"held out": rows, "degraded": told[0][1]["psnr_degraded"]}


def _synthetic(found: Mapping[str, Any]) -> list[str]:
    pictures = found["pictures"]
    text = [
        f"## Photographs that were damaged here, {pictures} pictures\n\n{pictures // DAMAGES} held-out photographs, "
        f"resized to a shorter side of {SIDE} px (antialiased) and cropped to the centre, each damaged {DAMAGES} times "
        "by the recipe `old_photo_full` with seeds that are fixed by its number. Everything runs as `diffusers-restore "
        "restore` runs it, from file to file.\n",
        f"PSNR in dB and SSIM are means over the pictures; in mask: of the pixels that the recipe hides, of the "
        f"{found['masked']} pictures that have any; outside: of the others. The recipe changes tones, too (fading, "
        "casts, sepia, uneven light), which only a network that was trained for that can undo. **Tones fitted** is "
        "the PSNR after the best a x + b of each channel, by least squares against the truth, so that scratches, "
        "noise and blur are seen: it isn't the quality of a result, since a user has no truth to fit to. s/picture: "
        "the median of all that a method takes, with reading and writing. The rows of a true mask are bounds: they "
        "need what a user doesn't have.\n",
        markdown_table(found["rows"], FORMATS),
    ]
    if (comparison := compared(found["rows"])) is not None:
        text.append(comparison + "\n")
    text.append("![damaged photographs](old_photos_synthetic.jpg)\n")
    if (detector := found.get("detector")) is not None:
        scratched = detector["rows"][0]["scratched"]
        text.append(
            f"### The detector, at its threshold of {detector['threshold']:g}\n\nOver the pixels of all pictures "
            f"together, of which {scratched:.2%} are hidden; mean f1 is that of the pictures, as training states it. "
            "found: the share of pixels taken for scratches.\n"
        )
        text.append(markdown_table(detector["rows"], DETECTED))
    return text


def compared(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Which dilation and which order is better, None without a detector."""
    figure = "tones fitted: PSNR"
    of_found = {row["method"]: row[figure] for row in rows if tuple(row["needs"]) == ("detector",)}
    first = {name: value for name, value in of_found.items() if name.endswith(f"then {BLIND}")}
    last = {name: value for name, value in of_found.items() if name.endswith("then inpainted")}
    if not first or not last:
        return None
    best = max(first, key=lambda name: first[name])
    pixels = re.search(r"\d+ px", best)
    assert pixels is not None
    gap = first[best] - next(iter(last.values()))
    order = "inpainting first" if gap >= 0 else "inpainting last"
    return (
        f"With tones fitted, a mask that is dilated by {pixels[0]} is better than the other, and with it {order} is "
        f"better ({abs(gap):.2f} dB). The dilation was chosen on these same pictures."
    )


def _old(found: Mapping[str, Any]) -> list[str]:
    shares = "; ".join(f"{path} {share:.1%}" for of_kind in found["found"].values() for path, share in of_kind.items())
    seen = f" Taken for scratches: {shares}." if shares else ""
    return [
        "## Really old photographs\n\nThere is no truth, so there are no figures. They were restored as they are, and "
        f"are shown with a height of {SIDE} px.{seen}\n",
        "What `restore --scratches` finds, and what it makes of that:\n\n"
        "![scratched photographs, masks and results](old_photos_auto.jpg)\n",
        "Scratched ones, by all:\n\n![scratched photographs](old_photos_scratched.jpg)\n",
        "Others:\n\n![other photographs](old_photos_others.jpg)\n",
    ]


def _memory(found: Mapping[str, Any]) -> list[str]:
    rows = found["rows"]
    imported = max(row["imported, MB"] for row in rows)
    route = [row for row in rows if (row["mapping"], row["pixels"]) == (ROUTES["partial"], "1024 x 1024")]
    said = ""
    if route:
        most = max(row["peak, MB"] for row in route)
        figures = ", ".join(f"{row['peak, MB']:,.0f} MB in {row['dtype']}" for row in route)
        verdict = "stays within" if most <= LIMIT else "does NOT stay within"
        said = (
            f"\n\n**1024 x 1024 through the scratch route (partial attention) {verdict} 4 GB: {figures}**, for the "
            "whole process."
        )
    return [
        "## Memory of OldPhotoPipeline\n\nNetworks of the published sizes with random weights, random pictures of "
        f"which a square of {HIDDEN:.0%} is hidden, one thread, one process each. Peak is the most that the whole "
        f"process held (ru_maxrss); importing takes {imported:.0f} MB of it. While the networks are loaded, it "
        "is what the next column says; then `loaded` is held. Mappings with attention come with the detector, which "
        "looks first. `reckoned` is what the engine compares with the free memory before it begins, beside what is "
        "loaded: the tensors that are alive at the worst moment, counted on the meta device, and a number of bytes for "
        f"each pixel. MB are 10^6 bytes.{said}\n",
        markdown_table(rows, MEMORY),
    ]


# --- running --------------------------------------------------------------------------------------------------------


def save(args: argparse.Namespace, argv: Sequence[str], parts: Mapping[str, dict[str, Any]]) -> Path:
    """Write the report: these parts, and of earlier runs what isn't in them. Returns the path of its text."""
    how = how_it_was_run("benchmarks/old_photos.py", argv)
    # Read now and not before: another run may have measured meanwhile.
    path = args.output.with_suffix(".json")
    report: dict[str, Any] = {"run": how, "parts": json.loads(path.read_text())["parts"] if path.is_file() else {}}
    for name, found in parts.items():
        earlier = report["parts"].get(name, {})
        new = {**earlier, **found, "command": how["command"]}
        if name == "synthetic":
            rows = [row | {"command": how["command"]} for row in found["rows"]]
            new["rows"] = merged(earlier.get("rows", []), rows)
        if name == "memory":
            new["rows"] = earlier.get("rows", [])
            for row in found["rows"]:
                new["rows"] = merged_memory(new["rows"], row | {"command": how["command"]})
        report["parts"][name] = new
    return write_report(args.output, report, to_markdown(report))[1]


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.write is not None:
        write_random(args.write[0], Path(args.write[1]))
        return
    if args.one is not None:
        attention, folder, dtype, side = args.one
        print(json.dumps(measure_one(attention, Path(folder), dtype, int(side))))
        return
    if args.memory:
        torch.set_num_threads(1)  # as the processes have it, for what is said of the run

        def keep(row: dict[str, Any]) -> None:
            print(row, flush=True)
            save(args, argv, {"memory": {"rows": [row]}})

        measure_memory(args, keep)
        return
    if args.history is not None:
        print(save(args, argv, {"training": history(args.history)}).read_text())
        return
    check_models(args)
    with tempfile.TemporaryDirectory() as place:
        synthetic = measure_synthetic(args, Path(place, "synthetic"))
        save(args, argv, {"synthetic": synthetic})
        save(args, argv, {"scales": measure_scales(args, Path(place, "scales"))})
        old = show_old(args, synthetic["pixels"], Path(place, "old"))
        print(save(args, argv, {"old": old}).read_text())


if __name__ == "__main__":
    main()
