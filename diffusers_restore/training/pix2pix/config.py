"""The configuration of a Pix2pix training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...errors import InvalidInputError, check_int, check_real
from ..config import DataConfig, LoopConfig, OptimizerConfig, check_folders, check_sizes, check_words, option
from ..pair_config import PairSourceConfig, check_pairs

JITTER = 286 / 256  # arXiv:1611.07004, section 6.2
MOST_CHANNELS = 1024  # eight times as many are in the middle
MULTIPLES = {"unet_256": 256, "unet_128": 128, "resnet_9": 4, "resnet_6": 4}


@dataclass(frozen=True)
class TranslationDataConfig(DataConfig):
    """Data.

    Raises:
        InvalidInputError: a value is out of range, or values contradict each other.
    """

    resolution: int = option(256, "Side of a training picture in pixels.")
    load_size: int | None = option(
        None,
        "Resize the shorter side to this before a crop of --resolution is cut out, as the paper's jitter does.  "
        "[default: 286/256 of --resolution]",
    )
    random_flip: bool = option(True, "Mirror every other pair.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load_size is None and self.min_scale is None:
            object.__setattr__(self, "load_size", round(self.resolution * JITTER))


@dataclass(frozen=True)
class GeneratorConfig:
    """Generator.

    Raises:
        InvalidInputError: a value is out of range.
    """

    generator: Literal["unet_256", "unet_128", "resnet_9", "resnet_6"] = option(
        "unet_256",
        "The paper's U-Net for pictures of multiples of 256 or of 128 pixels, or 9 or 6 residual blocks, for any size.",
    )
    generator_channels: int = option(64, "Channels of its finest level; half of them cost a quarter.")
    dropout: float = option(0.5, "Share of activations that are dropped, in training and afterwards: the noise.")

    def __post_init__(self) -> None:
        check_words(self)
        check_int("generator_channels", self.generator_channels, 1, MOST_CHANNELS)
        if check_real("dropout", self.dropout, 0) >= 1:
            raise InvalidInputError(f"dropout must be below 1, got {self.dropout!r}")

    @property
    def size_multiple(self) -> int:
        """The number that the sides of pictures must be multiples of."""
        return MULTIPLES[self.generator]


@dataclass(frozen=True)
class TranslationConfig:
    """Objective: losses, and the discriminator.

    Raises:
        InvalidInputError: a value is out of range.
    """

    gan_loss: Literal["vanilla", "lsgan", "wgangp", "none"] = option(
        "vanilla",
        "Of generator and discriminator: cross entropy, least squares (arXiv:1611.04076), or Wasserstein with a "
        "gradient penalty (arXiv:1704.00028); none trains by the L1 distance alone, without a discriminator, whose "
        "options then mean nothing.",
    )
    l1_weight: float = option(100.0, "Weight of the mean absolute distance, in [-1, 1], beside the GAN's loss.")
    discriminator: Literal["70", "286", "16", "pixel"] = option("70", "Side of the patches that it judges, in pixels.")
    discriminator_channels: int = option(64, "Channels of its finest level.")
    keep: Literal["last", "best_psnr"] = option(
        "last",
        "Which weights are exported: those of the last step, or, stopping early, those with the best PSNR of held-out "
        "pictures, which favours blur over detail.",
    )

    def __post_init__(self) -> None:
        check_words(self)
        check_real("l1_weight", self.l1_weight, 0)
        check_int("discriminator_channels", self.discriminator_channels, 1, MOST_CHANNELS)
        if self.gan_loss == "none" and self.l1_weight == 0:
            raise InvalidInputError("gan_loss none and l1_weight 0 leave nothing to train by")


@dataclass(frozen=True)
class TranslationOptimizerConfig(OptimizerConfig):
    """Optimisers, one for each network, and their learning rate.

    Raises:
        InvalidInputError: a value is out of range.
    """

    learning_rate: float = option(2e-4, "Of one optimiser step, whatever the number of processes.")
    lr_scheduler: Literal["constant", "linear", "constant_linear", "cosine", "warmup_stable_decay"] = option(
        "constant_linear",
        "How the rate changes after its warm-up; constant_linear is constant for half of the run and falls to 0 in the "
        "other half; warmup_stable_decay falls in the last lr_decay_steps.",
    )
    lr_warmup_steps: int = option(0, "Steps over which the rate rises.")
    adam_beta1: float = option(0.5, "Decay of the mean of the gradients.")
    adam_weight_decay: float = option(0.0, "Of AdamW.")


@dataclass(frozen=True)
class TranslationLoopConfig(LoopConfig):
    """Training.

    Raises:
        InvalidInputError: a value is out of range.
    """

    max_train_steps: int = option(80_000, "Optimiser steps; the paper makes 200 epochs.")
    train_batch_size: int = option(1, "Pairs per process and micro-batch.")
    max_grad_norm: float = option(0.0, "Gradients of each network are clipped to this norm; 0 disables it.")
    use_ema: bool = option(False, "Average the generator over the run; the average is measured and exported.")
    checkpointing_steps: int = option(2000, "Measure, write a checkpoint, and export, this often.")


@dataclass(frozen=True)
class Pix2PixConfig:
    """A Pix2pix generator, from scratch or from the weights of another one.

    Raises:
        InvalidInputError: the generator can't take pictures of this size, or values contradict each other.
    """

    data: TranslationDataConfig
    pairs: PairSourceConfig = field(default_factory=PairSourceConfig)
    objective: TranslationConfig = field(default_factory=TranslationConfig)
    network: GeneratorConfig = field(default_factory=GeneratorConfig)
    optimizer: TranslationOptimizerConfig = field(default_factory=TranslationOptimizerConfig)
    training: TranslationLoopConfig = field(default_factory=TranslationLoopConfig)
    init_from: str | None = option(
        None,
        "Start from the generator of this repository or folder, a Pix2PixPipeline; its options are then ignored.",
    )

    def __post_init__(self) -> None:
        check_words(self)
        if not self.pairs.paired:
            names = ", ".join(self.pairs.sources)
            raise InvalidInputError(
                f"pairs are needed: one of {names} must say where the pictures come from that go in"
            )
        check_folders(self.data, self.training, degraded_data_dir=self.pairs.degraded_data_dir)
        check_pairs(self.pairs, self.data)
        if self.init_from is None:
            chosen = self.network.generator
            others = [f"{name} multiples of {one}" for name, one in MULTIPLES.items() if name != chosen]
            check_sizes(
                self.data,
                self.network.size_multiple,
                f"generator {chosen} needs while it is trained",
                f"; {', '.join(others)}",
            )
