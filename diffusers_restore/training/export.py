"""Exports a trained network to a pipeline folder with a model card, and to the Hub."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

from huggingface_hub import ModelCard

from .. import __version__, images
from ..errors import InvalidInputError
from ..files import written_aside
from ..hub.cards import CardText, base_model, code, code_block, metadata, plain, public, use
from ..hub.pushing import card_of, push_folder
from ..hub.saving import make_repository
from .checkpoints import EXPORT
from .config import LoopConfig
from .data import TrainingData
from .progress import Progress, Savable

GRID = "samples.png"


def export_pipeline(pipeline: Savable, card: ModelCard, progress: Progress, output_dir: Path) -> None:
    """Write what was trained with its card and sample grid to `output_dir`: aside, then renamed file by file."""
    with written_aside(output_dir / EXPORT) as aside:
        pipeline.save_pretrained(aside)
        card.save(aside / "README.md")
        if progress.pictures is not None:
            images.save(images.grid(progress.pictures), aside / GRID)
    for source in sorted(aside.rglob("*")):
        target = output_dir / source.relative_to(aside)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            source.replace(target)
    shutil.rmtree(aside)


def holds_model(folder: Path) -> bool:
    """Whether there is a pipeline or a network with its card, its configuration and weights."""
    if not (folder / "README.md").is_file():
        return False
    places = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    return any((place / "config.json").is_file() and any(place.glob("*.safetensors")) for place in places)


def model_card(
    title: str,
    text: CardText,
    shown: str,
    figures: str,
    data: TrainingData,
    config: str,
    progress: Progress,
    *,
    training: LoopConfig,
    dataset: str | None,
    base: str | None,
    warning: str | None = None,
) -> ModelCard:
    """A card with the command, the data, the terms, the figures and the samples of a run.

    Args:
        title: its heading.
        text: what the model is and how to use it.
        shown: what its grid of samples shows.
        figures: what the names of the figures mean.
        data: what it was trained on.
        config: all options as YAML, without paths.
        progress: how far the run is.
        training: how it runs.
        dataset: the data set of the Hub with the pictures, if there is one.
        base: the repository or folder whose network the run started from.
        warning: a sentence about its figures.
    """
    name = training.hub_model_id or Path(training.output_dir).resolve().name
    front = metadata(
        text.tags,
        base_model=None if base is None else base_model(base),
        datasets=None if dataset is None else base_model(dataset),
        license=training.license,
    )
    average = "the running average of the weights" if training.use_ema else "the weights"
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in progress.figures.items())
    batch = f"{training.train_batch_size}, {training.gradient_accumulation_steps} for a step"
    processes = f"{progress.processes} process" + ("es" if progress.processes > 1 else "")
    table = f"Measured on the held-out pictures:\n\n| figure | value |\n|---|---|\n{rows}\n\n{figures}\n"
    if warning is not None:
        table += f"\n**Warning:** {warning}.\n"
    grid = f"![{plain(shown)}]({GRID})\n\n*{plain(shown)}.*"
    pictures = plain(data.description)
    first = None if base is None else base_model(base) or Path(base).name
    began = "" if first is None else f" The network began as that of {code(first)}, whose terms go with it."
    terms = code(training.license) if training.license else "not stated by whoever trained it"
    return ModelCard(f"""---
{front.to_yaml()}
---

# {plain(title)}

{use(text, name)}

{"" if progress.pictures is None else grid}

## Training

Trained on {pictures}.{began} These are {average} after {progress.step} of {training.max_train_steps} steps, on
{processes} (micro-batches of {batch}), with diffusers_restore {__version__}:

{code_block("bash", command_line())}

{table if rows else ""}
## Terms

Licence of the weights: {terms}. The terms of the pictures that it was trained on may bind it, too.

<details><summary>All options</summary>

{code_block("yaml", config)}

</details>
""")


def command_line() -> str:
    """The command that started this process, as typed in a shell, with the last parts of paths."""
    program, *arguments = sys.argv
    path = Path(program)
    # `python -m package` leaves the path of its __main__.py here.
    words = ["-m", path.parent.name] if path.name == "__main__.py" else [program]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if path.suffix != ".py":
        words[0] = path.name
    elif processes > 1:
        words = ["torchrun", "--nproc_per_node", str(processes), *words]
    else:
        words = ["python", *words]
    told = [_public_argument(before, word) for before, word in pairwise(["", *arguments])]
    return shlex.join([*(public(word, is_path=True) for word in words), *told])


def _public_argument(before: str, word: str) -> str:
    """A word of a command line after another one, without the folders of a path."""
    name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    option = name or before
    return f"{name}{equals}{public(value, is_path=option.endswith('_dir'))}"


def prepare_push(config: LoopConfig) -> str:
    """Make the repository before the training, so that a missing token is noticed early; returns its id.

    Raises:
        InvalidInputError: the Hub refuses.
    """
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    try:
        return make_repository(name, config.hub_private_repo or None)
    except InvalidInputError as error:
        raise InvalidInputError(f"push_to_hub: {error}") from error


def push(output_dir: Path, repo_id: str) -> str:
    """Upload only the pipeline and its card from the folder; returns the address of the commit.

    Raises:
        InvalidInputError: the Hub refuses or can't be reached.
    """
    try:
        pushed = push_folder(
            output_dir, repo_id, card_of(output_dir, repo_id), commit_message="Trained with diffusers_restore"
        )
    except InvalidInputError as error:
        raise InvalidInputError(
            f"push_to_hub: {error}; the pipeline is in {str(output_dir)!r}, and `diffusers-restore push` tries again"
        ) from error
    return str(pushed.commit_url)
