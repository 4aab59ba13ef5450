"""What our consumer does otherwise than Faust's, where no broker is needed to see it."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import CommitFailedError
from faust.transport.drivers import aiokafka as stock
from faust.types import TP

from stream_app.adapters.faust_transport import ClickApp, ClickConsumer, broker_urls
from stream_app.core.errors import InvariantError


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_a_worker_without_partitions_reads_nothing_while_it_is_given_some(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first clicks must wait for the restore of their sessions; stock lets them through."""
    reading: list[bool] = []

    async def rebalance(consumer: ClickConsumer, revoked: set[TP]) -> None:
        assert not revoked
        reading.append(consumer.flow_active)

    monkeypatch.setattr(stock.Consumer, "on_partitions_revoked", rebalance)

    async def rebalance_of_a_worker_with_nothing() -> None:
        consumer = an_app().consumer
        consumer.resume_flow()
        await consumer.on_partitions_revoked(set())

    loop.run_until_complete(rebalance_of_a_worker_with_nothing())
    assert reading == [False]


def an_app() -> ClickApp:
    async def assigned(_: set[int]) -> None: ...

    def never(_: Any) -> None:
        raise AssertionError

    return ClickApp(
        clicks_topic="clicks",
        on_assigned=assigned,
        on_lost_clicks=never,
        on_halt=never,
        id="test",
        broker=broker_urls("127.0.0.1:1"),
    )


class StockConsumer:
    """As far as it matters here: what fetches has come to this end."""

    def __init__(self, fetching: "asyncio.Future[None]", group_error: Exception | None) -> None:
        self._fetcher = SimpleNamespace(error_future=fetching)
        self._coordinator = self
        self._group_error = group_error

    def check_errors(self) -> None:
        if self._group_error is not None:
            raise self._group_error


@pytest.mark.parametrize(
    ("fetching_error", "group_error", "told"),
    [
        (None, None, None),
        (RuntimeError("the handler is closed"), None, "clicks are not fetched any more"),
        (None, CommitFailedError("fenced"), "fenced"),
    ],
)
def test_a_consumer_that_would_read_nothing_for_ever_says_so(
    loop: asyncio.AbstractEventLoop,
    fetching_error: Exception | None,
    group_error: Exception | None,
    told: str | None,
) -> None:
    async def look() -> None:
        fetching = loop.create_future()
        if fetching_error is not None:
            fetching.set_exception(fetching_error)
            fetching.exception()
        thread = an_app().consumer._new_consumer_thread()
        thread.see_that_it_reads()  # before it has begun
        thread._consumer = StockConsumer(fetching, group_error)
        thread.see_that_it_reads()

    if told is None:
        loop.run_until_complete(look())
    else:
        with pytest.raises((InvariantError, CommitFailedError), match=told):
            loop.run_until_complete(look())
