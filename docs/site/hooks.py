"""What `make docs` adds to MkDocs: files outside of docs/, notebooks as pages, and formulas as MathML.

Pages link to files of the repository as on a git host, `../benchmarks/results/quality.md`. Whatever is linked becomes
part of the site: pages as pages, other text as a page that shows it, pictures as they are.
"""

from __future__ import annotations

import html
import json
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.hooks")
ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
OUTSIDE = re.compile(r"[a-z]+:|#")
SHOWN = {".csv": "text", ".json": "json", ".py": "python", ".toml": "toml", ".yaml": "yaml"}
PRIMES = re.compile(r"('+)\^(\{[^}]*\}|.)")
PICTURE = re.compile(r'<img [^>]*src="([^"]+)"[^>]*>')
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def links(text: str) -> list[str]:
    """The targets of the links of a page to files, without those in blocks of code."""
    return [target for _, target, _, _ in LINK.findall(FENCE.sub("", text)) if not OUTSIDE.match(target)]


def place(target: str, page: str) -> str:
    """A file of the repository that a page of it links to; of a folder, its page."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def uri(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path == "README.md":
        return "index.md"
    path = path.removeprefix("docs/")
    if path.endswith(".ipynb"):
        return path.removesuffix("ipynb") + "md"
    return f"{path}.md" if Path(path).suffix in SHOWN else path


def notebook_page(file: Path) -> str:
    """A notebook as a page, without its outputs."""
    parts = []
    for cell in json.loads(file.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, *rest = parts
    link = f'<a class="md-button" href="../{file.name}" download>Download the notebook</a>'
    return "\n\n".join([title, link, *rest, ""])


def outside_page(path: str) -> str | None:
    """The page that shows a text file, None for a page."""
    language = SHOWN.get(Path(path).suffix)
    if language is None:
        return None
    return f"# {Path(path).name}\n\n`{path}`\n\n````{language}\n{(ROOT / path).read_text()}````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked and lies outside of docs/, and the pages of notebooks."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.append(File.generated(config, uri(file.src_uri), content=notebook_page(ROOT / "docs" / file.src_uri)))
    results = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks" / "results").glob("*.md"))
    waiting = [*results, "CHANGELOG.md", "CONTRIBUTING.md", "DEVELOPERS.md"]
    for file in files.documentation_pages():
        waiting += [place(target, f"docs/{file.src_uri}") for target in links(file.content_string)]
    known = {"README.md"}
    while waiting:
        path = waiting.pop()
        if path in known or path.startswith("docs/") or not (ROOT / path).is_file():
            continue
        known.add(path)
        page = outside_page(path)
        if page is None:
            files.append(File.generated(config, uri(path), abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                waiting += [place(target, path) for target in links((ROOT / path).read_text())]
        else:
            files.append(File.generated(config, uri(path), content=page))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links between files of the repository into links between files of the site; give home the whole width."""
    source = page.file.src_uri
    if source == "index.md":
        page.meta["hide"] = ["navigation", "toc"]
    outside = (ROOT / source).is_file() and not (ROOT / "docs" / source).is_file()
    here = source if outside else f"docs/{source}"

    def link(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        if OUTSIDE.match(target):
            return found[0]
        path = place(target, here)
        inside = posixpath.relpath(uri(path), posixpath.dirname(source) or ".")
        return f"{before}{inside}{anchor or ''}{after}"

    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in FENCE.split(markdown))


def on_page_content(content: str, **_: Any) -> str:
    """Put MathML in the place of formulas, and a link to itself around each picture, of which many are large sheets."""

    def power(found: re.Match[str]) -> str:  # x'^2, which latex2mathml takes for two superscripts
        primes = r"\prime" * len(found[1])
        return f"^{{{primes} {found[2].strip('{}')}}}"

    def formula(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        text = PRIMES.sub(power, html.unescape(found[2]).strip())
        made = convert(text, display=display)
        if "\\" in made:
            LOG.warning("latex2mathml does not know a command in %r", text)
        return f'<div class="formula">{made}</div>' if found[1] == "div" else made

    return PICTURE.sub(r'<a href="\1">\g<0></a>', FORMULA.sub(formula, content))
