"""Faces of photographs: landmarks to transforms, cutting, histograms, pasting, and all of it in one call."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.exposure import match_histograms
from skimage.transform import warp
from torch import Tensor, nn

from diffusers_restore import FaceEnhancer, images
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.evaluation.metrics import psnr
from diffusers_restore.pipelines.faces import (
    FEATHER,
    Face,
    cut_face,
    enhance_faces,
    face_template,
    feather,
    find_faces,
    match_histogram,
    paste_face,
    similarity,
)

PHOTOS = Path(__file__).parents[1] / "diffusers_restore" / "assets" / "photos"
LANDMARKS = [[300.0, 310.0], [360.0, 305.0], [333.0, 345.0], [310.0, 380.0], [355.0, 377.0]]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def photo(name: str = "chelsea", dtype: torch.dtype = torch.float32) -> Tensor:
    return images.load(PHOTOS / f"{name}.png").tensor.to(dtype)


def smooth(height: int = 300, width: int = 420, channels: int = 3) -> Tensor:
    """A photograph, soft as a scan at too high a resolution is, float64."""
    coarse = torch.nn.functional.interpolate(photo(dtype=torch.float64), (height // 4, width // 4), mode="area")
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[:, :channels].clamp(-1, 1)


def turned(scale: float, angle: float, x: float, y: float) -> Tensor:
    """A similarity from an aligned face to a picture, in which the upper left corner of the face lies at (x, y)."""
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([(a, -b, x), (b, a, y), (0, 0, 1)], dtype=torch.float64)


def placed(transform: Tensor, points: Tensor) -> Tensor:
    return points @ transform[:2, :2].mT + transform[:2, 2]


def face_at(scale: float, angle: float, x: float, y: float, size: int = 64) -> Face:
    """A face whose landmarks lie as those of the template."""
    return Face((0.0, 0.0, 1.0, 1.0), placed(turned(scale, angle, x, y), face_template(size)), 0.9)


def inside(transform: Tensor, size: int, height: int, width: int) -> Tensor:
    """Which pixels of a picture lie in a face, its border included: (height, width)."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    here = placed(transform.inverse(), torch.stack([x, y], dim=-1))
    return ((here >= 0) & (here <= size - 1)).all(dim=-1)


# --- landmarks to transforms ------------------------------------------------------------------------------------------


def test_the_template() -> None:
    wanted = torch.tensor([[89, 108.5], [167, 108.5], [128, 147.5], [104.6, 195.86], [151.4, 195.86]]).double()
    assert torch.allclose(face_template(), wanted, atol=1e-5)
    for size in (1, 32, 300, 512):
        assert torch.allclose(face_template(size), face_template() * size / 256, rtol=1e-14)


def test_template_and_transforms_are_those_of_the_shared_material(shared: Path) -> None:
    known = json.loads((shared / "golden" / "gan" / "face_alignment.json").read_text())
    templates = {int(name[9:12]): points for name, points in known.items() if name.startswith("template")}
    assert set(templates) == {256, 512}
    for size, points in templates.items():
        assert (face_template(size) - torch.tensor(points, dtype=torch.float64)).abs().max() < 1e-12
        wanted = torch.tensor(known[f"similarity target{size}->image"], dtype=torch.float64)
        assert (similarity(known["example landmarks"], face_template(size)) - wanted).abs().max() < 1e-9


def test_a_transform_by_its_numbers() -> None:
    wanted = [(0.8134852566, 0.0404744056, 221.3523761573), (-0.0404744056, 0.8134852566, 225.5459597596), (0, 0, 1)]
    made = similarity(LANDMARKS, face_template())
    assert (made - torch.tensor(wanted, dtype=torch.float64)).abs().max() < 1e-9


def umeyama(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """By the singular values of the covariance, as in the paper."""
    to, of = points - points.mean(0), template - template.mean(0)
    u, s, vt = np.linalg.svd(to.T @ of)
    signs = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    made = np.eye(3)
    made[:2, :2] = u @ signs @ vt * (s * np.diag(signs)).sum() / np.square(of).sum()
    made[:2, 2] = points.mean(0) - made[:2, :2] @ template.mean(0)
    return made


@pytest.mark.parametrize("seed", range(6))
def test_it_is_umeyamas_solution_where_reflections_would_fit_better_too(seed: int) -> None:
    points, template = normal(5, 2, seed=seed), normal(5, 2, seed=seed + 100)
    for these in (points, template * torch.tensor([-1.0, 1.3])):
        wanted = umeyama(these.numpy(), template.numpy())
        made = similarity(these, template).numpy()
        assert np.abs(made - wanted).max() < 1e-12
        assert np.linalg.det(made) > 0


def test_nothing_near_fits_better() -> None:
    template, points = face_template(), torch.tensor(LANDMARKS, dtype=torch.float64)
    best = similarity(points, template)

    def misses(change: Tensor) -> float:
        return float((placed(best @ change, template) - points).square().sum())

    least = misses(torch.eye(3, dtype=torch.float64))
    for change in [
        (1.001, 0, 0, 0),
        (0.999, 0, 0, 0),
        (1, 1e-3, 0, 0),
        (1, -1e-3, 0, 0),
        (1, 0, 0.1, 0),
        (1, 0, 0, -0.1),
    ]:
        assert misses(turned(*change)) > least


def test_a_similarity_is_found_again() -> None:
    wanted = turned(0.37, 2.5, -40.0, 310.0)
    made = similarity(placed(wanted, face_template()).tolist(), face_template().numpy())
    assert (made - wanted).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("points", "template", "message"),
    [
        (torch.full((5, 2), math.nan), face_template(), "points must be finite, got"),
        ([[math.inf, 0.0]] * 5, face_template(), "points must be finite, got"),
        (torch.zeros(5, 3), face_template(), r"points must be positions \(N, 2\), two or more, got \(5, 3\)"),
        (torch.zeros(1, 2), face_template(), r"points must be positions \(N, 2\), two or more, got \(1, 2\)"),
        (LANDMARKS[:4], face_template(), r"template must be positions \(4, 2\), two or more, got \(5, 2\)"),
        ("points", face_template(), r"points must be numbers \(N, 2\), got str 'points'"),
        ([[1, 2], [3]], face_template(), r"points must be numbers \(N, 2\), got list"),
        (None, face_template(), "points must be finite"),
        (torch.ones(5, 2), face_template(), "points must lie as those of the template do, in several places, got"),
        (LANDMARKS, torch.ones(5, 2), "template must have points in several places, got"),
    ],
)
def test_points_that_are_none_are_refused(points: Any, template: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        similarity(points, template)


# --- cutting ----------------------------------------------------------------------------------------------------------


def ramps(height: int, width: int) -> Tensor:
    """A picture whose channels are x and y: of any interpolation without error."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return torch.stack([x, y])[None]


# The third and fourth are of faces so large that blocks of 2 and 3 pixels are averaged.
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.4, 3.9])
def test_each_pixel_of_a_face_is_from_where_the_transform_says(scale: float) -> None:
    transform = turned(scale, 0.2, 60.0, 50.0)
    face = cut_face(ramps(400, 390), transform, 64)
    wanted = placed(transform, ramps(64, 64)[0].movedim(0, -1)).movedim(-1, 0)
    assert (face[0] - wanted).abs().max() < 1e-9


def test_a_cut_is_that_of_scikit_image() -> None:
    picture = photo(dtype=torch.float64)
    for transform in (turned(0.8, -0.4, 100.0, 120.0), turned(1.9, 0.3, -60.0, -30.0)):
        wanted = warp(picture[0].movedim(0, -1).numpy(), transform.numpy(), output_shape=(96, 96), order=1, mode="edge")
        assert np.abs(cut_face(picture, transform, 96)[0].movedim(0, -1).numpy() - wanted).max() < 1e-12


def test_an_upright_cut_is_a_crop() -> None:
    picture = photo()
    face = cut_face(picture, turned(1.0, 0.0, 30.0, 40.0), 128)
    assert (face - picture[:, :, 40:168, 30:158]).abs().max() < 1e-4


def test_landmarks_come_to_lie_on_the_template() -> None:
    transform = similarity(LANDMARKS, face_template(512))
    dots = torch.zeros(1, 1, 600, 600, dtype=torch.float64)
    for x, y in placed(transform, face_template(512)).round().long().tolist():
        dots[0, 0, y, x] = 1
    face = cut_face(dots, transform, 512)[0, 0]
    for x, y in face_template(512).round().long().tolist():
        near = face[y - 2 : y + 3, x - 2 : x + 3]
        assert near.max() > 0.5


def test_a_large_face_is_averaged_and_not_sampled() -> None:
    checks = (ramps(400, 400).sum(dim=1, keepdim=True) % 2) * 2 - 1
    face = cut_face(checks, turned(4.0, 0.0, 40.0, 40.0), 64)
    assert face.abs().max() < 1e-12
    assert cut_face(checks, turned(1e9, 0.0, 0.0, 0.0), 4).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("picture", "transform", "size", "message"),
    [
        (torch.zeros(2, 3, 8, 8), turned(1, 0, 0, 0), 4, r"picture must be one picture \(1, C, H, W\), got"),
        (torch.zeros(3, 8, 8), turned(1, 0, 0, 0), 4, r"picture must be a float tensor \(1, C, H, W\), got"),
        (torch.zeros(1, 3, 8, 8).byte(), turned(1, 0, 0, 0), 4, "picture must be a float tensor"),
        (torch.zeros(1, 3, 8, 8), torch.eye(2), 4, r"transform must be \(3, 3\) with the last row \(0, 0, 1\)"),
        (torch.zeros(1, 3, 8, 8), torch.ones(3, 3), 4, r"transform must be \(3, 3\) with the last row \(0, 0, 1\)"),
        (torch.zeros(1, 3, 8, 8), torch.diag(torch.tensor([0.0, 1, 1])), 4, "transform must have an inverse"),
        (torch.zeros(1, 3, 8, 8), torch.eye(3) * math.nan, 4, "transform must be finite"),
        (torch.zeros(1, 3, 8, 8), turned(1, 0, 0, 0), 0, "size must be a whole number >= 1, got 0"),
    ],
)
def test_what_cannot_be_cut_is_refused(picture: Tensor, transform: Tensor, size: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        cut_face(picture, transform, size)


# --- histograms -------------------------------------------------------------------------------------------------------


def test_a_histogram_becomes_exactly_the_other() -> None:
    face, reference = normal(2, 3, 20, 30), normal(2, 3, 20, 30, seed=1).exp()
    made = match_histogram(face, reference)
    assert torch.equal(made.flatten(2).sort().values, reference.flatten(2).sort().values)
    assert torch.equal(made.flatten(2).argsort(), face.flatten(2).argsort())  # monotone
    assert torch.equal(match_histogram(face[1:], reference[1:]), made[1:])


def test_equal_pictures_stay() -> None:
    for picture in (photo("coffee"), (photo() * 4).round() / 4):  # in the second, nearly all values are alike
        assert torch.equal(match_histogram(picture, picture), picture)
        assert torch.equal(match_histogram(picture * 0.3 - 0.1, picture), picture)


def by_shares(face: Tensor, reference: Tensor) -> Tensor:
    """By counting, value by value: the definition."""
    made, n, m = face.clone(), face.numel(), reference.numel()
    for value in face.unique():
        share = int((face <= value).sum())
        made[face == value] = min(r for r in reference.unique() if int((reference <= r).sum()) * n >= share * m)
    return made


@pytest.mark.parametrize(("size", "levels"), [((6, 7), 3), ((5, 5), 50), ((1, 1), 50), ((9, 4), 8)])
def test_a_histogram_by_its_definition(size: tuple[int, int], levels: int) -> None:
    face, reference = (normal(1, 1, 6, 7) * levels).round(), (normal(1, 1, *size, seed=1) * 4).round()
    assert torch.equal(match_histogram(face, reference), by_shares(face, reference))


@pytest.mark.parametrize("levels", [None, 8])
def test_a_histogram_is_that_of_scikit_image(levels: int | None) -> None:
    """Which interpolates between values; of 8 bits, their steps are 1 / 127.5."""
    face = cut_face(photo("coffee", torch.float64), turned(1.4, 0.3, 60, 20), 128)
    reference = cut_face(photo(dtype=torch.float64), turned(0.9, 0.1, 130, 40), 128)
    if levels:
        face, reference = (((one + 1) * 127.5).round() / 127.5 - 1 for one in (face, reference))
    wanted = match_histograms(face[0].numpy(), reference[0].numpy(), channel_axis=0)
    off = np.abs(match_histogram(face, reference)[0].numpy() - wanted)
    assert off.max() < (1 / 127.5 if levels else 1e-3)


@pytest.mark.parametrize(
    ("face", "reference", "message"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(1, 3, 4, 4), r"face must be a float tensor \(B, C, H, W\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 0, 4), r"reference must be a float tensor \(B, C, H, W\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), "reference must have the batch, channels, dtype and device"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4).double(), "got torch.float64"),
    ],
)
def test_histograms_of_other_things_are_refused(face: Tensor, reference: Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        match_histogram(face, reference)


# --- pasting ----------------------------------------------------------------------------------------------------------


def test_weights_are_1_in_the_middle_and_0_at_the_border() -> None:
    size = 101
    y, x = torch.meshgrid(torch.arange(size).double(), torch.arange(size).double(), indexing="ij")
    weight = feather(torch.stack([x, y], dim=-1), size)
    edge = math.ceil(FEATHER * size)
    assert (weight[edge : size - edge, edge : size - edge] == 1).all()
    for border in (weight[0], weight[-1], weight[:, 0], weight[:, -1]):
        assert not border.any()
    assert (weight[1 : size - 1, 1 : size - 1] > 0).all()
    row = weight[size // 2]
    assert (row[: edge + 1].diff() > 0).all()
    assert torch.equal(weight, weight.T)
    assert torch.equal(weight, weight.flip(0))
    assert torch.allclose(weight, row[:, None] * row)
    outside = torch.tensor([[-1e-9, 50], [50, 100.0001], [-1e9, 50], [1e9, -1e9]], dtype=torch.float64)
    assert not feather(outside, size).any()
    half = torch.tensor([FEATHER * size / 2, 50], dtype=torch.float64)
    assert feather(half, size) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("scale", "angle", "x", "y", "size"),
    [
        (1.0, 0.0, 80.0, 60.0, 128),
        (0.8, 0.3, 120.0, 40.0, 256),
        (0.3, -0.5, 150.0, 120.0, 256),  # averaged when it is pasted
        (2.6, 0.1, 90.0, 20.0, 96),  # averaged when it is cut
        (1.5, 2.8, 300.0, 200.0, 128),  # upside down, and partly outside
        (1.1, 0.2, -50.0, -70.0, 128),  # partly outside
    ],
)
def test_a_face_that_is_cut_and_pasted_changes_nothing(
    scale: float, angle: float, x: float, y: float, size: int
) -> None:
    picture, transform = smooth(), turned(scale, angle, x, y)
    before = picture.clone()
    pasted = paste_face(picture, cut_face(picture, transform, size), transform)
    assert torch.equal(picture, before)
    within = inside(transform, size, *picture.shape[2:])
    assert 0.02 < within.double().mean() < 0.9
    assert torch.equal(pasted[:, :, ~within], picture[:, :, ~within])
    assert not torch.equal(pasted, picture)
    quality = psnr(pasted[0][:, within][..., None], picture[0][:, within][..., None])
    assert quality > 45


def test_a_pasted_face_is_there_and_nothing_else_changes() -> None:
    picture, transform, size = photo("coffee"), turned(0.7, 0.4, 120.0, 60.0), 200
    picture[:, :, ::7] = -0.0  # whose sign a blend with nothing would lose
    pasted = paste_face(picture, torch.full((1, 3, size, size), 0.25), transform)
    y, x = torch.meshgrid(torch.arange(256).double(), torch.arange(256).double(), indexing="ij")
    here = placed(transform.inverse(), torch.stack([x, y], dim=-1))
    weight = feather(here, size).float()
    assert (pasted - (picture + weight * (0.25 - picture))).abs().max() < 1e-6
    middle = weight == 1
    assert middle.any()
    assert (pasted[:, :, middle] - 0.25).abs().max() < 1e-6
    outside = weight == 0
    assert torch.equal(pasted[:, :, outside].view(torch.int32), picture[:, :, outside].view(torch.int32))


def test_a_pasted_face_keeps_its_range() -> None:
    face = ((ramps(96, 96)[:, :1] // 12 % 2) * 2 - 1).float()  # stripes, which cubic interpolation overshoots
    pasted = paste_face(torch.zeros(1, 1, 120, 120), face, turned(0.77, 0.2, 30.0, 20.0))
    assert pasted.min() == -1
    assert pasted.max() == 1


@pytest.mark.parametrize(("x", "y"), [(1000.0, 50.0), (-200.0, 50.0), (50.0, 1000.0), (50.0, -90.0), (1e12, -1e12)])
def test_a_face_wholly_outside_changes_nothing(x: float, y: float) -> None:
    picture = photo()
    pasted = paste_face(picture, torch.ones(1, 3, 64, 64), turned(1.0, 0.0, x, y))
    assert torch.equal(pasted, picture)
    assert pasted is not picture


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    picture, transform = smooth(), turned(0.8, 0.3, 120.0, 40.0)
    face = cut_face(picture.to(dtype), transform, 128)
    assert face.dtype == dtype
    assert (face.double() - cut_face(picture, transform, 128)).abs().max() < 8e-3
    pasted = paste_face(picture.to(dtype), match_histogram(face, face), transform)
    assert (pasted.double() - picture).abs().max() < 3e-2


@pytest.mark.parametrize(
    ("face", "message"),
    [
        (torch.zeros(1, 3, 8, 9), r"face must be \(1, 3, size, size\), got \(1, 3, 8, 9\)"),
        (torch.zeros(1, 1, 8, 8), r"face must be \(1, 3, size, size\), got \(1, 1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), r"face must be one picture"),
        (torch.zeros(3, 8, 8), r"face must be a float tensor"),
        (None, r"face must be a float tensor \(1, C, H, W\), got NoneType None"),
    ],
)
def test_faces_that_cannot_be_pasted_are_refused(face: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        paste_face(torch.zeros(1, 3, 16, 16), face, turned(1, 0, 0, 0))


# --- all of it --------------------------------------------------------------------------------------------------------


def negative(face: Tensor) -> Tensor:
    return -face


def network(size: int = 64) -> FaceEnhancer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FaceEnhancer(size, (4, 6, 8), 5).eval()


def steps(picture: Tensor, face: Face, enhancer: Callable[[Tensor], Tensor], size: int, onto: Tensor) -> Tensor:
    """What is done with one face."""
    transform = similarity(face.points, face_template(size))
    degraded = cut_face(picture, transform, size)
    return paste_face(onto, match_histogram(enhancer(degraded), degraded), transform)


FACES = [face_at(1.2, 0.2, 100.0, 30.0), face_at(1.0, -0.3, 20.0, 150.0), face_at(1.3, 0.1, 160.0, 170.0)]


def test_faces_are_enhanced_one_after_the_other() -> None:
    picture = photo()
    before = picture.clone()
    wanted = picture
    for face in FACES:
        wanted = steps(picture, face, negative, 64, wanted)
    made = enhance_faces(picture, FACES, negative, size=64)
    assert torch.equal(made, wanted)
    assert torch.equal(picture, before)
    changed = torch.zeros(made.shape[2:], dtype=torch.bool)
    for face in FACES:
        changed |= inside(similarity(face.points, face_template(64)), 64, *made.shape[2:])
    assert torch.equal(made[:, :, ~changed], picture[:, :, ~changed])
    assert (made != picture)[:, :, changed].double().mean() > 0.9


def test_faces_that_overlap_are_cut_from_the_picture_as_it_was() -> None:
    picture, faces = photo(), [face_at(1.5, 0.0, 100.0, 50.0), face_at(1.5, 0.0, 140.0, 60.0)]
    once = enhance_faces(picture, faces[1:], negative, size=64)
    both = enhance_faces(picture, faces, negative, size=64)
    transform = similarity(faces[1].points, face_template(64))
    y, x = torch.meshgrid(torch.arange(256).double(), torch.arange(256).double(), indexing="ij")
    middle = feather(placed(transform.inverse(), torch.stack([x, y], dim=-1)), 64) == 1
    assert middle.any()
    assert torch.equal(both[:, :, middle], once[:, :, middle])
    assert not torch.equal(both, once)


@pytest.mark.parametrize("size", [64, 100, 256])
def test_an_enhancer_that_changes_nothing(size: int) -> None:
    picture = smooth()
    faces = [face_at(0.6, 0.2, 150.0, 40.0, size=256)]
    made = enhance_faces(picture, faces, lambda face: face, size=size)
    assert psnr(made[0], picture[0]) > 40
    assert torch.equal(made, enhance_faces(picture, faces, lambda face: 0.2 * face + 0.3, size=size))


def test_colours_and_light_are_those_of_the_photograph() -> None:
    """Whatever the network makes of them."""
    picture, (face, *_) = photo(), FACES
    degraded = cut_face(picture, similarity(face.points, face_template(64)), 64)
    made = enhance_faces(picture, [face], lambda one: one.square() - one.flip(3), size=64)
    pasted = cut_face(made, similarity(face.points, face_template(64)), 64)
    middle = (..., slice(8, 56), slice(8, 56))
    assert (pasted[middle].mean(dim=(2, 3)) - degraded[middle].mean(dim=(2, 3))).abs().max() < 0.1


def test_with_the_network() -> None:
    picture, enhancer = photo(), network()
    made = enhance_faces(picture, FACES, enhancer)
    wanted = picture
    for face in FACES:
        with torch.no_grad():
            wanted = steps(picture, face, enhancer, 64, wanted)
    assert torch.equal(made, wanted)
    assert not made.requires_grad
    smaller = enhance_faces(picture, FACES, enhancer, size=32)
    assert not torch.equal(smaller, made)
    halved = enhance_faces(picture, FACES, network().bfloat16())
    assert halved.dtype == torch.float32
    assert (halved - made).abs().mean() < 0.01


def test_no_faces() -> None:
    picture = photo()
    for faces in ([], (), lambda shown: []):
        made = enhance_faces(picture, faces, negative)
        assert torch.equal(made, picture)
        assert made is not picture


def test_grey_pictures_stay_grey_and_are_shown_in_colours() -> None:
    picture = photo().mean(dim=1, keepdim=True)
    shown = []

    def enhancer(face: Tensor) -> Tensor:
        shown.append(face)
        return face * torch.tensor([1.0, 0.5, 0.2]).reshape(3, 1, 1) + 0.1

    made = enhance_faces(picture, FACES[:1], enhancer, size=64)
    assert made.shape == picture.shape
    assert [one.shape for one in shown] == [(1, 3, 64, 64)]
    assert torch.equal(shown[0][:, 0], shown[0][:, 2])
    transform = similarity(FACES[0].points, face_template(64))
    assert (made - paste_face(picture, cut_face(picture, transform, 64), transform)).abs().max() < 1e-6
    enhancer = network()
    made = enhance_faces(picture, FACES[:1], enhancer)

    def grey(face: Tensor) -> Tensor:
        with torch.no_grad():
            return enhancer(face.expand(-1, 3, -1, -1)).mean(dim=1, keepdim=True)

    assert torch.equal(made, steps(picture, FACES[0], grey, 64, picture))


def test_a_detector_is_shown_the_picture() -> None:
    picture, seen = photo(), []

    def detect(shown: Image.Image) -> list[Any]:
        seen.append(shown)
        # As detectors give them: arrays of float32, lists, and tensors.
        first, second, third = FACES
        return [
            (np.array([1, 2, 30, 40], dtype=np.float32), first.points.numpy(), np.float32(0.75)),
            [[0, 0, 1, 1], second.points.tolist(), 1],
            (torch.zeros(4), third.points.float(), torch.tensor([0.5])),
        ]

    found = find_faces(picture, detect)
    assert [type(one) for one in found] == [Face] * 3
    assert found[0].box == (1.0, 2.0, 30.0, 40.0)
    assert [one.score for one in found] == [0.75, 1.0, 0.5]
    for one, wanted in zip(found, FACES, strict=True):
        assert (one.points - wanted.points).abs().max() < 1e-4
    assert seen[0].mode == "RGB"
    assert torch.equal(images.to_tensor(seen[0]), images.to_tensor(images.to_pil(picture)[0]))
    assert torch.equal(
        enhance_faces(picture, detect, negative, size=64), enhance_faces(picture, found, negative, size=64)
    )
    find_faces(picture[:, :1], detect)
    assert seen[-1].mode == "RGB"


def test_faces_partly_outside() -> None:
    picture = photo()
    faces = [face_at(1.5, 0.0, -40.0, -30.0), face_at(1.5, 0.3, 220.0, 200.0), face_at(1.0, 0.0, 2000.0, 0.0)]
    made = enhance_faces(picture, faces, network())
    assert made.isfinite().all()
    assert not torch.equal(made[:, :, :20, :20], picture[:, :, :20, :20])
    assert torch.equal(made[:, :, 100:180, 100:160], picture[:, :, 100:180, 100:160])


BOX = (0.0, 0.0, 1.0, 1.0)
POINTS = FACES[0].points


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        ([(BOX, POINTS * math.nan, 1.0)], r"the points of faces\[0\] must be finite, got"),
        ([FACES[0], (BOX, POINTS[:4], 1.0)], r"the points of faces\[1\] must be positions \(5, 2\)"),
        ([(BOX, POINTS.T, 1.0)], r"the points of faces\[0\] must be positions \(5, 2\), two or more, got \(2, 5\)"),
        ([(BOX, "points", 1.0)], r"the points of faces\[0\] must be numbers \(5, 2\), got str 'points'"),
        ([(BOX, POINTS[[1, 0, 2, 4, 3]], 1.0)], r"faces\[0\] has points .* are left and right swapped\? Got"),
        ([(BOX, POINTS * 0 + 5, 1.0)], r"points must lie as those of the template do, in several places"),
        ([(BOX[:3], POINTS, 1.0)], r"faces\[0\] must have a box of four numbers and one score"),
        ([(BOX, POINTS, (1.0, 2.0))], r"faces\[0\] must have a box of four numbers and one score"),
        ([(BOX, POINTS, math.nan)], r"the score of faces\[0\] must be finite, got nan"),
        ([(BOX, POINTS)], r"faces\[0\] must be \(box, five points, score\), got"),
        ([POINTS], r"faces\[0\] must be \(box, five points, score\), got"),
        (FACES[0], r"faces must be a list of \(box, five points, score\), got Face"),
        (None, r"faces must be a list of \(box, five points, score\), got None"),
        ("faces", r"faces must be a list of \(box, five points, score\), got 'faces'"),
        (lambda shown: None, "the detector's faces must be a list"),
        (lambda shown: [(BOX, POINTS)], r"face 0 of the detector must be \(box, five points, score\)"),
    ],
)
def test_faces_that_are_none_are_refused_by_name(faces: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        enhance_faces(photo(), faces, negative, size=64)


@pytest.mark.parametrize(
    ("picture", "enhancer", "options", "message"),
    [
        (torch.zeros(2, 3, 8, 8), negative, {}, "picture must be one picture"),
        (torch.zeros(1, 2, 8, 8), negative, {}, r"picture must have 1 or 3 channels, got \(1, 2, 8, 8\)"),
        (np.zeros((8, 8, 3)), negative, {}, "picture must be a float tensor"),
        (photo(), negative, {"size": 0}, "size must be a whole number >= 1, got 0"),
        (photo(), network(), {"size": 50}, r"sides that are multiples of 8, got \(1, 3, 50, 50\)"),
        (photo(), lambda face: face[:, :1], {}, r"enhancer must give \(1, 3, 256, 256\), got torch.float32"),
        (photo(), lambda face: None, {}, r"enhancer must give \(1, 3, 256, 256\), got NoneType None"),
        (photo(), lambda face: face * math.nan, {}, "enhancer gave NaN or Inf: torch.float16 overflows"),
        (photo(), nn.Conv2d(3, 3, 2), {"size": 32}, r"enhancer must give \(1, 3, 32, 32\), got"),
    ],
)
def test_what_cannot_be_enhanced_is_refused(picture: Any, enhancer: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        enhance_faces(picture, FACES, enhancer, **options)
