"""Noise for the steps of schedulers."""

from __future__ import annotations

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..generators import check_generators


def standard_normal(like: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Noise of the shape of `like`, (B, C, H, W), from one generator or from one for each picture.

    Raises:
        InvalidInputError: a list of another length.
    """
    check_generators(generator, len(like))
    return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
