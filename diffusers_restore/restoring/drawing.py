"""Generates new pictures with a model, to see what a prior has learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .. import images
from ..errors import one_line
from ..pipelines.canvas import size_multiple
from ..pipelines.common import Network, is_score_network
from .arguments import ArgumentError, ModelError
from .kinds import OLD_PHOTO, PIX2PIX, PRIOR, RDDM, Kind
from .loading import check_class_label, load_pipeline
from .memory import enough_memory
from .progress import bar_options
from .trained import check_steps

Generators = list[torch.Generator]
Draw = Callable[[Generators, Callable[[int], object]], Tensor]
"""(a generator for each picture, a callback for the number of evaluations made) -> the pictures (B, C, H, W)."""


class Drawer:
    """A model that generates pictures.

    Args:
        kind: of the model.
        sampler: "ddim" or "ddpm", for a prior.
        steps: network evaluations for each picture; None is 50, one for each severity, or 10.
        size: (width, height) for a prior; None is its own.
        class_label: for a class-conditional prior.
        seed: of the first picture; each further picture has the next.
        batch_size: pictures at once; None is 1 on a CPU, where it changes how sums are rounded, else 16.
    """

    def __init__(
        self,
        kind: Kind,
        sampler: str = "ddim",
        steps: int | None = None,
        size: tuple[int, int] | None = None,
        class_label: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.kind, self.sampler, self.steps, self.size = kind, sampler, steps, size
        self.class_label, self.seed, self.batch_size = class_label, seed, batch_size
        self.pipe: Any = None

    def load(self, model: str, device: str = "auto", dtype: str = "auto") -> None:
        """Load the model, and check that it can draw with these options.

        Raises:
            ArgumentError: it can't.
            ModelError: it can't be loaded, or can't generate.
        """
        self.pipe = load_pipeline(self.kind, model, device, dtype)
        make = _prior_draw if self.kind is PRIOR else _trained_draw
        self._draw, self._evaluations = make(self, model)

    def draw(self, number: int, targets: Sequence[Path], name: str, *, grid: bool) -> tuple[int, int]:
        """Draw pictures into one file, as a grid, or into a file each; their (width, height).

        Args:
            number: of pictures.
            targets: one file for a grid, else as many.
            name: in the progress bar.
            grid: whether they are side by side in one file.

        Raises:
            InvalidInputError: a file can't hold them.
            OSError: a file can't be written.
            ModelError: the memory is too small.
        """
        generators = [torch.Generator().manual_seed(self.seed + i) for i in range(number)]  # on the CPU
        batch = self.batch_size or (1 if self.pipe.device.type == "cpu" else 16)
        self.pipe.set_progress_bar_config(**bar_options(name, quiet=False))
        drawn = []
        with self.pipe.progress_bar(total=number * self._evaluations) as progress:
            for first in range(0, number, batch):
                part = slice(first, first + batch)
                with enough_memory("the memory is too small; try a smaller {batch_size} or {size}"):
                    pictures = self._draw(generators[part], progress.update).cpu()
                height, width = pictures.shape[2:]
                if grid:
                    drawn.append(pictures)
                    continue
                for picture, target in zip(pictures, targets[part], strict=True):
                    images.save(picture, target)
        if grid:
            images.save(images.grid(torch.cat(drawn)), targets[0])
        return width, height


def _trained_draw(drawer: Drawer, model: str) -> tuple[Draw, int]:
    """A function that draws pictures with a trained pipeline, and its network evaluations for each."""
    pipe, steps = drawer.pipe, drawer.steps
    if drawer.kind is RDDM:
        able = not pipe.inputs.conditioned and pipe.config.generates is not False
        why = "it restores a picture that it is shown; `restore --model` does that"
        steps = min(10, len(pipe.scheduler)) if steps is None else steps
    elif drawer.kind in (PIX2PIX, OLD_PHOTO):
        able, why = False, "it makes pictures of those that it is shown; `restore --model` does that"
    else:
        able = pipe.prior is not None or pipe.scheduler.degradation.forgets
        why = "it was trained without --prior_components"
    if not able:
        raise ModelError("{model} can't generate: {0}", why)
    check_steps(pipe, steps)

    def draw(generators: Generators, progress: Callable[[int], object]) -> Tensor:
        def count(*_: object) -> None:
            progress(len(generators))

        pipe.set_progress_bar_config(disable=True)  # the bar of the whole command is enough
        drawn: Tensor = pipe(
            batch_size=len(generators),
            num_inference_steps=steps,
            generator=generators,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=count,
        )[0]
        return drawn

    return draw, len(pipe.scheduler.timesteps)


def _prior_draw(drawer: Drawer, model: str) -> tuple[Draw, int]:
    """The same for a DDPM."""
    pipe, steps = drawer.pipe, 50 if drawer.steps is None else drawer.steps
    label = check_class_label(pipe, drawer.class_label)
    width, height = _size(pipe, drawer.size)
    scheduler = _stock_scheduler(model, pipe, drawer.sampler)
    check_steps(pipe, steps)
    scheduler.set_timesteps(steps)

    def draw(generators: Generators, progress: Callable[[int], object]) -> Tensor:
        return sample(pipe.unet, scheduler, generators, (height, width), progress, label)

    return draw, len(scheduler.timesteps)


def _stock_scheduler(model: str, pipe: Any, sampler: str) -> DDIMScheduler | DDPMScheduler:
    """The repository's scheduler as one of diffusers' own, after checking that the network can draw with it."""
    config = pipe.unet.config
    if config.in_channels not in (1, 3):
        raise ModelError("{model} {0!r} draws {1} channels; a picture has 1 or 3", model, config.in_channels)
    if is_score_network(pipe.unet):
        raise ModelError(
            "{model} {0!r} is a score network of a VE process, which no sampler here draws with; "
            "diffusers.ScoreSdeVePipeline does, and `restore --model` restores with it",
            model,
        )
    cls = DDIMScheduler if sampler == "ddim" else DDPMScheduler
    try:
        scheduler = cls.from_config(pipe.scheduler.config)  # it has kept the options that DDRM doesn't use
    except NotImplementedError as error:  # a beta_schedule that only DDPMScheduler knows
        raise ModelError("{model} {0!r} cannot be sampled by {1}: {2}", model, sampler, one_line(error)) from error
    if _learned_variance(scheduler) and config.out_channels == config.in_channels:
        raise ModelError(
            "{model} {0!r}: its scheduler has variance_type={1!r}, which the network does not predict; use {sampler} "
            "ddim",
            *(model, scheduler.variance_type),
        )
    return scheduler


def _learned_variance(scheduler: DDIMScheduler | DDPMScheduler) -> bool:
    return isinstance(scheduler, DDPMScheduler) and scheduler.variance_type in ("learned", "learned_range")


def _size(pipe: Any, size: tuple[int, int] | None) -> tuple[int, int]:
    """(width, height): the requested size, or the network's own."""
    if size is None:
        own = pipe.unet.config.sample_size
        if own is None:
            raise ArgumentError("{model} does not say for which size it is made; give {size}")
        size = (own, own) if isinstance(own, int) else (own[1], own[0])
    multiple = size_multiple(pipe.unet)
    if any(side % multiple for side in size):
        below = "x".join(str(max(1, side // multiple) * multiple) for side in size)
        above = "x".join(str(-(-side // multiple) * multiple) for side in size)
        next_ones = above if above == below else f"{below} and {above}"
        raise ArgumentError(
            "{size}: the network takes multiples of {0}, got {1}x{2}; next to it: {3}", multiple, *size, next_ones
        )
    return size


def sample(
    unet: Network,
    scheduler: DDIMScheduler | DDPMScheduler,
    generators: Generators,
    size: tuple[int, int],
    progress: Callable[[int], object],
    class_label: int | None = None,
) -> Tensor:
    """Pictures (B, C, *size), one for each generator: the loop of DDIMPipeline and DDPMPipeline.

    Those pipelines are not called because they support one size only, keep the state in the network's dtype, and
    DDIM fails on a network with a learned variance.
    """
    channels = unet.config.in_channels
    outputs = 2 * channels if _learned_variance(scheduler) else channels
    shape = (len(generators), channels, *size)
    x: Tensor = randn_tensor(shape, generator=generators, device=unet.device, dtype=torch.float32)
    labels = None if class_label is None else torch.full((len(x),), class_label, device=x.device)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = unet(x.to(unet.dtype), t, class_labels=labels).sample[:, :outputs].float()
            x = scheduler.step(output, t, x, generator=generators).prev_sample
            progress(len(x))
    return x
