"""Where a partition is read on from."""

import pytest

from stream_app.adapters.click_offsets import LostClicks, read_on_from
from stream_app.core.errors import ConfigurationError, TopicsChangedError


def read_from(wanted: int | None, *, begin: int, end: int) -> tuple[int, list[LostClicks]]:
    lost: list[LostClicks] = []
    return read_on_from("clicks", 3, wanted, begin=begin, end=end, on_lost=lost.append), lost


def test_a_partition_never_read_is_read_from_its_beginning_and_nothing_is_lost() -> None:
    assert read_from(None, begin=7, end=9) == (7, [])


@pytest.mark.parametrize("wanted", [7, 8, 9])
def test_reading_goes_on_where_it_was_left_off(wanted: int) -> None:
    assert read_from(wanted, begin=7, end=9) == (wanted, [])


def test_clicks_deleted_before_they_were_read_are_told_with_their_range() -> None:
    offset, (lost,) = read_from(4, begin=7, end=9)
    assert (offset, lost.count) == (7, 3)
    assert "clicks[3]" in str(lost)
    assert "offsets 4 to 6" in str(lost)


def test_a_log_cut_off_below_what_was_committed_is_refused() -> None:
    with pytest.raises(TopicsChangedError, match=r"clicks\[3\] ends at offset 9.*begin afresh"):
        read_from(10, begin=7, end=9)


def test_whoever_is_told_of_lost_clicks_may_halt() -> None:
    def halt(lost: LostClicks) -> None:
        raise ConfigurationError(str(lost))

    with pytest.raises(ConfigurationError, match="3 clicks"):
        read_on_from("clicks", 3, 4, begin=7, end=9, on_lost=halt)
