"""The example and the benchmarks run, on a network that has learnt nothing."""

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

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
        assert len(methods) == (2 if task == "colorize" else 3)
        assert (methods[0], methods[-1]) == ("pseudo-inverse", "DDRM")
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


def test_quality_without_data_says_so(model: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no set5\.zip in .*by --data"):
        load("benchmarks/quality.py").main(["--model", model, "--data", str(tmp_path), "--output", str(tmp_path / "q")])


def test_overhead(model: str, tmp_path: Path) -> None:
    overhead = load("benchmarks/overhead.py")
    overhead.main(["--quick", "--model", model, "--output", str(tmp_path / "overhead")])
    data = json.loads((tmp_path / "overhead.json").read_text())
    assert [row["task"] for row in data["pipeline"]] == list(overhead.TASKS)
    assert len(data["update"]) == 2 * len(overhead.TASKS)
    assert all(row["rest ms per step"] > 0 and row["ratio"] > 0 for row in data["pipeline"])
    assert all(row["ratio"] > 0 for row in data["update"])
    assert "| identity | 32 |" in (tmp_path / "overhead.md").read_text()


def test_training_overhead(tmp_path: Path) -> None:
    load("benchmarks/training.py").main(["--quick", "--mixed_precision", "no", "--output", str(tmp_path / "training")])
    rows = {row["what"]: row["value"] for row in json.loads((tmp_path / "training.json").read_text())["rows"]}
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
    assert "CBM3D, as published | 33.50 | 30.70 | 27.40 |" in page
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
