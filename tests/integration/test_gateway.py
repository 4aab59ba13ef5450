"""The gateway between callers and a real Kafka, with a real worker that answers."""

import json
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import islice
from typing import Any

import pytest

from stream_app.adapters import kafka_topics
from stream_app.adapters.item_topic import publish_items
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.item_attributes import ItemAttributes
from stream_app.core.records import ItemId
from stream_app.logging_setup import pseudonym
from stream_app.settings import Settings
from tests.integration.conftest import TestKafka
from tests.integration.gateways import Answer, GatewayThread
from tests.integration.oracle import answers_by_click
from tests.integration.processes import NextclickProcess, wait_until
from tests.integration.test_worker import publish_model
from tests.topics import made_up_topics

PATIENT_MS = 60_000


@pytest.fixture(scope="module")
def served(
    kafka: TestKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, OnnxScorer]]:
    """Topics, a live model, and a worker that answers from it."""
    directory = tmp_path_factory.mktemp("gateway")
    topics = made_up_topics("gateway", partitions=2)
    settings = Settings(
        kafka=kafka.settings.model_copy(update={"group_id": topics.clicks + ".workers"}),
        topics=topics,
        registry=str(directory / "registry"),
        data_dir=directory / "worker",
    )
    kafka_topics.create_topics(settings.kafka, topics)
    scorer = publish_model(settings, directory)
    with NextclickProcess("worker", settings, directory) as worker:
        worker.wait_for_event("partitions_assigned")
        yield settings, scorer
    with kafka_topics.admin_client(settings.kafka) as admin:
        admin.delete_topics(kafka_topics.names_of(topics))


@pytest.fixture(scope="module")
def settings(served: tuple[Settings, OnnxScorer]) -> Settings:
    return served[0]


@pytest.fixture(scope="module")
def gateway(settings: Settings) -> Iterator[GatewayThread]:
    with GatewayThread(settings, wait_ms_max=PATIENT_MS) as running:
        wait_until("the live model is known", lambda: _models(running)["live"])
        yield running


def _models(gateway: GatewayThread) -> Any:
    return gateway.call("GET", "/v1/models").json


def _session(gateway: GatewayThread, session_id: str, query: str = "") -> Answer:
    return gateway.call("GET", f"/v1/sessions/{urllib.parse.quote(session_id, safe='')}{query}")


def test_each_caller_that_waits_gets_the_answer_to_the_very_click_it_sent(
    gateway: GatewayThread, settings: Settings
) -> None:
    """Many at once, several of them in one session: what tells them apart is the click's place in Kafka."""
    sent = [(f"waiting-{n % 7}", f"item-{n}", f"event-{n}") for n in range(40)]

    def click(told: tuple[str, str, str]) -> Answer:
        session_id, item_id, event_id = told
        return gateway.click(session_id, item_id, wait=PATIENT_MS, event_id=event_id)

    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(click, sent))
    assert {answer.status for answer in answers} == {200}
    on_topic = {
        answer.recommendation_id: answer
        for given in answers_by_click(
            settings.kafka.bootstrap_servers, settings.topics.recommendations
        ).values()
        for answer in given
    }
    for (session_id, _, event_id), answer in zip(sent, answers, strict=True):
        told = answer.json
        recommendation = told["recommendation"]
        assert recommendation["event_id"] == event_id
        assert recommendation["session_id"] == session_id
        assert recommendation["recommendation_id"] == told["recommendation_id"]
        assert [item["item_id"] for item in recommendation["items"]] == [
            item.item_id for item in on_topic[told["recommendation_id"]].items
        ]
        assert told["reason"] is None


def test_a_caller_that_does_not_wait_is_told_the_clicks_place_and_finds_the_answer_later(
    gateway: GatewayThread,
) -> None:
    answer = gateway.click("patient/ä?", "item-1")
    assert answer.status == 202
    told = answer.json
    assert told["recommendation"] is None
    assert told["reason"] == "not_waited"

    def last() -> Any:
        found = gateway.call("GET", "/v1/sessions/patient%2F%C3%A4%3F/recommendations")
        return found.json["recommendation"] if found.status == 200 else None

    recommendation = wait_until("the answer was seen", last)
    assert recommendation["recommendation_id"] == told["recommendation_id"]
    assert recommendation["session_id"] == "patient/ä?"


def test_an_event_that_gets_no_answer_is_not_waited_for(gateway: GatewayThread) -> None:
    answer = gateway.click("buyer", "item-1", wait=PATIENT_MS, event_type="purchase")
    assert (answer.status, answer.json["reason"]) == (202, "not_answered")
    assert answer.json["waited_ms"] < PATIENT_MS


def test_a_session_tells_what_was_clicked_shown_and_hit(gateway: GatewayThread) -> None:
    first = gateway.click("looker", "item-3", PATIENT_MS, properties={"title": "A tent"}).json
    shown = [item["item_id"] for item in first["recommendation"]["items"]]
    hit = gateway.click("looker", shown[4], PATIENT_MS).json
    missed = gateway.click("looker", "an item nobody knows", PATIENT_MS).json

    def all_three() -> Any:
        clicks = _session(gateway, "looker").json.get("clicks", [])
        return clicks if len(clicks) == 3 else None

    clicks = wait_until("three clicks were seen", all_three)
    version = first["recommendation"]["model_version"]
    assert [click["recommendation_id"] for click in clicks] == [
        told["recommendation_id"] for told in (first, hit, missed)
    ]
    assert [click["judged"] for click in clicks] == [
        None,
        {"model_version": version, "rank": 5},
        {"model_version": version, "rank": 0},
    ]
    assert clicks[0]["title"] == "A tent"
    assert [item["item_id"] for item in clicks[0]["answer"]["items"]] == shown
    assert clicks[2]["answer"]["fallback"] == missed["recommendation"]["fallback"]


def test_who_gives_no_consent_or_is_erased_is_not_remembered(gateway: GatewayThread) -> None:
    answer = gateway.click("shy", "item-1", PATIENT_MS, consent=False)
    assert answer.json["recommendation"]["fallback"] == "no_consent"
    gateway.click("known", "item-1", PATIENT_MS)
    wait_until("the session is known", lambda: _session(gateway, "known").status == 200)
    erase = {"session_id": "known", "event_type": "erase", "event_time": 1_700_000_000_000}
    assert gateway.call("POST", "/v1/clicks", json.dumps(erase).encode()).status == 202
    # The worker answers later clicks only; those let the gateway fold the erase event too.
    for number in range(20):
        gateway.click(f"later-{number}", "item-2", PATIENT_MS)
    wait_until("it is forgotten", lambda: _session(gateway, "known").status == 404)
    assert _session(gateway, "shy").status == 404
    assert gateway.call("GET", "/v1/sessions/shy/recommendations").status == 404


def test_a_gateway_started_later_finds_a_session_in_the_changelog(
    gateway: GatewayThread, settings: Settings
) -> None:
    told = gateway.click("old friend", "item-5", PATIENT_MS).json["recommendation"]
    with GatewayThread(settings) as later:
        assert _session(later, "old friend").status == 404

        def stored() -> Any:
            found = _session(later, "old friend", "?changelog=true")
            return found.json["changelog"] if found.status == 200 else None

        known = wait_until("its state is in the changelog", stored)
        assert known["clicks"] == 1
        assert known["last_offset"] == told["source"]["offset"]
        assert known["partition"] == told["source"]["partition"]
        assert [item["item_id"] for item in known["recent_items"]] == ["item-5"]
        assert [item["item_ids"] for item in known["shown"]] == [
            [item["item_id"]] for item in told["items"]
        ]
        assert _session(later, "never there", "?changelog=true").status == 404


def test_models_neighbours_and_map_are_those_of_the_registry(
    gateway: GatewayThread, served: tuple[Settings, OnnxScorer]
) -> None:
    version = served[1].model_version
    told = _models(gateway)
    assert told["live"]["model_version"] == version
    [model] = told["models"]
    assert (model["model_version"], model["is_live"], model["n_items"]) == (version, True, 50)
    near = gateway.call("GET", "/v1/models/live/neighbours/item-7?limit=3").json
    assert near["model_version"] == version
    similarities = [each["similarity"] for each in near["neighbours"]]
    assert len(similarities) == 3
    assert similarities == sorted(similarities, reverse=True)
    assert "item-7" not in [each["item_id"] for each in near["neighbours"]]
    drawn = gateway.call("GET", f"/v1/models/{version}/map?limit=20").json
    assert len({point["item_id"] for point in drawn["points"]}) == 20
    assert all(0 <= point[axis] <= 1 for point in drawn["points"] for axis in "xy")
    shares = [point["popularity"] for point in drawn["points"]]
    assert shares == sorted(shares, reverse=True)
    assert gateway.call("GET", "/v1/models/live/neighbours/no%20item").kind == "UnknownItem"
    assert gateway.call("GET", "/v1/models/20200101T000000Z-0000/map").kind == "UnknownModel"
    assert gateway.call("GET", "/v1/models/live/map?limit=2").kind == "BadQuery"


def test_the_reports_of_trainings_are_told_newest_first(
    gateway: GatewayThread, settings: Settings
) -> None:
    from stream_app.files.registry import Registry  # noqa: PLC0415

    registry = Registry(settings.registry)
    for version, result in (
        ("20260101T000000Z-aaaa", "gated"),
        ("20260102T000000Z-bbbb", "published"),
    ):
        registry.write_report(version, "report.json", json.dumps({"result": result}).encode())
    registry.write_report("20260103T000000Z-cccc", "report.json", b"{ half a rep")

    def results() -> list[str]:
        return [report["result"] for report in _models(gateway)["reports"]]

    wait_until("both are told", lambda: results() == ["published", "gated"])


def test_a_shop_window_shows_what_is_clicked_with_the_names_that_clicks_gave(
    gateway: GatewayThread,
) -> None:
    names = {"title": "Lamp", "category": "Home > Lamp"}
    for number in range(30):
        gateway.click(f"crowd-{number}", "lamp, red/blue", PATIENT_MS, properties=names)

    def first() -> Any:
        return (gateway.call("GET", "/v1/items?limit=1").json["items"] or [None])[0]

    wait_until("it is the most popular", lambda: (first() or {}).get("item_id") == "lamp, red/blue")
    assert {key: first()[key] for key in names} == names
    wanted = ",".join(urllib.parse.quote(i, safe="") for i in ("lamp, red/blue", "unheard of"))
    found = gateway.call("GET", f"/v1/items?ids={wanted}").json["items"]
    assert [(item["item_id"], item["title"]) for item in found] == [
        ("lamp, red/blue", "Lamp"),
        ("unheard of", None),
    ]
    assert found[1]["popularity"] == 0


def test_an_item_nobody_has_clicked_is_called_what_the_shop_calls_it(
    gateway: GatewayThread, settings: Settings
) -> None:
    tent = ItemAttributes(item_id=ItemId("new tent"), title="Tent", category=("Outdoor", "Tents"))
    publish_items(settings.kafka, settings.topics.items, [tent])

    def found() -> Any:
        return gateway.call("GET", "/v1/items?ids=new%20tent").json["items"][0]

    wait_until("the gateway has read it", lambda: found()["title"])
    assert (found()["title"], found()["category"]) == ("Tent", "Outdoor > Tents")
    # A click names it otherwise: what visitors see decides.
    names = {"title": "Dome tent", "category": "Sale"}
    gateway.click("camper", "new tent", PATIENT_MS, properties=names)
    wait_until("the click's name is taken", lambda: found()["title"] == "Dome tent")
    assert found()["category"] == "Sale"


def _events(connection: HTTPConnection) -> Iterator[tuple[str, Any]]:
    """Name and data of each, as they come."""
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream"
    while True:
        line = response.readline().decode()
        if line.startswith("event: "):
            data = response.readline().decode().removeprefix("data: ")
            yield line.removeprefix("event: ").strip(), json.loads(data)


def test_the_live_feed_tells_figures_every_second_and_samples_answers(
    gateway: GatewayThread, served: tuple[Settings, OnnxScorer]
) -> None:
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.request("GET", "/v1/live")
    gateway.click("feeder", "item-1", PATIENT_MS)
    before = gateway.click("feeder", "item-2", PATIENT_MS).json["recommendation"]
    events = _events(connection)
    first, history = next(events)
    assert first == "history"
    assert isinstance(history["figures"], list)
    newest = sample = None
    # One answer a second is sampled, and others have clicked before us.
    for name, data in islice(events, 60):
        if name == "figures" and len(data["models"]) == 2:
            newest = data
        if name == "answer" and data["session"] == pseudonym("feeder") and data["answer"]:
            sample = data
        if newest and sample:
            break
        gateway.click("feeder", "item-3", PATIENT_MS)
    connection.close()
    assert newest
    assert newest["clicks"] >= newest["recommended"] > 0
    assert newest["live_version"] == served[1].model_version
    [popularity, model] = newest["models"]
    assert popularity["version"] == "none"
    assert model["version"] == served[1].model_version
    assert 0 <= model["hits"] <= model["predictions"]
    assert sample
    assert sample["session_id"] is None, "named only where a setting says so"
    assert len(sample["answer"]["items"]) == 5
    assert len(before["items"]) == 20
