"""What the page shows of pictures: none larger than a screen, whatever the files hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .. import images

SIDE = 2048
"""Pixels of the longer side of what is shown."""

CANVAS, _SMALLEST = 1024, 816
"""Pixels of the longer side of what is painted on: below 800, gradio 6 draws layers beside the picture."""

_SMALL = 640
_HEAT = torch.tensor([[0.0, 0.0, 0.02], [0.34, 0.06, 0.43], [0.79, 0.23, 0.29], [0.98, 0.65, 0.14], [0.99, 1.0, 0.8]])


def shown(x: Tensor, side: int = SIDE) -> Image.Image:
    """The first picture of (B, C, H, W) in [-1, 1], in RGB, its longer side at most `side`."""
    x = x[:1].detach().float().cpu().clamp(-1, 1)
    longest = max(x.shape[-2:])
    if longest > side:
        size = [max(1, round(n * side / longest)) for n in x.shape[-2:]]
        x = functional.interpolate(x, size, mode="bilinear", antialias=True)
    if x.shape[1] not in (1, 3):
        x = x.mean(dim=1, keepdim=True)
    return images.to_pil(x)[0].convert("RGB")


def before_and_after(before: Tensor, after: Tensor) -> tuple[Image.Image, Image.Image]:
    """Two pictures of one size, the first one in squares where it has fewer pixels."""
    last = shown(after)
    return shown(before).resize(last.size, Image.Resampling.NEAREST), last


def as_data(x: Tensor) -> str:
    """A small JPEG of the first picture, as the address of an <img>."""
    buffer = io.BytesIO()
    shown(x, _SMALL).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def uncertainty(samples: Sequence[Path], max_pixels: int) -> tuple[Image.Image, float]:
    """Where samples differ: the standard deviation of each pixel in colours, and that of the brightest one.

    Args:
        samples: files of at least two, of one size.
        max_pixels: of each.

    Returns:
        The map, black where all are the same, and the standard deviation in grey levels of 255 that is brightest: that
        of which 1 % of the pixels have more.
    """
    total = squares = torch.zeros(())
    for file in samples:
        x = images.load(file, max_pixels=max_pixels).tensor.double()
        total, squares = total + x, squares + x**2
    n = len(samples)
    spread = ((squares - total**2 / n) / (n - 1)).clamp(min=0).mean(dim=1).sqrt().float()
    brightest = max(float(spread.flatten().kthvalue(max(1, round(0.99 * spread.numel()))).values), 1e-6)
    place = (spread[0] / brightest).clamp(0, 1) * (len(_HEAT) - 1)
    low = place.floor().long().clamp(max=len(_HEAT) - 2)
    colors = torch.lerp(_HEAT[low], _HEAT[low + 1], (place - low)[..., None])
    return shown(2 * colors.permute(2, 0, 1)[None] - 1), brightest * 127.5


def mask_of(painted: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image | None:
    """A mask, white where nothing is painted; None if nothing is.

    Args:
        painted: layers with transparency, in the page's size.
        size: (width, height) of the picture.
    """
    missing = torch.zeros(size[1], size[0], dtype=torch.bool)
    for layer in painted:
        alpha = layer.convert("RGBA").getchannel("A").point(lambda a: 255 if a else 0)
        alpha = alpha.resize(size, Image.Resampling.NEAREST)
        missing |= torch.frombuffer(bytearray(alpha.tobytes()), dtype=torch.uint8).reshape(size[1], size[0]) > 0
    if not bool(missing.any()):
        return None
    return Image.fromarray((~missing).to(torch.uint8).mul(255).numpy())


def layer_of(mask: Path, size: tuple[int, int], color: tuple[int, int, int]) -> Image.Image:
    """What is black in a mask, painted with a color on nothing.

    Args:
        mask: the file.
        size: (width, height) of the layer.
        color: of the paint.
    """
    missing = Image.open(mask).convert("L").point(lambda grey: 0 if grey > 127 else 255)
    grows = missing.width < size[0]  # else thin ones must not be lost
    missing = missing.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.BOX)
    missing = missing.point(lambda share: 255 if share else 0)
    layer = Image.new("RGBA", size, (*color, 0))
    layer.paste((*color, 255), mask=missing)
    return layer


def canvas(picture: Tensor) -> Image.Image:
    """A picture to paint on, enlarged if it is small."""
    small = shown(picture, CANVAS)
    scale = max(1, _SMALLEST / max(small.size))
    return small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))


def on_canvas(background: Image.Image, layer: Image.Image | None = None) -> dict[str, Any]:
    """A picture to paint on, with what is painted already."""
    if layer is None:
        return {"background": background, "layers": [], "composite": None}
    composite = background.convert("RGBA")
    composite.alpha_composite(layer)  # without it, the layer is drawn beside the picture
    return {"background": background, "layers": [layer], "composite": composite}
