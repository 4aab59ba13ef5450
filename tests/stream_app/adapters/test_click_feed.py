"""The hand-over point between consumer and loop."""

import asyncio
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stream_app.adapters.click_feed import ROOM_CLICKS, ClickFeed


def records(*offsets: int) -> list[Any]:
    return [SimpleNamespace(offset=offset) for offset in offsets]


def hurry() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12),
    st.integers(1, 10),
)
def test_every_click_is_taken_once_and_in_order(fetches: list[tuple[int, int]], cap: int) -> None:
    """Whatever is offered comes out once, each partition in offset order, at most `cap` at a time."""

    async def run() -> None:
        feed = ClickFeed()
        ends = dict.fromkeys(range(4), 0)
        for partition, count in fetches:
            start = ends[partition]
            ends[partition] += count
            feed.offer(
                0,
                partition,
                [
                    SimpleNamespace(offset=o, partition=partition)
                    for o in range(start, start + count)
                ],
            )
        seen: dict[int, list[int]] = {p: [] for p in range(4)}
        while feed.waiting:
            taken = await feed.take(cap, hurry=hurry())
            assert 1 <= len(taken.records) <= cap
            for record in taken.records:
                seen[record.partition].append(record.offset)
            assert taken.next_offsets == {
                p: seen[p][-1] + 1 for p in {r.partition for r in taken.records}
            }
            feed.finished(taken)
        assert seen == {p: list(range(end)) for p, end in ends.items()}
        assert feed.pop_committable() == {p: end for p, end in ends.items() if end}

    asyncio.run(run())


def test_records_fetched_before_a_rebalance_are_not_handed_out_after_it() -> None:
    async def run() -> None:
        feed = ClickFeed()
        feed.offer(0, 0, records(1, 2))
        await feed.drain()
        assert feed.waiting == 0
        feed.offer(0, 0, records(3))
        assert feed.waiting == 0
        feed.offer(1, 0, records(3))
        assert feed.waiting == 1

    asyncio.run(run())


def test_draining_waits_for_batches_in_flight_and_for_work_without_clicks() -> None:
    async def run() -> None:
        feed = ClickFeed()
        feed.offer(0, 0, records(0))
        taken = await feed.take(5, hurry=hurry())
        held = feed.hold()
        draining = asyncio.create_task(feed.drain())
        await asyncio.sleep(0)
        feed.finished(taken)
        await asyncio.sleep(0)
        assert not draining.done()
        feed.finished(held)
        await draining
        assert feed.pop_committable() == {0: 1}

    asyncio.run(run())


def test_small_batches_wait_while_answers_are_on_their_way() -> None:
    async def run() -> None:
        feed, busy = ClickFeed(), asyncio.Event()
        feed.offer(0, 0, records(0))
        taking = asyncio.create_task(feed.take(2, hurry=busy))
        await asyncio.sleep(0)
        assert not taking.done()
        feed.offer(0, 0, records(1))  # the cap is reached
        assert len((await taking).records) == 2
        feed.offer(0, 0, records(2))
        taking = asyncio.create_task(feed.take(2, hurry=busy))
        await asyncio.sleep(0)
        busy.set()
        feed.wake()
        assert len((await taking).records) == 1

    asyncio.run(run())


def test_the_consumer_waits_while_the_feed_is_full() -> None:
    async def run() -> None:
        feed = ClickFeed()
        feed.offer(0, 0, records(*range(ROOM_CLICKS)))
        waiting = asyncio.create_task(feed.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        await feed.take(1, hurry=hurry())
        await waiting

    asyncio.run(run())


def finish(feed: ClickFeed, partition: int, *offsets: int) -> None:
    async def run() -> None:
        feed.offer(feed.epoch, partition, records(*offsets))
        feed.finished(await feed.take(len(offsets), hurry=hurry()))

    asyncio.run(run())


def test_only_what_the_group_has_taken_counts_as_committed() -> None:
    feed = ClickFeed()
    feed.begin_at({0: 5})
    finish(feed, 0, 5, 6)
    offsets = feed.pop_committable()
    assert (feed.position(0), feed.committed_until(0)) == (7, 5)
    feed.put_back(offsets)
    assert feed.committed_until(0) == 5
    assert feed.pop_committable() == {0: 7}
    feed.committed(offsets)
    assert feed.committed_until(0) == 7


def test_offsets_that_a_rebalance_has_overtaken_are_not_offered_again() -> None:
    """The commit was under way when the partition went to another, who committed further on."""
    feed = ClickFeed()
    feed.begin_at({0: 0, 1: 0})
    finish(feed, 0, 0, 1, 2)
    offsets = feed.pop_committable()
    feed.begin_at({0: 11})
    feed.put_back(offsets)
    assert feed.pop_committable() == {}
    feed.committed({1: 9})
    assert feed.committed_until(1) is None
