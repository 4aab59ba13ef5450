"""Three brokers, three copies: a leader, the controller, the coordinator, one and two nodes go away."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from kafka.admin import ConfigResource, ConfigResourceType

from stream_app.adapters.kafka_topics import admin_client
from tests.chaos.cluster import NODES, Cluster
from tests.chaos.lab import Lab, Stream
from tests.chaos.progress import Outage, answered_everywhere
from tests.chaos.row import Finding, Row, Scale
from tests.chaos.supervisor import Supervisor

CLICKS_PER_SECOND: Final = 300
PARTITIONS: Final = 4
LONG_AWAY_SECONDS: Final = 70.0

ChooseNodes = Callable[[Cluster, Stream], list[int]]


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    rng = random.Random(f"replicas-{scale.seed}")
    with Cluster(lab.new_directory("cluster")) as cluster:
        yield killed(lab, cluster, rng, "leader of a sessions partition", sessions_leader, scale)
        if scale.short:
            return
        yield killed(lab, cluster, rng, "leader of a clicks partition", clicks_leader, scale)
        yield killed(lab, cluster, rng, "controller", controller, scale)
        yield killed(lab, cluster, rng, "coordinator", coordinator, scale)
        yield away(lab, cluster, "one broker away for 70 s", 1, LONG_AWAY_SECONDS)
        yield away(lab, cluster, "two brokers away for 15 s", 2, 15.0)
        yield too_few_replicas(lab, cluster, 10.0)
        yield frozen(lab, cluster, 20.0)


def sessions_leader(cluster: Cluster, stream: Stream) -> int:
    return cluster.leader(stream.topics.sessions, 0)


def clicks_leader(cluster: Cluster, stream: Stream) -> int:
    return cluster.leader(stream.topics.clicks, 0)


def controller(cluster: Cluster, _: Stream) -> int:
    return cluster.controller()


def coordinator(cluster: Cluster, stream: Stream) -> int:
    return cluster.coordinator(stream.settings.kafka.group_id)


def killed(
    lab: Lab,
    cluster: Cluster,
    rng: random.Random,
    role: str,
    choose: Callable[[Cluster, Stream], int],
    scale: Scale,
) -> Finding:
    """kill -9 of the node with that role, and its return after some seconds."""
    rounds = scale.times(2, 1)

    def harm(stream: Stream, outages: list[Outage]) -> None:
        for _ in range(rounds):
            node = choose(cluster, stream)
            with Outage.of(stream, outages):
                cluster.kill(node)
                time.sleep(rng.uniform(3, 4) if scale.short else rng.uniform(5, 10))
                cluster.start(node)
            _whole_again(cluster, stream)

    return _under_load(lab, cluster, f"{role} killed", rounds, harm)


def away(lab: Lab, cluster: Cluster, name: str, nodes: int, seconds: float) -> Finding:
    """So many nodes gone at once.  Two of three take the quorum with them: nothing can be written."""

    def harm(stream: Stream, outages: list[Outage]) -> None:
        leader = cluster.leader(stream.topics.sessions, 0)
        chosen = [leader, *(node for node in NODES if node != leader)][:nodes]
        with Outage.of(stream, outages):
            for node in chosen:
                cluster.kill(node)
            time.sleep(seconds)
            cluster.start_together(chosen)
        _whole_again(cluster, stream)

    return _under_load(lab, cluster, name, 1, harm)


def too_few_replicas(lab: Lab, cluster: Cluster, seconds: float) -> Finding:
    """NOT_ENOUGH_REPLICAS itself: one node away from topics that want all three copies."""

    def harm(stream: Stream, outages: list[Outage]) -> None:
        topics = stream.topics
        _want_copies(cluster, [topics.sessions, topics.recommendations], 3)
        node = next(n for n in NODES if n != cluster.leader(topics.sessions, 0))
        with Outage.of(stream, outages):
            cluster.kill(node)
            time.sleep(seconds)
            cluster.start(node)
        _whole_again(cluster, stream)

    return _under_load(lab, cluster, "too few copies for a write for 10 s", 1, harm)


def frozen(lab: Lab, cluster: Cluster, seconds: float) -> Finding:
    """A leader that is there and answers nobody: SIGSTOP.  Only time-outs can tell."""

    def harm(stream: Stream, outages: list[Outage]) -> None:
        busy = (
            cluster.controller()
        )  # frozen, it would stop the election of the others' leaders as well
        node = next(
            leader
            for leader in (cluster.leader(stream.topics.sessions, p) for p in range(PARTITIONS))
            if leader != busy
        )
        with Outage.of(stream, outages):
            cluster.freeze(node)
            time.sleep(seconds)
            cluster.resume(node)
        _whole_again(cluster, stream)

    return _under_load(lab, cluster, "a leader frozen for 20 s", 1, harm)


def _under_load(
    lab: Lab,
    cluster: Cluster,
    name: str,
    runs: int,
    harm: Callable[[Stream, list[Outage]], None],
) -> Finding:
    """One supervised worker and steady clicks while `harm` does what it does; then the verdict."""
    outages: list[Outage] = []
    with lab.stream(
        partitions=PARTITIONS, replication=len(NODES), bootstrap_servers=cluster.bootstrap_servers
    ) as stream:
        with Supervisor(stream) as supervisor, stream.load(CLICKS_PER_SECOND):
            answered_everywhere(stream, 0)
            harm(stream, outages)
        return Outage.finding(stream, name, runs, outages, supervisor)


def _whole_again(cluster: Cluster, stream: Stream) -> None:
    """No second fault while the first one still costs a copy: two at once is another variant."""
    for topic in (stream.topics.clicks, stream.topics.sessions, "__consumer_offsets"):
        cluster.wait_in_sync(topic, PARTITIONS)


def _want_copies(cluster: Cluster, topics: list[str], copies: int) -> None:
    changed = [
        ConfigResource(ConfigResourceType.TOPIC, topic, {"min.insync.replicas": str(copies)})
        for topic in topics
    ]
    with admin_client(cluster.settings) as admin:
        answer: Any = admin.alter_configs(changed)
    assert answer, "the broker took the change"


ROW = Row("replicas", "three brokers: leader, controller, coordinator, one and two away", run)
