"""Training objectives against diffusers' own schedulers and closed forms, and where a run begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import WriteRepo, make_residual_unet, make_unet
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    PNDMScheduler,
    ScoreSdeVeScheduler,
)
from torch import Tensor, nn

import diffusers_restore
from diffusers_restore import ColdDiffusionScheduler
from diffusers_restore.degradations import Blur
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.training.cold.objective import ColdObjective
from diffusers_restore.training.config import PriorConfig, build
from diffusers_restore.training.objectives import x0_errors
from diffusers_restore.training.prior import make_prior
from diffusers_restore.training.prior.objective import DDPMObjective, NoisyBatch

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
COSINE = "squaredcos_cap_v2"
LEVELS = (15, 25, 50)


def make_scheduler(prediction_type: str = "epsilon", beta_schedule: str = "linear", **config: Any) -> DDPMScheduler:
    return DDPMScheduler(prediction_type=prediction_type, beta_schedule=beta_schedule, clip_sample=False, **config)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=generator(100)) - 1


def alpha_bar(scheduler: DDPMScheduler, timesteps: Any) -> Tensor:
    """In double precision, (B, 1, 1, 1) or of one picture."""
    return scheduler.alphas_cumprod.double()[torch.as_tensor(timesteps)].reshape(-1, 1, 1, 1)


def predicts(x0_hat: Tensor, x: Tensor, timesteps: Any, scheduler: DDPMScheduler) -> Tensor:
    """What a network of the scheduler's prediction type says if it takes `x0_hat` for the picture."""
    abar = alpha_bar(scheduler, timesteps)
    epsilon = (x.double() - abar.sqrt() * x0_hat) / (1 - abar).sqrt()
    v = abar.sqrt() * epsilon - (1 - abar).sqrt() * x0_hat
    return {"epsilon": epsilon, "sample": x0_hat.expand_as(v), "v_prediction": v}[scheduler.config.prediction_type]


class Fake(nn.Module):
    """A network that says what a function of (x, t) says, and remembers what it was asked."""

    def __init__(self, function: Callable[[Tensor, Any], Tensor], *, channels: int = 3, size: Any = 8) -> None:
        super().__init__()
        self.function = function
        self.config = SimpleNamespace(in_channels=channels, sample_size=size)
        self.parameter = nn.Parameter(torch.zeros(()))
        self.asked: list[tuple[Tensor, Any]] = []

    def forward(self, x: Tensor, t: Any) -> SimpleNamespace:
        self.asked.append((x, t))
        return SimpleNamespace(sample=self.function(x, t))


# --- corrupt --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (6, 1, 8, 12)])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_noisy_pictures_and_targets_are_those_of_diffusers(prediction_type: str, shape: tuple[int, ...]) -> None:
    scheduler = make_scheduler(prediction_type)
    x0 = pictures(*shape)
    noise = DDPMObjective(make_scheduler("epsilon")).corrupt((x0,), generator()).target
    noisy, timesteps, target, weight = DDPMObjective(scheduler).corrupt((x0,), generator())
    assert torch.equal(noisy, scheduler.add_noise(x0, noise, timesteps))
    velocity = scheduler.get_velocity(x0, noise, timesteps)
    assert torch.equal(target, {"epsilon": noise, "sample": x0, "v_prediction": velocity}[prediction_type])
    assert torch.equal(weight, torch.ones(6))
    assert len(set(timesteps.tolist())) > 1
    for i, t in enumerate(timesteps.tolist()):  # sigma, up to 157, multiplies rounding errors
        step = scheduler.step(target[i : i + 1], t, noisy[i : i + 1], generator=generator())
        torch.testing.assert_close(step.pred_original_sample, x0[i : i + 1], rtol=0, atol=1e-4)


def test_the_noise_is_white() -> None:
    noise = DDPMObjective(make_scheduler()).corrupt((torch.zeros(50_000, 2, 1, 2),), generator()).target.flatten(1)
    torch.testing.assert_close(noise.T.cov(), torch.eye(4), rtol=0, atol=0.02)
    assert float(noise.mean().abs()) < 0.01


@pytest.mark.parametrize("sampling", ["uniform", "lognormal"])
def test_a_corruption_is_a_function_of_the_generator(sampling: str) -> None:
    objective = DDPMObjective(make_scheduler(), timestep_sampling=sampling, noise_offset=0.1)
    x0 = pictures(4, 3, 8, 8)
    before, state = x0.clone(), torch.random.get_rng_state()
    first, again, other = (objective.corrupt((x0,), generator(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(getattr(first, name), getattr(other, name)) for name in ("noisy", "timesteps", "target"))
    assert torch.equal(x0, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_noise_offset_is_constant_over_a_channel_of_a_picture() -> None:
    objective = DDPMObjective(make_scheduler(), noise_offset=0.5)
    x0 = torch.zeros(100_000, 2, 1, 2)
    noisy, timesteps, noise, _ = objective.corrupt((x0,), generator())
    channel = torch.tensor([[1.25, 0.25], [0.25, 1.25]])  # 1 + 0.5^2, and what two pixels share
    torch.testing.assert_close(noise.flatten(1).T.cov(), torch.block_diag(channel, channel), rtol=0, atol=0.02)
    assert torch.equal(noisy, objective.scheduler.add_noise(x0, noise, timesteps))


# --- timesteps ------------------------------------------------------------------------------------------------------


def timesteps_of(objective: DDPMObjective, count: int) -> Tensor:
    return objective.corrupt((torch.zeros(count, 1, 1, 1),), generator()).timesteps


def test_uniform_timesteps() -> None:
    timesteps = timesteps_of(DDPMObjective(make_scheduler(num_train_timesteps=100)), 100_000)
    counts = timesteps.bincount()
    assert len(counts) == 100
    assert counts.min() > 840  # of 1000, with deviation 32
    assert counts.max() < 1160
    assert float(timesteps.double().mean()) == pytest.approx(49.5, abs=0.4)


def test_lognormal_timesteps() -> None:
    scheduler = make_scheduler("v_prediction", COSINE)
    timesteps = timesteps_of(DDPMObjective(scheduler, timestep_sampling="lognormal"), 200_000)
    abar = alpha_bar(scheduler, timesteps).flatten()
    log_sigma = ((1 - abar) / abar).log() / 2
    # A sampling error of 0.003, and levels that lie 0.006 apart.
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=0.008)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=0.008)
    quantiles = log_sigma.quantile(torch.tensor([0.1587, 0.8413], dtype=torch.float64))
    assert quantiles.tolist() == pytest.approx([-2.4, 0.0], abs=0.02)


def test_lognormal_timesteps_stay_in_a_short_schedule() -> None:
    scheduler = make_scheduler(num_train_timesteps=50)  # sigma is between 0.01 and 0.8
    timesteps = timesteps_of(DDPMObjective(scheduler, timestep_sampling="lognormal"), 10_000)
    assert (int(timesteps.min()), int(timesteps.max())) == (0, 49)
    sigma = ((1 - scheduler.alphas_cumprod[-2]) / scheduler.alphas_cumprod[-2]).sqrt()
    beyond = 0.5 * math.erfc((math.log(float(sigma)) + 1.2) / 1.2 / math.sqrt(2))
    assert float((timesteps == 49).double().mean()) == pytest.approx(beyond, abs=0.02)


# --- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta_schedule", ["linear", COSINE])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_min_snr_weights(prediction_type: str, beta_schedule: str) -> None:
    """Of every timestep: min(snr, 5) times the squared derivative of x0 by the prediction."""
    scheduler = make_scheduler(prediction_type, beta_schedule)
    corrupted = DDPMObjective(scheduler, snr_gamma=5).corrupt((torch.zeros(20_000, 1, 1, 1),), generator())
    assert len(corrupted.timesteps.unique()) == 1000
    abar = alpha_bar(scheduler, corrupted.timesteps).flatten()
    derivative = {"epsilon": (1 - abar) / abar, "sample": torch.ones_like(abar), "v_prediction": 1 - abar}
    expected = (abar / (1 - abar)).clamp(max=5) * derivative[prediction_type]
    torch.testing.assert_close(corrupted.weight.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_min_snr_weighs_the_error_of_x0(prediction_type: str) -> None:
    scheduler = make_scheduler(prediction_type)
    x0 = pictures(400, 3, 8, 12)
    noisy, timesteps, target, weight = DDPMObjective(scheduler, snr_gamma=5).corrupt((x0,), generator())
    prediction = torch.randn(x0.shape, generator=generator(1))
    abar = alpha_bar(scheduler, timesteps)
    a, b, said, x = abar.sqrt(), (1 - abar).sqrt(), prediction.double(), noisy.double()
    x0_hat = {"epsilon": (x - b * said) / a, "sample": said, "v_prediction": a * x - b * said}[prediction_type]
    snr = (abar / (1 - abar)).flatten()
    expected = snr.clamp(max=5) * (x0_hat - x0).square().mean(dim=(1, 2, 3))
    weighted = weight * (said - target).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(weighted, expected, rtol=1e-5, atol=0)


def test_min_snr_is_the_same_loss_for_every_prediction_type() -> None:
    x0 = pictures(64, 3, 8, 12)
    x0_hat = x0.double() + 0.1 * torch.randn(x0.shape, generator=generator(1))
    losses = []
    for prediction_type in PREDICTION_TYPES:
        objective = DDPMObjective(make_scheduler(prediction_type), snr_gamma=5)
        corrupted = objective.corrupt((x0,), generator())
        said = predicts(x0_hat, corrupted.noisy, corrupted.timesteps, objective.scheduler).float()
        losses.append(float(objective.losses("loss", {"unet": Fake(lambda x, t, y=said: y)}, corrupted)["loss"]))
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_weighted_per_picture_in_single_precision(dtype: torch.dtype) -> None:
    target, said = pictures(3, 1, 4, 6), torch.randn((3, 1, 4, 6), generator=generator()).to(dtype)
    noisy, timesteps, weight = pictures(3, 1, 4, 6) / 2, torch.tensor([1, 500, 999]), torch.tensor([1.0, 0.0, 3.0])
    network = Fake(lambda x, t: said)
    losses = DDPMObjective(make_scheduler()).losses(
        "loss", {"unet": network}, NoisyBatch(noisy, timesteps, target, weight)
    )
    error = (said.double() - target.double()).square().mean(dim=(1, 2, 3))
    assert list(losses) == ["loss"]
    assert losses["loss"].dtype == torch.float32
    assert float(losses["loss"]) == pytest.approx(float((error[0] + 3 * error[2]) / 3), rel=1e-6)
    ((seen, asked),) = network.asked
    assert torch.equal(seen, noisy)
    assert torch.equal(asked, timesteps)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_network_learns_from_grey_pictures_that_are_not_square(prediction_type: str) -> None:
    objective = DDPMObjective(make_scheduler(prediction_type), snr_gamma=5, timestep_sampling="lognormal")
    unet = make_unet(channels=1)
    corrupted = objective.corrupt((pictures(2, 1, 8, 12),), generator())
    objective.losses("loss", {"unet": unet}, corrupted)["loss"].backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in unet.parameters())
    assert float(unet.conv_out.weight.grad.abs().max()) > 0
    assert objective.evaluate({"unet": unet}, (pictures(1, 1, 8, 12),), 0).keys() == {f"psnr_{n}" for n in LEVELS}


# --- evaluate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_perfect_denoiser_makes_no_error(prediction_type: str) -> None:
    scheduler = make_scheduler(prediction_type, COSINE)
    x0 = pictures(1, 3, 8, 12)
    network = Fake(lambda x, t: predicts(x0.double(), x, t, scheduler).float())
    figures = DDPMObjective(scheduler).evaluate({"unet": network}, (x0,), 0)
    assert figures.keys() == {f"psnr_{n}" for n in LEVELS}
    assert all(value.shape == () and float(value) > 100 for value in figures.values())


@pytest.mark.parametrize("beta_schedule", ["linear", COSINE])
def test_a_network_that_sees_no_noise_leaves_it_there(beta_schedule: str) -> None:
    scheduler = make_scheduler("epsilon", beta_schedule)
    figures = DDPMObjective(scheduler).evaluate(
        {"unet": Fake(lambda x, t: torch.zeros_like(x))}, (torch.zeros(1, 3, 128, 160),), 0
    )
    for level in LEVELS:  # of a standard normal z, E min(z, c)^2 is left once x0_hat is clamped to [-1, 1]
        c = 127.5 / level
        beyond, density = math.erfc(c / math.sqrt(2)) / 2, math.exp(-c * c / 2) / math.sqrt(2 * math.pi)
        left = 1 - 2 * (c * density + (1 - c * c) * beyond)
        expected = 20 * math.log10(255 / level) - 10 * math.log10(left)
        assert float(figures[f"psnr_{level}"]) == pytest.approx(expected, abs=0.1)


def test_estimates_are_clamped_to_the_range_of_pictures() -> None:
    network = Fake(lambda x, t: torch.full_like(x, 5))
    figures = DDPMObjective(make_scheduler("sample")).evaluate({"unet": network}, (torch.ones(1, 1, 4, 4),), 0)
    assert all(float(value) == math.inf for value in figures.values())


def test_figures_are_a_function_of_network_picture_and_index() -> None:
    objective, unet, x0 = DDPMObjective(make_scheduler()), make_unet(), pictures(1, 3, 8, 12)
    with torch.no_grad():
        first, again, other = (objective.evaluate({"unet": unet}, (x0,), index) for index in (3, 3, 4))
    assert first == again
    assert all(first[name] != other[name] for name in first)


# --- show -----------------------------------------------------------------------------------------------------------


def gaussian_prior(scheduler: DDPMScheduler, std: float, **config: Any) -> Fake:
    """The network that knows pictures to be N(0, std^2 I)."""

    def predict(x: Tensor, t: Any) -> Tensor:
        abar = alpha_bar(scheduler, t)
        x0_hat = abar.sqrt() * std**2 / (abar * std**2 + 1 - abar) * x.double()
        return predicts(x0_hat, x, t, scheduler).float()

    return Fake(predict, **config)


@pytest.mark.parametrize("std", [0.2, 0.3])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_pictures_of_a_gaussian_prior_have_its_deviation(prediction_type: str, std: float) -> None:
    """Every step of DDIM multiplies the pixels by a number: exactly known, and all together about `std`."""
    scheduler = make_scheduler(prediction_type, COSINE)
    network = gaussian_prior(scheduler, std, size=32)
    shown = DDPMObjective(scheduler).show({"unet": network}, [], range(8))
    levels = [float(alpha_bar(scheduler, t)) for _, t in network.asked] + [1.0]
    factor = 1.0
    for abar, following in itertools.pairwise(levels):
        x0_hat = math.sqrt(abar) * std**2 / (abar * std**2 + 1 - abar)
        epsilon = math.sqrt(1 - abar) / (abar * std**2 + 1 - abar)
        factor *= math.sqrt(following) * x0_hat + math.sqrt(1 - following) * epsilon
    starts = torch.stack([torch.randn((3, 32, 32), generator=generator(i)) for i in range(8)])
    assert float(((factor * starts).clamp(-1, 1) - shown).abs().max()) < 1e-5
    assert float(shown.std()) == pytest.approx(std, rel=0.15)


@pytest.mark.parametrize("num_train_timesteps", [1000, 100, 60, 40, 10])
def test_shown_pictures_begin_where_nothing_is_seen(num_train_timesteps: int) -> None:
    """The start is pure noise, so it must be at a level where a picture has all but vanished."""
    scheduler = make_scheduler("epsilon", COSINE, num_train_timesteps=num_train_timesteps)
    network = gaussian_prior(scheduler, 0.3)
    DDPMObjective(scheduler).show({"unet": network}, [], [0])
    timesteps = [int(t) for _, t in network.asked]
    assert len(timesteps) == min(25, num_train_timesteps)
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert float(scheduler.alphas_cumprod[timesteps[0]]) < 0.03


@pytest.mark.parametrize(
    ("channels", "size", "shape"), [(3, 8, (3, 8, 8)), (1, (8, 12), (1, 8, 12)), (1, [8, 12], (1, 8, 12))]
)
def test_shown_pictures_have_the_size_of_the_network_and_are_in_range(
    channels: int, size: Any, shape: tuple[int, ...]
) -> None:
    network = Fake(lambda x, t: -10 * x, channels=channels, size=size)
    shown = DDPMObjective(make_scheduler()).show({"unet": network}, [], [0, 1])
    assert shown.shape == (2, *shape)
    assert float(shown.abs().max()) == 1


def test_a_shown_picture_is_a_function_of_its_number() -> None:
    scheduler = make_scheduler("v_prediction", COSINE)
    objective, networks = DDPMObjective(scheduler), {"unet": gaussian_prior(scheduler, 0.3)}
    state = torch.random.get_rng_state()
    shown = objective.show(networks, [], [0, 1, 2, 3])
    assert torch.equal(shown, objective.show(networks, [], [0, 1, 2, 3]))
    assert torch.equal(objective.show(networks, [(shown[:1],)], [3, 1]), shown[[3, 1]])
    assert torch.equal(torch.random.get_rng_state(), state)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        ({"variance_type": "learned"}, {}, "variance_type 'learned' can't be trained with"),
        ({"variance_type": "learned_range"}, {}, "variance_type 'learned_range' can't be trained with"),
        ({"prediction_type": "v"}, {}, "no prediction_type named 'v'"),
        ({}, {"timestep_sampling": "log-normal"}, "must be uniform, lognormal or mixed, got 'log-normal'"),
        ({}, {"snr_gamma": 0}, "snr_gamma must be a number > 0, got 0"),
        ({}, {"snr_gamma": math.nan}, "snr_gamma must be a number > 0, got nan"),
        ({}, {"noise_offset": -0.1}, "noise_offset must be a number >= 0, got -0.1"),
    ],
)
def test_what_cannot_be_trained_is_refused(scheduler: dict[str, str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DDPMObjective(make_scheduler(**scheduler), **options)


# --- make_prior -----------------------------------------------------------------------------------------------------


def prior(pretrained: Path | str | None = None, **values: Any) -> tuple[Any, DDPMScheduler]:
    values = {"train_data_dir": "photos", "resolution": 16, "block_out_channels": (8, 16)} | values
    path = None if pretrained is None else str(pretrained)
    return make_prior(build(PriorConfig, values | {"pretrained_model_name_or_path": path}))


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_new_weights_are_a_function_of_the_seed() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (prior(seed=seed)[0] for seed in (1, 1, 2))
    assert same_weights(first, again)
    assert not torch.equal(first.conv_in.weight, other.conv_in.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_new_prior_is_what_the_options_say() -> None:
    unet, scheduler = prior(
        channels=1,
        resolution=24,
        block_out_channels=(8, 12, 20),
        layers_per_block=2,
        dropout=0.1,
        prediction_type="sample",
        beta_schedule="scaled_linear",
        num_train_timesteps=300,
    )
    config = unet.config
    assert (config.in_channels, config.out_channels, config.sample_size) == (1, 1, 24)
    assert (tuple(config.block_out_channels), config.layers_per_block, config.dropout) == ((8, 12, 20), 2, 0.1)
    assert unet(pictures(1, 1, 24, 8), 0).sample.shape == (1, 1, 24, 8)
    schedule = scheduler.config
    assert (schedule.prediction_type, schedule.beta_schedule, schedule.num_train_timesteps) == (
        "sample",
        "scaled_linear",
        300,
    )


@pytest.mark.parametrize("widths", [(7, 9), (48, 80), (8,), (16, 16, 32, 32, 64)])
def test_widths_of_every_kind_make_a_network(widths: tuple[int, ...]) -> None:
    unet, _ = prior(block_out_channels=widths)
    assert unet(pictures(1, 3, 16, 16), 0).sample.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("at_root", [False, True])
@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_network_and_schedule_of_a_repository(scheduler_class: Any, at_root: bool, write_repo: WriteRepo) -> None:
    unet = make_unet().half()
    schedule = {"prediction_type": "epsilon", "num_train_timesteps": 500, "beta_schedule": "scaled_linear"}
    repo = write_repo(unet, scheduler_class(**schedule), at_root=at_root)
    loaded, scheduler = prior(repo, prediction_type="v_prediction", num_train_timesteps=10, block_out_channels=(32,))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert same_weights(loaded, unet.float())
    assert type(scheduler) is DDPMScheduler
    assert {name: scheduler.config[name] for name in schedule} == schedule


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_errors_of_x0_are_those_of_a_gaussian_prior(prediction_type: str) -> None:
    """Of x0 ~ N(0, s^2), the best x0_hat = s^2 / (s^2 + sigma^2) x_noisy is off by s^2 sigma^2 / (s^2 + sigma^2)."""
    scheduler, s2 = make_scheduler(prediction_type, "squaredcos_cap_v2"), 0.25

    def best(noisy: Tensor, timestep: int) -> Any:
        abar = float(scheduler.alphas_cumprod[timestep])
        x0_hat = noisy * (abar**0.5 * s2 / (abar * s2 + 1 - abar))
        return SimpleNamespace(sample=predicts(x0_hat, noisy, torch.tensor([timestep]), scheduler))

    clean = [0.5 * torch.randn(1, 3, 64, 64, generator=generator(100 + i)) for i in range(4)]
    found = x0_errors(best, scheduler, clean)  # type: ignore[arg-type]
    sigmas = [sigma for sigma, _ in found]
    assert 14 <= len(found) <= 16
    assert sigmas == sorted(sigmas)
    abar = scheduler.alphas_cumprod.double()
    assert sigmas[0] == pytest.approx(float(((1 - abar[0]) / abar[0]) ** 0.5), rel=1e-4)
    assert sigmas[-1] == pytest.approx(80, rel=0.1)
    for sigma, error in found:
        assert error == pytest.approx(s2 * sigma**2 / (s2 + sigma**2), rel=0.03)


def test_a_schedule_without_signal_at_the_end_has_no_infinite_error() -> None:
    scheduler = DDPMScheduler(beta_schedule="linear", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    network: Any = lambda noisy, timestep: SimpleNamespace(sample=torch.zeros_like(noisy))  # noqa: E731
    found = x0_errors(network, scheduler, [torch.zeros(1, 1, 4, 4)])
    assert all(math.isfinite(value) for pair in found for value in pair)


def test_the_bundled_prior_can_be_trained_on() -> None:
    unet, scheduler = prior(diffusers_restore.DEFAULT_PRIOR)
    corrupted = DDPMObjective(scheduler).corrupt((pictures(1, 3, 16, 16),), generator())
    unet(corrupted.noisy, corrupted.timesteps)


def test_a_residual_network_of_a_repository_is_gone_on_with(write_repo: WriteRepo) -> None:
    unet, scheduler = make_residual_unet(), DDPMScheduler(prediction_type="v_prediction")
    loaded, its = prior(write_repo(unet, scheduler))
    assert same_weights(loaded, unet)
    assert its.config.prediction_type == "v_prediction"
    with pytest.raises(InvalidInputError, match="resolution must be a multiple of 4"):
        prior(write_repo(unet, name="again"), resolution=18)
    with pytest.raises(InvalidInputError, match="class-conditional"):
        prior(write_repo(make_residual_unet(num_class_embeds=4), name="classes"))


def test_other_channels_than_those_of_the_repository(write_repo: WriteRepo) -> None:
    repo = write_repo(make_unet())
    with pytest.raises(InvalidInputError, match="has 3 input and 3 output channels; channels=1 pictures need 1"):
        prior(repo, channels=1)
    learned = write_repo(make_unet(out_channels=6), DDPMScheduler(variance_type="learned_range"), name="learned")
    with pytest.raises(InvalidInputError, match="has 3 input and 6 output channels"):
        prior(learned)


@pytest.mark.parametrize(
    "scheduler",
    [
        ScoreSdeVeScheduler(),
        CMStochasticIterativeScheduler(),
        EDMEulerScheduler(),
        DDPMScheduler(rescale_betas_zero_snr=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_repository_that_is_no_ddpm_is_refused(scheduler: Any, write_repo: WriteRepo) -> None:
    with pytest.raises(InvalidInputError, match="scheduler"):
        prior(write_repo(make_unet(), scheduler))


def test_a_repository_with_classes_is_refused(write_repo: WriteRepo) -> None:
    repo = write_repo(make_unet(num_class_embeds=4))
    with pytest.raises(InvalidInputError, match="class-conditional"):
        prior(repo)


def test_a_resolution_that_the_network_of_a_repository_cannot_halve(write_repo: WriteRepo) -> None:
    repo = write_repo(make_unet(levels=3))
    assert prior(repo, resolution=20)[0].config.in_channels == 3
    with pytest.raises(InvalidInputError, match="resolution must be a multiple of 4"):
        prior(repo, resolution=18)
    with pytest.raises(InvalidInputError, match="validation_resolution must be a multiple of 4"):
        prior(repo, validation_resolution=18)


def test_a_repository_that_does_not_say_its_size(write_repo: WriteRepo) -> None:
    unnamed = make_unet()
    unnamed.register_to_config(sample_size=None)
    unet, scheduler = prior(write_repo(unnamed), resolution=8)
    with torch.no_grad():
        assert DDPMObjective(scheduler).show({"unet": unet}, [], [0]).shape == (1, 3, 8, 8)


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="absent"):
        prior(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="empty"):
        prior(tmp_path / "empty")


def test_restorations_that_are_worse_than_what_they_were_made_from_are_told_of() -> None:
    restorer = ColdObjective(ColdDiffusionScheduler(Blur(2)))
    found = restorer.find_worse({"psnr": 40.0, "psnr_restored": 16.5, "psnr_degraded": 29.6})
    assert str(found).endswith("16.50 dB against 29.60 dB of the degraded pictures")
    assert restorer.find_worse({"psnr": 10.0, "psnr_restored": 29.6, "psnr_degraded": 29.6}) is None
    assert restorer.find_worse({}) is None  # nothing was held out
    prior = DDPMObjective(DDPMScheduler())
    assert prior.find_worse({"psnr_25": 1.0, "psnr_degraded": 2.0}) is None
