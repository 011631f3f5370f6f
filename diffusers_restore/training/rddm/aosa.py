"""Automatic objective selection of RDDM (arXiv:2308.13712): does a network predict the residual or the noise?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...errors import InvalidInputError, check_real
from ...files import write_text
from ...foreign import read_object
from ...pipelines.common import Network
from ..checkpoints import checkpoints
from ..config import LoopConfig, OptimizerConfig
from ..data import TrainingData
from ..loop import train
from ..objectives import Objective
from ..processes import is_main_process
from ..progress import Progress
from .objective import Noisy, RDDMObjective

BAND = 0.01  # the weight decides once it is this far from 0.5

DECISION = "selection.json"


@final
class Selector(nn.Module):
    """lambda, the weight of the residual: one learned number that starts at 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self) -> Tensor:
        return self.weight


def aosa_losses(
    output: Tensor,
    weight: Tensor,
    noisy: Tensor,
    degraded: Tensor,
    residual: Tensor,
    epsilon: Tensor,
    a: Tensor,
    b: Tensor,
) -> dict[str, Tensor]:
    """lambda |r_hat - r| + (1 - lambda) |eps_hat - eps|, where one output f is read as both.

        r_hat   = lambda f + (1 - lambda) (I_in - x0),   x0 of f read as eps: clip((I_t - a I_in - b f) / (1 - a))
        eps_hat = lambda e + (1 - lambda) f,             e of f read as r: (I_t - I_in + (1 - a) f) / b

    lambda is learned through all terms. Where a = 1, x0 is I_in, and where b = 0, e is 0: I_t doesn't determine them.

    Args:
        output: f, (B, C, H, W).
        weight: lambda, ().
        noisy: I_t.
        degraded: I_in.
        residual: r.
        epsilon: eps.
        a, b: of the timesteps, (B, 1, 1, 1).
    """
    known = a < 1
    x0 = ((noisy - a * degraded - b * output) / torch.where(known, 1 - a, 1.0)).clamp(-1, 1)
    as_noise = torch.where(known, degraded - x0, 0.0)
    as_residual = torch.where(b > 0, noisy - degraded + (1 - a) * output, 0.0) / torch.where(b > 0, b, 1.0)
    r_hat = weight * output + (1 - weight) * as_noise
    epsilon_hat = weight * as_residual + (1 - weight) * output
    return {
        "loss_residual": weight * (r_hat - residual).abs().mean(),
        "loss_epsilon": (1 - weight) * (epsilon_hat - epsilon).abs().mean(),
    }


@final
class AOSAObjective(Objective):
    """Trains "unet" and "selector" by `aosa_losses`, until lambda is 0.01 away from 0.5.

    Args:
        objective: of prediction_type "residual_epsilon", for its pictures, process and inputs.
    """

    def __init__(self, objective: RDDMObjective) -> None:
        self._objective = objective

    @property
    def phases(self) -> Mapping[str, tuple[str, ...]]:
        return {"unet": ("unet", "selector")}

    @property
    def averaged(self) -> tuple[str, ...]:
        return ()

    @property
    def criterion(self) -> str:
        return "weight"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Noisy:
        return self._objective.corrupt(batch, generator)

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Noisy) -> dict[str, Tensor]:
        x = torch.cat([corrupted.noisy, *corrupted.condition], dim=1)
        output = networks["unet"](x, corrupted.timesteps, return_dict=False)[0].float()
        residual, epsilon = corrupted.target.chunk(2, dim=1)
        scheduler = self._objective.scheduler
        a, b = (one.reshape(-1, 1, 1, 1) for one in scheduler.gathered_scales(corrupted.timesteps, output.dtype))
        return aosa_losses(output, networks["selector"](), corrupted.noisy, corrupted.degraded, residual, epsilon, a, b)

    def finished(self, networks: Mapping[str, nn.Module]) -> bool:
        """Whether lambda has left the band."""
        return abs(_weight(networks) - 0.5) >= BAND

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        return {self.criterion: next(networks["selector"].parameters())}

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        raise InvalidInputError("there is nothing to look at while an objective is selected")


def _weight(networks: Mapping[str, nn.Module]) -> float:
    return float(next(networks["selector"].parameters()).detach())


def select(
    objective: RDDMObjective,
    unet: Network,
    data: TrainingData,
    optimizer: OptimizerConfig,
    training: LoopConfig,
    max_steps: int,
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    dry_run: bool = False,
) -> Literal["residual", "epsilon"]:
    """What a network is to predict: "residual" if lambda rises above 0.51, "epsilon" if it falls below 0.49.

    A short run with the run's own network, batches and learning rate decides, in `output_dir`/selection; the decision
    is kept in selection.json, which a resumed run reads. After `max_steps` the side of 0.5 decides. `settings` are
    those of `train`.

    Raises:
        InvalidInputError: as `train`; a resumed run without a decision, or a decision made with other settings.
    """
    if dry_run:
        return "residual"  # both cost the same
    output_dir = Path(training.output_dir) / "selection"
    file = output_dir / DECISION
    settings = json.loads(json.dumps({**settings, "seed": training.seed}))
    selector = Selector()

    def decide(networks: Mapping[str, nn.Module], progress: Progress) -> None:
        weight = _weight(networks)
        decided = abs(weight - 0.5) >= BAND or progress.step >= max_steps
        decision = {"weight": weight, "step": progress.step, "decided": decided, "settings": settings}
        write_text(file, json.dumps(decision) + "\n")

    known = read_object(file) if file.exists() else {}
    if known.get("decided"):
        decided_with = known.get("settings")
        _check_settings(decided_with if isinstance(decided_with, dict) else {}, settings, training)
        weight = check_real(f"{str(file)!r}: weight", known.get("weight"))
    else:
        _check_begins(training)
        train(
            AOSAObjective(objective),
            {"unet": unet, "selector": selector},
            dataclasses.replace(data, validation=()),  # so that every measurement decides
            # Weight decay would pull lambda to 0, and a falling rate would stop it.
            {"unet": dataclasses.replace(optimizer, adam_weight_decay=0.0, lr_scheduler="constant")},
            dataclasses.replace(
                training, output_dir=str(output_dir), max_train_steps=max_steps, use_ema=False, push_to_hub=False
            ),
            export=decide,
            settings=settings,
            last_run=False,
        )
        weight = _weight({"selector": selector})
    chosen: Literal["residual", "epsilon"] = "residual" if weight >= 0.5 else "epsilon"
    if is_main_process():
        tqdm.write(f"the network is to say {chosen}: the weight of the residual went from 0.5 to {weight:.3f}")
    return chosen


def _check_begins(training: LoopConfig) -> None:
    """Raise InvalidInputError for a run without a decision whose training has started."""
    asked, existing = training.resume_from_checkpoint, checkpoints(Path(training.output_dir))
    if asked not in (None, "latest") or existing:
        raise InvalidInputError(
            f"prediction_type auto can't go on from {asked if asked not in (None, 'latest') else str(existing[-1])!r}, "
            "whose network says one thing already: give prediction_type residual or epsilon"
        )


def _check_settings(decided_with: Mapping[str, Any], settings: Mapping[str, Any], training: LoopConfig) -> None:
    """Raise InvalidInputError for a decision from a run that this one can't resume."""
    if training.resume_from_checkpoint is None:
        raise InvalidInputError(
            f"output_dir {training.output_dir!r} holds the selection of another run; go on with it by "
            "resume_from_checkpoint=latest, or take another folder"
        )
    for name, value in settings.items():
        if decided_with.get(name, value) != value:
            raise InvalidInputError(
                f"what the network says was selected with {name}: {decided_with[name]!r}, got {value!r}; a run goes on "
                "with the options that it began with, or begins anew in another output_dir"
            )
