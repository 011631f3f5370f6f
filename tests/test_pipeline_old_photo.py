"""OldPhotoPipeline and ScratchDetectionPipeline by hand: sizes, masks, colours, refusals; and on the command line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import make_old_photo_network, make_old_photo_pipeline, make_unet
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diffusers_restore import (
    OldPhotoMapping,
    OldPhotoPipeline,
    OldPhotoVAE,
    ScratchDetectionPipeline,
    ScratchDetector,
    cli,
    images,
    restoring,
)
from diffusers_restore.errors import InvalidInputError, UnknownNameError
from diffusers_restore.pipelines.pipeline_scratch_detection import detection_sides
from diffusers_restore.restoring.memory import old_photo_memory

ATTENTIONS: tuple[Any, ...] = ("none", "partial", "patch")
attentions = pytest.mark.parametrize("attention", ATTENTIONS)


def pictures(*shape: int, seed: int = 5) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


def holes(*shape: int, share: float = 0.02, seed: int = 1) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share).float()


def pipeline(attention: str = "none", detects: bool = False, **options: Any) -> OldPhotoPipeline:
    pipe = make_old_photo_pipeline(attention, detects, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def detection(size: int | None = 256, **options: Any) -> ScratchDetectionPipeline:
    return ScratchDetectionPipeline(make_old_photo_network(ScratchDetector), size, **options)


def run(pipe: Any, image: Any, **options: Any) -> Tensor:
    made: Tensor = pipe(image, output_type="latent", **options).images
    return made


@torch.no_grad()
def by_hand(pipe: OldPhotoPipeline, x: Tensor, mask: Tensor | None, padding: tuple[int, ...] = (0, 0, 0, 0)) -> Tensor:
    """decode_B(T(encode_A(x painted white), mask)), picture by picture."""
    made = []
    for i in range(len(x)):
        one, hidden = x[i : i + 1], None if mask is None else mask[i : i + 1]
        if hidden is not None:
            one = torch.where(hidden.bool(), torch.ones(()), one)
            hidden = functional.pad(hidden, padding, mode="replicate")
        z = pipe.vae_degraded.encode(functional.pad(one, padding, mode="replicate"))
        made.append(pipe.vae_clean.decode(pipe.mapping(z, hidden)))
    return torch.cat(made)[..., : x.shape[2], : x.shape[3]]


# --- restoring -------------------------------------------------------------------------------------------------------


@attentions
def test_a_photograph_goes_through_both_autoencoders(attention: str) -> None:
    pipe, x = pipeline(attention), pictures(2, 3, 32, 64)
    mask = None if attention == "none" else holes(2, 1, 32, 64)
    grown = functional.max_pool2d(mask, 7, 1, 3) if attention == "patch" else mask
    restored = run(pipe, x, mask=mask)
    assert torch.equal(restored, by_hand(pipe, x, grown))
    assert restored.std() > 0.1
    if mask is not None:  # what is hidden isn't looked at, what is not is
        assert torch.equal(run(pipe, torch.where(mask.bool(), pictures(2, 3, 32, 64, seed=9), x), mask=mask), restored)
        assert not torch.equal(run(pipe, x, mask=0 * mask), restored)


@attentions
@pytest.mark.parametrize("size", [(17, 30), (40, 5), (1, 1), (3, 70)])
def test_a_photograph_is_extended_to_what_the_networks_can_halve(attention: str, size: tuple[int, int]) -> None:
    pipe, x = pipeline(attention), pictures(1, 3, *size)
    mask = None if attention == "none" else holes(1, 1, *size, share=0.05)
    grown = functional.max_pool2d(mask, 7, 1, 3) if attention == "patch" else mask
    multiple = 32 if attention == "patch" else 4
    right, bottom = (max(8 - n, -n % multiple) for n in reversed(size))
    assert torch.equal(run(pipe, x, mask=mask), by_hand(pipe, x, grown, (0, right, 0, bottom)))


@pytest.mark.parametrize("size", [(1, 1), (40, 700), (700, 40)])
def test_sizes_with_a_detector(size: tuple[int, int]) -> None:
    for attention in ("partial", "patch"):
        output = pipeline(attention, True, detection_size=16)(pictures(1, 3, *size), output_type="latent")
        assert output.images.shape == (1, 3, *size)
        assert output.scratch_mask.shape == (1, 1, *size)
        assert output.images.isfinite().all()


@torch.no_grad()
def test_a_mask_grows_by_three_pixels_for_patches() -> None:
    x, dot = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    dot[..., 10, 20] = 1
    shown: dict[str, list[Tensor]] = {"partial": [], "patch": []}
    for attention, seen in shown.items():
        pipe = pipeline(attention)
        pipe.vae_degraded.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        pipe.mapping.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[1]))
        assert torch.equal(pipe(x, mask=dot).scratch_mask, dot)  # as it was given
    square = torch.zeros_like(dot)
    square[..., 7:14, 17:24] = 1
    for seen, hidden in zip(shown.values(), (dot, square), strict=True):
        assert torch.equal(seen[0], hidden.expand(1, 3, 32, 32))  # white on the middle grey
        assert torch.equal(seen[1], hidden)


def test_the_mask_of_the_detector_is_that_of_the_user() -> None:
    x = pictures(3, 3, 24, 32)
    for attention in ("partial", "patch"):
        pipe = pipeline(attention, True, detection_size=40, threshold=0.6)
        detected = pipe(x, threshold=0.7, output_type="latent")
        finds = ScratchDetectionPipeline(pipe.scratch_detector, detection_size=40, threshold=0.7)
        assert torch.equal(finds(x, output_type="pt").images, detected.scratch_mask)
        assert 0 < detected.scratch_mask.mean() < 0.2
        told = pipe(x, mask=detected.scratch_mask, output_type="latent")
        assert torch.equal(told.images, detected.images)
        assert torch.equal(told.scratch_mask, detected.scratch_mask)
        shown, mask = pipe(x, threshold=0.7, output_type="latent", return_dict=False)
        assert torch.equal(shown, detected.images)
        assert torch.equal(mask, detected.scratch_mask)
        finds = ScratchDetectionPipeline(pipe.scratch_detector, detection_size=40, threshold=0.6)
        assert torch.equal(finds(x, output_type="pt").images, pipe(x).scratch_mask)
    plain = pipeline()(x)
    assert plain.scratch_mask is None
    assert pipeline()(x, return_dict=False)[1] is None


def test_one_mask_serves_a_batch_and_is_left_alone() -> None:
    pipe, x, mask = pipeline("partial"), pictures(2, 3, 16, 24), holes(16, 24, share=0.1)
    before = mask.clone()
    output = pipe(x, mask=mask, output_type="latent")
    assert torch.equal(output.scratch_mask, mask.expand(2, 1, -1, -1))
    for other in (mask[None], mask.bool(), mask.int(), mask.double(), mask.expand(2, 1, -1, -1)):
        assert torch.equal(run(pipe, x, mask=other), output.images)
    output.scratch_mask.fill_(7)
    assert torch.equal(mask, before)


def test_everything_may_be_hidden() -> None:
    for attention in ("partial", "patch"):
        pipe, x = pipeline(attention), pictures(2, 3, 32, 32)
        hidden = run(pipe, x, mask=torch.ones(32, 32))
        assert hidden.isfinite().all()
        assert torch.equal(hidden[0], hidden[1])


def test_stretching_spreads_each_photograph() -> None:
    pipe, x = pipeline(), pictures(2, 3, 16, 24)
    plain, stretched = run(pipe, x), run(pipe, x, stretch=True)
    for one, wide in zip(plain, stretched, strict=True):
        assert torch.allclose(wide, 2 * (one - one.min()) / (one.max() - one.min()) - 1, atol=1e-6)
    assert torch.equal(run(pipe, x[1:], stretch=True), stretched[1:])
    with torch.no_grad():
        pipe.vae_clean.conv_out.weight.zero_()
        pipe.vae_clean.conv_out.bias.zero_()
    assert torch.equal(run(pipe, x, stretch=True), -torch.ones_like(x))  # a flat one has nothing to spread


def test_grey_and_colour_in_and_out() -> None:
    grey, colour = pictures(1, 1, 16, 24), pictures(1, 3, 16, 24, seed=6)
    mask = holes(16, 24)
    stays, changes = pipeline("partial"), pipeline("partial", keeps_grey=False)
    coloured = run(changes, grey, mask=mask)
    assert torch.equal(coloured, run(changes, grey.expand(-1, 3, -1, -1), mask=mask))
    assert torch.equal(run(stays, grey, mask=mask), coloured.mean(dim=1, keepdim=True))
    assert torch.equal(run(stays, colour, mask=mask), run(changes, colour, mask=mask))
    assert [one(images.to_pil(grey)[0], mask=mask).images[0].mode for one in (stays, changes)] == ["L", "RGB"]
    vaes = [make_old_photo_network(OldPhotoVAE, seed=seed, in_channels=1) for seed in (0, 1)]
    of_grey = OldPhotoPipeline(vaes[0], make_old_photo_network(OldPhotoMapping), vaes[1])
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * colour).sum(dim=1, keepdim=True)
    assert run(of_grey, colour).shape == (1, 1, 16, 24)
    assert torch.allclose(run(of_grey, colour), run(of_grey, luma), atol=1e-4)


def test_networks_may_have_precisions_of_their_own() -> None:
    pipe, x, mask = pipeline("partial", True), pictures(1, 3, 16, 24), holes(16, 24)
    expected = run(pipe, x, mask=mask)
    pipe.vae_degraded.to(torch.float64)
    pipe.vae_clean.to(torch.bfloat16)
    made = run(pipe, x, mask=mask)
    assert made.dtype == torch.float32
    assert (made - expected).abs().max() < 0.1


def test_training_mode_changes_nothing_but_for_the_detector() -> None:
    pipe, x = pipeline("partial", True), pictures(1, 3, 16, 24)
    expected, state = run(pipe, x), {k: v.clone() for k, v in pipe.scratch_detector.state_dict().items()}
    for network in (pipe.vae_degraded, pipe.mapping, pipe.vae_clean):
        network.train()
    assert torch.equal(run(pipe, x), expected)
    pipe.scratch_detector.train()
    with pytest.raises(InvalidInputError, match=r"scratch_detector is in training mode, .* scratch_detector.eval\(\)"):
        run(pipe, x)
    with pytest.raises(InvalidInputError, match=r"detector is in training mode, .* call detector.eval\(\)"):
        ScratchDetectionPipeline(pipe.scratch_detector)(x)
    assert all(torch.equal(value, state[key]) for key, value in pipe.scratch_detector.state_dict().items())


def test_threads_share_a_pipeline() -> None:
    """Each call has its own mask and options, and gives what it gives alone, bit for bit."""
    pipe, finds = pipeline("partial", True, detection_size=40), detection(24)
    calls: list[Any] = [
        lambda: run(pipe, pictures(1, 3, 16, 24), mask=holes(16, 24, seed=3)),
        lambda: run(pipe, pictures(1, 3, 16, 24), threshold=0.6),
        lambda: run(pipe, pictures(1, 1, 20, 10), stretch=True),
        lambda: run(finds, pictures(2, 3, 20, 10), threshold=0),
    ]
    alone = [call() for call in calls]
    with ThreadPoolExecutor(4) as threads:
        for expected, made in zip(alone * 4, threads.map(lambda call: call(), calls * 4), strict=True):
            assert torch.equal(made, expected)


# --- detection -------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", [(300, 400), (40, 30), (50, 90)])
def test_the_detector_looks_at_a_shorter_side_of_256(size: tuple[int, int]) -> None:
    pipe, x = detection(), pictures(1, 3, *size)
    seen: list[Tensor] = []
    pipe.detector.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    found = run(pipe, x, threshold=0)
    scale = 256 / min(size)
    sides = [round(n * scale / 4) * 4 for n in size]
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * x).sum(dim=1, keepdim=True)
    small = functional.interpolate(luma, sides, mode="bicubic", antialias=True).clamp(-1, 1)
    assert min(sides) == 256
    assert seen[0].shape == (1, 1, *sides)
    assert torch.allclose(seen[0], small, atol=1e-5)
    probability = functional.interpolate(pipe.detector(small).sigmoid(), size, mode="bilinear")
    assert (found - (2 * probability - 1)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("size", "seen"), [((3, 500), (24, 4096)), ((5000, 2), (4096, 8)), ((100, 1600), (256, 4096)), ((8, 9), (256, 288))]
)
def test_the_detector_does_not_look_at_a_strip_in_full(size: tuple[int, int], seen: tuple[int, int]) -> None:
    """Its longer side becomes 16 times 256 pixels; the shorter one is at least two of what the network halves."""
    assert detection_sides(make_old_photo_network(ScratchDetector), *size, 256) == seen


def test_masks_are_probabilities_above_a_threshold() -> None:
    pipe, x = detection(None, threshold=0.6), pictures(2, 3, 24, 32)
    likely = pipe(x, threshold=0, output_type="pt").images
    assert likely.shape == (2, 1, 24, 32)
    assert len(likely.unique()) > 1000
    for given, limit in ((None, 0.6), (0.2, 0.2), (1, 1.0)):
        assert torch.equal(pipe(x, threshold=given, output_type="pt").images, (likely >= limit).float())
    shown = pipe(x).images
    assert [one.mode for one in shown] == ["L", "L"]
    assert set(np.unique(np.stack([np.asarray(one) for one in shown]))) == {0, 255}
    array = pipe(x, output_type="np").images
    assert np.array_equal(array[..., 0], (likely[:, 0] >= 0.6).float().numpy())
    again = pipe([Image.fromarray(np.asarray(one)) for one in images.to_pil(x)], threshold=0, output_type="pt").images
    assert (again - likely).abs().max() < 0.1


# --- refusals --------------------------------------------------------------------------------------------------------


def test_networks_that_do_not_fit_are_refused() -> None:
    vae, mapping, detector = (make_old_photo_network(kind) for kind in (OldPhotoVAE, OldPhotoMapping, ScratchDetector))
    for parts, message in (
        ((make_unet(), mapping, vae), "vae_degraded must be an OldPhotoVAE, got UNet2DModel"),
        ((vae, vae, vae), "mapping must be an OldPhotoMapping, got OldPhotoVAE"),
        ((vae, mapping, None), "vae_clean must be an OldPhotoVAE, got NoneType"),
        ((vae, mapping, vae, vae), "scratch_detector must be a ScratchDetector, got OldPhotoVAE"),
        (
            (vae, make_old_photo_network(OldPhotoMapping, latent_channels=6), vae),
            "latents of 8, 6 and 8 channels",
        ),
        ((make_old_photo_network(OldPhotoVAE, in_channels=1), mapping, vae), "pictures of 1 and 3"),
        (
            (make_old_photo_network(OldPhotoVAE, block_out_channels=(4, 8)), mapping, vae),
            "latents of the same size, got pictures divided by 2 and by 4",
        ),
        ((vae, mapping, vae, detector, None, True, 0), "detection_size must be a whole number >= 1, got 0"),
        ((vae, mapping, vae, detector, None, True, 2.5), "detection_size must be a whole number >= 1, got 2.5"),
        ((vae, mapping, vae, detector, None, True, 256, 1.5), "threshold must be a number .* got 1.5"),
        ((vae, mapping, vae, None, None, "no"), "keeps_grey must be True or False, got 'no'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            OldPhotoPipeline(*parts)
    for options, message in (
        ({"detector": vae}, "detector must be a ScratchDetector, got OldPhotoVAE"),
        ({"detector": detector, "detection_size": 0}, "detection_size must be a whole number >= 1, got 0"),
        ({"detector": detector, "threshold": 1.5}, "threshold must be a number .* got 1.5"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            ScratchDetectionPipeline(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.zeros(16, 16)}, r"mask must be 1 where .* \(B, 1, 16, 24\) or smaller; got \(16, 16\)"),
        ({"mask": torch.zeros(2, 1, 16, 24)}, r"mask must be .*; got \(2, 1, 16, 24\)"),
        ({"mask": torch.zeros(1, 3, 16, 24)}, r"mask must be .*; got \(1, 3, 16, 24\)"),
        ({"mask": torch.full((16, 24), 0.5)}, "mask must be .*; got values from 0.5 to 0.5"),
        ({"mask": torch.full((16, 24), float("nan"))}, "mask must be .*; got values from nan to nan"),
        ({"mask": np.full((16, 24), 0.25)}, "mask must be .*; got values from 0.25 to 0.25"),
        ({"threshold": 2}, "threshold must be a number"),
        ({"threshold": float("nan")}, "threshold must be a number"),
        ({"stretch": 1}, "stretch must be True or False, got 1"),
        ({"image": torch.full((1, 3, 16, 24), float("nan"))}, "image .*NaN"),
        ({"image": torch.zeros(1, 2, 16, 24)}, "image has 2 channels, the network takes 3"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    pipe = pipeline("partial", True)
    with pytest.raises(InvalidInputError, match=message):
        pipe(**{"image": pictures(1, 3, 16, 24), **options})


def test_masks_that_are_needed_or_of_no_use_are_told_of() -> None:
    x = pictures(1, 3, 16, 24)
    with pytest.raises(InvalidInputError, match="mask must be None: the mapping takes none"):
        pipeline()(x, mask=torch.zeros(16, 24))
    with pytest.raises(InvalidInputError, match=r"mask is needed: .* there is no scratch_detector; zeros hide nothing"):
        pipeline("partial")(x)
    with pytest.raises(UnknownNameError, match="output_type"):
        pipeline()(x, output_type="jpg")


@pytest.mark.parametrize("name", ["scratch_detector", "vae_degraded", "mapping", "vae_clean"])
def test_networks_with_nan_are_named(name: str) -> None:
    pipe = pipeline("partial", True)
    network = getattr(pipe, name)
    with torch.no_grad():
        next(reversed(list(network.parameters()))).fill_(float("nan"))
    named = name if name == "scratch_detector" else "vae_degraded, mapping or vae_clean"
    if name == "vae_degraded":
        with torch.no_grad():
            network.conv_in.bias.fill_(float("nan"))
    with pytest.raises(InvalidInputError, match=f"{named} gave NaN or Inf: torch.float16 overflows, so try"):
        pipe(pictures(1, 3, 16, 24))


def test_a_detector_that_gives_nan_finds_no_scratches_but_fails() -> None:
    pipe = detection(None)
    with torch.no_grad():
        pipe.detector.conv_out.bias.fill_(float("nan"))
    with pytest.raises(InvalidInputError, match="detector gave NaN or Inf"):
        pipe(pictures(1, 3, 16, 24))


# --- on the command line ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    pipeline().save_pretrained(folder / "quality")
    pipeline("partial", True).save_pretrained(folder / "scratch")
    pipeline("patch").save_pretrained(folder / "without")
    detection().save_pretrained(folder / "detector")
    return folder


def restore(*words: object) -> Result:
    return CliRunner().invoke(cli.main, ["restore", *map(str, words)])


def near(file: Path, expected: Tensor) -> bool:
    return bool((images.load(file).tensor - expected).abs().max() < 2.02 / 255)


def test_files_are_restored(models: Path, tmp_path: Path) -> None:
    source = tmp_path / "old.png"
    images.save(pictures(1, 3, 24, 32), source)
    x = images.load(source).tensor
    result = restore(source, "-o", tmp_path / "a.png", "--model", models / "quality")
    assert result.exit_code == 0, result.output
    assert "scratches" not in result.output
    assert near(tmp_path / "a.png", run(pipeline(), x))
    result = restore(source, "-o", tmp_path / "b.png", "--model", models / "scratch")
    assert result.exit_code == 0, result.output
    pipe = pipeline("partial", True)
    output = pipe(x, output_type="latent")
    assert f"{float(output.scratch_mask.mean()):.1%} taken for scratches" in result.output
    assert near(tmp_path / "b.png", output.images)
    images.save(pictures(1, 1, 20, 30), tmp_path / "grey.png")
    assert restore(tmp_path / "grey.png", "-o", tmp_path / "c.png", "--model", models / "scratch").exit_code == 0
    assert images.load(tmp_path / "c.png").tensor.shape == (1, 1, 20, 30)


def test_masks_in_files(models: Path, tmp_path: Path) -> None:
    hidden = holes(24, 32, share=0.05)
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("1", "2"):
        images.save(pictures(1, 3, 24, 32, seed=int(name)), tmp_path / "in" / f"{name}.png")
        images.save((1 - 2 * hidden)[None, None], tmp_path / "masks" / f"{name}.png")
    images.save((2 * hidden - 1)[None, None], tmp_path / "white_is_damaged.png")
    share = f"{float(hidden.mean()):.1%} missing"
    for model, attention in (("scratch", "partial"), ("without", "patch")):
        expected = [
            run(
                pipeline(attention, model == "scratch"),
                images.load(tmp_path / "in" / f"{name}.png").tensor,
                mask=hidden,
            )
            for name in ("1", "2")
        ]
        for words in ((tmp_path / "masks",), (tmp_path / "white_is_damaged.png", "--invert-mask")):
            out = tmp_path / f"{model}-{len(words)}"
            result = restore(tmp_path / "in", "-o", out, "--model", models / model, "--mask", *words)
            assert result.exit_code == 0, result.output
            assert result.output.count(share) == 2
            assert all(near(out / f"{i + 1}.png", one) for i, one in enumerate(expected))


def test_what_a_model_does_not_take_is_refused(models: Path, tmp_path: Path) -> None:
    source, mask = tmp_path / "old.png", tmp_path / "mask.png"
    images.save(pictures(1, 3, 24, 32), source)
    images.save(torch.ones(1, 1, 20, 32), mask)
    for model, words, status, message in (
        ("quality", ("--mask", mask), 2, "--mask: this model takes none"),
        ("without", (), 2, "--mask is needed: this model is shown where the picture is damaged, as black, and has no"),
        ("scratch", ("--steps", 3), 2, "--steps: this --model is an OldPhotoPipeline, which looks once"),
        (
            "scratch",
            ("--seed", 3),
            2,
            "--seed is for an unconditional DDPM, an RDDMPipeline, a Pix2PixPipeline or the bundled restorers; this",
        ),
        ("scratch", ("--invert-mask",), 2, "--mask is needed for --invert-mask and --mask-threshold"),
        ("scratch", ("--mask", mask), 1, "--mask has 32x20 pixels, the picture has 32x24; they must be the same"),
        ("detector", (), 1, "is a ScratchDetectionPipeline: it finds scratches, and makes no pictures"),
    ):
        result = restore(source, "-o", tmp_path / "out.png", "--model", models / model, *words)
        assert result.exit_code == status, result.output
        assert message in " ".join(result.output.split()), result.output
    for model, message in (
        ("scratch", "MODEL can't generate: it makes pictures of those that it is shown; `restore --model` does that"),
        ("detector", "is a ScratchDetectionPipeline: it finds scratches, and makes no pictures"),
    ):
        result = CliRunner().invoke(cli.main, ["sample", str(models / model), "-o", str(tmp_path / "out.png")])
        assert result.exit_code == 1
        assert message in result.output


def test_a_restorer_says_what_it_is_and_knows_its_memory(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = restoring.load(models / "scratch", steps=1)
    parts = [part for part in pipeline("partial", True).components.values() if part is not None]
    count = sum(one.numel() for part in parts for one in part.parameters()) / 1e6
    assert restorer.description == f"OldPhotoPipeline with {count:.1f} million parameters, float32 on cpu"
    monkeypatch.setattr("diffusers_restore.restoring.memory.free_memory", lambda device: 10**5)
    images.save(torch.zeros(1, 3, 80, 80), tmp_path / "large.png")
    (outcome,) = restorer.restore_files([tmp_path / "large.png"], tmp_path / "out")
    assert "not enough memory for 80x80 pixels: about" in str(outcome.error)


def test_the_memory_of_the_paper_s_networks() -> None:
    """512 x 512 in float32: partial attention takes about 435 MB, as measured; detection doesn't depend on the size."""
    with torch.device("meta"):
        vae, detector = OldPhotoVAE().eval(), ScratchDetector().eval()
        pipes = {name: OldPhotoPipeline(vae, OldPhotoMapping(attention=name), vae, detector) for name in ATTENTIONS}
    at_512 = {name: old_photo_memory(pipe, 512, 512, False) for name, pipe in pipes.items()}
    assert 435e6 < at_512["partial"] - old_photo_memory(pipes["none"], 512, 512, False) < 550e6
    assert at_512["none"] < at_512["partial"] < at_512["patch"] < 2e9
    large, larger = (old_photo_memory(pipes["patch"], n, n, False) for n in (2048, 4096))
    assert large < larger < 4.1 * large  # no attention is quadratic in pixels
    small = old_photo_memory(pipes["partial"], 16, 64, True)
    assert small > 10 * old_photo_memory(pipes["partial"], 16, 64, False)  # its shorter side becomes 256 pixels
    assert old_photo_memory(pipes["partial"], 1, 5000, True) < 4 * small  # that of a strip doesn't
