"""Restore a picture with a network from the Hub that was never trained to restore, and show before and after.

    python examples/restore_hub_unet.py photo.jpg --model google/ddpm-celebahq-256 --task sr4
    python examples/restore_hub_unet.py photo.jpg --task inpaint-scratches   # by the bundled prior

The picture is assumed to be clean; it is degraded first, so that the result can be compared with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from diffusers_restore import DEFAULT_PRIOR, DDRMPipeline, images, measure, operators


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, help="any picture")
    parser.add_argument("--model", default=DEFAULT_PRIOR, help="an unconditional DDPM: a repository or a folder")
    parser.add_argument(
        "--task", default="sr4", choices=list(operators.TASKS), metavar="TASK", help="what is done to it"
    )
    parser.add_argument("--size", type=int, default=256, help="side of the centre crop in pixels")
    parser.add_argument("--sigma_y", type=float, default=0.02, help="noise in [-1, 1]")
    parser.add_argument("--steps", type=int, default=20, help="network evaluations")
    parser.add_argument("--output", type=Path, default=Path("restored.png"))
    given = parser.parse_args(argv)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = DDRMPipeline.from_pretrained(given.model).to(device)
    clean = images.load(given.photo).tensor
    side = min(given.size, *clean.shape[2:]) // 16 * 16
    top, left = ((full - side) // 2 for full in clean.shape[2:])
    clean = clean[:, : pipe.unet.config.in_channels, top : top + side, left : left + side]

    operator = operators.create(given.task, image_shape=tuple(clean.shape[1:]))
    seed = torch.Generator().manual_seed(0)
    measurement = measure(operator, clean, given.sigma_y, seed)
    restored = pipe(
        measurement.y,
        operator=operator,
        sigma_y=given.sigma_y,
        num_inference_steps=given.steps,
        generator=seed,
        output_type="latent",
    ).images.cpu()

    guess = operator.pinv(measurement.y)  # the measurement alone, in the size of the picture
    images.save(torch.cat([guess, restored, clean], dim=3), given.output)  # side by side
    psnr = [float(10 * torch.log10(4 / (x - clean).square().mean())) for x in (guess, restored)]
    print(
        f"{given.task}: {psnr[0]:.2f} dB measured, {psnr[1]:.2f} dB restored; before, after, original: {given.output}"
    )


if __name__ == "__main__":
    main()
