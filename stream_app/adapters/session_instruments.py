"""Metrics of what a worker keeps of its sessions, and of the changelog behind it."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class SessionInstruments:
    """How many, how often they move between workers, and what is written of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stored = Gauge(
            "nextclick_stored_sessions",
            "About how many sessions are stored for the partitions of this worker: those found by the last sweep and those "
            "begun since; after a start it counts up, and misses what was on its way to the disk as the first sweep "
            "ended. Growing while visitors do not: lower serving.state_ttl_hours.",
            registry=registry,
        )
        self._rebalances = Counter(
            "nextclick_rebalances",
            "Times this worker was given partitions, its start included; clicks wait meanwhile. More than after "
            "deployments: workers come and go, or are silent for kafka.session_timeout_seconds.",
            registry=registry,
        )
        self._records = Counter(
            "nextclick_changelog_records",
            "Session records and tombstones sent to the changelog. Above the clicks for long: records are sent "
            "again, see nextclick_healed_changelog_records_total.",
            registry=registry,
        )
        self._bytes = Counter(
            "nextclick_changelog_bytes",
            "Bytes of keys and values sent to the changelog. By record more than some hundred: the model's state "
            "is large, see nextclick_model_state_bytes.",
            registry=registry,
        )

    def stored(self, sessions: int) -> None:
        self._stored.set(sessions)

    def rebalanced(self) -> None:
        self._rebalances.inc()

    def sent(self, records: int, size_bytes: int) -> None:
        """So many changelog records were sent, of so many bytes together."""
        self._records.inc(records)
        self._bytes.inc(size_bytes)
