"""What the simulated shop sells: a tree of departments, categories and items with readable names.

A category is a ring of shelves.  Visitors walk along a ring, so neighbours are what is looked at
together.  Each shelf holds one item; a new item takes the shelf, and the place, of one that leaves.
"""

import itertools
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.core.item_attributes import ItemAttributes
from stream_app.core.records import ItemId

DEPARTMENTS: Final[dict[str, tuple[str, ...]]] = {
    "Shoes": ("Trail running shoe", "Road running shoe", "Hiking boot", "Sneaker", "Sandal"),
    "Clothing": ("Rain jacket", "Fleece jacket", "T-shirt", "Pair of jeans", "Wool sweater"),
    "Outdoor": ("Tent", "Sleeping bag", "Backpack", "Camping stove", "Head torch"),
    "Cycling": ("City bike", "Cycling helmet", "Bike lock", "Bike bag", "Bike light"),
    "Kitchen": ("Chef's knife", "Frying pan", "Espresso machine", "Teapot", "Set of bowls"),
    "Home": ("Desk lamp", "Armchair", "Bookshelf", "Rug", "Duvet"),
    "Electronics": ("Pair of headphones", "Keyboard", "Monitor", "Loudspeaker", "Power bank"),
    "Garden": ("Watering can", "Plant pot", "Garden chair", "Pair of secateurs", "Bird house"),
}
N_CATEGORIES: Final = sum(map(len, DEPARTMENTS.values()))
SHELVES: Final = 50
"""Items of a category."""

STYLES: Final[tuple[tuple[str, ...], ...]] = (
    ("black", "graphite", "navy", "slate"),
    ("red", "orange", "yellow", "lime"),
    ("cream", "sand", "rose", "sage"),
)
"""What a visitor may have a liking for: dark, bright or soft colours."""

_MODELS: Final = (
    "Kestrel",
    "Alder",
    "Basalt",
    "Cirrus",
    "Delta",
    "Ember",
    "Fjord",
    "Garnet",
    "Heron",
    "Islay",
    "Juniper",
    "Kelp",
    "Lark",
    "Maple",
    "Nordic",
    "Osprey",
    "Pebble",
    "Quartz",
    "Raven",
    "Sierra",
    "Tern",
    "Umbra",
    "Vega",
    "Willow",
    "Yarrow",
    "Zephyr",
    "Aspen",
    "Birch",
    "Comet",
    "Dune",
    "Egret",
    "Flint",
    "Gale",
    "Hazel",
    "Iris",
    "Jasper",
    "Koi",
    "Linden",
    "Marlin",
    "Nova",
    "Opal",
    "Pine",
    "Robin",
    "Saffron",
    "Thistle",
    "Uplander",
    "Vesper",
    "Wren",
)


@dataclass(frozen=True, slots=True)
class Item:
    item_id: ItemId
    title: str
    category: str
    """`Department > category`."""
    style: int
    """Index into `STYLES`."""
    properties: msgspec.Raw
    """JSON with title and category, as clicks carry it."""

    def attributes(self) -> ItemAttributes:
        """As the items topic describes it: what a visitor sees, so the colour, not the style."""
        department, category = self.category.split(" > ")
        return ItemAttributes(
            item_id=self.item_id, title=self.title, category=(department, category)
        )


class Catalogue:
    """All items on shelves now, and the titles of all that ever were.

    A shelf is named by its index: category * SHELVES + place on the ring.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._names = [
            (f"{department} > {noun}", noun)
            for department, nouns in DEPARTMENTS.items()
            for noun in nouns
        ]
        self._counters = [itertools.count() for _ in self._names]
        self._orders = [rng.permutation(len(_MODELS) * 4) for _ in self._names]
        self._made = itertools.count(1)
        self._title_of: dict[str, str] = {}
        self.styles: NDArray[np.int64] = rng.integers(len(STYLES), size=N_CATEGORIES * SHELVES)
        """Style of the item on each shelf, int64 [shelves]."""
        self.items = [
            self._make(shelf // SHELVES, style) for shelf, style in enumerate(self.styles.tolist())
        ]

    def new_item(self, category: int) -> Item:
        """One that is on no shelf yet; it is of any style."""
        return self._make(category, int(self._rng.integers(len(STYLES))))

    def replace(self, shelf: int, item: Item) -> None:
        """A new item takes a shelf of its category."""
        self.styles[shelf] = item.style
        self.items[shelf] = item

    def title_of(self, item_id: str) -> str | None:
        """Title of an item on sale now or earlier; None for an id that is not of this shop."""
        return self._title_of.get(item_id)

    def _make(self, number: int, style: int) -> Item:
        category, noun = self._names[number]
        # (model, colour) pairs in an order of the category's own; the round goes into the name.
        turn, place = divmod(next(self._counters[number]), len(_MODELS) * 4)
        model, colour = divmod(int(self._orders[number][place]), 4)
        edition = f" {turn + 1}" if turn else ""
        title = f"{noun} '{_MODELS[model]}{edition}' {STYLES[style][colour]}"
        item_id = ItemId(f"item-{next(self._made):05d}")
        self._title_of[item_id] = title
        properties = msgspec.json.encode({"title": title, "category": category})
        return Item(item_id, title, category, style, msgspec.Raw(properties))
