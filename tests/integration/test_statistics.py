"""The aggregator on a real broker: what it publishes is the pure fold of the clicks, bit for bit,
whatever happens to the process; and what a worker sees of it."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from stream_app.adapters import kafka_topics
from stream_app.adapters.instruments import StatisticsInstruments
from stream_app.adapters.kafka_clients import python_client_options
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.statistics_reader import StatisticsReader, read_versions
from stream_app.core.errors import BadRecordError
from stream_app.core.statistics import SessionClick, countable
from stream_app.core.statistics_counts import StatisticsCounts
from stream_app.core.statistics_records import VersionMarker
from stream_app.core.statistics_table import NOTHING_KNOWN, LocalStatistics, StatisticsTable
from stream_app.core.statistics_view import StatisticsView
from stream_app.services.aggregator import Aggregator
from stream_app.services.published_statistics import Published, read_published
from stream_app.settings import (
    KafkaSettings,
    Settings,
    StatisticsSettings,
    TopicSettings,
    serving_rules,
    statistics_recipe,
)
from stream_app.tools.stream_check import StatisticsHistory
from tests.integration.processes import NextclickProcess, wait_until

T0 = 1_396_000_000_000


def settings_for(kafka: KafkaSettings, topics: TopicSettings, **statistics: float) -> Settings:
    return Settings(
        kafka=kafka,
        topics=topics,
        statistics=StatisticsSettings(
            **{
                "publish_seconds": 0.1,
                "items_max": 100,
                "neighbours_max": 5,
                "sessions_max": 120,
                **statistics,
            }
        ),
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
            self._time_ms += draw.randrange(15_000)
            late = draw.choice([0, 0, 0, draw.randrange(7_200_000)])
            item = f"item-{int(draw.paretovariate(0.4)) % 150}"
            more = draw.choice([*[""] * 8, ',"consent":false', ',"event_type":"purchase"'])
            session = f"s{draw.randrange(50)}"
            event_time = self._time_ms - late
            value = (
                f'{{"session_id":"{session}","item_id":"{item}","event_time":{event_time}{more}}}'
            )
            if draw.random() < 0.02:
                value = "{broken"
            self._producer.send(self._topics.clicks, value.encode(), key=session.encode())
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


def published(settings: Settings) -> Published:
    return read_published(settings.kafka, settings.topics.statistics)


def last_marker(settings: Settings) -> VersionMarker:
    marker = published(settings).marker
    assert marker is not None
    return marker


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


def versions_offline(settings: Settings) -> Iterator[tuple[VersionMarker, list[SessionClick]]]:
    """The clicks themselves, in the versions that the markers name."""
    records = click_records(settings)
    before = dict.fromkeys(records, 0)
    for marker in read_versions(settings.kafka, settings.topics.statistics):
        clicks = []
        for partition in sorted(records):
            upto = marker.offsets[str(partition)]
            for record in records[partition]:
                if before[partition] <= record.offset < upto:
                    try:
                        click = countable(
                            record,
                            event_types=frozenset(settings.serving.event_types),
                            ahead_ms_max=settings.serving.event_time_ahead_hours_max * 3_600_000,
                        )
                    except BadRecordError:
                        continue
                    if click is not None:
                        clicks.append(click)
            before[partition] = upto
        yield marker, clicks


def folded_offline(settings: Settings) -> StatisticsCounts:
    """Through the pure core, in one go."""
    counts = StatisticsCounts(statistics_recipe(settings), partitions=settings.topics.partitions)
    for marker, clicks in versions_offline(settings):
        counts.fold(clicks, version=marker.version)
    return counts


def view_offline(settings: Settings) -> StatisticsView:
    local = LocalStatistics(statistics_recipe(settings), partitions=settings.topics.partitions)
    view = NOTHING_KNOWN
    for marker, clicks in versions_offline(settings):
        view = local.fold(clicks, version=marker.version)
    return view


def wait_until_counted(settings: Settings, count: int) -> None:
    def all_counted() -> bool:
        versions = read_versions(settings.kafka, settings.topics.statistics)
        return bool(versions) and sum(versions[-1].offsets.values()) == count

    wait_until(f"{count} clicks to be counted", all_counted)


def assert_equal_to_the_bit(found: Published, counts: StatisticsCounts) -> None:
    marker = found.marker
    assert marker is not None
    assert found.records == counts.records()
    assert list(marker.totals) == counts.totals.values
    assert marker.watermark == counts.totals.time_ms
    assert marker.follow_up_total == counts.follow_up_total.values[0]
    assert marker.follow_up_watermark == counts.follow_up_total.time_ms
    assert marker.clicks == counts.clicks
    assert marker.items == len(counts)


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
    found, counts = published(settings), folded_offline(settings)
    assert len(found.records) <= 100
    assert_equal_to_the_bit(found, counts)
    rows = [counts.number_of[item_id] for item_id in found.records]
    assert max(len(counts._rows[number]) for number in rows) == 5 * 12
    assert counts.follow_up_total.values[0] > 1


@pytest.mark.parametrize("stop_after", [1, 4, 9])
def test_an_aggregator_that_starts_anew_has_the_sessions_that_went_on(
    kafka, topics, producer, stop_after
):
    """Without them the first click after a start would follow nothing, and no pair be learned."""
    settings = settings_for(kafka.settings, topics)
    instruments = StatisticsInstruments(CollectorRegistry())

    def publish(aggregator: Aggregator, versions: int) -> None:
        for _ in range(versions):
            producer.send(60)
            wanted = producer.sent
            while sum(aggregator._offsets.values()) < wanted:
                aggregator.turn()
            aggregator.publish()

    with Aggregator(settings, instruments) as first:
        publish(first, stop_after)
        state = first._counts.sessions.state()
    assert any(sessions for _, sessions in state.values())
    told: list[int] = []
    with Aggregator(settings, instruments, progress=lambda: told.append(1)) as second:
        # At a busy shop this takes minutes, and a process without progress is restarted.
        assert len(told) >= 2, "while the records are read, and while the clicks are"
        assert second._counts.sessions.state() == state
        publish(second, 3)
    assert_equal_to_the_bit(published(settings), folded_offline(settings))


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
        view, expected = reader.view(), view_offline(settings)
        top = view.top(20)
        assert [item.rank for item in top] == list(range(1, 21))
        assert top == expected.top(20)
        asked = [[f"item-{n}", f"item-{n + 1}"] for n in range(0, 150, 2)]
        associated = view.associated(asked, 20)
        assert associated == expected.associated(asked, 20)
        assert sum(found is not None for found in associated) > 20

        late_reader = StatisticsReader(kafka.settings, topics.statistics)
        late_reader.start()
        assert late_reader.wait_until_caught_up(20)
        assert late_reader.view().version == view.version
        assert late_reader.view().top(20) == top
        assert late_reader.view().associated(asked, 20) == associated
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
    found = published(settings)
    assert [(key.first, key.last) for key in found.histories] == [(1, 16)]
    versions = read_versions(settings.kafka, settings.topics.statistics)
    assert [marker.version for marker in versions] == list(range(1, 35))
    assert_equal_to_the_bit(found, folded_offline(settings))

    monkeypatch.setattr("stream_app.services.aggregator.MARKERS_KEPT_MS", -1_000_000)
    publish(35)
    assert not published(settings).histories


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
        end = last_marker(settings).offsets["0"]
        admin.delete_records({gone: end + 10})
    with NextclickProcess("statistics", settings, tmp_path) as process:
        lost = process.wait_for_event("clicks_lost")
        assert (lost["partition"], lost["clicks"]) == (0, 10)
        wait_until_counted(settings, 300)
        assert process.terminate() == 0


def test_clicks_of_sessions_that_retention_deleted_are_told_of_and_counting_goes_on(
    kafka, topics, producer, tmp_path
):
    settings = settings_for(kafka.settings, topics)
    producer.send(100)
    with NextclickProcess("statistics", settings, tmp_path) as process:
        wait_until_counted(settings, 100)
        process.terminate()
    marker = last_marker(settings)
    number = next(n for n, (offset, _) in marker.sessions.items() if offset < marker.offsets[n])
    gone = TopicPartition(topics.clicks, int(number))
    with kafka_topics.admin_client(kafka.settings) as admin:
        admin.delete_records({gone: marker.offsets[number]})
    with NextclickProcess("statistics", settings, tmp_path) as process:
        forgotten = process.wait_for_event("sessions_forgotten")
        assert (forgotten["partition"], forgotten["next_offset"]) == (
            int(number),
            marker.offsets[number],
        )
        producer.send(50)
        wait_until_counted(settings, 150)
        assert process.terminate() == 0


def publish_format_1(settings: Settings) -> None:
    """A version as the release before wrote it."""
    options = python_client_options(settings.kafka)
    producer = KafkaProducer(**options, transactional_id=f"{settings.topics.statistics}-aggregator")
    producer.init_transactions()
    producer.begin_transaction()
    topic_id = kafka_topics.ensure_topics(settings.kafka, settings.topics)[
        settings.topics.clicks
    ].topic_id
    marker = {
        "version": 41,
        "topic": settings.topics.clicks,
        "topic_id": topic_id.hex(),
        "offsets": {"0": 0},
        "watermark": T0,
        "half_life_minutes": 60.0,
        "items_max": 100,
        "total_count": 3.25,
        "clicks": 4,
        "items": 2,
        "published_at": int(time.time() * 1000),
    }
    item = b'{"version":41,"count":3.25,"time":1396000000000}'
    for key, value in (
        (b"item/item-1", item),
        (b"item/long gone", item),
        (b"version/41", msgspec.json.encode(marker)),
    ):
        producer.send(settings.topics.statistics, key=key, value=value, partition=0)
    producer.commit_transaction()
    producer.close()


def test_statistics_of_the_release_before_are_replaced_by_counting_anew(
    kafka, topics, producer, tmp_path
):
    """All clicks that are still on the topic are counted again; readers never see a mixture."""
    settings = settings_for(kafka.settings, topics)
    publish_format_1(settings)
    reader = StatisticsReader(kafka.settings, topics.statistics)
    reader.start()
    try:
        assert reader.wait_until_caught_up(20)
        assert reader.view().version is None
        producer.send(300)
        with NextclickProcess("statistics", settings, tmp_path) as process:
            begun = process.wait_for_event("statistics_begin_anew")
            assert (begun["version"], begun["items_dropped"]) == (41, 2)
            wait_until_counted(settings, 300)
            assert process.terminate() == 0
        marker = last_marker(settings)
        assert (marker.began, marker.version > 41) == (42, True)
        found = published(settings)
        assert "long gone" not in found.records
        assert not found.of_format_1
        wait_until("the newest version", lambda: reader.view().version == marker.version)
        assert reader.view().number("long gone") is None
        assert len(reader.view()) == marker.items
    finally:
        reader.stop()


def test_other_settings_begin_anew_and_readers_follow(kafka, topics, producer, monkeypatch):
    """Also where the records of before are dropped over several versions, with a restart in between."""
    monkeypatch.setattr("stream_app.services.aggregator.STALE_PER_VERSION", 3)
    instruments = StatisticsInstruments(CollectorRegistry())
    before = settings_for(kafka.settings, topics)
    after = settings_for(kafka.settings, topics, half_lives_minutes=(5.0,))
    reader = StatisticsReader(kafka.settings, topics.statistics)
    reader.start()
    try:
        for settings, clicks in ((before, 300), (after, 30)):
            producer.send(clicks)
            with Aggregator(settings, instruments) as aggregator:
                while sum(aggregator._offsets.values()) < producer.sent:
                    aggregator.turn()
                aggregator.publish()
                newest = aggregator.version
            wait_until(
                "the newest version", lambda version=newest: reader.view().version == version
            )
            if settings is before:
                ends = last_marker(settings).offsets
                with kafka_topics.admin_client(kafka.settings) as admin:
                    admin.delete_records(
                        {TopicPartition(topics.clicks, int(n)): end for n, end in ends.items()}
                    )
        assert reader.view().recipe == statistics_recipe(after)
        marker = last_marker(after)
        assert 1 < marker.began <= marker.version
        assert marker.clicks < 30
        table = StatisticsTable(statistics_recipe(after), began=marker.began)
        table.apply(published(after).records, reader.view().totals)
        assert table.refused == 0
        assert len(table) == marker.items
        assert len(published(after).records) > marker.items
        for _ in range(4):
            producer.send(20)
            with Aggregator(after, instruments) as aggregator:
                left = len(aggregator._stale)
                for _ in range(4):
                    producer.send(5)
                    while sum(aggregator._offsets.values()) < producer.sent:
                        aggregator.turn()
                    aggregator.publish()
                assert left == 0 or len(aggregator._stale) < left
        found = published(after)
        assert len(found.records) == last_marker(after).items
        versions = read_versions(kafka.settings, topics.statistics)
        history = StatisticsHistory(versions, click_records(after), serving_rules(after))
        *_, again = history.views()
        wait_until("the newest version", lambda: reader.view().version == again.version)
        assert reader.view().top(50) == again.top(50)
        asked = [[f"item-{n}"] for n in range(150)]
        assert reader.view().associated(asked, 20) == again.associated(asked, 20)
    finally:
        reader.stop()


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
        assert metrics["nextclick_statistics_sessions"] > 0
        written = metrics["nextclick_statistics_bytes_total"]
        records = metrics["nextclick_statistics_records_total"]
        assert 92 * records * 0.5 < written <= (92 + 5 * 12) * records
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
