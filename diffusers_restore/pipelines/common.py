"""What the calls of all pipelines have in common: callbacks, batches, results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import is_compiled_module
from torch import Tensor

from .. import images
from ..errors import InvalidInputError, unknown_name
from ..models.unet_2d_residual import ResidualUNet2DModel

Network: TypeAlias = UNet2DModel | ResidualUNet2DModel
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


def check_callback(callback: Callback | None, names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """The tensors that the callback gets: `names`, or what a callback object of diffusers asks for.

    Raises:
        InvalidInputError: what isn't a callback, or a tensor that it can't have.
    """
    if callback is not None and not callable(callback):
        raise InvalidInputError(f"callback_on_step_end must be a function or None, got {callback!r}")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs
    if not isinstance(names, (list, tuple)):
        raise InvalidInputError(f"callback_on_step_end_tensor_inputs must be a list of names, got {names!r}")
    for name in names:
        if name not in known:
            raise unknown_name("callback tensor", name, known)
    return names


def check_network(name: str, network: Any) -> None:
    """Raise InvalidInputError for what is no `UNet2DModel` or `ResidualUNet2DModel`, compiled or not."""
    if not isinstance(_own(network), (UNet2DModel, ResidualUNet2DModel)):
        raise InvalidInputError(f"{name} must be a UNet2DModel or a ResidualUNet2DModel, got {type(network).__name__}")


def is_score_network(network: Network) -> bool:
    """Whether it gives the score of a VE process (arXiv:2011.13456), and is told of sigma instead of a timestep."""
    return bool(network.config.get("time_embedding_type") == "fourier")


def check_evaluates(name: str, network: Any) -> None:
    """Raise InvalidInputError for a network whose dropout is active."""
    if network.training and network.config.dropout > 0:
        raise InvalidInputError(f"{name} is in training mode, in which its dropout is active; call {name}.eval() first")


def check_scheduler(scheduler: Any, kind: type, example: str) -> None:
    """Raise InvalidInputError for a scheduler that was set on the pipeline and is not one of its own.

    Args:
        scheduler: that of the pipeline.
        kind: what it must be.
        example: the name of such a class.
    """
    if not isinstance(scheduler, kind):
        raise InvalidInputError(
            f"scheduler must be a {example}, got {type(scheduler).__name__}; set pipe.scheduler = "
            f"{example}.from_config(pipe.scheduler.config), or give it to the constructor"
        )


def _own(network: Any) -> Any:
    """The network inside one that was compiled."""
    return network._orig_mod if is_compiled_module(network) else network


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


def size_multiple(network: Any) -> int:
    """What height and width must be multiples of, for a network to halve them."""
    own = _own(network)
    if isinstance(own, ResidualUNet2DModel):
        return own.size_multiple
    return int(2 ** (len(own.config.block_out_channels) - 1))


def replaced(sample: Tensor, answer: Any, given: dict[str, Tensor]) -> Tensor:
    """The sample, or what a callback answered in its place; it may answer with all that it was given."""
    if answer is None or answer == {}:
        return sample
    known = isinstance(answer, dict) and all(name in given for name in answer if name != "sample")
    new = answer.get("sample", sample) if known else None
    if not isinstance(new, Tensor) or new.shape != sample.shape:
        raise InvalidInputError(
            f"callback_on_step_end must return None or {{'sample': a tensor {tuple(sample.shape)}}}, got {answer!r:.99}"
        )
    for name, value in answer.items():
        if name != "sample" and value is not given[name]:
            raise InvalidInputError(f"callback_on_step_end can replace 'sample' alone, and not {name!r}")
    return new.to(sample)


def finished(pictures: Tensor, output_type: OutputType, return_dict: bool) -> ImagePipelineOutput | tuple[Any]:
    """Pictures (B, C, H, W) in [-1, 1] as a call returns them."""
    result: Any = pictures
    if output_type == "pil":
        result = images.to_pil(pictures)
    elif output_type == "np":
        result = images.to_numpy(pictures)
    return ImagePipelineOutput(images=result) if return_dict else (result,)
