"""Looking at dead letters, and sending them again once what was wrong with them is mended.

A letter is sent again at most once: the click and the offset that says so are written in one Kafka
transaction.  That offset is kept per error class (a consumer group each), so that one class can be sent
again and the others later.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.kafka_clients import broker_errors, python_client_options
from stream_app.adapters.kafka_topics import partition_count
from stream_app.core.errors import ServiceAwayError
from stream_app.settings import Settings

HEADER_PREFIX: Final = "nextclick-"
LETTERS_AT_ONCE: Final = 1_000
"""In one transaction: an interrupted requeue goes on from the last whole one."""
UNKNOWN: Final = "Unknown"
"""Error class of a record that carries none: somebody else wrote it."""

_TRANSACTION_TIMEOUT_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it lies on its topic."""

    partition: int
    offset: int
    written_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def error(self) -> str:
        return self._ours("error") or UNKNOWN

    @property
    def message(self) -> str:
        return self._ours("message")

    @property
    def original_partition(self) -> int | None:
        text = self._ours("original-partition")
        return int(text) if text.isdecimal() else None

    @property
    def source(self) -> str:
        """`partition/offset` on the click topic."""
        return f"{self._ours('original-partition') or '?'}/{self._ours('original-offset') or '?'}"

    @property
    def original_headers(self) -> list[tuple[str, bytes]]:
        return [header for header in self.headers if not header[0].startswith(HEADER_PREFIX)]

    def _ours(self, name: str) -> str:
        """The last one counts: a letter that died twice carries the first death's headers before."""
        found = [value for key, value in self.headers if key == HEADER_PREFIX + name]
        return found[-1].decode("utf-8", "replace") if found else ""


@dataclass(frozen=True, slots=True)
class Requeued:
    """What a requeue did."""

    sent: dict[str, int]
    """Letters sent again, by error class."""
    sent_before: int
    """Letters passed over because an earlier requeue sent them."""


def newest_letters(settings: Settings, *, limit: int, error: str | None = None) -> list[Letter]:
    """The newest `limit` letters (of that error class), oldest first.

    With a class the whole topic is read.  Raises `ServiceAwayError`, `ConfigurationError`.
    """
    letters = [
        letter
        for letter in _read(settings, newest=limit if error is None else None)
        if error is None or letter.error == error
    ]
    letters.sort(key=lambda letter: (letter.written_ms, letter.partition, letter.offset))
    return letters[-limit:]


def requeue(settings: Settings, *, error: str | None = None) -> Requeued:
    """Send every letter (of that error class) that was not sent again yet to the click topic.

    Key, value and headers are the original ones, and the partition too.  Two requeues at a time: the
    later one goes on, the earlier fails without having sent anything twice.
    """
    sent: dict[str, int] = {}
    sent_before = 0
    with _Requeue(settings) as sending:
        batch: list[Letter] = []
        for letter in _read(settings):
            if error is not None and letter.error != error:
                continue
            if sending.was_sent(letter):
                sent_before += 1
                continue
            batch.append(letter)
            sent[letter.error] = sent.get(letter.error, 0) + 1
            if len(batch) >= LETTERS_AT_ONCE:
                sending.send(batch)
                batch = []
        if batch:
            sending.send(batch)
    return Requeued(sent, sent_before)


def preview(data: bytes | None, *, width: int = 60) -> str:
    """A value on one line, harmless to a terminal: control characters and bad UTF-8 are escaped.

    >>> preview(b'{"a": "\\x1b[31m"}')
    '{"a": "\\\\x1b[31m"}'
    >>> preview(b'\\xff\\n' * 100, width=12)
    '\\\\xff\\\\n\\\\xff\\\\…'
    """
    if data is None:
        return "(no value)"
    text = data[: 4 * width].decode("utf-8", "backslashreplace")
    safe = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return safe if len(safe) <= width else safe[: width - 1] + "…"


def _read(settings: Settings, *, newest: int | None = None) -> Iterator[Letter]:
    """Up to where the topic ends now, each partition in offset order."""
    topic = settings.topics.dead_letters
    with CompactedTopic(settings.kafka, topic, committed_only=True, newest=newest) as reader:
        for records in reader.read_to_end():
            for record in records:
                yield Letter(
                    record.partition,
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    tuple((name, value or b"") for name, value in record.headers or ()),
                )


class _Requeue:
    """The transactional producer, and the offsets up to which each error class was sent again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._partitions = partition_count(settings.kafka, settings.topics.clicks)
        self._letter_partitions = partition_count(settings.kafka, settings.topics.dead_letters)
        self._done: dict[str, dict[int, int]] = {}
        """Error class -> partition of the dead-letter topic -> next offset to send."""
        with self._errors():
            self._producer = KafkaProducer(
                **python_client_options(settings.kafka),
                transactional_id=f"{settings.topics.dead_letters}-requeue",
                transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
                delivery_timeout_ms=_TRANSACTION_TIMEOUT_MS,
                max_block_ms=_TRANSACTION_TIMEOUT_MS,
                max_request_size=16 * 1024**2,
                allow_auto_create_topics=False,
            )
            self._producer.init_transactions()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close(timeout=5)

    def was_sent(self, letter: Letter) -> bool:
        if letter.error not in self._done:
            self._done[letter.error] = self._committed(letter.error)
        return letter.offset < self._done[letter.error].get(letter.partition, 0)

    def send(self, letters: list[Letter]) -> None:
        """Clicks and offsets in one transaction."""
        topics = self._settings.topics
        offsets: dict[str, dict[TopicPartition, OffsetAndMetadata]] = {}
        with self._errors():
            self._producer.begin_transaction()
            for letter in letters:
                wanted = letter.original_partition
                self._producer.send(
                    topics.clicks,
                    key=letter.key,
                    value=letter.value,
                    headers=letter.original_headers,
                    partition=wanted if wanted is not None and wanted < self._partitions else None,
                )
                tp = TopicPartition(topics.dead_letters, letter.partition)
                mark = OffsetAndMetadata(letter.offset + 1, "", -1)
                offsets.setdefault(letter.error, {})[tp] = mark
            for error, marks in offsets.items():
                group = ConsumerGroupMetadata(self._group(error), -1, "", None)
                self._producer.send_offsets_to_transaction(marks, group)
            self._producer.commit_transaction()

    def _committed(self, error: str) -> dict[int, int]:
        topic = self._settings.topics.dead_letters
        with self._errors():
            consumer = KafkaConsumer(
                **python_client_options(self._settings.kafka),
                group_id=self._group(error),
                enable_auto_commit=False,
            )
            try:
                tps = [TopicPartition(topic, n) for n in range(self._letter_partitions)]
                return {tp.partition: consumer.committed(tp) or 0 for tp in tps}
            finally:
                consumer.close(autocommit=False)

    def _group(self, error: str) -> str:
        """Error classes are a closed set where we wrote them; others are made fit for a name."""
        return (
            f"{self._settings.kafka.group_id}-requeue-{re.sub(r'[^A-Za-z0-9_]', '_', error)[:64]}"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with broker_errors(self._settings.kafka):
                yield
        except KafkaError as error:
            raise ServiceAwayError(
                f"sending again was interrupted ({type(error).__name__}: {error}): nothing was sent "
                "twice; call it again to go on"
            ) from error


def when(written_ms: int) -> str:
    """UTC, to the second; a time that no calendar knows stays a number."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(written_ms / 1000))
    except (OverflowError, ValueError, OSError):
        return str(written_ms)
