"""Percentiles over whole milliseconds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_app.tools.latencies import Latencies, percentile


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_the_inverse_of_the_distribution(values: list[int], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value, now=0.0)
    expected = np.quantile(values, share, method="inverted_cdf")
    assert percentile(latencies.overall, share) == expected


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile({}, 0.5) is None


def test_the_last_minute_forgets_and_the_total_does_not() -> None:
    latencies = Latencies()
    latencies.add(100, now=0.0)
    latencies.add(5, now=59.0)
    latencies.add(7, now=61.0)
    assert latencies.last_minute(61.5) == {5: 1, 7: 1}
    assert latencies.overall == {100: 1, 5: 1, 7: 1}
    assert latencies.last_minute(200.0) == {}
