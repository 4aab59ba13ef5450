"""The releases topic: which model version is live.  One partition, compacted, one key.

Promotion and rollback move this pointer and nothing else; every worker follows it within seconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream_app.adapters.kafka_clients import (
    KafkaConnection,
    broker_errors,
    python_client_options,
)
from stream_app.core.errors import BadRecordError, ConfigurationError, ServiceAwayError
from stream_app.core.records import UNREADABLE
from stream_app.logging_setup import get_logger

LIVE_KEY: Final = b"live"
HISTORY_MAX: Final = 20
"""So many rollbacks in a row are possible."""
_READ_SECONDS_MAX: Final = 30.0
_FETCH_WAIT_MS: Final = 10

log = get_logger("releases")


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The pointer, as the topic carries it (JSON).  Unknown fields are ignored."""

    model_version: str | None
    """Live from now on; None: no model, popularity answers."""
    released_at: str
    """RFC 3339, UTC."""
    previous: str | None = None
    """Live until now."""
    reason: str = ""
    """Who moved the pointer and why, for people."""
    history: tuple[str, ...] = ()
    """Versions live before, oldest first, the last is where a rollback goes."""

    def promoted(self, version: str | None, reason: str) -> "Release":
        """The pointer moved on to `version`."""
        history = self.history
        if self.model_version is not None:
            history = (*history, self.model_version)[-HISTORY_MAX:]
        return _release(version, self.model_version, reason, history)

    def rolled_back(self, reason: str) -> "Release":
        """The pointer moved back to the version before.  Raises `ConfigurationError` if there is none."""
        if not self.history:
            raise ConfigurationError(
                "no earlier version was live, so there is nothing to roll back to.  "
                "`nextclick models list` shows what can be promoted; `nextclick models promote none` "
                "goes back to popularity"
            )
        *history, version = self.history
        return _release(version, self.model_version, reason, tuple(history))


def first_release(version: str | None, reason: str) -> Release:
    """The pointer set for the first time."""
    return _release(version, None, reason, ())


def announce(kafka: KafkaConnection, topic: str, release: Release) -> None:
    """Move the pointer; returns once the broker has it safe.  Raises `ServiceAwayError`."""
    with ReleasePointer(kafka, topic) as pointer:
        pointer.announce(release)


def promote(kafka: KafkaConnection, topic: str, version: str | None, *, reason: str) -> Release:
    """Read the pointer and move it on to `version`; returns what was announced.

    Two promotions at the same moment: the later one stays, and its history may lack the other.
    """
    with ReleasePointer(kafka, topic) as pointer:
        return pointer.promote(version, reason=reason)


def rollback(kafka: KafkaConnection, topic: str, *, reason: str) -> Release:
    """Move the pointer back to the version live before.  Raises `ConfigurationError` if there is none."""
    release = (read_latest(kafka, topic) or first_release(None, "")).rolled_back(reason)
    announce(kafka, topic, release)
    return release


def read_latest(kafka: KafkaConnection, topic: str) -> Release | None:
    """Where the pointer is now; None if it was never set.

    Raises `ServiceAwayError` without a broker, `ConfigurationError` without the topic.
    """
    with ReleaseFollower(kafka, topic) as follower:
        return follower.read_to_end()


class ReleasePointer:
    """The pointer for somebody who reads and moves it again and again: connections stay open.  For one thread.

    Each method raises `ServiceAwayError` without a broker; the next call connects anew.
    """

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._follower = ReleaseFollower(kafka, topic, fetch_wait_ms=_FETCH_WAIT_MS)
        self._latest: Release | None = None
        self._producer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> Release | None:
        """Where it is now; None if it was never set.  Raises `ConfigurationError` without the topic, too."""
        self._latest = self._follower.read_to_end() or self._latest
        return self._latest

    def promote(self, version: str | None, *, reason: str) -> Release:
        """As the function `promote`."""
        current = self.read()
        release = current.promoted(version, reason) if current else first_release(version, reason)
        self.announce(release)
        return release

    def announce(self, release: Release) -> None:
        """Returns once the broker has it safe."""
        with broker_errors(self._kafka):
            if self._producer is None:
                self._producer = KafkaProducer(**python_client_options(self._kafka), acks="all")
            try:
                value = msgspec.json.encode(release)
                sent = self._producer.send(self._topic, key=LIVE_KEY, value=value)
                sent.get(timeout=_READ_SECONDS_MAX)
            except BaseException:
                self._close_producer()
                raise

    def close(self) -> None:
        self._follower.close()
        self._close_producer()

    def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=5)


class ReleaseFollower:
    """Sees every move of the pointer.  For one thread; connects at the first read.

    A record that cannot be read (written by hand, or by a newer nextclick) is passed over: the live
    model stays.  `skipped` counts them.
    """

    def __init__(self, kafka: KafkaConnection, topic: str, *, fetch_wait_ms: int = 500) -> None:
        """fetch_wait_ms: how long the broker holds back an empty answer, and every request after it."""
        self._kafka = kafka
        self._topic = topic
        self._fetch_wait_ms = fetch_wait_ms
        self._partition = TopicPartition(topic, 0)
        self._consumer: Any = None
        self._end = 0
        self.caught_up = False
        """Whether everything that was on the topic at the first read has been read."""
        self.skipped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def poll(self, timeout_seconds: float) -> Release | None:
        """The newest release that was not returned yet; None if none came within the timeout.

        The first call connects.  Raises `ServiceAwayError` where no broker answers: call again later.
        """
        with self._errors():
            consumer = self._connected()
            records = consumer.poll(timeout_ms=int(timeout_seconds * 1000))
            self.caught_up = self.caught_up or consumer.position(self._partition) >= self._end
        return self._newest(records.get(self._partition, []))

    def read_to_end(self) -> Release | None:
        """The newest release up to where the topic ends now that was not returned yet; None if there is none."""
        newest = self.poll(0)
        with self._errors():
            end = self._connected().end_offsets([self._partition])[self._partition]
        while self._behind(end):
            newest = self.poll(0.2) or newest
        return newest

    def close(self) -> None:
        if self._consumer is not None:
            with broker_errors(self._kafka):  # quietly: a request it cancels is no news
                self._consumer.close()
            self._consumer = None

    def _behind(self, end: int) -> bool:
        with self._errors():
            return bool(self._connected().position(self._partition) < end)

    def _connected(self) -> Any:
        if self._consumer is not None:
            return self._consumer
        consumer = KafkaConsumer(
            **python_client_options(self._kafka),
            group_id=None,
            enable_auto_commit=False,
            fetch_max_wait_ms=self._fetch_wait_ms,
        )
        try:
            _require_topic(consumer, self._topic)
            consumer.assign([self._partition])
            consumer.seek_to_beginning(self._partition)
            self._end = consumer.end_offsets([self._partition])[self._partition]
        except BaseException:
            consumer.close()
            raise
        self._consumer = consumer
        return consumer

    def _newest(self, records: list[Any]) -> Release | None:
        newest: Release | None = None
        for record in records:
            if record.key != LIVE_KEY or record.value is None:
                continue
            try:
                newest = decode_release(record.value)
            except BadRecordError as error:
                self.skipped += 1
                log.warning("release_unreadable", offset=record.offset, error=str(error))
        return newest

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with broker_errors(self._kafka):
                yield
        except ServiceAwayError:
            self.close()  # the next read connects anew, and reads the pointer from the beginning
            raise


def decode_release(value: bytes) -> Release:
    """Raises `BadRecordError` for anything that is no release."""
    try:
        return msgspec.json.decode(value, type=Release)
    except UNREADABLE as error:
        raise BadRecordError("BadRelease", f"no release: {error}") from error


def _require_topic(consumer: Any, topic: str) -> None:
    if 0 not in (consumer.partitions_for_topic(topic) or ()):
        raise ConfigurationError(f"topic {topic} is missing: run `nextclick topics create`")


def _release(
    version: str | None, previous: str | None, reason: str, history: tuple[str, ...]
) -> Release:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Release(
        model_version=version, released_at=now, previous=previous, reason=reason, history=history
    )
