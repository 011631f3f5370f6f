"""The benchmark of old photographs: its figures, its cache, and a run from end to end on small models."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusers_restore import (
    OldPhotoMapping,
    OldPhotoPipeline,
    OldPhotoVAE,
    ScratchDetectionPipeline,
    ScratchDetector,
    images,
)

ROOT = Path(__file__).parents[1]
SIDE = 32


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("script_old_photos", ROOT / "benchmarks" / "old_photos.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["script_old_photos"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


# --- figures --------------------------------------------------------------------------------------------------------


def test_fitted_tones_are_those_of_the_truth_where_only_tones_were_changed(script: Any) -> None:
    truth = picture(0, 3, 9, 7)
    a, b = torch.tensor([[0.4, 1.7, -0.9], [0.1, -0.3, 0.2]], dtype=torch.float64)[..., None, None]
    assert (script.tones_fitted(a * truth + b, truth) - truth).abs().max() < 1e-12
    noisy = truth + 0.1 * picture(1, 3, 9, 7)
    fitted = script.tones_fitted(noisy, truth)
    for channel in range(3):  # numpy's least squares
        slope, offset = np.polyfit(noisy[channel].flatten(), truth[channel].flatten(), 1)
        assert (fitted[channel] - (slope * noisy[channel] + offset)).abs().max() < 1e-12
    flat = script.tones_fitted(torch.zeros(3, 4, 4), truth[:, :4, :4].float())
    assert (flat - truth[:, :4, :4].float().mean(dim=(1, 2), keepdim=True)).abs().max() < 1e-6


def test_psnr_of_a_part_is_of_its_pixels_alone(script: Any) -> None:
    truth, mask = torch.zeros(3, 4, 5), torch.zeros(1, 4, 5)
    mask[:, :, 0] = 1
    made = torch.where(mask > 0, 0.2, 0.02).expand(3, 4, 5)
    assert math.isclose(script.psnr_where(made, truth, mask), 10 * math.log10(4 / 0.04), rel_tol=1e-6)
    assert math.isclose(script.psnr_where(made, truth, 1 - mask), 10 * math.log10(4 / 0.0004), rel_tol=1e-6)
    assert script.psnr_where(made, truth, torch.zeros(1, 4, 5)) is None
    assert script.psnr_where(truth, truth, mask) == script.MOST


def test_agreement_of_masks_by_hand(script: Any) -> None:
    found, there = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    there[0, 0, 0], found[0, 0, 0, :2], found[0, 0, 3, :1] = 1, 1, 1  # of 4 pixels, 2 found, and one beside them
    figures = script.agreement(list(found), list(there))
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["recall"] == 2 / 4
    assert figures["f1"] == pytest.approx(4 / 7)
    assert figures["mean f1"] == pytest.approx((4 / 7 + 1) / 2)  # nothing found where nothing is
    assert (figures["found"], figures["scratched"]) == (3 / 32, 4 / 32)


def test_a_mask_grows_to_all_sides(script: Any) -> None:
    mask = torch.zeros(1, 7, 8)
    mask[0, 3, 4] = 1
    assert torch.equal(script.grown(mask, 0), mask)
    wide = script.grown(mask, 2)
    assert wide.sum() == 25
    assert wide[0, 1:6, 2:7].all()


def test_a_sheet_shows_both_damages_of_photographs_from_all_over(script: Any) -> None:
    assert script.spread(40) == [0, 5, 10, 15, 20, 25, 30, 35]
    assert script.spread(2) == [0, 1]


# --- rows of several runs -------------------------------------------------------------------------------------------


def test_rows_of_models_that_are_not_named_stay(script: Any) -> None:
    def row(method: str, *needs: str, pictures: int = 40) -> dict[str, Any]:
        return {"method": method, "needs": list(needs), "pictures": pictures}

    rows = [row("damaged"), row("found 1", "detector"), row("old", "old_photo"), row("true 1"), row("gone", "rddm")]
    other = [row("damaged"), row("found 2", "detector"), row("true 1")]
    names = [one["method"] for one in script.merged(rows, other)]
    assert names == ["damaged", "found 2", "old", "true 1"]
    of_fewer = [row("old", "old_photo", pictures=2)]
    assert [one["method"] for one in script.merged(of_fewer, other)] == ["damaged", "found 2", "true 1"]

    def of_memory(mapping: str, side: int, dtype: str, peak: float) -> dict[str, Any]:
        return {"mapping": script.ROUTES[mapping], "pixels": f"{side} x {side}", "dtype": dtype, "peak, MB": peak}

    kept: list[dict[str, Any]] = []
    for one in (of_memory("partial", 1024, "float32", 1), of_memory("none", 512, "bfloat16", 2)):
        kept = script.merged_memory(kept, one)
    kept = script.merged_memory(kept, of_memory("partial", 1024, "float32", 3))
    assert [one["peak, MB"] for one in kept] == [2, 3]


def test_the_comparison_names_the_better_dilation_and_order(script: Any) -> None:
    def row(method: str, value: float, *needs: str) -> dict[str, Any]:
        return {"method": method, "needs": needs, "tones fitted: PSNR": value}

    rows = [row(script.inpainted_by("found", n), value, "detector") for n, value in enumerate((20.0, 22.0, 21.0))]
    assert script.compared(rows) is None
    last = row("found mask + 1 px: blind restorer, then inpainted", 21.5, "detector")
    assert (
        "dilated by 1 px is better than the other, and with it inpainting first is better (0.50 dB)"
        in script.compared([*rows, last, row(script.inpainted_by("true", 1), 25.0)])
    )


# --- end to end -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zip files in the layout of the shared ones, of small pictures."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    old = [f"bringing_old/old_w_scratch/{name}.jpg" for name in "abcd"] + ["ddnm/oldphoto/1.jpg"]
    old += [f"bringing_old/old/{name}.jpg" for name in "adfg"] + ["ddnm/solvay/Curie.jpg"]
    for path, names in (
        ("freephotos/freephotos_heldout.zip", ["fh_0010.jpg", "fh_0002.jpg"]),
        ("oldphotos/oldphotos_14.zip", old),
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / path, "w") as archive:
            for name in names:
                coarse = Image.fromarray(rng.uniform(0, 255, (5, 6, 3)).astype(np.uint8))
                with archive.open(name, "w") as file:
                    coarse.resize((SIDE + 8, SIDE + 2), Image.Resampling.BICUBIC).save(file, "JPEG")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector, vae = ScratchDetector((4, 8)).eval(), OldPhotoVAE(block_out_channels=(4, 4, 4), num_blocks=1).eval()
        mapping = OldPhotoMapping(4, (4, 8), 2, attention="partial").eval()
    ScratchDetectionPipeline(detector, detection_size=None, threshold=0.5).save_pretrained(folder / "detector")
    OldPhotoPipeline(vae, mapping, vae).save_pretrained(folder / "old_photo")
    return {name: folder / name for name in ("detector", "old_photo")}


def test_photographs_have_damages_by_their_numbers(script: Any, data: Path) -> None:
    there = script.samples(data, None, SIDE)
    assert [one.name for one in there] == ["000.png", "001.png", "002.png", "003.png"]
    for sample in there:
        assert sample.degraded.shape == sample.clean.shape == (3, SIDE, SIDE)
        assert sample.mask.shape == (1, SIDE, SIDE)
    assert not torch.equal(there[0].degraded, there[1].degraded)
    for one, other in zip(script.samples(data, 1, SIDE), there, strict=False):  # the first doesn't depend on the others
        assert torch.equal(one.degraded, other.degraded)


def test_the_benchmark(
    script: Any, data: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SIDE", SIDE)
    words = ["--data", str(data), "--output", str(tmp_path / "out" / "old"), "--cache", str(tmp_path / "cache")]
    words += ["--pictures", "1", "--sides", "32", "40"]
    script.main([*words, "--old_photo", str(models["old_photo"]), "--detector", str(models["detector"])])
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "old_photos").iterdir()}
    script.main([*words, "--detector", str(models["detector"])])
    assert kept.items() <= {f.name: f.stat().st_mtime_ns for f in (tmp_path / "cache" / "old_photos").iterdir()}.items()
    report = json.loads((tmp_path / "out" / "old.json").read_text())["parts"]
    synthetic, text = report["synthetic"], (tmp_path / "out" / "old.md").read_text()
    pixels = synthetic["pixels"]
    rows = {row["method"]: row for row in synthetic["rows"]}
    assert list(rows) == [
        *("damaged", "blind restorer", *script.BUNDLED, *(script.inpainted_by("found", n) for n in (0, 1))),
        *(f"found mask + {pixels} px: blind restorer, then inpainted", "OldPhotoPipeline"),
        script.inpainted_by("true", 1),
    ]
    assert "--old_photo" in rows["OldPhotoPipeline"]["command"]
    assert "--old_photo" not in rows["damaged"]["command"]
    assert synthetic["pictures"] == 2
    # By hand: what is on the disk is what was measured.
    there = script.samples(data, 1, SIDE)
    damaged = [images.to_tensor(images.to_pil(one.degraded)[0])[0] for one in there]
    figures = script.quality(damaged, there)
    assert all(rows["damaged"][name] == pytest.approx(value, abs=1e-5) for name, value in figures.items())
    counts = [rows[script.inpainted_by("found", 0)], rows[script.inpainted_by("true", 1)]]
    detector = sum(p.numel() for p in script.load_detector(models["detector"]).detector.parameters())
    assert counts[0]["parameters, millions"] - counts[1]["parameters, millions"] == pytest.approx(detector / 1e6)
    assert [row["dilated by"] for row in synthetic["detector"]["rows"]] == ["0 px", "1 px"]
    assert [row["pixels"] for row in report["scales"]["sizes"]] == ["32 x 32", "40 x 40"]
    assert "| 40 x 40 | " in text
    assert set(report["old"]["found"]) == {"scratched", "others"}
    for name in ("synthetic", "scratched", "others", "auto"):
        assert f"(old_photos_{name}.jpg)" in text
        assert (tmp_path / "out" / f"old_{name}.jpg").is_file()
    assert "NaN" not in (tmp_path / "out" / "old.json").read_text()
    assert str(tmp_path) not in text


def test_a_picture_in_which_nothing_is_found_comes_back(script: Any, tmp_path: Path) -> None:
    given = script.write(tmp_path / "given", {"a.png": picture(2, 3, SIDE, SIDE).float()})
    mask = script.written_masks({"a.png": torch.zeros(1, SIDE, SIDE)}, tmp_path / "mask", 1)
    kept = script.Cache(tmp_path / "cache")
    made = script.restored(given, tmp_path / "made", kept, mask, task="inpaint")
    assert (made.pictures()[0] - given.pictures()[0]).abs().max() < 3 / 255
    again = script.restored(given, tmp_path / "again", kept, mask, task="inpaint")
    assert again.seconds == made.seconds
    assert torch.equal(again.pictures()[0], made.pictures()[0])


def test_the_benchmark_says_what_it_lacks(script: Any, data: Path, models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no trained OldPhotoPipeline"):
        script.main(["--data", str(data), "--old_photo", str(tmp_path)])
    with pytest.raises(SystemExit, match="there is no trained ScratchDetectionPipeline"):
        script.main(["--data", str(data), "--detector", str(models["old_photo"])])


def test_the_text_says_whether_the_memory_suffices(script: Any) -> None:
    row = {"mapping": script.ROUTES["partial"], "pixels": "1024 x 1024", "dtype": "float32", "peak, MB": 3999.0}
    row |= dict.fromkeys(("imported, MB", "while loading, MB", "loaded, MB", "peak - loaded, MB"), 1.0)
    row |= {"reckoned, MB": 1.0, "s": 1.0}
    for peak, verdict in ((3999.0, "stays within 4 GB: 3,999 MB"), (4001.0, "does NOT stay within 4 GB: 4,001 MB")):
        report = {
            "parts": {"memory": {"rows": [row | {"peak, MB": peak, "command": "x"}], "command": "x"}},
            "run": {"torch": "2"},
        }
        assert verdict in script.to_markdown(report)


def test_the_runs_of_a_training_follow_each_other(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, psnrs in (("a", [18.0, 19.0]), ("b", [18.5])):
        lines = [{"step": 5, "loss": 1.0}]
        lines += [{"step": 10 * (i + 1), "psnr": psnr, "psnr_degraded": 16.0} for i, psnr in enumerate(psnrs)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir(tmp_path)
    script.main(["--history", "a", "b", "--output", "out"])
    text = (tmp_path / "out.md").read_text()
    assert "| 1 | 10 | 18.00 |\n| 1 | 20 | 19.00 |\n| 2 | 10 | 18.50 |\n" in text
    assert "beside 16.00 of the damaged ones" in text
