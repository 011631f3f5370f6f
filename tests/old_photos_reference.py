"""The networks of "Bringing Old Photos Back to Life", written from their description, with their released names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(here: int, there: int, side: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(here, there, side, **options)


def step(layer: nn.Module, width: int) -> list[nn.Module]:
    return [layer, nn.InstanceNorm2d(width), nn.ReLU()]


class Block(nn.Module):
    """Names such as conv_block.1 and conv_block.5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.ReflectionPad2d(1), *step(conv(width, width), width), nn.ReflectionPad2d(1), conv(width, width)]
        self.conv_block = nn.Sequential(*layers, nn.InstanceNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class VAE(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (4, 6, 8), blocks: int = 4, channels: int = 3) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        down: list[nn.Module] = [nn.ReflectionPad2d(3), *step(conv(channels, widths[0], 7), widths[0])]
        up: list[nn.Module] = []
        for fine, coarse in pairs:
            down += step(conv(fine, coarse, 4, stride=2, padding=1), coarse)
        for fine, coarse in reversed(pairs):
            up += step(nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1), fine)
        chain = [[Block(widths[-1]) for _ in range(blocks)] for _ in "ab"]
        self.encoder = nn.Sequential(*down, *chain[0])
        out = conv(widths[0], channels, 7)
        self.decoder = nn.Sequential(*chain[1], *up, nn.ReflectionPad2d(3), out, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def wide(widths: tuple[int, ...]) -> list[nn.Module]:
    made: list[nn.Module] = []
    for here, there in itertools.pairwise(widths):
        made += step(conv(here, there, padding=1), there)
    return made


def narrow(widths: tuple[int, ...]) -> list[nn.Module]:
    return wide(widths[::-1])[:-2]  # the last is a convolution alone


class Mapping(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 6, 8, 10, 10), blocks: int = 6) -> None:
        super().__init__()
        self.model = nn.Sequential(*wide(widths), *(Block(widths[-1]) for _ in range(blocks)), *narrow(widths))

    def forward(self, z: Tensor, mask: None) -> Tensor:
        return self.model(z)


class NonLocal(nn.Module):
    """Dense: softmax over all pixels, times what is known, and scaled to a sum of 1 again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g, self.W, self.theta, self.phi = (conv(width, width, 1) for _ in range(4))
        self.res_block = nn.Sequential(*(Block(width) for _ in range(3)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        known = 1 - mask
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        weights = (theta.transpose(1, 2) @ phi).softmax(dim=2) * known.flatten(2)
        weights = functional.normalize(weights, p=1, dim=2)
        y = self.res_block(self.W((weights @ g.transpose(1, 2)).transpose(1, 2).reshape(x.shape)))
        return known * x + mask * y


class Scratch(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 6, 8, 10, 10), blocks: int = 6) -> None:
        super().__init__()
        self.before_NL = nn.Sequential(*wide(widths))
        self.NL = NonLocal(widths[-1])
        self.after_NL = nn.Sequential(*(Block(widths[-1]) for _ in range(blocks)), *narrow(widths))

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        return self.after_NL(self.NL(self.before_NL(z), mask))


class Patches(nn.Module):
    """Each patch of which more than 60 % are masked is replaced by the most similar of the others."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.F_Combine = conv(2 * width + 1, width, padding=1)
        self.res_block = nn.Sequential(Block(width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        side, refined = self.side, self.res_block(x)
        composed = []
        for one, hidden in zip(refined, mask, strict=True):
            columns = functional.unfold(one[None], side, stride=side)[0].T
            lost = functional.unfold(hidden[None], side, stride=side)[0].mean(dim=0) > 0.6
            made = columns.clone()
            for i in range(len(columns)):
                if lost[i] and not lost.all():
                    alike = functional.cosine_similarity(columns[i : i + 1], columns).masked_fill(lost, -2)
                    made[i] = columns[alike.argmax()]
            composed.append(functional.fold(made.T[None], x.shape[2:], side, stride=side))
        return self.F_Combine(torch.cat([x, torch.cat(composed), mask], dim=1))


class HighResolution(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 6, 8, 10, 10)) -> None:
        super().__init__()
        width = widths[-1]
        self.before_NL = nn.Sequential(*wide(widths), Block(width), Block(width))
        self.NL_scale_1, self.NL_scale_2, self.NL_scale_3 = (Patches(width, side) for side in (8, 4, 2))
        self.res_block_1, self.res_block_2 = (nn.Sequential(Block(width), Block(width)) for _ in "ab")
        self.after_NL = nn.Sequential(Block(width), Block(width), *narrow(widths))

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        x = self.res_block_1(self.NL_scale_1(self.before_NL(z), mask))
        x = self.res_block_2(self.NL_scale_2(x, mask))
        return self.after_NL(self.NL_scale_3(x, mask))


class Blur(nn.Module):
    """Every second pixel, after [1, 2, 1] / 4 in both directions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("filt", (taps[:, None] * taps / 16).expand(width, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, self.filt, stride=2, groups=x.shape[1])


class UpSample(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def normed(here: int, there: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), conv(here, there), nn.BatchNorm2d(there), nn.LeakyReLU(0.2)]


class Convs(nn.Module):
    def __init__(self, here: int, there: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*normed(here, there), *normed(there, there))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Up(nn.Module):
    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.up = nn.Sequential(UpSample(), nn.ReflectionPad2d(1), conv(coarse, fine))
        self.conv_block = Convs(2 * fine, fine)

    def forward(self, x: Tensor, bridge: Tensor) -> Tensor:
        return self.conv_block(torch.cat([self.up(x), bridge], dim=1))


class Detector(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (4, 6, 8, 10, 12)) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.first = nn.Sequential(nn.ReflectionPad2d(3), conv(1, widths[0], 7), nn.LeakyReLU(0.2))
        self.down_path = nn.ModuleList(Convs(fine, coarse) for fine, coarse in pairs)
        self.down_sample = nn.ModuleList(nn.Sequential(*normed(fine, fine), Blur(fine)) for fine, _ in pairs)
        self.up_path = nn.ModuleList(Up(coarse, fine) for fine, coarse in reversed(pairs))
        self.last = nn.Sequential(nn.ReflectionPad2d(1), conv(widths[0], 1))

    def forward(self, x: Tensor) -> Tensor:
        x, bridges = self.first(x), []
        for halve, block in zip(self.down_sample, self.down_path, strict=True):
            bridges.append(x)
            x = block(halve(x))
        for up, bridge in zip(self.up_path, reversed(bridges), strict=True):
            x = up(x, bridge)
        return self.last(x)


def randomised(network: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """In evaluation mode, with weights and learned means, none of which are as at the start of a training."""
    random = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=random, dtype=torch.float64)

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(draw(parameter) / (parameter[0].numel() if parameter.ndim > 1 else 4) ** 0.5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.add_(1)
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.copy_(0.3 * draw(buffer).abs() + 0.5)
    return network.to(dtype).eval()


PARTS: dict[str, Callable[[], nn.Module]] = {
    "restoration/VAE_A_quality/latest_net_G.pth": VAE,
    "restoration/VAE_B_quality/latest_net_G.pth": VAE,
    "restoration/VAE_B_scratch/latest_net_G.pth": VAE,
    "restoration/mapping_quality/latest_net_mapping_net.pth": Mapping,
    "restoration/mapping_scratch/latest_net_mapping_net.pth": Scratch,
    "restoration/mapping_Patch_Attention/latest_net_mapping_net.pth": HighResolution,
    "detection/FT_Epoch_latest.pt": Detector,
}


def write_checkpoints(folder: Path) -> None:
    """Small networks in a folder as the published archives unpack it."""
    for seed, (name, make) in enumerate(PARTS.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        state = randomised(make(), seed, torch.float32).state_dict()
        torch.save({"model_state": state, "epoch": 3} if "detection" in name else state, folder / name)
