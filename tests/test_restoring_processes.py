"""Several processes share a folder: each picture is restored once, whatever fails, is killed or is there already."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image
from warm import PATIENCE

import diffusers_restore
from diffusers_restore.restoring import ArgumentError
from diffusers_restore.restoring.processes import Processes, running

PHOTO = Path(diffusers_restore.__file__).parent / "assets" / "photos" / "chelsea.png"
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "diffusers_restore")


def started(*words: object) -> subprocess.Popen[str]:
    """Two processes of `diffusers-restore restore`."""
    command = [sys.executable, *LAUNCH, "restore", *map(str, words), "--strength", "1", "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "scans").mkdir()
    with Image.open(PHOTO) as photo:
        for i in range(6):
            photo.crop((10 * i, 0, 10 * i + 48, 32)).save(tmp_path / "scans" / f"{i}.png")
    return tmp_path / "scans"


def records(out: Path) -> list[str]:
    return [json.loads(line)["result"] for line in (out / ".restored.jsonl").read_text().splitlines() if line]


def test_shares_are_the_whole() -> None:
    items = list(range(7))
    shares = [Processes(rank, 3).share(items) for rank in range(3)]
    assert sorted(itertools.chain(*shares)) == items
    assert Processes().share(items) == items
    assert Processes().gather("a") == ["a"]
    assert [Processes(1, 2, 1).device(name) for name in ("cpu", "cuda:3", "mps")] == ["cpu", "cuda:3", "mps"]


def test_one_process_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert running() == Processes()


def test_sheets_are_for_one_process(scans: Path, tmp_path: Path) -> None:
    from diffusers_restore.restoring import kinds
    from diffusers_restore.restoring.restorer import Batch

    model, kind = kinds.choose(None, [])
    with pytest.raises(ArgumentError, match="sheet is for one process, which sees all results; there are 2"):
        Batch(kind.restorer(model), scans, f"{tmp_path}/out/", sheet=tmp_path / "s.png", processes=Processes(0, 2))


def test_two_processes_restore_each_picture_once(scans: Path, tmp_path: Path) -> None:
    """One is cut off by a kill, and goes on; a picture that can't be read doesn't stop the others."""
    (scans / "bad.png").write_text("no picture")
    out = tmp_path / "out"
    run = started(scans, "-o", f"{out}/", "--resume")
    deadline = time.monotonic() + 120 * PATIENCE
    while not (out / ".restored.jsonl").exists() and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(random.uniform(0, 0.02))
    launcher = psutil.Process(run.pid)
    for process in (launcher, *launcher.children(recursive=True)):  # the launcher's are in groups of their own
        process.kill()
    run.communicate()
    before = records(out)
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    run = started(scans, "-o", f"{out}/", "--resume", "--reference", scans)
    printed, errors = run.communicate(timeout=200 * PATIENCE)
    assert run.returncode == 1, errors
    assert sorted(set(records(out))) == sorted(f"{i}.png" for i in range(6))
    assert len(records(out)) == 6, "one was done twice"
    assert {name: (out / name).stat().st_mtime_ns for name in before} == times
    assert len([line for line in printed.splitlines() if "skipped" in line]) == len(before)
    assert f"{7 - len(before)} pictures by 2 processes in " in printed
    assert "mean of 6  PSNR" in printed
    assert "bad.png: cannot read" in errors
    for i in range(6):
        with Image.open(out / f"{i}.png") as made:
            assert made.size == (48, 32)
