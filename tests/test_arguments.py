"""What is no use is refused by name, whatever function gets it: no errors of torch or Python, nothing broadcast.

Each test is for a kind of mistake, over all places that can be given it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_residual_unet, make_unet
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from diffusers_restore import (
    ColdDiffusionPipeline,
    ColdDiffusionScheduler,
    DDRMPipeline,
    DDRMScheduler,
    GaussianMixturePrior,
    RDDMPipeline,
    RDDMScheduler,
    ResidualUNet2DModel,
    degradations,
    operators,
)
from diffusers_restore.degradations import DEGRADATIONS, Blur, Degradation, Fade, Mix, recipes
from diffusers_restore.errors import InvalidInputError, OperatorError, UnknownNameError
from diffusers_restore.evaluation import classical, metrics, report
from diffusers_restore.models.gaussian_mixture import thumbnails
from diffusers_restore.models.growing import grow_unet
from diffusers_restore.operators import (
    TASKS,
    BlockMean,
    BlurDecimate,
    CircularBlur,
    Constant,
    Crop,
    Grayscale,
    Identity,
    LinearOperator,
    Mask,
    Measurement,
    Separable,
    SVDOperator,
    create,
    measure,
)
from diffusers_restore.operators.tasks import gaussian_kernel, random_mask, scratch_mask, text_mask

SHAPE = (3, 8, 12)
X = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
TWO = torch.tensor([1, 2])

WRONG: dict[str, Any] = {
    "None": None,
    "a list": [1.0],
    "a word": "x",
    "a number": 3.0,
    "a picture": Image.new("RGB", (12, 8)),
    "an array": X.numpy(),
    "bytes": X.to(torch.uint8),
    "booleans": X > 0,
    "complex": X.to(torch.complex64),
    "sparse": X.to_sparse(),
    "no batch": X[0],
    "no picture": X[:0],
    "another size": X[..., :5],
    "more channels": torch.zeros(2, 5, 8, 12),
}
# Where the other tensors are known:
BROADCAST = {"one channel": X[:, :1], "one picture": X[:1], "three pictures": torch.zeros(3, *SHAPE)}


def refused(call: Callable[[Any], object], *, but: tuple[str, ...] = (), also: dict[str, Any] | None = None) -> None:
    for name, value in {**WRONG, **(also or {})}.items():
        if name in but:
            continue
        try:
            call(value)
        except InvalidInputError:
            continue
        except Exception as error:
            pytest.fail(f"{name}: {type(error).__name__}: {error}")
        pytest.fail(f"{name} is accepted")


# Operators

OPERATORS: dict[str, LinearOperator] = {
    "identity": Identity(SHAPE),
    "mask": Mask(SHAPE, torch.ones(8, 12)),
    "masks": Mask(SHAPE, torch.ones(2, 1, 8, 12)),
    "block mean": BlockMean(SHAPE, 2),
    "grey": Grayscale(SHAPE),
    "separable": create("sr-bicubic4", image_shape=(3, 16, 16)),
    "circular blur": create("deblur-motion", image_shape=SHAPE, length=5),
    "symmetric blur": create("deblur-gauss", image_shape=SHAPE),
    "decimation": create("sr-blur4", image_shape=(3, 16, 16)),
    "sensing": create("cs2", image_shape=SHAPE),
    "crop": Crop(SHAPE, (4, 5)),
    "composition": Mask(SHAPE, torch.ones(8, 12)) @ create("deblur-gauss", image_shape=SHAPE),
    "blur of grey": create("deblur-gauss", image_shape=(1, 8, 12)) @ Grayscale(SHAPE),
    "blocks of a mask": BlockMean(SHAPE, 2) @ Mask(SHAPE, torch.ones(8, 12)),
    "grey blocks": Grayscale((3, 4, 6)) @ BlockMean(SHAPE, 2),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_what_operators_are_given(name: str) -> None:
    operator = OPERATORS[name]
    methods = ["forward", "adjoint", "pinv", "measured"]
    if isinstance(operator, SVDOperator):
        methods += ["y_bar", "vt", "v", "ut", "u"]
    for method in methods:
        refused(getattr(operator, method), also={"half": X.half(), "more axes": X[None]})
    x, y = torch.zeros(2, *operator.input_shape), torch.zeros(2, *operator.output_shape)
    refused(lambda given: operator.prox(given, y, 0.1), also={"one picture": x[:1], "float64": x.double()})
    refused(lambda given: operator.prox(x, given, 0.1), also={"one picture": y[:1], "float64": y.double()})
    for weight in (None, "1", -1, 0, math.nan, [1]):
        with pytest.raises(InvalidInputError, match="weight must be a number > 0"):
            operator.prox(x, y, weight)  # type: ignore[arg-type]
    refused(lambda given: Measurement(given, operator))
    refused(lambda given: measure(operator, given))
    for wrong in (None, "1", -1, 1.5, True):
        with pytest.raises(InvalidInputError, match="count must be a whole number"):
            operator.repeat_interleave(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="index must be a whole number"):
            operator.select(wrong)  # type: ignore[arg-type]


def test_the_methods_of_other_packages_operators_are_checked_too() -> None:
    class Half(SVDOperator):
        kind = "half"
        singular_values = Constant(torch.full((1, 1, 1), 0.5, dtype=torch.float64))  # type: ignore[assignment]

        def __init__(self) -> None:
            self.input_shape = self.output_shape = SHAPE

        def vt(self, x: Tensor) -> Tensor:
            return x

        v = ut = u = vt

        def params(self) -> dict[str, Any]:
            return {}

    half = Half()
    for method in (half.vt, half.ut, half.v, half.u, half.forward, half.adjoint):
        refused(method, also={"one channel": X[:, :1]})
        assert torch.equal(method(X), X if method.__name__ in ("vt", "ut", "v", "u") else X / 2)
    assert half.vt(x=X) is X
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        half.vt()  # type: ignore[call-arg]


def test_coefficients_have_the_shape_that_vt_gives() -> None:
    """The inverse transform of a blur would take a part of more, or fill up less."""
    blur = create("deblur-motion", image_shape=SHAPE, length=5)
    assert isinstance(blur, SVDOperator)
    with pytest.raises(
        OperatorError, match=r"coefficients must be \(B, \*\(3, 8, 7\)\), complex, .* got .*\(2, 3, 8, 12\)"
    ):
        blur.v(X)
    assert blur.v(blur.vt(X)).shape == X.shape


@pytest.mark.parametrize("value", [None, 3, "sr2", operators])
def test_an_operator_is_one_of_ours(value: Any) -> None:
    for call in (
        lambda: Measurement(X, value),
        lambda: measure(value, X),
        lambda: operators.check_operator(value),
        lambda: classical.opponents(value),
    ):
        with pytest.raises(InvalidInputError, match="operator must be an Operator, got"):
            call()


@pytest.mark.parametrize("generator", [0, "g", [torch.Generator()], np.random.default_rng()], ids=type)
def test_a_generator_is_one_of_torch(generator: Any) -> None:
    with pytest.raises(InvalidInputError, match="generator must be a torch.Generator or None, got"):
        measure(Identity(SHAPE), X, 0.1, generator)
    wrong = "generator must be"
    for degradation in (Fade(3), Blur(3), Mix(3)):
        with pytest.raises(InvalidInputError, match=wrong):
            degradation.sample_state(X, generator)
    with pytest.raises(InvalidInputError, match=wrong):
        GaussianMixturePrior().sample(2, 4, 4, generator)
    for scheduler in (DDRMScheduler(), RDDMScheduler()):
        with pytest.raises(InvalidInputError, match=wrong):
            scheduler.step(X, 999, X, generator=generator)


IDENTITY = {"kind": "identity", "input_shape": [3, 8, 12]}
SEPARABLE = {"kind": "separable", "input_shape": [3, 8, 12]}


@pytest.mark.parametrize(
    "config",
    [
        None,
        "mask",
        [IDENTITY],
        3,
        {},
        {"kind": None},
        {"kind": ["mask"]},
        {"kind": "identity"},
        {"kind": "identity", "input_shape": None},
        {"kind": "identity", "input_shape": "abc"},
        {"kind": "identity", "input_shape": [3, -8, 12]},
        {**IDENTITY, "more": 1},
        {"kind": "mask", "input_shape": [3, 8, 12]},
        {"kind": "mask", "input_shape": [3, 8, 12], "mask": None},
        {"kind": "mask", "input_shape": [3, 8, 12], "mask": [1]},
        {"kind": "mask", "input_shape": [3, 8, 12], "mask": {"shape": None, "bits": ""}},
        {"kind": "mask", "input_shape": [3, 8, 12], "mask": {"shape": [-1, 8], "bits": ""}},
        {"kind": "mask", "input_shape": [3, 8, 12], "mask": {"shape": [8, 12], "bits": 3}},
        {"kind": "mask", "input_shape": [3, 8, 12], "mask": {"shape": [1e30, 1e30], "bits": ""}},
        {"kind": "product"},
        {"kind": "product", "outer": None, "inner": None},
        {"kind": "product", "outer": IDENTITY, "inner": 3},
        {**SEPARABLE, "height": 3},
        {**SEPARABLE, "height": [3]},
        {**SEPARABLE, "height": [None]},
        {**SEPARABLE, "height": "ab"},
        {**SEPARABLE, "height": {"stage": "mean"}},
        {**SEPARABLE, "height": [{}]},
        {**SEPARABLE, "height": [{"stage": ["x"]}]},
        {**SEPARABLE, "height": [{"stage": "mean"}]},
        {**SEPARABLE, "height": [{"stage": "mean", "factor": "2"}]},
        {**SEPARABLE, "height": [{"stage": "mean", "factor": 2, "taps": 3}]},
        {**SEPARABLE, "height": [{"stage": "mean", "size": 8, "factor": 2}]},
        {**SEPARABLE, "height": [{"stage": "blur", "kernel": None}]},
        {**SEPARABLE, "height": [{"stage": "blur", "kernel": [1.0], "border": []}]},
        {**SEPARABLE, "channels": [{"stage": "weights", "weights": None}]},
        {**SEPARABLE, "channels": [{"stage": "weights", "weights": {0.2, 0.3, 0.5}}]},
        {"kind": "grayscale", "input_shape": [3, 8, 12], "weights": {0.2, 0.3, 0.5}},
        {"kind": "grayscale", "input_shape": [3, 8, 12], "weights": 3},
        {"kind": "crop", "input_shape": [3, 8, 12], "size": 3},
        {"kind": "crop", "input_shape": [3, 8, 12], "size": [1]},
        {"kind": "compressed_sensing", "input_shape": [3, 8, 12], "ratio": 2, "transform": {}},
        {"kind": "circular_blur", "input_shape": [3, 8, 12], "kernel": {}},
        {"kind": "circular_blur", "input_shape": [3, 8, 12], "kernel": [[1j]]},
    ],
    ids=lambda config: str(config)[:90],
)
def test_configurations_of_operators(config: Any) -> None:
    with pytest.raises(InvalidInputError):
        operators.from_config(config)


def test_a_configuration_that_is_nested_without_end() -> None:
    config: dict[str, Any] = IDENTITY
    for _ in range(2000):
        config = {"kind": "product", "outer": config, "inner": IDENTITY}
    with pytest.raises(InvalidInputError, match="nested too deeply"):
        operators.from_config(config)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(0, 1, 8, 12), r"mask must hold at least one image, got \(0, 1, 8, 12\)"),
        (torch.ones(8, 12) * 1j, "mask must hold real numbers, got torch.complex64"),
        (torch.ones(8, 12).to_sparse(), "mask must hold real numbers, got .*sparse"),
        (np.ones((8, 12), object), "mask must be a tensor or an array of 0 and 1"),
        (torch.full((8, 12), math.nan), "mask must hold 0 .* and 1"),
        (
            np.ma.masked_array(np.ones((8, 12)), mask=np.eye(8, 12)),
            r"mask must have no masked values; pass mask.filled",
        ),
    ],
)
def test_masks(mask: Any, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        Mask(SHAPE, mask)


@pytest.mark.parametrize("kernel", [torch.ones(1, 1) + 1j, np.array([[1 + 1j]]), [[1j]], [[True]], {1.0}, "x", None])
def test_kernels_are_real_numbers(kernel: Any) -> None:
    for build in (lambda: CircularBlur(SHAPE, kernel), lambda: BlurDecimate(SHAPE, kernel, 2)):
        with pytest.raises(OperatorError, match="kernel must be 2-dimensional numbers, got"):
            build()
    with pytest.raises(OperatorError, match="kernel must have no masked values"):
        CircularBlur(SHAPE, np.ma.masked_array([[1.0]], mask=[[True]]))
    with pytest.raises(OperatorError, match="taps must be odd"):
        gaussian_kernel(1.0, 4)


@pytest.mark.parametrize("make", [random_mask, text_mask, scratch_mask])
def test_sizes_of_made_up_masks(make: Callable[..., Tensor]) -> None:
    for size in ((0, 5), (5, None), ("a", 5), (-1, 5), (8.0, 8)):
        with pytest.raises(InvalidInputError, match="(height|width) must be a whole number"):
            make(*size)


def test_a_task_that_needs_more_shows_how_to_make_its_operator() -> None:
    """A pipeline takes no mask and no kernel."""
    pipe = DDRMPipeline(make_unet(), DDPMScheduler())
    needs = {task: [n for n, p in TASKS[task].arguments.items() if p.default is p.empty] for task in TASKS}
    wanted = {"deblur": ["kernel"], "inpaint": ["mask"], "jpeg": ["quality"]}
    assert {task: names for task, names in needs.items() if names} == wanted
    for task, (name, *_) in ((task, names) for task, names in needs.items() if names):
        shown = f'operators.create("{task}", measurement_shape=..., {name}={name})'
        with pytest.raises(InvalidInputError, match=f"task '{task}' needs the argument '{name}'") as caught:
            pipe(X, operator=task)
        assert shown in str(caught.value)
    for task in (None, 3, ["sr2"], {}):
        with pytest.raises(UnknownNameError, match="no task named"):
            create(task, image_shape=SHAPE)  # type: ignore[arg-type]


# Schedulers


def made(name: str) -> tuple[Any, dict[str, Any]]:
    """A scheduler with its timesteps, and what a step of it takes beside output, timestep and sample."""
    builds: dict[str, tuple[Any, dict[str, Any]]] = {
        "ddrm": (DDRMScheduler(), {}),
        "ddrm, measured": (DDRMScheduler(), {"measurement": Measurement(X, Identity(SHAPE), 0.1)}),
        "rddm": (RDDMScheduler(), {"degraded": X}),
        "rddm, of a DDPM": (RDDMScheduler(beta_schedule="linear", prediction_type="v_prediction"), {}),
        "cold": (ColdDiffusionScheduler(Blur(5)), {}),
        "cold, with a state": (ColdDiffusionScheduler(Mix(5)), {"state": {"endpoint": X}}),
    }
    scheduler, options = builds[name]
    scheduler.set_timesteps(3)
    return scheduler, options


SCHEDULERS = ("ddrm", "ddrm, measured", "rddm", "rddm, of a DDPM", "cold", "cold, with a state")
NOISING = ("ddrm", "rddm", "rddm, of a DDPM")
schedulers = pytest.mark.parametrize("name", SCHEDULERS)


@schedulers
def test_what_steps_are_given(name: str) -> None:
    scheduler, options = made(name)
    t = int(scheduler.timesteps[0])
    refused(lambda given: scheduler.step(given, t, X, **options), also=BROADCAST)
    refused(lambda given: scheduler.step(X, t, given, **options), also=BROADCAST)
    if "cold" not in name:
        refused(lambda given: scheduler.step(X, t, X, **options, variance_noise=given), but=("None",), also=BROADCAST)
    if name == "rddm":
        refused(lambda given: scheduler.step(X, t, X, given), but=("None",), also=BROADCAST)
    if "cold" in name:
        with pytest.raises(InvalidInputError, match="floats"):
            scheduler.step(X > 0, t, X, **options)


@schedulers
@pytest.mark.parametrize(
    "timestep",
    [None, "x", -5, 10**9, 2.5, True, [1], TWO, torch.tensor(2.5), torch.tensor([]), torch.tensor(1j)],
    ids=str,
)
def test_timesteps_of_steps(name: str, timestep: Any) -> None:
    scheduler, options = made(name)
    with pytest.raises(InvalidInputError, match="timestep must be"):
        scheduler.step(X, timestep, X, **options)


@pytest.mark.parametrize("name", NOISING)
def test_what_is_noised(name: str) -> None:
    scheduler, _ = made(name)
    refused(lambda given: scheduler.add_noise(given, X, TWO), also=BROADCAST)
    refused(lambda given: scheduler.add_noise(X, given, TWO), also=BROADCAST)
    if name == "ddrm":
        return
    refused(lambda given: scheduler.get_target(given, X, TWO), also=BROADCAST)
    refused(lambda given: scheduler.get_target(X, given, TWO), also=BROADCAST)
    refused(lambda given: scheduler.start(given, X), also=BROADCAST)
    refused(lambda given: scheduler.start(X, given), also=BROADCAST)
    for which in ("degraded", "residual"):
        refused(lambda given, w=which: scheduler.add_noise(X, X, TWO, **{w: given}), but=("None",), also=BROADCAST)  # type: ignore[misc]


@pytest.mark.parametrize("name", NOISING)
@pytest.mark.parametrize(
    "timesteps",
    [None, "x", [1, 2], torch.tensor([-5, 1]), torch.tensor([1, 10**9]), TWO / 1, TWO > 1, TWO[None], torch.arange(3)],
    ids=str,
)
def test_timesteps_of_noise(name: str, timesteps: Any) -> None:
    """Minus five counted from the end."""
    scheduler, _ = made(name)
    with pytest.raises(InvalidInputError, match="timesteps must be"):
        scheduler.add_noise(X, X, timesteps)


@pytest.mark.parametrize("embedding", ["timestep", "cumulative"])
@pytest.mark.parametrize("timestep", [None, "x", -5, 10**9, 2.5, torch.tensor([1, 2000]), TWO / 1], ids=str)
def test_timesteps_of_networks(embedding: Any, timestep: Any) -> None:
    with pytest.raises(InvalidInputError, match="timesteps? must be"):
        RDDMScheduler(time_embedding=embedding).time_codes(timestep)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("device", ["nope", 3.5])
def test_devices_of_timesteps(name: str, device: Any) -> None:
    with pytest.raises(InvalidInputError, match="device must be a torch.device or its name"):
        made(name)[0].set_timesteps(2, device=device)


@pytest.mark.parametrize("timesteps", ["93", {9: 3}, {9, 3}, 3, object, [[3]], [TWO], [None]], ids=str)
def test_lists_of_timesteps(timesteps: Any) -> None:
    for scheduler in (DDRMScheduler(), RDDMScheduler()):
        with pytest.raises(InvalidInputError, match="timesteps must be"):
            scheduler.set_timesteps(timesteps=timesteps)


def test_a_start_has_a_measurement_and_noise_of_its_images() -> None:
    scheduler, options = made("ddrm, measured")
    refused(lambda given: scheduler.start(options["measurement"], given), also=BROADCAST)
    for wrong in (None, 3, "x"):
        with pytest.raises(InvalidInputError, match="measurement must be a Measurement, got"):
            scheduler.start(wrong, X)


@pytest.mark.parametrize(
    "betas", ["word", [], [0.1], 3, {}, ["a"] * 10, [math.nan] * 10, [[0.1]] * 10, torch.full((10,), 0.1)]
)
def test_trained_betas(betas: Any) -> None:
    for build in (DDRMScheduler, lambda *given, **named: RDDMScheduler(*given, **named, prediction_type="epsilon")):
        with pytest.raises(InvalidInputError, match="betas must"):
            build(10, trained_betas=betas)


@pytest.mark.parametrize("kind", [DDRMScheduler, RDDMScheduler, ColdDiffusionScheduler, ResidualUNet2DModel])
@pytest.mark.parametrize("config", [None, [], 3, {"_class_name": 3}], ids=str)
def test_configurations_of_diffusers(kind: Any, config: Any) -> None:
    with pytest.raises(InvalidInputError, match="config|_class_name"):
        kind.from_config(config)


def test_a_configuration_that_lacks_an_argument() -> None:
    with pytest.raises(InvalidInputError, match="the configuration does not fit ColdDiffusionScheduler: .*degradation"):
        ColdDiffusionScheduler.from_config({})


@pytest.mark.parametrize("total", [10**10, 10**400])
def test_absurd_numbers_of_timesteps(total: int) -> None:
    """A table of 10^10 numbers takes 80 GB."""
    for build in (DDRMScheduler, RDDMScheduler, Blur, Fade):
        with pytest.raises(InvalidInputError, match="timesteps must be a whole number >= 1 and <= 1e\\+06"):
            build(total)


# Degradations


@pytest.mark.parametrize("kind", list(DEGRADATIONS))
def test_what_degradations_are_given(kind: str) -> None:
    degradation: Degradation = DEGRADATIONS[kind](3)
    channels = ("more channels",)  # another kind of picture
    refused(degradation.sample_state, but=("another size", *channels))
    state = degradation.sample_state(X)
    refused(lambda given: degradation(given, 1, state), but=("another size", *channels))
    for name in state:
        refused(lambda given, n=name: degradation(X, 1, {**state, n: given}), also={"NaN": X * math.nan})  # type: ignore[misc]


def test_configurations_of_degradations_and_recipes() -> None:
    for config in (None, "x", [], 3, {}, {"kind": None}, {"kind": "nope"}, {"kind": "blur", 3: 4}):
        for build in (degradations.from_config, recipes.from_config):
            with pytest.raises(InvalidInputError):
                build(config)  # type: ignore[operator]
    for name in (None, 3, ["blind"]):
        with pytest.raises(UnknownNameError, match="no recipe named"):
            recipes.create(name)  # type: ignore[arg-type]
    for recipe in ([], {}, None, 3):
        with pytest.raises(InvalidInputError, match="recipe"):
            DEGRADATIONS["synthetic"](3, recipe=recipe)
    with pytest.raises(InvalidInputError, match="degradation must be a Degradation, got"):
        degradations.check_degradation(3)  # type: ignore[arg-type]


# Networks

OUTPUTS: dict[str, Callable[[Tensor], object]] = {
    "None": lambda x: None,
    "a list": lambda x: [1],
    "an array": lambda x: x.detach().numpy(),
    "whole numbers": lambda x: x.int(),
    "complex": lambda x: x.to(torch.complex64),
    "another batch": lambda x: torch.cat([x, x]),
    "no picture": lambda x: x[:0],
    "no batch": lambda x: x[0],
    "one channel": lambda x: x[:, :1],
    "another size": lambda x: x[..., :-1],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_networks_give(name: str) -> None:
    def spoilt(**config: int) -> Any:
        unet = make_unet(**config)
        unet.register_forward_hook(lambda module, given, output: (OUTPUTS[name](output[0]),))
        return unet

    pipes = [
        (DDRMPipeline(spoilt(), DDPMScheduler()), {"operator": "denoise", "sigma_y": 0.1, "num_inference_steps": 2}),
        (ColdDiffusionPipeline(spoilt(), ColdDiffusionScheduler(Blur(3))), {}),
        (ColdDiffusionPipeline(spoilt(), ColdDiffusionScheduler(Blur(3))), {"direct": True}),
        (RDDMPipeline(spoilt(channels=6, out_channels=3), RDDMScheduler(20)), {"num_inference_steps": 2}),
    ]
    for pipe, options in pipes:
        pipe.set_progress_bar_config(disable=True)
        with pytest.raises(InvalidInputError, match="output must"):
            pipe(X, **options)


def test_what_models_are_given() -> None:
    unet = make_residual_unet()
    refused(lambda given: unet(given, 1), but=("no picture",))
    for timestep in (None, "x", torch.arange(3), torch.tensor(1j)):
        with pytest.raises(InvalidInputError, match="timestep must be"):
            unet(X, timestep)
    conditional = make_residual_unet(num_class_embeds=3)
    for labels in (5, -1, "x", torch.tensor([5]), torch.tensor([1.5]), torch.tensor([True])):
        with pytest.raises(InvalidInputError, match="class_labels must be"):
            conditional(X, 1, labels)
    for wrong in (None, 3, X):
        with pytest.raises(InvalidInputError, match="unet must be a UNet2DModel"):
            grow_unet(wrong, 6, 3)
    refused(lambda given: thumbnails(given, (2, 2)), but=("another size", "more channels"))
    for size in (None, 3, "ab", (0, 2), (2,), (2.5, 2)):
        with pytest.raises(InvalidInputError, match="must be"):
            thumbnails(X, size)  # type: ignore[arg-type]


# Evaluation

PICTURE = torch.zeros(3, 16, 16)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (None, "must be a float tensor .* got NoneType"),
        (Image.new("RGB", (16, 16)), "must be a float tensor .* got Image .*images.to_tensor"),
        (PICTURE.numpy(), r"must be a float tensor .* got a numpy array of float32 \(3, 16, 16\)"),
        (PICTURE.to(torch.uint8), "must be a float tensor .* got torch.uint8"),
        (PICTURE.to(torch.complex64), "must be a float tensor .* got torch.complex64"),
        (PICTURE[:0], "must be a float tensor"),
        (PICTURE + 120, r"must be in \[-1, 1\], got a mean of 120: is it in 0..255"),
        (PICTURE * math.nan, "must be finite, got NaN or Inf"),
        (PICTURE / 0 + math.inf, "must be finite, got NaN or Inf"),
    ],
)
def test_metrics_take_pictures_in_minus_one_to_one(picture: Any, message: str) -> None:
    """Of 8-bit and 0..255 pictures, they gave 34.9 dB and a luma of 0."""
    for metric in (metrics.psnr, metrics.ssim):
        with pytest.raises(InvalidInputError, match=f"image {message}"):
            metric(picture, PICTURE)
        with pytest.raises(InvalidInputError, match=f"reference {message}"):
            metric(PICTURE, picture)
    with pytest.raises(InvalidInputError, match=f"image {message}"):
        metrics.luma(picture)


def test_what_classical_methods_and_sheets_are_given() -> None:
    for method in (classical.bicubic, classical.biharmonic):
        for wrong in (None, X, "x"):
            with pytest.raises(InvalidInputError, match="a Measurement is wanted, got"):
                method(wrong)  # type: ignore[arg-type]
    one = Measurement(X[:1], Identity(SHAPE))
    for weighted in (classical.tv_denoise, classical.tv_deblur):
        for weight in (None, "x", -1, math.nan):
            with pytest.raises(InvalidInputError, match="weight must be a number"):
                weighted(one, weight)  # type: ignore[arg-type]
    for rows in (None, 3, "ab", [3], [("a", [3])], [("a",)]):
        with pytest.raises(InvalidInputError, match="rows must be a list of"):
            report.contact_sheet(rows)  # type: ignore[arg-type]


def test_separable_stages_are_named() -> None:
    with pytest.raises(OperatorError, match="stage 'mean' takes factor, got taps"):
        Separable(SHAPE, height=[{"stage": "mean", "taps": 3}])
    with pytest.raises(OperatorError, match="height must be a list of stages, got 'ab'"):
        Separable(SHAPE, height="ab")  # type: ignore[arg-type]
