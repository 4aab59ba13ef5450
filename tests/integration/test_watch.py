"""`nextclick watch` beside a stream on a real broker."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer
from rich.console import Console

from stream_app.cli import program
from stream_app.core.errors import ServiceAwayError
from stream_app.settings import Settings, TopicSettings
from stream_app.tools.watch import watch
from tests.integration.processes import wait_until
from tests.stream_app.tools.numbers import Record, click, run_worker


class Wire:
    """Puts records of the doubles on the real topics."""

    def __init__(self, servers: str, topics: TopicSettings) -> None:
        self._producer = KafkaProducer(bootstrap_servers=servers)
        self._names = {
            "clicks": topics.clicks,
            "answers": topics.recommendations,
            "dead": topics.dead_letters,
        }

    def send(self, *records: Record) -> None:
        for record in records:
            headers = list(record.headers)
            topic = self._names[record.topic]
            self._producer.send(
                topic, value=record.value, partition=record.partition, headers=headers
            )
        self._producer.flush()

    def close(self) -> None:
        self._producer.close()


@pytest.fixture
def settings(kafka: Any, topics: Any) -> Settings:
    return Settings(kafka=kafka.settings, topics=topics)


def test_watch_shows_and_reports_what_happens_from_now_on(
    settings: Settings, tmp_path: Path
) -> None:
    # After an item the model offers the next three of the alphabet: b is a hit, g is none.
    log = [
        Record("clicks", 0, 0, click("x", "a", 0)),
        Record("clicks", 0, 1, click("x", "b", 1)),
        Record("clicks", 0, 2, click("x", "g", 2)),
        Record("clicks", 0, 3, b"{"),
    ]
    _, answers, letters, _ = run_worker(log, [0, 0, 0, 0])
    wire = Wire(settings.kafka.bootstrap_servers, settings.topics)
    stop, out, report = threading.Event(), io.StringIO(), tmp_path / "report.json"
    watching = threading.Thread(
        target=watch, args=(settings, Console(file=out), stop), kwargs={"report": report}
    )
    try:
        watching.start()
        # Until the watcher has found the ends of the topics: what came before is not its business.
        wait_until("a line of the watcher", lambda: "0 clicks, 0 answers" in out.getvalue())
        wire.send(*log, *answers, *letters)
        wait_until("the clicks are seen", lambda: "4 clicks, 3 answers" in out.getvalue())
    finally:
        stop.set()
        watching.join(20)
        wire.close()
    fields = json.loads(report.read_text())
    assert (fields["clicks"], fields["recommendations"]) == (4, 3)
    model = next(m for m in fields["models"] if m["version"] == "m2")
    assert (model["predictions"], model["hit_rate_20"], model["mrr_20"]) == (2, 0.5, 0.5)
    assert fields["models"][0]["version"] == "none"
    assert fields["latency_ms"] == {"p50": 0, "p99": 0}


def test_watch_ends_after_the_seconds_it_is_given(settings: Settings) -> None:
    topics = settings.topics
    result = CliRunner().invoke(
        program,
        [
            "watch",
            *("--seconds", "0.5", "--bootstrap-servers", settings.kafka.bootstrap_servers),
            *("--set", f"topics.clicks={topics.clicks}"),
            *("--set", f"topics.recommendations={topics.recommendations}"),
            *("--set", f"topics.dead_letters={topics.dead_letters}"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "0 clicks, 0 answers" in result.output


def test_watch_without_a_broker_says_so() -> None:
    result = CliRunner().invoke(program, ["watch", "--bootstrap-servers", "127.0.0.1:1"])
    assert isinstance(result.exception, ServiceAwayError)
    assert "no broker answers at 127.0.0.1:1" in str(result.exception)
