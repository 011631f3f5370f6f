"""The U-Net generator of Pix2pix (arXiv:1611.07004)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InvalidInputError
from .image_translator import ImageTranslator, initialise, instance_norm
from .plug_in import check_network_config


class UNetGenerator(ImageTranslator):
    """G(x, z): 4 x 4 strided convolutions down to one pixel of a 256 px picture, and up again with skips.

    With N widths, level k halves the picture: x_k = norm(conv(leaky_relu(x_{k-1}))), without a norm at both ends; then
    y_{k-1} = [x_{k-1}, dropout(norm(conv^T(relu(y_k))))], and the last y through tanh. Dropout is in the middle levels
    on the way up where the width stays the same (arXiv:1611.07004, section 6.1.1).

    Args:
        sample_size: side of the pictures that it was trained on.
        in_channels, out_channels: of the pictures.
        block_out_channels: channels of each level, finest first: eight of them are "unet_256", seven "unet_128".
        dropout: share of the activations that are dropped, in training and evaluation.
        norm_affine: norms have weights; otherwise the convolutions before them have biases.

    Raises:
        InvalidInputError: an argument out of range.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = 256,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512, 512),
        dropout: float = 0.5,
        norm_affine: bool = True,
    ) -> None:
        super().__init__()
        widths = check_network_config(self.config)
        if len(widths) < 2:
            raise InvalidInputError(f"block_out_channels must name two or more levels, got {block_out_channels!r}")
        bias, last = not norm_affine, len(widths) - 1
        options: dict[str, Any] = {"stride": 2, "padding": 1}
        inputs = (in_channels, *widths[:-1])
        self.down_convs = nn.ModuleList(
            nn.Conv2d(fine, coarse, 4, bias=bias, **options) for fine, coarse in zip(inputs, widths, strict=True)
        )
        self.down_norms = nn.ModuleList(instance_norm(width, norm_affine) for width in widths[1:-1])
        # Number k leads from level k + 1 to level k, of which all but the coarsest come with a skip.
        self.up_convs = nn.ModuleList(
            nn.ConvTranspose2d(coarse if k + 1 == last else 2 * coarse, fine, 4, bias=bias, **options)
            for k, (fine, coarse) in enumerate(pairwise(widths))
        )
        self.up_norms = nn.ModuleList(instance_norm(width, norm_affine) for width in widths[:-1])
        self.conv_out = nn.ConvTranspose2d(2 * widths[0], out_channels, 4, **options)
        initialise(self)

    @property
    def size_multiple(self) -> int:
        """As `ImageTranslator.size_multiple`."""
        return int(2 ** len(self.config.block_out_channels))

    @property
    def _dropped(self) -> list[int]:
        """The levels whose way up has dropout, coarsest first."""
        widths = self.config.block_out_channels
        return [k for k in range(len(widths) - 2, 0, -1) if self.config.dropout and widths[k - 1] == widths[k]]

    def noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """As `ImageTranslator.noise_shapes`."""
        return [(self.config.block_out_channels[k - 1], height >> k, width >> k) for k in self._dropped]

    def translate(self, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """As `ImageTranslator.translate`."""
        kept = dict(zip(self._dropped, noise, strict=True))
        last = len(self.down_convs) - 1
        skips = []
        for k, conv in enumerate(self.down_convs):
            x = conv(functional.leaky_relu(x, 0.2) if k else x)
            if 0 < k < last:
                x = self.down_norms[k - 1](x)
            skips.append(x)
        y = skips.pop()
        for k in range(last, 0, -1):
            y = self.up_norms[k - 1](self.up_convs[k - 1](functional.relu(y)))
            if k in kept:
                y = y * kept[k].to(y)
            y = torch.cat([skips.pop(), y], dim=1)
        return self.conv_out(functional.relu(y)).tanh()
