"""Items that nobody has clicked, on a real broker: from what the shop says of them into the live model."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from kafka import KafkaProducer

from stream_app.adapters.item_topic import ItemCatalogue, publish_items
from stream_app.adapters.kafka_clients import python_client_options
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.records import ItemId
from stream_app.evaluation.sessions import SessionTable
from stream_app.files.bundle import open_bundle

pytest.importorskip("torch", reason="needs the training environment")
pytestmark = pytest.mark.torch

from export.artifact import checkpoint_of  # noqa: E402 - only where torch is
from models.evaluate import next_click_ranks  # noqa: E402
from tests.integration.ring_shop import Shop, part_of  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from stream_app.settings import TopicSettings
    from tests.integration.conftest import TestKafka

COLD = 78
"""Beyond the ring of sixty, and in the part of items 18 to 23."""
NEAR_100 = range(36, 42)
"""From each of these one goes on into the part of item 100."""
FAR_100 = (*range(12, 15), *range(54, 57))


@pytest.fixture
def shop(kafka: TestKafka, topics: TopicSettings, tmp_path: Path) -> Shop:
    return Shop(kafka, topics, tmp_path)


def rank_after(directory: Path, item: int, cold: int = COLD) -> int:
    """Of the cold item in the answer to a click on another one."""
    checkpoint = checkpoint_of(directory)
    index_of = checkpoint.vocabulary.index_of
    indexes = np.array([index_of[f"item-{item}"], index_of[f"item-{cold}"]])
    session = SessionTable(indexes, np.array([0, 2]), np.array([0, 1]))
    return int(next_click_ranks(checkpoint.model(), session)[0])


@pytest.mark.parametrize("architecture", ["gru4rec", "cosine-gru"])
def test_a_full_training_places_unclicked_items_and_a_refresh_newer_ones(
    shop: Shop, architecture: str
) -> None:
    assert part_of(COLD) == part_of(20)
    shop.describe(*range(60), COLD)
    shop.clicks(1200)
    full = shop.retrain(architecture=architecture, epochs=8)
    assert full.result == "published", full.reason
    directory = shop.registry.fetch(str(full.model_version))
    assert rank_after(directory, 19) <= 12
    assert rank_after(directory, 19) < rank_after(directory, 45)
    bundle = open_bundle(directory)
    row = bundle.vocabulary.index_of[f"item-{COLD}"]
    assert bundle.popularity[row] == 0
    assert bundle.item2vec[row].any()
    assert np.flatnonzero(bundle.placed).tolist() == [row]
    OnnxScorer.load(directory)

    shop.describe(100)
    with closing(shop.refresher()) as refresher:
        shop.clicks(250)
        refreshed = refresher.run()
        assert refreshed.refreshed is not None, refreshed.reason
        assert refreshed.refreshed.unclicked_items == 2
        assert refreshed.refreshed.new_items == 1
        # Later runs know it as one that nobody clicked, and leave it where it is.
        before = checkpoint_of(shop.registry.fetch(str(refreshed.model_version)))
        shop.clicks(250)
        again = refresher.run()
        assert again.refreshed is not None, again.reason
        assert (again.refreshed.unclicked_items, again.refreshed.new_items) == (2, 0)
    directory = shop.registry.fetch(str(again.model_version))
    newest = open_bundle(directory)
    assert {newest.vocabulary.ids[i] for i in np.flatnonzero(newest.placed)} == {
        "item-78",
        "item-100",
    }
    near, far = (sum(rank_after(directory, i, 100) for i in some) for some in (NEAR_100, FAR_100))
    assert near < far
    after = checkpoint_of(directory)
    row = after.vocabulary.index_of["item-100"]
    unmoved, moved = before.weights["item_vectors"], after.weights["item_vectors"]
    assert np.array_equal(unmoved[row].numpy(), moved[row].numpy())
    assert not np.array_equal(unmoved[20].numpy(), moved[20].numpy())


@pytest.mark.parametrize(("sessions", "learned"), [(120, False), (1200, True)])
def test_an_item_is_learned_from_its_clicks_once_there_are_enough(
    shop: Shop, sessions: int, learned: bool
) -> None:
    shop.describe(*range(61))
    shop.clicks(800)
    full = shop.retrain()
    before = checkpoint_of(shop.registry.fetch(str(full.model_version)))
    assert "item-60" in before.vocabulary
    with closing(shop.refresher()) as refresher:
        shop.clicks(sessions, n_items=61)
        outcome = refresher.run()
    assert outcome.refreshed is not None, outcome.reason
    assert outcome.refreshed.unclicked_items == 0
    after = checkpoint_of(shop.registry.fetch(str(outcome.model_version)))
    row = after.vocabulary.index_of["item-60"]
    vectors = before.weights["item_vectors"][row], after.weights["item_vectors"][row]
    assert np.array_equal(vectors[0].numpy(), vectors[1].numpy()) is not learned


def test_without_the_topic_a_training_goes_on_and_says_so(shop: Shop) -> None:
    topics = shop.settings.topics.model_copy(update={"items": "test-never-made"})
    shop.settings = shop.settings.model_copy(update={"topics": topics})
    shop.clicks(500)
    assert shop.retrain().result == "published"
    with closing(shop.refresher()) as refresher:
        shop.clicks(250)
        outcome = refresher.run()
    assert outcome.refreshed is not None, outcome.reason
    assert sum("test-never-made is missing" in line for line in shop.said) == 2


def test_no_more_unclicked_items_join_than_are_wanted(shop: Shop) -> None:
    shop.describe(*range(80))
    shop.clicks(500)
    full = shop.retrain(cold_items_max=0)
    vocabulary = open_bundle(shop.registry.fetch(str(full.model_version))).vocabulary
    assert all(int(item.split("-")[1]) < 60 for item in vocabulary.ids)
    shop.settings = shop.settings.model_copy(
        update={"retrain": shop.settings.retrain.model_copy(update={"cold_items_max": 5})}
    )
    with closing(shop.refresher()) as refresher:
        shop.clicks(250)
        outcome = refresher.run()
    assert outcome.refreshed is not None, outcome.reason
    assert outcome.refreshed.unclicked_items == 5


def test_the_catalogue_follows_its_topic(kafka: TestKafka, topics: TopicSettings) -> None:
    shop_items = ["a", "b", "c"]

    def send(*records: tuple[bytes, bytes | None]) -> None:
        producer = KafkaProducer(**python_client_options(kafka.settings))
        for key, value in records:
            producer.send(topics.items, key=key, value=value)
        producer.flush()
        producer.close()

    with closing(ItemCatalogue(kafka.settings, topics.items)) as catalogue:
        assert catalogue.look() == {}
        send(*((item.encode(), b'{"title": "one"}') for item in shop_items))
        assert list(catalogue.look()) == shop_items
        send((b"a", b'{"title": "two"}'), (b"b", None), (b"c", b"{"), (b"d", b"[]"))
        known = catalogue.look()
        # What cannot be read changes nothing: the last good description holds.
        assert {item: told.attributes.title for item, told in known.items()} == {
            "a": "two",
            "c": "one",
        }
        assert list(known)[-1] == "a"
        assert catalogue.refusals == 2
        assert [refusal.kind for refusal in catalogue.newest_refusals] == [
            "MalformedJson",
            "WrongType",
        ]
        assert publish_items(kafka.settings, topics.items, (), withdrawn=[ItemId("a")]) == 1
        assert list(catalogue.look()) == ["c"]
        catalogue.close()
        assert list(catalogue.look()) == ["c"]
