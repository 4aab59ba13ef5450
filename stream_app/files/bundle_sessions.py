"""`sessions.safetensors` of a bundle: past sessions as items one after the other, and where each begins."""

from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from stream_app.core.session_neighbours import PastSessions

CLICKS_MAX: Final = 20_000_000
"""Indexed by a worker at 40 bytes each."""
_ITEMS: Final = "items"
_STARTS: Final = "starts"


def sessions_bytes(past: PastSessions) -> bytes:
    """The file."""
    tables: dict[str, NDArray[Any]] = {
        _ITEMS: past.items.astype(np.int32),
        _STARTS: past.starts.astype(np.int32),
    }
    data: bytes = safetensors.numpy.save(tables)
    return data


def past_sessions_of(data: bytes, *, n_items: int) -> PastSessions:
    """Raises `ValueError`, saying what is wrong with it."""
    try:
        tables: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"it is no safetensors file ({error})") from error
    for name in (_ITEMS, _STARTS):
        table = tables.get(name)
        if table is None or table.dtype != np.int32 or table.ndim != 1:
            found = "missing" if table is None else f"{table.dtype} {list(table.shape)}"
            raise ValueError(f"{name} is {found}, not int32 [n]")
    items, starts = tables[_ITEMS], tables[_STARTS].astype(np.int64)
    if len(items) > CLICKS_MAX:
        raise ValueError(f"it has {len(items)} clicks, {CLICKS_MAX} may be indexed")
    if (
        len(starts) == 0
        or starts[0] != 0
        or starts[-1] != len(items)
        or (np.diff(starts) < 0).any()
    ):
        raise ValueError("its sessions do not begin and end where its clicks do")
    if len(items) and not 0 <= items.min() <= items.max() < n_items:
        raise ValueError(f"it has items that are none of the {n_items} in the vocabulary")
    return PastSessions(items.astype(np.int64), starts)
