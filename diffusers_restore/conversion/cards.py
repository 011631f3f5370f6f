"""Model cards of converted checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCard

from .. import __version__
from ..hub.cards import code, code_block, metadata, plain

_TERMS = (
    "The terms of the original checkpoint hold for this copy. They are not known to the program that wrote this card."
)


def card_of_conversion(
    file: Path,
    command: str,
    *,
    tags: Sequence[str],
    source: str,
    notes: str,
    found: Mapping[str, str],
    example: str,
    parts: Sequence[Path] = (),
    terms: str = _TERMS,
) -> ModelCard:
    """The card of a converted checkpoint: from which file, by which command, and how to use it.

    Args:
        file: the checkpoint, whose SHA-256 is written; a folder if there are `parts`.
        command: by which it was converted.
        tags: the first is the task.
        source: what kind of checkpoint it is, in Markdown.
        notes: what the outputs are, and what can't be seen in a checkpoint, in Markdown.
        found: what was read from it, a line for each heading.
        example: Python that uses the folder.
        parts: the files in the folder that were read, whose SHA-256 are written.
        terms: under which the weights may be used, in Markdown.

    Raises:
        OSError: a file can't be read.
    """
    if parts:
        what = f"checkpoints in {code(file.name)} of {source}, whose SHA-256 are below"
        digests = [f"| {code(part.relative_to(file).as_posix())} | `{_digest(part)}` |" for part in parts]
        hashes = "\n\n| file | SHA-256 |\n|---|---|\n" + "\n".join(digests)
    else:
        what, hashes = f"checkpoint {code(file.name)} of {source}, whose SHA-256 is\n`{_digest(file)}`", ""
    table = "\n".join(f"| {name} | {value} |" for name, value in found.items())
    return ModelCard(f"""---
{metadata(tags).to_yaml()}
---

# {plain(file.stem)}

Converted by diffusers_restore {__version__} from the {what}:

{code_block("bash", command)}

{notes}

| found | |
|---|---|
{table}{hashes}

{code_block("python", example)}

## Terms

{terms}
""")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def parameters(numbers: int, dtype: object) -> str:
    """How many numbers a network has, and of which kind."""
    return f"{numbers:,} ({str(dtype).removeprefix('torch.')})"
