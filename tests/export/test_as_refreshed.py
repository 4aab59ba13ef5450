# ruff: noqa: E402 - torch is looked for first
"""The candidate through the held-out clicks, as refreshes would keep it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from export.artifact import bundle_content, popularity_of
from export.as_refreshed import as_refreshed
from export.second_stage import LiveFrom
from export.window import Window
from models.checkpoint import Checkpoint
from models.config import GRU4RecConfig
from models.train import train
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.bundle_quality import evaluate_bundle
from stream_app.evaluation.sessions import SessionTable
from stream_app.files.bundle import write_bundle
from stream_app.settings import RefreshSettings, RetrainSettings, Settings
from tests.export.test_second_stage import moment, window

CUT_MS = moment(900)
N_ITEMS = 40


@pytest.fixture(scope="module")
def log() -> Window:
    """From session 1,000 on people walk the other way round, and from 1,500 on to an item more."""
    made = window(3_000, turn_ms=moment(1_000))
    items, starts = made.sessions.item_indexes.copy(), made.sessions.session_starts
    for session in range(1_500, 3_000, 5):
        items[starts[session + 1] - 1] = N_ITEMS
    vocabulary = ItemVocabulary([*made.vocabulary.ids, "new"])
    return Window(vocabulary, SessionTable(items, starts, made.sessions.click_ms), made.newest_ms)


@pytest.fixture(scope="module")
def checkpoint(log: Window) -> Checkpoint:
    past, _ = log.sessions.split_at(CUT_MS)
    config = GRU4RecConfig(units=16, batch_size=16, n_sample=16, epochs=4)
    return train(past, ItemVocabulary(log.vocabulary.ids[:N_ITEMS]), config).checkpoint


@pytest.fixture
def first(log: Window, checkpoint: Checkpoint, tmp_path: Path) -> LiveFrom:
    past, _ = log.sessions.split_at(CUT_MS)
    item2vec = np.eye(N_ITEMS, 8, dtype=np.float32)
    content = bundle_content(
        checkpoint,
        model_version="m-1",
        created_at=datetime.now(UTC),
        item2vec=item2vec,
        popularity=popularity_of(past, N_ITEMS),
        training={},
        metrics={},
        sessions=past,
    )
    write_bundle(tmp_path / "m-1", content)
    return LiveFrom(CUT_MS, OnnxScorer.load(tmp_path / "m-1"), item2vec)


def settings(minutes: float) -> Settings:
    return Settings(
        retrain=RetrainSettings(second_stage_refresh_minutes=minutes),
        refresh=RefreshSettings(epochs=4),
    )


def test_each_model_knows_what_came_before_it(
    log: Window, checkpoint: Checkpoint, first: LiveFrom, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    models = list(as_refreshed(first, checkpoint, log, settings(20), scratch))
    assert models[0] is first
    assert 3 <= len(models) <= 6, "105 minutes"
    times = [model.ms for model in models]
    assert times == sorted(set(times))
    assert all((ms - CUT_MS) % (20 * 60_000) == 0 for ms in times)
    assert list(scratch.iterdir()) == [], "nothing is left lying about"
    _, newest = log.sessions.split_at(times[-1])
    for model, recalls in ((models[0], (0.0, 0.5)), (models[-1], (0.8, 1.0))):
        assert isinstance(model.scorer, OnnxScorer)
        known = np.where(
            newest.item_indexes < len(model.scorer.vocabulary), newest.item_indexes, -1
        )
        quality = evaluate_bundle(model.scorer, replace(newest, item_indexes=known))
        assert recalls[0] <= quality.recall_5 <= recalls[1]
    assert "new" not in models[1].scorer.vocabulary.index_of, "nobody had clicked it yet"
    assert "new" in models[-1].scorer.vocabulary.index_of
    assert len(models[-1].item2vec) == len(models[-1].scorer.vocabulary)
    assert len({model.scorer.model_version for model in models}) == len(models)


def test_a_model_that_nobody_refreshes_stays(
    log: Window, checkpoint: Checkpoint, first: LiveFrom, tmp_path: Path
) -> None:
    assert list(as_refreshed(first, checkpoint, log, settings(0), tmp_path / "scratch")) == [first]


def test_long_held_out_clicks_are_gone_through_in_some_steps(
    log: Window,
    checkpoint: Checkpoint,
    first: LiveFrom,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.as_refreshed.RUNS_MAX", 2)
    models = list(as_refreshed(first, checkpoint, log, settings(1), tmp_path / "scratch"))
    assert len(models) == 2, "half way through; at the end nobody is asked any more"
