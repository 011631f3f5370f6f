"""Restoration and generation by Cold Diffusion (arXiv:2208.09392)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from .. import images
from ..degradations import Mix, State
from ..errors import InvalidInputError, check_bool
from ..generators import Generators, check_generators
from ..hub.cards import CardText
from ..hub.saving import HubMixin
from ..models.gaussian_mixture import GaussianMixturePrior
from ..schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler
from ..tensors import check_shape
from .canvas import (
    Canvas,
    OutputType,
    check_channels,
    check_output_type,
    new_count,
    new_size,
    pictures_at_once,
    size_multiple,
    to_output,
)
from .chain import Callback, Watch, check_callback, own_scheduler, run_chain
from .common import Network, check_evaluates, check_network
from .tiles import TilingMixin


class ColdDiffusionPipeline(TilingMixin, HubMixin, DiffusionPipeline):
    """Undoes the degradation D(x, t) that its network R was trained on: R(D(x, t), t - 1) = x.

    It restores pictures degraded by D, and generates new ones from draws at the largest severity T: from a fitted
    `prior`, or, where D leaves nothing of a picture, from the state of D alone. Several threads may call one pipeline
    at once.

    Args:
        unet: a `UNet2DModel` or `ResidualUNet2DModel` that predicts clean pictures, such as `examples/train_cold.py`
            trains.
        scheduler: a `ColdDiffusionScheduler`, which holds D and the choice of algorithm.
        prior: draws pictures of severity T; only needed to generate.

    Raises:
        InvalidInputError: a network or a scheduler of another kind.

    Examples:
        >>> import torch
        >>> from diffusers import UNet2DModel
        >>> from diffusers_restore import ColdDiffusionPipeline, ColdDiffusionScheduler
        >>> from diffusers_restore.degradations import Blur
        >>> unet = UNet2DModel(16, 3, 3, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
        ...                    up_block_types=("UpBlock2D",) * 2, add_attention=False)
        >>> pipe = ColdDiffusionPipeline(unet, ColdDiffusionScheduler(Blur(num_timesteps=20)))
        >>> pipe(torch.zeros(1, 3, 20, 30), start=5).images[0].size
        (30, 20)
    """

    scheduler_name = "ColdDiffusionScheduler"
    model_cpu_offload_seq = "unet"
    _exclude_from_cpu_offload = ["prior"]  # it has no weights that accelerate's hooks could follow
    _optional_components = ["prior"]
    _callback_tensor_inputs = ["latents", "sample", "pred_original_sample"]

    def __init__(
        self, unet: Network, scheduler: ColdDiffusionScheduler, prior: GaussianMixturePrior | None = None
    ) -> None:
        super().__init__()
        check_network("unet", unet)
        labels = unet.config.num_class_embeds, unet.config.get("class_embed_type")
        if unet.config.out_channels != unet.config.in_channels or labels != (None, None):
            raise InvalidInputError(
                f"unet must predict clean pictures of its {unet.config.in_channels} input channels without class "
                f"labels; it has {unet.config.out_channels} output channels, num_class_embeds={labels[0]} and "
                f"class_embed_type={labels[1]!r}"
            )
        if not isinstance(scheduler, ColdDiffusionScheduler):
            hint = ""
            if isinstance(scheduler, SchedulerMixin):
                hint = ": a network that predicts noise can't undo a degradation; DDRMPipeline restores with it"
            raise InvalidInputError(f"scheduler must be a ColdDiffusionScheduler, got {type(scheduler).__name__}{hint}")
        if prior is not None and not isinstance(prior, GaussianMixturePrior):
            raise InvalidInputError(f"prior must be a GaussianMixturePrior, got {type(prior).__name__}")
        if prior is not None and prior.config.channels != unet.config.in_channels:
            raise InvalidInputError(
                f"prior draws pictures of {prior.config.channels} channels, unet takes {unet.config.in_channels}"
            )
        if prior is not None and scheduler.degradation.state_shapes(prior.config.channels, 1, 1):
            raise InvalidInputError(
                f"prior must be None: degradation {scheduler.degradation.kind!r} acts through a state, which a prior "
                "doesn't draw"
            )
        self.register_modules(unet=unet, scheduler=scheduler, prior=prior)
        self._num_timesteps = 0

    @property
    def card_text(self) -> CardText:
        """What a new model card says."""
        degradation, last = self.scheduler.degradation, len(self.scheduler)
        lines = [
            "from PIL import Image",
            "from diffusers_restore import ColdDiffusionPipeline",
            "",
            'pipe = ColdDiffusionPipeline.from_pretrained("{repo_id}")',
            'image = Image.open("photo.png")',
            "estimate = pipe(image, direct=True).images[0]  # the network's first estimate",
        ]
        if wanted := degradation.state_shapes(1, 1, 1):
            names = ", ".join(wanted)
            lines.append(f"# pipe(image, state=...) runs the algorithm where the state ({names}) is known")
        else:
            lines.append("restored = pipe(image).images[0]")
        of_pictures = isinstance(degradation, Mix) and degradation.endpoint == "picture"
        if self.prior is not None or (degradation.forgets and not of_pictures):
            lines.append("new = pipe(batch_size=4).images")
        return CardText(
            f"A restorer by Cold Diffusion (arXiv:2208.09392), which undoes {degradation}. A picture has the severity "
            f"{last} unless `start` says a lesser one.",
            "\n".join(lines),
            ("image-to-image", "image-restoration", "cold-diffusion"),
        )

    @property
    def num_timesteps(self) -> int:
        """How many network evaluations the last call made for each picture."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        image: images.ImageInput | None = None,
        start: int | None = None,
        num_inference_steps: int | None = None,
        state: State | None = None,
        direct: bool = False,
        batch_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents", "sample"),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restore degraded pictures, or generate new ones where no `image` is given.

        A batch gives what its pictures give one by one, bit for bit on a CPU, with one generator for each. Grey
        pictures on a colour network come back grey where the degradation leaves grey pictures grey; a colour picture on
        a grey network goes through it channel by channel, unless the degradation mixes them.

        Some degradations have a state that the picture doesn't show: where the hole is, how the snow fell. The
        algorithms need it as `state`; without it, only the network's `direct` reconstruction is available. Where
        pictures are mixed with another one, `image` counts as that endpoint unless `start` is below T.

        Args:
            image: pictures of severity `start`: PIL, arrays in [0, 1] (or integers), tensors (B, C, H, W) in [-1, 1],
                or a list of one size. Any size that the degradation supports.
            start: their severity in 1..T; None is T.
            num_inference_steps: network evaluations, at most `start`; None takes every severity.
            state: of the degradation, from its `sample_state` or otherwise known; ignored where `direct`.
            direct: return the network's first estimate R(x_t, t - 1) instead of running the algorithm.
            batch_size: how many pictures to generate; None is 1.
            generator: one, or one for each picture, for the draws of generation.
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
        check_evaluates("unet", self.unet)
        asked = check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        scheduler = own_scheduler(self.scheduler, ColdDiffusionScheduler)
        check_bool("direct", direct)
        if direct and num_inference_steps is not None:
            raise InvalidInputError(
                f"num_inference_steps={num_inference_steps!r} has no meaning with direct=True, which looks once"
            )
        if state is not None and not isinstance(state, Mapping):
            raise InvalidInputError(f"state must be a mapping of names to tensors, got {state!r:.99}")
        for one in (self.scheduler, scheduler):  # the pipeline's own keeps the timesteps of the last call
            one.set_timesteps(num_inference_steps, start=start)
        steps = scheduler.timesteps.tolist()

        device, channels, degradation = self._execution_device, self.unet.config.in_channels, scheduler.degradation
        if image is None:
            if start not in (None, len(scheduler)):
                raise InvalidInputError(f"start must be None or T={len(scheduler)} to generate, got {start!r}")
            check_channels(output_type, channels)
            x, state = self._draw(new_count(batch_size), state, generator, scheduler, device)
            canvas = Canvas.of(x, channels, size_multiple(self.unet), keeps_grey=False)
        else:
            if batch_size is not None:
                raise InvalidInputError(f"batch_size must be None where there is an image, got {batch_size!r}")
            pictures = images.to_tensor(image).to(device)
            check_generators(generator, len(pictures))
            canvas = Canvas.of(pictures, channels, size_multiple(self.unet), keeps_grey=degradation.keeps_grey)
            if canvas.split > 1 and not direct and degradation.mixes_channels:
                raise InvalidInputError(
                    f"image has {canvas.split} channels and the network takes one: degradation {degradation.kind!r} "
                    "mixes them, so that they can't be restored one by one"
                )
            check_channels(output_type, channels * canvas.split)
            x = canvas.lay(pictures)
            state = {} if direct else self._known_state(x, state, canvas.split, steps[0] + 1, scheduler)

        size = pictures_at_once(device, len(x))
        parts = x.split(size)
        states = [{name: value[i * size : (i + 1) * size] for name, value in state.items()} for i in range(len(parts))]

        watch, dtype = Watch(), self.unet.dtype

        def step(k: int, samples: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
            made = []
            for sample, known in zip(samples, states, strict=True):
                x0_hat = watch.see("unet", k, self._predict(canvas, dtype, sample, k))
                looked = (x0_hat, x0_hat) if direct else None
                made.append(looked or scheduler.step(x0_hat, k, sample, state=known, return_dict=False))
            return made

        steps = steps[:1] if direct else steps
        self._num_timesteps = len(steps)
        restored = canvas.to_pictures(run_chain(self, steps, parts, step, callback_on_step_end, asked, watch))
        self.maybe_free_model_hooks()
        return to_output(restored, output_type, return_dict)

    def _predict(self, canvas: Canvas, dtype: torch.dtype, sample: Tensor, timestep: int) -> Tensor:
        """R(x_t, k) in float32."""
        extended = canvas.extend(sample)
        t = torch.full((len(extended),), timestep, device=extended.device)
        output = self._in_tiles(self.unet)(extended.to(dtype), t, return_dict=False)[0]
        check_shape("unet's output", output, "its input", extended.shape, extended.device)
        return canvas.crop(output).to(sample.dtype)

    def _draw(
        self,
        count: int,
        state: State | None,
        generator: Generators,
        scheduler: ColdDiffusionScheduler,
        device: torch.device,
    ) -> tuple[Tensor, State]:
        """New pictures of severity T with their states."""
        degradation = scheduler.degradation
        check_generators(generator, count)
        height, width = new_size(self.unet)
        if self.prior is None and not degradation.forgets:
            raise InvalidInputError(
                f"image is needed: degradation {degradation.kind!r} leaves something of a picture at T, and this "
                "pipeline has no prior to draw that from"
            )
        empty = torch.zeros(count, self.unet.config.in_channels, height, width, device=device)
        if self.prior is not None:
            return self.prior.sample(count, height, width, generator).to(device), degradation.check(empty, state)
        state = degradation.sample_state(empty, generator) if state is None else _to_device(state, device)
        return degradation(empty, len(scheduler), state), state

    def _known_state(
        self, x: Tensor, state: State | None, split: int, start: int, scheduler: ColdDiffusionScheduler
    ) -> State:
        """The state for a batch whose pictures were split into their channels, checked."""
        degradation = scheduler.degradation
        if isinstance(degradation, Mix) and state is None:
            if scheduler.config.endpoint == "estimated":
                return {}
            if start == len(scheduler):
                state = {"endpoint": x}
        wanted = degradation.state_shapes(*x.shape[1:])
        if wanted and state is None:
            names = ", ".join(map(repr, wanted))
            raise InvalidInputError(
                f"degradation {degradation.kind!r} acts through a state ({names}) that a picture doesn't tell: give "
                "it as state, or take the network's first estimate by direct=True"
            )
        state = dict(state or {})
        for name, shape in wanted.items():  # for a grey picture on a colour network
            value = state.get(name)
            if isinstance(value, Tensor) and len(shape) == 3 and value.shape == (len(x), 1, *shape[1:]):
                state[name] = value.expand(-1, *shape)
        if split > 1:  # a state is for the whole picture, or has values for each of its channels
            pictures = len(x) // split
            for name, shape in wanted.items():
                value = state.get(name)
                if isinstance(value, Tensor) and value.shape == (pictures, *shape):
                    state[name] = value.repeat_interleave(split, dim=0)
                elif isinstance(value, Tensor) and shape and value.shape == (pictures, split * shape[0], *shape[1:]):
                    state[name] = value.reshape(-1, *shape)
        checked = degradation.check(x, _to_device(state, x.device))
        degradation.check_values(x, checked)
        return checked


def _to_device(state: State, device: torch.device) -> State:
    """The state on another device; `Degradation.check` refuses anything that is no tensor."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in state.items()}
