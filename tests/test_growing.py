"""Networks that are given more channels: what they knew stays, what is new is zero and learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import make_residual_unet, make_unet
from diffusers import UNet2DModel

from diffusers_restore.errors import InvalidInputError
from diffusers_restore.models.growing import grow_unet

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "add_attention": True,
        "attention_head_dim": 4,
    },
    "learned variance": {"out_channels": 6},
    "resnets that resample": {
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "resnet_time_scale_shift": "scale_shift",
    },
    "grey": {"in_channels": 1, "out_channels": 1},
    "of [0, 1]": {"center_input_sample": True},
    "learned times": {"time_embedding_type": "learned", "num_train_timesteps": 10},
    "conditioned already": {"in_channels": 6},
    "classes": {"num_class_embeds": 5},
    "another embedding of time": {"flip_sin_to_cos": False, "freq_shift": 1, "time_embedding_dim": 24},
}
RESIDUAL: dict[str, dict[str, Any]] = {
    "residual": {},
    "residual, learned variance": {"out_channels": 6},
    "residual, grey, patches of 4": {"channels": 1, "patch_size": 4},
    "residual, whole pixels, classes": {"patch_size": 1, "num_class_embeds": 5},
}


def make(name: str = "plain", dtype: torch.dtype = torch.float64) -> Any:
    """A network with weights that fill their dtype."""
    unet: Any
    config = {name: value for name, value in make_unet().config.items() if not name.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in RESIDUAL:
            unet = make_residual_unet(**RESIDUAL[name]).double()
        else:
            unet = UNet2DModel.from_config({**config, **CONFIGS[name]}).eval().double()
        for parameter in unet.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
    return unet.to(dtype)


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def asked(unet: Any, x: torch.Tensor) -> torch.Tensor:
    labels = None if unet.config.num_class_embeds is None else torch.tensor([3] * len(x))
    with torch.no_grad():
        return unet(x, torch.tensor([7] * len(x)), labels).sample


def error(x: torch.Tensor, wanted: torch.Tensor) -> float:
    assert x.shape == wanted.shape
    assert wanted.abs().max() > 0.01
    return float((x - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*CONFIGS, *RESIDUAL])
def test_a_grown_network_says_what_it_said_whatever_the_new_inputs_are(name: str, dtype: torch.dtype) -> None:
    unet = make(name, dtype)
    inputs, outputs = unet.config.in_channels, unet.config.out_channels
    x = normal(2, inputs, 16, 24, dtype=dtype)
    wanted = asked(unet, x)
    grown = grow_unet(unet, 2 * inputs + 1, 2 * outputs, first_output=outputs)
    assert (grown.config.in_channels, grown.config.out_channels) == (2 * inputs + 1, 2 * outputs)
    for new in (torch.zeros(2, inputs + 1, 16, 24), 100 * normal(2, inputs + 1, 16, 24, seed=2)):
        said = asked(grown, torch.cat([x, new.to(dtype)], dim=1))
        assert not said[:, :outputs].any()
        assert error(said[:, outputs:], wanted) < (2e-15 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize("name", ["plain", "residual"])
@pytest.mark.parametrize(("first_output", "place"), [(0, slice(0, 3)), (2, slice(2, 5)), (4, slice(4, 7))])
def test_outputs_go_where_they_are_wanted(first_output: int, place: slice, name: str) -> None:
    unet = make(name)
    x = normal(1, 3, 16, 16)
    said = asked(grow_unet(unet, 3, 7, first_output=first_output), x)
    assert error(said[:, place], asked(unet, x)) < 2e-15
    said[:, place] = 0
    assert not said.any()
    assert torch.equal(asked(grow_unet(unet, 3, 3), x), asked(unet, x))  # nothing is new


@pytest.mark.parametrize("out_channels", [1, 3, 6])
def test_all_outputs_may_begin_at_zero(out_channels: int) -> None:
    grown = grow_unet(make(), 6, out_channels, first_output=None)
    said = asked(grown, normal(1, 6, 16, 16))
    assert said.shape == (1, out_channels, 16, 16)
    assert not said.any()
    assert grown.mid_block.resnets[0].conv1.weight.any()


@pytest.mark.parametrize("name", [*CONFIGS, *RESIDUAL])
def test_all_else_of_the_network_and_its_configuration_is_the_same(name: str) -> None:
    unet = make(name)
    grown = grow_unet(unet, 9, 12)
    ours, theirs = ({k: v for k, v in one.config.items() if not k.startswith("_")} for one in (grown, unet))
    assert ours == {**theirs, "in_channels": 9, "out_channels": 12}
    weights = unet.state_dict()
    assert list(grown.state_dict()) == list(weights)
    for key, value in grown.state_dict().items():
        assert value.dtype == torch.float64
        if key not in ("conv_in.weight", "conv_out.weight", "conv_out.bias"):
            assert torch.equal(value, weights[key])
    pixels = unet.config.get("patch_size", 1) ** 2
    inputs, outputs = unet.config.in_channels * pixels, unet.config.out_channels * pixels
    assert torch.equal(grown.conv_in.weight[:, :inputs], unet.conv_in.weight)
    assert not grown.conv_in.weight[:, inputs:].any()
    for part in ("weight", "bias"):
        new = getattr(grown.conv_out, part)
        assert torch.equal(new[:outputs], getattr(unet.conv_out, part))
        assert not new[outputs:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    unet = make(dtype=dtype)
    grown = grow_unet(unet, 6, 6, first_output=3)
    assert {one.dtype for one in grown.parameters()} == {dtype}
    assert torch.equal(grown.conv_in.weight[:, :3], unet.conv_in.weight)
    assert torch.equal(grown.mid_block.resnets[0].conv1.weight, unet.mid_block.resnets[0].conv1.weight)
    said = asked(grown, normal(1, 6, 16, 16, dtype=dtype))
    assert said.dtype == dtype
    wanted = asked(unet, normal(1, 6, 16, 16, dtype=dtype)[:, :3])
    assert error(said[:, 3:].double(), wanted.double()) <= 4 * torch.finfo(dtype).eps


def test_the_network_that_was_given_stays_as_it_was() -> None:
    unet = make()
    unet.requires_grad_(False)
    before, config = copy.deepcopy(unet.state_dict()), dict(unet.config)
    state = torch.random.get_rng_state()
    grown = grow_unet(unet, 6, 6)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    assert dict(unet.config) == config
    assert unet.conv_in.weight.shape[1] == 3
    assert all(one.requires_grad for one in grown.parameters())  # a frozen one can be trained
    assert not any(one.requires_grad for one in unet.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(training: bool) -> None:
    unet = make().train(training)
    assert {one.training for one in grow_unet(unet, 6, 6).modules()} == {training}
    assert unet.training == training


@pytest.mark.parametrize(("name", "pixels"), [("plain", 1), ("residual", 4)])
def test_what_is_new_learns(name: str, pixels: int) -> None:
    """The first gradient reaches the new outputs and, through the old ones, the new inputs."""
    grown = grow_unet(make(name, torch.float32), 6, 6, first_output=3)
    x, target = normal(2, 6, 16, 16, dtype=torch.float32), normal(2, 6, 16, 16, seed=2, dtype=torch.float32)
    optimizer = torch.optim.Adam(grown.parameters(), lr=1e-2)
    losses = []
    for step in range(15):
        said = grown(x, torch.tensor([3, 7])).sample
        loss = (said - target).square().mean()
        losses.append((said[:, :3] - target[:, :3]).square().mean().item())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert grown.conv_in.weight.grad[:, 3 * pixels :].abs().amax(dim=(0, 2, 3)).min() > 0  # each new channel
            assert grown.conv_out.weight.grad[: 3 * pixels].abs().amax(dim=(1, 2, 3)).min() > 0
            assert grown.conv_out.bias.grad[: 3 * pixels].abs().min() > 0
        optimizer.step()
    assert losses[-1] < 0.98 * losses[0]
    assert grown.conv_in.weight[:, 3 * pixels :].any()


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_a_grown_network_is_saved_and_loaded(name: str, tmp_path: Any) -> None:
    grown = grow_unet(make(name, torch.float32), 6, 6, first_output=3)
    grown.save_pretrained(tmp_path)
    loaded = type(grown).from_pretrained(tmp_path)
    x = normal(1, 6, 16, 16, dtype=torch.float32)
    assert error(asked(loaded, x)[:, 3:], asked(grown, x)[:, 3:]) < 1e-5
    assert not asked(loaded, x)[:, :3].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 2}, "in_channels must be a whole number >= 3, got 2"),
        ({"in_channels": 6.0}, "in_channels must be a whole number >= 3, got 6.0"),
        ({"in_channels": True}, "in_channels must be .*, got True"),
        ({"out_channels": 2}, "out_channels must be a whole number >= 3, got 2"),
        ({"out_channels": 6.5}, "out_channels must be .*, got 6.5"),
        ({"out_channels": 0, "first_output": None}, "out_channels must be a whole number >= 1, got 0"),
        ({"first_output": 4}, "first_output must be a whole number >= 0 and <= 3, got 4"),
        ({"first_output": -1}, "first_output must be .*, got -1"),
        ({"first_output": 1.0}, "first_output must be .*, got 1.0"),
        ({"first_output": "residual"}, "first_output must be .*, got 'residual'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        grow_unet(make(), **{"in_channels": 6, "out_channels": 6, **arguments})


@pytest.mark.parametrize("attention", ["", "Attn"])
def test_networks_that_take_three_channels_elsewhere_are_refused(attention: str) -> None:
    config = {name: value for name, value in make_unet().config.items() if not name.startswith("_")}
    blocks = {"down_block_types": (f"{attention}SkipDownBlock2D", "DownBlock2D"), "block_out_channels": (32, 32)}
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DModel.from_config({**config, **blocks})
    with pytest.raises(InvalidInputError, match=f"unet has a {attention}SkipDownBlock2D, which takes pictures of 3"):
        grow_unet(unet, 6, 6)
