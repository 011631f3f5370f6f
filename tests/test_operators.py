"""Operators against their dense matrices, other libraries' forms, and bad input."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_restore import operators
from diffusers_restore.errors import InvalidInputError, OperatorError, UnknownNameError
from diffusers_restore.operators import (
    BlockMean,
    BlurDecimate,
    CircularBlur,
    CompressedSensing,
    Constant,
    Crop,
    Grayscale,
    Identity,
    LinearOperator,
    Mask,
    Separable,
    Shape,
    SVDOperator,
    SymmetricBlur,
    measure,
)
from diffusers_restore.operators.base import Composition
from diffusers_restore.operators.checks import OperatorCheckError, check_operator, dense_matrix
from diffusers_restore.operators.separable import BORDERS, _svd, blur_matrix
from diffusers_restore.operators.tasks import gaussian_kernel, motion_kernel, random_mask
from diffusers_restore.operators.transforms import dct, dct2, hadamard_transform, idct, idct2, random_order

SHAPE = (3, 12, 20)
KERNEL = motion_kernel(4, 70.0)
MASKS = torch.stack([random_mask(12, 20, 0.4, seed)[None] for seed in range(2)])
# What a task needs that the common case lacks: arguments, or a shape that its factor divides.
TASK_ARGUMENTS = {
    "inpaint": {"mask": random_mask(12, 20, seed=3)},
    "deblur": {"kernel": KERNEL},
    "deblur-motion": {"length": 5, "angle": 20.0},
    "jpeg": {"quality": 30},
}
TASK_SHAPES = {"sr8": (3, 16, 24), "sr-bicubic8": (1, 16, 32), "sr16": (1, 32, 48), "sr-bicubic16": (1, 32, 48)}


def examples() -> dict[str, LinearOperator]:
    """An operator of every kind that is registered, and the products whose SVD is exact."""
    blur = Separable(
        SHAPE,
        height=[{"stage": "blur", "kernel": [0.2, 0.5, 0.3], "border": "replicate"}],
        width=[{"stage": "blur", "kernel": [0.25, 0.5, 0.25], "border": "valid"}],
    )
    grey, pool = Grayscale(SHAPE, (0.299, 0.587, 0.114)), BlockMean(SHAPE, 4)
    return {
        "identity": Identity(SHAPE),
        "mask": Mask(SHAPE, random_mask(12, 20)),
        "mask of each image": Mask(SHAPE, MASKS),
        "mask of each channel": Mask(SHAPE, (torch.arange(3 * 12 * 20) % 7 > 2).reshape(SHAPE).float()),
        "block_mean": pool,
        "grayscale": grey,
        "separable": blur,
        "circular_blur": CircularBlur((3, 11, 13), KERNEL),
        "symmetric_blur": SymmetricBlur((3, 11, 13), torch.outer(gaussian_kernel(1.0, 5), gaussian_kernel(2.0, 3))),
        "blur_decimate": BlurDecimate(SHAPE, KERNEL, 2),
        "compressed_sensing": CompressedSensing((3, 8, 16), 4),
        "crop": Crop((3, 16, 24), (12, 20)),
        "product": Grayscale((3, 3, 5)) @ pool,
        "grey of a masked image": grey @ Mask(SHAPE, MASKS),
        "mean of a masked image": pool @ Mask(SHAPE, random_mask(12, 20, 0.9)),
        "grey mean of a masked image": Grayscale((3, 3, 5)) @ pool @ Mask(SHAPE, MASKS),
        "mask of a mean": Mask((3, 3, 5), random_mask(3, 5)) @ pool,
        "grey of a blurred image": grey @ CircularBlur(SHAPE, KERNEL),
        "two blurs": CircularBlur(SHAPE, KERNEL) @ CircularBlur(SHAPE, KERNEL),
        "mean of a blurred image": BlockMean(SHAPE, 2)
        @ operators.create("deblur-gauss", image_shape=SHAPE, border="zero"),
        "blur of a crop": SymmetricBlur((3, 9, 17), torch.full((3, 3), 1 / 9)) @ Crop(SHAPE, (9, 17)),
    }


@pytest.mark.parametrize("name", list(examples()))
def test_an_operator_is_what_it_says(name: str) -> None:
    operator = examples()[name]
    assert isinstance(operator, SVDOperator)
    check_operator(operator)


@pytest.mark.parametrize("setting", ["autocast", "medium"])
@pytest.mark.parametrize("name", list(examples()))
def test_products_keep_their_digits(name: str, setting: str) -> None:
    """Whatever a user allows the network."""
    operator = examples()[name]
    x = torch.rand(2, *operator.input_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = operator.forward(x)

    def all_of_it() -> list[torch.Tensor]:
        return [operator.forward(x), operator.adjoint(y), operator.pinv(y), operator.prox(x, y, 0.01)]

    plain = all_of_it()
    try:
        torch.set_float32_matmul_precision("medium" if setting == "medium" else "highest")
        with torch.autocast("cpu", enabled=setting == "autocast"):
            found = all_of_it()
    finally:
        torch.set_float32_matmul_precision("highest")
    for one, wanted in zip(found, plain, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)


def test_every_registered_kind_has_an_example() -> None:
    ours = {kind for kind, address in operators.OPERATORS.addresses() if address.startswith("diffusers_restore.")}
    linear = {operator.kind for operator in examples().values()}
    assert linear | {"jpeg"} == ours  # those of plug-ins are checked as tasks


@pytest.mark.parametrize("task", list(operators.TASKS))
def test_a_task_builds_a_right_operator(task: str) -> None:
    shape, arguments = TASK_SHAPES.get(task, SHAPE), TASK_ARGUMENTS.get(task, {})
    operator = operators.create(task, image_shape=shape, **arguments)
    check_operator(operator)
    from_measurement = operators.create(task, measurement_shape=operator.output_shape, **arguments)
    assert from_measurement.to_config() == operator.to_config()


@pytest.mark.parametrize("task", ["deblur-uniform", "deblur-gauss", "deblur-aniso"])
@pytest.mark.parametrize("border", BORDERS)
def test_a_separable_blur_with_every_border(task: str, border: str) -> None:
    operator = operators.create(task, image_shape=SHAPE, border=border)
    check_operator(operator)
    assert operators.create(task, measurement_shape=operator.output_shape, border=border).input_shape == SHAPE


@pytest.mark.parametrize("task", ["deblur-uniform", "deblur-gauss", "deblur-aniso", "deblur-motion", "deblur"])
def test_the_inside_of_a_blur_depends_on_no_border(task: str) -> None:
    lopsided = torch.tensor([[0, 0, 0.5, 0, 0], [0, 0.2, 0, 0, 0], [0.3, 0, 0, 0, 0], [0] * 5, [0] * 5])
    arguments: dict[str, Any] = {
        "deblur-motion": {"length": 5, "angle": 70},
        "deblur": {"kernel": lopsided},
        "deblur-gauss": {"sigma": 0.7, "taps": 5},
        "deblur-aniso": {"sigma_vertical": 0.7, "sigma_horizontal": 0.5, "taps": 5},
    }.get(task, {"taps": 5})
    operator = operators.create(task, image_shape=(2, 16, 19), border="inside", **arguments)
    check_operator(operator)
    wide, rng = (
        operators.create(task, image_shape=(2, 32, 35), border="circular", **arguments),
        np.random.default_rng(0),
    )
    x = torch.from_numpy(rng.standard_normal((1, 2, 32, 35)))
    of_whole = wide.forward(x)[..., 8:24, 8:27]
    y = operator.forward(x[..., 8:24, 8:27])
    torch.testing.assert_close(y[y != 0], of_whole[y != 0], rtol=0, atol=1e-12)
    rows, columns = ((y != 0)[0, 0].any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    if task != "deblur-motion":
        size = 2 if task == "deblur" else 4  # the lopsided kernel looks to the right and down alone
        first = 0 if task == "deblur" else 2
        assert rows == list(range(first, first + 16 - size))
        assert columns == list(range(first, first + 19 - size))
    assert rows
    assert columns
    assert isinstance(operator, SVDOperator) == (task not in ("deblur-motion", "deblur"))
    frame = torch.where(operator.measured(torch.ones_like(y)) == 0, 9.0, y)
    torch.testing.assert_close(operator.pinv(frame), operator.pinv(y), rtol=0, atol=0)


@pytest.mark.parametrize("angle", [0, 90])
def test_the_inside_of_a_kernel_that_is_a_product_has_an_svd(angle: float) -> None:
    by_name = operators.create("deblur-motion", image_shape=(2, 16, 19), border="inside", length=5, angle=angle)
    assert isinstance(by_name, SVDOperator)
    check_operator(by_name)
    assert int(by_name.measured(torch.ones(1, 2, 16, 19)).sum()) == 2 * (16 * 15 if angle == 0 else 12 * 19)
    kernel = torch.outer(torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.0, 0.9]))  # lopsided, in float32
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, 16, 19)))
    inside = operators.create("deblur", image_shape=(2, 16, 19), border="inside", kernel=kernel)
    circular = operators.create("deblur", image_shape=(2, 16, 19), kernel=kernel)
    assert isinstance(inside, SVDOperator)
    known = inside.measured(torch.ones_like(x))
    assert int(known.sum()) == 2 * 14 * 17
    torch.testing.assert_close(inside.forward(x), known * circular.forward(x), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (5, 5), (6, 6), (3, 8), (1, 1), (1, 4)])
def test_the_svd_of_a_matrix_that_turning_leaves(shape: tuple[int, int]) -> None:
    a = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    for matrix in (a, a + a.flip(0, 1)):
        u, s, vt = _svd(matrix)
        identity = torch.eye(min(shape), dtype=torch.float64)
        torch.testing.assert_close(u @ torch.diag(s) @ vt, matrix, rtol=0, atol=1e-13)
        for product in (u.mT @ u, vt @ vt.mT):
            torch.testing.assert_close(product, identity, rtol=0, atol=1e-13)


def test_a_blur_as_large_as_the_picture_measures_something_inside_or_nothing() -> None:
    operator = operators.create("deblur-uniform", image_shape=(1, 5, 5), taps=5, border="inside")
    assert int(operator.measured(torch.ones(1, 1, 5, 5)).sum()) == 1
    shifts = [{"stage": "blur", "kernel": [1.0, 0.0, 0.0], "border": "inside"}] * 3
    with pytest.raises(OperatorError, match="nothing would be measured"):
        Separable((1, 3, 5), height=shifts)


def test_a_border_that_a_blur_has_not() -> None:
    with pytest.raises(InvalidInputError, match="no border named 'valid'; there are: circular, inside"):
        operators.create("deblur-motion", image_shape=(1, 19, 19), border="valid")


class Flip(SVDOperator):
    """A stranger to the package, as a plug-in's operator is: the picture mirrored, with its own exact products."""

    kind = "flip"
    complete = True

    def __init__(self, input_shape: Shape) -> None:
        self.input_shape = self.output_shape = input_shape

    @property
    def singular_values(self) -> Constant:
        return Constant(torch.ones(1, 1, 1, dtype=torch.float64))

    def vt(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def v(self, c: torch.Tensor) -> torch.Tensor:
        return c

    def ut(self, y: torch.Tensor) -> torch.Tensor:
        return y.flip(3)

    def u(self, c: torch.Tensor) -> torch.Tensor:
        return c.flip(3)

    def after(self, inner: LinearOperator) -> LinearOperator | None:
        return Identity(self.input_shape) if isinstance(inner, Flip) else None

    def before(self, outer: LinearOperator) -> LinearOperator | None:
        return Flip(outer.output_shape) @ outer if isinstance(outer, BlockMean) else None  # they commute

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape)}


def test_an_operator_of_ones_own_brings_its_exact_products() -> None:
    flip, pool, mask = Flip(SHAPE), BlockMean(SHAPE, 4), Mask(SHAPE, random_mask(12, 20))
    assert isinstance(flip @ flip, Identity)
    small = pool @ flip  # BlockMean has no rule for it, Flip.before has
    assert isinstance(small, SVDOperator)
    assert (dense_matrix(small) - dense_matrix(pool) @ dense_matrix(flip)).abs().max() < 1e-15
    values = torch.linalg.svdvals(dense_matrix(pool) @ dense_matrix(flip))
    assert (values - small.singular_values.values.flatten()).abs().max() < 1e-14
    assert isinstance(Flip((3, 3, 5)) @ pool, SVDOperator)  # any SVD after tight rows
    assert type(flip @ mask) is type(mask @ flip) is Composition  # nobody has a rule
    assert (Identity(SHAPE) @ flip, flip @ Identity(SHAPE)) == (flip, flip)
    with pytest.raises(OperatorError, match="a product needs matching shapes"):
        flip @ BlockMean(SHAPE, 2)
    with pytest.raises(TypeError, match="unsupported operand"):
        flip @ 2


@pytest.mark.parametrize("product", [5, BlockMean(SHAPE, 2)])
def test_a_rule_that_gives_no_product_is_named(product: object) -> None:
    class Odd(Flip):
        def after(self, inner: LinearOperator) -> LinearOperator | None:
            return product  # type: ignore[return-value]

    with pytest.raises(OperatorError, match=r"the rule of <Odd .*must give an operator \(3, 12, 20\) -> \(3, 12, 20\)"):
        Odd(SHAPE) @ Mask(SHAPE, random_mask(12, 20))


def test_check_operator_finds_what_is_wrong() -> None:
    class Wrong(Grayscale):
        def rows_transposed(self, y: torch.Tensor) -> torch.Tensor:
            return math.sqrt(2) * super().rows_transposed(y)

    with pytest.raises(OperatorCheckError, match="adjoint is off by"):
        check_operator(Wrong(SHAPE))
    with pytest.raises(InvalidInputError, match="too large"):
        check_operator(Identity((3, 64, 64)))


# The same operators in other libraries' words


@pytest.mark.parametrize(("border", "mode"), [("reflect", "symmetric"), ("replicate", "edge"), ("circular", "wrap")])
def test_blur_matrix_is_a_convolution_of_the_padded_signal(border: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=11), rng.uniform(size=5)
    kernel /= kernel.sum()
    wanted = np.convolve(np.pad(x, 2, mode=mode), kernel, "valid")
    assert np.abs(blur_matrix(11, kernel.tolist(), border).numpy() @ x - wanted).max() < 1e-14
    zero = np.convolve(x, kernel, "same")
    assert np.abs(blur_matrix(11, kernel.tolist(), "zero").numpy() @ x - zero).max() < 1e-14
    valid = np.convolve(x, kernel, "valid")
    assert np.abs(blur_matrix(11, kernel.tolist(), "valid").numpy() @ x - valid).max() < 1e-14


def test_a_blur_is_the_same_by_every_route() -> None:
    x = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05], dtype=torch.float64)
    for border, fast in (("reflect", SymmetricBlur), ("circular", CircularBlur)):
        stage = [{"stage": "blur", "kernel": kernel.tolist(), "border": border}]
        slow = Separable(SHAPE, height=stage, width=stage).forward(x)
        assert (fast(SHAPE, torch.outer(kernel, kernel)).forward(x) - slow).abs().max() < 1e-3  # tiny s are cut in both
    # A one-sided kernel moves the picture: it is a convolution, so a tap right of the centre moves it right.
    shift = CircularBlur(SHAPE, [[0.0, 0.0, 1.0]])
    assert (shift.forward(x) - x.roll(1, dims=3)).abs().max() < 1e-12
    decimated = BlurDecimate(SHAPE, KERNEL, 2).forward(x)
    assert (decimated - CircularBlur(SHAPE, KERNEL).forward(x)[:, :, ::2, ::2]).abs().max() < 1e-12


def test_bicubic_reduction_is_torchs_inside_the_picture() -> None:
    x = torch.rand(1, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = operators.create("sr-bicubic4", image_shape=(1, 64, 64)).forward(x)
    wanted = torch.nn.functional.interpolate(x, scale_factor=0.25, mode="bicubic", antialias=True)
    assert (ours - wanted)[..., 2:-2, 2:-2].abs().max() < 1e-6
    assert (ours - wanted).abs().max() > 1e-4  # the border is reflected, torch renormalises


@pytest.mark.parametrize("length", [1, 2, 7, 8, 12])
def test_dct_is_orthonormal_and_the_textbook_one(length: int) -> None:
    n = torch.arange(length, dtype=torch.float64)
    matrix = torch.cos(math.pi / length * torch.outer(n, n + 0.5)) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    x = torch.randn(3, length, dtype=torch.float64)
    assert (dct(x) - x @ matrix.mT).abs().max() < 1e-13
    assert (idct(dct(x)) - x).abs().max() < 1e-13


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (6, 9), (1, 4), (5, 1), (3, 2), (1, 1)])
def test_the_2d_dct_is_that_of_both_axes(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (dct2(x) - dct(dct(x).mT).mT).abs().max() < 1e-13
    assert (idct2(dct2(x)) - x).abs().max() < 1e-13


def test_hadamard_transform_is_orthonormal_and_its_own_inverse() -> None:
    matrix = hadamard_transform(torch.eye(128, dtype=torch.float64))
    assert (matrix.abs() - 128**-0.5).abs().max() < 1e-15
    assert (matrix @ matrix - torch.eye(128)).abs().max() < 1e-14


def test_singular_values_of_the_literature() -> None:
    def values(operator: SVDOperator) -> torch.Tensor:
        return operator.singular_values.values

    assert float(values(Grayscale(SHAPE)).max()) == pytest.approx(1 / math.sqrt(3))
    assert float(values(BlockMean(SHAPE, 4)).max()) == pytest.approx(1 / 4)
    masked = BlockMean(SHAPE, 4) @ Mask(SHAPE, random_mask(12, 20, 0.5))
    assert isinstance(masked, SVDOperator)
    kept = BlockMean((1, 12, 20), 4).forward(random_mask(12, 20, 0.5)[None, None]) * 16
    assert (values(masked) - kept.sqrt() / 16).abs().max() < 1e-15


def test_a_blur_keeps_brightness_and_place() -> None:
    """The faults of DDRM's own deblurring: a dropped tap darkens and shifts the picture."""
    x = torch.linspace(-1, 1, 40, dtype=torch.float64).expand(1, 3, 40, 40).contiguous()
    for border in ("reflect", "zero"):
        operator = operators.create("deblur-uniform", image_shape=(3, 40, 40), border=border)
        assert (operator.forward(x) - x)[..., 5:-5, 5:-5].abs().max() < 1e-3


def test_compressed_sensing_takes_the_transform_that_the_size_carries() -> None:
    assert CompressedSensing((1, 16, 32), 2).transform == "hadamard"
    assert CompressedSensing((1, 12, 20), 2).transform == "dct"
    with pytest.raises(OperatorError, match="power of two, got 12 x 20; use transform='dct'"):
        CompressedSensing((1, 12, 20), 2, transform="hadamard")


# Measurements


def test_measurement_noise_has_the_stated_level_and_is_seeded() -> None:
    x = torch.zeros(1, 3, 64, 64)
    for operator in (Identity((3, 64, 64)), BlockMean((3, 64, 64), 2), CircularBlur((3, 64, 64), KERNEL)):
        y = measure(operator, x, 0.3, torch.Generator().manual_seed(1)).y
        assert float(y.std()) == pytest.approx(0.3, rel=0.05)
        assert torch.equal(y, measure(operator, x, 0.3, torch.Generator().manual_seed(1)).y)
    holes = measure(Mask((3, 64, 64), random_mask(64, 64)), x, 0.3, torch.Generator().manual_seed(1)).y
    assert float((holes == 0).double().mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("y", "sigma_y", "message"),
    [
        (torch.zeros(1, 3, 12, 19), 0.0, r"y must be \(B, C, H, W\) with \(C, H, W\) = \(3, 12, 20\)"),
        (torch.zeros(3, 12, 20), 0.0, "y must be"),
        (torch.full((1, 3, 12, 20), math.nan), 0.0, "NaN or infinite"),
        (torch.zeros(1, 3, 12, 20), -0.1, "sigma_y must be a number >= 0, got -0.1"),
        (torch.zeros(1, 3, 12, 20), math.nan, "sigma_y must be a number >= 0, got nan"),
        (torch.zeros(1, 3, 12, 20), "0.1", "sigma_y must be"),
        (torch.zeros(1, 3, 12, 20, dtype=torch.float16), 0.0, "float32 or float64"),
    ],
)
def test_a_bad_measurement_is_refused(y: torch.Tensor, sigma_y: float, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        operators.Measurement(y, Identity(SHAPE), sigma_y)


def test_a_batch_that_does_not_fit_its_masks_is_refused() -> None:
    with pytest.raises(OperatorError, match="a batch of 3, the operator holds data for 2 images"):
        operators.Measurement(torch.zeros(3, *SHAPE), Mask(SHAPE, MASKS))


# Bad input


def mask_config(**packed: object) -> dict[str, object]:
    config = Mask(SHAPE, random_mask(12, 20)).to_config()
    return {**config, "mask": {**config["mask"], **packed}}


NAN_KERNEL = [[0.0, math.nan, 1.0]]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BlockMean(SHAPE, 0), "factor must be a whole number >= 2, got 0"),
        (lambda: BlockMean(SHAPE, 2.7), "factor must be a whole number >= 2, got 2.7"),
        (lambda: BlockMean(SHAPE, 5), "factor must divide the image's height 12, got 5"),
        (lambda: operators.create("sr-bicubic8", image_shape=(3, 16, 20)), "factor must divide the image's size 20"),
        (lambda: operators.create("sr-bicubic16", image_shape=(3, 16, 16)), "reaches past a reflected picture"),
        (lambda: CompressedSensing(SHAPE, 3), "ratio must divide the image's width 20, got 3"),
        (lambda: CompressedSensing(SHAPE, 2, "haar"), "transform must be"),
        (lambda: Mask(SHAPE, torch.ones(20, 12)), r"mask must have the shape .*got \(20, 12\)"),
        (lambda: Mask(SHAPE, torch.ones(12, 1)), r"mask must have the shape .*got \(12, 1\)"),
        (lambda: Mask(SHAPE, torch.ones(20)), "mask must have the shape"),
        (lambda: Mask(SHAPE, torch.full((12, 20), 255.0)), "divide a 0..255 mask by 255"),
        (lambda: Mask(SHAPE, torch.full((12, 20), 0.5)), "threshold a soft one"),
        (lambda: Mask(SHAPE, torch.full((12, 20), math.nan)), "mask must hold 0"),
        (lambda: Mask(SHAPE, torch.zeros(12, 20)), "mask keeps no pixel"),
        (lambda: operators.create("inpaint-random", image_shape=SHAPE, missing=1.5), "missing must be .*got 1.5"),
        (lambda: operators.create("inpaint-random", image_shape=SHAPE, missing=1.0), "mask keeps no pixel"),
        (lambda: CircularBlur(SHAPE, torch.full((13, 13), 1 / 169)), "larger than the picture"),
        (lambda: SymmetricBlur(SHAPE, torch.full((13, 13), 1 / 169)), "larger than the picture"),
        (lambda: CircularBlur(SHAPE, torch.full((4, 4), 1 / 16)), "odd size"),
        (lambda: CircularBlur(SHAPE, torch.ones(3, 3)), "kernel must sum to 1, got 9"),
        (lambda: CircularBlur(SHAPE, torch.zeros(3, 3)), "kernel must sum to 1, got 0"),
        (lambda: CircularBlur(SHAPE, NAN_KERNEL), "kernel holds NaN"),
        (lambda: CircularBlur(SHAPE, "box"), "kernel must be 2-dimensional numbers, got 'box'"),
        (lambda: SymmetricBlur(SHAPE, [[0.1, 0.2, 0.7]]), "symmetric in both axes"),
        (lambda: blur_matrix(3, [0.2] * 5), "larger than the picture's side 3"),
        (lambda: blur_matrix(9, [0.5, 0.5]), "odd size"),
        (lambda: operators.create("deblur-gauss", image_shape=SHAPE, sigma=0.0), "sigma must be a number > 0"),
        (lambda: operators.create("deblur-gauss", image_shape=SHAPE, border="mirror"), "no border named 'mirror'"),
        (lambda: Grayscale(SHAPE, (0.5, 0.5)), "one number per channel"),
        (lambda: Grayscale(SHAPE, 5), "one number per channel"),
        (lambda: operators.create("colorize", measurement_shape=(1, 4, 4), weights=5), "one number per channel"),
        (lambda: operators.create("colorize", measurement_shape=(1, 4, 4), weights="[.3"), "one number per channel"),
        (lambda: Mask(SHAPE, MASKS).select(5), "index must be a whole number"),
        (lambda: Separable(SHAPE, channels=[{"stage": "weights", "weights": [0, 0, 0]}]), "all zero"),
        (lambda: operators.from_config(mask_config(bits="AAAA")), "bits must hold 240 pixels"),
        (lambda: operators.from_config(mask_config(bits="!!")), "bits must be base64"),
        (lambda: operators.create("deblur-uniform", image_shape=SHAPE, taps=10**30), "taps must be a whole number"),
        (lambda: operators.create("deblur-motion", image_shape=SHAPE, length=10**30), "length must be a number"),
        (lambda: operators.create("inpaint", image_shape=SHAPE, mask="hole.png"), "mask must be a tensor or an array"),
        (
            lambda: operators.create("inpaint", image_shape=SHAPE, mask=[[0, 1], [1]]),
            "mask must be a tensor or an array",
        ),
        (lambda: Grayscale(SHAPE, (0.0, 0.0, 0.0)), "must not all be zero"),
        (lambda: Grayscale(SHAPE, (1.0, math.inf, 0.0)), "weights must be"),
        (lambda: Identity((12, 20)), r"input_shape must be \(C, H, W\), got \(12, 20\)"),
        (lambda: Identity((3, 0, 20)), r"input_shape\[1\] must be a whole number >= 1, got 0"),
        (lambda: Crop(SHAPE, (13, 20)), "size must be at most"),
        (lambda: Grayscale(SHAPE) @ BlockMean(SHAPE, 2), "a product needs matching shapes"),
        (lambda: Identity(SHAPE).prox(torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE), -1.0), "weight must be"),
        (lambda: operators.create("sr4", image_shape=SHAPE, factor=8), "task 'sr4' has no argument 'factor'"),
        (lambda: operators.create("inpaint", image_shape=SHAPE), "task 'inpaint' needs the argument 'mask'"),
        (lambda: operators.create("sr4"), "give either image_shape"),
        (lambda: operators.create("colorize", measurement_shape=SHAPE), r"a grey measurement \(1, H, W\) is wanted"),
        (lambda: operators.from_config({"kind": "mask"}), "configuration of operator 'mask' does not fit"),
        (lambda: operators.from_config({"kind": "identity", "shape": SHAPE}), "does not fit"),
    ],
)
def test_bad_input_is_refused_by_name(build: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()  # type: ignore[operator]


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(
        UnknownNameError, match="no task named 'deblr'; did you mean 'deblur'\\? there are: colorize, cs2"
    ):
        operators.create("deblr", image_shape=SHAPE)
    with pytest.raises(UnknownNameError, match="no operator named None"):
        operators.from_config({})


def test_a_whole_mask_is_accepted() -> None:
    assert (dense_matrix(Mask((1, 2, 3), torch.ones(2, 3))) == torch.eye(6)).all()


def test_the_pseudo_inverse_does_not_divide_by_tiny_singular_values() -> None:
    operator = operators.create("deblur-uniform", image_shape=(1, 90, 90))  # a 9-tap box has zeros in its spectrum
    y = operator.forward(torch.rand(1, 1, 90, 90, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert float(operator.pinv(y).abs().max()) < 3
    assert float((operator.forward(operator.pinv(y)) - y).abs().max()) < 1e-4


def test_a_seed_names_the_same_pixels_for_ever() -> None:
    """Seeds are saved in configurations, so what they stand for may not depend on a library's version."""
    assert random_mask(3, 4, 0.5, seed=1).int().flatten().tolist() == [1, 0, 0, 1, 0, 0, 1, 1, 1, 1, 0, 0]
    assert random_order(8, seed=0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


def test_configurations_are_json_and_small() -> None:
    config = json.dumps(operators.create("sr-bicubic4", image_shape=(3, 256, 256)).to_config())
    assert len(config) < 400
    assert len(json.dumps(Mask((3, 256, 256), random_mask(256, 256)).to_config())) < 12_000


# Kernels


def test_a_straight_shake_of_five_pixels_weighs_each_by_a_fifth() -> None:
    """As MATLAB's fspecial("motion", 5, 0), kornia and OpenCV recipes have it."""
    wanted = torch.zeros(5, 5, dtype=torch.float64)
    wanted[2] = 0.2
    for angle in (0, 180, -180, 360):
        assert torch.allclose(motion_kernel(5, angle), wanted, rtol=0, atol=1e-12)
        assert torch.allclose(motion_kernel(5, angle + 90), wanted.mT, rtol=0, atol=1e-12)
    assert motion_kernel(4, 0)[2].tolist() == pytest.approx([0.125, 0.25, 0.25, 0.25, 0.125])
    assert motion_kernel(2.5, 0)[1].tolist() == pytest.approx([0.3, 0.4, 0.3])
    assert motion_kernel(1, 30).tolist() == motion_kernel(0.5, 30).tolist() == [[1.0]]
    diagonal = motion_kernel(5, 45).flip(0).diagonal()
    assert diagonal.tolist() == pytest.approx([(5 - 3 * 2**0.5) / 10, *[2**0.5 / 5] * 3, (5 - 3 * 2**0.5) / 10])


@pytest.mark.parametrize("length", [1, 2, 3, 4.2, 15, 16, 31.7])
@pytest.mark.parametrize("angle", [0, 30, 45, 60, 90, 123.4, 215, -20, 1e6])
def test_a_shake_is_the_share_of_the_path_in_each_pixel(length: float, angle: float) -> None:
    kernel = motion_kernel(length, angle)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(kernel, kernel.flip(0, 1), rtol=0, atol=1e-9)  # its middle is the centre
    along = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * length - length / 2
    radians, centre = math.radians(angle), len(kernel) // 2
    pixels = [(centre - along * math.sin(radians)).round().long(), (centre + along * math.cos(radians)).round().long()]
    counted = torch.zeros_like(kernel).index_put_(tuple(pixels), torch.tensor(1e-5).double(), accumulate=True)
    assert (kernel - counted).abs().max() < 1e-4
