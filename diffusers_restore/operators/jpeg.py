"""JPEG compression, which is not linear."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import check_bool, check_int
from ..jpeg import jpeg
from .base import Operator, Shape, check_shape


class JPEG(Operator):
    """y = D(E(x)): the picture that libjpeg-turbo decodes after it coded x, to the bit (`diffusers_restore.jpeg`).

    x is rounded to 8 bits first, so that values outside [-1, 1] are clipped. All is computed in float64: pictures don't
    depend on their batch, and the device must have float64. Rounding has no slope: gradients through it are zero.
    `pinv` returns y: coded again, it changes by less than half a grey level on average, often not at all.

    Args:
        input_shape: (C, H, W). Three channels are RGB; of another number, each is coded as a grey picture.
        quality: 1..100, as libjpeg and PIL have it.
        subsampled: chroma at half the size ("4:2:0", PIL's default); else "4:4:4".
    """

    kind: ClassVar[str] = "jpeg"

    def __init__(self, input_shape: Shape, quality: int, subsampled: bool = True) -> None:
        self.input_shape = self.output_shape = check_shape("input_shape", input_shape)
        self.quality, self.subsampled = check_int("quality", quality, 1, 100), check_bool("subsampled", subsampled)

    def forward(self, x: Tensor) -> Tensor:
        levels = ((x.double() + 1) / 2).clamp(0, 1)
        quality = torch.full((len(x),), float(self.quality), dtype=torch.float64, device=x.device)
        return (2 * jpeg(levels, quality, subsampled=self.subsampled) - 1).to(x.dtype)

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def params(self) -> dict[str, Any]:
        return {"input_shape": list(self.input_shape), "quality": self.quality, "subsampled": self.subsampled}
