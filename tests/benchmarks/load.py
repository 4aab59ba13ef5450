"""A load client in a process of its own: sends clicks at a fixed rate, times their answers.

Latency is taken from the moment a click *should* have been sent, so that a stalled sender does not hide
a stalled worker ("coordinated omission").  librdkafka does the work in threads of its own; a Python
client as generator would measure itself.
"""

import gc
import json
import random
import sys
import threading
import time

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition


def main() -> None:
    """Arguments as one JSON object; prints one JSON object."""
    options = json.loads(sys.argv[1])
    producer = Producer(
        {
            "bootstrap.servers": options["bootstrap_servers"],
            "linger.ms": 0,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    receiver = Receiver(options["bootstrap_servers"], options["recommendations"])
    receiver.start()
    n, rate = options["clicks"], options["clicks_per_second"]
    rng = random.Random(options["seed"])
    items = options["items"]
    gc.disable()  # or we would time its pauses
    began = time.time() + 0.2
    sent_late = 0
    for number in range(n):
        due = began + number / rate if rate else time.time()
        wait = due - time.time()
        if wait > 0:
            producer.poll(0)
            time.sleep(max(0.0, due - time.time()))
        else:
            sent_late += wait < -0.005
        session_id = f"load-{options['seed']}-{rng.randrange(options['sessions'])}"
        producer.produce(
            options["clicks_topic"],
            key=session_id.encode(),
            value=msgspec.json.encode(
                {
                    "session_id": session_id,
                    "item_id": rng.choice(items),
                    "event_time": int(due * 1000),
                    "event_id": f"{options['seed']}:{due!r}",
                }
            ),
        )
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush(60)
    receiver.wait_for(n, options["timeout_seconds"])
    latencies = sorted(receiver.latencies)
    skipped = len(latencies) // 10 if options["skip_warm_up"] else 0
    settled = sorted(receiver.latencies[skipped:])
    print(
        json.dumps(
            {
                "sent": n,
                "received": len(latencies),
                "sent_late": sent_late,
                "seconds": receiver.last_at - began,
                "ms": {p: 1000 * percentile(settled, p) for p in (50.0, 99.0, 99.9)},
            }
        )
    )


class Receiver(threading.Thread):
    """Reads the answers as they come; latency of each from the due time in its event id."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.latencies: list[float] = []
        self.last_at = 0.0
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"load-{time.time_ns()}",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "fetch.min.bytes": 1,
            }
        )
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        starts = []
        for partition in partitions:
            _, end = self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=10
            )
            starts.append(TopicPartition(topic, partition, end))
        self._consumer.assign(starts)

    def run(self) -> None:
        while True:
            # One by one: `consume(n)` holds messages back until there are n or its time is up.
            message = self._consumer.poll(0.5)
            if message is not None and message.error() is None:
                self._take(message.value() or b"")

    def _take(self, value: bytes) -> None:
        now = time.time()
        at = value.index(b'"event_id":"') + len(b'"event_id":"')
        due = value[at : value.index(b'"', at)].partition(b":")[2]
        self.latencies.append(now - float(due))
        self.last_at = now

    def wait_for(self, n: int, seconds: float) -> None:
        deadline = time.time() + seconds
        while len(self.latencies) < n and time.time() < deadline:
            time.sleep(0.02)


def percentile(ordered: list[float], percent: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


if __name__ == "__main__":
    main()
