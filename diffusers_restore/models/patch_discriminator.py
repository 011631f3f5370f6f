"""The patch discriminator of Pix2pix (arXiv:1611.07004)."""

from __future__ import annotations

from itertools import pairwise

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError
from .image_translator import check_sample, initialise, instance_norm
from .plug_in import SavesPlugIn, check_network_config


class PatchDiscriminator(SavesPlugIn, ModelMixin, PlainConfigMixin):
    """D(x, y), a logit for each patch of a pair of pictures: whether y is real and not generated from x.

    Convolutions of 4 x 4 with leaky ReLU and, but in the first, norms; all halve the picture but the last two. With
    `kernel_size` 1 (the "pixel" discriminator), none does, and each pixel is judged by itself.

    Args:
        in_channels: of both pictures together.
        block_out_channels: channels after each convolution: 64 128 256 512 sees patches of 70 pixels, 64 128 of 16,
            64 128 256 512 512 512 of 286.
        kernel_size: 4 or 1.
        norm_affine: norms have weights; otherwise the convolutions before them have biases.

    Raises:
        InvalidInputError: an argument out of range.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 6,
        block_out_channels: tuple[int, ...] = (64, 128, 256, 512),
        kernel_size: int = 4,
        norm_affine: bool = True,
    ) -> None:
        super().__init__()
        widths, bias = check_network_config(self.config), not norm_affine
        if kernel_size not in (1, 4) or len(widths) < 2:
            raise InvalidInputError(
                f"kernel_size must be 4 or 1 and block_out_channels two or more numbers, got {kernel_size!r} and "
                f"{block_out_channels!r}"
            )
        inputs = (in_channels, *widths)
        # The last one of 1 x 1 has a bias only where the norms have none.
        biases = (True, *[bias] * (len(widths) - 1), bias or kernel_size == 4)
        self.convs = nn.ModuleList(
            nn.Conv2d(here, there, kernel_size, stride=stride, padding=kernel_size // 4, bias=has_bias)
            for (here, there), stride, has_bias in zip(pairwise((*inputs, 1)), self._strides, biases, strict=True)
        )
        self.norms = nn.ModuleList(instance_norm(width, norm_affine) for width in widths[1:])
        initialise(self)

    @property
    def _strides(self) -> list[int]:
        widths, halves = self.config.block_out_channels, self.config.kernel_size == 4
        return [2 if halves and i < len(widths) - 1 else 1 for i in range(len(widths) + 1)]

    @property
    def receptive_field(self) -> int:
        """Side of the patch, in pixels, that each logit depends on; beside that, norms see the whole picture."""
        field = 1
        for stride in reversed(self._strides):
            field = (field - 1) * stride + self.config.kernel_size
        return int(field)

    @property
    def min_size(self) -> int:
        """The shortest side of a picture that it can judge; of one pixel, norms leave nothing."""
        size = 1
        for stride in reversed(self._strides):
            size = size * 2 if stride == 2 else size + self.config.kernel_size // 4
        return max(2, size)

    def forward(self, sample: Tensor, activations: bool = False) -> Tensor | tuple[Tensor, ...]:
        """The logits (B, 1, h, w) of pairs (B, in_channels, H, W): x and y, one after the other.

        Args:
            sample: the pairs.
            activations: give what follows each convolution, of which the logits are the last.

        Raises:
            InvalidInputError: sizes that don't fit.
        """
        check_sample(sample, self.config.in_channels)
        if min(sample.shape[2:]) < self.min_size:
            raise InvalidInputError(
                f"sample must have sides of {self.min_size} pixels or more for patches of {self.receptive_field}, got "
                f"{tuple(sample.shape)}"
            )
        made = [sample]
        for i, conv in enumerate(self.convs[:-1]):
            x = conv(made[-1])
            made.append(functional.leaky_relu(self.norms[i - 1](x) if i else x, 0.2))
        made.append(self.convs[-1](made[-1]))
        return tuple(made[1:]) if activations else made[-1]
