"""Half-lives for the stream statistics, chosen on a click log by what they would have answered.

One pass in order of time, as in `prequential`: a sample of clicks is predicted by the statistics before
anything learns from them.  One recipe carries the counts at all half-lives in question; what any two of
them, with any weights and any prior, would have scored is then a matter of arithmetic.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stream_app.core.errors import ClickFileError
from stream_app.core.metrics import CUT
from stream_app.core.pair_rows import Floats, Ints
from stream_app.core.pipeline import ServingRules
from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics
from stream_app.core.statistics_view import StatisticsView
from stream_app.evaluation.prequential import PAST_TOGETHER, ClickStream

CLICKS_MAX: Final = 400_000
"""Only the newest clicks of a log are looked at."""
TARGETS_MAX: Final = 5_000
"""Half a 95 % interval of Recall@20 is .014 at most."""
VERSION_MS: Final = 10_000
"""Event time between versions of the statistics: an answer knows nothing of its own window."""

HOUR: Final = 60.0
DAY: Final = 24 * HOUR
PAIR_HALF_LIVES: Final = (5.0, 20.0, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY)
"""Minutes."""
POPULARITY_HALF_LIVES: Final = (
    *(2.5, 7.5, 15.0, 30.0, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR),
    *(DAY, 3 * DAY, 7 * DAY, 30 * DAY),
)
"""Minutes."""
WEIGHTS: Final = ((0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.1, 0.9))
"""Of two half-lives, the shorter first."""
PRIORS: Final = (0.3, 1.0, 5.0)
_HALF_LIVES_MAX: Final = 8
"""That a recipe may carry for pairs."""
_NEIGHBOURS: Final = 2
"""Times as many are kept as the recipe says: what is rare at one half-life may lead at another."""
_MISS: Final = CUT + 1


class PairChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A way to score co-occurrence, and how well it answered."""

    half_lives_minutes: tuple[float, ...]
    weights: tuple[float, ...]
    prior_clicks: float
    recall_20: float
    mrr_20: float


class PopularityChoice(msgspec.Struct, frozen=True, kw_only=True):
    half_life_minutes: float
    recall_20: float
    mrr_20: float


class RepeatsChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether what a session has clicked may be recommended to it again, under the best choice of the rest."""

    share: float
    """Of the next clicks, those on an item that the session had clicked."""
    filter_seen: bool
    """The better of the two."""
    kept: tuple[float, float]
    """R@20 and MRR@20 where seen items may come back."""
    left_out: tuple[float, float]
    """The same where they do not (`serving.filter_seen`)."""
    gain: float
    """R@20 + MRR@20 of leaving them out, less that of keeping them."""
    gain_error: float
    """Its standard error."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    clicks: int
    """Looked at."""
    targets: int
    """Predicted."""
    begin_ms: int
    end_ms: int
    """Of the clicks looked at."""
    pairs: list[PairChoice]
    """All of them, best first by R@20 + MRR@20; of equal ones the fewer and the shorter half-lives."""
    present: PairChoice
    gain: float
    """R@20 + MRR@20 of the best, less that of the present settings."""
    gain_error: float
    """Its standard error: the same targets judge both."""
    popularity: list[PopularityChoice]
    """Best first by R@20."""
    present_popularity: PopularityChoice
    repeats: RepeatsChoice


@dataclass(frozen=True, slots=True)
class _Ask:
    """A click after which an answer is given, and what is clicked next."""

    position: int
    recent: list[str]
    """Items of the session so far, newest first."""
    target: str


def tune_statistics(
    clicks: pa.Table,
    rules: ServingRules,
    recipe: StatisticsRecipe,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    clicks_max: int = CLICKS_MAX,
    targets_max: int = TARGETS_MAX,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """How well every choice would have answered the newest clicks of a log.

    clicks: as in `ClickStream`.  from_ms <= time < to_ms is predicted, by default the newer half of what
    is looked at.  recipe: the present settings; all but what is chosen stays (positions, decay, backward
    weight, half-life of the follow-ups).  Raises `ClickFileError` where there is nothing to predict.

    An item that is neither a neighbour of the session's last items nor among the most popular follow-ups
    is a miss, ties count against the target, and where nothing is known to follow the session's items
    plain popularity at its present half-life answers, as on the stream.
    """
    ms = np.asarray(clicks["event_time_ms"].combine_chunks()).astype(np.int64)
    end = len(ms) if to_ms is None else int(np.searchsorted(ms, to_ms))
    begin = max(0, end - clicks_max)
    if begin < end and from_ms is None:
        from_ms = int(ms[begin + (end - begin) // 2])
    stream = ClickStream(clicks.slice(begin, end - begin), rules, from_ms=from_ms)
    if len(stream.targets) == 0:
        raise ClickFileError("no session of two clicks in this range: nothing to tune on")
    positions = np.linspace(0, len(stream.targets) - 1, min(targets_max, len(stream.targets)))
    log = _session_clicks(stream)
    asks = [
        _ask(stream, log, int(target), max(recipe.pair_positions, rules.limits.history_len_max))
        for target in stream.targets[positions.astype(np.int64)]
    ]
    asks.sort(key=lambda ask: ask.position)
    grid = _Grid(recipe)
    kept, left_out = (_Ranks.none(len(asks), grid) for _ in range(2))
    judge = _Judge(grid, rules.limits.history_len_max)
    for at, (ask, view) in enumerate(_views(stream, log, asks, judge)):
        for ranks, leave_out in ((kept, False), (left_out, True)):
            seen = judge.seen(view, ask) if leave_out else set()
            ranks.popularity[at] = popularity = judge.popularity_ranks(view, ask, seen)
            pairs = judge.pair_ranks(view, ask, seen)
            ranks.pairs[at] = popularity[0] if pairs is None else pairs
        if at % 1000 == 999:
            say(f"{at + 1:,} of {len(asks):,} clicks predicted")
    return _tuned(
        stream, grid, *((left_out, kept) if rules.filter_seen else (kept, left_out)), rules, asks
    )


def _session_clicks(stream: ClickStream) -> list[SessionClick]:
    records = stream.records(np.arange(len(stream.ms)), encoded=False)
    return [
        SessionClick(r.partition, r.offset, r.session_id, r.item_id, r.timestamp, True)
        for r in records
    ]


def _ask(stream: ClickStream, log: list[SessionClick], target: int, n_recent: int) -> _Ask:
    position = at = int(stream.before[target])
    recent: list[str] = []
    while at >= 0 and len(recent) < n_recent:
        recent.append(log[at].item_id or "")
        at = int(stream.before[at])
    return _Ask(position, recent, log[target].item_id or "")


def _views(
    stream: ClickStream, log: list[SessionClick], asks: list[_Ask], judge: "_Judge"
) -> Iterator[tuple[_Ask, StatisticsView]]:
    """Each ask with the statistics it is answered from: all clicks of earlier windows.

    Windows that ask nothing are learned together: nobody reads their versions.
    """
    local = LocalStatistics(judge.grid.carrier, ranked=judge.longest)
    view, learned = local.fold(()), 0
    for ask in asks:
        window_ms = int(stream.ms[ask.position]) // VERSION_MS * VERSION_MS
        end = int(np.searchsorted(stream.ms, window_ms))
        while learned < end:
            part = log[learned : min(end, learned + PAST_TOGETHER)]
            view = local.fold(part, version=local.counts.version + 1)
            judge.learned(view, part)
            learned += len(part)
        yield ask, view


class _Grid:
    """Every choice, and one recipe that counts for all of them."""

    def __init__(self, recipe: StatisticsRecipe) -> None:
        present = recipe.pair_half_lives_minutes
        self.pair_half_lives = _with(present, PAIR_HALF_LIVES, _HALF_LIVES_MAX)
        self.popularities = (
            recipe.half_life_minutes,
            *(m for m in POPULARITY_HALF_LIVES if m != recipe.half_life_minutes),
        )
        self.priors = tuple(sorted({*PRIORS, recipe.prior_clicks}))
        self.mixes: list[tuple[tuple[float, ...], tuple[float, ...]]] = [
            *(((minutes,), (1.0,)) for minutes in self.pair_half_lives),
            *itertools.product(itertools.combinations(self.pair_half_lives, 2), WEIGHTS),
        ]
        mine = (present, recipe.pair_weights)
        if mine not in self.mixes:
            self.mixes.append(mine)
        self.present = self.priors.index(recipe.prior_clicks) * len(self.mixes) + (
            self.mixes.index(mine)
        )
        """Choices are numbered prior by prior, mix by mix."""
        self.n_choices = len(self.priors) * len(self.mixes)
        self.mix_weights = np.zeros((len(self.mixes), len(self.pair_half_lives)))
        for row, (half_lives, weights) in enumerate(self.mixes):
            for minutes, weight in zip(half_lives, weights, strict=True):
                self.mix_weights[row, self.pair_half_lives.index(minutes)] += weight
        n = len(self.pair_half_lives)
        self.carrier = msgspec.structs.replace(
            recipe,
            half_lives_minutes=self.popularities[1:],
            pair_half_lives_minutes=self.pair_half_lives,
            pair_weights=(1 / n,) * n,
            neighbours_max=min(10_000, recipe.neighbours_max * _NEIGHBOURS),
        )


def _with(present: Sequence[float], grid: Sequence[float], most: int) -> tuple[float, ...]:
    """The present values and as many of the grid as there is room for, ascending; the nearest go first."""
    chosen = sorted(set(present))
    others = [value for value in grid if value not in chosen]
    others.sort(key=lambda value: -min(abs(math.log(value / mine)) for mine in chosen))
    for value in others[: most - len(chosen)]:
        bisect.insort(chosen, value)
    return tuple(chosen)


class _Ranks(NamedTuple):
    """Of every target under every choice."""

    pairs: NDArray[np.int64]
    """[n_targets, n_choices]."""
    popularity: NDArray[np.int64]
    """[n_targets, n_half_lives]."""

    @classmethod
    def none(cls, n_targets: int, grid: _Grid) -> "_Ranks":
        """Nothing but misses."""
        return cls(
            np.full((n_targets, grid.n_choices), _MISS, dtype=np.int64),
            np.full((n_targets, len(grid.popularities)), _MISS, dtype=np.int64),
        )


class _Judge:
    """Ranks of a target under every choice."""

    def __init__(self, grid: _Grid, history_len_max: int) -> None:
        self.grid, self._history = grid, history_len_max
        self.longest = CUT + 1 + history_len_max
        """Enough of the most popular for `CUT` of them to be left when the seen ones are not shown."""
        self._popular: Ints = np.zeros(0, dtype=np.int64)
        """Numbers of the items that lead at any half-life."""
        self._popular_keys: Floats = np.zeros((0, len(grid.popularities)))

    def learned(self, view: StatisticsView, clicks: Sequence[SessionClick]) -> None:
        """After the clicks of a version.  A click only raises a key: who leads now led before, or was clicked."""
        clicked = {click.item_id for click in clicks if click.item_id is not None}
        found = [view.number(item_id) for item_id in clicked]
        changed = np.array([number for number in found if number is not None], dtype=np.int64)
        numbers = np.union1d(self._popular, changed)
        keys = view.log_popularities(numbers)[:, :-1]
        if len(numbers) > self.longest:
            least = np.partition(keys, len(keys) - self.longest, axis=0)[len(keys) - self.longest]
            leads = (keys >= least).any(axis=1)
            numbers, keys = numbers[leads], keys[leads]
        self._popular, self._popular_keys = numbers, keys

    def popularity_ranks(self, view: StatisticsView, ask: _Ask, seen: set[int]) -> Ints:
        """By each half-life's list of the most popular, the present one first.

        seen: items that an answer leaves out.
        """
        target = view.number(ask.target)
        if target is None or target in seen:
            return np.full(len(self.grid.popularities), _MISS, dtype=np.int64)
        own = view.log_popularities(np.array([target]))[0, :-1]
        others = ~np.isin(self._popular, [*seen, target])
        ranks: Ints = 1 + (self._popular_keys[others] >= own).sum(axis=0, dtype=np.int64)
        return ranks

    def pair_ranks(self, view: StatisticsView, ask: _Ask, seen: set[int]) -> Ints | None:
        """By `StatisticsView.scored`'s A(j) under each choice; None where nothing is known to follow."""
        grid, recipe = self.grid, self.grid.carrier
        rows = [view.row(item_id) for item_id in ask.recent[: recipe.pair_positions]]
        if not any(row is not None and len(row.neighbours) for row in rows):
            return None
        missed = np.full(grid.n_choices, _MISS, dtype=np.int64)
        target = view.number(ask.target)
        neighbours = [row.neighbours for row in rows if row is not None]
        numbers = np.unique(np.concatenate([*neighbours, view.follow_ups[: self.longest]]))
        if seen:
            numbers = numbers[~np.isin(numbers, list(seen))]
        if target is None or target in seen or target not in numbers:
            return missed
        counts = np.zeros((len(grid.pair_half_lives), len(rows), len(numbers)))
        totals = np.zeros((len(grid.pair_half_lives), len(rows)))
        for k, row in enumerate(rows):
            if row is None:
                continue
            at = np.minimum(np.searchsorted(numbers, row.neighbours), len(numbers) - 1)
            there = numbers[at] == row.neighbours
            counts[:, k, at[there]] = row.counts[:, there]
            totals[:, k] = row.totals
        weights = np.array(recipe.position_weights[: len(rows)])
        popularity = view.follow_up_shares(numbers)
        own = int(np.searchsorted(numbers, target))
        ranks = []
        for prior in grid.priors:
            factors = weights / (totals + prior)
            shares = np.matmul(factors[:, None], counts)[:, 0]
            shares += prior * factors.sum(axis=1, keepdims=True) * popularity
            scores = grid.mix_weights @ shares
            ranks.append((scores >= scores[:, own, None]).sum(axis=1))
        return np.concatenate(ranks)

    def seen(self, view: StatisticsView, ask: _Ask) -> set[int]:
        """What `serving.filter_seen` leaves out."""
        found = (view.number(item_id) for item_id in ask.recent[: self._history])
        return {number for number in found if number is not None}


def _tuned(
    stream: ClickStream,
    grid: _Grid,
    present: _Ranks,
    other: _Ranks,
    rules: ServingRules,
    asks: Sequence[_Ask],
) -> Tuned:
    """present: with seen items left out or not, as the rules say now; other: the other way."""
    pair_ranks = present.pairs
    quality = _quality(pair_ranks)
    choices = [
        PairChoice(
            half_lives_minutes=half_lives,
            weights=weights,
            prior_clicks=prior,
            recall_20=float(quality[at, 0]),
            mrr_20=float(quality[at, 1]),
        )
        for at, (prior, (half_lives, weights)) in enumerate(
            itertools.product(grid.priors, grid.mixes)
        )
    ]
    order = sorted(
        range(len(choices)),
        key=lambda at: (
            -round(choices[at].recall_20 + choices[at].mrr_20, 9),
            len(choices[at].weights),
            choices[at].half_lives_minutes,
        ),
    )
    gains = _gain(pair_ranks[:, order[0]]) - _gain(pair_ranks[:, grid.present])
    plain = [
        PopularityChoice(half_life_minutes=minutes, recall_20=float(recall), mrr_20=float(mrr))
        for minutes, (recall, mrr) in zip(
            grid.popularities, _quality(present.popularity), strict=True
        )
    ]
    return Tuned(
        clicks=len(stream.ms),
        targets=len(pair_ranks),
        begin_ms=int(stream.ms[0]),
        end_ms=int(stream.ms[-1]),
        pairs=[choices[at] for at in order],
        present=choices[grid.present],
        gain=float(gains.mean()),
        gain_error=float(gains.std() / math.sqrt(len(gains))),
        popularity=sorted(plain, key=lambda choice: (-choice.recall_20, choice.half_life_minutes)),
        present_popularity=plain[0],
        repeats=_repeats(pair_ranks[:, order[0]], other.pairs[:, order[0]], rules, asks),
    )


def _repeats(
    present: NDArray[np.int64],
    other: NDArray[np.int64],
    rules: ServingRules,
    asks: Sequence[_Ask],
) -> RepeatsChoice:
    """present, other: ranks under one choice, [n_targets]."""
    kept, left_out = (other, present) if rules.filter_seen else (present, other)
    gains = _gain(left_out) - _gain(kept)
    recall, mrr = _quality(np.stack((kept, left_out), axis=1)).T.tolist()
    return RepeatsChoice(
        share=sum(ask.target in ask.recent for ask in asks) / len(asks),
        filter_seen=bool(gains.mean() > 0),
        kept=(recall[0], mrr[0]),
        left_out=(recall[1], mrr[1]),
        gain=float(gains.mean()),
        gain_error=float(gains.std() / math.sqrt(len(gains))),
    )


def _quality(ranks: NDArray[np.int64]) -> Floats:
    """ranks: [n_targets, n]; Recall@20 and MRR@20, [n, 2]."""
    hit = ranks <= CUT
    return np.stack([hit.mean(axis=0), (hit / ranks).mean(axis=0)], axis=1)


def _gain(ranks: NDArray[np.int64]) -> Floats:
    """What a target adds to R@20 + MRR@20, [n_targets]."""
    gain: Floats = np.where(ranks <= CUT, 1 + 1 / ranks, 0.0)
    return gain
