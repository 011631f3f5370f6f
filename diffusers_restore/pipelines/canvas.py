"""Pictures to a network's input and back: its channels, a size that it can halve, one at a time or together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor
from torch.nn import functional

from .. import images
from ..errors import InvalidInputError, check_int, unknown_name
from ..models.image_translator import ImageTranslator
from ..models.unet_2d_residual import ResidualUNet2DModel
from ..tensors import LUMA
from .common import Network, uncompiled

OutputType = Literal["pil", "np", "pt", "latent"]


@dataclass(frozen=True)
class Canvas:
    """What a network of C channels works on: pictures (B, C', H, W), laid out as (B C' / C, C, H, W).

    Attributes:
        channels: C, of the network.
        split: images of the network's batch that make one picture: its channels on a grey network, else 1.
        grey: whether grey pictures on a colour network come back grey.
        size: (H, W) of the pictures.
        multiple: height and width must be multiples of this for the network.
        least: and not less than this, a multiple, too.
    """

    channels: int
    split: int
    grey: bool
    size: tuple[int, int]
    multiple: int = 1
    least: int = 1

    @classmethod
    def of(cls, pictures: Tensor, channels: int, multiple: int = 1, *, keeps_grey: bool) -> Self:
        """The canvas of pictures (B, C', H, W) on a network of `channels` channels.

        Raises:
            InvalidInputError: colours that the network doesn't have.
        """
        of_picture, size = pictures.shape[1], (pictures.shape[2], pictures.shape[3])
        if of_picture == 1 and channels == 3:
            return cls(channels, 1, keeps_grey, size, multiple)
        if channels != 1 and of_picture != channels:
            raise InvalidInputError(f"image has {of_picture} channels, the network takes {channels}")
        return cls(channels, of_picture if channels == 1 else 1, False, size, multiple)

    def lay(self, pictures: Tensor) -> Tensor:
        """Pictures as the network's batch, of their own size."""
        if pictures.shape[1] == 1 and self.channels == 3:
            return pictures.expand(-1, 3, -1, -1)
        return pictures.reshape(-1, self.channels, *pictures.shape[2:])

    def extend(self, x: Tensor) -> Tensor:
        """Pad below and to the right by repeating the last row and column, to the multiple that the network needs."""
        bottom, right = (max(self.least - n, -n % self.multiple) for n in self.size)
        padding = (0, right, 0, bottom)
        return functional.pad(x, padding, mode="replicate")

    def crop(self, x: Tensor) -> Tensor:
        """Undo `extend`."""
        return x[:, :, : self.size[0], : self.size[1]]

    def to_pictures(self, x: Tensor) -> Tensor:
        """Undo `lay` and `extend`; of a grey picture that went through colours, their mean."""
        x = self.crop(x).contiguous()  # frees the memory of the borders
        if self.grey:
            x = x.mean(dim=1, keepdim=True)
        return x.reshape(-1, self.split * x.shape[1], *self.size)


def with_channels(pictures: Tensor, channels: int) -> Tensor:
    """Pictures (B, C, H, W) of another number of channels: grey ones of colours, or three of one.

    Raises:
        InvalidInputError: other numbers of channels.
    """
    given = pictures.shape[1]
    if given == 3 and channels == 1:
        red, green, blue = (weight * part for weight, part in zip(LUMA, pictures.split(1, dim=1), strict=True))
        return red + green + blue  # not a product of matrices, whose rounding depends on the number of pictures
    if given not in (1, channels):
        raise InvalidInputError(f"image has {given} channels, the network takes {channels}")
    return pictures.expand(-1, channels, -1, -1)


def check_mask(mask: object, pictures: int, height: int, width: int, device: torch.device) -> Tensor:
    """A mask as (B, 1, H, W) float32 on the device, 1 where a picture is damaged.

    Args:
        mask: a tensor of 0 and 1, or a black and white picture as PIL or an array, white where it is damaged.
        pictures, height, width: of the pictures.
        device: where they are.

    Raises:
        InvalidInputError: another type or shape, or other values than 0 and 1.
    """
    what = f"mask must be 1 where the picture is damaged and 0 elsewhere, (B, 1, {height}, {width}) or smaller"
    if mask is None:
        raise InvalidInputError(f"{what}, for this network; got None")
    if not isinstance(mask, Tensor):
        given: Any = mask.astype(np.float32) if isinstance(mask, np.ndarray) and mask.dtype == bool else mask
        mask = (images.to_tensor(given, name="mask").mean(dim=1, keepdim=True) + 1) / 2
    shown = mask.to(device, torch.float32)
    shown = shown.reshape((1,) * (4 - shown.ndim) + tuple(shown.shape)) if shown.ndim in (2, 3) else shown
    if shown.shape not in ((1, 1, height, width), (pictures, 1, height, width)):
        raise InvalidInputError(f"{what}; got {tuple(mask.shape)}")
    if not bool(((shown == 0) | (shown == 1)).all()):
        raise InvalidInputError(f"{what}; got values from {float(shown.min()):g} to {float(shown.max()):g}")
    return shown.expand(pictures, -1, -1, -1)


def pictures_at_once(device: torch.device, batch: int) -> int:
    """One on a CPU, where the size of a batch changes how sums are rounded; else the whole batch."""
    return 1 if device.type == "cpu" else batch


def size_multiple(network: Any) -> int:
    """The number that height and width must be multiples of, for a network to halve them."""
    own = uncompiled(network)
    if isinstance(own, (ResidualUNet2DModel, ImageTranslator)):
        return own.size_multiple
    return int(2 ** (len(own.config.block_out_channels) - 1))


def new_size(unet: Network) -> tuple[int, int]:
    """Height and width of the pictures that a network generates.

    Raises:
        InvalidInputError: its configuration doesn't state them.
    """
    size = unet.config.sample_size
    if size is None:
        raise InvalidInputError("unet.config.sample_size says nothing about the size of new pictures; set it")
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def new_count(batch_size: int | None) -> int:
    """How many pictures to generate; None is 1."""
    return check_int("batch_size", 1 if batch_size is None else batch_size, 1)


def check_output_type(output_type: str) -> None:
    """Raise UnknownNameError for another output type."""
    if not isinstance(output_type, str) or output_type not in get_args(OutputType):
        raise unknown_name("output_type", output_type, get_args(OutputType))


def check_channels(output_type: str, channels: int) -> None:
    """Raise InvalidInputError if pictures with this number of channels can't be output."""
    if output_type == "pil" and channels not in (1, 3):
        raise InvalidInputError(f"output_type='pil' needs 1 or 3 channels, got {channels}; use 'np', 'pt' or 'latent'")


def to_output(pictures: Tensor, output_type: OutputType, return_dict: bool) -> ImagePipelineOutput | tuple[Any]:
    """Pictures (B, C, H, W) in [-1, 1] as the return value of a call.

    As diffusers' `VaeImageProcessor` has it: "pt" is (B, C, H, W) and "np" (B, H, W, C), both clipped to [0, 1];
    "latent" is what the model works on, unclipped.
    """
    result: Any = pictures
    if output_type == "pil":
        result = images.to_pil(pictures)
    elif output_type != "latent":
        result = (pictures * 0.5 + 0.5).clamp(0, 1)
        if output_type == "np":
            result = result.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return ImagePipelineOutput(images=result) if return_dict else (result,)
