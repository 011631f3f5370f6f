"""The autoencoder of "Bringing Old Photos Back to Life" (arXiv:2004.09484)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, get_args

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError, check_int, unknown_name
from .generator_resnet import TranslatorBlock
from .image_translator import check_sample, instance_norm
from .plug_in import SavesPlugIn, check_network_config

Part = Literal["both", "encoder", "decoder"]
EDGE = 3  # of the first and the last convolution, whose borders are mirrored


class OldPhotoVAE(SavesPlugIn, ModelMixin, PlainConfigMixin):
    """x -> z -> x, with q(z | x) = N(encode(x), 1): z is a quarter as high and wide as x.

    The encoder is a convolution of 7 x 7, two that halve the picture, and residual blocks, all with instance norms; the
    decoder is its mirror image and ends in tanh. In training, noise of variance 1 is added to z (section 3.1).

    Args:
        in_channels: of the pictures.
        block_out_channels: channels of each level, finest first; the last are those of z.
        num_blocks: residual blocks on each side.

    Raises:
        InvalidInputError: an argument out of range.
    """

    @register_to_config
    def __init__(
        self, in_channels: int = 3, block_out_channels: tuple[int, ...] = (64, 64, 64), num_blocks: int = 4
    ) -> None:
        super().__init__()
        widths = check_network_config(self.config)
        check_int("num_blocks", num_blocks, 1)
        edge: dict[str, Any] = {"padding": EDGE, "padding_mode": "reflect"}
        halving: dict[str, Any] = {"stride": 2, "padding": 1}
        self.conv_in = nn.Conv2d(in_channels, widths[0], 2 * EDGE + 1, **edge)
        self.down_convs = nn.ModuleList(nn.Conv2d(fine, coarse, 4, **halving) for fine, coarse in pairwise(widths))
        self.encoder_blocks = nn.ModuleList(TranslatorBlock(widths[-1], norm_affine=False) for _ in range(num_blocks))
        self.decoder_blocks = nn.ModuleList(TranslatorBlock(widths[-1], norm_affine=False) for _ in range(num_blocks))
        self.up_convs = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 4, **halving) for fine, coarse in pairwise(widths)
        )
        self.conv_out = nn.Conv2d(widths[0], in_channels, 2 * EDGE + 1, **edge)
        self.norms = nn.ModuleList(instance_norm(width, affine=False) for width in widths)  # without weights

    @property
    def size_multiple(self) -> int:
        """What height and width must be multiples of."""
        return int(2 ** len(self.down_convs))

    @property
    def min_size(self) -> int:
        """The shortest side of a picture, a multiple of `size_multiple`: borders are mirrored, those of z, too."""
        return max(2 * self.size_multiple, -(-(EDGE + 1) // self.size_multiple) * self.size_multiple)

    def encode(self, sample: Tensor) -> Tensor:
        """z (B, C', H / 4, W / 4) of pictures (B, C, H, W) in [-1, 1]; H and W are multiples of `size_multiple`.

        Raises:
            InvalidInputError: sizes that don't fit.
        """
        return self(sample, "encoder")

    def decode(self, latent: Tensor) -> Tensor:
        """The pictures (B, C, 4 H, 4 W) of z (B, C', H, W).

        Raises:
            InvalidInputError: sizes that don't fit.
        """
        return self(latent, "decoder")

    def forward(self, sample: Tensor, part: Part = "both") -> Tensor:
        """Pictures by way of their latents.

        Args:
            sample: pictures, or the latents for the decoder.
            part: "encoder" ends with the latents, "decoder" begins with them.

        Raises:
            InvalidInputError: sizes that don't fit, or another part.
        """
        if part not in get_args(Part):
            raise unknown_name("part", part, get_args(Part))
        if part == "decoder":
            return self._decoded(sample)
        z = self._encoded(sample)
        return z if part == "encoder" else self._decoded(z)

    def _encoded(self, sample: Tensor) -> Tensor:
        check_sample(sample, self.config.in_channels)
        if any(n % self.size_multiple or n < self.min_size for n in sample.shape[2:]):
            raise InvalidInputError(
                f"sample must have sides that are multiples of {self.size_multiple}, of {self.min_size} and more, got "
                f"{tuple(sample.shape)}"
            )
        x = functional.relu(self.norms[0](self.conv_in(sample)))
        for conv, norm in zip(self.down_convs, self.norms[1:], strict=True):
            x = functional.relu(norm(conv(x)))
        for block in self.encoder_blocks:
            x = block(x, None)
        return x

    def _decoded(self, latent: Tensor) -> Tensor:
        check_sample(latent, self.config.block_out_channels[-1])
        least = self.min_size // self.size_multiple
        if min(latent.shape[2:]) < least:
            raise InvalidInputError(f"latent must have sides of {least} and more, got {tuple(latent.shape)}")
        x = latent
        for block in self.decoder_blocks:
            x = block(x, None)
        for conv, norm in zip(reversed(self.up_convs), reversed(self.norms[:-1]), strict=True):
            x = functional.relu(norm(conv(x)))
        return self.conv_out(x).tanh()
