"""`diffusers-restore push`."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import InvalidInputError, one_line
from ..restoring.kinds import why_no_pipeline


@click.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repository", metavar="REPOSITORY")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
@click.option("--token", metavar="TOKEN", help="For the Hub.  [default: that of `hf auth login`, or HF_TOKEN]")
@click.option("--commit-message", metavar="TEXT", help="Of the commit.  [default: the name of the pipeline's class]")
@click.option("--create-pr", is_flag=True, help="Propose the change instead of making it.")
def push(
    folder: Path, repository: str, private: bool, token: str | None, commit_message: str | None, create_pr: bool
) -> None:
    """Upload a FOLDER that was trained, converted or saved to a REPOSITORY of the Hugging Face Hub, with its card.

    \b
    diffusers-restore push prior my-prior --private
    diffusers-restore push derain me/derain --commit-message "After 20,000 steps"

    REPOSITORY is name or owner/name; it is made if it doesn't exist. What is uploaded is the pipeline, README.md and
    the pictures that this shows: no checkpoints, logs and further samples. The folder stays as it is.
    """  # noqa: D301  # click reads the control character
    name = click.format_filename(folder)
    if not (folder / "model_index.json").is_file():
        raise click.UsageError(f"FOLDER {name!r} is no pipeline: {why_no_pipeline(folder)}")

    from diffusers import DiffusionPipeline

    from ..hub.pushing import card_of, push_folder
    from ..hub.repositories import load_pipeline
    from ..hub.saving import HubMixin, make_repository
    from ..restoring.loading import quiet_loading

    try:
        with quiet_loading():
            pipeline = load_pipeline(DiffusionPipeline, str(folder))
        repo_id = make_repository(repository, private or None, token)
        card = card_of(folder, repo_id)
        if card is None and isinstance(pipeline, HubMixin):
            card = pipeline.make_card(repo_id, token)
        message = commit_message or f"Upload {type(pipeline).__name__}"
        pushed = push_folder(folder, repo_id, card, commit_message=message, token=token, create_pr=create_pr)
    except (InvalidInputError, OSError) as error:
        raise click.ClickException(one_line(error)) from error
    if card is None:
        click.echo(f"{name} has no README.md: write one, and push again", err=True)
    click.echo(f"pushed to {pushed.pr_url or pushed.repo_url}")
