"""What comes with Pix2pix: recipes, and the benchmark from end to end on small models and pictures."""

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

from diffusers_restore import Pix2PixPipeline, RDDMPipeline, RDDMScheduler, ResnetGenerator
from diffusers_restore.degradations.recipes.canny import canny
from diffusers_restore.training.config import build
from diffusers_restore.training.pix2pix import Pix2PixConfig

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path for path in (ROOT / "examples" / "recipes").glob("*.yaml") if "train pix2pix" in path.read_text())


def test_there_are_recipes() -> None:
    assert [path.stem for path in RECIPES] == ["edges", "facades"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("gan_loss", ["vanilla", "none"])
def test_a_recipe_is_a_configuration(path: Path, gan_loss: str) -> None:
    values = yaml.safe_load(path.read_text())
    config = build(Pix2PixConfig, {**values, "train_data_dir": "photos", "gan_loss": gan_loss})
    assert (config.data.load_size, config.data.random_flip) == (143, True)  # the paper's jitter, at 128 px
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.adam_beta1, config.objective.l1_weight) == (2e-4, 0.5, 100)
    assert f"--config examples/recipes/{path.name}" in path.read_text()  # the command by which it is run


# --- the benchmark --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zip files in the layout of the shared ones, of small pictures: photographs are reddish, maps are blue."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def photo(width: int, height: int) -> Image.Image:
        coarse = rng.uniform(0, 255, (5, 6, 3)) * (1, 0.6, 0.4)
        return Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)

    def write(path: str, pictures: dict[str, Image.Image]) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / path, "w") as archive:
            for name, picture in pictures.items():
                with archive.open(name, "w") as file:
                    picture.save(file, "PNG")

    def pair() -> Image.Image:
        both = Image.new("RGB", (32, 16), (0, 0, 255))
        both.paste(photo(16, 16), (0, 0))
        return both

    parts = {"train": (1, 2, 10), "val": (3,), "test": (4, 20, 5)}
    pairs = {f"{part}/{number}.png": pair() for part, numbers in parts.items() for number in numbers}
    write("facades/facades_128.zip", pairs)
    for name in ("train_a", "train_b", "heldout"):
        write(f"freephotos/freephotos_{name}.zip", {f"{name}_{i}.png": photo(31 + i, 24) for i in (1, 2)})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, dropout in (("l1", 0.0), ("gan", 0.5)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            generator = ResnetGenerator(block_out_channels=(4, 8), num_blocks=1, dropout=dropout)
        Pix2PixPipeline(generator).save_pretrained(folder / name)
    unet = make_unet(channels=6, out_channels=3)
    RDDMPipeline(unet, RDDMScheduler(num_train_timesteps=20)).save_pretrained(folder / "rddm")
    lines = [(50, 0.5), (100, 0.25), (100, 0.75), (110, 1.0)]  # step 100 again, after a resumption
    log = [{"step": step, "loss": 1.0, "seconds_per_step": seconds} for step, seconds in lines]
    log.insert(2, {"step": 100, "l1": 0.5})
    (folder / "gan" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return {name: folder / name for name in ("l1", "gan", "rddm")}


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("script_pix2pix", ROOT / "benchmarks" / "pix2pix.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["script_pix2pix"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_training_pictures_are_not_those_that_are_measured(script: Any, data: Path, tmp_path: Path) -> None:
    script.main(["--prepare", str(tmp_path), "--data", str(data)])
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    facades = [f"facades/{name}.png" for name in ("train/1", "train/10", "train/2", "val/3")]
    assert written == facades + [f"photos/train_{part}_{i}.png" for part in "ab" for i in (1, 2)]
    blue = torch.tensor([-1.0, -1, 1])[:, None, None].expand(3, 16, 16)
    for sample in script.facades(data, "test"):
        assert torch.equal(sample.given, blue)
        assert sample.truth[0].mean() > sample.truth[2].mean()


def test_drawings_are_those_of_the_recipe(script: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "SIDE", 20)
    for sample in script.drawings(data, None):
        assert sample.truth.shape == (3, 20, 20)
        lines = canny((sample.truth[None].double() + 1) / 2, 1.0, 0.02, 0.05)[0]
        assert torch.equal(sample.given, torch.where(lines, -1.0, 1.0).expand(3, -1, -1))


def test_the_benchmark(
    script: Any, data: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SIDE", 20)
    words = ["--data", str(data), "--output", str(tmp_path / "out" / "pix2pix"), "--cache", str(tmp_path / "cache")]
    words += ["--feature_steps", "3"]
    script.main([*words, *(word for name, model in models.items() for word in (f"--facades_{name}", str(model)))])
    script.main([*words, "--edges", str(models["gan"])])
    report = json.loads((tmp_path / "out" / "pix2pix.json").read_text())
    facades, edges = report["tasks"]["facades"], report["tasks"]["edges"]
    rows = {row["method"]: row for row in facades["rows"]}
    assert list(rows) == ["the input itself", *script.METHODS.values(), "another real photo"]
    assert facades["pictures"] == 3
    assert all(row["Frechet"] > 0 for row in rows.values())
    assert rows["L1 alone"]["variety"] == 0 < rows["GAN + L1"]["variety"]
    assert (rows["GAN + L1"]["steps"], rows["GAN + L1"]["training, min"]) == (110, (25 + 37.5 + 10) / 60)
    assert "steps" not in rows["L1 alone"]
    # By hand: L1 of the maps, and of the pictures of one model.
    there = script.facades(data, "test")
    distances = [float((one.given - one.truth).abs().mean()) for one in there]
    assert rows["the input itself"]["L1"] == pytest.approx(np.mean(distances))
    pipe = script.load(models["rddm"])
    made = [script.make(pipe, one.given, i) for i, one in enumerate(there)]
    distances = [float((picture - one.truth).abs().mean()) for picture, one in zip(made, there, strict=True)]
    assert rows[script.METHODS["rddm"]]["L1"] == pytest.approx(np.mean(distances))
    assert [row["method"] for row in edges["rows"]] == ["the input itself", "GAN + L1"]
    for name in ("facades", "edges"):
        assert (tmp_path / "out" / f"pix2pix_{name}.png").is_file()
    markdown = (tmp_path / "out" / "pix2pix.md").read_text()
    assert str(tmp_path) not in markdown
    assert "not FID, comparable only within this table" in markdown

    # The network of the features is trained once.
    (kept,) = (tmp_path / "cache").rglob("features_*")
    written = kept.stat().st_mtime_ns
    script.main([*words, "--facades_l1", str(models["l1"]), "--pictures", "2"])
    assert list((tmp_path / "cache").rglob("features_*")) == [kept]
    assert kept.stat().st_mtime_ns == written
    assert json.loads((tmp_path / "out" / "pix2pix.json").read_text())["tasks"]["facades"]["pictures"] == 2


def test_the_distance_of_features_is_none_of_the_same_pictures(script: Any, data: Path) -> None:
    photos = script.photographs(data, script.HELD_OUT, 16)
    network = script.train_features([((one + 1) * 127.5).byte() for one in photos], 16, 2)
    assert script.distance(network, photos, photos) < 1e-6
    assert script.distance(network, [one.flip(1) * 0.5 for one in photos], photos) > 1e-3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)  # of others
        again = script.train_features([((one + 1) * 127.5).byte() for one in photos], 16, 2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_damages_are_as_much_as_they_say(script: Any) -> None:
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = [script.damaged(x, torch.Generator().manual_seed(seed)) for seed in range(400)]
    for picture, levels in drawn:
        assert picture.shape == x.shape
        assert (levels >= 0).all()
        assert levels[4:].sum() in (0, 1)
        assert levels.any() or torch.equal(picture, x)
        assert levels.max() < 0.15 or not torch.equal(picture, x)
    there = torch.stack([levels for _, levels in drawn]) > 0
    shares = there.double().mean(dim=0)
    assert (shares[:4] - 0.3).abs().max() < 0.1
    assert (shares[4:] - 0.1).abs().max() < 0.06
    only = [(picture, levels) for picture, levels in drawn if levels[5] and (levels > 0).sum() == 1]
    assert only
    assert all(torch.equal(picture, torch.rot90(x, 2, (1, 2))) for picture, _ in only)


def test_the_benchmark_without_models_says_so(script: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="name a trained model by one or more of --facades_l1, "):
        script.main(["--data", str(data)])
    with pytest.raises(SystemExit, match="there is no trained model"):
        script.main(["--data", str(data), "--edges", str(tmp_path)])
