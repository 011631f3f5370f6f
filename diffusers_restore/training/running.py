"""A run of any method: the common part of all `train_*`, given networks, pictures and an objective."""

from __future__ import annotations

import copy
import dataclasses
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import nn
from tqdm.auto import tqdm

from ..hub.cards import CardText, public
from ..pipelines.common import Network
from .config import DataConfig, LoopConfig, OptimizerConfig, flatten, to_yaml
from .cost import step_cost
from .data import TrainingData
from .export import export_pipeline, model_card
from .loop import train
from .objectives import Objective
from .processes import is_main_process
from .progress import Progress, Savable

RESTORE = "diffusers-restore restore photo.png -o out.png --model {folder}"
SAMPLE = "diffusers-restore sample {folder} -o grid.png"


class MethodConfig(Protocol):
    """The common parts of all methods' configurations."""

    @property
    def data(self) -> DataConfig:
        """The pictures."""

    @property
    def optimizer(self) -> OptimizerConfig:
        """The optimiser."""

    @property
    def training(self) -> LoopConfig:
        """The options of the loop."""


@final
@dataclass(frozen=True)
class Run:
    """A method's part of a run.

    Attributes:
        objective: of the training.
        networks: to train, by the names that the pipeline has for them.
        data: the pictures.
        optimizers: of each phase of the objective.
        options: all options that mean something in this run, by name.
        settings: what a resumed run must share with it, as JSON values.
        make_pipeline: makes what is saved, a pipeline or a network, and its card's text, from float32 copies of the
            measured networks.
        title: of the model card, after the name of the folder.
        shown: what the pictures of the card show.
        figures: what the names of the figures of the card mean.
        base: the repository or folder whose network the run started from.
        tries: commands to try it by, with {folder} for its folder.
    """

    objective: Objective
    networks: Mapping[str, Network]
    data: TrainingData
    optimizers: Mapping[str, OptimizerConfig]
    options: Mapping[str, object]
    settings: Mapping[str, object]
    make_pipeline: Callable[[dict[str, Any]], tuple[Savable, CardText]]
    title: str
    shown: str
    figures: str
    base: str | None
    tries: tuple[str, ...]


def fits(network: nn.Module, dtype: torch.dtype) -> bool:
    """Whether all numbers of a network are within the range of a dtype."""
    values = [one.detach() for one in network.state_dict().values() if one.is_floating_point() and one.numel()]
    return all(float(one.abs().max()) <= torch.finfo(dtype).max for one in values)


def start(run: Run, config: MethodConfig, *, dry_run: bool) -> None:
    """Train; `config.training.output_dir` is then a repository of the pipeline.

    With `dry_run`, all options and the cost of a step are printed, and nothing is written.

    Raises:
        InvalidInputError: as `train`.
        FloatingPointError: as `train`.
        TrainingStopped: as `train`.
    """
    if dry_run:
        print(to_yaml(run.options))
        print(step_cost(run.objective, run.networks, run.data, run.optimizers, config.training))
        return
    output_dir = Path(config.training.output_dir)

    def export(measured: Mapping[str, nn.Module], progress: Progress) -> None:
        networks = {name: copy.deepcopy(network).eval() for name, network in measured.items()}
        pipeline, text = run.make_pipeline(networks)
        dtype = getattr(torch, config.training.export_dtype)
        for name, network in networks.items():
            if fits(network, dtype):
                nn.Module.to(network, dtype)  # diffusers' own warns about nothing
            else:
                tqdm.write(f"{name} is exported in float32: its numbers exceed those of {config.training.export_dtype}")
        card = model_card(
            f"{output_dir.resolve().name}: {run.title}",
            text,
            run.shown,
            run.figures,
            run.data,
            to_yaml({name: public(value, is_path=name.endswith("_dir")) for name, value in run.options.items()}),
            progress,
            training=config.training,
            dataset=config.data.dataset_name,
            base=run.base,
            warning=run.objective.find_worse(progress.figures),
        )
        export_pipeline(pipeline, card, progress, output_dir)

    train(run.objective, run.networks, run.data, run.optimizers, config.training, export=export, settings=run.settings)
    if is_main_process():
        folder = shlex.quote(config.training.output_dir)
        tries = [line.format(folder=folder) for line in run.tries]
        lines = [f"done, in {config.training.output_dir}" + "; try:" * bool(tries), *tries]
        tqdm.write("\n  ".join(lines))


def used_options(config: Any, unused: Collection[str] = ()) -> dict[str, object]:
    """The options of a configuration by name, without those that mean nothing in this run."""
    return {name: value for name, value in flatten(config).items() if name not in unused}


def choose(options: Mapping[str, object], names: Collection[str]) -> dict[str, object]:
    """Those of `options` that have one of the names, in the order of the names."""
    return {name: options[name] for name in names if name in options}


def defining(*parts: type, more: Collection[str] = ()) -> tuple[str, ...]:
    """The options that a resumed run must share with the run that it resumes, beside those of the loop.

    Args:
        parts: parts of the configuration, with all their options.
        more: others.
    """
    names = [option.name for part in parts for option in dataclasses.fields(part)]
    return (*names, "validation_resolution", "validation_data_dir", "validation_images", "optimizer", *more)
