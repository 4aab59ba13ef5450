"""The faults, each done for real to the running stack, and undone."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Producer
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec

from stream_app.adapters.kafka_topics import admin_client
from tests.bundles import make_bundle
from tests.chaos.bad_bundles import BAD_BUNDLES, edit_manifest
from tests.damage import DAMAGE
from tests.deploy.alerts_check.services import FAULTY_WORKER
from tests.deploy.alerts_check.stack import Stack

LONG_AGO: Final = "2026-01-01T00:00:00Z"
OLD: Final = "20260101T000000Z-01d0"
UNTRAINED: Final = "20260101T000000Z-0bad"
FOREIGN_RECORDS: Final = 20
POISON_PER_SECOND: Final = 20
STARTS: Final = 3
AWAY_SECONDS: Final = 8.0
"""Enough for a minute of work to wait: a worker so slow sees only every minute how far behind it is."""


def _nothing(_: Stack) -> None:
    """Most faults need nothing made ready for them, and leave nothing behind."""


@dataclass(frozen=True)
class Fault:
    """What is done to the stack, and which alerts must come of it."""

    name: str
    alerts: tuple[str, ...]
    during: Callable[[Stack], AbstractContextManager[None]]
    """The fault lasts while the block runs."""
    prepare: Callable[[Stack], None] = _nothing
    """Before the clock starts."""
    afterwards: Callable[[Stack], None] = _nothing
    """When the alerts are over, or were waited for in vain."""
    needs_small_disk: bool = False


# -- processes ----------------------------------------------------------------------------------------


@contextmanager
def worker_killed(stack: Stack) -> Iterator[None]:
    stack.worker.kill()
    try:
        yield
    finally:
        stack.worker.start()


def start_second_worker(stack: Stack) -> None:
    stack.second_worker.start()
    stack.watch_what_runs()
    stack.wait_until_calm()


@contextmanager
def second_worker_frozen(stack: Stack) -> Iterator[None]:
    stack.second_worker.pause()
    try:
        yield
    finally:
        stack.second_worker.kill()
        stack.watch_what_runs()


@contextmanager
def statistics_frozen(stack: Stack) -> Iterator[None]:
    stack.statistics.pause()
    try:
        yield
    finally:
        stack.statistics.resume()


@contextmanager
def archive_crashes_again_and_again(stack: Stack) -> Iterator[None]:
    started = f'process_start_time_seconds{{instance="{stack.archive.target}"}}'
    for _ in range(STARTS):
        before = stack.monitoring.value(started)
        stack.archive.crash()
        stack.wait_until(
            "the archive is back, and was seen",
            lambda before=before: stack.monitoring.value(started) not in (None, before),  # type: ignore[misc]
        )
    yield


@contextmanager
def click_logs_disk_filled(stack: Stack) -> Iterator[None]:
    """All but a twentieth of it."""
    assert stack.disk is not None
    usage = shutil.disk_usage(stack.disk.directory)
    filler = stack.disk.directory / "in-the-way"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, usage.free - usage.total // 20)
    try:
        yield
    finally:
        filler.unlink()


# -- answers ------------------------------------------------------------------------------------------


@contextmanager
def worker_hangs(stack: Stack) -> Iterator[None]:
    """It is there, answers Prometheus, and does nothing more once it has computed its first batch."""
    stack.worker.kill()
    stack.worker.start("--hold-at", "computed:3600", program=FAULTY_WORKER)
    try:
        yield
    finally:
        stack.worker.kill()
        stack.worker.start()


@contextmanager
def worker_too_slow(stack: Stack) -> Iterator[None]:
    """It was away for a moment, and now takes 60 ms for each click: a tenth of what comes in.

    In slices so short that it still gets to tell its lag meanwhile.
    """
    stack.worker.kill()
    stack.run_for(AWAY_SECONDS)
    stack.worker.start(
        *("--hold-at", "computed:0.06", "--set", "serving.batch_clicks_max=1"),
        program=FAULTY_WORKER,
    )
    try:
        yield
    finally:
        stack.worker.kill()
        stack.worker.start()


@contextmanager
def poisoned_clicks(stack: Stack) -> Iterator[None]:
    """A producer whose clicks have no item, beside the good one."""
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(1 / POISON_PER_SECOND):
            stack.producer.send((b"p", b'{"session_id": "p", "event_time": 1}'))

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        yield
    finally:
        stop.set()
        producer.join()


@contextmanager
def retention_overtakes_the_worker(stack: Stack) -> Iterator[None]:
    """The worker is away, and the oldest clicks are deleted meanwhile: what retention does, at once."""
    stack.worker.kill()
    stack.run_for(3)
    topic = stack.settings.topics.clicks
    places = [TopicPartition(topic, p) for p in range(stack.settings.topics.partitions)]
    with admin_client(stack.settings.kafka) as admin:
        found = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        ends = {place: found[place].offset for place in places}
        stack.run_for(2)  # archive and statistics have read further than that by then
        admin.delete_records(ends)
    stack.worker.start()
    yield


# -- models -------------------------------------------------------------------------------------------


def bring_no_model(stack: Stack) -> None:
    stack.without_retraining()
    stack.wait_until_calm()


@contextmanager
def _promoted(stack: Stack, version: str) -> Iterator[None]:
    before = stack.live_version
    stack.promote(version)
    try:
        yield
    finally:
        stack.promote(before)


def publish_untrained_model(stack: Stack) -> None:
    """It knows every item of the live one, and nothing about them."""
    bring_no_model(stack)
    assert stack.live_version is not None
    vocabulary = stack.registry.fetch(stack.live_version) / "vocabulary.json"
    ids = json.loads(vocabulary.read_bytes())
    stack.registry.publish(make_bundle(stack.directory / "made", ids=ids, version=UNTRAINED))


@contextmanager
def untrained_model(stack: Stack) -> Iterator[None]:
    """Somebody promotes it all the same."""
    try:
        with _promoted(stack, UNTRAINED):
            yield
    finally:
        stack.with_retraining()


def publish_model_of_last_winter(stack: Stack) -> None:
    """The live one, said to be made long ago."""
    bring_no_model(stack)
    assert stack.live_version is not None
    old = stack.directory / "made" / OLD
    shutil.copytree(stack.registry.fetch(stack.live_version), old)
    edit_manifest(old, model_version=OLD, created_at=LONG_AGO)
    stack.registry.publish(old)


@contextmanager
def model_of_last_winter(stack: Stack) -> Iterator[None]:
    """Somebody in a hurry promotes it."""
    try:
        with _promoted(stack, OLD):
            yield
    finally:
        stack.with_retraining()


@contextmanager
def damaged_model(stack: Stack) -> Iterator[None]:
    """One bit of a published bundle has flipped."""
    version = stack.registry.publish(make_bundle(stack.directory / "made", seed=815))
    BAD_BUNDLES["one bit flipped"].damage(stack.directory / "registry" / version)
    with _promoted(stack, version):
        yield


def retrain_often(stack: Stack) -> None:
    stack.retrain.stop()
    stack.retrain.start("--every", "5s")
    _wait_for_a_training(stack)
    stack.wait_until_calm()
    # One that is under way has read the click log already, and would not meet the fault.
    _wait_for_a_training(stack)


def _wait_for_a_training(stack: Stack) -> None:
    """Return as one ends.  A process that was just started counts from 0 again."""
    seen: list[float] = []

    def one_more() -> bool:
        seen.append(stack.monitoring.value("sum(nextclick_retrain_runs_total)") or 0)
        return seen[-1] > seen[-2:][0]

    stack.wait_until("a training has ended", one_more)


@contextmanager
def click_log_damaged(stack: Stack) -> Iterator[None]:
    """A file of it holds something else."""
    file = max(stack.click_log.rglob("*.parquet"), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(b"\0" * len(content))
    try:
        yield
    finally:
        file.write_bytes(content)


def retrain_as_before(stack: Stack) -> None:
    stack.retrain.stop()
    stack.with_retraining()


# -- learning -----------------------------------------------------------------------------------------


@contextmanager
def statistics_cannot_be_published(stack: Stack) -> Iterator[None]:
    """Their topic takes no message of more than a few bytes."""

    def takes(size_bytes: int) -> None:
        configs = {"max.message.bytes": str(size_bytes)}
        topic = stack.settings.topics.statistics
        with admin_client(stack.settings.kafka) as admin:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])

    takes(10)
    try:
        yield
    finally:
        takes(2**20)


@contextmanager
def archive_frozen(stack: Stack) -> Iterator[None]:
    stack.archive.pause()
    try:
        yield
    finally:
        stack.archive.resume()


# -- state --------------------------------------------------------------------------------------------


@contextmanager
def restore_hangs(stack: Stack) -> Iterator[None]:
    """The disk of the worker is lost, and each chunk of the changelog takes a minute to restore."""
    stack.worker.kill()
    shutil.rmtree(stack.worker.settings.data_dir)
    stack.worker.start("--hold-at", "restoring:60", program=FAULTY_WORKER)
    try:
        yield
    finally:
        stack.worker.kill()
        stack.worker.start()


@contextmanager
def stranger_writes_sessions(stack: Stack) -> Iterator[None]:
    """Junk in the changelog, from somebody who is no worker."""
    producer = Producer({"bootstrap.servers": stack.settings.kafka.bootstrap_servers})
    for number in range(FOREIGN_RECORDS):
        producer.produce(
            stack.settings.topics.sessions, key=f"session-{number}", value=b"junk", partition=0
        )
    assert producer.flush(30) == 0
    yield


@contextmanager
def session_store_damaged(stack: Stack) -> Iterator[None]:
    """The power fails, and a file of RocksDB comes back garbled."""
    stack.worker.kill()
    DAMAGE["the manifest is garbled"](stack.worker.settings.data_dir / "sessions")
    stack.worker.start()
    yield


FAULTS: Final = (
    Fault("the worker is killed", ("NextclickNoWorker",), worker_killed),
    Fault(
        "one of two workers is frozen",
        ("NextclickWorkerDown",),
        second_worker_frozen,
        prepare=start_second_worker,
    ),
    Fault("the aggregator is frozen", ("NextclickServiceDown",), statistics_frozen),
    Fault(
        "the archive crashes three times", ("NextclickRestarting",), archive_crashes_again_and_again
    ),
    Fault(
        "the disk of the click log is full but for a twentieth",
        ("NextclickDiskFilling",),
        click_logs_disk_filled,
        needs_small_disk=True,
    ),
    Fault("the worker hangs", ("NextclickNoAnswers",), worker_hangs),
    Fault(
        "the worker was away, and does 16 clicks a second now",
        ("NextclickLatencyHigh", "NextclickLagGrowing"),
        worker_too_slow,
    ),
    Fault("clicks without an item", ("NextclickDeadLetters",), poisoned_clicks),
    Fault(
        "clicks are deleted before the worker reads them",
        ("NextclickClicksLost",),
        retention_overtakes_the_worker,
    ),
    Fault(
        "an untrained model is promoted",
        ("NextclickHitRateBelowPopularity",),
        untrained_model,
        prepare=publish_untrained_model,
    ),
    Fault("each chunk of a restore takes a minute", ("NextclickRestoreStuck",), restore_hangs),
    Fault("junk on the changelog", ("NextclickForeignWrite",), stranger_writes_sessions),
    Fault("RocksDB is damaged", ("NextclickSessionStoreDamaged",), session_store_damaged),
    Fault(
        "statistics cannot be published",
        ("NextclickStatisticsStale",),
        statistics_cannot_be_published,
    ),
    Fault("the archive is frozen", ("NextclickArchiveBehind",), archive_frozen),
    Fault(
        "a model of last winter is promoted",
        ("NextclickModelStale",),
        model_of_last_winter,
        prepare=publish_model_of_last_winter,
    ),
    Fault("a damaged model is promoted", ("NextclickBundleRefused",), damaged_model),
    Fault(
        "a file of the click log is damaged",
        ("NextclickRetrainingFailing",),
        click_log_damaged,
        prepare=retrain_often,
        afterwards=retrain_as_before,
    ),
)
