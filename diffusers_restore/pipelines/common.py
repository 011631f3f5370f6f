"""The networks of all pipelines, and checks of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.utils.torch_utils import is_compiled_module

from ..errors import InvalidInputError
from ..models.unet_2d_residual import ResidualUNet2DModel

Network: TypeAlias = UNet2DModel | ResidualUNet2DModel


def check_network(name: str, network: Any) -> None:
    """Raise InvalidInputError for what is no `UNet2DModel` or `ResidualUNet2DModel`, compiled or not."""
    if not isinstance(uncompiled(network), (UNet2DModel, ResidualUNet2DModel)):
        raise InvalidInputError(f"{name} must be a UNet2DModel or a ResidualUNet2DModel, got {type(network).__name__}")


def check_evaluates(name: str, network: Any) -> None:
    """Raise InvalidInputError for a network whose dropout is active."""
    if network.training and network.config.dropout > 0:
        raise InvalidInputError(f"{name} is in training mode, in which its dropout is active; call {name}.eval() first")


def is_score_network(network: Network) -> bool:
    """Whether it predicts the score of a VE process (arXiv:2011.13456) and takes sigma instead of a timestep."""
    return bool(network.config.get("time_embedding_type") == "fourier")


def uncompiled_calls(network: Network) -> AbstractContextManager[object]:
    """A context in which a network that is compiled, whole or in parts, runs as it was written.

    Gradients of compiled networks aren't to be trusted: those that Inductor of torch 2.13 makes for the input of a
    `UNet2DModel` on a CPU are off by half.
    """
    compiled = is_compiled_module(network) or any(
        is_compiled_module(part) or getattr(part, "_compiled_call_impl", None) is not None for part in network.modules()
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def uncompiled(network: Any) -> Any:
    """The network inside a compiled one."""
    return network._orig_mod if is_compiled_module(network) else network
