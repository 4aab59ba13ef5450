"""Descriptions of items: what is read, and what is refused with which reason."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.clicks import ID_BYTES_MAX
from stream_app.core.errors import BadRecordError
from stream_app.core.item_attributes import (
    ATTRIBUTES_MAX,
    VALUE_BYTES_MAX,
    ItemAttributes,
    decode_item,
    encode_item,
    item_id_of_key,
)
from stream_app.core.records import ItemId

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = texts | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def items(draw: st.DrawFn) -> ItemAttributes:
    names = draw(st.lists(texts, max_size=4, unique=True))
    return ItemAttributes(
        item_id=ItemId(draw(texts.filter(bool))),
        title=draw(texts),
        category=tuple(draw(st.lists(texts.map(str.strip).filter(bool), max_size=3))),
        price=draw(st.none() | st.floats(min_value=0.01, max_value=1e9)),
        attributes=tuple(
            (name, value)
            for name in names
            for value in draw(st.lists(scalars, min_size=1, max_size=3))
        ),
    )


@given(items())
def test_what_is_written_is_read_back(item: ItemAttributes) -> None:
    assert decode_item(*encode_item(item)) == item


@given(st.binary(max_size=200), st.none() | st.binary(max_size=20))
def test_any_bytes_give_an_item_or_a_reason(value: bytes, key: bytes | None) -> None:
    with suppress(BadRecordError):
        assert decode_item(key, value).item_id


def decoded(key: bytes | None = None, **fields: Any) -> ItemAttributes:
    return decode_item(key, json.dumps(fields).encode())


def test_the_forms_that_shops_send() -> None:
    item = decoded(
        item_id=4711,
        title="Rain jacket",
        category="Clothing > Jackets/Rain | Light",
        price="59.90",
        attributes={"colour": ["red", "sand"], "waterproof": True, "weight_g": 310, "gone": None},
        stock=7,
    )
    assert item == ItemAttributes(
        item_id=ItemId("4711"),
        title="Rain jacket",
        category=("Clothing", "Jackets", "Rain", "Light"),
        price=59.9,
        attributes=(
            ("colour", "red"),
            ("colour", "sand"),
            ("waterproof", "yes"),
            ("weight_g", 310.0),
        ),
    )


def test_the_key_names_the_item_where_the_value_does_not() -> None:
    assert decoded(b"sku-1", title="x").item_id == "sku-1"
    assert decoded(b"sku-1", item_id="sku-1").item_id == "sku-1"
    assert item_id_of_key(b"sku-1") == "sku-1"


@pytest.mark.parametrize(
    ("key", "value", "kind", "says"),
    [
        (b"a", b"{", "MalformedJson", "no JSON object"),
        (b"a", b'{"title": "\xff"}', "MalformedJson", ""),
        (b"a", b"[1]", "WrongType", "wrong type"),
        (b"a", b'{"title": 7}', "WrongType", "title"),
        (b"a", b'{"price": "cheap"}', "BadPrice", "send 12.50"),
        (b"a", b'{"price": -1}', "BadPrice", "-1"),
        (b"a", b'{"price": "nan"}', "BadPrice", "nan"),
        (None, b'{"title": "x"}', "MissingField", "neither the key nor item_id"),
        (None, b'{"item_id": ""}', "BadId", "1 to 512 bytes"),
        (None, b'{"item_id": "' + b"x" * (ID_BYTES_MAX + 1) + b'"}', "BadId", "not 513"),
        (b"a", b'{"item_id": "b"}', "BadId", "must be equal"),
        (b"\xff", b'{"title": "x"}', "NotUtf8", "byte 0 of the key"),
        (b"x" * (ID_BYTES_MAX + 1), b"{}", "BadId", "the key is longer"),
        (b"a", b'{"title": "' + b"x" * 1001 + b'"}', "TooLarge", "title is longer"),
        (b"a", b" " * (VALUE_BYTES_MAX + 1), "TooLarge", "leave out"),
        (
            b"a",
            b'{"attributes":{"a":[' + b"1," * ATTRIBUTES_MAX + b"1]}}",
            "TooLarge",
            "64 attributes",
        ),
        (b"a", b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "MalformedJson", ""),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    key: bytes | None, value: bytes, kind: str, says: str
) -> None:
    with pytest.raises(BadRecordError) as refused:
        decode_item(key, value)
    assert refused.value.kind == kind
    assert says in str(refused.value)


def test_a_price_of_nothing_is_none() -> None:
    assert decoded(b"a", price=0).price is None
    assert decoded(b"a", price="").price is None
