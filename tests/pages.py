"""Runs the code blocks of the documentation at toy size.

A page of `WHOLE` is run from top to bottom in one folder, as its readers paste it; of the others each block is run by
itself, in a folder that holds what they name.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from diffusers_restore.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WHOLE = [page for folder in ("tutorials", "how_to", "papers") for page in sorted((DOCS / folder).glob("*.md"))]
PAGES = [
    *sorted(DOCS.glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "schedulers/README.md")),
]
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))

# What the documentation trains is trained here for a step or two, of a tiny network.
TOY = {
    "max_train_steps": 1,
    "resolution": 16,
    "validation_resolution": 16,
    "block_out_channels": "16,32",
    "train_batch_size": 1,
    "mixed_precision": "no",
    "logger": "none",
}
_TOY = {"max_train_steps": 1, "train_batch_size": 1, "mixed_precision": "no", "logger": "none", "resolution": 64}
TOYS = {
    "old-photo-vae": {**_TOY, "block_out_channels": "4,8", "num_blocks": 1, "discriminator_channels": 2},
    "old-photo-mapping": {**_TOY, "mapping_channels": "8", "num_blocks": 2, "discriminator_channels": 2},
    "pix2pix": {
        "max_train_steps": 1,
        "resolution": 16,
        "generator": "resnet_6",
        "generator_channels": 4,
        "discriminator": "16",
        "discriminator_channels": 4,
        "mixed_precision": "no",
        "logger": "none",
    },
}
LAUNCHER = r"accelerate launch( --multi_gpu --num_processes \d)?|torchrun --nproc_per_node \d"
TRAINING = (
    rf"diffusers-restore train ([\w-]+)|({LAUNCHER}) (examples/train_(\w+)\.py|-m diffusers_restore train ([\w-]+))"
)
# What pages and notebooks call the sizes at which they run.
NUMBERS = {"CHANNELS": "(16, 32)", "LONG_STEPS": "{}", "PAIRS": "12", "SIDE": "32", "STEPS": "2"}
NAMES = re.compile(rf"^((?:{'|'.join(NUMBERS)})(?:, (?:{'|'.join(NUMBERS)}))*) = .*$", re.MULTILINE)


def toy(code: str) -> str:
    """Python whose sizes are those of a toy."""
    return NAMES.sub(lambda found: f"{found[1]} = {', '.join(NUMBERS[name] for name in found[1].split(', '))}", code)


def run_python(code: str, names: dict[str, Any]) -> Any:
    """Run code that sees `names` and adds its own; returns the value of the expression at its end, if there is one."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "documentation", "exec", dont_inherit=True), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "documentation", "eval", dont_inherit=True), names)
    return None


def training(words: list[str]) -> list[str] | None:
    """What a command line trains, with its arguments, on however many processes it is launched; None for another."""
    found = re.match(TRAINING, " ".join(words))
    if found is None:
        return None
    (what,) = {found[1], found[5], found[6]} - {None}
    given = words[len(found.group().split()) :]
    toy = [word for name, value in TOYS.get(what, TOY).items() for word in (f"--{name}", str(value))]
    return ["train", what, *given, *toy, *(["--max_train_steps", "4"] if "--max_train_steps" in given else [])]


def run_shell(code: str, *, push: Callable[[list[str]], object] | None = None, few_steps: bool = False) -> None:
    """Run the commands of a block in the working directory.

    Args:
        code: the block.
        push: runs the arguments of a push; None leaves it out, as tests/on_the_hub.py has a Hub.
        few_steps: restore and sample in two steps, whatever the block says.
    """
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in code.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":
            assert set(arguments) <= set(targets)
            continue
        if program == "pip":
            (named,) = re.fullmatch(r"install diffusers-restore(?:\[(\w+)\])?", " ".join(arguments)).groups()
            assert named is None or named in extras
            continue
        if program == "python":
            script, *arguments = arguments
            spec = importlib.util.spec_from_file_location("script", ROOT / script)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.main(arguments)
            continue
        if arguments[0] == "app":  # tests/test_app.py opens it
            main.commands["app"].make_context("app", arguments[1:])
            continue
        if arguments[0] == "push":
            if push is not None:
                push(arguments[1:])
            continue
        run = training([program, *arguments])
        launched = re.match(rf"({LAUNCHER}) -m diffusers_restore ", shlex.join([program, *arguments]))
        if run is None and launched is not None:  # tests/test_restoring_processes.py has several
            program, *arguments = "diffusers-restore", *arguments[len(launched.group().split()) - 1 :]
        assert run is not None or program == "diffusers-restore"
        if few_steps and (arguments[0] == "sample" or (arguments[0] == "restore" and "--task" in arguments)):
            arguments += ["--steps", "2"]
        result = CliRunner().invoke(main, arguments if run is None else run, catch_exceptions=False)
        assert result.exit_code == 0, result.output


def run_page(page: Path, *, push: Callable[[list[str]], object] | None = None, account: str = "me") -> None:
    """Run the blocks of a page from top to bottom in the working directory, those of Python as one script.

    Args:
        page: of `WHOLE`.
        push: as in `run_shell`.
        account: on the Hub, in the place of "me".
    """
    names: dict[str, Any] = {"__name__": "documentation"}
    for number, (language, code) in enumerate(BLOCK.findall(page.read_text())):
        code = re.sub(r"(?<![\w/])me/", f"{account}/", code)
        try:
            if language == "python":
                run_python(toy(code), names)
            elif language == "bash":
                run_shell(code, push=push, few_steps=True)
        except BaseException as error:
            error.add_note(f"in block {number} of {page.relative_to(ROOT)}")
            raise


def notebook_cells(file: Path) -> list[str]:
    """The code of a notebook's cells at toy size, without what installs the package."""
    cells = ["".join(cell["source"]) for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    return [toy(cell) for cell in cells if not cell.startswith("%pip install ")]
