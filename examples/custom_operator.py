"""A custom operator in a script: every second row of an old video's picture was lost.

    python examples/custom_operator.py photo.jpg --output deinterlaced.png

`examples/plugin` does this as a package, which gives the operator a name on the command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_restore import DEFAULT_PRIOR, DDRMPipeline, images, measure, operators
from diffusers_restore.operators import Constant, SVDOperator, check_shape


class Interlace(SVDOperator):
    """y holds rows 0, 2, 4, ... of x: (C, H, W) -> (C, ceil(H / 2), W). s = 1, U = I, V^T = A."""

    kind = "interlace"

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        channels, height, width = self.input_shape = check_shape("input_shape", input_shape)
        self.output_shape = (channels, -(-height // 2), width)
        self._one = Constant(torch.ones(1, 1, 1, dtype=torch.float64))

    @property
    def singular_values(self) -> Constant:
        return self._one

    def vt(self, x: Tensor) -> Tensor:
        return x[:, :, ::2]

    def v(self, c: Tensor) -> Tensor:
        x = c.new_zeros(len(c), *self.input_shape)
        x[:, :, ::2] = c
        return x

    def ut(self, y: Tensor) -> Tensor:
        return y

    def u(self, c: Tensor) -> Tensor:
        return c

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, help="any picture, taken as clean")
    parser.add_argument("--model", default=DEFAULT_PRIOR, help="an unconditional DDPM: a repository or a folder")
    parser.add_argument("--steps", type=int, default=20, help="network evaluations")
    parser.add_argument("--output", type=Path, default=Path("deinterlaced.png"))
    given = parser.parse_args(argv)

    # Against its dense matrix: adjoint, SVD, inverse, dtypes, batches. Errors show here, not in a picture.
    operators.check_operator(Interlace((3, 7, 6)))

    pipe = DDRMPipeline.from_pretrained(given.model)
    clean = images.load(given.photo).tensor
    operator = Interlace(tuple(clean.shape[1:]))
    y = measure(operator, clean).y
    call = {"operator": operator, "num_inference_steps": given.steps, "eta": 1.0, "output_type": "latent"}
    restored = pipe(y, **call, generator=torch.Generator().manual_seed(0)).images
    doubled = y.repeat_interleave(2, dim=2)[:, :, : clean.shape[2]]
    images.save(torch.cat([doubled, restored, clean], dim=3), given.output)  # side by side
    kept = float((operator.forward(restored) - y).abs().max())
    psnr = [float(10 * torch.log10(4 / (x - clean).square().mean())) for x in (doubled, restored)]
    print(f"rows doubled {psnr[0]:.2f} dB, restored {psnr[1]:.2f} dB; |A x - y| <= {kept:.1e}; {given.output}")


if __name__ == "__main__":
    main()
