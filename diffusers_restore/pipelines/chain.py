"""Shared by the chains of all pipelines: a separate scheduler for each call, timesteps, progress and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, TypeVar

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, cat

from ..errors import InvalidInputError, unknown_name
from ..tensors import described

Callback = Callable[[DiffusionPipeline, int, int, dict[str, Tensor]], dict[str, Tensor] | None]
Step = Callable[[int, Sequence[Tensor]], Sequence[tuple[Tensor, ...]]]
"""(timestep, the state of each part of the batch) -> (next state, estimates ...) of each part."""

S = TypeVar("S", bound=SchedulerMixin)

_STATE = ("latents", "sample")
"""The names of the state in a callback: that of diffusers, and ours."""


def own_scheduler(scheduler: Any, kind: type[S]) -> S:
    """A shallow copy of the scheduler for one call, so that threads may share a pipeline.

    What a method's `step` sets on itself ends with the call; lists and dicts from its `__init__` are shared.
    `pipe.scheduler` and `pipe.num_timesteps` are those of the call that began last, in any thread.

    Args:
        scheduler: that of the pipeline.
        kind: the class that it must have.

    Raises:
        InvalidInputError: the pipeline's scheduler was replaced by one of another kind.
    """
    if not isinstance(scheduler, kind):
        of_any = kind.__name__ == "ZeroShotScheduler"  # it fits the scheduler of any DDPM
        name = "DDRMScheduler" if of_any else kind.__name__
        how = (
            "from_config(pipe.scheduler.config), or give it to the constructor"
            if of_any
            else 'from_pretrained(folder, subfolder="scheduler"), the one that the network was trained with'
        )
        raise InvalidInputError(
            f"scheduler must be a {name}, got {type(scheduler).__name__}; set pipe.scheduler = {name}.{how}"
        )
    return copy(scheduler)


def check_callback(callback: Callback | None, names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """The tensors that the callback gets: `names`, or what a callback object of diffusers asks for.

    Raises:
        InvalidInputError: not a callback, or a tensor that it can't get.
    """
    if callback is not None and not callable(callback):
        raise InvalidInputError(f"callback_on_step_end must be a function or None, got {callback!r}")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs
    if not isinstance(names, (list, tuple)):
        raise InvalidInputError(f"callback_on_step_end_tensor_inputs must be a list of names, got {names!r}")
    for name in names:
        if name not in known:
            raise unknown_name("callback tensor", name, known)
    return names


class Watch:
    """Notes what networks and callbacks gave, and finds at the end of a chain who gave NaN or Inf, and when.

    The largest values stay on their device until `check`, so that steps have no host sync.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[str, int, Tensor]] = []

    def see(self, who: str, timestep: int, given: Tensor) -> Tensor:
        """`given`, after noting its extremes, which are NaN or Inf if anything in it is."""
        self._seen.append((who, timestep, torch.stack(torch.aminmax(given.detach().float()))))
        return given

    def check(self) -> None:
        """Raise InvalidInputError for the first that was not finite."""
        finite = torch.stack([extremes for *_, extremes in self._seen]).isfinite().all(dim=1).tolist()
        for (who, timestep, _), right in zip(self._seen, finite, strict=True):
            if not right and who == "the scheduler's step":
                raise InvalidInputError(
                    f"{who} gave NaN or Inf at timestep {timestep}: the chain diverged. A method that follows "
                    "gradients needs smaller steps, such as a smaller zeta of DPS, or more timesteps"
                )
            if not right:
                raise InvalidInputError(
                    f"{who} gave NaN or Inf at timestep {timestep}: torch.float16 overflows, so try torch.float32 or "
                    "torch.bfloat16 (pipe.to(torch.float32)); if it isn't that, look for NaN in the network's weights"
                )


def run_chain(
    pipe: DiffusionPipeline,
    timesteps: Sequence[int],
    states: Sequence[Tensor],
    step: Step,
    callback: Callback | None,
    asked: Sequence[str],
    watch: Watch,
) -> Tensor:
    """Run a chain, with progress and a callback after each timestep; returns the last state (B, C, H, W).

    Args:
        pipe: shows the progress bar and is passed to the callback; its `_callback_tensor_inputs` name what `step`
            returns, beside "latents", which is the state under the name that diffusers uses.
        timesteps: of the chain.
        states: the first states, (b, C, H, W), of the parts that go through the network together.
        step: makes the next ones.
        callback: of the call, or None.
        asked: the tensors that it gets, from `check_callback`.
        watch: sees what the networks give to `step`.

    Raises:
        InvalidInputError: a network or the callback gave NaN or Inf, or a callback returned what it can't.
    """
    size = len(states[0])
    with pipe.progress_bar(total=len(timesteps)) as progress:
        for i, t in enumerate(timesteps):
            made = step(t, states)
            states = [one[0] for one in made]
            if callback is not None:
                whole = map(cat, zip(*made, strict=True))
                names = [name for name in pipe._callback_tensor_inputs if name != "latents"]
                tensors = dict(zip(names, whole, strict=True))
                tensors["latents"] = tensors["sample"]
                given = {name: tensors[name] for name in asked}
                answer = callback(pipe, i, t, dict(given))
                state = watch.see("callback_on_step_end", t, _replace(tensors["sample"], answer, given))
                states = state.split(size)
            progress.update()
    last = watch.see("the scheduler's step", timesteps[-1], cat(list(states)))
    watch.check()
    return last


def _replace(sample: Tensor, answer: Any, given: dict[str, Tensor]) -> Tensor:
    """The state, or a callback's replacement for it, as "latents" or "sample".

    The callback may return all tensors that it was given; one that it left as it was replaces nothing.
    """
    if answer is None:
        return sample
    accepted = f"None or {{'sample': a float tensor {tuple(sample.shape)}}} (or 'latents')"
    if not isinstance(answer, dict) or not all(name in given or name in _STATE for name in answer):
        raise InvalidInputError(f"callback_on_step_end must return {accepted}, got {answer!r:.99}")
    changed = {name: value for name, value in answer.items() if value is not given.get(name, sample)}
    for name, value in changed.items():
        if name not in _STATE:
            raise InvalidInputError(f"callback_on_step_end can replace 'sample' alone, and not {name!r}")
        fits = isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided
        if not fits or value.shape != sample.shape:
            raise InvalidInputError(f"callback_on_step_end must return {accepted}, got {name!r}: {described(value)}")
    if not changed:
        return sample
    first, *others = changed.values()
    if not all(other is first or torch.equal(other.to(first), first) for other in others):
        raise InvalidInputError(
            "callback_on_step_end must not return two states: 'latents' and 'sample' are one tensor; return either"
        )
    return first.to(sample)
