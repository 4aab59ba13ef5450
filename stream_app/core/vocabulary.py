"""Item id <-> item index: the row an item has in one model."""

import hashlib
import zlib
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.core.errors import BundleError, VocabularyMismatchError
from stream_app.core.records import UNREADABLE, ItemId


def item_hash(item_id: str) -> int:
    """32-bit hash by which a session remembers what it was shown (CRC-32 of the UTF-8 bytes).

    Four bytes instead of an id keep a session record within its budget, and unlike an item index
    they mean the same under every model.  A click on an item that was *not* shown is mistaken for
    a hit with probability 20 / 2**32.

    >>> hex(item_hash("sku-1"))
    '0xb7b9ed6e'
    """
    return zlib.crc32(item_id.encode("utf-8", "surrogatepass"))


class ItemVocabulary:
    """The items a model knows, in the order of their rows.

    `ids[index]` is the item at a row, `index_of[id]` the row of an item, `hashes[index]` its
    `item_hash` (uint32 [n_items]).  `sha256` names the vocabulary: equal for equal ids in equal order.
    """

    __slots__ = ("hashes", "ids", "index_of", "sha256")

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids: tuple[ItemId, ...] = tuple(ItemId(i) for i in ids)
        self.index_of: dict[str, int] = {item_id: index for index, item_id in enumerate(self.ids)}
        if len(self.index_of) != len(self.ids):
            raise BundleError("the vocabulary names an item twice: one item id, one row")
        self.hashes: NDArray[np.uint32] = np.fromiter(
            (item_hash(i) for i in self.ids), dtype=np.uint32, count=len(self.ids)
        )
        self.sha256 = hashlib.sha256(self.to_json()).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.index_of

    def extended(self, item_ids: Iterable[str]) -> "ItemVocabulary":
        """The same rows, and new items appended in the order they come; known ones are passed over."""
        fresh = dict.fromkeys(i for i in item_ids if i not in self.index_of)
        return ItemVocabulary((*self.ids, *fresh))

    def indexes_of(self, item_ids: Sequence[str]) -> list[int]:
        """Rows of the known ones among `item_ids`, in their order; unknown ones are left out."""
        index_of = self.index_of
        return [index_of[i] for i in item_ids if i in index_of]

    def to_json(self) -> bytes:
        """A JSON array of the ids; the bytes that `sha256` is taken over."""
        return msgspec.json.encode(self.ids)

    @classmethod
    def from_json(cls, data: bytes, *, expected_sha256: str | None = None) -> "ItemVocabulary":
        """Raises `VocabularyMismatchError` if the checksum differs, `BundleError` if it is no array of strings."""
        actual_sha256 = hashlib.sha256(data).hexdigest()
        if expected_sha256 is not None and actual_sha256 != expected_sha256:
            raise VocabularyMismatchError(
                expected_sha256=expected_sha256, actual_sha256=actual_sha256
            )
        try:
            ids = msgspec.json.decode(data, type=list[str])
        except UNREADABLE as error:
            raise BundleError(f"the vocabulary is no JSON array of item ids: {error}") from error
        return cls(ids)
