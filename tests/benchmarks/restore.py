"""Restoring sessions, and the RocksDB below it.

The changelog is read by the reader that the worker uses, from a real broker, into an empty store.
"""

import os
import random
import struct
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import psutil
import uvloop
from confluent_kafka import Producer
from kafka.admin import NewTopic

from stream_app.adapters.changelog_topic import ChangelogTopic
from stream_app.adapters.kafka_clients import aio_client_options
from stream_app.adapters.kafka_topics import admin_client
from stream_app.adapters.rocksdb_disk import Batch, RocksDisk
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.codec import encode_state
from stream_app.core.records import ItemId
from stream_app.core.session import SessionState
from stream_app.services.worker import _spare_the_collector
from stream_app.settings import KafkaSettings
from tests.benchmarks.bed import Bed
from tests.benchmarks.cores import apart
from tests.benchmarks.figures import Figure

TOPIC_ID: Final = bytes(16)
PARTITIONS: Final = 4
BATCH_KEYS: Final = 256
REPEATS: Final = 60


def session_id(n: int) -> str:
    return f"session-{n * 0x9E3779B1 % 2**32:08x}"


def record(n: int, rng: random.Random, units: int = 100) -> bytes:
    """A session of 4 clicks: 395 bytes at 100 units, as little compressible as real ones."""
    state = SessionState(
        last_offset=n,
        start_ms=1_764_000_000_000 + n,
        last_event_ms=1_764_000_600_000 + n,
        click_count=4,
        window_start_ms=1_764_000_540_000 + n,
        window_clicks=2,
        recent_item_ids=tuple(ItemId(f"21453{rng.randrange(10_000):04d}") for _ in range(4)),
        shown_hashes=rng.randbytes(80),
        shown_model_version="20261124T111132Z-3f2a",
        model_version="20261124T111132Z-3f2a",
        model_state=struct.pack(f"<{units}e", *(rng.uniform(-1, 1) for _ in range(units))),
    )
    return encode_state(state, TOPIC_ID)


def restore_figures(
    bed: Bed, directory: Path, *, sessions: int, limit: float | None = None
) -> Iterator[Figure]:
    """Restore that many sessions through the worker's changelog reader, in a process of its own.

    limit: records/s of RocksDB alone.
    """
    kafka = KafkaSettings(bootstrap_servers=bed.bootstrap_servers)
    topic = f"bench-{uuid.uuid4().hex[:8]}.sessions"
    with admin_client(kafka) as admin:
        admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    try:
        bytes_sent = _fill_topic(kafka, topic, sessions)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            pid = child.submit(os.getpid).result()
            with apart(pid, *bed.broker_pids):
                restored = child.submit(restore, kafka, topic, directory / "restored", sessions)
                wall, cpu, before_mb, most_mb = restored.result()
    finally:
        with admin_client(kafka) as admin:
            admin.delete_topics([topic])
    goal_seconds = 8 * sessions / 1_000_000
    yield Figure("restore", sessions / wall, "records/s", goal=250_000, limit=limit)
    yield Figure("restore, CPU of the process", cpu / sessions * 1e6, "us/record")
    yield Figure(f"restore of {sessions:,} sessions", wall, "s", goal=goal_seconds)
    yield Figure("memory while restoring", most_mb, "MB", goal=1_500)
    yield Figure("memory before", before_mb, "MB")
    yield Figure("changelog", bytes_sent / sessions, "bytes/session", goal=400)
    disk = RocksDisk(directory / "restored")
    disk.compact()
    disk.close()
    size = sum(file.stat().st_size for file in (directory / "restored").glob("*.sst"))
    yield Figure("RocksDB, compacted", size / sessions, "bytes/session", goal=400)


def restore(
    kafka: KafkaSettings, topic: str, directory: Path, sessions: int
) -> tuple[float, float, float, float]:
    """Seconds, seconds of CPU, and this process's memory before and at the most (MB)."""
    _spare_the_collector()
    store = RocksSessions(directory, topic_id=TOPIC_ID)
    before_mb = psutil.Process().memory_info().rss / 2**20
    wall, cpu, most_mb = uvloop.run(_restore(kafka, topic, store, sessions))
    store.close()
    return wall, cpu, before_mb, most_mb


def _fill_topic(kafka: KafkaSettings, topic: str, sessions: int) -> int:
    """Keys and values sent, in bytes."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 5})
    rng, sent = random.Random(1), 0
    for n in range(sessions):
        key, value = session_id(n).encode(), record(n, rng)
        sent += len(key) + len(value)
        while True:
            try:
                producer.produce(topic, key=key, value=value, partition=n % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0
    return sent


async def _restore(
    kafka: KafkaSettings, topic: str, store: RocksSessions, sessions: int
) -> tuple[float, float, float]:
    """Seconds, seconds of CPU, and the most memory (MB) on the way."""
    changelog = ChangelogTopic(topic, aio_client_options(kafka))
    process = psutil.Process()
    began, cpu_began, written, most = time.perf_counter(), time.process_time(), 0, 0
    ranges = await changelog.bounds(range(PARTITIONS))
    async for chunk in changelog.read(ranges):
        n, _ = store.restore_chunk(
            chunk.partition,
            chunk.records,
            last_offset=chunk.next_offset - 1,
            end_offset=sessions,
        )
        written += n
        most = max(most, process.memory_info().rss)
    assert written == sessions
    return time.perf_counter() - began, time.process_time() - cpu_began, most / 2**20


def rocksdb_figures(directory: Path, *, keys: int, filling: list[float]) -> Iterator[Figure]:
    """Fill; then get and put random keys in batches, with nothing of ours around it.

    filling: gets the us/key of that, in batches of 10,000.
    """
    disk = RocksDisk(directory)
    rng = random.Random(1)
    values = [record(n, rng) for n in range(1_000)]
    names = [b"s\0\0\0\0" + session_id(n).encode() for n in range(keys)]
    began = time.perf_counter()
    for at in range(0, keys, 10_000):
        batch = Batch(raw_mode=True)
        for n, name in enumerate(names[at : at + 10_000]):
            batch.put(name, values[n % 1_000])
        disk.write(batch)
    filling.append(1e6 * (time.perf_counter() - began) / keys)
    gets, puts = [], []
    for _ in range(REPEATS):
        picked = rng.sample(names, min(BATCH_KEYS, keys))
        began = time.perf_counter()
        found = disk.get_many(picked)
        got = time.perf_counter()
        batch = Batch(raw_mode=True)
        for name, value in zip(picked, found, strict=True):
            assert value is not None
            batch.put(name, value)
        disk.write(batch)
        gets.append(got - began)
        puts.append(time.perf_counter() - got)
    disk.close()
    goal = {100_000: 6.5, 2_000_000: 11.0}.get(keys)
    us = 1e6 / min(BATCH_KEYS, keys)
    what = f"RocksDB, {keys:,} keys"
    yield Figure(f"{what}: get + put", (_middle(gets) + _middle(puts)) * us, "us/key", goal=goal)
    yield Figure(f"{what}: fill", filling[-1], "us/key")
    yield Figure(f"{what}: get", _middle(gets) * us, "us/key")


def _middle(seconds: list[float]) -> float:
    return sorted(seconds[len(seconds) // 3 :])[len(seconds) // 3]


def figures(bed: Bed) -> Iterator[Figure]:
    """Restoring a million sessions, beside RocksDB alone."""
    scale = 500 if bed.short else 1
    filling: list[float] = []
    for keys in (100_000 // scale, 2_000_000 // scale):
        yield from rocksdb_figures(bed.new_directory("raw"), keys=keys, filling=filling)
    directory = bed.new_directory("restore")
    limit = 1e6 / filling[-1]
    yield from restore_figures(bed, directory, sessions=1_000_000 // scale, limit=limit)
