"""Converts published weights of other codebases to diffusers pipelines."""

from __future__ import annotations

from .pipeline import load_guided_diffusion

__all__ = ["load_guided_diffusion"]
