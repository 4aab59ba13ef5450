"""`SessionStore` over one RocksDB per worker: session records, and how far the changelog is applied.

Keys: `s` + partition (4 bytes, big-endian) + session id, so that a partition's sessions lie together;
`m` + name for our own notes.
"""

import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from stream_app.adapters.rocksdb_disk import Batch, RocksDisk
from stream_app.core.codec import (
    applied_offset,
    check_record,
    decode_state,
    encode_state,
    idle_records,
    is_removal,
)
from stream_app.core.errors import ForeignRecordError, StateDecodeError, TopicsChangedError
from stream_app.core.session import ChangelogRecord, SessionState, removed_session

SCAN_RECORDS: Final = 500
WRITTEN_MAX: Final = 20_000
"""Written states kept at hand, some 30 MB: half of the cost of getting a state is decoding it."""
APART_MS_MAX: Final = 12 * 3_600_000
"""A disk that has not met the changelog for so long is restored from the beginning: half of the time that
Kafka keeps tombstones for (delete.retention.ms, 24 h by default)."""

_PARTITION: Final = struct.Struct(">I")
_APPLIED: Final = struct.Struct("<qq")
"""Last changelog offset applied, and when (ms since the epoch) the disk last met the changelog's end."""
_TOPIC_NOTE: Final = b"m\x00clicks-topic-id"
_NEVER: Final = -1


@dataclass(frozen=True, slots=True)
class Swept:
    """What a look at some stored sessions found."""

    idle: dict[str, int]
    """Applied offset of each session that may go."""
    removed: dict[str, int]
    """Offset of the click that removed each session of which only that is left."""
    looked_at: int
    last: str
    """Session id to go on behind, "" where the partition's end was reached."""


@dataclass(slots=True)
class _Folded:
    """Some changelog records of a partition, folded: what is true, and what the log would forget."""

    newest: dict[str, bytes | None] = field(default_factory=dict)
    """The record with the highest applied offset; None: a tombstone that does not say of which click."""
    behind: dict[str, None] = field(default_factory=dict)
    """Sessions whose last record in the log is not the one that holds."""
    foreign: bytes = b""
    """Another incarnation of the click topic of which there are records."""
    has_ours: bool = False


class RocksSessions:
    """Session records of the partitions this worker owns (and, stale, of those it once owned).

    States handed to `stage` are visible at once, from an overlay; `write` makes them durable.
    The order of effects (outputs, then this, then the changelog) is the worker's business.  All of it is
    called from one thread.
    """

    def __init__(
        self,
        directory: Path,
        *,
        topic_id: bytes,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """topic_id: 16 bytes naming the click topic's incarnation.

        Raises `ConfigurationError` if the directory cannot be used or another process holds it, and
        `TopicsChangedError` if it holds states of another incarnation of the topic.  A damaged one is put
        aside (`quarantined` says where), to be restored from the changelog.
        """
        self._topic_id, self._now_ms = topic_id, now_ms
        self._met_ms: dict[int, int] = {}
        self._overlay: dict[tuple[int, str], tuple[bytes, SessionState]] = {}
        """What is staged and not written yet."""
        self._written: dict[tuple[int, str], SessionState] = {}
        """What was written last, oldest first: most sessions click again soon."""
        self._only_foreign: dict[int, bytes] = {}
        self._prefixes: dict[int, bytes] = {}
        self.unreadable_records = 0
        """Stored records that could not be read when their session clicked: they count as none."""
        self.refused_records: Counter[str] = Counter()
        """Changelog records that were not adopted, by reason: unreadable, other_topic, beyond_end (of a
        click that the topic does not have)."""
        self._disk = RocksDisk(directory)
        known = self._disk.get(_TOPIC_NOTE)
        if known is None:
            self._put({_TOPIC_NOTE: topic_id})
        elif known != topic_id:
            self._disk.close()
            raise TopicsChangedError(
                f"the click topic was recreated: {directory} holds sessions of topic id {known.hex()}, "
                f"the topic now has {topic_id.hex()}.  Offsets start anew, so old sessions must not be "
                "mixed in: remove the data_dir and recreate the sessions topic to begin afresh"
            )

    @property
    def quarantined(self) -> Path | None:
        """Where a damaged store was put at the start, None where there was none."""
        return self._disk.quarantined

    def memory_bytes(self) -> Mapping[str, int]:
        """What RocksDB holds in memory, by part; from any thread."""
        return self._disk.memory_bytes()

    def disk_bytes(self) -> int:
        """Of RocksDB's files, its log included; from any thread."""
        return self._disk.disk_bytes()

    # -- the port --------------------------------------------------------------------------------

    def get_many(self, keys: Sequence[tuple[int, str]]) -> list[SessionState | None]:
        """States by (partition, session id).  An unreadable record counts as none, and is counted."""
        staged, written = self._overlay.get, self._written.get
        states: list[SessionState | None] = []
        missing: list[int] = []
        for key in keys:
            entry = staged(key)
            state = written(key) if entry is None else entry[1]
            if state is None:
                missing.append(len(states))
            states.append(state)
        records = self._disk.get_many([self._key(*keys[at]) for at in missing])
        for at, record in zip(missing, records, strict=True):
            states[at] = self._decode(record)
        return states

    # -- the worker's two steps ----------------------------------------------------------------------

    def stage(self, states: Mapping[tuple[int, str], SessionState]) -> dict[tuple[int, str], bytes]:
        """Make states visible to `get_many` and return their records."""
        overlay, topic_id = self._overlay, self._topic_id
        records: dict[tuple[int, str], bytes] = {}
        for key, state in states.items():
            records[key] = record = encode_state(state, topic_id)
            overlay[key] = record, state
        return records

    def write(self, records: Mapping[tuple[int, str], bytes]) -> None:
        """Make staged records durable in one batch, and drop them from the overlay.

        A removed session leaves a record of that, until `forget`.
        """
        batch, key_of = Batch(raw_mode=True), self._key
        put = batch.put
        for (partition, session_id), record in records.items():
            put(key_of(partition, session_id), record)
        self._disk.write(batch)
        overlay, written = self._overlay, self._written
        for key, record in records.items():
            # A later batch may have staged a newer record meanwhile; that one stays.
            staged = overlay.get(key)
            if staged is not None and staged[0] is record:
                del overlay[key]
                written.pop(key, None)  # behind the others, as the one that goes last
                written[key] = staged[1]
        for key in list(islice(written, max(0, len(written) - WRITTEN_MAX))):
            del written[key]

    def forget(self, partition: int, session_ids: Iterable[str]) -> None:
        """Drop what is left of removed sessions; the clicks that removed them must be committed."""
        batch = Batch(raw_mode=True)
        for session_id in session_ids:
            batch.delete(self._key(partition, session_id))
            self._written.pop((partition, session_id), None)
        self._disk.write(batch)

    def forget_staged(self) -> None:
        """Drop what was staged and never written: after a rebalance the log says what is true."""
        self._overlay.clear()
        self._written.clear()
        self._only_foreign.clear()

    # -- changelog -----------------------------------------------------------------------------------

    def persisted_offset(self, partition: int) -> int:
        """Last changelog offset that is applied here, -1 if none."""
        return self._applied(partition)[0]

    def resume_from(self, partition: int, *, begin: int, end: int) -> int:
        """Changelog offset to restore from, where the changelog is [begin, end).

        Behind what is applied; or `begin`, and the partition is forgotten, where only all of the
        changelog is the truth: it was recreated or truncated behind our back, or we have not met it for
        so long that tombstones may have come and gone.
        """
        offset, met_ms = self._applied(partition)
        now_ms = self._now_ms()
        is_recent = abs(now_ms - met_ms) < APART_MS_MAX
        if offset != _NEVER and begin <= offset + 1 <= end and is_recent:
            self._met_ms[partition] = met_ms
            return offset + 1
        self.wipe(partition)
        self._met_ms[partition] = now_ms
        return begin

    def set_persisted_offsets(self, offsets: Mapping[int, int]) -> None:
        """Note changelog offsets as applied, and that the disk is up to date with the changelog now.

        Raises `TopicsChangedError` for a partition that had nothing but records of another incarnation of
        the click topic to restore from.
        """
        for partition in self._only_foreign.keys() & offsets.keys():
            raise self._recreated(self._only_foreign[partition])
        now_ms = self._now_ms()
        self._put({_persisted_key(p): _APPLIED.pack(at, now_ms) for p, at in offsets.items()})

    def restore_chunk(
        self,
        partition: int,
        records: Iterable[ChangelogRecord],
        *,
        last_offset: int,
        end_offset: int,
    ) -> tuple[int, list[str]]:
        """Apply changelog records, in log order, and note `last_offset` as applied, in one batch.

        The record with the higher applied offset wins, a tombstone's being that of the click that removed
        the session: RocksDB may be ahead of the changelog, and a worker that lost its partition may have
        written an older record behind a newer one.  end_offset: of the click partition; a record that
        speaks of a click there or beyond, of another incarnation of the topic, or that cannot be read, is
        refused and counted.  Where there is nothing else, the topic was recreated:
        `set_persisted_offsets` raises.

        Returns the number of sessions written, and the sessions whose last record in the log is not the
        one that holds: those must be sent again, or compaction would keep the wrong one.
        """
        folded = self._fold(records, end_offset)
        if self._is_recreated(partition, folded):
            return 0, list(
                folded.behind
            )  # not even the offset: the next start must meet them again
        newest, behind = folded.newest, folded.behind
        session_ids = sorted(newest)  # what lies together is found and written in half the time
        keys = [self._key(partition, session_id) for session_id in session_ids]
        batch = Batch(raw_mode=True)
        put, written = batch.put, 0
        for session_id in session_ids:
            self._written.pop((partition, session_id), None)
        for key, session_id, ours in zip(keys, session_ids, self._disk.get_many(keys), strict=True):
            record = newest[session_id]
            if record is None:
                batch.delete(key)
            elif ours is not None and _is_after(ours, _rank(record, applied_offset(record))):
                behind[session_id] = None
            else:
                put(key, record)
                written += not is_removal(record)
        met_ms = self._met_ms.get(partition, 0)
        batch.put(_persisted_key(partition), _APPLIED.pack(last_offset, met_ms))
        self._disk.write(batch)
        return written, list(behind)

    def count_refused(self, records: Iterable[ChangelogRecord], *, end_offset: int) -> None:
        """Count those of another writer's records that could not be true, as `restore_chunk` would."""
        self._fold(records, end_offset)

    def wipe(self, partition: int) -> None:
        """Forget a partition, its changelog offset included; a restore from the beginning follows."""
        batch = Batch(raw_mode=True)
        batch.delete_range(self._key(partition, ""), self._key(partition + 1, ""))
        batch.delete(_persisted_key(partition))
        self._disk.write(batch)
        self._written = {key: state for key, state in self._written.items() if key[0] != partition}
        self._only_foreign.pop(partition, None)

    # -- looking around ------------------------------------------------------------------------------

    def sweep(self, partition: int, *, after: str, look_at: int, idle_before_ms: int) -> Swept:
        """Look at the next stored sessions behind `after` for such without a click since that time.

        Sessions with a staged record are left for the next time.
        """
        prefix = self._key(partition, "")
        start = self._key(partition, after) + (b"\x00" if after else b"")
        entries = self._disk.entries(start, prefix, look_at)
        idle: dict[str, int] = {}
        removed: dict[str, int] = {}
        for at in idle_records([record for _, record in entries], before_ms=idle_before_ms):
            key, record = entries[at]
            session_id = key[len(prefix) :].decode()
            if (partition, session_id) not in self._overlay:
                (removed if is_removal(record) else idle)[session_id] = applied_offset(record)
        at_end = len(entries) < look_at
        last = "" if at_end else entries[-1][0][len(prefix) :].decode()
        return Swept(idle, removed, len(entries), last)

    def scan(self, partition: int, *, after: str = "") -> Iterator[tuple[str, SessionState]]:
        """Stored sessions of a partition in key order, from the first session id greater than `after`."""
        for session_id, record in self.records(partition, after=after):
            state = self._decode(record)
            if state is not None and not state.is_removed:
                yield session_id, state

    def records(self, partition: int, *, after: str = "") -> Iterator[tuple[str, bytes]]:
        """As `scan`, as they are stored: unread, and with those that only say that a session was removed."""
        prefix = self._key(partition, "")
        start = self._key(partition, after) + (b"\x00" if after else b"")
        while entries := self._disk.entries(start, prefix, SCAN_RECORDS):
            for key, record in entries:
                yield key[len(prefix) :].decode(), record
            start = entries[-1][0] + b"\x00"

    def record(self, partition: int, session_id: str) -> bytes | None:
        """The stored record of one session, or of its removal."""
        return self._disk.get(self._key(partition, session_id))

    def removal(self, offset: int) -> bytes:
        """The record of a session that the click at `offset` removed."""
        return encode_state(removed_session(offset), self._topic_id)

    def close(self) -> None:
        self._disk.close()

    def _applied(self, partition: int) -> tuple[int, int]:
        raw = self._disk.get(_persisted_key(partition))
        if raw is None or len(raw) != _APPLIED.size:
            return _NEVER, 0
        offset, met_ms = _APPLIED.unpack(raw)
        return offset, met_ms

    # -- of our own ----------------------------------------------------------------------------------

    def _fold(self, records: Iterable[ChangelogRecord], end_offset: int) -> _Folded:
        folded = _Folded()
        newest, behind, topic_id = folded.newest, folded.behind, self._topic_id
        ranks: dict[str, int] = {}
        for session_id, logged, removed_at in records:
            record = logged
            if record is None:
                if removed_at is None or removed_at < 0:
                    newest[session_id] = None
                    ranks.pop(session_id, None)
                    behind.pop(session_id, None)
                    continue
                record = self.removal(removed_at)
            try:
                offset = check_record(record, topic_id)
            except StateDecodeError:
                self._refuse(session_id, "unreadable", folded)
                continue
            except ForeignRecordError as error:
                folded.foreign = error.topic_id
                self._refuse(session_id, "other_topic", folded)
                continue
            folded.has_ours = folded.has_ours or logged is not None
            if not 0 <= offset < end_offset:
                self._refuse(session_id, "beyond_end", folded)
                continue
            rank = _rank(record, offset)
            if ranks.get(session_id, _NEVER) > rank:
                behind[session_id] = None
            else:
                newest[session_id] = record
                ranks[session_id] = rank
                behind.pop(session_id, None)
        return folded

    def _refuse(self, session_id: str, reason: str, folded: _Folded) -> None:
        self.refused_records[reason] += 1
        folded.behind[session_id] = None

    def _is_recreated(self, partition: int, folded: _Folded) -> bool:
        """Whether all there was to restore this partition from is of another topic's incarnation."""
        if folded.has_ours:
            self._only_foreign.pop(partition, None)
        elif folded.foreign and self.persisted_offset(partition) == _NEVER:
            self._only_foreign.setdefault(partition, folded.foreign)
        return partition in self._only_foreign

    def _recreated(self, topic_id: bytes) -> TopicsChangedError:
        return TopicsChangedError(
            f"all session records belong to click topic id {topic_id.hex()}, the topic now has "
            f"{self._topic_id.hex()}: the topic was recreated.  Recreate the sessions topic and "
            "remove the data_dir to begin afresh"
        )

    def _key(self, partition: int, session_id: str) -> bytes:
        try:
            prefix = self._prefixes[partition]
        except KeyError:
            prefix = self._prefixes[partition] = b"s" + _PARTITION.pack(partition)
        return prefix + session_id.encode()

    def _put(self, entries: Mapping[bytes, bytes]) -> None:
        if entries:
            batch = Batch(raw_mode=True)
            for key, value in entries.items():
                batch.put(key, value)
            self._disk.write(batch)

    def _decode(self, record: bytes | None) -> SessionState | None:
        if record is None:
            return None
        try:
            state, topic_id = decode_state(record)
        except StateDecodeError:
            self.unreadable_records += 1
            return None
        if topic_id != self._topic_id:
            raise self._recreated(topic_id)
        return state


def _persisted_key(partition: int) -> bytes:
    return b"m\x00changelog-offset" + _PARTITION.pack(partition)


def _is_after(record: bytes, rank: int) -> bool:
    """Whether the record outranks another; one that is too short to say outranks none."""
    try:
        return _rank(record, applied_offset(record)) > rank
    except StateDecodeError:
        return False


def _rank(record: bytes, offset: int) -> int:
    """The higher holds.  Of one click, a removal holds: an idle session goes without a click of its own."""
    return 2 * offset + is_removal(record)
