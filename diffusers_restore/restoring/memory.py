"""Pictures that are too large for the memory fail by themselves, and not the run; better before any work is done."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.image_translator import ImageTranslator
from ..models.old_photo_mapping import CHUNK
from ..pipelines.canvas import size_multiple
from ..pipelines.common import Network, uncompiled
from ..pipelines.pipeline_old_photo import OldPhotoPipeline
from ..pipelines.pipeline_scratch_detection import detection_sides
from .arguments import ModelError

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "bad allocation")
SMALL = 500_000
"""Pixels that are not worth a question."""

_ATTENTION = 14
"""Feature maps of a mapping's attention: queries, keys, values, what is known of them, results, and copies."""


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


def check_memory(network: ImageTranslator, shape: Sequence[int], more_per_pixel: int) -> None:
    """Refuse a picture for which the free memory is too small, before the work begins.

    Args:
        network: which sees the whole picture at once.
        shape: (..., H, W) of the restored picture.
        more_per_pixel: bytes that the restoration needs beside the network.

    Raises:
        ModelError: it is too small; the message has both figures.
    """
    height, width = shape[-2:]
    if height * width < SMALL:
        return
    multiple = size_multiple(network)
    needed = network_memory(network, height + -height % multiple, width + -width % multiple)
    check_free(network, height, width, needed + height * width * more_per_pixel, gradient=False)


def check_old_photo_memory(pipe: OldPhotoPipeline, shape: Sequence[int], more_per_pixel: int, *, detects: bool) -> None:
    """The same for the networks of a photograph, of which one is at work at a time.

    Args:
        pipe: with the networks.
        shape: (..., H, W) of the photograph.
        more_per_pixel: bytes beside the networks.
        detects: whether the detector looks first.

    Raises:
        ModelError: it is too small; the message has both figures.
    """
    height, width = shape[-2:]
    needed = old_photo_memory(pipe, height, width, detects) + height * width * more_per_pixel
    check_free(pipe.mapping, height, width, needed, gradient=False)


def old_photo_memory(pipe: OldPhotoPipeline, height: int, width: int, detects: bool) -> int:
    """Bytes of what is alive at the worst moment of detection, encoding, mapping and decoding.

    Attention depends on the mask, which isn't known: all is counted as if nothing were hidden (keys and values of all
    pixels) and, for patches, as if as many were hidden as are compared at once.
    """
    vae, mapping, clean = (uncompiled(one) for one in (pipe.vae_degraded, pipe.mapping, pipe.vae_clean))
    multiple = vae.size_multiple * mapping.size_multiple
    sides = [max(vae.min_size, n + -n % multiple) for n in (height, width)]
    high, wide = (side // vae.size_multiple for side in sides)
    channels, bytes_of_one = mapping.config.block_out_channels[-1], mapping.dtype.itemsize
    latents = (mapping.config.latent_channels, high, wide)
    attention = _ATTENTION * channels * high * wide * bytes_of_one if mapping.takes_mask else 0
    if mapping.patch_attentions:
        attention += CHUNK * (high * wide // 4) * bytes_of_one  # the smallest patches have 2 x 2
    stages = [
        _peak(vae, {}, (vae.config.in_channels, *sides), lambda twin, x: twin(x, "encoder")),
        _peak(mapping, {"attention": "none"}, latents, lambda twin, x: twin(x)) + attention,
        _peak(clean, {}, latents, lambda twin, x: twin(x, "decoder")),
    ]
    if detects:
        detector = uncompiled(pipe.scratch_detector)
        seen = detection_sides(detector, height, width, pipe.config.detection_size)
        stages.append(_peak(detector, {}, (1, *seen), lambda twin, x: twin(x)))
    return max(stages)


def check_free(network: Any, height: int, width: int, needed: int, gradient: bool) -> None:
    """Refuse what needs more memory than is free on the network's device.

    Args:
        network: the network.
        height, width: of the picture.
        needed: bytes.
        gradient: whether it goes back through the network.

    Raises:
        ModelError: the message has both figures.
    """
    free = free_memory(network.device)
    if needed > free:
        smaller = ", a {method} without a gradient" if gradient else ""
        half = ", or {dtype} bfloat16" if network.dtype == torch.float32 else ""
        raise ModelError(
            "not enough memory for {0}x{1} pixels: about {2:.1f} GB are needed, {3:.1f} GB are free; take a smaller "
            "picture, another {device}" + smaller + half,
            *(width, height, needed / 1e9, free / 1e9),
        )


def network_memory(network: Network | ImageTranslator, height: int, width: int, gradient: bool = False) -> int:
    """Bytes of what is alive at the worst moment while a network evaluates one picture; nothing is computed.

    With `gradient`, while it goes back to the picture, too.
    """
    own = uncompiled(network)
    inputs: dict[str, Any] = {}
    if not isinstance(own, ImageTranslator):
        labeled = own.config.get("num_class_embeds") is not None
        inputs["timestep"] = torch.zeros(1, device="meta")
        inputs["class_labels"] = torch.zeros(1, dtype=torch.long, device="meta") if labeled else None
    shape = (own.config.in_channels, height, width)
    return _peak(own, {}, shape, lambda twin, x: twin(x, **inputs, return_dict=False)[0], gradient)


def _peak(
    own: Any,
    changes: dict[str, Any],
    shape: Sequence[int],
    call: Callable[[Any, Tensor], Tensor],
    gradient: bool = False,
) -> int:
    """Bytes of what is alive at the worst moment of a call of a network's twin without numbers.

    Args:
        own: the network.
        changes: of its configuration.
        shape: (C, H, W) of what it is given.
        call: of the twin.
        gradient: whether it goes back to what it is given.
    """
    with torch.device("meta"):
        config = {key: value for key, value in own.config.items() if not key.startswith("_")}
        twin = type(own)(**config | changes).eval()
        for parameter in (*twin.parameters(), *twin.buffers()):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(own.dtype)
        x = torch.empty(1, *shape, dtype=own.dtype)
    with torch.set_grad_enabled(gradient), _AttentionInPlace(), _LiveBytes() as live:
        x.requires_grad_(gradient)
        output = call(twin, x)
        if gradient:
            torch.autograd.grad(output, x, torch.empty_like(output))
    return live.peak


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; of the machine's, no more than a container or a limit leaves."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # for reuse
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    memory = psutil.virtual_memory()
    limits = [memory.available + psutil.swap_memory().free, *_container_limit(), *_address_limit()]
    return int(min(limits))


def _container_limit() -> Iterator[int]:
    try:
        folder = Path("/sys/fs/cgroup")
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit != "max":
            yield int(limit) - int(used)
    except (OSError, ValueError):  # another system, or another kind of container
        return


def _address_limit() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit - psutil.Process().memory_info().vms


class _AttentionInPlace(TorchFunctionMode):
    """Attention without its matrix, which no kernel stores whole where it is large."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made and not yet freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive.add(key)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size
