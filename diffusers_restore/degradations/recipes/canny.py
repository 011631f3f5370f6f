"""Canny's edge detector on batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .operations import luma

# Gradients that differ by less are equal: which of two equal neighbours is the line must not depend on rounding.
_TIE = 1e-5
_GROWTHS = 8  # between two questions of whether lines still grow, each of which waits for the device


def canny(x: Tensor, sigma: float | Sequence[float], low: float | Tensor, high: float | Tensor) -> Tensor:
    """Lines of one pixel where the luma changes most (Canny, IEEE PAMI 8(6), 1986).

    The luma is smoothed by a Gaussian and g is its gradient by Sobel. A pixel is a crest if |g| is larger there than
    on both sides along g, at a distance of one column or row, interpolated; of equal neighbours the one on the darker
    side is. Lines are crests with |g| >= low that are joined to one with |g| >= high, by sides or corners.

    Args:
        x: pictures (B, C, H, W) in [0, 1]; outside of them, their border pixels are repeated.
        sigma: of the Gaussian in pixels, one for all or one for each picture; it ends at 4 sigma.
        low, high: thresholds in luma per pixel, for all or (B, 1, 1, 1). A step of 1 has |g| = 1 / (sigma sqrt(2 pi)),
            if sigma is large.

    Returns:
        (B, 1, H, W), True on lines. It has no gradient.
    """
    sigmas = [float(one) for one in sigma] if isinstance(sigma, Sequence) else [float(sigma)] * len(x)
    smooth = _along(_along(luma(x.detach()), sigmas, 2), sigmas, 3)
    padded = functional.pad(smooth, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    across = (rows[..., 2:] - rows[..., :-2]) / 8
    down = (columns[:, :, 2:] - columns[:, :, :-2]) / 8
    size = (across * across + down * down).sqrt()
    weak = _crests(size, across, down) & (size >= low)
    return _joined(weak, weak & (size >= high))


def _along(x: Tensor, sigmas: Sequence[float], dim: int) -> Tensor:
    """Each picture smoothed along one dimension by its own Gaussian.

    Sums of mirrored pairs, one after the other, are the same to the bit for a picture alone and in a batch, and for a
    mirrored picture: a convolution's aren't, and lines would move.
    """
    reach = [math.ceil(4 * sigma) for sigma in sigmas]
    taps = [
        [_bell(k, sigma) if k <= end else 0.0 for k in range(max(reach, default=0) + 1)]
        for sigma, end in zip(sigmas, reach, strict=True)
    ]
    weights = torch.tensor([[one / (2 * sum(row) - row[0]) for one in row] for row in taps])
    weights = weights.to(x.device, x.dtype)[:, :, None, None, None]
    n = x.shape[dim]
    place = torch.arange(n, device=x.device)
    smooth = x * weights[:, 0]
    for k in range(1, max(reach, default=0) + 1):
        pair = x.index_select(dim, (place - k).clamp_min(0)) + x.index_select(dim, (place + k).clamp_max(n - 1))
        smooth = smooth + pair * weights[:, k]
    return smooth


def _bell(k: int, sigma: float) -> float:
    return math.exp(-(k / sigma) * (k / sigma) / 2) if sigma else float(k == 0)


def _crests(size: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Where the gradient is larger than its interpolated neighbours along it."""
    height, width = size.shape[2:]
    padded = functional.pad(size, (1, 1, 1, 1))

    def at(dy: int, dx: int) -> Tensor:
        return padded[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    steep = down.abs() > across.abs()
    slope = torch.minimum(down.abs(), across.abs()) / torch.maximum(down.abs(), across.abs()).clamp_min(1e-12)
    falls = (across < 0) != (down < 0)  # the gradient points to the upper right or the lower left
    # The neighbours on the line of the gradient: on one side the one below (to the right, if the gradient is flat) and
    # the corner next to it, between which the line passes; on the other side their opposites.
    straight, opposite = torch.where(steep, at(1, 0), at(0, 1)), torch.where(steep, at(-1, 0), at(0, -1))
    corner = torch.where(falls, torch.where(steep, at(1, -1), at(-1, 1)), at(1, 1))
    opposite_corner = torch.where(falls, torch.where(steep, at(-1, 1), at(1, -1)), at(-1, -1))
    one, other = torch.lerp(straight, corner, slope), torch.lerp(opposite, opposite_corner, slope)
    forward = torch.where(steep, down, across) >= 0
    ahead, behind = torch.where(forward, one, other), torch.where(forward, other, one)
    return (ahead <= size * (1 + _TIE)) & (size > behind * (1 + _TIE))


def _joined(weak: Tensor, strong: Tensor) -> Tensor:
    """The pixels of `weak` that a way within it leads to from one of `strong`."""
    lines = strong
    while True:
        before = lines
        for _ in range(_GROWTHS):
            padded = functional.pad(lines, (1, 1, 1, 1))
            rows = padded[:, :, :-2] | padded[:, :, 1:-1] | padded[:, :, 2:]
            lines = (rows[..., :-2] | rows[..., 1:-1] | rows[..., 2:]) & weak
        if torch.equal(lines, before):
            return lines
