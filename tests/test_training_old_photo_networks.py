"""Training of the autoencoders and the mapping of old photographs: losses by hand, who is frozen, runs, resuming."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from click.testing import CliRunner, Result
from conftest import make_old_photo_network
from PIL import Image
from safetensors.torch import load_file, save_file
from test_training_pix2pix import fails, final, fresh_accelerate, words_of
from torch import Tensor, nn

from diffusers_restore import (
    OldPhotoMapping,
    OldPhotoPipeline,
    OldPhotoVAE,
    ScratchDetectionPipeline,
    ScratchDetector,
    cli,
)
from diffusers_restore.models.multiscale_discriminator import MultiscaleDiscriminator
from diffusers_restore.training.adversarial import feature_loss, multiscale_loss
from diffusers_restore.training.config import LoopConfig, OptimizerConfig
from diffusers_restore.training.objectives import psnr
from diffusers_restore.training.old_photo.config import AutoencoderNetworkConfig, MappingNetworkConfig
from diffusers_restore.training.old_photo.mapping import MappingObjective
from diffusers_restore.training.old_photo.vae import AutoencoderObjective, make_discriminator
from diffusers_restore.training.pairs import Pair
from diffusers_restore.training.step import make_optimizers, optimizer_step


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 5) -> Tensor:
    return 2 * torch.rand(shape, generator=seeded(seed)) - 1


def make_vae(seed: int = 0) -> OldPhotoVAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OldPhotoVAE(block_out_channels=(4, 4, 6), num_blocks=1)


def damage(clean: Tensor, generator: torch.Generator) -> Pair:
    """Half as bright, with a white line that a mask shows."""
    mask = torch.zeros_like(clean[:, :1])
    mask[:, :, 8:12] = 1
    return Pair(clean / 2, clean, mask)


# --- losses ----------------------------------------------------------------------------------------------------------


def test_the_losses_of_several_scales() -> None:
    """The least-squares loss is summed over scales; activations are compared in all but the last layer of each."""
    fake = [
        (torch.full((1, 2, 4, 4), 1.0), torch.full((1, 1, 2, 2), 0.25)),
        (torch.zeros(1, 3, 2, 2), torch.ones(1, 1, 1, 1)),
    ]
    real = [
        (torch.full((1, 2, 4, 4), 4.0), torch.full((1, 1, 2, 2), 9.0)),
        (torch.ones(1, 3, 2, 2), torch.ones(1, 1, 1, 1)),
    ]
    assert float(multiscale_loss(fake, real=True)) == pytest.approx(0.75**2 + 0)
    assert float(multiscale_loss(fake, real=False)) == pytest.approx(0.25**2 + 1)
    assert float(feature_loss(fake, real)) == pytest.approx((3 + 1) / 2)
    twice = [(a, a, b) for a, b in fake], [(a, a, b) for a, b in real]
    assert float(feature_loss(*twice)) == pytest.approx(3 + 1)  # summed over layers


def test_a_multiscale_discriminator_judges_smaller_copies() -> None:
    network = make_discriminator(3, 2, 2, 0)
    assert network.min_size == 48
    x = pictures(2, 3, 64, 48)
    first, second = network(x)
    assert [tuple(one.shape) for one in first] == [
        (2, 2, 32, 24),
        (2, 4, 16, 12),
        (2, 8, 8, 6),
        (2, 16, 7, 5),
        (2, 1, 6, 4),
    ]
    assert torch.equal(first[-1], network.scales[0](x))
    smaller = nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    assert torch.equal(second[-1], network.scales[1](smaller))
    with torch.device("meta"):
        published = [MultiscaleDiscriminator(3), MultiscaleDiscriminator(64, num_scales=1), MultiscaleDiscriminator(6)]
    counts = [sum(p.numel() for p in one.parameters()) for one in published]
    assert counts == [5_529_474, 2_827_201, 5_535_618]


@pytest.mark.parametrize("real", [False, True])
def test_the_losses_of_an_autoencoder(real: bool) -> None:
    weights = AutoencoderNetworkConfig(block_out_channels=(4, 4, 6))
    vae = make_vae()
    networks: dict[str, nn.Module] = {"vae": vae, "discriminator": make_discriminator(3, 2, 2, 1)}
    if real:
        networks["latent_discriminator"] = make_discriminator(6, 2, 1, 2)
    objective = AutoencoderObjective(
        vae, damage, weights, real=real, perceptual=lambda made, wanted: (made - wanted).square().mean()
    )
    clean, old = pictures(2, 3, 96, 96), pictures(2, 3, 96, 96, seed=6)
    encoded = objective.corrupt((old, clean) if real else (clean,), seeded())
    assert torch.equal(encoded.pictures, torch.cat([clean / 2, old]) if real else clean / 2)
    assert encoded.real == 2 * real
    z = vae(encoded.pictures, "encoder")
    assert encoded.noise.shape == z.shape
    made = vae(z + encoded.noise, "decoder")
    judge = networks["discriminator"]
    losses = objective.losses("vae", networks, encoded)
    wanted = {
        "loss_l1_x10": 10 * (made - encoded.pictures).abs().mean(),
        "loss_features_x10": 10 * feature_loss(judge(made), judge(encoded.pictures)),
        "loss_kl_x1": z.square().mean(),
        "loss_generator": multiscale_loss(judge(made), real=True),
        "loss_perceptual": 10 * (made - encoded.pictures).square().mean(),
    }
    if real:
        wanted["loss_latents"] = multiscale_loss(networks["latent_discriminator"](z[2:]), real=True)
        of_latents = objective.losses("latent_discriminator", networks, encoded)
        judged = networks["latent_discriminator"]
        assert torch.allclose(of_latents["loss_latent_real"], multiscale_loss(judged(z[:2]), real=True) / 2)
        assert torch.allclose(of_latents["loss_latent_fake"], multiscale_loss(judged(z[2:]), real=False) / 2)
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(losses[name], value, rtol=1e-4), name
    of_pictures = objective.losses("discriminator", networks, encoded)
    assert torch.allclose(of_pictures["loss_real"], multiscale_loss(judge(encoded.pictures), real=True) / 2)
    assert torch.allclose(of_pictures["loss_fake"], multiscale_loss(judge(made), real=False) / 2)
    assert list(objective.phases) == ["discriminator", *(["latent_discriminator"] * real), "vae"]


@pytest.mark.parametrize("attention", ["none", "partial", "patch"])
def test_the_losses_of_a_mapping(attention: str) -> None:
    masked = attention != "none"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        mapping = OldPhotoMapping(6, (8,), 6 if attention == "patch" else 2, attention)
    vaes = {"vae_degraded": make_vae(0), "vae_clean": make_vae(1)}
    networks = {**vaes, "mapping": mapping, "discriminator": make_discriminator(6, 2, 2, 1)}
    objective = MappingObjective(damage, MappingNetworkConfig(), mapping)
    y = pictures(2, 3, 64, 64)
    damaged = objective.corrupt((y,), seeded())
    x = y / 2
    if masked:
        assert damaged.mask is not None
        x = torch.where(damaged.mask.bool(), 1.0, x)
    assert torch.equal(damaged.degraded, x)
    assert torch.equal(damaged.clean, y)
    mapped = mapping(vaes["vae_degraded"](x, "encoder"), damaged.mask)
    made, judge = vaes["vae_clean"](mapped, "decoder"), networks["discriminator"]
    fakes, reals = judge(torch.cat([x, made], 1)), judge(torch.cat([x, y], 1))
    losses = objective.losses("mapping", networks, damaged)
    wanted = {
        "loss_latent_x60": 60 * (mapped - vaes["vae_clean"](y, "encoder")).abs().mean(),
        "loss_features_x10": 10 * feature_loss(fakes, reals),
        "loss_generator": multiscale_loss(fakes, real=True),
    }
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(losses[name], value, rtol=1e-4), name
    of_pictures = objective.losses("discriminator", networks, damaged)
    assert torch.allclose(of_pictures["loss_real"], multiscale_loss(reals, real=True) / 2)
    assert torch.allclose(of_pictures["loss_fake"], multiscale_loss(fakes, real=False) / 2)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["none", "partial", "patch"])
def test_a_mapping_is_measured_as_its_pipeline_restores(attention: str) -> None:
    """By the mask as it was drawn, which the pipeline grows for patches, as training does."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        mapping = OldPhotoMapping(6, (8,), 6, attention).eval()
    networks = {"vae_degraded": make_vae(0), "vae_clean": make_vae(1), "mapping": mapping}
    pipe, y = (
        OldPhotoPipeline(*(networks[name] for name in ("vae_degraded", "mapping", "vae_clean"))),
        pictures(1, 3, 64, 64),
    )
    pipe.set_progress_bar_config(disable=True)
    objective = MappingObjective(damage, MappingNetworkConfig(), mapping)
    pair = damage(y, seeded())
    made = pipe(pair.degraded, mask=pair.mask if mapping.takes_mask else None, output_type="latent").images
    figures = objective.evaluate(networks, (y,), 0)
    assert float(figures["psnr"]) == pytest.approx(float(psnr(made, y)), abs=1e-4)
    assert float(figures["psnr_degraded"]) == pytest.approx(float(psnr(pair.degraded, y)), abs=1e-4)


def test_only_the_mapping_and_its_discriminator_learn() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        mapping = OldPhotoMapping(6, (8,), 2)
    networks = {"vae_degraded": make_vae(0), "vae_clean": make_vae(1), "mapping": mapping}
    networks["discriminator"] = make_discriminator(6, 2, 2, 1)
    objective = MappingObjective(damage, MappingNetworkConfig(), mapping)
    optimizers = make_optimizers(objective, networks, dict.fromkeys(objective.phases, OptimizerConfig()))
    before = {name: nn.utils.parameters_to_vector(one.parameters()).clone() for name, one in networks.items()}
    damaged = objective.corrupt((pictures(1, 3, 64, 64),), seeded())
    optimizer_step(Accelerator(cpu=True), objective, networks, optimizers, [damaged], LoopConfig(), 0)
    changed = {
        name
        for name, one in networks.items()
        if not torch.equal(nn.utils.parameters_to_vector(one.parameters()), before[name])
    }
    assert changed == {"mapping", "discriminator"}


# --- runs ------------------------------------------------------------------------------------------------------------

TOY = {
    "resolution": 96,
    "train_batch_size": 1,
    "validation_images": 2,
    "discriminator_channels": 2,
    "logging_steps": 1,
    "logger": "none",
    "max_train_steps": 4,
    "checkpointing_steps": 2,
}
VAE = {"block_out_channels": "4,4,6", "num_blocks": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("photos")
    for name in ("photos", "scans"):
        (work / name).mkdir()
        for i in range(4):
            noise = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(noise).resize((128, 100), Image.Resampling.BICUBIC).save(work / name / f"{i}.png")
    return work


def run(what: str, **values: Any) -> Result:
    with fresh_accelerate():
        return CliRunner().invoke(cli.main, ["train", f"old-photo-{what}", *words_of(values)])


def trains(what: str, output: Path, **values: Any) -> Result:
    result = run(what, **TOY | {"output_dir": output} | values)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def vaes(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("vaes")
    common = VAE | {"train_data_dir": photos / "photos"}
    trains("vae", work / "clean", **common)
    trains("vae", work / "degraded", **common, recipe="old_photos", real_data_dir=photos / "scans", use_ema=True)
    return {"vae_clean": work / "clean", "vae_degraded": work / "degraded"}


def resumed(what: str, unbroken: Path, broken: Path, **values: Any) -> None:
    """A run that goes on from the middle ends as the unbroken one, bit for bit."""
    shutil.copytree(unbroken, broken)
    shutil.rmtree(broken / "checkpoint-4")
    assert ", from step 2" in trains(what, broken, **values, resume_from_checkpoint="latest").output
    (tensors, numbers), (others, other_numbers) = final(unbroken), final(broken)
    assert tensors.keys() == others.keys()
    for file, of_file in tensors.items():
        assert all(torch.equal(value, others[file][key]) for key, value in of_file.items()), file
    assert numbers == other_numbers


def test_an_autoencoder_is_trained_saved_and_gone_on_with(vaes: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    folder = vaes["vae_degraded"]
    loaded = OldPhotoVAE.from_pretrained(folder)
    assert loaded.config.block_out_channels in ([4, 4, 6], (4, 4, 6))
    card = (folder / "README.md").read_text()
    assert "# degraded: an autoencoder of damaged photographs" in card
    assert 'OldPhotoVAE.from_pretrained("degraded")' in card
    assert set(final(folder)[0]) >= {"vae", "vae.average", "discriminator", "latent_discriminator", "optimizer.vae"}
    values = VAE | {"train_data_dir": photos / "photos", "recipe": "old_photos", "real_data_dir": photos / "scans"}
    resumed("vae", folder, tmp_path / "broken", **values, use_ema=True)


@pytest.mark.parametrize("attention", ["none", "partial"])
def test_a_mapping_becomes_a_pipeline(attention: str, vaes: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    values = {**vaes, "train_data_dir": photos / "photos", "mapping_channels": "8", "num_blocks": 2}
    values |= {"attention": attention, "recipe": "old_photos", "recipe_args": "{scratches: true}"}
    trains("mapping", tmp_path / "out", **values)
    pipe = OldPhotoPipeline.from_pretrained(tmp_path / "out")
    for name, folder in vaes.items():
        given = load_file(folder / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(value, getattr(pipe, name).state_dict()[key]) for key, value in given.items())
    pipe.set_progress_bar_config(disable=True)
    mask = None if attention == "none" else torch.zeros(40, 50)
    assert pipe(pictures(1, 3, 40, 50), mask=mask).images[0].size == (50, 40)
    resumed("mapping", tmp_path / "out", tmp_path / "broken", **values)


@pytest.mark.parametrize(
    ("what", "values", "message"),
    [
        ("vae", {"resolution": 32}, "resolution must be 48 or more for the discriminators, got 32"),
        (
            "vae",
            {"resolution": 64, "recipe": "old_photos", "real_data_dir": "scans"},
            "resolution must be 96 or more for",
        ),
        (
            "vae",
            {"recipe": "old_photos", "resolution": 96, "real_data_dir": "nowhere"},
            "real_data_dir must be a folder or an idx file, got 'nowhere'",
        ),
        ("vae", {"real_data_dir": "scans"}, "real_data_dir is for damaged photographs; name a recipe, too"),
        ("vae", {"recipe_args": "{scratches: true}"}, "recipe_args are arguments of recipe by name"),
        ("vae", {"block_out_channels": "4"}, "block_out_channels must name two or more levels"),
        ("vae", {"resolution": 98}, "resolution must be a multiple of 4"),
        ("mapping", {}, "vae_degraded is needed; `train old-photo-vae` makes one"),
        (
            "mapping",
            {"vae_degraded": "nowhere", "vae_clean": "nowhere"},
            "vae_degraded: 'nowhere' can't be loaded as an",
        ),
        (
            "mapping",
            {"vae_degraded": "a", "vae_clean": "b", "scratch_detector": "c"},
            "scratch_detector is for a mapping with attention, which takes masks",
        ),
    ],
)
def test_bad_input(
    what: str, values: dict[str, Any], message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    fails(run(what, **TOY | {"train_data_dir": "photos", "output_dir": tmp_path / "out"} | values), message)
    assert not (tmp_path / "out").exists()


def test_autoencoders_with_missing_or_broken_weights_are_refused(
    vaes: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    weights = load_file(vaes["vae_clean"] / "diffusion_pytorch_model.safetensors")
    name = sorted(weights)[0]
    nan = {name: torch.full_like(weights[name], float("nan"))}
    for changed, message in ((set(weights) - {name}, "lacks 1 of its"), (weights | nan, "NaN")):
        folder = tmp_path / "vae"
        shutil.copytree(vaes["vae_clean"], folder, dirs_exist_ok=True)
        new = changed if isinstance(changed, dict) else {key: weights[key] for key in changed}
        save_file(new, folder / "diffusion_pytorch_model.safetensors")
        values = {**vaes, "vae_clean": folder, "train_data_dir": photos / "photos", "output_dir": tmp_path / "out"}
        fails(run("mapping", **TOY | values), message)


def test_a_pipeline_looks_for_scratches_as_its_detector_was_trained(
    vaes: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    ScratchDetectionPipeline(make_old_photo_network(ScratchDetector), 96, 0.7).save_pretrained(tmp_path / "detector")
    values = {**vaes, "train_data_dir": photos / "photos", "mapping_channels": "8", "num_blocks": 2}
    values |= {"attention": "partial", "scratch_detector": tmp_path / "detector", "max_train_steps": 1}
    trains("mapping", tmp_path / "out", **values)
    pipe = OldPhotoPipeline.from_pretrained(tmp_path / "out")
    assert (pipe.config.detection_size, pipe.config.threshold) == (96, 0.7)
