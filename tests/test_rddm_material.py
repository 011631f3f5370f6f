"""What comes with RDDM: the papers' settings, recipes, the benchmark and the bundled restorer."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import make_unet
from PIL import Image

from diffusers_restore import DEFAULT_RESTORER, RDDMPipeline, RDDMScheduler
from diffusers_restore.training.config import RDDMConfig, build
from diffusers_restore.training.rddm import make_scheduler

ROOT = Path(__file__).parents[1]
PRESETS = sorted(
    path.parent
    for path in (ROOT / "schedulers").glob("*/scheduler_config.json")
    if json.loads(path.read_text())["_class_name"] == "RDDMScheduler"
)
RECIPES = sorted(
    path
    for path in (ROOT / "examples" / "recipes").glob("*.yaml")
    if "train rddm" in path.read_text() or path.name.startswith("rddm_")
)


@pytest.mark.parametrize("folder", PRESETS, ids=lambda path: path.name)
def test_a_preset_is_whole_and_in_the_table(folder: Path) -> None:
    scheduler = RDDMScheduler.from_pretrained(folder)
    written = json.loads((folder / "scheduler_config.json").read_text())
    own = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    assert {name: value for name, value in written.items() if not name.startswith("_")} == own
    assert f"| {folder.name} |" in (ROOT / "schedulers" / "README.md").read_text()
    if folder.name.startswith("rddm-"):
        assert (scheduler.config.clip_residual_range, len(scheduler)) == (1.0, 1000)
        assert scheduler.residual_scales[-1] == 1


def test_there_are_presets_and_recipes() -> None:
    papers = {"istd", "lol", "raindrop", "gopro", "generation", "inpaint", "translation"}
    assert {f"rddm-{name}" for name in papers} | {"resshift", "indi", "i2sb", "ir-sde"} == {p.name for p in PRESETS}
    assert {f"rddm_{name}.yaml" for name in papers} <= {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_configuration(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = yaml.safe_load(path.read_text())
    values.setdefault("train_data_dir", "photos")
    values["block_out_channels"] = tuple(values.get("block_out_channels", (8, 8)))
    config = build(RDDMConfig, values)
    scheduler = make_scheduler(config.objective)
    assert len(scheduler.heads) == 2 or not config.objective.two_networks
    assert f"examples/recipes/{path.name}" in path.read_text()  # the command by which it is run


# --- the benchmark --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zip files in the layout of the shared ones, of small pictures."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def write(archive: zipfile.ZipFile, name: str, level: float) -> None:
        coarse = rng.uniform(0, 255, (4, 5, 3)) * level
        picture = Image.fromarray(coarse.astype(np.uint8)).resize((30, 24), Image.Resampling.BICUBIC)
        with archive.open(name, "w") as file:
            picture.save(file, "BMP" if name.endswith("bmp") else "JPEG")

    layouts = {
        "rain100h/rain100h_half.zip": [f"{part}/{i:03}.jpg" for part in ("clean", "rain") for i in (1, 2, 13, 14, 15)],
        "lowlight/lowlight_150x100.zip": [
            f"{half}/{part}/{i}.jpg" for half in ("train", "eval") for part in ("high", "low") for i in (1, 2)
        ],
        "bsds400/bsds400_320.zip": ["train/1.jpg", "test/2.jpg"],
        "oldphotos/oldphotos_14.zip": ["old/a.jpg", "old/b.jpg"],
        "testsets/set5.zip": ["a_GT.bmp"],
        "testsets/cbsd68_jpg.zip": ["1.jpg", "2.jpg"],
    }
    for path, names in layouts.items():
        (folder / path).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / path, "w") as archive:
            for name in names:
                write(archive, name, 0.3 if "low/" in name else 1.0)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    RDDMPipeline(make_unet(channels=6, out_channels=3), RDDMScheduler(noise_scale=0.01)).save_pretrained(
        folder / "rddm"
    )
    plain = RDDMScheduler(num_train_timesteps=1, noise_scale=0.0)
    RDDMPipeline(make_unet(), plain).save_pretrained(folder / "regression")
    return {name: folder / name for name in ("rddm", "regression")}


def script() -> Any:
    spec = importlib.util.spec_from_file_location("script_rddm", ROOT / "benchmarks" / "rddm.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["script_rddm"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_training_pictures_are_not_those_that_are_measured(data: Path, tmp_path: Path) -> None:
    module = script()
    module.main(["--prepare", str(tmp_path), "--data", str(data)])
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg"))
    assert written == [
        *("lowlight/high/1.jpg", "lowlight/high/2.jpg", "lowlight/low/1.jpg", "lowlight/low/2.jpg"),
        *("photos/test/2.jpg", "photos/train/1.jpg"),
        *("rain/clean/013.jpg", "rain/clean/015.jpg", "rain/rain/013.jpg", "rain/rain/015.jpg"),
    ]
    assert [one.name for one in module.samples("derain", data, None)] == ["001.jpg", "002.jpg", "014.jpg"]


def test_the_benchmark(data: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script()
    words = ["--data", str(data), "--output", str(tmp_path / "out" / "rddm"), "--cache", str(tmp_path / "cache")]
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(module.diffusers_restore, "DEFAULT_RESTORER", str(models["regression"]))
    named = {task: [f"--{task}", str(models["rddm"])] for task in module.TITLES if task != "bundled"}
    for task, words_of in named.items():
        words_of += [f"--{task}_regression", str(models["regression"])]
    named["bundled"] = ["--bundled"]
    for words_of in named.values():
        module.main([*words, *words_of])
    report = json.loads((tmp_path / "out" / "rddm.json").read_text())
    assert set(report["tasks"]) == set(module.TITLES)
    methods = ["degraded", "regression", "RDDM, 1 step", "RDDM, 2 steps", "RDDM, 5 steps", "RDDM, 10 steps"]
    rows = report["tasks"]["derain"]["rows"]
    assert [row["method"] for row in rows] == methods
    blind = report["tasks"]["blind"]["rows"]
    fewer = [method for method in methods if method not in ("RDDM, 2 steps", "RDDM, 10 steps")]
    wanted = {damage: methods if damage == "as trained" else fewer for damage in module.DAMAGES}
    assert [(row["damage"], row["method"]) for row in blind] == [(d, m) for d in wanted for m in wanted[d]]
    bundled = [(row["damage"], row["method"]) for row in report["tasks"]["bundled"]["rows"]]
    assert bundled == [(damage, method) for damage in module.DAMAGES for method in ("degraded", "restored")]
    assert (tmp_path / "out" / "rddm_oldphotos.jpg").is_file()
    assert (tmp_path / "out" / "rddm_bundled_oldphotos.jpg").is_file()
    assert {row["pictures"] for row in rows} == {3}
    # By hand: one picture, one method.
    sample = next(module.samples("lowlight", data, None))
    pipe = module.load(models["rddm"])
    restored = module.restore(pipe, sample.degraded, 5, 0)
    module.main([*words, "--pictures", "1", "--lowlight", str(models["rddm"])])
    (row,) = [
        row
        for row in json.loads((tmp_path / "out" / "rddm.json").read_text())["tasks"]["lowlight"]["rows"]
        if row["method"] == "RDDM, 5 steps"
    ]
    error = ((restored.clamp(-1, 1) - sample.clean) / 2).square().mean()
    assert row["PSNR"] == pytest.approx(float(-10 * torch.log10(error)), abs=1e-4)
    markdown = (tmp_path / "out" / "rddm.md").read_text()
    assert str(tmp_path) not in markdown
    for task in module.TITLES:
        assert (tmp_path / "out" / f"rddm_{task}.png").is_file()

    # A second run only looks at the pictures that it shows.
    seen: list[int] = []
    restore = module.restore
    monkeypatch.setattr(module, "restore", lambda *args: seen.append(1) or restore(*args))
    monkeypatch.setattr(module, "SHOWN", 1)
    module.main([*words, *named["derain"]])
    assert len(seen) == 5
    assert json.loads((tmp_path / "out" / "rddm.json").read_text())["tasks"]["derain"]["rows"] == rows

    # Another noise scale stands beside what was measured earlier, and a training's history beside its network.
    module.main([*words, "--derain_noise", str(models["rddm"])])
    joined = json.loads((tmp_path / "out" / "rddm.json").read_text())["tasks"]["derain"]
    assert joined["rows"][: len(rows)] == rows
    others = {row["method"].replace("noise scale 0.01, ", ""): row["PSNR"] for row in joined["rows"][len(rows) :]}
    assert others == {row["method"]: row["PSNR"] for row in rows if row["method"].startswith("RDDM")}
    assert joined["networks"].keys() == {"rddm", "regression", "noise"}
    history = tmp_path / "metrics.jsonl"
    history.write_text('{"step": 1, "loss": 2}\n{"step": 2, "psnr": 21.25, "psnr_degraded": 20.5}\n')
    module.main([*words, *named["bundled"], "--history", str(history)])
    assert "| 2 | 21.25 | 20.50 |" in (tmp_path / "out" / "rddm.md").read_text()
    with pytest.raises(SystemExit, match="give --bundled, too"):
        module.main([*words, *named["derain"], "--history", str(history)])


def test_the_benchmark_without_models_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="name a trained model by one or more of --derain"):
        script().main(["--data", str(data)])
    with pytest.raises(SystemExit, match="there is no trained model"):
        script().main(["--data", str(data), "--lowlight", str(tmp_path)])


# --- the bundled restorer -------------------------------------------------------------------------------------------


def test_the_bundled_restorer_mends_noise_and_leaves_a_clean_picture() -> None:
    folder = Path(DEFAULT_RESTORER)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= 12e6
    pipe = RDDMPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    photo = Image.open(ROOT / "diffusers_restore" / "assets" / "photos" / "chelsea.png")
    clean = torch.from_numpy(np.array(photo.convert("RGB").crop((64, 64, 192, 192)))).permute(2, 0, 1)[None] / 127.5 - 1
    noisy = (clean + 50 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)

    def error(x: torch.Tensor) -> float:
        return float((x - clean).square().mean())

    def restored(x: torch.Tensor) -> torch.Tensor:
        steps = min(5, len(pipe.scheduler))
        generator = torch.Generator().manual_seed(0)
        return pipe(x, num_inference_steps=steps, generator=generator, output_type="latent").images

    assert error(restored(noisy)) < 0.4 * error(noisy)
    assert error(restored(clean)) < 0.1 * error(noisy)
