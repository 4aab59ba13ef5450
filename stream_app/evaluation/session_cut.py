"""Where sessions end in a click table: the worker's fold over millions of clicks at once."""

import numpy as np
from numpy.typing import NDArray

from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits, SessionState, advance


def session_numbers(
    keys: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    event_codes: NDArray[np.int64] | None,
    limits: SessionLimits,
) -> NDArray[np.int64]:
    """Number of the session that each click belongs to, int64 [n_clicks]; -1: ignored online.

    keys: a number per session id; times_ms: event times; event_codes: a number per event id, -1 for
    none, or None; all int64 [n_clicks], in order of arrival.  Silences are found with array
    operations.  The few keys on which the age limit, the bot limit or deduplication could act go
    through `core.session.advance` click by click, so that there is one definition of a session.
    """
    n = len(keys)
    if n == 0:
        return np.empty(0, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    key, ms = keys[order], times_ms[order]
    new_key = np.diff(key, prepend=key[0] - 1) != 0
    clock = _running_max_by_key(np.cumsum(new_key) - 1, ms)
    silence = np.zeros(n, dtype=bool)
    silence[1:] = ms[1:] - clock[:-1] > limits.idle_gap_ms
    numbers = np.cumsum(new_key | silence) - 1

    for start, end in _exceptional_keys(order, key, ms, numbers, event_codes, new_key, limits):
        part = order[start:end]
        numbers[start:end] = _folded(
            times_ms[part], None if event_codes is None else event_codes[part], limits
        )
        # Numbers only need to differ between sessions and to rise within a key.
        numbers[start:end][numbers[start:end] >= 0] += n * (1 + start)
    numbers = _renumbered(numbers)
    result = np.empty(n, dtype=np.int64)
    result[order] = numbers
    return result


def _running_max_by_key(ordinal: NDArray[np.int64], ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Largest time of the key so far.  A session's clock never runs backwards."""
    low = int(ms.min())
    span = int(ms.max()) - low + 1
    offset = ordinal * span
    return np.maximum.accumulate(ms - low + offset) - offset + low


def _exceptional_keys(
    order: NDArray[np.int64],
    key: NDArray[np.int64],
    ms: NDArray[np.int64],
    numbers: NDArray[np.int64],
    event_codes: NDArray[np.int64] | None,
    new_key: NDArray[np.bool_],
    limits: SessionLimits,
) -> list[tuple[int, int]]:
    """Ranges (in key order) of the keys that need the exact fold."""
    starts = np.flatnonzero(new_key)
    ends = np.append(starts[1:], len(key))
    session_first = np.flatnonzero(np.diff(numbers, prepend=-1))
    start_ms = np.repeat(ms[session_first], np.diff(np.append(session_first, len(ms))))
    exceptional = np.maximum.reduceat(ms - start_ms, starts) > limits.age_ms_max
    exceptional |= ends - starts > limits.clicks_per_minute_max
    if event_codes is not None:
        codes = event_codes[order]
        pair = np.lexsort((codes, np.cumsum(new_key)))
        twice = (codes[pair][1:] == codes[pair][:-1]) & (codes[pair][1:] >= 0)
        twice &= key[pair][1:] == key[pair][:-1]
        exceptional |= np.isin(key[starts], key[pair][1:][twice])
    return [(int(starts[i]), int(ends[i])) for i in np.flatnonzero(exceptional)]


def _folded(
    times_ms: NDArray[np.int64], event_codes: NDArray[np.int64] | None, limits: SessionLimits
) -> NDArray[np.int64]:
    """Session number (from 0) of each click of one key, -1 where the worker ignores the click."""
    numbers = np.full(len(times_ms), -1, dtype=np.int64)
    state: SessionState | None = None
    number = -1
    for offset, time_ms in enumerate(times_ms.tolist()):
        event = -1 if event_codes is None else int(event_codes[offset])
        click = Click(
            session_id="s",
            item_id=ItemId("i"),
            event_time_ms=time_ms,
            event_id=str(event) if event >= 0 else None,
        )
        after = advance(state, click, offset=offset, limits=limits)
        if isinstance(after, str):
            continue
        number += after.click_count == 1
        numbers[offset] = number
        state = after
    return numbers


def _renumbered(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... in place of any distinct numbers; -1 stays."""
    kept = numbers >= 0
    result = np.full(len(numbers), -1, dtype=np.int64)
    result[kept] = np.unique(numbers[kept], return_inverse=True)[1]
    return result
