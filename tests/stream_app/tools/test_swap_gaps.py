"""The pause around a model swap."""

from datetime import UTC, datetime

from stream_app.tools.swap_gaps import SwapGaps

START_MS = 1_700_000_000_000


def text(ms: int) -> str:
    moment = datetime.fromtimestamp((START_MS + ms) / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_the_longest_gap_within_a_second_of_the_swap_is_found_across_partitions() -> None:
    gaps = SwapGaps()
    answers = [(ms, "a") for ms in range(0, 2000, 20)] + [(ms, "b") for ms in range(2130, 4000, 10)]
    # Fetched partition by partition, so not in the order of time.
    for partition in (0, 1):
        for ms, version in answers[partition::2]:
            gaps.add(version, text(ms), now=ms / 1000)
    gaps.settle(now=4.0)
    assert gaps.swaps[1].longest_gap_ms is None, "answers may still come in"
    gaps.settle(now=5.5)
    swap = gaps.swaps[1]
    assert (swap.version, swap.longest_gap_ms) == ("b", 2130 - 1980)
    assert swap.answers == len([ms for ms, _ in answers if abs(ms - 2130) <= 1000])


def test_a_pause_long_before_the_swap_does_not_count() -> None:
    gaps = SwapGaps()
    for ms in (0, 5_000, 5_030, 5_060):
        gaps.add("b" if ms > 5_010 else "a", text(ms), now=5.0)
    gaps.settle(now=5.0, at_once=True)
    assert gaps.swaps[1].longest_gap_ms == 30
