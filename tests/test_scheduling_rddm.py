"""RDDM: the authors' numbers, DDIM of diffusers, closed forms of it and of its relatives, configurations, bad input."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    ScoreSdeVeScheduler,
)
from torch import Tensor

from diffusers_restore.errors import InvalidInputError, UnknownNameError
from diffusers_restore.schedulers import coefficients
from diffusers_restore.schedulers.scheduling_rddm import (
    HEADS,
    RDDMScheduler,
    RDDMSchedulerOutput,
    rddm_add_noise,
    rddm_predict,
    rddm_update,
    rddm_update_plain,
    rddm_variance,
)
from diffusers_restore.schedulers.timesteps import space_timesteps

FORMS = ("incremental", "posterior", "recompose")
VARIANCES = ("residual", "mean_reverting", "bridge")
NATURAL = {"rddm": "residual", "ddpm": "mean_reverting", "ir_sde": "mean_reverting"}  # of the others: bridge
PROCESSES = ("rddm", "ddpm", "resshift", "indi", "i2sb", "ir_sde")
Scales = tuple[float, float]


def pictures(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed), dtype=dtype) * 2 - 1


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(got: Tensor, wanted: Tensor) -> float:
    """The largest error over the largest value."""
    assert got.shape == wanted.shape
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def each(got: Tensor, wanted: Tensor) -> float:
    """The largest of the errors over their own values; what is 0 must be 0."""
    got, wanted = got.double(), wanted.double()
    assert got.shape == wanted.shape
    assert torch.equal(got[wanted == 0], wanted[wanted == 0])
    at = wanted != 0
    return float(((got[at] - wanted[at]) / wanted[at]).abs().max())


def of_process(process: str, steps: int, **options: Any) -> Any:
    """Estimates of any network, not clipped, in a process that is told by its name, a DDPM too."""
    options = {"prediction_type": "sample", "clip_sample": False, **options}
    given = {"beta_schedule": "squaredcos_cap_v2"} if process == "ddpm" else {"process": process}
    return RDDMScheduler(steps, **given, **options)


def both(scheduler: Any, t: int, u: int) -> tuple[float, float, float, float]:
    """a_t, b_t, a_u, b_u."""
    (a, b), (a_u, b_u) = scheduler.scales(t), scheduler.scales(u)
    return a, b, a_u, b_u


# The authors' numbers


def test_their_increments(shared: Path) -> None:
    arrays = np.load(shared / "golden" / "rddm" / "gen_coefficients.npz")
    for key in arrays.files:
        function, length, schedule, last = key.split("/")
        wanted, steps = torch.tensor(arrays[key]), int(length[1:])
        if function == "gen_v1":
            scale = float(last[5:])
            got = scale * coefficients.increments(steps, schedule)
            assert each(got, wanted) < 1e-14, key
        else:
            power = float(last[5:])
            got = coefficients.increments(steps, schedule, power, "v2")
            assert each(got, wanted) < 2e-6, key


AUTHORS: dict[str, dict[str, Any]] = {
    "exp2_restoration/T10/scale1": {"num_train_timesteps": 10},
    "exp2_restoration/T10/scale0.01": {"num_train_timesteps": 10, "noise_scale": 0.01},
    "exp2_restoration/T1000/scale1": {},
    "exp2_restoration/T1000/scale0.01": {"noise_scale": 0.01},
    "exp4_train/T1000/scale1": {"grid": "v2"},
    "exp6_train/T1000/scale1": {"grid": "v2"},
    "exp6_init/T1000/scale1": {"grid": "v2", "residual_power": 2.0, "noise_schedule": "average"},
    "exp0_ddim_linear/T1000": {"beta_schedule": "linear"},
    "exp0_ddim_scaled_linear/T1000": {"beta_schedule": "scaled_linear"},
    "exp0_ddim_squaredcos_cap_v2/T1000": {"beta_schedule": "squaredcos_cap_v2"},
    "exp0_ddim_linear_init/T1000": {"beta_schedule": "linear"},
    "exp0_ddim_scaled_linear_init/T1000": {"beta_schedule": "scaled_linear"},
    "exp0_ddim_squaredcos_cap_v2_init/T1000": {"beta_schedule": "squaredcos_cap_v2"},
}


def test_their_schedules_and_posteriors(shared: Path) -> None:
    arrays = np.load(shared / "golden" / "rddm" / "schedules.npz")
    assert {key.rpartition("/")[0] for key in arrays.files} == set(AUTHORS)
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for key, options in AUTHORS.items():
        wanted = {
            name: torch.tensor(arrays[f"{key}/{name}"]).double()
            for name in (
                *("alphas_cumsum", "betas2_cumsum", "betas_cumsum", "posterior_variance"),
                *("posterior_mean_coef1", "posterior_mean_coef2", "posterior_mean_coef3"),
            )
        }
        scheduler = RDDMScheduler(**options)
        # Theirs are in float32; where they are differences, their first ones have few digits.
        of_ddim = key.startswith("exp0")
        for got, name, digits in (
            (scheduler.residual_scales, "alphas_cumsum", 1e-3),
            (scheduler.noise_scales, "betas_cumsum", 3e-4),
            (scheduler.noise_scales**2, "betas2_cumsum", 6e-4),
        ):
            assert relative(got, wanted[name]) < (3e-6 if of_ddim else 1e-7), (key, name)
            assert each(got, wanted[name]) < (digits if of_ddim else 2e-7), (key, name)
        # Of DDIM from their own scales, for the same reason.
        a, b = scheduler.residual_scales, scheduler.noise_scales
        if of_ddim:
            a, b = wanted["alphas_cumsum"], wanted["betas2_cumsum"].sqrt()
        path = list(zip([*a.tolist(), 0.0], [*b.tolist(), 0.0], strict=True))
        coefs: dict[str, list[float]] = {name: [] for name in wanted if name.startswith("posterior")}
        for t in range(len(scheduler)):
            scales = *path[t], *path[t - 1]
            variance = rddm_variance(*scales, 1.0)
            coefs["posterior_variance"].append(variance)
            for i, (sample, residual, x0) in enumerate(((one, zero, zero), (zero, one, zero), (zero, zero, one)), 1):
                step = rddm_update(sample, x0, residual, zero, None, *scales, math.sqrt(variance), "posterior")
                coefs[f"posterior_mean_coef{i}"].append(float(step))
        # At t = 0 with b_t = 0 they set 0 / 0 to weights (0, 0, 1); a step from there ends in I_0 anyhow.
        first = int(b[0] == 0)
        for name, values in coefs.items():
            assert relative(torch.tensor(values[first:]), wanted[name][first:]) < 1e-6, (key, name)


def test_their_timesteps_and_new_noise(shared: Path) -> None:
    arrays = np.load(shared / "golden" / "rddm" / "timesteps_sigma.npz")
    scheduler = RDDMScheduler()
    for key in arrays.files:
        kind, _, rest = key.partition("/")
        if kind == "times":
            scheduler.set_timesteps(int(rest.partition("/n")[2]))
            assert [*scheduler.timesteps.tolist(), -1] == arrays[key].tolist()
        else:
            n, _, eta = rest.partition("/eta")
            scheduler.set_timesteps(int(n[1:]))
            timesteps = [*scheduler.timesteps.tolist(), -1]
            variances = [rddm_variance(*both(scheduler, t, u), float(eta)) for t, u in pairwise(timesteps)]
            wanted = torch.tensor(arrays[key])
            assert torch.allclose(torch.tensor(variances, dtype=torch.float64).sqrt(), wanted, rtol=1e-6, atol=0)


def test_their_losses(shared: Path) -> None:
    arrays = np.load(shared / "golden" / "rddm" / "forward_and_losses.npz")
    x0, x_in, noise = (torch.tensor(arrays[key]) for key in ("x0", "x_in", "noise"))
    types = {
        "pred_res_noise": "residual_epsilon",
        "pred_res_add_noise": "residual_sum",
        "pred_x0_noise": "sample_epsilon",
        "pred_x0_add_noise": "sample_sum",
        "pred_res": "residual",
        "pred_noise": "epsilon",
    }
    seen = 0
    for key in arrays.files:
        kind, *rest = key.split("/")
        if kind not in ("q_sample", "loss"):
            continue
        seen += 1
        scale, t = float(rest[0][5:]), torch.tensor([int(number) for number in rest[-1][1:].split("_")])
        prediction_type = types[rest[1]] if kind == "loss" else "residual"
        scheduler = RDDMScheduler(noise_scale=scale, prediction_type=prediction_type)
        x_t = scheduler.add_noise(x0, noise, t, degraded=x_in)
        if kind == "q_sample":
            assert relative(x_t, torch.tensor(arrays[key])) < 1e-6, key
            continue
        s = t.reshape(-1, 1, 1, 1)
        first = 0.6 * torch.tanh(0.7 * x_in - 0.5 * x_t + 0.2) * torch.cos(0.001 * s)
        second = 0.8 * torch.tanh(1.1 * x_t - 0.4 * x_in - 0.1 * torch.sin(0.002 * s))
        if prediction_type.endswith("sum"):
            second = first + second
        outputs = {"residual": [first], "epsilon": [second]}.get(prediction_type, [first, second])
        wrong = torch.cat(outputs, dim=1) - scheduler.get_target(x0, noise, t, degraded=x_in)
        heads = wrong.chunk(len(scheduler.heads), dim=1)
        loss = sum((head.abs() if rest[2] == "l1" else head**2).mean() for head in heads)
        assert abs(float(loss) / float(arrays[key]) - 1) < 1e-6, key
    assert seen == 2 * 4 * (6 * 2 + 1)


def test_their_estimates(shared: Path) -> None:
    arrays = {
        key: torch.tensor(value)
        for key, value in np.load(shared / "golden" / "rddm" / "forward_and_losses.npz").items()
    }
    x0, x_in, noise, x_t = (arrays[key] for key in ("x0", "x_in", "noise", "inv/x_t"))
    scheduler = RDDMScheduler()
    for i, t in enumerate(arrays["inv/t"].tolist()):
        at = slice(i, i + 1)
        a, b, *_ = scales = both(scheduler, t, t - 1)
        r, e, known = (x_in - x0)[at], noise[at], (x_t[at], x_in[at], a, b)
        assert relative(rddm_predict((r,), *known, "residual")[2], arrays["inv/noise_from_res"][at]) < 1e-6
        assert relative(rddm_predict((e,), *known, "epsilon")[0], arrays["inv/x0_from_xin_noise"][at]) < 1e-5
        assert relative(rddm_predict((r, e), *known, "residual_epsilon")[0], arrays["inv/x0_from_res_noise"][at]) < 1e-6
        variance = rddm_variance(*scales, 1.0)
        assert abs(variance / float(arrays["inv/q_posterior_var"][i]) - 1) < 1e-5
        for form, key in (("posterior", "mean"), ("incremental", "from_res_noise")):
            mean = rddm_update(x_t[at], x0[at], r, e, None, *scales, math.sqrt(variance), form)
            assert relative(mean, arrays[f"inv/q_posterior_{key}"][at]) < 1e-6


# The same by closed forms


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
@pytest.mark.parametrize("noise_scale", [1.0, 0.01])
def test_default_coefficients(steps: int, noise_scale: float) -> None:
    scheduler = RDDMScheduler(steps, noise_scale=noise_scale)
    t = torch.arange(steps, dtype=torch.float64)
    assert each(scheduler.residual_scales, (t + 1) * (2 * steps - t) / (steps * (steps + 1))) < 1e-13
    assert each(scheduler.noise_scales**2, noise_scale * (t + 1) * (t + 2) / (steps * (steps + 1))) < 1e-13
    assert scheduler.residual_scales[-1] == 1
    assert scheduler.init_noise_sigma == math.sqrt(noise_scale)
    x, z = pictures(2, 3, 4, 5), normal(2, 3, 4, 5)
    assert relative(scheduler.start(x, z), x + math.sqrt(noise_scale) * z) < 1e-15


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("grid", ["v1", "v2"])
def test_coefficients_of_a_power(grid: Any, power: float) -> None:
    steps = 7
    x = np.arange(1, 8) / 7 if grid == "v1" else np.arange(7) / 6
    rising, even, bell = x**power, np.ones(7), np.exp(-(np.arange(-3, 4) ** 2) / 2)
    kinds = {"increased": rising, "decreased": rising[::-1], "average": even, "normal": bell}
    wanted = {name: np.cumsum(kind / kind.sum()) for name, kind in kinds.items()}
    for of_residual, a in wanted.items():
        for of_noise, b2 in wanted.items():
            scheduler = RDDMScheduler(
                steps,
                residual_schedule=of_residual,
                residual_power=power,
                noise_schedule=of_noise,
                noise_power=power,
                noise_scale=0.3,
                grid=grid,
            )
            assert each(scheduler.residual_scales, torch.tensor(a)) < 1e-14
            assert each(scheduler.noise_scales, torch.tensor(0.3 * b2).sqrt()) < 1e-14


@pytest.mark.parametrize("steps", [5, 10, 100, 1000, 4000])
@pytest.mark.parametrize("power", [0.3, 1.0, 2.0, 3.0])
def test_nothing_is_left_of_the_clean_picture_where_no_residual_is_to_come(steps: int, power: float) -> None:
    scheduler = RDDMScheduler(steps, residual_power=power, grid="v2", prediction_type="epsilon", clip_sample=False)
    assert scheduler.residual_scales[-2:].tolist() == [1, 1]  # the last increment of v2 is 0
    x, e = pictures(1, 1, 2, 2), normal(1, 1, 2, 2)
    scheduler.set_timesteps(timesteps=[steps - 2, 0])
    x_t = x + scheduler.scales(steps - 2)[1] * e
    assert torch.equal(scheduler.step(e, steps - 2, x_t, x).pred_original_sample, x)


def test_a_sample_of_the_process() -> None:
    x0, x_in, noise = pictures(3, 2, 4, 5), pictures(3, 2, 4, 5, seed=1), normal(3, 2, 4, 5)
    scheduler, t = RDDMScheduler(10, noise_scale=0.5), torch.tensor([0, 4, 9])
    a = torch.tensor([20 / 110, 80 / 110, 1.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    b = torch.tensor([0.5 * 2 / 110, 0.5 * 30 / 110, 0.5], dtype=torch.float64).sqrt().reshape(-1, 1, 1, 1)
    wanted = (1 - a) * x0 + a * x_in + b * noise
    assert relative(scheduler.add_noise(x0, noise, t, degraded=x_in), wanted) < 1e-14
    assert relative(scheduler.add_noise(x0, noise, t, residual=x_in - x0), wanted) < 1e-14
    assert relative(scheduler.add_noise(x0, noise, t), (1 - a) * x0 + b * noise) < 1e-14
    assert relative(rddm_add_noise(x0, x_in - x0, noise, a, b), wanted) < 1e-14
    for i in range(3):
        at = slice(i, i + 1)
        alone = scheduler.add_noise(x0[at], noise[at], t[at], degraded=x_in[at])
        assert relative(alone, wanted[at]) < 1e-14


def test_targets() -> None:
    x0, x_in, noise, t = pictures(2, 2, 4, 5), pictures(2, 2, 4, 5, seed=1), normal(2, 2, 4, 5), torch.tensor([2, 7])
    for degraded in (x_in, None):
        r = (0 if degraded is None else x_in) - x0
        wanted = {
            "residual": [r],
            "epsilon": [noise],
            "sample": [x0],
            "residual_epsilon": [r, noise],
            "residual_sum": [r, r + noise],
            "sample_epsilon": [x0, noise],
            "sample_sum": [x0, x0 + noise],
        }
        assert set(wanted) == set(HEADS) - {"v_prediction"}
        for prediction_type, heads in wanted.items():
            scheduler = RDDMScheduler(10, prediction_type=prediction_type)
            assert torch.equal(scheduler.get_target(x0, noise, t, degraded=degraded), torch.cat(heads, dim=1))
        ddpm = DDPMScheduler(10, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
        scheduler = RDDMScheduler.from_config(ddpm.config)
        v = scheduler.get_target(x0, noise, t, degraded=degraded)
        assert relative(v, ddpm.get_velocity(x0, noise, t)) < 1e-6


def test_timesteps_are_those_of_the_authors() -> None:
    scheduler = RDDMScheduler()
    assert scheduler.timesteps.tolist() == list(range(999, -1, -1))
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [999, 799, 599, 399, 199]
    assert scheduler.num_inference_steps == 5
    for n in (1, 2, 3, 7, 250, 999, 1000):
        scheduler.set_timesteps(n)
        assert scheduler.timesteps.tolist() == [int(-1 + 1000 * k / n + 1e-9) for k in range(n, 0, -1)]
    assert len(scheduler) == 1000


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_other_spacings_are_those_of_diffusers(spacing: str, offset: int) -> None:
    ddim = DDIMScheduler(100, timestep_spacing=spacing, steps_offset=offset)
    scheduler = RDDMScheduler(100, timestep_spacing=spacing, steps_offset=offset)
    for n in (1, 2, 3, 7, 50, 99):
        ddim.set_timesteps(n)
        scheduler.set_timesteps(n)
        assert scheduler.timesteps.tolist() == ddim.timesteps.tolist()


# Formulas of a step


def numbers(seed: int) -> tuple[float, float, float, float, float]:
    """a, b, a_u, b_u, sigma of a step of no process."""
    u = torch.rand(5, generator=seeded(seed), dtype=torch.float64).tolist()
    a, b = 0.05 + 0.9 * u[0], 0.05 + u[1]
    return a, b, a * u[2], b * (0.1 + 0.9 * u[3]), 0.95 * u[4] * b * (0.1 + 0.9 * u[3])


@pytest.mark.parametrize("seed", range(5))
def test_forms_of_the_update(seed: int) -> None:
    a, b, a_u, b_u, sigma = numbers(seed)
    x, x0, r, e, z = (normal(2, 1, 3, 4, seed=i) for i in range(5))  # which don't fit together
    m = math.sqrt(b_u**2 - sigma**2)
    wanted = {
        "incremental": x - (a - a_u) * r - (b - m) * e + sigma * z,
        "posterior": m / b * x + (1 - m / b) * x0 + (a_u - a * m / b) * r + sigma * z,
        "recompose": x0 + a_u * r + m * e + sigma * z,
    }
    for form in FORMS:
        assert relative(rddm_update(x, x0, r, e, z, a, b, a_u, b_u, sigma, form), wanted[form]) < 1e-14
    assert relative(rddm_update(x, x0, r, e, z, a, b, a_u, b_u, sigma), wanted["incremental"]) < 1e-14


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("noise_scale", [0.0, 0.01, 1.0])
def test_the_update_is_the_plain_one(eta: float, noise_scale: float) -> None:
    scheduler = RDDMScheduler(12, noise_scale=noise_scale, prediction_type="residual_epsilon", clip_sample=False)
    x, x_in, r, e, z = (normal(2, 1, 3, 4, seed=i) for i in range(5))
    for t, u in ((11, 10), (11, 3), (5, 0), (7, -1)):
        scales = both(scheduler, t, u)
        wanted = rddm_update_plain(x, r, e, z, *scales, eta)
        sigma = math.sqrt(rddm_variance(*scales, eta))
        for form in FORMS:  # the estimates add up to I_t
            x0 = x - scales[0] * r - scales[1] * e
            if form != "posterior" or noise_scale > 0:  # which divides by b_t
                assert relative(rddm_update(x, x0, r, e, z, *scales, sigma, form), wanted) < 1e-12
        scheduler.set_timesteps(timesteps=[t, u] if u >= 0 else [t])
        step = scheduler.step(torch.cat([r, e], dim=1), t, x, x_in, eta=eta, variance_noise=z)
        assert relative(step.prev_sample, wanted) < 1e-12


@pytest.mark.parametrize("prediction_type", list(HEADS))
@pytest.mark.parametrize("seed", range(3))
def test_exact_outputs_give_exact_estimates_and_forms_agree(prediction_type: str, seed: int) -> None:
    a, b, a_u, b_u, sigma = numbers(seed)
    if prediction_type == "v_prediction":
        b, b_u = math.sqrt(1 - (1 - a) ** 2), math.sqrt(1 - (1 - a_u) ** 2)
        sigma = min(sigma, 0.9 * b_u)
    x0, x_in, e, z = (normal(2, 1, 3, 4, seed=10 + i) for i in range(4))
    for degraded in (x_in, 0.0):
        r = degraded - x0
        x = x0 + a * r + b * e
        exact = {
            "residual": r,
            "epsilon": e,
            "sample": x0,
            "v_prediction": (1 - a) * e - b * x0,
            "sum": (r if prediction_type == "residual_sum" else x0) + e,
        }
        outputs = tuple(exact[head] for head in HEADS[prediction_type])
        estimates = rddm_predict(outputs, x, degraded, a, b, prediction_type)
        for got, wanted in zip(estimates, (x0, r, e), strict=True):
            assert relative(got, wanted) < 1e-12
        wanted = x0 + a_u * r + math.sqrt(b_u**2 - sigma**2) * e + sigma * z
        for form in FORMS:
            assert relative(rddm_update(x, *estimates, z, a, b, a_u, b_u, sigma, form), wanted) < 1e-12
        if prediction_type.startswith("sample_"):  # of which I_0 and the noise need not fit together
            continue
        outputs = tuple(normal(2, 1, 3, 4, seed=20 + i) for i in range(len(outputs)))
        estimates = rddm_predict(outputs, x, degraded, a, b, prediction_type)
        assert relative(estimates[0] + a * estimates[1] + b * estimates[2], x) < 1e-12
        for form in FORMS[1:]:
            got, wanted = (rddm_update(x, *estimates, z, a, b, a_u, b_u, sigma, f) for f in (form, FORMS[0]))
            assert relative(got, wanted) < 1e-12


def test_what_is_clipped() -> None:
    a, b, *_ = numbers(0)
    x, x_in, o, p = (normal(2, 1, 30, 4, seed=i) for i in range(4))

    def c(value: Tensor) -> Tensor:
        return value.clamp(-0.7, 0.7)

    def k(value: Tensor) -> Tensor:
        return value.clamp(-0.9, 0.9)

    def of_residual(r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return c(x_in - r), r, (x - x_in + (1 - a) * r) / b

    def of_noise(x0: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return c(x0), k(x_in - c(x0)), e

    shifted = x - a * x_in
    wanted = {
        "residual_epsilon": (c(x - a * k(o) - b * p), k(o), p),
        "residual_sum": (c(x - a * k(o) - b * (p - o)), k(o), p - o),
        "sample_epsilon": (c(o), k(x_in - o), p),
        "sample_sum": (c(o), k(x_in - o), p - o),
        "residual": of_residual(k(o)),
        "sample": of_residual(k(x_in - o)),
        "epsilon": of_noise((shifted - b * o) / (1 - a), o),
        "v_prediction": of_noise((1 - a) * shifted - b * o, b * shifted + (1 - a) * o),
    }
    assert set(wanted) == set(HEADS)
    for prediction_type, estimates in wanted.items():
        outputs = (o, p)[: len(HEADS[prediction_type])]
        got = rddm_predict(outputs, x, x_in, a, b, prediction_type, 0.7, 0.9)
        for one, other in zip(got, estimates, strict=True):
            assert relative(one, other) < 1e-13, prediction_type


def test_a_scheduler_clips_as_it_is_told() -> None:
    x, x_in, r = 2 * normal(1, 1, 8, 8), pictures(1, 1, 8, 8), 3 * normal(1, 1, 8, 8, seed=1)
    for clip, x0_range, r_range in ((True, 1.0, 2.0), (True, 0.5, 1.5), (False, 0.5, 1.5)):
        scheduler = RDDMScheduler(10, clip_sample=clip, clip_sample_range=x0_range, clip_residual_range=r_range)
        output = scheduler.step(r, 5, x, x_in)
        clipped = r.clamp(-r_range, r_range) if clip else r
        x0 = (x_in - clipped).clamp(-x0_range, x0_range) if clip else x_in - r
        assert torch.equal(output.pred_residual, clipped)
        assert torch.equal(output.pred_original_sample, x0)


@pytest.mark.parametrize("prediction_type", list(HEADS))
@pytest.mark.parametrize("clip", [None, 1.0])
def test_what_a_process_hides_is_guarded(prediction_type: str, clip: float | None) -> None:
    x, x_in, o, p = (normal(2, 1, 3, 4, seed=i) for i in range(4))
    for a in (0.0, 0.4, 1.0):
        for b in (0.0, 0.3):
            for degraded in (x_in, 0.0):
                outputs = (o, p)[: len(HEADS[prediction_type])]
                got = rddm_predict(outputs, x, degraded, a, b, prediction_type, clip, clip)
                assert all(value.shape == x.shape for value in got)
                assert all(bool(value.isfinite().all()) for value in got)
                for form in FORMS:
                    assert bool(rddm_update(x, *got, None, a, b, a / 2, b / 2, 0.0, form).isfinite().all())
    if prediction_type in ("residual", "sample"):
        x0, r, e = rddm_predict((o,), x, x_in, 0.4, 0.0, prediction_type)
        assert not e.any()
        assert relative(x0, x_in - r) < 1e-15
    if prediction_type == "epsilon":
        x0, r, e = rddm_predict((o,), x, 0.5 * x_in, 1.0, 0.3, prediction_type)
        assert torch.equal(x0, 0.5 * x_in)
        assert not r.any()
        assert torch.equal(e, o)
        assert relative(rddm_predict((o,), x, x_in, 1.0, 0.3, prediction_type, 0.6)[0], x_in.clamp(-0.6, 0.6)) < 1e-15


@pytest.mark.parametrize("process", PROCESSES)
def test_new_noise_is_that_of_the_markov_chain(process: str) -> None:
    """Of I_u given I_t and I_0 by Gaussian conditioning; with less eta, a share of it."""
    scheduler = of_process(process, 30)
    for t in (29, 17, 5):
        for u in (t - 1, t // 2, 0):
            (a, b), (a_u, b_u) = scheduler.scales(t), scheduler.scales(u)
            k = (1 - a) / (1 - a_u)
            for variance_type, covariance in (
                ("residual", b_u**2),
                ("mean_reverting", k * b_u**2),
                ("bridge", a_u / a * b**2),
            ):
                if b == 0:
                    continue
                wanted = b_u**2 - covariance**2 / b**2
                for eta, share in ((1.0, 1.0), (0.5, 0.5 if variance_type == "residual" else 0.25), (0.0, 0.0)):
                    got = rddm_variance(a, b, a_u, b_u, eta, variance_type)
                    assert abs(got - share * max(0.0, wanted)) < 1e-13 * b_u**2
                    assert 0 <= got <= b_u**2
    assert rddm_variance(*both(scheduler, 29, 8)) == 0


def test_what_is_rounding_is_not_noise() -> None:
    scheduler = of_process("indi", 1000)
    for n in (1000, 10, 7):
        scheduler.set_timesteps(n)
        for t, u in pairwise(scheduler.timesteps.tolist()):
            assert rddm_variance(*both(scheduler, t, u), 1.0, "bridge") == 0


def test_a_step_is_its_formula() -> None:
    x, x_in, o, z = normal(2, 3, 4, 5), pictures(2, 3, 4, 5), normal(2, 6, 4, 5, seed=1), normal(2, 3, 4, 5, seed=2)
    wanted_scales = [20 / 110, 54 / 110, 80 / 110], [math.sqrt(i / 110) for i in (2, 12, 30)]  # of t = 0, 2, 4
    a_u, a, b_u, b = wanted_scales[0][1], wanted_scales[0][2], wanted_scales[1][1], wanted_scales[1][2]
    r, e = o.chunk(2, dim=1)
    scheduler = RDDMScheduler(10, prediction_type="residual_epsilon", clip_sample=False)
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [9, 7, 5, 3, 1]
    scheduler.set_timesteps(timesteps=[4, 2, 0])
    sigma2 = 0.6 * (b**2 - b_u**2) * b_u**2 / b**2
    wanted = x - (a - a_u) * r - (b - math.sqrt(b_u**2 - sigma2)) * e + math.sqrt(sigma2) * z
    for timestep in (4, torch.tensor(4), torch.tensor([4]), np.int64(4)):
        output = scheduler.step(o, timestep, x, x_in, eta=0.6, variance_noise=z)
        assert isinstance(output, RDDMSchedulerOutput)
        assert relative(output.prev_sample, wanted) < 1e-14
        assert relative(output.pred_original_sample, x - a * r - b * e) < 1e-14
        assert torch.equal(output.pred_residual, r)
        assert torch.equal(output.pred_epsilon, e)
    as_tuple = scheduler.step(o, 4, x, x_in, eta=0.6, variance_noise=z, return_dict=False)
    assert isinstance(as_tuple, tuple)
    for got, of_output in zip(as_tuple, output.to_tuple(), strict=True):
        assert torch.equal(got, of_output)
    plain = scheduler.step(o, 4, x, x_in).prev_sample  # eta = 0
    assert relative(plain, x - (a - a_u) * r - (b - b_u) * e) < 1e-14


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_last_step_gives_the_estimate(process: str, eta: float) -> None:
    x, x_in, o = normal(2, 3, 4, 5), pictures(2, 3, 4, 5), 2 * normal(2, 3, 4, 5, seed=1)
    for clip in (True, False):
        scheduler = of_process(process, 12, clip_sample=clip)
        for timesteps in ([0], [11], [7, 3]):
            scheduler.set_timesteps(timesteps=timesteps)
            output = scheduler.step(o, timesteps[-1], x, x_in, eta=eta, generator=seeded())
            wanted = (x_in - (x_in - o).clamp(-2, 2)).clamp(-1, 1) if clip else o
            assert relative(output.prev_sample, wanted) < 1e-14
            assert torch.equal(output.prev_sample, output.pred_original_sample)


@pytest.mark.parametrize("prediction_type", [name for name in HEADS if name != "v_prediction"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_train_timesteps": 1},
        {"noise_scale": 0.0},
        {"grid": "v2"},
        {"grid": "v2", "noise_scale": 0.0},
        {"grid": "v2", "residual_schedule": "increased", "noise_schedule": "decreased"},
        {"removal_order": "residual_first", "time_embedding": "cumulative"},
        {"removal_order": "noise_first", "time_embedding": "cumulative"},
        {"removal_order": "residual_first", "time_embedding": "cumulative", "variance_type": "bridge"},
        {"removal_order": "noise_first", "time_embedding": "cumulative", "variance_type": "mean_reverting"},
        {"process": "i2sb"},
        {"process": "indi"},
    ],
    ids=str,
)
def test_every_chain_is_finite(options: dict[str, Any], prediction_type: Any) -> None:
    for form in FORMS:
        options = {"num_train_timesteps": 10, **options}
        scheduler = RDDMScheduler(**options, prediction_type=prediction_type, update_form=form)
        x_in = pictures(2, 1, 3, 4, dtype=torch.float32)
        for eta in (0.0, 1.0):
            x, generator = scheduler.start(x_in, normal(2, 1, 3, 4, dtype=torch.float32)), seeded()
            for t in scheduler.timesteps:
                output = torch.cat([torch.tanh(x), x.roll(1, dims=3)][: len(scheduler.heads)], dim=1)
                x, *estimates = scheduler.step(output, t, x, x_in, eta, generator, return_dict=False)
                assert all(bool(value.isfinite().all()) for value in (x, *estimates))
            assert float(x.abs().max()) <= 1


# DDIM


def ddim_and_rddm(update_form: str | None = None, **options: Any) -> tuple[Any, Any]:
    ddim = DDIMScheduler(**options)
    rddm = RDDMScheduler.from_config(ddim.config, update_form=update_form)
    ddim.alphas_cumprod = torch.cumprod(1 - ddim.betas.double(), dim=0)
    ddim.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return ddim, rddm


BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"num_train_timesteps": 200, "trained_betas": [0.001 + 0.05 * (i / 200) ** 2 for i in range(200)]},
}


@pytest.mark.parametrize("betas", list(BETAS))
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_it_is_ddim(betas: str, spacing: str, prediction_type: str) -> None:
    for clip, use_clipped in [(False, False), (True, False), (True, True)]:
        ddim, rddm = ddim_and_rddm(
            "posterior" if use_clipped else None,
            **BETAS[betas],
            timestep_spacing=spacing,
            prediction_type=prediction_type,
            clip_sample=clip,
        )
        ddim.set_timesteps(20)
        rddm.set_timesteps(20)
        assert rddm.timesteps.tolist() == ddim.timesteps.tolist()
        for eta in (0.0, 0.5, 1.0):
            x = y = normal(2, 3, 4, 5)
            clipped, worst = False, 0.0
            for i, t in enumerate(ddim.timesteps.tolist()):
                noise, code = normal(2, 3, 4, 5, seed=i), 0.1 * t / len(rddm)
                step = ddim.step(
                    torch.sin(x) + code,
                    t,
                    x,
                    eta=eta,
                    use_clipped_model_output=use_clipped,
                    variance_noise=noise if eta else None,
                )
                output = rddm.step(torch.sin(y) + code, t, y, eta=eta, variance_noise=noise)
                x, y = step.prev_sample, output.prev_sample
                clipped |= bool((output.pred_original_sample.abs() == 1).any())
                worst = max(worst, relative(y, x), relative(output.pred_original_sample, step.pred_original_sample))
            assert worst < 1e-10
            assert clipped == clip


@pytest.mark.parametrize("total", [10, 1000])
def test_any_number_of_trailing_steps_is_that_number(total: int) -> None:
    for count in range(1, total + 1):
        steps = space_timesteps(count, total, "trailing")
        assert len(steps) == count
        assert steps[-1] >= 0


@pytest.mark.parametrize("clip_sample_range", [0.5, 3.0])
def test_it_is_ddim_in_another_range(clip_sample_range: float) -> None:
    ddim, rddm = ddim_and_rddm(beta_schedule="squaredcos_cap_v2", clip_sample_range=clip_sample_range)
    ddim.set_timesteps(10)
    rddm.set_timesteps(10)
    x = y = normal(2, 3, 8, 8)
    largest = 0.0
    for t in ddim.timesteps.tolist():
        x = ddim.step(3 * torch.sin(3 * x), t, x).prev_sample
        output = rddm.step(3 * torch.sin(3 * y), t, y)
        y, largest = output.prev_sample, max(largest, float(output.pred_residual.abs().max()))
        assert relative(y, x) < 1e-10
    assert largest == clip_sample_range  # a residual is -I_0 here


def test_a_degraded_picture_only_shifts_it() -> None:
    """A network of noise that is fed with I_t - a_t I_in restores I_0 - I_in."""
    scheduler = of_process("ddpm", 50, prediction_type="epsilon", timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    x_in = pictures(1, 3, 4, 5)
    x = normal(1, 3, 4, 5)
    y = x + scheduler.scales(49)[0] * x_in
    for t, u in pairwise([*scheduler.timesteps.tolist(), -1]):
        y = scheduler.step(torch.sin(y - scheduler.scales(t)[0] * x_in), t, y, x_in).prev_sample
        x = scheduler.step(torch.sin(x), t, x).prev_sample
        if u >= 0:
            assert relative(y - scheduler.scales(u)[0] * x_in, x) < 1e-12
    a_t = scheduler.scales(4)[0]
    assert scheduler.timesteps[-1] == 4
    assert a_t > 0
    assert relative(y, x) < 1e-12


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(50, beta_start=0.001, beta_end=0.03, beta_schedule="scaled_linear", variance_type="fixed_small"),
        DDPMScheduler(50, variance_type="fixed_large", clip_sample_range=0.8, prediction_type="sample"),
        DDPMScheduler(50, variance_type="learned_range", beta_schedule="sigmoid", beta_end=0.02),
        DDIMScheduler(50, steps_offset=1, timestep_spacing="trailing", prediction_type="v_prediction"),
        DDIMScheduler(50, clip_sample=False, trained_betas=[0.01 + 0.001 * i for i in range(50)]),
        PNDMScheduler(50, beta_schedule="squaredcos_cap_v2", steps_offset=1),
        EulerDiscreteScheduler(50, beta_schedule="scaled_linear", timestep_spacing="linspace"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedulers_of_diffusers_become_it(scheduler: Any, tmp_path: Path) -> None:
    scheduler.save_pretrained(tmp_path)
    abar = torch.cumprod(1 - scheduler.betas.double(), dim=0)
    named = {**scheduler.config, "_class_name": type(scheduler).__name__}
    for rddm in (
        RDDMScheduler.from_config(scheduler.config),
        RDDMScheduler.from_config(named),
        RDDMScheduler.from_pretrained(tmp_path),
    ):
        assert isinstance(rddm, RDDMScheduler)
        assert relative(rddm.residual_scales, 1 - abar.sqrt()) < 1e-14
        assert relative(rddm.noise_scales, (1 - abar).sqrt()) < 1e-14
        assert rddm.init_noise_sigma == 1
        config = scheduler.config
        for name in ("prediction_type", "timestep_spacing", "num_train_timesteps"):
            assert rddm.config[name] == config[name]
        assert rddm.config.steps_offset == config.get("steps_offset", 0)
        assert rddm.config.clip_sample == config.get("clip_sample", False)
        assert rddm.config.clip_sample_range == config.get("clip_sample_range", 1.0)
        assert rddm.config.clip_residual_range == 2 * config.get("clip_sample_range", 1.0)
        assert rddm.config.variance_type == config.get("variance_type")  # for who makes a DDPM of it again
        again = RDDMScheduler.from_config(rddm.config)
        assert torch.equal(again.residual_scales, rddm.residual_scales)
        # Of a DDPM with eta = 1, sigma^2 = (1 - abar_u) / (1 - abar_t) (1 - abar_t / abar_u).
        t, u = 30, 20
        x, o, z = normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1), normal(1, 1, 2, 2, seed=2)
        rddm.set_timesteps(timesteps=[t, u])
        with_z, without = (rddm.step(o, t, x, eta=1.0, variance_noise=noise).prev_sample for noise in (z, 0 * z))
        sigma = ((1 - abar[u]) / (1 - abar[t]) * (1 - abar[t] / abar[u])).sqrt()
        assert relative(with_z - without, sigma * z) < 1e-12


def test_what_old_files_leave_out_is_that_of_a_ddpm() -> None:
    for clips in ("DDPMScheduler", "DDIMScheduler"):
        scheduler = RDDMScheduler.from_config({"_class_name": clips})
        assert scheduler.config.prediction_type == "epsilon"
        assert scheduler.config.clip_sample is True
        assert scheduler.config.timestep_spacing == "leading"
        abar = DDPMScheduler().alphas_cumprod.double()
        assert relative(scheduler.residual_scales, 1 - abar.sqrt()) < 1e-6
    assert RDDMScheduler.from_config({"_class_name": "PNDMScheduler"}).config.clip_sample is False
    # Options of its own are of no DDPM.
    own = RDDMScheduler.from_config({"num_train_timesteps": 20, "noise_scale": 0.01})
    assert torch.equal(own.noise_scales, RDDMScheduler(20, noise_scale=0.01).noise_scales)
    assert (own.config.prediction_type, own.config.timestep_spacing) == ("residual", "rddm")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ScoreSdeVeScheduler().config, "not one of a variance-preserving process"),
        (FlowMatchEulerDiscreteScheduler().config, "not one of a variance-preserving process"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler is not one of"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler is not one of"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "CMStochasticIterativeScheduler is not one of"),
        (DDIMScheduler(thresholding=True).config, "thresholding=True is not supported"),
        (DDIMScheduler(rescale_betas_zero_snr=True).config, "rescale_betas_zero_snr=True is not supported"),
        (EulerDiscreteScheduler(rescale_betas_zero_snr=True).config, "rescale_betas_zero_snr=True is not supported"),
        (
            {**DDPMScheduler().config, "prediction_type": "flow_prediction"},
            "no prediction_type named 'flow_prediction'",
        ),
        (None, "config must be the configuration of a scheduler, a mapping, got None"),
        ("google/ddpm-cifar10-32", "config must be .* got 'google/ddpm-cifar10-32'"),
    ],
)
def test_other_schedulers_are_refused(config: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        RDDMScheduler.from_config(config)


# Chains, by closed forms


def axes(count: int) -> list[Tensor]:
    """Independent noises as orthogonal vectors, after a picture for the mean, which has none: (2, 1, 1, count) each."""
    basis = torch.eye(count, dtype=torch.float64)
    return [torch.stack([torch.zeros(count, dtype=torch.float64), one]).reshape(2, 1, 1, count) for one in basis]


def levels(mean: float, count: int) -> Tensor:
    """A constant for the mean, none for the noises."""
    return torch.tensor([mean, 0.0], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 1, 1, count)


def moments(state: Tensor) -> tuple[float, float]:
    """Of a chain run on `axes`: its mean and its variance."""
    return float(state[0, 0, 0, 0]), float((state[1] ** 2).sum())


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("variance_type", VARIANCES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_with_the_true_picture_every_step_has_the_marginals(process: str, variance_type: Any, eta: float) -> None:
    x0, x_in = 0.3, -0.8
    for form in FORMS:
        scheduler = of_process(process, 30, variance_type=variance_type, update_form=form)
        # At its end a Brownian bridge has no noise to keep a share of.
        timesteps = [28, 25, 17, 16, 9, 3, 0] if process == "i2sb" else [29, 25, 17, 16, 9, 3, 0]
        scheduler.set_timesteps(timesteps=timesteps)
        noises = axes(len(timesteps))
        states = [levels((1 - scheduler.scales(timesteps[0])[0]) * x0 + scheduler.scales(timesteps[0])[0] * x_in, 7)]
        states[0] = states[0] + scheduler.scales(timesteps[0])[1] * noises[0]
        for t, noise in zip(timesteps[:-1], noises[1:], strict=True):
            step = scheduler.step(levels(x0, 7), t, states[-1], levels(x_in, 7), eta=eta, variance_noise=noise)
            states.append(step.prev_sample)
        for t, state in zip(timesteps, states, strict=True):
            a, b = scheduler.scales(t)
            mean, variance = moments(state)
            assert abs(mean - ((1 - a) * x0 + a * x_in)) < 1e-13
            assert abs(variance / b**2 - 1) < 1e-11
        if eta == 1 and variance_type == NATURAL.get(process, "bridge"):
            for (t, before), (u, after) in pairwise(zip(timesteps, states, strict=True)):
                (a, b), (a_u, b_u) = scheduler.scales(t), scheduler.scales(u)
                covariance = {  # of the forward chain, in which I_t comes of I_u
                    "residual": b_u**2,
                    "mean_reverting": (1 - a) / (1 - a_u) * b_u**2,
                    "bridge": a_u / a * b**2,
                }[variance_type]
                assert abs(float((before[1] * after[1]).sum()) / covariance - 1) < 1e-11


def test_forward_chains_have_the_marginals() -> None:
    """RDDM adds alpha_t I_res and beta_t epsilon in each step; a DDPM shrinks I_t and adds noise."""
    steps, x0, x_in = 12, 0.3, -0.8
    rddm = RDDMScheduler(steps, noise_scale=0.4)
    ddpm = RDDMScheduler.from_config(DDPMScheduler(steps, beta_schedule="squaredcos_cap_v2").config)
    betas = DDPMScheduler(steps, beta_schedule="squaredcos_cap_v2").betas.tolist()
    mean, variance, shrunk, noise = x0, 0.0, 1.0, 0.0
    for t in range(steps):
        mean += 2 * (steps - t) / (steps * (steps + 1)) * (x_in - x0)
        variance += 0.4 * 2 * (t + 1) / (steps * (steps + 1))
        a, b = rddm.scales(t)
        assert abs(mean - ((1 - a) * x0 + a * x_in)) < 1e-14
        assert abs(variance - b**2) < 1e-14
        shrunk, noise = shrunk * math.sqrt(1 - betas[t]), (1 - betas[t]) * noise + betas[t]
        a, b = ddpm.scales(t)
        assert abs(1 - a - shrunk) < 1e-14
        assert abs(b**2 - noise) < 1e-14


def best(x: Tensor, x_in: Tensor, scales: Scales, mean: Tensor, variance: float) -> Tensor:
    """E[I_0 | I_t] for I_0 ~ N(mean, variance) of every pixel."""
    a, b = scales
    gain = (1 - a) * variance / ((1 - a) ** 2 * variance + b**2)
    return mean + gain * (x - (1 - a) * mean - a * x_in)


@pytest.mark.parametrize("process", ["rddm", "ddpm", "resshift", "ir_sde"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [5, 12])
def test_a_gaussian_prior_makes_a_chain_affine(process: str, eta: float, count: int) -> None:
    mu, s2, x_in = 0.25, 0.09, -0.4
    scheduler = of_process(process, 12, timestep_spacing="trailing")
    scheduler.set_timesteps(count)
    timesteps = scheduler.timesteps.tolist()
    noises, known = axes(count), levels(x_in, count)
    state = levels(x_in, count) + scheduler.scales(11)[1] * noises[0]
    mean, variance = x_in, scheduler.scales(11)[1] ** 2
    for i, (t, u) in enumerate(pairwise([*timesteps, -1])):
        x0 = best(state, known, scheduler.scales(t), levels(mu, count), s2)
        noise = noises[i + 1] if u >= 0 else None
        state = scheduler.step(x0, t, state, known, eta=eta, variance_noise=noise).prev_sample
        # The same, as I_u = p I_t + q + sigma z: written out with the formulas of the paper.
        (a, b), (a_u, b_u) = scheduler.scales(t), scheduler.scales(u)
        if u < 0:
            sigma2 = 0.0
        elif process == "rddm":
            sigma2 = eta * (b**2 - b_u**2) * b_u**2 / b**2
        elif process == "resshift":
            sigma2 = eta**2 * a_u / a * (b**2 - b_u**2)
        else:  # 1 - a is exp(-theta), or sqrt(abar)
            k = (1 - a) / (1 - a_u)
            sigma2 = eta**2 * b_u**2 / b**2 * (b**2 - k**2 * b_u**2)
        gain = (1 - a) * s2 / ((1 - a) ** 2 * s2 + b**2)
        offset = mu - gain * ((1 - a) * mu + a * x_in)  # E[I_0 | I_t] = gain I_t + offset
        q = math.sqrt(b_u**2 - sigma2) / b
        of_x0 = 1 - q - (a_u - q * a)
        mean = (q + of_x0 * gain) * mean + of_x0 * offset + (a_u - q * a) * x_in
        variance = (q + of_x0 * gain) ** 2 * variance + sigma2
        got = moments(state)
        assert abs(got[0] - mean) < 1e-13
        assert abs(got[1] / variance - 1) < 1e-12


@pytest.mark.parametrize("process", ["rddm", "ddpm", "resshift", "indi", "i2sb", "ir_sde"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_long_chains_draw_from_a_gaussian_prior(process: str, eta: float) -> None:
    """With the exact E[I_0 | I_t], a chain from the marginal at its start ends in the prior, whatever the process."""
    mu, s2, x_in, steps = 0.25, 0.09, -0.4, 400
    options = {"indi": {"epsilon": 0.5}, "resshift": {"kappa": 0.5}, "ir_sde": {"deviation": 0.5}}.get(process)
    scheduler = of_process(process, steps, process_args=options)
    first = steps - 1 if process not in ("i2sb", "indi") else steps - 2  # where these are all but deterministic
    scheduler.set_timesteps(timesteps=range(first, -1, -1))
    a, b = scheduler.scales(first)
    noises, known = axes(2), levels(x_in, 2)
    state = levels((1 - a) * mu + a * x_in, 2) + math.sqrt((1 - a) ** 2 * s2 + b**2) * noises[0]
    # Old and new noise are independent: their variances are summed into the first axis.
    for t in scheduler.timesteps.tolist():
        x0 = best(state, known, scheduler.scales(t), levels(mu, 2), s2)
        state = scheduler.step(x0, t, state, known, eta=eta, variance_noise=noises[1]).prev_sample
        mean, variance = moments(state)
        state = levels(mean, 2) + math.sqrt(variance) * noises[0]
    mean, variance = moments(state)
    assert abs(mean / mu - 1) < 1e-12
    assert -0.04 < variance / s2 - 1 < 0  # by the length of a step


# The relatives, each by its own paper


def one_step(process: str, t: int, u: int, options: dict[str, Any], eta: float = 1.0) -> tuple[Tensor, ...]:
    """(I_t, I_0, I_in, z, I_u) with an estimate of I_0 that the step takes as it is."""
    scheduler = of_process(process, 15, process_args=options)
    scheduler.set_timesteps(timesteps=[t, u])
    x, x0, x_in, z = normal(1, 2, 3, 4), pictures(1, 2, 3, 4), pictures(1, 2, 3, 4, seed=1), normal(1, 2, 3, 4, seed=1)
    return x, x0, x_in, z, scheduler.step(x0, t, x, x_in, eta=eta, variance_noise=z).prev_sample


STEPS = [(14, 13), (14, 6), (9, 2), (5, 4), (1, 0)]


def test_resshift() -> None:
    """q(x_u | x_t, x_0), and the geometric sequence of sqrt(eta_1), ..., sqrt(eta_T)."""
    for kappa, p, given in ((2.0, 0.3, {}), (1.0, 0.8, {"kappa": 1.0, "power": 0.8}), (40.0, 0.3, {"kappa": 40.0})):
        first, last = min((0.04 / kappa) ** 2, 0.001), 0.999
        growth = math.exp(math.log(last / first) / (2 * 14))
        eta = [(math.sqrt(first) * growth ** (((t - 1) / 14) ** p * 14)) ** 2 for t in range(1, 16)]
        scheduler = of_process("resshift", 15, process_args=given)
        for t in range(15):
            assert abs(scheduler.scales(t)[0] / eta[t] - 1) < 1e-13
            assert abs(scheduler.scales(t)[1] / (kappa * math.sqrt(eta[t])) - 1) < 1e-13
        for t, u in STEPS:
            x, x0, _, z, got = one_step("resshift", t, u, given)
            wanted = eta[u] / eta[t] * x + (1 - eta[u] / eta[t]) * x0
            wanted = wanted + kappa * math.sqrt(eta[u] / eta[t] * (eta[t] - eta[u])) * z
            assert relative(got, wanted) < 1e-12
    given = {"eta_first": 0.01, "eta_last": 0.9}
    ends = of_process("resshift", 15, process_args=given).residual_scales[[0, -1]].tolist()
    assert max(abs(ends[0] - 0.01), abs(ends[1] - 0.9)) < 1e-14
    assert of_process("resshift", 1).scales(0) == (0.999, 2 * math.sqrt(0.999))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_indi(eta: float) -> None:
    """x_{t-d} = d/t E[x_0 | x_t] + (1 - d/t) x_t, with noise in proportion to t."""
    scheduler = of_process("indi", 15)
    for t in range(15):
        assert abs(scheduler.scales(t)[0] - (t + 1) / 15) < 1e-15
        assert abs(scheduler.scales(t)[1] - 0.01 * (t + 1) / 15) < 1e-15
    assert abs(of_process("indi", 15, process_args={"epsilon": 0.3}).scales(4)[1] - 0.1) < 1e-15
    for t, u in STEPS:
        x, x0, _, _, got = one_step("indi", t, u, {}, eta)
        part = (t - u) / (t + 1)
        assert relative(got, part * x0 + (1 - part) * x) < 1e-12


def test_i2sb() -> None:
    """The posterior of a Brownian bridge, equations 4 and 11, with s^2 the integral of beta."""
    for low, high, given in ((0.1, 0.3, {}), (0.2, 0.2, {"beta_min": 0.2, "beta_max": 0.2})):
        middle = [(i + 0.5) / 15 for i in range(15)]
        root = [math.sqrt(low) + (math.sqrt(high) - math.sqrt(low)) * min(x, 1 - x) for x in middle]
        s2 = np.cumsum([value**2 / 15 for value in root])
        rest = s2[-1] - s2
        scheduler = of_process("i2sb", 15, process_args=given)
        for t in range(15):
            a, b = scheduler.scales(t)
            assert abs(a - s2[t] / (s2[t] + rest[t])) < 1e-14
            assert abs(b**2 - s2[t] * rest[t] / (s2[t] + rest[t])) < 1e-14
        assert scheduler.scales(14) == (1.0, 0.0)
        for t, u in STEPS:
            x, x0, x_in, z, got = one_step("i2sb", t, u, given)
            x = x_in if t == 14 else x  # where a bridge ends
            between = s2[t] - s2[u]
            wanted = between / s2[t] * x0 + s2[u] / s2[t] * x + math.sqrt(between * s2[u] / s2[t]) * z
            if t == 14:
                scheduler.set_timesteps(timesteps=[t, u])
                got = scheduler.step(x0, t, x, x_in, eta=1.0, variance_noise=z).prev_sample
            assert relative(got, wanted) < 1e-12


def test_ir_sde() -> None:
    """dx = theta_t (I_in - x) dt + sigma_t dw with sigma_t^2 = 2 lambda^2 theta_t: I_u given I_t and I_0."""
    for deviation, rest, given in ((20 / 255, 0.005, {}), (0.3, 0.02, {"deviation": 0.3, "rest": 0.02})):
        rates = np.sin(np.pi * (np.arange(1, 16) / 15 + 0.008) / 2.016) ** 2
        theta = -math.log(rest) * np.cumsum(rates) / rates.sum()
        scheduler = of_process("ir_sde", 15, process_args=given)
        for t in range(15):
            a, b = scheduler.scales(t)
            assert abs(a - (1 - math.exp(-theta[t]))) < 1e-14
            assert abs(b / (deviation * math.sqrt(1 - math.exp(-2 * theta[t]))) - 1) < 1e-13
        assert abs(1 - scheduler.scales(14)[0] - rest) < 1e-14
        for t, u in STEPS:
            x, x0, x_in, z, got = one_step("ir_sde", t, u, given)
            decay = math.exp(-(theta[t] - theta[u]))
            mean_u = x_in + (x0 - x_in) * math.exp(-theta[u])
            mean_t = x_in + (mean_u - x_in) * decay
            of_u = deviation**2 * (1 - math.exp(-2 * theta[u]))
            of_t = decay**2 * of_u + deviation**2 * (1 - decay**2)
            both = decay * of_u
            wanted = mean_u + both / of_t * (x - mean_t) + math.sqrt(of_u - both**2 / of_t) * z
            assert relative(got, wanted) < 1e-12


# Orders of removal, time codes


def test_orders_of_removal() -> None:
    """Of T = 6, from t = 5 down to 0 and then the clean picture, in steps of 0..T of the path that removes both."""
    own: dict[str, Any] = {"num_train_timesteps": 6, "time_embedding": "cumulative", "noise_scale": 0.25}
    plain = RDDMScheduler(**own)
    assert torch.equal(plain.residual_scales, RDDMScheduler(6, noise_scale=0.25).residual_scales)
    assert torch.equal(plain.noise_scales, RDDMScheduler(6, noise_scale=0.25).noise_scales)
    assert each(plain.residual_scales, torch.tensor([12, 22, 30, 36, 40, 42]).double() / 42) < 1e-14
    falling, still = [6, 4, 2, 0, 0, 0], [6, 6, 6, 6, 4, 2]
    for order, of_a, of_b in (("residual_first", falling, still), ("noise_first", still, falling)):
        scheduler = RDDMScheduler(**own, removal_order=order)
        for t, i, j in zip(range(5, -1, -1), of_a, of_b, strict=True):
            a, b = scheduler.scales(t)
            assert abs(a - i * (13 - i) / 42) < 1e-14
            assert abs(b - 0.5 * math.sqrt(j * (j + 1) / 42)) < 1e-14
        assert scheduler.scales(-1) == (0, 0)
        assert scheduler.init_noise_sigma == 0.5
    odd = RDDMScheduler(5, time_embedding="cumulative", removal_order="residual_first")
    assert each(odd.residual_scales, torch.tensor([0, 0, 5, 12, 15]).double() / 15) < 1e-14
    assert each(odd.noise_scales**2, torch.tensor([6, 20, 30, 30, 30]).double() / 30) < 1e-14
    given = coefficients.rddm(5)
    assert coefficients.in_stages(given, "both") is given


@pytest.mark.parametrize("order", ["residual_first", "noise_first"])
def test_a_clean_run_in_two_stages(order: Any) -> None:
    """One part of the picture after the other goes, and with true estimates the picture comes out."""
    scheduler = RDDMScheduler(
        40, prediction_type="residual_epsilon", removal_order=order, time_embedding="cumulative", clip_sample=False
    )
    x0, x_in, e = pictures(1, 1, 3, 4), pictures(1, 1, 3, 4, seed=1), normal(1, 1, 3, 4)
    scheduler.set_timesteps(8)
    x = scheduler.start(x_in, e)
    for t in scheduler.timesteps.tolist():
        a, b = scheduler.scales(t)
        assert relative(x, x0 + a * (x_in - x0) + b * e) < 1e-13
        assert (b if order == "residual_first" else a) == 1 or (a if order == "residual_first" else b) == 0
        x = scheduler.step(torch.cat([x_in - x0, e], dim=1), t, x, x_in).prev_sample
    assert relative(x, x0) < 1e-13


def test_time_codes() -> None:
    plain, codes = RDDMScheduler(6), RDDMScheduler(6, time_embedding="cumulative", noise_scale=0.25)
    assert plain.time_codes(4) == (4, 4)
    t = torch.tensor([4, 0])
    assert all(one is t for one in plain.time_codes(t))
    a, b = [6 * 40 / 42, 6 * 12 / 42], [6 * 0.5 * math.sqrt(30 / 42), 6 * 0.5 * math.sqrt(2 / 42)]
    for i, timestep in enumerate((4, 0)):
        for one in (timestep, torch.tensor(timestep)):
            got = codes.time_codes(one)
            assert max(abs(float(got[0]) - a[i]), abs(float(got[1]) - b[i])) < 1e-13
    for got, wanted in zip(codes.time_codes(t), (a, b), strict=True):
        assert isinstance(got, Tensor)
        assert got.dtype == torch.float32
        assert relative(got, torch.tensor(wanted)) < 1e-6
    assert codes.time_codes(5) == (6.0, 3.0)


def test_timesteps_of_ones_own() -> None:
    scheduler = RDDMScheduler(10)
    for given in ([7, 4, 1], torch.tensor([7, 4, 1]), np.array([7, 4, 1]), (t for t in (7, 4, 1))):
        scheduler.set_timesteps(timesteps=given)
        assert scheduler.timesteps.tolist() == [7, 4, 1]
        assert scheduler.timesteps.dtype == torch.int64
        assert scheduler.num_inference_steps == 3
    scheduler.set_timesteps(3, "meta")
    assert scheduler.timesteps.device.type == "meta"
    assert scheduler.timesteps.shape == (3,)
    x = pictures(1, 1, 3, 4)
    scheduler.step(x, 9, x)
    with pytest.raises(InvalidInputError, match="timestep must be one of those set by set_timesteps, got 8"):
        scheduler.step(x, 8, x)


# Manners


@pytest.mark.parametrize("prediction_type", [name for name in HEADS if name != "v_prediction"])
def test_a_batch_is_its_pictures(prediction_type: Any) -> None:
    scheduler = RDDMScheduler(10, prediction_type=prediction_type)
    heads = len(scheduler.heads)
    x, x_in, o = normal(3, 2, 4, 5), pictures(3, 2, 4, 5), normal(3, 2 * heads, 4, 5, seed=1)
    together = scheduler.step(o, 6, x, x_in, eta=1.0, generator=[seeded(i) for i in range(3)]).prev_sample
    for i in range(3):
        at = slice(i, i + 1)
        alone = scheduler.step(o[at], 6, x[at], x_in[at], eta=1.0, generator=seeded(i)).prev_sample
        assert relative(together[at], alone) < 1e-14
    assert float((together[0] - together[1]).abs().min()) > 0


def test_new_noise_is_drawn_where_there_is_some() -> None:
    scheduler = RDDMScheduler(10, prediction_type="residual_epsilon")
    x, o = normal(2, 1, 4, 5), normal(2, 2, 4, 5, seed=1)
    z = torch.randn(x.shape, generator=seeded(3), dtype=x.dtype)
    before, generator = torch.get_rng_state(), seeded(3)
    drawn = scheduler.step(o, 6, x, eta=0.7, generator=generator).prev_sample
    assert torch.equal(drawn, scheduler.step(o, 6, x, eta=0.7, variance_noise=z).prev_sample)
    state = generator.get_state()
    scheduler.step(o, 6, x, eta=0.0, generator=generator)
    scheduler.step(o, 0, x, eta=1.0, generator=generator)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("prediction_type", list(HEADS))
@pytest.mark.parametrize("form", FORMS)
def test_inputs_stay_as_they_were(prediction_type: Any, form: Any) -> None:
    betas = {"beta_schedule": "linear"} if prediction_type == "v_prediction" else {}
    scheduler = RDDMScheduler(10, prediction_type=prediction_type, update_form=form, **betas)
    x, x_in, z = normal(2, 1, 4, 5), pictures(2, 1, 4, 5), normal(2, 1, 4, 5, seed=2)
    o, t = normal(2, len(scheduler.heads), 4, 5, seed=1), torch.tensor([3, 9])
    given = (x, x_in, z, o, t)
    before = [value.clone() for value in given]
    for clip in (True, False):
        scheduler = RDDMScheduler.from_config(scheduler.config, clip_sample=clip)
        for timestep in (9, 4, 0):
            scheduler.step(o, timestep, x, x_in, eta=1.0, variance_noise=z)
        scheduler.add_noise(x, z, t, degraded=x_in)
        scheduler.add_noise(x, z, t, residual=x_in)
        scheduler.get_target(x, z, t, degraded=x_in)
        scheduler.time_codes(t)
        scheduler.start(x_in, z)
    assert all(torch.equal(value, old) for value, old in zip(given, before, strict=True))
    assert scheduler.scale_model_input(x, 5) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("prediction_type", [name for name in HEADS if name != "v_prediction"])
def test_half_precision_is_kept(prediction_type: Any, dtype: torch.dtype) -> None:
    scheduler = RDDMScheduler(10, prediction_type=prediction_type)
    x, x_in = normal(2, 1, 4, 5).to(dtype), pictures(2, 1, 4, 5).to(dtype)
    o, z = normal(2, len(scheduler.heads), 4, 5, seed=1).to(dtype), normal(2, 1, 4, 5, seed=2).to(dtype)
    for t in (9, 5, 0):
        got = scheduler.step(o, t, x, x_in, eta=0.5, variance_noise=z).to_tuple()
        wanted = scheduler.step(o.double(), t, x.double(), x_in.double(), eta=0.5, variance_noise=z.double()).to_tuple()
        for one, other in zip(got, wanted, strict=True):
            assert one.dtype == dtype
            assert float((one.double() - other).abs().max()) < 3e-2 * float(other.abs().max().clamp_min(1))
    timesteps = torch.tensor([2, 8])
    noisy = scheduler.add_noise(x, z, timesteps, degraded=x_in)
    assert noisy.dtype == scheduler.get_target(x, z, timesteps, degraded=x_in).dtype == dtype
    wanted_noisy = scheduler.add_noise(x.double(), z.double(), timesteps, degraded=x_in.double())
    assert relative(noisy, wanted_noisy) < 3e-2
    # An output in less than the precision of the sample is taken as it is.
    full = x.float(), x_in.float()
    mixed = scheduler.step(o, 5, full[0], full[1]).prev_sample
    assert torch.equal(mixed, scheduler.step(o.float(), 5, full[0], full[1]).prev_sample)


def test_add_noise_goes_where_the_timesteps_are() -> None:
    scheduler = RDDMScheduler(10)
    meta = torch.empty(2, 1, 4, 5, device="meta")
    assert scheduler.add_noise(meta, meta, torch.tensor([1, 2], device="meta")).device.type == "meta"
    x = pictures(2, 1, 4, 5)
    on_cpu = scheduler.add_noise(x, x, torch.tensor([1, 2]))  # and back
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(scheduler.add_noise(x, x, torch.tensor([1, 2], dtype=dtype)), on_cpu)
    for t in torch.tensor([1, 2]):  # without dimensions
        assert torch.equal(scheduler.add_noise(x, x, t), scheduler.add_noise(x, x, t[None]))
    assert scheduler.residual_scales.device.type == "cpu"
    assert scheduler.residual_scales.dtype == torch.float64


# Configurations

OPTIONS: list[dict[str, Any]] = [
    {},
    {
        "num_train_timesteps": 20,
        "residual_schedule": "average",
        "residual_power": 2.0,
        "noise_schedule": "normal",
        "noise_power": 0.3,
        "noise_scale": 0.01,
        "grid": "v2",
        "prediction_type": "sample_sum",
        "variance_type": "bridge",
        "update_form": "posterior",
        "removal_order": "noise_first",
        "clip_sample": False,
        "clip_sample_range": 0.9,
        "clip_residual_range": 1.0,
        "time_embedding": "cumulative",
        "timestep_spacing": "trailing",
        "steps_offset": 2,
    },
    {"num_train_timesteps": 15, "process": "resshift", "process_args": {"kappa": 1.5}},
    {"num_train_timesteps": 15, "process": "ir_sde"},
    {"num_train_timesteps": 15, "beta_schedule": "linear", "beta_start": 0.001, "prediction_type": "v_prediction"},
    {"num_train_timesteps": 3, "trained_betas": [0.1, 0.2, 0.3], "prediction_type": "epsilon"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_configuration_survives_a_folder(options: dict[str, Any], tmp_path: Path) -> None:
    scheduler = RDDMScheduler(**options)
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "RDDMScheduler"
    for name, value in options.items():
        assert saved[name] == value
    for again in (
        RDDMScheduler.from_pretrained(tmp_path),
        RDDMScheduler.from_config(scheduler.config),
        RDDMScheduler.from_config(saved),
        copy.deepcopy(scheduler),
    ):
        for name in saved:
            if not name.startswith("_"):
                assert again.config[name] == scheduler.config[name] == saved[name]
        assert torch.equal(again.residual_scales, scheduler.residual_scales)
        assert torch.equal(again.noise_scales, scheduler.noise_scales)
        assert again.timesteps.tolist() == scheduler.timesteps.tolist()


def test_one_option_is_changed_by_from_config() -> None:
    scheduler = RDDMScheduler(20, noise_scale=0.5, clip_sample=False)
    other = RDDMScheduler.from_config(scheduler.config, noise_scale=0.01)
    assert (other.config.noise_scale, other.config.clip_sample, len(other)) == (0.01, False, 20)
    assert relative(other.noise_scales * math.sqrt(50), scheduler.noise_scales) < 1e-14


def test_what_is_given_by_position_is_kept() -> None:
    scheduler = RDDMScheduler(20, "average", 2.0, "decreased", 3.0, 0.5, "v2")
    again = RDDMScheduler.from_config(scheduler.config)
    assert torch.equal(again.residual_scales, scheduler.residual_scales)
    assert torch.equal(again.noise_scales, scheduler.noise_scales)
    wanted = {"residual_schedule": "average", "noise_schedule": "decreased", "noise_scale": 0.5, "grid": "v2"}
    assert {name: again.config[name] for name in wanted} == wanted


def test_defaults_by_process() -> None:
    """Which rule of new noise and which form of the update a process has, unless told."""
    x, x_in, o, z = normal(1, 1, 4, 5), pictures(1, 1, 4, 5), 3 * normal(1, 1, 4, 5), normal(1, 1, 4, 5, seed=2)
    for process in PROCESSES:
        form = "recompose" if process == "ddpm" else "incremental"
        told = {"variance_type": NATURAL.get(process, "bridge"), "update_form": form}
        steps = [
            of_process(process, 10, clip_sample=True, **given).step(o, 6, x, x_in, eta=0.9, variance_noise=z)
            for given in ({}, told)
        ]
        assert torch.equal(steps[0].prev_sample, steps[1].prev_sample)
        others = [{**told, "update_form": other} for other in FORMS if other != form]
        for given in others:
            step = of_process(process, 10, clip_sample=True, **given).step(o, 6, x, x_in, eta=0.9, variance_noise=z)
            assert relative(step.prev_sample, steps[0].prev_sample) > 1e-3


def test_heads() -> None:
    for prediction_type, heads in HEADS.items():
        betas = {"beta_schedule": "linear"} if prediction_type == "v_prediction" else {}
        assert RDDMScheduler(10, prediction_type=prediction_type, **betas).heads == heads


# Bad input

X = pictures(2, 3, 4, 5, dtype=torch.float32)
T = torch.tensor([1, 2])


def rddm(**options: Any) -> Any:
    return RDDMScheduler(**{"num_train_timesteps": 12, **options})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rddm(num_train_timesteps=0), "num_train_timesteps must be a whole number >= 1, got 0"),
        (lambda: rddm(num_train_timesteps=2.5), "num_train_timesteps must be a whole number >= 1, got 2.5"),
        (lambda: rddm(num_train_timesteps="12"), "num_train_timesteps must be a whole number >= 1, got '12'"),
        (lambda: rddm(residual_power=-1), "power must be a number >= 0, got -1"),
        (lambda: rddm(noise_power=math.nan), "power must be a number >= 0, got nan"),
        (lambda: rddm(noise_scale=-0.1), "noise_scale must be a number >= 0, got -0.1"),
        (lambda: rddm(noise_scale="1"), "noise_scale must be a number >= 0, got '1'"),
        (lambda: rddm(noise_scale=math.inf), "noise_scale must be a number >= 0, got inf"),
        (lambda: rddm(num_train_timesteps=1, grid="v2"), "grid='v2' needs num_train_timesteps of 2 or more, got 1"),
        (lambda: rddm(clip_sample=1), "clip_sample must be True or False, got 1"),
        (lambda: rddm(clip_sample_range=0), "clip_sample_range must be a number > 0, got 0"),
        (lambda: rddm(clip_residual_range=-2), "clip_residual_range must be a number > 0, got -2"),
        (lambda: rddm(steps_offset=-1), "steps_offset must be a whole number >= 0 and <= 11, got -1"),
        (lambda: rddm(steps_offset=12), "steps_offset must be a whole number >= 0 and <= 11, got 12"),
        (lambda: rddm(removal_order="noise_first"), "removal_order='noise_first' needs .*time_embedding='cumulative'"),
        (
            lambda: rddm(num_train_timesteps=1, removal_order="noise_first", time_embedding="cumulative"),
            "num_train_timesteps must be a whole number >= 2, got 1",
        ),
        (lambda: rddm(process_args={"kappa": 2.0}), "process_args are for another process than rddm, got {'kappa': 2"),
        (lambda: rddm(process="resshift", process_args="kappa"), "process_args must be arguments by name.*got 'kappa'"),
        (lambda: rddm(process="resshift", process_args={"kappa": 0}), "kappa must be a number > 0, got 0"),
        (lambda: rddm(process="resshift", process_args={"power": 0}), "power must be a number > 0, got 0"),
        (lambda: rddm(process="resshift", process_args={"eta_first": 0}), "eta_first must be a number > 0, got 0"),
        (lambda: rddm(process="resshift", process_args={"eta_last": 1.1}), "eta_last must be .* <= 1, got 1.1"),
        (lambda: rddm(process="resshift", process_args={"eta_last": 1e-9}), "eta_last must be .* <= 1, got 1e-09"),
        (lambda: rddm(process="indi", process_args={"epsilon": 0}), "epsilon must be a number > 0, got 0"),
        (lambda: rddm(process="i2sb", process_args={"beta_min": 0}), "beta_min must be a number > 0, got 0"),
        (lambda: rddm(process="i2sb", process_args={"beta_max": 0.01}), "beta_max must be a number >= 0.1, got 0.01"),
        (lambda: rddm(process="ir_sde", process_args={"deviation": 0}), "deviation must be a number > 0, got 0"),
        (lambda: rddm(process="ir_sde", process_args={"rest": 0.6}), "rest must be a number .*<= 0.5, got 0.6"),
        (
            lambda: rddm(process="indi", beta_schedule="linear"),
            "process 'indi' and the betas of a DDPM .*'linear'.* exclude each other",
        ),
        (lambda: rddm(beta_start=0.01), "beta_start=0.01 and beta_end=0.02 are for the coefficients of a DDPM"),
        (lambda: rddm(process="indi", beta_end=0.5), "beta_end=0.5 are for the coefficients of a DDPM"),
        (lambda: rddm(beta_schedule="linear", beta_start=0), "beta_start must be a number > 0, got 0"),
        (
            lambda: rddm(beta_schedule="linear", beta_end=1e-5),
            "beta_end must be a number >= 0.0001 and <= 1, got 1e-05",
        ),
        (lambda: rddm(beta_schedule="linear", beta_end=1.0), "betas must lie in .0, 1., got 0.0001 to 1"),
        (lambda: rddm(trained_betas=[0.1]), "trained_betas must hold num_train_timesteps=12 numbers, got shape"),
        (lambda: rddm(trained_betas=[[0.1]] * 12), "trained_betas must hold num_train_timesteps=12 numbers, got shape"),
        (lambda: rddm(trained_betas=[-0.1] * 12), "betas must lie in .0, 1., got -0.1 to -0.1"),
        (lambda: rddm(trained_betas=[math.nan] * 12), "betas must lie in .0, 1., got nan to nan"),
        (lambda: rddm(trained_betas=["0.1"] * 12), "trained_betas must be a list of numbers in .0, 1., got \\['0.1'"),
        (lambda: rddm(trained_betas="linear"), "trained_betas must be a list of numbers in .0, 1., got 'linear'"),
        (lambda: rddm(prediction_type="v_prediction"), "'v_prediction' is for the coefficients of a DDPM"),
        (lambda: rddm().scales(12), "timestep must be a whole number >= -1 and <= 11, got 12"),
        (lambda: rddm().scales(-2), "timestep must be a whole number >= -1 and <= 11, got -2"),
        (lambda: rddm().set_timesteps(), "give either num_inference_steps or timesteps"),
        (lambda: rddm().set_timesteps(3, timesteps=[3]), "give either num_inference_steps or timesteps"),
        (lambda: rddm().set_timesteps(0), "num_inference_steps must be a whole number >= 1 and <= 12, got 0"),
        (lambda: rddm().set_timesteps(13), "num_inference_steps must be a whole number >= 1 and <= 12, got 13"),
        (lambda: rddm().set_timesteps(2.5), "num_inference_steps must be a whole number .*got 2.5"),
        (lambda: rddm().set_timesteps("10"), "num_inference_steps must be a whole number .*got '10'"),
        (lambda: rddm().set_timesteps(timesteps=5), "timesteps must be a decreasing list of whole numbers, got 5"),
        (lambda: rddm().set_timesteps(timesteps=[]), "timesteps must be a decreasing list .* below 12, got \\[\\]"),
        (lambda: rddm().set_timesteps(timesteps=[1, 5]), "timesteps must be a decreasing list .* got \\[1, 5\\]"),
        (lambda: rddm().set_timesteps(timesteps=[5, 5]), "timesteps must be a decreasing list .* got \\[5, 5\\]"),
        (lambda: rddm().set_timesteps(timesteps=[12, 5]), "timesteps must be a whole number >= 0 and <= 11, got 12"),
        (lambda: rddm().set_timesteps(timesteps=[5, -1]), "timesteps must be a whole number >= 0 and <= 11, got -1"),
        (lambda: rddm().set_timesteps(timesteps=[math.nan]), "timesteps must be a whole number .*got nan"),
        (
            lambda: rddm(timestep_spacing="leading", steps_offset=1).set_timesteps(12),
            "timesteps must be a decreasing list of whole numbers below 12",
        ),
        (lambda: rddm().step(X, 12, X), "timestep must be a whole number >= 0 and <= 11, got 12"),
        (lambda: rddm().step(X, -1, X), "timestep must be a whole number >= 0 and <= 11, got -1"),
        (lambda: rddm().step(X, 2.5, X), "timestep must be a whole number >= 0 and <= 11, got 2.5"),
        (lambda: rddm().step(X, T, X), "timestep must be a whole number"),
        (lambda: rddm().step(X, 5, X, eta=1.1), "eta must be a number >= 0 and <= 1, got 1.1"),
        (lambda: rddm().step(X, 5, X, eta=-0.1), "eta must be a number >= 0 and <= 1, got -0.1"),
        (lambda: rddm().step(X, 5, X, eta=math.nan), "eta must be a number >= 0 and <= 1, got nan"),
        (
            lambda: rddm(prediction_type="residual_epsilon").step(X, 5, X),
            r"model_output must be \(2, 6, 4, 5\), residual and epsilon for this sample, got \(2, 3, 4, 5\)",
        ),
        (lambda: rddm().step(X[:1], 5, X), r"model_output must be \(2, 3, 4, 5\), residual .* got \(1, 3, 4, 5\)"),
        (lambda: rddm().step((X,), 5, X), "model_output must be .* got tuple"),
        (lambda: rddm().step(X, 5, X, X[:1]), r"degraded must have the shape of sample, \(2, 3, 4, 5\), got \(1, 3, 4"),
        (lambda: rddm().step(X, 5, X, 0.0), "degraded must have the shape of sample, .* got float"),
        (lambda: rddm().step(X, 5, X, variance_noise=X[:, :1]), "variance_noise must have the shape of sample"),
        (lambda: rddm().step(X, 5, X, generator=[seeded()]), "generator must be one, or a list of 2 .* got 1"),
        (lambda: rddm().step(X, 5, X, generator=[seeded()] * 3), "generator must be one, or a list of 2 .* got 3"),
        (lambda: rddm().add_noise(X, X[:1], T), "noise must have the shape of original_samples, .* got"),
        (lambda: rddm().add_noise(X, X, T, degraded=X[:1]), "degraded must have the shape of original_samples"),
        (lambda: rddm().add_noise(X, X, T, residual=X[:1]), "residual must have the shape of original_samples"),
        (lambda: rddm().add_noise(X, X, T, degraded=X, residual=X), "give degraded or residual, not both"),
        (lambda: rddm().add_noise(X, X, torch.tensor([0, 12])), r"timesteps must be in 0..11, got \[0, 12\]"),
        (lambda: rddm().add_noise(X, X, torch.tensor([-1, 2])), r"timesteps must be in 0..11, got \[-1, 2\]"),
        (
            lambda: rddm().add_noise(X, X, T.float()),
            "timesteps must be whole numbers, one for each picture, got .*float",
        ),
        (lambda: rddm().add_noise(X, X, T > 1), "timesteps must be whole numbers, one for each picture, got .*bool"),
        (lambda: rddm().add_noise(X, X, T.repeat(2)), "timesteps must be whole numbers, one for each picture, got"),
        (lambda: rddm().add_noise(X, X, torch.ones(1, 1).int()), "timesteps must be whole numbers, one for each pict"),
        (lambda: rddm().add_noise(X, X, [1, 2]), r"timesteps must be a tensor of whole numbers, got \[1, 2\]"),
        (lambda: rddm().get_target(X, X[:1], T), "noise must have the shape of original_samples"),
        (lambda: rddm().get_target(X, X, T, degraded=X[:1]), "degraded must have the shape of original_samples"),
        (lambda: rddm(time_embedding="cumulative").time_codes(12), "timestep must be a whole number"),
        (lambda: rddm(time_embedding="cumulative").time_codes(T + 10), r"timesteps must be in 0..11, got \[11, 12\]"),
        (lambda: coefficients.increments(5, "increased", 1.0, "v3"), "no grid named 'v3'"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_by_name(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"residual_schedule": "linear"}, "no schedule named 'linear'; .*average, decreased, increased, normal"),
        ({"noise_schedule": "decrease"}, "no schedule named 'decrease'; did you mean 'decreased'"),
        ({"grid": "v3"}, "no grid named 'v3'"),
        ({"process": "irsde"}, "no process named 'irsde'; did you mean 'ir_sde'.* there are: i2sb, indi, ir_sde, rddm"),
        ({"process": "resshift", "process_args": {"kapa": 1}}, "no process_args of resshift named 'kapa'.*'kappa'"),
        ({"prediction_type": "noise"}, "no prediction_type named 'noise'.*epsilon, residual"),
        ({"variance_type": "fixed_small"}, "no variance_type named 'fixed_small'.*bridge, mean_reverting, residual"),
        ({"variance_type": ""}, "no variance_type named ''"),
        ({"update_form": "direct"}, "no update_form named 'direct'.*incremental, posterior, recompose"),
        ({"update_form": ""}, "no update_form named ''"),
        ({"removal_order": "noise"}, "no removal_order named 'noise'.*both, noise_first, residual_first"),
        ({"time_embedding": "sum"}, "no time_embedding named 'sum'.*cumulative, timestep"),
        ({"timestep_spacing": "even"}, "no timestep_spacing named 'even'.*leading, linspace, rddm, trailing"),
        ({"beta_schedule": "cosine"}, "no beta_schedule named 'cosine'.*squaredcos_cap_v2"),
        ({"beta_schedule": ""}, "no beta_schedule named ''"),
    ],
)
def test_names_that_do_not_exist(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        rddm(**option)


@pytest.mark.parametrize(
    "option",
    [
        {"residual_schedule": "average"},
        {"residual_power": 2.0},
        {"noise_schedule": "average"},
        {"noise_power": 2.0},
        {"noise_scale": 0.5},
        {"grid": "v2"},
    ],
)
def test_options_of_rddm_are_for_no_other_process(option: dict[str, Any]) -> None:
    name, value = next(iter(option.items()))
    for other, of in (({"process": "ir_sde"}, "ir_sde"), ({"beta_schedule": "linear"}, "of a DDPM")):
        with pytest.raises(InvalidInputError, match=f"{name}={value!r} is for process 'rddm'; the process is {of}"):
            rddm(**option, **other)


def test_formulas_refuse_other_names() -> None:
    with pytest.raises(UnknownNameError, match="no prediction_type named 'x0'"):
        rddm_predict((X,), X, X, 0.5, 0.5, "x0")
    with pytest.raises(UnknownNameError, match="no update_form named 'ddim'"):
        rddm_update(X, X, X, X, None, 0.5, 0.5, 0.4, 0.4, 0.0, "ddim")
    with pytest.raises(UnknownNameError, match="no variance_type named 'small'"):
        rddm_variance(0.5, 0.5, 0.4, 0.4, 1.0, "small")
