"""The documentation as a site: `make docs`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml
from pages import DOCS, ROOT

import diffusers_restore
from diffusers_restore.registries import METHODS

LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object|link)\b[^>]*?\b(?:src|href|data)=["']?([^"'\s>]+)"""
)
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""")
ELSEWHERE = re.compile(r"(?:https?:)?//")


def pages_of_ours() -> set[str]:
    """All in docs/, but for that of PyPI."""
    return {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"pypi.md"}


def test_the_site_is_complete_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Strict: a link or an anchor that leads nowhere, or a name that the reference doesn't find, is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr

    there = {Path(page).with_suffix("").as_posix() for page in pages_of_ours()}
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
    reference = "".join(text for path, text in pages.items() if path.is_relative_to(tmp_path / "reference"))
    for name in diffusers_restore.__all__:
        public = getattr(diffusers_restore, name)
        if isinstance(public, type | FunctionType):
            assert f'id="{public.__module__}.{public.__qualname__}"' in reference, name


def leaves(nav: Any) -> Iterator[str]:
    """The pages of the navigation."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(part)


def test_the_navigation_has_every_page_of_ours_once() -> None:
    there = [*leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])]
    results = {f"benchmarks/results/{path.name}" for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert len(there) == len(set(there))
    assert pages_of_ours() | results <= set(there)


def test_every_method_has_a_page() -> None:
    named = (DOCS / "papers" / "index.md").read_text()
    for name in METHODS:
        page = f"{name.replace('-', '_')}.md"
        assert (DOCS / "papers" / page).is_file(), name
        assert f"]({page})" in named, name
