"""A broker that goes away in the middle of a healing or a restore is waited for, and nothing is lost."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from stream_app.adapters.local_kafka import LocalKafka
from stream_app.services.loop_points import LoopPoint
from tests.chaos.foreign import ForeignWriter
from tests.chaos.lab import Lab, Stream, Worker
from tests.integration.processes import wait_until

CLICKS = 200


@pytest.fixture
def broker(kafka: Any, tmp_path: Path) -> Iterator[LocalKafka]:
    """One of its own, where there can be any."""
    with LocalKafka(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture
def stream(broker: LocalKafka, tmp_path: Path) -> Iterator[Stream]:
    with (
        Lab(tmp_path, bootstrap_servers=broker.bootstrap_servers) as lab,
        lab.stream(partitions=1) as stream,
    ):
        yield stream


def start(stream: Stream) -> Worker:
    stop_in(stream).mkdir(exist_ok=True)
    return stream.start_worker(0, "--stop-in", str(stop_in(stream)))


def stop_in(stream: Stream) -> Path:
    return stream.directory / "stop"


def wait_until_stopped(worker: Worker) -> None:
    process = psutil.Process(worker.process.pid)
    wait_until("it has stopped", lambda: process.status() == psutil.STATUS_STOPPED)


def test_a_healing_waits_for_the_broker(broker: LocalKafka, stream: Stream) -> None:
    worker = start(stream)
    worker.wait_until_serving()
    stream.produce(CLICKS)
    stream.wait_until_settled()
    ForeignWriter(stream, Random(0)).write("old records")
    (stop_in(stream) / LoopPoint.HEALING).touch()
    stream.produce(1)  # its acknowledgement shows the gap
    wait_until_stopped(worker)
    broker.stop()
    worker.resume()
    worker.wait_for_event("healing_waits_for_broker")
    broker.start()
    worker.wait_for_event("changelog_healed")
    stream.produce(CLICKS)
    finding = stream.verdict("healed", 1)
    assert finding.is_good, finding
    assert worker.process.returncode == 0


def test_a_restore_waits_for_the_broker(broker: LocalKafka, stream: Stream) -> None:
    first = start(stream)
    first.wait_until_serving()
    stream.produce(CLICKS)
    stream.wait_until_settled()
    assert first.terminate() == 0
    stream.wipe(0)
    (stop_in(stream) / LoopPoint.RESTORING).touch()
    second = start(stream)
    wait_until_stopped(second)
    broker.stop()
    second.resume()
    second.wait_for_event("restore_waits_for_broker")
    broker.start()
    stream.produce(CLICKS)
    finding = stream.verdict("restored", 1)
    assert finding.is_good, finding
    assert second.process.returncode == 0
