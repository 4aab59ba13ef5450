"""Half-lives chosen on made-up logs whose right answer is known, and against the prequential walk."""

import numpy as np
import pyarrow as pa
import pytest

from stream_app.core.errors import ClickFileError
from stream_app.core.pipeline import ServingRules
from stream_app.core.session import SessionLimits
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.evaluation.prequential import ClickStream, always, prequential
from stream_app.evaluation.stream_statistics import CoOccurrence, RecentPopularity
from stream_app.evaluation.tune_statistics import Tuned, tune_statistics

MINUTE_MS = 60_000
DAY = 1440.0
START_MS = 1_700_000_000_000
RECIPE = StatisticsRecipe(pair_half_lives_minutes=(20.0, 360.0), pair_weights=(0.7, 0.3))
"""Such as suit news."""
Row = tuple[int, str, int]
"""Session, item, ms since the start."""


def table(rows: list[Row]) -> pa.Table:
    rows = sorted(rows, key=lambda row: row[2])
    sessions, items, ms = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "session_id": pa.array(map(str, sessions), pa.string()),
            "item_id": pa.array(items, pa.string()),
            "event_time_ms": pa.array([START_MS + each for each in ms], pa.int64()),
        }
    )


def pairs_that_change(minutes: int) -> list[Row]:
    """400 items; 30 sessions a minute go from one to what follows it now, which is drawn anew so often."""
    rng = np.random.default_rng(1)
    rows: list[Row] = []
    follows = rng.permutation(400)
    for minute in range(200):
        if minute % minutes == 0:
            follows = rng.permutation(400)
        for n in range(30):
            item, ms = int(rng.integers(40)), minute * MINUTE_MS + n * 1000
            session = len(rows)
            rows.append((session, f"a{item}", ms))
            rows.append((session, f"b{follows[item]}", ms + 20_000))
    return rows


def pairs_that_hold() -> list[Row]:
    """2,000 lasting pairs in 20 days, each seen about once in two."""
    rng = np.random.default_rng(2)
    rows: list[Row] = []
    for session, ms in enumerate(np.sort(rng.integers(0, 20 * 1440 * MINUTE_MS, 20_000)).tolist()):
        item = int(rng.integers(2000))
        rows.append((session, f"a{item}", ms))
        rows.append(
            (session, f"b{item if rng.random() < 0.7 else rng.integers(2000)}", ms + 20_000)
        )
    return rows


def noisy(seed: int, *, n: int = 800) -> list[Row]:
    """Sessions of one to six clicks in ten hours, among 60 items with favourites."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for session in range(n):
        ms, item = int(rng.integers(600 * MINUTE_MS)), int(rng.zipf(1.3) % 60)
        for _ in range(int(rng.integers(1, 7))):
            rows.append((session, f"i{item}", ms))
            ms += int(rng.integers(1, 120_000))
            item = int((item * 7 + rng.zipf(1.7)) % 60)
    return rows


def tuned(rows: list[Row], rules: ServingRules | None = None, targets_max: int = 600) -> Tuned:
    return tune_statistics(table(rows), rules or ServingRules(), RECIPE, targets_max=targets_max)


def test_pairs_that_change_every_20_minutes_want_short_half_lives() -> None:
    found = tuned(pairs_that_change(20))
    assert found.pairs[0].half_lives_minutes[0] == 5
    assert max(found.pairs[0].half_lives_minutes) < DAY
    alone = {c.half_lives_minutes[0]: c.mrr_20 for c in found.pairs if len(c.weights) == 1}
    assert alone[5] > alone[60] > alone[30 * DAY]


def test_rare_pairs_that_hold_for_days_want_long_ones() -> None:
    found = tuned(pairs_that_hold())
    assert max(found.pairs[0].half_lives_minutes) >= 7 * DAY
    assert found.pairs[0].recall_20 > found.present.recall_20 + 0.1
    assert found.gain > 5 * found.gain_error


@pytest.mark.parametrize("filter_seen", [False, True])
def test_the_present_settings_are_judged_as_in_the_prequential_walk(filter_seen: bool) -> None:
    rules = ServingRules(limits=SessionLimits(idle_gap_minutes=30), filter_seen=filter_seen)
    log = table(noisy(3))
    from_ms = START_MS + 300 * MINUTE_MS
    found = tune_statistics(log, rules, RECIPE, from_ms=from_ms, targets_max=100_000)
    stream = ClickStream(log, rules, from_ms=from_ms)
    assert found.targets == len(stream.targets) > 500
    walk = prequential(stream, CoOccurrence(RECIPE), always(None), rules, name="")
    assert found.present.recall_20 == pytest.approx(walk.quality.recall_20, abs=0.003)
    assert found.present.mrr_20 == pytest.approx(walk.quality.mrr_20, abs=0.003)
    for choice in (found.present_popularity, found.popularity[0], found.popularity[-1]):
        popularity = RecentPopularity(choice.half_life_minutes * MINUTE_MS)
        walk = prequential(stream, popularity, always(None), rules, name="")
        assert choice.recall_20 == pytest.approx(walk.quality.recall_20, abs=0.003)
        assert choice.mrr_20 == pytest.approx(walk.quality.mrr_20, abs=0.003)


def test_any_choice_is_what_a_recipe_of_its_own_answers() -> None:
    """The arithmetic over one pass against statistics that count at just these half-lives."""
    log, rules = table(noisy(4)), ServingRules()
    from_ms = START_MS + 400 * MINUTE_MS
    found = tune_statistics(log, rules, RECIPE, from_ms=from_ms, targets_max=100_000)
    stream = ClickStream(log, rules, from_ms=from_ms)
    for choice in (found.pairs[0], found.pairs[-1]):
        recipe = StatisticsRecipe(
            pair_half_lives_minutes=choice.half_lives_minutes,
            pair_weights=choice.weights,
            prior_clicks=choice.prior_clicks,
        )
        walk = prequential(stream, CoOccurrence(recipe), always(None), rules, name="")
        assert choice.recall_20 == pytest.approx(walk.quality.recall_20, abs=0.003)
        assert choice.mrr_20 == pytest.approx(walk.quality.mrr_20, abs=0.003)


def test_only_the_newest_clicks_are_looked_at_and_a_sample_is_predicted() -> None:
    log = table(noisy(5))
    found = tune_statistics(log, ServingRules(), RECIPE, clicks_max=1000, targets_max=50)
    assert (found.clicks, found.targets) == (1000, 50)
    assert found.end_ms == int(log["event_time_ms"][-1].as_py())
    until = START_MS + 300 * MINUTE_MS
    assert tune_statistics(log, ServingRules(), RECIPE, to_ms=until).end_ms < until


def test_present_half_lives_off_the_grid_are_judged_too() -> None:
    recipe = StatisticsRecipe(
        half_life_minutes=33,
        pair_half_lives_minutes=(17.0, 111.0, 999.0),
        pair_weights=(0.2, 0.2, 0.6),
        prior_clicks=2.0,
    )
    found = tune_statistics(table(noisy(6)), ServingRules(), recipe, targets_max=100)
    assert found.present.half_lives_minutes == (17.0, 111.0, 999.0)
    assert found.present in found.pairs
    assert found.present.prior_clicks == 2.0
    assert found.present_popularity.half_life_minutes == 33
    alone = [c for c in found.pairs if len(c.weights) == 1 and c.prior_clicks == 2.0]
    assert len(alone) == 8, "a recipe carries eight half-lives"


@pytest.mark.parametrize("rows", [[], [(n, "a", n * 1000) for n in range(50)]])
def test_a_log_without_a_next_click_is_refused(rows: list[Row]) -> None:
    with pytest.raises(ClickFileError, match="nothing to tune on"):
        tuned(rows)


def there_and_back(*, returns: bool) -> list[Row]:
    """Visitors go back and forth between two of a group of 24 items, or look at one after the other."""
    rng = np.random.default_rng(7)
    rows: list[Row] = []
    for session in range(900):
        ms, group = int(rng.integers(600 * MINUTE_MS)), int(rng.integers(3))
        looked_at = rng.permutation(24)
        for click in range(4):
            item = looked_at[click % 2 if returns else click]
            rows.append((session, f"i{group * 24 + item}", ms + click * 10_000))
    return rows


@pytest.mark.parametrize("filter_seen", [False, True])
def test_what_came_back_in_the_log_may_come_back_in_the_answers(filter_seen: bool) -> None:
    """Whatever the present setting is."""
    rules = ServingRules(filter_seen=filter_seen)
    back = tuned(there_and_back(returns=True), rules).repeats
    assert back.share > 0.5
    assert not back.filter_seen
    assert back.kept[1] > back.left_out[1] + 0.1
    on = tuned(there_and_back(returns=False), rules).repeats
    assert on.share == 0
    assert on.filter_seen
    # Nobody comes back, so places go to items that may be clicked.
    assert on.left_out[1] > on.kept[1]
    with_seen_out = tuned(there_and_back(returns=True), ServingRules(filter_seen=True))
    best = with_seen_out.pairs[0]
    assert (best.recall_20, best.mrr_20) == pytest.approx(with_seen_out.repeats.left_out)
