"""What /metrics shows: the contract's names, few label values, numbers that add up."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from stream_app.adapters.instruments import (
    ArchiveInstruments,
    StatisticsInstruments,
    WorkerInstruments,
    process_registry,
)
from stream_app.adapters.metric_labels import EARLIER_MODEL
from stream_app.adapters.retrain_instruments import RetrainInstruments
from stream_app.core.pipeline import BatchOutcome, Judgement
from stream_app.core.records import ClickSource, Recommendation

CONTRACT = {
    "nextclick_clicks": {"outcome"},
    "nextclick_recommendations": {"model_version", "fallback"},
    "nextclick_click_to_recommendation_seconds": set(),
    "nextclick_stage_duration_seconds": {"stage"},
    "nextclick_batch_clicks": set(),
    "nextclick_consumer_lag_clicks": {"partition"},
    "nextclick_restored_sessions": set(),
    "nextclick_model_age_seconds": set(),
    "nextclick_model_swaps": {"result"},
    "nextclick_live_predictions": {"model_version"},
    "nextclick_live_hits": {"model_version"},
    "nextclick_live_reciprocal_rank": {"model_version"},
    "nextclick_live_popularity_hits": {"model_version"},
    "nextclick_live_popularity_reciprocal_rank": {"model_version"},
}


def answer(version: str | None, *, latency_ms: int = 5, fallback: str | None = None):
    return Recommendation(
        recommendation_id="clicks-0-0",
        session_id="s",
        source=ClickSource("clicks", 0, 0),
        model_version=version,
        statistics_version=1,
        generated_at="2026-01-01T00:00:00.000Z",
        latency_ms=latency_ms,
        items=[],
        fallback=fallback,
    )


def outcome_of(*versions: str | None) -> BatchOutcome:
    outcome = BatchOutcome(recommendations=[answer(version) for version in versions])
    outcome.outcomes["recommended"] = len(versions)
    for version in versions:
        outcome.judgements.setdefault(version or "none", Judgement()).add(2)
        outcome.popularity_judgements.setdefault(version or "none", Judgement()).add(4)
    return outcome


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def versions_shown(registry: CollectorRegistry) -> set[str]:
    return {
        sample.labels["model_version"]
        for family in registry.collect()
        for sample in family.samples
        if "model_version" in sample.labels
    }


def test_every_metric_of_the_contract_exists_with_its_labels(registry):
    instruments = WorkerInstruments(registry)
    instruments.computed(outcome_of("v1"), 1, 0.01)
    instruments.delivered(outcome_of("v1"))
    instruments.lag({0: 3}, 1)
    instruments.swapped("v1", made_at=1.0)
    with instruments.stage("write"):
        pass
    shown = {
        family.name: {name for s in family.samples for name in s.labels} - {"le"}
        for family in registry.collect()
    }
    for name, labels in CONTRACT.items():
        assert shown.get(name) == labels, name


def test_all_processes_metrics_have_a_help_text_and_our_prefix():
    registry = process_registry()
    before = {family.name for family in registry.collect()}
    for instruments in (
        WorkerInstruments,
        StatisticsInstruments,
        ArchiveInstruments,
        RetrainInstruments,
    ):
        instruments(registry)
    ours = [family for family in registry.collect() if family.name not in before]
    assert len(ours) > 30
    for family in ours:
        assert family.name.startswith("nextclick_")
        assert len(family.documentation) > 20, family.name


def test_live_hits_and_reciprocal_ranks_add_up_per_model(registry):
    instruments = WorkerInstruments(registry)
    instruments.swapped("v1", made_at=None)
    instruments.delivered(outcome_of("v1", "v1", None))
    instruments.delivered(outcome_of("v1"))

    def value(name, version):
        return registry.get_sample_value(name, {"model_version": version})

    assert value("nextclick_live_predictions_total", "v1") == 3
    assert value("nextclick_live_hits_total", "v1") == 3
    assert value("nextclick_live_reciprocal_rank_total", "v1") == pytest.approx(1.5)
    assert value("nextclick_live_predictions_total", "none") == 1
    assert value("nextclick_live_popularity_hits_total", "v1") == 3
    assert value("nextclick_live_popularity_reciprocal_rank_total", "v1") == pytest.approx(0.75)


def test_what_alerts_count_begins_at_zero_so_that_the_first_one_is_an_increase(registry):
    WorkerInstruments(registry)
    RetrainInstruments(registry)
    for name, labels in (
        ("nextclick_clicks_total", {"outcome": "recommended"}),
        ("nextclick_clicks_total", {"outcome": "dead_lettered"}),
        ("nextclick_model_swaps_total", {"result": "refused"}),
        ("nextclick_retrain_runs_total", {"result": "failed"}),
    ):
        assert registry.get_sample_value(name, labels) == 0, name


def test_a_restore_is_seen_for_as_long_as_it_runs(registry):
    instruments = WorkerInstruments(registry)
    seen = []
    for restored in (False, True):
        instruments.ready(restored=restored)
        seen.append(registry.get_sample_value("nextclick_restore_running"))
    assert seen == [1, 0]


def test_however_many_models_came_and_went_at_most_two_are_label_values(registry):
    instruments = WorkerInstruments(registry)
    for number in range(10):
        instruments.swapped(f"v{number}", made_at=None)
        instruments.delivered(outcome_of(f"v{number}", None))
    assert versions_shown(registry) == {"none", "v8", "v9"}


def test_judgements_of_a_long_gone_model_are_counted_but_not_under_its_name(registry):
    instruments = WorkerInstruments(registry)
    for version in ("v1", "v2", "v3"):
        instruments.swapped(version, made_at=None)
    instruments.delivered(outcome_of("v1"))
    assert versions_shown(registry) == {EARLIER_MODEL}


def test_a_candidate_takes_the_place_of_the_version_just_replaced(registry):
    instruments = WorkerInstruments(registry)
    instruments.swapped("v1", made_at=None)
    instruments.swapped("v2", made_at=None, candidate="v3")
    instruments.delivered(outcome_of("v2", "v3", "v1"))
    assert versions_shown(registry) == {"v2", "v3", EARLIER_MODEL}


def test_lag_of_partitions_given_away_disappears(registry):
    instruments = WorkerInstruments(registry)
    instruments.lag({0: 5, 1: 7}, 0)
    instruments.lag({1: 2}, 0)
    shown = generate_latest(registry).decode()
    assert 'nextclick_consumer_lag_clicks{partition="1"} 2.0' in shown
    assert 'partition="0"' not in shown


def test_model_age_grows_from_when_the_model_was_made_and_is_zero_without_one(registry):
    instruments = WorkerInstruments(registry)
    assert registry.get_sample_value("nextclick_model_age_seconds") == 0
    instruments.swapped("v1", made_at=1.0)
    assert registry.get_sample_value("nextclick_model_age_seconds") > 1e9
