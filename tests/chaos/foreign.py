"""Somebody who writes into the changelog and should not."""

import random
from collections.abc import Callable
from typing import Final

import msgspec
from confluent_kafka import Producer

from stream_app.core.codec import decode_state, encode_state
from tests.chaos import evidence
from tests.chaos.lab import Stream
from tests.chaos.verdict import SessionKey

RECORDS: Final = 20
"""Written at a time, of so many sessions."""
BEYOND: Final = 1_000_000_000

KINDS: Final = (
    "old records",
    "tombstones of live sessions",
    "records of removed sessions",
    "records of another topic",
    "records beyond the log",
    "junk",
)
FORGED: Final = {
    "records of another topic": "other_topic",
    "records beyond the log": "beyond_end",
    "junk": "unreadable",
}
"""What no worker would write, and the reason for which each is refused."""


class ForeignWriter:
    """Writes what a stale, a broken or a hostile process might."""

    def __init__(self, stream: Stream, rng: random.Random) -> None:
        self._stream, self._rng = stream, rng
        self._producer = Producer(
            {"bootstrap.servers": stream.kafka.bootstrap_servers, "log_level": 0}
        )
        self.written = 0

    def write(self, kind: str) -> None:
        """Records of one kind, of sessions drawn at random; returns when they are stored."""
        oldest, removed = self._history()
        if kind == "records of removed sessions":
            picked = sorted(removed)
        else:
            picked = self._rng.sample(sorted(oldest.keys() - removed), RECORDS)
        assert picked, f"there are no sessions for {kind}"
        change = self._changes()[kind]
        for key in picked:
            partition, session_id = key
            value = change(oldest[key])
            self._producer.produce(
                self._stream.topics.sessions,
                key=session_id.encode(),
                value=value,
                partition=partition,
            )
        assert self._producer.flush(30) == 0
        self.written += len(picked)

    def _changes(self) -> dict[str, Callable[[bytes], bytes | None]]:
        topic_id = self._stream.topic_id

        def beyond(record: bytes) -> bytes:
            state = msgspec.structs.replace(decode_state(record)[0], last_offset=BEYOND)
            return encode_state(state, topic_id)

        return {
            "old records": lambda record: record,
            "tombstones of live sessions": lambda _: None,
            "records of removed sessions": lambda record: record,
            "records of another topic": lambda record: encode_state(
                decode_state(record)[0], topic_id[::-1]
            ),
            "records beyond the log": beyond,
            "junk": lambda _: self._rng.randbytes(self._rng.randint(1, 300)),
        }

    def _history(self) -> tuple[dict[SessionKey, bytes], set[SessionKey]]:
        """The first good record of each session; and the sessions whose newest record is a removal."""
        oldest: dict[SessionKey, bytes] = {}
        newest: dict[SessionKey, bytes | None] = {}
        servers, topic = self._stream.kafka.bootstrap_servers, self._stream.topics.sessions
        for partition, session_id, value in evidence.changelog(servers, topic):
            newest[partition, session_id] = value
            if value is not None:
                oldest.setdefault((partition, session_id), value)
        removed = {key for key, value in newest.items() if value is None and key in oldest}
        return oldest, removed
