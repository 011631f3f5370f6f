"""The documentation as a site: `make docs`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pages import DOCS, ROOT

LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object|link)\b[^>]*?\b(?:src|href|data)=["']?([^"'\s>]+)"""
)
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""")
ELSEWHERE = re.compile(r"(?:https?:)?//")


def test_the_site_is_complete_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Strict: a link or an anchor that leads nowhere, or a name that the reference doesn't find, is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr

    there = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    there |= {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.ipynb")}
    there |= {f"benchmarks/results/{path.stem}" for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    for name in there:
        page = tmp_path / name.removesuffix("index") / "index.html"
        assert page.is_file(), name
    assert (tmp_path / "notebooks" / "methods.ipynb").is_file()

    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    for path, text in pages.items():
        assert not [target for target in LOADED.findall(text) if ELSEWHERE.match(target)], path
        assert 'class="mermaid"' not in text, path  # whose script would come from elsewhere
        assert "arithmatex" not in text, path  # a formula that has not become MathML
    for path in tmp_path.rglob("*.css"):
        assert not [target for target in IN_STYLES.findall(path.read_text()) if ELSEWHERE.match(target)], path

    formulas = pages[tmp_path / "papers" / "ddrm" / "index.html"]
    assert formulas.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') == 1
    reference = pages[tmp_path / "reference" / "schedulers" / "index.html"]
    assert 'id="diffusers_restore.schedulers.scheduling_dpir.DPIRScheduler"' in reference
