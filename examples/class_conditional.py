"""Restore with a class-conditional network: the same damaged picture, seen as one class or another.

    diffusers-restore convert 64x64_diffusion.pt -o imagenet64 --num-head-channels 64 --attention-order new \\
        --noise-schedule cosine
    python examples/class_conditional.py photo.jpg --model imagenet64 --classes 281 282 285 --task sr4

The picture is assumed to be clean, and is degraded first. The result shows the measurement, a column for each class,
and the original.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from diffusers_restore import DDRMPipeline, images, measure, operators


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, help="any picture")
    parser.add_argument("--model", required=True, help="a class-conditional DDPM: a repository or a folder")
    parser.add_argument("--classes", type=int, nargs="+", required=True, help="numbers of classes")
    parser.add_argument(
        "--task", default="sr4", choices=list(operators.TASKS), metavar="TASK", help="what is done to it"
    )
    parser.add_argument("--sigma_y", type=float, default=0.02, help="noise in [-1, 1]")
    parser.add_argument("--steps", type=int, default=20, help="network evaluations")
    parser.add_argument("--output", type=Path, default=Path("classes.png"))
    given = parser.parse_args(argv)

    pipe = DDRMPipeline.from_pretrained(given.model)
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    photo = images.load(given.photo).tensor
    clean = torch.nn.functional.interpolate(photo, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)

    operator = operators.create(given.task, image_shape=tuple(clean.shape[1:]))
    measurement = measure(operator, clean, given.sigma_y, torch.Generator().manual_seed(0))
    seeds = [torch.Generator().manual_seed(1) for _ in given.classes]  # the same noise for each, so that they compare
    restored = pipe(
        measurement.y.repeat(len(given.classes), 1, 1, 1),
        operator=operator,
        sigma_y=given.sigma_y,
        num_inference_steps=given.steps,
        class_labels=given.classes,
        generator=seeds,
        output_type="latent",
    ).images
    guess = operator.pinv(measurement.y)
    images.save(torch.cat([guess, *restored.split(1), clean], dim=3), given.output)  # side by side
    for label, x in zip(given.classes, restored, strict=True):
        print(f"class {label}: {float(10 * torch.log10(4 / (x - clean[0]).square().mean())):.2f} dB")
    print(given.output)


if __name__ == "__main__":
    main()
