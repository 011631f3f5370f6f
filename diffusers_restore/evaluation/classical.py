"""Classical methods that a restoration has to beat, each a function of a measurement of one picture.

`best` chooses a method's parameter (a weight) with the original at hand: the best of a small grid for each picture. No
user can choose so well, so classical methods are at least as good here as in practice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import InvalidInputError, OperatorError, check_real
from ..operators import BlockMean, Identity, LinearOperator, Mask, Measurement, Operator, SymmetricBlur
from ..tensors import described
from .metrics import psnr, skimage


def bicubic(measurement: Measurement) -> Tensor:
    """Bicubic enlargement of block means, (1, C, H, W).

    Raises:
        OperatorError: another operator than `BlockMean`.
    """
    y, operator = _single(measurement), measurement.operator
    if not isinstance(operator, BlockMean):
        raise _other(operator, BlockMean)
    return interpolate(y, scale_factor=operator.factor, mode="bicubic", align_corners=False)


def biharmonic(measurement: Measurement) -> Tensor:
    """Inpainting by the biharmonic equation (Damelin, Hoang 2018), (1, C, H, W).

    Raises:
        OperatorError: another operator than a `Mask` that all colours share.
        ImportError: scikit-image is not installed.
    """
    y, operator = _single(measurement), measurement.operator
    if not isinstance(operator, Mask) or operator.mask.values.shape[1] != 1:
        raise _other(operator, Mask)
    missing = operator.mask.values[0, 0].numpy() == 0
    inpaint = skimage("restoration").inpaint_biharmonic
    return _tensor(inpaint(y[0].double().cpu().numpy(), missing, channel_axis=0), y)


def wiener(measurement: Measurement, balance: float) -> Tensor:
    """Wiener deconvolution, regularised by `balance` times the Laplacian's spectrum, (1, C, H, W).

    The method is circular, our blur reflects: on the picture with its mirror images added the two are the same.

    Raises:
        OperatorError: another operator than `SymmetricBlur`.
        ImportError: scikit-image is not installed.
    """
    y, operator = _single(measurement), measurement.operator
    if not isinstance(operator, SymmetricBlur):
        raise _other(operator, SymmetricBlur)
    check_real("balance", balance, 0)
    _, height, width = operator.input_shape
    mirrored = np.pad(y[0].double().cpu().numpy(), ((0, 0), (0, height), (0, width)), mode="symmetric")
    kernel, deconvolve = operator.kernel.numpy(), skimage("restoration").wiener
    restored = np.stack([deconvolve(channel, kernel, balance, clip=False) for channel in mirrored])
    return _tensor(restored[:, :height, :width], y)


def tv_deblur(measurement: Measurement, weight: float) -> Tensor:
    """argmin_x |A x - y|^2 / 2 + weight TV(x) by ADMM, for any linear operator, (1, C, H, W).

    25 iterations of 30 inner ones with penalty 0.01 come within 0.1 dB of the minimum where sigma_y is small.

    Raises:
        OperatorError: an operator that isn't linear.
        ImportError: scikit-image is not installed.
    """
    y, operator = _single(measurement), measurement.operator
    if not isinstance(operator, LinearOperator):
        raise OperatorError(f"this method is for linear operators, got {operator!r}")
    check_real("weight", weight, 0)
    penalty = 0.01
    smooth = operator.adjoint(y)
    dual = torch.zeros_like(smooth)
    for _ in range(25):
        x = operator.prox(smooth - dual, y, penalty)
        smooth = _tv(x + dual, weight / penalty, iterations=30)
        dual = dual + x - smooth
    return smooth


def tv_denoise(measurement: Measurement, weight: float) -> Tensor:
    """Total variation denoising, argmin_x |x - y|^2 / 2 + weight TV(x) (Chambolle 2004), (1, C, H, W).

    Raises:
        OperatorError: another operator than `Identity`.
        ImportError: scikit-image is not installed.
    """
    y = _single(measurement)
    if not isinstance(measurement.operator, Identity):
        raise _other(measurement.operator, Identity)
    return _tv(y, weight, iterations=200)


@dataclass(frozen=True)
class Opponent:
    """A classical method and the grid of its weight (empty: it has none)."""

    name: str
    restore: Callable[..., Tensor]
    weights: tuple[float, ...] = ()


BICUBIC = Opponent("bicubic", bicubic)
BIHARMONIC = Opponent("biharmonic", biharmonic)
WIENER = Opponent("Wiener", wiener, (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1))
TV_DEBLUR = Opponent("TV", tv_deblur, (0.0006, 0.0009, 0.0013, 0.0018, 0.0026, 0.0037))
TV_DENOISE = Opponent("TV", tv_denoise, (0.05, 0.07, 0.1, 0.12, 0.14, 0.17, 0.2, 0.28))


def opponents(operator: Operator) -> tuple[Opponent, ...]:
    """The classical methods for an operator; none for colourisation and others that have no customary one."""
    if not isinstance(operator, Operator):
        raise InvalidInputError(f"operator must be an Operator, got {operator!r:.99}")
    known: dict[type[Operator], tuple[Opponent, ...]] = {
        BlockMean: (BICUBIC,),
        Identity: (TV_DENOISE,),
        Mask: (BIHARMONIC,),
        SymmetricBlur: (WIENER, TV_DEBLUR),
    }
    return known.get(type(operator), ())


def best(opponent: Opponent, measurement: Measurement, original: Tensor) -> tuple[Tensor, float | None]:
    """The restoration by `opponent` with the weight of its grid that has the best PSNR, and that weight.

    Args:
        opponent: the method.
        measurement: of one picture.
        original: (C, H, W), that picture.

    Returns:
        (1, C, H, W) and the weight, None where the method has none.
    """
    if not opponent.weights:
        return opponent.restore(measurement), None
    tried = [(opponent.restore(measurement, weight), weight) for weight in opponent.weights]
    return max(tried, key=lambda pair: psnr(pair[0][0], original))


def _tv(x: Tensor, weight: float, iterations: int) -> Tensor:
    check_real("weight", weight, 0)
    denoise = skimage("restoration").denoise_tv_chambolle
    array = x[0].double().cpu().numpy()
    return _tensor(denoise(array, weight, eps=1e-5, max_num_iter=iterations, channel_axis=0), x)


def _tensor(array: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))[None].to(like)


def _single(measurement: Measurement) -> Tensor:
    if not isinstance(measurement, Measurement):
        raise InvalidInputError(f"a Measurement is wanted, got {described(measurement)}")
    if len(measurement.y) != 1:
        raise InvalidInputError(f"a measurement of one picture is wanted, got a batch of {len(measurement.y)}")
    return measurement.y


def _other(operator: Operator, wanted: type[Operator]) -> OperatorError:
    return OperatorError(f"this method is for {wanted.__name__}, got {operator!r}")
