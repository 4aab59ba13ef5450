"""What networks do, between a worker and its broker: answers lost, black holes, resets, delay, half-open."""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Final

from tests.chaos.lab import Lab
from tests.chaos.progress import Outage, answered_everywhere
from tests.chaos.row import Finding, Row, Scale
from tests.chaos.supervisor import Supervisor
from tests.chaos.tcp_proxy import Fault, ProxiedKafka

CLICKS_PER_SECOND: Final = 300
LONG_SECONDS: Final = 25.0
"""Longer than any request of the worker may take, so that its time-outs end within the fault as well."""

_SHORT: Final = (Fault.RESPONSES_DROPPED, Fault.RESET)


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    rng = random.Random(f"network-{scale.seed}")
    with ProxiedKafka(lab.new_directory("proxied")) as kafka:
        if scale.short:
            rounds = [(fault, rng.uniform(2, 3)) for fault in _SHORT]
            yield under_load(lab, kafka, rng, " and ".join(f.name.lower() for f in _SHORT), rounds)
            return
        for fault in Fault:
            seconds = [rng.uniform(1, 9), rng.uniform(1, 9), LONG_SECONDS]
            rounds = [(fault, duration) for duration in seconds]
            yield under_load(lab, kafka, rng, fault.value, rounds)


def under_load(
    lab: Lab,
    kafka: ProxiedKafka,
    rng: random.Random,
    name: str,
    rounds: Sequence[tuple[Fault, float]],
) -> Finding:
    """Each fault in turn for so many seconds, at a moment that nothing in the worker knows of."""
    outages: list[Outage] = []
    with lab.stream(
        bootstrap_servers=kafka.bootstrap_servers,
        worker_servers=kafka.proxy.bootstrap_servers,
    ) as stream:
        with Supervisor(stream) as supervisor, stream.load(CLICKS_PER_SECOND):
            answered_everywhere(stream, 0)
            for fault, seconds in rounds:
                time.sleep(rng.uniform(0, 2))
                with Outage.of(stream, outages), kafka.proxy.during(fault):
                    time.sleep(seconds)
        return Outage.finding(stream, name, len(rounds), outages, supervisor)


ROW = Row("network", "a TCP proxy drops, holds, resets and delays what worker and broker say", run)
