"""Restoration with a pretrained unconditional network by DDRM (arXiv:2201.11793)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from .. import images
from ..errors import InvalidInputError, check_int, check_real
from ..hub.cards import CardText
from ..hub.saving import HubMixin
from ..operators import Operator
from ..schedulers.prediction import shift_epsilon
from ..schedulers.scheduling_ddrm import DDRMScheduler
from ..schedulers.zero_shot import ZeroShotScheduler
from .canvas import OutputType, check_channels, check_output_type, to_output
from .chain import Callback, Watch, check_callback, own_scheduler, run_chain
from .common import Network, check_evaluates
from .tiles import TilingMixin
from .zero_shot import (
    Chain,
    MeasuredCanvas,
    check_unet,
    draw_noise,
    longest,
    split_measurement,
    step_options,
    zero_shot_scheduler,
)

Classifier = Callable[[Tensor, Tensor], Tensor]

_CARD = CardText(
    "A diffusion prior that restores pictures without training for their damage, by DDRM (arXiv:2201.11793): you say "
    "what was done to them (made smaller, blurred, drained of colour, covered by a mask, drowned in noise).",
    """\
from PIL import Image
from diffusers_restore import DDRMPipeline

pipe = DDRMPipeline.from_pretrained("{repo_id}")
restored = pipe(Image.open("photo.png"), operator="denoise", sigma_y=0.1).images[0]""",
    ("image-to-image", "image-restoration", "ddrm"),
)


class DDRMPipeline(TilingMixin, HubMixin, DiffusionPipeline):
    """Zero-shot restoration of linearly degraded pictures: y = A x + sigma_y z, restored by a diffusion prior of x.

    Any unconditional or class-conditional `UNet2DModel` or `ResidualUNet2DModel` of a DDPM is a prior; repositories
    with a DDPM, DDIM or PNDM scheduler load directly, and a converted copy of the scheduler is used. Pictures may have
    any size. Several threads may call one pipeline at once.

    Args:
        unet: predicts epsilon, x0 or v; a learned variance is ignored. Or the score network of a VE process, with a
            `ScoreSdeVeScheduler`.
        scheduler: a `DDRMScheduler`, or any scheduler of a variance-preserving process, which becomes one; or another
            zero-shot method, a `ZeroShotScheduler`.

    Raises:
        InvalidInputError: a scheduler and a network of different processes, or of one that is not known.

    Examples:
        >>> from PIL import Image
        >>> from diffusers_restore import DEFAULT_PRIOR, DDRMPipeline
        >>> pipe = DDRMPipeline.from_pretrained(DEFAULT_PRIOR)
        >>> restored = pipe(Image.new("RGB", (16, 16), "green"), operator="sr4", sigma_y=0.01).images[0]
        >>> restored.size
        (64, 64)
    """

    scheduler_name = "DDRMScheduler"
    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents", "sample", "pred_original_sample"]

    def __init__(self, unet: Network, scheduler: SchedulerMixin) -> None:
        super().__init__()
        check_unet(unet)
        self.register_modules(unet=unet, scheduler=zero_shot_scheduler(scheduler, unet))
        self._num_timesteps = self._num_evaluations = 0

    @property
    def card_text(self) -> CardText:
        """What a new model card says."""
        if isinstance(self.scheduler, DDRMScheduler):
            return _CARD
        what = _CARD.what.replace("DDRM (arXiv:2201.11793)", f"`{type(self.scheduler).__name__}`")
        return replace(_CARD, what=what)

    @property
    def num_timesteps(self) -> int:
        """How many timesteps the last call had."""
        return self._num_timesteps

    @property
    def num_evaluations(self) -> int:
        """How many network evaluations the last call made for each picture; most methods make one for each timestep."""
        return self._num_evaluations

    @torch.no_grad()
    def __call__(
        self,
        image: images.ImageInput,
        operator: Operator | str,
        sigma_y: float = 0.0,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        eta: float | None = None,
        eta_b: float | None = None,
        class_labels: int | Sequence[int] | Tensor | None = None,
        classifier: Classifier | None = None,
        classifier_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_images_per_input: int = 1,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents", "sample"),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restore degraded pictures.

        A batch gives what its pictures give one by one, bit for bit on a CPU, with one generator for each. Grey
        pictures on a colour network come back grey: the network's picture is measured by its mean colour.

        Args:
            image: the degraded pictures as measured: PIL, arrays in [0, 1] (or integers), tensors
                (B, C, H, W) in [-1, 1], or a list of one size. Noisy values may exceed the range.
            operator: what was done to them, by the name of a task ("sr4") or as an operator for clean pictures.
            sigma_y: sd of their noise in the unit of [-1, 1]. Grey levels rounded to 8 bits have 0.0023.
            num_inference_steps: timesteps; None is the method's own number, 20 for DDRM, which more don't improve.
            timesteps: a decreasing list instead of `num_inference_steps`, which may start below T.
            eta: share of new noise in each step, [0, 1]; None is the method's own, 0.85 for DDRM.
            eta_b: how far measured coefficients follow y, [0, 1]; None is the method's own, 1 for DDRM.
            class_labels: for a class-conditional network, one or one per picture.
            classifier: (x_t, t) -> log p(class | x_t) of each picture, (B,), differentiable; guides the chain. On a CPU
                it is called with one picture at a time.
            classifier_scale: strength of the classifier.
            generator: one, or one for each restored picture.
            num_images_per_input: restored samples of each picture, next to each other in the result.
            output_type: "pil", "np" ((B, H, W, C) in [0, 1]), "pt" ((B, C, H, W) in [0, 1]), both clipped, or "latent"
                ((B, C, H, W) in [-1, 1], the model's own units, not clipped).
            return_dict: False returns a tuple.
            callback_on_step_end: (pipeline, step, timestep, tensors) -> None or {"latents": what replaces it}.
            callback_on_step_end_tensor_inputs: which tensors it gets: "latents" and "sample" (one tensor),
                "pred_original_sample".

        Returns:
            `ImagePipelineOutput` with `images`.

        Raises:
            InvalidInputError: an argument that cannot be used; the message says what is accepted.
        """
        check_output_type(output_type)
        asked = check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        scheduler = own_scheduler(self.scheduler, ZeroShotScheduler)
        check_evaluates("unet", self.unet)
        options = step_options(scheduler, eta=eta, eta_b=eta_b)
        if self._tile_side is not None and scheduler.needs_gradient:
            raise InvalidInputError(
                f"{type(scheduler).__name__} needs the gradient of the network, whose memory tiles don't save; call "
                "disable_tiling(), or take a method without a gradient"
            )
        check_real("classifier_scale", classifier_scale)
        if classifier is not None and not callable(classifier):
            raise InvalidInputError(f"classifier must be a function (x_t, t) -> log p, or None, got {classifier!r:.99}")
        samples = check_int("num_images_per_input", num_images_per_input, 1)
        if num_inference_steps is None and timesteps is None:
            num_inference_steps = scheduler.default_count
        for one in (self.scheduler, scheduler):  # the pipeline's own keeps the timesteps of the last call
            one.set_timesteps(num_inference_steps, timesteps=timesteps)

        canvas = MeasuredCanvas(image, operator, sigma_y, self.unet)
        check_channels(output_type, canvas.channels)
        whole = canvas.measurement(samples, self._execution_device)
        parts = split_measurement(whole, scheduler)
        generator = canvas.generators(generator, samples)
        labels = canvas.labels(class_labels, samples, parts)

        watch = Watch()

        def guided(output: Tensor, x: Tensor, t: int) -> Tensor:
            watch.see("unet", t, output)
            if classifier is None:
                return output
            return watch.see("classifier", t, guide(output, x, t, scheduler, classifier, classifier_scale))

        unet = self._in_tiles(self.unet)
        chains = [Chain(unet, scheduler, *one, guided) for one in zip(parts, labels, strict=True)]

        count = itertools.count()

        def step(t: int, states: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
            i, made = next(count), []
            for chain, x, noise in zip(chains, states, draw_noise(parts, generator), strict=True):
                x, output = chain.predict(x, i)
                made.append(chain.step(output, i, x, noise, options))
                if scheduler.needs_gradient:  # a step size that is too large lets the chain diverge
                    watch.see("the scheduler's step", t, made[-1][0])
                del output  # its graph, before that of the next picture is built
            return made

        states = [chain.start(noise) for chain, noise in zip(chains, draw_noise(parts, generator), strict=True)]
        steps = longest(chains).timesteps
        self.scheduler.take_timesteps(longest(chains).method)
        self._num_timesteps = len(steps)
        sample = run_chain(self, steps, states, step, callback_on_step_end, asked, watch)
        self._num_evaluations = max(chain.evaluations for chain in chains)
        restored = canvas.to_pictures(sample)
        self.maybe_free_model_hooks()
        return to_output(restored, output_type, return_dict)


def guide(
    output: Tensor, sample: Tensor, timestep: int, scheduler: ZeroShotScheduler, classifier: Classifier, scale: float
) -> Tensor:
    """Move the noise estimate by -sqrt(1 - alpha_bar) scale grad log p(class | x_t), at the current x_t."""
    with torch.inference_mode(False), torch.enable_grad():
        x = sample.detach().clone().requires_grad_()
        log_probability = classifier(x, torch.full((len(x),), timestep, device=x.device))
        if not isinstance(log_probability, Tensor) or log_probability.shape != (len(x),):
            is_tensor = isinstance(log_probability, Tensor)
            got = tuple(log_probability.shape) if is_tensor else type(log_probability).__name__
            raise InvalidInputError(f"classifier must return one log probability per picture, ({len(x)},), got {got}")
        if not log_probability.requires_grad:
            raise InvalidInputError(
                "classifier must return log probabilities that are differentiable in x_t; these have no gradient"
            )
        gradient = torch.autograd.grad(log_probability.sum(), x)[0]
    alpha_bar = scheduler.alpha_bar(timestep)
    shift = gradient * (-sqrt(1 - alpha_bar) * scale)
    return shift_epsilon(output, shift, alpha_bar, scheduler.config.prediction_type)
