"""Push a trained restorer to the Hub with its model card, load it as somebody else would, and compare.

    diffusers-restore train rddm --recipe blind --train_data_dir photos --output_dir mend
    python examples/share_rddm.py mend --repo_id me/mend --private
    python examples/share_rddm.py mend --folder shared       # without the Hub: into a folder

`hf auth login` first, or set HF_TOKEN.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from diffusers_restore import DEFAULT_RESTORER, RDDMPipeline


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=DEFAULT_RESTORER, help="a folder that training wrote")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--repo_id", help="the repository to push to, made if it doesn't exist")
    where.add_argument("--folder", type=Path, help="a folder to save to instead")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--half", action="store_true", help="add a variant fp16, of half the size")
    given = parser.parse_args(argv)

    ours = RDDMPipeline.from_pretrained(given.model)
    if given.repo_id:
        print("pushed:", ours.push_to_hub(given.repo_id, private=given.private))
        if given.half:
            half = RDDMPipeline.from_pretrained(given.model, dtype=torch.float16)
            print("pushed:", half.push_to_hub(given.repo_id, variant="fp16"))
    else:
        ours.save_pretrained(given.folder)
        if given.half:
            RDDMPipeline.from_pretrained(given.model, dtype=torch.float16).save_pretrained(given.folder, variant="fp16")

    # The repository names the class: nobody has to know it, and no code of the repository is run.
    theirs = DiffusionPipeline.from_pretrained(given.repo_id or given.folder)
    size, channels = 64, ours.inputs.channels
    picture = torch.linspace(-1, 1, channels * size * size).reshape(1, channels, size, size)
    pictures = []
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
        pictures.append(pipe(picture, generator=torch.Generator().manual_seed(0), output_type="latent").images)
    print(f"{type(theirs).__name__} of {given.repo_id or given.folder}: the same pictures: {torch.equal(*pictures)}")


if __name__ == "__main__":
    main()
