"""Restoring scratched photographs with what is bundled: a detector, the prior, and the restorer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .. import DEFAULT_DETECTOR, DEFAULT_PRIOR, DEFAULT_RESTORER, operators
from ..errors import check_int
from ..images import Picture
from ..operators import Measurement
from ..pipelines.pipeline_scratch_detection import find_scratches
from ..registries import METHODS
from .arguments import ArgumentError, check
from .blind import examine
from .jobs import Job, Remarks
from .kinds import DETECTOR, MAX_SEED, PRIOR, RDDM
from .loading import load_pipeline
from .memory import check_memory, enough_memory
from .restorer import Draw, Restorer
from .trained import MEMORY
from .zero_shot import ESTIMATOR, SAMPLER, has_wide_holes, rounding_noise
from .zero_shot import MEMORY as MEMORY_OF_PRIOR

AUTO = "auto"

GROWN = 1
"""By how many pixels what is found grows to all sides: the rims of scratches (benchmarks/results/old_photos.md)."""

_WIDE = 1 / 50
"""Half the width, over a photograph's shorter side, of what is too wide for a scratch: white clothes, or a tear."""

_LEAST = 0.001
"""A share of a photograph that is worth a word."""

_MUCH, _ALL = 0.3, 0.9
"""Shares of a photograph above which what is found is doubtful, and wrong."""


def grown(mask: Tensor, pixels: int) -> Tensor:
    """A mask (B, 1, H, W) of 0 and 1, grown by so many pixels to all sides."""
    return functional.max_pool2d(mask, 2 * pixels + 1, 1, pixels)


def opened(mask: Tensor, pixels: int) -> Tensor:
    """What squares of 2 `pixels` + 1 cover that lie in a mask (B, 1, H, W) of 0 and 1, and in the picture."""
    around = functional.pad(1 - mask, (pixels,) * 4, value=1.0)
    return grown(1 - functional.max_pool2d(around, 2 * pixels + 1, 1), pixels)


class ScratchRestorer(Restorer):
    """Photographs with scratches: a detector finds them, the prior fills them in, the restorer does the rest.

    Args:
        scratches: "auto", which the detector finds.
        seed: of what fills wide holes.
        steps: None; how many each network takes is its own.
        max_pixels, strength, quality: as of `Restorer`.

    Raises:
        ArgumentError: steps, or something else than "auto".
    """

    def __init__(
        self,
        scratches: str = AUTO,
        seed: int = 0,
        steps: int | None = None,
        max_pixels: int | None = None,
        strength: float | None = None,
        quality: int | None = None,
    ) -> None:
        super().__init__(max_pixels, strength, quality)
        if scratches != AUTO:
            raise ArgumentError("{scratches} must be 'auto', got {0!r:.99}", scratches)
        if steps is not None:
            raise ArgumentError("{steps} has no meaning with {scratches}, for which three networks run")
        self.seed = check("seed", check_int, seed, 0, MAX_SEED)

    def load(self, model: str, device: str, dtype: str) -> None:
        """As `Restorer.load`."""
        self.detector = load_pipeline(DETECTOR, DEFAULT_DETECTOR, device, dtype)
        self.prior = load_pipeline(PRIOR, DEFAULT_PRIOR, device, dtype)
        self.pipe = load_pipeline(RDDM, DEFAULT_RESTORER, device, dtype)

    @property
    def description(self) -> str:
        """As `Restorer.description`."""
        return f"{super().description}, after scratches were found and filled in"

    def prepare(self, picture: Picture, job: Job) -> tuple[Draw, Remarks]:
        """As `Restorer.prepare`."""
        y = picture.tensor
        for network, more in ((self.network, MEMORY), (self.prior.unet, MEMORY_OF_PRIOR)):
            check_memory(network, y.shape, more)
        size = (y.shape[-1], y.shape[-2])
        with enough_memory("not enough memory for {0}x{1} pixels; take a smaller picture, or another {device}", *size):
            damaged, wide = self._find(y)
        share = float(damaged.mean())
        found: tuple[str, ...] = (f"{share:.1%} taken for scratches" if share else "no scratches found",)
        if wide > _LEAST:
            found = (
                *found,
                f"{wide:.1%} is wider than a scratch, and left; if it is torn, the task inpaint fills it in",
            )
        if share > _ALL:
            remarks = Remarks(found[1:], (f"{found[0]}, which can't be right: nothing was filled in",))
        else:
            remarks = Remarks(found, ("much of it was filled in: compare it with the original",) * (share > _MUCH))

        def draw(i: int) -> Tensor:
            whole = self._fill(y, damaged) if 0 < share <= _ALL else y
            if examine(whole).clean:
                return whole
            options: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent", "return_dict": False}
            generator = torch.Generator().manual_seed(self.seed)
            restored: Tensor = self.pipe(whole, generator=generator, **options)[0]
            return restored

        return draw, remarks

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
        )[0]
        return torch.where(damaged.bool(), filled, y)
