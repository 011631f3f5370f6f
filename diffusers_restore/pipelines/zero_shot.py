"""Shared by `DDRMPipeline` and its modular blocks: networks, schedulers and pictures of zero-shot restoration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from math import sqrt
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .. import images
from ..errors import InvalidInputError, OperatorError, check_real
from ..generators import Generators, check_generators
from ..operators import Crop, Grayscale, Measurement, Operator, create
from ..schedulers.prediction import VARIANCE_PRESERVING, first_channels
from ..schedulers.scheduling_ddrm import DDRMScheduler
from ..schedulers.zero_shot import ZeroShotScheduler
from .canvas import pictures_at_once, size_multiple
from .common import Network, check_network, is_score_network, uncompiled_calls

Guide = Callable[[Tensor, Tensor, int], Tensor]
"""(the network's output, x_t, timestep) -> the output, moved by a classifier."""


def check_unet(unet: Network) -> None:
    """Refuse networks whose inputs and outputs mean something other than those of an unconditional DDPM."""
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
        InvalidInputError: not a scheduler, or one of another process than the network's.
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
    """The options that were given, after checking that the method has them."""
    options = {name: check_real(name, value, 0, 1) for name, value in given.items() if value is not None}
    for name in options:
        if name not in scheduler.step_options:
            known = ", ".join(scheduler.step_options) or "none"
            raise InvalidInputError(
                f"{name} must be None for {type(scheduler).__name__}, whose steps have other options: {known}"
            )
    return options


def draw_noise(measurements: Sequence[Measurement], generator: Generators) -> Sequence[Tensor]:
    """Standard normal noise for the parts of a batch, (b, C, H, W) each, drawn for the whole batch at once."""
    first = measurements[0]
    shape = (sum(len(part.y) for part in measurements), *first.operator.input_shape)
    return randn_tensor(shape, generator=generator, device=first.y.device, dtype=torch.float32).split(len(first.y))


def split_measurement(whole: Measurement, method: ZeroShotScheduler) -> list[Measurement]:
    """The parts of a batch that the network evaluates together."""
    alone = method.levels_of_operator and whole.operator.batch_size is not None
    return whole.split(1 if alone else pictures_at_once(whole.y.device, len(whole.y)))


def predict(
    unet: Network,
    scheduler: ZeroShotScheduler,
    sample: Tensor,
    timestep: int,
    labels: Tensor | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The network's output (b, C, H, W) in the sample's dtype, its first channels if it predicts a variance too.

    A VE network (arXiv:2011.13456) predicts the score of x0 + sigma z, for pictures in [0, 1]:
    epsilon_hat = -sigma score. `dtype` is the network's, which takes long to find; None looks for it.
    """
    dtype = unet.dtype if dtype is None else dtype
    if is_score_network(unet):
        sigma = scheduler.sigma(timestep) / 2
        x = (sample / sqrt(scheduler.alpha_bar(timestep)) + 1) / 2
        levels = torch.full((len(x),), sigma, device=x.device)
        score = unet(x.to(dtype), levels, class_labels=labels, return_dict=False)[0]
        return first_channels("unet's output", score, sample).to(sample.dtype) * -sigma
    x = scheduler.scale_model_input(sample, timestep).to(dtype)
    t = torch.full((len(x),), timestep, device=x.device)
    output = unet(x, t, class_labels=labels, return_dict=False)[0]
    return first_channels("unet's output", output, sample).to(sample.dtype)


class Chain:
    """The chain of one part of a batch: its own copy of the method, with its state and its timesteps, and the network.

    Args:
        unet: the network.
        method: that of the call, with its timesteps set.
        measurement: of the part.
        labels: class labels of the part, (b,), or None.
        guide: (output, x_t, timestep) -> the output moved by a classifier, or None.

    Attributes:
        timesteps: of the chain. A batch may have chains of several lengths, the shorter ones of which end first.
        evaluations: of the network so far.

    Raises:
        OperatorError: the method can't restore from the measurement.
    """

    def __init__(
        self,
        unet: Network,
        method: ZeroShotScheduler,
        measurement: Measurement,
        labels: Tensor | None,
        guide: Guide | None = None,
    ) -> None:
        self.unet, self.method, self.measurement = unet, copy(method), measurement
        self.dtype = unet.dtype
        self.labels, self.guide = labels, guide
        self.evaluations = 0
        if self.method.needs_gradient and any(parameter.is_inference() for parameter in unet.parameters()):
            raise InvalidInputError(
                f"{type(method).__name__} needs the gradient of the network, and unet was made within "
                "torch.inference_mode(), which leaves none; load it outside"
            )
        self.method.prepare(measurement)
        self.timesteps: list[int] = self.method.timesteps.tolist()

    def start(self, noise: Tensor) -> Tensor:
        """The first state."""
        return self.method.start(self.measurement, noise)

    def evaluate(self, sample: Tensor, timestep: int) -> Tensor:
        """The network's output at any state, guided."""
        self.evaluations += 1
        output = predict(self.unet, self.method, sample, timestep, self.labels, self.dtype)
        return output if self.guide is None else self.guide(output, sample, timestep)

    def predict(self, sample: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The state and the network's output there, with the graph between the two if the method needs it."""
        if step >= len(self.timesteps):
            return sample, sample
        if not self.method.needs_gradient:
            return sample, self.evaluate(sample, self.timesteps[step])
        with torch.inference_mode(False), torch.enable_grad(), uncompiled_calls(self.unet):
            leaf = sample.clone().requires_grad_()
            return leaf, self.evaluate(leaf, self.timesteps[step])

    def step(
        self, output: Tensor, step: int, sample: Tensor, noise: Tensor, options: Mapping[str, float]
    ) -> tuple[Tensor, ...]:
        """The next state, and x0_hat."""
        if step >= len(self.timesteps):  # the state is the restored picture
            return sample, sample
        given: dict[str, Any] = dict(options)
        if self.method.needs_model:
            given["model"] = self.evaluate
        recording, inference = self.method.needs_gradient, torch.is_inference_mode_enabled()
        with torch.inference_mode(inference and not recording), torch.set_grad_enabled(recording):
            made: Any = self.method.step(
                *(output, self.timesteps[step], sample, self.measurement),
                variance_noise=noise,
                return_dict=False,
                **given,
            )
        return made[0].detach(), made[1].detach()


def longest(chains: Sequence[Chain]) -> Chain:
    """The chain of a batch with the most timesteps."""
    return max(chains, key=lambda chain: len(chain.timesteps))


class MeasuredCanvas:
    """A call's pictures as the network takes them: the measurement of the canvas that it works on, and the way back.

    The canvas is the picture, padded below and to the right to a multiple that the network can halve. Padding counts as
    not measured, so the data term stays exact. A grey picture on a colour network is measured by the mean colour; a
    colour picture on a grey network goes through it channel by channel.

    Args:
        image, operator, sigma_y: as in a call of `DDRMPipeline`.
        unet: the network, whose channels and levels determine the canvas.

    Raises:
        InvalidInputError: pictures, operator and network that don't fit each other.
    """

    def __init__(
        self,
        image: images.ImageInput,
        operator: Operator | str,
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
        elif isinstance(operator, Operator):
            y = images.to_tensor(image, limit=None)
        else:
            raise InvalidInputError(f"operator must be the name of a task or an Operator, got {operator!r}")
        self._check_range(y, operator)
        self.stated = operator
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

    def _by_name(self, name: str, y: Tensor, channels: int) -> Operator:
        if channels == 1:
            self.split = y.shape[1]
        return create(name, measurement_shape=(y.shape[1] // self.split, y.shape[2], y.shape[3]))

    def _check_range(self, y: Tensor, operator: Operator) -> None:
        limit = 1.5 * operator.gain + 10 * self.sigma_y
        largest = float(y.abs().max())
        if largest > limit:
            raise InvalidInputError(
                f"image holds values up to {largest:g}; a measurement by {operator!r} of pictures in [-1, 1] with "
                f"sigma_y={self.sigma_y:g} stays within {limit:g}. Tensors are in [-1, 1], float arrays in [0, 1]"
            )
        # Noise averages out: with a sigma_y of 25, pictures in 0..255 are within the limit of single values.
        limit = 1.5 * operator.gain + 6 * self.sigma_y / sqrt(y[0].numel())
        largest_mean = float(y.mean(dim=(1, 2, 3)).abs().max())
        if largest_mean > limit:
            raise InvalidInputError(
                f"image has a mean of up to {largest_mean:g}; that of a measurement by {operator!r} of pictures in "
                f"[-1, 1] with sigma_y={self.sigma_y:g} stays within {limit:g}. Tensors are in [-1, 1], float arrays "
                "in [0, 1], and sigma_y is in the unit of [-1, 1]"
            )
        reached = 10 * max(largest, operator.gain)
        if self.sigma_y > reached:
            raise InvalidInputError(
                f"sigma_y must be at most {reached:g} for an image whose values reach {largest:g}, got "
                f"{self.sigma_y:g}; it is in the unit of [-1, 1]: {self.sigma_y:g} of 255 grey levels are "
                f"{self.sigma_y / 127.5:.3g}"
            )

    @property
    def channels(self) -> int:
        """Of the restored pictures."""
        return 1 if self.grey is not None else self.operator.input_shape[0] * self.split

    def measurement(self, samples: int, device: torch.device) -> Measurement:
        """The measurement, `samples` times each picture; `split_measurement` makes its parts."""
        y = self.y.repeat_interleave(samples, dim=0).to(device)
        y = y.reshape(-1, y.shape[1] // self.split, *y.shape[2:])
        operator, stated = (one.repeat_interleave(samples) for one in (self.operator, self.stated))
        return Measurement(y, operator, self.sigma_y, stated)

    def generators(self, generator: Generators, samples: int) -> Generators:
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

    def to_pictures(self, sample: Tensor) -> Tensor:
        """The canvas back to pictures (B, C, H, W)."""
        x = sample[:, :, : self.size[0], : self.size[1]]
        if self.grey is not None:
            x = self.grey.forward(x)
        return x.reshape(-1, self.split, *self.size) if self.split > 1 else x
