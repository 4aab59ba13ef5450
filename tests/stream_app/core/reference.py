"""The worker's promises, once more and the slow way: one click at a time, plain dictionaries.

Shares nothing with `stream_app.core.pipeline` and `.session` but the record types and the scorer.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stream_app.core.pipeline import ServingRules
from tests.doubles import FakeScorer, FixedPopularity
from tests.strategies import Record

FRESH = object()


@dataclass
class Session:
    offset: int
    first_ms: int
    latest_ms: int
    clicks: int
    minute_start_ms: int
    minute_clicks: int
    items: list[str]
    event_ids: list[str]
    shown: list[str] | None = None
    """Item ids of the last answer, best first."""
    shown_by: str = ""
    model: str = ""
    hidden: bytes = b""


@dataclass
class Reference:
    rules: ServingRules
    popularity: FixedPopularity
    sessions: dict[tuple[int, str], Session] = field(default_factory=dict)
    answers: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    """By (partition, offset)."""
    outcomes: Counter[str] = field(default_factory=Counter)
    judged: dict[str, list[int]] = field(default_factory=dict)
    """Ranks of next clicks in the answer before them (0: not in it), by the version that gave it."""
    rebuilt: int = 0

    def click(self, record: Record, scorer: FakeScorer | None) -> None:
        fields = self._fields(record.value)
        if fields is None:
            self.outcomes["dead_lettered"] += 1
            return
        kind = fields.get("event_type", "view_item")
        withdrawn = fields.get("consent") is False
        if kind not in {"view_item", "erase"} and not withdrawn:
            self.outcomes["ignored_event_type"] += 1
            return
        key = (record.partition, fields["session_id"])
        old = self.sessions.get(key)
        if old is not None and record.offset <= old.offset:
            self.outcomes["ignored_redelivered"] += 1
            return
        if kind == "erase":
            self.sessions.pop(key, None)
            self.outcomes["ignored_erased"] += 1
            return
        if withdrawn:
            self.sessions.pop(key, None)
            if kind != "view_item":
                self.outcomes["ignored_event_type"] += 1
                return
            self._answer(record, scorer, self._popular(()), "no_consent")
            return
        session = self._follow(old, record.offset, fields)
        if isinstance(session, str):
            self.outcomes[f"ignored_{session}"] += 1
            return
        if session is old and old.shown is not None:
            rank = old.shown.index(fields["item_id"]) + 1 if fields["item_id"] in old.shown else 0
            self.judged.setdefault(old.shown_by, []).append(rank)
        self.sessions[key] = session
        items, why = self._recommend(session, scorer)
        session.shown, session.shown_by = items[:20], scorer.model_version if scorer else "none"
        self._answer(record, scorer, items, why)

    def _fields(self, value: bytes | None) -> dict[str, Any] | None:
        try:
            fields = json.loads(value or b"")
            good = (
                isinstance(fields["session_id"], str)
                and isinstance(fields["item_id"], str)
                and isinstance(fields["event_time"], int)
                and fields["event_time"] > 10**12
            )
        except (ValueError, KeyError, TypeError):
            return None
        return fields if good else None

    def _follow(self, old: Session | None, offset: int, fields: dict[str, Any]) -> Session | str:
        limits = self.rules.limits
        now, item, event_id = fields["event_time"], fields["item_id"], fields.get("event_id")
        if old is not None and event_id is not None and event_id in old.event_ids:
            return "duplicate"
        if (
            old is None
            or now - old.latest_ms > limits.idle_gap_minutes * 60_000
            or now - old.first_ms > limits.age_hours_max * 3_600_000
        ):
            return Session(offset, now, now, 1, now, 1, [item], [event_id] if event_id else [])
        minute_start, minute_clicks = old.minute_start_ms, old.minute_clicks
        if now - minute_start >= 60_000:
            minute_start, minute_clicks = now, 0
        if minute_clicks == limits.clicks_per_minute_max:
            return "rate_limited"
        old.minute_start_ms, old.minute_clicks = minute_start, minute_clicks + 1
        old.offset = offset
        old.latest_ms = max(old.latest_ms, now)
        old.clicks += 1
        old.items = ([*old.items, item])[-limits.history_len_max :]
        if event_id:
            old.event_ids = ([*old.event_ids, event_id])[-limits.event_ids_max :]
        return old

    def _recommend(
        self, session: Session, scorer: FakeScorer | None
    ) -> tuple[list[str], str | None]:
        seen = session.items if self.rules.filter_seen else ()
        if scorer is None:
            session.model, session.hidden = "", b""
            return self._popular(seen), "no_model"
        if session.model == scorer.model_version:
            todo = session.items[-1:]
        else:
            self.rebuilt += session.clicks > 1
            session.hidden, todo = b"", session.items
        session.model = scorer.model_version
        for item in todo:
            if item in scorer.vocabulary:
                hidden = session.hidden or bytes(scorer.state_size_bytes)
                row = np.frombuffer(hidden, np.uint8)[None]
                index = np.array([scorer.vocabulary.index_of[item]])
                session.hidden = scorer.step(row, index).tobytes()
        if not session.hidden:
            return self._popular(seen), "unknown_item"
        everything = scorer.top_k(
            np.frombuffer(session.hidden, np.uint8)[None], len(scorer.vocabulary)
        )[1][0]
        ranked = [scorer.vocabulary.ids[index] for index in everything]
        return [item for item in ranked if item not in seen][: self.rules.top_k], None

    def _popular(self, seen: list[str] | tuple[()]) -> list[str]:
        ranked = [item.item_id for item in self.popularity.top(1_000)]
        return [item for item in ranked if item not in seen][: self.rules.top_k]

    def _answer(
        self, record: Record, scorer: FakeScorer | None, items: list[str], why: str | None
    ) -> None:
        self.outcomes["recommended"] += 1
        self.answers[record.partition, record.offset] = {
            "items": items,
            "fallback": why,
            "model_version": scorer.model_version if scorer else None,
        }
