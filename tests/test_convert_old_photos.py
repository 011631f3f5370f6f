"""Networks of old photographs: converted against our own with the released names, files, folders, the command."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from old_photos_reference import PARTS, VAE, Detector, HighResolution, Mapping, Scratch, randomised, write_checkpoints
from pix2pix_reference import Resnet
from torch import Tensor, nn
from torch.nn import functional

from diffusers_restore import OldPhotoMapping, OldPhotoPipeline, OldPhotoVAE, ScratchDetector, cli
from diffusers_restore.conversion import load_old_photos, load_pix2pix
from diffusers_restore.conversion.checkpoint_files import load_weights, read_checkpoint
from diffusers_restore.conversion.old_photos import convert_old_photo
from diffusers_restore.errors import InvalidInputError, UnknownNameError

WIDTHS = (64, 128, 256, 512, 512)
Make = Callable[[], nn.Module]

# Small, with the configuration that must be found; the published one, its parameters and its name in the material.
NETWORKS: dict[str, tuple[Make, type, dict[str, Any], Make, int, str]] = {
    "vae": (
        VAE,
        OldPhotoVAE,
        {"in_channels": 3, "block_out_channels": (4, 6, 8), "num_blocks": 4},
        lambda: VAE((64, 64, 64)),
        872_131,
        "vae",
    ),
    "quality": (
        Mapping,
        OldPhotoMapping,
        {"latent_channels": 8, "block_out_channels": (6, 8, 10, 10), "num_blocks": 6, "attention": "none"},
        lambda: Mapping(WIDTHS),
        36_135_232,
        "mapping_quality",
    ),
    "scratch": (
        Scratch,
        OldPhotoMapping,
        {"latent_channels": 8, "block_out_channels": (6, 8, 10, 10), "num_blocks": 6, "attention": "partial"},
        lambda: Scratch(WIDTHS),
        51_344_704,
        "mapping_scratch",
    ),
    "scratch-hr": (
        HighResolution,
        OldPhotoMapping,
        {"latent_channels": 8, "block_out_channels": (6, 8, 10, 10), "num_blocks": 6, "attention": "patch"},
        lambda: HighResolution(WIDTHS),
        73_904_448,
        "mapping_Patch_Attention",
    ),
    "detector": (
        Detector,
        ScratchDetector,
        {"block_out_channels": (4, 6, 8, 10, 12)},
        lambda: Detector((64, 128, 256, 512, 1024)),
        37_626_177,
        "scratch_detector",
    ),
}
OTHERS: dict[str, tuple[Make, dict[str, Any]]] = {
    "vae": (lambda: VAE((4, 6), 2, 1), {"in_channels": 1, "block_out_channels": (4, 6), "num_blocks": 2}),
    "quality": (lambda: Mapping((4, 6), 3), {"block_out_channels": (6,), "num_blocks": 3}),
    "scratch": (lambda: Scratch((4, 6, 8), 2), {"block_out_channels": (6, 8), "num_blocks": 2}),
    "scratch-hr": (lambda: HighResolution((4, 6)), {"block_out_channels": (6,)}),
    "detector": (lambda: Detector((4, 6)), {"block_out_channels": (4, 6)}),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def meta(make: Make) -> dict[str, Tensor]:
    """Its weights without their values, but for the blurs."""
    with torch.device("meta"):
        state = make().state_dict()
    taps = torch.tensor([1.0, 2.0, 1.0])
    blur = taps[:, None] * taps / 16
    return {key: blur.expand(value.shape) if "filt" in key else value for key, value in state.items()}


def inputs(name: str, dtype: torch.dtype, channels: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    shape = {"vae": (2, channels or 3, 16, 24), "detector": (2, 1, 32, 64)}.get(name, (2, channels or 8, 16, 24))
    given = [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)]
    if name.startswith("scratch"):
        mask = torch.zeros(2, 1, 16, 24, dtype=dtype)
        mask[0, :, 2:13, 3:17] = 1
        mask[1] = (torch.rand(1, 16, 24, generator=random) < 0.5).to(dtype)
        given.append(mask)
    return [*given, None] if name == "quality" else given


@torch.no_grad()
def difference(name: str, make: Make, dtype: torch.dtype) -> float:
    reference = randomised(make(), dtype=dtype)
    state = reference.state_dict()
    network = convert_old_photo(state)
    assert network.dtype == dtype
    assert not network.training
    given = inputs(name, dtype, {"vae": 1, "detector": 0}.get(name, 4) if make is OTHERS[name][0] else 0)
    made, wanted = network(*given), reference(*given)
    assert wanted.std() > 0.05
    exact = copy.deepcopy(reference).double()(*(one if one is None else one.double() for one in given))
    own = float((wanted - exact).abs().max())  # norms of flat channels magnify rounding, that of the reference, too
    return max(0.0, float((made - exact).abs().max()) - 2 * own) / float(exact.abs().max())


# --- the networks ----------------------------------------------------------------------------------------------------


@networks
@pytest.mark.parametrize("which", ["as published", "of another size"])
def test_the_converted_network_says_the_same(name: str, which: str) -> None:
    make = NETWORKS[name][0] if which == "as published" else OTHERS[name][0]
    assert difference(name, make, torch.float64) < 1e-10
    assert difference(name, make, torch.float32) < (1e-4 if name == "scratch" else 1e-5)  # its channels are nearly flat


@networks
def test_everything_is_inferred(name: str) -> None:
    for make, config in ((NETWORKS[name][0], NETWORKS[name][2]), OTHERS[name]):
        network = convert_old_photo(meta(make))
        assert type(network) is NETWORKS[name][1]
        assert {key: network.config[key] for key in config} == config


@networks
def test_every_weight_has_one_place(name: str) -> None:
    """Outputs can't show it: biases before instance norms have no effect."""
    state = randomised(NETWORKS[name][0]()).state_dict()
    network = convert_old_photo(state)
    publics = {value.data_ptr(): key for key, value in state.items()}
    sources = {new: publics[value.data_ptr()] for new, value in network.state_dict().items()}
    assert sorted(sources.values()) == sorted(key for key in state if not key.endswith("filt"))
    assert all(new.rpartition(".")[2] == public.rpartition(".")[2] for new, public in sources.items())


@torch.no_grad()
@pytest.mark.parametrize("name", ["scratch", "scratch-hr"])
def test_a_mask_of_the_photograph_is_shown_in_the_size_of_the_latents(name: str) -> None:
    reference = randomised(NETWORKS[name][0]())
    (z, _), network = inputs(name, torch.float64), convert_old_photo(reference.state_dict())
    mask = torch.zeros(2, 1, 64, 96, dtype=torch.float64)
    mask[..., 9:30, 17:50] = 1
    small = functional.interpolate(mask, (16, 24), mode="bilinear") > 0
    if name == "scratch":
        small = small | (functional.interpolate(mask, (16, 24)) > 0)
    assert float((network(z, mask) - reference(z, small.double())).abs().max()) < 1e-10


# --- the released networks, by their shapes --------------------------------------------------------------------------


@networks
def test_released_networks_have_their_numbers_of_parameters(name: str) -> None:
    network = convert_old_photo(meta(NETWORKS[name][3]))
    assert sum(value.numel() for value in network.parameters()) == NETWORKS[name][4]
    attention = {"attention": network.config.attention} if type(network) is OldPhotoMapping else {}
    with torch.device("meta"):
        assert type(network)(**attention).config == network.config  # those of the paper are the defaults


@networks
def test_released_names_and_shapes(name: str, shared: Path) -> None:
    keys = json.loads((shared / "golden" / "gan" / "oldphoto_state_dict_keys.json").read_text())[NETWORKS[name][5]]
    ours = meta(NETWORKS[name][3])
    assert {key: tuple(shape) for key, shape, _ in keys} == {key: tuple(value.shape) for key, value in ours.items()}
    published = {
        key: ours[key] if key.endswith("filt") else torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, shape, dtype in keys
    }
    assert sum(value.numel() for value in convert_old_photo(published).parameters()) == NETWORKS[name][4]


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(state: dict[str, Tensor]) -> str:
    with pytest.raises(InvalidInputError) as caught:
        convert_old_photo(state)
    return str(caught.value)


@networks
def test_any_missing_or_misshapen_weight_is_named(name: str) -> None:
    whole = meta(NETWORKS[name][0])
    for key, value in whole.items():
        if key.endswith("filt"):
            continue
        assert f"the checkpoint lacks {key}" in refused({one: whole[one] for one in whole if one != key})
        message = refused({**whole, key: torch.empty((*value.shape, 2), device="meta")})
        assert f"{key} has the shape {(*value.shape, 2)}, where" in message
        assert f"needs {tuple(value.shape)} for " in message
    assert "has no place for: betas" in refused({**whole, "betas": torch.zeros(1)})
    first = next(key for key in whole if key.endswith("weight"))
    assert f"{first} is torch.int32" in refused({**whole, first: torch.ones(whole[first].shape).int()})


def test_another_blur_is_refused() -> None:
    state = randomised(Detector()).state_dict()
    name = "down_sample.1.4.filt"
    for wrong in (torch.full((6, 1, 3, 3), 1 / 9), torch.ones(6, 1, 4, 4) / 16, 2 * state[name]):
        assert f"{name} is another blur than [1, 2, 1] / 4" in refused({**state, name: wrong})


def test_other_networks_are_refused() -> None:
    message = refused(Resnet((4, 6, 8), 2).state_dict())
    assert message.startswith("the weights are of no network of Bringing Old Photos Back to Life: an autoencoder has")
    assert "there are: model.1.weight" in message


# --- files -----------------------------------------------------------------------------------------------------------


@networks
def test_files_are_recognised(name: str, tmp_path: Path) -> None:
    state, file = randomised(NETWORKS[name][0]()).state_dict(), tmp_path / "a.pth"
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    for content in (
        state,
        {"model_state": state, "epoch": 3, "optimizer_state": optimizer},
        {"model_state": state, "random_states": {"cpu": torch.get_rng_state()}},
        {f"module.{key}": value for key, value in state.items()},
        {"state_dict": {f"model.{key}": value for key, value in state.items()}},
    ):
        torch.save(content, file)
        found = read_checkpoint(file)
        assert found.family == "old-photos"
        assert found.weights.keys() == state.keys()
    torch.save({"a": state, "b": state}, file)
    with pytest.raises(InvalidInputError, match="several sets of weights: a, b"):
        read_checkpoint(file)
    torch.save(state, file)
    with pytest.raises(InvalidInputError, match=r"a.pth holds weights of Bringing Old .* those of Pix2pix"):
        load_pix2pix(file)


def test_generators_of_pix2pix_are_still_told_apart(tmp_path: Path) -> None:
    torch.save(Resnet((4, 6, 8), 9).state_dict(), tmp_path / "a.pth")  # it has a model.12.conv_block, too
    assert read_checkpoint(tmp_path / "a.pth").family == "pix2pix"
    with pytest.raises(InvalidInputError, match=r"a.pth holds weights of Pix2pix .* those of Bringing Old Photos"):
        load_weights(tmp_path / "a.pth", "old-photos")


OF_ROUTES = {"quality": (0, 3, 1), "scratch": (0, 4, 2), "scratch-hr": (0, 5, 2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoints(tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def reference(which: int) -> Any:
    return randomised(list(PARTS.values())[which](), which, torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("route", OF_ROUTES)
def test_a_folder_becomes_a_pipeline(route: Any, folder: Path) -> None:
    pipe = load_old_photos(folder, route)
    pipe.set_progress_bar_config(disable=True)
    encoder, mapping, decoder = (reference(which) for which in OF_ROUTES[route])
    random = torch.Generator().manual_seed(0)
    x, mask = 2 * torch.rand(1, 3, 64, 96, generator=random) - 1, torch.zeros(1, 1, 64, 96)
    mask[..., 20:24, 30:70] = 1
    if route == "quality":
        expected = decoder.decoder(mapping(encoder.encoder(x), None))
        assert pipe.scratch_detector is None
        made = pipe(x, output_type="latent").images
    else:
        grown = functional.max_pool2d(mask, 7, 1, 3) if route == "scratch-hr" else mask
        small = (functional.interpolate(grown, (16, 24), mode="bilinear") > 0).float()
        expected = decoder.decoder(mapping(encoder.encoder(torch.where(grown.bool(), torch.ones(()), x)), small))
        made = pipe(x, mask=mask, output_type="latent").images
        assert (pipe.config.detection_size, pipe.config.threshold) == (256, 0.4)
        pipe.register_to_config(detection_size=64)
        found = pipe(x, threshold=0.5).scratch_mask
        luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * x).sum(dim=1, keepdim=True)
        assert (found != (reference(6)(luma).sigmoid() >= 0.5).float()).float().mean() < 0.01
        (folder / "detection" / "FT_Epoch_latest.pt").unlink()
        assert load_old_photos(str(folder), route).scratch_detector is None
    assert float((made - expected).abs().max()) < 1e-3


def test_files_that_are_not_there_or_in_the_wrong_place_are_named(folder: Path) -> None:
    mapping = folder / "restoration/mapping_scratch/latest_net_mapping_net.pth"
    other = (folder / "restoration/mapping_quality/latest_net_mapping_net.pth").read_bytes()
    right = mapping.read_bytes()
    for content, message in (
        (other, "mapping_scratch/latest_net_mapping_net.pth is a mapping with attention 'none'; the route 'scratch'"),
        (right[:-3000], "restoration/mapping_scratch/latest_net_mapping_net.pth: latest_net_mapping_net.pth is not wh"),
        (
            (folder / "restoration/VAE_A_quality/latest_net_G.pth").read_bytes(),
            "latest_net_mapping_net.pth holds an OldPhotoVAE; an OldPhotoMapping was expected",
        ),
    ):
        mapping.write_bytes(content)
        with pytest.raises(InvalidInputError, match=message):
            load_old_photos(folder, "scratch")
    mapping.unlink()
    (folder / "restoration/VAE_B_scratch/latest_net_G.pth").unlink()
    with pytest.raises(InvalidInputError) as caught:
        load_old_photos(folder, "scratch")
    assert (
        "there is no restoration/mapping_scratch/latest_net_mapping_net.pth, no restoration/VAE_B_scratch/latest_net_G"
        f".pth in {str(folder)!r}, which the route 'scratch' needs" in str(caught.value)
    )
    load_old_photos(folder)
    with pytest.raises(InvalidInputError, match=r"there is no folder '.*nowhere'"):
        load_old_photos(folder / "nowhere")
    with pytest.raises(UnknownNameError, match="no route named 'best'; there are: quality, scratch, scratch-hr"):
        load_old_photos(folder, "best")  # type: ignore[arg-type]


# --- the command -----------------------------------------------------------------------------------------------------


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def test_the_folder_is_converted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "my photos"
    result = run("convert", folder, "-o", out, "--route", "scratch")
    assert result.exit_code == 0, result.output
    pipe = DiffusionPipeline.from_pretrained(out)
    assert type(pipe) is OldPhotoPipeline
    numbers = sum(value.numel() for part in (VAE(), VAE(), Scratch(), Detector()) for value in part.parameters())
    for line in (
        f"parameters  {numbers:,} (float32)",
        "pictures    3 channels, sides in multiples of 4",
        "latents     8 channels, a 4th of the sides",
        "mapping     6, 8, 10, 10 channels, 6 residual blocks",
        "attention   to all pixels that no mask hides",
        "detector    U-Net of 5 levels",
        f"diffusers-restore restore photo.png -o out.png --model '{out}'",
    ):
        assert f"{line}\n" in result.output, result.output
    card = ModelCard.load(out / "README.md")
    assert {"diffusers", "diffusers_restore", "image-to-image", "old-photos"} <= set(card.data.tags or ())
    for which in (0, 4, 2, 6):
        name = list(PARTS)[which]
        assert f"| `{name}` | `{hashlib.sha256((folder / name).read_bytes()).hexdigest()}` |" in card.text
    assert "VAE_B_quality" not in card.text
    assert "diffusers-restore convert checkpoints -o 'my photos' --route scratch\n" in card.text
    assert "released under the MIT License" in card.text
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(cli.main, ["convert", ".", "-o", str(tmp_path / "again"), "--route", "scratch"])
    assert result.exit_code == 0, result.output
    assert (
        f"diffusers-restore convert {folder.name} -o again --route scratch\n"
        in (tmp_path / "again" / "README.md").read_text()
    )
    assert str(tmp_path) not in card.text


def test_what_a_route_lacks_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "detection/FT_Epoch_latest.pt").unlink()
    result = run("convert", folder, "-o", tmp_path / "hr", "--route", "scratch-hr")
    assert result.exit_code == 0, result.output
    assert "attention   to patches that no mask hides\n" in result.output
    assert "detector    none: a mask is needed\n" in result.output
    assert f"restore photo.png -o out.png --mask mask.png --model {tmp_path / 'hr'}" in result.output
    assert "pipe(picture, mask=mask)" in (tmp_path / "hr" / "README.md").read_text()
    result = run("convert", folder, "-o", tmp_path / "plain", "--route", "quality")
    assert "attention   none: it takes no mask\n" in result.output
    assert "detector" not in result.output


def test_wrong_options_are_refused(folder: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", folder / "restoration/VAE_A_quality/latest_net_G.pth"
    for words, status, message in (
        (
            (folder,),
            1,
            "is a folder; a checkpoint file (.pt, .pth, .bin, .ckpt, .safetensors) is expected, or a --route",
        ),
        (
            (file,),
            1,
            "latest_net_G.pth is one of several networks of Bringing Old Photos Back to Life (arXiv:2004.09484)",
        ),
        ((file,), 1, "give the folder `checkpoints` that holds them, with --route"),
        ((file, "--route", "quality"), 1, f"there is no folder {str(file)!r}"),
        ((folder, "--route", "best"), 2, "'best' is not one of 'quality', 'scratch', 'scratch-hr'"),
        ((folder, "--route", "quality", "--dropout", 0), 2, "--dropout: checkpoints is taken for the folder of old"),
        ((tmp_path, "--route", "quality"), 1, "there is no restoration/VAE_A_quality/latest_net_G.pth, no"),
    ):
        result = run("convert", *words, "-o", out)
        assert result.exit_code == status, result.output
        assert message in " ".join(result.output.split())
        assert not out.exists()
    torch.save(Resnet((4, 6, 8), 2).state_dict(), tmp_path / "a.pth")
    result = run("convert", tmp_path / "a.pth", "-o", out, "--route", "quality")
    assert result.exit_code == 1
    assert "there is no folder" in result.output
