"""What the second stage adds to a click: the pipeline with the same model, answering in one stage and in two."""

import time
from collections.abc import Iterator
from dataclasses import replace

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.clicks import decode_click
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.ports import Scorer
from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics
from stream_app.core.statistics_view import StatisticsView
from stream_app.files.bundle import write_bundle
from tests.benchmarks.bed import START_MS, TOP_K, UNITS, Bed, item_ids
from tests.benchmarks.figures import Figure
from tests.benchmarks.limits import Limits
from tests.benchmarks.pipeline import BATCHES, MadeUpRecord, made_up_records
from tests.bundles import bundle_content

COUNTED: int = 200_000
"""Clicks that the statistics know."""
CLICKS: int = 5_000


def figures(bed: Bed, _: Limits) -> Iterator[Figure]:
    """By batch: CPU of this thread, RocksDB replaced by a dict; the second figure of a pair is their ratio."""
    n_items = bed.n_items
    content = bundle_content(units=UNITS, ids=item_ids(n_items), ranked=True)
    directory = bed.directory / "two-stages"
    for name, made in (
        ("one", replace(content, second_stage=None, ranker=None, past=None)),
        ("two", content),
    ):
        write_bundle(directory / name, made)
    one, two = OnnxScorer.load(directory / "one"), OnnxScorer.load(directory / "two")
    records = made_up_records(bed.clicks(COUNTED), n_items)
    statistics = LocalStatistics(StatisticsRecipe()).fold(map(_counted, records), version=1)
    for batch in BATCHES:
        clicks = records[: bed.clicks(CLICKS if batch > 1 else CLICKS // 5)]
        alone, both = (_us_per_click(each, statistics, clicks, batch) for each in (one, two))
        yield Figure(
            f"one stage and statistics, {n_items:,} items, batch {batch}", alone, "us/click"
        )
        yield Figure(f"two stages, {n_items:,} items, batch {batch}", both, "us/click", limit=alone)


def _us_per_click(
    scorer: Scorer, statistics: StatisticsView, clicks: list[MadeUpRecord], batch: int
) -> float:
    sessions, rules = MemorySessions(), ServingRules(top_k=TOP_K)
    began = time.thread_time()
    for first in range(0, len(clicks), batch):
        outcome = recommend_batch(
            clicks[first : first + batch], sessions, scorer, statistics, rules, now_ms=0
        )
        sessions.put_many(outcome.states)
    return 1e6 * (time.thread_time() - began) / len(clicks)


def _counted(record: MadeUpRecord) -> SessionClick:
    click = decode_click(record.value or b"")
    ms = click.event_time_ms or START_MS
    return SessionClick(0, record.offset, click.session_id, click.item_id, ms, True)
