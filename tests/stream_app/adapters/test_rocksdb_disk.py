"""Damaged RocksDB directories, damaged for real."""

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_app.adapters.rocksdb_disk import QUARANTINES_KEPT, Batch, RocksDisk
from stream_app.core.errors import ConfigurationError, StoreCorruptError
from tests.damage import DAMAGE, a_file, flip_bytes

KEYS = [b"s%08d" % n for n in range(4_000)]


def fill(directory: Path) -> None:
    """Two files of some 700 KB, and a write-ahead log."""
    disk = RocksDisk(directory)
    for seed in (1, 2):
        batch, rng = Batch(raw_mode=True), random.Random(seed)
        for key in KEYS:
            batch.put(key, rng.randbytes(180))
        disk.write(batch)
        disk.flush()
    put(disk, b"last", b"1")
    disk.close()


def put(disk: RocksDisk, key: bytes, value: bytes) -> None:
    batch = Batch(raw_mode=True)
    batch.put(key, value)
    disk.write(batch)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_directory_that_does_not_open_is_put_aside_and_a_fresh_one_opened(
    tmp_path: Path, damage: str
) -> None:
    directory = tmp_path / "sessions"
    fill(directory)
    before = {path.name for path in directory.iterdir()}
    DAMAGE[damage](directory)
    disk = RocksDisk(directory)
    assert disk.quarantined == tmp_path / "sessions.quarantine-1"
    assert "LOCK" in {path.name for path in disk.quarantined.iterdir()} & before
    assert disk.get(KEYS[0]) is None
    put(disk, b"a", b"b")
    disk.close()
    again = RocksDisk(directory)
    assert (again.quarantined, again.get(b"a")) == (None, b"b")
    again.close()


def _compact(disk: RocksDisk) -> None:
    """As in the background, where nobody is told; from then on RocksDB takes no writes."""
    with contextlib.suppress(StoreCorruptError):
        disk.compact()


READS: dict[str, Callable[[RocksDisk], object]] = {
    "get": lambda disk: [disk.get(key) for key in KEYS],
    "get_many": lambda disk: disk.get_many(KEYS),
    "entries": lambda disk: disk.entries(b"s", b"s", 10_000),
    "write": lambda disk: (put(disk, KEYS[0], b"a"), _compact(disk), put(disk, b"b", b"c")),
}


@pytest.mark.parametrize("read", READS)
def test_damage_that_shows_while_running_ends_the_process_and_the_next_start_knows(
    tmp_path: Path, read: str
) -> None:
    """It opens, since nobody has looked into the middle of the file yet."""
    directory = tmp_path / "sessions"
    fill(directory)
    flip_bytes(a_file(directory, "*.sst"), at=0.5)
    disk = RocksDisk(directory)
    assert disk.quarantined is None
    with pytest.raises(StoreCorruptError, match="back from the changelog"):
        READS[read](disk)
    disk.close()
    again = RocksDisk(directory)
    assert again.quarantined is not None
    assert again.get_many(KEYS) == [None] * len(KEYS)
    again.close()
    third = RocksDisk(directory)
    assert third.quarantined is None
    third.close()


def test_no_more_than_two_damaged_directories_are_kept(tmp_path: Path) -> None:
    directory = tmp_path / "sessions"
    (tmp_path / "sessions.quarantine-notes").mkdir()
    for n in range(1, 5):
        RocksDisk(directory).close()
        (directory / "CURRENT").write_bytes(b"")
        disk = RocksDisk(directory)
        assert disk.quarantined == tmp_path / f"sessions.quarantine-{n}"
        disk.close()
    kept = sorted(path.name for path in tmp_path.glob("sessions.quarantine-[0-9]*"))
    assert kept == ["sessions.quarantine-3", "sessions.quarantine-4"]
    assert len(kept) == QUARANTINES_KEPT
    assert (tmp_path / "sessions.quarantine-notes").exists()


@pytest.mark.parametrize("is_marked", [False, True])
def test_a_directory_that_another_process_holds_is_neither_opened_nor_moved(
    tmp_path: Path, is_marked: bool
) -> None:
    directory = tmp_path / "sessions"
    code = (
        "import sys, pathlib; from stream_app.adapters.rocksdb_disk import RocksDisk; "
        "disk = RocksDisk(pathlib.Path(sys.argv[1])); print('open', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        if is_marked:
            (tmp_path / "sessions.corrupt").write_text("block checksum mismatch")
        with pytest.raises(ConfigurationError, match="data_dir of its own"):
            RocksDisk(directory)
        holder.communicate(b"\n")
    assert not list(tmp_path.glob("*.quarantine-*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_we_may_not_write_to_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    directory = tmp_path / "sessions"
    fill(directory)
    directory.chmod(0o500)
    try:
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            RocksDisk(directory)
    finally:
        directory.chmod(0o700)
    assert not list(tmp_path.glob("*.quarantine-*"))


def test_what_is_written_is_in_a_memtable_until_it_is_flushed_to_a_file(tmp_path: Path) -> None:
    disk = RocksDisk(tmp_path / "sessions")
    put(disk, b"a", random.Random(0).randbytes(1_000_000))
    assert disk.memory_bytes()["memtables"] > 1_000_000
    assert disk.disk_bytes() > 1_000_000  # the log
    disk.flush()
    assert disk.memory_bytes()["memtables"] < 1_000_000
    assert disk.disk_bytes() > 1_000_000
    disk.close()


def test_a_closed_store_has_no_memory_to_tell_of(tmp_path: Path) -> None:
    disk = RocksDisk(tmp_path / "sessions")
    disk.close()
    assert disk.memory_bytes() == {}
