"""How far the estimates of a prior are from the truth, at each noise level."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..pipelines.pipeline_ddrm import DDRMPipeline
from ..pipelines.zero_shot import predict
from ..schedulers.levels import log_levels
from ..schedulers.prediction import predict_x0_and_epsilon
from ..tensors import check_floats

LEVELS = tuple(log_levels(20.0, 0.02, 13)[::-1])
"""Noise levels in units of [-1, 1], a factor of 1.78 apart."""


@torch.no_grad()
def denoising_errors(
    pipe: DDRMPipeline, pictures: Sequence[Tensor], levels: Sequence[float] = LEVELS, seed: int = 0
) -> list[list[float]]:
    """The root mean square error of x0_hat of noised pictures: [[sigma, error], ...], by increasing sigma.

    It is the `denoising_errors` of methods that use the uncertainty of the network: PiGDM, MMPS and DAPS. Levels are
    those of the nearest timesteps.

    Args:
        pipe: with the network, not class-conditional.
        pictures: held out of its training, (B, C, H, W) in [-1, 1], of sizes that the network can halve.
        levels: increasing noise levels.
        seed: of the noise.

    Raises:
        InvalidInputError: no pictures, or no such tensors.
    """
    if not pictures:
        raise InvalidInputError("pictures must be a list of tensors (B, C, H, W), got none")
    device, generator = pipe._execution_device, torch.Generator().manual_seed(seed)
    scheduler, table = pipe.scheduler, []
    for t in reversed(scheduler.nearest_timesteps(sorted(levels, reverse=True))):
        alpha_bar, squares = scheduler.alpha_bar(t), []
        for picture in pictures:
            x0 = check_floats("pictures", picture).to(device)
            noise = torch.randn(x0.shape, generator=generator).to(x0)
            x = sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * noise
            output = predict(pipe.unet, scheduler, x, t, None)
            x0_hat, _ = predict_x0_and_epsilon(output, x, alpha_bar, scheduler.config.prediction_type)
            squares.append((x0_hat - x0).square().mean())
        table.append([scheduler.sigma(t), float(torch.stack(squares).mean().sqrt())])
    return table
