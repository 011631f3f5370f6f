"""The fast precision and memory layout for networks on each device."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that has it and on a CPU with AMX or AVX512-BF16, otherwise float32.

    A network in bfloat16 costs no more than 0.03 dB (benchmarks/results/precision.md); samples and measurements are
    kept in float32.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases lack it
        fast = device.type == "cpu" and any(known.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def lay_out(pipe: DiffusionPipeline) -> None:
    """On a CPU, put the weights of a pipeline's networks in the layout that its convolutions prefer: channels last."""
    for component in pipe.components.values():
        if isinstance(component, nn.Module) and next(component.parameters(), torch.empty(0)).device.type == "cpu":
            component.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
