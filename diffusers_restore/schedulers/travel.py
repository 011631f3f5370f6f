"""Time travel: a chain that runs stretches of its timesteps again, from a state that is re-noised to their start."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .zero_shot import ZeroShotScheduler


def travel(count: int, length: int, repeats: int) -> list[int]:
    """The order in which `count` timesteps are evaluated, as their numbers counted from the end, count - 1 first.

    Whenever the chain reaches a timestep that a stretch of `length` ends with, it goes back to the start of the
    stretch, until it has run it `repeats` times (arXiv:2201.09865, algorithm 1). The last step is always from 0.
    """
    left = dict.fromkeys(range(0, count - length, length), repeats - 1)
    order, t = [], count - 1
    while t >= 0:
        if left.get(t, 0) > 0:
            left[t] -= 1
            t += length
        order.append(t)
        t -= 1
    return order


class TimeTravelScheduler(ZeroShotScheduler):
    """A method with the options `travel_length` and `travel_repeats`; `timesteps` are those evaluated, in their order.

    Its steps have to be taken in that order, by one copy of the scheduler for each chain.
    """

    def _use_all_timesteps(self) -> None:
        """T-1..0, once each."""
        super()._use_timesteps(range(len(self) - 1, -1, -1))
        self.num_inference_steps = None
        self._position, self._order = 0, self.timesteps.tolist()

    def _use_timesteps(self, chosen: Sequence[int], device: str | torch.device | None = None) -> None:
        super()._use_timesteps(chosen, device)
        self._position = 0
        order = travel(len(chosen), self.config.travel_length, self.config.travel_repeats)
        self._order = [chosen[len(chosen) - 1 - i] for i in order]
        self.timesteps = torch.tensor(self._order, device=device)

    def _resumed(self, timestep: int, following: int) -> int:
        order = self._order
        ahead = order[self._position :]
        # As with diffusers' multistep schedulers, a chain may begin at any of its timesteps.
        position = self._position + ahead.index(timestep) if timestep in ahead else order.index(timestep)
        self._position = position + 1
        return order[position + 1] if position + 1 < len(order) else -1
