import pytest
import torch
from diffusers import DDIMScheduler
from restore_demosaic.methods import SoftProjectionScheduler, soft_projection
from restore_demosaic.operators import Mosaic

from diffusers_restore import measure, operators
from diffusers_restore.errors import InvalidInputError, OperatorError


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 5, 7), (3, 1, 1)])
def test_the_operator_is_what_it_says(shape: tuple[int, int, int]) -> None:
    operators.check_operator(Mosaic(shape))


def test_the_pattern() -> None:
    red, green, blue = torch.eye(3).reshape(3, 3, 1, 1).expand(3, 3, 2, 2)
    seen = [Mosaic((3, 2, 2)).forward(colour[None])[0, 0].tolist() for colour in (red, green, blue)]
    assert seen == [[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]]


def test_the_task_finds_the_size_of_the_picture() -> None:
    assert operators.create("demosaic", measurement_shape=(1, 5, 7)).input_shape == (3, 5, 7)
    with pytest.raises(OperatorError, match="3 channels"):
        operators.create("demosaic", image_shape=(1, 5, 7))


def test_at_full_strength_the_estimate_agrees_with_the_measurement() -> None:
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    measurement = measure(Mosaic((3, 6, 8)), x)
    projected = soft_projection(torch.randn_like(x), measurement, lambda v: v, 1.0)
    assert torch.allclose(measurement.operator.forward(projected), measurement.y, atol=1e-12)


def test_without_strength_the_chain_is_that_of_ddim() -> None:
    ddim = DDIMScheduler(clip_sample=False)
    ours = SoftProjectionScheduler.from_config(ddim.config, strength=0.0)
    for scheduler in (ddim, ours):
        scheduler.set_timesteps(4)
    assert ddim.timesteps.tolist() == ours.timesteps.tolist()
    x = torch.randn(1, 3, 6, 8, dtype=torch.float64)
    theirs = x.clone()
    measurement = measure(Mosaic((3, 6, 8)), torch.zeros_like(x))
    for t in ours.timesteps:
        x.requires_grad_()
        output = torch.sin(x)
        theirs = ddim.step(output.detach(), t, theirs).prev_sample
        x = ours.step(output, t, x, measurement).prev_sample
        assert float((x - theirs).abs().max()) < 1e-5


def test_a_strength_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="strength must be a number >= 0 and <= 1, got 2"):
        SoftProjectionScheduler(strength=2)
