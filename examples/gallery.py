#!/usr/bin/env python3
"""Damage photographs in every way, restore them by every method, and lay the results out as pages to look at.

    python examples/gallery.py                                    # gallery/index.html
    python examples/gallery.py --tasks sr4 jpeg --methods dpir ddrm
    python examples/gallery.py --photos my_photographs --output_dir my_gallery

Under each picture are its figures and the command that makes exactly this picture, in the folder of the pages. Pairs
of task and method that can't work are found by trying, and the page says why. What is there is kept, so that an
interrupted run goes on, and the pages grow while it runs.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import quote

import numpy as np
from diffusers import ModelMixin
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import images, operators, restoring
from diffusers_restore.degradations.recipes import RECIPES
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.evaluation.metrics import psnr, ssim
from diffusers_restore.evaluation.report import how_it_was_run
from diffusers_restore.files import visible_files, write_text
from diffusers_restore.registries import METHODS, TASKS
from diffusers_restore.restoring.measuring import Measurer

FOLDERS = (Path(diffusers_restore.__file__).parent / "assets" / "photos", Path(__file__).parent / "photos")
SEEN = {  # what the photographs show, for who doesn't see them
    "chelsea": "the face of a tabby cat",
    "city": "skyscrapers at the water, at dusk",
    "coffee": "a cup of coffee on a wooden table",
    "lantern": "a paper lantern with Chinese characters",
}
ARGUMENTS: dict[str, dict[str, Any]] = {"inpaint-box": {"side": 0.25}, "jpeg": {"quality": 10}}
NOISE = {"denoise": 0.2, **dict.fromkeys((name for name in TASKS if name.startswith("deblur")), 0.02)}
# Steps and options where the method's own number would take minutes: those of benchmarks/methods.py.
SETTINGS: dict[str, dict[str, Any]] = {
    "dps": {"steps": 60, "method_args": {"zeta": 10.0}},
    "mmps": {"steps": 20},
    "pigdm": {"steps": 30},
    "repaint": {"steps": 40, "method_args": {"travel_length": 5, "travel_repeats": 3}},
}
BUNDLED = "bundled restorer"


@dataclass(frozen=True)
class ByRecipe:
    """A page whose pictures a recipe damages, and what is bundled restores without being told the damage."""

    recipe: str
    arguments: Mapping[str, Any]
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)


RECIPE_PAGES = {
    "blind": ByRecipe("blind", {}, "blur, noise and JPEG by chance, for the bundled restorer, which isn't told which"),
    "scratches": ByRecipe(
        "old_photos",
        {"scratches": True},
        "scratches are found, filled in, and the rest is restored",
        {"scratches": "auto"},
    ),
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*TASKS, *RECIPE_PAGES]
    parser.add_argument("--output_dir", type=Path, default=Path("gallery"), help="where pages and pictures go")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="your own (default: four that come along)")
    parser.add_argument("--tasks", nargs="+", default=names, choices=names, metavar="NAME", help="which damages")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    parser.add_argument("--size", type=int, default=112, help="side of the squares that are cut out of the photographs")
    parser.add_argument("--model", help="prior: a folder or a Hub repository (default: the bundled one)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage and of the restorations")
    args = parser.parse_args(argv)
    if args.photos is not None and not args.photos.is_dir():
        parser.error(f"--photos: there is no folder {str(args.photos)!r}")
    if args.size < 32 or args.size % 16:
        parser.error(f"--size must be a multiple of 16 from 32 on, which every task can measure, got {args.size}")
    return args


def find_photos(folder: Path | None) -> dict[str, Path]:
    """The pictures of a folder, or those that come along, by name."""
    known = Image.registered_extensions()
    folders = FOLDERS if folder is None else (folder,)
    found = [path for one in folders for path in sorted(visible_files(one)) if path.suffix.lower() in known]
    if not found:
        raise SystemExit(f"no pictures in {', '.join(str(one) for one in folders)}")
    named = {path.stem: path for path in found}
    if len(named) < len(found):
        raise SystemExit(f"names without their suffix must differ, got {', '.join(path.name for path in found)}")
    return named


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options of `restoring.load` or of a `Measurer`, as they are typed."""
    words = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            for key, one in value.items():
                words += [f"--{name.removesuffix('s').replace('_', '-')}", f"{key}={json.dumps(one)}"]
        else:
            words += [f"--{name.replace('_', '-')}", f"{value}"]
    return words


@dataclass(frozen=True)
class Subject:
    """One damaged photograph; paths are those in the folder of the pages.

    Attributes:
        original: the file that it was made of.
        damaged: the file that is restored.
        shown: a picture of it.
        how: what damaged it: a command, or Python.
        before: PSNR of the damaged picture, or of the pseudo-inverse where that is higher.
    """

    photo: str
    original: str
    damaged: str
    shown: str
    how: str
    before: float


@dataclass
class Page:
    """What is known of one kind of damage so far: records by photograph and method."""

    name: str
    summary: str
    settings: str = ""
    subjects: list[Subject] = field(default_factory=list)
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def of(self, method: str) -> list[dict[str, Any]]:
        """The records of a method that has restored."""
        found = [records[method] for records in self.records.values() if method in records]
        return [one for one in found if "psnr" in one]

    @property
    def methods(self) -> list[str]:
        """All that were tried."""
        return list(dict.fromkeys(name for records in self.records.values() for name in records))

    @property
    def best(self) -> str | None:
        """The method with the highest mean PSNR."""
        able = [name for name in self.methods if self.of(name)]
        return max(able, key=lambda name: mean(one["psnr"] for one in self.of(name)), default=None)


class Gallery:
    """The folder of the pages and what makes it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.root, self.size, self.seed = args.output_dir, args.size, args.seed
        self.model = None if args.model is None else str(args.model)
        self.photos, self.methods = find_photos(args.photos), list(args.methods)
        self.pages = [
            Page(name, RECIPE_PAGES[name].summary if name in RECIPE_PAGES else TASKS[name].summary)
            for name in args.tasks
        ]

    def picture(self, path: str) -> Tensor:
        """A file as (1, C, H, W)."""
        return images.load(self.root / path).tensor

    def original(self, photo: str, side: int, path: str) -> Tensor:
        """The square in the middle of a photograph, written as a file."""
        with Image.open(self.photos[photo]) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        square = ImageOps.fit(upright, (side, side), Image.Resampling.LANCZOS)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        square.save(self.root / path)
        return self.picture(path)

    def options_of_task(self, task: str) -> dict[str, Any]:
        """The damage of a task, in the words that `degrade` and `restore` share; its files are made."""
        options: dict[str, Any] = {"task": task}
        if task in ARGUMENTS:
            options["operator_args"] = ARGUMENTS[task]
        for name, draw in (("mask", draw_mask), ("kernel", draw_kernel)):
            parameter = TASKS[task].arguments.get(name)
            if parameter is not None and parameter.default is parameter.empty:
                (self.root / task).mkdir(parents=True, exist_ok=True)
                draw(self.size).save(self.root / task / f"{name}.png")
                options[name] = f"{task}/{name}.png"
        if task in NOISE:
            options["sigma_y"] = NOISE[task]
        return options

    def placed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with the paths that they have from here."""
        return {name: self.root / value if name in ("mask", "kernel") else value for name, value in options.items()}

    def damage_by_task(self, task: str, photo: str, options: Mapping[str, Any]) -> Subject:
        """Measure a photograph, as `diffusers-restore degrade` does."""
        original = f"originals/{photo}.png"
        x = self.original(photo, self.size, original)
        (self.root / task).mkdir(parents=True, exist_ok=True)
        measurer = Measurer(**self.placed(options), seed=self.seed)
        job = restoring.Job(self.root / original, (self.root / task / f"{photo}.png",), fixed=False)
        target = measurer.measure(job).job.targets[0]
        damaged = f"{task}/{target.name}"
        mask = {"mask": images.load_mask(self.root / options["mask"])} if "mask" in options else {}
        operator = operators.create(task, image_shape=tuple(x.shape[1:]), **measurer.arguments, **mask)
        y = self.picture(damaged)
        inverse = operator.pinv(y)
        guesses = [inverse, y] if y.shape == x.shape else [inverse]
        shown = damaged
        if target.suffix == ".npy":
            shown = f"{task}/{photo}-shown.png"
            images.save(inverse, self.root / shown)
        command = ["diffusers-restore", "degrade", original, "-o", damaged, *words_of(options)]
        how = shlex.join([*command, "--seed", str(self.seed)])
        return Subject(photo, original, damaged, shown, how, max(psnr(one[0], x[0]) for one in guesses))

    def damage_by_recipe(self, name: str, photo: str, number: int) -> Subject:
        """Damage a photograph of twice the size by a recipe; what can be restored of it may be grey."""
        page, seed = RECIPE_PAGES[name], self.seed + number
        original, damaged = f"{name}/{photo}-original.png", f"{name}/{photo}.png"
        x = self.original(photo, 2 * self.size, original)
        damage = RECIPES[page.recipe](**page.arguments)(x, [seed])
        images.save(damage.clean, self.root / original)
        images.save(damage.degraded, self.root / damaged)
        given = ", ".join(f"{key}={value!r}" for key, value in page.arguments.items())
        how = f"RECIPES[{page.recipe!r}]({given})(photograph, [{seed}])  # of diffusers_restore.degradations.recipes"
        before = psnr(self.picture(damaged)[0], self.picture(original)[0])
        return Subject(photo, original, damaged, damaged, how, before)

    def make(self) -> None:
        """Make all pages."""
        pairs = {page.name: [BUNDLED] if page.name in RECIPE_PAGES else self.methods for page in self.pages}
        write_text_in(self.root, "style.css", STYLE)
        bar = tqdm(total=sum(len(methods) for methods in pairs.values()) * len(self.photos), unit="picture")
        for page in self.pages:
            options: dict[str, Any] = {}
            if page.name in RECIPE_PAGES:
                options.update(RECIPE_PAGES[page.name].options)
                page.subjects += [self.damage_by_recipe(page.name, one, n) for n, one in enumerate(self.photos)]
            else:
                options.update(self.options_of_task(page.name))
                page.settings = shlex.join(words_of(options)[2:])
                page.subjects += [self.damage_by_task(page.name, one, options) for one in self.photos]
            for method in pairs[page.name]:
                bar.set_description(f"{page.name}, {method}")
                self.restore(page, method, options, bar)
                self.write(page)
        bar.close()

    def restore(self, page: Page, method: str, damage: Mapping[str, Any], bar: Any) -> None:
        """Restore the photographs of a page by one method, or note why it can't be; what is there is kept."""
        options = dict(damage)
        if method != BUNDLED:
            options |= {"method": method, **SETTINGS.get(method, {})}
            options |= {} if self.model is None else {"model": self.model}
        options["seed"] = self.seed
        restorer = None
        for subject in page.subjects:
            stem = f"{page.name}/{subject.photo}-{method.replace(' ', '-')}"
            target, note = f"{stem}.png", self.root / f"{stem}.json"
            command = shlex.join(["diffusers-restore", "restore", subject.damaged, "-o", target, *words_of(options)])
            made_of = hashlib.sha256((self.root / subject.damaged).read_bytes()).hexdigest()
            record = json.loads(note.read_text()) if note.exists() else {}
            kept = (record.get("command"), record.get("made_of")) == (command, made_of)
            if not kept or ("psnr" in record and not (self.root / target).exists()):
                record = {"command": command, "made_of": made_of, "picture": target}
                try:
                    restorer = restorer or restoring.load(**self.placed(options))
                    record |= self.restore_one(restorer, subject, target)
                except InvalidInputError as error:
                    record["reason"] = why(error)
                write_text(note, json.dumps(record, indent=1) + "\n")
            page.records.setdefault(subject.photo, {})[method] = record
            bar.update()

    def restore_one(self, restorer: Any, subject: Subject, target: str) -> dict[str, Any]:
        """Restore a file, and measure the result."""
        restorer.quiet = True
        with counted() as evaluations:
            (outcome,) = restorer.restore_files(self.root / subject.damaged, self.root / target)
        if outcome.error is not None:
            raise outcome.error
        x, original = self.picture(target)[0], self.picture(subject.original)[0]
        return {
            "psnr": psnr(x, original),
            "ssim": ssim(x, original),
            "seconds": outcome.seconds,
            "evaluations": len(evaluations),
        }

    def write(self, page: Page) -> None:
        """Write a page, and the first one, with what there is."""
        write_text_in(self.root, f"{page.name}.html", page_html(page, self.seed))
        write_text_in(self.root, "index.html", index_html([one for one in self.pages if one.records]))


@contextmanager
def counted() -> Iterator[list[None]]:
    """A list that grows by one with each evaluation of a network."""
    seen: list[None] = []
    hook = register_module_forward_hook(
        lambda module, inputs, output: seen.append(None) if isinstance(module, ModelMixin) else None
    )
    try:
        yield seen
    finally:
        hook.remove()


def why(error: Exception) -> str:
    """The reason, without the list of what else could be done."""
    return " ".join(str(error).partition(". Methods that can")[0].split())


def draw_mask(size: int) -> Image.Image:
    """White, with three black strokes of a pen."""
    mask = Image.new("L", (size, size), 255)
    draw, width = ImageDraw.Draw(mask), max(2, size // 25)
    strokes = [
        [(0.1, 0.2), (0.35, 0.3), (0.6, 0.15), (0.9, 0.3)],
        [(0.2, 0.9), (0.3, 0.6), (0.5, 0.55), (0.55, 0.85)],
        [(0.7, 0.5), (0.9, 0.6), (0.75, 0.75), (0.9, 0.9)],
    ]
    for stroke in strokes:
        draw.line([(size * x, size * y) for x, y in stroke], fill=0, width=width, joint="curve")
    return mask


def draw_kernel(size: int) -> Image.Image:
    """The path of a hand that shakes, an eleventh of the picture wide, in grey levels."""
    side = max(3, size // 11 // 2 * 2 + 1)
    t = np.linspace(0, 1, 64 * side)[:, None]
    ends = np.float64([[0.1, 0.2], [0.9, 0.1], [0.7, 0.95]])  # a parabola by three points, (x, y)
    path = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    grey, _, _ = np.histogram2d(path[:, 1], path[:, 0], bins=side, range=[[0, 1], [0, 1]])
    return Image.fromarray(np.uint8(np.round(255 * grey / grey.max())))


def write_text_in(root: Path, name: str, text: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    write_text(root / name, text)


HOW = "Move the pointer over a picture, tap it, or use the arrow keys: damaged on the left, restored on the right."
STOPS = 21
"""Places where the border between two pictures can be."""


def _wipes() -> str:
    """Where the border is: at the chosen stop, or at that under the pointer, which comes later and so prevails."""
    rules = []
    for state in ("checked", "hover"):
        for n in range(STOPS):
            rules.append(f".compare input:nth-of-type({n + 1}):{state} ~ * {{ --x: {100 * n / (STOPS - 1):g}%; }}")
    return "\n".join(rules)


STYLE = (
    """\
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --ink: #24221f; --faint: #6b665e; --rule: #e0dcd5; --card: #fff; --mark: #1f6f8b; --bad: #a3341f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #191816; --ink: #e8e5df; --faint: #a29c92; --rule: #35322d; --card: #211f1d; --mark: #74c0d8;
    --bad: #f0907c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0.75rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
p, li { max-width: 44rem; }
a { color: var(--mark); }
nav { color: var(--faint); }
.faint, figcaption, summary { color: var(--faint); font-size: 0.875rem; }
figure { margin: 0; min-width: 0; }
figcaption { padding-top: 0.4rem; }
figcaption b { color: var(--ink); }
.bad { color: var(--bad); }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; }
.pixels { image-rendering: pixelated; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0.75rem; max-width: 56rem; }
.grid {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1.25rem 1rem;
  margin-top: 1.25rem;
}
code { font: 0.78rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; }
.compare { position: relative; overflow: hidden; border-radius: 3px; background: var(--rule); }
.compare:focus-within { outline: 3px solid var(--mark); outline-offset: 2px; }
.compare input {
  appearance: none; position: absolute; z-index: 2; top: 0; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  left: calc((var(--n) - 0.5) * 100% / (var(--stops) - 1)); width: calc(100% / (var(--stops) - 1));
}
.compare .damaged { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--x)) 0 0); }
.compare .line {
  position: absolute; top: 0; bottom: 0; left: calc(var(--x) - 1px); width: 2px; background: #fff;
  box-shadow: 0 0 3px #000a;
}
.compare .line::after {
  content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 1.75rem; height: 1.75rem; border-radius: 50%;
  transform: translate(-50%, -50%); background: #fff; color: #222; box-shadow: 0 0 4px #0009;
  font: 1.1rem/1.75rem system-ui, sans-serif; text-align: center;
}
.compare .damaged, .compare .line { transition: clip-path 0.08s, left 0.08s; }
@media (prefers-reduced-motion: reduce) { .compare * { transition: none !important; } }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.best { font-weight: 700; }
"""
    + f".compare {{ --stops: {STOPS}; --x: 50%; }}\n"
    + _wipes()
    + "\n"
)


def document(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="stylesheet" href="style.css">
{body}
</html>
"""


def marked(text: str) -> str:
    """A sentence with `code` as HTML."""
    return re.sub("`(.*?)`", r"<code>\1</code>", html.escape(text))


def img(path: str, alt: str, name: str = "") -> str:
    return f'<img loading="lazy" class="pixels {name}" src="{quote(path)}" alt="{html.escape(alt)}">'


def slider(subject: Subject, record: Mapping[str, Any], label: str, group: str) -> str:
    """The restored picture, and the damaged one before it as far as the border, which radio buttons move."""
    seen = SEEN.get(subject.photo, subject.photo)
    stops = "".join(
        f'<input type="radio" name="{group}" style="--n:{n}" aria-label="{100 * n // (STOPS - 1)} %"'
        f"{' checked' if n == STOPS // 2 else ''}>"
        for n in range(STOPS)
    )
    what = html.escape(f"{label}: how much of the damaged picture is seen, from the left")
    return (
        f'<div class="compare" role="radiogroup" aria-label="{what}">{stops}'
        + img(record["picture"], f"{seen}, restored by {label}")
        + img(subject.shown, f"{seen}, damaged", "damaged")
        + '<span class="line"></span></div>'
    )


def gain(record: Mapping[str, Any], subject: Subject) -> str:
    """PSNR, and its difference to that of the damaged picture."""
    if subject.before == float("inf"):
        return f"{record['psnr']:.2f} dB; nothing was damaged"
    more = record["psnr"] - subject.before
    mark = f'<span class="bad">{more:+.2f}, worse than damaged</span>' if more < 0 else f"{more:+.2f}"
    return f"{record['psnr']:.2f} dB ({mark})"


def figure(subject: Subject, method: str, record: Mapping[str, Any], seed: int, group: str) -> str:
    evaluations = record["evaluations"]
    of_network = f"{evaluations} network evaluation{'s' if evaluations != 1 else ''}"
    return f"""<figure>{slider(subject, record, method, group)}
<figcaption><b>{method}</b> {gain(record, subject)}<br>
SSIM {record["ssim"]:.3f}, {record["seconds"]:.1f} s, {of_network}, seed {seed}
<details><summary>command</summary><code>{html.escape(record["command"])}</code></details></figcaption></figure>"""


def page_html(page: Page, seed: int) -> str:
    settings = f"<br>Here: <code>{html.escape(page.settings)}</code>" if page.settings else ""
    parts = [
        '<nav><a href="index.html">All damages</a></nav>',
        f"<h1>{page.name}</h1>\n<p>{marked(page.summary)}{settings}</p>",
        f"<p class=faint>{HOW} In brackets is the gain over the damaged picture, or over the pseudo-inverse of the "
        "damage where that is better. Commands are for this folder.</p>",
    ]
    reasons = {
        method: record["reason"]
        for records in page.records.values()
        for method, record in records.items()
        if "reason" in record
    }
    if reasons:
        listed = "\n".join(f"<li><b>{name}</b>: {html.escape(reason)}</li>" for name, reason in reasons.items())
        parts.append(f"<details><summary>Not here, since they can't do it</summary>\n<ul>{listed}</ul></details>")
    for subject in page.subjects:
        records = {m: r for m, r in page.records.get(subject.photo, {}).items() if "psnr" in r}
        if not records:
            continue
        seen, best = SEEN.get(subject.photo, subject.photo), page.best or ""
        before = "not damaged" if subject.before == float("inf") else f"{subject.before:.2f} dB"
        three = [(subject.shown, "damaged", f"damaged, {before}")]
        if best in records:
            three.append((records[best]["picture"], f"restored by {best}", f"{best}, {records[best]['psnr']:.2f} dB"))
        three.append((subject.original, "undamaged", "original"))
        row = "\n".join(
            f"<figure>{img(path, f'{seen}, {what}')}<figcaption>{caption}</figcaption></figure>"
            for path, what, caption in three
        )
        cards = "\n".join(
            figure(subject, method, record, seed, f"{subject.photo}-{n}")
            for n, (method, record) in enumerate(records.items())
        )
        parts.append(
            f'<section>\n<h2 id="{html.escape(subject.photo)}">{html.escape(subject.photo)}</h2>\n'
            f'<div class="three">{row}</div>\n'
            f"<details><summary>how it was damaged</summary><code>{html.escape(subject.how)}</code></details>\n"
            f'<div class="grid">{cards}</div>\n</section>'
        )
    return document(f"{page.name}: gallery of diffusers_restore", "\n".join(parts))


def index_html(pages: Sequence[Page]) -> str:
    methods = list(dict.fromkeys(method for page in pages for method in page.methods))
    rows, worse, cards = [], [], []
    for n, page in enumerate(pages):
        cells = []
        for method in methods:
            found = page.of(method)
            number = f"{mean(one['psnr'] for one in found):.2f}" if found else "–"
            cells.append(f'<td class="best">{number}</td>' if found and method == page.best else f"<td>{number}</td>")
        befores = [one.before for one in page.subjects if one.before != float("inf")]
        before = f"{mean(befores):.2f}" if befores else "–"
        link = f'<a href="{page.name}.html">{page.name}</a>'
        rows.append(f"<tr><td>{link}</td><td>{before}</td>{''.join(cells)}</tr>")
        for subject in page.subjects:
            for method, record in page.records.get(subject.photo, {}).items():
                if "psnr" in record and record["psnr"] < subject.before < float("inf"):
                    worse.append((record["psnr"] - subject.before, page.name, subject.photo, method, record["psnr"]))
        subject, best = page.subjects[n % len(page.subjects)], page.best
        record = page.records.get(subject.photo, {}).get(best or "", {})
        if "psnr" in record:
            cards.append(
                f"<figure>{slider(subject, record, f'{page.name}, {best}', f'card-{n}')}<figcaption>"
                f"<b>{link}</b> {marked(page.summary)}<br>{best}, {gain(record, subject)}</figcaption></figure>"
            )
    head = "".join(f"<th>{method}</th>" for method in methods)
    listed = "".join(
        f'<tr><td><a href="{page}.html#{quote(photo)}">{page}, {html.escape(photo)}</a></td><td>{method}</td>'
        f'<td>{figure:.2f}</td><td class="bad">{less:+.2f}</td></tr>'
        for less, page, photo, method, figure in sorted(worse)
    )
    run = how_it_was_run("examples/gallery.py", sys.argv[1:])
    versions = ", ".join(f"{name} {value}" for name, value in run.items() if name != "command")
    failures = f"""<h2>Where it became worse</h2>
<p>PSNR below that of the damaged picture, or of the pseudo-inverse. Where much is lost, a sharp guess scores less than
a smooth one, and a fall of one or two dB is no fault; a larger one is.</p>
<div class="table" tabindex="0"><table><tr><th>picture</th><th>method</th><th>dB</th><th>difference</th></tr>
{listed}</table></div>"""
    body = f"""<h1>Photographs, damaged and restored</h1>
<p>Each page has one kind of damage, restored by each method that can undo it, on the same photographs with the same
seed. One network does all of it but for the pages of the bundled restorer. {HOW}</p>
<div class="grid">{"".join(cards)}</div>
<h2>Mean PSNR in dB</h2>
<div class="table" tabindex="0"><table><tr><th>damage</th><th>before</th>{head}</tr>
{"".join(rows)}</table></div>
<p class=faint>–: not done, or it can't be; the page says why. Before: the damaged picture, or the pseudo-inverse.</p>
{failures if worse else ""}
<p class=faint>Made by <code>{html.escape(run["command"])}</code>: {html.escape(versions)}. The photographs that come
along are CC0: chelsea by Stefan van der Walt, city by Romain Guy, coffee by Rachel Michetti, lantern by mr.lee.</p>"""
    return document("Gallery of diffusers_restore", body)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(sys.argv[1:] if argv is None else argv)
    gallery = Gallery(args)
    count = len(gallery.photos)
    print(f"{len(gallery.pages)} kinds of damage, {len(gallery.methods)} methods, {count} photographs")
    for name in gallery.methods:
        steps = SETTINGS.get(name, {}).get("steps") or METHODS[name]().default_count
        print(f"{name}: {steps} steps{', with gradients of the network' if METHODS[name].needs_gradient else ''}")
    gallery.make()
    print(f"pages: {args.output_dir / 'index.html'}")


if __name__ == "__main__":
    main()
