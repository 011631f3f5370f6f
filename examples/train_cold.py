#!/usr/bin/env python3
"""Train a Cold Diffusion restorer on a folder of pictures, for use with `ColdDiffusionPipeline`.

    accelerate launch examples/train_cold.py --degradation blur --degradation_args "{taps: 11, std: 7}" \
        --train_data_dir photos --output_dir deblur

`--output_dir` becomes a repository for `ColdDiffusionPipeline.from_pretrained("deblur")`. The papers' settings are in
schedulers/cold-*, recipes in examples/recipes:

    accelerate launch examples/train_cold.py --config examples/recipes/cold_mnist_deblur.yaml \
        --train_data_dir mnist --output_dir deblur

The same as `diffusers-restore train cold`.
"""

from diffusers_restore.cli import train_cold

if __name__ == "__main__":
    train_cold()
