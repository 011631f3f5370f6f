"""What only a GPU shows: results beside those of a CPU, half precision, training; and steps that don't wait for it.

`pytest -m cuda` selects what needs a CUDA device; without one, it is skipped. CUDA_TESTS_ON=cpu runs the same bodies on
the CPU, so that they can be tried anywhere.

That a step waits for no device is seen on a CPU, too: there, the meta device stands for the GPU. Nothing can be read
from it, so that every read and every copy between it and the CPU is noticed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_old_photo_network, make_residual_unet, make_unet
from PIL import Image
from test_conformance import CASES, error, pictures, seeded
from test_degradations import EXAMPLES
from test_operators import examples
from test_training_pix2pix import fresh_accelerate, words_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_restore import ColdDiffusionScheduler, DDRMPipeline, OldPhotoVAE, cli, operators
from diffusers_restore.degradations import Synthetic
from diffusers_restore.operators import JPEG, CircularBlur, LinearOperator, Mask, Measurement, Operator, SVDOperator
from diffusers_restore.registries import METHODS
from diffusers_restore.schedulers.zero_shot import ZeroShotScheduler
from diffusers_restore.training.checkpoints import load_checkpoint, load_optimizer_tensors, optimizer_tensors
from diffusers_restore.training.muon import Muon

ON = os.environ.get("CUDA_TESTS_ON", "cuda")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ATEN = torch.ops.aten

cuda = pytest.mark.cuda
everywhere = pytest.mark.parametrize("device", ["cpu", pytest.param(ON, marks=cuda, id="cuda")], indirect=True)
on_a_gpu = pytest.mark.parametrize("device", [pytest.param(ON, marks=cuda, id="cuda")], indirect=True)
cases = pytest.mark.parametrize("name", CASES)
methods = pytest.mark.parametrize("name", list(METHODS))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device, without TF32 in convolutions (it is off in products): its ten bits of mantissa would hide errors."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and there is none")
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield torch.device(request.param)
    torch.backends.cudnn.allow_tf32 = before


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(name: str, pipe: Any, count: int, generator: Any = None) -> Tensor:
    """Latents of a pipeline of CASES for so many pictures, on the CPU."""
    drawing = {"generator": generator} if CASES[name].generator and generator is not None else {}
    made = pipe(**CASES[name].arguments(count), **drawing, output_type="latent", return_dict=False)[0]
    return made.float().cpu()


# --- pipelines -------------------------------------------------------------------------------------------------------


@on_a_gpu
@cases
def test_a_pipeline_gives_what_it_gives_on_a_cpu(name: str, device: torch.device) -> None:
    """With generators of the CPU, one for each picture."""
    pipe = quiet(CASES[name].build())
    wanted = call(name, pipe, 2, seeded(3, 4))
    assert error(call(name, pipe.to(device), 2, seeded(3, 4)), wanted) < 1e-3 * CASES[name].rounding


@on_a_gpu
@pytest.mark.parametrize("half", HALVES)
@cases
def test_half_precision_is_finite_and_close(name: str, half: str, device: torch.device) -> None:
    pipe = quiet(CASES[name].build()).to(device)
    wanted = call(name, pipe, 2, seeded(3, 4))
    made = call(name, pipe.to(HALVES[half]), 2, seeded(3, 4))
    assert made.isfinite().all()
    assert float((made - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < 0.1 * CASES[name].rounding


@on_a_gpu
@cases
def test_a_batch_gives_what_single_pictures_give_with_generators_of_the_device(name: str, device: torch.device) -> None:
    case, pipe = CASES[name], quiet(CASES[name].build()).to(device)
    if not case.generator:
        pytest.skip("it takes no generator")
    generators = [torch.Generator(device).manual_seed(seed) for seed in (3, 4)]
    both = call(name, pipe, 2, generators)
    again = call(name, pipe, 2, [torch.Generator(device).manual_seed(seed) for seed in (3, 4)])
    assert error(again, both) < 1e-4 * case.rounding
    arguments = case.arguments(2)
    for i in range(2):
        own = {key: value[i : i + 1] if isinstance(value, Tensor) else value for key, value in arguments.items()}
        own |= {"batch_size": 1} if "batch_size" in own else {}
        generator = [torch.Generator(device).manual_seed(3 + i)]
        single = pipe(**own, generator=generator, output_type="latent", return_dict=False)[0].float().cpu()
        assert error(both[i : i + 1], single) < 1e-3 * case.rounding


@on_a_gpu
@pytest.mark.parametrize("make", [make_unet, make_residual_unet])
def test_tiles(make: Callable[..., Any], device: torch.device) -> None:
    """A network with a reach gives what the whole picture gives; another's tiles are blended as on a CPU."""
    y, made = pictures(1, (3, 48, 40)), {}
    for place in (torch.device("cpu"), device):
        pipe = quiet(DDRMPipeline(make(), METHODS["ddrm"]())).to(place)
        for side in (None, 16):
            pipe.disable_tiling() if side is None else pipe.enable_tiling(side)
            options = {"operator": "denoise", "sigma_y": 0.05, "num_inference_steps": 2, "generator": seeded(1)}
            made[place.type, side] = pipe(y, **options, output_type="latent").images.cpu()
    assert error(made[device.type, 16], made["cpu", 16]) < 1e-3
    if make is make_residual_unet:
        assert error(made[device.type, 16], made[device.type, None]) < 1e-3


@on_a_gpu
@cases
def test_networks_wait_on_the_cpu_until_they_are_needed(name: str, device: torch.device) -> None:
    pipe = quiet(CASES[name].build())
    if device.type == "cpu":
        pytest.skip("accelerate's hooks need an accelerator")
    wanted = call(name, pipe, 1, seeded(3))
    pipe.enable_model_cpu_offload(device=device)
    assert error(call(name, pipe, 1, seeded(3)), wanted) < 1e-3 * CASES[name].rounding
    assert all(one.device.type == "cpu" for one in pipe.components.values() if isinstance(one, nn.Module))


@on_a_gpu
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_network(mode: str, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("compiling on CPUs is tested elsewhere, and takes minutes")
    name = "ddrm, residual network"
    pipe = quiet(CASES[name].build()).to(device)
    wanted = call(name, pipe, 1, seeded(3))
    pipe.unet = torch.compile(pipe.unet, mode=mode)
    for _ in range(3):  # CUDA graphs are recorded at the second call and replayed from the third on
        assert error(call(name, pipe, 1, seeded(3)), wanted) < 1e-3


# --- operators -------------------------------------------------------------------------------------------------------


@on_a_gpu
@pytest.mark.parametrize("name", ["jpeg", *examples()])
def test_an_operator_gives_what_it_gives_on_a_cpu(name: str, device: torch.device) -> None:
    operator: Operator = JPEG((3, 12, 20), 30) if name == "jpeg" else examples()[name]
    x, y = (pictures(operator.batch_size or 2, shape) for shape in (operator.input_shape, operator.output_shape))

    def check(work: Callable[..., Tensor], *given: Tensor) -> None:
        wanted, made = work(*given), work(*(one.to(device) for one in given))
        assert made.device.type == device.type
        assert float((made.cpu() - wanted).abs().max()) <= 1e-4 * max(1.0, float(wanted.abs().max()))

    check(operator.forward, x)
    check(operator.pinv, operator.forward(x))
    if isinstance(operator, LinearOperator):
        check(operator.adjoint, y)
        check(lambda x, y: operator.prox(x, y, 0.5), x, y)
    if isinstance(operator, SVDOperator):
        c = operator.vt(x)
        check(operator.vt, x)
        check(operator.ut, y)
        check(operator.v, c)
        check(operator.u, c)
        check(operator.singular_values.like, x)


# --- steps wait for no device ----------------------------------------------------------------------------------------


READS = {getattr(ATEN, name).default for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal")}


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU, by the line of the package that asked; tensors on "meta" are on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._patches = ExitStack()

    def __enter__(self) -> Waits:
        """Numbers that become a tensor of the GPU are copied to it; on "meta" no operation shows that."""
        for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):
            self._patches.enter_context(patch.object(owner, name, self._noting(getattr(owner, name))))
        # Autocast knows no meta device.
        self._patches.enter_context(patch.object(torch, "is_autocast_enabled", return_value=False))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def _noting(self, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noting(*args: Any, **kwargs: Any) -> Tensor:
            made = make(*args, **kwargs)
            if made.is_meta and not isinstance(args[-1], Tensor):
                self._note(make.__name__)
            return made

        return noting

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS and any(isinstance(one, Tensor) and one.is_meta for one in args):
            self._note(func)
            if func is ATEN._local_scalar_dense.default:
                kind = args[0].dtype
                return True if kind is torch.bool else 0.5 if kind.is_floating_point else 0
        elif func is ATEN.index.Tensor and args[0].is_meta:
            if any(one is not None and one.dtype is torch.bool for one in args[1]):
                self._note(func)
        elif func is ATEN.copy_.default and args[0].is_meta != args[1].is_meta:
            self._note(func)
        elif func is ATEN._to_copy.default and kwargs.get("device") is not None:
            if (torch.device(kwargs["device"]).type == "meta") == args[0].is_meta:
                return func(*args, **kwargs)
            if not kwargs.get("non_blocking"):
                self._note(func)
            if args[0].is_meta:  # what asks whether all is well hears that it is
                kind = kwargs.get("dtype") or args[0].dtype
                return torch.full(args[0].shape, kind is torch.bool, dtype=kind)
        return func(*args, **kwargs)

    def _note(self, func: Any) -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None and "diffusers_restore/" not in frame.f_code.co_filename:
            frame = frame.f_back
        path = "" if frame is None else frame.f_code.co_filename.rpartition("diffusers_restore/")[2]
        self.found[f"{path}:{0 if frame is None else frame.f_lineno} {func}"] += 1


class Gpu:
    """The GPU, or what stands for it; between `begin` and `end` nothing may wait for it."""

    def __init__(self, name: str, waits: Waits | None) -> None:
        self.device, self.waits = torch.device(name), waits

    def begin(self) -> None:
        if self.waits is None:
            torch.cuda.set_sync_debug_mode("error")
        else:
            self.waits.found.clear()

    def end(self) -> None:
        if self.waits is None:
            torch.cuda.set_sync_debug_mode("default")
        else:
            assert not self.waits.found

    def watch(self, chain: Iterator[None]) -> None:
        """A chain that pauses before each step, from its second one on: at the first, constants go to the device."""
        next(chain), next(chain)
        self.begin()
        for _ in chain:
            pass
        self.end()


@contextmanager
def gpu_for(device: torch.device) -> Iterator[Gpu]:
    if device.type == "cpu":
        with Waits() as waits:
            yield Gpu("meta", waits)
        return
    try:
        yield Gpu("cuda", None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


watched = pytest.mark.filterwarnings("ignore:Synchronization debug mode")


def restoring(method: ZeroShotScheduler, operator: Operator, sigma_y: float, device: torch.device) -> Iterator[None]:
    """The first steps of a chain, with a function for a network."""
    y = 0.1 * torch.randn(2, *operator.output_shape, device=device)
    measurement = Measurement(y, operator, sigma_y)
    method.set_timesteps(20)
    method.prepare(measurement)
    x = method.start(measurement, torch.randn(2, *operator.input_shape, device=device))
    options: dict[str, Any] = {"model": lambda x, t: 0.1 * x.sin()} if method.needs_model else {}
    for t in method.timesteps.tolist()[:3]:
        yield
        with torch.set_grad_enabled(method.needs_gradient):
            x = x.detach().requires_grad_(method.needs_gradient)
            x = method.step(0.1 * x.sin(), t, x, measurement, return_dict=False, **options)[0].detach()
    yield


@watched
@everywhere
@methods
def test_a_step_of_a_zero_shot_method_waits_for_nothing(name: str, device: torch.device) -> None:
    tried = 0
    for task in ("inpaint-random", "colorize", "sr-bicubic4", "sr-blur4", "cs4", "jpeg"):
        operator = operators.create(task, image_shape=(3, 16, 16), **({"quality": 20} if task == "jpeg" else {}))
        for sigma_y in (0.0, 0.1):
            method = METHODS[name]()
            if method.why_not(operator, sigma_y) is None:
                tried += 1
                with gpu_for(device) as gpu:
                    gpu.watch(restoring(method, operator, sigma_y, gpu.device))
    assert tried


@watched
@everywhere
@pytest.mark.parametrize("name", [name for name, one in EXAMPLES.items() if not isinstance(one, Synthetic)])
def test_a_step_of_cold_diffusion_waits_for_nothing(name: str, device: torch.device) -> None:
    """But for recipes of damage, whose plans are made on the CPU."""

    def steps(place: torch.device) -> Iterator[None]:
        scheduler = ColdDiffusionScheduler(EXAMPLES[name])
        x = torch.rand(2, 3, 16, 16, device=place)
        state = scheduler.sample_state(x)
        for k in scheduler.timesteps.tolist()[-3:] * 2:
            yield
            scheduler.step(0.9 * x, k, x, state=state)
        yield

    with gpu_for(device) as gpu:
        gpu.watch(steps(gpu.device))


@watched
@everywhere
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.chain])
def test_a_step_of_a_pipeline_waits_for_nothing(name: str, device: torch.device) -> None:
    """With its network, from the end of the first step to that of the last."""
    pipe, arguments = quiet(CASES[name].build()), CASES[name].arguments(2)
    with gpu_for(device) as gpu:

        def after(pipe: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
            if step == 0:
                gpu.begin()
            if step == pipe.num_timesteps - 1:
                gpu.end()

        pipe.to(gpu.device)(**arguments, output_type="latent", callback_on_step_end=after)
    assert pipe.num_timesteps > 1


def test_least_squares_wait_for_every_tenth_iteration_alone() -> None:
    """An operator without an SVD: 2 x 16 iterations here, and the residual at the end."""
    shape = (1, 4, 4)
    mask, blur = Mask(shape, torch.eye(4)), CircularBlur(shape, torch.ones(3, 3) / 9)
    with Waits() as waits, pytest.warns(operators.ConvergenceWarning):
        (mask @ blur).pinv(torch.randn(1, *shape, device="meta"))
    assert sum(count for line, count in waits.found.items() if "solving.py" in line) == 4 + 1


def test_what_waits_is_noticed() -> None:
    x = torch.ones(3, device="meta")
    with Waits() as waits:
        assert bool((x > 0).all())
        assert x.sum().item() == 0.5
        assert x.cpu().tolist() == [0, 0, 0]
        assert torch.zeros(3).to("meta").is_meta
        torch.tensor([1.0, 2.0], device="meta")
        with pytest.raises(NotImplementedError):
            x.nonzero()
    assert waits.found.total() == 6
    with Waits() as waits:
        torch.where(x > 0, x + 2.0, 0.0) * torch.tensor(2.0)
        torch.full((3,), 7, device="meta")
        torch.ones(3).sum().item()
    assert not waits.found


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        coarse = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((128, 100), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


TOY = {
    "resolution": 32,
    "train_batch_size": 2,
    "validation_images": 2,
    "logging_steps": 1,
    "logger": "none",
    "max_train_steps": 2,
    "checkpointing_steps": 2,
}
NARROW = {"block_out_channels": "8,8"}
TRAINERS: dict[str, dict[str, Any]] = {
    "prior": NARROW,
    "cold": NARROW | {"degradation": "blur", "num_train_timesteps": 10},
    "rddm": NARROW | {"recipe": "blind", "num_train_timesteps": 20, "validation_steps": 2},
    "pix2pix": {"task": "colorize", "generator": "resnet_6", "generator_channels": 4, "discriminator_channels": 4},
    "old-photo-detector": NARROW,
    "old-photo-vae": {"resolution": 96, "block_out_channels": "4,4,6", "num_blocks": 1, "discriminator_channels": 2},
    "old-photo-mapping": {"resolution": 96, "mapping_channels": "8,8", "num_blocks": 2, "discriminator_channels": 2},
}


def trains(name: str, photos: Path, output: Path, **values: Any) -> None:
    options = TOY | TRAINERS[name] | {"train_data_dir": photos, "output_dir": output} | values
    if name == "old-photo-mapping":
        for vae in ("vae_degraded", "vae_clean"):
            make_old_photo_network(OldPhotoVAE).save_pretrained(output.with_name(vae))
            options[vae] = output.with_name(vae)
    with fresh_accelerate():
        result = CliRunner().invoke(cli.main, ["train", name, *words_of(options)])
    assert result.exit_code == 0, (result.output, result.exception)


@on_a_gpu
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer(name: str, half: str, photos: Path, tmp_path: Path, device: torch.device) -> None:
    if device.type == "cpu" and half == "fp16":
        pytest.skip("mixed_precision=fp16 needs a GPU")
    trains(name, photos, tmp_path / "out", mixed_precision=half)
    assert (tmp_path / "out" / "checkpoint-2").is_dir()
    assert (tmp_path / "out" / "README.md").exists()


@on_a_gpu
@pytest.mark.parametrize("half", ["no", *HALVES])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_as_an_unbroken_one(
    optimizer: str, half: str, photos: Path, tmp_path: Path, device: torch.device
) -> None:
    """To rounding: kernels of a GPU need not add in one order."""
    if device.type == "cpu" and half == "fp16":
        pytest.skip("mixed_precision=fp16 needs a GPU")
    options = {"optimizer": optimizer, "mixed_precision": half, "learning_rate": 1e-3, "max_train_steps": 4}
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    trains("prior", photos, unbroken, **options)
    shutil.copytree(unbroken, broken)
    shutil.rmtree(broken / "checkpoint-4")
    trains("prior", photos, broken, **options, resume_from_checkpoint="latest")
    first, second = (load_checkpoint(folder / "checkpoint-4")[0]["unet"] for folder in (unbroken, broken))
    for key, value in first.items():
        assert float((second[key] - value).norm()) <= 0.02 * float(value.norm()) + 1e-5, key


@pytest.mark.parametrize("place", ["meta", pytest.param("cuda", marks=cuda)])
def test_the_state_of_a_resumed_optimiser_is_with_its_parameters(place: str) -> None:
    """A fused AdamW of a GPU takes the addresses of its steps, which must be there."""
    if place == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and there is none")

    def make(device: str) -> Muon:
        matrix, other = (nn.Parameter(torch.ones(shape, device=device)) for shape in ((4, 4, 3, 3), (4,)))
        matrix.grad, other.grad = matrix.detach(), other.detach()
        return Muon([matrix], [other], lr=1e-3, matrix_lr=1e-3)

    trained, resumed = make("cpu"), make(place)
    trained.step()
    load_optimizer_tensors(resumed, optimizer_tensors(trained))
    devices = {value.device.type for state in resumed.state.values() for value in state.values()}
    assert devices == {place}


# --- the command line ------------------------------------------------------------------------------------------------


@on_a_gpu
@pytest.mark.parametrize("words", [["--task", "sr2"], ["--task", "denoise", "--sigma-y", "0.2"], []], ids=" ".join)
def test_restore(words: list[str], photos: Path, tmp_path: Path, device: torch.device) -> None:
    made, small = {}, tmp_path / "small.png"
    Image.open(photos / "0.png").resize((32, 24)).save(small)
    for place in ("cpu", device.type):
        output = tmp_path / f"{place}.png"
        given = [str(small), "-o", str(output), "--device", place, "--dtype", "float32"]
        result = CliRunner().invoke(cli.main, ["restore", *given, *words])
        assert result.exit_code == 0, (result.output, result.exception)
        made[place] = np.asarray(Image.open(output)).astype(int)
    assert np.abs(made["cpu"] - made[device.type]).max() <= 2
