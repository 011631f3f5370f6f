"""The generators and the discriminator of Pix2pix: sizes, receptive fields, norms, noise, refusals."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_generator
from torch import Tensor, nn
from torch.nn import functional

from diffusers_restore import PatchDiscriminator, ResnetGenerator, UNetGenerator
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.models.image_translator import ImageTranslator, initialise
from diffusers_restore.training.config import DataConfig
from diffusers_restore.training.pix2pix.config import MULTIPLES, GeneratorConfig, TranslationConfig
from diffusers_restore.training.pix2pix.networks import make_discriminator
from diffusers_restore.training.pix2pix.networks import make_generator as new_generator

DATA = DataConfig(train_data_dir="anywhere", resolution=256)
GENERATORS = ("unet_256", "unet_128", "resnet_9", "resnet_6")
kinds = pytest.mark.parametrize("kind", [UNetGenerator, ResnetGenerator])


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pictures(*shape: int, seed: int = 5) -> Tensor:
    return 2 * torch.rand(shape, generator=seeded(seed)[0], dtype=torch.float64) - 1


def generator_of(name: str) -> ImageTranslator:
    with torch.device("meta"):
        return new_generator(GeneratorConfig(generator=name), DATA, 0)


def count(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def without_weights(network: Any) -> Any:
    """The network whose norms have none, as published for instance norm."""
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    with torch.device("meta"):
        return type(network)(**{**config, "norm_affine": False})


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "batch", "instance"),
    [
        ("unet_256", 54_413_955, 54_409_603),
        ("unet_128", 41_828_995, 41_825_667),
        ("resnet_9", 11_383_427, 11_378_179),
        ("resnet_6", 7_841_411, 7_837_699),
    ],
)
def test_a_generator_has_as_many_parameters_as_the_published_one(name: str, batch: int, instance: int) -> None:
    network = generator_of(name)
    assert (count(network), count(without_weights(network))) == (batch, instance)


@pytest.mark.parametrize(
    ("name", "batch", "instance", "field", "logits"),
    [
        ("pixel", 9_024, 8_897, 1, 256),
        ("16", 139_585, 139_457, 16, 126),
        ("70", 2_768_705, 2_767_809, 70, 30),
        ("286", 11_159_361, 11_157_441, 286, 6),
    ],
)
def test_a_discriminator_is_as_large_as_the_published_one(
    name: str, batch: int, instance: int, field: int, logits: int
) -> None:
    with torch.device("meta"):
        network = make_discriminator(TranslationConfig(discriminator=name), 6, 0)
        assert network(torch.empty(2, 6, 256, 256)).shape == (2, 1, logits, logits)
    assert (count(network), count(without_weights(network))) == (batch, instance)
    assert network.receptive_field == field


def test_the_counts_are_those_of_the_shared_material(shared: Path) -> None:
    counts = json.loads((shared / "golden" / "gan" / "pix2pix_param_counts.json").read_text())
    of = {"unet_256": "unet_256", "unet_128": "unet_128", "resnet_9": "resnet_9blocks", "resnet_6": "resnet_6blocks"}
    for name, key in of.items():
        network = generator_of(name)
        assert count(network) == counts[f"{key}/batch"]
        assert count(without_weights(network)) == counts[f"{key}/instance"]
    for name, key in {"pixel": "D_pixel_1x1", "16": "D_n1_rf16", "70": "D_n3_rf70", "286": "D_n5_rf286"}.items():
        with torch.device("meta"):
            network = make_discriminator(TranslationConfig(discriminator=name), 6, 0)
        assert count(network) == counts[f"{key}/batch"]
        assert count(without_weights(network)) == counts[f"{key}/instance"]
    with torch.device("meta"):
        one_to_two = UNetGenerator(in_channels=1, out_channels=2)
        alone = PatchDiscriminator(3)
    assert count(one_to_two) == counts["unet_256/batch in1 out2 (colorization)"]
    assert count(alone) == counts["D_n3_rf70/batch in3 (unconditional)"]


@pytest.mark.parametrize("name", GENERATORS)
def test_pictures_come_out_as_large_as_they_go_in(name: str) -> None:
    network = generator_of(name)
    multiple = network.size_multiple
    assert multiple == MULTIPLES[name]
    with torch.device("meta"):
        for height, width in ((256, 256), (256, 512), (2 * multiple + 256 % multiple, 4 * multiple)):
            assert network(torch.empty(2, 3, height, width)).sample.shape == (2, 3, height, width)


@pytest.mark.parametrize("name", ["pixel", "16", "70", "286"])
def test_a_logit_depends_on_as_many_pixels_as_it_says(name: str) -> None:
    """By gradient, without norms, which see the whole picture."""
    config = TranslationConfig(discriminator=name, discriminator_channels=2)
    network = make_discriminator(config, 2, 0).double()
    network.norms = nn.ModuleList(nn.Identity() for _ in network.norms)
    side = 2 * network.receptive_field + 30
    x = pictures(1, 2, side, side).requires_grad_()
    logits = network(x)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    seen = gradient.abs().sum(dim=(0, 1)) > 0
    for axis in (0, 1):
        found = seen.any(dim=1 - axis).nonzero()
        assert int(found.max() - found.min()) + 1 == network.receptive_field


@pytest.mark.parametrize("name", ["pixel", "16", "70", "286"])
def test_the_smallest_picture_of_a_discriminator(name: str) -> None:
    network = make_discriminator(TranslationConfig(discriminator=name, discriminator_channels=2), 2, 0)
    size, logits = network.min_size, 2 if name == "pixel" else 1
    assert network(torch.zeros(1, 2, size, size)).shape == (1, 1, logits, logits)
    message = f"sides of {size} pixels or more for patches of {network.receptive_field}, got"
    with pytest.raises(InvalidInputError, match=message):
        network(torch.zeros(1, 2, size, size - 1))


# --- norms ----------------------------------------------------------------------------------------------------------


def with_batch_norm(network: nn.Module) -> nn.Module:
    """The network as it was published: batch norm in training mode, which takes its statistics from the batch."""
    made = copy.deepcopy(network)
    for parent in list(made.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                norm = nn.BatchNorm2d(child.num_channels, dtype=torch.float64)
                norm.load_state_dict({**norm.state_dict(), **child.state_dict()})
                setattr(parent, name, norm.train())
    return made


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: make_generator(UNetGenerator, dropout=0.0),
    "resnet": lambda: make_generator(ResnetGenerator, dropout=0.0),
    "discriminator": lambda: PatchDiscriminator(3, (8, 16, 16)),
    "pixels": lambda: PatchDiscriminator(3, (8, 16), kernel_size=1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norm_of_one_picture_is_the_affine_norm(name: str) -> None:
    network = NETWORKS[name]().double()
    published = with_batch_norm(network)
    assert count(published) == count(network)
    x = pictures(2, 3, 32, 48)
    with torch.no_grad():
        both = network(x)
        for i in range(2):
            of_one = published(x[i : i + 1])
            one, whole = (each if isinstance(each, Tensor) else each.sample for each in (of_one, both))
            assert (one - whole[i : i + 1]).abs().max() < 1e-12
        # Of two pictures at once they differ, which is why batches need the other one.
        together = published(x)
        together = together if isinstance(together, Tensor) else together.sample
        assert (together - whole).abs().max() > 1e-5


@kinds
def test_a_bias_before_a_norm_without_weights_does_nothing(kind: type[Any]) -> None:
    """So that norms without weights lose nothing by having it."""
    network = make_generator(kind, dropout=0.0, norm_affine=False).double()
    names = {name for name, _ in network.named_parameters()}
    assert not [name for name in names if "norm" in name]
    x = pictures(1, 3, 16, 16)
    with torch.no_grad():
        before = network(x).sample
        network.up_convs[0].bias.add_(3.0)
        assert (network(x).sample - before).abs().max() < 1e-11


# --- the U-Net, written out ------------------------------------------------------------------------------------------


def test_the_unet_is_what_its_docstring_says() -> None:
    network = make_generator(UNetGenerator).double()
    x = pictures(2, 3, 16, 32)
    noise = network.draw_noise(2, 16, 32, seeded(1, 2))
    w = dict(network.named_parameters())

    def norm(y: Tensor, name: str) -> Tensor:
        mean, deviation = (
            y.mean(dim=(2, 3), keepdim=True),
            (y.var(dim=(2, 3), keepdim=True, correction=0) + 1e-5).sqrt(),
        )
        return (y - mean) / deviation * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def down(y: Tensor, k: int) -> Tensor:
        return functional.conv2d(y, w[f"down_convs.{k}.weight"], stride=2, padding=1)

    def up(y: Tensor, name: str, bias: Tensor | None = None) -> Tensor:
        return functional.conv_transpose2d(y.clamp_min(0), w[f"{name}.weight"], bias, stride=2, padding=1)

    def leaky(y: Tensor) -> Tensor:
        return torch.where(y > 0, y, 0.2 * y)

    x0 = down(x, 0)
    x1 = norm(down(leaky(x0), 1), "down_norms.0")
    x2 = norm(down(leaky(x1), 2), "down_norms.1")
    x3 = down(leaky(x2), 3)
    # Widths 8, 16, 16, 16: the one level whose width stays, and that isn't the coarsest, has dropout.
    y2 = norm(up(x3, "up_convs.2"), "up_norms.2")
    y1 = norm(up(torch.cat([x2, y2], 1), "up_convs.1"), "up_norms.1") * noise[0]
    y0 = norm(up(torch.cat([x1, y1], 1), "up_convs.0"), "up_norms.0")
    expected = up(torch.cat([x0, y0], 1), "conv_out", w["conv_out.bias"]).tanh()
    assert len(noise) == 1
    assert (network(x, noise).sample - expected).abs().max() < 1e-12


# --- noise ----------------------------------------------------------------------------------------------------------


def test_where_the_noise_is() -> None:
    """In decoder layers 2 to 4 of the U-Net, and in each block of the other."""
    assert generator_of("unet_256").noise_shapes(256, 512) == [(512, 4, 8), (512, 8, 16), (512, 16, 32)]
    assert generator_of("unet_128").noise_shapes(128, 128) == [(512, 4, 4), (512, 8, 8)]
    assert generator_of("resnet_6").noise_shapes(128, 64) == [(256, 32, 16)] * 6


@kinds
def test_noise_is_drawn_for_each_picture_by_itself(kind: type[Any]) -> None:
    network = make_generator(kind)
    drawn = network.draw_noise(3, 16, 32, seeded(4, 5, 6))
    for i in range(3):
        alone = network.draw_noise(1, 16, 32, seeded(4 + i)[0])
        assert all(torch.equal(one[i : i + 1], of) for one, of in zip(drawn, alone, strict=True))
    one = network.draw_noise(2, 16, 32, seeded(4)[0])
    assert all(torch.equal(a[:1], b[:1]) for a, b in zip(one, drawn, strict=True))
    assert not torch.equal(one[0][:1], one[0][1:])
    assert network.draw_noise(0 + 1, 16, 16)[0].shape[0] == 1
    for wrong in (seeded(1, 2), 7):
        with pytest.raises(InvalidInputError, match="generator must be"):
            network.draw_noise(1, 16, 16, wrong)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_noise_keeps_the_mean_of_what_it_drops(share: float) -> None:
    network = make_generator(ResnetGenerator, dropout=share, num_blocks=1)
    (noise,) = network.draw_noise(40, 64, 64, seeded(0)[0])
    kept = (noise > 0).double().mean()
    assert noise.unique().tolist() == pytest.approx([0, 1 / (1 - share)])
    assert abs(float(kept) - (1 - share)) < 4 * math.sqrt(share * (1 - share) / noise.numel())


@kinds
@pytest.mark.parametrize("training", [False, True])
def test_the_noise_is_there_in_evaluation_too(kind: type[Any], training: bool) -> None:
    network = make_generator(kind).train(training)
    x = pictures(1, 3, 16, 16).float()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = network(x).sample, network(x).sample
        assert not torch.equal(first, second)
        torch.manual_seed(0)
        assert torch.equal(network(x, return_dict=False)[0], first)
        noise = network.draw_noise(1, 16, 16, seeded(0)[0])
        assert torch.equal(network(x, noise).sample, network(x, noise).sample)
        without = type(network)(**{k: v for k, v in network.config.items() if k[0] != "_"} | {"dropout": 0.0})
        without.load_state_dict(network.state_dict())
        assert without.draw_noise(1, 16, 16) == ()
        assert torch.equal(without(x).sample, without(x, ()).sample)


# --- weights and refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_new_weights_are_small_and_normal(name: str) -> None:
    network = NETWORKS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        initialise(network)
    of_convs = torch.cat(
        [m.weight.detach().flatten() for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    )
    assert abs(float(of_convs.mean())) < 0.001
    assert float(of_convs.std()) == pytest.approx(0.02, rel=0.05)
    of_norms = torch.cat([m.weight.detach() for m in network.modules() if isinstance(m, nn.GroupNorm)])
    assert float((of_norms - 1).std()) == pytest.approx(0.02, rel=0.5)
    biases = [one for key, one in network.named_parameters() if key.endswith("bias")]
    assert biases
    assert not any(one.any() for one in biases)


def test_new_networks_are_functions_of_the_seed() -> None:
    made = [
        new_generator(GeneratorConfig(generator="resnet_6", generator_channels=4), DATA, seed) for seed in (1, 1, 2)
    ]
    first, again, other = (one.conv_in.weight for one in made)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (UNetGenerator, {"block_out_channels": (8,)}, r"block_out_channels must name two or more levels, got \(8,\)"),
        (UNetGenerator, {"block_out_channels": ()}, "block_out_channels must name the channels"),
        (UNetGenerator, {"block_out_channels": "88"}, "block_out_channels must name the channels .*'88'"),
        (UNetGenerator, {"in_channels": 0}, "in_channels must be a whole number >= 1, got 0"),
        (ResnetGenerator, {"out_channels": None}, "out_channels must be a whole number >= 1, got None"),
        (UNetGenerator, {"dropout": 1.0}, "dropout must be below 1, got 1.0"),
        (ResnetGenerator, {"dropout": -0.1}, "dropout must be a number >= 0, got -0.1"),
        (ResnetGenerator, {"num_blocks": 0}, "num_blocks must be a whole number >= 1 and <= 100, got 0"),
        (ResnetGenerator, {"norm_affine": 1}, "norm_affine must be True or False, got 1"),
        (PatchDiscriminator, {"kernel_size": 3}, "kernel_size must be 4 or 1 .*got 3"),
        (PatchDiscriminator, {"block_out_channels": (8,)}, "block_out_channels two or more numbers, got 4 and"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(kind: type[Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        kind(**arguments)


@kinds
def test_pictures_that_do_not_fit_are_refused(kind: type[Any]) -> None:
    network = make_generator(kind)
    multiple = network.size_multiple
    for wrong, message in (
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "sample must be floats"),
        ("picture", "sample must be floats"),
        (torch.zeros(3, 16, 16), r"sample must be \(B, 3, H, W\), got \(3, 16, 16\)"),
        (torch.zeros(1, 1, 16, 16), r"sample must be \(B, 3, H, W\), got \(1, 1, 16, 16\)"),
        (torch.zeros(1, 3, 16, 17), f"sides that are multiples of {multiple}, got"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            network(wrong)
    with pytest.raises(InvalidInputError, match="noise must be that of draw_noise"):
        network(torch.zeros(2, 3, 16, 16), network.draw_noise(1, 16, 16))
    discriminator = PatchDiscriminator(6, (8, 8))
    with pytest.raises(InvalidInputError, match=r"sample must be \(B, 6, H, W\), got \(1, 3, 16, 16\)"):
        discriminator(torch.zeros(1, 3, 16, 16))


def test_a_picture_too_small_to_mirror_its_border_is_refused() -> None:
    network = make_generator(ResnetGenerator)
    assert network.min_size == 4
    network(torch.zeros(1, 3, 4, 4))
    with pytest.raises(InvalidInputError, match="sample must have sides of 4 pixels or more, got"):
        network(torch.zeros(1, 3, 2, 16))
    coarser = ResnetGenerator(block_out_channels=(4, 4, 4), num_blocks=1)
    assert coarser.min_size == 5
    coarser(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InvalidInputError, match="sides of 5 pixels"):
        coarser(torch.zeros(1, 3, 4, 8))


def test_a_saved_discriminator_is_the_same(tmp_path: Path) -> None:
    network = PatchDiscriminator(4, (8, 16), kernel_size=1, norm_affine=False).eval()
    network.save_pretrained(tmp_path)
    loaded = PatchDiscriminator.from_pretrained(tmp_path)
    x = pictures(1, 4, 5, 6).float()
    assert torch.equal(loaded(x), network(x))
    assert dict(loaded.config)["block_out_channels"] in ((8, 16), [8, 16])
