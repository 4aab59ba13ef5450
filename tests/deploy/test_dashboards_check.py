"""What `make dashboards-check` counts as filled."""

from pathlib import Path

import pytest
from PIL import Image

from tests.deploy.dashboards_check.collect import as_sent, filled
from tests.deploy.dashboards_check.drawing import compress


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


def test_a_bar_grows_over_its_own_step_and_one_scrape_more() -> None:
    assert as_sent("increase(x_total[$__rate_interval])", step_seconds=20).endswith("[25s])")
    assert as_sent("increase(x_total[$__rate_interval])", step_seconds=5).endswith("[20s])")


def test_a_thin_line_keeps_its_colour_in_a_picture_of_many_colours(tmp_path: Path) -> None:
    """Among colours that are near to it and cover more, it became one of them."""
    line = (0xFF, 0x98, 0x30)
    full = Image.new("RGB", (256, 256))
    full.putdata([(x, y, (x * y) % 256) for y in range(256) for x in range(256)])
    full.paste(line, (0, 30, 12, 32))
    full.save(tmp_path / "picture.png")
    compress(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as few:
        assert few.mode == "P"
        assert few.convert("RGB").getpixel((10, 31)) == line
