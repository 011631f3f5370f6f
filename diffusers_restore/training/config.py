"""What a training run is made of, as frozen dataclasses, and the command line and files that fill them.

Nothing here imports torch, so that `--help` is answered at once. The names of the options are those of diffusers'
training scripts where these have one.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click
import yaml

from ..errors import InvalidInputError, check_int, check_real, unknown_name


def option(default: Any, help: str) -> Any:
    """A field of a configuration that the command line has too."""
    return field(default=default, metadata={"help": help})


def _is_part(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _options(part: type) -> list[tuple[str, Any, dataclasses.Field[Any]]]:
    hints = get_type_hints(part)
    return [(one.name, hints[one.name], one) for one in dataclasses.fields(part) if not _is_part(hints[one.name])]


def _check_words(part: Any) -> None:
    """Raise InvalidInputError for an option that is no word, no flag or not one of the choices, if it has to be."""
    for name, hint, _ in _options(type(part)):
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
class Crop:
    """How a training crop is cut out of a picture.

    Args:
        resolution: the side of the crop in pixels.
        channels: 1 (colour becomes grey) or 3 (grey is replicated).
        min_scale: with `max_scale`, the range of the rescaling of the picture's own pixels, drawn log-uniformly; a
            picture is never made smaller than the crop. None, None: the shorter side is resized to `resolution`.
        max_scale: see `min_scale`.
        center_crop: take the middle instead of a random place.
        random_flip: mirror every other crop.
        random_rotate: turn by 0, 1, 2 or 3 quarters.

    Raises:
        InvalidInputError: a size or scale that isn't above 0, scales in the wrong order or one of them alone, or
            another number of channels.
    """

    resolution: int
    channels: int = 3
    min_scale: float | None = None
    max_scale: float | None = None
    center_crop: bool = False
    random_flip: bool = False
    random_rotate: bool = False

    def __post_init__(self) -> None:
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
    validation_data_dir: str | None = option(None, "Folder of pictures to measure on, instead of holding some out.")
    validation_images: int = option(
        8, "How many pictures to measure on: of validation_data_dir, or of the data, out of which they are held."
    )
    validation_resolution: int | None = option(
        None, "Side of the pictures that are measured on.  [default: --resolution]"
    )
    dataloader_num_workers: int = option(0, "Processes that prepare pictures, for each training process.")
    strict: bool = option(False, "Stop at a picture that can't be read instead of skipping it with a report.")

    def __post_init__(self) -> None:
        _check_words(self)
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
    def crop(self) -> Crop:
        """How training pictures are cut."""
        return Crop(**{one.name: getattr(self, one.name) for one in dataclasses.fields(Crop)})


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
    lr_scheduler: Literal["constant", "linear", "cosine", "warmup_stable_decay"] = option(
        "warmup_stable_decay",
        "How the rate falls after its warm-up; warmup_stable_decay is constant and falls in the last lr_decay_steps, "
        "so that a longer run repeats a shorter one up to its decay.",
    )
    lr_warmup_steps: int = option(200, "Steps over which the rate rises.")
    lr_decay_steps: int = option(1000, "Last steps of warmup_stable_decay, in which the rate falls to 1 %.")
    adam_beta1: float = option(0.9, "Decay of the mean of the gradients.")
    adam_beta2: float = option(0.999, "Decay of the mean of their squares.")
    adam_weight_decay: float = option(1e-2, "Of AdamW.")
    adam_epsilon: float = option(1e-8, "Of AdamW.")

    def __post_init__(self) -> None:
        _check_words(self)
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
    max_grad_norm: float = option(1.0, "Gradients of each network are clipped to this norm; 0 doesn't clip.")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = option(
        None, "Precision of the networks' forward passes.  [default: what accelerate is configured for, else no]"
    )
    use_ema: bool = option(True, "Average the weights over the run; the average is what is measured and exported.")
    ema_max_decay: float = option(0.999, "Decay of that average after its warm-up.")
    ema_inv_gamma: float = option(1.0, "Inverse multiplicative factor of the warm-up of the average.")
    ema_power: float = option(0.75, "Exponent of the warm-up of the average.")
    checkpointing_steps: int = option(500, "Measure, write a checkpoint, and export if it is the best, this often.")
    checkpoints_total_limit: int = option(2, "Older checkpoints are removed.")
    resume_from_checkpoint: str | None = option(
        None,
        '"latest", or the folder of a checkpoint, after which later ones are removed. Without any, latest begins anew.',
    )
    logging_steps: int = option(50, "Log the mean loss this often.")
    logger: str = option("tensorboard", "tensorboard, wandb, ... (what accelerate has), or none.")
    seed: int = option(0, "Every random draw is a function of the seed, the step and the place in the batch.")
    export_dtype: Literal["float32", "float16", "bfloat16"] = option("float32", "Of the exported weights.")
    push_to_hub: bool = option(False, "Upload the trained pipeline to the Hugging Face Hub at the end.")
    hub_model_id: str | None = option(None, "The repository to upload to.  [default: the name of --output_dir]")
    hub_private_repo: bool = option(False, "Make that repository private.")
    license: str | None = option(
        None,
        "Terms of the weights, for the model card, in the Hub's words: apache-2.0, cc-by-nc-4.0, other. The terms of "
        "the pictures may bind them, too.",
    )

    def __post_init__(self) -> None:
        _check_words(self)
        for name in ("max_train_steps", "train_batch_size", "gradient_accumulation_steps", "logging_steps"):
            check_int(name, getattr(self, name), 1)
        for name in ("checkpointing_steps", "checkpoints_total_limit"):
            check_int(name, getattr(self, name), 1)
        check_real("max_grad_norm", self.max_grad_norm, 0)
        check_real("ema_max_decay", self.ema_max_decay, 0, 1)
        check_real("ema_inv_gamma", self.ema_inv_gamma, above=0)
        check_real("ema_power", self.ema_power, 0)
        check_int("seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True)
class UNetConfig:
    """Network, without attention, so that it takes pictures of any size.

    Raises:
        InvalidInputError: a value is out of range.
    """

    network: Literal["unet", "residual"] = option(
        "unet",
        "unet is diffusers' UNet2DModel, which needs nothing else to be loaded; residual is this package's "
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
        _check_words(self)
        for name in ("block_out_channels", "layers_per_block"):  # the widths first
            value = self._default(name) if getattr(self, name) is None else getattr(self, name)
            if name == "layers_per_block" and isinstance(value, int):
                value = (value,)
            if not isinstance(value, (tuple, list)) or not value:
                raise InvalidInputError(f"{name} must be one or more whole numbers, got {value!r}")
            for one in value:
                check_int(name, one, 1)
            object.__setattr__(self, name, tuple(value))
        if len(self.layers) not in ({1} if self.network == "unet" else {1, len(self.widths)}):
            each = "" if self.network == "unet" else f", or one for each of {len(self.widths)} levels"
            raise InvalidInputError(
                f"layers_per_block must be one number{each} of network {self.network}, got {self.layers}"
            )
        check_real("dropout", self.dropout, 0, 1)

    def _default(self, name: str) -> tuple[int, ...]:
        if name == "block_out_channels":
            return {"unet": (32, 64, 128, 160), "residual": (64, 128, 160, 192)}[self.network]
        return (1,) if self.network == "unet" else tuple(range(len(self.widths), 0, -1))

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
        """What the sides of pictures must be multiples of."""
        return int(2 ** (len(self.widths) - (self.network == "unet")))


@dataclass(frozen=True)
class DDPMConfig:
    """Objective: what the network predicts, and how the noise levels are drawn and weighted.

    Raises:
        InvalidInputError: a value is out of range.
    """

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = option(
        "v_prediction",
        "The noise, the picture, or v (arXiv:2202.00512), whose errors the samplers never multiply by more than one.",
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = option(
        "squaredcos_cap_v2", "Noise schedule of DDPMScheduler; squaredcos_cap_v2 is the cosine (arXiv:2102.09672)."
    )
    num_train_timesteps: int = option(1000, "Noise levels.")
    timestep_sampling: Literal["uniform", "lognormal", "mixed"] = option(
        "uniform",
        "How noise levels are drawn: all alike; with ln(sigma) normal around -1.2 with deviation 1.2 (EDM, "
        "arXiv:2206.00364), which spends the training where pictures are half seen; or one half of each kind, for a "
        "prior that restores: it needs fine textures as well as colours, which are decided where nearly all is noise.",
    )
    snr_gamma: float | None = option(None, "Min-SNR weighting of the loss (arXiv:2303.09556); 5 is usual.")
    noise_offset: float = option(0.0, "Share of noise that is constant over a channel of a picture; 0.1 is usual.")

    def __post_init__(self) -> None:
        _check_words(self)
        check_int("num_train_timesteps", self.num_train_timesteps, 2)
        if self.snr_gamma is not None:
            check_real("snr_gamma", self.snr_gamma, above=0)
        check_real("noise_offset", self.noise_offset, 0)


@dataclass(frozen=True)
class PriorConfig:
    """A DDPM prior, trained from the beginning or from the weights of another.

    Raises:
        InvalidInputError: the network can't take pictures of this size.
    """

    data: DataConfig
    network: UNetConfig = UNetConfig()
    objective: DDPMConfig = DDPMConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: LoopConfig = LoopConfig()
    pretrained_model_name_or_path: str | None = option(
        None, "Begin with the network and the noise schedule of this repository or folder; the options on them are off."
    )

    def __post_init__(self) -> None:
        _check_words(self)
        _check_folders(self.data, self.training)
        if self.pretrained_model_name_or_path is None:
            check_sizes(self.data, self.network.size_multiple)


@dataclass(frozen=True)
class DegradationConfig:
    """Degradation: what the network learns to undo.

    Raises:
        InvalidInputError: a value is out of range, or values contradict each other.
    """

    degradation: str | None = option(
        None, "blur, fade, color_fade, pixelate, snow, decolor, mix, synthetic, or the name of a plug-in's."
    )
    degradation_args: Mapping[str, Any] | None = option(
        None, 'Its arguments but for num_timesteps: "{taps: 11, std: 7, border: circular}".'
    )
    num_train_timesteps: int = option(20, "Its severities, T.")
    eight_bit: bool = option(False, "Floor degraded pictures to 8 bits.")
    scheduler_name_or_path: str | None = option(
        None,
        "A repository or folder with the scheduler_config.json of a ColdDiffusionScheduler, such as "
        "schedulers/cold-mnist-deblur, instead of the options on the degradation.",
    )

    def __post_init__(self) -> None:
        _check_words(self)
        if (self.degradation is None) == (self.scheduler_name_or_path is None):
            raise InvalidInputError(
                "exactly one of degradation and scheduler_name_or_path must say what the network is to undo, got "
                f"degradation={self.degradation!r} and scheduler_name_or_path={self.scheduler_name_or_path!r}"
            )
        if self.degradation_args is not None and not isinstance(self.degradation_args, Mapping):
            raise InvalidInputError(f"degradation_args must be arguments by name, got {self.degradation_args!r}")
        check_int("num_train_timesteps", self.num_train_timesteps, 1)
        if self.scheduler_name_or_path is not None and (self.degradation_args is not None or self.eight_bit):
            raise InvalidInputError(
                "degradation_args and eight_bit are those of scheduler_name_or_path where that is given; leave them out"
            )


@dataclass(frozen=True)
class ColdConfig:
    """A Cold Diffusion restorer, trained from the beginning or from the weights of another network.

    Raises:
        InvalidInputError: the network can't take pictures of this size.
    """

    data: DataConfig
    objective: DegradationConfig
    network: UNetConfig = UNetConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: LoopConfig = LoopConfig()
    pretrained_model_name_or_path: str | None = option(
        None, "Begin with the network of this repository or folder; the options on the network are off."
    )
    endpoint_data_dir: str | None = option(
        None,
        "Folder of the other pictures, for degradation mix with endpoint: picture; pairs change with every step.",
    )
    prior_components: int = option(
        0, "Fit so many Gaussians to what is left of the training pictures at T, so that the pipeline can generate."
    )
    prior_size: int = option(1, "Side of the thumbnails that they are fitted to; 1 is the mean of each channel.")

    def __post_init__(self) -> None:
        _check_words(self)
        _check_folders(self.data, self.training, endpoint_data_dir=self.endpoint_data_dir)
        if self.endpoint_data_dir is not None and self.data.validation_data_dir is not None:
            raise InvalidInputError("validation_data_dir has no other pictures for endpoint_data_dir; leave it out")
        check_int("prior_components", self.prior_components, 0)
        check_int("prior_size", self.prior_size, 1, self.data.resolution)
        if self.pretrained_model_name_or_path is None:
            check_sizes(self.data, self.network.size_multiple)


@dataclass(frozen=True)
class PairConfig:
    """Pairs: where the degraded pictures come from; without any of these, the network learns to generate.

    Raises:
        InvalidInputError: several sources of pairs, or options of one that isn't there.
    """

    degraded_data_dir: str | None = option(
        None, "Folder of the degraded pictures, which have the names of the clean ones in train_data_dir."
    )
    clean_side: Literal["left", "right"] | None = option(
        None, "Each picture of train_data_dir is two side by side, of which the clean one is here."
    )
    unpaired_data_dir: str | None = option(
        None, "Folder of pictures that are to become like those of train_data_dir; pairs are dealt anew in every step."
    )
    recipe: str | None = option(
        None, "Damage the pictures by a recipe: blind, real_esrgan, bsrgan, old_photos, ..., or that of a plug-in."
    )
    recipe_args: Mapping[str, Any] | None = option(None, 'Its arguments: "{scale: 2}".')
    task: str | None = option(None, "Damage the pictures by a task of DDRM: sr4, inpaint-box, deblur-gauss, ...")
    task_args: Mapping[str, Any] | None = option(None, 'Its arguments: "{sigma: 3, taps: 15}".')
    sigma_y: float = option(0.0, "Deviation of the noise that is added after a task, in the unit of [-1, 1].")
    degradation: str | None = option(
        None, "Damage the pictures by a degradation of Cold Diffusion, by a severity that is drawn from 1..T."
    )
    degradation_args: Mapping[str, Any] | None = option(None, 'Its arguments: "{num_timesteps: 20, taps: 11, std: 7}".')
    mask_data_dir: str | None = option(
        None, "Folder of masks, white where pictures of degraded_data_dir are damaged, which the network is shown."
    )
    recipe_mask: bool = option(False, "Show the network the mask of what a recipe scratched.")

    def __post_init__(self) -> None:
        _check_words(self)
        sources = ("degraded_data_dir", "clean_side", "unpaired_data_dir", "recipe", "task", "degradation")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidInputError(f"pairs come from one source, got {' and '.join(given)}")
        needs = {
            "recipe_args": "recipe",
            "task_args": "task",
            "degradation_args": "degradation",
            "mask_data_dir": "degraded_data_dir",
        }
        for name, source in needs.items():
            value = getattr(self, name)
            if value is not None and getattr(self, source) is None:
                raise InvalidInputError(f"{name} is for {source}, which isn't given; got {value!r}")
            if name.endswith("_args") and value is not None and not isinstance(value, Mapping):
                raise InvalidInputError(f"{name} must be arguments by name, got {value!r}")
        check_real("sigma_y", self.sigma_y, 0)
        if self.sigma_y > 0 and self.task is None:
            raise InvalidInputError(f"sigma_y is for task, which isn't given; got {self.sigma_y!r}")
        if self.recipe_mask and self.recipe is None:
            raise InvalidInputError("recipe_mask is for recipe, which isn't given")

    @property
    def paired(self) -> bool:
        """Whether there are degraded pictures."""
        sources = (self.degraded_data_dir, self.clean_side, self.unpaired_data_dir, self.recipe, self.task)
        return any(one is not None for one in (*sources, self.degradation))

    @property
    def masked(self) -> bool:
        """Whether there are masks."""
        return self.mask_data_dir is not None or self.recipe_mask


@dataclass(frozen=True)
class ResidualConfig:
    """Objective: the process, and what the networks predict.

    Raises:
        InvalidInputError: a value is out of range, or values contradict each other.
    """

    prediction_type: Literal[
        "residual",
        "epsilon",
        "sample",
        "v_prediction",
        "residual_epsilon",
        "residual_sum",
        "sample_epsilon",
        "sample_sum",
        "auto",
    ] = option(
        "residual",
        "What the network says; of two, each has its loss. auto learns whether residual or epsilon suits the data "
        "(AOSA, arXiv:2308.13712), then trains that from the beginning.",
    )
    num_train_timesteps: int = option(1000, "T.")
    noise_scale: float = option(1.0, "Variance of the noise at T: 0.01 restores what is nearly right, 1 generates.")
    scheduler_args: Mapping[str, Any] | None = option(
        None, 'More of RDDMScheduler: "{noise_schedule: average, time_embedding: cumulative}".'
    )
    scheduler_name_or_path: str | None = option(
        None,
        "A repository or folder with the scheduler_config.json of an RDDMScheduler, such as schedulers/rddm-lol, "
        "instead of the options above.",
    )
    conditioned: bool = option(True, "Show the network the degraded picture beside I_t; without it, I_t alone.")
    two_networks: bool = option(False, "A network for each of two predictions, each with its own optimiser.")
    noise_learning_rate: float | None = option(None, "Learning rate of the second network.  [default: --learning_rate]")
    loss: Literal["l1", "l2"] = option("l1", "Mean absolute or mean squared error.")
    aosa_max_steps: int = option(2000, "With prediction_type auto: decide after so many steps at the latest.")
    validation_steps: int = option(5, "Steps of the restorations that are measured and shown.")

    def __post_init__(self) -> None:
        _check_words(self)
        check_int("num_train_timesteps", self.num_train_timesteps, 1)
        check_real("noise_scale", self.noise_scale, 0)
        if self.noise_learning_rate is not None:
            check_real("noise_learning_rate", self.noise_learning_rate, above=0)
            if not self.two_networks:
                raise InvalidInputError("noise_learning_rate is for two_networks, which isn't set")
        check_int("aosa_max_steps", self.aosa_max_steps, 1)
        check_int("validation_steps", self.validation_steps, 1)
        if self.scheduler_args is not None and not isinstance(self.scheduler_args, Mapping):
            raise InvalidInputError(f"scheduler_args must be arguments by name, got {self.scheduler_args!r}")
        if self.scheduler_name_or_path is not None and self.scheduler_args is not None:
            raise InvalidInputError(
                "scheduler_args are those of scheduler_name_or_path where that is given; leave one of them out"
            )
        if self.prediction_type == "auto" and (self.two_networks or self.scheduler_name_or_path is not None):
            raise InvalidInputError(
                "prediction_type auto chooses what one network of a new scheduler predicts; leave out two_networks "
                "and scheduler_name_or_path"
            )
        if self.prediction_type == "auto" and (self.scheduler_args or {}).get("time_embedding") == "cumulative":
            raise InvalidInputError(
                "prediction_type auto needs time_embedding 'timestep': one time code can't be that of the residual and "
                "that of the noise"
            )
        for name in ("prediction_type", "num_train_timesteps", "noise_scale"):
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if self.scheduler_name_or_path is not None and value != default:
                raise InvalidInputError(
                    f"{name} is that of scheduler_name_or_path where that is given; leave it out, got {value!r}"
                )


@dataclass(frozen=True)
class RDDMConfig:
    """An RDDM restorer, translator or generator, trained from the beginning or from the weights of another network.

    Raises:
        InvalidInputError: the network can't take pictures of this size, or values contradict each other.
    """

    data: DataConfig
    pairs: PairConfig = PairConfig()
    objective: ResidualConfig = ResidualConfig()
    network: UNetConfig = UNetConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: LoopConfig = LoopConfig()
    init_from: str | None = option(
        None,
        "Begin with the network of this repository or folder, such as google/ddpm-ema-bedroom-256, given more "
        "channels by zeros where needed; the options on the network are off.",
    )

    def __post_init__(self) -> None:
        _check_words(self)
        folders = ("degraded_data_dir", "unpaired_data_dir", "mask_data_dir")
        _check_folders(self.data, self.training, **{name: getattr(self.pairs, name) for name in folders})
        for name in ("degraded_data_dir", "clean_side", "unpaired_data_dir"):
            if getattr(self.pairs, name) is not None and self.data.train_data_dir is None:
                raise InvalidInputError(f"{name} needs the clean pictures as train_data_dir")
            if getattr(self.pairs, name) is not None and self.data.validation_data_dir is not None:
                raise InvalidInputError(
                    f"validation_data_dir holds clean pictures, which {name} has no pairs for; leave it out, and some "
                    "pairs are held out"
                )
        if self.pairs.masked and not self.objective.conditioned:
            raise InvalidInputError(
                "mask_data_dir and recipe_mask are for networks that are shown the degraded picture too; leave out "
                "no_conditioned"
            )
        if self.init_from is None:
            check_sizes(self.data, self.network.size_multiple)


def _check_folders(data: DataConfig, training: LoopConfig, **others: str | None) -> None:
    """Raise InvalidInputError if the output would be read as data, or pictures to train on were measured on."""
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
    # An idx file may lie beside the one that is trained on.
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


def check_sizes(data: DataConfig, multiple: int) -> None:
    """Raise InvalidInputError if a network that needs multiples of a number can't halve the pictures."""
    for name in ("resolution", "validation_resolution"):
        size = getattr(data, name)
        if size is not None and size % multiple:
            raise InvalidInputError(
                f"{name} must be a multiple of {multiple}, which the network's levels need, got {size}"
            )


# --- from files and from the command line ---------------------------------------------------------------------------


def flatten(config: Any) -> dict[str, Any]:
    """The options of a configuration and of all its parts, by name, in the order of its fields."""
    flat: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        flat |= flatten(value) if dataclasses.is_dataclass(value) else {one.name: value}
    return flat


def build(config_class: type, values: Mapping[str, Any]) -> Any:
    """The configuration whose options, and those of its parts, have `values`; the rest is by default.

    Raises:
        UnknownNameError: there is no option of that name.
        InvalidInputError: a value is out of range.
    """
    known = [name for _, part in _parts(config_class) for name, _, _ in _options(part)]
    for name in values:
        if name not in known:
            raise unknown_name("option", name, known)
    hints = get_type_hints(config_class)
    arguments: dict[str, Any] = {}
    for one in dataclasses.fields(config_class):
        part = hints[one.name]
        if _is_part(part):
            own = {name for name, _, _ in _options(part)}
            arguments[one.name] = build(part, {name: value for name, value in values.items() if name in own})
        elif one.name in values:
            arguments[one.name] = values[one.name]
    return config_class(**arguments)


def to_yaml(options: Mapping[str, Any]) -> str:
    """Options, as of `flatten`, as the text of a file that `--config` takes."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return yaml.safe_dump(plain, sort_keys=False)


def config_command(name: str, config_class: type, target: str, help: str) -> click.Command:
    """A click command with an option for each field of `config_class`, which calls `target`, "module:function".

    `target` is imported when the command runs; it is called with the configuration and `dry_run`.
    """

    def run(dry_run: bool, config: None, **values: Any) -> None:
        module, _, function = target.partition(":")
        try:
            built = build(config_class, values)
            getattr(import_module(module), function)(built, dry_run=dry_run)
        except (InvalidInputError, FloatingPointError, OSError) as error:
            raise click.ClickException(str(error)) from error

    sections: list[tuple[str, list[click.Parameter]]] = []
    for title, part in _parts(config_class):
        sections.append((title, [_click_option(*one) for one in _options(part)]))
    params = [param for _, section in sections for param in section]
    common: list[click.Parameter] = [
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            is_eager=True,
            callback=_read_config,
            metavar="FILE",
            help="Options in a YAML or JSON file, by their names here; the command line has the last word.",
        ),
        click.Option(["--dry_run"], is_flag=True, help="Print all options and what a step costs, and stop."),
    ]
    return _SectionedCommand(name, callback=run, params=common + params, help=help, sections=sections)


class _SectionedCommand(click.Command):
    """A command whose --help shows the options of each part of the configuration by themselves."""

    def __init__(self, *args: Any, sections: list[tuple[str, list[click.Parameter]]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = {id(param) for _, section in self._sections for param in section}
        common = [param for param in self.get_params(ctx) if id(param) not in shown]
        for title, section in [*self._sections, ("Options", common)]:
            records = [record for param in section if (record := param.get_help_record(ctx)) is not None]
            with formatter.section(title):
                formatter.write_dl(records)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        text = path.read_text(encoding="utf-8")
        try:
            values = json.loads(text)  # not all of JSON is YAML: tabs, and characters written as two escapes
        except json.JSONDecodeError:
            values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is neither YAML nor JSON: {error}", ctx, param) from error
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path} must hold options as `name: value` lines", ctx, param)
    known = {one.name: one.type for one in ctx.command.params if one.name not in (None, "config", "dry_run", "help")}
    for name, value in values.items():
        if name not in known:
            raise click.BadParameter(f"{path}: {unknown_name('option', name, known)}", ctx, param)
        fits = not isinstance(value, dict) or isinstance(known[name], _Arguments)
        fits &= not isinstance(value, list) or isinstance(known[name], _WholeNumbers)
        if not fits:
            raise click.BadParameter(f"{path}: {name} must be one value, got {value!r}", ctx, param)
    ctx.default_map = {name: _word(value) for name, value in values.items() if value is not None}


def _word(value: Any) -> Any:
    """A value of a file as one would type it, so that the types of the options read it; lists and mappings stay."""
    if isinstance(value, list):
        return [_word(one) for one in value]
    if isinstance(value, bool):
        return {True: "yes", False: "no"}[value]  # YAML reads an unquoted no as false
    return str(value) if isinstance(value, (int, float, datetime.date)) else value


class _WholeNumbers(click.ParamType):  # type: ignore[type-arg]  # which older clicks don't take
    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(str(one)) for one in (value.split(",") if isinstance(value, str) else value))
        except (TypeError, ValueError):
            self.fail(f"expected whole numbers between commas, such as 32,64,128, got {value!r}", param, ctx)


class _Arguments(click.ParamType):  # type: ignore[type-arg]  # which older clicks don't take
    name = "arguments"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            arguments = yaml.safe_load(value) if isinstance(value, str) else value
        except yaml.YAMLError:
            arguments = None
        if not isinstance(arguments, dict):
            self.fail(f'expected arguments by name, such as "{{taps: 11, std: 7}}", got {value!r}', param, ctx)
        return {name: _number(one) for name, one in arguments.items()}


def _number(value: Any) -> Any:
    """What YAML doesn't take for a number though one writes it so, such as 1e-2, as one."""
    try:
        return float(value) if isinstance(value, str) and any(one.isdigit() for one in value) else value
    except ValueError:
        return value


def _parts(config_class: type) -> list[tuple[str, type]]:
    """The parts of a configuration with their titles, then the configuration itself for the options of its own."""
    hints = get_type_hints(config_class)
    parts = [hints[one.name] for one in dataclasses.fields(config_class) if _is_part(hints[one.name])]
    own = [config_class] if _options(config_class) else []
    return [(str(part.__doc__).partition("\n")[0].rstrip("."), part) for part in [*own, *parts]]


def _click_option(name: str, hint: Any, one: dataclasses.Field[Any]) -> click.Option:
    kind = hint
    if get_origin(hint) in (Union, types.UnionType):
        (kind,) = (argument for argument in get_args(hint) if argument is not type(None))
    settings: dict[str, Any] = {"default": one.default, "help": one.metadata["help"]}
    settings["show_default"] = one.default is not None and one.default is not False
    if kind is bool:
        return click.Option([f"--{name}/--no_{name}"], **settings)
    if get_origin(kind) is Literal:
        return click.Option([f"--{name}"], type=click.Choice(get_args(kind)), **settings)
    if get_origin(kind) is tuple:
        return click.Option([f"--{name}"], type=_WholeNumbers(), metavar="N,N,...", **settings)
    if get_origin(kind) is Mapping:
        return click.Option([f"--{name}"], type=_Arguments(), metavar='"{NAME: VALUE, ...}"', **settings)
    metavar = {int: "N", float: "X"}.get(kind, "TEXT")
    return click.Option([f"--{name}"], type=kind, metavar=metavar, **settings)
