"""`nextclick session` against a real changelog."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer

from stream_app.cli import program
from stream_app.core.codec import encode_state
from stream_app.core.errors import ConfigurationError
from stream_app.core.ranking import hashes_of
from stream_app.core.records import ItemId, ScoredItem
from stream_app.core.session import SessionState
from stream_app.core.statistics_records import item_key
from stream_app.files.registry import Registry
from stream_app.settings import Settings
from stream_app.tools.sessions import read_sessions
from tests.bundles import make_bundle

TOPIC_ID = bytes(range(16))


def record(
    offset: int, *items: str, shown: tuple[str, ...] = (), version: str = "", model: str = ""
) -> bytes:
    state = SessionState(
        last_offset=offset,
        start_ms=1_700_000_000_000,
        last_event_ms=1_700_000_060_000,
        click_count=len(items),
        window_start_ms=1_700_000_000_000,
        window_clicks=1,
        recent_item_ids=tuple(map(ItemId, items)),
        shown_hashes=hashes_of([ScoredItem(item, 1.0, 1) for item in shown]),
        shown_model_version=version,
        model_version=model,
        model_state=b"\x00\x3c" if model else b"",
    )
    return encode_state(state, TOPIC_ID)


def write(servers: str, topic: str, *records: tuple[int, str, bytes | None]) -> None:
    producer = KafkaProducer(bootstrap_servers=servers)
    for partition, key, value in records:
        producer.send(topic, partition=partition, key=key.encode(), value=value)
    producer.flush()
    producer.close()


@pytest.fixture
def settings(kafka: Any, topics: Any, tmp_path: Path) -> Settings:
    return Settings(kafka=kafka.settings, topics=topics, registry=str(tmp_path / "registry"))


def test_the_highest_applied_offset_counts_and_a_tombstone_removes(settings: Settings) -> None:
    write(
        settings.kafka.bootstrap_servers,
        settings.topics.sessions,
        (0, "late-copy", record(7, "a", "b")),
        (0, "late-copy", record(5, "a")),
        (1, "gone", record(3, "a")),
        (1, "gone", None),
        (1, "back", record(9, "a")),
        (1, "back", None),
        (1, "back", record(4, "c")),
        (2, "damaged", record(1, "a")),
        (2, "damaged", b"\xff\x00"),
    )
    table = read_sessions(settings.kafka, settings.topics.sessions)
    offsets = {known.session_id: known.state.last_offset for known in table}
    assert offsets == {"late-copy": 7, "back": 4, "damaged": 1}
    assert table.unreadable == 1


def run(settings: Settings, *arguments: str) -> Any:
    topics = settings.topics
    return CliRunner().invoke(
        program,
        [
            "session",
            *arguments,
            *("--bootstrap-servers", settings.kafka.bootstrap_servers),
            *("--registry", settings.registry),
            *("--set", f"topics.sessions={topics.sessions}"),
            *("--set", f"topics.statistics={topics.statistics}"),
        ],
    )


def test_a_session_is_described_with_the_items_it_was_shown(
    settings: Settings, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "made", ids=["red tent", "blue tent"], units=4, seed=1)
    version = Registry(settings.registry).publish(bundle)
    servers = settings.kafka.bootstrap_servers
    shown = ("blue tent", "counted item", "forgotten item")
    value = record(11, "red tent", "esc\x1b[2J", shown=shown, version=version, model=version)
    write(servers, settings.topics.sessions, (3, "visitor-1", value))
    write(
        servers,
        settings.topics.statistics,
        (0, item_key("counted item").decode(), b"any record"),
    )
    result = run(settings, "visitor-1")
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines()]
    assert "partition    3 (last click applied: offset 11)" in lines
    assert "first event  2023-11-14 22:13:20.000 UTC" in lines
    assert f"model        {version}" in lines
    recent = lines.index("recent items (2, oldest first)")
    assert lines[recent + 1 : recent + 3] == ["red tent", "esc·[2J"]
    first = lines.index(f"last shown   by model {version}, best first")
    assert lines[first + 1 : first + 3] == ["1  blue tent", "2  counted item"]
    assert lines[first + 3].startswith("3  unresolved (")


def test_the_export_has_a_line_for_each_session(settings: Settings, tmp_path: Path) -> None:
    servers, topic = settings.kafka.bootstrap_servers, settings.topics.sessions
    write(servers, topic, (1, "b", record(5, "x", "y", model="m1")), (0, "ü", record(2, "z")))
    file = tmp_path / "sessions.jsonl"
    result = run(settings, "--export", str(file))
    assert result.exit_code == 0, result.output
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {
            "session_id": "ü",
            "clicks": 1,
            "recent_items": ["z"],
            "partition": 0,
            "last_offset": 2,
            "model_version": None,
        },
        {
            "session_id": "b",
            "clicks": 2,
            "recent_items": ["x", "y"],
            "partition": 1,
            "last_offset": 5,
            "model_version": "m1",
        },
    ]
    assert list(tmp_path.glob(".sessions*")) == []


def test_an_unknown_session_and_an_unwritable_file_are_said(
    settings: Settings, tmp_path: Path
) -> None:
    missing = run(settings, "nobody")
    assert isinstance(missing.exception, ConfigurationError)
    assert "no session nobody" in str(missing.exception)
    unwritable = run(settings, "--export", str(tmp_path / "no" / "file"))
    assert isinstance(unwritable.exception, ConfigurationError)
    assert "give another file" in str(unwritable.exception)
