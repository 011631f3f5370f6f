"""The zero-shot methods against closed forms: a Gaussian prior makes a chain affine, its mean and variance exact.

The prior is N(mu, g^2 I), for which the exact network is x0_hat = k x + (1 - k) mu, k = g^2 / (g^2 + sigma^2); its
Jacobian is k I and the covariance of x0 given x is sigma^2 k I. Each coefficient of the operator's SVD is then a scalar
chain of its own, which `CHAINS` write down as the papers do, one line each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_restore.operators import (
    BlockMean,
    BlurDecimate,
    CircularBlur,
    Constant,
    FunctionOperator,
    Identity,
    LinearOperator,
    Mask,
    Measurement,
)
from diffusers_restore.operators.checks import dense_matrix
from diffusers_restore.operators.tasks import motion_kernel, random_mask
from diffusers_restore.registries import METHODS
from diffusers_restore.schedulers.data_terms import put_measured
from diffusers_restore.schedulers.levels import karras_levels
from diffusers_restore.schedulers.prediction import predict_x0_and_epsilon
from diffusers_restore.schedulers.scheduling_ddrm import ddrm_update
from diffusers_restore.schedulers.scheduling_dps import dps_gradient
from diffusers_restore.schedulers.scheduling_mmps import mmps_estimate
from diffusers_restore.schedulers.scheduling_pigdm import pigdm_estimate
from diffusers_restore.schedulers.scheduling_repaint import repaint_update
from diffusers_restore.schedulers.zero_shot import ZeroShotScheduler

SHAPE = (3, 4, 6)
G, MU = 0.4, 0.2
OPERATORS: dict[str, LinearOperator] = {
    "inpaint": Mask(SHAPE, random_mask(4, 6)),
    "sr2": BlockMean(SHAPE, 2),
    "blur and decimation": BlurDecimate(SHAPE, motion_kernel(3, 30.0), 2),
    "blur": CircularBlur(SHAPE, motion_kernel(3, 30.0)),
}


@dataclass
class Coefficient:
    """Arrays over coefficients at one step from the noise level a to b."""

    s: np.ndarray
    y: np.ndarray  # y_bar
    mu: np.ndarray  # of the prior
    sigma_y: float
    a: float
    b: float
    t: int
    up: float | None = None

    @property
    def k(self) -> float:
        return G**2 / (G**2 + self.a**2)

    def w(self, variance: float) -> np.ndarray:
        """How far an estimate known to this variance follows y."""
        if self.sigma_y == 0:
            return (self.s > 0).astype(float)
        return variance * self.s**2 / (variance * self.s**2 + self.sigma_y**2)

    @property
    def q(self) -> float:
        return (self.b / self.a) ** 2

    def known(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Which coefficients y determines better than a noise level does, and the variance that is added to them."""
        r = self.sigma_y / np.where(self.s > 0, self.s, np.inf)
        known = (self.s > 0) & (self.s * level >= self.sigma_y)
        return known, level**2 - r**2


# Each gives, for the next state A x + B + sd z: A, B and the variance.
Step = tuple[Any, Any, Any]


def _ddnm(c: Coefficient, eta: float = 0.85) -> Step:
    if c.up is not None:
        level, eta = c.up, 1.0
    else:
        level = c.b
    e = sqrt(1 - eta**2) * level
    w = c.w(1.0)
    missing = (c.k + e * (1 - c.k) / c.a, (1 - c.k) * c.mu * (1 - e / c.a), (eta * level) ** 2)
    if c.sigma_y == 0:  # x0c + e epsilon_hat
        A = (1 - w) * c.k + e * (1 - c.k) / c.a
        return A, (1 - w) * (1 - c.k) * c.mu + w * c.y - e / c.a * (1 - c.k) * c.mu, (eta * level) ** 2
    known, variance = c.known(level)
    r = c.sigma_y / np.where(c.s > 0, c.s, np.inf)
    d = np.where(c.s > 0, e / np.where(r > 0, r, np.inf), 0)
    less = ((1 - d) * c.k, (1 - d) * (1 - c.k) * c.mu + d * c.y, (eta * level) ** 2)
    rules = [
        np.where(c.s == 0, m, np.where(known, n, o)) for m, n, o in zip(missing, (0, c.y, variance), less, strict=True)
    ]
    return rules[0], rules[1], rules[2]


def _corrected(c: Coefficient, w: Any, left: float, variance: Any) -> Step:
    """x0c = x0_hat + w (y_bar - x0_hat), then x0c + left (x - x0c) and noise."""
    return (
        (1 - w) * c.k * (1 - left) + left,
        ((1 - w) * (1 - c.k) * c.mu + w * c.y) * (1 - left),
        variance,
    )


def _diffpir(c: Coefficient, prior_weight: float, zeta: float) -> Step:
    return _corrected(c, c.w(c.a**2 / prior_weight), sqrt(1 - zeta) * c.b / c.a, zeta * c.b**2)


def _replaced(c: Coefficient, used: bool = True) -> Step:
    up = c.b if c.up is None else c.up
    A, B, variance = _corrected(c, 0.0, c.q, c.b**2 * (1 - c.q) + up**2 - c.b**2)
    if not used:
        return A, B, variance
    known, of_known = c.known(up)
    return np.where(known, 0, A), np.where(known, c.y, B), np.where(known, of_known, variance)


def _pigdm(c: Coefficient, variance: float) -> Step:
    w = c.k * c.w(variance)  # J^T = k
    return _corrected(c, w, c.q, c.b**2 * (1 - c.q))


def _exact(c: Coefficient) -> Step:
    """MMPS with its covariance: w for the variance a^2 k."""
    v = c.a**2 * c.k
    A, B, variance = _corrected(c, c.w(v), c.q, c.b**2 * (1 - c.q))
    return A, B, variance + (1 - c.q) ** 2 * v * (1 - c.w(v))


def _mmps(c: Coefficient) -> Step:
    return _corrected(c, c.w(c.a**2 * c.k), c.q, c.b**2 * (1 - c.q))


def _daps(c: Coefficient, variance: float) -> Step:
    w = c.w(variance)
    A, B, _ = _corrected(c, w, 0.0, 0)
    return A, B, variance * (1 - w) + c.b**2


def of_prior(a: float, g: float = G) -> float:
    return a**2 * g**2 / (a**2 + g**2)


CHAINS: dict[str, tuple[str, dict[str, Any], Callable[[Coefficient], Step]]] = {
    "ddnm": ("ddnm", {}, _ddnm),
    "ddnm, travelling": ("ddnm", {"travel_length": 2, "travel_repeats": 2, "eta": 0.5}, lambda c: _ddnm(c, 0.5)),
    "diffpir": ("diffpir", {"clip": False}, lambda c: _diffpir(c, 1.75, 0.3)),
    "diffpir, all noise new": (
        "diffpir",
        {"prior_weight": 1.0, "zeta": 1.0, "clip": False},
        lambda c: _diffpir(c, 1.0, 1.0),
    ),
    "ilvr": ("ilvr", {}, _replaced),
    "ilvr, stopping": ("ilvr", {"stop": 0.4}, lambda c: _replaced(c, c.t >= 400)),
    "ccdf": ("ccdf", {"start_share": 0.5}, _replaced),
    "repaint": ("repaint", {"travel_length": 2, "travel_repeats": 3}, _replaced),
    "pigdm": ("pigdm", {"prior_sd": 1.0}, lambda c: _pigdm(c, of_prior(c.a, 1.0))),
    "mmps": ("mmps", {"iterations": 30}, _mmps),
    "mmps, covariance": (
        "mmps",
        {"prior_sd": G, "iterations": 30, "covariance": True, "denoise_last": False},
        _exact,
    ),
    "daps": ("daps", {"prior_sd": G, "denoise_last": False}, lambda c: _daps(c, of_prior(c.a))),
    "daps, other r": ("daps", {"prior_sd": 1.0, "denoise_last": False}, lambda c: _daps(c, of_prior(c.a, 1.0))),
}


def gaussian_model(scheduler: ZeroShotScheduler) -> Callable[[Tensor, int], Tensor]:
    """The exact network of the prior, differentiable: epsilon_hat of x_t."""

    def model(sample: Tensor, timestep: int) -> Tensor:
        sigma, alpha_bar = scheduler.sigma(timestep), scheduler.alpha_bar(timestep)
        x = sample / sqrt(alpha_bar)
        k = G**2 / (G**2 + sigma**2)
        return (x - (k * x + (1 - k) * MU)) / sigma

    return model


def run_chain(
    scheduler: ZeroShotScheduler, operator: LinearOperator, sigma_y: float, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean (n,) and covariance (n, n) of the chain in pixels, from its responses to every single noise number."""
    size = int(np.prod(operator.input_shape))
    steps = scheduler.timesteps.tolist()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *operator.input_shape)
    groups = 1 + (1 + len(steps)) * size
    measurement = Measurement(y.expand(groups, -1, -1, -1), operator, sigma_y)
    model = gaussian_model(scheduler)

    def noise(draw: int) -> Tensor:
        z = torch.zeros(groups, *operator.input_shape, dtype=torch.float64)
        z[1 + draw * size : 1 + (draw + 1) * size] = units
        return z

    x = scheduler.start(measurement, noise(0))
    for i, t in enumerate(steps):
        x = x.detach().requires_grad_()
        output = model(x, t)
        x = scheduler.step(output, t, x, measurement, variance_noise=noise(i + 1), model=model).prev_sample
    result = x.detach().flatten(1)
    responses = result[1:] - result[0]
    return result[0], responses.mT @ responses


def expected(
    scheduler: ZeroShotScheduler,
    s: np.ndarray,
    y_bar: np.ndarray,
    mu: np.ndarray,
    sigma_y: float,
    rule: Callable[[Coefficient], Step],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each coefficient by the scalar recursion."""
    steps = scheduler.timesteps.tolist()
    sigmas = {t: scheduler.sigma(t) for t in steps}
    grid = sorted(set(steps), reverse=True)
    lower = dict(zip(grid, [*grid[1:], -1], strict=True))
    first = Coefficient(s, y_bar, mu, sigma_y, sigmas[steps[0]], 0, 0)
    guess = first.w(1.0 if type(scheduler).__name__ == "CCDFScheduler" else first.a**2)
    mean, var = guess * y_bar, np.full(len(s), first.a**2)
    for i, t in enumerate(steps):
        following = steps[i + 1] if i + 1 < len(steps) else -1
        up = sigmas[following] if following > lower[t] else None
        b = 0.0 if lower[t] < 0 else sigmas[lower[t]]
        A, B, variance = rule(Coefficient(s, y_bar, mu, sigma_y, sigmas[t], b, t, up))
        mean, var = A * mean + B, A**2 * var + variance
    return mean, var


@pytest.mark.parametrize(("name", "sigma_y"), [*((name, 0.1) for name in OPERATORS), ("inpaint", 0.0), ("sr2", 0.0)])
@pytest.mark.parametrize("chain", list(CHAINS))
def test_the_chain_is_the_recursion(chain: str, name: str, sigma_y: float) -> None:
    method, options, rule = CHAINS[chain]
    operator = OPERATORS[name]
    scheduler = METHODS[method](**options)
    scheduler.set_timesteps(6)
    matrix = dense_matrix(operator)
    _, s, vt = torch.linalg.svd(matrix, full_matrices=True)
    s = torch.cat([torch.where(s > 1e-9, s, 0), torch.zeros(matrix.shape[1] - len(s), dtype=s.dtype)])
    y = torch.randn(1, *operator.output_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = operator.measured(y)
    y_bar = vt @ operator.pinv(y).reshape(-1)
    flat = vt @ torch.full((matrix.shape[1],), MU, dtype=torch.float64)
    mean, covariance = run_chain(scheduler, operator, sigma_y, y)
    wanted_mean, wanted_var = expected(scheduler, s.numpy(), y_bar.numpy(), flat.numpy(), sigma_y, rule)
    assert np.abs((vt @ mean).numpy() - wanted_mean).max() < 1e-10
    assert np.abs((vt @ covariance @ vt.mT).numpy() - np.diag(wanted_var)).max() < 1e-10
    determined = sigma_y == 0 and bool((s > 0).all())
    assert determined or wanted_var.max() > 1e-5  # a chain without noise would not pass unseen


@pytest.mark.parametrize("steps", [5, 20, 100])
@pytest.mark.parametrize("method", ["daps", "mmps"])
def test_daps_and_mmps_sample_the_posterior_of_a_gaussian(method: str, steps: int) -> None:
    """One chain over coefficients that are missing, well measured and barely measured: s = 0, 1, 0.2, 0.05."""
    s, sigma_y = np.array([0, 1, 0.2, 0.05]), 0.1
    options = {"mmps": {"iterations": 8, "covariance": True}, "daps": {}}[method]
    scheduler = METHODS[method](prior_sd=G, denoise_last=False, **options)
    if method == "daps":
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(timesteps=METHODS["daps"]().nearest_timesteps(karras_levels(20, 0.02, steps)))
    values = Diagonal(s)
    y = torch.tensor([0.0, 1, 0.2, 0.05], dtype=torch.float64).reshape(1, 1, 1, 4)  # y_bar = 1
    mean, covariance = run_chain(scheduler, values, sigma_y, y)
    precision = 1 / G**2 + (s / sigma_y) ** 2
    wanted = (MU / G**2 + (s / sigma_y) ** 2) / precision
    assert np.abs((mean.numpy() - wanted) * np.sqrt(precision)).max() < 1e-3
    assert np.abs(covariance.diag().numpy() * precision - 1).max() < 1e-3
    off = covariance - covariance.diag().diag()
    assert off.abs().max() < 1e-12


class Diagonal(Identity):
    """y_i = s_i x_i."""

    def __init__(self, s: np.ndarray) -> None:
        super().__init__((1, 1, len(s)))
        self._values = Constant(torch.as_tensor(s, dtype=torch.float64).reshape(1, 1, 1, -1))

    @property
    def singular_values(self) -> Constant:
        return self._values


def test_ddnm_plus_is_ddrm_at_eta_b_1() -> None:
    operator, sigma_y = OPERATORS["blur and decimation"], 0.1
    chains = []
    for method, options in (("ddnm", {"eta": 0.7}), ("ddrm", {})):
        scheduler = METHODS[method](**options)
        scheduler.set_timesteps(6)
        generator = torch.Generator().manual_seed(1)
        y = torch.randn(1, *operator.output_shape, generator=generator, dtype=torch.float64)
        measurement = Measurement(y, operator, sigma_y)
        x = torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
        call = {} if method == "ddnm" else {"eta": 0.7, "eta_b": 1.0}
        for t in scheduler.timesteps.tolist():
            output = gaussian_model(scheduler)(x, t)
            x = scheduler.step(output, t, x, measurement, generator=generator, **call).prev_sample
        chains.append(x)
    assert torch.equal(*chains)


def test_repaint_keeps_what_ddrm_keeps() -> None:
    operator = OPERATORS["inpaint"]
    generator = torch.Generator().manual_seed(1)
    x0_hat, epsilon_hat, noise = torch.randn(3, 1, *SHAPE, generator=generator, dtype=torch.float64)[:, None, 0]
    measurement = Measurement(operator.forward(noise), operator)
    ours = repaint_update(x0_hat, x0_hat + 0.5 * epsilon_hat, noise, measurement, 0.5, 0.3, 0.3)
    theirs = ddrm_update(x0_hat, epsilon_hat, noise, measurement, 0.3)
    assert torch.allclose(operator.forward(ours), operator.forward(theirs), rtol=0, atol=1e-14)
    assert not torch.allclose(ours, theirs, atol=0.01)


def curved(x: Tensor) -> Tensor:
    """A denoiser that isn't linear, and whose Jacobian is not symmetric."""
    return torch.tanh(0.7 * x + 0.2 * x.roll(1, dims=-1) ** 2) - 0.1 * x.roll(1, dims=-2)


def pullback_at(x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: torch.autograd.functional.vjp(curved, x, v)[1]


def jacobian_at(x: Tensor) -> Tensor:
    """By central differences: d curved_i / d x_j."""
    n, h = x.numel(), 1e-5
    units = torch.eye(n, dtype=x.dtype).reshape(n, *x.shape[1:])
    return ((curved(x + h * units) - curved(x - h * units)) / (2 * h)).flatten(1).mT


@pytest.mark.parametrize(("sigma", "passage"), [(0.0, 0.0), (0.2, 0.5), (0.6, 0.9), (20.0, 0.9999)])
def test_without_an_svd_a_noisy_y_counts_as_far_as_it_is_sure(sigma: float, passage: float) -> None:
    """Block means of 2 x 2 have s = 1/2, so that r is 0.1 here; it would be noise, if y counted as exact."""
    known = BlockMean((3, 8, 8), 2)
    operator = FunctionOperator(known.forward, (3, 8, 8), adjoint=known.adjoint)
    x, noise, y = (torch.randn(2, *shape, dtype=torch.float64) for shape in ((3, 8, 8), (3, 8, 8), (3, 4, 4)))
    result = put_measured(x, noise, Measurement(y, operator, 0.05), sigma)
    exact = put_measured(x, noise, Measurement(y, operator, 0.0), sigma)
    wanted = torch.lerp(x, exact, sigma**2 / (sigma**2 + 4 * 0.1**2))
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-9)
    assert ((result - x).norm() / (exact - x).norm()).item() == pytest.approx(passage, abs=1e-4)


@pytest.mark.parametrize("name", ["inpaint", "blur and decimation"])
def test_the_gradients_are_finite_differences(name: str) -> None:
    operator = OPERATORS[name]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
    y = operator.forward(torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64))
    measurement = Measurement(y, operator, 0.1)
    A, J, x0_hat, sigma = dense_matrix(operator), jacobian_at(x), curved(x), 0.6
    residual = (y - operator.forward(x0_hat)).reshape(-1)

    def misfit(x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(y - operator.forward(curved(x)), dim=(1, 2, 3))

    units = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *SHAPE)
    wanted = ((misfit(x + 1e-6 * units) - misfit(x - 1e-6 * units)) / 2e-6).reshape(x.shape)
    assert (dps_gradient(x0_hat, measurement, pullback_at(x)) - wanted).abs().max() < 1e-8

    r2 = 0.07
    inner = torch.linalg.solve(r2 * A @ A.mT + 0.01 * torch.eye(len(A), dtype=A.dtype), residual)
    wanted = x0_hat + r2 * (J.mT @ A.mT @ inner).reshape(x.shape)
    assert (pigdm_estimate(x0_hat, measurement, pullback_at(x), r2) - wanted).abs().max() < 1e-8

    # For a symmetric Jacobian enough iterations solve the system of MMPS.
    S = J @ J.mT
    symmetric = lambda v: (v.flatten(1) @ S).reshape(v.shape)  # noqa: E731
    inner = torch.linalg.solve(sigma**2 * A @ S @ A.mT + 0.01 * torch.eye(len(A), dtype=A.dtype), residual)
    wanted = x0_hat + sigma**2 * (S @ A.mT @ inner).reshape(x.shape)
    assert (mmps_estimate(x0_hat, measurement, symmetric, sigma, 200) - wanted).abs().max() < 1e-8
    # One iteration is a step along the residual.
    product = 0.01 * residual + sigma**2 * A @ J.mT @ A.mT @ residual
    u = residual * (residual @ residual) / (residual @ product)
    wanted = x0_hat + sigma**2 * (J.mT @ A.mT @ u).reshape(x.shape)
    assert (mmps_estimate(x0_hat, measurement, pullback_at(x), sigma, 1) - wanted).abs().max() < 1e-8


def test_dps_in_the_scale_of_a_ddpm() -> None:
    """x_t' - zeta grad_x_t |y - A x0_hat(x_t)|, by autograd through everything."""
    operator = OPERATORS["sr2"]
    scheduler = METHODS["dps"](zeta=0.7)
    scheduler.set_timesteps(timesteps=[600, 400])
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64).requires_grad_()
    measurement = Measurement(operator.forward(torch.ones(2, *SHAPE, dtype=torch.float64)), operator, 0.1)
    noise = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    output = curved(x)
    stepped = scheduler.step(output, 600, x, measurement, variance_noise=noise).prev_sample
    alpha_bar = scheduler.alpha_bar(600)
    x0_hat, _ = predict_x0_and_epsilon(output, x, alpha_bar, "epsilon")
    misfit = torch.linalg.vector_norm(measurement.y - operator.forward(x0_hat), dim=(1, 2, 3)).sum()
    gradient = torch.autograd.grad(misfit, x)[0]
    with torch.no_grad():
        mean = _ddpm_mean(x0_hat, x, alpha_bar, scheduler.alpha_bar(400))
        b = 1 - alpha_bar / scheduler.alpha_bar(400)
        sd = sqrt((1 - scheduler.alpha_bar(400)) / (1 - alpha_bar) * b)
        assert (stepped - (mean + sd * noise - 0.7 * gradient)).abs().max() < 1e-12


def _ddpm_mean(x0: Tensor, x: Tensor, alpha_bar: float, alpha_bar_next: float) -> Tensor:
    """Equation 7 of arXiv:2006.11239."""
    alpha = alpha_bar / alpha_bar_next
    of_x0 = sqrt(alpha_bar_next) * (1 - alpha) / (1 - alpha_bar)
    return of_x0 * x0 + sqrt(alpha) * (1 - alpha_bar_next) / (1 - alpha_bar) * x
