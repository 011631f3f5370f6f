"""Checks that an operator keeps its contract: its dense matrix, its SVD, its inverse, its results and its errors."""

from __future__ import annotations

import json
from math import prod

import torch
from torch import Tensor

from ..checking import Checks
from ..errors import InvalidInputError, OperatorError
from ..registries import OPERATORS
from .base import LinearOperator, Operator, SVDOperator, from_config


class OperatorCheckError(AssertionError):
    """An operator failed checks: the message lists each with its largest error."""


def dense_matrix(operator: LinearOperator) -> Tensor:
    """The matrix of an operator of one image, float64 (outputs, inputs), by applying it to every unit vector."""
    size = prod(operator.input_shape)
    units = torch.eye(size, dtype=torch.float64).reshape(size, *operator.input_shape)
    return operator.forward(units).reshape(size, -1).mT


def check_operator(operator: Operator, *, tolerance: float = 1e-9, seed: int = 0) -> None:
    """Check an operator against its own dense matrix; use small shapes, such as (3, 8, 12), 2000 numbers at most.

    Checked for every image that the operator holds data for: linearity; `adjoint` = A^T; `pinv` = A^+; `prox`; for an
    SVD, that functions of the singular values act as functions of A^T A and A A^T do and that `vt`, `ut` fit `v`,
    `u`; `gain`; float32 results; a batch equals single images; JSON, unless `to_config` refuses; inputs left as they
    were; wrong shapes refused. Of one that isn't linear, all but the first four and the SVD: `gain` is tried with
    random pictures. Errors are the largest absolute difference over the largest absolute value.

    Raises:
        OperatorCheckError: one or more checks fail.
    """
    if not isinstance(operator, Operator):
        raise InvalidInputError(f"operator must be an Operator, got {operator!r:.99}")
    if prod(operator.input_shape) > 4000:
        raise InvalidInputError(f"check_operator builds dense matrices; {operator!r} is too large for that")
    checks = Checks(tolerance)
    generator = torch.Generator().manual_seed(seed)
    batch = operator.batch_size or 3
    x = torch.randn(batch, *operator.input_shape, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, *operator.output_shape, generator=generator, dtype=torch.float64)
    if isinstance(operator, LinearOperator):
        for i in range(operator.batch_size or 1):
            _check_against_matrix(checks, operator.select(i), x[:1], y[:1])
    else:
        checks.true("gain is smaller than |A|", float(operator.forward(x.sign()).abs().max()) <= 1.01 * operator.gain)
    _check_manners(checks, operator, x, y)
    if checks.failed:
        raise OperatorCheckError(f"{operator!r}: " + "; ".join(checks.failed))


def _check_against_matrix(checks: Checks, operator: LinearOperator, x: Tensor, y: Tensor) -> None:
    matrix = dense_matrix(operator)
    column, measured = x.reshape(-1), y.reshape(-1)

    def image(values: Tensor) -> Tensor:
        return values.reshape(1, *operator.input_shape)

    checks.close("forward", operator.forward(x).reshape(-1), matrix @ column)
    checks.close("adjoint", image(operator.adjoint(y).reshape(-1)), image(matrix.mT @ measured))
    checks.true("gain is smaller than |A|", float(matrix.abs().sum(dim=1).max()) <= 1.01 * operator.gain)
    # An iterative inverse stops at the rounding of the normal equations.
    loose = checks.tolerance if isinstance(operator, SVDOperator) else max(checks.tolerance, 1e-6)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    kept = s > 1e-7 * s[0]
    u, s, vt = u[:, kept], s[kept], vt[kept]
    checks.close("pinv", operator.pinv(y), image(vt.mT @ ((u.mT @ measured) / s)), loose)
    weight = 0.3
    normal = matrix.mT @ matrix + weight * torch.eye(len(column), dtype=torch.float64)
    wanted = torch.linalg.solve(normal, matrix.mT @ measured + weight * column)
    checks.close("prox", operator.prox(x, y, weight), image(wanted), loose)
    if not isinstance(operator, SVDOperator):
        return
    values = operator.singular_values.like(x)
    checks.true("a singular value is negative or complex", not values.is_complex() and bool((values >= 0).all()))
    observed = values > 0

    def function(s: Tensor) -> Tensor:  # any function that tells the singular values apart
        return torch.cos(3 * s / s.max()) + 2

    rows = operator.v(torch.where(observed, function(values), 0.0) * operator.vt(x))
    checks.close("v f(s) vt", rows, image(vt.mT @ (function(s) * (vt @ column))))
    columns = operator.u(torch.where(observed, function(values), 0.0) * operator.ut(y))
    checks.close("u f(s) ut", columns.reshape(-1), u @ (function(s) * (u.mT @ measured)))
    checks.close("ut A = s vt", operator.ut(operator.forward(x)), values * operator.vt(x))
    if operator.complete:
        checks.close("complete, but v vt", operator.v(operator.vt(x)), x)
    c = torch.where(observed, operator.vt(x), 0.0)
    checks.close("vt v", torch.where(observed, operator.vt(operator.v(c)), 0.0), c)


def _check_manners(checks: Checks, operator: Operator, x: Tensor, y: Tensor) -> None:
    before = x.clone(), y.clone()
    again = from_json(operator)
    linear = isinstance(operator, LinearOperator)
    methods = {"forward": x, "adjoint": y, "pinv": y} if linear else {"forward": x, "pinv": y}
    for name, argument in methods.items():
        method = getattr(operator, name)
        wanted = method(argument)
        iterative = name == "pinv" and linear and not isinstance(operator, SVDOperator)
        single = method(argument.float())
        checks.true(f"{name} does not keep float32", single.dtype == torch.float32)
        # A small singular value amplifies the rounding of float32, and a step of what isn't linear makes it a jump.
        if linear and name != "pinv":
            checks.close(f"{name} in float32", single.double(), wanted, 1e-4)
        alone = [getattr(operator.select(i), name)(argument[i : i + 1]) for i in range(len(argument))]
        checks.close(
            f"{name} of a batch is not that of its images", torch.cat(alone), wanted, 1e-6 if iterative else 1e-12
        )
        if again is not None:
            checks.close(f"{name} after a JSON round trip", getattr(again, name)(argument), wanted, 0)
    checks.true("inputs were modified", torch.equal(x, before[0]) and torch.equal(y, before[1]))
    for name, argument in methods.items():
        try:
            getattr(operator, name)(argument[..., :-1])
        except OperatorError:
            continue
        checks.failed.append(f"{name} takes the wrong shape {tuple(argument[..., :-1].shape)}")


def from_json(operator: Operator) -> Operator | None:
    """The operator after `json.dumps` and `json.loads` of its configuration, which may not be registered yet.

    None where `to_config` refuses, since a part of the operator is a function.
    """
    try:
        config = json.loads(json.dumps(operator.to_config()))
    except OperatorError:
        return None
    if operator.kind in OPERATORS:
        return from_config(config)
    config.pop("kind")
    return type(operator).from_params(config)
