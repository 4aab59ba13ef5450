"""Erased sessions leave the click log for good: files that still hold their clicks are written anew.

Reading leaves such clicks out already; this removes their bytes.  A file keeps its name, so which offsets
are archived stays as it was, and so do erase events: a part of the log that is archived only later may
still hold clicks that came before one.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from stream_app.core.errors import ConfigurationError
from stream_app.core.records import ERASE
from stream_app.files.click_log import INCOMING, Erasures, fsync_directory, list_files, opened

_PREFIX: Final = "compact-"


@dataclass(slots=True)
class Compacted:
    """What a compaction did."""

    files: int = 0
    """Looked at."""
    rewritten: int = 0
    clicks_removed: int = 0


def compact(root: str | Path, *, checkpoint: Callable[[str], None] = lambda _: None) -> Compacted:
    """Write every file anew that holds clicks of a session from before its erase event.

    May run beside an archive and beside readers, and may be killed at any point: a file is replaced by
    one rename (on object stores by one write).  One file is in memory at a time.  checkpoint: called
    with the name of each step once it is done; tests crash there.  Raises `ConfigurationError` where
    another compaction runs, `ClickFileError` for an unreadable file, `OSError` if one cannot be written.
    """
    fs, base = fsspec.core.url_to_fs(str(root))
    local = isinstance(fs, LocalFileSystem)
    done = Compacted()
    complete = list_files(root).complete
    if not complete:
        return done
    with _alone(Path(base, INCOMING)) if local else _unguarded():
        erasures = Erasures.read(fs, complete)
        for file in complete:
            done.files += 1
            with opened(fs, file.path) as parquet:
                if not erasures.may_touch(parquet):
                    continue
                table = parquet.read()
            kept = _without_erased(table, erasures)
            if len(kept) == len(table):
                continue
            kept = kept.replace_schema_metadata(table.schema.metadata)
            if local:
                _replace(Path(file.path), Path(base, INCOMING), kept, checkpoint)
            else:
                with fs.open(file.path, "wb") as stream:
                    pq.write_table(kept, stream, compression="zstd")
            done.rewritten += 1
            done.clicks_removed += len(table) - len(kept)
    return done


def _without_erased(table: pa.Table, erasures: Erasures) -> pa.Table:
    """In the order of the offsets, as the archive writes it; erase events stay."""
    events = table.filter(pc.equal(table["event_type"], ERASE))
    return pa.concat_tables([erasures.apply(table), events]).sort_by("offset")


def _replace(
    target: Path, incoming: Path, table: pa.Table, checkpoint: Callable[[str], None]
) -> None:
    temporary = incoming / f"{_PREFIX}{uuid4().hex}.parquet"
    try:
        with temporary.open("wb") as stream:
            pq.write_table(table, stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        checkpoint("file_written")
        temporary.rename(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(target.parent)
    checkpoint("file_in_place")


@contextmanager
def _alone(incoming: Path) -> Iterator[None]:
    """One compaction at a time; what a killed one left goes first."""
    incoming.mkdir(parents=True, exist_ok=True)
    with (incoming / "compaction.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another compaction of {incoming.parent} is running: wait for it"
            ) from error
        for leftover in incoming.glob(f"{_PREFIX}*.parquet"):
            leftover.unlink(missing_ok=True)
        yield


@contextmanager
def _unguarded() -> Iterator[Any]:
    """Object stores have no locks; two compactions would write the same files, alike."""
    yield
