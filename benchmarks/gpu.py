#!/usr/bin/env python3
"""Measure what only a GPU decides, in one call of a few minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts precision batches --minutes 3

Parts run in the order of `PARTS`. Each row is written to benchmarks/results/gpu.{json,md} as soon as it is measured, so
that a kill loses nothing; what the budget left out is listed. Times are medians by CUDA events after a warm-up; memory
is torch's peak. Without a card, or with --quick, everything runs at toy size and goes to build/gpu_toy.{json,md}: those
figures only show that the script runs.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.utils import logging
from torch import Tensor
from training import write_photos

import diffusers_restore
from diffusers_restore import DDRMPipeline, OldPhotoVAE, cli, operators
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.registries import METHODS
from diffusers_restore.schedulers.scheduling_ddrm import ddrm_update
from diffusers_restore.training import running
from diffusers_restore.training.processes import make_accelerator
from diffusers_restore.training.state import make_state
from diffusers_restore.training.step import corrupted_batches, optimizer_step

ROOT = Path(__file__).parents[1]
RESULTS, TOYS = ROOT / "benchmarks" / "results", ROOT / "build"
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
STEPS = 20  # of the chains that pictures/s are given for

# The configuration of google/ddpm-celebahq-256, whose weights aren't needed for its speed.
CELEBAHQ: dict[str, Any] = {
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
    "layers_per_block": 2,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


# Options of `diffusers-restore train` on a card, and those that make a toy of it.
NARROW: dict[str, Any] = {"block_out_channels": "8,8"}
SMALL_GAN = {"discriminator_channels": 2, "resolution": 96}
TRAINERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prior": ({"network": "residual", "train_batch_size": 128}, NARROW),
    "cold": ({"degradation": "blur", "train_batch_size": 128}, NARROW),
    "rddm": ({"network": "residual", "recipe": "blind", "train_batch_size": 64}, NARROW),
    "pix2pix": (
        {"task": "colorize", "resolution": 256, "train_batch_size": 32},
        {"generator": "resnet_6", "generator_channels": 4, **SMALL_GAN},
    ),
    "old-photo-detector": ({"train_batch_size": 32}, NARROW),
    "old-photo-vae": (
        {"recipe": "old_photo_full", "resolution": 256, "train_batch_size": 16},
        {"block_out_channels": "4,4", "num_blocks": 1, **SMALL_GAN},
    ),
    "old-photo-mapping": (
        {"attention": "partial", "resolution": 256, "train_batch_size": 16},
        {"mapping_channels": "8,8", "num_blocks": 2, **SMALL_GAN},
    ),
}


class OutOfTime(BaseException):
    """The budget ended within a measurement; no `except Exception` on the way may take it."""


@dataclass(frozen=True)
class Settings:
    """Where and how much is measured."""

    device: torch.device
    toy: bool
    seconds: float

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def repeats(self) -> int:
        return 1 if self.toy else 5

    def pick(self, full: Sequence[Any], toy: Sequence[Any]) -> Sequence[Any]:
        return toy if self.toy else full


Row = dict[str, Any]
Case = tuple[Row, Callable[[], Row]]
"""What is measured, and the function that measures it."""


# --- clocks ----------------------------------------------------------------------------------------------------------


def mark(device: torch.device) -> Any:
    """A point in time on the device."""
    if device.type != "cuda":
        return perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Any, end: Any) -> float:
    """Milliseconds; of a GPU once it is synchronised."""
    return 1000 * (end - start) if isinstance(start, float) else float(start.elapsed_time(end))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(work: Callable[[], object], on: Settings, warm: int = 2) -> float:
    """The median time of `work`, which is called a few times before."""
    for _ in range(1 if on.toy else warm):
        work()
    found = []
    for _ in range(on.repeats):
        wait(on.device)
        start = mark(on.device)
        work()
        end = mark(on.device)
        wait(on.device)
        found.append(between(start, end))
    return median(found)


class Watched:
    """A network whose evaluations are timed where they stand, without waiting for them."""

    def __init__(self, network: Any, device: torch.device) -> None:
        self._forward, self._device, self.marks = network.forward, device, []
        network.forward = self

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        start = mark(self._device)
        made = self._forward(*inputs, **options)
        self.marks.append((start, mark(self._device)))
        return made


def peak(on: Settings) -> float | None:
    """The most memory that tensors took since the last reset, in MB."""
    return torch.cuda.max_memory_allocated(on.device) / 1e6 if on.cuda else None


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [one.allow_tf32 for one in backends]
    try:
        for one in backends:
            one.allow_tf32 = wanted
        yield
    finally:
        for one, value in zip(backends, before, strict=True):
            one.allow_tf32 = value


def decibels(x: Tensor, wanted: Tensor) -> float:
    """PSNR of pictures in [-1, 1]."""
    return float(10 * torch.log10(4 / (x.float().cpu() - wanted).square().mean().clamp_min(1e-12)))


# --- chains ----------------------------------------------------------------------------------------------------------


@cache
def prior() -> Any:
    return DDRMPipeline.from_pretrained(diffusers_restore.DEFAULT_PRIOR)


def pipeline(on: Settings, dtype: torch.dtype, layout: str = "contiguous") -> Any:
    """A copy of the bundled prior."""
    made = copy.deepcopy(prior()).to(on.device, dtype)
    made.unet.to(memory_format=LAYOUTS[layout])
    made.set_progress_bar_config(disable=True)
    return made


def chain_row(call: Callable[[], object], watched: Watched, batch: int, on: Settings) -> Row:
    """Time and memory of a chain; a step is the time from one evaluation of the network to the next."""

    def work() -> None:
        watched.marks.clear()
        call()

    total = milliseconds(work, on, warm=1)
    count, starts = len(watched.marks), [start for start, _ in watched.marks]
    step = between(starts[0], starts[-1]) / (count - 1)
    return {
        "ms/step": step,
        "outside the network, ms/step": step - fmean(between(*pair) for pair in watched.marks[:-1]),
        f"pictures/s, {STEPS} steps": 1000 * batch / (total + (STEPS - count) * step),
        "peak, MB": peak(on),
    }


def restoring(pipe: Any, given: Row, on: Settings, seeds: str = "device") -> tuple[Row, Tensor]:
    """The row of a restoration by DDRM, and what it made."""
    made: list[Tensor] = []

    def call() -> None:
        generator = torch.Generator("cpu" if seeds == "cpu" else on.device).manual_seed(0)
        made[:] = [pipe(**given, generator=generator, output_type="latent").images]

    row = chain_row(call, Watched(pipe.unet, on.device), len(given["image"]), on)
    return row, made[0]


def task(name: str, pixels: int, batch: int, steps: int, on: Settings) -> Row:
    """Arguments of a call that restores random pictures, which lie on the device."""
    operator = operators.create(name, image_shape=(3, pixels, pixels))
    clean = torch.rand(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(1)) * 2 - 1
    y = operators.measure(operator, clean, 0.05, torch.Generator().manual_seed(2)).y
    return {"image": y.to(on.device), "operator": operator, "sigma_y": 0.05, "num_inference_steps": steps}


def precision(on: Settings) -> Iterator[Case]:
    (pixels,), (batch,), (steps,) = (on.pick(*pair) for pair in (((256,), (32,)), ((4,), (1,)), ((20,), (2,))))
    reference: list[Tensor] = []

    def measure(dtype: torch.dtype, fast: bool, layout: str) -> Row:
        with tf32(fast):
            given = task("sr4", pixels, batch, steps, on)
            row, made = restoring(pipeline(on, dtype, layout), given, on, seeds="cpu")
        if not fast and not reference:
            reference.append(made.cpu())
        return row | {"PSNR to float32, dB": decibels(made, reference[0]) if reference else None}

    kinds = {"float32": (torch.float32, False), "float32 with TF32": (torch.float32, True)}
    kinds |= {name: (dtype, True) for name, dtype in HALVES.items()}
    for (name, kind), layout in itertools.product(kinds.items(), LAYOUTS):
        labels = {"precision": name, "layout": layout, "pixels": pixels, "batch": batch}
        yield labels, partial(measure, *kind, layout)


def batches(on: Settings) -> Iterator[Case]:
    sizes, counts = on.pick((64, 128, 256, 512), (16, 32)), on.pick((1, 4, 16, 64), (1, 2))
    steps = on.pick((5,), (2,))[0]
    cases = [(pixels, count, "device") for pixels in sizes for count in counts]
    cases.append((sizes[-1], counts[-2], "cpu"))  # as the command line draws

    def measure(pixels: int, count: int, seeds: str) -> Row:
        return restoring(pipeline(on, torch.bfloat16), task("sr4", pixels, count, steps, on), on, seeds)[0]

    for case in cases:
        yield dict(zip(("pixels", "batch", "noise drawn on"), case, strict=True)), partial(measure, *case)


@cache
def celebahq(toy: bool) -> UNet2DModel:
    """That network with random weights."""
    small = {"block_out_channels": (32,) * 6, "sample_size": 64} if toy else {}
    return UNet2DModel(**CELEBAHQ | small).eval()


def hub(on: Settings) -> Iterator[Case]:
    steps = on.pick((6,), (2,))[0]

    def measure(kind: str, half: str, batch: int) -> Row:
        unet, scheduler = copy.deepcopy(celebahq(on.toy)).to(on.device, HALVES[half]), DDPMScheduler()
        side = unet.config.sample_size
        if kind == "DDRM":
            pipe = DDRMPipeline(unet, scheduler)
            pipe.set_progress_bar_config(disable=True)
            return restoring(pipe, task("sr4", side, batch, steps, on), on)[0]

        def call() -> None:
            x = torch.randn(batch, 3, side, side, device=on.device, dtype=unet.dtype)
            scheduler.set_timesteps(steps, device=on.device)
            for t in scheduler.timesteps:
                x = scheduler.step(unet(x, t).sample, t, x).prev_sample

        return chain_row(call, Watched(unet, on.device), batch, on)

    halves = on.pick(tuple(HALVES), ("bfloat16",))
    for batch, kind, half in itertools.product(on.pick((1, 4, 16), (1,)), ("DDRM", "DDPM of diffusers"), halves):
        yield {"sampler": kind, "precision": half, "batch": batch}, partial(measure, kind, half, batch)


# --- compiled --------------------------------------------------------------------------------------------------------


def graphed(network: Any, *given: Tensor) -> Callable[..., Tensor]:
    """A network without gradients as a CUDA graph for inputs of these shapes."""
    held = [one.clone() for one in given]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            network(*held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = network(*held)

    def replay(*inputs: Tensor) -> Tensor:
        for own, one in zip(held, inputs, strict=True):
            own.copy_(one)
        graph.replay()
        return made

    return replay


def compiled(on: Settings) -> Iterator[Case]:
    options: Row = {"backend": "eager"} if on.toy else {"dynamic": False}  # a toy needs no compiler
    ways: dict[str, Callable[..., Any]] = {
        "as written": lambda function, *given: function,
        "CUDA graph": graphed,
        "torch.compile": lambda function, *given: torch.compile(function, **options),
        "torch.compile, reduce-overhead": lambda function, *given: torch.compile(
            function, **options if on.toy else options | {"mode": "reduce-overhead"}
        ),
    }
    as_written: dict[str, float] = {}

    def measure(what: str, way: str, function: Callable[..., Tensor], *given: Tensor) -> Row:
        torch.compiler.reset()
        wanted = function(*given).float().cpu()
        begun = perf_counter()
        faster = ways[way](function, *given)
        made = faster(*given).float().cpu()
        wait(on.device)
        seconds = perf_counter() - begun
        ms = milliseconds(lambda: faster(*given), on, warm=3)
        if way == "as written":
            as_written[what] = ms
        speed_up = as_written[what] / ms if what in as_written else None
        return {"ms": ms, "speed-up": speed_up, "first call, s": seconds, "PSNR, dB": decibels(made, wanted)}

    def network(batch: int, pixels: int, way: str) -> Row:
        unet = pipeline(on, torch.bfloat16).unet
        x = torch.randn(batch, 3, pixels, pixels, device=on.device, dtype=torch.bfloat16)
        t = torch.full((batch,), 300, device=on.device)
        return measure(f"{batch}x{pixels}", way, lambda x, t: unet(x, t, return_dict=False)[0], x, t)

    def update(name: str, pixels: int, way: str) -> Row:
        operator = operators.create(name, image_shape=(3, pixels, pixels))
        x, z, noise = torch.randn(3, 1, 3, pixels, pixels, device=on.device)
        measurement = operators.measure(operator, x.clamp(-1, 1), 0.05)
        return measure(name, way, lambda x, z, noise: ddrm_update(x, z, noise, measurement, 0.5), x, z, noise)

    for (batch, pixels), way in itertools.product(on.pick(((1, 256), (16, 256)), ((1, 16),)), ways):
        labels = {"what": "network, bfloat16", "batch": batch, "pixels": pixels, "way": way}
        if on.cuda or way != "CUDA graph":
            yield labels, partial(network, batch, pixels, way)
    for name, way in itertools.product(("sr4", "inpaint-random"), list(ways)[::2]):
        pixels = on.pick((512,), (16,))[0]
        labels = {"what": f"update, {name}", "batch": 1, "pixels": pixels, "way": way}
        yield labels, partial(update, name, pixels, way)


# --- training --------------------------------------------------------------------------------------------------------


class Captured(Exception):  # noqa: N818  # no error
    """What a command would train: the arguments of `training.loop.train`."""


def captured(name: str, values: Row, folder: Path, toy: bool) -> tuple[Any, ...]:
    """(objective, networks, data, optimizers, config of the loop) of a command, which doesn't begin to train."""

    def stop(*given: Any, **more: Any) -> None:
        raise Captured(*given)

    full, small = TRAINERS[name]
    values = {"resolution": 128} | values | full | ({"resolution": 32, **small, "train_batch_size": 2} if toy else {})
    values |= {"train_data_dir": folder / "photos", "output_dir": folder / "out", "logger": "none"}
    if name == "old-photo-mapping":
        OldPhotoVAE(**{"block_out_channels": (4, 4, 4), "num_blocks": 1} if toy else {}).save_pretrained(folder / "vae")
        values |= {"vae_degraded": folder / "vae", "vae_clean": folder / "vae"}
    words = itertools.chain.from_iterable((f"--{option}", str(value)) for option, value in values.items())
    with patch.object(running, "train", stop):
        try:
            cli.main(["train", name, *words], standalone_mode=False)
        except Captured as found:
            return found.args
    raise RuntimeError(f"train {name} ended without training")


@contextlib.contextmanager
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one precision for a process, and the next trainer may have another."""
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def prepared(name: str, half: str, on: Settings) -> Iterator[tuple[Callable[[], object], Callable[[], float], Row]]:
    """A step of a trainer on pictures that lie ready, the loader's pictures per second, and what it is."""
    with fresh_accelerate(), tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "photos").mkdir()
        write_photos(Path(scratch) / "photos", 4 if on.toy else 16)
        workers = 0 if on.toy else min(8, os.cpu_count() or 1)
        values = {"mixed_precision": half, "dataloader_num_workers": workers, "validation_images": 0}
        objective, networks, data, optimizers, config = captured(name, values, Path(scratch), on.toy)
        accelerator = make_accelerator(config)
        state = make_state(accelerator, objective, networks, optimizers, config)
        size = config.train_batch_size
        with closing(data.batches(batch_size=size, accumulation=1, rank=0, world_size=1, first_step=0)) as loader:
            ready = next(loader)

            def step() -> object:
                corrupted = corrupted_batches(objective, itertools.repeat(ready), accelerator, config, 0)
                given = (state.wrapped, state.stepped, corrupted, config, 0, state.copies)
                losses = optimizer_step(accelerator, objective, *given)
                state.update_averages()
                return losses

            def rate() -> float:
                for _ in range(2 * workers):  # batches that were made while the steps ran
                    next(loader)
                count, begun = 2 + workers, perf_counter()
                for _ in range(count):
                    next(loader)
                return count * size / (perf_counter() - begun)

            parameters = sum(p.numel() for one in state.trained.values() for p in one.parameters())
            yield step, rate, {"parameters": parameters, "pixels": ready[0].shape[-1], "batch": size}


def training(on: Settings) -> Iterator[Case]:
    def measure(name: str, half: str) -> Row:
        with torch.enable_grad(), prepared(name, half, on) as (step, rate, what):
            ms = milliseconds(step, on, warm=3)
            row = {"ms/step": ms, "pictures/s": 1000 * what["batch"] / ms, "peak, MB": peak(on)}
            return what | row | {"loader, pictures/s": rate()}

    for name, half in itertools.product(TRAINERS, on.pick(("bf16", "fp16"), ("bf16",))):
        yield {"trainer": name, "precision": half}, partial(measure, name, half)


# --- waits and tests -------------------------------------------------------------------------------------------------


def waits(work: Callable[[], object]) -> tuple[int, dict[str, int]]:
    """How often the CPU waits for the GPU within `work`, and at which lines."""
    lines: dict[str, int] = {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one in seen:
        if "called a synchronizing" in str(one.message):
            place = re.sub(r".*/(diffusers_restore|site-packages)/", "", f"{one.filename}:{one.lineno}")
            lines[place] = lines.get(place, 0) + 1
    return sum(lines.values()), lines


def syncs(on: Settings) -> Iterator[Case]:
    """By the difference of chains of 4 and of 8 steps: what is done once doesn't count."""

    def method(name: str) -> Row:
        pipe = pipeline(on, torch.bfloat16)
        pipe.scheduler = METHODS[name].from_config(pipe.scheduler.config)

        def call(timesteps: list[int]) -> None:
            generator = torch.Generator(on.device).manual_seed(0)
            given = task("sr4", 64, 2, 1, on) | {"num_inference_steps": None, "timesteps": timesteps}
            pipe(**given, generator=generator, output_type="latent")

        long = list(range(700, 60, -80))
        call(long)
        few, many = waits(lambda: call(long[::2])), waits(lambda: call(long))
        more = {line: count - few[1].get(line, 0) for line, count in many[1].items()}
        return {"waits/step": (many[0] - few[0]) / 4, "where": ", ".join(line for line, n in more.items() if n > 0)}

    def trainer(name: str) -> Row:
        with torch.enable_grad(), prepared(name, "bf16", on) as (step, _, _):
            step()
            count, lines = waits(step)
            return {"waits/step": float(count), "where": ", ".join(lines)}

    kinds = [(f"step of {name}", partial(method, name)) for name in METHODS]
    kinds += [(f"training step of {name}", partial(trainer, name)) for name in TRAINERS]
    for what, measure in kinds if on.cuda else ():
        yield {"what": what}, measure
    if not on.cuda:
        yield {"what": "all steps"}, lambda: {"note": "CUDA counts them; without a card, tests/test_cuda.py does"}


def tests(on: Settings) -> Iterator[Case]:
    def measure() -> Row:
        # A warning of a library on a card is no failure here.
        words = ["-m", "pytest", "tests/test_cuda.py", "-m", "cuda", "-n", "4" if on.cuda else "0", "-W", "default"]
        begun = perf_counter()
        run = subprocess.run([sys.executable, *words], cwd=ROOT, text=True, capture_output=True, timeout=on.seconds / 3)
        *lines, last = run.stdout.splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        return counts(last) | {"s": perf_counter() - begun, "note": "; ".join(failed)}

    yield {"what": "pytest tests/test_cuda.py -m cuda"}, measure


def counts(line: str) -> dict[str, int]:
    """The numbers of pytest's last line."""
    return {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)", line)}


# --- the report ------------------------------------------------------------------------------------------------------


PARTS: dict[str, tuple[Callable[[Settings], Iterator[Case]], str]] = {
    "tests": (tests, "Tests that need a card"),
    "syncs": (syncs, "Waits for the card in a step. Wanted: none"),
    "precision": (precision, "Precision of the bundled prior: DDRM, sr4, the same noise from the CPU"),
    "batches": (batches, "Batches and sizes: the bundled prior in bfloat16, DDRM, sr4"),
    "hub": (hub, "The network of google/ddpm-celebahq-256, with random weights"),
    "training": (training, "Training steps on pictures that lie ready, and the loader alone"),
    "compiled": (compiled, "Compiled, and as CUDA graphs"),
}
FINE = ("speed-up", "waits/step", "ms", "ms/step", "outside the network, ms/step")


def to_markdown(run: Row, rows: Mapping[str, Sequence[Row]], left: Sequence[str]) -> str:
    def form(column: str, own: Sequence[Row]) -> str:
        kinds = {type(row[column]) for row in own if row.get(column) is not None}
        return "" if not kinds or str in kinds else ".2f" if column in FINE else ".1f" if float in kinds else "d"

    parts = [f"# {run['title']}"]
    for name, own in rows.items():
        columns = dict.fromkeys(column for row in own for column in row)
        parts += [f"## {PARTS[name][1]}", markdown_table(own, {column: form(column, own) for column in columns})]
    if left:
        parts += ["## Left out by the budget", "\n".join(f"- {one}" for one in left)]
    parts += ["## How it was run", "\n".join(f"- {name}: {value}" for name, value in run.items() if name != "title")]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def measured(labels: Row, measure: Callable[[], Row], on: Settings) -> Row:
    """The row; if it can't be measured, with a note that says why."""
    if on.cuda:
        torch.cuda.reset_peak_memory_stats(on.device)
    try:
        return labels | measure()
    except torch.OutOfMemoryError:
        return labels | {"note": "doesn't fit"}
    except Exception as error:  # the other rows matter more
        return labels | {"note": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    finally:
        gc.collect()
        if on.cuda:
            torch.cuda.empty_cache()


def run_parts(names: Sequence[str], on: Settings, write: Callable[[dict[str, list[Row]], list[str]], None]) -> None:
    """Measure, and `write` all rows after each; what the budget leaves out is listed, too."""
    end = perf_counter() + on.seconds
    rows: dict[str, list[Row]] = {}
    left: list[str] = []
    for name in names:
        for labels, measure in PARTS[name][0](on):
            try:
                if perf_counter() >= end:
                    raise OutOfTime
                signal.setitimer(signal.ITIMER_REAL, max(0.01, end - perf_counter()))
                rows.setdefault(name, []).append(measured(labels, measure, on))
                print(name, rows[name][-1], flush=True)
            except OutOfTime:
                left.append(f"{name}: " + ", ".join(map(str, labels.values())))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            write(rows, left)


def _alarm(number: int, frame: object) -> None:
    raise OutOfTime


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8.0, help="the budget")
    parser.add_argument("--quick", action="store_true", help="at toy size: does it run?")
    parser.add_argument("--output", type=Path, help="result files, without their suffix")
    args = parser.parse_args(argv)
    args.toy = args.quick or not torch.cuda.is_available()
    args.output = args.output or (TOYS / "gpu_toy" if args.toy else RESULTS / "gpu")
    if args.toy and args.output.resolve() == (RESULTS / "gpu").resolve():
        parser.error("--output: figures of a toy don't go to benchmarks/results/gpu, which is for those of a card")
    return args


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    cuda = torch.cuda.is_available()
    card = torch.cuda.get_device_name() if cuda else "no GPU, but a CPU"
    title = f"A toy's figures, which say nothing about a GPU ({card})" if args.toy else f"What a GPU decides: {card}"
    begun = perf_counter()
    run: Row = {"title": title, **how_it_was_run("benchmarks/gpu.py", argv), "CUDA": torch.version.cuda}

    def write(rows: dict[str, list[Row]], left: list[str]) -> None:
        run["minutes"] = round((perf_counter() - begun) / 60, 2)
        write_report(args.output, {"run": run, "rows": rows, "left out": left}, to_markdown(run, rows, left))

    before = signal.signal(signal.SIGALRM, _alarm)
    try:
        run_parts(args.parts, Settings(torch.device("cuda" if cuda else "cpu"), args.toy, 60 * args.minutes), write)
    finally:
        signal.signal(signal.SIGALRM, before)
    print(args.output.with_suffix(".md"))


if __name__ == "__main__":
    main()
