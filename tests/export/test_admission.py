"""Which items come in, which go, and that the order of those who stay is kept."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the training environment")

from export.admission import admitted_items, with_new_items
from export.window import Window
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable
from stream_app.settings import RetrainSettings


def window_of(clicks: str) -> Window:
    """Sessions of one-letter items, a click a millisecond: "ab ac d"."""
    sessions = clicks.split()
    letters = "".join(sessions)
    vocabulary = ItemVocabulary(dict.fromkeys(letters))
    items = np.array([vocabulary.index_of[letter] for letter in letters], dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum([len(session) for session in sessions])))
    table = SessionTable(items, starts.astype(np.int64), np.arange(len(items), dtype=np.int64))
    return Window(vocabulary, table, len(items) - 1)


def test_everything_comes_in_while_there_is_room() -> None:
    window = window_of("dca ab")
    assert admitted_items(window, RetrainSettings()) is window.vocabulary


@pytest.mark.parametrize(
    ("items_max", "clicks_min", "expected"),
    [
        (3, 1, "bac"),  # most clicked: a 4, b 3, c 2, then d and e with one each
        (4, 1, "bace"),  # e was clicked after d
        (9, 2, "bac"),
        (2, 2, "ba"),
        (9, 5, ""),
    ],
)
def test_the_most_and_then_the_newest_clicked_come_in(
    items_max: int, clicks_min: int, expected: str
) -> None:
    window = window_of("bad ac bae abc")
    settings = RetrainSettings(items_max=items_max, item_clicks_min=clicks_min)
    assert "".join(admitted_items(window, settings).ids) == expected


def test_new_items_are_put_behind_the_known_ones_as_far_as_there_is_room() -> None:
    window = window_of("xya xzb yzc zb")
    known = ItemVocabulary("xyz")
    seen = known.extended(window.vocabulary.ids)
    rows = np.array([seen.index_of[item] for item in window.vocabulary.ids])
    table = SessionTable(
        rows[window.sessions.item_indexes],
        window.sessions.session_starts,
        window.sessions.click_ms,
    )

    def ids(items_max: int, clicks_min: int = 1) -> str:
        settings = RetrainSettings(items_max=items_max, item_clicks_min=clicks_min)
        return "".join(with_new_items(known, table, seen, settings).ids)

    assert ids(100) == "xyzabc"
    assert ids(5) == "xyzbc"
    assert ids(100, clicks_min=2) == "xyzb"
    assert ids(2) == "xyz"
