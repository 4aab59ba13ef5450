"""Reading compacted topics on a real broker: to the end, whatever the end is made of."""

import threading
import time

import pytest
from kafka import KafkaProducer

from stream_app.adapters.compacted_topic import CompactedTopic, read_latest
from stream_app.adapters.kafka_clients import python_client_options
from stream_app.core.errors import ConfigurationError, ServiceAwayError
from stream_app.settings import KafkaSettings


@pytest.fixture
def topic(topics) -> str:
    return topics.sessions


@pytest.fixture
def producer(kafka):
    producer = KafkaProducer(**python_client_options(kafka.settings))
    yield producer
    producer.close()


@pytest.fixture
def transaction(kafka, topic):
    producer = KafkaProducer(**python_client_options(kafka.settings), transactional_id=topic)
    producer.init_transactions()
    yield producer
    producer.close()


def values(kafka, topic, *, committed_only: bool = False) -> list[bytes | None]:
    with CompactedTopic(kafka.settings, topic, committed_only=committed_only) as reader:
        return [record.value for records in reader.read_to_end() for record in records]


def test_an_empty_topic_has_nothing_and_does_not_hang(kafka, topic):
    assert values(kafka, topic) == []


def test_everything_of_every_partition_is_read(kafka, topic, producer):
    for number in range(1000):
        producer.send(topic, key=b"k%d" % number, value=b"v%d" % number)
    producer.flush()
    assert sorted(values(kafka, topic)) == sorted(b"v%d" % number for number in range(1000))


def test_the_newest_value_of_each_key_remains_and_tombstones_remove(kafka, topic, producer):
    for key, value in ((b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None)):
        producer.send(topic, key=key, value=value).get(timeout=10)
    latest = read_latest(kafka.settings, topic)
    assert {key: record.value for key, record in latest.items()} == {b"a": b"2"}


@pytest.mark.parametrize("committed_only", [True, False])
def test_a_topic_that_ends_in_a_transactions_marker_ends(kafka, topic, transaction, committed_only):
    transaction.begin_transaction()
    transaction.send(topic, key=b"k", value=b"committed", partition=0)
    transaction.commit_transaction()
    transaction.begin_transaction()
    transaction.send(topic, key=b"k", value=b"aborted", partition=0)
    transaction.flush()
    transaction.abort_transaction()
    expected = [b"committed"] if committed_only else [b"committed", b"aborted"]
    assert values(kafka, topic, committed_only=committed_only) == expected


def test_an_open_transaction_is_not_waited_for(kafka, topic, transaction):
    transaction.begin_transaction()
    transaction.send(topic, key=b"k", value=b"open", partition=0)
    transaction.flush()
    assert values(kafka, topic, committed_only=True) == []
    transaction.abort_transaction()


def test_following_sees_what_comes_later(kafka, topic, producer):
    with CompactedTopic(kafka.settings, topic) as reader:
        assert list(reader.read_to_end()) == []
        producer.send(topic, key=b"k", value=b"later").get(timeout=10)
        deadline = time.monotonic() + 10
        found = []
        while not found and time.monotonic() < deadline:
            found = reader.poll(0.2)
        assert [record.value for record in found] == [b"later"]


def test_reading_can_be_stopped_from_another_thread(kafka, topic, producer):
    producer.send(topic, key=b"k", value=b"v").get(timeout=10)
    stop = threading.Event()
    stop.set()
    with CompactedTopic(kafka.settings, topic) as reader:
        assert list(reader.read_to_end(should_stop=stop.is_set)) == []


def test_a_missing_topic_says_how_to_create_it(kafka):
    with (
        pytest.raises(ConfigurationError, match="nextclick topics create"),
        CompactedTopic(kafka.settings, "test-nobody-made-this"),
    ):
        pass


def test_without_a_broker_the_message_says_how_to_start_one(monkeypatch):
    monkeypatch.setattr("stream_app.adapters.kafka_clients.CONNECT_TIMEOUT_MS", 500)
    with (
        pytest.raises(ServiceAwayError, match=r"no broker answers at 127.0.0.1:1: start one with"),
        CompactedTopic(KafkaSettings(bootstrap_servers="127.0.0.1:1"), "any"),
    ):
        pass
