"""The batch histogram shows exactly what the library's own would."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from stream_app.adapters.batch_histogram import BatchHistogram

BOUNDS = (0.125, 0.5, 1.0, 10.0)
# Their sums are exact in any order.
values = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 8.0, 10.0, 99.0])


def shown(registry: CollectorRegistry) -> list[str]:
    """The lines of /metrics, but for the time of creation."""
    return [
        line for line in generate_latest(registry).decode().splitlines() if "_created" not in line
    ]


@given(st.lists(st.lists(values, max_size=20), max_size=5))
def test_it_shows_what_a_histogram_shows_that_was_given_the_values_one_by_one(
    batches: list[list[float]],
) -> None:
    one_by_one, at_once = CollectorRegistry(), CollectorRegistry()
    expected = Histogram("latency_seconds", "Help.", buckets=BOUNDS, registry=one_by_one)
    histogram = BatchHistogram("latency_seconds", "Help.", buckets=BOUNDS, registry=at_once)
    for batch in batches:
        histogram.observe_all(batch)
        for value in batch:
            expected.observe(value)
    assert shown(at_once) == shown(one_by_one)
