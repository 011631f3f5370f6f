"""`python -m diffusers_restore` is `diffusers-restore`."""

from .cli import main

main(prog_name="diffusers-restore")
