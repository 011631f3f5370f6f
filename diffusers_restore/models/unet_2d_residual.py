"""A U-Net of residual blocks without norms, which is fast on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional

from ..configuration import PlainConfigMixin
from ..errors import InvalidInputError, check_int, check_real
from ..tensors import described, is_dense
from .plug_in import SavesPlugIn, numbers

TIME_FEATURES = 64


class ResidualBlock(nn.Module):
    """x + conv2(silu((1 + s) conv1(x) + h)), with (s, h) a linear map of the time embedding: the identity at first.

    Args:
        channels: of x.
        time_embed_dim: length of the time embedding.
        dropout: share of the activations that are dropped in training.
    """

    def __init__(self, channels: int, time_embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_embed_dim, 2 * channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _zero(self.time_emb_proj)
        _zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.time_emb_proj(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = functional.silu(torch.addcmul(shift, self.conv1(x), 1 + scale))
        return x + self.conv2(self.dropout(hidden))


class ResidualBlocks(nn.ModuleList):
    """Residual blocks one after the other."""

    _gradient_checkpointing_func: Callable[..., Tensor]  # diffusers sets it, with the flag

    def __init__(self, blocks: Iterable[ResidualBlock]) -> None:
        super().__init__(blocks)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, embedding)
            else:
                x = block(x, embedding)
        return x


def _check_errors(x0_errors: object) -> None:
    if x0_errors is None:
        return
    pairs = numbers(x0_errors)
    if not pairs or any(len(numbers(pair)) != 2 for pair in pairs):
        raise InvalidInputError(f"x0_errors must be pairs (sigma, mean squared error) or None, got {x0_errors!r}")
    for sigma, error in pairs:
        check_real("x0_errors: sigma", sigma, 0)
        check_real("x0_errors: mean squared error", error, 0)


def _for_each(name: str, given: object, sample: Tensor) -> Tensor:
    """Values for each picture of a sample, (B,), on its device, from one or as many."""
    count = len(sample)
    try:
        values = torch.as_tensor(given, device=sample.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{name} must be numbers, got {described(given)}") from error
    if values.is_complex():
        raise InvalidInputError(f"{name} must be real numbers, got {values.dtype}")
    if values.numel() not in (1, count):
        raise InvalidInputError(f"{name} must be one, or one for each of {count} pictures, got {tuple(values.shape)}")
    return values.reshape(-1).expand(count)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ResidualUNet2DModel(SavesPlugIn, ModelMixin, PlainConfigMixin):
    """f(x, t), a U-Net on patches of pixels: residual blocks, 2 x 2 strided convolutions, skips that are added.

    It can replace a `UNet2DModel`: same call, same names in its configuration. Without norms and attention,
    nothing in it depends on the picture's size, and nearly all of its time is convolutions; with patches of 2 x 2
    pixels (as in FFDNet, arXiv:1710.04026) none of them is at full resolution. The blocks are those of DRUNet
    (arXiv:2008.13751) with a scale and a shift by time.

    Args:
        sample_size: side of the pictures that it was trained on, or (height, width): what samplers draw.
        in_channels, out_channels: of the pictures.
        patch_size: side of the patches that become channels; 1 is none.
        block_out_channels: channels of each level, finest first. A multiple of 32 suits CPUs.
        layers_per_block: residual blocks of each level, on the way down and again on the way up; one number, or one for
            each level.
        time_embed_dim: length of the time embedding.
        dropout: share of the activations in each block that are dropped in training.
        num_class_embeds: of a class-conditional network.
        x0_errors: what was measured of the weights: pairs (sigma, mean squared error of x0_hat) for noise of standard
            deviation sigma on held-out pictures in [-1, 1]. For a sampler that needs them:
            `DAPSScheduler(denoising_errors=[[sigma, error**0.5] for sigma, error in unet.config.x0_errors])`.

    Raises:
        InvalidInputError: an argument out of range.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResidualBlock"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int = 2,
        block_out_channels: tuple[int, ...] = (64, 128, 160, 192),
        layers_per_block: int | tuple[int, ...] = (4, 3, 2, 1),
        time_embed_dim: int = 128,
        dropout: float = 0.0,
        num_class_embeds: int | None = None,
        x0_errors: tuple[tuple[float, float], ...] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("patch_size", patch_size),
            ("time_embed_dim", time_embed_dim),
        ):
            check_int(name, value, 1)
        check_real("dropout", dropout, 0, 1)
        widths = numbers(block_out_channels)
        layers = numbers(layers_per_block) or (layers_per_block,) * len(widths)
        if not widths or len(layers) != len(widths):
            raise InvalidInputError(
                "block_out_channels must name the channels of one or more levels, and layers_per_block one number, or "
                f"one for each level; got {block_out_channels!r} and {layers_per_block!r}"
            )
        sides = () if sample_size is None else numbers(sample_size) or (sample_size,) * 2
        if len(sides) not in (0, 2):
            raise InvalidInputError(f"sample_size must be one number, (height, width) or None, got {sample_size!r}")
        for name, values in (("block_out_channels", widths), ("layers_per_block", layers), ("sample_size", sides)):
            for number in values:
                check_int(name, number, 1)
        _check_errors(x0_errors)

        def blocks(channels: int, count: int) -> ResidualBlocks:
            return ResidualBlocks(ResidualBlock(channels, time_embed_dim, dropout) for _ in range(count))

        pixels = patch_size**2
        self.time_proj = Timesteps(TIME_FEATURES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(TIME_FEATURES, time_embed_dim)
        self.class_embedding: nn.Embedding | None = None
        if num_class_embeds is not None:
            self.class_embedding = nn.Embedding(check_int("num_class_embeds", num_class_embeds, 1), time_embed_dim)
        self.conv_in = nn.Conv2d(in_channels * pixels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(blocks(*level) for level in zip(widths, layers, strict=True))
        self.downsamplers = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.upsamplers = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.up_blocks = nn.ModuleList(blocks(*level) for level in list(zip(widths, layers, strict=True))[:-1])
        self.conv_out = nn.Conv2d(widths[0], out_channels * pixels, 3, padding=1)
        _zero(self.conv_out)

    @property
    def size_multiple(self) -> int:
        """What height and width must be multiples of."""
        return int(self.config.patch_size * 2 ** (len(self.config.block_out_channels) - 1))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """The network's output for noisy pictures.

        Args:
            sample: (B, C, H, W); H and W are multiples of `size_multiple`.
            timestep: one, or one for each picture, (B,).
            class_labels: one, or one for each picture, (B,), of a class-conditional network.
            return_dict: False returns a tuple.

        Raises:
            InvalidInputError: sizes, or numbers of timesteps or class labels, that don't fit.
        """
        if not is_dense(sample) or not sample.is_floating_point():
            raise InvalidInputError(f"sample must be floats (B, C, H, W), got {described(sample)}")
        if sample.ndim != 4 or sample.shape[1] != self.config.in_channels:
            raise InvalidInputError(f"sample must be (B, {self.config.in_channels}, H, W), got {tuple(sample.shape)}")
        if sample.shape[2] % self.size_multiple or sample.shape[3] % self.size_multiple:
            raise InvalidInputError(
                f"sample must have sides that are multiples of {self.size_multiple}, got {tuple(sample.shape)}"
            )
        if (class_labels is None) != (self.class_embedding is None):
            raise InvalidInputError("class_labels must be given to a class-conditional network, and to no other")
        times = _for_each("timestep", timestep, sample)
        features = self.time_proj(times).to(sample.dtype)  # in float32 up to here
        embedding = self.time_embedding(features)
        if self.class_embedding is not None and class_labels is not None:
            labels = _for_each("class_labels", class_labels, sample)
            if labels.is_floating_point() or labels.dtype == torch.bool:
                raise InvalidInputError(f"class_labels must be whole numbers, got {labels.dtype}")
            classes = self.config.num_class_embeds
            if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < classes)).all()):  # else a host sync
                raise InvalidInputError(f"class_labels must be in 0..{classes - 1}, got {labels.tolist()}")
            embedding = embedding + self.class_embedding(labels.long())
        embedding = functional.silu(embedding)

        x = self.conv_in(functional.pixel_unshuffle(sample, self.config.patch_size))
        skips = []
        for level, blocks in enumerate(self.down_blocks):
            x = blocks(x, embedding)
            if level < len(self.downsamplers):
                skips.append(x)
                x = self.downsamplers[level](x)
        for upsample, blocks in zip(reversed(self.upsamplers), reversed(self.up_blocks), strict=True):
            x = blocks(upsample(x) + skips.pop(), embedding)
        out = functional.pixel_shuffle(self.conv_out(x), self.config.patch_size)
        return UNet2DOutput(sample=out) if return_dict else (out,)
