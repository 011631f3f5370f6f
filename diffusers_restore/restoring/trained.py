"""Restoring with pipelines that were trained for one kind of damage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import DEFAULT_RESTORER
from ..errors import InvalidInputError, check_bool, check_int, one_line
from ..images import Picture
from ..pipelines.pipeline_scratch_detection import find_scratches
from .arguments import ArgumentError, check, check_samples
from .blind import of_noise, settled
from .draws import Draw, generators
from .jobs import Job, PathInput, Remarks
from .kinds import COLD, MAX_SEED, OLD_PHOTO, PIX2PIX, RDDM
from .loading import load_pipeline
from .masks import Masks
from .memory import check_memory, check_old_photo_memory, enough_memory
from .restorer import Restorer
from .watching import watched

MEMORY = 120
"""Bytes for each pixel beside the network (benchmarks/results/memory.md)."""

OLD_PHOTO_MEMORY = 200
"""The same of an `OldPhotoPipeline` (benchmarks/results/old_photos.md)."""

_MUCH = 0.3
"""A share of a photograph above which what is found is doubtful."""


class ColdRestorer(Restorer):
    """A `ColdDiffusionPipeline`.

    Args:
        steps: network evaluations; None is one for each severity.
        start: how severe the damage is; None is the largest severity.
        direct: take the network's first estimate only.
        max_pixels, strength, quality, tile: as of `Restorer`.

    Raises:
        ArgumentError: `steps` with `direct`, which is one evaluation.
    """

    def __init__(
        self,
        steps: int | None = None,
        start: int | None = None,
        direct: bool = False,
        max_pixels: int | None = None,
        strength: float | None = None,
        quality: int | None = None,
        tile: int | str = "auto",
    ) -> None:
        super().__init__(max_pixels, strength, quality, tile)
        self.steps = None if steps is None else check("steps", check_int, steps, 1)
        self.start = None if start is None else check("start", check_int, start, 1)
        self.direct = check("direct", check_bool, direct)
        if direct and steps is not None:
            raise ArgumentError("{steps} has no meaning with {direct}, which looks once")

    def load(self, model: str, device: str, dtype: str) -> None:
        """As `Restorer.load`."""
        self.pipe = load_pipeline(COLD, model, device, dtype)
        check_steps(self.pipe, self.steps, start=self.start)
        unknown = ", ".join(self.pipe.scheduler.degradation.state_shapes(1, 1, 1))
        if unknown and not self.direct:
            raise ArgumentError(
                "{direct} is needed: this model's degradation acts through what a picture doesn't tell ({0}); in "
                "Python, ColdDiffusionPipeline takes it as state",
                unknown,
            )

    def prepare(self, picture: Picture, job: Job) -> tuple[Draw, Remarks]:
        """As `Restorer.prepare`."""
        evaluations = 1 if self.direct else self.steps or self.start or len(self.pipe.scheduler)
        remarks = self._make_room(self.pipe, job, picture.tensor.shape, MEMORY, evaluations)
        options = {"start": self.start, "num_inference_steps": self.steps, "direct": self.direct}

        def work(inputs: Mapping[str, Tensor], number: int) -> Tensor:
            seen = watched(self.watch, number, picture.tensor.shape)
            restored: Tensor = self.pipe(**inputs, **options, **seen, output_type="latent", return_dict=False)[0]
            return restored

        return Draw(work, {"image": picture.tensor}, COLD), remarks


class RDDMRestorer(Restorer):
    """An `RDDMPipeline`; the bundled one leaves pictures that it would hardly change, unless a `strength` is given.

    Args:
        steps: network evaluations; None is 5, or T if that is less.
        mask: file of a black and white picture for a network that takes one: white is undamaged; or a folder with one
            for each picture. (`RDDMPipeline` itself takes 1 where a picture is damaged.)
        invert_mask: white is damaged.
        mask_threshold: what counts as white, in 0..1; None is the middle.
        seed: of the first sample's noise; each further sample has the next.
        samples: restorations of each picture.
        average: whether their mean is the result.
        max_pixels, strength, quality, tile: as of `Restorer`.

    Raises:
        ArgumentError: an average of one sample.
    """

    def __init__(
        self,
        steps: int | None = None,
        mask: PathInput | None = None,
        invert_mask: bool = False,
        mask_threshold: float | None = None,
        seed: int = 0,
        samples: int = 1,
        average: bool = False,
        max_pixels: int | None = None,
        strength: float | None = None,
        quality: int | None = None,
        tile: int | str = "auto",
    ) -> None:
        super().__init__(max_pixels, strength, quality, tile)
        self.steps = None if steps is None else check("steps", check_int, steps, 1)
        self.seed = check("seed", check_int, seed, 0, MAX_SEED)
        self.masks = Masks(mask, invert_mask, mask_threshold, self.max_pixels)
        self.samples, self.average = check_samples(samples, average)

    def load(self, model: str, device: str, dtype: str) -> None:
        """As `Restorer.load`."""
        self.pipe = load_pipeline(RDDM, model, device, dtype)
        if self.pipe.config.generates and not self.pipe.inputs.conditioned:
            raise ArgumentError(
                "{model} {0!r} makes pictures of noise, and restores none; `diffusers-restore sample` draws them", model
            )
        if self.samples > 1 and not bool(self.pipe.scheduler.noise_scales.any()):
            raise ArgumentError("{samples} must be 1 for this {model}, which has no noise: all would be the same")
        # A strength that was asked for is made whatever the picture looks like.
        self._settles = model == DEFAULT_RESTORER and self.settings.get("strength") is None
        if self.steps is None:
            self.steps = min(5, len(self.pipe.scheduler))
        check_steps(self.pipe, self.steps)
        if self.pipe.inputs.masked and not self.masks:
            raise ArgumentError("{mask} is needed: this model is shown where the picture is damaged, as black")
        if self.masks and not self.pipe.inputs.masked:
            raise ArgumentError("{mask}: this model takes none")

    def prepare(self, picture: Picture, job: Job) -> tuple[Draw, Remarks]:
        """As `Restorer.prepare`."""
        evaluations = (self.steps or 1) * (1 if self.pipe.unet_noise is None else 2)
        seen = self._make_room(self.pipe, job, picture.tensor.shape, MEMORY, evaluations)
        options: dict[str, Any] = {"num_inference_steps": self.steps, "output_type": "latent", "return_dict": False}
        remarks = of_noise(picture.tensor) if self._settles else Remarks()
        inputs = {"image": picture.tensor}
        if self.masks:
            known, remarks = self.masks.of(job, picture.tensor)
            inputs["mask"] = 1 - known[None, None]

        def work(inputs: Mapping[str, Tensor], number: int) -> Tensor:
            noise = generators(self.seed + number, inputs)
            looks = watched(self.watch, number, picture.tensor.shape)
            restored: Tensor = self.pipe(**inputs, generator=noise, **options, **looks)[0]
            return restored

        return Draw(work, inputs, RDDM), remarks + seen

    def settle(self, restored: Tensor, given: Tensor) -> tuple[Tensor, Remarks]:
        """As `Restorer.settle`."""
        return settled(restored, given) if self._settles else super().settle(restored, given)


class Pix2PixRestorer(Restorer):
    """A `Pix2PixPipeline`, which looks once.

    Args:
        steps: None; there is but one evaluation.
        seed: of the first sample's noise; each further sample has the next.
        samples: translations of each picture.
        average: whether their mean is the result.
        max_pixels, strength, quality: as of `Restorer`.

    Raises:
        ArgumentError: steps, or an average of one sample.
    """

    def __init__(
        self,
        steps: int | None = None,
        seed: int = 0,
        samples: int = 1,
        average: bool = False,
        max_pixels: int | None = None,
        strength: float | None = None,
        quality: int | None = None,
    ) -> None:
        super().__init__(max_pixels, strength, quality)
        if steps not in (None, 1):
            raise ArgumentError("{steps}: this {model} is a Pix2PixPipeline, which takes no steps")
        self.seed = check("seed", check_int, seed, 0, MAX_SEED)
        self.samples, self.average = check_samples(samples, average)

    @property
    def network(self) -> Any:
        """As `Restorer.network`."""
        return self.pipe.generator

    def load(self, model: str, device: str, dtype: str) -> None:
        """As `Restorer.load`."""
        self.pipe = load_pipeline(PIX2PIX, model, device, dtype)
        if self.samples > 1 and not self.network.config.dropout:
            raise ArgumentError("{samples} must be 1 for this {model}, which has no noise: all would be the same")

    def prepare(self, picture: Picture, job: Job) -> tuple[Draw, Remarks]:
        """As `Restorer.prepare`."""
        check_memory(self.network, picture.tensor.shape, MEMORY)

        def work(inputs: Mapping[str, Tensor], number: int) -> Tensor:
            options: dict[str, Any] = {"output_type": "latent", "return_dict": False}
            translated: Tensor = self.pipe(**inputs, generator=generators(self.seed + number, inputs), **options)[0]
            return translated

        return Draw(work, {"image": picture.tensor}, PIX2PIX), Remarks()


class OldPhotoRestorer(Restorer):
    """An `OldPhotoPipeline`, which looks once; of what is scratched, it asks its detector unless there is a mask.

    Args:
        steps: None; there is but one evaluation.
        mask: file of a black and white picture for networks that take one: white is undamaged; or a folder with one for
            each picture. (`OldPhotoPipeline` itself takes 1 where a picture is damaged.)
        invert_mask: white is damaged.
        mask_threshold: what counts as white, in 0..1; None is the middle.
        max_pixels, strength, quality: as of `Restorer`.

    Raises:
        ArgumentError: steps.
    """

    def __init__(
        self,
        steps: int | None = None,
        mask: PathInput | None = None,
        invert_mask: bool = False,
        mask_threshold: float | None = None,
        max_pixels: int | None = None,
        strength: float | None = None,
        quality: int | None = None,
    ) -> None:
        super().__init__(max_pixels, strength, quality)
        if steps not in (None, 1):
            raise ArgumentError("{steps}: this {model} is an OldPhotoPipeline, which looks once")
        self.masks = Masks(mask, invert_mask, mask_threshold, self.max_pixels)

    @property
    def network(self) -> Any:
        """The mapping, the largest of its networks."""
        return self.pipe.mapping

    @property
    def description(self) -> str:
        """As `Restorer.description`, of all its networks."""
        parts = (part for part in self.pipe.components.values() if part is not None)
        count = sum(one.numel() for part in parts for one in part.parameters()) / 1e6
        where = f"{self.network.dtype} on {self.pipe.device}".removeprefix("torch.")
        return f"OldPhotoPipeline with {count:.1f} million parameters, {where}"

    def load(self, model: str, device: str, dtype: str) -> None:
        """As `Restorer.load`."""
        self.pipe = load_pipeline(OLD_PHOTO, model, device, dtype)
        if self.masks and not self.network.takes_mask:
            raise ArgumentError("{mask}: this model takes none")
        if self.network.takes_mask and not self.masks and self.pipe.scratch_detector is None:
            raise ArgumentError(
                "{mask} is needed: this model is shown where the picture is damaged, as black, and has no detector"
            )

    def prepare(self, picture: Picture, job: Job) -> tuple[Draw, Remarks]:
        """As `Restorer.prepare`."""
        detects = self.network.takes_mask and not self.masks
        check_old_photo_memory(self.pipe, picture.tensor.shape, OLD_PHOTO_MEMORY, detects=detects)
        inputs, remarks = {"image": picture.tensor}, Remarks()
        if self.masks:
            known, remarks = self.masks.of(job, picture.tensor)
            inputs["mask"] = 1 - known[None, None]
        elif detects:
            pixels = (picture.tensor.shape[-1], picture.tensor.shape[-2])
            with enough_memory(
                "not enough memory for {0}x{1} pixels; take a smaller picture, or another {device}", *pixels
            ):
                pictures = picture.tensor.to(self.pipe.device)
                detector, size = self.pipe.scratch_detector, self.pipe.config.detection_size
                found = find_scratches("scratch_detector", detector, pictures, size)
            inputs["mask"] = (found >= self.pipe.config.threshold).float()
            remarks = taken_for_scratches(float(inputs["mask"].mean()))

        def work(inputs: Mapping[str, Tensor], number: int) -> Tensor:
            restored: Tensor = self.pipe(**inputs, output_type="latent", return_dict=False)[0]
            return restored

        return Draw(work, inputs, OLD_PHOTO), remarks


def taken_for_scratches(share: float, *, filled: bool = True) -> Remarks:
    """What to say of the share of a photograph that was taken for scratches, and filled in."""
    much = ("much of it was filled in: compare it with the original",) * (filled and share > _MUCH)
    return Remarks((f"{share:.1%} taken for scratches" if share else "no scratches found",), much)


def check_steps(pipe: object, steps: int | None, **start: int | None) -> None:
    """Refuse numbers that the pipeline's scheduler can't set, before a picture is read.

    Raises:
        ArgumentError: with the scheduler's reason.
    """
    try:
        pipe.scheduler.set_timesteps(steps, **start)  # type: ignore[attr-defined]
    except InvalidInputError as error:
        message = one_line(error).replace("{", "{{").replace("}", "}}")
        message = message.replace("num_inference_steps", "{steps}").replace("start must", "{start} must")
        raise ArgumentError(message) from error
