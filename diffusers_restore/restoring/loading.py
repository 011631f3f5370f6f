"""Loads a model for a device, in a precision that is fast there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils import logging

import diffusers_restore

from ..pipelines import precision
from .arguments import ArgumentError, ModelError
from .kinds import COLD, OLD_PHOTO, PRIOR, Kind, is_absent_folder, why_not

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pipeline(kind: Kind, model: str, device: str, dtype: str) -> Any:
    """The pipeline of a kind from a folder or the Hub, laid out for its device.

    Raises:
        ArgumentError: a device that this machine doesn't have, or another dtype.
        ModelError: it can't be loaded.
    """
    if kind is PRIOR and is_absent_folder(model):
        raise ModelError("{model}: there is no folder {0!r}", model)
    chosen = find_device(device)
    options = {"dtype": find_dtype(dtype, chosen, kind)}
    with quiet_loading():
        try:
            pipe = getattr(diffusers_restore, kind.pipeline).from_pretrained(model, **options)
        except (OSError, ValueError, TypeError) as error:  # TypeError: a scheduler without what it needs
            if isinstance(error, TypeError) and kind is PRIOR:
                raise
            how = " as a DDPM, from a folder or the Hub" if kind is PRIOR else ""
            raise ModelError("{model} {0!r} cannot be loaded{1}: {2}", model, how, why_not(model, error)) from error
    pipe.to(chosen)
    precision.lay_out(pipe)
    return pipe


def check_class_label(pipe: Any, label: int | None) -> int | None:
    """The class of a class-conditional network, None for any other.

    Raises:
        ArgumentError: it lacks one, or takes none, or has no such one.
    """
    classes = pipe.unet.config.num_class_embeds
    if classes is None:
        if label is not None:
            raise ArgumentError("{class_label}: this {model} takes none, its network isn't class-conditional")
        return None
    if label is None or not 0 <= label < classes:
        came = "none" if label is None else label
        raise ArgumentError(
            "{class_label} must be one of 0..{0} for this class-conditional {model}, got {1}", classes - 1, came
        )
    return label


def find_device(name: str) -> torch.device:
    """The device of that name, if this machine has it; auto is the first of cuda, mps and cpu that it has.

    Raises:
        ArgumentError: it doesn't.
    """
    there = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    name = str(name)  # a torch.device too
    if name == "auto":
        return torch.device(there[0])
    if name not in there and not (name == "cuda" and "cuda:0" in there):
        raise ArgumentError("{device}: no device {0!r} here; there are: auto, {1}", name, ", ".join(there))
    return torch.device(name)


def find_dtype(name: str, device: torch.device, kind: Kind) -> torch.dtype:
    """The dtype of that name; auto is the one that is fast on the device.

    Raises:
        ArgumentError: another name.
    """
    name = str(name).removeprefix("torch.")  # a torch.dtype too
    if name == "auto":
        # bfloat16 is too coarse for what a strong blur leaves of a picture, and for attention without a scale.
        return torch.float32 if kind in (COLD, OLD_PHOTO) and device.type == "cpu" else precision.fast_dtype(device)
    if name not in DTYPES:
        raise ArgumentError("{dtype} must be one of auto, {0}, got {1!r}", ", ".join(DTYPES), name)
    return DTYPES[name]


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No "Loading pipeline components" bar unless on a terminal."""
    if sys.stderr.isatty():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
