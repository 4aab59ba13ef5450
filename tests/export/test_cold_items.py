"""Items nobody has clicked get rows that their attributes tell, and nothing else of the model moves."""

import numpy as np
import pytest
import torch

from export.cold_items import LEARNED_MIN, choose_cold_items, place_items
from models.architectures import network
from models.checkpoint import Checkpoint
from models.config import CosineGRUConfig, GRU4RecConfig, ModelConfig
from stream_app.adapters.item_topic import DescribedItem
from stream_app.core.item_attributes import ItemAttributes
from stream_app.core.records import ItemId
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.settings import RetrainSettings

CONFIGS = (
    GRU4RecConfig(units=6),
    GRU4RecConfig(units=6, embedding="separate"),
    GRU4RecConfig(units=6, embedding="one-hot"),
    CosineGRUConfig(units=6),
)
N = 90
KINDS = 3


def described(*numbers: int) -> dict[ItemId, DescribedItem]:
    return {
        ItemId(f"i{n}"): DescribedItem(
            ItemAttributes(item_id=ItemId(f"i{n}"), title=f"kind{n % KINDS}"), told_ms=n
        )
        for n in numbers
    }


def checkpoint_of(config: ModelConfig) -> Checkpoint:
    """Rows of an item's kind are alike."""
    model = network(config, N)
    model.initialise(torch.Generator().manual_seed(1))
    weights = {name: w.clone() for name, w in model.weights().items()}
    for name in model.item_tables & weights.keys():
        for row in range(N):
            weights[name][row] = weights[name][row % KINDS] + 0.01 * weights[name][row]
    if "item_bias" in weights:
        weights["item_bias"] = torch.arange(N, dtype=torch.float32) % KINDS
    optimiser = {
        f"{kind}.{name}": torch.ones_like(weight)
        for name, weight in weights.items()
        for kind in ("accumulator", "velocity")
    }
    vocabulary = ItemVocabulary(f"i{n}" for n in range(N))
    return Checkpoint(config, vocabulary, weights, optimiser)


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.architecture}-{getattr(c, 'embedding', '')}"
)
def test_an_unclicked_item_gets_the_rows_of_its_like(config: ModelConfig) -> None:
    start = checkpoint_of(config)
    item2vec = np.eye(KINDS, 4, dtype=np.float32)[np.arange(N) % KINDS]
    clicks = np.full(N, 20.0)
    placed = place_items(
        start,
        item2vec,
        [ItemId("i91"), ItemId("i92"), ItemId("nobody-describes-it")],
        described(*range(93)),
        clicks,
        boost=0.5,
    )
    assert placed.items == ("i91", "i92")
    assert placed.checkpoint.vocabulary.ids == (*start.vocabulary.ids, "i91", "i92")
    tables = start.model().item_tables & start.weights.keys()
    for name, weight in placed.checkpoint.weights.items():
        before = start.weights[name]
        if name not in tables:
            assert torch.equal(weight, before)
            continue
        assert torch.equal(weight[:N], before)
        for row, number in ((N, 91), (N + 1, 92)):
            like = before[number % KINDS] + (0.5 if name == "item_bias" else 0.0)
            assert torch.allclose(weight[row], like, atol=0.1 * float(before.abs().max()) + 0.05)
        assert (placed.checkpoint.optimiser[f"accumulator.{name}"][N:] == 1).all()
        assert not placed.checkpoint.optimiser[f"velocity.{name}"][N:].any()
    assert np.allclose(placed.item2vec[N], np.eye(KINDS, 4)[91 % KINDS], atol=0.1)
    placed.checkpoint.model()  # fits


def test_an_item_placed_before_is_placed_anew() -> None:
    start = checkpoint_of(CONFIGS[0])
    clicks = np.full(N, 20.0)
    clicks[7] = 0.0
    start.weights["item_vectors"][7] = 100.0
    placed = place_items(
        start, np.ones((N, 4), np.float32), [ItemId("i7")], described(*range(N)), clicks, boost=0.0
    )
    assert placed.checkpoint.vocabulary.ids == start.vocabulary.ids
    vectors = placed.checkpoint.weights["item_vectors"]
    assert torch.allclose(vectors[7], start.weights["item_vectors"][7 % KINDS], atol=0.05)
    assert torch.equal(start.weights["item_vectors"][7], torch.full((6,), 100.0))


def test_too_few_examples_place_nothing() -> None:
    start = checkpoint_of(CONFIGS[0])
    clicks = np.zeros(N)
    clicks[: LEARNED_MIN - 1] = 9.0
    placed = place_items(
        start,
        np.ones((N, 4), np.float32),
        [ItemId("i91")],
        described(*range(93)),
        clicks,
        boost=0.0,
    )
    assert placed.items == ()
    assert placed.checkpoint is start


def test_attributes_that_tell_nothing_place_nothing_and_say_so() -> None:
    start = checkpoint_of(CONFIGS[0])
    rng = np.random.default_rng(0)
    start.weights["item_vectors"] = torch.from_numpy(rng.normal(size=(N, 6)).astype(np.float32))
    start.weights["item_bias"] = torch.from_numpy(rng.normal(size=N).astype(np.float32))
    said: list[str] = []
    placed = place_items(
        start,
        rng.normal(size=(N, 4)).astype(np.float32),
        [ItemId("i91")],
        described(*range(93)),
        np.full(N, 20.0),
        boost=0.0,
        say=said.append,
    )
    assert placed.items == ()
    assert "tells nothing" in said[0]


def test_the_most_recently_described_come_first_and_bounds_hold() -> None:
    settings = RetrainSettings(cold_items_max=3)
    known = ItemVocabulary(["i5", "i9"])
    assert choose_cold_items(described(*range(10)), known, 100, settings) == ["i8", "i7", "i6"]
    assert choose_cold_items(described(*range(10)), known, 1, settings) == ["i8"]
    assert choose_cold_items(described(*range(10)), known, -4, settings) == []
    already = choose_cold_items(described(*range(10)), known, 100, settings, placed=["a", "b"])
    assert already == ["i8"]
