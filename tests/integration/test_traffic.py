"""Replay and simulation against a real broker: what arrives in the click topic."""

import json
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream_app.cli.options import settings_as_flags
from stream_app.core.clicks import decode_click, encode_click
from stream_app.core.errors import BadRecordError, ClickFileError
from stream_app.core.records import Click
from stream_app.settings import Settings, TopicSettings
from stream_app.shop.shop import Shop
from stream_app.tools.replay import ReplayPlan, ReplayReport, replay
from stream_app.tools.simulate import SimulationPlan, simulate
from tests.integration.conftest import TestKafka
from tests.integration.processes import NextclickProcess, wait_until

T = 1_700_000_000_000


class Quiet:
    def begin(self, total: int | None) -> None:
        self.total = total

    def update(self, report: ReplayReport) -> None:
        self.last = report.clicks


def records_in(kafka: TestKafka, topic: str) -> list[Any]:
    """All records of the topic, partition by partition."""
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    try:
        places = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        ends = consumer.end_offsets(places)
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        found: list[Any] = []
        deadline = time.monotonic() + 30
        while len(found) < sum(ends.values()) and time.monotonic() < deadline:
            for batch in consumer.poll(timeout_ms=500).values():
                found += batch
        return found
    finally:
        consumer.close()


@pytest.fixture
def settings(kafka: TestKafka, topics: TopicSettings) -> Settings:
    return Settings(kafka=kafka.settings, topics=topics)


def shop_clicks(seconds: float) -> list[Click]:
    return list(Shop(seed=4, start_ms=T).clicks_until(T + seconds * 1000))


def write_clicks(path: Path, clicks: list[Click]) -> Path:
    path.write_bytes(b"".join(encode_click(click) + b"\n" for click in clicks))
    return path


def test_a_file_arrives_whole_in_order_and_where_any_producer_would_put_it(
    kafka: TestKafka, settings: Settings, tmp_path: Path
) -> None:
    """Byte for byte the clicks of the file; sessions in order; kafka-python's partitioner agrees."""
    clicks = shop_clicks(30)
    path = write_clicks(tmp_path / "c.jsonl", clicks)
    report = replay(settings, ReplayPlan(path, speed=None), Quiet())
    assert report.finished
    assert report.clicks == len(clicks)
    assert (report.first_event_time_ms, report.last_event_time_ms) == (
        clicks[0].event_time_ms,
        clicks[-1].event_time_ms,
    )
    records = records_in(kafka, settings.topics.clicks)
    sent, arrived = defaultdict(list), defaultdict(list)
    for click in clicks:
        sent[click.session_id].append(click)
    for record in records:
        click = decode_click(record.value)
        assert record.key == click.session_id.encode()
        assert abs(record.timestamp / 1000 - time.time()) < 600
        arrived[click.session_id].append(click)
    assert arrived == sent
    partition_of = {record.key: record.partition for record in records}
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    for key in list(partition_of)[:30]:
        answer = producer.send(settings.topics.clicks, key=key, value=b"{}").get(10)
        assert answer.partition == partition_of[key]
    producer.close()


def test_a_set_speed_is_kept(settings: Settings, tmp_path: Path) -> None:
    """Ten seconds of the log at five times its speed take two at least."""
    path = write_clicks(tmp_path / "c.jsonl", shop_clicks(10))
    report = replay(settings, ReplayPlan(path, speed=5.0), Quiet())
    assert report.seconds > 1.9
    assert report.finished


def test_a_span_a_limit_and_a_shift(kafka: TestKafka, settings: Settings, tmp_path: Path) -> None:
    clicks = shop_clicks(20)
    path = write_clicks(tmp_path / "c.jsonl", clicks)
    plan = ReplayPlan(
        path, speed=None, start_ms=T + 5_000, end_ms=T + 10_000, limit=50, shift_to_now=True
    )
    before_ms = time.time() * 1000
    report = replay(settings, plan, Quiet())
    expected = [c for c in clicks if T + 5_000 <= c.event_time_ms < T + 10_000][:50]
    assert report.clicks == 50
    records = records_in(kafka, settings.topics.clicks)
    arrived = sorted((decode_click(r.value) for r in records), key=lambda c: c.event_time_ms)
    assert arrived[0].event_time_ms == pytest.approx(before_ms, abs=60_000)
    gaps = [b.event_time_ms - a.event_time_ms for a, b in pairwise(arrived)]
    assert gaps == [b.event_time_ms - a.event_time_ms for a, b in pairwise(expected)]


def test_a_bad_file_is_refused_before_any_click_is_sent(
    kafka: TestKafka, settings: Settings, tmp_path: Path
) -> None:
    path = write_clicks(tmp_path / "c.jsonl", shop_clicks(5))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ClickFileError, match="ends in the middle of this line"):
        replay(settings, ReplayPlan(path, speed=None), Quiet())
    assert records_in(kafka, settings.topics.clicks) == []


def test_a_stopped_replay_says_how_far_it_came(
    kafka: TestKafka, settings: Settings, tmp_path: Path
) -> None:
    """SIGTERM (or Ctrl-C) at recorded speed: exit 0, and the figure is what the topic holds."""
    path = write_clicks(tmp_path / "c.jsonl", shop_clicks(60))
    report = tmp_path / "r.json"
    more = (str(path), "--report", str(report))
    with NextclickProcess("replay", settings, tmp_path, *more) as process:
        wait_until("some clicks", lambda: len(records_in(kafka, settings.topics.clicks)) > 50)
        assert process.terminate() == 0
    facts = json.loads(report.read_text())
    assert facts["finished"] is False
    assert facts["clicks"] == len(records_in(kafka, settings.topics.clicks))
    assert 50 < facts["clicks"] < 4000


def test_the_simulator_sends_in_real_time_and_accounts_for_every_click(
    kafka: TestKafka, settings: Settings, tmp_path: Path
) -> None:
    report_file = tmp_path / "r.json"
    plan = SimulationPlan(clicks_per_second=300, seconds=4, bad_share=0.02, report=report_file)
    said: list[str] = []
    report = simulate(settings, plan, said.append)
    records = records_in(kafka, settings.topics.clicks)
    assert len(records) == report.clicks
    assert json.loads(report_file.read_text())["clicks"] == report.clicks
    good = bad = 0
    for record in records:
        try:
            click = decode_click(record.value, kafka_timestamp_ms=record.timestamp)
        except BadRecordError:
            bad += 1
            continue
        good += 1
        # Event time is now, up to stalls of this machine.
        assert abs(record.timestamp - click.event_time_ms) < 60_000
    assert bad == report.bad_clicks > 0
    assert 900 < good < 1600
    assert "best possible hit rate@20" in said[-1]


def test_topics_are_made_where_they_are_missing(
    kafka: TestKafka, make_topics: Any, tmp_path: Path
) -> None:
    settings = Settings(kafka=kafka.settings, topics=make_topics.name(partitions=3))
    command = [sys.executable, "-m", "stream_app", "simulate", "--seconds", "1"]
    ended = subprocess.run(
        [*command, *settings_as_flags(settings)], cwd=tmp_path, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert {r.partition for r in records_in(kafka, settings.topics.clicks)} == {0, 1, 2}
