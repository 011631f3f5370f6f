"""The state of a run, which checkpoints hold: networks, their running averages, their optimisers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InvalidInputError
from .bfloat16_copy import BFloat16Copy
from .checkpoints import load_optimizer_tensors, optimizer_tensors
from .config import LoopConfig, OptimizerConfig
from .objectives import Objective
from .step import make_copies, make_optimizers


@final
@dataclass(frozen=True)
class RunState:
    """Networks and optimisers of a run, by name and by phase, on its device.

    Attributes:
        networks: all of them, with the float32 weights that are trained, averaged and saved.
        trained: those of them that some phase steps.
        averages: the running averages of those that have one.
        optimizers: of each phase.
        copies: of the trained networks, used where that is faster.
        working: `networks`, or their copies.
        wrapped: `working` as accelerate runs them: compiled, exchanging gradients.
        stepped: `optimizers` as accelerate steps them.
    """

    networks: Mapping[str, nn.Module]
    trained: Mapping[str, nn.Module]
    averages: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    copies: Mapping[str, BFloat16Copy]
    working: Mapping[str, nn.Module]
    wrapped: Mapping[str, nn.Module]
    stepped: Mapping[str, Optimizer]
    _emas: Mapping[str, EMAModel]

    @property
    def measured(self) -> dict[str, nn.Module]:
        """The networks to measure and to export: averaged where they are averaged."""
        return {**self.networks, **self.averages}

    def update_averages(self) -> None:
        """Add the weights after a step to the running averages."""
        for name, ema in self._emas.items():
            ema.step(self.networks[name].parameters())

    def copy_buffers(self) -> None:
        """Give the averages the buffers of their networks, which aren't averaged."""
        for name, average in self.averages.items():
            for source, target in zip(self.networks[name].buffers(), average.buffers(), strict=True):
                target.copy_(source)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors of a checkpoint, by the names of its files."""
        tensors: dict[str, Mapping[str, Tensor]] = {}
        for name, network in self.trained.items():
            tensors[name] = network.state_dict()
        for name, average in self.averages.items():
            tensors[f"{name}.average"] = average.state_dict()
        for phase, optimizer in self.optimizers.items():
            tensors[f"optimizer.{phase}"] = optimizer_tensors(optimizer)
        return tensors


def make_state(
    accelerator: Accelerator,
    objective: Objective,
    networks: Mapping[str, nn.Module],
    optimizer_configs: Mapping[str, OptimizerConfig],
    config: LoopConfig,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
    step: int = 0,
) -> RunState:
    """Move `networks` to the device and make the state of the run; after step 0, from the `tensors` of a checkpoint.

    Raises:
        InvalidInputError: the checkpoint is from other networks or optimisers.
        UnknownNameError: a phase has no configuration.
    """
    trained = {name: networks[name] for names in objective.phases.values() for name in names}
    for network in networks.values():
        network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.eval()
    copies = make_copies(accelerator, trained)  # before the optimisers, which copy the weights' memory layout
    averages: dict[str, nn.Module] = {}
    if config.use_ema:
        averages = {name: copy.deepcopy(networks[name]).requires_grad_(False) for name in objective.averaged}
    optimizers = make_optimizers(objective, networks, optimizer_configs)
    if step:
        _restore(tensors, trained, averages, optimizers)
        for one in copies.values():
            one.push_weights()
            one.push_buffers()
    working = {**networks, **{name: one.network for name, one in copies.items()}}
    return RunState(
        networks,
        trained,
        averages,
        optimizers,
        copies,
        working,
        wrapped={**networks, **{name: accelerator.prepare(working[name].train()) for name in trained}},
        stepped={phase: accelerator.prepare(optimizer) for phase, optimizer in optimizers.items()},
        _emas={name: _make_ema(average, step, config) for name, average in averages.items()},
    )


def _restore(
    tensors: Mapping[str, Mapping[str, Tensor]],
    networks: Mapping[str, nn.Module],
    averages: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> None:
    try:
        for name in networks:
            networks[name].load_state_dict(tensors[name])
        for name, average in averages.items():
            average.load_state_dict(tensors[f"{name}.average"])
        for phase, optimizer in optimizers.items():
            load_optimizer_tensors(optimizer, tensors[f"optimizer.{phase}"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InvalidInputError(
            f"the checkpoint is one of other networks or optimisers than those of this run: {error}"
        ) from error


def _make_ema(average: nn.Module, step: int, config: LoopConfig) -> EMAModel:
    """diffusers' EMA, whose shadow parameters are those of the network `average`."""
    ema = EMAModel(
        average.parameters(),
        decay=config.ema_max_decay,
        use_ema_warmup=True,
        inv_gamma=config.ema_inv_gamma,
        power=config.ema_power,
        foreach=True,
    )
    ema.shadow_params = list(average.parameters())
    ema.optimization_step = step
    return ema
