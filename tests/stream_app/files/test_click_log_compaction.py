"""Erased sessions leave the files; what is read, and which offsets are archived, stays the same."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from stream_app.cli import program
from stream_app.core.errors import ConfigurationError
from stream_app.core.records import ERASE, Click, ItemId
from stream_app.files.click_log import ClickLogWriter, list_files, read_window
from stream_app.files.click_log_compaction import compact
from stream_app.services.archive import rows_of

DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS
TOPIC_ID = bytes(range(16))


def click(offset: int, session: str, kind: str = "view_item") -> tuple[int, int, Click]:
    """Three clicks a day."""
    time_ms = START_MS + offset * DAY_MS // 3
    found = Click(
        session_id=session, item_id=ItemId(f"i{offset}"), event_time_ms=time_ms, event_type=kind
    )
    return offset, time_ms, found


def make_log(root: Path) -> None:
    """Two ranges of partition 0 over several days, one of partition 1; `gone` is erased at offset 7."""
    writer = ClickLogWriter(root, topic_id=TOPIC_ID)
    first = [click(n, ("gone", "stays", "other")[n % 3]) for n in range(6)]
    second = [click(6, "gone"), click(7, "gone", ERASE), click(8, "gone"), click(9, "stays")]
    writer.write_range("clicks", 0, 0, 5, rows_of("clicks", 0, first))
    writer.write_range("clicks", 0, 6, 9, rows_of("clicks", 0, second))
    writer.write_range("clicks", 1, 0, 0, rows_of("clicks", 1, [click(0, "stays")]))


def raw_offsets(root: Path, session: str) -> list[int]:
    """What the bytes hold, erased or not, of partition 0."""
    tables = [pq.ParquetFile(file.path).read() for file in list_files(root).complete]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(r["offset"] for r in rows if r["session_id"] == session and r["partition"] == 0)


def read(root: Path) -> pa.Table:
    return pa.concat_tables(read_window(root, anonymous=True))


def test_clicks_from_before_the_erase_event_leave_the_files(tmp_path: Path) -> None:
    make_log(tmp_path)
    before, files = read(tmp_path), list_files(tmp_path)
    assert raw_offsets(tmp_path, "gone") == [0, 3, 6, 7, 8]
    done = compact(tmp_path)
    assert (done.clicks_removed, done.rewritten) == (3, 3)
    assert done.files == len(files.complete)
    assert raw_offsets(tmp_path, "gone") == [7, 8], "the event itself, and the session begun anew"
    assert raw_offsets(tmp_path, "stays") == [1, 4, 9]
    assert read(tmp_path).equals(before)
    assert list_files(tmp_path) == files, "the same ranges under the same names"
    assert ClickLogWriter(tmp_path, topic_id=TOPIC_ID).recover("clicks", 0) == 10
    with pytest.raises(ConfigurationError, match="earlier topic"):
        ClickLogWriter(tmp_path, topic_id=bytes(16)).recover("clicks", 0)


def test_a_second_compaction_writes_nothing(tmp_path: Path) -> None:
    make_log(tmp_path)
    compact(tmp_path)
    assert compact(tmp_path).rewritten == 0


def test_clicks_that_are_archived_later_are_still_held_against_the_event(tmp_path: Path) -> None:
    """Partition 1 was archived late: its click of the same visitor came before the erase event."""
    make_log(tmp_path)
    compact(tmp_path)
    ClickLogWriter(tmp_path, topic_id=TOPIC_ID).write_range(
        "clicks", 1, 1, 1, rows_of("clicks", 1, [click(1, "gone")])
    )
    assert (
        "i1"
        not in read(tmp_path)
        .filter(pa.compute.field("session_id") == "gone")["item_id"]
        .to_pylist()
    )
    assert compact(tmp_path).clicks_removed == 1


class KilledError(BaseException):
    """No handler runs."""


@pytest.mark.parametrize("step", range(6))
def test_killed_at_any_step_it_leaves_a_whole_log_and_the_next_one_goes_on(
    tmp_path: Path, step: int
) -> None:
    make_log(tmp_path)
    before, files = read(tmp_path), list_files(tmp_path)
    steps: list[str] = []

    def kill(name: str) -> None:
        steps.append(name)
        if len(steps) > step:
            raise KilledError

    with pytest.raises(KilledError):
        compact(tmp_path, checkpoint=kill)
    assert read(tmp_path).equals(before)
    assert list_files(tmp_path) == files
    compact(tmp_path)
    assert raw_offsets(tmp_path, "gone") == [7, 8]
    assert not list(tmp_path.rglob("compact-*"))
    assert read(tmp_path).equals(before)


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_log(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        compact(tmp_path)
    assert raw_offsets(tmp_path, "gone") == [0, 3, 6, 7, 8]
    assert not list(tmp_path.rglob("compact-*"))


def test_the_command_says_what_it_did_and_takes_an_empty_log(tmp_path: Path) -> None:
    make_log(tmp_path / "log")
    said = [
        CliRunner().invoke(program, ["archive", "--compact", "--click-log", str(tmp_path / name)])
        for name in ("log", "nothing")
    ]
    assert said[0].output.endswith("3 written anew without 3 clicks of erased sessions\n")
    assert said[1].output.startswith("0 files")
    assert not (tmp_path / "nothing").exists()
