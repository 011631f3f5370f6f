"""Checkpoints of guided-diffusion: converted networks against our own functions of the weights, files, the command."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from adm_reference import ADM, Weights
from click.testing import CliRunner, Result
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from diffusers_restore import DDRMPipeline, cli
from diffusers_restore.conversion.checkpoint_files import load_weights
from diffusers_restore.conversion.guided_diffusion import convert_guided_diffusion, learned_time_embedding
from diffusers_restore.conversion.pipeline import load_guided_diffusion, noise_schedule_options
from diffusers_restore.errors import InvalidInputError

# Every kind of network that is converted, small; FFHQ has the structure of the model that DPS uses.
FFHQ = ADM(channels=32, multipliers=(1, 1, 2, 2, 4, 4), attention=(4,), head_channels=64)
NETWORKS = {
    "unconditional": ADM(),
    "class-conditional": ADM(classes=7),
    "new attention order": ADM(new_order=True),
    "FFHQ": FFHQ,
    "convolutions, no scale-shift": ADM(
        channels=32, multipliers=(1, 2, 3, 4), blocks=3, attention=(2, 3), scale_shift=False, updown=False, outputs=3
    ),
    "convolutions, scale-shift": ADM(multipliers=(1, 2, 2, 2), blocks=2, attention=(1, 2, 3), updown=False),
    "residual blocks, no scale-shift": ADM(multipliers=(1, 2, 2), scale_shift=False, blocks=2),
    "one channel": ADM(inputs=1, outputs=1),
    "one channel, learned variance": ADM(inputs=1, outputs=2),
    "attention in the middle only": ADM(attention=()),
    "attention everywhere": ADM(attention=(0, 1)),
    "one level": ADM(multipliers=(1,), attention=(0,)),
    "one head": ADM(multipliers=(1, 2, 3), attention=(1, 2), head_channels=None, heads=1),
    "four heads of one width": ADM(multipliers=(1, 2, 2), attention=(1, 2), head_channels=None),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def options(network: ADM) -> dict[str, Any]:
    """What the shapes don't tell."""
    heads = {"num_heads": network.heads} if network.head_channels is None else {}
    order = "new" if network.new_order else "old"
    multiple = 2 ** (len(network.multipliers) - 1)
    return {
        "num_head_channels": network.head_channels,
        "attention_order": order,
        "image_size": 8 * multiple,
        **heads,
    }


def converted(state: Weights, **given: Any) -> UNet2DModel:
    config, weights = convert_guided_diffusion(state, **given)
    with torch.device("meta"):
        unet = UNet2DModel.from_config(config)
    unet.load_state_dict(weights, assign=True)
    return unet.eval()


def batch(network: ADM, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pictures that are no squares, early and late times, labels."""
    multiple = 2 ** (len(network.multipliers) - 1)
    x = torch.randn(3, network.inputs, 2 * multiple, 3 * multiple, generator=torch.Generator().manual_seed(1))
    labels = None if network.classes is None else torch.tensor([1, 5, 0])
    return x.to(dtype), torch.tensor([0, 340, 999]), labels


@torch.no_grad()
def difference(network: ADM, state: Weights, unet: UNet2DModel) -> float:
    """The largest error of the converted network, relative to the largest value."""
    x, t, labels = batch(network, unet.dtype)
    expected = network(state, x, t, labels)
    assert float(expected.std()) > 0.1
    return float((unet(x, t, class_labels=labels).sample - expected).abs().max() / expected.abs().max())


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_converted_network_says_the_same(name: str) -> None:
    network = NETWORKS[name]
    state = network.weights()
    before = {key: value.clone() for key, value in state.items()}
    unet = converted(state, **options(network))
    assert difference(network, state, unet) < 1e-13
    assert sum(value.numel() for value in unet.parameters()) == sum(value.numel() for value in state.values())
    assert all(torch.equal(before[key], state[key]) for key in before)


def test_float32_weights_stay_float32() -> None:
    state = FFHQ.weights(dtype=torch.float32)
    unet = converted(state, **options(FFHQ))
    assert unet.dtype == torch.float32
    assert difference(FFHQ, state, unet) < 5e-6


def test_the_widest_precision_is_that_of_all_weights() -> None:
    state = ADM().weights(dtype=torch.float16)
    _, weights = convert_guided_diffusion(state, **options(ADM()))
    assert {value.dtype for value in weights.values()} == {torch.float16}
    state["out.0.weight"] = state["out.0.weight"].float()
    _, weights = convert_guided_diffusion(state, **options(ADM()))
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert torch.equal(weights["conv_in.weight"].half(), state["input_blocks.0.0.weight"])


@pytest.mark.parametrize(
    ("network", "wrong"),
    [
        (ADM(), {"attention_order": "new"}),
        (ADM(new_order=True), {"attention_order": "old"}),
        (FFHQ, {"num_head_channels": 32}),
        (FFHQ, {"num_head_channels": 128}),
        (NETWORKS["four heads of one width"], {"num_heads": 2}),
    ],
)
def test_a_wrong_option_is_another_network(network: ADM, wrong: dict[str, Any]) -> None:
    state = network.weights()
    assert difference(network, state, converted(state, **{**options(network), **wrong})) > 1e-3


def test_every_weight_counts() -> None:
    """The reference looks at every weight, so that none is swapped or left out unnoticed."""
    network = ADM(classes=7)
    state = network.weights()
    x, t, labels = batch(network)
    with torch.no_grad():
        expected = network(state, x, t, labels)
        for key, value in state.items():
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(2), dtype=value.dtype)
            changed = network({**state, key: value + 0.1 * noise}, x, t, labels)
            assert float((changed - expected).abs().max()) > 1e-5, key


def test_fewer_channels_than_sines_become_a_table() -> None:
    """As in the 512 px model, whose first level has half of the channels that its time embedding has sines."""
    network = ADM(channels=256, multipliers=(0.5, 1), attention=(), head_channels=64)
    state = network.weights()
    unet = converted(state, **options(network))
    assert unet.config.time_embedding_type == "learned"
    assert difference(network, state, unet) < 1e-7
    loaded = (unet.time_proj.weight @ unet.time_embedding.linear_1.weight.T).detach()
    times = torch.arange(1000)
    half = torch.exp(torch.arange(128, dtype=torch.float32) * -torch.log(torch.tensor(1e4)).item() / 128)
    sines = torch.cat(((times[:, None] * half).cos(), (times[:, None] * half).sin()), dim=1).double()
    exact = sines @ state["time_embed.0.weight"].T
    assert float((loaded - exact).abs().max() / exact.abs().max()) < 1e-7


def test_too_many_steps_for_a_table_are_refused() -> None:
    weight = torch.zeros(512, 128)
    with pytest.raises(
        InvalidInputError, match="first level, 64; a table of 4000 steps in 64 channels would be off by"
    ):
        learned_time_embedding(weight, 64, 4000)


def test_a_table_may_have_more_channels_than_there_are_sines() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table, rest = learned_time_embedding(weight, 64, 10)
    narrow, same = learned_time_embedding(weight, 32, 10)
    assert table.shape == (10, 64)
    torch.testing.assert_close(table @ rest.T, narrow @ same.T)


# --- published networks, by their shapes ----------------------------------------------------------------------------

IMAGENET_256 = ADM(channels=256, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, attention=(3, 4, 5), head_channels=64)

# The last number are the parameters in millions: arXiv:2105.05233 gives 296, 422, 554 and 559 for its ImageNet models.
PUBLISHED: dict[str, tuple[ADM, dict[str, Any], dict[str, Any], float]] = {
    "256x256_diffusion_uncond": (
        IMAGENET_256,
        {"num_head_channels": 64},
        {
            "sample_size": 256,
            "block_out_channels": [256, 256, 512, 512, 1024, 1024],
            "layers_per_block": 2,
            "attention": [32, 16, 8],
            "attention_head_dim": 64,
            "num_class_embeds": None,
            "time_embedding_dim": 1024,
        },
        552.8,
    ),
    "256x256_diffusion": (
        replace(IMAGENET_256, classes=1000),
        {"num_head_channels": 64},
        {"sample_size": 256, "num_class_embeds": 1000, "attention": [32, 16, 8]},
        553.8,
    ),
    "64x64_diffusion": (
        ADM(
            channels=192,
            multipliers=(1, 2, 3, 4),
            blocks=3,
            attention=(1, 2, 3),
            head_channels=64,
            new_order=True,
            classes=1000,
        ),
        {"num_head_channels": 64, "attention_order": "new"},
        {
            "sample_size": 64,
            "block_out_channels": [192, 384, 576, 768],
            "layers_per_block": 3,
            "attention": [32, 16, 8],
            "num_class_embeds": 1000,
        },
        295.9,
    ),
    "512x512_diffusion": (
        ADM(
            channels=256,
            multipliers=(0.5, 1, 1, 2, 2, 4, 4),
            blocks=2,
            attention=(4, 5, 6),
            head_channels=64,
            classes=1000,
        ),
        {"num_head_channels": 64},
        {
            "sample_size": 512,
            "block_out_channels": [128, 256, 256, 512, 512, 1024, 1024],
            "attention": [32, 16, 8],
            "time_embedding_type": "learned",
            "time_embedding_dim": 1024,
            "num_train_timesteps": 1000,
        },
        559.0,
    ),
    "ffhq_10m": (
        ADM(channels=128, multipliers=(1, 1, 2, 2, 4, 4), attention=(4,), head_channels=64),
        {"num_head_channels": 64},
        {
            "sample_size": 256,
            "block_out_channels": [128, 128, 256, 256, 512, 512],
            "layers_per_block": 1,
            "attention": [16],
            "resnet_time_scale_shift": "scale_shift",
            "down_block_types": [*["ResnetDownsampleBlock2D"] * 4, "AttnDownBlock2D", "ResnetDownsampleBlock2D"],
            "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D", *["ResnetUpsampleBlock2D"] * 4],
        },
        93.6,
    ),
    "improved-diffusion lsun_uncond_100M": (
        ADM(
            channels=128,
            multipliers=(1, 1, 2, 2, 4, 4),
            blocks=2,
            attention=(4,),
            head_channels=None,
            heads=1,
            scale_shift=False,
            updown=False,
        ),
        {"num_heads": 1},
        {
            "sample_size": 256,
            "attention_head_dim": None,
            "attention": [16],
            "resnet_time_scale_shift": "default",
            "downsample_type": "conv",
        },
        113.7,
    ),
    "improved-diffusion cifar10_uncond_50M": (
        ADM(channels=128, multipliers=(1, 2, 2, 2), blocks=3, attention=(1, 2), head_channels=None, updown=False),
        {"num_heads": 4},
        {"sample_size": 32, "attention_head_dim": 64, "attention": [16, 8], "upsample_type": "conv"},
        52.5,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_resolve(name: str) -> None:
    network, given, expected, millions = PUBLISHED[name]
    state = network.meta()
    count = sum(value.numel() for value in state.values())
    assert round(count / 1e6, 1) == millions
    if expected.get("time_embedding_type") == "learned":
        state["time_embed.0.weight"] = torch.zeros(network.shapes()["time_embed.0.weight"])
    config, weights = convert_guided_diffusion(state, **given)
    found = dict(config)
    found["attention"] = [
        config["sample_size"] >> level for level, kind in enumerate(config["down_block_types"]) if "Attn" in kind
    ]
    assert {key: found[key] for key in expected} == expected
    assert config["out_channels"] == 6
    if expected.get("time_embedding_type") != "learned":
        assert sum(value.numel() for value in weights.values()) == count


def test_the_128_px_model_is_refused_with_the_reason() -> None:
    network = ADM(channels=256, multipliers=(1, 1, 2, 3, 4), blocks=2, attention=(2, 3, 4), classes=1000)
    state = network.meta()
    assert round(sum(value.numel() for value in state.values()) / 1e6, 1) == 421.5
    match = (
        "num_heads=4 means heads of different width .128 channels for 512, 192 channels for 768, 256 channels for 1024"
    )
    with pytest.raises(InvalidInputError, match=match):
        convert_guided_diffusion(state, num_heads=4)


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(state: Weights, network: ADM = NETWORKS["unconditional"], **given: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        convert_guided_diffusion(state, **{**options(network), **given})
    return str(caught.value)


def test_any_missing_weight_is_named() -> None:
    network = ADM(classes=7)
    for key in network.shapes():
        state = network.meta()
        del state[key]
        if key == "label_emb.weight":  # then it is an unconditional network, and whole
            convert_guided_diffusion(state, **options(network))
            continue
        assert key in refused(state, network)


def test_any_wrong_shape_is_named() -> None:
    network = ADM(classes=7)
    for key, shape in network.shapes().items():
        state = network.meta()
        state[key] = torch.empty((*shape, 2), device="meta")
        assert key in refused(state, network)


def test_surplus_weights_are_named() -> None:
    state = ADM().meta()
    assert "input_blocks.1.1.norm" in refused({**state, "input_blocks.1.1.norm.weight": torch.zeros(32)})
    assert "no place for: betas" in refused({**state, "betas": torch.zeros(1000)})
    assert "input_blocks.1.0.gate.weight is no weight" in refused(
        {**state, "input_blocks.1.0.gate.weight": torch.ones(1)}
    )
    surplus = {f"extra.{i}": torch.zeros(1) for i in range(6)}
    assert "extra.3 and 2 more" in refused({**state, **surplus})


def test_what_a_unet2dmodel_cannot_express_is_refused_with_the_reason() -> None:
    network = ADM(multipliers=(1, 2, 2), attention=(1,), blocks=2, updown=False)
    full = network.meta()

    def without(*prefixes: str, state: Weights = full) -> Weights:
        return {key: value for key, value in state.items() if not key.startswith(prefixes)}

    assert "and only one of them has attention" in refused(without("input_blocks.5.1."), network)
    assert "and only one of them has attention" in refused(without("output_blocks.4.1."), network)
    # Average pooling has no weights.
    assert "input_blocks.3 has no weights" in refused(without("input_blocks.3."), network)
    assert "double the size" in refused(without("output_blocks.2.1."), network)
    mixed = without("input_blocks.3.") | {
        key.replace("input_blocks.2.", "input_blocks.3."): value
        for key, value in full.items()
        if key.startswith("input_blocks.2.")
    }
    assert "change the size are res, down" in refused(mixed, network)
    # Residual blocks at other places than regular ones.
    assert "input blocks and" in refused(without("input_blocks.8."), network)
    assert "has no output_blocks" in refused(without("output_blocks."), network)
    deep = {**full, "input_blocks.1.1.in_layers.0.weight": torch.zeros(32)}
    assert "input_blocks.1 is made of res + res" in refused(deep, network)
    gap = {**full, "input_blocks.1.2.in_layers.0.weight": torch.zeros(32)}
    assert "input_blocks.1.1 is missing" in refused(gap, network)


def test_other_widths_than_multiples_of_32_are_refused() -> None:
    assert "a level has 48 channels" in refused(ADM(channels=32, multipliers=(1, 1.5)).meta())


def test_whole_numbers_are_no_weights() -> None:
    state = ADM().weights()
    state["out.2.bias"] = state["out.2.bias"].to(torch.int8)
    assert refused(state) == "out.2.bias is torch.int8; weights are floating-point numbers of 16 to 64 bits"


def test_options_that_do_not_fit_are_refused() -> None:
    state = ADM().meta()
    assert "num_head_channels or num_heads is needed" in refused(state, num_head_channels=None)
    assert "were both given" in refused(state, num_heads=4)
    assert "num_head_channels=24 doesn't divide the 128 channels" in refused(state, num_head_channels=24)
    assert "num_heads=3 doesn't divide" in refused(state, num_head_channels=None, num_heads=3)
    assert "num_head_channels must be a whole number >= 1" in refused(state, num_head_channels=0)
    assert "there are: new, old" in refused(state, attention_order="older")
    assert "image_size must be a multiple of 2" in refused(state, image_size=17)
    assert "image_size is needed: the channel multipliers are 1, 2, which tell none" in refused(state, image_size=None)


def test_no_attention_needs_no_heads() -> None:
    state = {key: value for key, value in ADM(attention=()).weights().items() if not key.startswith("middle_block.1.")}
    for key in [key for key in state if key.startswith("middle_block.2.")]:
        state[key.replace("block.2", "block.1")] = state.pop(key)
    unet = converted(state, image_size=16)
    assert not unet.config.add_attention
    assert torch.isfinite(unet(torch.zeros(1, 3, 16, 16, dtype=torch.float64), 3).sample).all()


# --- the noise schedule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1000, 4000, 100])
def test_linear_betas_are_scaled_by_the_number_of_steps(steps: int) -> None:
    betas = DDPMScheduler(**noise_schedule_options("linear", steps, False)).betas.double()
    scale = 1000 / steps
    torch.testing.assert_close(
        betas, torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64), rtol=1e-5, atol=0
    )


def cosine(t: Tensor) -> Tensor:
    return torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2


def test_the_cosine_schedule_is_that_of_the_paper() -> None:
    alpha_bar = DDPMScheduler(**noise_schedule_options("cosine", 4000, False)).alphas_cumprod.double()
    t = torch.arange(1, 4000, dtype=torch.float64) / 4000  # the last beta is capped at 0.999
    torch.testing.assert_close(alpha_bar[:-1], cosine(t) / cosine(torch.zeros(1).double()), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_rescaled_timesteps_keep_the_steps_that_are_whole_numbers(name: Any) -> None:
    """At step i the network is shown i, which a training of 4000 steps with rescaling showed it at step 4 i."""
    every = DDPMScheduler(**noise_schedule_options(name, 4000, False)).alphas_cumprod.double()
    kept = DDPMScheduler(**noise_schedule_options(name, 4000, True))
    assert kept.config.num_train_timesteps == 1000
    torch.testing.assert_close(kept.alphas_cumprod.double(), every[::4], rtol=1e-4, atol=1e-9)
    assert noise_schedule_options(name, 1000, True) == noise_schedule_options(name, 1000, False)


def test_schedules_that_do_not_exist_are_refused() -> None:
    name: Any = "quadratic"
    with pytest.raises(InvalidInputError, match="no noise_schedule named 'quadratic'"):
        noise_schedule_options(name, 1000, False)
    with pytest.raises(
        InvalidInputError, match="timesteps must be a multiple of 1000 where they are rescaled, got 1500"
    ):
        noise_schedule_options("linear", 1500, True)
    with pytest.raises(InvalidInputError, match="timesteps must be a whole number >= 21"):
        noise_schedule_options("linear", 20, False)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> Weights:
    return ADM().weights(dtype=torch.float32)


WRAPPERS: dict[str, Callable[[Weights], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "ema": lambda state: {"ema": state},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "model.": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
    "module.model.": lambda state: {f"module.model.{key}": value for key, value in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off(wrapper: str, state: Weights, tmp_path: Path) -> None:
    torch.save(WRAPPERS[wrapper](state), tmp_path / "a.pt")
    loaded = load_weights(tmp_path / "a.pt")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".PT", ".safetensors"])
def test_suffixes(suffix: str, state: Weights, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=suffix != ".pth")  # the format before torch 1.6
    assert load_weights(file).keys() == state.keys()


class Malicious:
    """Writes a file when it is unpickled by a reader that runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_no_code_of_a_checkpoint_is_run(kind: str, state: Weights, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "a.pt"
    if kind == "bare":
        file.write_bytes(pickle.dumps(Malicious(mark)))
    else:
        torch.save({"state_dict": state, "x": Malicious(mark)}, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InvalidInputError) as caught:
        load_weights(file)
    assert not mark.exists()
    if kind != "bare":
        assert "a.pt holds posix.mkdir beside its weights. Reading it could run code" in str(caught.value)
    # The test can fail: a reader that runs code makes the folder.
    if kind == "bare":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert mark.exists()


def unreadable(file: Path) -> str:
    with pytest.raises(InvalidInputError) as caught:
        load_weights(file)
    assert file.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_damaged_files_are_refused(suffix: str, state: Weights, tmp_path: Path) -> None:
    whole, file = tmp_path / f"whole{suffix}", tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        save_file(state, whole)
    else:
        torch.save(state, whole, _use_new_zipfile_serialization=suffix == ".pt")
    content = whole.read_bytes()
    for share in (0.001, 0.5, 0.999):
        file.write_bytes(content[: int(share * len(content))])
        assert "not whole" in unreadable(file)
    file.write_bytes(b"")
    assert "is empty" in unreadable(file)
    file.write_text("these are words\n")
    assert "not whole" in unreadable(file)
    file.write_bytes(torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0)).byte().numpy().tobytes())
    assert "not whole" in unreadable(file)


def test_what_is_no_checkpoint_is_refused(state: Weights, tmp_path: Path) -> None:
    assert "there is no file" in unreadable(tmp_path / "absent.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "is a folder" in unreadable(tmp_path / "folder.pt")
    (tmp_path / "a.zip").write_bytes(b"x")
    assert "the suffix of a checkpoint is one of .pt" in unreadable(tmp_path / "a.zip")
    for content, reason in (
        ([1, 2], "holds a list"),
        ({}, "there are: nothing"),
        ({"epoch": 3, "args": {"lr": 1.0}}, "there are: epoch (int), args (dict)"),
        ({**state, "epoch": 3}, "holds no set of weights"),
        ({"model": state, "ema": state}, "several sets of weights: model, ema"),
    ):
        torch.save(content, tmp_path / "a.pt")
        assert reason in unreadable(tmp_path / "a.pt")


def test_other_codebases_are_told_apart(state: Weights, tmp_path: Path) -> None:
    one = torch.zeros(8, 8, 3, 3)
    trained = {"init_conv.weight": one, "downs.0.0.block1.proj.weight": one, "mid_attn.fn.fn.to_qkv.weight": one}
    wrapped = {f"model.{key}": value for key, value in trained.items()} | {"betas": torch.zeros(10)}
    average = {f"ema_model.{key}": value for key, value in wrapped.items()}
    trainer = {"step": 3, "model": wrapped, "opt": {"state": {}}, "ema": average, "scaler": None, "version": "1.0"}
    classifier = {key: value for key, value in state.items() if not key.startswith("output_blocks.")}
    latent = {f"model.diffusion_model.{key}": value for key, value in state.items()}
    for content, reason in (
        (
            trained,
            "is a U-Net of denoising-diffusion-pytorch, which UNet2DModel can't express: it has linear attention",
        ),
        ({"init_conv.weight": one, "downs.0.0.block1.block.0.weight": one}, "denoising-diffusion-pytorch"),
        (trainer, "is a U-Net of denoising-diffusion-pytorch"),
        (converted(state, **options(ADM())).state_dict(), "is a diffusers state dict already"),
        (latent, "is a latent diffusion model"),
        (classifier, "is a classifier"),
        ({"conv1.weight": one}, "weights of an unknown kind (conv1.weight); guided-diffusion"),
    ):
        torch.save(content, tmp_path / "a.pt")
        assert reason in unreadable(tmp_path / "a.pt")


def test_networks_that_draw_no_pictures_are_refused(tmp_path: Path) -> None:
    torch.save(ADM(inputs=6).weights(), tmp_path / "a.pt")
    with pytest.raises(InvalidInputError, match="6 input and 6 output channels; it may be an upsampler"):
        load_guided_diffusion(tmp_path / "a.pt", num_head_channels=16, image_size=16)
    torch.save(ADM(inputs=2, outputs=3).weights(), tmp_path / "a.pt")
    with pytest.raises(InvalidInputError, match="2 input and 3 output channels. One that draws"):
        load_guided_diffusion(tmp_path / "a.pt", num_head_channels=16, image_size=16)


# --- the command ----------------------------------------------------------------------------------------------------


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


@pytest.fixture(scope="module")
def ffhq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("checkpoint") / "ffhq.pt"
    torch.save(FFHQ.weights(dtype=torch.float32), file)
    return file


def test_a_checkpoint_becomes_a_folder_that_restores(ffhq: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "ffhq"
    result = run("convert", ffhq, "-o", folder, "--num-head-channels", 64)
    assert result.exit_code == 0, result.output
    for line in (
        "parameters  5,868,294 (float32)",
        "pictures    256x256, 3 channels, learned variance",
        "channels    32, 32, 64, 64, 128, 128 (multipliers 1, 1, 2, 2, 4, 4)",
        "attention   at 16x16, the middle; heads of 64 channels",
        "classes     none",
        "noise       linear schedule, 1000 steps",
        f"--model {folder}",
    ):
        assert line in result.output

    pipe = DDRMPipeline.from_pretrained(folder)
    state = FFHQ.weights(dtype=torch.float32)
    assert difference(FFHQ, state, pipe.unet) < 5e-6
    generator = torch.Generator().manual_seed(0)
    small = Image.new("RGB", (8, 8), "green")
    (restored,) = pipe(small, "sr4", 0.01, num_inference_steps=2, generator=generator, output_type="latent").images
    assert restored.shape == (3, 32, 32)
    assert torch.isfinite(restored).all()

    stock = DDPMPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    assert type(stock.unet) is UNet2DModel
    assert stock.scheduler.config.variance_type == "learned_range"
    stock.unet.register_to_config(sample_size=32)
    drawn = stock(num_inference_steps=2, generator=generator, output_type="np").images
    assert drawn.shape == (1, 32, 32, 3)

    small.save(tmp_path / "small.png")
    result = run(
        "restore", tmp_path / "small.png", "-o", tmp_path / "l.png", "-t", "sr4", "--model", folder, "--steps", 1
    )
    assert result.exit_code == 0, result.output


def test_the_card_says_where_the_network_is_from(ffhq: Path, tmp_path: Path) -> None:
    assert run("convert", ffhq, "-o", tmp_path / "my ffhq", "--num-head-channels", 64).exit_code == 0
    card = ModelCard.load(tmp_path / "my ffhq" / "README.md")
    assert card.data.library_name == "diffusers"
    assert {"diffusers", "diffusers_restore", "guided-diffusion"} <= set(card.data.tags or ())
    assert f"`{hashlib.sha256(ffhq.read_bytes()).hexdigest()}`" in card.text
    assert "diffusers-restore convert ffhq.pt -o 'my ffhq' --num-head-channels 64\n" in card.text
    assert str(ffhq.parent) not in card.text
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "my ffhq").rglob("*") if file.is_file()}
    assert len(modes) == 1


def test_a_class_conditional_network(tmp_path: Path) -> None:
    network = ADM(classes=7, outputs=3, new_order=True)
    torch.save(network.weights(dtype=torch.float32), tmp_path / "a.pt")
    words = ("--num-head-channels", 16, "--attention-order", "new", "--image-size", 16, "--noise-schedule", "cosine")
    result = run(
        "convert", tmp_path / "a.pt", "-o", tmp_path / "out", *words, "--timesteps", 4000, "--rescale-timesteps"
    )
    assert result.exit_code == 0, result.output
    assert "classes     7" in result.output
    assert "1000 steps out of those of the training" in result.output
    assert "--class-label 0" in result.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--timesteps 4000 --rescale-timesteps" in card
    assert "sigma_y=0.01, class_labels=0)" in card
    pipe = DDRMPipeline.from_pretrained(tmp_path / "out")
    assert difference(network, network.weights(dtype=torch.float32), pipe.unet) < 5e-6
    assert DDPMScheduler.from_pretrained(tmp_path / "out" / "scheduler").config.variance_type == "fixed_large"
    restored = pipe(Image.new("RGB", (8, 8)), "sr2", 0.01, num_inference_steps=2, class_labels=3).images[0]
    assert restored.size == (16, 16)


def test_a_table_of_times_is_saved_and_restores(tmp_path: Path) -> None:
    """The 512 px structure, through both pipelines, which ask about whole steps only."""
    network = ADM(channels=64, multipliers=(0.5, 1), attention=(), blocks=1)
    torch.save(network.weights(dtype=torch.float32), tmp_path / "a.pt")
    words = ("--num-head-channels", 16, "--image-size", 16)
    result = run("convert", tmp_path / "a.pt", "-o", tmp_path / "long", *words)
    assert "a table of 1000 steps in 32 channels would be off by" in result.output
    result = run("convert", tmp_path / "a.pt", "-o", tmp_path / "short", *words, "--timesteps", 100)
    assert result.exit_code == 0, result.output
    for cls, arguments in (
        (DDRMPipeline, {"image": Image.new("RGB", (8, 8)), "operator": "sr2", "sigma_y": 0.01}),
        (DDPMPipeline, {}),
    ):
        pipe = cls.from_pretrained(tmp_path / "short")
        pipe.set_progress_bar_config(disable=True)
        assert pipe(**arguments, num_inference_steps=2).images[0].size == (16, 16)


def test_half_precision_is_kept_and_loads_as_float32(tmp_path: Path) -> None:
    torch.save(ADM().weights(dtype=torch.float16), tmp_path / "a.pt")
    words = ("--num-head-channels", 16, "--image-size", 16)
    assert run("convert", tmp_path / "a.pt", "-o", tmp_path / "out", *words).exit_code == 0
    size = (tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    parameters = sum(value.numel() for value in ADM().meta().values())
    assert 2 * parameters < size < 2 * parameters + 40_000
    unet = UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    assert unet.dtype == torch.float32
    state = {key: value.float() for key, value in ADM().weights(dtype=torch.float16).items()}
    assert difference(ADM(), state, unet) < 5e-6


def test_errors_name_the_options(ffhq: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, message in (
        ((), "--num-head-channels or --num-heads is needed"),
        (("--num-heads", 3), "--num-heads=3 doesn't divide the 128 channels"),
        (("--num-heads", 2, "--num-head-channels", 64), "--num-head-channels and --num-heads were both given"),
        (("--num-heads", 0), "--num-heads"),
        (("--num-head-channels", 64, "--image-size", 100), "--image-size must be a multiple of 32"),
        (("--num-head-channels", 64, "--timesteps", 1500, "--rescale-timesteps"), "--timesteps must be a multiple"),
        (("--num-head-channels", 64, "--attention-order", "older"), "--attention-order"),
    ):
        result = run("convert", ffhq, "-o", out, *words)
        assert result.exit_code != 0
        assert message in result.output
        assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten(ffhq: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    result = run("convert", ffhq, "-o", tmp_path / "full", "--num-head-channels", 64)
    assert result.exit_code == 2
    assert "exists and isn't empty" in result.output
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    assert run("convert", ffhq, "-o", tmp_path / "file", "--num-head-channels", 64).exit_code == 2
    (tmp_path / "empty").mkdir()
    assert run("convert", ffhq, "-o", tmp_path / "empty", "--num-head-channels", 64).exit_code == 0
    assert json.loads((tmp_path / "empty" / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"


def test_a_full_disk_leaves_nothing(ffhq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        (tmp_path / ".out.part" / "half").write_text("half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DDPMPipeline, "save_pretrained", fail)
    result = run("convert", ffhq, "-o", tmp_path / "out", "--num-head-channels", 64)
    assert result.exit_code == 1
    assert "cannot write" in result.output
    assert "No space left on device" in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(ffhq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        (tmp_path / ".out.part" / "half").write_text("half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(DDPMPipeline, "save_pretrained", stop)
    assert run("convert", ffhq, "-o", tmp_path / "out", "--num-head-channels", 64).exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_a_malicious_checkpoint_is_an_error_of_one_line(ffhq: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.load(ffhq), "x": Malicious(tmp_path / "mark")}, tmp_path / "a.pt")
    result = run("convert", tmp_path / "a.pt", "-o", tmp_path / "out", "--num-head-channels", 64)
    assert result.exit_code == 1
    assert result.output.startswith("Error: a.pt holds posix.mkdir beside its weights.")
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out").exists()


def test_the_converters_are_found_where_they_were() -> None:
    from diffusers_restore.pipelines import converting

    assert converting.load_guided_diffusion is load_guided_diffusion
    with pytest.raises(AttributeError, match="converting' has no attribute 'load_others'"):
        _ = converting.load_others


def test_damaged_weights_are_refused_and_those_without_checksums_read(tmp_path: Path) -> None:
    weights = {"input_blocks.0.0.weight": torch.full((1000,), 2.0), "output_blocks.0.0.weight": torch.zeros(2)}
    torch.save(weights, tmp_path / "whole.pt")
    stored = (tmp_path / "whole.pt").read_bytes()
    place = stored.index(weights["input_blocks.0.0.weight"].numpy().tobytes()) + 2001
    (tmp_path / "flipped.pt").write_bytes(stored[:place] + bytes([stored[place] ^ 64]) + stored[place + 1 :])
    assert load_weights(tmp_path / "whole.pt").keys() == weights.keys()
    with pytest.raises(InvalidInputError, match=r"flipped.pt is not whole: Bad CRC-32 for file '\w+/data/0'"):
        load_weights(tmp_path / "flipped.pt")
    computes = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, tmp_path / "without.pt")
    finally:
        torch.serialization.set_crc32_options(computes)
    assert load_weights(tmp_path / "without.pt").keys() == weights.keys()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pt"
    torch.save({"input_blocks.0.0.weight": torch.zeros(3_000_000)}, tmp_path / "whole.pt")
    with ZipFile(tmp_path / "whole.pt") as whole, ZipFile(file, "w", ZIP_DEFLATED) as bomb:
        for entry in whole.infolist():
            bomb.writestr(entry.filename, whole.read(entry))
    assert file.stat().st_size < 100_000
    with pytest.raises(InvalidInputError, match=r"bomb.pt has \d+ bytes and unpacks to 12"):
        load_weights(file)
