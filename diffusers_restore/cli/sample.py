"""`diffusers-restore sample`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .. import DEFAULT_PRIOR
from ..restoring import ArgumentError, find_kind
from ..restoring.jobs import Job, make_folders
from ..restoring.kinds import MAX_SEED, PRIOR
from ..restoring.pairing import check_outside, names_folder
from .options import class_label_option, device_option, dtype_option, is_given, options_named, size


@click.command()
@click.argument("model", metavar="[MODEL]", default=DEFAULT_PRIOR)
@click.option("-o", "--output", metavar="OUT", required=True, help="A file for a grid, or a folder for single files.")
@click.option("-n", "--number", type=click.IntRange(min=1), default=16, show_default=True, help="Of pictures.")
@click.option(
    "--sampler",
    type=click.Choice(["ddim", "ddpm"]),
    default="ddim",
    show_default=True,
    help="ddim adds no noise on the way (eta 0); ddpm does, and needs more steps.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Network evaluations for each picture.  [default: 50; for a ColdDiffusionPipeline, one for each severity; for "
    "an RDDMPipeline, 10]",
)
@click.option(
    "--size",
    metavar="SIDE|WxH",
    callback=size,
    help="In pixels; must suit the network's halvings.  [default: the model's own size]",
)
@class_label_option
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Of the first picture; each further picture has the next.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Pictures at once.  [default: 1 on a CPU, where it changes how sums are rounded, else 16]",
)
@device_option
@dtype_option
@click.pass_context
def sample(
    ctx: click.Context, /, model: str, output: str, number: int, device: str, dtype: str, **options: Any
) -> None:
    """Generate pictures with MODEL, to see what a prior has learnt.

    \b
    diffusers-restore sample -o grid.png
    diffusers-restore sample google/ddpm-cifar10-32 -n 100 -o grid.png --sampler ddpm --steps 250
    diffusers-restore sample my_prior/ -n 4 -o drawn/ --size 96x64

    MODEL is an unconditional DDPM, or a ColdDiffusionPipeline or RDDMPipeline that can generate: a repository of the
    Hugging Face Hub or a folder; without it, the bundled prior. The samplers are those of diffusers. The pictures are
    row by row in a grid, nearly square, or 0000.png, 0001.png ... in a folder. A picture depends on its own seed and
    not on -n (except for rounding, where --batch-size is not 1).
    """  # noqa: D301  # click reads the control character
    begin = time.perf_counter()
    with options_named(ctx):
        folder, out = names_folder(output), Path(output)
        targets = tuple(out / f"{i:04}.png" for i in range(number)) if folder else (out,)
        job = Job(Path(model), targets, fixed=not folder)
        check_outside([job], model)
        kind = find_kind(model)
        for name in ("sampler", "size", "class_label"):
            if kind is not PRIOR and is_given(ctx, name):
                raise ArgumentError(f"{{{name}}} is for {{0}}; {{model}} is {{1}}", PRIOR.noun, kind.noun)

        from ..restoring.drawing import Drawer
        from ..restoring.loading import find_device

        find_device(device)
        make_folders([job])

        drawer = Drawer(kind, **options)
        drawer.load(model, device, dtype)
        width, height = drawer.draw(number, targets, job.target_names, grid=not folder)
    what = f"{number} picture{'s' * (number > 1)} of {width}x{height}"
    click.echo(f"{job.target_names}  {what}  {time.perf_counter() - begin:.1f} s")
