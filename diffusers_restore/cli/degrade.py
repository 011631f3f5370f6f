"""`diffusers-restore degrade`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from ..restoring.jobs import make_folders, pair, run
from ..restoring.kinds import MAX_SEED
from .options import end, operator_options, options_named, print_outcome, real


@click.command()
@operator_options
@click.option(
    "--sigma-y",
    metavar="S",
    default=0.0,
    callback=real(0),
    show_default=True,
    help="Standard deviation of Gaussian noise to add, where black is -1 and white is 1.",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of the noise.")
@click.option("--crop", is_flag=True, help="Crop a picture whose size doesn't fit the task, around its centre.")
@click.pass_context
def degrade(ctx: click.Context, /, inputs: tuple[str, ...], output: str, **options: Any) -> None:
    """Degrade clean pictures IN to OUT: make measurements to experiment with.

    \b
    diffusers-restore degrade photo.png -o small.png --task sr4
    diffusers-restore degrade photo.png -o noisy.npy --task denoise --sigma-y 0.2
    diffusers-restore restore noisy.npy -o back.png --task denoise --sigma-y 0.2

    A measurement is written as a picture, clipped and rounded, or as exact numbers if OUT ends in .npy, which holds no
    transparency. In a folder it is a PNG. Compressed sensing (cs2, cs4) measures no picture and always gives .npy.
    """  # noqa: D301  # click reads the control character
    with options_named(ctx):
        jobs = pair(inputs, output, lambda source: ".png")

        from ..restoring.measuring import Measurer

        measurer = Measurer(**options)
        make_folders(jobs)
    try:
        end(run(jobs, measurer.measure, partial(print_outcome, ctx, timed=False)))
    finally:
        if measurer.inexact:
            click.echo("note: noise was clipped and rounded; -o NAME.npy keeps the exact numbers", err=True)
