"""Masks of the scratches in photographs (arXiv:2004.09484)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor, nn
from torch.nn import functional

from .. import images
from ..errors import InvalidInputError, check_int, check_real
from ..hub.cards import CardText
from ..hub.saving import HubMixin
from ..models.scratch_detector import ScratchDetector
from .canvas import OutputType, check_output_type, pictures_at_once, to_output, with_channels
from .common import uncompiled

THRESHOLD, DETECTION_SIZE = 0.4, 256  # as the published code has them
_LONGEST = 16  # the longer side of what the detector looks at, over the shorter one that is asked for


@torch.no_grad()
def find_scratches(name: str, detector: ScratchDetector, pictures: Tensor, size: int | None) -> Tensor:
    """The probability that a pixel is scratched, (B, 1, H, W), of pictures (B, C, H, W) in [-1, 1].

    Args:
        name: of the detector, for errors.
        detector: it looks at grey pictures, whose sides are rounded to what it can halve.
        pictures: of 1 or 3 channels.
        size: shorter side that it looks at; None is the pictures' own.

    Raises:
        InvalidInputError: pictures of other channels, a detector in training mode, one that gives NaN, or one in
            float16 whose numbers don't fit.
    """
    check_not_training(name, detector)
    _check_range(name, detector)
    height, width = pictures.shape[2:]
    sides = detection_sides(detector, height, width, size)
    found = []
    with torch.autocast(pictures.device.type, enabled=False):  # which would round the pictures before they are resized
        grey = with_channels(pictures, 1)
    for part in grey.split(pictures_at_once(pictures.device, len(pictures))):
        small = functional.interpolate(part, sides, mode="bicubic", antialias=True).clamp(-1, 1)
        found.append(detector(small.to(detector.dtype)).float().sigmoid())
    probability = functional.interpolate(torch.cat(found), (height, width), mode="bilinear")
    check_finite(name, probability)
    return probability


def detection_sides(detector: ScratchDetector, height: int, width: int, size: int | None) -> tuple[int, int]:
    """Height and width of what the detector looks at, for a picture of this size and a shorter side of `size`.

    Of a strip, the longer side becomes 16 times `size`: its memory is that of the pixels that the detector looks at.
    """
    multiple = detector.size_multiple
    scale = 1.0 if size is None else min(size / min(height, width), _LONGEST * size / max(height, width))
    high, wide = (max(2 * multiple, round(n * scale / multiple) * multiple) for n in (height, width))
    return high, wide


def check_detection_size(size: object) -> int | None:
    """The size itself, or InvalidInputError."""
    return None if size is None else check_int("detection_size", size, 1)


def check_not_training(name: str, network: nn.Module) -> None:
    """Raise InvalidInputError if the batch norms of a network would be those of this picture, and learn from it."""
    if network.training:
        raise InvalidInputError(f"{name} is in training mode, in which its batch norms learn; call {name}.eval() first")


def _check_range(name: str, detector: nn.Module) -> None:
    """Raise InvalidInputError if variances became infinite in float16: what their norms give is finite, and wrong."""
    halves = [one for one in detector.buffers() if one.dtype == torch.float16]
    if halves and not bool(torch.stack([one.isfinite().all() for one in halves]).all()):
        raise InvalidInputError(
            f"{name} has variances beyond the range of torch.float16; load it in torch.float32 or torch.bfloat16"
        )


def check_finite(name: str, made: Tensor) -> None:
    """Raise InvalidInputError if what a network made isn't finite."""
    if not bool(made.isfinite().all()):
        raise InvalidInputError(
            f"{name} gave NaN or Inf: torch.float16 overflows, so try torch.float32 or torch.bfloat16 "
            "(pipe.to(torch.float32)); if it isn't that, look for NaN in its weights"
        )


class ScratchDetectionPipeline(HubMixin, DiffusionPipeline):
    """Finds scratches, folds, dust and tears in photographs: masks that are white where a picture is damaged.

    Args:
        detector: a `ScratchDetector`, such as `diffusers-restore train old-photo-detector` trains.
        detection_size: shorter side of the pictures that it looks at, in pixels; None is their own.
        threshold: from which probability on a pixel is scratched.

    Raises:
        InvalidInputError: no such detector, or a number out of range.

    Examples:
        >>> import torch
        >>> from diffusers_restore import ScratchDetectionPipeline, ScratchDetector
        >>> pipe = ScratchDetectionPipeline(ScratchDetector((8, 16)).eval())
        >>> pipe(torch.zeros(1, 3, 40, 60)).images[0].size
        (60, 40)
    """

    model_cpu_offload_seq = "detector"

    def __init__(
        self, detector: ScratchDetector, detection_size: int | None = DETECTION_SIZE, threshold: float = THRESHOLD
    ) -> None:
        super().__init__()
        if not isinstance(uncompiled(detector), ScratchDetector):
            raise InvalidInputError(f"detector must be a ScratchDetector, got {type(detector).__name__}")
        self.register_modules(detector=detector)
        detection_size = check_detection_size(detection_size)
        self.register_to_config(detection_size=detection_size, threshold=check_real("threshold", threshold, 0, 1))

    @property
    def card_text(self) -> CardText:
        """What a new model card says."""
        example = (
            "from PIL import Image\nfrom diffusers_restore import ScratchDetectionPipeline\n\n"
            'pipe = ScratchDetectionPipeline.from_pretrained("{repo_id}")\n'
            'mask = pipe(Image.open("photo.png")).images[0]  # white where it is scratched'
        )
        return CardText(
            "A detector of scratches in photographs (arXiv:2004.09484).", example, ("image-segmentation", "old-photos")
        )

    @torch.no_grad()
    def __call__(
        self,
        image: images.ImageInput,
        threshold: float | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """The masks of photographs of any size.

        A batch gives what its pictures give one by one, bit for bit on a CPU.

        Args:
            image: PIL, arrays in [0, 1] (or integers), tensors (B, C, H, W) in [-1, 1], or a list of one size.
            threshold: from which probability on a pixel is scratched; None is that of the pipeline, and 0 gives the
                probabilities themselves.
            output_type: "pil", "np" ((B, H, W, 1) in [0, 1]), "pt" ((B, 1, H, W) in [0, 1]), or "latent"
                ((B, 1, H, W) in [-1, 1]).
            return_dict: False returns a tuple.

        Returns:
            `ImagePipelineOutput` with `images`.

        Raises:
            InvalidInputError: an argument that cannot be used; the message says what is accepted.
        """
        check_output_type(output_type)
        limit = check_real("threshold", self.config.threshold if threshold is None else threshold, 0, 1)
        pictures = images.to_tensor(image).to(self._execution_device)
        found = find_scratches("detector", self.detector, pictures, self.config.detection_size)
        if limit:
            found = (found >= limit).float()
        self.maybe_free_model_hooks()
        return to_output(2 * found - 1, output_type, return_dict)
