"""How far the estimates of a prior are from the truth, at each noise level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from ..errors import InvalidInputError, check_int, check_real
from ..pipelines.canvas import size_multiple
from ..pipelines.pipeline_ddrm import DDRMPipeline
from ..pipelines.zero_shot import predict
from ..schedulers.levels import log_levels
from ..schedulers.prediction import predict_x0_and_epsilon
from ..tensors import check_floats

LEVELS = tuple(log_levels(20.0, 0.02, 13)[::-1])
"""Noise levels in units of [-1, 1], a factor of 1.78 apart."""


@torch.no_grad()
def denoising_errors(
    pipe: DDRMPipeline, pictures: Sequence[Tensor], levels: Sequence[float] | None = None, seed: int = 0
) -> list[list[float]]:
    """The root mean square error of x0_hat of noised pictures: [[sigma, error], ...], by increasing sigma.

    It is the `denoising_errors` of methods that use the uncertainty of the network: MMPS and DAPS. Levels are those of
    the nearest timesteps.

    Args:
        pipe: with the network, not class-conditional.
        pictures: held out of its training, (B, C, H, W) in [-1, 1], of sizes that the network can halve.
        levels: increasing noise levels within those of the network; None are the `LEVELS` that it has.
        seed: of the noise.

    Raises:
        InvalidInputError: no pictures, or what can't be used; the message says what is accepted.
    """
    if not isinstance(pipe, DDRMPipeline):
        raise InvalidInputError(f"pipe must be a DDRMPipeline, got {pipe!r:.99}")
    config, scheduler, device = pipe.unet.config, pipe.scheduler, pipe._execution_device
    if config.get("num_class_embeds") is not None:
        raise InvalidInputError("pipe has a class-conditional network, whose errors are those of its classes")
    _check_pictures(pictures, config.in_channels, size_multiple(pipe.unet))
    lowest, highest = scheduler.sigma(0), scheduler.sigma(len(scheduler) - 1)
    if levels is None:
        levels = [level for level in LEVELS if lowest <= level <= highest][: len(scheduler)]
    chosen = _check_levels(levels, lowest, highest, len(scheduler))
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0, 2**63 - 1))
    table = []
    for t in reversed(scheduler.nearest_timesteps(chosen[::-1])):
        alpha_bar, squares = scheduler.alpha_bar(t), []
        for picture in pictures:
            x0 = picture.to(device)
            noise = torch.randn(x0.shape, generator=generator).to(x0)
            x = sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * noise
            output = predict(pipe.unet, scheduler, x, t, None)
            x0_hat, _ = predict_x0_and_epsilon(output, x, alpha_bar, scheduler.config.prediction_type)
            squares.append((x0_hat - x0).square().mean())
        table.append([scheduler.sigma(t), float(torch.stack(squares).mean().sqrt())])
    return table


def _check_pictures(pictures: object, channels: int, multiple: int) -> None:
    if not isinstance(pictures, (list, tuple)) or not pictures:
        raise InvalidInputError(f"pictures must be a list of tensors (B, C, H, W), got {pictures!r:.99}")
    for picture in pictures:
        height, width = check_floats("pictures", picture).shape[2:]
        if picture.shape[1] != channels or height % multiple or width % multiple:
            raise InvalidInputError(
                f"pictures must have {channels} channels, and sides that are multiples of {multiple}, for the network; "
                f"got {tuple(picture.shape)}"
            )
        if not bool(picture.isfinite().all()) or float(picture.abs().max()) > 1.5:
            raise InvalidInputError(
                f"pictures must be in [-1, 1], got {float(picture.min()):g} to {float(picture.max()):g}"
            )


def _check_levels(levels: Sequence[float], lowest: float, highest: float, total: int) -> list[float]:
    chosen = [check_real("levels", level, lowest * 0.9, highest * 1.1) for level in levels]
    if not 2 <= len(chosen) <= total or any(a >= b for a, b in pairwise(chosen)):
        raise InvalidInputError(f"levels must be 2 to {total} increasing noise levels, got {levels!r:.99}")
    return chosen
