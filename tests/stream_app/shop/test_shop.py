"""The simulated shop: deterministic, with statistics that are what they claim to be."""

import hashlib
from collections import Counter, defaultdict
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from stream_app.core.clicks import decode_click, encode_click
from stream_app.core.records import Click
from stream_app.shop.behaviour import CUT, Behaviour, HiddenState, Transitions
from stream_app.shop.catalogue import N_CATEGORIES, SHELVES, STYLES
from stream_app.shop.shop import N_ITEMS, Shop, Traffic

START_MS = 1_700_000_000_000
GOLDEN = (522, "8a63e68fcbce1d89")
"""Number and digest of the first five seconds' clicks at seed 7."""


def clicks_of(seconds: float, **options: object) -> tuple[Shop, list[Click]]:
    shop = Shop(start_ms=START_MS, **{"seed": 7, "clicks_per_second": 100.0, **options})  # type: ignore[arg-type]
    return shop, list(shop.clicks_until(START_MS + seconds * 1000))


@pytest.fixture(scope="module")
def minute() -> tuple[Shop, list[Click]]:
    return clicks_of(60)


def test_the_same_seed_gives_the_same_clicks(minute: tuple[Shop, list[Click]]) -> None:
    """Also when the shop is asked in small steps; another seed gives others."""
    _, clicks = minute
    shop = Shop(seed=7, start_ms=START_MS, clicks_per_second=100.0)
    steps = [
        click for second in range(1, 61) for click in shop.clicks_until(START_MS + second * 1000)
    ]
    assert steps == clicks
    assert clicks_of(60, seed=8)[1] != clicks


def test_the_first_clicks_are_the_ones_on_record() -> None:
    """A change of the generator changes every figure measured on it, so it must be meant."""
    _, clicks = clicks_of(5)
    digest = hashlib.sha256(b"\n".join(map(encode_click, clicks))).hexdigest()
    assert (len(clicks), digest[:16]) == GOLDEN, "the simulated shop's clicks have changed"


def test_clicks_are_valid_and_in_order_of_time(minute: tuple[Shop, list[Click]]) -> None:
    _, clicks = minute
    assert all(a.event_time_ms <= b.event_time_ms for a, b in pairwise(clicks))
    assert all(decode_click(encode_click(click)) == click for click in clicks)
    assert len({click.event_id for click in clicks}) == len(clicks)
    assert clicks[0].event_time_ms >= START_MS
    assert clicks[-1].event_time_ms < START_MS + 60_000


def test_the_rate_is_as_asked_from_the_first_seconds_on() -> None:
    _, clicks = clicks_of(60, clicks_per_second=400.0)
    per_ten_seconds = Counter((click.event_time_ms - START_MS) // 10_000 for click in clicks)
    assert all(3200 < per_ten_seconds[i] < 4800 for i in range(6)), per_ten_seconds


def test_every_kind_of_event_and_visitor_turns_up() -> None:
    _, clicks = clicks_of(120, clicks_per_second=300.0, traffic=Traffic(bot_share=0.005))
    kinds = Counter(click.event_type for click in clicks)
    assert set(kinds) == {"view_item", "add_to_cart", "purchase"}
    assert kinds["view_item"] > 5 * kinds["add_to_cart"] > 5 * kinds["purchase"]
    assert any(not click.consent for click in clicks)
    assert any(click.user_id for click in clicks)
    sessions = defaultdict(list)
    for click in clicks:
        sessions[click.session_id].append(click)
    most = max(sessions.values(), key=len)
    assert len(most) > 100, "no bot was fast"
    repeats = sum(
        len(s) > len({c.item_id for c in s if c.event_type == "view_item"})
        for s in sessions.values()
    )
    assert repeats > len(sessions) / 10


def test_popularity_is_skewed_and_new_items_appear() -> None:
    shop, clicks = clicks_of(300, traffic=Traffic(new_item_seconds=5.0))
    counts = Counter(click.item_id for click in clicks)
    top = sum(n for _, n in counts.most_common(N_ITEMS // 10))
    assert top > 0.35 * len(clicks)
    newcomers = [item_id for item_id in counts if int(item_id.removeprefix("item-")) > N_ITEMS]
    assert len(newcomers) >= 3
    assert all(shop.title_of(item_id) for item_id in newcomers)


def test_popularity_drifts_but_stays_zipf_like() -> None:
    """After many drifts the weights are spread around their usual values as set, and no further."""
    shop = Shop(seed=1, start_ms=START_MS, traffic=Traffic(drift=0.2, drift_range=0.6))
    before = shop._tables.category.copy()
    for _ in range(80):
        shop._drift()
    assert not np.allclose(before, shop._tables.category, rtol=0.2)
    assert float((shop._log_weights - shop._usual).std()) == pytest.approx(0.6, rel=0.1)


def test_titles_are_readable_and_travel_with_the_click(minute: tuple[Shop, list[Click]]) -> None:
    shop, clicks = minute
    for click in clicks[:200]:
        properties = msgspec.json.decode(click.properties)
        assert properties["title"] == shop.title_of(click.item_id)
        assert " > " in properties["category"]
    titles = [item.title for item in shop.catalogue.items]
    assert len(set(titles)) == N_ITEMS == 2000
    assert shop.title_of("nothing") is None


# --- the best that is possible ------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables() -> Transitions:
    return Shop(seed=3, start_ms=START_MS)._tables


def some_states(n: int) -> list[HiddenState]:
    rng = np.random.default_rng(5)
    states = []
    for _ in range(n):
        shelf = int(rng.integers(N_ITEMS))
        near = shelf // SHELVES * SHELVES + rng.integers(SHELVES, size=4)
        others = [*near.tolist(), *rng.integers(N_ITEMS, size=2).tolist()]
        rng.shuffle(others)
        history = tuple(dict.fromkeys(o for o in others if o != shelf))[: int(rng.integers(5))]
        states.append(
            HiddenState(shelf, int(rng.integers(len(STYLES))), int(rng.integers(2)), history)
        )
    return states


def test_the_best_mass_is_that_of_the_sorted_distribution(tables: Transitions) -> None:
    """The short cut over own category, best elsewhere and history equals sorting all 2,000 items."""
    states = some_states(400)
    expected = [np.sort(tables.distribution(state))[-CUT:].sum() for state in states]
    np.testing.assert_allclose(tables.best_mass(states), expected, rtol=1e-12)


def test_a_distribution_adds_up_to_one_and_is_what_is_drawn_from(tables: Transitions) -> None:
    rng = np.random.default_rng(9)
    for state in some_states(6):
        distribution = tables.distribution(state)
        assert distribution.sum() == pytest.approx(1.0)
        draws = 20_000
        counts = np.bincount(
            [tables.draw(state, *rng.random(2)) for _ in range(draws)], minlength=N_ITEMS
        )
        often = distribution * draws >= 20
        expected = distribution[often] * draws
        z = (counts[often] - expected) / np.sqrt(expected)
        assert abs(z).max() < 5.5
        rest = distribution[~often].sum()
        assert counts[~often].sum() / draws == pytest.approx(rest, abs=5 * np.sqrt(rest / draws))


def test_a_ranker_that_knows_everything_hits_as_often_as_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Empirical hit rate of the oracle's list against the reported bound: within 4 sigma."""
    hits = []
    draw = Transitions.draw

    def watched(self: Transitions, state: HiddenState, kind: float, place: float) -> int:
        shelf = draw(self, state, kind, place)
        best = np.argpartition(self.distribution(state), -CUT)[-CUT:]
        hits.append(shelf in best)
        return shelf

    monkeypatch.setattr(Transitions, "draw", watched)
    shop, _ = clicks_of(90, traffic=Traffic(anonymous_share=0.0))
    reported = shop.hit_rate_20()
    assert shop.best_possible.targets == len(hits) > 5000
    sigma = np.sqrt(reported * (1 - reported) / len(hits))
    assert np.mean(hits) == pytest.approx(reported, abs=4 * sigma)


def test_targets_are_the_later_views_of_visitors() -> None:
    """Each view that follows another view of its session; bots and refused consent left out."""
    shop, clicks = clicks_of(120, traffic=Traffic(bot_share=0.01))
    views: Counter[str] = Counter()
    bots = {s for s, n in Counter(c.session_id for c in clicks).items() if n > 90}
    for click in clicks:
        if click.event_type == "view_item" and click.consent:
            views[click.session_id] += 1
    expected = sum(n - 1 for session_id, n in views.items())
    shop.hit_rate_20()
    bot_views = sum(views[s] - 1 for s in bots)
    assert bots
    # A bot that has only begun is not among the long sessions, hence the tolerance.
    assert expected - bot_views == pytest.approx(shop.best_possible.targets, rel=0.05)


def test_there_is_something_to_learn() -> None:
    """Popularity is far from the bound, and plain first-order counts lie well between."""
    shop, clicks = clicks_of(200, clicks_per_second=200.0)
    half = len(clicks) // 2
    popular: Counter[str] = Counter()
    following: dict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str, str] = {}
    hits: Counter[str] = Counter()
    targets = 0
    for number, click in enumerate(clicks):
        if click.event_type != "view_item" or not click.consent:
            continue
        before = last.get(click.session_id)
        if number == half:
            top = {item for item, _ in popular.most_common(20)}
        if before is not None:
            if number > half:
                targets += 1
                hits["popularity"] += click.item_id in top
                nearest = [item for item, _ in following[before].most_common(20)]
                hits["first order"] += click.item_id in nearest
            following[before][click.item_id] += 1
        popular[click.item_id] += 1
        last[click.session_id] = click.item_id
    bound = shop.hit_rate_20()
    assert 0.05 < hits["popularity"] / targets < 0.15
    assert 0.20 < hits["first order"] / targets < bound - 0.15
    assert 0.5 < bound < 0.7


def test_shares_of_the_moves_must_add_up() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        Behaviour(step=0.9)
    with pytest.raises(ValueError, match="above 0"):
        Shop(clicks_per_second=0)
    assert N_ITEMS == N_CATEGORIES * SHELVES
