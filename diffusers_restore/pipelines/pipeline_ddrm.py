"""Restoration with a pretrained unconditional network by DDRM (arXiv:2201.11793)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .. import images
from ..errors import InvalidInputError, OperatorError, check_int, check_real
from ..operators import Crop, Grayscale, LinearOperator, Measurement, create
from ..schedulers.prediction import VARIANCE_PRESERVING, shift_epsilon
from ..schedulers.scheduling_ddrm import DDRMScheduler
from ..schedulers.zero_shot import ZeroShotScheduler
from .cards import CardText
from .common import (
    Callback,
    Network,
    OutputType,
    check_callback,
    check_channels,
    check_evaluates,
    check_generators,
    check_network,
    check_output_type,
    check_scheduler,
    finished,
    is_score_network,
    pictures_at_once,
    replaced,
    size_multiple,
)
from .hub import HubMixin

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


class DDRMPipeline(HubMixin, DiffusionPipeline):
    """Zero-shot restoration of linearly degraded pictures: y = A x + sigma_y z, restored by a diffusion prior of x.

    Any unconditional or class-conditional `UNet2DModel` or `ResidualUNet2DModel` of a DDPM is a prior; a repository
    with a DDPM, DDIM or PNDM scheduler loads as it is, and its scheduler is converted without being changed. Pictures
    may have any size.

    Args:
        unet: predicts epsilon, x0 or v; a learned variance is ignored.
        scheduler: a `DDRMScheduler`, or any scheduler of a variance-preserving process, which becomes one; or another
            zero-shot method, a `ZeroShotScheduler`.

    Raises:
        InvalidInputError: a scheduler or a network of another kind of process, such as score-based VE models.

    Example:
        >>> from PIL import Image
        >>> from diffusers_restore import DEFAULT_PRIOR, DDRMPipeline
        >>> pipe = DDRMPipeline.from_pretrained(DEFAULT_PRIOR)
        >>> restored = pipe(Image.new("RGB", (16, 16), "green"), operator="sr4", sigma_y=0.01).images[0]
        >>> restored.size
        (64, 64)
    """

    scheduler_name = "DDRMScheduler"
    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["sample", "pred_original_sample"]

    def __init__(self, unet: Network, scheduler: SchedulerMixin) -> None:
        super().__init__()
        check_unet(unet)
        self.register_modules(unet=unet, scheduler=zero_shot_scheduler(scheduler, unet))
        self._num_timesteps = 0

    @property
    def card_text(self) -> CardText:
        """What a new model card says."""
        return _CARD

    @property
    def num_timesteps(self) -> int:
        """How many network evaluations the last call made for each picture."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        image: images.ImageInput,
        operator: LinearOperator | str,
        sigma_y: float = 0.0,
        num_inference_steps: int = 20,
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
        callback_on_step_end_tensor_inputs: Sequence[str] = ("sample",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restore degraded pictures.

        A batch gives what its pictures give one by one, bit for bit on a CPU, with one generator for each. Grey
        pictures on a colour network come back grey: the network's picture is measured through its mean colour.

        Args:
            image: the degraded pictures, as they were measured: PIL, arrays in [0, 1] (or integers), tensors
                (B, C, H, W) in [-1, 1], or a list of one size. Noisy values may exceed the range.
            operator: what was done to them, by the name of a task ("sr4") or as an operator for clean pictures.
            sigma_y: sd of their noise in the unit of [-1, 1]. Grey levels rounded to 8 bits have 0.0023.
            num_inference_steps: network evaluations. The method was made for 20; more do not end in the posterior.
            timesteps: a decreasing list instead, which may start below T.
            eta: share of new noise in each step, [0, 1]; None is the method's own, 0.85 for DDRM.
            eta_b: how far measured coefficients follow y, [0, 1]; None is the method's own, 1 for DDRM.
            class_labels: for a class-conditional network, one or one per picture.
            classifier: (x_t, t) -> log p(class | x_t) of each picture, (B,), differentiable; guides the chain. On a CPU
                it is asked for one picture at a time.
            classifier_scale: strength of the classifier.
            generator: one, or one for each restored picture.
            num_images_per_input: restored samples of each picture, next to each other in the result.
            output_type: "pil", "np" ((B, H, W, C) in [0, 1]) or "pt" ((B, C, H, W) in [-1, 1], not clipped).
            return_dict: False returns a tuple.
            callback_on_step_end: (pipeline, step, timestep, tensors) -> None or {"sample": what replaces it}.
            callback_on_step_end_tensor_inputs: which tensors it gets: "sample", "pred_original_sample".

        Returns:
            `ImagePipelineOutput` with `images`.

        Raises:
            InvalidInputError: an argument that cannot be used; the message says what is accepted.
        """
        check_output_type(output_type)
        asked = check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        check_scheduler(self.scheduler, ZeroShotScheduler, "DDRMScheduler")
        check_evaluates("unet", self.unet)
        options = step_options(self.scheduler, eta=eta, eta_b=eta_b)
        check_real("classifier_scale", classifier_scale)
        samples = check_int("num_images_per_input", num_images_per_input, 1)
        self.scheduler.set_timesteps(None if timesteps is not None else num_inference_steps, timesteps=timesteps)

        plan = Plan(image, operator, sigma_y, self.unet)
        check_channels(output_type, plan.channels)
        parts = plan.measurements(samples, self._execution_device)
        generator = plan.generators(generator, samples)
        labels = plan.labels(class_labels, samples, parts)

        states = [self.scheduler.start(*one) for one in zip(parts, draw_noise(parts, generator), strict=True)]
        size, steps = len(parts[0].y), self.scheduler.timesteps.tolist()
        self._num_timesteps = len(steps)
        with self.progress_bar(total=len(steps)) as progress:
            for i, t in enumerate(steps):
                estimates = []
                for j, noise in enumerate(draw_noise(parts, generator)):
                    output = predict(self.unet, self.scheduler, states[j], t, labels[j])
                    if classifier is not None:
                        output = self._guide(output, states[j], t, classifier, classifier_scale)
                    states[j], estimate = self.scheduler.step(
                        output, t, states[j], parts[j], variance_noise=noise, return_dict=False, **options
                    )
                    estimates.append(estimate)
                if callback_on_step_end is not None:
                    tensors = {"sample": torch.cat(states), "pred_original_sample": torch.cat(estimates)}
                    kept = {name: tensors[name] for name in asked}
                    answer = callback_on_step_end(self, i, t, dict(kept))
                    states = list(replaced(tensors["sample"], answer, kept).split(size))
                progress.update()
        sample = torch.cat(states)

        restored = plan.finish(sample)
        self.maybe_free_model_hooks()
        return finished(restored, output_type, return_dict)

    def _guide(self, output: Tensor, sample: Tensor, timestep: int, classifier: Classifier, scale: float) -> Tensor:
        """Move the noise estimate by -sqrt(1 - alpha_bar) scale grad log p(class | x_t), at the current x_t."""
        with torch.enable_grad():
            x = sample.detach().requires_grad_()
            log_probability = classifier(x, torch.full((len(x),), timestep, device=x.device))
            if log_probability.shape != (len(x),):
                raise InvalidInputError(
                    f"classifier must return one log probability per picture, ({len(x)},), "
                    f"got {tuple(log_probability.shape)}"
                )
            if not log_probability.requires_grad:
                raise InvalidInputError(
                    "classifier must return log probabilities that are differentiable in x_t; these have no gradient"
                )
            gradient = torch.autograd.grad(log_probability.sum(), x)[0]
        alpha_bar = self.scheduler.alpha_bar(timestep)
        shift = gradient * (-sqrt(1 - alpha_bar) * scale)
        return shift_epsilon(output, shift, alpha_bar, self.scheduler.config.prediction_type)


def check_unet(unet: Network) -> None:
    """Refuse networks whose inputs and outputs mean something else than those of an unconditional DDPM."""
    check_network("unet", unet)
    config = unet.config
    centered = config.get("center_input_sample", False)
    if centered != is_score_network(unet):
        raise InvalidInputError(
            f"unet has time_embedding_type={config.get('time_embedding_type')!r} and center_input_sample="
            f"{centered}; known are networks of a DDPM, for pictures in [-1, 1] (False), and score networks of a VE "
            "process ('fourier'), for pictures in [0, 1] (True)"
        )
    if config.get("class_embed_type") is not None:
        raise InvalidInputError(
            f"unet has class_embed_type={config.class_embed_type!r}; plain class labels (num_class_embeds) are needed"
        )
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise InvalidInputError(
            f"unet has {config.in_channels} input and {config.out_channels} output channels: it is no unconditional "
            "network, whose outputs are as many as its inputs, or twice as many with a learned variance. A network "
            "that was trained to restore is loaded by the class of its pipeline, or by DiffusionPipeline"
        )


def zero_shot_scheduler(scheduler: SchedulerMixin, unet: Network) -> ZeroShotScheduler:
    """The scheduler itself, or a `DDRMScheduler` of its noise schedule if it is no zero-shot method.

    Raises:
        InvalidInputError: no scheduler, or that of another process than the network's.
    """
    if not isinstance(scheduler, SchedulerMixin):
        raise InvalidInputError(f"scheduler must be a DDRMScheduler, got {type(scheduler).__name__}")
    name, score = type(scheduler).__name__, is_score_network(unet)
    converted = scheduler
    if not isinstance(scheduler, ZeroShotScheduler):
        converted = DDRMScheduler.from_config({**scheduler.config, "_class_name": name})
    if score and (converted.config.trained_betas is None or name in VARIANCE_PRESERVING):
        raise InvalidInputError(
            "unet is a score network of a VE process (time_embedding_type='fourier'): scheduler must be a "
            f"ScoreSdeVeScheduler, or one made of its configuration, got {name}"
        )
    if name == "ScoreSdeVeScheduler" and not score:
        raise InvalidInputError(f"scheduler {name} is that of a VE process, and unet is a network of a DDPM")
    return converted


def step_options(scheduler: ZeroShotScheduler, **given: float | None) -> dict[str, float]:
    """The options that were given, once it is sure that the method has them."""
    options = {name: check_real(name, value, 0, 1) for name, value in given.items() if value is not None}
    for name in options:
        if name not in scheduler.step_options:
            known = ", ".join(scheduler.step_options) or "none"
            raise InvalidInputError(
                f"{name} must be None for {type(scheduler).__name__}, whose steps have other options: {known}"
            )
    return options


def draw_noise(
    measurements: Sequence[Measurement], generator: torch.Generator | list[torch.Generator] | None
) -> Sequence[Tensor]:
    """Standard normal noise for the parts of a batch, (b, C, H, W) each, drawn for the whole batch at once."""
    first = measurements[0]
    shape = (sum(len(part.y) for part in measurements), *first.operator.input_shape)
    return randn_tensor(shape, generator=generator, device=first.y.device, dtype=torch.float32).split(len(first.y))


def predict(
    unet: Network, scheduler: ZeroShotScheduler, sample: Tensor, timestep: int, labels: Tensor | None
) -> Tensor:
    """The network's output (b, C, H, W) in the sample's dtype, its first channels if it predicts a variance too.

    A VE network (arXiv:2011.13456) gives the score of x0 + sigma z, of pictures in [0, 1]: epsilon_hat = -sigma score.
    """
    if is_score_network(unet):
        sigma = scheduler.sigma(timestep) / 2
        x = (sample / sqrt(scheduler.alpha_bar(timestep)) + 1) / 2
        levels = torch.full((len(x),), sigma, device=x.device)
        score = unet(x.to(unet.dtype), levels, class_labels=labels, return_dict=False)[0]
        return score.to(sample.dtype) * -sigma
    x = scheduler.scale_model_input(sample, timestep).to(unet.dtype)
    t = torch.full((len(x),), timestep, device=x.device)
    output = unet(x, t, class_labels=labels, return_dict=False)[0]
    return output[:, : sample.shape[1]].to(sample.dtype)


class Plan:
    """How a call's pictures meet the network: the measurement of the canvas that it works on, and the way back.

    The canvas is the picture, extended below and to the right to a multiple that the network can halve. What is added
    counts as not measured, so the data term stays exact. A grey picture on a colour network is measured through the
    mean colour; a colour picture on a grey network goes through it channel by channel.

    Args:
        image, operator, sigma_y: as in a call of `DDRMPipeline`.
        unet: the network, whose channels and levels make the canvas.

    Raises:
        InvalidInputError: pictures, operator and network that don't fit each other.
    """

    def __init__(
        self,
        image: images.ImageInput,
        operator: LinearOperator | str,
        sigma_y: float,
        unet: Network,
    ) -> None:
        channels, multiple = unet.config.in_channels, size_multiple(unet)
        self.classes: int | None = unet.config.num_class_embeds
        self.sigma_y = check_real("sigma_y", sigma_y, 0)
        self.grey: Grayscale | None = None
        self.split = 1
        if isinstance(operator, str):
            y = images.to_tensor(image, limit=None)
            operator = self._by_name(operator, y, channels)
        elif isinstance(operator, LinearOperator):
            y = images.to_tensor(image, limit=None)
        else:
            raise InvalidInputError(f"operator must be the name of a task or a LinearOperator, got {operator!r}")
        self._check_range(y, operator)
        if operator.input_shape[0] == 1 and channels == 3:
            self.grey = Grayscale((3, *operator.input_shape[1:]))
            operator = operator @ self.grey
        if operator.input_shape[0] != channels:
            raise OperatorError(
                f"operator is for images of {operator.input_shape[0]} channels, the network takes {channels}; "
                "name the task to restore colours one by one on a grey network, or build the operator for the network"
            )
        _, height, width = operator.input_shape
        self.size = (height, width)
        canvas = (channels, -(-height // multiple) * multiple, -(-width // multiple) * multiple)
        self.operator = operator if canvas == operator.input_shape else operator @ Crop(canvas, self.size)
        self.y = y

    def _by_name(self, name: str, y: Tensor, channels: int) -> LinearOperator:
        if channels == 1:
            self.split = y.shape[1]
        return create(name, measurement_shape=(y.shape[1] // self.split, y.shape[2], y.shape[3]))

    def _check_range(self, y: Tensor, operator: LinearOperator) -> None:
        limit = 1.5 * operator.gain + 10 * self.sigma_y
        largest = float(y.abs().max())
        if largest > limit:
            raise InvalidInputError(
                f"image holds values up to {largest:g}; a measurement by {operator!r} of pictures in [-1, 1] with "
                f"sigma_y={self.sigma_y:g} stays within {limit:g}. Tensors are in [-1, 1], float arrays in [0, 1]"
            )

    @property
    def channels(self) -> int:
        """Of the restored pictures."""
        return 1 if self.grey is not None else self.operator.input_shape[0] * self.split

    def measurements(self, samples: int, device: torch.device) -> list[Measurement]:
        """What was measured, `samples` times each picture, in the parts that the network will see at once."""
        y = self.y.repeat_interleave(samples, dim=0).to(device)
        y = y.reshape(-1, y.shape[1] // self.split, *y.shape[2:])
        whole = Measurement(y, self.operator.repeat_interleave(samples), self.sigma_y)
        return whole.split(pictures_at_once(device, len(y)))

    def generators(
        self, generator: torch.Generator | list[torch.Generator] | None, samples: int
    ) -> torch.Generator | list[torch.Generator] | None:
        """One generator for each image of the network's batch: a picture's own serves its `split` channels in turn."""
        pictures = len(self.y) * samples
        if isinstance(generator, torch.Generator) and self.split > 1:
            generator = [generator] * pictures
        generator = check_generators(generator, pictures)
        return [one for one in generator for _ in range(self.split)] if isinstance(generator, list) else generator

    def labels(
        self, class_labels: int | Sequence[int] | Tensor | None, samples: int, measurements: Sequence[Measurement]
    ) -> Sequence[Tensor | None]:
        """The class labels of each of the measurements, None for a network that takes none."""
        if self.classes is None:
            if class_labels is not None:
                raise InvalidInputError("class_labels were given, but the network is not class-conditional")
            return [None] * len(measurements)
        if class_labels is None:
            raise InvalidInputError(
                f"the network is class-conditional: class_labels in 0..{self.classes - 1} are needed"
            )
        try:
            labels = torch.as_tensor(class_labels).reshape(-1)
        except (TypeError, ValueError, RuntimeError):
            labels = torch.empty(0)
        batch = len(self.y) * samples
        if len(labels) == 1:
            labels = labels.expand(batch)
        elif len(labels) * samples == batch:
            labels = labels.repeat_interleave(samples)
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        if not whole or len(labels) != batch or not bool(((labels >= 0) & (labels < self.classes)).all()):
            raise InvalidInputError(
                f"class_labels must be one whole number in 0..{self.classes - 1}, or one per picture, "
                f"got {class_labels!r}"
            )
        first = measurements[0].y
        return labels.long().to(first.device).repeat_interleave(self.split).split(len(first))

    def finish(self, sample: Tensor) -> Tensor:
        """The canvas back to pictures (B, C, H, W)."""
        x = sample[:, :, : self.size[0], : self.size[1]]
        if self.grey is not None:
            x = self.grey.forward(x)
        return x.reshape(-1, self.split, *self.size) if self.split > 1 else x
