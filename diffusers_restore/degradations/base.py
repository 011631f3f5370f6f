"""Degradations D(x, t) of Cold Diffusion (arXiv:2208.09392): a picture, more degraded the larger its severity t."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Real
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from ..errors import InvalidInputError, check_int
from ..generators import Generators, check_generators
from ..tensors import described, is_dense

State = Mapping[str, Tensor]

_MAX_TOTAL = 1_000_000  # tables have an entry for each severity: an absurd configuration would take all memory


@dataclass(frozen=True)
class Degradation(ABC):
    """D(x, t) for severities t = 0..T, of pictures (B, C, H, W) in [-1, 1]; D(x, 0) = x exactly.

    A degradation is an immutable value for pictures of any size that it supports. It has no device and no dtype:
    results are on the device and in the dtype of the pictures. What is random about it (the place of a mask, the snow)
    is its state: drawn once for each picture and the same at every severity.

    A new one is a frozen dataclass with `formula`, and the state methods if it has a state. Registered under the entry
    point "diffusers_restore.degradations", it is found by its `kind`.

    Args:
        num_timesteps: T, the largest severity.

    Attributes:
        kind: the name in the registry and in `to_config()`.
        forgets: D(x, T) depends on the state alone, so that pictures can be generated from it.
        keeps_grey: a grey result means a grey original, so a grey picture is restored without colours.
        mixes_channels: channels depend on each other, so they can't be degraded one by one.

    Raises:
        InvalidInputError: an argument out of range.
    """

    num_timesteps: int

    kind: ClassVar[str]
    forgets: ClassVar[bool] = False
    keeps_grey: ClassVar[bool] = True
    mixes_channels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_int("num_timesteps", check_int("num_timesteps", self.num_timesteps, 1), 1, _MAX_TOTAL)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "sample_state" in vars(cls):
            cls.sample_state = _checked(cls.sample_state)  # type: ignore[method-assign]

    @abstractmethod
    def formula(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        """D(x0, t) where t >= 1, float32 or float64 (B, C, H, W); its value where t = 0 is not used.

        Args:
            x0: (B, C, H, W), which must not be modified.
            t: (B,) whole numbers, one for each picture.
            state: of B pictures.
        """

    def check_size(self, height: int, width: int) -> None:  # noqa: B027  # most support any size
        """Raise InvalidInputError if pictures of this size can't be degraded."""

    def state_shapes(self, channels: int, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the state of one picture; the tensors of a state have a batch dimension B in front."""
        return {}

    def sample_state(self, x0: Tensor, generator: Generators = None) -> State:
        """Draw the state of each picture of `x0`; empty where nothing about the degradation is random.

        Args:
            x0: pictures (B, C, H, W); only their shape, device and dtype are used.
            generator: one, or a list of one for each picture.

        Raises:
            InvalidInputError: no such pictures, or no such generator; subclasses needn't check them.
        """
        check_generators(generator, len(_check_pictures(x0)))
        return {}

    def check_values(self, x0: Tensor, state: State) -> None:  # noqa: B027  # most have no state
        """Raise InvalidInputError if the values of a state of the right shapes can't be used."""

    @final
    def __call__(self, x0: Tensor, t: int | Tensor, state: State | None = None) -> Tensor:
        """D(x0, t), (B, C, H, W).

        Args:
            x0: pictures (B, C, H, W), float.
            t: their severity in 0..T, one whole number or one for each, (B,).
            state: from `sample_state`, where the degradation has one.

        Raises:
            InvalidInputError: a severity out of range, or a size or a state that the degradation can't use.
        """
        state = self.check(x0, state)
        severities = self.check_severity(t, x0)
        self.check_values(x0, state)
        return self.apply(x0, severities, state)

    @final
    def apply(self, x0: Tensor, t: Tensor, state: State) -> Tensor:
        """As a call, for valid arguments: t of shape (B,) on the device of `x0`. No host sync."""
        x = x0 if x0.dtype == torch.float64 else x0.float()
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):  # autocast would round the float32 values
                degraded = self.formula(x, t, state)
        else:
            degraded = self.formula(x, t, state)
        if degraded.shape != x.shape:  # `where` would broadcast it
            raise InvalidInputError(
                f"the formula of degradation {self.kind!r} must give {tuple(x.shape)}, it gave {tuple(degraded.shape)}"
            )
        return torch.where(per_picture(t == 0), x, degraded).to(x0.dtype)

    @final
    def check(self, x0: Tensor, state: State | None) -> State:
        """The state, {} for None, if pictures and state have the right shapes; reads no values."""
        _check_pictures(x0)
        self.check_size(x0.shape[2], x0.shape[3])
        wanted = self.state_shapes(*x0.shape[1:])
        if not wanted and state is None:
            return {}
        if not isinstance(state, Mapping) or set(state) != set(wanted):
            got = f"one with {', '.join(map(repr, state)) or 'nothing'}" if isinstance(state, Mapping) else repr(state)
            needs = f"a state with {', '.join(map(repr, wanted))}, from sample_state()" if wanted else "no state"
            raise InvalidInputError(f"degradation {self.kind!r} needs {needs}; got {got:.200}")
        for name, shape in wanted.items():
            if not is_dense(state[name]) or state[name].shape != (len(x0), *shape):
                value = state[name]
                came = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
                raise InvalidInputError(f"state[{name!r}] must be a tensor {(len(x0), *shape)}, got {came}")
            if state[name].device != x0.device:
                raise InvalidInputError(
                    f"state[{name!r}] is on {state[name].device}, the pictures are on {x0.device}; move one of them"
                )
        return state

    @final
    def check_severity(self, t: int | Tensor, x0: Tensor, name: str = "t", last: int | None = None) -> Tensor:
        """Severities (B,) on the device of `x0`, if they are whole numbers in 0..last, by default T."""
        last = self.num_timesteps if last is None else last
        if not isinstance(t, Tensor) or t.ndim == 0:
            number = check_int(name, t.item() if isinstance(t, Tensor) else t, 0, last)
            return torch.full((len(x0),), number, device=x0.device)
        if t.is_floating_point() or t.dtype == torch.bool or t.is_complex() or t.shape not in ((1,), (len(x0),)):
            raise InvalidInputError(
                f"{name} must be whole numbers in 0..{last}, one or one for each of {len(x0)} pictures, got "
                f"{t.dtype} {tuple(t.shape)}"
            )
        smallest, largest = torch.aminmax(t)
        if smallest < 0 or largest > last:
            raise InvalidInputError(f"{name} must be in 0..{last}, got {t.tolist()}")
        return t.to(x0.device, torch.int64).expand(len(x0))

    @final
    def to_config(self) -> dict[str, Any]:
        """The configuration for `degradations.from_config`, as JSON values."""
        return {"kind": self.kind, **{one.name: _plain(getattr(self, one.name)) for one in dataclasses.fields(self)}}


def _check_pictures(x0: object) -> Tensor:
    if not is_dense(x0) or x0.ndim != 4 or not x0.is_floating_point() or not all(x0.shape):
        raise InvalidInputError(f"pictures must be a float tensor (B, C, H, W) in [-1, 1], got {described(x0)}")
    return x0


def _checked(sample_state: Callable[..., State]) -> Callable[..., State]:
    """The method of a subclass, which is given pictures and generators that can be used."""

    @wraps(sample_state)
    def checked(self: Degradation, x0: Tensor, generator: Generators = None) -> State:
        check_generators(generator, len(_check_pictures(x0)))
        return sample_state(self, x0, generator)

    return checked


def _plain(value: Any) -> Any:
    """numpy numbers as Python numbers."""
    if isinstance(value, (bool, str)) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def per_picture(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1)


def draw_each(
    draw: Callable[[int, torch.Generator | None, torch.device], Tensor],
    count: int,
    device: torch.device,
    generator: Generators,
) -> Tensor:
    """The draws of `draw(count, generator, device)` for a batch of pictures, (count, ...) on their device.

    With a list of generators, each draws for its own picture, so that a batch equals single pictures. Draws are made
    on the generator's device, so that a CPU generator also serves a GPU.

    Raises:
        InvalidInputError: not a generator, or a list that isn't one for each picture.
    """
    generator = check_generators(generator, count)
    if not isinstance(generator, list):
        return draw(count, generator, device if generator is None else generator.device).to(device)
    return torch.cat([draw(1, one, one.device).to(device) for one in generator])


def check_floats(name: str, value: Tensor, limit: float) -> None:
    """Raise InvalidInputError unless the tensor of a state holds floats in [-limit, limit]."""
    if not value.is_floating_point() or not bool((value.abs() <= limit).all()):  # NaN isn't, either
        reached = "" if value.is_complex() else f" from {value.min().item():g} to {value.max().item():g}"
        raise InvalidInputError(
            f"state[{name!r}] must be floats in [-{limit:g}, {limit:g}], got {value.dtype}{reached}"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InvalidInputError if `value` is none of the choices."""
    if value not in choices:
        raise InvalidInputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
