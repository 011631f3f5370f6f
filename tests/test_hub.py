"""Saving, pushing and loading: against a Hub on loopback, in fresh processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import hub_matrix
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from release_models import RELEASES as RELEASED
from release_models import restored
from warm import PYTEST, Python

import diffusers_restore
from diffusers_restore.registration import plug_in_file

ROOT = Path(__file__).parents[1]
RELEASES = sorted(path for path in RELEASED.iterdir() if path.is_dir())
# Where classes lie is written into what users save and push: a line here is never changed or removed.
FROZEN = {
    "CCDFScheduler": "diffusers_restore.schedulers.scheduling_ccdf",
    "ColdDiffusionPipeline": "diffusers_restore.pipelines.pipeline_cold_diffusion",
    "ColdDiffusionScheduler": "diffusers_restore.schedulers.scheduling_cold_diffusion",
    "DAPSScheduler": "diffusers_restore.schedulers.scheduling_daps",
    "DDNMScheduler": "diffusers_restore.schedulers.scheduling_ddnm",
    "DDRMBlocks": "diffusers_restore.pipelines.modular_ddrm",
    "DDRMJPEGScheduler": "diffusers_restore.schedulers.scheduling_ddrm_jpeg",
    "DDRMPipeline": "diffusers_restore.pipelines.pipeline_ddrm",
    "DDRMScheduler": "diffusers_restore.schedulers.scheduling_ddrm",
    "DPIRScheduler": "diffusers_restore.schedulers.scheduling_dpir",
    "DPSScheduler": "diffusers_restore.schedulers.scheduling_dps",
    "DiffPIRScheduler": "diffusers_restore.schedulers.scheduling_diffpir",
    "FaceEnhancer": "diffusers_restore.models.face_enhancer",
    "GaussianMixturePrior": "diffusers_restore.models.gaussian_mixture",
    "ILVRScheduler": "diffusers_restore.schedulers.scheduling_ilvr",
    "MMPSScheduler": "diffusers_restore.schedulers.scheduling_mmps",
    "PiGDMScheduler": "diffusers_restore.schedulers.scheduling_pigdm",
    "OldPhotoMapping": "diffusers_restore.models.old_photo_mapping",
    "OldPhotoPipeline": "diffusers_restore.pipelines.pipeline_old_photo",
    "OldPhotoVAE": "diffusers_restore.models.old_photo_vae",
    "PatchDiscriminator": "diffusers_restore.models.patch_discriminator",
    "Pix2PixPipeline": "diffusers_restore.pipelines.pipeline_pix2pix",
    "RDDMPipeline": "diffusers_restore.pipelines.pipeline_rddm",
    "RDDMScheduler": "diffusers_restore.schedulers.scheduling_rddm",
    "ResidualUNet2DModel": "diffusers_restore.models.unet_2d_residual",
    "ResnetGenerator": "diffusers_restore.models.generator_resnet",
    "ScratchDetectionPipeline": "diffusers_restore.pipelines.pipeline_scratch_detection",
    "ScratchDetector": "diffusers_restore.models.scratch_detector",
    "UNetGenerator": "diffusers_restore.models.generator_unet",
    "ZeroShotRePaintScheduler": "diffusers_restore.schedulers.scheduling_repaint",
}


def test_every_way_of_loading(hub: dict[str, str], hub_python: Python, tmp_path: Path) -> None:
    found = hub_matrix.measure(hub, tmp_path, hub_python)
    assert set(found) == set(hub_matrix.cells())
    for (way, method, state, trust), outcome in found.items():
        wanted = hub_matrix.LOADS
        if state == "absent":
            wanted = hub_matrix.INSTALL if trust else hub_matrix.TRUST
        elif not trust and (state == "installed" or way.startswith("custom")):
            wanted = hub_matrix.TRUST
        assert outcome == wanted, (way, method, state, trust)
    page = hub_matrix.PAGE.read_text()
    assert hub_matrix.table(found) in page, "docs/hub.md shows another table: run python tests/hub_matrix.py --write"


def test_what_happens_on_a_hub(hub_python: Python) -> None:
    file = Path(__file__).with_name("on_the_hub.py")
    hub_python.run(*PYTEST, "-q", file, timeout=550, check=True)


def test_all_pipelines_are_in_the_matrix() -> None:
    there = {name for name in diffusers_restore.__all__ if name.endswith("Pipeline")}
    assert set(hub_matrix.PIPELINES.values()) == there
    assert {path.parent.name for path in (ROOT / "pipelines").glob("*/pipeline.py")} == set(hub_matrix.PIPELINES)


@pytest.mark.parametrize("method", hub_matrix.PIPELINES)
def test_the_plug_in_files_are_what_is_pushed(method: str) -> None:
    name = hub_matrix.PIPELINES[method]
    assert (ROOT / "pipelines" / method / "pipeline.py").read_text() == plug_in_file("diffusers_restore", name)


@pytest.mark.parametrize("name", FROZEN)
def test_module_paths_stay(name: str) -> None:
    assert getattr(import_module(FROZEN[name]), name) is getattr(diffusers_restore, name)
    assert getattr(diffusers_restore, name).__module__ == FROZEN[name]


def test_every_class_that_is_saved_has_a_frozen_path() -> None:
    kinds = [getattr(diffusers_restore, name) for name in diffusers_restore.__all__]
    saved = {kind.__name__ for kind in kinds if isinstance(kind, type) and hasattr(kind, "save_pretrained")}
    assert saved == set(FROZEN)


@pytest.mark.parametrize(
    ("release", "method"),
    [(release, method) for release in RELEASES for method in hub_matrix.PIPELINES if (release / method).is_dir()],
    ids=lambda one: one.name if isinstance(one, Path) else one,
)
@pytest.mark.parametrize("loader", ["own", "diffusers"])
def test_what_earlier_versions_saved_restores_the_same(release: Path, method: str, loader: str) -> None:
    own = getattr(diffusers_restore, hub_matrix.PIPELINES[method])
    pipe = (own if loader == "own" else DiffusionPipeline).from_pretrained(release / method)
    assert type(pipe) is own
    known = torch.tensor(json.loads((release / method / "restored.json").read_text()))
    assert torch.allclose(restored(pipe, method), known, atol=1e-4)


def test_this_version_is_among_them() -> None:
    assert diffusers_restore.__version__ in [path.name for path in RELEASES]


def test_saving_leaves_a_card_and_other_files_alone(tmp_path: Path) -> None:
    shutil.copytree(RELEASES[0] / "rddm", tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text("# Mine\n")
    (tmp_path / "mine" / "notes.txt").write_text("notes")
    pipe = diffusers_restore.RDDMPipeline.from_pretrained(tmp_path / "mine")
    pipe.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "# Mine\n"
    assert (tmp_path / "mine" / "notes.txt").read_text() == "notes"
    pipe.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other" / "README.md").read_text() == "# Mine\n"
    assert not (tmp_path / "other" / "notes.txt").exists()


def test_a_pickle_beside_the_weights_that_nobody_can_read_hurts_nobody(tmp_path: Path) -> None:
    shutil.copytree(RELEASES[0] / "rddm", tmp_path / "mine")
    (tmp_path / "mine" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"no pickle")
    assert type(diffusers_restore.RDDMPipeline.from_pretrained(tmp_path / "mine")) is diffusers_restore.RDDMPipeline


def test_a_card_of_a_stranger_plants_nothing(tmp_path: Path) -> None:
    """What it shows is copied only if it is a picture in its folder, and never over what we write."""
    source, secret = tmp_path / "theirs", tmp_path / "secret.png"
    shutil.copytree(RELEASES[0] / "rddm", source)
    Image.new("RGB", (4, 4), "red").save(secret)
    (source / "evil").mkdir()
    Image.new("RGB", (4, 4), "blue").save(source / "evil" / "fine.png")
    Image.new("RGB", (4, 4), "green").save(source / ".hidden.png")
    for name in ("run.sh", "pipeline.py", "script.png"):
        (source / name).write_text("print('planted')")
    index = json.loads((source / "model_index.json").read_text())
    (source / "link.png").symlink_to(secret)
    shown = ["evil/fine.png", "run.sh", "pipeline.py", "script.png", "link.png", "model_index.json", "unet/config.json"]
    shown += ["../secret.png", str(secret), "file:secret.png", ".hidden.png", "README.md"]
    (source / "README.md").write_text("# Theirs\n" + "\n".join(f"![a]({name})" for name in shown))
    pipe = diffusers_restore.RDDMPipeline.from_pretrained(source)
    pipe.save_pretrained(tmp_path / "mine")
    saved = {str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert saved & set(shown) == {"evil/fine.png", "pipeline.py", "model_index.json", "unet/config.json", "README.md"}
    assert not saved & {"run.sh", "script.png", "link.png", ".hidden.png", "secret.png"}
    assert (tmp_path / "mine" / "pipeline.py").read_text() == plug_in_file("diffusers_restore", "RDDMPipeline")
    assert json.loads((tmp_path / "mine" / "model_index.json").read_text())["unet"] == index["unet"]
    assert "planted" not in "".join(path.read_text() for path in (tmp_path / "mine").rglob("*.py"))


def test_a_subclass_from_a_script_is_saved_as_diffusers_saves_it(tmp_path: Path, python: Python) -> None:
    """A class of __main__ can't be imported by a file, so none is written."""
    code = f"""
from diffusers_restore import DDRMPipeline
from diffusers import DiffusionPipeline

class Mine(DDRMPipeline):
    pass

Mine.from_pretrained({str(RELEASES[-1] / "ddrm")!r}).save_pretrained("mine")
print(type(Mine.from_pretrained("mine")).__name__)
"""
    result = python.run("-c", code, cwd=tmp_path)
    assert result.stdout.split() == ["Mine"], result.stderr
    assert json.loads((tmp_path / "mine" / "model_index.json").read_text())["_class_name"] == "Mine"
    assert not (tmp_path / "mine" / "pipeline.py").exists()


def test_importing_the_package_imports_neither_diffusers_nor_torch() -> None:
    code = "import sys, diffusers_restore; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["False", "False"], result.stderr


def test_a_diffusers_that_has_changed_loads_all_the_same() -> None:
    """One that lacks the private function by which `DiffusionPipeline` looks for classes."""
    code = """
import sys, warnings
from wrapt import register_post_import_hook
name = "diffusers.pipelines.pipeline_loading_utils"
register_post_import_hook(lambda module: delattr(module, "get_class_from_dynamic_module"), name)
import diffusers_restore
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    sys.modules.pop("diffusers", None)
    try:
        from diffusers.pipelines import pipeline_loading_utils
    except ImportError as error:  # of diffusers itself, which needs it, too
        print(error)
print([str(one.message) for one in told if one.category is RuntimeWarning])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "lacks what it needs of this diffusers" in result.stdout, result.stderr
    assert "AttributeError" not in result.stderr


@pytest.mark.parametrize("slow", ["", "1"])
def test_diffusers_finds_our_names(slow: str) -> None:
    code = """
import diffusers_restore, diffusers
from diffusers import RDDMScheduler
assert diffusers.DDRMPipeline is diffusers_restore.DDRMPipeline
assert RDDMScheduler is diffusers_restore.RDDMScheduler
for wrong in ("NoSuchPipeline", "operators"):
    try:
        getattr(diffusers, wrong)
    except AttributeError as error:
        print(error)
print(diffusers.DDPMPipeline.__name__, diffusers.__version__ > "0.4")
"""
    environment = os.environ | {"DIFFUSERS_SLOW_IMPORT": slow}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("has no attribute") == 2
    assert result.stdout.splitlines()[-1] == "DDPMPipeline True"
