"""The networks of old photographs: sizes, attention against a dense loop, halving, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusers_restore.errors import InvalidInputError
from diffusers_restore.models.old_photo_mapping import (
    OldPhotoMapping,
    PartialNonLocalBlock,
    compose_patches,
    partial_attention,
)
from diffusers_restore.models.old_photo_vae import OldPhotoVAE
from diffusers_restore.models.scratch_detector import ScratchDetector, halve

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vae": OldPhotoVAE,
    "mapping": OldPhotoMapping,
    "mapping, partial": lambda: OldPhotoMapping(attention="partial"),
    "mapping, patch": lambda: OldPhotoMapping(attention="patch"),
    "detector": ScratchDetector,
}
COUNTS = dict(zip(NETWORKS, (872_131, 36_135_232, 51_344_704, 73_904_448, 37_626_177), strict=True))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def holes(*shape: int, share: float = 0.3, seed: int = 1) -> Tensor:
    return (torch.rand(shape, generator=seeded(seed)) < share).double()


def small(kind: Callable[..., Any], **config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(**config).double().eval()


def mapping(attention: str) -> Any:
    return small(OldPhotoMapping, latent_channels=4, block_out_channels=(6, 8), num_blocks=6, attention=attention)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_as_many_parameters_as_the_published_one(name: str) -> None:
    with torch.device("meta"):
        network = NETWORKS[name]()
    assert sum(one.numel() for one in network.parameters()) == COUNTS[name]


def test_the_counts_are_those_of_the_shared_material(shared: Path) -> None:
    counts = json.loads((shared / "golden" / "gan" / "oldphoto_param_counts.json").read_text())
    names = ("vae(GlobalGenerator_DCDCv2)", "mapping_quality", "mapping_scratch(partial nonlocal)")
    names += ("mapping_Patch_Attention(HR)", "scratch_detector_unet")
    assert [counts[name] for name in names] == list(COUNTS.values())
    assert counts["inference quality path (E_A + T + G_B)"] == COUNTS["vae"] + COUNTS["mapping"]


def test_the_sizes_of_what_comes_out() -> None:
    with torch.device("meta"):
        vae, detector = OldPhotoVAE(), ScratchDetector()
        z = vae.encode(torch.empty(2, 3, 256, 512))
        assert z.shape == (2, 64, 64, 128)
        assert vae.decode(z).shape == vae(torch.empty(2, 3, 256, 512)).shape == (2, 3, 256, 512)
        assert detector(torch.empty(2, 1, 256, 400)).shape == (2, 1, 256, 400)
    for attention in ("none", "partial", "patch"):
        network = small(
            OldPhotoMapping, latent_channels=4, block_out_channels=(6, 8), num_blocks=6, attention=attention
        )
        mask = None if attention == "none" else holes(2, 1, 64, 96, share=0.05)
        assert network(normal(2, 4, 16, 24), mask).shape == (2, 4, 16, 24)


# --- attention -------------------------------------------------------------------------------------------------------


def dense(q: Tensor, k: Tensor, v: Tensor, known: Tensor) -> Tensor:
    """The original's way: softmax over all pixels, the masked ones set to 0, and what is left scaled to 1."""
    f = torch.einsum("bcn,bcm->bnm", q.flatten(2), k.flatten(2)).softmax(dim=2)
    f = functional.normalize(f * known.flatten(2), p=1, dim=2)
    return torch.einsum("bnm,bcm->bcn", f, v.flatten(2)).reshape(v.shape)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_partial_attention_is_the_dense_one(share: float) -> None:
    q, k, v = (normal(3, 5, 6, 7, seed=seed) for seed in range(3))
    known = 1 - holes(3, 1, 6, 7, share=share)
    assert (partial_attention(q, k, v, known) - dense(q, k, v, known)).abs().max() < 1e-12


def test_partial_attention_by_a_loop_over_pixels() -> None:
    q, k, v = (normal(1, 3, 2, 3, seed=seed) for seed in range(3))
    known = torch.tensor([1.0, 0, 1, 0, 1, 1]).reshape(1, 1, 2, 3)
    made = partial_attention(q, k, v, known).flatten(2)[0]
    keys = [i for i in range(6) if known.flatten()[i]]
    for i in range(6):
        weights = torch.stack([(q.flatten(2)[0, :, i] * k.flatten(2)[0, :, j]).sum() for j in keys]).exp()
        wanted = sum(w * v.flatten(2)[0, :, j] for w, j in zip(weights, keys, strict=True)) / weights.sum()
        assert (made[:, i] - wanted).abs().max() < 1e-12


def test_a_picture_that_is_masked_whole_attends_to_nothing() -> None:
    q, k, v = (normal(2, 5, 4, 4, seed=seed) for seed in range(3))
    known = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    known[0] = 0
    made = partial_attention(q, k, v, known)
    assert not made[0].any()
    assert (made[1:] - dense(q, k, v, known)[1:]).abs().max() < 1e-12


def test_known_pixels_stay() -> None:
    block = small(PartialNonLocalBlock, channels=6)
    x, masked = normal(2, 6, 8, 8), holes(2, 1, 8, 8)
    made = block(x, masked)
    kept = (masked == 0).expand_as(x)
    assert torch.equal(made[kept], x[kept])
    assert not torch.allclose(made[~kept], x[~kept])
    other = torch.where(kept, x, normal(2, 6, 8, 8, seed=5))
    assert torch.equal(block(other, masked)[kept], x[kept])


def test_masked_patches_are_taken_from_where_they_are_most_alike() -> None:
    """A row of patches; the angle decides, and not the length."""
    directions = normal(6, 4 * 4)
    directions[5] = 3 * directions[1] + 0.1 * directions[2]
    x = functional.fold(directions.T[None], (2, 12), 2, stride=2)
    masked = torch.zeros(1, 1, 2, 12, dtype=torch.float64)
    masked[..., 10:] = 1
    masked[..., :1, 0] = 1  # a quarter of a patch
    patches = functional.unfold(compose_patches(x, masked, 2), 2, stride=2)[0].T
    assert torch.allclose(patches[:5], directions[:5])
    assert torch.allclose(patches[5], directions[1])
    everything = torch.ones_like(masked)
    assert torch.equal(compose_patches(x, everything, 2), x)


def test_a_batch_is_its_pictures() -> None:
    for attention in ("partial", "patch"):
        network = small(
            OldPhotoMapping, latent_channels=4, block_out_channels=(6, 8), num_blocks=6, attention=attention
        )
        z, mask = normal(3, 4, 8, 16), holes(3, 1, 32, 64, share=0.02)
        mask[1] = 0
        whole = network(z, mask)
        for i in range(3):
            assert (network(z[i : i + 1], mask[i : i + 1]) - whole[i : i + 1]).abs().max() < 1e-12
    assert not torch.allclose(whole, network(z, torch.zeros_like(mask)))


# --- the detector ----------------------------------------------------------------------------------------------------


def test_halving_is_a_blur_and_every_second_pixel() -> None:
    x = normal(2, 3, 6, 8)
    padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    for row in range(3):
        for column in range(4):
            window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            taps = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]).double() / 16
            assert torch.allclose(halve(x)[:, :, row, column], (window * taps).sum(dim=(2, 3)))
    assert torch.allclose(halve(torch.ones(1, 2, 6, 6, dtype=torch.float64)), torch.ones(1, 2, 3, 3).double())


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (OldPhotoVAE, {"num_blocks": 0}, "num_blocks must be a whole number >= 1, got 0"),
        (OldPhotoVAE, {"block_out_channels": ()}, "block_out_channels must name the channels"),
        (OldPhotoVAE, {"in_channels": 1.5}, "in_channels must be a whole number >= 1, got 1.5"),
        (OldPhotoMapping, {"attention": "all"}, "no attention named 'all'"),
        (
            OldPhotoMapping,
            {"attention": "patch", "num_blocks": 3},
            "num_blocks must be 6 with attention 'patch'",
        ),
        (OldPhotoMapping, {"latent_channels": 0}, "latent_channels must be a whole number >= 1, got 0"),
        (ScratchDetector, {"block_out_channels": "64"}, "block_out_channels must name the channels"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        kind(**arguments)


def test_what_does_not_fit_is_refused() -> None:
    vae = small(OldPhotoVAE, block_out_channels=(4, 4, 4))
    with pytest.raises(InvalidInputError, match="multiples of 4, of 8 and more, got"):
        vae(normal(1, 3, 16, 18))
    with pytest.raises(InvalidInputError, match=r"sample must be \(B, 3, H, W\)"):
        vae(normal(1, 1, 16, 16))
    plain, partial, patch = (
        small(OldPhotoMapping, latent_channels=4, block_out_channels=(6,), num_blocks=6, attention=attention)
        for attention in ("none", "partial", "patch")
    )
    z, mask = normal(1, 4, 8, 8), holes(1, 1, 32, 32)
    with pytest.raises(InvalidInputError, match="mask must be None: this network takes none"):
        plain(z, mask)
    with pytest.raises(InvalidInputError, match="mask is needed by this network"):
        partial(z)
    with pytest.raises(InvalidInputError, match=r"mask must be \(1, 1, h, w\), got \(1, 3, 32, 32\)"):
        partial(z, mask.expand(-1, 3, -1, -1))
    with pytest.raises(InvalidInputError, match="latent must have sides that are multiples of 8, got"):
        patch(normal(1, 4, 8, 12), mask)
    with pytest.raises(InvalidInputError, match="multiples of 4, of 8 and more, got"):
        small(ScratchDetector, block_out_channels=(4, 4, 4))(normal(1, 1, 4, 16))
