"""The configuration of our models and schedulers."""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin


class PlainConfigMixin(ConfigMixin):
    """A `ConfigMixin` whose configuration holds the arguments of the class alone.

    diffusers also notes as `_use_default_values` which arguments weren't given by name, and `from_config` uses their
    defaults instead: an argument that was given by position would be lost.
    """

    def register_to_config(self, **kwargs: Any) -> None:
        """As `ConfigMixin.register_to_config`, without that note."""
        kwargs.pop("_use_default_values", None)
        super().register_to_config(**kwargs)
