"""Restoration and generation by Cold Diffusion (arXiv:2208.09392)."""

from __future__ import annotations

from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..schedulers.scheduling_cold_diffusion import ColdDiffusionScheduler


class ColdDiffusionPipeline(DiffusionPipeline):
    """x."""

    def __init__(self, unet: UNet2DModel, scheduler: ColdDiffusionScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
