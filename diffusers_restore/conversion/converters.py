"""What is done with a checkpoint of each codebase: one table for whoever converts files of any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import ModelCard

from .checkpoint_files import Family
from .old_photos import card_of_old_photos, describe_old_photos, load_old_photos
from .pipeline import conversion_card, describe_network, pipeline_of_guided_diffusion
from .pix2pix import card_of_generator, describe_generator, pipeline_of_pix2pix


@dataclass(frozen=True)
class Converter:
    """How the weights of one codebase become a folder.

    Attributes:
        options: names of the arguments of `convert` beside the weights.
        convert: the pipeline of weights by their published names; raises InvalidInputError.
        describe: what was found, a line for each heading.
        card: the model card of a pipeline, by the file and the command that it is from.
        trial: the arguments of `diffusers-restore` that restore a picture, but for the model; None where it takes or
            makes no pictures.
    """

    options: tuple[str, ...]
    convert: Callable[..., DiffusionPipeline]
    describe: Callable[[Any], dict[str, str]]
    card: Callable[[Any, Path, str], ModelCard]
    trial: Callable[[Any], tuple[str, ...] | None]


def _trial_of_network(pipe: Any) -> tuple[str, ...]:
    labels = () if pipe.unet.config.num_class_embeds is None else ("--class-label", "0")
    return ("restore", "small.png", "-o", "large.png", "--task", "sr4", *labels)


def _trial_of_generator(pipe: Any) -> tuple[str, ...] | None:
    channels = {pipe.generator.config.in_channels, pipe.generator.config.out_channels}
    return ("restore", "photo.png", "-o", "out.png") if channels <= {1, 3} else None


def _trial_of_old_photos(pipe: Any) -> tuple[str, ...]:
    mask = ("--mask", "mask.png") if pipe.mapping.takes_mask and pipe.scratch_detector is None else ()
    return ("restore", "photo.png", "-o", "out.png", *mask)


OLD_PHOTOS = Converter(("route",), load_old_photos, describe_old_photos, card_of_old_photos, _trial_of_old_photos)
"""For a folder of several networks, which none of them makes alone."""

CONVERTERS: dict[Family, Converter] = {
    "guided-diffusion": Converter(
        (
            "num_head_channels",
            "num_heads",
            "attention_order",
            "image_size",
            "noise_schedule",
            "timesteps",
            "rescale_timesteps",
        ),
        pipeline_of_guided_diffusion,
        describe_network,
        conversion_card,
        _trial_of_network,
    ),
    "pix2pix": Converter(("dropout",), pipeline_of_pix2pix, describe_generator, card_of_generator, _trial_of_generator),
}
