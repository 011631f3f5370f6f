"""From coarse to fine: the tones of the whole picture, the details of the largest scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusers_restore.restoring.scales import coarse_to_fine


def smooth(height: int, width: int) -> Tensor:
    down, right = torch.linspace(-0.5, 0.5, height)[:, None], torch.linspace(-0.4, 0.4, width)
    return torch.stack((down + 0 * right, down * right, 0 * down + right))[None]


@pytest.mark.parametrize(
    ("height", "width", "scales"),
    [(255, 900, [255]), (256, 300, [256, 128]), (700, 513, [513, 256, 128]), (1030, 1100, [1030, 515, 257, 128])],
)
def test_tones_are_those_of_the_coarsest_scale_and_details_those_of_the_finest(
    height: int, width: int, scales: list[int]
) -> None:
    """A network whose tones depend on the size, and that adds a pattern which means over areas don't see."""
    seen: list[int] = []

    def restore(x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        seen.append(min(h, w))
        pattern = 0.1 * (1 - 2 * ((torch.arange(h)[:, None] + torch.arange(w)) % 2))
        return x + min(h, w) / 5000 + pattern

    y = smooth(height, width)
    made = coarse_to_fine(restore, y)
    assert seen == scales
    expected = restore(y) + (scales[-1] - scales[0]) / 5000
    inner = (..., slice(8, -8), slice(8, -8))
    assert (made - expected)[inner].abs().max() < 3e-3
    assert (restore(y) - expected).abs().max() == pytest.approx((scales[0] - scales[-1]) / 5000, abs=1e-6)


def test_a_network_that_changes_nothing_changes_nothing() -> None:
    y = smooth(512, 520) + 0.1 * torch.randn(1, 3, 512, 520, generator=torch.Generator().manual_seed(0))
    assert (coarse_to_fine(lambda x: x, y.clamp(-1, 1)) - y.clamp(-1, 1)).abs().max() < 1e-5


def test_the_result_is_in_range_and_of_the_type_of_the_picture() -> None:
    y = torch.full((1, 1, 256, 256), 0.9)
    made = coarse_to_fine(lambda x: (x + 0.05 * (x.shape[2] == 128) + 0.2).bfloat16(), y)
    assert made.dtype == torch.float32
    assert float(made.max()) == 1.0
