"""The mapping between latents of "Bringing Old Photos Back to Life" (arXiv:2004.09484)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError, check_int, unknown_name
from .generator_resnet import TranslatorBlock
from .image_translator import check_sample, instance_norm
from .plug_in import SavesPlugIn, check_network_config

Attention = Literal["none", "partial", "patch"]
PATCHES = (8, 4, 2)  # sides of the patches of the high-resolution network, in latent pixels
CHUNK = 1024  # patches that are compared with the known ones at once: memory stays linear in pixels
MASKED = 0.6  # share of a patch from which on it counts as masked


def partial_attention(query: Tensor, key: Tensor, value: Tensor, known: Tensor) -> Tensor:
    """softmax(Q K^T) V over the known pixels alone; 0 where there are none (arXiv:2004.09484, equation 7).

    The masked pixels are left out before the product, so that memory is that of fused attention: linear in pixels.

    Args:
        query, key, value: (B, C, H, W).
        known: (B, 1, H, W), 1 where a pixel is known, else 0.
    """
    pixels = [one.flatten(2).mT.contiguous() for one in (query, key, value)]
    made = []
    for q, k, v, there in zip(*pixels, known.flatten(1) > 0.5, strict=True):
        if bool(there.any()):
            # Four axes, without which torch has no fused code on a CPU.
            q, k, v = (one[None, None] for one in (q, k[there], v[there]))
            made.append(functional.scaled_dot_product_attention(q, k, v, scale=1.0)[0, 0])
        else:
            made.append(torch.zeros_like(q[:, : v.shape[1]]))
    return torch.stack(made).mT.reshape(len(query), -1, *query.shape[2:])


def compose_patches(x: Tensor, masked: Tensor, side: int) -> Tensor:
    """x with each masked patch replaced by the known one that is nearest to it in angle.

    Args:
        x: (B, C, H, W), H and W multiples of `side`.
        masked: (B, 1, H, W), 1 where a pixel is masked, else 0; a patch is if more than 60 % of it are.
        side: of a patch.
    """
    size, patches = x.shape[2:], functional.unfold(x, side, stride=side)
    shares = functional.unfold(masked, side, stride=side).mean(dim=1)
    composed = []
    for columns, share in zip(patches, shares, strict=True):
        lost = share > MASKED
        if bool(lost.any()) and not bool(lost.all()):
            directions = functional.normalize(columns, dim=0)
            known, parts = directions[:, ~lost], directions[:, lost].mT.split(CHUNK)
            nearest = torch.cat([(part @ known).argmax(dim=1) for part in parts])
            columns = columns.clone()
            columns[:, lost] = columns[:, ~lost][:, nearest]
        composed.append(columns)
    return functional.fold(torch.stack(composed), size, side, stride=side)


class PartialNonLocalBlock(nn.Module):
    """Known pixels stay; masked ones are made of what attention finds among the known (section 3.2).

    Args:
        channels: of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.blocks = nn.ModuleList(TranslatorBlock(channels, norm_affine=False) for _ in range(3))

    def forward(self, x: Tensor, masked: Tensor) -> Tensor:
        known = 1 - masked
        found = self.to_out(partial_attention(self.to_q(x), self.to_k(x), self.to_v(x), known))
        for block in self.blocks:
            found = block(found, None)
        return known * x + masked * found


class PatchAttention(nn.Module):
    """Masked patches are replaced by their nearest known ones, and joined with x and the mask by a convolution.

    Args:
        channels: of x.
        side: of a patch.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.block = TranslatorBlock(channels, norm_affine=False)
        self.conv = nn.Conv2d(2 * channels + 1, channels, 3, padding=1)

    def forward(self, x: Tensor, masked: Tensor) -> Tensor:
        return self.conv(torch.cat([x, compose_patches(self.block(x, None), masked, self.side), masked], dim=1))


class OldPhotoMapping(SavesPlugIn, ModelMixin, PlainConfigMixin):
    """T(z, mask), from latents of degraded photographs to latents of clean ones.

    Convolutions of 3 x 3 with instance norms widen z, residual blocks work on it, and convolutions lead back. Networks
    for scratches look for what a mask hides elsewhere in the picture.

    Args:
        latent_channels: of z.
        block_out_channels: channels of the convolutions.
        num_blocks: residual blocks.
        attention: "none" takes no mask; "partial" has the partial non-local block before the blocks; "patch", for
            large pictures, has the blocks around three attentions to patches of 8, 4 and 2 latent pixels.

    Raises:
        InvalidInputError: an argument out of range.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 64,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        num_blocks: int = 6,
        attention: Attention = "none",
    ) -> None:
        super().__init__()
        widths = check_network_config(self.config)
        check_int("latent_channels", latent_channels, 1)
        check_int("num_blocks", num_blocks, 2)
        if attention not in get_args(Attention):
            raise unknown_name("attention", attention, get_args(Attention))
        if attention == "patch" and num_blocks != 6:
            raise InvalidInputError(f"num_blocks must be 6 with attention 'patch', got {num_blocks!r}")
        wide = (latent_channels, *widths)
        self.in_convs = nn.ModuleList(nn.Conv2d(here, there, 3, padding=1) for here, there in pairwise(wide))
        self.in_norms = nn.ModuleList(instance_norm(width, affine=False) for width in widths)
        self.partial_block = PartialNonLocalBlock(widths[-1]) if attention == "partial" else None
        self.patch_attentions = nn.ModuleList(
            PatchAttention(widths[-1], side) for side in (PATCHES if attention == "patch" else ())
        )
        count = num_blocks + 2 * (attention == "patch")
        self.blocks = nn.ModuleList(TranslatorBlock(widths[-1], norm_affine=False) for _ in range(count))
        narrow = tuple(reversed(wide))
        self.out_convs = nn.ModuleList(nn.Conv2d(here, there, 3, padding=1) for here, there in pairwise(narrow))
        self.out_norms = nn.ModuleList(instance_norm(width, affine=False) for width in narrow[1:-1])

    @property
    def takes_mask(self) -> bool:
        """Whether it is shown a mask."""
        return bool(self.config.attention != "none")

    @property
    def size_multiple(self) -> int:
        """What height and width of z must be multiples of."""
        return PATCHES[0] if self.config.attention == "patch" else 1

    def forward(self, latent: Tensor, mask: Tensor | None = None) -> Tensor:
        """The latents of clean photographs, as large as those given.

        Args:
            latent: z, (B, C, H, W).
            mask: 1 where the photograph is damaged, else 0, (B, 1, h, w) of the photograph's size or that of z; for
                networks with one.

        Raises:
            InvalidInputError: sizes that don't fit, or a mask that is missing or of no use.
        """
        check_sample(latent, self.config.latent_channels)
        if (mask is not None) != self.takes_mask:
            raise InvalidInputError(
                "mask is needed by this network" if self.takes_mask else "mask must be None: this network takes none"
            )
        if latent.shape[2] % self.size_multiple or latent.shape[3] % self.size_multiple:
            raise InvalidInputError(
                f"latent must have sides that are multiples of {self.size_multiple}, got {tuple(latent.shape)}"
            )
        x = latent
        for conv, norm in zip(self.in_convs, self.in_norms, strict=True):
            x = functional.relu(norm(conv(x)))
        masked = None if mask is None else self._masked(mask, x)
        if self.partial_block is not None and masked is not None:
            x = self.partial_block(x, masked)
        blocks = list(self.blocks)
        for attention in self.patch_attentions:
            x = attention(_through(blocks[:2], x), masked)
            blocks = blocks[2:]
        x = _through(blocks, x)
        for conv, norm in zip(self.out_convs[:-1], self.out_norms, strict=True):
            x = functional.relu(norm(conv(x)))
        return self.out_convs[-1](x)

    def _masked(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask in the size of x, as the published networks were trained with it.

        A pixel is masked if one of those between which its centre lies is and, with partial attention, if the first
        of those that it covers is.
        """
        if mask.ndim != 4 or mask.shape[:2] != (len(x), 1):
            raise InvalidInputError(f"mask must be ({len(x)}, 1, h, w), got {tuple(mask.shape)}")
        given = mask.to(x)
        masked = functional.interpolate(given, x.shape[2:], mode="bilinear") > 0
        if self.partial_block is not None:
            masked = masked | (functional.interpolate(given, x.shape[2:]) > 0)
        return masked.to(x)


def _through(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, None)
    return x
