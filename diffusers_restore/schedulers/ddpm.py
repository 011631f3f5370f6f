"""The noise schedule of a DDPM: its betas, and whether the configuration of a scheduler describes one."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from ..errors import InvalidInputError, check_int, check_real, unknown_name
from ..registries import METHODS

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")


def make_betas(
    steps: int,
    beta_start: float = 0.0001,
    beta_end: float = 0.02,
    beta_schedule: str = "linear",
    trained_betas: list[float] | None = None,
) -> Tensor:
    """The betas of a DDPM as `DDPMScheduler` makes them, (steps,) in float64, all in (0, 1).

    Raises:
        InvalidInputError: betas of another number, or outside (0, 1).
        UnknownNameError: another schedule, where `trained_betas` are not given.
    """
    if trained_betas is None:
        if beta_schedule in ("linear", "scaled_linear"):
            check_real("beta_start", beta_start, above=0)
            check_real("beta_end", beta_end, beta_start, 1)
        if beta_schedule not in BETA_SCHEDULES:
            raise unknown_name("beta_schedule", beta_schedule, BETA_SCHEDULES)
    elif isinstance(trained_betas, Tensor):  # a configuration can't hold one
        raise InvalidInputError("trained_betas must be a list of numbers in (0, 1), got a tensor: use tolist()")
    try:
        ddpm = DDPMScheduler(
            num_train_timesteps=steps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"trained_betas must be a list of numbers in (0, 1), got {trained_betas!r:.99}"
        ) from error
    betas = ddpm.betas.double()
    if betas.shape != (steps,):
        raise InvalidInputError(
            f"trained_betas must hold num_train_timesteps={steps} numbers, got shape {tuple(betas.shape)}"
        )
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise InvalidInputError(f"betas must lie in (0, 1), got {float(betas.min()):g} to {float(betas.max()):g}")
    return betas


def check_config(config: object) -> Mapping[str, Any]:
    """Raise InvalidInputError for anything but a mapping, such as the name of a repository."""
    if not isinstance(config, Mapping):
        raise InvalidInputError(f"config must be the configuration of a scheduler, a mapping, got {config!r}")
    name = config.get("_class_name")
    if name is not None and not isinstance(name, str):
        raise InvalidInputError(f"the _class_name of a config must be the name of a scheduler, got {name!r:.99}")
    return config


METHODS_HERE: set[str] = set()
"""The names of all zero-shot methods that were imported, registered or not."""

# Schedulers of diffusers whose betas are those of the DDPM that the network was trained with.
VARIANCE_PRESERVING = (
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "RePaintScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)

# Why other schedulers are refused that users may try.
_REASONS = {
    "CMStochasticIterativeScheduler": "its network is a consistency model, which estimates no noise",
    "ColdDiffusionScheduler": "it is that of a ColdDiffusionPipeline, which loads the repository",
    "EDMDPMSolverMultistepScheduler": "its network is fed with scaled pictures and log sigma / 4 (EDM)",
    "EDMEulerScheduler": "its network is fed with scaled pictures and log sigma / 4 (EDM)",
    "KarrasVeScheduler": "it says nothing of the noise levels that its network was trained with",
    "LCMScheduler": "its network is a consistency model, distilled for one chain",
    "RDDMScheduler": "it is that of an RDDMPipeline, which loads the repository",
    "ScoreSdeVeScheduler": "its network is a score of a variance-exploding process; DDRMPipeline restores with it",
    "TCDScheduler": "its network is a consistency model, distilled for one chain",
}

SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
"""The options of any scheduler's configuration that describe the noise schedule of the training."""


def stated_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a scheduler, with its own class's defaults where it omits the noise schedule.

    diffusers would use the defaults of the new class: a Heun's betas end at 0.012, a DDPM's at 0.02.
    """
    stated = {name: value for name, value in config.items() if name != "_use_default_values"}
    parameters = signature(getattr(diffusers, str(config.get("_class_name")), dict).__init__).parameters
    own = {name: parameters[name].default for name in SCHEDULE if name in parameters}
    return {**own, **stated}


def is_of_ddpm(config: Mapping[str, Any]) -> bool:
    """Whether the configuration of an `RDDMScheduler` describes a DDPM: it has betas."""
    return config.get("beta_schedule") is not None or config.get("trained_betas") is not None


def check_variance_preserving(config: Mapping[str, Any]) -> None:
    """Refuse the configuration of a scheduler whose network is no DDPM; its options would be misread.

    Raises:
        InvalidInputError: a VE, flow-matching, consistency or zero-terminal-SNR schedule, or one not known here.
    """
    name = config.get("_class_name")
    methods = {*METHODS_HERE, *(address.rpartition(":")[2] for _, address in METHODS.addresses())}
    if name is None and isinstance(config, FrozenDict) and "beta_schedule" not in config:
        name = "without a beta_schedule"  # the configuration of a scheduler in memory has lost its class
    own = name == "RDDMScheduler" and is_of_ddpm(config)  # a DDPM in another form
    if name is not None and not own and name not in methods and name not in VARIANCE_PRESERVING:
        reason = f": {_REASONS[name]}" if name in _REASONS else ""
        raise InvalidInputError(
            f"scheduler {name} is not one of a variance-preserving process (DDPM), which this method needs{reason}. "
            f"Accepted are: {', '.join(sorted({*methods, *VARIANCE_PRESERVING}))}. If the network is that of a DDPM "
            "all the same, give its noise schedule: scheduler=DDPMScheduler(beta_schedule=...)"
        )
    if config.get("timestep_type") == "continuous":
        raise InvalidInputError(
            "a scheduler with timestep_type='continuous' is not supported: its network is fed with log sigma / 4"
        )
    for option in ("rescale_betas_zero_snr", "use_flow_sigmas"):
        if config.get(option):
            raise InvalidInputError(
                f"a scheduler with {option}=True is not supported: its x0 has no finite noise level"
            )


def is_variance_exploding(config: Mapping[str, Any]) -> bool:
    """Whether it is the configuration of a `ScoreSdeVeScheduler`, which in memory doesn't name its class."""
    return config.get("_class_name") == "ScoreSdeVeScheduler" or (
        "_class_name" not in config and {"sigma_min", "sigma_max", "snr"} <= set(config)
    )


def variance_exploding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The noise schedule of a VE process (arXiv:2011.13456) as that of a DDPM, by its noise levels.

    x0 + sigma z, scaled by sqrt(alpha_bar), is a state of a DDPM with alpha_bar = 1 / (1 + sigma^2). The levels are
    sigma_min (sigma_max / sigma_min)^(t / (T - 1)) for pictures in [0, 1], and twice as large in [-1, 1].

    Args:
        config: of a `ScoreSdeVeScheduler`.
    """
    steps = check_int("num_train_timesteps", config.get("num_train_timesteps", 2000), 2)
    low = check_real("sigma_min", config.get("sigma_min", 0.01), above=0)
    high = check_real("sigma_max", config.get("sigma_max", 1348.0), above=low)
    sigmas = 2 * low * (high / low) ** torch.linspace(0, 1, steps, dtype=torch.float64)
    alpha_bars = 1 / (1 + sigmas.square())
    betas = 1 - alpha_bars / torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    return {"num_train_timesteps": steps, "trained_betas": betas.tolist(), "prediction_type": "epsilon"}
