"""What `make dashboards-check` counts as filled."""

import pytest

from tests.deploy.dashboards_check.collect import as_sent, filled


def series(*values: str) -> dict[str, object]:
    return {"metric": {}, "values": [[1_700_000_000 + i, value] for i, value in enumerate(values)]}


def test_a_series_counts_if_there_is_a_number_in_it() -> None:
    row = filled("board", "panel", "A", "up", [series("NaN", "0"), series("NaN"), series("+Inf")])
    assert (row.series, row.points) == (1, 1)
    assert not row.is_empty


@pytest.mark.parametrize("found", [[], [series("NaN", "NaN")]])
def test_nothing_and_no_number_are_both_empty(found: list[dict[str, object]]) -> None:
    assert filled("board", "panel", "A", "up", found).is_empty


def test_a_query_is_sent_with_values_for_grafanas_variables() -> None:
    sent = as_sent(
        'sum(rate(x_total{job=~"$job",instance=~"$instance"}[$__rate_interval])) / sum(increase(y_total[$window]))'
    )
    assert "$" not in sent


def test_what_is_no_promql_is_not_sent() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        as_sent("sum by (rate(")
