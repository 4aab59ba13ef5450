"""What earlier versions wrote must be read for ever, and what we write must be what they can read.

`tests/golden/session_record_v1.json` was checked by hand against the table at the top of
`stream_app/core/codec.py`.  It never changes; a version 2 gets a file of its own.
"""

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.core.codec import applied_offset, decode_state, encode_state
from stream_app.core.records import ClickSource, Recommendation, ScoredItem
from stream_app.core.session import SessionState

GOLDEN = Path(__file__).parents[2] / "golden"
SESSION_RECORDS = json.loads((GOLDEN / "session_record_v1.json").read_bytes())


def _state(fields: dict[str, Any]) -> SessionState:
    unhexed = {name: bytes.fromhex(fields[name]) for name in ("shown_hashes", "model_state")}
    lists = {name: tuple(fields[name]) for name in ("recent_item_ids", "recent_event_hashes")}
    return SessionState(**{**fields, **unhexed, **lists})


@pytest.mark.parametrize("golden", SESSION_RECORDS, ids=lambda golden: golden["name"])
def test_a_session_record_of_version_1_reads_as_it_was_meant(golden: dict[str, Any]) -> None:
    record = bytes.fromhex(golden["record"])
    expected = _state(golden["state"])
    assert decode_state(record) == (expected, bytes.fromhex(golden["topic_id"]))
    assert applied_offset(record) == expected.last_offset


@pytest.mark.parametrize("golden", SESSION_RECORDS, ids=lambda golden: golden["name"])
def test_a_session_record_of_version_1_is_written_byte_for_byte(golden: dict[str, Any]) -> None:
    written = encode_state(_state(golden["state"]), bytes.fromhex(golden["topic_id"]))
    assert written.hex() == golden["record"]


def test_the_golden_records_follow_the_table_in_the_codecs_docstring() -> None:
    """Read once more by hand, so that golden bytes and code cannot be wrong together."""
    golden = next(g for g in SESSION_RECORDS if g["name"] == "under a model, with event ids")
    record, at = bytes.fromhex(golden["record"]), 0

    def take(fmt: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + fmt, record, at)
        at += struct.calcsize("<" + fmt)
        return value

    assert take("B") == 1  # version
    assert take("16s") == bytes(range(16))  # topic id
    assert take("q") == 123_456_789_012  # last offset
    assert take("q") == 1_764_000_000_000  # start
    assert take("I") == 600_123  # last event, after the start
    assert take("I") == 7  # clicks
    assert take("I") == 540_000  # window, after the start
    assert take("H") == 2  # clicks in the window
    assert [take("B") for _ in range(5)] == [3, 3, 2, 21, 255]  # items, events, shown, versions
    assert take("H") == 8  # bytes of model state
    at += 2 * 4  # shown
    assert [take("Q") for _ in range(3)] == [0x40F4FF5515E5D1B, 2**64 - 1, 0]
    assert take("21s") == b"20261124T111132Z-3f2a"
    for item_id in (b"214530001", b"214530002", b"214530001"):
        assert take("B") == 9
        assert take("9s") == item_id
    assert [take("e") for _ in range(4)] == [0.5, -1.25, 0.0, 65504.0]
    assert at == len(record)


RECOMMENDATIONS = [
    Recommendation(
        recommendation_id="nextclick.clicks.v1-3-1234",
        session_id='séssion "1"',
        event_id="e-1",
        source=ClickSource("nextclick.clicks.v1", 3, 1234),
        model_version="20261124T111132Z-3f2a",
        statistics_version=17,
        generated_at="2026-11-24T11:12:13.456Z",
        latency_ms=8,
        items=[
            ScoredItem("sku-1", 4.5679, 1),
            ScoredItem("sku/2", -0.00012346, 2),
            ScoredItem("3", 12346.0, 3),
        ],
        fallback=None,
    ),
    Recommendation(
        recommendation_id="c-0-0",
        session_id="s",
        source=ClickSource("c", 0, 0),
        model_version=None,
        statistics_version=None,
        generated_at="2026-11-24T11:12:13.456Z",
        latency_ms=0,
        items=[],
        fallback="no_model",
    ),
]


def test_recommendations_are_written_as_the_shop_expects_them() -> None:
    lines = (GOLDEN / "recommendations.jsonl").read_bytes().splitlines()
    assert [msgspec.json.encode(r) for r in RECOMMENDATIONS] == lines
    assert [msgspec.json.decode(line, type=Recommendation) for line in lines] == RECOMMENDATIONS


def test_a_recommendation_is_plain_json_with_the_contracts_fields() -> None:
    first = json.loads((GOLDEN / "recommendations.jsonl").read_bytes().splitlines()[0])
    assert set(first) == {
        "recommendation_id",
        "session_id",
        "event_id",
        "source",
        "model_version",
        "statistics_version",
        "generated_at",
        "latency_ms",
        "items",
        "fallback",
    }
    assert first["source"] == {"topic": "nextclick.clicks.v1", "partition": 3, "offset": 1234}
    assert first["items"][1] == {"item_id": "sku/2", "score": -0.00012346, "rank": 2}
