#!/usr/bin/env python3
"""Make docs/performance.md, and its curves, of what the benchmarks have measured.

    python benchmarks/performance.py

It reads benchmarks/results/*.json and measures nothing; each section names the command that measures it anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from diffusers_restore.evaluation.report import markdown_table
from diffusers_restore.files import write_bytes, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
CURVES = ROOT / "docs" / "images"

Rows = Sequence[Mapping[str, Any]]

_LITTLE = 50.0
"""MB that aren't worth a logarithm."""


def range_of(rows: Rows, name: str, form: str = ".2f") -> str:
    """The least and the largest value of a column."""
    values = [row[name] for row in rows]
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def beside_the_network(data: Mapping[str, Any]) -> str:
    calls, updates = data["calls"], data["updates"]
    lines = []
    for dtype in dict.fromkeys(row["dtype"] for row in calls):
        for pixels in dict.fromkeys(row["pixels"] for row in calls):
            some = [row for row in calls if (row["dtype"], row["pixels"]) == (dtype, pixels)]
            most = max(some, key=lambda row: row["ratio"])
            lines.append(
                {
                    "network": f"{dtype}, {pixels} px",
                    "network, ms": f"{range_of(some, 'network ms', '.0f')}",
                    "rest, ms per step": range_of(some, "rest ms"),
                    "call / network": range_of(some, "ratio", ".3f"),
                    "wanted": f"{some[0]['wanted']:.2f}",
                    "most": most["task"],
                }
            )
    met = sum(row["ratio"] <= row["wanted"] for row in updates)
    compiled = data["compiled"]
    text = (
        "Nine tasks of DDRM and RDDM. An update of DDRM without its network, noise included, is within what is wanted "
        f"of its floor (1.3 times drawing the noise, one pass and one transform there and back; 2 for dense "
        f"transforms) in {met} of {len(updates)} cases; [the table](../benchmarks/results/overhead.md) says which, "
        "and why the others aren't."
    )
    if compiled:
        text += (
            f" `torch.compile` makes updates {range_of(compiled, 'compiled / eager')} times as long on this CPU"
            ": the package doesn't compile them."
        )
    return f"{markdown_table(lines, dict.fromkeys(lines[0], ''))}\n{text}"


def large_pictures(data: Mapping[str, Any]) -> str:
    rows = [row for row in data["rows"] if row["pixels"] in ("1024x1024", "4032x3024", "8000x8000")]
    columns = {
        **{"model": "", "dtype": "", "pixels": "", "tiles": "d"},
        **{"peak, MB": ",.0f", "reckoned, MB": ",.0f", "s": ".0f"},
    }
    return (
        "Peak memory of a whole process with one thread, of which about 450 MB are Python and torch. What is reckoned "
        "is compared with the free memory before the work begins. Above 3.5 GB the network sees tiles. Seconds are of "
        f"two timesteps, or of the one evaluation that the restorer needs.\n\n{markdown_table(rows, columns)}"
    )


def tiles(data: Mapping[str, Any]) -> str:
    columns = {
        **{"network": "", "side": "d", "tiles": "d", "reach": ""},
        **{"apart, grey levels": ".2f", "PSNR to whole": ".1f", "seam": ".2f"},
    }
    return (
        "A photograph seen in tiles and whole. Networks with a reach give the same picture; of others the tiles are "
        "blended. `seam` is how much more the two differ at the borders of tiles than elsewhere: 1 is no seam.\n\n"
        + markdown_table(data["rows"], columns)
    )


def processes(data: Mapping[str, Any]) -> str:
    columns = {
        **{"work": "", "1 process, pictures/s": ".2f", "2 processes, pictures/s": ".2f"},
        **{"ratio": ".2f", "min": ".2f", "max": ".2f"},
    }
    kills, run = data["kills"], data["run"]
    during, again = kills["of these while pictures were being restored"], kills["noted and made again"]
    wrong, between = kills["lost, wrong or left over"], kills["written but not yet noted, so made again"]
    return (
        f"`accelerate launch` or torchrun with {run['pictures']} pictures of {run['side']} px and one thread for each "
        f"process, on two cores.\n\n{markdown_table(data['rows'], columns)}\n"
        f"Killed by SIGKILL {kills['kills']} times at random moments, {during} of them while pictures were being "
        f"restored, and gone on with by `--resume`: {wrong} pictures lost, wrong or left over, {again} made twice "
        f"after they were noted as done, {between} made again because the kill fell between writing and noting."
    )


def training(data: Mapping[str, Any]) -> str:
    columns = {"step": "", "parameters": "", "pictures/s": ".1f", "ratio": ".2f", "convolutions": ".0%"}
    loop = next(row["value"] for row in data["rows"] if row["what"] == "loop / bare")
    return (
        f"A training step of 64 px on one thread, and the loop around it: {loop:.2f} times a bare step.\n\n"
        + markdown_table(data["steps"], columns)
    )


def growth(data: Mapping[str, Any]) -> str:
    return (
        "![time and memory of a restoration against pixels, steps, pictures and samples](images/growth.png)\n\n"
        "![seconds to make an operator, milliseconds of an update, and memory](images/growth_operators.png)\n\n"
        "One thread, bfloat16, the bundled prior. Time grows as pixels, steps and pictures do; memory as pixels up to "
        "the side of a tile, and with the picture alone beyond it. Operators made of dense matrices on rows and "
        "columns (bicubic reduction) take a singular value decomposition of each to be made, which grows as the cube "
        "of the side."
    )


def on_paper(data: Mapping[str, Any]) -> str:
    paper = data["paper"]
    facts = [{"": name, **{str(row["network"]): row[name] for row in paper}} for name in paper[0] if name != "network"]
    return (
        "Reckoned, not measured; the assumptions are in [growth.md](../benchmarks/results/growth.md). Training sends "
        "its gradients over each link nearly twice in every step; restoring sends nothing but pictures.\n\n"
        + markdown_table(facts, {"": ""} | {str(row["network"]): ",.3g" for row in paper})
    )


def peers(data: Mapping[str, Any]) -> str:
    lines = []
    for peer, method in dict.fromkeys((row["peer"], row["method"]) for row in data["rows"]):
        rows = [
            row
            for row in data["rows"]
            if (row["peer"], row["method"]) == (peer, method) and row["note"] == "" and "s" in row
        ]
        ratios = [ratio for row in rows for ratio in row["ratio"]]
        outside = [median(row["overhead"][i] for row in rows) for i in (0, 1)]
        needed = next(row for row in data["memory"] if row["method"] == method)
        lines.append(
            {
                "peer": peer,
                "method": method,
                "tasks": len(rows),
                "ours / its time": f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                "outside the network, ours / its ms": pair(outside),
                "PSNR, ours / its dB": pair([fmean(row["PSNR"][i] for row in rows) for i in (0, 1)]),
                "MB, ours / its": pair([needed["ours"], needed[peer]], ".0f"),
            }
        )
    return (
        f"One network, the same measurements and steps, by turns in one process, {data['run']['pictures']}, with each "
        "library's defaults; of time the median over tasks and runs, with the least and the largest. "
        "[The whole page](../benchmarks/results/peers.md) has every task, other weights, operators, the noise that is "
        "really injected and the exact test with a Gaussian prior, and says what each does better.\n\n"
        + markdown_table(lines, dict.fromkeys(lines[0], ""))
    )


def pair(values: Sequence[float], form: str = ".2f") -> str:
    """Ours / the peer's."""
    return " / ".join(format(value, form) for value in values)


def gpu(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return (
            "No card has been at hand, so that nothing here is measured on one. `python benchmarks/gpu.py` measures "
            "it all in one call of eight minutes: tests, fp16 and bf16, batches, compilation, CUDA graphs, waits of "
            "the host, a network of 113.7 million parameters, training of every method."
        )
    return "Measured on one card: [the tables](../benchmarks/results/gpu.md)."


SECTIONS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("overhead", "Beside the network", beside_the_network),
    ("memory", "Large pictures", large_pictures),
    ("tiles", "Tiles", tiles),
    ("processes", "Several processes", processes),
    ("peers", "Beside other libraries", peers),
    ("growth", "How time and memory grow", growth),
    ("training", "Training on a CPU", training),
    ("gpu", "On a GPU", gpu),
    ("growth", "Many GPUs, on paper", on_paper),
)


def load(name: str) -> Any:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def to_markdown() -> str:
    """The page."""
    parts = [
        "# Performance",
        "How long things take, and how much memory, measured by the scripts in `benchmarks/`. This page is made of "
        "their results by `python benchmarks/performance.py`.",
    ]
    for name, title, write in SECTIONS:
        data = load(name)
        if data is None and name != "gpu":
            continue
        parts.append(f"## {title}")
        parts.append(write(data).strip())
        if data is not None:
            run = data["run"]
            parts.append(f"Measured by `{run['command']}` (torch {run['torch']}, {run['cpu']}).")
    return "\n\n".join(parts) + "\n"


def draw_curves(rows: Rows, folder: Path) -> list[Path]:
    """Pictures of the curves of growth.json."""
    import io

    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")

    def save(figure: Any, name: str, width: float = 1.0) -> Path:
        file = io.BytesIO()
        figure.tight_layout(rect=(0, 0, width, 1))
        figure.savefig(file, format="png", dpi=80, metadata={"Software": None})
        plt.close(figure)
        write_bytes(folder / name, file.getvalue())
        return folder / name

    def panel(axis: Any, title: str, label: str, curves: Mapping[str, tuple[list[float], list[float]]]) -> None:
        for name, (x, y) in curves.items():
            axis.loglog(x, y, marker="o", markersize=3, linewidth=1, label=name)
        ticks = sorted({one for x, _ in curves.values() for one in x})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(label, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)

    axes = list(dict.fromkeys(row["axis"] for row in rows if "axis" in row))
    figure, panels = plt.subplots(2, len(axes), figsize=(11, 5))
    labels = {"pixels": "side, px", "batch": "pictures of a batch", "samples": "samples of a picture"}
    for i, axis in enumerate(axes):
        some = [row for row in rows if row.get("axis") == axis]
        x = [row["value"] for row in some]
        panel(panels[0, i], "seconds", labels.get(axis, axis), {axis: (x, [row["s"] for row in some])})
        used = [max(row["peak, MB"], 1.0) for row in some]
        panel(panels[1, i], "MB beyond the model", labels.get(axis, axis), {axis: (x, used)})
        if max(used) < _LITTLE:  # no more than the allocator's moods
            panels[1, i].set_yscale("linear")
            panels[1, i].set_ylim(0, _LITTLE)
    written = [save(figure, "growth.png")]
    tasks = list(dict.fromkeys(row["task"] for row in rows if "task" in row))
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6))
    for one, name, title in zip(
        panels,
        ("set-up, s", "update, ms", "peak, MB"),
        ("seconds to make it", "milliseconds of an update", "MB"),
        strict=True,
    ):
        by_task = {task: [row for row in rows if row.get("task") == task] for task in tasks}
        curves = {task: ([row["side"] for row in some], [row[name] for row in some]) for task, some in by_task.items()}
        panel(one, title, "side, px", curves)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="center right", fontsize=7)
    written.append(save(figure, "growth_operators.png", width=0.88))
    return written


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(sys.argv[1:] if argv is None else argv)
    write_text(PAGE, to_markdown())
    print(PAGE)
    data = load("growth")
    for path in draw_curves(data["rows"], CURVES) if data else []:
        print(path)


if __name__ == "__main__":
    main()
