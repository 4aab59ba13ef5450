"""item2vec: items that are together end up close."""

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the training environment")

from models.config import Item2VecConfig
from models.item2vec import _blocks, _cbow_batches, _skip_gram_batches, train_item2vec
from stream_app.evaluation.sessions import SessionTable

Architecture = Literal["skip-gram", "cbow"]
both = pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])


def table(sessions: list[list[int]]) -> SessionTable:
    starts = np.cumsum([0, *map(len, sessions)])
    items = np.array([item for session in sessions for item in session], dtype=np.int64)
    return SessionTable(items, starts, np.repeat(np.arange(len(sessions)), np.diff(starts)))


def groups(n_sessions: int = 400, *, noise: float = 0.1) -> SessionTable:
    """Four groups of ten items; a session stays in its group but for some noise."""
    rng = np.random.default_rng(0)
    sessions = []
    for _ in range(n_sessions):
        items = rng.integers(0, 10, 6) + 10 * rng.integers(0, 4)
        strays = rng.random(6) < noise
        items[strays] = rng.integers(0, 40, strays.sum())
        sessions.append(items.tolist())
    return table(sessions)


def cosines(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


@both
def test_items_seen_together_are_each_others_nearest(architecture: Architecture) -> None:
    config = Item2VecConfig(
        architecture=architecture, dim=16, epochs=20, batch_size=256, subsample=0
    )
    near = cosines(train_item2vec(groups(), 40, config))
    np.fill_diagonal(near, -1)
    nearest = near.argsort(axis=1)[:, -9:]
    same_group = nearest // 10 == np.arange(40)[:, None] // 10
    assert same_group.mean() > 0.95


@both
def test_the_same_seed_gives_the_same_vectors_bit_for_bit(architecture: Architecture) -> None:
    config = Item2VecConfig(architecture=architecture, dim=8, epochs=2, batch_size=128)
    one, other = (train_item2vec(groups(50), 40, config) for _ in range(2))
    assert one.dtype == np.float32
    assert one.shape == (40, 8)
    assert np.array_equal(one, other)


def test_skip_gram_pairs_every_two_clicks_within_the_window_of_one_session() -> None:
    sessions = table([[0, 1, 2, 3], [4, 5]] * 30)
    config = Item2VecConfig(window=2, subsample=0, batch_size=50)
    pairs: set[tuple[int, int]] = set()
    for given, mask, wanted in _skip_gram_batches(
        sessions, sessions.support(6), config, np.random.default_rng(0)
    ):
        assert mask is None
        pairs |= set(zip(given.tolist(), wanted.tolist(), strict=True))
    one_way = {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (4, 5)}
    assert pairs == one_way | {(b, a) for a, b in one_way}


def test_cbow_gives_each_click_the_others_within_the_window_of_its_session() -> None:
    sessions = table([[0, 1, 2, 3], [4, 5]] * 30)
    config = Item2VecConfig(architecture="cbow", window=2, subsample=0, batch_size=50)
    around: dict[int, set[int]] = {item: set() for item in range(6)}
    for given, mask, wanted in _cbow_batches(
        sessions, sessions.support(6), config, np.random.default_rng(0)
    ):
        assert mask is not None
        for items, used, item in zip(given, mask, wanted.tolist(), strict=True):
            around[item] |= set(items[used > 0].tolist())
    assert around == {0: {1, 2}, 1: {0, 2, 3}, 2: {0, 1, 3}, 3: {1, 2}, 4: {5}, 5: {4}}


def test_frequent_items_are_thinned_out_as_word2vec_does() -> None:
    """Item 0 has half of all clicks; t = .001 keeps sqrt(t/f) + t/f = .0467 of them."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, 2001, 40_000)
    items[::2] = 0
    sessions = table(items.reshape(-1, 4).tolist())
    support = sessions.support(2001)
    config = Item2VecConfig(subsample=1e-3)
    kept = np.concatenate([b for b, _ in _blocks(sessions, support, config, rng)])
    assert (kept == 0).sum() / 20_000 == pytest.approx(0.0467, abs=0.006)
    assert (kept != 0).sum() == 20_000, "rare items are all kept"


def test_known_vectors_are_gone_on_from_and_absent_items_keep_theirs() -> None:
    start = np.full((41, 8), 0.25, dtype=np.float32)
    config = Item2VecConfig(dim=8, epochs=3, batch_size=128)
    vectors = train_item2vec(groups(50), 45, config, start=start)
    assert vectors.shape == (45, 8)
    assert np.array_equal(vectors[40], start[40]), "item 40 was never clicked"
    assert not np.array_equal(vectors[:40], start[:40])


def test_unknown_items_and_empty_logs_are_survived() -> None:
    config = Item2VecConfig(dim=4, epochs=1)
    assert np.isfinite(train_item2vec(table([[0, -1, 1]]), 3, config)).all()
    assert train_item2vec(table([]), 3, config).shape == (3, 4)
    assert train_item2vec(table([[1], [2]]), 3, config).shape == (3, 4)
