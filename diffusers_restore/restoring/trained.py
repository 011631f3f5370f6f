"""Restoring with pipelines that were trained for one kind of damage."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import InvalidInputError, check_bool, check_int, one_line
from ..images import Picture
from .arguments import ArgumentError, check
from .kinds import COLD, MAX_SEED, RDDM
from .loading import load_pipeline
from .measuring import load_files
from .restorer import Draw, Restorer


class ColdRestorer(Restorer):
    """A `ColdDiffusionPipeline`.

    Args:
        steps: network evaluations; None is one for each severity.
        start: how severe the damage is; None is the largest severity.
        direct: take the network's first estimate only.
        max_pixels: of a picture.

    Raises:
        ArgumentError: `steps` with `direct`, which is one evaluation.
    """

    def __init__(
        self,
        steps: int | None = None,
        start: int | None = None,
        direct: bool = False,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__(max_pixels)
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

    def prepare(self, picture: Picture, of_picture: bool) -> Draw:
        """As `Restorer.prepare`."""
        options = {"start": self.start, "num_inference_steps": self.steps, "direct": self.direct}
        return lambda i: self.pipe(picture.tensor, **options, output_type="latent", return_dict=False)[0]


class RDDMRestorer(Restorer):
    """An `RDDMPipeline`.

    Args:
        steps: network evaluations; None is 5, or T if that is less.
        mask: file of a black and white picture for a network that takes one: white is damaged.
        seed: of the noise.
        max_pixels: of a picture and of the mask.
    """

    def __init__(
        self,
        steps: int | None = None,
        mask: Path | None = None,
        seed: int = 0,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__(max_pixels)
        self.steps = None if steps is None else check("steps", check_int, steps, 1)
        self.seed = check("seed", check_int, seed, 0, MAX_SEED)
        self.mask = load_files(mask, None, self.max_pixels).get("mask")

    def load(self, model: str, device: str, dtype: str) -> None:
        """As `Restorer.load`."""
        self.pipe = load_pipeline(RDDM, model, device, dtype)
        if self.steps is None:
            self.steps = min(5, len(self.pipe.scheduler))
        check_steps(self.pipe, self.steps)
        if self.pipe.inputs.masked and self.mask is None:
            raise ArgumentError("{mask} is needed: this model is shown where the picture is damaged, as white")
        if self.mask is not None and not self.pipe.inputs.masked:
            raise ArgumentError("{mask}: this model takes none")

    def prepare(self, picture: Picture, of_picture: bool) -> Draw:
        """As `Restorer.prepare`."""
        options = {"mask": self.mask, "num_inference_steps": self.steps, "output_type": "latent", "return_dict": False}

        def draw(i: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(self.seed + i)  # on the CPU: the same noise on every device
            restored: torch.Tensor = self.pipe(picture.tensor, generator=generator, **options)[0]
            return restored

        return draw


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
