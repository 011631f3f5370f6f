"""Generators of Pix2pix and CycleGAN: converted networks against our own public-like ones, files, the command."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adm_reference import ADM
from click.testing import CliRunner, Result
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from pix2pix_reference import Discriminator, Dropout, Resnet, UNet, Weights, randomised
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_restore import Pix2PixPipeline, ResnetGenerator, UNetGenerator, cli
from diffusers_restore.conversion import load_guided_diffusion, load_pix2pix
from diffusers_restore.conversion.checkpoint_files import load_weights
from diffusers_restore.conversion.pix2pix import convert_pix2pix, pipeline_of_pix2pix
from diffusers_restore.errors import InvalidInputError

LEVELS = (4, 6, 8, 8, 8, 8)

# Every kind of network that is converted, small, with the configuration that must be found.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "U-Net, batch norm": (
        lambda: UNet(LEVELS),
        {"sample_size": 64, "block_out_channels": LEVELS, "dropout": 0.5, "norm_affine": True},
    ),
    "U-Net, instance norm": (lambda: UNet(LEVELS, "instance"), {"block_out_channels": LEVELS, "norm_affine": False}),
    "U-Net, stale statistics": (lambda: UNet(LEVELS, "stale"), {"norm_affine": False}),
    "U-Net, other channels": (lambda: UNet(LEVELS, inputs=1, outputs=2), {"in_channels": 1, "out_channels": 2}),
    "U-Net of two levels": (lambda: UNet((4, 6)), {"sample_size": 4, "block_out_channels": (4, 6)}),
    "9 blocks, instance norm": (
        lambda: Resnet((4, 6, 8), 9),
        {
            "sample_size": None,
            "block_out_channels": (4, 6, 8),
            "num_blocks": 9,
            "dropout": 0.0,
            "norm_affine": False,
        },
    ),
    "9 blocks, instance norm, dropout": (lambda: Resnet((4, 6, 8), 9, drops=True), {"num_blocks": 9, "dropout": 0.5}),
    "6 blocks, batch norm": (
        lambda: Resnet((4, 6, 8), 6, "batch"),
        {"num_blocks": 6, "dropout": 0.0, "norm_affine": True},
    ),
    "6 blocks, batch norm, dropout": (
        lambda: Resnet((4, 6, 8), 6, "batch", True),
        {"num_blocks": 6, "dropout": 0.5, "norm_affine": True},
    ),
    "6 blocks, stale statistics": (lambda: Resnet((4, 6, 8), 6, "stale"), {"num_blocks": 6, "norm_affine": False}),
    "1 block, one level, other channels": (
        lambda: Resnet((6,), 1, inputs=1, outputs=2),
        {"block_out_channels": (6,), "num_blocks": 1, "in_channels": 1, "out_channels": 2},
    ),
    "2 blocks, three halvings": (
        lambda: Resnet((4, 6, 8, 10), 2, "batch"),
        {"block_out_channels": (4, 6, 8, 10), "num_blocks": 2},
    ),
}


def weights(name: str, dtype: torch.dtype = torch.float64) -> Weights:
    return randomised(NETWORKS[name][0](), dtype=dtype).state_dict()


def meta(network: Callable[[], nn.Module]) -> Weights:
    with torch.device("meta"):
        return network().state_dict()


@torch.no_grad()
def difference(name: str, dtype: torch.dtype, *, dropped: bool) -> float:
    """The largest error of the converted network, relative to the largest value, on pictures that are no squares."""
    reference = randomised(NETWORKS[name][0](), dtype=dtype)
    generator = pipeline_of_pix2pix(reference.state_dict(), dropout=None if dropped else 0).generator
    assert generator.dtype == dtype
    random = torch.Generator().manual_seed(1)
    sides = 64, 128
    x = torch.randn(2, generator.config.in_channels, *sides, generator=random, dtype=torch.float64).to(dtype)
    noise = generator.draw_noise(len(x), *sides, random)
    layers = [module for module in reference.modules() if isinstance(module, Dropout)]
    assert len(layers) == len(noise) or not dropped
    expected = []
    for i in range(len(x)):  # one by one: batch norm would mix pictures
        for layer, one in zip(layers, noise, strict=dropped):
            layer.noise = one[i : i + 1]
        expected.append(reference(x[i : i + 1].clone()))
    wanted = torch.cat(expected)
    assert float(wanted.std()) > 0.1
    return float((generator(x, noise).sample - wanted).abs().max() / wanted.abs().max())


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_converted_network_says_the_same(name: str) -> None:
    assert difference(name, torch.float64, dropped=False) < 1e-12
    assert difference(name, torch.float64, dropped=True) < 1e-12
    assert difference(name, torch.float32, dropped=True) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_is_inferred(name: str) -> None:
    expected = {"in_channels": 3, "out_channels": 3, **NETWORKS[name][1]}
    network, config, _ = convert_pix2pix(weights(name))
    assert network is (UNetGenerator if name.startswith("U-Net") else ResnetGenerator)
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_has_one_place(name: str) -> None:
    """Outputs can't show it: biases before instance norms have no effect."""
    state = weights(name)
    before = {key: value.clone() for key, value in state.items()}
    network, config, converted = convert_pix2pix(state)
    assert converted.keys() == network(**config).state_dict().keys()
    publics = {value.data_ptr(): key for key, value in state.items()}
    sources = {new: publics[value.data_ptr()] for new, value in converted.items()}
    stale = {key for key in state if key.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")}
    assert sorted(sources.values()) == sorted(state.keys() - stale)
    layers = {(new.rpartition(".")[0], public.rpartition(".")[0]) for new, public in sources.items()}
    assert len({new for new, _ in layers}) == len(layers) == len({public for _, public in layers})
    assert all(new.rpartition(".")[2] == public.rpartition(".")[2] for new, public in sources.items())
    assert all(torch.equal(before[key], state[key]) for key in before)


def test_precision_is_kept_and_the_widest_is_that_of_all() -> None:
    state = {key: value.half() for key, value in weights("6 blocks, stale statistics").items()}
    assert {value.dtype for value in convert_pix2pix(state)[2].values()} == {torch.float16}
    state["model.1.weight"] = state["model.1.weight"].float()
    assert {value.dtype for value in convert_pix2pix(state)[2].values()} == {torch.float32}


def test_dropout_is_an_option() -> None:
    unet, drops, plain = (
        weights(name) for name in ("U-Net, batch norm", "9 blocks, instance norm, dropout", "9 blocks, instance norm")
    )
    for state, given, expected in (
        (unet, None, 0.5),
        (unet, 0.0, 0.0),
        (unet, 0.3, 0.3),
        (drops, 0, 0),
        (drops, 0.2, 0.2),
        (plain, 0.0, 0.0),
    ):
        assert convert_pix2pix(state, dropout=given)[1]["dropout"] == expected
    with pytest.raises(InvalidInputError, match=r"dropout must be 0 for this generator, got 0.5: .* conv_block.5 is a"):
        convert_pix2pix(plain, dropout=0.5)
    with pytest.raises(InvalidInputError, match="dropout must be a number >= 0, got nan"):
        convert_pix2pix(unet, dropout=float("nan"))
    with pytest.raises(InvalidInputError, match="dropout must be below 1"):
        convert_pix2pix(unet, dropout=1.0)


# --- the public networks, by their shapes ---------------------------------------------------------------------------

UNET_256 = (64, 128, 256, 512, 512, 512, 512, 512)
RESNET = (64, 128, 256)
PUBLISHED: dict[str, tuple[Callable[[], nn.Module], int, str | None]] = {
    "unet_256/batch": (lambda: UNet(UNET_256), 54_413_955, "unet_256_batch_dropout"),
    "unet_256/instance": (lambda: UNet(UNET_256, "instance"), 54_409_603, "unet_256_instance"),
    "unet_128/batch": (lambda: UNet(UNET_256[:7]), 41_828_995, "unet_128_batch"),
    "unet_128/instance": (lambda: UNet(UNET_256[:7], "instance"), 41_825_667, None),
    "unet_256/batch in1 out2 (colorization)": (lambda: UNet(UNET_256, inputs=1, outputs=2), 54_409_858, None),
    "resnet_9blocks/batch": (lambda: Resnet(RESNET, 9, "batch"), 11_383_427, None),
    "resnet_9blocks/instance": (lambda: Resnet(RESNET, 9), 11_378_179, "resnet_9blocks_instance"),
    "resnet_6blocks/batch": (lambda: Resnet(RESNET, 6, "batch"), 7_841_411, None),
    "resnet_6blocks/instance": (lambda: Resnet(RESNET, 6), 7_837_699, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_public_networks_have_their_numbers_of_parameters(name: str) -> None:
    state = meta(PUBLISHED[name][0])
    _, config, converted = convert_pix2pix(state)
    assert sum(value.numel() for value in converted.values()) == PUBLISHED[name][1]
    if name.startswith("unet"):
        with torch.device("meta"):
            dropped = UNetGenerator(**config).noise_shapes(*[config["sample_size"]] * 2)
        assert [shape[1] for shape in dropped] == [4, 8, 16][: len(config["block_out_channels"]) - 5]


@pytest.mark.parametrize("name", PUBLISHED)
def test_public_names_and_shapes(name: str, shared: Path) -> None:
    network, count, keys = PUBLISHED[name]
    golden = shared / "golden" / "gan"
    assert json.loads((golden / "pix2pix_param_counts.json").read_text())[name] == count
    if keys is None:
        return
    state = {key: value.to("meta") for key, value in meta(network).items()}
    published = {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, shape, dtype in json.loads((golden / "pix2pix_state_dict_keys.json").read_text())[keys]
    }
    assert {key: value.shape for key, value in published.items()} == {key: value.shape for key, value in state.items()}
    converted = convert_pix2pix(published)[2]
    assert sum(value.numel() for value in converted.values()) == count


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(state: Weights) -> str:
    with pytest.raises(InvalidInputError) as caught:
        convert_pix2pix(state)
    return str(caught.value)


SMALL = [
    *[lambda kind=kind: UNet(LEVELS, kind) for kind in ("batch", "instance")],
    *[lambda kind=kind: Resnet((4, 6, 8), 2, kind) for kind in ("batch", "instance")],
]


@pytest.mark.parametrize("network", SMALL)
def test_any_missing_or_misshapen_weight_is_named(network: Callable[[], nn.Module]) -> None:
    whole = meta(network)
    for key, value in whole.items():
        if key.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
            continue
        assert f"the checkpoint lacks {key}" in refused({one: whole[one] for one in whole if one != key})
        message = refused({**whole, key: torch.empty((*value.shape, 2), device="meta")})
        assert f"{key} has the shape {(*value.shape, 2)}, where" in message
        assert f"needs {tuple(value.shape)} for " in message


def test_surplus_weights_are_named() -> None:
    one = torch.zeros(1)
    for network, surplus in (
        (SMALL[0], "model.model.1.model.9.weight"),
        (SMALL[0], "model.model.2.running_mean"),  # no norm is there
        (SMALL[1], "model.model.1.model.2.weight"),
        (SMALL[2], "model.4.running_mean"),
        (SMALL[2], "betas"),
        (SMALL[3], "model.10.conv_block.2.bias"),
    ):
        assert f"has no place for: {surplus}" in refused({**meta(network), surplus: one})


def test_networks_like_the_public_ones_are_refused_with_the_names() -> None:
    mixed = meta(lambda: Resnet((4, 6, 8), 2)) | {
        key.replace("block.5", "block.6"): value
        for key, value in meta(lambda: Resnet((4, 6, 8), 2)).items()
        if key.startswith("model.11.")
    }
    assert "no place for: model.11.conv_block.6.bias, model.11.conv_block.6.weight" in refused(mixed)
    moved = {key.replace("model.1", "model.2"): value for key, value in meta(lambda: Resnet((4, 6, 8), 2)).items()}
    assert "the first residual block is model.20; " in refused(moved)
    gone = {key: value for key, value in meta(lambda: Resnet((4, 6, 8), 3)).items() if not key.startswith("model.11.")}
    assert "the checkpoint lacks model.11.conv_block, while later" in refused(gone)
    wide = meta(lambda: UNet(LEVELS))
    wide["model.model.1.model.1.weight"] = torch.empty(7, 4, 4, 4, device="meta")
    assert "needs (8, 7, 4, 4) for down_convs.2.weight" in refused(wide)
    empty = {**wide, "model.model.0.weight": torch.empty(0, 3, 4, 4)}
    assert "model.model.0.weight has the shape (0, 3, 4, 4); at least two dimensions" in refused(empty)
    assert "model.model.0.bias is torch.int32" in refused({**wide, "model.model.0.bias": torch.ones(4).int()})
    deep = f"model.model.1{'.model.3' * 15}.model.1.weight"
    assert f"no place for: {deep}" in refused({**meta(lambda: UNet(LEVELS)), deep: torch.ones(1, 1, 4, 4)})


def test_discriminators_are_told_apart() -> None:
    for one in (
        Discriminator(),
        Discriminator(kind="instance"),
        Discriminator(kind="stale"),
        Discriminator(pixels=True),
        Discriminator((8,)),
    ):
        assert "the weights are those of a discriminator, which judges" in refused(one.state_dict())
    layers = {"model.0.weight": torch.zeros(8, 3, 3, 3), "model.2.weight": torch.zeros(3, 8, 3, 3)}
    assert "of no known generator: a U-Net has" in refused(layers)
    assert "there are: model.0.weight, model.2.weight" in refused(layers)
    assert "of no known generator" in refused({"model.0.bias": torch.zeros(8)})


# --- files ----------------------------------------------------------------------------------------------------------

WRAPPERS: dict[str, Callable[[Weights], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "netG": lambda state: {"netG": state, "optimizer": {"state": {}, "param_groups": [{"lr": 2e-4}]}},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "model.": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
    "module._orig_mod.": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["U-Net, batch norm", "9 blocks, instance norm", "1 block, one level, other channels"])
def test_wrappers_are_taken_off(wrapper: str, name: str, tmp_path: Path) -> None:
    state = weights(name)
    torch.save(WRAPPERS[wrapper](state), tmp_path / "a.pth")
    loaded = load_weights(tmp_path / "a.pth", "pix2pix")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_discriminator_is_one(wrapper: str, tmp_path: Path) -> None:
    for one in (Discriminator(), Discriminator(pixels=True)):
        torch.save(WRAPPERS[wrapper](one.state_dict()), tmp_path / "a.pth")
        with pytest.raises(InvalidInputError, match="a discriminator"):
            load_pix2pix(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_formats(kind: str, tmp_path: Path) -> None:
    state = weights("9 blocks, instance norm", torch.float32)
    state["model.1.weight"] = state["model.1.weight"].contiguous(memory_format=torch.channels_last)
    file = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    pipe = load_pix2pix(file)
    assert isinstance(pipe, Pix2PixPipeline)
    assert torch.equal(pipe.generator.conv_in.weight, state["model.1.weight"])
    pipe.save_pretrained(tmp_path / "saved")
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InvalidInputError, match=f"{file.name} is no|{file.name} is not whole"):
        load_pix2pix(file)


class Malicious:
    """Makes a folder when it is unpickled by a reader that runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "a.pth", tmp_path / "mark"
    torch.save({"state_dict": weights("U-Net, batch norm"), "x": Malicious(mark)}, file)
    with pytest.raises(InvalidInputError, match="holds posix.mkdir beside its weights. Reading it could run code"):
        load_pix2pix(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)  # the test can fail: such a reader makes the folder
    assert mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: torch.zeros(1).expand(one.shape), "without a number for each place"),
        (lambda one: one.to_sparse(), "without a number for each place"),
        (lambda one: one * torch.nan, "holds NaN or Inf"),
        (lambda one: one.to(torch.float8_e4m3fn), "weights are floating-point numbers of 16 to 64 bits"),
    ],
    ids=["one number for all", "sparse", "NaN", "8 bits"],
)
def test_weights_that_are_no_numbers_are_refused(
    change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    """A few bytes could state gigabytes of one number."""
    state = weights(next(iter(NETWORKS)), torch.float32)
    name = next(iter(state))
    torch.save({**state, name: change(state[name])}, tmp_path / "net_G.pth")
    with pytest.raises(InvalidInputError, match=message):
        load_pix2pix(tmp_path / "net_G.pth")


def test_a_file_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save({"netG_A": weights("U-Net, batch norm"), "netG_B": weights("U-Net, batch norm")}, file)
    with pytest.raises(InvalidInputError, match="several sets of weights: netG_A, netG_B"):
        load_pix2pix(file)
    torch.save(ADM().weights(), file)
    with pytest.raises(InvalidInputError, match=r"a.pth holds weights of guided-diffusion .* those of Pix2pix"):
        load_pix2pix(file)
    torch.save(weights("U-Net, batch norm"), file)
    with pytest.raises(InvalidInputError, match=r"a.pth holds weights of Pix2pix .* those of guided-diffusion"):
        load_guided_diffusion(file, num_heads=1)


# --- the command ----------------------------------------------------------------------------------------------------


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    file = tmp_path / "latest_net_G.pth"
    torch.save(weights("U-Net, batch norm", torch.float32), file)
    return file


@torch.no_grad()
def test_a_checkpoint_becomes_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "my facades"
    result = run("convert", checkpoint, "-o", folder, "--dropout", 0)
    assert result.exit_code == 0, result.output
    numbers = sum(value.numel() for value in UNet(LEVELS).parameters())
    for line in (
        f"parameters  {numbers:,} (float32)",
        "generator   U-Net of 6 levels",
        "pictures    3 channels to 3, sides in multiples of 64",
        "channels    4, 6, 8, 8, 8, 8",
        "norms       batch norms, over each picture by itself",
        "dropout     none",
        f"diffusers-restore restore photo.png -o out.png --model '{folder}'",
    ):
        assert f"{line}\n" in result.output, result.output
    reference = randomised(UNet(LEVELS), dtype=torch.float32)
    x: Tensor = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(3)) * 2 - 1
    expected = reference(x.clone())
    for cls in (Pix2PixPipeline, DiffusionPipeline):
        pipe = cls.from_pretrained(folder)
        assert type(pipe) is Pix2PixPipeline
        pipe.set_progress_bar_config(disable=True)
        assert float((pipe(x, output_type="latent").images - expected).abs().max()) < 1e-5


def test_the_card_says_where_the_network_is_from(checkpoint: Path, tmp_path: Path) -> None:
    assert run("convert", checkpoint, "-o", tmp_path / "my facades", "--dropout", 0.25).exit_code == 0
    card = ModelCard.load(tmp_path / "my facades" / "README.md")
    assert card.data.library_name == "diffusers"
    assert {"diffusers", "diffusers_restore", "image-to-image", "pix2pix"} <= set(card.data.tags or ())
    assert f"`{hashlib.sha256(checkpoint.read_bytes()).hexdigest()}`" in card.text
    assert "diffusers-restore convert latest_net_G.pth -o 'my facades' --dropout 0.25\n" in card.text
    assert "| dropout | 0.25, in 2 layers |" in card.text
    assert "They are not known to the program that wrote this card." in card.text
    assert str(tmp_path) not in card.text


def test_residual_blocks_are_described(tmp_path: Path) -> None:
    torch.save(weights("9 blocks, instance norm, dropout", torch.float32), tmp_path / "a.pth")
    result = run("convert", tmp_path / "a.pth", "-o", tmp_path / "out")
    assert "generator   9 residual blocks\n" in result.output
    assert "norms       instance norms without weights\n" in result.output
    assert "dropout     0.5, in 9 layers\n" in result.output


def test_what_is_no_picture_is_not_said_to_be_one(tmp_path: Path) -> None:
    torch.save(weights("U-Net, other channels", torch.float32), tmp_path / "a.pth")
    result = run("convert", tmp_path / "a.pth", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "out is ready. It is for tensors in Python" in result.output
    assert "diffusers-restore restore" not in result.output


def test_options_of_the_other_kind_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(ADM().weights(dtype=torch.float32), tmp_path / "adm.pt")
    out = tmp_path / "out"
    for file, words, message in (
        (checkpoint, ("--num-heads", 4), "--num-heads: latest_net_G.pth holds weights of Pix2pix (arXiv:1611.07004)"),
        (checkpoint, ("--num-heads", 4), "whose conversion takes --dropout only"),
        (checkpoint, ("--timesteps", 1000, "--rescale-timesteps"), "--timesteps, --rescale-timesteps: latest_net_G"),
        (tmp_path / "adm.pt", ("--dropout", 0.5), "--dropout: adm.pt holds weights of guided-diffusion"),
        (checkpoint, ("--dropout", -1), "--dropout"),
    ):
        result = run("convert", file, "-o", out, *words)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.output.split())
    result = run("convert", checkpoint, "-o", out, "--dropout", 1)
    assert result.exit_code == 1
    assert "--dropout must be below 1" in result.output
    assert not out.exists()


def test_a_discriminator_is_an_error_of_one_line(tmp_path: Path) -> None:
    torch.save(Discriminator().state_dict(), tmp_path / "latest_net_D.pth")
    result = run("convert", tmp_path / "latest_net_D.pth", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.startswith("Error: the weights are those of a discriminator")
    assert not (tmp_path / "out").exists()


def test_both_kinds_are_recognised(tmp_path: Path) -> None:
    torch.save(ADM().weights(dtype=torch.float32), tmp_path / "a.pth")
    words = ("--num-head-channels", 16, "--image-size", 16)
    result = run("convert", tmp_path / "a.pth", "-o", tmp_path / "out", *words)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
