"""Parameters of the baselines, chosen on the end of the training part and never on the test.

A baseline nobody tuned is beaten too easily (Ludewig & Jannach 2018, 1803.09587; Hidasi & Czapp 2023,
2307.14951).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.core.metrics import RankingQuality
from stream_app.core.session_neighbours import SessionKNNConfig
from stream_app.evaluation.baselines import ItemKNNConfig
from stream_app.evaluation.item2vec_neighbours import Item2VecConfig, Item2VecRanker
from stream_app.evaluation.judge import quality_of
from stream_app.evaluation.next_clicks import NextClicks, all_next_clicks
from stream_app.evaluation.rankers import ItemKNNRanker, RecentPopularityRanker
from stream_app.evaluation.session_knn import SessionKNNRanker
from stream_app.evaluation.sessions import SessionTable

TUNING_TARGETS: Final = 6_000
"""Enough to tell .01 of recall from noise; all of training but these is the past they are told from."""
SHARE_MAX: Final = 0.1

MINUTE_MS: Final = 60_000.0

ITEM_KNN_OPTIONS: Final[Mapping[str, Sequence[Any]]] = {
    "distance_decay": (0.5, 0.8),
    "backward": (0.3, 0.7),
    "self_weight": (0.2, 1.0),
    "damping": (0.0, 0.3),
}
SESSION_KNN_OPTIONS: Final[Mapping[str, Sequence[Any]]] = {
    "self_weight": (0.15, 0.3, 1.0, 2.0),
    "decay": (0.6, 1.0, 2.0, 4.0),
    "place_decay": (1.0, 1.5, 3.0),
    "backward": (0.3, 0.6, 1.0),
    "neighbours": (100, 200, 500),
    "sessions": (2000, 5000),
    "idf": (0.0, 0.5, 1.0),
}
RECENCY_HALF_LIVES_MS: Final = (None, 60 * MINUTE_MS, 1_440 * MINUTE_MS)
ITEM2VEC_OPTIONS: Final[Mapping[str, Sequence[Any]]] = {
    "decay": (0.3, 0.5, 0.7, 0.9),
    "seen_weight": (0.0, 0.7, 0.8, 0.9, 1.0),
}
POPULARITY_HALF_LIVES_MS: Final = tuple(m * MINUTE_MS for m in (7.5, 20, 60, 360, 1_440))

Config = TypeVar("Config", bound=msgspec.Struct)


def validation_part(
    train: SessionTable, *, targets: int = TUNING_TARGETS
) -> tuple[SessionTable, NextClicks]:
    """The end of the training part as a test of its own, and everything before it as its past.

    At most `targets` next clicks, and at most a tenth of the sessions.  The past reaches up to the first of
    them: 4 % of the sessions left out between cost session-kNN .013 of Recall@20 on diginetica.
    """
    sessions = train.at_least(2)
    earliest = int(sessions.n_sessions * (1 - SHARE_MAX))
    until_end = np.cumsum((sessions.lengths - 1)[::-1])
    cut = max(earliest, sessions.n_sessions - int(np.searchsorted(until_end, targets, "right")))
    if cut == sessions.n_sessions:
        return sessions, all_next_clicks(sessions.select(np.empty(0, dtype=np.int64)))
    # As the test is split off: what a session under way clicked later is in neither part.
    past, newest = sessions.split_at(int(sessions.start_ms[cut]))
    return past, all_next_clicks(newest)


def tune_session_knn(
    train: SessionTable, n_items: int, *, has_clock: bool, start: SessionKNNConfig | None = None
) -> SessionKNNConfig:
    """Coordinate by coordinate from `start`: some 20 rankings of `TUNING_TARGETS`, a minute or two."""
    past, held_out = validation_part(train)
    if past.n_sessions == 0 or held_out.n_targets == 0:
        return start or SessionKNNConfig()
    options = dict(SESSION_KNN_OPTIONS)
    if has_clock:
        options["recency_half_life_ms"] = RECENCY_HALF_LIVES_MS
    return search(
        start or SessionKNNConfig(),
        options,
        lambda config: quality_of(SessionKNNRanker(past, n_items, config), held_out),
    )


def tune_item_knn(train: SessionTable, n_items: int) -> ItemKNNConfig:
    """As `baselines.tune_item_knn`, but from all of the past."""
    past, held_out = validation_part(train)
    if past.n_sessions == 0 or held_out.n_targets == 0:
        return ItemKNNConfig()
    return search(
        ItemKNNConfig(window=10, distance_decay=0.8, backward=0.7, self_weight=1.0, damping=0.0),
        ITEM_KNN_OPTIONS,
        lambda config: quality_of(ItemKNNRanker(past, n_items, config), held_out),
    )


def tune_item2vec(
    train: SessionTable, vectors: NDArray[np.float32], known: NDArray[np.bool_]
) -> Item2VecConfig:
    """The vectors have seen the validation part, so it is a choice among few and nothing finer."""
    _, held_out = validation_part(train)
    if held_out.n_targets == 0:
        return Item2VecConfig()
    some = held_out.newest(TUNING_TARGETS // 3)
    return search(
        Item2VecConfig(),
        ITEM2VEC_OPTIONS,
        lambda config: quality_of(Item2VecRanker(vectors, known, config), some),
    )


def tune_recent_popularity(train: SessionTable, n_items: int) -> float:
    """Half-life in ms.  `train` must have a clock."""
    _, held_out = validation_part(train)
    if held_out.n_targets == 0:
        return POPULARITY_HALF_LIVES_MS[0]
    rankers = [
        RecentPopularityRanker(train, n_items, half_life_ms=ms) for ms in POPULARITY_HALF_LIVES_MS
    ]
    values = [value_of(quality_of(ranker, held_out)) for ranker in rankers]
    return POPULARITY_HALF_LIVES_MS[int(np.argmax(values))]


def search(
    start: Config, options: Mapping[str, Sequence[Any]], quality: Callable[[Config], RankingQuality]
) -> Config:
    """Best configuration by one pass over the options, each tried with the best of the others so far."""
    best, best_value = start, value_of(quality(start))
    for name, choices in options.items():
        # `best` moves on only when a parameter is done: its choices are compared under one setting.
        rest = best
        for choice in choices:
            if choice == getattr(rest, name):
                continue
            config = msgspec.structs.replace(rest, **{name: choice})
            value = value_of(quality(config))
            if value > best_value:
                best, best_value = config, value
    return best


def value_of(quality: RankingQuality) -> float:
    """What tuning maximises."""
    return quality.recall_20 + quality.mrr_20
