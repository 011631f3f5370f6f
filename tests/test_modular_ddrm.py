"""The modular blocks: what `DDRMPipeline` gives, bit for bit; blocks of one's own; repositories and the Hub."""

from __future__ import annotations

import copy
import doctest
import inspect
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WriteRepo, make_residual_unet, make_unet
from diffusers import (
    ComponentsManager,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    ModularPipeline,
    ModularPipelineBlocks,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam, OutputParam
from warm import Python

from diffusers_restore import DDRMBlocks, DDRMPipeline, DDRMScheduler
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.operators import BlockMean, Mask, measure
from diffusers_restore.operators.tasks import random_mask
from diffusers_restore.pipelines.modular_ddrm import DDRMDecodeStep, DDRMPredictStep
from diffusers_restore.schedulers.zero_shot import ZeroShotScheduler

FOLDER = Path(__file__).parents[1] / "pipelines" / "ddrm_modular"


@pytest.fixture(autouse=True)
def quiet_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers writes the traceback of an error in a block to stderr, once for each level of blocks."""
    monkeypatch.setattr(logging.getLogger("diffusers"), "disabled", True)
    monkeypatch.setattr(logging.getLogger("diffusers.modular_pipelines.modular_pipeline"), "disabled", True)


def modular(unet: Any, scheduler: Any = None, blocks: DDRMBlocks | None = None) -> ModularPipeline:
    pipe = (blocks or DDRMBlocks()).init_pipeline()
    pipe.update_components(unet=unet, scheduler=scheduler or DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def uniform(batch: int, *shape: int) -> torch.Tensor:
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(7)) * 2 - 1


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def both(pipe: ModularPipeline, **call: Any) -> tuple[Any, Any]:
    """The pictures of the blocks and of the pipeline, of the same components."""
    whole = DDRMPipeline(pipe.unet, pipe.scheduler)
    whole.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": None if "timesteps" in call else 3, "output_type": "latent", **call}
    make = call.pop("generator", lambda: torch.Generator().manual_seed(0))
    return pipe(**call, generator=make(), output="images"), whole(**call, generator=make()).images


# The same pictures


MASKED = measure(Mask((3, 14, 11), random_mask(14, 11)), uniform(2, 3, 14, 11), 0.1, torch.Generator().manual_seed(1))
CASES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "odd sizes, a batch": ({}, None, {"image": uniform(3, 3, 5, 7), "operator": "sr2", "sigma_y": 0.05}),
    "exact": ({}, None, {"image": uniform(1, 3, 4, 6), "operator": "sr4", "eta": 1.0, "eta_b": 0.7}),
    "an operator": ({"levels": 3}, None, {"image": MASKED.y, "operator": MASKED.operator, "sigma_y": 0.1}),
    "deblurring": ({}, None, {"image": uniform(2, 3, 17, 12), "operator": "deblur-aniso", "sigma_y": 0.1}),
    "grey on colour": ({}, None, {"image": uniform(2, 1, 9, 7), "operator": "denoise", "sigma_y": 0.2}),
    "colour on grey": ({"channels": 1}, None, {"image": uniform(2, 3, 9, 8), "operator": "sr2", "sigma_y": 0.1}),
    "colour on grey, generators": (
        {"channels": 1},
        None,
        {"image": uniform(2, 3, 9, 8), "operator": "denoise", "sigma_y": 0.1, "generator": lambda: seeded(3, 4)},
    ),
    "a generator each": (
        {},
        None,
        {
            "image": uniform(2, 3, 5, 5),
            "operator": "sr2",
            "num_images_per_input": 2,
            "generator": lambda: seeded(1, 2, 3, 4),
        },
    ),
    "a learned variance": (
        {"out_channels": 6},
        DDPMScheduler(variance_type="learned_range"),
        {"image": uniform(2, 3, 6, 5), "operator": "denoise", "sigma_y": 0.1},
    ),
    "one label": (
        {"num_class_embeds": 5},
        None,
        {"image": uniform(2, 3, 6, 5), "operator": "denoise", "sigma_y": 0.1, "class_labels": 3},
    ),
    "a label each": (
        {"num_class_embeds": 5},
        None,
        {
            "image": uniform(2, 3, 6, 5),
            "operator": "denoise",
            "sigma_y": 0.1,
            "class_labels": [4, 0],
            "num_images_per_input": 2,
        },
    ),
    "v, own timesteps": (
        {},
        DDIMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", clip_sample=False),
        {"image": uniform(2, 3, 6, 5), "operator": "denoise", "sigma_y": 0.1, "timesteps": [900, 431, 20, 0]},
    ),
    "a score network": (
        {"time_embedding_type": "fourier", "center_input_sample": True},
        ScoreSdeVeScheduler(sigma_max=50.0),
        {"image": uniform(2, 3, 6, 5), "operator": "denoise", "sigma_y": 0.1},
    ),
    "our own scheduler": (
        {},
        DDRMScheduler(beta_end=0.03),
        {"image": uniform(1, 1, 6, 5), "operator": "colorize"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_blocks_are_the_pipeline_bit_for_bit(case: str) -> None:
    config, scheduler, call = CASES[case]
    blocks, whole = both(modular(make_unet(**config), scheduler), **call)
    assert blocks.dtype == torch.float32
    assert torch.equal(blocks, whole)
    assert bool(blocks.isfinite().all())
    assert blocks.std() > 0.1  # something was restored


@pytest.mark.parametrize("config", [{}, {"out_channels": 6}, {"num_class_embeds": 5}, {"channels": 1}], ids=str)
def test_a_residual_network_in_the_blocks(config: dict[str, Any]) -> None:
    network = make_residual_unet(**config)
    call = {"image": uniform(2, network.config.in_channels, 5, 7), "operator": "sr2", "sigma_y": 0.05}
    for dtype in (torch.float32, torch.bfloat16):
        pipe = modular(network.to(dtype))
        blocks, whole = both(pipe, **call, **({"class_labels": [4, 0]} if "num_class_embeds" in config else {}))
        assert pipe.unet is network
        assert torch.equal(blocks, whole)
        assert blocks.std() > 0.1


def test_a_network_of_half_precision(unet: UNet2DModel) -> None:
    half = make_unet().to(torch.bfloat16)
    call = {"image": uniform(2, 3, 5, 7), "operator": "sr2", "sigma_y": 0.05}
    blocks, whole = both(modular(half), **call)
    assert torch.equal(blocks, whole)
    assert not torch.equal(blocks, both(modular(unet), **call)[0])


def test_a_whole_batch_at_once(unet: UNet2DModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the parts are one."""
    monkeypatch.setattr("diffusers_restore.pipelines.zero_shot.pictures_at_once", lambda device, batch: batch)
    pipe = modular(unet)
    call = {"image": uniform(3, 3, 8, 8), "operator": "sr2", "sigma_y": 0.05}
    blocks, whole = both(pipe, **call)
    assert torch.equal(blocks, whole)
    state = pipe(**call, num_inference_steps=2, output_type="latent")
    assert [len(x) for x in state.samples] == [3]
    assert state.estimates[0].shape == (3, 3, 16, 16)


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="dropout"):
        modular(make_unet(dropout=0.5).train())(image=uniform(1, 3, 4, 4), operator="sr2", num_inference_steps=2)


def test_output_types(unet: UNet2DModel) -> None:
    call = {"image": uniform(2, 3, 5, 7), "operator": "sr2"}
    pictures, wanted = both(modular(unet), **call, output_type="pil")
    assert [one.size for one in pictures] == [(14, 10)] * 2
    assert [one.tobytes() for one in pictures] == [one.tobytes() for one in wanted]
    array, wanted = both(modular(unet), **call, output_type="np")
    assert np.array_equal(array, wanted)


def test_what_is_given_stays_as_it_was(unet: UNet2DModel) -> None:
    """Neither the stock scheduler nor the pictures nor the global random state change; a seed gives one picture."""
    scheduler, image = DDPMScheduler(beta_end=0.03), uniform(1, 3, 4, 4)
    config, timesteps, before = dict(scheduler.config), scheduler.timesteps.clone(), image.clone()
    random = torch.random.get_rng_state()
    pipe = modular(unet, scheduler)
    call = {"image": image, "operator": "sr2", "num_inference_steps": 2, "output_type": "latent", "output": "images"}
    first, second = (pipe(**call, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    assert torch.equal(first, second)
    assert pipe.scheduler is scheduler
    assert type(pipe.scheduler) is DDPMScheduler
    assert (dict(scheduler.config), scheduler.num_inference_steps) == (config, None)
    assert torch.equal(scheduler.timesteps, timesteps)
    assert torch.equal(image, before)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_state_can_be_gone_on_with(unet: UNet2DModel) -> None:
    pipe = modular(unet)
    state = pipe(image=uniform(1, 3, 4, 4), operator="sr2", num_inference_steps=2, output_type="latent")
    again = pipe(state=state, num_inference_steps=4)
    assert (len(state.method.timesteps), len(again.method.timesteps)) == (2, 4)
    assert again.images.shape == state.images.shape == (1, 3, 8, 8)


def test_other_zero_shot_methods_run_too(unet: UNet2DModel) -> None:
    class Prior(ZeroShotScheduler):
        """Deterministic sampling of the prior, which minds no data."""

        def start(self, measurement: Any, noise: torch.Tensor, timestep: Any = None) -> torch.Tensor:
            return noise

        def step(self, model_output: Any, timestep: Any, sample: Any, measurement: Any, **_: Any) -> Any:
            return sample - 0.1 * model_output, sample

    pipe = modular(unet, Prior())
    call = {"image": uniform(2, 3, 8, 8), "operator": "denoise", "sigma_y": 0.1}
    blocks, whole = both(pipe, **call)
    assert torch.equal(blocks, whole)
    with pytest.raises(InvalidInputError, match="eta must be None for Prior, whose steps have other options: none"):
        pipe(**call, eta=0.5)


def test_progress_is_shown_and_can_be_silenced(unet: UNet2DModel, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = modular(unet)
    call = {"image": uniform(1, 3, 4, 4), "operator": "sr2", "num_inference_steps": 3}
    pipe(**call)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    pipe(**call)
    assert "3/3" in capsys.readouterr().err


# What blocks say of themselves


def test_every_argument_of_the_pipeline_has_its_input() -> None:
    call = inspect.signature(DDRMPipeline.__call__).parameters
    left_out = {"self", "classifier", "classifier_scale", "return_dict"} | {n for n in call if n.startswith("callback")}
    inputs = {one.name: one for one in DDRMBlocks().inputs}
    assert set(inputs) == set(call) - left_out
    assert {name for name, one in inputs.items() if one.required} == {"image", "operator"}
    assert all(inputs[name].default == call[name].default for name in set(inputs) - {"image", "operator"})
    assert all(one.description for one in inputs.values())
    assert [one.name for one in DDRMBlocks().outputs] == ["images"]
    assert "TODO" not in DDRMBlocks().doc
    assert "sd of their noise" in DDRMBlocks().doc


def test_the_example_runs() -> None:
    (example,) = [one for one in doctest.DocTestFinder().find(DDRMBlocks, globs={}) if one.examples]
    assert doctest.DocTestRunner().run(example) == (0, 6)


def test_blocks_name_what_they_read_and_make() -> None:
    """A block gets what its `inputs` name; each of them is given by the user or made by a block before."""
    blocks = DDRMBlocks()
    known = {one.name for one in blocks.inputs}
    steps = [*list(blocks.sub_blocks.values())[:3], *blocks.sub_blocks["denoise"].sub_blocks.values()]
    for block in [*steps, blocks.sub_blocks["decode"]]:
        assert {one.name for one in block.inputs} <= known
        assert block.description
        known |= {one.name for one in block.intermediate_outputs}
    assert {one.name for one in blocks.expected_components} == {"unet", "scheduler"}


# Blocks of one's own


def test_a_block_within_the_loop_can_be_exchanged(unet: UNet2DModel) -> None:
    class Silent(DDRMPredictStep):
        def __call__(self, components: Any, block_state: Any, i: int, t: int) -> Any:
            block_state.model_outputs = [torch.zeros_like(x) for x in block_state.samples]
            return components, block_state

    blocks = DDRMBlocks()
    blocks.sub_blocks["denoise"].sub_blocks["predict"] = Silent()
    zero = make_unet()
    torch.nn.init.zeros_(zero.conv_out.weight)
    torch.nn.init.zeros_(zero.conv_out.bias)
    call = {"image": uniform(2, 3, 5, 7), "operator": "sr2", "sigma_y": 0.05}
    exchanged = both(modular(unet, blocks=blocks), **call)[0]
    assert torch.equal(exchanged, both(modular(zero), **call)[1])
    assert not torch.equal(exchanged, both(modular(unet), **call)[0])  # another object has the blocks of the class


def test_a_block_can_be_put_between_others(unet: UNet2DModel) -> None:
    seen: list[tuple[int, int]] = []

    class Guide(ModularPipelineBlocks):
        inputs = [InputParam("model_outputs", required=True)]  # noqa: RUF012
        intermediate_outputs = [OutputParam("model_outputs")]  # noqa: RUF012

        def __call__(self, components: Any, block_state: Any, i: int, t: int) -> Any:
            seen.append((i, t))
            block_state.model_outputs = [0 * output for output in block_state.model_outputs]
            return components, block_state

    class Mean(ModularPipelineBlocks):
        inputs = [InputParam("samples", required=True)]  # noqa: RUF012

        def __call__(self, components: Any, state: Any) -> Any:
            block_state = self.get_block_state(state)
            block_state.samples = [torch.cat(block_state.samples).mean(dim=0, keepdim=True)]
            self.set_block_state(state, block_state)
            return components, state

    blocks = DDRMBlocks()
    blocks.sub_blocks["denoise"].sub_blocks.insert("guide", Guide(), 1)
    blocks.sub_blocks.insert("mean", Mean(), 4)
    call = {"image": uniform(1, 3, 5, 7), "operator": "sr2", "sigma_y": 0.05, "num_images_per_input": 3}
    mean, samples = both(modular(unet, blocks=blocks), **call)
    assert seen == [(0, 666), (1, 333), (2, 0)]
    assert mean.shape == (1, 3, 10, 14)
    assert samples.shape == (3, 3, 10, 14)


def test_a_block_of_ours_works_alone(unet: UNet2DModel) -> None:
    """The way back from states that came from elsewhere."""
    plan = modular(unet)(image=uniform(1, 1, 5, 7), operator="denoise", sigma_y=0.1, num_inference_steps=2).plan
    pipe = DDRMDecodeStep().init_pipeline()
    images = pipe(plan=plan, samples=[torch.ones(1, 3, 6, 8)], output_type="latent", output="images")
    assert images.shape == (1, 1, 5, 7)
    assert (images - 1).abs().max() < 1e-6


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": uniform(1, 3, 8, 8) * 255}, "image holds values up to 25.*Tensors are in"),
        ({"operator": "denoisee"}, "no task named 'denoisee'; did you mean 'denoise'"),
        ({"operator": BlockMean((3, 16, 24), 2)}, r"y must be \(B, C, H, W\) with \(C, H, W\) = \(3, 8, 12\)"),
        ({"sigma_y": -1.0}, "sigma_y must be a number >= 0, got -1.0"),
        ({"sigma_y": 1e4}, "sigma_y must be at most"),
        ({"num_inference_steps": 0}, "num_inference_steps must be"),
        ({"timesteps": [1, 2], "num_inference_steps": None}, "decreasing"),
        ({"eta": 1.5}, "eta must be"),
        ({"eta_b": -0.5}, "eta_b must be"),
        ({"num_images_per_input": 0}, "num_images_per_input must be"),
        ({"output_type": "jpg"}, "no output_type named 'jpg'"),
        ({"class_labels": 1}, "the network is not class-conditional"),
        ({"generator": seeded(1, 2, 3)}, "generator must be one, or a list of 1 for this batch; got 3"),
    ],
)
def test_bad_input_is_refused_by_name_before_the_network_runs(
    unet: UNet2DModel, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(type(unet), "forward", lambda *_, **__: pytest.fail("the network was run"))
    call = {"image": uniform(1, 3, 8, 8), "operator": "denoise", "num_inference_steps": 2, **arguments}
    with pytest.raises(InvalidInputError, match=message):
        modular(unet)(**call)


def test_a_network_that_overflows_is_named(unet: UNet2DModel) -> None:
    pipe = modular(copy.deepcopy(unet))
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(
        InvalidInputError, match="unet gave NaN or Inf at timestep 500: .*torch.float32 or torch.bfloat16"
    ):
        pipe(image=uniform(1, 3, 4, 4), operator="denoise", sigma_y=0.1, num_inference_steps=2)


def test_what_diffusers_says_of_arguments(unet: UNet2DModel) -> None:
    with pytest.raises(ValueError, match="Required input 'image' is missing"):
        modular(unet)(operator="denoise")
    with pytest.warns(UserWarning, match="Unexpected input .*sigma.* will be ignored"):
        modular(unet)(image=uniform(1, 3, 4, 4), operator="denoise", sigma=0.1, num_inference_steps=1)


@pytest.mark.parametrize(
    ("config", "scheduler"),
    [
        ({}, ScoreSdeVeScheduler()),
        ({}, FlowMatchEulerDiscreteScheduler()),
        ({"time_embedding_type": "fourier"}, DDPMScheduler()),
        ({"channels": 6, "out_channels": 3}, DDPMScheduler()),
        ({"class_embed_type": "timestep"}, DDPMScheduler()),
    ],
)
def test_networks_of_another_process_are_refused_as_by_the_pipeline(config: dict[str, Any], scheduler: Any) -> None:
    network = make_unet(**config)
    with pytest.raises(InvalidInputError) as refused:
        DDRMPipeline(network, scheduler)
    with pytest.raises(InvalidInputError, match=re.escape(str(refused.value))):
        modular(network, scheduler)(image=uniform(1, 3, 8, 8), operator="denoise")


def test_components_that_are_not_loaded_are_named(write_repo: WriteRepo, unet: UNet2DModel) -> None:
    """diffusers only logs what it could not load."""
    folder = write_repo(unet)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    pipe = DDRMBlocks().init_pipeline(folder)
    call = {"image": uniform(1, 3, 8, 8), "operator": "denoise", "sigma_y": 0.1, "num_inference_steps": 2}
    with pytest.raises(InvalidInputError, match=r"unet is not loaded: load_components\(\) loads it"):
        pipe(**call)
    pipe.load_components()
    assert type(pipe.scheduler) is DDPMScheduler
    with pytest.raises(InvalidInputError, match=r"unet is not loaded: .* update_components\(unet=...\) sets it"):
        pipe(**call)
    pipe.update_components(unet=unet)
    assert pipe(**call, output="images")[0].size == (8, 8)


# Repositories


def restores(pipe: ModularPipeline) -> bool:
    pipe.load_components()
    pipe.set_progress_bar_config(disable=True)
    blocks, whole = both(pipe, image=uniform(2, 3, 5, 7), operator="sr2", sigma_y=0.05)
    return torch.equal(blocks, whole)


@pytest.mark.parametrize("at_root", [False, True])
@pytest.mark.parametrize("make", [make_unet, make_residual_unet])
def test_a_stock_repository_loads_as_it_is(write_repo: WriteRepo, make: Any, tmp_path: Path, at_root: bool) -> None:
    unet = make()
    folder = write_repo(unet, DDPMScheduler(beta_end=0.03), at_root=at_root)
    pipe = DDRMBlocks().init_pipeline(folder, components_manager=ComponentsManager())
    assert pipe.config["unet"][2]["subfolder"] == ("" if at_root else "unet")
    assert restores(pipe)
    assert pipe.scheduler.config.beta_end == 0.03
    assert type(pipe.unet) is type(unet)
    assert all(torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), unet.parameters(), strict=True))
    saved = str(tmp_path / "saved")  # diffusers takes no Path here
    pipe.save_pretrained(saved, overwrite_modular_index=True)
    assert restores(ModularPipeline.from_pretrained(saved))  # the package is imported: no code, so no trust is needed
    assert restores(DDRMBlocks().init_pipeline(saved))


@pytest.mark.parametrize("make", [make_unet, make_residual_unet])
def test_what_our_pipeline_saves_loads_into_the_blocks(make: Any, tmp_path: Path) -> None:
    DDRMPipeline(make(), DDRMScheduler(beta_end=0.03)).save_pretrained(tmp_path)
    pipe = DDRMBlocks().init_pipeline(tmp_path)
    assert restores(pipe)
    assert type(pipe.scheduler) is DDRMScheduler
    assert pipe.scheduler.config.beta_end == 0.03


def test_a_latent_repository_is_refused(write_repo: WriteRepo, unet: UNet2DModel) -> None:
    folder = write_repo(unet, pipeline="LDMPipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(InvalidInputError, match="is a LDMPipeline with vqvae"):
        DDRMBlocks().init_pipeline(folder)


def test_the_folder_of_the_repository_is_what_is_saved(tmp_path: Path) -> None:
    DDRMBlocks().save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"modular_config.json", "modular_ddrm.py"}
    assert (tmp_path / "modular_ddrm.py").read_text() == (FOLDER / "modular_ddrm.py").read_text()
    saved, ours = (json.loads((folder / "modular_config.json").read_text()) for folder in (tmp_path, FOLDER))
    assert saved | {"_diffusers_version": ""} == ours | {"_diffusers_version": ""}


def test_the_folder_of_the_repository_serves_diffusers_own_loaders(write_repo: WriteRepo, unet: UNet2DModel) -> None:
    blocks = ModularPipelineBlocks.from_pretrained(FOLDER, trust_remote_code=True)
    assert type(blocks) is DDRMBlocks
    folder = write_repo(unet)
    assert restores(blocks.init_pipeline(folder))
    pipe = ModularPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    assert type(pipe.blocks) is DDRMBlocks
    for name in ("unet", "scheduler"):
        spec = pipe.get_component_spec(name)
        assert (spec.pretrained_model_name_or_path, spec.subfolder) == ("google/ddpm-celebahq-256", "")
    pipe.load_components(
        pretrained_model_name_or_path=str(folder), subfolder={"unet": "unet", "scheduler": "scheduler"}
    )
    assert restores(pipe)
    with pytest.raises(ValueError, match="contains custom code. Pass `trust_remote_code=True`"):
        ModularPipelineBlocks.from_pretrained(FOLDER)


def test_blocks_of_another_package_are_saved_with_the_way_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_blocks.py").write_text(
        "from diffusers_restore import DDRMBlocks\n\nclass TheirBlocks(DDRMBlocks):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from their_blocks import TheirBlocks  # type: ignore[import-not-found]

    TheirBlocks().save_pretrained(tmp_path / "saved")
    assert "from their_blocks import TheirBlocks" in (tmp_path / "saved" / "their_blocks.py").read_text()
    loaded = ModularPipelineBlocks.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert type(loaded) is TheirBlocks

    here = type("Here", (DDRMBlocks,), {"__module__": "__main__"})()
    here.save_pretrained(tmp_path / "here")  # its file is that of the script, which only its author has
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["modular_config.json"]


# The Hub


PREPARE = """
import json
from pathlib import Path
from conftest import make_residual_unet, make_unet
from diffusers import DDPMPipeline, DDPMScheduler
from huggingface_hub import create_repo, list_repo_files, upload_folder
from diffusers_restore import DDRMBlocks

scheduler = DDPMScheduler(beta_end=0.03)
for name, make in (("stock", make_unet), ("with-blocks", make_unet), ("residual", make_residual_unet)):
    DDPMPipeline(make(), scheduler).push_to_hub(f"ddpm-{name}")
root = Path("root")
make_unet().save_pretrained(root)
scheduler.save_pretrained(root)
index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1"}
index |= {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
(root / "model_index.json").write_text(json.dumps(index))
for name, folder in (("ddpm-at-root", root), ("ddrm-folder", FOLDER)):
    create_repo(f"tester/{name}")
    upload_folder(repo_id=f"tester/{name}", folder_path=folder)
DDRMBlocks().push_to_hub("ddrm-blocks")
DDRMBlocks().push_to_hub("ddpm-with-blocks")
assert {"modular_config.json", "modular_ddrm.py"} <= set(list_repo_files("tester/ddrm-blocks"))
"""

TRUSTED = """
import sys
import torch
from diffusers import DDPMPipeline, ModularPipeline, ModularPipelineBlocks

def check(name, pipe):
    from diffusers_restore import DDRMPipeline
    pipe.set_progress_bar_config(disable=True)
    call = {"operator": "sr2", "sigma_y": 0.05, "num_inference_steps": 2, "output_type": "latent"}
    y = torch.rand(2, 3, 5, 7) * 2 - 1
    restored = pipe(image=y, generator=torch.Generator().manual_seed(0), output="images", **call)
    whole = DDRMPipeline(pipe.unet, pipe.scheduler)
    whole.set_progress_bar_config(disable=True)
    assert torch.equal(restored, whole(y, generator=torch.Generator().manual_seed(0), **call).images)
    assert pipe.scheduler.config.beta_end == 0.03
    print(name, type(pipe).__name__, type(pipe.blocks).__module__, type(pipe.scheduler).__name__)

blocks = ModularPipelineBlocks.from_pretrained("tester/ddrm-blocks", trust_remote_code=True)
for name in ("stock", "at-root", "residual"):
    pipe = blocks.init_pipeline(f"tester/ddpm-{name}")
    pipe.load_components()
    check(name, pipe)
pipe = ModularPipeline.from_pretrained("tester/ddpm-with-blocks", trust_remote_code=True)
pipe.load_components()
check("with-blocks", pipe)
pipe = ModularPipeline.from_pretrained("tester/ddrm-folder", trust_remote_code=True)
pipe.load_components(pretrained_model_name_or_path="tester/ddpm-at-root")
check("folder", pipe)
DDPMPipeline.from_pretrained("tester/ddpm-with-blocks")
try:
    ModularPipeline.from_pretrained("tester/ddrm-blocks", trust_remote_code=True)
except OSError as error:
    print(error)
"""

REFUSED = """
import sys
from hub_matrix import Absent
from diffusers import ModularPipeline, ModularPipelineBlocks

def attempt(cls, name, **options):
    try:
        cls.from_pretrained(name, **options)
    except (ImportError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")

for cls, name in ((ModularPipelineBlocks, "ddrm-blocks"), (ModularPipeline, "ddrm-folder")):
    attempt(cls, f"tester/{name}")
sys.meta_path.insert(0, Absent())
for cls, name in ((ModularPipelineBlocks, "ddrm-blocks"), (ModularPipeline, "ddrm-folder")):
    attempt(cls, f"tester/{name}", trust_remote_code=True)
"""


def test_blocks_travel_over_the_hub(hub_python: Python, tmp_path: Path) -> None:
    """Pushed by their own `push_to_hub`; loaded in fresh processes, into which the package is not imported."""

    def run(code: str) -> list[str]:
        code = f"FOLDER = {str(FOLDER)!r}\n{code}"
        path = {"PYTHONPATH": str(Path(__file__).parent)}
        return hub_python.run("-c", code, environment=path, cwd=tmp_path, check=True).stdout.splitlines()

    run(PREPARE)
    ours = "ModularPipeline diffusers_restore.pipelines.modular_ddrm DDPMScheduler"
    *loaded, blocks_only = run(TRUSTED)
    assert loaded == [f"{name} {ours}" for name in ("stock", "at-root", "residual", "with-blocks", "folder")]
    assert blocks_only.startswith("Failed to load config from 'tester/ddrm-blocks'")
    refused = run(REFUSED)
    trust = "contains custom code. Pass `trust_remote_code=True` to allow loading remote code modules."
    install = "DDRMBlocks needs the package diffusers-restore: pip install --upgrade diffusers-restore"
    assert refused == [
        f"ValueError: The repository for tester/ddrm-blocks {trust}",
        f"ValueError: The repository for tester/ddrm-folder {trust}",
        f"ImportError: {install}",
        f"ImportError: {install}",
    ]
