"""Networks that see pictures in tiles: what they give is what the whole picture gives."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from conftest import make_unet
from torch import Tensor

from diffusers_restore import (
    DEFAULT_PRIOR,
    ColdDiffusionPipeline,
    ColdDiffusionScheduler,
    DDRMPipeline,
    DDRMScheduler,
    RDDMPipeline,
    RDDMScheduler,
    ResidualUNet2DModel,
    operators,
)
from diffusers_restore.degradations import Pixelate
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.pipelines import tiles
from diffusers_restore.pipelines.canvas import size_multiple
from diffusers_restore.pipelines.tiles import TiledNetwork, parts, reach, weights
from diffusers_restore.registries import METHODS


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def local_network(seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> ResidualUNet2DModel:
    """Without norms; all weights are random, and none is zero."""
    config: dict[str, Any] = {"block_out_channels": (4, 6), "layers_per_block": (1, 2), "time_embed_dim": 8}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ResidualUNet2DModel(**config | options).eval()
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=1 / math.sqrt(max(1, weight[0].numel())))
    return network.to(dtype)


@pytest.mark.parametrize(
    ("length", "side", "margin", "multiple"),
    [(96, 32, 8, 8), (104, 40, 16, 8), (64, 64, 8, 8), (1008, 256, 192, 16), (48, 5, 2, 2), (33, 16, 4, 4)],
)
def test_tiles_cover_an_axis_once(length: int, side: int, margin: int, multiple: int) -> None:
    made = parts(length, side, margin, multiple)
    assert made[0].start == 0
    assert made[-1].stop == length
    assert all(one.stop == other.start for one, other in pairwise(made))
    for one in made:
        assert 0 < one.stop - one.start < math.ceil(side / multiple) * multiple + multiple
        assert one.start % multiple == one.first % multiple == 0
        assert (one.first, one.last) == (max(0, one.start - margin), min(length, one.stop + margin))


@pytest.mark.parametrize(
    ("length", "side", "multiple"), [(96, 64, 8), (1008, 256, 8), (72, 65, 8), (264, 129, 8), (50, 1, 2)]
)
def test_weights_of_blended_tiles_add_up_to_1(length: int, side: int, multiple: int) -> None:
    tiled = TiledNetwork(make_unet(levels=int(math.log2(multiple)) + 1), side, {})
    assert tiled.blends
    assert tiled.multiple == multiple
    total = torch.zeros(length)
    for part in parts(length, tiled.side, tiled.margin, multiple):
        total[part.first : part.last] += weights(part, length, tiled.margin)
    assert (total - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        # One for conv_in and conv_out, and two for a block, in pixels of a level: 2 here, 2 * 2 in the second level.
        ({"block_out_channels": (4,), "layers_per_block": (1,)}, 2 * (1 + 2 + 1)),
        ({"block_out_channels": (4,), "layers_per_block": (2,), "patch_size": 1}, 1 + 2 * 2 + 1),
        ({}, 2 * (1 + 2 + 2 + 1) + 4 * 2 * 2),
        ({"num_class_embeds": 3}, 28),
    ],
)
def test_reach_of_convolutions(options: dict[str, Any], pixels: int) -> None:
    network = local_network(**options)
    multiple = size_multiple(network)
    found = reach(network)
    assert found is not None
    assert pixels <= found < pixels + multiple  # it counts from blocks that strided convolutions see as one
    assert reach(network) is found


def test_networks_that_see_all_have_no_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach(make_unet()) is None
    monkeypatch.setattr(tiles, "_FARTHEST", 32)
    assert reach(local_network(layers_per_block=(4, 4))) is None


@pytest.mark.parametrize("size", [(104, 72), (40, 200), (24, 24)])
@pytest.mark.parametrize("side", [1, 24, 40])
def test_tiles_of_a_network_with_a_reach_give_what_the_whole_gives(size: tuple[int, int], side: int) -> None:
    network = local_network()
    x, t = noise(2, 3, *size).double(), torch.tensor([3.0, 600.0])
    whole = network(x, t, return_dict=False)[0]
    (tiled,) = TiledNetwork(network, side, {"disable": True})(x, t, return_dict=False)
    assert (tiled - whole).abs().max() < 1e-12 * whole.abs().max()
    nearer = TiledNetwork(network, side, {"disable": True})
    nearer.margin -= nearer.multiple
    if min(size) > 24:
        assert (nearer(x, t, return_dict=False)[0] - whole).abs().max() > 1e-9 * whole.abs().max()


def test_a_side_that_the_margins_see_is_not_cut() -> None:
    """Tiny tiles of the bundled networks, which reach 186 pixels, would see the whole of a small picture many times."""
    view = TiledNetwork(local_network(), 8, {})
    seen = view.side + 2 * view.margin
    assert len(view.tiles(seen, seen)) == 1
    assert len(view.tiles(seen, seen + 8)) == len(parts(seen + 8, 8, view.margin, view.multiple)) > 1


def test_an_offloaded_network_in_tiles() -> None:
    network = local_network(dtype=torch.float32)
    pipe = DDRMPipeline(network, DDRMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.enable_tiling(16)
    given: dict[str, Any] = {"operator": "denoise", "sigma_y": 0.1, "num_inference_steps": 2, "output_type": "latent"}
    y = noise(1, 3, 32, 48).clamp(-1, 1)
    expected = pipe(y, **given, generator=seeded()).images
    cpu_offload(network, torch.device("cpu"))
    tiles._REACH.pop(network)
    assert network.device.type == "meta"
    assert torch.equal(pipe(y, **given, generator=seeded()).images, expected)


def test_the_bundled_network_in_tiles() -> None:
    network = DDRMPipeline.from_pretrained(DEFAULT_PRIOR).unet
    x, t = noise(1, 3, 64, 640).clamp(-1, 1), torch.tensor([300])
    with torch.no_grad():
        whole = network(x, t, return_dict=False)[0]
        (tiled,) = TiledNetwork(network, 160, {"disable": True})(x, t, return_dict=False)
    assert len(parts(640, 160, reach(network) or 0, 16)) == 4
    assert (tiled - whole).abs().max() < 2e-5 * whole.abs().max()


class Recorder(TiledNetwork):
    """Counts calls and the largest tile of the network."""

    largest: tuple[int, ...] = (0,)
    calls = 0

    def __init__(self, network: Any, side: int, bar: dict[str, Any]) -> None:
        super().__init__(network, side, {"disable": True})
        inner = self.network

        def seen(sample: Tensor, *given: Any, **options: Any) -> Any:
            type(self).calls += 1
            type(self).largest = max(self.largest, tuple(sample.shape[2:]))
            return inner(sample, *given, **options)

        seen.__dict__.update(dtype=inner.dtype, config=inner.config, parameters=inner.parameters)
        self.network = seen


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    fresh = type("Fresh", (Recorder,), {})
    monkeypatch.setattr(tiles, "TiledNetwork", fresh)
    return fresh


def zero_shot(network: Any, method: str, size: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
    pipe = DDRMPipeline(network, METHODS[method].from_config(DDRMScheduler().config))
    pipe.set_progress_bar_config(disable=True)
    blur = operators.create("sr4", measurement_shape=(3, size[0] // 4, size[1] // 4))
    y = blur.forward(noise(2, 3, *size).clamp(-1, 1))
    return pipe, {
        "image": y,
        "operator": blur,
        "sigma_y": 0.02,
        "num_inference_steps": 3,
        "output_type": "latent",
    }


@pytest.mark.parametrize("method", ["ddrm", "dpir", "diffpir"])
def test_zero_shot_methods_in_tiles(method: str, recorder: type[Recorder]) -> None:
    pipe, call = zero_shot(local_network(dtype=torch.float32), method, (112, 144))
    whole = pipe(**call, generator=[seeded(i) for i in range(2)]).images
    pipe.enable_tiling(32)
    tiled = pipe(**call, generator=[seeded(i) for i in range(2)]).images
    assert recorder.calls == 2 * pipe.num_evaluations * 4 * 5
    assert max(recorder.largest) <= 32 + 2 * 32
    # The blur's inverse amplifies rounding; DiffPIR's result is smaller beside it, being clipped on the way.
    assert (tiled - whole).abs().max() < (1e-3 if method == "diffpir" else 2e-4) * whole.abs().max()
    one = pipe(**call | {"image": call["image"][1:]}, generator=seeded(1)).images
    assert torch.equal(one[0], tiled[1])
    pipe.disable_tiling()
    assert torch.equal(pipe(**call, generator=[seeded(i) for i in range(2)]).images, whole)


def test_the_data_term_sees_the_whole_picture_where_tiles_are_blended() -> None:
    pipe, call = zero_shot(make_unet(), "ddrm", (48, 80))
    pipe.enable_tiling(16)
    call |= {"sigma_y": 0.0, "eta_b": 1.0, "eta": 1.0}
    made = pipe(**call, generator=seeded()).images
    assert (call["operator"].forward(made) - call["image"]).abs().max() < 1e-4


def test_a_method_that_needs_gradients_is_refused() -> None:
    pipe, call = zero_shot(local_network(dtype=torch.float32), "dps", (48, 80))
    pipe.enable_tiling(16)
    with pytest.raises(InvalidInputError, match=r"DPSScheduler needs the gradient .* call disable_tiling\(\)"):
        pipe(**call)


@pytest.mark.parametrize("side", [0, 2.5, "auto"])
def test_sides_that_are_refused(side: Any) -> None:
    pipe, _ = zero_shot(local_network(), "ddrm", (48, 80))
    with pytest.raises(InvalidInputError, match="side must be a whole number >= 1"):
        pipe.enable_tiling(side)


def test_trained_restorers_in_tiles(recorder: type[Recorder]) -> None:
    networks = [local_network(seed, torch.float32, in_channels=6) for seed in range(2)]
    restorers: list[tuple[Any, dict[str, Any]]] = [
        (RDDMPipeline(networks[0], RDDMScheduler(prediction_type="residual")), {}),
        (
            RDDMPipeline(networks[0], RDDMScheduler(prediction_type="residual_epsilon"), networks[1]),
            {"num_inference_steps": 2},
        ),
        (ColdDiffusionPipeline(local_network(2, torch.float32), ColdDiffusionScheduler(Pixelate(2))), {}),
    ]
    picture = noise(1, 3, 110, 121).clamp(-1, 1)
    for pipe, call in restorers:
        pipe.set_progress_bar_config(disable=True)
        call |= {"image": picture, "output_type": "latent"}
        if isinstance(pipe, RDDMPipeline):
            call["generator"] = seeded()
        whole = pipe(**call).images
        pipe.enable_tiling(24)
        before = recorder.calls
        if isinstance(pipe, RDDMPipeline):
            call["generator"] = seeded()
        tiled = pipe(**call).images
        assert (tiled - whole).abs().max() < 2e-4 * whole.abs().max()
        networks_of_pipe = 2 if getattr(pipe, "unet_noise", None) is not None else 1
        assert recorder.calls - before == pipe.num_timesteps * networks_of_pipe * 5 * 6
