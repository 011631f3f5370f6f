"""Checks that a degradation keeps its contract: its start, its batches, its state, its results and its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checking import Checks
from ..errors import InvalidInputError
from .base import Degradation, State

# One rounding of the result, with room for a rounded copy of the pictures.
_HALVES = {torch.float16: 2e-3, torch.bfloat16: 2e-2}


class DegradationCheckError(AssertionError):
    """A degradation failed checks: the message lists each, with its largest error where it has one."""


def check_degradation(
    degradation: Degradation,
    *,
    shape: tuple[int, int, int] = (3, 16, 24),
    state: State | None = None,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Check a degradation with random pictures of a small shape (C, H, W).

    Checked: D(x, 0) is x, bit for bit; a batch with mixed severities equals single calls; `sample_state` draws what
    `state_shapes` says, the same for the same seed and, with a list of generators, what single pictures get; results
    are finite and keep shape and dtype, half precision too; inputs are left as they were; JSON; wrong severities and a
    missing state are refused. Errors are the largest absolute difference over the largest absolute value.

    Args:
        degradation: D.
        shape: of the pictures.
        state: of a batch, where it can't be drawn; None means that it is drawn.
        tolerance: of float32.
        seed: of the pictures and of their state.

    Raises:
        DegradationCheckError: one or more checks fail.
        InvalidInputError: the shape can't be degraded, or the state can't be drawn.
    """
    if not isinstance(degradation, Degradation):
        raise InvalidInputError(f"degradation must be a Degradation, got {degradation!r:.99}")
    checks = _Checks(tolerance)
    batch = len(next(iter(state.values()))) if state else 4
    x = torch.rand(batch, *shape, generator=_seeded(seed)) * 2 - 1
    degradation.check_size(*shape[1:])
    if state is None:
        state = degradation.sample_state(x, _seeded(seed + 1))
        _check_drawing(checks, degradation, x, state, seed + 1)
    _check_results(checks, degradation, x, state, seed)
    _check_configuration(checks, degradation, x, state)
    _check_refusals(checks, degradation, x, state)
    if checks.failed:
        raise DegradationCheckError(f"{degradation!r}: " + "; ".join(checks.failed))


class _Checks(Checks):
    def refused(self, what: str, degradation: Degradation, x: Tensor, t: Any, state: State | None) -> None:
        try:
            degradation(x, t, state)
        except InvalidInputError:
            return
        self.failed.append(f"{what} is not refused")


def _check_drawing(checks: _Checks, degradation: Degradation, x: Tensor, state: State, seed: int) -> None:
    wanted = {name: (len(x), *shape) for name, shape in degradation.state_shapes(*x.shape[1:]).items()}
    drawn = {name: tuple(value.shape) for name, value in state.items()}
    checks.true(f"sample_state draws {drawn}, state_shapes says {wanted}", drawn == wanted)
    again = degradation.sample_state(x, _seeded(seed))
    checks.true("the same seed draws another state", _same(state, again))
    listed = degradation.sample_state(x, [_seeded(seed + i) for i in range(len(x))])
    alone = [degradation.sample_state(x[i : i + 1], _seeded(seed + i)) for i in range(len(x))]
    joined = {name: torch.cat([one[name] for one in alone]) for name in alone[0]}
    checks.true("a list of generators draws another state than single pictures", _same(listed, joined))


def _check_results(checks: _Checks, degradation: Degradation, x: Tensor, state: State, seed: int) -> None:
    last = degradation.num_timesteps
    t = torch.randint(last + 1, (len(x),), generator=_seeded(seed))
    t[:3] = torch.tensor([last, 0, (last + 1) // 2])[: len(t)]
    before = x.clone(), {name: value.clone() for name, value in state.items()}, t.clone()
    mixed = degradation(x, t, state)
    alone = [degradation(x[i : i + 1], int(t[i]), _select(state, i)) for i in range(len(x))]
    if all(one.shape == x[:1].shape for one in alone):  # otherwise the shape is reported below
        checks.close("a batch with mixed severities is not its pictures", mixed, torch.cat(alone))
    for zero in (0, torch.zeros_like(t)):
        checks.true("D(x, 0) is not x", torch.equal(degradation(x, zero, state), x))
    for one in range(1, last + 1):
        degraded = degradation(x, one, state)
        checks.true(f"D(x, {one}) is not finite", bool(degraded.isfinite().all()))
        checks.true(f"D(x, {one}) is {degraded.dtype} {tuple(degraded.shape)}", _alike(degraded, x))
        exact = degradation(x.double(), one, state)
        checks.true(f"D(x, {one}) in float64 is {exact.dtype}", exact.dtype == torch.float64)
        checks.close(f"D(x, {one}) in float32", degraded.double(), exact.double())
    for dtype, rounding in _HALVES.items():
        half = x.to(dtype)
        rounded = degradation(half, t, state)
        checks.true(f"results of {dtype} are {rounded.dtype}", _alike(rounded, half))
        checks.close(f"D in {dtype}", rounded.float(), degradation(half.float(), t, state), rounding)
    checks.true("pictures were modified", torch.equal(x, before[0]))
    checks.true("the state was modified", _same(state, before[1]))
    checks.true("severities were modified", torch.equal(t, before[2]))


def _check_configuration(checks: _Checks, degradation: Degradation, x: Tensor, state: State) -> None:
    from . import from_config  # this module is part of the package

    try:
        again = from_config(json.loads(json.dumps(degradation.to_config())))
    except (InvalidInputError, TypeError) as error:
        checks.failed.append(f"its configuration can't be read back: {error}")
        return
    checks.true(f"from JSON it is {again!r}", again == degradation)
    for one in {1, degradation.num_timesteps} if again.num_timesteps == degradation.num_timesteps else ():
        checks.close(f"D(x, {one}) from JSON", again(x, one, state), degradation(x, one, state), 0)


def _check_refusals(checks: _Checks, degradation: Degradation, x: Tensor, state: State) -> None:
    last, count = degradation.num_timesteps, len(x)
    for wrong in (-1, last + 1, 2.5, True, float("nan"), "1", None, torch.tensor(float("nan"))):
        checks.refused(f"severity {wrong!r}", degradation, x, wrong, state)
    for values in (
        torch.full((count,), float("nan")),
        torch.full((count,), -1),
        torch.full((count,), last + 1),
        torch.ones(count, dtype=torch.bool),
        torch.ones(count + 1, dtype=torch.int64),
        torch.ones(count, 1, dtype=torch.int64),
    ):
        checks.refused(f"severity {values}", degradation, x, values, state)
    checks.refused("a picture without a batch", degradation, x[0], 1, state)
    checks.refused("an 8-bit picture", degradation, x.byte(), 1, state)
    checks.refused("a state of no use", degradation, x, 1, {**state, "no such name": x})
    if degradation.state_shapes(*x.shape[1:]):
        checks.refused("a missing state", degradation, x, 1, None)
        checks.refused("an empty state", degradation, x, 1, {})


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _select(state: State, i: int) -> dict[str, Tensor]:
    return {name: value[i : i + 1] for name, value in state.items()}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape
