"""What happens on a Hub; tests/test_hub.py runs this file in a process that talks to one on loopback."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import WriteRepo, make_residual_unet, make_unet
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from pages import DOCS, ROOT, run_page
from PIL import Image
from torch import Tensor
from warm import Python

import diffusers_restore
from diffusers_restore import (
    DEFAULT_RESTORER,
    ColdDiffusionPipeline,
    ColdDiffusionScheduler,
    DDRMPipeline,
    DDRMScheduler,
    GaussianMixturePrior,
    RDDMPipeline,
    RDDMScheduler,
)
from diffusers_restore.cli import main
from diffusers_restore.degradations import Blur, Fade
from diffusers_restore.errors import InvalidInputError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # of the Hub's own client
IMAGE = torch.linspace(-1, 1, 3 * 16 * 12).reshape(1, 3, 16, 12)
API = HfApi()


def restorer() -> Any:
    return make_unet(channels=6, out_channels=3)


MAKE: dict[str, Any] = {
    "ddrm": lambda: DDRMPipeline(make_unet(), DDRMScheduler(beta_schedule="squaredcos_cap_v2")),
    "cold": lambda: ColdDiffusionPipeline(make_unet(), ColdDiffusionScheduler(Blur(num_timesteps=3))),
    "cold-prior": lambda: ColdDiffusionPipeline(
        make_unet(), ColdDiffusionScheduler(Blur(num_timesteps=3)), GaussianMixturePrior(channels=3, height=2, width=2)
    ),
    "cold-stateful": lambda: ColdDiffusionPipeline(make_unet(), ColdDiffusionScheduler(Fade(num_timesteps=3))),
    "rddm": lambda: RDDMPipeline(restorer(), RDDMScheduler()),
    "rddm-two": lambda: RDDMPipeline(restorer(), RDDMScheduler(prediction_type="residual_epsilon"), restorer()),
    "rddm-masked": lambda: RDDMPipeline(make_unet(channels=7, out_channels=3), RDDMScheduler()),
    "rddm-generator": lambda: RDDMPipeline(make_unet(), RDDMScheduler(), generates=True),
    "rddm-translator": lambda: RDDMPipeline(make_unet(), RDDMScheduler(), generates=False),
}


def restored(pipe: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    call = {}
    if isinstance(pipe, DDRMPipeline):
        call = {"operator": "denoise", "sigma_y": 0.1, "num_inference_steps": 3}
    elif isinstance(pipe, RDDMPipeline):
        call = {"num_inference_steps": 2}
    return pipe(IMAGE, **call, generator=torch.Generator().manual_seed(0), output_type="latent").images


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """The name of a repository that no other test has."""
    return "r" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:80]


@pytest.mark.parametrize("kind", ["ddrm", "cold-prior", "rddm-two"])
def test_a_variant(kind: str, repository: str) -> None:
    pipe = MAKE[kind]()
    pipe.push_to_hub(repository)
    half = pipe.to(torch.float16)
    half.push_to_hub(repository, variant="fp16")
    files = set(API.list_repo_files(f"tester/{repository}"))
    assert {"unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"} <= files
    for loader in (type(pipe), DiffusionPipeline):
        loaded = loader.from_pretrained(f"tester/{repository}", variant="fp16", dtype=torch.float16)
        assert type(loaded) is type(pipe)
        assert loaded.unet.dtype == torch.float16
        assert torch.equal(loaded.unet.conv_in.weight, half.unet.conv_in.weight)
    with pytest.raises((OSError, ValueError), match="no such modeling files are available"):
        type(pipe).from_pretrained(f"tester/{repository}", variant="int3")


def test_revisions(repository: str) -> None:
    pipe = MAKE["rddm"]()
    pipe.push_to_hub(repository)
    API.create_tag(f"tester/{repository}", tag="v1")
    with torch.no_grad():
        pipe.unet.conv_in.weight.add_(1)
    pipe.push_to_hub(repository)
    for loader in (RDDMPipeline, DiffusionPipeline):
        old, new = (loader.from_pretrained(f"tester/{repository}", revision=one) for one in ("v1", "main"))
        assert torch.allclose(new.unet.conv_in.weight, old.unet.conv_in.weight + 1)
    with pytest.raises(OSError, match="v2 is not a valid git identifier"):
        RDDMPipeline.from_pretrained(f"tester/{repository}", revision="v2")


def test_a_pull_request(repository: str) -> None:
    pipe = MAKE["rddm"]()
    pipe.push_to_hub(repository)
    with torch.no_grad():
        pipe.unet.conv_in.weight.add_(1)
    pipe.push_to_hub(repository, create_pr=True, commit_message="One more")
    loaded = RDDMPipeline.from_pretrained(f"tester/{repository}", revision="refs/pr/1")
    assert torch.equal(loaded.unet.conv_in.weight, pipe.unet.conv_in.weight)
    assert not torch.equal(
        RDDMPipeline.from_pretrained(f"tester/{repository}").unet.conv_in.weight, loaded.unet.conv_in.weight
    )


def test_a_private_repository(repository: str, tmp_path: Path) -> None:
    MAKE["rddm"]().push_to_hub(repository, private=True)
    name = f"tester/{repository}"
    assert API.model_info(name).private
    assert type(RDDMPipeline.from_pretrained(name, token="hf_other")) is RDDMPipeline
    with pytest.raises(OSError, match="token"):
        RDDMPipeline.from_pretrained(name, token=False, cache_dir=tmp_path)


@pytest.mark.parametrize("kind", ["cold-prior"])  # a pipeline with every kind of component
def test_offline(kind: str, repository: str, python: Python, tmp_path: Path) -> None:
    """What was loaded once is there without the Hub, by the class and by diffusers' own."""
    pipe = MAKE[kind]()
    pipe.push_to_hub(repository)
    load = """
import sys, torch, diffusers_restore
from diffusers import DiffusionPipeline
for loader in (getattr(diffusers_restore, sys.argv[-1]), DiffusionPipeline):
    pipe = loader.from_pretrained(NAME, **OPTIONS)
    print(type(pipe).__name__, float(pipe.unet.conv_in.weight.sum()))
"""
    load = load.replace("NAME", repr(f"tester/{repository}")).replace("sys.argv[-1]", repr(type(pipe).__name__))
    online = python.run("-c", load.replace("OPTIONS", "{}"), check=True).stdout
    assert online.count(type(pipe).__name__) == 2
    local = load.replace("OPTIONS", "{'local_files_only': True}")
    assert python.run("-c", local, check=True).stdout == online
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", load.replace("OPTIONS", "{}")]  # a new one: these are read at the start
    alone = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True, timeout=200)
    assert alone.stdout == online, alone.stderr
    with pytest.raises(OSError, match="cached"):
        type(pipe).from_pretrained(f"tester/{repository}", cache_dir=tmp_path / "empty", local_files_only=True)


@pytest.mark.parametrize("loader", ["own", "diffusers"])
def test_components_of_ones_own(loader: str, repository: str) -> None:
    pipe = MAKE["ddrm"]()
    pipe.push_to_hub(repository)
    load = (DDRMPipeline if loader == "own" else DiffusionPipeline).from_pretrained
    scheduler, unet = DDIMScheduler(beta_schedule="scaled_linear"), make_unet(levels=3)
    changed = load(f"tester/{repository}", scheduler=scheduler, unet=unet)
    assert changed.unet is unet
    assert (type(changed.scheduler), changed.scheduler.config.beta_schedule) == (DDRMScheduler, "scaled_linear")
    ours = DDRMScheduler(beta_schedule="linear")
    assert load(f"tester/{repository}", scheduler=ours).scheduler is ours
    with pytest.raises((InvalidInputError, ValueError), match="scheduler"):
        load(f"tester/{repository}", scheduler=torch.nn.Identity())


@pytest.mark.parametrize("kind", ["ddrm", "rddm-two"])
def test_from_pipe_both_ways(kind: str, repository: str) -> None:
    """A stock pipeline of the Hub becomes ours and a stock one again; all share one network."""
    DDPMPipeline(make_unet(), DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)).push_to_hub(
        repository
    )
    stock = DiffusionPipeline.from_pretrained(f"tester/{repository}")
    before = dict(stock.scheduler.config)
    ours = (DDRMPipeline if kind == "ddrm" else RDDMPipeline).from_pipe(stock)
    assert ours.unet is stock.unet
    assert dict(stock.scheduler.config) == before
    back = DDPMPipeline.from_pipe(ours, scheduler=DDPMScheduler.from_config(ours.scheduler.config))
    assert back.unet is stock.unet
    pictures = []
    for pipe in (stock, back):
        pipe.set_progress_bar_config(disable=True)
        pictures.append(
            pipe(num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np").images
        )
    assert abs(pictures[0] - pictures[1]).max() < 1e-6


def test_a_custom_pipeline_of_the_hub_takes_from_pipe(repository: str) -> None:
    MAKE["ddrm"]().push_to_hub(repository)
    stock = DDPMPipeline(make_unet(), DDPMScheduler())
    name = f"tester/{repository}"
    pipe = DiffusionPipeline.from_pipe(stock, custom_pipeline=name, trust_remote_code=True)
    assert type(pipe) is DDRMPipeline
    assert pipe.unet is stock.unet


def test_saving_with_a_push(repository: str, tmp_path: Path) -> None:
    pipe = MAKE["rddm"]()
    pipe.save_pretrained(tmp_path / repository, push_to_hub=True)
    loaded = RDDMPipeline.from_pretrained(f"tester/{repository}")
    for one, other in zip(loaded.unet.parameters(), pipe.unet.parameters(), strict=True):
        assert torch.equal(one, other)
    # Weights lie in memory as in the file, and some CPUs round sums by where they begin.
    assert torch.allclose(restored(loaded), restored(pipe), atol=1e-5)
    pipe.save_pretrained(
        tmp_path / "x", push_to_hub=True, repo_id=f"{repository}-2", commit_message="Named", private=True
    )
    assert API.model_info(f"tester/{repository}-2").private
    assert API.list_repo_commits(f"tester/{repository}-2")[0].title == "Named"
    assert "base_model" not in str(ModelCard.load(f"tester/{repository}"))


RESIDUAL: dict[str, Any] = {
    "DDPMPipeline": lambda: DDPMPipeline(make_residual_unet(), DDPMScheduler()),
    "RDDMPipeline": lambda: RDDMPipeline(
        make_residual_unet(channels=6, out_channels=3),
        RDDMScheduler(prediction_type="residual_epsilon"),
        make_residual_unet(channels=6, out_channels=3),
    ),
}
# Prints what each kind of process finds, forked from one that has imported diffusers alone.
LOADING = """
import logging, os, sys
from diffusers import DDPMPipeline, DiffusionPipeline
from hub_matrix import Absent

def attempt(state, cls, name):
    if state == "absent":
        sys.meta_path.insert(0, Absent())
    elif state == "imported":
        import diffusers_restore
    warned, handler = [], logging.Handler()
    handler.emit = warned.append
    logging.getLogger("diffusers").addHandler(handler)
    try:
        pipe = cls.from_pretrained(name, **({} if state in ("imported", "alone") else {"trust_remote_code": True}))
        said = f"{type(pipe).__name__} of {type(pipe.unet).__name__}"
        import torch
        torch.set_num_threads(1)
        pipe.unet(torch.zeros(1, pipe.unet.config.in_channels, 8, 8), 3)
    except Exception as error:
        said = next(word for word in ("trust_remote_code=True", "pip install", repr(error)) if word in repr(error))
    print(state, cls.__name__, said, len(warned) if state == "imported" else "-", flush=True)

assert "diffusers_restore" not in sys.modules
for state in ("imported", "alone", "trusted", "absent"):
    for cls, name in ((DDPMPipeline, "DDPMPipeline"), (DiffusionPipeline, "RDDMPipeline")):
        child = os.fork()
        if child == 0:
            attempt(state, cls, f"tester/{PREFIX}-{name}")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
"""


def test_residual_networks_are_pushed_and_loaded_by_every_process(repository: str, python: Python) -> None:
    for name, make in RESIDUAL.items():
        pipe = make()
        pipe.push_to_hub(f"{repository}-{name}")
        loaded = DiffusionPipeline.from_pretrained(f"tester/{repository}-{name}")
        assert type(loaded) is type(pipe)
        for part in ("unet", "unet_noise"):
            if getattr(pipe, part, None) is not None:
                state = getattr(loaded, part).state_dict()
                assert all(torch.equal(state[key], x) for key, x in getattr(pipe, part).state_dict().items())
        if name == "RDDMPipeline":
            assert torch.allclose(restored(loaded), restored(pipe), atol=1e-5)
    code = f"PREFIX = {repository!r}\n{LOADING}"
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    found = python.run("-c", code, environment=path, check=True).stdout.splitlines()
    loaders = [("DDPMPipeline", "DDPMPipeline"), ("DiffusionPipeline", "RDDMPipeline")]
    loads = [f"{loader} {name} of ResidualUNet2DModel" for loader, name in loaders]
    assert found == [
        *(f"imported {said} 0" for said in loads),
        *(f"alone {loader} trust_remote_code=True -" for loader, _ in loaders),
        *(f"trusted {said} -" for said in loads),
        *(f"absent {loader} pip install -" for loader, _ in loaders),
    ]


def test_a_stock_pipeline_with_a_residual_network_goes_both_ways(repository: str) -> None:
    DDPMPipeline(make_residual_unet(), DDPMScheduler(clip_sample=False)).push_to_hub(repository)
    stock = DDPMPipeline.from_pretrained(f"tester/{repository}")
    for kind in (DDRMPipeline, RDDMPipeline):
        ours = kind.from_pretrained(f"tester/{repository}")
        assert all(torch.equal(a, b) for a, b in zip(ours.unet.parameters(), stock.unet.parameters(), strict=True))
        back = DDPMPipeline.from_pipe(kind.from_pipe(stock), scheduler=stock.scheduler)
        assert back.unet is stock.unet


# Model cards


def run_snippet(card: str, folder: Path) -> None:
    """The Python of a card, as a user would run it."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    code = code.replace("batch_size=4", "batch_size=1").replace("num_inference_steps=10", "num_inference_steps=2")
    for name in ("photo", "damaged"):
        Image.linear_gradient("L").resize((16, 12)).convert("RGB").save(folder / f"{name}.png")
    Image.linear_gradient("L").resize((16, 12)).point(lambda v: 255 * (v > 99)).save(folder / "damaged.png")
    scope: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(code, "card", "exec"), scope)
    finally:
        os.chdir(before)
    assert any(name in scope for name in ("restored", "new", "estimate", "translated"))


@pytest.mark.parametrize("kind", MAKE)
def test_a_new_card_is_real_and_its_snippet_runs(kind: str, repository: str, tmp_path: Path) -> None:
    pipe = MAKE[kind]()
    pipe.push_to_hub(repository)
    card = ModelCard.load(f"tester/{repository}")
    data = card.data.to_dict()
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == ("unconditional-image-generation" if kind == "rddm-generator" else "image-to-image")
    assert {"diffusers", "diffusers_restore"} < set(data["tags"])
    assert "arXiv:2" in card.text
    assert "Not stated by whoever uploaded this" in card.text
    assert "pip install diffusers-restore" in card.text
    run_snippet(card.text, tmp_path)


def test_the_card_names_the_base_model_and_keeps_its_terms(repository: str, tmp_path: Path) -> None:
    base = f"{repository}-base"
    DDPMPipeline(make_unet(), DDPMScheduler()).save_pretrained(tmp_path / "base")
    front = "---\nlicense: cc-by-nc-4.0\ndatasets:\n- someone/faces\n---\n"
    (tmp_path / "base" / "README.md").write_text(f"{front}# Base\n\nTrained on faces.\n\n![drawn](drawn.png)\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "base" / "drawn.png")
    API.create_repo(base)
    API.upload_folder(repo_id=f"tester/{base}", folder_path=tmp_path / "base")
    DDRMPipeline.from_pretrained(f"tester/{base}").push_to_hub(repository)
    card = ModelCard.load(f"tester/{repository}")
    assert card.data.base_model == f"tester/{base}"
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.datasets == ["someone/faces"]
    assert "> Trained on faces." in card.text
    assert "drawn.png" in API.list_repo_files(f"tester/{repository}")
    run_snippet(card.text, tmp_path)

    # Saved from a folder, too; the card says nothing of where that lies.
    DDRMPipeline.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "restorer")
    text = (tmp_path / "restorer" / "README.md").read_text()
    assert "DDRMPipeline" in text
    assert "license: cc-by-nc-4.0" in text
    assert "The network is that of `base`, unchanged." in text
    assert str(tmp_path) not in text


def test_a_card_that_was_written_is_kept(repository: str, tmp_path: Path) -> None:
    """By training, or by hand: through saving, loading and pushing to other names, with its pictures."""
    pipe = MAKE["rddm"]()
    pipe.save_pretrained(tmp_path / "derain")
    text = """\
---
library_name: diffusers
tags: [mine]
---
# Derain

PSNR 31.4 dB.

![before and after](shown/grid.png)

```python
from diffusers_restore import RDDMPipeline

restored = RDDMPipeline.from_pretrained("derain")
```
"""
    (tmp_path / "derain" / "README.md").write_text(text)
    (tmp_path / "derain" / "shown").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "derain" / "shown" / "grid.png")
    RDDMPipeline.from_pretrained(tmp_path / "derain").push_to_hub(repository)
    card = ModelCard.load(f"tester/{repository}")
    assert "PSNR 31.4 dB." in card.text
    assert f'from_pretrained("tester/{repository}")' in card.text
    assert "shown/grid.png" in API.list_repo_files(f"tester/{repository}")
    run_snippet(card.text, tmp_path)

    # Loaded from there and pushed to another name, or saved here and pushed.
    pulled = RDDMPipeline.from_pretrained(f"tester/{repository}")
    pulled.push_to_hub(f"{repository}-copy")
    copy = ModelCard.load(f"tester/{repository}-copy")
    assert "PSNR 31.4 dB." in copy.text
    assert f'from_pretrained("tester/{repository}-copy")' in copy.text
    assert "shown/grid.png" in API.list_repo_files(f"tester/{repository}-copy")
    RDDMPipeline.from_pretrained(tmp_path / "derain").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == text
    assert (tmp_path / "again" / "shown" / "grid.png").is_file()

    # A card that was edited on the Hub stays where the pipeline has none.
    MAKE["rddm"]().push_to_hub(f"{repository}-copy")
    assert "PSNR 31.4 dB." in ModelCard.load(f"tester/{repository}-copy").text


def test_a_card_without_front_matter_or_with_a_picture_from_elsewhere(repository: str, tmp_path: Path) -> None:
    MAKE["rddm"]().save_pretrained(tmp_path / "plain")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    (tmp_path / "plain" / "README.md").write_text(
        f"# Plain\n\n![x](../secret.png) ![y]({secret}) ![z](https://a.b/c.png)\n"
    )
    RDDMPipeline.from_pretrained(tmp_path / "plain").push_to_hub(repository)
    assert not [name for name in API.list_repo_files(f"tester/{repository}") if name.endswith(".png")]
    assert "# Plain" in Path(hf_hub_download(f"tester/{repository}", "README.md")).read_text()


TRAININGS: dict[str, list[str]] = {
    "prior": ["prior"],
    "prior-from": ["prior", "--pretrained_model_name_or_path", "tester/toy-base"],
    "cold": ["cold", "--degradation", "blur", "--num_train_timesteps", "3"],
    "rddm": ["rddm", "--recipe", "blind"],
    "rddm-from": ["rddm", "--recipe", "blind", "--init_from", "tester/toy-base"],
    "rddm-generator": ["rddm"],
}


@pytest.mark.parametrize("kind", TRAININGS)
def test_the_card_of_a_training_is_whole_and_its_snippet_runs(
    kind: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.linear_gradient("L").rotate(90 * i).resize((24, 20)).convert("RGB").save(tmp_path / "photos" / f"{i}.png")
    if kind.endswith("-from"):
        DDPMPipeline(make_unet(), DDPMScheduler()).push_to_hub("toy-base")
    toy = {
        "train_data_dir": "photos",
        "output_dir": "out",
        "max_train_steps": 2,
        "checkpointing_steps": 2,
        "train_batch_size": 1,
        "resolution": 16,
        "validation_resolution": 16,
        "validation_images": 1,
        "mixed_precision": "no",
        "logger": "none",
        "license": "cc-by-nc-4.0",
        "hub_model_id": repository,
    } | ({} if kind.endswith("-from") else {"block_out_channels": "8,16"})
    options = [word for name, value in toy.items() for word in (f"--{name}", str(value))]
    monkeypatch.chdir(tmp_path)
    command = ["diffusers-restore", "train", *TRAININGS[kind], *options, "--push_to_hub"]
    monkeypatch.setattr(sys, "argv", command)
    result = CliRunner().invoke(main, command[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output

    card = ModelCard.load(f"tester/{repository}")
    generates = kind.startswith("prior") or kind == "rddm-generator"
    assert card.data.pipeline_tag == ("unconditional-image-generation" if generates else "image-to-image")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.library_name == "diffusers"
    assert card.data.base_model == ("tester/toy-base" if kind.endswith("-from") else None)
    assert " ".join(["diffusers-restore train", *TRAININGS[kind]]) in card.text
    assert "3 pictures of photos; 1 more is held out" in card.text
    assert re.search(r"^\| psnr\w* \| \d+\.\d{3} \|$", card.text, re.MULTILINE)
    assert "![" in card.text
    figures = {name: float(value) for name, value in re.findall(r"^\| (psnr\w*) \| (\S+) \|$", card.text, re.MULTILINE)}
    restored_psnr = figures.get("psnr_restored" if kind == "cold" else "psnr", 0.0)
    worse = restored_psnr < figures.get("psnr_degraded", restored_psnr)
    sentence = "the held-out pictures are further from the clean ones after restoring than before"
    assert (f"**Warning:** {sentence}" in card.text) == (f"warning: {sentence}" in result.output) == worse
    files = API.list_repo_files(f"tester/{repository}")
    assert "samples.png" in files
    assert ("pipeline.py" in files) == (not kind.startswith("prior"))
    run_snippet(card.text, tmp_path)
    loaded = DiffusionPipeline.from_pretrained(f"tester/{repository}")
    assert type(loaded).__name__ in ("DDPMPipeline", "ColdDiffusionPipeline", "RDDMPipeline")

    # What the run ends with can be typed.
    end = result.output[result.output.index("done, in out; try:") :]
    tried = [shlex.split(line)[1:] for line in end.splitlines() if line.startswith("  diffusers-restore ")]
    commands = {"prior": ["restore", "sample"], "rddm-generator": ["sample"]}.get(
        kind.removesuffix("-from"), ["restore"]
    )
    assert [words[0] for words in tried] == commands
    for words in tried:
        done = CliRunner().invoke(main, [*words, "--steps", "3"], catch_exceptions=False)
        assert done.exit_code == 0, done.output


# `diffusers-restore push`


def push(*words: object, fails: bool = False) -> str:
    result = CliRunner().invoke(main, ["push", *map(str, words)], catch_exceptions=False)
    assert (result.exit_code != 0) == fails, result.output
    return " ".join(result.output.split())


CARD = """\
---
library_name: diffusers
---
# Prior

![grid](samples.png)

`DDPMPipeline.from_pretrained("prior")`
"""


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    """What a training leaves in its folder."""
    folder = tmp_path / "prior"
    DDPMPipeline(make_unet(), DDPMScheduler()).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    for name in ("samples.png", "samples/00000500.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    for name in (
        "checkpoint-500/unet.safetensors",
        "checkpoint-500/state.json",
        "logs/events",
        "metrics.jsonl",
        ".lock",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    (folder / "unet" / "optimizer.safetensors").write_bytes(b"state")
    (folder / "unet" / ".cache").write_bytes(b"state")
    return folder


def test_push_uploads_a_trained_folder_with_its_card(repository: str, prior: Path) -> None:
    before = {path: path.read_bytes() for path in prior.rglob("*") if path.is_file()}
    name = f"tester/{repository}"
    assert push(prior, repository, "--private", "--commit-message", "Five hundred").endswith(f"/{name}")
    assert set(API.list_repo_files(name)) - {".gitattributes"} == {
        "README.md",
        "model_index.json",
        "samples.png",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert API.model_info(name).private
    assert f'from_pretrained("{name}")' in Path(hf_hub_download(name, "README.md")).read_text()
    assert type(DiffusionPipeline.from_pretrained(name)) is DDPMPipeline
    assert before == {path: path.read_bytes() for path in prior.rglob("*") if path.is_file()}
    (prior / "README.md").write_text(CARD.replace("# Prior", "# Better"))
    assert "/discussions/1" in push(prior, name, "--create-pr")
    assert "# Prior" in Path(hf_hub_download(name, "README.md")).read_text()


def test_push_writes_a_card_for_a_pipeline_of_ours_and_asks_for_one_of_others(repository: str, tmp_path: Path) -> None:
    MAKE["rddm"]().save_pretrained(tmp_path / "mine")
    push(tmp_path / "mine", repository)
    assert "## Training, data and terms" in ModelCard.load(f"tester/{repository}").text
    assert {"pipeline.py", "README.md"} <= set(API.list_repo_files(f"tester/{repository}"))
    assert not (tmp_path / "mine" / "README.md").exists()
    DDPMPipeline(make_unet(), DDPMScheduler()).save_pretrained(tmp_path / "theirs")
    assert "theirs has no README.md: write one" in push(tmp_path / "theirs", f"{repository}-2")


def test_push_refuses_what_is_no_pipeline(repository: str, prior: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty' is no pipeline: it has no model_index.json" in push(tmp_path / "empty", repository, fails=True)
    message = push(prior / "checkpoint-500", repository, fails=True)
    assert f"is no pipeline: it is a checkpoint of a training; the model is in '{prior}'" in message
    assert "does not exist" in push(tmp_path / "absent", repository, fails=True)
    assert "can't make the repository" in push(prior, "a/b/c", fails=True)
    assert "can't make the repository" in push(prior, repository, "--token", "wrong", fails=True)
    (prior / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
    assert "no pipeline can be loaded from" in push(prior, repository, fails=True)
    assert not API.repo_exists(f"tester/{repository}")


def test_the_bundled_restorer_can_be_pushed(repository: str) -> None:
    RDDMPipeline.from_pretrained(DEFAULT_RESTORER).push_to_hub(repository)
    card = ModelCard.load(f"tester/{repository}")
    assert "246 photographs whose terms allow any use" in card.text
    assert card.data.license == "apache-2.0"


# The documentation


def test_the_python_of_the_page_runs(write_repo: WriteRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repo(make_unet(), name="google/ddpm-celebahq-256")
    MAKE["rddm"]().save_pretrained(tmp_path / "derain")
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "hub.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    for code in blocks:
        exec(compile(code.replace('"me/', '"tester/'), "hub.md", "exec", dont_inherit=True), {"__name__": "page"})
    assert API.model_info("tester/derain").private


@pytest.mark.parametrize("name", ["train_from_pairs", "share"])
def test_a_tutorial_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((24, 32), 50).convert("RGB").save("old.jpg")
    pushed = []
    run_page(DOCS / "tutorials" / f"{name}.md", push=lambda given: pushed.append(push(*given)), account="tester")
    assert len(pushed) == 1


def test_the_pages_push(prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pages = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
    commands = re.findall(r"^diffusers-restore push (.*)$", "\n".join(page.read_text() for page in pages), re.MULTILINE)
    assert commands
    for command in commands:
        if not (folder := tmp_path / shlex.split(command)[0]).exists():
            MAKE["rddm"]().save_pretrained(folder)
        printed = push(*shlex.split(command.replace(" me/", " tester/"), comments=True))
        assert re.fullmatch(r"pushed to http\S+/tester/\w+", printed)


# What goes wrong


def test_a_repository_that_is_not_there_says_so() -> None:
    message = "tester/nothing is not a local folder and is not a valid model(.|\\n)*make sure to pass a token"
    with pytest.raises(OSError, match=message):
        DDRMPipeline.from_pretrained("tester/nothing")


def test_a_push_that_the_hub_refuses_says_what_is_needed(tmp_path: Path) -> None:
    pipe = MAKE["rddm"]()
    message = "can't make the repository 'tester/no': .*`hf auth login` stores one"
    with pytest.raises(InvalidInputError, match=message):
        pipe.push_to_hub("tester/no", token="wrong")
    with pytest.raises(InvalidInputError, match=message):
        pipe.save_pretrained(tmp_path, push_to_hub=True, repo_id="tester/no", token="wrong")


def test_a_damaged_repository_is_refused_by_diffusers_own_class_too(repository: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    MAKE["rddm"]().save_pretrained(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights.pop("conv_out.bias")
    save_file(weights, file)
    API.create_repo(repository)
    API.upload_folder(repo_id=f"tester/{repository}", folder_path=tmp_path)
    for source in (tmp_path, f"tester/{repository}"):
        for loader in (RDDMPipeline, DiffusionPipeline):
            with pytest.raises(InvalidInputError, match="unet in .* lacks 1 of its .* weights"):
                loader.from_pretrained(source)


def test_latents_are_refused_before_anything_is_downloaded(repository: str, tmp_path: Path) -> None:
    DDPMPipeline(make_unet(), DDPMScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    MAKE["ddrm"]().push_to_hub(f"{repository}-code")
    API.create_repo(repository)
    API.upload_folder(repo_id=f"tester/{repository}", folder_path=tmp_path)
    message = "is a LDMPipeline with vqvae, which DDRMPipeline has no place for"
    with pytest.raises(InvalidInputError, match=message):
        DDRMPipeline.from_pretrained(f"tester/{repository}")
    assert not list(Path(os.environ["HF_HOME"]).glob(f"hub/models--tester--{repository}/snapshots/*/unet"))
    with pytest.raises(InvalidInputError, match=message):
        DiffusionPipeline.from_pretrained(
            f"tester/{repository}", custom_pipeline=f"tester/{repository}-code", trust_remote_code=True
        )


def test_a_repository_with_other_code_of_the_same_name_runs_none_of_it(repository: str, tmp_path: Path) -> None:
    """The installed class is taken, unless the code is trusted."""
    MAKE["rddm"]().save_pretrained(tmp_path)
    (tmp_path / "pipeline.py").write_text("raise SystemError('ran')\n")
    (tmp_path / "scheduler" / "diffusers_restore.py").write_text("raise SystemError('ran')\n")
    API.create_repo(repository)
    API.upload_folder(repo_id=f"tester/{repository}", folder_path=tmp_path)
    for source in (tmp_path, f"tester/{repository}"):
        assert type(DiffusionPipeline.from_pretrained(source)) is diffusers_restore.RDDMPipeline
        with pytest.raises(SystemError, match="ran"):
            DiffusionPipeline.from_pretrained(source, trust_remote_code=True)
