"""Looking at a restoration while it is made, and stopping it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..pipelines.common import uncompiled


class Stopped(Exception):  # noqa: N818  # no error: what was asked for
    """A restoration ended before its time, because it was asked to."""


@dataclass(frozen=True)
class Step:
    """A step of a restoration.

    Attributes:
        sample: which of the samples is drawn, 1 the first.
        number: of the step, 1 the first.
        count: of all steps of this sample.
        estimate: what the picture will be, as far as is known: (B, C, H, W), about in [-1, 1].
    """

    sample: int
    number: int
    count: int
    estimate: Tensor


def watched(watch: Callable[[Step], object] | None, sample: int, shape: Sequence[int]) -> dict[str, Any]:
    """The options of a pipeline's call by which each step is watched; {} if nobody looks.

    Args:
        watch: looks at steps.
        sample: which one is drawn, 0 the first.
        shape: (..., H, W) of the picture, without what is beneath it and to its right for the network.
    """
    height, width = shape[-2:]
    if watch is None:
        return {}

    def look(pipe: Any, i: int, t: int, tensors: dict[str, Tensor]) -> None:
        estimate = tensors["pred_original_sample"][..., :height, :width]
        watch(Step(sample + 1, i + 1, pipe.num_timesteps, estimate))

    return {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": ["pred_original_sample"]}


@contextmanager
def stoppable(pipes: Iterable[Any], stop: Callable[[], bool] | None) -> Iterator[None]:
    """Within it, no network of the pipelines begins an evaluation once `stop` is true.

    A picture in tiles stops between two of them.

    Raises:
        Stopped: `stop` was true.
    """
    if stop is None:
        yield
        return

    def look(*_: Any) -> None:
        if stop():
            raise Stopped

    networks = {uncompiled(one) for pipe in pipes for one in pipe.components.values() if isinstance(one, nn.Module)}
    handles = [network.register_forward_pre_hook(look) for network in networks]
    try:
        look()
        yield
    finally:
        for handle in handles:
            handle.remove()
