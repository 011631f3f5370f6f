#!/usr/bin/env python3
"""Measure what a second process gives, and that a killed run loses nothing and does nothing twice.

    python benchmarks/processes.py

(a) Pictures per second of `diffusers-restore restore` with 1 and 2 processes of one thread each, by turns, with the
bundled restorer, a restorer of one's own and a prior. (b) A run of two processes is killed at random moments (SIGKILL,
all of its processes at once) and gone on with by --resume, until it has been killed so often; what is there then is
compared with a run that wasn't. Results go to benchmarks/results/processes.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

import diffusers_restore
from diffusers_restore import images
from diffusers_restore.evaluation.report import how_it_was_run, markdown_table, write_report
from diffusers_restore.restoring.manifest import NAME

RESULTS = Path(__file__).parent / "results"
PHOTO = Path(diffusers_restore.__file__).parent / "assets" / "photos" / "chelsea.png"
WORK: dict[str, tuple[str, ...]] = {
    "bundled restorer": ("--strength", "1"),
    "--model, an RDDMPipeline": ("--model", diffusers_restore.DEFAULT_RESTORER, "--strength", "1"),
    "a task, the bundled prior": ("--task", "inpaint-random", "--steps", "3"),
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--side", type=int, default=256, help="of a picture, in pixels")
    parser.add_argument("--runs", type=int, default=3, help="with each number of processes")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "processes", help="result files, without their suffix")
    return parser.parse_args(argv)


def make_pictures(folder: Path, count: int, side: int) -> Path:
    """Parts of a photograph."""
    x = images.load(PHOTO).tensor
    folder.mkdir()
    for i in range(count):
        top, left = 13 * i % (x.shape[2] - side + 1), 29 * i % (x.shape[3] - side + 1)
        images.save(x[..., top : top + side, left : left + side], folder / f"{i:03}.png")
    return folder


def start(processes: int, source: Path, out: Path, work: Sequence[str]) -> subprocess.Popen[str]:
    """`diffusers-restore restore`, by one process or by torchrun's."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] * (processes > 1)
    words = ["restore", str(source), "-o", f"{out}/", "--resume", "--device", "cpu", *work]
    return subprocess.Popen(
        [sys.executable, *launch, "-m", "diffusers_restore", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(run: subprocess.Popen[str]) -> None:
    _, errors = run.communicate()
    if run.returncode != 0:
        raise RuntimeError(errors)


def rate(processes: int, source: Path, out: Path, work: Sequence[str]) -> tuple[float, float]:
    """Seconds of the whole command, and pictures per second from the first result on."""
    began = time.time()
    finish(start(processes, source, out, work))
    seconds = time.time() - began
    times = sorted(file.stat().st_mtime for file in out.glob("*.png"))
    shutil.rmtree(out)
    return seconds, (len(times) - processes) / (times[-1] - times[processes - 1])


def throughput(what: str, source: Path, out: Path, runs: int) -> dict[str, Any]:
    measured = [[rate(processes, source, out, WORK[what]) for processes in (1, 2)] for _ in range(runs)]
    ratios = sorted(two[1] / one[1] for one, two in measured)
    return {
        "work": what,
        "1 process, pictures/s": median(one[1] for one, _ in measured),
        "2 processes, pictures/s": median(two[1] for _, two in measured),
        "ratio": median(ratios),
        "min": ratios[0],
        "max": ratios[-1],
        "1 process, s in all": median(one[0] for one, _ in measured),
        "2 processes, s in all": median(two[0] for _, two in measured),
    }


def listed(out: Path) -> list[str]:
    """The results that the list of what is done names."""
    file = out / NAME
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["result"] for line in lines if line.endswith("}")]


def kill(run: subprocess.Popen[str]) -> None:
    """All of a launcher's processes, at once."""
    launcher = psutil.Process(run.pid)
    for process in (*launcher.children(recursive=True), launcher):
        process.kill()
    run.communicate()


def endure(source: Path, folder: Path, kills: int) -> dict[str, Any]:
    """What `kills` at random moments did to runs of two processes."""
    work, chance = WORK["bundled restorer"], random.Random(0)
    began = time.time()
    finish(start(2, source, folder / "whole", work))
    long, wanted = time.time() - began, {file.name: file.read_bytes() for file in (folder / "whole").glob("*.png")}
    seen: dict[str, int] = {}
    killed = during = again = twice = wrong = runs = 0
    out = folder / "killed"
    while killed < kills:
        run, moment = start(2, source, out, work), time.time() + chance.uniform(0, long)
        before = len(listed(out))
        while run.poll() is None and time.time() < moment:
            time.sleep(0.002)
        if run.poll() is None:
            kill(run)
            killed += 1
            during += before < len(listed(out)) < len(wanted)
            again += len({file.name for file in out.glob("*.png")} - set(listed(out)))
        else:
            finish(run)
        names = listed(out)
        twice += len(names) - len(set(names))
        for name in names:
            made = (out / name).stat().st_mtime_ns
            twice += seen.setdefault(name, made) != made
            wrong += (out / name).read_bytes() != wanted[name]
        if len(names) == len(wanted) or killed == kills:
            if killed == kills:
                finish(start(2, source, out, work))
            runs += 1
            wrong += {file.name: file.read_bytes() for file in out.glob("*.png")} != wanted
            wrong += sorted(listed(out)) != sorted(wanted)
            wrong += sorted(file.name for file in out.iterdir()) != sorted([*wanted, NAME])
            shutil.rmtree(out)
            seen.clear()
    return {
        "kills": killed,
        "of these while pictures were being restored": during,
        "runs that came to their end": runs,
        "pictures in each": len(wanted),
        "written but not yet noted, so made again": again,
        "noted and made again": twice,
        "lost, wrong or left over": wrong,
    }


def to_markdown(run: dict[str, Any], rows: Sequence[dict[str, Any]], kills: dict[str, Any]) -> str:
    formats = {name: "" if name == "work" else ".2f" for name in rows[0]}
    formats |= {"1 process, s in all": ".0f", "2 processes, s in all": ".0f"}
    return "\n".join(
        [
            "# Several processes\n",
            f"{run['pictures']} pictures of {run['side']} x {run['side']} pixels; one thread for each process, on "
            f"{os.cpu_count()} cores. Pictures per second count from the first result on; the time in all has the "
            "start of Python and the loading of the model in it. `ratio` is that of pictures per second, with its "
            f"least and largest value in {run['runs']} runs.\n",
            markdown_table(rows, formats),
            "## Killed at random moments\n",
            markdown_table([kills], dict.fromkeys(kills, "d")),
            "## How it was run\n\n" + "\n".join(f"- {name}: {value}" for name, value in run.items()) + "\n",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_pictures(folder / "in", args.pictures, args.side)
        rows = []
        for what in WORK:
            rows.append(throughput(what, source, folder / "out", args.runs))
            print(rows[-1], flush=True)
        kills = endure(source, folder, args.kills)
    run = {
        **how_it_was_run("benchmarks/processes.py", argv),
        "pictures": args.pictures,
        "side": args.side,
        "runs": args.runs,
    }
    text = to_markdown(run, rows, kills)
    written = write_report(args.output, {"run": run, "rows": rows, "kills": kills}, text)
    print(text)
    print("written: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main()
