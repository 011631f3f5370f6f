"""Uploads a folder that holds a pipeline: the pipeline, its card and the pictures of that, and nothing else."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, create_commit

from ..errors import InvalidInputError, one_line
from ..files import visible_files
from ..registration import PLUG_IN
from .cards import Card, find_source, rename
from .repositories import INDEX, read_index


def card_of(folder: Path, repo_id: str) -> Card | None:
    """The card in a folder, with the name of a repository in the place of the folder's; None if there is none."""
    source = find_source(str(folder), online=False)
    if source is None or source.card is None:
        return None
    text = source.card
    # Trainings name the repository as they know it; what `convert` writes has no name yet.
    for name in (folder.resolve().name, repo_id, "this folder"):
        text = rename(text, name, repo_id)
    return Card(text, source.pictures)


def push_folder(
    folder: Path,
    repo_id: str,
    card: Card | None,
    *,
    commit_message: str,
    token: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Upload the pipeline in a folder: no checkpoints, logs, optimisers or samples that the card doesn't show.

    Args:
        folder: has a model_index.json.
        repo_id: of a repository that exists.
        card: None leaves that of the repository.
        commit_message: of the commit.
        token: None takes the stored one.
        create_pr: propose the change instead of making it.

    Raises:
        InvalidInputError: the Hub refuses or can't be reached, or the folder holds no pipeline.
    """
    index = read_index(folder / INDEX)
    files = [folder / INDEX, folder / f"{PLUG_IN}.py"]
    for part, value in index.items():
        if isinstance(value, list) and not part.startswith("_"):
            files += [file for file in visible_files(folder / part) if not file.name.startswith("optimizer")]
    uploads: dict[str, Path | bytes] = {file.relative_to(folder).as_posix(): file for file in files if file.is_file()}
    if card is not None:
        uploads |= {**card.pictures, "README.md": card.text.encode()}
    additions = [CommitOperationAdd(name, content) for name, content in uploads.items()]
    try:
        return create_commit(
            repo_id, additions, commit_message=commit_message, token=token, create_pr=create_pr, repo_type="model"
        )
    except Exception as error:  # those of the HTTP library too
        raise InvalidInputError(f"the upload of {str(folder)!r} to {repo_id!r} failed: {one_line(error)}") from error
