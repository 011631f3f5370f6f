"""Coefficients of the processes I_t = I_0 + a_t I_res + b_t epsilon that lead from a clean to a degraded picture.

Each function gives the residual scales a_t and the noise scales b_t of t = 0..T-1, (T,) in float64; before t = 0, where
the picture is clean, both are 0. I_res = I_in - I_0 is the residual of the degraded picture I_in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from math import log, pi, sqrt
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import InvalidInputError, check_int, check_real, unknown_name
from .ddpm import is_of_ddpm, make_betas

Schedule = Literal["increased", "decreased", "average", "normal"]
Grid = Literal["v1", "v2"]


class Coefficients(NamedTuple):
    """a_t and b_t of t = 0..T-1, (T,) in float64."""

    residual_scales: Tensor
    noise_scales: Tensor


def increments(steps: int, schedule: Schedule, power: float = 1.0, grid: Grid = "v1") -> Tensor:
    """P(x, power) = x^power / sum x^power, (steps,) in float64, the increments of a scale that ends at 1.

    Args:
        steps: T.
        schedule: "increased", "decreased", "average" (all equal) or "normal" (a Gaussian over +-3 of its deviations).
        power: of the first two; 1 is linear.
        grid: x = (i + 1) / T ("v1"), or i / (T - 1) ("v2"), where the first increment is 0.

    Raises:
        InvalidInputError: a power below 0, or a grid of v2 with a single step.
        UnknownNameError: another schedule or grid.
    """
    power = check_real("power", power, 0)
    if grid not in ("v1", "v2"):
        raise unknown_name("grid", grid, ("v1", "v2"))
    if grid == "v2" and steps < 2:
        raise InvalidInputError(f"grid='v2' needs num_train_timesteps of 2 or more, got {steps}")
    i = torch.arange(steps, dtype=torch.float64)
    match schedule:
        case "increased" | "decreased":
            x = ((i + 1) / steps if grid == "v1" else i / (steps - 1)) ** power
            x = x if schedule == "increased" else x.flip(0)
        case "average":
            x = torch.ones_like(i)
        case "normal":
            x = torch.exp(-(torch.linspace(-3, 3, steps, dtype=torch.float64) ** 2) / 2)
        case _:
            raise unknown_name("schedule", schedule, ("increased", "decreased", "average", "normal"))
    return x / x.sum()


def rddm(
    steps: int,
    residual_schedule: Schedule = "decreased",
    residual_power: float = 1.0,
    noise_schedule: Schedule = "increased",
    noise_power: float = 1.0,
    noise_scale: float = 1.0,
    grid: Grid = "v1",
) -> Coefficients:
    """RDDM (arXiv:2308.13712): a_t = sum_i alpha_i with a_T = 1, b_t^2 = sum_i beta_i^2 with b_T^2 = `noise_scale`.

    alpha_i and beta_i^2 / noise_scale are `increments`. With the defaults a_t = (t+1)(2T-t) / (T(T+1)) and
    b_t^2 = noise_scale (t+1)(t+2) / (T(T+1)).
    """
    a = _sums(increments(steps, residual_schedule, residual_power, grid))
    b2 = check_real("noise_scale", noise_scale, 0) * _sums(increments(steps, noise_schedule, noise_power, grid))
    return Coefficients(a, b2.sqrt())


def _sums(parts: Tensor) -> Tensor:
    """Cumulative sums, exactly 1 where nothing is left to add: rounding errors would spoil divisions by 1 - a."""
    sums = parts.cumsum(0)
    return sums.where(sums < 1 - 1e-12, 1.0)


def ddim(alphas_cumprod: Tensor) -> Coefficients:
    """DDPM and DDIM with I_in = 0: a_t = 1 - sqrt(abar_t), b_t = sqrt(1 - abar_t)."""
    alphas_cumprod = alphas_cumprod.double()
    return Coefficients(1 - alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())


def resshift(
    steps: int, kappa: float = 2.0, power: float = 0.3, eta_first: float | None = None, eta_last: float = 0.999
) -> Coefficients:
    """ResShift (arXiv:2307.12348): a_t = eta_t, b_t = kappa sqrt(eta_t).

    sqrt(eta_t) rises from the first to the last as a geometric sequence of (t / (T-1))^power (equation 10).

    Args:
        steps: T, 15 in the paper.
        kappa: strength of the noise, in the unit of [-1, 1].
        power: of the timesteps; below 1, the scale rises faster at first.
        eta_first: None is min(0.04 / kappa, sqrt(0.001))^2.
        eta_last: near 1.
    """
    kappa, power = check_real("kappa", kappa, above=0), check_real("power", power, above=0)
    first = min(0.04 / kappa, sqrt(0.001)) ** 2 if eta_first is None else eta_first
    last = check_real("eta_last", eta_last, check_real("eta_first", first, above=0), 1)
    x = (torch.arange(steps, dtype=torch.float64) / max(1, steps - 1)) ** power
    eta = first * (last / first) ** x if steps > 1 else torch.tensor([last], dtype=torch.float64)
    return Coefficients(eta, kappa * eta.sqrt())


def indi(steps: int, epsilon: float = 0.01) -> Coefficients:
    """InDI (arXiv:2303.11435): a_t = s, b_t = epsilon s, s = (t+1) / T.

    Args:
        steps: T.
        epsilon: deviation of the noise of the degraded picture, in the unit of [-1, 1].
    """
    s = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return Coefficients(s, check_real("epsilon", epsilon, above=0) * s)


def i2sb(steps: int, beta_max: float = 0.3, beta_min: float = 0.1) -> Coefficients:
    """I2SB (arXiv:2302.05872): a_t = s^2 / (s^2 + sbar^2), b_t^2 = s^2 sbar^2 / (s^2 + sbar^2), a Brownian bridge.

    s^2 is the integral of beta up to t, sbar^2 that of the rest. sqrt(beta) rises linearly to the middle of the bridge,
    half as far as from sqrt(beta_min) to sqrt(beta_max), and falls again. At T the picture is I_in, without noise.

    Args:
        steps: T.
        beta_max: beta of a schedule that would rise over all of T, as in the authors' code.
        beta_min: beta at both ends.
    """
    low = check_real("beta_min", beta_min, above=0)
    high = check_real("beta_max", beta_max, low)
    x = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    beta = (sqrt(low) + (sqrt(high) - sqrt(low)) * (1 - (2 * x - 1).abs()) / 2) ** 2 / steps
    s2 = beta.cumsum(0)
    total = s2[-1]
    return Coefficients(s2 / total, (s2 * (total - s2) / total).clamp_min(0).sqrt())


def ir_sde(steps: int, deviation: float = 20 / 255, rest: float = 0.005) -> Coefficients:
    """IR-SDE (arXiv:2301.11699), reverting to I_in: a_t = 1 - exp(-theta_t), b_t^2 = lambda^2 (1 - exp(-2 theta_t)).

    theta_t is the integral of 1 - cos^2(pi (s + 0.008) / 2.016), the authors' cosine schedule, scaled so that
    exp(-theta_T) = `rest`.

    Args:
        steps: T, 100 in the paper.
        deviation: lambda, of the noise of the degraded picture, in the unit of [-1, 1] (10 of 255 grey levels there).
        rest: what is left of the clean picture at the end.
    """
    deviation = check_real("deviation", deviation, above=0)
    rest = check_real("rest", rest, above=0, maximum=0.5)
    s = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    theta = (1 - torch.cos(pi * (s + 0.008) / 2.016) ** 2).cumsum(0)
    theta = -log(rest) * theta / theta[-1]
    return Coefficients(-torch.expm1(-theta), deviation * (-torch.expm1(-2 * theta)).sqrt())


PROCESSES: Mapping[str, Callable[..., Coefficients]] = {
    "rddm": rddm,
    "resshift": resshift,
    "indi": indi,
    "i2sb": i2sb,
    "ir_sde": ir_sde,
}
"""What `RDDMScheduler` takes as `process`, called with T and arguments by name."""


def in_stages(coefficients: Coefficients, removal_order: str) -> Coefficients:
    """The same scales along a path that removes the residual and the noise one after the other.

    "residual_first" keeps b_t = b_T while a_t falls to 0 in the first half of the way back, then b_t falls;
    "noise_first" keeps a_t = a_T first. "both" is the path as it is.

    Raises:
        UnknownNameError: another order.
    """
    if removal_order == "both":
        return coefficients
    if removal_order not in ("residual_first", "noise_first"):
        raise unknown_name("removal_order", removal_order, ("both", "residual_first", "noise_first"))
    a, b = coefficients
    steps = check_int("num_train_timesteps", len(a), 2)
    twice = 2 * torch.arange(1, steps + 1)
    zero = torch.zeros(1, dtype=torch.float64)
    # In steps of 0..T: the way back goes through `early` first, while `late` stays at T.
    early, late = (twice - steps).clamp_min(0), twice.clamp_max(steps)
    order = (early, late) if removal_order == "residual_first" else (late, early)
    a, b = (torch.cat([zero, scale])[at] for scale, at in zip((a, b), order, strict=True))
    return Coefficients(a, b)


_VARIANCE_TYPES = {"resshift": "bridge", "indi": "bridge", "i2sb": "bridge", "ir_sde": "mean_reverting"}
_RDDM_OPTIONS = ("residual_schedule", "residual_power", "noise_schedule", "noise_power", "noise_scale", "grid")


class Process(NamedTuple):
    """A process and its steps.

    Attributes:
        coefficients: a_t and b_t.
        variance_type: of `rddm_variance`, unless the configuration sets another.
        of_ddpm: whether it comes from the betas of a DDPM.
    """

    coefficients: Coefficients
    variance_type: str
    of_ddpm: bool


def choose_process(config: Mapping[str, Any]) -> Process:
    """The process that the configuration of an `RDDMScheduler` describes.

    Raises:
        InvalidInputError: an option of a process other than the chosen one, or one out of range.
        UnknownNameError: an argument that the process doesn't have.
    """
    process, of_ddpm, arguments = config["process"], is_of_ddpm(config), config["process_args"]
    if arguments is not None and not isinstance(arguments, Mapping):
        raise InvalidInputError(f"process_args must be arguments by name, or None, got {arguments!r}")
    arguments = dict(arguments or {})
    _check_exclusive(config, arguments)
    steps = config["num_train_timesteps"]
    if of_ddpm:
        betas = make_betas(
            steps,
            config["beta_start"],
            config["beta_end"],
            "linear" if config["beta_schedule"] is None else config["beta_schedule"],
            config["trained_betas"],
        )
        chosen = ddim(torch.cumprod(1 - betas, dim=0))
    elif process == "rddm":
        chosen = rddm(steps, **{name: config[name] for name in _RDDM_OPTIONS})
    else:
        names = list(signature(PROCESSES[process]).parameters)[1:]
        for name in arguments:
            if name not in names:
                raise unknown_name(f"process_args of {process}", name, names)
        chosen = PROCESSES[process](steps, **arguments)
    variance_type = "mean_reverting" if of_ddpm else _VARIANCE_TYPES.get(process, "residual")
    return Process(in_stages(chosen, config["removal_order"]), variance_type, of_ddpm)


def _check_exclusive(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for options of two processes at once."""
    process, of_ddpm = config["process"], is_of_ddpm(config)
    if of_ddpm and process != "rddm":
        raise InvalidInputError(
            f"process {process!r} and the betas of a DDPM (beta_schedule={config['beta_schedule']!r}) exclude each "
            "other"
        )
    if arguments and process == "rddm":
        raise InvalidInputError(f"process_args are for another process than rddm, got {arguments}")
    if of_ddpm or process != "rddm":
        defaults = signature(rddm).parameters
        for name in _RDDM_OPTIONS:
            if config[name] != defaults[name].default:
                other = "of a DDPM" if of_ddpm else process
                raise InvalidInputError(f"{name}={config[name]!r} is for process 'rddm'; the process is {other}")
    if not of_ddpm and (config["beta_start"], config["beta_end"]) != (0.0001, 0.02):
        raise InvalidInputError(
            f"beta_start={config['beta_start']!r} and beta_end={config['beta_end']!r} are for the coefficients of a "
            "DDPM: give beta_schedule too"
        )
