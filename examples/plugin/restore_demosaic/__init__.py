"""A plug-in of diffusers_restore: see README.md."""
