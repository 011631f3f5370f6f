"""The networks of all pipelines, and checks of them."""

from __future__ import annotations

from typing import Any, TypeAlias

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


def uncompiled(network: Any) -> Any:
    """The network inside a compiled one."""
    return network._orig_mod if is_compiled_module(network) else network
