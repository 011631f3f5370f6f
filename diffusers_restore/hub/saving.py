"""How pipelines of this package are saved, pushed and loaded, so that diffusers' own classes load them too."""

from __future__ import annotations

import json
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import create_repo
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from safetensors import SafetensorError

from ..errors import InvalidInputError, one_line
from ..files import follow_umask, write_text
from ..registration import PACKAGE, PLUG_IN, plug_in_file
from .cards import Card, CardText, find_source, new_card, rename
from .pushing import push_folder
from .repositories import INDEX, check_configs, read_index, refusing
from .weights import check_components, check_weights, load_index


class HubMixin:
    """Saving, pushing and loading of a pipeline whose class lives in an installed package.

    A saved pipeline names its class and holds a file that imports it, so that `DiffusionPipeline.from_pretrained` loads
    it as the class itself does. Pipelines that would be silently wrong are refused, whichever class loads them.
    It must come before `DiffusionPipeline` among the bases.
    """

    scheduler_name: str
    """The scheduler class of this package that takes the place of one that diffusers lacks."""

    @property
    def card_text(self) -> CardText:
        """What a new model card says."""
        module, name = type(self).__module__, type(self).__name__
        example = f'from {module} import {name}\n\npipe = {name}.from_pretrained("{{repo_id}}")'
        return CardText(f"`{name}` of `{module}`.", example, ("image-to-image", "image-restoration"))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """As `DiffusionPipeline.from_pretrained`; refuses repositories that would be silently wrong.

        Raises:
            InvalidInputError: the repository lacks some of the weights, has some that are NaN or no fractions, holds
                components that have no place here, or configurations that nothing can be made of.
            OSError: there is no such repository or revision, or it can't be reached.
        """
        what = f"{str(pretrained_model_name_or_path)!r} can't be loaded as a {cls.__name__}"
        try:
            with refusing(what, _RAW_ERRORS):
                return cast(Self, super().from_pretrained(pretrained_model_name_or_path, **kwargs))  # type: ignore[misc]
        except OSError as error:
            if isinstance(error.__cause__, HfHubHTTPError):
                # Asking for the index alone gives clearer errors about a name, a revision or a token.
                options = {name: kwargs[name] for name in _DOWNLOAD_OPTIONS if name in kwargs}
                load_index(cls, pretrained_model_name_or_path, **options)
            raise

    @classmethod
    def _dict_from_json_file(cls, json_file: str | PathLike[str], **kwargs: Any) -> dict[str, Any]:
        """model_index.json as the class itself needs it, without the class's address; checked before any download."""
        index = read_index(Path(json_file))
        check_configs(Path(json_file).parent, [name for name, value in index.items() if isinstance(value, list)])
        if isinstance(index.get("_class_name"), list):
            index["_class_name"] = index["_class_name"][1]
        scheduler = index.get("scheduler")
        if isinstance(scheduler, list) and scheduler[0] == "diffusers" and not hasattr(diffusers, str(scheduler[1])):
            # Ours refuses its configuration with a reason, unless another scheduler is given; diffusers always fails.
            index["scheduler"] = [PACKAGE, cls.scheduler_name]
        check_components(cls, index)
        return index

    def register_to_config(self, **kwargs: Any) -> None:
        """As `ConfigMixin.register_to_config`, which at the end of loading records where the pipeline came from.

        Raises:
            InvalidInputError: a network lacks some of its weights, or works on the latents of a component that has no
                place here.
        """
        super().register_to_config(**kwargs)  # type: ignore[misc]
        if "_name_or_path" in kwargs:
            for name, model in self.components.items():  # type: ignore[attr-defined]
                folder = Path(str(model.config.get("_name_or_path"))) if isinstance(model, ModelMixin) else Path()
                if isinstance(model, ModelMixin) and folder.is_dir():
                    check_weights(name, model, folder)
                    for file in (folder / INDEX, folder.parent / INDEX):
                        if file.is_file():
                            check_components(type(self), read_index(file))
                            break

    def save_config(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """As `ConfigMixin.save_config`, with the files that make the classes known, and the card of its source."""
        super().save_config(save_directory)  # type: ignore[misc]
        folder = Path(save_directory)
        file = folder / "model_index.json"
        index: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        module, name = type(self).__module__, type(self).__name__
        if installed(module):
            index["_class_name"] = [PLUG_IN, name]
            module = PACKAGE if module.startswith(f"{PACKAGE}.") else module
            write_text(folder / f"{PLUG_IN}.py", plug_in_file(module, name))
        for part, entry in index.items():
            if isinstance(entry, list) and (folder / part).is_dir() and installed(entry[0]):
                write_text(folder / part / f"{entry[0]}.py", plug_in_file(*entry))
        write_text(file, json.dumps(index, indent=2, sort_keys=True) + "\n")
        source = find_source(self._source_name, online=False)
        if source is not None and source.card is not None and not (folder / "README.md").exists():
            own = source.class_name == type(self).__name__
            text = source.card if own else new_card(self.card_text, folder.resolve().name, source)
            Card(text, source.pictures).save(folder)
        if push_to_hub:
            self._push(folder, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As `DiffusionPipeline.save_pretrained`; with `push_to_hub`, it uploads the card of that method."""
        pushed = {name: kwargs.pop(name) for name in _PUSH_OPTIONS if name in kwargs}
        super().save_pretrained(save_directory, safe_serialization, variant, max_shard_size, **kwargs)  # type: ignore[misc]
        follow_umask(file for part in self.components for file in Path(save_directory, part).glob("*.safetensors"))  # type: ignore[attr-defined]
        if push_to_hub:
            self._push(Path(save_directory), **pushed)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> str:
        """Upload the pipeline with a model card; returns the address of the commit.

        The card is that of the folder or repository that the pipeline was loaded from, with its pictures; else the one
        that `repo_id` already has; else a new one, which states what is known of the pipeline.

        Args:
            repo_id: "name" or "owner/name"; made if it doesn't exist.
            commit_message: None names the uploaded class.
            private: of a repository that is made here; None leaves it to the settings of the owner.
            token: for the Hub; None takes the stored one.
            create_pr: propose the change instead of making it.
            safe_serialization: False writes pickles.
            variant: "fp16" writes diffusion_pytorch_model.fp16.safetensors beside what is there.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization, variant)
            return self._push(Path(folder), repo_id, commit_message, private, token, create_pr)

    def _push(
        self,
        folder: Path,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
    ) -> str:
        name = make_repository(repo_id or folder.resolve().name, private, token)
        card = self.make_card(name, token)
        card.save(folder)
        message = commit_message or f"Upload {type(self).__name__}"
        pushed = push_folder(folder, name, card, commit_message=message, token=token, create_pr=create_pr)
        return str(pushed.commit_url)

    @property
    def _source_name(self) -> str | None:
        name = self.config.get("_name_or_path")  # type: ignore[attr-defined]
        return None if name is None else str(name)

    def make_card(self, repo_id: str, token: str | None = None) -> Card:
        """The card of the pipeline in a repository, as `push_to_hub` chooses it."""
        source = find_source(self._source_name, token, online=True)
        if source is not None and source.card is not None and source.class_name == type(self).__name__:
            return Card(rename(source.card, source.name, repo_id), source.pictures)
        there = find_source(repo_id, token, online=True)
        if there is not None and there.card is not None:
            return Card(there.card)
        return Card(new_card(self.card_text, repo_id, source), {} if source is None else source.pictures)


# What is raised where a configuration holds values of wrong types; an OSError tells what isn't there.
_RAW_ERRORS = (
    *(ValueError, TypeError, AttributeError, NameError, LookupError, ArithmeticError, RuntimeError),
    SafetensorError,
)
_DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
_PUSH_OPTIONS = ("repo_id", "commit_message", "private", "token", "create_pr")


def make_repository(name: str, private: bool | None = None, token: str | None = None) -> str:
    """Make a repository on the Hub, unless it exists; returns its name with its owner.

    Args:
        name: "name" or "owner/name".
        private: None leaves it to the settings of the owner.
        token: None takes the stored one.

    Raises:
        InvalidInputError: the Hub refuses, or can't be reached.
    """
    try:
        return str(create_repo(name, private=private, token=token, exist_ok=True).repo_id)
    except Exception as error:  # those of the HTTP library too
        needs = (
            "A token with the right to write to it is needed: `hf auth login` stores one, HF_TOKEN or token= gives one"
        )
        hint = f". {needs}" if isinstance(error, (HfHubHTTPError, LocalTokenNotFoundError)) else ""
        raise InvalidInputError(
            f"the Hub can't make the repository {name!r}: {one_line(error).rstrip('.')}{hint}"
        ) from error


def installed(module: str | None) -> bool:
    """Whether classes of this module need a plug-in file, and can be imported by one."""
    top = str(module).partition(".")[0]
    return top not in ("None", "__main__", "diffusers", "diffusers_modules", "transformers")
