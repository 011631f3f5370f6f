"""Training the networks of old photographs (arXiv:2004.09484)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .config import AutoencoderConfig, DetectorConfig, MappingConfig
    from .detector import DetectorObjective, train_old_photo_detector
    from .mapping import MappingObjective, train_old_photo_mapping
    from .vae import AutoencoderObjective, train_old_photo_vae

__all__ = [
    "AutoencoderConfig",
    "AutoencoderObjective",
    "DetectorConfig",
    "DetectorObjective",
    "MappingConfig",
    "MappingObjective",
    "train_old_photo_detector",
    "train_old_photo_mapping",
    "train_old_photo_vae",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AutoencoderConfig": ".old_photo.config",
        "AutoencoderObjective": ".old_photo.vae",
        "DetectorConfig": ".old_photo.config",
        "DetectorObjective": ".old_photo.detector",
        "MappingConfig": ".old_photo.config",
        "MappingObjective": ".old_photo.mapping",
        "train_old_photo_detector": ".old_photo.detector",
        "train_old_photo_mapping": ".old_photo.mapping",
        "train_old_photo_vae": ".old_photo.vae",
    },
)
