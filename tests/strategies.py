"""What the tests of the core are fed with: clicks, states, and logs of a small, unruly shop."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits, SessionState

START_MS = 1_764_000_000_000
"""All logs begin about here."""

TIGHT = SessionLimits(
    idle_gap_minutes=30,
    age_hours_max=1,
    clicks_per_minute_max=4,
    history_len_max=3,
    event_ids_max=2,
)
"""Limits that a short log runs into."""

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
"""Ids may look like anything: control characters, emoji, right-to-left, quotation marks."""

time_steps_ms = st.sampled_from(
    (
        0,
        1,
        900,
        15_000,
        59_999,
        60_000,
        600_000,
        1_799_999,
        1_800_000,
        1_800_001,
        -1,
        -20_000,
        -4_000_000,
    )
)
"""From one click to the next: mostly forward, now and then late, some across a limit."""


@st.composite
def session_logs(draw: st.DrawFn, *, max_size: int = 30) -> list[Click]:
    """Clicks of one session in log order, late ones and repeated event ids included."""
    now_ms, clicks = START_MS, []
    for _ in range(draw(st.integers(1, max_size))):
        now_ms += draw(time_steps_ms)
        event_id = draw(st.sampled_from((None, None, "e1", "e2", "e3")))
        clicks.append(
            Click(
                session_id="s1",
                item_id=ItemId(draw(st.sampled_from("abcde"))),
                event_time_ms=now_ms,
                event_id=event_id,
            )
        )
    return clicks


_u64 = st.integers(0, 2**64 - 1)
_versions = st.one_of(
    st.just(""), st.just("none"), st.just("20261124T111132Z-3f2a"), st.text("abc-é", max_size=40)
)
_long_ids = st.integers(250, 260).map("x".__mul__) | st.integers(120, 130).map("é".__mul__)


@st.composite
def session_states(draw: st.DrawFn) -> SessionState:
    """Any state that the fold and the pipeline can make, and then some."""
    start_ms = draw(st.integers(-(2**60), 2**60))
    shown = draw(st.integers(0, 20))
    return SessionState(
        last_offset=draw(st.integers(0, 2**63 - 1)),
        start_ms=start_ms,
        last_event_ms=start_ms + draw(st.integers(0, 2**32 - 1)),
        click_count=draw(st.integers(1, 2**32 - 1)),
        window_start_ms=start_ms + draw(st.integers(0, 2**32 - 1)),
        window_clicks=draw(st.integers(0, 65_535)),
        recent_item_ids=tuple(
            ItemId(i) for i in draw(st.lists(ids | _long_ids, min_size=1, max_size=20))
        ),
        recent_event_hashes=tuple(draw(st.lists(_u64, max_size=8))),
        shown_hashes=draw(st.binary(min_size=4 * shown, max_size=4 * shown)),
        shown_model_version=draw(_versions),
        model_version=draw(_versions),
        model_state=draw(st.binary(max_size=400)),
    )


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka message, as `stream_app.core.pipeline.ClickRecord` wants it."""

    offset: int
    value: bytes | None
    partition: int = 0
    timestamp: int = START_MS
    topic: str = "clicks"
    key: bytes | None = b"key"
    headers: Sequence[tuple[str, bytes]] = (("trace", b"\x00\xff"),)


POISON: tuple[bytes | None, ...] = (
    None,
    b"",
    b"{",
    b"null",
    b"[1]",
    b"\xff\xfe",
    b'{"session_id": "s0"}',
    b'{"session_id": "s0", "item_id": {"a": 1}, "event_time": 1764000000000}',
    b'{"session_id": "s0", "item_id": "a", "event_time": 1764000000}',
    b'{"session_id": "s0", "item_id": "a", "event_time": "9999-01-01T00:00:00Z"}',
)
"""Values that no decoder takes."""

KNOWN_ITEMS = "abcdefgh"
UNKNOWN_ITEMS = "xy"


@st.composite
def shop_logs(
    draw: st.DrawFn,
    *,
    min_size: int = 1,
    max_size: int = 40,
    poison: bool = True,
    forget: bool = True,
) -> list[Record]:
    """Records of three sessions in two partitions, offsets without gaps, in an order Kafka may give.

    poison: some values cannot be used.  forget: some clicks withdraw consent or erase the session.
    """
    kinds = ["view"] * 16 + ["cart"]
    kinds += ["poison"] * 2 if poison else []
    kinds += ["no consent", "erase"] if forget else []
    now_ms, next_offset, records = START_MS, {0: 7, 1: 0}, []
    for _ in range(draw(st.integers(min_size, max_size))):
        now_ms += draw(time_steps_ms)
        session = draw(st.integers(0, 2))
        kind = draw(st.sampled_from(kinds))
        value: bytes | None
        if kind == "poison":
            value = draw(st.sampled_from(POISON))
        else:
            fields: dict[str, Any] = {
                "session_id": f"s{session}",
                "item_id": draw(st.sampled_from(KNOWN_ITEMS + UNKNOWN_ITEMS)),
                "event_time": now_ms,
            }
            if draw(st.integers(0, 3)) == 0:
                fields["event_id"] = draw(st.sampled_from(("e1", "e2", "e3")))
            if kind in {"cart", "erase"}:
                fields["event_type"] = {"cart": "add_to_cart", "erase": "erase"}[kind]
            if kind == "no consent":
                fields["consent"] = False
            value = json.dumps(fields).encode()
        partition = session % 2
        records.append(
            Record(next_offset[partition], value, partition, timestamp=START_MS + 86_400_000)
        )
        next_offset[partition] += 1
    return records


@st.composite
def batches_of(draw: st.DrawFn, n_records: int) -> list[slice]:
    """Any way to cut a log into batches."""
    cuts = draw(st.lists(st.integers(0, n_records), max_size=8).map(sorted))
    borders = [0, *cuts, n_records]
    return [slice(a, b) for a, b in itertools.pairwise(borders)]
