"""Metrics of the retraining job."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge


class RetrainInstruments:
    """The retraining job's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs = Counter(
            "nextclick_retrain_runs",
            "Runs by result: published, gated, waiting (too few sessions), failed. gated often: read the "
            "report; failed: read the log.",
            ["result"],
            registry=registry,
        )
        for result in ("published", "gated", "waiting", "failed"):
            self.runs.labels(result)
        self.failures_in_a_row = Gauge(
            "nextclick_retrain_failures_in_a_row",
            "Failed runs since the last one that ended well. 2 or more: the next one will hardly do better; "
            "read the log.",
            registry=registry,
        )
        self.interval = Gauge(
            "nextclick_retrain_interval_seconds",
            "How far apart runs begin (--every): what the age of the live model is measured by.",
            registry=registry,
        )
        self.step_duration = Gauge(
            "nextclick_retrain_step_duration_seconds",
            "Last run, by step (read, train, item2vec, evaluate, export, publish). Longer than the "
            "interval in sum: fewer epochs, a shorter window, or a longer interval.",
            ["step"],
            registry=registry,
        )
        self.last_success = Gauge(
            "nextclick_retrain_last_success_timestamp_seconds",
            "When a model was last published. Older than three intervals: look at the runs.",
            registry=registry,
        )
        self.running = Gauge(
            "nextclick_retrain_running",
            "1 while a run is on. 1 for hours: it hangs, restart it; nothing is lost.",
            registry=registry,
        )
        self.training_sessions = Gauge(
            "nextclick_retrain_sessions",
            "Sessions of the last training window. Falling: look at the archive.",
            registry=registry,
        )
        self.training_rate = Gauge(
            "nextclick_retrain_events_per_second",
            "Training speed of the last run. Falling: the machine is busy.",
            registry=registry,
        )
        self.recall = Gauge(
            "nextclick_retrain_recall_20",
            "Recall@20 on the held-out slice in the last run, by contender: candidate, live, popularity. "
            "Candidate below popularity: too few clicks, or a broken log.",
            ["contender"],
            registry=registry,
        )
        self.mrr = Gauge(
            "nextclick_retrain_mrr_20",
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

    def ended(self, result: str) -> None:
        """A run ended.  result: published, gated, waiting or failed."""
        self.runs.labels(result).inc()
        if result == "failed":
            self.failures_in_a_row.inc()
        else:
            self.failures_in_a_row.set(0)
        if result == "published":
            self.last_success.set_to_current_time()
