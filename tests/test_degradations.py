"""Degradations against the authors' numbers, plain loops of the formulas, other libraries' forms, and bad input."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import functional

from diffusers_restore import degradations
from diffusers_restore.degradations import (
    DEGRADATIONS,
    Blur,
    ColorFade,
    Decolor,
    Degradation,
    Fade,
    Mix,
    Pixelate,
    Snow,
    Synthetic,
    check_degradation,
)
from diffusers_restore.degradations.base import State
from diffusers_restore.degradations.checks import DegradationCheckError
from diffusers_restore.errors import InvalidInputError, UnknownNameError
from diffusers_restore.schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler

SHAPES = ((3, 16, 24), (1, 13, 9))
TINY = ((1, 1, 1), (3, 1, 7), (2, 9, 1))

EXAMPLES: dict[str, Degradation] = {
    "blur": Blur(5),
    "blur of one tap": Blur(3, taps=1),
    "blur that widens": Blur(6, taps=9, std=0.4, schedule="linear", growth=0.3),
    "blur that widens ever faster": Blur(7, taps=27, std=1.0, schedule="exponential", growth=0.3),
    "mirrored blur": Blur(5, taps=5, std=1.0, border="reflect"),
    "mirrored blur, wider than the picture": Blur(4, taps=51, std=9.0, border="reflect", mean_at_end=True),
    "blur to the mean": Blur(1, mean_at_end=True),
    "fade": Fade(6, init=3),
    "fade from the centre": Fade(5, std=0.2, placement="center"),
    "fade in one step": Fade(1, std=3.0),
    "color_fade": ColorFade(12, std=2.0),
    "color_fade in one step": ColorFade(1),
    "decolor": Decolor(5),
    "decolor by powers": Decolor(6, schedule="exponential", decay=0.6),
    "decolor by powers to grey": Decolor(4, schedule="exponential", total=True),
    "mix": Mix(8),
    "linear mix": Mix(5, schedule="linear"),
    "mix in one step": Mix(1),
    "pixelate": Pixelate(3),
    "pixelate by means": Pixelate(2, mode="area"),
    "pixelate by ever smaller sizes": Pixelate(5, mode="bilinear", shrink="decrement"),
    "snow": Snow(5),
    "light snow": Snow(4, level=1),
    "snow at constant brightness": Snow(3, level=4, fix_brightness=True),
    "snow in one step": Snow(1, level=2),
    "synthetic": Synthetic(4),
    "synthetic old photos": Synthetic(3, "old_photos", {"scratches": True}),
}


def pictures(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


# Every one of them


@pytest.mark.parametrize("name", list(EXAMPLES))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_degradation_is_what_it_says(name: str, shape: tuple[int, int, int]) -> None:
    check_degradation(EXAMPLES[name], shape=shape)


@pytest.mark.parametrize("shape", TINY, ids=str)
def test_a_line_of_pixels_and_a_single_one_can_be_degraded(shape: tuple[int, int, int]) -> None:
    for degradation in EXAMPLES.values():
        if not isinstance(degradation, (Pixelate, Synthetic)):  # sizes, or two channels, that they refuse
            check_degradation(degradation, shape=shape)


def test_every_registered_kind_has_an_example() -> None:
    assert {degradation.kind for degradation in EXAMPLES.values()} == set(DEGRADATIONS)


def test_a_mix_with_given_pictures() -> None:
    for schedule in ("cosine", "linear"):
        mix = Mix(4, endpoint="picture", schedule=schedule)
        check_degradation(mix, state={"endpoint": pictures(3, 3, 16, 24, dtype=torch.float32, seed=5)})
    with pytest.raises(InvalidInputError, match=r"a picture that can't be drawn: give it as state=\{'endpoint'"):
        check_degradation(Mix(4, endpoint="picture"))


@dataclasses.dataclass(frozen=True)
class Shift(Degradation):
    """Pictures moved by t pixels, with a fault."""

    fault: str = ""

    kind: ClassVar[str] = "shift"

    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        if self.fault == "batch":
            t = t.max().expand_as(t)
        if self.fault == "in place":
            x0.mul_(0.5)
        moved = torch.stack([one.roll(int(steps), dims=2) for one, steps in zip(x0, t, strict=True)])
        if self.fault == "not finite":
            moved = moved / 0
        if self.fault == "float32" and x0.dtype == torch.float32:
            moved = moved * 1.001
        return torch.cat([moved] * 3, dim=1) if self.fault == "channels" else moved

    def check_size(self, height: int, width: int) -> None:
        if width < self.num_timesteps:
            raise InvalidInputError("too narrow")

    def state_shapes(self, channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        return {"amount": (2,)} if self.fault.startswith("state") else {}

    def sample_state(self, x0: Tensor, generator: Any = None) -> State:
        if not self.fault.startswith("state"):
            return {}
        if self.fault == "state of the first":
            generator = generator[0] if isinstance(generator, list) else generator
        if self.fault == "state without a seed":
            generator = None
        if isinstance(generator, list):
            return {"amount": torch.cat([torch.rand(1, 2, generator=one) for one in generator])}
        return {"amount": torch.rand(len(x0), 2, generator=generator)}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", "can't be read back: no degradation named 'shift'"),
        ("batch", "a batch with mixed severities is not its pictures is off by"),
        ("in place", "pictures were modified"),
        ("not finite", r"D\(x, 2\) is not finite"),
        ("float32", r"D\(x, 1\) in float32 is off by 1.0e-03"),
        ("state of the first", "a list of generators draws another state than single pictures"),
        ("state without a seed", "the same seed draws another state"),
    ],
)
def test_check_degradation_finds_what_is_wrong(fault: str, message: str) -> None:
    with torch.random.fork_rng(devices=[]), pytest.raises(DegradationCheckError, match=message) as caught:
        check_degradation(Shift(3, fault), shape=(1, 16, 24))
    others = str(caught.value).count(";")
    assert others == 1 if fault == "" else others > 1  # the names that exist are behind a semicolon


def test_a_formula_of_another_shape_is_not_spread_over_the_picture() -> None:
    with pytest.raises(InvalidInputError, match=r"'shift' must give \(2, 1, 4, 6\), it gave \(2, 3, 4, 6\)"):
        Shift(3, "channels")(pictures(2, 1, 4, 6), 1)


def test_check_degradation_wants_a_size_that_can_be_degraded() -> None:
    with pytest.raises(InvalidInputError, match="too narrow"):
        check_degradation(Shift(3), shape=(1, 4, 2))


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_what_is_cached_is_not_part_of_a_degradation(name: str) -> None:
    degradation = EXAMPLES[name]
    x = pictures(2, 3, 16, 24)
    state = degradation.sample_state(x, seeded())
    wanted = degradation(x, 1, state)
    assert not any(isinstance(value, Tensor) for value in vars(degradation).values())
    packed = pickle.dumps(degradation)
    assert len(packed) < 2000
    for again in (pickle.loads(packed), copy.deepcopy(degradation)):
        assert again == degradation
        assert hash(again) == hash(degradation)
        assert torch.equal(again(x, 1, state), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 1, 9)], ids=str)
def test_what_was_cached_in_inference_mode_serves_training(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    for degradation in EXAMPLES.values():
        if isinstance(degradation, Pixelate) and min(shape[1:]) < 8:
            continue
        fresh = dataclasses.replace(degradation, num_timesteps=degradation.num_timesteps - 1 or 2)
        x = pictures(2, *shape, dtype=dtype)
        state = fresh.sample_state(x, seeded())
        with torch.inference_mode():
            fresh(x, 1, state)
        x.requires_grad_()
        fresh(x, 1, state).sum().backward()
        assert x.grad is not None
        assert bool(x.grad.isfinite().all())


def test_no_global_random_state_is_used() -> None:
    before = torch.random.get_rng_state()
    x = pictures(2, 3, 16, 24)
    for degradation in EXAMPLES.values():
        degradation(x, 1, degradation.sample_state(x, seeded()))
    assert torch.equal(torch.random.get_rng_state(), before)


# The authors' numbers


def golden(shared: Path, name: str) -> Mapping[str, np.ndarray]:
    return np.load(shared / "golden" / "cold" / f"{name}.npz")


@pytest.mark.parametrize(
    ("name", "degradation"),
    [
        ("blur_mnist_constant_k11_s7_T20", Blur(20, taps=11, std=7.0)),
        ("fade_random_s01_init11_T50", Fade(50, std=0.1, init=11)),
        ("resolution_Incremental_factor_2_T3", Pixelate(3)),
        ("decolor_Linear_T20_total", Decolor(20, total=True)),
    ],
)
def test_the_authors_degraded_pictures(shared: Path, name: str, degradation: Degradation) -> None:
    arrays = golden(shared, name)
    x = torch.tensor(arrays["x0"])
    state = None
    if "offset_x" in arrays:
        state = {"offset": torch.tensor(np.stack([arrays["offset_x"], arrays["offset_y"]], axis=1))}
    for t, wanted in zip(arrays["ts"], arrays["D"], strict=True):
        assert relative(degradation(x, int(t), state), torch.tensor(wanted)) < 1e-5
    if "D_mixed" in arrays:
        mixed = degradation(x, torch.tensor(arrays["t_mixed"]), state)
        assert relative(mixed, torch.tensor(arrays["D_mixed"])) < 1e-5
    if "kernel1d_first" in arrays:
        assert isinstance(degradation, Blur)
        assert relative(degradation.kernels()[0], torch.tensor(arrays["kernel1d_first"]).double()) < 1e-6
        assert relative(degradation.kernels()[-1], torch.tensor(arrays["kernel1d_last"]).double()) < 1e-6
    if "mask" in arrays:
        ones = torch.ones_like(x)
        for t, mask in zip(arrays["ts"], arrays["mask"], strict=True):
            got = degradation(ones, int(t), state)
            assert relative(got, torch.tensor(mask)[:, None].expand_as(got)) < 1e-5


# Blur


def gaussian(std: float, taps: int) -> Tensor:
    offset = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    values = torch.exp(-(offset**2) / (2 * std**2))
    return values / values.sum()


def blurred_in_a_loop(x: Tensor, stds: list[float], taps: int, border: str) -> list[Tensor]:
    """D(x, 0..T) by padding and a depthwise convolution in each step."""
    channels = x.shape[1]
    steps = [x]
    for std in stds:
        kernel = torch.outer(gaussian(std, taps), gaussian(std, taps)).expand(channels, 1, taps, taps)
        padded = functional.pad(steps[-1], (taps // 2,) * 4, mode=border)
        steps.append(functional.conv2d(padded, kernel, groups=channels))
    return steps


@pytest.mark.parametrize("border", ["circular", "reflect"])
@pytest.mark.parametrize(
    ("blur", "stds"),
    [
        (Blur(9, taps=11, std=7.0), [7.0] * 9),
        (Blur(9, taps=11, std=0.35, schedule="linear", growth=0.01), [0.35 + i / 100 for i in range(9)]),
        (Blur(9, taps=7, std=1.5, schedule="linear", growth=1.5), [1.5 * (i + 1) for i in range(9)]),
        (Blur(30, taps=15, std=1.0, schedule="exponential", growth=0.1), [math.exp(0.1 * i) for i in range(30)]),
    ],
)
def test_a_blur_is_a_loop_of_padded_convolutions(border: str, blur: Blur, stds: list[float]) -> None:
    blur = dataclasses.replace(blur, border=border)
    x = pictures(2, 3, 17, 24)
    for t, wanted in enumerate(blurred_in_a_loop(x, stds, blur.taps, border)):
        assert relative(blur(x, t), wanted) < 1e-12


def test_taps_longer_than_the_picture_go_round_it() -> None:
    blur = Blur(3, taps=31, std=6.0)
    x = pictures(2, 1, 5, 8)
    wanted = x
    for _ in range(3):
        for axis in (2, 3):
            kernel = gaussian(6.0, 31)
            wanted = sum(kernel[j] * wanted.roll(j - 15, dims=axis) for j in range(31))
    assert relative(blur(x, 3), wanted) < 1e-12


def test_taps_longer_than_the_picture_are_mirrored_again_and_again() -> None:
    blur = Blur(3, taps=31, std=6.0, border="reflect")
    x = pictures(2, 1, 5, 8)
    wanted = x
    for _ in range(3):
        for axis in (2, 3):
            n = x.shape[axis]
            place = (torch.arange(n)[:, None] + torch.arange(-15, 16)) % (2 * (n - 1))
            place = torch.minimum(place, 2 * (n - 1) - place)
            matrix = torch.zeros(n, n, dtype=torch.float64)
            matrix.scatter_add_(1, place, gaussian(6.0, 31).expand(n, 31))
            wanted = (wanted.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
    assert relative(blur(x, 3), wanted) < 1e-12


@pytest.mark.parametrize("border", ["circular", "reflect"])
def test_a_strong_blur_ends_in_the_mean(border: str) -> None:
    x = pictures(2, 3, 9, 12)
    mean = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    exact = Blur(4, std=1.0, taps=5, border=border, mean_at_end=True)
    assert torch.equal(exact(x, 4), mean)
    plain = dataclasses.replace(exact, mean_at_end=False)
    assert relative(plain(x, 4), mean) > 0.1
    assert torch.equal(exact(x, 3), plain(x, 3))
    mixed = exact(x, torch.tensor([4, 3]))
    assert relative(mixed[:1], mean[:1]) < 1e-15
    assert relative(mixed[1:], plain(x, 3)[1:]) < 1e-14
    if border == "circular":  # which keeps the mean
        assert relative(Blur(400, taps=11)(x, 400), mean) < 1e-12


# Fade


def fading_masks(steps: int, std: float, init: int, height: int, width: int) -> list[Tensor]:
    """prod_{i<t} (1 - g_i / max g_i) for t = 0..T, pixel by pixel."""
    masks = [torch.ones(height, width, dtype=torch.float64)]
    for i in range(steps):
        sigma = std * (i + init)
        g = torch.tensor(
            [
                [
                    math.exp(-((r - (height - 1) // 2) ** 2) / (2 * sigma**2))
                    * math.exp(-((c - (width - 1) // 2) ** 2) / (2 * sigma**2))
                    for c in range(width)
                ]
                for r in range(height)
            ],
            dtype=torch.float64,
        )
        masks.append(masks[-1] * (1 - g / g.max()))
    return masks


@pytest.mark.parametrize(("std", "init"), [(0.1, 11), (0.2, 1), (1.5, 2)])
@pytest.mark.parametrize("size", [(6, 9), (8, 5), (1, 4)], ids=str)
def test_a_fade_is_a_plain_product(std: float, init: int, size: tuple[int, int]) -> None:
    height, width = size
    x = pictures(4, 2, height, width)
    t = torch.tensor([0, 1, 5, 7])
    masks = fading_masks(7, std, init, height, width)
    wanted = torch.stack([one * masks[int(s)] for one, s in zip(x, t, strict=True)])
    assert relative(Fade(7, std=std, init=init, placement="center")(x, t), wanted) < 1e-13
    masks = fading_masks(7, std, init, 2 * height, 2 * width)
    offset = torch.tensor([[0, 0], [height, width], [1, width - 1], [height, 0]])
    wanted = torch.stack(
        [
            one * masks[int(s)][int(row) : int(row) + height, int(column) : int(column) + width]
            for one, s, (row, column) in zip(x, t, offset, strict=True)
        ]
    )
    degraded = Fade(7, std=std, init=init)(x, t, {"offset": offset})
    assert relative(degraded, wanted) < 1e-13
    for kind in (torch.uint8, torch.int32):
        assert torch.equal(Fade(7, std=std, init=init)(x, t, {"offset": offset.to(kind)}), degraded)


def test_windows_are_drawn_evenly() -> None:
    offset = Fade(5).sample_state(torch.empty(4000, 1, 3, 5), seeded())["offset"]
    for axis, last in enumerate((3, 5)):
        counts = torch.bincount(offset[:, axis]).double()
        assert len(counts) == last + 1
        assert float((counts * (last + 1) / 4000 - 1).abs().max()) < 0.2


def test_a_color_fade_closes_around_a_flat_colour() -> None:
    fade = ColorFade(9, std=1.2)
    x = pictures(3, 3, 7, 10)
    state = {"color": torch.tensor([[0.3, -0.2, 0.5], [-0.5, 0.1, 0.25], [0.0, 0.4, -0.1]]).reshape(3, 3, 1, 1)}
    masks = fading_masks(9, 1.2, 1, 7, 10)
    color = state["color"].double()
    for t in range(10):
        m = masks[9 - t]
        wanted = x if t == 0 else (1 - m) * x + m * color
        assert relative(fade(x, t, state), wanted) < 1e-13
    assert torch.equal(fade(x, 9, state), color.expand_as(x))
    assert torch.equal(fade(x.float(), 9, state), state["color"].expand_as(x))
    assert fade.forgets


def test_colours_are_drawn_from_half_the_range() -> None:
    color = ColorFade(5).sample_state(torch.empty(2000, 3, 4, 4), seeded())["color"]
    assert color.shape == (2000, 3, 1, 1)
    assert -0.5 <= float(color.min()) < -0.49
    assert 0.49 < float(color.max()) <= 0.5
    assert abs(float(color.mean())) < 0.02
    correlation = torch.corrcoef(color[:, :, 0, 0].T)
    assert float((correlation - torch.eye(3)).abs().max()) < 0.1


# Pixelate


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "area"])
@pytest.mark.parametrize(("shrink", "steps"), [("halve", 3), ("decrement", 6)])
@pytest.mark.parametrize("size", [(16, 24), (15, 9), (8, 8)], ids=str)
def test_pixelation_is_a_loop_of_resizes(mode: str, shrink: str, steps: int, size: tuple[int, int]) -> None:
    degradation = Pixelate(steps, mode=mode, shrink=shrink)
    x = wanted = pictures(2, 3, *size)
    for t in range(1, steps + 1):
        small = [n // 2**t if shrink == "halve" else n - t for n in size]
        wanted = functional.interpolate(wanted, size=small, mode=mode)
        wanted = functional.interpolate(wanted, size=size, mode="nearest")
        assert relative(degradation(x, t), wanted) < 1e-12


# Decolor and mixes


def test_decolouring_is_a_mix_with_the_mean_of_the_channels() -> None:
    x = pictures(2, 3, 5, 6)
    grey = x.mean(dim=1, keepdim=True).expand_as(x)
    for t in range(1, 9):
        for degradation, a in (
            (Decolor(8), 1 - t / 8),
            (Decolor(8, total=True), 1 - t / 8),
            (Decolor(8, schedule="exponential"), 0.9**t),
            (Decolor(8, schedule="exponential", decay=0.5, total=True), 0.5**t if t < 8 else 0.0),
        ):
            assert relative(degradation(x, t), a * x + (1 - a) * grey) < 1e-14
    assert torch.equal(Decolor(8)(x, 8), grey)
    assert torch.equal(Decolor(8, schedule="exponential", total=True)(x, 8), grey)


@pytest.mark.parametrize("steps", [1, 7, 200, 1000])
def test_cosine_mixing_is_the_schedule_that_diffusers_has(steps: int) -> None:
    mix = Mix(steps)
    one, zero = torch.ones(steps, 1, 1, 1, dtype=torch.float64), torch.zeros(steps, 1, 1, 1, dtype=torch.float64)
    t = torch.arange(1, steps + 1)
    a, b = mix(one, t, {"endpoint": zero}).flatten(), mix(zero, t, {"endpoint": one}).flatten()
    assert float((a**2 + b**2 - 1).abs().max()) < 1e-14
    assert bool((a[1:] < a[:-1]).all())
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=steps)
    assert float((a**2 / scheduler.alphas_cumprod.double() - 1).abs().max()) < 1e-4  # float32, and 1 - 0.999
    assert float((a**2 - scheduler.alphas_cumprod).abs().max()) < 2e-6
    z = torch.randn(steps, 1, 1, 1, generator=seeded(), dtype=torch.float64)
    noised = scheduler.add_noise(one, z, t - 1)
    assert relative(mix(one, t, {"endpoint": z}), noised) < 1e-5


def test_linear_mixing_is_that_of_indi() -> None:
    x, z = pictures(11, 3, 4, 5), pictures(11, 3, 4, 5, seed=1)
    share = torch.arange(11, dtype=torch.float64).reshape(-1, 1, 1, 1) / 10
    degraded = Mix(10, endpoint="picture", schedule="linear")(x, torch.arange(11), {"endpoint": z})
    assert relative(degraded, (1 - share) * x + share * z) < 1e-15
    assert torch.equal(degraded[-1], z[-1])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_an_estimated_endpoint_gives_the_picture_back(schedule: str) -> None:
    mix = Mix(20, schedule=schedule)
    x_t, x0_hat, t = pictures(20, 3, 4, 5), pictures(20, 3, 4, 5, seed=1), torch.arange(1, 21)
    assert relative(mix.apply(x0_hat, t, mix.estimate_endpoint(x_t, x0_hat, t)), x_t) < 1e-13
    z = pictures(20, 3, 4, 5, seed=2)
    estimated = mix.estimate_endpoint(mix(x0_hat, t, {"endpoint": z}), x0_hat, t)["endpoint"]
    assert relative(estimated, z) < 1e-12


def test_the_drawn_endpoint_is_standard_normal() -> None:
    z = Mix(5).sample_state(torch.empty(8, 3, 64, 64), seeded())["endpoint"]
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.std()) - 1) < 0.01


# Snow

# mean, std, zoom, taps, and the first and the last threshold, width and brightness, as printed
LEVELS = {
    1: (0.1, 0.3, 3.0, 5, (0.7, 0.3), (0.5, 5.0), (0.95, 0.7)),
    2: (0.55, 0.3, 2.5, 11, (1.15, 0.7), (0.05, 12.0), (0.95, 0.55)),
    3: (0.55, 0.3, 2.5, 11, (1.15, 0.7), (0.05, 16.0), (0.95, 0.4)),
    4: (0.55, 0.3, 2.5, 11, (1.15, 0.55), (0.05, 20.0), (0.95, 0.3)),
}


def snowed(x0: np.ndarray, flakes: np.ndarray, vertical: bool, level: int, share: float, pale: bool) -> np.ndarray:
    """One picture (C, H, W) under the snow of a severity (t - 1) / (T - 1), as the formula is written."""
    _, _, _, taps, *ends = LEVELS[level]
    threshold, std, brightness = (first + (last - first) * share for first, last in ends)
    layer = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    weights = [math.exp(-((j - taps // 2) ** 2) / (2 * std**2)) for j in range(taps)]
    blurred = np.zeros_like(layer)
    for row, column in np.ndindex(layer.shape):
        for j, weight in enumerate(weights):
            r = row + (j - taps // 2 if vertical else 0)
            c = column + (0 if vertical else j - taps // 2)
            if 0 <= r < layer.shape[0] and 0 <= c < layer.shape[1]:  # no snow falls beyond the border
                blurred[row, column] += weight / sum(weights) * layer[r, c]
    x = (x0 + 1) / 2
    if pale:
        grey = x.mean(axis=0) if len(x) != 3 else 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
        x = brightness * x + (1 - brightness) * np.maximum(x, 1.5 * grey + 0.5)
    return np.clip(x + blurred + blurred[::-1, ::-1], 0, 1) * 2 - 1


@pytest.mark.parametrize("level", list(LEVELS))
@pytest.mark.parametrize("shape", [(3, 9, 14), (1, 13, 6)], ids=str)
def test_snow_is_what_the_formula_says(level: int, shape: tuple[int, int, int]) -> None:
    x = pictures(4, *shape)
    for fixed in (False, True):
        snow = Snow(20, level=level, fix_brightness=fixed)
        state = dict(snow.sample_state(x, seeded(level)))
        state["vertical"] = torch.tensor([True, False, True, False])
        t = torch.tensor([1, 7, 19, 20])
        wanted = [
            snowed(one.numpy(), flakes[0].numpy(), bool(vertical), level, (int(s) - 1) / 19, not fixed)
            for one, flakes, vertical, s in zip(x, state["flakes"], state["vertical"], t, strict=True)
        ]
        assert relative(snow(x, t, state), torch.tensor(np.stack(wanted))) < 1e-12


def test_flakes_are_blurred_as_published() -> None:
    """At the border the part of the 11 taps that lies outside is missing, as the published snow has it."""
    black = torch.full((2, 1, 30, 40), -1.0, dtype=torch.float64)
    flakes = torch.zeros_like(black)
    flakes[0, :, :, :20] = flakes[1, :, :15] = 0.8  # the half turn falls on the other half
    state = {"flakes": flakes, "vertical": torch.tensor([False, True])}
    layer = (Snow(200, fix_brightness=True)(black, 200, state) + 1) / 2
    weights = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 16.0**2))
    shares = weights.cumsum(0)[5:] / weights.sum()  # of the kernel within the picture, at the first six pixels
    assert relative(layer[0, 0, :, :6], 0.8 * shares.expand(30, -1)) < 1e-12
    assert relative(layer[1, 0, :6], 0.8 * shares[:, None].expand(-1, 40)) < 1e-12


@pytest.mark.parametrize("level", list(LEVELS))
def test_snow_grows(level: int) -> None:
    x = pictures(8, 3, 32, 32) * 0.5 - 0.5
    for fixed in (False, True):
        snow = Snow(10, level=level, fix_brightness=fixed)
        state = snow.sample_state(x, seeded())
        means = torch.stack([snow(x, t, state).mean(dim=(1, 2, 3)) for t in range(11)])
        assert bool((means[1:] > means[:-1] - 1e-3).all())
        assert bool((means.mean(dim=1).diff() > 0).all())
        assert bool((means[-1] > means[0] + 0.05).all())


def test_a_layer_of_snow_is_its_own_half_turn() -> None:
    snow = Snow(6, level=4)
    black = torch.full((4, 3, 11, 14), -1.0, dtype=torch.float64)
    for t in (3, 6):
        degraded = snow(black, t, snow.sample_state(black, seeded()))
        assert relative(degraded.flip(2, 3), degraded) < 1e-14
        assert relative(degraded.flip(2), degraded) > 0.1


def test_the_same_snow_lies_at_every_severity() -> None:
    snow = Snow(10, level=4, fix_brightness=True)
    black = torch.full((2, 1, 32, 32), -1.0, dtype=torch.float64)
    state = snow.sample_state(black, seeded())
    other = snow.sample_state(black, seeded(1))

    def alike(one: Tensor, two: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])

    assert alike(snow(black, 8, state), snow(black, 10, state)) > 0.6
    assert alike(snow(black, 8, other), snow(black, 10, state)) < 0.3


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (17, 30), (1, 8), (5, 2)], ids=str)
def test_flakes_are_zoomed_as_in_imagenet_c(level: int, size: tuple[int, int]) -> None:
    zoom = pytest.importorskip("scipy.ndimage").zoom
    mean, std, factor, *_ = LEVELS[level]
    flakes = Snow(4, level=level).sample_state(torch.empty(3, 3, *size, dtype=torch.float64), seeded(7))["flakes"]
    small = [math.ceil(n / factor) for n in size]
    base = mean + std * torch.randn(3, 1, *small, generator=seeded(7))
    for ours, drawn in zip(flakes[:, 0], base[:, 0], strict=True):
        large = zoom(drawn.double().numpy(), factor, order=1)
        top, left = ((m - n) // 2 for m, n in zip(large.shape, size, strict=True))
        wanted = torch.tensor(large[top : top + size[0], left : left + size[1]])
        assert relative(ours, wanted) < 1e-5


def test_snow_falls_either_way() -> None:
    state = Snow(4).sample_state(torch.empty(2000, 1, 8, 8), seeded())
    assert state["vertical"].dtype == torch.bool
    assert abs(float(state["vertical"].double().mean()) - 0.5) < 0.04
    assert abs(float(state["flakes"].mean()) - 0.55) < 0.01


# 8 bits


def test_an_8_bit_picture_survives_where_nothing_is_degraded() -> None:
    levels = torch.arange(256, dtype=torch.float32)
    x = (levels / 127.5 - 1).reshape(1, 1, 16, 16)
    fade = Fade(2, std=0.1, init=1)
    far = {"offset": torch.tensor([[16, 16]])}  # the hole is at 15, 15
    scheduler = ColdDiffusionScheduler(fade, eight_bit=True)
    assert float((fade(x, 1, far) - x).abs().max()) < 1e-6
    for dtype in (torch.float32, torch.float64):
        degraded = scheduler.degrade((levels.to(dtype) / 127.5 - 1).reshape(1, 1, 16, 16), 1, far)
        assert torch.equal(((degraded + 1) * 127.5).round().flatten(), levels.to(dtype))
        assert float((degraded - x).abs().max()) < 1e-6


def test_8_bits_are_floored_levels() -> None:
    x = pictures(3, 3, 12, 17, dtype=torch.float32)
    blur = Blur(4, taps=5, std=1.0)
    scheduler = ColdDiffusionScheduler(blur, eight_bit=True)
    t = torch.tensor([0, 2, 4])
    degraded, exact = scheduler.degrade(x, t), blur(x, t)
    assert torch.equal(degraded[0], x[0])  # severity 0 is the picture itself
    levels = ((degraded[1:] + 1) * 127.5).round()
    assert float((levels / 127.5 - 1 - degraded[1:]).abs().max()) < 2e-7
    assert float((levels - ((exact[1:] + 1) * 127.5)).max()) < 1.1e-3  # never above, but for rounding
    assert float((levels - ((exact[1:] + 1) * 127.5)).min()) > -1
    assert torch.equal(levels, levels.clamp(0, 255))


# Bad input

X = pictures(2, 3, 8, 8, dtype=torch.float32)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Blur(0), "num_timesteps must be a whole number >= 1, got 0"),
        (lambda: Blur(-3), "num_timesteps must be a whole number >= 1, got -3"),
        (lambda: Blur(2.0), "num_timesteps must be a whole number >= 1, got 2.0"),
        (lambda: Snow(True), "num_timesteps must be a whole number >= 1, got True"),
        (lambda: Mix("20"), "num_timesteps must be a whole number >= 1, got '20'"),
        (lambda: Blur(3, taps=4), "taps must be odd, got 4"),
        (lambda: Blur(3, taps=0), "taps must be a whole number >= 1, got 0"),
        (lambda: Blur(3, taps=3.0), "taps must be a whole number >= 1, got 3.0"),
        (lambda: Blur(3, std=0), "std must be a number > 0, got 0"),
        (lambda: Blur(3, std=math.nan), "std must be a number > 0, got nan"),
        (lambda: Blur(3, std=math.inf), "std must be a number > 0, got inf"),
        (lambda: Blur(3, std="7"), "std must be a number > 0, got '7'"),
        (lambda: Blur(3, schedule="cubic"), "schedule must be one of constant, linear, exponential, got 'cubic'"),
        (lambda: Blur(3, schedule="linear", growth=-0.1), "growth must be a number >= 0, got -0.1"),
        (lambda: Blur(3, schedule="linear", growth=math.inf), "growth must be a number >= 0, got inf"),
        (lambda: Blur(3, growth=0.1), "growth must be 0 for a constant schedule, got 0.1"),
        (lambda: Blur(3, border="zero"), "border must be one of circular, reflect, got 'zero'"),
        (lambda: Blur(3, mean_at_end=1), "mean_at_end must be True or False, got 1"),
        (lambda: Fade(3, std=0.0), "std must be a number > 0, got 0.0"),
        (lambda: Fade(3, init=0), "init must be a whole number >= 1, got 0"),
        (lambda: Fade(3, init=1.5), "init must be a whole number >= 1, got 1.5"),
        (lambda: Fade(3, placement="left"), "placement must be one of random, center, got 'left'"),
        (lambda: ColorFade(3, std=-1), "std must be a number > 0, got -1"),
        (lambda: Pixelate(3, mode="nearest"), "mode must be one of bicubic, bilinear, area, got 'nearest'"),
        (lambda: Pixelate(3, shrink=2), "shrink must be one of halve, decrement, got 2"),
        (lambda: Decolor(3, schedule="cosine"), "schedule must be one of linear, exponential, got 'cosine'"),
        (lambda: Decolor(3, decay=0.0), "decay must be a number > 0, got 0.0"),
        (lambda: Decolor(3, decay=1.0), "decay must be below 1, got 1.0"),
        (lambda: Decolor(3, total="yes"), "total must be True or False, got 'yes'"),
        (lambda: Mix(3, endpoint="cat"), "endpoint must be one of noise, picture, got 'cat'"),
        (lambda: Mix(3, schedule="exponential"), "schedule must be one of cosine, linear, got 'exponential'"),
        (lambda: Snow(3, level=0), "level must be a whole number >= 1 and <= 4, got 0"),
        (lambda: Snow(3, level=5), "level must be a whole number >= 1 and <= 4, got 5"),
        (lambda: Snow(3, fix_brightness=None), "fix_brightness must be True or False, got None"),
        (lambda: Pixelate(4)(X, 1), "pictures of 8 x 8 pixels are too small for degradation 'pixelate'"),
        (lambda: Pixelate(8, shrink="decrement")(X, 1), "nothing would be left of 8 pixels"),
        (lambda: Pixelate(3)(X[:, :, :, :7], 1), "pictures of 8 x 7 pixels are too small"),
        (lambda: Blur(3)(X[0], 1), r"pictures must be a float tensor \(B, C, H, W\) in \[-1, 1\], got torch.float32"),
        (lambda: Blur(3)(X.byte(), 1), "got torch.uint8"),
        (lambda: Blur(3)(X[:0], 1), r"got torch.float32 \(0, 3, 8, 8\)"),
        (lambda: Blur(3)(X.numpy(), 1), "got a numpy array of float32"),
        (lambda: Blur(3)(X, 4), "t must be a whole number >= 0 and <= 3, got 4"),
        (lambda: Blur(3)(X, torch.tensor([1, 4])), r"t must be in 0..3, got \[1, 4\]"),
        (lambda: Blur(3)(X, torch.tensor([1, 2, 3])), "t must be whole numbers in 0..3, one or one for each of 2"),
        (lambda: Blur(3)(X, [1, 2]), r"t must be a whole number >= 0 and <= 3, got \[1, 2\]"),
        (lambda: Blur(3)(X, 1, {"offset": X}), "degradation 'blur' needs no state; got one with 'offset'"),
        (lambda: Fade(3)(X, 1), r"degradation 'fade' needs a state with 'offset', from sample_state\(\); got None"),
        (lambda: Fade(3)(X, 1, {"color": X}), "needs a state with 'offset'.*got one with 'color'"),
        (lambda: Fade(3)(X, 1, X), "needs a state with 'offset'"),
        (
            lambda: Fade(3)(X, 1, {"offset": torch.zeros(1, 2, dtype=torch.int64)}),
            r"state\['offset'\] must be a tensor \(2, 2\), got \(1, 2\)",
        ),
        (
            lambda: Fade(3)(X, 1, {"offset": [[0, 0], [0, 0]]}),
            r"state\['offset'\] must be a tensor \(2, 2\), got \[\[0, 0\], \[0, 0\]\]",
        ),
        (lambda: Fade(3)(X, 1, {"offset": torch.tensor([[0, 9], [0, 0]])}), r"columns in 0..8, got \[\[0, 9\]"),
        (lambda: Fade(3)(X, 1, {"offset": torch.tensor([[-1, 0], [0, 0]])}), r"rows in 0..8 .*got \[\[-1, 0\]"),
        (lambda: Fade(3)(X, 1, {"offset": torch.zeros(2, 2)}), "must be whole numbers, rows in"),
        (lambda: Fade(3)(X, 1, {"offset": torch.ones(2, 2, dtype=torch.bool)}), "must be whole numbers, rows in"),
        (
            lambda: Fade(3)(X, 1, {"offset": torch.zeros(2, 2, dtype=torch.int64, device="meta")}),
            r"state\['offset'\] is on meta, the pictures are on cpu; move one of them",
        ),
        (
            lambda: Snow(3)(X, 1, {"flakes": torch.zeros(2, 1, 8, 8), "vertical": torch.zeros(2)}),
            r"state\['vertical'\] must be True or False, got torch.float32",
        ),
        (
            lambda: Snow(3)(X, 1, {"flakes": torch.zeros(2, 3, 8, 8), "vertical": torch.zeros(2).bool()}),
            r"state\['flakes'\] must be a tensor \(2, 1, 8, 8\), got \(2, 3, 8, 8\)",
        ),
        (lambda: Snow(3)(X, 1, {"flakes": torch.zeros(2, 1, 8, 8)}), "needs a state with 'flakes', 'vertical'"),
        (lambda: ColorFade(3)(X, 1, {"color": torch.zeros(2, 3)}), r"must be a tensor \(2, 3, 1, 1\), got \(2, 3\)"),
        (lambda: Mix(3)(X, 1, {"endpoint": X[:1]}), r"must be a tensor \(2, 3, 8, 8\), got \(1, 3, 8, 8\)"),
        (lambda: Mix(3, endpoint="picture").sample_state(X), "mixes with a picture that can't be drawn"),
        (lambda: Mix(3).sample_state(X, [seeded()]), "a list of 2 for this batch; got 1"),
        (lambda: Mix(3).sample_state(X, 5), "generator must be a torch.Generator or a list of them, got 5"),
        (lambda: Snow(3).sample_state(X, [None, None]), "generator must be a torch.Generator or a list of them"),
        (lambda: degradations.from_config({"kind": "blur"}), "configuration of degradation 'blur' does not fit"),
        (
            lambda: degradations.from_config({"kind": "blur", "num_timesteps": 3, "radius": 4}),
            "configuration of degradation 'blur' does not fit: .*'radius'",
        ),
        (lambda: degradations.from_config({"kind": "blur", "num_timesteps": 0}), "num_timesteps must be"),
        (lambda: degradations.from_config({"num_timesteps": 3}), "a mapping with 'kind', got"),
        (lambda: degradations.from_config("blur"), "a mapping with 'kind', got 'blur'"),
    ],
)
def test_bad_input_is_refused_by_name(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()


def test_an_unknown_kind_lists_what_exists() -> None:
    message = "no degradation named 'blurr'; did you mean 'blur'\\? there are: blur, color_fade, decolor, fade, mix"
    with pytest.raises(UnknownNameError, match=message):
        degradations.from_config({"kind": "blurr", "num_timesteps": 3})


def test_configurations_name_every_argument() -> None:
    assert json.loads(json.dumps(Blur(20).to_config())) == {
        "kind": "blur",
        "num_timesteps": 20,
        "taps": 11,
        "std": 7.0,
        "schedule": "constant",
        "growth": 0.0,
        "border": "circular",
        "mean_at_end": False,
    }
    for degradation in EXAMPLES.values():
        config = degradation.to_config()
        assert set(config) == {"kind", *(one.name for one in dataclasses.fields(degradation))}
        assert degradations.from_config(config) == degradation


@pytest.mark.parametrize(
    ("degradation", "name", "value"),
    [
        (Mix(4), "endpoint", 11.0),
        (Mix(4), "endpoint", math.nan),
        (ColorFade(4), "color", 1.5),
        (Snow(4), "flakes", math.inf),
    ],
    ids=repr,
)
def test_states_that_are_no_pictures_are_refused(degradation: Degradation, name: str, value: float) -> None:
    x = pictures(2, 3, 8, 8)
    state = dict(degradation.sample_state(x, seeded()))
    state[name] = state[name].clone().index_fill(0, torch.tensor([1]), value)
    with pytest.raises(InvalidInputError, match=rf"state\['{name}'\] must be floats in"):
        degradation(x, 2, state)
    state[name] = torch.zeros_like(state[name], dtype=torch.uint8)
    with pytest.raises(InvalidInputError, match="got torch.uint8"):
        degradation(x, 2, state)


def test_autocast_does_not_round() -> None:
    for degradation in EXAMPLES.values():
        x = pictures(2, 3, 16, 24).float()
        state = degradation.sample_state(x, seeded())
        wanted = degradation(x, degradation.num_timesteps, state)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(degradation(x, degradation.num_timesteps, state), wanted)


def test_numbers_of_numpy_become_json() -> None:
    config = json.loads(json.dumps(Blur(np.int64(5), std=np.float32(2.0)).to_config()))
    assert config["num_timesteps"] == 5
    assert degradations.from_config(config) == Blur(5, std=2.0)
