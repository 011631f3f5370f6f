"""Training the networks of RDDM (arXiv:2308.13712) and of the processes that share its step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .aosa import AOSAObjective
    from .config import PairConfig, RDDMConfig, ResidualConfig
    from .networks import make_networks
    from .objective import RDDMObjective
    from .training import make_scheduler, train_rddm

__all__ = [
    "AOSAObjective",
    "PairConfig",
    "RDDMConfig",
    "RDDMObjective",
    "ResidualConfig",
    "make_networks",
    "make_scheduler",
    "train_rddm",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AOSAObjective": ".rddm.aosa",
        "PairConfig": ".rddm.config",
        "RDDMConfig": ".rddm.config",
        "RDDMObjective": ".rddm.objective",
        "ResidualConfig": ".rddm.config",
        "make_networks": ".rddm.networks",
        "make_scheduler": ".rddm.training",
        "train_rddm": ".rddm.training",
    },
)
