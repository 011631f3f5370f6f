"""The noise of a picture, estimated from the picture alone."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..decoding import JPEGCoding, pillow_limit
from ..errors import InvalidInputError
from ..images import DEFAULT_LIMIT, to_pil, to_tensor
from ..operators.transforms import dct
from ..tensors import LUMA, check_values, described

_SIDE = 8
_MOST_PATCHES = 40_000
_TWO_LEVELS = "black and white alone; state the noise instead"
_FEWEST_PER_NUMBER = 2  # patches for each of their numbers
_SMOOTH = 0.2
"""The share of a grey picture's patches that are its smoothest."""
_COARSE, _FINE = 5, 9
"""Sums of the two frequencies of a cosine: coarse up to the one, fine from the other."""
_PLATEAU, _FLAT, _MORE = 16, 2.5, 1.5
"""Luma patches have noise of their own if this many of their eigenvalues are below 2.5 times the smallest, and if that
is half as much again as what all colours show: a clean picture has finer and finer detail instead of a plateau."""


def estimate_noise(image: Tensor, mask: Tensor | None = None) -> float:
    """The standard deviation of white Gaussian noise in a picture.

    The covariance of patches of a clean picture has many small eigenvalues; noise adds its variance to all of them. The
    largest are taken away until the mean of the others is their median, which is that of noise alone (Chen, Zhu and
    Heng, "An efficient statistical method for image noise level estimation", ICCV 2015). Where noise was clipped at
    black and white, less of it is seen: the sd is the one whose clipped noise, around the patches' means, has this
    variance. Within 10 % from 5 to 50 of 255 grey levels (benchmarks/results/noise.md). The grain of the picture
    itself counts.

    A patch of a grey picture has too few numbers for many of them to be noise alone. There it is the mean square of the
    fine cosines in those patches that have least of the coarse ones, of which white noise is independent: within 14 %
    from 15 to 50 levels, mostly 1 %; texture everywhere adds to weaker noise.

    Of noise that the channels share, as film grain, or as a JPEG leaves it that stores colours with half the pixels,
    most eigenvalues know nothing. Where those of the luma alone end in a plateau, it is taken from there: the sd of the
    noise in three channels that would be as strong in the luma, which is what suits methods that expect white noise.
    A JPEG shows noise hardly at all that is weak beside its steps: below 10 levels at a quality of 95, below 25 at 75,
    too little is seen of it, or next to none.

    Args:
        image: (C, H, W) or (1, C, H, W) in [-1, 1], of at least 24 x 24 pixels; values beyond say that nothing was
            clipped.
        mask: (H, W), 0 where pixels are missing, else 1.

    Returns:
        The sd in the unit of [-1, 1], the same for all channels.

    Raises:
        InvalidInputError: another shape, type or range, too few patches with all their pixels, or only black and white
            ones, which noise of any strength may have given.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim not in (3, 4):
        came = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise InvalidInputError(f"image must be a tensor of floats (C, H, W) in [-1, 1], got {came}")
    y = image if image.ndim == 4 else image[None]
    if len(y) != 1 or y.shape[1] < 1:
        raise InvalidInputError(f"image must be one picture (C, H, W), got {tuple(image.shape)}")
    check_values("image", y)
    y = y.detach().cpu().float()
    if not bool(torch.isfinite(y).all()):
        raise InvalidInputError("image must be finite, got NaN or Inf")
    if abs(float(y.mean())) > DEFAULT_LIMIT:
        raise InvalidInputError(f"image must be in [-1, 1], got a mean of {float(y.mean()):g}: is it in 0..255?")
    if bool((y == y[:, :1]).all()):
        y = y[:, :1]  # grey, whatever the number of channels
    patches = _patches(y, mask)
    if bool((patches.abs() == 1).all()) and bool((patches != patches[0, 0]).any()):
        raise InvalidInputError(f"image must have greys or colours for its noise to be seen, got {_TWO_LEVELS}")
    channels = patches.reshape(y.shape[1], -1, patches.shape[1])
    clipped = float(y.abs().max()) == 1  # else nothing lies on the limits, or something beyond them
    if len(channels) == 1:
        return _of_grey(patches, clipped)
    variance = _variance(_eigenvalues(patches))
    seen = _before_clipping(variance, channels.mean(dim=1)) if clipped else float(variance.sqrt())
    if len(channels) != 3:
        return seen
    weights = torch.tensor(LUMA, dtype=channels.dtype)
    luma = torch.tensordot(weights, channels, 1)
    smallest = _eigenvalues(luma).flip(0)
    if smallest[_PLATEAU] > _FLAT * smallest[0]:
        return seen
    shared = float(smallest[: _PLATEAU // 2].mean().sqrt() / weights.norm())
    return shared if shared > _MORE * seen else seen


def jpeg_loss(image: Tensor, jpeg: JPEGCoding) -> float:
    """The root mean square of what a JPEG took from its picture, from what it takes when it codes that once more.

    With J the coding by its own steps, and y what is left by it, shifted by half a block, so that y is no code of J:

        sqrt(mean((J(y) - y)^2))

    For most photographs that is 0.6 to 1 times what it took at first, from a quality of 95 down
    (benchmarks/results/noise.md): no more is lost of what is lost already.

    Args:
        image: (C, H, W) or (1, C, H, W) in [-1, 1], C is 1 or 3.
        jpeg: how it was coded.

    Returns:
        It in the unit of [-1, 1]; 0 where that can't be told: for a picture of less than 16 pixels a side, or more than
        a JPEG may have.
    """
    given = to_pil(image)[0]
    if min(given.size) < 2 * _SIDE:
        return 0.0
    as_coded = given if jpeg.turn is None else given.transpose(jpeg.turn)
    shifted, buffer = as_coded.crop((_SIDE // 2, _SIDE // 2, *as_coded.size)), io.BytesIO()
    tables = [[min(255, step) for step in table] for table in jpeg.tables]
    try:
        shifted.save(buffer, "JPEG", qtables=tables, subsampling=jpeg.subsampling)
    except (OSError, ValueError):
        return 0.0
    with pillow_limit(shifted.width * shifted.height), Image.open(buffer) as coded:
        return float((to_tensor(coded) - to_tensor(shifted)).square().mean().sqrt())


def _patches(y: Tensor, mask: Tensor | None) -> Tensor:
    """Patches (numbers, patches) in float64, at most `_MOST_PATCHES`, of which no pixel is missing."""
    channels, height, width = y.shape[1:]
    stride = max(1, round((height * width / _MOST_PATCHES) ** 0.5))
    fits = min(height, width) >= _SIDE
    found = functional.unfold(y, _SIDE, stride=stride)[0] if fits else torch.empty(channels * _SIDE**2, 0)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.shape != (height, width) or mask.is_complex():
            raise InvalidInputError(f"mask must be a tensor {(height, width)} of 0 and 1, got {described(mask)}")
        if not bool(((check_values("mask", mask) == 0) | (mask == 1)).all()):
            raise InvalidInputError(f"mask must hold 0 (missing) and 1 (known) alone, got {described(mask)}")
        known = functional.unfold(mask.detach().cpu().float()[None, None], _SIDE, stride=stride)[0] if fits else found
        found = found[:, known.bool().all(dim=0)]
    if found.shape[1] < _FEWEST_PER_NUMBER * found.shape[0] / channels:
        raise InvalidInputError(
            f"image must have more whole patches of {_SIDE} x {_SIDE} pixels for its noise to be estimated, got "
            f"{found.shape[1]} in {width} x {height} pixels; state the noise instead"
        )
    return found.double()


def _of_grey(patches: Tensor, clipped: bool) -> float:
    """The sd of the noise in patches (pixels, patches), from the smoothest, but not near black and white."""
    smoothest = _smoothest(patches)
    variance = (_cosines(_FINE, 2 * _SIDE) @ smoothest).square().mean()
    if not clipped:
        return float(variance.sqrt())
    seen = _before_clipping(variance, smoothest.mean(dim=0))
    inner = patches[:, patches.mean(dim=0).abs() < 1 - 3 * seen]
    return _of_grey(inner, clipped=False) if inner.shape[1] >= _FEWEST_PER_NUMBER * len(inner) else seen


def _cosines(first: int, last: int) -> Tensor:
    """The cosines (numbers, pixels of a patch) whose frequencies add up to first..last."""
    matrix = dct(torch.eye(_SIDE, dtype=torch.float64)).mT
    sums = torch.arange(_SIDE)[:, None] + torch.arange(_SIDE)
    return torch.kron(matrix, matrix)[((sums >= first) & (sums <= last)).flatten()]


def _smoothest(patches: Tensor) -> Tensor:
    """Those patches (pixels, patches) that have least of the coarse cosines."""
    coarse = (_cosines(1, _COARSE) @ patches).square().sum(dim=0)
    return patches[:, coarse.topk(max(1, round(_SMOOTH * len(coarse))), largest=False).indices]


def _eigenvalues(patches: Tensor) -> Tensor:
    """Of the covariance of patches (numbers, patches), the largest first."""
    centered = patches - patches.mean(dim=1, keepdim=True)
    return torch.linalg.eigvalsh(centered @ centered.mT / centered.shape[1]).flip(0).clamp(min=0)


def _variance(eigenvalues: Tensor) -> Tensor:
    """The mean of the smaller eigenvalues, from the first on where no more of them are above it than below."""
    count = torch.arange(len(eigenvalues), 0, -1)
    means = eigenvalues.flip(0).cumsum(0).flip(0) / count
    above = torch.stack([(eigenvalues[i:] > mean).sum() for i, mean in enumerate(means)])
    below = torch.stack([(eigenvalues[i:] < mean).sum() for i, mean in enumerate(means)])
    first = int((above >= below).nonzero()[0, 0])  # there is one: the last mean is the last eigenvalue
    return means[first]


def _before_clipping(variance: Tensor, means: Tensor) -> float:
    """The sd of noise whose variance is `variance` after clipping to [-1, 1], around these means, by bisection."""
    means = means.flatten().clamp(-1, 1)
    low, high = float(variance.sqrt()), 4 * float(variance.sqrt()) + 1e-6
    if _clipped_variance(means, high) < variance:
        raise InvalidInputError(
            f"image must have greys or colours for its noise to be seen, got hardly any: {_TWO_LEVELS}"
        )
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _clipped_variance(means, middle) < variance else (low, middle)
    return low


def _clipped_variance(means: Tensor, sigma: float) -> Tensor:
    """The mean over m of Var(clip(m + sigma z, -1, 1)), z ~ N(0, 1)."""
    a, b = (-1 - means) / sigma, (1 - means) / sigma
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    density_a, density_b = (torch.exp(-(x**2) / 2) / (2 * torch.pi) ** 0.5 for x in (a, b))
    inside = 1 - below - above
    # moments of z clipped to [a, b]
    first = a * below + b * above + density_a - density_b
    second = a**2 * below + b**2 * above + inside + a * density_a - b * density_b
    return (sigma**2 * (second - first**2)).mean()
