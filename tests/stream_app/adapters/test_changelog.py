"""Whether anyone else has written into the changelog since our last record."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.adapters.changelog import Changelog
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.errors import InvariantError


@pytest.fixture
def changelog(tmp_path: Path) -> Iterator[Changelog]:
    sessions = RocksSessions(tmp_path / "db", topic_id=b"t" * 16)
    made = Changelog("sessions", sessions, {})
    made._next_offset = {0: 10, 1: 5}
    yield made
    sessions.close()


def test_acks_that_follow_each_other_are_taken_note_of(changelog: Changelog) -> None:
    assert changelog.check(0, 10, 3) == 12
    assert changelog.check(1, 5, 1) == 5
    assert changelog.check(0, 13, 2) == 14


@pytest.mark.parametrize("base_offset", [11, 9, 0])
def test_any_other_offset_means_another_writer_and_is_remembered_as_nothing(
    changelog: Changelog, base_offset: int
) -> None:
    with pytest.raises(InvariantError, match="another writer"):
        changelog.check(0, base_offset, 1)
    assert changelog.check(0, 10, 1) == 10
