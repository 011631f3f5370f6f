"""Matrices on the rows, columns and channels of a picture: blur with any border, bicubic reduction, and products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OperatorError, unknown_name
from ..tensors import exact_product
from .base import Constant, LinearOperator, Shape, SVDOperator, check_shape, check_unmasked
from .color import Grayscale, check_weights
from .resize import BlockMean, bicubic_matrix, mean_matrix, reflect

INSIDE = "inside"
"""The border of a photograph that a camera has blurred: what lies beyond it is in y, too, and unknown."""

BORDERS = ("zero", "reflect", "replicate", "circular", "valid", INSIDE)

# Singular values below this share of the largest are set to zero: dividing by them would amplify the rounding of a
# float32 measurement above the grey levels of a picture.
RELATIVE_THRESHOLD = 1e-4

_COMPLEX = (torch.complex32, torch.complex64, torch.complex128)

Stage = dict[str, Any]


def check_kernel(kernel: Any, dimensions: int) -> Tensor:
    """A blur kernel as a float64 tensor: finite, of odd sizes, with a sum of 1 (to 1e-3).

    Raises:
        OperatorError: one of these conditions fails.
    """
    check_unmasked("kernel", kernel)
    try:
        if torch.as_tensor(kernel).dtype in (torch.bool, *_COMPLEX):  # torch would drop the imaginary part
            raise TypeError("not real")
        values = torch.as_tensor(kernel, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise OperatorError(f"kernel must be {dimensions}-dimensional numbers, got {kernel!r:.99}") from error
    if values.ndim != dimensions or any(size % 2 == 0 for size in values.shape):
        raise OperatorError(
            f"kernel must have {dimensions} odd size(s), so that it has a centre, got shape {tuple(values.shape)}"
        )
    if not bool(torch.isfinite(values).all()):
        raise OperatorError("kernel holds NaN or infinite values")
    total = float(values.sum())
    if abs(total - 1) > 1e-3:
        raise OperatorError(f"kernel must sum to 1, got {total:g}; divide it by its sum")
    return values


def blur_matrix(size: int, kernel: Sequence[float], border: str = "reflect") -> Tensor:
    """The matrix of a 1-D blur, float64: (size, size), or (size - taps + 1, size) for border="valid".

    Outside the picture are zeros ("zero"), the picture mirrored with its border pixel repeated ("reflect"), its border
    pixel ("replicate") or its other end ("circular"); "valid" keeps the outputs that need nothing from outside, and
    "inside" makes the others zero.

    Raises:
        OperatorError: a kernel that is larger than the picture, even-sized or does not sum to 1; an unknown border.
    """
    values = check_kernel(kernel, 1)
    taps = len(values)
    if border not in BORDERS:
        raise unknown_name("border", border, BORDERS)
    if taps > size:
        raise OperatorError(f"kernel of {taps} taps is larger than the picture's side {size}")
    offset = 0 if border == "valid" else taps // 2
    outputs = size - taps + 1 if border == "valid" else size
    # A convolution: tap j of the kernel weighs the pixel at i + centre - j.
    source = torch.arange(outputs)[:, None] + (taps - 1 - torch.arange(taps)) - offset
    weights = values.repeat(outputs, 1)
    beyond = (source < 0) | (source >= size)
    if border == "zero":
        weights = torch.where(beyond, 0.0, weights)
    elif border == INSIDE:
        weights = torch.where((beyond & (values != 0)).any(dim=1, keepdim=True), 0.0, weights)
    index = {"reflect": reflect(source, size), "circular": source.remainder(size)}.get(
        border, source.clamp(0, size - 1)
    )
    return torch.zeros(outputs, size, dtype=torch.float64).scatter_add_(1, index, weights)


def stage_matrix(size: int, stage: Stage) -> Tensor:
    """The matrix of one stage: blur (kernel, border), bicubic (factor), mean (factor) or weights (weights).

    Raises:
        OperatorError: no mapping, or an argument that is missing, unknown or of no use.
        UnknownNameError: another stage.
    """
    if not isinstance(stage, Mapping):
        raise OperatorError(f"a stage must be a mapping such as {{'stage': 'mean', 'factor': 2}}, got {stage!r:.99}")
    arguments = dict(stage)
    name = arguments.pop("stage", None)
    if not isinstance(name, str) or name not in _STAGES:
        raise unknown_name("stage", name, _STAGES)
    parameters = signature(_STAGES[name]).parameters
    needed = {key for key, one in parameters.items() if one.default is one.empty} - {"size"}
    if not needed <= set(arguments) <= set(parameters) - {"size"}:
        listed = ", ".join(key for key in parameters if key != "size")
        raise OperatorError(f"stage {name!r} takes {listed}, got {', '.join(map(str, arguments)) or 'nothing'}")
    return _STAGES[name](size, **arguments)


def _weights_matrix(size: int, weights: Sequence[float]) -> Tensor:
    values = check_weights(weights)
    if len(values) != size:
        raise OperatorError(f"weights must hold {size} numbers, got {len(values)}")
    return torch.tensor([values], dtype=torch.float64)


_STAGES: Mapping[str, Callable[..., Tensor]] = {
    "blur": blur_matrix,
    "bicubic": bicubic_matrix,
    "mean": mean_matrix,
    "weights": _weights_matrix,
}


class Separable(SVDOperator):
    """A matrix on each axis: A = K_c (x) K_h (x) K_w, so that U, S, V are products of three small SVDs.

    Each axis is a list of stages that are applied in order, e.g. `[{"stage": "blur", "kernel": [.25, .5, .25],
    "border": "reflect"}, {"stage": "mean", "factor": 2}]`; an empty list is the identity. Singular values below
    1e-4 of the largest are set to zero, in `forward` too. Memory: H^2 + W^2 numbers.

    Args:
        input_shape: (C, H, W).
        channels, height, width: the stages of the three axes.

    Raises:
        OperatorError: a stage that can't be used, or matrices that measure nothing.
    """

    kind: ClassVar[str] = "separable"

    def __init__(
        self,
        input_shape: Shape,
        channels: Sequence[Stage] = (),
        height: Sequence[Stage] = (),
        width: Sequence[Stage] = (),
    ) -> None:
        self.input_shape = check_shape("input_shape", input_shape)
        for name, stages in (("channels", channels), ("height", height), ("width", width)):
            if not isinstance(stages, (list, tuple)):
                raise OperatorError(f"{name} must be a list of stages, got {stages!r:.99}")
        self.stages = (list(channels), list(height), list(width))
        self._u: list[Constant | None] = []
        self._v: list[Constant | None] = []
        values, sizes, known = [], [], []
        for size, stages in zip(self.input_shape, self.stages, strict=True):
            if not stages:
                self._u.append(None)
                self._v.append(None)
                values.append(torch.ones(size, dtype=torch.float64))
                known.append(torch.ones(size, dtype=torch.float64))
                sizes.append(size)
                continue
            matrix = torch.eye(size, dtype=torch.float64)
            for stage in stages:
                matrix = stage_matrix(matrix.shape[0], stage) @ matrix
            kept = matrix.any(dim=1)  # rows of zeros measure nothing, and have no singular vector
            u = torch.zeros(len(matrix), min(int(kept.sum()), size), dtype=torch.float64)
            u[kept], s, vt = _svd(matrix[kept])
            self._u.append(Constant(u))
            self._v.append(Constant(vt.mT.contiguous()))
            values.append(s)
            known.append(kept.double())
            sizes.append(matrix.shape[0])
            self.gain *= float(matrix.abs().sum(dim=1).max())
        self.output_shape = (sizes[0], sizes[1], sizes[2])
        s = values[0][:, None, None] * values[1][:, None] * values[2]
        if not s.numel() or float(s.max()) == 0:
            raise OperatorError("the matrices are all zero: nothing would be measured")
        self._values = Constant(torch.where(s > RELATIVE_THRESHOLD * s.max(), s, 0.0))
        every = all(bool(one.all()) for one in known)
        self._known = None if every else Constant(known[0][:, None, None] * known[1][:, None] * known[2])

    @property
    def singular_values(self) -> Constant:
        return self._values

    def measured(self, y: Tensor) -> Tensor:
        y = super().measured(y)
        return y if self._known is None else self._known.like(y) * y

    def vt(self, x: Tensor) -> Tensor:
        return _apply(self._v, x, transpose=True)

    def v(self, c: Tensor) -> Tensor:
        return _apply(self._v, c, transpose=False)

    def ut(self, y: Tensor) -> Tensor:
        return _apply(self._u, y, transpose=True)

    def u(self, c: Tensor) -> Tensor:
        return _apply(self._u, c, transpose=False)

    def after(self, inner: LinearOperator) -> LinearOperator | None:
        """Matrices after matrices: the stages of each axis one after the other."""
        if not isinstance(inner, Separable):
            return None
        stages = [first + then for first, then in zip(inner.stages, self.stages, strict=True)]
        return Separable(inner.input_shape, *stages)

    def before(self, outer: LinearOperator) -> LinearOperator | None:
        """Means of blocks and grey are matrices on the axes, too."""
        if isinstance(outer, BlockMean):
            mean = [{"stage": "mean", "factor": outer.factor}]
            return Separable(outer.input_shape, height=mean, width=mean).after(self)
        if isinstance(outer, Grayscale):
            weights = [{"stage": "weights", "weights": list(outer.weights)}]
            return Separable(outer.input_shape, channels=weights).after(self)
        return None

    def params(self) -> dict[str, Any]:
        channels, height, width = self.stages
        return {"input_shape": list(self.input_shape), "channels": channels, "height": height, "width": width}


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin SVD U, s, V^T, in any order of s; four times as fast for a matrix that turning by 180 degrees leaves.

    Those of symmetric kernels do so: even vectors become even ones, odd ones odd ones, and each half has its own SVD.
    """
    if not torch.equal(matrix, matrix.flip(0, 1)):
        return torch.linalg.svd(matrix, full_matrices=False)
    parts = []
    for rows, columns in zip(_even_and_odd(len(matrix)), _even_and_odd(matrix.shape[1]), strict=True):
        u, s, vt = torch.linalg.svd(rows.mT @ matrix @ columns, full_matrices=False)
        parts.append((rows @ u, s, vt @ columns.mT))
    u, s, vt = zip(*parts, strict=True)
    return torch.cat(u, dim=1), torch.cat(s), torch.cat(vt)


def _even_and_odd(size: int) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of the vectors that reversing leaves and negates, (size, ceil(size / 2)), (size, size // 2)."""
    identity = torch.eye(size, dtype=torch.float64)
    even, odd = (identity + sign * identity.flip(0) for sign in (1, -1))
    even, odd = even[:, : (size + 1) // 2], odd[:, : size // 2]
    return even / even.norm(dim=0), odd / odd.norm(dim=0)


def _apply(matrices: list[Constant | None], x: Tensor, *, transpose: bool) -> Tensor:
    """One matrix (or none) on each of the axes C, H, W of x (B, C, H, W).

    `expand` keeps the products of different pictures apart, so that results don't depend on the batch size.
    """
    channels, height, width = (
        None if constant is None else (constant.like(x).mT if transpose else constant.like(x)) for constant in matrices
    )
    if height is not None:
        x = exact_product(height.expand(*x.shape[:2], *height.shape), x)
    if width is not None:
        x = exact_product(x, width.mT.expand(*x.shape[:2], *width.mT.shape))
    if channels is not None:
        flat = x.flatten(2)
        x = exact_product(channels.expand(x.shape[0], *channels.shape), flat).unflatten(2, x.shape[2:])
    return x
