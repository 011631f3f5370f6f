"""Pix2PixPipeline: sizes, colours, palettes, samples, refusals; and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import make_generator, make_unet
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diffusers_restore import Pix2PixPipeline, ResnetGenerator, UNetGenerator, cli, images, restoring
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.restoring.arguments import ModelError

kinds = pytest.mark.parametrize("kind", [UNetGenerator, ResnetGenerator])


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pictures(*shape: int, seed: int = 5) -> Tensor:
    return 2 * torch.rand(shape, generator=seeded(seed)[0]) - 1


def pipeline(kind: type[Any] = UNetGenerator, *, keeps_grey: bool = False, **config: Any) -> Pix2PixPipeline:
    pipe = Pix2PixPipeline(make_generator(kind, **config), keeps_grey)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Pix2PixPipeline, image: Any, seed: int = 0, **options: Any) -> Tensor:
    made: Tensor = pipe(image, generator=seeded(seed)[0], output_type="latent", **options).images
    return made


# --- sizes and colours -----------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("size", [(16, 32), (17, 30), (40, 5), (3, 40), (1, 1)])
def test_a_picture_is_extended_to_what_the_network_can_halve(kind: type[Any], size: tuple[int, int]) -> None:
    pipe = pipeline(kind)
    x, multiple = pictures(1, 3, *size), pipe.generator.size_multiple
    if min(size) < pipe.generator.min_size:  # of residual blocks, which mirror borders
        multiple = 4
    padding = (0, -size[1] % multiple, 0, -size[0] % multiple)
    padded = functional.pad(x, padding, mode="replicate")
    noise = pipe.generator.draw_noise(1, *padded.shape[2:], seeded(0)[0])
    with torch.no_grad():
        expected = pipe.generator(padded, noise).sample[:, :, : size[0], : size[1]]
    assert torch.equal(run(pipe, x), expected)


def test_grey_and_colour_in_and_out() -> None:
    grey, colour = pictures(1, 1, 16, 16), pictures(1, 3, 16, 16, seed=6)
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * colour).sum(dim=1, keepdim=True)
    of_colour = pipeline()
    assert torch.equal(run(of_colour, grey), run(of_colour, grey.expand(-1, 3, -1, -1)))
    assert run(of_colour, grey).shape == (1, 3, 16, 16)
    stays = pipeline(keeps_grey=True)
    assert torch.equal(run(stays, grey), run(of_colour, grey).mean(dim=1, keepdim=True))
    assert torch.equal(run(stays, colour), run(of_colour, colour))
    of_grey = pipeline(in_channels=1, out_channels=3)
    assert run(of_grey, grey).shape == (1, 3, 16, 16)
    assert (run(of_grey, colour) - run(of_grey, luma)).abs().max() < 1e-5
    to_grey = pipeline(out_channels=1, keeps_grey=True)
    assert run(to_grey, colour).shape == (1, 1, 16, 16)
    assert to_grey(colour).images[0].mode == "L"
    with pytest.raises(InvalidInputError, match="image has 2 channels, the network takes 3"):
        run(of_colour, pictures(1, 2, 16, 16))
    with pytest.raises(InvalidInputError, match="output_type='pil' needs 1 or 3 channels, got 2"):
        pipeline(out_channels=2)(colour)


def test_a_label_map_is_read_by_its_colours() -> None:
    """A palette's numbers mean nothing; its order may be another in each file."""
    labels = np.kron(np.array([[0, 1], [2, 0]]), np.ones((8, 8), int)).astype(np.uint8)
    colours = np.array([[255, 0, 0], [0, 0, 170], [0, 255, 255]], np.uint8)
    pipe = pipeline()
    expected = run(pipe, Image.fromarray(colours[labels]))
    for order in ([0, 1, 2], [2, 0, 1]):
        indexed = Image.fromarray(np.argsort(order).astype(np.uint8)[labels], "P")
        indexed.putpalette(colours[order].flatten().tolist())
        assert indexed.mode == "P"
        assert torch.equal(run(pipe, indexed), expected)


def test_transparency_is_dropped() -> None:
    opaque = images.to_pil(pictures(1, 3, 16, 16))[0]
    clear = opaque.copy()
    clear.putalpha(40)
    pipe = pipeline()
    assert torch.equal(run(pipe, clear), run(pipe, opaque))


# --- samples ---------------------------------------------------------------------------------------------------------


@kinds
def test_samples_differ_by_their_noise_alone(kind: type[Any]) -> None:
    pipe = pipeline(kind)
    x = pictures(1, 3, 16, 16)
    several = run(pipe, x, num_images_per_input=3)
    assert len(several) == 3
    assert len(several.unique(dim=0)) == 3
    again = pipe(x, 3, generator=seeded(1, 1, 2), output_type="latent").images
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    without = pipeline(kind, dropout=0.0)
    assert torch.equal(run(without, x, 0), run(without, x, 1))
    two = torch.cat([x, pictures(1, 3, 16, 16, seed=9)])
    of_each = torch.cat([run(without, one) for one in two.split(1)])
    assert torch.equal(run(without, two, num_images_per_input=2), of_each[[0, 0, 1, 1]])


@kinds
def test_training_mode_changes_nothing(kind: type[Any]) -> None:
    pipe = pipeline(kind)
    x = pictures(1, 3, 16, 16)
    expected = run(pipe, x)
    pipe.generator.train()
    assert torch.equal(run(pipe, x), expected)


def test_what_a_pipeline_refuses() -> None:
    with pytest.raises(InvalidInputError, match="generator must be a UNetGenerator or a ResnetGenerator, got UNet2D"):
        Pix2PixPipeline(make_unet())
    with pytest.raises(InvalidInputError, match="keeps_grey must be True or False, got 'no'"):
        Pix2PixPipeline(make_generator(), "no")
    pipe = pipeline()
    x = pictures(2, 3, 16, 16)
    for wrong in (0, 1.5, True):
        with pytest.raises(InvalidInputError, match="num_images_per_input must be a whole number >= 1"):
            pipe(x, num_images_per_input=wrong)
    with pytest.raises(InvalidInputError, match="generator must be one, or a list of 4"):
        pipe(x, num_images_per_input=2, generator=seeded(0, 1))
    with torch.no_grad():
        pipe.generator.conv_out.bias[0] = float("nan")
    with pytest.raises(InvalidInputError, match="generator gave NaN or Inf: torch.float16 overflows, so try"):
        pipe(x)


# --- on the command line ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "translator"
    pipeline().save_pretrained(folder)
    return folder


def restore(*words: object) -> Result:
    return CliRunner().invoke(cli.main, ["restore", "--dtype", "float32", *map(str, words)])


def test_files_are_translated(model: Path, tmp_path: Path) -> None:
    x = pictures(1, 3, 16, 24)
    source = tmp_path / "label.png"
    images.save(x, source)
    result = restore(source, "-o", tmp_path / "out.png", "--model", model, "--seed", 3)
    assert result.exit_code == 0, result.output
    given = images.load(source).tensor
    expected = run(Pix2PixPipeline.from_pretrained(model), given, seed=3)
    assert (images.load(tmp_path / "out.png").tensor - expected).abs().max() < 2.02 / 255
    result = restore(source, "-o", tmp_path / "mean.png", "--model", model, "--samples", 2, "--average")
    assert result.exit_code == 0, result.output
    mean = torch.stack([run(Pix2PixPipeline.from_pretrained(model), given, seed=seed) for seed in (0, 1)]).mean(0)
    assert (images.load(tmp_path / "mean.png").tensor - mean).abs().max() < 2.02 / 255
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    grey.save(tmp_path / "grey.png")
    assert restore(tmp_path / "grey.png", "-o", tmp_path / "colour.png", "--model", model).exit_code == 0
    assert images.load(tmp_path / "colour.png").tensor.shape == (1, 3, 16, 16)


def test_what_has_no_noise_makes_no_samples(tmp_path: Path) -> None:
    source = tmp_path / "label.png"
    images.save(pictures(1, 3, 16, 16), source)
    pipeline(dropout=0.0).save_pretrained(tmp_path / "same")
    result = restore(source, "-o", tmp_path / "out.png", "--model", tmp_path / "same", "--samples", 2)
    assert result.exit_code == 2, result.output
    assert "--samples must be 1 for this --model, which has no noise: all would be the same" in result.output
    result = restore(source, "-o", tmp_path / "out.png", "--model", tmp_path / "same" / "generator")
    assert f"it holds a network alone; the model is in '{tmp_path / 'same'}'" in result.output


def test_options_of_other_models_are_refused(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "label.png"
    images.save(pictures(1, 3, 16, 16), source)
    for options, message in (
        (["--steps", "3"], "--steps: this --model is a Pix2PixPipeline, which takes no steps"),
        (
            ["--mask", source],
            "--mask is for an unconditional DDPM, an RDDMPipeline, an OldPhotoPipeline or the bundled restorers; this",
        ),
        (["--task", "sr2"], "--task is for an unconditional DDPM; this --model is a Pix2PixPipeline"),
    ):
        result = restore(source, "-o", tmp_path / "out.png", "--model", model, *options)
        assert result.exit_code == 2
        assert message in result.output
    result = CliRunner().invoke(cli.main, ["sample", str(model), "-o", str(tmp_path / "out.png")])
    assert result.exit_code == 1
    assert (
        "MODEL can't generate: it makes pictures of those that it is shown; `restore --model` does that"
        in result.output
    )


def test_a_restorer_says_what_it_is_and_knows_its_memory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = restoring.load(model, steps=1, samples=2, dtype="float32")
    parameters = sum(one.numel() for one in make_generator().parameters()) / 1e6
    assert restorer.description == f"Pix2PixPipeline with {parameters:.1f} million parameters, float32 on cpu"
    monkeypatch.setattr("diffusers_restore.restoring.memory.free_memory", lambda device: 10**6)
    images.save(torch.zeros(1, 3, 800, 800), tmp_path / "large.png")
    (outcome,) = restorer.restore_files([tmp_path / "large.png"], tmp_path / "out")
    assert isinstance(outcome.error, (str, ModelError))
    assert "not enough memory for 800x800 pixels: about" in str(outcome.error)
