"""Topics that change under a worker, or while it was away; and clicks deleted before they were read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.admin import OffsetSpec

from stream_app.adapters import kafka_topics
from stream_app.adapters.served_topics import ServedTopics, committed_offsets
from stream_app.services.topic_watch import refuse_changed_topics, served_topics
from stream_app.settings import Settings
from tests.integration.oracle import answers_by_click
from tests.integration.processes import NextclickProcess, get, wait_until
from tests.integration.test_worker import made_up_clicks, produce

Worker = Callable[..., NextclickProcess]


@pytest.fixture
def admin(kafka: Any) -> Iterator[Any]:
    with kafka_topics.admin_client(kafka.settings) as client:
        yield client


def serve(settings: Settings, process: NextclickProcess, n: int, *, before: int = 0) -> None:
    """Let it answer `n` clicks and commit them."""
    process.wait_for_event("partitions_assigned")
    produce(settings, made_up_clicks(n))
    wait_until("all answered", lambda: answered(settings) >= before + n)
    wait_until("all committed", lambda: sum(committed(settings).values()) >= before + n)


def answered(settings: Settings) -> int:
    return len(answers_by_click(settings.kafka.bootstrap_servers, settings.topics.recommendations))


def committed(settings: Settings) -> dict[int, int]:
    with kafka_topics.admin_client(settings.kafka) as client:
        offsets = committed_offsets(client, settings.kafka.group_id, settings.topics.clicks)
    return {partition: entry.offset for partition, entry in offsets.items()}


def halted(process: NextclickProcess) -> str:
    """The reason it gave when it ended with status 2."""
    assert process.process.wait(timeout=40) == 2, process.log[-3000:]
    ends = process.events("worker_ends")
    return str(ends[-1]["error"]) if ends else process.log


def recreate(admin: Any, settings: Settings, name: str, *, partitions: int = 4) -> None:
    admin.delete_topics([name])
    wait_until("deleted", lambda: name not in kafka_topics.incarnations(admin, [name]))
    admin.create_topics({name: {"num_partitions": partitions, "replication_factor": 1}})


def test_a_click_topic_recreated_under_a_worker_halts_it_and_is_refused_ever_after(
    settings: Settings, worker: Worker, admin: Any, tmp_path: Path
) -> None:
    """Also by a worker with an empty disk: the sessions on the changelog name the topic they belong to."""
    with worker() as process:
        serve(settings, process, 20)
        recreate(admin, settings, settings.topics.clicks)
        reason = halted(process)
    assert "begin afresh" in reason
    again = worker(data_dir=tmp_path / "empty")
    assert "deleted and made anew" in halted(again)


def test_partitions_added_to_all_topics_while_nobody_served_are_refused_with_an_empty_disk(
    settings: Settings, worker: Worker, admin: Any, tmp_path: Path
) -> None:
    with worker() as process:
        serve(settings, process, 20)
        assert process.terminate() == 0
    offsets = committed_offsets(admin, settings.kafka.group_id, settings.topics.clicks)
    facts = kafka_topics.topic_facts(settings.kafka, *kafka_topics.names_of(settings.topics))
    assert {entry.served for entry in offsets.values()} == {served_topics(settings.topics, facts)}
    for name in ("clicks", "recommendations", "sessions"):
        admin.create_partitions({getattr(settings.topics, name): 6})
    wait_until(
        "all have them",
        lambda: (
            {
                facts.partitions
                for facts in kafka_topics.incarnations(
                    admin, [settings.topics.clicks, settings.topics.sessions]
                ).values()
            }
            == {6}
        ),
    )
    assert "of 4 partitions, but the topic now has 6" in halted(worker(data_dir=tmp_path / "empty"))


def test_a_group_whose_offsets_were_forgotten_may_begin_afresh(
    settings: Settings, kafka: Any, admin: Any
) -> None:
    """What the message tells the operator to do is what then works."""
    facts = kafka_topics.topic_facts(settings.kafka, *kafka_topics.names_of(settings.topics))
    served = served_topics(settings.topics, facts)
    refuse_changed_topics(settings.kafka, "nobody", settings.topics, served)
    other = ServedTopics(b"o" * 16, served.sessions_id, served.partitions)
    refuse_changed_topics(settings.kafka, "nobody", settings.topics, other)


def lose_clicks(settings: Settings, admin: Any) -> dict[int, int]:
    """New clicks that nobody reads, and their deletion but for the last of each partition."""
    produce(settings, made_up_clicks(200, seed=7))
    partitions = [TopicPartition(settings.topics.clicks, p) for p in range(4)]
    ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
    keep_from = {tp: ends[tp].offset - 1 for tp in partitions}
    admin.delete_records(keep_from)
    return {tp.partition: offset for tp, offset in keep_from.items()}


def test_clicks_deleted_before_they_were_read_are_told_counted_and_passed_over(
    settings: Settings, worker: Worker, port: int, admin: Any
) -> None:
    """Where it is set, the worker halts first, with nothing committed."""
    with worker() as process:
        serve(settings, process, 20)
        assert process.terminate() == 0
    before = committed(settings)
    kept = lose_clicks(settings, admin)
    lost = {p: kept[p] - before.get(p, 0) for p in kept if p in before}
    with worker("--set", "serving.on_lost_clicks=halt") as process:
        assert "serving.on_lost_clicks is `halt`" in halted(process)
    assert committed(settings) == before
    with worker() as process:
        wait_until("ready", lambda: get(port, "/readyz")[0] == 200)
        wait_until(
            "the rest is answered", lambda: sum(committed(settings).values()) >= sum(kept.values())
        )
        told = {
            event["partition"]: (event["first_offset"], event["last_offset"], event["clicks"])
            for event in process.events("clicks_lost")
        }
        assert told == {p: (before[p], kept[p] - 1, n) for p, n in lost.items() if n}
        assert process.metrics(port)["nextclick_lost_clicks_total"] == sum(lost.values())
