"""Metrics of the two jobs that train: full retraining and refresh."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge

from stream_app.core.metrics import RankingQuality


class RetrainInstruments:
    """The retraining job's metrics."""

    JOB = "retrain"

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = f"nextclick_{self.JOB}_"
        self.runs = Counter(
            f"{prefix}runs",
            "Runs by result: published, gated, waiting (too few sessions), failed. gated often: read the "
            "report; failed: read the log.",
            ["result"],
            registry=registry,
        )
        for result in ("published", "gated", "waiting", "failed"):
            self.runs.labels(result)
        self.failures_in_a_row = Gauge(
            f"{prefix}failures_in_a_row",
            "Failed runs since the last one that ended well. 2 or more: the next one will hardly do better; "
            "read the log.",
            registry=registry,
        )
        self.interval = Gauge(
            f"{prefix}interval_seconds",
            "How far apart runs begin (--every): what the age of the live model is measured by.",
            registry=registry,
        )
        self.step_duration = Gauge(
            f"{prefix}step_duration_seconds",
            "Last run, by step (read, train, item2vec, evaluate, export, publish). Longer than the "
            "interval in sum: fewer epochs, a shorter window, or a longer interval.",
            ["step"],
            registry=registry,
        )
        self.last_success = Gauge(
            f"{prefix}last_success_timestamp_seconds",
            "When a model was last published. Older than three intervals: look at the runs.",
            registry=registry,
        )
        self.running = Gauge(
            f"{prefix}running",
            "1 while a run is on. 1 for hours: it hangs, restart it; nothing is lost.",
            registry=registry,
        )
        self.training_sessions = Gauge(
            f"{prefix}sessions",
            "Sessions of the last training window. Falling: look at the archive.",
            registry=registry,
        )
        self.training_rate = Gauge(
            f"{prefix}events_per_second",
            "Training speed of the last run. Falling: the machine is busy.",
            registry=registry,
        )
        self.recall = Gauge(
            f"{prefix}recall_20",
            "Recall@20 on the held-out slice in the last run, by contender: candidate, live, popularity. "
            "Candidate below popularity: too few clicks, or a broken log.",
            ["contender"],
            registry=registry,
        )
        self.mrr = Gauge(
            f"{prefix}mrr_20",
            "MRR@20 on the held-out slice in the last run, by contender.",
            ["contender"],
            registry=registry,
        )

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step of a run."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.step_duration.labels(name).set(time.perf_counter() - began)

    def judged(self, quality: Mapping[str, RankingQuality], events_per_second: float) -> None:
        """A candidate was trained at that speed and ranked beside the others."""
        self.training_rate.set(events_per_second)
        for contender, figures in quality.items():
            self.recall.labels(contender).set(figures.recall_20)
            self.mrr.labels(contender).set(figures.mrr_20)

    def ended(self, result: str) -> None:
        """A run ended.  result: published, gated, waiting or failed."""
        self.runs.labels(result).inc()
        if result == "failed":
            self.failures_in_a_row.inc()
        else:
            self.failures_in_a_row.set(0)
        if result == "published":
            self.last_success.set_to_current_time()


class RefreshInstruments(RetrainInstruments):
    """The same of the job that fine-tunes the live model."""

    JOB = "refresh"

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.described_items = Gauge(
            "nextclick_refresh_described_items",
            "Items described in topic topics.items. 0 where there should be some: nothing has published them "
            "(`nextclick items publish`).",
            registry=registry,
        )
        self.unclicked_items = Gauge(
            "nextclick_refresh_unclicked_items",
            "Items of the last refreshed model that nobody has clicked: known by what the shop says of them. 0 "
            "with many described: what is said tells nothing of what goes with what.",
            registry=registry,
        )
