"""Faces of photographs: aligned by five landmarks, cut out, enhanced, and put back (arXiv:2004.09484, section 3.3).

Positions are (x, y) in pixels; the centre of the first pixel is (0, 0). A transform is a matrix (3, 3), float64, that
leads from positions (x, y, 1) in an aligned face to those in the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .. import images
from ..errors import InvalidInputError, check_int
from ..models.face_enhancer import FaceEnhancer
from ..tensors import check_floats, check_values, described
from .common import uncompiled

SIZE = 256  # of the aligned faces of the first published network, in pixels; that of the second is 512
FEATHER = 0.1  # of an aligned face, on each side, where it fades into the picture

# From the middle of a face of 512 pixels, in that unit; the published networks see them enlarged by 1.3.
_OFFSETS = torch.tensor([(-60, -30), (60, -30), (0, 30), (-36, 104.4), (36, 104.4)], dtype=torch.float64) * 1.3 / 512
_LANDMARKS = "left eye, right eye, nose, left and right corner of the mouth, as one sees them"
_LEAST_SCALE = 1e-6  # of a transform: smaller ones have no inverse worth the name
_LEAST_FIT = 0.3  # of the landmarks' variance that a transform explains: 1 of the template, 0.65 without widths


class Face(NamedTuple):
    """A face in a picture, as detectors find it.

    Attributes:
        box: left, top, right and bottom, in pixels.
        points: left eye, right eye, nose, left and right corner of the mouth, as one sees them: (5, 2), in pixels.
        score: how sure the detector is.
    """

    box: tuple[float, float, float, float]
    points: Tensor
    score: float


Detect: TypeAlias = Callable[[Image.Image], Sequence[tuple[Any, Any, Any]]]
"""What finds faces: a box, five points and a score for each face of an RGB picture."""


def face_template(size: int = SIZE) -> Tensor:
    """Where the five landmarks lie in an aligned face of this size: (5, 2), float64.

    Raises:
        InvalidInputError: a size that is no whole number above 0.
    """
    return (0.5 + _OFFSETS) * check_int("size", size, 1)


def similarity(points: Any, template: Any) -> Tensor:
    """The transform R that minimises sum |R (x, y, 1) - point|^2 over turns, scales and shifts, without reflections.

    In the plane, Umeyama's solution (IEEE TPAMI 13(4), 1991) is that of a linear problem: R has the rows (a, -b, .)
    and (b, a, .).

    Args:
        points: (N, 2), N >= 2: tensor, array or lists.
        template: the (x, y) that belong to them, (N, 2).

    Returns:
        (3, 3), float64.

    Raises:
        InvalidInputError: other shapes, NaN or Inf, or points of which all are in one place.
    """
    there = _positions("points", points)
    here = _positions("template", template, len(there))
    to, of = there - there.mean(dim=0), here - here.mean(dim=0)
    power = of.square().sum()
    if not bool(power > 0):
        raise InvalidInputError(f"template must have points in several places, got {here.tolist()}")
    a = (of * to).sum() / power
    b = (of[:, 0] * to[:, 1] - of[:, 1] * to[:, 0]).sum() / power
    if not bool(torch.hypot(a, b) > _LEAST_SCALE):
        raise InvalidInputError(f"points must lie as those of the template do, in several places, got {there.tolist()}")
    turn = torch.stack([torch.stack([a, -b]), torch.stack([b, a])])
    made = torch.eye(3, dtype=torch.float64)
    made[:2, :2], made[:2, 2] = turn, there.mean(dim=0) - turn @ here.mean(dim=0)
    return made


def cut_face(picture: Tensor, transform: Tensor, size: int = SIZE) -> Tensor:
    """The aligned face (1, C, size, size) of a picture: face(x, y) = picture(transform (x, y, 1)), bilinear.

    Outside the picture, its border goes on. Where a pixel of the face spans two or more of the picture in each
    direction, these are averaged in blocks before, for detail not to alias.

    Args:
        picture: (1, C, H, W).
        transform: (3, 3), as of `similarity`.
        size: of the face, in pixels.

    Raises:
        InvalidInputError: other shapes, or a transform that has no inverse.
    """
    check_int("size", size, 1)
    return _sampled(_picture("picture", picture), _matrix(transform), size, size, "bilinear")


def match_histogram(face: Tensor, reference: Tensor) -> Tensor:
    """`face` with the values of `reference`, channel by channel: the least r with F_reference(r) >= F_face(value).

    F are the shares of values that are no larger. The map is monotone, equal values stay equal, and a face whose
    values differ, as large as the reference, gets exactly its histogram.

    Args:
        face: (B, C, H, W).
        reference: (B, C, h, w).

    Raises:
        InvalidInputError: other shapes, dtypes or devices.
    """
    check_floats("face", face)
    check_floats("reference", reference)
    if reference.shape[:2] != face.shape[:2] or (reference.dtype, reference.device) != (face.dtype, face.device):
        raise InvalidInputError(
            f"reference must have the batch, channels, dtype and device of face, {described(face)} on {face.device}, "
            f"got {described(reference)} on {reference.device}"
        )
    values, wanted = face.flatten(2).contiguous(), reference.flatten(2).sort(dim=2).values
    count, others = values.shape[2], wanted.shape[2]
    ranks = torch.searchsorted(values.sort(dim=2).values, values, right=True)
    # Whole numbers: a quotient of floats could be a little too large, and the next value taken.
    places = (ranks * others + count - 1) // count - 1
    return wanted.gather(2, places).reshape(face.shape)


def feather(positions: Tensor, size: int) -> Tensor:
    """How much of a face there is at positions (..., 2) in it: 1 in the middle, 0 at its border and outside, (...).

    With t = (distance to the border) / (FEATHER size), cut to [0, 1], it is the product of t^2 (3 - 2 t) of both axes.
    """
    distance = torch.minimum(positions, size - 1 - positions)
    t = (distance / (FEATHER * size)).clamp(0, 1)
    return (t.square() * (3 - 2 * t)).prod(dim=-1)


def paste_face(picture: Tensor, face: Tensor, transform: Tensor) -> Tensor:
    """A copy of the picture with an aligned face put back: picture + feather (face(transform^-1 (x, y, 1)) - picture).

    The face is sampled bicubically, within its range of values, and averaged in blocks before where it shrinks to half
    and less. What lies outside the face is left bit for bit as it was.

    Args:
        picture: (1, C, H, W).
        face: (1, C, size, size), aligned.
        transform: (3, 3), by which the face was cut.

    Raises:
        InvalidInputError: other shapes, or a transform that has no inverse.
    """
    _picture("picture", picture)
    size = face.shape[-1] if isinstance(face, Tensor) and face.ndim else 0
    if _picture("face", face).shape != (1, picture.shape[1], size, size):
        raise InvalidInputError(f"face must be (1, {picture.shape[1]}, size, size), got {tuple(face.shape)}")
    matrix, last = _matrix(transform), size - 1
    corners = (matrix @ torch.tensor([(0, last, 0, last), (0, 0, last, last), (1, 1, 1, 1)], dtype=torch.float64))[:2]
    ends = torch.tensor([picture.shape[3], picture.shape[2]], dtype=torch.float64)
    left, top = torch.minimum(corners.amin(dim=1).floor().clamp_min(0), ends).long().tolist()
    right, bottom = torch.minimum(corners.amax(dim=1).floor().clamp_min(-1) + 1, ends).long().tolist()
    made = picture.clone()
    if left >= right or top >= bottom:
        return made
    back = matrix.inverse() @ torch.tensor([(1, 0, left), (0, 1, top), (0, 0, 1)], dtype=torch.float64)
    height, width = bottom - top, right - left
    weight = feather(_mapped(back, height, width), size).to(picture.device, picture.dtype)
    region = made[:, :, top:bottom, left:right]
    pasted = _sampled(face.to(picture), back, height, width, "bicubic").clamp(
        face.amin().to(picture), face.amax().to(picture)
    )
    # Not `lerp` alone: it turns -0 into 0 where the weight is 0.
    region.copy_(torch.where(weight > 0, torch.lerp(region, pasted, weight), region))
    return made


def find_faces(picture: Tensor, detect: Detect) -> list[Face]:
    """The faces that a detector finds in a picture (1, C, H, W) in [-1, 1]; it is shown an RGB picture.

    Raises:
        InvalidInputError: another shape, or something that isn't a box, five points and a score for each face.
    """
    (shown,) = images.to_pil(_picture("picture", picture))
    found = detect(shown.convert("RGB"))
    return [_face(f"face {i} of the detector", one) for i, one in enumerate(_listed("the detector's faces", found))]


def check_faces(name: str, faces: Any, size: int = SIZE) -> list[Face]:
    """The faces of one picture, which can be aligned.

    Args:
        name: of the argument, for errors.
        faces: `Face` or (box, five points, score) for each.
        size: of the aligned faces.

    Raises:
        InvalidInputError: other types, NaN, or landmarks that don't lie as those of a face do.
    """
    known = [_face(f"{name}[{i}]", one) for i, one in enumerate(_listed(name, faces))]
    for i, face in enumerate(known):
        _aligning(f"{name}[{i}]", face, size)
    return known


@torch.no_grad()
def enhance_faces(
    picture: Tensor,
    faces: Sequence[Face | tuple[Any, Any, Any]] | Detect,
    enhancer: FaceEnhancer | Callable[[Tensor], Tensor],
    size: int | None = None,
) -> Tensor:
    """A copy of the picture whose faces are enhanced: cut, enhanced, given the histogram of before, and pasted.

    All are cut from the picture as it was given. Where two overlap, the later one covers the earlier.

    Args:
        picture: (1, C, H, W) in [-1, 1], C = 1 or 3; grey faces are shown to the network in three channels, whose mean
            is taken.
        faces: `Face` or (box, five points, score) for each, or what finds them in a PIL picture.
        enhancer: of aligned faces (1, 3, size, size) in [-1, 1].
        size: of the aligned faces; None is the network's own, or 256.

    Raises:
        InvalidInputError: other shapes or types, NaN in points, landmarks that don't lie as those of a face do, or an
            enhancer that gives something else than such a face.
    """
    if _picture("picture", picture).shape[1] not in (1, 3):
        raise InvalidInputError(f"picture must have 1 or 3 channels, got {tuple(picture.shape)}")
    if not callable(enhancer):
        raise InvalidInputError(f"enhancer must be a FaceEnhancer, or a function of faces, got {enhancer!r:.99}")
    network = uncompiled(enhancer)
    own = network if isinstance(network, FaceEnhancer) else None
    if size is None:
        size = SIZE if own is None else int(own.config.sample_size)
    known = find_faces(picture, faces) if callable(faces) else check_faces("faces", faces, size)
    transforms = [_aligning(f"faces[{i}]", face, size) for i, face in enumerate(known)]
    made = picture
    for transform in transforms:
        degraded = cut_face(picture, transform, size)
        shown = degraded.expand(-1, 3, -1, -1).contiguous()
        enhanced = enhancer(shown if own is None else shown.to(own.dtype))
        if not isinstance(enhanced, Tensor) or enhanced.shape != shown.shape:
            raise InvalidInputError(f"enhancer must give {tuple(shown.shape)}, got {described(enhanced)}")
        if not bool(enhanced.isfinite().all()):
            # The histogram would hide it.
            raise InvalidInputError("enhancer gave NaN or Inf: torch.float16 overflows, so try float32 or bfloat16")
        enhanced = enhanced.to(degraded)
        if degraded.shape[1] == 1:
            enhanced = enhanced.mean(dim=1, keepdim=True)
        made = paste_face(made, match_histogram(enhanced, degraded), transform)
    return made.clone() if made is picture else made


# --- geometry ---------------------------------------------------------------------------------------------------------


def _mapped(matrix: Tensor, height: int, width: int) -> Tensor:
    """`matrix (x, y, 1)` for all pixels, (height, width, 2), float64."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (height, width)), indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1) @ matrix[:2].mT


def _sampled(source: Tensor, matrix: Tensor, height: int, width: int, mode: str) -> Tensor:
    """`source(matrix (x, y, 1))` for all pixels, (B, C, height, width); the border of the source goes on."""
    precise = source.to(torch.promote_types(source.dtype, torch.float32))
    step = int(min(math.sqrt(abs(float(torch.linalg.det(matrix[:2, :2])))), max(source.shape[2:])))
    if step > 1:
        precise = functional.avg_pool2d(precise, step, ceil_mode=True)
        shift = (1 / step - 1) / 2  # the centre of a block is the mean of those of its pixels
        matrix = torch.tensor([(1 / step, 0, shift), (0, 1 / step, shift), (0, 0, 1)], dtype=torch.float64) @ matrix
    # In float64 and on the CPU: not every device has it, and float32 is off by pixels' hundredths in large pictures.
    sides = torch.tensor([precise.shape[3], precise.shape[2]], dtype=torch.float64)
    grid = (2 * _mapped(matrix, height, width) + 1) / sides - 1
    grid = grid.clamp(-4, 4).to(precise)[None].expand(len(source), -1, -1, -1)
    return functional.grid_sample(precise, grid, mode, "border", align_corners=False).to(source.dtype)


def _aligning(name: str, face: Face, size: int) -> Tensor:
    """The transform of a face, whose landmarks lie as those of a face do."""
    template = face_template(size)
    made = similarity(face.points, template)
    explained = torch.linalg.det(made[:2, :2]) * (template - template.mean(dim=0)).square().sum()
    if float(explained / (face.points - face.points.mean(dim=0)).square().sum()) < _LEAST_FIT:
        raise InvalidInputError(
            f"{name} has points that don't lie as those of a face do, which are: {_LANDMARKS}; are left and right "
            f"swapped? Got {face.points.tolist()}"
        )
    return made


# --- checks -----------------------------------------------------------------------------------------------------------


def _picture(name: str, value: object) -> Tensor:
    """`value`, if it is one picture."""
    picture = check_values(name, check_floats(name, value, "(1, C, H, W)"))
    if len(picture) != 1:
        raise InvalidInputError(f"{name} must be one picture (1, C, H, W), got {tuple(picture.shape)}")
    return picture


def _numbers(name: str, value: Any, form: str) -> Tensor:
    """`value` as float64 on the CPU, a copy; all finite."""
    try:
        given = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        made = torch.from_numpy(np.array(given, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{name} must be numbers {form}, got {described(value)}") from error
    if not bool(made.isfinite().all()):
        raise InvalidInputError(f"{name} must be finite, got {made.tolist()}")
    return made


def _positions(name: str, value: Any, count: int | None = None) -> Tensor:
    form = f"({'N' if count is None else count}, 2)"
    made = _numbers(name, value, form)
    if made.ndim != 2 or made.shape[1] != 2 or len(made) < 2 or count not in (None, len(made)):
        raise InvalidInputError(f"{name} must be positions {form}, two or more, got {tuple(made.shape)}")
    return made


def _matrix(transform: Any) -> Tensor:
    """`transform`, if it is an affine map with an inverse."""
    made = _numbers("transform", transform, "(3, 3)")
    if made.shape != (3, 3) or made[2].tolist() != [0, 0, 1]:
        raise InvalidInputError(f"transform must be (3, 3) with the last row (0, 0, 1), got {made.tolist()}")
    if not abs(float(torch.linalg.det(made))) > _LEAST_SCALE**2:
        raise InvalidInputError(f"transform must have an inverse, got {made.tolist()}")
    return made


def _listed(name: str, value: Any) -> list[Any]:
    """The faces of a list."""
    if isinstance(value, (str, bytes, Face)) or not isinstance(value, Sequence):
        raise InvalidInputError(f"{name} must be a list of (box, five points, score), got {value!r:.99}")
    return list(value)


def _face(name: str, value: Any) -> Face:
    """A face of a box, five points and a score."""
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise InvalidInputError(f"{name} must be (box, five points, score), got {value!r:.99}")
    box, points, score = value
    edges, sure = _numbers(f"the box of {name}", box, "(4,)"), _numbers(f"the score of {name}", score, "()")
    if edges.shape != (4,) or sure.numel() != 1:
        raise InvalidInputError(
            f"{name} must have a box of four numbers and one score, got {edges.tolist()} and {sure.tolist()}"
        )
    left, top, right, bottom = edges.tolist()
    return Face((left, top, right, bottom), _positions(f"the points of {name}", points, 5), sure.item())
