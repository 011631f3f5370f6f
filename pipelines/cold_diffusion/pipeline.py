"""`DiffusionPipeline.from_pretrained(repo, custom_pipeline="pipelines/cold_diffusion", trust_remote_code=True)`."""

from diffusers_restore import ColdDiffusionPipeline

__all__ = ["ColdDiffusionPipeline"]
