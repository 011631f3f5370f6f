"""Large pictures: how much of them a network sees at once, and what that will take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..errors import check_int
from ..pipelines.canvas import size_multiple
from ..pipelines.common import uncompiled
from ..pipelines.tiles import TiledNetwork, at_zero, grey, reach
from .arguments import ArgumentError, check
from .memory import SMALL, check_free, free_memory, network_memory

AUTO, OFF = "auto", "off"

THRIFTY = 3_500_000_000
"""Bytes of a restoration that are worth the margins of tiles, where these change nothing else."""

_LEAST = 1_000_000_000
"""Bytes that a network gets in any case, if they are free."""

LARGE = 4_000_000
"""Pixels that are worth a word before the work begins."""

_LEAST_SIDE = 256
"""Of tiles that are chosen here: smaller ones would see more of their margins than of themselves."""

_TIMED_SIDES = (256, 768)
"""Of pictures whose evaluation is timed: of small ones, which fit into a processor's caches, a pixel takes less."""

_QUICK = 0.5
"""Seconds for the smaller one below which the larger one is worth its time."""


class Room(NamedTuple):
    """How a picture will be seen.

    Attributes:
        tiles: how many.
        blended: whether they are blended, as the network has no end to its reach.
        seen: pixels of all tiles, with their margins.
        needed: bytes.
    """

    tiles: int
    blended: bool
    seen: int
    needed: int


def check_tile(tile: int | str) -> int | str:
    """The argument `tile`: "auto", "off" or a number of pixels.

    Raises:
        ArgumentError: something else.
    """
    if isinstance(tile, str) and tile.isdecimal():
        tile = int(tile)
    if isinstance(tile, str):
        if tile not in (AUTO, OFF):
            raise ArgumentError("{tile} must be 'auto', 'off' or a number of pixels, got {0!r:.99}", tile)
        return tile
    return check("tile", check_int, tile, 1)


def make_room(
    pipe: Any,
    network: Any,
    shape: Sequence[int],
    more_per_pixel: int,
    tile: int | str,
    *,
    gradient: bool = False,
) -> Room:
    """Have a picture seen whole or in tiles, and refuse it if the free memory is too small, before the work begins.

    With "auto" it is seen whole where the memory is free for that; but where tiles change nothing, because the network
    has a reach, only up to `THRIFTY` bytes.

    Args:
        pipe: whose tiling is set.
        network: which sees the picture.
        shape: (..., H, W) of the restored picture.
        more_per_pixel: bytes that the restoration needs beside the network.
        tile: "auto", "off" or the side of a tile.
        gradient: whether the method goes back through the network, for which tiles are of no use.

    Raises:
        ArgumentError: a tile for a method that needs a gradient.
        ModelError: the memory is too small; the message has both figures.
    """
    height, width = shape[-2:]
    if gradient and isinstance(tile, int):
        raise ArgumentError("{tile} is of no use for this {method}, which needs the gradient of the network")
    multiple = size_multiple(network)
    size = height + -height % multiple, width + -width % multiple
    pipe.disable_tiling()
    if isinstance(tile, int):
        return _tiled(pipe, network, size, more_per_pixel, tile)
    pixels = size[0] * size[1]
    if pixels < SMALL:
        return Room(1, False, pixels, 0)
    per_pixel = network_memory(network, *size, gradient=gradient) / pixels
    needed = int(pixels * (per_pixel + more_per_pixel))
    free = free_memory(network.device)
    if tile == AUTO and not gradient and needed > min(free, THRIFTY):
        exact = reach(network) is not None
        if exact or needed > free:
            beside = pixels * more_per_pixel
            budget = max(THRIFTY - beside, _LEAST) if exact else free
            seen = math.sqrt(max(0, min(budget, free - beside)) / per_pixel)
            side = int(seen) - 2 * TiledNetwork(network, int(seen) + 1, {}).margin
            return _tiled(pipe, network, size, more_per_pixel, max(_LEAST_SIDE, side))
    check_free(network, height, width, needed, gradient)
    return Room(1, False, pixels, needed)


def _tiled(pipe: Any, network: Any, size: tuple[int, int], more_per_pixel: int, side: int) -> Room:
    view = TiledNetwork(network, side, {})
    tiles = view.tiles(*size)
    seen = [(down.last - down.first, right.last - right.first) for down, right in tiles]
    needed = network_memory(network, *max(seen, key=math.prod)) + math.prod(size) * more_per_pixel
    check_free(network, *size, needed, gradient=False)
    if len(tiles) > 1:
        pipe.enable_tiling(side)
    return Room(len(tiles), view.blends and len(tiles) > 1, sum(map(math.prod, seen)), needed)


def seconds(network: Any, room: Room) -> float | None:
    """About how long a network takes for a picture, from how long it takes for a part of it.

    Returns:
        None where the memory is too small to try.
    """
    own, multiple = uncompiled(network), size_multiple(network)
    largest = max(multiple, math.isqrt(room.seen // room.tiles) // multiple * multiple)
    rate = 0.0
    try:
        at_zero(own, grey(own, min(_TIMED_SIDES[0], largest)))  # the first evaluation takes longer
        for side in _TIMED_SIDES:
            x = grey(own, min(side, largest))
            began = time.perf_counter()
            at_zero(own, x)
            if own.device.type == "cuda":
                torch.cuda.synchronize(own.device)
            spent = time.perf_counter() - began
            rate = spent / x[0, 0].numel()
            if spent > _QUICK:
                break
    except (MemoryError, RuntimeError):  # the picture's own evaluation says what is wrong
        return None
    return rate * room.seen
