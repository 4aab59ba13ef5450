"""What no worker can pass on this machine: each measured once per run, when first asked for."""

import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.statistics_table import NOTHING_KNOWN
from tests.benchmarks.bed import START_MS, TOP_K, UNITS, Bed
from tests.benchmarks.figures import Figure, median_figure
from tests.benchmarks.pipeline import made_up_records
from tests.benchmarks.runs import BacklogRun, LoadRun, run_backlog, run_loads

BATCH: Final = 256
CLICKS: Final = 100_000
STOCK_CLICKS: Final = 5_000


class Limits:
    """The same clients, record sizes and broker as the worker's, in the same run."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._scoring_us: dict[tuple[int, int], float] = {}

    @property
    def bare_backlog(self) -> list[BacklogRun]:
        """The bare path through Kafka (`bare_path`) over a backlog."""
        return self._bare[0]

    @property
    def bare_loads(self) -> dict[int, list[LoadRun]]:
        """The same at steady rates, by clicks/s."""
        return self._bare[1]

    @cached_property
    def _bare(self) -> tuple[list[BacklogRun], dict[int, list[LoadRun]]]:
        clicks = self._bed.clicks(CLICKS)
        with (
            self._bed.stream(self._bed.n_items) as stream,
            stream.program("tests.benchmarks.bare_path", str(self._answer_file)) as path,
        ):
            backlogs = [run_backlog(stream, path, clicks) for _ in range(self._bed.repeats)]
            return backlogs, run_loads(stream, path)

    @cached_property
    def stock_faust(self) -> BacklogRun:
        """Faust with a Table (`stock_faust`) over a backlog."""
        with (
            self._bed.stream(self._bed.n_items) as stream,
            stream.program("tests.benchmarks.stock_faust", str(self._answer_file)) as faust,
        ):
            return run_backlog(stream, faust, self._bed.clicks(STOCK_CLICKS))

    def scoring_us(self, n_items: int, units: int = UNITS) -> float:
        """`OnnxScorer.top_k` and nothing else, us of CPU per click: the least of repeated runs."""
        if (n_items, units) not in self._scoring_us:
            scorer = OnnxScorer.load(self._bed.bundle(n_items, units))
            seconds = 0.1 if self._bed.short else 2.0
            self._scoring_us[n_items, units] = least_scoring_us(scorer, seconds)
        return self._scoring_us[n_items, units]

    def clicks_per_second(self, n_items: int, units: int = UNITS) -> float:
        """The bare path and the scoring, one after the other on one core."""
        bare_us = median(run.cpu_us for run in self.bare_backlog)
        return 1e6 / (bare_us + self.scoring_us(n_items, units))

    @cached_property
    def answer(self) -> bytes:
        """One as the worker would give it: what is sent in its place has its size."""
        scorer = OnnxScorer.load(self._bed.bundle(self._bed.n_items))
        outcome = recommend_batch(
            made_up_records(1, self._bed.n_items),
            MemorySessions(),
            scorer,
            NOTHING_KNOWN,
            ServingRules(top_k=TOP_K),
            now_ms=START_MS,
        )
        return msgspec.json.encode(outcome.recommendations[0])

    @cached_property
    def _answer_file(self) -> Path:
        file = self._bed.directory / "answer.json"
        file.write_bytes(self.answer)
        return file


def least_scoring_us(scorer: OnnxScorer, seconds: float) -> float:
    """Batches of 256 states, each three clicks old."""
    rng = np.random.default_rng(0)
    states = np.zeros((BATCH, scorer.state_size_bytes), dtype=np.uint8)
    for _ in range(3):
        states = scorer.step(states, rng.integers(0, scorer.manifest.n_items, BATCH))
    least, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or least == float("inf"):
        began = time.thread_time()
        scorer.top_k(states, TOP_K)
        least = min(least, time.thread_time() - began)
    return 1e6 * least / BATCH


def figures(bed: Bed, limits: Limits) -> Iterator[Figure]:
    """All of them, as lines of their own."""
    name = "bare path through Kafka, backlog"
    rates = [run.clicks_per_second for run in limits.bare_backlog]
    yield median_figure(name, rates, "clicks/s")
    yield median_figure(f"{name}: CPU", [run.cpu_us for run in limits.bare_backlog], "us/click")
    for rate, runs in limits.bare_loads.items():
        for percent in runs[0].ms:
            ms = [run.ms[percent] for run in runs]
            yield median_figure(f"bare path at {rate}/s, p{percent:g}", ms, "ms")
        cpu = [run.batch_cpu_ms for run in runs]
        yield median_figure(f"bare path at {rate}/s: CPU of a batch", cpu, "ms")
    yield Figure(
        "stock Faust with a Table, backlog", limits.stock_faust.clicks_per_second, "clicks/s"
    )
    yield Figure("stock Faust with a Table, backlog: CPU", limits.stock_faust.cpu_us, "us/click")
    for n_items in bed.catalogues:
        yield Figure(f"scoring alone, {n_items:,} items", limits.scoring_us(n_items), "us/click")
