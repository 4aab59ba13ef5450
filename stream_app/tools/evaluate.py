"""What `nextclick evaluate` measures: a bundle on a file, or the stream against its own replay."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from stream_app.core.errors import ClickFileError, ConfigurationError
from stream_app.core.pipeline import Judgement
from stream_app.core.ports import Scorer
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.judge import JudgedRanker, judge
from stream_app.evaluation.next_clicks import NextClicks, all_next_clicks, read_pairs
from stream_app.evaluation.prequential import AnsweredAt, ClickStream, always, prequential
from stream_app.evaluation.sessions import (
    SessionTable,
    sessions_of_clicks,
    sessions_of_sequences,
    vocabulary_of_clicks,
)
from stream_app.evaluation.stream_statistics import (
    CoOccurrence,
    RecentPopularity,
    StatisticsMaker,
)
from stream_app.evaluation.tune_statistics import Tuned, tune_statistics
from stream_app.files.click_files import is_sequences, read_sequences, read_table
from stream_app.files.registry import Registry
from stream_app.settings import Settings, serving_rules, statistics_recipe
from stream_app.tools.line_up import RANKERS, TWO_STAGES, LineUp, LoadedBundle, load_bundles
from stream_app.tools.stream_check import StreamCheck, check_stream


@dataclass(frozen=True, kw_only=True, eq=False)
class FileEvaluation:
    """What is judged on which part of a file."""

    data: Path
    bundles: tuple[Path, ...] = ()
    pairs: Path | None = None
    """(prefix, label) pairs to judge on; the file's own test part where None."""
    rankers: tuple[str, ...] = RANKERS
    blend_weights: tuple[float, ...] = (0.5,)
    file_format: str | None = None
    columns: Mapping[str, str] | None = None
    test_share: float = 0.1


def evaluate_file(
    plan: FileEvaluation, settings: Settings, *, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Every ranker on the test part of a file, as a report.

    A benchmark file says itself which sessions are the test, unless a file of pairs does; a click file is
    split by time, its newest `test_share` of sessions.  say: told each figure as soon as it is there.
    Raises `BundleError`, `ClickFileError`, `ConfigurationError`.
    """
    began = time.perf_counter()
    bundles = load_bundles(plan.bundles)
    data = _read(plan, bundles, settings)
    if data.asked.n_targets == 0:
        raise ClickFileError(f"{plan.data} has no test session of two clicks: nothing to judge on")
    line_up = LineUp(
        data.vocabulary,
        data.train,
        data.clicks,
        bundles,
        statistics_recipe(settings),
        settings.session.history_len_max,
        plan.blend_weights,
    )
    support = data.train.support(len(data.vocabulary))
    judged = []
    for ranker in line_up.rankers(plan.rankers):
        judged.append(judge(ranker, data.asked, support))
        say(f"{ranker.name}: R@20 {judged[-1].recall_20:.4f}, MRR@20 {judged[-1].mrr_20:.4f}")
    if not judged:
        reasons = "; ".join(f"{name}: {why}" for name, why in line_up.skipped.items())
        raise ConfigurationError(f"none of the rankers can be made ({reasons})")
    timed = [row for row in judged if row.name in {bundle.name for bundle in bundles}] or judged
    return {
        "data": str(plan.pairs or plan.data),
        "date": datetime.now(UTC).date().isoformat(),
        "protocol": "static",
        "model_version": bundles[0].scorer.model_version if bundles else None,
        "targets": data.asked.n_targets,
        "models": [msgspec.to_builtins(row) for row in judged],
        "over_seeds": over_seeds(bundles, judged),
        "parameters": line_up.parameters,
        "skipped": line_up.skipped,
        "events_per_second": round(
            sum(row.targets for row in timed) / max(1e-9, sum(row.seconds for row in timed)), 1
        ),
        "seconds": round(time.perf_counter() - began, 3),
    }


def over_seeds(
    bundles: Sequence[LoadedBundle], judged: Sequence[JudgedRanker]
) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1) of the headline figures, where an architecture has several bundles."""
    by_architecture: dict[str, list[JudgedRanker]] = {}
    rows = {row.name: row for row in judged}
    for stages in ("", TWO_STAGES):
        for bundle in bundles:
            if bundle.name + stages in rows:
                architecture = bundle.scorer.manifest.architecture + stages
                by_architecture.setdefault(architecture, []).append(rows[bundle.name + stages])
    return [
        {
            "name": architecture,
            "bundles": len(several),
            **{
                f"{figure}_{what}": of([getattr(row, figure) for row in several])
                for figure in ("recall_20", "mrr_20", "ndcg_20")
                for what, of in (("mean", statistics.mean), ("sd", statistics.stdev))
            },
        }
        for architecture, several in by_architecture.items()
        if len(several) > 1
    ]


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


@dataclass(frozen=True, kw_only=True)
class StreamEvaluation:
    """What is judged on a click log as on a stream."""

    data: Path
    bundles: tuple[Path, ...] = ()
    from_ms: int | None = None
    to_ms: int | None = None
    """from_ms <= event time < to_ms is reported; what precedes it is past."""
    version_seconds: float = 10.0
    """Event time between versions of the statistics."""
    answered_at: AnsweredAt = "click"
    """See `prequential`."""
    half_lives_minutes: tuple[float, ...] = (7.5, 60.0)
    """Of recent popularity; a row each."""
    file_format: str | None = None
    columns: Mapping[str, str] | None = None


def evaluate_prequential(
    plan: StreamEvaluation, settings: Settings, *, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Recent popularity, co-occurrence and every bundle on a click log in order of time, as a report.

    Raises `BundleError`, `ClickFileError`.
    """
    began = time.perf_counter()
    if plan.file_format == "sequences" or (plan.file_format is None and is_sequences(plan.data)):
        raise ConfigurationError(f"{plan.data} has no clock: the prequential protocol needs one")
    rules = serving_rules(settings)
    bundles = load_bundles(plan.bundles)
    table = read_table(plan.data, format=plan.file_format, columns=plan.columns)
    stream = ClickStream(table, rules, from_ms=plan.from_ms, to_ms=plan.to_ms)
    if len(stream.targets) == 0:
        raise ClickFileError(
            f"{plan.data} has no session of two clicks in this range: nothing to judge on"
        )
    # A click that no model can answer is answered from the statistics, as on the stream.
    co_occurrence = partial(CoOccurrence, statistics_recipe(settings))
    line_up: list[tuple[str, StatisticsMaker, Scorer | None]] = [
        (f"recent-popularity {minutes:g} min", partial(RecentPopularity, minutes * 60_000), None)
        for minutes in plan.half_lives_minutes
    ]
    line_up.append(("co-occurrence", co_occurrence, None))
    line_up += [(bundle.name, co_occurrence, bundle.scorer) for bundle in bundles]
    rows = []
    for name, make, scorer in line_up:
        row = prequential(
            stream,
            make(),
            always(scorer),
            rules,
            name=name,
            version_seconds=plan.version_seconds,
            answered_at=plan.answered_at,
        )
        rows.append(row)
        say(f"{name}: R@20 {row.quality.recall_20:.4f}, MRR@20 {row.quality.mrr_20:.4f}")
    seconds = time.perf_counter() - began
    judged = [row.quality for row in rows]
    return {
        "data": str(plan.data),
        "date": datetime.now(UTC).date().isoformat(),
        "protocol": "prequential",
        "from_ms": int(stream.ms[stream.begin]),
        "to_ms": int(stream.ms[-1]),
        "version_seconds": plan.version_seconds,
        "answered_at": plan.answered_at,
        "filter_seen": rules.filter_seen,
        "idle_gap_minutes": rules.limits.idle_gap_minutes,
        "targets": len(stream.targets),
        "models": [
            {**msgspec.to_builtins(row.quality), "by_age": msgspec.to_builtins(row.by_age)}
            for row in rows
        ],
        "over_seeds": over_seeds(bundles, judged),
        "skipped": {},
        "events_per_second": round(len(stream.targets) * len(rows) / max(1e-9, seconds), 1),
        "seconds": round(seconds, 3),
    }


@dataclass(frozen=True, kw_only=True)
class StatisticsTuning:
    """On which part of a click log half-lives are chosen."""

    data: Path
    from_ms: int | None = None
    to_ms: int | None = None
    """from_ms <= event time < to_ms is predicted; by default the newer half of what is looked at."""
    file_format: str | None = None
    columns: Mapping[str, str] | None = None


def tune_on_file(
    plan: StatisticsTuning, settings: Settings, *, say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], Tuned]:
    """The settings of the stream statistics that fit a click log, as a report.

    Raises `ClickFileError`, `ConfigurationError`.
    """
    began = time.perf_counter()
    if plan.file_format == "sequences" or (plan.file_format is None and is_sequences(plan.data)):
        raise ConfigurationError(
            f"{plan.data} has no clock: half-lives are minutes between clicks, give a click log"
        )
    rules = serving_rules(settings)
    tuned = tune_statistics(
        read_table(plan.data, format=plan.file_format, columns=plan.columns),
        rules,
        statistics_recipe(settings),
        from_ms=plan.from_ms,
        to_ms=plan.to_ms,
        say=say,
    )
    seconds = time.perf_counter() - began
    figures = {
        "data": str(plan.data),
        "date": datetime.now(UTC).date().isoformat(),
        "protocol": "tune",
        "filter_seen": rules.filter_seen,
        "idle_gap_minutes": rules.limits.idle_gap_minutes,
        **msgspec.to_builtins(tuned),
        "settings": settings_of(tuned),
        "serving_settings": {"filter_seen": tuned.repeats.filter_seen},
        "seconds": round(seconds, 3),
    }
    return figures, tuned


def settings_of(tuned: Tuned) -> dict[str, Any]:
    """What the best choices are called in `[statistics]`."""
    best = tuned.pairs[0]
    return {
        "half_life_minutes": tuned.popularity[0].half_life_minutes,
        "pair_half_lives_minutes": list(best.half_lives_minutes),
        "pair_weights": list(best.weights),
        "prior_clicks": best.prior_clicks,
    }


@dataclass(frozen=True, eq=False)
class _Data:
    vocabulary: ItemVocabulary
    """Every item of the file and of the bundles."""
    train: SessionTable
    asked: NextClicks
    clicks: SessionTable | None
    """All clicks where there is a clock; None for benchmark sequences."""


def _read(plan: FileEvaluation, bundles: Sequence[LoadedBundle], settings: Settings) -> _Data:
    known = ItemVocabulary(())
    for bundle in bundles:
        known = known.extended(bundle.scorer.vocabulary.ids)
    if plan.file_format == "sequences" or (plan.file_format is None and is_sequences(plan.data)):
        table = read_sequences(plan.data)
        vocabulary = vocabulary_of_clicks(table, known)
        train = sessions_of_sequences(table, vocabulary, split="train")
        if plan.pairs is not None:
            return _Data(vocabulary, train, read_pairs(plan.pairs, vocabulary), None)
        test = sessions_of_sequences(table, vocabulary, split="test")
        return _Data(vocabulary, train, all_next_clicks(test), None)
    if plan.pairs is not None:
        raise ConfigurationError(
            f"--pairs goes with benchmark sequences, whose train split the baselines learn from; "
            f"{plan.data} is a click log"
        )
    table = read_table(plan.data, format=plan.file_format, columns=plan.columns)
    vocabulary = vocabulary_of_clicks(table, known)
    sessions = sessions_of_clicks(table, vocabulary, limits=settings.session)
    long_enough = sessions.at_least(2)
    if long_enough.n_sessions == 0:
        raise ClickFileError(f"{plan.data} has no session of two clicks: nothing to judge on")
    # Cut where `nextclick train` cuts, or its model would have seen the first of the test.
    train, test = sessions.split_at(long_enough.start_of_newest(plan.test_share))
    return _Data(vocabulary, train, all_next_clicks(test), sessions)


def _live_row(version: str, judgement: Judgement) -> dict[str, Any]:
    predictions = max(1, judgement.predictions)
    return {
        "name": version,
        "predictions": judgement.predictions,
        "hits": judgement.hits,
        "recall_20": judgement.hits / predictions,
        "mrr_20": judgement.reciprocal_rank / predictions,
    }
