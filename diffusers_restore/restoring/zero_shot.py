"""Restoring with a diffusion prior, which was not trained for any damage."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import operators
from ..errors import InvalidInputError, check_int, check_real, one_line, unknown_name
from ..evaluation.noise import estimate_noise, jpeg_loss
from ..images import Picture
from ..operators import Identity, LinearOperator, Mask, Measurement, Operator, SVDOperator
from ..operators.base import ROUGH_STEPS
from ..operators.families import DisjointRows
from ..operators.separable import Separable
from ..operators.tasks import MADE_UP
from ..registries import METHODS, TASKS
from ..registry import PlugInError
from ..schedulers.scheduling_dpir import DPIRScheduler, dpir_levels, hole_radius, measures_all, one_level
from ..schedulers.zero_shot import ZeroShotScheduler, method_options
from .arguments import ArgumentError, check, check_file, check_mapping, check_samples
from .draws import Draw, generators
from .jobs import Job, PathInput, Remarks
from .kinds import MAX_SEED, PRIOR
from .loading import check_class_label, load_pipeline
from .masks import Masks
from .measuring import check_noise_of_picture, is_picture, task_arguments
from .restorer import Restorer
from .trained import check_steps
from .watching import watched

ESTIMATE = "estimate"
"""The value of sigma_y for the noise that is seen in a picture."""

AUTO = "auto"
"""The method's name for the one that suits the task."""

SAMPLER = "ddrm"
ESTIMATOR = "dpir"
WITHOUT_SVD = "diffpir"
"""What draws samples where `SAMPLER` can't."""
_AUTO = {"colorize": SAMPLER, "jpeg": "ddrm-jpeg"}
_WIDE = 6
"""Radius in pixels of a hole in which a picture is no matter of estimation (benchmarks/results/methods.md)."""

_ONE_STEP = "was restored in one step, which begins where hardly any noise is left and changes little; take more steps"
MEMORY = 130
"""Bytes for each pixel of the restored picture beside the network (benchmarks/results/memory.md)."""

MEMORY_OF_TRANSFORMS = 280
"""The same for an operator that lives in another basis than pixels and blocks of them."""

BYTES_OF_TABLES = 40
"""For each number of the square matrices of a `Separable` operator, on both axes, while they are made."""


class ZeroShotRestorer(Restorer):
    """A `DDRMPipeline` with any unconditional DDPM.

    Args:
        task: what was done to the pictures.
        operator_args: arguments of the task that are no files.
        mask: file of a black and white picture, for a task that takes one: white is known; or a folder with one for
            each picture.
        invert_mask: white is missing.
        mask_threshold: what counts as white, in 0..1; None is the middle.
        kernel: file of a grey picture or of numbers, for a task that takes one.
        sigma_y: sd of their noise in the unit of [-1, 1]; None is what each file's format leaves, "estimate" the noise
            that is seen in it.
        steps: timesteps; None is the method's own number.
        method: by name; None is that of the model if it names another than ddrm, else "auto", which suits the task
            (`automatic_method`).
        method_args: options of the method.
        eta: as in a call of `DDRMPipeline`; None is 1 where `sigma_y` is None, if the method has an eta, since the file
            is then taken as exact (benchmarks/results/quality.md).
        eta_b: as in a call of `DDRMPipeline`.
        class_label: for a class-conditional network.
        seed: of the first sample; each further sample has the next.
        samples: restorations of each picture.
        average: whether their mean is the result.
        max_pixels: of a picture, of its restoration, of the mask and the kernel.
        strength, quality, tile: as of `Restorer`.

    Raises:
        ArgumentError: a missing or unknown argument of the task, or an average of one sample.
    """

    def __init__(
        self,
        task: str | None = None,
        operator_args: Mapping[str, Any] | None = None,
        mask: PathInput | None = None,
        invert_mask: bool = False,
        mask_threshold: float | None = None,
        kernel: PathInput | None = None,
        sigma_y: float | str | None = None,
        steps: int | None = None,
        method: str | None = None,
        method_args: Mapping[str, Any] | None = None,
        eta: float | None = None,
        eta_b: float | None = None,
        class_label: int | None = None,
        seed: int = 0,
        samples: int = 1,
        average: bool = False,
        max_pixels: int | None = None,
        strength: float | None = None,
        quality: int | None = None,
        tile: int | str = "auto",
    ) -> None:
        if task is None:
            # The name of an option of another kind, where a mask may mean that one.
            masked = " (for a {mask}: inpaint, or {scratches} auto instead of a task)" if mask is not None else ""
            raise ArgumentError(
                f"{{task}} must say what was done to the picture{masked}; `diffusers-restore tasks` lists the names"
            )
        if method is not None and (not isinstance(method, str) or method not in (AUTO, *METHODS)):
            raise ArgumentError("{method}: {0}", unknown_name("method", method, [AUTO, *METHODS]))
        super().__init__(max_pixels, strength, quality, tile)
        self.samples, self.average = check_samples(samples, average)
        self.masks = Masks(mask, invert_mask, mask_threshold, self.max_pixels)
        self.kernel = check_file("kernel", kernel)
        given = check_mapping("operator_args", operator_args)
        self.arguments = task_arguments(task, given, self.masks, self.kernel, self.max_pixels)
        self.task, self.steps = task, None if steps is None else check("steps", check_int, steps, 1)
        unknown = sigma_y is None or (isinstance(sigma_y, str) and sigma_y == ESTIMATE)
        self.sigma_y = sigma_y if unknown else check("sigma_y", check_real, sigma_y, 0)
        self.method, self.method_args = method, check_mapping("method_args", method_args)
        self.etas = {
            name: None if value is None else check(name, check_real, value, 0, 1)
            for name, value in (("eta", eta), ("eta_b", eta_b))
        }
        self.class_label = None if class_label is None else check("class_label", check_int, class_label, 0)
        self.seed = check("seed", check_int, seed, 0, MAX_SEED)

    def load(self, model: str, device: str, dtype: str) -> None:
        """As `Restorer.load`."""
        self.pipe = load_pipeline(PRIOR, model, device, dtype)
        self._choose_method()
        for name, value in self.etas.items():
            if value is not None and name not in self.pipe.scheduler.step_options:
                what = type(self.pipe.scheduler).__name__
                raise ArgumentError(f"{{{name}}} is no option of the method {{0}}", what)
        if self.sigma_y is None and self.etas["eta"] is None and "eta" in self.pipe.scheduler.step_options:
            self.etas["eta"] = 1.0
        if self.samples > 1 and self.chosen.result == "estimate":
            what = type(self.chosen).__name__
            raise ArgumentError("{samples} must be 1 for {0}, which draws nothing: all would be the same", what)
        if self.steps is not None:
            check_steps(self.pipe, self.steps)
        check_class_label(self.pipe, self.class_label)

    def _choose_method(self) -> None:
        """Set the pipeline's scheduler to that of the method, with its options."""
        method, own = self.method, type(self.pipe.scheduler)
        self.automatic = method == AUTO or (method is None and own is METHODS[SAMPLER])  # that which any DDPM gets
        if self.automatic:
            draws = self.samples > 1 or any(value is not None for value in self.etas.values())
            method = automatic_method(self.task, draws=draws)
        try:
            chosen: type[ZeroShotScheduler] = own if method is None else METHODS[method]
        except PlugInError as error:
            raise ArgumentError("{0}", error) from error
        known = method_options(chosen)
        for name in self.method_args:
            if name not in known and name in chosen.step_options:
                raise ArgumentError(
                    f"{{method_args}}: {{0}} has no option {{1!r}}; it is {{{name}}}", chosen.__name__, name
                )
            if name not in known:
                listed = ", ".join(known) or "none"
                raise ArgumentError(
                    "{method_args}: {0} has no option {1!r}; it has: {2}", chosen.__name__, name, listed
                )
        try:
            self.pipe.scheduler = self.chosen = chosen.from_config(self.pipe.scheduler.config, **self.method_args)
        except (InvalidInputError, TypeError) as error:
            raise ArgumentError("{method_args}: {0}", one_line(error)) from error

    @property
    def files_read(self) -> dict[str, Iterable[Path]]:
        """As `Restorer.files_read`."""
        return super().files_read | ({} if self.kernel is None else {"kernel": [self.kernel]})

    @property
    def description(self) -> str:
        """As `Restorer.description`."""
        return f"{super().description}; {type(self.pipe.scheduler).__name__}, task {self.task}"

    def prepare(self, picture: Picture, job: Job) -> tuple[Draw, Remarks]:
        """As `Restorer.prepare`."""
        y = _grey(picture.tensor) if self.task == "colorize" else picture.tensor
        channels, height, width = y.shape[1:]
        arguments, remarks = dict(self.arguments), Remarks()
        if self.masks:
            arguments["mask"], remarks = self.masks.of(job, y)
        operator = operators.create(self.task, measurement_shape=(channels, height, width), **arguments)
        self._check_measurement(operator, job.of_picture)
        one_by_one = self.pipe.unet.config.in_channels == 1 < channels
        if one_by_one and arguments:
            raise InvalidInputError(
                f"the model is for grey pictures: colours go through it one by one, but not for the task {self.task} "
                "with arguments; take a grey picture, or a model for colours"
            )
        by_name = one_by_one and not arguments
        sigma_y, of_noise = self._noise(picture, y, arguments.get("mask"), operator, job.of_picture)
        measurement = Measurement(y, operator, sigma_y)
        scheduler, etas, of_holes = self._method_for(measurement)

        def work(inputs: Mapping[str, Tensor], number: int) -> Tensor:
            self.pipe.scheduler = scheduler
            restored: Tensor = self.pipe(
                **inputs,
                operator=self.task if by_name else operator,
                sigma_y=sigma_y,
                num_inference_steps=self.steps,
                class_labels=self.class_label,
                generator=generators(self.seed + number, inputs),
                output_type="latent",
                return_dict=False,
                **etas,
                **watched(self.watch, number, operator.input_shape),
            )[0]
            return restored

        evaluations = self.steps or scheduler.default_count
        gradient = scheduler.needs_gradient
        seen = self._make_room(
            *(self.pipe, job, operator.input_shape, memory_beside(operator), evaluations, gradient),
            lambda: seconds_beside(operator, self.pipe.device),
        )
        # A picture's own mask makes an operator of its own.
        alike = None if self.masks and self.masks.shared is None else (type(scheduler), sigma_y)
        remarks = self._of_defaults() + remarks + of_noise + of_holes + seen
        return Draw(work, {"image": y}, alike), remarks + self._of_steps(scheduler, measurement)

    def _of_defaults(self) -> Remarks:
        """Which damage a task undoes where nobody said which; of another one, it makes rings, or new damage."""
        if TASKS[self.task].summary.startswith(MADE_UP):
            return Remarks((f"{self.task} is {MADE_UP}: it fits what `degrade` made with the same arguments alone",))
        known = {name: one.default for name, one in TASKS[self.task].arguments.items() if name not in self.arguments}
        numbers = {name: value for name, value in known.items() if type(value) in (int, float) and name != "seed"}
        words = [f"{name}={value:g}" for name, value in numbers.items()]
        words += [f"border={known['border']}"] if "border" in known else []
        photograph = "; border=inside is that of a photograph" * ("border" in known)
        return Remarks((f"assumed {', '.join(words)}: operator-arg sets others{photograph}",)) if words else Remarks()

    def _method_for(self, measurement: Measurement) -> tuple[ZeroShotScheduler, dict[str, float | None], Remarks]:
        """The method for one picture, with its etas: where it was chosen for the task, wide holes have another one."""
        draws = self.automatic and isinstance(self.chosen, METHODS[SAMPLER])
        plain = {"method_args", "eta", "eta_b"}.isdisjoint(self.settings)
        if draws and plain and isinstance(measurement.operator, LinearOperator) and measurement.operator.iterates:
            drawing = METHODS[WITHOUT_SVD].from_config(self.chosen.config)
            return drawing, {}, Remarks((f"drawn by {WITHOUT_SVD}, which needs no SVD",))
        may = self.automatic and not self.method_args and isinstance(self.chosen, METHODS[ESTIMATOR])
        may = may and isinstance(measurement.operator, SVDOperator)  # which DDRM needs
        if not may or not has_wide_holes(measurement):
            return self.chosen, self.etas, Remarks()
        sampler = METHODS[SAMPLER].from_config(self.chosen.config)
        return sampler, {"eta": 1.0 if self.sigma_y is None else None}, Remarks((f"wide holes, filled by {SAMPLER}",))

    def _of_steps(self, scheduler: ZeroShotScheduler, measurement: Measurement) -> Remarks:
        """What becomes of a number of steps that was given, where that isn't what one would expect."""
        if self.steps == 1 and scheduler.space(1) == [0]:
            return Remarks(warnings=(_ONE_STEP,))
        alone = isinstance(scheduler, DPIRScheduler) and measures_all(measurement.operator)
        if alone and (self.steps or 1) > 1 and one_level(*dpir_levels(measurement)):
            return Remarks((f"in one step, as all that {ESTIMATOR} needs for noise alone",))
        return Remarks()

    def _noise(
        self, picture: Picture, y: Tensor, mask: Tensor | None, operator: Operator, of_picture: bool
    ) -> tuple[float, Remarks]:
        """The standard deviation of the noise in y, and where it comes from."""
        if self.sigma_y is None:
            sigma_y = self._file_noise(picture, operator)
            # A denoiser that is told of no noise leaves a picture as it is.
            more = "; sigma_y estimate finds what the picture has" * (self.task == "denoise" and of_picture)
            if sigma_y > rounding_noise(picture.bits):
                told = f"what JPEG took counts as noise of {127.5 * sigma_y:.1f} of 255 grey levels{more}"
                return sigma_y, Remarks((told,))
            return sigma_y, Remarks((f"only rounding noise, as no sigma_y is given{more}",) if more else ())
        if self.sigma_y != ESTIMATE:
            sigma_y = float(self.sigma_y)
            if of_picture:
                check_noise_of_picture(sigma_y)
            rounding = rounding_noise(picture.bits)
            if sigma_y < rounding and makes_louder(operator):
                told = f"{picture.bits} bits are rounded, by {rounding:.2g}, which undoing this damage makes louder"
                return sigma_y, Remarks(warnings=(f"has more noise than sigma_y {sigma_y:g}: {told}; leave it out",))
            return sigma_y, Remarks()
        if not is_picture(operator):
            raise InvalidInputError(f"sigma_y must be a number: a measurement for the task {self.task} is no picture")
        seen = estimate_noise(y, mask)
        sigma_y = max(seen, self._file_noise(picture, operator))
        return sigma_y, Remarks((f"noise {sigma_y:.3f}, {127.5 * sigma_y:.1f} of 255 grey levels",))

    def _file_noise(self, picture: Picture, operator: Operator) -> float:
        """The noise of rounding, or of JPEG, unless that is the task, or known pixels are to stay as they are."""
        noise = rounding_noise(picture.bits)
        if picture.jpeg is None or self.task in ("colorize", "jpeg") or isinstance(operator, Mask):
            return noise
        loss = jpeg_loss(picture.tensor, picture.jpeg)
        # In steps of 19 %, so that photographs of one camera can be restored together.
        return max(noise, 2 ** (round(4 * math.log2(loss)) / 4) if loss else 0.0)

    def _check_measurement(self, operator: Operator, of_picture: bool) -> None:
        _, height, width = operator.input_shape
        if height * width > self.max_pixels:
            raise ArgumentError(
                "the restored picture would have {0} x {1} pixels, more than {max_pixels} {2}",
                *(width, height, self.max_pixels),
            )
        if of_picture and not is_picture(operator):
            raise InvalidInputError(f"a measurement for the task {self.task} is no picture; a .npy file is expected")


def memory_beside(operator: Operator) -> int:
    """Bytes for each pixel that restoring from measurements of an operator takes beside the network."""
    if isinstance(operator, (Identity, Mask, DisjointRows)):
        return MEMORY
    _, height, width = operator.input_shape
    tables = BYTES_OF_TABLES * (height**2 + width**2) // (height * width) if isinstance(operator, Separable) else 0
    return MEMORY_OF_TRANSFORMS + tables


def seconds_beside(operator: Operator, device: torch.device) -> float:
    """About how long it takes to make an estimate agree with a measurement: as A and A^T, or all steps of an iteration.

    Args:
        operator: A.
        device: on which it is done.
    """
    if not isinstance(operator, LinearOperator):
        return 0.0
    x = torch.zeros(1, *operator.input_shape, device=device)
    float(x.sum())  # waits for what the device does
    began = time.perf_counter()
    float(operator.adjoint(operator.forward(x)).sum())
    return (time.perf_counter() - began) * (ROUGH_STEPS if operator.iterates else 1)


def has_wide_holes(measurement: Measurement) -> bool:
    """Whether what is missing has to be drawn, and can't be estimated."""
    return hole_radius(measurement.operator, measurement.y) > _WIDE


def makes_louder(operator: Operator) -> bool:
    """Whether noise can become more than ten times as loud where a picture is found that fits a measurement exactly."""
    if not isinstance(operator, SVDOperator):
        return isinstance(operator, LinearOperator)
    s = operator.singular_values.values
    return bool(s.max() > 10 * s[s > 0].min())


def automatic_method(task: str, *, draws: bool = False) -> str:
    """The method that suits a task best: by PSNR, of those that keep the data (benchmarks/results/methods.md).

    Where most of a picture is open, as its colours are, it is one that draws, since the mean of all that it may be is
    grey.

    Args:
        task: by name.
        draws: whether it has to draw samples.
    """
    return _AUTO.get(task, SAMPLER if draws else ESTIMATOR)


def rounding_noise(bits: int) -> float:
    """The standard deviation of a rounding error, step / sqrt(12), in [-1, 1] units; floats (32) are not rounded."""
    return 0.0 if bits == 32 else 2 / (2**bits - 1) / math.sqrt(12)


def _grey(y: Tensor) -> Tensor:
    """The one channel of a grey picture, which may be stored as RGB."""
    if bool((y != y[:, :1]).any()):
        raise InvalidInputError(
            "the picture has colours, or a tint such as sepia; the task colorize expects a grey one: turn it grey "
            "in an image editor first"
        )
    return y[:, :1]
