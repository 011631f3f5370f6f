#!/usr/bin/env python3
"""Measure degradations of a batch, each picture at its own severity, against plain loops over the severities.

    python benchmarks/degradations.py

The loop is what the formulas say: all T steps of the whole batch one after another, as padded depthwise convolutions,
products with masks or resizes, and each picture kept at its severity; for snow, the layer of flakes at every severity.
Ours is one call, its tables made before. Both are checked to be the same, and timed by turns on one thread; medians.
A wanted ratio is that of a measurement elsewhere; a third of it must be reached.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from diffusers_restore.degradations import Blur, Degradation, Fade, Pixelate, Snow, State
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report

BATCH = 32
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Setting:
    """One row: `wanted` are the milliseconds of loop and call in the measurement elsewhere; a slow loop runs once."""

    name: str
    degradation: Degradation
    channels: int
    size: int
    wanted: tuple[float, float]
    slow: bool = False


SETTINGS = (
    Setting("blur, 11 taps, constant, circular", Blur(20), 1, 32, (28.8, 0.10)),
    Setting(
        "blur, 11 taps, linear, reflect",
        Blur(50, std=0.35, schedule="linear", growth=0.01, border="reflect"),
        3,
        32,
        (91.9, 0.28),
    ),
    Setting(
        "blur, 15 taps, exponential, reflect",
        Blur(200, taps=15, std=1.0, schedule="exponential", growth=0.01, border="reflect"),
        3,
        128,
        (13100, 13.9),
        slow=True,
    ),
    Setting(
        "blur, 27 taps, exponential, circular",
        Blur(300, taps=27, std=1.0, schedule="exponential", growth=0.01),
        3,
        128,
        (48500, 13.6),
        slow=True,
    ),
    Setting("fade, window at random", Fade(50, init=11), 3, 32, (25.8, 0.19)),
    Setting("pixelate, bicubic, halved", Pixelate(3), 3, 32, (1.3, 0.29)),
    Setting("snow, level 3", Snow(200), 3, 32, (116, 3.4)),
)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="of a fast loop; ours is repeated at least as often")
    parser.add_argument("--quick", action="store_true", help="few severities, few repetitions: does it run?")
    parser.add_argument("--output", type=Path, default=RESULTS / "degradations", help="result files, without suffix")
    return parser.parse_args(argv)


Loop = Callable[[], Tensor]


def picked(x: Tensor, t: Tensor, step: Callable[[Tensor, int], Tensor], steps: int) -> Tensor:
    """Apply all the steps to the whole batch; each picture as it is after its t."""
    result = x.clone()
    for i in range(steps):
        x = step(x, i)
        result = torch.where((t == i + 1).reshape(-1, 1, 1, 1), x, result)
    return result


def blur_loop(blur: Blur, x: Tensor, t: Tensor) -> Loop:
    channels, taps = x.shape[1], blur.taps
    lines = blur.kernels().float()
    kernels = [torch.outer(line, line).expand(channels, 1, taps, taps).contiguous() for line in lines]

    def step(x: Tensor, i: int) -> Tensor:
        return functional.conv2d(functional.pad(x, (taps // 2,) * 4, mode=blur.border), kernels[i], groups=channels)

    return lambda: picked(x, t, step, blur.num_timesteps)


def fade_loop(fade: Fade, x: Tensor, t: Tensor, state: State) -> Loop:
    n = x.shape[2]
    square = (torch.arange(2 * n) - (2 * n - 1) // 2).square()
    canvases = [
        1 - torch.exp(-(square[:, None] + square) / (2 * (fade.std * (i + fade.init)) ** 2))
        for i in range(fade.num_timesteps)
    ]
    offsets = state["offset"].tolist()

    def step(x: Tensor, i: int) -> Tensor:
        windows = [canvases[i][row : row + n, column : column + n] for row, column in offsets]
        return x * torch.stack(windows)[:, None]

    return lambda: picked(x, t, step, fade.num_timesteps)


def pixelate_loop(pixelate: Pixelate, x: Tensor, t: Tensor) -> Loop:
    n = x.shape[2]

    def step(x: Tensor, i: int) -> Tensor:
        small = functional.interpolate(x, size=n // 2 ** (i + 1), mode=pixelate.mode)
        return functional.interpolate(small, size=n, mode="nearest")

    return lambda: picked(x, t, step, pixelate.num_timesteps)


def snow_loop(snow: Snow, x: Tensor, t: Tensor, state: State) -> Loop:
    flakes, vertical = state["flakes"], state["vertical"].reshape(-1, 1, 1, 1)
    turned = torch.where(vertical, flakes.mT, flakes)  # square pictures: columns are rows of what is turned
    last = snow.num_timesteps

    def between(first: float, end: float, i: int) -> float:
        return first + (end - first) * i / (last - 1)

    stds = torch.tensor([[between(0.05, 16.0, i)] for i in range(last)])
    kernels = torch.softmax(-((torch.arange(11) - 5) ** 2) / (2 * stds**2), dim=1).reshape(last, 1, 1, 1, 11)

    def layer(_: Tensor, i: int) -> Tensor:
        kept = torch.where(turned < between(1.15, 0.7, i), 0, turned).clamp(0, 1)
        return functional.conv2d(functional.pad(kept, (5, 5, 0, 0)), kernels[i])

    def run() -> Tensor:
        layers = picked(torch.zeros_like(turned), t, layer, last)
        layers = torch.where(vertical, layers.mT, layers)
        light = (x + 1) / 2
        grey = (light * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        b = torch.tensor([between(0.95, 0.4, int(s) - 1) for s in t]).reshape(-1, 1, 1, 1)
        light = b * light + (1 - b) * torch.maximum(light, 1.5 * grey + 0.5)
        return torch.where(t.reshape(-1, 1, 1, 1) == 0, x, (light + layers + layers.flip(2, 3)).clamp(0, 1) * 2 - 1)

    return run


def loop_of(degradation: Degradation, x: Tensor, t: Tensor, state: State) -> Loop:
    match degradation:
        case Blur():
            return blur_loop(degradation, x, t)
        case Fade():
            return fade_loop(degradation, x, t, state)
        case Pixelate():
            return pixelate_loop(degradation, x, t)
        case Snow(level=3, fix_brightness=False):
            return snow_loop(degradation, x, t, state)
        case _:
            raise NotImplementedError(f"no loop is written for {degradation!r}")


def timed(work: Loop) -> tuple[Tensor, float]:
    """The result, and the milliseconds that it took."""
    started = perf_counter()
    result = work()
    return result, 1000 * (perf_counter() - started)


def row(setting: Setting, repeats: int) -> dict[str, Any]:
    degradation = setting.degradation
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, setting.channels, setting.size, setting.size, generator=generator) * 2 - 1
    t = torch.randint(degradation.num_timesteps + 1, (BATCH,), generator=generator)
    state = degradation.sample_state(x, generator)
    # One pixel less takes the same way with tables of its own: what the first call of ours has more is its tables.
    smaller = x[:, :, 1:, 1:]
    degradation(smaller, t, degradation.sample_state(smaller, generator))
    ours, first = timed(lambda: degradation(x, t, state))
    loop = loop_of(degradation, x, t, state)
    if not setting.slow:
        loop()
    loops, calls = [], []
    for _ in range(1 if setting.slow else repeats):
        plain, milliseconds = timed(loop)
        loops.append(milliseconds)
        calls += [timed(lambda: degradation(x, t, state))[1] for _ in range(repeats if setting.slow else 3)]
    loop_ms, ours_ms = median(loops), median(calls)
    ratio, wanted = loop_ms / ours_ms, setting.wanted[0] / setting.wanted[1]
    return {
        "degradation": setting.name,
        "pixels": setting.size,
        "channels": setting.channels,
        "T": degradation.num_timesteps,
        "loop ms": loop_ms,
        "ours ms": ours_ms,
        "ratio": ratio,
        "wanted": wanted,
        "a third": "yes" if ratio >= wanted / 3 else "no",
        "tables ms": max(0.0, first - ours_ms),
        "largest difference": float((plain - ours).abs().max()),
    }


def to_markdown(run: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    digits = {"loop ms": ".1f", "ours ms": ".2f", "ratio": ".0f", "wanted": ".0f", "tables ms": ".1f"}
    formats = {
        name: digits.get(name, ".1e" if isinstance(value, float) else "d" if isinstance(value, int) else "")
        for name, value in rows[0].items()
    }
    return "\n".join(
        [
            "# Degradations of a batch, each picture at its own severity\n",
            f"{BATCH} pictures, severities at random, one thread. `loop` applies all T steps to the whole batch one "
            "after another and keeps each picture at its severity; `ours` is one call, and `tables` is what the first "
            "call takes more. `wanted` is the ratio of a measurement elsewhere, of which a third must be reached. "
            "Pictures are in [-1, 1]. The slow loops, of 128 pixels, run once.\n",
            markdown_table(rows, formats),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )


def shortened(setting: Setting) -> Setting:
    steps = min(4, setting.degradation.num_timesteps)
    return replace(setting, degradation=replace(setting.degradation, num_timesteps=steps), size=min(32, setting.size))


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = [shortened(setting) for setting in SETTINGS] if args.quick else SETTINGS
        repeats = 1 if args.quick else args.repeats
        rows = [row(setting, repeats) for setting in tqdm(settings, desc="degradations", leave=False)]
        run = {**how_it_was_run("benchmarks/degradations.py", argv), "dtype": "float32", "repeats": repeats}
    finally:
        torch.set_num_threads(threads)
    text = to_markdown(run, rows)
    written = write_report(args.output, {"run": run, "degradations": rows}, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main()
