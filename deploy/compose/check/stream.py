"""The stream as a user of the stack sees it, through the port on this machine: counts, answers, states."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream_app.adapters.kafka_clients import broker_errors, python_client_options
from stream_app.adapters.stream_reader import StreamReader
from stream_app.files.registry import Registry
from stream_app.settings import KafkaSettings, TopicSettings, load_settings, serving_rules
from stream_app.tools.sessions import export_sessions, read_sessions
from stream_app.tools.stream_check import StreamCheck, check_stream

TOPICS = TopicSettings()


@dataclass(frozen=True, slots=True)
class Stream:
    kafka: KafkaSettings

    def topics(self) -> set[str]:
        """Raises `NextclickError` or kafka-python's own where no broker lets us in."""
        with broker_errors(self.kafka):
            consumer = KafkaConsumer(**python_client_options(self.kafka), group_id=None)
            try:
                return set(consumer.topics())
            finally:
                consumer.close()

    def counts(self) -> dict[str, int]:
        """Records ever written to each topic (end offsets, so transactions' markers count too)."""
        names = (TOPICS.clicks, TOPICS.recommendations, TOPICS.dead_letters, TOPICS.sessions)
        consumer = KafkaConsumer(**python_client_options(self.kafka), group_id=None)
        try:
            return {
                name: sum(
                    consumer.end_offsets(
                        [TopicPartition(name, p) for p in consumer.partitions_for_topic(name)]
                    ).values()
                )
                for name in names
            }
        finally:
            consumer.close()

    def click(self, session_id: str, item_id: str) -> tuple[int, int]:
        """Send a click; the partition and offset it is stored at."""
        producer = KafkaProducer(**python_client_options(self.kafka), acks="all")
        try:
            value = {
                "session_id": session_id,
                "item_id": item_id,
                "event_time": int(time.time() * 1000),
            }
            stored = producer.send(
                TOPICS.clicks, key=session_id.encode(), value=json.dumps(value).encode()
            ).get(timeout=10)
            return int(stored.partition), int(stored.offset)
        finally:
            producer.close()

    def answers(self, seconds: float, *, from_beginning: bool = False) -> Iterator[dict[str, Any]]:
        """Answers as they come, for so long."""
        deadline = time.monotonic() + seconds
        with StreamReader(
            self.kafka, [TOPICS.recommendations], from_beginning=from_beginning
        ) as reader:
            while time.monotonic() < deadline:
                for record in reader.poll(0.2):
                    yield {**json.loads(record.value), "answered_ms": record.timestamp}

    def answer_to(self, click: tuple[int, int], seconds: float) -> dict[str, Any] | None:
        for answer in self.answers(seconds, from_beginning=True):
            if (answer["source"]["partition"], answer["source"]["offset"]) == click:
                return answer
        return None

    def sessions(self, file: Path) -> dict[str, dict[str, Any]]:
        """What `nextclick session --export` knows, by session."""
        export_sessions(read_sessions(self.kafka, TOPICS.sessions), file)
        return {line["session_id"]: line for line in map(json.loads, file.open())}

    def verdict(self, registry: Path, scratch: Path) -> StreamCheck:
        """Every answer computed anew from the clicks: what `nextclick evaluate --stream` does."""
        settings = load_settings({}, environment={})
        return check_stream(
            self.kafka, TOPICS, Registry(str(registry), scratch), serving_rules(settings)
        )


def archived_clicks(click_log: Path) -> Counter[tuple[int, int]]:
    """How often each click of the topic, by partition and offset, stands in the log."""
    table = ds.dataset(click_log, format="parquet", partitioning=None, exclude_invalid_files=True)
    columns = table.to_table(columns=["partition", "offset"]).to_pydict()
    return Counter(zip(columns["partition"], columns["offset"], strict=True))
