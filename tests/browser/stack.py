"""A small real stack to look at: topics, a worker with a model, a gateway, and a shop's first clicks."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from stream_app.adapters import kafka_topics
from stream_app.adapters.releases import promote
from stream_app.core.clicks import encode_click
from stream_app.core.records import Click, ItemId
from stream_app.files.registry import REPORTS, Registry
from stream_app.settings import KafkaSettings, Settings
from stream_app.shop.shop import Shop
from tests.bundles import make_bundle
from tests.integration.gateways import GatewayThread
from tests.integration.processes import NextclickProcess, wait_until
from tests.integration.test_worker import produce
from tests.topics import made_up_topics

FIRST_MODEL: Final = "20260102T101500Z-1a1a"
SECOND_MODEL: Final = "20260102T111500Z-2b2b"
REFUSED_MODEL: Final = "20260102T121500Z-dead"
CLICKS: Final = 600
HOSTILE_TITLE: Final = "<img src=x onerror=alert(1)><b>Tent"
HOSTILE_ITEM: Final = 'item-"/?#&<script>'


@dataclass(frozen=True)
class Stack:
    settings: Settings
    directory: Path
    gateway: GatewayThread
    clicks: Sequence[Click]
    """What the shop's visitors did before anybody looked."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def ask(self, path: str) -> Any:
        return self.gateway.call("GET", path).json

    def swap(self, version: str) -> None:
        """Let another model go live, and wait until it answers."""
        promote(self.settings.kafka, self.settings.topics.releases, version, reason="test")

        def answers() -> bool:
            answer = self.gateway.click("swapping", "item-00001", wait=1000).json
            recommendation = answer["recommendation"]
            return bool(recommendation and recommendation["model_version"] == version)

        wait_until(f"{version} answers", answers)


@contextmanager
def running_stack(kafka: KafkaSettings, directory: Path) -> Iterator[Stack]:
    topics = made_up_topics("browser", partitions=2)
    settings = Settings(
        kafka=kafka.model_copy(update={"group_id": topics.clicks + ".workers"}),
        topics=topics,
        registry=str(directory / "registry"),
        data_dir=directory / "worker",
    )
    clicks = _shop_clicks()
    kafka_topics.create_topics(settings.kafka, topics)
    _publish(settings, directory, clicks)
    promote(settings.kafka, topics.releases, FIRST_MODEL, reason="test")
    try:
        with (
            GatewayThread(settings, live_session_ids=True) as gateway,
            NextclickProcess("worker", settings, directory) as worker,
        ):
            worker.wait_for_event("partitions_assigned")
            stack = Stack(settings, directory, gateway, clicks)
            produce(settings, [(click.session_id, encode_click(click)) for click in clicks])
            wait_until("the clicks have been seen", lambda: _has_seen(stack))
            yield stack
    finally:
        with kafka_topics.admin_client(settings.kafka) as admin:
            admin.delete_topics(kafka_topics.names_of(topics))


def _shop_clicks() -> list[Click]:
    start_ms = int(time.time() * 1000) - 60_000
    shop = Shop(seed=5, start_ms=start_ms, clicks_per_second=100)
    clicks = list(shop.clicks_until(start_ms + CLICKS * 10))
    hostile = json.dumps({"title": HOSTILE_TITLE, "category": "<i>Outdoor > <u>Tent"}).encode()
    bad = Click(
        session_id="hostile",
        item_id=ItemId(HOSTILE_ITEM),
        event_time_ms=clicks[-1].event_time_ms,
        properties=msgspec.Raw(hostile),
    )
    return [*clicks, *[bad] * 40]  # popular enough to stand in the shop window


def _publish(settings: Settings, directory: Path, clicks: Sequence[Click]) -> None:
    """Two models of the most clicked items, and reports of three trainings; the third was refused."""
    ids = [item for item, _ in Counter(click.item_id for click in clicks).most_common(150)]
    registry = Registry(settings.registry)
    for seed, version in enumerate((FIRST_MODEL, SECOND_MODEL), 1):
        made = directory / "made"
        registry.publish(make_bundle(made, ids=ids, units=16, seed=seed, version=version))
        shutil.rmtree(made, ignore_errors=True)
    for version in (FIRST_MODEL, SECOND_MODEL, REFUSED_MODEL):
        place = Path(settings.registry) / REPORTS / version
        place.mkdir(parents=True)
        (place / "report.json").write_text(json.dumps(_report(version)))


def _report(version: str) -> dict[str, Any]:
    refused = version == REFUSED_MODEL
    quality = {"recall_5": 0.1, "recall_10": 0.2, "cold_targets": 3, "targets": 458}
    return {
        "model_version": version,
        "result": "gated" if refused else "published",
        "verdict": {
            "passed": not refused,
            "reasons": ["its weights hold NaN or infinity"]
            if refused
            else ["Recall@20 0.4061, popularity 0.1354"],
        },
        "quality": {
            "candidate": quality | {"recall_20": 0.0 if refused else 0.4061, "mrr_20": 0.0967},
            "popularity": quality | {"recall_20": 0.1354, "mrr_20": 0.031},
        },
        "training": {
            "first_event_ms": 1_767_340_000_000,
            "last_event_ms": 1_767_347_000_000,
            "sessions": 2_354,
            "clicks": 12_869,
            "epochs": 3,
            "seconds": 26.6,
            "started_from": None if version == FIRST_MODEL else FIRST_MODEL,
        },
        "held_out_from_ms": 1_767_346_000_000,
        "n_items": 150,
        "new_items": 12,
        "retired_items": 1,
        "epoch_losses": [5.9, 5.38, 5.12],
        "events_per_second": 2_369.9,
        "parity": {"step": 0, "chain": 0, "torch_chain": 0, "score": 0, "recall": 1, "lists": 90},
        "step_seconds": {"read": 0.5, "train": 26.7},
    }


def _has_seen(stack: Stack) -> bool:
    session = stack.gateway.call("GET", f"/v1/sessions/{stack.clicks[-1].session_id}")
    shown = stack.ask("/v1/items?limit=500")["items"]
    return session.status == 200 and any(item["item_id"] == HOSTILE_ITEM for item in shown)
