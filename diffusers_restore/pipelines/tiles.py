"""Pictures that are too large for a network at once: it sees them in overlapping tiles, all else sees them whole."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..caching import keep_tables
from ..errors import check_int
from ..tensors import working_device
from .canvas import size_multiple
from .common import Network, uncompiled

DEFAULT_SIDE = 1024
"""Pixels of a tile's side, without its margins."""

_CPU = torch.device("cpu")
_FARTHEST = 1024
"""Side of the largest picture on which a network's reach is looked for."""


class Part(NamedTuple):
    """A stretch of an axis: [start, stop) is what a tile is for, [first, last) what it sees."""

    start: int
    stop: int
    first: int
    last: int


def parts(length: int, side: int, margin: int, multiple: int) -> list[Part]:
    """An axis in stretches of about equal length, at most `side` rounded up to a multiple, with margins around.

    Margins end at the picture's border. All numbers but the last are multiples of `multiple`.
    """
    count = math.ceil(length / (math.ceil(side / multiple) * multiple))
    cuts = [round(i * length / count / multiple) * multiple for i in range(count)] + [length]
    return [Part(start, stop, max(0, start - margin), min(length, stop + margin)) for start, stop in pairwise(cuts)]


@keep_tables(256)
def weights(
    part: Part, length: int, margin: int, device: torch.device = _CPU, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Of the pixels that a tile sees, along one axis: ramps over both margins; those of all tiles add up to 1."""
    weight = torch.ones(part.last - part.first)
    ramp = (torch.arange(2 * margin) + 0.5) / (2 * margin)
    if part.start > 0:
        weight[: 2 * margin] *= ramp
    if part.stop < length:
        weight[-2 * margin :] *= 1 - ramp
    return weight.to(device, dtype)


def grey(network: Network, side: int) -> Tensor:
    """A square input without anything in it."""
    shape = (1, network.config.in_channels, side, side)
    return torch.zeros(shape, dtype=network.dtype, device=working_device(network))


@torch.no_grad()
def at_zero(network: Network, x: Tensor) -> Tensor:
    """The network's output at timestep 0, for class 0 if it has classes."""
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    given = {} if network.config.get("num_class_embeds") is None else {"class_labels": labels}
    output: Tensor = network(x, torch.zeros(len(x), device=x.device), return_dict=False, **given)[0]
    return output


_REACH: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()


def reach(network: Network) -> int | None:
    """How many pixels away a network's output may depend on its input; None where all depends on all.

    Found by what a NaN spreads to, once for each network: the weights don't matter, and nothing is assumed of the
    layers. Norms over the picture and attention are known to see all of it.
    """
    own = uncompiled(network)
    if own not in _REACH:
        _REACH[own] = _looked_for(own)
    return _REACH[own]


def _looked_for(network: Network) -> int | None:
    if any(isinstance(part, (nn.GroupNorm, nn.InstanceNorm2d, Attention)) for part in network.modules()):
        return None
    multiple = size_multiple(network)
    side = 8 * multiple
    while side <= _FARTHEST:
        start = side // 2 // multiple * multiple
        x = grey(network, side)
        x[:, :, start : start + multiple, start : start + multiple] = math.nan
        touched = at_zero(network, x).isnan().any(dim=1)[0]
        places = touched.nonzero()
        if not len(places):
            return 0
        first, last = int(places.min()), int(places.max())
        if first > 0 and last < side - 1:
            return max(start - first, last + 1 - start - multiple)
        side *= 2
    return None


class TiledNetwork:
    """A network for pictures that are larger than it can see at once; else, as the network.

    Where the network has a `reach`, tiles see that much around them, and give what the whole picture gives, to
    rounding. Else their margins are blended; they don't know of each other's tones.

    Args:
        network: the network.
        side: of a tile, without margins.
        bar: options of tqdm for the tiles of an evaluation.
    """

    def __init__(self, network: Network, side: int, bar: dict[str, Any]) -> None:
        self.network, self.side, self.bar = network, side, bar
        self.multiple, known = size_multiple(network), reach(network)
        self.blends = known is None
        if known is None:  # a tile is at least as wide as both of its ramps
            self.side = max(side, 8 * self.multiple)
            self.margin = self.side // 8 // self.multiple * self.multiple
        else:
            self.margin = math.ceil(known / self.multiple) * self.multiple

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, sample: Tensor, timestep: Any, **options: Any) -> tuple[Tensor]:
        """The network's output (B, C', H, W) for pictures (B, C, H, W), as its own with return_dict=False."""
        tiles = self.tiles(*sample.shape[2:])
        if len(tiles) == 1:
            whole: tuple[Tensor] = self.network(sample, timestep, **options)
            return whole
        made: Tensor | None = None
        for down, right in tqdm(tiles, **self.bar):
            seen = sample[:, :, down.first : down.last, right.first : right.last]
            output: Tensor = self.network(seen, timestep, **options)[0]
            if made is None:
                made = output.new_zeros(len(sample), output.shape[1], *sample.shape[2:])
            self._place(made, output, down, right)
        assert made is not None
        return (made,)

    def tiles(self, height: int, width: int) -> list[tuple[Part, Part]]:
        """The tiles of a picture: what each is for and what it sees, by rows and by columns."""
        # A side that a tile's margins see anyway is not cut.
        seen = 0 if self.blends else self.side + 2 * self.margin
        down, right = (parts(n, n if n <= seen else self.side, self.margin, self.multiple) for n in (height, width))
        return [(one, other) for one in down for other in right]

    def _place(self, made: Tensor, output: Tensor, down: Part, right: Part) -> None:
        if self.blends:
            for dim, part in ((2, down), (3, right)):
                weight = weights(part, made.shape[dim], self.margin, output.device, output.dtype)
                output = output * weight.reshape(-1, *(1,) * (3 - dim))
            made[:, :, down.first : down.last, right.first : right.last] += output
            return
        own = output[
            :, :, down.start - down.first : down.stop - down.first, right.start - right.first : right.stop - right.first
        ]
        made[:, :, down.start : down.stop, right.start : right.stop] = own


class TilingMixin:
    """`enable_tiling` for a pipeline whose networks may see a picture in tiles.

    What makes the network's estimates agree with a measurement sees the whole picture, always.
    """

    _tile_side: int | None = None

    def enable_tiling(self, side: int = DEFAULT_SIDE) -> None:
        """Show networks no more of a picture than tiles with sides of `side` pixels and their margins.

        A network without norms over the picture and without attention, as the bundled ones are, gives what it gives
        for the whole picture, to rounding: margins are as wide as it reaches. Others differ, and their tiles are
        blended.

        Args:
            side: at least 1; rounded up to a multiple that the network can halve.

        Raises:
            InvalidInputError: it isn't a whole number >= 1.
        """
        self._tile_side = check_int("side", side, 1)

    def disable_tiling(self) -> None:
        """Show networks the whole picture again."""
        self._tile_side = None

    def _in_tiles(self, network: Network) -> Network:
        """The network as this call sees it."""
        if self._tile_side is None:
            return network
        bar = {**getattr(self, "_progress_bar_config", {}), "leave": False}
        bar["desc"] = " ".join(filter(None, (bar.get("desc"), "tiles")))
        if "file" in bar:
            bar["position"] = 0  # what is no terminal has no line above
        return cast(Network, TiledNetwork(network, self._tile_side, bar))
