"""A table of sessions as a log: its clicks one by one, in order of time."""

from collections.abc import Iterator

import numpy as np

from stream_app.core.clicks import encode_click
from stream_app.core.records import Click, ItemId
from stream_app.core.statistics import SessionClick
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.stream_statistics import LoggedClick


class SessionLog:
    """Each session under a name of its own; clicks of one millisecond in the order of their sessions."""

    def __init__(self, sessions: SessionTable, vocabulary: ItemVocabulary) -> None:
        """sessions: all of their items are in the vocabulary."""
        number = np.repeat(np.arange(sessions.n_sessions), sessions.lengths)
        order = np.argsort(sessions.click_ms, kind="stable")
        self.ms = sessions.click_ms[order]
        """Event time of each click, int64 [n_clicks], rising."""
        self.sessions = number[order]
        """Session of each, int64 [n_clicks]."""
        self.starts_ms = sessions.start_ms
        self._items, self._ids = sessions.item_indexes[order], vocabulary.ids

    def item_id(self, at: int) -> ItemId:
        return ItemId(self._ids[self._items[at]])

    def counted(self, first: int, last: int) -> Iterator[SessionClick]:
        """Clicks `first` to before `last` as the statistics count them."""
        for at in range(first, last):
            yield SessionClick(
                0, at, f"s{self.sessions[at]}", self.item_id(at), int(self.ms[at]), True
            )

    def record(self, at: int) -> LoggedClick:
        """A click as a message; the offset is its place."""
        ms, session_id, item_id = int(self.ms[at]), f"s{self.sessions[at]}", self.item_id(at)
        click = Click(session_id=session_id, item_id=item_id, event_time_ms=ms)
        return LoggedClick(at, ms, session_id, item_id, encode_click(click))
