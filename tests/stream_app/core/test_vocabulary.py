"""Item ids, their rows, and the checksum that ties a model to them."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.errors import BundleError, VocabularyMismatchError
from stream_app.core.vocabulary import ItemVocabulary, item_hash
from tests.strategies import ids

id_lists = st.lists(ids, unique=True, max_size=20)


@given(id_lists)
def test_ids_and_rows_are_each_others_inverse(item_ids: list[str]) -> None:
    vocabulary = ItemVocabulary(item_ids)
    assert len(vocabulary) == len(item_ids)
    assert list(vocabulary.ids) == item_ids
    assert [vocabulary.index_of[i] for i in item_ids] == list(range(len(item_ids)))
    assert vocabulary.hashes.dtype == np.uint32
    assert vocabulary.hashes.tolist() == [zlib.crc32(i.encode()) for i in item_ids]


@given(id_lists)
def test_a_vocabulary_comes_back_from_its_file_with_the_same_checksum(item_ids: list[str]) -> None:
    vocabulary = ItemVocabulary(item_ids)
    again = ItemVocabulary.from_json(vocabulary.to_json(), expected_sha256=vocabulary.sha256)
    assert again.ids == vocabulary.ids
    assert again.sha256 == vocabulary.sha256


@given(id_lists, id_lists)
def test_new_items_are_appended_and_known_rows_stay(old: list[str], new: list[str]) -> None:
    vocabulary = ItemVocabulary(old)
    grown = vocabulary.extended([*new, *old, *new])
    assert grown.ids[: len(old)] == vocabulary.ids
    assert list(grown.ids[len(old) :]) == [i for i in new if i not in set(old)]


@given(id_lists, st.lists(ids, max_size=10))
def test_unknown_items_are_left_out_of_a_sequence(known: list[str], clicked: list[str]) -> None:
    vocabulary = ItemVocabulary(known)
    sequence = [*clicked, *known[:2], *clicked]
    assert vocabulary.indexes_of(sequence) == [known.index(i) for i in sequence if i in known]
    assert all((i in vocabulary) == (i in known) for i in sequence)


def test_the_order_is_part_of_the_checksum() -> None:
    assert ItemVocabulary("ab").sha256 != ItemVocabulary("ba").sha256
    assert ItemVocabulary(["ab"]).sha256 != ItemVocabulary("ab").sha256


def test_an_item_named_twice_is_refused() -> None:
    with pytest.raises(BundleError, match="names an item twice"):
        ItemVocabulary(["a", "b", "a"])


@pytest.mark.parametrize("damage", [b"[]", b'["a","c"]', b'["a","b"] ', b'["b","a"]', b""])
def test_another_vocabulary_than_the_models_is_refused(damage: bytes) -> None:
    expected = ItemVocabulary("ab").sha256
    with pytest.raises(VocabularyMismatchError, match="publish the bundle again") as caught:
        ItemVocabulary.from_json(damage, expected_sha256=expected)
    assert caught.value.expected_sha256 == expected


@pytest.mark.parametrize(
    "data", [b"", b"{", b"{}", b'["a", 1]', b"null", b"\xff", b'["a', b'["a","a"]']
)
def test_what_is_no_list_of_ids_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        ItemVocabulary.from_json(data)


def test_an_item_hash_is_the_same_in_every_process_and_for_ever() -> None:
    assert item_hash("sku-1") == 0xB7B9ED6E
    assert item_hash("") == 0
