"""What diffusers expects of a scheduler, a pipeline and a model, for each public class of the package.

The behaviours are those that the three common suites of diffusers check, SchedulerCommonTest, PipelineTesterMixin (with
its successors for `from_pipe` and memory) and ModelTesterMixin; the tests are our own. A new public class fails
`test_every_class_is_here` until it has an entry in KINDS, CASES or MODELS.

What of the suites has no meaning here:

- prompts, guidance, latents, VAE tiling, IP adapters, LoRA, FreeU, feature caches, safety checkers: there are no such
  components; `num_images_per_prompt` is DDRM's `num_images_per_input`. `output_type="latent"` has nothing to show.
- interrupting by `pipe._interrupt`, `guidance_scale` or `interrupt` properties: not offered by these pipelines.
- xFormers, NPU and `set_attn_processor` of the networks: UNet2DModel is diffusers' own and tested there.
- what needs an accelerator: in place of `enable_sequential_cpu_offload`, accelerate is called for a CPU. The order of
  `enable_model_cpu_offload` is run with the CPU as its device, where hooks fire as they do on a GPU.
- pickled weights in shards can be written, but diffusers does not load them from a folder, its own neither.
- `trained_betas` of another length than `num_train_timesteps`, which the suite passes: refused here, with a reason.
- timesteps as fractions (Euler's): there are whole numbers only.
- `from_config` of DDPM, DDIM or PNDM for a `RDDMScheduler` with coefficients of its own, or for Cold Diffusion: none of
  diffusers' schedulers can say what these say. It must be an error, not another process.
- forward passes, training, gradient checkpointing, EMA, attention and `device_map="auto"` of models: a
  `GaussianMixturePrior` has no `forward` and no layers; it is asked by `sample`. `ResidualUNet2DModel` and the
  generators of Pix2pix are networks of pipelines here, and have test_unet_2d_residual.py and test_pix2pix_models.py; so
  are the networks of old photographs, which have test_old_photo_models.py.
- pushing to the Hub: test_pipeline_rddm.py and hub_matrix.py.
"""

from __future__ import annotations

import copy
import doctest
import inspect
import json
import logging
import math
import pickle
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from conftest import make_generator, make_old_photo_network, make_old_photo_pipeline, make_residual_unet, make_unet
from diffusers import (
    AutoModel,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    ImagePipelineOutput,
    ModelMixin,
    PNDMScheduler,
    SchedulerMixin,
    UNet2DModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.configuration_utils import FrozenDict
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines import pipeline_utils
from diffusers.utils import BaseOutput
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import diffusers_restore
from diffusers_restore import (
    ColdDiffusionPipeline,
    ColdDiffusionScheduler,
    DDRMPipeline,
    DDRMScheduler,
    GaussianMixturePrior,
    PatchDiscriminator,
    Pix2PixPipeline,
    RDDMPipeline,
    RDDMScheduler,
    ResidualUNet2DModel,
    ResnetGenerator,
    ScratchDetectionPipeline,
    ScratchDetector,
    measure,
)
from diffusers_restore.degradations import Blur, Mix
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.operators import BlockMean
from diffusers_restore.pipelines.faces import face_template
from diffusers_restore.pipelines.pipeline_old_photo import OldPhotoOutput
from diffusers_restore.registries import METHODS
from diffusers_restore.schedulers.zero_shot import ZeroShotScheduler

SHAPE = (3, 8, 12)
PHOTO = (3, 24, 32)
CPU = torch.device("cpu")
DEVICE = torch.device("cuda") if torch.cuda.is_available() else CPU


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pictures(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 7) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def error(x: Tensor, wanted: Tensor) -> float:
    assert x.shape == wanted.shape
    assert x.isfinite().all()
    return float((x - wanted).abs().max() / wanted.abs().max())


def plain(config: Any) -> dict[str, Any]:
    """A configuration without what diffusers notes in it."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=list))


@contextmanager
def logged(level: int = logging.WARNING) -> Iterator[list[str]]:
    """What diffusers logs meanwhile."""
    messages: list[str] = []
    logger, handler = logging.getLogger("diffusers"), logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    before = logger.level
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


# The classes


@dataclass(frozen=True)
class Kind:
    """A scheduler.

    Attributes:
        build: it.
        options: what a step of so many pictures is given beside model_output, timestep and sample.
        draws: whether a step draws noise by `generator`.
        noise: what `add_noise` takes as such.
        has_stock: whether schedulers of diffusers can say what it says.
        gradient: whether a step needs the graph from the sample to model_output.
    """

    build: Callable[[], Any]
    options: Callable[[int], dict[str, Any]] = lambda count: {}
    draws: bool = True
    noise: Callable[[int], Any] = lambda count: torch.randn(count, *SHAPE, generator=seeded(4)[0])
    has_stock: bool = False
    gradient: bool = False


KINDS = {
    "ddrm": Kind(lambda: DDRMScheduler(beta_end=0.03, prediction_type="v_prediction"), has_stock=True),
    "ddrm, measured": Kind(
        lambda: DDRMScheduler(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2", prediction_type="sample"),
        lambda count: {"measurement": measure(BlockMean(SHAPE, 2), pictures(count, seed=2), 0.1, seeded(1)[0])},
        has_stock=True,
    ),
    "rddm": Kind(
        lambda: RDDMScheduler(num_train_timesteps=200, noise_scale=0.25, clip_sample=False),
        lambda count: {"degraded": pictures(count, seed=2), "eta": 1.0},
    ),
    "rddm, two outputs": Kind(
        lambda: RDDMScheduler(process="resshift", num_train_timesteps=50, prediction_type="sample_sum"),
        lambda count: {"degraded": pictures(count, seed=2), "eta": 1.0},
    ),
    "rddm, of a DDPM": Kind(
        lambda: RDDMScheduler(beta_schedule="scaled_linear", beta_end=0.012, prediction_type="epsilon"),
        lambda count: {"eta": 1.0},
        has_stock=True,
    ),
    "rddm, from a DDIM": Kind(
        lambda: RDDMScheduler.from_config(DDIMScheduler(beta_end=0.03, clip_sample_range=2.0).config),
        lambda count: {"eta": 1.0},
        has_stock=True,
    ),
    "cold": Kind(
        lambda: ColdDiffusionScheduler(Blur(num_timesteps=20, std=0.3), clip_sample=True),
        draws=False,
        noise=lambda count: None,
    ),
    "cold, with a state": Kind(
        lambda: ColdDiffusionScheduler(Mix(30), algorithm="naive"),
        lambda count: {"state": {"endpoint": pictures(count, seed=2)}},
        draws=False,
        noise=lambda count: {"endpoint": pictures(count, seed=2)},
    ),
}
# What their own tests turn on, and what would make a chain of another length.
ONE_EACH = {
    "ccdf": {"start_share": 1.0},
    "ddrm-jpeg": {"start_share": 1.0, "eta": 0.5},
    "mmps": {"covariance": True, "denoise_last": False},
    "daps": {"denoise_last": False},
    "repaint": {"travel_repeats": 1},
}
KINDS |= {
    name: Kind(
        lambda name=name: METHODS[name](beta_end=0.03, prediction_type="v_prediction", **ONE_EACH.get(name, {})),
        lambda count: {"measurement": measure(BlockMean(SHAPE, 2), pictures(count, seed=2), 0.1, seeded(1)[0])},
        draws=name != "dpir",
        has_stock=True,
        gradient=METHODS[name].needs_gradient,
    )
    for name in METHODS
    if name != "ddrm"
}


@dataclass(frozen=True)
class Case:
    """A pipeline.

    Attributes:
        build: it.
        arguments: of a call for so many pictures.
        draws: whether it draws anything.
        without: arguments of a call once its optional components are None; None if it can do nothing without.
        chain: whether it has a scheduler and makes several steps.
        generator: whether it takes one.
        part: the name of its network that makes the pictures; "" is the first.
        output: what a call returns.
        rounding: how many times further than others it may be led by rounding, as by many norms of few pixels.
    """

    build: Callable[[], Any]
    arguments: Callable[[int], dict[str, Any]]
    draws: bool = True
    without: dict[str, Any] | None = field(default_factory=dict)
    chain: bool = True
    generator: bool = True
    part: str = ""
    output: type = ImagePipelineOutput
    rounding: float = 1.0


def restorer(sign: float = 1.0, make: Callable[..., Any] = make_unet) -> Any:
    unet = make(channels=6, out_channels=3)
    with torch.no_grad():
        unet.conv_out.weight.mul_(sign)
    return unet


def prior(**config: Any) -> GaussianMixturePrior:
    model = GaussianMixturePrior(**{"height": 2, "width": 2, "components": 2, "noise_std": 0.1, **config})
    model.weights.copy_(torch.linspace(1, 2, len(model.weights)) / torch.linspace(1, 2, len(model.weights)).sum())
    model.means.copy_(torch.linspace(-0.5, 0.5, model.means.numel()).reshape(model.means.shape))
    model.scale_tril.mul_(0.3)
    return model


def blur(model: GaussianMixturePrior | None = None) -> ColdDiffusionPipeline:
    return ColdDiffusionPipeline(make_unet(), ColdDiffusionScheduler(Blur(num_timesteps=3)), model)


CASES = {
    "ddrm": Case(
        lambda: DDRMPipeline(make_unet(), DDPMScheduler(beta_end=0.03)),
        lambda n: {"image": pictures(n, (3, 4, 6)), "operator": "sr2", "sigma_y": 0.05, "num_inference_steps": 3},
    ),
    "cold": Case(blur, lambda n: {"image": pictures(n)}, draws=False),
    "cold, prior": Case(
        lambda: blur(prior()), lambda n: {"batch_size": n}, without={"image": pictures(1), "batch_size": None}
    ),
    "cold, noise": Case(
        lambda: ColdDiffusionPipeline(make_unet(), ColdDiffusionScheduler(Mix(3))), lambda n: {"batch_size": n}
    ),
    "rddm": Case(
        lambda: RDDMPipeline(restorer(), RDDMScheduler(num_train_timesteps=20, noise_scale=0.25), keeps_grey=False),
        lambda n: {"image": pictures(n), "eta": 0.5, "num_inference_steps": 3},
    ),
    "rddm, two networks": Case(
        lambda: RDDMPipeline(
            restorer(),
            RDDMScheduler(num_train_timesteps=20, noise_scale=0.25, prediction_type="residual_epsilon"),
            restorer(-0.7),
        ),
        lambda n: {"image": pictures(n), "eta": 0.5, "num_inference_steps": 3},
        without=None,
    ),
    "ddrm, residual network": Case(
        lambda: DDRMPipeline(make_residual_unet(), DDPMScheduler(beta_end=0.03)),
        lambda n: {"image": pictures(n, (3, 4, 6)), "operator": "sr2", "sigma_y": 0.05, "num_inference_steps": 3},
    ),
    "cold, residual network": Case(
        lambda: ColdDiffusionPipeline(make_residual_unet(), ColdDiffusionScheduler(Blur(num_timesteps=3))),
        lambda n: {"image": pictures(n)},
        draws=False,
    ),
    "rddm, two residual networks": Case(
        lambda: RDDMPipeline(
            restorer(1.0, make_residual_unet),
            RDDMScheduler(num_train_timesteps=20, noise_scale=0.25, prediction_type="residual_epsilon"),
            restorer(-0.7, make_residual_unet),
        ),
        lambda n: {"image": pictures(n), "eta": 0.5, "num_inference_steps": 3},
        without=None,
    ),
    "pix2pix": Case(lambda: Pix2PixPipeline(make_generator()), lambda n: {"image": pictures(n)}, chain=False),
    "pix2pix, residual blocks": Case(
        lambda: Pix2PixPipeline(make_generator(ResnetGenerator), keeps_grey=True),
        lambda n: {"image": pictures(n)},
        chain=False,
    ),
    "old photo": Case(
        make_old_photo_pipeline,
        lambda n: {"image": pictures(n, PHOTO)},
        draws=False,
        chain=False,
        generator=False,
        part="vae_clean",
        output=OldPhotoOutput,
        rounding=4.0,
    ),
    "old photo, scratched": Case(
        lambda: make_old_photo_pipeline("partial", True, True, detection_size=None),
        # No pixel is so near the threshold that rounding would decide.
        lambda n: {
            "image": pictures(n, PHOTO, 12),
            "threshold": 0.7,
            "faces": lambda picture: [((4, 2, 20, 18), face_template(16) + torch.tensor([5.0, 3.0]), 1.0)],
        },
        draws=False,
        without={
            "mask": (torch.rand(*PHOTO[1:], generator=torch.Generator().manual_seed(3)) < 0.1).float(),
            "faces": None,
        },
        chain=False,
        generator=False,
        part="vae_clean",
        output=OldPhotoOutput,
        rounding=4.0,
    ),
    "scratches": Case(
        lambda: ScratchDetectionPipeline(make_old_photo_network(ScratchDetector), detection_size=16),
        lambda n: {"image": pictures(n), "threshold": 0},
        draws=False,
        chain=False,
        generator=False,
    ),
    "rddm, generator": Case(
        lambda: RDDMPipeline(
            make_unet(), RDDMScheduler(num_train_timesteps=20, prediction_type="epsilon"), generates=True
        ),
        lambda n: {"batch_size": n, "eta": 0.5, "num_inference_steps": 3},
    ),
}

MODELS = {
    "prior": lambda: prior(height=4, width=3, components=3, upsample="bilinear"),
    "prior of colours": prior,
}

kinds = pytest.mark.parametrize("name", KINDS)
cases = pytest.mark.parametrize("name", CASES)
chains = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.chain])
models = pytest.mark.parametrize("name", MODELS)
taking = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.generator])
drawing = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.draws])


def public(base: type) -> set[type]:
    values = [getattr(diffusers_restore, name) for name in diffusers_restore.__all__]
    return {value for value in values if inspect.isclass(value) and issubclass(value, base)}


PIPELINES = sorted(public(DiffusionPipeline), key=lambda one: one.__name__)
SCHEDULERS = sorted(public(SchedulerMixin) | {METHODS[name] for name in METHODS}, key=lambda one: one.__name__)
pipelines = pytest.mark.parametrize("kind", PIPELINES, ids=lambda one: one.__name__)
ours = pytest.mark.parametrize(  # those that a scheduler of a DDPM becomes; zero-shot methods share how they do
    "ours", [DDRMScheduler, METHODS["daps"], RDDMScheduler], ids=lambda one: one.__name__
)


def test_every_class_is_here() -> None:
    assert {type(case.build()) for case in CASES.values()} == set(PIPELINES)
    assert {type(kind.build()) for kind in KINDS.values()} == set(SCHEDULERS)
    of_pipelines = {type(network) for case in CASES.values() for network in networks(case.build()).values()}
    # A discriminator belongs to no pipeline: see test_pix2pix_models.py.
    assert {type(build()) for build in MODELS.values()} | of_pipelines - {UNet2DModel} == public(ModelMixin) - {
        PatchDiscriminator
    }
    assert len(PIPELINES) > 2
    assert len(SCHEDULERS) > 2


# Schedulers


def step(name: str, scheduler: Any, count: int = 2, *, t: Any = None, **changed: Any) -> Any:
    """A step of so many pictures at the second timestep of five, with generators of their own."""
    outputs = len(getattr(scheduler, "heads", ("one",)))
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[1] if t is None else t
    options = KINDS[name].options(count)
    if KINDS[name].draws:
        options["generator"] = seeded(*range(count))
    model_output = pictures(count, (outputs * SHAPE[0], *SHAPE[1:]), seed=5) * 0.3
    return scheduler.step(*of_network(name, model_output, t, pictures(count)), **{**options, **changed})


def of_network(name: str, model_output: Tensor, t: Any, sample: Tensor) -> tuple[Tensor, Any, Tensor]:
    """The same, with a graph between the two where a step needs it."""
    if not KINDS[name].gradient:
        return model_output, t, sample
    sample.requires_grad_()
    return model_output + 0.1 * sample, t, sample


def same(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@kinds
def test_a_saved_scheduler_makes_the_same_step(name: str, tmp_path: Path) -> None:
    scheduler = KINDS[name].build()
    scheduler.save_pretrained(tmp_path / "scheduler")
    saved = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert saved["_class_name"] == type(scheduler).__name__
    assert plain(saved) == through_json(plain(scheduler.config))
    for loaded in (
        type(scheduler).from_pretrained(tmp_path / "scheduler"),
        type(scheduler).from_pretrained(tmp_path, subfolder="scheduler"),
        type(scheduler).from_config(type(scheduler).load_config(tmp_path / "scheduler")),
    ):
        assert plain(loaded.config) == plain(saved)
        assert same(step(name, loaded), step(name, scheduler))


@kinds
def test_the_configuration_makes_the_same_scheduler(name: str) -> None:
    scheduler = KINDS[name].build()
    before = dict(scheduler.config)
    again = type(scheduler).from_config(scheduler.config)
    assert again is not scheduler
    assert plain(again.config) == plain(scheduler.config)
    assert same(step(name, again), step(name, scheduler))
    assert dict(scheduler.config) == before
    assert "_use_default_values" not in json.loads(scheduler.to_json_string())


def test_a_configuration_holds_no_bookkeeping(tmp_path: Path) -> None:
    made = [kind.build() for kind in KINDS.values()] + [make_residual_unet(), prior()]
    for i, one in enumerate(made):
        one.save_config(tmp_path / str(i))
        again = type(one).from_config(one.config)
        loaded = type(one).from_config(type(one).load_config(tmp_path / str(i)))
        assert [name for x in (one, again, loaded) for name in x.config if name == "_use_default_values"] == []
    for name, case in CASES.items():
        case.build().save_pretrained(tmp_path / name)
        pipe = DiffusionPipeline.from_pretrained(tmp_path / name)
        ours = [pipe, *(part for part in pipe.components.values() if type(part).__module__.startswith("diffusers_r"))]
        assert [one for one in ours if "_use_default_values" in one.config] == []


@kinds
def test_what_a_scheduler_is_given_by_position_is_kept(name: str) -> None:
    scheduler = KINDS[name].build()
    names = list(inspect.signature(type(scheduler)).parameters)
    by_position = type(scheduler)(*(scheduler.config[name] for name in names))
    again = type(scheduler).from_config(by_position.config)
    assert {name: again.config[name] for name in names} == {name: scheduler.config[name] for name in names}


@kinds
def test_an_option_is_overridden_by_name(name: str, tmp_path: Path) -> None:
    scheduler = KINDS[name].build()
    option, new = {
        RDDMScheduler: ("steps_offset", 3),
        ColdDiffusionScheduler: ("eight_bit", True),
    }.get(type(scheduler), ("prediction_type", "epsilon"))
    assert scheduler.config[option] != new
    scheduler.save_config(tmp_path)
    for changed in (
        type(scheduler).from_config(scheduler.config, **{option: new}),
        type(scheduler).from_pretrained(tmp_path, **{option: new}),
    ):
        assert through_json(plain(changed.config)) == through_json({**plain(scheduler.config), option: new})
    unused = type(scheduler).from_config(scheduler.config, return_unused_kwargs=True, nonsense=3)[1]
    assert unused["nonsense"] == 3


@kinds
def test_an_option_that_is_not_known_is_logged_and_ignored(name: str, tmp_path: Path) -> None:
    scheduler = KINDS[name].build()
    scheduler.save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "nonsense": True}))
    with logged() as messages:
        loaded = type(scheduler).from_pretrained(tmp_path)
    assert [message for message in messages if "'nonsense': True" in message and "will be ignored" in message]
    assert same(step(name, loaded), step(name, scheduler))


@pytest.mark.parametrize("kind", SCHEDULERS, ids=lambda one: one.__name__)
def test_what_is_no_configuration_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="config"):
        kind.from_config(None)
    if kind is not ColdDiffusionScheduler:  # there a name means a repository, as it does for diffusers' own
        with pytest.raises(InvalidInputError, match="config"):
            kind.from_config("scheduler")


@kinds
def test_compatible_schedulers_exist(name: str) -> None:
    scheduler = KINDS[name].build()
    assert type(scheduler) in scheduler.compatibles
    assert (set(scheduler.compatibles) >= {DDPMScheduler, DDIMScheduler}) == KINDS[name].has_stock
    assert len(set(scheduler.compatibles)) == (4 if KINDS[name].has_stock else 1)


@kinds
def test_compatible_schedulers_take_the_configuration_and_give_it_back(name: str) -> None:
    scheduler = KINDS[name].build()
    for kind in scheduler.compatibles:
        other = kind.from_config(scheduler.config)
        assert type(other) is kind
        back = type(scheduler).from_config(other.config)
        assert {name: back.config[name] for name in plain(scheduler.config)} == plain(scheduler.config)
        assert same(step(name, back), step(name, scheduler))


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.has_stock])
def test_compatible_schedulers_run_with_the_configuration(name: str) -> None:
    scheduler = KINDS[name].build()
    noise = torch.ones(1, *SHAPE)
    for kind in (DDPMScheduler, DDIMScheduler, PNDMScheduler):
        other = kind.from_config(scheduler.config)
        t = torch.tensor([scheduler.timesteps[len(scheduler) // 2]])
        wanted = scheduler.add_noise(0 * noise, noise, t)
        assert error(other.add_noise(0 * noise, noise, t), wanted) < 1e-5
        other.set_timesteps(5)
        assert len(other.timesteps) >= 5


STOCK = {
    "ddpm": lambda: DDPMScheduler(
        beta_end=0.03, clip_sample=False, variance_type="fixed_large", timestep_spacing="trailing"
    ),
    "ddpm, defaults": DDPMScheduler,
    "ddim": lambda: DDIMScheduler(beta_end=0.03, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    "ddim, defaults": DDIMScheduler,
    "pndm": lambda: PNDMScheduler(beta_end=0.03, skip_prk_steps=True, prediction_type="v_prediction"),
}


@ours
@pytest.mark.parametrize("name", STOCK)
def test_a_stock_scheduler_comes_back_as_it_was(ours: Any, name: str) -> None:
    stock = STOCK[name]()
    before = dict(stock.config)
    converted = ours.from_config(stock.config)
    assert type(converted) is ours
    assert dict(stock.config) == before
    back = type(stock).from_config(converted.config)
    assert {name: back.config[name] for name in plain(before)} == plain(before)


def with_betas() -> list[str]:
    """The schedulers of diffusers that are told the noise schedule of a DDPM."""
    names = [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]
    return [name for name in names if "beta_start" in inspect.signature(getattr(diffusers, name).__init__).parameters]


@ours
@pytest.mark.parametrize("name", with_betas())
def test_defaults_of_a_stock_scheduler_are_its_own(ours: Any, name: str) -> None:
    """diffusers leaves out of a configuration what was not given, but classes have other defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, about what some of them do with a tensor
        stock = getattr(diffusers, name)()
    t = torch.tensor([10, 500, 990])
    wanted = (1 - stock.alphas_cumprod[t]).sqrt().reshape(3, 1, 1, 1).expand(3, *SHAPE)
    named = {**stock.config, "_class_name": name}
    if name.startswith(("CogVideoX", "LCM", "TCD")):  # networks of another kind
        with pytest.raises(InvalidInputError, match=name):
            ours.from_config(named)
        return
    for converted in (ours.from_config(named), ours.from_config(stock.config)):
        assert error(converted.add_noise(torch.zeros(3, *SHAPE), torch.ones(3, *SHAPE), t), wanted) < 1e-5


@pytest.mark.parametrize("many", [np.array, list], ids=["array", "list"])
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if "trained_betas" in kind.build().config])
def test_trained_betas(name: str, many: Callable[[Any], Any], tmp_path: Path) -> None:
    betas = np.linspace(0.01, 0.3, 9)
    kind = type(KINDS[name].build())
    scheduler = kind(num_train_timesteps=9, trained_betas=many(betas.tolist()))
    scheduler.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    wanted = torch.from_numpy(np.sqrt(1 - np.cumprod(1 - betas))).float().reshape(9, 1, 1, 1).expand(9, *SHAPE)
    for one in (scheduler, loaded, kind.from_config(scheduler.config)):
        noised = one.add_noise(torch.zeros(9, *SHAPE), torch.ones(9, *SHAPE), torch.arange(9))
        assert error(noised, wanted) < 1e-5
    assert json.loads(scheduler.to_json_string())["trained_betas"] == betas.tolist()


@kinds
def test_a_step_gives_tensors_by_name_or_in_a_tuple(name: str) -> None:
    scheduler = KINDS[name].build()
    output = step(name, scheduler)
    assert isinstance(output, BaseOutput)
    assert list(output)[:2] == ["prev_sample", "pred_original_sample"]
    assert output[0] is output.prev_sample
    assert all(value.shape == (2, *SHAPE) and value.dtype == torch.float32 for value in output.values())
    assert all(value.isfinite().all() for value in output.values())
    given = step(name, scheduler, return_dict=False)
    assert type(given) is tuple
    assert len(given) == len(output)
    assert all(torch.equal(*pair) for pair in zip(given, output.to_tuple(), strict=True))
    assert not torch.equal(output.prev_sample, pictures(2))


@kinds
def test_a_timestep_is_a_number_or_a_tensor(name: str) -> None:
    scheduler = KINDS[name].build()
    scheduler.set_timesteps(5)
    t = int(scheduler.timesteps[1])
    wanted = step(name, scheduler, t=t)
    for other in (torch.tensor(t), torch.tensor([t]), torch.tensor(t, dtype=torch.int32), np.int64(t)):
        assert same(step(name, scheduler, t=other), wanted)
    assert not same(step(name, scheduler, t=int(scheduler.timesteps[2])), wanted)


@kinds
@pytest.mark.parametrize("last", [False, True])
def test_a_step_leaves_what_it_is_given_and_gives_a_tensor_of_its_own(name: str, last: bool) -> None:
    """In place of `prev_sample`, neither what was given nor the other estimates change."""
    scheduler = KINDS[name].build()
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[-1 if last else 1]
    options = KINDS[name].options(2)
    state = options.pop("state", {})
    outputs = len(getattr(scheduler, "heads", ("one",)))
    given = {
        "model_output": pictures(2, (outputs * SHAPE[0], *SHAPE[1:]), seed=5),
        "sample": pictures(2),
        **{key: value for key, value in options.items() if isinstance(value, Tensor)},
        **state,
        **({"variance_noise": torch.randn(2, *SHAPE, generator=seeded(4)[0])} if KINDS[name].draws else {}),
    }
    before = {key: value.clone() for key, value in given.items()}
    call = {key: value for key, value in given.items() if key not in state}
    call["model_output"], _, call["sample"] = of_network(name, call["model_output"], t, call["sample"])
    output = scheduler.step(timestep=t, **{**options, **call, **({"state": state} if state else {})})
    assert all(torch.equal(given[key], value) for key, value in before.items())
    estimates = {key: output[key].clone() for key in output if key != "prev_sample"}
    output.prev_sample.add_(1.0)
    assert all(torch.equal(given[key], value) for key, value in before.items())
    assert all(torch.equal(output[key], value) for key, value in estimates.items())


@kinds
def test_a_generator_makes_a_step_reproducible(name: str) -> None:
    scheduler = KINDS[name].build()
    if not KINDS[name].draws:
        takes = "generator" in inspect.signature(scheduler.step).parameters
        assert takes == isinstance(scheduler, ZeroShotScheduler)  # whose steps all take the same
        assert same(step(name, scheduler), step(name, scheduler))
        return
    state = torch.get_rng_state()
    first, again, other = (step(name, scheduler, generator=seeded(seed)[0]) for seed in (3, 3, 4))
    assert same(first, again)
    assert not torch.equal(first.prev_sample, other.prev_sample)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.draws])
def test_each_generator_of_a_list_serves_its_own_picture(name: str) -> None:
    scheduler = KINDS[name].build()
    first = step(name, scheduler, 3, generator=seeded(0, 1, 2)).prev_sample
    other = step(name, scheduler, 3, generator=seeded(0, 9, 2)).prev_sample
    assert [torch.equal(*pair) for pair in zip(first, other, strict=True)] == [True, False, True]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.draws])
@pytest.mark.parametrize("count", [2, 4])
def test_a_list_of_generators_has_one_for_each_picture(name: str, count: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"generator must be .*3.*{count}"):
        step(name, KINDS[name].build(), 3, generator=seeded(*range(count)))


def test_states_are_drawn_by_each_pictures_generator() -> None:
    scheduler = KINDS["cold, with a state"].build()
    first, other = (scheduler.sample_state(pictures(3), seeded(0, seed, 2))["endpoint"] for seed in (1, 9))
    assert [torch.equal(*pair) for pair in zip(first, other, strict=True)] == [True, False, True]


@pytest.mark.parametrize(
    "name", [name for name in KINDS if name not in METHODS or name == "daps"]
)  # the rest is DDRM's
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_add_noise_keeps_shape_and_dtype(name: str, dtype: torch.dtype) -> None:
    scheduler = KINDS[name].build()
    x = pictures(3).to(dtype)
    noise, t = KINDS[name].noise(3), scheduler.timesteps[[1, 5, -2]]
    if noise is not None:
        noise = noise.to(dtype) if isinstance(noise, Tensor) else {k: v.to(dtype) for k, v in noise.items()}
    before = x.clone()
    noised = scheduler.add_noise(x, noise, t)
    assert (noised.shape, noised.dtype) == (x.shape, dtype)
    assert noised.isfinite().all()
    assert torch.equal(x, before)
    exact = KINDS[name].build().add_noise(pictures(3), KINDS[name].noise(3), t)
    assert error(noised.float(), exact) < 8 * torch.finfo(dtype).eps + 1e-6
    assert len({float(one.std()) for one in noised.float()}) == 3


@kinds
def test_add_noise_stays_on_the_device_of_the_pictures(name: str) -> None:
    """`timesteps` of a scheduler lie on the CPU unless another device was asked for."""
    device, noise = DEVICE, KINDS[name].noise(3)
    if isinstance(noise, Tensor):
        device = torch.device("meta")
        noise = noise.to(device)
    elif noise is not None:
        noise = {key: value.to(device) for key, value in noise.items()}
    scheduler = KINDS[name].build()
    scheduler.set_timesteps(5)
    noised = scheduler.add_noise(pictures(3).to(device), noise, scheduler.timesteps[:3])
    assert (noised.shape, noised.device) == ((3, *SHAPE), device)


@kinds
def test_add_noise_takes_one_timestep_for_a_batch(name: str) -> None:
    scheduler = KINDS[name].build()
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[2]
    one = scheduler.add_noise(pictures(3), KINDS[name].noise(3), t[None])
    assert torch.equal(one, scheduler.add_noise(pictures(3), KINDS[name].noise(3), t.expand(3)))


@kinds
def test_timesteps_fall_from_a_start_in_so_many_steps(name: str) -> None:
    scheduler = KINDS[name].build()
    last = len(scheduler)
    assert last == scheduler.config.num_train_timesteps
    for count in (1, 2, 7, last - 1, last, 5):
        scheduler.set_timesteps(count, "cpu")
        chosen = scheduler.timesteps.tolist()
        assert scheduler.num_inference_steps == count == len(chosen)
        assert scheduler.timesteps.dtype == torch.int64
        assert chosen == sorted(set(chosen), reverse=True)
        assert 0 <= chosen[-1] <= chosen[0] < last
    scheduler.set_timesteps(5, device="meta")
    assert scheduler.timesteps.device.type == "meta"
    for wrong in (0, -1, last + 1, 2.5):
        with pytest.raises(InvalidInputError, match="num_inference_steps"):
            scheduler.set_timesteps(wrong)


@kinds
def test_the_public_names_of_a_scheduler(name: str) -> None:
    scheduler = KINDS[name].build()
    assert type(scheduler).order == 1
    assert 0 < scheduler.init_noise_sigma < float("inf")
    assert scheduler.config_name == "scheduler_config.json"
    x = pictures(2)
    for t in (0, 0.0, scheduler.timesteps[0]):
        assert torch.equal(scheduler.scale_model_input(x, t), pictures(2))
    first = list(inspect.signature(scheduler.step).parameters)[:3]
    assert first == ["model_output", "timestep", "sample"]
    assert inspect.signature(scheduler.step).parameters["return_dict"].default is True
    assert list(inspect.signature(scheduler.add_noise).parameters)[:3] == ["original_samples", "noise", "timesteps"]
    assert list(inspect.signature(scheduler.set_timesteps).parameters)[:2] == ["num_inference_steps", "device"]
    variadic = inspect.Parameter.VAR_KEYWORD
    assert all(one.kind != variadic for one in inspect.signature(type(scheduler)).parameters.values())
    assert scheduler._deprecated_kwargs == []


@kinds
def test_the_configuration_cannot_be_changed(name: str) -> None:
    scheduler = KINDS[name].build()
    before, config = dict(scheduler.config), scheduler.config
    assert isinstance(config, FrozenDict)
    key = "num_train_timesteps"
    for change in (
        lambda: config.pop(key),
        lambda: config.update({key: 3}),
        lambda: config.setdefault("new", 3),
        lambda: config.__delitem__(key),
    ):
        with pytest.raises(Exception, match="FrozenDict"):
            change()
    with pytest.raises(AttributeError, match="config"):
        scheduler.config = {}
    scheduler.set_timesteps(5)
    assert dict(scheduler.config) == before


@kinds
def test_options_are_read_from_the_configuration(name: str) -> None:
    scheduler = KINDS[name].build()
    with pytest.warns(FutureWarning, match="config"):
        assert scheduler.num_train_timesteps == len(scheduler)
    with pytest.raises(AttributeError, match=f"'{type(scheduler).__name__}' object has no attribute 'nonsense'"):
        _ = scheduler.nonsense


@kinds
def test_a_copied_scheduler_is_its_own(name: str) -> None:
    scheduler = KINDS[name].build()
    wanted = step(name, scheduler)
    for made in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), KINDS[name].build()):
        assert plain(made.config) == plain(scheduler.config)
        assert same(step(name, made), wanted)
        made.set_timesteps(2)
        assert scheduler.num_inference_steps == len(scheduler.timesteps) == 5
        t = scheduler.timesteps[1]
        options = KINDS[name].options(2)
        outputs = len(getattr(scheduler, "heads", ("one",)))
        model_output = pictures(2, (outputs * SHAPE[0], *SHAPE[1:]), seed=5) * 0.3
        again = scheduler.step(
            *of_network(name, model_output, t, pictures(2)),
            **options,
            **({"generator": seeded(0, 1)} if KINDS[name].draws else {}),
        )
        assert same(again, wanted)


# Pipelines


def run(name: str, pipe: Any, count: int = 1, **changed: Any) -> Tensor:
    """Pictures (B, C, H, W), of generators of their own."""
    pipe.set_progress_bar_config(disable=True)
    drawn = {"generator": seeded(*range(count))} if CASES[name].generator else {}
    arguments = {**CASES[name].arguments(count), **drawn, "output_type": "latent", **changed}
    images: Tensor = pipe(**arguments).images
    return images


@cache
def wanted(name: str, count: int = 1) -> Tensor:
    return run(name, CASES[name].build(), count)


def networks(pipe: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def part_of(pipe: Any) -> str:
    """The name of its network, of several the one that makes the pictures."""
    return named_parts().get(type(pipe)) or next(iter(networks(pipe)))


@cache
def named_parts() -> dict[type[Any], str]:
    return {type(case.build()): case.part for case in CASES.values() if case.part}


def network_of(pipe: Any) -> Any:
    return getattr(pipe, part_of(pipe))


# How a pipeline is saved, how it is loaded, and the names of the files with the weights of its network.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "as it is": ({}, {}, r"diffusion_pytorch_model\.safetensors"),
    "pickles": ({"safe_serialization": False}, {}, r"diffusion_pytorch_model\.bin"),
    "pickles only": ({"safe_serialization": False}, {"use_safetensors": False}, r"diffusion_pytorch_model\.bin"),
    "shards": ({"max_shard_size": "5KB"}, {}, r"diffusion_pytorch_model-\d{5}-of-000(?!0[01])\d\d\.safetensors"),
    "a variant": ({"variant": "fp16"}, {"variant": "fp16"}, r"diffusion_pytorch_model\.fp16\.safetensors"),
    "a pickled variant": (
        {"variant": "fp16", "safe_serialization": False},
        {"variant": "fp16"},
        r"diffusion_pytorch_model\.fp16\.bin",
    ),
    "shards of a variant": (
        {"variant": "fp16", "max_shard_size": "5KB"},
        {"variant": "fp16"},
        r"diffusion_pytorch_model\.fp16-\d{5}-of-000(?!0[01])\d\d\.safetensors",
    ),
    "with all memory": ({}, {"low_cpu_mem_usage": False}, r"diffusion_pytorch_model\.safetensors"),
    "onto a device": ({}, {"device_map": "cpu"}, r"diffusion_pytorch_model\.safetensors"),
}


HALVES = {torch.float16: 0.02, torch.bfloat16: 0.1}
"""How far from the full precision they may lead."""


@cases
@pytest.mark.parametrize("way", WAYS)
def test_a_saved_pipeline_gives_the_same_pictures(name: str, way: str, tmp_path: Path) -> None:
    saving, loading, files = WAYS[way]
    pipe = CASES[name].build()
    pipe.save_pretrained(tmp_path, **saving)
    weights = [file.name for file in (tmp_path / part_of(pipe)).iterdir() if file.suffix in (".safetensors", ".bin")]
    assert weights
    assert [file for file in weights if not re.fullmatch(files, file)] == []
    loaded = type(pipe).from_pretrained(tmp_path, **loading)
    assert type(loaded) is type(pipe)
    assert list(networks(loaded)) == list(networks(pipe))
    for part, network in networks(loaded).items():
        assert not network.training
        state = networks(pipe)[part].state_dict()
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert loaded.name_or_path == str(tmp_path) or loaded.name_or_path == tmp_path
    assert plain(loaded.parameters) == plain(pipe.parameters)
    # Weights read from a file lie elsewhere in memory, where a CPU's matrix product may sum in another order.
    assert error(run(name, loaded), wanted(name)) < 1e-5


@cases
def test_diffusers_own_classes_load_a_saved_pipeline(name: str, tmp_path: Path) -> None:
    pipe = CASES[name].build()
    pipe.save_pretrained(tmp_path)
    with logged(logging.INFO) as messages:
        loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded) is type(pipe)
    for part in [part for part, value in pipe.components.items() if value is not None]:
        assert [one for one in messages if one.startswith(f"Loaded {part} as ")]
    assert error(run(name, loaded), wanted(name)) < 1e-5
    for part, network in networks(pipe).items():
        assert type(AutoModel.from_pretrained(str(tmp_path), subfolder=part)) is type(network)


@cases
def test_a_variant_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    pipe = CASES[name].build()
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="variant=fp16"):
        type(pipe).from_pretrained(tmp_path, variant="fp16")
    with pytest.raises(OSError, match="diffusion_pytorch_model.bin"):
        type(pipe).from_pretrained(tmp_path, use_safetensors=False)


@cases
def test_a_variant_of_the_network_alone_is_enough(name: str, tmp_path: Path) -> None:
    pipe = CASES[name].build()
    pipe.save_pretrained(tmp_path)
    (tmp_path / part_of(pipe) / "diffusion_pytorch_model.safetensors").unlink()
    copy.deepcopy(network_of(pipe)).half().save_pretrained(tmp_path / part_of(pipe), variant="fp16")
    loaded = type(pipe).from_pretrained(tmp_path, variant="fp16")
    assert {part: one.dtype for part, one in networks(loaded).items()} == dict.fromkeys(networks(pipe), torch.float32)
    assert 0 < error(run(name, loaded), wanted(name)) < HALVES[torch.float16] * CASES[name].rounding


@cases
def test_shards_are_checked_for_completeness(name: str, tmp_path: Path) -> None:
    pipe = CASES[name].build()
    pipe.save_pretrained(tmp_path, max_shard_size="5KB")
    file = max((tmp_path / part_of(pipe)).glob("*.safetensors"))
    kept = dict(list(load_file(file).items())[1:])
    assert kept
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=f"{part_of(pipe)} in .* lacks 1 of its"):
        type(pipe).from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(OSError, match=file.name):
        type(pipe).from_pretrained(tmp_path)


@cases
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_is_near_the_full_one(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    pipe = CASES[name].build()
    pipe.save_pretrained(tmp_path)
    assert pipe.to(dtype) is pipe
    moved = CASES[name].build()
    assert moved.to("cpu", dtype, silence_dtype_warnings=True) is moved
    with pytest.warns(FutureWarning, match="torch_dtype"):
        old = type(pipe).from_pretrained(tmp_path, torch_dtype=dtype)
    each = dict.fromkeys(networks(pipe), dtype)
    rounded = run(name, pipe)
    assert rounded.dtype == torch.float32
    assert 0 < error(rounded, wanted(name)) < HALVES[dtype] * CASES[name].rounding
    for one in (
        moved,
        old,
        type(pipe).from_pretrained(tmp_path, dtype=dtype),
        type(pipe).from_pretrained(tmp_path, dtype={**each, "default": torch.float64}),
        type(pipe).from_pretrained(tmp_path, dtype=dtype, low_cpu_mem_usage=False),
    ):
        assert {network.dtype for network in networks(one).values()} == {dtype} == {one.dtype}
        for part, network in networks(one).items():
            state = networks(pipe)[part].state_dict()
            assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert error(run(name, old), rounded) < 1e-3


@cases
def test_optional_components_may_be_none(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    optional = type(case.build())._optional_components
    full, without = case.build(), case.build()
    full.save_pretrained(tmp_path / "full")
    for part in optional:
        setattr(without, part, None)
    without.save_pretrained(tmp_path / "without")
    index = json.loads((tmp_path / "without" / "model_index.json").read_text())
    assert all(index[part] == [None, None] for part in optional)
    if case.without is None:
        with pytest.raises(InvalidInputError, match="2C outputs"):
            type(full).from_pretrained(tmp_path / "full", **dict.fromkeys(optional))
        with pytest.raises(InvalidInputError, match="2C outputs"):
            run(name, without)
        return
    arguments = case.without
    first = run(name, without, **arguments)
    assert first.std() > 0.1
    for loaded in (
        type(full).from_pretrained(tmp_path / "without"),
        type(full).from_pretrained(tmp_path / "full", **dict.fromkeys(optional)),
    ):
        assert all(getattr(loaded, part) is None and loaded.components[part] is None for part in optional)
        assert error(run(name, loaded, **arguments), first) < 1e-5


@cases
def test_components_make_the_same_pipeline(name: str) -> None:
    pipe = CASES[name].build()
    parts, options = type(pipe)._get_signature_keys(type(pipe))
    assert sorted(pipe.components) == parts
    assert sorted(pipe.parameters) == options
    again = type(pipe)(**pipe.components, **pipe.parameters)
    assert all(part is pipe.components[key] for key, part in again.components.items())
    assert again.parameters == pipe.parameters
    assert torch.equal(run(name, again), wanted(name))


@cases
def test_a_compiled_network_is_a_network(name: str, tmp_path: Path) -> None:
    """As it is for diffusers' own pipelines. Nothing is compiled before it is called."""
    pipe = CASES[name].build()
    part = part_of(pipe)
    setattr(pipe, part, torch.compile(network_of(pipe), backend="eager"))
    pipe.save_pretrained(tmp_path)
    assert error(run(name, type(pipe).from_pretrained(tmp_path)), wanted(name)) < 1e-5
    if part == "unet":
        assert DDPMPipeline(pipe.unet, DDPMScheduler()).unet is pipe.unet
    assert network_of(type(pipe)(**pipe.components, **pipe.parameters)) is network_of(pipe)
    assert network_of(type(pipe).from_pipe(pipe)) is network_of(pipe)


@cases
def test_a_network_that_was_changed_in_memory_is_passed_on(name: str, tmp_path: Path) -> None:
    """Quantised, say, or extended: its weights have other names than those in the folder that it came from."""
    pipe = CASES[name].build()
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    changed = network_of(loaded)
    changed.conv_out = nn.Sequential(changed.conv_out)
    for other in (type(pipe).from_pretrained(tmp_path, **{part_of(pipe): changed}), type(pipe).from_pipe(loaded)):
        assert network_of(other) is changed
        assert error(run(name, other), wanted(name)) < 1e-5


@cases
def test_components_are_passed_while_loading(name: str, tmp_path: Path) -> None:
    pipe = CASES[name].build()
    pipe.save_pretrained(tmp_path)
    other, part = copy.deepcopy(network_of(pipe)), part_of(pipe)
    with torch.no_grad():
        other.conv_out.weight.mul_(2.0)
    with logged() as messages:
        loaded = type(pipe).from_pretrained(tmp_path, **{**pipe.components, part: other})
    assert not [one for one in messages if type(other).__name__ in one]
    assert loaded.components == {**pipe.components, part: other}
    assert error(run(name, loaded), wanted(name)) > 1e-3
    with logged() as messages:
        loaded = type(pipe).from_pretrained(tmp_path, nonsense=3)
    assert [one for one in messages if "'nonsense': 3" in one and "will be ignored" in one]
    assert error(run(name, loaded), wanted(name)) < 1e-5
    refused: list[tuple[str, Any]] = [(part, None)]
    if CASES[name].chain:
        refused += [("scheduler", EDMEulerScheduler()), ("scheduler", "ddpm")]
    for wrong, value in refused:
        with pytest.raises(InvalidInputError, match=f"{wrong} .*{type(value).__name__}"):
            type(pipe).from_pretrained(tmp_path, **{wrong: value})
    with pytest.raises(ValueError, match="should be .*ModelMixin"):
        type(pipe).from_pretrained(tmp_path, **{part: DDPMScheduler()})
    options = {key: not value for key, value in pipe.parameters.items() if isinstance(value, bool)}
    assert plain(type(pipe).from_pretrained(tmp_path, **options).parameters) == {**pipe.parameters, **options}


@chains
@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_a_scheduler_that_does_not_fit_is_refused_by_name(name: str, scheduler: Any) -> None:
    """`pipe.scheduler = ...` is how diffusers' users change it; constructors convert, an assignment can't."""
    pipe = CASES[name].build()
    pipe.scheduler = scheduler()
    with pytest.raises(InvalidInputError, match=f"scheduler .*{scheduler.__name__}"):
        run(name, pipe)


# Pipelines of other pipelines


@cases
def test_a_pipeline_of_itself_shares_its_components(name: str, tmp_path: Path) -> None:
    pipe = CASES[name].build()
    again = type(pipe).from_pipe(pipe)
    assert again is not pipe
    assert all(part is pipe.components[key] for key, part in again.components.items())
    assert again.parameters == pipe.parameters
    assert torch.equal(run(name, again), wanted(name))
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    assert error(run(name, type(pipe).from_pipe(loaded)), wanted(name)) < 1e-5
    assert type(pipe).from_pipe(pipe, dtype=torch.bfloat16).dtype == torch.bfloat16


def generate(pipe: Any, **arguments: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "generator": seeded(0)[0], "output_type": "np", **arguments}
    return torch.from_numpy(pipe(**options).images)


STOCK_PIPELINES = {
    "ddpm": lambda: DDPMPipeline(make_unet(), DDPMScheduler(beta_end=0.03, clip_sample=False)),
    "ddpm, defaults": lambda: DDPMPipeline(make_unet(), DDPMScheduler()),
    "ddim": lambda: DDIMPipeline(make_unet(), DDIMScheduler(beta_end=0.03, clip_sample=False, steps_offset=1)),
    "ddim, defaults": lambda: DDIMPipeline(make_unet(), DDIMScheduler()),
    "ddim, residual network": lambda: DDIMPipeline(make_residual_unet(), DDIMScheduler()),
}
OF_DDPM = {
    DDRMPipeline: lambda pipe: run("ddrm", pipe),
    RDDMPipeline: lambda pipe: run("rddm, generator", pipe),
}
stock_pipelines = pytest.mark.parametrize("stock", STOCK_PIPELINES)
of_ddpm = pytest.mark.parametrize("kind", OF_DDPM, ids=lambda one: one.__name__)


@of_ddpm
@stock_pipelines
def test_a_stock_pipeline_lends_its_components(kind: Any, stock: str) -> None:
    pipe = STOCK_PIPELINES[stock]()
    first, scheduler, config = generate(pipe), pipe.scheduler, dict(pipe.scheduler.config)
    weights = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    lent = kind.from_pipe(pipe)
    assert lent.unet is pipe.unet
    x = OF_DDPM[kind](lent)
    assert torch.equal(x, OF_DDPM[kind](kind(**STOCK_PIPELINES[stock]().components)))
    assert x.std() > 0.1
    assert pipe.scheduler is scheduler
    assert dict(scheduler.config) == config
    assert all(torch.equal(value, weights[key]) for key, value in pipe.unet.state_dict().items())
    assert torch.equal(generate(pipe), first)


@of_ddpm
@pytest.mark.parametrize("stock", ["ddim", "ddim, defaults", "ddim, residual network"])
def test_a_stock_pipeline_comes_back_as_it_was(kind: Any, stock: str) -> None:
    pipe = STOCK_PIPELINES[stock]()
    back = DDIMPipeline.from_pipe(kind.from_pipe(pipe))
    assert back.unet is pipe.unet
    assert plain(back.config) == plain(pipe.config)
    assert {key: back.scheduler.config[key] for key in plain(pipe.scheduler.config)} == plain(pipe.scheduler.config)
    assert torch.equal(generate(back), generate(pipe))


@pytest.mark.parametrize("clip_sample", [False, True])
def test_in_a_stock_pipeline_rddm_generates_as_ddim(clip_sample: bool) -> None:
    stock = DDIMPipeline(make_unet(), DDIMScheduler(clip_sample=clip_sample))
    pipe = DDPMPipeline.from_pipe(RDDMPipeline.from_pipe(stock))
    assert type(pipe.scheduler) is RDDMScheduler
    assert error(generate(pipe), generate(stock)) < 1e-4


def test_in_a_stock_pipeline_ddrm_generates_by_its_unconditional_step() -> None:
    stock = DDPMPipeline(make_unet(), DDPMScheduler(beta_end=0.03))
    pipe = DDPMPipeline.from_pipe(DDRMPipeline.from_pipe(stock))
    assert type(pipe.scheduler) is DDRMScheduler
    (generator,) = seeded(0)
    alpha_bar = torch.cumprod(1 - torch.linspace(0.0001, 0.03, 1000).double(), 0)
    x = torch.randn(1, 3, 16, 16, generator=generator)
    levels = [float(alpha_bar[t]) for t in (750, 500, 250, 0)] + [1.0]
    for t, here, there in zip((750, 500, 250, 0), levels, levels[1:], strict=False):
        with torch.no_grad():
            epsilon = stock.unet(x, t).sample
        x0 = (x - (1 - here) ** 0.5 * epsilon) / here**0.5
        noise = torch.randn(x.shape, generator=generator)
        sigma = ((1 - there) / there) ** 0.5
        x = there**0.5 * (x0 + sigma * ((1 - 0.85**2) ** 0.5 * epsilon + 0.85 * noise))
    assert error(generate(pipe), (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)) < 1e-4


@pytest.mark.parametrize("between", [DDPMPipeline, DDIMPipeline])
def test_options_survive_a_stock_pipeline(between: Any) -> None:
    scheduler = RDDMScheduler.from_config(DDIMScheduler().config)
    pipe = RDDMPipeline(make_unet(), scheduler, keeps_grey=False, generates=True)
    back = RDDMPipeline.from_pipe(between.from_pipe(pipe))
    assert back.parameters == pipe.parameters == {"keeps_grey": False, "generates": True}
    assert back.unet is pipe.unet
    assert back.unet_noise is None


@stock_pipelines
@pytest.mark.parametrize("pair", [(DDRMPipeline, RDDMPipeline), (RDDMPipeline, DDRMPipeline)], ids=["to", "fro"])
def test_pipelines_of_one_network_take_it_from_each_other(pair: tuple[Any, Any], stock: str) -> None:
    pipe = STOCK_PIPELINES[stock]()
    first, second = pair
    assert torch.equal(
        OF_DDPM[second](second.from_pipe(first.from_pipe(pipe))), OF_DDPM[second](second.from_pipe(pipe))
    )


# Batches and generators


@cases
def test_a_batch_is_its_pictures(name: str) -> None:
    batch = wanted(name, 3)
    assert len(batch) == 3
    arguments = CASES[name].arguments(3)
    for i in range(3):
        changed = {"generator": seeded(i)} if CASES[name].generator else {}
        if "image" in arguments:
            changed["image"] = arguments["image"][i : i + 1]
        assert torch.equal(run(name, CASES[name].build(), **changed), batch[i : i + 1])
    assert not torch.equal(batch[0], batch[1])


@drawing
def test_each_generator_serves_its_own_picture(name: str) -> None:
    other = run(name, CASES[name].build(), 3, generator=seeded(0, 9, 2))
    assert [torch.equal(*pair) for pair in zip(other, wanted(name, 3), strict=True)] == [True, False, True]


@drawing
def test_a_generator_makes_a_call_reproducible(name: str) -> None:
    first, again, other = (run(name, CASES[name].build(), 2, generator=seeded(seed)[0]) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    pipe = CASES[name].build()  # a second call of one pipeline begins anew
    assert torch.equal(run(name, pipe), run(name, pipe))
    global_state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        by_default = run(name, pipe, generator=None)
        assert not torch.equal(by_default, run(name, pipe, generator=None))
    assert torch.equal(torch.get_rng_state(), global_state)


@taking
@pytest.mark.parametrize("wrong", [seeded(0, 1, 2), [0, 1], 3, (torch.Generator(), torch.Generator())])
def test_generators_that_do_not_fit_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="generator must be"):
        run(name, CASES[name].build(), 2, generator=wrong)


@pytest.mark.parametrize("name", ["ddrm", "pix2pix"])
def test_samples_of_one_picture_have_generators_of_their_own(name: str) -> None:
    pipe = CASES[name].build()
    both = run(name, pipe, 2, num_images_per_input=2, generator=seeded(0, 1, 2, 3))
    assert len(both) == 4
    y = CASES[name].arguments(2)["image"]
    for i in range(4):
        assert torch.equal(both[i : i + 1], run(name, pipe, image=y[i // 2 :][:1], generator=seeded(i)))
    for count, samples in ((1, 1), (1, 3), (2, 1)):
        x = run(name, pipe, count, num_images_per_input=samples, generator=seeded(0)[0])
        assert len(x) == count * samples


# What comes out


@cases
def test_output_types_show_the_same_pictures(name: str) -> None:
    pipe = CASES[name].build()
    tensor = wanted(name, 2)
    array = run(name, pipe, 2, output_type="np")
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert error(torch.from_numpy(array), (tensor.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)) < 1e-6
    shown = run(name, pipe, 2, output_type="pil")
    assert isinstance(shown, list)
    for picture, values in zip(shown, array, strict=True):
        assert isinstance(picture, Image.Image)
        assert picture.mode == ("RGB" if tensor.shape[1] == 3 else "L")
        assert picture.size == (tensor.shape[3], tensor.shape[2])
        assert np.abs(np.asarray(picture).reshape(values.shape) - 255 * values).max() < 0.501
    with pytest.raises(InvalidInputError, match="output_type"):
        run(name, pipe, output_type="jpg")


@cases
def test_a_result_is_an_output_or_a_tuple(name: str) -> None:
    pipe = CASES[name].build()
    pipe.set_progress_bar_config(disable=True)
    arguments = {**CASES[name].arguments(1), "output_type": "latent"}
    drawn = [{"generator": seeded(0)} if CASES[name].generator else {} for _ in "twice"]
    output = pipe(**arguments, **drawn[0])
    assert type(output) is CASES[name].output
    assert output[0] is output.images
    given = pipe(**arguments, **drawn[1], return_dict=False)
    assert type(given) is tuple
    assert len(given) == len(fields(CASES[name].output))
    assert torch.equal(given[0], output.images)
    assert type(pipe(**{**arguments, "output_type": "pil"}, return_dict=False)[0]) is list


def random_states() -> list[Any]:
    """Of all global generators."""
    _, keys, position, *_ = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), keys.tolist(), position, random.getstate()]


@cases
def test_nothing_that_is_given_is_changed(name: str) -> None:
    pipe = CASES[name].build()
    configs = {part: dict(one.config) for part, one in pipe.components.items() if one is not None}
    weights = {part: {k: v.clone() for k, v in one.state_dict().items()} for part, one in networks(pipe).items()}
    arguments = CASES[name].arguments(2)
    images: list[Any] = [arguments.get("image")]
    if images[0] is not None:
        unit = (images[0].permute(0, 2, 3, 1) / 2 + 0.5).numpy()
        images += [unit, [Image.fromarray((255 * one).astype(np.uint8)) for one in unit]]
    for image in images:
        kept = copy.deepcopy(image)
        before = random_states()
        run(name, pipe, 2, **({} if image is None else {"image": image}))
        assert random_states() == before
        if image is not None:
            assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(image, kept, strict=True))
    assert {part: dict(one.config) for part, one in pipe.components.items() if one is not None} == configs
    for part, one in networks(pipe).items():
        assert all(torch.equal(value, weights[part][key]) for key, value in one.state_dict().items())


@cases
def test_no_gradients_are_kept(name: str) -> None:
    pipe = CASES[name].build()
    arguments = CASES[name].arguments(1)
    image = {"image": arguments["image"].requires_grad_()} if "image" in arguments else {}
    assert torch.is_grad_enabled()
    x = run(name, pipe, **image)
    assert torch.is_grad_enabled()
    assert not x.requires_grad
    assert torch.equal(x, wanted(name))
    assert all(weight.grad is None for one in networks(pipe).values() for weight in one.parameters())


@chains
def test_training_mode_does_not_change_pictures(name: str) -> None:
    """Where it would, because of dropout, it is refused."""
    pipe = CASES[name].build()
    pipe.unet.train()
    assert torch.equal(run(name, pipe), wanted(name))
    config = pipe.unet.config
    unet = type(pipe.unet).from_config(config, dropout=0.5).eval()
    unet.load_state_dict(pipe.unet.state_dict())
    pipe.unet = unet
    assert torch.equal(run(name, pipe), wanted(name))
    unet.train()
    with pytest.raises(InvalidInputError, match="unet is in training mode"):
        run(name, pipe)


# Callbacks and progress


@chains
def test_a_callback_is_called_at_each_step(name: str) -> None:
    pipe = CASES[name].build()
    seen: list[tuple[Any, int, int, list[str]]] = []
    x = run(name, pipe, 2, callback_on_step_end=lambda p, i, t, given: seen.append((p, i, t, list(given))))
    assert torch.equal(x, wanted(name, 2))
    assert len(seen) == pipe.num_timesteps == len(pipe.scheduler.timesteps) == 3
    assert all(one[0] is pipe for one in seen)
    assert [one[1] for one in seen] == [0, 1, 2]
    assert [one[2] for one in seen] == pipe.scheduler.timesteps.tolist()
    assert [one[3] for one in seen] == [["latents", "sample"]] * 3


@chains
def test_a_callback_gets_what_it_asks_for(name: str) -> None:
    pipe = CASES[name].build()
    known = pipe._callback_tensor_inputs
    assert isinstance(known, list)
    estimates = [key for key in step_names(pipe.scheduler) if key != "prev_sample"]
    assert sorted(known) == sorted(["latents", "sample", *estimates])
    for names in ([], *([one] for one in known), known, tuple(known[::-1])):
        seen: list[dict[str, Tensor]] = []
        run(
            name,
            pipe,
            2,
            callback_on_step_end=lambda p, i, t, given: seen.append(given),  # noqa: B023  # called in this turn
            callback_on_step_end_tensor_inputs=names,
        )
        assert [list(given) for given in seen] == [list(names)] * 3
        shapes = {tuple(value.shape) for given in seen for value in given.values()}
        assert len(shapes) <= 1
        assert all(len(value) == 2 and value.isfinite().all() for given in seen for value in given.values())
    with pytest.raises(InvalidInputError, match="'prompt_embeds'.*sample"):
        run(name, pipe, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    with pytest.raises(InvalidInputError, match="callback_on_step_end"):
        run(name, pipe, callback_on_step_end=3)


def step_names(scheduler: Any) -> list[str]:
    """What a step of the scheduler gives."""
    name = next(name for name, kind in KINDS.items() if type(kind.build()) is type(scheduler))
    return list(step(name, KINDS[name].build()))


@chains
def test_a_callback_may_answer_with_all_that_it_got(name: str) -> None:
    """`return callback_kwargs` is how the callbacks in diffusers' documentation and suite end."""
    pipe = CASES[name].build()
    names = pipe._callback_tensor_inputs
    for asked in (["sample"], names):
        x = run(
            name,
            pipe,
            callback_on_step_end=lambda p, i, t, given: given,
            callback_on_step_end_tensor_inputs=asked,
        )
        assert torch.equal(x, wanted(name))

        def clear(p: Any, i: int, t: int, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if i == p.num_timesteps - 1:
                given["sample"] = torch.zeros_like(given["sample"])
            return given

        x = run(name, pipe, callback_on_step_end=clear, callback_on_step_end_tensor_inputs=asked)
        assert not x.any()


@chains
def test_a_callback_changes_the_chain(name: str) -> None:
    pipe = CASES[name].build()

    def change(p: Any, i: int, t: int, given: dict[str, Tensor]) -> dict[str, Tensor] | None:
        return {"sample": given["sample"].flip(3)} if i == 0 else None

    x = run(name, pipe, 2, callback_on_step_end=change)
    assert error(x, wanted(name, 2)) > 0.01
    with pytest.raises(InvalidInputError, match="callback_on_step_end must return"):
        run(name, pipe, callback_on_step_end=lambda p, i, t, given: {"sampel": given["sample"]})


class Shows(PipelineCallback):
    """The estimate of the clean pictures takes the place of the last state."""

    tensor_inputs = ["pred_original_sample"]  # noqa: RUF012  # diffusers' protocol

    def callback_fn(self, pipe: Any, i: int, t: int, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sample": -given["pred_original_sample"]} if i == pipe.num_timesteps - 1 else given


@chains
@pytest.mark.parametrize("several", [False, True])
def test_a_callback_object_says_what_it_wants(name: str, several: bool) -> None:
    """As `diffusers.callbacks` has it."""
    estimates: list[Tensor] = []
    run(
        name,
        CASES[name].build(),
        callback_on_step_end=lambda p, i, t, given: estimates.append(given["pred_original_sample"]),
        callback_on_step_end_tensor_inputs=["pred_original_sample"],
    )
    callback = MultiPipelineCallbacks([Shows()]) if several else Shows()
    assert torch.equal(run(name, CASES[name].build(), callback_on_step_end=callback), -estimates[-1])


@chains
def test_a_callback_that_was_written_for_diffusers_works(name: str) -> None:
    """It reads and replaces "latents", asked for by name, by default, or by a callback object."""

    def flip(p: Any, i: int, t: int, callback_kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        if i == 0:
            callback_kwargs["latents"] = callback_kwargs["latents"].flip(3)
        return callback_kwargs

    class Flips(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012  # diffusers' protocol

        def callback_fn(self, pipe: Any, i: int, t: int, given: dict[str, Tensor]) -> dict[str, Tensor]:
            return flip(pipe, i, t, given)

    pipe = CASES[name].build()
    flipped = run(name, pipe, callback_on_step_end=lambda p, i, t, k: {"sample": k["sample"].flip(3)} if i == 0 else {})
    assert error(flipped, wanted(name)) > 0.01
    assert torch.equal(run(name, pipe, callback_on_step_end=flip), flipped)
    asked = {"callback_on_step_end_tensor_inputs": ["latents"]}
    assert torch.equal(run(name, pipe, callback_on_step_end=flip, **asked), flipped)
    assert torch.equal(run(name, pipe, callback_on_step_end=Flips()), flipped)
    assert torch.equal(run(name, pipe, callback_on_step_end=MultiPipelineCallbacks([Flips()])), flipped)


@chains
def test_a_callback_returns_one_state(name: str) -> None:
    pipe = CASES[name].build()

    def both(shift: float) -> Callable[..., dict[str, Tensor]]:
        return lambda p, i, t, given: {"sample": given["sample"] / 2, "latents": given["latents"] / 2 + shift}

    with pytest.raises(InvalidInputError, match="must not return two states"):
        run(name, pipe, callback_on_step_end=both(0.1))
    halved = run(name, pipe, callback_on_step_end=lambda p, i, t, given: {"latents": given["latents"] / 2})
    assert torch.equal(run(name, pipe, callback_on_step_end=both(0)), halved)
    for wrong in (torch.zeros(7), "latents", 3):
        with pytest.raises(
            InvalidInputError, match="callback_on_step_end must return None or {'sample': a float tensor"
        ):
            run(name, pipe, callback_on_step_end=lambda p, i, t, given: {"latents": wrong})  # noqa: B023


@cases
def test_the_types_of_output_are_those_of_diffusers(name: str) -> None:
    pipe = CASES[name].build()
    with torch.no_grad():
        network_of(pipe).conv_out.bias.fill_(2.5)  # beyond the range of pictures
    latents = run(name, pipe, 2)
    assert torch.equal(run(name, pipe, 2, output_type="pt"), VaeImageProcessor.denormalize(latents))
    of_diffusers = VaeImageProcessor(do_resize=False).postprocess(latents, "np")
    assert np.array_equal(run(name, pipe, 2, output_type="np"), of_diffusers)


@chains
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_a_network_that_overflows_is_named(name: str, value: float, output_type: str) -> None:
    pipe = CASES[name].build()
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] = value
    first = f"unet.* gave NaN or Inf at timestep {wanted_timesteps(name)[0]}: .*torch.float32 or torch.bfloat16"
    with pytest.raises(InvalidInputError, match=first):
        run(name, pipe, output_type=output_type)


@chains
def test_the_first_timestep_that_is_not_finite_is_named(name: str) -> None:
    pipe, second = CASES[name].build(), wanted_timesteps(name)[1]

    def spoil(_network: Any, given: tuple[Any, ...], output: Any) -> Any:
        return (output[0] * (math.nan if int(given[1][0]) == second else 1), *output[1:])

    handle = pipe.unet.register_forward_hook(spoil)
    with pytest.raises(InvalidInputError, match=f"unet.* gave NaN or Inf at timestep {second}:"):
        run(name, pipe, 2)
    handle.remove()
    with pytest.raises(InvalidInputError, match=f"callback_on_step_end gave NaN or Inf at timestep {second}:"):
        run(
            name,
            pipe,
            callback_on_step_end=lambda p, i, t, k: {"latents": k["latents"] * math.nan} if t == second else None,
        )


@cache
def wanted_timesteps(name: str) -> list[int]:
    pipe = CASES[name].build()
    run(name, pipe)
    steps: list[int] = pipe.scheduler.timesteps.tolist()
    return steps


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "image" in case.arguments(1)])
def test_arrays_in_minus_one_to_one_are_refused_by_all(name: str) -> None:
    """RDDM and Cold Diffusion took them for pictures in [0, 1]."""
    pipe = CASES[name].build()
    array = pictures(1, (3, 16, 24))[0].permute(1, 2, 0).numpy()
    with pytest.raises(InvalidInputError, match=r"image must be a numpy array of floats in \[0, 1\], got values"):
        run(name, pipe, image=array)
    assert run(name, pipe, image=(array + 1) / 2).isfinite().all()


class StoppedError(Exception):
    pass


def stop(p: Any, i: int, t: int, given: dict[str, Tensor]) -> None:
    if i == 1:
        raise StoppedError


@chains
def test_an_error_in_a_callback_leaves_the_pipeline_usable(name: str) -> None:
    pipe = CASES[name].build()
    with pytest.raises(StoppedError):
        run(name, pipe, callback_on_step_end=stop)
    assert torch.is_grad_enabled()
    assert torch.equal(run(name, pipe), wanted(name))


@chains
def test_progress_is_that_of_the_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tuple[dict[str, Any], list[int], list[bool]]] = []

    class Bar:
        def __init__(self, **options: Any) -> None:
            bars.append((options, [], []))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            bars[-1][2].append(True)

        def update(self, count: int = 1) -> None:
            bars[-1][1].append(count)

    monkeypatch.setattr(pipeline_utils, "tqdm", Bar)
    pipe = CASES[name].build()
    pipe.set_progress_bar_config(desc="restoring", disable=False)
    arguments = {**CASES[name].arguments(2), "generator": seeded(0, 1)}
    pipe(**arguments)
    assert pipe.num_timesteps == 3
    assert bars == [({"total": 3, "desc": "restoring", "disable": False}, [1, 1, 1], [True])]
    with pytest.raises(StoppedError):
        pipe(**arguments, callback_on_step_end=stop)
    assert (sum(bars[1][1]), bars[1][2]) == (1, [True])


# Where networks are


@cases
def test_every_network_has_its_place_when_offloaded(name: str) -> None:
    pipe = CASES[name].build()
    order, kept = pipe.model_cpu_offload_seq.split("->"), pipe._exclude_from_cpu_offload
    assert len({*order, *kept}) == len(order) + len(kept)
    assert {*order, *kept} <= set(pipe.components)
    assert set(networks(pipe)) <= {*order, *kept}


@cases
def test_offloaded_networks_give_the_same_pictures(name: str) -> None:
    pipe = CASES[name].build().to(DEVICE)
    expected = run(name, pipe, 2)
    pipe.enable_model_cpu_offload(device=DEVICE.type)
    assert pipe._execution_device.type == DEVICE.type
    for _ in "twice":
        assert error(run(name, pipe, 2), expected) < 1e-4
        assert hasattr(network_of(pipe), "_hf_hook")
        assert network_of(pipe).device.type == "cpu"
    if CASES[name].chain:
        with pytest.raises(StoppedError):
            run(name, pipe, callback_on_step_end=stop)
    pipe.enable_model_cpu_offload(device=DEVICE.type)
    assert error(run(name, pipe, 2), expected) < 1e-4
    pipe.remove_all_hooks()
    assert error(run(name, pipe.to(DEVICE), 2), expected) < 1e-4


@cases
def test_networks_offloaded_part_by_part_give_the_same_pictures(name: str) -> None:
    pipe = CASES[name].build().to(DEVICE)
    expected = run(name, pipe, 2)
    if DEVICE.type == "cpu":  # which `enable_sequential_cpu_offload` refuses
        for part in networks(pipe):
            cpu_offload(pipe.components[part], DEVICE)
    else:
        pipe.enable_sequential_cpu_offload(device=DEVICE.type)
    assert network_of(pipe).device.type == "meta"
    assert pipe._execution_device.type == DEVICE.type
    for _ in "twice":
        assert error(run(name, pipe, 2), expected) < 1e-4


@pytest.mark.skipif(DEVICE.type != "cpu", reason="there is an accelerator")
@cases
def test_offloading_without_an_accelerator_says_so(name: str) -> None:
    pipe = CASES[name].build()
    for enable in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises(RuntimeError, match="requires accelerator"):
            enable()
    assert torch.equal(run(name, pipe), wanted(name))


@cases
def test_hooks_are_freed_once_at_the_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = CASES[name].build()
    events: list[str] = []
    free = type(pipe).maybe_free_model_hooks
    monkeypatch.setattr(type(pipe), "maybe_free_model_hooks", lambda self: (events.append("freed"), free(self))[1])
    network = network_of(pipe)
    forward = network.forward
    network.forward = lambda *given, **named: (events.append("network"), forward(*given, **named))[1]
    assert torch.equal(run(name, pipe), wanted(name))
    assert events == ["network"] * (3 if CASES[name].chain else 1) + ["freed"]


CHANGES: dict[str, tuple[Callable[[Any], Any], float]] = {
    "attention slicing": (lambda pipe: pipe.enable_attention_slicing(), 0.0),
    "attention slicing, undone": (lambda pipe: (pipe.enable_attention_slicing(1), pipe.disable_attention_slicing()), 0),
    "leaves offloaded": (lambda pipe: pipe.enable_group_offload(CPU, offload_type="leaf_level"), 1e-5),
    "blocks offloaded": (
        lambda pipe: pipe.enable_group_offload(CPU, offload_type="block_level", num_blocks_per_group=1),
        1e-5,
    ),
    "channels last": (lambda pipe: network_of(pipe).to(memory_format=torch.channels_last), 1e-4),
    "moved": (lambda pipe: pipe.to("cpu"), 0.0),
}


@cases
@pytest.mark.parametrize("change", CHANGES)
def test_what_diffusers_offers_for_a_network_leaves_the_pictures(name: str, change: str) -> None:
    pipe = CASES[name].build()
    apply, limit = CHANGES[change]
    apply(pipe)
    assert error(run(name, pipe), wanted(name)) <= limit


@chains
def test_gradient_checkpointing_leaves_the_pictures(name: str) -> None:
    pipe = CASES[name].build()
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()
    assert torch.equal(run(name, pipe), wanted(name))


@chains
def test_how_attention_is_computed_leaves_the_pictures(name: str) -> None:
    pipe = CASES[name].build()
    for part, network in networks(pipe).items():
        if isinstance(network, UNet2DModel):
            setattr(pipe, part, attentive(network.config.in_channels, network.config.out_channels))
    expected = run(name, pipe)
    pipe.unet.set_attention_backend("_native_math")
    assert error(run(name, pipe), expected) < 1e-5
    pipe.unet.reset_attention_backend()
    pipe.enable_attention_slicing(1)
    assert error(run(name, pipe), expected) < 1e-5


def attentive(channels: int, out_channels: int) -> UNet2DModel:
    """A network with attention."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=16,
            in_channels=channels,
            out_channels=out_channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,
        ).eval()


@cases
def test_weights_stored_in_eight_bits_are_computed_in_more(name: str) -> None:
    pipe = CASES[name].build()
    for network in (getattr(pipe, part) for part in networks(pipe) if part != "prior"):
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
        stored = {weight.dtype for weight in network.parameters()}
        assert torch.float8_e4m3fn in stored
        assert network.dtype == torch.bfloat16
    x = run(name, pipe)
    assert x.dtype == torch.float32
    assert 1e-3 < error(x, wanted(name)) < 0.7 * CASES[name].rounding


@cases
def test_under_autocast_the_chain_stays_in_full_precision(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = run(name, CASES[name].build())
    assert x.dtype == torch.float32
    assert 0 < error(x, wanted(name)) < HALVES[torch.bfloat16] * CASES[name].rounding


@cases
def test_where_a_pipeline_is(name: str) -> None:
    pipe = CASES[name].build()
    assert pipe.device == pipe._execution_device == torch.device("cpu")
    assert pipe.dtype == torch.float32
    assert pipe.to("cpu") is pipe
    assert pipe.to(torch.float64) is pipe
    assert pipe.dtype == torch.float64
    assert error(run(name, pipe), wanted(name)) < 1e-4
    pipe.to(device="meta")
    assert {one.device.type for one in networks(pipe).values()} == {"meta"}


# What a pipeline says of itself


@cases
def test_annotations_are_the_classes_of_the_components(name: str) -> None:
    pipe = CASES[name].build()
    types = type(pipe)._get_signature_types()
    assert set(types) == {*pipe.components, *pipe.parameters}
    for part, network in networks(pipe).items():
        assert type(network) in types[part]  # exactly, for `from_pipe`
    if CASES[name].chain:
        assert isinstance(pipe.scheduler, types["scheduler"])
        assert types["unet"] == (UNet2DModel, ResidualUNet2DModel)
    assert {part for part in pipe.components if type(None) in types[part]} == set(pipe._optional_components)
    defaults = {key: value.default for key, value in inspect.signature(type(pipe)).parameters.items()}
    assert {part for part in pipe.components if defaults[part] is None} == set(pipe._optional_components)


@pipelines
def test_a_call_has_the_arguments_that_diffusers_has(kind: Any) -> None:
    parameters = inspect.signature(kind.__call__).parameters
    expected = {"output_type": "pil", "return_dict": True}
    if {case.generator for case in CASES.values() if type(case.build()) is kind} == {True}:
        expected |= {"generator": None}
    if "scheduler" in inspect.signature(kind.__init__).parameters:
        expected |= {"callback_on_step_end": None, "callback_on_step_end_tensor_inputs": ("latents", "sample")}
        assert parameters["num_inference_steps"].default is not inspect.Parameter.empty
    assert {key: parameters[key].default for key in expected} == expected
    variadic = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    for signature in (parameters, inspect.signature(kind.__init__).parameters):
        assert not [key for key, one in signature.items() if one.kind in variadic]


def arguments_of(docstring: str) -> set[str]:
    """The names under "Args:"."""
    block = "\n".join(re.findall(r"^ *Args:\n(.*?)(?:\n *\n|\Z)", docstring, re.DOTALL | re.MULTILINE))
    found = re.findall(r"^ +([a-z_0-9]+(?:, [a-z_0-9]+)*): ", block, re.MULTILINE)
    return {name for names in found for name in names.split(", ")}


@pytest.mark.parametrize(
    "kind",
    [*PIPELINES, *SCHEDULERS, *sorted(public(ModelMixin), key=lambda one: one.__name__)],
    ids=lambda one: one.__name__,
)
def test_every_argument_is_documented(kind: Any) -> None:
    of_class = "\n".join(vars(one).get("__doc__") or "" for one in kind.__mro__ if "restore" in one.__module__)
    assert set(inspect.signature(kind.__init__).parameters) - {"self"} <= arguments_of(of_class)
    methods = {"__call__": kind in PIPELINES, "step": kind in SCHEDULERS, "sample": True, "set_timesteps": True}
    for method, needed in {**methods, "add_noise": False, "fit": True, "start": False}.items():
        function = next((vars(one)[method] for one in kind.__mro__ if method in vars(one)), None)
        function = inspect.unwrap(getattr(function, "__func__", function)) if function is not None else None
        if function is not None and function.__module__.startswith("diffusers_restore"):
            documented = arguments_of(function.__doc__)
            if needed or documented:
                assert documented == set(inspect.signature(function).parameters) - {"self", "cls"}
    if kind in PIPELINES:
        assert {"Args:", "Returns:", "Raises:"} <= set(kind.__call__.__doc__.split())


@pipelines
def test_the_example_of_the_docstring_runs(kind: Any) -> None:
    (example,) = [one for one in doctest.DocTestFinder().find(kind, globs={}) if one.examples]
    assert example.name == kind.__name__
    with torch.random.fork_rng(devices=[]):
        failed, tried = doctest.DocTestRunner().run(example)
    assert failed == 0
    assert tried >= 4


@cases
def test_a_pipeline_prints_as_its_index(name: str) -> None:
    pipe = CASES[name].build()
    first, _, rest = str(pipe).partition(" ")
    index = json.loads(rest)
    assert first == index["_class_name"] == type(pipe).__name__
    assert repr(pipe) == str(pipe)
    assert set(plain(index)) == {*pipe.components, *pipe.parameters}
    for part in pipe.components:
        if pipe.components[part] is not None:
            kind = type(pipe.components[part])
            assert index[part] == [kind.__module__.partition(".")[0], kind.__name__]
    with pytest.raises(AttributeError, match=f"'{type(pipe).__name__}' object has no attribute 'nonsense'"):
        _ = pipe.nonsense


@cases
def test_a_copied_pipeline_is_its_own(name: str) -> None:
    pipe = CASES[name].build()
    run(name, pipe)
    for made in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert torch.equal(run(name, made), wanted(name))
        with torch.no_grad():
            network_of(made).conv_out.bias.add_(1.0)
        if CASES[name].chain:
            made.scheduler.set_timesteps(1)
            assert len(pipe.scheduler.timesteps) == 3
        assert torch.equal(run(name, pipe), wanted(name))


# Models


def sampled(model: Any) -> Tensor:
    drawn: Tensor = model.sample(2, 9, 8, seeded(1, 2))
    return drawn


MODEL_WAYS = {
    **WAYS,
    "shards": ({"max_shard_size": "1KB"}, {}, r"diffusion_pytorch_model-0000[12]-of-00002\.safetensors"),
    "shards of a variant": (
        {"variant": "fp16", "max_shard_size": "1KB"},
        {"variant": "fp16"},
        r"diffusion_pytorch_model\.fp16-0000[12]-of-00002\.safetensors",
    ),
}


@models
@pytest.mark.parametrize("way", MODEL_WAYS)
def test_a_saved_model_draws_the_same(name: str, way: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    saving, loading, files = MODEL_WAYS[way]
    model.save_pretrained(tmp_path, **saving)
    weights = [file.name for file in tmp_path.iterdir() if file.suffix in (".safetensors", ".bin")]
    assert weights
    if "shards" not in way or model.get_memory_footprint() > 2000:
        assert [file for file in weights if not re.fullmatch(files, file)] == []
    loaded = type(model).from_pretrained(tmp_path, **loading)
    assert plain(loaded.config) == through_json(plain(model.config))
    assert set(loaded.state_dict()) == set(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert torch.equal(sampled(loaded), sampled(model))
    assert not loaded.training


@models
@pytest.mark.parametrize("dtype", [*HALVES, torch.float64], ids=str)
def test_a_model_in_another_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = MODELS[name]()
    expected = sampled(model)
    model.save_pretrained(tmp_path / "full")
    moved = copy.deepcopy(model).to(dtype)
    moved.save_pretrained(tmp_path / "moved")
    for folder in ("full", "moved"):
        for sparing in (True, False):
            loaded = type(model).from_pretrained(tmp_path / folder, dtype=dtype, low_cpu_mem_usage=sparing)
            assert loaded.dtype == moved.dtype == dtype
            assert {value.dtype for value in loaded.state_dict().values()} == {dtype}
            x = sampled(loaded)
            assert x.dtype == torch.float32
            assert torch.equal(x, sampled(moved))
            assert error(x, expected) < 8 * torch.finfo(dtype).eps + 1e-6
    assert type(model).from_pretrained(tmp_path / "moved").dtype in (dtype, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # for the old name, of which only pipelines warn today
        assert type(model).from_pretrained(tmp_path / "full", torch_dtype=dtype).dtype == dtype


@models
def test_the_configuration_makes_a_model_of_the_same_shape(name: str) -> None:
    model = MODELS[name]()
    again = type(model).from_config(model.config)
    assert plain(again.config) == plain(model.config)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    again.load_state_dict(model.state_dict())
    assert torch.equal(sampled(again), sampled(model))


@models
def test_what_a_model_is_given_by_position_is_kept(name: str) -> None:
    model = MODELS[name]()
    names = list(inspect.signature(type(model)).parameters)
    by_position = type(model)(*(model.config[name] for name in names))
    again = type(model).from_config(by_position.config)
    assert {name: again.config[name] for name in names} == {name: model.config[name] for name in names}


@models
def test_weights_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected shape"):
        type(model).from_pretrained(tmp_path, components=7)
    with pytest.raises(OSError, match="no file named"):
        type(model).from_pretrained(tmp_path, variant="fp16", use_safetensors=False)
    with pytest.raises(ValueError, match="device_map"):
        type(model).from_pretrained(tmp_path, device_map=-1)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "nonsense": torch.zeros(1)}, file, metadata={"format": "pt"})
    with logged() as messages:
        type(model).from_pretrained(tmp_path)
    assert [one for one in messages if "nonsense" in one]
    save_file({key: value for key, value in weights.items() if key != "means"}, file, metadata={"format": "pt"})
    with logged() as messages:  # the pipeline refuses it: see its tests
        type(model).from_pretrained(tmp_path)
    assert [one for one in messages if "not initialized" in one and "means" in one]


@models
def test_diffusers_own_class_loads_a_saved_model(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path / "prior")
    for loaded in (
        AutoModel.from_pretrained(str(tmp_path / "prior")),
        AutoModel.from_pretrained(str(tmp_path), subfolder="prior"),
        type(model).from_pretrained(tmp_path, subfolder="prior"),
    ):
        assert type(loaded) is type(model)
        assert torch.equal(sampled(loaded), sampled(model))


@models
def test_a_copied_model_is_its_own(name: str) -> None:
    model = MODELS[name]()
    expected = sampled(model)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to("cpu").eval()):
        assert torch.equal(sampled(made), expected)
    made = copy.deepcopy(model)
    with torch.no_grad():
        made.means.add_(1.0)
    assert not torch.equal(sampled(made), expected)
    assert torch.equal(sampled(model), expected)
    assert torch.equal(sampled(model.train()), expected)


@models
def test_what_a_model_says_of_itself(name: str) -> None:
    model = MODELS[name]()
    assert model.dtype == torch.float32
    assert model.device == torch.device("cpu")
    assert model.get_memory_footprint() == sum(4 * value.numel() for value in model.state_dict().values())
    assert model._deprecated_kwargs == []
    assert isinstance(model.config, FrozenDict)
    variadic = inspect.Parameter.VAR_KEYWORD
    assert all(one.kind != variadic for one in inspect.signature(type(model)).parameters.values())
    with pytest.warns(FutureWarning, match="config"):
        assert model.noise_std == model.config.noise_std
    with pytest.raises(AttributeError, match=f"'{type(model).__name__}' object has no attribute 'nonsense'"):
        _ = model.nonsense
    assert not model.is_gradient_checkpointing
    with pytest.raises(ValueError, match="does not support gradient checkpointing"):
        model.enable_gradient_checkpointing()
    with pytest.raises(NotImplementedError, match="forward"):
        model(torch.zeros(1))


@models
def test_what_diffusers_offers_for_a_model_leaves_its_draws(name: str) -> None:
    ways: Sequence[Callable[[Any], Any]] = (
        lambda model: model.enable_group_offload(CPU, offload_type="leaf_level"),
        lambda model: model.enable_group_offload(CPU, offload_type="block_level", num_blocks_per_group=1),
        lambda model: model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32),
        lambda model: model.to(memory_format=torch.channels_last),
    )
    for way in ways:
        model = MODELS[name]()
        expected = sampled(model)
        way(model)
        assert torch.equal(sampled(model), expected)


# --- threads ---------------------------------------------------------------------------------------------------------


@chains
def test_threads_share_a_pipeline(name: str) -> None:
    """Each call has its own number of steps, and gives what it gives alone, bit for bit."""
    case = CASES[name]
    pipe = case.build()
    pipe.set_progress_bar_config(disable=True)

    def call(steps: int) -> Tensor:
        arguments = {**case.arguments(1), "num_inference_steps": steps, "output_type": "latent"}
        if "sigma_y" in arguments:
            arguments["sigma_y"] = 0.005  # below the noise of the lowest timestep
        if case.draws:
            arguments["generator"] = torch.Generator().manual_seed(steps)
        return pipe(**arguments).images

    steps = [1, 2, 3]
    alone = [call(count) for count in steps]
    assert len(torch.cat(alone).unique(dim=0)) == len(steps)
    with ThreadPoolExecutor(4) as threads:
        for count, shared in zip(steps * 6, threads.map(call, steps * 6), strict=True):
            assert torch.equal(shared, alone[count - 1])
