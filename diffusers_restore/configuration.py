"""The configuration of our models and schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from diffusers.configuration_utils import ConfigMixin

from .errors import InvalidInputError, one_line


class PlainConfigMixin(ConfigMixin):
    """A `ConfigMixin` whose configuration holds the arguments of the class alone.

    diffusers also notes as `_use_default_values` which arguments weren't given by name, and `from_config` uses their
    defaults instead: an argument that was given by position would be lost.
    """

    def register_to_config(self, **kwargs: Any) -> None:
        """As `ConfigMixin.register_to_config`, without that note."""
        kwargs.pop("_use_default_values", None)
        super().register_to_config(**kwargs)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As `ConfigMixin.from_config`.

        Raises:
            InvalidInputError: no mapping (diffusers also takes the name of a repository), or arguments that are missing
                or of no use.
        """
        if not isinstance(config, (Mapping, str, PathLike)):
            raise InvalidInputError(
                f"config must be the configuration of a {cls.__name__}, a mapping, got {config!r:.99}"
            )
        try:
            given = dict(config) if isinstance(config, Mapping) and not isinstance(config, dict) else config
            return super().from_config(given, return_unused_kwargs, **kwargs)
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"the configuration does not fit {cls.__name__}: {one_line(error)}") from error
