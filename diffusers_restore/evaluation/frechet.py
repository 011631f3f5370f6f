"""The distance of two sets of pictures by Gaussians that are fitted to their features."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..tensors import described


def gaussian_fit(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D), with n - 1 in its denominator, of features (n, D), in float64.

    Raises:
        InvalidInputError: not two or more vectors of finite real numbers.
    """
    if not isinstance(features, Tensor) or features.is_complex():
        raise InvalidInputError(f"features must be a tensor of real numbers (n, D), got {described(features)}")
    if features.ndim != 2 or len(features) < 2 or not features.shape[1] or not bool(features.isfinite().all()):
        raise InvalidInputError(f"features must be finite, (n, D) with n >= 2, got {tuple(features.shape)}")
    x = features.double()
    mean = x.mean(dim=0)
    return mean, (x - mean).mT @ (x - mean) / (len(x) - 1)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2), the square of Fréchet's distance of two Gaussians.

    Dowson and Landau, J. Multivariate Anal. 12 (1982). With features of an Inception network that was trained on
    ImageNet it is the FID (arXiv:1706.08500); figures of other features can't be compared with that. The roots are
    those of symmetric matrices, so covariances of less than full rank will do.

    Args:
        mean, other_mean: (D,).
        covariance, other_covariance: (D, D), symmetric and positive semidefinite.

    Returns:
        At least 0, in the square of the features' unit.

    Raises:
        InvalidInputError: shapes that don't fit, NaN or Inf, or covariances that aren't symmetric.
    """
    size = tuple(mean.shape)
    if mean.ndim != 1 or other_mean.shape != size or {covariance.shape, other_covariance.shape} != {size * 2}:
        shapes = [tuple(one.shape) for one in (mean, covariance, other_mean, other_covariance)]
        raise InvalidInputError(f"means must be (D,) and covariances (D, D), got {shapes}")
    a, b = covariance.double(), other_covariance.double()
    means = (mean.double(), other_mean.double())
    if not all(bool(one.isfinite().all()) for one in (a, b, *means)):
        raise InvalidInputError("means and covariances must be finite, got NaN or Inf")
    for one in (a, b):
        if not torch.allclose(one, one.mT, rtol=1e-6, atol=1e-12 * float(one.abs().max())):
            raise InvalidInputError("covariances must be symmetric")
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    common = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + a.trace() + b.trace() - 2 * common
    return float(distance.clamp_min(0))
