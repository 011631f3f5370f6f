"""Before/after sheets, tables, and how figures were made."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .. import __version__, images
from ..errors import InvalidInputError
from ..files import write_text

_GAP, _LINE, _LABEL = 8, 19, 150
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet with its caption; a `picture` of None leaves its place empty.

    Attributes:
        caption: one line or several.
        picture: (C, H, W) in [-1, 1], C = 1 or 3.
    """

    caption: str
    picture: Tensor | None = None


def contact_sheet(rows: Sequence[tuple[str, Sequence[Cell]]]) -> Image.Image:
    """A sheet of pictures, one row for each (label, cells), with captions above the pictures.

    All cells have the size of the largest picture; a smaller one is enlarged by the largest whole number that fits, so
    that its pixels stay visible. The column of labels is left out where no row has one.

    Raises:
        InvalidInputError: no such rows, or no picture at all.
    """
    for row in rows if isinstance(rows, (list, tuple)) else [rows]:
        if not isinstance(row, (list, tuple)) or len(row) != 2 or not all(isinstance(cell, Cell) for cell in row[1]):
            raise InvalidInputError(f"rows must be a list of (label, cells), each a Cell, got {row!r:.99}")
    pictures = [[None if cell.picture is None else _pil(cell.picture) for cell in cells] for _, cells in rows]
    sizes = [picture.size for row in pictures for picture in row if picture is not None]
    if not sizes:
        raise InvalidInputError("a sheet needs at least one picture")
    width, height = (max(size[axis] for size in sizes) for axis in (0, 1))
    left = _GAP + (_LABEL if any(label for label, _ in rows) else 0)
    lines = [max(cell.caption.count("\n") + 1 if cell.caption else 0 for cell in cells) for _, cells in rows]
    heads = [_LINE * count + 4 * (count > 0) for count in lines]
    columns = max(len(cells) for _, cells in rows)
    size = (left + columns * (width + _GAP), _GAP + sum(heads) + len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    top = _GAP
    for (label, cells), row, head in zip(rows, pictures, heads, strict=True):
        draw.multiline_text((_GAP, top + head), label, fill=_INK, font=font)
        for column, (cell, picture) in enumerate(zip(cells, row, strict=True)):
            x = left + column * (width + _GAP)
            draw.multiline_text((x, top), cell.caption, fill=_INK, font=font, spacing=2)
            if picture is not None:
                sheet.paste(_enlarged(picture, width, height), (x, top + head))
        top += head + height + _GAP
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet, aside first and then renamed.

    Raises:
        ImageError: the suffix names no format, the folder is absent, or the write fails.
    """
    images.save(images.to_tensor(sheet), path)


def markdown_table(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str]) -> str:
    """A Markdown table of the columns that `formats` names, each with its format specification.

    `formats` is e.g. {"task": "", "PSNR": ".2f"}; a missing value, or None, becomes a dash.
    """

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    head = [line(list(formats)), line(["---:" if form else "---" for form in formats.values()])]
    body = [
        line(["–" if row.get(name) is None else format(row[name], form) for name, form in formats.items()])
        for row in rows
    ]
    return "\n".join([*head, *body]) + "\n"


def write_report(stem: Path, data: Mapping[str, Any], markdown: str) -> tuple[Path, Path]:
    """Write `stem`.json and `stem`.md, each aside first and then renamed; the folder is made. Returns both paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".md")
    for path, text in zip(written, (json.dumps(data, indent=1) + "\n", markdown), strict=True):
        write_text(path, text)
    return written


def how_it_was_run(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The command, without the folders of this machine, and everything else that figures depend on."""
    return {
        "command": shlex.join(["python", script, *(_without_folders(argument) for argument in arguments)]),
        "diffusers_restore": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": torch.get_num_threads(),
        "cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }


def _without_folders(argument: str) -> str:
    name, equals, value = argument.rpartition("=")
    path = Path(value).expanduser()
    return f"{name}{equals}{path.name if path.is_absolute() else value}"


def _pil(picture: Tensor) -> Image.Image:
    return images.to_pil(picture)[0].convert("RGB")


def _enlarged(picture: Image.Image, width: int, height: int) -> Image.Image:
    factor = min(width // picture.width, height // picture.height)
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
