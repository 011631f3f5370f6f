"""Files written aside: whole or unchanged, with the rights of new files, and nothing of killed processes left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import make_unet
from safetensors.torch import save_file

from diffusers_restore import DDRMPipeline, DDRMScheduler
from diffusers_restore.files import _machine, _remove_leftovers, write_bytes, written_aside
from diffusers_restore.training.checkpoints import save_checkpoint


@pytest.fixture
def ended() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@pytest.fixture(params=[0o022, 0o027])
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    """The rights of new files under a umask."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def test_what_a_killed_process_left_is_removed(tmp_path: Path, ended: int) -> None:
    names = {
        "killed here": f".diffusers_restore-{_machine()}-{ended}-{'0' * 32}",
        "being written": f".diffusers_restore-{_machine()}-{os.getppid()}-{'1' * 32}",
        "on another machine": f".diffusers_restore-elsewhere-{ended}-{'2' * 32}",
        "of an old version": f".diffusers_restore-{'3' * 32}",
        "a user's": ".diffusers_restore-notes",
        "old, being written": f".diffusers_restore-{_machine()}-{os.getppid()}-{'4' * 32}",
        "old, on another machine": f".diffusers_restore-elsewhere-{ended}-{'5' * 32}",
        "old, of an old version": f".diffusers_restore-{'6' * 32}",
        "old, a user's": ".diffusers_restore-more-notes",
    }
    for what, name in names.items():
        (tmp_path / name).write_bytes(b"half")
        if what.startswith("old"):
            os.utime(tmp_path / name, (time.time() - 90_000,) * 2)
    _remove_leftovers.cache_clear()
    write_bytes(tmp_path / "new.txt", b"whole")
    left = {what for what, name in names.items() if (tmp_path / name).exists()}
    assert left == {"being written", "on another machine", "of an old version", "a user's", "old, a user's"}
    assert (tmp_path / "new.txt").read_bytes() == b"whole"


def test_a_file_being_written_tells_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.extend(path.name for path in tmp_path.iterdir()))
    write_bytes(tmp_path / "new.txt", b"whole")
    assert seen[0].startswith(f".diffusers_restore-{_machine()}-{os.getpid()}-")


def test_checkpoints_follow_the_umask(tmp_path: Path, mode: int) -> None:
    save_checkpoint(tmp_path / "checkpoint-1", {"unet": {"a": torch.zeros(1)}}, {"step": 1}, limit=1)
    files = list((tmp_path / "checkpoint-1").iterdir())
    assert {path.name for path in files} == {"unet.safetensors", "state.json", "manifest.json"}
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


def test_saved_pipelines_follow_the_umask(tmp_path: Path, mode: int) -> None:
    DDRMPipeline(make_unet(), DDRMScheduler()).save_pretrained(tmp_path / "saved")
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_a_folder_that_failed_is_removed(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), written_aside(tmp_path / "new.part") as aside:  # noqa: PT012
        save_file({"a": torch.zeros(1)}, aside / "a.safetensors")
        raise error
    assert list(tmp_path.iterdir()) == []
