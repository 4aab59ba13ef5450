# ruff: noqa: E402 - torch is looked for first
"""Evaluation against brute force: one session, one position, one sorted list at a time."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from models import evaluate
from models.config import GRU4RecConfig
from models.evaluate import evaluate_model, next_click_ranks
from models.gru4rec import GRU4Rec
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.targets import MISS, targets_of

N_ITEMS = 40


def table(sessions: list[list[int]]) -> SessionTable:
    starts = np.cumsum([0, *map(len, sessions)])
    items = np.array([item for session in sessions for item in session], dtype=np.int64)
    return SessionTable(items, starts, np.repeat(np.arange(len(sessions)), np.diff(starts)))


def random_table(seed: int = 0, *, unknown: float = 0.0) -> SessionTable:
    rng = np.random.default_rng(seed)
    sessions = []
    for _ in range(50):
        items = rng.integers(0, N_ITEMS, rng.integers(1, 9))
        items[rng.random(len(items)) < unknown] = -1
        sessions.append(items.tolist())
    return table(sessions)


def model_with_ties(layers: int = 1) -> GRU4Rec:
    """Every item's twin has the same vector and bias, so each score comes twice."""
    model = GRU4Rec(GRU4RecConfig(units=8, layers=layers), N_ITEMS)
    model.initialise(torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.item_vectors.mul_(6)
        model.item_vectors[N_ITEMS // 2 :] = model.item_vectors[: N_ITEMS // 2]
    return model.eval()


def brute_force_ranks(model: GRU4Rec, sessions: SessionTable) -> Iterator[int]:
    for s in range(sessions.n_sessions):
        clicks = sessions.item_indexes[
            sessions.session_starts[s] : sessions.session_starts[s + 1]
        ].tolist()
        states = model.start_states(1)
        for clicked, target in itertools.pairwise(clicks):
            if clicked >= 0:
                states = model.step(torch.tensor([clicked]), *states)
            scores = model.scores(*states)[0].tolist()
            if target < 0:
                yield MISS
            else:
                yield sum(score >= scores[target] for score in scores)


@pytest.mark.parametrize("layers", [1, 2])
def test_ranks_are_those_of_brute_force_with_every_tie_counted_against_us(layers: int) -> None:
    model, sessions = model_with_ties(layers), random_table()
    expected = list(brute_force_ranks(model, sessions))
    assert all(rank % 2 == 0 for rank in expected), "twins tie"
    assert next_click_ranks(model, sessions).tolist() == expected


def test_unknown_items_are_cold_targets_and_leave_the_state_as_it_is() -> None:
    model, sessions = model_with_ties(), random_table(1, unknown=0.2)
    assert next_click_ranks(model, sessions).tolist() == list(brute_force_ranks(model, sessions))
    quality = evaluate_model(model, sessions)
    assert quality.targets == sessions.n_targets
    assert quality.cold_targets == int((targets_of(sessions) < 0).sum()) > 0


def test_memory_bounds_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sessions = model_with_ties(), random_table()
    at_once = next_click_ranks(model, sessions)
    monkeypatch.setattr(evaluate, "SCORE_BYTES_MAX", 3 * 4 * N_ITEMS)
    assert np.array_equal(next_click_ranks(model, sessions), at_once)


def test_ranking_prefixes_and_labels_is_the_same_as_ranking_every_position() -> None:
    """The papers' (prefix, label) pairs, each from an empty state."""
    model, sessions = model_with_ties(), random_table()
    pairs = [
        sessions.item_indexes[start : position + 1].tolist()
        for start, end in zip(
            sessions.session_starts[:-1].tolist(), sessions.session_starts[1:].tolist(), strict=True
        )
        for position in range(start + 1, end)
    ]
    last_only = [next_click_ranks(model, table([prefix]))[-1] for prefix in pairs]
    assert last_only == next_click_ranks(model, sessions).tolist()


def test_a_model_of_nan_misses_everything() -> None:
    model = model_with_ties()
    with torch.no_grad():
        model.item_bias[5] = float("nan")
    assert evaluate_model(model, random_table()).recall_20 == 0


def test_no_sessions_have_no_quality() -> None:
    assert evaluate_model(model_with_ties(), table([])).targets == 0
    assert evaluate_model(model_with_ties(), table([[3], [4]])).targets == 0
