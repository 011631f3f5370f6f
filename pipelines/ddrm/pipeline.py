"""`DiffusionPipeline.from_pretrained(repo, custom_pipeline="pipelines/ddrm", trust_remote_code=True)`."""

from diffusers_restore import DDRMPipeline

__all__ = ["DDRMPipeline"]
