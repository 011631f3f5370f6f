"""Strips of pictures that show Cold Diffusion over the severities."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..errors import check_int
from ..pipelines.pipeline_cold_diffusion import ColdDiffusionPipeline
from ..schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler
from .report import Cell


def severity_strips(
    pipe: ColdDiffusionPipeline, picture: Tensor, *, columns: int = 8, generator: torch.Generator | None = None
) -> list[tuple[str, list[Cell]]]:
    """Four rows for `contact_sheet`, from severity T on the left to 0 on the right.

    The picture degraded, D(x, t); the direct reconstruction from that, R(D(x, t)); and the states x_t of Algorithms 1
    and 2, which both start from D(x, T) and take every severity.

    Args:
        pipe: the pipeline; its scheduler is left as it is.
        picture: a clean one, (1, C, H, W) in [-1, 1].
        columns: how many severities are shown, at least 2.
        generator: for the state of the degradation.
    """
    scheduler = pipe.scheduler
    last = len(scheduler)
    columns = min(check_int("columns", columns, 2), last + 1)
    severities = [round(last * (columns - 1 - i) / (columns - 1)) for i in range(columns)]
    state = scheduler.sample_state(picture, generator)
    quiet = _quiet(pipe, scheduler.config.algorithm)
    degraded = {t: scheduler.degrade(picture, t, state) for t in severities}
    rows = {"degraded": degraded, "direct": {t: _direct(quiet, degraded[t], t) for t in severities}}
    for name, algorithm in (("Algorithm 1", "naive"), ("Algorithm 2", "improved")):
        rows[name] = _chain(_quiet(pipe, algorithm), degraded[last], state)
    return [
        (label, [Cell(f"t = {t}" if label == "degraded" else "", shown[t][0]) for t in severities])
        for label, shown in rows.items()
    ]


def _direct(pipe: ColdDiffusionPipeline, degraded: Tensor, t: int) -> Tensor:
    if t == 0:
        return degraded
    return cast(Tensor, pipe(degraded, start=t, direct=True, output_type="latent", return_dict=False)[0])


def _quiet(pipe: ColdDiffusionPipeline, algorithm: str) -> ColdDiffusionPipeline:
    """The same network with a separate scheduler, since a call sets its timesteps, and without progress bars."""
    own = ColdDiffusionPipeline(
        pipe.unet, ColdDiffusionScheduler.from_config(pipe.scheduler.config, algorithm=algorithm)
    )
    own.set_progress_bar_config(disable=True)
    return own


def _chain(pipe: ColdDiffusionPipeline, start: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
    """The states by severity."""
    states = {len(pipe.scheduler): start}

    def keep(_: object, step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
        states[timestep] = tensors["sample"]  # every severity is taken: after timestep t - 1 comes t - 1

    pipe(start, state=state, output_type="latent", callback_on_step_end=keep)
    return states
