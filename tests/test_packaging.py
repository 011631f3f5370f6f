"""The wheel and the source distribution: what they hold, and that the wheel works with only what it asks for."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import diffusers_restore
from diffusers_restore.cli import main
from diffusers_restore.registries import METHODS, TASKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffusers_restore"
SOURCES = ("benchmarks", "docs", "examples", "pipelines", "schedulers", "tests")  # beside the package
BUILT = shutil.ignore_patterns("__pycache__", ".cache", ".venv*", "*.egg-info", "*.pyc")
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def files(folder: Path) -> set[str]:
    """What a folder of the source tree holds, but for what running it leaves behind."""
    left = {"__pycache__", ".cache"}
    found = (path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not left & set(path.parts) and ".venv-peers" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, and the wheel that is built from it."""
    source, dist = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("dist")
    source.mkdir()
    for path in ROOT.iterdir():  # building writes into the tree
        if path.name in (*SOURCES, "diffusers_restore", ".github", ".ci"):
            shutil.copytree(path, source / path.name, ignore=BUILT)
        elif path.is_file() and path.name != ".git":
            shutil.copy(path, source)
    options = ["--no-isolation", "--outdir", str(dist)]
    run(sys.executable, "-m", "build", *options, str(source))
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        sizes = {one.filename: one.file_size for one in wheel.infolist()}
    own = {name for name in sizes if name.startswith("diffusers_restore/")}
    assert own == files(PACKAGE)
    assert {"diffusers_restore/py.typed", "diffusers_restore/cli/restore.py"} < own
    (info,) = {name.partition("/")[0] for name in sizes if name not in own}
    assert info == f"diffusers_restore-{diffusers_restore.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in sizes
    large = {name.removeprefix("diffusers_restore/assets/") for name, size in sizes.items() if size > 130_000}
    assert large == {
        "blind_restorer/unet/diffusion_pytorch_model.safetensors",  # 11.9 MB
        "default_prior/unet/diffusion_pytorch_model.safetensors",  # 11.9 MB
        "old_photo_restorer/unet/diffusion_pytorch_model.safetensors",  # 11.9 MB
        "scratch_detector/detector/diffusion_pytorch_model.safetensors",  # 1.2 MB
    }
    assert built["wheel"].stat().st_size < 36e6


def test_the_sdist_can_be_built_and_tested(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = files(PACKAGE).union(*(files(ROOT / name) for name in SOURCES))
    wanted |= files(ROOT / ".github") | files(ROOT / ".ci")
    wanted |= {path.name for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".txt", ".cff", ".in")}
    wanted |= {"Makefile", "Dockerfile", "LICENSE", ".dockerignore", ".gitignore"}
    assert wanted - held == set()
    folders = {name for name in held if "/" in name and not name.startswith("diffusers_restore.egg-info/")}
    tops = {name.partition("/")[0] for name in folders}
    assert tops == {*SOURCES, "diffusers_restore", ".github", ".ci"}
    assert not {name for name in held if name.endswith((".pyc", "/ready"))}
    assert built["sdist"].stat().st_size < 60e6  # PyPI takes 100 MB


def test_the_metadata(built: dict[str, Path]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(built["wheel"]) as wheel:
        (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        points = wheel.read(f"{info}/entry_points.txt").decode()
    assert metadata["Version"] == diffusers_restore.__version__ == project["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    assert "diffusers-restore = diffusers_restore.cli:main" in points
    for group, entries in project["entry-points"].items():
        section = points.partition(f"[{group}]\n")[2].partition("\n[")[0]
        assert {line.partition(" = ")[0] for line in section.split("\n") if line} == set(entries)
    text = metadata.get_payload()
    assert text == (ROOT / "docs" / "pypi.md").read_text()
    targets = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    assert [one for pair in targets for one in pair if one and not one.startswith("https://")] == []
    checked = run(sys.executable, "-m", "twine", "check", "--strict", built["wheel"], built["sdist"])
    assert checked.count("PASSED") == 2


def test_the_page_of_the_registry_counts_right() -> None:
    words = {12: "Twelve", 13: "Thirteen", 14: "Fourteen"}
    text = (ROOT / "docs" / "pypi.md").read_text()
    ours = [len([1 for _, at in one.addresses() if at.startswith("diffusers_restore.")]) for one in (TASKS, METHODS)]
    assert f"one of {ours[0]} kinds of damage" in text
    assert f"{words[ours[1]]} zero-shot methods" in text


def needed(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Distribution]:
    """A distribution and all that it asks for, without its extras."""
    waiting, seen = [(canonicalize_name(name), extras)], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        found = distribution(one[0])
        yield found
        for line in found.requires or []:
            asked = Requirement(line)
            if asked.marker is None or any(asked.marker.evaluate({"extra": e}) for e in ("", *one[1])):
                waiting.append((canonicalize_name(asked.name), frozenset(asked.extras)))


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with the wheel, and with links to what it asks for; the extras aren't there."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, built["wheel"])
    (site,) = (folder / "lib").glob("python*/site-packages")
    for one in needed("diffusers-restore"):
        if one.name == "diffusers-restore":
            continue
        for part in {path.parts[0] for path in one.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            if not (site / part).exists():
                (site / part).symlink_to(Path(str(one.locate_file(part))))
    return python


def test_the_wheel_restores_offline_what_the_source_tree_restores(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = PACKAGE / "assets" / "photos" / "chelsea.png"
    words = ["restore", "small.png", "--task", "sr4", "--steps", "2"]
    Image.open(photo).resize((24, 16)).save(tmp_path / "small.png")
    command = installed.with_name("diffusers-restore")
    run(command, *words, "-o", "installed.png", cwd=tmp_path, **OFFLINE)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*words, "-o", "source.png"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "installed.png").read_bytes() == (tmp_path / "source.png").read_bytes()
    version = f"diffusers-restore, version {diffusers_restore.__version__}\n"
    assert run(installed, "-m", "diffusers_restore", "--version", cwd=tmp_path) == version
    where = run(installed, "-c", "import diffusers_restore as d; print(d.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parents[1])


def test_nothing_of_the_extras_is_needed(installed: Path, tmp_path: Path) -> None:
    """The restoration above has run where they aren't."""
    extras = ["gradio", "skimage", "sklearn", "tensorboard", "pytest", "scipy"]
    code = f"import importlib.util as u; print([x for x in {extras} if u.find_spec(x)])"
    assert run(installed, "-c", code, cwd=tmp_path) == "[]\n"
    assert "restore" in run(installed, "-m", "diffusers_restore", "--help", cwd=tmp_path)


def test_the_citation_names_the_latest_release() -> None:
    """The one to come, before there is any; a version that isn't under development is released."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = re.sub(r"\.dev\d+$", "", diffusers_restore.__version__)
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert citation["version"] == (released or [version])[0]
    assert version == diffusers_restore.__version__ == citation["version"] or "dev" in diffusers_restore.__version__
    assert citation["license"] == "Apache-2.0"


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda one: one.stem
)
def test_the_forms_of_issues(form: Path) -> None:
    """By the rules of GitHub's forms: known types, labels, and ids that are there once."""
    content = yaml.safe_load(form.read_text())
    assert set(content) == {"name", "description", "labels", "body"}
    assert {one["type"] for one in content["body"]} <= {"markdown", "input", "textarea", "dropdown", "checkboxes"}
    assert all(one["attributes"]["label"] for one in content["body"])
    ids = [one["id"] for one in content["body"]]
    assert len(ids) == len(set(ids))


def test_the_release_checklist_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([\w-]+)", (ROOT / "RELEASING.md").read_text()))
    assert {"package", "gallery", "test-all", "lint"} <= named <= targets


def test_the_image_holds_what_is_needed_to_build() -> None:
    """The Dockerfile installs from the files that .dockerignore lets through."""
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert {"LICENSE", "MANIFEST.in", "constraints.txt", "diffusers_restore", "pyproject.toml"} <= let
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= let
    assert all((ROOT / one).exists() for one in let)
