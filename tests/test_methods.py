"""The zero-shot methods in the pipeline: with every kind of operator, of network, of guidance and of noise schedule."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_unet
from diffusers import DDPMScheduler, RePaintScheduler, ScoreSdeVeScheduler
from torch import Tensor

from diffusers_restore import DEFAULT_PRIOR, DDRMBlocks, DDRMPipeline, images, operators
from diffusers_restore.errors import InvalidInputError, OperatorError, UnknownNameError
from diffusers_restore.evaluation.denoising import denoising_errors
from diffusers_restore.evaluation.metrics import psnr
from diffusers_restore.operators import BlockMean, CircularBlur, Mask, Measurement, Operator
from diffusers_restore.operators.base import Composition
from diffusers_restore.operators.tasks import motion_kernel, random_mask
from diffusers_restore.pipelines.zero_shot import Chain, MeasuredCanvas, split_measurement
from diffusers_restore.registries import METHODS
from diffusers_restore.schedulers.ddpm import SCHEDULE
from diffusers_restore.schedulers.estimate import Estimate
from diffusers_restore.schedulers.levels import distinct, karras_levels, log_levels, nearest_timesteps
from diffusers_restore.schedulers.prediction import predict_x0_and_epsilon
from diffusers_restore.schedulers.scheduling_dpir import dpir_levels, hole_radius
from diffusers_restore.schedulers.travel import travel
from diffusers_restore.schedulers.uncertainty import measured_variance
from diffusers_restore.schedulers.zero_shot import ZeroShotScheduler, method_options, methods_for

SHAPE = (3, 16, 24)
MASK = Mask(SHAPE, random_mask(16, 24))
BLUR = CircularBlur(SHAPE, motion_kernel(5, 30.0))
MATRIX: dict[str, Operator] = {
    "inpaint": MASK,
    "sr2": BlockMean(SHAPE, 2),
    "blur": BLUR,
    "blur, then mask": MASK @ BLUR,
    "jpeg": operators.create("jpeg", image_shape=SHAPE, quality=20),
}
KEEP_DATA = {"ddrm", "ddnm", "dpir", "diffpir", "ilvr", "ccdf", "repaint", "daps"}
FEW = {"repaint": {"travel_length": 2, "travel_repeats": 2}, "mmps": {"iterations": 1}}
every_method = pytest.mark.parametrize("method", list(METHODS))
by_gradient = pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].needs_gradient])


def make_pipe(method: str, unet: Any = None, scheduler: Any = None, **options: Any) -> DDRMPipeline:
    pipe = DDRMPipeline(make_unet() if unet is None else unet, scheduler or DDPMScheduler())
    pipe.scheduler = METHODS[method].from_config(pipe.scheduler.config, **{**FEW.get(method, {}), **options})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(count: int = 1, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(7)) * 2 - 1


def restore(pipe: Any, operator: Operator, y: Tensor, *, seeds: tuple[int, ...] = (0,), **given: Any) -> Tensor:
    generator = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"num_inference_steps": 4, "output_type": "latent", **given}
    restored: Tensor = pipe(y, operator=operator, generator=generator, **options).images
    return restored


@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
@pytest.mark.parametrize("name", list(MATRIX))
@every_method
def test_every_method_with_every_operator(method: str, name: str, sigma_y: float) -> None:
    operator = MATRIX[name]
    y = operators.measure(operator, pictures(), sigma_y, torch.Generator().manual_seed(1)).y
    pipe = make_pipe(method)
    able = methods_for(operator, sigma_y)
    if method not in able:
        with pytest.raises(OperatorError, match=f"can't restore from .*: it .*Methods that can: {', '.join(able)}"):
            restore(pipe, operator, y, sigma_y=sigma_y)
        return
    x = restore(pipe, operator, y, sigma_y=sigma_y)
    assert x.shape == (1, *SHAPE)
    assert x.isfinite().all()
    if method in KEEP_DATA and sigma_y == 0 and name != "jpeg":
        assert (operator.forward(x) - y).abs().max() < 2e-3


@pytest.mark.parametrize("sigma_y", [0.0, 0.05])
@pytest.mark.parametrize("name", ["inpaint", "mean of a masked image", "blur, then mask", "inside of a blur"])
@every_method
def test_what_lies_where_nothing_was_measured_changes_nothing(method: str, name: str, sigma_y: float) -> None:
    hole = torch.ones(SHAPE[1:])
    hole[2:6, 2:6] = 0  # all of a block
    more: dict[str, Operator] = {
        "mean of a masked image": BlockMean(SHAPE, 2) @ Mask(SHAPE, hole),
        "inside of a blur": operators.create("deblur-gauss", image_shape=SHAPE, border="inside", sigma=0.7, taps=3),
    }
    operator = (MATRIX | more)[name]
    if method not in methods_for(operator, sigma_y):
        return
    y = operators.measure(operator, pictures(), sigma_y, torch.Generator().manual_seed(1)).y
    missing = operator.measured(torch.ones_like(y)) == 0
    assert missing.any()
    assert not y[missing].any()
    pipe = make_pipe(method)
    x = restore(pipe, operator, y, sigma_y=sigma_y)
    assert torch.equal(restore(pipe, operator, torch.where(missing, 0.9, y), sigma_y=sigma_y), x)


def test_which_methods_can_what() -> None:
    every = set(METHODS)
    assert set(methods_for(MATRIX["blur"], 0.1)) == every - {"ddrm-jpeg"}
    assert every - set(methods_for(MATRIX["blur, then mask"], 0.0)) == {"ddrm", "daps"}
    assert every - set(methods_for(MATRIX["blur, then mask"], 0.1)) == {"ddrm", "daps", "ddnm"}
    assert methods_for(MATRIX["jpeg"], 0.0) == ["ddrm-jpeg"]
    assert isinstance(MATRIX["blur, then mask"], Composition)


@every_method
def test_a_batch_gives_what_its_pictures_give(method: str) -> None:
    operator = MATRIX["jpeg" if method == "ddrm-jpeg" else "inpaint"]
    y = operator.forward(pictures(2))
    pipe = make_pipe(method)
    both = restore(pipe, operator, y, seeds=(3, 4), sigma_y=0.05)
    singles = [restore(pipe, operator, y[i : i + 1], seeds=(3 + i,), sigma_y=0.05) for i in range(2)]
    assert torch.equal(both, torch.cat(singles))


@pytest.mark.parametrize("in_blocks", [False, True])
def test_one_graph_is_alive_at_a_time(in_blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a method that goes back through the network: a graph holds all that the network has computed."""
    alive: list[int] = []
    outputs: list[weakref.ref[Tensor]] = []
    predict = Chain.predict

    def counting(self: Chain, sample: Tensor, step: int) -> tuple[Tensor, Tensor]:
        alive.append(sum(one() is not None for one in outputs))
        made = predict(self, sample, step)
        outputs.append(weakref.ref(made[1]))
        return made

    monkeypatch.setattr(Chain, "predict", counting)
    pipe: Any = make_pipe("dps")
    pictures_seen = 2
    if in_blocks:  # which predict for all pictures before they step
        unet, scheduler, pictures_seen = pipe.unet, pipe.scheduler, 1
        pipe = DDRMBlocks().init_pipeline()
        pipe.update_components(unet=unet, scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
    y = MASK.forward(pictures(pictures_seen))
    pipe(image=y, operator=MASK, num_inference_steps=3, output_type="latent")
    assert alive == [0] * 3 * pictures_seen


def test_pictures_whose_levels_depend_on_their_own_masks_have_chains_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU, too, where others are restored at once."""
    monkeypatch.setattr("diffusers_restore.pipelines.zero_shot.pictures_at_once", lambda device, batch: batch)
    masks = torch.ones(2, 1, *SHAPE[1:])
    masks[0, :, 3, 3] = masks[1, :, 2:14, 2:20] = 0
    y = pictures(2)
    for method, parts in (("dpir", 2), ("ddrm", 1)):
        pipe = make_pipe(method)
        assert len(split_measurement(Measurement(y, Mask(SHAPE, masks), 0.0), pipe.scheduler)) == parts
        assert len(split_measurement(Measurement(y, MASK, 0.0), pipe.scheduler)) == 1
    pipe = make_pipe("dpir")
    both = restore(pipe, Mask(SHAPE, masks), y, seeds=(3, 4))
    singles = [restore(pipe, Mask(SHAPE, masks[i]), y[i : i + 1], seeds=(3 + i,)) for i in range(2)]
    assert torch.equal(both, torch.cat(singles))


def test_the_scheduler_of_the_pipeline_has_the_timesteps_of_the_call() -> None:
    pipe = make_pipe("dpir")
    y = pictures()
    x = restore(pipe, operators.Identity(SHAPE), y, sigma_y=0.3)
    assert len(pipe.scheduler.timesteps) == pipe.scheduler.num_inference_steps == pipe.num_timesteps == 1
    measurement = Measurement(y, operators.Identity(SHAPE), 0.3)
    step = pipe.scheduler.step(torch.zeros_like(y), pipe.scheduler.timesteps[0], y, measurement)
    assert step.prev_sample.shape == x.shape


@every_method
def test_the_blocks_give_what_the_pipeline_gives(method: str) -> None:
    operator = MATRIX["jpeg" if method == "ddrm-jpeg" else "inpaint"]
    pipe = make_pipe(method)
    y = operator.forward(pictures(2))
    given = {"operator": operator, "sigma_y": 0.05, "num_inference_steps": 3, "output_type": "latent"}

    def seeded() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (3, 4)]

    blocks = DDRMBlocks().init_pipeline()
    blocks.update_components(unet=pipe.unet, scheduler=pipe.scheduler)
    blocks.set_progress_bar_config(disable=True)
    made = blocks(image=y, generator=seeded(), output="images", **given)
    assert torch.equal(made, pipe(y, generator=seeded(), **given).images)


@every_method
def test_class_labels_and_classifiers_guide_every_method(method: str) -> None:
    operator = MATRIX["jpeg" if method == "ddrm-jpeg" else "inpaint"]
    y = operator.forward(pictures())
    pipe = make_pipe(method, make_unet(num_class_embeds=4))
    plain, other = (restore(pipe, operator, y, sigma_y=0.05, class_labels=label) for label in (0, 1))
    assert not torch.equal(plain, other)

    def bright(x: Tensor, t: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3)) * len(x[0].reshape(-1))

    guided = restore(pipe, operator, y, sigma_y=0.05, class_labels=0, classifier=bright, classifier_scale=0.1)
    assert not torch.equal(plain, guided)


@every_method
def test_a_ve_prior(method: str) -> None:
    unet = make_unet(time_embedding_type="fourier", center_input_sample=True)
    operator = MATRIX["jpeg" if method == "ddrm-jpeg" else "inpaint"]
    ve = ScoreSdeVeScheduler(num_train_timesteps=50, sigma_max=90.0)
    x = restore(make_pipe(method, unet, ve), operator, operator.forward(pictures()), sigma_y=0.02)
    assert x.isfinite().all()


@pytest.mark.parametrize("way", ["whole", "in place", "in parts"])
@by_gradient
def test_gradients_of_a_compiled_network_are_those_of_the_network(method: str, way: str) -> None:
    """Inductor's are wrong on a CPU (torch 2.13), so the network runs as it was written."""

    def backend(graph: Any, inputs: Any) -> Any:
        raise AssertionError("compiled for a gradient")

    y = MATRIX["sr2"].forward(pictures())
    pipe = make_pipe(method)
    wanted = restore(pipe, MATRIX["sr2"], y, num_inference_steps=2)
    if way == "whole":
        pipe.unet = torch.compile(pipe.unet, backend=backend)
    else:
        (pipe.unet if way == "in place" else pipe.unet.mid_block).compile(backend=backend)
    assert torch.equal(restore(pipe, MATRIX["sr2"], y, num_inference_steps=2), wanted)


@by_gradient
def test_gradients_of_a_network_in_half_precision(method: str) -> None:
    y = MATRIX["sr2"].forward(pictures())
    wanted = restore(make_pipe(method), MATRIX["sr2"], y)
    half = restore(make_pipe(method, make_unet().to(torch.bfloat16)), MATRIX["sr2"], y)
    assert half.dtype == torch.float32
    assert 0 < float((half - wanted).abs().mean()) < 0.1


@by_gradient
def test_gradients_where_none_are_recorded(method: str) -> None:
    pipe, y = make_pipe(method), MATRIX["sr2"].forward(pictures())
    wanted = restore(pipe, MATRIX["sr2"], y)
    with torch.inference_mode():
        within = restore(pipe, MATRIX["sr2"], MATRIX["sr2"].forward(pictures()))
    assert torch.equal(within, wanted)
    assert not wanted.requires_grad
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


@by_gradient
def test_a_step_without_a_gradient_says_how_to_get_one(method: str) -> None:
    scheduler = METHODS[method]()
    scheduler.set_timesteps(4)
    x = torch.randn(1, *SHAPE)
    measurement = Measurement(MATRIX["sr2"].forward(pictures()), MATRIX["sr2"])
    with pytest.raises(InvalidInputError, match=r"needs the gradient .* sample = sample.detach\(\).requires_grad_\(\)"):
        scheduler.step(torch.zeros_like(x), scheduler.timesteps[0], x, measurement)


def test_a_step_without_the_model_says_what_it_is() -> None:
    scheduler = METHODS["daps"](ode_steps=3)
    scheduler.set_timesteps(4)
    x = torch.randn(1, *SHAPE)
    measurement = Measurement(MATRIX["sr2"].forward(pictures()), MATRIX["sr2"])
    with pytest.raises(InvalidInputError, match=r"model must be a function \(x_t, timestep\) -> model_output"):
        scheduler.step(torch.zeros_like(x), scheduler.timesteps[0], x, measurement)


def test_evaluations_are_counted() -> None:
    y = MASK.forward(pictures(2))
    for method, options, wanted in (
        ("ddrm", {}, 4),
        ("daps", {"ode_steps": 3}, 10),  # nothing is below the last level
        ("ddnm", {"travel_length": 2, "travel_repeats": 3}, 8),
        ("dpir", {}, 4),
    ):
        pipe = make_pipe(method, **options)
        restore(pipe, MASK, y, seeds=(0, 1))
        assert pipe.num_evaluations == wanted, method


def test_swapping_methods_leaves_the_options_of_others_behind(recwarn: pytest.WarningsRecorder) -> None:
    schedule = {"beta_end": 0.03, "prediction_type": "v_prediction"}
    scheduler: Any = METHODS["ddnm"](eta=0.2, travel_length=7, **schedule)
    for name in (*METHODS, "ddnm"):
        before, scheduler = scheduler, METHODS[name].from_config(scheduler.config)
        defaults = method_options(METHODS[name])
        if type(before) is not type(scheduler):
            assert {key: scheduler.config[key] for key in defaults} == defaults
            assert not set(method_options(type(before))) - set(defaults) - {"denoising_errors"} & set(scheduler.config)
        assert {key: scheduler.config[key] for key in schedule} == schedule
    assert set(SCHEDULE) <= set(scheduler.config)


def test_errors_of_a_prior_go_from_method_to_method() -> None:
    table = [[0.1, 0.05], [1.0, 0.2]]
    stock = DDPMScheduler.from_config({**DDPMScheduler().config, "denoising_errors": table})
    pipe = DDRMPipeline(make_unet(), stock)
    for name in ("dpir", "daps", "mmps"):
        pipe.scheduler = METHODS[name].from_config(pipe.scheduler.config)
    assert pipe.scheduler.config.denoising_errors == table
    assert pipe.scheduler.variance(0.1) == pytest.approx(0.05**2)
    assert pipe.scheduler.variance(0.1**0.5) == pytest.approx(0.05 * 0.2)
    assert measured_variance(0.01, table) == pytest.approx(0.01**2)  # never more than sigma
    assert measured_variance(50.0, table) == pytest.approx(0.2**2)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ddnm", {"eta": 2}, "eta must be a number >= 0 and <= 1, got 2"),
        ("ddnm", {"travel_length": 0}, "travel_length must be a whole number >= 1, got 0"),
        ("repaint", {"travel_repeats": 1.5}, "travel_repeats must be a whole number"),
        ("dpir", {"prior_weight": 0}, "prior_weight must be a number > 0, got 0"),
        ("diffpir", {"zeta": -1}, "zeta must be a number >= 0 and <= 1, got -1"),
        ("ilvr", {"stop": "end"}, "stop must be a number >= 0 and <= 1, got 'end'"),
        ("ccdf", {"start_share": 0}, "start_share must be a number > 0 and <= 1, got 0"),
        ("dps", {"zeta": 0}, "zeta must be a number > 0 and <= 1e+06, got 0"),
        ("pigdm", {"prior_sd": -1}, "prior_sd must be a number > 0, got -1"),
        ("mmps", {"iterations": 0}, "iterations must be a whole number >= 1, got 0"),
        ("mmps", {"covariance": 1}, "covariance must be True or False, got 1"),
        ("daps", {"ode_steps": None}, "ode_steps must be a whole number >= 1, got None"),
        ("daps", {"denoising_errors": [[1, 2]]}, "at least two, got"),
        ("daps", {"denoising_errors": [[1, 2], [0.5, 3]]}, "a sigma of denoising_errors must be a number > 1"),
        ("daps", {"denoising_errors": [[1, 2], 3]}, "denoising_errors must be"),
        ("ddrm-jpeg", {"eta_b": 2}, "eta_b must be a number >= 0 and <= 1, got 2"),
    ],
)
def test_an_option_out_of_range(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        METHODS[method](**options)
    assert message in str(caught.value)


def test_travel() -> None:
    assert travel(4, 2, 1) == [3, 2, 1, 0]
    assert travel(4, 2, 2) == [3, 2, 1, 2, 1, 0]
    assert travel(5, 2, 2) == [4, 3, 4, 3, 2, 1, 2, 1, 0]  # stretches end at 2 and at 0
    assert len(travel(250, 10, 10)) == 250 + 24 * 9 * 10
    assert travel(1, 5, 5) == [0]
    assert travel(3, 1, 2)[-1] == 0


def test_levels() -> None:
    assert log_levels(1.0, 0.01, 3) == pytest.approx([1, 0.1, 0.01])
    assert karras_levels(20.0, 0.02, 5)[0] == pytest.approx(20)
    assert karras_levels(20.0, 0.02, 5)[-1] == pytest.approx(0.02)
    assert log_levels(0.3, 0.1, 1) == [0.3]
    assert distinct([9, 9, 5, 0, 0], 10) == [9, 8, 5, 1, 0]
    scheduler = METHODS["ddrm"]()
    chosen = scheduler.nearest_timesteps([0.5, 0.1])
    for t, sigma in zip(chosen, (0.5, 0.1), strict=True):
        ratios = [abs(torch.tensor(scheduler.sigma(other) / sigma).log()) for other in (t - 1, t, t + 1)]
        assert ratios[1] == min(ratios)
    assert nearest_timesteps([100.0, 0.001], [0.1, 0.2, 0.3]) == [2, 0]
    with pytest.raises(InvalidInputError, match="num_inference_steps must be a whole number >= 1 and <= 1000"):
        METHODS["dpir"]().set_timesteps(1001)
    assert len(set(scheduler.nearest_timesteps(log_levels(0.02, 0.01, 500)))) == 500


def test_dpir_takes_one_step_for_noise_alone_and_begins_high_where_something_is_missing() -> None:
    for operator, sigma_y, count, start in (
        (operators.create("denoise", image_shape=SHAPE), 0.2, 1, 0.2),
        (operators.create("denoise", image_shape=SHAPE), 0.0023, 1, 0.01),
        (MASK, 0.1, 4, 2.0),
        (BlockMean(SHAPE, 2), 0.0, 4, 1.0),
        (BLUR, 0.001, 4, None),
    ):
        scheduler = METHODS["dpir"]()
        scheduler.set_timesteps(4)
        scheduler.prepare(Measurement(operator.forward(pictures()), operator, sigma_y))
        assert len(scheduler.timesteps) == count
        if start is not None:
            assert scheduler.sigma(int(scheduler.timesteps[0])) == pytest.approx(start, rel=0.2)
    given = METHODS["dpir"]()
    given.set_timesteps(timesteps=[500, 20, 3])
    given.prepare(Measurement(MASK.forward(pictures()), MASK))
    assert given.timesteps.tolist() == [500, 20, 3]


PRESETS = [
    folder
    for folder in sorted((Path(__file__).parents[1] / "schedulers").iterdir())
    if folder.name.partition("-")[0] in ("ccdf", "ddnm", "ddrm", "diffpir", "dps", "ilvr", "mmps", "pigdm", "repaint")
]


@pytest.mark.parametrize("folder", PRESETS, ids=lambda folder: folder.name)
def test_a_preset_holds_options_of_its_method_alone(folder: Path) -> None:
    assert len(PRESETS) > 9
    config = ZeroShotScheduler.load_config(folder)
    [kind] = [METHODS[name] for name in METHODS if METHODS[name].__name__ == config["_class_name"]]
    assert {name for name in config if not name.startswith("_")} <= set(method_options(kind))
    assert folder.name in (folder.parent / "README.md").read_text()
    pipe = make_pipe("ddrm")
    pipe.scheduler = kind.from_config({**pipe.scheduler.config, **config})
    assert restore(pipe, MATRIX["sr2"], MATRIX["sr2"].forward(pictures())).isfinite().all()


def test_a_card_names_the_method() -> None:
    assert "by DDRM (arXiv:2201.11793): you say" in make_pipe("ddrm").card_text.what
    assert "by `DPIRScheduler`: you say" in make_pipe("dpir").card_text.what


def levels_of(operator: Operator, sigma_y: float = 0.0, stated: Operator | None = None) -> tuple[float, float]:
    return dpir_levels(Measurement(torch.zeros(1, *operator.output_shape), operator, sigma_y, stated))


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_hole_is_as_wide_at_every_border(side: str) -> None:
    known = torch.ones(32, 48)
    {"left": known[:, :12], "right": known[:, -12:], "top": known[:12], "bottom": known[-12:]}[side].zero_()
    assert hole_radius(Mask((3, 32, 48), known), torch.zeros(1)) == 12
    assert levels_of(Mask((3, 32, 48), known))[0] == 12


def test_holes() -> None:
    assert hole_radius(Mask((3, 64, 64), torch.eye(64)), torch.zeros(1)) == 20
    for name in ("sr2", "blur", "jpeg"):
        assert hole_radius(MATRIX[name], torch.zeros(1)) == 0
    differences = operators.FunctionOperator(lambda x: x - x.roll(1, -1), SHAPE)
    assert hole_radius(differences, torch.zeros(1)) == 0
    assert restore(make_pipe("dpir"), differences, differences.forward(pictures()), sigma_y=0.05).isfinite().all()


@pytest.mark.parametrize("size", [(16, 24), (15, 23)])
@pytest.mark.parametrize("channels", [3, 1])
def test_the_canvas_of_the_network_is_no_damage(size: tuple[int, int], channels: int) -> None:
    """A picture of any size, grey ones too: the levels are those of what was stated."""
    pipe, y = make_pipe("dpir"), pictures(1, (channels, *size))
    restored = pipe(y, operator="denoise", sigma_y=0.2, output_type="latent").images
    assert restored.shape == y.shape
    assert (pipe.num_timesteps, pipe.num_evaluations) == (1, 1)


@pytest.mark.parametrize("kind", ["colours", "grey", "canvas"])
def test_all_of_a_noisy_picture_is_in_the_first_estimate(kind: str) -> None:
    """At every sigma_y, whichever side of it the nearest timestep is; what isn't measured gets its noise."""
    shape = {"colours": SHAPE, "grey": (1, *SHAPE[1:]), "canvas": (3, 15, 23)}[kind]
    canvas = MeasuredCanvas(pictures(1, shape), operators.create("denoise", image_shape=shape), 0.1, make_unet())
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    for sigma_y in torch.linspace(0.012, 1.0, 60).tolist():
        whole = canvas.measurement(1, torch.device("cpu"))
        measurement = Measurement(whole.y, whole.operator, sigma_y, whole.stated)
        scheduler = METHODS["dpir"]()
        scheduler.set_timesteps(4)
        scheduler.prepare(measurement)
        assert len(scheduler.timesteps) == 1
        t = int(scheduler.timesteps[0])
        x = scheduler.start(measurement, noise) / scheduler.alpha_bar(t) ** 0.5
        assert torch.allclose(measurement.operator.forward(x), whole.y, atol=1e-5)
        level = sigma_y * (3**0.5 if kind == "grey" else 1)
        assert scheduler.sigma(t) == pytest.approx(level, rel=0.3)
        missing = measurement.operator.pinv(measurement.operator.forward(noise)) - noise
        beside = x - measurement.operator.pinv(whole.y)
        assert torch.allclose(beside / scheduler.sigma(t), -missing, rtol=0.3, atol=1e-5)
        assert kind == "colours" or float(beside.std()) > 0.1 * level


def test_each_picture_of_a_batch_has_levels_of_its_own() -> None:
    known = torch.ones(2, 1, 16, 24)
    known[1, :, 3:, 3:] = 0
    masks, pipe = Mask(SHAPE, known), make_pipe("dpir")
    y = masks.forward(pictures(2))
    both = restore(pipe, masks, y, seeds=(0, 1), sigma_y=0.2)
    assert pipe.num_timesteps == 4
    singles = [restore(pipe, masks.select(i), y[i : i + 1], seeds=(i,), sigma_y=0.2) for i in range(2)]
    assert torch.equal(both, torch.cat(singles))
    assert pipe.num_timesteps == 4
    restore(pipe, masks.select(0), y[:1], sigma_y=0.2)
    assert pipe.num_timesteps == 1


def test_options_don_t_pass_through_a_stock_scheduler_to_another_method() -> None:
    diffpir = METHODS["diffpir"](zeta=1.0)
    stock = DDPMScheduler.from_config(diffpir.config)
    assert METHODS["dps"].from_config(stock.config).config.zeta == 0.3
    assert METHODS["diffpir"].from_config(stock.config).config.zeta == 1.0
    assert METHODS["ddnm"].from_config(RePaintScheduler().config).config.eta == 0.85
    assert METHODS["ddnm"].from_config(RePaintScheduler().config, eta=0.1).config.eta == 0.1


def test_methods_that_nobody_registered_are_swapped_too() -> None:
    ours = Counting.from_config(METHODS["dpir"]().config)
    assert type(METHODS["ddrm"].from_config(ours.config)) is METHODS["ddrm"]
    assert type(Counting.from_config(ours.config)) is Counting


@every_method
def test_a_schedule_with_few_timesteps(method: str) -> None:
    operator = MATRIX["jpeg" if method == "ddrm-jpeg" else "sr2"]
    pipe = make_pipe(method, scheduler=DDPMScheduler(num_train_timesteps=10))
    x = restore(pipe, operator, operator.forward(pictures()), num_inference_steps=None)
    assert x.isfinite().all()
    assert pipe.num_timesteps <= (10 if method != "repaint" else 40)


def test_an_ode_in_more_steps_than_there_are() -> None:
    pipe = make_pipe("daps", scheduler=DDPMScheduler(num_train_timesteps=10), ode_steps=20)
    y = MATRIX["sr2"].forward(pictures())
    assert restore(pipe, MATRIX["sr2"], y, num_inference_steps=10).isfinite().all()


def test_travel_costs_nothing_before_it_begins() -> None:
    scheduler = METHODS["repaint"](travel_length=1, travel_repeats=1000)
    assert len(scheduler.timesteps) == 1000
    with pytest.raises(InvalidInputError, match="travel_repeats must be a whole number >= 1 and <= 1000"):
        METHODS["repaint"](travel_repeats=1001)


class Returns(ZeroShotScheduler):
    """Returns what it was given, or NaN at the end."""

    ends: float = 1.0

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        return estimate.x0_hat if estimate.sigma_next else measurement.y * self.ends


def test_what_a_method_returns_is_left_as_it_is() -> None:
    scheduler, y = Returns(), torch.ones(1, *SHAPE)
    scheduler.set_timesteps(2)
    x = torch.randn(1, *SHAPE)
    measurement = Measurement(y, operators.create("denoise", image_shape=SHAPE), 0.1)
    made = scheduler.step(0.5 * x, scheduler.timesteps[0], x, measurement, variance_noise=x)
    assert made.prev_sample.data_ptr() != made.pred_original_sample.data_ptr()
    scheduler.step(0.5 * x, scheduler.timesteps[1], x, measurement, variance_noise=x)
    assert torch.equal(y, torch.ones_like(y))


@pytest.mark.parametrize("blocks", [False, True])
def test_a_step_that_ends_in_nan_is_an_error(blocks: bool) -> None:
    pipe: Any = DDRMPipeline(make_unet(), Returns())
    pipe.scheduler.ends = float("nan")
    arguments: dict[str, Any] = {"image": pictures(), "operator": "denoise", "sigma_y": 0.1, "num_inference_steps": 2}
    if blocks:
        scheduler, pipe = pipe.scheduler, DDRMBlocks().init_pipeline()
        pipe.update_components(unet=make_unet(), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(InvalidInputError, match="the scheduler's step gave NaN or Inf"):
        pipe(**arguments)


def test_a_network_without_gradients_is_refused() -> None:
    with torch.inference_mode():
        unet = make_unet()
    pipe = make_pipe("dps", unet)
    with pytest.raises(InvalidInputError, match=r"unet was made within torch.inference_mode\(\)"):
        restore(pipe, MATRIX["sr2"], MATRIX["sr2"].forward(pictures()))


def test_errors_of_a_prior() -> None:
    pipe = make_pipe("ddrm")
    table = denoising_errors(pipe, [pictures(2)], levels=[0.1, 1.0, 10.0])
    assert [row[0] for row in table] == pytest.approx([0.1, 1.0, 10.0], rel=0.1)
    assert denoising_errors(pipe, [pictures(2)], levels=[0.1, 1.0, 10.0]) == table
    METHODS["daps"].from_config(pipe.scheduler.config, denoising_errors=table)
    assert len(denoising_errors(make_pipe("ddrm", scheduler=DDPMScheduler(num_train_timesteps=10)), [pictures()])) <= 10
    x = pictures()
    for arguments, message in (
        ((pipe, x), "pictures must be a list of tensors"),
        ((pipe, []), "pictures must be a list of tensors"),
        ((pipe, [x[:, :1]]), "pictures must have 3 channels, and sides that are multiples of 2"),
        ((pipe, [x[:, :, :15]]), "pictures must have 3 channels, and sides that are multiples of 2"),
        ((pipe, [100 * x]), r"pictures must be in \[-1, 1\]"),
        ((pipe, [x], [1.0]), "levels must be 2 to 1000 increasing"),
        ((pipe, [x], [1.0, 0.5]), "levels must be 2 to 1000 increasing"),
        ((pipe, [x], [1.0, 2000.0]), "levels must be a number"),
        ((pipe, [x], None, "a"), "seed must be a whole number"),
        ((None, [x]), "pipe must be a DDRMPipeline"),
        ((make_pipe("ddrm", make_unet(num_class_embeds=3)), [x]), "class-conditional"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            denoising_errors(*arguments)  # type: ignore[arg-type]


class OldStyle(ZeroShotScheduler):
    """A method as they were written before there was `update`: with `start` and `step`."""

    def start(self, measurement: Measurement, noise: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        return noise

    def step(  # type: ignore[override]
        self, model_output: Tensor, timestep: int, sample: Tensor, measurement: Measurement, **given: Any
    ) -> tuple[Tensor, Tensor]:
        assert set(given) == {"variance_noise", "return_dict"}
        t, following = self.following(timestep)
        x0_hat, _ = predict_x0_and_epsilon(model_output, sample, self.alpha_bar(t), self.config.prediction_type)
        return self.alpha_bar(following) ** 0.5 * x0_hat, x0_hat


class Counting(ZeroShotScheduler):
    """A method with a state: which is that of one chain."""

    seen: int = 0

    def update(self, estimate: Estimate, measurement: Measurement, **options: float) -> Tensor:
        self.seen += 1
        return estimate.x0_hat * self.seen


@pytest.mark.parametrize("kind", [OldStyle, Counting])
def test_methods_of_others(kind: Callable[..., ZeroShotScheduler]) -> None:
    pipe = DDRMPipeline(make_unet(), kind())
    pipe.set_progress_bar_config(disable=True)
    y = MASK.forward(pictures(2))
    both = restore(pipe, MASK, y, seeds=(3, 4))
    singles = [restore(pipe, MASK, y[i : i + 1], seeds=(3 + i,)) for i in range(2)]
    assert torch.equal(both, torch.cat(singles))


def test_a_method_without_a_step_is_no_method() -> None:
    class Empty(ZeroShotScheduler):
        pass

    with pytest.raises(NotImplementedError, match="Empty must have a method update, or step"):
        restore(DDRMPipeline(make_unet(), Empty()), MASK, MASK.forward(pictures()))


def test_no_such_method() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dpir'"):
        METHODS["dpirr"]


def test_diffpir_looks_oftener_where_the_noise_is_weak() -> None:
    """Its authors' "quad" counts from the strongest noise: timesteps 999 - int(sqrt(linspace(0, 1000^2, n)))."""
    scheduler = METHODS["diffpir"]()
    scheduler.set_timesteps(20)
    seen = [int(math.sqrt(i * 1000**2 / 19)) for i in range(19)]
    assert scheduler.timesteps.tolist() == [999 - one for one in seen] + [0]
    assert scheduler.timesteps[:3].tolist() == [999, 770, 675]
    assert [scheduler.space(n) for n in (1, 2, 3)] == [[999], [999, 0], [999, 292, 0]]


@pytest.mark.parametrize("clip", [True, False])
def test_diffpir_clips_what_agrees_with_the_data_but_in_the_last_step(clip: bool) -> None:
    scheduler = METHODS["diffpir"](prior_weight=1.0, zeta=1.0, clip=clip)
    scheduler.set_timesteps(timesteps=[900, 0])
    y = torch.full((1, 1, 2, 2), 3.0)
    measurement, none = Measurement(y, Mask((1, 2, 2), torch.ones(2, 2)), 0.1), torch.zeros_like(y)
    for t, below, wanted in ((900, 0, 1.0 if clip else 3.0), (0, -1, 3.0)):
        sigma = scheduler.sigma(t)
        x = scheduler.step(none, t, none, measurement, variance_noise=none).prev_sample
        corrected = x / scheduler.alpha_bar(below) ** 0.5
        share = sigma**2 / (sigma**2 + 0.1**2)
        assert torch.allclose(corrected, torch.full_like(y, wanted if wanted == 1 else share * 3), atol=1e-5)


def test_diffpir_deblurs_in_few_steps_by_a_schedule_that_begins_with_much_noise() -> None:
    pipe = DDRMPipeline.from_pretrained(DEFAULT_PRIOR)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = METHODS["diffpir"].from_config(pipe.scheduler.config)
    x = images.load(Path(DEFAULT_PRIOR).parent / "photos" / "chelsea.png").tensor[:, :, 100:164, 150:214]
    blur = operators.create("deblur-gauss", image_shape=(3, 64, 64))
    y = operators.measure(blur, x, 0.02, torch.Generator().manual_seed(0)).y
    call = {"operator": blur, "sigma_y": 0.02, "num_inference_steps": 20, "output_type": "latent"}
    restored = pipe(y, **call, generator=torch.Generator().manual_seed(0)).images
    assert psnr(restored[0], x[0]) > psnr(y[0], x[0])


def test_ddrm_jpeg_refuses_what_would_end_in_noise() -> None:
    blur = operators.create("deblur-gauss", image_shape=(3, 32, 32), sigma=1.6, taps=9)
    rows = operators.create("sr4", image_shape=(3, 32, 32))
    for sigma_y, able in ((0.0, True), (0.0023, False), (0.1, False)):
        assert ("ddrm-jpeg" in methods_for(blur, sigma_y)) is able
        assert "ddrm-jpeg" in methods_for(rows, sigma_y)


@pytest.mark.parametrize("angle", [0, 30])  # with an SVD, and by conjugate gradients
def test_a_photograph_that_a_camera_has_blurred_comes_back(angle: float) -> None:
    """Of a border that assumes something, a known blur makes stripes; "inside" knows nothing of what lies beyond."""
    photograph = images.load(Path(DEFAULT_PRIOR).parent / "photos" / "coffee.png").tensor
    kernel = motion_kernel(7, angle)
    seen = CircularBlur(tuple(photograph.shape[1:]), kernel).forward(photograph)[..., 40:104, 40:120]
    clean = photograph[..., 40:104, 40:120]
    y = ((seen + 1) * 127.5).round() / 127.5 - 1
    pipe = DDRMPipeline.from_pretrained(DEFAULT_PRIOR)
    pipe.scheduler = METHODS["dpir"].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    found = {}
    for border in ("circular", "inside"):
        operator = operators.create("deblur-motion", image_shape=(3, 64, 80), length=7, angle=angle, border=border)
        x = pipe(y, operator=operator, sigma_y=0.005, num_inference_steps=8, output_type="latent").images
        found[border] = psnr(x[0], clean[0])
    blurred = psnr(y[0], clean[0])
    assert found["inside"] > blurred + 4
    assert found["circular"] < blurred
