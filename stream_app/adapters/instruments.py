"""Every Prometheus metric, declared once: a class per process, so that tests can have their own.

Seconds, bytes, `_total` on counters; labels few and closed, never a session or an item.  A help text
says what to do when the metric moves.
"""

import time
from collections import Counter as Counted
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from stream_app.adapters.batch_histogram import BatchHistogram
from stream_app.adapters.metric_labels import ModelVersionLabels, replace_partitions
from stream_app.adapters.model_instruments import ModelInstruments
from stream_app.adapters.session_instruments import SessionInstruments
from stream_app.core.pipeline import BatchOutcome

LATENCY_BUCKETS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Seconds, 1 ms to 60 s, dense where a click is answered on a healthy day."""
STAGE_BUCKETS: Final = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    *(0.125, 0.25, 0.5, 1.0, 2.5, 10.0),
)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
JOB_BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


def process_registry() -> CollectorRegistry:
    """A registry that also tells this process's CPU, memory, file descriptors and Python."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class WorkerInstruments:
    """The stream processor's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.sessions = SessionInstruments(registry)
        self.model = ModelInstruments(registry)
        self.clicks = Counter(
            "nextclick_clicks",
            "Clicks by what became of them: recommended, dead_lettered or ignored_<reason>; they sum to "
            "what came in. A rising share of dead_lettered: see `nextclick dead-letters list`.",
            ["outcome"],
            registry=registry,
        )
        # From zero on: the first of a series that begins with it is no increase to Prometheus.
        for outcome in ("recommended", "dead_lettered"):
            self.clicks.labels(outcome)
        self.recommendations = Counter(
            "nextclick_recommendations",
            "Answers by model and fallback (empty: the model's own). unknown_item rising: retrain, the "
            "catalogue has moved on; no_model after the first training: look at model swaps.",
            ["model_version", "fallback"],
            registry=registry,
        )
        self.click_to_recommendation = BatchHistogram(
            "nextclick_click_to_recommendation_seconds",
            "From the click's Kafka timestamp to its answer. Rising with the lag: add workers or "
            "partitions; rising without: look at the stages.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.stage_duration = Histogram(
            "nextclick_stage_duration_seconds",
            "One batch in one stage. compute: the model; deliver and settle: the broker's acks; write: "
            "the disk under data_dir.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.batch_clicks = Histogram(
            "nextclick_batch_clicks",
            "Clicks in a batch. Constantly at serving.batch_clicks_max: the worker cannot keep up.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.consumer_lag = Gauge(
            "nextclick_consumer_lag_clicks",
            "Clicks on the topic that are not yet done, by partition. Growing for minutes: add a worker; "
            "one partition only: a session (a bot) fills it.",
            ["partition"],
            registry=registry,
        )
        self.waiting = Gauge(
            "nextclick_waiting_clicks",
            "Clicks fetched and not yet taken. Constantly at some thousands: the worker cannot keep up.",
            registry=registry,
        )
        self.dead_letters = Counter(
            "nextclick_dead_letters",
            "Clicks that could not be used, by error. See `nextclick dead-letters list`, mend the "
            "producer, then `nextclick dead-letters requeue`.",
            ["error"],
            registry=registry,
        )
        self.lost_clicks = Counter(
            "nextclick_lost_clicks",
            "Clicks that Kafka deleted before they were read; the log names partition and offsets. Any: "
            "give the click topic a longer retention than your longest outage, or add workers.",
            registry=registry,
        )
        self.restored_sessions = Counter(
            "nextclick_restored_sessions",
            "Sessions read back from the changelog after a start or a rebalance. Often more than after "
            "deployments: workers come and go, look at their logs.",
            registry=registry,
        )
        self.healed_records = Counter(
            "nextclick_healed_changelog_records",
            "Foreign records in the changelog that were overwritten by the owner's. A few after a worker was "
            "frozen are normal; going on: something else writes to the sessions topic, find and stop it.",
            registry=registry,
        )
        self.restore_duration = Gauge(
            "nextclick_restore_duration_seconds",
            "How long the last restore took; clicks wait for so long. Long: keep data_dir across restarts.",
            registry=registry,
        )
        self.restore_running = Gauge(
            "nextclick_restore_running",
            "1 while sessions are read back from the changelog, and their clicks wait. 1 for minutes: look "
            "at the broker, and at the disk under data_dir.",
            registry=registry,
        )
        self.rebuilt_sessions = Counter(
            "nextclick_rebuilt_sessions",
            "Sessions whose model state was made anew under another model: expected after a swap only.",
            registry=registry,
        )
        self.expired_sessions = Counter(
            "nextclick_expired_sessions",
            "Idle sessions removed from state and changelog (serving.state_ttl_hours).",
            registry=registry,
        )
        self.model_age = Gauge(
            "nextclick_model_age_seconds",
            "Since the live model was made; 0 without one. Above twice the retraining interval: look at "
            "`nextclick retrain`.",
            registry=registry,
        )
        self.model_swaps = Counter(
            "nextclick_model_swaps",
            "Model swaps by result. refused: the bundle failed a check, the live model stays; see the "
            "log for which.",
            ["result"],
            registry=registry,
        )
        for result in ("live", "refused"):
            self.model_swaps.labels(result)
        self.release_refused = Gauge(
            "nextclick_release_refused",
            "1 while the promoted model was refused and another one answers. See the log for the check it "
            "failed; mend and publish it again, or promote another with `nextclick models promote`.",
            registry=registry,
        )
        self.live_predictions = Counter(
            "nextclick_live_predictions",
            "Answers judged by the session's next click.",
            ["model_version"],
            registry=registry,
        )
        self.live_hits = Counter(
            "nextclick_live_hits",
            "Judged answers that had the next click among their first 20. Falling against predictions: "
            "the model is stale, or the shop changed; retrain, or roll back.",
            ["model_version"],
            registry=registry,
        )
        self.live_reciprocal_rank = Counter(
            "nextclick_live_reciprocal_rank",
            "Sum of 1/rank of the hits; over predictions it is the live MRR@20.",
            ["model_version"],
            registry=registry,
        )
        self.live_popularity_hits = Counter(
            "nextclick_live_popularity_hits",
            "What popularity would have hit of the clicks that judged this model's answers. Above the "
            "model's own hits: it is worse than no model; roll back, and look at `nextclick retrain`.",
            ["model_version"],
            registry=registry,
        )
        self.live_popularity_reciprocal_rank = Counter(
            "nextclick_live_popularity_reciprocal_rank",
            "Sum of 1/rank of those; over nextclick_live_predictions it is popularity's MRR@20 on the same "
            "clicks.",
            ["model_version"],
            registry=registry,
        )
        self.statistics_version = Gauge(
            "nextclick_worker_statistics_version",
            "Version of the stream statistics answers are given from; 0: none read yet.",
            registry=registry,
        )
        self.statistics_staleness = Gauge(
            "nextclick_worker_statistics_staleness_seconds",
            "Since the statistics last changed. Growing while clicks come in: `nextclick statistics` is "
            "not running.",
            registry=registry,
        )
        self.is_ready = Gauge(
            "nextclick_ready",
            "1 while /readyz says so. 0 for long: /readyz says why.",
            registry=registry,
        )
        self.model_versions = ModelVersionLabels(
            self.recommendations,
            self.live_predictions,
            self.live_hits,
            self.live_reciprocal_rank,
            self.live_popularity_hits,
            self.live_popularity_reciprocal_rank,
        )
        self.model_age.set_function(self._model_age_seconds)
        self._model_made_at: float | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one batch in one stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stage_duration.labels(name).observe(time.perf_counter() - began)

    def computed(self, outcome: BatchOutcome, clicks: int, seconds: float) -> None:
        """A batch left the first stage; its answers are not out yet."""
        self.batch_clicks.observe(clicks)
        self.stage_duration.labels("compute").observe(seconds)
        self.rebuilt_sessions.inc(outcome.rebuilt_sessions)
        if outcome.listed is not None:
            self.model.listed(outcome.listed)

    def delivered(self, outcome: BatchOutcome) -> None:
        """The answers of a batch are on the topic: count its clicks."""
        for name, count in outcome.outcomes.items():
            self.clicks.labels(name).inc(count)
        for letter in outcome.dead_letters:
            self.dead_letters.labels(letter.error).inc()
        label = self.model_versions.value
        answers = Counted((a.model_version, a.fallback) for a in outcome.recommendations)
        for (version, fallback), count in answers.items():
            self.recommendations.labels(label(version), fallback or "").inc(count)
        self.click_to_recommendation.observe_all(
            [answer.latency_ms / 1000 for answer in outcome.recommendations]
        )
        for judged, judgement in outcome.judgements.items():
            name = label(judged)
            self.live_predictions.labels(name).inc(judgement.predictions)
            self.live_hits.labels(name).inc(judgement.hits)
            self.live_reciprocal_rank.labels(name).inc(judgement.reciprocal_rank)
        for judged, judgement in outcome.popularity_judgements.items():
            name = label(judged)
            self.live_popularity_hits.labels(name).inc(judgement.hits)
            self.live_popularity_reciprocal_rank.labels(name).inc(judgement.reciprocal_rank)

    def lag(self, by_partition: Mapping[int, int], waiting: int) -> None:
        """Clicks not yet done, of the partitions we own; others are removed."""
        replace_partitions(self.consumer_lag, by_partition)
        self.waiting.set(waiting)

    def restored(self, sessions: int, seconds: float) -> None:
        self.restored_sessions.inc(sessions)
        self.restore_duration.set(seconds)

    def healed(self, records: int) -> None:
        """So many records of another writer were overwritten."""
        self.healed_records.inc(records)

    def expired(self, sessions: int) -> None:
        self.expired_sessions.inc(sessions)

    def ready(self, *, restored: bool) -> None:
        """restored: our sessions are up to date; else they are being read back."""
        self.is_ready.set(restored)
        self.restore_running.set(not restored)

    def swapped(
        self, version: str | None, *, made_at: float | None, candidate: str | None = None
    ) -> None:
        """`version` is live now.  made_at: when it was made, seconds since the epoch."""
        self.model_swaps.labels("live").inc()
        self._model_made_at = made_at
        self.model_versions.keep(version, candidate)

    def swap_failed(self, result: str) -> None:
        """result: `refused` (the bundle failed a check) or `unavailable` (it could not be read)."""
        self.model_swaps.labels(result).inc()

    def statistics(self, version: int | None, staleness_seconds: float) -> None:
        self.statistics_version.set(version or 0)
        self.statistics_staleness.set(staleness_seconds)

    def _model_age_seconds(self) -> float:
        return max(0.0, time.time() - self._model_made_at) if self._model_made_at else 0.0


class StatisticsInstruments:
    """The aggregator's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.version = Gauge(
            "nextclick_statistics_version",
            "Version last published. Standing still while clicks come in: look at the aggregator's log.",
            registry=registry,
        )
        self.published = Counter(
            "nextclick_statistics_published",
            "Versions published by this process.",
            registry=registry,
        )
        self.records = Counter(
            "nextclick_statistics_records",
            "Item records published: what readers must take in.",
            registry=registry,
        )
        self.bytes = Counter(
            "nextclick_statistics_bytes",
            "Bytes of item records published. Too many for network or workers: raise "
            "statistics.publish_seconds, or lower statistics.neighbours_max.",
            registry=registry,
        )
        self.clicks = Counter(
            "nextclick_statistics_clicks",
            "Clicks read, by outcome: counted, ignored_event_type, unusable.",
            ["outcome"],
            registry=registry,
        )
        self.lost_clicks = Counter(
            "nextclick_statistics_lost_clicks",
            "Clicks that retention deleted before they were counted. Any: lengthen the click topic's "
            "retention, or let the aggregator run all the time.",
            registry=registry,
        )
        self.lag = Gauge(
            "nextclick_statistics_lag_clicks",
            "Clicks on the topic that are not yet counted. Growing: the aggregator cannot keep up.",
            registry=registry,
        )
        self.age = Gauge(
            "nextclick_statistics_age_seconds",
            "Since the last version was published. Above ten times statistics.publish_seconds while "
            "clicks come in: look at the aggregator's log.",
            registry=registry,
        )
        self.items = Gauge(
            "nextclick_statistics_items",
            "Items counted. At statistics.items_max the least popular are dropped.",
            registry=registry,
        )
        self.sessions = Gauge(
            "nextclick_statistics_sessions",
            "Sessions whose last items are remembered. At statistics.sessions_max the longest untouched are "
            "forgotten, and what follows them is not learned: raise it.",
            registry=registry,
        )
        self.publish_duration = Histogram(
            "nextclick_statistics_publish_duration_seconds",
            "One publication, transaction included. Above statistics.publish_seconds: the broker is slow, "
            "or too many items change.",
            buckets=JOB_BUCKETS,
            registry=registry,
        )
        self.watermark = Gauge(
            "nextclick_statistics_watermark_seconds",
            "Newest event time counted, seconds since the epoch: the statistics' clock.",
            registry=registry,
        )


class ArchiveInstruments:
    """The click log writer's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.clicks = Counter(
            "nextclick_archive_clicks",
            "Clicks written to the click log, by outcome: archived, unusable (kept out, counted).",
            ["outcome"],
            registry=registry,
        )
        self.files = Counter(
            "nextclick_archive_files",
            "Parquet files written. Very many small ones: raise archive.flush_seconds.",
            registry=registry,
        )
        self.bytes = Counter(
            "nextclick_archive_bytes", "Bytes of Parquet files written.", registry=registry
        )
        self.lag = Gauge(
            "nextclick_archive_lag_clicks",
            "Clicks on the topic that are not in the click log, by partition. Above the topic's retention "
            "they are lost: look at the archive's log and its disk.",
            ["partition"],
            registry=registry,
        )
        self.flush_duration = Histogram(
            "nextclick_archive_flush_duration_seconds",
            "One file: encode, write, fsync, rename, commit. Rising: the disk or the object store is slow.",
            buckets=JOB_BUCKETS,
            registry=registry,
        )
        self.oldest = Gauge(
            "nextclick_archive_oldest_pending_seconds",
            "Age of the oldest click that is not in a file yet. Above twice archive.flush_seconds: "
            "writing fails.",
            registry=registry,
        )
        self.lost_clicks = Counter(
            "nextclick_archive_lost_clicks",
            "Clicks that retention deleted before they were archived. Any: lengthen the retention.",
            registry=registry,
        )
