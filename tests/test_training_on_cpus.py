"""What makes training on CPUs fast: bfloat16 copies, a group norm for channels_last, and Muon."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from diffusers_restore import ResidualUNet2DModel
from diffusers_restore.errors import InvalidInputError
from diffusers_restore.training.bfloat16_copy import BFloat16Copy
from diffusers_restore.training.checkpoints import load_optimizer_tensors, optimizer_tensors
from diffusers_restore.training.config import LoopConfig, OptimizerConfig, PriorConfig, build
from diffusers_restore.training.data import TrainingData, open_data, to_unit
from diffusers_restore.training.group_norm import ChannelsLastGroupNorm, replace_group_norms
from diffusers_restore.training.loop import train
from diffusers_restore.training.muon import Muon, hidden_convolutions, orthogonalize
from diffusers_restore.training.objectives import Objective, x0_errors
from diffusers_restore.training.prior import DDPMObjective, make_prior, train_prior
from diffusers_restore.training.processes import make_accelerator
from diffusers_restore.training.step import check_compiled, make_copies, make_optimizers, optimizer_step


def residual() -> ResidualUNet2DModel:
    torch.manual_seed(0)
    network = ResidualUNet2DModel(16, block_out_channels=(32, 32), layers_per_block=1, time_embed_dim=32)
    return with_weights(network)


def unet() -> UNet2DModel:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return with_weights(
        UNet2DModel(
            16, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=16, add_attention=False, **blocks
        )
    )


def with_weights(network: Any) -> Any:
    """With something in the layers that begin at zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found.double() - expected.double()).norm() / expected.double().norm()).detach())


# --- the copy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [residual, unet])
def test_gradients_of_the_copy_are_those_of_float32(make: Any) -> None:
    network, exact = make(), make().double()
    x, target = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)
    timesteps = torch.tensor([0, 10, 500, 999])
    (exact(x.double(), timesteps).sample - target).square().mean().backward()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    half = BFloat16Copy(network)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = half.network(x, timesteps).sample
    (prediction.float() - target).square().mean().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    half.pull_gradients()
    assert all(parameter.grad is None for parameter in half.network.parameters())
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(one.dtype == torch.float32 and one.is_contiguous() for one in gradients)
    expected = [parameter.grad for parameter in exact.parameters()]
    for one, other in zip(gradients, expected, strict=True):
        assert error(one, other) < 0.05
    assert error(torch.cat([one.flatten() for one in gradients]), torch.cat([one.flatten() for one in expected])) < 0.02
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_copy_follows_its_master() -> None:
    network = residual().to(memory_format=torch.channels_last)
    half = BFloat16Copy(network)
    assert network.conv_in.weight.is_contiguous()
    assert half.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    half.push_weights()
    for own, copied in zip(network.parameters(), half.network.parameters(), strict=True):
        assert copied.dtype == torch.bfloat16
        assert torch.equal(copied, own.bfloat16())


def test_buffers_are_the_masters_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    half = BFloat16Copy(network)
    assert half.network[1].running_mean.dtype == torch.float32
    half.network[1].running_mean.fill_(0.123456789)
    half.pull_buffers()
    assert network[1].running_mean.tolist() == pytest.approx([0.123456789] * 4)
    network[1].running_mean.fill_(0.5)
    half.push_buffers()
    assert half.network[1].running_mean.tolist() == [0.5] * 4


class Normed(nn.Module):
    """Of tokens: the norm of the pixels themselves, attention, and a weight of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.turn = nn.Parameter(torch.randn(8, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x.flatten(2).mT)
        return self.attention(tokens, tokens, tokens)[0] * self.turn.abs() + self.turn.imag


@pytest.mark.parametrize(
    "make",
    [
        Normed,
        lambda: nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 2, 3)),
        lambda: nn.Sequential(spectral_norm(nn.Conv2d(8, 8, 3)), nn.SiLU(), spectral_norm(nn.Linear(6, 2))),
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(8, 8, 3)), nn.GroupNorm(2, 8), nn.PReLU(8)),
    ],
    ids=["tokens", "batch norm", "spectral norm", "hooks"],
)
def test_copies_are_made_of_all_that_autocast_takes(make: Any) -> None:
    network, x = make(), torch.randn(4, 8, 8, 8)
    by_autocast, gradients = copy.deepcopy(network), []
    half = BFloat16Copy(network)
    for module in (by_autocast, half.network):
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        y.float().square().sum().backward()
    half.pull_gradients()
    for module in (network, by_autocast):
        gradients.append(torch.cat([torch.view_as_real(one.grad + 0j).flatten() for one in module.parameters()]))
    assert error(*gradients) < 0.02


class Adversarial(Objective):
    """A GAN whose networks have running means, which each of its phases moves."""

    phases = {"unet": ("unet",), "critic": ("critic",)}  # noqa: RUF012
    criterion = "score"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return batch[0], batch[0] + torch.randn(batch[0].shape, generator=generator)

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Any) -> dict[str, Tensor]:
        clean, noisy = corrupted
        made = networks["unet"](noisy)
        if phase == "unet":
            return {"loss": -networks["critic"](made).mean()}
        return {"critic_loss": (networks["critic"](made) - networks["critic"](clean)).mean()}

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        return {"score": networks["critic"](networks["unet"](picture[0])).mean()}

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        return torch.cat([pictures[i][0] for i in indices])


def adversaries() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "unet": nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1)
        ),
        "critic": nn.Sequential(spectral_norm(nn.Conv2d(1, 8, 3)), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 3)),
    }


def digits() -> TrainingData:
    def batches(*, batch_size: int, first_step: int, **rest: int) -> Iterator[tuple[Tensor, ...]]:
        for step in count(first_step):
            generator = torch.Generator().manual_seed(step)
            yield (torch.randint(256, (batch_size, 1, 8, 8), generator=generator, dtype=torch.uint8),)

    return TrainingData(batches, ((torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8),),), "noise", 4)


def test_a_resumed_gan_goes_on_with_its_running_means(tmp_path: Path) -> None:
    states = []
    for folder, legs in (("whole", (4,)), ("broken", (2, 4))):
        for steps in legs:
            AcceleratorState._reset_state(reset_partial_state=True)
            networks = adversaries()
            config = LoopConfig(
                output_dir=str(tmp_path / folder),
                max_train_steps=steps,
                train_batch_size=2,
                mixed_precision="bf16",
                resume_from_checkpoint="latest",
                logger="none",
            )
            optimizers = dict.fromkeys(networks, OptimizerConfig(lr_scheduler="constant"))
            train(Adversarial(), networks, digits(), optimizers, config, export=lambda *_: None)
        states.append({f"{name}.{key}": one for name, net in networks.items() for key, one in net.state_dict().items()})
    assert {key for key in states[0] if not torch.equal(states[0][key], states[1][key])} == set()
    assert float(states[0]["unet.1.running_mean"].abs().max()) > 0


@pytest.mark.parametrize(("optimizer", "other"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_run_does_not_go_on_with_another_optimiser(optimizer: Any, other: Any, tmp_path: Path) -> None:
    """Fused optimisers would write beyond the end of what isn't of the size of its parameter."""

    def run(kind: Any, steps: int, **settings: Any) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        config = LoopConfig(
            output_dir=str(tmp_path), max_train_steps=steps, resume_from_checkpoint="latest", logger="none"
        )
        optimizers = dict.fromkeys(("unet", "critic"), OptimizerConfig(optimizer=kind, lr_scheduler="constant"))
        train(Adversarial(), adversaries(), digits(), optimizers, config, export=lambda *_: None, settings=settings)

    run(optimizer, 1, layers_per_block=1)
    with pytest.raises(InvalidInputError, match=r"of other networks or optimisers than those of this run: \d+\."):
        run(other, 2)
    run(optimizer, 2, layers_per_block=(1,))  # which was one number before it could be several
    with pytest.raises(InvalidInputError, match=r"trained with layers_per_block: \[1\], got \[2\]"):
        run(optimizer, 3, layers_per_block=(2,))


def test_comparing_compiled_networks_leaves_no_gradients() -> None:
    config = LoopConfig(logger="none")
    networks, pictures = adversaries(), torch.rand(2, 1, 8, 8)
    check_compiled(make_accelerator(config), Adversarial(), networks, networks, (pictures, pictures))
    assert all(one.grad is None for network in networks.values() for one in network.parameters())


def test_errors_are_those_of_the_network_without_dropout(tmp_path: Path) -> None:
    for i in range(4):
        pixels = torch.randint(256, (16, 16, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{i}.png")
    values = {
        **{"train_data_dir": str(tmp_path / "photos"), "output_dir": str(tmp_path / "prior"), "resolution": 16},
        **{"network": "residual", "block_out_channels": (8,), "dropout": 0.5, "use_ema": False, "logger": "none"},
        **{"validation_images": 1, "max_train_steps": 3, "lr_warmup_steps": 0, "learning_rate": 0.01},
    }
    config = build(PriorConfig, values)
    train_prior(config)
    network = ResidualUNet2DModel.from_pretrained(tmp_path / "prior", subfolder="unet")
    ((picture,),) = open_data(config.data, 0).validation
    expected = x0_errors(network, make_prior(config)[1], [to_unit(picture[None])])
    assert [one for _, one in network.config.x0_errors] == pytest.approx([one for _, one in expected], rel=1e-4)


def test_a_step_by_copies_is_one_of_the_weights_themselves() -> None:
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    objective = DDPMObjective(scheduler)
    config = LoopConfig(mixed_precision="bf16", gradient_accumulation_steps=2, max_grad_norm=0.01, logger="none")
    accelerator = make_accelerator(config)
    pictures = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    micro_batches = [objective.corrupt((one,), torch.Generator().manual_seed(i)) for i, one in enumerate(pictures)]
    steps = []
    for by_copies in (False, True):
        network = residual()
        copies = make_copies(accelerator, {"unet": network}) if by_copies else {}
        assert bool(copies) == by_copies
        optimizers = make_optimizers(objective, {"unet": network}, {"unet": OptimizerConfig(learning_rate=0.01)})
        networks = {name: accelerator.prepare(one.network) for name, one in copies.items()} or {"unet": network}
        found = optimizer_step(accelerator, objective, networks, optimizers, micro_batches, config, 0, copies)
        steps.append((network, found))
        if by_copies:
            for own, copied in zip(network.parameters(), networks["unet"].parameters(), strict=True):
                assert torch.equal(copied, own.bfloat16())
    (exact, (losses, norms)), (copied, (half_losses, half_norms)) = steps
    assert float(half_losses["loss"].detach()) == pytest.approx(float(losses["loss"].detach()), rel=0.01)
    assert float(half_norms["grad_norm/unet"]) == pytest.approx(float(norms["grad_norm/unet"]), rel=0.02)
    moved = [torch.cat([one.flatten() for one in net.parameters()]) for net in (residual(), exact, copied)]
    assert error(moved[2] - moved[0], moved[1] - moved[0]) < 0.3  # AdamW's first step is a sign, which noise can turn


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_copies_are_made_for_bfloat16_on_a_cpu_only(precision: str) -> None:
    accelerator = make_accelerator(LoopConfig(mixed_precision=precision, logger="none"))  # type: ignore[arg-type]
    assert bool(make_copies(accelerator, {"unet": residual()})) == (precision == "bf16")


# --- group norm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 5e-6), (torch.bfloat16, 0.02)]
)
@pytest.mark.parametrize("shape", [(3, 24, 10, 7), (1, 16, 3, 1), (2, 4, 5, 5)])
def test_group_norm_is_torchs(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    norm = nn.GroupNorm(4, shape[1])
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x, gradient = torch.randn(shape) * 2 + 1, torch.randn(shape)
    found = []
    for wanted, module in ((torch.float64, norm), (dtype, ChannelsLastGroupNorm(copy.deepcopy(norm)))):
        module = copy.deepcopy(module).to(wanted)
        a = x.to(dtype).to(wanted).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = module(a)
        y.backward(gradient.to(dtype).to(wanted))
        assert y.is_contiguous(memory_format=torch.channels_last) or wanted != dtype
        found.append((y.detach(), a.grad, module.weight.grad, module.bias.grad))
    for one, other in zip(found[1], found[0], strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert float((one.double() - other).abs().max()) < tolerance * scale


def test_group_norm_can_be_differentiated_twice() -> None:
    """As a penalty on gradients does."""
    norm = nn.GroupNorm(2, 6).double()
    with torch.no_grad():
        norm.weight.normal_()
    x, found = torch.randn(2, 6, 4, 3, dtype=torch.float64, requires_grad=True), []
    for module in (norm, ChannelsLastGroupNorm(norm)):
        (gradient,) = torch.autograd.grad((module(x) ** 3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), (x, norm.weight)))
    for one, other in zip(*found, strict=True):
        assert error(one, other) < 1e-12


def test_group_norms_are_replaced_under_their_names() -> None:
    network = unet()
    names, x = [name for name, _ in network.named_parameters()], torch.randn(2, 3, 16, 16)
    expected = network(x, 5).sample
    replaced = copy.deepcopy(network)
    replace_group_norms(replaced)
    assert not any(isinstance(one, nn.GroupNorm) for one in replaced.modules())
    assert [name for name, _ in replaced.named_parameters()] == names
    assert torch.allclose(replaced(x, 5).sample, expected, atol=1e-5)
    tokens = torch.randn(2, 8, 6)
    norm = nn.GroupNorm(2, 8)
    assert torch.equal(ChannelsLastGroupNorm(norm)(tokens), norm(tokens))


# --- Muon -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 8, 8)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape) * torch.tensor([1e-4, 1.0, 1e3])[: shape[0], None, None]
    found = orthogonalize(matrices)
    assert found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert float(values.max()) < 1.3
    assert float(values.mean(1).min()) > 0.6
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    polar = u @ v
    cosine = (found * polar).sum((1, 2)) / (found.norm(dim=(1, 2)) * polar.norm(dim=(1, 2)))
    assert float(cosine.min()) > 0.95


def test_orthogonalization_follows_the_polynomial() -> None:
    """The iteration on singular values, in float64: the matrix's own are those values up to bfloat16."""
    torch.manual_seed(1)
    matrix = torch.randn(6, 9)
    s = torch.linalg.svdvals((matrix / matrix.norm()).double())
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert torch.linalg.svdvals(orthogonalize(matrix[None])[0]).double().tolist() == pytest.approx(
        s.sort(descending=True).values.tolist(), abs=0.05
    )


@pytest.mark.parametrize("make", [residual, unet])
def test_hidden_convolutions_are_all_but_the_ends(make: Any) -> None:
    network = make()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    hidden = {names[id(one)] for one in hidden_convolutions(network)}
    four = {name for name, parameter in network.named_parameters() if parameter.ndim == 4}
    assert four - hidden == {"conv_in.weight", "conv_out.weight"}
    assert hidden < four


def test_a_step_of_muon() -> None:
    """Two steps against the formula, written out for one matrix; the rest is AdamW of torch."""
    torch.manual_seed(2)
    kernel, bias = nn.Parameter(torch.randn(8, 4, 3, 3)), nn.Parameter(torch.randn(8))
    own, other = kernel.detach().clone(), nn.Parameter(bias.detach().clone())
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    muon = Muon([kernel], [bias], matrix_lr=0.03, **options)
    adamw = torch.optim.AdamW([other], **options)
    momentum = torch.zeros_like(own)
    for _ in range(2):
        gradient, slope = torch.randn_like(own), torch.randn(8)
        kernel.grad, bias.grad, other.grad = gradient.clone(), slope.clone(), slope.clone()
        muon.step()
        adamw.step()
        momentum = 0.95 * momentum + gradient
        direction = orthogonalize((gradient + 0.95 * momentum).reshape(1, 8, 36)).reshape(own.shape)
        own = own * (1 - 0.03 * 0.1) - 0.03 * 0.2 * 36**0.5 * direction
        assert torch.allclose(kernel, own, atol=1e-6)
        assert torch.allclose(bias, other, atol=1e-7)
    # An update has the size of one of AdamW: 0.2 for each entry, in units of the rate.
    assert float(direction.square().mean().sqrt()) * 0.2 * 6 == pytest.approx(0.2, rel=0.25)


def test_muon_takes_up_its_state_bit_for_bit() -> None:
    def made() -> tuple[ResidualUNet2DModel, Muon]:
        network = residual()
        optimizers = make_optimizers(
            DDPMObjective(DDPMScheduler()), {"unet": network}, {"unet": OptimizerConfig(optimizer="muon")}
        )
        assert isinstance(optimizers["unet"], Muon)
        return network, optimizers["unet"]

    def step(network: nn.Module, optimizer: Muon, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    whole, optimizer = made()
    for number in range(4):
        step(whole, optimizer, number)
        if number == 1:
            kept = {name: value.clone() for name, value in optimizer_tensors(optimizer).items()}
            weights = {name: value.clone() for name, value in whole.state_dict().items()}
    resumed, other = made()
    resumed.load_state_dict(weights)
    load_optimizer_tensors(other, kept)
    for number in (2, 3):
        step(resumed, other, number)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_muon_lowers_a_loss_and_calls_closures() -> None:
    torch.manual_seed(3)
    layer = nn.Conv2d(4, 8, 3)
    optimizer = Muon([layer.weight], [layer.bias], lr=0.01, matrix_lr=0.02, weight_decay=0.0)
    x, y = torch.randn(4, 4, 8, 8), torch.randn(4, 8, 6, 6)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.1


# --- noise levels ---------------------------------------------------------------------------------------------------


def test_mixed_levels_are_half_uniform_and_half_lognormal() -> None:
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    x0, drawn = torch.zeros(20_000, 1, 1, 1), {}
    for kind in ("uniform", "lognormal", "mixed"):
        objective = DDPMObjective(scheduler, timestep_sampling=kind)
        drawn[kind] = objective.corrupt((x0,), torch.Generator().manual_seed(0)).timesteps
    for edge in (50, 200, 400, 700, 900):
        share = {kind: float((timesteps < edge).double().mean()) for kind, timesteps in drawn.items()}
        assert share["mixed"] == pytest.approx((share["uniform"] + share["lognormal"]) / 2, abs=0.012)
    assert (
        abs(float((drawn["uniform"] < 200).double().mean()) - float((drawn["lognormal"] < 200).double().mean())) > 0.1
    )
