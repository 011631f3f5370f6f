"""The command line: `diffusers-restore restore | app | degrade | sample | train | convert | push | tasks | methods`.

A file for each command. torch and diffusers are imported inside the commands, so that `--help` is answered at once.
"""

from __future__ import annotations

import io
import sys
import warnings

import click

from .. import __version__
from . import app, convert, degrade, listing, push, restore, sample, train
from .printing import INTERRUPTED
from .train import train_cold, train_pix2pix, train_prior, train_rddm

__all__ = ["main", "train_cold", "train_pix2pix", "train_prior", "train_rddm"]


class _Commands(click.Group):
    """Ends with the exit status of shells after Ctrl-C, which click reports as 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="diffusers-restore")
def main() -> None:
    """Restore damaged pictures with a pretrained diffusion model.

    \b
    diffusers-restore restore old.jpg -o new.jpg
    diffusers-restore app
    diffusers-restore restore photo.png -o restored.png --task denoise --sigma-y 0.2
    diffusers-restore restore small.png -o large.png --task sr4
    diffusers-restore sample -o grid.png
    diffusers-restore train prior --train_data_dir photos --output_dir prior
    diffusers-restore tasks

    Every command has its own --help. The exit status is 0 if all is done, 1 if something failed, 2 for wrong options,
    130 after Ctrl-C.
    """  # noqa: D301  # click reads the control character
    # Of estimates that a network improves at once, or that are results of their own (`LinearOperator.pinv`).
    warnings.filterwarnings("ignore", "conjugate gradients left a residual", UserWarning)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that the console can't show are shown by their numbers
        sys.stdout.reconfigure(errors="backslashreplace")


for command in (restore.restore, app.app, degrade.degrade, sample.sample, train.train, convert.convert, push.push):
    main.add_command(command)
for command in (listing.tasks, listing.methods):
    main.add_command(command)
