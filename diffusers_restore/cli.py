"""The command line: `diffusers-restore restore | degrade | sample | train | convert | tasks | methods`.

torch and diffusers are imported inside the commands, so that `--help` is answered at once.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from . import DEFAULT_PRIOR, DEFAULT_RESTORER, __version__
from .errors import InvalidInputError, OperatorError, check_real, one_line, unknown_name
from .registries import METHODS
from .registry import PlugInError, Registry
from .training.cold.config import ColdConfig
from .training.config_command import config_command
from .training.prior.config import PriorConfig
from .training.rddm.config import RDDMConfig

if TYPE_CHECKING:
    import torch
    from diffusers import DDIMScheduler, DDPMScheduler
    from torch import Tensor

    from .images import Picture
    from .operators import LinearOperator, Task
    from .operators.base import Shape
    from .pipelines.common import Network
    from .pipelines.pipeline_cold_diffusion import ColdDiffusionPipeline
    from .pipelines.pipeline_ddrm import DDRMPipeline
    from .pipelines.pipeline_rddm import RDDMPipeline
    from .schedulers.zero_shot import ZeroShotScheduler

READABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".npy")
WRITABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".npy")
ALPHA_SUFFIXES = (".png", ".webp", ".tif", ".tiff")
FILE_ARGUMENTS = ("mask", "kernel")  # arguments of tasks that are given as a file, by an option of their own

_Command = TypeVar("_Command", bound=Callable[..., Any])


# --- options --------------------------------------------------------------------------------------------------------


def _task_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    known = Registry("diffusers_restore.tasks", "task")
    if value is not None and value not in known:
        raise click.BadParameter(str(unknown_name("task", value, known)), ctx, param)
    return value


def _method_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and value not in METHODS:
        raise click.BadParameter(str(unknown_name("method", value, METHODS)), ctx, param)
    return value


def _real(
    minimum: float, maximum: float = math.inf
) -> Callable[[click.Context, click.Parameter, float | None], float | None]:
    """A callback that accepts finite numbers in [minimum, maximum], or none; click's own ranges let NaN pass."""

    def check(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
        try:
            return None if value is None else check_real(str(param.name), value, minimum, maximum)
        except InvalidInputError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return check


def _auto_or_real(ctx: click.Context, param: click.Parameter, value: str) -> float | None:
    """None for the word auto, or a number >= 0."""
    if value == "auto":
        return None
    try:
        return check_real(str(param.name), float(value), 0)
    except ValueError as error:  # InvalidInputError is one
        raise click.BadParameter(f"expected auto or a number >= 0, got {value!r}", ctx, param) from error


def _parse_args(ctx: click.Context, param: click.Parameter, pairs: Sequence[str]) -> dict[str, Any]:
    """The options K=V that were given, by name; values are read as JSON, and as text where they are none."""
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
        except json.JSONDecodeError:
            arguments[name] = value
    return arguments


def _operator_options(command: _Command, *, task_needed: bool = True) -> _Command:
    """The arguments and options that `restore` and `degrade` share."""
    existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
    options = [
        click.argument("inputs", metavar="IN...", nargs=-1, required=True),
        click.option("-o", "--output", metavar="OUT", required=True, help="A file for one picture, else a folder."),
        click.option(
            "-t",
            "--task",
            required=task_needed,
            metavar="NAME",
            callback=_task_name,
            help="What was done to the picture; `diffusers-restore tasks` lists the names.",
        ),
        click.option(
            "--operator-arg",
            "operator_args",
            metavar="K=V",
            multiple=True,
            callback=_parse_args,
            help="An argument of the task, such as sigma=2.5; can be repeated.",
        ),
        click.option(
            "--mask",
            type=existing_file,
            metavar="FILE",
            help="Black and white picture for the task inpaint: white is known, black is missing. For a --model that "
            "takes masks: white is damaged.",
        ),
        click.option(
            "--kernel",
            type=existing_file,
            metavar="FILE",
            help="Blur kernel for the task deblur: a grey picture, which is scaled to the sum 1, or .npy numbers.",
        ),
        click.option(
            "--max-pixels",
            type=click.IntRange(min=1),
            metavar="N",
            help="Refuse larger pictures, before they are decoded.  [default: 64 million]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """(width, height) of the words 64 or 96x64."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise click.BadParameter(
            f"expected a number of pixels, or WIDTHxHEIGHT such as 96x64, got {value!r}", ctx, param
        )
    return int(sides[0]), int(sides[-1])


_device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
_dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the network. auto is bfloat16 on a GPU that has it and on a CPU with AMX or AVX512-BF16 (but for Cold "
    "Diffusion), else float32.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="diffusers-restore")
def main() -> None:
    """Restore damaged pictures with a pretrained diffusion model.

    \b
    diffusers-restore restore old.jpg -o new.jpg
    diffusers-restore restore photo.png -o restored.png --task denoise --sigma-y 0.2
    diffusers-restore restore small.png -o large.png --task sr4
    diffusers-restore sample -o grid.png
    diffusers-restore train prior --train_data_dir photos --output_dir prior
    diffusers-restore tasks

    Every command has its own --help.
    """  # noqa: D301  # click reads the control character


# --- restore --------------------------------------------------------------------------------------------------------


@main.command()
@partial(_operator_options, task_needed=False)
@click.option(
    "--sigma-y",
    metavar="S",
    default="auto",
    callback=_auto_or_real,
    show_default=True,
    help="Standard deviation of the noise in the file, where black is -1 and white is 1 (a noise of 25 of 255 grey "
    "levels is 0.196). auto is the rounding noise of the file's bit depth, step / sqrt(12): 0.00226 for 8 bits, "
    "8.8e-6 for 16 bits, 0 for .npy. With 0, rounding errors of an 8-bit file are taken for the picture, and small "
    "singular values multiply them.",
)
@click.option(
    "--model",
    metavar="REPO_OR_FOLDER",
    help="An unconditional DDPM, a ColdDiffusionPipeline or an RDDMPipeline: a repository of the Hugging Face Hub or a "
    "folder.  [default: with --task, the bundled prior; without, the bundled restorer]",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Network evaluations.  [default: 20; for a ColdDiffusionPipeline, one for each severity; for an RDDMPipeline, "
    "5]",
)
@click.option(
    "--method",
    metavar="NAME",
    callback=_method_name,
    help="How the network's estimate is made to agree with the file; `diffusers-restore methods` lists the names.  "
    "[default: that of the model, ddrm for a DDPM]",
)
@click.option(
    "--method-arg",
    "method_args",
    metavar="K=V",
    multiple=True,
    callback=_parse_args,
    help="An option of the method; can be repeated.",
)
@click.option(
    "--eta", type=float, callback=_real(0, 1), help="Share of new noise in each step.  [default: 0.85 for ddrm]"
)
@click.option(
    "--eta-b",
    type=float,
    callback=_real(0, 1),
    help="How far measured parts follow the file.  [default: 1 for ddrm]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of sample 1; sample 2 has the next.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Write name-1.png ... name-N.png."
)
@click.option("--average", is_flag=True, help="Write the mean of the samples: higher PSNR, smoother.")
@click.option(
    "--start",
    type=click.IntRange(min=1),
    metavar="T",
    help="For a ColdDiffusionPipeline: how severe the damage is.  [default: the largest severity]",
)
@click.option("--direct", is_flag=True, help="For a ColdDiffusionPipeline: its first estimate only.")
@_device_option
@_dtype_option
@click.option("--skip-existing", is_flag=True, help="Keep what is there: go on with a run that was stopped.")
@click.pass_context
def restore(
    ctx: click.Context,
    inputs: tuple[str, ...],
    output: str,
    task: str | None,
    operator_args: dict[str, Any],
    mask: Path | None,
    kernel: Path | None,
    max_pixels: int | None,
    sigma_y: float | None,
    model: str | None,
    steps: int | None,
    method: str | None,
    method_args: dict[str, Any],
    eta: float | None,
    eta_b: float | None,
    seed: int,
    samples: int,
    average: bool,
    start: int | None,
    direct: bool,
    device: str,
    dtype: str,
    skip_existing: bool,
) -> None:
    """Restore degraded pictures IN to OUT.

    \b
    diffusers-restore restore old.jpg -o new.jpg
    diffusers-restore restore small.png -o large.png --task sr4
    diffusers-restore restore blurred.png -o sharp.png --model my_cold_model/ --start 12
    diffusers-restore restore old.png -o new.png --task inpaint --mask white_is_known.png
    diffusers-restore restore scans/ "more/*.jpg" -o restored/ --task denoise --sigma-y 0.1 --skip-existing

    IN are pictures, folders (with all folders in them, whose layout is kept) and quoted patterns: PNG, JPEG, WebP,
    TIFF, BMP, GIF, or .npy arrays (C, H, W) in [-1, 1]. Transparency and 16 bits are kept. In a folder, names stay as
    they are; GIF, BMP and .npy become PNG. The result of a picture depends on its content and on --seed only.

    With --task, a prior restores what was done, exactly. Without --task and --model, a small network that was trained
    on photographs with blur, noise and JPEG artefacts restores what it finds.

    A picture that fails doesn't stop the others: it is reported, and the exit status is 1 at the end.
    """  # noqa: D301  # click reads the control character
    trained = None if model is None else _trained_class(model)
    of_zero_shot = ("operator_args", "mask", "kernel", "method", "method_args")
    if model is None and task is None and not any(_given(ctx, name) for name in of_zero_shot):
        model, trained = DEFAULT_RESTORER, "RDDMPipeline"
    if trained is not None:
        this = "this --model" if _given(ctx, "model") else "the bundled restorer, which --task switches off,"
        _check_given(ctx, trained, this)
        _restore_trained(
            inputs,
            output,
            str(model),
            trained,
            max_pixels,
            start=start,
            steps=steps,
            direct=direct,
            mask=mask,
            seed=seed,
            device=device,
            dtype=dtype,
            skip=skip_existing,
        )
        return
    _check_given(ctx, "DDPM", "this --model" if model is not None else "the bundled prior")
    if task is None:
        raise click.UsageError(
            "--task must say what was done to the picture; `diffusers-restore tasks` lists the names"
        )
    if average and samples == 1:
        raise click.UsageError("--average needs --samples N with N >= 2")
    steps = 20 if steps is None else steps
    jobs = _pair(inputs, output, _restored_suffix, 1 if average else samples)
    arguments = _check_arguments(task, operator_args, mask, kernel)

    import torch

    from . import images, operators

    max_pixels = images.DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
    arguments |= _load_files(mask, kernel, max_pixels)
    chosen_device = _device(device)
    todo = _without_existing(jobs) if skip_existing else jobs
    if not todo:
        return
    _make_folders(todo)
    with _quiet_bars():
        pipe = _load_pipeline("--model", model or DEFAULT_PRIOR, chosen_device, _dtype(dtype, chosen_device))
    _choose_method(pipe, method, method_args)
    for name, value in (("--eta", eta), ("--eta-b", eta_b)):
        if value is not None and name.strip("-").replace("-", "_") not in pipe.scheduler.step_options:
            raise click.UsageError(f"{name} is no option of the method {type(pipe.scheduler).__name__}")
    try:
        pipe.scheduler.set_timesteps(steps)
    except InvalidInputError as error:
        raise click.BadParameter(one_line(error), param_hint="'--steps'") from error

    def work(position: str, job: _Job) -> str:
        begin = time.perf_counter()
        picture = images.load(job.source, max_pixels=max_pixels)
        alpha = _alpha(picture, job)
        y = _grey(picture.tensor) if task == "colorize" else picture.tensor
        channels, height, width = y.shape[1:]
        operator = operators.create(task, measurement_shape=(channels, height, width), **arguments)
        _check_measurement(operator, job.source, task, max_pixels)
        by_name = pipe.unet.config.in_channels == 1 < channels and not arguments  # it takes the colours one by one
        bits = _bits(picture, job.source)
        total = torch.zeros(())
        for i in range(samples):
            target = job.targets[0 if average else i]
            if skip_existing and not average and target.exists():
                continue
            count = f" {i + 1}/{samples}" if samples > 1 else ""
            pipe.set_progress_bar_config(desc=f"{position}{job.name}{count}", leave=False, disable=not _on_terminal())
            (x,) = pipe(
                y,
                operator=task if by_name else operator,
                sigma_y=_rounding_noise(picture.bits) if sigma_y is None else sigma_y,
                num_inference_steps=steps,
                eta=eta,
                eta_b=eta_b,
                generator=torch.Generator().manual_seed(seed + i),  # on the CPU: the same noise on every device
                output_type="pt",
                return_dict=False,
            )
            if average:
                total = total + x
            else:
                images.save(x, target, alpha=alpha, bits=bits)
        if average:
            images.save(total / samples, job.targets[0], alpha=alpha, bits=bits)
        return f"{_report(job, operator.input_shape)}  {time.perf_counter() - begin:.1f} s"

    _run(todo, work)


def _method_options(method: type[ZeroShotScheduler]) -> dict[str, Any]:
    """The options of a method's own, with their defaults: all but the noise schedule, which no method changes."""
    from .schedulers.prediction import SCHEDULE

    parameters = signature(method.__init__).parameters
    return {name: one.default for name, one in parameters.items() if name not in ("self", *SCHEDULE)}


def _choose_method(pipe: DDRMPipeline, method: str | None, arguments: dict[str, Any]) -> None:
    """Set the pipeline's scheduler to that of a method, with options of its own.

    Raises:
        click.UsageError: it can't be imported, or takes no such options.
    """
    if method is None and not arguments:
        return
    try:
        chosen: type[ZeroShotScheduler] = type(pipe.scheduler) if method is None else METHODS[method]
    except PlugInError as error:
        raise click.UsageError(str(error)) from error
    known = _method_options(chosen)
    for name in arguments:
        if name not in known:
            raise click.UsageError(
                f"--method-arg: {chosen.__name__} has no option {name!r}; it has: {', '.join(known) or 'none'}"
            )
    try:
        pipe.scheduler = chosen.from_config(pipe.scheduler.config, **arguments)
    except (InvalidInputError, TypeError) as error:
        raise click.UsageError(f"--method-arg: {one_line(error)}") from error


# Options of `restore` that not every kind of model has.
_OPTIONS_OF = {
    "DDPM": (
        *("task", "operator_args", "mask", "kernel", "sigma_y", "method", "method_args", "eta", "eta_b"),
        *("seed", "samples", "average"),
    ),
    "ColdDiffusionPipeline": ("start", "direct"),
    "RDDMPipeline": ("mask", "seed"),
}
_KINDS = {
    "DDPM": "an unconditional DDPM",
    "ColdDiffusionPipeline": "a ColdDiffusionPipeline",
    "RDDMPipeline": "an RDDMPipeline",
}


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def _check_given(ctx: click.Context, kind: str, this: str) -> None:
    """Refuse options that were given and have no meaning for a kind of model."""
    for param in ctx.command.params:
        kinds = [_KINDS[other] for other in _OPTIONS_OF if param.name in _OPTIONS_OF[other]]
        if kinds and _KINDS[kind] not in kinds and _given(ctx, str(param.name)):
            raise click.UsageError(f"{param.opts[-1]} is for {' or '.join(kinds)}; {this} is {_KINDS[kind]}")


def _trained_class(model: str) -> str | None:
    """The class of a repository or folder that holds a trained pipeline of this package; None for any other."""
    if _absent_folder(model):
        return None
    from diffusers import DiffusionPipeline

    from .pipelines.hub import load_index

    try:
        index = load_index(DiffusionPipeline, model)
    except (OSError, ValueError):  # a UNet by itself, or nothing: what loads it says so
        return None
    name = index.get("_class_name") if isinstance(index, dict) else None
    name = name[-1] if isinstance(name, list) else name
    return name if name in _OPTIONS_OF and name != "DDPM" else None


def _load_trained(option: str, model: str, method: str, device: torch.device, dtype: torch.dtype) -> Any:
    import diffusers_restore

    with _quiet_bars():
        try:
            pipe = getattr(diffusers_restore, method).from_pretrained(model, dtype=dtype)
        except (OSError, ValueError, TypeError) as error:  # TypeError: a scheduler without what it needs
            raise click.ClickException(f"{option} {model!r} cannot be loaded: {one_line(error)}") from error
    return _on_device(pipe, device)


def _on_device(pipe: Any, device: torch.device) -> Any:
    from .pipelines.precision import lay_out

    pipe.to(device)
    lay_out(pipe)
    return pipe


def _restore_trained(
    inputs: tuple[str, ...],
    output: str,
    model: str,
    method: str,
    max_pixels: int | None,
    *,
    start: int | None,
    steps: int | None,
    direct: bool,
    mask: Path | None,
    seed: int,
    device: str,
    dtype: str,
    skip: bool,
) -> None:
    """`restore` by a pipeline that was trained for the damage."""
    if direct and steps is not None:
        raise click.UsageError("--steps has no meaning with --direct, which looks once")
    jobs = _pair(inputs, output, _restored_suffix, 1)

    from . import images

    max_pixels = images.DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
    damaged = _load_files(mask, None, max_pixels).get("mask")
    chosen_device = _device(device)
    todo = _without_existing(jobs) if skip else jobs
    if not todo:
        return
    _make_folders(todo)
    pipe = _load_trained("--model", model, method, chosen_device, _dtype(dtype, chosen_device, method))
    if method == "RDDMPipeline":
        call = _rddm_call(pipe, steps, damaged, seed)
    else:
        call = _cold_call(pipe, start, steps, direct)

    def work(position: str, job: _Job) -> str:
        begin = time.perf_counter()
        picture = images.load(job.source, max_pixels=max_pixels)
        alpha = _alpha(picture, job)
        pipe.set_progress_bar_config(desc=f"{position}{job.name}", leave=False, disable=not _on_terminal())
        x = call(picture.tensor)
        images.save(x, job.targets[0], alpha=alpha, bits=_bits(picture, job.source))
        return f"{_report(job, (x.shape[1], x.shape[2], x.shape[3]))}  {time.perf_counter() - begin:.1f} s"

    _run(todo, work)


def _cold_call(
    pipe: ColdDiffusionPipeline, start: int | None, steps: int | None, direct: bool
) -> Callable[[Tensor], Tensor]:
    """What restores one picture, once it is sure that it can."""
    try:
        pipe.scheduler.set_timesteps(steps, start=start)
    except InvalidInputError as error:
        message = one_line(error).replace("num_inference_steps", "--steps").replace("start must", "--start must")
        raise click.UsageError(message) from error
    unknown = ", ".join(pipe.scheduler.degradation.state_shapes(1, 1, 1))
    if unknown and not direct:
        raise click.UsageError(
            f"--direct is needed: this model's degradation acts through what a picture doesn't tell ({unknown}); in "
            "Python, ColdDiffusionPipeline takes it as state"
        )
    return lambda x: pipe(x, start, steps, direct=direct, output_type="pt", return_dict=False)[0]


def _rddm_call(pipe: RDDMPipeline, steps: int | None, mask: Tensor | None, seed: int) -> Callable[[Tensor], Tensor]:
    """The same for an RDDMPipeline."""
    import torch

    steps = min(5, len(pipe.scheduler)) if steps is None else steps
    try:
        pipe.scheduler.set_timesteps(steps)
    except InvalidInputError as error:
        raise click.UsageError(one_line(error).replace("num_inference_steps", "--steps")) from error
    if pipe.inputs.masked and mask is None:
        raise click.UsageError("--mask FILE is needed: this model is shown where the picture is damaged, as white")
    if mask is not None and not pipe.inputs.masked:
        raise click.UsageError("--mask: this model takes none")

    def call(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
        return pipe(x, mask, num_inference_steps=steps, generator=generator, output_type="pt", return_dict=False)[0]

    return call


def _restored_suffix(source: Path) -> str:
    return source.suffix if source.suffix.lower() in (*ALPHA_SUFFIXES, ".jpg", ".jpeg") else ".png"


def _without_existing(jobs: list[_Job]) -> list[_Job]:
    for job in jobs:
        if job.done:
            click.echo(f"{job.name}: skipped, {job.target_names} exists")
    return [job for job in jobs if not job.done]


def _rounding_noise(bits: int) -> float:
    """The standard deviation of a rounding error, step / sqrt(12), in [-1, 1] units; floats (32) are not rounded."""
    return 0.0 if bits == 32 else 2 / (2**bits - 1) / math.sqrt(12)


def _check_measurement(operator: LinearOperator, source: Path, task: str, max_pixels: int) -> None:
    _, height, width = operator.input_shape
    if height * width > max_pixels:
        raise InvalidInputError(
            f"the restored picture would have {width} x {height} pixels, more than --max-pixels {max_pixels}"
        )
    if not _is_picture(operator) and source.suffix.lower() != ".npy":
        raise InvalidInputError(f"a measurement for the task {task} is no picture; a .npy file is expected")


def _grey(y: Tensor) -> Tensor:
    """The one channel of a grey picture, which may be stored as RGB."""
    if bool((y != y[:, :1]).any()):
        raise InvalidInputError("the picture has colours already; the task colorize expects a grey one")
    return y[:, :1]


def _device(name: str) -> torch.device:
    """The device of that name, if this machine has it; auto is the first of cuda, mps and cpu that it has."""
    import torch

    there = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name == "auto":
        return torch.device(there[0])
    if name not in there and not (name == "cuda" and "cuda:0" in there):
        raise click.BadParameter(f"no device {name!r} here; there are: auto, {', '.join(there)}", param_hint="--device")
    return torch.device(name)


def _dtype(name: str, device: torch.device, method: str = "DDRMPipeline") -> torch.dtype:
    import torch

    from .pipelines.precision import fast_dtype

    if name == "auto":
        # What a strong blur leaves of a picture is too fine for bfloat16.
        fine = method == "ColdDiffusionPipeline" and device.type == "cpu"
        return torch.float32 if fine else fast_dtype(device)
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _absent_folder(model: str) -> bool:
    """Whether this can only be a folder, and isn't there."""
    return not Path(model).exists() and (Path(model).is_absolute() or len(Path(model).parts) > 2 or model[0] in ".~")


def _load_pipeline(option: str, model: str, device: torch.device, dtype: torch.dtype) -> DDRMPipeline:
    if _absent_folder(model):
        raise click.ClickException(f"{option}: there is no folder {model!r}")

    from .pipelines.pipeline_ddrm import DDRMPipeline

    try:
        pipe: DDRMPipeline = DDRMPipeline.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError) as error:  # InvalidInputError and the Hub's HFValidationError are ValueErrors
        raise click.ClickException(
            f"{option} {model!r} cannot be loaded as a DDPM, from a folder or the Hub: {one_line(error)}"
        ) from error
    return cast("DDRMPipeline", _on_device(pipe, device))


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """No "Loading pipeline components" bar unless on a terminal."""
    from diffusers.utils import logging

    if _on_terminal():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _on_terminal() -> bool:
    return sys.stderr.isatty()


# --- degrade --------------------------------------------------------------------------------------------------------


@main.command()
@_operator_options
@click.option(
    "--sigma-y",
    metavar="S",
    default=0.0,
    callback=_real(0),
    show_default=True,
    help="Standard deviation of Gaussian noise to add, where black is -1 and white is 1.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the noise.")
@click.option("--crop", is_flag=True, help="Crop a picture whose size doesn't fit the task, around its centre.")
def degrade(
    inputs: tuple[str, ...],
    output: str,
    task: str,
    operator_args: dict[str, Any],
    mask: Path | None,
    kernel: Path | None,
    max_pixels: int | None,
    sigma_y: float,
    seed: int,
    crop: bool,
) -> None:
    """Degrade clean pictures IN to OUT: make a measurement, to try things.

    \b
    diffusers-restore degrade photo.png -o small.png --task sr4
    diffusers-restore degrade photo.png -o noisy.npy --task denoise --sigma-y 0.2
    diffusers-restore restore noisy.npy -o back.png --task denoise --sigma-y 0.2

    A measurement is written as a picture, clipped and rounded, or as exact numbers if OUT ends in .npy, which holds no
    transparency. In a folder it is a PNG. Compressed sensing (cs2, cs4) measures no picture and always gives .npy.
    """  # noqa: D301  # click reads the control character
    jobs = _pair(inputs, output, lambda source: ".png", 1)
    arguments = _check_arguments(task, operator_args, mask, kernel)

    import torch

    from . import images, operators

    max_pixels = images.DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
    arguments |= _load_files(mask, kernel, max_pixels)
    _make_folders(jobs)
    inexact: list[str] = []

    def work(position: str, job: _Job) -> str:
        picture = images.load(job.source, max_pixels=max_pixels)
        operator, picture = _fit(task, arguments, picture, crop)
        y = operators.measure(operator, picture.tensor, sigma_y, torch.Generator().manual_seed(seed)).y
        if not _is_picture(operator):
            job = job.as_numbers(task)
        exact = job.targets[0].suffix.lower() == ".npy"
        if not exact and (sigma_y > 0 or float(y.abs().max()) > 1):
            inexact.append(job.name)
        images.save(y, job.targets[0], alpha=None if exact else _alpha(picture, job), bits=_bits(picture, job.source))
        return _report(job, operator.output_shape)

    try:
        _run(jobs, work)
    finally:
        if inexact:
            click.echo("note: noise was clipped and rounded; -o NAME.npy keeps the exact numbers", err=True)


def _fit(task: str, arguments: dict[str, Any], picture: Picture, crop: bool) -> tuple[LinearOperator, Picture]:
    """The operator for a clean picture, which may be cropped to a size that the task can carry."""
    from . import operators

    channels, height, width = picture.tensor.shape[1:]
    if task == "colorize" and channels == 1:
        raise InvalidInputError("the picture is grey already; the task colorize measures a colour picture")

    def create(rows: int, columns: int) -> LinearOperator:
        return operators.create(task, image_shape=(channels, rows, columns), **arguments)

    try:
        return create(height, width), picture
    except OperatorError as error:
        fitting = _fitting_size(create, height, width)
        if fitting is None:
            raise
        rows, columns = fitting
        if not crop:
            raise InvalidInputError(
                f"the task {task} cannot measure {width} x {height} pixels: {error}; {columns} x {rows} would fit: "
                "add --crop"
            ) from error
    top, left = (height - rows) // 2, (width - columns) // 2
    window = (..., slice(top, top + rows), slice(left, left + columns))
    alpha = None if picture.alpha is None else picture.alpha[window]
    return create(rows, columns), replace(picture, tensor=picture.tensor[window], alpha=alpha)


def _fitting_size(create: Callable[[int, int], object], height: int, width: int) -> tuple[int, int] | None:
    """A size just below, of multiples of one number, that the operator can carry; None if there is none."""
    for multiple in range(2, min(height, width, 64) + 1):
        rows, columns = height - height % multiple, width - width % multiple
        try:
            create(rows, columns)
        except OperatorError:
            continue
        return rows, columns
    return None


# --- sample ---------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("model", metavar="[MODEL]", default=DEFAULT_PRIOR)
@click.option("-o", "--output", metavar="OUT", required=True, help="A file for one grid, or a folder for a file each.")
@click.option("-n", "--number", type=click.IntRange(min=1), default=16, show_default=True, help="Of pictures.")
@click.option(
    "--sampler",
    type=click.Choice(["ddim", "ddpm"]),
    default="ddim",
    show_default=True,
    help="ddim adds no noise on the way (eta 0); ddpm does, and wants more steps.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Network evaluations for each picture.  [default: 50; for a ColdDiffusionPipeline, one for each severity; for "
    "an RDDMPipeline, 10]",
)
@click.option(
    "--size",
    metavar="SIDE|WxH",
    callback=_size,
    help="In pixels; what the network can halve.  [default: the size that the model is made for]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the first picture; the second has the next.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Pictures at once.  [default: 1 on a CPU, where it changes how sums are rounded, else 16]",
)
@_device_option
@_dtype_option
@click.pass_context
def sample(
    ctx: click.Context,
    model: str,
    output: str,
    number: int,
    sampler: str,
    steps: int | None,
    size: tuple[int, int] | None,
    seed: int,
    batch_size: int | None,
    device: str,
    dtype: str,
) -> None:
    """Draw pictures from MODEL, to see what a prior has learnt.

    \b
    diffusers-restore sample -o grid.png
    diffusers-restore sample google/ddpm-cifar10-32 -n 100 -o grid.png --sampler ddpm --steps 250
    diffusers-restore sample my_prior/ -n 4 -o drawn/ --size 96x64

    MODEL is an unconditional DDPM, or a ColdDiffusionPipeline or RDDMPipeline that can generate: a repository of the
    Hugging Face Hub or a folder; without it, the bundled prior. The samplers are those of diffusers. The pictures lie
    row by row in a grid, nearly square, or are 0000.png, 0001.png ... in a folder. A picture depends on its own seed
    and not on -n (but for rounding, where --batch-size is not 1).
    """  # noqa: D301  # click reads the control character
    begin = time.perf_counter()
    names_folder, out = _names_folder(output), Path(output)
    targets = tuple(out / f"{i:04}.png" for i in range(number)) if names_folder else (out,)
    job = _Job(Path(model), targets, fixed=not names_folder)

    import torch

    from . import images

    chosen_device = _device(device)
    method = _trained_class(model)
    if method is not None:
        for name in ("sampler", "size"):
            if _given(ctx, name):
                raise click.UsageError(f"--{name} is for {_KINDS['DDPM']}; MODEL is {_KINDS[method]}")
    _make_folders([job])
    if method is not None:
        pipe: Any = _load_trained("MODEL", model, method, chosen_device, _dtype(dtype, chosen_device, method))
        draw, evaluations = _trained_draw(pipe, method, steps)
    else:
        with _quiet_bars():
            pipe = _load_pipeline("MODEL", model, chosen_device, _dtype(dtype, chosen_device))
        draw, evaluations = _stock_draw(model, pipe, sampler, _drawn_size(pipe, size), 50 if steps is None else steps)

    generators = [torch.Generator().manual_seed(seed + i) for i in range(number)]  # on the CPU, as in `restore`
    batch = batch_size or (1 if chosen_device.type == "cpu" else 16)
    pipe.set_progress_bar_config(desc=job.target_names, leave=False, disable=not _on_terminal())
    drawn: list[Tensor] = []
    try:
        with pipe.progress_bar(total=number * evaluations) as progress:
            for first in range(0, number, batch):
                part = slice(first, first + batch)
                pictures = draw(generators[part], progress.update).cpu()
                height, width = pictures.shape[2:]
                if names_folder:
                    for picture, target in zip(pictures, targets[part], strict=True):
                        images.save(picture, target)
                else:
                    drawn.append(pictures)
        if not names_folder:
            images.save(images.grid(torch.cat(drawn)), out)
    except (InvalidInputError, OSError) as error:
        raise click.ClickException(one_line(error)) from error
    except torch.cuda.OutOfMemoryError as error:
        raise click.ClickException("the GPU's memory is too small; try a smaller --batch-size or --size") from error
    what = f"{number} picture{'s' * (number > 1)} of {width}x{height}"
    click.echo(f"{job.target_names}  {what}  {time.perf_counter() - begin:.1f} s")


_Draw = Callable[["list[torch.Generator]", Callable[[int], object]], "Tensor"]


def _trained_draw(pipe: Any, method: str, steps: int | None) -> tuple[_Draw, int]:
    """What draws pictures, one for each generator, and how many network evaluations that takes for each."""
    if method == "RDDMPipeline":
        able = not pipe.inputs.conditioned and pipe.config.generates is not False
        why = "it restores a picture that it is shown; `restore --model` does that"
        steps = min(10, len(pipe.scheduler)) if steps is None else steps
    else:
        able = pipe.prior is not None or pipe.scheduler.degradation.forgets
        why = "it was trained without --prior_components"
    if not able:
        raise click.ClickException(f"MODEL can't generate: {why}")
    try:
        pipe.scheduler.set_timesteps(steps)
    except InvalidInputError as error:
        raise click.BadParameter(one_line(error), param_hint="'--steps'") from error

    def draw(generators: list[torch.Generator], progress: Callable[[int], object]) -> Tensor:
        def count(*_: object) -> None:
            progress(len(generators))

        pipe.set_progress_bar_config(disable=True)  # the bar of the whole command is enough
        return pipe(
            batch_size=len(generators),
            num_inference_steps=steps,
            generator=generators,
            output_type="pt",
            return_dict=False,
            callback_on_step_end=count,
        )[0]

    return draw, len(pipe.scheduler.timesteps)


def _stock_draw(model: str, pipe: DDRMPipeline, sampler: str, size: tuple[int, int], steps: int) -> tuple[_Draw, int]:
    """The same for a DDPM; `size` is (width, height)."""
    scheduler = _stock_scheduler(model, pipe, sampler)
    try:
        pipe.scheduler.set_timesteps(steps)
    except InvalidInputError as error:
        raise click.BadParameter(one_line(error), param_hint="'--steps'") from error
    scheduler.set_timesteps(steps)

    def draw(generators: list[torch.Generator], progress: Callable[[int], object]) -> Tensor:
        return _draw(pipe.unet, scheduler, generators, (size[1], size[0]), progress)

    return draw, len(scheduler.timesteps)


def _stock_scheduler(model: str, pipe: DDRMPipeline, sampler: str) -> DDIMScheduler | DDPMScheduler:
    """The repository's scheduler as one of diffusers' own, once it is sure that the network draws pictures with it."""
    from diffusers import DDIMScheduler, DDPMScheduler

    from .pipelines.common import is_score_network

    config = pipe.unet.config
    if config.num_class_embeds is not None:
        raise click.ClickException(
            f"MODEL {model!r} is class-conditional ({config.num_class_embeds} classes); an unconditional one is needed"
        )
    if config.in_channels not in (1, 3):
        raise click.ClickException(f"MODEL {model!r} draws {config.in_channels} channels; a picture has 1 or 3")
    if is_score_network(pipe.unet):
        raise click.ClickException(
            f"MODEL {model!r} is a score network of a VE process, which no sampler here draws with; "
            "diffusers.ScoreSdeVePipeline does, and `restore --model` restores with it"
        )
    cls = DDIMScheduler if sampler == "ddim" else DDPMScheduler
    try:
        scheduler = cls.from_config(pipe.scheduler.config)  # it has kept the options that DDRM has no use for
    except NotImplementedError as error:  # a beta_schedule that only DDPMScheduler knows
        raise click.ClickException(f"MODEL {model!r} cannot be sampled by {sampler}: {one_line(error)}") from error
    if _learned_variance(scheduler) and config.out_channels == config.in_channels:
        raise click.ClickException(
            f"MODEL {model!r}: its scheduler has variance_type={scheduler.variance_type!r}, which the network does not "
            "predict; use --sampler ddim"
        )
    return scheduler


def _learned_variance(scheduler: DDIMScheduler | DDPMScheduler) -> bool:
    from diffusers import DDPMScheduler

    return isinstance(scheduler, DDPMScheduler) and scheduler.variance_type in ("learned", "learned_range")


def _drawn_size(pipe: DDRMPipeline, size: tuple[int, int] | None) -> tuple[int, int]:
    """(width, height): the one that was asked for, or the network's own."""
    from .pipelines.common import size_multiple

    if size is None:
        own = pipe.unet.config.sample_size
        if own is None:
            raise click.UsageError("MODEL does not say for which size it is made; give --size")
        size = (own, own) if isinstance(own, int) else (own[1], own[0])
    multiple = size_multiple(pipe.unet)
    if any(side % multiple for side in size):
        below = "x".join(str(max(1, side // multiple) * multiple) for side in size)
        above = "x".join(str(-(-side // multiple) * multiple) for side in size)
        next_ones = above if above == below else f"{below} and {above}"
        raise click.BadParameter(
            f"the network takes multiples of {multiple}, got {size[0]}x{size[1]}; next to it: {next_ones}",
            param_hint="'--size'",
        )
    return size


def _draw(
    unet: Network,
    scheduler: DDIMScheduler | DDPMScheduler,
    generators: list[torch.Generator],
    size: tuple[int, int],
    progress: Callable[[int], object],
) -> Tensor:
    """Pictures (B, C, *size), one for each generator: the loop of DDIMPipeline and DDPMPipeline.

    It is not called there because those know one size only, keep the state in the network's dtype, and DDIM fails on
    a network with a learned variance.
    """
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    channels = unet.config.in_channels
    outputs = 2 * channels if _learned_variance(scheduler) else channels
    shape = (len(generators), channels, *size)
    x: Tensor = randn_tensor(shape, generator=generators, device=unet.device, dtype=torch.float32)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = unet(x.to(unet.dtype), t).sample[:, :outputs].float()
            x = scheduler.step(output, t, x, generator=generators).prev_sample
            progress(len(x))
    return x


# --- train ----------------------------------------------------------------------------------------------------------


train_prior = config_command(
    "prior",
    PriorConfig,
    "diffusers_restore.training.prior:train_prior",
    """Train an unconditional diffusion prior on pictures.

    \b
    diffusers-restore train prior --train_data_dir photos --output_dir prior
    diffusers-restore train prior --config recipe.yaml --train_data_dir photos --dry_run
    torchrun --nproc_per_node 8 -m diffusers_restore train prior --train_data_dir photos

    OUTPUT_DIR becomes a diffusers repository, which DDPMPipeline and DDRMPipeline load, with a model card; checkpoints,
    samples/ and logs/ lie beside it. A run that was stopped goes on with --resume_from_checkpoint latest and ends as if
    it had never been.
    """,
)

train_cold = config_command(
    "cold",
    ColdConfig,
    "diffusers_restore.training.cold:train_cold",
    """Train a Cold Diffusion restorer: a network that undoes a degradation of any severity.

    \b
    diffusers-restore train cold --degradation blur --degradation_args "{taps: 11, std: 7}" --train_data_dir photos
    diffusers-restore train cold --scheduler_name_or_path schedulers/cold-mnist-deblur --train_data_dir mnist --dry_run
    torchrun --nproc_per_node 8 -m diffusers_restore train cold --degradation snow --train_data_dir photos

    OUTPUT_DIR becomes a repository that ColdDiffusionPipeline loads, with a model card; checkpoints, samples/ and logs/
    lie beside it. A run that was stopped goes on with --resume_from_checkpoint latest and ends as if it had never been.
    """,
)

train_rddm = config_command(
    "rddm",
    RDDMConfig,
    "diffusers_restore.training.rddm:train_rddm",
    """Train an RDDM restorer: a network that takes the residual and the noise from degraded pictures in a few steps.

    \b
    diffusers-restore train rddm --recipe blind --train_data_dir photos --output_dir blind
    diffusers-restore train rddm --degraded_data_dir rain --train_data_dir clean --noise_scale 0.01
    diffusers-restore train rddm --task sr4 --train_data_dir photos --init_from google/ddpm-ema-bedroom-256 --dry_run
    torchrun --nproc_per_node 8 -m diffusers_restore train rddm --recipe real_esrgan --train_data_dir photos

    OUTPUT_DIR becomes a repository that RDDMPipeline loads, with a model card; checkpoints, samples/ and logs/ lie
    beside it. A run that was stopped goes on with --resume_from_checkpoint latest and ends as if it had never been.
    """,
)


@main.group()
def train() -> None:
    """Train the networks of this package.

    The options are those of diffusers' training scripts. With several GPUs, start it by `accelerate launch`.
    """


train.add_command(train_prior)
train.add_command(train_cold)
train.add_command(train_rddm)


# --- convert --------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("checkpoint", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="To be made; it may exist if it is empty.",
)
@click.option(
    "--num-head-channels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Channels of each attention head: 64 in the FFHQ model of DPS and in OpenAI's ADM models but the 128 px one. "
    "Where a training had both this and --num_heads, this counts.",
)
@click.option(
    "--num-heads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of attention heads, for a training without --num_head_channels; 4 was its default.",
)
@click.option(
    "--attention-order",
    type=click.Choice(["old", "new"]),
    default="old",
    show_default=True,
    help="new for a training with --use_new_attention_order True, such as that of OpenAI's 64 px ADM model.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Of the training.  [default: told by the channel multipliers, if they are the usual ones]",
)
@click.option(
    "--noise-schedule",
    type=click.Choice(["linear", "cosine"]),
    default="linear",
    show_default=True,
    help="Of the training; cosine for the 64 px model.",
)
@click.option(
    "--timesteps",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Of the training (--diffusion_steps).",
)
@click.option(
    "--rescale-timesteps",
    is_flag=True,
    help="The training had --rescale_timesteps True, the default of improved-diffusion. It matters only where "
    "--timesteps isn't 1000.",
)
@click.pass_context
def convert(
    ctx: click.Context,
    checkpoint: Path,
    output: Path,
    num_head_channels: int | None,
    num_heads: int | None,
    attention_order: Any,
    image_size: int | None,
    noise_schedule: Any,
    timesteps: int,
    rescale_timesteps: bool,
) -> None:
    """Convert a CHECKPOINT of guided-diffusion or improved-diffusion to a FOLDER that diffusers loads.

    \b
    diffusers-restore convert ffhq_10m.pt -o ffhq --num-head-channels 64
    diffusers-restore convert 256x256_diffusion_uncond.pt -o imagenet --num-head-channels 64
    diffusers-restore convert 64x64_diffusion.pt -o imagenet64 --num-head-channels 64 \\
        --attention-order new --noise-schedule cosine
    diffusers-restore convert cifar10_uncond_50M_500K.pt -o cifar --num-heads 4 \\
        --noise-schedule cosine --timesteps 4000 --rescale-timesteps

    CHECKPOINT is a .pt, .pth, .bin, .ckpt or .safetensors file. Only weights are read from it: no code in it is run.
    Sizes, attention and classes are read from the weights. The options say what can't be seen in them, and a wrong one
    gives a network that draws noise: take them from the command of the training, whose options have the same names.

    FOLDER gets a UNet2DModel that says what the original says, a DDPMScheduler and a model card: DDPMPipeline,
    DDRMPipeline and `restore --model` load it.
    """  # noqa: D301  # click reads the control character
    folder = output.resolve()
    if folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(f"-o {click.format_filename(output)!r} exists and isn't empty")

    from .files import ASIDE, written_aside
    from .pipelines.converting import conversion_card, describe_network, load_guided_diffusion

    try:
        pipe = load_guided_diffusion(
            checkpoint,
            num_head_channels=num_head_channels,
            num_heads=num_heads,
            attention_order=attention_order,
            image_size=image_size,
            noise_schedule=noise_schedule,
            timesteps=timesteps,
            rescale_timesteps=rescale_timesteps,
        )
    except (InvalidInputError, OSError) as error:
        raise click.ClickException(_with_options(ctx, one_line(error))) from error
    for name, text in describe_network(pipe).items():
        click.echo(f"{name:<12}{text}")
    aside = folder.with_name(f".{folder.name}{ASIDE}")
    try:
        with written_aside(aside):
            pipe.save_pretrained(aside)
            conversion_card(pipe, checkpoint, _conversion_command(ctx)).save(aside / "README.md")
            mode = (aside / "README.md").stat().st_mode  # safetensors gives its files to their owner alone
            for file in aside.rglob("*.safetensors"):
                file.chmod(mode)
            if folder.exists():
                folder.rmdir()
            aside.rename(folder)
    except OSError as error:
        raise click.ClickException(f"cannot write {click.format_filename(output)!r}: {one_line(error)}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    model = click.format_filename(output)
    click.echo(f"\n{model} is ready. To restore with it:")
    if pipe.unet.config.num_class_embeds is None:
        click.echo(f"diffusers-restore restore small.png -o large.png --task sr4 --model {shlex.quote(model)}")
    else:
        click.echo(f"DDRMPipeline.from_pretrained({model!r})(picture, operator='sr4', class_labels=0), in Python")


def _with_options(ctx: click.Context, message: str) -> str:
    """A message of the library with the names that options have on the command line."""
    for param in ctx.command.params:
        if isinstance(param, click.Option) and param.name != "output":  # a word of its own
            message = re.sub(rf"(?<![\w-]){param.name}\b", param.opts[-1], message)
    return message


def _conversion_command(ctx: click.Context) -> str:
    """The command as it was typed, without the folders of its files."""
    words = ["diffusers-restore", "convert", ctx.params["checkpoint"].name, "-o", ctx.params["output"].name]
    for param in ctx.command.params:
        name = str(param.name)
        if name not in ("checkpoint", "output") and _given(ctx, name):
            words += [param.opts[-1]] if ctx.params[name] is True else [param.opts[-1], str(ctx.params[name])]
    return shlex.join(words)


# --- tasks ----------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tasks(as_json: bool) -> None:
    """List the tasks: name, what it restores, its arguments with their defaults.

    \b
    diffusers-restore tasks
    diffusers-restore restore blurred.png -o sharp.png --task deblur-gauss --operator-arg sigma=3 --operator-arg taps=9
    """  # noqa: D301  # click reads the control character
    from .operators import TASKS

    if as_json:
        listed: list[dict[str, Any]] = []
        for name in TASKS:
            try:
                task: Task = TASKS[name]
            except PlugInError as error:
                listed.append({"name": name, "error": str(error)})
                continue
            arguments = [
                {"name": key, "required": True} if p.default is p.empty else {"name": key, "default": p.default}
                for key, p in task.arguments.items()
            ]
            listed.append({"name": name, "summary": task.summary, "arguments": arguments})
        click.echo(json.dumps(listed, indent=2))
        return
    formatter = click.HelpFormatter(width=min(shutil.get_terminal_size().columns, 120))
    formatter.write_dl([(name, _describe(name)) for name in TASKS])
    click.echo(formatter.getvalue() + "\nArguments in brackets, with their defaults, are set by --operator-arg K=V.")


@main.command()
def methods() -> None:
    """List the zero-shot methods, which restore with a network that was never trained for the damage.

    \b
    diffusers-restore methods
    diffusers-restore restore noisy.png -o clean.png --task denoise --sigma-y 0.2 --method ddrm
    """  # noqa: D301  # click reads the control character
    rows = []
    for name in METHODS:
        try:
            chosen = METHODS[name]
        except PlugInError as error:
            rows.append((name, f"({error})"))
            continue
        options = [f"{key}={default}" for key, default in _method_options(chosen).items()]
        summary = " ".join((chosen.__doc__ or "").partition("\n\n")[0].split())
        rows.append((name, summary + (f" [{', '.join(options)}]" if options else "")))
    formatter = click.HelpFormatter(width=min(shutil.get_terminal_size().columns, 120))
    formatter.write_dl(rows)
    click.echo(formatter.getvalue() + "\nOptions in brackets, with their defaults, are set by --method-arg K=V.")


def _describe(name: str) -> str:
    """`blur by a Gaussian [sigma=10, taps=5]`, or what keeps a plug-in from being loaded."""
    from .operators import TASKS

    try:
        task: Task = TASKS[name]
    except PlugInError as error:
        return f"({error})"

    def text(name: str, default: Any, required: bool) -> str:
        if required:
            return f"--{name} FILE" if name in FILE_ARGUMENTS else f"{name} (required)"
        if isinstance(default, (tuple, list)):
            return f"{name}=[{','.join(f'{value:g}' for value in default)}]"
        if default is None:
            return f"{name}=null"
        return f"{name}={default:g}" if isinstance(default, float) else f"{name}={default}"

    arguments = ", ".join(text(name, p.default, p.default is p.empty) for name, p in task.arguments.items())
    return task.summary + (f" [{arguments}]" if arguments else "")


# --- inputs and outputs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One input, and the files to write for it: one, or one for each sample."""

    source: Path
    targets: tuple[Path, ...]
    fixed: bool  # the user chose the name of the target, suffix included

    @property
    def name(self) -> str:
        return click.format_filename(self.source)

    @property
    def target_names(self) -> str:
        first, last = click.format_filename(self.targets[0]), click.format_filename(self.targets[-1].name)
        return first if len(self.targets) == 1 else f"{first} ... {last}"

    @property
    def done(self) -> bool:
        return all(target.exists() for target in self.targets)

    def as_numbers(self, task: str) -> _Job:
        """The job with a .npy target, for a measurement that is no picture."""
        if self.fixed and self.targets[0].suffix.lower() != ".npy":
            raise InvalidInputError(f"a measurement for the task {task} is no picture; write it to a .npy file")
        return replace(self, targets=tuple(target.with_suffix(".npy") for target in self.targets))


def _pair(inputs: Sequence[str], output: str, suffix: Callable[[Path], str], samples: int) -> list[_Job]:
    """What to read and where to write it; `suffix` gives that of a result in a folder.

    Raises:
        click.UsageError: nothing to read, two results of one name, or a result in the place of an input.
    """
    out = Path(output)
    names_folder = _names_folder(output)
    single = len(inputs) == 1 and Path(inputs[0]).is_file()
    found = list(_expand(inputs, out))
    if not names_folder and not single:
        raise click.UsageError(
            f"-o {output!r} is the name of one file; folders, patterns and several files need a folder"
        )

    jobs: dict[tuple[Path, Path], _Job] = {}
    for source, relative in found:
        target = out / relative.with_suffix(suffix(source)) if names_folder else out
        numbered = [target.with_stem(f"{target.stem}-{i + 1}") for i in range(samples)] if samples > 1 else [target]
        jobs[source, target] = _Job(source, tuple(numbered), fixed=not names_folder)

    sources = {job.source.resolve() for job in jobs.values()}
    taken: dict[str, _Job] = {}
    for job in jobs.values():
        for target in job.targets:
            other = taken.setdefault(os.path.normcase(target), job)
            if other is not job:
                raise click.UsageError(
                    f"{other.name!r} and {job.name!r} would both be written to {click.format_filename(target)!r}; "
                    "restore them to different folders"
                )
            if target.resolve() in sources:
                raise click.UsageError(f"-o {output!r} would overwrite the input {click.format_filename(target)!r}")
    return list(jobs.values())


def _names_folder(output: str) -> bool:
    """Whether -o means a folder: one that exists, or a name that ends with a slash or has no suffix.

    Raises:
        click.UsageError: the suffix of a file names no format.
    """
    out = Path(output)
    if out.is_dir() or not out.suffix or output.endswith(("/", os.sep)):
        return True
    if out.suffix.lower() not in WRITABLE_SUFFIXES:
        raise click.UsageError(
            f"-o {output!r}: the suffix of a file must be one of {', '.join(WRITABLE_SUFFIXES)}; for a folder, end "
            "with a slash"
        )
    return False


def _expand(inputs: Sequence[str], out: Path) -> Iterator[tuple[Path, Path]]:
    """Every input file, and its place in an output folder."""
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            try:
                found = [(file, file.relative_to(path)) for file in _walk(path, out)]
            except OSError as error:
                raise click.UsageError(f"cannot read the folder {text!r}: {error.strerror}") from error
        elif path.exists():
            yield path, Path(path.name)
            continue
        elif glob.has_magic(text):
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
            found = [(match, Path(match.name)) for match in matches if _is_readable(match)]
        else:
            raise click.UsageError(f"there is no file or folder {text!r}")
        if not found:
            where = "in the folder" if path.is_dir() else "of the pattern"
            raise click.UsageError(f"no pictures {where} {text!r}; they end in {', '.join(READABLE_SUFFIXES)}")
        yield from found


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    """The pictures in a folder and those below it, in order, without hidden ones, linked folders and the output."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink() and entry.resolve() != out.resolve():
                yield from _walk(entry, out)
        elif _is_readable(entry):
            yield entry


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in READABLE_SUFFIXES and path.is_file()


def _make_folders(jobs: Iterable[_Job]) -> None:
    """Make the output folders before any work is done."""
    for folder in sorted({target.parent for job in jobs for target in job.targets}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.ClickException(
                f"cannot make the folder {click.format_filename(folder)!r}: {error.strerror}"
            ) from error
        if not os.access(folder, os.W_OK):
            raise click.ClickException(f"cannot write in the folder {click.format_filename(folder)!r}: no permission")


def _run(jobs: list[_Job], work: Callable[[str, _Job], str]) -> None:
    """Do all jobs and print a line for each; one that fails is reported, and the exit status is 1 at the end."""
    failed: list[str] = []
    for number, job in enumerate(jobs, 1):
        try:
            line = work(f"[{number}/{len(jobs)}] " if len(jobs) > 1 else "", job)
        except (InvalidInputError, OSError) as error:
            click.echo(f"{job.name}: {one_line(error)}", err=True)
            failed.append(job.name)
        else:
            click.echo(line)
    if failed:
        if len(jobs) > 1:
            click.echo(f"{len(failed)} of {len(jobs)} failed: {', '.join(failed)}", err=True)
        raise click.exceptions.Exit(1)


def _report(job: _Job, shape: Shape) -> str:
    _, height, width = shape
    return f"{job.name} -> {job.target_names}  {width}x{height}"


# --- pictures and operators -----------------------------------------------------------------------------------------


def _check_arguments(
    task: str, operator_args: dict[str, Any], mask: Path | None, kernel: Path | None
) -> dict[str, Any]:
    """The arguments of the task that are no files, once it is sure that it has all of them and needs no other.

    Raises:
        click.UsageError: an argument that the task doesn't have, or lacks.
    """
    from .operators import TASKS

    try:
        accepted = TASKS[task].arguments
    except PlugInError as error:
        raise click.UsageError(str(error)) from error
    files = {"mask": mask, "kernel": kernel}
    for name in FILE_ARGUMENTS:
        if files[name] is not None and name not in accepted:
            able = ", ".join(other for other in TASKS if name in _task_arguments(other))
            raise click.UsageError(f"the task {task} takes no --{name}; it is for: {able}")
    for name in operator_args:
        if name not in accepted:
            listed = ", ".join(key for key in accepted if key not in FILE_ARGUMENTS) or "none"
            raise click.UsageError(f"--operator-arg: the task {task} has no argument {name!r}; it has: {listed}")
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in operator_args and files.get(name) is None:
            wanted = f"--{name} FILE" if name in FILE_ARGUMENTS else f"--operator-arg {name}=..."
            raise click.UsageError(f"the task {task} needs {wanted}")
    return operator_args


def _task_arguments(task: str) -> Iterable[str]:
    """The arguments of a task, none of one that can't be loaded."""
    from .operators import TASKS

    try:
        return list(TASKS[task].arguments)
    except PlugInError:
        return []


def _load_files(mask: Path | None, kernel: Path | None, max_pixels: int) -> dict[str, Tensor]:
    """The arguments that are given as files."""
    from . import images

    loaded: dict[str, Tensor] = {}
    try:
        if mask is not None:
            loaded["mask"] = images.load_mask(mask, max_pixels=max_pixels)
        if kernel is not None:
            loaded["kernel"] = _load_kernel(kernel, max_pixels)
    except (InvalidInputError, OSError) as error:
        raise click.ClickException(one_line(error)) from error
    return loaded


def _load_kernel(path: Path, max_pixels: int) -> Tensor:
    """The numbers of a .npy file, or the grey levels of a picture divided by their sum."""
    import numpy as np
    import torch

    from . import images

    if path.suffix.lower() == ".npy":
        try:
            numbers = np.load(path, allow_pickle=False)
            return torch.from_numpy(numbers.astype(np.float64))
        except (ValueError, TypeError, EOFError, AttributeError) as error:
            raise InvalidInputError(f"--kernel {str(path)!r} holds no array of numbers: {error}") from error
    levels = (images.load(path, max_pixels=max_pixels).tensor[0].double() + 1) / 2
    if bool((levels != levels[:1]).any()):
        raise InvalidInputError(f"--kernel {str(path)!r} must be a grey picture, got colours")
    if not bool(levels.any()):
        raise InvalidInputError(f"--kernel {str(path)!r} is all black; its brightness is the weight of each pixel")
    return levels[0] / levels.sum()


def _is_picture(operator: LinearOperator) -> bool:
    """Whether measurements look like a picture, so that a picture file can hold them."""
    return operator.output_shape[0] in (1, 3) and operator.measures_picture


def _alpha(picture: Picture, job: _Job) -> Tensor | None:
    """The transparency to put back, refused before any work is done where the file can't hold it."""
    suffix = job.targets[0].suffix.lower()
    if picture.alpha is None or suffix in ALPHA_SUFFIXES:
        return picture.alpha
    if bool((picture.alpha < 1).any()):
        raise InvalidInputError(
            f"the picture has transparency, which {suffix} cannot hold; write one of {', '.join(ALPHA_SUFFIXES)}"
        )
    return None


def _bits(picture: Picture, source: Path) -> int:
    """Bits of the result: those of the source; exact numbers say nothing about it and give 8."""
    return 8 if source.suffix.lower() == ".npy" else picture.bits
