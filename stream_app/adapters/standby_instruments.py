"""Metrics of the copies that a worker keeps of other workers' sessions."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from stream_app.adapters.metric_labels import replace_partitions


class StandbyInstruments:
    """Only where `serving.standby_copies` is set do they move."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._copied = Counter(
            "nextclick_standby_sessions",
            "Session records copied from other workers' changelog. Standing still while clicks flow: look "
            "at the lag.",
            registry=registry,
        )
        self._lag = Gauge(
            "nextclick_standby_lag_records",
            "Changelog records that our copy lacks, by partition we stand by for. Growing: this worker "
            "has too much to do, and a fail-over would have to read so much first; add a worker.",
            ["partition"],
            registry=registry,
        )

    def copied(self, records: int) -> None:
        self._copied.inc(records)

    def lag(self, by_partition: Mapping[int, int]) -> None:
        """Of the partitions we stand by for; others are removed."""
        replace_partitions(self._lag, by_partition)
