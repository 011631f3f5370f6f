"""Training for RDDM: the objective by hand, sources of pairs, AOSA, and runs of the command up to a pipeline."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from conftest import WriteRepo, make_residual_unet, make_unet
from diffusers import DanceDiffusionPipeline, DDPMScheduler, IPNDMScheduler, UNet1DModel
from PIL import Image
from safetensors.torch import load_file
from test_training import FORKSERVER, begin_process
from torch import Tensor, nn
from warm import PATIENCE, Python

from diffusers_restore import RDDMPipeline, RDDMScheduler, ResidualUNet2DModel, cli, operators
from diffusers_restore.degradations import Blur
from diffusers_restore.degradations.recipes import OldPhotos, seeds_from
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.pipelines.pipeline_rddm import Inputs
from diffusers_restore.schedulers.scheduling_rddm import HEADS
from diffusers_restore.training.checkpoints import checkpoints, load_checkpoint
from diffusers_restore.training.config import (
    DataConfig,
    LoopConfig,
    OptimizerConfig,
    PairConfig,
    RDDMConfig,
    build,
    flatten,
)
from diffusers_restore.training.pairs import Pair, keeps_grey, make_damage, open_pairs
from diffusers_restore.training.rddm import train_rddm
from diffusers_restore.training.rddm.aosa import AOSAObjective, Selector, aosa_losses, select
from diffusers_restore.training.rddm.objective import RDDMObjective

# Runs of several processes, and those that are killed, are forked from a server that has imported everything.
FORKSERVER.set_forkserver_preload(
    [
        "diffusers_restore.training.prior.training",
        "diffusers_restore.training.rddm.training",
        "torch.utils.tensorboard",
        __name__,
    ]
)
EXAMPLE = Path(__file__).parents[1] / "examples" / "train_rddm.py"
DDPM = {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 100) -> Tensor:
    return 2 * torch.rand(shape, generator=generator(seed)) - 1


def psnr(x: Tensor, clean: Tensor) -> float:
    return float(10 * torch.log10(4 / (x.double().clamp(-1, 1) - clean.double()).square().mean()))


class Fake(nn.Module):
    """A network that says what a function of (x, t) says, and remembers what it was asked."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        assert not return_dict
        self.asked.append((x, t))
        return (self.function(x, t),)


# --- the objective --------------------------------------------------------------------------------------------------


def process(prediction_type: str, **more: Any) -> RDDMScheduler:
    ddpm = DDPM if prediction_type == "v_prediction" else {}
    return RDDMScheduler(num_train_timesteps=10, prediction_type=prediction_type, **ddpm, **more)


def wanted(scheduler: RDDMScheduler, corrupted: Any, clean: Tensor, degraded: Tensor) -> dict[str, Tensor]:
    """What each head should say, in float64, from I_t alone."""
    a, b = (
        one[corrupted.timesteps].reshape(-1, 1, 1, 1) for one in (scheduler.residual_scales, scheduler.noise_scales)
    )
    clean, residual = clean.double(), degraded.double() - clean.double()
    epsilon = (corrupted.noisy.double() - clean - a * residual) / b
    first = residual if scheduler.heads[0] == "residual" else clean
    v = (1 - a) * epsilon - b * clean
    return {
        "residual": residual,
        "epsilon": epsilon,
        "sample": clean,
        "v_prediction": v,
        "sum": first + epsilon,
    }


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize(
    ("conditioned", "masked", "embedding"),
    [(True, False, "timestep"), (True, True, "timestep"), (False, False, "timestep"), (True, False, "cumulative")],
)
@pytest.mark.parametrize(
    ("prediction_type", "two"),
    [(one, two) for one in HEADS for two in (False, True) if not two or len(HEADS[one]) == 2],
)
def test_the_loss_is_that_of_a_calculation_by_hand(
    prediction_type: str, two: bool, conditioned: bool, masked: bool, embedding: str, loss: str
) -> None:
    scheduler = process(prediction_type, time_embedding=embedding)
    heads = scheduler.heads
    objective = RDDMObjective(scheduler, Inputs(3, conditioned, masked), two_networks=two, loss=loss)
    clean, degraded = pictures(6, 3, 4, 8), pictures(6, 3, 4, 8, seed=1)
    mask = (pictures(6, 3, 4, 8, seed=2) > 0.3).float() * 2 - 1
    batch = (degraded, clean, mask) if masked else (degraded, clean)
    before, random_state = [one.clone() for one in batch], torch.random.get_rng_state()
    corrupted = objective.corrupt(batch, generator())
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert corrupted.timesteps.unique().numel() > 3

    def said(number: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Of the head of that number, or of all."""
        mine = range(len(heads)) if not two else (number,)
        return lambda x, t: torch.cat([(0.3 + k) * x[:, :3] + 0.01 * t.reshape(-1, 1, 1, 1) for k in mine], dim=1)

    networks = {"unet": Fake(said(0)), "unet_noise": Fake(said(1))}
    assert list(objective.phases) == (["unet", "unet_noise"] if two else ["unet"])
    losses: dict[str, Tensor] = {}
    for phase, names in objective.phases.items():
        assert names == (phase,)
        losses |= objective.losses(phase, networks, corrupted)
    assert list(losses) == [f"loss_{head}" for head in heads]

    targets, last = wanted(scheduler, corrupted, clean, degraded), len(scheduler)
    t = corrupted.timesteps
    codes = {"residual": t.double(), "noise": t.double()}
    if embedding == "cumulative":
        codes = {"residual": last * scheduler.residual_scales[t], "noise": last * scheduler.noise_scales[t]}
    for number, head in enumerate(heads):
        of_noise = heads == ("epsilon",) or (two and number == 1)
        code = codes["noise" if of_noise else "residual"]
        output = (0.3 + number) * corrupted.noisy.double() + 0.01 * code.reshape(-1, 1, 1, 1)
        error = output - targets[head]
        expected = float(error.abs().mean() if loss == "l1" else error.square().mean())
        assert float(losses[f"loss_{head}"]) == pytest.approx(expected, rel=1e-4)
    shown = [corrupted.noisy, *([degraded] * conditioned), *([mask[:, :1]] * masked)]
    for name, network in networks.items():
        if name in objective.phases:
            ((x, code),) = network.asked
            assert torch.equal(x, torch.cat(shown, dim=1))
            assert code.shape == (6,)


def test_the_noise_is_normal_and_the_timesteps_uniform() -> None:
    scheduler = process("epsilon")
    objective = RDDMObjective(scheduler, Inputs(1, False, False))
    corrupted = objective.corrupt((torch.zeros(20_000, 1, 2, 2),), generator())
    assert corrupted.condition == ()
    assert not corrupted.degraded.any()
    counts = corrupted.timesteps.bincount()
    assert len(counts) == 10
    assert (counts - 2000).abs().max() < 220  # the deviation is 42
    assert abs(float(corrupted.target.mean())) < 0.02
    assert abs(float(corrupted.target.std()) - 1) < 0.02
    b = scheduler.noise_scales[corrupted.timesteps].reshape(-1, 1, 1, 1)  # I_in = I_0 = 0: nothing but the noise
    torch.testing.assert_close(corrupted.noisy.double(), b * corrupted.target.double(), rtol=1e-5, atol=1e-6)


def test_a_corruption_is_a_function_of_the_generator() -> None:
    damage = make_damage(PairConfig(recipe="blind"))
    objective = RDDMObjective(process("residual_epsilon"), Inputs(3, True, False), damage=damage)
    first, again, other = (objective.corrupt((pictures(4, 3, 16, 16),), generator(seed)) for seed in (5, 5, 6))
    for name in ("noisy", "timesteps", "target", "degraded"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
        assert not torch.equal(getattr(first, name), getattr(other, name)), name
    assert torch.equal(first.condition[0], first.degraded)


def test_two_phases_have_the_gradients_of_one_joint_backward() -> None:
    scheduler = process("residual_epsilon")
    objective = RDDMObjective(scheduler, Inputs(3, True, False), two_networks=True)
    clean, degraded = pictures(2, 3, 8, 8), pictures(2, 3, 8, 8, seed=1)
    corrupted = objective.corrupt((degraded, clean), generator())
    networks = {name: make_unet(channels=6, out_channels=3) for name in ("unet", "unet_noise")}
    with torch.no_grad():
        networks["unet_noise"].conv_in.weight.mul_(-1)
    for phase in objective.phases:
        sum(objective.losses(phase, networks, corrupted).values()).backward()
    gradients = {name: [one.grad.clone() for one in networks[name].parameters()] for name in networks}
    for network in networks.values():
        network.zero_grad()
    x = torch.cat([corrupted.noisy, degraded], dim=1)
    targets = wanted(scheduler, corrupted, clean, degraded)
    said = [networks[name](x, corrupted.timesteps).sample for name in ("unet", "unet_noise")]
    joint = (said[0] - targets["residual"].float()).abs().mean() + (said[1] - targets["epsilon"].float()).abs().mean()
    joint.backward()
    for name, network in networks.items():
        for one, parameter in zip(gradients[name], network.parameters(), strict=True):
            torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-6)
        assert any(bool(one.any()) for one in gradients[name])


def test_unpaired_pictures_are_dealt_anew() -> None:
    """Where T = 1 and there is no noise, nothing is left but the degraded picture."""
    scheduler = RDDMScheduler(num_train_timesteps=1, noise_scale=0.0)
    objective = RDDMObjective(scheduler, Inputs(3, False, False), unpaired=True)
    degraded, clean = pictures(3, 3, 4, 4), torch.zeros(3, 3, 4, 4)
    deals = set()
    for seed in range(60):
        noisy = objective.corrupt((degraded, clean), generator(seed)).noisy
        deals.add(tuple(next(j for j in range(3) if torch.allclose(one, degraded[j])) for one in noisy))
    assert len(deals) == 6
    assert all(sorted(deal) == [0, 1, 2] for deal in deals)
    paired = RDDMObjective(scheduler, Inputs(3, False, False)).corrupt((degraded, clean), generator()).noisy
    torch.testing.assert_close(paired, degraded)


def test_what_an_objective_refuses() -> None:
    with pytest.raises(InvalidInputError, match="two_networks need two predictions, prediction_type 'sample' is one"):
        RDDMObjective(process("sample"), Inputs(3, True, False), two_networks=True)
    with pytest.raises(InvalidInputError, match="loss must be l1 or l2, got 'l3'"):
        RDDMObjective(process("sample"), Inputs(3, True, False), loss="l3")


def oracle(scheduler: RDDMScheduler, head: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What is to be said where the clean picture is the negative of the degraded one, which is the second shown."""

    def say(x: Tensor, t: Tensor) -> Tensor:
        sample, degraded = x[:, :3].double(), x[:, 3:6].double()
        t = t.long().expand(len(x))
        a, b = (one[t].reshape(-1, 1, 1, 1) for one in (scheduler.residual_scales, scheduler.noise_scales))
        residual, clean = 2 * degraded, -degraded
        epsilon = (sample - degraded + (1 - a) * residual) / b
        first = residual if scheduler.heads[0] == "residual" else clean
        heads = {"residual": residual, "sample": clean, "epsilon": epsilon, "sum": first + epsilon}
        return heads[head].float()

    return say


@pytest.mark.parametrize("prediction_type", ["residual", "sample", "residual_epsilon", "residual_sum", "sample_sum"])
def test_networks_that_know_all_restore_all(prediction_type: str) -> None:
    scheduler = process(prediction_type)
    heads = scheduler.heads
    degraded = pictures(1, 3, 8, 8)
    for two in {False, len(heads) == 2}:
        objective = RDDMObjective(scheduler, Inputs(3, True, False), two_networks=two, validation_steps=3)
        says = [oracle(scheduler, head) for head in heads]
        networks = {"unet": Fake(lambda x, t, says=says: torch.cat([say(x, t) for say in says], dim=1))}
        if two:
            networks = {name: Fake(say) for name, say in zip(("unet", "unet_noise"), says, strict=True)}
        figures = {name: float(value) for name, value in objective.evaluate(networks, (degraded, -degraded), 0).items()}
        assert figures.keys() == {"psnr", "psnr_1_step", "psnr_degraded"}
        assert figures["psnr"] == figures["psnr_1_step"] == pytest.approx(60, abs=1e-3)  # the most that is said
        _, restored, _ = objective.show(networks, [(degraded, -degraded)], [0]).split(8, dim=3)
        torch.testing.assert_close(restored, -degraded, rtol=0, atol=1e-5)
        assert figures["psnr_degraded"] == pytest.approx(psnr(degraded, -degraded), abs=1e-4)
        assert objective.criterion == "psnr"


@pytest.mark.parametrize("masked", [False, True])
def test_the_figures_and_strips_are_those_of_the_pipeline(masked: bool) -> None:
    scheduler = process("residual_epsilon", noise_scale=0.2)
    objective = RDDMObjective(scheduler, Inputs(3, True, masked), validation_steps=4)
    unet = make_unet(channels=6 + masked, out_channels=6)
    clean, degraded = pictures(1, 3, 8, 16), pictures(1, 3, 8, 16, seed=1)
    mask = (pictures(1, 1, 8, 16, seed=2) > 0).float()
    picture = (degraded, clean, (2 * mask - 1).expand(-1, 3, -1, -1)) if masked else (degraded, clean)
    pipe = RDDMPipeline(unet, process("residual_epsilon", noise_scale=0.2))
    pipe.set_progress_bar_config(disable=True)
    corrupted = objective.corrupt(picture, generator())
    with torch.no_grad():
        loss = objective.losses("unet", {"unet": unet}, corrupted)
        figures = objective.evaluate({"unet": unet}, picture, 3)
        strips = objective.show({"unet": unet}, [(clean,), picture], [1])

        def restored(steps: int, seed: int) -> Tensor:
            kept = mask if masked else None
            call = {"num_inference_steps": steps, "generator": generator(seed), "output_type": "latent"}
            return pipe(degraded, kept, **call).images

        # What was measured in between changes no loss.
        for name, value in objective.losses("unet", {"unet": unet}, corrupted).items():
            assert torch.equal(value, loss[name])
        assert float(figures["psnr"]) == pytest.approx(psnr(restored(4, 3), clean), abs=1e-4)
        assert float(figures["psnr_1_step"]) == pytest.approx(psnr(restored(1, 3), clean), abs=1e-4)
        assert float(figures["psnr"]) != float(objective.evaluate({"unet": unet}, picture, 4)["psnr"])
        for part, expected in zip(strips.split(16, dim=3), (degraded, restored(4, 1), clean), strict=True):
            torch.testing.assert_close(part, expected.clamp(-1, 1), rtol=0, atol=1e-5)


def test_what_is_drawn_from_nothing_is_measured_half_way_and_shown_alone() -> None:
    scheduler = process("sample_epsilon")
    objective = RDDMObjective(scheduler, Inputs(3, False, False))
    clean = pictures(1, 3, 8, 8)
    network = Fake(lambda x, t: torch.cat([clean + 0.01, x], dim=1))
    figures = objective.evaluate({"unet": network}, (clean,), 0)
    assert list(figures) == ["psnr"]
    assert float(figures["psnr"]) == pytest.approx(psnr(clean + 0.01, clean), abs=1e-3)
    ((_, t),) = network.asked
    assert t.tolist() == [5]
    unet = make_unet(out_channels=6)
    pipe = RDDMPipeline(unet, process("sample_epsilon"))
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        drawn = objective.show({"unet": unet}, [(pictures(1, 3, 16, 16),)] * 3, [2, 0])
    assert drawn.shape == (2, 3, 16, 16)
    for one, seed in zip(drawn, (2, 0), strict=True):
        call = {"num_inference_steps": 10, "generator": generator(seed), "output_type": "latent"}
        torch.testing.assert_close(one[None], pipe(**call).images.clamp(-1, 1), rtol=0, atol=1e-5)


# --- pairs ----------------------------------------------------------------------------------------------------------


def noise_picture(seed: int, *, size: tuple[int, int] = (24, 20)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clean/, its negatives in dark/, masks of their left halves, and both side by side."""
    work = tmp_path_factory.mktemp("work")
    for name in ("clean", "dark", "masks", "both"):
        (work / name).mkdir()
    mask = np.zeros((20, 24), np.uint8)
    mask[:, :12] = 255
    for i in range(6):
        clean = noise_picture(i)
        dark = Image.fromarray(255 - np.asarray(clean))
        both = Image.new("RGB", (48, 20))
        both.paste(clean, (0, 0))
        both.paste(dark, (24, 0))
        for name, picture in (("clean", clean), ("dark", dark), ("masks", Image.fromarray(mask)), ("both", both)):
            picture.save(work / name / f"{i}.png")
    return work


def data_of(folders: Path, train: str = "clean", **pairs: Any) -> tuple[Tensor, ...]:
    config = DataConfig(train_data_dir=str(folders / train), resolution=8, random_flip=True, validation_images=2)
    others = {name: pairs.get(name) for name in ("mask_data_dir", "unpaired_data_dir")}
    opened = open_pairs(config, PairConfig(**pairs), 0, **others)
    assert opened.count == 4
    assert len(opened.validation) == 2
    (batch,) = [next(opened.batches(batch_size=8, accumulation=1, rank=0, world_size=1, first_step=0))]
    assert {len(one) for one in opened.validation} == {len(batch)}
    return tuple(one.float() for one in batch)


def test_pairs_of_folders(folders: Path) -> None:
    dark, clean = data_of(folders, degraded_data_dir=str(folders / "dark"))
    assert clean.shape == (8, 3, 8, 8)
    assert clean.std() > 20
    assert (dark + clean - 255).abs().max() <= 2
    masked = {"degraded_data_dir": str(folders / "dark"), "mask_data_dir": str(folders / "masks")}
    dark, clean, masks = data_of(folders, **masked)
    assert (dark + clean - 255).abs().max() <= 2
    assert set(masks.unique().tolist()) >= {0.0, 255.0}
    assert torch.equal(masks[:, 0], masks[:, 2])
    pair = RDDMObjective(process("residual"), Inputs(3, True, True))._pair(
        (dark, clean, masks / 127.5 - 1), generator()
    )
    assert pair.mask.shape == (8, 1, 8, 8)
    assert torch.equal(pair.mask[:, 0], (masks[:, 0] > 127.5).float())


def test_pairs_side_by_side(folders: Path) -> None:
    left, right = (data_of(folders, "both", clean_side=side) for side in ("left", "right"))
    assert (left[0] + left[1] - 255).abs().max() <= 2
    for one, other in zip(left, reversed(right), strict=True):
        assert torch.equal(one, other)


def test_unpaired_folders(folders: Path) -> None:
    other, clean = data_of(folders, unpaired_data_dir=str(folders / "dark"))
    assert other.shape == clean.shape
    (alone,) = data_of(folders)
    assert torch.equal(alone, clean)


def damaged(seed: int = 0, *, channels: int = 3, **pairs: Any) -> Pair:
    damage = make_damage(PairConfig(**pairs), masked=bool(pairs.get("recipe_mask")))
    assert damage is not None
    clean = pictures(6, channels, 16, 16)
    kept = clean.clone()
    pair = damage(clean, generator(seed))
    assert torch.equal(clean, kept)
    assert pair.degraded.shape == pair.clean.shape == clean.shape
    return pair


def test_nothing_is_damaged_without_a_source() -> None:
    assert make_damage(PairConfig()) is None
    assert make_damage(PairConfig(degraded_data_dir="somewhere")) is None


@pytest.mark.parametrize("masked", [False, True])
def test_damage_by_a_recipe(masked: bool) -> None:
    pair = damaged(3, recipe="old_photos", recipe_args={"scratches": True}, recipe_mask=masked)
    expected = OldPhotos(scratches=True)(pictures(6, 3, 16, 16), seeds_from(generator(3), 6))
    assert torch.equal(pair.degraded, expected.degraded)
    assert torch.equal(pair.clean, expected.clean)
    assert (pair.mask is None) != masked
    if masked:
        assert torch.equal(pair.mask, expected.mask)
        assert pair.mask.shape == (6, 1, 16, 16)


@pytest.mark.parametrize(
    ("task", "arguments", "same"),
    [
        ("deblur-gauss", {"sigma": 2.0, "taps": 3}, True),
        ("inpaint-box", {}, True),
        ("sr4", {}, False),
        ("colorize", {}, False),
    ],
)
def test_damage_by_a_task(task: str, arguments: dict[str, Any], same: bool) -> None:
    operator = operators.create(task, image_shape=(3, 16, 16), **arguments)
    clean = pictures(6, 3, 16, 16)
    y = operator.forward(clean)
    assert (y.shape == clean.shape) == same
    pair = damaged(task=task, task_args=arguments)
    assert torch.equal(pair.degraded, y if same else operator.pinv(y))
    assert torch.equal(pair.clean, clean)
    assert pair.mask is None
    noisy = [damaged(seed, task=task, task_args=arguments, sigma_y=0.1) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0].degraded, noisy[1].degraded)
    assert not torch.equal(noisy[0].degraded, noisy[2].degraded)
    noise = operator.forward(noisy[0].degraded) - y if not same else noisy[0].degraded - y
    assert float(noise[noise != 0].std()) == pytest.approx(0.1, rel=0.2)


def test_damage_by_a_degradation() -> None:
    """Every severity of 1..T, none of the clean picture; a batch is what its pictures are at their severities."""
    damage = make_damage(PairConfig(degradation="blur", degradation_args={"num_timesteps": 4, "taps": 3, "std": 2.0}))
    assert damage is not None
    one = pictures(1, 3, 8, 8)
    clean = one.expand(2000, -1, -1, -1)
    degraded = damage(clean, generator(7)).degraded
    blur = Blur(4, taps=3, std=2.0)
    levels = torch.cat([blur(one, t) for t in range(5)])
    errors = (degraded[:, None] - levels).abs().amax(dim=(2, 3, 4))
    assert float(errors.amin(dim=1).max()) < 1e-5
    counts = errors.argmin(dim=1).bincount(minlength=5).tolist()
    assert counts[0] == 0
    assert all(abs(count - 500) < 100 for count in counts[1:])  # the deviation is 19


def test_a_damage_draws_where_its_generator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures on a GPU are measured with a generator of the CPU, which can't draw there."""
    devices = []
    draw = torch.randint
    monkeypatch.setattr(torch, "randint", lambda *args, **kw: devices.append(kw["device"]) or draw(*args, **{**kw}))
    damage = make_damage(PairConfig(degradation="blur", degradation_args={"num_timesteps": 4}))
    assert damage is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blur, "apply", lambda self, clean, severities, state: clean)
        patch.setattr(torch.Tensor, "to", lambda self, device: self)
        damage(torch.empty(2, 3, 8, 8, device="meta"), generator())
    assert devices == [torch.device("cpu")]


# --- AOSA -----------------------------------------------------------------------------------------------------------


def by_hand(
    f: Tensor, weight: float, noisy: Tensor, degraded: Tensor, residual: Tensor, epsilon: Tensor, a: Tensor, b: Tensor
) -> tuple[float, float]:
    """The two terms, picture by picture."""
    terms = []
    for i in range(len(f)):
        x0 = degraded[i] if a[i] == 1 else ((noisy[i] - a[i] * degraded[i] - b[i] * f[i]) / (1 - a[i])).clip(-1, 1)
        e = torch.zeros_like(f[i]) if b[i] == 0 else (noisy[i] - degraded[i] + (1 - a[i]) * f[i]) / b[i]
        r_hat = weight * f[i] + (1 - weight) * (degraded[i] - x0)
        e_hat = weight * e + (1 - weight) * f[i]
        terms.append((weight * (r_hat - residual[i]).abs().mean(), (1 - weight) * (e_hat - epsilon[i]).abs().mean()))
    r, e = (torch.stack(one).mean() for one in zip(*terms, strict=True))
    return float(r), float(e)


def aosa_case() -> tuple[Tensor, ...]:
    clean, degraded = pictures(5, 2, 3, 4).double(), pictures(5, 2, 3, 4, seed=1).double()
    epsilon, f = (torch.randn(5, 2, 3, 4, generator=generator(seed)).double() for seed in (2, 3))
    a = torch.tensor([0.1, 0.5, 0.9, 1.0, 0.4], dtype=torch.float64).reshape(-1, 1, 1, 1)
    b = torch.tensor([0.3, 0.7, 0.9, 1.0, 0.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    residual = degraded - clean
    return f, clean + a * residual + b * epsilon, degraded, residual, epsilon, a, b


@pytest.mark.parametrize("weight", [0.5, 0.495, 0.8])
def test_the_terms_of_aosa_are_those_of_the_paper(weight: float) -> None:
    f, noisy, degraded, residual, epsilon, a, b = aosa_case()
    losses = aosa_losses(f, torch.tensor(weight, dtype=torch.float64), noisy, degraded, residual, epsilon, a, b)
    assert list(losses) == ["loss_residual", "loss_epsilon"]
    expected = by_hand(f, weight, noisy, degraded, residual, epsilon, a, b)
    assert [float(one) for one in losses.values()] == pytest.approx(expected, rel=1e-12)


def test_aosa_learns_through_all_of_it() -> None:
    """Gradients by autograd are those of finite differences of the calculation by hand, also at a = 1 and b = 0."""
    f, *rest = aosa_case()
    f.requires_grad_()
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    sum(aosa_losses(f, weight, *rest).values()).backward()
    assert f.grad is not None
    assert bool(f.grad.isfinite().all())
    step, at = 1e-6, f.detach()

    def total(x: Tensor, w: float) -> float:
        return sum(by_hand(x, w, *rest))

    assert float(weight.grad) == pytest.approx((total(at, 0.5 + step) - total(at, 0.5 - step)) / (2 * step), rel=1e-6)
    for i in range(at.numel()):
        moved = torch.zeros_like(at).flatten()
        moved[i] = step
        moved = moved.reshape(at.shape)
        difference = (total(at + moved, 0.5) - total(at - moved, 0.5)) / (2 * step)
        assert float(f.grad.flatten()[i]) == pytest.approx(difference, rel=1e-5, abs=1e-9)
    assert bool(f.grad.any())


def test_aosa_looks_at_the_process_of_the_run() -> None:
    scheduler = process("residual_epsilon", noise_scale=0.5)
    objective = RDDMObjective(scheduler, Inputs(3, True, False))
    clean, degraded = pictures(8, 3, 4, 4), pictures(8, 3, 4, 4, seed=1)
    selection = AOSAObjective(objective)
    assert selection.phases == {"unet": ("unet", "selector")}
    assert selection.averaged == ()
    corrupted = selection.corrupt((degraded, clean), generator())
    network = Fake(lambda x, t: 0.5 * x[:, :3])
    losses = selection.losses("unet", {"unet": network, "selector": Selector()}, corrupted)
    targets = wanted(scheduler, corrupted, clean, degraded)
    a, b = (
        one[corrupted.timesteps].reshape(-1, 1, 1, 1) for one in (scheduler.residual_scales, scheduler.noise_scales)
    )
    double = corrupted.noisy.double()
    expected = by_hand(0.5 * double, 0.5, double, degraded.double(), targets["residual"], targets["epsilon"], a, b)
    assert [float(one.detach()) for one in losses.values()] == pytest.approx(expected, rel=1e-4)
    ((x, t),) = network.asked
    assert torch.equal(x, torch.cat([corrupted.noisy, degraded], dim=1))
    assert torch.equal(t, corrupted.timesteps)


class Knowing(nn.Module):
    """Says the exact residual, or the exact noise, of black pictures that became white; has nothing to learn."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.say = oracle(process("residual_epsilon"), head)
        self.idle = nn.Parameter(torch.zeros(1))  # processes can't share what has no gradient

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (self.say(x, t) + 0 * self.idle,)


def selected(
    head: str, work: Path, *, rate: float = 8e-5, max_steps: int = 200, accumulation: int = 1, **loop: Any
) -> str:
    """What is chosen where one of the two is known; the rate is that of the paper."""
    data = DataConfig(train_data_dir=str(work / "black"), resolution=16, validation_images=1)
    pairs = open_pairs(data, PairConfig(degraded_data_dir=str(work / "white")), 0)
    optimizer = OptimizerConfig(learning_rate=rate, adam_beta2=0.99, lr_warmup_steps=0, lr_scheduler="constant")
    training = {"train_batch_size": 8, "logging_steps": 1, "logger": "none", "checkpointing_steps": 50}
    config = LoopConfig(gradient_accumulation_steps=accumulation, **training | loop)
    objective = RDDMObjective(process("residual_epsilon"), Inputs(3, True, False))
    return select(objective, Knowing(head), pairs, optimizer, config, max_steps)  # type: ignore[arg-type]


def decision(output: Path) -> dict[str, Any]:
    return json.loads((output / "selection" / "selection.json").read_text())


@pytest.fixture(scope="module")
def black_and_white(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("flat")
    for name, value in (("black", 0), ("white", 255)):
        (work / name).mkdir()
        for i in range(3):
            Image.new("RGB", (16, 16), (value,) * 3).save(work / name / f"{i}.png")
    return work


@pytest.mark.parametrize(("head", "chosen", "weight"), [("residual", "residual", 0.51), ("epsilon", "epsilon", 0.49)])
def test_the_weight_leaves_the_band_after_126_steps_at_the_earliest(
    head: str, chosen: str, weight: float, black_and_white: Path, tmp_path: Path
) -> None:
    with fresh_accelerate():
        assert selected(head, black_and_white, output_dir=str(tmp_path / "out")) == chosen
    made = decision(tmp_path / "out")
    assert (made["step"], made["decided"]) == (126, True)
    assert made["weight"] == pytest.approx(weight, abs=1e-4)
    lines = [json.loads(one) for one in (tmp_path / "out/selection/metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in lines] == [*range(1, 127)]
    assert lines[0].keys() >= {"loss_residual", "loss_epsilon", "grad_norm/selector"}


def test_the_side_decides_when_there_is_no_more_time(black_and_white: Path, tmp_path: Path) -> None:
    for head in ("residual", "epsilon"):
        output = tmp_path / head
        with fresh_accelerate():
            assert selected(head, black_and_white, max_steps=3, output_dir=str(output)) == head
        made = decision(output)
        assert (made["step"], made["decided"]) == (3, True)
        assert abs(made["weight"] - 0.5) < 3e-4
        # It is asked once only: with the other network, the first answer holds.
        other = "epsilon" if head == "residual" else "residual"
        again = {"output_dir": str(output), "resume_from_checkpoint": "latest"}
        with fresh_accelerate():
            assert selected(other, black_and_white, max_steps=3, **again) == head
        with fresh_accelerate(), pytest.raises(InvalidInputError, match="holds the selection of another run"):
            selected(other, black_and_white, max_steps=3, output_dir=str(output))
        with fresh_accelerate(), pytest.raises(InvalidInputError, match="was selected with seed: 0, got 1"):
            selected(other, black_and_white, max_steps=3, seed=1, **again)


def run_selection(values: dict[str, Any], environment: Mapping[str, str], log: str, half_write: int) -> None:
    os.environ.update(environment)
    begin_process(log, half_write)
    print(f"chosen: {selected(**values)}.")


def test_a_selection_of_two_processes_and_one_that_was_killed(black_and_white: Path, tmp_path: Path) -> None:
    whole, two, broken = (tmp_path / name for name in ("whole", "two", "broken"))
    values = {"head": "epsilon", "work": black_and_white, "rate": 3.9e-4, "checkpointing_steps": 10}
    with fresh_accelerate():
        assert selected(**values, output_dir=str(whole), accumulation=2) == "epsilon"
    started = start(run_selection, values | {"output_dir": str(two)}, 2, tmp_path / "two.log")
    again = values | {"output_dir": str(broken), "accumulation": 2, "resume_from_checkpoint": "latest"}
    # Of three files to a checkpoint, the second of the second: it goes on from step 10.
    killed = start(run_selection, again, 1, tmp_path / "broken.log", half_write=5)
    killed[0].join(120 * PATIENCE)
    assert killed[0].exitcode == -signal.SIGKILL
    assert decision(broken)["step"] == 20
    assert not decision(broken)["decided"]
    wait(start(run_selection, again, 1, tmp_path / "broken.log"), tmp_path / "broken.log")
    wait(started, tmp_path / "two.log")
    assert (decision(whole)["step"], decision(whole)["decided"]) == (26, True)
    assert decision(whole) == decision(two) == decision(broken)
    assert (tmp_path / "two.log").read_text().count("chosen: epsilon.") == 2
    assert ", from step 10" in (tmp_path / "broken.log").read_text()


# --- runs in processes of their own ---------------------------------------------------------------------------------


def start(
    target: Callable[..., None], values: Mapping[str, Any], processes: int, log: Path, half_write: int = 0
) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {"OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started.append(FORKSERVER.Process(target=target, args=(dict(values), environment, str(log), half_write)))
    for process in started:
        process.start()
    return started


def wait(started: list[Any], log: Path) -> None:
    for process in started:
        process.join(120 * PATIENCE)
        assert process.exitcode == 0, log.read_text()


def run_training(values: dict[str, Any], environment: Mapping[str, str], log: str, half_write: int) -> None:
    os.environ.update(environment)
    begin_process(log, half_write)
    train_rddm(build(RDDMConfig, values))


TOY = {
    "resolution": 16,
    "block_out_channels": (8, 8),
    "train_batch_size": 2,
    "validation_images": 2,
    "lr_warmup_steps": 0,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "logger": "none",
    "num_train_timesteps": 20,
    "validation_steps": 2,
}
TWO = {
    "prediction_type": "residual_epsilon",
    "two_networks": True,
    "noise_learning_rate": 5e-4,
    "dropout": 0.1,
    "random_flip": True,
    "max_train_steps": 4,
    "checkpointing_steps": 2,
    "lr_decay_steps": 3,
}


@pytest.fixture(scope="module")
def runs(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two networks on pairs with masks: by one process with accumulation, and by two."""
    work = tmp_path_factory.mktemp("runs")
    shared = TOY | TWO | {"train_data_dir": str(folders / "clean"), "degraded_data_dir": str(folders / "dark")}
    shared["mask_data_dir"] = str(folders / "masks")
    for name, processes in (("one", 1), ("two", 2)):
        values = shared | {"gradient_accumulation_steps": 2 // processes, "resume_from_checkpoint": "latest"}
        (work / f"{name}.json").write_text(json.dumps(values))
        log = work / f"{name}.log"
        wait(start(run_training, values | {"output_dir": str(work / name)}, processes, log), log)
    return work


def final(output: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    tensors, state = load_checkpoint(checkpoints(output)[-1])
    for name in ("unet", "unet_noise"):
        if (output / name).is_dir():
            tensors[f"exported {name}"] = load_file(output / name / "diffusion_pytorch_model.safetensors")
    return tensors, state


def assert_same(first: Path, second: Path, **tolerance: float) -> None:
    (tensors, state), (others, other_state) = final(first), final(second)
    assert tensors.keys() == others.keys()
    for file, values in tensors.items():
        assert values.keys() == others[file].keys()
        for key, value in values.items():
            if tolerance:
                torch.testing.assert_close(value, others[file][key], **tolerance)
            else:
                assert torch.equal(value, others[file][key]), (file, key)
    if not tolerance:
        assert state == other_state


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_run_of_two_networks_that_was_killed_ends_as_an_unbroken_one(name: str, runs: Path, tmp_path: Path) -> None:
    broken, log = tmp_path / "broken", tmp_path / "log"
    values = json.loads((runs / f"{name}.json").read_text()) | {"output_dir": str(broken)}
    processes = 1 if name == "one" else 2
    # Six files to a checkpoint: in the second one.
    started = start(run_training, values, processes, log, half_write=9)
    for process in started:
        process.join(120 * PATIENCE)
    assert started[0].exitcode == -signal.SIGKILL, log.read_text()
    assert [path.name for path in checkpoints(broken)] == ["checkpoint-2"]
    wait(start(run_training, values, processes, log), log)
    assert ", from step 2" in log.read_text()
    assert_same(runs / name, broken)
    tensors, state = final(broken)
    assert tensors.keys() >= {"unet", "unet_noise", "unet.average", "unet_noise.average", "optimizer.unet_noise"}
    assert state["step"] == 4


def test_two_processes_train_as_one_does_with_accumulation(runs: Path) -> None:
    assert_same(runs / "one", runs / "two", rtol=2e-3, atol=2e-5)
    assert "on\n2 processes (micro-batches of 2, 1 for a step)" in (runs / "two" / "README.md").read_text()
    lines = [json.loads(line) for line in (runs / "two" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["learning_rate/unet_noise"] * 2 == pytest.approx(lines[0]["learning_rate/unet"])
    assert lines[0].keys() >= {"loss_residual", "loss_epsilon", "grad_norm/unet", "grad_norm/unet_noise"}
    assert lines[-1].keys() == {"step", "psnr", "psnr_1_step", "psnr_degraded"}


# --- runs of the command --------------------------------------------------------------------------------------------


@contextmanager
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one state for a process; the next test finds none."""
    AcceleratorState._reset_state(reset_partial_state=True)
    before = dict(os.environ)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.clear()
        os.environ.update(before)
        gc.collect()  # the frames of a run that failed, which hold its lock


def words_of(values: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in values.items():
        if value is True or value is False:
            words.append(f"--{name}" if value else f"--no_{name}")
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            words += [
                f"--{name}",
                yaml.safe_dump(text, default_flow_style=True) if isinstance(text, dict) else str(text),
            ]
    return words


def run(**values: Any) -> Result:
    with fresh_accelerate():
        return CliRunner().invoke(cli.main, ["train", "rddm", *words_of(values)])


def trains(output: Path, **values: Any) -> Result:
    result = run(**TOY | {"output_dir": output, "max_train_steps": 2, "checkpointing_steps": 2} | values)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def fails(result: Result, *messages: str) -> None:
    """The last line explains, and there is no traceback."""
    assert isinstance(result.exception, SystemExit), (result.exception, result.output)
    assert result.exit_code in (1, 2)
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: "), result.stderr
    for message in messages:
        assert message in line
    assert "Traceback" not in result.output


def load(folder: Path) -> RDDMPipeline:
    pipe = RDDMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def snippet(folder: Path) -> str:
    return (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]


def run_snippet(output: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the card's snippet makes, where its repository and the pictures that it names are."""
    noise_picture(1).save(output.parent / "photo.png")
    Image.new("L", (24, 20), 255).save(output.parent / "damaged.png")
    monkeypatch.chdir(output.parent)
    names: dict[str, Any] = {}
    exec(snippet(output), names)
    return names


def test_the_example_trains_on_two_processes_and_another_process_restores(
    folders: Path, tmp_path: Path, python: Python
) -> None:
    """With AOSA before; then the snippet of the card is run by a process that has only what was exported."""
    output, alone, direct = tmp_path / "out put", tmp_path / "alone", tmp_path / "direct"
    # Where a gradient is all rounding, Adam would make a whole step of it, in a direction of its own in each run.
    pairs = {"train_data_dir": folders / "clean", "degraded_data_dir": folders / "dark", "adam_epsilon": 1e-4}
    auto = pairs | {"prediction_type": "auto", "aosa_max_steps": 2, "noise_scale": 0.1}
    steps = {"max_train_steps": 2, "checkpointing_steps": 2, "output_dir": output}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launched = python.run(*launcher, EXAMPLE, *words_of(TOY | auto | steps), check=True)
    trains(alone, gradient_accumulation_steps=2, **auto)
    assert decision(output)["weight"] == pytest.approx(decision(alone)["weight"], abs=1e-6)
    assert_same(output, alone, rtol=2e-3, atol=2e-5)
    # The second stage begins anew: it is the run of what was chosen, bit for bit.
    chosen = "residual" if decision(alone)["weight"] >= 0.5 else "epsilon"
    assert f"the network is to say {chosen}" in launched.stderr + launched.stdout
    assert (launched.stderr + launched.stdout).count("the network is to say") == 1
    trains(direct, gradient_accumulation_steps=2, **auto | {"prediction_type": chosen, "aosa_max_steps": None})
    tensors, others = final(alone)[0], final(direct)[0]
    for file, values in tensors.items():
        assert all(torch.equal(value, others[file][key]) for key, value in values.items()), file
    assert load(alone).scheduler.config.prediction_type == chosen

    card = (output / "README.md").read_text()
    assert f"# out put: {chosen} by RDDM" in card
    assert "torchrun --nproc_per_node 2 " in card
    assert "--prediction_type auto" in card
    assert yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])["prediction_type"] == "auto"
    assert "psnr\nin 2." in card
    image = noise_picture(50, size=(18, 14))
    image.save(tmp_path / "photo.png")
    script = f"""
import sys, warnings, numpy as np, torch
warnings.simplefilter("error", UserWarning)
from PIL import Image
torch.set_num_threads({torch.get_num_threads()})
image = Image.open("photo.png")
torch.manual_seed(3)
{snippet(output)}
assert restored.size == (18, 14), restored.size
draw = torch.Generator().manual_seed(3)
np.save("restored.npy", pipe(image, num_inference_steps=2, generator=draw, output_type="latent").images.numpy())
"""
    python.run("-c", script, cwd=tmp_path, check=True)
    here = load(output)(image, num_inference_steps=2, generator=generator(3), output_type="latent").images.numpy()
    assert np.ptp(here) > 0.01
    np.testing.assert_array_equal(np.load(tmp_path / "restored.npy"), here)


def test_a_run_that_was_begun_with_auto_goes_on_without_asking_again(folders: Path, tmp_path: Path) -> None:
    pairs = {"train_data_dir": folders / "clean", "task": "deblur-uniform", "prediction_type": "auto"}
    pairs |= {"aosa_max_steps": 1, "max_train_steps": 1, "checkpointing_steps": 1}
    output = tmp_path / "out"
    trains(output, **pairs)
    made = decision(output)
    asked = (output / "selection" / "metrics.jsonl").read_bytes()
    resumed = pairs | {"resume_from_checkpoint": "latest", "max_train_steps": 2}
    result = trains(output, **resumed)
    assert ", from step 1" in result.output
    assert decision(output) == made
    assert (output / "selection" / "metrics.jsonl").read_bytes() == asked
    fails(run(**TOY | {"output_dir": output} | resumed | {"task": "sr4"}), "task: 'deblur-uniform', got 'sr4'")
    fails(run(**TOY | {"output_dir": output} | resumed | {"noise_scale": 0.5}), "scheduler: {", "'noise_scale': 1.0")
    # One that has no decision can't be asked half-way.
    (output / "selection" / "selection.json").unlink()
    fails(
        run(**TOY | {"output_dir": output} | resumed),
        f"prediction_type auto can't go on from '{output / 'checkpoint-2'}'",
        "give prediction_type residual or epsilon",
    )
    elsewhere = {"output_dir": tmp_path / "branch", "resume_from_checkpoint": output / "checkpoint-1"}
    fails(run(**TOY | resumed | elsewhere), "prediction_type auto can't go on from", "checkpoint-1'")
    assert not (tmp_path / "branch").exists()


def test_a_run_goes_on_with_the_options_that_it_began_with(runs: Path) -> None:
    output = runs / "one"
    before = {path: path.read_bytes() for path in sorted(output.rglob("checkpoint-*/*"))}
    values = json.loads((runs / "one.json").read_text()) | {"output_dir": str(output), "max_train_steps": 6}
    values["block_out_channels"] = tuple(values["block_out_channels"])
    for change, message in (
        ({"loss": "l2"}, "loss: 'l1', got 'l2'"),
        ({"degraded_data_dir": values["mask_data_dir"]}, "degraded_data_dir: "),
        ({"mask_data_dir": None}, "mask_data_dir: "),
        ({"prediction_type": "sample_epsilon"}, "'prediction_type': 'residual_epsilon'"),
        ({"two_networks": None, "noise_learning_rate": None}, "two_networks: True, got False"),
        ({"noise_scale": 0.25}, "'noise_scale': 1.0"),
        ({"num_train_timesteps": 30}, "'num_train_timesteps': 20"),
        ({"scheduler_args": {"time_embedding": "cumulative"}}, "'time_embedding': 'timestep'"),
        ({"block_out_channels": (8, 16)}, "block_out_channels: [8, 8], got [8, 16]"),
        ({"random_flip": None}, "random_flip: True, got False"),
    ):
        fails(run(**values | change), "the checkpoint was trained with", message)
    assert before == {path: path.read_bytes() for path in sorted(output.rglob("checkpoint-*/*"))}


def test_the_card_of_a_restorer_with_a_mask_and_two_networks(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (runs / "one" / "README.md").read_text()
    assert "# one: residual_epsilon by RDDM" in card
    assert 'mask=images.load_mask("damaged.png"), num_inference_steps=2)' in card
    assert "Trained on 4 pictures of clean with masks and dark; 2 more are held out." in card
    for name in ("psnr", "psnr_1_step", "psnr_degraded"):
        assert f"| {name} |" in card
    pipe = load(runs / "one")
    assert pipe.inputs == Inputs(3, True, True)
    assert pipe.unet_noise is not None
    assert run_snippet(runs / "one", monkeypatch)["restored"].size == (24, 20)
    with Image.open(runs / "one" / "samples.png") as sheet:
        assert sheet.size == (48, 34)  # two strips of three pictures


def test_the_card_of_a_generator_and_of_a_translator(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"train_data_dir": folders / "clean", "loss": "l2", "num_train_timesteps": 6}
    drawn = trains(tmp_path / "draw", prediction_type="sample_sum", export_dtype="float16", **common)
    assert "training on 4 pictures of clean; 2 more are held out" in drawn.output
    assert "A generator of pictures by RDDM" in (tmp_path / "draw" / "README.md").read_text()
    names = run_snippet(tmp_path / "draw", monkeypatch)  # six timesteps: no ten steps
    assert [one.size for one in names["new"]] == [(16, 16)] * 4
    weights = load_file(tmp_path / "draw" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}

    unpaired = {"unpaired_data_dir": folders / "dark", "conditioned": False}
    trains(tmp_path / "turn", prediction_type="residual_epsilon", validation_steps=50, **unpaired, **common)
    card = (tmp_path / "turn" / "README.md").read_text()
    assert "A translator of pictures by RDDM" in card
    assert "half-way" in card
    assert "psnr_1_step" not in card
    assert run_snippet(tmp_path / "turn", monkeypatch)["translated"].size == (24, 20)


@pytest.mark.parametrize(("last", "embedding"), [(1, "timestep"), (10, "timestep"), (10, "cumulative")])
def test_without_noise_a_network_learns_a_plain_regression(
    last: int, embedding: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    values = {"train_data_dir": folders / "clean", "degraded_data_dir": folders / "dark", "noise_scale": 0.0}
    values |= {"num_train_timesteps": last, "validation_steps": 5, "max_train_steps": 40, "checkpointing_steps": 40}
    values |= {"scheduler_args": {"time_embedding": embedding}, "learning_rate": 3e-3}
    trains(output, **values)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss_residual"] for line in lines if "loss_residual" in line]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    pipe = load(output)
    degraded, clean = 1 - 2 * pictures(1, 3, 16, 16).clamp(0, 1), pictures(1, 3, 16, 16)
    (one, other) = (
        pipe(degraded, num_inference_steps=1, generator=generator(i), output_type="latent").images for i in (0, 1)
    )
    assert torch.equal(one, other)  # there is no noise that a generator could draw
    assert one.shape == clean.shape
    with torch.no_grad():
        code = float(last * pipe.scheduler.residual_scales[-1]) if embedding == "cumulative" else last - 1
        residual = pipe.unet(torch.cat([degraded, degraded], dim=1), code).sample
    torch.testing.assert_close(one, (degraded - residual.clamp(-2, 2)).clamp(-1, 1), rtol=0, atol=1e-5)
    assert run_snippet(output, monkeypatch)["restored"].size == (24, 20)  # one timestep: no five steps
    assert f"psnr\nin {min(5, last)}." in (output / "README.md").read_text()


def test_a_scheduler_of_a_folder(folders: Path, tmp_path: Path) -> None:
    scheduler = RDDMScheduler(12, noise_schedule="average", noise_scale=0.3, prediction_type="sample")
    scheduler.save_pretrained(tmp_path / "own")
    values = {"train_data_dir": folders / "clean", "degradation": "blur", "degradation_args": {"num_timesteps": 3}}
    values |= {"scheduler_name_or_path": tmp_path / "own", "num_train_timesteps": None}
    trains(tmp_path / "out", max_train_steps=1, **values)
    kept = load(tmp_path / "out").scheduler
    for name in ("noise_schedule", "noise_scale", "prediction_type", "num_train_timesteps"):
        assert kept.config[name] == scheduler.config[name]
    assert torch.equal(kept.noise_scales, scheduler.noise_scales)
    options = yaml.safe_load((tmp_path / "out" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0])
    assert options["scheduler_name_or_path"] == "own"
    assert options.keys().isdisjoint({"prediction_type", "num_train_timesteps", "noise_scale"})
    again = TOY | values | {"output_dir": tmp_path / "out", "resume_from_checkpoint": "latest"}
    RDDMScheduler(12, noise_scale=0.3, prediction_type="sample").save_pretrained(tmp_path / "own")
    fails(run(**again), "the checkpoint was trained with scheduler: {", "'noise_schedule': 'average'")


@pytest.mark.parametrize("prediction_type", ["residual_epsilon", "auto"])
def test_a_dry_run_prints_the_options_and_writes_nothing(prediction_type: str, folders: Path, tmp_path: Path) -> None:
    result = trains(
        tmp_path / "out",
        train_data_dir=folders / "clean",
        recipe="blind",
        prediction_type=prediction_type,
        dry_run=True,
    )
    options, report = result.stdout.split("\n\n", 1)
    assert yaml.safe_load(options)["prediction_type"] == prediction_type
    assert yaml.safe_load(options)["recipe"] == "blind"
    assert "data: 4 pictures of clean" in report
    assert "million parameters" in report
    assert not (tmp_path / "out").exists()


def test_help_shows_every_option() -> None:
    result = CliRunner().invoke(cli.main, ["train", "rddm", "--help"], terminal_width=120)
    assert result.exit_code == 0
    for name in flatten(build(RDDMConfig, {"train_data_dir": "a"})):
        assert f"--{name} " in result.output or f"--{name} /" in result.output, name
    for title in ("Pairs:", "Objective: the process", "Network:", "Optimiser:", "Training:", "Data:"):
        assert title.partition(":")[0] in result.output


def test_every_option_of_a_file_arrives(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[RDDMConfig] = []
    monkeypatch.setattr("diffusers_restore.training.rddm.train_rddm", lambda config, *, dry_run: called.append(config))
    values = {"train_data_dir": str(folders / "clean"), "task": "deblur-gauss", "task_args": {"sigma": 3.0}}
    values |= {"sigma_y": 0.05, "scheduler_args": {"residual_power": 2.0}, "loss": "l2", "init_from": "me/ddpm"}
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(values))
    assert run(config=tmp_path / "options.yaml").exit_code == 0
    assert run(**values).exit_code == 0
    assert called == [build(RDDMConfig, values)] * 2


# --- beginning with other networks ----------------------------------------------------------------------------------

BEGINNING = {"degradation": "blur", "degradation_args": {"num_timesteps": 3}, "max_train_steps": 1}
BEGINNING |= {"learning_rate": 1e-12, "use_ema": False, "adam_weight_decay": 0.0}


def begins(folders: Path, output: Path, repo: Path, **values: Any) -> RDDMPipeline:
    """The pipeline after one step that changes nothing."""
    state = torch.random.get_rng_state()
    trains(output, train_data_dir=folders / "clean", init_from=repo, **BEGINNING | values)
    assert torch.equal(torch.random.get_rng_state(), state)
    return load(output)


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize(("make", "at_root"), [(make_unet, False), (make_unet, True), (make_residual_unet, False)])
def test_a_ddpm_is_grown_to_the_noise(
    variance: bool, make: Any, at_root: bool, folders: Path, write_repo: WriteRepo, tmp_path: Path
) -> None:
    unet = make(out_channels=6 if variance else 3)
    repo = write_repo(unet, at_root=at_root)
    pipe = begins(folders, tmp_path / "out", repo, prediction_type="residual_epsilon", dropout=0.5)
    assert pipe.inputs == Inputs(3, True, False)
    assert type(pipe.unet) is type(unet)
    x, t = pictures(2, 6, 16, 16), torch.tensor([3, 11])
    with torch.no_grad():
        residual, epsilon = pipe.unet(x, t).sample.chunk(2, dim=1)
        said = unet(x[:, :3], t).sample[:, :3]
    assert float(said.abs().max()) > 0.05
    torch.testing.assert_close(epsilon, said, rtol=0, atol=1e-5)
    assert float(residual.abs().max()) < 1e-5
    options = yaml.safe_load((tmp_path / "out" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0])
    assert options["init_from"] == repo.name
    assert options.keys().isdisjoint({"block_out_channels", "layers_per_block", "dropout"})


@pytest.mark.parametrize("make", [make_unet, make_residual_unet])
def test_a_ddpm_becomes_two_networks(make: Any, folders: Path, write_repo: WriteRepo, tmp_path: Path) -> None:
    unet = make()
    pipe = begins(
        folders, tmp_path / "out", write_repo(unet), prediction_type="residual_epsilon", two_networks=True, loss="l2"
    )
    x, t = pictures(2, 6, 16, 16), torch.tensor([3, 11])
    with torch.no_grad():
        assert float(pipe.unet(x, t).sample.abs().max()) < 1e-5
        torch.testing.assert_close(pipe.unet_noise(x, t).sample, unet(x[:, :3], t).sample, rtol=0, atol=1e-5)


def test_two_residual_networks_resume_bit_for_bit(folders: Path, tmp_path: Path) -> None:
    values = TWO | {"train_data_dir": folders / "clean", "degraded_data_dir": folders / "dark", "network": "residual"}
    trains(tmp_path / "whole", **values)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoint-4")
    trains(tmp_path / "broken", **values, resume_from_checkpoint="latest")
    assert_same(tmp_path / "whole", tmp_path / "broken")
    pipe = load(tmp_path / "whole")
    assert type(pipe.unet) is type(pipe.unet_noise) is ResidualUNet2DModel
    assert pipe(pictures(1, 3, 9, 14), num_inference_steps=2, output_type="latent").images.isfinite().all()
    first, _ = final(tmp_path / "whole")
    assert first["exported unet"]["conv_out.weight"].any()


def test_what_a_ddpm_says_that_is_not_asked_for_begins_at_zero(
    folders: Path, write_repo: WriteRepo, tmp_path: Path
) -> None:
    unet = make_unet()
    repo = write_repo(unet, DDPMScheduler(prediction_type="v_prediction"))
    pipe = begins(folders, tmp_path / "out", repo, prediction_type="residual_epsilon")
    x = pictures(2, 6, 16, 16)
    with torch.no_grad():
        assert float(pipe.unet(x, 3).sample.abs().max()) < 1e-5
    weights = pipe.unet.state_dict()
    torch.testing.assert_close(weights["conv_in.weight"][:, :3], unet.conv_in.weight, rtol=0, atol=1e-8)
    for name, value in unet.state_dict().items():
        if not name.startswith(("conv_in", "conv_out")):
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-8)
    # With the coefficients of a DDPM, v is what it says of pictures, too.
    ddpm = {
        "scheduler_args": {"beta_schedule": "linear"},
        "num_train_timesteps": 100,
        "prediction_type": "v_prediction",
    }
    pipe = begins(folders, tmp_path / "v", repo, **ddpm)
    with torch.no_grad():
        torch.testing.assert_close(pipe.unet(x, 3).sample, unet(x[:, :3], 3).sample, rtol=0, atol=1e-5)


def test_our_own_networks_are_gone_on_with(folders: Path, runs: Path, tmp_path: Path) -> None:
    """Two networks with masks: as they are, in one, by the head that they say, and in others that say other things."""
    first = load(runs / "one")
    x, t = pictures(2, 7, 16, 16), torch.tensor([3, 11])
    masked = {"degraded_data_dir": folders / "dark", "mask_data_dir": folders / "masks"}
    masked |= {"degradation": None, "degradation_args": None}

    @torch.no_grad()
    def said(pipe: RDDMPipeline) -> list[Tensor]:
        networks = [one for one in (pipe.unet, pipe.unet_noise) if one is not None]
        return [part for one in networks for part in one(x, t).sample.split(3, dim=1)]

    def begun(name: str, **values: Any) -> list[Tensor]:
        return said(begins(folders, tmp_path / name, runs / "one", **masked | values))

    residual, epsilon = said(first)
    again = begun("again", prediction_type="residual_epsilon", two_networks=True)
    together = begun("together", prediction_type="residual_epsilon")
    other = begun("other", prediction_type="sample_epsilon", two_networks=True)
    (alone,) = begun("alone", prediction_type="epsilon")
    close = {"rtol": 0.0, "atol": 1e-5}
    torch.testing.assert_close(again[0], residual, **close)
    torch.testing.assert_close(again[1], epsilon, **close)
    torch.testing.assert_close(together[0], residual, **close)
    assert float(together[1].abs().max()) < 1e-5
    assert float(other[0].abs().max()) < 1e-5  # the residual is no picture
    torch.testing.assert_close(other[1], epsilon, **close)
    torch.testing.assert_close(alone, epsilon, **close)


def test_one_network_of_ours_is_given_a_mask(folders: Path, tmp_path: Path) -> None:
    unet = make_unet(channels=6, out_channels=6)
    RDDMPipeline(unet, process("residual_epsilon")).save_pretrained(tmp_path / "own")
    scratched = {"recipe": "old_photos", "recipe_args": {"scratches": True}, "recipe_mask": True}
    pipe = begins(
        folders, tmp_path / "out", tmp_path / "own", prediction_type="residual_epsilon",
        **{"degradation": None, "degradation_args": None, **scratched},
    )  # fmt: skip
    assert pipe.inputs == Inputs(3, True, True)
    x = pictures(1, 7, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(pipe.unet(x, 3).sample, unet(x[:, :6], 3).sample, rtol=0, atol=1e-5)


def test_networks_that_cannot_be_begun_with(folders: Path, write_repo: WriteRepo, tmp_path: Path) -> None:
    sound = UNet1DModel(
        sample_size=16,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 8),
        extra_in_channels=16,
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
        layers_per_block=1,
    )
    DanceDiffusionPipeline(sound, IPNDMScheduler()).save_pretrained(tmp_path / "sound")
    (tmp_path / "empty").mkdir()
    grey = write_repo(make_unet(channels=1), name="grey")
    classes = write_repo(make_unet(num_class_embeds=5), name="classes")
    RDDMPipeline(make_unet(channels=7, out_channels=3), process("residual")).save_pretrained(tmp_path / "masked")
    deep = write_repo(make_unet(levels=4), name="deep")
    for repo, messages in (
        (
            tmp_path / "sound",
            ["init_from: the network of", "sound' must be a UNet2DModel or a ResidualUNet2DModel, got UNet1DModel"],
        ),
        (tmp_path / "empty", ["init_from: no pipeline can be loaded from", "empty'"]),
        (tmp_path / "absent", ["init_from: no pipeline can be loaded from", "absent'"]),
        (grey, ["init_from: the network of", "grey' is for pictures of 1 channels, not 3"]),
        (classes, ["the network of", "is class-conditional"]),
        (tmp_path / "masked", ["init_from: the network of", "is shown 7 channels", "more than the 6"]),
        (deep, ["resolution must be a multiple of 8", "got 20"]),
    ):
        size = {"resolution": 20} if repo == deep else {}
        values = TOY | {"output_dir": tmp_path / "out", "train_data_dir": folders / "clean"} | BEGINNING | size
        fails(run(**values, init_from=repo), *messages)
    grey_pictures = {"output_dir": tmp_path / "out", "train_data_dir": folders / "clean", "channels": 1}
    three = write_repo(make_unet(), name="three")
    fails(run(**TOY | grey_pictures | BEGINNING, init_from=three), "init_from", "pictures of 3 channels, not 1")
    assert not (tmp_path / "out").exists()


# --- bad input ------------------------------------------------------------------------------------------------------

BLUR = {"degradation": "blur"}
ARGS = {"degradation": "blur", "degradation_args": {"num_timesteps": 3}}


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"degraded_data_dir": "a", "recipe": "blind"}, ["pairs come from one source", "degraded_data_dir and recipe"]),
        ({"task": "sr4", **ARGS}, ["pairs come from one source, got task and degradation"]),
        ({"mask_data_dir": "m"}, ["mask_data_dir is for degraded_data_dir, which isn't given; got 'm'"]),
        ({"clean_side": "left", "mask_data_dir": "m"}, ["mask_data_dir is for degraded_data_dir"]),
        ({"recipe_args": {"scale": 2}}, ["recipe_args is for recipe, which isn't given; got {'scale': 2}"]),
        ({"recipe": "blind", "task_args": {"a": 2}}, ["task_args is for task, which isn't given"]),
        ({"degradation_args": {"a": 2}}, ["degradation_args is for degradation, which isn't given"]),
        ({"sigma_y": 0.1}, ["sigma_y is for task, which isn't given; got 0.1"]),
        ({"task": "sr4", "sigma_y": -0.1}, ["sigma_y must be a number >= 0, got -0.1"]),
        ({"recipe_mask": True}, ["recipe_mask is for recipe, which isn't given"]),
        ({"recipe": "blind", "recipe_mask": True, "conditioned": False}, ["mask", "leave out no_conditioned"]),
        ({"degraded_data_dir": "dark", "mask_data_dir": "masks", "conditioned": False}, ["leave out no_conditioned"]),
        ({"clean_side": "top"}, ["'--clean_side'", "'top'", "left", "right"]),
        ({"degraded_data_dir": "absent"}, ["degraded_data_dir must be a folder, got 'absent'"]),
        ({"degraded_data_dir": "dark", "mask_data_dir": "absent"}, ["mask_data_dir must be a folder, got 'absent'"]),
        ({"unpaired_data_dir": "absent"}, ["unpaired_data_dir must be a folder or an idx file, got 'absent'"]),
        ({"train_data_dir": "empty", "clean_side": "left"}, ["train_data_dir 'empty' holds no pictures (.jpg, "]),
        ({"train_data_dir": "empty", "degraded_data_dir": "empty"}, ["are one folder, 'empty': nothing"]),
        ({"degraded_data_dir": "empty"}, ["must hold pictures of the same names, got 6 without a partner: 0, 1"]),
        ({"train_data_dir": None, "dataset_name": "a", "clean_side": "left"}, ["clean_side needs the clean pictures"]),
        ({"degraded_data_dir": ".", "output_dir": "out"}, ["output_dir 'out' lies in degraded_data_dir '.'"]),
        ({"recipe": "blindd"}, ["no recipe named 'blindd'; did you mean 'blind'? there are: blind, bsrgan"]),
        ({"recipe": "blind", "recipe_args": {"scale": 2}}, ["no recipe_args of blind named 'scale'"]),
        ({"task": "sr5"}, ["no task named 'sr5'", "there are:", "sr4"]),
        ({"task": "deblur-gauss", "task_args": {"tap": 3}}, ["task_args of deblur-gauss", "did you mean 'taps'?"]),
        ({"task": "deblur-gauss", "task_args": {"sigma": -3}}, ["sigma must be a number > 0, got -3"]),
        ({"task": "inpaint"}, ["task 'inpaint' needs the argument 'mask'"]),
        ({"task": "sr4", "resolution": 18}, ["factor must divide the image's height 18, got 4"]),
        ({"task": "sr4", "validation_resolution": 18}, ["factor must divide the image's height 18, got 4"]),
        ({"degradation": "blurr"}, ["no degradation named 'blurr'; did you mean 'blur'?"]),
        (BLUR, ["degradation_args of blur must say num_timesteps"]),
        ({"degradation": "blur", "degradation_args": {"tabs": 3}}, ["degradation_args of blur", "mean 'taps'?"]),
        ({"degradation": "blur", "degradation_args": {"kind": "snow"}}, ["degradation_args of blur", "'kind'"]),
        (
            {"degradation": "blur", "degradation_args": {"num_timesteps": 0}},
            ["num_timesteps must be a whole number >= 1, got 0"],
        ),
        (
            {"degradation": "pixelate", "degradation_args": {"num_timesteps": 9}},
            ["16 x 16 pixels are too small for degradation 'pixelate'"],
        ),
        (
            {"degradation": "mix", "degradation_args": {"num_timesteps": 9, "endpoint": "picture"}},
            ["degradation 'mix' with endpoint='picture'"],
        ),
        ({**ARGS, "two_networks": True}, ["two_networks need two predictions, prediction_type 'residual' is one"]),
        ({**ARGS, "noise_learning_rate": 1e-3}, ["noise_learning_rate is for two_networks, which isn't set"]),
        ({**ARGS, "prediction_type": "auto", "two_networks": True}, ["prediction_type auto", "leave out two_networks"]),
        (
            {**ARGS, "prediction_type": "auto", "scheduler_args": {"time_embedding": "cumulative"}},
            ["prediction_type auto needs time_embedding 'timestep'"],
        ),
        ({**ARGS, "prediction_type": "noise"}, ["'--prediction_type'", "'noise'", "residual_sum"]),
        (
            {**ARGS, "prediction_type": "v_prediction"},
            ["prediction_type 'v_prediction' is for the coefficients of a D"],
        ),
        ({**ARGS, "loss": "huber"}, ["'--loss'", "'huber'", "l1", "l2"]),
        ({**ARGS, "noise_scale": -1.0}, ["noise_scale must be a number >= 0, got -1"]),
        ({**ARGS, "num_train_timesteps": 0}, ["num_train_timesteps must be a whole number >= 1, got 0"]),
        ({**ARGS, "validation_steps": 0}, ["validation_steps must be a whole number >= 1, got 0"]),
        ({**ARGS, "aosa_max_steps": 0}, ["aosa_max_steps must be a whole number >= 1, got 0"]),
        (
            {**ARGS, "scheduler_args": {"noise_schedul": "average"}},
            ["no scheduler_args named 'noise_schedul'; did you mean 'noise_schedule'?"],
        ),
        ({**ARGS, "scheduler_args": {1: 2}}, ["no scheduler_args named 1;"]),
        ({**ARGS, "scheduler_args": {"noise_scale": 2}}, ["noise_scale has an option of its own, --noise_scale"]),
        (
            {**ARGS, "scheduler_args": {"noise_schedule": "falling"}},
            ["no schedule named 'falling'; there are: average"],
        ),
        (
            {**ARGS, "scheduler_args": {"process": "indi"}, "noise_scale": 0.5},
            ["noise_scale=0.5 is for process 'rddm'"],
        ),
        (
            {**ARGS, "scheduler_args": {"beta_schedule": "linear"}, "noise_scale": 0.5},
            ["noise_scale=0.5 is for process 'rddm'; the process is of a DDPM"],
        ),
        ({**ARGS, "scheduler_args": "average"}, ["'--scheduler_args'", "expected arguments by name", "got 'average'"]),
        (
            {**ARGS, "scheduler_args": {"time_embedding": "cumulative"}, "prediction_type": "residual_epsilon"},
            ["time_embedding='cumulative'", "prediction_type 'residual_epsilon' needs unet_noise"],
        ),
        (
            {**ARGS, "scheduler_name_or_path": "empty", "scheduler_args": {"grid": "v2"}, "num_train_timesteps": None},
            ["scheduler_args are those of scheduler_name_or_path"],
        ),
        ({**ARGS, "scheduler_name_or_path": "empty"}, ["num_train_timesteps is that of scheduler_name", "got 20"]),
        (
            {**ARGS, "scheduler_name_or_path": "empty", "num_train_timesteps": None, "noise_scale": 0.5},
            ["noise_scale is that of scheduler_name_or_path where that is given; leave it out, got 0.5"],
        ),
        (
            {**ARGS, "scheduler_name_or_path": "empty", "num_train_timesteps": None},
            ["scheduler_name_or_path 'empty' can't be loaded as RDDMScheduler"],
        ),
        ({**ARGS, "resolution": 17}, ["resolution must be a multiple of 2, which the network's levels", "got 17"]),
    ],
)
def test_bad_input(
    values: dict[str, Any], messages: list[str], folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name in ("dark", "masks"):
        Path(name).symlink_to(folders / name)
    fails(run(**TOY | {"train_data_dir": folders / "clean", "output_dir": "out"} | values), *messages)
    assert not Path("out").exists()


def test_the_metrics_of_another_process_are_its_own(folders: Path, tmp_path: Path) -> None:
    """Relatives of RDDM are trained by the same command."""
    values = {"train_data_dir": folders / "clean", "task": "sr2", "max_train_steps": 1, "num_train_timesteps": 15}
    trains(tmp_path / "out", scheduler_args={"process": "resshift", "process_args": {"kappa": 1.0}}, **values)
    scheduler = load(tmp_path / "out").scheduler
    assert scheduler.config.process == "resshift"
    expected = RDDMScheduler(15, process="resshift", process_args={"kappa": 1.0})
    assert torch.equal(scheduler.noise_scales, expected.noise_scales)


# What the exported pipeline says of its networks


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ({}, True),
        ({"recipe": "blind"}, True),
        ({"recipe": "old_photo_full"}, True),
        ({"recipe": "edges"}, False),
        ({"task": "sr4"}, True),
        ({"task": "colorize"}, False),
        ({"degradation": "decolor", "degradation_args": {"num_timesteps": 4}}, False),
        ({"degradation": "blur", "degradation_args": {"num_timesteps": 4}}, True),
        ({"degradation": "synthetic", "degradation_args": {"num_timesteps": 4}}, True),
        ({"degradation": "synthetic", "degradation_args": {"num_timesteps": 4, "recipe": "edges"}}, False),
    ],
)
def test_which_networks_colour(pairs: dict[str, Any], expected: bool) -> None:
    assert keeps_grey(PairConfig(**pairs)) is expected


def test_a_mask_that_is_always_empty_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="recipe 'blind' with recipe_args {} damages nothing in places"):
        make_damage(PairConfig(recipe="blind"), masked=True)
    make_damage(PairConfig(recipe="old_photos", recipe_args={"scratches": True}), masked=True)
    make_damage(PairConfig(recipe="old_photo_full"), masked=True)
