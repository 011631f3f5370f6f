"""Which way of loading works in which process: every pipeline, against a Hub on loopback.

    python tests/hub_matrix.py            # measure, print the table
    python tests/hub_matrix.py --write    # and put it into docs/hub.md

Each cell is a process of its own, forked from one that has imported diffusers and nothing else of interest.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warm import Python

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "hub.md"
BEGIN, END = "<!-- table: python tests/hub_matrix.py --write -->", "<!-- end of the table -->"

PIPELINES = {
    "ddrm": "DDRMPipeline",
    "cold_diffusion": "ColdDiffusionPipeline",
    "rddm": "RDDMPipeline",
    "pix2pix": "Pix2PixPipeline",
    "old_photo": "OldPhotoPipeline",
    "scratch_detection": "ScratchDetectionPipeline",
}
NETWORKS = {"pix2pix": "generator", "old_photo": "vae_clean", "scratch_detection": "detector"}  # of others, "unet"
OF_DDPM = ("ddrm", "rddm")
# Whether the package is imported, and when, and whether it is there at all.
STATES = {
    "before": "imported before diffusers",
    "after": "imported after diffusers",
    "installed": "installed, not imported",
    "absent": "absent",
}
ORDERS = {"before": ("before",), "after": ("after",), "without": ("installed", "absent")}
WAYS = {
    "class-folder": "`{class}.from_pretrained(folder)`",
    "class-hub": '`{class}.from_pretrained("owner/name")`',
    "class-stock": '`{class}.from_pretrained("owner/ddpm")`, a stock DDPM',
    "diffusion-folder": "`DiffusionPipeline.from_pretrained(folder)`",
    "diffusion-hub": '`DiffusionPipeline.from_pretrained("owner/name")`',
    "diffusion-twice": "`DiffusionPipeline.from_pretrained`: two folders of different pipelines",
    "custom-hub": '`DiffusionPipeline.from_pretrained("owner/ddpm", custom_pipeline="owner/name")`',
    "custom-folder": '`DiffusionPipeline.from_pretrained("owner/ddpm", custom_pipeline="pipelines/<method>")`',
}
LOADS, TRUST, INSTALL, NONE = "loads", "asks for trust", "says what to install", "-"


def cells() -> Iterator[tuple[str, str, str, bool]]:
    """(way, method, state, trust) of everything that there is to try."""
    for way in WAYS:
        for method in PIPELINES:
            if method not in OF_DDPM and ("custom" in way or "stock" in way):
                continue  # the network of a DDPM undoes no degradation, translates nothing and finds no scratches
            for state in STATES:
                if not way.startswith("class"):
                    yield from ((way, method, state, trust) for trust in (False, True))
                elif state in ("before", "after"):  # the class is imported, and asks for no trust
                    yield way, method, state, False


def make_pipelines() -> dict[str, Any]:
    """A small pipeline of each class."""
    from conftest import make_generator, make_old_photo_network, make_old_photo_pipeline, make_unet

    from diffusers_restore import (
        ColdDiffusionPipeline,
        ColdDiffusionScheduler,
        DDRMPipeline,
        DDRMScheduler,
        GaussianMixturePrior,
        Pix2PixPipeline,
        RDDMPipeline,
        RDDMScheduler,
        ScratchDetectionPipeline,
        ScratchDetector,
    )
    from diffusers_restore.degradations import Pixelate

    return {
        "ddrm": DDRMPipeline(make_unet(), DDRMScheduler(beta_schedule="squaredcos_cap_v2")),
        "cold_diffusion": ColdDiffusionPipeline(
            make_unet(), ColdDiffusionScheduler(Pixelate(2)), GaussianMixturePrior(channels=3, height=4, width=4)
        ),
        "rddm": RDDMPipeline(
            make_unet(channels=6, out_channels=3),
            RDDMScheduler(prediction_type="residual_epsilon"),
            make_unet(channels=6, out_channels=3),
        ),
        "pix2pix": Pix2PixPipeline(make_generator()),
        "old_photo": make_old_photo_pipeline("partial", True, True),
        "scratch_detection": ScratchDetectionPipeline(make_old_photo_network(ScratchDetector)),
    }


def prepare(folder: Path) -> None:
    """Save and push a small pipeline of each class, and a stock DDPM; runs with the environment of the Hub."""
    from conftest import make_unet
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(make_unet(), DDPMScheduler()).push_to_hub("ddpm")
    for method, pipe in make_pipelines().items():
        pipe.save_pretrained(folder / method)
        pipe.push_to_hub(method.replace("_", "-"))


class Absent:
    """A finder for a machine where the package isn't installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.split(".")[0] == "diffusers_restore":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def load(way: str, method: str, trust: bool, folder: Path) -> Any:
    """The pipeline, loaded in one of the ways."""
    from diffusers import DiffusionPipeline

    repository, name = f"tester/{method.replace('_', '-')}", PIPELINES[method]
    options = {"trust_remote_code": True} if trust else {}
    kind, _, source = way.partition("-")
    if kind == "class":
        import diffusers_restore

        own = getattr(diffusers_restore, name)
        return own.from_pretrained({"folder": folder / method, "hub": repository, "stock": "tester/ddpm"}[source])
    if kind == "custom":
        custom = repository if source == "hub" else str(ROOT / "pipelines" / method)
        return DiffusionPipeline.from_pretrained("tester/ddpm", custom_pipeline=custom, **options)
    if source == "twice":
        other = "rddm" if method == "ddrm" else "ddrm"
        DiffusionPipeline.from_pretrained(folder / other, **options)
    return DiffusionPipeline.from_pretrained(repository if source == "hub" else folder / method, **options)


def outcome(way: str, method: str, state: str, trust: bool, folder: Path) -> str:
    """What a user meets; an error that helps nobody is returned as it is."""
    import torch
    from safetensors.torch import load_file

    if state == "absent":
        sys.meta_path.insert(0, Absent())
    try:
        pipe = load(way, method, trust, folder)
    except Exception as error:
        if "Pass `trust_remote_code=True`" in str(error):
            return TRUST
        if "pip install --upgrade diffusers-restore" in str(error):
            return INSTALL
        return f"{type(error).__name__}: {error}"
    import diffusers_restore

    if type(pipe) is not getattr(diffusers_restore, PIPELINES[method]):
        return f"{type(pipe)} is not the installed class"
    if "stock" not in way and "custom" not in way:
        part = NETWORKS.get(method, "unet")
        for name, weight in load_file(folder / method / part / "diffusion_pytorch_model.safetensors").items():
            assert torch.equal(getattr(pipe, part).state_dict()[name], weight)
    pipe.set_progress_bar_config(disable=True)
    image = torch.zeros(1, 3, 16, 16)
    stock = "stock" in way or "custom" in way
    if method == "rddm" and stock:
        pipe(num_inference_steps=2, output_type="latent")
    else:
        call = {"operator": "denoise", "sigma_y": 0.1, "num_inference_steps": 2} if method == "ddrm" else {}
        restored = pipe(image, **call, output_type="latent").images
        assert restored.shape[2:] == image.shape[2:]
        assert bool(restored.isfinite().all())
    return LOADS


def serve(order: str, folder: Path) -> None:
    """Answer with the outcomes of all cells of this order of imports, each in a forked process."""
    if order == "before":
        import diffusers_restore
    import torch
    from diffusers import DDPMPipeline, DiffusionPipeline, UNet2DModel  # noqa: F401

    if order == "after":
        assert "diffusers_restore" not in sys.modules
        import diffusers_restore  # noqa: F401
    torch.set_num_threads(1)
    gc.freeze()  # else a collection in a child copies every page
    results = []
    for way, method, state, trust in cells():
        if state not in ORDERS[order]:
            continue
        assert order != "without" or "diffusers_restore" not in sys.modules
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            with contextlib.redirect_stderr(io.StringIO()):
                try:
                    found = outcome(way, method, state, trust, folder)
                except BaseException as error:
                    found = f"{type(error).__name__}: {error}"
            with os.fdopen(writing, "w") as file:
                file.write(found)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as file:
            found = file.read()
        os.waitpid(child, 0)
        results.append([way, method, state, trust, found])
    print(json.dumps(results))


def measure(environment: dict[str, str], folder: Path, warm: Python) -> dict[tuple[str, str, str, bool], str]:
    """The outcome of every cell, on the Hub that `environment` names.

    Args:
        environment: that talks to the Hub.
        folder: for what is saved.
        warm: runs processes with that environment, in which diffusers is imported and the package isn't.
    """
    warm.run(__file__, "--prepare", "--folder", folder, timeout=550, check=True)
    orders = ("after", "without")
    answers = [warm.run(__file__, "--serve", one, "--folder", folder, timeout=550, check=True) for one in orders]
    command = [sys.executable, __file__, "--serve", "before", "--folder", str(folder)]
    settings = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    answers.append(
        subprocess.run(
            command, env=os.environ | settings | environment, cwd=folder, capture_output=True, text=True, timeout=550
        )
    )
    assert answers[-1].returncode == 0, answers[-1].stderr
    found = {}
    for answer in answers:
        for way, method, state, trust, said in json.loads(answer.stdout.splitlines()[-1]):
            found[way, method, state, trust] = said
    return found


def table(found: dict[tuple[str, str, str, bool], str]) -> str:
    """Markdown: a row for each way and pipelines that fare alike."""
    columns = [(state, trust) for state in STATES for trust in (False, True)]
    head = " | ".join(f"{STATES[state]}{', trust' if trust else ''}" for state, trust in columns)
    lines = [f"| way of loading | pipeline | {head} |", "|---" * (len(columns) + 2) + "|"]
    for way, title in WAYS.items():
        rows: dict[tuple[str, ...], list[str]] = {}
        for method, name in PIPELINES.items():
            asks = not way.startswith("class")
            row = tuple(found.get((way, method, state, trust and asks), NONE) for state, trust in columns)
            if set(row) != {NONE}:
                rows.setdefault(row, []).append(name.removesuffix("Pipeline"))
        for row, names in rows.items():
            lines.append(f"| {title.replace('{class}', 'TheClass')} | {', '.join(names)} | {' | '.join(row)} |")
    return "\n".join(lines)


@contextlib.contextmanager
def loopback_hub(root: Path) -> Iterator[dict[str, str]]:
    """A Hugging Face Hub on loopback: the environment variables with which a new process talks to it."""
    command = [sys.executable, str(Path(__file__).with_name("loopback_hub.py")), "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        name, _, address = server.stdout.readline().strip().partition("=")
        try:
            yield {name: address, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(root / "home")}
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/hub.md")
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        prepare(given.folder)
    elif given.serve:
        serve(given.serve, given.folder)
    else:
        with tempfile.TemporaryDirectory() as root:
            (Path(root) / "saved").mkdir()
            with loopback_hub(Path(root) / "hub") as environment, Python(environment) as warm:
                text = table(measure(environment, Path(root) / "saved", warm))
        print(text)
        if given.write:
            page = PAGE.read_text()
            before, after = page.partition(BEGIN)[0], page.partition(END)[2]
            PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    main()
