"""Small parts of an answer: rounding, leaving out what was seen, and whether it was a hit."""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.records import ItemId, ScoredItem
from stream_app.core.vocabulary import item_hash

SHOWN_MAX: Final = 20
"""A session remembers so many of the items it was shown; the live hit rate is cut there."""


_POWERS_OF_TEN: Final = 10.0 ** np.arange(309)


def round_significant(values: NDArray[np.floating], digits: int = 5) -> NDArray[np.float64]:
    """Round to significant digits, any shape.  17-digit floats would make up half of a record.

    The nearest, and short when printed, for magnitudes from 1e-18 (at 5 digits) to 1e22: beyond,
    powers of ten are no exact floats.  What is below 1e-300 becomes 0.

    >>> round_significant(np.array([123456.0, -0.00123456, 0.0])).tolist()
    [123460.0, -0.0012346, 0.0]
    """
    exact = np.asarray(values, dtype=np.float64)
    size = np.abs(exact)
    size[size == 0] = 1.0
    decimals = digits - 1 - np.floor(np.log10(size)).astype(np.intp)
    # Dividing by a power of ten, not multiplying by its inexact inverse, gives the nearest float
    # of the short decimal, which is what prints short.
    up = _POWERS_OF_TEN.take(np.maximum(decimals, 0), mode="clip")
    if decimals.size == 0 or decimals.min() >= 0:
        rounded: NDArray[np.float64] = np.rint(exact * up) / up
        return rounded
    down = _POWERS_OF_TEN.take(np.maximum(-decimals, 0), mode="clip")
    rounded = np.rint(exact / down * up) / up
    return rounded * down


def unseen(items: Sequence[ScoredItem], seen: Collection[str], top_k: int) -> list[ScoredItem]:
    """The first `top_k` not in `seen`, ranked anew from 1."""
    kept = [item for item in items if item.item_id not in seen][:top_k]
    return [ScoredItem(item.item_id, item.score, rank) for rank, item in enumerate(kept, 1)]


def hashes_of(items: Sequence[ScoredItem]) -> bytes:
    """What a session remembers of a list: `item_hash` of its first items, uint32 little-endian."""
    hashes = [item_hash(item.item_id) for item in items[:SHOWN_MAX]]
    return np.array(hashes, dtype="<u4").tobytes()


def rank_in_shown(shown_hashes: bytes, item_id: ItemId) -> int:
    """Rank (from 1) of the item in the list a session was shown, 0 if it is not there.

    >>> rank_in_shown(hashes_of([ScoredItem("a", 1.0, 1), ScoredItem("b", 0.5, 2)]), "b")
    2
    """
    wanted = item_hash(item_id).to_bytes(4, "little")
    at = shown_hashes.find(wanted)
    while at % 4 > 0:  # found across the border of two hashes; -1 % 4 is 3, hence the test below
        if at < 0:
            return 0
        at = shown_hashes.find(wanted, at + 1)
    return at // 4 + 1
