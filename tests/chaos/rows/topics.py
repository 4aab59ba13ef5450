"""Topics that change: recreated, other partition counts, cut off, clicks deleted before they were read."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Committed
from kafka import TopicPartition

from stream_app.adapters import kafka_topics
from stream_app.adapters.served_topics import committed_offsets
from stream_app.core.errors import ConfigurationError
from tests.chaos import evidence
from tests.chaos.lab import Lab, Stream, Worker
from tests.chaos.row import Finding, Row, Scale
from tests.integration.processes import wait_until

PARTITIONS = 4
CLICKS = 200


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    for _ in range(scale.times(3, 1)):
        yield under_a_worker(lab, "click topic recreated", recreate_clicks)
        yield under_a_worker(lab, "partitions of the click topic", add_partitions("clicks"))
        if not scale.short:
            yield under_a_worker(lab, "click topic deleted", delete_clicks)
            yield under_a_worker(lab, "sessions topic recreated", recreate_sessions)
            yield under_a_worker(
                lab, "partitions of the answers", add_partitions("recommendations")
            )
            yield under_a_worker(lab, "partitions of the sessions", add_partitions("sessions"))
            yield retention_passed(lab)
        yield cut_off(lab)
        yield retention_overtakes(lab)


# -- halting -------------------------------------------------------------------------------------------


def under_a_worker(lab: Lab, name: str, change: Callable[[Any, Stream], None]) -> Finding:
    """The worker has to end with status 2; timed from the change to its end."""
    with lab.stream(partitions=PARTITIONS) as stream:
        worker = stream.start_worker()
        stream.produce(CLICKS)
        stream.wait_until_settled()
        with kafka_topics.admin_client(stream.kafka) as admin:
            change(admin, stream)
        return halted(worker, f"{name}: halts", since_ms=time.time() * 1000)


def recreate_clicks(admin: Any, stream: Stream) -> None:
    recreate(admin, stream.topics.clicks)


def recreate_sessions(admin: Any, stream: Stream) -> None:
    recreate(admin, stream.topics.sessions)


def recreate(admin: Any, name: str) -> None:
    admin.delete_topics([name])
    wait_until("it is gone", lambda: name not in kafka_topics.incarnations(admin, [name]))
    admin.create_topics(
        {name: {"num_partitions": PARTITIONS, "replication_factor": 1}},
        raise_errors=False,  # a client that asks for it may have been quicker
    )


def delete_clicks(admin: Any, stream: Stream) -> None:
    admin.delete_topics([stream.topics.clicks])


def add_partitions(topic: str) -> Callable[[Any, Stream], None]:
    return lambda admin, stream: admin.create_partitions(
        {getattr(stream.topics, topic): PARTITIONS + 2}
    )


def cut_off(lab: Lab) -> Finding:
    """The group has committed beyond the topic's end, as after a backup was put back; timed from the start."""
    with lab.stream(partitions=PARTITIONS) as stream:
        stream.produce(CLICKS)
        end = evidence.end_offsets(stream.kafka.bootstrap_servers, stream.topics.clicks)[0]
        commit(stream, partition=0, offset=end + 5)
        began_ms = time.time() * 1000
        return halted(stream.start_worker(), "cut off below what was committed: halts", began_ms)


def halted(worker: Worker, name: str, since_ms: float) -> Finding:
    """That it ended with status 2 and said what to do; nothing was acknowledged afterwards, as it is gone."""
    status = worker.wait_for_end()
    ends = worker.events("worker_ends")
    reason = str(ends[-1]["error"]) if ends else "no reason was given"
    good = status == ConfigurationError.exit_status and "begin afresh" in reason.lower()
    return Finding(
        name,
        runs=1,
        failures=0 if good else 1,
        recovery_seconds=((worker.ended_ms - since_ms) / 1000,),
        note=f"status {status}: {reason.replace(';', ',')[:160]}",
    )


# -- going on ------------------------------------------------------------------------------------------


def retention_passed(lab: Lab) -> Finding:
    """Clicks deleted while no worker ran; timed from the start to the first answer."""
    with lab.stream(partitions=PARTITIONS) as stream:
        worker = stream.start_worker()
        stream.produce(CLICKS)
        stream.wait_until_settled()
        failures = stream.stop_workers()
        before = committed(stream)
        stream.produce(CLICKS)
        kept = delete_all_but_the_last(stream)
        worker = stream.start_worker()
        seconds = stream.wait_for_answer_after(time.time() * 1000)
        return went_on(
            stream, worker, before, kept, "retention passed while away: goes on", seconds, failures
        )


def retention_overtakes(lab: Lab) -> Finding:
    """Clicks deleted while a worker stands still for a moment; timed from when it goes on."""
    with lab.stream(partitions=PARTITIONS) as stream:
        worker = stream.start_worker()
        stream.produce(CLICKS)
        stream.wait_until_settled()
        worker.pause()
        before = committed(stream)
        stream.produce(CLICKS * 20)
        kept = delete_all_but_the_last(stream)
        resumed_ms = time.time() * 1000
        worker.resume()
        seconds = stream.wait_for_answer_after(resumed_ms)
        return went_on(
            stream, worker, before, kept, "retention overtakes a worker: goes on", seconds, 0
        )


def went_on(
    stream: Stream,
    worker: Worker,
    before: dict[int, int],
    kept: dict[int, int],
    name: str,
    seconds: float,
    failures: int,
) -> Finding:
    """What it said was lost is what was, and all that was left is answered.

    Records that were fetched before they were deleted are not lost, so it may say less, never more.
    """
    stream.wait_until_settled()
    told = {
        event["partition"]: (event["first_offset"], event["last_offset"])
        for event in worker.events("clicks_lost")
    }
    counted = worker.samples["nextclick_lost_clicks_total"]
    failures += stream.stop_workers()
    stream.answers.wait_until_read()
    answered = stream.answers.answers
    ends = evidence.end_offsets(stream.kafka.bootstrap_servers, stream.topics.clicks)
    unanswered = [
        (partition, offset)
        for partition in ends
        for offset in range(before.get(partition, 0), ends[partition])
        if (partition, offset) not in answered
    ]
    said = {
        (partition, offset)
        for partition, (first, last) in told.items()
        for offset in range(first, last + 1)
    }
    return Finding(
        name,
        runs=1,
        lost=len(set(unanswered) - said),
        failures=failures + len(said - set(unanswered)) + (counted != len(said)),
        recovery_seconds=(seconds,),
        note=f"{len(said)} clicks were said to be lost, of {sum(kept.values()) - sum(before.values())} deleted",
    )


def delete_all_but_the_last(stream: Stream) -> dict[int, int]:
    """Delete clicks as the retention would; the offset from which on each partition was kept."""
    ends = evidence.end_offsets(stream.kafka.bootstrap_servers, stream.topics.clicks)
    kept = {partition: max(0, end - 1) for partition, end in ends.items()}
    with kafka_topics.admin_client(stream.kafka) as admin:
        admin.delete_records(
            {TopicPartition(stream.topics.clicks, p): offset for p, offset in kept.items()}
        )
    return kept


def committed(stream: Stream) -> dict[int, int]:
    with kafka_topics.admin_client(stream.kafka) as admin:
        offsets = committed_offsets(admin, stream.settings.kafka.group_id, stream.topics.clicks)
    return {partition: entry.offset for partition, entry in offsets.items()}


def commit(stream: Stream, *, partition: int, offset: int) -> None:
    """As Kafka's own tools would, while nobody is in the group."""
    consumer = Consumer(
        {
            "bootstrap.servers": stream.kafka.bootstrap_servers,
            "group.id": stream.settings.kafka.group_id,
            "enable.auto.commit": False,
        }
    )
    consumer.commit(
        offsets=[Committed(stream.topics.clicks, partition, offset)], asynchronous=False
    )
    consumer.close()


ROW = Row("topics", "topics that change, and clicks deleted unread", run)
