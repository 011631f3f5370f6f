"""Model cards of converted checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCard

from .. import __version__
from ..hub.cards import code, code_block, metadata, plain


def card_of_conversion(
    file: Path,
    command: str,
    *,
    tags: Sequence[str],
    source: str,
    notes: str,
    found: Mapping[str, str],
    example: str,
) -> ModelCard:
    """The card of a converted checkpoint: from which file, by which command, and how to use it.

    Args:
        file: the checkpoint, whose SHA-256 is written.
        command: by which it was converted.
        tags: the first is the task.
        source: what kind of checkpoint it is, in Markdown.
        notes: what the outputs are, and what can't be seen in a checkpoint, in Markdown.
        found: what was read from it, a line for each heading.
        example: Python that uses the folder.

    Raises:
        OSError: the file can't be read.
    """
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    table = "\n".join(f"| {name} | {value} |" for name, value in found.items())
    return ModelCard(f"""---
{metadata(tags).to_yaml()}
---

# {plain(file.stem)}

Converted by diffusers_restore {__version__} from the checkpoint {code(file.name)} of {source}, whose SHA-256 is
`{digest}`:

{code_block("bash", command)}

{notes}

| found | |
|---|---|
{table}

{code_block("python", example)}

## Terms

The terms of the original checkpoint hold for this copy. They are not known to the program that wrote this card.
""")


def parameters(numbers: int, dtype: object) -> str:
    """How many numbers a network has, and of which kind."""
    return f"{numbers:,} ({str(dtype).removeprefix('torch.')})"
