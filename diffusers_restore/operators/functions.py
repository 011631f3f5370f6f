"""Linear functions of tensors as operators."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OperatorError, check_bool, check_real, one_line
from ..tensors import described, is_dense
from .base import LinearOperator, Shape, check_shape

Function = Callable[[Tensor], Tensor]

_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8}
_PAIRS = ((2.0, -3.0), (0.5, 1.0), (-1.0, 0.0), (0.0, 0.0))  # factors of two pictures; the last pair: f(0) = 0


class FunctionOperator(LinearOperator):
    """y = f(x) for a linear function f of torch tensors, such as a simulation of a camera.

    Without `adjoint`, A^T y is autograd's vector-Jacobian product of f, at the cost of f and its backward pass; it
    works under `torch.no_grad` and `torch.inference_mode`, too. `pinv` and `prox` are those of every `LinearOperator`
    without an SVD. A function can't be saved: `to_config` is an error.

    f is tried once, with normal noise: f(a x + b y) = a f(x) + b f(y) with f(0) = 0; a batch gives what its pictures
    give alone; and with A^T, <A x, A x> = <x, A^T A x> and <A A^T y, y> = <A^T y, A^T y>. Values may be off by 1e-4 of
    the largest one, products by 1e-4 of the larger one; in float64 by 1e-8.

    Args:
        forward: f, (B, *input_shape) -> (B, *output_shape) for any B, in the dtype and on the device of its input,
            which it leaves as it is. It should do with float32 and float64; pipelines use float32.
        input_shape: (C, H, W).
        output_shape: (C, H, W); None is that of the trial.
        adjoint: A^T, (B, *output_shape) -> (B, *input_shape).
        gain: an upper bound of |f(x)| for |x| <= 1; None is unknown, and pipelines then don't check the range of what
            they are given.
        measures_picture: whether measurements look like pictures.
        dtype, device: of the trial, for functions that hold tensors of their own.

    Raises:
        OperatorError: f fails the trial; the message has the figure.
    """

    kind: ClassVar[str] = "function"

    def __init__(
        self,
        forward: Function,
        input_shape: Shape,
        output_shape: Shape | None = None,
        *,
        adjoint: Function | None = None,
        gain: float | None = None,
        measures_picture: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, function in (("forward", forward), ("adjoint", adjoint)):
            if not callable(function) and not (name == "adjoint" and function is None):
                raise OperatorError(f"{name} must be a function of a tensor, got {function!r:.99}")
        if not isinstance(dtype, torch.dtype) or dtype not in _TOLERANCES:
            raise OperatorError(f"dtype must be torch.float32 or torch.float64, got {dtype!r:.99}")
        self.input_shape = check_shape("input_shape", input_shape)
        self.gain = inf if gain is None else check_real("gain", gain, above=0)
        self.measures_picture = check_bool("measures_picture", measures_picture)
        self._function, self._adjoint = forward, adjoint
        generator = torch.Generator().manual_seed(0)  # on the CPU: the same pictures on every device
        try:
            x = torch.randn(2, *self.input_shape, generator=generator).to(device=device, dtype=dtype)
        except (RuntimeError, TypeError) as error:
            raise OperatorError(f"device must be one of this machine, got {device!r:.99}") from error
        try:
            with torch.no_grad():
                self._try(x, output_shape, generator)
        except OperatorError:
            raise
        except Exception as error:  # a function can fail in any way
            raise OperatorError(
                f"forward or adjoint failed when it was tried with {described(x)}: {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        return _checked("forward", self._function(x), x, self.output_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        x = self._differentiated(y) if self._adjoint is None else self._adjoint(y)
        return _checked("adjoint", x, y, self.input_shape)

    def params(self) -> dict[str, Any]:
        raise OperatorError(
            f"{self!r} is a function, which can't be saved; derive a class from LinearOperator and register it"
        )

    def _differentiated(self, y: Tensor) -> Tensor:
        """A^T y by autograd. Where y takes part in a graph, so does the result."""
        create_graph = torch.is_grad_enabled() and y.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            y = y.clone() if y.is_inference() else y
            x = y.new_zeros(len(y), *self.input_shape, requires_grad=True)
            image = self.forward(x)
            try:
                return torch.autograd.grad(image, x, y, create_graph=create_graph)[0]
            except RuntimeError as error:
                raise OperatorError(
                    f"autograd can't differentiate forward ({one_line(error)}): give its adjoint, too"
                ) from error

    def _try(self, x: Tensor, output_shape: Shape | None, generator: torch.Generator) -> None:
        if output_shape is None:
            y: object = self._function(x.clone())
            output_shape = tuple(y.shape[1:]) if isinstance(y, Tensor) else None  # type: ignore[assignment]
        self.output_shape = check_shape("output_shape", output_shape)
        self._try_forward(x, _TOLERANCES[x.dtype])
        self._try_adjoint(x, torch.randn(2, *self.output_shape, generator=generator).to(x), _TOLERANCES[x.dtype])

    def _try_forward(self, x: Tensor, tolerance: float) -> None:
        before = x.clone()
        y = self.forward(x).clone()  # which may be x itself
        if not torch.equal(x, before):
            raise OperatorError("forward changes its input; it must leave it as it is")
        if not bool(torch.isfinite(y).all()) or not bool(y.any()):
            raise OperatorError(
                f"forward must give finite numbers that aren't all zero, got {float(y.min()):g} to {float(y.max()):g}"
            )
        size = float(y.abs().max())
        error = float((self.forward(x[:1]) - y[:1]).abs().max()) / size
        if not error <= tolerance:
            raise OperatorError(
                f"forward gives a picture another result in a batch than alone, or is random: {error:.1e} of the "
                f"largest value, more than {tolerance:g}"
            )
        factors = torch.tensor(_PAIRS, dtype=x.dtype, device=x.device)
        mixed = self.forward(torch.einsum("pi,ichw->pchw", factors, x))
        error = float((mixed - torch.einsum("pi,ichw->pchw", factors, y)).abs().max()) / size
        if not error <= tolerance:
            raise OperatorError(
                f"forward isn't linear: f(a x + b y) differs from a f(x) + b f(y) by {error:.1e} of the largest value, "
                f"more than {tolerance:g}"
            )

    def _try_adjoint(self, x: Tensor, y: Tensor, tolerance: float) -> None:
        for of_picture, start in ((True, x), (False, y)):
            first = self.forward(start) if of_picture else self.adjoint(start)
            back = self.adjoint(first) if of_picture else self.forward(first)
            wanted, got = float(first.double().square().sum()), float((back.double() * start.double()).sum())
            error = abs(got - wanted) / (max(abs(got), wanted) or 1.0)
            if not error <= tolerance:
                raise OperatorError(
                    f"adjoint doesn't fit forward: <A x, y> and <x, A^T y> differ by {error:.1e} of the larger one, "
                    f"more than {tolerance:g}"
                )


def _checked(name: str, result: object, given: Tensor, shape: Shape) -> Tensor:
    """What a function gave, if it is a tensor of this shape, of the dtype and on the device of what it was given."""
    if not is_dense(result) or tuple(result.shape) != (len(given), *shape):
        raise OperatorError(f"{name} must give a tensor {(len(given), *shape)}, got {described(result)}")
    if (result.dtype, result.device) != (given.dtype, given.device):
        raise OperatorError(
            f"{name} must give {given.dtype} on {given.device}, as its input is, got {result.dtype} on {result.device}"
        )
    return result
