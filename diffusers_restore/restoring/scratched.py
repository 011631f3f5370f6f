"""Restoring old photographs with what is bundled: a detector, the prior, and one of two restorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .. import DEFAULT_DETECTOR, DEFAULT_OLD_PHOTO_RESTORER, DEFAULT_PRIOR, DEFAULT_RESTORER, operators
from ..errors import check_bool, check_int
from ..images import Picture
from ..operators import Measurement
from ..pipelines.pipeline_scratch_detection import find_scratches
from ..registries import METHODS
from .arguments import ArgumentError, check
from .blind import settled
from .draws import Draw
from .jobs import Job, PathInput, Remarks
from .kinds import DETECTOR, MAX_SEED, PRIOR, RDDM
from .loading import load_pipeline
from .masks import Masks
from .memory import enough_memory
from .restorer import Restorer
from .scales import coarse_to_fine
from .trained import MEMORY, taken_for_scratches
from .watching import watched
from .zero_shot import ESTIMATOR, SAMPLER, has_wide_holes, rounding_noise
from .zero_shot import MEMORY as MEMORY_OF_PRIOR

AUTO, FIND = "auto", "find"

GROWN = 1
"""By how many pixels what is found grows to all sides: the rims of scratches (benchmarks/results/old_photos.md)."""

_WIDE = 1 / 50
"""Half the width, over a photograph's shorter side, of what is too wide for a scratch: white clothes, or a tear."""

_LEAST = 0.001
"""A share of a photograph that is worth a word."""

_ALL = 0.9
"""A share of a photograph above which what is found is wrong."""

_MANY = 0.05
"""A share of a photograph that is rarely scratches alone."""


def grown(mask: Tensor, pixels: int) -> Tensor:
    """A mask (B, 1, H, W) of 0 and 1, grown by so many pixels to all sides."""
    return _largest(functional.pad(mask, (pixels,) * 4), pixels)


def _largest(x: Tensor, pixels: int) -> Tensor:
    """The largest value in squares of 2 `pixels` + 1, within the picture: by columns, then by rows."""
    side = 2 * pixels + 1
    return functional.max_pool2d(functional.max_pool2d(x, (side, 1), 1), (1, side), 1)


def opened(mask: Tensor, pixels: int) -> Tensor:
    """What squares of 2 `pixels` + 1 cover that lie in a mask (B, 1, H, W) of 0 and 1, and in the picture."""
    around = functional.pad(1 - mask, (pixels,) * 4, value=1.0)
    return grown(1 - _largest(around, pixels), pixels)


class ScratchRestorer(Restorer):
    """Old photographs: a detector finds scratches, the prior fills them in, a restorer does the rest.

    Args:
        scratches: "auto" restores; "find" makes a mask of what would be filled in, black, which can be corrected; None
            looks for none.
        faded: whether the restorer is that of old photographs, which undoes fading, yellowing and sepia, too.
        mask: file of a black and white picture, in place of what the detector finds: white is undamaged; or a folder
            with one for each picture.
        invert_mask: white is damaged.
        mask_threshold: what counts as white, in 0..1; None is the middle.
        seed: of what fills wide holes.
        steps: None; how many each network takes is its own.
        strength: how much of the restorer's change is made; what was filled in stays so.
        max_pixels, quality, tile: as of `Restorer`.

    Raises:
        ArgumentError: steps, or a mask, a strength or `faded` for "find".
    """

    def __init__(
        self,
        scratches: str | None = None,
        faded: bool = False,
        mask: PathInput | None = None,
        invert_mask: bool = False,
        mask_threshold: float | None = None,
        seed: int = 0,
        steps: int | None = None,
        max_pixels: int | None = None,
        strength: float | None = None,
        quality: int | None = None,
        tile: int | str = "auto",
    ) -> None:
        super().__init__(max_pixels, strength, quality, tile)
        if scratches not in (None, AUTO, FIND):
            raise ArgumentError("{scratches} must be 'auto' or 'find', got {0!r:.99}", scratches)
        self.faded = check("faded", check_bool, faded)
        if steps is not None:
            name = "{scratches}" if scratches else "{faded}"
            raise ArgumentError(f"{{steps}} has no meaning with {name}: each network takes its own number")
        self.seed = check("seed", check_int, seed, 0, MAX_SEED)
        self.masks = Masks(mask, invert_mask, mask_threshold, self.max_pixels)
        self.finds = scratches is not None and not self.masks
        self.makes_masks = scratches == FIND
        if self.makes_masks and (self.masks or faded or strength is not None):
            name = "{mask}" if self.masks else "{faded}" if faded else "{strength}"
            raise ArgumentError(f"{name} has no meaning where {{scratches}} is find, which makes a mask")

    def load(self, model: str, device: str, dtype: str) -> None:
        """As `Restorer.load`."""
        if self.finds:
            # Its variances don't fit into float16; it is small.
            self.detector = load_pipeline(DETECTOR, DEFAULT_DETECTOR, device, "float32")
        if self.makes_masks:
            self.pipe = self.detector
            return
        if self.finds or self.masks:
            self.prior = load_pipeline(PRIOR, DEFAULT_PRIOR, device, dtype)
        restorer = DEFAULT_OLD_PHOTO_RESTORER if self.faded else DEFAULT_RESTORER
        self.pipe = load_pipeline(RDDM, restorer, device, dtype)

    @property
    def network(self) -> Any:
        """As `Restorer.network`."""
        return self.pipe.detector if self.makes_masks else self.pipe.unet

    @property
    def pipes(self) -> Sequence[Any]:
        """As `Restorer.pipes`."""
        if self.makes_masks:
            return [self.detector]
        prior = [self.prior] if self.finds or self.masks else []
        return [*([self.detector] if self.finds else []), *prior, self.pipe]

    @property
    def description(self) -> str:
        """As `Restorer.description`."""
        filled = ", after scratches were found and filled in" if self.finds else ", after what is masked was filled in"
        return super().description + (filled if (self.finds or self.masks) and not self.makes_masks else "")

    def prepare(self, picture: Picture, job: Job) -> tuple[Draw, Remarks]:
        """As `Restorer.prepare`."""
        y = picture.tensor
        damaged, remarks = self._missing(y, job)
        if self.makes_masks:
            mask = torch.ones(1, 1, *y.shape[2:]) if damaged is None else 1 - 2 * damaged
            return Draw(lambda inputs, number: mask, {}), remarks
        if damaged is not None:
            steps = METHODS[ESTIMATOR].from_config(self.prior.scheduler.config).default_count
            self._make_room(self.prior, job, y.shape, MEMORY_OF_PRIOR, steps)
        remarks += self._make_room(self.pipe, job, y.shape, MEMORY, 1)

        def work(inputs: Mapping[str, Tensor], number: int) -> Tensor:
            whole = y if damaged is None else self._fill(y, damaged)
            options: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent", "return_dict": False}

            def restored(x: Tensor) -> Tensor:
                made: Tensor = self.pipe(x, generator=torch.Generator().manual_seed(self.seed), **options)[0]
                return made

            made = coarse_to_fine(restored, whole) if self.faded else settled(restored(whole), whole)[0]
            # Half of the change leaves no scratch half filled in.
            return made if self.strength == 1 else torch.lerp(whole.to(made), made, self.strength)

        return Draw(work, {}), remarks

    def settle(self, restored: Tensor, given: Tensor) -> tuple[Tensor, Remarks]:
        """The restored picture: its strength is that of the change after scratches were filled in."""
        return restored, Remarks()

    def _missing(self, y: Tensor, job: Job) -> tuple[Tensor | None, Remarks]:
        """Where to fill in, 1, (1, 1, H, W), None if nowhere; and what to say of it."""
        if self.masks:
            known, remarks = self.masks.of(job, y)
            damaged, fills = 1 - known[None, None], bool((known < 1).any())
        elif self.finds:
            with enough_memory(
                "not enough memory for {0}x{1} pixels; take a smaller picture, or another {device}",
                y.shape[-1],
                y.shape[-2],
            ):
                damaged, wide = self._find(y)
            share = float(damaged.mean())
            fills, remarks = 0 < share <= _ALL, _remarks(share, wide, filled=not self.makes_masks)
        else:
            return None, Remarks()
        return damaged if fills else None, remarks

    def _find(self, y: Tensor) -> tuple[Tensor, float]:
        """Where a picture is scratched, 1, (1, 1, H, W), on the CPU; and the share of what is too wide."""
        config = self.detector.config
        pictures = y.to(self.detector.device)
        found = find_scratches("detector", self.detector.detector, pictures, config.detection_size)
        damaged = (found >= config.threshold).float().cpu()
        wide = damaged * grown(opened(damaged, half := max(2, round(_WIDE * min(y.shape[2:])))), half)
        return grown(damaged - wide, GROWN), float(wide.mean())

    def _fill(self, y: Tensor, damaged: Tensor) -> Tensor:
        """The picture with what is damaged filled in, and all else as it is."""
        channels, height, width = y.shape[1:]
        operator = operators.create("inpaint", measurement_shape=(channels, height, width), mask=1 - damaged[0, 0])
        sigma_y = rounding_noise(8)
        wide = has_wide_holes(Measurement(y, operator, sigma_y))
        self.prior.scheduler = METHODS[SAMPLER if wide else ESTIMATOR].from_config(self.prior.scheduler.config)
        self.prior.set_progress_bar_config(**self.pipe._progress_bar_config)
        filled: Tensor = self.prior(
            y,
            operator=operator,
            sigma_y=sigma_y,
            eta=1.0 if wide else None,
            generator=torch.Generator().manual_seed(self.seed),  # on the CPU: the same noise on every device
            output_type="latent",
            return_dict=False,
            **watched(self.watch, 0, y.shape),
        )[0]
        return torch.where(damaged.bool(), filled, y)


def _remarks(share: float, wide: float, *, filled: bool) -> Remarks:
    """What to say of the share of a picture that was taken for scratches, and of what is too wide.

    Args:
        share: of the picture.
        wide: of the picture, too.
        filled: whether it is filled in; else a mask of it is made.
    """
    remarks = taken_for_scratches(share, filled=filled)
    if filled and share > _MANY:
        remarks += Remarks(("look at what: scratches find makes a mask of it",))
    if share > _ALL:
        nothing = "nothing was filled in" if filled else "the mask is white"
        remarks = Remarks(warnings=(f"{remarks.notes[0]}, which can't be right: {nothing}",))
    if wide > _LEAST:
        text = f"{wide:.1%} looks damaged but is wider than a scratch, and was left; a mask that you paint fills it in"
        remarks += Remarks((text,))
    return remarks
