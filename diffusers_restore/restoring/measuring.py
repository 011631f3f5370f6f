"""Tasks for pictures in files: arguments, masks and kernels, and the measurement of a clean picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import images, operators
from ..decoding import read_array
from ..errors import InvalidInputError, OperatorError, check_int, check_real, one_line, unknown_name
from ..images import Picture
from ..operators import TASKS, Operator
from ..registry import PlugInError
from .arguments import ArgumentError, ModelError, check, check_file, check_mapping
from .jobs import Done, Job, PathInput, Remarks, describe_pages
from .kinds import FILE_ARGUMENTS, MAX_SEED
from .masks import Masks
from .memory import enough_memory
from .packed import load
from .pairing import DEFAULT_DATASET, DatasetOptions, check_not_overwritten, check_quality, files_of, pair

_MOST_NOISE = 2.0


class Measurer:
    """Measures clean pictures, which a restorer can then restore.

    Args:
        task: by name.
        operator_args: its arguments that are no files.
        mask: file of a black and white picture, for a task that takes one: white is known; or a folder with one for
            each picture.
        invert_mask: white is missing.
        mask_threshold: what counts as white, in 0..1; None is the middle.
        kernel: file of a grey picture or of numbers, for a task that takes one.
        sigma_y: sd of the noise, in the unit of [-1, 1].
        seed: of the noise.
        crop: cut a picture of a size that the task can't measure, around its centre.
        max_pixels: of a picture.
        quality: of JPEG and WebP files, 1..100; None is 95, and WebP without loss.

    Attributes:
        inexact: the pictures whose measurements had values that a picture file can't hold.

    Raises:
        ArgumentError: a missing or unknown argument of the task.
    """

    def __init__(
        self,
        task: str,
        operator_args: Mapping[str, Any] | None = None,
        mask: PathInput | None = None,
        invert_mask: bool = False,
        mask_threshold: float | None = None,
        kernel: PathInput | None = None,
        sigma_y: float = 0.0,
        seed: int = 0,
        crop: bool = False,
        max_pixels: int | None = None,
        quality: int | None = None,
    ) -> None:
        self.task, self.crop = task, crop
        self.sigma_y, self.seed = check("sigma_y", check_real, sigma_y, 0), check("seed", check_int, seed, 0, MAX_SEED)
        self.max_pixels = (
            images.DEFAULT_MAX_PIXELS if max_pixels is None else check("max_pixels", check_int, max_pixels, 1)
        )
        self.inexact: list[str] = []
        self.quality = None if quality is None else check("quality", check_int, quality, 1, 100)
        self.masks = Masks(mask, invert_mask, mask_threshold, self.max_pixels)
        self.kernel = check_file("kernel", kernel)
        self._read: dict[str, Iterable[Path]] = {}
        given = check_mapping("operator_args", operator_args)
        self.arguments = task_arguments(task, given, self.masks, self.kernel, self.max_pixels)

    def plan(
        self,
        inputs: PathInput | Sequence[PathInput],
        output: PathInput,
        tell: Callable[[str], object] = lambda left_out: None,
        dataset: DatasetOptions = DEFAULT_DATASET,
    ) -> list[Job]:
        """The jobs, as `Restorer.plan` does it."""
        jobs = self.masks.assign(pair(inputs, output, lambda source: ".png", tell=tell, dataset=dataset))
        self._read["inputs"] = files_of(jobs)
        if self.masks.partners is not None:
            self._read["mask"] = list(self.masks.partners.files())
        if self.kernel is not None:
            self._read["kernel"] = [self.kernel]
        check_not_overwritten(jobs, self._read)
        check_quality(jobs, self.quality)
        return jobs

    def measure(self, job: Job, position: str = "") -> Done:
        """Read a picture and write its measurement.

        Raises:
            InvalidInputError: the picture can't be read or measured.
            OSError: the measurement can't be written.
        """
        picture = load(job.source, max_pixels=self.max_pixels)
        arguments, remarks = dict(self.arguments), Remarks()
        if self.masks:
            arguments["mask"], remarks = self.masks.of(job, picture.tensor)
        operator, picture = _fit(self.task, arguments, picture, self.crop)
        if not is_picture(operator):
            job = job.as_numbers(self.task)
            check_not_overwritten([job], {"inputs": files_of([job])} | self._read)
        if is_picture(operator) and job.targets[0].suffix.lower() != ".npy":
            check_noise_of_picture(self.sigma_y)
        with enough_memory("not enough memory for {1}x{0} pixels; take a smaller picture", *picture.tensor.shape[-2:]):
            y = operators.measure(operator, picture.tensor, self.sigma_y, torch.Generator().manual_seed(self.seed)).y
        target = job.targets[0]
        exact = target.suffix.lower() == ".npy"
        if not exact and (self.sigma_y > 0 or float(y.abs().max()) > 1):
            self.inexact.append(job.name)
        alpha = None if exact else job.alpha(picture)
        quality = self.quality if target.suffix.lower() in images.QUALITY_SUFFIXES else None
        images.save(y, target, alpha=alpha, bits=job.bits(picture), metadata=picture.metadata, quality=quality)
        _, height, width = operator.output_shape
        return Done(job, (width, height), describe_pages(picture) + remarks)


def task_arguments(
    task: str, given: Mapping[str, Any], masks: Masks, kernel: Path | None, max_pixels: int
) -> dict[str, Any]:
    """All arguments of a task but the mask, checked for missing and unknown ones, with the kernel loaded.

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
    has_file = {"mask": bool(masks), "kernel": kernel is not None}
    for name in FILE_ARGUMENTS:
        if has_file[name] and name not in accepted:
            able = ", ".join(other for other in TASKS if name in _accepted(other))
            raise ArgumentError(f"the task {{0}} takes no {{{name}}}; it is for: {{1}}", task, able)
    for name in given:
        if name not in accepted:
            listed = ", ".join(key for key in accepted if key not in FILE_ARGUMENTS) or "none"
            raise ArgumentError("{operator_args}: the task {0} has no argument {1!r}; it has: {2}", task, name, listed)
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in given and not has_file.get(name):
            wanted = f"{{{name}}}, a file" if name in FILE_ARGUMENTS else f"{{operator_args}} {name}=..."
            raise ArgumentError("the task {0} needs " + wanted, task)
    return dict(given) if kernel is None else {**given, "kernel": _load_kernel(kernel, max_pixels)}


def _accepted(task: str) -> Iterable[str]:
    """The arguments of a task; none if it can't be loaded."""
    try:
        return list(TASKS[task].arguments)
    except PlugInError:
        return []


def _load_kernel(path: Path, max_pixels: int) -> Tensor:
    """The numbers of a .npy file, or the grey levels of a picture divided by their sum.

    Raises:
        ModelError: it can't be read, or holds no kernel.
    """
    try:
        if path.suffix.lower() == ".npy":
            numbers = read_array(path, max_pixels)
            if numbers.dtype.kind not in "biuf":
                raise InvalidInputError(f"expected real numbers (H, W), got {numbers.dtype}")
            return torch.from_numpy(numbers.astype(np.float64))
        levels = (images.load(path, max_pixels=max_pixels).tensor[0].double() + 1) / 2
    except (ValueError, TypeError, EOFError, OSError) as error:  # InvalidInputError is a ValueError
        what = " holds no array of numbers" if path.suffix.lower() == ".npy" else ""
        raise ModelError(f"{{kernel}} {{0!r}}{what}: {{1}}", str(path), one_line(error)) from error
    if bool((levels != levels[:1]).any()):
        raise ModelError("{kernel} {0!r} must be a grey picture, got colours", str(path))
    if not bool(levels.any()):
        raise ModelError("{kernel} {0!r} is all black; its brightness is the weight of each pixel", str(path))
    return levels[0] / levels.sum()


def check_noise_of_picture(sigma_y: float) -> None:
    """Refuse what was perhaps counted in grey levels.

    Raises:
        InvalidInputError: more noise than a picture from -1 to 1 shows; it says what so many grey levels are.
    """
    if sigma_y > _MOST_NOISE:
        raise InvalidInputError(
            f"sigma_y must be at most {_MOST_NOISE:g} for a picture, whose black is -1 and white is 1, got "
            f"{sigma_y:g}; {describe_levels(sigma_y)}"
        )


def describe_levels(sigma_y: float) -> str:
    """What a number means that was perhaps counted in grey levels: `25 of 255 grey levels are 0.196`."""
    return f"{sigma_y:g} of 255 grey levels are {sigma_y / 127.5:.3g}"


def is_picture(operator: Operator) -> bool:
    """Whether measurements look like a picture, so that a picture file can hold them."""
    return operator.output_shape[0] in (1, 3) and operator.measures_picture


def _fit(task: str, arguments: Mapping[str, Any], picture: Picture, crop: bool) -> tuple[Operator, Picture]:
    """The operator for a clean picture, which may be cropped to a size that suits the task."""
    channels, height, width = picture.tensor.shape[1:]
    if task == "colorize" and channels == 1:
        raise InvalidInputError("the picture is grey already; the task colorize measures a colour picture")

    def create(rows: int, columns: int) -> Operator:
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
