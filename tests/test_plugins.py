"""Packages that add operators, tasks and methods: the one in examples/plugin, and broken ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest
from PIL import Image
from warm import PYTEST, Python

from diffusers_restore.registry import PlugInError, Registry, _entry_points

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which pip has installed the example, without the network."""
    source = tmp_path_factory.mktemp("source") / "plugin"  # pip builds in the folder that it is given
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    return target


def write_broken(folder: Path, name: str, group: str, points: dict[str, str]) -> None:
    """The metadata of an installed package, whose entry points may lead nowhere."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{key} = {value}\n" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[diffusers_restore.{group}]\n{lines}")


class Run(Protocol):
    def __call__(self, path: Path, *arguments: object, folder: Path | None = None, fails: bool = False) -> str: ...


@pytest.fixture
def run(python: Python) -> Run:
    """Python with a folder more on its path; what it prints."""

    def run(path: Path, *arguments: object, folder: Path | None = None, fails: bool = False) -> str:
        environment = {"PYTHONPATH": str(path), "COLUMNS": "120"}
        result = python.run(*arguments, environment=environment, cwd=folder)
        assert (result.returncode != 0) == fails, result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_plug_in_passes_its_own_tests(installed: Path, run: Run) -> None:
    assert " passed" in run(installed, *PYTEST, "-o", "addopts=", str(PLUGIN / "tests"))


def test_our_tests_of_tasks_find_that_of_the_plug_in(installed: Path, run: Run) -> None:
    chosen = f"{ROOT}/tests/test_operators.py::test_a_task_builds_a_right_operator[demosaic]"
    assert "1 passed" in run(installed, *PYTEST, "-o", "addopts=", chosen)
    kinds = f"{ROOT}/tests/test_operators.py::test_every_registered_kind_has_an_example"
    assert "1 passed" in run(installed, *PYTEST, "-o", "addopts=", kinds)


def test_the_commands_of_its_page(installed: Path, tmp_path: Path, run: Run) -> None:
    page = (PLUGIN / "README.md").read_text()
    Image.linear_gradient("L").resize((32, 24)).convert("RGB").save(tmp_path / "photo.jpg")
    (block,) = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    pip, *commands = [line.partition("#")[0].split() for line in block.splitlines()]
    assert pip == ["pip", "install", "examples/plugin"]
    assert {words[1] for words in commands} == {"tasks", "methods", "degrade", "restore"}
    for program, *arguments in commands:
        assert program == "diffusers-restore"
        steps = ["--steps", "2"] if arguments[0] == "restore" else []
        printed = words(run(installed, "-m", "diffusers_restore", *arguments, *steps, folder=tmp_path))
        if arguments[0] == "tasks":
            assert "demosaic of each pixel, one colour was measured" in printed
        if arguments[0] == "methods":
            assert "soft-projection Steps of DDIM" in printed
            assert "[strength=1.0]" in printed
    with Image.open(tmp_path / "raw.png") as raw, Image.open(tmp_path / "colours.png") as restored:
        assert (raw.mode, restored.mode, raw.size, restored.size) == ("L", "RGB", (32, 24), (32, 24))
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    run(installed, "-c", block.replace("sigma_y=0.0023", "sigma_y=0.0023, num_inference_steps=2"), folder=tmp_path)

    # What was saved holds the method: the class and diffusers' own load it, once the plug-in is there.
    saved = tmp_path / "with_soft_projection"
    assert (saved / "scheduler" / "restore_demosaic.methods.py").is_file()
    load = """
import diffusers_restore, sys
from diffusers import DiffusionPipeline
assert "restore_demosaic" not in sys.modules
for kind in (DiffusionPipeline, diffusers_restore.DDRMPipeline):
    pipe = kind.from_pretrained("with_soft_projection")
    print(type(pipe).__name__, type(pipe.scheduler).__module__, pipe.scheduler.config.strength)
"""
    lines = run(installed, "-c", load, folder=tmp_path).splitlines()
    assert lines.count("DDRMPipeline restore_demosaic.methods 0.9") == 2
    command = ["restore", "raw.png", "-o", "again.png", "--task", "demosaic", "--steps", "2", "--model", str(saved)]
    run(installed, "-m", "diffusers_restore", *command, folder=tmp_path)
    with Image.open(tmp_path / "again.png") as again, Image.open(tmp_path / "colours.png") as restored:
        assert again.tobytes() == restored.tobytes()
    command[command.index("demosaic")] = "colorize"
    refused = words(run(tmp_path, "-m", "diffusers_restore", *command, folder=tmp_path, fails=True))
    assert "SoftProjectionScheduler is of the module restore_demosaic.methods, which isn't installed" in refused
    assert "Traceback" not in refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--method", "hard-projection"],
            "no method named 'hard-projection'; did you mean 'soft-projection'?",
        ),
        (["--method-arg", "strength=2"], "strength must be a number >= 0 and <= 1, got 2"),
        (["--method-arg", "power=1"], "SoftProjectionScheduler has no option 'power'; it has: strength"),
        (["--eta", "0.5"], "--eta is no option of the method SoftProjectionScheduler"),
    ],
)
def test_a_wrong_option_of_a_method(
    installed: Path, tmp_path: Path, arguments: list[str], message: str, run: Run
) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "raw.png")
    command = ["restore", "raw.png", "-o", "c.png", "--task", "demosaic", "--method", "soft-projection", *arguments]
    assert message in words(run(installed, "-m", "diffusers_restore", *command, folder=tmp_path, fails=True))
    assert not (tmp_path / "c.png").exists()


def test_a_broken_plug_in_hurts_only_who_asks_for_it(tmp_path: Path, run: Run) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "falls_over.py").write_text("raise RuntimeError('no such camera')\n")
    write_broken(site, "falls-over", "tasks", {"fix": "falls_over:fix"})
    write_broken(site, "not-there", "methods", {"gone": "not_there.methods:Gone"})
    write_broken(site, "lacks-it", "operators", {"lost": "restore_lacks:Lost"})
    (site / "restore_lacks.py").write_text("")
    write_broken(site, "shadow", "tasks", {"sr4": "falls_over:sr4"})
    write_broken(site, "leaves", "tasks", {"leave": "leaves:leave"})
    (site / "leaves.py").write_text("import sys\nsys.exit('use another command')\n")
    write_broken(site, "wrong-task", "tasks", {"dump": "json:dumps"})
    write_broken(site, "wrong-method", "methods", {"dump": "json:dumps", "decode": "json:JSONDecoder"})
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")

    printed = words(run(site, "-m", "diffusers_restore", "tasks"))
    assert "denoise noise only" in printed
    assert "task 'fix' is registered by falls-over, which can't be imported" in printed
    assert "RuntimeError: no such camera); update or uninstall that package" in printed
    assert "task 'sr4' is registered by" in printed
    assert (
        "task 'leave' is registered by leaves, which can't be imported (leaves:leave: SystemExit: use another"
        in printed
    )
    wrong = "registered by wrong-task and must be a Task, but json:dumps is of type function; update or uninstall"
    assert f"task 'dump' is {wrong}" in printed
    assert '"error": "task \'fix\' is registered by' in run(site, "-m", "diffusers_restore", "tasks", "--json")
    printed = words(run(site, "-m", "diffusers_restore", "methods"))
    assert "ddrm DDRM (arXiv:2201.11793)" in printed
    assert "not-there, which can't be imported (not_there.methods:Gone: ModuleNotFoundError" in printed
    assert "must be a class derived from ZeroShotScheduler, but json:dumps is of type function; update" in printed
    assert "must be a class derived from ZeroShotScheduler, but json:JSONDecoder is the class JSONDecoder" in printed

    def restore(*options: str, fails: bool = False) -> str:
        command = ["restore", "small.png", "-o", "new.png", "--steps", "1", *options]
        return words(run(site, "-m", "diffusers_restore", *command, folder=tmp_path, fails=fails))

    restore("--task", "sr2")
    restore("--task", "denoise", "--method", "ddrm")
    assert "falls-over, which can't be imported" in restore("--task", "fix", fails=True)
    assert "Traceback" not in restore("--task", "fix", fails=True)
    two = restore("--task", "sr4", fails=True)
    assert "shadow (falls_over:sr4)" in two
    assert "uninstall one of them" in two
    gone = restore("--task", "sr2", "--method", "gone", fails=True)
    assert "not-there, which can't be imported" in gone
    assert "Traceback" not in gone
    for name in ("leave", "dump"):
        refused = restore("--task", name, fails=True)
        assert f"task '{name}' is registered by" in refused
        assert "Traceback" not in refused
    lost = "from diffusers_restore import operators; operators.from_config({'kind': 'lost'})"
    assert "lacks-it, which can't be imported (restore_lacks:Lost: AttributeError" in run(site, "-c", lost, fails=True)


def test_the_registry_names_both_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_broken(tmp_path, "one", "toys", {"ball": "one:Ball", "bear": "json:loads"})
    write_broken(tmp_path, "other", "toys", {"ball": "other:Ball"})
    monkeypatch.syspath_prepend(tmp_path)
    _entry_points.cache_clear()
    toys = Registry("diffusers_restore.toys", "toy", "types:FunctionType", instances=True)
    assert list(toys) == ["ball", "bear"]
    assert dict(toys.addresses())["bear"] == "json:loads"
    with pytest.raises(PlugInError, match=r"toy 'ball' is registered by one \(one:Ball\) and other \(other:Ball\)"):
        _ = toys["ball"]
    assert toys["bear"]("1") == 1
    _entry_points.cache_clear()
