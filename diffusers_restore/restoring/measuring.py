"""Tasks for pictures in files: arguments, masks and kernels, and the measurement of a clean picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import images, operators
from ..errors import InvalidInputError, OperatorError, check_int, check_real, one_line, unknown_name
from ..images import Picture
from ..operators import TASKS, LinearOperator
from ..registry import PlugInError
from .arguments import ArgumentError, ModelError, check, check_file
from .jobs import Done, Job, describe_pages
from .kinds import FILE_ARGUMENTS, MAX_SEED
from .memory import enough_memory


class Measurer:
    """Measures clean pictures, which a restorer can then restore.

    Args:
        task: by name.
        operator_args: its arguments that are no files.
        mask: file of a black and white picture, for a task that takes one: white is known.
        kernel: file of a grey picture or of numbers, for a task that takes one.
        sigma_y: sd of the noise, in the unit of [-1, 1].
        seed: of the noise.
        crop: cut a picture of a size that the task can't measure, around its centre.
        max_pixels: of a picture.

    Raises:
        ArgumentError: a missing or unknown argument of the task.
    """

    def __init__(
        self,
        task: str,
        operator_args: Mapping[str, Any] | None = None,
        mask: Path | None = None,
        kernel: Path | None = None,
        sigma_y: float = 0.0,
        seed: int = 0,
        crop: bool = False,
        max_pixels: int | None = None,
    ) -> None:
        self.task, self.crop = task, crop
        self.sigma_y, self.seed = check("sigma_y", check_real, sigma_y, 0), check("seed", check_int, seed, 0, MAX_SEED)
        self.max_pixels = images.DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
        self.arguments = task_arguments(task, operator_args or {}, mask, kernel, self.max_pixels)
        self.inexact: list[str] = []

    def measure(self, job: Job, position: str = "") -> Done:
        """Read a picture and write its measurement.

        Raises:
            InvalidInputError: the picture can't be read or measured.
            OSError: the measurement can't be written.
        """
        picture = images.load(job.source, max_pixels=self.max_pixels)
        operator, picture = _fit(self.task, self.arguments, picture, self.crop)
        with enough_memory("not enough memory for {1}x{0} pixels; take a smaller picture", *picture.tensor.shape[-2:]):
            y = operators.measure(operator, picture.tensor, self.sigma_y, torch.Generator().manual_seed(self.seed)).y
        if not is_picture(operator):
            job = job.as_numbers(self.task)
        exact = job.targets[0].suffix.lower() == ".npy"
        if not exact and (self.sigma_y > 0 or float(y.abs().max()) > 1):
            self.inexact.append(job.name)
        alpha = None if exact else job.alpha(picture)
        images.save(y, job.targets[0], alpha=alpha, bits=job.bits(picture), metadata=picture.metadata)
        _, height, width = operator.output_shape
        return Done(job, (width, height), describe_pages(picture))


def task_arguments(
    task: str, given: Mapping[str, Any], mask: Path | None, kernel: Path | None, max_pixels: int
) -> dict[str, Any]:
    """All arguments of a task, checked for missing and unknown ones, with files loaded.

    Raises:
        ArgumentError: an unknown or missing argument.
        ModelError: a file that can't be read.
    """
    if not isinstance(task, str) or task not in TASKS:
        raise ArgumentError("{task}: {0}", unknown_name("task", task, TASKS))
    try:
        accepted = TASKS[task].arguments
    except PlugInError as error:
        raise ArgumentError("{0}", error) from error
    files = {"mask": mask, "kernel": kernel}
    for name in FILE_ARGUMENTS:
        if files[name] is not None and name not in accepted:
            able = ", ".join(other for other in TASKS if name in _accepted(other))
            raise ArgumentError(f"the task {{0}} takes no {{{name}}}; it is for: {{1}}", task, able)
    for name in given:
        if name not in accepted:
            listed = ", ".join(key for key in accepted if key not in FILE_ARGUMENTS) or "none"
            raise ArgumentError("{operator_args}: the task {0} has no argument {1!r}; it has: {2}", task, name, listed)
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in given and files.get(name) is None:
            wanted = f"{{{name}}}, a file" if name in FILE_ARGUMENTS else f"{{operator_args}} {name}=..."
            raise ArgumentError("the task {0} needs " + wanted, task)
    return {**given, **load_files(mask, kernel, max_pixels)}


def _accepted(task: str) -> Iterable[str]:
    """The arguments of a task; none if it can't be loaded."""
    try:
        return list(TASKS[task].arguments)
    except PlugInError:
        return []


def load_files(mask: Path | None, kernel: Path | None, max_pixels: int) -> dict[str, Tensor]:
    """The arguments that are given as files.

    Raises:
        ModelError: one can't be read.
    """
    loaded: dict[str, Tensor] = {}
    for name, file, read in (("mask", mask, images.load_mask), ("kernel", kernel, _load_kernel)):
        path = check_file(name, file)
        if path is None:
            continue
        try:
            loaded[name] = read(path, max_pixels=max_pixels)
        except ArgumentError:
            raise
        except (InvalidInputError, OSError) as error:
            raise ModelError(f"{{{name}}}: {{0}}", one_line(error)) from error
    return loaded


def _load_kernel(path: Path, *, max_pixels: int) -> Tensor:
    """The numbers of a .npy file, or the grey levels of a picture divided by their sum."""
    if path.suffix.lower() == ".npy":
        try:
            numbers = np.load(path, allow_pickle=False)
            return torch.from_numpy(numbers.astype(np.float64))
        except (ValueError, TypeError, EOFError, AttributeError) as error:
            raise ModelError("{kernel} {0!r} holds no array of numbers: {1}", str(path), one_line(error)) from error
    levels = (images.load(path, max_pixels=max_pixels).tensor[0].double() + 1) / 2
    if bool((levels != levels[:1]).any()):
        raise ModelError("{kernel} {0!r} must be a grey picture, got colours", str(path))
    if not bool(levels.any()):
        raise ModelError("{kernel} {0!r} is all black; its brightness is the weight of each pixel", str(path))
    return levels[0] / levels.sum()


def is_picture(operator: LinearOperator) -> bool:
    """Whether measurements look like a picture, so that a picture file can hold them."""
    return operator.output_shape[0] in (1, 3) and operator.measures_picture


def _fit(task: str, arguments: Mapping[str, Any], picture: Picture, crop: bool) -> tuple[LinearOperator, Picture]:
    """The operator for a clean picture, which may be cropped to a size that suits the task."""
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
            raise ArgumentError(
                "the task {0} cannot measure {1} x {2} pixels: {3}; {4} x {5} would fit: add {crop}",
                *(task, width, height, error, columns, rows),
            ) from error
    top, left = (height - rows) // 2, (width - columns) // 2
    window = (..., slice(top, top + rows), slice(left, left + columns))
    alpha = None if picture.alpha is None else picture.alpha[window]
    return create(rows, columns), replace(picture, tensor=picture.tensor[window], alpha=alpha)


def _fitting_size(create: Callable[[int, int], object], height: int, width: int) -> tuple[int, int] | None:
    """The next smaller size, of multiples of one number, that suits the operator; None if there is none."""
    for multiple in range(2, min(height, width, 64) + 1):
        rows, columns = height - height % multiple, width - width % multiple
        try:
            create(rows, columns)
        except OperatorError:
            continue
        return rows, columns
    return None
