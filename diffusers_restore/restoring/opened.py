"""A picture between its files: what is read of it, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from .. import images
from ..errors import InvalidInputError
from ..images import Picture
from .draws import Draw
from .jobs import Done, Job, Remarks, Result
from .packed import Packed

_GREY = 2.5 * 2 / 255
"""How far the channels of a grey picture may be apart: two levels of 8 bits, by which saving as JPEG moves them."""


def _nothing(inputs: Mapping[str, Tensor], number: int) -> Tensor:
    raise AssertionError("a picture that couldn't be prepared is not restored")


@dataclass
class Opened:
    """A picture that is being restored."""

    job: Job
    picture: Picture
    stored_as_rgb: bool
    alpha: Tensor | None
    bits: int
    draw: Draw = field(default_factory=lambda: Draw(_nothing, {}))
    remarks: Remarks = field(default_factory=Remarks)
    size: tuple[int, int] = (0, 0)
    total: Tensor | None = None
    failure: InvalidInputError | OSError | None = None

    @property
    def result(self) -> Result:
        """What became of it."""
        return self.failure or Done(self.job, self.size, self.remarks)


def grouped(pictures: Iterable[Opened], key: Callable[[Opened], Hashable]) -> list[list[Opened]]:
    """The pictures, those of one key together."""
    groups: dict[Hashable, list[Opened]] = {}
    for one in pictures:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def could_be(source: Path | Packed, target: Path) -> bool:
    """Whether a copy of a picture's file is a file of the target's format."""
    if not isinstance(source, Path) or source.suffix.lower() != target.suffix.lower():
        return False
    return images.is_of_its_suffix(source)


def as_grey(picture: Picture) -> tuple[Picture, bool]:
    """A grey picture that is stored as RGB, as scanners and phones do, in one channel; and whether it is one."""
    x = picture.tensor
    if picture.bits == 32 or x.shape[1] != 3 or float((x.amax(1) - x.amin(1)).max()) > _GREY:
        return picture, False
    return replace(picture, tensor=x.mean(dim=1, keepdim=True)), True
