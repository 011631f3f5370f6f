"""Metrics against closed forms, classical methods against the pseudo-inverse, reports read back."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_restore import operators
from diffusers_restore.errors import InvalidInputError, OperatorError
from diffusers_restore.evaluation import classical, metrics, report
from diffusers_restore.evaluation.frechet import frechet_distance, gaussian_fit

SHAPE = (3, 48, 40)


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """(1, *SHAPE): a slope with a disc and a box on it, different in each colour."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, SHAPE[1]), torch.linspace(-1, 1, SHAPE[2]), indexing="ij")
    slope = 0.4 * rows + 0.3 * columns
    disc = 0.5 * ((rows - 0.2) ** 2 + columns**2 < 0.2)
    box = 0.6 * ((rows + 0.5).abs() < 0.2) * (columns.abs() < 0.6)
    return torch.stack([slope + disc, slope - box, disc + box - 0.5])[None]


def measured(task: str, x: torch.Tensor, sigma_y: float = 0.0) -> operators.Measurement:
    operator = operators.create(task, image_shape=tuple(x.shape[1:]))
    return operators.measure(operator, x, sigma_y, torch.Generator().manual_seed(0))


def test_psnr_is_that_of_a_known_error() -> None:
    reference = torch.zeros(3, 16, 16)
    assert metrics.psnr(reference + 0.2, reference) == pytest.approx(20, abs=1e-5)  # 10 log10(4 / 0.04)
    assert metrics.psnr(reference, reference) == math.inf


def test_luma_is_that_of_known_colours() -> None:
    colours = torch.tensor([[1.0, 1, 1], [-1, -1, -1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).mT.reshape(3, 1, 5)
    levels = (metrics.luma(colours) + 1) * 127.5
    assert levels.flatten().tolist() == pytest.approx([235, 16, 81.481, 144.553, 40.966], abs=1e-3)
    grey = torch.full((2, 1, 4, 4), 0.3)
    assert torch.allclose(metrics.luma(grey), metrics.luma(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(InvalidInputError, match="1 or 3 channels"):
        metrics.luma(torch.zeros(2, 4, 4))


def test_metrics_clip_to_the_range() -> None:
    reference = torch.ones(3, 16, 16)
    assert metrics.psnr(reference + 5, reference) == math.inf
    assert metrics.ssim(reference + 5, reference) == pytest.approx(1)


def rotation(size: int, seed: int) -> torch.Tensor:
    random = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(random)[0]


def test_the_frechet_distance_of_gaussians_that_share_their_axes() -> None:
    axes = rotation(5, 0)
    a, b = torch.tensor([4.0, 1, 0.25, 0, 9]).double(), torch.tensor([1.0, 1, 4, 2, 0]).double()
    mean, other = torch.zeros(5), torch.tensor([3.0, 0, 0, -4, 0])
    wanted = 25 + float((a.sqrt() - b.sqrt()).square().sum())
    got = frechet_distance(mean, axes * a @ axes.mT, other, axes * b @ axes.mT)
    assert got == pytest.approx(wanted, rel=1e-7)  # roots of zeros have half the digits
    assert frechet_distance(mean, axes * a @ axes.mT, mean, axes * a @ axes.mT) < 1e-6


def test_the_frechet_distance_of_gaussians_that_do_not() -> None:
    # Of 2 x 2 matrices, tr M^1/2 = (tr M + 2 det(M)^1/2)^1/2, and M has the eigenvalues of the product of both.
    a = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, -0.7], [-0.7, 5.0]], dtype=torch.float64)
    product = a @ b
    assert (product - b @ a).abs().max() > 1
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    wanted = 2 + float(a.trace() + b.trace()) - 2 * root
    zero, ones = torch.zeros(2), torch.ones(2)
    assert frechet_distance(zero, a, ones, b) == pytest.approx(wanted, rel=1e-12)
    assert frechet_distance(ones, b, zero, a) == pytest.approx(wanted, rel=1e-12)
    # x -> T x is the nearest way from N(0, C) to N(0, T C T) for any symmetric T > 0: E |x - T x|^2 = tr (1-T) C (1-T).
    axes, turned = rotation(6, 1), rotation(6, 2)
    c = axes * torch.arange(6).double() @ axes.mT  # a singular one
    t = turned * torch.linspace(0.2, 3, 6).double() @ turned.mT
    less = torch.eye(6, dtype=torch.float64) - t
    wanted = float((less @ c @ less).trace())
    assert frechet_distance(torch.zeros(6), c, torch.zeros(6), t @ c @ t) == pytest.approx(wanted, rel=1e-7)


def test_a_gaussian_fit_is_that_of_numpy() -> None:
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    mean, covariance = gaussian_fit(features)
    assert np.allclose(mean, features.numpy().astype(float).mean(axis=0))
    assert np.allclose(covariance, np.cov(features.numpy().astype(float), rowvar=False))
    for wrong in (features[:1], features[0], features * math.nan):
        with pytest.raises(InvalidInputError, match=r"features must be finite, \(n, D\)"):
            gaussian_fit(wrong)
    with pytest.raises(InvalidInputError, match=r"covariances \(D, D\), got"):
        frechet_distance(mean, covariance, mean[:3], covariance)
    for wrong in (mean * torch.nan, mean + torch.inf):
        with pytest.raises(InvalidInputError, match="means and covariances must be finite, got NaN or Inf"):
            frechet_distance(wrong, covariance, mean, covariance)
    with pytest.raises(InvalidInputError, match="means and covariances must be finite"):
        frechet_distance(mean, covariance, mean, covariance * torch.nan)
    with pytest.raises(InvalidInputError, match="covariances must be symmetric"):
        frechet_distance(mean, covariance + torch.triu(torch.ones_like(covariance), 1), mean, covariance)
    with pytest.raises(InvalidInputError, match="features must be a tensor of real numbers"):
        gaussian_fit([[1.0, 2.0]])  # type: ignore[arg-type]


def test_ssim_of_constants_is_the_luminance_term() -> None:
    a, b = torch.full((3, 16, 16), 0.0), torch.full((3, 16, 16), -0.8)  # 0.5 and 0.1 of white
    c1 = 0.01**2
    assert metrics.ssim(a, b) == pytest.approx((2 * 0.5 * 0.1 + c1) / (0.5**2 + 0.1**2 + c1), abs=1e-6)


def test_ssim_falls_with_noise(picture: torch.Tensor) -> None:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    values = [metrics.ssim(picture[0] + sigma * noise, picture[0]) for sigma in (0.0, 0.05, 0.2)]
    assert values[0] == pytest.approx(1)
    assert values[0] > values[1] + 0.05 > values[2] + 0.1


def test_metrics_leave_their_inputs_alone() -> None:
    image = torch.full((3, 16, 16), 3.0)
    metrics.psnr(image, torch.zeros(3, 16, 16))
    assert torch.equal(image, torch.full((3, 16, 16), 3.0))


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_metrics_refuse_other_shapes(metric: Callable[..., float]) -> None:
    with pytest.raises(InvalidInputError, match=r"\(3, 16, 16\) and \(3, 16, 15\)"):
        metric(torch.zeros(3, 16, 16), torch.zeros(3, 16, 15))
    with pytest.raises(InvalidInputError, match="must both be"):
        metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))


def test_ssim_refuses_small_pictures() -> None:
    with pytest.raises(InvalidInputError, match="at least 11 x 11"):
        metrics.ssim(torch.zeros(3, 10, 16), torch.zeros(3, 10, 16))


def test_without_scikit_image_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "skimage" or name.startswith("skimage.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"diffusers-restore\[metrics\]"):
        metrics.psnr(torch.zeros(3, 16, 16), torch.ones(3, 16, 16))


@pytest.mark.parametrize(
    ("task", "sigma_y", "gain"),
    [("sr2", 0, 1), ("sr4", 0, 0.3), ("inpaint-random", 0, 10), ("deblur-gauss", 0.02, 10), ("denoise", 0.2, 5)],
)
def test_classical_methods_beat_the_pseudo_inverse(
    picture: torch.Tensor, task: str, sigma_y: float, gain: float
) -> None:
    measurement = measured(task, picture, sigma_y)
    y = measurement.y.clone()
    pinv = metrics.psnr(measurement.operator.pinv(measurement.y)[0], picture[0])
    methods = classical.opponents(measurement.operator)
    assert methods
    for method in methods:
        restored, weight = classical.best(method, measurement, picture[0])
        assert restored.shape == picture.shape
        assert restored.dtype == picture.dtype
        assert metrics.psnr(restored[0], picture[0]) > pinv + gain, method.name
        assert (weight in method.weights) == bool(method.weights)
    assert torch.equal(measurement.y, y)


def test_wiener_without_noise_undoes_the_blur_up_to_the_border() -> None:
    slope = torch.linspace(-1, 1, 40, dtype=torch.float64).expand(1, *SHAPE)  # it jumps at a circular border
    restored = classical.wiener(measured("deblur-gauss", slope), balance=1e-12)
    assert float((restored - slope).abs().max()) < 1e-6


def test_biharmonic_keeps_what_was_measured(picture: torch.Tensor) -> None:
    measurement = measured("inpaint-random", picture)
    mask = measurement.operator.mask.values.bool().expand_as(picture)
    assert torch.equal(classical.biharmonic(measurement)[mask], picture[mask])


def test_best_takes_the_best_of_the_grid(picture: torch.Tensor) -> None:
    measurement = measured("denoise", picture, 0.2)
    tried = {
        weight: metrics.psnr(classical.tv_denoise(measurement, weight)[0], picture[0])
        for weight in classical.TV_DENOISE.weights
    }
    _, weight = classical.best(classical.TV_DENOISE, measurement, picture[0])
    assert tried[weight] == max(tried.values())
    assert len(set(tried.values())) == len(tried)


def test_colours_have_no_opponent() -> None:
    assert classical.opponents(operators.create("colorize", image_shape=(3, 8, 8))) == ()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [(classical.bicubic, ()), (classical.biharmonic, ()), (classical.wiener, (0.1,)), (classical.tv_denoise, (0.1,))],
)
def test_methods_refuse_other_operators(
    picture: torch.Tensor, method: Callable[..., torch.Tensor], arguments: tuple[float, ...]
) -> None:
    with pytest.raises(OperatorError, match="this method is for"):
        method(measured("colorize", picture), *arguments)


def test_methods_refuse_a_batch(picture: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="got a batch of 2"):
        classical.bicubic(measured("sr2", torch.cat([picture, picture])))


def test_a_sheet_shows_every_pixel(tmp_path: Path) -> None:
    small = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[None]
    large = torch.zeros(3, 32, 32)
    rows = [("first", [report.Cell("one\ntwo", small), report.Cell("", large)]), ("", [report.Cell("nothing")])]
    sheet = report.contact_sheet(rows)
    report.save_sheet(sheet, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as file:
        assert file.size == sheet.size
        pixels = np.asarray(file)
    left, top = sheet.width - 2 * (32 + 8), 8 + 2 * 19 + 4  # below two lines of caption
    expected = np.kron([[255, 0], [0, 255]], np.ones((16, 16)))
    for channel in range(3):
        assert np.array_equal(pixels[top : top + 32, left : left + 32, channel], expected)
    assert (pixels[top : top + 32, left + 40 : left + 72] == 128).all()
    assert (pixels[8 : top - 4, left : left + 32] < 100).any()  # the caption


def test_a_sheet_without_pictures_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one picture"):
        report.contact_sheet([("", [report.Cell("nothing")])])


def test_a_table_formats_and_dashes() -> None:
    table = report.markdown_table([{"task": "sr2", "PSNR": 28.346}, {"task": "cs4"}], {"task": "", "PSNR": ".2f"})
    assert table == "| task | PSNR |\n| --- | ---: |\n| sr2 | 28.35 |\n| cs4 | – |\n"


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    stem = tmp_path / "new" / "v1.2"
    written = report.write_report(stem, {"PSNR": 1.5}, "# η\n")
    assert [path.name for path in written] == ["v1.2.json", "v1.2.md"]
    assert json.loads(written[0].read_text()) == {"PSNR": 1.5}
    assert written[1].read_text(encoding="utf-8") == "# η\n"
    report.write_report(stem, {"PSNR": 2}, "again\n")
    assert sorted(path.name for path in stem.parent.iterdir()) == ["v1.2.json", "v1.2.md"]


def test_the_command_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    run = report.how_it_was_run(
        "a.py", ["--model", str(tmp_path / "prior"), f"--out={tmp_path}/x", "--data", "../data"]
    )
    assert run["command"] == "python a.py --model prior --out=x --data ../data"
    assert run["threads"] == torch.get_num_threads()
