"""The benchmark of GPUs at toy size: what it measures, its budget, its notes, its page, and where toys may not go."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from diffusers import UNet2DModel
from test_cuda import Waits
from torch.utils._pytree import tree_map

from diffusers_restore import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("script_gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["script_gpu"] = module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "benchmarks"))  # where it finds the others
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "benchmarks"))
    yield module
    del sys.modules["training"]


@pytest.fixture(autouse=True)
def alarms(script: Any, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The alarms that were set; real ones would end those of pytest-timeout."""
    found: list[float] = []
    monkeypatch.setattr(script.signal, "setitimer", lambda which, seconds: found.append(seconds))
    return found


def settings(script: Any, seconds: float = 60.0) -> Any:
    return script.Settings(torch.device("cpu"), True, seconds)


def test_the_network_of_the_hub(script: Any) -> None:
    with torch.device("meta"):
        network = UNet2DModel(**script.CELEBAHQ)
    assert sum(one.numel() for one in network.parameters()) == 113_673_219


def test_rows_are_written_one_by_one_and_what_fails_is_noted(
    script: Any, monkeypatch: pytest.MonkeyPatch, alarms: list[float]
) -> None:
    def fails(error: BaseException) -> Any:
        def measure() -> dict[str, Any]:
            raise error

        return measure

    def part(on: Any) -> Iterator[Any]:
        yield {"batch": 1}, lambda: {"ms": 2.5}
        yield {"batch": 64}, fails(torch.OutOfMemoryError("CUDA out of memory"))
        yield {"batch": 3}, fails(RuntimeError("a\nb"))
        yield {"batch": 4}, fails(script.OutOfTime())

    monkeypatch.setitem(script.PARTS, "batches", (part, "Batches"))
    written: list[tuple[int, int]] = []
    last: dict[str, Any] = {}

    def write(rows: dict[str, list[Any]], left: list[str]) -> None:
        written.append((len(rows.get("batches", ())), len(left)))
        last.update(rows=dict(rows), left=list(left))

    script.run_parts(["batches"], settings(script), write)
    assert written == [(1, 0), (2, 0), (3, 0), (3, 1)]
    assert [row.get("note") for row in last["rows"]["batches"]] == [None, "doesn't fit", "failed: RuntimeError: a b"]
    assert last["left"] == ["batches: 4"]
    assert len(alarms) == 8
    assert alarms[1::2] == [0] * 4
    assert 50 < alarms[0] <= 60

    script.run_parts(["batches"], settings(script, 0.0), write)
    assert last["left"] == [f"batches: {batch}" for batch in (1, 64, 3, 4)]
    with pytest.raises(script.OutOfTime):
        script._alarm(0, None)


def test_the_page(script: Any) -> None:
    rows = {
        "batches": [{"pixels": 64, "batch": 1, "ms/step": 1.234, "peak, MB": 10.0}, {"pixels": 512, "note": "no room"}]
    }
    page = script.to_markdown({"title": "What a GPU decides: X", "torch": "2"}, rows, ["hub: 16"])
    assert page.startswith("# What a GPU decides: X\n\n## Batches and sizes")
    assert "| 64 | 1 | 1.23 | 10.0 | – |\n| 512 | – | – | – | no room |" in page
    assert "## Left out by the budget\n\n- hub: 16\n\n## How it was run\n\n- torch: 2\n" in page
    assert script.counts("1 failed, 12 passed, 3 skipped in 2.31s") == {"passed": 12, "failed": 1, "skipped": 3}


def test_figures_of_a_toy_do_not_pass_for_those_of_a_card(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "logging", Mock())  # of diffusers, whose level is that of the process
    assert script.parse_args(["--quick"]).output == ROOT / "build" / "gpu_toy"
    with pytest.raises(SystemExit):
        script.parse_args(["--quick", "--output", str(script.RESULTS / "gpu")])
    assert "which is for those of a card" in capsys.readouterr().err
    script.main(["--quick", "--parts", "syncs", "batches", "--output", str(tmp_path / "gpu")])
    first, *_ = (tmp_path / "gpu.md").read_text().splitlines()
    assert first.startswith("# A toy's figures, which say nothing about a GPU")
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert not written["left out"]
    assert all(row["ms/step"] > row["outside the network, ms/step"] for row in written["rows"]["batches"])


def test_every_trainer_is_measured(script: Any) -> None:
    assert script.TRAINERS.keys() == cli.main.commands["train"].commands.keys()  # type: ignore[attr-defined]
    with script.prepared("old-photo-detector", "no", settings(script)) as (step, rate, what):
        (loss,) = step()[0].values()
        assert loss.isfinite()
        assert rate() > 0
        assert (what["pixels"], what["batch"]) == (32, 2)


@pytest.mark.parametrize("name", ["prior", "cold", "rddm", "pix2pix", "old-photo-vae"])
def test_losses_and_gradients_wait_for_nothing(script: Any, name: str, tmp_path: Path) -> None:
    """By the meta device, for pictures that are damaged already."""
    (tmp_path / "photos").mkdir()
    script.write_photos(tmp_path / "photos", 2)
    objective, networks, *_ = script.captured(name, {"validation_images": 0}, tmp_path, True)
    side = 96 if "resolution" in script.TRAINERS[name][1] else 32
    corrupted = objective.corrupt((torch.zeros(2, 3, side, side),), torch.Generator().manual_seed(0))
    there = tree_map(lambda one: one.to("meta") if isinstance(one, torch.Tensor) else one, corrupted)
    placed = {key: network.to("meta").train() for key, network in networks.items()}
    with Waits() as waits:
        for phase in objective.phases:
            torch.stack(list(objective.losses(phase, placed, there).values())).sum().backward()
    assert not waits.found
