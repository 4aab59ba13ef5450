"""Fail-over to a worker that keeps a second copy of the sessions, to one that does not, and a quick return."""

import time
from collections.abc import Iterator

from confluent_kafka import Producer

from stream_app.adapters import kafka_topics
from stream_app.core.codec import encode_state
from stream_app.core.records import ItemId
from stream_app.core.session import SessionState
from tests.chaos import evidence
from tests.chaos.lab import Lab, Stream, Worker
from tests.chaos.row import Finding, Row, Scale, say
from tests.chaos.traffic import ITEMS, START_MS, made_up_clicks
from tests.integration.processes import wait_until

CLICKS_PER_SECOND = 100
MODEL_STATE_BYTES = 200
"""A half-precision state of 100 units, so that records have their real size."""
COPYING_SECONDS = 900
"""So long a busy machine may take to restore or copy all sessions."""


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    sessions = scale.times(1_000_000, 20_000)
    yield fail_over(lab, sessions, copies=1)
    yield static_return(lab, sessions)
    if not scale.short:
        yield fail_over(lab, sessions, copies=0)
        yield killed_in_turn(lab, 12)


def killed_in_turn(lab: Lab, rounds: int) -> Finding:
    """Three workers that stand by for each other; every state in the end is compared with the replay."""
    with lab.stream(partitions=6, settings={"serving.standby_copies": 1}) as stream:
        crew = [stream.start_worker(n) for n in range(3)]
        recovery = []
        with stream.load(CLICKS_PER_SECOND):
            for worker in crew:
                worker.wait_until_serving()
            for number in range(rounds):
                killed = crew[number % 3]
                theirs = killed.partitions
                killed.kill()
                noticed_ms = when_noticed_ms(stream, members=3)
                recovery.append(stream.wait_for_answer_after(noticed_ms, theirs or None))
                crew[number % 3] = stream.start_worker(number % 3)
                crew[number % 3].wait_until_serving()
                say(
                    f"standby: {number + 1} of {rounds} killed, first answer after {recovery[-1]:.1f} s"
                )
        return stream.verdict(
            "3 workers, one killed at a time",
            rounds,
            recovery_seconds=recovery,
            note="timed from when the group noticed",
        )


def fail_over(lab: Lab, sessions: int, *, copies: int) -> Finding:
    """The owner is killed for good.  Timed from the moment the group knows to the first answer of the next."""
    with lab.stream(partitions=1, settings={"serving.standby_copies": copies}) as stream:
        begin_with(stream, sessions)
        owner, other = two_workers(stream, copies=copies)
        with stream.load(CLICKS_PER_SECOND, fresh_clicks(lab)):
            stream.wait_for_answer_after(time.time() * 1000)
            owner.kill()
            noticed_ms = when_noticed_ms(stream)
            seconds = stream.wait_for_answer_after(noticed_ms, seconds=COPYING_SECONDS)
            say(f"standby: first answer {seconds:.1f} s after the group noticed")
        restored = other.events("partitions_assigned")[-1]
        return finding(
            stream,
            f"{'with' if copies else 'without'} standby, {sessions} sessions",
            sessions,
            seconds,
            f"restored {restored['restored_sessions']} in {restored['seconds']} s; noticed "
            f"{(noticed_ms - owner.ended_ms) / 1000:.1f} s after the kill",
        )


def static_return(lab: Lab, sessions: int) -> Finding:
    """The owner is killed and started again over its disk: the group still knows it by its name."""
    patient = {"serving.standby_copies": 1, "kafka.session_timeout_seconds": 30}
    with lab.stream(partitions=1, settings=patient) as stream:
        begin_with(stream, sessions)
        owner, other = two_workers(stream, copies=1)
        number = stream.workers.index(owner)
        with stream.load(CLICKS_PER_SECOND, fresh_clicks(lab)):
            stream.wait_for_answer_after(time.time() * 1000)
            owner.kill()
            again = stream.start_worker(number)
            seconds = stream.wait_for_answer_after(owner.ended_ms)
            say(f"standby: first answer {seconds:.1f} s after the kill")
        kept = again.partitions == {0} and not other.partitions
        return finding(
            stream,
            f"the owner returns, {sessions} sessions",
            sessions,
            seconds,
            "timed from the kill, the start of Python and the model included",
            failures=0 if kept else 1,
        )


def begin_with(stream: Stream, sessions: int) -> None:
    """Sessions on the changelog, as a worker that applied click 0 would have left them."""
    stream.produce(1)
    producer = Producer(
        {
            "bootstrap.servers": stream.kafka.bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 20,
            "queue.buffering.max.messages": 200_000,
            "compression.type": "none",
        }
    )
    for number in range(sessions):
        record = encode_state(made_up_state(number), stream.topic_id)
        while True:
            try:
                producer.produce(
                    stream.topics.sessions, key=f"visitor-{number}", value=record, partition=0
                )
                break
            except BufferError:
                producer.poll(0.05)
    assert producer.flush(120) == 0
    say(f"standby: {sessions} sessions are in the changelog")


def made_up_state(number: int) -> SessionState:
    return SessionState(
        last_offset=0,
        start_ms=START_MS,
        last_event_ms=START_MS + 60_000,
        click_count=4,
        window_start_ms=START_MS,
        window_clicks=4,
        recent_item_ids=tuple(ItemId(ITEMS[(number + i) % len(ITEMS)]) for i in range(4)),
        recent_event_hashes=(number,),
        shown_hashes=number.to_bytes(8, "big") * 10,
        shown_model_version="20240101T000000Z-1",
        model_version="20240101T000000Z-1",
        model_state=number.to_bytes(8, "big") * (MODEL_STATE_BYTES // 8),
    )


def fresh_clicks(lab: Lab) -> Iterator[tuple[bytes, bytes]]:
    return made_up_clicks(lab.seed, sessions=50, first=1)


def two_workers(stream: Stream, *, copies: int) -> tuple[Worker, Worker]:
    """The owner of the only partition, and the other one, its copy complete if it keeps any."""
    owner = stream.start_worker(0)
    owner.wait_for_event("partitions_assigned", COPYING_SECONDS)
    say("standby: the first worker has restored them")
    other = stream.start_worker(1)
    other.wait_for_event("partitions_assigned", COPYING_SECONDS)
    wait_until("one owner", lambda: len(owner.partitions) + len(other.partitions) == 1)
    if other.partitions:
        owner, other = other, owner
    lag = 'nextclick_standby_lag_records{partition="0"}'
    if copies:
        wait_until("the copy is complete", lambda: other.samples.get(lag) == 0, COPYING_SECONDS)
    say("standby: one worker owns the partition, the other is ready")
    return owner, other


def when_noticed_ms(stream: Stream, *, members: int = 2) -> float:
    """The moment the group's coordinator takes the dead member out: all the others must join anew."""
    with kafka_topics.admin_client(stream.kafka) as admin:
        group = stream.settings.kafka.group_id

        def is_whole() -> bool:
            described = admin.describe_groups([group])[group]
            return described["group_state"] == "Stable" and len(described["members"]) == members

        wait_until("the group notices", lambda: not is_whole())
        return time.time() * 1000


def finding(
    stream: Stream, name: str, sessions: int, seconds: float, note: str, *, failures: int = 0
) -> Finding:
    """Whether the owner's disk and the changelog are the same, and nothing of the sessions is gone."""
    stream.wait_until_settled()
    unclean = stream.stop_workers()
    say("standby: all is answered, the workers have stopped")
    newest = {
        (record.key or b"").decode(): record.value
        for record in evidence.stream_topic(stream.kafka.bootstrap_servers, stream.topics.sessions)
    }
    owner = stream.last_owners()[0]
    stored = evidence.stored_sessions(owner.data_dir, stream.topic_id, 0)
    say("standby: disk and changelog are read")
    differing = sum(
        newest.get(session_id) != stored.get(session_id) for session_id in newest.keys() | stored
    )
    gone = sum(f"visitor-{number}" not in stored for number in range(sessions))
    return Finding(
        name,
        runs=1,
        doubled=differing,
        lost=gone,
        failures=failures + unclean,
        recovery_seconds=(seconds,),
        note=note,
    )


ROW = Row("standby", "warm standby: fail-over and return", run)
