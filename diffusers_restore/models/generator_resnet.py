"""The generator of residual blocks of Pix2pix and CycleGAN (arXiv:1703.10593)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InvalidInputError, check_int
from .image_translator import ImageTranslator, initialise, instance_norm
from .plug_in import check_network_config

MOST_BLOCKS = 100  # more are a mistake, or an attempt to fill the memory
EDGE = 3  # of the first and the last convolution, whose borders are mirrored


class TranslatorBlock(nn.Module):
    """x + norm(conv(dropout(relu(norm(conv(x)))))), with mirrored borders.

    Args:
        channels: of x.
        norm_affine: as of `ResnetGenerator`.
    """

    def __init__(self, channels: int, norm_affine: bool) -> None:
        super().__init__()
        options = {"padding": 1, "padding_mode": "reflect", "bias": not norm_affine}
        self.conv1 = nn.Conv2d(channels, channels, 3, **options)  # type: ignore[arg-type]
        self.norm1 = instance_norm(channels, norm_affine)
        self.conv2 = nn.Conv2d(channels, channels, 3, **options)  # type: ignore[arg-type]
        self.norm2 = instance_norm(channels, norm_affine)

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(hidden if noise is None else hidden * noise.to(hidden)))


class ResnetGenerator(ImageTranslator):
    """G(x, z): convolutions down to a quarter, residual blocks, and up again, through tanh (arXiv:1603.08155).

    Args:
        sample_size: side of the pictures that it was trained on.
        in_channels, out_channels: of the pictures.
        block_out_channels: channels of each level, finest first.
        num_blocks: residual blocks of the coarsest level: 9 are "resnet_9", 6 "resnet_6".
        dropout: share of the activations that are dropped in each block, in training and evaluation.
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
        block_out_channels: tuple[int, ...] = (64, 128, 256),
        num_blocks: int = 9,
        dropout: float = 0.5,
        norm_affine: bool = True,
    ) -> None:
        super().__init__()
        widths, bias = check_network_config(self.config), not norm_affine
        check_int("num_blocks", num_blocks, 1, MOST_BLOCKS)
        edge = {"padding": EDGE, "padding_mode": "reflect"}
        self.conv_in = nn.Conv2d(in_channels, widths[0], 2 * EDGE + 1, bias=bias, **edge)  # type: ignore[arg-type]
        self.norm_in = instance_norm(widths[0], norm_affine)
        self.down_convs = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1, bias=bias) for fine, coarse in pairwise(widths)
        )
        self.down_norms = nn.ModuleList(instance_norm(width, norm_affine) for width in widths[1:])
        self.blocks = nn.ModuleList(TranslatorBlock(widths[-1], norm_affine) for _ in range(num_blocks))
        self.up_convs = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 3, stride=2, padding=1, output_padding=1, bias=bias)
            for fine, coarse in pairwise(widths)
        )
        self.up_norms = nn.ModuleList(instance_norm(width, norm_affine) for width in widths[:-1])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 2 * EDGE + 1, **edge)  # type: ignore[arg-type]
        initialise(self)

    @property
    def size_multiple(self) -> int:
        """As `ImageTranslator.size_multiple`."""
        return int(2 ** len(self.down_convs))

    def noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """As `ImageTranslator.noise_shapes`."""
        if not self.config.dropout:
            return []
        shape = (self.config.block_out_channels[-1], height // self.size_multiple, width // self.size_multiple)
        return [shape] * len(self.blocks)

    @property
    def min_size(self) -> int:
        """As `ImageTranslator.min_size`: borders are mirrored, of the coarsest level, too."""
        return max(EDGE + 1, self.size_multiple + 1)

    def translate(self, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """As `ImageTranslator.translate`.

        Raises:
            InvalidInputError: a side too short to mirror a border.
        """
        if min(x.shape[2:]) < self.min_size:
            raise InvalidInputError(f"sample must have sides of {self.min_size} pixels or more, got {tuple(x.shape)}")
        x = functional.relu(self.norm_in(self.conv_in(x)))
        for conv, norm in zip(self.down_convs, self.down_norms, strict=True):
            x = functional.relu(norm(conv(x)))
        for i, block in enumerate(self.blocks):
            x = block(x, noise[i] if noise else None)
        for conv, norm in zip(reversed(self.up_convs), reversed(self.up_norms), strict=True):
            x = functional.relu(norm(conv(x)))
        return self.conv_out(x).tanh()
