"""How old photographs age: functions of batches (B, C, H, W) in [0, 1], and shapes of damage, for one picture each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..base import per_picture
from .kernels import elliptic, stack
from .operations import Size, blur, luma

REFERENCE = 512.0  # pixels of the shorter side, at which widths of damage are stated
MASKED = 0.1  # opacity above which damage belongs to the mask


def in_colours(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """change(x) for three channels; a grey picture (B, 1, H, W) gets the luma of what becomes of its grey."""
    return change(x) if x.shape[1] == 3 else luma(change(x.expand(-1, 3, -1, -1)))


def fade(x: Tensor, black: Tensor, white: Tensor, gamma: Tensor, saturation: Tensor) -> Tensor:
    """y = b + (1 - b - w) u^gamma, u = L + s (x - L) with the luma L; b, w, gamma and s are (B,)."""
    light = luma(x)
    u = light + per_picture(saturation) * (x - light)
    u = u.clamp(1e-6, 1)  # at 0 the power has no gradient
    return per_picture(black) + per_picture(1 - black - white) * u ** per_picture(gamma)


def sepia(x: Tensor, strength: Tensor, tint: Tensor) -> Tensor:
    """y_c = t_c^k x_c^(1 / t_c^k), for strengths k (B,) and the colour t of the paper, (B, 3).

    White becomes the paper's colour, black stays, and what is between leans to the side of the paper.
    """

    def toned(x: Tensor) -> Tensor:
        paper = (tint ** strength[:, None])[:, :, None, None]
        return paper * x ** (1 / paper)

    return in_colours(x, toned)


def vignette(x: Tensor, strength: Tensor) -> Tensor:
    """y = x (1 - v r^2), where r is 1 in the corners; v is (B,)."""
    row, column = (torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device) for n in x.shape[2:])
    return x * (1 - per_picture(strength) * (row[:, None] ** 2 + column**2) / 2)


def grain(x: Tensor, field: Tensor, amplitude: Tensor, cells: list[float]) -> Tensor:
    """y = x + a 4 L (1 - L) n, n the noise `field` with a Gaussian's correlation of `cells` pixels, variance one."""
    kernels = [elliptic(2 * math.ceil(1.5 * cell) + 1, cell / 2, cell / 2) for cell in cells]
    white = stack([one / one.square().sum().sqrt() for one in kernels]).to(x.device, x.dtype)
    light = luma(x)
    return x + per_picture(amplitude) * 4 * light * (1 - light) * blur(field, white)


def halftone(x: Tensor, period: Tensor, angle: Tensor) -> Tensor:
    """Dots of a printing screen, clamp(1/2 + 2 (x - t)), t = 1/2 + (cos u + cos v) / 4 along turned axes.

    Args:
        x: (B, C, H, W).
        period: of the dots, in pixels, (B,).
        angle: of the screen, in radians, (B,).
    """
    row, column = (torch.arange(n, dtype=x.dtype, device=x.device) for n in x.shape[2:])
    wave = 2 * math.pi / per_picture(period)
    cos, sin = per_picture(angle.cos()), per_picture(angle.sin())
    u, v = column * cos + row[:, None] * sin, row[:, None] * cos - column * sin
    threshold = 0.5 + ((wave * u).cos() + (wave * v).cos()) / 4
    return (0.5 + 2 * (x - threshold)).clamp(0, 1)


def clouds(seed: int, coarsest: int, octaves: int, size: Size) -> Tensor:
    """Fractal noise (1, 1, H, W), float32: grids of n, 2n, 4n ... normal numbers, enlarged, with weights 1, 1/2, 1/4.

    The grids belong to the picture as a whole, so that another size has the same clouds; a picture has none that are
    finer than its pixels. The variance is about one.

    Args:
        seed: of the grids.
        coarsest: n.
        octaves: how many grids.
        size: H and W.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 1, *size)
    for octave in range(octaves):
        n = coarsest * 2**octave
        if octave and n > max(size):
            break
        grid = torch.randn(1, 1, n, n, generator=generator)
        total += 0.5**octave * functional.interpolate(grid, size=size, mode="bicubic")
    # In the mean over where it falls, bicubic interpolation keeps 0.84^2 of the variance of white noise.
    return total / (0.84 * math.sqrt(sum(0.25**octave for octave in range(octaves))))


def strokes(segments: Tensor, height: int, width: int) -> Tensor:
    """Opacity of bright and of dark strokes, (1, 2, H, W): the largest |a| clamp(r + 1/2 - d, 0, 1), d in pixels.

    d is the distance from the stroke's middle: a stroke thinner than a pixel is a fainter line of about a pixel, and
    never disappears.

    Args:
        segments: (n, 7), columns and rows of both ends as shares of width and height, the radii r there as shares of
            the shorter side, and the opacity a, below 0 where dark.
        height, width: of the picture.
    """
    shorter = min(height, width)
    # float32 is enough for places in a picture, and twice as fast.
    scale = segments.new_tensor([width, height, width, height, shorter, shorter, 1])
    pixels = (segments * scale - segments.new_tensor([0.5, 0.5, 0.5, 0.5, 0, 0, 0])).float()  # centres are whole
    reach = (pixels[:, 4:6].amax(dim=1) + 1).ceil().int()
    result = torch.zeros(2 * height * width + 1)
    # Only pixels near a stroke are looked at: a window around each of the points along it, a pixel apart. Strokes of
    # one width have windows of one size.
    for r in reach.unique().tolist():
        some = pixels[reach == r]
        count = (some[:, 2:4] - some[:, :2]).norm(dim=1).ceil().int() + 1
        which = torch.repeat_interleave(count)
        place = torch.arange(len(which)) - (count.cumsum(0) - count)[which]
        x0, y0, x1, y1, start, end, opacity = some[which].T[:, :, None]
        dx, dy = x1 - x0, y1 - y0
        along = (place / (count[which] - 1).clamp(min=1))[:, None]
        around = torch.arange(-r, r + 1.0)
        column = (x0 + along * dx).round() + around.repeat(len(around))
        row = (y0 + along * dy).round() + around.repeat_interleave(len(around))
        left, above = column - x0, row - y0
        nearest = (left * dx + above * dy).div_((dx * dx + dy * dy).clamp(min=1e-6)).clamp_(0, 1)
        square = left.addcmul_(nearest, dx, value=-1).square_() + above.addcmul_(nearest, dy, value=-1).square_()
        values = torch.lerp(start, end, nearest).add_(0.5).sub_(square.sqrt_()).clamp_(0, 1).mul_(opacity.abs())
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = row.long() * width + column.long() + (opacity < 0) * (height * width)
        result.scatter_reduce_(0, index.where(inside, len(result) - 1).flatten(), values.flatten(), "amax")
    return result[:-1].reshape(1, 2, height, width)


def crease(line: Tensor, points: Tensor, reach: float, height: int, width: int) -> Tensor:
    """A fold across the picture: the opacity of its worn line, and its relief in [-1, 1], together (1, 2, H, W).

    The relief is sign(d) exp(-|d| / reach) for the signed distance d from the line: one side light, one dark.

    Args:
        line: (4,), columns and rows of both ends as shares of width and height.
        points: (n, 3) along the line: how far the fold is beside it and its radius, as shares of the shorter side, and
            its opacity; n >= 2.
        reach: of the relief, as a share of the shorter side.
        height, width: of the picture.
    """
    shorter = min(height, width)
    x0, y0, x1, y1 = (line * line.new_tensor([width, height, width, height])).tolist()
    length = max(math.hypot(x1 - x0, y1 - y0), 1e-6)
    cos, sin = (x1 - x0) / length, (y1 - y0) / length
    column = torch.arange(width) + (0.5 - x0)
    row = (torch.arange(height) + (0.5 - y0))[:, None]
    along, beside = column * cos + row * sin, row * cos - column * sin
    last = len(points) - 1
    place = (along * (last / length)).clamp_(0, last)
    before = place.int().clamp_(max=last - 1)
    share = place.sub_(before)
    numbers = (points * points.new_tensor([shorter, shorter, 1])).float()
    slope = (numbers[:, 0].diff() * (last / length)).square().add(1).rsqrt()
    table = torch.cat([numbers[:-1], numbers.diff(dim=0), slope[:, None]], dim=1).T
    offset, radius, opacity, offset_change, radius_change, opacity_change, slant = table[:, before]
    distance = beside.sub_(offset.addcmul_(share, offset_change)).mul_(slant)
    size = distance.abs()
    within = (1 - torch.maximum(-along, along - length).clamp_(min=0)).clamp_(min=0)  # ends at both ends of the line
    worn = opacity.addcmul_(share, opacity_change).mul_(within)
    worn.mul_(radius.addcmul_(share, radius_change).add_(0.5).sub_(size).clamp_(0, 1))
    relief = distance.div(0.7).clamp_(-1, 1).mul_(size.mul(-1 / (reach * shorter)).exp_()).mul_(within)
    return torch.stack([worn, relief])[None]


def blob(place: Tensor, ragged: float, field: Tensor) -> Tensor:
    """How far inside of a ragged ellipse each pixel is, as a share of its small radius; negative outside, (1, 1, H, W).

    Args:
        place: (5,), the centre's column and row as shares of width and height, both radii as shares of sqrt(H W), the
            first one's direction in radians.
        ragged: how far `field`, (1, 1, H, W), moves the border, as a share of the small radius.
        field: clouds.
    """
    height, width = field.shape[2:]
    x, y, long, short, theta = place.tolist()
    long, short = (max(radius, 1e-6) * math.sqrt(height * width) for radius in (long, short))
    column = torch.arange(width, dtype=field.dtype) + 0.5 - x * width
    row = (torch.arange(height, dtype=field.dtype) + 0.5 - y * height)[:, None]
    cos, sin = math.cos(theta), math.sin(theta)
    q = ((column * cos + row * sin) / long) ** 2 + ((row * cos - column * sin) / short) ** 2
    # The root makes up for the area that a moved border adds: E (1 + ragged f)^2 = 1 + ragged^2.
    return torch.add(1 - (q * (1 + ragged**2)).sqrt(), field, alpha=ragged)
