"""DDRM against closed forms: a Gaussian prior makes the whole chain affine, so its mean and variance are exact."""

from __future__ import annotations

import json
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, IPNDMScheduler, PNDMScheduler, UNet2DModel
from safetensors.torch import load_file

from diffusers_restore import operators
from diffusers_restore.errors import InvalidInputError, OperatorError, UnknownNameError
from diffusers_restore.operators import (
    BlockMean,
    BlurDecimate,
    CircularBlur,
    Crop,
    Grayscale,
    Identity,
    LinearOperator,
    Mask,
    Measurement,
    SVDOperator,
)
from diffusers_restore.operators.checks import dense_matrix
from diffusers_restore.operators.tasks import motion_kernel, random_mask
from diffusers_restore.schedulers.prediction import predict_x0_and_epsilon, shift_epsilon
from diffusers_restore.schedulers.scheduling_ddrm import DDRMScheduler, ddrm_update, ddrm_update_plain

SHAPE = (3, 6, 8)
OPERATORS: dict[str, LinearOperator] = {
    "inpaint": Mask(SHAPE, random_mask(6, 8)),
    "sr2": BlockMean(SHAPE, 2),
    "colorize": Grayscale(SHAPE, (0.299, 0.587, 0.114)),
    "blur": CircularBlur(SHAPE, motion_kernel(5, 30.0)),
    "separable": operators.create("deblur-gauss", image_shape=SHAPE, sigma=1.0, taps=3, border="zero"),
    # More than one singular value, and coefficients that are missing: every term of the update is needed.
    "blur and decimation": BlurDecimate(SHAPE, motion_kernel(5, 30.0), 2),
    "mean of a masked image": BlockMean(SHAPE, 2) @ Mask(SHAPE, random_mask(6, 8, 0.6)),
    "blur of a crop": CircularBlur((3, 5, 7), motion_kernel(5, 30.0)) @ Crop(SHAPE, (5, 7)),
    "cs2": operators.create("cs2", image_shape=SHAPE),
}


def gaussian_chain(
    mu: np.ndarray,
    variance: np.ndarray,
    s: np.ndarray,
    y_bar: np.ndarray,
    sigma_y: float,
    eta: float,
    eta_b: float,
    sigmas: list[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of DDRM's result per coefficient, for the prior N(mu, variance), in closed form.

    `sigmas` are the noise levels of the chain, from its start to 0. With k = variance / (variance + sigma^2), the
    exact denoiser is x0_hat = k x + (1 - k) mu, and each rule of the paper maps a mean and a variance to the next.
    """
    measured = s > 0
    r = np.where(measured, sigma_y / np.where(measured, s, 1), np.inf)
    known = measured & (sigmas[0] > r)
    mean = np.where(known, y_bar, 0.0)
    var = np.where(known, sigmas[0] ** 2 - np.where(known, r, 0) ** 2, sigmas[0] ** 2)
    for sigma, following in pairwise(sigmas):
        k = variance / (variance + sigma**2)
        denoised = k * mean + (1 - k) * mu
        c = sqrt(1 - eta**2) * following
        a = c / sigma + (1 - c / sigma) * k
        new_mean, new_var = a * mean + (1 - a) * mu, a**2 * var + (eta * following) ** 2
        less = measured & (following < r)
        d = np.where(less, c / np.where(less, r, 1), 0)
        new_mean = np.where(less, (1 - d) * denoised + d * np.where(less, y_bar, 0), new_mean)
        new_var = np.where(less, ((1 - d) * k) ** 2 * var + (eta * following) ** 2, new_var)
        noisier = measured & ~less
        r_or_0 = np.where(noisier, r, 0)
        new_mean = np.where(noisier, (1 - eta_b) * denoised + eta_b * y_bar, new_mean)
        new_var = np.where(noisier, ((1 - eta_b) * k) ** 2 * var + following**2 - (eta_b * r_or_0) ** 2, new_var)
        mean, var = new_mean, new_var
    return mean, var


def run_gaussian_chain(
    operator: LinearOperator, sigma_y: float, eta: float, eta_b: float, scheduler: DDRMScheduler
) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]:
    """Our own chain under a Gaussian prior, as (mean (n,), covariance (n, n)) of the result in V's basis.

    The chain is affine in its noises: one run without noise gives the mean, and one run for every single noise number
    of every step gives a column of the covariance's square root.
    """
    size = int(np.prod(operator.input_shape))
    generator = torch.Generator().manual_seed(0)
    matrix = dense_matrix(operator)
    _, s, vt = torch.linalg.svd(matrix, full_matrices=True)
    s = torch.cat([torch.where(s > 1e-9, s, 0), torch.zeros(size - len(s), dtype=s.dtype)])
    variance = torch.where(s > 0, 0.05 + 0.3 * s, 0.2)  # a function of s, so that it fits any basis of an eigenspace
    mu = vt @ torch.randn(size, generator=generator, dtype=torch.float64) * 0.3
    y = torch.randn(1, *operator.output_shape, generator=generator, dtype=torch.float64)
    y_bar = vt @ operator.pinv(y).reshape(-1)

    steps = scheduler.timesteps.tolist()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *operator.input_shape)
    groups = 1 + (1 + len(steps)) * size
    measurement = Measurement(y.expand(groups, -1, -1, -1), operator, sigma_y)

    def noise(draw: int) -> torch.Tensor:
        z = torch.zeros(groups, *operator.input_shape, dtype=torch.float64)
        z[1 + draw * size : 1 + (draw + 1) * size] = units
        return z

    x = scheduler.start(measurement, noise(0))
    for i, t in enumerate(steps):
        alpha_bar = scheduler.alpha_bar(t)
        sigma = scheduler.sigma(t)
        coefficients = x.flatten(1) @ vt.mT / sqrt(alpha_bar)
        k = variance / (variance + sigma**2)
        epsilon = (coefficients - (k * coefficients + (1 - k) * mu)) / sigma
        epsilon_image = (epsilon @ vt).reshape(x.shape)
        x = scheduler.step(
            epsilon_image, t, x, measurement, eta=eta, eta_b=eta_b, variance_noise=noise(i + 1)
        ).prev_sample
    result = x.flatten(1) @ vt.mT
    responses = result[1:] - result[0]
    return result[0], responses.mT @ responses, (mu, variance, s, y_bar)


@pytest.mark.parametrize("name", list(OPERATORS))
@pytest.mark.parametrize("sigma_y", [0.0, 0.1, 0.6])
@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (1.0, 0.5)])
def test_a_gaussian_prior_gives_the_exact_mean_and_variance(
    name: str, sigma_y: float, eta: float, eta_b: float
) -> None:
    scheduler = DDRMScheduler()
    scheduler.set_timesteps(8)
    mean, covariance, (mu, variance, s, y_bar) = run_gaussian_chain(OPERATORS[name], sigma_y, eta, eta_b, scheduler)
    sigmas = [scheduler.sigma(t) for t in scheduler.timesteps.tolist()] + [0.0]
    wanted_mean, wanted_var = gaussian_chain(
        mu.numpy(), variance.numpy(), s.numpy(), y_bar.numpy(), sigma_y, eta, eta_b, sigmas
    )
    assert np.abs(mean.numpy() - wanted_mean).max() < 1e-10
    assert np.abs(covariance.numpy() - np.diag(wanted_var)).max() < 1e-10
    assert wanted_var.max() > 1e-3 or (sigma_y == 0 and eta_b == 1)  # a chain without noise would not pass unseen


def test_starting_below_the_end_is_exact_too() -> None:
    scheduler = DDRMScheduler()
    scheduler.set_timesteps(timesteps=[300, 150, 20, 3])
    assert scheduler.sigma(300) < 1.3  # here sqrt(1 + sigma^2) is far from sigma
    mean, covariance, (mu, variance, s, y_bar) = run_gaussian_chain(OPERATORS["sr2"], 0.1, 0.85, 1.0, scheduler)
    sigmas = [scheduler.sigma(t) for t in (300, 150, 20, 3)] + [0.0]
    wanted = gaussian_chain(mu.numpy(), variance.numpy(), s.numpy(), y_bar.numpy(), 0.1, 0.85, 1.0, sigmas)
    assert np.abs(mean.numpy() - wanted[0]).max() < 1e-10
    assert np.abs(covariance.numpy() - np.diag(wanted[1])).max() < 1e-10


def test_the_oracle_agrees_with_the_golden_chain(shared: Path) -> None:
    golden = np.load(shared / "golden/ddrm/gauss_sr4_n8.npz")
    alphas = np.load(shared / "golden/ddrm/common.npz")["alphas_cumprod"].astype(np.float64)
    steps = np.load(shared / "golden/ddrm/common.npz")["timesteps"]
    sigmas = [*np.sqrt((1 - alphas[steps]) / alphas[steps]), 0.0]
    s, sigma_y, eta, eta_b = golden["s"], *(float(golden[k]) for k in ("sigma_y", "eta", "etab"))
    mean, var = gaussian_chain(golden["mu"], golden["g2"], s, golden["ybar"], sigma_y, eta, eta_b, sigmas)
    assert np.abs(mean - golden["mean"]).max() < 1e-4
    assert np.abs(var - golden["var"]).max() < 1e-4


@pytest.fixture(scope="module")
def golden_unet(shared: Path) -> UNet2DModel:
    folder = shared / "golden/ddrm"
    unet = UNet2DModel(**json.loads((folder / "unet_tiny.json").read_text())["config"])
    unet.load_state_dict(load_file(folder / "unet_tiny.safetensors"))
    return unet.eval()


@pytest.mark.parametrize("case", ["zero", "xT", "full"])
@pytest.mark.parametrize("task", ["inpaint_s0.1", "deno_s0.1", "color_s0.0"])
@torch.no_grad()
def test_golden_chains_of_the_authors_code(shared: Path, golden_unet: UNet2DModel, task: str, case: str) -> None:
    golden = {
        key: torch.from_numpy(value)
        for key, value in np.load(shared / f"golden/ddrm/{task}.npz").items()
        if value.dtype.kind in "fb"
    }
    shape, y = (3, 32, 32), golden["y"]
    operator: LinearOperator = Identity(shape)
    if task.startswith("color"):
        operator = Grayscale(shape, (0.3333, 0.3334, 0.3333))
    elif task.startswith("inpaint"):
        keep = golden["mask_hw_keep"]
        operator = Mask(shape, keep.float())
        holes = torch.zeros(2, 32, 32, 3)
        holes[:, keep] = y.reshape(2, -1, 3)  # theirs are stored pixel by pixel
        y = holes.permute(0, 3, 1, 2)
    measurement = Measurement(y.reshape(2, *operator.output_shape), operator, float(golden["sigma_0"]))
    scheduler = DDRMScheduler()
    scheduler.set_timesteps(20)

    def error(got: torch.Tensor, key: str) -> float:
        wanted = golden[f"{case}_{key}"]
        return float((got - wanted).abs().max() / wanted.abs().max())

    start_noise = golden["xT_noise_pix"] if case != "zero" else torch.zeros(2, *shape)
    sigma = scheduler.sigma(950)
    x = scheduler.start(measurement, start_noise) * (sqrt(1 + sigma**2) / sigma)  # their start divides by sigma_T
    assert error(x, "x_init") < 1e-4
    for i, t in enumerate(scheduler.timesteps.tolist()):
        noise = golden["noise_pix"][i] if case == "full" else torch.zeros(2, *shape)
        output = golden_unet(x, t).sample
        x, x0_hat = scheduler.step(output, t, x, measurement, variance_noise=noise, return_dict=False)
        if i == 0:
            assert error(x0_hat, "x0_first") < 1e-4
        if i + 1 in (1, 2, 10):
            assert error(x, f"x_{i + 1}") < 1e-4
    assert error(x0_hat, "out") < 1e-4  # theirs ends with the bare estimate
    assert error(x, "out") < 1e-4  # ours with the data in it, which only matters where sigma_y = 0
    if measurement.sigma_y == 0:
        assert (operator.forward(x) - measurement.y).abs().max() < 1e-4
        assert (operator.forward(golden[f"{case}_out"]) - measurement.y).abs().max() > 1e-3


def test_the_last_step_agrees_with_a_noiseless_measurement() -> None:
    generator = torch.Generator().manual_seed(0)
    for operator in OPERATORS.values():
        y = operator.forward(torch.rand(2, *SHAPE, generator=generator) * 2 - 1)
        x0_hat, epsilon, noise = torch.randn(3, 2, *SHAPE, generator=generator)
        x = ddrm_update(x0_hat, epsilon, noise, Measurement(y, operator), sigma_next=0.0)
        assert (operator.forward(x) - y).abs().max() < 1e-4


@pytest.mark.parametrize("name", [*OPERATORS, "denoise", "two masks", "symmetric blur", "crop"])
def test_the_update_is_the_plain_one(name: str) -> None:
    """In a full basis V from the dense matrix, with every rule, no new noise or only new noise, and the last step."""
    others: dict[str, LinearOperator] = {
        "denoise": Identity(SHAPE),
        "two masks": Mask(SHAPE, torch.stack([random_mask(6, 8, 0.5, seed)[None] for seed in range(2)])),
        "symmetric blur": operators.create("deblur-gauss", image_shape=SHAPE, sigma=1.0, taps=3),
        "crop": Crop(SHAPE, (4, 5)),
    }
    operator = {**OPERATORS, **others}[name]
    generator = torch.Generator().manual_seed(0)
    x0_hat, epsilon, noise = torch.randn(3, 2, *SHAPE, generator=generator, dtype=torch.float64)
    y = torch.randn(2, *operator.output_shape, generator=generator, dtype=torch.float64)
    for i in range(2):  # a batch with its own masks, too
        single = operator.select(i) if operator.batch_size else operator
        assert isinstance(single, SVDOperator)
        _, s, vt = torch.linalg.svd(dense_matrix(single), full_matrices=True)
        s = torch.cat([s, torch.zeros(len(vt) - len(s), dtype=s.dtype)])
        exact = torch.cat([single.singular_values.values.flatten(), torch.zeros(1, dtype=s.dtype)])
        s = exact[(s[:, None] - exact).abs().argmin(dim=1)]  # the border between two rules is not left to rounding
        x0_bar, epsilon_bar, noise_bar = (image[i].flatten() @ vt.mT for image in (x0_hat, epsilon, noise))
        y_bar = single.pinv(y[i : i + 1]).flatten() @ vt.mT
        for sigma_y in (0.0, 0.1, 0.6):
            for sigma_next in (0.0, 0.05, 0.1, 0.3, 0.6, 5.0):
                for eta, eta_b in ((0.85, 1.0), (0.0, 0.0), (1.0, 1.0), (0.6, 0.5)):
                    step = sigma_next, eta, eta_b
                    got = ddrm_update(x0_hat, epsilon, noise, Measurement(y, operator, sigma_y), *step)[i].flatten()
                    plain = ddrm_update_plain(x0_bar, epsilon_bar, noise_bar, y_bar, s, sigma_y, *step) @ vt
                    assert (got - plain).abs().max() < 1e-12 * max(1.0, float(plain.abs().max()))
    got = ddrm_update(x0_hat, epsilon, noise, None, 0.3)
    plain = ddrm_update_plain(x0_hat, epsilon, noise, x0_hat, torch.zeros(8, dtype=torch.float64), 0.1, 0.3)
    assert (got - plain).abs().max() < 1e-14


def test_the_three_cases_and_the_border_between_them() -> None:
    """s sigma' == sigma_y belongs to the noisier case, as in the paper."""
    operator, y = Identity((1, 1, 1)), torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    x0_hat, epsilon, noise = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (0.2, -1.5, 0.4))

    def update(sigma_y: float, sigma_next: float) -> float:
        return float(ddrm_update(x0_hat, epsilon, noise, Measurement(y, operator, sigma_y), sigma_next, 0.6, 0.9))

    assert update(0.5, 0.5) == pytest.approx(0.1 * 0.2 + 0.9 * 0.7 + sqrt(0.25 - 0.81 * 0.25) * 0.4, abs=1e-15)
    assert update(0.5, 0.499) == pytest.approx(0.2 + 0.8 * 0.499 * 0.5 / 0.5 + 0.6 * 0.499 * 0.4, abs=1e-15)
    assert update(0.0, 0.3) == pytest.approx(0.1 * 0.2 + 0.9 * 0.7 + 0.3 * 0.4, abs=1e-15)


# The diffusers side


def test_unmeasured_coefficients_are_ddim() -> None:
    """Where nothing is measured, DDRM is DDIM with sigma' eta of new noise, here diffusers' own at eta = 0."""
    ddim = DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    ours = DDRMScheduler.from_config(ddim.config)
    ddim.set_timesteps(10)
    ours.set_timesteps(10)
    assert ours.timesteps.tolist() == ddim.timesteps.tolist()
    assert torch.allclose(ours.alphas_cumprod.float(), ddim.alphas_cumprod, rtol=1e-5, atol=0)
    mask = torch.zeros(8, 8)
    mask[0, 0] = 1
    generator = torch.Generator().manual_seed(0)
    measurement = Measurement(torch.zeros(1, 3, 8, 8), Mask((3, 8, 8), mask))
    for t in ours.timesteps.tolist():
        x, output = torch.randn(2, 1, 3, 8, 8, generator=generator)
        wanted = ddim.step(output, t, x, eta=0.0).prev_sample
        got = ours.step(output, t, x, measurement, eta=0.0, variance_noise=torch.zeros_like(x)).prev_sample
        assert torch.allclose(got[..., 1:, 1:], wanted[..., 1:, 1:], atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_predictions_mean_what_diffusers_means(prediction_type: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise, shift = torch.randn(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    ddpm = DDPMScheduler()
    t = torch.tensor([400, 400])
    alpha_bar = float(ddpm.alphas_cumprod[400])
    x = ddpm.add_noise(x0, noise, t)
    output = {"epsilon": noise, "sample": x0, "v_prediction": ddpm.get_velocity(x0, noise, t)}[prediction_type]
    got = predict_x0_and_epsilon(output, x, alpha_bar, prediction_type)
    assert (got[0] - x0).abs().max() < 1e-6
    assert (got[1] - noise).abs().max() < 1e-6
    shifted = predict_x0_and_epsilon(
        shift_epsilon(output, shift, alpha_bar, prediction_type), x, alpha_bar, prediction_type
    )
    assert (shifted[1] - noise - shift).abs().max() < 1e-5
    assert (sqrt(alpha_bar) * shifted[0] + sqrt(1 - alpha_bar) * shifted[1] - x).abs().max() < 1e-12


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_configurations_of_stock_schedulers_convert(scheduler: Any, tmp_path: Path) -> None:
    stock = scheduler(beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.03, prediction_type="v_prediction")
    stock.save_pretrained(tmp_path)
    for ours in (DDRMScheduler.from_config(stock.config), DDRMScheduler.from_pretrained(tmp_path)):
        assert torch.allclose(ours.alphas_cumprod.float(), stock.alphas_cumprod, rtol=1e-4, atol=1e-9)
        assert ours.config.prediction_type == "v_prediction"
    ours.save_pretrained(tmp_path / "again")
    assert DDRMScheduler.from_pretrained(tmp_path / "again").config.beta_end == 0.03


def test_add_noise_is_diffusers() -> None:
    x, noise = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    assert torch.allclose(DDRMScheduler().add_noise(x, noise, t), DDPMScheduler().add_noise(x, noise, t), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (IPNDMScheduler().config, "scheduler without a beta_schedule is not one of a variance-preserving process"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "CMStochasticIterativeScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=True"),
        ({"prediction_type": "flow"}, "no prediction_type named 'flow'"),
        ({"trained_betas": [0.1, 1.5], "num_train_timesteps": 2}, r"betas must lie in \(0, 1\), got 0.1 to 1.5"),
        ({"beta_start": 0.02, "beta_end": 0.0001}, "beta_end must be"),
        ({"beta_end": 1.5}, "beta_end must be"),
        (
            {"trained_betas": [0.1] * 100},
            r"num_train_timesteps=1000 numbers, got shape \(100,\)",
        ),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be"),
    ],
)
def test_a_schedule_of_another_kind_is_refused(config: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DDRMScheduler.from_config(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number >= 1 and <= 1000, got 0"),
        ({"num_inference_steps": -1}, "got -1"),
        ({"num_inference_steps": 1001}, "got 1001"),
        ({"num_inference_steps": 2.5}, "got 2.5"),
        ({"num_inference_steps": "10"}, "got '10'"),
        (
            {"timesteps": [100, 200]},
            r"timesteps must be a decreasing list of whole numbers below 1000, got \[100, ",
        ),
        ({"timesteps": [200, 200]}, "decreasing"),
        ({"timesteps": [200, float("nan")]}, "timesteps must be a whole number"),
        ({"timesteps": [1000, 5]}, "timesteps must be a whole number >= 0 and <= 999, got 1000"),
        ({"timesteps": [10, -5]}, "got -5"),
        ({"timesteps": []}, "decreasing"),
        ({"timesteps": 5}, "decreasing list of whole numbers, got 5"),
        ({}, "give either"),
        ({"num_inference_steps": 3, "timesteps": [2, 1]}, "give either"),
    ],
)
def test_bad_timesteps_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DDRMScheduler().set_timesteps(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eta": 1.1}, "eta must be a number >= 0 and <= 1, got 1.1"),
        ({"eta": float("nan")}, "eta must be"),
        ({"eta_b": -0.1}, "eta_b must be"),
        ({"eta_b": 2.0}, "eta_b must be"),
        ({"timestep": 0.7}, "timestep must be a whole number"),
        ({"timestep": 13}, "timestep must be one of those set by set_timesteps, got 13"),
    ],
)
def test_bad_steps_are_refused(arguments: dict[str, Any], message: str) -> None:
    scheduler = DDRMScheduler()
    scheduler.set_timesteps(10)
    x = torch.zeros(1, *SHAPE)
    step = {"timestep": 900, **arguments}
    with pytest.raises(InvalidInputError, match=message):
        scheduler.step(x, sample=x, measurement=Measurement(x, Identity(SHAPE)), **step)


def test_what_cannot_start_is_refused() -> None:
    scheduler = DDRMScheduler()
    scheduler.set_timesteps(timesteps=[100])
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(
        InvalidInputError, match="sigma_y must be at most 0.34.*, the noise level of the first timestep"
    ):
        scheduler.start(Measurement(x, Identity(SHAPE), 0.5), x)
    blurred = Mask(SHAPE, random_mask(6, 8)) @ CircularBlur(SHAPE, motion_kernel(3, 0.0))
    with pytest.raises(OperatorError, match="has no fast SVD"):
        scheduler.start(Measurement(x, blurred), x)
    with pytest.raises(UnknownNameError):
        DDRMScheduler(prediction_type="x0")
    with pytest.raises(OperatorError, match=r"x must be \(B, C, H, W\) with"):
        scheduler.start(Measurement(x, Identity(SHAPE)), x[..., :4])
    with pytest.raises(InvalidInputError, match="a batch of 2 does not fit a measurement of 1 images"):
        scheduler.start(Measurement(x, Identity(SHAPE)), x.repeat(2, 1, 1, 1))
    assert scheduler.start(Measurement(x, Identity(SHAPE)), x, timestep=scheduler.timesteps[0]).shape == x.shape
    for timestep in (-5, 1000, 2.5):
        with pytest.raises(InvalidInputError, match="timestep must be a whole number >= 0 and <= 999"):
            scheduler.start(Measurement(x, Identity(SHAPE)), x, timestep=timestep)
    with pytest.raises(InvalidInputError, match="timestep must be a whole number >= -1 and <= 999, got -5"):
        scheduler.alpha_bar(-5)


@pytest.mark.parametrize(("eta", "share"), [(0.85, 0.75), (1.0, 0.5)])
@pytest.mark.parametrize("sd", [0.1, 0.5])
def test_many_steps_do_not_give_the_posterior(eta: float, share: float, sd: float) -> None:
    scheduler = DDRMScheduler()
    sigmas = [*(scheduler.sigma(t) for t in reversed(range(1000))), 0.0]
    zero = np.zeros(1)
    _, variance = gaussian_chain(zero, np.full(1, sd**2), zero, zero, 0.0, eta, 1.0, sigmas)
    assert variance[0] / sd**2 == pytest.approx(share, abs=0.04)
