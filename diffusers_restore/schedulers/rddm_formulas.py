"""The formulas of RDDM (arXiv:2308.13712): I_t = I_0 + a_t I_res + b_t epsilon, with I_res = I_in - I_0."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from ..errors import unknown_name

PredictionType = Literal[
    "residual",
    "epsilon",
    "sample",
    "v_prediction",
    "residual_epsilon",
    "residual_sum",
    "sample_epsilon",
    "sample_sum",
]

HEADS: Mapping[str, tuple[str, ...]] = {
    "residual": ("residual",),
    "epsilon": ("epsilon",),
    "sample": ("sample",),
    "v_prediction": ("v_prediction",),
    "residual_epsilon": ("residual", "epsilon"),
    "residual_sum": ("residual", "sum"),
    "sample_epsilon": ("sample", "epsilon"),
    "sample_sum": ("sample", "sum"),
}
"""The outputs of a network by prediction type, in the order of their channels."""

FORMS = ("incremental", "posterior", "recompose")
VARIANCES = ("residual", "mean_reverting", "bridge")


def rddm_add_noise(x0: Tensor, residual: Tensor, noise: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """I_t = I_0 + a_t I_res + b_t epsilon."""
    return x0 + a * residual + b * noise


def rddm_predict(
    outputs: tuple[Tensor, ...],
    sample: Tensor,
    degraded: Tensor | float,
    a: float,
    b: float,
    prediction_type: str,
    clip: float | None = None,
    clip_residual: float | None = None,
    *,
    as_ddim: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(x0_hat, residual_hat, epsilon_hat) from a network's outputs for I_t = I_0 + a (I_in - I_0) + b epsilon.

    With one output, the rest follow from I_t; of two outputs, "sum" is the first one plus epsilon. Where they cannot
    follow (b = 0, or a = 1), the noise is taken as 0 and I_0 as I_in.

    Args:
        outputs: one or two, (B, C, H, W), as `HEADS` gives for the prediction type.
        sample: I_t, (B, C, H, W).
        degraded: I_in; 0.0 where pictures are generated.
        a, b: a_t in [0, 1] and b_t >= 0.
        prediction_type: a key of `HEADS`.
        clip: I_0 is clipped to [-clip, clip]; None disables it.
        clip_residual: the same for the residual. The noise is never clipped.
        as_ddim: for "sample", take the residual of the clipped I_0, as for "epsilon", instead of the other way round.
    """

    def clip_x0(x: Tensor) -> Tensor:
        return x if clip is None else x.clamp(-clip, clip)

    def clip_res(x: Tensor) -> Tensor:
        return x if clip_residual is None else x.clamp(-clip_residual, clip_residual)

    first = outputs[0]
    match prediction_type:
        case "residual_epsilon" | "residual_sum":
            epsilon = outputs[1] if prediction_type == "residual_epsilon" else outputs[1] - first
            residual = clip_res(first)
            return clip_x0(sample - a * residual - b * epsilon), residual, epsilon
        case "sample_epsilon" | "sample_sum":
            epsilon = outputs[1] if prediction_type == "sample_epsilon" else outputs[1] - first
            return clip_x0(first), clip_res(degraded - first), epsilon
        case "sample" if as_ddim:
            epsilon = (sample - a * degraded - (1 - a) * first) * (1 / b if b > 0 else 0.0)
            x0 = clip_x0(first)
            return x0, clip_res(degraded - x0), epsilon
        case "residual" | "sample":
            residual = clip_res(first if prediction_type == "residual" else degraded - first)
            epsilon = (sample - degraded + (1 - a) * residual) * (1 / b if b > 0 else 0.0)
            return clip_x0(degraded - residual), residual, epsilon
        case "epsilon" | "v_prediction":
            shifted = sample - a * degraded  # (1 - a) I_0 + b epsilon
            if prediction_type == "v_prediction":
                x0, epsilon = clip_x0((1 - a) * shifted - b * first), b * shifted + (1 - a) * first
            elif a < 1:
                x0, epsilon = clip_x0((shifted - b * first) / (1 - a)), first
            else:
                x0, epsilon = clip_x0(torch.zeros_like(sample) + degraded), first
            return x0, clip_res(degraded - x0), epsilon
    raise unknown_name("prediction_type", prediction_type, HEADS)


def rddm_variance(
    a: float, b: float, a_next: float, b_next: float, eta: float = 0.0, variance_type: str = "residual"
) -> float:
    """sigma^2 of the new noise in a step from (a_t, b_t) to (a_u, b_u).

        residual:       eta   (b_t^2 -     b_u^2) b_u^2 / b_t^2                           RDDM: eta scales the variance
        mean_reverting: eta^2 (b_t^2 - k^2 b_u^2) b_u^2 / b_t^2,  k = (1-a_t) / (1-a_u)   DDIM, IR-SDE
        bridge:         eta^2 (b_u^2 - (a_u / a_t)^2 b_t^2)                               ResShift, I2SB, InDI

    With eta = 1 each is the variance of I_u given I_t and I_0, for a Markov chain I_0, I_1, ... that is: given its
    residual, a random walk; reverting to I_in; going to I_in by way of I_u.
    """
    variance, variance_next = b**2, b_next**2
    match variance_type:
        case "residual":
            new = eta * (variance - variance_next) * variance_next / variance if variance > 0 else 0.0
        case "mean_reverting":
            k = (1 - a) / (1 - a_next) if a_next < 1 else 1.0
            new = eta**2 * (variance - k**2 * variance_next) * variance_next / variance if variance > 0 else 0.0
        case "bridge":
            new = eta**2 * (variance_next - (a_next / a) ** 2 * variance) if a > 0 else 0.0
        case _:
            raise unknown_name("variance_type", variance_type, VARIANCES)
    return new if new > 1e-14 * variance_next else 0.0  # InDI leaves only rounding errors


def rddm_update(
    sample: Tensor,
    x0: Tensor,
    residual: Tensor,
    epsilon: Tensor,
    noise: Tensor | None,
    a: float,
    b: float,
    a_next: float,
    b_next: float,
    sigma: float = 0.0,
    form: str = "incremental",
) -> Tensor:
    """One step from I_t to I_u, (B, C, H, W), with m = sqrt(b_u^2 - sigma^2), q = m / b_t and z the new noise.

        incremental: I_t - (a_t - a_u) I_res - (b_t - m) epsilon + sigma z     the paper's
        posterior:   q I_t + (1 - q) I_0 + (a_u - a_t q) I_res + sigma z       the mean of I_u given I_t and I_0
        recompose:   I_0 + a_u I_res + m epsilon + sigma z                     as DDIM takes a clipped I_0

    They are the same where the estimates add up to I_t, as they do unless something was clipped or a network predicts
    both I_0 and the noise.
    """
    m = sqrt(max(0.0, b_next**2 - sigma**2))
    match form:
        case "incremental":
            previous = torch.add(sample, residual, alpha=a_next - a).add_(epsilon, alpha=m - b)
        case "posterior":
            q = m / b if b > 0 else 1.0
            previous = torch.mul(sample, q).add_(x0, alpha=1 - q).add_(residual, alpha=a_next - a * q)
        case "recompose":
            previous = torch.add(x0, residual, alpha=a_next).add_(epsilon, alpha=m)
        case _:
            raise unknown_name("update_form", form, FORMS)
    return previous if noise is None or sigma == 0 else previous.add_(noise, alpha=sigma)


def rddm_update_plain(
    sample: Tensor,
    residual: Tensor,
    epsilon: Tensor,
    noise: Tensor,
    a: float,
    b: float,
    a_next: float,
    b_next: float,
    eta: float = 0.0,
) -> Tensor:
    """`rddm_update` as the paper writes its sampler, (B, C, H, W) (arXiv:2308.13712).

        I_u = I_t - (a_t - a_u) I_res - (b_t - sqrt(b_u^2 - sigma^2)) epsilon + sigma z
        sigma^2 = eta (b_t^2 - b_u^2) b_u^2 / b_t^2

    Tests compare it with `rddm_update` of the form "incremental" with the variance "residual".
    """
    sigma2 = eta * (b**2 - b_next**2) * b_next**2 / b**2 if b > 0 else 0.0
    kept = sqrt(b_next**2 - sigma2)
    return sample - (a - a_next) * residual - (b - kept) * epsilon + sqrt(sigma2) * noise
