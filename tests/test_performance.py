"""The page of what was measured says what the results say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def performance(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("performance", None)
    import performance

    return performance


def test_the_page_is_made_of_the_results(performance: object) -> None:
    made, there = performance.to_markdown(), performance.PAGE.read_text()  # type: ignore[attr-defined]
    assert there == made, "python benchmarks/performance.py makes docs/performance.md anew"


def test_the_curves_are_drawn(performance: object, tmp_path: Path) -> None:
    rows = [{"axis": axis, "value": n, "s": 0.1 * n, "peak, MB": n} for axis in ("pixels", "steps") for n in (1, 2)]
    rows += [{"task": "sr4", "side": n, "set-up, s": 0.1, "update, ms": 1.0, "peak, MB": 1.0} for n in (256, 512)]
    files = performance.draw_curves(rows, tmp_path)  # type: ignore[attr-defined]
    assert [file.name for file in files] == ["growth.png", "growth_operators.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
