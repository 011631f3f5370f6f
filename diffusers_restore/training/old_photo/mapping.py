"""Training the mapping between the latents of old and of clean photographs (arXiv:2004.09484, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError
from ...hub.cards import CardText
from ...hub.repositories import refusing
from ...hub.weights import check_weights
from ...models.old_photo_mapping import OldPhotoMapping
from ...models.old_photo_vae import OldPhotoVAE
from ...pipelines.pipeline_old_photo import OldPhotoPipeline, as_shown, paint
from ...pipelines.pipeline_scratch_detection import ScratchDetectionPipeline
from ..adversarial import Perceptual, feature_loss, multiscale_loss
from ..config import CropConfig, check_sizes
from ..data import open_data
from ..networks import load_network
from ..objectives import Objective, psnr
from ..pairs import PairMaker, check_damage, damage_by_recipe
from ..progress import Savable
from ..running import RESTORE, Run, choose, defining, start, used_options
from .config import DamageConfig, MappingConfig, MappingNetworkConfig
from .vae import check_least, make_discriminator

FIGURES = "PSNRs in dB of held-out photographs: psnr_degraded when damaged, psnr when restored."

DEFINING = defining(DamageConfig, MappingNetworkConfig, CropConfig, more=["vae_degraded", "vae_clean"])

Loaded = TypeVar("Loaded")


class Damaged(NamedTuple):
    """Damaged photographs (B, C, H, W), with what is masked painted white, the masks (or None), and clean ones."""

    degraded: Tensor
    mask: Tensor | None
    clean: Tensor


@final
class MappingObjective(Objective):
    """T(encode_A(x), mask) ~ encode_B(y): |T - z_B|, GAN(x, decode_B(T)), activations of the discriminator.

    The autoencoders are frozen.

    Args:
        damage: makes damaged photographs, and their masks where `masked`.
        weights: of the losses.
        mapping: that is trained, which says how masks are shown to it.
        perceptual: distance of restored and clean photographs as a network sees them, weighted as the activations.
    """

    def __init__(
        self,
        damage: PairMaker,
        weights: MappingNetworkConfig,
        mapping: OldPhotoMapping,
        perceptual: Perceptual | None = None,
    ) -> None:
        self._damage, self._weights, self._mapping, self._perceptual = damage, weights, mapping, perceptual

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        return {"discriminator": ("discriminator",), "mapping": ("mapping",)}

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("mapping",)

    @property
    def criterion(self) -> str:
        return "psnr"

    @property
    def compared(self) -> tuple[str, str]:
        return "psnr", "psnr_degraded"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Damaged:
        return self._damaged(batch[0], generator)[1]

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Damaged) -> dict[str, Tensor]:
        x, mask, y = corrupted
        judge = networks["discriminator"]
        with torch.no_grad():
            z = networks["vae_degraded"](x, "encoder")
            wanted = networks["vae_clean"](y, "encoder")
        with torch.set_grad_enabled(phase == "mapping"):
            mapped = networks["mapping"](z, mask)
            made = networks["vae_clean"](mapped, "decoder").to(x.dtype)
        fakes, reals = torch.cat([x, made], dim=1), torch.cat([x, y], dim=1)
        if phase == "discriminator":
            return {
                "loss_real": 0.5 * multiscale_loss(judge(reals), real=True),
                "loss_fake": 0.5 * multiscale_loss(judge(fakes), real=False),
            }
        of_fake, weights = judge(fakes), self._weights
        with torch.no_grad():
            of_real = judge(reals)
        distance = (mapped.float() - wanted.float()).abs().mean()
        losses = {
            f"loss_latent_x{weights.latent_weight:g}": weights.latent_weight * distance,
            f"loss_features_x{weights.feature_weight:g}": weights.feature_weight * feature_loss(of_fake, of_real),
            "loss_generator": multiscale_loss(of_fake, real=True),
        }
        if self._perceptual is not None:
            losses["loss_perceptual"] = weights.feature_weight * self._perceptual(made.float(), y)
        return losses

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """PSNR in dB of a damaged held-out photograph, and of its restoration, "psnr"."""
        degraded, damaged = self._damaged(picture[0], torch.Generator().manual_seed(index))
        return {
            "psnr": psnr(self._restored(networks, damaged), damaged.clean),
            "psnr_degraded": psnr(degraded, damaged.clean),
        }

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Side by side: damaged, restored, as it was."""
        rows = []
        for i in indices:
            degraded, damaged = self._damaged(pictures[i][0], torch.Generator().manual_seed(i))
            rows.append(torch.cat([degraded, self._restored(networks, damaged), damaged.clean], dim=3))
        return torch.cat(rows).clamp(-1, 1)

    def _damaged(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Damaged]:
        """The damaged photograph as a viewer sees it, and what the networks are shown."""
        pair = self._damage(clean, generator)
        if not self._mapping.takes_mask:
            return pair.degraded, Damaged(pair.degraded, None, pair.clean)
        mask = torch.zeros_like(clean[:, :1]) if pair.mask is None else (pair.mask > 0.5).to(clean.dtype)
        mask = as_shown(self._mapping, mask)
        return pair.degraded, Damaged(paint(pair.degraded, mask), mask, pair.clean)

    def _restored(self, networks: Mapping[str, nn.Module], damaged: Damaged) -> Tensor:
        z = networks["vae_degraded"](damaged.degraded, "encoder")
        return networks["vae_clean"](networks["mapping"](z, damaged.mask), "decoder").float()


def train_old_photo_mapping(
    config: MappingConfig, *, dry_run: bool = False, perceptual: Perceptual | None = None
) -> None:
    """Train a mapping as `config` says; `config.training.output_dir` is then a repository of its pipeline.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written. `perceptual` is a further
    loss, as that of the objective; a run that is resumed must be given the same.

    Raises:
        InvalidInputError: what the configuration names can't be used.
    """
    network, seed, channels = config.network, config.training.seed, config.data.channels
    masked = network.attention != "none"
    damage = damage_by_recipe(config.damage.recipe, config.damage.recipe_args or {}, masked=masked)
    check_damage(damage, config.data)
    vaes = {name: _load_vae(name, str(getattr(config, name)), channels) for name in ("vae_degraded", "vae_clean")}
    detection: dict[str, Any] = {}
    if config.scratch_detector is not None:
        loaded = load_network("scratch_detector", ScratchDetectionPipeline, config.scratch_detector)
        detection = {name: loaded.config[name] for name in ("detection_size", "threshold")}
        detection["scratch_detector"] = loaded.detector.float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mapping = OldPhotoMapping(
            vaes["vae_degraded"].config.block_out_channels[-1],
            network.mapping_channels,
            network.num_blocks,
            network.attention,
        )
    check_sizes(config.data, vaes["vae_degraded"].size_multiple * mapping.size_multiple)
    OldPhotoPipeline(vaes["vae_degraded"], mapping, vaes["vae_clean"])  # raises its errors now
    data = open_data(config.data, seed)
    networks: dict[str, Any] = {
        **vaes,
        "mapping": mapping,
        "discriminator": make_discriminator(2 * channels, network.discriminator_channels, 2, seed + 1),
    }
    check_least(config.data, networks["discriminator"].min_size)
    objective = MappingObjective(damage, network, mapping, perceptual)
    options = used_options(config)

    def make(networks: dict[str, Any]) -> tuple[Savable, CardText]:
        parts = (networks[name] for name in ("vae_degraded", "mapping", "vae_clean"))
        pipeline = OldPhotoPipeline(*parts, **detection)
        return pipeline, pipeline.card_text

    run = Run(
        objective,
        networks,
        data,
        dict.fromkeys(objective.phases, config.optimizer),
        options,
        choose(options, DEFINING),
        make,
        title="a restorer of old photographs",
        shown="Held-out pictures: damaged, restored, as they were",
        figures=FIGURES,
        base=None,
        tries=(RESTORE,),
    )
    start(run, config, dry_run=dry_run)


def _load_vae(option: str, name: str, channels: int) -> OldPhotoVAE:
    with refusing(f"{option}: {name!r} can't be loaded as an OldPhotoVAE"):
        vae: OldPhotoVAE = OldPhotoVAE.from_pretrained(name)
        check_weights(option, vae, Path(name))
    if vae.config.in_channels != channels:
        raise InvalidInputError(
            f"{option}: the autoencoder of {name!r} takes pictures of {vae.config.in_channels} channels, not {channels}"
        )
    return vae.float()
