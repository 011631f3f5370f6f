"""Recipes: seeds, batches and severities; each operation against numbers, JPEG against Pillow, draws against papers."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data, feature
from torch import Tensor
from torch.nn import functional

from diffusers_restore.degradations import Synthetic, check_degradation, recipes
from diffusers_restore.degradations.recipes import RECIPES, Plan, Recipe, create, seeds_from
from diffusers_restore.degradations.recipes.ageing import clouds, crease, strokes
from diffusers_restore.degradations.recipes.canny import canny
from diffusers_restore.degradations.recipes.kernels import elliptic, kernel, sinc, stack
from diffusers_restore.degradations.recipes.operations import blur, poisson, resize
from diffusers_restore.degradations.recipes.steps import resized
from diffusers_restore.errors import InvalidInputError, UnknownNameError
from diffusers_restore.jpeg import jpeg
from diffusers_restore.schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler

EXAMPLES: dict[str, Recipe] = {
    "blind": create("blind"),
    "edges": create("edges"),
    "edges of one fineness": create("edges", sigma_min=1.0, sigma_max=1),
    "old_photos": create("old_photos"),
    "scratched": create("old_photos", scratches=True),
    "old_photo_full": create("old_photo_full"),
    "bsrgan": create("bsrgan"),
    "bsrgan of one size": create("bsrgan", scale=1),
    "bsrgan_plus": create("bsrgan_plus", scale=2),
    "real_esrgan": create("real_esrgan"),
    "real_esrgan of one size": create("real_esrgan", scale=1),
}
ALL = pytest.mark.parametrize("recipe", EXAMPLES.values(), ids=list(EXAMPLES))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(*shape: int, seed: int = 0) -> Tensor:
    """Smooth shades with edges and some grain, in 8 bits as a photograph."""
    count, channels, height, width = shape
    coarse = torch.rand(count, channels, 5, 6, generator=seeded(seed), dtype=torch.float64)
    smooth = functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    edges = (smooth[:, :1] > 0.5) * 0.25
    grain = 0.03 * torch.randn(shape, generator=seeded(seed + 1), dtype=torch.float64)
    return (((smooth * 0.7 + edges + grain).clamp(0, 1) * 255).round() / 127.5 - 1).float()


def carried_out(x: Tensor, *steps: dict[str, Any], severity: float = 1.0) -> Tensor:
    """One plan for all pictures of `x`, in [0, 1] and float64, of size H x W or for `Plan` to bring back."""
    plan = Plan("blind", steps)
    degraded = create("blind").apply(x.double() * 2 - 1, [plan] * len(x), severity).degraded
    return (degraded + 1) / 2


def grey(value: float, *, channels: int = 3, size: int = 256) -> Tensor:
    return torch.full((1, channels, size, size), value, dtype=torch.float64)


def noise(op: str, **numbers: Any) -> dict[str, Any]:
    return {"op": op, "seed": 7, **numbers}


# Every one of them


def test_every_registered_recipe_has_an_example() -> None:
    assert {recipe.kind for recipe in EXAMPLES.values()} == set(RECIPES)


@ALL
def test_a_batch_is_its_pictures_one_by_one(recipe: Recipe) -> None:
    x = photographs(8, 3, 64, 64)
    seeds = seeds_from(seeded(3), 8)
    whole = recipe(x, seeds)
    parts = [recipe(x[:3], seeds[:3]), recipe(x[3:], seeds[3:])]
    singles = [recipe(x[i : i + 1], seeds[i : i + 1]) for i in range(8)]
    for some in (parts, singles):
        for i, wanted in enumerate(whole):
            assert (torch.cat([one[i] for one in some]) - wanted).abs().max() < 1e-6
    mixed = torch.tensor([0, 0.3, 1, 0.5, 0.7, 0.1, 0.9, 1])
    plans = recipe.sample(seeds, 64, 64)
    together = recipe.apply(x, plans, mixed).degraded
    for i in range(8):
        alone = recipe.apply(x[i : i + 1], plans[i : i + 1], float(mixed[i])).degraded
        assert (alone - together[i : i + 1]).abs().max() < 1e-6


@ALL
def test_seeds_decide_everything(recipe: Recipe) -> None:
    x = photographs(8, 3, 33, 47)
    before = x.clone()
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # of others
    one, again = recipe(x, range(8)), recipe(x, range(8))
    other = recipe(x, range(8, 16))
    assert torch.equal(one.degraded, again.degraded)
    assert torch.equal(one.mask, again.mask)
    different = (one.degraded != other.degraded).flatten(1).any(dim=1)
    drawn = recipe.sample(range(8), 33, 47) != recipe.sample(range(8, 16), 33, 47)
    assert different.sum() >= 7 if drawn else not different.any()
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


@ALL
@pytest.mark.parametrize("channels", [1, 3])
def test_results_are_pictures_of_the_same_kind(recipe: Recipe, channels: int) -> None:
    for size in ((33, 47), (64, 64), (8, 1)):
        x = photographs(5, channels, *size)
        for dtype in (torch.float32, torch.float64, torch.float16):
            damage = recipe(x.to(dtype), range(5))
            assert damage.degraded.shape == damage.clean.shape == x.shape
            assert damage.mask.shape == (5, 1, *size)
            assert {one.dtype for one in damage} == {dtype}
            assert damage.degraded.isfinite().all()
            assert damage.degraded.abs().max() <= 1
            assert ((damage.mask == 0) | (damage.mask == 1)).all()
            if dtype == torch.float16:  # computed in full, and rounded once
                full = recipe(x.to(dtype).float(), range(5)).degraded
                assert torch.equal(damage.degraded, full.to(dtype))


@ALL
def test_severity_goes_from_the_picture_to_the_whole_damage(recipe: Recipe) -> None:
    x = photographs(24, 3, 48, 40)
    plans = recipe.sample(range(24), 48, 40)
    nothing = recipe.apply(x, plans, 0)
    assert torch.equal(nothing.degraded, x)
    assert torch.equal(nothing.clean, x)
    assert not nothing.mask.any()
    assert torch.equal(recipe.apply(x, plans, 1.0).degraded, recipe(x, range(24)).degraded)
    distances = [(recipe.apply(x, plans, s / 5).degraded - x).square().mean() for s in range(6)]
    assert all(near < far for near, far in pairwise(distances))
    assert distances[5] > 1e-3


@ALL
def test_plans_are_json(recipe: Recipe) -> None:
    x = photographs(12, 3, 40, 48)
    plans = recipe.sample(range(12), 40, 48)
    again = [Plan.from_json(json.loads(json.dumps(plan.to_json()))) for plan in plans]
    assert again == plans
    assert torch.equal(recipe.apply(x, again).degraded, recipe.apply(x, plans).degraded)
    assert recipe.sample([5, 11], 40, 48) == [plans[5], plans[11]]
    copied = recipes.from_config(json.loads(json.dumps(recipe.to_config())))
    assert copied == recipe
    assert hash(pickle.loads(pickle.dumps(recipe))) == hash(recipe)


def test_gradients_and_inference_mode() -> None:
    x = photographs(4, 3, 24, 24)
    with torch.inference_mode():
        wanted = EXAMPLES["scratched"](x, range(4)).degraded.clone()
    x.requires_grad_()
    for recipe in EXAMPLES.values():
        recipe(x, range(4)).degraded.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
    assert torch.equal(EXAMPLES["scratched"](x, range(4)).degraded, wanted)


# Operations


def test_gaussian_noise_has_its_width() -> None:
    for value, severity in ((0.5, 1.0), (0.4, 0.3)):
        y = carried_out(grey(value), noise("gaussian", sigma=0.05, grey=False), severity=severity)[0]
        assert float((y - value).std()) == pytest.approx(0.05 * severity, rel=0.03)
        assert abs(float((y - value).mean())) < 1e-3
        correlation = torch.corrcoef((y - value).flatten(1))
        assert (correlation - torch.eye(3)).abs().max() < 0.02
    same = carried_out(grey(0.5), noise("gaussian", sigma=0.05, grey=True))[0]
    assert (same[0] - same[2]).abs().max() < 1e-12
    assert float((same - 0.5).std()) == pytest.approx(0.05, rel=0.03)


def test_speckle_grows_with_the_light() -> None:
    for value in (0.2, 0.6):
        y = carried_out(grey(value), noise("speckle", sigma=0.1, grey=False))
        assert float((y - value).std()) == pytest.approx(0.1 * value, rel=0.03)


@pytest.mark.parametrize("mean", [2.0, 10.0, 128.0])
def test_poisson_noise_has_the_moments_of_counts(mean: float) -> None:
    z = torch.randn(1, 3, 400, 400, generator=seeded(), dtype=torch.float64)
    x = torch.full_like(z, mean / 255)
    counts = (x + poisson(x, z, torch.tensor([255.0]), grey=torch.tensor([False]))) * 255
    wanted = torch.poisson(torch.full_like(z, mean), generator=seeded(1))
    assert float(counts.mean()) == pytest.approx(float(wanted.mean()), rel=0.01)
    assert float(counts.var()) == pytest.approx(float(wanted.var()), rel=0.03)
    skewness = [float(((one - one.mean()) / one.std()).pow(3).mean()) for one in (counts, wanted)]
    assert skewness[0] == pytest.approx(skewness[1], abs=0.1)
    y = carried_out(grey(mean / 255), noise("poisson", rate=255.0, scale=2.0, grey=False))
    if mean > 100:  # otherwise clipped
        assert float(y.var()) == pytest.approx(4 * mean / 255**2, rel=0.03)
    assert carried_out(grey(0.0), noise("poisson", rate=255.0, scale=3.0, grey=False)).max() < 1e-6


def test_grey_poisson_noise_is_that_of_the_luma() -> None:
    x = torch.cat([grey(0.8, channels=1), grey(0.3, channels=1), grey(0.5, channels=1)], dim=1)
    added = (carried_out(x, noise("poisson", rate=500.0, scale=1.0, grey=True)) - x)[0]
    assert (added[0] - added[1]).abs().max() < 1e-12
    light = 0.299 * 0.8 + 0.587 * 0.3 + 0.114 * 0.5
    assert float(added.var()) == pytest.approx(light / 500, rel=0.03)


def test_salt_and_pepper_on_its_share_of_values() -> None:
    step = noise("salt_and_pepper", amount=0.02, salt=0.7)
    y = carried_out(grey(0.5, size=512), step)
    assert float((y != 0.5).double().mean()) == pytest.approx(0.02, rel=0.03)
    assert float((y[y != 0.5] == 1).double().mean()) == pytest.approx(0.7, abs=0.02)
    assert ((y != 0.5).sum(dim=1) == 3).sum() < 20  # each channel by itself
    less = carried_out(grey(0.5, size=512), step, severity=0.4)
    assert float((less != 0.5).double().mean()) == pytest.approx(0.008, rel=0.06)
    assert torch.equal(less[less != 0.5], y[less != 0.5])


def test_correlated_noise_has_its_covariance() -> None:
    mixing = [[0.05, 0.0, 0.01], [0.03, 0.02, 0.0], [-0.02, 0.03, 0.02]]
    y = carried_out(grey(0.5), noise("correlated", mixing=mixing))[0]
    matrix = torch.tensor(mixing, dtype=torch.float64)
    assert (torch.cov(y.flatten(1)) - matrix @ matrix.mT).abs().max() < 4e-5
    alone = carried_out(grey(0.5, channels=1), noise("correlated", mixing=mixing))
    assert float(alone.var()) == pytest.approx(float((matrix @ matrix.mT).trace()) / 3, rel=0.03)


def test_noise_is_the_same_at_every_severity() -> None:
    x = photographs(1, 3, 32, 32).double() * 0.5
    plan = [Plan("blind", [noise("gaussian", sigma=0.02, grey=False)])]
    full = create("blind").apply(x, plan).degraded - x
    half = create("blind").apply(x, plan, 0.5).degraded - x
    assert (half - full / 2).abs().max() < 1e-12


@pytest.mark.parametrize("sigma", [0.8, 2.0, 3.0])
def test_a_kernel_has_the_variance_it_says(sigma: float) -> None:
    k = elliptic(25, sigma, sigma)
    offset = torch.arange(25, dtype=torch.float64) - 12
    assert float((k.sum(dim=0) * offset**2).sum()) == pytest.approx(sigma**2, rel=0.01)
    taps = torch.exp(-(offset**2) / (2 * sigma**2))
    assert torch.allclose(k, torch.outer(taps, taps) / taps.sum() ** 2)


def test_a_turned_kernel_has_the_covariance_it_says() -> None:
    theta = 0.6
    k = elliptic(61, 4.0, 1.5, theta)
    offset = torch.arange(61, dtype=torch.float64) - 30
    points = torch.stack(torch.meshgrid(offset, offset, indexing="xy")).flatten(1)
    axes = torch.tensor([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]]).double()
    wanted = axes @ torch.tensor([[16.0, 0.0], [0.0, 2.25]]).double() @ axes.mT
    assert ((points * k.flatten()) @ points.mT - wanted).abs().max() < 0.02


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("plateau", [False, True])
def test_kernels_pixel_by_pixel(beta: float, plateau: bool) -> None:
    sigma_x, sigma_y, theta = 2.0, 0.7, -0.9
    k = elliptic(9, sigma_x, sigma_y, theta, beta=beta, plateau=plateau)
    assert float(k.sum()) == pytest.approx(1)
    for row, column in ((0, 0), (4, 5), (2, 3), (7, 1)):
        dx, dy = column - 4, row - 4
        along, across = dx * math.cos(theta) + dy * math.sin(theta), dy * math.cos(theta) - dx * math.sin(theta)
        q = (along / sigma_x) ** 2 + (across / sigma_y) ** 2
        wanted = 1 / (1 + q**beta) if plateau else math.exp(-(q**beta) / 2)
        assert float(k[row, column] / k[4, 4]) == pytest.approx(wanted, rel=1e-9)


def test_a_blur_may_be_as_wide_as_the_picture_is_large() -> None:
    x = (photographs(1, 3, 64, 80) + 1) / 2
    for step, wanted in (
        ({"kernel": "iso", "size": 7, "sigma": 3.0}, {"kernel": "iso", "size": 5, "sigma": 1.5}),
        ({"kernel": "sinc", "size": 9, "cutoff": 1.2}, {"kernel": "sinc", "size": 5, "cutoff": 2.4}),
        ({"kernel": "sinc", "size": 9, "cutoff": 2.0}, {"kernel": "sinc", "size": 5, "cutoff": math.pi}),
        (
            {"kernel": "aniso", "size": 13, "sigma_x": 2.0, "sigma_y": 1.0, "theta": 0.3},
            {"kernel": "aniso", "size": 7, "sigma_x": 1.0, "sigma_y": 0.5, "theta": 0.3},
        ),
    ):
        half = carried_out(x, {"op": "blur", "reference": 128, **step})
        assert (half - carried_out(x, {"op": "blur", **wanted})).abs().max() < 1e-12
        assert (
            carried_out(x, {"op": "blur", "reference": 64, **step}) - carried_out(x, {"op": "blur", **step})
        ).abs().max() < 1e-12


def test_a_sinc_passes_what_is_below_its_cutoff() -> None:
    k = sinc(101, 1.2)
    assert float(k.sum()) == pytest.approx(1)
    response = torch.fft.fft2(k, s=(512, 512)).abs()[0]
    frequency = torch.arange(512) * (2 * math.pi / 512)
    assert (response[frequency < 1.0] - 1).abs().max() < 0.1
    assert response[(frequency > 1.4) & (frequency < math.pi)].max() < 0.1
    mixed = kernel({"kernel": "sinc", "size": 21, "cutoff": 1.2}, 0.25)
    assert torch.allclose(mixed - 0.25 * sinc(21, 1.2), 0.75 * functional.pad(torch.ones(1, 1), (10,) * 4).double())


def test_a_blur_is_a_convolution_with_a_mirrored_border() -> None:
    x = torch.rand(3, 2, 13, 18, generator=seeded(), dtype=torch.float64)
    single = [elliptic(7, 2.0, 1.0, 0.4), sinc(11, 1.5), elliptic(25, 4.0, 4.0)]
    got = blur(x, stack(single))
    for one, k, result in zip(x, single, got, strict=True):
        edge = len(k) // 2
        padded = torch.tensor(np.pad(one.numpy(), ((0, 0), (edge, edge), (edge, edge)), mode="reflect"))
        wanted = functional.conv2d(padded[:, None], k[None, None])[:, 0]
        assert (result - wanted).abs().max() < 1e-12
    assert (blur(x[:1], elliptic(7, 2.0, 1.0, 0.4)[None]) - got[:1]).abs().max() < 1e-12  # a frame of zeros adds none


def test_each_nth_pixel_is_the_middle_of_n() -> None:
    ramp = (torch.arange(64, dtype=torch.float64) / 100).expand(1, 1, 64, 64)
    step = {"op": "blur", "kernel": "iso", "size": 25, "sigma": 1.5, "stride": 4}
    k = kernel(step, 1.0, 4.0)
    taken = resize(blur(ramp, k[None]), (16, 16), "nearest")
    middles = (torch.arange(16, dtype=torch.float64) * 4 + 1.5) / 100
    assert (taken[0, 0, 8, 4:-4] - middles[4:-4]).abs().max() < 1e-5


def test_sizes_go_there_and_back() -> None:
    x = (photographs(1, 3, 40, 60) + 1) / 2
    there, back = resized(0.5, 0.25, "bicubic", antialias=True), resized(1.0, 1.0, "bilinear")
    small = functional.interpolate(x.double(), size=(20, 15), mode="bicubic", antialias=True).clamp(0, 1)
    wanted = functional.interpolate(small, size=(40, 60), mode="bilinear")
    assert (carried_out(x, there, back) - wanted).abs().max() < 1e-12
    small = functional.interpolate(x.double(), size=(30, 38), mode="bicubic", antialias=True).clamp(0, 1)
    wanted = functional.interpolate(small, size=(40, 60), mode="bilinear")  # 1 + (f - 1) / 2
    assert (carried_out(x, there, back, severity=0.5) - wanted).abs().max() < 1e-12


# Edges


def step_edge(*, height: int = 20, width: int = 24, dark: int = 9) -> Tensor:
    """Black on the left, `dark` columns wide, and white on the right."""
    return (torch.arange(width) >= dark).double().expand(1, 1, height, width)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0, 2.0])
def test_a_step_is_one_line_of_one_pixel_on_its_dark_side(sigma: float) -> None:
    x = step_edge()
    wanted = torch.zeros(1, 1, 20, 24, dtype=torch.bool)
    wanted[..., 8] = True
    mirrored = torch.zeros_like(wanted)
    mirrored[..., 15] = True
    for picture, line in ((x, wanted), (x.mT, wanted.mT), (x.flip(3), mirrored), (x.flip(3).mT, mirrored.mT)):
        assert torch.equal(canny(picture, sigma, 0.02, 0.05), line)
        assert torch.equal(canny(picture.expand(2, 3, -1, -1), sigma, 0.02, 0.05), line.expand(2, -1, -1, -1))


def test_a_slanted_step_is_a_connected_line_where_it_is() -> None:
    row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    for angle in torch.arange(0, 360, 15).deg2rad().tolist():
        distance = (column - 19.3) * math.cos(angle) + (row - 19.6) * math.sin(angle)
        line = canny(((distance + 0.5).clamp(0, 1)[None, None]).double(), 1.0, 0.02, 0.05)[0, 0]
        assert distance[line].abs().max() < 1.1, angle
        longer = line.any(dim=0) if abs(math.cos(angle)) < abs(math.sin(angle)) else line.any(dim=1)
        assert longer.all(), angle
        slope = min(abs(math.cos(angle)), abs(math.sin(angle))) / max(abs(math.cos(angle)), abs(math.sin(angle)))
        assert line.sum() <= 40 * (1 + slope) + 2, angle  # stairs, at most


def test_thresholds_are_those_of_the_gradient() -> None:
    sigma = 3.0
    taps = [math.exp(-((k / sigma) ** 2) / 2) for k in range(-12, 13)]
    size = 0.6 * (taps[12] + taps[11]) / (2 * sum(taps))  # Sobel's mean of both differences of a smoothed step
    assert size == pytest.approx(0.6 / (sigma * math.sqrt(2 * math.pi)), rel=0.03)
    x = 0.6 * step_edge(width=40, dark=20)
    assert canny(x, sigma, 0.01, size * 0.999).sum() == 20
    assert not canny(x, sigma, 0.01, size * 1.001).any()
    assert not canny(torch.full((1, 3, 16, 16), 0.3), 1.0, 1e-4, 1e-4).any()


def test_a_weak_line_needs_a_strong_one() -> None:
    contrast = torch.linspace(0.9, 0.1, 60).double()[:, None]
    x = torch.cat([step_edge(height=60) * contrast, torch.zeros(1, 1, 60, 20), 0.2 * step_edge(height=60)], dim=3)
    line = canny(x, 0.0, 0.05, 0.3)  # a step of c has |g| = c / 2
    assert line[..., :20].any(dim=3).sum() == 60  # as far as it goes: weak ones are joined, over 45 rows
    assert not line[..., 50:].any()  # as weak, but alone
    assert canny(x, 0.0, 0.3, 0.3)[..., :20].any(dim=3).sum() == (contrast / 2 >= 0.3).sum()


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_edges_are_those_of_scikit_image(sigma: float) -> None:
    row, column = np.mgrid[:96, :120]
    shapes = 0.3 + 0.4 * ((row - 40) ** 2 + (column - 50) ** 2 < 700) + 0.002 * column
    shapes[60:90, 70:110] -= 0.25
    photo = data.astronaut()[:200, 100:360].mean(axis=2) / 255
    for picture in (shapes, photo):
        ours = canny(torch.tensor(picture)[None, None], sigma, 0.005, 0.02)[0, 0].numpy()
        # Its Sobel is 8 times the gradient.
        theirs = feature.canny(picture, sigma, 8 * 0.005, 8 * 0.02, mode="nearest")
        inner = np.zeros_like(ours)
        inner[2:-2, 2:-2] = True  # it finds nothing on the border
        for lines, others in ((ours, theirs), (theirs, ours)):
            near_others = functional.max_pool2d(torch.tensor(others)[None, None].float(), 3, 1, 1)[0, 0].numpy() > 0
            assert (lines & inner).sum() > 100
            assert near_others[lines & inner].mean() >= 0.999  # within a pixel


def test_a_drawing_is_black_lines_on_white() -> None:
    x = photographs(4, 3, 48, 40)
    recipe = create("edges", sigma_min=1.0, sigma_max=1.0)
    lines = canny((x.double() + 1) / 2, 1.0, recipe.low, recipe.high)
    assert 0.02 < lines.double().mean() < 0.5
    drawing = torch.where(lines, -1.0, 1.0)
    damage = recipe(x, range(4))
    assert torch.equal(damage.degraded, drawing.expand_as(x))
    assert torch.equal(damage.clean, x)
    assert torch.equal(recipe(x[:, :1], range(4)).degraded[:, 1:], drawing[:, :0])
    half = recipe.apply(x, recipe.sample(range(4), 48, 40), 0.5).degraded
    assert (half - (x + drawing) / 2).abs().max() < 1e-6
    sigmas = [step["sigma"] for plan in plans_of(create("edges")) for step in plan]
    assert spread(sigmas, 0.8, 1.6)


def test_drawings_say_nothing_about_colours() -> None:
    assert {name for name in RECIPES if not RECIPES[name].keeps_grey} == {"edges"}


# JPEG


def by_pillow(x: Tensor, quality: int, subsampling: int) -> Tensor:
    """(3, H, W) or (1, H, W) of 0..255."""
    array = x.permute(1, 2, 0).squeeze(2).numpy().astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(
        stream, "jpeg", quality=quality, **({} if len(x) == 1 else {"subsampling": subsampling})
    )
    with Image.open(stream) as image:
        return torch.tensor(np.asarray(image, dtype=np.float64)).reshape(*array.shape[:2], -1).permute(2, 0, 1)


@pytest.mark.parametrize("quality", [1, 10, 30, 75, 95])
@pytest.mark.parametrize("size", [(64, 96), (37, 51), (16, 40), (7, 1)], ids=str)
def test_jpeg_is_that_of_libjpeg(quality: int, size: tuple[int, int]) -> None:
    for channels, subsampled in ((3, False), (3, True), (1, False)):
        x = ((photographs(3, channels, *size, seed=quality) + 1) * 127.5).round().double()
        got = jpeg(x / 255, torch.full((3,), float(quality)), subsampled=subsampled) * 255
        wanted = torch.stack([by_pillow(one, quality, 2 if subsampled else 0) for one in x])
        assert (got - wanted).abs().max() < 1e-9  # to the bit, with libjpeg-turbo, which Pillow brings along
        assert not torch.equal(x, wanted)


def test_jpeg_has_a_quality_for_each_picture() -> None:
    x = ((photographs(3, 3, 24, 40) + 1) / 2).double()
    quality = torch.tensor([15.0, 62.5, 100.0])
    together = jpeg(x, quality, subsampled=True)
    for i in range(3):
        assert torch.equal(jpeg(x[i : i + 1], quality[i : i + 1], subsampled=True), together[i : i + 1])
    assert (jpeg(x, quality, subsampled=False)[2] - x[2]).abs().mean() * 255 < 1


# What is drawn

COUNT = 2000


def plans_of(recipe: Recipe, count: int = COUNT) -> list[list[dict[str, Any]]]:
    return [[dict(step) for step in plan.steps] for plan in recipe.sample(range(count), 64, 48)]


def named(plan: list[dict[str, Any]], *ops: str) -> list[dict[str, Any]]:
    return [step for step in plan if step["op"] in ops]


def share(flags: list[bool]) -> float:
    assert len(flags) >= 150
    return sum(flags) / len(flags)


def near(wanted: float, flags: list[bool]) -> bool:
    """Within four standard deviations."""
    return abs(share(flags) - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / len(flags))


def spread(values: list[float], low: float, high: float) -> bool:
    """Uniform in [low, high]: never beyond, both ends reached, the mean in the middle."""
    middle, width = (low + high) / 2, high - low
    ends = low <= min(values) <= low + 0.05 * width and high - 0.05 * width <= max(values) <= high
    return ends and abs(np.mean(values) - middle) < 4 * width / math.sqrt(12 * len(values))


def test_draws_of_blind() -> None:
    plans = plans_of(create("blind"))
    assert near(0.05, [not plan for plan in plans])
    damaged = [plan for plan in plans if plan]
    for op, wanted in (("blur", 0.5), ("resize", 0.2), ("jpeg", 0.8)):
        assert near(wanted, [bool(named(plan, op)) for plan in damaged]), op
    noises = [step for plan in damaged for step in named(plan, "gaussian", "poisson")]
    assert near(0.8, [bool(named(plan, "gaussian", "poisson")) for plan in damaged])
    assert near(0.5, [step["op"] == "gaussian" for step in noises])
    assert near(0.4, [step["grey"] for step in noises])
    assert spread([step["sigma"] * 255 for step in noises if step["op"] == "gaussian"], 1, 30)
    assert spread([step["sigma"] for plan in plans for step in named(plan, "blur")], 0.2, 2)
    assert spread([step["quality"] for plan in plans for step in named(plan, "jpeg")], 25, 95)
    factors = [named(plan, "resize")[0]["factor_x"] for plan in plans if named(plan, "resize")]
    assert spread(factors, 0.5, 1)
    order = ["blur", "resize", "gaussian", "poisson", "jpeg"]
    for plan in damaged:
        places = [order.index(step["op"]) for step in plan if step["op"] != "keep"]
        assert places == sorted(places)
    seeds = [step["seed"] for step in noises]
    assert len(set(seeds)) == len(seeds)


def test_draws_of_old_photos() -> None:
    plans = plans_of(create("old_photos", scratches=True))
    kinds = ("gaussian", "speckle", "salt_and_pepper")
    for ops in (("blur",), ("resize",), ("jpeg",), kinds):
        assert near(0.7, [bool(named(plan, *ops)) for plan in plans]), ops
    for op in kinds:
        assert near(0.7 / 3, [bool(named(plan, op)) for plan in plans]), op
    assert near(0.1, [bool(named(plan, "grey")) for plan in plans])
    assert near(0.5, [bool(named(plan, "scratches")) for plan in plans])
    both = [plan for plan in plans if named(plan, "blur") and named(plan, "jpeg")]
    assert near(0.5, [plan.index(named(plan, "blur")[0]) < plan.index(named(plan, "jpeg")[0]) for plan in both])
    noises = [step for plan in plans for step in named(plan, "gaussian", "speckle")]
    assert spread([step["sigma"] * 255 for step in noises], 5, 50)
    assert spread([step["amount"] for plan in plans for step in named(plan, "salt_and_pepper")], 0, 0.01)
    assert spread([step["quality"] for plan in plans for step in named(plan, "jpeg")], 40, 100)
    assert {step["size"] for plan in plans for step in named(plan, "blur")} == {3, 5, 7}
    pairs = [named(plan, "resize") for plan in plans if named(plan, "resize")]
    assert near(0.5, [up["mode"] == "bilinear" for _, up in pairs])
    assert spread([down["factor_x"] * 48 for down, _ in pairs], 24, 48)
    assert spread([down["factor_y"] * 64 for down, _ in pairs], 32, 64)
    assert not any(named(plan, "scratches") for plan in plans_of(create("old_photos"), 100))


def test_draws_of_bsrgan() -> None:
    plans = plans_of(create("bsrgan"))
    halved = [plan[0]["op"] == "resize" and plan[0]["factor_x"] == 0.5 for plan in plans]
    assert near(0.25, halved)
    strides = [[step.get("stride") for step in named(plan, "blur") if "stride" in step] for plan in plans]
    assert near(0.25, [bool(one) for one in strides])
    assert all(one in ([], [2 if half else 4]) for one, half in zip(strides, halved, strict=True))
    assert near(0.9, [len(named(plan, "jpeg")) == 2 for plan in plans])
    assert spread([step["quality"] for plan in plans for step in named(plan, "jpeg")], 30, 95)
    blurs = [step for plan in plans for step in named(plan, "blur") if "stride" not in step]
    assert len(blurs) == 2 * COUNT
    assert near(0.5, [step["kernel"] == "aniso" for step in blurs])
    of_four = [s for p, half in zip(plans, halved, strict=True) if not half for s in named(p, "blur")]
    assert spread([step["sigma_x"] ** 2 for step in of_four if step["kernel"] == "aniso"], 0, 8)
    assert spread([step["sigma"] for step in of_four if step["kernel"] == "iso" and "stride" not in step], 0, 2.8)
    noises = [named(plan, "gaussian", "correlated") for plan in plans]
    assert all(len(one) == 1 for one in noises)
    assert near(0.2, [one["op"] == "correlated" for (one,) in noises])
    assert near(0.4, [one.get("grey") is True for (one,) in noises])
    for plan in plans:
        first, second, back = named(plan, "resize")[-3:]
        assert second["factor_x"] == 0.25
        assert back["factor_x"] == 1
        assert 1 / 8 <= first["factor_x"] <= 1
        assert plan[-2]["op"] == "jpeg"
    covariance = np.mean(
        [np.array(m) @ np.array(m).T for m in (one["mixing"] for (one,) in noises if "mixing" in one)], 0
    )
    assert np.abs(covariance * 255**2 / 625 - np.eye(3) / 2).max() < 0.1


def test_draws_of_bsrgan_plus() -> None:
    plans = plans_of(create("bsrgan_plus"))
    counts = {op: [len(named(plan, op)) for plan in plans] for op in ("poisson", "speckle", "blur", "jpeg")}
    assert set(counts["blur"]) == set(counts["jpeg"]) == {2}
    assert all(len(named(plan, "gaussian", "correlated")) == 2 for plan in plans)
    for op in ("poisson", "speckle"):
        assert near(0.19, [n > 0 for n in counts[op]]), op  # 1 - 0.9^2
    straight = [[s["op"] for s in plan if s["op"] in ("blur", "resize", "jpeg")] for plan in plans]
    usual = ["blur", "resize", "jpeg", "blur", "resize", "resize", "jpeg", "resize"]
    assert share([one == usual for one in straight]) == pytest.approx(0.9, abs=0.04)
    factors = [named(plan, "resize")[0]["factor_x"] for plan in plans]
    assert near(0.2, [factor > 1 for factor in factors])
    assert near(0.1, [factor == 1 for factor in factors])
    assert spread([factor for factor in factors if factor < 1], 0.125, 1)
    rates = [math.log10(step["rate"]) for plan in plans for step in named(plan, "poisson")]
    assert spread(rates, 2, 4)
    assert all([step["factor_x"] for step in named(plan, "resize")][-2:] == [0.25, 1] for plan in plans)


def test_draws_of_real_esrgan() -> None:
    plans = plans_of(create("real_esrgan"))
    families = [(plan[0]["kernel"], "theta" in plan[0]) for plan in plans]
    shares = {
        ("sinc", False): 0.1,
        ("iso", False): 0.9 * 0.45,
        ("aniso", True): 0.9 * 0.25,
        ("generalised", False): 0.9 * 0.12,
        ("generalised", True): 0.9 * 0.03,
        ("plateau", False): 0.9 * 0.12,
        ("plateau", True): 0.9 * 0.03,
    }
    assert set(families) == set(shares)
    for family, wanted in shares.items():
        assert near(wanted, [one == family for one in families]), family
    sizes = {step["size"] for plan in plans for step in named(plan, "blur")}
    assert sizes == set(range(7, 22, 2))
    assert spread([plan[0]["sigma"] for plan in plans if "sigma" in plan[0]], 0.2, 3)
    betas = [plan[0]["beta"] for plan in plans if plan[0]["kernel"] == "generalised"]
    assert near(0.5, [beta < 1 for beta in betas])
    assert 0.5 <= min(betas) <= max(betas) <= 4
    for number, (low, high), (up, keep), (weak, strong) in (
        (0, (0.15, 1.5), (0.2, 0.1), (30, 3.0)),
        (1, (0.3, 1.2), (0.3, 0.3), (25, 2.5)),
    ):
        factors = [named(plan, "resize")[number]["factor_x"] * (1, 4)[number] for plan in plans]
        assert near(up, [factor > 1 for factor in factors])
        assert near(keep, [factor == 1 for factor in factors])
        assert spread([factor for factor in factors if factor < 1], low, 1)
        assert spread([factor for factor in factors if factor > 1], 1, high)
        noises = [named(plan, "gaussian", "poisson")[number] for plan in plans]
        assert near(0.5, [step["op"] == "gaussian" for step in noises])
        assert near(0.4, [step["grey"] for step in noises])
        assert spread([step["sigma"] * 255 for step in noises if step["op"] == "gaussian"], 1, weak)
        assert spread([step["scale"] for step in noises if step["op"] == "poisson"], 0.05, strong)
    ends = [[step["op"] for step in plan][-5:] for plan in plans]
    assert all(end[-2:] == ["round", "resize"] for end in ends)
    assert near(0.5, [end[-3] == "jpeg" for end in ends])
    thirds = [[i for i, step in enumerate(plan) if step["op"] == "resize"][2] for plan in plans]
    last = [plan[third + 1] for plan, third in zip(plans, thirds, strict=True)]
    ringing = [step["op"] == "blur" for step in last]
    assert near(0.8, ringing)
    assert spread([step["cutoff"] for step in last if step["op"] == "blur"], math.pi / 3, math.pi)
    noise_ops = ("gaussian", "poisson")
    between = [plan[[s["op"] in noise_ops for s in plan].index(True) + 2]["op"] == "blur" for plan in plans]
    assert near(0.8, between)


# Targets and masks


def test_what_is_grey_is_grey_in_the_target_too() -> None:
    recipe = create("old_photos")
    plans = recipe.sample(range(60), 32, 32)
    x = photographs(60, 3, 32, 32)
    damage = recipe.apply(x, plans)
    for i, plan in enumerate(plans):
        coloured = damage.clean[i].amax(dim=0) - damage.clean[i].amin(dim=0)
        if any(step["op"] == "grey" for step in plan.steps):
            assert coloured.max() < 1e-6
            assert (damage.degraded[i].amax(dim=0) - damage.degraded[i].amin(dim=0)).max() < 1e-6
        else:
            assert torch.equal(damage.clean[i], x[i])


def test_scratches_are_white_where_the_mask_says() -> None:
    recipe = create("old_photos", scratches=True)
    plans = recipe.sample(range(40), 64, 80)
    x = photographs(40, 3, 64, 80)
    damage, half = recipe.apply(x, plans), recipe.apply(x, plans, 0.5)
    bare = [Plan("old_photos", [step for step in plan.steps if step["op"] != "scratches"]) for plan in plans]
    without = recipe.apply(x, bare)
    assert torch.equal(damage.degraded[(damage.mask == 1).expand_as(x)].unique(), torch.ones(1))
    assert torch.equal(damage.degraded.where(damage.mask == 0, 0), without.degraded.where(damage.mask == 0, 0))
    assert torch.equal(damage.mask, half.mask)
    wanted = torch.lerp(recipe.apply(x, bare, 0.5).degraded, torch.ones(()), half.mask * 0.5)
    assert (half.degraded - wanted).abs().max() < 1e-6
    assert not without.mask.any()
    shares = damage.mask.mean(dim=(1, 2, 3))
    scratched = torch.tensor([any(step["op"] == "scratches" for step in plan.steps) for plan in plans])
    assert torch.equal(shares > 0, scratched)
    assert 0.003 < shares[scratched].mean() < 0.2


# Old photographs in full

SLOTS = {"scratches": 8, "cracks": 12, "tears": 13, "hairs": 14, "dust": 15, "fine dust": 16, "screen": 17}


def test_draws_of_old_photo_full() -> None:
    plans = plans_of(create("old_photo_full"))
    kinds = {"sepia": 0.25, "fade": 0.6, "cast": 0.4, "vignette": 0.3, "light": 0.3, "paper": 0.35, "stains": 0.25}
    kinds |= {"fold": 0.35, "tears": 0.2, "halftone": 0.05, "grey": 0.35 + 0.25, "blur": 0.7, "resize": 0.7}
    kinds |= dict.fromkeys(("gaussian", "speckle", "poisson", "grain"), 0.7 / 4)
    for op, wanted in kinds.items():
        assert near(wanted, [bool(named(plan, op)) for plan in plans]), op
    for name, wanted in (("scratches", 0.6), ("hairs", 0.25)):
        assert near(wanted, [plan[SLOTS[name]]["op"] == "strokes" for plan in plans]), name
    assert near(0.6, ["strokes" in (plan[SLOTS["dust"]]["op"], plan[SLOTS["fine dust"]]["op"]) for plan in plans])
    assert all(named(plan, "grey") for plan in plans if named(plan, "sepia"))
    assert {len(named(plan, "fold")) for plan in plans} == {0, 1, 2, 3}
    assert near(1 / 3, [len(named(plan, "fold")) == 2 for plan in plans if named(plan, "fold")])
    for op, number, low, high in (
        ("sepia", "strength", 0.3, 1),
        ("fade", "black", 0.02, 0.18),
        ("fade", "white", 0, 0.15),
        ("fade", "gamma", 0.8, 1.25),
        ("fade", "saturation", 0.3, 1),
        ("vignette", "strength", 0.1, 0.5),
        ("light", "amplitude", 0.03, 0.15),
        ("paper", "amplitude", 0.01, 0.06),
        ("fold", "shading", 0.05, 0.25),
        ("grain", "amplitude", 0.02, 0.12),
        ("poisson", "scale", 0.05, 3),
        ("gaussian", "sigma", 5 / 255, 50 / 255),
    ):
        assert spread([step[number] for plan in plans for step in named(plan, op)], low, high), (op, number)
    assert spread([gain for plan in plans for step in named(plan, "cast") for gain in step["gain"][0]], 0.88, 1.12)
    assert {step["octaves"] for plan in plans for step in named(plan, "paper")} == {3, 4, 5}
    assert near(0.9, [step["grey"] for plan in plans for step in named(plan, "grain")])
    jpegs = [[step["quality"] for step in named(plan, "jpeg")] for plan in plans]
    assert np.mean([len(one) for one in jpegs]) == pytest.approx(0.7 + 0.3, abs=0.06)
    blobs = [blob for plan in plans for step in named(plan, "stains") for blob in step["blobs"]]
    assert spread([blob[5] for blob in blobs], 0.1, 0.45)
    assert near(0.5, [blob[6] == 1 for blob in blobs])
    assert all(0.01 <= math.pi * blob[2] * blob[3] <= 0.15 for blob in blobs)
    for name, count, radius in (("dust", 150, (1, 4)), ("fine dust", 150, (0.5, 1)), ("hairs", 64, (0.35, 0.9))):
        steps = [plan[SLOTS[name]] for plan in plans if plan[SLOTS[name]]["op"] == "strokes"]
        assert {step["masked"] for step in steps} == {name != "fine dust"}
        assert max(len(step["segments"]) for step in steps) <= count
        radii = [row[4] * 512 for step in steps for row in step["segments"]]
        assert radius[0] - 0.01 <= min(radii) <= max(radii) <= radius[1] + 0.01
    specks = [row for plan in plans for step in plan[15:17] if step["op"] != "keep" for row in step["segments"]]
    assert near(0.7, [row[6] > 0 for row in specks])
    assert all(0.4 <= abs(row[6]) <= 1 for row in specks)


@pytest.mark.parametrize("size", [(40, 70), (70, 40), (3, 50)], ids=str)
def test_strokes_are_as_opaque_as_their_distance_says(size: tuple[int, int]) -> None:
    draw = torch.rand(60, 7, generator=seeded(), dtype=torch.float64)
    segments = torch.cat([draw[:, :4] * 1.6 - 0.3, draw[:, 4:6] * 0.15, draw[:, 6:] * 2 - 1], dim=1)
    segments[::3, 4:6] *= 0.02  # thin ones
    segments[::7, 2:4] = segments[::7, :2]  # points
    height, width = size
    wanted = torch.zeros(2, height, width, dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    place = torch.stack([columns, rows], dim=2).double()
    for *ends, start, end, opacity in segments.tolist():
        first, last = torch.tensor(ends, dtype=torch.float64).reshape(2, 2) * torch.tensor([width, height])
        way = last - first
        nearest = (((place - first) @ way) / (way @ way).clamp(min=1e-12)).clamp(0, 1)
        distance = (place - first - nearest[..., None] * way).norm(dim=2)
        value = abs(opacity) * ((start + (end - start) * nearest) * min(size) + 0.5 - distance).clamp(0, 1)
        wanted[int(opacity < 0)] = torch.maximum(wanted[int(opacity < 0)], value)
    assert wanted.amax(dim=(1, 2)).min() > 0.5
    assert (strokes(segments, *size)[0] - wanted).abs().max() < 1e-4
    assert not strokes(segments[:0], *size).any()


def test_a_thin_stroke_is_faint_and_a_wide_one_as_wide_as_it_says() -> None:
    line = torch.tensor([[0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.8]], dtype=torch.float64)
    profile = strokes(line, 65, 65)[0, 0, :, 30]  # the middle of row 32
    assert profile[32] == pytest.approx(0.4)
    assert profile.sum() == pytest.approx(0.4)
    line[0, 4:6] = 3 / 65
    profile = strokes(line, 65, 65)[0, 0, :, 30]
    assert profile.sum() == pytest.approx(0.8 * 6)
    assert profile[29:36].numpy() == pytest.approx([0.4, *[0.8] * 5, 0.4], abs=1e-5)


def test_a_fold_has_a_light_and_a_dark_side_and_a_worn_line() -> None:
    line = torch.tensor([0.5, 0.0, 0.5, 1.0], dtype=torch.float64)  # downwards, in the middle
    points = torch.tensor([[0.1, 0.02, 0.6]] * 5, dtype=torch.float64)
    worn, relief = crease(line, points, 0.05, 100, 120)[0].double()
    distance = 60 - 10 - (torch.arange(120) + 0.5)  # to the left of where it goes
    wanted = distance.sign() * torch.exp(-distance.abs() / 5)
    away = distance.abs() > 0.7
    assert (relief[:, away] - wanted[away]).abs().max() < 1e-5
    assert (worn - 0.6 * (2.5 - distance.abs()).clamp(0, 1)).abs().max() < 1e-5
    short = crease(torch.tensor([0.5, 0.2, 0.5, 0.6]).double(), points, 0.05, 100, 120)[0]
    assert not short[:, :19].any()
    assert not short[:, 61:].any()
    assert torch.equal(short[:, 21:59], crease(line, points, 0.05, 100, 120)[0][:, 21:59])
    fold = {"op": "fold", "line": [line.tolist()], "points": points.tolist(), "shading": 0.2, "reach": 0.05}
    for severity in (1.0, 0.5):
        y = carried_out(torch.full((1, 3, 100, 120), 0.5), fold, severity=severity)
        shaded = 0.5 + 0.2 * severity * relief
        assert (y - torch.lerp(shaded, torch.ones(()).double(), severity * worn)).abs().max() < 1e-6


def test_clouds_are_the_same_at_every_size() -> None:
    fields = torch.cat([clouds(seed, 8, 4, (96, 96)) for seed in range(40)])
    assert abs(float(fields.mean())) < 0.05
    assert float(fields.var()) == pytest.approx(1, abs=0.1)
    small = torch.cat([clouds(seed, 8, 4, (64, 64)) for seed in range(40)])
    shrunk = functional.interpolate(torch.cat([clouds(s, 8, 4, (192, 256)) for s in range(40)]), (64, 64), mode="area")
    assert torch.corrcoef(torch.stack([small.flatten(), shrunk.flatten()]))[0, 1] > 0.97


def test_tears_have_their_area_and_the_colour_of_paper() -> None:
    colour, shares = [0.9, 0.8, 0.6], []
    for seed in range(20):
        step = {"op": "tears", "blobs": [[0.5, 0.4, 0.2, 0.1, 0.3, 0.004]], "colour": [colour], "texture": 0.0}
        plan = [Plan("old_photo_full", [{**step, "seed": seed}])]
        x = -torch.ones(1, 3, 96, 128)
        damage = create("old_photo_full").apply(x, plan)
        shares.append(float(damage.mask.mean()))
        inner = 1 - functional.max_pool2d(1 - damage.mask, 21, 1, 10)  # 10 pixels from the border
        if inner.any():
            inside = ((damage.degraded + 1) / 2).permute(0, 2, 3, 1)[inner[:, 0] == 1]
            assert (inside - torch.tensor(colour)).abs().max() < 0.02
        assert (damage.degraded[(damage.mask == 0).expand_as(x)] < -1 + 0.2 + 1e-6).all()
    assert np.mean(shares) == pytest.approx(math.pi * 0.2 * 0.1, rel=0.15)


def test_stains_are_brown_with_a_dark_rim_and_not_in_the_mask() -> None:
    step = {"op": "stains", "colour": [[0.5, 0.35, 0.1]], "seed": 3}
    for ring in (0.0, 1.0):
        plan = [Plan("old_photo_full", [{**step, "blobs": [[0.5, 0.5, 0.3, 0.3, 0.0, 0.4, ring]]}])]
        damage = create("old_photo_full").apply(torch.ones(1, 3, 128, 128), plan)
        y = ((damage.degraded + 1) / 2)[0]
        assert not damage.mask.any()
        red, green, blue = 1 - y
        assert torch.allclose(green, red * 0.65 / 0.5, atol=1e-5)  # towards its colour
        assert torch.allclose(blue, red * 0.9 / 0.5, atol=1e-5)
        assert red[:8].max() == 0
        middle = float(red[56:72, 56:72].mean())
        assert middle == pytest.approx(0.4 * 0.5 * (1 - ring / 2), rel=0.25)
        assert (float(red.max()) > 1.5 * middle) is bool(ring)


def test_sepia_is_the_papers_colour_and_leaves_black() -> None:
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 3, 16, 16)
    tint = torch.tensor([1.0, 0.9, 0.6], dtype=torch.float64)[:, None, None]
    for severity in (1.0, 0.5):
        y = carried_out(ramp, {"op": "sepia", "strength": 0.8, "tint": [[1.0, 0.9, 0.6]]}, severity=severity)[0]
        paper = tint ** (0.8 * severity)
        assert (y - paper * ramp[0] ** (1 / paper)).abs().max() < 1e-12
        assert (y[..., -1] - paper[..., 0]).abs().max() < 1e-12
        assert (y[0, :, 1:] > y[1, :, 1:]).all()
        assert (y[1, :, 1:] > y[2, :, 1:]).all()
        alone = carried_out(ramp[:, :1], {"op": "sepia", "strength": 0.8, "tint": [[1, 0.9, 0.6]]}, severity=severity)
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
        assert (alone[0] - (y * weights).sum(dim=0)).abs().max() < 1e-12


def test_tones_by_their_formulas() -> None:
    x = (photographs(1, 3, 33, 41).double() + 1) / 2
    light = (x * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(dim=1, keepdim=True)
    fade = {"op": "fade", "black": 0.1, "white": 0.05, "gamma": 1.2, "saturation": 0.4}
    y = carried_out(x, fade)
    assert (y - (0.1 + 0.85 * (light + 0.4 * (x - light)) ** 1.2)).abs().max() < 1e-6
    half = carried_out(x, fade, severity=0.5)
    assert (half - (0.05 + 0.925 * (light + 0.7 * (x - light)) ** 1.1)).abs().max() < 1e-6
    gain = torch.tensor([0.9, 1.0, 0.95], dtype=torch.float64)[:, None, None]
    assert (carried_out(x, {"op": "cast", "gain": [gain.flatten().tolist()]}) - x * gain).abs().max() < 1e-12
    dark = carried_out(x, {"op": "vignette", "strength": 0.4}) / x
    assert dark[0, 0, 16, 20] == pytest.approx(1)
    assert dark[0, 0, 0, 0] == pytest.approx(0.6)
    assert dark[0, 0, 0, 20] == pytest.approx(0.8)
    for op, wanted in (("light", 0.05 * 0.5), ("paper", 0.05)):
        step = noise(op, coarsest=32, octaves=3, amplitude=0.05)
        y = carried_out(grey(0.5), step)
        assert float(y.std()) == pytest.approx(wanted, rel=0.1)
        assert (carried_out(grey(0.5), step, severity=0.5) - (y + 0.5) / 2).abs().max() < 1e-6


def test_grain_is_that_of_the_middle_tones() -> None:
    step = noise("grain", amplitude=0.06, cell=2 / 256, grey=True)
    for value in (0.0, 0.3, 0.5, 1.0):
        y = carried_out(grey(value), step)[0]
        assert float(y.std()) == pytest.approx(0.06 * 4 * value * (1 - value), rel=0.05, abs=1e-9)
        assert (y[0] - y[2]).abs().max() < 1e-12
    field = carried_out(grey(0.5), step)[0, 0] - 0.5
    for lag in (1, 2, 3):  # a Gaussian of sigma 1 with itself
        found = (field[:, lag:] * field[:, :-lag]).mean() / field.square().mean()
        assert float(found) == pytest.approx(math.exp(-(lag**2) / 4), abs=0.05)


def test_a_printing_screen_has_its_period() -> None:
    y = carried_out(grey(0.5), {"op": "halftone", "period": 8 / 256, "angle": 0.0})[0, 0]
    assert float(y.mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.allclose(y[:-8], y[8:], atol=1e-6)
    assert torch.allclose(y[:, :-8], y[:, 8:], atol=1e-6)
    assert y.max() == 1
    assert y.min() == 0
    means = [float(carried_out(grey(v), {"op": "halftone", "period": 0.02, "angle": 0.7}).mean()) for v in (0.2, 0.8)]
    assert means[0] < 0.3
    assert means[1] > 0.7


def cut(plans: list[Plan], *unwanted: str) -> list[Plan]:
    """Tone and paper only: without blur, noise and what else comes after them, nor the `unwanted` kinds of step."""
    return [
        Plan(plan.recipe, [step for step in plan.steps[: SLOTS["screen"]] if step["op"] not in unwanted])
        for plan in plans
    ]


def test_nothing_is_hidden_outside_of_the_mask() -> None:
    recipe = create("old_photo_full")
    plans = recipe.sample(range(60), 64, 80)
    x = photographs(60, 3, 64, 80)
    bare = recipe.apply(x, cut(plans, "strokes", "fold", "tears")).degraded
    damage = recipe.apply(x, cut(plans))
    outside = (damage.mask == 0).expand_as(x)
    structured = [[s for s in plan.steps if s["op"] in ("strokes", "fold", "tears")] for plan in cut(plans)]
    for i, steps in enumerate(structured):
        if any(step.get("masked") is False for step in steps):
            continue  # fine dust hides a pixel, perhaps, and isn't in the mask
        shading = sum(step["shading"] for step in steps if step["op"] == "fold")
        change = ((damage.degraded - bare)[i][outside[i]].abs() / 2).max() if outside[i].any() else 0
        assert change <= 0.1 * len(steps) + shading + 1e-6  # opacities of 0.1 at most
        if not steps:
            assert change == 0
    hidden = [i for i, steps in enumerate(structured) if any(step.get("masked", True) for step in steps)]
    assert [i for i in range(60) if damage.mask[i].any()] == hidden
    change = ((damage.degraded - bare).abs() / 2).amax(dim=1, keepdim=True)
    assert change[damage.mask == 1].mean() > 0.2
    assert 0.005 < damage.mask[hidden].mean() < 0.2
    for severity in (0.3, 1.0):
        assert torch.equal(recipe.apply(x, plans, severity).mask, damage.mask)  # blur and noise don't change it


def test_the_mask_is_the_union_of_what_hides() -> None:
    recipe = create("old_photo_full")
    plans = cut(recipe.sample(range(40), 96, 96))
    x = photographs(40, 1, 96, 96)
    for i, plan in enumerate(plans):
        wanted = torch.zeros(1, 1, 96, 96)
        for step in plan.steps:
            if step.get("masked", True):
                alone = recipe.apply(x[i : i + 1], [Plan(plan.recipe, [step])]).mask
                assert alone.any() <= (step["op"] in ("strokes", "fold", "tears"))
                wanted = torch.maximum(wanted, alone)
        assert torch.equal(recipe.apply(x[i : i + 1], [plan]).mask, wanted)


def test_another_size_has_the_same_damage() -> None:
    recipe = create("old_photo_full")
    plans = cut(recipe.sample(range(80), 64, 64))
    assert plans == cut(recipe.sample(range(80), 200, 128))
    torn = [Plan(p.recipe, [s for s in p.steps if s["op"] == "tears"]) for p in plans if named(list(p.steps), "tears")]
    small = recipe.apply(torch.zeros(len(torn), 1, 64, 64), torn).mask
    large = recipe.apply(torch.zeros(len(torn), 1, 256, 256), torn).mask
    shrunk = functional.interpolate(large, (64, 64), mode="area") > 0.5
    assert ((small == 1) & shrunk).sum() > 0.8 * ((small == 1) | shrunk).sum()
    whole = [recipe.apply(torch.zeros(80, 1, n, n), plans).degraded.mean() for n in (96, 192)]
    assert float(whole[0]) == pytest.approx(float(whole[1]), abs=0.02)


def test_the_target_of_a_sepia_or_grey_print_is_grey() -> None:
    recipe = create("old_photo_full")
    plans = recipe.sample(range(60), 32, 32)
    x = photographs(60, 3, 32, 32)
    damage = recipe.apply(x, plans)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for i, plan in enumerate(plans):
        greyed = any(step["op"] == "grey" for step in plan.steps)
        wanted = (x[i] * weights).sum(dim=0).expand(3, -1, -1) if greyed else x[i]
        assert (damage.clean[i] - wanted).abs().max() < 1e-6
    half = recipe.apply(x, plans, 0.5).clean
    assert (half - (x + damage.clean) / 2).abs().max() < 1e-6
    single = x[:, :1]
    assert (
        torch.equal(recipe.apply(single, plans).clean, single)
        or (recipe.apply(single, plans).clean - single).abs().max() < 1e-6
    )


# Cold Diffusion


def test_a_recipe_is_a_degradation_by_severity() -> None:
    for recipe in EXAMPLES.values():
        arguments = {name: value for name, value in recipe.to_config().items() if name != "kind"}
        degradation = Synthetic(2, recipe.kind, arguments)
        check_degradation(degradation)
        x = photographs(3, 3, 20, 24)
        state = degradation.sample_state(x, seeded(4))
        plans = recipe.sample(state["seed"].tolist(), 20, 24)
        for t in range(3):
            assert torch.equal(degradation(x, t, state), recipe.apply(x, plans, t / 2).degraded)


@pytest.mark.parametrize("algorithm", ["naive", "improved"])
def test_the_scheduler_goes_all_the_way_back(algorithm: str) -> None:
    scheduler = ColdDiffusionScheduler(Synthetic(4), algorithm=algorithm)
    x0 = photographs(3, 3, 32, 24)
    state = scheduler.sample_state(x0, seeded())
    x = scheduler.degrade(x0, 4, state)
    assert (x - x0).abs().max() > 0.1
    for timestep in scheduler.timesteps:
        x = scheduler.step(x0, timestep, x, state=state).prev_sample
    assert (x - x0).abs().max() < 1e-5


def test_arguments_of_a_synthetic_degradation_are_json() -> None:
    one = Synthetic(3, "bsrgan", {"scale": 2})
    assert one == Synthetic(3, "bsrgan", '{"scale":2}')
    assert one.to_config() == {
        "kind": "synthetic",
        "num_timesteps": 3,
        "recipe": "bsrgan",
        "recipe_args": '{"scale": 2}',
    }
    assert Synthetic(3) == Synthetic(3, recipe_args={})


# Bad input

X = photographs(2, 3, 16, 16)
BLIND = create("blind")
PLANS = BLIND.sample([1, 2], 16, 16)


def broken(**step: Any) -> Callable[[], object]:
    return lambda: BLIND.apply(X, [Plan("blind", [step])] * 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BLIND(X.numpy(), [1, 2]), r"clean must be a float tensor \(B, C, H, W\).*got a numpy array"),
        (lambda: BLIND(X[0], [1, 2]), r"C = 1 or 3, got torch.float32 \(3, 16, 16\)"),
        (lambda: BLIND(X[:, :2], [1, 2]), r"C = 1 or 3, got torch.float32 \(2, 2, 16, 16\)"),
        (lambda: BLIND(X.byte(), [1, 2]), "got torch.uint8"),
        (lambda: BLIND(X[:0], []), r"got torch.float32 \(0, 3, 16, 16\)"),
        (lambda: BLIND((X + 1) * 127.5, [1, 2]), r"clean must be pictures in \[-1, 1\], got values from"),
        (lambda: BLIND(X * float("nan"), [1, 2]), r"clean must be pictures in \[-1, 1\], got values from nan to nan"),
        (lambda: BLIND(X, [1]), "plans must be one for each of 2 pictures, got 1"),
        (lambda: BLIND(X, [1, -1]), "seeds must be a whole number >= 0 and <= .*, got -1"),
        (lambda: BLIND(X, [1, 2.0]), "seeds must be a whole number >= 0 and <= .*, got 2.0"),
        (lambda: BLIND(X, 3), "seeds must be a list of whole numbers, got 3"),
        (lambda: BLIND(X, "12"), "seeds must be a list of whole numbers, got '12'"),
        (lambda: BLIND.sample([1], 0, 16), "height must be a whole number >= 1, got 0"),
        (lambda: BLIND.apply(X, PLANS, 1.5), r"severity must be a number in \[0, 1\].*got 1.5"),
        (lambda: BLIND.apply(X, PLANS, -0.1), "severity must be .*got -0.1"),
        (lambda: BLIND.apply(X, PLANS, float("nan")), "severity must be .*got nan"),
        (lambda: BLIND.apply(X, PLANS, "1"), "severity must be .*got '1'"),
        (lambda: BLIND.apply(X, PLANS, True), "severity must be .*got True"),
        (lambda: BLIND.apply(X, PLANS, torch.ones(3)), r"each of 2 pictures, got tensor\(\[1., 1., 1.\]\)"),
        (lambda: BLIND.apply(X, PLANS, torch.ones(2, 1)), "each of 2 pictures, got tensor"),
        (lambda: BLIND.apply(X, PLANS[0]), r"plans must be a list of Plan, from sample\(\), got Plan"),
        (lambda: BLIND.apply(X, [PLANS[0].to_json()] * 2), r"plans must be a list of Plan, from sample\(\)"),
        (lambda: create("bsrgan").apply(X, PLANS), "plans must be of recipe 'bsrgan', got one of 'blind'"),
        (lambda: Plan("blind", [{"op": "blurr"}]), "no operation of recipes named 'blurr'; did you mean 'blur'?"),
        (lambda: Plan("blind", ["blur"]), "a step of a plan is a mapping with 'op', got 'blur'"),
        (lambda: Plan("blind", 5), "a plan has the name of a recipe and a list of steps"),
        (lambda: Plan.from_json({"steps": []}), "a plan is read from a mapping with 'recipe' and 'steps'"),
        (broken(op="gaussian", grey=False, seed=1), "the step 'gaussian' of a plan lacks 'sigma'"),
        (broken(op="gaussian", sigma=-1, grey=False, seed=1), "sigma must be a number >= 0, got -1"),
        (broken(op="gaussian", sigma=0.1, grey=1, seed=1), "grey must be True or False, got 1"),
        (broken(op="gaussian", sigma=0.1, grey=False, seed=2**40), "seed must be a whole number >= 0"),
        (broken(op="blur", kernel="box", size=3), "kernel must be one of iso, aniso, .* got 'box'"),
        (broken(op="blur", kernel="iso", size=4, sigma=1.0), "size must be odd, got 4"),
        (broken(op="jpeg", quality=0, subsampled=True), "quality must be a number >= 1 and <= 100, got 0"),
        (broken(**resized(0.5, 0.5, "lanczos")), "mode must be one of area, nearest, .* got 'lanczos'"),
        (broken(**resized(0.5, 0.5, "area")), r"a plan must end in the size of the input, \(16, 16\)"),
        (broken(**resized(0.0, 0.5, "area")), "factor must be a number > 0, got 0.0"),
        (broken(op="correlated", mixing=[[1.0]], seed=1), r"mixing must be lists of 3 numbers, got \[\[1.0\]\]"),
        (broken(op="correlated", mixing=[[1.0] * 3], seed=1), "mixing must be 3 lists of 3 numbers"),
        (broken(op="scratches", segments=[[0, 0, 1, "1", 2]]), "segments must be lists of 5 numbers"),
        (lambda: create("bsrgan", scale=3), "scale must be 1, 2 or 4, got 3"),
        (lambda: create("real_esrgan", scale=8), "scale must be a whole number >= 1 and <= 4, got 8"),
        (broken(op="edges", sigma=-1, low=0.1, high=0.2), "sigma must be a number >= 0 and <= 32, got -1"),
        (broken(op="edges", sigma=1, low=0.1), "the step 'edges' of a plan lacks 'high'"),
        (lambda: create("edges", low=0), "low must be a number > 0, got 0"),
        (lambda: create("edges", sigma_max=33), "sigma_max must be a number >= 0 and <= 32, got 33"),
        (lambda: create("edges", sigma_min=2.0), "sigma_min must not be above sigma_max, got 2.0 and 1.6"),
        (lambda: create("edges", low=0.2), "low must not be above high, got 0.2 and 0.05"),
        (
            broken(op="fade", black=0.7, white=0, gamma=1, saturation=1),
            "black must be a number >= 0 and <= 0.5, got 0.7",
        ),
        (broken(op="sepia", strength=1, tint=[[1, 0, 1]]), "tint must be positive"),
        (
            broken(op="cast", gain=[[1, 1, 1]] * 2),
            r"gain must be one list of 3 numbers, got \[\[1, 1, 1\], \[1, 1, 1\]\]",
        ),
        (broken(op="light", coarsest=0, octaves=1, amplitude=0.1, seed=1), "coarsest must be a whole number >= 1"),
        (broken(op="fold", line=[[0] * 4], points=[[0] * 3], shading=0, reach=1), "points must be two at least, got 1"),
        (broken(op="fold", line=[[0] * 4], points=[[0] * 3] * 2, shading=0), "the step 'fold' of a plan lacks 'reach'"),
        (broken(op="strokes", segments=[[0] * 7], bright="ad", dark="multiply"), "bright and dark .* got 'ad'"),
        (broken(op="strokes", segments=[[0] * 7], bright="add"), "the step 'strokes' of a plan lacks 'dark'"),
        (lambda: create("old_photos", scratches="yes"), "scratches must be True or False, got 'yes'"),
        (lambda: create("blind", scale=2), "the arguments of recipe 'blind' do not fit: .*'scale'"),
        (lambda: recipes.from_config({"scale": 2}), "a recipe is configured by a mapping with 'kind'"),
        (lambda: seeds_from(torch.Generator, 2), "generator must be a torch.Generator, got <class"),
        (lambda: Synthetic(3, "blind", "{"), "recipe_args must be JSON, got '{'"),
        (lambda: Synthetic(3, "blind", "[1]"), r"recipe_args must be a mapping in JSON, got '\[1\]'"),
        (lambda: Synthetic(3, "blind", {"scale": 2}), "the arguments of recipe 'blind' do not fit"),
        (lambda: Synthetic(3)(X, 1, {"seed": torch.tensor([1, -1])}), r"state\['seed'\] must be whole numbers >= 0"),
        (
            lambda: Synthetic(3)(X, 1, {"seed": torch.ones(2)}),
            r"state\['seed'\] must be whole numbers >= 0, int64, got",
        ),
        (lambda: Synthetic(3)(X[:, :2], 1, {"seed": torch.ones(2).long()}), "C = 1 or 3"),
    ],
)
def test_bad_input_is_refused_by_name(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()


def test_an_unknown_recipe_lists_what_exists() -> None:
    with pytest.raises(
        UnknownNameError, match="no recipe named 'blnd'; did you mean 'blind'\\? there are: blind, bsrgan"
    ):
        create("blnd")
    with pytest.raises(UnknownNameError, match="no recipe named 'esrgan'"):
        Synthetic(3, "esrgan")
