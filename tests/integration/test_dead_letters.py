"""Dead letters on a real broker: what is shown, and that each is sent again at most once."""

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer

from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.kafka_clients import python_client_options
from stream_app.cli.inspect import dead_letters
from stream_app.cli.options import settings_as_flags
from stream_app.core.records import ClickSource, DeadLetter
from stream_app.settings import Settings
from stream_app.tools.dead_letters import newest_letters, requeue


def letter(
    offset: int, error: str, *, value: bytes | None = b"{", partition: int = 1
) -> DeadLetter:
    return DeadLetter(
        source=ClickSource("clicks", partition, offset),
        timestamp_ms=1_700_000_000_000,
        key=b"visitor",
        value=value,
        headers=(("trace", b"abc"),),
        error=error,
        message="what is wrong",
    )


@pytest.fixture
def settings(kafka, topics) -> Settings:
    return Settings(kafka=kafka.settings, topics=topics)


@pytest.fixture
def bury(settings):
    """Write letters as the worker writes them."""
    producer = KafkaProducer(**python_client_options(settings.kafka))

    def write(*letters: DeadLetter) -> None:
        for dead in letters:
            producer.send(
                settings.topics.dead_letters,
                key=dead.key,
                value=dead.value,
                headers=dead.all_headers(),
                partition=dead.source.partition,
            )
        producer.flush()

    yield write
    producer.close()


def clicks(settings: Settings) -> list:
    with CompactedTopic(settings.kafka, settings.topics.clicks, committed_only=True) as reader:
        return [record for records in reader.read_to_end() for record in records]


def test_the_newest_letters_are_listed_oldest_first_and_by_class(settings, bury):
    bury(*(letter(n, "MalformedJson") for n in range(5)), letter(5, "BadEventTime"))
    assert [found.source for found in newest_letters(settings, limit=3)] == ["1/3", "1/4", "1/5"]
    by_class = newest_letters(settings, limit=2, error="MalformedJson")
    assert [found.source for found in by_class] == ["1/3", "1/4"]
    assert by_class[0].message == "what is wrong"
    assert newest_letters(settings, limit=3, error="NotUtf8") == []


def test_requeue_sends_the_original_click_and_only_once(settings, bury):
    bury(letter(0, "MalformedJson", value=b"one"), letter(1, "BadEventTime", value=None))
    assert requeue(settings).sent == {"MalformedJson": 1, "BadEventTime": 1}
    sent = clicks(settings)
    assert [(r.partition, r.key, r.value, list(r.headers)) for r in sent] == [
        (1, b"visitor", b"one", [("trace", b"abc")]),
        (1, b"visitor", None, [("trace", b"abc")]),
    ]
    again = requeue(settings)
    assert (again.sent, again.sent_before) == ({}, 2)
    assert len(clicks(settings)) == 2


def test_one_class_can_be_sent_again_and_the_others_later(settings, bury):
    bury(*(letter(n, "AB"[n % 2]) for n in range(10)))
    assert requeue(settings, error="B").sent == {"B": 5}
    bury(letter(10, "B"))
    assert requeue(settings).sent == {"A": 5, "B": 1}
    assert len(clicks(settings)) == 11


def test_more_letters_than_fit_one_transaction_all_go(settings, bury, monkeypatch):
    monkeypatch.setattr("stream_app.tools.dead_letters.LETTERS_AT_ONCE", 4)
    bury(*(letter(n, "A", partition=n % 4) for n in range(10)))
    assert requeue(settings).sent == {"A": 10}
    assert len(clicks(settings)) == 10


def test_a_requeue_that_dies_in_the_middle_is_continued_without_sending_twice(
    settings, bury, monkeypatch
):
    monkeypatch.setattr("stream_app.tools.dead_letters.LETTERS_AT_ONCE", 4)
    bury(*(letter(n, "A", value=b"%d" % n) for n in range(10)))
    commits = []
    commit = KafkaProducer.commit_transaction

    def commit_once_then_die(producer):
        if commits:
            producer.flush()  # the clicks are on the topic, but uncommitted
            raise KeyboardInterrupt
        commits.append(1)
        commit(producer)

    with monkeypatch.context() as patch:
        patch.setattr(KafkaProducer, "commit_transaction", commit_once_then_die)
        with pytest.raises(KeyboardInterrupt):
            requeue(settings)
    assert len(clicks(settings)) == 4
    assert requeue(settings).sent == {"A": 6}
    assert sorted(int(record.value) for record in clicks(settings)) == list(range(10))


def test_a_record_without_our_headers_is_shown_and_can_be_sent(settings):
    producer = KafkaProducer(**python_client_options(settings.kafka))
    producer.send(settings.topics.dead_letters, value=b"foreign").get(timeout=10)
    producer.close()
    assert newest_letters(settings, limit=1)[0].error == "Unknown"
    assert requeue(settings).sent == {"Unknown": 1}


def test_the_commands_print_what_a_terminal_can_bear(settings, bury):
    flags = settings_as_flags(settings)
    runner = CliRunner()
    empty = runner.invoke(dead_letters, ["list", *flags])
    assert "no dead letters on" in empty.output
    bury(letter(3, "MalformedJson", value=b"\x1b[31m[bold]\xff\x00" + b"x" * 900_000))
    listed = runner.invoke(dead_letters, ["list", *flags], catch_exceptions=False)
    assert "MalformedJson" in listed.output
    assert r"\x1b[31m[bold]\xff\x00xxx" in listed.output
    assert "\x1b" not in listed.output
    sent = runner.invoke(dead_letters, ["requeue", *flags], catch_exceptions=False)
    assert "MalformedJson: 1 sent again" in sent.output
    again = runner.invoke(dead_letters, ["requeue", *flags], catch_exceptions=False)
    assert "0 dead letters sent" in again.output
    assert "(1 were sent before)" in again.output
