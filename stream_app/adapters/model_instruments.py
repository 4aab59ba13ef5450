"""Metrics of the live model: how large it is, and how much of its catalogue is ever recommended."""

import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Gauge

from stream_app.core.pipeline import ListedItems

COVERAGE_SECONDS: Final = 300.0
"""Items count as recommended for one to two times so long."""


class ModelInstruments:
    """All 0 while no model is live."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._items = Gauge(
            "nextclick_model_items",
            "Items the live model knows. Falling from one model to the next: look at the archive and at "
            "retrain.window_days.",
            registry=registry,
        )
        self._bundle_bytes = Gauge(
            "nextclick_model_bundle_bytes",
            "Size of the live model's bundle. Growing with the catalogue; a swap reads so much from the registry.",
            registry=registry,
        )
        self._state_bytes = Gauge(
            "nextclick_model_state_bytes",
            "Model state in each session's record. Times the stored sessions it is most of the store: fewer "
            "retrain.layer_units make it smaller.",
            registry=registry,
        )
        self._recommended = Gauge(
            "nextclick_recommended_items",
            "Different items in the live model's lists of the last 5 to 10 minutes, of this worker. Falling "
            "against nextclick_model_items while the clicks do not: the model recommends the same to everybody.",
            registry=registry,
        )
        self._coverage = Coverage()
        self._recommended.set_function(self._coverage.recommended_items)

    def live(self, n_items: int, *, bundle_bytes: int, state_bytes: int) -> None:
        """A model is live: the size of its catalogue, of its bundle, and of its state of one session."""
        self._items.set(n_items)
        self._bundle_bytes.set(bundle_bytes)
        self._state_bytes.set(state_bytes)

    def unloaded(self) -> None:
        """No model is live."""
        self.live(0, bundle_bytes=0, state_bytes=0)
        self._coverage.forget()

    def listed(self, listed: ListedItems) -> None:
        """Lists of the model, of one batch."""
        self._coverage.listed(listed)


class Coverage:
    """Which items a model has recommended lately: a bit per item, in two halves that take turns."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.forget()

    def forget(self) -> None:
        self._version = ""
        self._halves: tuple[NDArray[np.bool_], NDArray[np.bool_]] = _fresh(0), _fresh(0)
        self._turned_at = self._now()

    def listed(self, listed: ListedItems) -> None:
        """Another model's first list begins anew."""
        if listed.model_version != self._version:
            self._version = listed.model_version
            self._halves = _fresh(listed.n_items), _fresh(listed.n_items)
            self._turned_at = self._now()
        self._turn()
        self._halves[0][listed.item_indexes] = True

    def recommended_items(self) -> int:
        """Different items lately; from any thread, so it only reads."""
        current, before = self._halves
        turns = self._turns_due()
        if turns == 0:
            return int(np.count_nonzero(current | before))
        return int(np.count_nonzero(current)) if turns == 1 else 0

    def _turn(self) -> None:
        turns = self._turns_due()
        if turns:
            current, _ = self._halves
            fresh = _fresh(len(current))
            self._halves = fresh, current if turns == 1 else fresh.copy()
            self._turned_at += turns * COVERAGE_SECONDS

    def _turns_due(self) -> int:
        return int((self._now() - self._turned_at) // COVERAGE_SECONDS)


def _fresh(n_items: int) -> NDArray[np.bool_]:
    return np.zeros(n_items, dtype=np.bool_)
