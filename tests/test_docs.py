"""Every code block of the README and of docs/ is run, on small pictures, in a folder that holds what they name.

Tutorials, how-tos and papers are run from top to bottom. The Python of docs/hub.md, and the tutorials that push, are
run by tests/on_the_hub.py.
"""

from __future__ import annotations

import gzip
import re
import struct
import sys
import tarfile
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cli_page
import datasets
import nbformat
import numpy as np
import pytest
import torch
from adm_reference import ADM
from conftest import WriteRepo, make_generator, make_old_photo_network, make_old_photo_pipeline, make_unet
from nbclient import NotebookClient
from old_photos_reference import write_checkpoints
from pages import BLOCK, DOCS, NOTEBOOKS, PAGES, ROOT, WHOLE, notebook_cells, run_page, run_python, run_shell
from PIL import Image
from pix2pix_reference import UNet, randomised

from diffusers_restore import (
    ColdDiffusionPipeline,
    ColdDiffusionScheduler,
    GaussianMixturePrior,
    Pix2PixPipeline,
    RDDMPipeline,
    RDDMScheduler,
    ScratchDetectionPipeline,
    ScratchDetector,
)
from diffusers_restore.degradations import Pixelate
from diffusers_restore.operators import TASKS


def blocks(language: str) -> list[Any]:
    found = []
    for page in (*PAGES, *WHOLE) if language == "toml" else PAGES:
        for number, (name, code) in enumerate(BLOCK.findall(page.read_text())):
            if name == language:
                found.append(pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}"))
    return found


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with the names and the structure of the FFHQ model that DPS uses."""
    file = tmp_path_factory.mktemp("checkpoint") / "ffhq.pt"
    network = ADM(channels=32, multipliers=(1, 1, 2, 2, 4, 4), attention=(4,), head_channels=64)
    torch.save(network.weights(dtype=torch.float32), file)
    return file


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture in a tar, and one in a data set."""
    folder = tmp_path_factory.mktemp("packed")
    Image.effect_noise((24, 32), 50).save(folder / "a.png")
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "0.tar", "w") as tar:
        tar.add(folder / "a.png", "a.png")
    (folder / "owner" / "name").mkdir(parents=True)
    rows = {"image": [{"bytes": (folder / "a.png").read_bytes(), "path": None}]}
    dataset = datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image()}))
    dataset.to_parquet(folder / "owner" / "name" / "test-00000-of-00001.parquet")
    return folder


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_repo: WriteRepo, checkpoint: Path, packed: Path
) -> Path:
    """The working directory that the documentation has in mind."""
    write_repo(make_unet(levels=4), at_root=True, name="google/ddpm-celebahq-256")
    for name in ("shards", "owner"):
        (tmp_path / name).symlink_to(packed / name)
    (tmp_path / "ffhq.pt").symlink_to(checkpoint)
    torch.save(randomised(UNet((4, 8, 8, 8)), dtype=torch.float32).state_dict(), tmp_path / "latest_net_G.pth")
    write_checkpoints(tmp_path / "checkpoints")
    write_checkpoints(tmp_path / "Bringing-Old-Photos-Back-to-Life" / "Global" / "checkpoints")
    rng = np.random.default_rng(0)

    def picture(name: str, width: int, height: int, mode: str = "RGB") -> None:
        coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path)

    for name in (
        "photo.jpg",
        "noisy.png",
        "scans/1.png",
        "scans/2.jpg",
        "photos/1.png",
        "photos/2.jpg",
        "photos/3.jpg",
    ):
        picture(name, 40, 48)
    for name in ("1", "2", "3"):
        for sub in ("clean", "rain", "shadows"):
            picture(f"{sub}/{name}.png", 40, 48)
        picture(f"facades/train/{name}.jpg", 64, 32)
    picture("label.png", 40, 48, "P")
    picture("old.jpg", 40, 48)
    picture("scratched.jpg", 40, 48)
    picture("faded.jpg", 40, 48)
    picture("wet.png", 40, 48)
    picture("small.png", 10, 12)
    picture("face.png", 8, 8)
    picture("grey.png", 40, 48, "L")
    picture("digit.png", 32, 32, "L")
    picture("blocky.png", 40, 48)
    picture("pixels.png", 40, 48)
    picture("blurred.png", 40, 48)
    (tmp_path / "masks").mkdir()
    for name in ("mask", "masks/1", "masks/2", "masks/3"):
        Image.fromarray(np.uint8(rng.random((48, 40)) > 0.3) * 255).save(tmp_path / f"{name}.png")
    digits = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    (tmp_path / "mnist").mkdir()
    with gzip.open(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4i", 0x803, *digits.shape) + digits.tobytes())
    for name in ("examples", "schedulers"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def face_finders() -> dict[str, Any]:
    """What stands for the packages that find faces, with their answers' form: one face of 20 x 24 pixels."""
    points = np.float32([[12, 18], [26, 18], [19, 25], [14, 32], [24, 32]])

    class MTCNN:
        def __init__(self, keep_all: bool) -> None: ...

        def detect(self, picture: Image.Image, landmarks: bool) -> tuple[Any, Any, Any]:
            return np.float32([[9, 12, 29, 36]]), np.float32([0.99]), points[None]

    class FaceDetectorYN:
        @classmethod
        def create(cls, model: str, config: str, size: tuple[int, int]) -> Any:
            return cls()

        def setInputSize(self, size: tuple[int, int]) -> None:  # noqa: N802
            assert size == (40, 48)

        def detect(self, picture: Any) -> tuple[int, Any]:
            assert picture.shape == (48, 40, 3)
            return 1, np.concatenate([[9, 12, 20, 24], points.ravel(), [0.9]])[None]

    return {"facenet_pytorch": SimpleNamespace(MTCNN=MTCNN), "cv2": SimpleNamespace(FaceDetectorYN=FaceDetectorYN)}


@pytest.mark.parametrize("code", [one for one in blocks("python") if not one.id.startswith("docs/hub.md")])
def test_python_blocks_run(code: str, folder: Path, write_repo: WriteRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    # What earlier blocks of the pages train.
    write_repo(make_unet(channels=1), name="digits")
    prior = GaussianMixturePrior(channels=1, height=4, width=4)
    ColdDiffusionPipeline(make_unet(channels=1), ColdDiffusionScheduler(Pixelate(3)), prior).save_pretrained("enlarge")
    RDDMPipeline(make_unet(channels=6, out_channels=3), RDDMScheduler()).save_pretrained("derain")
    Pix2PixPipeline(make_generator()).save_pretrained("facade_photos")
    make_old_photo_pipeline("partial", True, True).save_pretrained("old_photos")
    for name, module in face_finders().items():
        monkeypatch.setitem(sys.modules, name, module)
    ScratchDetectionPipeline(make_old_photo_network(ScratchDetector)).save_pretrained("detector")
    exec(compile(code, "documentation", "exec", dont_inherit=True), {"__name__": "documentation"})


@pytest.mark.parametrize("code", blocks("bash"))
def test_shell_blocks_run(code: str, folder: Path) -> None:
    run_shell(code)


# From nothing, in an empty folder.
ALONE = ("first_restoration", "write_operator", "write_method")
ON_THE_HUB = ("train_from_pairs", "share")


@pytest.mark.parametrize("name", ALONE)
def test_a_tutorial_runs_in_an_empty_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(DOCS / "tutorials" / f"{name}.md")


@pytest.mark.parametrize("part", sorted({page.parent.name for page in WHOLE}))
def test_pages_run_from_top_to_bottom(part: str, folder: Path) -> None:
    """What is restored by one page is restored anew by the next; what is trained has a name of its own."""
    pages = [page for page in WHOLE if page.parent.name == part and page.stem not in (*ALONE, *ON_THE_HUB)]
    assert len(pages) > 1
    for page in pages:
        run_page(page)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_valid_and_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    first, *others = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert first.source.startswith("%pip install ")
    assert not any(cell.outputs or cell.execution_count for cell in (first, *others))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = [run_python(code, names) for code in notebook_cells(file)]
    assert any(isinstance(one, Image.Image) for one in shown)


def test_a_notebook_runs_in_a_kernel(tmp_path: Path) -> None:
    notebook = nbformat.read(DOCS / "notebooks" / "first_restoration.ipynb", as_version=4)
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in notebook_cells(NOTEBOOKS[0])]
    ran = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [cell for cell in ran.cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3


@pytest.mark.parametrize("code", blocks("toml"))
def test_toml_blocks_parse(code: str) -> None:
    for group in tomllib.loads(code)["project"]["entry-points"]:
        assert entry_points(group=group), f"nothing is registered under {group}"


def test_no_block_is_left_out() -> None:
    languages = {name for page in (*PAGES, *WHOLE) for name, _ in BLOCK.findall(page.read_text())}
    assert languages <= {"python", "bash", "console", "toml", "text"}
    others = set(DOCS.rglob("*.md")) - {*PAGES, *WHOLE}
    assert not any("```" in page.read_text() for page in others)


def test_the_command_line_prints_what_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for decimals and times; `python tests/cli_page.py` writes the page anew."""
    assert not any("```console" in page.read_text() for page in PAGES if page != cli_page.PAGE)
    cli_page.prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in cli_page.blocks(cli_page.PAGE.read_text()):
        assert cli_page.alike(cli_page.run(block)) == cli_page.alike(block)


def test_the_table_of_tasks_is_complete() -> None:
    table = (ROOT / "README.md").read_text().partition("## Tasks")[2].partition("##")[0]
    assert set(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)) != set()
    named = {name for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)}
    assert named == {name for name, address in TASKS.addresses() if address.startswith("diffusers_restore.")}


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, *DOCS.rglob("*/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", BLOCK.sub("", page.read_text())):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
