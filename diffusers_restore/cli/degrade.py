"""`diffusers-restore degrade`."""

from __future__ import annotations

from typing import Any

import click

from ..restoring.jobs import make_folders, run
from ..restoring.kinds import MAX_SEED
from ..restoring.pairing import check_there
from .options import dataset_options, operator_options, options_named, output_options, real, take_dataset
from .printing import Printer


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
@dataset_options
@output_options
@click.pass_context
def degrade(ctx: click.Context, /, inputs: tuple[str, ...], output: str, **options: Any) -> None:
    """Degrade clean pictures IN to OUT: make measurements to experiment with.

    \b
    diffusers-restore degrade photo.png -o small.png --task sr4
    diffusers-restore degrade photo.png -o noisy.npy --task denoise --sigma-y 0.2
    diffusers-restore restore noisy.npy -o back.png --task denoise --sigma-y 0.2

    IN are those of `restore`: pictures, folders, patterns, tars and data sets.

    A measurement is written as a picture, clipped and rounded, or as exact numbers if OUT ends in .npy, which holds no
    transparency. In a folder it is a PNG. Compressed sensing (cs2, cs4) measures no picture and always gives .npy.

    The exit status is 0 if all is done, 1 if something failed, 2 for wrong options, 130 after Ctrl-C.
    """  # noqa: D301  # click reads the control character
    quiet, verbose, as_json = (options.pop(name) for name in ("quiet", "verbose", "as_json"))
    dataset = take_dataset(options)
    printer = Printer(ctx, quiet, verbose, as_json, timed=False)
    printer.settings = {name: value for name, value in options.items() if value is not None}
    with options_named(ctx):
        check_there(inputs)  # before the imports, which take seconds
        from ..restoring.measuring import Measurer

        measurer = Measurer(**options)
        jobs = measurer.plan(inputs, output, printer.tell, dataset)
        make_folders(jobs)
    try:
        run(jobs, measurer.measure, printer.report)
    except KeyboardInterrupt:
        raise printer.interrupted(len(jobs), "") from None
    finally:
        if measurer.inexact:
            what = "noise was" if measurer.sigma_y > 0 else "values beyond black and white were"
            click.echo(f"note: {what} clipped and rounded; -o NAME.npy keeps the exact numbers", err=True)
    printer.end()
