"""Training the scratch detector (arXiv:2004.09484)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional

from ...hub.cards import CardText
from ...models.scratch_detector import ScratchDetector
from ...pipelines.canvas import with_channels
from ...pipelines.pipeline_scratch_detection import THRESHOLD, ScratchDetectionPipeline
from ..config import CropConfig
from ..data import open_data
from ..objectives import Objective
from ..pairs import PairMaker, check_damage, damage_by_recipe
from ..running import Run, choose, defining, start, used_options
from .config import DamageConfig, DetectorConfig, DetectorNetworkConfig

FIGURES = """\
Of the pixels of held-out photographs that were damaged: f1, the harmonic mean of precision, the share of what is found
that is scratched, and recall, the share of what is scratched that is found; at a probability of {threshold:g}."""

DEFINING = defining(DamageConfig, DetectorNetworkConfig, CropConfig)


class Scratched(NamedTuple):
    """Grey damaged photographs (B, 1, H, W) in [-1, 1], and their masks, 1 where they are scratched."""

    grey: Tensor
    mask: Tensor


@final
class DetectorObjective(Objective):
    """Binary cross entropy of the logits, in which scratched pixels have a weight of their own.

    Args:
        damage: makes damaged photographs and their masks.
        weight: of scratched pixels.
    """

    def __init__(self, damage: PairMaker, weight: float) -> None:
        self._damage, self._weight = damage, weight

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        return {"detector": ("detector",)}

    @property
    def criterion(self) -> str:
        return "f1"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Scratched:
        return self._scratched(batch[0], generator)[1]

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Scratched) -> dict[str, Tensor]:
        logits = networks["detector"](corrupted.grey).float()
        weight = torch.full((), self._weight, device=logits.device)
        return {"loss": functional.binary_cross_entropy_with_logits(logits, corrupted.mask, pos_weight=weight)}

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """Precision, recall and their harmonic mean, "f1", of a damaged held-out photograph."""
        _, scratched = self._scratched(picture[0], torch.Generator().manual_seed(index))
        found = networks["detector"](scratched.grey).float().sigmoid() >= THRESHOLD
        there = scratched.mask > 0.5
        both, found_in_all, there_in_all = (one.sum().float() for one in (found & there, found, there))
        # Without scratches, finding none is right.
        precision = torch.where(found_in_all > 0, both / found_in_all.clamp_min(1), (there_in_all == 0).float())
        recall = torch.where(there_in_all > 0, both / there_in_all.clamp_min(1), (found_in_all == 0).float())
        total = found_in_all + there_in_all
        f1 = torch.where(total > 0, 2 * both / total.clamp_min(1), torch.ones(()))
        return {"f1": f1, "precision": precision, "recall": recall}

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Side by side: a damaged photograph, how likely each pixel is scratched, its mask."""
        rows = []
        for i in indices:
            degraded, scratched = self._scratched(pictures[i][0], torch.Generator().manual_seed(i))
            found = 2 * networks["detector"](scratched.grey).float().sigmoid() - 1
            maps = (one.expand(-1, degraded.shape[1], -1, -1) for one in (found, 2 * scratched.mask - 1))
            rows.append(torch.cat([degraded, *maps], dim=3))
        return torch.cat(rows).clamp(-1, 1)

    def _scratched(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Scratched]:
        pair = self._damage(clean, generator)
        mask = torch.zeros_like(clean[:, :1]) if pair.mask is None else (pair.mask > 0.5).to(clean.dtype)
        return pair.degraded, Scratched(with_channels(pair.degraded, 1), mask)


def train_old_photo_detector(config: DetectorConfig, *, dry_run: bool = False) -> None:
    """Train a detector as `config` says; `config.training.output_dir` is then a repository of its pipeline.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written.

    Raises:
        InvalidInputError: what the configuration names can't be used.
    """
    damage = damage_by_recipe(config.damage.recipe, config.damage.recipe_args or {}, masked=True)
    check_damage(damage, config.data)
    data = open_data(config.data, config.training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        network = ScratchDetector(config.network.block_out_channels)
    size = config.network.detection_size or 2 * config.data.resolution
    options = used_options(config)

    def make_pipeline(networks: dict[str, Any]) -> tuple[DiffusionPipeline, CardText]:
        pipeline = ScratchDetectionPipeline(networks["detector"], detection_size=size, threshold=THRESHOLD)
        return pipeline, pipeline.card_text

    run = Run(
        DetectorObjective(damage, config.network.scratch_weight),
        {"detector": network},
        data,
        {"detector": config.optimizer},
        options,
        choose(options, DEFINING),
        make_pipeline,
        title="a detector of scratches",
        shown="Held-out pictures: damaged, where scratches are likely, where they are",
        figures=FIGURES.format(threshold=THRESHOLD),
        base=None,
        tries=(),
    )
    start(run, config, dry_run=dry_run)
