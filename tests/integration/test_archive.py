"""`nextclick archive` on a real broker: each click in the files once, whatever happens."""

import random
import threading
import time
from pathlib import Path
from typing import Self

import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer

from stream_app.adapters import kafka_topics
from stream_app.core.clicks import decode_click, encode_click
from stream_app.core.records import Click, ItemId
from stream_app.files.click_log import DAY_MS, list_files, read_window
from stream_app.settings import ArchiveSettings, KafkaSettings, Settings, TopicSettings
from tests.integration.conftest import TestKafka, TopicFactory
from tests.integration.processes import NextclickProcess, get, wait_until

NOW_MS = time.time_ns() // 1_000_000


def click(number: int, rng: random.Random) -> bytes:
    """Event times lie in four days, so that a flush touches several files."""
    return encode_click(
        Click(
            session_id=f"s{number % 97}",
            item_id=ItemId(f"i{number}"),
            event_time_ms=NOW_MS - rng.randrange(4) * DAY_MS,
        )
    )


def settings_for(
    kafka: TestKafka, topics: TopicSettings, root: Path, *, group: str = "g", **archive: float
) -> Settings:
    return Settings(
        kafka=KafkaSettings(
            bootstrap_servers=kafka.bootstrap_servers, group_id=f"{topics.clicks}-{group}"
        ),
        topics=topics,
        click_log=str(root),
        archive=ArchiveSettings(**{"flush_seconds": 0.2, "flush_clicks": 400, **archive}),  # type: ignore[arg-type]
    )


def offsets_in_files(root: Path) -> list[tuple[int, int]]:
    """(partition, offset) of every row of every file, straight from Parquet."""
    found: list[tuple[int, int]] = []
    for path in sorted(root.glob("day=*/*.parquet")):
        table = pq.ParquetFile(path).read(["partition", "offset"])
        found += zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True)
    return found


class SteadyProducer:
    """Sends clicks on a thread of its own until told how many are enough."""

    def __init__(self, kafka: TestKafka, topic: str, *, per_second: float) -> None:
        self._producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, linger_ms=5)
        self._topic, self._per_second = topic, per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> set[tuple[int, int]]:
        """Stop; (partition, offset) of all clicks sent."""
        self._stop.set()
        self._thread.join()
        self._producer.close()
        return set(self.sent)

    def _run(self) -> None:
        rng = random.Random(1)
        number = 0
        while not self._stop.wait(0.05):
            acks = []
            for _ in range(int(self._per_second * 0.05)):
                key = f"s{number % 97}".encode()
                acks.append(self._producer.send(self._topic, key=key, value=click(number, rng)))
                number += 1
            for ack in acks:
                answer = ack.get(10)
                self.sent.append((answer.partition, answer.offset))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "click-log"


def taken_by(archive: NextclickProcess) -> set[int]:
    """Partitions it has taken; it may take them more than once while its group forms."""
    return {event["partition"] for event in archive.events("partition_taken")}


def test_kills_at_any_moment_leave_no_click_missing_or_twice(
    kafka: TestKafka, topics: TopicSettings, root: Path, tmp_path: Path
) -> None:
    """Eight kill -9.  Each restart is a new group without committed offsets: the files alone decide."""
    rng = random.Random(2)
    with SteadyProducer(kafka, topics.clicks, per_second=600) as producer:
        for kill in range(8):
            settings = settings_for(kafka, topics, root, group=f"g{kill}")
            with NextclickProcess("archive", settings, tmp_path) as archive:
                wait_until("partitions", lambda a=archive: len(taken_by(a)) == 4)
                time.sleep(rng.uniform(0.0, 0.7))
                archive.kill()
        sent = producer.finish()
    settings = settings_for(kafka, topics, root, group="last")
    with NextclickProcess("archive", settings, tmp_path) as archive:
        wait_until("everything", lambda: set(offsets_in_files(root)) >= sent)
        assert archive.terminate() == 0
    found = offsets_in_files(root)
    assert len(found) == len(set(found)), "a click is in two files"
    assert set(found) == sent
    assert not list_files(root).incomplete
    rows = sum(len(table) for table in read_window(root))
    assert rows == len(sent) > 1000


def test_two_share_the_partitions_and_one_takes_over_from_the_dead(
    kafka: TestKafka, topics: TopicSettings, root: Path, tmp_path: Path
) -> None:
    """A second one joins under load, the first is killed: still each click once."""
    settings = settings_for(kafka, topics, root)
    with (
        SteadyProducer(kafka, topics.clicks, per_second=400) as producer,
        NextclickProcess("archive", settings, tmp_path) as first,
    ):
        wait_until("all partitions", lambda: len(taken_by(first)) == 4)
        with NextclickProcess("archive", settings, tmp_path) as second:
            wait_until("a share", lambda: len(taken_by(second)) == 2)
            time.sleep(0.5)
            first.kill()
            wait_until("the rest", lambda: len(taken_by(second)) == 4)
            sent = producer.finish()
            wait_until("everything", lambda: set(offsets_in_files(root)) >= sent)
            assert second.terminate() == 0
    found = offsets_in_files(root)
    assert len(found) == len(set(found)), "a click is in two files"
    assert set(found) == sent


def test_what_is_archived_and_what_is_counted(
    kafka: TestKafka, make_topics: TopicFactory, root: Path, tmp_path: Path
) -> None:
    """Bad clicks are kept out and counted; without consent nobody can be told; SIGTERM flushes."""
    topics = make_topics(partitions=1)
    values = [
        b'{"session_id": "a", "item_id": "x", "event_time": %d, "properties": {"title": "X"}}'
        % NOW_MS,
        b"no json",
        b'{"session_id": "b", "item_id": 7, "event_time": %d, "user_id": "u", "consent": false}'
        % NOW_MS,
        None,
        b'{"session_id": "c", "item_id": "y", "event_time": %d, "event_type": "purchase"}' % NOW_MS,
        b'{"session_id": "c", "event_type": "erase", "event_time": %d}' % NOW_MS,
    ]
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    for value in values:
        producer.send(topics.clicks, value=value, key=b"k").get(10)
    producer.close()
    settings = settings_for(kafka, topics, root, flush_seconds=600)
    with NextclickProcess("archive", settings, tmp_path) as archive:
        port = int(archive.wait_for_event("archive_started")["metrics"].split(":")[2].split("/")[0])
        lag = 'nextclick_archive_lag_clicks{partition="0"}'
        wait_until("six clicks", lambda: archive.metrics(port).get(lag) == 6)
        assert get(port, "/readyz")[0] == get(port, "/healthz")[0] == 200
        assert not list_files(root).complete
        assert archive.terminate() == 0
    (file,) = list_files(root).complete
    assert (file.range.first, file.range.last, file.range.parts) == (0, 5, 1)
    (table,) = read_window(root, anonymous=True)
    rows = {row["offset"]: row for row in table.to_pylist()}
    assert set(rows) == {0, 2}, "an erased session or a bad click was read"
    assert rows[0]["properties"] == '{"title": "X"}'
    assert decode_click(values[0] or b"").event_time_ms == rows[0]["event_time_ms"]
    assert (rows[2]["session_id"], rows[2]["user_id"], rows[2]["consent"]) == (None, None, False)
    assert rows[2]["item_id"] == "7"


def test_an_unwritable_click_log_is_refused_before_anything_is_read(
    kafka: TestKafka, topics: TopicSettings, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    settings = settings_for(kafka, topics, blocked / "log")
    with NextclickProcess("archive", settings, tmp_path) as archive:
        assert archive.process.wait(60) == 2
        assert "cannot be written" in archive.log


def test_a_failed_write_ends_the_process_and_loses_nothing(
    kafka: TestKafka, make_topics: TopicFactory, root: Path, tmp_path: Path
) -> None:
    """Exit 70 with the reason, nothing committed; once mended, the next start writes the same clicks."""
    topics = make_topics(partitions=1)
    settings = settings_for(kafka, topics, root)
    with NextclickProcess("archive", settings, tmp_path) as archive:
        archive.wait_for_event("partition_taken")
        incoming = root / ".incoming"
        incoming.rmdir()
        incoming.write_text("in the way")
        producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
        for number in range(10):
            producer.send(topics.clicks, value=click(number, random.Random(0)), key=b"k").get(10)
        producer.close()
        assert archive.process.wait(60) == 70
        assert "cannot be written" in archive.log
    assert offsets_in_files(root) == []
    incoming.unlink()
    with NextclickProcess("archive", settings, tmp_path) as archive:
        wait_until("files", lambda: len(offsets_in_files(root)) == 10)
        assert archive.terminate() == 0


def test_a_log_of_an_earlier_topic_of_that_name_is_refused(
    kafka: TestKafka, make_topics: TopicFactory, root: Path, tmp_path: Path
) -> None:
    """Offsets of a topic that was deleted mean nothing in its successor."""
    topics = make_topics(partitions=1)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    for number in range(20):
        producer.send(topics.clicks, value=click(number, random.Random(0)), key=b"k").get(10)
    producer.close()
    settings = settings_for(kafka, topics, root)
    with NextclickProcess("archive", settings, tmp_path) as archive:
        wait_until("files", lambda: len(offsets_in_files(root)) == 20)
        assert archive.terminate() == 0
    make_topics.delete_all()
    wait_until("deletion", lambda: not kafka_topics.topic_facts(kafka.settings, topics.clicks))
    kafka_topics.create_topics(kafka.settings, topics)
    with NextclickProcess("archive", settings, tmp_path) as archive:
        assert archive.process.wait(60) == 2
        assert "earlier topic" in archive.log
