"""The quality of a bundle, against the same measured in torch and against a count by hand."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the training environment")
pytestmark = pytest.mark.torch

from export.to_onnx import network_weights  # noqa: E402 - only where torch is
from export.window import in_vocabulary_of  # noqa: E402
from models.config import GRU4RecConfig  # noqa: E402
from models.evaluate import evaluate_model  # noqa: E402
from models.gru4rec import GRU4Rec  # noqa: E402
from stream_app.adapters.onnx_scorer import OnnxScorer  # noqa: E402
from stream_app.core.vocabulary import ItemVocabulary  # noqa: E402
from stream_app.evaluation.bundle_quality import evaluate_bundle  # noqa: E402
from stream_app.evaluation.sessions import SessionTable  # noqa: E402
from tests.bundles import make_bundle, random_weights  # noqa: E402


def sessions_of(*sessions: list[int]) -> SessionTable:
    items = np.array([item for session in sessions for item in session], dtype=np.int64)
    starts = np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    return SessionTable(items, starts, np.arange(len(items), dtype=np.int64))


def random_sessions(n_items: int, n_sessions: int = 300, unknown: float = 0.1) -> SessionTable:
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 9, n_sessions)
    items = rng.integers(0, n_items, lengths.sum())
    items[rng.random(len(items)) < unknown] = -1
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return SessionTable(items, starts, np.arange(len(items), dtype=np.int64))


def test_the_bundle_has_the_quality_that_training_measured(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415 - only where torch is

    model = GRU4Rec(GRU4RecConfig(units=20), 90)
    model.initialise(torch.Generator().manual_seed(1))
    scorer = OnnxScorer.load(make_bundle(tmp_path, 90, weights=network_weights(model)))
    table = random_sessions(90)
    ours, theirs = evaluate_bundle(scorer, table), evaluate_model(model, table)
    assert ours.targets == theirs.targets
    assert ours.cold_targets == theirs.cold_targets > 0
    for name in ("recall_5", "recall_10", "recall_20", "mrr_20"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=2e-3)


def test_quality_is_what_one_click_at_a_time_gives(tmp_path: Path) -> None:
    scorer = OnnxScorer.load(make_bundle(tmp_path, 40, weights=random_weights(40, 8)))
    table = random_sessions(40, 60)
    hits = targets = 0
    for session in range(table.n_sessions):
        start, end = table.session_starts[session : session + 2]
        state = np.zeros((1, scorer.state_size_bytes), dtype=np.uint8)
        clicks = table.item_indexes[start:end].tolist()
        for click, following in pairwise(clicks):
            if click >= 0:
                state = scorer.step(state, np.array([click]))
            _, items = scorer.top_k(state, 20)
            hits += following >= 0 and following in items[0]
            targets += 1
    quality = evaluate_bundle(scorer, table)
    assert quality.targets == targets
    assert quality.recall_20 == pytest.approx(hits / targets)


@pytest.mark.parametrize("sessions", [[], [[3]], [[-1, -1]]])
def test_sessions_without_a_known_target_have_no_hits(
    tmp_path: Path, sessions: list[list[int]]
) -> None:
    scorer = OnnxScorer.load(make_bundle(tmp_path, 40))
    assert evaluate_bundle(scorer, sessions_of(*sessions)).recall_20 == 0.0


def test_sessions_move_to_another_vocabulary_by_item_id() -> None:
    table = sessions_of([0, 1, 2, -1], [2, 0])
    known, other = ItemVocabulary(["a", "b", "c"]), ItemVocabulary(["c", "x", "a"])
    moved: Any = in_vocabulary_of(table, known, other)
    assert moved.item_indexes.tolist() == [2, -1, 0, -1, 0, 2]
    assert moved.session_starts.tolist() == table.session_starts.tolist()
