"""The objective of RDDM (arXiv:2308.13712) for the training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError
from ...pipelines.pipeline_rddm import Inputs, network_codes, network_condition, network_outputs
from ...schedulers.scheduling_rddm import RDDMScheduler
from ..objectives import Objective, psnr
from ..pairs import Pair, PairMaker

GENERATION_STEPS = 10  # of the pictures that are drawn to look at


class Noisy(NamedTuple):
    """I_t (B, C, H, W), the networks' inputs beside it, timesteps (B,), their targets, and I_in."""

    noisy: Tensor
    condition: tuple[Tensor, ...]
    timesteps: Tensor
    target: Tensor
    degraded: Tensor


@final
class RDDMObjective(Objective):
    """Predicting `scheduler.heads` from I_t = I_0 + a_t I_res + b_t epsilon: the sum of a loss for each head.

    t is uniform in 0..T-1. A batch is `(clean,)`, `(degraded, clean)` or `(degraded, clean, mask)`.

    Args:
        scheduler: the process.
        inputs: what the networks take.
        two_networks: "unet" predicts the first head and "unet_noise" the second, each with its own optimiser.
        damage: makes pairs from clean pictures. Without it and without pairs, I_in = 0.
        loss: "l1" or "l2".
        validation_steps: of the restorations that are measured and shown, T at most.
        unpaired: the degraded pictures of a batch are from another set, to be shuffled.
    """

    def __init__(
        self,
        scheduler: RDDMScheduler,
        inputs: Inputs,
        *,
        two_networks: bool = False,
        damage: PairMaker | None = None,
        loss: str = "l1",
        validation_steps: int = 5,
        unpaired: bool = False,
    ) -> None:
        if two_networks and len(scheduler.heads) != 2:
            raise InvalidInputError(
                f"two_networks need two predictions, prediction_type {scheduler.config.prediction_type!r} is one"
            )
        if loss not in ("l1", "l2"):
            raise InvalidInputError(f"loss must be l1 or l2, got {loss!r}")
        self.scheduler = scheduler
        self.inputs = inputs
        self.damage = damage
        self._networks = ("unet", "unet_noise") if two_networks else ("unet",)
        self._loss = loss
        self._steps = min(validation_steps, len(scheduler))
        self._unpaired = unpaired

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        return {name: (name,) for name in self._networks}

    @property
    def criterion(self) -> str:
        return "psnr"

    @property
    def compared(self) -> tuple[str, str]:
        return "psnr", "psnr_degraded"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Noisy:
        degraded, clean, mask = self._pair(batch, generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        timesteps = torch.randint(len(self.scheduler), (len(clean),), generator=generator, device=clean.device)
        return Noisy(
            self.scheduler.add_noise(clean, noise, timesteps, degraded=degraded),
            network_condition(self.inputs, degraded, mask),
            timesteps,
            self.scheduler.get_target(clean, noise, timesteps, degraded=degraded),
            degraded,
        )

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Noisy) -> dict[str, Tensor]:
        x = torch.cat([corrupted.noisy, *corrupted.condition], dim=1)
        heads = self.scheduler.heads
        targets = dict(zip(heads, corrupted.target.chunk(len(heads), dim=1), strict=True))
        codes = network_codes(self.scheduler, corrupted.timesteps)
        first, own_heads = phase == "unet", heads
        if len(self._networks) == 2:
            own_heads = heads[:1] if first else heads[1:]
        code = codes[0] if first else codes[1]
        outputs = networks[phase](x, code, return_dict=False)[0].float().chunk(len(own_heads), dim=1)
        losses = {}
        for name, output in zip(own_heads, outputs, strict=True):
            error = output - targets[name]
            losses[f"loss_{name}"] = error.abs().mean() if self._loss == "l1" else error.square().mean()
        return losses

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """PSNR in dB of the degraded picture, of its restoration in one step and in `validation_steps`, "psnr".

        Where pictures are generated or translated, "psnr" is that of one evaluation half-way to the noise.
        """
        generator = torch.Generator().manual_seed(index)
        degraded, clean, mask = self._pair(picture, generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        if self.damage is None and (self._unpaired or len(picture) == 1):
            half = len(self.scheduler) // 2
            t = torch.tensor([half], device=clean.device)
            noisy = self.scheduler.add_noise(clean, noise, t, degraded=degraded)
            condition = network_condition(self.inputs, degraded, mask)
            output = self._outputs(networks, noisy, condition, half)
            self.scheduler.set_timesteps(timesteps=[half])
            return {"psnr": psnr(self.scheduler.step(output, half, noisy, degraded)[1], clean)}
        return {
            "psnr": psnr(self._restore(networks, degraded, mask, noise, self._steps), clean),
            "psnr_1_step": psnr(self._restore(networks, degraded, mask, noise, 1), clean),
            "psnr_degraded": psnr(degraded, clean),
        }

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Side by side: degraded, restored in `validation_steps`, clean; where pictures are generated, those alone."""
        rows = []
        for i in indices:
            generator = torch.Generator().manual_seed(i)
            degraded, clean, mask = self._pair(pictures[i], generator)
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            generated = self.damage is None and len(pictures[i]) == 1
            steps = min(GENERATION_STEPS, len(self.scheduler)) if generated else self._steps
            restored = self._restore(networks, degraded, mask, noise, steps)
            rows.append(restored if generated else torch.cat([degraded, restored, clean], dim=3))
        return torch.cat(rows).clamp(-1, 1)

    def _pair(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Pair:
        if len(batch) == 1:
            (clean,) = batch
            if self.damage is not None:
                return self.damage(clean, generator)
            return Pair(torch.zeros_like(clean), clean, None)
        degraded, clean, *masks = batch
        if self._unpaired:
            dealt = torch.randperm(len(clean), generator=generator, device=generator.device)
            degraded = degraded[dealt.to(clean.device)]
        return Pair(degraded, clean, (masks[0][:, :1] > 0).to(clean.dtype) if masks else None)

    def _outputs(
        self, networks: Mapping[str, nn.Module], sample: Tensor, condition: tuple[Tensor, ...], t: int
    ) -> Tensor:
        unet_noise = networks["unet_noise"] if len(self._networks) == 2 else None
        return network_outputs(networks["unet"], unet_noise, self.scheduler, sample, condition, t)

    def _restore(
        self, networks: Mapping[str, nn.Module], degraded: Tensor, mask: Tensor | None, noise: Tensor, steps: int
    ) -> Tensor:
        self.scheduler.set_timesteps(steps)
        condition = network_condition(self.inputs, degraded, mask)
        x = self.scheduler.start(degraded, noise)
        for t in self.scheduler.timesteps.tolist():
            x = self.scheduler.step(self._outputs(networks, x, condition, t), t, x, degraded, return_dict=False)[0]
        return x
