"""The scorer against a plain numpy reading of the same weights, and against itself."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.graphs import score_graph
from export.gru4rec_graph import GRU4RecWeights
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.onnx_session import onnx_session, rows_are_independent
from stream_app.core.errors import BundleError
from stream_app.files.bundle import write_bundle
from tests.bundles import bundle_content, make_bundle, random_weights


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> OnnxScorer:
    weights = random_weights(1003, 100, layers=2)
    return OnnxScorer.load(make_bundle(tmp_path_factory.mktemp("registry"), 1003, weights=weights))


def states_after_clicks(scorer: OnnxScorer, n: int, clicks: int = 3, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    states = np.zeros((n, scorer.state_size_bytes), dtype=np.uint8)
    for _ in range(clicks):
        states = scorer.step(states, rng.integers(0, len(scorer.vocabulary), n))
    return states


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-x))


def numpy_step(
    weights: GRU4RecWeights, states: list[NDArray[np.float16]], items: NDArray[np.int64]
) -> list[NDArray[np.float16]]:
    signal = weights.item_table[items]
    after = []
    for layer, state in zip(weights.layers, states, strict=True):
        assert layer.input is not None
        before = state.astype(np.float32)
        x, s = signal @ layer.input + layer.input_bias, before @ layer.hidden + layer.hidden_bias
        if weights.cell == "gru":
            xr, xz, xn = np.split(x, 3, axis=1)
            sr, sz, sn = np.split(s, 3, axis=1)
            z = sigmoid(xz + sz)
            new = (1 - z) * np.tanh(xn + sigmoid(xr + sr) * sn) + z * before
        else:
            new = np.tanh(x + s)
        after.append(new.astype(np.float16))
        signal = new
    return after


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_is_what_the_equations_say(
    tmp_path: Path, cell: Literal["gru", "rnn"], layers: int
) -> None:
    weights = random_weights(30, 12, layers=layers, cell=cell)
    scorer = OnnxScorer.load(make_bundle(tmp_path, 30, weights=weights))
    rng = np.random.default_rng(1)
    rows = np.zeros((9, scorer.state_size_bytes), dtype=np.uint8)
    states = [np.zeros((9, 12), dtype=np.float16) for _ in range(layers)]
    for _ in range(4):
        items = rng.integers(0, 30, 9)
        rows = scorer.step(rows, items)
        states = numpy_step(weights, states, items)
    ours = rows.view("<f2").reshape(9, layers, 12)
    np.testing.assert_allclose(ours, np.stack(states, axis=1), atol=2e-3)


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.integers(0, 511), min_size=1, max_size=300))
def test_a_row_is_bit_identical_in_a_batch_of_any_composition(
    scorer: OnnxScorer, rows: list[int]
) -> None:
    states = states_after_clicks(scorer, 512)
    items = np.arange(512) % len(scorer.vocabulary)
    stepped, top = scorer.step(states, items), scorer.top_k(states, 20)
    assert np.array_equal(scorer.step(states[rows], items[rows]), stepped[rows])
    scores, indexes = scorer.top_k(states[rows], 20)
    assert scores.tobytes() == top[0][rows].tobytes()
    assert np.array_equal(indexes, top[1][rows])


@pytest.mark.parametrize(
    ("n_items", "units"), [(100, 32), (2000, 100), (10_000, 101), (50_000, 64)]
)
def test_every_batch_size_gives_the_same_rows(tmp_path: Path, n_items: int, units: int) -> None:
    scorer = OnnxScorer.load(make_bundle(tmp_path, n_items, units))
    states = states_after_clicks(scorer, 130)
    items = np.arange(130) % n_items
    stepped, (scores, indexes) = scorer.step(states, items), scorer.top_k(states, 20)
    for n in (1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 17, 31, 64, 65, 127, 129):
        for rows in (slice(0, n), slice(130 - n, 130)):
            assert np.array_equal(scorer.step(states[rows], items[rows]), stepped[rows])
            part = scorer.top_k(states[rows], 20)
            assert part[0].tobytes() == scores[rows].tobytes()
            assert np.array_equal(part[1], indexes[rows])


def test_slicing_a_large_batch_changes_nothing(
    scorer: OnnxScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = states_after_clicks(scorer, 50)
    whole = scorer.top_k(states, 7)
    monkeypatch.setattr(scorer, "_rows_max", 8)
    sliced = scorer.top_k(states, 7)
    assert whole[0].tobytes() == sliced[0].tobytes()
    assert np.array_equal(whole[1], sliced[1])


def weights_with_scores(rows: NDArray[np.float32]) -> GRU4RecWeights:
    """A network whose scores are the given ones, [units, n_items], chosen by a one-hot state."""
    units, n_items = rows.shape
    base = random_weights(n_items, units)
    return GRU4RecWeights(
        cell="gru",
        item_table=base.item_table,
        layers=base.layers,
        output_matrix=np.ascontiguousarray(rows.T),
        output_bias=np.zeros(n_items, dtype=np.float32),
    )


@settings(deadline=None, max_examples=60)
@given(
    n_items=st.integers(1, 300),
    k=st.integers(1, 60),
    distinct=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    block=st.sampled_from([16, 32, None]),
)
def test_top_k_equals_a_full_sort_even_among_ties(
    n_items: int, k: int, distinct: int, seed: int, block: int | None
) -> None:
    """Few distinct scores: nearly everything ties; the lower item index must come first."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-distinct, distinct + 1, size=(3, n_items)).astype(np.float32)
    graph = score_graph(weights_with_scores(scores), block=block).SerializeToString()
    session = onnx_session(Path(), graph)
    k = min(k, n_items)
    one_hot = np.eye(3, dtype=np.float16)
    top, items = session.run(["scores", "items"], {"hidden_0": one_hot, "k": np.array([k])})
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert np.array_equal(items, expected)
    assert np.array_equal(top, np.take_along_axis(scores, expected, axis=1))


def test_top_k_gives_all_items_where_there_are_fewer_than_k(tmp_path: Path) -> None:
    scorer = OnnxScorer.load(make_bundle(tmp_path, 5))
    scores, items = scorer.top_k(states_after_clicks(scorer, 2), 20)
    assert scores.shape == (2, 5)
    assert sorted(items[0].tolist()) == [0, 1, 2, 3, 4]


def test_no_rows_are_no_work(scorer: OnnxScorer) -> None:
    nothing = np.zeros((0, scorer.state_size_bytes), dtype=np.uint8)
    assert scorer.step(nothing, np.zeros(0, dtype=np.int64)).shape == nothing.shape
    scores, items = scorer.top_k(nothing, 20)
    assert scores.shape == items.shape == (0, 20)


def test_states_are_the_tensors_of_the_manifest_one_after_the_other(scorer: OnnxScorer) -> None:
    assert scorer.state_size_bytes == scorer.manifest.state_size_bytes == 2 * 100 * 2


def test_a_processor_whose_single_rows_differ_is_served_in_padded_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-in for kernels that treat fewer than four rows in their own way."""
    plain = OnnxScorer.load(make_bundle(tmp_path, 40))
    exact = plain._step.run

    class Quirky:
        def run(self, names: list[str], feed: dict[str, Any]) -> list[NDArray[Any]]:
            outputs: list[NDArray[Any]] = exact(names, feed)
            return [out + np.float16(0.25) if len(out) % 4 else out for out in outputs]

    monkeypatch.setattr(plain, "_step", Quirky())
    plain._probe(tmp_path)
    assert plain._multiple == 4
    states = states_after_clicks(plain, 9)
    items = np.arange(9)
    assert np.array_equal(plain.step(states[:1], items[:1]), plain.step(states, items)[:1])


def test_dependence_on_the_batch_is_noticed() -> None:
    def by_size(rows: slice) -> tuple[NDArray[Any], ...]:
        n = len(range(*rows.indices(40)))
        return (np.full((n, 1), n == 1),)

    assert not rows_are_independent(by_size, 40)
    assert rows_are_independent(lambda rows: (np.arange(40)[rows],), 40)


def test_a_model_that_ignores_clicks_is_refused(tmp_path: Path) -> None:
    weights = random_weights(20, 4)
    still = GRU4RecWeights(
        cell="rnn",
        item_table=weights.item_table * 0,
        layers=tuple(
            type(layer)(
                hidden=layer.hidden[:, :4] * 0,
                hidden_bias=layer.hidden_bias[:4] * 0,
                input=layer.input[:, :4] * 0 if layer.input is not None else None,
                input_bias=layer.input_bias[:4] * 0,
            )
            for layer in weights.layers
        ),
        output_matrix=weights.output_matrix,
        output_bias=weights.output_bias,
    )
    with pytest.raises(BundleError, match="does not change the state"):
        OnnxScorer.load(make_bundle(tmp_path, 20, weights=still))


class Altered:
    """The scoring graph of a bundle, with its answers changed."""

    def __init__(self, run: Any, change: Any) -> None:
        self._run, self._change = run, change

    def run(self, names: list[str], feed: dict[str, Any]) -> Any:
        return self._change(*self._run(names, feed))


def equals_out_of_order(scores: Any, items: Any) -> Any:
    return np.zeros_like(scores), items


def padding_in_wide_lists(scores: Any, items: Any) -> Any:
    return scores, np.where(
        np.arange(items.shape[1]) < 900, items, 2000 + np.arange(items.shape[1])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (equals_out_of_order, "order of their item index"),
        (padding_in_wide_lists, "outside the voc"),
    ],
)
def test_lists_out_of_order_or_with_padding_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    plain = OnnxScorer.load(make_bundle(tmp_path, 1500))
    monkeypatch.setattr(plain, "_score", Altered(plain._score.run, change))
    with pytest.raises(BundleError, match=message):
        plain._probe(tmp_path)


def test_scores_beyond_float32_are_refused(tmp_path: Path) -> None:
    """Finite weights, infinite answers: only running it tells."""
    weights = random_weights(20, 4)
    huge = GRU4RecWeights(
        cell="gru",
        item_table=weights.item_table,
        layers=weights.layers,
        output_matrix=np.full((20, 4), 3e38, dtype=np.float32),
        output_bias=np.full(20, 3e38, dtype=np.float32),
    )
    with pytest.raises(BundleError, match="NaN or infinity"):
        OnnxScorer.load(make_bundle(tmp_path, 20, weights=huge))


def test_a_bundle_loads_again_after_a_move(tmp_path: Path) -> None:
    content = bundle_content(seed=3)
    write_bundle(tmp_path / "a", content)
    (tmp_path / "a").rename(tmp_path / "b")
    assert OnnxScorer.load(tmp_path / "b").model_version == content.model_version
