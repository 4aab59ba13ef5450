"""The statistics topic: its records, and the fold that gives them back version by version.

A version is what one publication changed: the records of the changed items, then one marker that says
which clicks were counted, all in one Kafka transaction.  Keys say by their beginning what they are, so
that item ids may be anything:

    item/<item id>    binary, see `item_records`                              null: dropped
    version/<n>       see `VersionMarker`                                     null: now in a history
    history/<first>/<last>/<when the last was published, ms>
                      zlib of a JSON array of markers                         null: older than 7 days

Old markers are gathered in histories, because Kafka never merges what it compacted: a reader would take
70 us for each single one, 20 s after a week.
"""

import zlib
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

from stream_app.core.errors import BadRecordError
from stream_app.core.item_records import FORMAT_1, check_record
from stream_app.core.records import UNREADABLE
from stream_app.core.statistics_recipe import StatisticsRecipe

ITEM_PREFIX: Final = b"item/"
VERSION_PREFIX: Final = b"version/"
HISTORY_PREFIX: Final = b"history/"
HISTORY_BYTES_MAX: Final = 2**28
"""Unpacked.  A week of versions at one a second is half of it; a kilobyte of zlib can claim far more."""


_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Moment = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""Float arithmetic takes it without loss."""
_Digits = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,10}$")]


class VersionMarker(msgspec.Struct, frozen=True, kw_only=True):
    """The last record of a version: what exactly was counted."""

    version: int
    """Counts up by one."""
    topic: str
    """The click topic."""
    topic_id: str
    """Hexadecimal; offsets mean nothing under another id."""
    offsets: dict[_Digits, int]
    """Per partition (its number as text) the next offset to count; from the offsets of the version
    before to these are the clicks of this version."""
    watermark: _Moment | None
    """Newest time counted, ms since the epoch."""
    half_life_minutes: _Positive
    """`statistics.half_life_minutes` as it was."""
    items_max: int
    """`statistics.items_max` as it was."""
    total_count: float
    """Decayed count of all clicks at `watermark`."""
    clicks: int
    """Clicks ever counted."""
    items: int
    """Items counted now."""
    published_at: int
    """Wall clock, ms since the epoch."""
    recipe: StatisticsRecipe | None = None
    """All settings that decide what is counted; null in format 1, whose items nobody reads any more."""
    began: int = 0
    """The version with which counting began: items whose records name an earlier one are gone."""
    totals: tuple[_NotNegative, ...] = ()
    """Decayed counts of all clicks at `watermark`, by half-life: the plain one, then the further ones."""
    follow_up_total: _NotNegative = 0.0
    """Decayed count of all follow-up clicks at `follow_up_watermark`."""
    follow_up_watermark: _Moment = 0
    """Newest time of a follow-up click, ms since the epoch; 0 before the first."""
    sessions: dict[_Digits, tuple[int, _Moment]] = {}
    """Per partition: to know the last items of the sessions that went on, read clicks again from this
    offset, before which the partition's newest event time was the second number.  Left out of histories."""

    def __post_init__(self) -> None:
        if self.recipe is not None and len(self.totals) != 1 + len(self.recipe.half_lives_minutes):
            raise ValueError("a total for each half-life is needed")


class HistoryKey(NamedTuple):
    """Which versions a history holds, so that nobody need open it to know."""

    first: int
    last: int
    published_at: int
    """When the last of them was published, ms since the epoch."""

    def encode(self) -> bytes:
        return HISTORY_PREFIX + f"{self.first}/{self.last}/{self.published_at}".encode()

    @classmethod
    def decode(cls, key: bytes) -> "HistoryKey":
        """Raises `BadRecordError` for what is no history's key."""
        try:
            first, last, published_at = map(int, key.removeprefix(HISTORY_PREFIX).split(b"/"))
        except ValueError as error:
            raise BadRecordError("BadStatistic", f"no history's key: {key[:40]!r}") from error
        return cls(first, last, published_at)


def item_key(item_id: str) -> bytes:
    return ITEM_PREFIX + item_id.encode()


def _item_of(key: bytes) -> str:
    try:
        return key.removeprefix(ITEM_PREFIX).decode()
    except UnicodeDecodeError as error:
        raise BadRecordError("BadStatistic", f"no item's key: {key[:20]!r}") from error


def version_key(version: int) -> bytes:
    return VERSION_PREFIX + str(version).encode()


def version_of(key: bytes) -> int:
    """Raises `BadRecordError` for what is no version's key."""
    try:
        return int(key.removeprefix(VERSION_PREFIX))
    except ValueError as error:
        raise BadRecordError("BadStatistic", f"no version's key: {key[:20]!r}") from error


def encode_marker(marker: VersionMarker) -> bytes:
    return _encode(marker)


def encode_history(markers: Sequence[VersionMarker]) -> tuple[bytes, bytes]:
    """Key and value for ascending markers."""
    key = HistoryKey(markers[0].version, markers[-1].version, markers[-1].published_at)
    kept = [msgspec.structs.replace(marker, sessions={}) for marker in markers]
    return key.encode(), zlib.compress(_encode(kept))


_encode = msgspec.json.Encoder().encode
_marker_decoder = msgspec.json.Decoder(VersionMarker)
_history_decoder = msgspec.json.Decoder(list[VersionMarker])


def decode_marker(value: bytes) -> VersionMarker:
    """Raises `BadRecordError` for anything that is not a version's marker."""
    try:
        return _marker_decoder.decode(value)
    except UNREADABLE as error:
        raise BadRecordError("BadStatistic", f"no version marker: {error}") from error


def decode_history(value: bytes) -> list[VersionMarker]:
    """Raises `BadRecordError` for anything that is not a history."""
    try:
        unpacking = zlib.decompressobj()
        markers = unpacking.decompress(value, HISTORY_BYTES_MAX)
        if not unpacking.eof:
            raise BadRecordError("BadStatistic", "a history cut off, or too large to be one")
        return _history_decoder.decode(markers)
    except (zlib.error, *UNREADABLE) as error:
        raise BadRecordError("BadStatistic", f"no history of versions: {error}") from error


class StatisticsFold:
    """Records of the topic, in order, into whole versions.

    Half a version is told to nobody until its marker is there.
    """

    def __init__(self) -> None:
        self.marker: VersionMarker | None = None
        """Of the last whole version."""
        self.markers: dict[int, VersionMarker] = {}
        """By version, ascending; those that are not in a history yet."""
        self.histories: dict[HistoryKey, bytes] = {}
        """Unopened (`decode_history`), ascending."""
        self._pending: dict[str, bytes | None] = {}

    def take(self, key: bytes | None, value: bytes | None) -> dict[str, bytes | None] | None:
        """One record.  If it completes a version: the item records that changed, None for dropped items.

        Raises `BadRecordError` for a record that is none of ours; what came before it stays.
        """
        if key is None:
            raise BadRecordError("BadStatistic", "a record without a key")
        if key.startswith(ITEM_PREFIX):
            item_id = _item_of(key)
            if value is not None and value.startswith(FORMAT_1):
                value = None  # counted by other rules: as good as dropped
            if value is not None:
                check_record(value)
            self._pending[item_id] = value
            return None
        if key.startswith(HISTORY_PREFIX):
            self.histories.pop(HistoryKey.decode(key), None)
            if value is not None:
                self.histories[HistoryKey.decode(key)] = value
            return None
        if not key.startswith(VERSION_PREFIX):
            raise BadRecordError("BadStatistic", f"unknown kind of key {key[:20]!r}")
        if value is None:
            self.markers.pop(version_of(key), None)
            return None
        marker = self.marker = decode_marker(value)
        self.markers[marker.version] = marker
        changes, self._pending = self._pending, {}
        return changes

    def versions(self) -> list[VersionMarker]:
        """All markers of the last 7 days, ascending."""
        found = {m.version: m for value in self.histories.values() for m in decode_history(value)}
        found.update(self.markers)
        return [found[version] for version in sorted(found)]
