"""The public generators and discriminators of Pix2pix, written from arXiv:1611.07004 to compare conversions with.

Their layers lie in sequences like those of the public networks, so that their weights have the public names. They run
as those do, in training mode on one picture: batch norms take the statistics of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
Norm = Callable[[int], nn.Module]


class Dropout(nn.Module):
    """Multiplies with noise that a test sets, where the public networks draw it."""

    noise: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.noise is None else x * self.noise


def norm_and_bias(kind: str) -> tuple[Norm, bool]:
    """The norm of a name, and whether convolutions before it have biases; "stale" is instance norm with statistics."""
    norms: dict[str, Norm] = {
        "batch": nn.BatchNorm2d,
        "instance": nn.InstanceNorm2d,
        "stale": lambda width: nn.InstanceNorm2d(width, track_running_stats=True),
    }
    return norms[kind], kind != "batch"


class UNetBlock(nn.Module):
    """A level of the U-Net around the coarser ones: [x, up(inner(down(x)))], or without x where it is the outermost."""

    def __init__(
        self,
        outer: int,
        width: int,
        inner: UNetBlock | None,
        kind: str,
        inputs: int | None = None,
        drops: bool = False,
    ) -> None:
        super().__init__()
        norm, bias = norm_and_bias(kind)
        self.outermost = inputs is not None
        down = nn.Conv2d(outer if inputs is None else inputs, width, 4, 2, 1, bias=bias)
        coming = width if inner is None else 2 * width
        up = nn.ConvTranspose2d(coming, outer, 4, 2, 1, bias=bias or self.outermost)
        before, after = nn.LeakyReLU(0.2, inplace=True), nn.ReLU(inplace=True)
        layers: list[nn.Module]
        if inner is None:
            layers = [before, down, after, up, norm(outer)]
        elif self.outermost:
            layers = [down, inner, after, up, nn.Tanh()]
        else:
            layers = [before, down, norm(width), inner, after, up, norm(outer)] + [Dropout()] * drops
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.model(x)
        # The activation in place has changed x by now, as it has in the public network.
        return made if self.outermost else torch.cat([x, made], 1)


class UNet(nn.Module):
    def __init__(self, widths: Sequence[int], kind: str = "batch", inputs: int = 3, outputs: int = 3) -> None:
        super().__init__()
        block: UNetBlock | None = None
        for i in reversed(range(1, len(widths))):
            drops = i < len(widths) - 1 and widths[i - 1] == widths[i]
            block = UNetBlock(widths[i - 1], widths[i], block, kind, drops=drops)
        self.model = UNetBlock(outputs, widths[0], block, kind, inputs)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.model(x)
        return made


class ResnetBlock(nn.Module):
    def __init__(self, width: int, kind: str, drops: bool) -> None:
        super().__init__()
        norm, bias = norm_and_bias(kind)
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            norm(width),
            nn.ReLU(True),
        ]
        layers += [Dropout()] * drops
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm(width)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv_block(x)
        return x + made


class Resnet(nn.Module):
    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        kind: str = "instance",
        drops: bool = False,
        inputs: int = 3,
        outputs: int = 3,
    ) -> None:
        super().__init__()
        norm, bias = norm_and_bias(kind)
        here = widths[0]
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(inputs, here, 7, bias=bias),
            norm(here),
            nn.ReLU(True),
        ]
        for there in widths[1:]:
            layers += [nn.Conv2d(here, there, 3, 2, 1, bias=bias), norm(there), nn.ReLU(True)]
            here = there
        layers += [ResnetBlock(here, kind, drops) for _ in range(blocks)]
        for there in reversed(widths[:-1]):
            layers += [nn.ConvTranspose2d(here, there, 3, 2, 1, 1, bias=bias), norm(there), nn.ReLU(True)]
            here = there
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(here, outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.model(x)
        return made


class Discriminator(nn.Module):
    """Judges patches ("model") or pixels ("net")."""

    def __init__(self, widths: Sequence[int] = (8, 16, 32), kind: str = "batch", pixels: bool = False) -> None:
        super().__init__()
        norm, bias = norm_and_bias(kind)
        size, padding = (1, 0) if pixels else (4, 1)
        layers: list[nn.Module] = [nn.Conv2d(6, widths[0], size, padding=padding), nn.LeakyReLU(0.2, True)]
        for here, there in pairwise(widths):
            layers += [nn.Conv2d(here, there, size, padding=padding, bias=bias), norm(there), nn.LeakyReLU(0.2, True)]
        layers += [nn.Conv2d(widths[-1], 1, size, padding=padding)]
        setattr(self, "net" if pixels else "model", nn.Sequential(*layers))


def randomised(network: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The network with random weights that all matter, and wrong running statistics."""
    generator = torch.Generator().manual_seed(seed)
    network.to(dtype)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            value.fill_(7)
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            drawn = 2 + noise.abs()
        elif value.ndim == 4:
            drawn = noise * (2 / value[0].numel()) ** 0.5
        else:
            drawn = 0.3 * noise + (1 if name.endswith(".weight") else 0)
        value.copy_(drawn)
    return network.train()
