#!/usr/bin/env python3
"""Train a Pix2pix generator on pairs of pictures for `Pix2PixPipeline`.

    accelerate launch examples/train_pix2pix.py --train_data_dir facades/train --clean_side left \
        --output_dir facade_photos

    accelerate launch examples/train_pix2pix.py --degraded_data_dir maps --train_data_dir aerial \
        --output_dir aerial_of_maps --generator resnet_9 --gan_loss lsgan

`--output_dir` becomes a repository for `Pix2PixPipeline.from_pretrained("facade_photos")`. The clean pictures are those
that it learns to make, the degraded ones those that it is given. Recipes are in examples/recipes.

The same as `diffusers-restore train pix2pix`.
"""

from diffusers_restore.cli import train_pix2pix

if __name__ == "__main__":
    train_pix2pix()
