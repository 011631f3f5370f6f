"""The engine from Python: what the command line does, in three lines, with errors that name arguments."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_unet
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from diffusers_restore import RDDMPipeline, RDDMScheduler, images, restoring
from diffusers_restore.cli import main
from diffusers_restore.restoring import ArgumentError, ModelError, Outcome, memory
from diffusers_restore.restoring.blind import settled
from diffusers_restore.restoring.watching import Step, Stopped


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prior")
    DDPMPipeline(make_unet(), DDPMScheduler()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("masked")
    RDDMPipeline(make_unet(channels=7, out_channels=3), RDDMScheduler()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "more/b.jpg"):
        Image.fromarray(rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)).save(folder / name)
    (folder / "c.png").write_bytes(b"no picture")
    return folder


def test_three_lines_do_what_the_command_line_does(prior: str, photos: Path, tmp_path: Path) -> None:
    restorer = restoring.load(prior, task="sr2", steps=2, samples=2, device="cpu", eta=0.5)
    outcomes = restorer.restore_files([str(photos)], str(tmp_path / "restored"))

    words = ["restore", str(photos), "-o", str(tmp_path / "again"), "--model", prior, "--task", "sr2", "--steps", "2"]
    result = CliRunner().invoke(main, [*words, "--samples", "2", "--device", "cpu", "--eta", "0.5"])
    assert result.exit_code == 1
    written = sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    assert [str(path) for path in written] == ["a-1.png", "a-2.png", "more/b-1.jpg", "more/b-2.jpg"]
    for path in written:
        assert (tmp_path / "restored" / path).read_bytes() == (tmp_path / "again" / path).read_bytes()
    assert [(outcome.job.source.name, outcome.size) for outcome in outcomes] == [
        ("a.png", (16, 24)),
        ("c.png", None),
        ("b.jpg", (16, 24)),
    ]
    assert "not a picture, or a damaged one" in str(outcomes[1].error)


def test_outcomes_are_told_as_they_come_and_what_is_there_is_kept(prior: str, photos: Path, tmp_path: Path) -> None:
    restorer = restoring.load(prior, task="denoise", sigma_y=0.1, steps=2, device="cpu")
    seen: list[Outcome] = []
    (photos / "c.png").unlink()
    done = restorer.restore_files([str(photos)], str(tmp_path / "out"), report=seen.append)
    assert seen == done
    assert all(outcome.error is None and outcome.seconds > 0 for outcome in done)
    (tmp_path / "out" / "a.png").unlink()
    again = restorer.restore_files([str(photos)], str(tmp_path / "out"), skip_existing=True)
    assert [outcome.job.source.name for outcome in again] == ["a.png"]


@pytest.mark.parametrize(
    ("options", "python", "words"),
    [
        (
            {"task": "sr2", "start": 3},
            "start is for a ColdDiffusionPipeline; this model is an unconditional DDPM",
            "--start is for a ColdDiffusionPipeline; this --model is an unconditional DDPM",
        ),
        ({"task": "sr4", "operator_args": {"a": 1}}, "operator_args: the task sr4 has no", "--operator-arg: the task"),
        ({"task": "inpaint"}, "the task inpaint needs mask, a file", "the task inpaint needs --mask, a file"),
        ({"task": "sr2", "average": True}, "average needs samples N", "--average needs --samples N"),
        ({}, "task must say what was done", "--task must say what was done"),
        ({"task": "sr2", "steps": 5000}, "steps must be a whole number >= 1 and <= 1000", "--steps must be a whole"),
        ({"task": "sr2", "seed": -1}, "seed must be a whole number >= 0", "--seed must be a whole number >= 0"),
        ({"task": "sr2", "samples": 2.0}, "samples must be a whole number >= 1, got 2.0", "--samples must be"),
        ({"task": "sr2", "sigma_y": "auto"}, "sigma_y must be a number >= 0, got 'auto'", "--sigma_y must be"),
        ({"task": "sr2", "eta": 5}, "eta must be a number >= 0 and <= 1, got 5", "--eta must be"),
        ({"task": "sr2", "max_pixels": 0}, "max_pixels must be a whole number >= 1, got 0", "--max_pixels must be"),
        ({"task": "sr2", "operator_args": 5}, "operator_args must be a mapping", "--operator-arg must be"),
        ({"task": "sr5"}, "task: no task named 'sr5'", "--task: no task named 'sr5'"),
        ({"task": "sr2", "method": "ddrn"}, "method: no method named 'ddrn'; did you mean 'ddrm'", "--method: no"),
        ({"task": "inpaint", "mask": 5}, "mask must be a file or a folder of files, got 5", "--mask must be a file"),
        ({"task": "inpaint", "mask": "nope.png"}, "mask: there is no file 'nope.png'", "--mask: there is no file"),
        ({"task": "sr2", "sigma_y": np.zeros(3)}, "sigma_y must be a number >= 0, got array", "--sigma_y must be"),
        ({"task": "sr2", "method": ["ddrm"]}, "method: no method named ['ddrm']", "--method: no method named"),
        ({"tsk": "sr2"}, "no option named 'tsk'; did you mean 'task'", "no option named 'tsk'"),
        ({"task": "sr2", "device": "tpu"}, "device: no device 'tpu' here", "--device: no device 'tpu' here"),
    ],
)
def test_errors_name_arguments_and_options(options: dict[str, Any], python: str, words: str, prior: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        restoring.load(prior, **options)
    assert python in str(caught.value)
    named = {"operator_args": "--operator-arg"}
    assert words in caught.value.message_for(lambda name: named.get(name, f"--{name}"))


def test_braces_in_what_the_caller_said_are_left_alone(tmp_path: Path) -> None:
    name = str(tmp_path / "{0} {task}")
    with pytest.raises(ModelError) as caught:
        restoring.load(name, task="sr2")
    assert str(caught.value) == f"model: there is no folder {name!r}"
    with pytest.raises(ArgumentError, match=r"output '\{x\}\.gif': the suffix of a file"):
        restoring.pair(["a.png"], "{x}.gif")


def test_what_a_trained_model_needs(masked: str) -> None:
    with pytest.raises(ArgumentError, match="mask is needed: this model is shown where the picture is damaged"):
        restoring.load(masked)
    with pytest.raises(ArgumentError, match="task is for an unconditional DDPM; this model is an RDDMPipeline"):
        restoring.load(masked, task="sr2")
    with pytest.raises(ArgumentError, match="eta needs task, which says what was done to the picture"):
        restoring.load(eta=0.5)


def test_paths_of_every_kind(prior: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = restoring.load(
        Path(prior), task="denoise", sigma_y=0.001, steps=1, device=torch.device("cpu"), mask=None
    )
    picture = photos / "a.png"
    for inputs in (picture, str(picture), [picture], (str(picture),)):
        (outcome,) = restorer.restore_files(inputs, tmp_path / "out" / "x.png")
        assert outcome.error is None
    monkeypatch.chdir(photos)
    assert [outcome.job.name for outcome in restorer.restore_files("a.png", tmp_path / "out")] == ["a.png"]
    assert [outcome.job.name for outcome in restorer.restore_files([Path("*.jpg"), "more/*.jpg"][1:], "o/")]
    for inputs, message in (
        ([], "inputs must be a file, folder or pattern"),
        (5, "inputs must be a file, folder or pattern, or a list of these, got 5"),
        ([5], "inputs must be a path, got 5"),
        ([""], "inputs must be a path, got ''"),
        (Path("nope.png"), "there is no file or folder 'nope.png'"),
    ):
        with pytest.raises(ArgumentError, match=re.escape(message)):
            restorer.restore_files(inputs, tmp_path / "out")
    for output in (None, ""):
        with pytest.raises(ArgumentError, match="output must be a path"):
            restorer.restore_files([picture], output)
    for model in ("", 5):
        with pytest.raises(ArgumentError, match="model must be a repository of the Hub or a folder"):
            restoring.load(model, task="sr2")


def test_what_another_run_has_written_meanwhile_is_kept(prior: str, photos: Path, tmp_path: Path) -> None:
    restorer = restoring.load(prior, task="sr2", steps=1, samples=2, device="cpu")
    ((job,), _) = restorer.plan(photos / "a.png", tmp_path / "x.png")
    assert restorer.restore(job).size == (16, 24)
    before = [target.stat().st_mtime_ns for target in job.targets]
    assert restorer.restore(job, keep=True).size == (16, 24)
    assert [target.stat().st_mtime_ns for target in job.targets] == before


def test_errors_can_be_copied() -> None:
    error = ArgumentError("{model} {0!r}", "{task}")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(again) == "model '{task}'"
        assert again.message_for(str.upper) == "MODEL '{task}'"


# --- memory ----------------------------------------------------------------------------------------------------------


def test_the_memory_of_a_network_is_counted_without_running_it() -> None:
    """A convolution's input and output are alive at once; attention has no matrix."""
    unet = make_unet()
    first = memory.network_memory(unet, 64, 64)
    assert memory.network_memory(unet, 128, 128) == pytest.approx(4 * first, rel=0.01)
    assert memory.network_memory(unet.to(torch.bfloat16), 64, 64) == pytest.approx(first / 2, rel=0.05)
    widest = max(unet.config.block_out_channels[:1])
    assert first > 2 * 4 * widest * 64 * 64
    with torch.random.fork_rng():
        attentive = UNet2DModel(
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,
        )
    small, large = (memory.network_memory(attentive, side, side) for side in (64, 256))
    assert large == pytest.approx(16 * small, rel=0.05)
    assert next(attentive.parameters()).device.type == "cpu"


def test_a_picture_that_needs_more_memory_than_there_is_is_refused_first(
    prior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 30_000_000)
    Image.new("RGB", (1000, 700)).save(tmp_path / "large.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    restorer = restoring.load(prior, task="denoise", sigma_y=0.001, steps=1, device="cpu", dtype="float32")
    monkeypatch.setattr(type(restorer.pipe), "__call__", lambda *_, **__: pytest.fail("the work has begun"))
    (outcome,) = restorer.restore_files(tmp_path / "large.png", tmp_path / "out.png")
    message = str(outcome.error)
    assert re.search(r"not enough memory for 1000x700 pixels: about 0\.\d GB are needed, 0.0 GB are free", message)
    assert "dtype bfloat16" in message


def test_free_memory_is_that_of_the_machine() -> None:
    assert 2**20 < memory.free_memory(torch.device("cpu")) < 2**50


@pytest.mark.parametrize("value", [None, 1, "yes", np.zeros(3)], ids=type)
def test_flags_and_reports_of_restore_files(value: Any, prior: str, tmp_path: Path) -> None:
    restorer = restoring.load(prior, task="denoise", steps=2, device="cpu")
    for name in ("skip_existing", "resume"):
        with pytest.raises(ArgumentError, match=f"^{name} must be True or False, got"):
            restorer.restore_files(tmp_path, tmp_path / "out", **{name: value})
    with pytest.raises(ArgumentError, match="^report must be a function of an Outcome, got"):
        restorer.restore_files(tmp_path, tmp_path / "out", report=value)
    with pytest.raises(ArgumentError, match="^model must be a repository of the Hub or a folder, got"):
        restoring.find_kind("" if isinstance(value, str) else value)


def test_a_denoiser_says_that_it_was_told_of_no_noise(prior: str, tmp_path: Path) -> None:
    images.save(torch.zeros(1, 3, 16, 16), tmp_path / "a.png")
    for options, told in (({}, True), ({"sigma_y": 0.1}, False)):
        restorer = restoring.load(prior, task="denoise", steps=1, device="cpu", **options)
        (outcome,) = restorer.restore_files(tmp_path / "a.png", tmp_path / "b.png")
        assert (
            "only rounding noise, as no sigma_y is given; sigma_y estimate finds what the picture has"
            in outcome.remarks.notes
        ) is told


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"task": "sr2", "steps": 3, "samples": 2, "eta": 0.5}, 3), ({"task": "denoise", "sigma_y": 0.1}, 1)],
)
def test_steps_can_be_watched_and_change_nothing(
    options: dict[str, Any], steps: int, prior: str, photos: Path, tmp_path: Path
) -> None:
    restorer = restoring.load(prior, device="cpu", **options)
    (plain,) = restorer.restore_files([str(photos / "a.png")], str(tmp_path / "plain.png"))
    seen: list[Step] = []
    restorer.watch = seen.append
    (watched,) = restorer.restore_files([str(photos / "a.png")], str(tmp_path / "watched.png"))
    samples = options.get("samples", 1)
    wanted = [(sample + 1, number + 1, steps) for sample in range(samples) for number in range(steps)]
    assert [(one.sample, one.number, one.count) for one in seen] == wanted
    last = seen[-1].estimate.clamp(-1, 1)
    assert last.shape[-2:] == (plain.size[1], plain.size[0])  # type: ignore[index]
    made = images.load(watched.job.targets[-1]).tensor
    assert (last - made).abs().max() < 1 / 127  # the last estimate is the result, before it is rounded
    for one, other in zip(plain.job.targets, watched.job.targets, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_every_kind_can_be_stopped(masked: str, prior: str, photos: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 12), 255).save(tmp_path / "mask.png")
    makers: list[dict[str, Any]] = [
        {"model": prior, "task": "denoise", "sigma_y": 0.1, "steps": 5},
        {"model": masked, "mask": tmp_path / "mask.png"},
        {"scratches": "auto"},
        {"scratches": "find"},
        {},
    ]
    for options in makers:
        restorer = restoring.load(device="cpu", **options)
        asked: list[bool] = []

        def stop(asked: list[bool] = asked) -> bool:
            asked.append(True)
            return len(asked) > 1  # at the first evaluation

        restorer.stop = stop
        with pytest.raises(Stopped):
            restorer.restore_files([str(photos / "a.png")], str(tmp_path / "stopped.png"))
        assert len(asked) == 2
        assert not (tmp_path / "stopped.png").exists()
        restorer.stop = None  # and no hook of it is left
        assert [one.error for one in restorer.restore_files([str(photos / "a.png")], str(tmp_path / "all.png"))] == [
            None
        ]
        assert len(asked) == 2
        (tmp_path / "all.png").unlink()


def test_what_changes_little_everywhere_is_left_alone() -> None:
    given = torch.zeros(1, 3, 256, 200)
    for size, change, left in (
        ((256, 200), 0.8, True),
        ((256, 200), 1.0, False),
        ((64, 64), 2.4, True),
        ((64, 64), 2.6, False),
        ((8, 8), 12.0, True),
    ):
        restored = given.clone()
        restored[..., 64 : 64 + size[0], 64 : 64 + size[1]] = change / 127.5
        if size[0] == 256:
            restored[:] = change / 127.5
        made, remarks = settled(restored, given)
        assert (made is given) is left
        assert bool(remarks.notes) is left
    small = torch.zeros(1, 1, 5, 3)
    assert settled(small + 0.8 / 127.5, small)[0] is small
    assert settled(torch.zeros(1, 3, 5, 3), small)[0].shape[1] == 3
