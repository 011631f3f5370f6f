"""The prior of Cold Diffusion: what it is fitted to, what it draws, and how it is stored."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusers_restore import GaussianMixturePrior
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.models.gaussian_mixture import thumbnails

WEIGHTS = torch.tensor([0.3, 0.7])
MEANS = torch.tensor([[-0.5, 0.1, 0.3], [0.4, 0.0, -0.3]])
TRILS = torch.tensor(
    [
        [[0.10, 0.00, 0.00], [0.05, 0.08, 0.00], [-0.04, 0.02, 0.06]],
        [[0.07, 0.00, 0.00], [-0.06, 0.09, 0.00], [0.03, 0.03, 0.12]],
    ]
)
COVARIANCES = TRILS @ TRILS.mT


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def known(**config: Any) -> GaussianMixturePrior:
    """A mixture of two in three dimensions, well apart."""
    prior = GaussianMixturePrior(components=2, **config)
    prior.weights.copy_(WEIGHTS)
    prior.means.copy_(MEANS)
    prior.scale_tril.copy_(TRILS)
    return prior


def fixed(m: torch.Tensor, **config: Any) -> GaussianMixturePrior:
    """Always draws the thumbnail m (C, h, w)."""
    channels, height, width = m.shape
    prior = GaussianMixturePrior(channels=channels, height=height, width=width, **config)
    prior.means.copy_(m.reshape(1, -1))
    prior.scale_tril.zero_()
    return prior


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Thumbnails (count, 3, 1, 1) of the known mixture, drawn without the class, and which component each is of."""
    generator = seeded(seed)[0]
    chosen = (torch.rand(count, generator=generator, dtype=torch.float64) > WEIGHTS[0]).long()
    z = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    rows = MEANS[chosen] + (TRILS[chosen].double() @ z[:, :, None])[:, :, 0]
    return rows.reshape(count, 3, 1, 1), chosen


def moments(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = rows.double().mean(dim=0)
    return mean, (rows.double() - mean).mT @ (rows.double() - mean) / len(rows)


def sampled_as(rows: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor, errors: float = 4.5) -> bool:
    """Mean and covariance of normal rows are as they should be, to so many standard errors."""
    got_mean, got = moments(rows)
    variances = covariance.diagonal()
    mean_error = (variances / len(rows)).sqrt()
    error = ((variances[:, None] * variances + covariance.square()) / len(rows)).sqrt()
    return bool(
        ((got_mean - mean).abs() < errors * mean_error).all() and ((got - covariance).abs() < errors * error).all()
    )


# Fitting


def test_a_known_mixture_is_found() -> None:
    pictures, chosen = data(6000, seed=1)
    prior = GaussianMixturePrior.fit(pictures, 2)
    order = prior.means[:, 0].argsort()
    covariances = prior.scale_tril @ prior.scale_tril.mT
    weights = prior.weights[order]
    assert abs(float(weights[0]) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 6000)
    assert abs(float(weights.sum()) - 1) < 1e-6
    for k in range(2):
        # The components are so far apart that each is what its own thumbnails are, but for the regularisation 1e-6.
        mean, covariance = moments(pictures[chosen == k].flatten(1))
        assert (prior.means[order[k]] - mean).abs().max() < 1e-3
        assert (covariances[order[k]] - covariance).abs().max() < 2e-4
        assert abs(float(weights[k]) - float((chosen == k).double().mean())) < 1e-3
        assert sampled_as(pictures[chosen == k].flatten(1), prior.means[order[k]], covariances[order[k]])
        assert sampled_as(pictures[chosen == k].flatten(1), MEANS[k], COVARIANCES[k])
    assert torch.equal(prior.scale_tril, prior.scale_tril.tril())
    assert (prior.scale_tril.diagonal(dim1=1, dim2=2) > 0).all()
    assert prior.config.components == 2


def test_one_component_is_mean_and_covariance_of_the_thumbnails() -> None:
    pictures = torch.rand(200, 2, 2, 3, generator=seeded(2)[0]) * 2 - 1
    prior = GaussianMixturePrior.fit(pictures.float(), 1, upsample="bilinear", noise_std=0.5)
    mean, covariance = moments(pictures.flatten(1))
    assert (prior.means[0] - mean).abs().max() < 1e-6
    regularised = covariance + 1e-6 * torch.eye(12)
    assert (prior.scale_tril[0] @ prior.scale_tril[0].mT - regularised).abs().max() < 1e-6
    assert torch.equal(prior.weights, torch.ones(1))
    config = {name: prior.config[name] for name in ("channels", "height", "width", "components")}
    assert config == {"channels": 2, "height": 2, "width": 3, "components": 1}
    assert (prior.config.upsample, prior.config.noise_std) == ("bilinear", 0.5)


def test_a_fit_is_the_same_for_the_same_seed_and_leaves_its_input_alone() -> None:
    pictures, _ = data(300, seed=3)
    before = pictures.clone()
    global_state = torch.random.get_rng_state()
    first, second, other = (GaussianMixturePrior.fit(pictures, 4, seed=seed).means for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(pictures, before)
    assert torch.equal(torch.random.get_rng_state(), global_state)


def test_halves_are_fitted_too() -> None:
    pictures, _ = data(300, seed=3)
    full, half = (GaussianMixturePrior.fit(pictures.to(dtype), 1) for dtype in (torch.float64, torch.bfloat16))
    assert half.means.dtype == torch.float32
    assert 0 < (full.means - half.means).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("pictures", "components", "message"),
    [
        (torch.zeros(10, 3), 1, r"thumbnails must be a float tensor \(N, C, h, w\), got torch.float32 \(10, 3\)"),
        (torch.full((10, 3, 1, 1), math.nan), 1, "thumbnails must be finite, got NaN or Inf"),
        (torch.full((10, 3, 1, 1), math.inf), 1, "thumbnails must be finite, got NaN or Inf"),
        (torch.rand(10, 3, 1, 1), 0, "components must be a whole number >= 1, got 0"),
        (torch.rand(10, 3, 1, 1), 2.0, "components must be a whole number >= 1, got 2.0"),
        (torch.rand(10, 3, 1, 1), 10, "10 components of 3 numbers need more than 10 thumbnails, got 10"),
        (torch.rand(12, 3, 2, 2), 1, "1 components of 12 numbers need more than 12 thumbnails, got 12"),
        ([[0.0]], 1, r"thumbnails must be a float tensor \(N, C, h, w\), got \[\[0.0\]\]"),
        (torch.zeros(10, 3, 1, 1, dtype=torch.uint8), 1, "thumbnails must be a float tensor .*, got torch.uint8"),
    ],
)
def test_what_cannot_be_fitted_is_refused(pictures: Any, components: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        GaussianMixturePrior.fit(pictures, components)


def test_fitting_needs_an_extra_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn: pip install 'diffusers-restore\[train\]'"):
        GaussianMixturePrior.fit(torch.rand(10, 3, 1, 1), 1)
    assert known().sample(1, 2, 2).shape == (1, 3, 2, 2)  # drawing doesn't


# Drawing


def test_draws_have_the_mean_and_the_covariance_of_their_component() -> None:
    """Wide apart, so that each draw tells its component; a factor of sqrt 2 would be 30 standard errors."""
    rows = known(noise_std=0.0).sample(8000, 1, 1, seeded(1)[0]).flatten(1)
    second = rows[:, 0] > (MEANS[:, 0].sum() / 2)
    assert abs(float(second.double().mean()) - 0.7) < 4 * math.sqrt(0.3 * 0.7 / 8000)
    for k, chosen in enumerate((~second, second)):
        assert sampled_as(rows[chosen], MEANS[k].double(), COVARIANCES[k].double())
        assert not sampled_as(rows[chosen], MEANS[k].double(), 1.25 * COVARIANCES[k].double())


def test_the_noise_is_one_of_its_own_for_each_pixel() -> None:
    m = torch.tensor([0.3, -0.2, 0.1]).reshape(3, 1, 1)
    x = fixed(m, noise_std=0.05).sample(2, 60, 40, seeded(2)[0]) - m
    noise = x.permute(0, 2, 3, 1).reshape(-1, 3)
    assert sampled_as(noise, torch.zeros(3).double(), 0.05**2 * torch.eye(3).double())
    neighbours = torch.stack([x[..., 1:].flatten(), x[..., :-1].flatten()], dim=1)
    assert sampled_as(neighbours, torch.zeros(2).double(), 0.05**2 * torch.eye(2).double())
    assert fixed(m).config.noise_std == 0.002


def test_without_noise_a_picture_is_its_thumbnail() -> None:
    x = known(noise_std=0.0).sample(3, 4, 6, seeded(1)[0])
    assert torch.equal(x, x[:, :, :1, :1].expand(3, 3, 4, 6))
    assert torch.equal(x[:, :, 0, 0], known(noise_std=0.0).sample(3, 1, 1, seeded(1)[0])[:, :, 0, 0])


def test_thumbnails_are_spread_by_their_nearest() -> None:
    m = torch.arange(12.0).reshape(2, 2, 3) / 12
    prior = fixed(m, noise_std=0.0)
    assert torch.equal(prior.sample(2, 2, 3), m.expand(2, 2, 2, 3))
    wanted = m.repeat_interleave(4, dim=1).repeat_interleave(2, dim=2)
    assert torch.equal(prior.sample(1, 8, 6)[0], wanted)
    assert prior.sample(1, 5, 7).shape == (1, 2, 5, 7)


def test_thumbnails_are_spread_bilinearly() -> None:
    """From pixel centre to pixel centre; the border is continued."""
    m = torch.tensor([[[0.0, 1.0]], [[1.0, -1.0]]])  # (2, 1, 2)
    x = fixed(m, noise_std=0.0, upsample="bilinear").sample(1, 3, 4)[0]
    share = torch.tensor([0.0, 0.25, 0.75, 1.0])
    assert (x[0] - share).abs().max() < 1e-6
    assert (x[1] - (1 - 2 * share)).abs().max() < 1e-6
    tall = fixed(m.mT.contiguous(), noise_std=0.0, upsample="bilinear").sample(1, 4, 1)[0]
    assert (tall[0, :, 0] - share).abs().max() < 1e-6


def test_a_list_of_generators_draws_single_pictures() -> None:
    prior = known()
    both = prior.sample(3, 4, 6, seeded(4, 5, 6))
    assert torch.equal(both, torch.cat([prior.sample(1, 4, 6, seeded(seed)[0]) for seed in (4, 5, 6)]))
    assert len({one.tobytes() for one in both.numpy()}) == 3
    first, second = (prior.sample(3, 4, 6, seeded(4)[0]) for _ in "ab")
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_the_global_random_state_is_only_used_without_a_generator() -> None:
    prior = known()
    before = torch.random.get_rng_state()
    x = prior.sample(2, 4, 6, seeded(1)[0])
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(prior.sample(2, 4, 6), x)


def test_draws_are_float32_and_without_gradients() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        prior = known().to(dtype)
        assert prior.means.dtype == dtype
        x = prior.sample(2, 4, 6, seeded(1)[0])
        assert x.dtype == torch.float32
        assert not x.requires_grad
        assert (x - known().sample(2, 4, 6, seeded(1)[0])).abs().max() < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number >= 1, got 2.0"),
        ({"height": 0}, "height must be a whole number >= 1, got 0"),
        ({"width": 2.5}, "width must be a whole number >= 1, got 2.5"),
        ({"generator": 0}, "generator must be a torch.Generator or a list of them, got 0"),
        ({"generator": [0, 1]}, "generator must be a torch.Generator or a list of them, got"),
        ({"generator": seeded(1, 2, 3)}, "generator must be one, or a list of 2 for this batch; got 3"),
    ],
)
def test_bad_draws_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        known().sample(**{"batch_size": 2, "height": 4, "width": 6, **arguments})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"channels": 0}, "channels must be a whole number >= 1, got 0"),
        ({"height": -1}, "height must be a whole number >= 1, got -1"),
        ({"width": 1.5}, "width must be a whole number >= 1, got 1.5"),
        ({"components": 0}, "components must be a whole number >= 1, got 0"),
        ({"upsample": "bicubic"}, "upsample must be one of nearest, bilinear, got 'bicubic'"),
        ({"noise_std": -0.1}, "noise_std must be a number >= 0, got -0.1"),
        ({"noise_std": math.nan}, "noise_std must be a number >= 0, got nan"),
    ],
)
def test_bad_configurations_are_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        GaussianMixturePrior(**config)


def test_a_new_prior_is_standard_normal() -> None:
    prior = GaussianMixturePrior(channels=2, height=2, width=1, components=4, noise_std=0.0)
    assert torch.equal(prior.weights, torch.full((4,), 0.25))
    rows = prior.sample(3000, 2, 1, seeded(1)[0]).flatten(1)
    assert sampled_as(rows, torch.zeros(4).double(), torch.eye(4).double())


# Storing


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    prior = GaussianMixturePrior.fit(
        torch.rand(60, 3, 2, 2, generator=seeded(1)[0]), 2, upsample="bilinear", noise_std=0.01
    )
    prior.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert set(load_file(tmp_path / "diffusion_pytorch_model.safetensors")) == {"weights", "means", "scale_tril"}
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "GaussianMixturePrior"
    loaded = GaussianMixturePrior.from_pretrained(tmp_path)
    ours = {name: value for name, value in prior.config.items() if not name.startswith("_")}
    assert ours == {name: value for name, value in loaded.config.items() if not name.startswith("_")}
    assert set(prior.state_dict()) == set(loaded.state_dict())
    assert all(torch.equal(value, prior.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(prior.sample(2, 8, 6, seeded(1)[0]), loaded.sample(2, 8, 6, seeded(1)[0]))


# Thumbnails


def test_thumbnails_are_means_of_blocks() -> None:
    pictures = torch.rand(2, 3, 8, 12, generator=seeded(1)[0])
    wanted = pictures.reshape(2, 3, 2, 4, 3, 4).mean(dim=(3, 5))
    assert (thumbnails(pictures, (2, 3)) - wanted).abs().max() < 1e-6
    assert (thumbnails(pictures, (1, 1)) - pictures.mean(dim=(2, 3), keepdim=True)).abs().max() < 1e-6
    assert torch.equal(thumbnails(pictures, (8, 12)), pictures)
    assert thumbnails(pictures, (3, 5)).shape == (2, 3, 3, 5)  # blocks that overlap


def test_a_prior_of_thumbnails_draws_their_like() -> None:
    """Pictures -> thumbnails -> fit -> draws: with one component, the same means and covariances."""
    pictures = torch.rand(500, 2, 4, 4, generator=seeded(1)[0])
    small = thumbnails(pictures, (1, 2))
    prior = GaussianMixturePrior.fit(small, 1, noise_std=0.0)
    rows = thumbnails(prior.sample(4000, 4, 4, seeded(2)[0]), (1, 2)).flatten(1)
    assert sampled_as(rows, *moments(small.flatten(1)))
