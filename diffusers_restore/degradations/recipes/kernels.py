"""Blur kernels, each with a sum of one: Gaussian, generalised Gaussian, plateau and sinc."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import InvalidInputError, check_int, check_real


def elliptic(
    size: int,
    sigma_x: float,
    sigma_y: float,
    theta: float = 0.0,
    *,
    beta: float = 1.0,
    plateau: bool = False,
    shift: float = 0.0,
) -> Tensor:
    """A Gaussian exp(-q^beta / 2), or a plateau 1 / (1 + q^beta), (size, size), float64 (arXiv:2107.10833).

    q = p^T S^-1 p of the pixel p from the centre, S = R(theta) diag(sigma_x^2, sigma_y^2) R(theta)^T; beta = 1 is the
    Gaussian proper.

    Args:
        size: taps in each direction, odd.
        sigma_x, sigma_y: widths along the axes, in pixels.
        theta: rotation of the axes, in radians.
        beta: of the generalised kernels.
        plateau: the plateau instead of the Gaussian.
        shift: of the centre, in pixels, both ways.
    """
    dx, dy = _offsets(size, shift)
    cos, sin = math.cos(theta), math.sin(theta)
    sigma_x, sigma_y = max(sigma_x, 1e-3), max(sigma_y, 1e-3)  # 1e-3 is a single tap already
    q = ((dx * cos + dy * sin) / sigma_x) ** 2 + ((dy * cos - dx * sin) / sigma_y) ** 2
    if shift:
        q = q - q.min()  # otherwise a narrow kernel between two pixels is zero everywhere
    q = q**beta
    values = 1 / (1 + q) if plateau else torch.exp(-q / 2)
    return values / values.sum()


def sinc(size: int, cutoff: float) -> Tensor:
    """The ideal low pass w J1(w r) / (2 pi r) for a cutoff w, (size, size), float64: it rings (arXiv:2107.10833)."""
    dx, dy = _offsets(size, 0.0)
    r = (dx * dx + dy * dy).sqrt()
    centre = size // 2
    r[centre, centre] = 1.0
    values = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    values[centre, centre] = cutoff**2 / (4 * math.pi)
    return values / values.sum()


def kernel(numbers: Mapping[str, Any], share: float, stride_factor: float = 1.0) -> Tensor:
    """The kernel of a step "blur", with a share in (0, 1] of its width; a sinc is mixed with the picture instead.

    Args:
        numbers: `kernel`, one of iso, aniso, generalised, plateau, sinc; `size`; `sigma` or `sigma_x`, `sigma_y`,
            `theta`; `beta`; or `cutoff`.
        share: factor of the widths.
        stride_factor: n where each n-th pixel is taken afterwards: the kernel is centred at the middle of n pixels.
    """
    kind, size = numbers["kernel"], check_int("size", numbers["size"], 1)
    if size % 2 == 0:
        raise InvalidInputError(f"size must be odd, got {size}")
    if kind == "sinc":
        values = share * sinc(size, check_real("cutoff", numbers["cutoff"], above=0))
        values[size // 2, size // 2] += 1 - share
        return values
    if kind not in ("iso", "aniso", "generalised", "plateau"):
        raise InvalidInputError(f"kernel must be one of iso, aniso, generalised, plateau, sinc, got {kind!r}")
    if "sigma" in numbers:
        widths = (numbers["sigma"], numbers["sigma"], 0.0)
    else:
        widths = (numbers["sigma_x"], numbers["sigma_y"], numbers["theta"])
    sigma_x, sigma_y = (share * check_real("sigma", sigma, 0) for sigma in widths[:2])
    beta = 1.0 if kind in ("iso", "aniso") else check_real("beta", numbers["beta"], above=0)
    shift = (stride_factor - 1) / 2
    return elliptic(size, sigma_x, sigma_y, widths[2], beta=beta, plateau=kind == "plateau", shift=shift)


def scaled(numbers: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The numbers of a step "blur" for a picture that is larger by a factor: wider kernels, a lower cutoff."""
    result = dict(numbers)
    result["size"] = 2 * math.ceil(check_int("size", numbers["size"], 1) // 2 * factor) + 1
    for name in ("sigma", "sigma_x", "sigma_y"):
        if name in numbers:
            result[name] = factor * check_real(name, numbers[name], 0)
    if "cutoff" in numbers:
        result["cutoff"] = min(math.pi, check_real("cutoff", numbers["cutoff"], above=0) / factor)
    return result


def stack(kernels: list[Tensor]) -> Tensor:
    """Kernels of odd sizes as (n, k, k): the small ones in a frame of zeros."""
    largest = max(len(one) for one in kernels)
    result = torch.zeros(len(kernels), largest, largest, dtype=torch.float64)
    for frame, one in zip(result, kernels, strict=True):
        edge = (largest - len(one)) // 2
        frame[edge : edge + len(one), edge : edge + len(one)] = one
    return result


def _offsets(size: int, shift: float) -> tuple[Tensor, Tensor]:
    """Columns and rows from the centre, (1, size) and (size, 1)."""
    line = torch.arange(size, dtype=torch.float64) - (size // 2 + shift)
    return line[None, :], line[:, None]
