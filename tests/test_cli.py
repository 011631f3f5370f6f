"""The command line, from the words typed to the files written, on a tiny network with random weights."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import WriteRepo, make_residual_unet, make_unet
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from PIL import Image, ImageCms
from warm import PATIENCE, Python

import diffusers_restore
from diffusers_restore import (
    ColdDiffusionPipeline,
    ColdDiffusionScheduler,
    GaussianMixturePrior,
    RDDMPipeline,
    RDDMScheduler,
    cli,
    images,
)
from diffusers_restore.decoding import readable_suffixes
from diffusers_restore.degradations import Blur, Decolor, Degradation, Fade, Mix, Pixelate
from diffusers_restore.evaluation.noise import jpeg_loss
from diffusers_restore.operators import TASKS
from diffusers_restore.pipelines import precision
from diffusers_restore.registries import METHODS
from diffusers_restore.restoring.jobs import ALPHA_SUFFIXES, WRITABLE_SUFFIXES
from diffusers_restore.restoring.kinds import COLD, RDDM
from diffusers_restore.restoring.loading import find_dtype

STEPS = 2
SIDE = 16

Restore = Callable[..., Result]


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def save_model(folder: Path, channels: int = 3) -> Path:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIDE,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        add_attention=False,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """float32 in torch's own layout on every machine, so that a pipeline's pictures can be met exactly."""
    if "as_chosen" not in request.keywords:
        monkeypatch.setattr(precision, "fast_dtype", lambda device: torch.float32)
        monkeypatch.setattr(precision, "lay_out", lambda pipe: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def grey_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        return save_model(tmp_path_factory.mktemp("grey model"), channels=1)


@pytest.fixture
def restore(model: Path) -> Restore:
    """Run `restore` on the CPU, for denoising unless another task is named."""

    def restore(*words: object) -> Result:
        words = (*words, "--device", "cpu")
        for option, value in (("--task", "denoise"), ("--model", model), ("--steps", STEPS)):
            if option not in words:
                words = (*words, option, value)
        return run("restore", *words)

    return restore


def levels(seed: int = 0, channels: int = 3, side: int = SIDE, bits: int = 8) -> Any:
    """Smooth colours with some noise: (side, side, C) of uint8 or uint16."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0.2, 0.7, side)[:, None, None] + np.linspace(0, 0.2, channels)
    values = ramp + rng.uniform(0, 0.1, (side, side, channels))
    return (values * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def picture(path: Path, seed: int = 0, channels: int = 3, side: int = SIDE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels(seed, channels, side).squeeze()).save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fails(result: Result, code: int, *messages: str) -> None:
    """The exit status, one line of explanation after click's usage lines, and no traceback."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.output


def succeeds(result: Result) -> None:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


# --- start-up and help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["restore", "--help"], ["degrade", "-h"], ["tasks", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys, time
from diffusers_restore.cli import main
main({words!r}, standalone_mode=False)
print(time.process_time(), *sorted({{"torch", "diffusers", "numpy", "PIL"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stderr.split()
    assert heavy == []
    assert float(seconds) < 0.5 * PATIENCE
    assert "diffusers-restore" in done.stdout  # an example


def test_a_misspelt_task_is_answered_without_torch() -> None:
    code = """
import sys
from diffusers_restore.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    words = ["restore", "absent.png", "-o", "out.png", "--task", "inpant"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no task named 'inpant'; did you mean 'inpaint'" in done.stderr
    assert "sr4" in done.stderr


def test_the_module_runs_and_a_fault_in_use_is_no_traceback(tmp_path: Path, python: Python) -> None:
    words = ["restore", picture(tmp_path / "a.png"), "-o", tmp_path / "b.png", "--task", "sr4", "--model", tmp_path]
    done = python.run("-m", "diffusers_restore", *words)
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"Error: --model {str(tmp_path)!r} cannot be loaded: it has no model_index.json")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_has_the_exit_status_of_shells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.sample, "find_kind", interrupted)
    result = run("sample", "-o", tmp_path / "grid.png")
    assert result.exit_code == 130
    assert result.stderr == "stopped\n"


def test_version() -> None:
    assert run("--version").output.split()[-1] == diffusers_restore.__version__


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_lists_every_registered_task() -> None:
    result = run("tasks")
    succeeds(result)
    words = result.output.split()
    assert set(TASKS) <= set(words)
    assert "border=reflect]" in words
    assert "seed=0" in result.output
    assert "[--mask" in words


def test_methods_as_json() -> None:
    listed = {row["name"]: row for row in json.loads(run("methods", "--json").stdout)}
    assert set(listed) == set(METHODS)
    assert listed["dpir"]["result"] == "estimate"
    assert listed["dpir"]["options"] == [{"name": "prior_weight", "default": 0.23}]
    assert listed["daps"]["steps"] == METHODS["daps"].default_steps
    shown = run("methods").stdout
    assert "denoise_last=true, prior_sd=null" in " ".join(shown.split())


def test_tasks_as_json() -> None:
    result = run("tasks", "--json")
    succeeds(result)
    listed = {task["name"]: task for task in json.loads(result.output)}
    assert set(listed) == set(TASKS)
    shake = [("length", 15), ("angle", 30), ("border", "circular")]
    assert listed["deblur-motion"]["arguments"] == [{"name": name, "default": value} for name, value in shake]
    assert listed["inpaint"]["arguments"] == [{"name": "mask", "required": True}]
    assert listed["inpaint"]["summary"] == TASKS["inpaint"].summary


# --- every task ------------------------------------------------------------------------------------------------------


def extra(task: str, folder: Path) -> list[object]:
    if task == "inpaint":
        mask = np.full((32, 32), 255, np.uint8)
        mask[8:16, 4:20] = 0
        Image.fromarray(mask).save(folder / "mask.png")
        return ["--mask", folder / "mask.png"]
    if task == "deblur":
        Image.fromarray(np.array([[0, 50, 0], [50, 100, 50], [0, 50, 0]], np.uint8)).save(folder / "kernel.png")
        return ["--kernel", folder / "kernel.png"]
    return []


@pytest.mark.parametrize("task", [task for task in TASKS if task != "jpeg"])
def test_every_task_there_and_back(task: str, restore: Restore, tmp_path: Path) -> None:
    """Degrade and restore; degraded again, the restored picture is the measurement again."""
    clean = picture(tmp_path / "clean.png", side=32)
    words = ["--task", task, *extra(task, tmp_path)]
    succeeds(run("degrade", clean, "-o", tmp_path / "y.npy", *words))
    succeeds(restore(tmp_path / "y.npy", "-o", tmp_path / "x.npy", *words))
    assert np.load(tmp_path / "x.npy").shape == (3, 32, 32)
    succeeds(run("degrade", tmp_path / "x.npy", "-o", tmp_path / "again.npy", *words))
    # What singular values near the threshold carry is known to a few thousandths only.
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), np.load(tmp_path / "y.npy"), atol=5e-3)


def test_a_jpeg_is_measured_and_restored_by_its_method(restore: Restore, tmp_path: Path) -> None:
    clean = picture(tmp_path / "clean.png", side=32)
    words = ["--task", "jpeg", "--operator-arg", "quality=10", "--operator-arg", "subsampled=false"]
    succeeds(run("degrade", clean, "-o", tmp_path / "y.png", *words))
    Image.open(clean).convert("RGB").save(tmp_path / "y.jpg", quality=10, subsampling=0)
    coded, measured = (np.asarray(Image.open(tmp_path / name)) for name in ("y.jpg", "y.png"))
    np.testing.assert_array_equal(measured, coded)
    succeeds(restore(tmp_path / "y.png", "-o", tmp_path / "x.png", *words))
    refused = restore(tmp_path / "y.png", "-o", tmp_path / "x.png", *words, "--method", "ddrm")
    fails(refused, 1, "DDRMScheduler can't restore from", "it isn't linear. Methods that can: ddrm-jpeg")
    fails(run("degrade", clean, "-o", tmp_path / "z.png", "--task", "jpeg"), 2, "--operator-arg quality=...")


def test_arguments_reach_the_operator(tmp_path: Path) -> None:
    clean = picture(tmp_path / "clean.png")
    words = ["--operator-arg", "sigma=1.5", "--operator-arg", "taps=3", "--operator-arg", "border=circular"]
    succeeds(run("degrade", clean, "-o", tmp_path / "y.npy", "--task", "deblur-gauss", *words))
    operator = diffusers_restore.operators.create(
        "deblur-gauss", image_shape=(3, SIDE, SIDE), sigma=1.5, taps=3, border="circular"
    )
    expected = operator.forward(images.load(clean).tensor)[0]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected.numpy())


def test_kernel_files(tmp_path: Path) -> None:
    clean = picture(tmp_path / "clean.png")
    weights = np.array([[0, 1, 2], [0, 4, 0], [0, 0, 1]])
    np.save(tmp_path / "k.npy", weights / weights.sum())
    Image.fromarray((weights * 60).astype(np.uint8)).save(tmp_path / "k.png")
    for suffix in ("npy", "png"):
        out = tmp_path / f"from-{suffix}.npy"
        succeeds(run("degrade", clean, "-o", out, "--task", "deblur", "--kernel", tmp_path / f"k.{suffix}"))
    np.testing.assert_allclose(np.load(tmp_path / "from-npy.npy"), np.load(tmp_path / "from-png.npy"), atol=1e-6)


@pytest.mark.parametrize("kind", ["black", "coloured", "pickle", "text", "complex", "empty"])
def test_bad_kernel_files(kind: str, tmp_path: Path) -> None:
    kernel = tmp_path / ("k.png" if kind in ("black", "coloured") else "k.npy")
    if kind == "black":
        Image.new("L", (3, 3)).save(kernel)
    elif kind == "coloured":
        Image.new("RGB", (3, 3), "red").save(kernel)
    elif kind == "pickle":
        np.save(kernel, np.array([{"a": 1}], dtype=object))
    elif kind == "text":
        np.save(kernel, np.array(["a", "b"]))
    elif kind == "complex":
        np.save(kernel, np.full((2, 2), 0.25 + 0j))
    else:
        kernel.touch()
    clean = picture(tmp_path / "clean.png")
    fails(run("degrade", clean, "-o", tmp_path / "y.png", "--task", "deblur", "--kernel", kernel), 1, "--kernel", "k.")


# --- one picture -----------------------------------------------------------------------------------------------------


def test_one_file(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "photo.png")
    result = restore(source, "-o", tmp_path / "deep" / "er" / "out.png", "--task", "sr2")
    succeeds(result)
    assert result.stdout.startswith(f"{source} -> {tmp_path / 'deep' / 'er' / 'out.png'}  32x32  ")
    assert result.stdout.endswith(" s\n")
    assert result.stdout.count("\n") == 1
    assert names(tmp_path) == ["deep/er/out.png", "photo.png"]


def test_the_result_is_that_of_the_pipeline(restore: Restore, model: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "photo.png")
    words = ["--task", "sr2", "--sigma-y", 0.1, "--eta", 0.7, "--eta-b", 0.5, "--seed", 5]
    succeeds(restore(source, "-o", tmp_path / "out.npy", *words))
    pipe = diffusers_restore.DDRMPipeline.from_pretrained(str(model))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    expected = pipe(
        Image.open(source), "sr2", 0.1, STEPS, eta=0.7, eta_b=0.5, generator=generator, output_type="latent"
    ).images
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected[0].numpy())


@pytest.mark.parametrize(
    ("bits", "noise"), [(8, 2 / 255 / 12**0.5), (16, 2 / 65535 / 12**0.5), (32, 0)], ids=["8", "16", "npy"]
)
def test_sigma_y_auto_is_the_rounding_noise(
    bits: int, noise: float, restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    call, etas = diffusers_restore.DDRMPipeline.__call__, []

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["sigma_y"])
        etas.append(kwargs["eta"])
        return call(self, *args, **kwargs)

    monkeypatch.setattr(diffusers_restore.DDRMPipeline, "__call__", spy)
    source = tmp_path / ("y.npy" if bits == 32 else "y.png")
    images.save(torch.zeros(3, SIDE, SIDE), source, bits=bits)
    words = [source, "-o", tmp_path / "out.png"]
    succeeds(restore(*words, "--method", "ddrm"))
    succeeds(restore(*words, "--method", "ddrm", "--sigma-y", "0.25"))
    succeeds(restore(*words))
    assert seen == pytest.approx([noise, 0.25, noise], rel=1e-12)
    assert etas == [1.0, None, None]  # what is taken as exact is better so: benchmarks/results/quality.md


def test_sigma_y_auto_of_a_jpeg_is_what_its_coding_took(
    restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To steps of 19 %; where pixels that are there may not change, or the coding is the task, it is the rounding."""
    seen: list[float] = []
    monkeypatch.setattr(
        diffusers_restore.DDRMPipeline,
        "__call__",
        lambda self, image, **options: (seen.append(options["sigma_y"]), (image,))[1],
    )
    with Image.open(Path(diffusers_restore.DEFAULT_PRIOR).parent / "photos" / "chelsea.png") as photo:
        photo.crop((40, 60, 104, 124)).save(tmp_path / "y.jpg", quality=50)
        photo.convert("L").crop((40, 60, 104, 124)).save(tmp_path / "grey.jpg", quality=50)
    Image.open(tmp_path / "y.jpg").save(tmp_path / "y.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    picture = images.load(tmp_path / "y.jpg")
    out = ("-o", tmp_path / "out.png")
    succeeds(said := restore(tmp_path / "y.jpg", *out, "--task", "denoise"))
    assert "what JPEG took counts as noise of " in said.output
    succeeds(restore(tmp_path / "y.jpg", *out, "--task", "inpaint", "--mask", tmp_path / "mask.png"))
    succeeds(restore(tmp_path / "y.jpg", *out, "--task", "jpeg", "--operator-arg", "quality=50"))
    succeeds(restore(tmp_path / "grey.jpg", *out, "--task", "colorize"))
    succeeds(restore(tmp_path / "y.png", *out, "--task", "denoise"))
    loss = jpeg_loss(picture.tensor, picture.jpeg)
    assert loss > 0.01
    assert abs(math.log2(seen[0] / loss)) <= 1 / 8
    assert seen[1:] == pytest.approx([2 / 255 / 12**0.5] * 4)


def test_transparency_is_put_back(restore: Restore, tmp_path: Path) -> None:
    pixels = levels(channels=4)
    pixels[..., 3] = np.arange(SIDE, dtype=np.uint8) * 16
    Image.fromarray(pixels).save(tmp_path / "a.png")
    succeeds(restore(tmp_path / "a.png", "-o", tmp_path / "b.png"))
    with Image.open(tmp_path / "b.png") as out:
        assert out.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(out)[..., 3], pixels[..., 3])
    fails(restore(tmp_path / "a.png", "-o", tmp_path / "b.jpg"), 1, "a.png: the picture has transparency, which .jpg")
    assert not (tmp_path / "b.jpg").exists()
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    succeeds(restore(tmp_path / "opaque.png", "-o", tmp_path / "opaque.jpg"))


def test_sixteen_bits_stay(restore: Restore, tmp_path: Path) -> None:
    deep = torch.from_numpy(levels(bits=16).astype(np.float32) / 65535 * 2 - 1).permute(2, 0, 1)
    for suffix in ("png", "tif"):
        source, target = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
        images.save(deep, source, bits=16)
        succeeds(restore(source, "-o", target, "--sigma-y", 0))
        out = images.load(target)
        assert out.bits == 16
        assert float((out.tensor - deep).abs().max()) < 1e-4  # of 4e-3 between two levels of 8 bits


def test_grey_on_a_colour_network_stays_grey(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", channels=1)
    succeeds(restore(source, "-o", tmp_path / "b.png", "--task", "sr2"))
    succeeds(restore(source, "-o", tmp_path / "c.png", "--task", "inpaint-random", "--operator-arg", "missing=0.2"))
    for name in ("b.png", "c.png"):
        with Image.open(tmp_path / name) as out:
            assert out.mode == "L"


def test_a_damage_that_nobody_described_is_told(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    words = (source, "-o", tmp_path / "b.png", "--task", "deblur-gauss")
    photograph = "border=reflect: operator-arg sets others; border=inside is that of a photograph"
    assert restore(*words).stdout.endswith(f"  assumed sigma=10, taps=5, {photograph}\n")
    assert restore(*words, "--operator-arg", "sigma=2").stdout.endswith(f"  assumed taps=5, {photograph}\n")
    words = (*words, "--operator-arg", "sigma=2", "--operator-arg", "taps=3")
    assert restore(*words).stdout.endswith(f"  assumed {photograph}\n")
    told = restore(*words, "--operator-arg", "border=zero").stdout
    assert "by default" not in told + restore(source, "-o", tmp_path / "b.png").stdout


def test_colour_on_a_grey_network(restore: Restore, grey_model: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    succeeds(restore(source, "-o", tmp_path / "b.png", "--task", "sr2", "--model", grey_model))
    with Image.open(tmp_path / "b.png") as out:
        assert (out.mode, out.size) == ("RGB", (32, 32))


def test_colorize(restore: Restore, tmp_path: Path) -> None:
    grey = picture(tmp_path / "grey.png", channels=1)
    Image.open(grey).convert("RGB").save(tmp_path / "rgb.png")
    for name in ("grey", "rgb"):
        succeeds(restore(tmp_path / f"{name}.png", "-o", tmp_path / f"{name}-out.png", "--task", "colorize"))
    assert (tmp_path / "grey-out.png").read_bytes() == (tmp_path / "rgb-out.png").read_bytes()
    with Image.open(tmp_path / "grey-out.png") as out:
        assert out.mode == "RGB"
    colours = picture(tmp_path / "colours.png")
    fails(
        restore(colours, "-o", tmp_path / "x.png", "--task", "colorize"),
        1,
        "the picture has colours, or a tint such as sepia",
    )
    fails(run("degrade", grey, "-o", tmp_path / "x.png", "--task", "colorize"), 1, "the picture is grey already")


def test_method_arguments_as_python_writes_them(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    words = [source, "-o", tmp_path / "b.png", "--method", "daps"]
    succeeds(restore(*words, "--method-arg", "denoise_last=False", "--method-arg", "prior_sd=.5"))
    fails(restore(*words, "--method-arg", "prior_sd=much"), 2, "prior_sd must be a number > 0, got 'much'")
    wrong = restore(source, "-o", tmp_path / "b.png", "--method", "ddrm", "--method-arg", "eta=.5")
    fails(wrong, 2, "DDRMScheduler has no option 'eta'; it is --eta")
    same = restore(source, "-o", tmp_path / "b.png", "--method", "dpir", "--samples", 2)
    fails(same, 2, "--samples must be 1 for DPIRScheduler, which draws nothing")


def test_seeds_and_samples(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    words = ["--task", "sr2", "--sigma-y", 0.1, "--method", "ddrm"]
    result = restore(source, "-o", tmp_path / "s.png", *words, "--samples", 3, "--seed", 4)
    succeeds(result)
    assert f"{tmp_path / 's-1.png'} ... s-3.png" in result.stdout
    for seed, name in ((4, "s-1"), (5, "s-2"), (6, "s-3")):
        succeeds(restore(source, "-o", tmp_path / "single.png", *words, "--seed", seed))
        assert (tmp_path / "single.png").read_bytes() == (tmp_path / f"{name}.png").read_bytes()
    assert (tmp_path / "s-1.png").read_bytes() != (tmp_path / "s-2.png").read_bytes()
    assert names(tmp_path) == ["a.png", "s-1.png", "s-2.png", "s-3.png", "single.png"]


def test_the_method_that_suits_the_task(model: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    words = [
        "restore",
        source,
        "-o",
        tmp_path / "b.png",
        "--model",
        model,
        "--device",
        "cpu",
        "--steps",
        2,
        "--verbose",
    ]
    grey = picture(tmp_path / "grey.png", channels=1)
    quality = ["--operator-arg", "quality=50"]
    for more, chosen in (
        (["--task", "sr2"], "DPIR"),
        (["--task", "sr2", "--method", "auto"], "DPIR"),
        (["--task", "sr2", "--eta", 0.5], "DDRM"),
        (["--task", "sr2", "--samples", 2], "DDRM"),
        (["--task", "jpeg", *quality], "DDRMJPEG"),
        (["--task", "jpeg", *quality, "--samples", 2], "DDRMJPEG"),
        (["--task", "sr2", "--method", "ilvr"], "ILVR"),
    ):
        told = run(*words, *more)
        assert told.exit_code == 0, told.output
        assert f"; {chosen}Scheduler, task" in told.stderr, more
    told = run("restore", grey, "-o", tmp_path / "c.png", *words[4:], "--task", "colorize")
    assert "; DDRMScheduler, task colorize" in told.stderr
    for side, method in ((8, "dpir"), (14, "ddrm")):  # the sides of a hole
        mask = Image.new("L", (SIDE, SIDE), 255)
        mask.paste(0, (1, 1, 1 + side, 1 + side))
        mask.save(tmp_path / "mask.png")
        told = run(*words, "--task", "inpaint", "--mask", tmp_path / "mask.png")
        assert ("wide holes, filled by ddrm" in told.stdout) == (method == "ddrm"), told.output
    pipe = diffusers_restore.DDRMPipeline.from_pretrained(model)
    pipe.scheduler = diffusers_restore.ILVRScheduler.from_config(pipe.scheduler.config, stop=0.5)
    pipe.save_pretrained(tmp_path / "with_ilvr")
    of_model = [tmp_path / "with_ilvr" if word == model else word for word in words]
    assert "; ILVRScheduler, task sr2" in run(*of_model, "--task", "sr2").stderr
    assert "; DPIRScheduler, task sr2" in run(*of_model, "--task", "sr2", "--method", "auto").stderr


def test_average(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    words = ["--task", "sr2", "--samples", 3]
    succeeds(restore(source, "-o", tmp_path / "s.npy", *words))
    succeeds(restore(source, "-o", tmp_path / "mean.npy", *words, "--average"))
    mean = np.mean([np.load(tmp_path / f"s-{i}.npy") for i in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(np.load(tmp_path / "mean.npy"), mean, atol=1e-6)
    fails(restore(source, "-o", tmp_path / "x.png", "--average"), 2, "--average needs --samples N")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(dtype: str, restore: Restore, tmp_path: Path) -> None:
    succeeds(restore(picture(tmp_path / "a.png"), "-o", tmp_path / "b.png", "--dtype", dtype))
    assert (tmp_path / "b.png").exists()


@pytest.mark.as_chosen
@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"), ({}, "float32")],
)
def test_networks_are_as_precise_as_the_cpu_is_fast(
    capabilities: dict[str, bool], expected: str, restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    seen = []
    forward = UNet2DModel.forward

    def watched(self: UNet2DModel, *args: Any, **options: Any) -> Any:
        weight = self.conv_in.weight
        seen.append((str(weight.dtype), weight.is_contiguous(memory_format=torch.channels_last)))
        return forward(self, *args, **options)

    monkeypatch.setattr(UNet2DModel, "forward", watched)
    succeeds(restore(picture(tmp_path / "a.png"), "-o", tmp_path / "b.png"))
    assert set(seen) == {(f"torch.{expected}", True)}
    seen.clear()
    succeeds(restore(picture(tmp_path / "a.png"), "-o", tmp_path / "c.png", "--dtype", "float32"))
    assert set(seen) == {("torch.float32", True)}


@pytest.mark.as_chosen
def test_cold_diffusion_on_a_cpu_is_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert find_dtype("auto", torch.device("cpu"), COLD) == torch.float32
    assert find_dtype("auto", torch.device("cpu"), RDDM) == torch.bfloat16
    assert find_dtype("float16", torch.device("cpu"), COLD) == torch.float16


# --- many pictures ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them damaged, in a folder with spaces, accents and folders in it."""
    picture(tmp_path / "my phötos" / "a b.png", 1)
    picture(tmp_path / "my phötos" / "ünder" / "日本.jpg", 2)
    whole = picture(tmp_path / "my phötos" / "broken.png", 3)
    whole.write_bytes(whole.read_bytes()[:200])
    (tmp_path / "my phötos" / "notes.txt").write_text("no picture")
    picture(tmp_path / "my phötos" / ".hidden.png", 4)
    return tmp_path / "my phötos"


def test_a_folder_with_a_broken_picture(folder: Path, restore: Restore, tmp_path: Path) -> None:
    result = restore(folder, "-o", tmp_path / "out")
    fails(result, 1, f"{folder / 'broken.png'}: cannot read", f"1 of 3 failed: {folder / 'broken.png'};")
    assert names(tmp_path / "out") == ["a b.png", "ünder/日本.jpg"]
    assert result.stderr.count("\n") == 2
    assert result.stdout.count(" -> ") == 2


def test_alone_or_in_a_folder(folder: Path, restore: Restore, tmp_path: Path) -> None:
    restore(folder, "-o", tmp_path / "out", "--task", "sr2")
    succeeds(restore(folder / "ünder" / "日本.jpg", "-o", tmp_path / "alone.jpg", "--task", "sr2"))
    assert (tmp_path / "alone.jpg").read_bytes() == (tmp_path / "out" / "ünder" / "日本.jpg").read_bytes()


def test_the_output_folder_is_no_input(folder: Path, restore: Restore) -> None:
    (folder / "broken.png").unlink()
    (folder / "loop").symlink_to(folder)
    for _ in range(2):
        succeeds(restore(folder, "-o", folder / "restored"))
    assert names(folder / "restored") == ["a b.png", "ünder/日本.jpg"]


def test_patterns(folder: Path, restore: Restore, tmp_path: Path) -> None:
    succeeds(restore(f"{folder}/**/[a日]*.*", "-o", tmp_path / "out"))
    assert names(tmp_path / "out") == ["a b.png", "日本.jpg"]
    literal = picture(tmp_path / "photo[1].png")
    succeeds(restore(literal, "-o", tmp_path / "brackets/"))
    assert names(tmp_path / "brackets") == ["photo[1].png"]


def test_suffixes_in_a_folder(restore: Restore, tmp_path: Path) -> None:
    for suffix in ("bmp", "gif", "JPG", "tiff", "webp"):
        picture(tmp_path / "in" / f"{suffix}.{suffix}")
    images.save(torch.zeros(3, SIDE, SIDE), tmp_path / "in" / "npy.npy")
    succeeds(restore(tmp_path / "in", "-o", tmp_path / "out"))
    assert names(tmp_path / "out") == ["JPG.JPG", "bmp.png", "gif.png", "npy.png", "tiff.tiff", "webp.webp"]


def test_a_picture_without_the_memory_for_it_fails_alone(
    folder: Path, restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(folder / "large.png", 4, side=2 * SIDE)
    original = UNet2DModel.forward

    def allocated(self: UNet2DModel, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if sample.shape[-1] > SIDE:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return original(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNet2DModel, "forward", allocated)
    result = restore(folder, "-o", tmp_path / "out")
    fails(
        result, 1, f"large.png: not enough memory for {2 * SIDE}x{2 * SIDE} pixels", "another --device", "2 of 4 failed"
    )
    assert len(names(tmp_path / "out")) == 2


def test_names_that_the_console_lacks_are_spelled(model: Path, tmp_path: Path, python: Python) -> None:
    for name in ("a", "照片", "龍"):
        picture(tmp_path / "in" / f"{name}.png")
    words = ["restore", tmp_path / "in", "-o", tmp_path / "out", "--task", "denoise", "--model", model, "--steps", 2]
    console = "import sys; sys.stdout.reconfigure(encoding='cp1252', errors='strict')\n"
    code = f"{console}from diffusers_restore.cli import main; main(sys.argv[1:])"
    done = python.run("-c", code, *words, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "\\u9f8d.png" in done.stdout
    assert names(tmp_path / "out") == ["a.png", "照片.png", "龍.png"]


def test_what_is_no_pixel_is_kept_and_pages_that_are_not_read_are_told(restore: Restore, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(levels()).save(tmp_path / "a.jpg", dpi=(300, 300), icc_profile=profile)
    succeeds(restore(tmp_path / "a.jpg", "-o", tmp_path / "b.jpg"))
    with Image.open(tmp_path / "b.jpg") as restored:
        assert restored.info["icc_profile"] == profile
        assert restored.info["dpi"] == (300, 300)
    succeeds(run("degrade", tmp_path / "a.jpg", "-o", tmp_path / "c.png", "--task", "sr2"))
    with Image.open(tmp_path / "c.png") as degraded:
        assert degraded.info["icc_profile"] == profile
    pages = [Image.fromarray(levels(seed)) for seed in (1, 2)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    result = restore(tmp_path / "p.tif", "-o", tmp_path / "o.tif")
    assert result.exit_code == 0
    assert result.stderr == f"note: {tmp_path / 'p.tif'} holds 2 pages, of which the first is taken\n"


@pytest.mark.parametrize("task", ["denoise", "sr2", "inpaint-random", "deblur-gauss"])
def test_a_grey_picture_stored_as_rgb_stays_grey(task: str, restore: Restore, tmp_path: Path) -> None:
    grey = levels(3, channels=1)
    Image.fromarray(np.dstack([grey.squeeze()] * 3)).save(tmp_path / "rgb.png")
    Image.fromarray(grey.squeeze()).save(tmp_path / "grey.png")
    for name in ("rgb", "grey"):
        succeeds(restore(tmp_path / f"{name}.png", "-o", tmp_path / f"{name}-out.png", "--task", task))
    restored = np.asarray(Image.open(tmp_path / "rgb-out.png"))
    assert restored.ndim == 3
    assert np.ptp(restored, axis=-1).max() == 0
    np.testing.assert_allclose(restored[..., 0].astype(int), np.asarray(Image.open(tmp_path / "grey-out.png")), atol=1)


def test_what_is_nearly_grey_keeps_its_colours(restore: Restore, tmp_path: Path) -> None:
    tinted = np.dstack([levels(3, channels=1).squeeze()] * 3)
    tinted[2, 3, 0] += 4
    Image.fromarray(tinted).save(tmp_path / "a.png")
    succeeds(restore(tmp_path / "a.png", "-o", tmp_path / "b.png"))
    assert np.ptp(np.asarray(Image.open(tmp_path / "b.png")), axis=-1).max() > 0


def test_suffix_tables_are_those_of_images(tmp_path: Path) -> None:
    for suffix in WRITABLE_SUFFIXES:
        images.save(torch.zeros(3, 4, 4), tmp_path / f"a{suffix}")
    for suffix in ALPHA_SUFFIXES:
        images.save(torch.zeros(3, 4, 4), tmp_path / f"a{suffix}", alpha=torch.zeros(1, 1, 4, 4))
    assert set(WRITABLE_SUFFIXES) < readable_suffixes()


def test_results_of_one_name_are_refused(restore: Restore, tmp_path: Path) -> None:
    first, second = picture(tmp_path / "1" / "a.png"), picture(tmp_path / "2" / "a.png")
    fails(restore(first, second, "-o", tmp_path / "out"), 2, "would both be written to")
    fails(restore(tmp_path / "1", tmp_path / "2", "-o", tmp_path / "out"), 2, "would both be written to")
    assert not (tmp_path / "out").exists()
    succeeds(restore(first, tmp_path / "1" / "*.png", "-o", tmp_path / "out"))  # one file named twice


def test_pictures_that_differ_in_their_suffix(restore: Restore, tmp_path: Path) -> None:
    for name in ("scan.png", "scan.bmp", "scan.gif", "b.bmp"):
        picture(tmp_path / "in" / name)
    succeeds(restore(tmp_path / "in", "-o", tmp_path / "out"))
    assert names(tmp_path / "out") == ["b.png", "scan.bmp.png", "scan.gif.png", "scan.png"]


def test_an_input_is_never_overwritten(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    fails(restore(source, "-o", source), 2, "would overwrite the input")
    fails(restore(tmp_path, "-o", tmp_path), 2, "would overwrite the input")
    fails(run("degrade", source, "-o", tmp_path, "--task", "denoise"), 2, "would overwrite the input")
    assert source.read_bytes() == before


def test_skip_existing(restore: Restore, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", 1)
    picture(tmp_path / "in" / "b.png", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("kept")
    result = restore(tmp_path / "in", "-o", tmp_path / "out", "--skip-existing")
    succeeds(result)
    assert f"{tmp_path / 'in' / 'a.png'}: skipped, {tmp_path / 'out' / 'a.png'} exists" in result.stdout
    assert (tmp_path / "out" / "a.png").read_text() == "kept"
    assert names(tmp_path / "out") == ["a.png", "b.png"]
    succeeds(restore(tmp_path / "in", "-o", tmp_path / "out", "--skip-existing", "--model", "no/such/model"))
    succeeds(restore(tmp_path / "in", "-o", tmp_path / "out"))
    assert (tmp_path / "out" / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_stopped_run_of_samples_goes_on(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    succeeds(restore(source, "-o", tmp_path / "whole/", "--samples", 3))
    succeeds(restore(source, "-o", tmp_path / "part/", "--samples", 3))
    (tmp_path / "part" / "a-2.png").unlink()
    (tmp_path / "part" / "a-3.png").write_text("kept")
    succeeds(restore(source, "-o", tmp_path / "part/", "--samples", 3, "--skip-existing"))
    assert (tmp_path / "part" / "a-2.png").read_bytes() == (tmp_path / "whole" / "a-2.png").read_bytes()
    assert (tmp_path / "part" / "a-3.png").read_text() == "kept"


def test_an_interruption_leaves_no_files(restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "in" / "a.png")

    def interrupted(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusers_restore.images.os.fsync", interrupted)
    result = restore(tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert "stopped: 0 of 1 done; the same command with --resume goes on" in result.stderr
    assert names(tmp_path / "out") == []


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--task", "sr5"], ["no task named 'sr5'; did you mean 'sr", "colorize, cs2"]),
        (["--task", "deblur-gauss", "--operator-arg", "sigam=2"], ["no argument 'sigam'; it has: sigma, taps, border"]),
        (["--task", "sr4", "--operator-arg", "factor=2"], ["no argument 'factor'; it has: none"]),
        (["--operator-arg", "sigma"], ["expected k=v, such as sigma=2.5, got 'sigma'"]),
        (["--operator-arg", "=2"], ["expected k=v"]),
        (["--operator-arg", "mask=a.png"], ["give the mask as a file: --mask FILE"]),
        (
            ["--task", "inpaint-box", "--operator-arg", "side=1", "--operator-arg", "side=0.5"],
            ["side is given twice"],
        ),
        (["--task", "inpaint"], ["the task inpaint needs --mask, a file"]),
        (["--task", "deblur"], ["the task deblur needs --kernel, a file"]),
        (["--task", "inpaint-box", "--mask", "in.png"], ["takes no --mask; it is for: inpaint\n"]),
        (["--task", "sr4", "--kernel", "in.png"], ["takes no --kernel; it is for: deblur\n"]),
        (["--task", "inpaint", "--mask", "absent.png"], ["'absent.png' does not exist"]),
        (["--steps", "0"], ["'--steps'", "0 is not in the range x>=1"]),
        (["--steps", "-1"], ["'--steps'", "-1 is not in the range x>=1"]),
        (["--steps", "2.5"], ["'--steps'", "'2.5' is not a valid integer"]),
        (["--steps", "2000"], ["--steps must be a", "whole number >= 1 and <= 1000, got 2000"]),
        (["--eta", "1.5"], ["'--eta'", "eta must be a number >= 0 and <= 1, got 1.5"]),
        (["--eta-b", "nan"], ["'--eta-b'", "eta_b must be a number >= 0 and <= 1, got nan"]),
        (["--sigma-y", "-1"], ["'--sigma-y'", "expected auto or a number >= 0, got '-1'"]),
        (["--sigma-y", "nan"], ["'--sigma-y'", "expected auto or a number >= 0, got 'nan'"]),
        (["--sigma-y", "some"], ["'--sigma-y'", "expected auto or a number >= 0, got 'some'"]),
        (["--samples", "0"], ["'--samples'"]),
        (["--seed", "-1"], ["'--seed'"]),
        (["--max-pixels", "0"], ["'--max-pixels'"]),
        (["--device", "cuda:99"], ["no device 'cuda:99' here; there are: auto", "cpu"]),
        (["--dtype", "int8"], ["'--dtype'", "bfloat16"]),
        (["--stepz", "3"], ["--stepz", "--steps"]),
        (["absent.png"], ["there is no file or folder 'absent.png'"]),
        (["*.tif"], ["no pictures of the pattern '*.tif'; they end in .png"]),
        (["empty"], ["no pictures in the folder 'empty'"]),
        (["second.png"], ["is the name of one file"]),
    ],
)
def test_mistakes_in_use(
    words: list[str], messages: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "in.png")
    picture(tmp_path / "second.png")
    (tmp_path / "empty").mkdir()
    task = [] if "--task" in words else ["--task", "denoise"]
    device = [] if "--device" in words else ["--device", "cpu"]
    result = run("restore", "in.png", "-o", "out.png", "--model", model, *task, *device, *words)
    fails(result, 2, *messages)
    assert names(tmp_path) == ["in.png", "second.png"]


@pytest.mark.parametrize("output", ["out.xyz", "out.gif"])
def test_a_suffix_that_cannot_be_written(output: str, restore: Restore, tmp_path: Path) -> None:
    fails(restore(picture(tmp_path / "a.png"), "-o", tmp_path / output), 2, "must be one of .png, .jpg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "sr4", "--max-pixels", "100"], "a.png: cannot read"),
        (["--task", "sr4", "--max-pixels", "300"], "a.png: the restored picture would have 64 x 64 pixels"),
        (["--task", "cs2"], "a.png: a measurement for the task cs2 is no picture; a .npy file is expected"),
        (["--task", "deblur-gauss", "--operator-arg", "sigma=wide"], "a.png: sigma must be a number > 0, got 'wide'"),
        (["--task", "deblur-gauss", "--operator-arg", "border=open"], "a.png: no border named 'open'"),
        (["--task", "inpaint-box", "--operator-arg", "side=1e3"], "a.png: side must be a number >= 0 and <= 1"),
        (["--sigma-y", "1000"], "a.png: sigma_y must be at most"),
    ],
)
def test_what_a_picture_cannot_do(words: list[str], message: str, restore: Restore, tmp_path: Path) -> None:
    result = restore(picture(tmp_path / "a.png"), "-o", tmp_path / "out.png", *words)
    fails(result, 1, message)
    assert result.stderr.count("\n") == 1
    assert names(tmp_path) == ["a.png"]


def test_masks_that_do_not_fit(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    Image.new("L", (SIDE, SIDE + 1), 255).save(tmp_path / "size.png")
    Image.new("L", (SIDE, SIDE), 0).save(tmp_path / "black.png")
    for name, message in (
        ("size", "a.png: --mask has 16x17 pixels, the picture has 16x16"),
        ("black", "a.png: mask keeps no pixel"),
    ):
        words = ["--task", "inpaint", "--mask", tmp_path / f"{name}.png"]
        fails(restore(source, "-o", tmp_path / "out.png", *words), 1, message)


@pytest.mark.parametrize("kind", ["no/such/folder", "not a name", "empty folder", "broken json", "truncated weights"])
def test_models_that_cannot_be_loaded(kind: str, model: Path, restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    named = kind
    if kind == "empty folder":
        (tmp_path / "model").mkdir()
        named = str(tmp_path / "model")
    elif kind in ("broken json", "truncated weights"):
        named = str(tmp_path / "model")
        for file in model.rglob("*"):
            if file.is_file():
                copy = tmp_path / "model" / file.relative_to(model)
                copy.parent.mkdir(parents=True, exist_ok=True)
                size = 20 if file.name == "model_index.json" and kind == "broken json" else None
                size = 5000 if file.suffix == ".safetensors" and kind == "truncated weights" else size
                copy.write_bytes(file.read_bytes()[:size])
    result = restore(source, "-o", tmp_path / "out.png", "--model", named)
    fails(result, 1, "Error: --model", named)
    assert result.stderr.splitlines()[-1].startswith("Error: --model")


def test_output_that_cannot_be_written(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    (tmp_path / "file").touch()
    fails(restore(source, "-o", tmp_path / "file" / "out.png"), 1, "Error: cannot make the folder")
    (tmp_path / "out.png").mkdir()
    (tmp_path / "out.png" / "a.png").mkdir()
    fails(restore(source, "-o", tmp_path / "out.png"), 1, "a.png: cannot write")
    assert names(tmp_path) == ["a.png", "file"]


# --- degrade ---------------------------------------------------------------------------------------------------------


def test_degrade_a_folder(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.jpg", side=16)
    picture(tmp_path / "in" / "deep" / "b.png", side=18)
    result = run("degrade", tmp_path / "in", "-o", tmp_path / "out", "--task", "sr4")
    message = "cannot measure 18 x 18 pixels: factor must divide the image's height 18, got 4; 16 x 16 would fit"
    fails(result, 1, message, "1 of 2 failed")
    assert names(tmp_path / "out") == ["a.png"]
    succeeds(run("degrade", tmp_path / "in", "-o", tmp_path / "out", "--task", "sr4", "--crop"))
    assert names(tmp_path / "out") == ["a.png", "deep/b.png"]
    whole = images.load(tmp_path / "in" / "deep" / "b.png").tensor[:, :, 1:17, 1:17]
    means = torch.nn.functional.avg_pool2d(whole, 4)
    assert float((images.load(tmp_path / "out" / "deep" / "b.png").tensor - means).abs().max()) < 1.01 / 255


def test_degrade_is_what_measure_gives(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    words = ["--task", "sr2", "--sigma-y", 0.5, "--seed", 3]
    succeeds(run("degrade", source, "-o", tmp_path / "y.npy", *words))
    operator = diffusers_restore.operators.create("sr2", image_shape=(3, SIDE, SIDE))
    x = images.load(source).tensor
    y = diffusers_restore.measure(operator, x, 0.5, torch.Generator().manual_seed(3)).y
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), y[0].numpy())
    rounded = run("degrade", source, "-o", tmp_path / "y.png", *words)
    assert rounded.exit_code == 0
    assert rounded.stderr == "note: noise was clipped and rounded; -o NAME.npy keeps the exact numbers\n"
    assert float((images.load(tmp_path / "y.png").tensor - y.clamp(-1, 1)).abs().max()) < 1.01 / 255


def test_degrade_compressed_sensing_gives_numbers(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    succeeds(run("degrade", source, "-o", tmp_path / "out/", "--task", "cs2"))
    assert names(tmp_path / "out") == ["a.npy"]
    result = run("degrade", source, "-o", tmp_path / "y.png", "--task", "cs2")
    fails(result, 1, "a.png: a measurement for the task cs2 is no picture; write it to a .npy file")


# --- sample ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sample(model: Path) -> Restore:
    """Run `sample` on the CPU."""

    def sample(*words: object, model: Path = model) -> Result:
        if "--steps" not in words:
            words = (*words, "--steps", STEPS)
        return run("sample", model, *words, "--device", "cpu")

    return sample


def stock(sampler: str, unet: UNet2DModel, scheduler: Any, seeds: list[int], steps: int = STEPS) -> list[Any]:
    """What diffusers' own pipeline draws in one batch, as arrays of bytes."""
    pipe = DDIMPipeline(unet, scheduler) if sampler == "ddim" else DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return [np.asarray(p) for p in pipe(len(seeds), generator=generators, num_inference_steps=steps).images]


def cells(path: Path, columns: int, width: int = SIDE, height: int = SIDE) -> list[Any]:
    """The pictures of a grid, row by row, once it is sure that what lies between them is white."""
    with Image.open(path) as opened:
        sheet = np.array(opened).astype(int)
    assert (sheet.shape[1] + 2) % (width + 2) == (sheet.shape[0] + 2) % (height + 2) == 0
    assert sheet.shape[1] == columns * (width + 2) - 2
    tops, lefts = range(0, sheet.shape[0], height + 2), range(0, sheet.shape[1], width + 2)
    found = [sheet[top : top + height, left : left + width].copy() for top in tops for left in lefts]
    for top in tops:
        for left in lefts:
            sheet[top : top + height, left : left + width] = 255
    assert (sheet == 255).all()
    return found


def test_help_of_sample_imports_nothing_heavy() -> None:
    test_help_imports_nothing_heavy(["sample", "--help"])


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 3, 8, 8), (8, 8)),
        ((2, 3, 8, 8), (8, 18)),
        ((3, 1, 8, 8), (18, 18)),
        ((5, 3, 8, 8), (18, 28)),
        ((16, 3, 8, 8), (38, 38)),
        ((4, 3, 4, 16), (22, 16)),
        ((3, 3, 16, 4), (16, 16)),
    ],
)
def test_a_grid_is_nearly_square(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert images.grid(torch.zeros(shape)).shape == (shape[1], *size)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_are_those_of_diffusers(sampler: str, sample: Restore, model: Path, tmp_path: Path) -> None:
    result = sample("-o", tmp_path / "new" / "g.png", "-n", 3, "--sampler", sampler, "--seed", 7, "--batch-size", 3)
    succeeds(result)
    assert result.stdout.startswith(f"{tmp_path / 'new' / 'g.png'}  3 pictures of 16x16  ")
    assert result.stdout.endswith(" s\n")
    unet = UNet2DModel.from_pretrained(model / "unet")
    *drawn, empty = cells(tmp_path / "new" / "g.png", columns=2)
    assert (empty == 255).all()
    np.testing.assert_array_equal(drawn, stock(sampler, unet, DDPMScheduler(), [7, 8, 9]))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_sample_is_the_same_among_any_others(sampler: str, sample: Restore, tmp_path: Path) -> None:
    for number, batch in ((4, 3), (2, 1)):
        words = ["-n", number, "--batch-size", batch, "--sampler", sampler]
        succeeds(sample("-o", tmp_path / f"{number}.png", *words))
    four, two = cells(tmp_path / "4.png", columns=2), cells(tmp_path / "2.png", columns=2)
    assert max(np.abs(four[i] - two[i]).max() for i in range(2)) <= 1
    assert min(np.abs(four[i] - four[j]).max() for i in range(4) for j in range(i)) > 10  # seeds differ
    succeeds(sample("-o", f"{tmp_path / 'folder'}/", "-n", 2, "--sampler", sampler))
    assert names(tmp_path / "folder") == ["0000.png", "0001.png"]
    for i in range(2):
        with Image.open(tmp_path / "folder" / f"000{i}.png") as alone:
            np.testing.assert_array_equal(np.asarray(alone), two[i])


def test_samples_of_a_grey_network(sample: Restore, grey_model: Path, tmp_path: Path) -> None:
    succeeds(sample("-o", tmp_path / "g.png", "-n", 2, model=grey_model))
    unet = UNet2DModel.from_pretrained(grey_model / "unet")
    drawn = cells(tmp_path / "g.png", columns=2)
    for i in range(2):
        np.testing.assert_array_equal(drawn[i], stock("ddim", unet, DDPMScheduler(), [i])[0])


def test_samples_of_a_network_with_a_learned_variance(sample: Restore, write_repo: WriteRepo, tmp_path: Path) -> None:
    unet, scheduler = make_unet(out_channels=6), DDPMScheduler(variance_type="learned_range")
    folder = write_repo(unet, scheduler)
    succeeds(sample("-o", tmp_path / "ddpm.png", "-n", 1, "--sampler", "ddpm", model=folder))
    loaded = UNet2DModel.from_pretrained(folder / "unet")
    np.testing.assert_array_equal(cells(tmp_path / "ddpm.png", 1), stock("ddpm", loaded, scheduler, [0]))

    mean = make_unet()
    weights = unet.state_dict()
    mean.load_state_dict({name: w[:3] if name.startswith("conv_out") else w for name, w in weights.items()})
    fixed = write_repo(unet, name="fixed")
    for sampler, repo in (("ddim", folder), ("ddim", fixed), ("ddpm", fixed)):
        succeeds(sample("-o", tmp_path / "mean.png", "-n", 1, "--sampler", sampler, model=repo))
        expected = stock(sampler, mean, DDPMScheduler(), [0])[0].astype(int)
        assert np.abs(cells(tmp_path / "mean.png", 1)[0] - expected).max() <= 1


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_scheduler_is_that_of_the_repository(
    sampler: str, sample: Restore, write_repo: WriteRepo, tmp_path: Path
) -> None:
    """Its schedule, prediction and clipping, whatever kind it is; the kind is the one that was asked for."""
    options: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    options |= {"clip_sample_range": 0.5, "timestep_spacing": "trailing"}
    folder = write_repo(make_unet(), DDIMScheduler(**options), pipeline="DDIMPipeline", at_root=True)
    succeeds(sample("-o", tmp_path / "g.png", "-n", 1, "--sampler", sampler, "--steps", 3, model=folder))
    expected = stock(sampler, UNet2DModel.from_pretrained(folder), DDPMScheduler(**options), [0], 3)
    np.testing.assert_array_equal(cells(tmp_path / "g.png", 1), expected)


def test_sizes_of_samples(sample: Restore, model: Path, write_repo: WriteRepo, tmp_path: Path) -> None:
    unet = UNet2DModel.from_pretrained(model / "unet")
    unet.register_to_config(sample_size=(8, 12))  # (height, width)
    expected = stock("ddim", unet, DDPMScheduler(), [0])
    succeeds(sample("-o", tmp_path / "asked.png", "-n", 1, "--size", "12x8"))
    succeeds(sample("-o", tmp_path / "own.png", "-n", 1, model=write_repo(unet)))
    for name in ("asked", "own"):
        np.testing.assert_array_equal(cells(tmp_path / f"{name}.png", 1, 12, 8), expected)
    assert json.loads((model / "unet" / "config.json").read_text())["sample_size"] == SIDE

    unet.register_to_config(sample_size=None)
    unsized = write_repo(unet, name="unsized")
    fails(sample("-o", tmp_path / "x.png", model=unsized), 2, "does not say for which size it is made; give --size")
    succeeds(sample("-o", tmp_path / "x.png", "-n", 1, "--size", 8, model=unsized))


def test_samples_of_the_default_prior(tmp_path: Path) -> None:
    result = run("sample", "-o", tmp_path / "g.png", "-n", 1, "--steps", 2, "--size", 32, "--device", "cpu")
    succeeds(result)
    assert "g.png  1 picture of 32x32  " in result.stdout
    with Image.open(tmp_path / "g.png") as drawn:
        assert (drawn.size, drawn.mode) == ((32, 32), "RGB")
    words = ["-o", tmp_path / "x.png", "--device", "cpu", "--size"]
    fails(run("sample", *words, "60x64"), 2, "takes multiples of 16, got 60x64; next to it: 48x64 and 64x64")
    fails(run("sample", *words, 3), 2, "takes multiples of 16, got 3x3; next to it: 16x16\n")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_samples_in_half_precision(dtype: str, sample: Restore, tmp_path: Path) -> None:
    succeeds(sample("-o", tmp_path / "half.png", "-n", 2, "--dtype", dtype, "--sampler", "ddpm"))
    succeeds(sample("-o", tmp_path / "full.png", "-n", 2, "--sampler", "ddpm"))
    half, full = (np.array(cells(tmp_path / f"{name}.png", 2)) for name in ("half", "full"))
    assert 0 < np.abs(half - full).mean() < 3  # the noise is the same


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--size", "0"], ["'--size'", "expected a number of pixels, or WIDTHxHEIGHT such as 96x64, got '0'"]),
        (["--size", "-8"], ["'--size'", "got '-8'"]),
        (["--size", "8x"], ["'--size'", "got '8x'"]),
        (["--size", "8x8x8"], ["'--size'", "got '8x8x8'"]),
        (["--size", "wide"], ["'--size'", "got 'wide'"]),
        (["--size", "15"], ["--size: the network", "takes multiples of 2, got 15x15; next to it: 14x14 and 16x16"]),
        (["--steps", "2000"], ["--steps must be a", "whole number >= 1 and <= 1000, got 2000"]),
        (["-n", "0"], ["'--number'", "0 is not in the range x>=1"]),
        (["--batch-size", "0"], ["'--batch-size'"]),
        (["--sampler", "pndm"], ["'--sampler'", "ddim"]),
        (["--device", "cuda:99"], ["no device 'cuda:99' here"]),
        (["-o", "out.gif"], ["the suffix of a file must be one of .png"]),
    ],
)
def test_mistakes_in_sampling(
    words: list[str], messages: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    device = [] if "--device" in words else ["--device", "cpu"]
    fails(run("sample", model, "-o", "out.png", *device, *words), 2, *messages)
    assert names(tmp_path) == []


def test_a_class_of_a_class_conditional_network(write_repo: WriteRepo, model: Path, tmp_path: Path) -> None:
    unet = make_unet(num_class_embeds=5)
    folder, source = write_repo(unet, DDPMScheduler()), picture(tmp_path / "a.png")
    restoring = ["restore", source, "--task", "sr2", "--steps", 2, "--device", "cpu", "--method", "ddrm"]
    succeeds(run(*restoring, "-o", tmp_path / "3.npy", "--model", folder, "--class-label", 3))
    pipe = diffusers_restore.DDRMPipeline.from_pretrained(folder)
    call = {"operator": "sr2", "sigma_y": 2 / 255 / 12**0.5, "num_inference_steps": 2, "output_type": "latent"}
    call |= {"generator": torch.Generator().manual_seed(0), "class_labels": 3, "eta": 1.0}
    expected = pipe(images.load(source).tensor, **call).images
    assert torch.equal(images.load(tmp_path / "3.npy").tensor, expected)
    drawing = ["sample", "-n", 1, "--steps", 2, "--device", "cpu"]
    for label in (0, 3):
        succeeds(run(*drawing, folder, "-o", tmp_path / f"{label}.png", "--class-label", label))
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "3.png").read_bytes()
    for words in ([*restoring, "--model", folder], [*drawing, folder]):
        for label, came in (([], "none"), (["--class-label", 5], "5")):
            message = "--class-label must be one of 0..4 for this class-conditional"
            fails(run(*words, "-o", tmp_path / "new" / "b.png", *label), 2, message, f"got {came}")
    fails(run(*restoring, "-o", tmp_path / "b.png", "--model", model, "--class-label", 1), 2, "takes none")
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("config", "scheduler", "words", "message"),
    [
        ({"channels": 4}, DDPMScheduler(), [], "draws 4 channels; a picture has 1 or 3"),
        ({}, ScoreSdeVeScheduler(), [], "ScoreSdeVeScheduler is that of a VE process"),
        ({}, CMStochasticIterativeScheduler(), [], "CMStochasticIterativeScheduler is not one of"),
        ({"time_embedding_type": "fourier"}, DDPMScheduler(), [], "and score networks of a VE process ('fourier')"),
        (
            {"time_embedding_type": "fourier", "center_input_sample": True},
            ScoreSdeVeScheduler(num_train_timesteps=20),
            [],
            "which no sampler here draws with; diffusers.ScoreSdeVePipeline does",
        ),
        ({}, DDPMScheduler(beta_schedule="sigmoid"), [], "cannot be sampled by ddim: sigmoid is not implemented"),
        (
            {},
            DDPMScheduler(variance_type="learned"),
            ["--sampler", "ddpm"],
            "variance_type='learned', which the network does not predict; use --sampler ddim",
        ),
    ],
)
def test_models_that_cannot_be_sampled(
    config: dict[str, Any],
    scheduler: Any,
    words: list[str],
    message: str,
    sample: Restore,
    write_repo: WriteRepo,
    tmp_path: Path,
) -> None:
    folder = write_repo(make_unet(**config), scheduler)
    result = sample("-o", tmp_path / "g.png", *words, model=folder)
    fails(result, 1, f"Error: MODEL {str(folder)!r}", message)
    assert not (tmp_path / "g.png").exists()


def test_a_latent_model_and_an_absent_one_cannot_be_sampled(
    sample: Restore, write_repo: WriteRepo, tmp_path: Path
) -> None:
    folder = write_repo(make_unet(), DDIMScheduler(), pipeline="LDMPipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vqvae": ["diffusers", "VQModel"]}))
    fails(sample("-o", tmp_path / "g.png", model=folder), 1, "LDMPipeline with vqvae")
    fails(sample("-o", tmp_path / "g.png", model=tmp_path / "absent"), 1, "Error: MODEL: there is no folder")


def test_samples_that_cannot_be_drawn_or_written(
    sample: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001.png").mkdir()
    fails(sample("-o", tmp_path, "-n", 3), 1, "Error: cannot write", "0001.png")
    assert names(tmp_path) == ["0000.png"]  # what was drawn before is kept

    def exhausted(*args: Any, **kwargs: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(UNet2DModel, "forward", exhausted)
    fails(sample("-o", tmp_path / "g.png"), 1, "memory is too small; try a smaller --batch-size or --size")


# --- Cold Diffusion --------------------------------------------------------------------------------------------------


def save_cold(
    folder: Path, degradation: Degradation, *, channels: int = 3, prior: GaussianMixturePrior | None = None
) -> Path:
    unet = make_unet(channels=channels)
    ColdDiffusionPipeline(unet, ColdDiffusionScheduler(degradation), prior).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def deblur(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cold(tmp_path_factory.mktemp("deblur"), Blur(4, std=1.0))


@pytest.fixture(scope="module")
def enlarge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can generate."""
    prior = GaussianMixturePrior(channels=3, height=4, width=4, components=2, noise_std=0.05)
    prior.means.copy_(torch.linspace(-0.5, 0.5, prior.means.numel()).reshape(prior.means.shape))
    prior.scale_tril.mul_(0.3)
    return save_cold(tmp_path_factory.mktemp("enlarge"), Pixelate(2), prior=prior)


def cold(folder: Path) -> ColdDiffusionPipeline:
    pipe = ColdDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def undo(deblur: Path) -> Restore:
    """Run `restore` with a Cold Diffusion model on the CPU."""

    def undo(*words: object, model: Path = deblur) -> Result:
        return run("restore", *words, "--model", model, "--device", "cpu")

    return undo


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], {}),
        (["--start", 3], {"start": 3}),
        (["--steps", 2], {"num_inference_steps": 2}),
        (["--start", 3, "--steps", 2], {"start": 3, "num_inference_steps": 2}),
        (["--direct"], {"direct": True}),
        (["--start", 1, "--direct"], {"start": 1, "direct": True}),
    ],
)
def test_a_cold_result_is_that_of_the_pipeline(
    words: list[object], arguments: dict[str, Any], undo: Restore, deblur: Path, tmp_path: Path
) -> None:
    source = picture(tmp_path / "photo.png", side=18)
    result = undo(source, "-o", tmp_path / "out.npy", *words)
    succeeds(result)
    assert result.stdout.startswith(f"{source} -> {tmp_path / 'out.npy'}  18x18  ")
    expected = cold(deblur)(Image.open(source), output_type="latent", **arguments).images
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected[0].numpy())
    whole = cold(deblur)(Image.open(source), output_type="latent").images
    assert bool(arguments) == bool((whole != expected).any())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--task", "denoise"),
        ("--operator-arg", "sigma=2"),
        ("--mask", "in.png"),
        ("--kernel", "in.png"),
        ("--sigma-y", "auto"),
        ("--eta", 0.85),
        ("--eta-b", 1.0),
        ("--seed", 0),
        ("--samples", 1),
        ("--average", None),
    ],
)
def test_options_of_ddrm_are_refused_by_a_cold_model(
    option: str, value: object, undo: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with the value that they have by default."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "in.png")
    result = undo("in.png", "-o", "out.png", option, *([] if value is None else [value]))
    kinds = "an unconditional DDPM"
    if option == "--mask":
        kinds += ", an RDDMPipeline, an OldPhotoPipeline or the bundled restorers"
    elif option == "--seed":
        kinds += ", an RDDMPipeline, a Pix2PixPipeline or the bundled restorers"
    elif option in ("--samples", "--average"):
        kinds += ", an RDDMPipeline or a Pix2PixPipeline"
    fails(result, 2, f"Error: {option} is for {kinds}; this --model is a ColdDiffusionPipeline\n")
    assert names(tmp_path) == ["in.png"]


@pytest.mark.parametrize(("option", "values"), [("--start", [3]), ("--direct", [])])
def test_options_of_a_cold_model_are_refused_by_a_ddpm(
    option: str, values: list[object], restore: Restore, tmp_path: Path
) -> None:
    source = picture(tmp_path / "a.png")
    result = restore(source, "-o", tmp_path / "out.png", option, *values)
    fails(result, 2, f"Error: {option} is for a ColdDiffusionPipeline; this --model is an unconditional DDPM\n")
    assert names(tmp_path) == ["a.png"]


def test_a_ddpm_needs_a_task_and_a_cold_model_does_not(undo: Restore, model: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    for words in (["--model", model], ["--mask", source], ["--operator-arg", "sigma=2"]):
        result = run("restore", source, "-o", tmp_path / "out.png", "--device", "cpu", *words)
        fails(result, 2, "Error: --task must say what was done to the picture", "`diffusers-restore tasks` lists")
    assert names(tmp_path) == ["a.png"]
    succeeds(undo(source, "-o", tmp_path / "out.png"))


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--start", 0], ["'--start'", "0 is not in the range x>=1"]),
        (["--start", 5], ["start must be a whole number >= 1 and <= 4, got 5"]),
        (["--steps", 5], ["steps must be a whole number >= 1 and <= 4, got 5"]),
        (["--start", 2, "--steps", 3], ["steps must be a whole number >= 1 and <= 2, got 3"]),
        (["--direct", "--steps", 1], ["--steps has no meaning with --direct"]),
        (["--start", "many"], ["'--start'", "'many' is not a valid integer"]),
    ],
)
def test_mistakes_with_a_cold_model(words: list[object], messages: list[str], undo: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    fails(undo(source, "-o", tmp_path / "out.png", *words), 2, *messages)
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("degradation", [Fade(3, std=0.2), Mix(3, endpoint="picture")], ids=lambda one: one.kind)
def test_a_state_that_is_not_known(degradation: Degradation, undo: Restore, tmp_path: Path) -> None:
    folder, source = save_cold(tmp_path / "model", degradation), picture(tmp_path / "in" / "a.png")
    result = undo(source, "-o", tmp_path / "out" / "a.png", "--start", 2, model=folder)
    fails(result, 2, "--direct is needed: this model's degradation acts through what a picture doesn't tell")
    assert not (tmp_path / "out" / "a.png").exists()
    succeeds(undo(source, "-o", tmp_path / "out" / "a.npy", "--start", 2, "--direct", model=folder))
    expected = cold(folder)(Image.open(source), 2, direct=True, output_type="latent").images
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy"), expected[0].numpy())


def test_a_cold_folder_skips_what_is_there(undo: Restore, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", 1)
    picture(tmp_path / "in" / "deep" / "b.jpg", 2)
    picture(tmp_path / "in" / "broken.png", 3).write_bytes(b"no picture")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("kept")
    result = undo(tmp_path / "in", "-o", tmp_path / "out", "--skip-existing")
    fails(result, 1, f"{tmp_path / 'in' / 'broken.png'}: cannot read", "1 of 3 failed")
    assert f"{tmp_path / 'in' / 'a.png'}: skipped, {tmp_path / 'out' / 'a.png'} exists" in result.stdout
    assert (tmp_path / "out" / "a.png").read_text() == "kept"
    assert names(tmp_path / "out") == ["a.png", "deep/b.jpg"]
    succeeds(undo(tmp_path / "in" / "a.png", "-o", tmp_path / "out"))
    assert (tmp_path / "out" / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_grey_and_transparency_stay_with_a_cold_model(undo: Restore, tmp_path: Path) -> None:
    succeeds(undo(picture(tmp_path / "grey.png", channels=1), "-o", tmp_path / "out" / "grey.png"))
    with Image.open(tmp_path / "out" / "grey.png") as out:
        assert out.mode == "L"
    pixels = levels(channels=4)
    pixels[..., 3] = np.arange(SIDE, dtype=np.uint8) * 16
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    succeeds(undo(tmp_path / "alpha.png", "-o", tmp_path / "out" / "alpha.png"))
    with Image.open(tmp_path / "out" / "alpha.png") as out:
        assert out.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(out)[..., 3], pixels[..., 3])
    fails(undo(tmp_path / "alpha.png", "-o", tmp_path / "out" / "a.jpg"), 1, "the picture has transparency, which .jpg")


def test_a_cold_model_that_restores_colours_gives_them_to_a_grey_picture(undo: Restore, tmp_path: Path) -> None:
    folder = save_cold(tmp_path / "model", Decolor(3))
    succeeds(undo(picture(tmp_path / "a.png", channels=1), "-o", tmp_path / "b.png", model=folder))
    with Image.open(tmp_path / "b.png") as out:
        assert out.mode == "RGB"


def test_sixteen_bits_stay_with_a_cold_model(undo: Restore, deblur: Path, tmp_path: Path) -> None:
    deep = torch.from_numpy(levels(bits=16).astype(np.float32) / 65535 * 2 - 1).permute(2, 0, 1)
    images.save(deep, tmp_path / "a.png", bits=16)
    succeeds(undo(tmp_path / "a.png", "-o", tmp_path / "b.png"))
    out = images.load(tmp_path / "b.png")
    assert out.bits == 16
    expected = cold(deblur)(images.load(tmp_path / "a.png").tensor, output_type="latent").images.clamp(-1, 1)
    assert float((out.tensor - expected).abs().max()) < 1.01 / 65535  # half a step


@pytest.mark.parametrize("batch", [1, 2])
def test_cold_samples_are_those_of_the_pipeline(batch: int, enlarge: Path, tmp_path: Path) -> None:
    words = ["--seed", 5, "--batch-size", batch, "--device", "cpu"]
    result = run("sample", enlarge, "-n", 3, "-o", tmp_path / "grid.png", *words)
    succeeds(result)
    assert result.stdout.startswith(f"{tmp_path / 'grid.png'}  3 pictures of 16x16  ")
    succeeds(run("sample", enlarge, "-n", 2, "-o", f"{tmp_path / 'folder'}/", *words))
    assert names(tmp_path / "folder") == ["0000.png", "0001.png"]
    pipe = cold(enlarge)
    expected = [np.asarray(pipe(generator=torch.Generator().manual_seed(5 + i)).images[0]) for i in range(3)]
    assert min(np.abs(expected[i].astype(int) - expected[j]).max() for i in range(3) for j in range(i)) > 10
    *drawn, empty = cells(tmp_path / "grid.png", columns=2)
    assert (empty == 255).all()
    np.testing.assert_array_equal(drawn, expected)
    for i in range(2):
        with Image.open(tmp_path / "folder" / f"000{i}.png") as alone:
            np.testing.assert_array_equal(np.asarray(alone), expected[i])


def test_steps_of_cold_samples(enlarge: Path, tmp_path: Path) -> None:
    succeeds(run("sample", enlarge, "-n", 1, "-o", tmp_path / "a.png", "--steps", 1, "--device", "cpu"))
    generator = torch.Generator().manual_seed(0)
    expected = cold(enlarge)(num_inference_steps=1, generator=generator).images[0]
    np.testing.assert_array_equal(cells(tmp_path / "a.png", 1)[0], np.asarray(expected))
    result = run("sample", enlarge, "-o", tmp_path / "b.png", "--steps", 3, "--device", "cpu")
    fails(result, 2, "--steps must be a whole number >= 1 and <= 2, got 3")
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize(("option", "value"), [("--sampler", "ddim"), ("--size", 16)])
def test_options_of_a_ddpm_are_refused_when_sampling_a_cold_model(
    option: str, value: object, enlarge: Path, tmp_path: Path
) -> None:
    result = run("sample", enlarge, "-o", tmp_path / "out" / "g.png", option, value, "--device", "cpu")
    fails(result, 2, f"Error: {option} is for an unconditional DDPM; MODEL is a ColdDiffusionPipeline\n")
    assert names(tmp_path) == []
    assert not (tmp_path / "out").exists()


def test_a_cold_model_without_a_prior_cannot_be_sampled(deblur: Path, tmp_path: Path) -> None:
    result = run("sample", deblur, "-n", 2, "-o", tmp_path / "g.png", "--device", "cpu")
    fails(result, 1, "MODEL can't generate: it was trained without --prior_components")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert names(tmp_path) == []


def test_a_cold_model_that_forgets_everything_needs_no_prior(tmp_path: Path) -> None:
    folder = save_cold(tmp_path / "model", Mix(3))
    succeeds(run("sample", folder, "-n", 1, "-o", tmp_path / "g.png", "--device", "cpu", "--seed", 9))
    expected = cold(folder)(generator=torch.Generator().manual_seed(9)).images[0]
    np.testing.assert_array_equal(cells(tmp_path / "g.png", 1)[0], np.asarray(expected))


@pytest.mark.parametrize("harm", ["weights", "degradation"])
def test_cold_models_that_cannot_be_loaded(harm: str, tmp_path: Path) -> None:
    folder, source = save_cold(tmp_path / "model", Blur(3)), picture(tmp_path / "a.png")
    if harm == "weights":
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
    else:
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(file.read_text().replace('"kind": "blur"', '"kind": "unknown"'))
    for words, option in (
        (["restore", source, "-o", tmp_path / "x.png", "--model", folder], "--model"),
        (["sample", folder, "-o", tmp_path / "x.png"], "MODEL"),
    ):
        result = run(*words, "--device", "cpu")
        fails(result, 1)
        assert result.stderr.splitlines()[-1].startswith(f"Error: {option} {str(folder)!r} cannot be loaded: ")
    assert not (tmp_path / "x.png").exists()


# --- restore and sample by RDDM --------------------------------------------------------------------------------------


def save_rddm(folder: Path, inputs: int = 6, outputs: int = 3, **config: Any) -> Path:
    unet = make_unet(channels=inputs, out_channels=outputs)
    RDDMPipeline(unet, RDDMScheduler(num_train_timesteps=8, **config)).save_pretrained(folder)
    return folder


def rddm(folder: Path) -> RDDMPipeline:
    pipe = RDDMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_an_rddm_model_restores_as_its_pipeline_does(tmp_path: Path) -> None:
    folder, source = save_rddm(tmp_path / "model"), picture(tmp_path / "a.png", side=19)
    command = ["restore", source, "--model", folder, "--device", "cpu"]
    for words, steps, seed in (([], 5, 0), (["--steps", 2, "--seed", 3], 2, 3)):
        succeeds(run(*command, "-o", tmp_path / "out.npy", *words))
        pipe, generator = rddm(folder), torch.Generator().manual_seed(seed)
        expected = pipe(Image.open(source), num_inference_steps=steps, generator=generator, output_type="latent").images
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected[0].numpy())


def test_what_an_rddm_model_refuses(tmp_path: Path) -> None:
    folder, source = save_rddm(tmp_path / "model"), picture(tmp_path / "a.png")
    command = ["restore", source, "-o", tmp_path / "out.png", "--model", folder, "--device", "cpu"]
    for words, message in (
        (["--steps", 9], "--steps must be a whole number >= 1 and <= 8, got 9"),
        (["--task", "denoise"], "--task is for an unconditional DDPM; this --model is an RDDMPipeline"),
        (["--start", 2], "--start is for a ColdDiffusionPipeline; this --model is an RDDMPipeline"),
        (["--mask", mask_file(tmp_path / "mask.png")], "--mask: this model takes none"),
    ):
        fails(run(*command, *words), 2, message)
    fails(run("sample", folder, "-o", tmp_path / "out.png", "--device", "cpu"), 1, "MODEL can't generate: it restores")
    assert not (tmp_path / "out.png").exists()


def mask_file(path: Path) -> Path:
    """Black on the right half: damaged."""
    levels = np.full((SIDE, SIDE), 255, np.uint8)
    levels[:, SIDE // 2 :] = 0
    Image.fromarray(levels).save(path)
    return path


def test_an_rddm_model_is_shown_a_mask(tmp_path: Path) -> None:
    folder, source = save_rddm(tmp_path / "model", inputs=7), picture(tmp_path / "a.png")
    command = ["restore", source, "-o", tmp_path / "out.npy", "--model", folder, "--device", "cpu"]
    fails(run(*command), 2, "--mask is needed")
    file = mask_file(tmp_path / "mask.png")
    damaged = torch.zeros(SIDE, SIDE)
    damaged[:, SIDE // 2 :] = 1
    for words, mask in (([], damaged), (["--invert-mask"], 1 - damaged)):
        succeeds(run(*command, "--mask", file, *words))
        generator = torch.Generator().manual_seed(0)
        expected = rddm(folder)(Image.open(source), mask, generator=generator, output_type="latent").images
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected[0].numpy())


def test_an_rddm_model_generates(tmp_path: Path) -> None:
    folder = save_rddm(tmp_path / "model", inputs=3)
    succeeds(run("sample", folder, "-o", tmp_path / "drawn", "-n", 2, "--steps", 3, "--seed", 5, "--device", "cpu"))
    assert names(tmp_path / "drawn") == ["0000.png", "0001.png"]
    generators = [torch.Generator().manual_seed(5 + i) for i in range(2)]
    expected = rddm(folder)(batch_size=2, num_inference_steps=3, generator=generators).images
    for i in range(2):
        with Image.open(tmp_path / "drawn" / f"000{i}.png") as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected[i]))


def test_a_generating_model_restores_nothing(tmp_path: Path) -> None:
    RDDMPipeline(make_unet(), RDDMScheduler(8), generates=True).save_pretrained(tmp_path / "model")
    result = run("restore", picture(tmp_path / "a.png"), "-o", tmp_path / "o.png", "--model", tmp_path / "model")
    fails(result, 2, "makes pictures of noise, and restores none; `diffusers-restore sample` draws them")


def test_a_picture_at_which_the_network_fails_stops_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "model"  # each group of its norms has one channel: of a single pixel, they have no deviation
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(16, 6, 3, block_out_channels=(8, 8), norm_num_groups=8, add_attention=False, **blocks)
    RDDMPipeline(unet, RDDMScheduler(num_train_timesteps=8)).save_pretrained(folder)
    for name in ("a.png", "c.png"):
        picture(tmp_path / "in" / name, side=8)
    Image.new("RGB", (1, 1)).save(tmp_path / "in" / "b.png")
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--model", folder, "--device", "cpu")
    fails(result, 1, "b.png: the model fails for 1x1 pixels: ")
    assert names(tmp_path / "out") == ["a.png", "c.png"]


# --- residual networks -----------------------------------------------------------------------------------------------


def close_to(x: Any, wanted: torch.Tensor) -> None:
    """But for rounding: the command lays weights out otherwise."""
    assert x.shape == wanted.shape
    assert np.abs(x - wanted.numpy()).max() < 1e-4 * np.abs(x).max()


def test_a_prior_with_a_residual_network_restores_and_draws(tmp_path: Path, restore: Restore, sample: Restore) -> None:
    unet = make_residual_unet(levels=3)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "model")
    source = picture(tmp_path / "photo.png")
    words = ["--task", "sr2", "--sigma-y", 0.1, "--seed", 5, "--dtype", "float32", "--model", tmp_path / "model"]
    succeeds(restore(source, "-o", tmp_path / "out.npy", *words, "--method", "ddrm"))
    pipe = diffusers_restore.DDRMPipeline(unet, DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(5), "output_type": "latent"}
    close_to(np.load(tmp_path / "out.npy"), pipe(Image.open(source), "sr2", 0.1, **call).images[0])
    for sampler in ("ddim", "ddpm"):
        words = ["-o", tmp_path / "g.png", "-n", 2, "--sampler", sampler, "--seed", 7, "--dtype", "float32"]
        succeeds(sample(*words, model=tmp_path / "model"))
        drawn, expected = cells(tmp_path / "g.png", columns=2), stock(sampler, unet, DDPMScheduler(), [7, 8])
        assert np.abs(np.array(drawn) - np.array(expected).astype(int)).max() <= 1
    wrong = sample("-o", tmp_path / "x.png", "--size", "20x16", model=tmp_path / "model")
    fails(wrong, 2, "the network takes multiples of 8, got 20x16; next to it: 16x16 and 24x16")


def test_restorers_with_residual_networks_restore_as_their_pipelines_do(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", side=19)
    two = [make_residual_unet(channels=6, out_channels=3, patch_size=patch) for patch in (2, 4)]
    scheduler = RDDMScheduler(num_train_timesteps=8, prediction_type="residual_epsilon")
    pipes: list[Any] = [
        ColdDiffusionPipeline(make_residual_unet(), ColdDiffusionScheduler(Blur(num_timesteps=3))),
        RDDMPipeline(two[0], scheduler, two[1]),
    ]
    for number, pipe in enumerate(pipes):
        pipe.save_pretrained(tmp_path / f"{number}")
        command = ["restore", source, "--model", tmp_path / f"{number}", "--device", "cpu", "--dtype", "float32"]
        succeeds(run(*command, "-o", tmp_path / "out.npy"))
        pipe.set_progress_bar_config(disable=True)
        seed = {"generator": torch.Generator().manual_seed(0)} if number else {}
        close_to(np.load(tmp_path / "out.npy"), pipe(Image.open(source), **seed, output_type="latent").images[0])
