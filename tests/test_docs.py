"""Every code block of the README and of docs/ is run, on small pictures, in a folder that holds what they name.

The Python of docs/hub.md is run by tests/on_the_hub.py.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
import shlex
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
import numpy as np
import pytest
import torch
from adm_reference import ADM
from click.testing import CliRunner
from conftest import WriteRepo, make_generator, make_old_photo_network, make_old_photo_pipeline, make_unet
from old_photos_reference import write_checkpoints
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
from diffusers_restore.cli import main
from diffusers_restore.degradations import Pixelate
from diffusers_restore.operators import TASKS

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


def blocks(language: str) -> list[Any]:
    found = []
    for page in PAGES:
        for number, (name, code) in enumerate(BLOCK.findall(page.read_text())):
            if name == language:
                found.append(pytest.param(code, id=f"{page.name}-{number}"))
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
    picture("wet.png", 40, 48)
    picture("small.png", 10, 12)
    picture("face.png", 8, 8)
    picture("grey.png", 40, 48, "L")
    picture("digit.png", 32, 32, "L")
    picture("blocky.png", 40, 48)
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


# What the documentation trains is trained here for a step or two, of a tiny network.
TOY = {
    "max_train_steps": 1,
    "resolution": 16,
    "validation_resolution": 16,
    "block_out_channels": "16,32",
    "train_batch_size": 1,
    "mixed_precision": "no",
    "logger": "none",
}
_TOY = {"max_train_steps": 1, "train_batch_size": 1, "mixed_precision": "no", "logger": "none", "resolution": 64}
TOYS = {
    "old-photo-vae": {**_TOY, "block_out_channels": "4,8", "num_blocks": 1, "discriminator_channels": 2},
    "old-photo-mapping": {**_TOY, "mapping_channels": "8", "num_blocks": 2, "discriminator_channels": 2},
    "pix2pix": {
        "max_train_steps": 1,
        "resolution": 16,
        "generator": "resnet_6",
        "generator_channels": 4,
        "discriminator": "16",
        "discriminator_channels": 4,
        "mixed_precision": "no",
        "logger": "none",
    },
}
LAUNCHER = r"accelerate launch( --multi_gpu --num_processes \d)?|torchrun --nproc_per_node \d"
TRAINING = (
    rf"diffusers-restore train ([\w-]+)|({LAUNCHER}) (examples/train_(\w+)\.py|-m diffusers_restore train ([\w-]+))"
)


def training(words: list[str]) -> list[str] | None:
    """What a command line trains, with its arguments, on however many processes it is launched; None for another."""
    found = re.match(TRAINING, " ".join(words))
    if found is None:
        return None
    (what,) = {found[1], found[5], found[6]} - {None}
    given = words[len(found.group().split()) :]
    toy = [word for name, value in TOYS.get(what, TOY).items() for word in (f"--{name}", str(value))]
    return ["train", what, *given, *toy, *(["--max_train_steps", "4"] if "--max_train_steps" in given else [])]


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


@pytest.mark.parametrize("code", [one for one in blocks("python") if not one.id.startswith("hub.md")])
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
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in code.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":
            assert set(arguments) <= set(targets)
            continue
        if program == "python":
            script, *arguments = arguments
            spec = importlib.util.spec_from_file_location("script", ROOT / script)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.main(arguments)
            continue
        if arguments[0] == "push":
            continue  # tests/on_the_hub.py has a Hub
        run = training([program, *arguments])
        launched = re.match(rf"({LAUNCHER}) -m diffusers_restore ", shlex.join([program, *arguments]))
        if run is None and launched is not None:  # tests/test_restoring_processes.py has several
            program, *arguments = "diffusers-restore", *arguments[len(launched.group().split()) - 1 :]
        assert run is not None or program == "diffusers-restore"
        result = CliRunner().invoke(main, arguments if run is None else run, catch_exceptions=False)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("code", blocks("toml"))
def test_toml_blocks_parse(code: str) -> None:
    for group in tomllib.loads(code)["project"]["entry-points"]:
        assert entry_points(group=group), f"nothing is registered under {group}"


def test_no_block_is_left_out() -> None:
    languages = {name for page in PAGES for name, _ in BLOCK.findall(page.read_text())}
    assert languages <= {"python", "bash", "console", "toml", "text"}


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
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", BLOCK.sub("", page.read_text())):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
