"""One step of the training loop: its batches, rates, losses, gradients and optimisers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from ..errors import InvalidInputError, unknown_name
from .bfloat16_copy import BFloat16Copy
from .config import LoopConfig, OptimizerConfig
from .data import to_unit
from .muon import Muon, hidden_convolutions
from .objectives import Objective

COMPILED_TOLERANCE = 0.1  # in bfloat16, compiling changes the gradients' rounding by about a percent
MUON_RATE = 3.0  # learning rate of the matrices relative to AdamW's
_NOISE, _DROPOUT = 1, 2  # purposes of random streams; data.py has its own


def optimizer_step(
    accelerator: Accelerator,
    objective: Objective,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    corrupted: Iterable[Any],
    config: LoopConfig,
    step: int,
    copies: Mapping[str, BFloat16Copy] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of every phase over the micro-batches; returns losses and gradient norms, (), without a host sync.

    Gradients are exchanged between processes with the last micro-batch only, and clipped for each network separately.
    Dropout is drawn separately for each phase and place in the global batch. Where `networks` holds copies, the
    optimisers are those of their masters.
    """
    losses: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    count = config.gradient_accumulation_steps
    if len(objective.phases) > 1:
        corrupted = list(corrupted)  # every phase uses them; a single phase can stream them
    for number, (phase, names) in enumerate(objective.phases.items()):
        frozen = {name: network for name, network in networks.items() if name not in names}
        view = {
            name: accelerator.unwrap_model(network, keep_fp32_wrapper=True) if name in frozen else network
            for name, network in networks.items()
        }
        summed: dict[str, Tensor] = {}
        with _freeze(frozen.values()):
            for i, micro_batch in enumerate(corrupted):
                place = i * accelerator.num_processes + accelerator.process_index
                torch.manual_seed(_make_seed(config.seed, _DROPOUT, step, place, number))
                with contextlib.ExitStack() as stack:
                    if i < count - 1:
                        for name in names:
                            stack.enter_context(accelerator.no_sync(networks[name]))
                    terms = objective.losses(phase, view, micro_batch)
                    accelerator.backward(torch.stack(list(terms.values())).sum() / count)
                for name, term in terms.items():
                    value = term.detach() / count
                    summed[name] = summed[name] + value if name in summed else value
        if losses.keys() & summed.keys():
            raise InvalidInputError(f"objective: two phases have a loss named {min(losses.keys() & summed.keys())!r}")
        losses |= summed
        accelerator.unscale_gradients(optimizers[phase])
        for name in names:
            stepped = networks[name]
            if name in copies:
                copies[name].pull_gradients()
                stepped = copies[name].master
            limit = config.max_grad_norm or math.inf
            norms[f"grad_norm/{name}"] = nn.utils.clip_grad_norm_(stepped.parameters(), limit).detach()
        optimizers[phase].step()
        optimizers[phase].zero_grad()
        for name in copies.keys() & set(names):
            copies[name].push_weights()
    for one in copies.values():  # all of them: a network's running means also change in the phases of others
        one.pull_buffers()
    return losses, norms


def check_compiled(
    accelerator: Accelerator,
    objective: Objective,
    compiled: Mapping[str, nn.Module],
    networks: Mapping[str, nn.Module],
    corrupted: Any,
) -> None:
    """Compare the gradients of the compiled networks on a micro-batch with those of the networks themselves.

    torch.compile can give wrong ones without any error: with torch 2.13 on a CPU, those of a `UNet2DModel` are off by
    30 to 50 %. Networks with dropout can't be compared, since it is drawn differently.

    Raises:
        FloatingPointError: they differ by more than 10 % in norm, over a phase.
    """
    dropout = [one for network in networks.values() for one in network.modules() if isinstance(one, nn.Dropout)]
    if any(one.p for one in dropout):
        tqdm.write("the networks have dropout: whether torch.compile gives the right gradients can't be checked")
        return
    for phase, names in objective.phases.items():
        parameters = [one for name in names for one in networks[name].parameters() if one.requires_grad]
        gradients = []
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(accelerator.no_sync(compiled[name]))
            for view in (compiled, networks):
                terms = objective.losses(phase, view, corrupted)
                torch.stack(list(terms.values())).sum().backward()
                gradients.append(torch.cat([one.grad.flatten() for one in parameters if one.grad is not None]))
                for network in networks.values():
                    network.zero_grad()
        by_compiled, by_itself = gradients
        error = float((by_compiled - by_itself).norm() / by_itself.norm())
        if not error < COMPILED_TOLERANCE:
            raise FloatingPointError(
                f"torch.compile gives wrong gradients here, off by {error:.0%} in {phase!r}; train without it: "
                "ACCELERATE_DYNAMO_BACKEND=no, and no dynamo_backend in accelerate's configuration"
            )


@contextlib.contextmanager
def _freeze(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Turn off gradients where they are on, and turn them on again afterwards."""
    parameters = [one for network in networks for one in network.parameters() if one.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def set_learning_rates(
    optimizers: Mapping[str, Optimizer], configs: Mapping[str, OptimizerConfig], step: int, max_train_steps: int
) -> dict[str, float]:
    """Set the rate of each phase for a step and return it; Muon's matrices get three times that rate."""
    rates = {
        phase: config.learning_rate * learning_rate_factor(step, config, max_train_steps)
        for phase, config in configs.items()
    }
    for phase, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[phase] * (MUON_RATE if group.get("matrices") else 1)
    return rates


def learning_rate_factor(step: int, config: OptimizerConfig, max_train_steps: int) -> float:
    """The share of the learning rate at a step: a linear warm-up times the schedule, which ends near 0."""
    warmup = min(1.0, (step + 1) / (config.lr_warmup_steps + 1))
    begin = config.lr_warmup_steps
    if config.lr_scheduler == "warmup_stable_decay":
        begin = max(0, max_train_steps - config.lr_decay_steps)
    elif config.lr_scheduler == "constant_linear":
        begin = max_train_steps // 2
    progress = min(1.0, max(0.0, (step - begin) / max(1, max_train_steps - begin)))
    match config.lr_scheduler:
        case "constant":
            return warmup
        case "linear" | "constant_linear":
            return warmup * (1 - progress)
        case "cosine":
            return warmup * (1 + math.cos(math.pi * progress)) / 2
    return warmup * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def make_copies(accelerator: Accelerator, trained: Mapping[str, nn.Module]) -> dict[str, BFloat16Copy]:
    """Copies of the networks for training where that is faster: on a CPU in bfloat16."""
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16":
        return {}
    return {name: BFloat16Copy(network) for name, network in trained.items()}


def make_optimizers(
    objective: Objective, networks: Mapping[str, nn.Module], configs: Mapping[str, OptimizerConfig]
) -> dict[str, Optimizer]:
    """AdamW or Muon for each phase of the objective, over the parameters that require gradients.

    Raises:
        UnknownNameError: a phase has no configuration.
    """
    for phase in objective.phases:
        if phase not in configs:
            raise unknown_name("optimizer_configs", phase, configs)
    return {
        phase: _make_optimizer([networks[name] for name in names], configs[phase])
        for phase, names in objective.phases.items()
    }


def _make_optimizer(networks: Sequence[nn.Module], config: OptimizerConfig) -> Optimizer:
    parameters = [one for network in networks for one in network.parameters() if one.requires_grad]
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    hidden = {id(one) for network in networks for one in hidden_convolutions(network)}
    matrices = [one for one in parameters if id(one) in hidden]
    others = [one for one in parameters if id(one) not in hidden]
    return Muon(matrices, others, matrix_lr=MUON_RATE * config.learning_rate, **options)


def corrupted_batches(
    objective: Objective,
    batches: Iterator[tuple[Tensor, ...]],
    accelerator: Accelerator,
    config: LoopConfig,
    step: int,
) -> Iterator[Any]:
    """The micro-batches of this process, each with the noise of its place in the global batch."""
    device = accelerator.device
    for i in range(config.gradient_accumulation_steps):
        place = i * accelerator.num_processes + accelerator.process_index
        generator = torch.Generator(device).manual_seed(_make_seed(config.seed, _NOISE, step, place))
        pictures = tuple(
            to_unit(one.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
            for one in next(batches)
        )
        yield objective.corrupt(pictures, generator)


def _make_seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators afterwards, from which dropout draws."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
