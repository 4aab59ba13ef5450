"""The stream statistics at 5,000 clicks/s: what counting, publishing, reading and answering cost.

    make bench ARGS="--only statistics"

Items by Zipf's law, visitors of five clicks a minute apart.  The first part is the code alone, one process
and no Kafka; the second an aggregator and a reader on a real broker, each a process of its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Final

import msgspec
import numpy as np
import psutil
from confluent_kafka import Producer

from stream_app.adapters.statistics_reader import StatisticsReader
from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_counts import StatisticsCounts
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import StatisticsTable, totals_of
from stream_app.core.statistics_view import StatisticsView, VersionTotals
from stream_app.settings import KafkaSettings
from tests.benchmarks.bed import START_MS, Bed
from tests.benchmarks.figures import Figure, median_figure
from tests.benchmarks.limits import Limits
from tests.integration.processes import NextclickProcess

CLICKS_PER_SECOND: Final = 5_000
PUBLISH_SECONDS: Final = 5
CATALOGUES: Final = (50_000, 1_000_000)
CLICK_GAP_SECONDS: Final = 60
CLICKS_PER_SESSION: Final = 5
WARM_UP_CLICKS: Final = 2_000_000
MEASURED_VERSIONS: Final = 6
READER_SECONDS: Final = 30


@dataclass
class MadeUp:
    """Clicks for ever: at any time `CLICKS_PER_SECOND * CLICK_GAP_SECONDS` visitors take turns."""

    n_items: int
    made: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(7)
        shares = 1 / np.arange(1, self.n_items + 1)
        self._cumulative = np.cumsum(shares / shares.sum())
        self._visitors = CLICKS_PER_SECOND * CLICK_GAP_SECONDS

    def take(self, n: int) -> list[SessionClick]:
        """Items near each other follow each other half of the time, so that rows are as uneven as real ones."""
        items = np.searchsorted(self._cumulative, self._rng.random(n))
        near = self._rng.random(n) < 0.5
        first, self.made = self.made, self.made + n
        numbers = np.arange(first, first + n)
        visitor = numbers % self._visitors
        turn = numbers // self._visitors
        likes = visitor * 2_654_435_761 % self.n_items
        liked = (likes + self._rng.geometric(0.1, n)) % self.n_items
        items = np.where(near, np.minimum(liked, items * 50 + 50) % self.n_items, items)
        sessions = (turn // CLICKS_PER_SESSION) * self._visitors + visitor
        times = START_MS + numbers * 1000 // CLICKS_PER_SECOND
        return [
            SessionClick(0, number, f"session-{session:012d}", f"item-{item:07d}", time_ms, True)
            for number, session, item, time_ms in zip(
                numbers.tolist(), sessions.tolist(), items.tolist(), times.tolist(), strict=True
            )
        ]


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def alone(n_items: int, *, short: bool) -> Iterator[Figure]:
    """Without Kafka.  Runs in a process of its own, so that its memory is its own."""
    name = f"statistics, {n_items:,} items"
    per_version = 100 if short else CLICKS_PER_SECOND * PUBLISH_SECONDS
    made, version = MadeUp(n_items), 0
    recipe = StatisticsRecipe(sessions_max=1_000_000)
    before = resident_mb()
    counts = StatisticsCounts(recipe)
    for _ in range(1 if short else WARM_UP_CLICKS // 100_000):
        version += 1
        counts.fold(made.take(100 if short else 100_000), version=version)
    counting_mb = resident_mb() - before
    table = StatisticsTable(recipe)
    found = dict(counts.records())
    row_bytes = np.array([len(value) for value in found.values() if value is not None])
    view = table.apply(found, totals_of(counts, version))
    folds, applies, sizes, changed, answers = [], [], [], [], []
    for _ in range(MEASURED_VERSIONS):
        clicks = made.take(per_version)
        version += 1
        began = time.process_time()
        records = counts.fold(clicks, version=version)
        folds.append(1e6 * (time.process_time() - began) / len(clicks))
        sizes.append(sum(len(value) for value in records.values() if value) / PUBLISH_SECONDS / 1e6)
        changed.append(len(records) / PUBLISH_SECONDS)
        began = time.process_time()
        view = table.apply(records, totals_of(counts, version))
        applies.append(1e3 * (time.process_time() - began))
        answers += answering_us(view, [click.item_id or "" for click in clicks])
    yield Figure(f"{name}: known", len(counts), "items")
    yield Figure(f"{name}: a record", float(row_bytes.mean()), "bytes", note="mean")
    yield Figure(f"{name}: counting alone", float(np.median(folds)), "us/click")
    yield Figure(f"{name}: published", float(np.median(sizes)), "MB/s")
    yield Figure(f"{name}: published", float(np.median(changed)), "records/s")
    yield Figure(f"{name}: taking in a version", float(np.median(applies)), "ms")
    yield Figure(f"{name}: an answer, 20 of a batch of 256", float(np.median(answers)), "us/click")
    note = f"{len(counts.sessions):,} sessions, 100,000 clicks a version"
    yield Figure(f"{name}: memory of the counts while catching up", counting_mb, "MB", note=note)
    yield Figure(f"{name}: memory of a copy", memory_of_a_copy(counts), "MB")


def memory_of_a_copy(counts: StatisticsCounts) -> float:
    """Of a process that only has the records and a view of them, MB."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(msgspec.msgpack.encode(counts.records()))
        file.flush()
        said = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.stream_statistics", "copy", file.name],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    return float(said)


def copy(path: str) -> None:
    before = resident_mb()
    records = msgspec.msgpack.decode(Path(path).read_bytes(), type=dict[str, bytes | None])
    table = StatisticsTable(StatisticsRecipe())
    while records:  # a few thousand at a time, as they would come from Kafka
        some = {name: records.pop(name) for name in list(records)[:100_000]}
        view = table.apply(some, VersionTotals(1, START_MS, (1.0,) * 4, 1.0, START_MS))
    view.top(20)
    print(resident_mb() - before)


def answering_us(view: StatisticsView, items: list[str]) -> list[float]:
    """Batches of 256 sessions with four items each; the first one reads its rows."""
    batches = [
        [items[n + s : n + s + 4] for s in range(256)]
        for n in range(0, min(len(items), 4_096), 256)
    ]
    found = []
    for batch in batches:
        began = time.process_time()
        view.associated(batch, 20)
        found.append(1e6 * (time.process_time() - began) / len(batch))
    return found


def on_a_broker(bed: Bed, n_items: int) -> Iterator[Figure]:
    """An aggregator and a reader, each a process; CPU is their own, whatever else runs on the machine."""
    name = f"statistics on a broker, {n_items:,} items, {CLICKS_PER_SECOND:,} clicks/s"
    seconds = 3 if bed.short else READER_SECONDS
    with bed.stream(n_items) as stream:
        settings = stream.settings
        publish = ("--set", f"statistics.publish_seconds={1 if bed.short else PUBLISH_SECONDS}")
        with NextclickProcess("statistics", settings, stream.directory, *publish) as aggregator:
            aggregator.wait_for_event("statistics_started")
            made = MadeUp(n_items)
            produce(bed, settings.topics.clicks, made, seconds)
            reader = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.benchmarks.stream_statistics"),
                    *("read", settings.kafka.bootstrap_servers, settings.topics.statistics),
                ],
                stdout=subprocess.PIPE,
                stdin=subprocess.PIPE,
            )
            assert reader.stdout is not None
            reader.stdout.readline()
            process = psutil.Process(aggregator.process.pid)
            cpu, began = sum(process.cpu_times()[:2]), time.monotonic()
            clicks = produce(bed, settings.topics.clicks, made, seconds)
            cpu, took = sum(process.cpu_times()[:2]) - cpu, time.monotonic() - began
            memory = process.memory_info().rss / 1e6
            said, _ = reader.communicate(b"\n")
            found = json.loads(said)
            assert aggregator.terminate() == 0
    yield Figure(f"{name}: CPU of the aggregator", 1e6 * cpu / clicks, "us/click")
    yield Figure(f"{name}: the aggregator", 100 * cpu / took, "% of a core")
    yield Figure(f"{name}: memory of the aggregator", memory, "MB")
    yield Figure(f"{name}: CPU of a reader", 100 * found["cpu"] / found["seconds"], "% of a core")
    yield Figure(f"{name}: memory of a reader", found["memory_mb"], "MB")
    ages = found["ages"] or [0.0]
    yield median_figure(
        f"{name}: age of a version where it is read", ages, "s", note="published, read"
    )
    if len(ages) > 1:
        yield Figure(f"{name}: its 9th decile", quantiles(ages, n=10)[-1], "s")


def produce(bed: Bed, topic: str, made: MadeUp, seconds: int) -> int:
    """At the rate, by librdkafka; how many clicks."""
    producer = Producer({"bootstrap.servers": bed.bootstrap_servers, "linger.ms": 20})
    began, sent = time.monotonic(), 0
    for tenth in range(10 * seconds):
        for click in made.take(50 if bed.short else CLICKS_PER_SECOND // 10):
            value = (
                f'{{"session_id":"{click.session_id}","item_id":"{click.item_id}",'
                f'"event_time":{click.time_ms}}}'
            )
            producer.produce(topic, key=click.session_id, value=value)
            sent += 1
        producer.poll(0)
        time.sleep(max(0.0, began + (tenth + 1) / 10 - time.monotonic()))
    assert producer.flush(60) == 0, "the broker did not take the clicks"
    return sent


def read(bootstrap_servers: str, topic: str) -> None:
    """A reader alone, until a line comes in: what it cost, and how old versions were when they came."""
    reader = StatisticsReader(KafkaSettings(bootstrap_servers=bootstrap_servers), topic)
    before = resident_mb()
    reader.start()
    assert reader.wait_until_caught_up(60)
    print("caught up", flush=True)
    process = psutil.Process()
    cpu, began = sum(process.cpu_times()[:2]), time.monotonic()
    waiting = subprocess.Popen(["cat"], stdout=subprocess.DEVNULL)  # ends with our standard input
    ages, version = [], reader.view().version
    while waiting.poll() is None:
        view = reader.view()
        if view.version != version:
            version = view.version
            ages.append(time.time() - (reader.published_at or 0) / 1000)
        time.sleep(0.02)
    print(
        json.dumps(
            {
                "cpu": sum(process.cpu_times()[:2]) - cpu,
                "seconds": time.monotonic() - began,
                "memory_mb": resident_mb() - before,
                "ages": ages,
            }
        )
    )
    reader.stop()


def figures(bed: Bed, _: Limits) -> Iterator[Figure]:
    for n_items in bed.catalogues[:1] if bed.short else CATALOGUES:
        said = subprocess.run(
            [
                *(sys.executable, "-m", "tests.benchmarks.stream_statistics"),
                *("alone", str(n_items), str(int(bed.short))),
            ],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for line in json.loads(said):
            yield Figure(**line)
    for n_items in bed.catalogues[:1] if bed.short else CATALOGUES:
        yield from on_a_broker(bed, n_items)


if __name__ == "__main__":
    if sys.argv[1] == "read":
        read(*sys.argv[2:])
    elif sys.argv[1] == "copy":
        copy(sys.argv[2])
    else:
        lines = alone(int(sys.argv[2]), short=sys.argv[3] == "1")
        print(
            json.dumps(
                [{"name": f.name, "value": f.value, "unit": f.unit, "note": f.note} for f in lines]
            )
        )
