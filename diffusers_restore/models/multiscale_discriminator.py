"""Discriminators that look at a picture and at smaller copies of it (pix2pixHD, arXiv:1711.11585)."""

from __future__ import annotations

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from ..configuration import PlainConfigMixin
from ..errors import check_int
from .patch_discriminator import PatchDiscriminator
from .plug_in import SavesPlugIn


class MultiscaleDiscriminator(SavesPlugIn, ModelMixin, PlainConfigMixin):
    """A `PatchDiscriminator` for each of several scales, each half of the one before.

    Args:
        in_channels: of what is judged.
        block_out_channels: as of `PatchDiscriminator`.
        num_scales: 1 looks at the picture alone.
        norm_affine: as of `PatchDiscriminator`.

    Raises:
        InvalidInputError: an argument out of range.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        block_out_channels: tuple[int, ...] = (64, 128, 256, 512),
        num_scales: int = 2,
        norm_affine: bool = False,
    ) -> None:
        super().__init__()
        check_int("num_scales", num_scales, 1, 10)
        self.scales = nn.ModuleList(
            PatchDiscriminator(in_channels, block_out_channels, norm_affine=norm_affine) for _ in range(num_scales)
        )

    @property
    def min_size(self) -> int:
        """The shortest side of what it can judge."""
        return int(self.scales[0].min_size * 2 ** (len(self.scales) - 1))

    def forward(self, sample: Tensor) -> list[tuple[Tensor, ...]]:
        """For each scale, the activations of all convolutions; the last are logits (B, 1, h, w).

        Raises:
            InvalidInputError: sizes that don't fit.
        """
        made: list[tuple[Tensor, ...]] = []
        for scale in self.scales:
            made.append(scale(sample, activations=True))
            sample = functional.avg_pool2d(sample, 3, stride=2, padding=1, count_include_pad=False)
        return made
