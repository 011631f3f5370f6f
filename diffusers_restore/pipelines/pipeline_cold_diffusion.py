"""Restoration and generation by Cold Diffusion (arXiv:2208.09392)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from torch.nn import functional

from .. import images
from ..degradations import Mix, State
from ..errors import InvalidInputError, check_int
from ..models.gaussian_mixture import GaussianMixturePrior
from ..schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler
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
    pictures_at_once,
    replaced,
    size_multiple,
)
from .hub import HubMixin


class ColdDiffusionPipeline(HubMixin, DiffusionPipeline):
    """Undoes the degradation D(x, t) that its network R was trained on: R(D(x, t), t - 1) = x.

    It restores pictures that were degraded so, and generates pictures from what D leaves of one at its largest
    severity T: from a fitted `prior`, or where nothing of the picture is left, from the state of D alone.

    Args:
        unet: a `UNet2DModel` or `ResidualUNet2DModel` that predicts clean pictures, such as `examples/train_cold.py`
            trains.
        scheduler: a `ColdDiffusionScheduler`, which holds D and says which algorithm is run.
        prior: draws pictures of severity T; only needed to generate.

    Raises:
        InvalidInputError: a network or a scheduler of another kind.

    Example:
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
    _callback_tensor_inputs = ["sample", "pred_original_sample"]

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
        callback_on_step_end_tensor_inputs: Sequence[str] = ("sample",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restore degraded pictures, or generate new ones where no `image` is given.

        A batch gives what its pictures give one by one, bit for bit on a CPU, with one generator for each. Grey
        pictures on a colour network come back grey where the degradation leaves grey pictures grey; a colour picture on
        a grey network goes through it channel by channel, unless the degradation mixes them.

        Some degradations act through a state that a picture doesn't tell: where the hole is, how the snow fell. To run
        the algorithms, give it as `state`; without it, there is only the network's `direct` reconstruction. Where a
        picture is mixed with another one, `image` is taken for that endpoint unless `start` is below T.

        Args:
            image: pictures of severity `start`: PIL, arrays in [0, 1] (or integers), tensors (B, C, H, W) in [-1, 1],
                or a list of one size. Any size that the degradation can carry.
            start: their severity in 1..T; None is T.
            num_inference_steps: network evaluations, at most `start`; None takes every severity.
            state: of the degradation, from its `sample_state` or known otherwise; not looked at where `direct`.
            direct: return the network's first estimate R(x_t, t - 1) instead of running the algorithm.
            batch_size: how many pictures to generate; None is 1.
            generator: one, or one for each picture, for what generating draws.
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
        check_evaluates("unet", self.unet)
        asked = check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        check_scheduler(self.scheduler, ColdDiffusionScheduler, "ColdDiffusionScheduler")
        if not isinstance(direct, bool):
            raise InvalidInputError(f"direct must be True or False, got {direct!r}")
        if direct and num_inference_steps is not None:
            raise InvalidInputError(
                f"num_inference_steps={num_inference_steps!r} has no meaning with direct=True, which looks once"
            )
        if state is not None and not isinstance(state, Mapping):
            raise InvalidInputError(f"state must be a mapping of names to tensors, got {state!r:.99}")
        self.scheduler.set_timesteps(num_inference_steps, start=start)
        timesteps = self.scheduler.timesteps.tolist()
        device = self._execution_device
        channels = self.unet.config.in_channels
        split, grey = 1, False
        if image is None:
            if start not in (None, len(self.scheduler)):
                raise InvalidInputError(f"start must be None or T={len(self.scheduler)} to generate, got {start!r}")
            count = check_int("batch_size", 1 if batch_size is None else batch_size, 1)
            check_channels(output_type, channels)
            x, state = self._draw(count, state, check_generators(generator, count), device)
        else:
            if batch_size is not None:
                raise InvalidInputError(f"batch_size must be None where there is an image, got {batch_size!r}")
            x = images.to_tensor(image).to(device)
            check_generators(generator, len(x))
            if x.shape[1] == 1 and channels == 3:
                grey = self.scheduler.degradation.keeps_grey
                x = x.expand(-1, 3, -1, -1)
            elif channels == 1:
                split = x.shape[1]
                x = x.reshape(-1, 1, *x.shape[2:])
                if split > 1 and not direct and self.scheduler.degradation.mixes_channels:
                    raise InvalidInputError(
                        f"image has {split} channels and the network takes one: degradation "
                        f"{self.scheduler.degradation.kind!r} mixes them, so that they can't be restored one by one"
                    )
            if x.shape[1] != channels:
                raise InvalidInputError(f"image has {x.shape[1]} channels, the network takes {channels}")
            check_channels(output_type, channels * split)
            state = {} if direct else self._known_state(x, state, split, timesteps[0] + 1)

        size = pictures_at_once(device, len(x))
        parts = list(x.split(size))
        states = [{name: value[i * size : (i + 1) * size] for name, value in state.items()} for i in range(len(parts))]
        if direct:
            timesteps = timesteps[:1]
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=len(timesteps)) as progress:
            for i, k in enumerate(timesteps):
                estimates = []
                for j, part in enumerate(parts):
                    x0_hat = self._predict(part, k)
                    if direct:
                        parts[j] = x0_hat
                    else:
                        parts[j], x0_hat = self.scheduler.step(x0_hat, k, part, state=states[j], return_dict=False)
                    estimates.append(x0_hat)
                if callback_on_step_end is not None:
                    tensors = {"sample": torch.cat(parts), "pred_original_sample": torch.cat(estimates)}
                    kept = {name: tensors[name] for name in asked}
                    answer = callback_on_step_end(self, i, k, dict(kept))
                    parts = list(replaced(tensors["sample"], answer, kept).split(size))
                progress.update()
        restored = torch.cat(parts)
        if grey:
            restored = restored.mean(dim=1, keepdim=True)
        self.maybe_free_model_hooks()
        return finished(restored.reshape(-1, split * restored.shape[1], *x.shape[2:]), output_type, return_dict)

    def _predict(self, sample: Tensor, timestep: int) -> Tensor:
        """R(x_t, k) in float32; pictures are continued below and to the right to a size that the network can halve."""
        height, width = sample.shape[2:]
        multiple = size_multiple(self.unet)
        padded = functional.pad(sample, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        t = torch.full((len(padded),), timestep, device=padded.device)
        output = self.unet(padded.to(self.unet.dtype), t, return_dict=False)[0]
        return output[:, :, :height, :width].to(sample.dtype)

    def _draw(
        self,
        count: int,
        state: State | None,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
    ) -> tuple[Tensor, State]:
        """New pictures of severity T with their states."""
        degradation = self.scheduler.degradation
        sample_size = self.unet.config.sample_size
        if sample_size is None:
            raise InvalidInputError("unet.config.sample_size says nothing about the size of new pictures; set it")
        height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
        if self.prior is None and not degradation.forgets:
            raise InvalidInputError(
                f"image is needed: degradation {degradation.kind!r} leaves something of a picture at T, and this "
                "pipeline has no prior to draw that from"
            )
        empty = torch.zeros(count, self.unet.config.in_channels, height, width, device=device)
        if self.prior is not None:
            return self.prior.sample(count, height, width, generator).to(device), degradation.check(empty, state)
        state = degradation.sample_state(empty, generator) if state is None else _moved(state, device)
        return degradation(empty, len(self.scheduler), state), state

    def _known_state(self, x: Tensor, state: State | None, split: int, start: int) -> State:
        """The state for a batch whose pictures were split into their channels, checked."""
        degradation = self.scheduler.degradation
        if isinstance(degradation, Mix) and state is None:
            if self.scheduler.config.endpoint == "estimated":
                return {}
            if start == len(self.scheduler):
                state = {"endpoint": x}
        wanted = degradation.state_shapes(*x.shape[1:])
        if wanted and state is None:
            names = ", ".join(map(repr, wanted))
            raise InvalidInputError(
                f"degradation {degradation.kind!r} acts through a state ({names}) that a picture doesn't tell: give "
                "it as state, or take the network's first estimate by direct=True"
            )
        state = dict(state or {})
        for name, shape in wanted.items():  # of a grey picture that goes through a network for colours
            value = state.get(name)
            if isinstance(value, Tensor) and len(shape) == 3 and value.shape == (len(x), 1, *shape[1:]):
                state[name] = value.expand(-1, *shape)
        if split > 1:  # a state is for the whole picture, or holds something for each of its channels
            pictures = len(x) // split
            for name, shape in wanted.items():
                value = state.get(name)
                if isinstance(value, Tensor) and value.shape == (pictures, *shape):
                    state[name] = value.repeat_interleave(split, dim=0)
                elif isinstance(value, Tensor) and shape and value.shape == (pictures, split * shape[0], *shape[1:]):
                    state[name] = value.reshape(-1, *shape)
        checked = degradation.check(x, _moved(state, x.device))
        degradation.check_values(x, checked)
        return checked


def _moved(state: State, device: torch.device) -> State:
    """The state on another device; what is no tensor is left for `Degradation.check` to refuse."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in state.items()}
