"""Training of Pix2pix: losses against closed forms, who is stepped when, runs, resuming, processes, refusals."""

from __future__ import annotations

import gc
import json
import math
import os
import runpy
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from conftest import make_generator
from PIL import Image
from test_training import begin_process
from test_training_rddm import start, wait
from torch import Tensor, nn
from warm import Python

from diffusers_restore import PatchDiscriminator, Pix2PixPipeline, ResnetGenerator, UNetGenerator, cli
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.training.checkpoints import checkpoints, load_checkpoint
from diffusers_restore.training.config import CropConfig, LoopConfig, OptimizerConfig, build
from diffusers_restore.training.data import cut
from diffusers_restore.training.pairs import Pair
from diffusers_restore.training.pix2pix import train_pix2pix
from diffusers_restore.training.pix2pix.config import Pix2PixConfig, TranslationDataConfig
from diffusers_restore.training.pix2pix.objective import (
    GAN_LOSSES,
    Pix2PixObjective,
    adversarial_loss,
    discriminator_losses,
    gradient_penalty,
)
from diffusers_restore.training.step import learning_rate_factor, make_optimizers, optimizer_step

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_pix2pix.py"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 5) -> Tensor:
    return 2 * torch.rand(shape, generator=seeded(seed)) - 1


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "real", "fake"),
    [
        ("vanilla", lambda d: -math.log(1 / (1 + math.exp(-d))), lambda d: -math.log(1 - 1 / (1 + math.exp(-d)))),
        ("lsgan", lambda d: (d - 1) ** 2, lambda d: d**2),
        ("wgangp", lambda d: -d, lambda d: d),
    ],
)
def test_adversarial_losses(kind: Any, real: Any, fake: Any) -> None:
    logits = torch.tensor([-2.0, 0.3, 1.7, 0.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    for right, of in ((True, real), (False, fake)):
        wanted = sum(of(float(one)) for one in logits.flatten()) / 4
        assert float(adversarial_loss(kind, logits, real=right)) == pytest.approx(wanted, rel=1e-6)
    large = torch.full((1, 1, 1, 1), 200.0)
    assert adversarial_loss(kind, large, real=False).isfinite()
    with pytest.raises(InvalidInputError, match=f"no gan_loss named '{kind}s'"):
        adversarial_loss(f"{kind}s", logits, real=True)  # type: ignore[arg-type]


def test_the_gradient_penalty_of_a_linear_critic() -> None:
    """D = w . y has the gradient w, whatever y."""
    w = pictures(3, 4, 5, seed=1).double()
    y = pictures(2, 3, 4, 5).double().requires_grad_()
    logits = (w * y).sum(dim=(1, 2, 3)).reshape(2, 1, 1, 1)
    assert float(gradient_penalty(logits, y)) == pytest.approx(10 * (float(w.norm()) - 1) ** 2, rel=1e-6)
    scaled = (torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1) * logits / w.norm()).expand(2, 1, 3, 2)  # a mean of patches
    assert float(gradient_penalty(scaled, y)) == pytest.approx(10 * (0 + 1) / 2, rel=1e-6)


def test_the_penalty_is_that_of_pictures_between_real_and_fake_ones() -> None:
    """Of D = |y|^2 / 2, whose gradient is y."""
    x, y, fake = (pictures(2, 3, 4, 4, seed=seed) for seed in range(3))
    shares = torch.tensor([0.25, 0.9]).reshape(2, 1, 1, 1)

    class Square(nn.Module):
        def forward(self, pair: Tensor) -> Tensor:
            return pair.chunk(2, dim=1)[1].square().sum(dim=(1, 2, 3)).reshape(-1, 1, 1, 1) / 2

    losses = discriminator_losses("wgangp", Square(), x, y, fake, shares)
    mixed = shares * y + (1 - shares) * fake
    wanted = 10 * (mixed.flatten(1).norm(dim=1) - 1).square().mean()
    assert losses["loss_penalty"].item() == pytest.approx(float(wanted), rel=1e-5)


class Critic(nn.Module):
    """D(x, y) = mean of x + 3 y over each picture, for each of four patches."""

    def forward(self, pair: Tensor) -> Tensor:
        x, y = pair.chunk(2, dim=1)
        return (x + 3 * y).mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, 2, 2)


@pytest.mark.parametrize("kind", GAN_LOSSES)
def test_the_loss_of_the_discriminator(kind: Any) -> None:
    x, y, fake = (pictures(3, 3, 4, 4, seed=seed) for seed in range(3))
    shares = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    losses = discriminator_losses(kind, Critic(), x, y, fake, shares)
    half = 1.0 if kind == "wgangp" else 0.5
    for name, shown, real in (("loss_real", y, True), ("loss_fake", fake, False)):
        logits = (x + 3 * shown).mean(dim=(1, 2, 3)).reshape(3, 1, 1, 1)
        assert torch.allclose(losses[name], half * adversarial_loss(kind, logits, real=real))
    # The gradient with respect to y is 3 / N in each of N pixels.
    penalty = 10 * (3 / math.sqrt(y[0].numel()) - 1) ** 2
    assert losses.keys() - {"loss_real", "loss_fake"} == ({"loss_penalty"} if kind == "wgangp" else set())
    if kind == "wgangp":
        assert float(losses["loss_penalty"]) == pytest.approx(penalty, rel=1e-5)


def networks(channels: int = 3) -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        discriminator = PatchDiscriminator(2 * channels, (4, 8))
    return {"generator": make_generator(ResnetGenerator, num_blocks=1), "discriminator": discriminator}


@pytest.mark.parametrize("kind", [*GAN_LOSSES, None])
@pytest.mark.parametrize("weight", [100.0, 0.0])
def test_the_loss_of_the_generator(kind: Any, weight: float) -> None:
    both = networks()
    objective = Pix2PixObjective(both["generator"], gan_loss=kind, l1_weight=weight)
    x, y = pictures(2, 3, 16, 16), pictures(2, 3, 16, 16, seed=6)
    corrupted = objective.corrupt((x, y), seeded())
    noise = both["generator"].draw_noise(2, 16, 16, seeded())
    assert torch.equal(corrupted.source, x)
    assert torch.equal(corrupted.target, y)
    assert all(torch.equal(*pair) for pair in zip(corrupted.noise, noise, strict=True))
    losses = objective.losses("generator", both, corrupted)
    fake = both["generator"](x, noise).sample
    wanted = {f"loss_l1_x{weight:g}": weight * (fake - y).abs().mean()} if weight else {}
    if kind is not None:
        logits = both["discriminator"](torch.cat([x, fake], dim=1))
        wanted["loss_generator"] = adversarial_loss(kind, logits, real=True)
    assert losses.keys() == wanted.keys()
    assert all(torch.allclose(losses[name], wanted[name]) for name in wanted)


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*GAN_LOSSES, None])
def test_each_network_is_stepped_once_by_its_own_loss_and_frozen_in_the_other_phase(kind: Any) -> None:
    both = networks()
    if kind is None:
        del both["discriminator"]
    objective = Pix2PixObjective(both["generator"], gan_loss=kind)
    assert list(objective.phases) == ([] if kind is None else ["discriminator"]) + ["generator"]
    assert objective.averaged == ("generator",)
    accelerator = Accelerator(cpu=True)
    configs = dict.fromkeys(objective.phases, OptimizerConfig(learning_rate=1e-3, adam_beta1=0.5))
    optimizers = make_optimizers(objective, both, configs)
    seen: list[tuple[str, dict[str, Tensor], dict[str, bool]]] = []
    ask = objective.losses

    def watched(phase: str, view: Mapping[str, nn.Module], corrupted: Any) -> dict[str, Tensor]:
        weights = {name: nn.utils.parameters_to_vector(one.parameters()).clone() for name, one in both.items()}
        free = {name: all(p.requires_grad for p in one.parameters()) for name, one in both.items()}
        seen.append((phase, weights, free))
        return ask(phase, view, corrupted)

    objective.losses = watched  # type: ignore[method-assign]
    x, y = pictures(2, 3, 16, 16), pictures(2, 3, 16, 16, seed=6)
    corrupted = objective.corrupt((x, y), seeded())
    config = LoopConfig(gradient_accumulation_steps=2, max_grad_norm=0.0)
    losses, norms = optimizer_step(accelerator, objective, both, optimizers, [corrupted] * 2, config, 0)
    assert [phase for phase, *_ in seen] == [name for name in objective.phases for _ in range(2)]
    assert all(free == {name: name == phase for name in both} for phase, _, free in seen)
    start = seen[0][1]
    after = {name: nn.utils.parameters_to_vector(one.parameters()) for name, one in both.items()}
    assert all(not torch.equal(after[name], start[name]) for name in both)
    # The generator is asked about with a discriminator that has learned already, and wasn't touched meanwhile.
    of_generator = next(weights for phase, weights, _ in seen if phase == "generator")
    assert torch.equal(of_generator["generator"], start["generator"])
    if kind is not None:
        assert torch.equal(of_generator["discriminator"], after["discriminator"])
    for optimizer in optimizers.values():
        assert {int(state["step"]) for state in optimizer.state.values()} == {1}
    assert set(norms) == {f"grad_norm/{name}" for name in both}
    assert all(p.requires_grad and p.grad is None for one in both.values() for p in one.parameters())
    assert all(value.isfinite() for value in losses.values())


def test_the_discriminator_sees_what_the_generator_is_judged_by() -> None:
    both = networks()
    objective = Pix2PixObjective(both["generator"])
    x, y = pictures(1, 3, 16, 16), pictures(1, 3, 16, 16, seed=6)
    corrupted = objective.corrupt((x, y), seeded())
    shown: list[Tensor] = []
    both["discriminator"].register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    for phase in objective.phases:
        torch.manual_seed(len(shown))
        objective.losses(phase, both, corrupted)
    assert torch.equal(shown[0][1:], shown[1])
    assert torch.equal(shown[0][:1], torch.cat([x, y], dim=1))
    assert not shown[0].requires_grad
    assert shown[1].requires_grad


def test_figures_and_sheets_are_those_of_the_pipeline() -> None:
    both = networks()
    objective = Pix2PixObjective(both["generator"])
    assert objective.criterion is None
    assert Pix2PixObjective(both["generator"], best=True).criterion == "psnr"
    x, y = pictures(1, 3, 16, 16), pictures(1, 3, 16, 16, seed=6)
    pipe = Pix2PixPipeline(both["generator"])
    pipe.set_progress_bar_config(disable=True)
    made = pipe(x, generator=seeded(4), output_type="latent").images
    with torch.no_grad():
        figures = objective.evaluate(both, (x, y), 4)
        sheet = objective.show(both, [(y, x)] * 4 + [(x, y)], [4])
    assert figures.keys() == {"l1", "psnr"}
    assert float(figures["l1"]) == pytest.approx(float((made - y).abs().mean()), rel=1e-5)
    assert float(figures["psnr"]) == pytest.approx(float(10 * torch.log10(4 / (made - y).square().mean())), rel=1e-5)
    assert torch.allclose(sheet, torch.cat([x, made, y], dim=3), atol=1e-5)
    assert objective.compared is None


def test_a_restorer_is_compared_with_what_it_was_given() -> None:
    both = networks()
    objective = Pix2PixObjective(both["generator"], damage=lambda clean, _: Pair(clean / 2, clean, None))
    y = pictures(1, 3, 16, 16)
    figures = objective.evaluate(both, (y,), 0)
    assert float(figures["psnr_degraded"]) == pytest.approx(float(10 * torch.log10(16 / y.square().mean())), rel=1e-5)
    assert objective.compared == ("psnr", "psnr_degraded")
    assert objective.find_worse({"psnr": 10.0, "psnr_degraded": 12.0}) is not None


# --- data and rates --------------------------------------------------------------------------------------------------


def test_the_jitter_is_that_of_the_paper() -> None:
    config = TranslationDataConfig(train_data_dir="a")
    assert (config.resolution, config.load_size, config.random_flip) == (256, 286, True)
    assert TranslationDataConfig(train_data_dir="a", resolution=128).crop.load_size == 143
    assert TranslationDataConfig(train_data_dir="a", resolution=128, load_size=128).crop.load_size == 128
    own_pixels = TranslationDataConfig(train_data_dir="a", resolution=128, min_scale=0.5, max_scale=1.0)
    assert own_pixels.crop.load_size is None
    with pytest.raises(InvalidInputError, match="load_size must be a whole number >= 128, got 100"):
        TranslationDataConfig(train_data_dir="a", resolution=128, load_size=100)
    with pytest.raises(InvalidInputError, match="load_size and min_scale both say how a picture is rescaled"):
        CropConfig(64, min_scale=1.0, max_scale=1.0, load_size=70)


def test_a_crop_of_a_resized_pair() -> None:
    """Both of a pair alike, of the wanted share of the shorter side, at all places, mirrored in half of the cases."""
    ramp = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    pair = (Image.fromarray(ramp), Image.fromarray(255 - ramp))
    crop = CropConfig(50, channels=1, load_size=80, random_flip=True)
    firsts, flipped = [], 0
    for seed in range(200):
        a, b = cut(pair, crop, np.random.default_rng(seed))[:, 0].astype(int)
        assert np.abs(a + b - 255).max() <= 1
        row = a[0] if a[0, 0] < a[0, -1] else a[0, ::-1]
        flipped += a[0, 0] > a[0, -1]
        assert row[-1] - row[0] == pytest.approx(100 * 50 / 80 * 49 / 50, abs=1.5)
        firsts.append(row[0])
    assert min(firsts) < 4
    assert max(firsts) > 200 - 62.5 - 5
    assert 70 < flipped < 130
    middle = CropConfig(50, channels=1, load_size=80, center_crop=True)
    assert cut(pair, middle, np.random.default_rng(0))[0, 0, 0, 25] == pytest.approx(100, abs=2)


def test_the_rate_is_constant_and_then_falls_to_nothing() -> None:
    config = OptimizerConfig(lr_scheduler="constant_linear", lr_warmup_steps=0)
    factors = [learning_rate_factor(step, config, 10) for step in range(10)]
    assert factors == pytest.approx([1] * 5 + [1, 0.8, 0.6, 0.4, 0.2])


# --- runs ------------------------------------------------------------------------------------------------------------

TOY = {
    "resolution": 16,
    "generator": "resnet_6",
    "generator_channels": 4,
    "discriminator": "16",
    "discriminator_channels": 4,
    "train_batch_size": 2,
    "validation_images": 2,
    "logging_steps": 1,
    "logger": "none",
    "max_train_steps": 4,
    "checkpointing_steps": 2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs, in two folders and side by side."""
    work = tmp_path_factory.mktemp("pairs")
    for name in ("photos", "labels", "both", "others"):
        (work / name).mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
        photo = Image.fromarray(noise).resize((40, 24), Image.Resampling.BICUBIC)
        label = photo.quantize(3)  # with a palette
        both = Image.new("RGB", (80, 24))
        both.paste(photo, (0, 0))
        both.paste(label.convert("RGB"), (40, 0))
        photo.save(work / "photos" / f"{i}.png")
        label.save(work / "labels" / f"{i}.png")
        both.save(work / "both" / f"{i}.png")
        if i < 3:
            both.save(work / "others" / f"{i}.png")
    return work


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
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def run(**values: Any) -> Result:
    with fresh_accelerate():
        return CliRunner().invoke(cli.main, ["train", "pix2pix", *words_of(values)])


def trains(output: Path, **values: Any) -> Result:
    result = run(**TOY | {"output_dir": output} | values)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def fails(result: Result, *messages: str) -> None:
    """The last line explains, and there is no traceback."""
    assert isinstance(result.exception, SystemExit), (result.exception, result.output)
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: "), result.stderr
    for message in messages:
        assert message in line
    assert "Traceback" not in result.output


def final(output: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    return load_checkpoint(checkpoints(output)[-1])


def side_by_side(folders: Path) -> dict[str, Any]:
    return {"train_data_dir": folders / "both", "clean_side": "left"}


@pytest.mark.parametrize(
    "changed",
    [
        {"gan_loss": "wgangp", "use_ema": True},
        {"gan_loss": "lsgan", "mixed_precision": "bf16"},
        {"gan_loss": "none"},
        {"gradient_accumulation_steps": 2, "optimizer": "muon", "keep": "best_psnr"},
    ],
    ids=str,
)
def test_a_resumed_run_ends_as_an_unbroken_one(changed: dict[str, Any], folders: Path, tmp_path: Path) -> None:
    """Bit for bit: both networks, both optimisers, the average, the numbers and what was exported."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    trains(unbroken, **side_by_side(folders), **changed)
    shutil.copytree(unbroken, broken)
    shutil.rmtree(broken / "checkpoint-4")
    result = trains(broken, **side_by_side(folders), **changed, resume_from_checkpoint="latest")
    assert ", from step 2" in result.output
    (tensors, numbers), (others, other_numbers) = final(unbroken), final(broken)
    wanted = {"generator", "optimizer.generator"} | ({"generator.average"} if "use_ema" in changed else set())
    if changed.get("gan_loss") != "none":
        wanted |= {"discriminator", "optimizer.discriminator"}
    assert tensors.keys() == others.keys() == wanted
    for file, values in tensors.items():
        assert all(torch.equal(value, others[file][key]) for key, value in values.items()), file
    assert numbers == other_numbers
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (unbroken, broken)]
    seconds = {"seconds_per_step": None}
    assert [json.loads(one) | seconds for one in lines[0]] == [json.loads(one) | seconds for one in lines[1]]
    names = {path.name for path in unbroken.iterdir()}
    assert names >= {"generator", "model_index.json", "pipeline.py", "README.md", "samples.png", "samples"}
    assert "discriminator" not in names


def run_training(values: dict[str, Any], environment: Mapping[str, str], log: str, half_write: int) -> None:
    os.environ.update(environment)
    begin_process(log, half_write)
    train_pix2pix(build(Pix2PixConfig, values))


def test_two_processes_train_as_one_does_with_accumulation(folders: Path, tmp_path: Path, python: Python) -> None:
    """With second derivatives; then the snippet of the card is run by a process that has only what was exported."""
    output, alone, log = tmp_path / "out put", tmp_path / "alone", tmp_path / "log"
    # Where a gradient is all rounding, Adam would make a whole step of it, in a direction of its own in each run.
    values = TOY | {"train_data_dir": str(folders / "photos"), "degraded_data_dir": str(folders / "labels")}
    values |= {"gan_loss": "wgangp", "adam_epsilon": 1e-3, "train_batch_size": 1, "max_train_steps": 2}
    wait(start(run_training, values | {"output_dir": str(output)}, 2, log), log)
    trains(alone, **values, gradient_accumulation_steps=2)
    (tensors, _), (others, _) = final(output), final(alone)
    assert tensors.keys() == others.keys()
    for file, of_file in tensors.items():
        for key, value in of_file.items():
            torch.testing.assert_close(value, others[file][key], rtol=2e-3, atol=2e-5)
    card = (output / "README.md").read_text()
    assert "# out put: a translator by Pix2pix" in card
    assert "on\n2 processes (micro-batches of 1, 1 for a step)" in card
    assert "Trained on 4 pictures of photos and labels; 2 more are held out." in card
    snippet = card.partition("```python\n")[2].partition("```")[0]
    with Image.open(folders / "labels" / "0.png") as label:
        label.save(tmp_path / "photo.png")
    python.run("-c", f"{snippet}\nassert translated.size == (40, 24)", cwd=tmp_path, check=True)


def test_the_example_is_the_command() -> None:
    assert runpy.run_path(str(EXAMPLE))["train_pix2pix"] is cli.train_pix2pix


def test_both_directions_and_others_to_measure_on(folders: Path, tmp_path: Path) -> None:
    values = side_by_side(folders) | {"max_train_steps": 1, "checkpointing_steps": 1, "gan_loss": "none"}
    left, right = tmp_path / "left", tmp_path / "right"
    trains(left, **values, validation_data_dir=folders / "others", validation_images=3)
    card = (left / "README.md").read_text()
    assert "Trained on 6 pictures of both; measured on 3 of others." in card
    assert "It is shown the right halves of pairs side by side, of 16 pixels in training." in " ".join(card.split())
    trains(right, **values | {"clean_side": "right"})
    sheets = [Image.open(folder / "samples.png") for folder in (left, right)]
    strips = [np.asarray(sheet).astype(int)[:16, :48] for sheet in sheets]
    for sheet in sheets:
        sheet.close()
    # Input, output, truth: what goes in on one side is the truth on the other.
    assert np.abs(strips[0][:, :16] - strips[1][:, 32:]).max() <= 1
    assert np.abs(strips[0][:, 32:] - strips[1][:, :16]).max() <= 1


def test_a_run_goes_on_with_the_options_that_it_began_with(folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    values = TOY | side_by_side(folders) | {"output_dir": output, "max_train_steps": 1, "checkpointing_steps": 1}
    assert run(**values).exit_code == 0
    for change, message in (
        ({"gan_loss": "lsgan"}, "gan_loss: 'vanilla', got 'lsgan'"),
        ({"l1_weight": 10}, "l1_weight: 100.0, got 10.0"),
        ({"dropout": 0.1}, "dropout: 0.5, got 0.1"),
        ({"load_size": 16}, "load_size: 18, got 16"),
        ({"clean_side": "right"}, "clean_side: 'left', got 'right'"),
        ({"discriminator": "pixel"}, "discriminator: '16', got 'pixel'"),
        ({"init_from": output}, f"init_from: None, got '{output}'"),
    ):
        fails(run(**values | change | {"max_train_steps": 2, "resume_from_checkpoint": "latest"}), message)


def test_a_run_begins_from_another_generator(folders: Path, tmp_path: Path) -> None:
    Pix2PixPipeline(make_generator(UNetGenerator)).save_pretrained(tmp_path / "base")
    output = tmp_path / "out"
    begins = side_by_side(folders) | {"init_from": tmp_path / "base", "max_train_steps": 1, "learning_rate": 1e-9}
    trains(output, **begins)
    loaded = Pix2PixPipeline.from_pretrained(output)
    assert type(loaded.generator) is UNetGenerator
    before = make_generator(UNetGenerator).state_dict()
    assert all((value - before[key]).abs().max() < 1e-7 for key, value in loaded.generator.state_dict().items())
    card = (output / "README.md").read_text()
    assert "The network began as that of `base`" in card
    assert "generator_channels" not in card
    fails(run(**TOY | begins | {"output_dir": tmp_path / "b", "resolution": 24}), "resolution must be a multiple of 16")
    Pix2PixPipeline(make_generator(UNetGenerator, in_channels=1)).save_pretrained(tmp_path / "grey")
    grey = begins | {"init_from": tmp_path / "grey", "output_dir": tmp_path / "c"}
    fails(run(**TOY | grey), "has 1 input and 3 output channels; channels=3 pictures need 3 of each")
    fails(run(**TOY | begins | {"init_from": "nowhere", "output_dir": tmp_path / "d"}), "init_from: ")


def test_a_task_makes_a_restorer_that_keeps_grey(folders: Path, tmp_path: Path) -> None:
    for task, stays in (("denoise", True), ("colorize", False)):
        output = tmp_path / task
        values = {"train_data_dir": folders / "photos", "task": task, "max_train_steps": 1, "gan_loss": "none"}
        trains(output, **values)
        assert Pix2PixPipeline.from_pretrained(output).config.keeps_grey is stays
        assert "| psnr_degraded |" in (output / "README.md").read_text()
    assert not Pix2PixPipeline.from_pretrained(tmp_path / "colorize").config.keeps_grey


def test_a_dry_run_prints_the_options_and_writes_nothing(folders: Path, tmp_path: Path) -> None:
    result = trains(tmp_path / "out", **side_by_side(folders), dry_run=True)
    options = yaml.safe_load(result.output.partition("\ndata: ")[0])
    assert (options["gan_loss"], options["l1_weight"], options["load_size"]) == ("vanilla", 100.0, 18)
    for line in ("generator: 0.0", "discriminator: 0.0", "a step of one process: 2 pictures"):
        assert line in result.output
    alone = trains(tmp_path / "out", **side_by_side(folders), dry_run=True, gan_loss="none")
    assert "discriminator" not in alone.output
    assert not (tmp_path / "out").exists()
    built = build(Pix2PixConfig, {"train_data_dir": "a", "clean_side": "left"})
    assert (built.optimizer.learning_rate, built.optimizer.adam_beta1, built.optimizer.adam_beta2) == (2e-4, 0.5, 0.999)
    assert (built.training.train_batch_size, built.training.use_ema, built.training.max_grad_norm) == (1, False, 0.0)
    assert (built.optimizer.adam_weight_decay, built.optimizer.lr_scheduler) == (0.0, "constant_linear")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_data_dir": "photos"}, "pairs are needed: one of degraded_data_dir, clean_side, recipe, task, degrad"),
        (
            {"train_data_dir": "both", "clean_side": "left", "generator": "unet_256"},
            "unet_128 multiples of 128, resnet_9 mult",
        ),
        ({"train_data_dir": "both", "clean_side": "left", "dropout": 1}, "dropout must be below 1, got 1.0"),
        ({"train_data_dir": "both", "clean_side": "left", "l1_weight": -1}, "l1_weight must be a number >= 0, got -1"),
        (
            {"train_data_dir": "both", "clean_side": "left", "l1_weight": 0, "gan_loss": "none"},
            "leave nothing to",
        ),
        (
            {"train_data_dir": "both", "clean_side": "left", "generator_channels": 0},
            "generator_channels must be a",
        ),
        ({"train_data_dir": "photos", "degraded_data_dir": "none"}, "degraded_data_dir must be a folder, got 'none'"),
        (
            {"train_data_dir": "photos", "clean_side": "left", "task": "sr2"},
            "pairs come from one source, got clean",
        ),
        (
            {"train_data_dir": "both", "clean_side": "left", "validation_data_dir": "no"},
            "validation_data_dir must be",
        ),
        (
            {"train_data_dir": "photos", "degraded_data_dir": "labels", "validation_data_dir": "both"},
            "validation_data_dir holds clean pictures, which degraded_data_dir has no pairs for",
        ),
        ({"dataset_name": "a", "clean_side": "left"}, "clean_side needs the clean pictures as train_data_dir"),
        ({"train_data_dir": "photos", "task": "sr"}, "no task named 'sr'"),
    ],
)
def test_bad_input(
    values: dict[str, Any], message: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    fails(run(**TOY | {"output_dir": tmp_path / "out"} | values), message)
    assert not (tmp_path / "out").exists()
