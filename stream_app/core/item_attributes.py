"""What a shop knows of an item before anybody clicks it: records of the items topic.

The key is the item's id; the value JSON, or nothing where the item is withdrawn.
"""

import math
import re
from typing import Final

import msgspec

from stream_app.core.clicks import ID_BYTES_MAX
from stream_app.core.errors import BadRecordError
from stream_app.core.records import UNREADABLE, ItemId

Scalar = str | float
VALUE_BYTES_MAX: Final = 64 * 1024
ATTRIBUTES_MAX: Final = 64
"""Of one item, values of a list counted one by one."""
_TEXT_MAX: Final = 1_000
"""Characters of a title, a category's name, an attribute's name or value."""
_CATEGORY_SEPARATOR: Final = re.compile(r"\s*[>/|]\s*")


class ItemAttributes(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    item_id: ItemId
    title: str = ""
    category: tuple[str, ...] = ()
    """Path, the widest first: `("Shoes", "Sandal")`."""
    price: float | None = None
    """Above 0, in whatever currency the shop uses everywhere."""
    attributes: tuple[tuple[str, Scalar], ...] = ()
    """(name, value); a name may come several times."""


_Told = str | float | bool
_Attributes = dict[str, _Told | list[_Told] | None]


class _WireItem(msgspec.Struct):
    """The JSON as shops may send it; unknown fields are ignored."""

    item_id: str | int | None = None
    """As clicks name it.  May be left out where the message's key is the id."""
    title: str | None = None
    """What it is called."""
    category: str | list[str] | None = None
    """`Shoes > Sandal`, or a list, the widest first.  `>`, `/` and `|` divide."""
    price: float | str | None = None
    """Above 0, always in the same currency."""
    attributes: _Attributes | None = None
    """Whatever else describes it, e.g. `{"brand": "Alder", "colour": ["red", "sand"], "weight_g": 310}`."""
    schema_version: int | None = None
    """Of the producer's own schema; read by nobody so far."""


_decoder: Final = msgspec.json.Decoder(_WireItem)


def decode_item(key: bytes | None, value: bytes) -> ItemAttributes:
    """Decode and validate one record; a tombstone has no value and is the caller's matter.

    Raises `BadRecordError`; its `kind` is one of `NotUtf8`, `MalformedJson`, `WrongType`, `MissingField`,
    `BadId`, `BadPrice`, `TooLarge`.
    """
    if len(value) > VALUE_BYTES_MAX:
        raise BadRecordError(
            "TooLarge",
            f"{len(value):,} bytes describe the item, {VALUE_BYTES_MAX:,} at most are read: leave out "
            "what does not tell items apart",
        )
    try:
        wire = _decoder.decode(value)
    except msgspec.ValidationError as error:
        raise BadRecordError("WrongType", f"a field has the wrong type: {error}") from error
    except UNREADABLE as error:
        raise BadRecordError("MalformedJson", f"the value is no JSON object: {error}") from error
    return ItemAttributes(
        item_id=_item_id(key, wire.item_id),
        title=_text(wire.title or "", "title"),
        category=_category(wire.category),
        price=_price(wire.price),
        attributes=_attributes(wire.attributes or {}),
    )


def encode_item(item: ItemAttributes) -> tuple[bytes, bytes]:
    """Key and value of the record that `decode_item` reads back to an equal item."""
    attributes: dict[str, list[Scalar]] = {}
    for name, value in item.attributes:
        attributes.setdefault(name, []).append(value)
    fields: dict[str, object] = {"item_id": item.item_id}
    if item.title:
        fields["title"] = item.title
    if item.category:
        fields["category"] = item.category
    if item.price is not None:
        fields["price"] = item.price
    if attributes:
        fields["attributes"] = attributes
    return item.item_id.encode(), msgspec.json.encode(fields)


def item_id_of_key(key: bytes | None) -> ItemId | None:
    """Of a tombstone, say.  Raises `BadRecordError`."""
    if not key:
        return None
    if len(key) > ID_BYTES_MAX:
        raise BadRecordError("BadId", f"the key is longer than {ID_BYTES_MAX} bytes")
    try:
        return ItemId(key.decode())
    except UnicodeDecodeError as error:
        raise BadRecordError("NotUtf8", f"byte {error.start} of the key is not UTF-8") from error


def _item_id(key: bytes | None, told: str | int | None) -> ItemId:
    of_key = item_id_of_key(key)
    if told is None:
        if of_key is None:
            raise BadRecordError("MissingField", "neither the key nor item_id names the item")
        return of_key
    item_id = ItemId(str(told))
    try:
        size = len(item_id.encode())
    except UnicodeEncodeError as error:
        raise BadRecordError("BadId", "item_id holds half a surrogate pair") from error
    if not 0 < size <= ID_BYTES_MAX:
        raise BadRecordError("BadId", f"item_id must have 1 to {ID_BYTES_MAX} bytes, not {size}")
    if of_key is not None and of_key != item_id:
        raise BadRecordError(
            "BadId",
            f"the key says {of_key[:40]!r} and item_id {item_id[:40]!r}: the newest record of a key "
            "counts, so they must be equal",
        )
    return item_id


def _category(told: str | list[str] | None) -> tuple[str, ...]:
    if told is None:
        return ()
    parts = _CATEGORY_SEPARATOR.split(_text(told, "category")) if isinstance(told, str) else told
    if len(parts) > ATTRIBUTES_MAX:
        raise BadRecordError("TooLarge", f"category has more than {ATTRIBUTES_MAX} levels")
    return tuple(text for part in parts if (text := _text(part.strip(), "category")))


def _price(told: float | str | None) -> float | None:
    if told is None or told == "":
        return None
    try:
        price = float(told)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise BadRecordError(
            "BadPrice", f"price {str(told)[:40]!r} is no number of 0 or more: send 12.50, say"
        )
    return price or None


def _attributes(told: _Attributes) -> tuple[tuple[str, Scalar], ...]:
    pairs: list[tuple[str, Scalar]] = []
    for name, values in told.items():
        for value in values if isinstance(values, list) else [values]:
            if value is None:
                continue
            if len(pairs) == ATTRIBUTES_MAX:
                raise BadRecordError(
                    "TooLarge", f"more than {ATTRIBUTES_MAX} attributes: send the telling ones"
                )
            pairs.append((_text(name, "an attribute's name"), _scalar(value)))
    return tuple(pairs)


def _scalar(value: _Told) -> Scalar:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _text(value, "an attribute") if isinstance(value, str) else float(value)


def _text(value: str, what: str) -> str:
    if len(value) > _TEXT_MAX:
        raise BadRecordError("TooLarge", f"{what} is longer than {_TEXT_MAX} characters")
    return value
