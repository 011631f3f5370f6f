"""Operations of recipes: functions of batches (B, C, H, W) in [0, 1], with parameters for each picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..base import per_picture

Size = tuple[int, int]


def luma(x: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B, (B, 1, H, W); the mean where there aren't three channels."""
    if x.shape[1] != 3:
        return x.mean(dim=1, keepdim=True)
    red, green, blue = x.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def blur(x: Tensor, kernels: Tensor) -> Tensor:
    """y_p = sum_q k_q x_(p+q), each picture with its own kernel (B, k, k), the border mirrored at its centres."""
    height, width = x.shape[2:]
    edge = kernels.shape[-1] // 2
    padded = x.index_select(2, _mirrored(height, edge, x.device)).index_select(3, _mirrored(width, edge, x.device))
    # The transform wraps around only outside of the picture.
    size = _smooth(height + 2 * edge), _smooth(width + 2 * edge)
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernels, s=size).conj()[:, None]
    return torch.fft.irfft2(spectrum, s=size)[:, :, :height, :width]


def poisson(x: Tensor, z: Tensor, rate: Tensor, *, grey: Tensor) -> Tensor:
    """The noise N / rate - x of counts N ~ Poisson(rate x), from standard normal z; of the luma where `grey`, (B,).

    N = m + sqrt(m) z + (z^2 - 1) min(m, 1) / 6 for m = rate x (Cornish and Fisher's expansion): mean m, variance
    m + 1/18, skewness to first order. It is continuous in m, so that the same z serves a picture at all severities.
    """
    base = torch.where(per_picture(grey), luma(x), x)
    mean = base * per_picture(rate)
    counts = mean + mean.clamp_min(1e-12).sqrt() * z + (z * z - 1) * (mean.clamp(max=1) / 6)
    return counts.clamp_min(0) / per_picture(rate) - base


def salt_and_pepper(x: Tensor, where: Tensor, which: Tensor, amount: Tensor, salt: Tensor) -> Tensor:
    """1 or 0 in place of a value where uniform `where` < amount, 1 where `which` < salt; amounts (B,), fields as x."""
    return torch.where(where < per_picture(amount), (which < per_picture(salt)).to(x.dtype), x)


def resize(x: Tensor, size: Size, mode: str, antialias: bool = False) -> Tensor:
    """Resized as torch does: area, nearest (the first of n pixels), nearest-exact (the middle), bilinear or bicubic."""
    if x.shape[2:] == size:
        return x
    if mode in ("bilinear", "bicubic"):
        return functional.interpolate(x, size=size, mode=mode, antialias=antialias)
    return functional.interpolate(x, size=size, mode=mode)


def capsules(segments: Tensor, height: int, width: int) -> Tensor:
    """1 where a pixel's centre is within r of one of the segments, (1, 1, H, W); r is at least half a pixel.

    Args:
        segments: (n, 5), columns and rows of both ends as fractions of width and height, r as one of the shorter side.
        height, width: of the picture.
    """
    mask = segments.new_zeros(1, 1, height, width)
    scale = segments.new_tensor([width, height, width, height, min(height, width)])
    x = (torch.arange(width) + 0.5).to(segments)
    y = (torch.arange(height) + 0.5).to(segments)[:, None]
    for x0, y0, x1, y1, r in (segments * scale).tolist():
        dx, dy = x1 - x0, y1 - y0
        along = (((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-12)).clamp(0, 1)
        distance = (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2
        mask = mask.masked_fill(distance <= max(r, 0.5) ** 2, 1)
    return mask


def _mirrored(n: int, edge: int, device: torch.device) -> Tensor:
    """The index among n pixels for each position -edge..n + edge - 1, mirrored as often as necessary."""
    period = max(1, 2 * (n - 1))
    place = torch.arange(-edge, n + edge, device=device) % period
    return torch.minimum(place, (period - place) % period if n == 1 else period - place)


def _smooth(n: int) -> int:
    """The next number with no prime factor above 5, for which Fourier transforms are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
