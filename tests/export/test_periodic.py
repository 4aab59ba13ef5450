"""When the next run begins, and that a failed one is not the last."""

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from export.periodic import Rhythm, retrain_for_ever
from stream_app.adapters.retrain_instruments import RetrainInstruments
from stream_app.core.errors import ServiceAwayError


def outcome(result: str, *, before_first_model: bool = False) -> Any:
    return SimpleNamespace(result=result, before_first_model=before_first_model)


def test_runs_begin_at_the_set_distance() -> None:
    rhythm = Rhythm(60)
    assert rhythm.pause_seconds(outcome("published"), took_seconds=20) == 40
    assert rhythm.pause_seconds(outcome("published"), took_seconds=80) == 0
    assert rhythm.pause_seconds(None, took_seconds=1) == 59


def test_before_the_first_model_the_log_is_looked_at_often() -> None:
    rhythm = Rhythm(900)
    assert rhythm.pause_seconds(outcome("waiting", before_first_model=True), 0.1) == 2
    assert rhythm.pause_seconds(outcome("waiting"), 0) == 900


def test_after_a_refusal_the_next_run_starts_from_scratch_once() -> None:
    rhythm = Rhythm(60)
    seen = []
    for result in ("published", "gated", "published", "waiting"):
        rhythm.pause_seconds(outcome(result), 0)
        seen.append(rhythm.from_scratch)
    assert seen == [False, True, False, False]


class Stopped(BaseException):
    pass


def test_a_failed_run_is_counted_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = CollectorRegistry()
    script = iter(
        [
            ServiceAwayError("no broker answers"),
            ZeroDivisionError("our own mistake"),
            outcome("waiting"),
            outcome("gated"),
            outcome("published"),
        ]
    )
    told: list[Any] = []
    from_scratch: list[bool] = []

    def run(scratch: bool) -> Any:
        from_scratch.append(scratch)
        step = next(script, None)
        if step is None:
            raise Stopped
        if isinstance(step, Exception):
            raise step
        return step

    with pytest.raises(Stopped):
        retrain_for_ever(
            run,
            every_seconds=1,
            instruments=RetrainInstruments(registry),
            done=told.append,
            sleep=lambda _: None,
        )
    assert [o and o.result for o in told] == [None, None, "waiting", "gated", "published"]
    assert from_scratch == [False, False, False, False, True, False]
    counted = {
        sample.labels["result"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "nextclick_retrain_runs_total"
    }
    assert counted == {"failed": 3, "waiting": 1, "gated": 1, "published": 1}
    assert registry.get_sample_value("nextclick_retrain_running") == 0
    assert registry.get_sample_value("nextclick_retrain_interval_seconds") == 1
    assert registry.get_sample_value("nextclick_retrain_failures_in_a_row") == 1, "Stopped is one"
    assert registry.get_sample_value("nextclick_retrain_last_success_timestamp_seconds") > 1e9  # type: ignore[operator]
