"""An id may look like anything: it passes through unharmed, and harms nothing on its way."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from rich.console import Console

from stream_app.adapters.instruments import WorkerInstruments, process_registry
from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.cli.session import _describe
from stream_app.core.clicks import decode_click
from stream_app.core.codec import check_record, decode_state, encode_state
from stream_app.core.errors import BadRecordError
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.records import Recommendation
from stream_app.files.click_log import ClickLogWriter, read_window
from stream_app.services.archive import rows_of
from stream_app.settings import Settings
from stream_app.tools import live_view, sessions
from stream_app.tools.dead_letters import preview
from stream_app.tools.plain_text import printable
from stream_app.tools.sessions import KnownSession
from tests.doubles import FakeScorer, FixedPopularity
from tests.security.hostile import HOSTILE_IDS, HOSTILE_TEXTS
from tests.strategies import START_MS, Record, ids

TOPIC_ID = bytes(16)


def click_of(session_id: str, item_id: str, **more: Any) -> bytes:
    fields = {"session_id": session_id, "item_id": item_id, "event_time": START_MS, **more}
    return json.dumps(fields).encode()


def answered(session_id: str, item_id: str) -> tuple[Any, MemorySessions]:
    """What a worker whose model knows these very items says to two clicks, and what it keeps."""
    store = MemorySessions()
    known = list(dict.fromkeys([item_id, *HOSTILE_IDS]))
    records = [Record(0, click_of(session_id, item_id)), Record(1, click_of(session_id, item_id))]
    outcome = recommend_batch(
        records,
        store,
        FakeScorer("v1", known),
        FixedPopularity(known),
        ServingRules(),
        now_ms=START_MS,
    )
    return outcome, store


@pytest.mark.parametrize("text", HOSTILE_IDS)
def test_it_is_answered_and_comes_back_letter_by_letter(text: str) -> None:
    outcome, _ = answered(text, text)
    assert not outcome.dead_letters
    for answer in outcome.recommendations:
        import msgspec  # noqa: PLC0415

        read = json.loads(msgspec.json.encode(answer))
        assert read["session_id"] == text
        assert {item["item_id"] for item in read["items"]} <= set(HOSTILE_IDS)
        assert msgspec.json.decode(msgspec.json.encode(answer), type=Recommendation) == answer
    (state,) = outcome.states.values()
    record = encode_state(state, TOPIC_ID)
    assert check_record(record, TOPIC_ID) == 1
    assert decode_state(record)[0].recent_item_ids == (text, text)


@given(ids, ids)
def test_so_is_any_id_that_utf_8_can_carry(session_id: str, item_id: str) -> None:
    outcome, _ = answered(session_id, item_id)
    assert [answer.session_id for answer in outcome.recommendations] == [session_id] * 2


@pytest.mark.parametrize(
    "value",
    [
        click_of("x" * 1_000_000, "a"),
        click_of("s", "x" * 1_000_000),
        click_of("s", "é" * 257),
        b'{"session_id": "\\ud800", "item_id": "a", "event_time": 1764000000000}',
        b'{"session_id": "s", "item_id": "\xed\xa0\x80", "event_time": 1764000000000}',
    ],
    ids=["session of 1 MB", "item of 1 MB", "514 bytes", "half a pair", "half a pair in bytes"],
)
def test_what_no_session_can_keep_is_a_dead_letter_with_a_short_reason(value: bytes) -> None:
    with pytest.raises(BadRecordError) as caught:
        decode_click(value)
    assert len(str(caught.value)) < 300
    outcome = recommend_batch(
        [Record(0, value), Record(1, click_of("s", "b"))],
        MemorySessions(),
        None,
        FixedPopularity("ab"),
        ServingRules(),
        now_ms=START_MS,
    )
    (letter,) = outcome.dead_letters
    assert letter.value == value
    assert len(outcome.recommendations) == 1, "the neighbour is answered"


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_tools_print_it_as_text_that_cannot_steer_a_terminal(text: str) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=200, force_terminal=True, color_system=None)
    live_view.say(console, printable(text))
    shown = screen.getvalue() + printable(text) + preview(text.encode())
    assert not any(char in shown for char in "\x00\x07\x08\x1b\x7f\x9b\u202e\u200b\ufeff\r")
    if "markup" in text:
        assert "[bold red]markup[/bold red]" in shown, "not taken for markup"


@pytest.mark.parametrize("text", HOSTILE_IDS)
def test_a_session_of_such_items_is_described_line_by_line(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, _ = answered(text, text)
    (state,) = outcome.states.values()
    monkeypatch.setattr(sessions, "counted_items", lambda *_: [])
    monkeypatch.setattr(sessions, "vocabulary_of", lambda *_: HOSTILE_IDS)
    lines = list(_describe(KnownSession(0, text, state), Settings()))
    assert all(line.isprintable() for line in lines)
    assert lines[0] == f"session      {printable(text)}"


@pytest.mark.parametrize("text", HOSTILE_IDS)
def test_a_version_from_a_strangers_answer_is_printed_alike(text: str) -> None:
    assert live_view.version_label(text).isprintable()


def test_the_click_log_holds_it_and_names_no_file_by_it(tmp_path: Path) -> None:
    rows = [
        (n, START_MS, decode_click(click_of(text, text, event_id=text, user_id=text)))
        for n, text in enumerate(HOSTILE_IDS)
    ]
    root = tmp_path / "log"
    ClickLogWriter(root).write_range("clicks", 0, 0, len(rows) - 1, rows_of("clicks", 0, rows))
    read = pa.concat_tables(read_window(root))
    assert read["item_id"].to_pylist() == list(HOSTILE_IDS)
    assert read["session_id"].to_pylist() == list(HOSTILE_IDS)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {f"clicks-0-0-{len(rows) - 1}.1of1.parquet"}
    assert [path.name for path in tmp_path.iterdir()] == ["log"], "nothing beside it"


def test_no_metric_has_a_label_for_ids() -> None:
    """Labels are few and closed; the text of /metrics grows with none of what visitors send."""
    registry = process_registry()
    WorkerInstruments(registry)
    labels = {
        label
        for collector in registry._collector_to_names
        for label in getattr(collector, "_labelnames", ())
    }
    assert not any("session" in label or "item" in label or "user" in label for label in labels)
    assert "outcome" in labels, "labels were looked at"
