"""From a checkpoint file of guided-diffusion to a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub import ModelCard
from torch import Tensor

from ..errors import InvalidInputError, check_int, unknown_name
from .cards import card_of_conversion, parameters
from .checkpoint_files import load_weights
from .guided_diffusion import AttentionOrder, convert_guided_diffusion

NoiseSchedule = Literal["linear", "cosine"]
NOISE_SCHEDULES: tuple[NoiseSchedule, ...] = ("linear", "cosine")


def load_guided_diffusion(
    file: str | Path,
    *,
    num_head_channels: int | None = None,
    num_heads: int | None = None,
    attention_order: AttentionOrder = "old",
    image_size: int | None = None,
    noise_schedule: NoiseSchedule = "linear",
    timesteps: int = 1000,
    rescale_timesteps: bool = False,
) -> DDPMPipeline:
    """A checkpoint of guided-diffusion or improved-diffusion as a pipeline, with the same outputs up to rounding.

    The options below can't be read from the file; they are those of the training.

    Args:
        file: .pt, .pth, .bin, .ckpt or .safetensors; only weights are read, no code is run.
        num_head_channels, num_heads: one of them, if there is attention.
        attention_order: "new" where the training had use_new_attention_order.
        image_size: None infers it from the channel multipliers that both codebases use.
        noise_schedule: "linear" or "cosine".
        timesteps: diffusion_steps of the training.
        rescale_timesteps: the network was given 1000 t / timesteps instead of t. The pipeline has the 1000 steps at
            which that is a whole number.

    Raises:
        InvalidInputError: the file can't be read or converted; the message gives the reason.
    """
    return pipeline_of_guided_diffusion(
        load_weights(Path(file)),
        num_head_channels=num_head_channels,
        num_heads=num_heads,
        attention_order=attention_order,
        image_size=image_size,
        noise_schedule=noise_schedule,
        timesteps=timesteps,
        rescale_timesteps=rescale_timesteps,
    )


def pipeline_of_guided_diffusion(
    state: Mapping[str, Tensor],
    *,
    num_head_channels: int | None = None,
    num_heads: int | None = None,
    attention_order: AttentionOrder = "old",
    image_size: int | None = None,
    noise_schedule: NoiseSchedule = "linear",
    timesteps: int = 1000,
    rescale_timesteps: bool = False,
) -> DDPMPipeline:
    """`load_guided_diffusion` of weights by their published names.

    Raises:
        InvalidInputError: they can't be converted; the message gives the reason.
    """
    schedule = noise_schedule_options(noise_schedule, timesteps, rescale_timesteps)
    config, weights = convert_guided_diffusion(
        state,
        num_head_channels=num_head_channels,
        num_heads=num_heads,
        attention_order=attention_order,
        image_size=image_size,
        timesteps=schedule["num_train_timesteps"],
    )
    inputs, outputs = config["in_channels"], config["out_channels"]
    if outputs not in (inputs, 2 * inputs) or inputs == 6:
        hint = "; it may be an upsampler, which is shown a small picture beside the noisy one" if inputs == 6 else ""
        raise InvalidInputError(
            f"the network has {inputs} input and {outputs} output channels{hint}. One that draws pictures has as many "
            "outputs as inputs, or twice as many with a learned variance"
        )
    with torch.device("meta"):
        unet = UNet2DModel.from_config(config)
    unet.load_state_dict(weights, assign=True)
    # Both codebases sample with the larger of the two variances of a DDPM where none is learned.
    variance = "learned_range" if outputs == 2 * inputs else "fixed_large"
    return DDPMPipeline(unet.eval(), DDPMScheduler(**schedule, variance_type=variance))


def noise_schedule_options(name: NoiseSchedule, timesteps: int, rescale_timesteps: bool) -> dict[str, Any]:
    """The options of a `DDPMScheduler` for a noise schedule of arXiv:2102.09672.

    "linear" is beta from 0.1 / T to 20 / T, which is 0.0001 to 0.02 for T = 1000; "cosine" is that of diffusers'
    squaredcos_cap_v2. With rescaled timesteps, alpha_bar' of step i is alpha_bar of step i T / 1000.

    Raises:
        InvalidInputError: an unknown name, or a number of steps that it is not made for.
    """
    if name not in NOISE_SCHEDULES:
        raise unknown_name("noise_schedule", name, NOISE_SCHEDULES)
    check_int("timesteps", timesteps, 21)  # below, beta would exceed 1
    options: dict[str, Any] = {"num_train_timesteps": timesteps, "beta_schedule": "squaredcos_cap_v2"}
    if name == "linear":
        options |= {"beta_schedule": "linear", "beta_start": 0.1 / timesteps, "beta_end": 20 / timesteps}
    if not rescale_timesteps or timesteps == 1000:
        return options
    if timesteps % 1000:
        raise InvalidInputError(
            f"timesteps must be a multiple of 1000 where they are rescaled, got {timesteps}: the network would be "
            "asked about fractions of a step"
        )
    alpha_bar = (1 - DDPMScheduler(**options).betas.double()).cumprod(0)[:: timesteps // 1000].tolist()
    betas = [1 - here / before for before, here in pairwise([1.0, *alpha_bar])]
    return {"num_train_timesteps": 1000, "trained_betas": betas}


def describe_network(pipe: DDPMPipeline) -> dict[str, str]:
    """What was read from a checkpoint and from the options, a line for each heading."""
    config, schedule = pipe.unet.config, pipe.scheduler.config
    size, channels = config.sample_size, config.block_out_channels
    attention = [f"{size >> i}x{size >> i}" for i, name in enumerate(config.down_block_types) if "Attn" in name]
    attention += ["the middle"] * config.add_attention
    heads = "one head" if config.attention_head_dim is None else f"heads of {config.attention_head_dim} channels"
    variance = ", learned variance" if schedule.variance_type == "learned_range" else ""
    changes = "residual blocks" if config.downsample_type == "resnet" else "convolutions"
    multipliers = ", ".join(f"{width / (config.time_embedding_dim / 4):g}" for width in channels)
    steps = f"{schedule.num_train_timesteps} steps"
    kind = f"{schedule.beta_schedule} schedule, {steps}"
    return {
        "parameters": parameters(sum(value.numel() for value in pipe.unet.parameters()), pipe.unet.dtype),
        "pictures": f"{size}x{size}, {config.in_channels} channel{'s' * (config.in_channels > 1)}{variance}",
        "channels": f"{', '.join(map(str, channels))} (multipliers {multipliers})",
        "blocks": f"{config.layers_per_block} in each level; the size changes by {changes}",
        "time": "scales and shifts" if config.resnet_time_scale_shift == "scale_shift" else "is added",
        "attention": f"at {', '.join(attention)}; {heads}" if attention else "none",
        "classes": "none" if config.num_class_embeds is None else str(config.num_class_embeds),
        "noise": kind if schedule.trained_betas is None else f"{steps} out of those of the training",
    }


def conversion_card(pipe: DDPMPipeline, file: Path, command: str) -> ModelCard:
    """The card of a converted checkpoint: from which file, by which command, and how to use it.

    Raises:
        OSError: the file can't be read.
    """
    labels = "" if pipe.unet.config.num_class_embeds is None else ", class_labels=0"
    return card_of_conversion(
        file,
        command,
        tags=("image-to-image", "image-restoration", "ddpm", "guided-diffusion"),
        source="the guided-diffusion family\n([arXiv:2105.05233](https://arxiv.org/abs/2105.05233))",
        notes="The network says what the original says, but for the rounding of its sums. The number of heads, the\n"
        "order of their weights and the noise schedule can't be seen in a checkpoint: they are as the command says,\n"
        "or the defaults.",
        found=describe_network(pipe),
        example=f"""from diffusers_restore import DDRMPipeline

pipe = DDRMPipeline.from_pretrained("this folder")
restored = pipe(picture, operator="sr4", sigma_y=0.01{labels}).images[0]""",
    )
