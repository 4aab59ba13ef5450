"""The aggregator on a real broker: what it publishes is the pure fold of the clicks, bit for bit,
whatever happens to the process; and what a worker sees of it."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from stream_app.adapters import kafka_topics
from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.instruments import StatisticsInstruments
from stream_app.adapters.kafka_clients import python_client_options
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.statistics_reader import StatisticsReader, read_versions
from stream_app.core.errors import BadRecordError
from stream_app.core.statistics import DecayedCounts, LocalPopularity, countable
from stream_app.core.statistics_records import StatisticsFold
from stream_app.services.aggregator import Aggregator
from stream_app.settings import (
    KafkaSettings,
    Settings,
    StatisticsSettings,
    TopicSettings,
)
from tests.integration.processes import NextclickProcess, wait_until

T0 = 1_396_000_000_000


def settings_for(kafka: KafkaSettings, topics: TopicSettings, **statistics: float) -> Settings:
    return Settings(
        kafka=kafka,
        topics=topics,
        statistics=StatisticsSettings(**{"publish_seconds": 0.1, "items_max": 100, **statistics}),
    )


class Producer:
    """Clicks of a shop of 150 items, more than are counted, with a few that are none."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSettings) -> None:
        self._topics = topics
        self._producer = KafkaProducer(**python_client_options(kafka), linger_ms=5)
        self._random = random.Random(7)
        self._time_ms = T0
        self.sent = 0

    def send(self, count: int) -> None:
        draw = self._random
        for _ in range(count):
            self._time_ms += draw.randrange(60_000)
            late = draw.choice([0, 0, 0, draw.randrange(7_200_000)])
            item = f"item-{int(draw.paretovariate(0.4)) % 150}"
            more = draw.choice(["", "", ',"consent":false', ',"event_type":"purchase"'])
            event_time = self._time_ms - late
            value = f'{{"session_id":"s","item_id":"{item}","event_time":{event_time}{more}}}'
            if draw.random() < 0.02:
                value = "{broken"
            self._producer.send(
                self._topics.clicks, value.encode(), key=f"s{draw.randrange(50)}".encode()
            )
        self._producer.flush()
        self.sent += count

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Clicks come in all the time while the block runs."""
        stop = threading.Event()

        def send() -> None:
            while not stop.is_set():
                self.send(100)
                time.sleep(0.02)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        self._producer.close()


@pytest.fixture
def producer(kafka, topics):
    producer = Producer(kafka.settings, topics)
    yield producer
    producer.close()


def published(settings: Settings) -> StatisticsFold:
    fold = StatisticsFold()
    with CompactedTopic(settings.kafka, settings.topics.statistics, committed_only=True) as topic:
        for records in topic.read_to_end():
            for record in records:
                fold.take(record.key, record.value)
    return fold


def click_records(settings: Settings) -> dict[int, list]:
    consumer = KafkaConsumer(**python_client_options(settings.kafka), group_id=None)
    partitions = [
        TopicPartition(settings.topics.clicks, n) for n in range(settings.topics.partitions)
    ]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    records: dict[int, list] = {tp.partition: [] for tp in partitions}
    while any(consumer.position(tp) < ends[tp] for tp in partitions):
        for tp, found in consumer.poll(timeout_ms=500).items():
            records[tp.partition] += found
    consumer.close()
    return records


def folded_offline(settings: Settings) -> DecayedCounts:
    """The clicks themselves, in the versions that the markers name, through the pure core."""
    records = click_records(settings)
    popularity = LocalPopularity(
        settings.statistics.half_life_minutes * 60_000, settings.statistics.items_max
    )
    before = dict.fromkeys(records, 0)
    for marker in read_versions(settings.kafka, settings.topics.statistics):
        clicks = []
        for partition in sorted(records):
            upto = marker.offsets[str(partition)]
            for record in records[partition]:
                if before[partition] <= record.offset < upto:
                    try:
                        click = countable(
                            record.value,
                            kafka_timestamp_ms=record.timestamp,
                            event_types=frozenset(settings.serving.event_types),
                            ahead_ms_max=settings.serving.event_time_ahead_hours_max * 3_600_000,
                        )
                    except BadRecordError:
                        continue
                    if click is not None:
                        clicks.append(click)
            before[partition] = upto
        popularity.fold(clicks, version=marker.version)
    return popularity.counts


def wait_until_counted(settings: Settings, count: int) -> None:
    def all_counted() -> bool:
        versions = read_versions(settings.kafka, settings.topics.statistics)
        return bool(versions) and sum(versions[-1].offsets.values()) == count

    wait_until(f"{count} clicks to be counted", all_counted)


def assert_equal_to_the_bit(fold: StatisticsFold, counts: DecayedCounts) -> None:
    assert fold.marker is not None
    assert fold.items == counts.items
    assert fold.marker.total == counts.total
    assert fold.marker.clicks == counts.clicks


def test_killed_again_and_again_it_publishes_what_an_offline_fold_gives(
    kafka, topics, producer, tmp_path
):
    settings = settings_for(kafka.settings, topics)
    moments = random.Random(3)
    for _ in range(4):
        with NextclickProcess("statistics", settings, tmp_path) as process:
            process.wait_for_event("statistics_started")
            with producer.sending():
                time.sleep(moments.uniform(0.1, 0.6))
                process.kill()
    with NextclickProcess("statistics", settings, tmp_path) as process:
        process.wait_for_event("statistics_started")
        wait_until_counted(settings, producer.sent)
        assert process.terminate() == 0
    fold = published(settings)
    assert len(fold.items) <= 100
    assert_equal_to_the_bit(fold, folded_offline(settings))


def test_a_worker_sees_the_published_popularity_by_whole_versions(
    kafka, topics, producer, tmp_path
):
    settings = settings_for(kafka.settings, topics)
    reader = StatisticsReader(kafka.settings, topics.statistics)
    reader.start()
    try:
        assert reader.wait_until_caught_up(20)
        assert reader.view().version is None
        with NextclickProcess("statistics", settings, tmp_path):
            producer.send(1000)
            wait_until_counted(settings, 1000)
            versions = read_versions(kafka.settings, topics.statistics)
            wait_until("the newest version", lambda: reader.view().version == versions[-1].version)
            assert reader.staleness_seconds < 30
        counts = folded_offline(settings)
        expected = LocalPopularity(counts.half_life_ms, 100)
        expected.counts = counts
        view = reader.view()
        top = view.top(20)
        assert [item.rank for item in top] == list(range(1, 21))
        expected_ids = sorted(
            counts.items,
            key=lambda item_id: (-counts.items[item_id].key(counts.half_life_ms), item_id),
        )
        assert [item.item_id for item in top] == expected_ids[:20]

        late_reader = StatisticsReader(kafka.settings, topics.statistics)
        late_reader.start()
        assert late_reader.wait_until_caught_up(20)
        assert late_reader.view().version == view.version
        assert late_reader.view().top(20) == top
        late_reader.stop()
    finally:
        reader.stop()


def test_markers_are_gathered_in_histories_and_old_histories_go(
    kafka, topics, producer, monkeypatch
):
    monkeypatch.setattr("stream_app.services.aggregator.HISTORY_VERSIONS_MAX", 16)
    settings = settings_for(kafka.settings, topics)
    instruments = StatisticsInstruments(CollectorRegistry())

    def publish(versions: int) -> None:
        with Aggregator(settings, instruments) as aggregator:
            while aggregator.version < versions:
                producer.send(10)
                aggregator.turn()
                aggregator.publish()

    publish(34)
    fold = published(settings)
    assert [(key.first, key.last) for key in fold.histories] == [(1, 16)]
    assert [marker.version for marker in fold.versions()] == list(range(1, 35))
    assert_equal_to_the_bit(fold, folded_offline(settings))

    monkeypatch.setattr("stream_app.services.aggregator.MARKERS_KEPT_MS", -1_000_000)
    publish(35)
    assert published(settings).histories == {}


def test_a_second_aggregator_ends_the_first_with_status_70(kafka, topics, producer, tmp_path):
    settings = settings_for(kafka.settings, topics)
    with NextclickProcess("statistics", settings, tmp_path) as first:
        first.wait_for_event("statistics_started")
        with NextclickProcess("statistics", settings, tmp_path) as second:
            second.wait_for_event("statistics_started")
            producer.send(500)
            assert first.process.wait(timeout=30) == 70
            assert "run exactly one" in first.log
            wait_until_counted(settings, 500)
            assert second.terminate() == 0
    assert_equal_to_the_bit(published(settings), folded_offline(settings))


def test_a_click_topic_created_anew_halts_it_with_what_to_do(kafka, topics, producer, tmp_path):
    settings = settings_for(kafka.settings, topics)
    producer.send(100)
    with NextclickProcess("statistics", settings, tmp_path) as process:
        wait_until_counted(settings, 100)
        process.terminate()
    with kafka_topics.admin_client(kafka.settings) as admin:
        admin.delete_topics([topics.clicks])
    kafka_topics.create_topics(kafka.settings, topics)
    with NextclickProcess("statistics", settings, tmp_path) as process:
        assert process.process.wait(timeout=30) == 2
        assert f"delete topic {topics.statistics} as well" in process.log


def test_clicks_that_retention_deleted_before_are_reported_and_counting_goes_on(
    kafka, topics, producer, tmp_path
):
    settings = settings_for(kafka.settings, topics)
    producer.send(100)
    with NextclickProcess("statistics", settings, tmp_path) as process:
        wait_until_counted(settings, 100)
        process.terminate()
    producer.send(200)
    gone = TopicPartition(topics.clicks, 0)
    with kafka_topics.admin_client(kafka.settings) as admin:
        end = int(published(settings).marker.offsets["0"])
        admin.delete_records({gone: end + 10})
    with NextclickProcess("statistics", settings, tmp_path) as process:
        lost = process.wait_for_event("clicks_lost")
        assert (lost["partition"], lost["clicks"]) == (0, 10)
        wait_until_counted(settings, 300)
        assert process.terminate() == 0


def test_its_metrics_and_readiness_are_served(kafka, topics, producer, tmp_path):
    settings = settings_for(kafka.settings, topics)
    with NextclickProcess("statistics", settings, tmp_path) as process:
        port = int(process.wait_for_event("metrics_served")["metrics"].split(":")[2].split("/")[0])
        producer.send(300)
        wait_until(
            "all clicks counted",
            lambda: (
                process.metrics(port).get("nextclick_statistics_lag_clicks") == 0
                and process.metrics(port).get("nextclick_statistics_version", 0) > 0
            ),
        )
        metrics = process.metrics(port)
        outcomes = ("counted", "ignored_event_type", "unusable")
        counts = [
            metrics[f'nextclick_statistics_clicks_total{{outcome="{outcome}"}}']
            for outcome in outcomes
        ]
        assert sum(counts) == 300
        assert min(counts) > 0
        assert process.terminate() == 0


def test_without_a_broker_it_ends_with_status_69(tmp_path):
    settings = Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    with NextclickProcess("statistics", settings, tmp_path) as process:
        assert process.process.wait(timeout=30) == 69
        assert "no broker answers at 127.0.0.1:1: start one with" in process.log


def test_a_broker_that_is_killed_and_comes_back_costs_no_click(tmp_path: Path):
    topics = TopicSettings(partitions=2)
    with LocalKafka(tmp_path / "kafka") as broker:
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        settings = settings_for(kafka, topics)
        kafka_topics.create_topics(kafka, topics)
        producer = Producer(kafka, topics)
        with NextclickProcess("statistics", settings, tmp_path) as process:
            producer.send(500)
            wait_until_counted(settings, 500)
            broker.kill()
            time.sleep(1)
            broker.start()
            producer.send(500)
            wait_until_counted(settings, 1000)
            assert process.terminate() == 0
        producer.close()
        assert_equal_to_the_bit(published(settings), folded_offline(settings))
