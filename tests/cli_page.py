"""Runs the commands of docs/cli.md; `python tests/cli_page.py` writes their output into the page.

A block ```console holds commands, each after `$ `, and what they print. All run in one folder, in their order.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from adm_reference import ADM
from click.testing import CliRunner
from old_photos_reference import write_checkpoints
from PIL import Image
from pix2pix_reference import UNet, randomised

from diffusers_restore import DEFAULT_PRIOR
from diffusers_restore.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
BLOCK = re.compile(r"(^```console\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*?(?:\\\n.*?)*)\n", re.MULTILINE)
BAR = re.compile(r"(\r|^)[^\n\r]*?\d+%\|[^\n\r]*?\]|\r *(?=[\r\n])", re.MULTILINE)  # what a terminal would overwrite


def prepare(folder: Path) -> None:
    """The files that the page names."""
    for name, picture, side in (
        ("photo.png", "chelsea", 128),
        ("photos/cat.png", "chelsea", 96),
        ("photos/cup.png", "coffee", 96),
    ):
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        with Image.open(Path(DEFAULT_PRIOR).parent / "photos" / f"{picture}.png") as whole:
            left, top = (whole.width - side) // 2, (whole.height - side) // 2
            whole.convert("RGB").crop((left, top, left + side, top + side)).save(target)
    with Image.open(Path(DEFAULT_PRIOR).parent / "photos" / "chelsea.png") as whole:
        whole.convert("RGB").resize((480, 480)).crop((0, 160, 480, 224)).save(folder / "panorama.png")
    mask = Image.new("L", (128, 128), 255)
    mask.paste(0, (40, 40, 80, 60))
    mask.save(folder / "mask.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ADM(channels=32, multipliers=(1, 1, 2, 2, 4, 4), attention=(4,), head_channels=64)
    torch.save(network.weights(dtype=torch.float32), folder / "ffhq.pt")
    generator = randomised(UNet((8, 16, 32, 32, 32, 32)), dtype=torch.float32)
    torch.save(generator.state_dict(), folder / "latest_net_G.pth")
    write_checkpoints(folder / "checkpoints")


def run(block: str) -> str:
    """A block with the output that its commands have now, in the working directory."""
    parts = []
    for command in COMMAND.findall(block):
        parts.append(f"$ {command}\n{output(command)}")
    return "".join(parts)


def output(command: str) -> str:
    words = shlex.split(command.replace("\\\n", " "))
    if words[0] == "ls":
        names = sorted(path.name for path in Path(words[1]).iterdir() if not path.name.startswith("."))
        return "  ".join(names) + "\n"
    assert words[0] == "diffusers-restore", f"no command of this page: {command}"
    result = CliRunner().invoke(main, words[1:], prog_name=words[0], terminal_width=100)
    printed = BAR.sub("", result.output)
    return printed if result.exit_code == 0 else f"{printed}(exit status {result.exit_code})\n"


def alike(printed: str) -> str:
    """Text without what differs from machine to machine and from run to run: decimals, and times."""
    text = re.sub(r"\d+(\.\d+)? (s|min|ms)\b", "# s", printed)
    return re.sub(r"\d+\.\d+", "#", text)


def blocks(text: str) -> Iterator[str]:
    yield from (match[2] for match in BLOCK.finditer(text))


def write() -> None:
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        os.chdir(folder)
        made = BLOCK.sub(lambda match: match[1] + run(match[2]) + match[3], text)
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write()
