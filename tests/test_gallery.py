"""The gallery: its pages, their links and figures, and that the printed command makes the picture."""

from __future__ import annotations

import html
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from PIL import Image
from test_examples import load

import diffusers_restore
from diffusers_restore import images
from diffusers_restore.cli import main
from diffusers_restore.evaluation.metrics import psnr

CHELSEA = Path(diffusers_restore.__file__).parent / "assets" / "photos" / "chelsea.png"


class Elements(HTMLParser):
    """All elements of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "photos").mkdir()
    Image.open(CHELSEA).crop((60, 60, 188, 164)).save(folder / "photos" / "a cat.png")
    (folder / "photos" / "notes.txt").write_text("no picture")
    words = ["--output_dir", str(folder / "pages"), "--photos", str(folder / "photos"), "--size", "32"]
    return [*words, "--tasks", "jpeg", "inpaint", "blind", "--methods", "dpir", "ddrm-jpeg"]


@pytest.fixture(scope="module")
def gallery(arguments: list[str]) -> Path:
    load("examples/gallery.py").main(arguments)
    return Path(arguments[1])


def test_pages_links_and_texts(gallery: Path) -> None:
    pages = sorted(gallery.glob("*.html"))
    assert [one.stem for one in pages] == ["blind", "index", "inpaint", "jpeg"]
    for page in pages:
        elements = Elements(page)
        assert not elements.of("script")
        targets = [one["href"] for tag in ("a", "link") for one in elements.of(tag)] + [
            one["src"] for one in elements.of("img")
        ]
        assert len(targets) > 3
        for target in targets:
            assert (gallery / unquote(target.partition("#")[0])).exists(), f"{page.name}: {target}"
        assert all(one["alt"].startswith("a cat, ") for one in elements.of("img"))
    assert len(Elements(gallery / "jpeg.html").of("section")) == 1
    assert {one["href"] for one in Elements(gallery / "index.html").of("a")} >= {"jpeg.html", "inpaint.html"}


def test_what_cannot_be_done_is_left_out_with_the_reason(gallery: Path) -> None:
    page = (gallery / "jpeg.html").read_text()
    assert "<b>dpir</b>: DPIRScheduler can&#x27;t restore from" in page
    assert "Methods that can" not in page
    assert not (gallery / "jpeg" / "a cat-dpir.png").exists()
    assert page.count('class="compare"') == 1
    assert (gallery / "inpaint.html").read_text().count('class="compare"') == 2


def test_figures_are_those_of_the_pictures(gallery: Path) -> None:
    for page, method in (("jpeg", "ddrm-jpeg"), ("inpaint", "dpir"), ("blind", "bundled-restorer")):
        original = f"{page}/a cat-original.png" if page == "blind" else "originals/a cat.png"
        x, y, restored = (
            images.load(gallery / one).tensor[0]
            for one in (original, f"{page}/a cat.png", f"{page}/a cat-{method}.png")
        )
        assert x.shape[1:] == ((64, 64) if page == "blind" else (32, 32))
        record = json.loads((gallery / page / f"a cat-{method}.json").read_text())
        assert record["psnr"] == psnr(restored, x)
        assert record["evaluations"] == {"jpeg": 20, "inpaint": 24, "blind": 1}[page]
        text = re.sub(r"<[^>]*>", "", (gallery / f"{page}.html").read_text())
        gain = re.search(rf"{psnr(restored, x):.2f} dB \(([-+][\d.]+)", text)
        assert gain is not None
        assert float(gain[1]) == pytest.approx(psnr(restored, x) - psnr(y, x), abs=0.05)
        assert f"SSIM {record['ssim']:.3f}, {record['seconds']:.1f} s, {record['evaluations']} network" in text


def test_the_printed_commands_make_the_same_pictures(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gallery)
    made = 0
    for page in ("jpeg", "inpaint", "blind"):
        for code in re.findall(r"<code>(diffusers-restore .*?)</code>", (gallery / f"{page}.html").read_text()):
            _, *words = shlex.split(html.unescape(code))
            target = words[words.index("-o") + 1]
            words[words.index("-o") + 1] = "again.png"
            done = CliRunner().invoke(main, words, catch_exceptions=False)
            assert done.exit_code == 0, done.output
            assert (gallery / "again.png").read_bytes() == (gallery / target).read_bytes(), code
            made += 1
    (gallery / "again.png").unlink()
    assert made == 6  # two damaged, four restored


def test_the_border_stops_wherever_a_button_is(gallery: Path) -> None:
    style, elements = (gallery / "style.css").read_text(), Elements(gallery / "jpeg.html")
    buttons = elements.of("input")
    assert len({one["name"] for one in buttons}) == 1
    assert [one["style"] for one in buttons] == [f"--n:{n}" for n in range(len(buttons))]
    assert [one["aria-label"] for one in buttons if "checked" in one] == ["50 %"]
    for n, one in enumerate(buttons):
        place = one["aria-label"].replace(" ", "")
        for state in ("checked", "hover"):
            assert f"input:nth-of-type({n + 1}):{state} ~ * {{ --x: {place}; }}" in style


def test_what_is_there_is_kept(gallery: Path, arguments: list[str]) -> None:
    kept, lost = gallery / "inpaint" / "a cat-dpir.png", gallery / "inpaint" / "a cat-ddrm-jpeg.png"
    before, picture = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    load("examples/gallery.py").main(arguments)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == picture


def test_what_is_refused(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load("examples/gallery.py")
    with pytest.raises(SystemExit):
        script.main([*arguments, "--size", "40"])
    assert "a multiple of 16" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no pictures in"):
        script.main([*arguments, "--photos", str(tmp_path)])
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    with pytest.raises(SystemExit, match=r"must differ, got a\.bmp, a\.png"):
        script.main([*arguments, "--photos", str(tmp_path)])
