"""Graphs that look at every item in 8 bits: what they list, and when they are chosen."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export import quantised_graphs, scoring
from export.clustered_graph import _outlook, clustered_score_graph
from export.clusters import blocks_of_alike
from export.graphs import score_graph, step_graph
from export.gru4rec_graph import GRU4RecWeights
from export.quantised_graphs import chunked_score_graph, quantised_score_graph
from export.scoring import choose_scoring, clicks_of, popular_clicks, recall_of, states_after
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.manifest import CHUNKED, CLUSTERED, EXACT, QUANTISED, Scoring
from stream_app.evaluation.sessions import SessionTable
from tests.bundles import bundle_content, random_weights

ALL_ITEMS = [quantised_score_graph, chunked_score_graph]
"""Those that look at every item."""
GRAPHS = [*ALL_ITEMS, clustered_score_graph]
Build = Callable[[GRU4RecWeights], onnx.ModelProto]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test's catalogue has several."""
    monkeypatch.setattr(quantised_graphs, "CHUNK", 1024)


def run(graph: onnx.ModelProto, states: NDArray[np.float16], k: int) -> tuple[Any, Any]:
    feed = {"hidden_0": states, "k": np.array([k])}
    scores, items = scoring._session(graph).run(["scores", "items"], feed)
    return scores, items


def some_states(n: int, units: int, seed: int = 0) -> NDArray[np.float16]:
    return np.random.default_rng(seed).uniform(-1, 1, (n, units)).astype(np.float16)


def plain_scores(weights: GRU4RecWeights, states: NDArray[np.float16]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = states.astype(np.float32) @ weights.output_matrix.T
    return scores + weights.output_bias


@pytest.mark.parametrize("build", GRAPHS)
@pytest.mark.parametrize(
    "n_items", [1, 2, 15, 16, 17, 129, 511, 512, 513, 1000, 1024, 1025, 2047, 3001]
)
def test_listed_are_items_of_the_catalogue_with_their_float32_scores_best_first(
    build: Build, n_items: int
) -> None:
    weights = random_weights(n_items, 8)
    states = some_states(5, 8)
    expected = plain_scores(weights, states)
    graph = build(weights)
    for k in sorted({1, min(20, n_items), min(700, n_items), n_items}):
        scores, items = run(graph, states, k)
        assert scores.shape == items.shape == (5, k)
        assert items.min() >= 0
        assert items.max() < n_items
        assert all(len(set(row)) == k for row in items.tolist())
        np.testing.assert_allclose(
            scores, np.take_along_axis(expected, items, axis=1), rtol=1e-4, atol=1e-5
        )
        assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("build", GRAPHS)
@pytest.mark.parametrize("bias", [0.0, -900.0])
def test_padding_never_takes_a_place_though_every_item_scores_terribly(
    build: Build, bias: float
) -> None:
    n_items = 1030
    weights = replace(
        random_weights(n_items, 8),
        output_matrix=np.random.default_rng(0).uniform(0.5, 1, (n_items, 8)).astype(np.float32),
        output_bias=np.full(n_items, bias, dtype=np.float32),
    )
    states = np.full((2, 8), -1, dtype=np.float16)
    for k in (1, 20, 60, 64, 1000, n_items):
        _, items = run(build(weights), states, k)
        assert items.max() < n_items


@settings(deadline=None, max_examples=40)
@given(
    n_items=st.integers(1, 1500),
    k=st.integers(1, 60),
    distinct=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    build=st.sampled_from(ALL_ITEMS),
)
def test_equals_are_listed_in_the_order_of_their_index_and_none_before_a_lower_one(
    n_items: int, k: int, distinct: int, seed: int, build: Build
) -> None:
    """Few distinct items, each many times: nearly everything ties."""
    rng = np.random.default_rng(seed)
    weights = random_weights(n_items, 3)
    kinds = rng.integers(-distinct, distinct + 1, n_items).astype(np.float32)
    weights = replace(
        weights,
        output_matrix=np.ascontiguousarray(np.repeat(kinds[:, None], 3, axis=1)),
        output_bias=np.zeros(n_items, dtype=np.float32),
    )
    k = min(k, n_items)
    states = np.eye(3, dtype=np.float16)
    scores, items = run(build(weights), states, k)
    expected = np.argsort(-kinds, kind="stable")[:k]
    assert np.array_equal(items, np.tile(expected, (3, 1)))
    assert np.array_equal(scores, np.tile(kinds[expected], (3, 1)))


@pytest.mark.parametrize("build", GRAPHS)
@pytest.mark.parametrize(("n_items", "units"), [(700, 100), (6000, 32), (9000, 101)])
def test_a_row_is_bit_identical_in_a_batch_of_any_size(
    tmp_path: Path, build: Build, n_items: int, units: int
) -> None:
    graph = build(random_weights(n_items, units))
    states = some_states(131, units)
    scores, items = run(graph, states, 20)
    for n in (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 64, 129):
        for rows in (slice(0, n), slice(131 - n, 131)):
            part = run(graph, states[rows], 20)
            assert part[0].tobytes() == scores[rows].tobytes()
            assert np.array_equal(part[1], items[rows])


@pytest.mark.parametrize("build", ALL_ITEMS)
@pytest.mark.parametrize("bias", [0.0, 0.01, 1.0, 30.0, 1e4])
def test_nearly_every_item_of_the_exact_list_is_found_whatever_the_bias(
    build: Build, bias: float
) -> None:
    """Were the bias lost on the way to the integer scores, hardly any would be."""
    weights = random_weights(4000, 64)
    rng = np.random.default_rng(5)
    weights = replace(weights, output_bias=(rng.normal(size=4000) * bias).astype(np.float32))
    states = {"hidden_0": some_states(100, 64)}
    assert recall_of(build(weights), score_graph(weights), states) > 0.98


def test_clusters_list_equals_in_the_order_of_their_index() -> None:
    weights = random_weights(3000, 3)
    kinds = np.random.default_rng(1).integers(-2, 3, 3000).astype(np.float32)
    weights = replace(
        weights,
        output_matrix=np.ascontiguousarray(np.repeat(kinds[:, None], 3, axis=1)),
        output_bias=np.zeros(3000, dtype=np.float32),
    )
    scores, items = run(clustered_score_graph(weights), np.eye(3, dtype=np.float16), 40)
    assert (scores == 2).all()
    assert (np.diff(items, axis=1) > 0).all()


def like_each_other(n_items: int, units: int, n_kinds: int) -> GRU4RecWeights:
    """Items in crowds, as training leaves them."""
    rng = np.random.default_rng(3)
    crowds = rng.normal(size=(n_kinds, units))[rng.integers(0, n_kinds, n_items)]
    matrix = (crowds + rng.normal(size=(n_items, units)) * 0.2).astype(np.float32)
    return replace(random_weights(n_items, units), output_matrix=matrix)


def test_clusters_find_most_of_the_best_though_they_look_at_a_sixth_of_the_items() -> None:
    weights = like_each_other(9000, 32, 200)
    states = {"hidden_0": some_states(100, 32)}
    assert recall_of(clustered_score_graph(weights), score_graph(weights), states) > 0.95


def test_clusters_are_judged_by_what_their_best_may_score() -> None:
    """Two clusters of one mean, one of which varies: only there may an item score far above it."""
    rng = np.random.default_rng(0)
    calm = np.full((16, 9), 0.3, dtype=np.float32)
    varied = rng.normal(0.3, 1, size=(16, 9)).astype(np.float32)
    varied += calm.mean(axis=0) - varied.mean(axis=0)
    means, hopes = _outlook(np.concatenate([calm, varied]), 0.5)
    np.testing.assert_allclose(means, 0.3, atol=1e-5)
    state = rng.uniform(-1, 1, (500, 8)).astype(np.float32)
    best = (state @ varied[:, :8].T + varied[:, 8]).max(axis=1) - (state * 0.3).sum(axis=1)
    assert hopes[0] == pytest.approx(0.3, abs=1e-3)
    assert hopes[1] == pytest.approx(best.mean(), rel=0.5)


def test_blocks_hold_every_row_once_and_rows_that_are_alike() -> None:
    vectors = like_each_other(1003, 16, 60).output_matrix
    order = blocks_of_alike(vectors, 16)
    assert sorted(order.tolist()) == list(range(1003))

    def spread(rows: NDArray[np.int64]) -> float:
        blocks = vectors[rows[:992]].reshape(62, 16, 16)
        return float(((blocks - blocks.mean(axis=1, keepdims=True)) ** 2).sum())

    assert spread(order) < 0.5 * spread(np.arange(1003))


def test_blocks_of_vectors_that_are_all_the_same_are_still_blocks() -> None:
    order = blocks_of_alike(np.ones((100, 4), dtype=np.float32), 16)
    assert sorted(order.tolist()) == list(range(100))


def test_recall_counts_the_places_that_a_worse_item_took() -> None:
    weights = random_weights(60, 8)
    without_best = replace(weights, output_bias=weights.output_bias.copy())
    states = {"hidden_0": some_states(1, 8)}
    best = int(plain_scores(weights, states["hidden_0"]).argmax())
    without_best.output_bias[best] = -1e6
    exact = score_graph(weights)
    assert recall_of(exact, exact, states) == 1.0
    assert recall_of(score_graph(without_best), exact, states) == pytest.approx(19 / 20)


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "EXACT_UP_TO", 100)


def chosen(weights: GRU4RecWeights, clicks: NDArray[np.int64]) -> tuple[onnx.ModelProto, Scoring]:
    return choose_scoring(weights, step_graph(weights), clicks, measured_on="a test")


SOME_CLICKS = np.random.default_rng(0).integers(0, 500, (64, 3))


@pytest.mark.usefixtures("everything_is_large")
def test_a_large_catalogue_is_quantised_and_says_how_well() -> None:
    _, found = chosen(random_weights(500, 32), SOME_CLICKS)
    assert found.method == QUANTISED
    assert scoring.RECALL_MIN <= found.recall_20 <= 1
    assert (found.states, found.measured_on) == (64, "a test")


def test_a_small_catalogue_is_scored_exactly() -> None:
    graph, found = chosen(random_weights(500, 32), SOME_CLICKS)
    assert found == EXACT
    assert "MatMulInteger" not in {node.op_type for node in graph.graph.node}


@pytest.mark.usefixtures("everything_is_large")
def test_a_very_large_catalogue_is_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNKED_FROM", 400)
    assert chosen(random_weights(500, 32), SOME_CLICKS)[1].method == CHUNKED


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("crowded", [True, False])
def test_clusters_are_chosen_when_asked_for_and_only_if_they_find_enough(
    monkeypatch: pytest.MonkeyPatch, crowded: bool
) -> None:
    monkeypatch.setattr(scoring, "CHUNKED_FROM", 400)
    monkeypatch.setattr("export.clustered_graph._CLUSTERS_PER_PLACE", 3)
    weights = like_each_other(9000, 32, 200) if crowded else random_weights(9000, 32)
    _, found = choose_scoring(
        weights, step_graph(weights), SOME_CLICKS, measured_on="a test", approximate=True
    )
    assert found.method == (CLUSTERED if crowded else CHUNKED)
    assert found.recall_20 >= (scoring.APPROXIMATE_RECALL_MIN if crowded else scoring.RECALL_MIN)


@pytest.mark.usefixtures("everything_is_large")
def test_a_model_that_eight_bits_cannot_rank_is_scored_exactly() -> None:
    """One enormous weight, and all others round to nothing."""
    weights = random_weights(500, 32)
    matrix = weights.output_matrix.copy()
    matrix[0, 0] = 1e6
    graph, found = chosen(replace(weights, output_matrix=matrix), SOME_CLICKS)
    assert found == EXACT
    assert "MatMulInteger" not in {node.op_type for node in graph.graph.node}


@pytest.mark.usefixtures("everything_is_large")
def test_a_quantised_bundle_passes_every_check_and_the_probe(tmp_path: Path) -> None:
    from stream_app.files.bundle import write_bundle  # noqa: PLC0415

    for number, chunked_from in enumerate((10**6, 400)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scoring, "CHUNKED_FROM", chunked_from)
            content = bundle_content(700, 100)
        write_bundle(tmp_path / str(number), content)
        scorer = OnnxScorer.load(tmp_path / str(number))
        assert scorer.manifest.scoring.method == (QUANTISED, CHUNKED)[number]
        rows = np.zeros((300, scorer.state_size_bytes), dtype=np.uint8)
        rows = scorer.step(rows, np.arange(300))
        whole, alone = scorer.top_k(rows, 20), scorer.top_k(rows[299:], 20)
        assert whole[0][299:].tobytes() == alone[0].tobytes()


def test_states_are_those_after_each_sessions_last_click() -> None:
    weights = random_weights(20, 4)
    step = step_graph(weights)
    clicks = np.array([[3, 5, -1], [7, -1, -1]])
    states = states_after(step, clicks)["hidden_0"]
    session = scoring._session(step)
    zero = np.zeros((1, 4), dtype=np.float16)
    (once,) = session.run(None, {"item": np.array([3]), "hidden_0": zero})
    (twice,) = session.run(None, {"item": np.array([5]), "hidden_0": once})
    (other,) = session.run(None, {"item": np.array([7]), "hidden_0": zero})
    assert np.array_equal(states, np.concatenate([twice, other]))


def test_clicks_of_sessions_are_their_beginnings() -> None:
    table = SessionTable(
        item_indexes=np.array([1, 2, -1, 4, *range(10, 20)]),
        session_starts=np.array([0, 4, 14]),
        click_ms=np.arange(14),
    )
    rows = {tuple(row) for row in clicks_of(table).tolist()}
    assert rows == {(1, 2, 4, -1, -1, -1), (10, 11, 12, 13, 14, 15)}


def test_made_up_clicks_follow_popularity() -> None:
    popularity = np.zeros(50, dtype=np.float32)
    popularity[7] = 1
    clicks = popular_clicks(popularity)
    assert set(np.unique(clicks)) == {-1, 7}
    assert (clicks[:, 0] == 7).all()
