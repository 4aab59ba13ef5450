"""From what an item is to where its vector lies: a ridge regression over words, categories and prices.

The map of Gantner et al. 2010 ("Learning attribute-to-feature mappings for cold-start recommendations"),
section III, in closed form.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.item_attributes import ItemAttributes

FEATURES_MAX: Final = 2_048
"""The most frequent features of the catalogue; the equations grow with their square, their solution with the cube."""
FEATURE_ITEMS_MIN: Final = 2
"""What one item alone has says nothing of others."""
SURE_CLICKS: Final = 5.0
"""An item clicked so often counts half of one clicked without end: before, its own vector is half chance."""
STRENGTHS: Final = (1.0, 5.0, 30.0)
"""Regularisations tried; that of the least error on every fifth item is taken."""

_WORD: Final = re.compile(r"\w+")
_BLOCK: Final = 4_096
_PAIRS_TOGETHER: Final = 4_000_000
Floats = NDArray[np.float64]


def features_of(item: ItemAttributes) -> set[str]:
    """Names of what it has: its categories' paths, the words of its title, attributes, and a price class.

    Numbers are classed by factors of about 1.4, so that near ones mostly agree.
    """
    return {"", *_features(item)}


def _features(item: ItemAttributes) -> Iterator[str]:
    for depth in range(len(item.category)):
        yield "category:" + " > ".join(item.category[: depth + 1]).casefold()
    for word in _WORD.findall(item.title.casefold()):
        yield f"word:{word}"
    if item.price:
        yield f"price:{_class_of(item.price)}"
    for name, value in item.attributes:
        shown = value.casefold() if isinstance(value, str) else _class_of(value)
        yield f"{name.casefold()}:{shown}"


def _class_of(number: float) -> str:
    if number == 0 or not math.isfinite(number):
        return str(number)
    return f"{math.copysign(1, number):+.0f}e{round(2 * math.log2(abs(number)))}"


class ContentMap:
    """Learned from items with both attributes and vectors; tells where an item without clicks belongs."""

    def __init__(
        self, items: Sequence[ItemAttributes], vectors: NDArray[np.float32], clicks: Floats
    ) -> None:
        """vectors: float32 [items, dim]; clicks: float64 [items], how often each was learned from, above 0."""
        has = [features_of(item) for item in items]
        counts = Counter(feature for one in has for feature in one)
        telling = (feature for feature, n in counts.items() if n >= FEATURE_ITEMS_MIN)
        frequent = sorted(telling, key=lambda feature: (-counts[feature], feature))[:FEATURES_MAX]
        self._column_of = {feature: column for column, feature in enumerate(frequent)}
        weights = clicks / (clicks + SURE_CLICKS)
        total = max(weights.sum(), 1e-12)
        self._mean: Floats = (weights @ vectors) / total
        away = vectors - self._mean
        rows = self._rows(has)
        learned, judges = (
            _equations([rows[i] for i in part], len(frequent), away[part], weights[part])
            for part in np.split(_judges_last(len(items)), [len(items) - len(items) // 5])
        )
        errors = [judges.error(learned.solution(strength)) for strength in STRENGTHS]
        self.strength = STRENGTHS[int(np.argmin(errors))]
        self._matrix = (learned + judges).solution(self.strength)  # [features, dim]
        self.explained = 1.0 - min(errors) / max(judges.spread, 1e-12)
        """Share of the vectors' variance that the attributes tell, on items not learned from; below 0: none."""

    def __call__(self, items: Sequence[ItemAttributes]) -> NDArray[np.float32]:
        """float32 [items, dim]; the mean vector where nothing of an item is known from others."""
        result = np.tile(self._mean, (len(items), 1))
        for row, columns in enumerate(self._rows([features_of(item) for item in items])):
            result[row] += self._matrix[columns].sum(axis=0)
        return result.astype(np.float32)

    def _rows(self, has: Sequence[set[str]]) -> list[NDArray[np.int64]]:
        """Columns of each item's features, ascending."""
        column_of = self._column_of
        return [
            np.array(sorted(column_of[f] for f in one if f in column_of), dtype=np.int64)
            for one in has
        ]


def _judges_last(n: int) -> NDArray[np.int64]:
    """0 to n - 1, every fifth at the end."""
    order: NDArray[np.int64] = np.argsort(np.arange(n) % 5 == 4, kind="stable")
    return order


@dataclass(frozen=True, slots=True, eq=False)
class _Equations:
    """The normal equations of a weighted least-squares problem over 0/1 features."""

    gram: Floats
    """[features, features]."""
    products: Floats
    """Of features and targets, [features, dim]."""
    spread: float
    """Weighted sum of the targets' squares: the error of 0."""

    def __add__(self, other: "_Equations") -> "_Equations":
        return _Equations(
            self.gram + other.gram, self.products + other.products, self.spread + other.spread
        )

    def solution(self, strength: float) -> Floats:
        """[features, dim]."""
        regular = self.gram + strength * np.eye(len(self.gram))
        return np.linalg.solve(regular, self.products).astype(np.float64, copy=False)

    def error(self, matrix: Floats) -> float:
        """Weighted sum of squared distances of what the matrix says from the targets."""
        fitted = float(np.sum(matrix * (self.gram @ matrix)))
        return self.spread - 2.0 * float(np.sum(matrix * self.products)) + fitted


def _equations(
    rows: Sequence[NDArray[np.int64]], n_features: int, targets: Floats, weights: Floats
) -> _Equations:
    products: Floats = np.zeros((n_features, targets.shape[1]))
    for first in range(0, len(rows), _BLOCK):
        block = slice(first, first + _BLOCK)
        has = np.zeros((len(rows[block]), n_features), dtype=np.float32)
        for row, columns in enumerate(rows[block]):
            has[row, columns] = 1.0
        weighted = (weights[block, None] * targets[block]).astype(np.float32)
        products += has.T @ weighted
    gram = _gram(rows, n_features, weights)
    return _Equations(gram, products, float(weights @ np.square(targets).sum(axis=1)))


def _gram(rows: Sequence[NDArray[np.int64]], n_features: int, weights: Floats) -> Floats:
    """Sum of the weights of the items that have both features, [features, features].

    An item has a dozen features of thousands, so pairs are counted one by one: a tenth of the product's time.
    """
    gram = np.zeros(n_features * n_features)
    lengths = np.array([len(columns) for columns in rows], dtype=np.int64)
    for length in np.unique(lengths).tolist():
        alike = np.flatnonzero(lengths == length)
        together = max(_PAIRS_TOGETHER // max(length * length, 1), 1)
        for first in range(0, len(alike) if length else 0, together):
            some = alike[first : first + together]
            columns = np.stack([rows[row] for row in some.tolist()])
            pairs = columns[:, :, None] * n_features + columns[:, None, :]
            np.add.at(gram, pairs.ravel(), np.repeat(weights[some], length * length))
    return gram.reshape(n_features, n_features)
