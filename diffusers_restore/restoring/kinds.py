"""The kinds of model that restore, and the options that each has. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import DEFAULT_OLD_PHOTO_RESTORER, DEFAULT_PRIOR, DEFAULT_RESTORER
from ..errors import one_line, unknown_name
from .arguments import ArgumentError, ModelError

if TYPE_CHECKING:
    from .restorer import Restorer

FILE_ARGUMENTS = ("mask", "kernel")
"""Arguments of tasks that are given as a file, each as an option of its own."""

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        noun: its name in messages.
        pipeline: the name of its class in this package, as in the index of a saved one.
        options: those of `load` that not every kind has.
        home: "module:Class" of its `Restorer`.
    """

    noun: str
    pipeline: str
    options: tuple[str, ...]
    home: str

    def restorer(self, model: str, **options: Any) -> Restorer:
        """Its `Restorer` for a model with these options; imported now.

        Raises:
            ArgumentError: an option that can't be used.
        """
        module, _, name = self.home.partition(":")
        made: Restorer = getattr(import_module(module, __package__), name)(**options)
        made.settings = {"model": _BUNDLED.get(model, model), **options}
        return made


_BUNDLED = {
    DEFAULT_PRIOR: "bundled prior",
    DEFAULT_RESTORER: "bundled restorer",
    DEFAULT_OLD_PHOTO_RESTORER: "bundled restorer of old photographs",
}
_MASK = ("mask", "invert_mask", "mask_threshold")
_SAMPLING = ("seed", "samples", "average")
_SWITCHES = ("average", "direct", "faded", "invert_mask")

PRIOR = Kind(
    "an unconditional DDPM",
    "DDRMPipeline",
    (
        *("task", "operator_args", *_MASK, "kernel", "sigma_y", "method", "method_args", "eta", "eta_b"),
        *("class_label", *_SAMPLING, "tile"),
    ),
    ".zero_shot:ZeroShotRestorer",
)
COLD = Kind("a ColdDiffusionPipeline", "ColdDiffusionPipeline", ("start", "direct", "tile"), ".trained:ColdRestorer")
RDDM = Kind("an RDDMPipeline", "RDDMPipeline", (*_MASK, *_SAMPLING, "tile"), ".trained:RDDMRestorer")
PIX2PIX = Kind("a Pix2PixPipeline", "Pix2PixPipeline", _SAMPLING, ".trained:Pix2PixRestorer")
OLD_PHOTO = Kind("an OldPhotoPipeline", "OldPhotoPipeline", _MASK, ".trained:OldPhotoRestorer")
SCRATCHED = Kind(
    "the bundled restorers", "", ("scratches", "faded", *_MASK, "seed", "tile"), ".scratched:ScratchRestorer"
)
KINDS = (PRIOR, COLD, RDDM, PIX2PIX, OLD_PHOTO, SCRATCHED)

DETECTOR = Kind("a ScratchDetectionPipeline", "ScratchDetectionPipeline", (), "")
"""What is no restorer, but a part of one."""


def choose(model: str | PathLike[str] | None, given: Iterable[str]) -> tuple[str, Kind]:
    """The model that restores, the bundled ones included, and its kind.

    Args:
        model: a repository or a folder; None is the bundled prior where there is a task, else the bundled restorer.
        given: names of the options that were given, of those that not every kind has.

    Raises:
        ArgumentError: an option that this kind of model doesn't have.
        ModelError: it has no index that can be read.
    """
    given = list(given)
    of_old = [name for name in ("scratches", "faded") if name in given]
    if of_old and "task" in given:
        raise ArgumentError(
            f"{{{of_old[0]}}} and {{task}} exclude each other: a task says exactly what was done to the picture, which "
            f"nobody knows of an old photograph; restore it with {{{of_old[0]}}} first, then the result with {{task}}"
        )
    if model is not None:
        model = _as_text(model)
        # With a folder that isn't there, all may be done already; else loading says so.
        absent = is_absent_folder(model) and "task" in given
        kind, this = PRIOR if absent else find_kind(model), "this {model} is {1}"
    elif of_old:
        model, kind = DEFAULT_OLD_PHOTO_RESTORER if "faded" in given else DEFAULT_RESTORER, SCRATCHED
        this = f"{{{of_old[0]}}} leaves the choice of models and steps to {{1}}"
    elif {"task", "operator_args", "mask", "kernel", "method", "method_args"}.isdisjoint(given):
        model, kind, this = DEFAULT_RESTORER, RDDM, "the bundled restorer is {1}"
    else:
        model, kind, this = DEFAULT_PRIOR, PRIOR, "the bundled prior is {1}"
    for name in given:
        able = [other.noun for other in KINDS if name in other.options]
        if kind is RDDM and model == DEFAULT_RESTORER and PRIOR.noun in able and kind.noun not in able:
            raise ArgumentError(f"{{{name}}} needs {{task}}, which says what was done to the picture, such as denoise")
        if able and kind.noun not in able:
            those = " or ".join([", ".join(able[:-1]), able[-1]] if len(able) > 1 else able)
            raise ArgumentError(f"{{{name}}} is for {{0}}; {this}", those, kind.noun)
    return model, kind


def _as_text(model: Any) -> str:
    if not isinstance(model, (str, PathLike)) or not isinstance(fspath(model), str) or not fspath(model):
        raise ArgumentError("{model} must be a repository of the Hub or a folder, got {0!r:.99}", model)
    return str(fspath(model))


def find_kind(model: str | PathLike[str]) -> Kind:
    """The kind of a repository or folder: that of a trained pipeline of this package, else a prior.

    Raises:
        ArgumentError: it is neither.
        ModelError: it has no index that can be read, or makes masks.
    """
    model = _as_text(model)
    if is_absent_folder(model):
        raise ModelError("{model}: there is no folder {0!r}", model)
    from diffusers import DiffusionPipeline

    from ..hub.repositories import INDEX, read_index
    from ..hub.weights import load_index

    file = Path(model) / INDEX
    try:
        index = read_index(file) if file.is_file() else load_index(DiffusionPipeline, model)
    except (OSError, ValueError) as error:
        raise ModelError("{model} {0!r} cannot be loaded: {1}", model, why_not(model, error)) from error
    name = index.get("_class_name") if isinstance(index, dict) else None
    name = name[-1] if isinstance(name, list) else name
    if name == "ScratchDetectionPipeline":
        raise ModelError(
            "{model} {0!r} is a ScratchDetectionPipeline: it finds scratches, and makes no pictures", model
        )
    return next((kind for kind in KINDS if kind.pipeline == name), PRIOR)


def why_not(model: str, error: Exception) -> str:
    """Why there is no model in a folder or repository, with what to do; else the error itself."""
    folder = Path(model)
    if folder.is_file():
        return "it is a file; a model is a folder or a repository, which `convert` makes of a checkpoint's file"
    if not folder.is_dir():
        if "model_index.json" not in str(error) and "couldn't connect" not in str(error).lower():
            return one_line(error)
        return (
            "there is no folder of this name, and no such pipeline of the Hugging Face Hub can be reached (without a "
            "network, a repository must have been loaded before)"
        )
    return one_line(error) if (folder / "model_index.json").exists() else why_no_pipeline(folder)


def why_no_pipeline(folder: Path) -> str:
    """What a folder without an index is, and what to do."""
    if (folder / "state.json").exists():
        run = folder.parent
        if (run / "model_index.json").exists():
            return f"it is a checkpoint of a training; the model is in {fspath(run)!r}"
        return f"it is a checkpoint of a training, which writes the model to {fspath(run)!r} when it ends"
    if (folder / "config.json").exists():
        if (folder.parent / "model_index.json").exists():
            return f"it holds a network alone; the model is in {fspath(folder.parent)!r}"
        return (
            "it holds a network alone, without a scheduler; examples/restore_hub_unet.py shows how to save both as a "
            "pipeline"
        )
    return "it has no model_index.json; a model is a folder that `train`, `convert` or save_pretrained has written"


def is_absent_folder(model: str) -> bool:
    """Whether this can only be a folder, and doesn't exist."""
    return not Path(model).exists() and (Path(model).is_absolute() or len(Path(model).parts) > 2 or model[0] in ".~")


def load(
    model: str | PathLike[str] | None = None,
    *,
    steps: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    **options: Any,
) -> Restorer:
    """A model with the options of its calls, ready to restore.

    Args:
        model: an unconditional DDPM, a `ColdDiffusionPipeline`, an `RDDMPipeline`, a `Pix2PixPipeline` or an
            `OldPhotoPipeline`: a repository of the Hub or a folder; None is the bundled prior where there is a task,
            else the bundled restorer.
        steps: network evaluations; None is the model's own number.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        dtype: of the network: "auto", "float32", "bfloat16" or "float16".
        options: of the model's kind: see `ZeroShotRestorer`, `ColdRestorer`, `RDDMRestorer`, `Pix2PixRestorer`,
            `OldPhotoRestorer`; None is not given.

    Raises:
        ArgumentError: an option that the kind of model doesn't have, or that can't be used.
        ModelError: the model can't be loaded, or can't do this.
    """
    off = {name for name in _SWITCHES if options.get(name) is False}  # of an option that a kind doesn't have, too
    options = {name: value for name, value in options.items() if value is not None and name not in off}
    known = {"max_pixels", "strength", "quality", *(name for kind in KINDS for name in kind.options)}
    for name in options:
        if name not in known:
            raise ArgumentError("{0}", unknown_name("option", name, known))
    chosen, kind = choose(model, options)
    restorer = kind.restorer(chosen, steps=steps, **options)
    restorer.settings["dtype"] = str(dtype)
    restorer.load(chosen, device, dtype)
    return restorer
