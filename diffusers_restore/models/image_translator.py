"""What the generators of image-to-image translation share: their call, their dropout, their norms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError, check_int
from ..generators import Generators, check_generators
from ..tensors import described, is_dense, working_device
from .plug_in import SavesPlugIn


class ImageTranslator(SavesPlugIn, ModelMixin, PlainConfigMixin, ABC):
    """G(x, z), a picture from a picture x and noise z, which is dropout: it is drawn in evaluation, too.

    Norms are over each picture by itself, so that a batch gives what its pictures give one by one. With `norm_affine`,
    they have weights as batch norm does: a network that was trained with batch norm on single pictures computes the
    same with its weights in them (arXiv:1611.07004, section 3).
    """

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """What height and width must be multiples of."""

    @property
    def min_size(self) -> int:
        """The shortest side of a picture."""
        return 1

    @abstractmethod
    def noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """The shapes (C, H, W) of what dropout applies to, for a picture of this size; empty without dropout."""

    @abstractmethod
    def translate(self, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """The pictures (B, C', H, W) of pictures (B, C, H, W), with the noise of every dropout."""

    def draw_noise(self, count: int, height: int, width: int, generator: Generators = None) -> tuple[Tensor, ...]:
        """The noise of a call: for each dropout (count, C, H, W), of 0 and 1 / (1 - dropout).

        Args:
            count: pictures.
            height, width: of them.
            generator: one, one for each picture, or None for torch's global one. Each picture's noise is drawn by
                itself, so that generators of their own give it the same in any batch.

        Raises:
            InvalidInputError: another number of generators.
        """
        check_generators(generator, check_int("count", count, 1))
        share, shapes = self.config.dropout, self.noise_shapes(height, width)
        drawn, own = [], working_device(self)
        for one in generator if isinstance(generator, list) else [generator] * count:
            device = own if one is None else one.device
            drawn.append([torch.rand(1, *shape, generator=one, device=device) for shape in shapes])
        kept = [(torch.cat(layer).to(own) >= share) for layer in zip(*drawn, strict=True)]
        return tuple(one.to(self.dtype) / (1 - share) for one in kept)

    def forward(
        self, sample: Tensor, noise: Sequence[Tensor] | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """The translated pictures.

        Args:
            sample: (B, C, H, W) in [-1, 1]; H and W are multiples of `size_multiple`.
            noise: of `draw_noise`; None draws it with torch's global generator.
            return_dict: False returns a tuple.

        Raises:
            InvalidInputError: sizes that don't fit.
        """
        check_sample(sample, self.config.in_channels)
        height, width = sample.shape[2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise InvalidInputError(
                f"sample must have sides that are multiples of {self.size_multiple}, got {tuple(sample.shape)}"
            )
        if noise is None:
            noise = self.draw_noise(len(sample), height, width)
        wanted = [(len(sample), *shape) for shape in self.noise_shapes(height, width)]
        if [tuple(one.shape) for one in noise] != wanted:
            raise InvalidInputError(
                f"noise must be that of draw_noise, {wanted}, got {[tuple(one.shape) for one in noise]}"
            )
        out = self.translate(sample, noise)
        return UNet2DOutput(sample=out) if return_dict else (out,)


def check_sample(sample: object, channels: int) -> None:
    """Raise InvalidInputError for what is no batch of pictures with this number of channels."""
    if not isinstance(sample, Tensor) or not is_dense(sample) or not sample.is_floating_point():
        raise InvalidInputError(f"sample must be floats (B, C, H, W), got {described(sample)}")
    if sample.ndim != 4 or sample.shape[1] != channels:
        raise InvalidInputError(f"sample must be (B, {channels}, H, W), got {tuple(sample.shape)}")


def instance_norm(channels: int, affine: bool) -> nn.GroupNorm:
    """A norm over each channel of each picture: a group norm of as many groups as channels, the faster code."""
    return nn.GroupNorm(channels, channels, affine=affine)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """The weights of arXiv:1611.07004, section 6.2: N(0, 0.02^2), of norms N(1, 0.02^2); no bias."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.GroupNorm) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
