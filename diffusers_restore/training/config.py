"""The configurations that all methods share, as frozen dataclasses, and how to fill and flatten any configuration.

Nothing here imports torch, so that `--help` is fast. The names of the options are those of diffusers' training
scripts where these have one. The configuration of a method is in the method's folder.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..errors import InvalidInputError, check_int, check_real, unknown_name
from .lazy import lazy_names

# The configurations of the methods, which are in their folders.
__getattr__ = lazy_names(
    __name__,
    {
        "ColdConfig": ".cold.config",
        "DDPMConfig": ".prior.config",
        "DegradationConfig": ".cold.config",
        "PairConfig": ".rddm.config",
        "PriorConfig": ".prior.config",
        "RDDMConfig": ".rddm.config",
        "ResidualConfig": ".rddm.config",
    },
)


def option(default: Any, help: str) -> Any:
    """A field of a configuration that is also a command-line option."""
    return field(default=default, metadata={"help": help})


def _is_part(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def options_of(part: type) -> list[tuple[str, Any, dataclasses.Field[Any]]]:
    """The options of a part of a configuration, without those of parts of it: name, type, field."""
    hints = get_type_hints(part)
    return [(one.name, hints[one.name], one) for one in dataclasses.fields(part) if not _is_part(hints[one.name])]


def check_words(part: Any) -> None:
    """Raise InvalidInputError unless text options are text, flags are flags, and choices are one of the choices."""
    for name, hint, _ in options_of(type(part)):
        value, kinds = getattr(part, name), [hint]
        if get_origin(hint) in (Union, types.UnionType):
            kinds = list(get_args(hint))
        if value is None and type(None) in kinds:
            continue
        for kind in kinds:
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise InvalidInputError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
            if kind is bool and not isinstance(value, bool):
                raise InvalidInputError(f"{name} must be True or False, got {value!r}")
            if kind is str and not (isinstance(value, str) and value):
                raise InvalidInputError(f"{name} must be a text that isn't empty, got {value!r}")


# --- the parts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CropConfig:
    """How a training crop is cut out of a picture.

    Args:
        resolution: the side of the crop in pixels.
        channels: 1 (colour becomes grey) or 3 (grey is replicated).
        min_scale: with `max_scale`, the range of the rescaling of the picture's own pixels, drawn log-uniformly; a
            picture is never made smaller than the crop. None, None: the shorter side is resized to `load_size`.
        max_scale: see `min_scale`.
        load_size: None is `resolution`, of which a crop is the whole of a square picture.
        center_crop: take the middle instead of a random place.
        random_flip: mirror every other crop.
        random_rotate: turn by 0, 1, 2 or 3 quarters.
        image_interpolation_mode: how a picture is rescaled, by its name in Pillow; `bilinear` is what the Cold
            Diffusion paper's digits of 32 px are made by (arXiv:2208.09392).

    Raises:
        InvalidInputError: a size or scale that isn't above 0, scales in the wrong order or one of them alone, another
            number of channels, or another interpolation.
    """

    resolution: int
    channels: int = 3
    min_scale: float | None = None
    max_scale: float | None = None
    load_size: int | None = None
    center_crop: bool = False
    random_flip: bool = False
    random_rotate: bool = False
    image_interpolation_mode: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"

    def __post_init__(self) -> None:
        check_words(self)
        check_int("resolution", self.resolution, 1)
        if self.channels not in (1, 3):
            raise InvalidInputError(f"channels must be 1 or 3, got {self.channels!r}")
        if (self.min_scale is None) != (self.max_scale is None):
            raise InvalidInputError(
                f"min_scale and max_scale must be given together or not at all, got {self.min_scale} and "
                f"{self.max_scale}"
            )
        if self.min_scale is not None:
            check_real("max_scale", self.max_scale, check_real("min_scale", self.min_scale, above=0))
        if self.load_size is not None:
            check_int("load_size", self.load_size, self.resolution)
            if self.min_scale is not None:
                raise InvalidInputError(
                    "load_size and min_scale both say how a picture is rescaled; give one of them, got "
                    f"{self.load_size} and {self.min_scale}"
                )


@dataclass(frozen=True)
class DataConfig:
    """Data.

    Raises:
        InvalidInputError: a value is out of range, or values contradict each other.
    """

    train_data_dir: str | None = option(
        None, "Folder of pictures (with all folders in it), or an MNIST idx file or its folder."
    )
    dataset_name: str | None = option(None, "A data set of the Hugging Face Hub, or a local one of `datasets`.")
    dataset_config_name: str | None = option(None, "Which configuration of the data set.")
    dataset_split: str = option("train", "Which split of the data set.")
    image_column: str = option("image", "The column of the data set that holds the pictures.")
    streaming: bool = option(False, "Read the data set while training instead of downloading it first.")
    resolution: int = option(64, "Side of a training picture in pixels.")
    channels: int = option(3, "1 for grey pictures, 3 for RGB.")
    min_scale: float | None = option(
        None, "Smallest rescaling of a picture before it is cropped; without it, the shorter side is resized to fit."
    )
    max_scale: float | None = option(None, "Largest rescaling of a picture before it is cropped.")
    center_crop: bool = option(False, "Crop the centre instead of a random place.")
    random_flip: bool = option(False, "Mirror every other picture.")
    random_rotate: bool = option(False, "Turn pictures by random quarter turns.")
    image_interpolation_mode: Literal["bilinear", "bicubic", "lanczos"] = option(
        "bicubic", "How a picture is rescaled."
    )
    validation_data_dir: str | None = option(None, "Folder of pictures to measure on, instead of holding some out.")
    validation_images: int = option(
        8, "How many pictures to measure on: from validation_data_dir, else held out of the training data."
    )
    validation_resolution: int | None = option(None, "Side of the pictures to measure on.  [default: --resolution]")
    dataloader_num_workers: int = option(0, "Processes that prepare pictures, for each training process.")
    strict: bool = option(False, "Stop at a picture that can't be read instead of skipping it with a report.")

    def __post_init__(self) -> None:
        check_words(self)
        if (self.train_data_dir is None) == (self.dataset_name is None):
            raise InvalidInputError(
                "exactly one of train_data_dir and dataset_name must say where the pictures are, got "
                f"train_data_dir={self.train_data_dir!r} and dataset_name={self.dataset_name!r}"
            )
        if self.streaming and self.dataset_name is None:
            raise InvalidInputError("streaming needs dataset_name; a folder is read picture by picture anyway")
        self.crop  # noqa: B018  # checks its own values
        check_int("validation_images", self.validation_images, 0)
        if self.validation_resolution is not None:
            check_int("validation_resolution", self.validation_resolution, 1)
        check_int("dataloader_num_workers", self.dataloader_num_workers, 0)
        if self.streaming and self.dataloader_num_workers > 1:
            raise InvalidInputError(
                f"dataloader_num_workers must be 0 or 1 for a stream, which is read in order, got "
                f"{self.dataloader_num_workers}"
            )

    @property
    def crop(self) -> CropConfig:
        """How training pictures are cut."""
        own = {one.name for one in dataclasses.fields(self)}
        names = [one.name for one in dataclasses.fields(CropConfig) if one.name in own]
        return CropConfig(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and its learning rate.

    Raises:
        InvalidInputError: a value is out of range.
    """

    optimizer: Literal["adamw", "muon"] = option(
        "adamw",
        "AdamW, or Muon (arXiv:2502.16982) with three times the rate for the convolutions between the first and the "
        "last and AdamW for the rest.",
    )
    learning_rate: float = option(1e-4, "Of one optimiser step, whatever the number of processes.")
    lr_scheduler: Literal["constant", "linear", "constant_linear", "cosine", "warmup_stable_decay"] = option(
        "warmup_stable_decay",
        "How the rate changes after its warm-up; warmup_stable_decay is constant and falls in the last lr_decay_steps, "
        "so that a longer run repeats a shorter one up to its decay; constant_linear falls to 0 in the second half.",
    )
    lr_warmup_steps: int = option(200, "Steps over which the rate rises.")
    lr_decay_steps: int = option(1000, "Last steps of warmup_stable_decay, in which the rate falls to 1 %.")
    adam_beta1: float = option(0.9, "Decay of the mean of the gradients.")
    adam_beta2: float = option(0.999, "Decay of the mean of their squares.")
    adam_weight_decay: float = option(1e-2, "Of AdamW.")
    adam_epsilon: float = option(1e-8, "Of AdamW.")

    def __post_init__(self) -> None:
        check_words(self)
        check_real("learning_rate", self.learning_rate, above=0)
        check_int("lr_warmup_steps", self.lr_warmup_steps, 0)
        check_int("lr_decay_steps", self.lr_decay_steps, 0)
        for name in ("adam_beta1", "adam_beta2"):
            if check_real(name, getattr(self, name), 0, 1) == 1:
                raise InvalidInputError(f"{name} must be below 1, got 1")
        check_real("adam_weight_decay", self.adam_weight_decay, 0)
        check_real("adam_epsilon", self.adam_epsilon, above=0)


@dataclass(frozen=True)
class LoopConfig:
    """Training.

    Raises:
        InvalidInputError: a value is out of range.
    """

    output_dir: str = option("output", "Where the trained pipeline, its card, checkpoints and logs go.")
    max_train_steps: int = option(20_000, "Optimiser steps.")
    train_batch_size: int = option(16, "Pictures per process and micro-batch.")
    gradient_accumulation_steps: int = option(1, "Micro-batches of an optimiser step.")
    max_grad_norm: float = option(1.0, "Gradients of each network are clipped to this norm; 0 disables it.")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = option(
        None, "Precision of the networks' forward passes.  [default: accelerate's setting, else no]"
    )
    use_ema: bool = option(True, "Average the weights over the run; the average is measured and exported.")
    ema_max_decay: float = option(0.999, "Decay of that average after its warm-up.")
    ema_inv_gamma: float = option(1.0, "Inverse multiplicative factor of the warm-up of the average.")
    ema_power: float = option(0.75, "Exponent of the warm-up of the average.")
    checkpointing_steps: int = option(500, "Measure, write a checkpoint, and export if it is the best, this often.")
    checkpoints_total_limit: int = option(2, "Older checkpoints are removed.")
    resume_from_checkpoint: str | None = option(
        None,
        '"latest", or the folder of a checkpoint; later ones are removed. If there is none, latest starts a new run.',
    )
    logging_steps: int = option(50, "Log the mean loss this often.")
    logger: str = option("tensorboard", "tensorboard, wandb, ... (any of accelerate's), or none.")
    seed: int = option(0, "Every random draw is a function of the seed, the step and the place in the batch.")
    export_dtype: Literal["float32", "float16", "bfloat16"] = option("float32", "Of the exported weights.")
    push_to_hub: bool = option(False, "Upload the trained pipeline to the Hugging Face Hub at the end.")
    hub_model_id: str | None = option(None, "The repository to upload to.  [default: the name of --output_dir]")
    hub_private_repo: bool = option(False, "Make that repository private.")
    license: str | None = option(
        None,
        "Licence of the weights, for the model card, by the Hub's names: apache-2.0, cc-by-nc-4.0, other. The terms of "
        "the pictures may apply, too.",
    )

    def __post_init__(self) -> None:
        check_words(self)
        for name in ("max_train_steps", "train_batch_size", "gradient_accumulation_steps", "logging_steps"):
            check_int(name, getattr(self, name), 1)
        for name in ("checkpointing_steps", "checkpoints_total_limit"):
            check_int(name, getattr(self, name), 1)
        check_real("max_grad_norm", self.max_grad_norm, 0)
        check_real("ema_max_decay", self.ema_max_decay, 0, 1)
        check_real("ema_inv_gamma", self.ema_inv_gamma, above=0)
        check_real("ema_power", self.ema_power, 0)
        check_int("seed", self.seed, 0, 2**32 - 1)


class _ByDefault(tuple[int, ...]):
    """Default values, kept apart from given ones: `dataclasses.replace` passes them on, and networks differ in them."""


@dataclass(frozen=True)
class UNetConfig:
    """Network, without attention, so that it takes pictures of any size.

    Raises:
        InvalidInputError: a value is out of range.
    """

    network: Literal["unet", "residual"] = option(
        "unet",
        "unet is diffusers' UNet2DModel, which loads without this package; residual is this package's "
        "ResidualUNet2DModel, which CPUs train about three times as fast.",
    )
    block_out_channels: tuple[int, ...] | None = option(
        None, "Channels of each level, finest first.  [default: 32,64,128,160 of unet, 64,128,160,192 of residual]"
    )
    layers_per_block: tuple[int, ...] | None = option(
        None, "Residual blocks of every level, or of each.  [default: 1 of unet; of residual with N levels N,...,2,1]"
    )
    dropout: float = option(0.0, "Share of activations that are dropped in training.")

    def __post_init__(self) -> None:
        check_words(self)
        for name in ("block_out_channels", "layers_per_block"):  # the widths first
            value = getattr(self, name)
            if value is None or isinstance(value, _ByDefault):
                value = self._default(name)
            if name == "layers_per_block" and isinstance(value, int):
                value = (value,)
            if not isinstance(value, (tuple, list)) or not value:
                raise InvalidInputError(f"{name} must be one or more whole numbers, got {value!r}")
            for number in value:
                check_int(name, number, 1)
            object.__setattr__(self, name, value if isinstance(value, _ByDefault) else tuple(value))
        if len(self.layers) not in ({1} if self.network == "unet" else {1, len(self.widths)}):
            each = "" if self.network == "unet" else f", or one for each of {len(self.widths)} levels"
            raise InvalidInputError(
                f"layers_per_block must be one number{each} of network {self.network}, got {self.layers}"
            )
        check_real("dropout", self.dropout, 0, 1)

    def _default(self, name: str) -> _ByDefault:
        if name == "block_out_channels":
            return _ByDefault({"unet": (32, 64, 128, 160), "residual": (64, 128, 160, 192)}[self.network])
        return _ByDefault((1,) if self.network == "unet" else range(len(self.widths), 0, -1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, those of the network's kind by default."""
        return self.block_out_channels or ()

    @property
    def layers(self) -> tuple[int, ...]:
        """One number of blocks, or one for each level."""
        return self.layers_per_block or ()

    @property
    def size_multiple(self) -> int:
        """The number that the sides of pictures must be multiples of."""
        return int(2 ** (len(self.widths) - (self.network == "unet")))


def check_folders(data: DataConfig, training: LoopConfig, **others: str | None) -> None:
    """Raise InvalidInputError if the output would be read as data, or training pictures would be measured on."""
    folders = {"train_data_dir": data.train_data_dir, "dataset_name": data.dataset_name, **others}
    folders["validation_data_dir"] = data.validation_data_dir
    for name, folder in folders.items():
        if folder is not None and _lies_in(training.output_dir, folder):
            raise InvalidInputError(
                f"output_dir {training.output_dir!r} lies in {name} {folder!r}: the next run would train or measure on "
                "the samples of this one; take another folder"
            )
    seen, measured = data.train_data_dir, data.validation_data_dir
    if seen is None or measured is None:
        return
    # The idx file may be next to the one to train on.
    if (
        Path(seen).resolve() == Path(measured).resolve()
        or _lies_in(seen, measured)
        or (Path(measured).is_dir() and _lies_in(measured, seen))
    ):
        raise InvalidInputError(
            f"validation_data_dir must hold other pictures than train_data_dir, which is read with all folders in it, "
            f"got {measured!r} and {seen!r}"
        )


def _lies_in(path: str, folder: str) -> bool:
    return Path(folder).is_dir() and Path(path).resolve().is_relative_to(Path(folder).resolve())


def check_sizes(data: DataConfig, multiple: int, whose: str = "the network's levels need", others: str = "") -> None:
    """Raise InvalidInputError if a network that needs multiples of a number can't halve the pictures.

    Args:
        data: the pictures.
        multiple: the number.
        whose: who needs it, for the message.
        others: what else may be done.
    """
    for name in ("resolution", "validation_resolution"):
        size = getattr(data, name)
        if size is not None and size % multiple:
            raise InvalidInputError(f"{name} must be a multiple of {multiple}, which {whose}, got {size}{others}")


# --- from files and from the command line ---------------------------------------------------------------------------


def flatten(config: Any) -> dict[str, Any]:
    """The options of a configuration and of all its parts, by name, in the order of its fields."""
    flat: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        flat |= flatten(value) if dataclasses.is_dataclass(value) else {one.name: value}
    return flat


def build(config_class: type, values: Mapping[str, Any]) -> Any:
    """The configuration with these `values` for its options and those of its parts; the rest is by default.

    Raises:
        UnknownNameError: there is no option of that name.
        InvalidInputError: a value is out of range.
    """
    known = [name for _, part in parts_of(config_class) for name, _, _ in options_of(part)]
    for name in values:
        if name not in known:
            raise unknown_name("option", name, known)
    hints = get_type_hints(config_class)
    arguments: dict[str, Any] = {}
    for one in dataclasses.fields(config_class):
        part = hints[one.name]
        if _is_part(part):
            own = {name for name, _, _ in options_of(part)}
            arguments[one.name] = build(part, {name: value for name, value in values.items() if name in own})
        elif one.name in values:
            arguments[one.name] = values[one.name]
    return config_class(**arguments)


def to_yaml(options: Mapping[str, Any]) -> str:
    """Options, as from `flatten`, as the text of a file for `--config`."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return yaml.safe_dump(plain, sort_keys=False)


def parts_of(config_class: type) -> list[tuple[str, type]]:
    """The parts of a configuration with their titles, then the configuration itself for its own options."""
    hints = get_type_hints(config_class)
    parts = [hints[one.name] for one in dataclasses.fields(config_class) if _is_part(hints[one.name])]
    own = [config_class] if options_of(config_class) else []
    return [(str(part.__doc__).partition("\n")[0].rstrip("."), part) for part in [*own, *parts]]
