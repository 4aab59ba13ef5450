"""Popularity-powered negative sampling (Hidasi & Karatzoglou 2018, 1706.03847, section 3.1)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 1 << 20
"""Negatives are drawn so many at a time (fewer at first, so that a short training does not pay for a
long one's): one draw per step would cost more than the step's sums."""


def sampling_weights(support: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """support ** alpha, float64 [n_items].

    An item that was never clicked counts as clicked once: after a warm start the vocabulary holds
    items that have left the window, and as negatives they are learned to be passed over.
    """
    return np.maximum(support, 1).astype(np.float64) ** alpha


class NegativeSampler:
    """Item indexes drawn with replacement, in proportion to fixed weights (alias method, Vose 1991).

    A draw costs two look-ups whatever the catalogue's size, and works in float64: a float32
    cumulative sum cannot tell the rare items of a large catalogue apart.
    """

    def __init__(self, weights: NDArray[np.float64], generator: np.random.Generator) -> None:
        self._keep, self._alias = _alias_table(weights)
        self._generator = generator
        self._block = np.empty(0, dtype=np.int64)
        self._used = 0

    def draw(self, n: int) -> NDArray[np.int64]:
        """int64 [n]."""
        if self._used + n > len(self._block):
            self._block = self._fill(max(n, min(BLOCK, max(16 * n, 2 * len(self._block)))))
            self._used = 0
        self._used += n
        return self._block[self._used - n : self._used]

    def _fill(self, n: int) -> NDArray[np.int64]:
        column = self._generator.integers(len(self._keep), size=n)
        own = self._generator.random(n) < self._keep[column]
        return np.where(own, column, self._alias[column])


def _alias_table(
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each column, the probability of keeping it, and the item to take otherwise."""
    n = len(weights)
    scaled = (weights * (n / weights.sum())).tolist()
    alias = list(range(n))
    poor = [i for i, share in enumerate(scaled) if share < 1]
    rich = [i for i, share in enumerate(scaled) if share >= 1]
    while poor and rich:
        i, j = poor.pop(), rich[-1]
        alias[i] = j
        scaled[j] -= 1 - scaled[i]
        if scaled[j] < 1:
            poor.append(rich.pop())
    keep = np.array(scaled)
    # What rounding left over is full columns.
    keep[poor + rich] = 1.0
    return keep, np.array(alias, dtype=np.int64)
