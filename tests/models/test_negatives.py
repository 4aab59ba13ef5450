"""Negatives are drawn by support ** alpha, exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.negatives import BLOCK, NegativeSampler, _alias_table, sampling_weights


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60))
def test_the_alias_table_gives_every_item_its_share(support: list[int]) -> None:
    weights = np.array(support, dtype=np.float64)
    keep, alias = _alias_table(weights)
    share = keep.copy()
    np.add.at(share, alias, 1 - keep)
    assert share / len(weights) == pytest.approx(weights / weights.sum(), rel=1e-9, abs=1e-12)


def test_a_rare_item_among_millions_of_clicks_keeps_its_share() -> None:
    """A float32 cumulative sum would lose it."""
    weights = np.full(300_000, 1_000.0)
    weights[-1] = 0.5
    keep, alias = _alias_table(weights)
    share = keep[-1] + (1 - keep[alias == len(weights) - 1]).sum() * (alias[-1] != len(weights) - 1)
    assert share / len(weights) == pytest.approx(0.5 / weights.sum(), rel=1e-6)


def test_draws_follow_the_weights() -> None:
    support = np.array([1, 10, 100, 1000])
    sampler = NegativeSampler(sampling_weights(support, 0.5), np.random.default_rng(1))
    drawn = np.bincount(sampler.draw(400_000), minlength=4) / 400_000
    expected = support**0.5 / (support**0.5).sum()
    assert drawn == pytest.approx(expected, abs=0.004)


def test_draws_go_on_across_blocks() -> None:
    sampler = NegativeSampler(np.ones(50), np.random.default_rng(1))
    for n in (1000, BLOCK - 10, 100):
        assert len(sampler.draw(n)) == n


def test_the_same_seed_draws_the_same() -> None:
    one, other = (NegativeSampler(np.ones(9), np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one.draw(1000), other.draw(1000))


def test_alpha_zero_is_uniform_and_one_is_popularity() -> None:
    support = np.array([0, 1, 4])
    assert sampling_weights(support, 0.0).tolist() == [1, 1, 1]
    assert sampling_weights(support, 1.0).tolist() == [1, 1, 4]
