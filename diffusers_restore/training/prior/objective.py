"""The objective of a DDPM for the training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from ...errors import InvalidInputError, check_real
from ...schedulers.prediction import check_prediction_type
from ..objectives import SHOWN, Objective, estimate_x0

LOG_SIGMA_MEAN, LOG_SIGMA_STD = -1.2, 1.2  # arXiv:2206.00364, table 1


class NoisyBatch(NamedTuple):
    """Noisy pictures, their timesteps (B,), what the network should predict, and the weight of each picture (B,)."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    weight: Tensor


@final
class DDPMObjective(Objective):
    """Denoising: E w(t) |f(sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, t) - target|^2 (arXiv:2006.11239).

    `scheduler.config.prediction_type` says what the target is: epsilon, x0 ("sample") or v (arXiv:2202.00512).
    `timestep_sampling` is "uniform", "lognormal" for ln(sqrt(1 - abar_t) / sqrt(abar_t)) ~ N(-1.2, 1.2^2)
    (arXiv:2206.00364), or "mixed", by a coin for each picture. `snr_gamma` gives the weights of min-SNR
    (arXiv:2303.09556), which amount to min(snr, gamma) on the error of x0. `noise_offset` adds that much noise that is
    constant over each channel.

    Raises:
        InvalidInputError: the scheduler's variance is learned, which has no loss in diffusers.
    """

    def __init__(
        self,
        scheduler: DDPMScheduler,
        *,
        timestep_sampling: str = "uniform",
        snr_gamma: float | None = None,
        noise_offset: float = 0.0,
    ) -> None:
        if timestep_sampling not in ("uniform", "lognormal", "mixed"):
            raise InvalidInputError(f"timestep_sampling must be uniform, lognormal or mixed, got {timestep_sampling!r}")
        check_prediction_type(scheduler.config.prediction_type)
        if str(scheduler.config.variance_type).startswith("learned"):
            raise InvalidInputError(
                f"a scheduler with variance_type {scheduler.config.variance_type!r} can't be trained with: diffusers "
                "has no loss for a learned variance; take fixed_small"
            )
        self.scheduler = scheduler
        self.timestep_sampling = timestep_sampling
        self.snr_gamma = None if snr_gamma is None else check_real("snr_gamma", snr_gamma, above=0)
        self.noise_offset = check_real("noise_offset", noise_offset, 0)
        abar = scheduler.alphas_cumprod
        self._sigmas = ((1 - abar) / abar).sqrt()

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        return {"unet": ("unet",)}

    @property
    def criterion(self) -> str:
        return "psnr_25"

    def shown(self, held_out: int) -> int:
        return SHOWN  # generated, so no held-out pictures are needed

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> NoisyBatch:
        (x0,) = batch
        shape, device = x0.shape, x0.device
        noise = torch.randn(shape, generator=generator, device=device)
        if self.noise_offset:
            noise = noise + self.noise_offset * torch.randn((*shape[:2], 1, 1), generator=generator, device=device)
        timesteps = self._draw_timesteps(len(x0), generator, device)
        match self.scheduler.config.prediction_type:
            case "epsilon":
                target = noise
            case "sample":
                target = x0
            case _:
                target = self.scheduler.get_velocity(x0, noise, timesteps)
        return NoisyBatch(self.scheduler.add_noise(x0, noise, timesteps), timesteps, target, self._weight(timesteps))

    def _draw_timesteps(self, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
        levels = len(self._sigmas)
        if self.timestep_sampling == "uniform":
            return torch.randint(levels, (count,), generator=generator, device=device)
        drawn = LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.randn(count, generator=generator, device=device)
        self._sigmas = self._sigmas.to(device)
        lognormal = torch.searchsorted(self._sigmas, drawn.exp()).clamp(max=levels - 1)
        if self.timestep_sampling == "lognormal":
            return lognormal
        uniform = torch.randint(levels, (count,), generator=generator, device=device)
        return torch.where(torch.rand(count, generator=generator, device=device) < 0.5, uniform, lognormal)

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: NoisyBatch) -> dict[str, Tensor]:
        prediction = networks["unet"](corrupted.noisy, corrupted.timesteps).sample
        error = (prediction.float() - corrupted.target).square().mean(dim=(1, 2, 3))
        return {"loss": (corrupted.weight * error).mean()}

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        """PSNR in dB of the network's one-step x0 estimate at noise levels 15, 25 and 50 (of 255)."""
        (x0,) = picture
        figures = {}
        for level in (15, 25, 50):
            timestep = int((self._sigmas - level / 127.5).abs().argmin())
            x0_hat = estimate_x0(networks["unet"], self.scheduler, x0, timestep, index)
            figures[f"psnr_{level}"] = 10 * torch.log10(4 / (x0_hat.clamp(-1, 1) - x0).square().mean())
        return figures

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        """Pictures drawn from the prior by DDIM in 25 steps; the start of number i is a function of i."""
        unet: Any = networks["unet"]
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        device = next(unet.parameters()).device
        starts = [
            torch.randn((unet.config.in_channels, height, width), generator=torch.Generator().manual_seed(i))
            for i in indices
        ]
        x = torch.stack(starts).to(device)
        # Trailing: the chain starts at the last level, even if 25 doesn't divide their number.
        sampler = DDIMScheduler.from_config(self.scheduler.config, clip_sample=True, timestep_spacing="trailing")
        count = min(25, len(self._sigmas))
        sampler.set_timesteps(count, device=device)
        for t in sampler.timesteps[:count]:  # rounding gives some "trailing" ones a -1 at the end
            x = sampler.step(unet(x, t).sample, t, x).prev_sample
        return x.clamp(-1, 1)

    def _weight(self, timesteps: Tensor) -> Tensor:
        if self.snr_gamma is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        snr = compute_snr(self.scheduler, timesteps)
        weight = snr.clamp(max=self.snr_gamma)
        # A unit squared error of x0 is one of snr in epsilon, and one of snr + 1 in v.
        divisor = {"epsilon": snr, "v_prediction": snr + 1}
        return weight / divisor.get(self.scheduler.config.prediction_type, torch.ones_like(snr))
