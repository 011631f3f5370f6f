"""The losses of generators and discriminators that several methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import unknown_name

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""(made, wanted) pictures (B, C, H, W) in [-1, 1] -> their distance as a network sees them, a scalar."""

GANLoss = Literal["vanilla", "lsgan", "wgangp"]
GAN_LOSSES: tuple[GANLoss, ...] = ("vanilla", "lsgan", "wgangp")


def adversarial_loss(kind: GANLoss, logits: Tensor, *, real: bool) -> Tensor:
    """How far the logits of a discriminator are from what it should say of real or of generated pictures; the mean.

    vanilla: -log sigmoid(+-D); lsgan: (D - 1)^2 or D^2; wgangp: -+D.

    Args:
        kind: of the loss.
        logits: (B, 1, h, w).
        real: what they should say.

    Raises:
        UnknownNameError: another kind.
    """
    logits = logits.float()
    match kind:
        case "vanilla":
            return functional.softplus(-logits if real else logits).mean()
        case "lsgan":
            return (logits - float(real)).square().mean()
        case "wgangp":
            return -logits.mean() if real else logits.mean()
    raise unknown_name("gan_loss", kind, GAN_LOSSES)


def multiscale_loss(scales: Sequence[tuple[Tensor, ...]], *, real: bool) -> Tensor:
    """The least-squares loss of a `MultiscaleDiscriminator`, the sum over its scales (arXiv:1711.11585)."""
    return torch.stack([adversarial_loss("lsgan", one[-1], real=real) for one in scales]).sum()


def feature_loss(fake: Sequence[tuple[Tensor, ...]], real: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """The mean absolute distances of activations, summed over layers, the mean of scales (arXiv:1711.11585, eq. 4).

    Args:
        fake, real: for each scale, activations, of which the last, the logits, aren't compared; those of real pictures
            get no gradient.
    """
    scales = []
    for ours, theirs in zip(fake, real, strict=True):
        layers = [(a.float() - b.detach().float()).abs().mean() for a, b in zip(ours[:-1], theirs[:-1], strict=True)]
        scales.append(torch.stack(layers).sum())
    return torch.stack(scales).mean()
