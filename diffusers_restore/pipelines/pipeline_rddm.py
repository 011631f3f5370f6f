"""Restoration, translation and generation by RDDM (arXiv:2308.13712)."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any, NamedTuple

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from .. import images
from ..errors import InvalidInputError, check_bool, check_real
from ..generators import check_generators
from ..hub.cards import CardText
from ..hub.saving import HubMixin
from ..schedulers.ddpm import is_of_ddpm
from ..schedulers.scheduling_rddm import RDDMScheduler
from ..tensors import described
from .canvas import (
    Canvas,
    OutputType,
    check_channels,
    check_mask,
    check_output_type,
    new_count,
    new_size,
    pictures_at_once,
    size_multiple,
    to_output,
)
from .chain import Callback, Watch, check_callback, own_scheduler, run_chain
from .common import Network, check_evaluates, check_network, is_score_network
from .tiles import TilingMixin


class Inputs(NamedTuple):
    """The inputs of the network beside I_t.

    Attributes:
        channels: C of the pictures.
        conditioned: the degraded pictures.
        masked: also a mask of one channel.
    """

    channels: int
    conditioned: bool
    masked: bool


def network_inputs(unet: Network, heads: int) -> Inputs:
    """The inputs that a network with `heads` outputs takes, from its numbers of channels.

    Its input is I_t, I_t and I_in, or I_t, I_in and a mask: C, 2C or 2C + 1 channels. Its output has `heads` times C
    channels; with C input and 2C output channels for one head, it is a DDPM's network with a learned variance.

    Raises:
        InvalidInputError: numbers of channels that are none of these, class labels, or the network of a VE process.
    """
    inputs, outputs = unet.config.in_channels, unet.config.out_channels
    if unet.config.num_class_embeds is not None or unet.config.get("class_embed_type") is not None:
        raise InvalidInputError("a network is class-conditional; one that takes no class labels is needed")
    if is_score_network(unet):
        raise InvalidInputError(
            "a network is a score network of a VE process (time_embedding_type='fourier'), which can't be told of t = 0"
        )
    channels = inputs if heads == 1 and outputs == 2 * inputs else outputs // heads
    kinds = {channels: (False, False), 2 * channels: (True, False), 2 * channels + 1: (True, True)}
    if inputs not in kinds or outputs % heads:
        raise InvalidInputError(
            f"a network with {inputs} input and {outputs} output channels doesn't fit: of pictures with C channels, "
            f"this scheduler needs C, 2C (with the degraded picture) or 2C + 1 (with a mask) inputs and {heads}C "
            "outputs"
        )
    return Inputs(channels, *kinds[inputs])


def network_condition(inputs: Inputs, degraded: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """The network's inputs beside I_t: nothing, (I_in,), or (I_in, the mask as -1 and 1)."""
    if not inputs.conditioned:
        return ()
    return (degraded,) if mask is None else (degraded, 2 * mask - 1)


def network_codes(scheduler: RDDMScheduler, timestep: int | Tensor) -> tuple[float | Tensor, float | Tensor]:
    """The time codes of the first network (that of the noise if it predicts nothing else) and of the second."""
    of_residual, of_noise = scheduler.time_codes(timestep)
    return (of_noise if scheduler.heads == ("epsilon",) else of_residual), of_noise


def network_outputs(
    unet: nn.Module,
    unet_noise: nn.Module | None,
    scheduler: RDDMScheduler,
    sample: Tensor,
    condition: tuple[Tensor, ...],
    timestep: int | Tensor,
) -> Tensor:
    """All outputs that `RDDMScheduler.step` takes, (B, C or 2C, H, W), of one or two networks.

    Args:
        unet: has the outputs of `scheduler.heads`; with `unet_noise`, the first of them.
        unet_noise: has the second, or None.
        scheduler: gives the time codes.
        sample: I_t, (B, C, H, W).
        condition: of `network_condition`.
        timestep: t, one or (B,).
    """
    x = torch.cat([sample, *condition], dim=1)
    codes = network_codes(scheduler, timestep)
    outputs = []
    for network, code in zip((unet, unet_noise), codes, strict=True):
        if network is not None:
            if isinstance(code, Tensor):
                t = code.to(x.device).expand(len(x))
            else:  # filled on the device, without a host sync
                t = torch.full((len(x),), code, device=x.device)
            outputs.append(network(x, t, return_dict=False)[0])
            check_output(outputs[-1], sample)
    heads = 1 if unet_noise is not None else len(scheduler.heads)
    return torch.cat([one[:, : heads * sample.shape[1]] for one in outputs], dim=1)  # without a learned variance


def check_output(output: object, sample: Tensor) -> None:
    """Raise InvalidInputError unless a network gave floats of the batch and the size of its sample."""
    batch, _, *size = sample.shape
    right = isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point()
    if not isinstance(output, Tensor) or not right or [len(output), *output.shape[2:]] != [batch, *size]:
        raise InvalidInputError(
            f"a network's output must be floats (B, C, H, W) of the batch and size of {tuple(sample.shape)}, got "
            f"{described(output)}"
        )


class RDDMPipeline(TilingMixin, HubMixin, DiffusionPipeline):
    """Removes the residual and the noise from degraded pictures in a few steps, from I_T = I_in + noise to I_0.

    One network predicts everything (2C outputs for "residual_epsilon" and similar), or `unet` predicts the residual (or
    I_0) and `unet_noise` the noise. Networks take I_t with the degraded picture (and a mask), or I_t alone: then
    pictures are translated, or, from noise, generated. A DDPM's repository loads directly and generates as its DDIM.
    Several threads may call one pipeline at once.

    Args:
        unet: a `UNet2DModel` or `ResidualUNet2DModel`, such as `examples/train_rddm.py` trains.
        scheduler: a `RDDMScheduler`; any other of a variance-preserving process is converted for a network that is not
            shown the degraded picture.
        unet_noise: the network for the second output, where there are two.
        keeps_grey: grey pictures come back grey from a colour network; False for one that colours them.
        generates: for networks that take I_t alone: whether they learned to make pictures from noise (True) or from
            other pictures (False); None allows both.

    Raises:
        InvalidInputError: networks or a scheduler that don't fit together.

    Examples:
        >>> import torch
        >>> from diffusers import UNet2DModel
        >>> from diffusers_restore import RDDMPipeline, RDDMScheduler
        >>> unet = UNet2DModel(16, 6, 3, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
        ...                    up_block_types=("UpBlock2D",) * 2, add_attention=False)
        >>> pipe = RDDMPipeline(unet, RDDMScheduler(noise_scale=0.01))
        >>> pipe(torch.zeros(1, 3, 20, 30), num_inference_steps=2).images[0].size
        (30, 20)
    """

    scheduler_name = "RDDMScheduler"
    model_cpu_offload_seq = "unet->unet_noise"
    _optional_components = ["unet_noise"]
    _callback_tensor_inputs = [
        "latents",
        "sample",
        "pred_original_sample",
        "pred_residual",
        "pred_epsilon",
    ]

    def __init__(
        self,
        unet: Network,
        scheduler: SchedulerMixin,
        unet_noise: Network | None = None,
        keeps_grey: bool = True,
        generates: bool | None = None,
    ) -> None:
        super().__init__()
        for name, network in (("unet", unet), ("unet_noise", unet_noise)):
            if network is not None or name == "unet":
                check_network(name, network)
        if not isinstance(scheduler, SchedulerMixin):
            raise InvalidInputError(f"scheduler must be a RDDMScheduler, got {type(scheduler).__name__}")
        given = type(scheduler).__name__
        if not isinstance(scheduler, RDDMScheduler):
            scheduler = RDDMScheduler.from_config({**scheduler.config, "_class_name": type(scheduler).__name__})
        heads = len(scheduler.heads)
        if unet_noise is not None and heads != 2:
            raise InvalidInputError(
                f"unet_noise must be None: prediction_type {scheduler.config.prediction_type!r} has one output"
            )
        if unet_noise is None and heads == 2 and scheduler.config.time_embedding == "cumulative":
            raise InvalidInputError(
                "time_embedding='cumulative' tells the residual and the noise apart, which takes two networks, or one "
                f"output; prediction_type {scheduler.config.prediction_type!r} needs unet_noise"
            )
        networks = [one for one in (unet, unet_noise) if one is not None]
        kinds = [network_inputs(one, heads // len(networks)) for one in networks]
        if kinds[0] != kinds[-1]:
            raise InvalidInputError(f"unet and unet_noise must have the same inputs, got {kinds[0]} and {kinds[-1]}")
        if kinds[0].conditioned and given != type(scheduler).__name__:
            raise InvalidInputError(
                f"scheduler must be a RDDMScheduler for a network that is shown the degraded picture, got {given}; "
                'RDDMScheduler.from_pretrained(folder, subfolder="scheduler") is the one that it was trained with'
            )
        check_bool("keeps_grey", keeps_grey)
        if generates not in (None, True, False):
            raise InvalidInputError(f"generates must be True, False or None, got {generates!r}")
        self.register_modules(unet=unet, scheduler=scheduler, unet_noise=unet_noise)
        self.register_to_config(keeps_grey=keeps_grey, generates=generates)
        self._num_timesteps = 0

    @property
    def card_text(self) -> CardText:
        """What a new model card says."""
        inputs, generates = self.inputs, self.config.generates
        lines = ["from diffusers_restore import RDDMPipeline", "", 'pipe = RDDMPipeline.from_pretrained("{repo_id}")']
        if inputs.conditioned or generates is False:
            lines.insert(0, "from PIL import Image")
            mask = ""
            if inputs.masked:
                lines[1] = "from diffusers_restore import RDDMPipeline, images"
                mask = ', mask=images.load_mask("damaged.png")'
            steps = min(5, len(self.scheduler))
            call = f'pipe(Image.open("photo.png"){mask}, num_inference_steps={steps}).images[0]'
            lines.append(f"{'restored' if inputs.conditioned else 'translated'} = {call}")
            what, tags = ("A restorer" if inputs.conditioned else "A translator"), ("image-to-image",)
        else:
            lines.append(f"new = pipe(batch_size=4, num_inference_steps={min(10, len(self.scheduler))}).images")
            what, tags = "A generator", ("unconditional-image-generation",)
        shown = " White in `damaged.png` is where the picture is damaged." if inputs.masked else ""
        restores = ("image-restoration",) if inputs.conditioned else ()
        return CardText(
            f"{what} of pictures by RDDM (arXiv:2308.13712), in few steps.{shown}",
            "\n".join(lines),
            (*tags, *restores, "rddm"),
        )

    @property
    def num_timesteps(self) -> int:
        """How many steps the last call made for each picture."""
        return self._num_timesteps

    @property
    def inputs(self) -> Inputs:
        """The inputs of the networks beside I_t."""
        return network_inputs(self.unet, len(self.scheduler.heads) if self.unet_noise is None else 1)

    @torch.no_grad()
    def __call__(
        self,
        image: images.ImageInput | None = None,
        mask: images.ImageInput | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        eta: float = 0.0,
        batch_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents", "sample"),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restore or translate degraded pictures, or generate new ones where no `image` is given.

        A batch gives what its pictures give one by one, bit for bit on a CPU, with one generator for each. Grey
        pictures on a colour network come back grey if `keeps_grey` is set; a colour picture on a grey network
        goes through it channel by channel.

        Args:
            image: the degraded pictures, of any size: PIL, arrays in [0, 1] (or integers), tensors (B, C, H, W) in
                [-1, 1], or a list of one size.
            mask: where they are damaged, 1, and 0 elsewhere: (H, W), (1, H, W) or (B, 1, H, W), or a
                black and white picture, white there; for networks with one.
            num_inference_steps: 1..T; restorers need 1 to 10; None is 5, or T if that is less.
            timesteps: a decreasing list instead.
            eta: share of new noise in each step, [0, 1]; 0 for restoration.
            batch_size: how many pictures to generate; None is 1.
            generator: one, or one for each picture, for the noise.
            output_type: "pil", "np" ((B, H, W, C) in [0, 1]), "pt" ((B, C, H, W) in [0, 1]), both clipped, or "latent"
                ((B, C, H, W) in [-1, 1], the model's own units, not clipped).
            return_dict: False returns a tuple.
            callback_on_step_end: (pipeline, step, timestep, tensors) -> None or {"latents": what replaces it}. The
                tensors are the network's: padded to a size that it can halve.
            callback_on_step_end_tensor_inputs: which tensors it gets: "latents" and "sample" (one tensor),
                "pred_original_sample", "pred_residual", "pred_epsilon".

        Returns:
            `ImagePipelineOutput` with `images`.

        Raises:
            InvalidInputError: an argument that cannot be used; the message says what is accepted.
        """
        check_output_type(output_type)
        asked = check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        scheduler = own_scheduler(self.scheduler, RDDMScheduler)
        check_real("eta", eta, 0, 1)
        multiple = self._checked_multiple()
        if timesteps is None and num_inference_steps is None:
            num_inference_steps = min(5, len(scheduler))
        for one in (self.scheduler, scheduler):  # the pipeline's own keeps the timesteps of the last call
            one.set_timesteps(num_inference_steps, timesteps=timesteps)

        device, inputs = self._execution_device, self.inputs
        pictures = self._given(image, batch_size, inputs, scheduler).to(device)
        canvas = Canvas.of(pictures, inputs.channels, multiple, keeps_grey=self.config.keeps_grey)
        check_channels(output_type, canvas.split * inputs.channels)
        check_generators(generator, len(pictures))
        shown = self._checked_mask(mask, inputs, len(pictures), *canvas.size, device)
        degraded = canvas.lay(canvas.extend(pictures))
        size = pictures_at_once(device, len(degraded))
        parts = degraded.split(size)
        masks: Sequence[Tensor | None] = [None] * len(parts)
        if shown is not None:
            masks = canvas.extend(shown).repeat_interleave(canvas.split, dim=0).split(size)
        dtype = self.unet.dtype
        conditions = [
            tuple(one.to(dtype) for one in network_condition(inputs, *pair)) for pair in zip(parts, masks, strict=True)
        ]

        def draw() -> Tensor:
            shape = (len(pictures), canvas.split * inputs.channels, *degraded.shape[2:])
            return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32).reshape(degraded.shape)

        watch, networks = Watch(), "unet" if self.unet_noise is None else "unet or unet_noise"

        def step(t: int, states: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
            noises: Sequence[Tensor | None] = draw().split(size) if eta > 0 else [None] * len(parts)
            made = []
            for x, part, condition, noise in zip(states, parts, conditions, noises, strict=True):
                output = watch.see(networks, t, self._predict(scheduler, dtype, x, condition, t))
                made.append(scheduler.step(output, t, x, part, eta=eta, variance_noise=noise, return_dict=False))
            return made

        states = scheduler.start(degraded, draw()).split(size)
        steps = scheduler.timesteps.tolist()
        self._num_timesteps = len(steps)
        restored = canvas.to_pictures(run_chain(self, steps, states, step, callback_on_step_end, asked, watch))
        self.maybe_free_model_hooks()
        return to_output(restored, output_type, return_dict)

    def _checked_multiple(self) -> int:
        """The number that height and width must be multiples of; checks that the networks are ready to evaluate."""
        networks = {name: getattr(self, name) for name in ("unet", "unet_noise") if getattr(self, name) is not None}
        for name, network in networks.items():
            if network.dtype != self.unet.dtype:
                raise InvalidInputError(
                    f"unet and unet_noise must have the same dtype, got {self.unet.dtype} and {network.dtype}"
                )
            check_evaluates(name, network)
        return lcm(*map(size_multiple, networks.values()))

    def _given(
        self, image: images.ImageInput | None, batch_size: int | None, inputs: Inputs, scheduler: RDDMScheduler
    ) -> Tensor:
        """The degraded pictures (B, C, H, W), or zeros where new ones are generated."""
        if image is None:
            if inputs.conditioned:
                raise InvalidInputError("image is needed: the network restores pictures, it doesn't generate them")
            if self.config.generates is False:
                raise InvalidInputError("image is needed: the network was trained on pictures, it makes none of noise")
            return torch.zeros(new_count(batch_size), inputs.channels, *new_size(self.unet))
        if batch_size is not None:
            raise InvalidInputError(f"batch_size must be None where there is an image, got {batch_size!r}")
        if not inputs.conditioned and is_of_ddpm(scheduler.config):
            raise InvalidInputError(
                "image must be None: a network of an unconditional DDPM knows nothing of a degraded picture. "
                "DDRMPipeline restores with it; examples/train_rddm.py --init_from makes a restorer of it"
            )
        degraded = images.to_tensor(image)
        if self.config.generates and not inputs.conditioned:
            raise InvalidInputError("image must be None: the network makes pictures of noise, it restores none")
        return degraded

    def _predict(
        self,
        scheduler: RDDMScheduler,
        dtype: torch.dtype,
        sample: Tensor,
        condition: tuple[Tensor, ...],
        timestep: int,
    ) -> Tensor:
        """The networks' outputs in float32."""
        unet_noise = None if self.unet_noise is None else self._in_tiles(self.unet_noise)
        output = network_outputs(
            self._in_tiles(self.unet), unet_noise, scheduler, sample.to(dtype), condition, timestep
        )
        return output.to(sample.dtype)

    def _checked_mask(
        self,
        mask: images.ImageInput | None,
        inputs: Inputs,
        pictures: int,
        height: int,
        width: int,
        device: torch.device,
    ) -> Tensor | None:
        """The mask as (B, 1, H, W) float32, None for networks without one."""
        if not inputs.masked:
            if mask is not None:
                raise InvalidInputError("mask must be None: the network takes none")
            return None
        return check_mask(mask, pictures, height, width, device)
