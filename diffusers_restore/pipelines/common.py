"""What the calls of all pipelines have in common: callbacks, batches, results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from .. import images
from ..errors import InvalidInputError, unknown_name

Callback = Callable[[DiffusionPipeline, int, int, dict[str, Tensor]], dict[str, Tensor] | None]
OutputType = Literal["pil", "np", "pt"]


def check_output_type(output_type: str) -> None:
    """Raise UnknownNameError for another output type."""
    if output_type not in ("pil", "np", "pt"):
        raise unknown_name("output_type", output_type, ("pil", "np", "pt"))


def check_channels(output_type: str, channels: int) -> None:
    """Raise InvalidInputError if pictures of so many channels can't be shown."""
    if output_type == "pil" and channels not in (1, 3):
        raise InvalidInputError(f"output_type='pil' needs 1 or 3 channels, got {channels}; use 'np' or 'pt'")


def check_callback(callback: Callback | None, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise InvalidInputError for what isn't a callback, or for a tensor that it can't have."""
    if callback is not None and not callable(callback):
        raise InvalidInputError(f"callback_on_step_end must be a function or None, got {callback!r}")
    if not isinstance(names, (list, tuple)):
        raise InvalidInputError(f"callback_on_step_end_tensor_inputs must be a list of names, got {names!r}")
    for name in names:
        if name not in known:
            raise unknown_name("callback tensor", name, known)


def check_generators(
    generator: torch.Generator | list[torch.Generator] | None, pictures: int
) -> torch.Generator | list[torch.Generator] | None:
    """The generator, or the list of one for each picture; anything else raises InvalidInputError."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if not isinstance(generator, list) or not all(isinstance(one, torch.Generator) for one in generator):
        raise InvalidInputError(f"generator must be a torch.Generator or a list of them, got {generator!r}")
    if len(generator) != pictures:
        raise InvalidInputError(f"generator must be one, or a list of {pictures} for this batch; got {len(generator)}")
    return generator


def pictures_at_once(device: torch.device, batch: int) -> int:
    """One on a CPU, where the size of a batch changes how sums are rounded; else the whole batch."""
    return 1 if device.type == "cpu" else batch


def size_multiple(unet: Any) -> int:
    """What height and width must be multiples of, for a UNet to halve them."""
    return int(2 ** (len(unet.config.block_out_channels) - 1))


def replaced(sample: Tensor, answer: Any) -> Tensor:
    """The sample, or what a callback answered in its place."""
    if answer is None or answer == {}:
        return sample
    new = answer.get("sample") if isinstance(answer, dict) and set(answer) == {"sample"} else None
    if not isinstance(new, Tensor) or new.shape != sample.shape:
        raise InvalidInputError(
            f"callback_on_step_end must return None or {{'sample': a tensor {tuple(sample.shape)}}}, got {answer!r:.99}"
        )
    return new.to(sample)


def finished(pictures: Tensor, output_type: OutputType, return_dict: bool) -> ImagePipelineOutput | tuple[Any]:
    """Pictures (B, C, H, W) in [-1, 1] as a call returns them."""
    result: Any = pictures
    if output_type == "pil":
        result = images.to_pil(pictures)
    elif output_type == "np":
        result = images.to_numpy(pictures)
    return ImagePipelineOutput(images=result) if return_dict else (result,)
