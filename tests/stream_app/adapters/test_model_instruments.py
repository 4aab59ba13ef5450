"""How large the live model is, and how much of its catalogue it recommends."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from stream_app.adapters.model_instruments import COVERAGE_SECONDS, Coverage, ModelInstruments
from stream_app.core.pipeline import ListedItems


class Clock:
    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def listed(*lists: list[int], version: str = "m1", n_items: int = 10) -> ListedItems:
    return ListedItems(version, n_items, np.array(lists, dtype=np.int64))


def test_an_item_counts_once_however_often_it_is_recommended(clock: Clock) -> None:
    coverage = Coverage(now=clock)
    assert coverage.recommended_items() == 0
    coverage.listed(listed([1, 2], [2, 3]))
    coverage.listed(listed([3, 1]))
    assert coverage.recommended_items() == 3


def test_what_was_recommended_in_the_period_before_still_counts_and_what_is_older_does_not(
    clock: Clock,
) -> None:
    coverage = Coverage(now=clock)
    coverage.listed(listed([1]))
    clock.seconds += COVERAGE_SECONDS
    coverage.listed(listed([2]))
    assert coverage.recommended_items() == 2
    clock.seconds += COVERAGE_SECONDS
    assert coverage.recommended_items() == 1, "without another list, time goes on all the same"
    coverage.listed(listed([3]))
    assert coverage.recommended_items() == 2
    clock.seconds += 2 * COVERAGE_SECONDS
    assert coverage.recommended_items() == 0
    coverage.listed(listed([4]))
    assert coverage.recommended_items() == 1


def test_another_model_begins_anew(clock: Clock) -> None:
    coverage = Coverage(now=clock)
    coverage.listed(listed([8, 9]))
    coverage.listed(listed([0], version="m2", n_items=2))
    assert coverage.recommended_items() == 1


def test_the_model_that_is_live_is_described_until_it_is_unloaded() -> None:
    registry = CollectorRegistry()
    instruments, value = ModelInstruments(registry), registry.get_sample_value
    instruments.live(10, bundle_bytes=5_000, state_bytes=200)
    instruments.listed(listed([4, 5]))
    shown = {
        "nextclick_model_items": 10,
        "nextclick_model_bundle_bytes": 5_000,
        "nextclick_model_state_bytes": 200,
        "nextclick_recommended_items": 2,
    }
    assert {name: value(name) for name in shown} == shown
    instruments.unloaded()
    assert {value(name) for name in shown} == {0}
