"""`diffusers-restore app`."""

from __future__ import annotations

import click

from .options import device_option, dtype_option, max_pixels_option, options_named


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where it listens. 0.0.0.0 lets other machines in: there is no password, and visitors can't choose the model.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="[default: the first free one from 7860 on]",
)
@click.option(
    "--model",
    metavar="REPO_OR_FOLDER",
    help="A repository of the Hugging Face Hub or a folder that the page offers, beside what is bundled.",
)
@max_pixels_option
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page in the browser.")
@device_option
@dtype_option
@click.pass_context
def app(
    ctx: click.Context,
    /,
    host: str,
    port: int | None,
    model: str | None,
    max_pixels: int | None,
    browser: bool,
    device: str,
    dtype: str,
) -> None:
    """Restore pictures on a page in the browser.

    \b
    pip install "diffusers-restore[app]"
    diffusers-restore app

    Drop a photograph, look at it before and after, download it. Everything stays on this machine; one picture is
    restored at a time, others wait. Uploads and results are removed when the page is closed, at the latest when this
    command ends: Ctrl-C ends it.
    """  # noqa: D301  # click reads the control character
    with options_named(ctx):
        from ..app import serve

        click.echo("starting ...", err=True)
        serve(
            host,
            port,
            model=model,
            device=device,
            dtype=dtype,
            max_pixels=max_pixels,
            browser=browser,
            ready=lambda address: click.echo(f"the page is at {address} (Ctrl-C ends it)"),
        )
