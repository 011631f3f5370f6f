"""The pipeline: repositories as they lie on the Hub, every kind of network, every kind of input."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WriteRepo, make_residual_unet, make_unet
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from diffusers_restore import DDRMPipeline, DDRMScheduler, operators
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.operators import BlockMean, CircularBlur, Grayscale, Identity, Mask, measure
from diffusers_restore.operators.tasks import motion_kernel, random_mask
from diffusers_restore.pipelines.common import Network

SHAPE = (3, 16, 24)


def quiet(pipe: DDRMPipeline) -> DDRMPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(unet: UNet2DModel) -> DDRMPipeline:
    return quiet(DDRMPipeline(unet, DDPMScheduler()))


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def clean(batch: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(7)) * 2 - 1


def restore(pipe: DDRMPipeline, y: Any, operator: Any, seeds: tuple[int, ...] = (0,), **arguments: Any) -> torch.Tensor:
    options = {"num_inference_steps": 3, "generator": seeded(*seeds), "output_type": "latent", **arguments}
    images: torch.Tensor = pipe(y, operator=operator, **options).images
    return images


# Repositories


@pytest.mark.parametrize("at_root", [False, True])
@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(beta_end=0.03),
        DDIMScheduler(beta_end=0.03, clip_sample=False, steps_offset=1, set_alpha_to_one=False),
        PNDMScheduler(beta_end=0.03, skip_prk_steps=True),
        DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", variance_type="learned_range"),
    ],
)
def test_a_stock_repository_loads_as_it_is(write_repo: WriteRepo, scheduler: Any, at_root: bool) -> None:
    folder = write_repo(
        make_unet(), scheduler, pipeline=type(scheduler).__name__.replace("Scheduler", "Pipeline"), at_root=at_root
    )
    pipe = quiet(DDRMPipeline.from_pretrained(folder))
    assert type(pipe.scheduler) is DDRMScheduler
    assert torch.allclose(pipe.scheduler.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-9)
    assert pipe.scheduler.config.prediction_type == scheduler.config.prediction_type
    y = BlockMean(SHAPE, 4).forward(clean(1))
    x = restore(pipe, y, "sr4")
    assert x.shape == (1, *SHAPE)
    assert (BlockMean(SHAPE, 4).forward(x) - y).abs().max() < 1e-4


def test_the_real_configuration_of_a_celebahq_repository(tmp_path: Path) -> None:
    """google/ddpm-celebahq-256: 114 M parameters, attention at 16, every file at the root, an old version's configs."""
    config = {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.0.4",
        "act_fn": "silu",
        "attention_head_dim": None,
        "block_out_channels": [128, 128, 256, 256, 512, 512],
        "center_input_sample": False,
        "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 256,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
    }
    scheduler = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_small",
    }
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.1.1",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    with torch.device("meta"):
        unet = UNet2DModel.from_config(config)
    assert sum(p.numel() for p in unet.parameters()) == 113_673_219
    unet.to_empty(device="cpu").half()
    for p in unet.parameters():
        torch.nn.init.constant_(p, 0.001)
    unet.save_pretrained(tmp_path)
    for name, content in (("config", config), ("scheduler_config", scheduler), ("model_index", index)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    pipe = quiet(DDRMPipeline.from_pretrained(tmp_path))
    y = BlockMean((3, 40, 32), 4).forward(clean(1, (3, 40, 32)))  # 40 is no multiple of the network's 32
    x = restore(pipe, y, "sr4", num_inference_steps=1)
    assert x.shape == (1, 3, 40, 32)
    assert (BlockMean((3, 40, 32), 4).forward(x) - y).abs().max() < 1e-4


def test_what_we_save_we_load_with_the_same_pictures(pipe: DDRMPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers_restore", "DDRMScheduler"]
    first, second = (restore(quiet(DDRMPipeline.from_pretrained(tmp_path)), clean(1, (3, 4, 6)), "sr4") for _ in "ab")
    assert torch.equal(first, second)
    # Weights read from a file lie elsewhere in memory, where a CPU's matrix product may sum in another order.
    kept = restore(pipe, clean(1, (3, 4, 6)), "sr4")
    assert (kept - first).abs().max() < 1e-5 * float(kept.abs().max())


def test_the_module_paths_that_are_saved_can_be_loaded() -> None:
    """diffusers writes a wrong entry for a module whose folder has the name of one of its own pipeline folders."""
    import diffusers.pipelines

    assert not [n for n in ("schedulers", "pipelines", "models", "operators") if hasattr(diffusers.pipelines, n)]


@pytest.mark.parametrize("components", [DDPMPipeline, DDIMPipeline])
def test_components_of_a_stock_pipeline_are_shared_and_left_alone(components: Any, unet: UNet2DModel) -> None:
    stock = components(unet=unet, scheduler=DDIMScheduler())
    before = dict(stock.scheduler.config)
    ours = DDRMPipeline(**stock.components)
    assert ours.unet is stock.unet
    assert dict(stock.scheduler.config) == before
    assert type(stock.scheduler) is DDIMScheduler
    assert type(DDRMPipeline.from_pipe(stock)) is DDRMPipeline


def test_networks_of_another_process_are_refused(unet: UNet2DModel) -> None:
    with pytest.raises(InvalidInputError, match="scheduler ScoreSdeVeScheduler is that of a VE process"):
        DDRMPipeline(unet, ScoreSdeVeScheduler())
    DDRMPipeline(unet, EulerDiscreteScheduler())  # a sampler for the same networks
    for config, message in (
        ({"center_input_sample": True}, r"pictures in \[0, 1\]"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"channels": 6, "out_channels": 3}, "6 input and 3 output channels"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            DDRMPipeline(make_unet(**config), DDPMScheduler())
    with pytest.raises(InvalidInputError, match="unet must be a UNet2DModel or a ResidualUNet2DModel, got Identity"):
        DDRMPipeline(torch.nn.Identity(), DDPMScheduler())


def test_a_latent_repository_is_refused(write_repo: WriteRepo, unet: UNet2DModel) -> None:
    """CompVis/ldm-celebahq-256 has the network that we take, but for the latents of its VQ-VAE."""
    folder = write_repo(unet, DDIMScheduler(), pipeline="LDMPipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(InvalidInputError, match="is a LDMPipeline with vqvae, which DDRMPipeline has no place for"):
        DDRMPipeline.from_pretrained(folder)


def test_a_damaged_repository_is_refused(write_repo: WriteRepo, unet: UNet2DModel, tmp_path: Path) -> None:
    name = "unet/diffusion_pytorch_model.safetensors"
    cut = write_repo(unet, name="cut")
    (cut / name).write_bytes((cut / name).read_bytes()[:-1000])
    with pytest.raises(OSError, match="Unable to load weights"):
        DDRMPipeline.from_pretrained(cut)

    part = write_repo(unet, name="part")
    weights = load_file(part / name)
    save_file({key: value for key, value in weights.items() if not key.startswith("conv_in")}, part / name)
    with pytest.raises(
        InvalidInputError, match=r"unet in .*part.unet lacks 2 of its \d+ weights \(conv_in.bias, conv_in"
    ):
        DDRMPipeline.from_pretrained(part)
    assert DDRMPipeline.from_pretrained(part, unet=unet).unet is unet

    wide = write_repo(unet, name="wide")
    save_file(weights | {"conv_in.weight": weights["conv_in.weight"][:, :1].clone()}, wide / name)
    with pytest.raises(ValueError, match="conv_in.weight expected shape"):
        DDRMPipeline.from_pretrained(wide)


def test_old_names_of_attention_weights_load(write_repo: WriteRepo) -> None:
    """Repositories of 2022 call the projections query, key, value and proj_attn; some hold pickles only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel.from_config({**make_unet().config, "add_attention": True, "attention_head_dim": None})
    folder = write_repo(unet)
    name = folder / "unet" / "diffusion_pytorch_model.safetensors"
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in load_file(name).items():
        for new_name, old_name in renamed.items():
            key = key.replace(f".{new_name}.", f".{old_name}.")
        old[key] = value
    assert any("proj_attn" in key for key in old)
    name.unlink()
    torch.save(old, name.with_suffix(".bin"), _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the pickle's age
        loaded = DDRMPipeline.from_pretrained(folder).unet
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), unet.state_dict().values(), strict=True))


def test_a_pickle_runs_no_code(write_repo: WriteRepo, unet: UNet2DModel, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = write_repo(unet)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OSError, match="Unable to load weights"):
            DDRMPipeline.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


# Networks


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_unet(levels=4),
        lambda: make_unet(out_channels=6),
        lambda: make_unet(num_class_embeds=4),
        lambda: make_residual_unet(levels=3),
        lambda: make_residual_unet(out_channels=6, patch_size=4),
        lambda: make_residual_unet(num_class_embeds=4, patch_size=1),
    ],
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_networks_of_every_kind_agree_with_the_data(make: Callable[[], Network], prediction_type: str) -> None:
    pipe = quiet(DDRMPipeline(make(), DDPMScheduler(prediction_type=prediction_type)))
    labels = None if pipe.unet.config.num_class_embeds is None else 2
    operator = operators.create("deblur-uniform", image_shape=(3, 61, 97), taps=3)
    y = operator.forward(clean(1, (3, 61, 97)))
    x = restore(pipe, y, operator, class_labels=labels)
    assert x.shape == (1, 3, 61, 97)
    assert (operator.forward(x) - y).abs().max() < 1e-4


def test_prediction_types_of_one_network_are_one_chain() -> None:
    """A network that always says x0 = c: whether it says so as epsilon, x0 or v, the chain is the same."""

    class Says(torch.nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind, self.unet = kind, make_unet()
            self.config, self.dtype, self.device = self.unet.config, torch.float32, torch.device("cpu")

        def forward(self, x: torch.Tensor, t: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
            a = DDPMScheduler().alphas_cumprod.double()[int(t[0])]
            x0 = torch.full_like(x, 0.3)
            epsilon = (x - a.sqrt() * x0) / (1 - a).sqrt()
            v = a.sqrt() * epsilon - (1 - a).sqrt() * x0
            return ({"epsilon": epsilon, "sample": x0, "v_prediction": v}[self.kind].float(),)

    y = clean(1, (3, 4, 6))
    results = []
    for kind in ("epsilon", "sample", "v_prediction"):
        pipe = quiet(DDRMPipeline(make_unet(), DDPMScheduler(prediction_type=kind)))
        pipe.unet = Says(kind)
        results.append(restore(pipe, y, "sr4", sigma_y=0.1, num_inference_steps=10))
    assert (results[0] - results[1]).abs().max() < 1e-3
    assert (results[2] - results[1]).abs().max() < 1e-4


def test_half_precision_networks_stay_near_the_full_one(pipe: DDRMPipeline) -> None:
    y = measure(Identity(SHAPE), clean(1), 0.3, seeded(0)[0]).y
    full = restore(pipe, y, "denoise", sigma_y=0.3)
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
        half = quiet(DDRMPipeline(make_unet().to(dtype), DDPMScheduler()))
        error = float((restore(half, y, "denoise", sigma_y=0.3) - full).abs().max())
        assert 0 < error < tolerance * float(full.abs().max())


@pytest.mark.parametrize("make", [make_unet, make_residual_unet])
def test_class_labels(make: Callable[..., Network], pipe: DDRMPipeline) -> None:
    conditional = quiet(DDRMPipeline(make(num_class_embeds=4), DDPMScheduler()))
    y = clean(2, (3, 4, 6))
    both = restore(conditional, y, "sr4", (0, 1), class_labels=[1, 3])
    assert torch.equal(both[1:], restore(conditional, y[1:], "sr4", (1,), class_labels=torch.tensor([3])))
    assert not torch.equal(both[:1], restore(conditional, y[:1], "sr4", (0,), class_labels=2))
    with pytest.raises(InvalidInputError, match="class_labels were given, but the network is not class-conditional"):
        restore(pipe, y[:1], "sr4", class_labels=1)
    with pytest.raises(InvalidInputError, match=r"class-conditional: class_labels in 0\.\.3 are needed"):
        restore(conditional, y[:1], "sr4")
    for bad in (4, -1, [1, 2, 3], 1.5, "cat", True, [[1], [2, 3]]):
        with pytest.raises(InvalidInputError, match=r"class_labels must be one whole number in 0\.\.3"):
            restore(conditional, y, "sr4", (0, 1), class_labels=bad)


@pytest.mark.parametrize("make", [make_unet, make_residual_unet])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_classifier_guidance_is_the_formula_at_the_current_sample(
    make: Callable[..., Network], prediction_type: str
) -> None:
    """log p = a . x has the gradient a everywhere, so guidance must shift epsilon by -sqrt(1 - alpha_bar) scale a."""
    unet = make()
    pipe = quiet(DDRMPipeline(unet, DDPMScheduler(prediction_type=prediction_type)))
    direction, seen = clean(1), []

    def classifier(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((x.detach().clone(), int(t[0])))
        return (x * direction).sum(dim=(1, 2, 3))

    states: list[torch.Tensor] = []

    def keep(_pipe: Any, _i: int, _t: int, tensors: dict[str, torch.Tensor]) -> None:
        states.append((tensors["sample"].clone(), tensors["pred_original_sample"].clone()))

    restore(
        pipe,
        Identity(SHAPE).forward(clean(1)),
        "denoise",
        sigma_y=0.5,
        classifier=classifier,
        classifier_scale=2.0,
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["sample", "pred_original_sample"],
    )
    assert [t for _, t in seen] == pipe.scheduler.timesteps.tolist()
    assert all(torch.equal(seen[i + 1][0], states[i][0]) for i in range(2))  # the current x_t, not the first
    x, t = seen[1]
    alpha_bar = pipe.scheduler.alpha_bar(t)
    with torch.no_grad():
        output = unet(x, t).sample
    from diffusers_restore.schedulers.prediction import predict_x0_and_epsilon

    _, epsilon = predict_x0_and_epsilon(output, x, alpha_bar, prediction_type)
    shifted = epsilon - math.sqrt(1 - alpha_bar) * 2.0 * direction
    wanted = (x - math.sqrt(1 - alpha_bar) * shifted) / math.sqrt(alpha_bar)
    assert (states[1][1] - wanted).abs().max() < 1e-3 * float(wanted.abs().max())


def test_a_classifier_guides_in_inference_mode_too(pipe: DDRMPipeline) -> None:
    given = {"classifier": lambda x, t: x.mean(dim=(1, 2, 3)), "classifier_scale": 9.0}
    wanted = restore(pipe, clean(1), "denoise", **given)
    with torch.inference_mode():
        assert torch.equal(restore(pipe, clean(1), "denoise", **given), wanted)


def test_a_classifier_that_is_none_is_refused(pipe: DDRMPipeline) -> None:
    with pytest.raises(InvalidInputError, match=r"classifier must return one log probability per picture, \(1,\)"):
        restore(pipe, clean(1), "denoise", classifier=lambda x, t: x.sum())
    with pytest.raises(InvalidInputError, match="differentiable in x_t"):
        restore(pipe, clean(1), "denoise", classifier=lambda x, t: torch.zeros(1))
    with pytest.raises(InvalidInputError, match="classifier must return one log probability per picture.*got float"):
        restore(pipe, clean(1), "denoise", classifier=lambda x, t: 1.0)
    with pytest.raises(InvalidInputError, match="classifier must be a function .* or None, got 3"):
        restore(pipe, clean(1), "denoise", classifier=3)
    with pytest.raises(InvalidInputError, match="classifier gave NaN or Inf at timestep 666"):
        restore(pipe, clean(1), "denoise", classifier=lambda x, t: (x * math.nan).sum((1, 2, 3)))


# Batches, sizes, colours


@pytest.mark.parametrize(
    ("task", "channels"),
    [
        (t, c)
        for t in operators.TASKS
        if t not in ("inpaint", "deblur", "jpeg")
        for c in (1, 3)
        if (t, c) != ("colorize", 1)
    ],
)
def test_a_batch_is_its_pictures_bit_for_bit(pipe: DDRMPipeline, task: str, channels: int) -> None:
    """And, with it: every task runs by name, and agrees with a measurement without noise."""
    shape = (channels, 32, 48) if task[-1] in "68" else (channels, 12, 20)
    arguments = {"length": 5} if task == "deblur-motion" else {}
    operator = operators.create(task, image_shape=shape, **arguments)
    y = measure(operator, clean(3, shape), 0.05, seeded(1)[0]).y
    by: Any = operator if arguments else task
    both = restore(pipe, y, by, (0, 1, 2), sigma_y=0.05)
    alone = [restore(pipe, y[i : i + 1], by, (i,), sigma_y=0.05) for i in range(3)]
    assert torch.equal(both, torch.cat(alone))
    exact = operator.forward(clean(1, shape))
    # Numbers of compressed sensing are larger, and so is their rounding.
    tolerance = 1e-4 * max(1.0, float(exact.abs().max()))
    assert (operator.forward(restore(pipe, exact, by)) - exact).abs().max() < tolerance


def test_a_batch_in_bfloat16_is_its_pictures_bit_for_bit() -> None:
    pipe = DDRMPipeline(make_residual_unet().bfloat16().to(memory_format=torch.channels_last), DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    y = clean(3)
    options = {"operator": "denoise", "sigma_y": 0.1, "num_inference_steps": 4, "output_type": "latent"}
    batch = pipe(y, generator=seeded(1, 2, 3), **options).images
    for i, one in enumerate(y.split(1)):
        assert torch.equal(pipe(one, generator=seeded(i + 1), **options).images[0], batch[i])


@pytest.mark.parametrize("task", ["denoise", "deblur-gauss", "sr-bicubic4", "inpaint-random"])
def test_a_whole_batch_at_once_is_the_same_to_rounding(
    pipe: DDRMPipeline, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other devices do it."""
    y = measure(operators.create(task, image_shape=(3, 12, 20)), clean(2, (3, 12, 20)), 0.05, seeded(1)[0]).y
    calls = {"sigma_y": 0.05, "num_images_per_input": 2, "classifier": lambda x, t: -x.square().sum(dim=(1, 2, 3))}
    one_by_one = restore(pipe, y, task, (0, 1, 2, 3), **calls)
    monkeypatch.setattr("diffusers_restore.pipelines.zero_shot.pictures_at_once", lambda device, batch: batch)
    at_once = restore(pipe, y, task, (0, 1, 2, 3), **calls)
    assert (at_once - one_by_one).abs().max() < 1e-4 * float(one_by_one.abs().max())


def test_masks_of_each_image(pipe: DDRMPipeline) -> None:
    masks = torch.stack([random_mask(16, 24, seed=seed)[None] for seed in (1, 2)])
    operator = Mask(SHAPE, masks)
    y = operator.forward(clean(2))
    x = restore(pipe, y, operator, (0, 1, 2, 3), num_images_per_input=2)
    for i in range(4):
        alone = Mask(SHAPE, masks[i // 2])
        assert torch.equal(x[i : i + 1], restore(pipe, y[i // 2 : i // 2 + 1], alone, (i,)))
        assert (alone.forward(x[i : i + 1]) - y[i // 2 : i // 2 + 1]).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(61, 97), (1, 1), (5, 16)])
def test_any_size_keeps_the_data_term_exact(pipe: DDRMPipeline, size: tuple[int, int]) -> None:
    operator = Grayscale((3, *size))
    y = operator.forward(clean(1, (3, *size)))
    x = restore(pipe, y, "colorize")
    assert x.shape == (1, 3, *size)
    assert (operator.forward(x) - y).abs().max() < 1e-4


def test_grey_pictures_on_a_colour_network_come_back_grey(pipe: DDRMPipeline) -> None:
    y = clean(1, (1, 4, 6))
    x = restore(pipe, y, "sr4")
    assert x.shape == (1, 1, 16, 24)
    assert (BlockMean((1, 16, 24), 4).forward(x) - y).abs().max() < 1e-4
    assert torch.equal(x, restore(pipe, y, BlockMean((1, 16, 24), 4)))
    assert pipe(Image.new("L", (6, 4), 99), operator="sr4", num_inference_steps=1).images[0].mode == "L"


def test_colour_pictures_on_a_grey_network_go_channel_by_channel() -> None:
    pipe = quiet(DDRMPipeline(make_unet(channels=1), DDPMScheduler()))
    y = clean(1, (3, 4, 6))
    x = restore(pipe, y, "sr4", (0, 1), num_images_per_input=2)
    assert x.shape == (2, *SHAPE)
    assert (BlockMean(SHAPE, 4).forward(x) - y).abs().max() < 1e-4  # no channel of another sample
    assert torch.equal(x[1:], restore(pipe, y, "sr4", (1,)))
    assert torch.equal(x[1:], restore(pipe, y, "sr4", generator=seeded(1)[0]))
    with pytest.raises(InvalidInputError, match="operator is for images of 3 channels, the network takes 1"):
        restore(pipe, y, BlockMean(SHAPE, 4))


def test_one_channel(tmp_path: Path) -> None:
    pipe = quiet(DDRMPipeline(make_unet(channels=1), DDPMScheduler()))
    y = BlockMean((1, 20, 12), 2).forward(clean(1, (1, 20, 12)))
    x = restore(pipe, y, "sr2")
    assert (BlockMean((1, 20, 12), 2).forward(x) - y).abs().max() < 1e-4


# Inputs and outputs


def test_pictures_arrays_and_tensors_are_the_same_picture(pipe: DDRMPipeline) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    wanted = restore(pipe, torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, "sr4")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (Image.fromarray(pixels), [Image.fromarray(pixels)], pixels, pixels / 255.0, tensor):
        assert (restore(pipe, image, "sr4") - wanted).abs().max() < 1e-4
    pil = pipe(pixels, operator="sr4", num_inference_steps=3, generator=seeded(0)).images[0]
    array = pipe(pixels, operator="sr4", num_inference_steps=3, generator=seeded(0), output_type="np").images
    assert pil.size == (24, 16)
    assert array.shape == (1, 16, 24, 3)
    assert np.abs(np.asarray(pil) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6
    expected = (wanted[0].clamp(-1, 1).permute(1, 2, 0).numpy() + 1) / 2
    assert np.abs(array[0] - expected).max() < 1e-4
    assert isinstance(pipe(pixels, operator="sr4", num_inference_steps=1, return_dict=False), tuple)


def test_a_seed_gives_the_same_picture_and_inputs_stay_as_they_were(pipe: DDRMPipeline) -> None:
    y = clean(1, (3, 4, 6))
    before = y.clone()
    state = torch.random.get_rng_state()
    assert torch.equal(restore(pipe, y, "sr4"), restore(pipe, y, "sr4"))
    assert not torch.equal(restore(pipe, y, "sr4"), restore(pipe, y, "sr4", (1,)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(y, before)


def test_samples_of_one_picture_differ(pipe: DDRMPipeline) -> None:
    x = restore(pipe, clean(2, (3, 4, 6)), "sr4", (0, 1, 2, 3), num_images_per_input=2)
    assert len(x) == 4
    assert torch.equal(x[2:3], restore(pipe, clean(2, (3, 4, 6))[1:], "sr4", (2,)))


def test_use_under_inference_mode_leaves_gradients_alone(pipe: DDRMPipeline) -> None:
    with torch.inference_mode():
        restore(pipe, clean(1, (3, 21, 19)), "deblur-gauss")
    x = clean(1, (3, 21, 19)).requires_grad_()
    operators.create("deblur-gauss", image_shape=(3, 21, 19)).forward(x).sum().backward()
    assert x.grad is not None


def test_pictures_of_many_channels_need_another_output_type() -> None:
    pipe = quiet(DDRMPipeline(make_unet(channels=4), DDPMScheduler()))
    with pytest.raises(InvalidInputError, match="output_type='pil' needs 1 or 3 channels, got 4"):
        pipe(clean(1, (4, 8, 8)), operator="denoise", num_inference_steps=1)
    assert restore(pipe, clean(1, (4, 8, 8)), "denoise").shape == (1, 4, 8, 8)


def test_callbacks_see_and_change_the_chain(pipe: DDRMPipeline) -> None:
    seen: list[tuple[int, int]] = []

    def zero(_pipe: Any, i: int, t: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((i, t))
        return {"sample": torch.zeros_like(tensors["sample"])}

    x = restore(pipe, clean(1), "denoise", timesteps=[800, 300, 7], num_inference_steps=None, callback_on_step_end=zero)
    assert seen == [(0, 800), (1, 300), (2, 7)]
    assert pipe.num_timesteps == 3
    assert not x.any()


def test_progress_is_shown(unet: UNet2DModel, capsys: pytest.CaptureFixture[str]) -> None:
    restore(DDRMPipeline(unet, DDPMScheduler()), clean(1), "denoise")
    assert "3/3" in capsys.readouterr().err


BLUR = CircularBlur(SHAPE, motion_kernel(3, 0.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": torch.full((1, *SHAPE), math.nan)}, "(?i)image.*nan"),
        ({"image": clean(1) * 255}, "image holds values up to 25.*Tensors are in"),
        (
            {"image": (clean(1) + 1) * 127.5, "sigma_y": 30.0},
            r"image has a mean of up to \d+.*sigma_y is in the unit",
        ),
        ({"sigma_y": 25.0}, "sigma_y must be at most 10 for .*, got 25; .* 25 of 255 grey levels are 0.196"),
        ({"image": clean(1).permute(0, 2, 3, 1)}, "looks like channels last"),
        ({"image": clean(1)[0, 0]}, r"image must be a torch tensor"),
        ({"image": "photo.png"}, "image must be a PIL picture, .*, got str"),
        ({"image": [np.zeros((4, 4, 3)), np.zeros((4, 5, 3))]}, "image .*4.*5"),
        ({"operator": "denoisee"}, "no task named 'denoisee'; did you mean 'denoise'"),
        ({"operator": None}, "operator must be the name of a task or an Operator, got None"),
        ({"operator": "inpaint"}, "task 'inpaint' needs the argument 'mask'"),
        ({"operator": BlockMean(SHAPE, 2)}, r"y must be \(B, C, H, W\) with \(C, H, W\) = \(3, 8, 12\)"),
        ({"operator": Mask(SHAPE, random_mask(16, 24)) @ BLUR}, "has no fast SVD"),
        ({"operator": Mask(SHAPE, torch.ones(2, 1, 16, 24))}, "a batch of 1, the operator holds data for 2 images"),
        ({"sigma_y": -1.0}, "sigma_y must be a number >= 0, got -1.0"),
        ({"sigma_y": math.nan}, "sigma_y must be"),
        ({"sigma_y": 1e4}, "sigma_y must be at most"),
        ({"num_inference_steps": 0}, "num_inference_steps must be"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be"),
        ({"timesteps": [1, 2], "num_inference_steps": None}, "decreasing"),
        ({"timesteps": [2, 1]}, "give either num_inference_steps or timesteps"),
        ({"eta": 1.5}, "eta must be"),
        ({"eta_b": -0.5}, "eta_b must be"),
        ({"num_images_per_input": 0}, "num_images_per_input must be"),
        ({"output_type": "jpg"}, "no output_type named 'jpg'"),
        ({"callback_on_step_end_tensor_inputs": ["prompts"]}, "no callback tensor named 'prompts'"),
        ({"generator": 0}, "generator must be a torch.Generator or a list of them, got 0"),
        ({"callback_on_step_end": lambda *_: {"sampl": None}}, "callback_on_step_end must return None or {'sample'"),
        ({"callback_on_step_end": lambda *_: {"sample": torch.zeros(2, *SHAPE)}}, "callback_on_step_end must return"),
        ({"callback_on_step_end": lambda *_: torch.zeros(1, *SHAPE)}, "callback_on_step_end must return"),
        ({"generator": seeded(1, 2, 3)}, "generator must be one, or a list of 1 for this batch; got 3"),
        ({"classifier_scale": math.inf}, "classifier_scale must be"),
    ],
)
def test_bad_input_is_refused_by_name(pipe: DDRMPipeline, arguments: dict[str, Any], message: str) -> None:
    call = {"image": clean(1), "operator": "denoise", "num_inference_steps": 2, **arguments}
    with pytest.raises(InvalidInputError, match=message):
        pipe(**call)


def test_a_misspelt_option_is_an_error(pipe: DDRMPipeline) -> None:
    with pytest.raises(TypeError, match="sigma"):
        pipe(clean(1), operator="denoise", sigma=0.1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_other_dtypes_are_converted(pipe: DDRMPipeline, dtype: torch.dtype) -> None:
    y = clean(1, (3, 4, 6))
    given = ((y + 1) * 127.5).round().to(dtype) if dtype == torch.uint8 else y.to(dtype)
    difference = float((restore(pipe, given, "sr4") - restore(pipe, y, "sr4")).abs().max())
    assert difference == 0 if dtype == torch.float64 else 0 < difference < 0.1


# The package


def test_importing_the_package_costs_no_torch() -> None:
    code = "import sys, diffusers_restore as d; d.DEFAULT_PRIOR; print('torch' in sys.modules, d.__version__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "0.1.0"]


def test_public_names_are_there() -> None:
    import diffusers_restore

    assert all(getattr(diffusers_restore, name) is not None for name in diffusers_restore.__all__)
    assert set(diffusers_restore.__all__) <= set(dir(diffusers_restore))
    with pytest.raises(AttributeError, match="no attribute 'DDRNPipeline'"):
        _ = diffusers_restore.DDRNPipeline


def test_the_plug_in_file_serves_diffusers_own_loader(
    write_repo: WriteRepo, unet: UNet2DModel, plug_in: Callable[[str], str]
) -> None:
    pipe = DiffusionPipeline.from_pretrained(write_repo(unet), custom_pipeline=plug_in("ddrm"), trust_remote_code=True)
    assert type(pipe) is DDRMPipeline
    assert type(pipe.scheduler) is DDRMScheduler
