"""Online equals offline: what the workers answered is what a replay of the log answers."""

import json
import random
import socket
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from confluent_kafka import Producer

from stream_app.adapters.releases import promote
from stream_app.cli import program
from stream_app.cli.options import settings_as_flags
from stream_app.files.registry import Registry
from stream_app.settings import Settings, serving_rules
from stream_app.tools.stream_check import check_stream
from tests.bundles import make_bundle
from tests.integration.oracle import read_topic
from tests.integration.processes import NextclickProcess, get, wait_until

START_MS = 1_700_000_000_000
KNOWN = [f"item-{i}" for i in range(40)]
UNKNOWN = [f"new-{i}" for i in range(10)]


def produce(settings: Settings, first: int, count: int) -> None:
    """Clicks with everything that makes answers differ: unknown items, no consent, duplicates, junk."""
    rng = random.Random(first)
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for number in range(first, first + count):
        session_id = f"session-{rng.randrange(30)}"
        click: dict[str, Any] = {
            "session_id": session_id,
            "item_id": rng.choice(KNOWN if rng.random() < 0.6 else UNKNOWN),
            "event_time": START_MS + number * 60_000,
            "event_id": f"event-{number - (rng.random() < 0.05)}",
        }
        if rng.random() < 0.03:
            click["consent"] = False
        value = json.dumps(click).encode() if rng.random() > 0.03 else b"junk"
        producer.produce(settings.topics.clicks, key=session_id.encode(), value=value)
        producer.poll(0)
    assert producer.flush(30) == 0


def test_every_answer_is_the_same_when_computed_anew(
    kafka: Any, topics: Any, tmp_path: Path
) -> None:
    """Before any model, under one, under the next, which has a second stage: lists, fallbacks and the live
    hit rate agree."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        kafka=kafka.settings.model_copy(update={"group_id": topics.clicks + ".workers"}),
        topics=topics,
        registry=str(tmp_path / "registry"),
        data_dir=tmp_path / "worker",
    )
    registry = Registry(settings.registry)

    def done(process: NextclickProcess) -> float:
        clicks = "nextclick_clicks_total"
        return sum(v for name, v in process.metrics(port).items() if name.startswith(clicks))

    with (
        NextclickProcess(
            "statistics", settings, tmp_path, "--set", "statistics.publish_seconds=0.2"
        ),
        NextclickProcess("worker", settings, tmp_path, "--metrics-port", str(port)) as worker,
    ):
        wait_until("ready", lambda: get(port, "/readyz")[0] == 200)
        for round_number in range(3):
            if round_number:
                version = registry.publish(
                    make_bundle(
                        tmp_path / "made",
                        ids=KNOWN,
                        units=8,
                        seed=round_number,
                        ranked=round_number == 2,
                    )
                )
                promote(settings.kafka, topics.releases, version, reason="test")
                worker.wait_for_event("model_swapped")
            for part in range(3):
                first = round_number * 600 + part * 200
                produce(settings, first, 200)
                wait_until("all done", lambda first=first: done(worker) == first + 200)
                wait_until(
                    "statistics are read",
                    lambda: worker.metrics(port)["nextclick_worker_statistics_version"] > 0,
                )
        metrics = worker.metrics(port)

    check = check_stream(settings.kafka, topics, registry, serving_rules(settings))
    assert check.clicks == 1800
    # Until the aggregator's first version a worker counts for itself, which nobody can do again.
    own = check.differences.pop("statistics of a worker's own, or no longer to be counted again")
    assert own <= 200
    assert not check.differences, check.examples
    assert check.identical + own == check.answers == check.outcomes["recommended"] > 1400
    assert {"dead_lettered", "ignored_duplicate"} < check.outcomes.keys()
    fallbacks = {
        json.loads(record.value)["fallback"]
        for record in read_topic(settings.kafka.bootstrap_servers, topics.recommendations)
    }
    assert fallbacks == {None, "no_model", "unknown_item", "no_consent"}
    by_version: dict[int, set[tuple[str, ...]]] = {}
    for record in read_topic(settings.kafka.bootstrap_servers, topics.recommendations):
        answer = json.loads(record.value)
        if answer["fallback"] == "no_model" and answer["statistics_version"] is not None:
            items = tuple(item["item_id"] for item in answer["items"])
            by_version.setdefault(answer["statistics_version"], set()).add(items)
    # Not one list for everybody: what follows the session's own items.
    assert max(map(len, by_version.values())) > 20
    two_stages = [
        json.loads(record.value)
        for record in read_topic(settings.kafka.bootstrap_servers, topics.recommendations)
        if json.loads(record.value)["model_version"] == version
    ]
    assert len(two_stages) > 250, "two of three parts at least"
    from_elsewhere = {item["item_id"] for answer in two_stages for item in answer["items"]}
    assert from_elsewhere & set(UNKNOWN), "candidates that the model does not know"
    assert len(check.judgements) == 3
    for version, judgement in check.judgements.items():
        label = f'{{model_version="{version}"}}'
        assert metrics[f"nextclick_live_predictions_total{label}"] == judgement.predictions
        assert metrics[f"nextclick_live_hits_total{label}"] == judgement.hits

    report = tmp_path / "report.json"
    result = CliRunner().invoke(
        program,
        ["evaluate", "--stream", "--report", str(report), *settings_as_flags(settings)],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert json.loads(report.read_bytes())["identical"] == check.identical


def test_events_that_are_not_answered_are_no_differences(
    kafka: Any, topics: Any, tmp_path: Path
) -> None:
    """The clicks are gone through some hundreds at a time; the first of them may have no answer."""
    settings = Settings(
        kafka=kafka.settings.model_copy(update={"group_id": topics.clicks + ".workers"}),
        topics=topics,
        registry=str(tmp_path / "registry"),
        data_dir=tmp_path / "worker",
    )
    registry = Registry(settings.registry)
    version = registry.publish(make_bundle(tmp_path / "made", ids=KNOWN, units=8, seed=1))
    promote(settings.kafka, topics.releases, version, reason="test")
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for number in range(900):
        click = {
            "session_id": "visitor",
            "item_id": KNOWN[number % 37],
            "event_time": START_MS + number * 1000,
            "event_type": "add_to_cart" if number % 3 else "view_item",
        }
        producer.produce(topics.clicks, key=b"visitor", value=json.dumps(click))
    assert producer.flush(30) == 0
    servers = settings.kafka.bootstrap_servers
    with NextclickProcess("worker", settings, tmp_path):
        wait_until("answers", lambda: len(read_topic(servers, topics.recommendations)) == 300)
    check = check_stream(settings.kafka, topics, registry, serving_rules(settings))
    assert not check.differences, check.examples
    assert check.identical == check.answers == 300


def test_lists_of_two_stages_are_made_anew_with_their_version_of_the_statistics(
    kafka: Any, topics: Any, tmp_path: Path, port: int
) -> None:
    """No answer here has a fallback: that the statistics are needed is known by the model alone."""
    settings = Settings(
        kafka=kafka.settings.model_copy(update={"group_id": topics.clicks + ".workers"}),
        topics=topics,
        registry=str(tmp_path / "registry"),
        data_dir=tmp_path / "worker",
    )
    registry = Registry(settings.registry)
    made = make_bundle(tmp_path / "made", ids=KNOWN, units=8, seed=2, ranked=True)
    promote(settings.kafka, topics.releases, registry.publish(made), reason="test")
    servers = settings.kafka.bootstrap_servers
    producer = Producer({"bootstrap.servers": servers})

    def click(first: int, count: int) -> None:
        for number in range(first, first + count):
            value = {
                "session_id": f"visitor-{number % 7}",
                "item_id": KNOWN[number * number % 37],
                "event_time": START_MS + number * 1000,
            }
            key = str(value["session_id"]).encode()
            producer.produce(topics.clicks, key=key, value=json.dumps(value))
        assert producer.flush(30) == 0

    click(0, 100)  # before there is a worker, so that it finds statistics
    with (
        NextclickProcess(
            "statistics", settings, tmp_path, "--set", "statistics.publish_seconds=0.2"
        ),
        NextclickProcess("worker", settings, tmp_path, "--metrics-port", str(port)) as worker,
    ):
        wait_until("answers", lambda: len(read_topic(servers, topics.recommendations)) == 100)
        wait_until(
            "statistics are read",
            lambda: worker.metrics(port).get("nextclick_worker_statistics_version", 0) > 0,
        )
        click(100, 300)
        wait_until("answers", lambda: len(read_topic(servers, topics.recommendations)) == 400)
    answers = [json.loads(record.value) for record in read_topic(servers, topics.recommendations)]
    assert {answer["fallback"] for answer in answers} == {None}
    assert sum(answer["statistics_version"] is not None for answer in answers) >= 300
    check = check_stream(settings.kafka, topics, registry, serving_rules(settings))
    assert not check.differences, check.examples
    assert check.identical == check.answers == 400


def test_a_changed_answer_is_found(kafka: Any, topics: Any, tmp_path: Path) -> None:
    """The check itself: one list on the topic is not what the replay gives, one click has no answer."""
    settings = Settings(
        kafka=kafka.settings.model_copy(update={"group_id": topics.clicks + ".workers"}),
        topics=topics,
        registry=str(tmp_path / "registry"),
        data_dir=tmp_path / "worker",
    )
    registry = Registry(settings.registry)
    version = registry.publish(make_bundle(tmp_path / "made", ids=KNOWN, units=8, seed=1))
    promote(settings.kafka, topics.releases, version, reason="test")
    produce(settings, 0, 50)
    with NextclickProcess("worker", settings, tmp_path) as worker:
        worker.wait_for_event("partitions_assigned")
        servers = settings.kafka.bootstrap_servers
        answered = wait_until(
            "answers",
            lambda: len(found := read_topic(servers, topics.recommendations)) > 30 and found,
        )
    record = next(r for r in answered if json.loads(r.value)["fallback"] is None)
    answer = json.loads(record.value)
    answer["items"][0], answer["items"][1] = answer["items"][1], answer["items"][0]
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    producer.produce(
        topics.recommendations, key=record.key, value=json.dumps(answer), partition=record.partition
    )
    producer.flush(10)
    check = check_stream(settings.kafka, topics, registry, serving_rules(settings))
    assert check.differences["items"] == 1
    assert check.repeated_answers == 1
