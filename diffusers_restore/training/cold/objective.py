"""The objective of Cold Diffusion (arXiv:2208.09392) for the training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast, final

import torch
from torch import Tensor, nn

from ...degradations import State
from ...schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler
from ..objectives import Objective, psnr

STEPS = 10  # of the restorations that are measured and shown


class Degraded(NamedTuple):
    """Degraded pictures, their timesteps (B,), and the clean pictures."""

    degraded: Tensor
    timesteps: Tensor
    clean: Tensor


@final
class ColdObjective(Objective):
    """One-step restoration: E |R(D(x, t), t - 1) - x|_1, t uniform in 1..T (arXiv:2208.09392).

    A batch is `(clean,)`, or `(endpoint, clean)` for a degradation that mixes with a picture of another set, where the
    endpoints are shuffled among the clean pictures.
    """

    def __init__(self, scheduler: ColdDiffusionScheduler) -> None:
        self.scheduler = scheduler

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        return {"unet": ("unet",)}

    @property
    def criterion(self) -> str:
        return "psnr"

    @property
    def compared(self) -> tuple[str, str]:
        return "psnr_restored", "psnr_degraded"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Degraded:
        clean, state = self._pair(batch, generator)
        last = len(self.scheduler)
        timesteps = torch.randint(last, (len(clean),), generator=generator, device=clean.device)
        return Degraded(self.scheduler.apply(clean, timesteps + 1, state), timesteps, clean)

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Degraded) -> dict[str, Tensor]:
        x0_hat = networks["unet"](corrupted.degraded, corrupted.timesteps).sample
        return {"loss": (x0_hat.float() - corrupted.clean).abs().mean()}

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """PSNR in dB: of D(x, T), of Algorithm 2 from it, of first estimates at T / 4, T / 2 and T, and their mean."""
        clean, state = self._pair(picture, torch.Generator().manual_seed(index))
        last = len(self.scheduler)
        figures = {}
        for t in sorted({-(-last // 4), -(-last // 2), last}):
            x0_hat = networks["unet"](self.scheduler.degrade(clean, t, state), t - 1).sample
            figures[f"psnr_direct_{t}"] = psnr(x0_hat, clean)
        mean = torch.stack(list(figures.values())).mean()
        degraded = self.scheduler.degrade(clean, last, state)
        restored = self._restore(networks["unet"], degraded, state)
        return {
            "psnr": mean,
            **figures,
            "psnr_restored": psnr(restored, clean),
            "psnr_degraded": psnr(degraded, clean),
        }

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Side by side: degraded, the direct reconstruction, Algorithm 2, clean."""
        strips = []
        for i in indices:
            clean, state = self._pair(pictures[i], torch.Generator().manual_seed(i))
            last = len(self.scheduler)
            degraded = self.scheduler.degrade(clean, last, state)
            direct = networks["unet"](degraded, last - 1).sample
            strips.append(torch.cat([degraded, direct, self._restore(networks["unet"], degraded, state), clean], 3))
        return torch.cat(strips).clamp(-1, 1)

    def _pair(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, State]:
        if len(batch) == 2:
            endpoint, clean = batch
            dealt = torch.randperm(len(clean), generator=generator, device=generator.device)
            return clean, {"endpoint": endpoint[dealt.to(clean.device)]}
        (clean,) = batch
        return clean, self.scheduler.sample_state(clean, generator)

    def _restore(self, unet: nn.Module, degraded: Tensor, state: State) -> Tensor:
        config = {**self.scheduler.config, "algorithm": "improved"}
        scheduler = cast(ColdDiffusionScheduler, ColdDiffusionScheduler.from_config(config))
        scheduler.set_timesteps(min(STEPS, len(scheduler)))
        x = degraded
        for k in scheduler.timesteps.tolist():
            x = scheduler.step(unet(x, k).sample, k, x, state=state, return_dict=False)[0]
        return x
