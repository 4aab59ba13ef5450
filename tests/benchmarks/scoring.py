"""Scoring the catalogue on one core: every way we know, beside the bare matrix product it needs.

`python -m tests.benchmarks --only scoring` prints the table.  Times are CPU time, the least of
repeated runs: other processes cannot lengthen that by much.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from export.clustered_graph import clustered_score_graph
from export.graph_builder import GraphBuilder, value
from export.graphs import score_graph
from export.gru4rec_graph import GRU4RecWeights
from export.quantised_graphs import chunked_score_graph, quantised_score_graph
from export.scoring import STATES, States, recall_of
from stream_app.adapters import onnx_scorer
from stream_app.adapters.onnx_session import onnx_session
from stream_app.core.manifest import CHUNKED, CLUSTERED, EXACT, QUANTISED
from tests.benchmarks.figures import Figure
from tests.bundles import random_weights

UNITS, TOP_K = 100, 20
SIZES: Final = (10_000, 50_000, 200_000, 1_000_000)
BATCHES: Final = (1, 16, 64, 256)
GOALS: Final = {10_000: 15.0, 50_000: 60.0, 200_000: 200.0, 1_000_000: 1000.0}
"""us/click at batch 256: what leaves room for the rest of a click at the clicks/s to reach."""
CLUSTERED_GOAL: Final = 300.0
SECONDS_EACH: Final = 0.5

Build = Callable[[GRU4RecWeights], onnx.ModelProto]


def scoring_figures(
    sizes: Sequence[int] = SIZES, *, seconds: float = SECONDS_EACH
) -> Iterator[Figure]:
    """us/click by catalogue, batch and graph, with the recall of its top 20 against exact float32."""
    for n_items in sizes:
        weights = clustered_weights(n_items)
        states = states_near_items(weights)
        exact = score_graph(weights)
        limits = {
            "float32": _by_batch(
                _product(weights, integers=False), states, n_items, EXACT.method, seconds
            ),
            "int8": _by_batch(
                _product(weights, integers=True), states, n_items, QUANTISED, seconds
            ),
        }
        for method, build in _graphs(n_items).items():
            graph = exact if method == EXACT.method else build(weights)
            recall = recall_of(graph, exact, {name: rows[:256] for name, rows in states.items()})
            least = 0.999 if method != CLUSTERED else None
            name = f"score {n_items:,} items, {method}"
            yield Figure(f"{name}: recall of the top {TOP_K}", recall, "share", least)
            limit = limits["float32" if method == EXACT.method else "int8"]
            for batch, microseconds in _by_batch(graph, states, n_items, method, seconds).items():
                goal = _goal(n_items, method) if batch == 256 else None
                yield Figure(f"{name}, batch {batch}", microseconds, "us/click", goal, limit[batch])


def _goal(n_items: int, method: str) -> float | None:
    if method == CLUSTERED:
        return CLUSTERED_GOAL
    return None if method == EXACT.method else GOALS.get(n_items)


def clustered_weights(n_items: int, *, units: int = UNITS, seed: int = 0) -> GRU4RecWeights:
    """Item vectors as unevenly crowded as trained ones: many around few centres, and a popularity bias."""
    weights = random_weights(n_items, units, seed)
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(n_items // 50, 1), units)).astype(np.float32) * 0.25
    nearest = rng.integers(0, len(centres), n_items)
    matrix = centres[nearest] + rng.normal(size=(n_items, units)).astype(np.float32) * 0.1
    bias = rng.normal(size=n_items).astype(np.float32) * 0.3
    return replace(weights, item_table=matrix, output_matrix=matrix, output_bias=bias)


def states_near_items(weights: GRU4RecWeights, *, seed: int = 1) -> States:
    """Sessions that are about something: each state points to where some item is.

    Made up, as the items are: the recall of clusters in particular has to be measured on a trained model,
    which is what an export does.
    """
    rng = np.random.default_rng(seed)
    items = weights.output_matrix[rng.integers(0, weights.n_items, STATES)]
    noise = rng.normal(size=items.shape) * 0.5
    return {weights.state[0].name: np.tanh(3 * items + noise).astype(np.float16)}


def _graphs(n_items: int) -> dict[str, Build]:
    graphs: dict[str, Build] = {EXACT.method: score_graph, QUANTISED: quantised_score_graph}
    if n_items >= SIZES[2]:
        graphs[CHUNKED] = chunked_score_graph
    if n_items >= SIZES[3]:
        graphs[CLUSTERED] = clustered_score_graph
    return graphs


def _product(weights: GRU4RecWeights, *, integers: bool) -> onnx.ModelProto:
    """The matrix product alone, its scores written down.  A graph that keeps only maxima can be below that."""
    graph = GraphBuilder()
    matrix = weights.output_matrix.T
    query = graph.node("Cast", "hidden_0", to=onnx.TensorProto.FLOAT)
    if integers:
        step = graph.constant("step", np.array(1 / 127, dtype=np.float32))
        zero = graph.constant("zero", np.array(128, dtype=np.uint8))
        rounded = graph.node("QuantizeLinear", query, step, zero)
        columns = np.rint(matrix * (127 / np.abs(matrix).max())).astype(np.int8)
        graph.node("MatMulInteger", rounded, graph.constant("c", columns), zero, output="scores")
    else:
        graph.node("MatMul", query, graph.constant("c", matrix), output="scores")
    kind = onnx.TensorProto.INT32 if integers else onnx.TensorProto.FLOAT
    state = weights.state[0]
    return graph.model(
        "product",
        [value(state.name, onnx.TensorProto.FLOAT16, ["batch", *state.shape])],
        [value("scores", kind, ["batch", weights.n_items])],
    )


def _by_batch(
    graph: onnx.ModelProto, states: States, n_items: int, method: str, seconds: float
) -> dict[int, float]:
    """us/click by batch, a large one scored in slices as `OnnxScorer` does it."""
    session = onnx_session(Path(), graph.SerializeToString())
    together = onnx_scorer.rows_together(n_items, method)
    asked = {"k": np.array([TOP_K])} if len(session.get_inputs()) > len(states) else {}

    after = 0  # other rows every time, or what they gather would lie in the cache already

    def score(batch: int) -> None:
        nonlocal after
        begin = after % (STATES - batch)
        after = begin + batch
        for first in range(begin, begin + batch, together):
            rows = slice(first, min(first + together, begin + batch))
            session.run(None, {**asked, **{name: array[rows] for name, array in states.items()}})

    return {batch: 1e6 * _least_seconds(score, batch, seconds) / batch for batch in BATCHES}


def _least_seconds(score: Callable[[int], Any], batch: int, seconds: float) -> float:
    score(batch)
    least, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or least == float("inf"):
        began = time.thread_time()
        score(batch)
        least = min(least, time.thread_time() - began)
    return least
