"""`diffusers-restore restore`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from .. import restoring
from ..restoring.kinds import MAX_SEED
from ..restoring.pairing import check_there
from .options import (
    class_label_option,
    dataset_options,
    device_option,
    dtype_option,
    is_given,
    method_name,
    noise_level,
    operator_options,
    options_named,
    output_options,
    parse_args,
    real,
    take_dataset,
)
from .printing import Printer


@click.command()
@partial(operator_options, task_needed=False)
@click.option(
    "--sigma-y",
    metavar="S",
    default="auto",
    callback=noise_level,
    show_default=True,
    help="Standard deviation of the noise in the file, where black is -1 and white is 1 (a noise of 25 of 255 grey "
    "levels is 0.196). estimate looks for it in the picture, and misses what is weak in a JPEG. auto is the rounding "
    "noise of the file's bit depth, step / sqrt(12): 0.00226 for 8 bits, 8.8e-6 for 16 bits, 0 for .npy; of a JPEG, "
    "about what its coding took, except for inpaint, colorize and jpeg. With 0, rounding errors of an 8-bit file count "
    "as picture, and small singular values amplify them.",
)
@click.option(
    "--model",
    metavar="REPO_OR_FOLDER",
    help="An unconditional DDPM, a ColdDiffusionPipeline, an RDDMPipeline, a Pix2PixPipeline or an OldPhotoPipeline: a "
    "repository of the Hugging Face Hub or a folder.  [default: with --task, the bundled prior; without, the bundled "
    "restorer]",
)
@click.option(
    "--scratches",
    type=click.Choice(["auto", "find"]),
    help="auto: find scratches, folds and dust, fill them in, and then restore, all with what is bundled; with --mask, "
    "fill in what is black there. find: make OUT a mask of what auto would fill in, black, to look at or to correct.",
)
@click.option(
    "--faded",
    is_flag=True,
    help="The photograph has faded, yellowed, or is sepia: a bundled network for the whole damage of old photographs "
    "gives it new tones, and mends scratches in part; with --scratches auto, those are filled in first.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Timesteps, mostly one network evaluation each.  [default: the method's own number; for a "
    "ColdDiffusionPipeline, one for each severity; for an RDDMPipeline, 5]",
)
@click.option(
    "--method",
    metavar="NAME",
    callback=method_name,
    help="How the network's estimate is made to agree with the file; `diffusers-restore methods` lists the names.  "
    "[default: that of the model if it is another than ddrm, else auto: dpir, the best estimate; ddrm for "
    "--samples, --eta, colorize and wide holes; ddrm-jpeg for jpeg]",
)
@click.option(
    "--method-arg",
    "method_args",
    metavar="K=V",
    multiple=True,
    callback=parse_args,
    help="An option of the method; can be repeated.",
)
@click.option(
    "--eta",
    type=float,
    callback=real(0, 1),
    help="Share of new noise in each step.  [default: 1 where --sigma-y is auto, else 0.85, for ddrm]",
)
@click.option(
    "--eta-b",
    type=float,
    callback=real(0, 1),
    help="How closely measured parts follow the file.  [default: 1 for ddrm]",
)
@class_label_option
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Of sample 1; sample 2 has the next.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Write name-1.png ... name-N.png."
)
@click.option("--average", is_flag=True, help="Write the mean of the samples: higher PSNR, smoother.")
@click.option(
    "--tile",
    metavar="auto|N|off",
    default="auto",
    show_default=True,
    help="How much of a picture the network sees at once: off all, N tiles of N x N pixels. auto takes tiles where "
    "all of it takes more than 3.5 GB, or more memory than is free. With the bundled networks they change nothing; "
    "networks with norms or attention see all of a picture, and differ a little.",
)
@click.option(
    "--strength",
    type=float,
    callback=real(0, 1),
    metavar="X",
    help="How much of the change is made: 0.5 is halfway between the picture and its restoration; scratches "
    "that were filled in stay so.  [default: 1]",
)
@click.option(
    "--start",
    type=click.IntRange(min=1),
    metavar="T",
    help="For a ColdDiffusionPipeline: how severe the damage is.  [default: the largest severity]",
)
@click.option("--direct", is_flag=True, help="For a ColdDiffusionPipeline: its first estimate only.")
@device_option
@dtype_option
@click.option(
    "--reference",
    type=click.Path(exists=True),
    metavar="FILE|FOLDER",
    help="The undamaged picture, or a folder with one for each by its name: prints PSNR and SSIM, and their means.",
)
@click.option("--sheet", metavar="FILE", help="Write a picture with the inputs and the results side by side.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Pictures of one size that a GPU restores at once. It changes no result; a CPU takes one at a time.",
)
@dataset_options
@click.option("--skip-existing", is_flag=True, help="Keep existing results, whatever made them.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with a folder: keep the results that a run with the same options has made of the same pictures. OUT "
    "keeps a list of them in .restored.jsonl, until a run without this option is complete.",
)
@output_options
@click.pass_context
def restore(ctx: click.Context, /, inputs: tuple[str, ...], output: str, **options: Any) -> None:
    """Restore degraded pictures IN to OUT.

    \b
    diffusers-restore restore old.jpg -o new.jpg
    diffusers-restore restore faded.jpg -o fresh.jpg --faded --scratches auto
    diffusers-restore restore small.png -o large.png --task sr4
    diffusers-restore restore blurred.png -o sharp.png --model my_cold_model/ --start 12
    diffusers-restore restore old.png -o new.png --task inpaint --mask white_is_known.png
    diffusers-restore restore scans/ "more/*.jpg" -o restored/ --task denoise --sigma-y 0.1 --skip-existing

    IN are pictures, folders (with all folders in them, whose layout is kept) and quoted patterns, in every format that
    Pillow decodes (PNG, JPEG, WebP, TIFF, AVIF, JPEG 2000, BMP, GIF ...), or .npy arrays (C, H, W) in [-1, 1]. A .tar
    is read as a folder; a data set, owner/name of the Hub or a folder of parquet files, gives 000000.png and so on. In
    a folder, names stay as they are; formats other than PNG, JPEG, WebP and TIFF become PNG. Transparency, 16 bits,
    colour profile, EXIF and resolution are kept as far as the format holds them; pages and frames after the first, and
    comments, are not. The result of a picture depends on its content and on --seed only.

    `accelerate launch -m diffusers_restore restore ...` and torchrun share the pictures out to processes.

    With --task, a prior undoes exactly the damage that the task names. Without --task and --model, a small network that
    was trained on photographs with blur, noise (up to 30 of 255 grey levels) and JPEG artefacts removes what it finds;
    it leaves a picture as it is where it would change hardly anything.

    A picture that fails doesn't stop the others. The exit status is 0 if all is done, 1 if something failed, 2 for
    wrong options, 130 after Ctrl-C.
    """  # noqa: D301  # click reads the control character
    model, device, dtype = (options.pop(name) for name in ("model", "device", "dtype"))
    quiet, verbose, as_json = (options.pop(name) for name in ("quiet", "verbose", "as_json"))
    of_run = {name: options.pop(name) for name in ("skip_existing", "resume", "reference", "sheet", "batch_size")}
    dataset = take_dataset(options)
    given = {name: value for name, value in options.items() if is_given(ctx, name)}
    printer = Printer(ctx, quiet, verbose, as_json)
    with options_named(ctx):
        check_there(inputs)  # before the imports, which take seconds
        chosen, kind = restoring.choose(model, given)

        from ..restoring.loading import find_device
        from ..restoring.processes import running
        from ..restoring.restorer import Batch
        from ..training.processes import check_processes

        processes = running()
        check_processes(processes.count)
        device = processes.device(device)

        restorer = kind.restorer(chosen, **given)
        restorer.settings["dtype"] = dtype
        restorer.quiet, restorer.tell = quiet or processes.rank > 0, printer.tell
        printer.settings = restorer.settings
        batch = Batch(
            restorer,
            inputs,
            output,
            tell=printer.tell if processes.rank == 0 else str,
            processes=processes,
            dataset=dataset,
            **of_run,
        )
        find_device(device)
        for job, remarks in zip(batch.done, batch.remarks_of_done, strict=True):
            printer.skip(job, remarks)
        if batch.todo:
            batch.make_folders()
            restorer.load(chosen, device, dtype)
            printer.tell_more(f"{restorer.settings['model']}: {restorer.description}")
        try:
            batch.run(printer.report)
        except KeyboardInterrupt:
            how = "; the same command with --resume goes on" if batch.resumable else ""
            raise printer.interrupted(len(batch.todo), how) from None
    try:
        option = "--resume" if of_run["resume"] else "--skip-existing"
        how = f"; the same command with {option} keeps the others" if batch.resumable else ""
        printer.end(processes, how)
    finally:
        processes.end()
