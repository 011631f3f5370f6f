"""Linear measurement operators with exact SVDs, and the restoration tasks that are named after them."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidInputError, OperatorError
from ..registries import OPERATORS, TASKS
from .base import Constant, LinearOperator, Shape, SVDOperator, check_shape
from .blur import BlurDecimate, CircularBlur, SymmetricBlur
from .checks import check_operator
from .color import Grayscale
from .masks import Identity, Mask
from .measurement import Measurement, measure
from .products import Crop
from .resize import BlockMean
from .separable import Separable
from .tasks import Task
from .transforms import CompressedSensing

__all__ = [
    "OPERATORS",
    "TASKS",
    "BlockMean",
    "BlurDecimate",
    "CircularBlur",
    "CompressedSensing",
    "Constant",
    "Crop",
    "Grayscale",
    "Identity",
    "LinearOperator",
    "Mask",
    "Measurement",
    "SVDOperator",
    "Separable",
    "Shape",
    "SymmetricBlur",
    "Task",
    "check_operator",
    "check_shape",
    "create",
    "from_config",
    "measure",
]


def create(
    task: str, *, image_shape: Shape | None = None, measurement_shape: Shape | None = None, **arguments: Any
) -> LinearOperator:
    """The operator of a named task, for images of `image_shape` or for measurements of `measurement_shape` (C, H, W).

    `arguments` are those of the task: `create("deblur-gauss", image_shape=(3, 64, 64), sigma=2.0, taps=9)`.

    Raises:
        UnknownNameError: there is no such task.
        InvalidInputError: an argument that the task doesn't have or lacks, or not exactly one of the two shapes.
        OperatorError: a size that can't carry the operator.
    """
    chosen: Task = TASKS[task]
    accepted = chosen.arguments
    for name in arguments:
        if name not in accepted:
            listed = ", ".join(accepted) or "none"
            raise InvalidInputError(f"task {task!r} has no argument {name!r}; it has: {listed}")
    missing = [name for name, p in accepted.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise InvalidInputError(f"task {task!r} needs the argument {missing[0]!r}")
    if (image_shape is None) == (measurement_shape is None):
        raise InvalidInputError("give either image_shape=(C, H, W) or measurement_shape=(C, H, W)")
    if measurement_shape is not None:
        image_shape = chosen.image_shape_for(check_shape("measurement_shape", measurement_shape), arguments)
    operator = chosen.build(check_shape("image_shape", image_shape), **arguments)
    if measurement_shape is not None and operator.output_shape != tuple(measurement_shape):
        raise OperatorError(
            f"task {task!r} gives measurements {operator.output_shape}, not {tuple(measurement_shape)}; "
            "pass an operator built for your image shape"
        )
    return operator


def from_config(config: dict[str, Any]) -> LinearOperator:
    """The operator that `operator.to_config()` describes, through JSON too.

    Raises:
        UnknownNameError: no operator is registered under `config["kind"]`.
        InvalidInputError: an argument is missing or unknown.
    """
    params = dict(config)
    kind = params.pop("kind", None)
    cls = OPERATORS[kind]
    try:
        operator: LinearOperator = cls.from_params(params)
    except (TypeError, KeyError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"the configuration of operator {kind!r} does not fit: {error}") from error
    return operator
