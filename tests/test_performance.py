"""The page of what was measured says what the results say."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module of benchmarks/, by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module


@pytest.fixture
def performance(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("performance")


def test_the_page_is_made_of_the_results(performance: Any) -> None:
    made, there = performance.to_markdown(), performance.PAGE.read_text()
    assert there == made, "python benchmarks/performance.py makes docs/performance.md anew"


def test_the_curves_are_drawn(performance: Any, tmp_path: Path) -> None:
    rows = [{"axis": axis, "value": n, "s": 0.1 * n, "peak, MB": n} for axis in ("pixels", "steps") for n in (1, 2)]
    rows += [{"task": "sr4", "side": n, "set-up, s": 0.1, "update, ms": 1.0, "peak, MB": 1.0} for n in (256, 512)]
    files = performance.draw_curves(rows, tmp_path)
    assert [file.name for file in files] == ["growth.png", "growth_operators.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_seam_is_seen(benchmark: Callable[[str], Any]) -> None:
    seam = benchmark("tiles").seam
    smooth = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    assert seam(smooth + smooth.mT, [16, 32], [32]) == pytest.approx(1, rel=1e-4)
    step = smooth + smooth.mT + (torch.arange(64) >= 32) * 0.5
    assert seam(step, [16, 32], [32]) > 5
    assert seam(torch.zeros(1, 3, 8, 8), [4], [4]) == 1


def test_kills_are_counted_on_the_page(benchmark: Callable[[str], Any], performance: Any) -> None:
    processes = benchmark("processes")
    rates = dict.fromkeys(("1 process, pictures/s", "2 processes, pictures/s", "ratio", "min", "max"), 2.0)
    rows = [
        {"work": work, **rates, "1 process, s in all": 9.0, "2 processes, s in all": 8.0} for work in processes.WORK
    ]
    kills = {"kills": 20, "of these while pictures were being restored": 7, "done": 1}
    kills |= {"noted and made again": 0, "lost, wrong or left over": 0, "written but not yet noted, so made again": 1}
    run = {"command": "c", "pictures": 4, "side": 64, "runs": 3}
    assert "| 20 | 7 |" in processes.to_markdown(run, rows, kills)
    page = performance.processes({"run": run, "rows": rows, "kills": kills})
    assert "SIGKILL 20 times at random moments, 7 of them" in page
    assert "0 pictures lost" in page


def test_networks_on_paper(benchmark: Callable[[str], Any]) -> None:
    """Bytes of gradients, and the operations of a convolution of known size."""
    ours, large = benchmark("growth").on_paper()
    assert large["parameters, M"] == pytest.approx(113.673219)
    assert large["training, MB of gradients per step"] == pytest.approx(4 * 113.673219)
    assert large["ms per step over PCIe 4.0 x16"] == pytest.approx(2 * 4 * 113.673219e6 / 25e9 * 1000)
    assert ours["parameters, M"] < 6
