"""Notice topics that change under a worker: recreated, other partition counts, deleted.

Offsets, and which partition a session lives in, mean something only for one incarnation of the topics.
What is found here no restart can mend, so it is a `ConfigurationError`: the process ends with status 2.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from kafka.admin import KafkaAdminClient

from stream_app.adapters.kafka_clients import KafkaConnection, broker_errors, python_client_options
from stream_app.adapters.kafka_topics import (
    Incarnation,
    TopicFacts,
    TopicNames,
    admin_client,
    incarnations,
)
from stream_app.adapters.served_topics import (
    CommittedOffset,
    ServedTopics,
    committed_offsets,
    first_records,
)
from stream_app.core.codec import decode_state
from stream_app.core.errors import ConfigurationError, StateDecodeError, TopicsChangedError
from stream_app.logging_setup import get_logger

CHECK_SECONDS: Final = 2.0
"""One metadata request of 0.7 ms of CPU (measured) for so long a time."""

log = get_logger("topic_watch")


def served_topics(
    topics: TopicNames, facts: Mapping[str, TopicFacts | Incarnation]
) -> ServedTopics:
    """The incarnation that a worker starting now serves; the click topic and the changelog must be there."""
    clicks, sessions = facts[topics.clicks], facts[topics.sessions]
    return ServedTopics(clicks.topic_id, sessions.topic_id, clicks.partitions)


# -- at start ------------------------------------------------------------------------------------------


def refuse_changed_topics(
    kafka: KafkaConnection, group_id: str, topics: TopicNames, served: ServedTopics
) -> None:
    """Refuse to serve other topics than the group has served, wherever our own disk is.

    Raises `TopicsChangedError` that says what has changed and what to do.
    """
    with admin_client(kafka) as admin:
        committed = committed_offsets(admin, group_id, topics.clicks)
    for problem in changes_since(committed, topics, served, group_id):
        raise TopicsChangedError(problem)
    if any(entry.served for entry in committed.values()):
        return
    # Nobody remembers: Kafka forgets a topic's committed offsets when it is deleted, and those of a group
    # that nobody is in after a week.  The session records know whose offsets they hold.
    for record in first_records(kafka, topics.sessions, served.partitions):
        try:
            topic_id = decode_state(record)[1]
        except StateDecodeError:
            continue  # told and counted by the restore
        if topic_id != served.clicks_id:
            raise TopicsChangedError(
                f"{topics.sessions} holds sessions of topic id {topic_id.hex()}, but {topics.clicks} now "
                f"has {served.clicks_id.hex()}: it was deleted and made anew, so offsets start anew and "
                f"old sessions must not be mixed in.  {_begin_afresh(topics, group_id)}"
            )


def changes_since(
    committed: Mapping[int, CommittedOffset],
    topics: TopicNames,
    served: ServedTopics,
    group_id: str,
) -> Iterator[str]:
    """What has changed since offsets were committed, in words that say what to do."""
    for partition, entry in sorted(committed.items()):
        before = entry.served
        if before is None:
            continue
        where = f"group {group_id} has committed {topics.clicks}[{partition}] up to {entry.offset}"
        if before.clicks_id != served.clicks_id:
            yield (
                f"{where} of topic id {before.clicks_id.hex()}, but the topic now has "
                f"{served.clicks_id.hex()}: it was deleted and made anew, and offsets start anew.  "
                f"{_begin_afresh(topics, group_id)}"
            )
        if before.partitions != served.partitions:
            yield (
                f"{where} of {before.partitions} partitions, but the topic now has "
                f"{served.partitions}: {_migrate(topics, group_id)}"
            )
        if before.sessions_id != served.sessions_id:
            yield (
                f"{where} with its sessions in {topics.sessions} of topic id "
                f"{before.sessions_id.hex()}, but that topic now has {served.sessions_id.hex()}: the "
                f"sessions were deleted with it.  {_begin_afresh(topics, group_id)}"
            )


def refuse_changed_disk(data_dir: Path, topics: TopicNames, served: ServedTopics) -> None:
    """Refuse a data directory that holds sessions of other topics, and note what it holds from now on.

    The group may have been told to forget while a directory was left.  Its changelog offsets would then be
    taken for those of the new topic, and sessions of both would be mixed.  Raises `TopicsChangedError`.
    """
    file = data_dir / "served-topics"
    before = ServedTopics.from_note(file.read_text().strip()) if file.exists() else None
    if before is not None and before != served:
        raise TopicsChangedError(
            f"data_dir {data_dir} holds sessions of other topics than {topics.clicks} and "
            f"{topics.sessions} are now (it has {before.note()}, they are {served.note()}): remove it; what "
            f"is still true is restored from {topics.sessions}"
        )
    if before is None:
        try:
            file.write_text(served.note() + "\n")
        except OSError as error:
            raise ConfigurationError(
                f"data_dir {data_dir} cannot be used: {error.strerror}: give a directory we may write to"
            ) from error


# -- while running -------------------------------------------------------------------------------------


class TopicWatch:
    """A thread that looks at the topics every few seconds.  A broker that is away is no finding."""

    def __init__(
        self,
        kafka: KafkaConnection,
        group_id: str,
        topics: TopicNames,
        served: ServedTopics,
        *,
        on_finding: Callable[[ConfigurationError], Any],
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """on_finding: called once, in our thread, with an error that says what has changed and what to do;
        nothing may be acknowledged after it."""
        self._kafka, self._group_id, self._topics, self._served = kafka, group_id, topics, served
        self._on_finding, self._check_seconds = on_finding, check_seconds
        self._missing: set[str] = set()
        self._admin: KafkaAdminClient | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="topic-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def look(self, found: Mapping[str, Incarnation]) -> str | None:
        """What has changed, given the topics as they are now; None if nothing has.

        A topic counts as missing when it is at two looks in a row: a broker that has just started may
        not know of it yet.
        """
        watched = (self._topics.clicks, self._topics.recommendations, self._topics.sessions)
        missing = {name for name in watched if name not in found}
        gone, self._missing = missing & self._missing, missing
        problems = [
            *(self._deleted(name) for name in sorted(gone)),
            *self._recreated(found),
            *self._repartitioned(found),
        ]
        return problems[0] if problems else None

    def _deleted(self, name: str) -> str:
        if name == self._topics.recommendations:
            return f"{name} is missing: create it with `nextclick topics create`, then restart"
        return (
            f"{name} is missing: it was deleted while the worker ran.  "
            f"{_begin_afresh(self._topics, self._group_id)}"
        )

    def _recreated(self, found: Mapping[str, Incarnation]) -> Iterator[str]:
        for name, before, lost in (
            (self._topics.clicks, self._served.clicks_id, "offsets start anew"),
            (self._topics.sessions, self._served.sessions_id, "the sessions were deleted with it"),
        ):
            if name in found and found[name].topic_id != before:
                yield (
                    f"{name} was deleted and made anew while the worker ran (topic id {before.hex()}, now "
                    f"{found[name].topic_id.hex()}): {lost}.  "
                    f"{_begin_afresh(self._topics, self._group_id)}"
                )

    def _repartitioned(self, found: Mapping[str, Incarnation]) -> Iterator[str]:
        for name in (self._topics.clicks, self._topics.recommendations, self._topics.sessions):
            if name in found and found[name].partitions != self._served.partitions:
                yield (
                    f"{name} now has {found[name].partitions} partitions, it had "
                    f"{self._served.partitions}: {_migrate(self._topics, self._group_id)}"
                )

    def _run(self) -> None:
        while not self._stop.wait(self._check_seconds):
            try:
                found = self._see()
            except Exception as error:  # noqa: BLE001 - a broker that is away says nothing about its topics
                log.info("topics_not_seen", error=str(error))
                self._close()
                continue
            problem = self.look(found)
            if problem is not None:
                self._on_finding(TopicsChangedError(problem))
                break
        self._close()

    def _see(self) -> dict[str, Incarnation]:
        topics = self._topics
        with broker_errors(self._kafka):
            if self._admin is None:
                self._admin = KafkaAdminClient(**python_client_options(self._kafka))
            return incarnations(
                self._admin, (topics.clicks, topics.recommendations, topics.sessions)
            )

    def _close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with broker_errors(self._kafka):  # quietly
                admin.close()


# -- what to do ----------------------------------------------------------------------------------------


def _begin_afresh(topics: TopicNames, group_id: str) -> str:
    return (
        f"To begin afresh: stop all workers, delete topic {topics.sessions}, forget the group's offsets "
        f"(kafka-consumer-groups.sh --delete --group {group_id}), remove every worker's data_dir, run "
        "`nextclick topics create`, start; the sessions are built again from the clicks on the topic"
    )


def _migrate(topics: TopicNames, group_id: str) -> str:
    return (
        "a session's partition follows from the count, so sessions would go on elsewhere without their "
        f"past.  To go on with this count: give {topics.clicks}, {topics.recommendations} and "
        f"{topics.sessions} the same.  {_begin_afresh(topics, group_id)}.  Without a break, next time: "
        "start workers on new topics of the wanted count (topics.*, kafka.group_id and data_dir new), "
        "let the producers move, and stop the old workers when their lag is 0"
    )
