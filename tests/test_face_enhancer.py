"""The network for faces: its size, what it computes, and the weights of the released one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from old_photos_reference import write_checkpoints
from torch import Tensor, nn
from torch.nn import functional

from diffusers_restore import FaceEnhancer
from diffusers_restore.conversion import load_old_photos
from diffusers_restore.conversion.faces import convert_face_enhancer
from diffusers_restore.conversion.old_photos import describe_old_photos, files_of_route
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.models.face_enhancer import SpatialNorm

WIDTHS = (4, 4, 6, 8, 10)  # two alike: a block without a shortcut


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Random numbers in the place of weights; variances are positive and counters whole."""
    made = {}
    for i, (name, value) in enumerate(state.items()):
        if not value.is_floating_point():
            made[name] = torch.tensor(7)
        else:
            numbers = normal(*value.shape, seed=1000 * seed + i)
            # Of the last layer small ones, so that tanh hides nothing.
            scale = 0.05 if name in ("conv_img.weight", "conv_out.weight") else 0.7
            made[name] = 0.5 + numbers.abs() if name.endswith("var") else scale * numbers * value[0].numel() ** -0.5
    return made


def small(**config: Any) -> Any:
    network = FaceEnhancer(**{"sample_size": 32, "block_out_channels": WIDTHS, "hidden_channels": 5, **config}).double()
    network.load_state_dict(filled(network.state_dict()))
    return network.eval()


# --- the released network, with the names of its weights and torch's spectral norm ------------------------------------


def spectral(*arguments: int, **options: Any) -> nn.Module:
    return nn.utils.spectral_norm(nn.Conv2d(*arguments, **options))


class ReferenceNorm(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(3, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, whole: Tensor) -> Tensor:
        face = self.mlp_shared(functional.interpolate(whole, size=x.shape[2:], mode="bilinear"))
        normalized = self.param_free_norm(x)
        return normalized + normalized * self.mlp_gamma(face) + self.mlp_beta(face)


class ReferenceBlock(nn.Module):
    def __init__(self, here: int, there: int, hidden: int) -> None:
        super().__init__()
        least = min(here, there)
        self.conv_0, self.conv_1 = spectral(here, least, 3, padding=1), spectral(least, there, 3, padding=1)
        self.norm_0, self.norm_1 = ReferenceNorm(here, hidden), ReferenceNorm(least, hidden)
        if here != there:
            self.conv_s, self.norm_s = spectral(here, there, 1, bias=False), ReferenceNorm(here, hidden)

    def forward(self, x: Tensor, whole: Tensor) -> Tensor:
        rectify = nn.LeakyReLU(0.2)
        straight = self.conv_s(self.norm_s(x, whole)) if hasattr(self, "conv_s") else x
        return straight + self.conv_1(rectify(self.norm_1(self.conv_0(rectify(self.norm_0(x, whole))), whole)))


class Reference(nn.Module):
    def __init__(self, widths: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        fine = widths[::-1]
        self.fc = nn.Conv2d(3, fine[0], 3, padding=1)
        self.head_0, self.G_middle_0, self.G_middle_1 = (ReferenceBlock(fine[0], fine[0], hidden) for _ in range(3))
        for i in range(4):
            self.add_module(f"up_{i}", ReferenceBlock(fine[i], fine[i + 1], hidden))
        self.conv_img = nn.Conv2d(fine[-1], 3, 3, padding=1)

    def forward(self, face: Tensor) -> Tensor:
        double = nn.Upsample(scale_factor=2)
        x = self.fc(functional.interpolate(face, size=[side // 32 for side in face.shape[2:]], mode="bilinear"))
        x = double(self.head_0(x, face))
        x = self.G_middle_1(self.G_middle_0(x, face), face)
        for i in range(4):
            x = getattr(self, f"up_{i}")(double(x), face)
        return torch.tanh(self.conv_img(functional.leaky_relu(x, 0.2)))


def reference(dtype: torch.dtype = torch.float64, steps: int = 3) -> Reference:
    """Its vectors u and v are those after a few steps of training."""
    network = Reference(WIDTHS, 5)
    network.load_state_dict(filled(network.state_dict(), seed=1))
    network = network.double().train()
    with torch.no_grad():
        for i in range(steps):
            network(normal(2, 3, 32, 64, seed=i))
    return network.to(dtype).eval()


# --- the network ------------------------------------------------------------------------------------------------------


def test_it_has_as_many_parameters_as_the_published_one() -> None:
    with torch.device("meta"):
        for size in (256, 512):
            network = FaceEnhancer(sample_size=size)
            assert sum(one.numel() for one in network.parameters()) == 92_059_587
            assert network.size_multiple == 32


def test_the_count_is_that_of_the_shared_material(shared: Path) -> None:
    counts = json.loads((shared / "golden" / "gan" / "oldphoto_face_param_counts.json").read_text())
    assert set(counts.values()) == {92_059_587}


def test_the_sizes_of_what_comes_out() -> None:
    with torch.device("meta"):
        network = FaceEnhancer().eval()
        assert network(torch.empty(2, 3, 256, 256)).shape == (2, 3, 256, 256)
        assert network(torch.empty(1, 3, 512, 544)).shape == (1, 3, 512, 544)
    shallow = small(sample_size=8, block_out_channels=(4, 6))
    assert shallow.size_multiple == 4
    assert shallow(normal(1, 3, 8, 12)).shape == (1, 3, 8, 12)
    assert shallow(normal(1, 3, 8, 12)).abs().max() <= 1


def test_a_norm_is_its_formula() -> None:
    norm = SpatialNorm(4, 5).double()
    norm.load_state_dict(filled(norm.state_dict()))
    norm.eval()
    x, face = normal(2, 4, 6, 7), normal(2, 3, 6, 7, seed=1)
    mean, variance = (one[None, :, None, None] for one in (norm.norm.running_mean, norm.norm.running_var))
    seen = functional.relu(norm.conv_in(face))
    wanted = (x - mean) / (variance + 1e-5).sqrt() * (1 + norm.conv_scale(seen)) + norm.conv_shift(seen)
    assert (norm(x, face) - wanted).abs().max() < 1e-12
    assert not torch.allclose(norm(x, face), norm(x, face.flip(3)))


def test_a_batch_is_its_faces() -> None:
    network, faces = small(), normal(3, 3, 32, 64)
    whole = network(faces)
    for i in range(3):
        assert (network(faces[i : i + 1]) - whole[i : i + 1]).abs().max() < 1e-12


def test_every_weight_matters() -> None:
    network, face = small(), normal(2, 3, 32, 32)
    network(face).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    network, face = small().float(), normal(1, 3, 32, 32).float()
    network.save_pretrained(tmp_path)
    assert (tmp_path / "diffusers_restore.py").is_file()
    loaded = FaceEnhancer.from_pretrained(tmp_path)
    assert torch.equal(loaded(face), network(face))
    assert (tuple(loaded.config.block_out_channels), loaded.config.sample_size) == (WIDTHS, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_out_channels": ()}, "block_out_channels must name the channels"),
        ({"block_out_channels": (4, 0)}, "block_out_channels must be a whole number >= 1, got 0"),
        ({"hidden_channels": 0}, "hidden_channels must be a whole number >= 1, got 0"),
        ({"sample_size": 250}, "sample_size must be a multiple of 32 for 5 levels, got 250"),
        ({"sample_size": None}, "sample_size must be a whole number >= 1, got None"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(InvalidInputError, match=message):
        FaceEnhancer(**arguments)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (torch.zeros(1, 1, 32, 32), r"sample must be \(B, 3, H, W\), got \(1, 1, 32, 32\)"),
        (torch.zeros(3, 32, 32), r"sample must be \(B, 3, H, W\), got \(3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 40), r"sides that are multiples of 32, got \(1, 3, 32, 40\)"),
        (torch.zeros(1, 3, 0, 32), r"sides that are multiples of 32, got \(1, 3, 0, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "sample must be floats"),
    ],
)
def test_what_does_not_fit_is_refused(sample: Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        small()(sample)


# --- its released weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_converted_network_computes_what_the_released_one_does(dtype: torch.dtype, limit: float) -> None:
    theirs, face = reference(dtype), normal(2, 3, 64, 32, seed=9).to(dtype)
    ours = convert_face_enhancer(theirs.state_dict())
    assert not ours.training
    assert ours.dtype == dtype
    assert ours.config.block_out_channels == WIDTHS
    with torch.no_grad():
        wanted, made = theirs(face), ours(face)
    assert wanted.std() > 0.1
    assert wanted.abs().mean() < 0.7
    assert (made - wanted).abs().max() <= limit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_spectral_norms_go_into_the_weights_to_the_bit(dtype: torch.dtype) -> None:
    theirs = reference(dtype)
    ours = convert_face_enhancer(theirs.state_dict())
    theirs(torch.zeros(1, 3, 32, 32, dtype=dtype))  # makes its weights
    pairs = [(ours.head_block, theirs.head_0), (ours.up_blocks[3], theirs.up_3), (ours.up_blocks[0], theirs.up_0)]
    for block, released in pairs:
        assert torch.equal(block.conv1.weight, released.conv_0.weight)
        assert torch.equal(block.conv2.weight, released.conv_1.weight)
        assert not torch.allclose(block.conv2.weight, released.conv_1.weight_orig)
    assert torch.equal(ours.up_blocks[0].conv_shortcut.weight, theirs.up_0.conv_s.weight)
    assert ours.up_blocks[3].conv_shortcut is None


def test_weights_in_half_precision_are_divided_in_single() -> None:
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in reference().state_dict().items()
    }
    single = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    ours, wanted = convert_face_enhancer(state), convert_face_enhancer(single)
    assert ours.dtype == torch.float16
    for name, value in ours.state_dict().items():
        assert torch.equal(value, wanted.state_dict()[name].to(value.dtype)), name


def test_the_state_is_left_as_it_was_and_counters_may_be_missing() -> None:
    theirs = reference()
    state = theirs.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    ours = convert_face_enhancer(state, sample_size=512)
    assert ours.config.sample_size == 512
    assert ours.head_block.norm1.norm.num_batches_tracked == 10  # 7, and three steps
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    without = convert_face_enhancer({name: value for name, value in state.items() if not name.endswith("tracked")})
    assert without.head_block.norm1.norm.num_batches_tracked == 0
    face = normal(1, 3, 32, 32)
    assert torch.equal(without(face), ours(face))


def test_the_released_names_are_those_of_the_shared_material(shared: Path) -> None:
    keys = json.loads((shared / "golden" / "gan" / "oldphoto_face_state_dict_keys.json").read_text())
    released = {name: (tuple(shape), kind) for name, shape, kind in keys["spade_generator"]}
    with torch.device("meta"):
        published = Reference((64, 128, 256, 512, 1024), 128).state_dict()
    assert {name: (tuple(one.shape), str(one.dtype)[6:]) for name, one in published.items()} == released
    state = {
        name: torch.ones(shape, dtype=getattr(torch, kind))
        if name.endswith(("_u", "_v")) or not shape
        # One number in memory for each, or this would take 400 MB.
        else torch.ones(1, dtype=getattr(torch, kind)).expand(shape)
        for name, (shape, kind) in released.items()
    }
    network = convert_face_enhancer(state)
    assert network.config.block_out_channels == (64, 128, 256, 512, 1024)
    assert network.config.hidden_channels == 128
    assert sum(one.numel() for one in network.parameters()) == 92_059_587
    assert network.up_blocks[3].conv1.weight[0, 0, 0, 0] == 1 / (64 * 128 * 9)  # sigma of ones


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {one: value for one, value in state.items() if one != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "up_2.conv_s.weight_v"), "the checkpoint lacks up_2.conv_s.weight_v"),
        (lambda s: without(s, "fc.weight"), "the checkpoint lacks fc.weight"),
        (lambda s: without(s, "up_0.norm_s.mlp_beta.bias"), "the checkpoint lacks up_0.norm_s.mlp_beta.bias"),
        (
            lambda s: without(s, "up_1.norm_0.param_free_norm.running_var"),
            "the checkpoint lacks up_1.norm_0.param_free_norm.running_var",
        ),
        (
            lambda s: s | {"up_4.conv_0.bias": torch.zeros(4)},
            "holds weights that FaceEnhancer has no place for: up_4.conv_0.bias",
        ),
        (
            lambda s: s | {"up_3.conv_s.weight_orig": torch.zeros(4, 4, 1, 1)},
            "holds weights that FaceEnhancer has no place for: up_3.conv_s.weight_orig",
        ),
        (
            lambda s: s | {"head_0.conv_0.weight_u": torch.zeros(9)},
            r"head_0.conv_0.weight_u has the shape \(9,\), where FaceEnhancer needs \(10,\)",
        ),
        (
            lambda s: s | {"head_0.conv_0.weight_v": torch.zeros(9)},
            r"head_0.conv_0.weight_v has the shape \(9,\), where FaceEnhancer needs \(90,\)",
        ),
        (
            lambda s: s | {"up_0.norm_s.mlp_gamma.weight": torch.zeros(10, 5, 1, 1)},
            r"up_0.norm_s.mlp_gamma.weight has the shape \(10, 5, 1, 1\), where FaceEnhancer needs \(10, 5, 3, 3\)",
        ),
        (
            lambda s: s | {"up_0.conv_0.weight_orig": torch.zeros(8, 10, 1, 3)},
            r"up_0.conv_0.weight_orig has the shape \(8, 10, 1, 3\)",
        ),
        (lambda s: s | {"fc.weight": torch.zeros(10)}, r"fc.weight has the shape \(10,\); at least two dimensions"),
        (lambda s: s | {"fc.bias": torch.zeros(10, dtype=torch.int64)}, "fc.bias is torch.int64"),
        (
            lambda s: s | {"up_1.conv_1.weight_u": torch.zeros(6, dtype=torch.float64)},
            "up_1.conv_1.weight_orig has the spectral norm 0; a finite one other than 0 was expected",
        ),
        (
            lambda s: s | {"up_1.conv_1.weight_u": torch.full((6,), torch.nan)},
            "up_1.conv_1.weight_orig has the spectral norm nan",
        ),
    ],
)
def test_other_weights_are_refused_by_name(change: Callable[[dict[str, Tensor]], Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        convert_face_enhancer(change(dict(reference(steps=1).state_dict())))


@torch.no_grad()
@pytest.mark.parametrize(
    ("route", "name", "size"), [("quality", "Setting_9_epoch_100", 256), ("scratch-hr", "FaceSR_512", 512)]
)
def test_the_folder_of_the_published_code_has_its_faces(route: Any, name: str, size: int, tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "Global" / "checkpoints")
    assert load_old_photos(tmp_path, route).face_enhancer is None
    file = tmp_path / "Face_Enhancement" / "checkpoints" / name / "latest_net_G.pth"
    file.parent.mkdir(parents=True)
    theirs = reference(torch.float32)
    torch.save(theirs.state_dict(), file)
    pipe = load_old_photos(tmp_path, route)
    assert pipe.face_enhancer.config.sample_size == size
    face = normal(1, 3, 32, 32).float()
    assert (pipe.face_enhancer(face) - theirs(face)).abs().max() < 1e-6
    assert files_of_route(tmp_path, route)["face_enhancer"] == file
    assert describe_old_photos(pipe)["faces"] == f"of {size} pixels"
    torch.save({"G_middle_0.conv_0.bias": torch.zeros(1)}, file)
    with pytest.raises(InvalidInputError, match=rf"Face_Enhancement/checkpoints/{name}/latest_net_G.pth: .*lacks"):
        load_old_photos(tmp_path, route)
