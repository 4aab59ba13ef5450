"""Everything works through SCRAM over TLS and through mutual TLS, and says clearly where it may not in."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_app.adapters.local_kafka import HOST
from stream_app.cli.options import settings_as_flags
from stream_app.core.errors import ServiceAwayError
from stream_app.files.click_log import list_files
from stream_app.settings import KafkaSettings, Settings, TopicSettings
from tests.integration.processes import NextclickProcess, wait_until
from tests.security.secured import PASSWORD, SecuredKafka, secured_kafka

VARIABLE = "NEXTCLICK_KAFKA__SASL_PASSWORD"
REPOSITORY = Path(__file__).parents[2]
SERVICES = ("worker", "archive", "statistics")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    directory = tmp_path_factory.mktemp("secured")
    try:
        stack = ExitStack()
        secured = stack.enter_context(secured_kafka(directory))
    except ServiceAwayError as error:
        if "could not be fetched" in str(error) and not os.environ.get("CI"):
            pytest.skip(f"needs a real Kafka: {error}")
        raise
    with stack:
        yield secured


def settings_for(kafka: KafkaSettings, directory: Path) -> Settings:
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    names = ("clicks", "recommendations", "dead_letters", "releases", "sessions", "statistics")
    return Settings(
        kafka=kafka.model_copy(update={"group_id": prefix}),
        topics=TopicSettings(**{n: f"{prefix}.{n}" for n in names}, partitions=2),
        registry=str(directory / "registry"),
        click_log=str(directory / "click-log"),
        data_dir=directory / "worker",
    )


def test_services_and_tools_work_with_scram_over_tls(broker: SecuredKafka, tmp_path: Path) -> None:
    """A click goes in and an answer comes out; no process shows the password, or listens to strangers."""
    settings = settings_for(broker.sasl, tmp_path)
    clicks = tmp_path / "clicks.jsonl"
    clicks.write_text(
        "".join(
            json.dumps({"session_id": "s1", "item_id": f"i{n}", "event_time": 1764000000000 + n})
            + "\n"
            for n in range(3)
        )
        + json.dumps({"session_id": "s2", "item_id": "i0", "event_time": 1764000000000})
        + "\n"
    )
    said = [run(settings, "topics", "create"), run(settings, "topics", "check")]
    with ExitStack() as stack:
        stack.callback(os.umask, os.umask(0))  # what a careless supervisor sets
        services = {
            name: stack.enter_context(NextclickProcess(name, settings, tmp_path))
            for name in SERVICES
        }
        said.append(run(settings, "replay", str(clicks), "--speed", "max"))
        ports = {name: _metrics_port(process) for name, process in services.items()}
        worker = services["worker"]
        wait_until(
            "every click is answered",
            lambda: (
                worker.metrics(ports["worker"]).get('nextclick_clicks_total{outcome="recommended"}')
                == 4.0
            ),
        )
        for name, process in services.items():
            listening = [c.laddr.ip for c in connections(process.process.pid, listening=True)]
            assert listening == [HOST], f"{name}: /metrics, and nothing else"
            assert PASSWORD not in str(process.metrics(ports[name]))
            assert PASSWORD not in " ".join(psutil.Process(process.process.pid).cmdline())
        assert {c.laddr.ip for c in connections(broker.broker_pid, listening=True)} <= {
            HOST,
            f"::ffff:{HOST}",
        }
        tools: list[tuple[str, ...]] = [
            ("session", "s1"),
            ("doctor",),
            ("models", "list"),
            ("dead-letters", "list"),
            ("watch", "--seconds", "1"),
        ]
        with ThreadPoolExecutor(2) as pool:
            said += pool.map(lambda command: run(settings, *command), tools)
        assert "clicks       3" in said[-5].stdout
        assert "broker: 1 broker" in said[-4].stdout
        erase = tmp_path / "erase.jsonl"
        erase.write_text(
            '{"session_id": "s1", "event_type": "erase", "event_time": 1764000000009}\n'
        )
        said.append(run(settings, "replay", str(erase), "--speed", "max"))
        wait_until(
            "the session is erased",
            lambda: worker.metrics(ports["worker"]).get(
                'nextclick_clicks_total{outcome="ignored_erased"}'
            ),
        )
        said.append(run(settings, "session", "s1", status=2))
        assert "erased" in said[-1].stderr
        for process in services.values():
            process.process.send_signal(signal.SIGTERM)
        assert [p.process.wait(30) for p in services.values()] == [0, 0, 0]
        assert kept_of("s1", tmp_path / "click-log") == ["view_item"] * 3 + ["erase"]
        said.append(run(settings, "archive", "--compact"))
        assert kept_of("s1", tmp_path / "click-log") == ["erase"], (
            "that there was nothing before it"
        )
        assert kept_of("s2", tmp_path / "click-log") == ["view_item"]
        assert {mode & 0o077 for mode in modes_in(tmp_path / "worker")} == {0}
        assert {mode & 0o022 for mode in modes_in(tmp_path / "click-log")} == {0}
        for text in [*(p.log for p in services.values()), *(s.stdout + s.stderr for s in said)]:
            assert PASSWORD not in text
            assert "word\\" not in text, "nor as JSON writes it"


@pytest.mark.parametrize("command", ["worker", "archive", "statistics", "doctor"])
def test_a_wrong_password_and_an_unknown_authority_end_it_with_a_reason(
    broker: SecuredKafka, tmp_path: Path, command: str
) -> None:
    wrong = broker.sasl.model_copy(update={"sasl_password_file": None})
    untrusting = broker.sasl.model_copy(update={"ssl_cafile": broker.stranger})
    with ThreadPoolExecutor(2) as pool:
        refused, distrusted = pool.map(
            lambda kafka: run(
                settings_for(kafka, tmp_path), command, password="another one", status=69
            ),
            (wrong, untrusting),
        )
    assert "refused our credentials" in refused.stdout + refused.stderr
    assert "another one" not in refused.stdout + refused.stderr
    assert "kafka.ssl_cafile" in distrusted.stdout + distrusted.stderr


def test_certificates_both_ways_work_and_without_one_there_is_no_way_in(
    broker: SecuredKafka, tmp_path: Path
) -> None:
    settings = settings_for(broker.mutual, tmp_path)
    run(settings, "topics", "create")
    with NextclickProcess("worker", settings, tmp_path) as worker:
        worker.wait_for_event("worker_started")
        assert worker.terminate() == 0
    nameless = broker.mutual.model_copy(update={"ssl_certfile": None, "ssl_keyfile": None})
    refused = run(settings_for(nameless, tmp_path), "topics", "check", status=69)
    assert "kafka.ssl_certfile" in refused.stderr


def kept_of(session_id: str, click_log: Path) -> list[str]:
    """Types of the events that the files hold of a session, erased or not."""
    tables = [
        pq.read_table(file.path, partitioning=None) for file in list_files(click_log).complete
    ]
    rows = sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row["offset"])
    return [row["event_type"] for row in rows if row["session_id"] == session_id]


def modes_in(directory: Path) -> list[int]:
    return [path.stat().st_mode for path in [directory, *directory.rglob("*")]]


def connections(pid: int, *, listening: bool) -> list[Any]:
    found = psutil.Process(pid).net_connections("inet")
    return [c for c in found if (c.status == psutil.CONN_LISTEN) == listening]


def run(
    settings: Settings, *command: str, password: str | None = None, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """`nextclick COMMAND`, with the password in a variable where one is given."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCLICK_")}
    if password is not None:
        environment[VARIABLE] = password
    ended = subprocess.run(
        [sys.executable, "-m", "stream_app", *command, *settings_as_flags(settings)],
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ended.returncode == status, f"{command}: {ended.stdout}{ended.stderr}"[-3000:]
    return ended


def _metrics_port(process: NextclickProcess) -> int:
    """Found where it listens, since each says so in an event of its own."""
    found = wait_until(
        "it listens", lambda: connections(process.process.pid, listening=True), seconds=60
    )
    return int(found[0].laddr.port)
