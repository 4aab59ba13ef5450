"""Pairs of a benchmark file, and sessions, as one kind of question."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.errors import ClickFileError
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.next_clicks import NextClicks, next_clicks_of_pairs, read_pairs
from stream_app.evaluation.sessions import vocabulary_of_sequences
from stream_app.files.click_files import read_sequences
from tests.stream_app.evaluation.tables import next_clicks

DATA = Path(__file__).parents[4] / "shared" / "data"

pairs = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(-1, 2)),
    min_size=1,
    max_size=20,
)


def as_pairs(asked: NextClicks) -> list[tuple[list[int], int]]:
    starts = asked.sessions.session_starts[asked.session_numbers]
    items = asked.sessions.item_indexes
    return [
        (items[start:position].tolist(), int(items[position]))
        for start, position in zip(starts, asked.positions, strict=True)
    ]


@given(pairs)
def test_joining_pairs_loses_none_and_invents_none(
    given_pairs: list[tuple[list[int], int]],
) -> None:
    prefixes, labels = zip(*given_pairs, strict=True)
    asked = next_clicks_of_pairs(prefixes, labels)
    assert sorted(as_pairs(asked)) == sorted(given_pairs)


def test_the_pairs_of_one_session_become_one_session() -> None:
    asked = next_clicks_of_pairs([[5, 6, 7], [5, 6], [5], [5]], [8, 7, 6, 6])
    assert asked.sessions.lengths.tolist() == [4, 2]
    assert as_pairs(asked) == [([5], 6), ([5, 6], 7), ([5, 6, 7], 8), ([5], 6)]


def test_the_newest_sessions_are_kept_whole() -> None:
    asked = next_clicks([[1, 2, 3], [4, 5], [6, 7, 8]])
    assert as_pairs(asked.newest(3)) == [([4], 5), ([6], 7), ([6, 7], 8)]
    assert as_pairs(asked.newest(2)) == [([6], 7), ([6, 7], 8)]
    assert as_pairs(asked.newest(4)) == [([4], 5), ([6], 7), ([6, 7], 8)], "a session is not cut"
    assert asked.newest(5) is asked


@pytest.mark.parametrize("ids", [(1, 2, 3), ("1", "2", "3")])
def test_ids_may_be_numbers_or_strings(tmp_path: Path, ids: tuple[object, ...]) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"prefix": [list(ids[:2]), [ids[0]]], "label": [ids[2], ids[1]]}), path)
    asked = read_pairs(path, ItemVocabulary(["1", "2"]))
    assert as_pairs(asked) == [([0], 1), ([0, 1], -1)]


def test_what_holds_no_pairs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    vocabulary = ItemVocabulary(["1"])
    with pytest.raises(ClickFileError, match="does not exist"):
        read_pairs(path, vocabulary)
    pq.write_table(pa.table({"item_id": [1]}), path)
    with pytest.raises(ClickFileError, match="holds no pairs"):
        read_pairs(path, vocabulary)
    pq.write_table(pa.table({"prefix": [1], "label": [1]}), path)
    with pytest.raises(ClickFileError, match="must hold lists"):
        read_pairs(path, vocabulary)
    pq.write_table(pa.table({"prefix": pa.array([[]], pa.list_(pa.int64())), "label": [1]}), path)
    with pytest.raises(ClickFileError, match="empty prefix"):
        read_pairs(path, vocabulary)


@pytest.mark.data
@pytest.mark.parametrize(("name", "n"), [("yoochoose1_64_seq", 55_696), ("diginetica_seq", 60_858)])
def test_the_literatures_pairs_are_all_there_and_their_items_known(name: str, n: int) -> None:
    directory = DATA / name
    if not directory.is_dir():
        pytest.skip(f"{directory} is absent")
    vocabulary = vocabulary_of_sequences(read_sequences(directory / "sequences.parquet"))
    asked = read_pairs(directory / "test_pairs.parquet", vocabulary)
    assert asked.n_targets == n
    assert (asked.targets >= 0).all()
    assert asked.sessions.n_clicks < 2 * n, "joined, not one session each"
