"""Three real brokers as one cluster, for faults that need more than one copy of everything.

Each node is broker and controller (KRaft), on loopback.  Every topic, Kafka's own too, has three
copies and needs two of them for a write: one node may be away without anybody noticing, with two away
nothing can be written, and nothing that was acknowledged is ever lost.
"""

import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

import psutil
from kafka.admin import KafkaAdminClient

from stream_app.adapters.kafka_topics import admin_client
from stream_app.adapters.local_kafka import HOST, LocalKafka, new_cluster_id
from stream_app.core.errors import ServiceAwayError
from stream_app.settings import KafkaSettings

NODES: Final = (1, 2, 3)
PATIENCE_SECONDS: Final = 60.0

_COPIES: Final = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
}


class Cluster:
    """Three nodes, numbered 1 to 3.  A context manager; every node can be harmed alone."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(2 * len(NODES))
        broker_ports = dict(zip(NODES, ports[: len(NODES)], strict=True))
        controller_ports = dict(zip(NODES, ports[len(NODES) :], strict=True))
        voters = ",".join(f"{node}@{HOST}:{controller_ports[node]}" for node in NODES)
        cluster_id = new_cluster_id()
        self._brokers = {
            node: LocalKafka(
                directory / f"node-{node}",
                port=broker_ports[node],
                cluster_id=cluster_id,
                settings={
                    **_COPIES,
                    "node.id": str(node),
                    "controller.quorum.voters": voters,
                    "listeners": (
                        f"PLAINTEXT://{HOST}:{broker_ports[node]},"
                        f"CONTROLLER://{HOST}:{controller_ports[node]}"
                    ),
                },
            )
            for node in NODES
        }
        self._frozen: set[int] = set()
        self._killed: set[int] = set()
        self._ports = broker_ports

    @property
    def bootstrap_servers(self) -> str:
        """All three, comma-separated."""
        return ",".join(f"{HOST}:{port}" for port in self._ports.values())

    @property
    def settings(self) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.bootstrap_servers)

    def __enter__(self) -> Self:
        try:
            self.start_together(NODES)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for node in list(self._frozen):
            self.resume(node)
        for broker in self._brokers.values():
            broker.kill()

    # -- faults -----------------------------------------------------------------------------------------

    def kill(self, node: int) -> None:
        """kill -9."""
        self.resume(node)
        self._brokers[node].kill()
        self._killed.add(node)

    def start(self, node: int) -> None:
        """Bring a killed node back, on the same port and data; returns when it is one of the cluster."""
        self.start_together([node])

    def start_together(self, nodes: Sequence[int]) -> None:
        """`start` for several at once: where the quorum is lost, none is ready before two are."""
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(lambda node: self._brokers[node].start(), nodes))
        self._killed.difference_update(nodes)
        wait_until(f"brokers {nodes} are back", lambda: self._alive().issuperset(nodes))

    def freeze(self, node: int) -> None:
        """SIGSTOP: its connections stay open and nobody answers."""
        psutil.Process(self._brokers[node].pid).send_signal(signal.SIGSTOP)
        self._frozen.add(node)

    def resume(self, node: int) -> None:
        """SIGCONT, if it was frozen."""
        if node in self._frozen:
            self._frozen.discard(node)
            psutil.Process(self._brokers[node].pid).send_signal(signal.SIGCONT)

    # -- who does what ----------------------------------------------------------------------------------

    def leader(self, topic: str, partition: int) -> int:
        """Node that takes the writes of the partition; -1 while there is none."""
        return int(self._partition(topic, partition)["leader_id"])

    def in_sync(self, topic: str, partition: int) -> set[int]:
        """Nodes that hold everything of the partition that was acknowledged."""
        return set(self._partition(topic, partition)["isr_nodes"])

    def controller(self) -> int:
        """Node that leads the metadata quorum (what clients are told as controller is any node)."""
        quorum = self._ask(lambda admin: admin.describe_metadata_quorum())
        return int(quorum["topics"][0]["partitions"][0]["leader_id"])

    def coordinator(self, group_id: str) -> int:
        """Node that keeps the members and offsets of the group."""
        return int(
            self._ask(lambda admin: admin._manager.run(admin._find_coordinator_id, group_id))
        )

    def wait_in_sync(self, topic: str, partitions: int) -> None:
        """Until all three nodes hold everything of the topic again."""
        wait_until(
            f"all copies of {topic} are in sync",
            lambda: all(len(self.in_sync(topic, p)) == len(NODES) for p in range(partitions)),
        )

    def _partition(self, topic: str, partition: int) -> dict[str, Any]:
        (description,) = self._ask(lambda admin: admin.describe_topics([topic]))
        for entry in description["partitions"]:
            if entry["partition_index"] == partition:
                return dict(entry)
        raise LookupError(f"{topic} has no partition {partition}")

    def _alive(self) -> set[int]:
        brokers = self._ask(lambda admin: admin.describe_cluster())["brokers"]
        return {int(broker["broker_id"]) for broker in brokers}

    def _ask(self, question: Callable[[KafkaAdminClient], Any]) -> Any:
        """Ask until somebody answers: in the seconds after a fault, a node may not know yet.

        A frozen node would take the question and never answer, so only the others are asked.
        """
        answering = self._ports.keys() - self._frozen - self._killed
        servers = ",".join(f"{HOST}:{self._ports[node]}" for node in sorted(answering))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with admin_client(KafkaSettings(bootstrap_servers=servers)) as admin:
                    return question(admin)
            except ServiceAwayError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that stay free: below those the kernel hands out to connections.

    A node that is away for a minute would otherwise find its port taken by somebody's connection, and
    a client that keeps trying a port of that range ends up connected to itself.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def wait_until(what: str, holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Ask until it holds; raises `TimeoutError` with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.1)
