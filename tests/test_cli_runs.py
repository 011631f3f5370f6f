"""Runs of `restore` over files: masks, references, lists of what is done, what is printed."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import WriteRepo, make_unet
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from test_cli import fails, names, picture, run, save_rddm, succeeds

from diffusers_restore import DEFAULT_RESTORER, images, restoring
from diffusers_restore.evaluation.metrics import psnr
from diffusers_restore.restoring import ArgumentError, jobs, progress
from diffusers_restore.restoring.manifest import NAME

Restore = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        DDPMPipeline(make_unet(), DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def restore(model: Path) -> Restore:
    def restore(*words: object) -> Result:
        task = () if "--task" in words else ("--task", "denoise")
        return run("restore", *words, *task, "--model", model, "--steps", 2, "--device", "cpu")

    return restore


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for i, name in enumerate(("a.png", "b.png", "more/a.png")):
        picture(tmp_path / "scans" / name, i)
    return tmp_path / "scans"


def mask(path: Path, side: int = 16, known: int = 8) -> Path:
    """White on `known` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.zeros((side, side), np.uint8)
    levels[:known] = 255
    Image.fromarray(levels).save(path)
    return path


# --- masks -----------------------------------------------------------------------------------------------------------


def test_a_mask_for_each_picture_of_a_folder(scans: Path, restore: Restore, tmp_path: Path) -> None:
    for known, name in ((4, "a.png"), (8, "b.bmp"), (12, "more/a.png")):
        mask(tmp_path / "masks" / name, known=known)
    result = restore(scans, "-o", tmp_path / "out", "--task", "inpaint", "--mask", tmp_path / "masks")
    succeeds(result)
    for share in ("75.0% missing (black in the mask)", "50.0% missing", "25.0% missing"):
        assert share in result.stdout
    alone = restore(
        *(scans / "b.png", "-o", tmp_path / "b.png", "--task", "inpaint", "--mask", tmp_path / "masks" / "b.bmp")
    )
    succeeds(alone)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "out" / "b.png").read_bytes()
    # a mask of another folder level counts by its name alone
    (tmp_path / "masks" / "more" / "a.png").unlink()
    succeeds(restore(scans, "-o", tmp_path / "again", "--task", "inpaint", "--mask", tmp_path / "masks"))


def test_a_folder_of_masks_must_have_one_for_each(scans: Path, restore: Restore, tmp_path: Path) -> None:
    mask(tmp_path / "masks" / "a.png")
    words = [scans, "-o", tmp_path / "out", "--task", "inpaint", "--mask", tmp_path / "masks"]
    fails(restore(*words), 2, "--mask", "must hold one file named as the picture", "b.png", "there is none")
    for suffix in ("tif", "bmp"):
        mask(tmp_path / "masks" / f"b.{suffix}")
    fails(restore(*words), 2, "b.bmp, ", "b.tif")
    assert not (tmp_path / "out").exists()
    mask(tmp_path / "masks" / "b.png.webp", known=8)  # as a result is named whose format can't be written
    succeeds(restore(*words))
    mask(tmp_path / "masks" / "b.png", known=4)
    result = restore(*words)
    succeeds(result)
    assert "75.0% missing" in result.stdout


def test_inverted_and_soft_masks(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    known = mask(tmp_path / "known.png")
    Image.eval(Image.open(known), lambda level: 255 - level).save(tmp_path / "missing.png")
    soft = np.asarray(Image.open(known)) // 255 * 120 + 60  # 180 and 60
    Image.fromarray(soft.astype(np.uint8)).save(tmp_path / "soft.png")
    results = []
    for file, words in (
        ("known.png", []),
        ("missing.png", ["--invert-mask"]),
        ("soft.png", []),
        ("soft.png", ["--mask-threshold", 0.6]),
    ):
        out = tmp_path / f"{len(results)}.png"
        result = restore(source, "-o", out, "--task", "inpaint", "--mask", tmp_path / file, *words)
        assert result.exit_code == 0, result.output
        assert ("256 pixels of the mask are neither black nor white" in result.stderr) == (file == "soft.png")
        results.append(out.read_bytes())
    assert len(set(results)) == 1
    fails(restore(source, "-o", "x.png", "--invert-mask"), 2, "--mask is needed for --invert-mask and --mask-threshold")
    fails(restore(source, "-o", "x.png", "--mask", known, "--mask-threshold", 1), 2, "--mask-threshold must be")
    with pytest.raises(restoring.ArgumentError, match="mask_threshold must be a number"):
        restoring.load(task="inpaint", mask=known, mask_threshold=2)


def test_a_mask_that_misses_nearly_all_is_told(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", side=32)
    words = ["--task", "inpaint", "--mask", mask(tmp_path / "mask.png", 32, known=1)]
    result = restore(source, "-o", tmp_path / "out.png", *words)
    assert "96.9% of it is missing, says the mask; if black means known, invert the mask" in result.stderr
    assert restore(source, "-o", tmp_path / "out.png", *words, "--invert-mask").stderr == ""


def test_degrade_takes_the_same_masks(scans: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        mask(tmp_path / "masks" / name)
    succeeds(run("degrade", scans, "-o", tmp_path / "out", "--task", "inpaint", "--mask", tmp_path / "masks"))
    with Image.open(tmp_path / "out" / "b.png") as damaged:
        assert (np.asarray(damaged)[8:] == 128).all() or (np.asarray(damaged)[8:] == 127).all()


# --- nothing that is read is written over ----------------------------------------------------------------------------


def test_no_file_that_is_read_is_overwritten(scans: Path, restore: Restore, model: Path, tmp_path: Path) -> None:
    known = mask(tmp_path / "mask.png")
    (tmp_path / "link.png").symlink_to(known)
    os.link(known, tmp_path / "hard.png")
    before = known.read_bytes()
    for out in ("mask.png", "link.png", "hard.png"):
        result = restore(scans / "a.png", "-o", tmp_path / out, "--task", "inpaint", "--mask", known)
        fails(result, 2, "would overwrite the --mask")
    kernel = tmp_path / "kernel.png"
    Image.new("L", (3, 3), 80).save(kernel)
    words = ["-o", kernel, "--task", "deblur", "--kernel", kernel]
    fails(restore(scans / "a.png", *words), 2, "would overwrite the --kernel")
    fails(run("degrade", scans / "a.png", *words), 2, "would overwrite the --kernel")
    fails(restore(scans / "a.png", "-o", scans / "b.png", "--reference", scans / "b.png"), 2, "the --reference")
    words = ["-o", tmp_path / "out.png", "--sheet", scans / "a.png"]
    fails(restore(scans / "a.png", *words), 2, "--sheet", "would overwrite the input")
    picture(model / "samples.png")  # of its card
    for sheet, more, words in (
        (known, ("--task", "inpaint", "--mask", known), "would overwrite the --mask"),
        (kernel, ("--task", "deblur", "--kernel", kernel), "would overwrite the --kernel"),
        (model / "samples.png", (), "would overwrite a file of the --model"),
    ):
        fails(restore(scans / "a.png", "-o", tmp_path / "out.png", "--sheet", sheet, *more), 2, "--sheet", words)
    fails(restore(scans / "a.png", "-o", model / "samples.png"), 2, "would overwrite a file of the --model")
    fails(run("sample", model, "-o", model / "samples.png"), 2, "would overwrite a file of the MODEL")
    (model / "samples.png").unlink()
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8), np.float32))  # cs2 makes numbers of it, which go by the same name
    for words in ((tmp_path / "x.npy", "-o", f"{tmp_path}/"), (tmp_path / "x.npy", "-o", tmp_path / "x.npy")):
        result = run("degrade", *words, "--task", "cs2")
        assert result.exit_code > 0
        assert "would overwrite the input" in result.stderr
    assert np.load(tmp_path / "x.npy").shape == (3, 8, 8)
    (tmp_path / "x.npy").unlink()
    assert known.read_bytes() == before
    assert names(tmp_path) == ["hard.png", "kernel.png", "link.png", "mask.png", *(f"scans/{n}" for n in names(scans))]


# --- figures, sheets, strength, quality ------------------------------------------------------------------------------


def test_large_pictures_are_compared_where_they_are_allowed(
    scans: Path, restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(images.load.__kwdefaults__, "max_pixels", 100)
    words = (scans / "a.png", "-o", tmp_path / "out.png", "--reference", scans / "b.png", "--sheet", tmp_path / "s.png")
    for more in ((), ("--skip-existing",)):
        result = restore(*words, "--max-pixels", 1000, *more)
        succeeds(result)
        assert "PSNR" in result.stdout
        assert "compared" not in result.stderr
    assert (tmp_path / "s.png").exists()


def test_a_picture_that_is_too_long_for_its_format_is_refused_before_the_work(restore: Restore, tmp_path: Path) -> None:
    Image.new("L", (4100, 2), 99).save(tmp_path / "wide.webp")
    result = restore(tmp_path / "wide.webp", "-o", f"{tmp_path}/out/", "--task", "sr4")
    fails(result, 1, "the result is 16400x8, and .webp has at most 16383 pixels a side; write one of .png, .tif")


def test_references_give_figures(scans: Path, restore: Restore, tmp_path: Path) -> None:
    for i, name in enumerate(("a.bmp", "b.png")):
        picture(tmp_path / "clean" / name, 10 + i)
    words = ["--reference", tmp_path / "clean", "--json"]
    result = restore(scans, "-o", tmp_path / "out", *words)
    succeeds(result)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(record["file"]).name for record in records] == ["a.png", "b.png", "a.png"]
    x, clean = (images.load(path).tensor[0] for path in (tmp_path / "out" / "b.png", tmp_path / "clean" / "b.png"))
    assert records[1]["psnr"] == pytest.approx(psnr(x, clean))
    assert records[1]["psnr_input"] == pytest.approx(psnr(images.load(scans / "b.png").tensor[0], clean))
    assert 0 < records[1]["ssim"] < 1
    plain = restore(scans, "-o", tmp_path / "out", *words[:2])
    assert f"PSNR {records[1]['psnr']:.2f} dB (input {records[1]['psnr_input']:.2f})" in plain.stdout
    mean = np.mean([record["psnr"] for record in records])
    assert plain.stdout.splitlines()[-1].startswith(f"mean of 3  PSNR {mean:.2f} dB")


def test_a_reference_of_another_size_is_told(scans: Path, restore: Restore, tmp_path: Path) -> None:
    reference = picture(tmp_path / "clean.png", side=20)
    result = restore(scans / "a.png", "-o", tmp_path / "out.png", "--reference", reference)
    assert result.exit_code == 0
    assert "has a reference of 20x20, and a result of 16x16" in result.stderr
    fails(restore(scans, "-o", tmp_path / "out", "--reference", reference), 2, "--reference must be a folder for 3")


def test_what_is_no_reference_is_told(scans: Path, restore: Restore, tmp_path: Path) -> None:
    np.save(tmp_path / "clean.npy", np.full((3, 16, 16), 1e30, np.float32))
    result = restore(scans / "a.png", "-o", tmp_path / "out.png", "--reference", tmp_path / "clean.npy")
    assert result.exit_code == 0
    assert "a.png isn't compared: reference must be in [-1, 1], got a mean of 1e+30" in result.stderr


def test_a_run_that_is_gone_on_with_counts_what_it_skips(scans: Path, restore: Restore, tmp_path: Path) -> None:
    (scans / "bad.png").write_text("no picture")
    for _ in range(2):
        result = restore(scans, "-o", f"{tmp_path}/out/", "--resume")
        assert result.exit_code == 1
        assert "\n1 of 4 failed: " in result.stderr


def test_a_sheet_of_many_pictures_is_about_as_wide_as_high(restore: Restore, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(8):
        folder = tmp_path / "in" / f"album {i // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    succeeds(restore(tmp_path / "in", "-o", tmp_path / "out", "--sheet", tmp_path / "sheet.png"))
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
    cells = 192 + 8  # small pictures are enlarged
    assert width == 4 * cells + 8
    assert height // cells == 4


def test_results_that_are_there_are_compared_too(scans: Path, restore: Restore, tmp_path: Path) -> None:
    words = (scans, "-o", tmp_path / "out", "--skip-existing", "--sheet", tmp_path / "sheet.png", "--reference", scans)
    first = restore(*words)
    succeeds(first)
    sheet = (tmp_path / "sheet.png").read_bytes()
    (tmp_path / "sheet.png").unlink()
    again = restore(*words)
    succeeds(again)
    assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert again.stdout.count("skipped") == again.stdout.count(" exists  PSNR ") == 3
    assert (tmp_path / "sheet.png").read_bytes() == sheet
    records = [json.loads(line) for line in restore(*words, "--json").stdout.splitlines()]
    assert [record["skipped"] for record in records] == [True] * 3


def test_a_sheet_shows_before_and_after(scans: Path, restore: Restore, tmp_path: Path) -> None:
    words = ["--sheet", tmp_path / "sheet.png", "--reference", scans]
    succeeds(restore(scans, "-o", tmp_path / "out", "--samples", 2, *words))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 16
        assert sheet.height > 3 * 16
    source = picture(tmp_path / "small.png", side=32)
    succeeds(restore(source, "-o", tmp_path / "large.png", "--task", "sr4", "--sheet", tmp_path / "sizes.png"))
    with Image.open(tmp_path / "sizes.png") as sheet:
        shown = (np.asarray(sheet.convert("L"))[sheet.height // 2 :] < 250).any(axis=0)
    begin, end, second_begin, second_end = np.flatnonzero(np.diff(shown, prepend=False, append=False))
    assert end - begin == second_end - second_begin == 128  # before and after in one size
    fails(restore(scans, "-o", tmp_path / "out", "--sheet", "sheet.xyz"), 2, "--sheet 'sheet.xyz': the suffix")
    fails(restore(scans, "-o", tmp_path / "out", "--sheet", "no/sheet.png"), 2, "--sheet: there is no folder 'no'")


@pytest.mark.parametrize("option", ["output", "mask", "kernel", "reference", "sheet", "inputs"])
@pytest.mark.parametrize("path", ["x" * 300 + ".png", "a\0.png", 5, ""])
def test_what_can_be_no_path(option: str, path: Any, scans: Path, model: Path, tmp_path: Path) -> None:
    of_call = {"inputs": scans, "output": tmp_path / "out", option: path}
    options = {name: of_call.pop(name) for name in ("mask", "kernel") if name in of_call}
    task = {"mask": "inpaint", "kernel": "deblur"}.get(option, "denoise")
    with pytest.raises(ArgumentError, match=f"^{option}(\\[0\\])? must be a"):
        restoring.load(model, task=task, **options).restore_files(**of_call)


def test_what_is_no_file(restore: Restore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait forever
    for out in ("out/", "out.png"):
        fails(restore(tmp_path / "pipe.png", "-o", tmp_path / out), 2, "is neither a file nor a folder")


def test_noise_in_grey_levels(scans: Path, tmp_path: Path) -> None:
    result = run("degrade", scans / "a.png", "-o", tmp_path / "out.png", "--task", "denoise", "--sigma-y", 25)
    fails(result, 1, "sigma_y must be at most 2 for a picture", "25 of 255 grey levels are 0.196")


def test_a_picture_that_changes_or_goes_while_it_is_restored(scans: Path, model: Path, tmp_path: Path) -> None:
    """What counts is what was read."""
    restorer = restoring.load(model, task="denoise", sigma_y=0.1, steps=2, device="cpu")
    restore = restorer.restore_together

    def change(batch: Sequence[jobs.Job], *position: Any, **options: Any) -> list[jobs.Result]:
        done = restore(batch, *position, **options)
        if batch[0].source == scans / "a.png":
            picture(scans / "a.png", 99)
        elif batch[0].source == scans / "b.png":
            (scans / "b.png").unlink()
        return done

    restorer.restore_together = change  # type: ignore[method-assign]
    assert [one.error for one in restorer.restore_files(scans, tmp_path / "out", resume=True)] == [None] * 3
    restorer.restore_together = restore  # type: ignore[method-assign]
    again = restorer.restore_files(scans, tmp_path / "out", resume=True)
    assert [one.job.source for one in again] == [scans / "a.png"]


def test_strength_blends_with_the_input(restore: Restore, tmp_path: Path) -> None:
    source = tmp_path / "a.npy"
    images.save(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5, source)
    arrays = {}
    for strength in (0, 0.25, 1):
        succeeds(restore(source, "-o", tmp_path / "out.npy", "--sigma-y", 0.5, "--strength", strength))
        arrays[strength] = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(arrays[0], np.load(source))
    np.testing.assert_allclose(arrays[0.25], 0.75 * arrays[0] + 0.25 * arrays[1], atol=1e-6)
    result = restore(source, "-o", tmp_path / "out.npy", "--task", "sr2", "--strength", 0.5)
    fails(result, 1, "strength must be 1 where the result has another size")
    fails(restore(source, "-o", tmp_path / "out.npy", "--strength", 2), 2, "strength must be a number >= 0 and <= 1")


def test_quality_is_that_of_the_file(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", side=64)
    sizes = []
    for quality in (10, 95):
        succeeds(restore(source, "-o", tmp_path / "a.jpg", "--quality", quality))
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2
    succeeds(restore(source, "-o", tmp_path / "out/", "--quality", 10))  # a folder may hold PNG too
    for command in (restore, lambda *words: run("degrade", *words, "--task", "denoise")):
        result = command(source, "-o", tmp_path / "b.png", "--quality", 10)
        fails(result, 2, "--quality is for .jpg, .jpeg, .webp, which", "b.png' isn't")


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_stopped_folder_goes_on(
    scans: Path, restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = restoring.restorer.Restorer.restore_together

    def stops(self: object, batch: Sequence[jobs.Job], *rest: object, **more: object) -> object:
        if batch[0].source.name == "b.png":
            raise KeyboardInterrupt
        return work(self, batch, *rest, **more)  # type: ignore[arg-type]

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(restoring.restorer.Restorer, "restore_together", stops)
        result = restore(scans, "-o", out)
    assert result.exit_code == 130
    assert "stopped: 1 of 3 done; the same command with --resume goes on" in result.stderr
    assert names(out) == [NAME, "a.png"]
    with (out / NAME).open("a") as file:
        file.write('{"result": "b.png", "st')  # a line that a kill has cut
    made = (out / "a.png").stat().st_mtime_ns
    result = restore(scans, "-o", out, "--resume")
    succeeds(result)
    assert f"{scans / 'a.png'}: skipped" in result.stdout
    assert (out / "a.png").stat().st_mtime_ns == made
    assert names(out) == [NAME, "a.png", "b.png", "more/a.png"]
    assert result.stdout.count(" -> ") == 2

    def redone(*words: object) -> int:
        return restore(scans, "-o", out, "--resume", *words).stdout.count(" -> ")

    assert redone() == 0
    assert redone("--seed", 1) == 3
    assert redone() == 3  # the results are those of another seed now
    picture(scans / "b.png", 9)
    (out / "more" / "a.png").unlink()
    assert redone() == 2
    succeeds(restore(scans, "-o", out))
    assert names(out) == ["a.png", "b.png", "more/a.png"]  # without --resume no list is kept
    fails(restore(scans / "a.png", "-o", tmp_path / "a.png", "--resume"), 2, "--resume is for a folder of results")


def test_a_run_with_failures_goes_on(scans: Path, restore: Restore, tmp_path: Path) -> None:
    (scans / "b.png").write_bytes(b"no picture yet")
    result = restore(scans, "-o", tmp_path / "out")
    fails(result, 1, "1 of 3 failed: ", "b.png; the same command with --skip-existing keeps the others")
    result = restore(scans, "-o", tmp_path / "noted", "--resume")
    fails(result, 1, "b.png; the same command with --resume keeps the others")
    picture(scans / "b.png", 1)
    for folder, option in (("out", "--skip-existing"), ("noted", "--resume")):
        result = restore(scans, "-o", tmp_path / folder, option)
        succeeds(result)
        assert result.stdout.count("skipped, ") == 2


def test_another_model_of_the_same_name_is_another_option(scans: Path, model: Path, tmp_path: Path) -> None:
    words = ("restore", scans, "-o", tmp_path / "out", "--task", "denoise", "--steps", 1, "--resume")
    shutil.copytree(model, tmp_path / "model")
    for skipped in (0, 3):
        result = run(*words, "--model", tmp_path / "model", "--device", "cpu")
        succeeds(result)
        assert result.stdout.count("skipped, ") == skipped
    os.utime(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")  # as if it was trained anew
    result = run(*words, "--model", tmp_path / "model", "--device", "cpu")
    succeeds(result)
    assert "skipped" not in result.stdout


# --- what is printed -------------------------------------------------------------------------------------------------


def test_a_name_from_an_archive_does_not_steer_the_terminal(scans: Path, restore: Restore, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.add(scans / "a.png", "\x1b]0;owned\x07\n.png")
        tar.add(__file__, "\x1b[2J.png")
    result = restore(tmp_path / "evil.tar", "-o", tmp_path / "out", "--batch-size", 2)
    assert result.exit_code == 1
    assert r"\x1b]0;owned\x07\n.png ->" in result.stdout
    assert r"\x1b[2J.png: cannot read" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


def test_quiet_verbose_and_json(scans: Path, restore: Restore, tmp_path: Path, model: Path) -> None:
    (scans / "broken.png").write_bytes(b"no picture")
    quiet = restore(scans, "-o", tmp_path / "out", "--quiet")
    assert quiet.exit_code == 1
    assert quiet.stdout == ""
    assert "broken.png: cannot read" in quiet.stderr
    verbose = restore(scans / "a.png", "-o", tmp_path / "a.png", "--verbose")
    assert f"{model}: DDRMPipeline with " in verbose.stderr
    assert " million parameters, " in verbose.stderr
    assert " on cpu; DPIRScheduler, task denoise" in verbose.stderr
    fails(restore(scans, "-o", tmp_path / "out", "--quiet", "--verbose"), 2, "exclude each other")
    result = restore(scans, "-o", tmp_path / "out", "--json", "--seed", 4)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(records) == 4
    failed = next(record for record in records if record["error"] is not None)
    assert failed["results"] == []
    assert "not a picture" in failed["error"]
    done = records[0]
    assert done["size"] == [16, 16]
    assert done["seconds"] >= 0
    assert done["options"] == {"model": str(model), "task": "denoise", "steps": 2, "seed": 4, "dtype": "auto"}
    assert run("degrade", scans / "a.png", "-o", tmp_path / "d.png", "--task", "sr2", "--json").stdout.startswith("{")


def test_a_folder_says_how_far_it_is(scans: Path, restore: Restore, tmp_path: Path) -> None:
    lines = restore(scans, "-o", tmp_path / "out").stdout.splitlines()
    assert "[1/3, " in lines[0]
    assert lines[0].endswith(" left]")
    assert lines[2].endswith("[3/3]")
    assert [jobs.duration(seconds) for seconds in (3, 89, 600, 9000)] == ["3 s", "89 s", "10 min", "2.5 h"]


def test_long_work_prints_lines_where_there_is_no_terminal(
    restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    source = picture(tmp_path / "a.png")
    result = restore(source, "-o", tmp_path / "out.png")
    assert f"{source}: 100%" in result.stderr
    assert "\r" not in result.stderr
    assert restore(source, "-o", tmp_path / "out.png", "--quiet").stderr == ""


def test_what_is_left_out_of_a_folder_is_named(scans: Path, restore: Restore, tmp_path: Path) -> None:
    (scans / "notes.txt").write_text("no picture")
    (scans / "gone.png").symlink_to(scans / "nowhere.png")
    (scans / ".hidden.txt").touch()
    picture(tmp_path / "elsewhere" / "c.png")
    (scans / "linked").symlink_to(tmp_path / "elsewhere")
    result = restore(scans, "-o", tmp_path / "out")
    succeeds(result)
    assert names(tmp_path / "out") == ["a.png", "b.png", "linked/c.png", "more/a.png"]
    first = result.stdout.splitlines()[0]
    assert first == f"left out, no pictures: {scans / 'gone.png'} (a broken link), {scans / 'notes.txt'}"
    fails(restore(scans / "gone.png", "-o", tmp_path / "out"), 2, "is a link to a file that doesn't exist")


# --- models ----------------------------------------------------------------------------------------------------------


def test_models_that_are_not_there_say_so(
    restore: Restore, write_repo: WriteRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = picture(tmp_path / "a.png")
    make_unet().save_pretrained(tmp_path / "network")
    (tmp_path / "run" / "checkpoint-4").mkdir(parents=True)
    for name in ("state.json", "manifest.json"):
        (tmp_path / "run" / "checkpoint-4" / name).write_text("{}")
    (tmp_path / "file.pt").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, message in (
        ("network", "it holds a network alone, without a scheduler; examples/restore_hub_unet.py"),
        ("run/checkpoint-4", "it is a checkpoint of a training, which writes the model to"),
        ("file.pt", "it is a file; a model is a folder or a repository"),
        ("empty", "it has no model_index.json; a model is a folder that"),
    ):
        for words in ([], ["--task", "sr2"]):
            command = ["restore", source, "-o", tmp_path / "o.png", "--model", tmp_path / name, *words]
            fails(run(*command), 1, f"Error: --model {str(tmp_path / name)!r} cannot be loaded", message)
    (tmp_path / "run" / "model_index.json").write_text("{}")
    command = ["restore", source, "-o", tmp_path / "o.png", "--model", tmp_path / "run/checkpoint-4"]
    fails(run(*command), 1, f"it is a checkpoint of a training; the model is in {str(tmp_path / 'run')!r}")
    fails(run(*command[:4], "--model", tmp_path / "absent"), 1, "--model: there is no folder")
    for words in (
        [*command[:4], "--model", "me/absent"],
        [*command[:4], "--model", "me/absent", "--task", "sr2"],
        ["sample", "me/absent", "-o", tmp_path / "o.png"],
    ):
        fails(run(*words), 1, "me/absent' cannot be loaded: there is no folder of this name, and no such pipeline")


def test_sigma_y_in_grey_levels_is_told(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    fails(restore(source, "-o", tmp_path / "o.png", "--sigma-y", 25), 1, "25 of 255 grey levels are 0.196")


def test_the_next_smaller_and_the_next_larger_task_are_named(restore: Restore, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    fails(restore(source, "-o", tmp_path / "o.png", "--task", "sr3"), 2, "did you mean 'sr2' or 'sr4'?")


def test_a_damage_without_noise_tells_nothing_of_noise(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", side=32)
    succeeds(run("degrade", source, "-o", tmp_path / "o.png", "--task", "sr-bicubic4"))


def test_what_a_user_may_not_know_is_said(model: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", side=32)
    command = ["restore", source, "-o", tmp_path / "o.png", "--model", model, "--device", "cpu"]
    assert "inpaint-scratches is made-up damage" in run(*command, "--task", "inpaint-scratches").stdout
    assert "; sigma_y estimate finds what the picture has" in run(*command, "--task", "denoise").stdout
    result = run(*command, "--task", "deblur-motion", "--operator-arg", "length=3", "--operator-arg", "border=inside")
    succeeds(result)
    assert "assumed angle=30: operator-arg sets others\n" in result.stdout
    assert "conjugate gradients" not in result.stderr
    fails(run(*command, "--task", "scratches"), 2, "for those of a photograph: --scratches auto, without a task")
    fails(run("restore", source, "-o", tmp_path / "o.png", "--sigma-y", 0.1), 2, "--sigma-y needs --task, which says")


def test_samples_that_ddrm_cannot_draw(model: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", side=32)
    command = ["restore", source, "-o", tmp_path / "o.png", "--samples", 2]
    shaken = ["--task", "deblur-motion", "--operator-arg", "length=3", "--operator-arg", "border=inside", "--steps", 2]
    result = run(*command, *shaken, "--model", model, "--device", "cpu")
    succeeds(result)
    assert "drawn by diffpir, which needs no SVD" in result.stdout
    first, second = (images.load(tmp_path / f"o-{i}.png").tensor for i in (1, 2))
    assert not torch.equal(first, second)
    fails(run(*command), 2, "--samples must be 1 for this --model, which has no noise: all would be the same")


def test_less_noise_than_rounding_leaves_is_doubted_where_that_matters(model: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", side=32)
    command = ["restore", source, "-o", tmp_path / "o.png", "--model", model, "--device", "cpu", "--steps", 2, "--task"]
    told = f"note: {source} has more noise than sigma_y 0: 8 bits are rounded, by 0.0023, which undoing this damage"
    for task, sigma_y, doubted in (
        ("deblur-gauss", 0, True),
        ("deblur-gauss", 0.0023, False),
        ("deblur-gauss", 0.003, False),
        ("sr2", 0, False),
    ):
        assert (told in run(*command, task, "--sigma-y", sigma_y).stderr) is doubted
    inside = ["deblur-motion", "--operator-arg", "length=3", "--operator-arg", "border=inside"]
    assert told in run(*command, *inside, "--sigma-y", 0).stderr


def test_one_step_of_a_prior_is_too_few(model: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    command = ["restore", source, "-o", tmp_path / "o.png", "--task", "denoise", "--model", model, "--device", "cpu"]
    assert "one step" not in run(*command, "--steps", 1).stderr  # which DPIR begins where the noise is
    assert "in one step, as all that dpir needs" in run(*command, "--steps", 5).stdout
    command += ["--method", "ddrm"]
    told = run(*command, "--steps", 1)
    assert told.exit_code == 0, told.output
    assert f"note: {source} was restored in one step" in told.stderr
    assert "one step" not in run(*command, "--steps", 2).stderr
    fails(run(*command, "--steps", 1, "--sigma-y", 0.1), 1, "got 0.1; more steps start at more noise")


def test_samples_and_means_of_a_trained_restorer(tmp_path: Path) -> None:
    folder, source = save_rddm(tmp_path / "model"), picture(tmp_path / "a.png")
    command = ["restore", source, "--model", folder, "--device", "cpu", "--steps", 2]
    succeeds(run(*command, "-o", tmp_path / "out.npy", "--samples", 3))
    samples = [np.load(tmp_path / f"out-{i}.npy") for i in (1, 2, 3)]
    assert not np.array_equal(samples[0], samples[1])
    succeeds(run(*command, "-o", tmp_path / "mean.npy", "--samples", 3, "--average"))
    np.testing.assert_allclose(np.load(tmp_path / "mean.npy"), np.mean(samples, axis=0), atol=1e-6)
    succeeds(run(*command, "-o", tmp_path / "second.npy", "--seed", 1))
    np.testing.assert_array_equal(np.load(tmp_path / "second.npy"), samples[1])


# --- noise -----------------------------------------------------------------------------------------------------------


def photo(level: float = 0.0) -> torch.Tensor:
    """A bundled photograph with white noise of `level` of 255, as an 8-bit file holds it."""
    folder = Path(DEFAULT_RESTORER).parent / "photos"
    x = images.load(sorted(folder.glob("*.png"))[0]).tensor[..., :160, :160]
    y = x + level / 127.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return images.to_tensor(images.to_pil(y)[0])


def test_the_noise_of_a_picture_is_estimated(restore: Restore, tmp_path: Path) -> None:
    images.save(photo(20), tmp_path / "a.png")
    result = restore(tmp_path / "a.png", "-o", tmp_path / "o.png", "--sigma-y", "estimate", "--json")
    succeeds(result)
    note, _ = json.loads(result.stdout)["notes"]
    assert float(note.split()[1].rstrip(",")) * 127.5 == pytest.approx(20, rel=0.05)
    np.save(tmp_path / "small.npy", np.zeros((3, 12, 12), np.float32))
    result = restore(tmp_path / "small.npy", "-o", tmp_path / "o.png", "--sigma-y", "estimate")
    fails(result, 1, "image must have more whole patches of 8 x 8 pixels", "state the noise instead")


def test_the_bundled_restorer_leaves_clean_pictures_alone(tmp_path: Path) -> None:
    for level in (0, 10, 50):
        images.save(photo(level), tmp_path / f"{level}.png")
    command = ["restore", "-o", tmp_path / "o.png", "--device", "cpu", "--steps", 1]
    result = run(*command, tmp_path / "0.png")
    succeeds(result)
    assert "left as it is: restoring would change it by " in result.stdout
    clean = images.load(tmp_path / "0.png").tensor
    assert torch.equal(images.load(tmp_path / "o.png").tensor, clean)
    images.save(clean, tmp_path / "0.jpg", quality=97)
    shutil.copyfile(tmp_path / "0.jpg", tmp_path / "jpeg.png")  # by a name that isn't its own
    for name, more, same in (("0.jpg", (), True), ("0.jpg", ("--quality", 90), False), ("jpeg.png", (), False)):
        made = tmp_path / f"kept{Path(name).suffix}"
        result = run("restore", tmp_path / name, "-o", made, "--device", "cpu", "--steps", 1, *more)
        assert "left as it is" in result.stdout
        assert (made.read_bytes() == (tmp_path / name).read_bytes()) == same
    result = run(*command, tmp_path / "0.png", "--strength", 1)
    assert "left" not in result.stdout
    assert not torch.equal(images.load(tmp_path / "o.png").tensor, clean)
    result = run(*command, tmp_path / "10.png")
    succeeds(result)
    assert "left" not in result.stdout
    result = run(*command, tmp_path / "50.png")
    assert "of 255 grey levels, and this restorer was trained for 30 at most; the task denoise" in result.stderr


def test_noise_that_jpeg_hides_is_removed(tmp_path: Path) -> None:
    """Of its patches JPEG leaves no noise to be seen, and noise leaves no blocks of JPEG."""
    x = photo(0)
    images.to_pil(photo(25))[0].save(tmp_path / "a.jpg", quality=90)
    result = run("restore", tmp_path / "a.jpg", "-o", tmp_path / "o.png", "--device", "cpu")
    succeeds(result)
    assert "left" not in result.stdout
    before, after = (psnr(images.load(tmp_path / name).tensor[0], x[0]) for name in ("a.jpg", "o.png"))
    assert after > before + 4
