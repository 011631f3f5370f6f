"""The scratch detector of "Bringing Old Photos Back to Life" (arXiv:2004.09484)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError
from .image_translator import check_sample
from .plug_in import SavesPlugIn, check_network_config

_MIRRORED: dict[str, Any] = {"padding": 1, "padding_mode": "reflect"}


class ConvNorm(nn.Module):
    """leaky_relu(norm(conv(x))), a convolution of 3 x 3 with mirrored borders.

    Args:
        here, there: channels.
    """

    def __init__(self, here: int, there: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(here, there, 3, **_MIRRORED)
        self.norm = nn.BatchNorm2d(there)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.norm(self.conv(x)), 0.2)


def halve(x: Tensor) -> Tensor:
    """Every second pixel after a blur by [1, 2, 1] / 4 in both directions, with mirrored borders (arXiv:1904.11486)."""
    taps = x.new_ones(3)  # no copy of numbers to a GPU, which would wait
    taps[1] = 2
    kernel = (taps[:, None] * taps / 16).expand(x.shape[1], 1, 3, 3)
    return functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


class ScratchDetector(SavesPlugIn, ModelMixin, PlainConfigMixin):
    """A logit for each pixel of a grey photograph: whether it is scratched.

    A U-Net whose levels have two convolutions with batch norm, with blurred halving on the way down and bilinear
    doubling on the way up. The published network looks at photographs whose shorter side is 256 pixels, and takes
    probabilities of 0.4 and more for scratches.

    Args:
        block_out_channels: channels of each level, finest first.

    Raises:
        InvalidInputError: an argument out of range.
    """

    @register_to_config
    def __init__(self, block_out_channels: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        widths = check_network_config(self.config)
        self.conv_in = nn.Conv2d(1, widths[0], 7, padding=3, padding_mode="reflect")
        self.downsamplers = nn.ModuleList(ConvNorm(width, width) for width in widths[:-1])
        self.down_blocks = nn.ModuleList(
            nn.Sequential(ConvNorm(fine, coarse), ConvNorm(coarse, coarse)) for fine, coarse in pairwise(widths)
        )
        self.upsamplers = nn.ModuleList(nn.Conv2d(coarse, fine, 3, **_MIRRORED) for fine, coarse in pairwise(widths))
        self.up_blocks = nn.ModuleList(
            nn.Sequential(ConvNorm(2 * fine, fine), ConvNorm(fine, fine)) for fine in widths[:-1]
        )
        self.conv_out = nn.Conv2d(widths[0], 1, 3, **_MIRRORED)

    @property
    def size_multiple(self) -> int:
        """What height and width must be multiples of."""
        return int(2 ** len(self.down_blocks))

    def forward(self, sample: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of grey pictures (B, 1, H, W) in [-1, 1]; H and W are multiples of `size_multiple`.

        Raises:
            InvalidInputError: sizes that don't fit.
        """
        check_sample(sample, 1)
        least = 2 * self.size_multiple
        if any(n % self.size_multiple or n < least for n in sample.shape[2:]):
            raise InvalidInputError(
                f"sample must have sides that are multiples of {self.size_multiple}, of {least} and more, got "
                f"{tuple(sample.shape)}"
            )
        x = functional.leaky_relu(self.conv_in(sample), 0.2)
        skips = []
        for downsample, block in zip(self.downsamplers, self.down_blocks, strict=True):
            skips.append(x)
            x = block(halve(downsample(x)))
        for upsample, block in zip(reversed(self.upsamplers), reversed(self.up_blocks), strict=True):
            up = upsample(functional.interpolate(x, scale_factor=2, mode="bilinear"))
            x = block(torch.cat([up, skips.pop()], dim=1))
        return self.conv_out(x)
