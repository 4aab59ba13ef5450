"""What the session store counts and takes up, as metrics, read when somebody asks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

REFUSAL_REASONS: Final = ("unreadable", "other_topic", "beyond_end")
"""Told from zero on: the first of a series that begins with it is no increase to Prometheus."""


class CountingStore(Protocol):
    """The counts of a session store since the start of the process, and its sizes now."""

    @property
    def refused_records(self) -> Mapping[str, int]: ...
    @property
    def unreadable_records(self) -> int: ...
    @property
    def quarantined(self) -> Path | None: ...
    def memory_bytes(self) -> Mapping[str, int]: ...
    def disk_bytes(self) -> int: ...


class StoreMetrics(Collector):
    """Register it with the process's registry."""

    def __init__(self, store: CountingStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """One family per count or size."""
        refused = CounterMetricFamily(
            "nextclick_refused_changelog_records",
            "Records in the changelog that cannot be true, by reason, and were not adopted: unreadable, "
            "other_topic, beyond_end (of a click that there is not). Any: something else writes to the "
            "sessions topic; find it, and let only workers write there.",
            labels=["reason"],
        )
        counted = {**dict.fromkeys(REFUSAL_REASONS, 0), **self._store.refused_records}
        for reason, records in sorted(counted.items()):
            refused.add_metric([reason], records)
        yield refused
        yield CounterMetricFamily(
            "nextclick_unreadable_session_records",
            "Stored sessions that could not be read when they clicked, and began anew. Any: a newer "
            "nextclick wrote them, or the disk is failing.",
            self._store.unreadable_records,
        )
        yield CounterMetricFamily(
            "nextclick_quarantined_stores",
            "1 where this start found RocksDB damaged, put it aside and restored from the changelog. "
            "Nothing is lost; again and again: replace the disk under data_dir.",
            int(self._store.quarantined is not None),
        )
        memory = GaugeMetricFamily(
            "nextclick_store_memory_bytes",
            "Memory of RocksDB by part, some 200 MB at most: memtables (up to two of 64 MB), block_cache (64 MB), "
            "table_readers. A worker that grows while this does not: the leak is elsewhere.",
            labels=["part"],
        )
        for part, size in sorted(self._store.memory_bytes().items()):
            memory.add_metric([part], size)
        yield memory
        yield GaugeMetricFamily(
            "nextclick_store_disk_bytes",
            "RocksDB's files under data_dir. Growing while visitors do not: sessions do not expire "
            "(serving.state_ttl_hours, and see nextclick_expired_sessions_total).",
            self._store.disk_bytes(),
        )
