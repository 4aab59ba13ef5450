"""The archive without a broker: clicks as rows of the click log, and a log that cannot be written."""

import errno
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.adapters.instruments import ArchiveInstruments, process_registry
from stream_app.core.clicks import decode_click
from stream_app.core.errors import ConfigurationError, NextclickError, ServiceAwayError
from stream_app.core.records import Click, ItemId
from stream_app.files.click_log import ClickLogWriter
from stream_app.services.archive import Archive, rows_of
from stream_app.settings import Settings


def test_properties_that_are_not_utf_8_do_not_stop_the_archive() -> None:
    """The worker never reads them, so such a click is a good one; here it must become text."""
    value = (
        b'{"session_id": "s", "item_id": "i", "event_time": 1700000000000,'
        b' "properties": {"title": "gr\xe9"}}'
    )
    rows = rows_of("clicks", 0, [(7, 1_700_000_000_000, decode_click(value))])
    assert rows["properties"].to_pylist() == ['{"title": "gr\ufffd"}']


def test_nothing_but_the_item_is_kept_without_consent() -> None:
    click = Click(
        session_id="s",
        item_id=ItemId("i"),
        event_time_ms=1,
        event_id="e",
        user_id="u",
        consent=False,
        properties=msgspec.Raw(b'{"name": "N"}'),
    )
    (row,) = rows_of("clicks", 3, [(7, 2, click)]).to_pylist()
    kept = {name: value for name, value in row.items() if value is not None}
    assert kept == {
        "topic": "clicks",
        "partition": 3,
        "offset": 7,
        "kafka_timestamp_ms": 2,
        "item_id": "i",
        "event_time_ms": 1,
        "event_type": "view_item",
        "consent": False,
    }


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, ServiceAwayError), (errno.EACCES, ConfigurationError)]
)
def test_a_full_disk_is_worth_another_start_and_a_wrong_permission_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[NextclickError]
) -> None:
    def fail(_: ClickLogWriter) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(ClickLogWriter, "check_writable", fail)
    settings = Settings(click_log=str(tmp_path))
    with pytest.raises(expected, match="click_log"):
        Archive(settings, ArchiveInstruments(process_registry()), topic_id=b"")


def test_a_consumer_that_gets_no_share_is_replaced_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python may look for the group's coordinator for ever; another connection finds it."""
    stop = threading.Event()
    made: list[Any] = []

    class FakeConsumer:
        def __init__(self, **_: Any) -> None:
            self.polls, self.closed = 0, False
            made.append(self)
            if len(made) == 5:
                stop.set()

        def partitions_for_topic(self, _: str) -> set[int]:
            return {0}

        def subscribe(self, _: list[str], listener: Any) -> None:
            listener.on_partitions_assigned([])

        def poll(self, timeout_ms: int) -> dict[Any, Any]:
            assert timeout_ms
            self.polls += 1
            clock[0] += 1.0
            return {}

        def close(self, *, autocommit: bool) -> None:
            assert not autocommit
            self.closed = True

    clock = [0.0]
    monkeypatch.setattr("stream_app.services.archive.KafkaConsumer", FakeConsumer)
    monkeypatch.setattr("stream_app.services.archive.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("stream_app.services.archive.IDLE_SECONDS_MAX", 60.0)
    settings = Settings(click_log=str(tmp_path))
    Archive(settings, ArchiveInstruments(process_registry()), topic_id=b"").run(stop)
    assert [consumer.polls for consumer in made] == [20, 40, 60, 60, 0]
    assert all(consumer.closed for consumer in made)
