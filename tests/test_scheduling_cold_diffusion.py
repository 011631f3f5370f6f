"""Cold Diffusion's two algorithms: the authors' numbers, what they must do by their formulas, DDIM, and bad input."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from diffusers_restore.degradations import Blur, ColorFade, Decolor, Degradation, Fade, Mix, Pixelate, Snow
from diffusers_restore.degradations.base import State
from diffusers_restore.errors import InvalidInputError, UnknownNameError
from diffusers_restore.schedulers.scheduling_cold_diffusion import (
    ColdDiffusionScheduler,
    ColdDiffusionSchedulerOutput,
    improved_update,
    naive_update,
)

ALGORITHMS = ("naive", "improved")
EXAMPLES: dict[str, Degradation] = {
    "blur": Blur(12, taps=5, std=1.0),
    "mirrored blur": Blur(12, taps=7, std=0.5, schedule="linear", growth=0.2, border="reflect", mean_at_end=True),
    "fade": Fade(12, init=4),
    "color_fade": ColorFade(12, std=2.0),
    "pixelate": Pixelate(12, shrink="decrement"),
    "decolor": Decolor(12, total=True),
    "mix": Mix(12),
    "snow": Snow(12),
}
Restorer = Callable[[Tensor, int], Tensor]


def pictures(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed), dtype=dtype) * 2 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


def wild(x: Tensor, k: int) -> Tensor:
    """A restorer far from a good one, another one at every timestep."""
    return 0.6 * torch.tanh(1.3 * x + 0.2 * math.sin(k)) + 0.3 * x.roll(1, dims=3) + 0.1 * math.cos(3 * k)


def restored(
    scheduler: ColdDiffusionScheduler, x: Tensor, restorer: Restorer, state: State | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """The pictures before each step and the last ones; the restorer's estimates."""
    steps, estimates = [x], []
    for k in scheduler.timesteps:
        estimates.append(restorer(steps[-1], int(k)))
        steps.append(scheduler.step(estimates[-1], k, steps[-1], state=state).prev_sample)
    return steps, estimates


# The authors' numbers


@pytest.mark.parametrize(
    ("name", "degradation", "prefix"),
    [
        ("blur_mnist_constant_k11_s7_T20", Blur(20, taps=11, std=7.0), ""),
        ("fade_random_s01_init11_T50", Fade(50, std=0.1, init=11), ""),
        ("resolution_Incremental_factor_2_T3", Pixelate(3), ""),
        ("decolor_Linear_T20_total", Decolor(20, total=True), "paper_"),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_authors_samplers(shared: Path, name: str, degradation: Degradation, prefix: str, algorithm: str) -> None:
    arrays = np.load(shared / "golden" / "cold" / f"{name}.npz")
    key = f"{prefix}alg{ALGORITHMS.index(algorithm) + 1}"
    state = None
    if "offset_x" in arrays:
        state = {"offset": torch.tensor(np.stack([arrays["offset_x"], arrays["offset_y"]], axis=1))}
    last = degradation.num_timesteps

    def restorer(x: Tensor, k: int) -> Tensor:
        estimate = x + 0.1 * (k + 1) / last * (x - x.mean(dim=(2, 3), keepdim=True)) + 0.02 * math.sin(k)
        if degradation.kind == "decolor":
            tint = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
            estimate = estimate + 0.05 * tint + 0.2 * (x - x.mean(dim=1, keepdim=True))
        return estimate

    scheduler = ColdDiffusionScheduler(degradation, algorithm=algorithm)
    start = scheduler.degrade(torch.tensor(arrays["x0"]), last, state)
    steps, estimates = restored(scheduler, start, restorer, state)
    if f"{key}_xT" in arrays:
        assert relative(start, torch.tensor(arrays[f"{key}_xT"])) < 1e-5
    assert relative(estimates[0], torch.tensor(arrays[f"{key}_direct"])) < 1e-4
    assert relative(steps[-1], torch.tensor(arrays[f"{key}_final"])) < 1e-4
    if f"{key}_traj_idx" in arrays:
        for i, x_t, x0_hat in zip(*(arrays[f"{key}_traj_{part}"] for part in ("idx", "xt", "x0")), strict=True):
            assert relative(steps[i], torch.tensor(x_t)) < 1e-4
            assert relative(estimates[i], torch.tensor(x0_hat)) < 1e-4


# What the formulas promise


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", list(EXAMPLES))
@pytest.mark.parametrize(("count", "start"), [(None, None), (5, None), (1, None), (3, 7)])
def test_a_perfect_restorer_restores_exactly(name: str, algorithm: str, count: int | None, start: int | None) -> None:
    degradation = EXAMPLES[name]
    scheduler = ColdDiffusionScheduler(degradation, algorithm=algorithm)
    scheduler.set_timesteps(count, start=start)
    x = pictures(2, 3, 13, 16)
    state = scheduler.sample_state(x, seeded())
    steps, _ = restored(scheduler, scheduler.degrade(x, start or 12, state), lambda _, k: x, state)
    severities = [*(scheduler.timesteps + 1).tolist(), 0]
    for t, x_t in zip(severities, steps, strict=True):
        assert relative(x_t, degradation(x, t, state)) < 1e-14
    if algorithm == "naive":
        assert torch.equal(steps[-1], x)


@pytest.mark.parametrize("name", list(EXAMPLES))
@pytest.mark.parametrize("count", [None, 4])
def test_a_constant_restorer(name: str, count: int | None) -> None:
    degradation = EXAMPLES[name]
    x, c = pictures(2, 3, 13, 16), pictures(2, 3, 13, 16, seed=1)
    results = {}
    for algorithm in ALGORITHMS:
        scheduler = ColdDiffusionScheduler(degradation, algorithm=algorithm)
        scheduler.set_timesteps(count)
        state = scheduler.sample_state(x, seeded())
        x_t = scheduler.degrade(x, 12, state)
        results[algorithm] = restored(scheduler, x_t, lambda _, k: c, state)[0][-1]
    assert torch.equal(results["naive"], c)
    assert relative(results["improved"], c + x_t - degradation(c, 12, state)) < 1e-14


@dataclasses.dataclass(frozen=True)
class Drift(Degradation):
    """D(x, t) = x + t e, which is not registered."""

    kind: ClassVar[str] = "drift"

    def state_shapes(self, channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        return {"e": (channels, height, width)}

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        return x0 + t.reshape(-1, 1, 1, 1) * state["e"]


@pytest.mark.parametrize("count", [None, 7])
def test_the_improved_algorithm_is_exact_for_a_drift_whatever_the_restorer_says(count: int | None) -> None:
    x, state = pictures(2, 3, 8, 9), {"e": 0.1 * pictures(2, 3, 8, 9, seed=1)}
    errors = {}
    for algorithm in ALGORITHMS:
        scheduler = ColdDiffusionScheduler(Drift(20), algorithm=algorithm)
        scheduler.set_timesteps(count)
        steps, _ = restored(scheduler, scheduler.degrade(x, 20, state), wild, state)
        errors[algorithm] = relative(steps[-1], x)
    assert errors["improved"] < 1e-13
    assert errors["naive"] > 0.1


def test_an_unregistered_degradation_is_told_in_the_configuration() -> None:
    scheduler = ColdDiffusionScheduler(Drift(20))
    assert scheduler.config.degradation == {"kind": "drift", "num_timesteps": 20}
    with pytest.raises(UnknownNameError, match="no degradation named 'drift'"):  # but not made of it
        ColdDiffusionScheduler.from_config(scheduler.config)


def test_a_step_is_its_formula() -> None:
    degradation, x_t, x0_hat = EXAMPLES["blur"], pictures(2, 3, 9, 10), pictures(2, 3, 9, 10, seed=1)
    t, s = torch.full((2,), 9), torch.full((2,), 6)
    naive, improved = degradation(x0_hat, 6), x_t - degradation(x0_hat, 9) + degradation(x0_hat, 6)
    assert relative(naive_update(x0_hat, degradation, s, {}), naive) < 1e-15
    assert relative(improved_update(x_t, x0_hat, degradation, t, s, {}), improved) < 1e-15
    for algorithm, wanted in (("naive", naive), ("improved", improved)):
        scheduler = ColdDiffusionScheduler(degradation, algorithm=algorithm)
        scheduler.set_timesteps(4)  # severities 12, 9, 6, 3, 0
        for timestep in (8, torch.tensor(8), torch.tensor([8]), np.int64(8)):
            output = scheduler.step(x0_hat, timestep, x_t)
            assert isinstance(output, ColdDiffusionSchedulerOutput)
            assert relative(output.prev_sample, wanted) < 1e-15
            assert torch.equal(output.pred_original_sample, x0_hat)
        as_tuple = scheduler.step(x0_hat, 8, x_t, return_dict=False)
        assert isinstance(as_tuple, tuple)
        assert torch.equal(as_tuple[0], output.prev_sample)
        assert torch.equal(as_tuple[1], x0_hat)


def test_estimates_are_clipped_if_asked() -> None:
    x_t, x0_hat = pictures(2, 3, 9, 10), 2 * pictures(2, 3, 9, 10, seed=1)
    for algorithm in ALGORITHMS:
        plain = ColdDiffusionScheduler(Blur(12), algorithm=algorithm)
        clipping = ColdDiffusionScheduler(Blur(12), algorithm=algorithm, clip_sample=True)
        output = clipping.step(x0_hat, 5, x_t)
        assert torch.equal(output.pred_original_sample, x0_hat.clamp(-1, 1))
        assert torch.equal(output.prev_sample, plain.step(x0_hat.clamp(-1, 1), 5, x_t).prev_sample)
        assert torch.equal(plain.step(x0_hat, 5, x_t).pred_original_sample, x0_hat)


# With an estimated endpoint


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("count", [None, 6])
def test_with_an_estimated_endpoint_both_algorithms_are_one(schedule: str, count: int | None) -> None:
    x = pictures(2, 3, 8, 9)
    results = []
    for algorithm in ALGORITHMS:
        scheduler = ColdDiffusionScheduler(Mix(20, schedule=schedule), algorithm=algorithm, endpoint="estimated")
        scheduler.set_timesteps(count)
        results.append(torch.stack(restored(scheduler, x, wild)[0]))
    assert relative(results[0], results[1]) < 1e-12
    fixed = ColdDiffusionScheduler(Mix(20, schedule=schedule))
    fixed.set_timesteps(count)
    assert relative(restored(fixed, x, wild, {"endpoint": x})[0][-1], results[0][-1]) > 0.05


@pytest.mark.parametrize(("steps", "count"), [(50, 50), (200, 200), (200, 20)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_with_an_estimated_endpoint_it_is_ddim(algorithm: str, steps: int, count: int) -> None:
    ddim = DDIMScheduler(
        num_train_timesteps=steps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    ddim.set_timesteps(count)
    scheduler = ColdDiffusionScheduler(Mix(steps), algorithm=algorithm, endpoint="estimated")
    scheduler.set_timesteps(count)
    assert ddim.timesteps.tolist() == scheduler.timesteps.tolist()
    x = wanted = torch.randn(2, 3, 8, 9, generator=seeded(), dtype=torch.float64)
    for k in ddim.timesteps:
        wanted = ddim.step(wild(wanted, int(k)), k, wanted, eta=0.0).prev_sample
    assert relative(restored(scheduler, x, wild)[0][-1], wanted) < 1e-5
    single = restored(scheduler, x.float(), wild)[0][-1]
    assert single.dtype == torch.float32
    assert relative(single.double(), wanted) < 1e-4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_with_linear_mixing_it_is_indi(algorithm: str) -> None:
    mix = Mix(20, endpoint="picture", schedule="linear")
    scheduler = ColdDiffusionScheduler(mix, algorithm=algorithm, endpoint="estimated")
    scheduler.set_timesteps(7)
    severities = [*(scheduler.timesteps + 1).tolist(), 0]
    x_t, x0_hat = pictures(2, 3, 8, 9), pictures(2, 3, 8, 9, seed=1)
    for t, s in pairwise(severities):
        share = (t - s) / t
        wanted = share * x0_hat + (1 - share) * x_t
        assert relative(scheduler.step(x0_hat, t - 1, x_t).prev_sample, wanted) < 1e-14


# Ladders


def test_every_ladder_is_even_and_ends_in_the_clean_picture() -> None:
    scheduler = ColdDiffusionScheduler(Drift(23), algorithm="naive")
    assert len(scheduler) == 23
    assert scheduler.timesteps.tolist() == list(range(22, -1, -1))
    zero, one = torch.zeros(1, 1, 1, 1), {"e": torch.ones(1, 1, 1, 1)}  # D(0, t) = t
    for start in (*range(1, 23), None):
        first = start or 23
        for count in (*range(1, first + 1), None):
            scheduler.set_timesteps(count, start=start)
            steps = count or first
            assert scheduler.num_inference_steps == steps
            assert scheduler.timesteps.dtype == torch.int64
            severities = [*(scheduler.timesteps + 1).tolist(), 0]
            assert len(severities) == steps + 1
            assert severities[0] == first
            assert all(abs(2 * (s * steps - first * (steps - i))) <= steps for i, s in enumerate(severities))
            for t, s in pairwise(severities):
                assert t > s
                assert float(scheduler.step(zero, t - 1, zero, state=one).prev_sample) == s


def test_timesteps_go_where_they_are_asked() -> None:
    scheduler = ColdDiffusionScheduler(Blur(5))
    scheduler.set_timesteps(3, "meta")
    assert scheduler.timesteps.device.type == "meta"
    assert scheduler.timesteps.shape == (3,)


def test_only_timesteps_that_were_set_are_stepped() -> None:
    scheduler = ColdDiffusionScheduler(Blur(12))
    x = pictures(1, 1, 8, 8)
    scheduler.set_timesteps(3)  # severities 12, 8, 4, 0
    scheduler.step(x, 7, x)
    with pytest.raises(InvalidInputError, match="timestep must be one of those set by set_timesteps, got 8"):
        scheduler.step(x, 8, x)
    scheduler.set_timesteps(start=7)
    scheduler.step(x, 6, x)
    with pytest.raises(InvalidInputError, match="timestep must be one of those set by set_timesteps, got 7"):
        scheduler.step(x, 7, x)


# Degrading under the name that diffusers uses


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("name", list(EXAMPLES))
def test_adding_noise_is_degrading(name: str, eight_bit: bool) -> None:
    scheduler = ColdDiffusionScheduler(EXAMPLES[name], eight_bit=eight_bit)
    x = pictures(12, 3, 13, 16)
    state = scheduler.sample_state(x, seeded())
    k = torch.arange(12)
    mixed = scheduler.add_noise(x, state, k)
    assert torch.equal(mixed, scheduler.degrade(x, k + 1, state))
    alone = [
        scheduler.degrade(x[i : i + 1], i + 1, {name: value[i : i + 1] for name, value in state.items()})
        for i in range(12)
    ]
    different = (mixed - torch.cat(alone)).abs()
    if eight_bit:  # a value at a floor may fall to either side by its rounding
        assert float((different > 1e-12).double().mean()) < 1e-3
        levels = (mixed + 1) * 127.5
        assert float((levels - levels.round()).abs().max()) < 1e-12
        assert float((mixed - EXAMPLES[name](x, k + 1, state).clamp(-1, 1)).max()) < 1e-5
    else:
        assert float(different.max()) < 1e-14
        assert torch.equal(mixed, EXAMPLES[name](x, k + 1, state))


def test_steps_are_not_floored() -> None:
    x, x0_hat = pictures(2, 3, 9, 10), pictures(2, 3, 9, 10, seed=1)
    one, other = (ColdDiffusionScheduler(Blur(12), eight_bit=flag) for flag in (True, False))
    assert torch.equal(one.step(x0_hat, 6, x).prev_sample, other.step(x0_hat, 6, x).prev_sample)


# Manners


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", list(EXAMPLES))
def test_a_step_leaves_its_inputs_as_they_were(name: str, algorithm: str) -> None:
    scheduler = ColdDiffusionScheduler(EXAMPLES[name], algorithm=algorithm, clip_sample=True)
    x_t, x0_hat = 2 * pictures(2, 3, 13, 16, dtype=torch.float32), 2 * pictures(2, 3, 13, 16, dtype=torch.float32)
    state = scheduler.sample_state(x_t, seeded())
    before = x_t.clone(), x0_hat.clone(), {key: value.clone() for key, value in state.items()}
    for k in (11, 5, 0):
        scheduler.step(x0_hat, torch.tensor(k), x_t, state=state)
    scheduler.degrade(x_t, 3, state)
    scheduler.add_noise(x_t, state, torch.tensor([0, 11]))
    assert torch.equal(x_t, before[0])
    assert torch.equal(x0_hat, before[1])
    assert all(torch.equal(value, before[2][key]) for key, value in state.items())
    assert scheduler.scale_model_input(x_t, 5) is x_t


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", list(EXAMPLES))
def test_half_precision_is_kept(name: str, algorithm: str) -> None:
    scheduler = ColdDiffusionScheduler(EXAMPLES[name], algorithm=algorithm)
    x_t, x0_hat = pictures(2, 3, 13, 16, dtype=torch.float32), pictures(2, 3, 13, 16, dtype=torch.float32, seed=1)
    x_t, x0_hat = x_t.bfloat16(), x0_hat.bfloat16()
    state = scheduler.sample_state(x_t.float(), seeded())
    for k in (11, 5, 0):
        output = scheduler.step(x0_hat, k, x_t, state=state)
        assert output.prev_sample.dtype == output.pred_original_sample.dtype == torch.bfloat16
        wanted = scheduler.step(x0_hat.float(), k, x_t.float(), state=state).prev_sample
        assert relative(output.prev_sample.float(), wanted) < 2e-2


def test_half_precision_is_kept_with_an_estimated_endpoint() -> None:
    for algorithm in ALGORITHMS:
        scheduler = ColdDiffusionScheduler(Mix(12), algorithm=algorithm, endpoint="estimated")
        x_t, x0_hat = pictures(2, 3, 8, 9).bfloat16(), pictures(2, 3, 8, 9, seed=1).bfloat16()
        for k in range(12):
            prev_sample = scheduler.step(x0_hat, k, x_t).prev_sample
            assert prev_sample.dtype == torch.bfloat16
            wanted = scheduler.step(x0_hat.float(), k, x_t.float()).prev_sample
            assert relative(prev_sample.float(), wanted) < 2e-2


def test_a_configuration_survives_a_folder(tmp_path: Path) -> None:
    for i, degradation in enumerate(EXAMPLES.values()):
        endpoint = "estimated" if isinstance(degradation, Mix) else "fixed"
        scheduler = ColdDiffusionScheduler(
            degradation, algorithm="naive", endpoint=endpoint, clip_sample=True, eight_bit=True
        )
        scheduler.save_pretrained(tmp_path / str(i))
        config = json.loads((tmp_path / str(i) / "scheduler_config.json").read_text())
        assert config["_class_name"] == "ColdDiffusionScheduler"
        assert config["degradation"] == degradation.to_config()
        assert config["num_train_timesteps"] == 12
        for again in (
            ColdDiffusionScheduler.from_pretrained(tmp_path / str(i)),
            ColdDiffusionScheduler.from_config(scheduler.config),
            copy.deepcopy(scheduler),
        ):
            assert again.degradation == degradation
            for key in ("degradation", "num_train_timesteps", "algorithm", "endpoint", "clip_sample", "eight_bit"):
                assert again.config[key] == scheduler.config[key]
            assert again.timesteps.tolist() == scheduler.timesteps.tolist()


def test_one_option_is_changed_by_from_config() -> None:
    scheduler = ColdDiffusionScheduler(Blur(12, taps=5), clip_sample=True)
    assert (scheduler.config.algorithm, scheduler.config.endpoint) == ("improved", "fixed")
    naive = ColdDiffusionScheduler.from_config(scheduler.config, algorithm="naive")
    assert naive.config.algorithm == "naive"
    assert naive.config.clip_sample
    assert naive.degradation == Blur(12, taps=5)
    x, c = pictures(1, 3, 8, 8), pictures(1, 3, 8, 8, seed=1)
    assert torch.equal(naive.step(c, 0, x).prev_sample, c)
    assert not torch.equal(scheduler.step(c, 0, x).prev_sample, c)


def test_a_degradation_may_be_given_as_its_configuration() -> None:
    scheduler = ColdDiffusionScheduler({"kind": "blur", "num_timesteps": 7, "taps": 3}, num_train_timesteps=7)
    assert scheduler.degradation == Blur(7, taps=3)
    assert scheduler.config.degradation == Blur(7, taps=3).to_config()  # with what it leaves to defaults


def test_what_is_given_by_position_is_kept() -> None:
    scheduler = ColdDiffusionScheduler(Mix(5), 5, "naive", "estimated", True, True)
    again = ColdDiffusionScheduler.from_config(scheduler.config)
    assert again.degradation == Mix(5)
    assert (again.config.algorithm, again.config.endpoint) == ("naive", "estimated")
    assert again.config.clip_sample
    assert again.config.eight_bit


# Bad input

X = pictures(2, 3, 8, 8, dtype=torch.float32)


def scheduler(**options: Any) -> ColdDiffusionScheduler:
    return ColdDiffusionScheduler(Blur(12), **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: scheduler(algorithm="2"), "algorithm must be one of naive, improved, got '2'"),
        (lambda: scheduler(endpoint="random"), "endpoint must be one of fixed, estimated, got 'random'"),
        (
            lambda: scheduler(endpoint="estimated"),
            "endpoint='estimated' is for degradation 'mix'; 'blur' has no endpoint",
        ),
        (
            lambda: scheduler(num_train_timesteps=11),
            "num_train_timesteps must be that of the degradation, 12, or None, got 11",
        ),
        (lambda: scheduler(num_train_timesteps="12"), "num_train_timesteps must be a whole number >= 1, got '12'"),
        (lambda: scheduler(clip_sample=1), "clip_sample must be True or False, got 1"),
        (lambda: scheduler(eight_bit="no"), "eight_bit must be True or False, got 'no'"),
        (lambda: ColdDiffusionScheduler({"kind": "blurr", "num_timesteps": 3}), "did you mean 'blur'"),
        (lambda: ColdDiffusionScheduler({"kind": "blur", "num_timesteps": 0}), "num_timesteps must be"),
        (lambda: ColdDiffusionScheduler("blur"), "a degradation is configured by a mapping with 'kind', got 'blur'"),
        (lambda: scheduler().set_timesteps(0), "num_inference_steps must be a whole number >= 1 and <= 12, got 0"),
        (lambda: scheduler().set_timesteps(13), "num_inference_steps must be a whole number >= 1 and <= 12, got 13"),
        (lambda: scheduler().set_timesteps(2.5), "num_inference_steps must be .*got 2.5"),
        (lambda: scheduler().set_timesteps(6, start=5), "num_inference_steps must be .* <= 5, got 6"),
        (lambda: scheduler().set_timesteps(start=0), "start must be a whole number >= 1 and <= 12, got 0"),
        (lambda: scheduler().set_timesteps(start=13), "start must be a whole number >= 1 and <= 12, got 13"),
        (lambda: scheduler().set_timesteps(start=2.5), "start must be a whole number >= 1 and <= 12, got 2.5"),
        (lambda: scheduler().set_timesteps(start=True), "start must be a whole number >= 1 and <= 12, got True"),
        (lambda: scheduler().step(X, 12, X), "timestep must be a whole number >= 0 and <= 11, got 12"),
        (lambda: scheduler().step(X, -1, X), "timestep must be a whole number >= 0 and <= 11, got -1"),
        (lambda: scheduler().step(X, 2.5, X), "timestep must be a whole number >= 0 and <= 11, got 2.5"),
        (lambda: scheduler().step(X, torch.tensor([1, 1]), X), "timestep must be a whole number"),
        (lambda: scheduler().step(X[:, :1], 5, X), r"shape of sample, \(2, 3, 8, 8\), got \(2, 1, 8, 8\)"),
        (lambda: scheduler().step(X, 5, X, state={"endpoint": X}), "degradation 'blur' needs no state"),
        (lambda: ColdDiffusionScheduler(Fade(12)).step(X, 5, X), "degradation 'fade' needs a state with 'offset'"),
        (lambda: ColdDiffusionScheduler(Mix(12)).step(X, 5, X), "degradation 'mix' needs a state with 'endpoint'"),
        (lambda: ColdDiffusionScheduler(Pixelate(4)).step(X, 3, X), "too small for degradation 'pixelate'"),
        (lambda: scheduler().degrade(X, 13), "t must be a whole number >= 0 and <= 12, got 13"),
        (lambda: scheduler().add_noise(X, None, torch.tensor([0, 12])), r"timesteps must be in 0..11, got \[0, 12\]"),
        (lambda: scheduler().add_noise(X, None, torch.tensor([0.0, 1.0])), "timesteps must be whole numbers in 0..11"),
    ],
)
def test_bad_input_is_refused_by_name(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_eight_bits_stay_in_half_precision(dtype: torch.dtype) -> None:
    scheduler = ColdDiffusionScheduler(Fade(4, std=0.1, placement="center"), eight_bit=True)
    x = (torch.arange(256.0).reshape(1, 1, 16, 16) / 127.5 - 1).to(dtype)
    corner = scheduler.degrade(x, 1)[..., :3, :3]  # far from the hole
    assert torch.equal(corner, x[..., :3, :3])


def test_an_estimate_in_half_precision_is_differenced_in_that_of_the_sample() -> None:
    scheduler = ColdDiffusionScheduler(Pixelate(2))
    x, x0_hat = (torch.rand(1, 1, 8, 8, generator=seeded(i)) for i in (1, 2))
    half = x0_hat.half()
    assert torch.equal(scheduler.step(half, 1, x).prev_sample, scheduler.step(half.float(), 1, x).prev_sample)
