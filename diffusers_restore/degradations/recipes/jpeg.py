"""What JPEG does to a picture (ITU-T T.81, JFIF), without the bytes: batched, a quality for each picture."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

# Tables K.1 and K.2 of ITU-T T.81.
_LUMA = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMA = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]  # 99 beyond

# Whole numbers make exact ties, which float arithmetic would break this way or that; this decides them. It is far
# above an error of rounding, and below the distance of any other value that whole numbers give from a tie.
_TIE = 1e-5


def jpeg(x: Tensor, quality: Tensor, *, subsampled: bool) -> Tensor:
    """Pictures as libjpeg gives them back: 8 bits, YCbCr, DCT of 8 x 8 blocks, rounding to the tables' steps, back.

    The tables are scaled as libjpeg does: by 50 / q below quality q = 50, by 2 - q / 50 above, in whole per cent.
    Chroma at half the size is averaged and, on the way back, interpolated by the triangle that libjpeg calls fancy.

    Args:
        x: (B, C, H, W) in [0, 1], float64 if the result shall not depend on the batch; C = 3, or each is a luma.
        quality: (B,), 1..100, fractions too.
        subsampled: chroma at half the size ("4:2:0").
    """
    height, width = x.shape[2:]
    steps = _tables(x.device, x.dtype)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor().to(x.dtype)
    steps = torch.floor((steps * scale[:, None, None, None] + 50) / 100).clamp(1, 255)  # (B, 2, 8, 8)
    x = _rounded(x * 255)
    if x.shape[1] != 3:
        return _coded(x - 128, steps[:, :1]).add(128).clamp(0, 255) / 255
    red, green, blue = x.split(1, dim=1)
    luma = _rounded(0.299 * red + 0.587 * green + 0.114 * blue) - 128
    cb = 0.5 * blue - 0.168735892 * red - 0.331264108 * green
    cr = 0.5 * red - 0.418687589 * green - 0.081312411 * blue
    chroma = torch.ceil(torch.cat([cb, cr], dim=1) - 0.5 - _TIE)  # ties go down
    luma = _coded(luma, steps[:, :1]).clamp(-128, 127)
    if subsampled:
        chroma = _coded(_halved(chroma), steps[:, 1:]).clamp(-128, 127)
        chroma = _doubled(chroma)[:, :, :height, :width]
    else:
        chroma = _coded(chroma, steps[:, 1:]).clamp(-128, 127)
    cb, cr = chroma.split(1, dim=1)
    luma = luma + 128
    red = luma + 1.402 * cr
    green = luma - 0.344136286 * cb - 0.714136286 * cr
    blue = luma + 1.772 * cb
    return _rounded(torch.cat([red, green, blue], dim=1)).clamp(0, 255) / 255


def _rounded(x: Tensor) -> Tensor:
    return torch.floor(x + (0.5 + _TIE))


def _coded(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (B, C, H, W) of -128..127 after DCT, rounding to `steps` (B, 1, 8, 8), and inverse DCT."""
    height, width = planes.shape[2:]
    rows, columns = math.ceil(height / 8), math.ceil(width / 8)
    planes = functional.pad(planes, (0, 8 * columns - width, 0, 8 * rows - height), mode="replicate")
    dct = _dct(planes.device, planes.dtype)
    blocks = planes.unflatten(3, (columns, 8)).unflatten(2, (rows, 8)).transpose(3, 4)
    # libjpeg rounds to whole numbers between rows and columns, and again to eighths: many a tie is due to that.
    blocks = _rounded(blocks @ (dct.mT * 128**0.5)) / 128**0.5
    coefficients = _rounded((8 * dct) @ blocks) / (8 * steps[:, :, None, None])
    coefficients = (
        torch.copysign(torch.floor(coefficients.abs() + (0.5 + _TIE)), coefficients) * steps[:, :, None, None]
    )
    blocks = dct.mT @ coefficients @ dct
    return _rounded(blocks).transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def _halved(chroma: Tensor) -> Tensor:
    """Means of 2 x 2, rounded down and up by turns as libjpeg does."""
    chroma = functional.pad(chroma, (0, chroma.shape[3] % 2, 0, chroma.shape[2] % 2), mode="replicate")
    sums = functional.avg_pool2d(chroma, 2) * 4
    turn = 1 + torch.arange(sums.shape[3], device=sums.device) % 2
    return torch.floor((sums + turn) / 4 + _TIE)


def _doubled(chroma: Tensor) -> Tensor:
    """Interpolated with weights 9, 3, 3, 1 sixteenths, ties up and down by turns as libjpeg does."""
    sixteenths = functional.interpolate(chroma, scale_factor=2, mode="bilinear") * 16
    turn = 8 - torch.arange(sixteenths.shape[3], device=chroma.device) % 2
    return torch.floor((sixteenths + turn) / 16 + _TIE)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must be of use outside, too
def _tables(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, 2, 8, 8): of luma and of chroma."""
    chroma = torch.full((8, 8), 99.0)
    chroma[:4, :4] = torch.tensor(_CHROMA)
    return torch.stack([torch.tensor(_LUMA), chroma])[None].to(device, dtype)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _dct(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The orthonormal DCT-II of a block of 8 x 8 values, (64, 64)."""
    i = torch.arange(8, dtype=torch.float64)
    line = torch.cos((2 * i + 1) * i[:, None] * (math.pi / 16)) / 2
    line[0] /= math.sqrt(2)
    return line.to(device, dtype)
