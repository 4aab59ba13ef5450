"""The two override files, each brought up for real: the user's own Kafka, and passwords over TLS."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from deploy.compose.certificates import HOSTS, USER, make_secrets
from deploy.compose.check.report import Report
from deploy.compose.check.scenes import Scene, come_up
from deploy.compose.check.stack import PORTS, Stack, wait_for
from deploy.compose.check.stream import Stream
from stream_app.core.errors import NextclickError
from stream_app.settings import KafkaSettings

OWN_KAFKA: Final = "deploy/compose/own-kafka.yml"
TLS: Final = "deploy/compose/tls.yml"
OWN_NAME: Final = "nextclick-check-users-kafka"
OWN_PORT: Final = 29192
"""For the containers; the next port is for this machine."""


def own_kafka(stack: Stack, report: Report, scratch: Path) -> None:
    """A Kafka that is no part of the stack, which reaches it over the network of the machine."""
    listeners = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "BROKER",
        "KAFKA_LISTENERS": f"BROKER://:{OWN_PORT},HOST://:{OWN_PORT + 1},CONTROLLER://localhost:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"BROKER://host.docker.internal:{OWN_PORT},HOST://localhost:{OWN_PORT + 1}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "BROKER:PLAINTEXT,HOST:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
    }
    variables = [word for item in listeners.items() for word in ("-e", "=".join(item))]
    ports = [word for port in (OWN_PORT, OWN_PORT + 1) for word in ("-p", f"{port}:{port}")]
    host = ("--add-host", "host.docker.internal:host-gateway")
    # Also one that Docker made and could not start.
    remove = ("rm", "--force", "--volumes", OWN_NAME)
    stack.docker.docker(*remove)
    try:
        stack.docker.docker(
            "run", "-d", "--name", OWN_NAME, *host, *ports, *variables, "apache/kafka:4.3.1"
        )
        servers = {"NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS": f"host.docker.internal:{OWN_PORT}"}
        ours = replace(
            stack,
            project="nextclick-check-own",
            files=(*stack.files, OWN_KAFKA),
            variables={**stack.variables, **servers},
        )
        stream = Stream(KafkaSettings(bootstrap_servers=f"127.0.0.1:{OWN_PORT + 1}"))
        wait_for("the other Kafka answers", lambda: _is_there(stream), seconds=120)
        try:
            come_up(Scene(ours, stream, report, scratch))
            services = {container.service for container in ours.containers()}
            report.sure("no Kafka of the stack's own runs", holds="kafka" not in services)
        finally:
            ours.down("--volumes")
    finally:
        stack.docker.docker(*remove)


def _is_there(stream: Stream) -> bool:
    try:
        stream.topics()
    except (NextclickError, ValueError):
        return False
    return True


def tls(stack: Stack, report: Report, scratch: Path) -> None:
    """Certificates and a password of a minute ago; who has neither gets nothing."""
    secrets = scratch / "secrets"
    shutil.rmtree(secrets, ignore_errors=True)
    make_secrets(secrets, HOSTS)
    ours = replace(
        stack,
        project="nextclick-check-tls",
        files=(*stack.files, TLS),
        variables={**stack.variables, "KAFKA_SECRETS": str(secrets)},
    )
    right = KafkaSettings(
        bootstrap_servers=f"localhost:{PORTS['KAFKA_PORT']}",
        security_protocol="SASL_SSL",
        sasl_username=USER,
        sasl_password=(secrets / "password").read_text().strip(),
        ssl_cafile=secrets / "authority.pem",
    )
    try:
        come_up(Scene(ours, Stream(right), report, scratch))
        wrong = {
            "a wrong password": right.model_copy(update={"sasl_password": "guess"}),
            "no password": right.model_copy(update={"security_protocol": "SSL"}),
            "no TLS": KafkaSettings(bootstrap_servers=right.bootstrap_servers),
        }
        for what, kafka in wrong.items():
            report.sure(f"refused: {what}", holds=not _is_there(Stream(kafka)))
        report.sure(
            "the password is in no container's settings",
            holds=right.sasl_password not in _inspected(ours),
        )
    finally:
        ours.down("--volumes")


def _inspected(stack: Stack) -> str:
    return stack.docker.docker("inspect", *(container.id for container in stack.containers()))
