"""Cold Diffusion's pipeline: the chain against the loop written out, states, sizes, colours, repositories."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WriteRepo, make_unet
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from warm import Python

from diffusers_restore import ColdDiffusionPipeline, ColdDiffusionScheduler, DDRMPipeline, GaussianMixturePrior
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
    State,
)
from diffusers_restore.errors import InvalidInputError

SHAPE = (3, 16, 24)
REGISTERED = {kind: DEGRADATIONS[kind](num_timesteps=3) for kind in DEGRADATIONS}
WITH_STATE = [Fade(5, std=0.5), Snow(5), Mix(5), ColorFade(5, std=0.5)]


def make(
    degradation: Degradation,
    *,
    unet: UNet2DModel | None = None,
    prior: GaussianMixturePrior | None = None,
    **config: Any,
) -> ColdDiffusionPipeline:
    pipe = ColdDiffusionPipeline(unet or make_unet(), ColdDiffusionScheduler(degradation, **config), prior)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_prior(**config: Any) -> GaussianMixturePrior:
    prior = GaussianMixturePrior(components=2, noise_std=0.1, **config)
    prior.means.copy_(torch.linspace(-0.5, 0.5, prior.means.numel()).reshape(prior.means.shape))
    prior.scale_tril.mul_(0.2)
    return prior


Calls = list[tuple[torch.Tensor, int]]


def says(pipe: ColdDiffusionPipeline, answer: Callable[[torch.Tensor, int], torch.Tensor]) -> Calls:
    """Replace the network; the list is filled with what it is asked."""
    calls: Calls = []

    def forward(sample: torch.Tensor, timestep: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        assert not return_dict
        assert timestep.shape == (len(sample),)
        calls.append((sample.clone(), int(timestep[0])))
        return (answer(sample, int(timestep[0])),)

    pipe.unet.forward = forward
    return calls


def listens(pipe: ColdDiffusionPipeline) -> Calls:
    """The network answers as it did; the list is filled with what it is asked."""
    network = pipe.unet.forward
    return says(pipe, lambda x, k: network(x, torch.full((len(x),), k), return_dict=False)[0])


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def clean(batch: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(7)) * 2 - 1


def run(pipe: ColdDiffusionPipeline, image: Any = None, **arguments: Any) -> torch.Tensor:
    images: torch.Tensor = pipe(image, **{"output_type": "latent", **arguments}).images
    return images


def error(x: torch.Tensor, wanted: torch.Tensor) -> float:
    assert x.shape == wanted.shape
    return float((x - wanted).abs().max() / wanted.abs().max())


def one_of(state: State, i: int) -> dict[str, torch.Tensor]:
    return {name: value[i : i + 1] for name, value in state.items()}


# The chain


@pytest.mark.parametrize("algorithm", ["naive", "improved"])
@pytest.mark.parametrize("kind", REGISTERED)
def test_restoring_is_the_loop_of_the_scheduler_over_the_network(kind: str, algorithm: str) -> None:
    pipe = make(REGISTERED[kind], algorithm=algorithm)
    state = pipe.scheduler.sample_state(clean(1), seeded(1)[0])
    x_t = x = pipe.scheduler.degrade(clean(1), 3, state)
    scheduler = ColdDiffusionScheduler.from_config(pipe.scheduler.config)
    for k in (2, 1, 0):
        with torch.no_grad():
            x = scheduler.step(pipe.unet(x, torch.tensor([k])).sample, k, x, state=state).prev_sample
    restored = run(pipe, x_t, state=state)
    assert torch.equal(restored, x)
    assert error(restored, x_t) > 0.01


@pytest.mark.parametrize(
    "degradation",
    [
        Blur(6, std=1.0, border="reflect"),
        Fade(6, std=0.4),
        Fade(6, std=0.4, placement="center"),
        Snow(6),
        Decolor(6),
        Mix(6, schedule="linear"),
        ColorFade(6, std=0.4),
        Pixelate(6, shrink="decrement"),
    ],
    ids=repr,
)
def test_a_perfect_network_restores_from_every_severity_by_every_ladder(degradation: Degradation) -> None:
    """And it is asked about pictures of the severity that its timestep says, each step from start to 0."""
    x0 = clean(1, (3, 8, 12))
    state = degradation.sample_state(x0, seeded(0)[0])
    pipe = make(degradation)
    calls = says(pipe, lambda x, k: x0)
    for start in range(1, 7):
        x_t = degradation(x0, start, state)
        for steps in range(1, start + 1):
            calls.clear()
            x = run(pipe, x_t, start=start, num_inference_steps=steps, state=state)
            assert error(x, x0) < 1e-5
            severities = [k + 1 for _, k in calls]
            assert len(severities) == pipe.num_timesteps == steps
            assert severities[0] == start
            assert severities == sorted(set(severities), reverse=True)
            assert all(error(asked, degradation(x0, k + 1, state)) < 1e-5 for asked, k in calls)


def test_ladders_are_as_even_as_whole_numbers_are() -> None:
    pipe = make(Blur(10))
    calls = listens(pipe)
    for start, steps, timesteps in ((None, 4, [9, 7, 4, 2]), (5, 3, [4, 2, 1]), (3, None, [2, 1, 0]), (7, 1, [6])):
        calls.clear()
        run(pipe, clean(1), start=start, num_inference_steps=steps)
        assert [k for _, k in calls] == timesteps


def test_steps_are_the_formula_of_the_paper() -> None:
    """x <- x - D(x0_hat, t) + D(x0_hat, s), with a network that errs, over 6 -> 3 -> 0."""
    degradation = Blur(6, std=1.0)
    pipe = make(degradation)
    x_t = x = clean(1)
    for t, s in ((6, 3), (3, 0)):
        with torch.no_grad():
            x0_hat = pipe.unet(x, torch.tensor([t - 1])).sample
        x = x - degradation(x0_hat, t) + degradation(x0_hat, s)
    assert error(run(pipe, x_t, num_inference_steps=2), x) < 1e-5


def test_direct_is_the_first_look(unet: UNet2DModel) -> None:
    for degradation in (Blur(5), Fade(5), Snow(5), Mix(5)):  # with a state or not, none is needed
        pipe = make(degradation, unet=unet)
        for start, k in ((None, 4), (5, 4), (2, 1)):
            with torch.no_grad():
                wanted = unet(clean(1), torch.tensor([k])).sample
            assert torch.equal(run(pipe, clean(1), start=start, direct=True), wanted)
            assert pipe.num_timesteps == 1


def test_clipping_is_the_schedulers() -> None:
    pipe = make(Blur(2, std=1.0), clip_sample=True)
    says(pipe, lambda x, k: torch.full_like(x, 3.0))
    seen: list[torch.Tensor] = []
    names = ["pred_original_sample"]
    run(
        pipe,
        clean(1),
        callback_on_step_end=lambda _p, _i, _t, tensors: seen.append(tensors["pred_original_sample"]),
        callback_on_step_end_tensor_inputs=names,
    )
    assert all(torch.equal(x, torch.ones(1, *SHAPE)) for x in seen)
    assert len(seen) == 2


def test_another_algorithm_by_diffusers_from_config() -> None:
    pipe = make(Blur(4, std=1.0))
    improved = run(pipe, clean(1))
    pipe.scheduler = ColdDiffusionScheduler.from_config(pipe.scheduler.config, algorithm="naive")
    says(pipe, lambda x, k: torch.full_like(x, 0.25))
    assert torch.equal(run(pipe, clean(1)), torch.full((1, *SHAPE), 0.25))
    assert pipe.scheduler.degradation == Blur(4, std=1.0)
    assert error(improved, torch.full((1, *SHAPE), 0.25)) > 0.1


# Batches


@pytest.mark.parametrize("degradation", [Blur(5, std=1.0), Pixelate(3), Decolor(5), *WITH_STATE], ids=repr)
def test_a_batch_is_its_pictures_bit_for_bit(degradation: Degradation) -> None:
    pipe = make(degradation)
    state = degradation.sample_state(clean(3), seeded(1)[0])
    x_t = degradation(clean(3), degradation.num_timesteps, state)
    both = run(pipe, x_t, state=state)
    assert torch.equal(both, torch.cat([run(pipe, x_t[i : i + 1], state=one_of(state, i)) for i in range(3)]))
    backwards = {name: value.flip(0) for name, value in state.items()}
    assert torch.equal(both.flip(0), run(pipe, x_t.flip(0), state=backwards))
    direct = run(pipe, x_t, direct=True)
    assert torch.equal(direct, torch.cat([run(pipe, x_t[i : i + 1], direct=True) for i in range(3)]))


@pytest.mark.parametrize("degradation", [Blur(5, std=1.0), *WITH_STATE], ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_batch_at_once_is_the_same_to_rounding(
    degradation: Degradation, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other devices do it; a grey network takes all channels of all pictures at once, too."""
    pipe = make(degradation, unet=make_unet(channels=channels))
    state = degradation.sample_state(clean(3), seeded(1)[0])
    x_t = degradation(clean(3), 5, state)
    if channels == 1 and degradation.mixes_channels:
        with pytest.raises(InvalidInputError, match="degradation 'snow' mixes them, so that they can't be restored"):
            run(pipe, x_t, state=state)
        return
    one_by_one = run(pipe, x_t, state=state), run(pipe, x_t, direct=True)
    monkeypatch.setattr(
        "diffusers_restore.pipelines.pipeline_cold_diffusion.pictures_at_once", lambda device, batch: batch
    )
    calls = listens(pipe)
    at_once = run(pipe, x_t, state=state), run(pipe, x_t, direct=True)
    assert {len(x) for x, _ in calls} == {9 // channels}
    assert len(calls) == 6
    assert max(error(a, b) for a, b in zip(at_once, one_by_one, strict=True)) < 1e-4


def test_generated_batches_at_once_are_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = make(ColorFade(4, std=2.0))
    one_by_one = run(pipe, batch_size=3, generator=seeded(1)[0])
    monkeypatch.setattr(
        "diffusers_restore.pipelines.pipeline_cold_diffusion.pictures_at_once", lambda device, batch: batch
    )
    assert error(run(pipe, batch_size=3, generator=seeded(1)[0]), one_by_one) < 1e-5


# Sizes and colours


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (3, 16), (16, 9)])
@pytest.mark.parametrize(
    "degradation", [Blur(3, std=1.0), Fade(3, std=0.5), Snow(3), Mix(3), ColorFade(3), Decolor(3)], ids=repr
)
def test_any_size_is_kept_and_only_the_network_sees_it_continued(
    degradation: Degradation, size: tuple[int, int]
) -> None:
    """D acts on the true size: its border, its masks and its states are those of the picture."""
    pipe = make(degradation, unet=make_unet(levels=4))
    x0 = clean(1, (3, *size))
    state = degradation.sample_state(x0, seeded(1)[0])
    x_t = x = degradation(x0, 3, state)
    for t in (3, 2, 1):
        continued = functional.pad(x, (0, -size[1] % 8, 0, -size[0] % 8), mode="replicate")
        with torch.no_grad():
            x0_hat = pipe.unet(continued, torch.tensor([t - 1])).sample[:, :, : size[0], : size[1]]
        x = x + (degradation(x0_hat, t - 1, state) - degradation(x0_hat, t, state))
    calls = listens(pipe)
    assert torch.equal(run(pipe, x_t, state=state), x)
    assert {tuple(n % 8 for n in asked.shape[2:]) for asked, _ in calls} == {(0, 0)}


def test_sizes_that_d_cannot_carry_are_refused() -> None:
    pipe = make(Pixelate(3))
    assert run(pipe, clean(1, (3, 9, 8))).shape == (1, 3, 9, 8)
    with pytest.raises(InvalidInputError, match="pictures of 7 x 9 pixels are too small for degradation 'pixelate'"):
        run(pipe, clean(1, (3, 7, 9)))
    assert run(pipe, clean(1, (3, 7, 9)), direct=True).shape == (1, 3, 7, 9)  # the network alone can


def test_grey_pictures_on_a_colour_network_come_back_grey(unet: UNet2DModel) -> None:
    pipe = make(Blur(3, std=1.0), unet=unet)
    grey = clean(2, (1, 8, 12))
    in_colour = run(pipe, grey.expand(-1, 3, -1, -1))
    assert torch.equal(run(pipe, grey), in_colour.mean(dim=1, keepdim=True))
    direct = run(pipe, grey.expand(-1, 3, -1, -1), direct=True).mean(dim=1, keepdim=True)
    assert torch.equal(run(pipe, grey, direct=True), direct)
    assert pipe(Image.new("L", (6, 4), 99)).images[0].mode == "L"
    faded = make(Fade(3), unet=unet)
    assert run(faded, grey, state={"offset": torch.tensor([[1, 2], [8, 12]])}).shape == grey.shape


def test_colour_comes_back_where_it_is_what_was_lost(unet: UNet2DModel) -> None:
    pipe = make(Decolor(3), unet=unet)
    grey = clean(2, (1, 8, 12))
    x = run(pipe, grey)
    assert torch.equal(x, run(pipe, grey.expand(-1, 3, -1, -1)))
    assert (x - x.mean(dim=1, keepdim=True)).abs().max() > 0.01
    assert run(pipe, grey, direct=True).shape == (2, 3, 8, 12)
    assert pipe(Image.new("L", (6, 4), 99)).images[0].mode == "RGB"


STATES_IN_COLOUR: list[tuple[Degradation, Callable[[State], State], Callable[[State, int], State]]] = [
    (Blur(3, std=1.0), lambda state: state, lambda state, c: state),
    (Fade(3, std=0.5), lambda state: state, lambda state, c: state),
    (Mix(3), lambda state: state, lambda state, c: {"endpoint": state["endpoint"][:, c : c + 1]}),
    (
        Mix(3),
        lambda state: {"endpoint": state["endpoint"][:, :1]},
        lambda state, c: {"endpoint": state["endpoint"][:, :1]},
    ),
    (ColorFade(3), lambda state: state, lambda state, c: {"color": state["color"][:, c : c + 1]}),
]


@pytest.mark.parametrize(("degradation", "given", "of_channel"), STATES_IN_COLOUR)
def test_colour_pictures_on_a_grey_network_go_channel_by_channel(
    degradation: Degradation, given: Callable[[State], State], of_channel: Callable[[State, int], State]
) -> None:
    """The state of a picture serves all its channels, or holds something for each of them."""
    pipe = make(degradation, unet=make_unet(channels=1))
    state = degradation.sample_state(clean(2), seeded(3)[0])
    x_t = degradation(clean(2), 3, state)
    x = run(pipe, x_t, state=given(state))
    assert x.shape == (2, *SHAPE)
    for c in range(3):
        assert torch.equal(x[:, c : c + 1], run(pipe, x_t[:, c : c + 1], state=of_channel(state, c)))
    assert torch.equal(run(pipe, x_t, direct=True)[1:, 2:], run(pipe, x_t[1:, 2:], direct=True))
    assert pipe(x_t, state=given(state)).images[1].mode == "RGB"


def test_a_picture_as_endpoint_goes_channel_by_channel_too() -> None:
    pipe = make(Mix(3, endpoint="picture", schedule="linear"), unet=make_unet(channels=1))
    alone = [run(pipe, clean(2)[:, c : c + 1]) for c in range(3)]
    assert torch.equal(run(pipe, clean(2)), torch.cat(alone, dim=1))


def test_pictures_of_many_channels_need_another_output_type() -> None:
    pipe = make(Blur(2), unet=make_unet(channels=4))
    with pytest.raises(InvalidInputError, match="output_type='pil' needs 1 or 3 channels, got 4"):
        pipe(clean(1, (4, 8, 8)))
    assert run(pipe, clean(1, (4, 8, 8))).shape == (1, 4, 8, 8)
    with pytest.raises(InvalidInputError, match="image has 3 channels, the network takes 4"):
        run(pipe, clean(1))
    with pytest.raises(InvalidInputError, match="image has 4 channels, the network takes 3"):
        run(make(Blur(2)), clean(1, (4, 8, 8)))
    grey = make(Blur(2), unet=make_unet(channels=1))
    with pytest.raises(InvalidInputError, match="output_type='pil' needs 1 or 3 channels, got 2"):
        grey(clean(1, (2, 8, 8)))


# States


@pytest.mark.parametrize(
    ("degradation", "names"),
    [(Fade(4), "'offset'"), (Snow(4), "'flakes', 'vertical'"), (ColorFade(4), "'color'")],
    ids=repr,
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_state_that_a_picture_does_not_tell_is_asked_for(degradation: Degradation, names: str, channels: int) -> None:
    pipe = make(degradation, unet=make_unet(channels=channels))
    message = rf"through a state \({names}\).*give it as state.*or .*direct=True"
    if channels == 1 and degradation.mixes_channels:
        message = "image has 3 channels and the network takes one"
    with pytest.raises(InvalidInputError, match=message):
        run(pipe, clean(1))
    assert run(pipe, clean(1), direct=True).shape == (1, *SHAPE)


def test_at_t_the_picture_is_its_own_endpoint(unet: UNet2DModel) -> None:
    for degradation in (Mix(4, endpoint="picture", schedule="linear"), Mix(4)):
        pipe = make(degradation, unet=unet)
        z = clean(2)
        wanted = run(pipe, z, state={"endpoint": z})
        assert torch.equal(run(pipe, z), wanted)
        assert torch.equal(run(pipe, z, start=4), wanted)
        other = run(pipe, z, state={"endpoint": z.flip(3)})
        assert error(other, wanted) > 0.01
        with pytest.raises(InvalidInputError, match=r"through a state \('endpoint'\).*give it as state"):
            run(pipe, z, start=3)
        assert run(pipe, z, start=3, state={"endpoint": z}).shape == z.shape


@pytest.mark.parametrize("algorithm", ["naive", "improved"])
def test_an_estimated_endpoint_needs_no_state(unet: UNet2DModel, algorithm: str) -> None:
    """For linear mixing it is InDI: x_s = s/t x_t + (1 - s/t) x0_hat (arXiv:2303.11435), from every severity."""
    pipe = make(Mix(4, schedule="linear"), unet=unet, algorithm=algorithm, endpoint="estimated")
    for start in (2, 4):
        x = clean(1)
        for t in range(start, 0, -1):
            with torch.no_grad():
                x0_hat = unet(x, torch.tensor([t - 1])).sample
            x = (t - 1) / t * x + (1 - (t - 1) / t) * x0_hat
        assert error(run(pipe, clean(1), start=start), x) < 1e-5
    grey = make(Mix(4), unet=make_unet(channels=1), endpoint="estimated")
    assert torch.equal(run(grey, clean(1))[:, 1:2], run(grey, clean(1)[:, 1:2]))


# Generation


@pytest.mark.parametrize("config", [{}, {"height": 2, "width": 3, "upsample": "bilinear"}])
def test_generation_starts_with_what_the_prior_draws(config: dict[str, Any], unet: UNet2DModel) -> None:
    prior = make_prior(**config)
    pipe = make(Blur(4, std=1.0), unet=unet, prior=prior)
    x_t = prior.sample(2, 16, 16, seeded(5)[0])
    x = run(pipe, batch_size=2, generator=seeded(5)[0])
    assert torch.equal(x, run(pipe, x_t))
    direct = run(pipe, batch_size=2, generator=seeded(5)[0], direct=True)
    assert torch.equal(direct, run(pipe, x_t, direct=True))
    assert run(pipe, generator=seeded(5)[0], start=4, num_inference_steps=2).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("degradation", WITH_STATE, ids=repr)
def test_a_prior_has_no_place_beside_a_state(degradation: Degradation) -> None:
    """What the prior draws would not be D of anything with the state that is drawn."""
    with pytest.raises(InvalidInputError, match=f"prior must be None: degradation '{degradation.kind}' acts through"):
        make(degradation, prior=make_prior())


def test_dropout_is_not_active() -> None:
    unet = UNet2DModel.from_config(make_unet().config, dropout=0.5)
    with pytest.raises(InvalidInputError, match="unet is in training mode"):
        make(Blur(2), unet=unet.train())(clean(1))
    pipe = make(Blur(2), unet=unet.eval())
    assert torch.equal(run(pipe, clean(1)), run(pipe, clean(1)))


@pytest.mark.parametrize("degradation", [ColorFade(4, std=2.0), Mix(4), Mix(4, schedule="linear")], ids=repr)
def test_generation_without_a_prior_where_nothing_of_a_picture_is_left(degradation: Degradation) -> None:
    pipe = make(degradation)
    state = degradation.sample_state(torch.zeros(2, 3, 16, 16), seeded(5)[0])
    x_t = degradation(torch.zeros(2, 3, 16, 16), 4, state)
    calls = listens(pipe)
    x = run(pipe, batch_size=2, generator=seeded(5)[0])
    assert torch.equal(torch.cat([asked for asked, k in calls if k == 3]), x_t)
    assert torch.equal(x, run(pipe, x_t, state=state))
    assert torch.equal(x, run(pipe, batch_size=2, state=state))
    if isinstance(degradation, ColorFade):
        color = x_t[:, :, :1, :1]
        assert torch.equal(x_t, color.expand_as(x_t))
        assert 0.05 < color.abs().max() <= 0.5
        assert color.flatten().unique().numel() == 6  # its own for each channel of each picture
    else:
        assert abs(float(x_t.std()) - 1) < 0.1  # 4.4 standard errors; the cosine schedule's b_T is 1 to 5e-4


def test_generated_pictures_have_the_size_of_the_network() -> None:
    unet = make_unet()
    unet.register_to_config(sample_size=[10, 7])  # as a tuple comes back from JSON
    assert run(make(Blur(2), unet=unet, prior=make_prior())).shape == (1, 3, 10, 7)
    assert run(make(Mix(2), unet=unet), batch_size=2).shape == (2, 3, 10, 7)
    unet.register_to_config(sample_size=None)
    with pytest.raises(InvalidInputError, match=r"unet.config.sample_size says nothing about the size"):
        run(make(Mix(2), unet=unet))
    assert run(make(Blur(2), unet=unet), clean(1)).shape == (1, *SHAPE)


@pytest.mark.parametrize("degradation", [Blur(2), Fade(2), Snow(2), Decolor(2), Pixelate(2)], ids=repr)
def test_generation_needs_a_prior_where_something_of_a_picture_is_left(degradation: Degradation) -> None:
    with pytest.raises(
        InvalidInputError, match=f"image is needed: degradation '{degradation.kind}' leaves something.*no prior"
    ):
        make(degradation)()
    if not degradation.state_shapes(3, 16, 16):
        assert run(make(degradation, prior=make_prior())).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("degradation", [Blur(4, std=1.0), Mix(5), ColorFade(5, std=0.5)], ids=repr)
def test_a_list_of_generators_draws_single_pictures(degradation: Degradation) -> None:
    pipe = make(degradation, prior=None if degradation.forgets else make_prior())
    both = run(pipe, batch_size=3, generator=seeded(4, 5, 6))
    alone = [run(pipe, generator=seeded(seed)[0]) for seed in (4, 5, 6)]
    assert torch.equal(both, torch.cat(alone))
    assert torch.equal(both[1:2], run(pipe, batch_size=1, generator=seeded(5)))
    assert all(error(both[i : i + 1], alone[j]) > 0.01 for i in range(3) for j in range(3) if i != j)


def test_a_seed_gives_the_same_pictures_and_the_global_random_state_stays() -> None:
    pipe = make(Mix(3))
    before = torch.random.get_rng_state()
    first, second = (run(pipe, batch_size=2, generator=seeded(1)[0]) for _ in "ab")
    restored = run(pipe, clean(1))
    assert torch.equal(first, second)
    assert torch.equal(restored, run(pipe, clean(1), generator=seeded(3)[0]))  # restoring draws nothing
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(run(pipe, batch_size=2), first)  # without a generator, the global one draws


# Inputs and outputs


def test_pictures_arrays_and_tensors_are_the_same_picture(unet: UNet2DModel) -> None:
    pipe = make(Blur(3, std=1.0), unet=unet)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    wanted = run(pipe, tensor / 127.5 - 1)
    transparent = Image.fromarray(np.dstack([pixels, pixels[..., 0]]))
    wide = pixels.astype(np.uint16) * 257
    for image in (
        Image.fromarray(pixels),
        [Image.fromarray(pixels)],
        pixels,
        pixels / 255.0,
        tensor,
        transparent,
        wide,
    ):
        assert error(run(pipe, image), wanted) < 1e-5
    pil = pipe(pixels).images[0]
    array = pipe(pixels, output_type="np").images
    assert pil.size == (8, 6)
    assert array.shape == (1, 6, 8, 3)
    assert np.abs(np.asarray(pil) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6
    expected = (wanted[0].clamp(-1, 1).permute(1, 2, 0).numpy() + 1) / 2
    assert np.abs(array[0] - expected).max() < 1e-5
    (images,) = pipe(pixels, return_dict=False)
    assert [one.tobytes() for one in images] == [pil.tobytes()]


def test_tensors_are_not_clipped() -> None:
    pipe = make(Blur(1), algorithm="naive")
    says(pipe, lambda x, k: torch.full_like(x, 1.5))
    assert torch.equal(run(pipe, clean(1)), torch.full((1, *SHAPE), 1.5))
    assert pipe(clean(1), output_type="np").images.max() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_converted(dtype: torch.dtype) -> None:
    pipe = make(Fade(3, std=0.5))
    state = {"offset": torch.tensor([[3, 4]])}
    x = run(pipe, clean(1).to(dtype), state=state)
    assert x.dtype == torch.float32
    assert torch.equal(x, run(pipe, clean(1).to(dtype).float(), state=state))
    mixed = make(Mix(3))
    z = clean(1).to(dtype)
    assert torch.equal(run(mixed, clean(1), state={"endpoint": z}), run(mixed, clean(1), state={"endpoint": z.float()}))


def test_inputs_stay_as_they_were() -> None:
    pipe = make(Mix(3))
    x, z = clean(2), clean(2).flip(2)
    state = {"endpoint": z}
    run(pipe, x, start=2, state=state)
    assert torch.equal(x, clean(2))
    assert torch.equal(z, clean(2).flip(2))
    assert list(state) == ["endpoint"]
    assert state["endpoint"] is z


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_network_keeps_a_float32_chain(dtype: torch.dtype) -> None:
    degradation = Blur(4, std=1.0)
    full = run(make(degradation), clean(1))
    pipe = make(degradation, unet=make_unet().to(dtype))
    calls = listens(pipe)
    seen: list[tuple[torch.dtype, torch.dtype]] = []

    def look(_pipe: Any, _i: int, _t: int, tensors: dict[str, torch.Tensor]) -> None:
        seen.append((tensors["sample"].dtype, tensors["pred_original_sample"].dtype))

    names = ["sample", "pred_original_sample"]
    half = run(pipe, clean(1), callback_on_step_end=look, callback_on_step_end_tensor_inputs=names)
    assert seen == [(torch.float32, torch.float32)] * 4
    assert {asked.dtype for asked, _ in calls} == {dtype}
    assert 0 < error(half, full) < (0.05 if dtype == torch.bfloat16 else 0.005)
    x = clean(1)
    for t in (4, 3, 2, 1):  # the chain written out, with only the network in half precision
        with torch.no_grad():
            x0_hat = pipe.unet(x.to(dtype), torch.tensor([t - 1]), return_dict=False)[0].float()
        x = x + (degradation(x0_hat, t - 1) - degradation(x0_hat, t))
    assert torch.equal(half, x)


def test_a_half_precision_pipeline_generates_in_float32() -> None:
    pipe = make(Blur(2), unet=make_unet().to(torch.bfloat16), prior=make_prior().to(torch.bfloat16))
    assert run(pipe).dtype == torch.float32


def test_use_under_inference_mode_leaves_gradients_alone() -> None:
    degradation = Fade(3, std=0.3)  # with cached masks
    pipe = make(degradation)
    state = {"offset": torch.tensor([[3, 4]])}
    with torch.inference_mode():
        run(pipe, clean(1, (3, 21, 19)), state=state)
    x = clean(1, (3, 21, 19)).requires_grad_()
    degradation(x, 2, state).sum().backward()
    assert x.grad is not None
    assert not run(pipe, x, state=state).requires_grad


def test_progress_is_shown(unet: UNet2DModel, capsys: pytest.CaptureFixture[str]) -> None:
    ColdDiffusionPipeline(unet, ColdDiffusionScheduler(Blur(3)))(clean(1))
    assert "3/3" in capsys.readouterr().err


# Callbacks


def test_callbacks_see_the_chain() -> None:
    degradation = Blur(9, std=1.0)
    pipe = make(degradation)
    calls = listens(pipe)
    seen: list[tuple[Any, int, int, dict[str, torch.Tensor]]] = []
    x = run(
        pipe,
        clean(2),
        start=7,
        num_inference_steps=3,
        callback_on_step_end=lambda *given: seen.append(given),
        callback_on_step_end_tensor_inputs=["pred_original_sample", "sample"],
    )
    assert all(one[0] is pipe for one in seen)
    assert [one[1:3] for one in seen] == [(0, 6), (1, 4), (2, 1)]
    assert all(list(one[3]) == ["pred_original_sample", "sample"] for one in seen)
    asked = [torch.cat([calls[2 * i][0], calls[2 * i + 1][0]]) for i in range(3)]
    for i in range(3):
        after = seen[i][3]["sample"]
        assert torch.equal(after, asked[i + 1] if i < 2 else x)
        t, s = (7, 5, 2, 0)[i : i + 2]
        x0_hat = seen[i][3]["pred_original_sample"]
        assert error(after, asked[i] - degradation(x0_hat, t) + degradation(x0_hat, s)) < 1e-5
    default: list[list[str]] = []
    run(pipe, clean(1), callback_on_step_end=lambda _p, _i, _t, tensors: default.append(list(tensors)))
    assert default == [["latents", "sample"]] * 9


def test_callbacks_change_the_chain() -> None:
    pipe = make(Blur(3))
    calls = listens(pipe)
    new = clean(2).flip(3)

    def answer(_pipe: Any, i: int, _t: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        return ({}, {"sample": new.double()}, {"sample": new / 2})[i]

    x = run(pipe, clean(2), callback_on_step_end=answer)
    assert torch.equal(torch.cat([asked for asked, k in calls if k == 0]), new)
    assert torch.equal(x, new / 2)
    assert x.dtype == torch.float32


def test_callbacks_of_a_direct_look_and_of_grey_networks() -> None:
    pipe = make(Blur(3), unet=make_unet(channels=1))
    seen: list[torch.Tensor] = []
    names = ["sample", "pred_original_sample"]
    x = run(
        pipe,
        clean(2),
        direct=True,
        callback_on_step_end=lambda _p, _i, _t, tensors: seen.extend(tensors.values()),
        callback_on_step_end_tensor_inputs=names,
    )
    assert len(seen) == 2
    assert all(torch.equal(one, x.reshape(6, 1, *SHAPE[1:])) for one in seen)  # as the network takes them


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": torch.full((1, *SHAPE), math.nan)}, "(?i)image.*nan"),
        ({"image": torch.full((1, *SHAPE), math.inf)}, "(?i)image.*inf"),
        ({"image": clean(1) * 255}, "image reaches 25.*expected torch floats in .-1, 1.; for 0..255"),
        ({"image": clean(1).permute(0, 2, 3, 1)}, "image .*looks like channels last"),
        ({"image": clean(1)[0, 0]}, "image must be a torch tensor"),
        ({"image": clean(1)[:0]}, "image is empty"),
        ({"image": []}, "image must hold at least one picture"),
        ({"image": "photo.png"}, "image must be a PIL picture, .*, got str"),
        ({"image": [np.zeros((4, 4, 3)), np.zeros((4, 5, 3))]}, "image .*4.*5"),
        ({"start": 0}, "start must be a whole number >= 1 and <= 4, got 0"),
        ({"start": 5}, "start must be a whole number >= 1 and <= 4, got 5"),
        ({"start": 2.0}, "start must be a whole number .*, got 2.0"),
        ({"start": "2"}, "start must be a whole number .*, got '2'"),
        ({"start": True}, "start must be a whole number .*, got True"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number >= 1 and <= 4, got 0"),
        ({"num_inference_steps": -1}, "num_inference_steps must be .*, got -1"),
        ({"num_inference_steps": 5}, "num_inference_steps must be .*, got 5"),
        ({"num_inference_steps": 3, "start": 2}, "num_inference_steps must be a whole number >= 1 and <= 2, got 3"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be .*, got 2.5"),
        ({"num_inference_steps": "3"}, "num_inference_steps must be .*, got '3'"),
        ({"direct": 1}, "direct must be True or False, got 1"),
        ({"direct": True, "num_inference_steps": 1}, "num_inference_steps=1 has no meaning with direct=True"),
        ({"batch_size": 1}, "batch_size must be None where there is an image"),
        ({"state": {"offset": torch.zeros(1, 2)}}, "degradation 'blur' needs no state; got one with 'offset'"),
        ({"state": 3}, "state must be a mapping of names to tensors, got 3"),
        ({"state": torch.zeros(2)}, "state must be a mapping of names to tensors, got tensor"),
        ({"generator": 0}, "generator must be a torch.Generator or a list of them, got 0"),
        ({"generator": seeded(1, 2)}, "generator must be one, or a list of 1 for this batch; got 2"),
        ({"output_type": "jpg"}, "no output_type named 'jpg'"),
        ({"output_type": None}, "no output_type named None"),
        ({"callback_on_step_end_tensor_inputs": ["prompts"]}, "no callback tensor named 'prompts'"),
        ({"callback_on_step_end": lambda *_: {"sampl": None}}, "callback_on_step_end must return None or {'sample'"),
        ({"callback_on_step_end": lambda *_: {"sample": torch.zeros(2, *SHAPE)}}, "callback_on_step_end must return"),
        ({"callback_on_step_end": lambda *_: torch.zeros(1, *SHAPE)}, "callback_on_step_end must return"),
    ],
)
def test_bad_input_is_refused_by_name(unet: UNet2DModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(Blur(4), unet=unet)(**{"image": clean(1), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 2}, "start must be None or T=4 to generate, got 2"),
        ({"start": 9}, "start must be a whole number >= 1 and <= 4, got 9"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number >= 1, got 2.0"),
        ({"generator": 0}, "generator must be a torch.Generator or a list of them, got 0"),
        ({"generator": [0]}, "generator must be a torch.Generator or a list of them, got"),
        (
            {"generator": seeded(1, 2, 3), "batch_size": 2},
            "generator must be one, or a list of 2 for this batch; got 3",
        ),
        ({"generator": seeded(1, 2)}, "generator must be one, or a list of 1 for this batch; got 2"),
        ({"generator": 0, "state": {"endpoint": torch.zeros(1, 3, 16, 16)}}, "generator must be a torch.Generator"),
        ({"state": {}}, "degradation 'mix' needs a state with 'endpoint'.*; got one with nothing"),
        ({"state": {"endpoint": torch.zeros(1, 3, 16, 24)}}, r"state\['endpoint'\] must be a tensor \(1, 3, 16, 16\)"),
        ({"state": {"endpoint": torch.zeros(2, 3, 16, 16)}}, r"state\['endpoint'\] must be .*, got \(2, 3, 16, 16\)"),
        ({"state": torch.zeros(1, 3, 16, 16)}, "state must be a mapping"),
        ({"num_inference_steps": 5}, "num_inference_steps must be"),
    ],
)
def test_bad_input_of_generation_is_refused_by_name(unet: UNet2DModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(Mix(4), unet=unet)(**arguments)


@pytest.mark.parametrize(
    ("degradation", "state", "message"),
    [
        (Fade(4), {}, "degradation 'fade' needs a state with 'offset'.*; got one with nothing"),
        (Fade(4), {"ofset": torch.zeros(1, 2)}, "needs a state with 'offset'.*; got one with 'ofset'"),
        (Fade(4), {"offset": [3, 4]}, r"state\['offset'\] must be a tensor \(1, 2\), got \[3, 4\]"),
        (Fade(4), {"offset": torch.tensor([3, 4])}, r"state\['offset'\] must be a tensor \(1, 2\), got \(2,\)"),
        (Fade(4), {"offset": torch.tensor([[3, 4]] * 2)}, r"state\['offset'\] must be a tensor \(1, 2\), got \(2, 2\)"),
        (Fade(4), {"offset": torch.tensor([[3, 25]])}, r"state\['offset'\] must be .*rows in 0..16.*columns in 0..24"),
        (Fade(4), {"offset": torch.tensor([[3.0, 4.0]])}, r"state\['offset'\] must be whole numbers"),
        (Snow(4), {"flakes": torch.zeros(1, 1, 16, 24)}, "degradation 'snow' needs a state with 'flakes', 'vertical'"),
        (
            Snow(4),
            {"flakes": torch.zeros(1, 1, 16, 24), "vertical": torch.ones(1)},
            r"state\['vertical'\] must be True",
        ),
        (Mix(4), {"endpoint": torch.zeros(1, 3, 8, 8)}, r"state\['endpoint'\] must be a tensor \(1, 3, 16, 24\)"),
        (ColorFade(4), {"color": torch.zeros(1, 3)}, r"state\['color'\] must be a tensor \(1, 3, 1, 1\), got \(1, 3\)"),
    ],
)
def test_bad_states_are_refused_by_name(unet: UNet2DModel, degradation: Degradation, state: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(degradation, unet=unet)(clean(1), start=2, state=state)


def test_an_endpoint_that_cannot_be_drawn_is_asked_for() -> None:
    pipe = make(Mix(4, endpoint="picture"))
    with pytest.raises(InvalidInputError, match=r"can't be drawn: give it as state=\{'endpoint'"):
        pipe()
    z = clean(1, (3, 16, 16))
    degraded = Mix(4, endpoint="picture")(torch.zeros_like(z), 4, {"endpoint": z})
    assert torch.equal(run(pipe, state={"endpoint": z}), run(pipe, degraded, state={"endpoint": z}))


def test_a_misspelt_option_is_an_error(unet: UNet2DModel) -> None:
    with pytest.raises(TypeError, match="strat"):
        make(Blur(4), unet=unet)(clean(1), strat=2)


def test_components_of_another_kind_are_refused(unet: UNet2DModel) -> None:
    scheduler = ColdDiffusionScheduler(Blur(4))
    for config, message in (
        ({"out_channels": 6}, "unet must predict clean pictures of its 3 input channels .*; it has 6 output channels"),
        ({"num_class_embeds": 4}, "without class labels; .*num_class_embeds=4"),
        ({"class_embed_type": "timestep"}, "without class labels; .*class_embed_type='timestep'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            ColdDiffusionPipeline(make_unet(**config), scheduler)
    with pytest.raises(InvalidInputError, match="unet must be a UNet2DModel or a ResidualUNet2DModel, got Identity"):
        ColdDiffusionPipeline(torch.nn.Identity(), scheduler)
    for wrong, name in ((DDPMScheduler(), "DDPMScheduler"), (None, "NoneType"), (Blur(4), "Blur")):
        with pytest.raises(InvalidInputError, match=f"scheduler must be a ColdDiffusionScheduler, got {name}"):
            ColdDiffusionPipeline(unet, wrong)
    with pytest.raises(InvalidInputError, match="prior must be a GaussianMixturePrior, got UNet2DModel"):
        ColdDiffusionPipeline(unet, scheduler, unet)
    with pytest.raises(InvalidInputError, match="prior draws pictures of 1 channels, unet takes 3"):
        ColdDiffusionPipeline(unet, scheduler, make_prior(channels=1))


# Repositories


SAVED: dict[str, Callable[[], ColdDiffusionPipeline]] = {
    "blur": lambda: make(Blur(4, std=1.0, border="reflect"), prior=make_prior(), eight_bit=True, algorithm="naive"),
    "color_fade": lambda: make(ColorFade(4, std=2.0), clip_sample=True),
    "mix": lambda: make(Mix(4, schedule="linear"), endpoint="estimated"),
}

LOADS = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from diffusers_restore import ColdDiffusionPipeline

torch.set_num_threads(int(sys.argv[2]))
pictures = {}
for folder in Path(sys.argv[1]).iterdir():
    pipe = ColdDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    pictures[folder.name] = pipe(batch_size=2, generator=generator, output_type="latent").images
    config = pipe.scheduler.config
    print(folder.name, config.algorithm, config.endpoint, config.clip_sample, config.eight_bit, pipe.prior is not None)
save_file(pictures, sys.argv[3])
"""


def test_what_we_save_another_process_loads_with_the_same_pictures(tmp_path: Path, python: Python) -> None:
    folders = tmp_path / "saved"
    for name, saved in SAVED.items():
        saved().save_pretrained(folders / name)
    result = python.run("-c", LOADS, folders, torch.get_num_threads(), tmp_path / "drawn", check=True)
    assert sorted(result.stdout.splitlines()) == [
        "blur naive fixed False True True",
        "color_fade improved fixed True False False",
        "mix improved estimated False False False",
    ]
    drawn = load_file(tmp_path / "drawn")
    for name, saved in SAVED.items():
        pipe = ColdDiffusionPipeline.from_pretrained(folders / name)
        pipe.set_progress_bar_config(disable=True)
        assert torch.equal(drawn[name], run(pipe, batch_size=2, generator=seeded(3)[0]))
        assert pipe.scheduler.degradation == saved().scheduler.degradation
        # Weights read from a file lie elsewhere in memory, where a CPU's matrix product may sum in another order.
        assert error(drawn[name], run(saved(), batch_size=2, generator=seeded(3)[0])) < 1e-5


def test_the_index_of_a_saved_pipeline(tmp_path: Path) -> None:
    SAVED["blur"]().save_pretrained(tmp_path / "prior")
    SAVED["mix"]().save_pretrained(tmp_path / "none")
    index = json.loads((tmp_path / "prior" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers_restore", "ColdDiffusionScheduler"]
    assert index["prior"] == ["diffusers_restore", "GaussianMixturePrior"]
    assert json.loads((tmp_path / "none" / "model_index.json").read_text())["prior"] == [None, None]
    pickles = [path.name for path in tmp_path.rglob("*") if path.suffix not in ("", ".json", ".py", ".safetensors")]
    assert pickles == []


@pytest.mark.parametrize("name", SAVED)
def test_the_plug_in_file_serves_diffusers_own_loader(tmp_path: Path, name: str, plug_in: Callable[[str], str]) -> None:
    SAVED[name]().save_pretrained(tmp_path)
    folder = plug_in("cold_diffusion")
    pipe = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=folder, trust_remote_code=True)
    assert type(pipe) is ColdDiffusionPipeline
    assert type(pipe.scheduler) is ColdDiffusionScheduler
    assert (pipe.prior is not None) == (name == "blur")
    pipe.set_progress_bar_config(disable=True)
    assert error(run(pipe, generator=seeded(3)[0]), run(SAVED[name](), generator=seeded(3)[0])) < 1e-5


def test_from_pipe_shares_the_components() -> None:
    pipe = make(Blur(4), prior=make_prior())
    other = ColdDiffusionPipeline.from_pipe(pipe)
    assert type(other) is ColdDiffusionPipeline
    assert other is not pipe
    assert all(getattr(other, name) is getattr(pipe, name) for name in ("unet", "scheduler", "prior"))
    without = ColdDiffusionPipeline.from_pipe(pipe, prior=None)
    assert without.prior is None


def test_a_network_of_a_stock_repository_is_refused(write_repo: WriteRepo, unet: UNet2DModel) -> None:
    """It predicts noise; the error says what restores with it."""
    folder = write_repo(unet)
    message = "scheduler must be a ColdDiffusionScheduler, got DDPMScheduler: .* DDRMPipeline restores with it"
    with pytest.raises(InvalidInputError, match=message):
        ColdDiffusionPipeline.from_pretrained(folder)
    assert type(DDRMPipeline.from_pretrained(folder)) is DDRMPipeline
    with pytest.raises(InvalidInputError, match=message):
        ColdDiffusionPipeline(**DDPMPipeline(unet, DDPMScheduler()).components)
    with pytest.raises(InvalidInputError, match=message):
        ColdDiffusionPipeline.from_pipe(DDPMPipeline(unet, DDPMScheduler()))


def test_a_latent_repository_is_refused(write_repo: WriteRepo, unet: UNet2DModel) -> None:
    folder = write_repo(unet, pipeline="LDMPipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(InvalidInputError, match="LDMPipeline with vqvae, which ColdDiffusionPipeline has no place for"):
        ColdDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize(("part", "lost"), [("unet", "conv_in.weight"), ("prior", "scale_tril")])
def test_a_damaged_repository_is_refused(tmp_path: Path, part: str, lost: str) -> None:
    SAVED["blur"]().save_pretrained(tmp_path)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    kept = {name: value for name, value in weights.items() if name != lost}
    save_file(kept, file)
    with pytest.raises(
        InvalidInputError, match=rf"{part} in .*{part} lacks 1 of its {len(weights)} weights \({lost}\)"
    ):
        ColdDiffusionPipeline.from_pretrained(tmp_path)
    whole = SAVED["blur"]()
    given = ColdDiffusionPipeline.from_pretrained(tmp_path, **{part: getattr(whole, part)})
    assert getattr(given, part) is getattr(whole, part)

    save_file(kept | {lost: weights[lost][:1, :1].clone()}, file)
    with pytest.raises(ValueError, match=f"{lost} expected shape"):
        ColdDiffusionPipeline.from_pretrained(tmp_path)

    save_file(weights, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(OSError, match="Unable to load weights"):
        ColdDiffusionPipeline.from_pretrained(tmp_path)


def test_a_pickled_prior_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    SAVED["blur"]().save_pretrained(tmp_path)
    (tmp_path / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "prior" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OSError, match="Unable to load weights"):
            ColdDiffusionPipeline.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_degradation_that_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    SAVED["mix"]().save_pretrained(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    for changed, message in (
        ({"kind": "blurr", "num_timesteps": 4}, "no degradation named 'blurr'; did you mean 'blur'"),
        ({"kind": "blur", "num_timesteps": 4, "tap": 3}, "configuration of degradation 'blur' does not fit: .*tap"),
        (
            {"kind": "blur", "num_timesteps": 5},
            "num_train_timesteps must be that of the degradation, 5, or None, got 4",
        ),
    ):
        file.write_text(json.dumps({**config, "degradation": changed}))
        with pytest.raises(InvalidInputError, match=message):
            ColdDiffusionPipeline.from_pretrained(tmp_path)
