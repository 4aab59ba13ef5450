"""The pipeline in this process, without Kafka and disk: what the pure part of a click costs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.statistics_table import NOTHING_KNOWN
from tests.benchmarks.bed import START_MS, TOP_K, Bed, made_up_clicks
from tests.benchmarks.figures import Figure

BATCHES: Final = (1, 64, 256)
CLICKS: Final = 20_000


@dataclass
class MadeUpRecord:
    """A Kafka message as the pipeline wants it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def made_up_records(n: int, n_items: int) -> list[MadeUpRecord]:
    """Clicks 0 to n - 1 as one partition holds them."""
    return [
        MadeUpRecord("nextclick.clicks.v1", 0, offset, START_MS + offset, key, value)
        for offset, (key, value) in enumerate(made_up_clicks(0, n, n_items))
    ]


def figures(bed: Bed) -> Iterator[Figure]:
    """By batch, 10,000 items: CPU of this thread, RocksDB replaced by a dict."""
    scorer = OnnxScorer.load(bed.bundle(bed.n_items))
    n_items = scorer.manifest.n_items
    for batch in BATCHES:
        clicks = made_up_records(bed.clicks(CLICKS if batch > 1 else CLICKS // 10), n_items)
        sessions, rules = MemorySessions(), ServingRules(top_k=TOP_K)
        began = time.thread_time()
        for first in range(0, len(clicks), batch):
            outcome = recommend_batch(
                clicks[first : first + batch], sessions, scorer, NOTHING_KNOWN, rules, now_ms=0
            )
            sessions.put_many(outcome.states)
        us = 1e6 * (time.thread_time() - began) / len(clicks)
        yield Figure(f"pipeline alone, {n_items:,} items, batch {batch}", us, "us/click")
