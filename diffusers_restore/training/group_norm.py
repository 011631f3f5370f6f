"""Group norm with fast gradients in channels_last on a CPU, where torch's own take most of a training step."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn


class _GroupNorm(torch.autograd.Function):
    """y = w (x - m) r + b, with mean m and inverse deviation r of each group: two sums over pixels each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        mean, rate = _moments(x, groups, eps)
        ctx.save_for_backward(x, weight, mean, rate)
        ctx.groups, ctx.eps = groups, eps
        scale = rate * weight
        return torch.addcmul(_over_pixels(bias - mean * scale, x), x, _over_pixels(scale, x))

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = outputs
        x, weight, mean, rate = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives, as in a gradient penalty: they depend on x
            mean, rate = _moments(x, ctx.groups, ctx.eps)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        by_bias = _pixels(gradient).sum(1, dtype=rate.dtype)
        by_weight = (_pixels(gradient * x).sum(1, dtype=rate.dtype) - by_bias * mean) * rate
        along_mean = _group_mean(by_bias * weight, ctx.groups, x)
        along_x = _group_mean(by_weight * weight, ctx.groups, x) * rate * rate
        constant = along_x * mean - along_mean * rate
        by_x = torch.addcmul(_over_pixels(constant, x), x, _over_pixels(-along_x, x))
        by_x = by_x.addcmul_(gradient, _over_pixels(rate * weight, x))
        return by_x, by_weight.sum(0).to(weight.dtype), by_bias.sum(0).to(weight.dtype), None, None


def _moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of each group, (B, C)."""
    pixels, wide = _pixels(x), torch.promote_types(x.dtype, torch.float32)
    mean = _group_mean(pixels.sum(1, dtype=wide), groups, x)
    square = _group_mean(torch.linalg.vector_norm(pixels, dim=1, dtype=wide).square(), groups, x)
    return mean, (square - mean.square()).clamp_min(0).add(eps).rsqrt()


def _pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _group_mean(sums: Tensor, groups: int, x: Tensor) -> Tensor:
    """Sums over pixels, (B, C), as the mean over their group, again for each channel."""
    size = sums.shape[1] // groups
    return (sums.view(len(sums), groups, size).mean(2) / x[0, 0].numel()).repeat_interleave(size, dim=1)


def _over_pixels(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype)[:, :, None, None]


@final
class ChannelsLastGroupNorm(nn.Module):
    """`nn.GroupNorm` of pictures (B, C, H, W), with the weights of the one that it replaces."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.eps = norm.num_groups, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:  # tokens of an attention
            return nn.functional.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        x = x.contiguous(memory_format=torch.channels_last)
        y: Tensor = _GroupNorm.apply(x, self.weight, self.bias, self.groups, self.eps)  # type: ignore[no-untyped-call]
        return y


def replace_group_norms(network: nn.Module) -> None:
    """Replace every group norm of a network by `ChannelsLastGroupNorm`; parameters keep their names."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.GroupNorm and child.affine:
                setattr(parent, name, ChannelsLastGroupNorm(child))
