"""The map from attributes to vectors: it finds what is there, and says when nothing is."""

import numpy as np
import pytest

from export.content_map import ContentMap, features_of
from stream_app.core.item_attributes import ItemAttributes
from stream_app.core.records import ItemId

COLOURS = ("red", "sand", "navy", "lime")
KINDS = ("boot", "sandal", "sneaker")


def item(kind: int, colour: int, number: int = 0) -> ItemAttributes:
    return ItemAttributes(
        item_id=ItemId(f"{kind}-{colour}-{number}"),
        title=f"{KINDS[kind]} no{number} {COLOURS[colour]}",
        category=("Shoes", KINDS[kind]),
    )


def shop(rng: np.random.Generator, noise: float) -> tuple[list[ItemAttributes], np.ndarray, dict]:
    """Vectors that are the sum of a kind's and a colour's, and noise."""
    of_kind, of_colour = rng.normal(size=(3, 8)), rng.normal(size=(4, 8))
    items, vectors, truth = [], [], {}
    for number in range(120):
        kind, colour = int(rng.integers(3)), int(rng.integers(4))
        items.append(item(kind, colour, number))
        truth[kind, colour] = of_kind[kind] + of_colour[colour]
        vectors.append(truth[kind, colour] + noise * rng.normal(size=8))
    return items, np.array(vectors, dtype=np.float32), truth


def test_an_item_lies_where_its_attributes_say() -> None:
    items, vectors, truth = shop(np.random.default_rng(1), noise=0.1)
    content = ContentMap(items, vectors, np.full(len(items), 50.0))
    assert content.explained > 0.9
    [told] = content([item(1, 2, number=999)])
    assert np.linalg.norm(told - truth[1, 2]) < 0.15 * np.linalg.norm(truth[1, 2])


def test_attributes_that_say_nothing_are_known_to() -> None:
    rng = np.random.default_rng(2)
    items, _, _ = shop(rng, noise=0.0)
    content = ContentMap(items, rng.normal(size=(120, 8)).astype(np.float32), np.full(120, 50.0))
    assert content.explained < 0.05


def test_an_item_of_unknown_attributes_lies_in_the_middle() -> None:
    items, vectors, _ = shop(np.random.default_rng(3), noise=0.1)
    content = ContentMap(items, vectors, np.full(len(items), 50.0))
    stranger = ItemAttributes(item_id=ItemId("x"), title="Espresso machine")
    [told] = content([stranger])
    # What all have in common is all it has.
    assert (
        np.linalg.norm(told - vectors.mean(axis=0)) < 0.2 * np.linalg.norm(vectors, axis=1).mean()
    )


def test_often_clicked_items_decide_where_two_disagree() -> None:
    """Of two items that are the same in words, the one with clicks knows where it lies."""
    items, vectors, truth = shop(np.random.default_rng(4), noise=0.0)
    clicks = np.full(len(items), 100.0)
    wrong = np.arange(len(items)) % 2 == 0
    vectors[wrong] *= -1
    clicks[wrong] = 0.1
    [told] = ContentMap(items, vectors, clicks)([item(0, 0, number=999)])
    assert np.linalg.norm(told - truth[0, 0]) < 0.3 * np.linalg.norm(truth[0, 0])


def test_one_item_is_enough_to_not_fail() -> None:
    content = ContentMap([item(0, 0)], np.ones((1, 4), dtype=np.float32), np.ones(1))
    assert np.allclose(content([item(1, 1)]), 1.0)


@pytest.mark.parametrize(
    ("a", "b", "same"), [(95.0, 105.0, True), (100.0, 200.0, False), (0.5, 50.0, False)]
)
def test_near_prices_are_of_a_class(a: float, b: float, same: bool) -> None:
    def price_of(price: float) -> set[str]:
        told = features_of(ItemAttributes(item_id=ItemId("x"), price=price))
        return {feature for feature in told if feature.startswith("price:")}

    assert (price_of(a) == price_of(b)) is same


def test_features_are_paths_words_and_attributes() -> None:
    told = features_of(
        ItemAttributes(
            item_id=ItemId("x"),
            title="Réd  Boot",
            category=("Shoes", "Boots"),
            attributes=(("Brand", "Alder"), ("weight", -3.0), ("size", 0.0)),
        )
    )
    assert told == {
        *("", "category:shoes", "category:shoes > boots", "word:réd", "word:boot"),
        *("brand:alder", "weight:-1e3", "size:0.0"),
    }
