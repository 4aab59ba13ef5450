"""Every sample that nextclick's processes can show, with its labels, read from the instruments themselves."""

import inspect
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from stream_app.adapters.disk_metrics import DiskMetrics
from stream_app.adapters.instruments import process_registry
from stream_app.adapters.store_metrics import StoreMetrics

ADAPTERS = Path(__file__).parents[2] / "stream_app" / "adapters"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}


@cache
def labels_by_sample() -> dict[str, set[str]]:
    """Names as they are scraped; a histogram's buckets have the label `le`."""
    found: dict[str, set[str]] = {}
    for family, labels in _families():
        for suffix in SUFFIXES.get(family.type, ("",)):
            found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def _families() -> Iterator[tuple[Metric, set[str]]]:
    registry = CollectorRegistry()
    for path in sorted(ADAPTERS.glob("*instruments.py")):
        module = import_module(f"stream_app.adapters.{path.stem}")
        for _, owner in inspect.getmembers(module, inspect.isclass):
            if owner.__name__.endswith("Instruments") and owner.__module__ == module.__name__:
                yield from _declared(owner)
    for collector in (StoreMetrics(_Store()), DiskMetrics(data_dir=ADAPTERS)):
        registry.register(collector)
    for family in (*registry.collect(), *process_registry().collect()):
        yield family, {label for sample in family.samples for label in sample.labels}


def _declared(owner: Any) -> Iterator[tuple[Metric, set[str]]]:
    registry = CollectorRegistry()
    owner(registry)
    for collector in list(registry._collector_to_names):
        for family in collector.describe():  # type: ignore[attr-defined]
            yield family, set(getattr(collector, "_labelnames", ()))


class _Store:
    """A store that has something to say of everything."""

    def __init__(self) -> None:
        self.refused_records = Counter(unreadable=1)
        self.unreadable_records = 1
        self.quarantined = None

    def memory_bytes(self) -> dict[str, int]:
        return {"memtables": 1}

    def disk_bytes(self) -> int:
        return 1
