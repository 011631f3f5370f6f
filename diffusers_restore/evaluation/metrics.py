"""PSNR and SSIM of pictures in [-1, 1], by scikit-image, and their luma."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidInputError
from ..images import DEFAULT_LIMIT
from ..tensors import described, is_dense

SSIM_SIDE = 11
"""Pixels on each side that a picture needs for its SSIM."""


def skimage(module: str) -> Any:
    """The module `skimage.<module>`.

    Raises:
        ImportError: scikit-image is not installed; the message names the extra that brings it.
    """
    try:
        return import_module(f"skimage.{module}")
    except ImportError as error:
        raise ImportError(
            "metrics and classical methods need scikit-image: pip install 'diffusers-restore[metrics]'"
        ) from error


def psnr(image: Tensor, reference: Tensor) -> float:
    """10 log10(2^2 / mean (image - reference)^2) in dB over all pixels and colours; infinite for equal pictures.

    Args:
        image, reference: (C, H, W) in [-1, 1]; both are clipped to the range first.

    Raises:
        InvalidInputError: other shapes, types or ranges, NaN or Inf.
        ImportError: scikit-image is not installed.
    """
    a, b = _pair(image, reference)
    if np.array_equal(a, b):
        return math.inf
    return float(skimage("metrics").peak_signal_noise_ratio(b, a, data_range=2))


def ssim(image: Tensor, reference: Tensor) -> float:
    """The mean structural similarity of Wang et al. (2004): 11 x 11 Gaussian windows of sd 1.5, mean over the colours.

    It is computed in [0, 1], as is usual: SSIM depends on the distance from black.

    Args:
        image, reference: (C, H, W) in [-1, 1], H and W at least 11; both are clipped and mapped to [0, 1] first.

    Raises:
        InvalidInputError: other shapes, types or ranges, NaN or Inf.
        ImportError: scikit-image is not installed.
    """
    a, b = _pair(image, reference)
    if min(a.shape[1:]) < SSIM_SIDE:
        raise InvalidInputError(f"SSIM needs pictures of at least 11 x 11 pixels, got {tuple(a.shape)}")
    return float(
        skimage("metrics").structural_similarity(
            (b + 1) / 2,
            (a + 1) / 2,
            data_range=1,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def luma(image: Tensor) -> Tensor:
    """Y of BT.601 in its range 16..235 of 255, which papers use to score deraining, low light and super-resolution.

    Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255 of colours in [0, 1].

    Args:
        image: (..., 3, H, W) in [-1, 1], or (..., 1, H, W), whose three colours are the same.

    Returns:
        (..., 1, H, W), mapped from [0, 1] to [-1, 1] as pictures are.

    Raises:
        InvalidInputError: another number of channels, another type or range, NaN or Inf.
    """
    _check_range("image", image)
    if image.ndim < 3 or image.shape[-3] not in (1, 3):
        raise InvalidInputError(f"image must have 1 or 3 channels, (..., C, H, W), got {tuple(image.shape)}")
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=image.device) / 255
    unit = (image.double().clamp(-1, 1) + 1) / 2
    y = 16 / 255 + (unit * weights.reshape(3, 1, 1)).sum(-3, keepdim=True)
    return (2 * y - 1).to(image.dtype)


def _check_range(name: str, picture: object) -> None:
    """Raise InvalidInputError unless it holds floats in the unit of [-1, 1].

    A restoration may be far beyond the range in single values, as the pseudo-inverse of a noisy blur is, but not in its
    mean, as pictures in 0..255 are.
    """
    if not is_dense(picture) or not picture.is_floating_point() or not picture.numel():
        raise InvalidInputError(
            f"{name} must be a float tensor (C, H, W) in [-1, 1], got {described(picture)}; images.to_tensor makes one "
            "(1, C, H, W) of a PIL picture or an array"
        )
    mean = float(picture.detach().double().mean())
    if not math.isfinite(mean):
        raise InvalidInputError(f"{name} must be finite, got NaN or Inf")
    if abs(mean) > DEFAULT_LIMIT:
        raise InvalidInputError(f"{name} must be in [-1, 1], got a mean of {mean:g}: is it in 0..255?")


def _pair(image: Tensor, reference: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both pictures, clipped, in float64."""
    _check_range("image", image)
    _check_range("reference", reference)
    if image.ndim != 3 or image.shape != reference.shape:
        raise InvalidInputError(
            f"image and reference must both be (C, H, W), got {tuple(image.shape)} and {tuple(reference.shape)}"
        )
    a, b = (x.detach().cpu().double().clamp(-1, 1).numpy() for x in (image, reference))
    return a, b
