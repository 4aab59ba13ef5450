"""Everyone who is ranked on the held-out slice: candidate, live model, both popularities, item-kNN."""

from dataclasses import dataclass
from typing import Final

import msgspec

from export.window import Division, Window, in_vocabulary_of
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.metrics import RankingQuality
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.baselines import evaluate_item_knn, evaluate_popularity
from stream_app.evaluation.bundle_quality import evaluate_bundle
from stream_app.evaluation.recent_popularity import evaluate_recent_popularity
from stream_app.evaluation.sessions import SessionTable

CANDIDATE: Final = "candidate"
LIVE: Final = "live"
BASE: Final = "base"
"""The last full training, where the live model is a refreshed one."""
POPULARITY: Final = "popularity"
"""Over the whole window."""
RECENT_POPULARITY: Final = "recent-popularity"
"""As the worker answers without a model."""
ITEM_KNN: Final = "item-knn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The held-out slice, and what the baselines may know."""

    past: SessionTable
    held_out: SessionTable
    vocabulary: ItemVocabulary
    """Both tables' indexes are rows of it."""
    window: Window
    """All clicks, those during the held-out slice included: what is counted while the stream runs."""
    division: Division
    """Of the window, in its vocabulary: recent popularity knows items that no model was trained on."""
    half_life_ms: float


def rank_contenders(
    trial: Trial, candidate: OnnxScorer, live: OnnxScorer | None
) -> dict[str, RankingQuality]:
    """Quality of each on the same targets, both models as they are served (ONNX, half-precision states)."""
    n_items = len(trial.vocabulary)
    quality = {CANDIDATE: _of_scorer(candidate, trial)}
    if live is not None:
        quality[LIVE] = _of_scorer(live, trial)
    quality[POPULARITY] = evaluate_popularity(trial.past, trial.held_out, n_items)
    quality[RECENT_POPULARITY] = evaluate_recent_popularity(
        trial.window.sessions,
        trial.division.held_out,
        len(trial.window.vocabulary),
        half_life_ms=trial.half_life_ms,
    )
    quality[ITEM_KNN] = evaluate_item_knn(trial.past, trial.held_out, n_items)
    return quality


def as_metrics(quality: dict[str, RankingQuality]) -> dict[str, dict[str, float]]:
    """`metrics` of a manifest."""
    return {name: msgspec.to_builtins(figures) for name, figures in quality.items()}


def _of_scorer(scorer: OnnxScorer, trial: Trial) -> RankingQuality:
    return evaluate_bundle(
        scorer, in_vocabulary_of(trial.held_out, trial.vocabulary, scorer.vocabulary)
    )
