#!/usr/bin/env python3
"""Train a diffusion prior on a folder of pictures, for use with `DDPMPipeline` and `DDRMPipeline`.

    accelerate launch examples/train_prior.py --train_data_dir photos --output_dir prior

`--output_dir` becomes a plain diffusers repository; `DDPMPipeline.from_pretrained("prior")` loads it without this
package. Options are shown by `--help` and can come from a file, such as those in examples/recipes:

    accelerate launch examples/train_prior.py --config examples/recipes/default_prior.yaml \
        --train_data_dir photos --output_dir prior

The same as `diffusers-restore train prior`.
"""

from diffusers_restore.cli import train_prior

if __name__ == "__main__":
    train_prior()
