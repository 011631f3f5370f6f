"""`diffusers-restore convert`."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidInputError, one_line
from ..files import ASIDE, written_aside
from .options import is_given


@click.command()
@click.argument("checkpoint", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write; it may exist if it is empty.",
)
@click.option(
    "--num-head-channels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Channels of each attention head: 64 in the FFHQ model of DPS and in OpenAI's ADM models but the 128 px one. "
    "It overrides --num_heads where a training had both.",
)
@click.option(
    "--num-heads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of attention heads, for a training without --num_head_channels; 4 was its default.",
)
@click.option(
    "--attention-order",
    type=click.Choice(["old", "new"]),
    default="old",
    show_default=True,
    help="new for a training with --use_new_attention_order True, such as that of OpenAI's 64 px ADM model.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Of the training.  [default: inferred from the channel multipliers, if they are the usual ones]",
)
@click.option(
    "--noise-schedule",
    type=click.Choice(["linear", "cosine"]),
    default="linear",
    show_default=True,
    help="Of the training; cosine for the 64 px model.",
)
@click.option(
    "--timesteps",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Of the training (--diffusion_steps).",
)
@click.option(
    "--rescale-timesteps",
    is_flag=True,
    help="The training had --rescale_timesteps True, the default of improved-diffusion. It matters only where "
    "--timesteps isn't 1000.",
)
@click.pass_context
def convert(
    ctx: click.Context,
    checkpoint: Path,
    output: Path,
    num_head_channels: int | None,
    num_heads: int | None,
    attention_order: Any,
    image_size: int | None,
    noise_schedule: Any,
    timesteps: int,
    rescale_timesteps: bool,
) -> None:
    """Convert a CHECKPOINT of guided-diffusion or improved-diffusion to a FOLDER that diffusers loads.

    \b
    diffusers-restore convert ffhq_10m.pt -o ffhq --num-head-channels 64
    diffusers-restore convert 256x256_diffusion_uncond.pt -o imagenet --num-head-channels 64
    diffusers-restore convert 64x64_diffusion.pt -o imagenet64 --num-head-channels 64 \\
        --attention-order new --noise-schedule cosine
    diffusers-restore convert cifar10_uncond_50M_500K.pt -o cifar --num-heads 4 \\
        --noise-schedule cosine --timesteps 4000 --rescale-timesteps

    CHECKPOINT is a .pt, .pth, .bin, .ckpt or .safetensors file. Only weights are read from it: no code in it is run.
    Sizes, attention and classes are read from the weights. The options give what the weights don't show, and a wrong
    one gives a network that generates noise: take them from the training command, whose options have the same names.

    FOLDER gets a UNet2DModel with the outputs of the original, a DDPMScheduler and a model card: DDPMPipeline,
    DDRMPipeline and `restore --model` load it.
    """  # noqa: D301  # click reads the control character
    folder = output.resolve()
    if folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(f"-o {click.format_filename(output)!r} exists and isn't empty")

    from ..conversion.pipeline import conversion_card, describe_network, load_guided_diffusion

    try:
        pipe = load_guided_diffusion(
            checkpoint,
            num_head_channels=num_head_channels,
            num_heads=num_heads,
            attention_order=attention_order,
            image_size=image_size,
            noise_schedule=noise_schedule,
            timesteps=timesteps,
            rescale_timesteps=rescale_timesteps,
        )
    except (InvalidInputError, OSError) as error:
        raise click.ClickException(_with_options(ctx, one_line(error))) from error
    for name, text in describe_network(pipe).items():
        click.echo(f"{name:<12}{text}")
    aside = folder.with_name(f".{folder.name}{ASIDE}")
    try:
        with written_aside(aside):
            pipe.save_pretrained(aside)
            conversion_card(pipe, checkpoint, _conversion_command(ctx)).save(aside / "README.md")
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise click.ClickException(f"cannot write {click.format_filename(output)!r}: {one_line(error)}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    model = click.format_filename(output)
    click.echo(f"\n{model} is ready. To restore with it:")
    label = "" if pipe.unet.config.num_class_embeds is None else " --class-label 0"
    click.echo(f"diffusers-restore restore small.png -o large.png --task sr4 --model {shlex.quote(model)}{label}")


def _with_options(ctx: click.Context, message: str) -> str:
    """A message of the library with the names of the command line's options."""
    for param in ctx.command.params:
        if isinstance(param, click.Option) and param.name != "output":  # an ordinary word in messages
            message = re.sub(rf"(?<![\w-]){param.name}\b", param.opts[-1], message)
    return message


def _conversion_command(ctx: click.Context) -> str:
    """The command as it was typed, without the folders of its files."""
    words = ["diffusers-restore", "convert", ctx.params["checkpoint"].name, "-o", ctx.params["output"].name]
    for param in ctx.command.params:
        name = str(param.name)
        if name not in ("checkpoint", "output") and is_given(ctx, name):
            words += [param.opts[-1]] if ctx.params[name] is True else [param.opts[-1], str(ctx.params[name])]
    return shlex.join(words)
