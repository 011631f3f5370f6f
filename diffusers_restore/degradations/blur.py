"""Blur: t convolutions with Gaussians, applied at once in the basis that makes all of them diagonal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..caching import keep_tables
from ..errors import InvalidInputError, check_bool, check_int, check_real
from ..tensors import exact_product
from .base import Degradation, State, check_choice, per_picture


@dataclass(frozen=True)
class Blur(Degradation):
    """D(x, t) = g_{t-1} * ... * g_0 * x with Gaussians g_i of `taps` x `taps` pixels (arXiv:2208.09392).

    g_i is the outer product of a Gaussian of standard deviation sigma_i pixels, cut to `taps` and made to sum to one:

        constant: sigma_i = std;  linear: std + growth i;  exponential: std exp(growth i).

    It is applied as one product in the Fourier basis ("circular") or in the cosine basis DCT-I ("reflect"), for any T.
    Variances of cut Gaussians don't add up to those of a wider one, so the transfer functions are multiplied instead.

    Args:
        num_timesteps: T.
        taps: odd side of the kernels in pixels.
        std: sigma_0.
        schedule: how sigma_i grows.
        growth: see above.
        border: "circular" repeats the picture; "reflect" mirrors it at the centre of its border pixels.
        mean_at_end: D(x, T) is the mean of each channel.
    """

    taps: int = 11
    std: float = 7.0
    schedule: Literal["constant", "linear", "exponential"] = "constant"
    growth: float = 0.0
    border: Literal["circular", "reflect"] = "circular"
    mean_at_end: bool = False

    kind: ClassVar[str] = "blur"

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_int("taps", self.taps, 1) % 2 == 0:
            raise InvalidInputError(f"taps must be odd, got {self.taps}")
        check_real("std", self.std, above=0)
        check_choice("schedule", self.schedule, ("constant", "linear", "exponential"))
        check_real("growth", self.growth, 0)
        if self.schedule == "constant" and self.growth != 0:
            raise InvalidInputError(f"growth must be 0 for a constant schedule, got {self.growth}")
        check_choice("border", self.border, ("circular", "reflect"))
        check_bool("mean_at_end", self.mean_at_end)

    def kernels(self) -> Tensor:
        """g_0..g_{T-1} along one axis, float64 (T, taps)."""
        i = torch.arange(self.num_timesteps, dtype=torch.float64)
        std = self.std * torch.exp(self.growth * i) if self.schedule == "exponential" else self.std + self.growth * i
        offset = torch.arange(self.taps, dtype=torch.float64) - self.taps // 2
        kernels = torch.exp(-((offset / std[:, None]) ** 2) / 2)
        return kernels / kernels.sum(dim=1, keepdim=True)

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        height, width = x0.shape[2:]
        along = [_transfer(self, n, x0.device, x0.dtype)[t] for n in (height, width)]
        if self.border == "circular":
            half = along[1][:, : width // 2 + 1]
            spectrum = torch.fft.rfft2(x0) * (along[0][:, :, None] * half[:, None, :])[:, None]
            blurred = torch.fft.irfft2(spectrum, s=(height, width))
        else:
            (to_h, from_h), (to_w, from_w) = (_cosines(n, x0.device, x0.dtype) for n in (height, width))
            spectrum = exact_product(exact_product(x0, to_w.mT).mT, to_h.mT)
            spectrum = spectrum * (along[1][:, :, None] * along[0][:, None, :])[:, None]
            blurred = exact_product(exact_product(spectrum, from_h.mT).mT, from_w.mT)
        if self.mean_at_end:
            mean = x0.mean(dim=(2, 3), keepdim=True)
            blurred = torch.where(per_picture(t == self.num_timesteps), mean, blurred)
        return blurred


@keep_tables()
def _transfer(blur: Blur, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The factors of the n basis functions along an axis at severities 0..T, (T + 1, n)."""
    period = n if blur.border == "circular" else max(1, 2 * (n - 1))
    offset = torch.arange(blur.taps, dtype=torch.float64) - blur.taps // 2
    frequency = torch.arange(n, dtype=torch.float64) * (2 * math.pi / period)
    steps = blur.kernels() @ torch.cos(offset[:, None] * frequency)
    table = torch.cat([torch.ones(1, n, dtype=torch.float64), steps]).cumprod(dim=0)
    return table.to(device, dtype)


@keep_tables()
def _cosines(n: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """DCT-I of n values as a matrix, and its inverse: the eigenvectors of what mirrors at the border's centres."""
    if n == 1:
        one = torch.ones(1, 1, device=device, dtype=dtype)
        return one, one
    i = torch.arange(n, dtype=torch.float64)
    synthesis = torch.cos(i[:, None] * i * (math.pi / (n - 1)))
    weight = torch.full((n,), 1.0, dtype=torch.float64)
    weight[0] = weight[-1] = 0.5
    analysis = synthesis * weight * weight[:, None] * (2 / (n - 1))
    return analysis.to(device, dtype), synthesis.to(device, dtype)
