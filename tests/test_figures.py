"""What texts say of quality is what the benchmarks have measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TEXTS = [
    path
    for pattern in ("README.md", "DEVELOPERS.md", "docs/**/*.md", "diffusers_restore/assets/*/README.md")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "performance.md"  # made of the results as a whole: tests/test_performance.py
]

_OF_QUALITY = re.compile(r"\bdB\b|PSNR|SSIM|RMSE")
_FIGURE = re.compile(r"(?<![\w./:-])\d+\.\d+(?!\w|\.\d)")
_NUMBER = re.compile(r"\d+\.\d+")
_RESULT = re.compile(r"results/(\w+)\.(?:md|json|png|jpg)")
# Of one run of a page's own example, which the page says; the deviation of rounding to 8 bits.
OWN = {"docs/tutorials/train_from_pairs.md": {"26.6", "20.5"}, "docs/ddrm.md": {"0.0023"}}


@cache
def measured() -> dict[str, list[float]]:
    """The numbers of the page of each result: not all of its data, in which any figure may be found by chance."""
    return {path.stem: [float(one) for one in _NUMBER.findall(path.read_text())] for path in RESULTS.glob("*.md")}


def is_measured(figure: str, results: list[float]) -> bool:
    return any(f"{value:.{len(figure.split('.')[1])}f}" == figure for value in results)


def unmeasured(text: str) -> list[str]:
    """The figures of a text's paragraphs on quality that aren't in the results which it names, or in any."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    known, page = measured(), {name for name in _RESULT.findall(text) if name in measured()}
    missing, before = [], ""
    for block in re.split(r"\n\s*\n", text):
        about = block if block[:1] not in "|<" else before + block  # a table is about what its introduction is
        before = block
        if _OF_QUALITY.search(about):
            named = {name for name in _RESULT.findall(block) if name in known and block == about} or page or set(known)
            results = [value for name in named for value in known[name]]
            missing += [figure for figure in _FIGURE.findall(block) if not is_measured(figure, results)]
    return missing


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_figure_is_in_a_result_file(path: Path) -> None:
    missing = set(unmeasured(path.read_text())) - OWN.get(str(path.relative_to(ROOT)), set())
    assert not missing, "these figures are in none of the results that the page names"


def test_a_made_up_figure_is_found() -> None:
    text = "Deblurring gains 77.77 dB ([figures](benchmarks/results/quality.md)); version 1.2345.\n\nPython 3.11."
    assert unmeasured(text) == ["77.77", "1.2345"]
    assert unmeasured((ROOT / "README.md").read_text().replace("30.90", "30.91")) == ["30.91"]


def test_the_tables_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures: Any = import_module("figures")
    for page in figures.PAGES:
        assert page.read_text() == figures.renewed(page), f"make figures renews {page.name}"
    used: Callable[[str], list[str]] = re.compile(r"<!-- figures: (\S+) -->").findall
    assert {name for page in figures.PAGES for name in used(page.read_text())} == set(figures.MADE)
