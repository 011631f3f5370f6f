"""Training the autoencoders of old photographs (arXiv:2004.09484, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError
from ...hub.cards import CardText
from ...models.multiscale_discriminator import MultiscaleDiscriminator
from ...models.old_photo_vae import OldPhotoVAE
from ..adversarial import Perceptual, feature_loss, multiscale_loss
from ..config import CropConfig, DataConfig
from ..data import open_data
from ..objectives import Objective, psnr
from ..pairs import PairMaker, check_damage, damage_by_recipe
from ..progress import Savable
from ..running import Run, choose, defining, start, used_options
from .config import AutoencoderConfig, AutoencoderNetworkConfig, DomainConfig

FIGURES = "l1: mean absolute distance of held-out pictures to what is made of them, in [-1, 1]; psnr, in dB."
WIDTHS = (1, 2, 4, 8)  # of discriminators, over those of the finest level

DEFINING = defining(DomainConfig, AutoencoderNetworkConfig, CropConfig)


class Encoded(NamedTuple):
    """Photographs (B, C, H, W) in [-1, 1], noise for their latents, and how many of them, the last, are really old."""

    pictures: Tensor
    noise: Tensor
    real: int


@final
class AutoencoderObjective(Objective):
    """decode(z + epsilon) ~ x, z = encode(x): |x' - x|, GAN(x'), activations of the discriminator, and mean z^2.

    With really old photographs, half of a batch, a discriminator of latents learns to tell them from damaged ones, and
    the encoder to make it fail: its latents of both are alike. A batch is `(clean,)` or `(really old, clean)`.

    Args:
        vae: which is trained, for the sizes of its latents.
        damage: makes damaged photographs of clean ones; None encodes clean ones.
        weights: of the losses.
        real: whether there are really old photographs.
        perceptual: distance of made and given photographs as a network sees them, weighted as the activations.
    """

    def __init__(
        self,
        vae: OldPhotoVAE,
        damage: PairMaker | None,
        weights: AutoencoderNetworkConfig,
        *,
        real: bool,
        perceptual: Perceptual | None = None,
    ) -> None:
        self._vae, self._damage, self._weights, self._real = vae, damage, weights, real
        self._perceptual = perceptual

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        names = ("discriminator", *(("latent_discriminator",) if self._real else ()), "vae")
        return {name: (name,) for name in names}

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("vae",)

    @property
    def criterion(self) -> str:
        return "psnr"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Encoded:
        *others, clean = batch
        x = clean if self._damage is None else self._damage(clean, generator).degraded
        pictures = torch.cat([x, *others])
        multiple, width = self._vae.size_multiple, self._vae.config.block_out_channels[-1]
        shape = (len(pictures), width, pictures.shape[2] // multiple, pictures.shape[3] // multiple)
        noise = torch.randn(shape, generator=generator, device=pictures.device)
        return Encoded(pictures, noise, len(pictures) - len(x))

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Encoded) -> dict[str, Tensor]:
        x, noise, real = corrupted
        with torch.set_grad_enabled(phase == "vae"):
            z = networks["vae"](x, "encoder")
            made = networks["vae"](z + noise.to(z), "decoder")
        if phase == "latent_discriminator":
            judge = networks["latent_discriminator"]
            damaged, old = z[: len(z) - real], z[len(z) - real :]
            return {
                "loss_latent_real": 0.5 * multiscale_loss(judge(damaged), real=True),
                "loss_latent_fake": 0.5 * multiscale_loss(judge(old), real=False),
            }
        judge = networks["discriminator"]
        if phase == "discriminator":
            return {
                "loss_real": 0.5 * multiscale_loss(judge(x), real=True),
                "loss_fake": 0.5 * multiscale_loss(judge(made), real=False),
            }
        of_fake, weights = judge(made), self._weights
        with torch.no_grad():
            of_real = judge(x)
        losses = {
            f"loss_l1_x{weights.l1_weight:g}": weights.l1_weight * (made.float() - x).abs().mean(),
            f"loss_features_x{weights.feature_weight:g}": weights.feature_weight * feature_loss(of_fake, of_real),
            f"loss_kl_x{weights.kl_weight:g}": weights.kl_weight * z.float().square().mean(),
            "loss_generator": multiscale_loss(of_fake, real=True),
        }
        if self._perceptual is not None:
            losses["loss_perceptual"] = weights.feature_weight * self._perceptual(made.float(), x)
        if real:
            old = networks["latent_discriminator"](z[len(z) - real :])
            losses["loss_latents"] = multiscale_loss(old, real=True)
        return losses

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """The mean absolute distance in [-1, 1], "l1", and the PSNR in dB of what is made without noise."""
        x = self._domain(picture, index)
        made = networks["vae"](x).float()
        return {"l1": (made - x).abs().mean(), "psnr": psnr(made, x)}

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Side by side: a photograph, and what is made of its latent."""
        rows = []
        for i in indices:
            x = self._domain(pictures[i], i)
            rows.append(torch.cat([x, networks["vae"](x).float()], dim=3))
        return torch.cat(rows).clamp(-1, 1)

    def _domain(self, picture: tuple[Tensor, ...], seed: int) -> Tensor:
        clean = picture[-1]
        return clean if self._damage is None else self._damage(clean, torch.Generator().manual_seed(seed)).degraded


def make_discriminator(channels: int, width: int, num_scales: int, seed: int) -> MultiscaleDiscriminator:
    """A new discriminator, whose weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiscaleDiscriminator(channels, tuple(width * one for one in WIDTHS), num_scales)


def check_least(data: DataConfig, least: int) -> None:
    """Raise InvalidInputError for pictures too small for a discriminator."""
    if data.resolution < least:
        raise InvalidInputError(f"resolution must be {least} or more for the discriminators, got {data.resolution}")


def train_old_photo_vae(
    config: AutoencoderConfig, *, dry_run: bool = False, perceptual: Perceptual | None = None
) -> None:
    """Train an autoencoder as `config` says; `config.training.output_dir` then holds the network.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written. `perceptual` is a further
    loss, as that of the objective; a run that is resumed must be given the same.

    Raises:
        InvalidInputError: what the configuration names can't be used.
    """
    domain, network, seed = config.domain, config.network, config.training.seed
    damage = None
    if domain.recipe is not None:
        damage = damage_by_recipe(domain.recipe, domain.recipe_args or {}, masked=False)
        check_damage(damage, config.data)
    data = open_data(config.data, seed, domain.real_data_dir, "real_data_dir")
    channels, width = config.data.channels, network.discriminator_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = OldPhotoVAE(channels, network.block_out_channels, network.num_blocks)
    networks: dict[str, Any] = {"vae": vae, "discriminator": make_discriminator(channels, width, 2, seed + 1)}
    real = domain.real_data_dir is not None
    if real:
        networks["latent_discriminator"] = make_discriminator(network.block_out_channels[-1], width, 1, seed + 2)
    check_least(config.data, networks["discriminator"].min_size)
    if real:
        check_least(config.data, networks["latent_discriminator"].min_size * vae.size_multiple)
    objective = AutoencoderObjective(vae, damage, network, real=real, perceptual=perceptual)
    options = used_options(config)
    what = "clean" if damage is None else "damaged"

    def make(networks: dict[str, Any]) -> tuple[Savable, CardText]:
        example = (
            "from diffusers_restore import OldPhotoVAE, images\n\n"
            'vae = OldPhotoVAE.from_pretrained("{repo_id}")\n'
            'latent = vae.encode(images.load("photo.png").tensor[:, :, :64, :64])'
        )
        text = f"An autoencoder of {what} photographs (arXiv:2004.09484)."
        return networks["vae"], CardText(text, example, ("image-to-image", "old-photos"))

    run = Run(
        objective,
        networks,
        data,
        dict.fromkeys(objective.phases, config.optimizer),
        options,
        choose(options, DEFINING),
        make,
        title=f"an autoencoder of {what} photographs",
        shown="Held-out pictures, and what is made of their latents",
        figures=FIGURES,
        base=None,
        tries=(),
    )
    start(run, config, dry_run=dry_run)
