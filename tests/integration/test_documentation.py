"""Pages whose commands are run: each does what the page says, on a real broker."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jgo.maven import MavenContext

from stream_app.adapters.kafka_distribution import KAFKA_VERSION, distribution
from stream_app.core.errors import ServiceAwayError
from tests import doc_sessions

DOCS = Path(__file__).parents[2] / "docs"
RUN = sorted(page.name for page in DOCS.glob("*.md") if doc_sessions.commands(page))
TOOLS = {
    "kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
}
"""Kafka's own tools as a user has them; here without an installation of Kafka."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with Kafka's command line tools in it."""
    try:
        kafka = distribution(print)
        project = MavenContext().project("org.apache.kafka", "kafka-tools")
        jar = project.at_version(KAFKA_VERSION).artifact().resolve()
    except (ServiceAwayError, OSError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs Kafka's command line tools: {error}")
    directory = tmp_path_factory.mktemp("tools")
    for name, main_class in TOOLS.items():
        tool = directory / name
        tool.write_text(
            f"#!/bin/sh\nexec {kafka.java} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC "
            "--enable-native-access=ALL-UNNAMED --sun-misc-unsafe-memory-access=allow "
            f"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp {kafka.class_path}:{jar} "
            f'{main_class} "$@"\n'
        )
        tool.chmod(0o755)
    return directory


@pytest.fixture
def environment(tools: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What a reader's shell has: our program and Kafka's tools; no broker outlives the page."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCLICK_")}
    ours["PATH"] = os.pathsep.join((str(tools), str(Path(sys.executable).parent), ours["PATH"]))
    ours["COLUMNS"] = "200"
    yield ours
    if (tmp_path / "nextclick-data" / "kafka").is_dir():
        stop = [sys.executable, "-m", "stream_app", "broker", "stop"]
        subprocess.run(stop, cwd=tmp_path, env=ours, check=False)


def _start_once(environment: dict[str, str], data_dir: Path) -> None:
    """The first start on a machine prepares faster ones and says so, which is no page's business."""
    for command in (("start", "--port", str(free_port())), ("stop",)):
        broker = [
            sys.executable,
            "-m",
            "stream_app",
            "broker",
            *command,
            "--data-dir",
            str(data_dir),
        ]
        subprocess.run(broker, env=environment, check=True, capture_output=True)


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_do_what_it_says(
    page: str, environment: dict[str, str], tmp_path: Path
) -> None:
    _start_once(environment, tmp_path / "first")
    broker, *ports = (free_port() for _ in range(4))
    replace = {
        "nextclick broker start": f"nextclick broker start --port {broker}",
        "localhost:9092": f"localhost:{broker}",
        **{f"910{number}": str(port) for number, port in enumerate(ports, start=1)},
    }
    problems = list(doc_sessions.run(DOCS / page, tmp_path, environment, replace))
    logs = "\n".join(
        f"{log.name}: {log.read_text()[-2000:]}" for log in sorted(tmp_path.glob("*.log"))
    )
    assert not problems, "\n\n".join([*problems, logs])
