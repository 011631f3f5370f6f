"""The processes of a run, through accelerate."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration

from ..errors import InvalidInputError
from .config import LoopConfig


def make_accelerator(config: LoopConfig) -> Accelerator:
    """The accelerator of a run. On a machine without a GPU, several processes communicate through gloo.

    Raises:
        InvalidInputError: an unknown or absent logger, or a precision that the device doesn't have.
    """
    # Without cpu=True, accelerate makes N processes on a machine without a GPU into N runs of one process each.
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available())
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=config.mixed_precision,
            log_with=None if config.logger == "none" else config.logger,
            project_config=ProjectConfiguration(
                project_dir=config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")
            ),
        )
    except ValueError as error:  # "Unsupported logging capability", or a precision
        raise InvalidInputError(
            f"mixed_precision={config.mixed_precision!r}, logger={config.logger!r}: {error}"
        ) from error
    if config.logger != "none" and not accelerator.log_with:
        raise InvalidInputError(
            f"logger={config.logger!r} needs a package that isn't installed: pip install {config.logger} "
            "(tensorboard comes with diffusers-restore[train]), or take logger=none"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:  # small gradients would vanish
        raise InvalidInputError(
            f"mixed_precision=fp16 needs a GPU, and the device is {accelerator.device.type}; take bf16 or no"
        )
    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU)
    if accelerator.distributed_type not in plain:
        raise InvalidInputError(
            f"{accelerator.distributed_type} is not supported; the networks fit on one device: use data parallelism"
        )
    return accelerator


def is_main_process() -> bool:
    """Whether this process writes and prints for all of its run, also before and after accelerate knows."""
    return os.environ.get("RANK", "0") == "0"


def check_processes(running: int) -> None:
    """Stop a run that was asked for more processes than there are: `accelerate launch` starts one on a CPU.

    Raises:
        InvalidInputError: `accelerate launch` or the launcher's environment asked for another number.
    """
    asked = _asked_processes()
    if asked is not None and asked != running:
        raise InvalidInputError(
            f"{asked} processes were asked for, but {running} is running. On a machine without GPUs, accelerate "
            f"launch starts one only; say `accelerate launch --multi_gpu --num_processes {asked}`, or "
            f"`torchrun --nproc_per_node {asked}`, which both work there too"
        )


def _asked_processes() -> int | None:
    """How many processes the launcher was told to start, if known."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    import psutil  # a dependency of accelerate

    try:
        parent = psutil.Process().parent()
        words = [] if parent is None else parent.cmdline()
    except psutil.Error:
        return None
    for i, word in enumerate(words):
        name = Path(word).name
        if name == "accelerate-launch" or word == "accelerate.commands.launch" or word.endswith("commands/launch.py"):
            arguments = words[i + 1 :]
        elif name == "accelerate" and words[i + 1 : i + 2] == ["launch"]:
            arguments = words[i + 2 :]
        else:
            continue
        return _num_processes(arguments)
    return None


def _num_processes(arguments: list[str]) -> int | None:
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    parsed = launch_command_parser().parse_args(arguments)
    if parsed.num_processes is None and (parsed.config_file or Path(default_config_file).is_file()):
        return int(load_config_from_file(parsed.config_file).num_processes)
    return None if parsed.num_processes is None else int(parsed.num_processes)
