"""Rounding, leaving out what was seen, and telling a hit from a miss."""

import json
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import count

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_app.core.ranking import SHOWN_MAX, hashes_of, rank_in_shown, round_significant, unseen
from stream_app.core.records import ItemId, ScoredItem
from stream_app.core.vocabulary import item_hash
from tests.strategies import ids

_large, _small = float(np.float32(1e18)), float(np.float32(1e-18))
scores = st.floats(_small, _large, width=32) | st.floats(-_large, -_small, width=32) | st.just(0.0)
"""Every score that a model may give, and far beyond."""


def _items(item_ids: list[str]) -> list[ScoredItem]:
    return [ScoredItem(item_id, 1.0 / rank, rank) for rank, item_id in enumerate(item_ids, 1)]


@given(st.lists(scores, min_size=1, max_size=8), st.integers(1, 5))
@example([0.1, 0.3, 1e-5, 1e5, 99999.5, 999999.5, 9.9999999e-10], 5)
def test_a_rounded_score_prints_short_and_is_the_nearest(values: list[float], digits: int) -> None:
    rounded = round_significant(np.array(values, dtype=np.float32), digits)
    assert rounded.dtype == np.float64
    for value, short in zip(values, rounded.tolist(), strict=True):
        printed = Decimal(json.dumps(short))
        assert len(printed.normalize().as_tuple().digits) <= digits
        nearest = Context(prec=digits, rounding=ROUND_HALF_EVEN).create_decimal(Decimal(value))
        # On the border of two neighbours float arithmetic may take either.
        distance, least = abs(printed - Decimal(value)), abs(nearest - Decimal(value))
        assert distance <= least * (1 + Decimal("1e-6")) + abs(Decimal(value)) * Decimal("1e-15")


def test_a_score_next_to_nothing_is_nothing_and_not_nan() -> None:
    """The share of an item that nobody clicked for six weeks, at a half-life of an hour."""
    rounded = round_significant(
        np.exp2(np.array([0.0, -980.0, -1010.0, -1060.0, -1074.0, -2000.0]))
    )
    assert rounded[0] == 1
    assert rounded[1] > 0
    assert rounded[3:].tolist() == [0, 0, 0]
    assert np.isfinite(rounded).all()


@given(st.lists(scores, min_size=1, max_size=8))
def test_rounding_keeps_the_order_and_is_done_once(values: list[float]) -> None:
    ordered = np.sort(np.array(values, dtype=np.float32))
    rounded = round_significant(ordered)
    assert (np.diff(rounded) >= 0).all()
    np.testing.assert_array_equal(round_significant(rounded), rounded)


@given(st.lists(scores, min_size=6, max_size=6))
def test_rounding_a_table_is_rounding_each_of_its_cells(values: list[float]) -> None:
    table = np.array(values, dtype=np.float32).reshape(2, 3)
    one_by_one = [[round_significant(table[i, j : j + 1])[0] for j in range(3)] for i in range(2)]
    np.testing.assert_array_equal(round_significant(table), one_by_one)


def test_rounding_nothing_gives_nothing() -> None:
    assert round_significant(np.empty((0, 20), dtype=np.float32)).shape == (0, 20)


@given(st.lists(ids, unique=True, max_size=12), st.lists(ids, max_size=6), st.integers(1, 12))
def test_seen_items_are_left_out_and_the_rest_ranked_anew(
    shown: list[str], seen: list[str], top_k: int
) -> None:
    seen += shown[::3]
    kept = unseen(_items(shown), seen, top_k)
    assert [item.item_id for item in kept] == [i for i in shown if i not in set(seen)][:top_k]
    assert [item.rank for item in kept] == list(range(1, len(kept) + 1))
    score_of = {item.item_id: item.score for item in _items(shown)}
    assert all(item.score == score_of[item.item_id] for item in kept)


@given(st.lists(ids, unique=True, max_size=25), ids)
def test_the_rank_in_what_was_shown_is_found_as_by_counting(shown: list[str], other: str) -> None:
    remembered = hashes_of(_items(shown))
    assert len(remembered) == 4 * min(len(shown), SHOWN_MAX)
    hashes = [item_hash(item_id) for item_id in shown[:SHOWN_MAX]]
    for item_id in [*shown, other]:
        wanted = item_hash(item_id)
        expected = hashes.index(wanted) + 1 if wanted in hashes else 0
        assert rank_in_shown(remembered, ItemId(item_id)) == expected


@given(st.integers(0, 19), st.integers(1, 3), st.booleans())
def test_a_match_across_two_hashes_is_no_hit(place: int, shift: int, and_later: bool) -> None:
    """The bytes of the wanted hash may stand where no hash begins."""
    wanted = item_hash("a").to_bytes(4, "little")
    shown = bytearray(b"\x00" * 80)
    at = 4 * place + shift
    shown[at : at + 4] = wanted
    shown = shown[:80]
    assert rank_in_shown(bytes(shown), ItemId("a")) == 0
    if and_later:
        assert rank_in_shown(bytes(shown) + wanted, ItemId("a")) == 21


def test_a_hit_is_found_behind_a_match_that_overlaps_it() -> None:
    """`abca` at 1 hides the one at 4 from a search that skips what it has seen."""
    names = (f"item-{i}" for i in count())
    item = next(n for n in names if (h := item_hash(n).to_bytes(4, "little"))[0] == h[3])
    wanted = item_hash(item).to_bytes(4, "little")
    assert rank_in_shown(b"\xff" + wanted[:3] + wanted, ItemId(item)) == 2


def test_of_an_item_shown_twice_the_better_rank_counts() -> None:
    assert rank_in_shown(hashes_of(_items(["b", "a", "a"])), ItemId("a")) == 2


@pytest.mark.parametrize("item_id", ["a", "", "é"])
def test_where_nothing_was_shown_nothing_is_a_hit(item_id: str) -> None:
    assert rank_in_shown(b"", ItemId(item_id)) == 0
