"""A candidate as `nextclick refresh` will keep it: fine-tuned again and again on clicks that it has not seen.

A second stage learns how far to trust the first.  Asked about a model of hours ago it learns to trust it little,
and goes on so over one of minutes ago.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.admission import with_new_items
from export.artifact import bundle_content, new_model_version, popularity_of, training_facts
from export.contenders import LIVE
from export.fine_tuning import FineTuned, Rival, fine_tune
from export.second_stage import LiveFrom
from export.window import Window, in_vocabulary_of
from models.checkpoint import Checkpoint
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable
from stream_app.files.bundle import write_bundle
from stream_app.settings import Settings

RUNS_MAX: Final = 16
"""However long the clicks last: a run takes a second or two."""
_HOUR_MS: Final = 3_600_000


def as_refreshed(
    first: LiveFrom, checkpoint: Checkpoint, window: Window, settings: Settings, scratch: Path
) -> Iterator[LiveFrom]:
    """`first`, then what each refresh makes of it through the window's clicks since.

    checkpoint: the network of `first`, which has learned what is before it.  Every
    `retrain.second_stage_refresh_minutes`, more seldom where that were over `RUNS_MAX` runs; the refresh's own
    settings and gate.  Nothing is released.
    """
    yield first
    every_ms = settings.retrain.second_stage_refresh_minutes * 60_000
    if every_ms == 0:
        return
    every_ms = max(every_ms, (window.newest_ms - first.ms) / RUNS_MAX)
    known_until_ms = first.ms - 1
    moment = first.ms + every_ms
    while moment < window.newest_ms:
        until_ms = int(moment)
        sessions, vocabulary = _recent(window, until_ms, checkpoint.vocabulary, settings)
        tuned = fine_tune(
            checkpoint,
            checkpoint,
            {LIVE: Rival(LIVE, checkpoint)},
            sessions,
            vocabulary,
            settings.refresh,
            known_until_ms=known_until_ms,
            tolerance=settings.retrain.gate_tolerance,
            unsettled=np.empty(0, dtype=np.int64),
            threads=settings.retrain.threads,
        )
        if isinstance(tuned, FineTuned) and tuned.verdict.passed:
            checkpoint, known_until_ms = tuned.checkpoint, until_ms - 1
            yield _live(checkpoint, sessions, first.item2vec, until_ms, scratch)
        moment += every_ms


def _recent(
    window: Window, until_ms: int, known: ItemVocabulary, settings: Settings
) -> tuple[SessionTable, ItemVocabulary]:
    """The sessions of the last hours, as a refresh sees them, and the items that it would know."""
    sessions, _ = window.sessions.split_at(until_ms)
    ends_ms = sessions.click_ms[sessions.session_starts[1:] - 1]
    recent = ends_ms >= until_ms - settings.refresh.window_hours * _HOUR_MS
    sessions = sessions.select(np.flatnonzero(recent))
    clicked = np.unique(sessions.item_indexes)
    seen = known.extended(window.vocabulary.ids[item] for item in clicked)
    as_seen = in_vocabulary_of(sessions, window.vocabulary, seen)
    vocabulary = with_new_items(known, as_seen, seen, settings.retrain)
    return in_vocabulary_of(sessions, window.vocabulary, vocabulary), vocabulary


def _live(
    checkpoint: Checkpoint,
    sessions: SessionTable,
    item2vec: NDArray[np.float32],
    ms: int,
    scratch: Path,
) -> LiveFrom:
    n_items, now = len(checkpoint.vocabulary), datetime.now(UTC)
    extended = np.pad(item2vec, ((0, n_items - len(item2vec)), (0, 0)))
    content = bundle_content(
        checkpoint,
        model_version=new_model_version(now, checkpoint),
        created_at=now,
        item2vec=extended,
        popularity=popularity_of(sessions, n_items),
        training=training_facts(sessions, epochs=0, seconds=0.0),
        metrics={},
        sessions=sessions,
    )
    directory = scratch / content.model_version
    write_bundle(directory, content)
    scorer = OnnxScorer.load(directory)
    shutil.rmtree(directory)
    return LiveFrom(ms, scorer, extended)
