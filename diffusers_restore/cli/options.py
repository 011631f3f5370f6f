"""Options that several commands share, and errors that name options."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ..errors import InvalidInputError, check_real, one_line, unknown_name, without_controls
from ..registries import METHODS, TASKS
from ..restoring import ArgumentError, ModelError
from ..restoring.kinds import FILE_ARGUMENTS
from ..restoring.pairing import DatasetOptions

Command = TypeVar("Command", bound=Callable[..., Any])


def task_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A callback that accepts the names of tasks, or none."""
    if value is not None and value not in TASKS:
        of_photographs = "; for those of a photograph: --scratches auto, without a task" * ("scratch" in value)
        raise click.BadParameter(str(unknown_name("task", value, TASKS)) + of_photographs, ctx, param)
    return value


def method_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A callback that accepts the names of methods, or none."""
    known = ["auto", *METHODS]
    if value is not None and value not in known:
        raise click.BadParameter(str(unknown_name("method", value, known)), ctx, param)
    return value


def real(
    minimum: float, maximum: float = math.inf
) -> Callable[[click.Context, click.Parameter, float | None], float | None]:
    """A callback that accepts finite numbers in [minimum, maximum], or none; click's own ranges let NaN pass."""

    def check(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
        try:
            return None if value is None else check_real(str(param.name), value, minimum, maximum)
        except InvalidInputError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return check


def noise_level(ctx: click.Context, param: click.Parameter, value: str) -> float | str | None:
    """None for the word auto, the word estimate, or a number >= 0."""
    if value in ("auto", "estimate"):
        return None if value == "auto" else value
    try:
        return check_real(str(param.name), float(value), 0)
    except ValueError as error:  # InvalidInputError is one
        raise click.BadParameter(f"expected auto or a number >= 0, got {value!r}; or estimate", ctx, param) from error


def parse_args(ctx: click.Context, param: click.Parameter, pairs: Sequence[str]) -> dict[str, Any]:
    """The options K=V that were given, by name; values are read as JSON or as Python writes them, else as text."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise click.BadParameter(f"expected k=v, such as sigma=2.5, got {pair!r}", ctx, param)
        if name in FILE_ARGUMENTS:
            raise click.BadParameter(f"give the {name} as a file: --{name} FILE", ctx, param)
        if name in arguments:
            raise click.BadParameter(f"{name} is given twice", ctx, param)
        try:
            arguments[name] = json.loads(value)
        except (ValueError, RecursionError):  # no JSON, or a number of thousands of digits, or thousands of brackets
            arguments[name] = _of_python(value)
    return arguments


def _of_python(value: str) -> Any:
    """True, False, None, and numbers that JSON doesn't know, such as .5."""
    words = {"True": True, "False": False, "None": None}
    if value in words:
        return words[value]
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds options, which are listed in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Refuse larger pictures, before they are decoded.  [default: 64 million]",
)


def operator_options(command: Command, *, task_needed: bool = True) -> Command:
    """The arguments and options that `restore` and `degrade` share, of which the former needs no task."""
    masks = (
        "the task inpaint" if task_needed else "the task inpaint, a --model that takes masks, --scratches or --faded"
    )
    done = "What to do" if task_needed else "What was done"
    existing = click.Path(exists=True, path_type=Path)
    existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
    decorate = with_options(
        click.argument("inputs", metavar="IN...", nargs=-1, required=True),
        click.option("-o", "--output", metavar="OUT", required=True, help="A file for one picture, else a folder."),
        click.option(
            "-t",
            "--task",
            required=task_needed,
            metavar="NAME",
            callback=task_name,
            help=f"{done} to the picture; `diffusers-restore tasks` lists the names.",
        ),
        click.option(
            "--operator-arg",
            "operator_args",
            metavar="K=V",
            multiple=True,
            callback=parse_args,
            help="An argument of the task, such as sigma=2.5; can be repeated.",
        ),
        click.option(
            "--mask",
            type=existing,
            metavar="FILE|FOLDER",
            help=f"Black and white picture, for {masks}: white is known, black is missing or damaged. Of a folder, "
            "each picture takes the file of its name.",
        ),
        click.option("--invert-mask", is_flag=True, help="White is missing, as in diffusers' inpainting pipelines."),
        click.option(
            "--mask-threshold",
            type=float,
            callback=real(0, 1),
            metavar="X",
            help="What counts as white in a mask with greys, from 0 (black) to 1 (white).  [default: 0.5]",
        ),
        click.option(
            "--kernel",
            type=existing_file,
            metavar="FILE",
            help="Blur kernel for the task deblur: a grey picture, which is scaled to the sum 1, or .npy numbers.",
        ),
        max_pixels_option,
        click.option(
            "--quality",
            type=click.IntRange(1, 100),
            metavar="N",
            help="Of JPEG and WebP results, 1 to 100.  [default: 95; WebP without loss]",
        ),
    )
    return decorate(command)


output_options = with_options(
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors."),
    click.option("-v", "--verbose", is_flag=True, help="Say which model works, and how."),
    click.option("--json", "as_json", is_flag=True, help="A line of JSON on stdout for each picture."),
)
"""Options of what is printed."""


dataset_options = with_options(
    click.option("--dataset-config-name", metavar="NAME", help="Of an IN that is a data set: which configuration."),
    click.option("--dataset-split", metavar="NAME", default="train", show_default=True, help="And which split."),
    click.option("--image-column", metavar="NAME", help="And which column.  [default: the only one with pictures]"),
)
"""Options of what is read of a data set."""


def take_dataset(options: dict[str, Any]) -> DatasetOptions:
    """What `dataset_options` say, taken out of all options."""
    return DatasetOptions(*(options.pop(name) for name in ("dataset_config_name", "dataset_split", "image_column")))


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """(width, height) from 64 or 96x64."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise click.BadParameter(
            f"expected a number of pixels, or WIDTHxHEIGHT such as 96x64, got {value!r}", ctx, param
        )
    return int(sides[0]), int(sides[-1])


class_label_option = click.option(
    "--class-label",
    type=click.IntRange(min=0),
    metavar="N",
    help="Of what the network draws, for a class-conditional DDPM.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the network. auto is bfloat16 on a GPU that has it and on a CPU with AMX or AVX512-BF16 (except for Cold "
    "Diffusion), else float32.",
)


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether an option was given."""
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


@contextmanager
def options_named(ctx: click.Context) -> Iterator[None]:
    """Turn engine errors into command-line errors: a wrong option is misuse, a bad model or file a failure."""
    try:
        yield
    except ModelError as error:
        raise click.ClickException(name_options(ctx, error)) from error
    except ArgumentError as error:
        raise click.UsageError(name_options(ctx, error)) from error
    except (InvalidInputError, OSError) as error:
        raise click.ClickException(one_line(error)) from error


def name_options(ctx: click.Context, error: ArgumentError) -> str:
    """The message, with the option's name for each argument."""
    return without_controls(" ".join(error.message_for(lambda name: _option(ctx, name)).split()))


def _option(ctx: click.Context, name: str) -> str:
    for param in ctx.command.params:
        if param.name == name:
            return param.opts[-1] if isinstance(param, click.Option) else name.upper()
    return name
