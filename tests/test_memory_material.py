"""The benchmark of memory: a row by a process of its own, kept rows, and the page."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("script_memory", ROOT / "benchmarks" / "memory.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["script_memory"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_by_a_process_of_its_own(script: Any, tmp_path: Path) -> None:
    words = ["--models", "denoise", "--dtypes", "float32", "--pixels", "480x64", "--tile", "32"]
    script.main([*words, "--output", str(tmp_path / "memory")])
    (row,) = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert (row["model"], row["dtype"], row["pixels"], row["tiles"]) == ("denoise", "float32", "480x64", 15)
    assert 300 < row["peak, MB"] < 3000  # it has imported torch
    assert 0 <= row["peak - loaded, MB"] < row["peak, MB"]  # what loading freed may suffice
    assert "| denoise | float32 | 480x64 | 15 |" in (tmp_path / "memory.md").read_text()


def test_rows_are_kept_and_in_order(script: Any) -> None:
    def row(model: str, dtype: str, pixels: str, peak: float = 1.0) -> dict[str, Any]:
        return (
            {"model": model, "dtype": dtype, "pixels": pixels}
            | dict.fromkeys(script.COLUMNS, 1)
            | {"model": model, "dtype": dtype, "pixels": pixels, "peak, MB": peak}
        )

    rows: list[dict[str, Any]] = []
    for one in (
        row("sr4", "float32", "4032x3024", 4001),
        row("denoise", "float32", "1024x1024"),
        row("denoise", "float32", "96x64"),
        row("denoise", "bfloat16", "4032x3024", 3999),
        row("denoise", "float32", "96x64", 7),
    ):
        rows = script.merged(rows, one)
    assert [(one["dtype"], one["pixels"]) for one in rows] == [
        ("bfloat16", "4032x3024"),
        ("float32", "96x64"),
        ("float32", "1024x1024"),
        ("float32", "4032x3024"),
    ]
    assert rows[1]["peak, MB"] == 7
    assert "**4032x3024 pixels: 1 of 2 rows within 4000 MB" in script.to_markdown(rows, {"torch": "2"})
