"""JPEG artefacts (ITU-T T.81, JFIF) without encoding to bytes: batched, with a quality for each picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from .caching import keep_tables

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
# The DCT-II of 8 values times 8192 sqrt(8), in whole numbers: the sums of the 13-bit factors that libjpeg's "islow" has
# on the paths of its flow graph (after Loeffler, Ligtenberg and Moschytz, 1989). The right half is the left one
# mirrored, with the other sign in odd rows.
_DCT = [
    [8192, 8192, 8192, 8192],
    [11363, 9633, 6437, 2260],
    [10703, 4433, -4433, -10703],
    [9633, -2259, -11362, -6436],
    [8192, -8192, -8192, 8192],
    [6437, -11362, 2261, 9633],
    [4433, -10704, 10704, -4433],
    [2260, -6436, 9633, -11363],
]


def jpeg(x: Tensor, quality: Tensor, *, subsampled: bool) -> Tensor:
    """Pictures as libjpeg decodes them: 8 bits, YCbCr, DCT of 8 x 8 blocks, rounding to the tables' steps, inverse.

    The tables are scaled as libjpeg does: by 50 / q below quality q = 50, by 2 - q / 50 above, in whole per cent.
    Chroma at half the size is averaged and, on the way back, interpolated by the triangle that libjpeg calls fancy.
    All arithmetic is on whole numbers as in libjpeg, which float64 holds exactly: the result is libjpeg's to the bit.

    Args:
        x: (B, C, H, W) in [0, 1], float64 if the result must not depend on the batch; C = 3, or each channel is a luma.
        quality: (B,), 1..100, fractions too.
        subsampled: chroma at half the size ("4:2:0").
    """
    height, width = x.shape[2:]
    steps = _tables(x.device, x.dtype)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor().to(x.dtype)
    steps = torch.floor((steps * scale[:, None, None, None] + 50) / 100).clamp(1, 255)  # (B, 2, 8, 8)
    x = torch.floor(x * 255 + 0.5)
    if x.shape[1] != 3:
        return _coded(x - 128, steps[:, :1]).add(128).clamp(0, 255) / 255
    red, green, blue = x.split(1, dim=1)
    luma = _shifted(19595 * red + 38470 * green + 7471 * blue, 16)  # JFIF's factors times 2^16, here and below
    cb = 32768 * blue - 11059 * red - 21709 * green
    cr = 32768 * red - 27439 * green - 5329 * blue
    chroma = _shifted(torch.cat([cb, cr], dim=1) - 1, 16)  # ties go down
    luma = _coded(luma - 128, steps[:, :1]).clamp(-128, 127)
    if subsampled:
        chroma = _coded(_halved(chroma), steps[:, 1:]).clamp(-128, 127)
        chroma = _doubled(chroma[:, :, :, : math.ceil(width / 2)])[:, :, :height, :width]
    else:
        chroma = _coded(chroma, steps[:, 1:]).clamp(-128, 127)
    cb, cr = chroma.split(1, dim=1)
    colours = torch.cat([91881 * cr, -22554 * cb - 46802 * cr, 116130 * cb], dim=1)
    return (luma + 128 + _shifted(colours, 16)).clamp(0, 255) / 255


def _coded(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (B, C, H, W) of -128..127 after DCT, rounding to `steps` (B, 1, 8, 8), and inverse DCT."""
    height, width = planes.shape[2:]
    rows, columns = math.ceil(height / 8), math.ceil(width / 8)
    planes = functional.pad(planes, (0, 8 * columns - width, 0, 8 * rows - height), mode="replicate")
    dct = _dct(planes.device, planes.dtype)
    blocks = planes.unflatten(3, (columns, 8)).unflatten(2, (rows, 8)).transpose(3, 4)
    # All are whole numbers, shifted to fewer bits after each product as in libjpeg.
    blocks = _shifted(dct @ _shifted(blocks @ dct.mT, 11), 15)  # eight times the coefficients
    steps = steps[:, :, None, None]
    blocks = torch.copysign(torch.floor((blocks.abs() + 4 * steps) / (8 * steps)), blocks) * steps
    blocks = _shifted(_shifted(dct.mT @ blocks, 11) @ dct, 18)
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def _shifted(x: Tensor, bits: int) -> Tensor:
    return torch.floor(x / 2**bits + 0.5)


def _halved(chroma: Tensor) -> Tensor:
    """Means of 2 x 2, rounded down and up in turn as in libjpeg; it repeats columns before, and rows afterwards."""
    chroma = functional.pad(chroma, (0, -chroma.shape[3] % 16, 0, chroma.shape[2] % 2), mode="replicate")
    sums = functional.avg_pool2d(chroma, 2) * 4
    turn = 1 + torch.arange(sums.shape[3], device=sums.device) % 2
    return torch.floor((sums + turn) / 4)


def _doubled(chroma: Tensor) -> Tensor:
    """Interpolated with weights 9, 3, 3, 1 sixteenths, ties up and down in turn as in libjpeg; not if narrow."""
    if chroma.shape[3] <= 2:
        return functional.interpolate(chroma, scale_factor=2, mode="nearest")
    sixteenths = functional.interpolate(chroma, scale_factor=2, mode="bilinear") * 16
    turn = 8 - torch.arange(sixteenths.shape[3], device=chroma.device) % 2
    return torch.floor((sixteenths + turn) / 16)


@keep_tables()
def _tables(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, 2, 8, 8): of luma and of chroma."""
    chroma = torch.full((8, 8), 99.0)
    chroma[:4, :4] = torch.tensor(_CHROMA)
    return torch.stack([torch.tensor(_LUMA), chroma])[None].to(device, dtype)


@keep_tables()
def _dct(device: torch.device, dtype: torch.dtype) -> Tensor:
    """`_DCT` as (8, 8)."""
    left = torch.tensor(_DCT, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)[:, None]
    return torch.cat([left, left.flip(1) * signs], dim=1).to(device, dtype)
