"""Converts published weights of other codebases to diffusers pipelines."""

from __future__ import annotations

from .old_photos import load_old_photos
from .pipeline import load_guided_diffusion
from .pix2pix import load_pix2pix

__all__ = ["load_guided_diffusion", "load_old_photos", "load_pix2pix"]
