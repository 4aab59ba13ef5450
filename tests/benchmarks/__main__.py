"""`make bench`: what one worker does on this machine.  Writes build/bench.json.

Absolute times differ between machines; a figure is worth what stands beside it in the same run.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition

from stream_app.adapters import kafka_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import promote
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.statistics import NOTHING_POPULAR
from stream_app.files.registry import Registry
from stream_app.settings import KafkaSettings, Settings, TopicSettings
from tests.bundles import make_bundle
from tests.integration.oracle import read_topic
from tests.integration.processes import NextclickProcess, get, wait_until

UNITS, N_ITEMS, TOP_K = 100, 10_000, 20
ITEMS = [f"item-{i}" for i in range(N_ITEMS)]
START_MS = 1_700_000_000_000
BACKLOG_CLICKS = 100_000


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    goal: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class MadeUpRecord:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def main() -> None:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        bundle = make_bundle(directory / "made", ids=ITEMS, units=UNITS, seed=1)
        figures += in_process(OnnxScorer.load(bundle))
        with LocalKafka(directory / "kafka") as broker:
            settings = prepared(directory, broker.bootstrap_servers, bundle)
            fill_backlog(settings)
            with a_worker(settings, directory):
                figures += backlog(settings)
                for rate in (200, 1000):
                    figures += latency(settings, rate)
    report(figures)


def in_process(scorer: OnnxScorer) -> Iterator[Figure]:
    """The pipeline alone, without Kafka and disk: the limit that the worker works towards."""
    n = 20_000
    records = [
        MadeUpRecord("clicks", 0, i, START_MS + i, b"", _click(i, sessions=3000)) for i in range(n)
    ]
    for batch in (1, 64, 256):
        sessions, rules = MemorySessions(), ServingRules(top_k=TOP_K)
        count = n if batch > 1 else 2000
        began = time.perf_counter()
        for first in range(0, count, batch):
            outcome = recommend_batch(
                records[first : first + batch], sessions, scorer, NOTHING_POPULAR, rules, now_ms=0
            )
            sessions.put_many(outcome.states)
        seconds = time.perf_counter() - began
        yield Figure(f"pipeline alone, batch {batch}", 1e6 * seconds / count, "us/click")


def fill_backlog(settings: Settings) -> None:
    """Clicks that wait on the topic before the worker starts, so that nothing else takes its core."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 20})
    for number in range(BACKLOG_CLICKS):
        value = _click(number, sessions=5000)
        key = json.loads(value)["session_id"].encode()
        producer.produce(settings.topics.clicks, key=key, value=value)
        producer.poll(0)
    producer.flush(60)


def backlog(settings: Settings) -> Iterator[Figure]:
    """Clicks per second from the first answer to the last, by the answers' own Kafka timestamps."""

    servers, topic = settings.kafka.bootstrap_servers, settings.topics.recommendations
    consumer = KafkaConsumer(bootstrap_servers=servers, group_id=None)
    partitions = [TopicPartition(topic, p) for p in range(settings.topics.partitions)]

    def is_done() -> bool:
        # Only the ends: reading the answers meanwhile would take a core from those we measure.
        return sum(consumer.end_offsets(partitions).values()) == BACKLOG_CLICKS

    wait_until("the backlog is done", is_done, 180)
    consumer.close()
    times = [answer.timestamp for answer in read_topic(servers, topic)]
    seconds = (max(times) - min(times)) / 1000
    yield Figure("backlog, one worker", BACKLOG_CLICKS / seconds, "clicks/s", goal=20_000)


def latency(settings: Settings, rate: int) -> Iterator[Figure]:
    """From the moment a click was due to the receipt of its answer, all processes on this machine."""
    n = rate * 20
    result = load(settings, clicks=n, rate=rate, sessions=rate * 5, seed=rate)
    assert result["received"] == n, result
    goals = {200: 5.0, 1000: 10.0}
    for percent, ms in result["ms"].items():
        goal = goals[rate] if percent == "99.0" else None
        yield Figure(f"latency at {rate}/s, p{float(percent):g}", ms, "ms", goal=goal)


def prepared(directory: Path, bootstrap_servers: str, bundle: Path) -> Settings:
    """Topics, and the bundle promoted."""
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=bootstrap_servers),
        topics=TopicSettings(partitions=4),
        registry=str(directory / "registry"),
        data_dir=directory / "worker",
    )
    kafka_topics.create_topics(settings.kafka, settings.topics)
    version = Registry(settings.registry).publish(bundle)
    promote(settings.kafka, settings.topics.releases, version, reason="bench")
    return settings


@contextmanager
def a_worker(settings: Settings, directory: Path) -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with NextclickProcess("worker", settings, directory, "--metrics-port", str(port)) as worker:
        wait_until("the worker is ready", lambda: get(port, "/readyz")[0] == 200)
        yield
        if worker.terminate() != 0:
            raise SystemExit(worker.log)


def load(settings: Settings, *, clicks: int, rate: int, sessions: int, seed: int) -> Any:
    options = {
        "bootstrap_servers": settings.kafka.bootstrap_servers,
        "clicks_topic": settings.topics.clicks,
        "recommendations": settings.topics.recommendations,
        "clicks": clicks,
        "clicks_per_second": rate,
        "sessions": sessions,
        "seed": seed,
        "items": ITEMS[:2000],
        "timeout_seconds": 120,
        "skip_warm_up": rate > 0,
    }
    client = Path(__file__).with_name("load.py")
    output = subprocess.run(
        [sys.executable, str(client), json.dumps(options)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(output)


def _click(number: int, *, sessions: int) -> bytes:
    session_id = f"s{number * 7919 % sessions}"
    item_id = ITEMS[number * 104_729 % N_ITEMS]
    return (
        f'{{"session_id":"{session_id}","item_id":"{item_id}","event_time":{START_MS + number}}}'
    ).encode()


def report(figures: list[Figure]) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(
        f"commit {commit or 'unknown'}, {os.cpu_count()} cores {_processor()}, Python "
        f"{platform.python_version()}, ONNX Runtime {onnxruntime.__version__}; {N_ITEMS} items, "
        f"{UNITS} units, top {TOP_K}; load from a process of its own on the same machine"
    )
    for figure in figures:
        goal = f"   goal {figure.goal:g}" if figure.goal is not None else ""
        print(f"{figure.name:32} {figure.value:10.4g} {figure.unit}{goal}")
    rows = [
        {k: v for k, v in vars(figure).items() if v is not None or k in ("name", "value", "unit")}
        for figure in figures
    ]
    target = Path("build/bench.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"written to {target}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
