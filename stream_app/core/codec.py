"""Session state <-> bytes, as RocksDB and the changelog hold them.  The first byte is the version.

Version 1, little-endian:

    header      see `_HEADER`
    shown       item_hash of the items last recommended, uint32 each
    event ids   64-bit hash each
    versions    model version, then (only where it differs) the version that showed the items
    item ids    1 byte of length (255: 2 more bytes hold it), then UTF-8; oldest first
    state       the model's tensors, as the bundle's manifest declares them
"""

import struct
from typing import Final

from stream_app.core.errors import StateDecodeError
from stream_app.core.records import ItemId
from stream_app.core.session import SessionState

VERSION: Final = 1

_HEADER: Final = struct.Struct("<B16sqqIIIHBBBBBH")
"""version, topic id, last offset, start ms, last event (ms after start), click count, window start (ms
after start), window clicks, lengths: item ids, event ids, shown, model version, version that showed
(_SAME: the same), model state."""

_SAME: Final = 255
_LONG: Final = 255
_U32_MAX: Final = 2**32 - 1


def encode_state(state: SessionState, topic_id: bytes) -> bytes:
    """topic_id: 16 bytes that name the input topic's incarnation; offsets mean nothing without it."""
    shown_version: bytes | None = None
    shown_version_len = _SAME
    model_version = state.model_version.encode()
    if state.shown_model_version != state.model_version:
        shown_version = state.shown_model_version.encode()
        shown_version_len = len(shown_version)
    event_hashes = state.recent_event_hashes
    parts = [
        _HEADER.pack(
            VERSION,
            topic_id,
            state.last_offset,
            state.start_ms,
            min(state.last_event_ms - state.start_ms, _U32_MAX),
            state.click_count,
            min(max(state.window_start_ms - state.start_ms, 0), _U32_MAX),
            state.window_clicks,
            len(state.recent_item_ids),
            len(event_hashes),
            len(state.shown_hashes) // 4,
            len(model_version),
            shown_version_len,
            len(state.model_state),
        ),
        state.shown_hashes,
    ]
    if event_hashes:
        parts.append(struct.pack(f"<{len(event_hashes)}Q", *event_hashes))
    parts.append(model_version)
    if shown_version is not None:
        parts.append(shown_version)
    for item_id in state.recent_item_ids:
        raw = item_id.encode()
        size = len(raw)
        parts.append(bytes((size,)) if size < _LONG else struct.pack("<BH", _LONG, size))
        parts.append(raw)
    parts.append(state.model_state)
    return b"".join(parts)


def decode_state(data: bytes) -> tuple[SessionState, bytes]:
    """The state and the topic id it belongs to.  Raises `StateDecodeError` for anything else."""
    if not data or data[0] != VERSION:
        found = data[0] if data else "nothing"
        raise StateDecodeError(f"session record version {found}, this nextclick reads {VERSION}")
    try:
        return _decode(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise StateDecodeError(
            f"session record of {len(data)} bytes is damaged: {error}"
        ) from error


def applied_offset(data: bytes) -> int:
    """Only the last applied offset; restoring compares it and leaves the rest undecoded."""
    try:
        return int(_OFFSET.unpack_from(data, 17)[0])
    except struct.error as error:
        raise StateDecodeError(f"session record of {len(data)} bytes is damaged") from error


_OFFSET: Final = struct.Struct("<q")


def _decode(data: bytes) -> tuple[SessionState, bytes]:
    (
        _version,
        topic_id,
        last_offset,
        start_ms,
        last_event_after,
        click_count,
        window_after,
        window_clicks,
        n_items,
        n_events,
        n_shown,
        model_version_len,
        shown_version_len,
        state_len,
    ) = _HEADER.unpack_from(data)
    at = _HEADER.size
    shown_hashes = data[at : at + 4 * n_shown]
    at += 4 * n_shown
    event_hashes: tuple[int, ...] = ()
    if n_events:
        event_hashes = struct.unpack_from(f"<{n_events}Q", data, at)
        at += 8 * n_events
    model_version = data[at : at + model_version_len].decode()
    at += model_version_len
    shown_version = model_version
    if shown_version_len != _SAME:
        shown_version = data[at : at + shown_version_len].decode()
        at += shown_version_len
    item_ids = []
    for _ in range(n_items):
        size = data[at]
        at += 1
        if size == _LONG:
            (size,) = struct.unpack_from("<H", data, at)
            at += 2
        item_ids.append(ItemId(data[at : at + size].decode()))
        at += size
    if at + state_len != len(data):
        raise StateDecodeError(
            f"session record of {len(data)} bytes is damaged: it should have {at + state_len}"
        )
    return (
        SessionState(
            last_offset=last_offset,
            start_ms=start_ms,
            last_event_ms=start_ms + last_event_after,
            click_count=click_count,
            window_start_ms=start_ms + window_after,
            window_clicks=window_clicks,
            recent_item_ids=tuple(item_ids),
            recent_event_hashes=event_hashes,
            shown_hashes=shown_hashes,
            shown_model_version=shown_version,
            model_version=model_version,
            model_state=data[at:],
        ),
        topic_id,
    )
