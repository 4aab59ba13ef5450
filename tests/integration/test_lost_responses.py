"""What the worker's producer does when the broker's answers are lost on their way."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_app.adapters import kafka_topics
from stream_app.adapters.faust_transport import ClickApp
from stream_app.services.worker import _faust_options
from stream_app.settings import KafkaSettings, Settings, TopicSettings
from tests.chaos.tcp_proxy import Fault, ProxiedKafka
from tests.integration.oracle import read_topic

PATIENCE_SECONDS_MAX = 15.0
"""With one more for the connection that is made anew, progress within 30 s of a fault's end."""

LOST = 10
"""Number of the message whose answer is lost."""


@pytest.fixture
def proxied(kafka: Any, tmp_path: Path) -> Iterator[ProxiedKafka]:
    """A broker behind a proxy; the session's broker has fetched Kafka, or this is skipped with it."""
    with ProxiedKafka(tmp_path / "kafka") as running:
        yield running


def app_of(settings: Settings, **options: Any) -> ClickApp:
    """The worker's app as the worker makes it, not started."""

    async def nothing(_: set[int]) -> None:
        return

    settings.data_dir.mkdir(exist_ok=True)
    return ClickApp(
        clicks_topic=settings.topics.clicks,
        on_assigned=nothing,
        on_lost_clicks=lambda _: None,
        on_halt=lambda _: None,
        **{**_faust_options(settings), **options},
    )


def test_a_request_whose_answer_is_lost_is_given_up_within_seconds(tmp_path: Path) -> None:
    app = app_of(Settings(data_dir=tmp_path / "worker"))
    assert app.conf.producer_request_timeout <= PATIENCE_SECONDS_MAX
    assert app.conf.broker_request_timeout <= PATIENCE_SECONDS_MAX


def test_what_is_sent_again_because_its_answer_was_lost_is_stored_once_and_keeps_its_offset(
    proxied: ProxiedKafka, tmp_path: Path
) -> None:
    """The contiguity check of the changelog rests on this: the second answer names the first offsets."""
    topics = TopicSettings(partitions=1)
    kafka_topics.create_topics(KafkaSettings(bootstrap_servers=proxied.bootstrap_servers), topics)
    through_proxy = KafkaSettings(bootstrap_servers=proxied.proxy.bootstrap_servers)
    values = [b"%d" % number for number in range(2 * LOST)]

    async def send_all() -> list[int]:
        app = app_of(
            Settings(kafka=through_proxy, topics=topics, data_dir=tmp_path / "worker"),
            producer_request_timeout=1.0,
        )
        producer = app.producer
        await producer.start()
        try:
            sent = []
            for number, value in enumerate(values):
                if number == LOST:
                    proxied.proxy.inject(Fault.RESPONSES_DROPPED)
                sent += await app.send(topics.sessions, 0, [(b"key", value, ())])
                if number < LOST:
                    await sent[-1][0]
                elif number == LOST:
                    # Longer than the request may take: it is made a second time.
                    await asyncio.sleep(1.5)
                    proxied.proxy.heal()
            return [(await ack).offset for ack, _ in sent]
        finally:
            proxied.proxy.heal()
            await producer.stop()

    offsets = asyncio.run(send_all())
    assert offsets == list(range(len(values)))
    stored = [record.value for record in read_topic(proxied.bootstrap_servers, topics.sessions)]
    assert stored == values
