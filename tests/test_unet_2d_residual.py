"""The residual U-Net: its formula, what it takes and refuses, and how it is kept."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_residual_unet
from diffusers import AutoModel
from torch import Tensor
from torch.nn import functional

from diffusers_restore import ResidualUNet2DModel
from diffusers_restore.errors import InvalidInputError

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "whole pixels": {"patch_size": 1},
    "patches of 4": {"patch_size": 4},
    "grey": {"channels": 1},
    "restorer": {"channels": 7, "out_channels": 6},
    "three levels": {"levels": 3, "layers_per_block": (2, 1, 1)},
    "one level": {"levels": 1},
    "classes": {"num_class_embeds": 5},
}
# Saved weights are found by these names: a line here is never changed or removed.
FROZEN = """
class_embedding.weight
conv_in.bias
conv_in.weight
conv_out.bias
conv_out.weight
down_blocks.0.0.conv1.bias
down_blocks.0.0.conv1.weight
down_blocks.0.0.conv2.bias
down_blocks.0.0.conv2.weight
down_blocks.0.0.time_emb_proj.bias
down_blocks.0.0.time_emb_proj.weight
down_blocks.0.1.conv1.bias
down_blocks.0.1.conv1.weight
down_blocks.0.1.conv2.bias
down_blocks.0.1.conv2.weight
down_blocks.0.1.time_emb_proj.bias
down_blocks.0.1.time_emb_proj.weight
down_blocks.1.0.conv1.bias
down_blocks.1.0.conv1.weight
down_blocks.1.0.conv2.bias
down_blocks.1.0.conv2.weight
down_blocks.1.0.time_emb_proj.bias
down_blocks.1.0.time_emb_proj.weight
downsamplers.0.bias
downsamplers.0.weight
time_embedding.linear_1.bias
time_embedding.linear_1.weight
time_embedding.linear_2.bias
time_embedding.linear_2.weight
up_blocks.0.0.conv1.bias
up_blocks.0.0.conv1.weight
up_blocks.0.0.conv2.bias
up_blocks.0.0.conv2.weight
up_blocks.0.0.time_emb_proj.bias
up_blocks.0.0.time_emb_proj.weight
up_blocks.0.1.conv1.bias
up_blocks.0.1.conv1.weight
up_blocks.0.1.conv2.bias
up_blocks.0.1.conv2.weight
up_blocks.0.1.time_emb_proj.bias
up_blocks.0.1.time_emb_proj.weight
upsamplers.0.bias
upsamplers.0.weight
"""

configs = pytest.mark.parametrize("name", CONFIGS)


def make(name: str = "plain", **config: Any) -> ResidualUNet2DModel:
    return make_residual_unet(**{**CONFIGS[name], **config})


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def labels(unet: ResidualUNet2DModel, count: int) -> Tensor | None:
    return None if unet.config.num_class_embeds is None else torch.arange(count) % unet.config.num_class_embeds


def asked(unet: ResidualUNet2DModel, x: Tensor, t: Any = 7) -> Tensor:
    with torch.no_grad():
        return unet(x, t, labels(unet, len(x))).sample


def error(x: Tensor, wanted: Tensor) -> float:
    assert x.shape == wanted.shape
    assert wanted.abs().max() > 0.01
    return float((x - wanted).abs().max() / wanted.abs().max())


def plain(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}


# The formula


def conv(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """A 3 x 3 convolution as a sum over its taps; what is outside is zero."""
    kernel, height, width = weights[f"{name}.weight"], x.shape[2], x.shape[3]
    padded = functional.pad(x, (1, 1, 1, 1))
    y = weights[f"{name}.bias"].reshape(1, -1, 1, 1).expand(len(x), -1, height, width)
    for i in range(3):
        for j in range(3):
            y = y + torch.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width])
    return y


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def patches(x: Tensor, p: int) -> Tensor:
    """Pixel (i, j) of a patch of channel c becomes channel (c p + i) p + j."""
    return torch.stack([x[:, c, i::p, j::p] for c in range(x.shape[1]) for i in range(p) for j in range(p)], dim=1)


def pixels(x: Tensor, p: int) -> Tensor:
    y = x.new_zeros(len(x), x.shape[1] // p**2, x.shape[2] * p, x.shape[3] * p)
    for k in range(x.shape[1]):
        y[:, k // p**2, k // p % p :: p, k % p :: p] = x[:, k]
    return y


def reference(unet: ResidualUNet2DModel, x: Tensor, t: Tensor, classes: Tensor | None) -> Tensor:
    """f(x, t), step by step."""
    w, p = unet.state_dict(), unet.config.patch_size
    levels = len(unet.config.block_out_channels)
    count = unet.config.layers_per_block
    count = (count,) * levels if isinstance(count, int) else count
    # sines and cosines of the time are made in float32, whatever the network's dtype is
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(32, dtype=torch.float32) / 32)
    features = torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype)
    e = linear(silu(linear(features, w, "time_embedding.linear_1")), w, "time_embedding.linear_2")
    if classes is not None:
        e = e + w["class_embedding.weight"][classes]
    e = silu(e)

    def blocks(x: Tensor, name: str, number: int) -> Tensor:
        for i in range(number):
            both = linear(e, w, f"{name}.{i}.time_emb_proj")[:, :, None, None]
            scale, shift = both[:, : x.shape[1]], both[:, x.shape[1] :]
            hidden = silu((1 + scale) * conv(x, w, f"{name}.{i}.conv1") + shift)
            x = x + conv(hidden, w, f"{name}.{i}.conv2")
        return x

    x = conv(patches(x, p), w, "conv_in")
    skips = []
    for level in range(levels - 1):
        skips.append(blocks(x, f"down_blocks.{level}", count[level]))
        kernel = w[f"downsamplers.{level}.weight"]
        x = w[f"downsamplers.{level}.bias"].reshape(1, -1, 1, 1) + sum(
            torch.einsum("oc,bchw->bohw", kernel[:, :, i, j], skips[-1][:, :, i::2, j::2])
            for i in range(2)
            for j in range(2)
        )
    x = blocks(x, f"down_blocks.{levels - 1}", count[-1])
    for level in reversed(range(levels - 1)):
        kernel = w[f"upsamplers.{level}.weight"]  # (in, out, 2, 2)
        up = torch.zeros_like(skips[level]) + w[f"upsamplers.{level}.bias"].reshape(1, -1, 1, 1)
        for i in range(2):
            for j in range(2):
                up[:, :, i::2, j::2] += torch.einsum("co,bchw->bohw", kernel[:, :, i, j], x)
        x = blocks(up + skips[level], f"up_blocks.{level}", count[level])
    return pixels(conv(x, w, "conv_out"), p)


@configs
def test_the_forward_is_the_formula(name: str) -> None:
    unet = make(name).double()
    x = normal(2, unet.config.in_channels, 16, 24, dtype=torch.float64)
    t = torch.tensor([3, 999])
    wanted = reference(unet, x, t, labels(unet, 2))
    assert error(asked(unet, x, t), wanted) < 1e-13
    assert error(wanted[:1], wanted[1:]) > 0.01


@pytest.mark.parametrize("config", [{}, {"dropout": 0.5}, {"out_channels": 6}], ids=str)
def test_a_new_network_says_zero_and_its_blocks_change_nothing(config: dict[str, Any]) -> None:
    unet = ResidualUNet2DModel(block_out_channels=(8, 16), time_embed_dim=16, layers_per_block=2, **config)
    x = normal(2, 3, 16, 16)
    said = asked(unet, x)
    assert said.shape == (2, unet.config.out_channels, 16, 16)
    assert not said.any()
    assert unet.conv_in.weight.any()
    hidden, embedding = normal(2, 8, 4, 4), normal(2, 16)
    assert torch.equal(unet.down_blocks[0](hidden, embedding), hidden)


def test_the_middle_of_a_picture_does_not_depend_on_what_is_far_from_it() -> None:
    """There are no norms: a network has a reach, here 2 (1 + 2 + 2 + 1) + 4 * 2 pixels and what is left of patches."""
    unet = make().double()
    reach = 2 * 6 + 4 * 2 + unet.size_multiple
    x = normal(1, 3, 80, 64, dtype=torch.float64)
    said = asked(unet, x)
    other = x.clone()
    other[:, :, :8] = 5 * normal(1, 3, 8, 64, seed=2, dtype=torch.float64)
    changed = asked(unet, other)
    assert error(changed[:, :, 8 + reach :], said[:, :, 8 + reach :]) < 1e-13
    assert error(changed[:, :, 8 : 8 + reach], said[:, :, 8 : 8 + reach]) > 0.01


@pytest.mark.parametrize("name", ["plain", "patches of 4", "whole pixels"])
def test_a_picture_that_is_moved_by_a_multiple_is_answered_there(name: str) -> None:
    unet = make(name).double()
    step = unet.size_multiple
    patch = unet.config.patch_size
    reach = -(-(patch * 6 + 2 * patch * 2 + step) // step) * step
    x = normal(1, 3, 2 * reach + 4 * step, 2 * reach + 5 * step, dtype=torch.float64)
    moved = x.roll((step, 2 * step), (2, 3))
    inner = slice(reach + step, -reach), slice(reach + 2 * step, -reach)
    wanted = asked(unet, x).roll((step, 2 * step), (2, 3))[..., inner[0], inner[1]]
    assert wanted.numel() > 0
    assert error(asked(unet, moved)[..., inner[0], inner[1]], wanted) < 1e-13


# What it takes


@configs
def test_timesteps_are_numbers_or_tensors(name: str) -> None:
    unet = make(name)
    x = normal(3, unet.config.in_channels, 16, 8)
    wanted = asked(unet, x, torch.tensor([7, 7, 7]))
    for t in (
        7,
        7.0,
        torch.tensor(7),
        torch.tensor([7]),
        torch.tensor(7.0),
        torch.tensor([7.0] * 3),
        torch.tensor([7] * 3, dtype=torch.int32),
    ):
        assert torch.equal(asked(unet, x, t), wanted)
    assert error(asked(unet, x, 8), wanted) > 1e-4
    assert error(asked(unet, x, 7.5), wanted) > 1e-5
    mixed = asked(unet, x, torch.tensor([3, 7, 900]))
    assert error(mixed[1:2], wanted[1:2]) < 1e-5
    assert error(mixed[::2], wanted[::2]) > 1e-3


@configs
def test_a_batch_is_its_pictures(name: str) -> None:
    unet = make(name).double()
    x, t = normal(3, unet.config.in_channels, 16, 24, dtype=torch.float64), torch.tensor([0, 50, 999])
    batch, classes = asked(unet, x, t), labels(unet, 3)
    for i in range(3):
        with torch.no_grad():
            alone = unet(x[i : i + 1], t[i], None if classes is None else classes[i : i + 1], return_dict=False)[0]
        assert error(alone, batch[i : i + 1]) < 1e-13


def test_class_labels_are_added_to_the_time() -> None:
    unet = make("classes")
    x, (first, other) = normal(2, 3, 8, 8), torch.tensor([[1, 1], [1, 4]])
    with torch.no_grad():
        both = [unet(x, 7, class_labels=one).sample for one in (first, other)]
    assert error(both[1][:1], both[0][:1]) < 1e-6
    assert error(both[1][1:], both[0][1:]) > 1e-3


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.05)], ids=str
)
def test_other_precisions(dtype: torch.dtype, limit: float) -> None:
    unet = make()
    x, t = normal(2, 3, 16, 24), torch.tensor([7, 990])
    wanted = asked(unet, x, t)
    said = asked(copy.deepcopy(unet).to(dtype), x.to(dtype), t)
    assert said.dtype == dtype
    assert error(said.float(), wanted) < limit


def test_other_orders_of_memory() -> None:
    unet = make()
    x = normal(2, 3, 16, 24)
    wanted = asked(unet, x)
    last = copy.deepcopy(unet).to(memory_format=torch.channels_last)
    for network in (unet, last):
        for given in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
            assert error(asked(network, given), wanted) < 1e-5
    assert torch.equal(asked(unet, x), wanted)


def test_dropout_is_active_in_training_alone() -> None:
    unet, dropping = make(), make(dropout=0.5)
    dropping.load_state_dict(unet.state_dict())
    x = normal(1, 3, 16, 16)
    assert torch.equal(asked(dropping, x), asked(unet, x))
    assert torch.equal(asked(unet.train(), x), asked(dropping, x))
    with torch.random.fork_rng(devices=[]):
        dropping.train()
        assert error(asked(dropping, x), asked(dropping, x)) > 1e-3


@configs
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_weight(name: str, checkpointing: bool) -> None:
    unet = make(name).train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
        assert unet.is_gradient_checkpointing
    x = normal(2, unet.config.in_channels, 16, 16).requires_grad_()
    unet(x, torch.tensor([3, 700]), labels(unet, 2)).sample.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min(dim=0).values.any()
    for key, weight in unet.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.abs().max() > 0, key
    if checkpointing:
        again = make(name).train()
        again(x.detach(), torch.tensor([3, 700]), labels(unet, 2)).sample.square().sum().backward()
        for one, other in zip(unet.parameters(), again.parameters(), strict=True):
            assert error(one.grad, other.grad) < 1e-5


def test_what_is_given_and_the_global_random_state_stay() -> None:
    unet = make()
    x, t = normal(2, 3, 16, 16), torch.tensor([3, 7])
    kept, state = x.clone(), torch.get_rng_state()
    asked(unet, x, t)
    assert torch.equal(x, kept)
    assert t.tolist() == [3, 7]
    assert torch.equal(torch.get_rng_state(), state)


@configs
def test_what_sizes_must_be_multiples_of(name: str) -> None:
    unet = make(name)
    multiple = unet.config.patch_size * 2 ** (len(unet.config.block_out_channels) - 1)
    assert unet.size_multiple == multiple
    channels = unet.config.in_channels
    assert asked(unet, normal(1, channels, multiple, 3 * multiple)).shape[2:] == (multiple, 3 * multiple)
    for wrong in range(1, multiple):
        for size in ((wrong, 2 * multiple), (multiple, multiple + wrong)):
            with pytest.raises(InvalidInputError, match=f"multiples of {multiple}, got .*{size[0]}, {size[1]}"):
                asked(unet, normal(1, channels, *size))


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number >= 1, got 0"),
        ({"in_channels": 3.0}, "in_channels must be .*, got 3.0"),
        ({"out_channels": -1}, "out_channels must be .*, got -1"),
        ({"out_channels": None}, "out_channels must be .*, got None"),
        ({"patch_size": 0}, "patch_size must be .*, got 0"),
        ({"patch_size": (2, 2)}, r"patch_size must be .*, got \(2, 2\)"),
        ({"block_out_channels": ()}, "block_out_channels must name the channels .* got \\(\\)"),
        ({"block_out_channels": 64}, "block_out_channels must name the channels .* got 64"),
        ({"block_out_channels": (8, 0), "layers_per_block": 1}, "block_out_channels must be .*, got 0"),
        ({"block_out_channels": (8, 8.5), "layers_per_block": 1}, "block_out_channels must be .*, got 8.5"),
        ({"block_out_channels": "88", "layers_per_block": 1}, "block_out_channels must name .* got '88'"),
        ({"layers_per_block": 0}, "layers_per_block must be .*, got 0"),
        ({"layers_per_block": True}, "layers_per_block must be .*, got True"),
        ({"layers_per_block": 1.5}, "layers_per_block must be .*, got 1.5"),
        ({"layers_per_block": None}, "layers_per_block must be .*, got None"),
        ({"layers_per_block": (1,)}, r"one for each level; got \(8, 16\) and \(1,\)"),
        ({"layers_per_block": (1, 1, 1)}, "one for each level"),
        ({"layers_per_block": (1, -1)}, "layers_per_block must be .*, got -1"),
        ({"time_embed_dim": 0}, "time_embed_dim must be .*, got 0"),
        ({"dropout": -0.1}, "dropout must be a number >= 0 and <= 1, got -0.1"),
        ({"dropout": 1.1}, "dropout must be .*, got 1.1"),
        ({"dropout": float("nan")}, "dropout must be .*, got nan"),
        ({"num_class_embeds": 0}, "num_class_embeds must be .*, got 0"),
        ({"num_class_embeds": 2.0}, "num_class_embeds must be .*, got 2.0"),
        ({"sample_size": 0}, "sample_size must be .*, got 0"),
        ({"sample_size": "16"}, "sample_size must be .*, got '16'"),
        ({"sample_size": (16, 16, 3)}, "sample_size must be one number, .* got \\(16, 16, 3\\)"),
        ({"sample_size": ()}, "sample_size must be .*, got \\(\\)"),
        ({"x0_errors": 0.1}, "x0_errors must be pairs .* got 0.1"),
        ({"x0_errors": ()}, "x0_errors must be pairs"),
        ({"x0_errors": ((0.1, 0.2, 0.3),)}, "x0_errors must be pairs"),
        ({"x0_errors": ((-0.1, 0.2),)}, "x0_errors: sigma must be .*, got -0.1"),
        ({"x0_errors": ((0.1, float("inf")),)}, "x0_errors: mean squared error must be .*, got inf"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ResidualUNet2DModel(**{"block_out_channels": (8, 16), "layers_per_block": 1, **arguments})


def test_misspelt_arguments_are_errors() -> None:
    with pytest.raises(TypeError, match="patchsize"):
        ResidualUNet2DModel(patchsize=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("x", "t", "classes", "message"),
    [
        (normal(3, 16, 16), 7, None, r"sample must be \(B, 3, H, W\), got \(3, 16, 16\)"),
        (normal(1, 4, 16, 16), 7, None, r"sample must be \(B, 3, H, W\), got \(1, 4, 16, 16\)"),
        (normal(1, 3, 16, 18), 7, None, r"multiples of 4, got \(1, 3, 16, 18\)"),
        (normal(3, 3, 8, 8), torch.tensor([1, 2]), None, r"timestep must be one, .* 3 pictures, got \(2,\)"),
        (normal(1, 3, 8, 8), torch.tensor([1, 2]), None, r"timestep must be one, .* 1 pictures, got \(2,\)"),
        (normal(2, 3, 8, 8), [1, 2, 3], None, r"timestep must be one, .* 2 pictures, got \(3,\)"),
        (normal(1, 3, 8, 8), 7, torch.tensor([1]), "class_labels must be given to a class-conditional network, and"),
    ],
)
def test_what_does_not_fit_is_refused(x: Tensor, t: Any, classes: Tensor | None, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()(x, t, classes)


def test_a_class_conditional_network_needs_labels() -> None:
    unet = make("classes")
    with pytest.raises(InvalidInputError, match="class_labels must be given"):
        unet(normal(1, 3, 8, 8), 7)
    for count in (1, 3):
        with pytest.raises(InvalidInputError, match=rf"class_labels must be one, .* {count} pictures, got \(2,\)"):
            unet(normal(count, 3, 8, 8), 7, torch.tensor([0, 1]))
    x = normal(2, 3, 8, 8)
    wanted = asked(unet, x, torch.tensor([7, 7]))
    with torch.no_grad():
        assert torch.equal(unet(x, 7, torch.tensor([[0], [1]])).sample, wanted)


# How it is kept


MEASURED = ((0.05, 0.0003), (0.4, 0.009), (3.0, 0.1))


@configs
def test_a_saved_network_says_the_same(name: str, tmp_path: Path) -> None:
    unet = make(name, x0_errors=MEASURED)
    unet.save_pretrained(tmp_path / "unet")
    saved = json.loads((tmp_path / "unet" / "config.json").read_text())
    assert saved["_class_name"] == "ResidualUNet2DModel"
    assert plain(saved) == json.loads(json.dumps(plain(unet.config)))  # tuples become lists
    assert saved["x0_errors"] == [list(pair) for pair in MEASURED]
    x = normal(2, unet.config.in_channels, 16, 16)
    for loaded in (
        ResidualUNet2DModel.from_pretrained(tmp_path / "unet"),
        ResidualUNet2DModel.from_pretrained(tmp_path, subfolder="unet", low_cpu_mem_usage=False),
        AutoModel.from_pretrained(str(tmp_path / "unet")),
    ):
        assert type(loaded) is ResidualUNet2DModel
        assert plain(loaded.config) == plain(saved)
        assert not loaded.training
        assert all(torch.equal(value, unet.state_dict()[key]) for key, value in loaded.state_dict().items())
        assert error(asked(loaded, x), asked(unet, x)) < 1e-5


@pytest.mark.parametrize(
    ("saving", "files"),
    [
        ({}, ["diffusion_pytorch_model.safetensors"]),
        ({"variant": "fp16"}, ["diffusion_pytorch_model.fp16.safetensors"]),
        ({"safe_serialization": False}, ["diffusion_pytorch_model.bin"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_files_of_weights(saving: dict[str, Any], files: list[str], dtype: torch.dtype, tmp_path: Path) -> None:
    unet = make().to(dtype)
    unet.save_pretrained(tmp_path, **saving)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "config.json", "diffusers_restore.py"])
    options = {"variant": saving.get("variant"), "use_safetensors": saving.get("safe_serialization", True)}
    loaded = ResidualUNet2DModel.from_pretrained(tmp_path, dtype=dtype, **options)
    assert loaded.dtype == dtype
    assert all(torch.equal(value, unet.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_what_is_given_by_position_is_kept() -> None:
    given = ((16, 24), 4, 5, 4, (8, 16, 24), (1, 2, 1), 12, 0.25, 3, MEASURED)
    unet = ResidualUNet2DModel(*given)
    names = ("sample_size", "in_channels", "out_channels", "patch_size", "block_out_channels", "layers_per_block")
    names += ("time_embed_dim", "dropout", "num_class_embeds", "x0_errors")
    through_json = json.loads(json.dumps(plain(unet.config)))
    for again in (ResidualUNet2DModel.from_config(unet.config), ResidualUNet2DModel.from_config(through_json)):
        assert json.loads(json.dumps({name: again.config[name] for name in names})) == json.loads(
            json.dumps(dict(zip(names, given, strict=True)))
        )
        assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in unet.state_dict().items()}
    assert ResidualUNet2DModel.from_config(unet.config, dropout=0.5).config.dropout == 0.5


def test_the_names_of_the_weights_stay() -> None:
    unet = make(num_class_embeds=3, layers_per_block=(2, 1))
    assert sorted(unet.state_dict()) == FROZEN.split()


def test_one_number_of_layers_is_that_of_each_level() -> None:
    one, each = make("three levels", layers_per_block=2), make("three levels", layers_per_block=(2, 2, 2))
    assert (one.config.layers_per_block, each.config.layers_per_block) == (2, (2, 2, 2))
    x = normal(1, 3, 16, 16)
    assert torch.equal(asked(one, x), asked(each, x))


def test_a_copy_is_its_own() -> None:
    unet = make()
    x = normal(1, 3, 16, 16)
    wanted = asked(unet, x)
    copied = copy.deepcopy(unet)
    assert torch.equal(asked(copied, x), wanted)
    assert plain(copied.config) == plain(unet.config)
    with torch.no_grad():
        copied.conv_out.bias.add_(1)
    assert torch.equal(asked(unet, x), wanted)


def test_measured_errors_can_be_noted_later(tmp_path: Path) -> None:
    unet = make()
    assert unet.config.x0_errors is None
    unet.register_to_config(x0_errors=MEASURED)
    unet.save_pretrained(tmp_path)
    assert ResidualUNet2DModel.from_pretrained(tmp_path).config.x0_errors == [list(pair) for pair in MEASURED]
    assert ResidualUNet2DModel.from_config(unet.config).config.x0_errors == MEASURED
