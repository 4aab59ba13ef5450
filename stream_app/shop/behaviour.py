"""How visitors move from item to item, and what could be known of it: the probabilities themselves.

From item i of category c, a visitor of hidden style s and direction d views next, with probability

    repeat  one of the last few other items of the session, each alike (if there are any)
    else    step      along the ring, in direction d: kernel(distance) * liking(s, style) * weight**.7
            browse    any item of c by its weight
            jump      a category that goes with c, there an item by its weight
            front     an item of the front page: of the whole shop, popular ones favoured

The four add up to 1.  Weights are Zipf's within each category, and drift.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.shop.catalogue import N_CATEGORIES, SHELVES, STYLES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CUT: Final = 20
HISTORY: Final = 4
"""So many other items of a session may be returned to."""
_FAR: Final = CUT + HISTORY


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Shares of the kinds of move, and how peaked each is."""

    repeat: float = 0.06
    step: float = 0.61
    browse: float = 0.15
    jump: float = 0.14
    front: float = 0.10
    step_decay: float = 0.91
    """Weight of each further shelf on the ring."""
    step_back: float = 0.02
    """Weight of steps against the direction, relative."""
    step_power: float = 0.7
    """How much an item's weight counts for a step: weight ** step_power."""
    liking: float = 6.0
    """How much more an item of the liked style draws."""
    zipf: float = 1.0
    """Weights of a category's items before any drift: (rank + 2) ** -zipf."""
    category_zipf: float = 0.8
    front_power: float = 1.6
    """The front page favours the popular: weight ** front_power."""

    def __post_init__(self) -> None:
        total = self.step + self.browse + self.jump + self.front
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"step, browse, jump and front must add up to 1, not to {total}")


@dataclass(frozen=True, slots=True)
class HiddenState:
    """All that decides the distribution of the next view."""

    shelf: int
    style: int
    direction: int
    """0 or 1."""
    history: tuple[int, ...]
    """Shelves of up to `HISTORY` other items of the session, newest first."""


class Transitions:
    """The next-view probabilities while weights stay as they are.

    weights: float64 [categories, SHELVES], positive; category_weights: [categories];
    styles: int64 [categories, SHELVES]; partners: [categories, categories], rows add up to 1.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        weights: Floats,
        category_weights: Floats,
        styles: Ints,
        partners: Floats,
    ) -> None:
        self._behaviour = behaviour
        self.category = weights / weights.sum(axis=1, keepdims=True)  # [categories, shelves]
        front = (self.category * category_weights[:, None]) ** behaviour.front_power
        self.front = (front / front.sum()).ravel()  # [items]
        liking = np.where(np.arange(len(STYLES))[:, None, None] == styles, behaviour.liking, 1.0)
        pull = liking * self.category**behaviour.step_power  # [styles, categories, shelves]
        step = _kernel(behaviour) * pull.transpose(1, 0, 2)[:, None, :, None, :]
        step /= step.sum(axis=-1, keepdims=True)
        self.step = step  # [categories, directions, styles, shelf from, shelf to]
        elsewhere = partners[:, :, None] * self.category  # [category from, category to, shelves]
        self.elsewhere = (
            behaviour.jump * elsewhere.reshape(N_CATEGORIES, -1) + behaviour.front * self.front
        )  # [category from, items]
        # The part of the own category that does not depend on where in it one stands, and the best
        # of all that lies outside of it.
        own = np.arange(N_CATEGORIES * SHELVES).reshape(N_CATEGORIES, SHELVES)
        rows = np.arange(N_CATEGORIES)[:, None]
        self._near = behaviour.browse * self.category + self.elsewhere[rows, own]
        far = self.elsewhere.copy()
        far[rows, own] = 0.0
        self._far_best_ids = np.argpartition(far, -_FAR, axis=1)[:, -_FAR:]
        self._far_best = np.take_along_axis(far, self._far_best_ids, axis=1)
        self._step_sums = step.cumsum(axis=-1)
        self._category_sums = self.category.cumsum(axis=-1)
        self._front_sums = self.front.cumsum()
        self._partner_sums = partners.cumsum(axis=-1)

    def distribution(self, state: HiddenState) -> Floats:
        """Probability of each shelf's item to be viewed next, float64 [items].  Slow; for tests."""
        b = self._behaviour
        category, shelf = divmod(state.shelf, SHELVES)
        result: Floats = self.elsewhere[category].copy()
        own = slice(category * SHELVES, (category + 1) * SHELVES)
        result[own] += b.step * self.step[category, state.direction, state.style, shelf]
        result[own] += b.browse * self.category[category]
        if state.history:
            result *= 1.0 - b.repeat
            result[list(state.history)] += b.repeat / len(state.history)
        return result

    def draw(self, state: HiddenState, kind: float, place: float) -> int:
        """The shelf of the next view.  kind, place: independent and uniform in [0, 1)."""
        b = self._behaviour
        history = state.history
        if history:
            if kind < b.repeat:
                return history[int(place * len(history))]
            kind = (kind - b.repeat) / (1.0 - b.repeat)
        category, shelf = divmod(state.shelf, SHELVES)
        if kind < b.step:
            sums = self._step_sums[category, state.direction, state.style, shelf]
            return category * SHELVES + _at(sums, place)
        kind -= b.step
        if kind < b.browse:
            return self.in_category(category, place)
        kind -= b.browse
        if kind < b.jump:
            # What is left of `kind` is uniform, so it serves for the category.
            partner = _at(self._partner_sums[category], kind / b.jump)
            return self.in_category(partner, place)
        return _at(self._front_sums, place)

    def in_category(self, category: int, place: float) -> int:
        """An item of the category by its weight."""
        return category * SHELVES + _at(self._category_sums[category], place)

    def best_mass(self, states: list[HiddenState]) -> Floats:
        """Sum of the `CUT` largest next-view probabilities of each state, float64 [states]."""
        if not states:
            return np.zeros(0)
        category, place = np.divmod(np.array([state.shelf for state in states]), SHELVES)
        direction = np.array([state.direction for state in states])
        style = np.array([state.style for state in states])
        history = np.full((len(states), HISTORY), -1)
        for row, state in enumerate(states):
            history[row, : len(state.history)] = state.history

        # Outside the own category all states of a category agree, so its best few suffice: a list
        # of CUT holds HISTORY at most that are taken out below.
        steps = self._behaviour.step * self.step[category, direction, style, place]
        near = steps + self._near[category]  # [states, shelves]
        near_ids = category[:, None] * SHELVES + np.arange(SHELVES)
        base = np.concatenate([near, self._far_best[category]], axis=1)
        ids = np.concatenate([near_ids, self._far_best_ids[category]], axis=1)

        # Items of the history have their share of `repeat` on top: take them out, add them anew.
        same = history // SHELVES == category[:, None]
        rows = np.arange(len(states))[:, None]
        again = np.where(
            same, near[rows, history % SHELVES], self.elsewhere[category[:, None], history]
        )
        for column in history.T:
            base[ids == column[:, None]] = 0.0
        length = (history >= 0).sum(axis=1, keepdims=True)
        repeat = np.where(length > 0, self._behaviour.repeat, 0.0)
        again = again * (1.0 - repeat) + repeat / np.maximum(length, 1)
        again[history < 0] = 0.0
        everything = np.concatenate([base * (1.0 - repeat), again], axis=1)
        best: Floats = np.partition(everything, -CUT, axis=1)[:, -CUT:].sum(axis=1)
        return best


def _kernel(behaviour: Behaviour) -> Floats:
    """Weight of a step by distance along the ring: float64 [directions, 1, shelf from, shelf to]."""
    distance = (np.arange(SHELVES)[None, :] - np.arange(SHELVES)[:, None]) % SHELVES
    ahead = behaviour.step_decay ** (distance - 1.0)
    ahead[distance == 0] = 0.0
    behind = ahead.T
    mixed = [ahead + behaviour.step_back * behind, behind + behaviour.step_back * ahead]
    return np.stack(mixed)[:, None]


def _at(sums: Floats, place: float) -> int:
    """Index drawn by running sums (the last one may miss 1 by rounding)."""
    index = int(np.searchsorted(sums, place, side="right"))
    return min(index, len(sums) - 1)
