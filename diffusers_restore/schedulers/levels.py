"""Noise levels of a method's own, and the timesteps of a network for them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ..errors import check_int
from .timesteps import space_timesteps


def log_levels(highest: float, lowest: float, count: int) -> list[float]:
    """`count` levels from the highest to the lowest, each the same factor below the one before."""
    steps = max(1, count - 1)
    return [highest * (lowest / highest) ** (i / steps) for i in range(count)]


def karras_levels(highest: float, lowest: float, count: int, rho: float = 7.0) -> list[float]:
    """`count` levels from the highest to the lowest, at equal distances of sigma^(1 / rho) (arXiv:2206.00364)."""
    steps = max(1, count - 1)
    high, low = highest ** (1 / rho), lowest ** (1 / rho)
    return [(high + (low - high) * i / steps) ** rho for i in range(count)]


def nearest_timesteps(wanted: Sequence[float], levels: Sequence[float]) -> list[int]:
    """The timesteps whose levels are nearest to the wanted ones by their ratio, all different.

    Args:
        wanted: decreasing, at most as many as there are levels.
        levels: increasing, > 0, of the timesteps 0..T-1.
    """
    nearest = []
    for sigma in wanted:
        above = min(bisect_left(levels, sigma), len(levels) - 1)
        below = max(0, above - 1)
        nearest.append(above if levels[above] * levels[below] <= sigma**2 else below)
    return distinct(nearest, len(levels))


def distinct(timesteps: Sequence[int], total: int) -> list[int]:
    """Decreasing timesteps of 0..total-1, the nearest to the given ones, which don't increase."""
    chosen = list(timesteps)
    for i in range(len(chosen) - 2, -1, -1):
        chosen[i] = max(chosen[i], chosen[i + 1] + 1)
    return [min(t, total - 1 - i) for i, t in enumerate(chosen)]


def share_of(share: float, total: int) -> int:
    """How many timesteps the lowest `share` of 0..total-1 has, at least one."""
    return max(1, round(share * total))


def leading_below(share: float, count: int, total: int) -> list[int]:
    """`count` timesteps of "leading" spacing in the lowest `share` of 0..total-1."""
    below = share_of(share, total)
    return space_timesteps(check_int("num_inference_steps", count, 1, below), below, "leading")
