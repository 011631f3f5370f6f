"""Operators that are functions, and what isn't linear: JPEG, and products with it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diffusers_restore import operators
from diffusers_restore.errors import InvalidInputError, OperatorError
from diffusers_restore.operators import (
    JPEG,
    BlockMean,
    CircularBlur,
    ConvergenceWarning,
    Crop,
    FunctionOperator,
    Grayscale,
    LinearOperator,
    Mask,
    Measurement,
    Operator,
    SVDOperator,
    check_operator,
    measure,
    solving,
)
from diffusers_restore.operators.base import Composition, NonlinearProduct
from diffusers_restore.operators.checks import dense_matrix
from diffusers_restore.operators.solving import least_squares
from diffusers_restore.operators.tasks import gaussian_kernel, motion_kernel, random_mask
from diffusers_restore.pipelines.zero_shot import MeasuredCanvas

SHAPE = (3, 12, 20)
MASKS = torch.stack([random_mask(12, 20, 0.4, seed)[None] for seed in range(2)])
KERNEL = motion_kernel(4, 70.0)


def pictures(count: int = 1, shape: tuple[int, int, int] = SHAPE, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, *shape, dtype=dtype, generator=torch.Generator().manual_seed(count)) * 2 - 1


def smeared(x: Tensor) -> Tensor:
    """A function that no class here is: a blur with a gain that falls to the right, every second column kept."""
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    blurred = functional.avg_pool2d(padded, 3, stride=1)
    return (blurred * torch.linspace(1, 0.5, x.shape[3], dtype=x.dtype, device=x.device))[..., ::2]


def lens() -> FunctionOperator:
    return FunctionOperator(smeared, SHAPE, gain=1.0)


def solved() -> dict[str, LinearOperator]:
    """Operators without an SVD."""
    return {
        "mask of a blur": Mask(SHAPE, MASKS) @ CircularBlur(SHAPE, KERNEL),
        "three": BlockMean(SHAPE, 2) @ (Mask(SHAPE, MASKS) @ CircularBlur(SHAPE, KERNEL)),
        "function": lens(),
        "mean of a function": BlockMean((3, 12, 10), 2) @ lens(),
        "function of a crop": lens() @ Crop((3, 16, 24), (12, 20)),
    }


# Iterative solutions


@pytest.mark.parametrize("name", list(solved()))
def test_what_has_no_svd_is_what_it_says(name: str) -> None:
    operator = solved()[name]
    assert not isinstance(operator, SVDOperator)
    check_operator(operator)


@pytest.mark.parametrize("name", list(solved()))
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_prox_is_exact_where_it_is_well_conditioned(name: str, dtype: torch.dtype, bound: float) -> None:
    whole = solved()[name]
    x, start = pictures(2, whole.input_shape), pictures(3, whole.input_shape)[:2]
    y = whole.forward(x) + 0.1
    for weight in (0.1, 1.0):
        z = whole.prox(start.to(dtype), y.to(dtype), weight)
        for i in range(2):
            matrix = dense_matrix(whole.select(i))
            normal = matrix.mT @ matrix + weight * torch.eye(matrix.shape[1], dtype=torch.float64)
            wanted = torch.linalg.solve(normal, matrix.mT @ y[i].flatten() + weight * start[i].flatten())
            assert (z[i].flatten() - wanted).abs().max() < bound * wanted.abs().max()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_pinv_leaves_the_residual_that_it_states(dtype: torch.dtype, bound: float) -> None:
    """Of a y with parts that no picture gives, too, and of y = 0."""
    operator = CircularBlur(SHAPE, KERNEL) @ Mask(SHAPE, random_mask(12, 20))
    assert not isinstance(operator, SVDOperator)
    y = torch.cat([pictures(), torch.zeros(1, *SHAPE)])
    x = operator.pinv(y.to(dtype)).double()
    right = operator.adjoint(y)
    residual = right - operator.adjoint(operator.forward(x))
    assert residual[0].norm() < 1.2 * bound * right[0].norm()
    assert (x[1] == 0).all()


def test_what_no_picture_gives_ends_at_once() -> None:
    """A^T y is then rounding, which isn't to be solved for."""
    operator = CircularBlur(SHAPE, KERNEL) @ Mask(SHAPE, random_mask(12, 20))
    y = pictures(dtype=torch.float32)
    outside = y - operator.forward(operator.pinv(y.double()).float())
    calls: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        calls.append(x)
        return operator.forward(x)

    assert least_squares(forward, operator.adjoint, outside).abs().max() < 1e-4
    assert len(calls) < 100


def ill_conditioned() -> LinearOperator:
    kernel = gaussian_kernel(3.0, 15)
    return Mask((1, 32, 32), random_mask(32, 32)) @ CircularBlur((1, 32, 32), torch.outer(kernel, kernel))


def test_a_solution_that_was_not_reached_is_said_to_be_approximate() -> None:
    operator = ill_conditioned()
    y = pictures(1, (1, 32, 32), torch.float32)
    with pytest.warns(ConvergenceWarning, match="left a residual of .* instead of 1e-05: .* prox, with a weight"):
        x = operator.pinv(y)
    assert torch.isfinite(x).all()
    assert (operator.forward(x) - operator.measured(y)).norm() < operator.measured(y).norm()
    with pytest.warns(ConvergenceWarning, match="a larger weight helps"):
        operator.prox(y, y, 1e-9)
    operator.prox(y, y, 1e-3)


def test_what_rounding_leaves_does_not_grow() -> None:
    """The step after the last one that rounding allows would lead away again, a thousandfold within the 500 steps."""
    inside = torch.zeros(24, 24)
    inside[4:-4, 4:-4] = 1
    profile = gaussian_kernel(1.5, 9)
    operator = Mask((1, 24, 24), inside) @ CircularBlur((1, 24, 24), torch.outer(profile, profile))
    y = operator.measured(pictures(64, (1, 24, 24), torch.float32))
    for weight in (5e-4, 2e-3):
        x = operator.prox(torch.zeros_like(y), y, weight)
        left = operator.adjoint(y - operator.forward(x)) - weight * x
        assert (left.flatten(1).norm(dim=1) < 1e-5 * operator.adjoint(y).flatten(1).norm(dim=1)).all()


def test_a_rough_prox_takes_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = ill_conditioned()
    y = pictures(1, (1, 32, 32), torch.float32)
    exact = operator.prox(y.double(), y.double(), 1e-4).float()
    calls: list[Tensor] = []
    forward = operator.forward
    monkeypatch.setattr(operator, "forward", lambda x: calls.append(x) or forward(x))
    rough = operator.rough_prox(y, y, 1e-4)
    assert 90 < len(calls) <= 101
    assert 1e-4 < (rough - exact).norm() / (exact - y).norm() < 0.05


def test_a_prox_in_closed_form_is_never_rough() -> None:
    operator = CircularBlur(SHAPE, KERNEL)
    x, y = pictures(1), pictures(1)
    assert operator.rough_prox(x, y, 0.1).equal(operator.prox(x, y, 0.1))


def test_nan_is_not_solved_away() -> None:
    y = torch.cat([pictures(dtype=torch.float32), torch.full((1, *SHAPE), torch.nan)])
    x = (Mask(SHAPE, MASKS) @ CircularBlur(SHAPE, KERNEL)).pinv(y)
    assert torch.isfinite(x[0]).all()
    assert x[1].isnan().any()


def test_solved_images_wait_for_the_others_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator, which isn't asked after each step whether all are solved."""
    operator = Mask(SHAPE, MASKS) @ CircularBlur(SHAPE, KERNEL)
    y = pictures(2, dtype=torch.float32)
    at_once = operator.pinv(y), operator.prox(y, y, 0.3)
    monkeypatch.setattr(solving, "_steps_between_checks", lambda device: 10)
    assert torch.equal(operator.pinv(y), at_once[0])
    assert torch.equal(operator.prox(y, y, 0.3), at_once[1])


def test_gradients_go_through_a_solution() -> None:
    """prox is affine: the slope of <prox, v> for y is A (A^T A + w)^-1 v. One image is solved from the start."""
    operator = Mask(SHAPE, MASKS) @ CircularBlur(SHAPE, KERNEL)
    y = torch.cat([pictures(), torch.zeros(1, *SHAPE)]).requires_grad_()
    v = pictures(2)
    zero = torch.zeros(2, *SHAPE, dtype=torch.float64)
    slope = torch.autograd.grad((operator.prox(zero, y, 0.3) * v).sum(), y)[0]
    wanted = operator.forward(operator.prox(v, zero, 0.3)) / 0.3
    assert (slope - wanted)[0].abs().max() < 1e-9
    assert torch.isfinite(slope).all()


# Functions


def test_a_function_has_the_shape_and_the_transpose_that_it_shows() -> None:
    operator = lens()
    assert operator.output_shape == (3, 12, 10)
    y = pictures(1, operator.output_shape)
    wanted = (dense_matrix(operator).mT @ y.flatten()).reshape(1, *SHAPE)
    assert (operator.adjoint(y) - wanted).abs().max() < 1e-14
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert (operator.adjoint(y.clone()) - wanted).abs().max() < 1e-14
            assert torch.equal(operator.prox(pictures().clone(), y.clone(), 0.3), operator.prox(pictures(), y, 0.3))
            lens()


def test_gradients_go_through_a_function_and_its_transpose() -> None:
    operator = lens()
    x, y = pictures().requires_grad_(), pictures(1, operator.output_shape).requires_grad_()
    slope = torch.autograd.grad((operator.adjoint(y) * x.detach()).sum(), y)[0]
    assert (slope - operator.forward(x.detach())).abs().max() < 1e-14
    slope = torch.autograd.grad((operator.forward(x) * y.detach()).sum(), x)[0]
    assert (slope - operator.adjoint(y.detach())).abs().max() < 1e-14
    assert not operator.adjoint(y.detach()).requires_grad


def test_a_function_with_its_adjoint_need_not_be_differentiable() -> None:
    operator = FunctionOperator(lambda x: x.detach().flip(3), SHAPE, SHAPE, adjoint=lambda y: y.flip(3))
    check_operator(operator)
    pipeline_like = Grayscale(SHAPE) @ operator
    assert type(pipeline_like) is Composition
    assert operator.gain == pipeline_like.gain == float("inf")  # unknown


def test_a_function_of_one_dtype_is_tried_in_it() -> None:
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]], dtype=torch.float64).expand(3, 1, 3, 3)

    def blur(x: Tensor) -> Tensor:
        return functional.conv2d(x, kernel, padding=1, groups=3)

    check_operator(FunctionOperator(lambda x: functional.conv2d(x, kernel.to(x), padding=1, groups=3), SHAPE))
    operator = FunctionOperator(blur, SHAPE, dtype=torch.float64)
    assert operator.adjoint(pictures()).dtype == torch.float64
    with pytest.raises(OperatorError, match="failed when it was tried .* should be the same"):
        FunctionOperator(blur, SHAPE)


def doubled_in_place(x: Tensor) -> Tensor:
    return x.mul_(2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: FunctionOperator(lambda x: x.clamp(-1, 1), SHAPE),
            r"isn't linear: .* by \d.\de.00 .*more than 0.0001",
        ),
        (lambda: FunctionOperator(lambda x: x + 0.01, SHAPE), r"isn't linear: .* by \d.\de-0\d"),
        (lambda: FunctionOperator(torch.abs, SHAPE), "isn't linear"),
        (lambda: FunctionOperator(JPEG(SHAPE, 95).forward, SHAPE), "isn't linear"),
        (lambda: FunctionOperator(lambda x: x + torch.randn_like(x), SHAPE), "or is random"),
        (lambda: FunctionOperator(lambda x: x - x.mean(), SHAPE), "another result in a batch than alone"),
        (lambda: FunctionOperator(lambda x: 0 * x, SHAPE), "aren't all zero"),
        (lambda: FunctionOperator(doubled_in_place, SHAPE), "changes its input"),
        (lambda: FunctionOperator(lambda x: x.detach(), SHAPE), "autograd can't differentiate forward"),
        (lambda: FunctionOperator(lambda x: x + x.detach(), SHAPE), r"adjoint doesn't fit forward: .* by 5.0e-01"),
        (lambda: FunctionOperator(lambda x: 2 * x, SHAPE, adjoint=lambda y: y), "differ by 5.0e-01 of the larger one"),
        (lambda: FunctionOperator(lambda x: x.roll(1, 3), SHAPE, adjoint=lambda y: y.roll(1, 3)), "doesn't fit"),
        (lambda: FunctionOperator(smeared, SHAPE, adjoint=lambda y: y), r"adjoint must give a tensor \(2, 3, 12, 20\)"),
        (lambda: FunctionOperator(smeared, SHAPE, SHAPE), r"forward must give a tensor \(2, 3, 12, 20\), got .*12, 10"),
        (lambda: FunctionOperator(lambda x: x.double(), SHAPE), "forward must give torch.float32 on cpu"),
        (lambda: FunctionOperator(lambda x: x.mean(), SHAPE), r"output_shape must be \(C, H, W\)"),
        (lambda: FunctionOperator(lambda x: None, SHAPE), r"output_shape must be \(C, H, W\), got None"),
        (lambda: FunctionOperator(3, SHAPE), "forward must be a function of a tensor, got 3"),
        (lambda: FunctionOperator(smeared, SHAPE, adjoint=3), "adjoint must be a function of a tensor, got 3"),
        (lambda: FunctionOperator(smeared, SHAPE, gain=0), "gain must be a number > 0"),
        (lambda: FunctionOperator(smeared, SHAPE, dtype=torch.float16), "dtype must be torch.float32 or torch.float64"),
        (lambda: lens().to_config(), "is a function, which can't be saved"),
        (lambda: (BlockMean((3, 12, 10), 2) @ lens()).to_config(), "is a function, which can't be saved"),
        (lambda: lens().forward(torch.zeros(1, 3, 12, 19)), r"x must be \(B, C, H, W\)"),
        (lambda: JPEG(SHAPE, 0), "quality must be a whole number >= 1 and <= 100, got 0"),
        (lambda: JPEG(SHAPE, 10.5), "quality must be a whole number"),
        (lambda: JPEG(SHAPE, 10, 1), "subsampled must be True or False, got 1"),
        (lambda: JPEG(SHAPE, 10).pinv(torch.zeros(1, 3, 12, 19)), r"y must be \(B, C, H, W\)"),
        (lambda: JPEG(SHAPE, 10) @ BlockMean(SHAPE, 2), "a product needs matching shapes"),
        (lambda: BlockMean(SHAPE, 2) @ JPEG((3, 12, 12), 9), "a product needs matching shapes"),
        (lambda: operators.create("jpeg", image_shape=SHAPE), "task 'jpeg' needs the argument 'quality'"),
        (lambda: Measurement(torch.zeros(1, *SHAPE), JPEG(SHAPE, 9)).svd, "is not linear, so that it has no SVD"),
    ],
)
def test_what_is_no_such_operator_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()


# JPEG


def by_pil(x: Tensor, quality: int, subsampled: bool) -> Tensor:
    """One picture (C, H, W) of 8 bits in [-1, 1], coded and decoded."""
    levels = ((x + 1) * 127.5).round().byte()
    picture = Image.fromarray(levels.permute(1, 2, 0).squeeze(2).numpy())
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling="4:2:0" if subsampled else "4:4:4")
    decoded = torch.from_numpy(np.array(Image.open(file))).reshape(x.shape[1], x.shape[2], -1)
    return decoded.permute(2, 0, 1).double() / 127.5 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("quality", "subsampled"), [(1, True), (30, False), (75, True), (100, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jpeg_is_what_pil_writes_and_reads(channels: int, quality: int, subsampled: bool, dtype: torch.dtype) -> None:
    shape = (channels, 21, 34)
    x = (pictures(3, shape) * 150 + 127.5).round() / 127.5 - 1  # beyond white and black, too
    y = JPEG(shape, quality, subsampled).forward(x.to(dtype))
    assert y.dtype == dtype
    for got, one in zip(y, x.clamp(-1, 1), strict=True):
        assert torch.equal((got * 127.5 + 127.5).round(), (by_pil(one, quality, subsampled) * 127.5 + 127.5).round())


@pytest.mark.parametrize(
    "build",
    [
        lambda: JPEG(SHAPE, 30),
        lambda: JPEG((1, 9, 17), 60),
        lambda: JPEG((2, 9, 17), 60, False),
        lambda: JPEG(SHAPE, 30) @ Crop((3, 16, 24), (12, 20)),
        lambda: JPEG((1, 12, 20), 30) @ Grayscale(SHAPE),
        lambda: JPEG((3, 6, 10), 30) @ BlockMean(SHAPE, 2),
        lambda: Grayscale(SHAPE) @ JPEG(SHAPE, 30),
        lambda: JPEG(SHAPE, 30) @ JPEG(SHAPE, 70),
        lambda: Mask(SHAPE, MASKS) @ JPEG(SHAPE, 30),
        lambda: JPEG((1, 12, 20), 30) @ (Grayscale(SHAPE) @ Mask(SHAPE, MASKS)),
        lambda: JPEG((3, 12, 10), 30) @ lens(),
    ],
)
def test_what_is_not_linear_keeps_the_contract(build: Callable[[], Operator]) -> None:
    operator = build()
    assert not isinstance(operator, LinearOperator)
    check_operator(operator)


def test_a_product_with_jpeg_is_its_factors_in_their_order() -> None:
    crop, code = Crop((3, 16, 24), (12, 20)), JPEG(SHAPE, 30)
    product, x = code @ crop, pictures(2, (3, 16, 24))
    assert type(product) is NonlinearProduct
    assert torch.equal(product.forward(x), code.forward(crop.forward(x)))
    y = product.forward(x)
    assert torch.equal(product.pinv(y), crop.pinv(y))
    config = json.loads(json.dumps(product.to_config()))
    assert (config["kind"], config["outer"]["kind"], config["inner"]["kind"]) == ("product", "jpeg", "crop")
    again = operators.from_config(config)
    assert type(again) is NonlinearProduct
    assert again.to_config() == product.to_config()
    masked = Mask(SHAPE, MASKS) @ code
    assert torch.equal(masked.measured(x[:, :, :12, :20]), Mask(SHAPE, MASKS).measured(x[:, :, :12, :20]))
    four = masked.repeat_interleave(2)
    assert four.batch_size == 4
    assert torch.equal(four.select(3).forward(y[1:]), masked.select(1).forward(y[1:]))
    with pytest.raises(TypeError, match="unsupported operand"):
        code @ 2


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (JPEG((1, 11, 13), 30), NonlinearProduct),
        (FunctionOperator(lambda x: x.flip(3), (1, 11, 13)), Composition),
    ],
)
def test_a_canvas_takes_any_operator(operator: Operator, kind: type[Operator]) -> None:
    """With padding for the network, and a grey picture in colours."""
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DModel(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    y = pictures(2, (1, 11, 13), torch.float32)
    canvas = MeasuredCanvas(y, operator, 0.0, unet)
    assert type(canvas.operator) is kind
    assert (canvas.operator.input_shape, canvas.channels) == ((3, 12, 14), 1)
    part = canvas.measurement(1, torch.device("cpu")).split(1)[0]
    x = part.operator.pinv(part.y)
    assert x.shape == (1, 3, 12, 14)
    assert (canvas.to_pictures(x) - operator.pinv(y[:1])).abs().max() < 1e-5
    if operator.gain == 1:
        with pytest.raises(InvalidInputError, match="image holds values up to 255; .* stays within 1.5"):
            MeasuredCanvas(255 * y.sign(), operator, 0.0, unet)


def test_a_jpeg_is_measured_by_name_and_is_its_own_picture() -> None:
    operator = operators.create("jpeg", measurement_shape=(3, 32, 48), quality=20)
    x = pictures(1, (3, 4, 6), torch.float32).repeat_interleave(8, 2).repeat_interleave(8, 3)
    measurement = measure(operator, x)
    y = measurement.y
    assert (y - x).abs().max() > 0.1
    assert y.abs().max() <= operator.gain == 1.0
    assert (operator.forward(operator.pinv(y)) - y).abs().max() < 0.25 * (y - x).abs().max()
    parts = Measurement(torch.cat([y, y]), operator).split(1)
    assert [len(part.y) for part in parts] == [1, 1]
    with pytest.raises(OperatorError, match="is not linear"):
        _ = measurement.y_bar


def test_a_function_that_fails_says_when() -> None:
    with pytest.raises(OperatorError, match=r"failed when it was tried with torch.float32 \(2, 3, .*: KeyError: 'x'"):
        FunctionOperator(lambda x: {}["x"], SHAPE)
    with pytest.raises(OperatorError, match="device must be one of this machine, got 'foo'"):
        FunctionOperator(lambda x: x, SHAPE, device="foo")
