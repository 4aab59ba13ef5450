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
from collections.abc import Sequence
from typing import Final, cast

from stream_app.core.errors import ForeignRecordError, StateDecodeError
from stream_app.core.records import ItemId
from stream_app.core.session import SessionState

VERSION: Final = 1

_HEADER: Final = struct.Struct("<B16sqqIIIHBBBBBH")
"""version, topic id, last offset, start ms, last event (ms after start), click count, window start (ms
after start), window clicks, lengths: item ids, event ids, shown, model version, version that showed
(_SAME: the same), model state."""

_CLICK_COUNT: Final = slice(37, 41)
_NO_CLICKS: Final = bytes(4)
_SAME: Final = 255
_LONG: Final = 255
_U32_MAX: Final = 2**32 - 1
_ASCII_SIZED: Final = tuple(map(chr, range(128)))
"""A length that is a byte of ASCII, as text."""


def encode_state(state: SessionState, topic_id: bytes) -> bytes:
    """topic_id: 16 bytes that name the input topic's incarnation; offsets mean nothing without it."""
    shown_version = b""
    shown_version_len = _SAME
    model_version = state.model_version.encode()
    if state.shown_model_version != state.model_version:
        shown_version = state.shown_model_version.encode()
        shown_version_len = len(shown_version)
    event_hashes = state.recent_event_hashes
    return b"".join(
        (
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
            struct.pack(f"<{len(event_hashes)}Q", *event_hashes) if event_hashes else b"",
            model_version,
            shown_version,
            _encode_ids(state.recent_item_ids),
            state.model_state,
        )
    )


def _encode_ids(item_ids: Sequence[ItemId]) -> bytes:
    """The usual ids are short ASCII, of which one encoding takes care for all of them."""
    try:
        joined = "".join([_ASCII_SIZED[len(item_id)] + item_id for item_id in item_ids])
    except IndexError:
        joined = "\u00ff"
    if joined.isascii():
        return joined.encode()
    parts = []
    for item_id in item_ids:
        raw = item_id.encode()
        size = len(raw)
        parts.append(bytes((size,)) if size < _LONG else struct.pack("<BH", _LONG, size))
        parts.append(raw)
    return b"".join(parts)


def is_removal(data: bytes) -> bool:
    """Whether a record only says that its session was removed: it has no click."""
    return data[_CLICK_COUNT] == _NO_CLICKS


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
        return int(_OFFSET.unpack_from(data, _OFFSET_AT)[0])
    except struct.error as error:
        raise StateDecodeError(f"session record of {len(data)} bytes is damaged") from error


def last_event_ms(data: bytes) -> int:
    """Only the latest event time.  Raises `StateDecodeError` where the record is too short for one."""
    try:
        _, start_ms, after = _MOMENTS.unpack_from(data, _OFFSET_AT)
    except struct.error as error:
        raise StateDecodeError(f"session record of {len(data)} bytes is damaged") from error
    return int(start_ms + after)


def idle_records(records: Sequence[bytes], *, before_ms: int) -> list[int]:
    """Positions of the records whose latest event is before that time; too short ones are left out.

    A tight loop: expiry looks at every stored session again and again.
    """
    unpack = _MOMENTS.unpack_from
    try:
        moments = [unpack(record, _OFFSET_AT) for record in records]
    except struct.error:
        short = _OFFSET_AT + _MOMENTS.size
        moments = [
            unpack(record, _OFFSET_AT) if len(record) >= short else (0, before_ms, 0)
            for record in records
        ]
    return [at for at, (_, start_ms, after) in enumerate(moments) if start_ms + after < before_ms]


def check_record(data: bytes, topic_id: bytes) -> int:
    """The last applied offset of a record that `decode_state` would read, in a third of its time.

    Raises `ForeignRecordError` where the record is of another incarnation of the click topic, and
    `StateDecodeError` where it cannot be read.
    """
    if data[:_OFFSET_AT] != _VERSION_BYTE + topic_id:
        _, found = decode_state(data)
        raise ForeignRecordError(found)
    try:
        offset, n_items, n_events, n_shown, model_version_len, shown_version_len, state_len = (
            _SIZES.unpack_from(data, _OFFSET_AT)
        )
        ids_at = _HEADER.size + 4 * n_shown + 8 * n_events
        text_at = ids_at
        ids_at += model_version_len
        if shown_version_len != _SAME:
            ids_at += shown_version_len
        end = len(data) - state_len
        if ids_at <= end and data[text_at:end].isascii():
            # No byte of length is a long one, so what has to be right is that the lengths add up.
            for _ in range(n_items):
                ids_at += 1 + data[ids_at]
            if ids_at == end:
                return int(offset)
    except (struct.error, IndexError):
        pass
    decode_state(data)  # says what is wrong, or that it is only unusual
    return applied_offset(data)


_OFFSET: Final = struct.Struct("<q")
_OFFSET_AT: Final = 17
_MOMENTS: Final = struct.Struct("<qqI")
"""From `_OFFSET_AT` on: last offset, start ms, last event (ms after start)."""
_SIZES: Final = struct.Struct("<q8x4x4x4x2xBBBBBH")
"""From `_OFFSET_AT` on: last offset, and the lengths as in `_HEADER`."""
_VERSION_BYTE: Final = bytes((VERSION,))


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
    end = len(data) - state_len
    if at > end:
        raise StateDecodeError(f"session record of {len(data)} bytes is damaged: too short")
    ids_block = data[at:end]
    item_ids: list[str] = []
    if ids_block.isascii():
        text, at = ids_block.decode(), 0
        for _ in range(n_items):
            after = at + 1 + ids_block[at]
            item_ids.append(text[at + 1 : after])
            at = after
        at += end - len(ids_block)
    else:
        at = _decode_long_ids(data, at, n_items, item_ids)
    if at != end:
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
            recent_item_ids=cast("tuple[ItemId, ...]", tuple(item_ids)),
            recent_event_hashes=event_hashes,
            shown_hashes=shown_hashes,
            shown_model_version=shown_version,
            model_version=model_version,
            model_state=data[at:],
        ),
        topic_id,
    )


def _decode_long_ids(data: bytes, at: int, n_items: int, item_ids: list[str]) -> int:
    """Append ids of any length and script to `item_ids`; where they end."""
    for _ in range(n_items):
        size = data[at]
        at += 1
        if size == _LONG:
            (size,) = struct.unpack_from("<H", data, at)
            at += 2
        item_ids.append(data[at : at + size].decode())
        at += size
    return at
