"""What `nextclick evaluate` measures: a bundle on a file, or the stream against its own replay."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import ClickFileError
from stream_app.core.metrics import RankingQuality
from stream_app.core.pipeline import Judgement
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.baselines import (
    evaluate_item_knn,
    evaluate_popularity,
    tune_item_knn,
)
from stream_app.evaluation.bundle_quality import evaluate_bundle
from stream_app.evaluation.sessions import (
    SessionTable,
    sessions_of_clicks,
    sessions_of_sequences,
)
from stream_app.files.click_files import is_sequences, read_sequences, read_table
from stream_app.files.registry import Registry
from stream_app.settings import Settings, serving_rules
from stream_app.tools.stream_check import StreamCheck, check_stream


def evaluate_file(
    bundle: Path,
    data: Path,
    *,
    file_format: str | None,
    columns: Mapping[str, str] | None,
    test_share: float,
    settings: Settings,
) -> dict[str, Any]:
    """The bundle, popularity and item-kNN on the test part of a file, as a report.

    A benchmark file says itself which sessions are the test; a click file is split by time, its newest
    `test_share` of sessions.  Raises `BundleError` or `ClickFileError`.
    """
    scorer = OnnxScorer.load(bundle)
    train, test = _train_and_test(
        data, scorer.vocabulary, file_format, columns, test_share, settings
    )
    if test.n_targets == 0:
        raise ClickFileError(f"{data} has no test session of two clicks: nothing to judge on")
    n_items = len(scorer.vocabulary)
    began = time.perf_counter()
    qualities = {scorer.manifest.architecture: evaluate_bundle(scorer, test)}
    seconds = time.perf_counter() - began
    if train.n_clicks:
        qualities["popularity"] = evaluate_popularity(train, test, n_items)
        qualities["item-knn"] = evaluate_item_knn(
            train, test, n_items, tune_item_knn(train, n_items)
        )
    return {
        "data": str(data),
        "model_version": scorer.model_version,
        "targets": test.n_targets,
        "models": [_quality_row(name, quality) for name, quality in qualities.items()],
        "events_per_second": round(test.n_clicks / seconds, 1),
        "seconds": round(seconds, 3),
    }


def evaluate_stream(settings: Settings) -> tuple[dict[str, Any], StreamCheck]:
    """Every answer on Kafka against an offline replay of the click topic, as a report."""
    began = time.perf_counter()
    check = check_stream(
        settings.kafka,
        settings.topics,
        Registry(settings.registry, settings.data_dir / "models"),
        serving_rules(settings),
    )
    seconds = time.perf_counter() - began
    figures = {
        "data": settings.topics.clicks,
        "targets": sum(judgement.predictions for judgement in check.judgements.values()),
        "models": [
            _live_row(version, judgement) for version, judgement in sorted(check.judgements.items())
        ],
        "clicks": check.clicks,
        "answers": check.answers,
        "repeated_answers": check.repeated_answers,
        "identical": check.identical,
        "identical_share": check.identical_share,
        "differences": dict(check.differences),
        "outcomes": dict(check.outcomes),
        "events_per_second": round(check.clicks / seconds, 1),
        "seconds": round(seconds, 3),
    }
    return figures, check


def _train_and_test(
    data: Path,
    vocabulary: ItemVocabulary,
    file_format: str | None,
    columns: Mapping[str, str] | None,
    test_share: float,
    settings: Settings,
) -> tuple[SessionTable, SessionTable]:
    if file_format == "sequences" or (file_format is None and is_sequences(data)):
        table = read_sequences(data)
        return (
            sessions_of_sequences(table, vocabulary, split="train"),
            sessions_of_sequences(table, vocabulary, split="test"),
        )
    table = read_table(data, format=file_format, columns=columns)
    sessions = sessions_of_clicks(table, vocabulary, limits=settings.session)
    return sessions.split_newest(test_share)


def _quality_row(name: str, quality: RankingQuality) -> dict[str, Any]:
    return {
        "name": name,
        "recall_5": quality.recall_5,
        "recall_10": quality.recall_10,
        "recall_20": quality.recall_20,
        "mrr_20": quality.mrr_20,
        "targets": quality.targets,
        "cold_targets": quality.cold_targets,
    }


def _live_row(version: str, judgement: Judgement) -> dict[str, Any]:
    predictions = max(1, judgement.predictions)
    return {
        "name": version,
        "predictions": judgement.predictions,
        "hits": judgement.hits,
        "recall_20": judgement.hits / predictions,
        "mrr_20": judgement.reciprocal_rank / predictions,
    }
