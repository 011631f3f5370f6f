"""The U-Net of guided-diffusion as functions of its weights, written from arXiv:2105.05233 to compare conversions with.

Its own parts are the order of the layers, both orders of qkv, the time embedding and the changes of size; nothing of it
comes from diffusers. Names of weights are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # as everyone writes it

Layer = tuple[str, str, int, int]  # its name, its kind, channels in, channels out
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class ADM:
    """Sizes of a network; `attention` are levels, the first is 0.

    With 64 channels or more a group of the norms has several: those of one would hide the biases before them.
    With 64 channels a group of a norm has several; groups of one would hide the bias before them.
    `heads` gives the number of heads, unless `head_channels` gives the channels of each.
    """

    channels: int = 64
    multipliers: tuple[float, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (1,)
    heads: int = 4
    head_channels: int | None = 16
    new_order: bool = False
    classes: int | None = None
    scale_shift: bool = True
    updown: bool = True
    inputs: int = 3
    outputs: int = 6

    @property
    def widths(self) -> list[int]:
        return [int(self.channels * multiplier) for multiplier in self.multipliers]

    def down(self) -> list[list[Layer]]:
        """The input blocks; each one's result is kept for the way up."""
        here = self.widths[0]
        found: list[list[Layer]] = [[("input_blocks.0.0", "conv", self.inputs, here)]]

        def add(*layers: tuple[str, int, int]) -> None:
            name = f"input_blocks.{len(found)}"
            found.append([(f"{name}.{i}", *layer) for i, layer in enumerate(layers)])

        for level, width in enumerate(self.widths):
            for _ in range(self.blocks):
                add(("res", here, width), *[("attention", width, width)] * (level in self.attention))
                here = width
            if level + 1 < len(self.widths):
                add(("shrink" if self.updown else "halve", here, here))
        return found

    def middle(self) -> list[Layer]:
        width = self.widths[-1]
        return [(f"middle_block.{i}", kind, width, width) for i, kind in enumerate(("res", "attention", "res"))]

    def up(self) -> list[list[Layer]]:
        """The output blocks; each takes the last kept result beside what it is given."""
        kept = [block[-1][3] for block in self.down()]
        here = self.widths[-1]
        found: list[list[Layer]] = []
        for level in reversed(range(len(self.widths))):
            width = self.widths[level]
            for i in range(self.blocks + 1):
                layers = [("res", here + kept.pop(), width)]
                if level in self.attention:
                    layers.append(("attention", width, width))
                if level > 0 and i == self.blocks:
                    layers.append(("grow" if self.updown else "double", width, width))
                found.append([(f"output_blocks.{len(found)}.{j}", *layer) for j, layer in enumerate(layers)])
                here = width
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight and bias by its name."""
        time = 4 * self.channels
        found: dict[str, tuple[int, ...]] = {}

        def put(name: str, *shape: int) -> None:
            found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

        put("time_embed.0", time, self.channels)
        put("time_embed.2", time, time)
        if self.classes is not None:
            found["label_emb.weight"] = (self.classes, time)
        for name, kind, cin, cout in [layer for block in (*self.down(), self.middle(), *self.up()) for layer in block]:
            if kind == "conv":
                put(name, cout, cin, 3, 3)
            elif kind in ("halve", "double"):
                put(f"{name}.{'op' if kind == 'halve' else 'conv'}", cout, cin, 3, 3)
            elif kind == "attention":
                put(f"{name}.norm", cout)
                put(f"{name}.qkv", 3 * cout, cout, 1)
                put(f"{name}.proj_out", cout, cout, 1)
            else:
                put(f"{name}.in_layers.0", cin)
                put(f"{name}.in_layers.2", cout, cin, 3, 3)
                put(f"{name}.emb_layers.1", 2 * cout if self.scale_shift else cout, time)
                put(f"{name}.out_layers.0", cout)
                put(f"{name}.out_layers.3", cout, cout, 3, 3)
                if cin != cout:
                    put(f"{name}.skip_connection", cout, cin, 1, 1)
        put("out.0", self.widths[0])
        put("out.2", self.outputs, self.widths[0], 3, 3)
        return found

    def meta(self) -> Weights:
        """Weights without numbers, and without memory."""
        return {name: torch.empty(shape, device="meta") for name, shape in self.shapes().items()}

    def weights(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Weights:
        """Random ones, of a size that keeps what flows through the network near 1."""
        generator = torch.Generator().manual_seed(seed)
        found: Weights = {}
        for name, shape in self.shapes().items():
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            if name == "label_emb.weight":
                found[name] = drawn
            elif len(shape) > 1:
                found[name] = drawn / torch.tensor(shape[1:]).prod().sqrt()
            else:
                norm = name.endswith(("norm.weight", "layers.0.weight", "out.0.weight"))
                found[name] = norm + 0.2 * drawn
        return {name: value.to(dtype) for name, value in found.items()}

    def __call__(self, w: Weights, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the network says: (B, outputs, H, W) of pictures (B, inputs, H, W) at times (B,)."""
        half = self.channels // 2
        # In float32, as the published networks were trained.
        speeds = torch.exp(torch.arange(half, dtype=torch.float32) * -torch.log(torch.tensor(1e4)).item() / half)
        angles = t[:, None].float() * speeds
        time = torch.cat((angles.cos(), angles.sin()), dim=1).to(x.dtype)
        time = _linear(F.silu(_linear(time, w, "time_embed.0")), w, "time_embed.2")
        if labels is not None:
            time = time + w["label_emb.weight"][labels]
        kept = []
        for block in self.down():
            x = self._run(block, w, x, time)
            kept.append(x)
        x = self._run(self.middle(), w, x, time)
        for block in self.up():
            x = self._run(block, w, torch.cat((x, kept.pop()), dim=1), time)
        return _conv(F.silu(_norm(x, w, "out.0")), w, "out.2")

    def _run(self, layers: list[Layer], w: Weights, x: Tensor, time: Tensor) -> Tensor:
        for name, kind, cin, cout in layers:
            if kind == "conv":
                x = _conv(x, w, name)
            elif kind == "halve":
                x = _conv(x, w, f"{name}.op", stride=2)
            elif kind == "double":
                x = _conv(_doubled(x), w, f"{name}.conv")
            elif kind == "attention":
                x = x + self._attention(x, w, name)
            else:
                x = self._residual(x, w, name, kind, cin != cout, time)
        return x

    def _residual(self, x: Tensor, w: Weights, name: str, kind: str, skip: bool, time: Tensor) -> Tensor:
        h = F.silu(_norm(x, w, f"{name}.in_layers.0"))
        if kind == "grow":
            h, x = _doubled(h), _doubled(x)
        elif kind == "shrink":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = _conv(h, w, f"{name}.in_layers.2")
        e = _linear(F.silu(time), w, f"{name}.emb_layers.1")[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.tensor_split(2, dim=1)
            h = _norm(h, w, f"{name}.out_layers.0") * (1 + scale) + shift
        else:
            h = _norm(h + e, w, f"{name}.out_layers.0")
        h = _conv(F.silu(h), w, f"{name}.out_layers.3")
        if skip:
            x = _conv(x, w, f"{name}.skip_connection", padding=0)
        return x + h

    def _attention(self, x: Tensor, w: Weights, name: str) -> Tensor:
        batch, width, rows, columns = x.shape
        heads = self.heads if self.head_channels is None else width // self.head_channels
        normal = _norm(x, w, f"{name}.norm").flatten(2)
        mixed = F.conv1d(normal, w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"])
        if self.new_order:
            q, k, v = mixed.reshape(batch, 3, heads, width // heads, -1).unbind(1)
        else:
            q, k, v = mixed.reshape(batch, heads, 3, width // heads, -1).unbind(2)
        scores = torch.einsum("bhcs,bhct->bhst", q, k) / (width // heads) ** 0.5
        seen = torch.einsum("bhst,bhct->bhcs", scores.softmax(dim=-1), v).reshape(batch, width, -1)
        out = F.conv1d(seen, w[f"{name}.proj_out.weight"], w[f"{name}.proj_out.bias"])
        return out.reshape(batch, width, rows, columns)


def _linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _conv(x: Tensor, w: Weights, name: str, stride: int = 1, padding: int = 1) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding)


def _norm(x: Tensor, w: Weights, name: str) -> Tensor:
    groups = x.reshape(len(x), 32, -1)
    var, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
    normal = ((groups - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return normal * w[f"{name}.weight"].reshape(shape) + w[f"{name}.bias"].reshape(shape)


def _doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
