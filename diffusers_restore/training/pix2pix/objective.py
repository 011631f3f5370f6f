"""The objective of Pix2pix (arXiv:1611.07004) for the training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from ...errors import unknown_name
from ...models.image_translator import ImageTranslator
from ..adversarial import GAN_LOSSES, GANLoss, adversarial_loss
from ..objectives import Objective, psnr
from ..pairs import Pair, PairMaker

PENALTY = 10.0  # arXiv:1704.00028


def gradient_penalty(logits: Tensor, mixed: Tensor) -> Tensor:
    """10 (|grad_y D| - 1)^2, the mean over pictures (arXiv:1704.00028, equation 3).

    Args:
        logits: D(x, y) of mixed pictures, (B, 1, h, w), of which the mean over patches is penalised.
        mixed: y between real and generated ones, (B, C, H, W), which the logits have a gradient for.
    """
    (gradient,) = torch.autograd.grad(logits.float().mean(dim=(1, 2, 3)).sum(), mixed, create_graph=True)
    return PENALTY * (gradient.float().flatten(1).norm(dim=1) - 1).square().mean()


def discriminator_losses(
    kind: GANLoss, discriminator: nn.Module, x: Tensor, y: Tensor, fake: Tensor, shares: Tensor
) -> dict[str, Tensor]:
    """The terms of the discriminator's loss: halved, but for those of wgangp, which has a penalty, too.

    Args:
        kind: of the loss.
        discriminator: takes x and y, one after the other.
        x: what goes in, (B, C, H, W).
        y: the real pictures.
        fake: the generated ones.
        shares: of y in the pictures on which the gradient is penalised, (B, 1, 1, 1).
    """
    pictures = [y, fake]
    if kind == "wgangp":
        pictures.append(torch.lerp(fake, y, shares).requires_grad_())
    # Together, so that processes exchange gradients once.
    pairs = torch.cat([torch.cat([x] * len(pictures)), torch.cat(pictures)], dim=1)
    of_real, of_fake, *of_mixed = discriminator(pairs).split(len(x))
    half = 1.0 if of_mixed else 0.5
    losses = {
        "loss_real": half * adversarial_loss(kind, of_real, real=True),
        "loss_fake": half * adversarial_loss(kind, of_fake, real=False),
    }
    if of_mixed:
        losses["loss_penalty"] = gradient_penalty(of_mixed[0], pictures[-1])
    return losses


class Translated(NamedTuple):
    """A batch: what goes in, what should come out, the noise of the generator, and shares for mixing, (B, 1, 1, 1)."""

    source: Tensor
    target: Tensor
    noise: tuple[Tensor, ...]
    shares: Tensor


@final
class Pix2PixObjective(Objective):
    """GAN(D, G) + l1_weight |y - G(x, z)|: in each step first the discriminator is stepped, then the generator.

    Both see the same generated pictures. The discriminator's loss is halved but for that of "wgangp". A batch is
    `(clean,)` with `damage`, or `(degraded, clean)`: G makes the clean pictures.

    Args:
        generator: which is trained, for the sizes of its noise.
        gan_loss: None is L1 alone, without a discriminator.
        l1_weight: of the mean absolute distance in [-1, 1].
        damage: makes pairs from clean pictures.
        best: choose the weights by the PSNR of held-out pictures, instead of taking the last.
    """

    def __init__(
        self,
        generator: ImageTranslator,
        *,
        gan_loss: GANLoss | None = "vanilla",
        l1_weight: float = 100.0,
        damage: PairMaker | None = None,
        best: bool = False,
    ) -> None:
        if gan_loss is not None and gan_loss not in GAN_LOSSES:
            raise unknown_name("gan_loss", gan_loss, GAN_LOSSES)
        self._generator, self._kind, self._weight = generator, gan_loss, l1_weight
        self._damage, self._best = damage, best

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        names = ("generator",) if self._kind is None else ("discriminator", "generator")
        return {name: (name,) for name in names}

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("generator",)

    @property
    def criterion(self) -> str | None:
        return "psnr" if self._best else None

    @property
    def compared(self) -> tuple[str, str] | None:
        return None if self._damage is None else ("psnr", "psnr_degraded")

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Translated:
        source, target, _ = self._pair(batch, generator)
        count, _, height, width = source.shape
        noise = self._generator.draw_noise(count, height, width, generator)
        return Translated(source, target, noise, torch.rand(count, 1, 1, 1, generator=generator, device=source.device))

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Translated) -> dict[str, Tensor]:
        x, y, noise, shares = corrupted
        kind = self._kind
        if phase == "discriminator" and kind is not None:
            with torch.no_grad():
                fake = networks["generator"](x, noise, return_dict=False)[0].to(y.dtype)
            return discriminator_losses(kind, networks["discriminator"], x, y, fake, shares)
        fake = networks["generator"](x, noise, return_dict=False)[0].float()
        losses = {f"loss_l1_x{self._weight:g}": self._weight * (fake - y).abs().mean()} if self._weight else {}
        if kind is not None:
            logits = networks["discriminator"](torch.cat([x, fake], dim=1))
            losses["loss_generator"] = adversarial_loss(kind, logits, real=True)
        return losses

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """The mean absolute distance in [-1, 1], "l1", and the PSNR in dB of a held-out picture, with one noise."""
        degraded, clean, _ = self._pair(picture, torch.Generator().manual_seed(index))
        made = self._translate(networks, degraded, index)
        figures = {"l1": (made - clean).abs().mean(), "psnr": psnr(made, clean)}
        return figures if self._damage is None else {**figures, "psnr_degraded": psnr(degraded, clean)}

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Side by side: what goes in, what comes out, the truth."""
        rows = []
        for i in indices:
            degraded, clean, _ = self._pair(pictures[i], torch.Generator().manual_seed(i))
            rows.append(torch.cat([degraded, self._translate(networks, degraded, i), clean], dim=3))
        return torch.cat(rows).clamp(-1, 1)

    def _pair(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Pair:
        if self._damage is not None:
            return self._damage(batch[0], generator)
        degraded, clean = batch
        return Pair(degraded, clean, None)

    def _translate(self, networks: Mapping[str, nn.Module], x: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
        noise = self._generator.draw_noise(len(x), x.shape[2], x.shape[3], generator)
        return networks["generator"](x, noise, return_dict=False)[0].float()
