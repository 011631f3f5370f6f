"""`diffusers-restore convert`."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidInputError, one_line
from ..files import ASIDE, written_aside
from .options import is_given, real


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
@click.option(
    "--dropout",
    type=float,
    callback=real(0),
    metavar="X",
    help="Of Pix2pix and CycleGAN: share of the activations that a generator drops, which varies its pictures; 0 for a "
    "U-Net of CycleGAN.  [default: 0.5, or 0 where the names of the weights show that nothing is dropped]",
)
@click.option(
    "--route",
    type=click.Choice(["quality", "scratch", "scratch-hr"]),
    help="Of Bringing Old Photos Back to Life, whose CHECKPOINT is the folder of its files: for photographs without "
    "scratches, with them, or with them and large.",
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
    dropout: float | None,
    route: Any,
) -> None:
    """Convert a CHECKPOINT of guided-diffusion, Pix2pix, CycleGAN or of old photographs to a FOLDER.

    \b
    diffusers-restore convert ffhq_10m.pt -o ffhq --num-head-channels 64
    diffusers-restore convert 256x256_diffusion_uncond.pt -o imagenet --num-head-channels 64
    diffusers-restore convert 64x64_diffusion.pt -o imagenet64 --num-head-channels 64 \\
        --attention-order new --noise-schedule cosine
    diffusers-restore convert cifar10_uncond_50M_500K.pt -o cifar --num-heads 4 \\
        --noise-schedule cosine --timesteps 4000 --rescale-timesteps
    diffusers-restore convert latest_net_G.pth -o facades
    diffusers-restore convert checkpoints -o old_photos --route scratch

    CHECKPOINT is a .pt, .pth, .bin, .ckpt or .safetensors file, or, with --route, the folder of Bringing Old Photos
    Back to Life, with Global/checkpoints and Face_Enhancement/checkpoints, or the former alone. Only weights are read:
    no code is run. Whose network it is, sizes, attention and classes are read from the weights. The options give what
    the weights don't show. All but --dropout and --route are for guided-diffusion and improved-diffusion, where a wrong
    one gives a network that generates noise: take them from the training command, whose options have the same names.

    FOLDER gets a network with the outputs of the original and a model card: a UNet2DModel and a DDPMScheduler, which
    DDPMPipeline, DDRMPipeline and `restore --model` load, a generator of Pix2PixPipeline, or an OldPhotoPipeline.
    """  # noqa: D301  # click reads the control character
    folder = output.resolve()
    if folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(f"-o {click.format_filename(output)!r} exists and isn't empty")

    from ..conversion.checkpoint_files import FAMILIES, read_checkpoint
    from ..conversion.converters import CONVERTERS, OLD_PHOTOS

    converter = OLD_PHOTOS
    try:
        if route is not None:
            _refuse_others(
                ctx, converter.options, f"{checkpoint.resolve().name} is taken for the folder of old photographs"
            )
            pipe = converter.convert(checkpoint, route=route)
        else:
            found = read_checkpoint(checkpoint)
            if found.family not in CONVERTERS:
                raise InvalidInputError(
                    f"{checkpoint.name} is one of several networks of {FAMILIES[found.family]}; give the folder "
                    "`checkpoints` that holds them, with route"
                )
            converter = CONVERTERS[found.family]
            _refuse_others(ctx, converter.options, f"{checkpoint.name} holds weights of {FAMILIES[found.family]}")
            pipe = converter.convert(found.weights, **{name: ctx.params[name] for name in converter.options})
    except (InvalidInputError, OSError) as error:
        raise click.ClickException(_with_options(ctx, one_line(error))) from error
    for name, text in converter.describe(pipe).items():
        click.echo(f"{name:<12}{text}")
    aside = folder.with_name(f".{folder.name}{ASIDE}")
    try:
        with written_aside(aside):
            pipe.save_pretrained(aside)
            converter.card(pipe, checkpoint, _conversion_command(ctx)).save(aside / "README.md")
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise click.ClickException(f"cannot write {click.format_filename(output)!r}: {one_line(error)}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    model = click.format_filename(output)
    trial = converter.trial(pipe)
    if trial is None:
        click.echo(f"\n{model} is ready. It is for tensors in Python: what it takes or makes is no picture.")
        return
    click.echo(f"\n{model} is ready. To restore with it:")
    click.echo(shlex.join(["diffusers-restore", *trial, "--model", model]))


def _refuse_others(ctx: click.Context, accepted: Collection[str], what: str) -> None:
    """Refuse options that are for checkpoints of another kind than this one.

    Raises:
        click.UsageError: one was given.
    """
    options = {str(param.name): param.opts[-1] for param in ctx.command.params if isinstance(param, click.Option)}
    options.pop("output")
    wrong = [option for name, option in options.items() if name not in accepted and is_given(ctx, name)]
    if wrong:
        known = ", ".join(options[name] for name in accepted)
        raise click.UsageError(f"{', '.join(wrong)}: {what}, whose conversion takes {known} only")


def _with_options(ctx: click.Context, message: str) -> str:
    """A message of the library with the names of the command line's options."""
    for param in ctx.command.params:
        if isinstance(param, click.Option) and param.name != "output":  # an ordinary word in messages
            message = re.sub(rf"(?<![\w-]){param.name}\b", param.opts[-1], message)
    return message


def _conversion_command(ctx: click.Context) -> str:
    """The command as it was typed, without the folders of its files."""
    words = ["diffusers-restore", "convert", ctx.params["checkpoint"].resolve().name, "-o", ctx.params["output"].name]
    for param in ctx.command.params:
        name = str(param.name)
        if name not in ("checkpoint", "output") and is_given(ctx, name):
            words += [param.opts[-1]] if ctx.params[name] is True else [param.opts[-1], str(ctx.params[name])]
    return shlex.join(words)
