"""The face network of "Bringing Old Photos Back to Life" (arXiv:2004.09484, section 3.3)."""

from __future__ import annotations

from itertools import pairwise

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError, check_int
from .image_translator import check_sample
from .plug_in import SavesPlugIn, check_network_config

SLOPE = 0.2  # of the leaky rectifiers
CHANNELS = 3  # of faces


class SpatialNorm(nn.Module):
    """norm(x) (1 + scale(face)) + shift(face), with a scale and a shift for each pixel (arXiv:1903.07291, equation 1).

    The norm is a batch norm without weights; in evaluation it has the statistics of the training.

    Args:
        channels: of x.
        hidden: channels between the face and what it becomes.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.conv_in = nn.Conv2d(CHANNELS, hidden, 3, padding=1)
        self.conv_scale = nn.Conv2d(hidden, channels, 3, padding=1)
        self.conv_shift = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, face: Tensor) -> Tensor:
        # Layerwise casting leaves what is in a norm in its own precision.
        seen = functional.relu(self.conv_in(face.to(self.conv_in.weight.dtype)))
        return self.norm(x) * (1 + self.conv_scale(seen).to(x.dtype)) + self.conv_shift(seen).to(x.dtype)


class FaceBlock(nn.Module):
    """shortcut(x) + conv(leaky_relu(norm(conv(leaky_relu(norm(x)))))), whose norms see the face.

    The shortcut is a norm and a convolution of 1 x 1 where the channels change, else nothing.

    Args:
        here, there: channels.
        hidden: as of `SpatialNorm`.
    """

    def __init__(self, here: int, there: int, hidden: int) -> None:
        super().__init__()
        between = min(here, there)
        self.norm1 = SpatialNorm(here, hidden)
        self.conv1 = nn.Conv2d(here, between, 3, padding=1)
        self.norm2 = SpatialNorm(between, hidden)
        self.conv2 = nn.Conv2d(between, there, 3, padding=1)
        self.norm_shortcut = SpatialNorm(here, hidden) if here != there else None
        self.conv_shortcut = nn.Conv2d(here, there, 1, bias=False) if here != there else None

    def forward(self, x: Tensor, face: Tensor) -> Tensor:
        made = self.conv1(functional.leaky_relu(self.norm1(x, face), SLOPE))
        made = self.conv2(functional.leaky_relu(self.norm2(made, face), SLOPE))
        if self.norm_shortcut is not None and self.conv_shortcut is not None:
            x = self.conv_shortcut(self.norm_shortcut(x, face))
        return x + made


class FaceEnhancer(SavesPlugIn, ModelMixin, PlainConfigMixin):
    """A clean face from a degraded one: a generator that is shown the degraded face at every scale.

    It begins with the face at 1 / 32 of its size, and doubles what it has until the size is that of the face; at each
    scale, the norms are modulated by the face at this scale. Faces are aligned as `pipelines.faces` cuts them. The
    published networks, which are trained with spectral norms, have them in their weights here (arXiv:1802.05957).

    Args:
        sample_size: side of the faces that it was trained on, in pixels.
        block_out_channels: channels of each level, finest first.
        hidden_channels: channels between the face and what modulates a norm.

    Raises:
        InvalidInputError: an argument out of range.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 256,
        block_out_channels: tuple[int, ...] = (64, 128, 256, 512, 1024),
        hidden_channels: int = 128,
    ) -> None:
        super().__init__()
        widths = check_network_config(self.config)
        check_int("hidden_channels", hidden_channels, 1)
        check_int("sample_size", sample_size, 1)
        wide = widths[-1]
        self.conv_in = nn.Conv2d(CHANNELS, wide, 3, padding=1)
        self.head_block = FaceBlock(wide, wide, hidden_channels)
        self.middle_blocks = nn.ModuleList(FaceBlock(wide, wide, hidden_channels) for _ in range(2))
        self.up_blocks = nn.ModuleList(
            FaceBlock(coarse, fine, hidden_channels) for coarse, fine in pairwise(reversed(widths))
        )
        self.conv_out = nn.Conv2d(widths[0], CHANNELS, 3, padding=1)
        if sample_size % self.size_multiple:
            raise InvalidInputError(
                f"sample_size must be a multiple of {self.size_multiple} for {len(widths)} levels, got {sample_size}"
            )

    @property
    def size_multiple(self) -> int:
        """What height and width must be multiples of."""
        return int(2 ** (1 + len(self.up_blocks)))

    def forward(self, sample: Tensor) -> Tensor:
        """The enhanced faces (B, 3, H, W) in [-1, 1].

        Args:
            sample: degraded faces, (B, 3, H, W) in [-1, 1]; H and W are multiples of `size_multiple`.

        Raises:
            InvalidInputError: sizes that don't fit.
        """
        check_sample(sample, CHANNELS)
        height, width = sample.shape[2:]
        if not height or not width or height % self.size_multiple or width % self.size_multiple:
            raise InvalidInputError(
                f"sample must have sides that are multiples of {self.size_multiple}, got {tuple(sample.shape)}"
            )

        def face_at(scale: int) -> Tensor:
            # Without antialiasing, as it was trained.
            return functional.interpolate(sample, (height // scale, width // scale), mode="bilinear")

        scale = self.size_multiple
        face = face_at(scale)
        x = self.head_block(self.conv_in(face), face)
        scale //= 2
        x, face = _doubled(x), face_at(scale)
        for block in self.middle_blocks:
            x = block(x, face)
        for block in self.up_blocks:
            scale //= 2
            x = block(_doubled(x), face_at(scale))
        return self.conv_out(functional.leaky_relu(x, SLOPE)).tanh()


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2)
