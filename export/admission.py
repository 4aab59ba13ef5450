"""Which items a model knows: catalogues are endless, vocabularies are not."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.window import Window
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable
from stream_app.settings import RetrainSettings

_NEVER: Final = np.iinfo(np.int64).min


def admitted_items(window: Window, settings: RetrainSettings) -> ItemVocabulary:
    """The items of the window that a model is to know, in the window's order.

    Clicked `retrain.item_clicks_min` times at least, and of these the `retrain.items_max` most clicked, the
    more recently clicked first among equals.  Any other leaves the vocabulary, or does not come in.
    """
    chosen = _chosen(
        window.sessions, len(window.vocabulary), settings.items_max, settings.item_clicks_min
    )
    if len(chosen) == len(window.vocabulary):
        return window.vocabulary
    ids = window.vocabulary.ids
    return ItemVocabulary(ids[row] for row in chosen)


def with_new_items(
    known: ItemVocabulary, window: SessionTable, seen: ItemVocabulary, settings: RetrainSettings
) -> ItemVocabulary:
    """`known` and, at its end, what else is to be known of the window, as far as there is room.

    seen: what the window's indexes mean; it begins with `known`.
    """
    room = max(settings.items_max - len(known), 0)
    new = SessionTable(
        np.where(window.item_indexes >= len(known), window.item_indexes - len(known), -1),
        window.session_starts,
        window.click_ms,
    )
    n_new = len(seen) - len(known)
    chosen = _chosen(new, n_new, room, settings.item_clicks_min)
    return known.extended(seen.ids[len(known) + row] for row in chosen)


def _chosen(
    sessions: SessionTable, n_items: int, items_max: int, clicks_min: int
) -> NDArray[np.int64]:
    """Rows of the items that are let in, ascending."""
    clicks = sessions.support(n_items)
    fit = np.flatnonzero(clicks >= clicks_min)
    if len(fit) <= items_max:
        return fit
    newest = np.full(n_items, _NEVER, dtype=np.int64)
    is_known = sessions.item_indexes >= 0
    np.maximum.at(newest, sessions.item_indexes[is_known], sessions.click_ms[is_known])
    by_clicks = fit[np.lexsort((-newest[fit], -clicks[fit]))]
    return np.sort(by_clicks[:items_max])
