"""The prior of pictures at the largest severity, from which Cold Diffusion generates."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional

from ...degradations import Degradation
from ...errors import InvalidInputError
from ...models.gaussian_mixture import GaussianMixturePrior, thumbnails
from ...schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler
from ..data import TrainingData, to_unit
from .config import ColdConfig

PRIOR_PICTURES = 10_000


def check_prior(degradation: Degradation, data: TrainingData, config: ColdConfig) -> None:
    """Raise InvalidInputError, before the training, for what `fit_prior` would refuse after it."""
    if not config.prior_components:
        return
    if degradation.state_shapes(config.data.channels, 1, 1):
        raise InvalidInputError(
            f"prior_components must be 0: degradation {degradation.kind!r} acts through a state, which a prior doesn't "
            "draw"
        )
    numbers = config.data.channels * config.prior_size**2
    if data.count is not None and min(PRIOR_PICTURES, data.count) <= max(config.prior_components, numbers):
        raise InvalidInputError(
            f"prior_components={config.prior_components} of prior_size={config.prior_size}, which is {numbers} "
            f"numbers, need more than {max(config.prior_components, numbers)} training pictures, got "
            f"{min(PRIOR_PICTURES, data.count)}"
        )
    if find_spec("sklearn") is None:
        raise InvalidInputError("prior_components needs scikit-learn: pip install 'diffusers-restore[train]'")


def fit_prior(scheduler: ColdDiffusionScheduler, data: TrainingData, config: ColdConfig) -> GaussianMixturePrior:
    """The prior of 10,000 training pictures (or all, if there are fewer), degraded to severity T.

    Thumbnails are enlarged by the interpolation that is closest to D(x, T).

    Raises:
        InvalidInputError: more components than the pictures allow.
        ImportError: scikit-learn isn't installed.
    """
    batches = data.batches(batch_size=1, accumulation=1, rank=0, world_size=1, first_step=0)
    count = min(PRIOR_PICTURES, data.count or PRIOR_PICTURES)
    small: list[Tensor] = []
    errors = {"nearest": 0.0, "bilinear": 0.0}
    with closing(batches):
        for _ in range(count):
            (clean,) = next(batches)
            degraded = scheduler.degrade(to_unit(clean), len(scheduler))
            small.append(thumbnails(degraded, (config.prior_size, config.prior_size)))
            for mode in errors:
                spread = functional.interpolate(small[-1], size=degraded.shape[2:], mode=mode)
                errors[mode] += float((spread - degraded).abs().mean())
    upsample = min(errors, key=lambda mode: errors[mode])
    return GaussianMixturePrior.fit(
        torch.cat(small), config.prior_components, seed=config.training.seed, upsample=upsample
    )
