"""`DiffusionPipeline.from_pretrained(repo, custom_pipeline="pipelines/rddm", trust_remote_code=True)`."""

from diffusers_restore import RDDMPipeline

__all__ = ["RDDMPipeline"]
