"""Restoration of old photographs through the latents of two autoencoders (arXiv:2004.09484)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .. import images
from ..errors import InvalidInputError, check_bool, check_real
from ..hub.cards import CardText
from ..hub.saving import HubMixin
from ..models.face_enhancer import FaceEnhancer
from ..models.old_photo_mapping import OldPhotoMapping
from ..models.old_photo_vae import OldPhotoVAE
from ..models.scratch_detector import ScratchDetector
from .canvas import (
    Canvas,
    OutputType,
    check_channels,
    check_mask,
    check_output_type,
    pictures_at_once,
    to_output,
    with_channels,
)
from .common import uncompiled
from .faces import Detect, check_faces, enhance_faces
from .pipeline_scratch_detection import (
    DETECTION_SIZE,
    THRESHOLD,
    check_detection_size,
    check_finite,
    check_not_training,
    find_scratches,
)

WHITE = 1.0  # what masked pixels are painted with
DILATION = 3  # by how many pixels masks grow for patch attention, as the published one was trained with


@dataclass
class OldPhotoOutput(BaseOutput):
    """The result of a call.

    Attributes:
        images: as of the other pipelines.
        scratch_mask: where the photographs were taken to be damaged, 1, and 0 elsewhere, (B, 1, H, W); None without
            a mask.
    """

    images: list[Image.Image] | Any
    scratch_mask: Tensor | None


class OldPhotoPipeline(HubMixin, DiffusionPipeline):
    """Restores old photographs: y = decode_B(T(encode_A(x), mask)).

    An autoencoder of degraded photographs encodes, a mapping leads to the latents of clean ones, and their autoencoder
    decodes. Mappings with attention fill in what a mask hides, which is painted white before; the mask is the user's,
    or that of the detector. Then faces are enhanced by themselves, if the call is told where they are. Several threads
    may call one pipeline at once.

    Args:
        vae_degraded: of degraded photographs.
        mapping: of its latents to those of `vae_clean`.
        vae_clean: of clean photographs.
        scratch_detector: for mappings that take a mask.
        face_enhancer: of faces that a call is told of.
        keeps_grey: grey photographs come back grey.
        detection_size: shorter side of the photographs that `scratch_detector` looks at; None is their own. It should
            be that of the detector's training.
        threshold: from which of its probabilities on a pixel is scratched.

    Raises:
        InvalidInputError: networks that don't fit together.

    Examples:
        >>> import torch
        >>> from diffusers_restore import OldPhotoMapping, OldPhotoPipeline, OldPhotoVAE
        >>> vae = OldPhotoVAE(block_out_channels=(8, 8, 8), num_blocks=1)
        >>> pipe = OldPhotoPipeline(vae, OldPhotoMapping(8, (8, 16), 2), vae)
        >>> pipe(torch.zeros(1, 3, 20, 30)).images[0].size
        (30, 20)
    """

    model_cpu_offload_seq = "scratch_detector->vae_degraded->mapping->vae_clean->face_enhancer"
    _optional_components = ["scratch_detector", "face_enhancer"]

    def __init__(
        self,
        vae_degraded: OldPhotoVAE,
        mapping: OldPhotoMapping,
        vae_clean: OldPhotoVAE,
        scratch_detector: ScratchDetector | None = None,
        face_enhancer: FaceEnhancer | None = None,
        keeps_grey: bool = True,
        detection_size: int | None = DETECTION_SIZE,
        threshold: float = THRESHOLD,
    ) -> None:
        super().__init__()
        kinds: dict[str, tuple[Any, type]] = {
            "vae_degraded": (vae_degraded, OldPhotoVAE),
            "mapping": (mapping, OldPhotoMapping),
            "vae_clean": (vae_clean, OldPhotoVAE),
        }
        optional = {
            "scratch_detector": (scratch_detector, ScratchDetector),
            "face_enhancer": (face_enhancer, FaceEnhancer),
        }
        for name, (network, kind) in (kinds | {k: v for k, v in optional.items() if v[0] is not None}).items():
            if not isinstance(uncompiled(network), kind):
                article = "an" if kind.__name__[0] in "AEIOU" else "a"
                raise InvalidInputError(f"{name} must be {article} {kind.__name__}, got {type(network).__name__}")
        widths = [one.config.block_out_channels[-1] for one in (vae_degraded, vae_clean)]
        if {*widths, mapping.config.latent_channels} != {widths[0]} or (
            vae_degraded.config.in_channels != vae_clean.config.in_channels
        ):
            raise InvalidInputError(
                "vae_degraded, mapping and vae_clean must have latents of as many channels, and pictures, too; got "
                f"latents of {widths[0]}, {mapping.config.latent_channels} and {widths[1]} channels and pictures of "
                f"{vae_degraded.config.in_channels} and {vae_clean.config.in_channels}"
            )
        halvings = [one.size_multiple for one in (vae_degraded, vae_clean)]
        if halvings[0] != halvings[1]:
            raise InvalidInputError(
                "vae_degraded and vae_clean must have latents of the same size, got pictures divided by "
                f"{halvings[0]} and by {halvings[1]}"
            )
        self.register_modules(
            vae_degraded=vae_degraded,
            mapping=mapping,
            vae_clean=vae_clean,
            scratch_detector=scratch_detector,
            face_enhancer=face_enhancer,
        )
        self.register_to_config(
            keeps_grey=check_bool("keeps_grey", keeps_grey),
            detection_size=check_detection_size(detection_size),
            threshold=check_real("threshold", threshold, 0, 1),
        )

    @property
    def card_text(self) -> CardText:
        """What a new model card says."""
        mask = ""
        if self.mapping.takes_mask and self.scratch_detector is None:
            mask = ', mask=images.load_mask("damaged.png")'
        names = "OldPhotoPipeline, images" if mask else "OldPhotoPipeline"
        example = (
            f"from PIL import Image\nfrom diffusers_restore import {names}\n\n"
            'pipe = OldPhotoPipeline.from_pretrained("{repo_id}")\n'
            f'restored = pipe(Image.open("photo.png"){mask}).images[0]'
        )
        return CardText(
            "A restorer of old photographs (arXiv:2004.09484), in one step.",
            example,
            ("image-to-image", "image-restoration", "old-photos"),
        )

    @torch.no_grad()
    def __call__(
        self,
        image: images.ImageInput,
        mask: images.ImageInput | None = None,
        threshold: float | None = None,
        stretch: bool = False,
        faces: Detect | Sequence[Any] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> OldPhotoOutput | tuple[Any, Tensor | None]:
        """Restore photographs of any size.

        A batch gives what its photographs give one by one, bit for bit on a CPU. Sizes that the networks can't halve
        are extended by repeating the last row and column, and cropped back.

        Args:
            image: the photographs: PIL, arrays in [0, 1] (or integers), tensors (B, C, H, W) in [-1, 1], or a list of
                one size.
            mask: where they are damaged, 1, and 0 elsewhere: (H, W), (1, H, W) or (B, 1, H, W), or a
                black and white picture, white there; for mappings with attention. None asks `scratch_detector`.
            threshold: from which probability on the detector sees a scratch; None is that of the pipeline.
            stretch: spread the values of each result over the whole range, as the published code does.
            faces: for `face_enhancer`; None leaves faces as they are. What finds them in a PIL picture,
                `detect(picture) -> [(box, points, score), ...]`, which is shown the restored ones; or a list of such
                tuples for each photograph. box is (left, top, right, bottom); points are (x, y) of left eye, right eye,
                nose, left and right corner of the mouth, as one sees them, in pixels.
            output_type: "pil", "np" ((B, H, W, C) in [0, 1]), "pt" ((B, C, H, W) in [0, 1]), both clipped, or "latent"
                ((B, C, H, W) in [-1, 1], the networks' own units).
            return_dict: False returns a tuple.

        Returns:
            `OldPhotoOutput` with `images` and `scratch_mask`.

        Raises:
            InvalidInputError: an argument that cannot be used; the message says what is accepted.
        """
        check_output_type(output_type)
        check_bool("stretch", stretch)
        limit = check_real("threshold", self.config.threshold if threshold is None else threshold, 0, 1)
        device, channels = self._execution_device, self.vae_clean.config.in_channels
        given = images.to_tensor(image).to(device)
        check_channels(output_type, channels)
        found = self._faces(faces, len(given))
        grey = self.config.keeps_grey and given.shape[1] == 1 and channels == 3
        size = (given.shape[2], given.shape[3])
        multiple = self.vae_degraded.size_multiple * self.mapping.size_multiple
        canvas = Canvas(channels, 1, grey, size, multiple, max(multiple, self.vae_degraded.min_size))
        x = canvas.extend(with_channels(given, channels))
        masks = self._masks(given, mask, limit)
        shown = None if masks is None else canvas.extend(as_shown(self.mapping, masks))
        if shown is not None:
            x = paint(x, shown)
        count = pictures_at_once(device, len(x))
        made = []
        with self.progress_bar(total=-(-len(x) // count)) as progress:
            for i in range(0, len(x), count):
                part = slice(i, i + count)
                # By the networks' own calls, which hooks for offloading are attached to.
                z = self.vae_degraded(x[part].to(self.vae_degraded.dtype), "encoder").to(self.mapping.dtype)
                z = self.mapping(z, None if shown is None else shown[part]).to(self.vae_clean.dtype)
                made.append(self.vae_clean(z, "decoder").float())
                progress.update()
        restored = canvas.to_pictures(torch.cat(made))
        check_finite("vae_degraded, mapping or vae_clean", restored)
        if stretch:
            low, high = restored.amin(dim=(1, 2, 3), keepdim=True), restored.amax(dim=(1, 2, 3), keepdim=True)
            restored = 2 * (restored - low) / (high - low).clamp_min(1e-5) - 1
        if found is not None:
            parts = [enhance_faces(restored[i : i + 1], one, self.face_enhancer) for i, one in enumerate(found)]
            restored = torch.cat(parts)
        self.maybe_free_model_hooks()
        (shown_images,) = to_output(restored, output_type, return_dict=False)
        return OldPhotoOutput(images=shown_images, scratch_mask=masks) if return_dict else (shown_images, masks)

    def _masks(self, pictures: Tensor, mask: images.ImageInput | None, threshold: float) -> Tensor | None:
        """The masks (B, 1, H, W) of pictures (B, C, H, W), None for mappings without one."""
        height, width = pictures.shape[2:]
        if not self.mapping.takes_mask:
            if mask is not None:
                raise InvalidInputError("mask must be None: the mapping takes none")
            return None
        if mask is None:
            if self.scratch_detector is None:
                raise InvalidInputError(
                    "mask is needed: the mapping fills in what a mask hides, and there is no scratch_detector; zeros "
                    "hide nothing"
                )
            found = find_scratches("scratch_detector", self.scratch_detector, pictures, self.config.detection_size)
            return (found >= threshold).float()
        return check_mask(mask, len(pictures), height, width, pictures.device).clone()  # it is returned, too

    def _faces(self, faces: Any, count: int) -> list[Any] | None:
        """What finds the faces of each picture, or the faces themselves."""
        if faces is None:
            return None
        if self.face_enhancer is None:
            raise InvalidInputError("faces must be None: this pipeline has no face_enhancer")
        check_not_training("face_enhancer", self.face_enhancer)
        if callable(faces):
            return [faces] * count
        form = "a function of a PIL picture or a list of the faces of each picture"
        if isinstance(faces, (str, bytes)) or not isinstance(faces, Sequence):
            raise InvalidInputError(f"faces must be {form}, got {faces!r:.99}")
        of_each = [faces] if count == 1 and all(isinstance(one, tuple) for one in faces) else list(faces)
        if len(of_each) != count:
            raise InvalidInputError(f"faces must be {form}: {count} lists, got {len(of_each)}")
        size = self.face_enhancer.config.sample_size
        return [check_faces(f"faces[{i}]", one, size) for i, one in enumerate(of_each)]


def paint(pictures: Tensor, mask: Tensor) -> Tensor:
    """Pictures (B, C, H, W) with what a mask (B, 1, H, W) hides in white."""
    return torch.lerp(pictures, torch.full_like(pictures, WHITE), mask)


def as_shown(mapping: OldPhotoMapping, mask: Tensor) -> Tensor:
    """A mask (B, 1, H, W) as a mapping is shown it: grown by `DILATION` pixels to all sides for patch attention."""
    pixels = DILATION if mapping.size_multiple > 1 else 0
    return functional.max_pool2d(mask, 2 * pixels + 1, 1, pixels)
