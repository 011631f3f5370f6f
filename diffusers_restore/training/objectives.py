"""Objectives: how a method corrupts pictures, what it predicts, and its loss.

An `Objective` is the loop's only interface to a method. A method with several networks or optimisers (a GAN) names its
phases: in each, one optimiser steps some of the networks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from ..schedulers.prediction import predict_x0_and_epsilon
from .lazy import lazy_names

SHOWN = 16  # pictures to look at
ERROR_LEVELS = 16
SIGMA_MAX = 80.0  # arXiv:2206.00364, table 1

# The objective of a method is in its folder.
__getattr__ = lazy_names(__name__, {"DDPMObjective": ".prior.objective", "NoisyBatch": ".prior.objective"})


class Objective(ABC):
    """One method as the training loop sees it.

    The tensors of a batch are (B, C, H, W) in [-1, 1]: `(clean,)` or `(degraded, clean)`. Every random draw comes from
    the generator, so that a step is a function of (seed, step, place in the batch).
    """

    @property
    @abstractmethod
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        """In the order of a step: the name of an optimiser -> the networks that it steps, the others being frozen.

        A network in no phase (a feature extractor) is neither trained nor averaged nor written into checkpoints.
        """

    @property
    @abstractmethod
    def criterion(self) -> str | None:
        """The figure of `evaluate` by which the best weights are chosen; more is better. None takes the last ones."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """The networks with a running average, which is measured and exported: all that are stepped."""
        return tuple(dict.fromkeys(name for names in self.phases.values() for name in names))

    @property
    def compared(self) -> tuple[str, str] | None:
        """The figures of restored and of degraded pictures, PSNRs in dB; None where nothing is restored."""
        return None

    def find_worse(self, figures: Mapping[str, float]) -> str | None:
        """A sentence for the log and the card if the restored pictures are worse than the degraded ones."""
        restored, degraded = (figures.get(name) for name in self.compared or ("", ""))
        if restored is None or degraded is None or restored >= degraded:
            return None
        return (
            f"the held-out pictures are further from the clean ones after restoring than before: {restored:.2f} dB "
            f"against {degraded:.2f} dB of the degraded pictures"
        )

    def shown(self, held_out: int) -> int:
        """How many pictures `show` makes: one for each held-out picture, 16 at most."""
        return min(SHOWN, held_out)

    @abstractmethod
    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Any:
        """The input of `losses` from a micro-batch, drawn once and used in every phase of the step."""

    @abstractmethod
    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Any) -> dict[str, Tensor]:
        """The terms of the loss of a phase, scalars; their sum is minimised. Names differ between phases."""

    def finished(self, networks: Mapping[str, nn.Module]) -> bool:
        """Whether the run has reached its goal; checked whenever losses are logged."""
        return False

    @abstractmethod
    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """Figures by name, scalars, of the held-out picture number `index`, (1, C, H, W): the same for every step."""

    @abstractmethod
    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Pictures to look at, (len(indices), C, H, W) in [-1, 1]; number i may show the held-out `pictures[i]`."""


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """PSNR in dB, capped at 60 so that means stay finite."""
    return 10 * torch.log10(4 / (x.clamp(-1, 1) - reference).square().mean().clamp_min(4e-6))


@torch.no_grad()
def x0_errors(
    network: nn.Module, scheduler: DDPMScheduler, pictures: Sequence[Tensor]
) -> tuple[tuple[float, float], ...]:
    """The error of x0_hat: pairs (sigma, mean of |x0_hat - x0|^2 over pixels and pictures), sigma rising.

    x0_hat is unclipped, so that the error is the network's own, at up to 16 timesteps whose sigma = sqrt(1 - abar) /
    sqrt(abar) are spaced evenly in their logarithm, from the first timestep to the last or to sigma = 80, beyond which
    the picture is invisible.

    Args:
        network: of the scheduler's prediction type.
        scheduler: its noise schedule.
        pictures: clean, (1, C, H, W) each, in [-1, 1].
    """
    abar = scheduler.alphas_cumprod.double()
    abar = abar[abar > 0]  # without any signal, sigma is infinite
    log_sigma = ((1 - abar) / abar).log() / 2
    end = min(float(log_sigma[-1]), math.log(SIGMA_MAX))
    wanted = torch.linspace(float(log_sigma[0]), end, ERROR_LEVELS, dtype=torch.float64)
    timesteps = sorted({int((log_sigma - one).abs().argmin()) for one in wanted})
    found = []
    for timestep in timesteps:
        errors = [
            float((estimate_x0(network, scheduler, x0, timestep, i) - x0).square().mean())
            for i, x0 in enumerate(pictures)
        ]
        found.append((float(f"{log_sigma[timestep].exp():.6g}"), float(f"{fmean(errors):.6g}")))
    return tuple(found)


def estimate_x0(network: Any, scheduler: DDPMScheduler, x0: Tensor, timestep: int, seed: int) -> Tensor:
    """x0_hat, in one step, of a picture with the noise of a timestep; the noise is a function of the seed."""
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)).to(x0)
    noisy = scheduler.add_noise(x0, noise, torch.tensor([timestep], device=x0.device))
    output, abar = network(noisy, timestep).sample, float(scheduler.alphas_cumprod[timestep])
    return predict_x0_and_epsilon(output, noisy, abar, scheduler.config.prediction_type)[0]
