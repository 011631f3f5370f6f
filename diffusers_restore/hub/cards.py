"""Model cards of pipelines."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from .. import images
from ..errors import InvalidInputError
from ..files import write_bytes, write_text
from ..foreign import read_object, read_text

INSTALL = "pip install diffusers-restore"
REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

_PICTURE = re.compile(r"""!\[[^\]]*\]\(([^)\s]+)|<img\s[^>]*src=["']([^"']+)""")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_TERMS = ("license", "license_name", "license_link", "datasets")


@dataclass(frozen=True)
class CardText:
    """The text that the cards of all pipelines of one class share.

    Attributes:
        what: one sentence about what it does, with the paper.
        example: Python with {repo_id} for the repository's name, which runs on a picture "photo.png".
        tags: for the Hub's search; the first is its task (`pipeline_tag`).
    """

    what: str
    example: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """A card, and the paths of the pictures that it shows, by their names in it."""

    text: str
    pictures: dict[str, Path] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write README.md and the pictures; existing files stay."""
        write_text(folder / "README.md", self.text)
        for name, file in self.pictures.items():
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_bytes(folder / name, file.read_bytes())


def plain(text: str) -> str:
    """Markdown that shows a text as it is, on one line: no HTML, link, picture or code of whoever chose a name."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Markdown that shows a text as code within a line, whatever it holds."""
    ticks = "`" * (1 + _longest_ticks(text))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{' '.join(text.split())}{space}{ticks}"


def code_block(language: str, text: str) -> str:
    """Markdown that shows a text as code, whatever it holds."""
    fence = "`" * max(3, 1 + _longest_ticks(text))
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _longest_ticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def public(value: Any, *, is_path: bool = False) -> Any:
    """An option as a card shows it: of a path of this machine, the last part.

    Args:
        value: text, or lists and mappings with text in them; anything else stays.
        is_path: whether it can't be the name of a repository.
    """
    if isinstance(value, Mapping):
        return {name: public(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(one) for one in value]
    if not isinstance(value, str) or (not is_path and base_model(value)):
        return value
    if value.startswith("{"):  # a mapping, as it was typed
        return re.sub(r"[^\s'\"{}\[\],=:]*[/\\][^\s'\"{}\[\],=]*", lambda found: str(public(found[0])), value)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def base_model(name: object) -> str | None:
    """The name, if it is a repository on the Hub and not a local folder."""
    text = str(name)
    return text if REPO_ID.fullmatch(text) and not Path(text).exists() else None


def metadata(tags: Sequence[str], **more: Any) -> ModelCardData:
    """The front matter of a card: the first tag is the task."""
    known = {name: value for name, value in more.items() if value}
    every = list(dict.fromkeys(["diffusers", "diffusers_restore", *tags]))
    return ModelCardData(library_name="diffusers", pipeline_tag=tags[0], tags=every, **known)


def use(text: CardText, repo_id: str) -> str:
    """What a pipeline is and how to load it, in Markdown."""
    quoted = json.dumps(repo_id, ensure_ascii=False)[1:-1]
    call = code(f'DiffusionPipeline.from_pretrained("{quoted}")')
    return f"""{text.what}

```bash
{INSTALL}
```

{code_block("python", text.example.format(repo_id=quoted))}

{call} gives the same pipeline once `diffusers_restore` is imported, and with
`trust_remote_code=True` where it is only installed."""


def new_card(text: CardText, repo_id: str, source: Source | None) -> str:
    """The card of a pipeline that has none; it quotes the card of its network."""
    base = None if source is None else base_model(source.name)
    terms: dict[str, Any] = {}
    if source is not None and source.card is not None:
        card = ModelCard(source.card, ignore_metadata_errors=True)
        terms = {term: getattr(card.data, term, None) for term in _TERMS}
        name = base or Path(source.name).name  # local paths are private
        about = f"The network is that of {code(name)}, unchanged. Its own card says:\n\n" + "\n".join(
            f"> {line}".rstrip() for line in card.text.strip().splitlines()
        )
    elif base is not None:
        about = (
            f"The network is that of [{base}](https://huggingface.co/{base}), unchanged: see there for its data, its "
            "figures and its terms."
        )
    else:
        about = "Not stated by whoever uploaded this: the pictures it was trained on, the command, figures, terms."
    data = metadata(text.tags, base_model=base, **terms)
    title = plain(repo_id.split("/")[-1])
    front = f"---\n{data.to_yaml()}\n---"
    return f"{front}\n\n# {title}\n\n{use(text, repo_id)}\n\n## Training, data and terms\n\n{about}\n"


@dataclass(frozen=True)
class Source:
    """The folder or repository that a pipeline was loaded from.

    Attributes:
        name: the folder or the repository.
        class_name: of the pipeline that is saved there.
        card: its README.md, None if there is none.
        pictures: those that the card shows, by name.
    """

    name: str
    class_name: str | None
    card: str | None
    pictures: dict[str, Path]


def find_source(name: str | None, token: str | None = None, *, online: bool) -> Source | None:
    """Where a pipeline was loaded from, if that is known and reachable.

    Args:
        name: a folder, or a repository of the Hub; None for a pipeline that was built in memory.
        token: for the Hub.
        online: whether the Hub may be contacted.
    """
    if name is None or not (Path(name).is_dir() or (online and base_model(name))):
        return None

    def find(file: str) -> Path | None:
        if Path(name).is_dir():
            path = Path(name, file)
            return path if path.is_file() else None
        try:
            return Path(hf_hub_download(name, file, token=token))
        except (HfHubHTTPError, OSError):  # no such repository or file, or unreachable
            return None

    index, readme = find("model_index.json"), find("README.md")
    class_name = card = None
    with suppress(InvalidInputError):  # that of a stranger may be anything
        class_name = None if index is None else read_object(index).get("_class_name")
    with suppress(InvalidInputError):
        card = None if readme is None else read_text(readme)
    pictures = {}
    for match in _PICTURE.finditer(card or ""):
        shown = match[1] or match[2]
        file = find(shown) if _can_be_picture(shown) else None
        if file is not None and _is_picture(file, Path(name)):
            pictures[shown] = file
    named = class_name[-1] if isinstance(class_name, list) and class_name else class_name
    return Source(name, named if isinstance(named, str) else None, card, pictures)


def _can_be_picture(shown: str) -> bool:
    """Whether what a card shows is the name of a picture below its own folder."""
    path = Path(shown)
    below = not re.match(r"[a-zA-Z]+:|[/\\]", shown) and ".." not in path.parts
    return below and path.suffix.lower() in _PICTURE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _is_picture(file: Path, source: Path) -> bool:
    """Whether a file of a source, which may be anybody's, is a picture, and no link that leads out of its folder."""
    if source.is_dir() and not file.resolve().is_relative_to(source.resolve()):
        return False
    try:
        images.load(file)
    except (InvalidInputError, OSError):
        return False
    return True


def rename(card: str, old: str, new: str) -> str:
    """The card with `new` for `old`, or for its folder, in `from_pretrained`."""

    def replace(match: re.Match[str]) -> str:
        return f'from_pretrained("{new}"' if match[1] in (old, Path(old).name) else match[0]

    return re.sub(r'from_pretrained\("([^"]+)"', replace, card)
