"""Measurement operators, most of them linear with exact SVDs, and the restoration tasks that are named after them."""

from __future__ import annotations

from ..registries import OPERATORS, TASKS
from .base import Constant, LinearOperator, Operator, Shape, SVDOperator, check_shape, from_config
from .blur import BlurDecimate, CircularBlur, SymmetricBlur
from .checks import check_operator
from .color import Grayscale
from .functions import FunctionOperator
from .jpeg import JPEG
from .masks import Crop, Identity, Mask
from .measurement import Measurement, measure
from .resize import BlockMean
from .separable import Separable
from .solving import ConvergenceWarning
from .tasks import Task, create
from .transforms import CompressedSensing

__all__ = [
    "JPEG",
    "OPERATORS",
    "TASKS",
    "BlockMean",
    "BlurDecimate",
    "CircularBlur",
    "CompressedSensing",
    "Constant",
    "ConvergenceWarning",
    "Crop",
    "FunctionOperator",
    "Grayscale",
    "Identity",
    "LinearOperator",
    "Mask",
    "Measurement",
    "Operator",
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
