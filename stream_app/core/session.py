"""A session as a fold over its clicks: old state and one click in, new state out."""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from stream_app.core.records import Click, ItemId

IgnoredReason = Literal["redelivered", "duplicate", "rate_limited"]

ChangelogRecord = tuple[str, bytes | None, int | None]
"""A session as the changelog has it: its id, its record (None: removed), and for a removal the offset of
the click that caused it, if it is known."""

RATE_WINDOW_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Where a session ends and how much of it is remembered."""

    idle_gap_minutes: float = 30.0
    """A longer silence (event time) starts a new session."""
    age_hours_max: float = 24.0
    """A session older than this (event time) ends, and a new one starts."""
    clicks_per_minute_max: int = 120
    """Further clicks within a minute (event time) are a bot's, and ignored."""
    history_len_max: int = 20
    """Item ids remembered; after a model swap the state is rebuilt from them."""
    event_ids_max: int = 8
    """Event ids remembered, to ignore duplicates."""

    def __post_init__(self) -> None:
        """The record of a session holds these counts in a byte or two."""
        if not self.idle_gap_minutes > 0:
            raise ValueError(
                f"session.idle_gap_minutes must be above 0, got {self.idle_gap_minutes}"
            )
        for name, low, high in (
            ("age_hours_max", 0.01, 1_000),
            ("clicks_per_minute_max", 1, 65_535),
            ("history_len_max", 1, 255),
            ("event_ids_max", 0, 255),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"session.{name} must be from {low} to {high}, got {value}")

    @property
    def idle_gap_ms(self) -> float:
        return self.idle_gap_minutes * 60_000

    @property
    def age_ms_max(self) -> float:
        return self.age_hours_max * 3_600_000


class SessionState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of one session after its last applied click."""

    last_offset: int
    """Offset of the last applied click.  A click at or below it was applied already."""
    start_ms: int
    """Event time of the session's first click."""
    last_event_ms: int
    """Latest event time seen; never runs backwards."""
    click_count: int
    """0: the session was removed, by the click at `last_offset`."""
    window_start_ms: int
    """Start of the running minute in which clicks are counted against the bot limit."""
    window_clicks: int
    """Clicks in it so far."""
    recent_item_ids: tuple[ItemId, ...]
    """Oldest first, the last is the last applied click's."""
    recent_event_hashes: tuple[int, ...] = ()
    """`event_hash` of the last event ids, oldest first: who comes again is a duplicate."""
    shown_hashes: bytes = b""
    """`item_hash` of the items last recommended, best first, uint32 little-endian each."""
    shown_model_version: str = ""
    """Version label of the recommendation that showed them; "" where nothing was shown."""
    model_version: str = ""
    """Model that made `model_state`; "" where no model has seen the session."""
    model_state: bytes = b""
    """The tensors that the bundle's manifest declares, one after the other; empty where there are none yet."""

    @property
    def is_removed(self) -> bool:
        """Whether this only says that the session was removed, and by which click."""
        return self.click_count == 0


def removed_session(offset: int) -> SessionState:
    """What is left of a session that the click at `offset` removed: that clicks up to it are applied.

    Without it a crash before the commit would begin the session anew from its redelivered clicks.
    """
    return SessionState(
        last_offset=offset,
        start_ms=0,
        last_event_ms=0,
        click_count=0,
        window_start_ms=0,
        window_clicks=0,
        recent_item_ids=(),
    )


def event_hash(event_id: str) -> int:
    """64 bits of BLAKE2b: what a session remembers of an event id."""
    digest = hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def advance(
    state: SessionState | None, click: Click, *, offset: int, limits: SessionLimits
) -> SessionState | IgnoredReason:
    """Fold one click into its session; or say why the click changes nothing.

    offset: the click's position in its partition.  All clicks of a session share a partition, so a
    click at or below `state.last_offset` is a redelivery.  A late click is applied in log order and
    moves no clock back.  The model's part (`model_state`, `model_version`, `shown_*`) is carried over,
    and emptied where a new session starts: the caller steps the model.
    """
    if offset < 0:
        raise ValueError(f"an offset is never negative, got {offset}")
    event_ms = click.event_time_ms
    hashed: tuple[int, ...] = ()
    if click.event_id is not None and limits.event_ids_max:
        hashed = (event_hash(click.event_id),)
    if state is not None and offset <= state.last_offset:
        return "redelivered"
    if state is None or state.is_removed:
        return _first(click, offset, hashed)
    if hashed and hashed[0] in state.recent_event_hashes:
        return "duplicate"
    if (
        event_ms - state.last_event_ms > limits.idle_gap_ms
        or event_ms - state.start_ms > limits.age_ms_max
    ):
        return _first(click, offset, hashed)

    window_start_ms, window_clicks = state.window_start_ms, state.window_clicks
    if event_ms - window_start_ms >= RATE_WINDOW_MS:
        window_start_ms, window_clicks = event_ms, 0
    if window_clicks >= limits.clicks_per_minute_max:
        return "rate_limited"
    event_hashes = state.recent_event_hashes
    if hashed:
        event_hashes = (*event_hashes, *hashed)[-limits.event_ids_max :]
    return SessionState(
        last_offset=offset,
        start_ms=state.start_ms,
        last_event_ms=max(event_ms, state.last_event_ms),
        click_count=state.click_count + 1,
        window_start_ms=window_start_ms,
        window_clicks=window_clicks + 1,
        recent_item_ids=(*state.recent_item_ids, click.item_id)[-limits.history_len_max :],
        recent_event_hashes=event_hashes,
        shown_hashes=state.shown_hashes,
        shown_model_version=state.shown_model_version,
        model_version=state.model_version,
        model_state=state.model_state,
    )


def _first(click: Click, offset: int, event_hashes: tuple[int, ...]) -> SessionState:
    return SessionState(
        last_offset=offset,
        start_ms=click.event_time_ms,
        last_event_ms=click.event_time_ms,
        click_count=1,
        window_start_ms=click.event_time_ms,
        window_clicks=1,
        recent_item_ids=(click.item_id,),
        recent_event_hashes=event_hashes,
    )
