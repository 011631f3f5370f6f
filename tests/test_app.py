"""The page in the browser, without and with one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from warm import Python

from diffusers_restore import images
from diffusers_restore.app import asking, equivalents, views
from diffusers_restore.app.asking import BETTER, MODEL, OLD, TASK, Asked, asked
from diffusers_restore.app.examples import EXAMPLES, PHOTOS, make
from diffusers_restore.app.server import is_loopback
from diffusers_restore.app.working import Ended, Visit, Working, Workshop, message
from diffusers_restore.cli import main
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.restoring import ArgumentError

WAIT = 120_000  # ms, for a machine that is busy
WAITS = 120.0  # s


def _shown(default: Any) -> Any:
    return asking.written(default) if isinstance(default, tuple) else default


def values(**changed: Any) -> dict[str, Any]:
    """What the page sends where nothing was touched, but for these."""
    untouched = {
        "goal": BETTER,
        "task": "denoise",
        "method": "auto",
        "noise": asking.ROUNDING,
        "grey_levels": 25,
        "model": "",
        "start": 0,
        "direct": False,
        "strength": 1,
        "seed": 0,
        "faded": False,
        "steps": 0,
        "samples": 1,
        "average": False,
    }
    for arguments in (asking.arguments_of_tasks(), asking.arguments_of_methods()):
        untouched |= {one.key: _shown(one.default) for several in arguments.values() for one in several}
    return untouched | changed


@pytest.mark.parametrize(
    ("changed", "model", "options"),
    [
        ({}, None, {}),
        ({"strength": 0.5, "seed": 3, "steps": 7, "model": "x", "task": "sr4"}, None, {"strength": 0.5}),
        ({"goal": OLD, "seed": 3.0}, None, {"scratches": "auto", "seed": 3}),
        ({"goal": OLD, "faded": True}, None, {"scratches": "auto", "faded": True}),
        ({"goal": BETTER, "faded": True}, None, {}),
        ({"goal": TASK, "noise": "estimate"}, None, {"task": "denoise", "sigma_y": "estimate"}),
        ({"goal": TASK, "noise": "given", "grey_levels": 25.5}, None, {"task": "denoise", "sigma_y": 0.2}),
        (
            {"goal": TASK, "task": "deblur-gauss", "task:deblur-gauss:sigma": 1.5, "task:deblur-gauss:taps": 5},
            None,
            {"task": "deblur-gauss", "operator_args": {"sigma": 1.5}},
        ),
        (
            {"goal": TASK, "task": "colorize", "task:colorize:weights": "[0.3, 0.6, 0.1]", "model": " me/faces "},
            "me/faces",
            {"task": "colorize", "operator_args": {"weights": [0.3, 0.6, 0.1]}},
        ),
        (
            {"goal": TASK, "task": "sr4", "method": "ddrm", "method:ddrm:eta": "0.5", "samples": 2, "average": True},
            None,
            {"task": "sr4", "method": "ddrm", "eta": 0.5, "samples": 2, "average": True},
        ),
        (
            {"goal": TASK, "task": "cs2", "task:cs2:transform": "dct", "method": "dpir", "method:dpir:prior_weight": 1},
            None,
            {
                "task": "cs2",
                "operator_args": {"transform": "dct"},
                "method": "dpir",
                "method_args": {"prior_weight": 1},
            },
        ),
        (
            {"goal": TASK, "method": "daps", "method:daps:denoising_errors": "[[0.1, 0.05], [1, 0.2]]"},
            None,
            {"task": "denoise", "method": "daps", "method_args": {"denoising_errors": [[0.1, 0.05], [1, 0.2]]}},
        ),
        ({"goal": TASK, "task": "colorize"}, None, {"task": "colorize"}),  # its weights are shown with few digits
        ({"goal": MODEL, "model": "mine", "start": 3, "direct": True}, "mine", {"start": 3, "direct": True}),
    ],
)
def test_what_is_chosen_is_asked(changed: dict[str, Any], model: str | None, options: dict[str, Any]) -> None:
    assert asked(values(**changed)) == Asked(model, options)


def test_masks_and_kernels_go_where_they_are_taken() -> None:
    mask, kernel = Path("mask.png"), Path("kernel.npy")
    assert asked(values(), mask, kernel) == Asked()
    assert asked(values(goal=OLD), mask, kernel).options == {"scratches": "auto", "mask": "mask.png"}
    assert asked(values(goal=TASK, task="inpaint"), mask, kernel).options == {"task": "inpaint", "mask": "mask.png"}
    assert asked(values(goal=TASK, task="deblur"), mask, kernel).options == {"task": "deblur", "kernel": "kernel.npy"}


def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(InvalidInputError, match="weights must be a number or a list of numbers, got 'red, blue'"):
        asked(values(goal=TASK, task="colorize", **{"task:colorize:weights": "red, blue"}))
    for text in ("{1, 2}", "1j", "b'dct'", "['1']", "None"):  # no command could say them
        with pytest.raises(InvalidInputError, match="eta must be a number or a list of numbers"):
            asked(values(goal=TASK, method="ddrm", **{"method:ddrm:eta": text}))
    with pytest.raises(InvalidInputError, match="Noise: type its standard deviation"):
        asked(values(goal=TASK, noise="given", grey_levels=None))
    with pytest.raises(InvalidInputError, match="Paint over what is missing first"):
        asked(values(goal=TASK, task="inpaint"))
    with pytest.raises(InvalidInputError, match="Choose the file of the blur kernel first"):
        asked(values(goal=TASK, task="deblur"))
    with pytest.raises(InvalidInputError, match="Quality: type a number first"):
        asked(values(goal=TASK, task="jpeg", **{"task:jpeg:quality": " "}))
    with pytest.raises(InvalidInputError, match="Model: name a repository of the Hub or a folder"):
        asked(values(goal=MODEL, model=" "))
    text = message(ArgumentError("{sigma_y} must be 1 for {mask}"))
    assert text == "Noise must be 1 for the mask"
    assert message(ArgumentError("m/prior is a DDPM")) == "m/prior is a DDPM"  # the name of a folder


def small(folder: Path, name: str = "photo.png", side: int = 32) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.open(PHOTOS / "coffee.png").crop((60, 60, 60 + side, 60 + side)).save(folder / name)
    return folder / name


def last(workshop: Workshop, visit: Visit, choice: Asked, files: list[Path], folder: Path) -> Ended:
    *before, end = workshop.work(visit, choice, files, folder)
    assert isinstance(end, Ended)
    assert all(isinstance(one, Working) for one in before)
    return end


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    opened = Workshop("cpu", "float32")
    yield opened
    opened.close()
    assert not opened.root.exists()


@pytest.mark.parametrize(
    "choice",
    [
        Asked(None, {"strength": 0.5}),
        Asked(
            None,
            {
                "task": "deblur-gauss",
                "operator_args": {"sigma": 1.5, "border": "circular"},
                "sigma_y": 25 / 127.5,
                "method": "ddrm",
                "eta": 0.7,
                "steps": 2,
                "seed": 5,
                "samples": 2,
                "average": True,
            },
        ),
        Asked(
            str(Path(__file__).parent.parent / "diffusers_restore/assets/default_prior"), {"task": "sr2", "steps": 2}
        ),
    ],
)
def test_the_command_and_the_python_make_the_same(
    workshop: Workshop, choice: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit = workshop.visit("a")
    end = last(workshop, visit, choice, [small(tmp_path / "up", "-a photo's.png")], visit.new_folder())
    assert end.error is None
    (outcome,) = end.outcomes
    made = outcome.job.targets[0].read_bytes()
    monkeypatch.chdir(small(tmp_path / "here", "-a photo's.png").parent)
    words = subprocess.run(
        [
            "sh",
            "-c",
            f'for word in {equivalents.command(choice, end.inputs, end.output)}; do printf "%s\\0" "$word"; done',
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")[:-1]
    assert words[:2] == ["diffusers-restore", "restore"]
    result = CliRunner().invoke(main, [*words[1:], "--dtype", "float32", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert Path(end.output).read_bytes() == made
    Path(end.output).unlink()
    code = equivalents.python(choice, end.inputs, end.output)
    exec(code, {})
    difference = images.load(end.output).tensor - images.load(outcome.job.targets[0]).tensor
    assert difference.abs().max() < 0.1  # in the dtype that suits this machine


def test_steps_are_seen_and_work_can_be_stopped(workshop: Workshop, tmp_path: Path) -> None:
    visit, file = workshop.visit("a"), small(tmp_path)
    choice = Asked(None, {"task": "sr2", "steps": 6, "samples": 2})
    seen: list[Working] = []
    for news in workshop.work(visit, choice, [file], visit.new_folder()):
        if isinstance(news, Working):
            seen.append(news)
    assert isinstance(news, Ended)
    assert [one.error for one in news.outcomes] == [None]
    assert seen[-1].text == "Sample 2 of 2, step 6 of 6"
    assert seen[-1].share == 1
    assert (seen[-1].estimate or "").startswith("data:image/jpeg;base64,")

    for news in workshop.work(visit, Asked(None, {"task": "sr2", "steps": 1000}), [file, file], visit.new_folder()):
        if isinstance(news, Working) and news.estimate:
            visit.stop.set()
    assert isinstance(news, Ended)
    assert news.stopped
    assert not news.outcomes
    assert news.error is None


def test_one_job_at_a_time(workshop: Workshop, tmp_path: Path) -> None:
    first, second, third, file = workshop.visit("a"), workshop.visit("b"), workshop.visit("c"), small(tmp_path)
    long = Asked(None, {"task": "sr2", "steps": 1000})
    running = workshop.work(first, long, [file], first.new_folder())
    while not next(running).estimate:  # type: ignore[union-attr]
        pass
    waiting = [workshop.work(one, Asked(), [file], one.new_folder()) for one in (second, third)]
    assert [next(one).text for one in waiting] == ["Waiting for another picture to be done"] * 2  # type: ignore[union-attr]
    second.stop.set()
    assert next(waiting[0]) == Ended(stopped=True)
    first.stop.set()
    assert list(running)[-1].stopped  # type: ignore[union-attr]
    end = list(waiting[1])[-1]
    assert isinstance(end, Ended)
    assert len(end.outcomes) == 1
    assert end.outcomes[0].error is None


def test_a_run_that_was_cancelled_ends_though_another_has_begun(workshop: Workshop, tmp_path: Path) -> None:
    visit, file = workshop.visit("a"), small(tmp_path)
    running = workshop.work(visit, Asked(None, {"task": "sr2", "steps": 1000}), [file], visit.new_folder())
    while not next(running).estimate:  # type: ignore[union-attr]
        pass
    visit.stop.set()
    visit.begin()
    end = last(workshop, visit, Asked(), [file], visit.new_folder())
    assert [one.error for one in end.outcomes] == [None]
    assert not visit.stop.is_set()  # it has ended by itself
    assert list(running)[-1].stopped  # type: ignore[union-attr]


def test_work_has_ended_when_all_is_closed(tmp_path: Path) -> None:
    workshop = Workshop("cpu", "float32")
    visit = workshop.visit("a")
    running = workshop.work(visit, Asked(None, {"task": "sr2", "steps": 1000}), [small(tmp_path)], visit.new_folder())
    while not next(running).estimate:  # type: ignore[union-attr]
        pass
    workshop.close()
    assert not workshop._lock.locked()
    assert list(running)[-1].stopped  # type: ignore[union-attr]


def test_what_goes_wrong_is_told(workshop: Workshop, tmp_path: Path) -> None:
    visit, file = workshop.visit("a"), small(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    end = last(workshop, visit, Asked(), [file, text, file], visit.new_folder())
    assert [one.error is None for one in end.outcomes] == [True, False, True]
    assert [Path(one).name for one in end.inputs] == ["photo.png", "notes.txt", "photo-2.png"]
    assert end.output == "restored/"
    end = last(workshop, visit, Asked(None, {"task": "inpaint"}), [file], visit.new_folder())
    assert end.error == "The task inpaint needs the mask, a file"
    end = last(workshop, visit, Asked("no/such/folder/at/all"), [file], visit.new_folder())
    assert end.error
    assert end.error.startswith("Model: there is no folder")
    small_ones = Workshop("cpu", "float32", max_pixels=100)
    end = last(small_ones, visit, Asked(), [file], visit.new_folder())
    assert "1024" in str(end.outcomes[0].error) or "32" in str(end.outcomes[0].error)
    small_ones.close()


def test_files_go_with_their_visitor(workshop: Workshop, tmp_path: Path) -> None:
    shared, own = small(tmp_path / "1"), small(tmp_path / "2")
    first, second = workshop.visit("a"), workshop.visit("b")
    first.uploads |= {shared, own}
    second.uploads |= {shared}
    folder = first.new_folder()
    workshop.leave("a")
    assert first.stop.is_set()
    assert not folder.exists()
    assert not own.exists()
    assert shared.exists()
    workshop.leave("b")
    workshop.leave("b")  # twice
    assert not shared.exists()


def test_nothing_is_left_of_the_last_visitor_nor_of_one_who_never_leaves(workshop: Workshop) -> None:
    copy = workshop.uploads / "0f" / "image.png"  # which gradio makes of what it shows
    copy.parent.mkdir(parents=True)
    copy.touch()
    folder = workshop.visit("a").new_folder()
    workshop.visit("b").seen -= 7 * 3600
    assert workshop.find("b") is not None
    workshop.visit("c")
    assert workshop.find("b") is None
    workshop.leave("a")
    assert not folder.exists()
    assert copy.exists()  # c may look at it
    workshop.leave("c")
    assert not copy.exists()


def test_a_visit_with_long_work_is_not_forgotten(workshop: Workshop, tmp_path: Path) -> None:
    visit = workshop.visit("a")
    work = workshop.work(visit, Asked(None, {"task": "denoise", "sigma_y": 0.1}), [small(tmp_path)], visit.new_folder())
    next(work)
    visit.seen -= 7 * 3600
    workshop.visit("b")
    assert workshop.find("a") is visit
    assert not visit.stop.is_set()
    *_, end = work
    assert isinstance(end, Ended)
    assert end.error is None
    workshop.visit("c")
    assert workshop.find("a") is visit  # somebody may look at the result
    visit.seen -= 7 * 3600
    workshop.visit("d")
    assert workshop.find("a") is None


def test_no_name_of_a_visitor_leads_out(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the machine")
    for name in (str(tmp_path), "../" * 20 + str(tmp_path), "..", "", "a/b"):
        folder = workshop.visit(name).new_folder()
        assert workshop.root in folder.resolve().parents
        workshop.leave(name)
        assert workshop.root.exists()
    assert (tmp_path / "file").exists()


FIXED = """
import sys
from pathlib import Path
from diffusers_restore import DEFAULT_PRIOR, DEFAULT_RESTORER
from diffusers_restore.app.page import Page
from diffusers_restore.app.working import Workshop

workshop = Workshop("cpu")
for offered, fixed, goal in (
    (DEFAULT_RESTORER, True, "model"),
    (DEFAULT_RESTORER, True, "task"),
    (DEFAULT_PRIOR, False, "task"),
):
    page = Page(workshop, offered, fixed=fixed)
    sent = dict.fromkeys([page.kernel, page.mask_file, page.editor])
    sent |= {control: control.value for control in page.named.values()}
    sent |= {page.named["goal"]: goal, page.named["model"]: "/etc"}
    name = (page.asked(sent, Path()).model or "none").rpartition("/")[2]
    print(name, any(one.fn == page._look_at_model for one in page.blocks.fns.values()))
workshop.close()
"""

RUNS = """
import json, sys, tarfile
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile
from diffusers_restore.app.page import Page
from diffusers_restore.app.working import Workshop

picture, archive, notes, rddm = map(Path, sys.argv[1:])
with tarfile.open(archive, "w") as tar:
    for name in ("a/x.png", "b/x.png"):
        tar.add(picture, name)
notes.write_text("no picture")
workshop = Workshop("cpu", "float32")
page, visitor = Page(workshop, str(rddm), fixed=True), SimpleNamespace(session_hash="a")


def run(*files, **changed):
    sent = dict.fromkeys([page.kernel, page.mask_file, page.editor])
    sent |= {page.named[name]: control.value for name, control in page.named.items()}
    sent |= {page.named[name]: value for name, value in changed.items()} | {page.files: [str(file) for file in files]}
    return list(page._run(sent, visitor))


print(len(run(picture)))
workshop.visit("a")
first, *_, end = run(archive)
print(sorted(part.elem_id for part, to in first.items() if part.elem_id and to["visible"] is False))
print(sorted(ZipFile(end[page.downloads]["value"][0]).namelist()))
print(end[page.status].count("x.png: left as it is"))
print(run(notes)[-1][page.status])
visit = workshop.visit("a")
for visit.first in (picture, notes):
    sent = {page.files: [str(picture)]}
    print(page.editor in list(page._find(sent, visitor))[-1])
print("Done" in run(picture, goal="task", task="sr2", steps=1)[-1][page.status])
workshop.close()
"""


def test_visitors_from_elsewhere_cannot_choose_the_model(python: Python) -> None:
    printed = python.run("-c", FIXED, check=True).stdout.split()
    assert printed == ["blind_restorer", "False", "none", "False", "etc", "True"]


def test_runs_of_a_page(python: Python, tmp_path: Path) -> None:
    model = Path(__file__).parent.parent / "diffusers_restore/assets/blind_restorer"
    Image.new("RGB", (32, 32), (99, 120, 140)).save(tmp_path / "flat.png")
    files = [tmp_path / "flat.png", tmp_path / "p.tar", tmp_path / "notes.txt", model]
    lines = python.run("-c", RUNS, *map(str, files), check=True).stdout.splitlines()
    assert lines[0] == "0"  # for one who has left
    assert lines[1] == str(["downloads", "gallery", "slider", "uncertainty"])  # of the run before
    assert lines[2] == str(["a/x.png", "b/x.png"])
    assert lines[3] == "2"
    assert "notes.txt: Cannot read &#x27;notes.txt&#x27;: not a picture" in lines[4]
    assert lines[5:7] == ["True", "False"]  # scratches of a picture that was replaced meanwhile
    assert lines[7:] == ["True"]  # a task is for the bundled prior where the model that is offered is none


def test_views() -> None:
    wide = torch.zeros(1, 3, 20, 4000)
    assert views.shown(wide).size == (2048, 10)
    before, after = views.before_and_after(torch.ones(1, 1, 4, 6), torch.zeros(1, 3, 16, 24))
    assert before.size == after.size == (24, 16)
    assert before.mode == after.mode == "RGB"
    assert views.shown(torch.full((1, 2, 4, 4), -1.0)).getpixel((0, 0)) == (0, 0, 0)


def test_masks_are_what_was_painted(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
    layer.paste((220, 30, 60, 3), (6, 4, 12, 8))
    assert views.mask_of([Image.new("RGBA", (30, 20))], (60, 40)) is None
    mask = views.mask_of([layer], (60, 40))
    assert mask is not None
    expected = np.full((40, 60), 255)
    expected[8:16, 12:24] = 0
    assert np.array_equal(np.asarray(mask), expected)
    mask.save(tmp_path / "mask.png")
    again = views.layer_of(tmp_path / "mask.png", (30, 20), (1, 2, 3))
    assert again.getchannel("A").getbbox() == (6, 4, 12, 8)
    assert again.getpixel((6, 4)) == (1, 2, 3, 255)
    thin = Image.new("L", (1000, 1000), 255)
    thin.paste(0, (500, 0, 501, 1000))  # a scratch of one pixel
    thin.save(tmp_path / "thin.png")
    alpha = views.layer_of(tmp_path / "thin.png", (100, 100), (1, 2, 3)).getchannel("A")
    assert alpha.getbbox() == (50, 0, 51, 100)


def test_uncertainty_is_the_standard_deviation(tmp_path: Path) -> None:
    levels = np.zeros((4, 8, 8, 3), np.uint8) + 100
    levels[:, :4, :, :] += np.array([0, 10, 20, 30], np.uint8)[:, None, None, None]
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, one in zip(files, levels, strict=True):
        Image.fromarray(one).save(file)
    picture, brightest = views.uncertainty(files, 10_000)
    assert brightest == pytest.approx(np.std([0, 10, 20, 30], ddof=1), rel=1e-4)
    assert picture.getpixel((0, 0)) == (252, 255, 204)
    assert picture.getpixel((0, 7)) == (0, 0, 5)


def test_examples(tmp_path: Path) -> None:
    for name in EXAMPLES:
        file = make(name, tmp_path)
        assert file == make(name, tmp_path)
        assert images.load(file).tensor.shape[1] == 3


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_hosts(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


def test_without_gradio() -> None:
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from diffusers_restore.cli import main; sys.argv = ['x', 'app', '--no-browser']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'diffusers-restore[app]'" in done.stderr
    assert done.returncode == 1


def test_a_model_that_is_not_there_is_told_at_once() -> None:
    result = CliRunner().invoke(main, ["app", "--no-browser", "--model", "./nowhere"])
    assert result.exit_code == 1
    assert "--model: there is no folder './nowhere'" in result.output


# In a browser.

in_browser = pytest.mark.skipif(browser.path() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page that is served; afterwards nothing of it is left."""
    folder = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "diffusers_restore", "app", "--no-browser", "--dtype", "float32"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as served:
        assert served.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", served.stdout.readline())
        assert found
        yield found[0]
        served.send_signal(signal.SIGTERM)
        assert served.wait(30) == 0
    assert [file for file in folder.rglob("*") if file.is_file()] == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.open_browser() as opened:
        yield opened


class Tab:
    """The page in a tab."""

    def __init__(self, chromium: Any, address: str) -> None:
        self.page = chromium.new_page(viewport={"width": 1400, "height": 1600})
        self.page.set_default_timeout(WAIT)
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("#restore")

    def drop(self, *files: Path) -> None:
        self.page.set_input_files("#files input[type=file]", [str(file) for file in files])

    def press(self, name: str) -> None:
        """A button, however busy the machine is."""
        self.page.wait_for_selector(f"#{name}:enabled")
        self.page.eval_on_selector(f"#{name}", "button => button.click()")

    def until(self, text: str) -> str:
        """Wait for what the page says."""
        self.page.wait_for_function("t => document.querySelector('#status')?.innerText.includes(t)", arg=text)
        return str(self.page.inner_text("#status"))

    def choose(self, task: str) -> None:
        self.page.get_by_label("I know what was done to it").check()
        self.page.click("#task input")
        self.page.get_by_role("option", name=f"{task}:").click()

    def download(self, number: int, to: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.locator("#downloads a[download]").nth(number).evaluate("link => link.click()")
        to.mkdir(exist_ok=True)
        download.value.save_as(to / download.value.suggested_filename)
        return to / download.value.suggested_filename


@pytest.fixture
def tab(chromium: Any, address: str) -> Iterator[Callable[[], Tab]]:
    opened: list[Tab] = []

    def new() -> Tab:
        opened.append(Tab(chromium, address))
        return opened[-1]

    yield new
    for one in opened:
        one.page.close()


@in_browser
def test_a_photograph_is_restored_in_the_browser(
    tab: Callable[[], Tab], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make("a noisy photograph", tmp_path)
    with Image.open(file) as opened:
        exif = Image.Exif()
        exif[271] = "A camera"
        opened.convert("RGB").crop((0, 0, 96, 64)).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    page = tab()
    page.drop(tmp_path / "photo.jpg")
    page.until("photo.jpg: 96 x 64 pixels")
    page.press("restore")
    page.until("Done: 96 x 64 pixels")
    page.page.wait_for_selector("#slider img")
    made = page.download(0, tmp_path / "down")
    assert made.name == "photo-restored.jpg"
    with Image.open(made) as opened:
        assert opened.size == (96, 64)
        assert opened.getexif()[271] == "A camera"
    assert [one for one in page.requests if not one.startswith((address, "data:", "blob:"))] == []
    command = page.page.inner_text("#command .cm-content").replace("\n", "")
    assert command == "diffusers-restore restore photo.jpg -o photo-restored.jpg --dtype float32"
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, command.split()[1:]).exit_code == 0
    assert (tmp_path / "photo-restored.jpg").read_bytes() == made.read_bytes()


@in_browser
def test_a_painted_mask_is_filled_in_the_browser(tab: Callable[[], Tab], tmp_path: Path) -> None:
    page = tab()
    file = small(tmp_path, side=96)
    page.drop(file)
    page.until("96 x 96 pixels")
    page.choose("inpaint")
    page.page.wait_for_selector("#editor canvas")
    page.page.wait_for_timeout(1500)  # for the canvas to be laid out
    box = page.page.locator("#editor canvas").first.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(*middle)
    page.page.mouse.down()
    page.page.mouse.move(middle[0] + 60, middle[1], steps=5)
    page.page.mouse.up()
    page.page.wait_for_timeout(500)
    page.press("restore")
    page.until("Done: 96 x 96 pixels")
    made, mask = (page.download(number, tmp_path / "down") for number in (0, 1))
    assert (made.name, mask.name) == ("photo-restored.png", "mask.png")
    missing = np.asarray(Image.open(mask)) == 0
    before, after = (np.asarray(Image.open(one)).astype(int) for one in (file, made))
    assert missing[48, 50]
    assert not missing[20].any()
    assert not missing[48, 10]
    assert 0.005 < missing.mean() < 0.4
    assert (before[missing] != after[missing]).mean() > 0.5
    assert np.abs(before - after)[~missing].mean() < 1  # to the rounding noise


@in_browser
def test_work_is_cancelled_in_the_browser(tab: Callable[[], Tab], tmp_path: Path) -> None:
    page = tab()
    page.drop(small(tmp_path, side=64))
    page.until("64 x 64 pixels")
    page.choose("sr4")
    page.page.click("#method input")
    page.page.get_by_role("option", name="dps ").click()
    page.press("restore")
    page.until(" of 1000")
    assert page.page.locator("#live img").count() == 1
    page.press("cancel")
    began = time.monotonic()
    page.until("Stopped")
    page.page.wait_for_selector("#restore:enabled")
    assert time.monotonic() - began < WAITS / 2
    assert page.page.locator("#live img").count() == 0
    page.page.get_by_label("Make it better").check()
    page.press("restore")  # the device is free again
    page.until("Done: 64 x 64 pixels")
    page.page.click("#more button")
    page.choose("sr4")
    page.page.fill("#samples input", "100")
    page.press("restore")
    page.until("This can't be done")
    page.page.wait_for_selector("#restore:enabled")


@in_browser
def test_a_wrong_file_is_refused_in_the_browser(tab: Callable[[], Tab], tmp_path: Path) -> None:
    (tmp_path / "<b>notes.txt").write_text("no picture")
    page = tab()
    page.drop(tmp_path / "<b>notes.txt")
    page.page.wait_for_selector("#status .failed")
    assert "notes.txt" in page.page.inner_text("#status")
    assert page.page.locator("#status b").count() == 0
    page.press("restore")
    page.page.wait_for_function("() => document.querySelector('#restore:enabled')")
    page.page.wait_for_selector("#status .failed")


@in_browser
def test_two_visitors_at_once(tab: Callable[[], Tab], tmp_path: Path) -> None:
    first, second = tab(), tab()
    for page, name in ((first, "first.png"), (second, "second.png")):
        page.drop(small(tmp_path, name))
        page.until(f"{name}: 32 x 32 pixels")
    first.choose("sr4")
    first.press("restore")
    first.until(" of 24")
    second.press("restore")
    second.until("Done: 32 x 32 pixels")
    first.until("Done: 128 x 128 pixels")
    assert second.download(0, tmp_path / "2").name == "second-restored.png"
    assert first.download(0, tmp_path / "1").name == "first-restored.png"
