"""RDDM's pipeline: the chain written out, perfect networks, DDIM of diffusers, masks, sizes, colours, repositories."""

from __future__ import annotations

import copy
import doctest
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
from conftest import WriteRepo, make_residual_unet, make_unet
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from warm import Python

from diffusers_restore import (
    ColdDiffusionPipeline,
    ColdDiffusionScheduler,
    DDRMPipeline,
    DDRMScheduler,
    RDDMPipeline,
    RDDMScheduler,
)
from diffusers_restore.degradations import Blur
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.models.growing import grow_unet
from diffusers_restore.pipelines import pipeline_rddm

SHAPE = (3, 16, 24)
T = 20
ONE_HEAD = ("residual", "epsilon", "sample")
TWO_HEADS = ("residual_epsilon", "residual_sum", "sample_epsilon", "sample_sum")
ORDERS = ("both", "residual_first", "noise_first")
TENSORS = ["sample", "pred_original_sample", "pred_residual", "pred_epsilon"]


def make(
    unet: UNet2DModel | None = None, unet_noise: UNet2DModel | None = None, *, scheduler: Any = None, **config: Any
) -> RDDMPipeline:
    scheduler = scheduler or RDDMScheduler(**{"num_train_timesteps": T, "noise_scale": 0.25, **config})
    pipe = RDDMPipeline(unet or restorer(), scheduler, unet_noise)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def restorer(channels: int = 3, *, heads: int = 1, mask: bool = False, **config: Any) -> UNet2DModel:
    return make_unet(channels=2 * channels + mask, out_channels=heads * channels, **config)


def second(channels: int = 3, *, mask: bool = False, **config: Any) -> UNet2DModel:
    """A network that says something else."""
    unet = restorer(channels, mask=mask, **config)
    with torch.no_grad():
        unet.conv_out.weight.mul_(-0.7)
        unet.conv_out.bias.add_(0.3)
    return unet


Calls = list[tuple[torch.Tensor, torch.Tensor]]


def says(network: UNet2DModel, answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Calls:
    """Replace what the network does; the list is filled with what it is asked."""
    calls: Calls = []

    def forward(sample: torch.Tensor, timestep: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        assert not return_dict
        assert timestep.shape == (len(sample),)
        calls.append((sample.clone(), timestep.clone()))
        return (answer(sample, timestep),)

    network.forward = forward
    return calls


def listens(network: UNet2DModel) -> Calls:
    """The network answers as it did; the list is filled with what it is asked."""
    forward = network.forward
    return says(network, lambda x, t: forward(x, t, return_dict=False)[0])


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def clean(batch: int, shape: tuple[int, int, int] = SHAPE, seed: int = 7) -> torch.Tensor:
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def holes(batch: int, size: tuple[int, int] = SHAPE[1:], seed: int = 3) -> torch.Tensor:
    return (torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed)) > 0.6).float()


def run(pipe: RDDMPipeline, image: Any = None, **arguments: Any) -> torch.Tensor:
    images: torch.Tensor = pipe(image, **{"output_type": "latent", "generator": seeded(0)[0], **arguments}).images
    return images


def error(x: torch.Tensor, wanted: torch.Tensor) -> float:
    assert x.shape == wanted.shape
    return float((x - wanted).abs().max() / wanted.abs().max())


# The chain


def written_out(
    pipe: RDDMPipeline,
    degraded: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    steps: int,
    eta: float = 0.0,
) -> torch.Tensor:
    """The loop over the scheduler's steps for one picture of a size that fits, with the generator of `run`."""
    (generator,) = seeded(0)
    scheduler = RDDMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    x = scheduler.start(degraded, torch.randn(degraded.shape, generator=generator))
    for t in scheduler.timesteps.tolist():
        asked = [x]
        if pipe.unet.config.in_channels > x.shape[1]:
            asked.append(degraded)
        if mask is not None:
            asked.append(2 * mask - 1)
        noise = torch.randn(x.shape, generator=generator) if eta else None
        with torch.no_grad():
            output = torch.cat(
                [
                    network(torch.cat(asked, dim=1), torch.tensor([t]), return_dict=False)[0]
                    for network in (pipe.unet, pipe.unet_noise)
                    if network is not None
                ],
                dim=1,
            )
        x = scheduler.step(output, t, x, degraded, eta=eta, variance_noise=noise).prev_sample
    return x


NETWORKS: dict[str, Callable[[], RDDMPipeline]] = {
    **{name: lambda name=name: make(prediction_type=name) for name in ONE_HEAD},
    "v_prediction": lambda: make(prediction_type="v_prediction", beta_schedule="linear", noise_scale=1.0),
    **{name: lambda name=name: make(restorer(heads=2), prediction_type=name) for name in TWO_HEADS},
    "two networks": lambda: make(restorer(), second(), prediction_type="residual_epsilon"),
    "two networks, sum": lambda: make(restorer(), second(), prediction_type="sample_sum"),
    "translation": lambda: make(make_unet(out_channels=6), prediction_type="residual_epsilon"),
    "another process": lambda: make(process="i2sb", noise_scale=1.0, prediction_type="sample"),
    "another form": lambda: make(update_form="posterior", clip_sample=False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_restoring_is_the_loop_of_the_scheduler_over_the_networks(name: str) -> None:
    pipe = NETWORKS[name]()
    results = {}
    for steps, eta in ((1, 0.0), (1, 1.0), (2, 0.0), (5, 0.0), (5, 1.0), (T, 0.0)):
        restored = run(pipe, clean(1), num_inference_steps=steps, eta=eta)
        assert torch.equal(restored, written_out(pipe, clean(1), steps=steps, eta=eta))
        assert pipe.num_timesteps == steps
        results[steps, eta] = restored
    assert error(results[2, 0.0], clean(1)) > 0.01
    assert torch.equal(results[1, 0.0], results[1, 1.0])  # the only step is the last one, which adds no noise
    assert error(results[5, 0.0], results[5, 1.0]) > 0.001
    assert torch.equal(run(pipe, clean(1)), results[5, 0.0])


@pytest.mark.parametrize("networks", ["one", "one of two heads", "two"])
def test_masks_are_shown_as_minus_1_and_1(networks: str) -> None:
    if networks == "one":
        pipe = make(restorer(mask=True))
    elif networks == "two":
        pipe = make(restorer(mask=True), second(mask=True), prediction_type="residual_epsilon")
    else:
        pipe = make(restorer(heads=2, mask=True), prediction_type="residual_epsilon")
    mask = holes(1)
    for steps, eta in ((1, 0.0), (5, 0.0), (2, 1.0)):
        wanted = written_out(pipe, clean(1), mask, steps=steps, eta=eta)
        assert torch.equal(run(pipe, clean(1), mask=mask, num_inference_steps=steps, eta=eta), wanted)
    assert error(run(pipe, clean(1), mask=1 - mask, num_inference_steps=2, eta=1.0), wanted) > 1e-4


def test_generating_is_the_chain_from_zero() -> None:
    for unet, config in ((make_unet(), {"prediction_type": "sample"}), (make_unet(), {"prediction_type": "epsilon"})):
        pipe = make(unet, noise_scale=1.0, **config)
        for eta in (0.0, 1.0):
            wanted = written_out(pipe, torch.zeros(1, 3, 16, 16), steps=5, eta=eta)
            assert torch.equal(run(pipe, eta=eta), wanted)
    pair = make(make_unet(), make_unet(levels=3), prediction_type="residual_epsilon")
    assert torch.equal(run(pair), written_out(pair, torch.zeros(1, 3, 16, 16), steps=5))


def test_timesteps_of_ones_own() -> None:
    pipe = make()
    calls = listens(pipe.unet)
    x = run(pipe, clean(1), timesteps=[17, 4, 1])
    assert [int(t) for _, t in calls] == [17, 4, 1]
    assert pipe.num_timesteps == 3
    assert torch.equal(run(pipe, clean(1), timesteps=torch.tensor([17, 4, 1])), x)
    assert torch.equal(run(pipe, clean(1), timesteps=[19, 15, 11, 7, 3]), run(pipe, clean(1)))
    short = RDDMPipeline(pipe.unet, RDDMScheduler(num_train_timesteps=3))
    run(short, clean(1))
    assert short.num_timesteps == 3


def test_another_schedule_by_diffusers_from_config() -> None:
    pipe = make()
    before = run(pipe, clean(1))
    pipe.scheduler = RDDMScheduler.from_config(pipe.scheduler.config, noise_schedule="decreased", noise_scale=0.01)
    after = run(pipe, clean(1))
    assert torch.equal(after, written_out(pipe, clean(1), steps=5))
    assert error(after, before) > 0.01


# Perfect networks


def truth(pipe: RDDMPipeline, x0: torch.Tensor, degraded: torch.Tensor) -> list[int]:
    """Networks that say what is true of the state they see: I_0 or the residual, and the noise that is left in I_t.

    The list is filled with their timesteps and must be cleared before a chain.
    """
    calls: list[int] = []

    def output(head: str, sample: torch.Tensor, t: int) -> torch.Tensor:
        a, b = pipe.scheduler.scales(t)
        residual = degraded - x0
        noise = (sample[:, : x0.shape[1]] - x0 - a * residual) / b if b > 0 else torch.zeros_like(x0)
        first = x0 if pipe.scheduler.heads[0] == "sample" else residual
        known = {"sample": x0, "residual": residual, "epsilon": noise, "sum": first + noise}
        return (1 - a) * noise - b * x0 if head == "v_prediction" else known[head]

    def network(unet: UNet2DModel, heads: tuple[str, ...]) -> None:
        def answer(sample: torch.Tensor, _code: torch.Tensor) -> torch.Tensor:
            if unet is pipe.unet:
                calls.append(int(pipe.scheduler.timesteps[len(calls)]))
            return torch.cat([output(head, sample, calls[-1]) for head in heads], dim=1)

        says(unet, answer)

    heads = pipe.scheduler.heads
    network(pipe.unet, heads if pipe.unet_noise is None else heads[:1])
    if pipe.unet_noise is not None:
        network(pipe.unet_noise, heads[1:])
    return calls


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("form", ["incremental", "posterior", "recompose"])
@pytest.mark.parametrize("name", [*ONE_HEAD, *TWO_HEADS])
def test_perfect_networks_restore_exactly(name: str, form: str, eta: float) -> None:
    pipe = make(restorer(heads=2 if name in TWO_HEADS else 1), prediction_type=name, update_form=form)
    calls = truth(pipe, clean(1), clean(1, seed=8))
    for steps in (1, 2, 3, 5, T):
        calls.clear()
        x = run(pipe, clean(1, seed=8), num_inference_steps=steps, eta=eta)
        # At the start a = 1: the noise of I_T says nothing of I_0, which is estimated as I_in.
        wanted = clean(1, seed=8) if (name, steps) == ("epsilon", 1) else clean(1)
        assert error(x, wanted) < 1e-5


@pytest.mark.parametrize("name", ["epsilon", "sample", "v_prediction", "residual", "residual_epsilon"])
def test_perfect_networks_restore_exactly_by_the_coefficients_of_a_ddpm(name: str) -> None:
    scheduler = RDDMScheduler.from_config(DDPMScheduler().config, prediction_type=name)
    pipe = make(restorer(heads=2 if name in TWO_HEADS else 1), scheduler=scheduler)
    calls = truth(pipe, clean(1), clean(1, seed=8))
    for steps in (1, 2, 50):
        calls.clear()
        # One look at I_T divides by 1 - a_T, 0.006.
        tolerance = 1e-3 if (name, steps) == ("epsilon", 1) else 1e-5
        assert error(run(pipe, clean(1, seed=8), num_inference_steps=steps, eta=0.5), clean(1)) < tolerance


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", TWO_HEADS)
def test_two_perfect_networks_restore_exactly_in_every_order_of_removal(name: str, order: str) -> None:
    pipe = make(
        restorer(), second(), prediction_type=name, time_embedding="cumulative", removal_order=order, noise_scale=1.0
    )
    x0, degraded = clean(1), clean(1, seed=8)
    calls = truth(pipe, x0, degraded)
    for steps in (1, 2, 4, 5, T):
        calls.clear()
        states: list[torch.Tensor] = []
        x = run(
            pipe,
            degraded,
            num_inference_steps=steps,
            callback_on_step_end=lambda _p, _i, _t, tensors, states=states: states.append(tensors["sample"]),
        )
        assert error(x, x0) < 1e-5
        noise = torch.randn(x.shape, generator=seeded(0)[0])
        if steps == 4:  # the first half of the way back
            half = {"residual_first": x0 + noise, "noise_first": degraded}.get(order)
            if half is not None:
                assert error(states[1], half) < 1e-5
        for state, t in zip(states, [*pipe.scheduler.timesteps.tolist()[1:], -1], strict=True):
            a, b = pipe.scheduler.scales(t)
            assert error(state, x0 + a * (degraded - x0) + b * noise) < 1e-5


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"residual_schedule": "average", "noise_schedule": "normal"},
        {"removal_order": "residual_first"},
        {"removal_order": "noise_first", "noise_scale": 0.04},
    ],
    ids=str,
)
def test_path_independent_networks_are_told_the_cumulative_coefficients(changed: dict[str, Any]) -> None:
    pipe = make(restorer(), second(), prediction_type="residual_epsilon", time_embedding="cumulative")
    if changed:
        pipe.scheduler = RDDMScheduler.from_config(pipe.scheduler.config, **changed)
    of_residual, of_noise = listens(pipe.unet), listens(pipe.unet_noise)
    for steps in (1, 3, T):
        of_residual.clear()
        of_noise.clear()
        run(pipe, clean(1), num_inference_steps=steps)
        at = pipe.scheduler.timesteps
        for calls, scales in ((of_residual, pipe.scheduler.residual_scales), (of_noise, pipe.scheduler.noise_scales)):
            assert torch.equal(torch.cat([code for _, code in calls]), (T * scales[at]).float())
        assert all(torch.equal(a[0], b[0]) for a, b in zip(of_residual, of_noise, strict=True))
    wanted = RDDMScheduler(num_train_timesteps=T, **{"noise_scale": 0.25, **changed}, time_embedding="cumulative")
    assert torch.equal(wanted.residual_scales, pipe.scheduler.residual_scales)
    assert torch.equal(wanted.noise_scales, pipe.scheduler.noise_scales)


@pytest.mark.parametrize(("name", "which"), [("residual", 0), ("sample", 0), ("epsilon", 1)])
def test_a_path_independent_network_with_one_output_is_told_of_what_it_says(name: str, which: int) -> None:
    pipe = make(prediction_type=name, time_embedding="cumulative")
    calls = listens(pipe.unet)
    run(pipe, clean(1), num_inference_steps=2)
    scales = (pipe.scheduler.residual_scales, pipe.scheduler.noise_scales)
    assert torch.equal(torch.cat([code for _, code in calls]), (T * scales[which][[19, 9]]).float())
    assert not torch.equal(scales[which][9], scales[1 - which][9])


def test_timesteps_are_whole_numbers_which_learned_embeddings_need() -> None:
    unet = restorer(time_embedding_type="learned", num_train_timesteps=T)
    pipe = make(unet)
    calls = listens(unet)
    x = run(pipe, clean(1))
    assert {code.dtype for _, code in calls} == {torch.int64}
    assert torch.equal(x, written_out(pipe, clean(1), steps=5))
    trained = pipeline_rddm.network_outputs(unet, None, pipe.scheduler, x, (x,), torch.tensor([3]))
    assert torch.equal(trained, pipeline_rddm.network_outputs(unet, None, pipe.scheduler, x, (x,), 3))
    assert torch.equal(trained, pipeline_rddm.network_outputs(unet, None, pipe.scheduler, x, (x,), torch.tensor(3)))


# DDPM and DDIM of diffusers


def by_ddim(
    unet: UNet2DModel, scheduler: Any, *, steps: int, eta: float, batch: int = 1, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """The loop of diffusers' DDIMPipeline, before it clips the picture."""
    unet = copy.deepcopy(unet).to(dtype)
    (generator,) = seeded(0)
    scheduler = DDIMScheduler.from_config(scheduler.config)
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.to(dtype), dim=0)
    scheduler.set_timesteps(steps)
    x = torch.randn(batch, 3, 16, 16, generator=generator).to(dtype)
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = unet(x, t).sample
        noise = torch.randn(x.shape, generator=generator).to(dtype) if eta else None
        x = scheduler.step(output, t, x, eta=eta, variance_noise=noise).prev_sample
    return x


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(),
        DDPMScheduler(clip_sample=False, beta_schedule="squaredcos_cap_v2"),
        DDPMScheduler(prediction_type="v_prediction", variance_type="fixed_large"),
        DDPMScheduler(prediction_type="sample", beta_schedule="scaled_linear", beta_start=0.001, clip_sample=False),
        DDPMScheduler(variance_type="learned_range", clip_sample_range=2.0, timestep_spacing="trailing"),
        DDIMScheduler(clip_sample=False),
        DDIMScheduler(steps_offset=1, timestep_spacing="leading"),
        DDIMScheduler(prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"),
        DDIMScheduler(num_train_timesteps=200, trained_betas=np.linspace(1e-4, 0.05, 200).tolist()),
    ],
    ids=lambda s: "-".join(str(v) for v in (type(s).__name__, s.config.prediction_type, s.config.beta_schedule)),
)
def test_a_stock_repository_generates_as_ddim_does(write_repo: WriteRepo, scheduler: Any, eta: float) -> None:
    folder = write_repo(make_unet(), scheduler)
    pipe = RDDMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.scheduler) is RDDMScheduler
    x = run(pipe, num_inference_steps=10, eta=eta, batch_size=2)
    wanted = by_ddim(pipe.unet, scheduler, steps=10, eta=eta, batch=2)
    # In float32, I_0 is divided by as little as 0.02; diffusers' own chain is no nearer to the exact one.
    theirs = by_ddim(pipe.unet, scheduler, steps=10, eta=eta, batch=2, dtype=torch.float32)
    assert error(x, wanted) < max(1e-5, 3 * error(theirs, wanted))
    stock = DDIMPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 10, "eta": eta, "batch_size": 2, "output_type": "np"}
    ours, theirs = (one(**given, generator=seeded(0)[0]).images for one in (pipe, stock))
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("at_root", [False, True])
def test_a_learned_variance_is_ignored(write_repo: WriteRepo, at_root: bool) -> None:
    learned = make_unet(out_channels=6)
    plain = make_unet()
    weights = dict(learned.state_dict())
    plain.load_state_dict(weights | {name: weights[name][:3] for name in ("conv_out.weight", "conv_out.bias")})
    folder = write_repo(learned, DDPMScheduler(variance_type="learned_range"), at_root=at_root)
    pipe = RDDMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for eta in (0.0, 1.0):
        wanted = by_ddim(plain, DDPMScheduler(), steps=10, eta=eta)
        assert error(run(pipe, num_inference_steps=10, eta=eta), wanted) < 1e-4


def test_components_of_a_stock_pipeline_are_shared_and_left_alone(unet: UNet2DModel) -> None:
    stock = DDPMPipeline(unet, DDPMScheduler())
    before = dict(stock.scheduler.config)
    for pipe in (RDDMPipeline(**stock.components), RDDMPipeline.from_pipe(stock)):
        assert type(pipe) is RDDMPipeline
        assert pipe.unet is unet
        assert pipe.unet_noise is None
        pipe.set_progress_bar_config(disable=True)
        wanted = by_ddim(unet, DDPMScheduler(), steps=5, eta=0.0)
        assert error(run(pipe, num_inference_steps=5), wanted) < 1e-4
    assert dict(stock.scheduler.config) == before
    assert type(stock.scheduler) is DDPMScheduler


def test_a_stock_repository_that_we_saved_stays_the_same(write_repo: WriteRepo, tmp_path: Path) -> None:
    scheduler = DDIMScheduler(clip_sample_range=0.8, prediction_type="v_prediction")
    RDDMPipeline.from_pretrained(write_repo(make_unet(), scheduler)).save_pretrained(tmp_path / "ours")
    pipe = RDDMPipeline.from_pretrained(tmp_path / "ours")
    pipe.set_progress_bar_config(disable=True)
    assert error(run(pipe, eta=0.5), by_ddim(pipe.unet, scheduler, steps=5, eta=0.5)) < 1e-4


def test_a_stock_network_restores_nothing_and_the_error_says_what_to_do(unet: UNet2DModel) -> None:
    for scheduler in (DDPMScheduler(), DDIMScheduler(trained_betas=[0.01] * 10, num_train_timesteps=10)):
        pipe = make(unet, scheduler=scheduler)
        with pytest.raises(
            InvalidInputError,
            match="image must be None: .*DDRMPipeline restores with it; examples/train_rddm.py --init_from makes",
        ):
            pipe(clean(1))
    assert (Path(__file__).parents[1] / "diffusers_restore" / "pipelines" / "pipeline_ddrm.py").exists()


def test_a_network_that_restores_generates_nothing() -> None:
    for pipe in (make(), make(restorer(mask=True))):
        with pytest.raises(InvalidInputError, match="image is needed: the network restores pictures"):
            pipe()


@pytest.mark.parametrize("network", [make_unet, make_residual_unet])
def test_a_grown_network_restores_with_the_noise_that_it_knew(network: Callable[..., Any]) -> None:
    """The residual begins at 0, so that the chain is DDIM's with the degraded picture as its only estimate of I_0."""
    unet = network()
    grown = grow_unet(unet, 6, 6, first_output=3)
    scheduler = RDDMScheduler.from_config(DDPMScheduler().config, prediction_type="residual_epsilon")
    pipe = make(grown, scheduler=scheduler)
    assert pipe.inputs == (3, True, False)
    wanted = written_out(pipe, clean(1), steps=5)
    known = listens(pipe.unet)
    seen: list[dict[str, torch.Tensor]] = []
    x = run(
        pipe,
        clean(1),
        callback_on_step_end=lambda _p, _i, _t, tensors: seen.append(tensors),
        callback_on_step_end_tensor_inputs=TENSORS,
    )
    assert torch.equal(x, wanted)
    for (asked, t), tensors in zip(known, seen, strict=True):
        with torch.no_grad():
            noise = unet(asked[:, :3], t).sample
        assert error(tensors["pred_epsilon"], noise) < 1e-5
        assert not tensors["pred_residual"].any()
        b = pipe.scheduler.scales(int(t))[1]
        assert error(tensors["pred_original_sample"], (asked[:, :3] - b * noise).clamp(-1, 1)) < 1e-5


# Batches


BATCHES: dict[str, Callable[[], RDDMPipeline]] = {
    "residual": make,
    "mask": lambda: make(restorer(mask=True)),
    "two networks": lambda: make(restorer(), second(), prediction_type="residual_epsilon"),
    "path-independent": lambda: make(
        restorer(), second(), prediction_type="residual_epsilon", time_embedding="cumulative"
    ),
    "grey": lambda: make(restorer(1, mask=True)),
}


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_its_pictures_bit_for_bit(name: str, eta: float) -> None:
    pipe = BATCHES[name]()
    images = clean(3, (3, 9, 14))
    mask = holes(3, (9, 14)) if pipe.inputs.masked else None
    both = run(pipe, images, mask=mask, eta=eta, generator=seeded(4, 5, 6))
    for i, seed in enumerate((4, 5, 6)):
        shown = None if mask is None else mask[i : i + 1]
        for generator in (seeded(seed)[0], seeded(seed)):
            assert torch.equal(both[i : i + 1], run(pipe, images[i : i + 1], mask=shown, eta=eta, generator=generator))
    backwards = None if mask is None else mask.flip(0)
    assert torch.equal(both.flip(0), run(pipe, images.flip(0), mask=backwards, eta=eta, generator=seeded(6, 5, 4)))


@pytest.mark.parametrize("name", BATCHES)
def test_a_whole_batch_at_once_is_the_same_to_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As other devices do it; a grey network takes all channels of all pictures at once, too."""
    pipe = BATCHES[name]()
    mask = holes(3) if pipe.inputs.masked else None
    one_by_one = run(pipe, clean(3), mask=mask, eta=1.0)
    monkeypatch.setattr(pipeline_rddm, "pictures_at_once", lambda device, batch: batch)
    calls = listens(pipe.unet)
    at_once = run(pipe, clean(3), mask=mask, eta=1.0)
    assert [len(x) for x, _ in calls] == [9 if name == "grey" else 3] * 5
    assert error(at_once, one_by_one) < 1e-4


def test_generated_batches_are_their_pictures_bit_for_bit() -> None:
    pipe = make(make_unet(), scheduler=DDPMScheduler())
    both = run(pipe, batch_size=3, eta=1.0, generator=seeded(4, 5, 6))
    alone = [run(pipe, eta=1.0, generator=seeded(seed)[0]) for seed in (4, 5, 6)]
    assert torch.equal(both, torch.cat(alone))
    assert all(error(alone[i], alone[j]) > 0.01 for i in range(3) for j in range(i))


def test_a_seed_gives_the_same_pictures_and_the_global_random_state_stays() -> None:
    pipe = make()
    before = torch.random.get_rng_state()
    first, again, other = (run(pipe, clean(2), eta=0.5, generator=seeded(seed)[0]) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert error(first, other) > 0.001
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(run(pipe, clean(2), eta=0.5, generator=None), first)  # the global one draws


# Sizes and colours


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (3, 16), (16, 9)])
@pytest.mark.parametrize("levels", [(4, None), (2, 4), (4, 2)])
def test_any_size_is_kept_and_the_chain_goes_on_beyond_its_border(
    size: tuple[int, int], levels: tuple[int, int | None]
) -> None:
    """To what the deeper one of the networks can halve; nothing that the networks see is of another size."""
    unet, deeper = restorer(mask=True, levels=levels[0]), levels[1]
    unet_noise = None if deeper is None else second(mask=True, levels=deeper)
    pipe = make(unet, unet_noise, prediction_type="residual" if deeper is None else "residual_epsilon")
    border = (0, -size[1] % 8, 0, -size[0] % 8)
    continued, shown = (functional.pad(one, border, mode="replicate") for one in (clean(1, (3, *size)), holes(1, size)))
    for eta in (0.0, 1.0):
        wanted = written_out(pipe, continued, shown, steps=3, eta=eta)[:, :, : size[0], : size[1]]
        x = run(pipe, clean(1, (3, *size)), mask=holes(1, size), num_inference_steps=3, eta=eta)
        assert torch.equal(x, wanted)
        assert x.is_contiguous()  # it holds no memory of the border


def test_two_networks_may_need_multiples_that_do_not_divide_each_other() -> None:
    unet = restorer(levels=3)  # of 4
    thirds = make_residual_unet(channels=6, out_channels=3, patch_size=3)  # of 6
    x = run(make(unet, thirds, prediction_type="residual_epsilon"), clean(1, (3, 20, 30)), num_inference_steps=2)
    assert x.shape == (1, 3, 20, 30)


def test_generated_pictures_have_the_size_of_the_network() -> None:
    unet = make_unet()
    unet.register_to_config(sample_size=[10, 7])  # as a tuple comes back from JSON
    pipe = make(unet, prediction_type="sample")
    wanted = written_out(pipe, torch.zeros(1, 3, 10, 8), steps=5)[:, :, :, :7]
    assert torch.equal(run(pipe), wanted)
    assert run(pipe, batch_size=2).shape == (2, 3, 10, 7)
    unet.register_to_config(sample_size=None)
    with pytest.raises(InvalidInputError, match=r"unet.config.sample_size says nothing about the size"):
        run(pipe)
    assert run(pipe, clean(1)).shape == (1, *SHAPE)


def test_grey_pictures_on_a_colour_network_come_back_grey() -> None:
    for pipe, mask in ((make(), None), (make(restorer(mask=True)), holes(2, (7, 12)))):
        grey = clean(2, (1, 7, 12))
        in_colour = run(pipe, grey.expand(-1, 3, -1, -1), mask=mask, eta=1.0)
        assert error(in_colour[:, :1], in_colour[:, 1:2]) > 0.001
        assert torch.equal(run(pipe, grey, mask=mask, eta=1.0), in_colour.mean(dim=1, keepdim=True))
    assert make()(Image.new("L", (6, 4), 99)).images[0].mode == "L"


@pytest.mark.parametrize("mask", [False, True])
def test_colour_pictures_on_a_grey_network_go_channel_by_channel(mask: bool) -> None:
    """With noise of its own for each channel; the mask of a picture is that of all its channels."""
    pipe = make(restorer(1, mask=mask))
    images, shown = clean(2, (3, 6, 10)), holes(2, (6, 10)) if mask else None
    x = run(pipe, images, mask=shown)
    assert x.shape == images.shape
    noise = torch.randn(2, 3, 6, 10, generator=seeded(0)[0])
    for i in range(2):
        for c in range(3):
            degraded = images[i : i + 1, c : c + 1]
            state = degraded + 0.5 * noise[i : i + 1, c : c + 1]
            pipe.scheduler.set_timesteps(5)
            for t in pipe.scheduler.timesteps.tolist():
                asked = [state, degraded] + ([] if shown is None else [2 * shown[i : i + 1] - 1])
                with torch.no_grad():
                    output = pipe.unet(torch.cat(asked, dim=1), torch.tensor([t])).sample
                state = pipe.scheduler.step(output, t, state, degraded).prev_sample
            assert torch.equal(x[i : i + 1, c : c + 1], state)
    assert pipe(images, mask=shown).images[1].mode == "RGB"


def test_pictures_of_other_channels() -> None:
    four = make(restorer(4))
    with pytest.raises(InvalidInputError, match="output_type='pil' needs 1 or 3 channels, got 4"):
        four(clean(1, (4, 8, 8)))
    assert run(four, clean(1, (4, 8, 8))).shape == (1, 4, 8, 8)
    for pipe, channels in ((four, 3), (four, 1), (make(), 4), (make(), 2)):
        with pytest.raises(
            InvalidInputError, match=f"image has {channels} channels, the network takes {pipe.inputs.channels}"
        ):
            run(pipe, clean(1, (channels, 8, 8)))
    with pytest.raises(InvalidInputError, match="output_type='pil' needs 1 or 3 channels, got 2"):
        make(restorer(1))(clean(1, (2, 8, 8)))
    assert run(make(restorer(1)), clean(1, (2, 8, 8))).shape == (1, 2, 8, 8)


# Masks


def test_masks_of_every_accepted_shape_and_dtype() -> None:
    pipe = make(restorer(mask=True))
    mask = holes(1)
    x = run(pipe, clean(2), mask=mask.expand(2, -1, -1, -1))
    for given in (mask, mask[0], mask[0, 0], mask.bool(), mask.to(torch.uint8), mask.double(), mask[0, 0].half()):
        assert torch.equal(run(pipe, clean(2), mask=given), x)
    black_and_white = (255 * mask[0, 0]).byte().numpy()
    for shown in (black_and_white, Image.fromarray(black_and_white), Image.fromarray(black_and_white).convert("1")):
        assert torch.equal(run(pipe, clean(2), mask=shown), x)
    for array in (mask[0, 0].numpy(), mask[0, 0].bool().numpy()):
        assert torch.equal(run(pipe, clean(2), mask=array), x)
    own = run(pipe, clean(2), mask=torch.cat([mask, 1 - mask]))
    assert torch.equal(own[:1], x[:1])
    assert error(own[1:], x[1:]) > 1e-4
    for level in (0.0, 1.0):  # nothing, or everything, is damaged
        assert run(pipe, clean(1), mask=torch.full(SHAPE[1:], level)).shape == (1, *SHAPE)
    assert torch.equal(mask, holes(1))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "for this network; got None"),
        (np.ones((24, 16)), r"got \(1, 1, 24, 16\)"),
        (Image.new("L", (24, 16), 128), "got values from 0.501961 to 0.501961"),
        (torch.ones(1, 3, 16, 24), r"got \(1, 3, 16, 24\)"),
        (torch.ones(3, 16, 24), r"got \(3, 16, 24\)"),
        (torch.ones(3, 1, 16, 24), r"got \(3, 1, 16, 24\)"),
        (torch.ones(1, 1, 1, 24), r"got \(1, 1, 1, 24\)"),
        (torch.ones(24, 16), r"got \(24, 16\)"),
        (torch.ones(1, 1, 1, 16, 24), r"got \(1, 1, 1, 16, 24\)"),
        (torch.ones(24), r"got \(24,\)"),
        (torch.tensor(1.0), r"got \(\)"),
        (torch.ones(0, 1, 16, 24), r"got \(0, 1, 16, 24\)"),
        (255 * holes(1), "got values from 0 to 255"),
        (2 * holes(1) - 1, "got values from -1 to 1"),
        (0.5 * holes(1), "got values from 0 to 0.5"),
        (holes(1) / 0, "got values from nan to nan"),
    ],
)
def test_masks_that_are_none_are_refused(mask: Any, message: str) -> None:
    what = r"mask must be 1 where the picture is damaged and 0 elsewhere, \(B, 1, 16, 24\)"
    with pytest.raises(InvalidInputError, match=f"{what}.*{message}"):
        run(make(restorer(mask=True)), clean(2), mask=mask)


def test_a_mask_that_the_network_does_not_take_is_refused() -> None:
    generator = make(make_unet(), scheduler=DDPMScheduler())
    translator = make(make_unet(out_channels=6), prediction_type="residual_epsilon")
    for pipe, image in ((make(), clean(1)), (generator, None), (translator, clean(1))):
        with pytest.raises(InvalidInputError, match="mask must be None: the network takes none"):
            run(pipe, image, mask=holes(1))


# Inputs and outputs


def test_pictures_arrays_and_tensors_are_the_same_picture() -> None:
    pipe = make()
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
        [tensor],
        tensor,
        transparent,
        wide,
    ):
        assert error(run(pipe, image), wanted) < 1e-5
    pil = pipe(pixels, generator=seeded(0)[0]).images[0]
    array = pipe(pixels, generator=seeded(0)[0], output_type="np").images
    assert pil.size == (8, 6)
    assert array.shape == (1, 6, 8, 3)
    assert np.abs(np.asarray(pil) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6
    expected = (wanted[0].clamp(-1, 1).permute(1, 2, 0).numpy() + 1) / 2
    assert np.abs(array[0] - expected).max() < 1e-5
    (images,) = pipe(pixels, generator=seeded(0)[0], return_dict=False)
    assert [one.tobytes() for one in images] == [pil.tobytes()]
    several = [Image.fromarray(pixels), np.flip(pixels, 1)]
    assert torch.equal(run(pipe, several), run(pipe, torch.stack([tensor, tensor.flip(2)])))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_converted(dtype: torch.dtype) -> None:
    pipe = make()
    x = run(pipe, clean(1).to(dtype))
    assert x.dtype == torch.float32
    assert torch.equal(x, run(pipe, clean(1).to(dtype).float()))


def test_inputs_stay_as_they_were() -> None:
    pipe = make(restorer(mask=True))
    x, mask = clean(2), holes(2)
    run(pipe, x, mask=mask, eta=1.0)
    assert torch.equal(x, clean(2))
    assert torch.equal(mask, holes(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_keep_a_float32_chain(dtype: torch.dtype) -> None:
    def pair() -> RDDMPipeline:
        return make(restorer(mask=True), second(mask=True), prediction_type="residual_epsilon")

    full = run(pair(), clean(1), mask=holes(1))
    pipe = pair()
    pipe.unet.to(dtype)
    pipe.unet_noise.to(dtype)
    calls = [listens(pipe.unet), listens(pipe.unet_noise)]
    seen: list[dict[str, torch.Tensor]] = []
    half = run(
        pipe,
        clean(1),
        mask=holes(1),
        callback_on_step_end=lambda _p, _i, _t, tensors: seen.append(tensors),
        callback_on_step_end_tensor_inputs=TENSORS,
    )
    assert {value.dtype for tensors in seen for value in tensors.values()} == {torch.float32}
    assert {asked.dtype for one in calls for asked, _ in one} == {dtype}
    assert 0 < error(half, full) < (0.05 if dtype == torch.bfloat16 else 0.005)
    x = clean(1) + 0.5 * torch.randn(1, *SHAPE, generator=seeded(0)[0])
    for t in pipe.scheduler.timesteps.tolist():  # the chain written out, with only the networks in half precision
        asked = torch.cat([x, clean(1), 2 * holes(1) - 1], dim=1).to(dtype)
        with torch.no_grad():
            outputs = [one(asked, torch.tensor([t]), return_dict=False)[0] for one in (pipe.unet, pipe.unet_noise)]
        x = pipe.scheduler.step(torch.cat(outputs, dim=1).float(), t, x, clean(1)).prev_sample
    assert torch.equal(half, x)


def test_networks_of_two_dtypes_are_refused() -> None:
    pipe = make(restorer().to(torch.bfloat16), second(), prediction_type="residual_epsilon")
    with pytest.raises(InvalidInputError, match="the same dtype, got torch.bfloat16 and torch.float32"):
        run(pipe, clean(1))


def test_a_double_precision_network() -> None:
    assert error(run(make(restorer().double()), clean(1)), run(make(), clean(1))) < 1e-5


def test_dropout_is_not_active() -> None:
    def dropping(unet: UNet2DModel) -> UNet2DModel:
        return UNet2DModel.from_config(unet.config, dropout=0.5).eval()

    with torch.random.fork_rng(devices=[]):
        pipe = make(dropping(restorer()), dropping(restorer()), prediction_type="residual_epsilon")
    assert torch.equal(run(pipe, clean(1)), run(pipe, clean(1)))
    for name in ("unet", "unet_noise"):
        getattr(pipe, name).train()
        with pytest.raises(InvalidInputError, match=f"{name} is in training mode, .*call {name}.eval"):
            run(pipe, clean(1))
        getattr(pipe, name).eval()
    plain = make()
    wanted = run(plain, clean(1))
    plain.unet.train()  # without dropout nothing changes
    assert torch.equal(run(plain, clean(1)), wanted)


def test_no_gradients_are_kept() -> None:
    assert not run(make(), clean(1).requires_grad_()).requires_grad
    with torch.inference_mode():
        wanted = run(make(), clean(1))
    assert torch.equal(run(make(), clean(1)), wanted)


def test_progress_is_shown_and_can_be_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = RDDMPipeline(restorer(), RDDMScheduler(num_train_timesteps=T))
    pipe(clean(2), num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(clean(1))
    assert capsys.readouterr().err == ""


def test_the_example_of_the_docstring_runs() -> None:
    tests = [one for one in doctest.DocTestFinder().find(RDDMPipeline, globs={}) if one.examples]
    assert [one.name for one in tests] == ["RDDMPipeline"]
    with torch.random.fork_rng(devices=[]):
        assert doctest.DocTestRunner().run(tests[0]) == (0, 6)


# Callbacks


def test_callbacks_see_the_chain() -> None:
    pipe = make(restorer(), second(), prediction_type="residual_epsilon", clip_sample=False)
    calls = listens(pipe.unet)
    seen: list[tuple[Any, int, int, dict[str, torch.Tensor]]] = []
    names = TENSORS[::-1]
    x = run(
        pipe,
        clean(2),
        num_inference_steps=4,
        callback_on_step_end=lambda *given: seen.append(given),
        callback_on_step_end_tensor_inputs=names,
    )
    assert all(one[0] is pipe for one in seen)
    assert [one[1:3] for one in seen] == [(0, 19), (1, 14), (2, 9), (3, 4)]
    assert all(list(one[3]) == names for one in seen)
    scales = [pipe.scheduler.scales(t) for t in (19, 14, 9, 4, -1)]
    for i in range(4):
        before = torch.cat([calls[2 * i][0], calls[2 * i + 1][0]])[:, :3]
        after, x0, residual, noise = (seen[i][3][name] for name in TENSORS)
        (a, b), (a_next, b_next) = scales[i : i + 2]
        assert error(x0 + a * residual + b * noise, before) < 1e-5
        assert error(after, before - (a - a_next) * residual - (b - b_next) * noise) < 1e-5
        asked = torch.cat([calls[2 * i + 2][0], calls[2 * i + 3][0]])[:, :3] if i < 3 else x
        assert torch.equal(after, asked)
    assert torch.equal(seen[3][3]["pred_original_sample"], x)
    default: list[list[str]] = []
    run(pipe, clean(1), callback_on_step_end=lambda _p, _i, _t, tensors: default.append(list(tensors)))
    assert default == [["latents", "sample"]] * 5


@pytest.mark.parametrize("name", TENSORS)
def test_callbacks_get_what_they_ask_for(name: str) -> None:
    seen: list[list[str]] = []
    run(
        make(),
        clean(1),
        callback_on_step_end=lambda _p, _i, _t, tensors: seen.append(list(tensors)),
        callback_on_step_end_tensor_inputs=(name,),
    )
    assert seen == [[name]] * 5


def test_callbacks_change_the_chain() -> None:
    pipe = make()
    calls = listens(pipe.unet)
    new = clean(2).flip(3)

    def answer(_pipe: Any, i: int, _t: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        return (None, {}, {"sample": new.double()}, {"sample": new / 2})[i]

    x = run(pipe, clean(2), num_inference_steps=4, callback_on_step_end=answer)
    assert torch.equal(torch.cat([asked for asked, t in calls if t == 4])[:, :3], new)
    assert torch.equal(x, new / 2)
    assert x.dtype == torch.float32


def test_callbacks_see_pictures_as_the_network_takes_them() -> None:
    pipe = make(restorer(1))
    shapes: list[tuple[int, ...]] = []

    def answer(_pipe: Any, _i: int, _t: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        shapes.extend(tuple(one.shape) for one in tensors.values())
        return {"sample": torch.full_like(tensors["sample"], 0.25)}

    x = run(pipe, clean(2, (3, 5, 7)), callback_on_step_end=answer, callback_on_step_end_tensor_inputs=TENSORS)
    assert set(shapes) == {(6, 1, 6, 8)}
    assert torch.equal(x, torch.full((2, 3, 5, 7), 0.25))


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": torch.full((1, *SHAPE), math.nan)}, "(?i)image.*nan"),
        ({"image": torch.full((1, *SHAPE), math.inf)}, "(?i)image.*inf"),
        ({"image": clean(1) * 255}, "image reaches 25.*expected torch floats in .-1, 1.; for 0..255"),
        ({"image": np.full((4, 4, 3), 200.0)}, "image reaches .*expected numpy floats in .0, 1."),
        ({"image": clean(1).permute(0, 2, 3, 1)}, "image .*looks like channels last"),
        ({"image": clean(1)[0, 0]}, "image must be a torch tensor"),
        ({"image": clean(1)[:0]}, "image is empty"),
        ({"image": []}, "image must hold at least one picture"),
        ({"image": "photo.png"}, "image must be a PIL picture, .*, got str"),
        ({"image": [np.zeros((4, 4, 3)), np.zeros((4, 5, 3))]}, "image .*4.*5"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number >= 1 and <= 20, got 0"),
        ({"num_inference_steps": -1}, "num_inference_steps must be .*, got -1"),
        ({"num_inference_steps": 21}, "num_inference_steps must be .*, got 21"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be .*, got 2.5"),
        ({"num_inference_steps": "3"}, "num_inference_steps must be .*, got '3'"),
        ({"num_inference_steps": 2, "timesteps": [3, 1]}, "give either num_inference_steps or timesteps"),
        ({"timesteps": []}, "timesteps must be a decreasing list of whole numbers below 20, got "),
        ({"timesteps": [3, 7]}, r"timesteps must be a decreasing list .*, got \[3, 7\]"),
        ({"timesteps": [7, 7]}, r"timesteps must be a decreasing list .*, got \[7, 7\]"),
        ({"timesteps": [20, 7]}, "timesteps must be .*20"),
        ({"timesteps": [7, -1]}, "timesteps must be .*-1"),
        ({"timesteps": [7.0, 3.0]}, "timesteps must be .*7.0"),
        ({"timesteps": 7}, "timesteps must be .*7"),
        ({"eta": -0.1}, "eta must be a number >= 0 and <= 1, got -0.1"),
        ({"eta": 1.1}, "eta must be a number >= 0 and <= 1, got 1.1"),
        ({"eta": math.nan}, "eta must be a number .*, got nan"),
        ({"eta": "0"}, "eta must be a number .*, got '0'"),
        ({"batch_size": 1}, "batch_size must be None where there is an image, got 1"),
        ({"generator": 0}, "generator must be a torch.Generator or a list of them, got 0"),
        ({"generator": [0]}, "generator must be a torch.Generator or a list of them, got"),
        ({"generator": seeded(1, 2)}, "generator must be one, or a list of 1 for this batch; got 2"),
        ({"output_type": "jpg"}, "no output_type named 'jpg'"),
        ({"output_type": None}, "no output_type named None"),
        ({"callback_on_step_end": 3}, "callback_on_step_end must be a function or None, got 3"),
        ({"callback_on_step_end_tensor_inputs": ["prompts"]}, "no callback tensor named 'prompts'"),
        ({"callback_on_step_end_tensor_inputs": "sample"}, "callback_on_step_end_tensor_inputs must be a list"),
        ({"callback_on_step_end": lambda *_: {"sampl": None}}, "callback_on_step_end must return None or {'sample'"),
        ({"callback_on_step_end": lambda *_: {"sample": torch.zeros(2, *SHAPE)}}, "callback_on_step_end must return"),
        ({"callback_on_step_end": lambda *_: {"pred_residual": clean(1)}}, "callback_on_step_end must return"),
        ({"callback_on_step_end": lambda *_: torch.zeros(1, *SHAPE)}, "callback_on_step_end must return"),
    ],
)
def test_bad_input_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()(**{"image": clean(1), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number >= 1, got 2.0"),
        ({"batch_size": True}, "batch_size must be a whole number >= 1, got True"),
        ({"generator": 0}, "generator must be a torch.Generator or a list of them, got 0"),
        ({"generator": seeded(1, 2, 3), "batch_size": 2}, "a list of 2 for this batch; got 3"),
        ({"generator": seeded(1, 2)}, "a list of 1 for this batch; got 2"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be a whole number >= 1 and <= 1000, got 1001"),
    ],
)
def test_bad_input_of_generation_is_refused_by_name(unet: UNet2DModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(unet, scheduler=DDPMScheduler())(**arguments)


def test_a_misspelt_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="num_steps"):
        make()(clean(1), num_steps=2)


@pytest.mark.parametrize(
    ("channels", "out_channels", "prediction_type", "inputs"),
    [
        (3, 3, "sample", (3, False, False)),
        (3, 6, "epsilon", (3, False, False)),  # a learned variance
        (6, 3, "residual", (3, True, False)),
        (7, 3, "residual", (3, True, True)),
        (3, 6, "residual_epsilon", (3, False, False)),
        (6, 6, "residual_epsilon", (3, True, False)),
        (7, 6, "sample_sum", (3, True, True)),
        (1, 1, "sample", (1, False, False)),
        (1, 2, "epsilon", (1, False, False)),
        (2, 1, "residual", (1, True, False)),
        (3, 1, "residual", (1, True, True)),
        (3, 2, "residual_epsilon", (1, True, True)),
    ],
)
def test_what_networks_are_shown_follows_from_their_channels(
    channels: int, out_channels: int, prediction_type: str, inputs: tuple[int, bool, bool]
) -> None:
    pipe = make(make_unet(channels=channels, out_channels=out_channels), prediction_type=prediction_type)
    assert pipe.inputs == inputs
    given = {"image": clean(1, (inputs[0], 8, 8)), "mask": holes(1, (8, 8)) if inputs[2] else None}
    assert run(pipe, **given).shape == (1, inputs[0], 8, 8)


@pytest.mark.parametrize(
    ("channels", "out_channels", "prediction_type"),
    [
        (5, 3, "residual"),
        (9, 3, "residual"),  # a mask has one channel
        (8, 3, "residual"),
        (6, 3, "residual_epsilon"),
        (6, 5, "residual_epsilon"),
        (1, 1, "residual_epsilon"),
        (2, 1, "residual_epsilon"),
    ],
)
def test_networks_with_channels_that_do_not_fit_are_refused(
    channels: int, out_channels: int, prediction_type: str
) -> None:
    heads = prediction_type.count("_") + 1
    message = f"a network with {channels} input and {out_channels} output channels doesn't fit: .* and {heads}C outputs"
    with pytest.raises(InvalidInputError, match=message):
        make(make_unet(channels=channels, out_channels=out_channels), prediction_type=prediction_type)


def test_components_that_do_not_fit_together_are_refused() -> None:
    scheduler = RDDMScheduler()
    two = {"prediction_type": "residual_epsilon"}
    for config in ({"num_class_embeds": 4}, {"class_embed_type": "timestep"}):
        with pytest.raises(InvalidInputError, match="class-conditional; one that takes no class labels is needed"):
            make(restorer(**config))
        with pytest.raises(InvalidInputError, match="class-conditional"):
            make(restorer(), restorer(**config), **two)
    with pytest.raises(InvalidInputError, match="score network of a VE process"):
        make(restorer(time_embedding_type="fourier"))
    with pytest.raises(InvalidInputError, match="unet must be a UNet2DModel or a ResidualUNet2DModel, got Identity"):
        RDDMPipeline(torch.nn.Identity(), scheduler)
    with pytest.raises(InvalidInputError, match="unet must be a UNet2DModel or a ResidualUNet2DModel, got NoneType"):
        RDDMPipeline(None, scheduler)
    with pytest.raises(
        InvalidInputError, match="unet_noise must be a UNet2DModel or a ResidualUNet2DModel, got Identity"
    ):
        RDDMPipeline(restorer(), RDDMScheduler(**two), torch.nn.Identity())
    with pytest.raises(InvalidInputError, match="unet_noise must be None: prediction_type 'residual' has one output"):
        make(restorer(), second())
    with pytest.raises(InvalidInputError, match="time_embedding='cumulative' tells .*'residual_epsilon' needs unet_n"):
        make(restorer(heads=2), time_embedding="cumulative", **two)
    with pytest.raises(InvalidInputError, match="unet and unet_noise must have the same inputs, got .*True.*False"):
        make(restorer(mask=True), second(), **two)
    with pytest.raises(InvalidInputError, match="unet and unet_noise must have the same inputs"):
        make(restorer(), make_unet(), **two)
    for wrong, name in ((None, "NoneType"), (Blur(4), "Blur")):
        with pytest.raises(InvalidInputError, match=f"scheduler must be a RDDMScheduler, got {name}"):
            RDDMPipeline(restorer(), wrong)
    for wrong in (ScoreSdeVeScheduler(), ColdDiffusionScheduler(Blur(4))):
        with pytest.raises(InvalidInputError, match=f"scheduler {type(wrong).__name__} is not one of a variance-pres"):
            RDDMPipeline(make_unet(), wrong)
    assert type(RDDMPipeline(make_unet(), EulerDiscreteScheduler()).scheduler) is RDDMScheduler
    with pytest.raises(InvalidInputError, match="for a network that is shown the degraded picture, got DDIMScheduler"):
        RDDMPipeline(restorer(), DDIMScheduler())
    pipe = make(restorer())
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(
        InvalidInputError, match=r'RDDMScheduler.from_pretrained\(folder, subfolder="scheduler"\), the o'
    ):
        pipe(torch.zeros(1, 3, 8, 8))


# Repositories


SAVED: dict[str, Callable[[], RDDMPipeline]] = {
    "one": lambda: make(restorer(heads=2, mask=True), prediction_type="residual_sum", clip_residual_range=1.0),
    "two": lambda: make(
        restorer(),
        second(levels=3),
        prediction_type="residual_epsilon",
        time_embedding="cumulative",
        removal_order="residual_first",
    ),
    "generator": lambda: make(make_unet(), scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2")),
    "process": lambda: make(process="resshift", process_args={"kappa": 0.5}, noise_scale=1.0),
}


def restored_by(pipe: RDDMPipeline) -> torch.Tensor:
    image = clean(1, (3, 9, 14)) if pipe.inputs.conditioned else None
    return run(pipe, image, mask=holes(1, (9, 14)) if pipe.inputs.masked else None, eta=0.5)


LOADS = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from diffusers_restore import RDDMPipeline

torch.set_num_threads(int(sys.argv[2]))
given, pictures = load_file(sys.argv[3]), {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    pipe = RDDMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    image = given["image"] if pipe.inputs.conditioned else None
    mask = given["mask"] if pipe.inputs.masked else None
    generator = torch.Generator().manual_seed(0)
    pictures[folder.name] = pipe(image, mask=mask, eta=0.5, generator=generator, output_type="latent").images
    print(folder.name, *pipe.scheduler.heads, pipe.scheduler.config.removal_order, pipe.unet_noise is not None)
save_file(pictures, sys.argv[4])
"""


def test_what_we_save_another_process_loads_with_the_same_pictures(tmp_path: Path, python: Python) -> None:
    folders = tmp_path / "saved"
    for name, saved in SAVED.items():
        saved().save_pretrained(folders / name)
    save_file({"image": clean(1, (3, 9, 14)), "mask": holes(1, (9, 14))}, tmp_path / "given")
    files = (tmp_path / "given", tmp_path / "drawn")
    result = python.run("-c", LOADS, folders, torch.get_num_threads(), *files, check=True)
    assert result.stdout.splitlines() == [
        "generator epsilon both False",
        "one residual sum both False",
        "process residual both False",
        "two residual epsilon residual_first True",
    ]
    assert "Expected types" not in result.stderr  # diffusers' check of the components
    drawn = load_file(tmp_path / "drawn")
    for name, saved in SAVED.items():
        pipe = RDDMPipeline.from_pretrained(folders / name)
        pipe.set_progress_bar_config(disable=True)
        assert torch.equal(drawn[name], restored_by(pipe))
        # Weights read from a file lie elsewhere in memory, where a CPU's matrix product may sum in another order.
        assert error(drawn[name], restored_by(saved())) < 1e-5


def test_the_index_of_a_saved_pipeline(tmp_path: Path) -> None:
    for name in ("one", "two"):
        SAVED[name]().save_pretrained(tmp_path / name)
        index = json.loads((tmp_path / name / "model_index.json").read_text())
        assert index["_class_name"] == ["pipeline", "RDDMPipeline"]
        assert index["scheduler"] == ["diffusers_restore", "RDDMScheduler"]
        assert index["unet"] == ["diffusers", "UNet2DModel"]
        assert index["unet_noise"] == ([None, None] if name == "one" else ["diffusers", "UNet2DModel"])
    assert not (tmp_path / "one" / "unet_noise").exists()
    pickles = [path.name for path in tmp_path.rglob("*") if path.suffix not in ("", ".json", ".py", ".safetensors")]
    assert pickles == []


@pytest.mark.parametrize("name", SAVED)
def test_the_plug_in_file_serves_diffusers_own_loader(tmp_path: Path, name: str, plug_in: Callable[[str], str]) -> None:
    SAVED[name]().save_pretrained(tmp_path)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=plug_in("rddm"), trust_remote_code=True)
    assert type(pipe) is RDDMPipeline
    assert type(pipe.scheduler) is RDDMScheduler
    assert (pipe.unet_noise is not None) == (name == "two")
    pipe.set_progress_bar_config(disable=True)
    assert error(restored_by(pipe), restored_by(SAVED[name]())) < 1e-5


def test_the_plug_in_file_serves_a_stock_repository(
    write_repo: WriteRepo, unet: UNet2DModel, plug_in: Callable[[str], str]
) -> None:
    folder = write_repo(unet)
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=plug_in("rddm"), trust_remote_code=True)
    assert type(pipe) is RDDMPipeline
    pipe.set_progress_bar_config(disable=True)
    assert error(run(pipe), by_ddim(unet, DDPMScheduler(), steps=5, eta=0.0)) < 1e-4


HUB = """
import sys
import torch
from huggingface_hub import HfApi
from diffusers import DDIMPipeline
import diffusers_restore
from diffusers_restore import RDDMPipeline

HfApi().create_repo("tester/a-ddpm")
HfApi().upload_folder(repo_id="tester/a-ddpm", folder_path=sys.argv[1])
pictures = []
for kind in (RDDMPipeline, DDIMPipeline):
    pipe = kind.from_pretrained("tester/a-ddpm")
    given = {"eta": 1.0, "num_inference_steps": 5, "batch_size": 2, "output_type": "np"}
    pictures.append(pipe(**given, generator=torch.Generator().manual_seed(0)).images)
print(abs(pictures[0] - pictures[1]).max() < 1e-4, 0.05 < pictures[0].std())

pipe = RDDMPipeline.from_pretrained(sys.argv[2])
pipe.push_to_hub("restorer")
pulled = RDDMPipeline.from_pretrained("tester/restorer")
image = torch.linspace(-1, 1, 3 * 9 * 7).reshape(1, 3, 9, 7)
draw = torch.Generator
pictures = [one(image, generator=draw().manual_seed(0), output_type="latent").images for one in (pipe, pulled)]
print(torch.equal(*pictures), pulled.unet_noise is not None)

for name in sys.argv[3:]:
    kind = getattr(diffusers_restore, name)
    pipe = kind.from_pretrained(name)
    pipe.push_to_hub(name)
    pulled = kind.from_pretrained(f"tester/{name}")
    weights = [one.unet.state_dict() for one in (pipe, pulled)]
    print(all(torch.equal(a, b) for a, b in zip(*(one.values() for one in weights))))
"""


def test_repositories_on_the_hub(write_repo: WriteRepo, unet: UNet2DModel, tmp_path: Path, hub_python: Python) -> None:
    """Those of the other pipelines of this package, too: diffusers looks for our modules in them, and fails."""
    SAVED["two"]().save_pretrained(tmp_path / "two")
    DDRMPipeline(unet, DDRMScheduler()).save_pretrained(tmp_path / "DDRMPipeline")
    cold = ColdDiffusionPipeline(unet, ColdDiffusionScheduler(Blur(num_timesteps=4)))
    cold.save_pretrained(tmp_path / "ColdDiffusionPipeline")
    arguments = (write_repo(unet), tmp_path / "two", "DDRMPipeline", "ColdDiffusionPipeline")
    result = hub_python.run("-c", HUB, *arguments, cwd=tmp_path, check=True)
    assert result.stdout.split() == ["True"] * 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_in_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    SAVED["two"]().save_pretrained(tmp_path)
    pipe = RDDMPipeline.from_pretrained(tmp_path, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    assert {pipe.unet.dtype, pipe.unet_noise.dtype} == {dtype}
    assert 0 < error(restored_by(pipe), restored_by(SAVED["two"]())) < 0.05
    assert restored_by(pipe).dtype == torch.float32


def test_a_variant_in_half_precision(tmp_path: Path) -> None:
    pipe = SAVED["two"]()
    full = restored_by(pipe)
    nn_half = {name: getattr(pipe, name).half() for name in ("unet", "unet_noise")}
    pipe.save_pretrained(tmp_path, variant="fp16")
    names = sorted(path.name for path in tmp_path.rglob("*.safetensors"))
    assert names == ["diffusion_pytorch_model.fp16.safetensors"] * 2
    loaded = RDDMPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    loaded.set_progress_bar_config(disable=True)
    for name, half in nn_half.items():
        weights = getattr(loaded, name).state_dict()
        assert all(torch.equal(weights[key], value) for key, value in half.state_dict().items())
    assert 0 < error(restored_by(loaded), full) < 0.01
    (tmp_path / "unet_noise" / names[0]).unlink()
    with pytest.raises((OSError, ValueError), match="no file named"):
        RDDMPipeline.from_pretrained(tmp_path, variant="fp16")


def test_offloading_goes_through_all_networks() -> None:
    pipe = SAVED["two"]()
    modules = [name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]
    assert pipe.model_cpu_offload_seq.split("->") == modules
    assert set(pipe.components) == {"unet", "scheduler", "unet_noise"}
    assert RDDMPipeline._optional_components == ["unet_noise"]
    assert SAVED["one"]().components["unet_noise"] is None


def test_from_pipe_shares_the_components() -> None:
    pipe = SAVED["two"]()
    other = RDDMPipeline.from_pipe(pipe)
    assert type(other) is RDDMPipeline
    assert other is not pipe
    assert all(getattr(other, name) is getattr(pipe, name) for name in ("unet", "scheduler", "unet_noise"))
    with pytest.raises(InvalidInputError, match="'cumulative'.*needs unet_noise"):
        RDDMPipeline.from_pipe(pipe, unet_noise=None)


@pytest.mark.parametrize("part", ["unet", "unet_noise"])
def test_a_damaged_repository_is_refused(tmp_path: Path, part: str) -> None:
    SAVED["two"]().save_pretrained(tmp_path)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    kept = {name: value for name, value in weights.items() if name != "conv_out.bias"}
    save_file(kept, file)
    with pytest.raises(
        InvalidInputError, match=rf"{part} in .*{part} lacks 1 of its {len(weights)} weights \(conv_out.bias\)"
    ):
        RDDMPipeline.from_pretrained(tmp_path)
    whole = SAVED["two"]()
    given = RDDMPipeline.from_pretrained(tmp_path, **{part: getattr(whole, part)})
    assert getattr(given, part) is getattr(whole, part)

    save_file(kept | {"conv_out.bias": weights["conv_out.bias"][:1].clone()}, file)
    with pytest.raises(ValueError, match="conv_out.bias expected shape"):
        RDDMPipeline.from_pretrained(tmp_path)

    save_file(weights, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(OSError, match="Unable to load weights"):
        RDDMPipeline.from_pretrained(tmp_path)


def test_a_repository_without_its_second_network_is_refused(tmp_path: Path) -> None:
    SAVED["two"]().save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="'cumulative'.*needs unet_noise"):
        RDDMPipeline.from_pretrained(tmp_path, unet_noise=None)


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    SAVED["two"]().save_pretrained(tmp_path)
    (tmp_path / "unet_noise" / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "unet_noise" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OSError, match="Unable to load weights"):
            RDDMPipeline.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_components_that_have_no_place_are_refused(write_repo: WriteRepo, unet: UNet2DModel) -> None:
    folder = write_repo(unet, pipeline="LDMPipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(InvalidInputError, match="is a LDMPipeline with vqvae, which RDDMPipeline has no place for"):
        RDDMPipeline.from_pretrained(folder)


def test_a_repository_of_another_process_is_refused(write_repo: WriteRepo, unet: UNet2DModel) -> None:
    with pytest.raises(InvalidInputError, match="scheduler ScoreSdeVeScheduler is not one of a variance-preserving"):
        RDDMPipeline.from_pretrained(write_repo(unet, ScoreSdeVeScheduler()))


# What a network was trained for


def test_a_network_that_colours_gives_colours() -> None:
    grey = torch.rand(1, 1, 8, 8) * 2 - 1
    coloured = run(RDDMPipeline(restorer(), RDDMScheduler(num_train_timesteps=T), keeps_grey=False), grey)
    assert coloured.shape == (1, 3, 8, 8)
    kept = run(RDDMPipeline(restorer(), RDDMScheduler(num_train_timesteps=T)), grey)
    assert torch.equal(kept, coloured.mean(dim=1, keepdim=True))
    assert float((coloured - kept).abs().max()) > 1e-3


def test_a_generator_restores_nothing_and_a_translator_generates_nothing(tmp_path: Path) -> None:
    for generates, asked, message in (
        (True, {"image": clean(1)}, "image must be None: the network makes pictures of noise"),
        (False, {"batch_size": 2}, "image is needed: the network was trained on pictures"),
    ):
        pipe = RDDMPipeline(make_unet(), RDDMScheduler(num_train_timesteps=T), generates=generates)
        pipe.save_pretrained(tmp_path)
        loaded = RDDMPipeline.from_pretrained(tmp_path)
        assert (loaded.config.generates, loaded.config.keeps_grey) == (generates, True)
        with pytest.raises(InvalidInputError, match=message):
            run(loaded, **asked)
        run(loaded, **({"batch_size": 1} if generates else {"image": clean(1)}))
    for wrong in ({"generates": 2}, {"keeps_grey": "no"}):
        with pytest.raises(InvalidInputError, match="must be True"):
            RDDMPipeline(make_unet(), RDDMScheduler(), **wrong)


def test_a_chain_that_begins_below_t_begins_with_the_noise_of_there() -> None:
    pipe = make()
    pipe.scheduler.set_timesteps(timesteps=[4, 1])
    noise = torch.randn(1, 3, 8, 8, generator=seeded(0)[0])
    assert torch.allclose(pipe.scheduler.start(torch.zeros_like(noise), noise), pipe.scheduler.noise_scales[4] * noise)
    pipe.scheduler.set_timesteps(5)
    assert torch.allclose(pipe.scheduler.start(torch.zeros_like(noise), noise), pipe.scheduler.noise_scales[-1] * noise)
    ddpm = RDDMScheduler(beta_schedule="linear")
    ddpm.set_timesteps(timesteps=[4, 1])
    assert torch.equal(ddpm.start(torch.zeros_like(noise), noise), noise)
