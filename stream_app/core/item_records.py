"""An item's record on the statistics topic: a fixed head, then its co-occurrence row.

Little-endian, no padding.  P popularities and H co-occurrence half-lives, as in `StatisticsRecipe`:

    offset  size  field
    0       1     format: 2 (format 1 was JSON and began with 0x7b)
    1       1     P
    2       1     H
    3       1     0
    4       4     number: what rows call the item, from 0
    8       4     version it changed in
    12      4     version in which it was given its number
    16      4     version in which its row was written
    20      8     time of its newest click, ms since 1970
    28      8     time of its newest follow-up click; 0: none
    36      8     time the row is as of; 0: no row
    44      8 P   popularity of all clicks at each half-life as of its newest click, float64
            8     popularity of its follow-up clicks as of the newest of them, float64
            4 H   all weights ever added to its row, decayed, float32
            4 n   neighbours, by number, uint32, ascending
            4 H n counts of the pairs, a half-life after the other, float32

With 100 neighbours and two half-lives 1,292 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.errors import BadRecordError

FORMAT: Final = 2
FORMAT_1: Final = b"{"
"""How records of format 1 begin."""
NUMBERS_SPARE: Final = 2**20
"""Numbers are the smallest that are free, so they stay below twice the items, and this for a few items."""
TIME_MAX: Final = 2**53
"""Float arithmetic takes it without loss."""


@cache
def head_type(n_popularities: int, n_half_lives: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("format", "u1"),
            ("n_popularities", "u1"),
            ("n_half_lives", "u1"),
            ("zero", "u1"),
            ("number", "<u4"),
            ("version", "<u4"),
            ("since", "<u4"),
            ("row_version", "<u4"),
            ("time_ms", "<i8"),
            ("follow_up_time_ms", "<i8"),
            ("row_time_ms", "<i8"),
            ("counts", "<f8", (n_popularities,)),
            ("follow_ups", "<f8"),
            ("row_totals", "<f4", (n_half_lives,)),
        ]
    )


def row_begin(value: bytes) -> int:
    """Where the row of a record begins."""
    return 52 + 8 * value[1] + 4 * value[2]


def check_record(value: bytes) -> None:
    """Raises `BadRecordError` for what cannot be an item's record; its numbers are looked at later
    (`read_heads`), all at once."""
    if len(value) >= 44 and value[0] == FORMAT and value[1] > 0 and value[2] > 0 and value[3] == 0:
        row_bytes = len(value) - row_begin(value)
        if row_bytes >= 0 and row_bytes % (4 + 4 * value[2]) == 0:
            return
    raise BadRecordError("BadStatistic", f"no item statistic: {value[:8]!r}, {len(value)} bytes")


def written_in(value: bytes) -> int:
    """The version a record was written in, whatever its shape."""
    return int.from_bytes(value[8:12], "little")


@dataclass(frozen=True, slots=True)
class Heads:
    """The fixed parts of records that make sense, and which those are."""

    heads: NDArray[Any]
    """Structured as `head_type` says."""
    good: NDArray[np.bool_]
    """[n_records given]."""


def read_heads(
    values: Sequence[bytes], n_popularities: int, n_half_lives: int, *, n_items: int = 0
) -> Heads:
    """values: each passed `check_record`.  n_items: known besides them.  Records of another shape, or with
    numbers that make no sense (NaN, negative, endless; an item's number far above all others), are not good."""
    kind = head_type(n_popularities, n_half_lives)
    shaped = [v[1] == n_popularities and v[2] == n_half_lives for v in values]
    joined = b"".join([v[: kind.itemsize] for v, fits in zip(values, shaped, strict=True) if fits])
    heads = np.frombuffer(joined, dtype=kind)
    good = np.array(shaped, dtype=bool)
    sane = heads["number"] < 2 * (n_items + len(values)) + NUMBERS_SPARE
    for name in ("time_ms", "follow_up_time_ms", "row_time_ms"):
        sane &= np.abs(heads[name]) <= TIME_MAX
    sane &= ((heads["counts"] > 0) & (heads["counts"] < np.inf)).all(axis=1)
    sane &= (heads["follow_ups"] >= 0) & (heads["follow_ups"] < np.inf)
    sane &= ((heads["row_totals"] >= 0) & (heads["row_totals"] < np.inf)).all(axis=1)
    good[good] = sane
    return Heads(heads[sane], good)


def encode_records(heads: NDArray[Any], rows: Sequence[bytes]) -> list[bytes]:
    """heads: structured as `head_type` says.  rows: neighbours and counts of each."""
    size, data = heads.dtype.itemsize, heads.tobytes()
    return [data[size * at : size * (at + 1)] + row for at, row in enumerate(rows)]
