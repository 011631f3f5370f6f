"""What a measurement y = A x + sigma_y z says about a picture, in closed form. Noise levels are in VE form.

With an SVD, A = U S V^T, everything is a weight for each coefficient; without one, conjugate gradients solve the same
equations.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from ..operators import Measurement, SVDOperator
from ..operators.base import scale


def data_weights(measurement: Measurement, variance: float, like: Tensor) -> Tensor:
    """How far a coefficient that is known to `variance` follows y: w = variance s^2 / (variance s^2 + sigma_y^2).

    1 where y is exact, 0 where nothing is measured (s = 0); of the shape of the singular values.
    """
    s = measurement.svd.singular_values.like(like)
    if measurement.sigma_y == 0:
        return (s > 0).to(s.dtype)
    weighted = variance * s.square()
    return weighted / (weighted + measurement.sigma_y**2)


def posterior_mean(x: Tensor, measurement: Measurement, variance: float) -> Tensor:
    """The mean of N(x, variance I) given y: argmin_z |A z - y|^2 / sigma_y^2 + |z - x|^2 / variance.

    By coefficients, x + V [w (y_bar - V^T x)] with `data_weights`. Where y is exact, that is the picture nearest to x
    which agrees with y, x + A^+ (y - A x).

    Args:
        x: (B, C, H, W).
        measurement: of B images, by a linear operator.
        variance: > 0.
    """
    operator = measurement.linear
    if isinstance(operator, SVDOperator):
        w = data_weights(measurement, variance, x)
        return x + operator.v(scale(measurement.y_bar - operator.vt(x), w))
    if measurement.sigma_y == 0:
        return x + operator.pinv(measurement.y - operator.forward(x))
    return operator.rough_prox(x, measurement.y, measurement.sigma_y**2 / variance)


def posterior_noise(
    noise: Tensor, measurement: Measurement, variance: float, *, share: float = 1.0, added: float = 0.0
) -> Tensor:
    """Noise with `share` of the sd of N(0, variance I) given y, and independent noise of the variance `added`.

    By coefficients its sd is sqrt(share^2 variance (1 - w) + added), with `data_weights`.

    It is drawn in pixel space, a z + V [(b - a) V^T z], with a where nothing is measured and b by coefficients.

    Args:
        noise: (B, C, H, W) standard normal.
        measurement: of B images, by an operator with an SVD.
        variance, share, added: >= 0.
    """
    operator = measurement.svd
    missing = sqrt(share**2 * variance + added)
    spread = (share**2 * variance * (1 - data_weights(measurement, variance, noise)) + added).sqrt()
    return missing * noise + operator.v(scale(operator.vt(noise), spread - missing))


def put_measured(x: Tensor, noise: Tensor, measurement: Measurement, sigma: float) -> Tensor:
    """x with its measured coefficients exchanged for those of y at the noise level `sigma`.

    They become y_bar + sqrt(sigma^2 - r^2) z, where r = sigma_y / s is the noise that y_bar has already; a coefficient
    with more of it than sigma stays as it is.
    Without an SVD the passage is gradual, argmin_x' |A x' - (y + sigma A z)|^2 + (2 sigma_y / sigma)^2 |x' - x|^2.
    The 2 keeps the variance of a coefficient, sigma^2 (1 + r^2 sigma^2 / (sigma^2 + 4 r^2)^2) if the noise of x is
    sigma z, within 1/16 of sigma^2. Where y is exact, it is x + A^+ (y + sigma A z - A x).

    Args:
        x: (B, C, H, W) in VE form.
        noise: z, (B, C, H, W) standard normal.
        measurement: of B images, by a linear operator.
        sigma: >= 0.
    """
    operator = measurement.linear
    if not isinstance(operator, SVDOperator):
        if measurement.sigma_y == 0:
            return x + operator.pinv(measurement.y - operator.forward(x - sigma * noise))
        if sigma == 0:
            return x
        noised = measurement.y + sigma * operator.forward(noise)
        return operator.rough_prox(x, noised, (2 * measurement.sigma_y / sigma) ** 2)
    s = operator.singular_values.like(x)
    known = (s > 0) & (s * sigma >= measurement.sigma_y)
    r = torch.where(known, measurement.sigma_y / torch.where(known, s, 1.0), 0.0)
    spread = torch.where(known, (sigma**2 - r.square()).clamp_min(0).sqrt(), 0.0)
    change = scale(measurement.y_bar - operator.vt(x), known.to(x.dtype)) + scale(operator.vt(noise), spread)
    return x + operator.v(change)
