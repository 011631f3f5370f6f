"""Pictures that are too large for the memory fail by themselves, and not the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .arguments import ModelError

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "bad allocation")


@contextmanager
def enough_memory(message: str, *values: object) -> Iterator[None]:
    """Say what to do where the memory of a GPU or of the machine is too small.

    Args:
        message, values: as those of `ArgumentError`.

    Raises:
        ModelError: it is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # the GPU's and the CPU's allocators raise RuntimeErrors
        if not isinstance(error, MemoryError) and not any(word in str(error).lower() for word in _WORDS):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for the next picture
        raise ModelError(message, *values) from error
