"""One RocksDB directory: opened, or put aside where it is damaged; its errors told in our words.

A damaged directory holds nothing that the changelog does not.  So it is moved to `<name>.quarantine-<n>`
beside it, for whoever wants to know why, and a fresh one is opened; restoring fills it.  Damage that shows
up while running ends the process and leaves a mark, `<name>.corrupt`, by which the next start does the same.
"""

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias, TypeVar, cast

import rocksdict

from stream_app.core.errors import ConfigurationError, InvariantError, StoreCorruptError
from stream_app.logging_setup import get_logger

CACHE_BYTES: Final = 64 * 2**20
MEMTABLE_BYTES: Final = 64 * 2**20
QUARANTINES_KEPT: Final = 2

Batch: TypeAlias = rocksdict.WriteBatch
Entry = tuple[bytes, bytes]
T = TypeVar("T")

_MEMORY: Final = {
    "memtables": "rocksdb.size-all-mem-tables",
    "block_cache": "rocksdb.block-cache-usage",
    "table_readers": "rocksdb.estimate-table-readers-mem",
}
"""Our word for a part of RocksDB's memory, and RocksDB's own."""

_HELD: Final = ("while lock file", "lock hold by")
_NOT_OURS_TO_MEND: Final = ("permission denied", "read-only file system", "too many open files")
_FULL: Final = ("no space left", "disk quota exceeded", "file too large")
_DAMAGED: Final = ("corruption", "no such file or directory")

log = get_logger("rocksdb")


class RocksDisk:
    """Raw keys and values.  Damage raises `StoreCorruptError`, every other failure `InvariantError`."""

    def __init__(self, directory: Path) -> None:
        """Raises `ConfigurationError` where the directory cannot be used or another process holds it."""
        self.directory = directory
        self._mark = directory.with_name(f"{directory.name}.corrupt")
        self.quarantined: Path | None = None
        """Where a damaged predecessor was put."""
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._mark.exists() and not _is_held(directory):
                self._put_aside(self._mark.read_text(errors="replace").strip())
        except OSError as error:
            raise ConfigurationError(
                f"data_dir {directory} cannot be used: {error.strerror}: give a directory we may write to"
            ) from error
        self._db = self._open()

    def _open(self) -> rocksdict.Rdict:
        try:
            return rocksdict.Rdict(str(self.directory), _options())
        except Exception as error:
            # Whatever is neither the machine's state nor another process's doing is damage.
            if _says(str(error), (*_HELD, *_NOT_OURS_TO_MEND, *_FULL)):
                raise _refusal(self.directory, error) from error
            self._put_aside(str(error))
        try:
            return rocksdict.Rdict(str(self.directory), _options())
        except Exception as error:
            raise _refusal(self.directory, error) from error

    def _put_aside(self, reason: str) -> None:
        pattern = f"{self.directory.name}.quarantine-"
        there = {
            int(path.name.removeprefix(pattern)): path
            for path in self.directory.parent.glob(f"{pattern}*")
            if path.name.removeprefix(pattern).isdecimal()
        }
        for n in sorted(there)[: max(0, len(there) - QUARANTINES_KEPT + 1)]:
            shutil.rmtree(there[n])
        self.quarantined = self.directory.with_name(f"{pattern}{max(there, default=0) + 1}")
        self.directory.rename(self.quarantined)
        self.directory.mkdir(mode=0o700)
        self._mark.unlink(missing_ok=True)
        log.error(
            "sessions_quarantined",
            reason=reason[:500],
            moved_to=str(self.quarantined),
            what_to_do="nothing is lost: the sessions come back from the changelog.  If it happens again, "
            "look at the disk; remove the directory once nobody wants to look at it",
        )

    # -- reading and writing -------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        return cast("bytes | None", self._guarded(self._db.get, key))

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Values in the order of the keys."""
        return cast("list[bytes | None]", self._guarded(self._db.get, keys)) if keys else []

    def write(self, batch: Batch) -> None:
        """All of it or, whatever happens, none of it."""
        self._guarded(self._db.write, batch)

    def entries(self, start: bytes, prefix: bytes, n: int) -> list[Entry]:
        """Up to `n` entries in key order, from `start` on, of keys with the prefix."""
        found = self._guarded(lambda: self._entries(start, n))
        while found and not found[-1][0].startswith(prefix):
            found.pop()
        return found

    def _entries(self, start: bytes, n: int) -> list[Entry]:
        iterator = self._db.iter()
        iterator.seek(start)
        found = []
        valid, key, value, step = iterator.valid, iterator.key, iterator.value, iterator.next
        while n and valid():
            found.append((key(), value()))
            n -= 1
            step()
        iterator.status()  # an iterator ends at damage as if it were the end, and tells only here
        return found

    def flush(self) -> None:
        """Write out what is in memory."""
        self._guarded(self._db.flush)

    def compact(self) -> None:
        """Bring the files into their smallest form; seconds for a million sessions."""
        self._guarded(self._db.compact_range, None, None)

    def memory_bytes(self) -> dict[str, int]:
        """Memory by part; microseconds, from any thread.  Empty where RocksDB does not say, or is closed."""
        try:
            sizes = {part: self._db.property_int_value(name) for part, name in _MEMORY.items()}
        except Exception:  # noqa: BLE001 - whoever looks on must not fail what works
            return {}
        return {part: size for part, size in sizes.items() if size is not None}

    def disk_bytes(self) -> int:
        """Of all files in the directory, the write-ahead log and files to be deleted included."""
        sizes = 0
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # RocksDB deletes while we look
                sizes += path.stat().st_size
        return sizes

    def close(self) -> None:
        try:
            self._db.close()
        except Exception as error:  # noqa: BLE001 - a damaged one is closed all the same
            log.warning("rocksdb_close_failed", error=str(error)[:500])

    def _guarded(self, call: Callable[..., T], *arguments: object) -> T:
        try:
            return call(*arguments)
        except Exception as error:
            raise self._told(str(error)) from error

    def _told(self, message: str) -> InvariantError:
        if _says(message, _FULL):
            return InvariantError(
                f"the disk under {self.directory} is full: {message}.  Nothing was acknowledged: make "
                "room, then start again"
            )
        if not _says(message, _DAMAGED):
            return InvariantError(f"RocksDB in {self.directory} failed: {message}")
        self._leave_mark(message)
        return StoreCorruptError(
            f"RocksDB in {self.directory} is damaged: {message}.  Start again: it is put aside, and the "
            "sessions come back from the changelog"
        )

    def _leave_mark(self, message: str) -> None:
        try:
            self._mark.write_text(message)
        except OSError as error:
            log.warning("no_mark_left", path=str(self._mark), error=str(error))


def _refusal(directory: Path, error: Exception) -> ConfigurationError | InvariantError:
    message = str(error)
    if _says(message, _FULL):
        return InvariantError(f"data_dir {directory} cannot be opened, the disk is full: make room")
    if _says(message, _HELD):
        hint = "another process holds it: give each worker a data_dir of its own"
    else:
        hint = "give a directory that we may read and write"
    return ConfigurationError(f"data_dir {directory} cannot be opened: {hint} ({message})")


def _is_held(directory: Path) -> bool:
    """Whether another process has it open: RocksDB locks this file as we try to here."""
    lock = directory / "LOCK"
    if not lock.exists():
        return False
    with lock.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _says(message: str, phrases: Sequence[str]) -> bool:
    return any(phrase in message.lower() for phrase in phrases)


def _options() -> rocksdict.Options:
    """Small and shared: Faust's defaults (2 GiB cache, 3 x 64 MB memtables) are per partition.

    A get looks into every file of level 0, so there are never more than two; the figures stand in
    DESIGN.md.  The write-ahead log stays on: batched, it costs half a microsecond a key.
    """
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_memtable_prefix_bloom_ratio(0.005)
    options.set_memtable_whole_key_filtering(True)
    options.set_level_zero_file_num_compaction_trigger(2)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(CACHE_BYTES))
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    return options
