"""Image restoration as a plug-in of Hugging Face diffusers.

    pipe = diffusers_restore.DDRMPipeline.from_pretrained(diffusers_restore.DEFAULT_PRIOR)
    restored = pipe(image, operator="sr4", sigma_y=0.05).images

Names are imported when they are first used, so that importing the package (and `--help`) doesn't import torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .registration import register

if TYPE_CHECKING:
    from . import degradations, images, operators
    from .models.face_enhancer import FaceEnhancer
    from .models.gaussian_mixture import GaussianMixturePrior
    from .models.generator_resnet import ResnetGenerator
    from .models.generator_unet import UNetGenerator
    from .models.old_photo_mapping import OldPhotoMapping
    from .models.old_photo_vae import OldPhotoVAE
    from .models.patch_discriminator import PatchDiscriminator
    from .models.scratch_detector import ScratchDetector
    from .models.unet_2d_residual import ResidualUNet2DModel
    from .operators import Measurement, measure
    from .pipelines.modular_ddrm import DDRMBlocks
    from .pipelines.pipeline_cold_diffusion import ColdDiffusionPipeline
    from .pipelines.pipeline_ddrm import DDRMPipeline
    from .pipelines.pipeline_old_photo import OldPhotoPipeline
    from .pipelines.pipeline_pix2pix import Pix2PixPipeline
    from .pipelines.pipeline_rddm import RDDMPipeline
    from .pipelines.pipeline_scratch_detection import ScratchDetectionPipeline
    from .schedulers.scheduling_ccdf import CCDFScheduler
    from .schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler
    from .schedulers.scheduling_daps import DAPSScheduler
    from .schedulers.scheduling_ddnm import DDNMScheduler
    from .schedulers.scheduling_ddrm import DDRMScheduler
    from .schedulers.scheduling_ddrm_jpeg import DDRMJPEGScheduler
    from .schedulers.scheduling_diffpir import DiffPIRScheduler
    from .schedulers.scheduling_dpir import DPIRScheduler
    from .schedulers.scheduling_dps import DPSScheduler
    from .schedulers.scheduling_ilvr import ILVRScheduler
    from .schedulers.scheduling_mmps import MMPSScheduler
    from .schedulers.scheduling_pigdm import PiGDMScheduler
    from .schedulers.scheduling_rddm import RDDMScheduler
    from .schedulers.scheduling_repaint import ZeroShotRePaintScheduler

DEFAULT_PRIOR = str(Path(__file__).parent / "assets" / "default_prior")
"""The folder of the bundled prior, for `from_pretrained`."""

DEFAULT_DETECTOR = str(Path(__file__).parent / "assets" / "scratch_detector")
"""The folder of the bundled detector of scratches, for `ScratchDetectionPipeline.from_pretrained`."""

DEFAULT_OLD_PHOTO_RESTORER = str(Path(__file__).parent / "assets" / "old_photo_restorer")
"""The folder of the bundled restorer of old photographs, for `RDDMPipeline.from_pretrained`."""

DEFAULT_RESTORER = str(Path(__file__).parent / "assets" / "blind_restorer")
"""The folder of the bundled blind restorer, for `RDDMPipeline.from_pretrained`."""

_HOMES = {
    "CCDFScheduler": ".schedulers.scheduling_ccdf",
    "ColdDiffusionPipeline": ".pipelines.pipeline_cold_diffusion",
    "ColdDiffusionScheduler": ".schedulers.scheduling_cold_diffusion",
    "DAPSScheduler": ".schedulers.scheduling_daps",
    "DDNMScheduler": ".schedulers.scheduling_ddnm",
    "DDRMBlocks": ".pipelines.modular_ddrm",
    "DDRMJPEGScheduler": ".schedulers.scheduling_ddrm_jpeg",
    "DDRMPipeline": ".pipelines.pipeline_ddrm",
    "DDRMScheduler": ".schedulers.scheduling_ddrm",
    "DPIRScheduler": ".schedulers.scheduling_dpir",
    "DPSScheduler": ".schedulers.scheduling_dps",
    "DiffPIRScheduler": ".schedulers.scheduling_diffpir",
    "FaceEnhancer": ".models.face_enhancer",
    "GaussianMixturePrior": ".models.gaussian_mixture",
    "ILVRScheduler": ".schedulers.scheduling_ilvr",
    "MMPSScheduler": ".schedulers.scheduling_mmps",
    "Measurement": ".operators",
    "OldPhotoMapping": ".models.old_photo_mapping",
    "OldPhotoPipeline": ".pipelines.pipeline_old_photo",
    "OldPhotoVAE": ".models.old_photo_vae",
    "PatchDiscriminator": ".models.patch_discriminator",
    "PiGDMScheduler": ".schedulers.scheduling_pigdm",
    "Pix2PixPipeline": ".pipelines.pipeline_pix2pix",
    "RDDMPipeline": ".pipelines.pipeline_rddm",
    "RDDMScheduler": ".schedulers.scheduling_rddm",
    "ResidualUNet2DModel": ".models.unet_2d_residual",
    "ResnetGenerator": ".models.generator_resnet",
    "ScratchDetectionPipeline": ".pipelines.pipeline_scratch_detection",
    "ScratchDetector": ".models.scratch_detector",
    "UNetGenerator": ".models.generator_unet",
    "ZeroShotRePaintScheduler": ".schedulers.scheduling_repaint",
    "degradations": "",
    "images": "",
    "measure": ".operators",
    "operators": "",
    "restoring": "",
}

__all__ = [
    "DEFAULT_DETECTOR",
    "DEFAULT_OLD_PHOTO_RESTORER",
    "DEFAULT_PRIOR",
    "DEFAULT_RESTORER",
    "CCDFScheduler",
    "ColdDiffusionPipeline",
    "ColdDiffusionScheduler",
    "DAPSScheduler",
    "DDNMScheduler",
    "DDRMBlocks",
    "DDRMJPEGScheduler",
    "DDRMPipeline",
    "DDRMScheduler",
    "DPIRScheduler",
    "DPSScheduler",
    "DiffPIRScheduler",
    "FaceEnhancer",
    "GaussianMixturePrior",
    "ILVRScheduler",
    "MMPSScheduler",
    "Measurement",
    "OldPhotoMapping",
    "OldPhotoPipeline",
    "OldPhotoVAE",
    "PatchDiscriminator",
    "PiGDMScheduler",
    "Pix2PixPipeline",
    "RDDMPipeline",
    "RDDMScheduler",
    "ResidualUNet2DModel",
    "ResnetGenerator",
    "ScratchDetectionPipeline",
    "ScratchDetector",
    "UNetGenerator",
    "ZeroShotRePaintScheduler",
    "degradations",
    "images",
    "measure",
    "operators",
    "restoring",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("diffusers-restore")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not _HOMES[name]:
        return import_module(f".{name}", __name__)
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


register(
    sys.modules[__name__],
    [name for name, home in _HOMES.items() if home.startswith((".models.", ".pipelines.", ".schedulers."))],
)
