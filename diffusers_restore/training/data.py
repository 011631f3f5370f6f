"""Makes sample number n of a run from a source of pictures; the pictures to train and to measure on.

Every sample is a pure function of (seed, n), n = 0, 1, 2, ... over all processes of a run: a resumed run, a run on two
processes and one process with gradient accumulation see the same data.
"""

from __future__ import annotations

import itertools
import math
import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import RawArray
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info
from tqdm import tqdm

from ..errors import InvalidInputError, check_int
from ..hub.cards import public
from .config import CropConfig, DataConfig
from .sources import Pictures, Source, Subset, UnpairedSets, open_source, open_stream, read_item

CACHE_BYTES = 2**30  # of decoded pictures, over all workers of one process
GRACE = 30  # seconds that a worker lives on after a SIGTERM, in which the main process writes a checkpoint
SHUFFLE_BUFFER = 1000  # items of a stream that are held to draw the next one from

_ORDER, _CROP, _STREAMED_CROP = range(3)  # purposes of random numbers, each with its own stream


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


# --- crops ----------------------------------------------------------------------------------------------------------


def cut(pictures: Pictures, crop: CropConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same random crop of all pictures, uint8 (len(pictures), channels, resolution, resolution)."""
    # Always the same draws, so that an option has no side effects on others.
    scale_draw, left_draw, top_draw = rng.random(3)
    flip, turns = int(rng.integers(2)), int(rng.integers(4))
    width, height = pictures[0].size
    side = float(min(width, height))  # of the square to cut out, in the picture's own pixels
    if crop.min_scale is not None and crop.max_scale is not None:
        smallest = crop.resolution / side
        low, high = max(crop.min_scale, smallest), max(crop.max_scale, smallest)
        side = min(side, crop.resolution / (low * (high / low) ** scale_draw))
    elif crop.load_size is not None:
        side *= crop.resolution / crop.load_size
    if crop.center_crop:
        left_draw = top_draw = 0.5
    resample = Image.Resampling[crop.image_interpolation_mode.upper()]
    # Whole pixels: a crop at scale 1 is a copy without interpolation.
    left, top = (math.floor(draw * (math.floor(x - side) + 1)) for draw, x in ((left_draw, width), (top_draw, height)))
    arrays = []
    for picture in pictures:
        square = picture.resize((crop.resolution, crop.resolution), resample, box=(left, top, left + side, top + side))
        pixels = np.asarray(square.convert("L" if crop.channels == 1 else "RGB"))
        arrays.append(np.atleast_3d(pixels).transpose(2, 0, 1))
    batch = np.stack(arrays)
    if crop.random_flip and flip:
        batch = batch[..., ::-1]
    if crop.random_rotate:
        batch = np.rot90(batch, turns, axes=(2, 3))
    return np.ascontiguousarray(batch)


# --- samples --------------------------------------------------------------------------------------------------------


class Samples(Dataset[Tensor]):
    """Sample n of a run, uint8 (k, C, H, W) of k pictures: epoch n // len(source) permutes the source.

    A picture that can't be read is reported once, on stderr, and replaced by the next one of the permutation that can.

    Args:
        source: where pictures come from.
        crop: how they are cut.
        seed: a whole number >= 0.
        strict: raise on a picture that can't be read.

    Raises:
        InvalidInputError: an empty source or a seed below 0; from `samples[n]`, a picture that can't be read where
            `strict`, or if no picture can be read.
    """

    def __init__(self, source: Source, crop: CropConfig, *, seed: int, strict: bool = False) -> None:
        check_int("len(source)", len(source), 1)
        self._source, self._crop, self._strict = source, crop, strict
        self._seed = check_int("seed", seed, 0)
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self._cache: dict[int, Pictures] = {}
        self._free = CACHE_BYTES
        self._unreadable = RawArray("b", len(source))  # shared by workers, so that only one of them reports

    def __getitem__(self, n: int) -> Tensor:
        epoch, position = divmod(n, len(self._source))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _rng(self._seed, _ORDER, epoch).permutation(len(self._source))
        for index in itertools.chain(self._order[position:], self._order[:position]):
            pictures = self._pictures(int(index))
            if pictures is not None:
                return torch.from_numpy(cut(pictures, self._crop, _rng(self._seed, _CROP, n)))
        raise InvalidInputError(f"source: none of the {len(self._source)} pictures can be read")

    def _pictures(self, index: int) -> Pictures | None:
        if index in self._cache:
            return self._cache[index]
        if self._unreadable[index]:
            return None
        try:
            pictures = self._source[index]
        except (OSError, InvalidInputError) as error:
            reported, self._unreadable[index] = self._unreadable[index], not self._strict
            if not reported:  # else another worker has reported it
                _refuse(self._source.name(index), error, self._strict)
            return None
        worker = get_worker_info()
        reserved = 0 if worker is None else CACHE_BYTES - CACHE_BYTES // worker.num_workers
        size = sum(picture.width * picture.height * (1 if picture.mode == "L" else 4) for picture in pictures)
        if size <= self._free - reserved:
            self._cache[index] = pictures
            self._free -= size
        return pictures


class _Blocks(Sampler[list[int]]):
    """Micro-batch m = 0, 1, 2, ... of rank r: the batch_size numbers from (m world_size + r) batch_size on."""

    def __init__(self, batch_size: int, rank: int, world_size: int, first: int) -> None:
        self._batch_size, self._rank, self._world_size, self._first = batch_size, rank, world_size, first

    def __iter__(self) -> Iterator[list[int]]:
        for m in itertools.count(self._first):
            start = (m * self._world_size + self._rank) * self._batch_size
            yield list(range(start, start + self._batch_size))


class StreamedSamples:
    """Samples of a stream: number n is made from item n, over all epochs, each with a new shuffle.

    An item that can't be read is reported on stderr each time, and replaced by the next readable one of `take`.

    Args:
        stream: from `open_stream`.
        image_column: its column.
        crop: how pictures are cut.
        seed: a whole number >= 0.
        strict: raise on a picture that can't be read.

    Raises:
        InvalidInputError: a seed below 0.
    """

    def __init__(self, stream: Any, image_column: str, crop: CropConfig, *, seed: int, strict: bool = False) -> None:
        self._column, self._crop, self._strict = image_column, crop, strict
        self._seed = check_int("seed", seed, 0)
        self._stream = stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)

    def take(self, numbers: Iterator[int]) -> Iterator[Tensor]:
        """The samples of ascending numbers, uint8 (1, C, H, W). Items between them are read, but not decoded.

        Raises:
            InvalidInputError: a picture that can't be read where `strict`, or an epoch of which no picture can be read.
        """
        wanted, item = next(numbers), 0
        waiting: list[int] = []  # samples whose item couldn't be read; the next readable one serves them all
        for epoch in itertools.count():
            self._stream.set_epoch(epoch)
            first = item
            # `iter` and not `__iter__`, which draws other random numbers where it finds itself in a worker.
            for batch in self._stream.iter(batch_size=1):
                item += 1
                if item <= wanted:
                    continue
                waiting.append(wanted)
                wanted = next(numbers)
                try:
                    picture = read_item(batch[self._column][0])
                except (OSError, InvalidInputError) as error:
                    _refuse(f"stream[{item - 1}]", error, self._strict)
                    continue
                for n in waiting:
                    yield torch.from_numpy(cut((picture,), self._crop, _rng(self._seed, _STREAMED_CROP, n)))
                waiting.clear()
            if item - first <= len(waiting):  # an epoch of nothing, or of nothing that can be read
                raise InvalidInputError(f"stream: none of the {item - first} pictures of an epoch can be read")


@dataclass(frozen=True)
class _Taken(IterableDataset[Tensor]):
    """What a DataLoader reads of a stream."""

    samples: StreamedSamples
    blocks: _Blocks

    def __iter__(self) -> Iterator[Tensor]:
        return self.samples.take(itertools.chain.from_iterable(self.blocks))


def _refuse(name: str, error: Exception, strict: bool) -> None:
    if strict:
        raise InvalidInputError(f"{name}: {error}") from error
    tqdm.write(f"skipped {name}: {error}", file=sys.stderr)


# --- batches --------------------------------------------------------------------------------------------------------


def batches(
    samples: Samples | StreamedSamples,
    *,
    batch_size: int,
    accumulation: int,
    rank: int,
    world_size: int,
    first_step: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Generator[tuple[Tensor, ...], None, None]:
    """The micro-batches of one process from an optimiser step on, without end: k uint8 tensors (B, C, H, W) each.

    Step s of all processes together takes the samples from s * accumulation * world_size * batch_size on: one block.
    Closing the generator ends its processes.

    Args:
        samples: of the run, or streamed ones of this process.
        batch_size: samples in a micro-batch.
        accumulation: micro-batches in an optimiser step.
        rank: of this process.
        world_size: how many processes there are.
        first_step: the optimiser step to start at.
        num_workers: processes that decode; 0 decodes in this one, and a stream takes at most 1.
        pin_memory: put batches where a GPU can fetch them.

    Raises:
        InvalidInputError: a number out of range, or a stream of another rank or start.
    """
    check_int("batch_size", batch_size, 1)
    check_int("world_size", world_size, 1)
    check_int("rank", rank, 0, world_size - 1)
    check_int("num_workers", num_workers, 0)
    first = check_int("first_step", first_step, 0) * check_int("accumulation", accumulation, 1)
    blocks = _Blocks(batch_size, rank, world_size, first)
    dataset: Samples | _Taken
    taken: dict[str, Any]
    if isinstance(samples, Samples):
        dataset, taken = samples, {"batch_sampler": blocks}
    elif num_workers <= 1:
        dataset, taken = _Taken(samples, blocks), {"batch_size": batch_size}
    else:
        raise InvalidInputError(f"num_workers must be 0 or 1 for a stream, got {num_workers}")
    loader: DataLoader[Tensor] = DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_collate,
        worker_init_fn=_leave_signals,
        generator=torch.Generator(),  # otherwise the loader draws from the global one
        **taken,
    )
    with _without_sigterm():
        started = iter(loader)
    return (batch.unbind() for batch in started)


def _collate(samples: list[Tensor]) -> Tensor:
    """B samples (k, C, H, W) as (k, B, C, H, W)."""
    return torch.stack(samples, dim=1)


@contextmanager
def _without_sigterm() -> Iterator[None]:
    """Start processes that get no SIGTERM: a server that forks the workers would end at one, and they with it."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals(worker_id: int) -> None:
    """Leave Ctrl-C, and a SIGTERM that all processes get, to the main process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":  # where SIGTERM can't be handled
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 of any shape to float32 in [-1, 1].

    Raises:
        InvalidInputError: another dtype.
    """
    if pictures.dtype != torch.uint8:
        raise InvalidInputError(f"pictures must be torch.uint8, got {pictures.dtype}")
    return pictures.float() / 127.5 - 1


# --- a run ----------------------------------------------------------------------------------------------------------


class Batches(Protocol):
    """Gives the micro-batches of one process from a step on, uint8 tensors (B, C, H, W) each, as `batches` does."""

    def __call__(
        self, *, batch_size: int, accumulation: int, rank: int, world_size: int, first_step: int
    ) -> Generator[tuple[Tensor, ...], None, None]: ...


@final
@dataclass(frozen=True)
class TrainingData:
    """Pictures to train on, pictures to measure on, and their description for a model card.

    Attributes:
        batches: makes the micro-batches of a process.
        validation: held-out pictures, each as uint8 tensors (C, H, W): `(clean,)` or `(degraded, clean)`.
        description: "392 pictures of photos; 8 more are held out".
        count: pictures to train on; None for a stream.
        measured: names of the held-out pictures; empty for those of a stream.
    """

    batches: Batches
    validation: tuple[tuple[Tensor, ...], ...]
    description: str
    count: int | None
    measured: tuple[str, ...] = ()


def open_data(
    config: DataConfig, seed: int, others_dir: str | None = None, others: str = "unpaired_data_dir"
) -> TrainingData:
    """Open the pictures that `config` names, each with one from the folder `others_dir` if there is one.

    Args:
        config: of the pictures.
        seed: of the run.
        others_dir: a folder or an idx file.
        others: the name of that option.

    Raises:
        InvalidInputError: they can't be found, or one can't be read where `config.strict`.
    """
    if config.streaming:
        if others_dir is not None:
            raise InvalidInputError(f"a stream can't be mixed with the pictures of {others_dir!r}; leave out streaming")
        return _stream(config, seed)
    source = open_source(
        config.train_data_dir,
        config.dataset_name,
        config.dataset_config_name,
        config.dataset_split,
        config.image_column,
    )
    name = public(config.dataset_name) or Path(str(config.train_data_dir)).resolve().name
    if others_dir is not None:
        if not Path(others_dir).exists():
            raise InvalidInputError(f"{others} must be a folder or an idx file, got {others_dir!r}")
        source = UnpairedSets(open_source(others_dir), source)
        name += f" with those of {Path(others_dir).resolve().name}"
    return from_source(source, config, seed, name)


def from_source(
    source: Source, config: DataConfig, seed: int, name: str, measured: Source | None = None
) -> TrainingData:
    """Train on a source of pictures or of pairs, all but those that are held out, unless a folder of others is named.

    Args:
        source: what to train on.
        config: with the folder, and how pictures are cut.
        seed: of the run.
        name: of the source, for the description.
        measured: what lies in the folder; None are single pictures.

    Raises:
        InvalidInputError: a held-out picture can't be read where `config.strict`, or none of the folder.
    """
    if config.validation_data_dir is not None:
        held_out, where, names = _open_others(config.validation_data_dir, config, measured)
        rest = list(range(len(source)))
    else:
        held_out, unreadable = _hold_out(source, config, min(config.validation_images, len(source) // 2))
        rest = np.setdiff1d(np.arange(len(source)), [*held_out, *unreadable]).tolist()
        if unreadable and not rest:
            raise InvalidInputError(
                f"{len(held_out) or 'none'} of the {len(source)} pictures of {name} can be used, which is too few; "
                f"{next(iter(unreadable.values()))}"
            )
        names = _names(source, held_out)
        where = f"; {len(held_out)} more {'is' if len(held_out) == 1 else 'are'} held out" if held_out else ""
    samples = Samples(Subset(source, rest), config.crop, seed=seed, strict=config.strict)
    description = f"{len(rest)} picture{'s' * (len(rest) != 1)} of {name}{where}"
    loader = partial(batches, samples, **_loading(config))
    return TrainingData(loader, tuple(held_out.values()), description, len(rest), names)


def _names(source: Source, indices: Iterable[int]) -> tuple[str, ...]:
    """The names of pictures, without the folder, which may lie elsewhere when a run is resumed."""
    return tuple(Path(source.name(i)).name for i in indices)


def _open_others(
    folder: str, config: DataConfig, source: Source | None = None
) -> tuple[dict[int, tuple[Tensor, ...]], str, tuple[str, ...]]:
    """The pictures of a folder to measure on, their description, and their names."""
    if not Path(folder).exists():
        raise InvalidInputError(f"validation_data_dir must be a folder or an idx file, got {folder!r}")
    try:
        source = open_source(folder) if source is None else source
    except InvalidInputError as error:
        raise InvalidInputError(f"validation_data_dir must be a folder or an idx file: {error}") from error
    pictures, _ = _hold_out(source, config, config.validation_images)
    if config.validation_images and not pictures:
        raise InvalidInputError(f"validation_data_dir: none of the pictures of {folder!r} can be read")
    where = f"; measured on {len(pictures)} of {Path(folder).resolve().name}"
    return pictures, where, _names(source, pictures)


def _hold_out(source: Source, config: DataConfig, count: int) -> tuple[dict[int, tuple[Tensor, ...]], dict[int, str]]:
    """`count` pictures at equal distances, by their number, and why some can't be used, each replaced by the next."""
    held_out: dict[int, tuple[Tensor, ...]] = {}
    unreadable: dict[int, str] = {}
    for first in np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist():
        for i in itertools.chain(range(first, len(source)), range(first)):
            if i in held_out or i in unreadable:
                continue
            try:
                held_out[i] = _cut_to_measure(source[i], config)
                break
            except (OSError, InvalidInputError) as error:
                _refuse(source.name(i), error, config.strict)
                unreadable[i] = f"{source.name(i)}: {error}"
    return held_out, unreadable


def _stream(config: DataConfig, seed: int) -> TrainingData:
    name = str(config.dataset_name)
    stream = open_stream(name, config.dataset_config_name, config.dataset_split, config.image_column)
    if config.validation_data_dir is not None:
        pictures, where, names = _open_others(config.validation_data_dir, config)
        samples = StreamedSamples(stream, config.image_column, config.crop, seed=seed, strict=config.strict)
        loader = partial(batches, samples, **_loading(config))
        return TrainingData(loader, tuple(pictures.values()), f"the stream of {public(name)}{where}", None, names)
    held_out: list[tuple[Tensor, ...]] = []
    taken = 0
    for item in stream if config.validation_images else ():
        taken += 1
        try:
            held_out.append(_cut_to_measure((read_item(item[config.image_column]),), config))
        except (OSError, InvalidInputError) as error:
            _refuse(f"stream[{taken - 1}]", error, config.strict)
        if len(held_out) == config.validation_images:
            break
    if len(held_out) < config.validation_images:
        raise InvalidInputError(
            f"validation_images must be fewer than the pictures of {name!r} that can be read, which are "
            f"{len(held_out)}, got {config.validation_images}"
        )
    samples = StreamedSamples(stream.skip(taken), config.image_column, config.crop, seed=seed, strict=config.strict)
    description = f"the stream of {public(name)}" + (
        f"; its first {len(held_out)} pictures are held out" if held_out else ""
    )
    return TrainingData(partial(batches, samples, **_loading(config)), tuple(held_out), description, None)


def _loading(config: DataConfig) -> dict[str, Any]:
    return {"num_workers": config.dataloader_num_workers, "pin_memory": torch.cuda.is_available()}


def _cut_to_measure(pictures: Pictures, config: DataConfig) -> tuple[Tensor, ...]:
    """The centre of held-out pictures, rescaled no more than training crops always are."""
    scale = None
    if config.min_scale is not None and config.max_scale is not None:
        scale = min(max(1.0, config.min_scale), config.max_scale)
    resolution = config.validation_resolution or config.resolution
    mode = config.image_interpolation_mode
    crop = CropConfig(resolution, config.channels, scale, scale, center_crop=True, image_interpolation_mode=mode)
    return tuple(torch.from_numpy(one) for one in cut(pictures, crop, np.random.default_rng(0)))
