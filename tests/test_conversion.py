"""Every scheduler of diffusers becomes one of ours exactly, or is refused with a reason."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from conftest import WriteRepo, make_unet
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ScoreSdeVePipeline,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from diffusers_restore import DDRMPipeline, DDRMScheduler, RDDMScheduler, operators
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.operators import Measurement
from diffusers_restore.schedulers.prediction import VARIANCE_PRESERVING


def stock() -> dict[str, SchedulerMixin]:
    """Every scheduler of the installed diffusers that can be made without arguments."""
    found = {}
    for name in dir(diffusers):
        kind = getattr(diffusers, name) if name.endswith("Scheduler") else None
        if isinstance(kind, type) and issubclass(kind, SchedulerMixin):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of NumPy's, about how they are made
                    found[name] = kind()
            except TypeError:  # it needs arguments, and is none of a UNet for pictures
                continue
    return found


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
STOCK = stock()
TRAINED = [0.001 + 0.05 * (i / 50) ** 2 for i in range(50)]


def test_there_is_something_to_convert() -> None:
    assert len(STOCK) > 30
    missing = set(VARIANCE_PRESERVING) - set(STOCK)
    assert missing <= {"DPMSolverSDEScheduler"}  # it needs a package more


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("ours", [DDRMScheduler, RDDMScheduler])
def test_a_scheduler_is_converted_exactly_or_refused(ours: Any, name: str, tmp_path: Path) -> None:
    scheduler = STOCK[name]
    scheduler.save_pretrained(tmp_path)
    ways = {
        "in memory": lambda: ours.from_config({**scheduler.config, "_class_name": name}),
        "from a file": lambda: ours.from_pretrained(tmp_path),
        "from a file that leaves the defaults out": lambda: ours.from_config({"_class_name": name}),
    }
    for way, convert in ways.items():
        if name in VARIANCE_PRESERVING:
            converted = convert()
            known = scheduler.alphas_cumprod.double()
            if ours is DDRMScheduler:
                assert torch.allclose(converted.alphas_cumprod, known, rtol=3e-5, atol=0), way  # theirs is float32
            else:
                noise = converted.noise_scales.double().square()
                assert torch.allclose(1 - noise, known, rtol=1e-4, atol=1e-7), way
            assert converted.config.prediction_type == scheduler.config.get("prediction_type", "epsilon")
        elif name == "ScoreSdeVeScheduler" and ours is DDRMScheduler:
            assert convert().sigma(0) == pytest.approx(0.02)
        else:
            with pytest.raises(InvalidInputError, match=f"scheduler {name} is not one of a variance-preserving"):
                convert()


@pytest.mark.parametrize(
    "options",
    [
        {"num_train_timesteps": 50, "trained_betas": TRAINED},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        {"prediction_type": "sample", "num_train_timesteps": 100},
    ],
    ids=["trained_betas", "scaled_linear", "v_prediction", "sample"],
)
@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_options_are_kept_there_and_back(kind: Any, options: dict[str, Any]) -> None:
    scheduler = kind(**options)
    for config in (scheduler.config, {**scheduler.config, "_class_name": kind.__name__}):
        ours = DDRMScheduler.from_config(config)
        assert torch.allclose(ours.alphas_cumprod, scheduler.alphas_cumprod.double(), rtol=3e-5, atol=0)
        assert ours.config.prediction_type == scheduler.config.prediction_type
        back = kind.from_config(ours.config)
        assert torch.equal(back.alphas_cumprod, scheduler.alphas_cumprod)
        assert {k: v for k, v in back.config.items() if k[0] != "_"} == {
            k: v for k, v in scheduler.config.items() if k[0] != "_"
        }


def test_what_a_ddpm_samples_with_comes_back() -> None:
    """Its clipping and its variance mean nothing to DDRM, and are kept for who makes a DDPM of it again."""
    ddpm = DDPMScheduler(variance_type="learned_range", clip_sample=False, thresholding=True)
    back = DDPMScheduler.from_config(DDRMScheduler.from_config(ddpm.config).config)
    assert (back.config.variance_type, back.config.clip_sample, back.config.thresholding) == (
        "learned_range",
        False,
        True,
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"_class_name": "EDMEulerScheduler"},
            r"its network is fed with scaled pictures and log sigma / 4 \(EDM\)",
        ),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "its network is a consistency model"),
        ({"_class_name": "KarrasVeScheduler"}, "it says nothing of the noise levels"),
        ({"_class_name": "ADMDDIMScheduler"}, r"give its noise schedule: scheduler=DDPMScheduler\(beta_schedule=...\)"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "fed with log sigma / 4"),
        ({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}, "its x0 has no finite noise level"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas=True"),
        ({"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}, "'flow_prediction'"),
        ("linear", "config must be the configuration of a scheduler, a mapping, got 'linear'"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 0.001}, "sigma_max must be a number > 0.01"),
    ],
)
def test_a_refusal_says_why(config: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DDRMScheduler.from_config(config)


# Repositories that name a scheduler which diffusers lacks


@pytest.fixture
def unknown(write_repo: WriteRepo) -> Path:
    """A stock repository whose scheduler is of a class that diffusers has lost, or never had."""
    folder = write_repo(make_unet(), DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
    for file, at in (("model_index.json", None), ("scheduler/scheduler_config.json", "_class_name")):
        content = json.loads((folder / file).read_text())
        if at is None:
            content["scheduler"][1] = "ADMDDIMScheduler"
        else:
            content[at] = "ADMDDIMScheduler"
        (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_diffusers_lacks_is_refused_or_replaced(unknown: Path) -> None:
    with pytest.raises(AttributeError):
        DDPMPipeline.from_pretrained(unknown, scheduler=DDPMScheduler())
    with pytest.raises(InvalidInputError, match="scheduler ADMDDIMScheduler is not one of .* give its noise schedule"):
        DDRMPipeline.from_pretrained(unknown)
    pipe = DDRMPipeline.from_pretrained(unknown, scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
    assert isinstance(pipe.scheduler, DDRMScheduler)
    assert pipe.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert torch.equal(pipe.unet.conv_in.weight, make_unet().conv_in.weight)


# Variance-exploding networks, as google/ncsnpp-*


def test_the_levels_of_a_ve_process_are_those_of_diffusers() -> None:
    ve = ScoreSdeVeScheduler(num_train_timesteps=200, sigma_min=0.01, sigma_max=380.0)
    ours = DDRMScheduler.from_config({**ve.config, "_class_name": "ScoreSdeVeScheduler"})
    assert DDRMScheduler.from_config(ve.config).betas.equal(ours.betas)
    ve.set_timesteps(200)
    ve.set_sigmas(200)
    levels = [2 * float(sigma) for sigma in ve.discrete_sigmas]
    assert len(ours) == 200
    assert [ours.sigma(t) for t in range(200)] == pytest.approx(levels, rel=1e-5)
    again = DDRMScheduler.from_config(json.loads(json.dumps(dict(ours.config))))
    assert [again.sigma(t) for t in range(200)] == pytest.approx([ours.sigma(t) for t in range(200)], rel=1e-12)


def ve_unet() -> UNet2DModel:
    """A small network in the form of google/ncsnpp-church-256."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=16,
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("SkipDownBlock2D", "SkipDownBlock2D"),
            up_block_types=("SkipUpBlock2D", "SkipUpBlock2D"),
            time_embedding_type="fourier",
            center_input_sample=True,
            norm_num_groups=None,
            add_attention=False,
        ).eval()


class Gaussian:
    """What networks would say of pictures whose pixels are independent, N(mean, deviation^2) in [-1, 1]."""

    mean, deviation = 0.2, 0.4

    def score(self, x: Tensor, sigma: Tensor, **_: Any) -> tuple[Tensor]:
        """Of a VE network: pictures in [0, 1], told of sigma."""
        assert x.dtype == torch.float32
        variance = (self.deviation / 2) ** 2 + sigma.reshape(-1, 1, 1, 1) ** 2
        return (((self.mean + 1) / 2 - x) / variance,)

    def epsilon(self, scheduler: DDRMScheduler) -> Any:
        """Of a DDPM's network with the noise levels of a scheduler."""

        def predict(x: Tensor, t: Tensor, **_: Any) -> tuple[Tensor]:
            alpha_bar = scheduler.alphas_cumprod[t].reshape(-1, 1, 1, 1).float()
            variance = alpha_bar * self.deviation**2 + 1 - alpha_bar
            return ((1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * self.mean) / variance,)

        return predict


@pytest.mark.parametrize(("task", "sigma_y"), [("sr2", 0.0), ("denoise", 0.3), ("colorize", 0.1)])
def test_a_ve_network_restores_as_a_ddpm_that_knows_the_same(
    task: str, sigma_y: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same prior, told by a score in [0, 1] and by a noise estimate in [-1, 1], gives the same chain."""
    ve, ddpm = ve_unet(), make_unet()
    through_score = DDRMPipeline(ve, ScoreSdeVeScheduler(num_train_timesteps=100, sigma_max=50.0))
    through_noise = DDRMPipeline(ddpm, through_score.scheduler)
    gaussian = Gaussian()
    monkeypatch.setattr(ve, "forward", gaussian.score)
    monkeypatch.setattr(ddpm, "forward", gaussian.epsilon(through_score.scheduler))
    operator = operators.create(task, image_shape=(3, 16, 16))
    y = torch.rand(1, *operator.output_shape, generator=torch.Generator().manual_seed(0)) - 0.5
    pictures = []
    for pipe in (through_score, through_noise):
        pipe.set_progress_bar_config(disable=True)
        call = {"operator": operator, "sigma_y": sigma_y, "num_inference_steps": 20, "output_type": "latent"}
        pictures.append(pipe(y, **call, generator=torch.Generator().manual_seed(1)).images)
    assert float((pictures[0] - pictures[1]).abs().max()) < 2e-4
    assert float(pictures[0].std()) > 0.05


def test_a_ve_repository_loads_and_is_saved(write_repo: WriteRepo, tmp_path: Path) -> None:
    folder = write_repo(ve_unet(), ScoreSdeVeScheduler(num_train_timesteps=50), pipeline="ScoreSdeVePipeline")
    assert type(ScoreSdeVePipeline.from_pretrained(folder)) is ScoreSdeVePipeline
    pipe = DDRMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)

    def restored(one: DDRMPipeline) -> Tensor:
        call = {"operator": "sr2", "num_inference_steps": 3, "output_type": "latent"}
        return one(torch.zeros(1, 3, 7, 9), **call, generator=torch.Generator().manual_seed(0)).images

    assert restored(pipe).shape == (1, 3, 14, 18)
    pipe.save_pretrained(tmp_path / "saved")
    again = DDRMPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert torch.allclose(restored(again), restored(pipe), atol=1e-4)
    assert math.isclose(again.scheduler.sigma(49), 2 * 1348, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("unet", "scheduler", "message"),
    [
        (
            ve_unet,
            DDPMScheduler,
            "unet is a score network of a VE process .* must be a ScoreSdeVeScheduler",
        ),
        (make_unet, ScoreSdeVeScheduler, "is that of a VE process, .* unet is a network of a DDPM"),
        (
            lambda: UNet2DModel.from_config({**ve_unet().config, "center_input_sample": False}),
            ScoreSdeVeScheduler,
            "center_input_sample=False",
        ),
    ],
)
def test_a_network_and_a_scheduler_of_different_processes_are_refused(unet: Any, scheduler: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DDRMPipeline(unet(), scheduler())


def test_a_step_without_a_measurement_is_that_of_ddim() -> None:
    ddim = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    ours = DDRMScheduler.from_config(ddim.config)
    for scheduler in (ddim, ours):
        scheduler.set_timesteps(5)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = ours.timesteps[1]
    theirs = ddim.step(x.sin(), t, x, eta=0.0).prev_sample
    assert torch.allclose(ours.step(x.sin(), t, x, eta=0.0).prev_sample, theirs, atol=1e-6)
    empty = Measurement(torch.zeros(2, 3, 8, 8, dtype=torch.float64), operators.Identity((3, 8, 8)), 0.0)
    assert not torch.allclose(ours.step(x.sin(), t, x, empty, eta=0.0).prev_sample, theirs, atol=0.1)
