"""The store's counts, as Prometheus reads them."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from stream_app.adapters.store_metrics import StoreMetrics


@dataclass
class Counts:
    refused_records: Counter[str] = field(default_factory=Counter)
    unreadable_records: int = 0
    quarantined: Path | None = None
    memory: dict[str, int] = field(default_factory=dict)
    disk: int = 0

    def memory_bytes(self) -> dict[str, int]:
        return self.memory

    def disk_bytes(self) -> int:
        return self.disk


def test_the_counts_are_read_when_somebody_asks() -> None:
    counts, registry = Counts(), CollectorRegistry()
    registry.register(StoreMetrics(counts))
    value = registry.get_sample_value
    assert value("nextclick_unreadable_session_records_total") == 0
    assert value("nextclick_quarantined_stores_total") == 0
    assert value("nextclick_refused_changelog_records_total", {"reason": "beyond_end"}) == 0
    counts.refused_records["unreadable"] += 3
    counts.unreadable_records, counts.quarantined = 2, Path("sessions.quarantine-1")
    reason = {"reason": "unreadable"}
    assert value("nextclick_refused_changelog_records_total", reason) == 3
    assert value("nextclick_unreadable_session_records_total") == 2
    assert value("nextclick_quarantined_stores_total") == 1


def test_the_sizes_are_read_when_somebody_asks() -> None:
    counts, registry = Counts(), CollectorRegistry()
    registry.register(StoreMetrics(counts))
    counts.memory, counts.disk = {"memtables": 7, "block_cache": 8}, 9
    value = registry.get_sample_value
    assert value("nextclick_store_memory_bytes", {"part": "memtables"}) == 7
    assert value("nextclick_store_memory_bytes", {"part": "block_cache"}) == 8
    assert value("nextclick_store_disk_bytes") == 9
