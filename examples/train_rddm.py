#!/usr/bin/env python3
"""Train an RDDM restorer on pairs of pictures, or on pictures that are damaged while training, for `RDDMPipeline`.

    accelerate launch examples/train_rddm.py --degraded_data_dir rain --train_data_dir clean --output_dir derain

    accelerate launch examples/train_rddm.py --recipe real_esrgan --train_data_dir photos --output_dir blind \
        --init_from google/ddpm-ema-church-256

`--output_dir` becomes a repository for `RDDMPipeline.from_pretrained("derain")`. `--init_from` starts from the network
of a DDPM. The paper's settings are in schedulers/rddm-*, recipes in examples/recipes:

    accelerate launch examples/train_rddm.py --config examples/recipes/rddm_lol.yaml \
        --train_data_dir our485/high --degraded_data_dir our485/low --output_dir lowlight

The same as `diffusers-restore train rddm`.
"""

from diffusers_restore.cli import train_rddm

if __name__ == "__main__":
    train_rddm()
