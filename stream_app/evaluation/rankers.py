"""One shape for everything that ranks: lists of items for chosen positions of sessions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation.baselines import ItemKNNConfig, item_neighbours
from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.sessions import SessionTable

ROWS_TOGETHER = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Ranked lists of some of the targets.

    rows: int64 [n], which targets (places in `NextClicks.positions`).  items: int64 [n, k], best
    first, -1 where a list ends early.  scores: float [n, k], falling; -inf where a list has ended.
    """

    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    scores: NDArray[np.floating]


class Ranker(Protocol):
    """Ranks the whole catalogue; item indexes are those of the one vocabulary of an evaluation."""

    @property
    def name(self) -> str: ...

    @property
    def catalogue(self) -> NDArray[np.bool_]:
        """Items it can list at all, bool [n_items]; any other target is a certain miss."""
        ...

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        """Best `k` items for every target, each target once, in any order.

        A list may use what lies before its position in the session, and nothing after.
        """
        ...


class PopularityRanker:
    """Most clicked in the training part, the same list for everyone."""

    name = "popularity"

    def __init__(self, train: SessionTable, n_items: int) -> None:
        self._support = train.support(n_items)
        self.catalogue: NDArray[np.bool_] = self._support > 0

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        items, scores = best_of(self._support.astype(np.float64), k)
        for rows in in_parts(asked.n_targets):
            shape = (len(rows), k)
            yield Lists(rows, np.broadcast_to(items, shape), np.broadcast_to(scores, shape))


class RecentPopularityRanker:
    """Largest decayed click counts at the moment of each answer, learned while it is judged.

    As `recent_popularity.evaluate_recent_popularity`: click counts halve every half-life (forward decay,
    Cormode et al. 2009), and an answer counts every click up to the one it follows.
    """

    name = "recent-popularity"

    def __init__(self, clicks: SessionTable, n_items: int, *, half_life_ms: float) -> None:
        """clicks: all there were, those of the judged sessions included."""
        order = np.argsort(clicks.click_ms, kind="stable")
        order = order[clicks.item_indexes[order] >= 0]
        self._items, self._ms = clicks.item_indexes[order], clicks.click_ms[order]
        self._half_life_ms = half_life_ms
        self._n_items = n_items
        self.catalogue: NDArray[np.bool_] = clicks.support(n_items) > 0

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        if asked.n_targets == 0:
            return
        asked_ms = asked.sessions.click_ms[asked.positions - 1]
        start_ms = int(asked_ms.min())
        age = (self._ms - start_ms) / self._half_life_ms
        until = np.searchsorted(self._ms, asked_ms, side="right")
        counted = int(np.searchsorted(self._ms, start_ms, side="left"))
        counts = np.bincount(
            self._items[:counted], weights=np.exp2(age[:counted]), minlength=self._n_items
        )
        keys = np.full(self._n_items, -np.inf)
        np.log2(counts, where=counts > 0, out=keys)
        by_time = np.argsort(asked_ms, kind="stable")
        for part in in_parts(asked.n_targets):
            rows = by_time[part]
            items = np.empty((len(rows), k), dtype=np.int64)
            scores = np.empty((len(rows), k))
            for place, row in enumerate(rows.tolist()):
                for click in range(counted, int(until[row])):
                    keys[self._items[click]] = np.logaddexp2(keys[self._items[click]], age[click])
                if place == 0 or until[row] > counted:
                    best = best_of(keys, k)
                counted = max(counted, int(until[row]))
                items[place], scores[place] = best
            yield Lists(rows, items, scores)


class ItemKNNRanker:
    """Items most similar to the last clicked one; see `baselines.evaluate_item_knn`."""

    name = "item-knn"

    def __init__(self, train: SessionTable, n_items: int, config: ItemKNNConfig) -> None:
        self.config = config
        self.catalogue: NDArray[np.bool_] = train.support(n_items) > 0
        self._starts, self._neighbours, self._weights = item_neighbours(train, n_items, config)

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        clicked = asked.sessions.item_indexes[asked.positions - 1]
        places = np.arange(k)
        for rows in in_parts(asked.n_targets):
            known = clicked[rows] >= 0
            item = np.maximum(clicked[rows], 0)
            start, end = self._starts[item], np.where(known, self._starts[item + 1], 0)
            if len(self._neighbours) == 0:
                yield empty_lists(rows, k)
                continue
            entry = start[:, None] + places
            missing = entry >= end[:, None]
            entry[missing] = 0
            yield Lists(
                rows,
                np.where(missing, -1, self._neighbours[entry]),
                np.where(missing, -np.inf, self._weights[entry]),
            )


def best_of(scores: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Best `k` of one row of scores as items and scores, [k]; what scores -inf is left out."""
    n = min(k, len(scores))
    top = np.argpartition(-scores, n - 1)[:n] if n < len(scores) else np.arange(n)
    top = top[np.argsort(-scores[top], kind="stable")]
    items = np.full(k, -1, dtype=np.int64)
    values = np.full(k, -np.inf)
    values[:n] = scores[top]
    items[:n] = np.where(values[:n] > -np.inf, top, -1)
    return items, values


def best_of_rows(
    scores: NDArray[np.floating], k: int
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The same for every row of [n, n_items]; returns [n, k] each."""
    n = min(k, scores.shape[1])
    top = np.argpartition(-scores, n - 1, axis=1)[:, :n]
    values = np.take_along_axis(scores, top, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    top, values = np.take_along_axis(top, order, axis=1), np.take_along_axis(values, order, axis=1)
    top = np.where(values > -np.inf, top, -1)
    if n < k:
        wide = ((0, 0), (0, k - n))
        top = np.pad(top, wide, constant_values=-1)
        values = np.pad(values, wide, constant_values=-np.inf)
    return top.astype(np.int64, copy=False), values


def empty_lists(rows: NDArray[np.int64], k: int) -> Lists:
    return Lists(rows, np.full((len(rows), k), -1), np.full((len(rows), k), -np.inf))


def in_parts(n: int, size: int = ROWS_TOGETHER) -> Iterator[NDArray[np.int64]]:
    """0 .. n - 1 in runs of at most `size`."""
    for first in range(0, n, size):
        yield np.arange(first, min(first + size, n))
