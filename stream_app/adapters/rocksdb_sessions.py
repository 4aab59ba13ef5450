"""`SessionStore` over one RocksDB per worker: session records, and how far the changelog is applied.

Keys: `s` + partition (4 bytes, big-endian) + session id, so that a partition's sessions lie together;
`m` + name for our own notes.  The write-ahead log stays on: batched, it costs nothing measurable.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import rocksdict

from stream_app.core.codec import applied_offset, decode_state, encode_state
from stream_app.core.errors import ConfigurationError, InvariantError, StateDecodeError
from stream_app.core.session import SessionState

CACHE_BYTES: Final = 64 * 2**20
MEMTABLE_BYTES: Final = 32 * 2**20

_PARTITION: Final = struct.Struct(">I")
_OFFSET: Final = struct.Struct("<q")
_TOPIC_NOTE: Final = b"m\x00clicks-topic-id"


def _session_key(partition: int, session_id: str) -> bytes:
    return b"s" + _PARTITION.pack(partition) + session_id.encode()


def _persisted_key(partition: int) -> bytes:
    return b"m\x00changelog-offset" + _PARTITION.pack(partition)


class RocksSessions:
    """Session records of the partitions this worker owns (and, stale, of those it once owned).

    States handed to `stage` are visible at once, from an overlay; `write` makes them durable.
    The order of effects (outputs, then this, then the changelog) is the worker's business.
    """

    def __init__(self, directory: Path, *, topic_id: bytes) -> None:
        """topic_id: 16 bytes naming the click topic's incarnation.

        Raises `ConfigurationError` if the directory cannot be used or another process holds it, and
        `InvariantError` if it holds states of another incarnation of the topic.
        """
        self._topic_id = topic_id
        self._overlay: dict[tuple[int, str], bytes | None] = {}
        self.unreadable_records = 0
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = rocksdict.Rdict(str(directory), _options())
        except OSError as error:
            raise ConfigurationError(
                f"data_dir {directory} cannot be used: {error.strerror}: give a directory we may write to"
            ) from error
        except Exception as error:
            hint = (
                "another process holds it: give each worker a data_dir of its own"
                if "lock" in str(error).lower()
                else "move it away; the state is restored from the changelog"
            )
            raise ConfigurationError(
                f"data_dir {directory} cannot be opened: {hint} ({error})"
            ) from error
        known = self._db.get(_TOPIC_NOTE)
        if known is None:
            self._db[_TOPIC_NOTE] = topic_id
        elif known != topic_id:
            self._db.close()
            raise InvariantError(
                f"the click topic was recreated: {directory} holds sessions of topic id {known.hex()}, "
                f"the topic now has {topic_id.hex()}.  Offsets start anew, so old sessions must not be "
                "mixed in: remove the data_dir and recreate the sessions topic to begin afresh"
            )

    # -- the port --------------------------------------------------------------------------------

    def get_many(self, keys: Sequence[tuple[int, str]]) -> list[SessionState | None]:
        """States by (partition, session id).  An unreadable record counts as none, and is counted."""
        overlay = self._overlay
        missing = [_session_key(*key) for key in keys if key not in overlay]
        stored = iter(self._db.get(missing) if missing else ())
        return [self._decode(overlay[key] if key in overlay else next(stored)) for key in keys]

    # -- the worker's two steps ----------------------------------------------------------------------

    def stage(
        self, states: Mapping[tuple[int, str], SessionState | None]
    ) -> dict[tuple[int, str], bytes | None]:
        """Make states visible to `get_many` and return their records, None for a removed session."""
        records = {
            key: None if state is None else encode_state(state, self._topic_id)
            for key, state in states.items()
        }
        self._overlay.update(records)
        return records

    def write(self, records: Mapping[tuple[int, str], bytes | None]) -> None:
        """Make staged records durable in one batch, and drop them from the overlay."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, record in records.items():
            if record is None:
                batch.delete(_session_key(*key))
            else:
                batch.put(_session_key(*key), record)
        self._db.write(batch)
        for key, record in records.items():
            # A later batch may have staged a newer record meanwhile; that one stays.
            if key in self._overlay and self._overlay[key] is record:
                del self._overlay[key]

    def forget_staged(self) -> None:
        """Drop what was staged and never written: after a rebalance the log says what is true."""
        self._overlay.clear()

    # -- changelog -----------------------------------------------------------------------------------

    def persisted_offset(self, partition: int) -> int:
        """Last changelog offset that is applied here, -1 if none."""
        raw = self._db.get(_persisted_key(partition))
        return -1 if raw is None else int(_OFFSET.unpack(raw)[0])

    def set_persisted_offsets(self, offsets: Mapping[int, int]) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for partition, offset in offsets.items():
            batch.put(_persisted_key(partition), _OFFSET.pack(offset))
        self._db.write(batch)

    def restore_chunk(
        self, partition: int, records: Iterable[tuple[str, bytes | None]], *, last_offset: int
    ) -> tuple[int, list[str]]:
        """Apply changelog records, in log order, and note `last_offset` as applied, in one batch.

        The record with the higher applied offset wins: RocksDB may be ahead of the changelog, and a
        worker that lost its partition may have written an older record behind a newer one.  Returns the
        number of records written, and the sessions whose changelog record is older than ours: those must
        be sent again, or compaction would keep the older one.  Unreadable records are counted and left
        out.  Raises `InvariantError` on a record of another incarnation of the click topic.
        """
        newest: dict[str, bytes | None] = {}
        behind: dict[str, None] = {}
        for session_id, record in records:
            if record is None:
                newest[session_id] = None
                behind.pop(session_id, None)
                continue
            try:
                offset = applied_offset(record)
                self._check_topic(decode_state(record)[1])
            except StateDecodeError:
                self.unreadable_records += 1
                continue
            other = newest.get(session_id)
            if other is not None and applied_offset(other) > offset:
                behind[session_id] = None
            else:
                newest[session_id] = record
                behind.pop(session_id, None)
        keys = [_session_key(partition, session_id) for session_id in newest]
        batch = rocksdict.WriteBatch(raw_mode=True)
        written = 0
        stored_records = self._db.get(keys) if keys else []
        for key, (session_id, record), ours in zip(
            keys, newest.items(), stored_records, strict=True
        ):
            if record is None:
                batch.delete(key)
            elif ours is not None and applied_offset(ours) > applied_offset(record):
                behind[session_id] = None
            else:
                batch.put(key, record)
                written += 1
        batch.put(_persisted_key(partition), _OFFSET.pack(last_offset))
        self._db.write(batch)
        return written, list(behind)

    def wipe(self, partition: int) -> None:
        """Forget a partition, its changelog offset included; a restore from the beginning follows."""
        prefix = b"s" + _PARTITION.pack(partition)
        after = b"s" + _PARTITION.pack(partition + 1)
        batch = rocksdict.WriteBatch(raw_mode=True)
        batch.delete_range(prefix, after)
        batch.delete(_persisted_key(partition))
        self._db.write(batch)

    # -- looking around ------------------------------------------------------------------------------

    def scan(self, partition: int, *, after: str = "") -> Iterator[tuple[str, SessionState]]:
        """Stored sessions of a partition in key order, from the first session id greater than `after`."""
        prefix = b"s" + _PARTITION.pack(partition)
        iterator = self._db.iter()
        iterator.seek(_session_key(partition, after) + (b"\x00" if after else b""))
        while iterator.valid():
            key = iterator.key()
            if not key.startswith(prefix):
                return
            state = self._decode(iterator.value())
            if state is not None:
                yield key[len(prefix) :].decode(), state
            iterator.next()

    def record(self, partition: int, session_id: str) -> bytes | None:
        """The stored record of one session."""
        record: bytes | None = self._db.get(_session_key(partition, session_id))
        return record

    def close(self) -> None:
        self._db.close()

    def _decode(self, record: bytes | None) -> SessionState | None:
        if record is None:
            return None
        try:
            state, topic_id = decode_state(record)
        except StateDecodeError:
            self.unreadable_records += 1
            return None
        self._check_topic(topic_id)
        return state

    def _check_topic(self, topic_id: bytes) -> None:
        if topic_id != self._topic_id:
            raise InvariantError(
                f"a session record belongs to click topic id {topic_id.hex()}, the topic now has "
                f"{self._topic_id.hex()}: the topic was recreated.  Recreate the sessions topic and "
                "remove the data_dir to begin afresh"
            )


def _options() -> rocksdict.Options:
    """Small and shared: the driver's defaults (2 GiB cache, 3 x 64 MB memtables) are per partition."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(CACHE_BYTES))
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    return options
