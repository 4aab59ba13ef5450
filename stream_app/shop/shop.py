"""A simulated shop: an endless stream of clicks with known statistics, the same for the same seed.

Time is an argument: the shop makes the clicks of a span of event time when it is asked for them.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from stream_app.core.item_attributes import ItemAttributes
from stream_app.core.records import VIEW_ITEM, Click
from stream_app.shop.behaviour import HISTORY, Behaviour, Floats, HiddenState, Ints, Transitions
from stream_app.shop.catalogue import N_CATEGORIES, SHELVES, STYLES, Catalogue, Item

N_ITEMS: Final = N_CATEGORIES * SHELVES

DRIFT_MS: Final = 20_000
"""Weights stay as they are for so long (event time), then drift a little."""

_PAUSE_MS_MIN: Final = 500.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who comes, and how often."""

    visitors: int = 5_000
    end_share: float = 0.12
    """A visitor leaves after a view with this probability: 8.3 views a session in the mean."""
    pause_seconds: float = 6.0
    """Mean time between two clicks of a visitor; exponential, after half a second."""
    cart_share: float = 0.06
    """Views that put the item into the cart."""
    purchase_share: float = 0.35
    """Carts that are bought."""
    turn_share: float = 0.06
    """Views after which a visitor turns round on the ring."""
    drift: float = 0.05
    """Standard deviation of a log weight's change per `DRIFT_MS`."""
    drift_range: float = 0.6
    """Standard deviation of a log weight around its usual value, in the long run."""
    new_item_seconds: float = 20.0
    """Mean time between two new items."""
    announced_seconds: float = 60.0
    """A new item is described so long before it is on its shelf."""
    novelty: float = 4.0
    """A new item starts with so many times the median weight of its category."""
    bot_share: float = 0.001
    bot_clicks: int = 150
    bot_pause_seconds: float = 0.3
    anonymous_share: float = 0.01
    """Sessions without consent."""
    user_share: float = 0.4
    """Visitors who are logged in."""


@dataclass(slots=True)
class BestPossible:
    """What the best of all models could have hit.

    For every view that follows another in the same session: the sum of the 20 largest probabilities
    of the distribution it was drawn from, given the **whole hidden state** (current item, style,
    direction, history, weights of this very moment).  A model sees clicks only, so this is an upper
    bound that none can beat but by luck, and that even a perfect one falls short of.  Bots and
    sessions without consent are left out: the first click at random, the second are not learned from.
    """

    targets: int = 0
    mass: float = 0.0

    @property
    def hit_rate_20(self) -> float:
        return self.mass / self.targets if self.targets else 0.0


@dataclass(slots=True, eq=False)
class _Session:
    session_id: str
    kind: Literal["visitor", "anonymous", "bot"]
    user_id: str | None
    shelf: int
    style: int
    direction: int
    history: tuple[int, ...] = ()
    """Other items, newest first."""
    views: int = 0
    clicks: int = 0
    pending: list[tuple[str, Item]] = field(default_factory=list)
    """Carts and purchases still to come before the next view: event type, item."""


OnMove = Callable[[Transitions, HiddenState, int], None]
"""The probabilities a view was drawn from, what they depended on, and the shelf that was drawn."""


class Shop:
    """start_ms: event time of the first moment.  clicks_per_second: mean rate of all clicks.

    Sessions begin as a Poisson process; the shop is in full swing from the first moment on (lengths
    and pauses are memoryless, so those under way then look like fresh ones).
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        start_ms: int = 0,
        clicks_per_second: float = 100.0,
        behaviour: Behaviour | None = None,
        traffic: Traffic | None = None,
        on_move: OnMove | None = None,
    ) -> None:
        """on_move: told of every view that follows another in a visitor's session, before its click comes."""
        if not clicks_per_second > 0:
            raise ValueError(f"clicks_per_second must be above 0, got {clicks_per_second}")
        self._rng = rng = np.random.default_rng(seed)
        self._uniform = _Uniform(rng)
        self._on_move = on_move
        self._behaviour = behaviour or Behaviour()
        self._traffic = traffic = traffic or Traffic()
        self._prefix = f"{seed:x}-{start_ms // 1000:x}"
        self.catalogue = Catalogue(rng)
        self.best_possible = BestPossible()
        self.sessions_started = 0

        ranks = np.stack([rng.permutation(SHELVES) for _ in range(N_CATEGORIES)])
        self._usual: Floats = np.log(ranks + 2.0) * -self._behaviour.zipf
        self._log_weights: Floats = self._usual + traffic.drift_range * rng.standard_normal(
            ranks.shape
        )
        category_ranks: Floats = rng.permutation(N_CATEGORIES).astype(np.float64) + 2.0
        self._category_weights: Floats = category_ranks**-self._behaviour.category_zipf
        self._partners = _partners(rng)
        self._tastes = _tastes(rng, traffic.visitors, self._category_weights)
        self._visitor_styles = rng.integers(len(STYLES), size=traffic.visitors)
        self._drawn: list[HiddenState] = []
        self._tables = self._new_tables()

        views = 1.0 / traffic.end_share
        mean_clicks = (1.0 - traffic.bot_share) * views * (
            1.0 + traffic.cart_share * (1.0 + traffic.purchase_share)
        ) + traffic.bot_share * traffic.bot_clicks
        self._arrival_ms = 1000.0 * mean_clicks / clicks_per_second
        self._next_arrival_ms = start_ms + self._exponential(self._arrival_ms)
        self._next_drift_ms = float(start_ms + DRIFT_MS)
        self._next_item_ms = start_ms + self._exponential(traffic.new_item_seconds * 1000.0)
        self._announced: deque[tuple[float, int, Item]] = deque()
        """When a new item will take which shelf, the next first."""
        self._undescribed = list(self.catalogue.items)
        self._queue: list[tuple[float, int, _Session]] = []
        self._order = 0
        under_way = rng.poisson((mean_clicks - 1.0) * self._pause_ms() / self._arrival_ms)
        for _ in range(under_way):
            self._begin(start_ms + self._pause_left())

    def clicks_until(self, end_ms: float) -> Iterator[Click]:
        """The clicks from the last one made to `end_ms` (left out), by event time."""
        while True:
            due_ms = min(
                self._next_arrival_ms,
                self._next_drift_ms,
                self._next_item_ms,
                self._announced[0][0] if self._announced else float("inf"),
                self._queue[0][0] if self._queue else float("inf"),
            )
            if due_ms >= end_ms:
                return
            if due_ms == self._next_drift_ms:
                self._next_drift_ms += DRIFT_MS
                self._drift()
            elif due_ms == self._next_item_ms:
                self._next_item_ms += self._exponential(self._traffic.new_item_seconds * 1000.0)
                self._announce_item(due_ms)
            elif self._announced and due_ms == self._announced[0][0]:
                self._put_new_item()
            elif due_ms == self._next_arrival_ms:
                self._next_arrival_ms += self._exponential(self._arrival_ms)
                self._begin(due_ms)
            else:
                _, _, session = heapq.heappop(self._queue)
                yield self._click(session, due_ms)

    def take_descriptions(self) -> list[ItemAttributes]:
        """Of the items that are new since the last call, those to come included; of all at first."""
        told = [item.attributes() for item in self._undescribed]
        self._undescribed.clear()
        return told

    def hit_rate_20(self) -> float:
        """Best possible so far; see `BestPossible`."""
        self._count_drawn()
        return self.best_possible.hit_rate_20

    def title_of(self, item_id: str) -> str | None:
        """Readable name of an item, None for an id that is not of this shop."""
        return self.catalogue.title_of(item_id)

    # --- one session ---------------------------------------------------------------------------

    def _begin(self, at_ms: float) -> None:
        traffic, uniform = self._traffic, self._uniform
        self.sessions_started += 1
        chance = uniform()
        visitor = int(uniform() * traffic.visitors)
        kind: Literal["visitor", "anonymous", "bot"] = "visitor"
        if chance < traffic.bot_share:
            kind = "bot"
        elif chance < traffic.bot_share + traffic.anonymous_share:
            kind = "anonymous"
        known = kind == "visitor" and visitor < traffic.user_share * traffic.visitors
        category = int(self._tastes[visitor, int(uniform() * self._tastes.shape[1])])
        session = _Session(
            session_id=f"s{self._prefix}-{self.sessions_started:x}",
            kind=kind,
            user_id=f"user-{visitor:05d}" if known else None,
            shelf=self._tables.in_category(category, uniform()),
            style=int(self._visitor_styles[visitor]),
            direction=int(uniform() * 2),
        )
        self._schedule(session, at_ms)

    def _click(self, session: _Session, at_ms: float) -> Click:
        """The click that is due, and when the session's next one will be."""
        if session.pending:
            event_type, item = session.pending.pop(0)
        else:
            event_type, item = VIEW_ITEM, self._view(session)
        session.clicks += 1
        click = Click(
            session_id=session.session_id,
            item_id=item.item_id,
            event_time_ms=int(at_ms),
            event_type=event_type,
            event_id=f"{session.session_id}-{session.clicks}",
            user_id=session.user_id,
            consent=session.kind != "anonymous",
            properties=item.properties,
        )
        if session.pending or not self._leaves(session):
            self._schedule(session, at_ms + self._pause_after(session.kind == "bot"))
        return click

    def _view(self, session: _Session) -> Item:
        traffic, uniform = self._traffic, self._uniform
        if session.kind == "bot":
            session.shelf = int(uniform() * N_ITEMS)
        elif session.views:
            self._move(session)
        session.views += 1
        item = self.catalogue.items[session.shelf]
        if session.kind != "bot" and uniform() < traffic.cart_share:
            session.pending.append(("add_to_cart", item))
            if uniform() < traffic.purchase_share:
                session.pending.append(("purchase", item))
        return item

    def _move(self, session: _Session) -> None:
        uniform = self._uniform
        state = HiddenState(session.shelf, session.style, session.direction, session.history)
        shelf = self._tables.draw(state, uniform(), uniform())
        if session.kind == "visitor":
            self._drawn.append(state)
            if self._on_move is not None:
                self._on_move(self._tables, state, shelf)
        if shelf != session.shelf:
            others = (session.shelf, *(old for old in session.history if old != session.shelf))
            session.history = tuple(old for old in others if old != shelf)[:HISTORY]
        if shelf // SHELVES != session.shelf // SHELVES:
            session.direction = int(uniform() * 2)
        elif uniform() < self._traffic.turn_share:
            session.direction = 1 - session.direction
        session.shelf = shelf

    def _leaves(self, session: _Session) -> bool:
        if session.kind == "bot":
            return session.clicks >= self._traffic.bot_clicks
        return self._uniform() < self._traffic.end_share

    def _schedule(self, session: _Session, at_ms: float) -> None:
        # The number settles ties, so that sessions are never compared.
        self._order += 1
        heapq.heappush(self._queue, (at_ms, self._order, session))

    def _pause_ms(self) -> float:
        return _PAUSE_MS_MIN + self._traffic.pause_seconds * 1000.0

    def _pause_after(self, is_bot: bool = False) -> float:
        if is_bot:
            return self._exponential(self._traffic.bot_pause_seconds * 1000.0)
        return _PAUSE_MS_MIN + self._exponential(self._traffic.pause_seconds * 1000.0)

    def _pause_left(self) -> float:
        """What is left of a pause at a moment of no meaning to the visitor."""
        into = self._uniform() * self._pause_ms()
        return into if into < _PAUSE_MS_MIN else self._pause_after()

    def _exponential(self, mean: float) -> float:
        return -mean * float(np.log1p(-self._uniform()))

    # --- the shop over time --------------------------------------------------------------------

    def _drift(self) -> None:
        self._count_drawn()
        traffic, weights = self._traffic, self._log_weights
        # An Ornstein-Uhlenbeck process: a walk that is pulled back, so that Zipf's law holds for days.
        pull = 0.5 * (traffic.drift / traffic.drift_range) ** 2
        weights += pull * (self._usual - weights)
        weights += traffic.drift * self._rng.standard_normal(weights.shape)
        self._tables = self._new_tables()

    def _announce_item(self, at_ms: float) -> None:
        """A new item will take a shelf of the less wanted half."""
        category = int(self._uniform() * N_CATEGORIES)
        weights = self._log_weights[category]
        place = int(np.argsort(weights)[int(self._uniform() * SHELVES / 2)])
        item = self.catalogue.new_item(category)
        due_ms = at_ms + self._traffic.announced_seconds * 1000.0
        self._announced.append((due_ms, category * SHELVES + place, item))
        self._undescribed.append(item)

    def _put_new_item(self) -> None:
        """It draws more than its shelf usually does."""
        _, shelf, item = self._announced.popleft()
        category, place = divmod(shelf, SHELVES)
        weights = self._log_weights[category]
        self._count_drawn()
        weights[place] = np.median(weights) + np.log(self._traffic.novelty)
        self.catalogue.replace(shelf, item)
        self._forget(shelf)
        self._tables = self._new_tables()

    def _forget(self, shelf: int) -> None:
        """Nobody returns to an item that has left; those who stand before it see the new one."""
        for _, _, session in self._queue:
            if shelf in session.history:
                session.history = tuple(old for old in session.history if old != shelf)

    def _new_tables(self) -> Transitions:
        return Transitions(
            self._behaviour,
            np.exp(self._log_weights),
            self._category_weights,
            self.catalogue.styles.reshape(N_CATEGORIES, SHELVES),
            self._partners,
        )

    def _count_drawn(self) -> None:
        mass = self._tables.best_mass(self._drawn)
        self.best_possible.targets += len(mass)
        self.best_possible.mass += float(mass.sum())
        self._drawn = []


class _Uniform:
    """Uniform numbers one by one, drawn in blocks: a tenth of the cost."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def __call__(self) -> float:
        if not self._block:
            self._block = self._rng.random(4096).tolist()
        return self._block.pop()


def _partners(rng: np.random.Generator) -> Floats:
    """Three categories that go with each one, float64 [categories, categories]."""
    result = np.zeros((N_CATEGORIES, N_CATEGORIES))
    for category in range(N_CATEGORIES):
        others = np.delete(np.arange(N_CATEGORIES), category)
        result[category, rng.choice(others, 3, replace=False)] = (0.5, 0.3, 0.2)
    return result


def _tastes(rng: np.random.Generator, visitors: int, weights: Floats) -> Ints:
    """Three categories that each visitor likes to begin with, int64 [visitors, 3]; one may come twice."""
    return rng.choice(N_CATEGORIES, size=(visitors, 3), p=weights / weights.sum())
