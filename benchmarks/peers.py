#!/usr/bin/env python3
"""Measure our methods against those of deepinv and azula: with one network, on the same measurements, by turns.

    python benchmarks/peers.py          # benchmarks/results/peers.{json,md}
    python benchmarks/peers.py --quick  # does it run?

Both libraries come into an environment of their own, benchmarks/.venv-peers, which is made when it is first needed:
deepinv needs torchvision, which may not enter ours. One thread, float32; a library's defaults, unless a row says more.

(a) Time, time outside the network, PSNR and misfit: a turn for each picture, in one process. What passes through the
network, forward and back, is timed where it enters and where it leaves, for every library alike.
(b) Memory, in a copy of the process for each method and library.
(c) Operators.
(d) The noise that is really injected, and what a method makes of a Gaussian prior: each library's own code, with the
exact denoiser in place of the network.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod, sqrt
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
import torch

try:
    import torchvision  # noqa: F401  # it came with deepinv, and transformers imports what it finds
except ImportError:
    pass
except RuntimeError:  # built for a GPU, beside a torch that isn't: only the names of its operators are needed here
    names_of_torchvision = torch.library.Library("torchvision", "DEF")
    for operator_name in ("nms", "qnms"):
        names_of_torchvision.define(f"{operator_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from methods import Scalar, centre, gaussian
from quality import RESULTS, Picture, load_pictures, network_hash, seeded
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

import diffusers_restore
from diffusers_restore import DDRMPipeline, images, operators
from diffusers_restore.evaluation.metrics import psnr
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.operators import CircularBlur, LinearOperator, Measurement, SVDOperator
from diffusers_restore.registries import METHODS

HERE = Path(__file__).parent
VENV = HERE / ".venv-peers"
PHOTO = Path(diffusers_restore.__file__).parent / "assets" / "photos" / "coffee.png"
PEERS = {"deepinv": ("ddrm", "diffpir", "dps", "dpir"), "azula": ("diffpir", "dps", "mmps", "pigdm")}
OURS = tuple(dict.fromkeys(method for methods in PEERS.values() for method in methods))
# As in methods.py. The blur is circular, as that of deepinv is which has an SVD.
TASKS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "denoising 0.2": ("denoise", 0.2, {}),
    "inpainting, 50 % of the pixels": ("inpaint-random", 0.0, {}),
    "super-resolution x4, noise 0.05": ("sr4", 0.05, {}),
    "deblurring, noise 0.02": ("deblur-gauss", 0.02, {"border": "circular"}),
}
DPIR_STEPS = 8  # of deepinv's, where nobody can change it
WEIGHTS = dict.fromkeys(("ours", "azula"), ("zeta", (1, 3, 10, 30))) | {"deepinv": ("weight", (1, 10, 100, 1000))}
CASES = {"not measured": 0.0, "measured, r = g / 5": 1.0, "measured, r = 2 g": 0.1}  # s
G, SIGMA_Y, Y_BAR = 0.2, 0.04, 0.4  # of these cases; so small that what libraries clip to [-1, 1] hardly matters
COLUMNS = dict.fromkeys(("peer", "method", "note", "evaluations", "s", "ratio (min to max)", "outside"), "") | {
    **{"overhead, ms": "", "overhead ratio": ".2f", "PSNR": "", "misfit": "", "remark": ""}
}
WANTED = 1 / 3  # our time outside the network over deepinv's


@dataclass(frozen=True)
class Run:
    """One comparison; `note` says what isn't the libraries' default."""

    peer: str
    method: str
    note: str = ""
    ours: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None  # of ours, unless as many as the peer's
    tuned: bool = False  # DPS: each library's best weight of WEIGHTS on the first picture


RUNS = (
    Run("deepinv", "ddrm"),
    Run("deepinv", "diffpir"),
    Run("deepinv", "diffpir", "ours with the peer's weights", {"prior_weight": 3.5, "zeta": 0.1}),
    Run("deepinv", "dps"),
    Run("deepinv", "dps", "weights tuned", tuned=True),
    Run("deepinv", "dpir"),
    Run("deepinv", "dpir", "ours in its 24 steps", steps=24),
    Run("azula", "diffpir"),
    Run("azula", "diffpir", "ours with the peer's weights", {"prior_weight": 10.0, "zeta": 0.0}),
    Run("azula", "dps"),
    Run("azula", "dps", "weights tuned", tuned=True),
    Run("azula", "mmps"),
    Run("azula", "mmps", "ours in the peer's 1 iteration", {"iterations": 1}),
    Run("azula", "pigdm"),
)
SETTINGS = {
    "ours": "the schedulers' defaults: DDRM eta 0.85, eta_b 1; DiffPIR lambda 1.75, zeta 0.3, clipped; DPS zeta 0.3; "
    "DPIR lambda 0.23; MMPS 2 iterations; PiGDM prior_sd 1",
    "deepinv": "DiffusersDenoiserWrapper; DDRM eta 0.85, etab 1, sigmas linspace(1, 0, steps); DiffPIR lambda_ 7, zeta "
    "0.1; DPS schedule vp, solver ddpm, weight 1; DPIR; Denoising, Inpainting, Downsampling (circular), BlurFFT",
    "azula": "plugins.adm.AblatedDenoiser, clip_mean as its models have it; DPSSampler zeta 1; PGDMSampler eta 0; "
    "DiffPIRDenoiser lmbda 10 and MMPSDenoiser, gmres in 1 iteration, under DDIMSampler eta 0, as its tutorial has it",
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=diffusers_restore.DEFAULT_PRIOR, help="prior: a folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/testsets"), help="folder with the zips")
    parser.add_argument("--limit", type=int, default=2, help="the first N pictures of each set")
    parser.add_argument("--crop", type=int, default=64, help="side of the centre crop")
    parser.add_argument("--steps", type=int, default=20, help=f"of every method but DPIR, which has {DPIR_STEPS}")
    parser.add_argument("--pixels", type=int, default=192, help="side of the picture whose memory is measured")
    parser.add_argument("--coefficients", type=int, default=3 * 128**2, help="independent ones of each exact test")
    parser.add_argument("--quick", action="store_true", help="small, and only printed: does it run?")
    parser.add_argument("--output", type=Path, default=RESULTS / "peers", help="result files, without their suffix")
    args = parser.parse_args(argv)
    if args.quick:
        args.limit, args.crop, args.steps, args.pixels, args.coefficients = 1, 32, 3, 32, 2000
    return args


def enter_environment(argv: Sequence[str]) -> None:
    """Go on in the environment that has the peers; make it first where there is none."""
    if all(importlib.util.find_spec(name) for name in PEERS):
        return
    python = VENV / "bin" / "python"
    if Path(sys.prefix).resolve() == VENV.resolve():
        sys.exit(f"{VENV.name} lacks {' or '.join(PEERS)}: remove it, and start again")
    if not (VENV / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "-c", HERE.parent / "constraints.txt"]
        subprocess.run([*pip, "-r", HERE / "peers-requirements.txt", "-e", f"{HERE.parent}[metrics]"], check=True)
        (VENV / "ready").touch()
    sys.exit(subprocess.run([python, __file__, *argv], check=False).returncode)


class Mark(torch.autograd.Function):
    """Adds the moment at which a gradient passes to a clock, with a sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, clock: Clock, sign: float) -> Tensor:
        ctx.clock, ctx.sign = clock, sign
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.clock.seconds += ctx.sign * perf_counter()
        return gradient, None, None


class Clock:
    """Adds up the time within a network, forward and back, and counts its evaluations."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.forward, self.seconds, self.evaluations = unet.forward, 0.0, 0
        unet.forward = self

    def __call__(self, sample: Tensor, timestep: Any, **options: Any) -> tuple[Tensor]:
        gradient = torch.is_grad_enabled() and sample.requires_grad
        if gradient:
            sample = Mark.apply(sample, self, 1.0)
        started = perf_counter()
        (output,) = self.forward(sample, timestep, **{**options, "return_dict": False})
        self.seconds += perf_counter() - started
        self.evaluations += 1
        return (Mark.apply(output, self, -1.0) if gradient else output,)

    def time(self, call: Callable[[], Tensor]) -> tuple[Tensor, dict[str, float]]:
        self.seconds, self.evaluations = 0.0, 0
        started = perf_counter()
        x = call()
        seconds = perf_counter() - started
        return x, {"s": seconds, "outside": seconds - self.seconds, "evaluations": self.evaluations}


@dataclass(frozen=True)
class Problem:
    """What a library is given: a measurement, what it is told of its noise, how many steps, and a seed."""

    measurement: Measurement
    sigma: float
    steps: int
    seed: int = 0


# A library's `ready` sets a method up and returns the call that makes the picture, in [-1, 1]. `floor` is what it is
# told of the noise where it can't do with the 0 that is true.


class Ours:
    floor = 0.0

    def __init__(self, model: str) -> None:
        self.pipe = DDRMPipeline.from_pretrained(model)
        self.pipe.set_progress_bar_config(disable=True)
        self.config = dict(self.pipe.scheduler.config)

    def ready(self, method: str, problem: Problem, **options: Any) -> Callable[[], Tensor]:
        self.pipe.scheduler = METHODS[method].from_config(self.config, **options)
        how = {"operator": problem.measurement.operator, "sigma_y": problem.sigma, "output_type": "latent"}
        how |= {"num_inference_steps": problem.steps, "generator": seeded(problem.seed)}
        return lambda: self.pipe(problem.measurement.y, **how).images


class OursExact:
    """Our schedulers with the exact denoiser of N(0, g^2); `record` gets each state and its noise level, in VE form."""

    def __init__(
        self, g: float, record: Callable[[Tensor, float], None], timesteps: Sequence[int] | None = None
    ) -> None:
        self.g, self.record, self.timesteps = g, record, timesteps

    def ready(self, method: str, problem: Problem) -> Callable[[], Tensor]:
        own = {"clip": False} if method == "diffpir" else {}  # its closed form has none, and a Gaussian no bounds
        scheduler, measurement, generator = METHODS[method](**own), problem.measurement, seeded(problem.seed)
        scheduler.set_timesteps(None if self.timesteps else problem.steps, timesteps=self.timesteps)
        scheduler.prepare(measurement)

        def model(x: Tensor, t: int) -> Tensor:
            sigma = scheduler.sigma(t)
            return x / scheduler.alpha_bar(t) ** 0.5 * sigma / (self.g**2 + sigma**2)

        def call() -> Tensor:
            x = scheduler.start(measurement, torch.randn(measurement.y.shape, generator=generator))
            for t in scheduler.timesteps.tolist():
                self.record(x / scheduler.alpha_bar(t) ** 0.5, scheduler.sigma(t))
                x = x.requires_grad_(scheduler.needs_gradient)
                x = scheduler.step(model(x, t), t, x, measurement, generator=generator, model=model)[0].detach()
            return x

        return call


class Deepinv:
    """Pictures, measurements and noise levels of its are in [0, 1]."""

    floor = 0.02  # its own DDRM and DPIR take 0.01 instead of less

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser

    def ready(self, method: str, problem: Problem, **options: Any) -> Callable[[], Tensor]:
        operator = problem.measurement.linear
        y = (problem.measurement.y + operator.forward(torch.ones(1, *operator.input_shape))) / 2
        restore = deepinv_method(method, self.denoiser, problem.sigma / 2, problem.steps, **options)
        physics = deepinv_physics(operator, problem.sigma / 2)
        if method == "ddrm" and not hasattr(physics, "U"):
            raise TypeError(f"DDRM needs an SVD, and {type(physics).__name__} has none")
        torch.manual_seed(problem.seed)
        return lambda: 2 * restore(y, physics).float() - 1


def deepinv_network(model: str, unet: torch.nn.Module) -> Any:
    from deepinv.models import DiffusersDenoiserWrapper

    denoiser = DiffusersDenoiserWrapper(mode_id=model)
    denoiser.model = unet  # the same one as ours
    return denoiser


def deepinv_exact(g: float, record: Callable[[Tensor, float], None]) -> Any:
    from deepinv.models import Denoiser

    class Exact(Denoiser):
        def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
            level = 2 * float(torch.as_tensor(sigma).flatten()[0])
            record(2 * x.detach() - 1, level)
            return 0.5 + g**2 / (g**2 + level**2) * (x - 0.5)

    return Exact()


def deepinv_physics(operator: LinearOperator, sigma: float) -> Any:
    from deepinv import physics

    shape, noise = operator.input_shape, {"noise_model": physics.GaussianNoise(sigma)}
    if isinstance(operator, Scalar):
        return physics.DecomposablePhysics(mask=operator.singular_values.values.float(), **noise)
    if operator.kind == "mask":
        return physics.Inpainting(shape, mask=operator.forward(torch.ones(1, *shape))[0], **noise)
    if operator.kind == "block_mean":  # the block is a quarter of a filter that has a centre
        kernel = functional.pad(torch.full((1, 1, 4, 4), 1 / 16), (0, 3, 0, 3))
        return physics.Downsampling(shape, filter=kernel, factor=4, padding="circular", **noise)
    if operator.kind == "circular_blur":
        return physics.BlurFFT(shape, filter=torch.tensor(operator.params()["kernel"])[None, None].float(), **noise)
    return physics.Denoising(**noise)


def deepinv_method(method: str, denoiser: Any, sigma: float, steps: int, **options: Any) -> Any:
    from deepinv import optim, sampling

    if method == "ddrm":
        return sampling.DDRM(denoiser, sigmas=np.linspace(1, 0, steps), **options)
    if method == "diffpir":
        return sampling.DiffPIR(denoiser, optim.data_fidelity.L2(), sigma=sigma, max_iter=steps, **options)
    if method == "dps":
        return sampling.DPS(denoiser, num_steps=steps + 1, **options)  # it counts the end, too
    return optim.DPIR(sigma=sigma, denoiser=denoiser)


class Azula:
    """Pictures and measurements are rows, as in its tutorial; `denoiser_for` makes its denoiser for a shape."""

    floor = 0.01  # as in its tutorial

    def __init__(self, denoiser_for: Callable[[tuple[int, ...]], Any]) -> None:
        self.denoiser_for = denoiser_for

    def ready(self, method: str, problem: Problem, **options: Any) -> Callable[[], Tensor]:
        shape = problem.measurement.operator.input_shape
        sampler = azula_method(method, self.denoiser_for(shape), problem, **options)
        torch.manual_seed(problem.seed)
        return lambda: sampler(sampler.init((1, prod(shape)))).unflatten(-1, shape)


def azula_network(unet: torch.nn.Module, shape: tuple[int, ...]) -> Any:
    """azula's wrapper for networks that estimate noise at whole timesteps: ours estimates v, e = alpha v + sigma x."""
    from azula.plugins.adm import AblatedDenoiser

    class Backbone(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: None = None) -> Tensor:
            x, sigma = x.unflatten(-1, shape), denoiser.sigmas[t]
            return ((1 - sigma**2).sqrt() * self.unet(x, t, return_dict=False)[0] + sigma * x).flatten(1)

    backbone = Backbone()
    backbone.unet = unet
    denoiser = AblatedDenoiser(backbone, clip_mean=True, discrete_schedule="cosine").eval()
    return denoiser


def azula_exact(g: float, record: Callable[[Tensor, float], None], shape: tuple[int, ...]) -> Any:
    from azula.denoise import GaussianDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import VPSchedule

    class Exact(GaussianDenoiser):
        def forward(self, x_t: Tensor, t: Tensor, **options: Any) -> Any:
            alpha, sigma = self.schedule(t)
            record(x_t.detach() / alpha, float(sigma / alpha))
            return super().forward(x_t, t, **options)

    cov, schedule = IsotropicCovariance(torch.tensor(g**2)), VPSchedule(alpha_min=1e-2, sigma_min=1e-2)
    return Exact(torch.zeros(prod(shape)), cov, schedule)


def azula_operator(operator: LinearOperator) -> Callable[[Tensor], Tensor]:
    """A as azula's users write it: any function of torch, here on rows."""
    shape = operator.input_shape
    if isinstance(operator, Scalar):
        s = operator.singular_values.values.flatten().float()
        return lambda x: s * x
    if operator.kind == "mask":
        mask = operator.forward(torch.ones(1, *shape)).flatten(1)
        return lambda x: mask * x
    if operator.kind == "block_mean":
        return lambda x: functional.avg_pool2d(x.unflatten(-1, shape), 4).flatten(1)
    if operator.kind == "circular_blur":
        kernel = torch.tensor(operator.params()["kernel"]).float().repeat(shape[0], 1, 1, 1)
        border = [kernel.shape[-1] // 2] * 4

        def blur(x: Tensor) -> Tensor:
            x = functional.pad(x.unflatten(-1, shape), border, "circular")
            return functional.conv2d(x, kernel, groups=shape[0]).flatten(1)

        return blur
    return lambda x: x


def azula_method(method: str, denoiser: Any, problem: Problem, **options: Any) -> Any:
    from azula import guidance
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDIMSampler

    operator, how = problem.measurement.linear, {"steps": problem.steps, "silent": True, **options}
    known = (denoiser, problem.measurement.y.flatten(1), azula_operator(operator))
    if method == "dps":
        return guidance.DPSSampler(*known, **how)
    if method == "pigdm":
        inverse = lambda y: operator.pinv(y.unflatten(-1, operator.output_shape)).flatten(1)  # noqa: E731
        return guidance.PGDMSampler(*known, inverse, **how)
    if method == "mmps":
        return DDIMSampler(guidance.MMPSDenoiser(*known, IsotropicCovariance(torch.tensor(problem.sigma**2))), **how)
    return DDIMSampler(guidance.DiffPIRDenoiser(*known, problem.sigma**2), **how)


def load_libraries(model: str) -> tuple[dict[str, Any], Clock]:
    ours = Ours(model)
    unet = ours.pipe.unet
    peers = {
        "deepinv": Deepinv(deepinv_network(model, unet)),
        "azula": Azula(lambda shape: azula_network(unet, shape)),
    }
    return {"ours": ours, **peers}, Clock(unet)


def measured(task: str, picture: Picture) -> Measurement:
    name, sigma_y, arguments = TASKS[task]
    operator = operators.create(name, image_shape=tuple(picture.x.shape[1:]), **arguments)
    return operators.measure(operator, picture.x, sigma_y, seeded(0, picture.index))


def first_try(library: Any, method: str, problem: Problem) -> tuple[Problem, str]:
    """The problem with what the library has to be told of sigma_y for a finite picture, and a remark."""
    remark = ""
    for sigma in dict.fromkeys((problem.sigma, max(problem.sigma, library.floor))):
        problem = replace(problem, sigma=sigma)
        try:
            finite = bool(library.ready(method, replace(problem, steps=min(problem.steps, 3)))().isfinite().all())
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            return problem, f"can't: {error}"
        if finite:
            return problem, remark
        remark = f"not finite with sigma_y = {sigma:g}, told {library.floor:g}"
    return problem, "can't: not finite"


def best_weight(library: Any, name: str, problem: Problem, x: Tensor) -> dict[str, Any]:
    option, weights = WEIGHTS[name]
    return {option: max(weights, key=lambda weight: quality(library.ready("dps", problem, **{option: weight})(), x))}


def quality(restored: Tensor, x: Tensor) -> float:
    return psnr(restored[0].clamp(-1, 1), x[0]) if bool(restored.isfinite().all()) else 0.0


def compare(
    libraries: Mapping[str, Any], clock: Clock, run: Run, task: str, pictures: Sequence[Picture], steps: int
) -> dict[str, Any]:
    """One row: ours and the peer's by turns, a turn for each picture."""
    row: dict[str, Any] = {"task": task, "peer": run.peer, "method": run.method, "note": run.note}
    turns: dict[str, list[dict[str, float]]] = {"ours": [], run.peer: []}
    steps, sigma_y, x = DPIR_STEPS if run.method == "dpir" else steps, TASKS[task][1], pictures[0].x
    problems, options = {}, {"ours": run.ours, run.peer: {}}
    for name in turns:
        count = run.steps if run.steps and name == "ours" else steps
        first = Problem(measured(task, pictures[0]), sigma_y, count)
        problems[name], row[f"{name} remark"] = first_try(libraries[name], run.method, first)
        if row[f"{name} remark"].startswith("can't"):
            return row
        if run.tuned:
            options[name] = best_weight(libraries[name], name, problems[name], x)
            row["note"] += f"; {name} {' '.join(map(str, *options[name].items()))}"
    for picture in pictures:
        measurement = measured(task, picture)
        for name, problem in problems.items():
            problem = replace(problem, measurement=measurement, seed=1 + picture.index)
            restored, turn = clock.time(libraries[name].ready(run.method, problem, **options[name]))
            misfit = float((measurement.operator.forward(restored) - measurement.y).square().mean().sqrt())
            turns[name].append({**turn, "PSNR": quality(restored, picture.x), "misfit": misfit})
    return {**row, **summary(turns["ours"], turns[run.peer], sigma_y)}


def summary(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], sigma_y: float
) -> dict[str, Any]:
    """The figures of a row from those of its turns; pairs are (ours, the peer's)."""
    ratios = [a["s"] / b["s"] for a, b in zip(ours, theirs, strict=True)]
    overhead = [1000 * median(t["outside"] / t["evaluations"] for t in turns) for turns in (ours, theirs)]
    return {
        "evaluations": [turns[0]["evaluations"] for turns in (ours, theirs)],
        "s": [median(t["s"] for t in turns) for turns in (ours, theirs)],
        "ratio": [min(ratios), median(ratios), max(ratios)],
        "outside": [median(t["outside"] / t["s"] for t in turns) for turns in (ours, theirs)],
        "overhead": overhead,
        "overhead ratio": overhead[0] / overhead[1],
        "PSNR": [mean(t["PSNR"] for t in turns) for turns in (ours, theirs)],
        "misfit": [mean(t["misfit"] for t in turns) for turns in (ours, theirs)],
        "sigma_y": sigma_y,
    }


def memory_rows(libraries: Mapping[str, Any], methods: Sequence[str], side: int) -> list[dict[str, Any]]:
    """MB that deblurring a picture of `side` pixels takes more than one of 32, in 3 steps."""

    def needed(library: Any, method: str) -> float:
        peaks = []
        for size in (32, side):
            picture = Picture("", "", 0, torch.zeros(1, 3, size, size))
            library.ready(method, Problem(measured("deblurring, noise 0.02", picture), 0.02, 3))()
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
        return peaks[1] - peaks[0]

    rows = []
    for method in tqdm(methods, desc="memory", leave=False):
        names = ["ours", *(peer for peer, of in PEERS.items() if method in of)]
        rows.append(
            {"method": method} | {name: in_a_copy(lambda n=name, m=method: needed(libraries[n], m)) for name in names}
        )
    return rows


def in_a_copy(work: Callable[[], float]) -> float:
    """What a function gives in a copy of this process, which has its own peak of memory."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return float(answer)


def operator_rows(side: int) -> list[dict[str, Any]]:
    """How exact the operators are, in float32; what a library has not is left out."""
    rows = []
    for task in TASKS:
        x = torch.randn(1, 3, side, side, generator=seeded(1))
        operator = measured(task, Picture("", "", 0, x)).linear
        physics = deepinv_physics(operator, 0.01)
        plain = azula_operator(operator)
        y = torch.randn(operator.forward(x).shape, generator=seeded(2))
        pulled = torch.func.vjp(plain, x.flatten(1))[1](y.flatten(1))[0].reshape(x.shape)  # as azula has A^T
        parts = {
            "ours": (operator.forward, operator.adjoint(y), operator.pinv, operator),
            "deepinv": (physics.A, physics.A_adjoint(y), physics.A_dagger, physics),
            "azula": (lambda x, plain=plain: plain(x.flatten(1)).reshape(y.shape), pulled, None, None),  # noqa: B023
        }
        for name, (A, adjoint, pinv, svd) in parts.items():
            image = A(x)
            row = {"task": task, "library": name, "A - ours": float((image - operator.forward(x)).abs().max())}
            row["adjoint"] = float(((image * y).sum() - (x * adjoint).sum()).abs() / (image.norm() * y.norm()))
            if isinstance(svd, SVDOperator) or hasattr(svd, "V"):
                v, vt = (svd.v, svd.vt) if name == "ours" else (svd.V, svd.V_adjoint)
                known = v(vt(x))  # V V^T leaves it as it is
                again = v(vt(known))
                row["V"] = float((again - known).norm() / known.norm())
            if pinv is not None:
                row["A A^+"] = float((A(pinv(image)) - image).norm() / image.norm())
            rows.append(row)
    return rows


Exact = Callable[[float, Callable[[Tensor, float], None]], Any]
EXACT: dict[str, Exact] = {
    "ours": OursExact,
    "deepinv": lambda g, record: Deepinv(deepinv_exact(g, record)),
    "azula": lambda g, record: Azula(lambda shape: azula_exact(g, record, shape)),
}


def exact_chain(
    library: str, method: str, s: float | None, y_bar: float, steps: int, count: int, g: float = G
) -> tuple[Tensor, list[tuple[Tensor, float]]]:
    """`count` results for independent coefficients of N(0, g^2), and all states with their levels, in VE form.

    y = s y_bar; without s, y = y_bar by an operator that leaves pictures as they are, with an SVD in a Fourier basis.
    """
    states: list[tuple[Tensor, float]] = []
    if s is None:
        side = int(sqrt(count))
        operator: Any = CircularBlur((1, side, side), torch.ones(1, 1))
        y = torch.full((1, 1, side, side), y_bar)
    else:
        operator = Scalar([s] * count + ([1.0] if s == 0 else []))  # libraries expect that something is measured
        y = y_bar * operator.singular_values.values.float()
    exact = EXACT[library](g, lambda x, sigma: states.append((x.flatten()[:count], sigma)))
    x = exact.ready(method, Problem(Measurement(y, operator, SIGMA_Y), SIGMA_Y, steps))()
    return x.flatten()[:count], states


def injected(
    states: Sequence[tuple[Tensor, float]], method: str, s: float | None, eta: float = 0.85
) -> dict[str, float]:
    """Mean over the steps of a state's variance over what the papers' rules give, by rule; for a prior without spread.

    A state at the level sigma' has the variance sigma'^2, but for DDRM's measured coefficients: sigma'^2 - r^2 where
    they are noisier than y, eta^2 sigma'^2 where they are less noisy.
    """
    ratios: dict[str, list[float]] = {}
    for x, sigma in states[1:]:
        rule, variance = "not measured" if s == 0 else "measured", sigma**2
        if method == "ddrm" and s != 0:
            r = SIGMA_Y / (s or 1)
            rule = ("noisier than y" if sigma >= r else "less noisy than y") + (", Fourier basis" if s is None else "")
            variance = sigma**2 - r**2 if sigma >= r else (eta * sigma) ** 2
        if variance > 1e-6:
            ratios.setdefault(rule, []).append(float(x.double().var()) / variance)
    return {rule: mean(of) for rule, of in ratios.items()}


def injected_rows(steps: int, count: int) -> list[dict[str, Any]]:
    rows = []
    for library, methods in {"ours": OURS, **PEERS}.items():
        for method in methods:
            by_rule: dict[str, list[float]] = {}
            cases: list[float | None] = [] if method == "dpir" else [*CASES.values()]  # DPIR draws no noise
            for s in [*cases, *([None] if method == "ddrm" else [])]:
                states = exact_chain(library, method, s, 0.0, steps, count, g=1e-4)[1]
                for rule, ratio in injected(states, method, s).items():
                    by_rule.setdefault(rule, []).append(ratio)
            rows += [
                {"library": library, "method": method, "rule": rule, "ratio": max(of, key=lambda r: abs(r - 1))}
                for rule, of in by_rule.items()
            ]
    return [{**row, "standard error": sqrt(2 / count)} for row in rows]


def posterior(s: float, y_bar: float = Y_BAR, g: float = G, sigma_y: float = SIGMA_Y) -> tuple[float, float]:
    """Mean and sd of x ~ N(0, g^2) given y = s x + sigma_y z, for y = s y_bar."""
    precision = 1 / g**2 + (s / sigma_y) ** 2
    return (s / sigma_y) ** 2 / precision * y_bar, precision**-0.5


def gaussian_errors(x: Tensor, s: float) -> list[float]:
    """Error of the mean in posterior sds and its standard error; variance over the posterior's and its own."""
    centre, sd = posterior(s)
    ratio = float(x.double().var()) / sd**2
    error = (float(x.double().mean()) - centre) / sd
    return [error, sqrt(ratio / len(x)), ratio, ratio * sqrt(2 / len(x))]


def gaussian_rows(steps: int, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for method in OURS:
        for library in ("ours", *(peer for peer, methods in PEERS.items() if method in methods)):
            row: dict[str, Any] = {"method": method, "library": library}
            for case, s in CASES.items():
                x, _ = exact_chain(library, method, s, Y_BAR, DPIR_STEPS if method == "dpir" else steps, count)
                row[case] = gaussian_errors(x, s)
            rows.append(row)
    return rows


def pair(values: Sequence[float] | None, form: str) -> str | None:
    return None if values is None else " / ".join(format(value, form) for value in values)


def figures_say(rows: Sequence[Mapping[str, Any]], needed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on time and memory, of the libraries' defaults."""
    said = []
    for peer in PEERS:
        of = [row for row in rows if row["peer"] == peer and "s" in row and not row["note"]]
        if of:
            outside, ratios = [row["overhead ratio"] for row in of], [row["ratio"][1] for row in of]
            said.append(
                f"Time outside the network, for each of its evaluations: ours is at most a third of {peer}'s in "
                f"{sum(ratio <= WANTED for ratio in outside)} of {len(of)} rows of defaults, less in "
                f"{sum(ratio < 1 for ratio in outside)}; the median ratio is {median(outside):.2f}."
            )
            said.append(
                f"Whole calls: ours takes {median(ratios):.2f} of {peer}'s time in the median of these rows "
                f"({min(ratios):.2f} to {max(ratios):.2f})."
            )
        memory = [row["ours"] / row[peer] for row in needed if row.get(peer)]
        if memory:
            said.append(
                f"Memory: ours needs {median(memory):.2f} of {peer}'s ({min(memory):.2f} to {max(memory):.2f})."
            )
    return said


def peers_better(
    rows: Sequence[Mapping[str, Any]], needed: Sequence[Mapping[str, Any]], exact: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Where a peer is better: by 0.1 dB, by 5 % of the time or of the memory, nearer to a Gaussian's posterior."""
    kinds = ("A higher PSNR", "Less time", "Less time outside the network", "Less memory", "Nearer to the posterior")
    psnrs, times, outside, memory, nearer = found = [], [], [], [], []
    for row in (row for row in rows if "s" in row):
        name = ", ".join(filter(None, (f"{row['peer']}'s {row['method']}", row["note"], row["task"])))
        (ours, theirs), (our_ms, their_ms) = row["PSNR"], row["overhead"]
        if theirs > ours + 0.1:
            psnrs.append(f"{name}: {theirs:.2f} dB against {ours:.2f}")
        if row["ratio"][1] > 1.05 and not row["note"]:
            times.append(f"{name}: {row['s'][1]:.2f} s against {row['s'][0]:.2f}")
        if our_ms > 1.05 * their_ms and not row["note"]:
            outside.append(f"{name}: {their_ms:.2f} ms against {our_ms:.2f}")
    for row in needed:
        for peer in PEERS:
            if row.get(peer) and row["ours"] > 1.05 * row[peer]:
                memory.append(f"{peer}'s {row['method']}: {row[peer]:.0f} MB against {row['ours']:.0f}")
    ours_exact = {row["method"]: row for row in exact if row["library"] == "ours"}
    for row in exact:
        for case in CASES if row["library"] in PEERS else ():
            theirs, ours = row[case], ours_exact[row["method"]][case]
            if distance(theirs) < 0.8 * distance(ours):
                figures = f"{theirs[0]:+.2f} / {theirs[2]:.3f} against {ours[0]:+.2f} / {ours[2]:.3f}"
                nearer.append(f"{row['library']}'s {row['method']}, {case}: {figures}")
    return [f"{kind}: {'; '.join(items)}." for kind, items in zip(kinds, found, strict=True) if items]


def distance(errors: Sequence[float]) -> float:
    """The Wasserstein distance of two Gaussians, in sds of the posterior, from what `gaussian_errors` gives."""
    return sqrt(errors[0] ** 2 + (sqrt(errors[2]) - 1) ** 2)


def faults(
    rows: Sequence[Mapping[str, Any]], exactness: Sequence[Mapping[str, Any]], noise: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What a user isn't told, of every library alike, ours included."""
    said = []
    for row in (row for row in rows if not row["note"]):
        for side, name in enumerate(("ours", row["peer"])):
            remark, call = row.get(f"{name} remark"), f"{name}, {row['method']}, {row['task']}"
            if remark:
                said.append(f"{call}: {remark}.")
            if "s" in row and row["sigma_y"] == 0 and row["misfit"][side] > 1e-3:
                said.append(f"{call}: y is exact, but A x - y is {row['misfit'][side]:.4f}.")
    for row in exactness:
        bad = {name: row[name] for name in ("adjoint", "V", "A A^+") if row.get(name, 0) > 1e-4}
        said += [f"{row['library']}, {row['task']}: {name} is wrong by {value:.1e}." for name, value in bad.items()]
    said += [
        f"{row['library']}'s {row['method']}, {row['rule']}: the states have {row['ratio']:.3f} of the noise variance "
        "that the paper's rule gives."
        for row in noise
        if abs(row["ratio"] - 1) > 5 * row["standard error"]
    ]
    return list(dict.fromkeys(said))


def to_markdown(run: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    rows, needed = data["rows"], data["memory"]
    parts = [
        "# Our methods beside those of deepinv and azula",
        f"One network, the same {run['pictures']} pictures and measurements, {run['steps']} steps (DPIR {DPIR_STEPS}), "
        "by turns; means of PSNR and misfit, medians of time. Pairs are ours / the peer's. `outside` is the share of "
        "the time that isn't spent in the network, forward or back; `overhead` the same in ms for each evaluation; "
        "`misfit` the root mean square of A x - y. What each library is given:",
        listed(f"{name}: {setting}." for name, setting in SETTINGS.items()),
        "So few steps of DPS aren't what its weights are made for; hence the rows with tuned ones. In pictures this "
        "small, what any library does beside the network is mostly Python and the start of some twenty operations; "
        "[overhead.md](overhead.md) has ours for larger ones, and what they are made of.",
        "## What the figures say",
        listed(figures_say(rows, needed)),
        "## What the peers do better",
        listed(peers_better(rows, needed, data["gaussian"])),
        "## What a user isn't told",
        listed(faults(rows, data["operators"], data["noise"])),
    ]
    for task in TASKS:
        table = [
            {
                **row,
                "evaluations": pair(row.get("evaluations"), ".0f"),
                "s": pair(row.get("s"), ".2f"),
                "ratio (min to max)": "{1:.2f} ({0:.2f} to {2:.2f})".format(*row["ratio"]) if "ratio" in row else None,
                "outside": pair(row.get("outside"), ".1%"),
                "overhead, ms": pair(row.get("overhead"), ".2f"),
                "PSNR": pair(row.get("PSNR"), ".2f"),
                "misfit": pair(row.get("misfit"), ".4f"),
                "remark": "; ".join(filter(None, (row.get(f"{name} remark") for name in ("ours", row["peer"])))),
            }
            for row in rows
            if row["task"] == task
        ]
        parts += [f"## {task[0].upper()}{task[1:]}", markdown_table(table, COLUMNS)]
    exact = [
        {**row, **{case: "{:+.2f} ± {:.2f} / {:.3f} ± {:.3f}".format(*row[case]) for case in CASES}}
        for row in data["gaussian"]
    ]
    closed = [{**row, "library": "ours, closed form"} for row in data["closed form"]]
    parts += [
        "## Memory\n\nMB that deblurring a picture takes more than one of 32 px, the most of three steps.",
        markdown_table(needed, {"method": "", **dict.fromkeys(("ours", *PEERS), ".0f")}),
        "## Operators\n\nIn float32: the largest difference to ours; <A x, y> - <x, A^T y> over |A x| |y|; what V V^T "
        "changes in V V^T x; A A^+ y - y over |y|. azula takes any function for A, and has A^T by autograd.",
        markdown_table(
            data["operators"],
            {"task": "", "library": "", **dict.fromkeys(("A - ours", "adjoint", "V", "A A^+"), ".0e")},
        ),
        "## Noise\n\nVariance of the states over that of the paper's rule, mean over the steps, for a denoiser that "
        "always says the same; of several cases the worst.",
        markdown_table(
            data["noise"], {"library": "", "method": "", "rule": "", "ratio": ".3f", "standard error": ".3f"}
        ),
        "## A Gaussian prior\n\nError of the mean in sds of the posterior / variance over that of the posterior, of "
        f"each library's own chain of {run['steps']} steps with the exact denoiser of N(0, g^2); y is that of 2 g, "
        f"without noise. 0 / 1 is a posterior sample, 0 / 0 its mean. g = {G}; DPS depends on the number of "
        f"coefficients, {run['coefficients']}. The closed form is that of methods.md, on 20 levels that end at "
        "0.02 instead of the default timesteps, with g = 0.5, prior_sd = g and more iterations.",
        markdown_table([*exact, *closed], dict.fromkeys(("method", "library", *CASES), "")),
        "## How it was run",
        listed(f"{name}: {value}" for name, value in run.items()),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "Nothing."


def pictures_for(args: argparse.Namespace) -> list[Picture]:
    """Of the test sets, or the bundled photograph where they aren't."""
    if (args.data / "set5.zip").is_file():
        return load_pictures(args.data, args.crop, args.limit)
    x = images.load(PHOTO).tensor
    return [Picture("bundled", PHOTO.stem, 0, centre(x, args.crop))]


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    enter_environment(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    model = str(args.model)
    pictures = pictures_for(args)
    libraries, clock = load_libraries(model)
    needed = memory_rows(libraries, OURS, args.pixels)  # first: no thread may be there when a process is copied
    cases = [(run, task) for task in TASKS for run in RUNS]
    rows = [
        compare(libraries, clock, run, task, pictures, args.steps)
        for run, task in tqdm(cases, desc="turns", leave=False)
    ]
    data = {
        "rows": rows,
        "memory": needed,
        "operators": operator_rows(args.crop // 8 * 8),
        "noise": injected_rows(args.steps, args.coefficients),
        "gaussian": gaussian_rows(args.steps, args.coefficients),
        "closed form": [row for row in gaussian() if row["method"] in OURS],
    }
    run_of = {
        **how_it_was_run("benchmarks/peers.py", argv),
        **{name: importlib.metadata.version(name) for name in (*PEERS, "torchvision")},
        "network (SHA-256)": network_hash(model),
        "dtype": "float32",
        "pictures": f"{len(pictures)} of {args.crop} px",
        "steps": args.steps,
        "memory's picture": f"{args.pixels} px",
        "coefficients": args.coefficients,
    }
    text = to_markdown(run_of, data)
    print(text)
    if not args.quick:
        print("written: " + ", ".join(map(str, write_report(args.output, {"run": run_of, **data}, text))))


if __name__ == "__main__":
    main()
