"""Training for Cold Diffusion: the objective by hand, runs of the command from digits to a pipeline, and bad input."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
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
from torch import Tensor, nn
from warm import Python

from diffusers_restore import ColdDiffusionPipeline, ColdDiffusionScheduler, ResidualUNet2DModel, cli
from diffusers_restore.degradations import DEGRADATIONS, Blur, Degradation, Fade, Mix
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.training.checkpoints import checkpoints, load_checkpoint
from diffusers_restore.training.cold import ColdObjective, make_scheduler, train_cold
from diffusers_restore.training.config import ColdConfig, build, flatten, to_yaml

PRESETS = sorted((Path(__file__).parents[1] / "schedulers").glob("cold-*"))
REGISTERED = [DEGRADATIONS[kind](num_timesteps=3) for kind in DEGRADATIONS]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int) -> Tensor:
    return 2 * torch.rand(shape, generator=generator(100)) - 1


class Fake(nn.Module):
    """A network that says what a function of (x, t) says, and remembers what it was asked."""

    def __init__(self, function: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.asked: list[tuple[Tensor, Any]] = []

    def forward(self, x: Tensor, t: Any) -> SimpleNamespace:
        self.asked.append((x, t))
        return SimpleNamespace(sample=self.function(x, t))


# --- corrupt --------------------------------------------------------------------------------------------------------


def test_timesteps_are_uniform() -> None:
    objective = ColdObjective(ColdDiffusionScheduler(Mix(50)))
    timesteps = objective.corrupt((torch.zeros(100_000, 1, 1, 1),), generator()).timesteps
    counts = timesteps.bincount()
    assert len(counts) == 50  # 0..49
    assert counts.min() > 1780  # of 2000, with deviation 44
    assert counts.max() < 2220


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("degradation", REGISTERED, ids=lambda one: one.kind)
def test_pictures_are_degraded_to_the_severity_after_the_timestep(
    degradation: Degradation, eight_bit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = ColdDiffusionScheduler(degradation, eight_bit=eight_bit)
    states: list[dict[str, Tensor]] = []
    draw = scheduler.sample_state
    monkeypatch.setattr(scheduler, "sample_state", lambda *args: states.append(draw(*args)) or states[-1])
    clean = pictures(12, 3, 8, 8)
    before, random_state = clean.clone(), torch.random.get_rng_state()
    corrupted = ColdObjective(scheduler).corrupt((clean,), generator())
    ((state),) = states
    assert corrupted.clean is clean
    assert torch.equal(clean, before)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert sorted(set(corrupted.timesteps.tolist())) == [0, 1, 2]
    assert torch.equal(corrupted.degraded, scheduler.degrade(clean, corrupted.timesteps + 1, state))
    if not eight_bit:
        for i, k in enumerate(corrupted.timesteps.tolist()):
            one = scheduler.degrade(clean[i : i + 1], k + 1, {name: value[i : i + 1] for name, value in state.items()})
            torch.testing.assert_close(corrupted.degraded[i : i + 1], one, rtol=0, atol=1e-6)
    assert not torch.equal(corrupted.degraded, scheduler.degrade(clean, corrupted.timesteps, state))


@pytest.mark.parametrize("degradation", [Fade(20), Mix(20)], ids=lambda one: one.kind)
def test_a_corruption_is_a_function_of_the_generator(degradation: Degradation) -> None:
    objective = ColdObjective(ColdDiffusionScheduler(degradation))
    clean = pictures(6, 3, 8, 8)
    first, again, other = (objective.corrupt((clean,), generator(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.degraded, other.degraded)
    assert not torch.equal(first.timesteps, other.timesteps)


def test_endpoints_are_dealt_among_the_clean_pictures() -> None:
    """At T = 1 nothing is left but the endpoint."""
    objective = ColdObjective(ColdDiffusionScheduler(Mix(1, endpoint="picture", schedule="linear")))
    endpoint, clean = pictures(3, 3, 4, 4), torch.zeros(3, 3, 4, 4)
    deals = set()
    for seed in range(100):
        degraded = objective.corrupt((endpoint, clean), generator(seed)).degraded
        (again, *_) = objective.corrupt((endpoint, clean), generator(seed))
        assert torch.equal(degraded, again)
        deal = tuple(next(j for j in range(3) if torch.equal(one, endpoint[j])) for one in degraded)
        assert sorted(deal) == [0, 1, 2]
        deals.add(deal)
    assert len(deals) == 6


def test_endpoints_and_clean_pictures_are_mixed() -> None:
    objective = ColdObjective(ColdDiffusionScheduler(Mix(4, endpoint="picture", schedule="linear")))
    endpoint, clean = pictures(2, 3, 4, 4)
    degraded, timesteps, got = objective.corrupt((endpoint[None], clean[None]), generator(1))
    t = (int(timesteps) + 1) / 4
    assert 0 < t < 1
    torch.testing.assert_close(degraded, ((1 - t) * clean + t * endpoint)[None], rtol=0, atol=1e-6)
    assert torch.equal(got, clean[None])


# --- losses ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_absolute_error() -> None:
    objective = ColdObjective(ColdDiffusionScheduler(Blur(5)))
    clean, error = pictures(4, 3, 8, 12), torch.randn((4, 3, 8, 12), generator=generator())
    corrupted = objective.corrupt((clean,), generator())
    for share in (1.0, 0.25, 0.0):  # down to a perfect network
        network = Fake(lambda x, t, share=share: clean + share * error)
        losses = objective.losses("unet", {"unet": network}, corrupted)
        assert list(losses) == ["loss"]
        assert float(losses["loss"]) == pytest.approx(share * float(error.double().abs().mean()), rel=1e-5, abs=0)
    ((seen, asked),) = network.asked
    assert torch.equal(seen, corrupted.degraded)
    assert torch.equal(asked, corrupted.timesteps)


def test_the_loss_is_in_single_precision() -> None:
    objective = ColdObjective(ColdDiffusionScheduler(Blur(5)))
    clean, said = pictures(2, 3, 8, 8), pictures(2, 3, 8, 8).flip(0).bfloat16()
    loss = objective.losses("unet", {"unet": Fake(lambda x, t: said)}, objective.corrupt((clean,), generator()))["loss"]
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float((said.double() - clean.double()).abs().mean()), rel=1e-6)


def test_a_network_learns_from_grey_pictures_that_are_not_square() -> None:
    objective = ColdObjective(ColdDiffusionScheduler(Fade(5)))
    unet = make_unet(channels=1)
    corrupted = objective.corrupt((pictures(2, 1, 8, 12),), generator())
    objective.losses("unet", {"unet": unet}, corrupted)["loss"].backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in unet.parameters())
    assert float(unet.conv_out.weight.grad.abs().max()) > 0


# --- evaluate and show ----------------------------------------------------------------------------------------------


def dim(x: Tensor, t: Any) -> Tensor:
    """What the network of these tests says: darker than what it sees, and more so for large timesteps."""
    return 1.1 * x - 0.02 * t - 0.05


def by_hand(scheduler: ColdDiffusionScheduler, x: Tensor, state: Any, severities: Sequence[int]) -> Tensor:
    """Algorithm 2 down a ladder that ends with 0."""
    for t, s in pairwise(severities):
        x0_hat = dim(x, t - 1)
        x = x - scheduler.degradation(x0_hat, t, state) + scheduler.degradation(x0_hat, s, state)
    return x


def psnr(x: Tensor, clean: Tensor) -> float:
    return float(10 * torch.log10(4 / (x.double().clamp(-1, 1) - clean.double()).square().mean()))


LADDERS = {5: [5, 4, 3, 2, 1, 0], 20: [20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0]}


@pytest.mark.parametrize(("last", "looks"), [(5, (2, 3, 5)), (20, (5, 10, 20))])
def test_the_figures_are_those_of_a_calculation_by_hand(last: int, looks: tuple[int, ...]) -> None:
    scheduler = ColdDiffusionScheduler(Fade(last, std=0.1))
    objective, clean = ColdObjective(scheduler), pictures(1, 3, 8, 8)
    figures = objective.evaluate({"unet": Fake(dim)}, (clean,), 3)
    state = scheduler.sample_state(clean, generator(3))
    expected = {f"psnr_direct_{t}": psnr(dim(scheduler.degrade(clean, t, state), t - 1), clean) for t in looks}
    expected["psnr"] = sum(expected.values()) / 3
    degraded = scheduler.degrade(clean, last, state)
    expected["psnr_restored"] = psnr(by_hand(scheduler, degraded, state, LADDERS[last]), clean)
    expected["psnr_degraded"] = psnr(degraded, clean)
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(expected, abs=1e-4)
    assert len(set(expected.values())) == 6
    assert objective.criterion in figures
    again = objective.evaluate({"unet": Fake(dim)}, (clean,), 3)
    assert all(torch.equal(value, again[name]) for name, value in figures.items())
    other = objective.evaluate({"unet": Fake(dim)}, (clean,), 4)  # another hole
    assert float(other["psnr_restored"]) != float(figures["psnr_restored"])


def test_one_severity_is_looked_at_once() -> None:
    objective = ColdObjective(ColdDiffusionScheduler(Blur(1)))
    figures = objective.evaluate({"unet": Fake(dim)}, (pictures(1, 3, 8, 8),), 0)
    assert figures.keys() == {"psnr", "psnr_direct_1", "psnr_restored", "psnr_degraded"}
    assert float(figures["psnr"]) == float(figures["psnr_direct_1"])


def test_strips_show_degraded_direct_restored_and_clean() -> None:
    scheduler = ColdDiffusionScheduler(Fade(5, std=0.1))
    held_out = [(one[None],) for one in pictures(3, 3, 8, 12)]
    strips = ColdObjective(scheduler).show({"unet": Fake(dim)}, held_out, [2, 0])
    assert strips.shape == (2, 3, 8, 48)
    assert float(strips.abs().max()) <= 1
    for strip, i in zip(strips, (2, 0), strict=True):
        (clean,) = held_out[i]
        state = scheduler.sample_state(clean, generator(i))
        degraded = scheduler.degrade(clean, 5, state)
        expected = [degraded, dim(degraded, 4), by_hand(scheduler, degraded, state, LADDERS[5]), clean]
        for part, one in zip(strip.split(12, dim=2), expected, strict=True):
            torch.testing.assert_close(part, one[0].clamp(-1, 1), rtol=0, atol=1e-6)


def test_strips_of_two_sets_begin_with_the_other_picture() -> None:
    objective = ColdObjective(ColdDiffusionScheduler(Mix(3, endpoint="picture", schedule="linear")))
    endpoint, clean = pictures(2, 3, 8, 8)
    (strip,) = objective.show({"unet": Fake(dim)}, [(endpoint[None], clean[None])], [0])
    torch.testing.assert_close(strip[:, :, :8], endpoint, rtol=0, atol=1e-6)
    assert torch.equal(strip[:, :, -8:], clean)


# --- runs of the command --------------------------------------------------------------------------------------------

TOY = ["--resolution", 16, "--block_out_channels", "8,8", "--train_batch_size", 2, "--validation_images", 2]
TOY += ["--lr_warmup_steps", 0, "--learning_rate", 1e-3, "--logging_steps", 1, "--logger", "none"]


@contextmanager
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one state for a process; the next test finds none."""
    AcceleratorState._reset_state(reset_partial_state=True)
    before = dict(os.environ)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.clear()
    os.environ.update(before)


def run(*words: object) -> Result:
    with fresh_accelerate():
        return CliRunner().invoke(cli.main, ["train", "cold", *map(str, words)])


def trains(*words: object) -> Result:
    result = run(*TOY, *words)
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


def load(folder: Path) -> ColdDiffusionPipeline:
    pipe = ColdDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        smooth = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((24, 20))
        smooth.save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 grey pictures of 16 x 16 as an idx file."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 4, 4), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    pixels[:, ::3] //= 2
    file = tmp_path_factory.mktemp("digits") / "train-images-idx3-ubyte"
    file.write_bytes(np.array([0x803, *pixels.shape], ">u4").tobytes() + pixels.tobytes())
    return file


PIXELATED = ["--degradation", "pixelate", "--degradation_args", "{mode: area}", "--num_train_timesteps", 2]
PRIOR = ["--prior_components", 2, "--prior_size", 4]


@pytest.fixture(scope="module")
def enlarger(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on digits, with a prior."""
    output = tmp_path_factory.mktemp("enlarger") / "enlarge"
    words = [*PIXELATED, *PRIOR, "--channels", 1, "--train_data_dir", digits, "--output_dir", output]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/opt/bin/diffusers-restore", "train", "cold", *map(str, words)])
        result = trains(*words, "--max_train_steps", 2)
    assert "training on 38 pictures of train-images-idx3-ubyte; 2 more are held out" in result.output
    return output


def test_a_trained_pipeline_is_the_same_in_another_process(enlarger: Path, tmp_path: Path, python: Python) -> None:
    x = pictures(2, 1, 12, 20)
    np.save(tmp_path / "x.npy", x.numpy())
    script = f"""
import sys, warnings, numpy as np, torch
warnings.simplefilter("error", UserWarning)
from diffusers_restore import ColdDiffusionPipeline
torch.set_num_threads({torch.get_num_threads()})
pipe = ColdDiffusionPipeline.from_pretrained({str(enlarger)!r})
pipe.set_progress_bar_config(disable=True)
x = torch.from_numpy(np.load("x.npy"))
np.save("restored.npy", pipe(x, output_type="latent").images.numpy())
draw = torch.Generator().manual_seed(3)
np.save("drawn.npy", pipe(batch_size=2, generator=draw, output_type="latent").images.numpy())
"""
    python.run("-c", script, cwd=tmp_path, check=True)
    pipe = load(enlarger)
    restored = pipe(x, output_type="latent").images.numpy()
    drawn = pipe(batch_size=2, generator=generator(3), output_type="latent").images.numpy()
    assert restored.shape == (2, 1, 12, 20)
    assert drawn.shape == (2, 1, 16, 16)
    assert np.ptp(drawn) > 0.1
    np.testing.assert_array_equal(np.load(tmp_path / "restored.npy"), restored)
    np.testing.assert_array_equal(np.load(tmp_path / "drawn.npy"), drawn)


def test_what_a_run_leaves_behind(enlarger: Path) -> None:
    names = {path.name for path in enlarger.iterdir()}
    assert names >= {"README.md", "model_index.json", "samples.png", "unet", "scheduler", "prior", "checkpoint-2"}
    with Image.open(enlarger / "samples.png") as sheet:
        assert sheet.size == (64, 34)  # two strips of four pictures
    lines = [json.loads(line) for line in (enlarger / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2]
    figures = {"psnr", "psnr_direct_1", "psnr_direct_2", "psnr_restored", "psnr_degraded"}
    assert lines[-1].keys() == {"step", *figures}


def test_the_card_names_the_degradation_the_data_and_the_command(enlarger: Path) -> None:
    card = (enlarger / "README.md").read_text()
    assert "# enlarge: Cold Diffusion with Pixelate(num_timesteps=2, mode='area', shrink='halve')" in card
    assert "Trained on 38 pictures of train-images-idx3-ubyte; 2 more are held out." in card
    assert "\ndiffusers-restore train cold --degradation pixelate --degradation_args '{mode: area}' " in card
    assert "after 2 of 2 steps" in card
    assert "| psnr_restored |" in card
    options = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert options["degradation_args"] == {"mode": "area"}
    assert options["prior_components"] == 2


def test_the_prior_is_that_of_what_is_left_of_the_training_pictures(enlarger: Path, digits: Path) -> None:
    pipe = load(enlarger)
    config = {name: pipe.prior.config[name] for name in ("channels", "height", "width", "components", "upsample")}
    # After two halvings there are blocks of 4 x 4 pixels.
    assert config == {"channels": 1, "height": 4, "width": 4, "components": 2, "upsample": "nearest"}
    pixels = np.frombuffer(digits.read_bytes(), np.uint8, offset=16).reshape(40, 4, 4, 4, 4)[1:-1]  # none held out
    blocks = torch.from_numpy(pixels.mean(axis=(2, 4)) / 127.5 - 1).reshape(38, 16)
    # Expectation maximisation keeps the mean and (but for what is added to the diagonal) the covariance.
    weights, means = pipe.prior.weights.double(), pipe.prior.means.double()
    torch.testing.assert_close(weights @ means, blocks.mean(0), rtol=0, atol=1e-5)
    spread = pipe.prior.scale_tril.double() @ pipe.prior.scale_tril.double().mT
    moments = (weights[:, None, None] * (spread + means[:, :, None] * means[:, None, :])).sum(0)
    wanted = blocks.mT @ blocks / 38 + 1e-6 * torch.eye(16)
    torch.testing.assert_close(moments, wanted, rtol=0, atol=1e-5)


def test_thumbnails_of_what_is_smooth_are_spread_smoothly(digits: Path, tmp_path: Path) -> None:
    words = ["--degradation", "blur", "--num_train_timesteps", 3, "--degradation_args", "{std: 1.5, border: reflect}"]
    words += ["--prior_components", 1, "--prior_size", 4, "--max_train_steps", 1, "--channels", 1]
    trains(*words, "--train_data_dir", digits, "--output_dir", tmp_path / "out")
    assert load(tmp_path / "out").prior.config.upsample == "bilinear"


def test_a_run_on_a_folder_that_was_stopped_ends_as_an_unbroken_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--degradation", "fade", "--degradation_args", "{std: 0.2, placement: center}", "--num_train_timesteps", 4]
    words += ["--prior_components", 1, "--train_data_dir", photos, "--dropout", 0.1, "--random_flip"]
    words += ["--max_train_steps", 4, "--checkpointing_steps", 2, "--lr_decay_steps", 3]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trains(*words, "--output_dir", whole)

    calls = []
    corrupt = ColdObjective.corrupt

    def stopped(self: ColdObjective, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return corrupt(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ColdObjective, "corrupt", stopped)
        assert run(*TOY, *words, "--output_dir", broken).exit_code == 130
    gc.collect()  # the frames of the interrupted run, which hold its lock
    assert [path.name for path in checkpoints(broken)] == ["checkpoint-2"]
    result = trains(*words, "--output_dir", broken, "--resume_from_checkpoint", "latest")
    assert ", from step 2" in result.output

    (tensors, state), (other, other_state) = (load_checkpoint(folder / "checkpoint-4") for folder in (whole, broken))
    assert state == other_state
    assert tensors.keys() == other.keys() == {"unet", "unet.average", "optimizer.unet"}
    early, _ = load_checkpoint(whole / "checkpoint-2")
    for file, values in tensors.items():
        assert all(torch.equal(value, other[file][key]) for key, value in values.items()), file
        assert not all(torch.equal(value, early[file][key]) for key, value in values.items()), file
    for part in ("unet", "prior"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        first, second = load_file(whole / name), load_file(broken / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items()), part
    for name in ("unet/config.json", "prior/config.json", "scheduler/scheduler_config.json"):
        assert (whole / name).read_text() == (broken / name).read_text()

    for change, message in (
        (["--degradation", "blur", "--degradation_args", "{}"], "degradation: 'fade', got 'blur'"),
        (
            ["--degradation_args", "{std: 0.3, placement: center}"],
            "degradation_args: {'std': 0.2, 'placement': 'center'}, got {'std': 0.3, 'placement': 'center'}",
        ),
        (["--num_train_timesteps", 5], "num_train_timesteps: 4, got 5"),
        (["--eight_bit"], "eight_bit: False, got True"),
    ):
        result = run(
            *TOY, *words, "--output_dir", broken, "--resume_from_checkpoint", "latest", "--max_train_steps", 6, *change
        )
        fails(result, f"the checkpoint was trained with {message}; a run goes on with the options that it began with")
        del result
        gc.collect()


def test_a_dry_run_prints_the_options_and_writes_nothing(digits: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = trains(*PIXELATED, "--channels", 1, "--train_data_dir", digits, "--output_dir", output, "--dry_run")
    options, report = result.stdout.split("\n\n", 1)
    assert yaml.safe_load(options)["degradation_args"] == {"mode": "area"}
    assert "data: 38 pictures of train-images-idx3-ubyte" in report
    assert not output.exists()


# --- presets --------------------------------------------------------------------------------------------------------


def table() -> dict[str, int]:
    """T by the name of the preset."""
    text = (PRESETS[0].parent / "README.md").read_text(encoding="utf-8")
    return {name: int(last) for name, last in re.findall(r"^\| (cold-\S+) \|.*\| (\d+) \|[^|]*\|$", text, re.MULTILINE)}


def test_every_preset_is_in_the_table() -> None:
    assert sorted(table()) == [folder.name for folder in PRESETS]
    assert len(PRESETS) == 16


@pytest.mark.parametrize("preset", PRESETS, ids=lambda folder: folder.name)
def test_a_step_with_every_preset(preset: Path, photos: Path, tmp_path: Path) -> None:
    scheduler = ColdDiffusionScheduler.from_pretrained(preset)
    assert len(scheduler) == scheduler.config.num_train_timesteps == table()[preset.name]
    words: list[object] = ["--scheduler_name_or_path", preset, "--max_train_steps", 1, "--validation_images", 1]
    words += ["--channels", 1 if "mnist" in preset.name else 3, "--output_dir", tmp_path / "out"]
    if preset.name == "cold-celeba-super-resolution":  # halves six times
        words += ["--resolution", 64]
    if preset.name == "cold-animorph":
        words += ["--endpoint_data_dir", photos]
    trains(*words, "--train_data_dir", photos)
    said, kept = (
        json.loads((folder / "scheduler_config.json").read_text())
        for folder in (preset, tmp_path / "out" / "scheduler")
    )
    assert {**kept, "_diffusers_version": ""} == {**said, "_diffusers_version": ""}
    options = yaml.safe_load((tmp_path / "out" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0])
    assert options["scheduler_name_or_path"] == preset.name
    assert options.keys().isdisjoint({"degradation", "degradation_args", "num_train_timesteps", "eight_bit"})
    assert load(tmp_path / "out").scheduler.degradation == scheduler.degradation


def test_a_run_does_not_go_on_with_a_scheduler_that_was_changed(photos: Path, tmp_path: Path) -> None:
    words = ["--scheduler_name_or_path", tmp_path / "own", "--train_data_dir", photos, "--output_dir", tmp_path / "out"]
    ColdDiffusionScheduler(Blur(3)).save_pretrained(tmp_path / "own")
    trains(*words, "--max_train_steps", 1)
    again = [*TOY, *words, "--resume_from_checkpoint", "latest", "--max_train_steps", 2]
    for changed in (ColdDiffusionScheduler(Blur(4)), ColdDiffusionScheduler(Blur(3), eight_bit=True)):
        changed.save_pretrained(tmp_path / "own")
        fails(run(*again), "the checkpoint was trained with scheduler: {'kind': 'blur', 'num_timesteps': 3, ")
        gc.collect()
    ColdDiffusionScheduler(Blur(3)).save_pretrained(tmp_path / "own")
    assert run(*again).exit_code == 0


# --- two sets, and other networks -----------------------------------------------------------------------------------

ANIMORPH = ["--degradation", "mix", "--degradation_args", "{endpoint: picture}", "--num_train_timesteps", 3]


def test_animorph(photos: Path, tmp_path: Path) -> None:
    others = tmp_path / "animals"
    others.mkdir()
    for i in range(4):
        Image.new("RGB", (40, 30), (60 * i, 200, 10)).save(others / f"{i}.png")
    words = [*ANIMORPH, "--train_data_dir", photos, "--endpoint_data_dir", others, "--output_dir", tmp_path / "out"]
    trains(*words, "--max_train_steps", 2)
    assert "4 pictures of photos with those of animals; 2 more are held out" in (tmp_path / "out/README.md").read_text()
    sheet = np.asarray(Image.open(tmp_path / "out" / "samples.png"))
    for top in (0, 18):  # both strips begin with an animal, but for the little that the schedule leaves at T
        assert np.abs(sheet[top : top + 16, :16, 1].astype(int) - 200).max() <= 4
        assert np.ptp(sheet[top : top + 16, 48:, 1].astype(int)) > 50
    pipe = load(tmp_path / "out")
    morphed = pipe(Image.open(others / "1.png").resize((16, 16)), output_type="latent").images
    assert morphed.shape == (1, 3, 16, 16)
    assert bool(morphed.isfinite().all())
    again = [*words, "--resume_from_checkpoint", "latest", "--max_train_steps", 4, "--endpoint_data_dir", photos]
    fails(run(*TOY, *again), f"endpoint_data_dir: {str(others)!r}, got {str(photos)!r}")


BLUR = ["--degradation", "blur", "--num_train_timesteps", 3]


@pytest.mark.parametrize(("make", "at_root"), [(make_unet, False), (make_unet, True), (make_residual_unet, False)])
def test_a_stock_network_is_trained_on(
    make: Any, at_root: bool, photos: Path, write_repo: WriteRepo, tmp_path: Path
) -> None:
    repo = write_repo(make(levels=3), at_root=at_root)
    words = [*BLUR, "--train_data_dir", photos, "--output_dir", tmp_path / "out", "--max_train_steps", 1]
    words += ["--pretrained_model_name_or_path", repo, "--learning_rate", 1e-12]
    trains(*words)
    unet = load(tmp_path / "out").unet
    expected = make(levels=3).state_dict()
    assert unet.config.block_out_channels == [8, 16, 16]
    for name, value in unet.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-8)
    options = yaml.safe_load((tmp_path / "out" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0])
    assert options["pretrained_model_name_or_path"] == repo.name
    assert options.keys().isdisjoint({"block_out_channels", "layers_per_block", "dropout"})


def test_a_residual_network_is_trained_and_resumes_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    words = [*BLUR, "--train_data_dir", photos, "--network", "residual", "--dropout", 0.1]
    words += ["--layers_per_block", "2,1", "--max_train_steps", 4, "--checkpointing_steps", 2, "--lr_decay_steps", 3]
    trains(*words, "--output_dir", tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoint-4")
    trains(*words, "--output_dir", tmp_path / "broken", "--resume_from_checkpoint", "latest")
    whole, broken = (load(tmp_path / name) for name in ("whole", "broken"))
    assert type(whole.unet) is ResidualUNet2DModel
    assert whole.unet.config.layers_per_block == [2, 1]
    assert whole.unet.conv_out.weight.any()
    assert all(torch.equal(value, broken.unet.state_dict()[key]) for key, value in whole.unet.state_dict().items())
    assert whole(pictures(1, 3, 9, 14), output_type="latent").images.shape == (1, 3, 9, 14)


def test_a_restorer_is_trained_on(enlarger: Path, digits: Path, tmp_path: Path) -> None:
    words = [*BLUR, "--channels", 1, "--train_data_dir", digits, "--output_dir", tmp_path / "out"]
    words += ["--pretrained_model_name_or_path", enlarger, "--learning_rate", 1e-12, "--max_train_steps", 1]
    trains(*words)
    first, second = load(enlarger), load(tmp_path / "out")
    for name, value in second.unet.state_dict().items():
        torch.testing.assert_close(value, first.unet.state_dict()[name], rtol=0, atol=1e-8)
    assert second.prior is None
    assert second.scheduler.degradation == Blur(3)


def test_networks_that_cannot_be_trained(photos: Path, write_repo: WriteRepo, tmp_path: Path) -> None:
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
    six = write_repo(make_unet(out_channels=6), name="six")
    classes = write_repo(make_unet(num_class_embeds=5), name="classes")
    option = "pretrained_model_name_or_path"
    for folder, message in (
        (
            tmp_path / "sound",
            f"{option}: the network of {str(tmp_path / 'sound')!r} must be a UNet2DModel or a ResidualUNet2DModel, "
            "got UNet1DModel",
        ),
        (tmp_path / "empty", f"{option}: no pipeline can be loaded from {str(tmp_path / 'empty')!r}"),
        (tmp_path / "absent", f"{option}: no pipeline can be loaded from {str(tmp_path / 'absent')!r}"),
        (six, "has 3 input and 6 output channels; channels=3 pictures need 3 of each"),
        (classes, "is class-conditional"),
    ):
        words = [*BLUR, "--train_data_dir", photos, "--output_dir", tmp_path / "out", f"--{option}", folder]
        fails(run(*TOY, *words), message)
    assert not (tmp_path / "out").exists()


# --- bad input ------------------------------------------------------------------------------------------------------

BOTH = "exactly one of degradation and scheduler_name_or_path"
MOSAIC = ["--degradation", "pixelate"]


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ([], [BOTH, "degradation=None and scheduler_name_or_path=None"]),
        (["--degradation", "blur", "--scheduler_name_or_path", "a"], [BOTH, "degradation='blur' and", "path='a'"]),
        (
            ["--degradation", "blurr"],
            ["no degradation named 'blurr'; did you mean 'blur'? there are: blur, color_fade"],
        ),
        ([*BLUR, "--degradation_args", "{tabs: 11}"], ["degradation_args", "named 'tabs'; did you mean 'taps'?"]),
        ([*BLUR, "--degradation_args", "{kind: snow}"], ["degradation_args", "named 'kind'; there are: border"]),
        ([*BLUR, "--degradation_args", "{1: 2}"], ["degradation_args", "named 1;"]),
        (
            [*BLUR, "--degradation_args", "{num_timesteps: 7}"],
            ["degradation_args: num_timesteps is set by num_train_timesteps"],
        ),
        ([*BLUR, "--degradation_args", "{taps: 4}"], ["taps must be odd, got 4"]),
        ([*BLUR, "--degradation_args", "{std: -1}"], ["std must be a number > 0, got -1"]),
        ([*BLUR, "--degradation_args", "{border: open}"], ["border", "circular", "reflect", "'open'"]),
        (
            [*BLUR, "--degradation_args", "[" * 5000],
            ["'--degradation_args'", "..., which must not be nested deeper than 50"],
        ),
        (
            [*BLUR, "--degradation_args", f"{{taps: {'9' * 5000}}}"],
            ["'--degradation_args'", "..., which holds a value that"],
        ),
        ([*BLUR, "--degradation_args", "11"], ["'--degradation_args'", "expected arguments by name", "got '11'"]),
        ([*BLUR, "--degradation_args", "[taps]"], ["'--degradation_args'", "got '[taps]'"]),
        ([*BLUR, "--degradation_args", "{taps: [1"], ["'--degradation_args'", "got '{taps: [1'"]),
        ([*BLUR, "--degradation_args", ""], ["'--degradation_args'", "got ''"]),
        (["--degradation", "blur", "--num_train_timesteps", 0], ["num_train_timesteps", ">= 1, got 0"]),
        (["--degradation", "blur", "--num_train_timesteps", "many"], ["'--num_train_timesteps'", "'many'"]),
        (
            [*MOSAIC, "--num_train_timesteps", 5],
            ["16 x 16 pixels are too small for degradation 'pixelate' with num_timesteps=5"],
        ),
        (ANIMORPH, ["endpoint_data_dir must name the pictures", "got None"]),
        ([*ANIMORPH, "--endpoint_data_dir", "absent"], ["endpoint_data_dir must be a folder", "got 'absent'"]),
        (
            [*BLUR, "--endpoint_data_dir", "elsewhere"],
            ["endpoint_data_dir is for degradation mix with endpoint: picture", "Blur"],
        ),
        (
            ["--degradation", "mix", "--endpoint_data_dir", "elsewhere"],
            ["endpoint_data_dir is for", "endpoint='noise'"],
        ),
        ([*BLUR, "--prior_size", 17], ["prior_size must be a whole number >= 1 and <= 16, got 17"]),
        ([*BLUR, "--prior_size", 0], ["prior_size must be a whole number >= 1 and <= 16, got 0"]),
        ([*BLUR, "--prior_components", -1], ["prior_components must be a whole number >= 0, got -1"]),
        (
            [*BLUR, "--prior_components", 4],
            ["prior_components=4 of prior_size=1", "more than 4 training pictures, got 4"],
        ),
        (
            [*BLUR, "--prior_components", 1, "--prior_size", 2],
            ["prior_size=2", "more than 12 training pictures, got 4"],
        ),
        ([*BLUR, "--train_data_dir", "absent"], ["train_data_dir must be a folder or an idx file, got 'absent'"]),
        (["--scheduler_name_or_path", "empty"], ["scheduler_name_or_path 'empty' can't be loaded as ColdDiffusion"]),
        (["--scheduler_name_or_path", "ddpm"], ["scheduler_name_or_path 'ddpm' can't be loaded as ColdDiffusion"]),
        (["--scheduler_name_or_path", "odd"], ["no degradation named 'unknown'; there are: blur"]),
        ([*BLUR, "--degradatoin", "blur"], ["--degradatoin", "--degradation"]),
    ],
)
def test_bad_input(
    words: list[object], messages: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    DDPMScheduler().save_pretrained("ddpm")
    Path("odd").mkdir()
    Path("odd/scheduler_config.json").write_text(json.dumps({"degradation": {"kind": "unknown", "num_timesteps": 3}}))
    fails(run(*TOY, "--train_data_dir", photos, "--output_dir", "out", *words), *messages)
    assert not Path("out/model_index.json").exists()
    assert list(Path().glob("out/checkpoint-*")) == []


def test_a_prior_without_scikit_learn_is_refused_before_the_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers_restore.training.cold.generating.find_spec", lambda name: None)
    words = [*BLUR, "--train_data_dir", photos, "--output_dir", tmp_path / "out", "--prior_components", 1]
    fails(run(*TOY, *words), "prior_components needs scikit-learn: pip install")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ColdConfig]:
    """The configuration that the words of a command line make."""
    called: list[ColdConfig] = []
    monkeypatch.setattr("diffusers_restore.training.cold.train_cold", lambda config, *, dry_run: called.append(config))

    def parse(*words: object) -> ColdConfig:
        result = run(*words)
        assert result.exit_code == 0, result.output
        return called.pop()

    return parse


ROOT = Path(__file__).parents[1]
Parsed = Callable[..., ColdConfig]


def cold(**values: Any) -> ColdConfig:
    return build(ColdConfig, {"train_data_dir": "photos", "degradation": "blur"} | values)


@pytest.mark.parametrize(
    "text",
    [
        "degradation_args: {taps: 11, std: 0.5, border: reflect}",
        "degradation_args:\n  taps: 11\n  std: 0.5\n  border: reflect",
        "degradation_args: '{taps: 11, std: 0.5, border: reflect}'",
        '{"degradation_args": {"taps": 11, "std": 0.5, "border": "reflect"}}',
    ],
)
def test_arguments_of_a_file_arrive(text: str, parsed: Parsed, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text(text)
    words = ["--train_data_dir", "photos", "--degradation", "blur", "--config", tmp_path / "options.yaml"]
    assert parsed(*words) == cold(degradation_args={"taps": 11, "std": 0.5, "border": "reflect"})
    assert parsed(*words, "--degradation_args", "{taps: 3}") == cold(degradation_args={"taps": 3})


def test_the_written_configuration_is_read_back(parsed: Parsed, tmp_path: Path) -> None:
    config = cold(degradation_args={"taps": 11, "mean_at_end": True, "border": "no"}, eight_bit=True, prior_size=4)
    (tmp_path / "options.yaml").write_text(to_yaml(flatten(config)))
    assert parsed("--config", tmp_path / "options.yaml") == config


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("degradation_args: 11", ["degradation_args", "expected arguments by name", "got '11'"]),
        ("degradation_args: taps", ["degradation_args", "got 'taps'"]),
        ("degradation_args: true", ["degradation_args", "got 'yes'"]),
        ("degradation_args: [taps, 11]", ["degradation_args", "got ['taps', 11]"]),
        ('{"degradation_args": [11]}', ["degradation_args", "got [11]"]),
        ("degradation: {blur: 11}", ["degradation must be one value, got {'blur': 11}"]),
        ("num_train_timesteps: {T: 11}", ["num_train_timesteps must be one value, got {'T': 11}"]),
        ("endpoint_data_dir: {a: b}", ["endpoint_data_dir must be one value"]),
        ("block_out_channels: {8: 16}", ["block_out_channels must be one value, got {8: 16}"]),
        ("degradation_arg: {taps: 11}", ["no option named 'degradation_arg'; did you mean 'degradation_args'?"]),
    ],
)
def test_bad_values_of_a_file(text: str, messages: list[str], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text(text)
    words = ["--train_data_dir", photos, "--output_dir", tmp_path / "out", "--config", tmp_path / "options.yaml"]
    fails(run(*([] if text.startswith("degradation:") else BLUR), *words), *messages)
    assert not (tmp_path / "out").exists()


def test_arguments_that_are_no_mapping_in_python() -> None:
    with pytest.raises(ValueError, match="degradation_args must be arguments by name, got 'taps'"):
        cold(degradation_args="taps")


@pytest.mark.parametrize("task", ["deblur", "inpaint", "super_resolution"])
def test_the_recipes_of_the_benchmark_have_the_settings_of_the_paper(task: str, parsed: Parsed) -> None:
    recipe = ROOT / "examples" / "recipes" / f"cold_mnist_{task}.yaml"
    config = parsed("--config", recipe, "--train_data_dir", "mnist")
    said = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for name, value in said.items():
        several = tuple(value) if isinstance(value, list) else (value,)
        assert flatten(config)[name] in (value, several), name
    preset = ColdDiffusionScheduler.from_pretrained(ROOT / "schedulers" / f"cold-mnist-{task.replace('_', '-')}")
    made = make_scheduler(config.objective)
    assert made.degradation == preset.degradation
    assert made.config.eight_bit == preset.config.eight_bit


def test_a_model_of_a_state_is_tried_directly(parsed: Parsed, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    training = sys.modules["diffusers_restore.training.cold.training"]
    monkeypatch.setattr(training, "start", lambda run, config, *, dry_run: runs.append(run))
    for kind in ("snow", "blur"):
        train_cold(parsed("--degradation", kind, "--train_data_dir", photos))
    ways = [[line.removeprefix("diffusers-restore ") for line in run.tries] for run in runs]
    command = "restore photo.png -o out.png --model {folder}"
    assert ways == [[f"{command} --direct"], [command]]


def test_a_prior_has_no_place_beside_a_state(parsed: Parsed, photos: Path) -> None:
    config = parsed("--degradation", "snow", "--train_data_dir", photos, "--prior_components", 2)
    with pytest.raises(InvalidInputError, match="prior_components must be 0: degradation 'snow' acts through a state"):
        train_cold(config)


def test_grey_pictures_have_no_colours_to_lose(parsed: Parsed) -> None:
    config = parsed("--degradation", "decolor", "--train_data_dir", "photos", "--channels", 1)
    with pytest.raises(InvalidInputError, match="channels must be 3 for degradation decolor"):
        train_cold(config)


def test_pictures_too_small_for_the_degradation_are_noticed_at_once(parsed: Parsed) -> None:
    config = parsed("--degradation", "pixelate", "--train_data_dir", "photos", "--num_train_timesteps", 7)
    with pytest.raises(InvalidInputError, match="pictures of 64 x 64 pixels are too small"):
        train_cold(config)
