"""Published weights of other codebases as pipelines of diffusers."""

from __future__ import annotations

from .pipeline import load_guided_diffusion

__all__ = ["load_guided_diffusion"]
