"""What is known of the sessions, read from the changelog: one to look at, or all into a file."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.kafka_clients import KafkaConnection
from stream_app.core.codec import applied_offset, decode_state
from stream_app.core.errors import BundleError, ConfigurationError, StateDecodeError
from stream_app.core.records import NO_MODEL
from stream_app.core.session import SessionState
from stream_app.core.statistics_records import ITEM_PREFIX
from stream_app.core.vocabulary import item_hash
from stream_app.files.registry import Registry

SessionKey = tuple[int, str]
"""Partition and session id."""


@dataclass(frozen=True, slots=True)
class KnownSession:
    partition: int
    session_id: str
    state: SessionState


@dataclass(slots=True)
class SessionTable:
    """The changelog folded: the newest record of each session, undecoded."""

    records: dict[SessionKey, bytes]
    unreadable: int = 0
    """Records of an unknown version or damaged; the session counts as what was known before."""

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[KnownSession]:
        """By partition and session id."""
        for partition, session_id in sorted(self.records):
            yield self._known(partition, session_id)

    def find(self, session_id: str) -> list[KnownSession]:
        """A session id in each partition that knows it: one, unless producers do not key by session."""
        return [self._known(p, name) for p, name in sorted(self.records) if name == session_id]

    def _known(self, partition: int, session_id: str) -> KnownSession:
        state, _ = decode_state(self.records[partition, session_id])
        return KnownSession(partition, session_id, state)


def read_sessions(kafka: KafkaConnection, topic: str) -> SessionTable:
    """Read the changelog from its beginning to its end.

    The record with the highest applied offset counts, the later one of equals; a tombstone removes.
    Raises `ServiceAwayError` without a broker, `ConfigurationError` without the topic.
    """
    table = SessionTable({})
    with CompactedTopic(kafka, topic) as changelog:
        for records in changelog.read_to_end():
            for record in records:
                _take(table, record)
    return table


def find_session(kafka: KafkaConnection, topic: str, session_id: str) -> KnownSession | None:
    """One session whose clicks are keyed by its id: only its partition is read, and nothing else kept.

    Raises as `read_sessions` does.
    """
    table, key = SessionTable({}), session_id.encode()
    with CompactedTopic(kafka, topic, of_key=key) as changelog:
        for records in changelog.read_to_end():
            for record in records:
                if record.key == key:
                    _take(table, record)
    return next(iter(table.find(session_id)), None)


def _take(table: SessionTable, record: Any) -> None:
    try:
        key = (record.partition, record.key.decode())
        if record.value is None:
            table.records.pop(key, None)
            return
        decode_state(record.value)
    except (StateDecodeError, UnicodeDecodeError, AttributeError):
        table.unreadable += 1
        return
    known = table.records.get(key)
    if known is None or applied_offset(record.value) >= applied_offset(known):
        table.records[key] = record.value


class ExportedSession(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the export."""

    session_id: str
    clicks: int
    recent_items: tuple[str, ...]
    """Oldest first."""
    partition: int
    last_offset: int
    """Of the last click applied."""
    model_version: str | None
    """Whose model state the session holds; None where no model has seen it."""


def exported(session: KnownSession) -> ExportedSession:
    return ExportedSession(
        session_id=session.session_id,
        clicks=session.state.click_count,
        recent_items=session.state.recent_item_ids,
        partition=session.partition,
        last_offset=session.state.last_offset,
        model_version=session.state.model_version or None,
    )


def export_sessions(table: SessionTable, path: Path) -> int:
    """Write a JSON line per session, by partition and session id; the file appears when it is whole.

    Returns the number of sessions.  Raises `ConfigurationError` if the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    encode = msgspec.json.Encoder().encode
    try:
        try:
            with partial.open("xb") as file:
                for session in table:
                    file.write(encode(exported(session)) + b"\n")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--export {path} cannot be written: {error.strerror}: give another file"
        ) from error
    return len(table)


# -- what a session was shown ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShownItem:
    rank: int
    item_hash: int
    item_ids: tuple[str, ...]
    """Items with this hash: one as a rule; none where no source knows it; more if they collide."""


def shown_items(session: KnownSession, candidates: Iterable[str]) -> list[ShownItem]:
    """What the session was last shown, best first.

    A record holds 32-bit hashes of the items, so ids are found among `candidates`.
    """
    hashes = np.frombuffer(session.state.shown_hashes, dtype="<u4").tolist()
    wanted: Mapping[int, list[str]] = {value: [] for value in hashes}
    for item_id in dict.fromkeys(candidates):
        value = item_hash(item_id)
        if value in wanted:
            wanted[value].append(item_id)
    return [ShownItem(rank, value, tuple(wanted[value])) for rank, value in enumerate(hashes, 1)]


def vocabulary_of(registry_url: str, model_version: str) -> tuple[str, ...]:
    """Item ids of a model; none where the version is not in the registry, or popularity answered."""
    if not model_version or model_version == NO_MODEL:
        return ()
    try:
        return tuple(Registry(registry_url).items(model_version).vocabulary.ids)
    except (BundleError, ConfigurationError):
        return ()


def counted_items(kafka: KafkaConnection, topic: str) -> list[str]:
    """Item ids on the statistics topic, dropped ones included: they were popular once."""
    items: dict[str, None] = {}
    with CompactedTopic(kafka, topic, committed_only=True) as statistics:
        for records in statistics.read_to_end():
            for record in records:
                if (record.key or b"").startswith(ITEM_PREFIX):
                    items[record.key.removeprefix(ITEM_PREFIX).decode(errors="replace")] = None
    return list(items)
