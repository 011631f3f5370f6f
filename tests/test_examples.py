"""The example and the benchmarks run, on a network that has learnt nothing."""

import gzip
import importlib.util
import io
import json
import math
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import make_unet
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from skimage.metrics import structural_similarity

from diffusers_restore import (
    ColdDiffusionPipeline,
    ColdDiffusionScheduler,
    GaussianMixturePrior,
    RDDMPipeline,
    RDDMScheduler,
    ResidualUNet2DModel,
)
from diffusers_restore.degradations import Blur, Degradation, Fade, Pixelate
from diffusers_restore.errors import InvalidInputError

ROOT = Path(__file__).parents[1]


def load(script: str) -> Any:
    name = f"script_{Path(script).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / script)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny random network."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("model")
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def testsets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zips in the layout of the test sets, with more pictures than are used and a file that is no picture."""
    folder = tmp_path_factory.mktemp("testsets")
    rng = np.random.default_rng(0)
    for name, suffix in (("set5.zip", ".bmp"), ("cbsd68_jpg.zip", ".jpg")):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("README.txt", "no picture")
            for stem in ("b", "a"):
                coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
                with archive.open(stem + suffix, "w") as file:
                    coarse.resize((60, 50), Image.Resampling.BICUBIC).save(file, "BMP" if suffix == ".bmp" else "JPEG")
    return folder


def test_demo(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = load("examples/demo.py")
    arguments = ["--output_dir", str(tmp_path / "demo"), "--model", model, "--steps", "2", "--size", "32"]
    demo.main([*arguments, "--photos", "chelsea"])
    tasks = [damage.task for damage in demo.DAMAGES]
    assert len(tasks) == 6
    pictures = sorted(path.name for path in (tmp_path / "demo").glob("*.png"))
    assert pictures == sorted(["overview.png", *(f"chelsea-{task}.png" for task in tasks)])
    sizes = {}
    for name in pictures:
        with Image.open(tmp_path / "demo" / name) as file:
            file.load()
            sizes[name] = file.size
    assert sizes["overview.png"][1] > 6 * 32
    rows = json.loads((tmp_path / "demo" / "table.json").read_text())["rows"]
    for task in tasks:
        methods = [row["method"] for row in rows if row["task"] == task]
        assert len(methods) == (3 if task == "colorize" else 4)
        estimate = "estimate, mean of 8" if task == "colorize" else "estimate, dpir"
        assert (methods[0], *methods[-2:]) == ("pseudo-inverse", estimate, "sample, ddrm")
    table = (tmp_path / "demo" / "table.md").read_text()
    printed = capsys.readouterr().out
    assert table in printed
    assert str(tmp_path / "demo" / "overview.png") in printed


def test_demo_refuses_an_unknown_task(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("examples/demo.py").main(["--model", model, "--output_dir", str(tmp_path), "--tasks", "sr3"])
    assert "there are: inpaint-scratches" in capsys.readouterr().err


def run_quality(model: str, testsets: Path, folder: Path, *more: str) -> tuple[dict[str, Any], Path]:
    quality = load("benchmarks/quality.py")
    arguments = ["--model", model, "--data", str(testsets), "--limit", "1", "--crop", "32", "--samples", "2"]
    arguments += ["--steps", "2", "--dtype", "float32", "--output", str(folder / "quality"), "--cache", str(folder)]
    quality.main([*arguments, *more])
    return json.loads((folder / "quality.json").read_text()), folder / "quality.md"


def test_quality(model: str, testsets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, page = run_quality(model, testsets, tmp_path)
    quality = load("benchmarks/quality.py")
    assert [(s["task"], s["pictures"]) for s in data["summary"]] == [
        (task, count) for count in (1, 1, 2) for task in quality.TASKS
    ]
    assert {s["opponent"] for s in data["summary"]} <= {"bicubic", "biharmonic", "Wiener", "TV"}
    assert {s["group"] for s in data["summary"]} == {"Set5", "CBSD68-20", "All 2 pictures"}
    assert {row["key"].split()[0] for row in data["pictures"]} == {"Set5/a", "CBSD68-20/a"}  # the first by name
    for result in data["summary"]:
        for eta in ("0.85", "1.0"):
            assert result[f"mean eta {eta}"]["psnr"] > result[f"single eta {eta}"]["psnr"]  # their noise is averaged
    assert model not in page.read_text()

    # Again, cut in the middle of a line: only what is missing is measured, with the same figures.
    [cache] = tmp_path.glob("*.jsonl")
    lines = cache.read_text().splitlines()
    cache.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    calls = []
    pipeline = quality.DDRMPipeline
    original = pipeline.__call__
    monkeypatch.setattr(pipeline, "__call__", lambda *a, **k: calls.append(1) or original(*a, **k))
    again, _ = run_quality(model, testsets, tmp_path)
    assert len(calls) == 1
    assert again["summary"] == data["summary"]
    assert len(cache.read_text().splitlines()) == len(lines) + 1


def test_quality_does_not_depend_on_the_other_tasks(model: str, testsets: Path, tmp_path: Path) -> None:
    one, _ = run_quality(model, testsets, tmp_path / "one", "--tasks", "sr4")
    two, _ = run_quality(model, testsets, tmp_path / "two", "--tasks", "denoise", "sr4")
    assert one["summary"] == [s for s in two["summary"] if s["task"] == "sr4"]


def test_quality_says_what_the_mean_of_endless_samples_would_have() -> None:
    quality = load("benchmarks/quality.py")
    psnr = lambda error: {"psnr": -10 * math.log10(error)}  # noqa: E731
    errors = {"single eta 0.85": 0.009 + 0.004, "mean eta 0.85": 0.009 + 0.0005}
    errors |= {"single eta 1.0": 0.008 + 0.004, "mean eta 1.0": 0.008 + 0.0005}
    result = {name: psnr(error) for name, error in errors.items()}
    assert quality.of_endless_samples(result, 8) == pytest.approx(psnr(0.008)["psnr"])
    result |= {"task": "sr4", "group": "some", "opponent": "bicubic", "bicubic": psnr(0.01), "default": psnr(0.0085)}
    assert "sr4 on some: 0.71 dB. DDRM's mean of endlessly many samples would have 0.97 dB" in quality.below_1_db(
        [result], 8
    )
    assert "Nowhere" in quality.below_1_db([result | {"default": psnr(0.005)}], 8)


def test_quality_without_data_says_so(model: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no set5\.zip in .*by --data"):
        load("benchmarks/quality.py").main(["--model", model, "--data", str(tmp_path), "--output", str(tmp_path / "q")])


def test_overhead(model: str, tmp_path: Path) -> None:
    overhead = load("benchmarks/overhead.py")
    overhead.main(["--quick", "--model", model, "--output", str(tmp_path / "overhead")])
    data = json.loads((tmp_path / "overhead.json").read_text())
    assert [row["task"] for row in data["calls"]] == 2 * [*overhead.TASKS, "RDDM"]
    assert len(data["updates"]) == 2 * len(overhead.TASKS)
    assert all(row["rest ms"] > 0 and row["ratio"] > 1 for row in data["calls"])
    assert all(row["min"] <= row["ratio"] <= row["max"] for row in data["updates"])
    assert "| identity | 32 |" in (tmp_path / "overhead.md").read_text()


@pytest.fixture
def trains() -> Iterator[None]:
    """accelerate keeps one state for a process; threads are set to one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("trains")
def test_training_overhead(tmp_path: Path) -> None:
    load("benchmarks/training.py").main(["--quick", "--output", str(tmp_path / "training")])
    data = json.loads((tmp_path / "training.json").read_text())
    assert [row["step"] for row in data["steps"]] == ["autocast", "copy", "residual", "residual, Muon"]
    for row in data["steps"]:
        shares = ("optimiser", "casts and copies", "normalisation", "convolutions", "the rest")
        assert sum(row[name] for name in shares) == pytest.approx(1)
        assert row["convolutions"] > 0.002
        assert row["optimiser"] > 0.002
        assert (row["normalisation"] > 0.002) == (row["step"] in ("autocast", "copy"))
    rows = {row["what"]: row["value"] for row in data["rows"]}
    assert rows["loop / bare"] == rows["step of the loop, seconds"] / rows["bare step, seconds"]
    assert 0.5 < rows["loop / bare"] < 20  # of a tiny network
    assert rows["loader, later / step"] > 1
    assert "| loop / bare |" in (tmp_path / "training.md").read_text()


def test_prior_keeps_the_rows_of_what_was_tried(model: str, testsets: Path, tmp_path: Path) -> None:
    options = ["--data", str(testsets), "--limit", "1", "--crop", "32", "--output", str(tmp_path / "prior")]
    prior = load("benchmarks/prior.py")
    for name, change in (("first", "nothing"), ("second", "the same"), ("first", "")):
        prior.main([model, "--name", name, "--change", change, *options])
    rows = json.loads((tmp_path / "prior.json").read_text())["rows"]
    assert [(row["name"], row["change"]) for row in rows] == [("first", "nothing"), ("second", "the same")]
    assert rows[0]["CBSD68"] == rows[1]["CBSD68"]
    low, _, high = rows[0]["Set5"]
    assert low > high
    page = (tmp_path / "prior.md").read_text()
    assert "| first |" in page
    bundled = {"name": "bundled", "CBSD68": [32, 30, 27], "CBSD68, whole": [33, 31, 28]}
    (text,) = prior.curve([bundled, {"name": "bundled, gone on with", "CBSD68": [32.5, 30.1, 27.1]}])
    assert "1.10 / 0.50 / 0.20 dB short" in text
    assert "0.50 / 0.10 / 0.10 dB more in all" in text
    assert "CBM3D, as published | 33.52 | 30.71 | 27.38 |" in page
    assert model not in page

    summary = {"group": "All 2 pictures", "task": "sr2", "opponent": "bicubic", "bicubic": {"psnr": 20.0}}
    for name, better in (("old", 0), ("new", 1)):
        figures = {
            f"{kind} eta {eta}": {"psnr": 21 + better + eta} for kind in ("single", "mean") for eta in (0.85, 1.0)
        }
        (tmp_path / f"{name}.json").write_text(json.dumps({"summary": [summary | figures]}))
    prior.main(["--before", str(tmp_path / "old.json"), "--after", str(tmp_path / "new.json"), *options])
    page = (tmp_path / "prior.md").read_text()
    assert "| sr2 | bicubic | 20.00 | 22.00 | 23.00 | 22.00 | 23.00 |" in page
    assert "| first |" in page


@pytest.mark.usefixtures("trains")
def test_prior_trains_networks_for_equal_time(
    testsets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = load("benchmarks/prior.py")
    rng, archives = np.random.default_rng(0), tmp_path / "archives"
    archives.mkdir()
    lines = ["file,split,tier"]
    kinds = [("train", "A"), ("train", "B"), ("train", "C"), ("heldout", "C"), ("heldout", "A")]
    for i, (split, tier) in enumerate(kinds):
        lines.append(f"fp_{i}.png,{split},{tier}")
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
        with zipfile.ZipFile(archives / f"{split}.zip", "a") as archive:
            archive.writestr(f"photos/fp_{i}.png", buffer.getvalue())
    (archives / "index.csv").write_text("\n".join(lines))
    prior.main(["--prepare", str(tmp_path / "photos"), "--archives", str(archives)])
    found = {path.relative_to(tmp_path / "photos").as_posix() for path in (tmp_path / "photos").rglob("*.png")}
    assert found == {"train/fp_0.png", "train/fp_1.png", "held_out/fp_3.png", "held_out/fp_4.png"}
    assert (tmp_path / "photos" / "attribution.csv").read_text() == "\n".join([*lines[:3], ""])

    tiny = {"resolution": 16, "validation_resolution": 16, "train_batch_size": 2}
    monkeypatch.setattr(prior, "RECIPE", prior.RECIPE | tiny)
    monkeypatch.setattr(prior, "TIMED", 2)
    small = {
        "unet": lambda: prior.unet(16, 3, (16, 16)),
        "patches": lambda: prior.OnPatches(widths=(16, 16)),
        "residual": lambda: ResidualUNet2DModel(16, block_out_channels=(8, 8), layers_per_block=1),
    }
    monkeypatch.setattr(prior, "NETWORKS", small)
    options = ["--data", str(testsets), "--limit", "1", "--crop", "32", "--output", str(tmp_path / "prior")]
    for name in small:
        prior.main(["--train", name, "--photos", str(tmp_path / "photos"), "--seconds", "0.05", *options])
    rows = json.loads((tmp_path / "prior.json").read_text())["networks"]
    assert [row["name"] for row in rows] == list(small)
    assert all(row["steps"] >= 3 and len(row["held out"]) == 3 for row in rows)
    page = (tmp_path / "prior.md").read_text()
    assert "## Networks at equal time" in page
    assert "| patches | " in page
    assert str(tmp_path) not in page
    with pytest.raises(SystemExit, match="--train needs --photos"):
        prior.main(["--train", "unet", *options])
    capsys.readouterr()


def test_precision(model: str, testsets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    precision = load("benchmarks/precision.py")
    options = ["--model", model, "--data", str(testsets), "--limit", "1", "--steps", "2", "--crop", "32"]
    precision.main([*options, "--output", str(tmp_path / "precision")])
    data = json.loads((tmp_path / "precision.json").read_text())
    assert len(data["tasks"]) == 10
    for row in data["tasks"]:
        assert row["difference"] == pytest.approx(row["bfloat16"] - row["float32"])
    assert any(row["difference"] for row in data["tasks"])
    assert [row["network"] for row in data["evaluations"]] == [
        "float32",
        "float32 channels_last",
        "bfloat16",
        "bfloat16 channels_last",
    ]
    assert "| denoise | 0.85 |" in (tmp_path / "precision.md").read_text()


# --- Cold Diffusion -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of 60 digits, bars whose place tells which they are."""
    folder = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = np.arange(60, dtype=np.uint8) % 10
        pixels = rng.integers(0, 60, (60, 28, 28), dtype=np.uint8)
        for one, label in zip(pixels, labels, strict=True):
            one[4:24, 2 * label + 3 : 2 * label + 6] = 250
        images = np.array([0x803, *pixels.shape], ">u4").tobytes() + pixels.tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        numbers = np.array([0x801, len(labels)], ">u4").tobytes() + labels.tobytes()
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(numbers))
    return folder


@pytest.fixture(scope="module")
def cold_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options that name the tasks, each with the folder of a tiny random network."""
    prior = GaussianMixturePrior(channels=1, height=4, width=4, components=2)
    prior.scale_tril.mul_(0.3)
    kinds: dict[str, tuple[Degradation, GaussianMixturePrior | None]] = {
        "--deblur": (Blur(2), None),
        "--inpaint": (Fade(2, init=20), None),
        "--super_resolution": (Pixelate(2), None),
        "--generate": (Pixelate(2), prior),
    }
    folders = {}
    for option, (degradation, own) in kinds.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            unet = UNet2DModel(
                sample_size=32,
                in_channels=1,
                out_channels=1,
                block_out_channels=(8, 8),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "UpBlock2D"),
                add_attention=False,
                norm_num_groups=4,
            )
        folder = tmp_path_factory.mktemp(option.strip("-"))
        ColdDiffusionPipeline(unet, ColdDiffusionScheduler(degradation), own).save_pretrained(folder)
        folders[option] = str(folder)
    return folders


def measure(mnist: Path, folder: Path, models: dict[str, str], *, restored_before: bool = False) -> dict[str, Any]:
    """The tasks of a report; with `restored_before`, no network may be run and no classifier trained."""
    script = load("benchmarks/cold_mnist.py")
    script.BATCH = 10
    words = [word for pair in models.items() for word in pair]
    words += ["--data", str(mnist), "--digits", "20", "--output", str(folder / "cold_mnist"), "--cache"]
    with pytest.MonkeyPatch.context() as patch:
        if restored_before:
            patch.setattr(UNet2DModel, "forward", None)
            patch.setattr(script, "train_classifier", None)
        script.main([*words, str(folder / "cache")])
    report = json.loads((folder / "cold_mnist.json").read_text())
    assert report["count"] == 20
    tasks: dict[str, Any] = report["tasks"]
    for task in tasks.values():
        assert task.pop("command").startswith("python benchmarks/cold_mnist.py --")
    return tasks


METHODS = ["degraded", "direct", "Algorithm 2", "Algorithm 1"]


def test_cold_mnist(
    mnist: Path, cold_models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = measure(mnist, tmp_path, cold_models)
    assert list(tasks) == ["deblur", "inpaint", "super_resolution", "generate"]
    for name, task in tasks.items():
        if name != "generate":
            assert [row["digits"] for row in task["rows"]] == METHODS
            assert task["rows"][1]["RMSE published"] is not None
            assert task["rows"][3]["RMSE published"] is None
            assert len({row["RMSE"] for row in task["rows"]}) == 4
            assert all(0 <= row["read right"] <= 1 for row in task["rows"])
            with Image.open(tmp_path / f"cold_mnist_{name}.png") as sheet:
                assert sheet.size[0] > 8 * 64
    assert [row["noise"] for row in tasks["generate"]["rows"]] == [0.002, 0.0]
    assert tasks["generate"]["digits"] == 20
    page = (tmp_path / "cold_mnist.md").read_text()
    for heading in ("## deblur", "## inpaint", "## super resolution", "## generation", "| degraded | 20 |"):
        assert heading in page
    for method in METHODS:
        assert len(re.findall(rf"^\| {method} \|", page, re.MULTILINE)) == 3
    assert page in capsys.readouterr().out
    linked = re.findall(r"\]\((.*?)\)", page)
    assert len(linked) == 5
    assert all((tmp_path / name).is_file() for name in linked)
    assert str(mnist) not in page
    assert cold_models["--deblur"] not in page

    # Again, everything is there; a task alone leaves the others as they are.
    assert measure(mnist, tmp_path, cold_models, restored_before=True) == tasks
    (tmp_path / "cold_mnist.json").unlink()
    alone = measure(mnist, tmp_path, {"--inpaint": cold_models["--inpaint"]}, restored_before=True)
    assert alone == {"inpaint": tasks["inpaint"]}
    both = measure(mnist, tmp_path, {"--deblur": cold_models["--deblur"]}, restored_before=True)
    assert both == {"inpaint": tasks["inpaint"], "deblur": tasks["deblur"]}


def test_the_figures_of_degraded_digits_by_hand(mnist: Path, cold_models: dict[str, str], tmp_path: Path) -> None:
    (row, direct, *_) = measure(mnist, tmp_path, {"--deblur": cold_models["--deblur"]})["deblur"]["rows"]
    pixels = np.frombuffer(gzip.decompress((mnist / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    digits = [
        np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BILINEAR))
        for one in pixels.reshape(60, 28, 28)[:20]
    ]
    x = torch.from_numpy(np.stack(digits)[:, None] / 127.5 - 1).float()
    pipe = ColdDiffusionPipeline.from_pretrained(cold_models["--deblur"])
    pipe.set_progress_bar_config(disable=True)
    y = pipe.scheduler.degrade(x, 2)
    for found, restored in ((row, y), (direct, pipe(y, direct=True, output_type="latent").images)):
        a, b = (((one.clamp(-1, 1) + 1) / 2).double().numpy()[:, 0] for one in (restored, x))
        assert found["RMSE"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), rel=1e-5)
        similarity = [
            structural_similarity(
                p, q, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11
            )
            for p, q in zip(a, b, strict=True)
        ]
        assert found["SSIM"] == pytest.approx(np.mean(similarity), rel=1e-5)


def test_cold_mnist_without_models_or_data_says_so(cold_models: dict[str, str], tmp_path: Path) -> None:
    main = load("benchmarks/cold_mnist.py").main
    with pytest.raises(SystemExit, match="name a trained model by one or more of --deblur, --inpaint"):
        main([])
    with pytest.raises(SystemExit, match=r"there is no train-images-idx3-ubyte\.gz in .* by --data"):
        main(["--deblur", cold_models["--deblur"], "--data", str(tmp_path), "--output", str(tmp_path / "out")])


def test_degradations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load("benchmarks/degradations.py")
    threads = torch.get_num_threads()
    script.main(["--quick", "--output", str(tmp_path / "degradations")])
    assert torch.get_num_threads() == threads
    report = json.loads((tmp_path / "degradations.json").read_text())
    assert report["run"]["command"].startswith("python benchmarks/degradations.py --quick --output")
    rows = report["degradations"]
    assert [row["degradation"] for row in rows] == [setting.name for setting in script.SETTINGS]
    for row in rows:
        assert row["largest difference"] < 5e-6
        assert row["T"] <= 4
        assert row["ratio"] == pytest.approx(row["loop ms"] / row["ours ms"], rel=1e-9)
        assert row["ours ms"] > 0
    page = (tmp_path / "degradations.md").read_text()
    assert len(re.findall(r"^\| .* \| (?:yes|no) \|", page, re.MULTILINE)) == len(rows)
    assert page in capsys.readouterr().out
    assert str(tmp_path) not in page


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((40, 36)).convert("RGB").save(path)
    return str(path)


def opened(path: Path) -> tuple[int, int]:
    with Image.open(path) as file:
        file.load()
        return file.size


@pytest.mark.parametrize("task", ["sr4", "inpaint-random", "colorize"])
def test_restore_hub_unet(
    model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    script = load("examples/restore_hub_unet.py")
    arguments = ["--model", model, "--task", task, "--steps", "2", "--output", str(tmp_path / "out.png")]
    script.main([photo, *arguments])
    assert opened(tmp_path / "out.png") == (3 * 32, 32)
    assert re.fullmatch(rf"{task}: -?\d+\.\d\d dB measured, -?\d+\.\d\d dB restored; .*\n", capsys.readouterr().out)


def test_share_rddm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet = make_unet(channels=6, out_channels=3)
    RDDMPipeline(unet, RDDMScheduler(num_train_timesteps=10)).save_pretrained(tmp_path / "mend")
    (tmp_path / "mend" / "README.md").write_text("# Mend\n")
    script = load("examples/share_rddm.py")
    script.main([str(tmp_path / "mend"), "--folder", str(tmp_path / "shared"), "--half"])
    assert "RDDMPipeline of" in (printed := capsys.readouterr().out)
    assert "the same pictures: True" in printed
    names = {path.name for path in (tmp_path / "shared" / "unet").iterdir()}
    assert {"diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"} < names
    assert (tmp_path / "shared" / "README.md").read_text() == "# Mend\n"
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "mend")])
    assert "one of the arguments --repo_id --folder is required" in capsys.readouterr().err


def test_custom_operator(model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load("examples/custom_operator.py")
    script.main([photo, "--model", model, "--steps", "2", "--output", str(tmp_path / "out.png")])
    assert opened(tmp_path / "out.png") == (3 * 40, 36)
    kept = re.search(r"\|A x - y\| <= (\S+);", capsys.readouterr().out)
    assert kept is not None
    assert float(kept[1]) < 1e-4
    operator = script.Interlace((3, 5, 4))
    x = torch.arange(60.0).reshape(1, 3, 5, 4)
    assert torch.equal(operator.forward(x), x[:, :, [0, 2, 4]])


def test_class_conditional(photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DDPMPipeline(make_unet(num_class_embeds=5), DDPMScheduler()).save_pretrained(tmp_path / "classes")
    script = load("examples/class_conditional.py")
    output = ["--output", str(tmp_path / "out.png")]
    script.main([photo, "--model", str(tmp_path / "classes"), "--classes", "0", "4", "--steps", "2", *output])
    assert opened(tmp_path / "out.png") == (4 * 16, 16)
    printed = capsys.readouterr().out
    decibels = re.findall(r"^class (\d): (-?\d+\.\d\d) dB$", printed, re.MULTILINE)
    assert [label for label, _ in decibels] == ["0", "4"]
    assert decibels[0][1] != decibels[1][1]
    with pytest.raises(InvalidInputError, match="class_labels must be one whole number in 0..4"):
        script.main([photo, "--model", str(tmp_path / "classes"), "--classes", "5", *output])
