"""A module per row, each with `ROW = Row(...)`.  The order of the table is the one below."""

import importlib
import pkgutil
from typing import Final

from tests.chaos.row import Row

_ORDER: Final = (
    "kills",
    "zombies",
    "replicas",
    "network",
    "rebalances",
    "topics",
    "storage",
    "inputs",
    "swaps",
    "archive",
    "standby",
    "soak",
)


def all_rows() -> list[Row]:
    """Every row there is: a module that is not there is simply no row."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    names.sort(key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    return [importlib.import_module(f"{__name__}.{name}").ROW for name in names]
